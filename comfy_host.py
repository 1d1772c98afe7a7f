"""All that knows ComfyUI's machinery: model folders, device and memory, progress, interrupts.

Serves every ComfyUI from 0.3.64 on; what a newer one has is looked up here, never in the nodes.
"""

import inspect
import logging
import math
import os
import reprlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import wraps
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_patcher
import comfy.utils
import folder_paths
import psutil
import torch
from comfy import model_management
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import ComfyAPI, Input, InputImpl, Types, io
from PIL import Image
from server import PromptServer
from torch import Tensor, nn
from tqdm import tqdm

import nodes as comfy_nodes

from . import rife
from .rife.console import printable
from .rife.fileio import plain_errors
from .rife.inference.cuda_backend import cards
from .rife.inference.malloc import empty
from .rife.media.base import ClipInfo, to_uint8
from .rife.models.download import fetch
from .rife.models.zoo import DEFAULT, ZOO

#: Where models are looked for, in this order.
OWN, CORE, PACK = FOLDERS = ("rife", "frame_interpolation", "ComfyUI-Frame-Interpolation")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
SECONDS_BETWEEN_PREVIEWS = 0.3
#: Of the device's memory: where less is free after a run, nothing stays there for the next one.
SHARE_TO_KEEP = 1 / 4
#: ComfyUI's name for the moment when it has unloaded a model, as it does where others need memory:
#: then what a run left there goes, too.
ON_DETACH = "on_detach_after"
_IMAGE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def known(maker: Callable, **options: Any) -> dict[str, Any]:
    """Those of the options that this ComfyUI's `maker` takes."""
    accepted = inspect.signature(maker).parameters
    return {name: value for name, value in options.items() if name in accepted}


class _Rule(NamedTuple):
    """What the values of a type of input must be; both functions take the input's schema."""

    describe: Callable[[io.Input], str]
    is_valid: Callable[[io.Input, Any], bool]
    #: Makes of a valid value what nodes work with: a whole number may come as 2.0.
    convert: Callable[[Any], Any] = lambda value: value


def _is_number(entry: io.Input, value: Any) -> bool:
    return (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and entry.min <= value <= entry.max  # neither is NaN
    )


def _is_pixels(value: Any, dimensions: int) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype in _IMAGE_DTYPES
        and value.layout == torch.strided
        and value.ndim == dimensions
        and 0 not in value.shape
    )


_RULES = {
    "INT": _Rule(
        lambda entry: f"a whole number from {entry.min} to {entry.max}",
        lambda entry, value: _is_number(entry, value) and value % 1 == 0,
        int,
    ),
    "FLOAT": _Rule(
        lambda entry: f"a number from {entry.min:g} to {entry.max:g}",
        _is_number,
        float,
    ),
    "BOOLEAN": _Rule(
        lambda entry: "true or false",
        lambda entry, value: isinstance(value, bool),
    ),
    "COMBO": _Rule(
        lambda entry: f"one of {', '.join(entry.options)}",
        lambda entry, value: isinstance(value, str) and value in entry.options,
    ),
    "IMAGE": _Rule(
        lambda entry: (
            "one or more images: floats of (frames, height, width, channels), 1, 3 or 4 channels"
        ),
        lambda entry, value: _is_pixels(value, 4) and value.shape[3] in (1, 3, 4),
    ),
    "MASK": _Rule(
        lambda entry: "one or more masks: floats of (frames, height, width)",
        lambda entry, value: value is None or _is_pixels(value, 3),
    ),
    "VIDEO": _Rule(
        lambda entry: "a video, such as Load Video's",
        lambda entry, value: isinstance(value, Input.Video),
    ),
    "INTERP_MODEL": _Rule(
        lambda entry: "a model, such as Load RIFE Model's",
        lambda entry, value: value is None or isinstance(value, ModelPatcher | str),
    ),
}


def check_value(entry: io.Input, value: Any) -> Any:
    """Hold a value against the schema of its input.

    Returns:
        The value, as nodes work with it.

    Raises:
        ValueError: The schema rules it out; the message says what it must be.
    """
    rule = _RULES[entry.get_io_type()]
    if not rule.is_valid(entry, value):
        raise ValueError(f"{entry.id} is {_describe(value)}, but must be {rule.describe(entry)}.")
    return rule.convert(value)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} of {tuple(value.shape)}" if value.numel() else "empty"
    if value is None or isinstance(value, str | Real):
        return reprlib.repr(value)
    return f"a {type(value).__name__}"


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Have a node's `execute` hold its values against the node's schema, and its errors be lines.

    ComfyUI does the first with what is typed into a node, but not with what comes over a link.
    Inputs that the node's `validate_inputs` names are left to the node, as ComfyUI leaves them. The
    names of files in errors may hold anything.
    """

    @wraps(execute)
    def execute_checked(node: type[io.ComfyNode], *values: Any, **named: Any) -> io.NodeOutput:
        inputs = node.define_schema().inputs
        named |= {entry.id: value for entry, value in zip(inputs, values, strict=False)}
        own = inspect.signature(node.validate_inputs).parameters
        for entry in inputs:
            if entry.id in named and entry.id not in own:
                named[entry.id] = check_value(entry, named[entry.id])
        try:
            return execute(node, **named)
        except (OSError, ValueError) as error:
            # Python's own types: the page puts the type before the message, ours with a long path.
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(printable(str(error))) from error

    return execute_checked


def register_model_folders() -> None:
    """Make models/rife, models/frame_interpolation and the folder of ComfyUI-Frame-Interpolation,
    if that is installed, known, beside what the user's extra_model_paths.yaml names for them."""
    folders = [(folder, os.path.join(folder_paths.models_dir, folder)) for folder in (OWN, CORE)]
    for custom_nodes in map(Path, folder_paths.get_folder_paths("custom_nodes")):
        folders += [
            (PACK, str(pack / "ckpts" / "rife"))
            for pack in custom_nodes.glob("*")
            if pack.name.lower() == PACK.lower()
        ]
    for folder, path in folders:
        folder_paths.folder_names_and_paths.setdefault(folder, ([], set(rife.EXTENSIONS)))
        folder_paths.add_model_folder_path(folder, path)


def model_names() -> list[str]:
    """The model files at hand, then the published ones to download.

    A name is plain, so that it stays the same wherever the file is and before it is downloaded;
    where folders share one, a file of a later folder carries its folder's name too.
    """
    names: list[str] = []
    for folder in FOLDERS:
        if folder in folder_paths.folder_names_and_paths:
            files = folder_paths.filter_files_extensions(
                folder_paths.get_filename_list(folder), rife.EXTENSIONS
            )
            names += [f"{folder}/{file}" if file in names else file for file in files]
    return names + [name for name in ZOO if name not in names]


def find_model(name: str) -> Path | None:
    """The file that an entry of `model_names` stands for; None: it is still to be downloaded.

    Raises FileNotFoundError for what is neither, and for what is no name at all.
    """
    if not isinstance(name, str):
        raise FileNotFoundError(
            f"model_name is {_describe(name)}, but must be a model's name, such as {DEFAULT}."
        )
    plain = [(folder, name) for folder in FOLDERS]
    prefixed = [(folder, name.removeprefix(f"{folder}/")) for folder in FOLDERS]
    for folder, file in plain + prefixed:
        if path := folder_paths.get_full_path(folder, file):
            return Path(path)
    if name in ZOO:
        return None
    raise FileNotFoundError(
        f'There is no RIFE model "{name}". Choose another one, such as {DEFAULT}, which is '
        f"downloaded where it is missing; or put the file into the folder {_own_folder()} and "
        "press R to refresh the list."
    )


def _own_folder() -> str:
    return folder_paths.get_folder_paths(OWN)[0]


#: By the state of a downloaded file, the fingerprint that its name had before: the run that
#: downloaded a model counts as one with it, and ComfyUI need not repeat it.
_before_download: dict[str, str] = {}


def fingerprint(name: str | None) -> str:
    """Changes when the file behind a model name does. None: a name that comes over a link, which
    is unknown yet (or null, which can't be told apart here)."""
    if name is None:
        return ""
    path = find_model(name)
    if path is None:
        return name
    return _before_download.get(_state(path), _state(path))


def _state(path: Path) -> str:
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _download(name: str) -> Path:
    """Get a published model into our folder, with its progress shown in bytes."""
    with progress(desc=name, unit="B", unit_scale=True) as report:
        path = fetch(ZOO[name], _own_folder(), report, stop_if_interrupted)
    _before_download[_state(path)] = name
    return path


class RIFE(nn.Module):
    """A network as ComfyUI holds it: the patcher writes its own notes (`device`, sizes, ...) onto
    the module it is given, where they could clash with the network's. It answers what core's "Run
    Frame Interpolation Model" asks of its models."""

    def __init__(self, network: rife.Network) -> None:
        super().__init__()
        self.network = network
        self.pad_align = network.side_multiple()

    def get_dtype(self) -> torch.dtype:
        return self.network.dtype

    def memory_used_forward(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """shape: (N, H, W, C)."""
        return self.network.memory_needed(*shape[1:])

    def extract_features(self, image: Tensor) -> None:
        """Nothing that is kept from pair to pair."""

    def forward(self, image0: Tensor, image1: Tensor, timestep: Tensor, cache: Any) -> Tensor:
        """image0, image1: (B, 3, H, W) in [0, 1]; timestep: (B, 1, H, W), one for each image."""
        timestep = timestep[:, :, :1, :1].float()
        if not self.network.any_timestep and (timestep != 0.5).any():
            raise ValueError(
                f"{self.network.version} makes the frame halfway only; use RIFE Frame Interpolate, "
                "which reaches others from there, or multiplier 2"
            )
        return self.network(image0.float(), image1.float(), timestep).to(image0.dtype)


def load_model(name: str, precision: str) -> ModelPatcher:
    """Load a model for ComfyUI to move between its devices, downloaded first where it is missing.

    precision: of PRECISIONS; "auto" is what ComfyUI thinks that the device is good at.
    """
    device = model_management.get_torch_device()
    offload_device = model_management.unet_offload_device()
    if precision == "auto":
        precision = "float16" if model_management.should_use_fp16(device) else "float32"
    dtype = rife.usable_dtype(getattr(torch, precision), device)
    path = find_model(name) or _download(name)
    network = rife.load_model(path, device=offload_device, dtype=dtype)
    # Looked up late: on start ComfyUI replaces the class by one with dynamic memory.
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    model = patcher(RIFE(network), load_device=device, offload_device=offload_device)
    model.add_callback(ON_DETACH, lambda *_: cards.release(network))
    return model


def resolve_model(model: ModelPatcher | str | None) -> ModelPatcher:
    """Returns the model that an input stands for.

    Args:
        model: One that is connected; in prompts also the name of a file, as `model_names` has it or
            without its extension; None stands for the default model.
    """
    if isinstance(model, ModelPatcher):
        return model
    name = model or DEFAULT
    files = (file for file in model_names() if name in (file, Path(file).stem))
    return load_model(next(files, name), "auto")


def _network(model: ModelPatcher) -> rife.Network:
    """Of our model, or of one that core loaded, whose tensors are then the network's, too."""
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
def running(
    model: ModelPatcher, height: int, width: int, channels: int = 3
) -> Iterator[rife.Network]:
    """The network on its device, with memory for one pair of such images beside it."""
    network = _network(model)
    weights = sum(parameter.nbytes for parameter in network.parameters())  # the engine has its own
    needed = network.memory_needed(height, width, channels) + weights
    model_management.load_models_gpu([model], memory_required=needed, force_full_load=True)
    # Short of memory (--novram) ComfyUI leaves behind all layers that aren't its own.
    network.to(model.load_device)
    try:
        yield network
    finally:
        device = model.load_device
        room = SHARE_TO_KEEP * model_management.get_total_memory(device)
        if model_management.get_free_memory(device) < room:
            cards.release(network)
        model_management.soft_empty_cache()


def empty_images(like: Tensor, frames: int) -> Tensor:
    """An uninitialised IMAGE of so many frames, where and as ComfyUI wants what nodes return.

    Raises ValueError where there is no memory for it.
    """
    dtype = getattr(model_management, "intermediate_dtype", lambda: like.dtype)()
    device = model_management.intermediate_device()
    shape = (frames, *like.shape[1:])
    _check_memory(shape, dtype, device, "make fewer, or use RIFE Video Interpolate, file to file")
    return empty(shape, dtype, device)


def _check_memory(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, advice: str
) -> None:
    """Raise ValueError unless there is memory for images (N, H, W, C)."""
    needed, free = math.prod(shape) * dtype.itemsize, model_management.get_free_memory(device)
    if needed > free and device.type == "cpu":
        free += psutil.swap_memory().free
    if needed > free:
        frames, height, width, _ = shape
        raise ValueError(
            f"{frames:,} frames of {width}x{height} take {needed / 1e9:,.1f} GB of memory, but "
            f"{free / 1e9:,.1f} GB are free: {advice}."
        )


@dataclass(frozen=True)
class VideoInMemory:
    """What a VIDEO is made of that no file holds.

    images: (N, H, W, C) with its transparency, if there is any, as the last channel.
    """

    video: Any
    parts: Any
    images: Tensor
    frame_rate: Fraction

    def remade(self, images: Tensor, frame_rate: Fraction, sound: bool) -> Any:
        """A VIDEO like this one, of other images."""
        changes = {"frame_rate": frame_rate, "audio": self.parts.audio if sound else None}
        channels, alpha = self.parts.images.shape[3], getattr(self.parts, "alpha", None)
        if alpha is not None:
            changes["alpha"] = images[..., channels:].reshape(-1, *alpha.shape[1:])
        parts = replace(self.parts, images=images[..., :channels], **changes)
        bits = getattr(self.video, "get_bit_depth", lambda: 8)()
        colors = getattr(self.video, "get_color_space", lambda: "auto")()
        options = {"bit_depth": bits, "color_space": None if colors == "auto" else colors}
        make = InputImpl.VideoFromComponents
        return make(parts, **known(make, **options))


def in_memory(video: Any) -> VideoInMemory | None:
    """What a VIDEO is made of if that isn't read from a file, frame by frame."""
    if not isinstance(video, InputImpl.VideoFromComponents):
        if not _is_edited(video) or _edit_steps(video) is not None:
            return None
        width, height = video.get_display_dimensions()
        shape = (video.get_frame_count(), height, width, 3)
        advice = "save the edited video with Save Video, load it with Load Video, and go on there"
        _check_memory(shape, torch.float32, torch.device("cpu"), advice)
    parts = video.get_components()
    images = check_value(io.Image.Input("video"), parts.images)
    alpha = getattr(parts, "alpha", None)
    if alpha is not None:
        images = torch.cat((images, alpha.view(*images.shape[:3], 1)), 3)
    return VideoInMemory(video, parts, images, rife.parse_frame_rate(parts.frame_rate))


def _is_edited(video: Any) -> bool:
    """Whether a VIDEO's frames are other ones than in its file: cropped or resized."""
    return getattr(video, "has_pending_frame_edits", lambda: False)()


def _edit_steps(video: Any) -> list[tuple] | None:
    """What ComfyUI does to each frame of a file; None: unknown. It has no public name, and what
    ComfyUI saves of an edited video has the wrong colours (0.38)."""
    return getattr(video, "_VideoFromFile__spatial_ops", None)


def _frame_edit(video: Any) -> Callable[[Tensor], Tensor] | None:
    """A VIDEO's edits as a function of an image (H, W, C) of floats or bytes; None: it has none."""
    if not _is_edited(video):
        return None
    from comfy_api.latest._util import apply_spatial_ops

    steps = _edit_steps(video)

    def edit(image: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            return to_uint8(edit(image.float() / 255))
        edited = [apply_spatial_ops(image[None, ..., :3], steps)[0]]
        for alpha in image[..., 3:].unbind(2):
            edited.append(apply_spatial_ops(alpha[None], steps, is_mask=True)[0, ..., None])
        return torch.cat(edited, 2)

    return edit


@contextmanager
def as_file(video: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file behind a VIDEO, and what of it, for a reader: start and duration in seconds, and
    edits of the frames."""
    is_list = isinstance(video, getattr(InputImpl, "VideoFromList", ()))
    source = None if is_list else video.get_stream_source()
    start, duration = getattr(video, "get_active_trim_window", lambda: (0, 0))()
    part = {"start": Fraction(start), "duration": Fraction(duration) or None}
    part["edit"] = _frame_edit(video)
    if not is_list and not isinstance(source, BytesIO):
        yield Path(source), part
        return
    path = temporary_file(".mp4" if is_list else ".video")
    try:
        with plain_errors("write", path):
            if is_list:  # its own stream may be encoded anew, with losses
                video.save_to(str(path), crf=0)
            else:
                path.write_bytes(source.getbuffer())
        yield path, part
    finally:
        path.unlink(missing_ok=True)


def video_from_file(path: Path) -> Any:
    """A VIDEO of a file."""
    return InputImpl.VideoFromFile(str(path))


#: FFmpeg's names of ComfyUI's codecs; None: what suits the clip.
_ENCODERS = {"auto": None, "av1": "libsvtav1"}
#: Whether Save Video makes another file of a .mkv; older ones copy any video into .mp4.
_SAVES_MKV = hasattr(Types.VideoContainer, "MKV")


def choose_encoding(format: str, codec: str, crf: int, clip: ClipInfo) -> tuple[str, rife.Encoding]:
    """A file's suffix and its encoding, for a container and a codec of ComfyUI's.

    Without B-frames in .mkv, of which Save Video (0.38) would leave out the first frames.
    """
    if format == "webm" and codec == "h264":
        logging.getLogger(rife.__name__).warning("WebM files hold no H.264: this one is VP9.")
        codec = "auto"
    if clip.has_alpha and _SAVES_MKV and format in ("auto", "mkv") and codec == "auto":
        return ".mkv", rife.Encoding(crf, "prores_ks")
    suffix = f".{Types.VideoContainer.get_extension(format)}"
    pixel_format = "yuv420p10le" if clip.is_deep else None
    encoder = _ENCODERS.get(codec, codec)
    return suffix, rife.Encoding(crf, encoder, pixel_format, b_frames=suffix != ".mkv")


def temporary_file(suffix: str) -> Path:
    """A new name in the folder that ComfyUI empties when it starts."""
    folder = Path(folder_paths.get_temp_directory())
    with plain_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"rife_{secrets.token_hex(6)}{suffix}"


class Replacement(NamedTuple):
    """What our node takes over from another pack's, whose first output becomes ours."""

    old_node_id: str
    #: The old node's widgets, in the order in which workflows have their values.
    old_widgets: list[str]
    #: Our inputs -> the old node's.
    inputs: dict[str, str]


async def offer_replacements(node_id: str, replacements: Sequence[Replacement]) -> None:
    """Offers our node where a workflow or a prompt has a missing one; older ComfyUIs can't."""
    if not hasattr(io, "NodeReplace"):
        return
    for old_node_id, old_widgets, inputs in replacements:
        await ComfyAPI().node_replacement.register(
            io.NodeReplace(
                new_node_id=node_id,
                old_node_id=old_node_id,
                old_widget_ids=old_widgets,
                input_mapping=[{"new_id": new, "old_id": old} for new, old in inputs.items()],
                output_mapping=[{"new_idx": 0, "old_idx": 0}],
            )
        )

    by_node = {replacement.old_node_id: replacement for replacement in replacements}

    def complete(prompt: dict[str, dict]) -> None:
        """ComfyUI fails to replace nodes without `_meta`, which prompts have from the page only, or
        without an input that it maps, which it refuses in one line where it is null."""
        for node in prompt.values():
            kind = node.get("class_type")
            if kind in by_node and kind not in comfy_nodes.NODE_CLASS_MAPPINGS:
                node.setdefault("_meta", {})
                for name in by_node[kind].inputs.values():
                    node.setdefault("inputs", {}).setdefault(name, None)

    before_each_prompt(complete)


def before_each_prompt(change: Callable[[dict], None]) -> None:
    """Has `change` called with each prompt (node id -> class_type and inputs) that ComfyUI gets,
    before it is checked."""

    def change_prompt(request: dict) -> dict:
        change(request.get("prompt", {}))
        return request

    server = getattr(PromptServer, "instance", None)
    if hasattr(server, "add_on_prompt_handler"):  # else nobody sends any: nodes without a server
        server.add_on_prompt_handler(change_prompt)


def stop_if_interrupted() -> None:
    """Raise what ends the run if the user asked for it."""
    model_management.throw_exception_if_processing_interrupted()


class _Warnings(logging.Handler):
    """Keeps the text of each different warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(record.getMessage())
        if text not in self.texts:
            self.texts.append(text)


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What the library warns of, in the console, during the block: each text once."""
    logger, handler = logging.getLogger(rife.__name__), _Warnings()
    logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)


def tell(node_id: str | None, text: str) -> None:
    """Write a line on a node, until the next one."""
    if node_id is not None:
        PromptServer.instance.send_progress_text(text, node_id)


@contextmanager
def progress(node_id: str | None = None, **console: Any) -> Iterator[Callable[..., None]]:
    """A callback (done, total or None, newest frame) for the node's bar, line and preview and for a
    console's bar, with these settings of tqdm."""
    node_bar = comfy.utils.ProgressBar(0)
    started = time.monotonic()
    shown = float("-inf")

    with tqdm(**console) as console_bar:

        def report(done: int, total: int | None, frame: Tensor | None = None) -> None:
            nonlocal shown
            stop_if_interrupted()
            console_bar.total = total
            console_bar.update(done - console_bar.n)
            preview = None
            if time.monotonic() - shown >= SECONDS_BETWEEN_PREVIEWS:
                seconds = time.monotonic() - started
                tell(node_id, _so_far(done, total, seconds, console["unit"]))
                if frame is not None:  # of a size of its own: ComfyUI would enlarge small ones
                    preview = ("JPEG", _preview(frame, args.preview_size), None)
                shown = time.monotonic()
            if total:
                node_bar.update_absolute(done, total, preview)

        yield report


def _so_far(done: int, total: int | None, seconds: float, unit: str) -> str:
    """How far a run is, its speed and the time left, in words."""
    if unit == "B":
        parts = [f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"]
    else:
        parts = [f"{unit} {done} of {total}" if total else f"{unit} {done}"]
        if seconds > 0:
            parts.append(f"{done / seconds:.3g} a second")
    if total and done and seconds > 1:
        left = seconds * (total - done) / done
        parts.append(f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")
    return ", ".join(parts)


def _preview(frame: Tensor, longest: int) -> Image.Image:
    """Returns a frame (H, W, C) of floats or bytes as a picture, its longer side at most `longest`
    pixels."""
    step = max(1, max(frame.shape[:2]) // longest)  # most of the way, cheaply
    pixels = to_uint8(frame[::step, ::step, :3])
    picture = Image.fromarray(pixels.expand(-1, -1, 3).numpy())
    picture.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    return picture
