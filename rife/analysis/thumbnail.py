"""Shrinks frames to thumbnails, on which cuts and repeated frames are detected."""

import torch
import torch.nn.functional as F
from torch import Tensor

#: The longer side of a thumbnail, in pixels.
LONGER_SIDE = 160


def make_thumbnail(image: Tensor) -> Tensor:
    """Shrinks a frame, on its own device, to the size at which cuts and repeats are detected.

    Args:
        image: (H, W, C) of any size; C is 1 (grey), 3 (RGB) or 4 (RGB and alpha, which is
            ignored); uint8, or floats in [0, 1].

    Returns:
        (3, h, w) float32 in [0, 1], on the CPU. The longer side is 160 pixels, or the image's own
        where that is shorter.
    """
    height, width, channels = image.shape
    longer_side = max(height, width)
    # Two samples per pixel and axis are enough; averaging all pixels of 1080p takes ten times as
    # long.
    step = max(1, longer_side // (2 * LONGER_SIDE))
    x = image.detach()[::step, ::step, : min(3, channels)].permute(2, 0, 1).contiguous().float()
    shrink = min(1, LONGER_SIDE / longer_side)
    x = F.adaptive_avg_pool2d(x, [max(1, round(side * shrink)) for side in (height, width)])
    x = x / 255 if image.dtype == torch.uint8 else x.clamp(0, 1)
    return x.cpu().expand(3, -1, -1)
