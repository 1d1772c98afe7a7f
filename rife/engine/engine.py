"""Runs a network with a fraction of the work, for the same frame.

A block at scale s sees its input made s times smaller, and torch's bilinear way to that is the mean
of the 2x2 pixels in the middle of each s x s cell (s even). Nothing else of the cell is ever read:
so only there are frames warped. What one block hands to the next need not pass through full
resolution either: making it r times larger and then s times smaller is, exactly, to make it r / s
times larger. Only the flow is kept at full size, because every block adds to it. All this is done
in strips of rows, up to each block's first convolution, so that little is ever large.

The networks themselves say what is computed, and are what this is tested against. What lies
between the convolutions is `Estimation`'s: the one here is for all devices, kernels/ has
one for GPUs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.base import Motion, Network, PreparedFrames, blend, estimate_pairs_separately
from ..networks.warp import at_least_float32, resize, sample, sample_in_bands, swap_directions
from .layers import Layer, fuse

#: Pixels of a strip on a CPU, so that it stays in its caches. Elsewhere a strip is the frame.
STRIP = 98304
#: Whether torch has FBGEMM, whose embedding_bag is a fast weighted sum of rows.
_GATHERS = "fbgemm" in torch.backends.quantized.supported_engines


class Engine:
    """Does what `network` does, by methods of the same names.

    It takes the network's weights as and where they are now: make it anew when they change.
    run: the class that does what lies between convolutions, `Estimation` or one like it.
    """

    def __init__(self, network: Network, run: "type[Estimation] | None" = None):
        self.network = network
        self._run = run = run or Estimation
        self.uses_kernels = run.uses_kernels
        self._fast = fuse(network, run.finish_convolution)
        # Few channels are sampled faster one after the other, many together.
        features = network.inputs.get("features0", 0)
        gathers = network.device.type == "cpu" and features and _GATHERS
        together = gathers or run.uses_kernels
        self._layout = torch.channels_last if together else torch.contiguous_format
        #: Channels that a frame is seen in, some of them zeros where a power of two is wanted.
        self._width, width = 3 + features, None
        if run.uses_kernels:
            self._width = width = 1 << (self._width - 1).bit_length()
        self._blocks = [
            _Block(network, i, block, width, run.pack_block_output)
            for i, block in enumerate(self._fast.blocks)
        ]
        if network.unet is not None:
            self._unet = _Entry(self._fast.unet.down0.conv1[0], network.unet.inputs, width=width)
            self._fast.unet.join = tuple  # a Layer takes parts

    @torch.no_grad()
    def prepare(self, image: Tensor, *, refine: bool = False) -> PreparedFrames:
        """As Network.prepare."""
        network, pyramid = self._fast, ()
        seen = image = image.float().contiguous()
        if self._width > 3:
            seen = torch.empty(
                (len(image), self._width, *image.shape[2:]),
                dtype=network.dtype if self.uses_kernels else torch.float32,
                device=image.device,
                memory_format=self._layout,
            )
            seen[:, :3], end = image, 3
            if network.encode is not None:
                features = network.encode(image.to(network.dtype))
                end += features.shape[1]
                seen[:, 3:end] = features
            seen[:, end:] = 0
        if refine or "refine" in network.built_in:
            levels = network.contextnet.pyramid(image.to(network.dtype))
            pyramid = tuple(level.contiguous() for level in levels)
        return PreparedFrames(seen, pyramid)

    @property
    def can_prepare_slots(self) -> bool:
        """Whether `prepare_slot` can be called."""
        return self._run.prepare_frame is not None

    @torch.no_grad()
    def prepare_slot(self, seen: Tensor, images: Tensor, slot: Tensor) -> Tensor | None:
        """As `prepare`, of one of the images, (N, h, w, C), right into its place in `seen`, the
        `PreparedFrames.seen` of all. Returns the image's features, where the network has them."""
        network, features = self._fast, None
        if network.encode is not None:
            image = torch.empty(
                (1, 3, *seen.shape[2:]),
                dtype=seen.dtype,
                device=seen.device,
                memory_format=torch.channels_last,
            )
            self._run.prepare_frame(image, images, slot)
            features = network.encode(image)
        self._run.prepare_frame(seen, images, slot, features, slot)
        return features

    @torch.no_grad()
    def motion(
        self,
        frame0: PreparedFrames,
        frame1: PreparedFrames,
        timestep: float | Tensor = 0.5,
        *,
        scale: float = 1.0,
        ensemble: bool = False,
        refine: bool = False,
        doubling_flags: list[Tensor] | None = None,
    ) -> Motion:
        """As Network.motion.

        doubling_flags: of networks that may double their scales, whether they have to is not asked,
            for which the device would have to be waited for; but (B,) is appended, true where they
            might.
        """
        network, frames = self.network, (frame0, frame1)
        if not self.uses_kernels:
            frames = frame0.selected(), frame1.selected()
        options = {"scale": scale, "ensemble": ensemble, "refine": refine}
        if not supports_scale(network, scale):
            return network.motion(*frames, timestep, **options)
        scales = [s / scale for s in network.scales]
        times = torch.as_tensor(
            timestep, dtype=torch.float32, device=frame0.image_and_features.device
        )
        times = times.expand(len(frame0), 1, 1, 1)
        both = ensemble or "ensemble" in network.built_in

        run = self._run(frames, times, network.adds_masks)
        for i, block in enumerate(self._blocks):
            found = block(run, int(scales[i]), both)
            if i == 1 and network.can_double_scales:
                # Made larger, flow has no new extremes.
                lost = network.needs_doubled_scales(found.first_flow)
                if doubling_flags is not None:
                    doubling_flags.append(lost)
                elif lost.any() and (lost := self._lost(found)).any():
                    if not lost.all():  # each pair decides for itself
                        return estimate_pairs_separately(self.motion, frames, times, **options)
                    scales = [2 * s for s in scales]
                    run = self._run(frames, times, network.adds_masks)
                    run.add_output(self._blocks[0](run, int(scales[0]), both=False))  # as upstream
                    found = block(run, int(scales[1]), both)
            run.add_output(found)
        residual = None
        if refine or "refine" in network.built_in:
            residual = self._residual(run)
        return run.finish(residual)

    def _lost(self, found: "_Found") -> Tensor:
        return self.network.needs_doubled_scales(resize(found.first_flow, found.factor))

    def _residual(self, run: "Estimation") -> Tensor:
        contextnet, unet = self._fast.contextnet, self._fast.unet
        contexts = [
            [_channels_last(x) for x in contextnet.warp_pyramid(frame.selected_pyramid(), flow)]
            for frame, flow in zip(run.frames, run.flow.split(2, 1), strict=True)
        ]
        return (
            at_least_float32(unet.body(*run.run_first_convolution(self._unet, 1), *contexts)) * 2
            - 1
        )


def supports_scale(network: Network, scale: float) -> bool:
    """Whether blocks see means of 2x2 pixels at this scale; else an engine leaves all to the
    network."""
    return all(s == scale or s / scale % 2 == 0 for s in network.scales)


class _Entry:
    """A first convolution; and, for ensembles, as it sees the frames in the other order.

    tensors: that its input comes in, the sizes of the parts that lie in each: what is gathered,
        apart, and all else.
    channels: of its input.
    """

    #: What networks call their inputs -> the part that it goes into; in the order of both.
    PARTS: ClassVar = {
        "image0": "seen0", "features0": "seen0", "image1": "seen1", "features1": "seen1",
        "unwarped0": "unwarped0", "unwarped1": "unwarped1", "time": "time", "mask": "given",
        "block_features": "given", "flow": "flow",
    }  # fmt: skip

    def __init__(
        self,
        layer: Layer,
        inputs: Mapping[str, int],
        both: bool = False,
        width: int | None = None,
    ):
        """inputs: the channels of the layer, which may have fewer of them: the first ones. both:
        ensembles are wanted. width: that a frame's channels are filled up to with zeros, and all
        of them to a multiple of 8, which GPUs are fast at."""
        there, end = {}, 0
        for name, size in inputs.items():
            if end < layer.weight.shape[1] and size:
                there[name] = layer.weight[:, end : end + size]
            end += size
        mirror = str.maketrans("01", "10")
        back = {name: there[name.translate(mirror)] for name in there}
        if "flow" in there:
            back |= {"mask": -there["mask"], "flow": there["flow"].roll(2, 1)}
        names = [name for name in self.PARTS if name in there]
        sizes: dict[str, int] = {}
        for name in names:
            part = self.PARTS[name]
            sizes[part] = sizes.get(part, 0) + there[name].shape[1]
        weights = []
        for order in (there, back) if both else (there,):
            parts = [
                torch.cat([order[name] for name in names if self.PARTS[name] == part], 1)
                for part in sizes
            ]
            if width:
                fills = (part.startswith(("seen", "unwarped")) for part in sizes)
                parts = [
                    _filled(weight, width) if fill else weight
                    for weight, fill in zip(parts, fills, strict=True)
                ]
            weight = torch.cat(parts, 1)
            weights.append(_filled(weight, -(-weight.shape[1] // 8) * 8) if width else weight)
        self.layers = [layer.with_weight(weight) for weight in weights]
        self.channels = weights[0].shape[1]
        self.halo = layer.stride[0] - 1  # rows above the first that it needs
        gathered = [part for part in ("seen0", "seen1") if sizes.get(part, 0) > 3]
        apart = gathered if layer.takes_parts else []
        rest = {part: size for part, size in sizes.items() if part not in apart}
        self.tensors = [{part: sizes[part]} for part in apart] + [rest]


class _Block:
    """A network's block on a `Estimation`."""

    def __init__(
        self,
        network: Network,
        index: int,
        fused: nn.Module,
        width: int | None,
        pack: "Callable[[Tensor, Tensor, int], Tensor] | None",
    ):
        """width: as in _Entry, of a Estimation that is fused. pack: Estimation.pack."""
        both = "ensemble" in network.options | network.built_in
        self.entry = _Entry(fused.conv0[0][0], network.inputs, both, width)
        self.body, self.output_stride, self.cell = fused.body, fused.output_stride, 1
        if isinstance(fused.lastconv, nn.Sequential):  # before a PixelShuffle(2)
            last = index + 1 == len(network.blocks)
            planes = 5 if last else 5 + network.inputs["block_features"]
            fused.lastconv[0] = fused.lastconv[0].narrowed(4 * planes)
            if width:  # planes are read as they are before
                fused.lastconv[0] = fused.lastconv[0].widened(-(-4 * planes // 8) * 8)
                fused.lastconv, self.cell = fused.lastconv[0], 2
        if pack and isinstance(fused.lastconv, Layer):
            cell, self.cell = self.cell, 1
            fused.lastconv.finish = lambda y, bias, *_: pack(y, bias, cell)

    def __call__(self, run: "Estimation", scale: int, both: bool) -> "_Found":
        x = run.run_first_convolution(self.entry, scale, both)
        planes = self.body(torch.cat(x) if both else x[0])
        return run.read_output(planes, self.cell, scale * self.output_stride, both)


def halves(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Planes (2 * B, P, ...) of pairs, flow and mask first, then of the same in the opposite order
    -> those of the former, and the mean of both, (B, 5, ...)."""
    there, back = planes.chunk(2)
    turned = torch.cat((swap_directions(back), -back[:, 4:5]), 1)
    return there, (there[:, :5] + turned) / 2


@dataclass(frozen=True)
class _Found:
    """What a block found: planes (B, P, h, w) float32, which are flow in pixels of the frame, mask,
    and what is handed over; to be made `factor` times larger. there: the planes as found in the
    frames' given order alone."""

    planes: Tensor
    factor: int
    there: Tensor

    @property
    def first_flow(self) -> Tensor:
        """(B, 4, h, w) float32 in pixels, of `there`."""
        return self.there[:, :4]

    def rows(self, planes: slice, scale: int, start: int, stop: int) -> Tensor:
        """Some planes at 1 / scale of the frame's size, of these rows."""
        factor = self.factor // scale
        if factor == 1:
            return self.planes[:, planes, start:stop]
        first = max(0, start // factor - 1)  # a row around, or what is at the border
        low = self.planes[:, planes, first : -(-stop // factor) + 1]
        return resize(low, factor)[:, :, start - first * factor : stop - first * factor]


class Estimation:
    """Two frames, and what is known so far of the motion between them.

    flow: (B, 4, H, W) float32, in pixels, once a block has been added.
    """

    #: Whether it takes frames in fewer bits, channels last and filled up, and planes before a
    #: PixelShuffle.
    uses_kernels: ClassVar[bool] = False
    #: What does the rest of a Layer in one pass, after its convolution; None: torch's functions.
    finish_convolution: ClassVar[Callable[..., Tensor] | None] = None
    #: What follows a block's last convolution instead (y, bias, cell), its PixelShuffle included.
    pack_block_output: ClassVar[Callable[[Tensor, Tensor, int], Tensor] | None] = None
    #: kernels.Kernels.prepare_frame.
    prepare_frame: ClassVar[Callable[..., None] | None] = None

    def __init__(
        self, frames: tuple[PreparedFrames, PreparedFrames], times: Tensor, adds_masks: bool
    ):
        self.frames, self.times, self.adds_masks = frames, times, adds_masks
        self.flow: Tensor | None = None
        self._found: list[_Found] = []

    def read_output(self, planes: Tensor, cell: int, factor: int, both: bool) -> _Found:
        """What a block's last layer says; cell: of the PixelShuffle that follows it."""
        planes = at_least_float32(planes)
        planes[:, :4] *= factor
        if both:
            there, planes = halves(planes)
            return _Found(planes, factor, there)
        return _Found(planes, factor, planes)

    def add_output(self, found: _Found) -> None:
        """Take what a block found into account."""
        height, width = self.frames[0].image_and_features.shape[2:]
        if first := self.flow is None:
            self.flow = found.planes.new_empty(len(self.times), 4, height, width)
        for start, stop in _strips(height, width, self.flow.device):
            rows, change = self.flow[:, :, start:stop], found.rows(slice(0, 4), 1, start, stop)
            rows.copy_(change) if first else rows.add_(change)
        self._found = [*self._found, found] if self.adds_masks else [found]

    def mask(self, scale: int, start: int, stop: int) -> Tensor:
        """Before its sigmoid; see _Found.rows."""
        masks = (found.rows(slice(4, 5), scale, start, stop) for found in self._found)
        return reduce(torch.add, masks)

    def run_first_convolution(self, entry: _Entry, scale: int, both: bool = False) -> list[Tensor]:
        """What a first convolution at `scale` gives, (B, c, h, w); `both`: in both orders."""
        batch, _, height, width = self.frames[0].image_and_features.shape
        height, width = height // scale, width // scale
        layers, halo = entry.layers[: 1 + both], entry.halo
        weight = layers[0].weight
        strips = [(0, height)]
        if halo:
            strips = list(_strips(height, width * min(scale, 2) ** 2, weight.device))
        most = strips[0][1]
        buffers = [
            weight.new_empty(batch, halo + most, width, sum(sizes.values())).permute(0, 3, 1, 2)
            for sizes in entry.tensors
        ]
        for buffer in buffers:
            buffer[:, :, :halo] = 0
        made: list[list[Tensor]] = []
        for start, stop in strips:
            if start:
                for buffer in buffers:
                    buffer[:, :, :halo] = buffer[:, :, most : most + halo]
            inputs = [buffer[:, :, : halo + stop - start] for buffer in buffers]
            parts = {
                name: part
                for x, sizes in zip(inputs, entry.tensors, strict=True)
                for name, part in zip(sizes, x.split(list(sizes.values()), 1), strict=True)
            }
            self._fill({n: part[:, :, halo:] for n, part in parts.items()}, scale, start, stop)
            made.append([])
            for layer, times in zip(layers, (self.times, 1 - self.times), strict=False):
                if "time" in parts:
                    parts["time"][:, :, 0 if start else halo :] = times
                made[-1].append(layer(inputs, (1 - halo, 1)))
        return [
            torch.cat(rows, 2) if len(rows) > 1 else rows[0] for rows in zip(*made, strict=True)
        ]

    def finish(self, residual: Tensor | None) -> Motion:
        """The outcome, once all blocks are added."""
        return _Motion(self.flow, torch.sigmoid(self.mask(1, 0, self.flow.shape[2])), residual)

    def _fill(self, parts: Mapping[str, Tensor], scale: int, start: int, stop: int) -> None:
        """Write rows of what a block at `scale` sees; parts: (B, size, stop - start, w) each."""
        for i, frame in enumerate(self.frames):
            if f"unwarped{i}" in parts:
                parts[f"unwarped{i}"][:] = _smaller(frame.image, scale, start, stop)
        if self.flow is None:
            for i, frame in enumerate(self.frames):
                if f"seen{i}" in parts:
                    parts[f"seen{i}"][:] = _smaller(frame.image_and_features, scale, start, stop)
            for name in {"given", "flow"} & set(parts):
                parts[name][:] = 0
            return
        if self.adds_masks:
            given = self.mask(scale, start, stop)
        else:
            given = self._found[-1].rows(slice(4, None), scale, start, stop)
        flow = _middles(self.flow, scale, start, stop)
        for i, frame in enumerate(self.frames):
            places = _places(flow[:, 2 * i : 2 * i + 2], self.flow.shape, scale, start)
            _warp_into(parts[f"seen{i}"], frame.image_and_features, places, min(scale, 2))
        smaller = _smaller(flow, min(scale, 2), 0, stop - start) / scale
        # To fewer bits first, to another layout after: twice as fast as both at once.
        parts["given"][:] = given.to(parts["given"].dtype)
        parts["flow"][:] = smaller.to(parts["flow"].dtype)


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
                places = _places(flow, self.flow.shape, 1, start)
                warped.append(sample(image, _grid(places, image)))
            residual = None if self.residual is None else self.residual[:, :, rows]
            frame[:, :, rows] = blend(*warped, self.mask[:, :, rows], residual)
        return frame


def _strips(height: int, width: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Start and stop of each strip of rows."""
    rows = height
    if device.type == "cpu":
        rows = max(16, STRIP // width // 16 * 16)
    for start in range(0, height, rows):
        yield start, min(height, start + rows)


def _filled(weight: Tensor, channels: int) -> Tensor:
    """A kernel with zeros for more channels of its input."""
    return F.pad(weight, (0, 0, 0, 0, 0, channels - weight.shape[1]))


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


def _places(flow: Tensor, size: torch.Size, scale: int, start: int) -> tuple[Tensor, Tensor]:
    """Where flow (B, 2, h, w) points to, x and y in pixels, (B, h, w): flow as `_middles` gives it
    from row `start` on, of a frame of `size` (B, C, H, W)."""
    x, y = _axis(size[3], scale, flow), _axis(size[2], scale, flow)[min(scale, 2) * start :]
    return x + flow[:, 0], y[: flow.shape[2], None] + flow[:, 1]


def _axis(count: int, scale: int, like: Tensor) -> Tensor:
    axis = torch.arange(count, device=like.device, dtype=like.dtype)
    if scale > 2:
        axis = axis.view(-1, scale)[:, scale // 2 - 1 : scale // 2 + 1].flatten()
    return axis


def _grid(places: tuple[Tensor, Tensor], image: Tensor) -> Tensor:
    """`places` on `image`, as `sample` wants them."""
    x, y = places
    height, width = image.shape[2:]
    grid = x.new_empty(*x.shape, 2)
    torch.sub(x * (2 / (width - 1)), 1, out=grid[..., 0])
    torch.sub(y * (2 / (height - 1)), 1, out=grid[..., 1])
    return grid


def _warp_into(target: Tensor, image: Tensor, places: tuple[Tensor, Tensor], pool: int) -> None:
    """target (B, C, h, w) = image (B, C, H, W) at places (B, pool * h, pool * w) each, of which
    pool x pool make one."""
    if image.device.type != "cpu":
        target[:] = resize(sample(image, _grid(places, image)), 1 / pool)
        return
    for i in range(len(image)):
        one, at = image[i : i + 1], (places[0][i : i + 1], places[1][i : i + 1])
        if one.stride(1) == 1:
            target[i].permute(1, 2, 0).copy_(_gathered(one[0], *at, pool))
            continue
        bands = resize(sample_in_bands(one, _grid(at, one), pool), 1 / pool)
        target[i].unflatten(1, (len(bands), -1)).transpose(0, 1).copy_(bands)


def _gathered(image: Tensor, x: Tensor, y: Tensor, pool: int) -> Tensor:
    """As `_warp_into`, of an image (C, H, W) whose pixels' channels lie together: (h, w, C), each
    the sum of 4 pixels and their weights, which torch has a fast loop for."""
    channels, height, width = image.shape
    x, y = x.clamp_(0, width - 1), y.clamp_(0, height - 1)
    left = x.to(torch.int32).clamp_(0, width - 2)  # within the image, even if x is NaN
    top = y.to(torch.int32).clamp_(0, height - 2)
    right = x.sub_(left).view(-1)
    down = y.sub_(top).mul_(1 / pool**2).view(-1)
    corners = torch.tensor([0, 1, width, width + 1], dtype=torch.int32)
    indices = torch.add(left, top, alpha=width).view(-1, 1) + corners
    weights = x.new_empty(len(indices), 4)
    torch.mul(right, down, out=weights[:, 3])
    torch.sub(down, weights[:, 3], out=weights[:, 2])
    torch.mul(right, 1 / pool**2, out=weights[:, 1]).sub_(weights[:, 3])
    torch.sub(1 / pool**2 - down, weights[:, 1], out=weights[:, 0])
    each = 4 * pool  # those of neighbours in a row, too
    made = F.embedding_bag(
        indices.view(-1),
        image.permute(1, 2, 0).reshape(-1, channels),
        torch.arange(0, indices.numel() + 1, each, dtype=torch.int32),
        mode="sum", per_sample_weights=weights.view(-1), include_last_offset=True,
    )  # fmt: skip
    made = made.view(-1, pool, x.shape[2] // pool, channels)
    return made[:, 0] if pool == 1 else made[:, 0] + made[:, 1]
