"""IFNet, the Intermediate Flow Network of the RIFE paper, for the midpoint of two frames.

Huang et al., "Real-Time Intermediate Flow Estimation for Video Frame Interpolation", ECCV 2022.
State-dict keys are those of the published code (ECCV2022-RIFE, model/IFNet.py), which CogVideo's
demo carries too.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Block, Motion, Network, Prepared
from .refine import Contextnet, Unet, conv
from .warp import at_least_float32, resize, warp


class IFBlock(Block):
    """One step of refinement: features of the pair and the flow so far -> change of flow and mask.

    in_planes: channels of `x` and `flow` together. c: width of the eight convolutions.
    """

    #: Stride of the first convolution; IFNet_2R keeps the resolution there.
    first_stride: ClassVar[int] = 2

    def __init__(self, in_planes: int, c: int = 64):
        super().__init__()
        self.conv0 = nn.Sequential(
            conv(in_planes, c // 2, self.first_stride), conv(c // 2, c, stride=2)
        )
        self.convblock = nn.Sequential(*(conv(c, c) for _ in range(8)))
        self.lastconv = nn.ConvTranspose2d(c, 5, 4, 2, 1)
        self.up = self.first_stride

    def forward(self, x: Tensor, flow: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        """x: (B, C, H, W); flow: (B, 4, H, W) in pixels, or None at the first stage; scale: how far
        the input is reduced. Returns flow (B, 4, H, W) in pixels and mask (B, 1, H, W), unbounded.
        """
        x = resize(x, 1 / scale)
        if flow is not None:
            x = torch.cat((x, resize(flow, 1 / scale) / scale), 1)
        return self.estimate(x, scale)[:2]

    def body(self, x: Tensor) -> Tensor:
        x = self.conv0[1](x)
        return self.lastconv(self.convblock(x) + x)


class IFNet(Network):
    """Three student blocks, coarse to fine, the refine module, and a teacher for training.

    A fixed-timestep network: it makes the frame halfway between its inputs.
    """

    version = "RIFE (paper, ECCV 2022)"
    any_timestep: ClassVar[bool] = False
    scales = (4, 2, 1)
    built_in = frozenset({"refine"})
    bytes_per_pixel = 620
    block: ClassVar[type[IFBlock]] = IFBlock
    #: Channels that the family's members add to every block's input.
    extra_planes: ClassVar[int] = 0

    def __init__(self):
        super().__init__()
        extra, first_stride = self.extra_planes, self.block.first_stride
        self.block0 = self.block(6 + extra, c=240)
        self.block1 = self.block(13 + 4 + extra, c=150)
        self.block2 = self.block(13 + 4 + extra, c=90)
        self.block_tea = self.block(16 + 4 + extra, c=90)
        self.contextnet = Contextnet(first_stride)
        self.unet = Unet(first_stride)
        still = {"still0": 3, "still1": 3, "time": extra}
        self.inputs = still | {"image0": 3, "image1": 3, "mask": 1, "flow": 4}

    @property
    def blocks(self) -> list[IFBlock]:
        return [self.block0, self.block1, self.block2]

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "IFNet | None":
        """Known by its first convolution, 6 channels wide (IFNet_m: 7), and its refine module.

        IFNet_2R has the very same keys and shapes: only its name tells it apart.
        """
        first = state.get("block0.conv0.0.0.weight")
        is_ours = (
            first is not None
            and first.shape[:2] == (120, 6 + cls.extra_planes)
            and "unet.conv.weight" in state
        )
        return cls() if is_ours else None

    def forward(
        self, x: Tensor, scale: Sequence[float] = (4, 2, 1), timestep: float = 0.5
    ) -> tuple[list[Tensor], Tensor, list[Tensor], Tensor | None, Tensor | None, float | Tensor]:
        """The published interface, for inference and training.

        x: img0, img1 and, in training, the ground truth, along the channels: (B, 6 or 9, H, W) in
            [0, 1], sides multiples of 4 x the largest scale and of 32.
        scale: the three blocks' scale factors. timestep: the midpoint, whatever it says.
        Returns flow_list: 3 x (B, 4, H, W) in pixels; mask: (B, 1, H, W) in [0, 1]; merged:
            3 x (B, 3, H, W), where merged[2] is the interpolated frame; flow_teacher: (B, 4, H, W),
            merged_teacher: (B, 3, H, W), both None at inference; loss_distill: 0-d, 0 at inference.
        """
        if x.shape[1] not in (6, 9):
            raise ValueError(
                f"IFNet takes 6 channels (two RGB frames) or 9 (and the ground truth), "
                f"not {x.shape[1]}"
            )
        img0, img1, gt = x[:, :3], x[:, 3:6], x[:, 6:]
        plane = self._plane(x, timestep)

        flow_list, mask_list, merged = [], [], []
        for flow, mask, warped0, warped1 in self._students(img0, img1, scale, plane):
            flow_list.append(flow)
            mask_list.append(torch.sigmoid(mask))
            merged.append(warped0 * mask_list[-1] + warped1 * (1 - mask_list[-1]))

        flow_teacher, merged_teacher, loss_distill = None, None, 0.0
        if gt.shape[1] == 3:
            context = torch.cat((img0, img1, *plane, warped0, warped1, mask, gt), 1)
            flow_change, mask_change = self.block_tea(context, flow, scale=1)
            flow_teacher = flow + flow_change
            mask_teacher = torch.sigmoid(mask + mask_change)
            merged_teacher = warp(img0, flow_teacher[:, :2]) * mask_teacher + warp(
                img1, flow_teacher[:, 2:4]
            ) * (1 - mask_teacher)
            loss_distill = sum(
                _distillation(flow_teacher, merged_teacher, flow_i, merged_i, gt)
                for flow_i, merged_i in zip(flow_list, merged, strict=True)
            )

        pyramid0, pyramid1 = self.contextnet.pyramid(img0), self.contextnet.pyramid(img1)
        residual = self._residual(img0, img1, warped0, warped1, mask, flow, pyramid0, pyramid1)
        merged[2] = torch.clamp(merged[2] + residual, 0, 1)
        return flow_list, mask_list[2], merged, flow_teacher, merged_teacher, loss_distill

    def prepare(self, image: Tensor, *, refine: bool = False) -> Prepared:
        return Prepared(image.float(), self.contextnet.pyramid(image.to(self.dtype)))

    def motion(
        self,
        frame0: Prepared,
        frame1: Prepared,
        timestep: float | Tensor = 0.5,
        *,
        scale: float = 1.0,
        ensemble: bool = False,
        refine: bool = False,
    ) -> Motion:
        scales = [s / scale for s in self.scales]
        plane = self._plane(frame0.image, timestep)
        *_, (flow, mask, warped0, warped1) = self._students(
            frame0.image, frame1.image, scales, plane
        )
        residual = self._residual(
            frame0.image, frame1.image, warped0, warped1, mask, flow,
            frame0.pyramid, frame1.pyramid,
        )  # fmt: skip
        return Motion(flow, torch.sigmoid(mask), residual)

    def _plane(self, like: Tensor, timestep: float | Tensor) -> tuple[Tensor, ...]:
        """The family's extra input planes; none here, where the timestep is fixed."""
        return ()

    def _students(self, img0, img1, scales, plane):
        """Yield flow, mask (before its sigmoid) and both warped frames after each block."""
        flow = mask = None
        warped0, warped1 = img0, img1
        for block, scale in zip(self.blocks, scales, strict=True):
            if flow is None:
                flow, mask = block(torch.cat((img0, img1, *plane), 1), None, scale=scale)
            else:
                x = torch.cat((img0, img1, *plane, warped0, warped1, mask), 1)
                flow_change, mask_change = block(x, flow, scale=scale)
                flow = flow + flow_change
                mask = mask + mask_change
            warped0 = warp(img0, flow[:, :2])
            warped1 = warp(img1, flow[:, 2:4])
            yield flow, mask, warped0, warped1

    def _residual(self, img0, img1, warped0, warped1, mask, flow, pyramid0, pyramid1) -> Tensor:
        c0 = self.contextnet.warp_pyramid(pyramid0, flow[:, :2])
        c1 = self.contextnet.warp_pyramid(pyramid1, flow[:, 2:4])
        refined = self.unet(img0, img1, warped0, warped1, mask, flow, c0, c1)
        return at_least_float32(refined) * 2 - 1


def _distillation(flow_teacher, merged_teacher, flow, merged, gt) -> Tensor:
    """Distance of a student's flow from the teacher's, where the student's frame is clearly worse.

    The norm over 2 is the root of the mean square of 4 channels, with a gradient of 0 and not NaN
    where both flows are equal.
    """
    error = (merged - gt).abs().mean(1, keepdim=True)
    error_teacher = (merged_teacher - gt).abs().mean(1, keepdim=True)
    worse = (error > error_teacher + 0.01).detach()
    distance = torch.linalg.vector_norm(flow_teacher.detach() - flow, dim=1, keepdim=True) / 2
    return (distance * worse).mean()


class IFNet_m(IFNet):
    """The paper's network for any timestep, told to every block as one more input plane.

    As IFNet; `timestep` in (0, 1) is where between the two frames the new one lies.
    Upstream: ECCV2022-RIFE, model/IFNet_m.py.
    """

    version = "RIFEm (paper, any timestep)"
    any_timestep: ClassVar[bool] = True
    extra_planes: ClassVar[int] = 1

    def _plane(self, like: Tensor, timestep: float | Tensor) -> tuple[Tensor, ...]:
        return (torch.ones_like(like[:, :1]) * timestep,)


class IFBlock_2R(IFBlock):
    """An IFBlock whose first convolution keeps the resolution."""

    first_stride: ClassVar[int] = 1


class IFNet_2R(IFNet):
    """The paper's network at twice the resolution, sharper and about four times slower: every block
    and the refine module.

    Upstream: ECCV2022-RIFE, model/IFNet_2R.py. Its checkpoints look exactly like IFNet's.
    """

    version = "RIFE 2R (paper, twice the resolution)"
    bytes_per_pixel = 2200
    block: ClassVar[type[IFBlock]] = IFBlock_2R
