"""Seeded random weights and images, the same on every machine, whose flows reach several pixels."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded_state(module: nn.Module, gain: float = 0.5, seed: int = 0) -> dict[str, Tensor]:
    """A state dict for `module`; `gain` scales the blocks' last layers, and so the flow."""
    random = np.random.RandomState(seed)
    state = {}
    for key, tensor in sorted(module.state_dict().items()):
        values = torch.from_numpy(random.standard_normal(tuple(tensor.shape)).astype(np.float32))
        if key.endswith("beta"):
            values = 0.3 * values
        elif key.endswith("bias"):
            values = 0.05 * values
        elif tensor.ndim == 1:  # PReLU slopes
            values = 0.25 + 0.05 * values
        else:
            fan_in = tensor[0].numel() if "lastconv" not in key else 4 * tensor.shape[0]
            values = values * (1.6 / fan_in) ** 0.5
            if is_last_layer(key):
                values = values * gain
        state[key] = values
    return state


def is_last_layer(key: str) -> bool:
    """Of an IFBlock: `lastconv`, or HDv3's two heads (but not their first layers)."""
    return "lastconv" in key or (
        key.startswith("block")
        and key.endswith(("conv1.2.weight", "conv2.2.weight", "conv1.0.weight", "conv2.weight"))
        and ".conv0." not in key
    )


def seeded_images(height: int, width: int, count: int = 2, batch: int = 1, seed: int = 1) -> Tensor:
    """(batch, 3 * count, height, width) in [0, 1]: smooth random images."""
    random = np.random.RandomState(seed)
    small = random.random_sample((batch * count, 3, height // 8 + 2, width // 8 + 2))
    images = F.interpolate(
        torch.from_numpy(small.astype(np.float32)), size=(height, width), mode="bicubic"
    )
    return images.clamp(0, 1).reshape(batch, 3 * count, height, width)


def seeded_clip(count: int, height: int, width: int, seed: int = 1) -> Tensor:
    """(count, height, width, 3) in [0, 1], no two frames the same."""
    x = seeded_images(height, width, count=count, seed=seed)
    return x.view(count, 3, height, width).permute(0, 2, 3, 1).contiguous()
