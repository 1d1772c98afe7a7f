"""Networks as ComfyUI holds them: it moves them between devices and makes room for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_patcher
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .. import rife
from ..rife.inference.cuda_pipeline import idle_pipelines
from ..rife.models.zoo import DEFAULT
from .model_files import find_or_download_model, model_names

PRECISIONS = ("auto", "float32", "float16", "bfloat16")
#: A run leaves buffers and graphs on the device for the next run, unless less than this share of
#: the device's memory is free after it.
MIN_FREE_SHARE = 1 / 4
#: ComfyUI's name for the moment after it has unloaded a model, because others need the memory.
ON_DETACH = "on_detach_after"


class RIFE(nn.Module):
    """A network inside the module that ComfyUI's model patcher gets.

    The patcher sets attributes of its own (`device`, sizes, ...) on its module, where they could
    clash with the network's. This module also has what core's "Run Frame Interpolation Model" asks
    of its models.
    """

    def __init__(self, network: rife.Network) -> None:
        super().__init__()
        self.network = network
        self.pad_align = network.side_multiple()

    def get_dtype(self) -> torch.dtype:
        return self.network.dtype

    def memory_used_forward(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Returns the bytes that one pair of images takes; shape: (N, H, W, C)."""
        return self.network.memory_needed(*shape[1:])

    def extract_features(self, image: Tensor) -> None:
        """Returns nothing: no features of an image are kept for the next pair."""

    def forward(self, image0: Tensor, image1: Tensor, timestep: Tensor, cache: Any) -> Tensor:
        """Returns the images (B, 3, H, W) between two batches of images.

        Args:
            image0: (B, 3, H, W) in [0, 1].
            image1: Likewise.
            timestep: (B, 1, H, W), one for each image.
            cache: Unused.

        Raises:
            ValueError: The network can't interpolate at these timesteps.
        """
        timestep = timestep[:, :, :1, :1].float()
        if not self.network.any_timestep and (timestep != 0.5).any():
            raise ValueError(
                f"{self.network.version} makes the frame halfway only; use RIFE Frame Interpolate, "
                "which reaches others from there, or multiplier 2"
            )
        return self.network(image0.float(), image1.float(), timestep).to(image0.dtype)


def load_model(name: str, precision: str) -> ModelPatcher:
    """Loads a model for ComfyUI to move between its devices; downloads it first if it is missing.

    Args:
        name: As in `model_names`.
        precision: One of PRECISIONS; "auto" is what ComfyUI considers the device good at.

    Raises:
        OSError: There is no such model, or the download failed.
        ValueError: The file is no RIFE model.
    """
    device = model_management.get_torch_device()
    offload_device = model_management.unet_offload_device()
    if precision == "auto":
        precision = "float16" if model_management.should_use_fp16(device) else "float32"
    dtype = rife.usable_dtype(getattr(torch, precision), device)
    path = find_or_download_model(name)
    network = rife.load_model(path, device=offload_device, dtype=dtype)
    # Looked up at each call: when ComfyUI starts, it replaces the class by one with dynamic memory.
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    model = patcher(RIFE(network), load_device=device, offload_device=offload_device)
    model.add_callback(ON_DETACH, lambda *_: idle_pipelines.release(network))
    return model


def resolve_model(model: ModelPatcher | str | None) -> ModelPatcher:
    """Returns the model that a node's input stands for.

    Args:
        model: A connected model; in prompts also the name of a file, as `model_names` has it or
            without its extension; None stands for the default model.
    """
    if isinstance(model, ModelPatcher):
        return model
    name = model or DEFAULT
    files = (file for file in model_names() if name in (file, Path(file).stem))
    return load_model(next(files, name), "auto")


def network_of(model: ModelPatcher) -> rife.Network:
    """Returns the network of our model, or one with the tensors of a model that core loaded.

    Raises:
        ValueError: The model is not RIFE.
    """
    if isinstance(model.model, RIFE):
        return model.model.network
    try:
        return rife.network_from_state_dict(model.model.state_dict())
    except rife.CheckpointError as error:
        raise ValueError(
            f"The connected {type(model.model).__name__} can't be used here ({error}). Connect "
            "Load RIFE Model, or run it with Run Frame Interpolation Model."
        ) from None


@contextmanager
def network_on_device(
    model: ModelPatcher, height: int, width: int, channels: int = 3
) -> Iterator[rife.Network]:
    """Yields the model's network on its device, with memory for one pair of such images beside it.

    If the device is nearly full when the block ends, frees the buffers that the run left on it.
    """
    network = network_of(model)
    weights = sum(parameter.nbytes for parameter in network.parameters())  # the engine has its own
    needed = network.memory_needed(height, width, channels) + weights
    model_management.load_models_gpu([model], memory_required=needed, force_full_load=True)
    # With --novram ComfyUI leaves all layers behind that aren't of its own classes.
    network.to(model.load_device)
    try:
        yield network
    finally:
        device = model.load_device
        min_free = MIN_FREE_SHARE * model_management.get_total_memory(device)
        if model_management.get_free_memory(device) < min_free:
            idle_pipelines.release(network)
        model_management.soft_empty_cache()
