"""Small copies of frames, on which cuts and repeats are looked for."""

import torch
import torch.nn.functional as F
from torch import Tensor

#: The long side of a thumbnail, in pixels.
SIDE = 160


def make_thumbnail(image: Tensor) -> Tensor:
    """Shrink a frame, on its own device, to what the functions below compare.

    image: (H, W, C) of any size; C 1 (grey), 3, or 4 (alpha is left out); uint8, or floats in
        [0, 1].
    Returns (3, h, w), float32 in [0, 1] on the CPU; the long side is 160 or the image's own.
    """
    height, width, channels = image.shape
    # Two samples each way for a pixel of the thumbnail: all those of 1080p take ten times as long.
    step = max(1, max(height, width) // (2 * SIDE))
    x = image.detach()[::step, ::step, : min(3, channels)].permute(2, 0, 1).contiguous().float()
    shrink = min(1, SIDE / max(height, width))
    x = F.adaptive_avg_pool2d(x, [max(1, round(side * shrink)) for side in (height, width)])
    x = x / 255 if image.dtype == torch.uint8 else x.clamp(0, 1)
    return x.cpu().expand(3, -1, -1)
