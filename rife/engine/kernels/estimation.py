"""What lies between an engine's convolutions, by the fused kernels."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...networks.base import PreparedFrames
from ...networks.warp import at_least_float32
from ..engine import Estimation, halves
from .interface import BlockInputLayout, BlockOutput, Kernels, load_kernels


@dataclass(frozen=True)
class Found(BlockOutput):
    """there: as raw, of the frames' given order alone."""

    there: Tensor

    @property
    def first_flow(self) -> Tensor:
        """(B, 4, h, w) float32 in pixels, of `there`."""
        planes = at_least_float32(self.there[:, : 4 * self.cell**2])
        return F.pixel_shuffle(planes, self.cell) * self.factor


class KernelEstimation(Estimation):
    """As Estimation, of two frames of one and the same `PreparedFrames`, each by its index.

    `kernel_estimation` makes the class for kernels of one kind."""

    uses_kernels: ClassVar[bool] = True
    kernels: ClassVar[Kernels]

    def __init__(
        self, frames: tuple[PreparedFrames, PreparedFrames], times: Tensor, adds_masks: bool
    ):
        self.frames, self.times, self.adds_masks = frames, times, adds_masks
        self._found: list[Found] = []

    def read_output(self, planes: Tensor, cell: int, factor: int, both: bool) -> Found:
        raw = there = planes.contiguous(memory_format=torch.channels_last)
        if both:
            there, mean = halves(at_least_float32(planes).unflatten(1, (-1, cell**2)))
            raw = mean.flatten(1, 2).contiguous(memory_format=torch.channels_last)
            there = there.flatten(1, 2)
        return Found(raw, cell, factor, there)

    def add_output(self, found: Found) -> None:
        self._found = [*self._found, found]

    @property
    def last_planes(self) -> Tensor:
        """(B, C, h, w), the last block's."""
        return self._found[-1].raw

    @property
    def flow(self) -> Tensor:
        return self._whole[:, :4]

    @cached_property
    def _whole(self) -> Tensor:
        return self.kernels.full_size_motion(self._found, self._size, adds=self.adds_masks)

    @property
    def _size(self) -> tuple[int, int]:
        return self.frames[0].image_and_features.shape[2:]

    @property
    def _indices(self) -> tuple[Tensor, Tensor]:
        return self.frames[0].index, self.frames[1].index

    def run_first_convolution(self, entry, scale: int, both: bool = False) -> list[Tensor]:
        sizes = {part.rstrip("01"): size for x in entry.tensors for part, size in x.items()}
        times = self.times.flatten()
        layout = BlockInputLayout(
            scale=scale,
            warped="seen" in sizes,
            still="unwarped" in sizes,
            time=sizes.get("time", 0),
            handed=sizes.get("given", 0),
            flow=sizes.get("flow", 0),
            size=entry.channels,
        )
        x = self.kernels.gather_block_input(
            self.frames[0].image_and_features,
            self._indices,
            times,
            self._found,
            layout,
            adds=self.adds_masks,
        )
        made = [entry.layers[0](x)]
        if both:
            if layout.time:
                column = (
                    2 * self.frames[0].image_and_features.shape[1] * (layout.warped + layout.still)
                )
                x[:, column] = (1 - times)[:, None, None]
            made.append(entry.layers[1](x))
        return made

    def finish(self, residual: Tensor | None) -> "FusedMotion":
        return FusedMotion(self, residual)

    def show(self, images: Tensor, residual: Tensor | None) -> Tensor:
        return self.kernels.render_frames(
            images, self._indices, self._found, self._size, adds=self.adds_masks, residual=residual
        )


class FusedMotion:
    """As network.Motion, but that it renders from images as they came."""

    def __init__(self, run: KernelEstimation, residual: Tensor | None):
        self._run, self.residual = run, residual

    @property
    def flow(self) -> Tensor:
        return self._run.flow

    @property
    def mask(self) -> Tensor:
        return torch.sigmoid(self._run._whole[:, 4:])

    def checksum(self) -> Tensor:
        """As Motion.checksum: values that are not finite go on into all later blocks' planes."""
        checksum = self._run.last_planes.sum((1, 2, 3), dtype=torch.float32)
        if self.residual is None:
            return checksum
        return checksum + self.residual.sum((1, 2, 3), dtype=torch.float32)

    def render_frames(self, images: Tensor) -> Tensor:
        """The frames in between, (B, h, w, C), from images (N, h, w, C), both of one dtype: bytes,
        or floats in [0, 1]."""
        return self._run.show(images, self.residual)


@cache
def kernel_estimation(name: str) -> type[KernelEstimation]:
    """Runs by these kernels, named as in interface.NAMES.

    Raises:
        ImportError: They can't be had here.
    """
    module = load_kernels(name)

    class NamedRun(KernelEstimation):
        kernels = module
        finish_convolution = staticmethod(module.finish_convolution)
        pack_block_output = (
            staticmethod(module.pack_block_output) if module.pack_block_output else None
        )
        prepare_frame = staticmethod(module.prepare_frame) if module.prepare_frame else None

    return NamedRun
