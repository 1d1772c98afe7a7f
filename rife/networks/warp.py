"""Backward warping and the bilinear resizing that every RIFE network shares."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Samples `image` where `flow` points to (backward warping). Beyond its border it repeats.

    Coordinates and sampling are at least float32: in float16 a coordinate beyond 2048 is off by
    whole pixels (Practical-RIFE issue 188).

    Args:
        image: (B, C, H, W).
        flow: (B, 2, H, W), the x and y displacement in pixels.

    Returns:
        (B, C, H, W).
    """
    image, flow = at_least_float32(image), at_least_float32(flow)
    height, width = image.shape[-2:]
    x = _unit_axis(width, flow) + flow[:, 0] / max((width - 1) / 2, 0.5)
    y = _unit_axis(height, flow)[:, None] + flow[:, 1] / max((height - 1) / 2, 0.5)
    return sample(image, torch.stack((x, y), dim=-1))


def sample(image: Tensor, grid: Tensor) -> Tensor:
    """Samples an image bilinearly. Beyond its border it repeats.

    Args:
        image: (B, C, H, W).
        grid: (B, h, w, 2), the points as x and y; -1 and 1 are the centres of the first and the
            last pixel.

    Returns:
        (B, C, h, w).
    """
    if len(grid) > 1 or grid.device.type != "cpu":
        return _sample(image, grid)
    bands = sample_in_bands(image, grid)
    return bands.transpose(0, 1).reshape(1, image.shape[1], *grid.shape[1:3])


def sample_in_bands(image: Tensor, grid: Tensor, rows: int = 1) -> Tensor:
    """Samples one image as a batch of bands, since torch samples a batch with one core an image.

    Args:
        image: (1, C, H, W).
        grid: (1, h, w, 2), as in `sample`.
        rows: Each band's height is a multiple of it.

    Returns:
        (bands, C, h / bands, w).
    """
    bands = math.gcd(grid.shape[1] // rows, torch.get_num_threads())
    return _sample(image.expand(bands, -1, -1, -1), grid.reshape(bands, -1, *grid.shape[2:]))


def _sample(image: Tensor, grid: Tensor) -> Tensor:
    padding = "border"
    if not _supports_border_padding(grid.device.type):  # clamped coordinates do the same
        grid, padding = grid.clamp(-1, 1), "zeros"
    return F.grid_sample(image, grid, "bilinear", padding, align_corners=True)


@cache
def _supports_border_padding(device_type: str) -> bool:
    """Apple's devices don't, in torch so far."""
    image, grid = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2)
    try:
        F.grid_sample(image.to(device_type), grid.to(device_type), "bilinear", "border", True)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _unit_axis(size: int, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, size, device=like.device, dtype=like.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Returns `x`, in float32 if its dtype is narrower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def resize(x: Tensor, factor: float) -> Tensor:
    """Resizes `x`, (B, C, H, W), bilinearly by `factor`, with align_corners=False."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def swap_directions(flow: Tensor) -> Tensor:
    """Turns the flow of a pair, (B, 4, H, W), into that of the pair in the opposite order."""
    return torch.cat((flow[:, 2:4], flow[:, :2]), dim=1)
