"""The frames of a session: what is asked for, their size, and their conversion to and from tensors
as networks take them."""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..networks.base import Network
from ..options import Options


class Job(NamedTuple):
    """One frame to render, at a timestep in (0, 1) between two others of shape (H, W, C)."""

    first: Tensor
    second: Tensor
    timestep: Fraction


@dataclass(frozen=True)
class FrameSpec:
    """The size of frames, and what follows from it for the network.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha).
        scale: The resolution of the flow estimate, see `Options`.
        multiple: The network takes frames whose sides are multiples of this, in pixels.
    """

    height: int
    width: int
    channels: int
    scale: float
    multiple: int

    @classmethod
    def of(cls, frame: Tensor, network: Network, options: Options) -> "FrameSpec":
        """The spec of frames like `frame`, of shape (H, W, C)."""
        height, width, channels = frame.shape
        scale = options.scale_for(height, width)
        return cls(height, width, channels, scale, network.side_multiple(scale))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of a frame."""
        return self.height, self.width, self.channels


def to_network_input(frames: Tensor, multiple: int) -> Tensor:
    """Converts frames to what networks take.

    Args:
        frames: (B, H, W, C), uint8 or floats, on the network's device.
        multiple: See FrameSpec.

    Returns:
        (B, C, H', W') float32 in [0, 1], padded on the right and bottom.
    """
    x = rearrange(frames, "b h w c -> b c h w")
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float().clamp(0, 1)
    return pad(x.contiguous(), multiple)


def to_frames(rendered: Tensor, spec: FrameSpec, dtype: torch.dtype) -> Tensor:
    """Converts what a network rendered to frames.

    Args:
        rendered: (B, C, H', W') in [0, 1], as padded as the network's input.
        spec: Of the frames.
        dtype: Of the frames; uint8 or floats.

    Returns:
        (B, H, W, C).
    """
    frames = rearrange(rendered, "b c h w -> b h w c")[:, : spec.height, : spec.width]
    return to_dtype(frames, dtype)


def to_dtype(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts floats in [0, 1] to `dtype`; to uint8 by rounding."""
    if dtype == torch.uint8:
        frames = (frames * 255).round_()
    return frames.to(dtype)


def to_rgb(x: Tensor) -> Tensor:
    """(B, 1, 3 or 4, H, W) -> the (B, 3, H, W) by which networks estimate motion."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]


def pad(x: Tensor, multiple: int) -> Tensor:
    """Pads (B, C, H, W) on the right and bottom to multiples of `multiple`, repeating the border.

    Upstream pads with black, into which things that leave the frame seem to move: a ghost, and
    0.5 dB along the border (benchmarks/padding.py).
    """
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
