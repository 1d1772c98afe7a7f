"""The fused kernels in CUDA C, kernels.cu: its templates' arguments, grids and pointers.

interface.py says what the public functions take and return.
"""

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .interface import BlockInputLayout, BlockOutput
from .nvrtc import Kernels

#: Threads of a block. Those of a row read and write neighbours.
COLUMNS, ROWS = 32, 4

_TYPES = {
    torch.float32: "float",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.uint8: "unsigned char",
}

_kernels = Kernels(Path(__file__).with_name("kernels.cu").read_text(encoding="utf-8"))
precompile, note = _kernels.precompile, _kernels.note


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
    outputs: Sequence[BlockOutput],
    layout: BlockInputLayout,
    *,
    adds: bool,
) -> Tensor:
    _, channels, height, width = frames.shape
    batch, h, w = len(times), height // layout.scale, width // layout.scale
    block_input = frames.new_empty(batch, h, w, layout.size)
    template = [
        _TYPES[frames.dtype], layout.scale, channels, layout.warped, layout.still,
        bool(layout.time), layout.handed, bool(layout.flow), adds, layout.size,
    ]  # fmt: skip
    pointers = [block_input, frames, *indices, times.contiguous()]
    _launch("gather_block_input", template, (batch, h, w), pointers, (height, width), outputs)
    return block_input.permute(0, 3, 1, 2)


def render_frames(
    images: Tensor,
    indices: tuple[Tensor, Tensor],
    outputs: Sequence[BlockOutput],
    size: tuple[int, int],
    *,
    adds: bool,
    residual: Tensor | None = None,
) -> Tensor:
    _, height, width, channels = images.shape
    batch = len(indices[0])
    frames = images.new_empty(batch, height, width, channels)
    template = [_TYPES[images.dtype], channels, residual is not None, adds]
    pointers = [frames, images, *indices, None if residual is None else residual.contiguous()]
    sizes = (height, width, *size)
    _launch("render_frames", template, (batch, height, width), pointers, sizes, outputs)
    return frames


def full_size_motion(
    outputs: Sequence[BlockOutput], size: tuple[int, int], *, adds: bool
) -> Tensor:
    raw = outputs[0].raw
    motion = torch.empty(len(raw), 5, *size, device=raw.device)
    _launch("full_size_motion", [adds], (len(raw), *size), [motion], size, outputs)
    return motion


def finish_convolution(
    y: Tensor, bias: Tensor, slopes: Tensor | None, residual: Tensor | None
) -> Tensor:
    y = y.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    pointers = [y, residual, bias, slopes]
    size, channels = y.element_size(), y.shape[1]
    aligned = (x.data_ptr() // size for x in pointers if x is not None)
    pack = math.gcd(16 // size, channels, *aligned)  # values that a thread moves at once
    count, threads = y.numel() // pack, COLUMNS * ROWS
    template = [_TYPES[y.dtype], pack, residual is not None, slopes is not None]
    _kernels.launch(
        _named("finish_convolution", template),
        (-(-count // threads), 1, 1),
        (threads, 1, 1),
        [*map(_pointer, pointers), ctypes.c_uint(count), ctypes.c_uint(channels // pack)],
        y.device,
    )
    return y


def pack_block_output(y: Tensor, bias: Tensor, cell: int) -> Tensor:
    y = y.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = y.shape
    planes = -(-channels // cell**2 // 4) * 4
    output = y.new_empty(batch, cell * height, cell * width, planes)
    template = [_TYPES[y.dtype], channels, cell, planes]
    size = (batch, cell * height, cell * width)
    _launch("pack_block_output", template, size, [output, y, bias], (height, width))
    return output.permute(0, 3, 1, 2)


def _launch(
    kernel: str,
    template: Sequence,
    size: tuple[int, int, int],
    pointers: Sequence[Tensor | None],
    numbers: Sequence[int],
    outputs: Sequence[BlockOutput] = (),
) -> None:
    """size: pairs, rows and columns of what a kernel makes."""
    batch, height, width = size
    assert all(x.cell == 1 for x in outputs), "they come from pack_block_output"
    types = [f"BlockOutput<{_TYPES[x.raw.dtype]}, {x.raw.shape[1]}, {x.factor}>" for x in outputs]
    planes = [x.raw for x in outputs]
    _kernels.launch(
        _named(kernel, [*template, *types]),
        (-(-width // COLUMNS), -(-height // ROWS), batch),
        (COLUMNS, ROWS, 1),
        [*map(_pointer, pointers), *map(ctypes.c_int, numbers), *map(_pointer, planes)],
        pointers[0].device,
    )


def _named(kernel: str, template: Sequence) -> str:
    """The kernel with the arguments of its template, in C++."""
    words = (str(x).lower() if isinstance(x, bool) else str(x) for x in template)
    return f"{kernel}<{', '.join(words)}>"


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
