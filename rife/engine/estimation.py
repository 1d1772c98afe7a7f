"""The motion between two frames while it is being estimated: all that lies between convolutions.

`Estimation` does it in plain torch, on any device; kernels/estimation.py has one by GPU kernels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from ..networks.base import Motion, PreparedFrames, blend
from ..networks.warp import at_least_float32, resize, sample, swap_directions
from .block_input import (
    central_pixels,
    downscale_rows,
    sampling_points,
    split_rows,
    to_grid,
    warp_and_pool,
)
from .blocks import FirstConvolution


@dataclass(frozen=True)
class BlockOutput:
    """A block's output, at its own resolution.

    Attributes:
        planes: (B, P, h, w) float32: flow in pixels of the frame (4 planes), the mask before its
            sigmoid, and features for the next block.
        factor: How many times smaller than the frame the planes are.
        forward_planes: `planes`, but where both orders of the pair are averaged, those of the
            given order alone.
    """

    planes: Tensor
    factor: int
    forward_planes: Tensor

    @property
    def forward_flow(self) -> Tensor:
        """(B, 4, h, w) float32, in pixels of the frame."""
        return self.forward_planes[:, :4]

    def upscaled_rows(self, planes: slice, scale: int, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of some planes, upscaled to 1 / scale of the frame's size."""
        factor = self.factor // scale
        if factor == 1:
            return self.planes[:, planes, start:stop]
        # One row more on each side, which bilinear upscaling reads.
        first = max(0, start // factor - 1)
        low = self.planes[:, planes, first : -(-stop // factor) + 1]
        return resize(low, factor)[:, :, start - first * factor : stop - first * factor]


def average_orders(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Averages a block's output for both orders of each pair.

    Args:
        planes: (2 * B, P, ...), flow and mask first: of all pairs, then of all pairs reversed.

    Returns:
        The planes of the given order, (B, P, ...), and the mean of both orders, (B, 5, ...).
    """
    forward, reverse = planes.chunk(2)
    reverse = torch.cat((swap_directions(reverse), -reverse[:, 4:5]), 1)
    return forward, (forward[:, :5] + reverse) / 2


class Estimation:
    """The motion between two frames, estimated block by block.

    For each block, an engine calls `run_first_convolution`, then the block's body, `read_output`
    and `add_output`; at the end, `finish`.

    The class attributes below are None, or functions of `kernels.interface.Kernels`, which replace
    what torch would do.

    Args:
        frames: The first and the second frames.
        times: (B, 1, 1, 1) float32, the timesteps.
        adds_masks: As in `Network`.

    Attributes:
        flow: (B, 4, H, W) float32, the full-size flow in pixels; None before the first output.
    """

    #: Whether prepared frames have the network's dtype, channels last, filled up with zeros, and
    #: blocks leave the last PixelShuffle to `read_output`.
    uses_kernels: ClassVar[bool] = False
    #: Does what follows a convolution, in one pass.
    finish_convolution: ClassVar[Callable[..., Tensor] | None] = None
    #: Does what follows a block's last convolution, its PixelShuffle included.
    pack_block_output: ClassVar[Callable[[Tensor, Tensor, int], Tensor] | None] = None
    #: Prepares a frame.
    prepare_frame: ClassVar[Callable[..., None] | None] = None

    def __init__(
        self, frames: tuple[PreparedFrames, PreparedFrames], times: Tensor, adds_masks: bool
    ):
        self.frames, self.times, self.adds_masks = frames, times, adds_masks
        self.flow: Tensor | None = None
        self._outputs: list[BlockOutput] = []  # without adds_masks only the last

    def run_first_convolution(
        self, convolution: FirstConvolution, scale: int, both_orders: bool = False
    ) -> list[Tensor]:
        """Gathers a block's input and runs its first convolution, strip by strip.

        Args:
            convolution: The block's.
            scale: How many times smaller than the frames the input is.
            both_orders: Run it for both orders of the pair.

        Returns:
            The convolution's output, (B, c, h, w), of the given order and, if wanted, of the other.
        """
        # Each strip goes through the same buffers. Above its rows they hold the halo: rows of the
        # strip before or, at the top, the convolution's padding.
        height, width = (side // scale for side in self.frames[0].image_and_features.shape[2:])
        layers, halo = convolution.layers[: 1 + both_orders], convolution.halo
        weight = layers[0].weight
        strips = [(0, height)]
        if halo:
            strips = list(split_rows(height, width * min(scale, 2) ** 2, weight.device))
        strip_rows = strips[0][1]
        buffers = [
            weight.new_empty(
                len(self.times), halo + strip_rows, width, sum(sizes.values())
            ).permute(0, 3, 1, 2)
            for sizes in convolution.tensors
        ]
        for buffer in buffers:
            buffer[:, :, :halo] = 0
        outputs: list[list[Tensor]] = []
        for start, stop in strips:
            if start:
                for buffer in buffers:
                    buffer[:, :, :halo] = buffer[:, :, strip_rows : strip_rows + halo]
            inputs = [buffer[:, :, : halo + stop - start] for buffer in buffers]
            parts = {
                name: part
                for x, sizes in zip(inputs, convolution.tensors, strict=True)
                for name, part in zip(sizes, x.split(list(sizes.values()), 1), strict=True)
            }
            rows = {name: part[:, :, halo:] for name, part in parts.items()}
            self._gather_block_input(rows, scale, start, stop)
            outputs.append([])
            for layer, times in zip(layers, (self.times, 1 - self.times), strict=False):
                if "time" in parts:
                    parts["time"][:, :, 0 if start else halo :] = times
                outputs[-1].append(layer(inputs, (1 - halo, 1)))
        return [
            torch.cat(rows, 2) if len(rows) > 1 else rows[0] for rows in zip(*outputs, strict=True)
        ]

    def _gather_block_input(
        self, parts: Mapping[str, Tensor], scale: int, start: int, stop: int
    ) -> None:
        """Writes rows of the input at `scale`, but for the timestep.

        Args:
            parts: The parts of the input (see FirstConvolution), (B, channels, stop - start, w)
                each, which are written to.
            scale: How many times smaller than the frames the input is.
            start: The first row.
            stop: The row to stop before.
        """
        for i, frame in enumerate(self.frames):
            if f"unwarped{i}" in parts:
                parts[f"unwarped{i}"][:] = downscale_rows(frame.image, scale, start, stop)
        if self.flow is None:
            for i, frame in enumerate(self.frames):
                if f"frame{i}" in parts:
                    rows = downscale_rows(frame.image_and_features, scale, start, stop)
                    parts[f"frame{i}"][:] = rows
            for name in {"mask_and_features", "flow"} & set(parts):
                parts[name][:] = 0
            return
        if self.adds_masks:
            mask_and_features = self._mask_rows(scale, start, stop)
        else:
            mask_and_features = self._outputs[-1].upscaled_rows(slice(4, None), scale, start, stop)
        flow = central_pixels(self.flow, scale, start, stop)
        pool = min(scale, 2)
        for i, frame in enumerate(self.frames):
            points = sampling_points(flow[:, 2 * i : 2 * i + 2], self.flow.shape, scale, start)
            warp_and_pool(parts[f"frame{i}"], frame.image_and_features, points, pool)
        flow = downscale_rows(flow, pool, 0, stop - start) / scale
        # First to the narrower dtype, then to the other layout: twice as fast as both at once.
        for name, rows in (("mask_and_features", mask_and_features), ("flow", flow)):
            parts[name][:] = rows.to(parts[name].dtype)

    def _mask_rows(self, scale: int, start: int, stop: int) -> Tensor:
        """The mask before its sigmoid; the arguments are those of BlockOutput.upscaled_rows."""
        masks = (x.upscaled_rows(slice(4, 5), scale, start, stop) for x in self._outputs)
        return reduce(torch.add, masks)

    def read_output(
        self, planes: Tensor, shuffle: int, factor: int, both_orders: bool
    ) -> BlockOutput:
        """Makes a block output of what a block's last layer gives.

        Args:
            planes: (B, P, h, w); with both orders, (2 * B, P, h, w).
            shuffle: `EngineBlock.shuffle`.
            factor: How many times smaller than the frame the planes are, shuffled.
            both_orders: Whether they are of both orders of the pair.
        """
        planes = at_least_float32(planes)
        planes[:, :4] *= factor
        if both_orders:
            forward, planes = average_orders(planes)
            return BlockOutput(planes, factor, forward)
        return BlockOutput(planes, factor, planes)

    def add_output(self, output: BlockOutput) -> None:
        """Adds a block's output to the estimate."""
        height, width = self.frames[0].image_and_features.shape[2:]
        is_first = self.flow is None
        if is_first:
            self.flow = output.planes.new_empty(len(self.times), 4, height, width)
        for start, stop in split_rows(height, width, self.flow.device):
            rows = self.flow[:, :, start:stop]
            change = output.upscaled_rows(slice(0, 4), 1, start, stop)
            rows.copy_(change) if is_first else rows.add_(change)
        self._outputs = [*self._outputs, output] if self.adds_masks else [output]

    def finish(self, residual: Tensor | None) -> Motion:
        """Returns the motion, once the outputs of all blocks are added."""
        mask = torch.sigmoid(self._mask_rows(1, 0, self.flow.shape[2]))
        return _StripwiseMotion(self.flow, mask, residual)


@dataclass(frozen=True)
class _StripwiseMotion(Motion):
    """Renders strip by strip."""

    @torch.no_grad()
    def render(self, image0: Tensor, image1: Tensor) -> Tensor:
        batch, channels, height, width = image0.shape
        frame = image0.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
        for start, stop in split_rows(height, width, frame.device):
            rows = slice(start, stop)
            warped = []
            for i, image in enumerate((image0, image1)):
                flow = self.flow[:, 2 * i : 2 * i + 2, rows]
                points = sampling_points(flow, self.flow.shape, 1, start)
                warped.append(sample(image, to_grid(points, image)))
            residual = None if self.residual is None else self.residual[:, :, rows]
            frame[:, :, rows] = blend(*warped, self.mask[:, :, rows], residual)
        return frame
