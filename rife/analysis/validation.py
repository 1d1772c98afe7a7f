"""Checks that images can be frames: their shape first, which costs nothing, then their values."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: The largest mean of a frame in HDR; brighter images count as frames of 0 to 255.
MOST_MEAN = 8


def check_shape(image: Tensor, index: int, shape: Sequence[int] | None = None) -> None:
    """Checks the shape and dtype of a frame.

    Args:
        image: The frame, (H, W, C).
        index: Its number, for the message.
        shape: That of the frames before it.

    Raises:
        ValueError: It can't be a frame, or is of another size.
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"frame {index} is {tuple(image.shape)}, not (height, width, channels) of 1, 3 or 4 "
            "channels"
        )
    if shape is not None and image.shape != shape:
        raise ValueError(
            f"frame {index} is {_describe(image.shape)}, but the frames before are "
            f"{_describe(shape)}: all frames must be of one size"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(
            f"frame {index} is {image.dtype}; frames are float (0 to 1) or uint8 (0 to 255)"
        )


def check_values(image: Tensor, index: int) -> tuple[float, float]:
    """Checks the values of a frame.

    Args:
        image: The frame, (H, W, C), floats or uint8.
        index: Its number, for the message.

    Returns:
        The smallest and the largest value; 0 and 1 for uint8.

    Raises:
        ValueError: They can't be a frame's.
    """
    if image.dtype == torch.uint8:
        return 0, 1
    in_memory_order = sorted(range(image.ndim), key=image.stride, reverse=True)  # the fastest
    low, high = torch.stack(torch.aminmax(image.permute(in_memory_order))).tolist()
    if not (low > float("-inf") and high < float("inf")):  # NaN fails both
        raise ValueError(
            f"frame {index} has NaN or infinite values: whatever made it failed (a VAE in float16 "
            "is a common cause). Make it again before interpolating"
        )
    if low < -0.5 or (high > 1.5 and image.mean(dtype=torch.float32) > MOST_MEAN):
        raise ValueError(
            f"frame {index} has values from {low:.3g} to {high:.3g}, but float frames are in "
            "[0, 1], with highlights beyond: divide by 255, or map [-1, 1] to [0, 1], first"
        )
    return low, high


def _describe(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{width}x{height} with {channels} channels"
