"""IFNet HDv3: RIFE v3.5 - v3.9, for the midpoint of two frames.

Each block runs for both orders of the pair, and the results are averaged. Upstream:
Practical-RIFE's v3.5 and v3.6 - v3.9 (CogVideo's demo runs the latter). As in CogVideo, both orders
are always averaged and scales never change on the way; later upstream code made both optional.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Block, Motion, Network, PreparedFrames
from .refine import conv
from .warp import resize, swap_directions, warp


class IFBlock(Block):
    """One step of the estimate, with separate heads for flow and mask.

    Args:
        in_planes: Channels of `x` and `flow` together.
        c: Width of the convolutions.
        deconvs: Transposed convolutions in each head: 1 (v3.5) or 2 (v3.6 - v3.9).
    """

    def __init__(self, in_planes: int, c: int, deconvs: int):
        super().__init__()
        self.conv0 = nn.Sequential(conv(in_planes, c // 2, stride=2), conv(c // 2, c, stride=2))
        self.convblock0 = nn.Sequential(conv(c, c), conv(c, c))
        self.convblock1 = nn.Sequential(conv(c, c), conv(c, c))
        self.convblock2 = nn.Sequential(conv(c, c), conv(c, c))
        self.convblock3 = nn.Sequential(conv(c, c), conv(c, c))
        if deconvs == 1:
            # Only the flow's head is a Sequential, as the published keys have it.
            self.conv1 = nn.Sequential(nn.ConvTranspose2d(c, 4, 4, 2, 1))
            self.conv2 = nn.ConvTranspose2d(c, 1, 4, 2, 1)
        else:
            self.conv1 = _head(c, 4)
            self.conv2 = _head(c, 1)
        self.output_stride = 4 // 2**deconvs

    def forward(self, x: Tensor, flow: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Estimates a change of flow and mask.

        Args:
            x: Both warped frames and the mask, (B, 7, H, W).
            flow: (B, 4, H, W) in pixels.
            scale: By how much the input is reduced.

        Returns:
            Flow, (B, 4, H, W) in pixels, and the mask before its sigmoid, (B, 1, H, W).
        """
        x = torch.cat((resize(x, 1 / scale), resize(flow, 1 / scale) / scale), 1)
        return self.estimate(x, scale)[:2]

    def body(self, x: Tensor) -> Tensor:
        x = self.conv0[1](x)
        for pair in (self.convblock0, self.convblock1, self.convblock2, self.convblock3):
            x = pair(x) + x
        return torch.cat((self.conv1(x), self.conv2(x)), 1)


def _head(c: int, out_planes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(c, c // 2, 4, 2, 1),
        nn.PReLU(c // 2),
        nn.ConvTranspose2d(c // 2, out_planes, 4, 2, 1),
    )


class IFNet_HDv3(Network):
    """Three blocks, coarse to fine.

    Args:
        deconvs: As in IFBlock.
    """

    any_timestep: ClassVar[bool] = False
    scales = (4, 2, 1)
    built_in = frozenset({"ensemble"})
    bytes_per_pixel = 450
    inputs: ClassVar = {"image0": 3, "image1": 3, "mask": 1, "flow": 4}

    def __init__(self, deconvs: int = 2):
        super().__init__()
        self.version = {1: "RIFE v3.5", 2: "RIFE v3.6 - v3.9"}[deconvs]
        self.block0 = IFBlock(7 + 4, 90, deconvs)
        self.block1 = IFBlock(7 + 4, 90, deconvs)
        self.block2 = IFBlock(7 + 4, 90, deconvs)

    @property
    def blocks(self) -> list[IFBlock]:
        return [self.block0, self.block1, self.block2]

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "IFNet_HDv3 | None":
        """Known by the heads' last layers and 11 input channels (RIFE v3.1 has 6 and no mask)."""
        first = state.get("block0.conv0.0.0.weight")
        if first is None or first.shape[1] != 11:
            return None
        if "block0.conv2.2.weight" in state:
            return cls(deconvs=2)
        if "block0.conv2.weight" in state:
            return cls(deconvs=1)
        return None

    def motion(
        self,
        frame0: PreparedFrames,
        frame1: PreparedFrames,
        timestep: float | Tensor = 0.5,
        *,
        scale: float = 1.0,
        ensemble: bool = False,
        refine: bool = False,
    ) -> Motion:
        img0, img1 = frame0.image, frame1.image
        flow = torch.zeros_like(img0[:, :1]).repeat(1, 4, 1, 1)
        mask = torch.zeros_like(img0[:, :1])
        for i, block in enumerate(self.blocks):
            warped0 = warp(img0, flow[:, :2]) if i else img0
            warped1 = warp(img1, flow[:, 2:]) if i else img1
            s = self.scales[i] / scale
            forward = block(torch.cat((warped0, warped1, mask), 1), flow, s)
            reverse = block(torch.cat((warped1, warped0, -mask), 1), swap_directions(flow), s)
            flow = flow + (forward[0] + swap_directions(reverse[0])) / 2
            mask = mask + (forward[1] - reverse[1]) / 2
        return Motion(flow, torch.sigmoid(mask))
