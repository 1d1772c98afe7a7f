"""IFNet, the Intermediate Flow Network of the RIFE paper, and its relatives IFNet_m and IFNet_2R.

Huang et al., "Real-Time Intermediate Flow Estimation for Video Frame Interpolation", ECCV 2022.
State-dict keys are those of the published code (ECCV2022-RIFE, model/IFNet.py), of which CogVideo's
demo has a copy.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Block, Motion, Network, PreparedFrames
from .refine import Contextnet, Unet, conv
from .warp import at_least_float32, resize, warp


class IFBlock(Block):
    """One step of the estimate: adds to flow and mask at the block's own resolution.

    Args:
        in_planes: Channels of `x` and `flow` together.
        c: Width of the eight convolutions.
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
        self.output_stride = self.first_stride

    def forward(self, x: Tensor, flow: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        """Estimates a change of flow and mask.

        Args:
            x: All of the block's input but the flow, (B, C, H, W).
            flow: (B, 4, H, W) in pixels, or None at the first block.
            scale: By how much the input is reduced.

        Returns:
            Flow, (B, 4, H, W) in pixels, and the mask before its sigmoid, (B, 1, H, W).
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

    It makes the frame halfway between its inputs, and no other.
    """

    version = "RIFE (paper, ECCV 2022)"
    any_timestep: ClassVar[bool] = False
    scales = (4, 2, 1)
    built_in = frozenset({"refine"})
    bytes_per_pixel = 620
    block: ClassVar[type[IFBlock]] = IFBlock
    #: Channels of the timestep in every block's input; none here, where it is fixed.
    time_planes: ClassVar[int] = 0

    def __init__(self):
        super().__init__()
        time, first_stride = self.time_planes, self.block.first_stride
        self.block0 = self.block(6 + time, c=240)
        self.block1 = self.block(13 + 4 + time, c=150)
        self.block2 = self.block(13 + 4 + time, c=90)
        self.block_tea = self.block(16 + 4 + time, c=90)
        self.contextnet = Contextnet(first_stride)
        self.unet = Unet(first_stride)
        first = {"unwarped0": 3, "unwarped1": 3, "time": time}
        self.inputs = first | {"image0": 3, "image1": 3, "mask": 1, "flow": 4}

    @property
    def blocks(self) -> list[IFBlock]:
        return [self.block0, self.block1, self.block2]

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "IFNet | None":
        """Known by its first convolution, of 6 channels (IFNet_m: 7), and its refine module.

        IFNet_2R has the very same keys and shapes: users have to name it.
        """
        first = state.get("block0.conv0.0.0.weight")
        fits = (
            first is not None
            and first.shape[:2] == (120, 6 + cls.time_planes)
            and "unet.conv.weight" in state
        )
        return cls() if fits else None

    def forward(
        self, x: Tensor, scale: Sequence[float] = (4, 2, 1), timestep: float = 0.5
    ) -> tuple[list[Tensor], Tensor, list[Tensor], Tensor | None, Tensor | None, float | Tensor]:
        """The published interface, for inference and training.

        Args:
            x: img0, img1 and, in training, the ground truth, along the channels: (B, 6 or 9, H, W)
                in [0, 1], sides multiples of 4 x the largest scale and of 32.
            scale: The three blocks' scale factors.
            timestep: Of IFNet_m; IFNet makes the midpoint, whatever it says.

        Returns:
            flow_list: 3 x (B, 4, H, W), in pixels, after each block.
            mask: (B, 1, H, W), in [0, 1].
            merged: 3 x (B, 3, H, W); merged[2] is the interpolated frame.
            flow_teacher: (B, 4, H, W), or None at inference.
            merged_teacher: (B, 3, H, W), or None at inference.
            loss_distill: 0-d, or 0 at inference.

        Raises:
            ValueError: `x` has other than 6 or 9 channels.
        """
        if x.shape[1] not in (6, 9):
            raise ValueError(
                f"IFNet takes 6 channels (two RGB frames) or 9 (and the ground truth), "
                f"not {x.shape[1]}"
            )
        img0, img1, gt = x[:, :3], x[:, 3:6], x[:, 6:]
        time = self._time(x, timestep)

        flow_list, mask_list, merged = [], [], []
        for flow, mask, warped0, warped1 in self._students(img0, img1, scale, time):
            flow_list.append(flow)
            mask_list.append(torch.sigmoid(mask))
            merged.append(warped0 * mask_list[-1] + warped1 * (1 - mask_list[-1]))

        flow_teacher, merged_teacher, loss_distill = None, None, 0.0
        if gt.shape[1] == 3:
            teacher_input = torch.cat((img0, img1, *time, warped0, warped1, mask, gt), 1)
            flow_change, mask_change = self.block_tea(teacher_input, flow, scale=1)
            flow_teacher = flow + flow_change
            mask_teacher = torch.sigmoid(mask + mask_change)
            warped_teacher0 = warp(img0, flow_teacher[:, :2])
            warped_teacher1 = warp(img1, flow_teacher[:, 2:4])
            merged_teacher = warped_teacher0 * mask_teacher + warped_teacher1 * (1 - mask_teacher)
            loss_distill = sum(
                _distillation_loss(flow_teacher, merged_teacher, flow_i, merged_i, gt)
                for flow_i, merged_i in zip(flow_list, merged, strict=True)
            )

        pyramid0, pyramid1 = self.contextnet.pyramid(img0), self.contextnet.pyramid(img1)
        residual = self._residual(img0, img1, warped0, warped1, mask, flow, pyramid0, pyramid1)
        merged[2] = torch.clamp(merged[2] + residual, 0, 1)
        return flow_list, mask_list[2], merged, flow_teacher, merged_teacher, loss_distill

    def prepare(self, image: Tensor, *, refine: bool = False) -> PreparedFrames:
        return PreparedFrames(image.float(), self.contextnet.pyramid(image.to(self.dtype)))

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
        scales = [s / scale for s in self.scales]
        time = self._time(frame0.image, timestep)
        *_, (flow, mask, warped0, warped1) = self._students(
            frame0.image, frame1.image, scales, time
        )
        residual = self._residual(
            frame0.image, frame1.image, warped0, warped1, mask, flow,
            frame0.pyramid, frame1.pyramid,
        )  # fmt: skip
        return Motion(flow, torch.sigmoid(mask), residual)

    def _time(self, image: Tensor, timestep: float | Tensor) -> tuple[Tensor, ...]:
        """The input planes of the timestep, of the size of `image`, `time_planes` of them."""
        return ()

    def _students(
        self,
        img0: Tensor,
        img1: Tensor,
        scales: Sequence[float],
        time: tuple[Tensor, ...],
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yields flow, mask (before its sigmoid) and both warped frames after each block."""
        flow = mask = None
        warped0, warped1 = img0, img1
        for block, scale in zip(self.blocks, scales, strict=True):
            if flow is None:
                flow, mask = block(torch.cat((img0, img1, *time), 1), None, scale=scale)
            else:
                x = torch.cat((img0, img1, *time, warped0, warped1, mask), 1)
                flow_change, mask_change = block(x, flow, scale=scale)
                flow = flow + flow_change
                mask = mask + mask_change
            warped0 = warp(img0, flow[:, :2])
            warped1 = warp(img1, flow[:, 2:4])
            yield flow, mask, warped0, warped1

    def _residual(self, img0, img1, warped0, warped1, mask, flow, pyramid0, pyramid1) -> Tensor:
        context0 = self.contextnet.warp_pyramid(pyramid0, flow[:, :2])
        context1 = self.contextnet.warp_pyramid(pyramid1, flow[:, 2:4])
        refined = self.unet(img0, img1, warped0, warped1, mask, flow, context0, context1)
        return at_least_float32(refined) * 2 - 1


def _distillation_loss(flow_teacher, merged_teacher, flow, merged, gt) -> Tensor:
    """Distance of a student's flow from the teacher's where the student's frame is much worse."""
    error = (merged - gt).abs().mean(1, keepdim=True)
    error_teacher = (merged_teacher - gt).abs().mean(1, keepdim=True)
    is_worse = (error > error_teacher + 0.01).detach()
    # The norm over 2 is the root of the mean square of 4 channels; unlike a root, it has a gradient
    # of 0 and not NaN where both flows are equal.
    distance = torch.linalg.vector_norm(flow_teacher.detach() - flow, dim=1, keepdim=True) / 2
    return (distance * is_worse).mean()


class IFNet_m(IFNet):
    """The paper's network for any timestep, which every block sees as one more input plane.

    Upstream: ECCV2022-RIFE, model/IFNet_m.py.
    """

    version = "RIFEm (paper, any timestep)"
    any_timestep: ClassVar[bool] = True
    time_planes: ClassVar[int] = 1

    def _time(self, image: Tensor, timestep: float | Tensor) -> tuple[Tensor, ...]:
        return (torch.ones_like(image[:, :1]) * timestep,)


class IFBlock_2R(IFBlock):
    """An IFBlock whose first convolution keeps the resolution."""

    first_stride: ClassVar[int] = 1


class IFNet_2R(IFNet):
    """The paper's network with every block and the refine module at twice the resolution.

    It is sharper and about four times slower.
    Upstream: ECCV2022-RIFE, model/IFNet_2R.py. Its checkpoints look exactly like IFNet's.
    """

    version = "RIFE 2R (paper, twice the resolution)"
    bytes_per_pixel = 2200
    block: ClassVar[type[IFBlock]] = IFBlock_2R
