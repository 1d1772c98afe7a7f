"""One pair of frames, as the user has them -> the frames between, through any network.

Where memory is short, calls of the network become smaller: fewer timesteps at once, then tiles of
the frames, then all of it on the CPU. Whole frames on GPUs are the business of cuda_backend.py.
"""

import copy
import logging
import math
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..callbacks import Cancel, stop_if_cancelled
from ..engine.engine import Engine
from ..engine.kernels import interface as kernels
from ..networks.base import Motion, Network, PreparedFrames
from ..options import Options
from ..timeline import HALF, nearest_dyadic
from . import cuda_backend
from .planner import Job, Ladder, Way, first_line, free_memory, is_out_of_memory
from .threads import map_ahead
from .tiling import colours, pad

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class _Ready:
    """A frame or a tile on the network's device: image (1, C, H, W) float32, padded; and as the
    network has it. With tta both are batches of two: as they are and turned; of several frames,
    theirs one after the other."""

    image: Tensor
    prepared: PreparedFrames


class _Made(NamedTuple):
    """image: (H, W, C), in [0, 1], or bytes; on the network's device or the frames'. doubts: give
    those that Card.make describes, of the image and of all that it was made from. card: what made
    it, if one did."""

    job: Job
    image: Tensor
    doubts: tuple[Callable[[], float], ...] = ()
    card: cuda_backend.Card | None = None


#: What is wanted of a motion between frames or tiles: of B jobs -> (B, C, h, w).
_Look = Callable[[Motion, _Ready, _Ready], Tensor]


class Pairs:
    """One network and the options of one run: keeps what the next pair can use again, until it is
    closed.

    memory_limit: bytes that one call of the network may take; None: all that is available. Where
    memory runs out nevertheless, calls are smaller from there on, with a line in the log.
    """

    def __init__(
        self,
        model: Network,
        options: Options,
        cancel: Cancel | None = None,
        memory_limit: float | None = None,
    ):
        model.check_weights()
        self.model, self.options, self.cancel = model, options, cancel
        self._ladder = Ladder(model, options, memory_limit)
        self._engine: Engine | None = None
        self._whole = WeakIdKeyDictionary()  # frame -> _Ready
        self._said = False
        self._weights = model.weights_state()
        self._device = cuda_backend.device_of(model)
        self._card: cuda_backend.Card | None = None
        self._kind: Hashable = None  # of card: what it is for
        self._staged = WeakIdKeyDictionary()  # frame -> what cuda_backend.stage made of it

    @property
    def is_beside_cpu(self) -> bool:
        """Whether the device leaves the CPU free for other work meanwhile."""
        return self._device is not None

    @property
    def fills_calls(self) -> bool:
        """Whether calls of fewer frames than `at_once` cost as much as full ones."""
        return self.is_beside_cpu and self.model.any_timestep

    @property
    def ahead(self) -> int:
        """How many calls of `all_between` had best be made before the first one's frames are
        taken."""
        return 2 if self._device else 0

    def aside(self, items: Iterator[T]) -> Generator[T, None, None]:
        """`items`, found beside what else is done where the device allows it; to be used for what
        looks at frames before they come here. Once closed, nothing looks for them any more."""
        return self._device.aside(items) if self._device else (item for item in items)

    def map(
        self, function: Callable[[S], T], items: Iterable[S], ahead: Callable[[S], int]
    ) -> Generator[T, None, None]:
        """As workers.map_ahead where the device leaves the CPU free, else as `map`."""
        if self._device:
            return map_ahead(self._device.on_this_stream(function), items, ahead)
        return (function(item) for item in items)

    @torch.inference_mode()
    def stage(self, frame: Tensor) -> None:
        """Do what can be done for a frame, in any thread, before it is part of a pair."""
        if self._device and not self.options.tta and not self._device.holds(frame):
            dtype = cuda_backend.carried(frame.dtype, self.model.dtype)
            with suppress(RuntimeError):  # it is tried again, and then raised, where it is needed
                self._staged[frame] = cuda_backend.stage(self._device, frame, dtype)

    def close(self) -> None:
        """Give memory back, but for what the next run of the network starts from."""
        self._whole.clear()
        self._staged.clear()
        self._engine = None
        self._leave_card()

    def _leave_card(self) -> None:
        """To the next run."""
        card, self._card = self._card, None
        if card and self._end(card):
            cuda_backend.cards.put(self.model, self._weights, self._kind, card)

    def _drop_card(self) -> None:
        card, self._card = self._card, None
        if card:
            self._end(card)

    def _end(self, card: cuda_backend.Card) -> bool:
        """Whether the device still works."""
        try:
            card.end()
        except RuntimeError as error:  # and no other error is hidden by it
            log.warning("the device failed at the end of a run (%s)", first_line(error))
            return False
        return True

    def at_once(self, frame: Tensor) -> int:
        """How many frames like `frame`, (H, W, C), had best be asked for in one call."""
        return self._ladder.batch(*frame.shape)

    def between(
        self, first: Tensor, second: Tensor, timesteps: Sequence[Fraction]
    ) -> Iterator[Tensor]:
        """Yield the frames at `timesteps`, ascending within (0, 1), each of the size and device of
        `first` and its dtype; or float16, on GPUs, if `first` is of floats and the network has no
        more bits.

        first, second: (H, W, C) of one size; C 1, 3 or 4; floats in [0, 1] or uint8.
        Raises NotEnoughMemory where the smallest tiles are too large, on the CPU too, and
        NonFiniteError instead of a frame of NaN or infinite values.
        """
        return self.all_between([(first, second, timesteps)])

    def all_between(
        self, pairs: Sequence[tuple[Tensor, Tensor, Sequence[Fraction]]]
    ) -> Iterator[Tensor]:
        """As `between`, of several pairs of the same size, one after the other.

        On GPUs, which work beside the CPU, all has begun when this returns.
        """
        if not self.model.any_timestep:
            pairs = [(a, b, self._within_reach(timesteps)) for a, b, timesteps in pairs]
        coming = self._coming(pairs)
        if self._device:
            coming = iter(list(coming))
        return (get() for get in coming)

    @torch.inference_mode()
    def _coming(
        self, pairs: Sequence[tuple[Tensor, Tensor, Sequence[Fraction]]]
    ) -> Iterator[Callable[[], Tensor]]:
        """What waits for each of the frames."""
        self._forget_all_but([frame for pair in pairs for frame in pair[:2]])
        if self.model.any_timestep or all(set(timesteps) <= {HALF} for *_, timesteps in pairs):
            jobs = [Job(a, b, t) for a, b, ts in pairs for t in ts]
            made = self._made(jobs, partial(self._frames, fill=True))
        else:
            made = (frame for a, b, ts in pairs if ts for frame in self._bisect(a, b, ts))
        for frame in made:
            yield self._taken(frame, pairs[0][0])

    @torch.inference_mode()
    def motion(
        self, first: Tensor, second: Tensor, timestep: Fraction = HALF
    ) -> tuple[Tensor, Tensor]:
        """What the frame at `timestep` is made by; `first` and `second` as in `between`.

        Returns flow (H, W, 4), in pixels: where each pixel of the new frame lies in the first
        frame (x, y), then in the second; and mask (H, W), the first frame's share in [0, 1]. Both
        are float32, on the device of `first`; with tta, the mean of both passes.
        Networks with a fixed timestep give the middle.
        """
        self._forget_all_but([first, second])
        job = Job(first, second, timestep)
        (found,) = self._made([job], lambda way, jobs: self._by(way, jobs, self._describe))
        self._is_wrong(found)
        found = found.image.to(first.device)
        return found[..., :4], found[..., 4]

    def _forget_all_but(self, frames: Sequence[Tensor]) -> None:
        """`frames` may be in the pair before, too."""
        ready = [(frame, self._whole.get(frame)) for frame in frames]
        self._whole.clear()
        self._whole.update({frame: found for frame, found in ready if found})

    def _within_reach(self, timesteps: Sequence[Fraction]) -> list[Fraction]:
        reachable = nearest_dyadic(timesteps)
        if reachable != list(timesteps) and not self._said:
            self._said = True
            log.warning(
                "%s makes midpoints only: frames at %s, and at others out of reach, are made at "
                "the nearest steps, %s", self.model.version,
                _listed(timesteps), _listed(reachable),
            )  # fmt: skip
        return reachable

    def _bisect(
        self,
        first: Tensor,
        second: Tensor,
        timesteps: Sequence[Fraction],
        doubts: tuple[Callable[[], float], ...] = (),
    ) -> Iterator[_Made]:
        """doubts: of `first` and `second`, as in _Made."""
        (made,) = self._made([Job(first, second, HALF)], self._frames)
        made = made._replace(doubts=(*doubts, *made.doubts))
        left = [2 * t for t in timesteps if t < HALF]
        right = [2 * t - 1 for t in timesteps if t > HALF]
        if left:
            yield from self._bisect(first, made.image, left, made.doubts)
        if HALF in timesteps:
            yield made
        if right:
            yield from self._bisect(made.image, second, right, made.doubts)

    def _made(
        self, jobs: Sequence[Job], by: Callable[[Way, Sequence[Job]], Iterable[_Made]]
    ) -> Iterator[_Made]:
        """Yield what is made of each job, the way memory allows."""
        left = list(jobs)
        while left:
            way = made = None
            try:
                way = self._ladder.way(left)
                made = by(way, left[: way.batch])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Only here the error is gone, and with it all that its traceback holds.
            if made is None:
                self._whole.clear()
                self._drop_card()
                if cuda_backend.cards.release():
                    free_memory(self.model.device)
                else:
                    self._ladder.step_down(way, left[0].first, reason)
            else:
                yield from made
                del left[: way.batch]

    def _frames(self, way: Way, jobs: Sequence[Job], fill: bool = False) -> Iterable[_Made]:
        """The new frames; fill: see Card.make."""
        card = self._card_for(way, jobs[0].first)
        if card is None:
            return self._by(way, jobs, self._render)
        stop_if_cancelled(self.cancel)
        frames, doubts = card.make(jobs, self._staged, fill=fill)
        doubts = card.download(doubts)
        return [
            _Made(job, frame, (lambda i=i: float(doubts()[i]),), card)
            for i, (job, frame) in enumerate(zip(jobs, frames, strict=True))
        ]

    def _card_for(self, way: Way, frame: Tensor) -> cuda_backend.Card | None:
        """What makes such frames, (H, W, C), this way, or None."""
        if not self._device or way.model is not self.model or way.tiles or self.options.tta:
            return None
        dtype = cuda_backend.carried(
            frame.dtype, way.model.dtype
        )  # also of a frame that was made so
        card, size = self._card, tuple(frame.shape)
        if card is None or (card.size, card.dtype) != (size, dtype) or card.batch < way.batch:
            self._leave_card()
            self._card = self._reuse_or_make_card(size, dtype, max(way.batch, self.at_once(frame)))
        return self._card

    def _reuse_or_make_card(
        self, size: tuple[int, int, int], dtype: torch.dtype, batch: int
    ) -> cuda_backend.Card:
        """One that an earlier run left, or a new one."""
        options, scale = self.options, self.options.scale_for(*size[:2])
        self._kind = size, dtype, scale, options.ensemble, options.refine, kernels.names_to_try()
        card = cuda_backend.cards.take(self.model, self._kind)
        if card and card.batch >= batch:
            card.begin(self._device)
            return card
        # A copy, of the same weights: the network goes when its owner lets go of it.
        engine = cuda_backend.engine_for(copy.copy(self.model), size[:2], scale)
        return cuda_backend.Card(engine, options, self._device, size, dtype, batch)

    def _taken(self, made: _Made, like: Tensor) -> Callable[[], Tensor]:
        """What waits for a frame, on the device of `like`."""
        image = None
        if made.card:
            download = made.card.download if like.device.type == "cpu" else lambda x: lambda: x
            image = download(made.image)

        @torch.inference_mode()
        def get() -> Tensor:
            exact = made
            if self._is_wrong(made):  # as cards may be
                (exact,) = self._made([made.job], partial(self._by, look=self._render))
                self._is_wrong(exact)
            elif image:
                return image()
            return _finish(exact.image, like)

        return get

    def _is_wrong(self, made: _Made) -> bool:
        """Whether an image has to be made again; NonFiniteError where that would not help."""
        doubts = [doubt() for doubt in made.doubts]
        if not all(map(math.isfinite, doubts)):
            raise self.model.non_finite_error()
        return any(doubts)

    def _by(self, way: Way, jobs: Sequence[Job], look: _Look) -> list[_Made]:
        """What `look` gives of `jobs`; from tiles, on the device of the frames."""
        images, checksums = self._called(way, jobs, look)
        images = rearrange(images, "b c h w -> b h w c")
        doubts = ((partial(float, 0 * checksum),) for checksum in checksums.tolist())
        return [_Made(*each) for each in zip(jobs, images, doubts, strict=True)]

    def _called(self, way: Way, jobs: Sequence[Job], look: _Look) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), and (B,): see Motion.checksum."""
        height, width, _ = jobs[0].first.shape
        scale = self.options.scale_for(height, width)
        timesteps = [job.timestep for job in jobs]
        checksums: Tensor | int = 0

        def call(firsts: Sequence[_Ready], seconds: Sequence[_Ready]) -> Tensor:
            nonlocal checksums
            stop_if_cancelled(self.cancel)
            first, second = _together(firsts), _together(seconds)
            motion = self._motion(first, second, timesteps, scale)
            checksums = checksums + motion.checksum().view(len(jobs), -1).sum(1)
            return look(motion, first, second)

        if self._engine is None or self._engine.network is not way.model:
            self._engine = Engine(way.model)
        if not way.tiles:
            for frame in (frame for job in jobs for frame in (job.first, job.second)):
                if frame not in self._whole:
                    self._whole[frame] = self._ready(frame, scale)
            firsts = [self._whole[job.first] for job in jobs]
            seconds = [self._whole[job.second] for job in jobs]
            return call(firsts, seconds)[..., :height, :width], checksums
        (job,), canvas = jobs, None
        for tile in way.tiles:
            first, second = (self._ready(tile.of(x), scale) for x in (job.first, job.second))
            made = call([first], [second])[0]
            if canvas is None:
                canvas = torch.zeros(len(made), height, width, device=job.first.device)
            tile.add(made, canvas)
        return canvas[None], checksums

    def _ready(self, image: Tensor, scale: float) -> _Ready:
        """(H, W, C) as the user has it -> what the network takes."""
        network = self._engine.network
        x = rearrange(image, "h w c -> 1 c h w").to(network.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float().clamp(0, 1)
        x = pad(x.contiguous(), network.side_multiple(scale))
        prepared = self._engine.prepare(self._views(colours(x)), refine=self.options.refine)
        return _Ready(self._views(x), prepared)

    def _motion(
        self, first: _Ready, second: _Ready, timesteps: Sequence[Fraction], scale: float
    ) -> Motion:
        times = torch.tensor([float(t) for t in timesteps for _ in range(1 + self.options.tta)])
        return self._engine.motion(
            first.prepared,
            second.prepared,
            times.to(first.image.device)[:, None, None, None],
            scale=scale,
            ensemble=self.options.ensemble,
            refine=self.options.refine,
        )

    def _render(self, motion: Motion, first: _Ready, second: _Ready) -> Tensor:
        frames = motion.render(first.image, second.image)
        return (frames[::2] + turn(frames[1::2])) / 2 if self.options.tta else frames

    def _describe(self, motion: Motion, first: _Ready, second: _Ready) -> Tensor:
        """(B, 5, H, W): flow and mask."""
        if not self.options.tta:
            return torch.cat((motion.flow, motion.mask), 1)
        flow = (motion.flow[::2] - turn(motion.flow[1::2])) / 2  # turned, motion points back
        return torch.cat((flow, (motion.mask[::2] + turn(motion.mask[1::2])) / 2), 1)

    def _views(self, x: Tensor) -> Tensor:
        return torch.cat((x, turn(x))) if self.options.tta else x


def _listed(timesteps: Sequence[Fraction]) -> str:
    return ", ".join([*map(str, timesteps[:8]), *["..."] * (len(timesteps) > 8)])


def turn(x: Tensor) -> Tensor:
    """`x` (B, C, H, W) turned by 180 degrees."""
    return x.flip(2, 3)


def _together(frames: Sequence[_Ready]) -> _Ready:
    """One after the other; one and the same frame takes no more memory than once."""
    first = frames[0]
    if len(first.image) == 1 and all(frame is first for frame in frames):

        def repeat(x: Tensor) -> Tensor:
            return x.expand(len(frames), -1, -1, -1)

        return _Ready(repeat(first.image), first.prepared.map(repeat))
    pyramids = zip(*(frame.prepared.pyramid for frame in frames), strict=True)
    prepared = PreparedFrames(
        torch.cat([frame.prepared.image_and_features for frame in frames]),
        tuple(map(torch.cat, pyramids)),
    )
    return _Ready(torch.cat([frame.image for frame in frames]), prepared)


def _finish(frame: Tensor, like: Tensor) -> Tensor:
    """A frame in [0, 1], of the dtype and device of `like`."""
    if like.dtype == torch.uint8:
        frame = (frame * 255).round_()
    return frame.to(device=like.device, dtype=like.dtype)
