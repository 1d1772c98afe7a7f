"""What a block's input is gathered from: frames and flow, at the block's resolution.

A block at scale s sees its input s times smaller. For an even s, torch's bilinear resizing by 1 / s
is the mean of the 2x2 pixels in the middle of each s x s cell, and no other pixel of the cell is
ever read. So flow is read only there, and frames are warped only there.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..networks.warp import resize, sample, sample_in_bands

#: Pixels of a strip of rows on a CPU: few enough to stay in its caches (measured in
#: benchmarks/constants.py).
STRIP_PIXELS = 98304


def split_rows(height: int, width: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yields start and stop of each strip of rows; on GPUs, one strip is the whole frame."""
    rows = height
    if device.type == "cpu":
        rows = max(16, STRIP_PIXELS // width // 16 * 16)
    for start in range(0, height, rows):
        yield start, min(height, start + rows)


def downscale_rows(x: Tensor, scale: int, start: int, stop: int) -> Tensor:
    """Makes `x`, (B, C, H, W), `scale` times smaller, and of that only rows `start` to `stop`."""
    return resize(x[:, :, scale * start : scale * stop], 1 / scale)


def central_pixels(x: Tensor, scale: int, start: int, stop: int) -> Tensor:
    """Takes the 2x2 pixels in the middle of each cell of scale x scale pixels.

    Args:
        x: (B, C, H, W).
        scale: 1 or an even number; at 1 and 2 all pixels are taken.
        start: The first row of cells.
        stop: The row of cells to stop before.

    Returns:
        (B, C, pool * (stop - start), pool * W / scale), where pool is min(scale, 2).
    """
    x = x[:, :, scale * start : scale * stop]
    if scale > 2:
        middle = slice(scale // 2 - 1, scale // 2 + 1)
        cells = x.unflatten(3, (-1, scale)).unflatten(2, (-1, scale))
        x = cells[:, :, :, middle, :, middle].flatten(4).flatten(2, 3)
    return x


def sampling_points(
    flow: Tensor, size: torch.Size, scale: int, start: int
) -> tuple[Tensor, Tensor]:
    """Computes where flow points to.

    Args:
        flow: (B, 2, h, w) in pixels, as `central_pixels` returns it.
        size: Of the frame, (B, C, H, W).
        scale: As in `central_pixels`.
        start: As in `central_pixels`.

    Returns:
        x and y in pixels of the frame, (B, h, w) each.
    """
    x = _central_coordinates(size[3], scale, flow)
    y = _central_coordinates(size[2], scale, flow)[min(scale, 2) * start :]
    return x + flow[:, 0], y[: flow.shape[2], None] + flow[:, 1]


def _central_coordinates(count: int, scale: int, like: Tensor) -> Tensor:
    coordinates = torch.arange(count, device=like.device, dtype=like.dtype)
    if scale > 2:
        cells = coordinates.view(-1, scale)
        coordinates = cells[:, scale // 2 - 1 : scale // 2 + 1].flatten()
    return coordinates


def to_grid(points: tuple[Tensor, Tensor], image: Tensor) -> Tensor:
    """Turns points in pixels of `image`, (B, C, H, W), into the grid that `sample` takes."""
    x, y = points
    height, width = image.shape[2:]
    grid = x.new_empty(*x.shape, 2)
    torch.sub(x * (2 / (width - 1)), 1, out=grid[..., 0])
    torch.sub(y * (2 / (height - 1)), 1, out=grid[..., 1])
    return grid


def warp_and_pool(target: Tensor, image: Tensor, points: tuple[Tensor, Tensor], pool: int) -> None:
    """Samples an image and writes the mean of each pool x pool samples.

    Args:
        target: (B, C, h, w), written to.
        image: (B, C, H, W).
        points: x and y in pixels, (B, pool * h, pool * w) each.
        pool: 1 or 2.
    """
    if image.device.type != "cpu":
        target[:] = resize(sample(image, to_grid(points, image)), 1 / pool)
        return
    for i in range(len(image)):
        one, at = image[i : i + 1], (points[0][i : i + 1], points[1][i : i + 1])
        if one.stride(1) == 1:
            target[i].permute(1, 2, 0).copy_(_gather_and_pool(one[0], *at, pool))
            continue
        bands = resize(sample_in_bands(one, to_grid(at, one), pool), 1 / pool)
        target[i].unflatten(1, (len(bands), -1)).transpose(0, 1).copy_(bands)


def _gather_and_pool(image: Tensor, x: Tensor, y: Tensor, pool: int) -> Tensor:
    """As `warp_and_pool`, of an image (C, H, W) whose channels lie together: returns (h, w, C).

    Each sample is a weighted sum of 4 pixels, for which torch has a fast loop in `embedding_bag`.
    """
    channels, height, width = image.shape
    x, y = x.clamp_(0, width - 1), y.clamp_(0, height - 1)
    left = x.to(torch.int32).clamp_(0, width - 2)  # within the image, even if x is NaN
    top = y.to(torch.int32).clamp_(0, height - 2)
    right = x.sub_(left).view(-1)
    down = y.sub_(top).mul_(1 / pool**2).view(-1)
    corners = torch.tensor([0, 1, width, width + 1], dtype=torch.int32)
    indices = torch.add(left, top, alpha=width).view(-1, 1) + corners
    weights = x.new_empty(len(indices), 4)
    torch.mul(right, down, out=weights[:, 3])
    torch.sub(down, weights[:, 3], out=weights[:, 2])
    torch.mul(right, 1 / pool**2, out=weights[:, 1]).sub_(weights[:, 3])
    torch.sub(1 / pool**2 - down, weights[:, 1], out=weights[:, 0])
    bag = 4 * pool  # sums up neighbours in a row, too
    samples = F.embedding_bag(
        indices.view(-1),
        image.permute(1, 2, 0).reshape(-1, channels),
        torch.arange(0, indices.numel() + 1, bag, dtype=torch.int32),
        mode="sum", per_sample_weights=weights.view(-1), include_last_offset=True,
    )  # fmt: skip
    samples = samples.view(-1, pool, x.shape[2] // pool, channels)
    return samples[:, 0] if pool == 1 else samples[:, 0] + samples[:, 1]
