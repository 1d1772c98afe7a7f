"""Frames too large for one pass: overlapping windows on them, and how to tell what these need.

A tile gives what the whole frame would where it sees what the whole frame's network saw: all that
moves into it, and what lies around. So overlaps grow with the motion, which a look at the pair
made small tells beforehand.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..networks.base import Network

#: Pixels. Over how many one tile fades into the next.
FADE = 32
#: Pixels. Tiles' cores are not made smaller: by then most of the work is done for the overlaps.
SMALLEST = 128
#: Pixels. The longer side of the small frames, at most.
SMALL = 512

Grid = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """The rows, or columns, of a frame that a tile covers. weight: (stop - start,), the tile's
    share of each; the shares of all tiles sum to 1."""

    start: int
    stop: int
    weight: Tensor

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Window:
    """What one tile covers of a frame."""

    rows: Span
    columns: Span

    def of(self, frame: Tensor) -> Tensor:
        """The view on `frame`, (H, W, ...)."""
        return frame[self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]

    def add(self, tile: Tensor, canvas: Tensor) -> None:
        """Blend `tile` (C, h, w), or more on the right and bottom, into `canvas` (C, H, W)."""
        tile = tile[:, : len(self.rows), : len(self.columns)].to(canvas.device, copy=True)
        tile *= self.rows.weight.to(canvas.device)[:, None]
        tile *= self.columns.weight.to(canvas.device)
        self.of(canvas.permute(1, 2, 0)).add_(tile.permute(1, 2, 0))


def windows(height: int, width: int, grid: Grid, margin: int, multiple: int) -> list[Window]:
    """The tiles of a frame, in rows and columns as `grid` says.

    margin: pixels that each tile sees around its core, if the core is as large. multiple: where
    tiles may begin, so that the coarse levels of the network's pyramid fall on the same pixels.
    """
    margin = min(margin, math.ceil(max(height / grid[0], width / grid[1])))
    columns = _spans(width, grid[1], margin, multiple)
    return [Window(r, c) for r in _spans(height, grid[0], margin, multiple) for c in columns]


def _spans(size: int, count: int, margin: int, multiple: int) -> list[Span]:
    edges = [round(i * size / count) for i in range(count + 1)]
    reach = margin + FADE // 2
    spans = []
    for low, high in zip(edges, edges[1:], strict=False):
        start = max(0, low - reach) // multiple * multiple
        stop = min(size, -(-(high + reach) // multiple) * multiple)
        x = torch.arange(start, stop) + 0.5
        weight = torch.ones(stop - start)
        if low > 0:
            weight *= _fade((x - low) / FADE + 0.5)
        if high < size:
            weight *= _fade((high - x) / FADE + 0.5)
        spans.append(Span(start, stop, weight))
    return spans


def _fade(x: Tensor) -> Tensor:
    """Smoothly from 0 at 0 to 1 at 1; f(x) + f(1 - x) = 1."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def finer(grid: Grid, height: int, width: int) -> Grid | None:
    """`grid` with the cores' longer sides halved, or None where they are too small for that."""
    rows, columns = grid
    halved = (2 * rows, columns) if height / rows > width / columns else (rows, 2 * columns)
    return halved if max(height / rows, width / columns) >= 2 * SMALLEST else None


def look_ahead(
    model: Network,
    first: Tensor,
    second: Tensor,
    timestep: float,
    scale: float,
    ensemble: bool = False,
) -> tuple[Network, int]:
    """What the tiles of two frames, (H, W, C) each, will need, learnt from small copies.

    Returns the network for them, and how many pixels they must see around their cores. v4.0 and
    v4.1 double their scales if motion goes beyond a bound anywhere in the frame: in the network
    returned that is decided, for all tiles alike. It shares its weights with `model`.
    """
    times = 2 ** max(1, math.ceil(math.log2(max(first.shape[:2]) / SMALL)))
    guide, settled = model, model
    if settles := model.can_double_scales:
        # Blocks 0 and 1 decide. They are given what they see in the whole frame, but for blur.
        guide, settled = copy.copy(model), copy.copy(model)
        guide.scales, guide.doubling_threshold = model.scales[:2], model.doubling_threshold / times
    small_scale = min(scale * times, guide.scales[-1])
    frames = [
        pad(colours(_shrunk(x, times).to(model.device)), model.side_multiple(small_scale))
        for x in (first, second)
    ]

    def flow() -> Tensor:
        a, b = (guide.prepare(frame) for frame in frames)
        motion = guide.motion(a, b, timestep, scale=small_scale, ensemble=ensemble)
        guide.check_finite(motion)
        return motion.flow

    found = flow()
    # The coarsest convolutions step that far, in pixels. Twice that, and twice the motion, was
    # found to be enough for 45 dB (benchmarks/tiles.md).
    stride = max(32, 4 * max(model.scales) / scale)
    if settles:
        guide.doubling_threshold = math.inf
        lost = not torch.allclose(found, flow(), atol=0.1)
        settled.doubling_threshold = -1 if lost else math.inf
        stride *= 1 + lost
    return settled, math.ceil(2 * (times * float(found.abs().max()) + stride))


def _shrunk(frame: Tensor, times: int) -> Tensor:
    """(H, W, C) uint8 or float -> (1, C, H / times, W / times) float32 in [0, 1], by averaging."""
    x = rearrange(frame, "h w c -> 1 c h w").float()
    x = F.avg_pool2d(x, times, ceil_mode=True)
    return (x / 255 if frame.dtype == torch.uint8 else x).clamp(0, 1)


def colours(x: Tensor) -> Tensor:
    """(B, 1, 3 or 4, H, W) -> the (B, 3, H, W) that networks look at."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]


def pad(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) on the right and bottom to multiples of `multiple`, repeating the border.

    Upstream pads with black, into which things that leave the frame seem to move: a ghost, and
    0.5 dB along the border (benchmarks/padding.py).
    """
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
