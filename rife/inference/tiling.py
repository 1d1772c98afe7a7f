"""Frames too large for one call of the network: overlapping tiles, and how far these must overlap.

A tile gives what the whole frame would where it sees what the network saw of the whole frame: all
that moves into it, and what lies around. So overlaps grow with the motion, which is measured
beforehand on small copies of the pair.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..networks.base import Network
from .frames import pad, to_rgb

#: Over how many pixels one tile fades into the next.
FADE = 32
#: Cores of tiles, in pixels, are not made smaller than this: most of the work would be done for the
#: overlaps.
SMALLEST_CORE = 128
#: The longer side, in pixels, of the small copies on which motion is measured.
SMALL_COPY = 512

#: Rows and columns of tiles.
Grid = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """The rows, or columns, of a frame that a tile covers.

    Attributes:
        start: The first one.
        stop: The one after the last.
        weight: (stop - start,), the tile's share of each; the shares of all tiles sum to 1.
    """

    start: int
    stop: int
    weight: Tensor

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Tile:
    """The part of a frame that one call of the network sees."""

    rows: Span
    columns: Span

    def cut_from(self, frame: Tensor) -> Tensor:
        """The tile's view on `frame`, (H, W, ...)."""
        return frame[self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]

    def blend_into(self, canvas: Tensor, rendered: Tensor) -> None:
        """Adds the tile's share to a canvas.

        Args:
            canvas: (C, H, W), the whole frame.
            rendered: (C, h, w), the tile, or more of it on the right and bottom.
        """
        share = rendered[:, : len(self.rows), : len(self.columns)].to(canvas.device, copy=True)
        share *= self.rows.weight.to(canvas.device)[:, None]
        share *= self.columns.weight.to(canvas.device)
        self.cut_from(canvas.permute(1, 2, 0)).add_(share.permute(1, 2, 0))


def split_into_tiles(height: int, width: int, grid: Grid, margin: int, multiple: int) -> list[Tile]:
    """Splits a frame into tiles.

    Args:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        grid: Rows and columns of tiles.
        margin: Pixels that each tile sees around its core, as long as that is no more than the
            core's own side.
        multiple: Tiles begin at multiples of this many pixels, so that the coarse levels of the
            network's pyramid fall on the same pixels as in the whole frame.
    """
    margin = min(margin, math.ceil(max(height / grid[0], width / grid[1])))
    columns = _split_side(width, grid[1], margin, multiple)
    return [Tile(r, c) for r in _split_side(height, grid[0], margin, multiple) for c in columns]


def _split_side(size: int, count: int, margin: int, multiple: int) -> list[Span]:
    edges = [round(i * size / count) for i in range(count + 1)]
    reach = margin + FADE // 2
    spans = []
    for low, high in zip(edges, edges[1:], strict=False):
        start = max(0, low - reach) // multiple * multiple
        stop = min(size, -(-(high + reach) // multiple) * multiple)
        x = torch.arange(start, stop) + 0.5
        weight = torch.ones(stop - start)
        if low > 0:
            weight *= _smoothstep((x - low) / FADE + 0.5)
        if high < size:
            weight *= _smoothstep((high - x) / FADE + 0.5)
        spans.append(Span(start, stop, weight))
    return spans


def _smoothstep(x: Tensor) -> Tensor:
    """Rises smoothly from 0 at 0 to 1 at 1; f(x) + f(1 - x) = 1."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def finer_grid(grid: Grid, height: int, width: int) -> Grid | None:
    """`grid` with the longer sides of its cores halved, or None where they would be too small."""
    rows, columns = grid
    halved = (2 * rows, columns) if height / rows > width / columns else (rows, 2 * columns)
    return halved if max(height / rows, width / columns) >= 2 * SMALLEST_CORE else None


def measure_tile_margin(
    network: Network,
    first: Tensor,
    second: Tensor,
    timestep: float,
    scale: float,
    ensemble: bool = False,
) -> tuple[Network, int]:
    """Measures on small copies of two frames how far tiles must see around their cores.

    v4.0 and v4.1 double their scales where motion goes beyond a bound anywhere in the frame. That
    is decided here, for all tiles alike, in the network returned.

    Args:
        network: What will render the tiles.
        first: (H, W, C).
        second: (H, W, C).
        timestep: Of the new frame, in (0, 1).
        scale: See `Options`.
        ensemble: See `Options`.

    Returns:
        The network for the tiles, which shares its weights with `network`; and the margin, in
        pixels.
    """
    factor = 2 ** max(1, math.ceil(math.log2(max(first.shape[:2]) / SMALL_COPY)))
    guide, tile_network = network, network
    if network.can_double_scales:
        # Blocks 0 and 1 decide. They are given what they see in the whole frame, but for blur.
        guide, tile_network = copy.copy(network), copy.copy(network)
        guide.scales, guide.doubling_threshold = (
            network.scales[:2],
            network.doubling_threshold / factor,
        )
    small_scale = min(scale * factor, guide.scales[-1])
    frames = [
        pad(to_rgb(_shrink(x, factor).to(network.device)), network.side_multiple(small_scale))
        for x in (first, second)
    ]

    def estimate_flow() -> Tensor:
        a, b = (guide.prepare(frame) for frame in frames)
        motion = guide.motion(a, b, timestep, scale=small_scale, ensemble=ensemble)
        guide.check_finite(motion)
        return motion.flow

    flow = estimate_flow()
    # The coarsest convolutions step that far, in pixels. Twice that, and twice the motion, was
    # found to be enough for 45 dB (benchmarks/tiles.md).
    stride = max(32, 4 * max(network.scales) / scale)
    if network.can_double_scales:
        guide.doubling_threshold = math.inf
        is_doubled = not torch.allclose(flow, estimate_flow(), atol=0.1)
        tile_network.doubling_threshold = -1 if is_doubled else math.inf
        stride *= 1 + is_doubled
    return tile_network, math.ceil(2 * (factor * float(flow.abs().max()) + stride))


def _shrink(frame: Tensor, factor: int) -> Tensor:
    """(H, W, C) uint8 or float -> (1, C, H / factor, W / factor) float32 in [0, 1], by averages."""
    x = rearrange(frame, "h w c -> 1 c h w").float()
    x = F.avg_pool2d(x, factor, ceil_mode=True)
    return (x / 255 if frame.dtype == torch.uint8 else x).clamp(0, 1)
