"""Frames with values beyond 1 (HDR, EXR): through a curve into the networks' [0, 1], and back.

Networks would clamp them: a new frame would then be darker than the frames beside it.
"""

import math

import torch
from torch import Tensor


def compress(image: Tensor, peak: float) -> Tensor:
    """Bring colours in [0, peak] into [0, 1].

    Nearly linear for a `peak` near 1; a large one leaves the values up to 1 about half the range.

    Args:
        image: (H, W, C), floats; a fourth channel is transparency, which stays as it is.
        peak: The largest value of this frame and of those that it is used with, over 1.
    """
    image, bend = image.float(), peak - 1
    colors = torch.log1p(image[..., :3].clamp(min=0) * bend) / math.log1p(peak * bend)
    return torch.cat((colors, image[..., 3:]), 2)


def expand(image: Tensor, peak: float) -> Tensor:
    """Undo `compress`."""
    image, bend = image.float(), peak - 1
    colors = torch.expm1(image[..., :3] * math.log1p(peak * bend)) / bend
    return torch.cat((colors, image[..., 3:]), 2)
