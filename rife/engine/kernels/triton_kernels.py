"""Fused passes for GPUs, in Triton: what a block sees, what follows a convolution, the new frame.

Neither flow nor a warped frame is ever stored at full size: flow and mask are evaluated where they
are needed, from the planes that each block found at its own size; sampling, the mean of 2x2 pixels
and the changes of layout and dtype happen in registers. Coordinates and sums are float32.

engine.py says the same in plain torch, and is what this is tested against. interface.py says what
the public functions take and return.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from .interface import BlockInputLayout, BlockOutput

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    raise ImportError(f"Triton {triton.__version__} is too old: the kernels need 3.3")

#: Pixels of one program.
BLOCK = 128


@triton.jit
def _corners(y, x, height, width, C: tl.constexpr, CELL: tl.constexpr, FACTOR: tl.constexpr):
    """Where a plane made FACTOR times larger, bilinearly, comes from at whole (y, x) of the larger
    grid: offsets of 4 values, before a PixelShuffle(CELL), and the weights of the lower and the
    right ones. height, width: of the plane."""
    v = tl.maximum((y.to(tl.float32) + 0.5) / FACTOR - 0.5, 0.0)
    u = tl.maximum((x.to(tl.float32) + 0.5) / FACTOR - 0.5, 0.0)
    top, left = v.to(tl.int32), u.to(tl.int32)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    # The rows of cells, and the place within a cell, that a row lies in; columns likewise.
    upper = (top // CELL) * (width // CELL) * C + (top % CELL) * CELL
    lower = (bottom // CELL) * (width // CELL) * C + (bottom % CELL) * CELL
    first, last = (left // CELL) * C + left % CELL, (right // CELL) * C + right % CELL
    return upper + first, upper + last, lower + first, lower + last, v - top, u - left


@triton.jit
def _plane(raw, corners, plane, inside, CELL: tl.constexpr):
    """One plane of a block's, at `_corners`."""
    a, b, c, d, down, over = corners
    raw += plane * CELL * CELL
    upper = tl.load(raw + a, mask=inside, other=0.0).to(tl.float32) * (1 - over)
    upper += tl.load(raw + b, mask=inside, other=0.0).to(tl.float32) * over
    lower = tl.load(raw + c, mask=inside, other=0.0).to(tl.float32) * (1 - over)
    lower += tl.load(raw + d, mask=inside, other=0.0).to(tl.float32) * over
    return upper * (1 - down) + lower * down


@triton.jit
def _planes_of(raw, b, H, W, C: tl.constexpr, CELL: tl.constexpr, FACTOR: tl.constexpr):
    """Where the planes of the batch's b-th begin."""
    return raw + b.to(tl.int64) * (H // FACTOR // CELL) * (W // FACTOR // CELL) * C


@triton.jit
def _motion(
    raw, b, y, x, inside, H, W, C: tl.constexpr, CELL: tl.constexpr, FACTOR: tl.constexpr
):  # fmt: skip
    """What one block found of the flow, in pixels, at (y, x) of the frame."""
    raw = _planes_of(raw, b, H, W, C, CELL, FACTOR)
    corners = _corners(y, x, H // FACTOR, W // FACTOR, C, CELL, FACTOR)
    u0 = FACTOR * _plane(raw, corners, 0, inside, CELL)
    v0 = FACTOR * _plane(raw, corners, 1, inside, CELL)
    u1 = FACTOR * _plane(raw, corners, 2, inside, CELL)
    v1 = FACTOR * _plane(raw, corners, 3, inside, CELL)
    return u0, v0, u1, v1


@triton.jit
def _flow(raws, b, y, x, inside, H, W, FOUND: tl.constexpr):
    """The sum of all that blocks found, in pixels, at (y, x) of the frame."""
    u0 = tl.zeros(y.shape, tl.float32)
    v0 = tl.zeros(y.shape, tl.float32)
    u1 = tl.zeros(y.shape, tl.float32)
    v1 = tl.zeros(y.shape, tl.float32)
    for k in tl.static_range(len(FOUND)):
        u, v, r, s = _motion(raws[k], b, y, x, inside, H, W, FOUND[k][0], FOUND[k][1], FOUND[k][2])
        u0, v0, u1, v1 = u0 + u, v0 + v, u1 + r, v1 + s
    return u0, v0, u1, v1


@triton.jit
def _handed(
    raw, b, y, x, plane, inside, H, W,
    C: tl.constexpr, CELL: tl.constexpr, FACTOR: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """One plane of one block's at (y, x) of the frame made SCALE times smaller."""
    raw = _planes_of(raw, b, H, W, C, CELL, FACTOR)
    corners = _corners(y, x, H // FACTOR, W // FACTOR, C, CELL, FACTOR // SCALE)
    return _plane(raw, corners, plane, inside, CELL)


@triton.jit
def _given(
    raws, b, y, x, plane, inside, H, W,
    FOUND: tl.constexpr, ADDS: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """The mask or what else is handed over, by the last block or the sum of all (ADDS), at (y, x)
    of the frame made SCALE times smaller."""
    total = tl.zeros(y.shape, tl.float32)
    for k in tl.static_range(len(FOUND)):
        if ADDS or k + 1 == len(FOUND):
            total += _handed(
                raws[k], b, y, x, plane, inside, H, W, FOUND[k][0], FOUND[k][1], FOUND[k][2], SCALE
            )
    return total


@triton.jit
def _mine(height, width, BLOCK: tl.constexpr):
    """What a program does: which of the batch, which pixels of height x width, counted, whether
    there are such, and their rows and columns."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return tl.program_id(1), pixel, pixel < height * width, pixel // width, pixel % width


@triton.jit
def _image(images, index, b, size):
    """Where the b-th image that is meant begins, of `size` values each."""
    return images + tl.load(index + b).to(tl.int64) * size


@triton.jit
def _pixels(image, y, x, inside, W, C: tl.constexpr, WIDE: tl.constexpr):
    """All channels, (BLOCK, WIDE), of an image of C at whole (y, x): in [0, 1], if of bytes."""
    c = tl.arange(0, WIDE)[None, :]
    at = image + ((y * W + x) * C)[:, None] + c
    there = inside[:, None]
    if C < WIDE:
        there = there & (c < C)
    value = tl.load(at, mask=there, other=0.0).to(tl.float32)
    if image.dtype.element_ty == tl.uint8:
        value = value / 255.0
    return value


@triton.jit
def _sampled(image, y, x, inside, H, W, C: tl.constexpr, WIDE: tl.constexpr):
    """As _pixels, at any (y, x), bilinearly; the border repeats."""
    y = tl.minimum(tl.maximum(y, 0.0), H - 1.0)
    x = tl.minimum(tl.maximum(x, 0.0), W - 1.0)
    # NaN passes the lines above on some devices: indices are kept in the image anyway.
    top = tl.minimum(tl.maximum(y.to(tl.int32), 0), H - 1)
    left = tl.minimum(tl.maximum(x.to(tl.int32), 0), W - 1)
    bottom, right = tl.minimum(top + 1, H - 1), tl.minimum(left + 1, W - 1)
    down, over = (y - top)[:, None], (x - left)[:, None]
    upper = _pixels(image, top, left, inside, W, C, WIDE) * (1 - over)
    upper += _pixels(image, top, right, inside, W, C, WIDE) * over
    lower = _pixels(image, bottom, left, inside, W, C, WIDE) * (1 - over)
    lower += _pixels(image, bottom, right, inside, W, C, WIDE) * over
    return upper * (1 - down) + lower * down


@triton.jit(do_not_specialize_on_alignment=["index0", "index1", "times"])
def _see(
    out, seen, index0, index1, times, raws, H, W,
    SCALE: tl.constexpr, WIDE: tl.constexpr, WARPED: tl.constexpr, STILL: tl.constexpr,
    TIME: tl.constexpr, GIVEN: tl.constexpr, FLOW: tl.constexpr, ADDS: tl.constexpr,
    FOUND: tl.constexpr, REST: tl.constexpr, COLUMNS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A block's input, (B, H / SCALE, W / SCALE, SIZE): of both frames WIDE channels each if
    WARPED, then if STILL; then TIME, GIVEN, FLOW and zeros, REST channels in all.
    COLUMNS: a power of two above REST."""
    POOL: tl.constexpr = 2 if SCALE > 1 else 1
    FIRST: tl.constexpr = SCALE // 2 - 1 if SCALE > 1 else 0  # of the pixels in a cell's middle
    MEAN: tl.constexpr = 1.0 / (POOL * POOL)
    height, width = H // SCALE, W // SCALE
    b, cell, inside, i, j = _mine(height, width, BLOCK)
    frame0 = _image(seen, index0, b, H * W * WIDE)
    frame1 = _image(seen, index1, b, H * W * WIDE)

    warped0 = tl.zeros((BLOCK, WIDE), tl.float32)
    warped1 = tl.zeros((BLOCK, WIDE), tl.float32)
    still0 = tl.zeros((BLOCK, WIDE), tl.float32)
    still1 = tl.zeros((BLOCK, WIDE), tl.float32)
    right0 = tl.zeros((BLOCK,), tl.float32)
    down0 = tl.zeros((BLOCK,), tl.float32)
    right1 = tl.zeros((BLOCK,), tl.float32)
    down1 = tl.zeros((BLOCK,), tl.float32)
    for part in range(POOL * POOL):
        y, x = i * SCALE + FIRST + part // POOL, j * SCALE + FIRST + part % POOL
        if STILL or len(FOUND) == 0:
            still0 += _pixels(frame0, y, x, inside, W, WIDE, WIDE)
            still1 += _pixels(frame1, y, x, inside, W, WIDE, WIDE)
        if len(FOUND) > 0:
            u0, v0, u1, v1 = _flow(raws, b, y, x, inside, H, W, FOUND)
            if WARPED:
                warped0 += _sampled(frame0, y + v0, x + u0, inside, H, W, WIDE, WIDE)
                warped1 += _sampled(frame1, y + v1, x + u1, inside, H, W, WIDE, WIDE)
            right0, down0, right1, down1 = right0 + u0, down0 + v0, right1 + u1, down1 + v1

    at = out + (b.to(tl.int64) * height * width + cell)[:, None] * SIZE
    c = tl.arange(0, WIDE)[None, :]
    there = inside[:, None]
    dtype = out.dtype.element_ty
    if WARPED:
        if len(FOUND) == 0:
            warped0, warped1 = still0, still1
        tl.store(at + c, (warped0 * MEAN).to(dtype), mask=there)
        tl.store(at + WIDE + c, (warped1 * MEAN).to(dtype), mask=there)
        at += 2 * WIDE
    if STILL:
        tl.store(at + c, (still0 * MEAN).to(dtype), mask=there)
        tl.store(at + WIDE + c, (still1 * MEAN).to(dtype), mask=there)
        at += 2 * WIDE
    if REST > 0:
        c = tl.arange(0, COLUMNS)[None, :]
        rest = tl.zeros((BLOCK, COLUMNS), tl.float32)
        if TIME:
            rest = tl.where(c == 0, tl.load(times + b), rest)
        for plane in tl.static_range(GIVEN):
            given = _given(raws, b, i, j, 4 + plane, inside, H, W, FOUND, ADDS, SCALE)
            rest = tl.where(c == TIME + plane, given[:, None], rest)
        if FLOW:
            rest = tl.where(c == TIME + GIVEN, (right0 * (MEAN / SCALE))[:, None], rest)
            rest = tl.where(c == TIME + GIVEN + 1, (down0 * (MEAN / SCALE))[:, None], rest)
            rest = tl.where(c == TIME + GIVEN + 2, (right1 * (MEAN / SCALE))[:, None], rest)
            rest = tl.where(c == TIME + GIVEN + 3, (down1 * (MEAN / SCALE))[:, None], rest)
        if REST < COLUMNS:
            there = there & (c < REST)
        tl.store(at + c, rest.to(dtype), mask=there)


@triton.jit(do_not_specialize_on_alignment=["index0", "index1"])
def _show(
    out, images, index0, index1, residual, raws, H, W, height, width,
    C: tl.constexpr, WIDE: tl.constexpr, RESIDUAL: tl.constexpr, ADDS: tl.constexpr,
    FOUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The finished frame, (B, height, width, C): both images warped and blended, the residual,
    (B, 3, H, W), added. H, W: of the motion, which goes beyond the images on the right and below,
    where they repeat their border."""
    b, pixel, inside, y, x = _mine(height, width, BLOCK)
    image0 = _image(images, index0, b, height * width * C)
    image1 = _image(images, index1, b, height * width * C)
    u0, v0, u1, v1 = _flow(raws, b, y, x, inside, H, W, FOUND)
    share = tl.sigmoid(_given(raws, b, y, x, 4, inside, H, W, FOUND, ADDS, 1))[:, None]
    frame = share * _sampled(image0, y + v0, x + u0, inside, height, width, C, WIDE)
    frame += (1 - share) * _sampled(image1, y + v1, x + u1, inside, height, width, C, WIDE)
    c = tl.arange(0, WIDE)[None, :]
    if RESIDUAL:
        at = residual + (b.to(tl.int64) * 3 * H * W + y * W + x)[:, None]
        if C == 1:
            colour = tl.arange(0, 4)[None, :]
            there = inside[:, None] & (colour < 3)
            change = tl.load(at + colour * H * W, mask=there, other=0.0)
            frame += (tl.sum(change, 1) / 3)[:, None]
        else:
            frame += tl.load(at + c * H * W, mask=inside[:, None] & (c < 3), other=0.0)
    frame = tl.minimum(tl.maximum(frame, 0.0), 1.0)
    if out.dtype.element_ty == tl.uint8:
        frame = (frame * 255.0 + 12582912.0) - 12582912.0  # rounds as torch does, to even
    at = out + (b.to(tl.int64) * height * width + pixel)[:, None] * C + c
    tl.store(at, frame.to(out.dtype.element_ty), mask=inside[:, None] & (c < C))


@triton.jit
def _spread(
    out, raws, H, W, ADDS: tl.constexpr, FOUND: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Flow and mask before its sigmoid, (B, 5, H, W)."""
    b, pixel, inside, y, x = _mine(H, W, BLOCK)
    u0, v0, u1, v1 = _flow(raws, b, y, x, inside, H, W, FOUND)
    at = out + b.to(tl.int64) * 5 * H * W + pixel
    tl.store(at, u0, mask=inside)
    tl.store(at + H * W, v0, mask=inside)
    tl.store(at + 2 * H * W, u1, mask=inside)
    tl.store(at + 3 * H * W, v1, mask=inside)
    mask = _given(raws, b, y, x, 4, inside, H, W, FOUND, ADDS, 1)
    tl.store(at + 4 * H * W, mask, mask=inside)


@triton.jit
def _activate(
    y, bias, slopes, residual, count,
    C: tl.constexpr, SLOPES: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y + bias (+ residual), times the channel's slope where that is below zero."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    c = i % C
    value = tl.load(y + i, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + c).to(tl.float32)
    if RESIDUAL:
        value += tl.load(residual + i, mask=inside, other=0.0).to(tl.float32)
    if SLOPES:
        value = tl.where(value < 0, value * tl.load(slopes + c).to(tl.float32), value)
    tl.store(y + i, value.to(y.dtype.element_ty), mask=inside)


def _of(outputs: Sequence[BlockOutput]) -> dict:
    """As the kernels take them."""
    return {
        "raws": tuple(x.raw.permute(0, 2, 3, 1) for x in outputs),
        "FOUND": tuple((x.raw.shape[1], x.cell, x.factor) for x in outputs),
    }


def gather_block_input(
    frames: Tensor,
    indices: tuple[Tensor, Tensor],
    times: Tensor,
    outputs: Sequence[BlockOutput],
    layout: BlockInputLayout,
    *,
    adds: bool,
) -> Tensor:
    _, wide, height, width = frames.shape
    batch, h, w = len(times), height // layout.scale, width // layout.scale
    rest = layout.size - 2 * wide * (layout.warped + layout.still)
    out = frames.new_empty(batch, h, w, layout.size)
    _see[(triton.cdiv(h * w, BLOCK), batch)](
        out, frames.permute(0, 2, 3, 1), *indices, times, H=height, W=width,
        SCALE=layout.scale, WIDE=wide, WARPED=layout.warped, STILL=layout.still, TIME=layout.time,
        GIVEN=layout.handed, FLOW=layout.flow, ADDS=adds, REST=rest,
        COLUMNS=triton.next_power_of_2(max(1, rest)), SIZE=layout.size, BLOCK=BLOCK,
        **_of(outputs),
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


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
    out = images.new_empty(batch, height, width, channels)
    _show[(triton.cdiv(height * width, BLOCK), batch)](
        out, images, *indices, out if residual is None else residual.contiguous(),
        H=size[0], W=size[1], height=height, width=width,
        C=channels, WIDE=triton.next_power_of_2(channels), RESIDUAL=residual is not None,
        ADDS=adds, BLOCK=BLOCK, **_of(outputs),
    )  # fmt: skip
    return out


def full_size_motion(
    outputs: Sequence[BlockOutput], size: tuple[int, int], *, adds: bool
) -> Tensor:
    height, width = size
    raw = outputs[0].raw
    out = torch.empty(len(raw), 5, height, width, device=raw.device)
    _spread[(triton.cdiv(height * width, BLOCK), len(raw))](
        out, H=height, W=width, ADDS=adds, BLOCK=BLOCK, **_of(outputs)
    )
    return out


def finish_convolution(
    y: Tensor, bias: Tensor, slopes: Tensor | None, residual: Tensor | None
) -> Tensor:
    y = y.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    block = 8 * BLOCK  # 8 numbers of 16 bits are the most that a thread moves at once
    _activate[(triton.cdiv(y.numel(), block),)](
        y, bias, bias if slopes is None else slopes, y if residual is None else residual,
        y.numel(), C=y.shape[1], SLOPES=slopes is not None, RESIDUAL=residual is not None,
        BLOCK=block,
    )  # fmt: skip
    return y


prepare_frame = pack_block_output = None
#: Triton compiles a kernel when it is first launched, one at a time.
precompile = nullcontext
