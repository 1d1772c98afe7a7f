"""Pairs of real frames, and measures of how far a frame is from the expected one."""

from itertools import islice

import av
import torch
import torch.nn.functional as F


def scaled_pair(path, index, height, width):
    """Frames `index` and `index` + 2, scaled up: (2, height, width, 3) in [0, 1]."""
    with av.open(str(path)) as container:
        images = [
            f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), index + 3)
        ]
    frames = torch.stack([torch.from_numpy(images[i]) for i in (index, index + 2)])
    scaled = F.interpolate(
        frames.permute(0, 3, 1, 2).float() / 255, size=(height, width), mode="bicubic"
    )
    return scaled.clamp(0, 1).permute(0, 2, 3, 1)


def psnr(error):
    return -10 * error.square().mean().clamp(min=1e-12).log10().item()


def worst_tile(error):
    tiles = F.avg_pool2d(error.square().mean(-1)[None, None], 64)
    return -10 * tiles.max().clamp(min=1e-12).log10().item()
