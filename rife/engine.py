"""Runs a network with a fraction of the work, for the same frame.

A block at scale s sees its input made s times smaller, and torch's bilinear way to that is the mean
of the 2x2 pixels in the middle of each s x s cell (s even). Nothing else of the cell is ever read:
so only there are frames warped. What one block hands to the next need not pass through full
resolution either: making it r times larger and then s times smaller is, exactly, to make it r / s
times larger. Only the flow is kept at full size, because every block adds to it. All this is done
in strips of rows, up to each block's first convolution, so that little is ever large.

The networks themselves say what is computed, and are what this is tested against.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from .fuse import Layer, fuse
from .network import Motion, Network, Prepared, one_by_one
from .warp import at_least_float32, resize, sample, sample_in_bands, swap_directions, unit_axis

#: Pixels of a strip on a CPU, so that it stays in its caches. Elsewhere a strip is the frame.
STRIP = 98304


class Engine:
    """Does what `network` does, by methods of the same names.

    It takes the network's weights as and where they are now: make it anew when they change.
    """

    def __init__(self, network: Network):
        self.network = network
        self._fast = fuse(network)
        self._blocks = [_Block(network, i, block) for i, block in enumerate(self._fast.blocks)]
        if hasattr(network, "unet"):
            self._unet = _Entry(self._fast.unet.down0.conv1[0], network.unet.inputs)

    @torch.no_grad()
    def prepare(self, image: Tensor, *, refine: bool = False) -> Prepared:
        """As Network.prepare."""
        return self._fast.prepare(image, refine=refine).map(Tensor.contiguous)

    @torch.no_grad()
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
        """As Network.motion."""
        network, frames = self.network, (frame0, frame1)
        options = {"scale": scale, "ensemble": ensemble, "refine": refine}
        scales = [s / scale for s in network.scales]
        if any(s != 1 and s % 2 for s in scales):  # not the mean of 2x2 pixels
            return network.motion(*frames, timestep, **options)
        times = torch.as_tensor(timestep, dtype=torch.float32, device=frame0.seen.device)
        times = times.expand(len(frame0.seen), 1, 1, 1)
        both = ensemble or "ensemble" in network.built_in

        run = _Run(frames, times, network.mask_adds)
        for i, block in enumerate(self._blocks):
            found = block(run, int(scales[i]), both)
            if i == 1 and network.doubles_scales and (lost := self._lost(found)).any():
                if not lost.all():  # each pair decides for itself
                    return one_by_one(self.motion, frames, times, **options)
                scales = [2 * s for s in scales]
                run = _Run(frames, times, network.mask_adds)
                run.add(self._blocks[0](run, int(scales[0]), both=False))  # as upstream
                found = block(run, int(scales[1]), both)
            run.add(found)
        residual = None
        if refine or "refine" in network.built_in:
            residual = self._residual(run)
        return _Motion(run.flow, torch.sigmoid(run.mask(1, 0, run.flow.shape[2])), residual)

    def _lost(self, found: "_Found") -> Tensor:
        flow = found.there[:, :4]
        lost = self.network.lost(flow)  # made larger, it has no new extremes
        return self.network.lost(resize(flow, found.factor)) if lost.any() else lost

    def _residual(self, run: "_Run") -> Tensor:
        contextnet, unet = self._fast.contextnet, self._fast.unet
        contexts = [
            [_channels_last(x) for x in contextnet.warp_pyramid(frame.pyramid, flow)]
            for frame, flow in zip(run.frames, run.flow.split(2, 1), strict=True)
        ]
        return at_least_float32(unet.body(*run.enter(self._unet, 1), *contexts)) * 2 - 1


class _Entry:
    """A first convolution; and, for ensembles, as it sees the frames in the other order."""

    #: Each frame's image and features side by side, as they are sampled.
    ORDER = (
        "image0", "features0", "image1", "features1", "still0", "still1", "time", "mask", "handed",
        "flow",
    )  # fmt: skip

    def __init__(self, layer: Layer, inputs: Mapping[str, int]):
        """inputs: the channels of the layer, which may have fewer of them: the first ones."""
        there, end = {}, 0
        for name, size in inputs.items():
            there[name] = layer.weight[:, end : end + size]
            end += size
        opposite = {"0": "1", "1": "0"}
        back = {name: there[name[:-1] + opposite.get(name[-1], name[-1])] for name in there}
        back["mask"] = -there["mask"]
        back["flow"] = there["flow"].roll(2, 1)
        self.layers = [
            layer.with_weight(torch.cat([part[name] for name in self.ORDER if name in part], 1))
            for part in (there, back)
        ]
        self.halo = layer.stride[0] - 1  # rows above the first that it needs
        self.sizes: dict[str, int] = {}
        for name in self.ORDER:
            part = name.replace("image", "seen").replace("features", "seen")
            self.sizes[part] = self.sizes.get(part, 0) + (name in there and there[name].shape[1])
        self.sizes = {part: size for part, size in self.sizes.items() if size}


class _Block:
    """A network's block on a `_Run`."""

    def __init__(self, network: Network, index: int, fused: nn.Module):
        self.entry = _Entry(fused.conv0[0][0], network.inputs)
        self.body, self.up = fused.body, fused.up
        if isinstance(getattr(fused, "lastconv", None), nn.Sequential):  # before a PixelShuffle(2)
            last = index + 1 == len(network.blocks)
            planes = 5 if last else 5 + network.inputs["handed"]
            fused.lastconv[0] = fused.lastconv[0].narrowed(4 * planes)

    def __call__(self, run: "_Run", scale: int, both: bool) -> "_Found":
        x = run.enter(self.entry, scale, both)
        planes = at_least_float32(self.body(torch.cat(x) if both else x[0])).contiguous()
        factor = scale * self.up
        planes[:, :4] *= factor
        there, *back = planes.chunk(1 + both)
        if both:
            turned = torch.cat((swap_directions(back[0]), -back[0][:, 4:5]), 1)
            return _Found((there[:, :5] + turned) / 2, factor, there)
        return _Found(there, factor, there)


@dataclass(frozen=True)
class _Found:
    """What a block found: planes (B, P, h, w) float32, which are flow in pixels of the frame, mask,
    and what is handed over; to be made `factor` times larger. there: the planes as found in the
    frames' given order alone."""

    planes: Tensor
    factor: int
    there: Tensor

    def rows(self, planes: slice, scale: int, start: int, stop: int) -> Tensor:
        """Some planes at 1 / scale of the frame's size, of these rows."""
        factor = self.factor // scale
        if factor == 1:
            return self.planes[:, planes, start:stop]
        first = max(0, start // factor - 1)  # a row around, or what is at the border
        low = self.planes[:, planes, first : -(-stop // factor) + 1]
        return resize(low, factor)[:, :, start - first * factor : stop - first * factor]


class _Run:
    """Two frames, and what is known so far of the motion between them.

    flow: (B, 4, H, W) float32, in pixels, once a block has been added.
    """

    def __init__(self, frames: tuple[Prepared, Prepared], times: Tensor, mask_adds: bool):
        self.frames, self.times, self.mask_adds = frames, times, mask_adds
        self.flow: Tensor | None = None
        self._found: list[_Found] = []

    def add(self, found: _Found) -> None:
        """Take what a block found into account."""
        height, width = self.frames[0].seen.shape[2:]
        if first := self.flow is None:
            self.flow = found.planes.new_empty(len(self.times), 4, height, width)
        for start, stop in _strips(height, width, self.flow.device):
            rows, change = self.flow[:, :, start:stop], found.rows(slice(0, 4), 1, start, stop)
            rows.copy_(change) if first else rows.add_(change)
        self._found = [*self._found, found] if self.mask_adds else [found]

    def mask(self, scale: int, start: int, stop: int) -> Tensor:
        """Before its sigmoid; see _Found.rows."""
        masks = (found.rows(slice(4, 5), scale, start, stop) for found in self._found)
        return reduce(torch.add, masks)

    def enter(self, entry: _Entry, scale: int, both: bool = False) -> list[Tensor]:
        """What a first convolution at `scale` gives, (B, c, h, w); `both`: in both orders."""
        batch, _, height, width = self.frames[0].seen.shape
        height, width = height // scale, width // scale
        layers, halo = entry.layers[: 1 + both], entry.halo
        weight, sizes = layers[0].weight, entry.sizes
        strips = [(0, height)]
        if halo:
            strips = list(_strips(height, width * min(scale, 2) ** 2, weight.device))
        most = strips[0][1]
        channels_last = (batch, halo + most, width, sum(sizes.values()))
        buffer = weight.new_empty(channels_last).permute(0, 3, 1, 2)
        buffer[:, :, :halo] = 0
        made: list[list[Tensor]] = []
        for start, stop in strips:
            if start:
                buffer[:, :, :halo] = buffer[:, :, most : most + halo]
            strip = buffer[:, :, : halo + stop - start]
            parts = dict(zip(sizes, strip.split(list(sizes.values()), 1), strict=True))
            self._fill({n: part[:, :, halo:] for n, part in parts.items()}, scale, start, stop)
            made.append([])
            for layer, times in zip(layers, (self.times, 1 - self.times), strict=False):
                if "time" in parts:
                    parts["time"][:, :, 0 if start else halo :] = times
                made[-1].append(layer(strip, (1 - halo, 1)))
        return [
            torch.cat(rows, 2) if len(rows) > 1 else rows[0] for rows in zip(*made, strict=True)
        ]

    def _fill(self, parts: Mapping[str, Tensor], scale: int, start: int, stop: int) -> None:
        """Write rows of what a block at `scale` sees; parts: (B, size, stop - start, w) each."""
        for i, frame in enumerate(self.frames):
            if f"still{i}" in parts:
                parts[f"still{i}"][:] = _smaller(frame.image, scale, start, stop)
        if self.flow is None:
            for i, frame in enumerate(self.frames):
                if f"seen{i}" in parts:
                    parts[f"seen{i}"][:] = _smaller(frame.seen, scale, start, stop)
            for name in {"mask", "flow"} & set(parts):
                parts[name][:] = 0
            return
        if "handed" in parts:
            given = self._found[-1].rows(slice(4, None), scale, start, stop)
            parts["mask"][:], parts["handed"][:] = given[:, :1], given[:, 1:]
        else:
            parts["mask"][:] = self.mask(scale, start, stop)
        flow = _middles(self.flow, scale, start, stop)
        for i, frame in enumerate(self.frames):
            grid = _grid(flow[:, 2 * i : 2 * i + 2], self.flow.shape, scale, start)
            _warp_into(parts[f"seen{i}"], frame.seen, grid, min(scale, 2))
        parts["flow"][:] = _smaller(flow, min(scale, 2), 0, stop - start) / scale


@dataclass(frozen=True)
class _Motion(Motion):
    """Renders in strips."""

    @torch.no_grad()
    def render(self, image0: Tensor, image1: Tensor) -> Tensor:
        batch, channels, height, width = image0.shape
        frame = image0.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
        for start, stop in _strips(height, width, frame.device):
            rows = slice(start, stop)
            warped = []
            for i, image in enumerate((image0, image1)):
                flow = self.flow[:, 2 * i : 2 * i + 2, rows]
                warped.append(sample(image, _grid(flow, self.flow.shape, 1, start)))
            merged = torch.lerp(warped[1], warped[0], self.mask[:, :, rows])
            if self.residual is not None:
                residual = self.residual[:, :, rows]
                if channels == 1:
                    merged += residual.mean(dim=1, keepdim=True)
                else:
                    merged[:, :3] += residual
            frame[:, :, rows] = merged.clamp_(0, 1)
        return frame


def _strips(height: int, width: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Start and stop of each strip of rows."""
    rows = height
    if device.type == "cpu":
        rows = max(16, STRIP // width // 16 * 16)
    for start in range(0, height, rows):
        yield start, min(height, start + rows)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _smaller(x: Tensor, scale: int, start: int, stop: int) -> Tensor:
    """These rows of `x`, made `scale` times smaller."""
    return resize(x[:, :, scale * start : scale * stop], 1 / scale)


def _middles(x: Tensor, scale: int, start: int, stop: int) -> Tensor:
    """Of each cell of scale x scale pixels the 2x2 in its middle; these rows of cells."""
    x = x[:, :, scale * start : scale * stop]
    if scale > 2:
        middle = slice(scale // 2 - 1, scale // 2 + 1)
        cells = x.unflatten(3, (-1, scale)).unflatten(2, (-1, scale))
        x = cells[:, :, :, middle, :, middle].flatten(4).flatten(2, 3)
    return x


def _grid(flow: Tensor, size: torch.Size, scale: int, start: int) -> Tensor:
    """Where flow (B, 2, h, w) points to, for `sample`: flow as `_middles` gives it from row `start`
    on, of a frame of `size` (B, C, H, W)."""
    height, width = size[2:]
    x, y = _axis(width, scale, flow), _axis(height, scale, flow)[min(scale, 2) * start :]
    grid = flow.new_empty(len(flow), *flow.shape[2:], 2)
    torch.add(x, flow[:, 0], alpha=2 / (width - 1), out=grid[..., 0])
    torch.add(y[: grid.shape[1], None], flow[:, 1], alpha=2 / (height - 1), out=grid[..., 1])
    return grid


def _axis(count: int, scale: int, like: Tensor) -> Tensor:
    axis = unit_axis(count, like)
    if scale > 2:
        axis = axis.view(-1, scale)[:, scale // 2 - 1 : scale // 2 + 1].flatten()
    return axis


def _warp_into(target: Tensor, image: Tensor, grid: Tensor, pool: int = 1) -> None:
    """target (B, C, h, w) = image (B, C, H, W) sampled at grid (B, pool * h, pool * w, 2), of which
    pool x pool points make one."""
    if grid.device.type != "cpu":
        target[:] = resize(sample(image, grid), 1 / pool)
        return
    for i in range(len(image)):
        bands = sample_in_bands(image[i : i + 1], grid[i : i + 1], pool)
        bands = resize(bands, 1 / pool)
        target[i].unflatten(1, (len(bands), -1)).transpose(0, 1).copy_(bands)
