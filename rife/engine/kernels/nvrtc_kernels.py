"""The kernels in CUDA C: each function fills in the arguments of one in kernels.cu and launches it.

interface.py says what the public functions take and return.
"""

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..blocks import round_up
from .interface import BlockInputLayout, RawBlockOutput
from .nvrtc import KernelLauncher

#: Threads of a block of threads, one for each pixel. Those of a row access neighbouring memory.
COLUMNS, ROWS = 32, 4

#: How kernels.cu names the dtypes.
_TYPES = {
    torch.float32: "float",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.uint8: "unsigned char",
}

SOURCE_FILE = Path(__file__).with_name("kernels.cu")
_launcher = KernelLauncher(SOURCE_FILE.read_text(encoding="utf-8"))
precompile, dry_run = _launcher.precompile, _launcher.dry_run


def prepare_frame(
    prepared: Tensor,
    images: Tensor,
    source: Tensor,
    features: Tensor | None = None,
    target: Tensor | None = None,
) -> None:
    _, image_height, image_width, colours = images.shape
    _, channels, height, width = prepared.shape
    if features is not None:
        features = features.contiguous(memory_format=torch.channels_last)
    template = [
        _TYPES[prepared.dtype], _TYPES[images.dtype], colours,
        0 if features is None else features.shape[1], channels,
    ]  # fmt: skip
    pointers = [prepared, images, features, source, target]
    sizes = (height, width, image_height, image_width)
    _launch("prepare_frame", template, (1, height, width), pointers, sizes)


def gather_block_input(
    frames: Tensor,
    indices: tuple[Tensor, Tensor],
    times: Tensor,
    outputs: Sequence[RawBlockOutput],
    layout: BlockInputLayout,
    *,
    adds_masks: bool,
) -> Tensor:
    _, channels, height, width = frames.shape
    batch, h, w = len(times), height // layout.scale, width // layout.scale
    block_input = frames.new_empty(batch, h, w, layout.channels)
    template = [
        _TYPES[frames.dtype], layout.scale, channels, layout.warped, layout.unwarped,
        bool(layout.time), layout.mask_and_features, bool(layout.flow), adds_masks, layout.channels,
    ]  # fmt: skip
    pointers = [block_input, frames, *indices, times.contiguous()]
    _launch("gather_block_input", template, (batch, h, w), pointers, (height, width), outputs)
    return block_input.permute(0, 3, 1, 2)


def render_frames(
    images: Tensor,
    indices: tuple[Tensor, Tensor],
    outputs: Sequence[RawBlockOutput],
    size: tuple[int, int],
    *,
    adds_masks: bool,
    residual: Tensor | None = None,
) -> Tensor:
    _, height, width, channels = images.shape
    batch = len(indices[0])
    frames = images.new_empty(batch, height, width, channels)
    template = [_TYPES[images.dtype], channels, residual is not None, adds_masks]
    pointers = [frames, images, *indices, None if residual is None else residual.contiguous()]
    sizes = (height, width, *size)
    _launch("render_frames", template, (batch, height, width), pointers, sizes, outputs)
    return frames


def full_size_motion(
    outputs: Sequence[RawBlockOutput], size: tuple[int, int], *, adds_masks: bool
) -> Tensor:
    planes = outputs[0].planes
    motion = torch.empty(len(planes), 5, *size, device=planes.device)
    _launch("full_size_motion", [adds_masks], (len(planes), *size), [motion], size, outputs)
    return motion


def finish_convolution(
    y: Tensor, bias: Tensor, slopes: Tensor | None, residual: Tensor | None
) -> Tensor:
    y = y.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    pointers = [y, residual, bias, slopes]
    value_size, channels = y.element_size(), y.shape[1]
    addresses = (x.data_ptr() // value_size for x in pointers if x is not None)
    pack = math.gcd(16 // value_size, channels, *addresses)  # values that a thread moves at once
    count, threads = y.numel() // pack, COLUMNS * ROWS
    template = [_TYPES[y.dtype], pack, residual is not None, slopes is not None]
    _launcher.launch(
        _template_name("finish_convolution", template),
        (-(-count // threads), 1, 1),
        (threads, 1, 1),
        [*map(_pointer, pointers), ctypes.c_uint(count), ctypes.c_uint(channels // pack)],
        y.device,
    )
    return y


def pack_block_output(y: Tensor, bias: Tensor, shuffle: int) -> Tensor:
    y = y.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = y.shape
    planes = round_up(channels // shuffle**2, 4)  # which are read at once
    output = y.new_empty(batch, shuffle * height, shuffle * width, planes)
    template = [_TYPES[y.dtype], channels, shuffle, planes]
    size = (batch, shuffle * height, shuffle * width)
    _launch("pack_block_output", template, size, [output, y, bias], (height, width))
    return output.permute(0, 3, 1, 2)


def _launch(
    kernel: str,
    template: Sequence,
    size: tuple[int, int, int],
    pointers: Sequence[Tensor | None],
    numbers: Sequence[int],
    outputs: Sequence[RawBlockOutput] = (),
) -> None:
    """Launches a kernel with one thread for each pixel of what it writes.

    Args:
        kernel: Its name.
        template: The arguments of its template, but for the types of `outputs`.
        size: Pairs, rows and columns of what it writes.
        pointers: The tensors it takes, first the one it writes.
        numbers: The integers it takes after them.
        outputs: The blocks' outputs it takes after these.
    """
    batch, height, width = size
    assert all(x.shuffle == 1 for x in outputs), "they come from pack_block_output"
    types = [
        f"BlockOutput<{_TYPES[x.planes.dtype]}, {x.planes.shape[1]}, {x.factor}>" for x in outputs
    ]
    planes = [x.planes for x in outputs]
    _launcher.launch(
        _template_name(kernel, [*template, *types]),
        (-(-width // COLUMNS), -(-height // ROWS), batch),
        (COLUMNS, ROWS, 1),
        [*map(_pointer, pointers), *map(ctypes.c_int, numbers), *map(_pointer, planes)],
        pointers[0].device,
    )


def _template_name(kernel: str, template: Sequence) -> str:
    """The kernel with the arguments of its template, as C++ writes it."""
    words = (str(x).lower() if isinstance(x, bool) else str(x) for x in template)
    return f"{kernel}<{', '.join(words)}>"


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
