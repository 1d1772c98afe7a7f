"""The refine module: Contextnet and Unet turn two warped frames into a residual correction.

Shared by the paper's network, its relatives, and RIFE v4.0 - v4.1. Upstream: ECCV2022-RIFE,
model/refine.py.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .warp import resize, warp

WIDTH = 16


def conv(in_planes: int, out_planes: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution and its PReLU."""
    return nn.Sequential(nn.Conv2d(in_planes, out_planes, 3, stride, 1), nn.PReLU(out_planes))


def deconv(in_planes: int, out_planes: int) -> nn.Sequential:
    """A transposed convolution that doubles the size, and its PReLU."""
    return nn.Sequential(nn.ConvTranspose2d(in_planes, out_planes, 4, 2, 1), nn.PReLU(out_planes))


class Conv2(nn.Module):
    """Two 3x3 convolutions, of which the first has the stride."""

    def __init__(self, in_planes: int, out_planes: int, stride: int = 2):
        super().__init__()
        self.conv1 = conv(in_planes, out_planes, stride)
        self.conv2 = conv(out_planes, out_planes)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Contextnet(nn.Module):
    """A pyramid of features of one frame, each level warped by the flow.

    Args:
        first_stride: 2, or 1 for IFNet_2R, whose pyramid starts at full resolution.
    """

    def __init__(self, first_stride: int = 2):
        super().__init__()
        self.first_stride = first_stride
        self.conv1 = Conv2(3, WIDTH, first_stride)
        self.conv2 = Conv2(WIDTH, 2 * WIDTH)
        self.conv3 = Conv2(2 * WIDTH, 4 * WIDTH)
        self.conv4 = Conv2(4 * WIDTH, 8 * WIDTH)

    def pyramid(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the features of an image, (B, 3, H, W), in four levels, each half as large."""
        level1 = self.conv1(image)
        level2 = self.conv2(level1)
        level3 = self.conv3(level2)
        return level1, level2, level3, self.conv4(level3)

    def warp_pyramid(self, pyramid: tuple[Tensor, ...], flow: Tensor) -> list[Tensor]:
        """Warps the levels of `pyramid` by `flow`, (B, 2, H, W) in pixels of the full frame."""
        warped = []
        for level in pyramid:
            if level.shape[-1] != flow.shape[-1]:
                flow = resize(flow, 0.5) * 0.5
            warped.append(warp(level, flow).to(level.dtype))
        return warped

    def forward(self, x: Tensor, flow: Tensor) -> list[Tensor]:
        """Returns the four warped levels of `x`, (B, 3, H, W); flow as in `warp_pyramid`."""
        return self.warp_pyramid(self.pyramid(x), flow)


class Unet(nn.Module):
    """Estimates a residual from both frames, as they are and warped, mask, flow and contexts.

    Args:
        first_stride: 2, or 1 for IFNet_2R, which halves the size in the last convolution instead.
    """

    #: The channels of the first convolution's input, named as in Network.inputs.
    inputs: ClassVar = {
        "unwarped0": 3,
        "unwarped1": 3,
        "image0": 3,
        "image1": 3,
        "mask": 1,
        "flow": 4,
    }
    #: Makes one input for a layer from its parts. An engine, whose layers take parts, replaces it.
    join: Callable[[Sequence[Tensor]], Any] = staticmethod(partial(torch.cat, dim=1))

    def __init__(self, first_stride: int = 2):
        super().__init__()
        self.down0 = Conv2(sum(self.inputs.values()), 2 * WIDTH, first_stride)
        self.down1 = Conv2(4 * WIDTH, 4 * WIDTH)
        self.down2 = Conv2(8 * WIDTH, 8 * WIDTH)
        self.down3 = Conv2(16 * WIDTH, 16 * WIDTH)
        self.up0 = deconv(32 * WIDTH, 8 * WIDTH)
        self.up1 = deconv(16 * WIDTH, 4 * WIDTH)
        self.up2 = deconv(8 * WIDTH, 2 * WIDTH)
        self.up3 = deconv(4 * WIDTH, WIDTH)
        self.conv = nn.Conv2d(WIDTH, 3, 3, 2 // first_stride, 1)

    def forward(
        self,
        img0: Tensor,
        img1: Tensor,
        warped_img0: Tensor,
        warped_img1: Tensor,
        mask: Tensor,
        flow: Tensor,
        c0: list[Tensor],
        c1: list[Tensor],
    ) -> Tensor:
        """Estimates the residual.

        Args:
            img0: The first frame, (B, 3, H, W).
            img1: The second frame.
            warped_img0: The first frame, warped.
            warped_img1: The second frame, warped.
            mask: (B, 1, H, W), before its sigmoid.
            flow: (B, 4, H, W), in pixels.
            c0: The context of the first frame, from Contextnet.
            c1: The context of the second frame.

        Returns:
            (B, 3, H, W) in [0, 1], where 0.5 means no change.
        """
        x = torch.cat((img0, img1, warped_img0, warped_img1, mask, flow), 1)
        return self.body(self.down0.conv1(x.to(self.conv.weight.dtype)), c0, c1)

    def body(self, x: Tensor, c0: list[Tensor], c1: list[Tensor]) -> Tensor:
        """Runs everything after the first convolution."""
        join = self.join
        s0 = self.down0.conv2(x)
        s1 = self.down1(join((s0, c0[0], c1[0])))
        s2 = self.down2(join((s1, c0[1], c1[1])))
        s3 = self.down3(join((s2, c0[2], c1[2])))
        x = self.up0(join((s3, c0[3], c1[3])))
        x = self.up1(join((x, s2)))
        x = self.up2(join((x, s1)))
        x = self.up3(join((x, s0)))
        return torch.sigmoid(self.conv(x))
