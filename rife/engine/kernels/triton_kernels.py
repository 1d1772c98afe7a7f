"""The kernels in Triton.

Neither flow nor a warped frame is ever stored at full size: flow and mask are evaluated where they
are needed, from the blocks' outputs; sampling, the mean of 2x2 pixels and changes of layout and
dtype happen in registers. Coordinates and sums are float32.

../estimation.py does the same in plain torch, and the tests compare the two. interface.py says what
the public functions take and return.

Names in the kernels: H and W are the height and width of the motion, b is the pair in the batch,
dx0 and dy0 are flow to the first frame, dx1 and dy1 to the second. Blocks' outputs come as their
planes, `outputs`, and for each a triple (channels, SHUFFLE, FACTOR), `SHAPES`.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from .interface import BlockInputLayout, RawBlockOutput

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    raise ImportError(f"Triton {triton.__version__} is too old: the kernels need 3.3")

#: Pixels of one program.
BLOCK = 128


@triton.jit
def _bilinear_corners(
    y, x, height, width, C: tl.constexpr, SHUFFLE: tl.constexpr, FACTOR: tl.constexpr
):  # fmt: skip
    """What a plane of height x width, upscaled FACTOR times, is made of at (y, x) of the new grid.

    Returns the offsets of 4 values, which are stored before a PixelShuffle(SHUFFLE), and the
    weights of the lower and of the right ones."""
    v = tl.maximum((y.to(tl.float32) + 0.5) / FACTOR - 0.5, 0.0)
    u = tl.maximum((x.to(tl.float32) + 0.5) / FACTOR - 0.5, 0.0)
    top, left = v.to(tl.int32), u.to(tl.int32)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    # Each row of the plane is in a row of cells, at a place within the cell; columns likewise.
    upper = (top // SHUFFLE) * (width // SHUFFLE) * C + (top % SHUFFLE) * SHUFFLE
    lower = (bottom // SHUFFLE) * (width // SHUFFLE) * C + (bottom % SHUFFLE) * SHUFFLE
    first, last = (left // SHUFFLE) * C + left % SHUFFLE, (right // SHUFFLE) * C + right % SHUFFLE
    return upper + first, upper + last, lower + first, lower + last, v - top, u - left


@triton.jit
def _sample_plane(planes, corners, plane, inside, SHUFFLE: tl.constexpr):
    """One plane of a block's output, at `_bilinear_corners`."""
    a, b, c, d, down, over = corners
    planes += plane * SHUFFLE * SHUFFLE
    upper = tl.load(planes + a, mask=inside, other=0.0).to(tl.float32) * (1 - over)
    upper += tl.load(planes + b, mask=inside, other=0.0).to(tl.float32) * over
    lower = tl.load(planes + c, mask=inside, other=0.0).to(tl.float32) * (1 - over)
    lower += tl.load(planes + d, mask=inside, other=0.0).to(tl.float32) * over
    return upper * (1 - down) + lower * down


@triton.jit
def _planes_of_pair(planes, b, H, W, C: tl.constexpr, SHUFFLE: tl.constexpr, FACTOR: tl.constexpr):
    """The address of the planes of the b-th pair."""
    return planes + b.to(tl.int64) * (H // FACTOR // SHUFFLE) * (W // FACTOR // SHUFFLE) * C


@triton.jit
def _block_flow(
    planes, b, y, x, inside, H, W, C: tl.constexpr, SHUFFLE: tl.constexpr, FACTOR: tl.constexpr
):  # fmt: skip
    """The flow that one block adds, in pixels, at (y, x) of the frame."""
    planes = _planes_of_pair(planes, b, H, W, C, SHUFFLE, FACTOR)
    corners = _bilinear_corners(y, x, H // FACTOR, W // FACTOR, C, SHUFFLE, FACTOR)
    dx0 = FACTOR * _sample_plane(planes, corners, 0, inside, SHUFFLE)
    dy0 = FACTOR * _sample_plane(planes, corners, 1, inside, SHUFFLE)
    dx1 = FACTOR * _sample_plane(planes, corners, 2, inside, SHUFFLE)
    dy1 = FACTOR * _sample_plane(planes, corners, 3, inside, SHUFFLE)
    return dx0, dy0, dx1, dy1


@triton.jit
def _total_flow(outputs, b, y, x, inside, H, W, SHAPES: tl.constexpr):
    """The sum of the flow of all blocks, in pixels, at (y, x) of the frame."""
    dx0 = tl.zeros(y.shape, tl.float32)
    dy0 = tl.zeros(y.shape, tl.float32)
    dx1 = tl.zeros(y.shape, tl.float32)
    dy1 = tl.zeros(y.shape, tl.float32)
    for k in tl.static_range(len(SHAPES)):
        add_dx0, add_dy0, add_dx1, add_dy1 = _block_flow(
            outputs[k], b, y, x, inside, H, W, SHAPES[k][0], SHAPES[k][1], SHAPES[k][2]
        )
        dx0, dy0, dx1, dy1 = dx0 + add_dx0, dy0 + add_dy0, dx1 + add_dx1, dy1 + add_dy1
    return dx0, dy0, dx1, dy1


@triton.jit
def _block_plane(
    planes, b, y, x, plane, inside, H, W,
    C: tl.constexpr, SHUFFLE: tl.constexpr, FACTOR: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """One plane of one block's output, at (y, x) of the frame downscaled SCALE times."""
    planes = _planes_of_pair(planes, b, H, W, C, SHUFFLE, FACTOR)
    corners = _bilinear_corners(y, x, H // FACTOR, W // FACTOR, C, SHUFFLE, FACTOR // SCALE)
    return _sample_plane(planes, corners, plane, inside, SHUFFLE)


@triton.jit
def _mask_or_feature(
    outputs, b, y, x, plane, inside, H, W,
    SHAPES: tl.constexpr, ADDS_MASKS: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """The mask or a feature, at (y, x) of the frame downscaled SCALE times: the last block's or, if
    ADDS_MASKS, the sum of all blocks'."""
    total = tl.zeros(y.shape, tl.float32)
    for k in tl.static_range(len(SHAPES)):
        if ADDS_MASKS or k + 1 == len(SHAPES):
            total += _block_plane(
                outputs[k], b, y, x, plane, inside, H, W,
                SHAPES[k][0], SHAPES[k][1], SHAPES[k][2], SCALE,
            )  # fmt: skip
    return total


@triton.jit
def _program_pixels(height, width, BLOCK: tl.constexpr):
    """What this program computes: which pair; which pixels of height x width, counted; whether they
    are inside; their rows and columns."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return tl.program_id(1), pixel, pixel < height * width, pixel // width, pixel % width


@triton.jit
def _image_address(images, index, b, size):
    """The address of the image that `index` names for the b-th pair, of images of `size` values."""
    return images + tl.load(index + b).to(tl.int64) * size


@triton.jit
def _load_pixels(image, y, x, inside, W, C: tl.constexpr, WIDE: tl.constexpr):
    """The C channels of an image at whole (y, x), filled up to (BLOCK, WIDE), in [0, 1]."""
    c = tl.arange(0, WIDE)[None, :]
    source = image + ((y * W + x) * C)[:, None] + c
    mask = inside[:, None]
    if C < WIDE:
        mask = mask & (c < C)
    value = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    if image.dtype.element_ty == tl.uint8:
        value = value / 255.0
    return value


@triton.jit
def _sample_image(image, y, x, inside, H, W, C: tl.constexpr, WIDE: tl.constexpr):
    """As _load_pixels, at any (y, x), bilinearly; the border repeats."""
    y = tl.minimum(tl.maximum(y, 0.0), H - 1.0)
    x = tl.minimum(tl.maximum(x, 0.0), W - 1.0)
    # NaN passes the lines above on some devices; indices must be inside the image even then.
    top = tl.minimum(tl.maximum(y.to(tl.int32), 0), H - 1)
    left = tl.minimum(tl.maximum(x.to(tl.int32), 0), W - 1)
    bottom, right = tl.minimum(top + 1, H - 1), tl.minimum(left + 1, W - 1)
    down, over = (y - top)[:, None], (x - left)[:, None]
    upper = _load_pixels(image, top, left, inside, W, C, WIDE) * (1 - over)
    upper += _load_pixels(image, top, right, inside, W, C, WIDE) * over
    lower = _load_pixels(image, bottom, left, inside, W, C, WIDE) * (1 - over)
    lower += _load_pixels(image, bottom, right, inside, W, C, WIDE) * over
    return upper * (1 - down) + lower * down


@triton.jit(do_not_specialize_on_alignment=["index0", "index1", "times"])
def _gather_block_input(
    out, frames, index0, index1, times, outputs, H, W,
    SCALE: tl.constexpr, WIDE: tl.constexpr, WARPED: tl.constexpr, UNWARPED: tl.constexpr,
    TIME: tl.constexpr, PASSED: tl.constexpr, FLOW: tl.constexpr, ADDS_MASKS: tl.constexpr,
    SHAPES: tl.constexpr, REST: tl.constexpr, REST_PADDED: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A block's input, (B, H / SCALE, W / SCALE, CHANNELS).

    Its channels: both frames, WIDE channels each, if WARPED; the same again, as they are, if
    UNWARPED; then REST channels: TIME, the mask and features that the last block passed on, PASSED,
    FLOW and zeros. REST_PADDED: a power of two, at least REST."""
    POOL: tl.constexpr = 2 if SCALE > 1 else 1
    FIRST: tl.constexpr = SCALE // 2 - 1 if SCALE > 1 else 0  # central pixel of a cell
    MEAN: tl.constexpr = 1.0 / (POOL * POOL)
    height, width = H // SCALE, W // SCALE
    b, cell, inside, i, j = _program_pixels(height, width, BLOCK)
    frame0 = _image_address(frames, index0, b, H * W * WIDE)
    frame1 = _image_address(frames, index1, b, H * W * WIDE)

    warped0 = tl.zeros((BLOCK, WIDE), tl.float32)
    warped1 = tl.zeros((BLOCK, WIDE), tl.float32)
    unwarped0 = tl.zeros((BLOCK, WIDE), tl.float32)
    unwarped1 = tl.zeros((BLOCK, WIDE), tl.float32)
    sum_dx0 = tl.zeros((BLOCK,), tl.float32)
    sum_dy0 = tl.zeros((BLOCK,), tl.float32)
    sum_dx1 = tl.zeros((BLOCK,), tl.float32)
    sum_dy1 = tl.zeros((BLOCK,), tl.float32)
    for part in range(POOL * POOL):
        y, x = i * SCALE + FIRST + part // POOL, j * SCALE + FIRST + part % POOL
        if UNWARPED or len(SHAPES) == 0:
            unwarped0 += _load_pixels(frame0, y, x, inside, W, WIDE, WIDE)
            unwarped1 += _load_pixels(frame1, y, x, inside, W, WIDE, WIDE)
        if len(SHAPES) > 0:
            dx0, dy0, dx1, dy1 = _total_flow(outputs, b, y, x, inside, H, W, SHAPES)
            if WARPED:
                warped0 += _sample_image(frame0, y + dy0, x + dx0, inside, H, W, WIDE, WIDE)
                warped1 += _sample_image(frame1, y + dy1, x + dx1, inside, H, W, WIDE, WIDE)
            sum_dx0 += dx0
            sum_dy0 += dy0
            sum_dx1 += dx1
            sum_dy1 += dy1

    target = out + (b.to(tl.int64) * height * width + cell)[:, None] * CHANNELS
    c = tl.arange(0, WIDE)[None, :]
    mask = inside[:, None]
    dtype = out.dtype.element_ty
    if WARPED:
        if len(SHAPES) == 0:
            warped0, warped1 = unwarped0, unwarped1
        tl.store(target + c, (warped0 * MEAN).to(dtype), mask=mask)
        tl.store(target + WIDE + c, (warped1 * MEAN).to(dtype), mask=mask)
        target += 2 * WIDE
    if UNWARPED:
        tl.store(target + c, (unwarped0 * MEAN).to(dtype), mask=mask)
        tl.store(target + WIDE + c, (unwarped1 * MEAN).to(dtype), mask=mask)
        target += 2 * WIDE
    if REST > 0:
        c = tl.arange(0, REST_PADDED)[None, :]
        rest = tl.zeros((BLOCK, REST_PADDED), tl.float32)
        if TIME:
            rest = tl.where(c == 0, tl.load(times + b), rest)
        for plane in tl.static_range(PASSED):
            value = _mask_or_feature(
                outputs, b, i, j, 4 + plane, inside, H, W, SHAPES, ADDS_MASKS, SCALE
            )
            rest = tl.where(c == TIME + plane, value[:, None], rest)
        if FLOW:
            rest = tl.where(c == TIME + PASSED, (sum_dx0 * (MEAN / SCALE))[:, None], rest)
            rest = tl.where(c == TIME + PASSED + 1, (sum_dy0 * (MEAN / SCALE))[:, None], rest)
            rest = tl.where(c == TIME + PASSED + 2, (sum_dx1 * (MEAN / SCALE))[:, None], rest)
            rest = tl.where(c == TIME + PASSED + 3, (sum_dy1 * (MEAN / SCALE))[:, None], rest)
        if REST < REST_PADDED:
            mask = mask & (c < REST)
        tl.store(target + c, rest.to(dtype), mask=mask)


@triton.jit(do_not_specialize_on_alignment=["index0", "index1"])
def _render_frames(
    out, images, index0, index1, residual, outputs, H, W, height, width,
    C: tl.constexpr, WIDE: tl.constexpr, RESIDUAL: tl.constexpr, ADDS_MASKS: tl.constexpr,
    SHAPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The frame in between, (B, height, width, C): both images warped and blended, and the
    residual, (B, 3, H, W), added. The motion goes beyond the images on the right and below, where
    these repeat their border."""
    b, pixel, inside, y, x = _program_pixels(height, width, BLOCK)
    image0 = _image_address(images, index0, b, height * width * C)
    image1 = _image_address(images, index1, b, height * width * C)
    dx0, dy0, dx1, dy1 = _total_flow(outputs, b, y, x, inside, H, W, SHAPES)
    share = _mask_or_feature(outputs, b, y, x, 4, inside, H, W, SHAPES, ADDS_MASKS, 1)
    share = tl.sigmoid(share)[:, None]
    frame = share * _sample_image(image0, y + dy0, x + dx0, inside, height, width, C, WIDE)
    frame += (1 - share) * _sample_image(image1, y + dy1, x + dx1, inside, height, width, C, WIDE)
    c = tl.arange(0, WIDE)[None, :]
    if RESIDUAL:
        source = residual + (b.to(tl.int64) * 3 * H * W + y * W + x)[:, None]
        if C == 1:
            colour = tl.arange(0, 4)[None, :]
            mask = inside[:, None] & (colour < 3)
            change = tl.load(source + colour * H * W, mask=mask, other=0.0)
            frame += (tl.sum(change, 1) / 3)[:, None]
        else:
            frame += tl.load(source + c * H * W, mask=inside[:, None] & (c < 3), other=0.0)
    frame = tl.minimum(tl.maximum(frame, 0.0), 1.0)
    if out.dtype.element_ty == tl.uint8:
        frame = (frame * 255.0 + 12582912.0) - 12582912.0  # rounds to even, as torch does
    target = out + (b.to(tl.int64) * height * width + pixel)[:, None] * C + c
    tl.store(target, frame.to(out.dtype.element_ty), mask=inside[:, None] & (c < C))


@triton.jit
def _full_size_motion(
    out, outputs, H, W, ADDS_MASKS: tl.constexpr, SHAPES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Full-size flow and the mask before its sigmoid, (B, 5, H, W)."""
    b, pixel, inside, y, x = _program_pixels(H, W, BLOCK)
    dx0, dy0, dx1, dy1 = _total_flow(outputs, b, y, x, inside, H, W, SHAPES)
    target = out + b.to(tl.int64) * 5 * H * W + pixel
    tl.store(target, dx0, mask=inside)
    tl.store(target + H * W, dy0, mask=inside)
    tl.store(target + 2 * H * W, dx1, mask=inside)
    tl.store(target + 3 * H * W, dy1, mask=inside)
    mask = _mask_or_feature(outputs, b, y, x, 4, inside, H, W, SHAPES, ADDS_MASKS, 1)
    tl.store(target + 4 * H * W, mask, mask=inside)


@triton.jit
def _finish_convolution(
    y, bias, slopes, residual, count,
    C: tl.constexpr, SLOPES: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y + bias (+ residual), in place; where that is below zero, times the channel's slope."""
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


def _output_arguments(outputs: Sequence[RawBlockOutput]) -> dict:
    """The blocks' outputs as the kernels take them."""
    return {
        "outputs": tuple(x.planes.permute(0, 2, 3, 1) for x in outputs),
        "SHAPES": tuple((x.planes.shape[1], x.shuffle, x.factor) for x in outputs),
    }


def gather_block_input(
    frames: Tensor,
    indices: tuple[Tensor, Tensor],
    times: Tensor,
    outputs: Sequence[RawBlockOutput],
    layout: BlockInputLayout,
    *,
    adds_masks: bool,
) -> Tensor:
    _, frame_channels, height, width = frames.shape
    batch, h, w = len(times), height // layout.scale, width // layout.scale
    rest = layout.channels - 2 * frame_channels * (layout.warped + layout.unwarped)
    out = frames.new_empty(batch, h, w, layout.channels)
    _gather_block_input[(triton.cdiv(h * w, BLOCK), batch)](
        out, frames.permute(0, 2, 3, 1), *indices, times, H=height, W=width,
        SCALE=layout.scale, WIDE=frame_channels, WARPED=layout.warped, UNWARPED=layout.unwarped,
        TIME=layout.time, PASSED=layout.mask_and_features, FLOW=layout.flow, ADDS_MASKS=adds_masks,
        REST=rest, REST_PADDED=triton.next_power_of_2(max(1, rest)), CHANNELS=layout.channels,
        BLOCK=BLOCK, **_output_arguments(outputs),
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


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
    out = images.new_empty(batch, height, width, channels)
    _render_frames[(triton.cdiv(height * width, BLOCK), batch)](
        out, images, *indices, out if residual is None else residual.contiguous(),
        H=size[0], W=size[1], height=height, width=width,
        C=channels, WIDE=triton.next_power_of_2(channels), RESIDUAL=residual is not None,
        ADDS_MASKS=adds_masks, BLOCK=BLOCK, **_output_arguments(outputs),
    )  # fmt: skip
    return out


def full_size_motion(
    outputs: Sequence[RawBlockOutput], size: tuple[int, int], *, adds_masks: bool
) -> Tensor:
    height, width = size
    planes = outputs[0].planes
    out = torch.empty(len(planes), 5, height, width, device=planes.device)
    _full_size_motion[(triton.cdiv(height * width, BLOCK), len(planes))](
        out, H=height, W=width, ADDS_MASKS=adds_masks, BLOCK=BLOCK, **_output_arguments(outputs)
    )
    return out


def finish_convolution(
    y: Tensor, bias: Tensor, slopes: Tensor | None, residual: Tensor | None
) -> Tensor:
    y = y.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    block = 8 * BLOCK  # 8 numbers of 16 bits are the most that a thread moves at once
    _finish_convolution[(triton.cdiv(y.numel(), block),)](
        y, bias, bias if slopes is None else slopes, y if residual is None else residual,
        y.numel(), C=y.shape[1], SLOPES=slopes is not None, RESIDUAL=residual is not None,
        BLOCK=block,
    )  # fmt: skip
    return y


prepare_frame = pack_block_output = None
#: Triton compiles a kernel when it is first launched, one at a time.
precompile = nullcontext
