"""All that knows ComfyUI's machinery: model folders, device and memory, progress, interrupts.

Serves every ComfyUI from 0.3.64 on; what a newer one has is looked up here, never in the nodes.
"""

import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy import model_management
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from . import rife

OWN_FOLDER, CORE_FOLDER = "rife", "frame_interpolation"
RECOMMENDED = "rife_v4.26.safetensors"
SOURCE = "https://huggingface.co/Comfy-Org/frame_interpolation"
SECONDS_BETWEEN_PREVIEWS = 0.3


def known(maker: Callable, **options: Any) -> dict[str, Any]:
    """Those of the options that this ComfyUI's `maker` takes."""
    accepted = inspect.signature(maker).parameters
    return {name: value for name, value in options.items() if name in accepted}


def register_model_folders() -> None:
    """Make models/rife and models/frame_interpolation known, beside what the user's
    extra_model_paths.yaml names for them."""
    for folder in (OWN_FOLDER, CORE_FOLDER):
        folder_paths.folder_names_and_paths.setdefault(folder, ([], set(rife.EXTENSIONS)))
        folder_paths.add_model_folder_path(folder, os.path.join(folder_paths.models_dir, folder))


def model_names() -> list[str]:
    """The model files at hand; those of core's folder carry its name, so that two never collide.

    Without any, the name of one to get: a loader with an empty list could not even be run to
    learn what is missing.
    """
    own, core = (
        folder_paths.filter_files_extensions(
            folder_paths.get_filename_list(folder), rife.EXTENSIONS
        )
        for folder in (OWN_FOLDER, CORE_FOLDER)
    )
    return own + [f"{CORE_FOLDER}/{name}" for name in core] or [RECOMMENDED]


def model_path(name: str) -> Path:
    """The file that an entry of `model_names` stands for."""
    path = folder_paths.get_full_path(OWN_FOLDER, name)
    if path is None and name.startswith(f"{CORE_FOLDER}/"):
        path = folder_paths.get_full_path(CORE_FOLDER, name.removeprefix(f"{CORE_FOLDER}/"))
    if path is None:
        raise FileNotFoundError(
            f'There is no RIFE model "{name}". Put a model file into the folder '
            f"{folder_paths.get_folder_paths(OWN_FOLDER)[0]}, for example {RECOMMENDED} from "
            f"{SOURCE}, then press R to refresh the list, and choose it."
        )
    return Path(path)


def fingerprint(name: str | None) -> str:
    """Changes when the file behind a model name does. None: a name that comes over a link."""
    if name is None:
        return ""
    path = model_path(name)
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


class RIFE(nn.Module):
    """A network as ComfyUI holds it: the patcher writes its own notes (`device`, sizes, ...) onto
    the module it is given, where they could clash with the network's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def load_model(name: str) -> ModelPatcher:
    """Load a model for ComfyUI to move between its devices, in the dtype that suits them."""
    device = model_management.get_torch_device()
    offload_device = model_management.unet_offload_device()
    dtype = torch.float16 if model_management.should_use_fp16(device) else torch.float32
    network = rife.load_model(model_path(name), device=offload_device, dtype=dtype)
    # Looked up late: on start ComfyUI replaces the class by one with dynamic memory.
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    return patcher(RIFE(network), load_device=device, offload_device=offload_device)


@contextmanager
def running(model: ModelPatcher, images: Tensor) -> Iterator[nn.Module]:
    """The network on its device, with memory for one pair of images (N, H, W, C) beside it."""
    network = model.model.network
    model_management.load_models_gpu(
        [model], memory_required=network.memory_needed(*images.shape[1:]), force_full_load=True
    )
    # Short of memory (--novram) ComfyUI leaves behind all layers that aren't its own.
    network.to(model.load_device)
    try:
        yield network
    finally:
        model_management.soft_empty_cache()


def empty_images(like: Tensor, frames: int) -> Tensor:
    """An uninitialised IMAGE of so many frames, where and as ComfyUI wants what nodes return."""
    dtype = getattr(model_management, "intermediate_dtype", lambda: like.dtype)()
    device = model_management.intermediate_device()
    return torch.empty((frames, *like.shape[1:]), dtype=dtype, device=device)


def stop_if_interrupted() -> None:
    """Raise what ends the run if the user asked for it."""
    model_management.throw_exception_if_processing_interrupted()


@contextmanager
def progress() -> Iterator[Callable[[int, int, Tensor], None]]:
    """A progress callback for `rife.interpolate`: the node's bar and preview, and the console's."""
    node_bar = comfy.utils.ProgressBar(0)
    previewed = float("-inf")

    with tqdm(desc="RIFE", unit="frame") as console_bar:

        def report(done: int, total: int, frame: Tensor) -> None:
            nonlocal previewed
            console_bar.total = total
            console_bar.update(done - console_bar.n)
            preview = None
            if time.monotonic() - previewed >= SECONDS_BETWEEN_PREVIEWS:
                preview = ("JPEG", _thumbnail(frame, args.preview_size), args.preview_size)
                previewed = time.monotonic()
            node_bar.update_absolute(done, total, preview)

        yield report


def _thumbnail(frame: Tensor, side: int) -> Image.Image:
    """A cheap preview of a frame (H, W, C), under 2 * side pixels long."""
    step = max(1, max(frame.shape[:2]) // side)
    small = frame[::step, ::step, :3].float().clamp(0, 1).mul(255).byte().cpu()
    return Image.fromarray(small.expand(-1, -1, 3).numpy())
