"""Allocates what nodes return, and refuses what memory can't hold before anything runs."""

import math
from collections.abc import Sequence

import psutil
import torch
from comfy import model_management
from torch import Tensor

from ..rife.inference.malloc import empty


def empty_images(like: Tensor, count: int) -> Tensor:
    """Returns uninitialised images of the dtype and on the device that ComfyUI wants of nodes.

    Args:
        like: (N, H, W, C), images of the same size.
        count: How many images.

    Raises:
        ValueError: There is not enough memory.
    """
    dtype = getattr(model_management, "intermediate_dtype", lambda: like.dtype)()
    device = model_management.intermediate_device()
    shape = (count, *like.shape[1:])
    check_memory(shape, dtype, device, "make fewer, or use RIFE Video Interpolate, file to file")
    return empty(shape, dtype, device)


def check_memory(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, advice: str
) -> None:
    """Raises ValueError, with the advice, if there is not enough memory for images (N, H, W, C)."""
    needed, free = math.prod(shape) * dtype.itemsize, model_management.get_free_memory(device)
    if needed > free and device.type == "cpu":
        free += psutil.swap_memory().free
    if needed > free:
        frames, height, width, _ = shape
        raise ValueError(
            f"{frames:,} frames of {width}x{height} take {needed / 1e9:,.1f} GB of memory, but "
            f"{free / 1e9:,.1f} GB are free: {advice}."
        )
