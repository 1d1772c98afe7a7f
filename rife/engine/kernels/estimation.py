"""The motion between two frames while it is being estimated, by GPU kernels.

Between convolutions nothing is kept but the blocks' outputs as their last layers give them: kernels
evaluate flow and mask from these wherever they need them.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...networks.base import PreparedFrames
from ...networks.warp import at_least_float32
from ..blocks import FirstConvolution
from ..estimation import Estimation, average_orders
from .interface import BlockInputLayout, Kernels, RawBlockOutput, load_kernels


@dataclass(frozen=True)
class _EstimationOutput(RawBlockOutput):
    """A block's output with what the estimate needs of it beside what kernels do.

    Attributes:
        forward_planes: `planes`, but where both orders of the pair are averaged, those of the
            given order alone.
    """

    forward_planes: Tensor

    @property
    def forward_flow(self) -> Tensor:
        """(B, 4, h, w) float32, in pixels of the frame."""
        planes = at_least_float32(self.forward_planes[:, : 4 * self.shuffle**2])
        return F.pixel_shuffle(planes, self.shuffle) * self.factor


class KernelEstimation(Estimation):
    """An Estimation by GPU kernels; `kernel_estimation` makes the class for one kind of them.

    Both frames have to be of the same `PreparedFrames`, each by its index.
    """

    uses_kernels: ClassVar[bool] = True
    kernels: ClassVar[Kernels]

    def __init__(
        self, frames: tuple[PreparedFrames, PreparedFrames], times: Tensor, adds_masks: bool
    ):
        self.frames, self.times, self.adds_masks = frames, times, adds_masks
        self.outputs: list[_EstimationOutput] = []
        self._images_and_features = frames[0].image_and_features
        self.indices = frames[0].index, frames[1].index

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the motion."""
        return self._images_and_features.shape[2:]

    @property
    def flow(self) -> Tensor:
        return self.flow_and_mask[:, :4]

    @cached_property
    def flow_and_mask(self) -> Tensor:
        """(B, 5, H, W) float32: the full-size flow in pixels and the mask before its sigmoid."""
        return self.kernels.full_size_motion(self.outputs, self.size, adds_masks=self.adds_masks)

    def run_first_convolution(
        self, convolution: FirstConvolution, scale: int, both_orders: bool = False
    ) -> list[Tensor]:
        sizes = {
            part.rstrip("01"): size  # frame0 and frame1 are gathered alike
            for parts in convolution.tensors
            for part, size in parts.items()
        }
        layout = BlockInputLayout(
            scale=scale,
            warped="frame" in sizes,
            unwarped="unwarped" in sizes,
            time=sizes.get("time", 0),
            mask_and_features=sizes.get("mask_and_features", 0),
            flow=sizes.get("flow", 0),
            channels=convolution.channels,
        )
        times = self.times.flatten()
        x = self.kernels.gather_block_input(
            self._images_and_features,
            self.indices,
            times,
            self.outputs,
            layout,
            adds_masks=self.adds_masks,
        )
        outputs = [convolution.layers[0](x)]
        if both_orders:
            if layout.time:
                frame_channels = self._images_and_features.shape[1]
                time_channel = 2 * frame_channels * (layout.warped + layout.unwarped)
                x[:, time_channel] = (1 - times)[:, None, None]
            outputs.append(convolution.layers[1](x))
        return outputs

    def read_output(
        self, planes: Tensor, shuffle: int, factor: int, both_orders: bool
    ) -> _EstimationOutput:
        if not both_orders:
            planes = planes.contiguous(memory_format=torch.channels_last)
            return _EstimationOutput(planes, shuffle, factor, planes)
        unshuffled = at_least_float32(planes).unflatten(1, (-1, shuffle**2))
        forward, mean = average_orders(unshuffled)
        planes = mean.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        return _EstimationOutput(planes, shuffle, factor, forward.flatten(1, 2))

    def add_output(self, output: _EstimationOutput) -> None:
        self.outputs = [*self.outputs, output]

    def finish(self, residual: Tensor | None) -> "KernelMotion":
        return KernelMotion(self, residual)


class KernelMotion:
    """As Motion, but that it renders from images as the user has them."""

    def __init__(self, estimation: KernelEstimation, residual: Tensor | None):
        self._estimation, self.residual = estimation, residual

    @property
    def flow(self) -> Tensor:
        return self._estimation.flow

    @property
    def mask(self) -> Tensor:
        return torch.sigmoid(self._estimation.flow_and_mask[:, 4:])

    def checksum(self) -> Tensor:
        """As Motion.checksum. The last block is enough: values that are not finite go on into the
        outputs of all later blocks."""
        last = self._estimation.outputs[-1].planes
        checksum = last.sum((1, 2, 3), dtype=torch.float32)
        if self.residual is None:
            return checksum
        return checksum + self.residual.sum((1, 2, 3), dtype=torch.float32)

    def render_frames(self, images: Tensor) -> Tensor:
        """Returns the frames in between, (B, h, w, C), of the images' dtype.

        Args:
            images: (N, h, w, C), bytes or floats in [0, 1]; the frames' indices are into these.
        """
        estimation = self._estimation
        return estimation.kernels.render_frames(
            images,
            estimation.indices,
            estimation.outputs,
            estimation.size,
            adds_masks=estimation.adds_masks,
            residual=self.residual,
        )


@cache
def kernel_estimation(name: str) -> type[KernelEstimation]:
    """Returns the class that runs the kernels of a name of `interface.NAMES`.

    Raises:
        ImportError: They can't run here.
    """
    module = load_kernels(name)

    class NamedKernelEstimation(KernelEstimation):
        kernels = module
        finish_convolution = staticmethod(module.finish_convolution)
        pack_block_output = (
            staticmethod(module.pack_block_output) if module.pack_block_output else None
        )
        prepare_frame = staticmethod(module.prepare_frame) if module.prepare_frame else None

    return NamedKernelEstimation
