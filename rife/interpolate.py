"""The loop: frames in, denser frames out, through any network.

One way for all callers: `interpolate` (a batch), `clip.interpolate_file` (a stream) and the nodes
all run `_stream`.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .cancel import Cancel, Cancelled
from .heap import freed_memory_kept
from .media.base import Frame
from .network import Network
from .options import Options
from .pairs import Pairs
from .scene import CutDetector, even_out, is_duplicate, thumbnail
from .timeline import HALF, Schedule, Timeline, parse_multiplier

log = logging.getLogger(__name__)

Progress = Callable[[int, int, Tensor], None]


@dataclass
class Summary:
    """What a run did, counted while it goes on: frames given and shown, cuts found, frames that
    repeat (where that was looked for)."""

    given: int = 0
    shown: int = 0
    cuts: int = 0
    repeats: int = 0


def interpolate(
    model: Network,
    frames: Tensor,
    multiplier: int | float | str | Fraction | Schedule | Timeline = 2,
    *,
    loop: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    out: Tensor | None = None,
    summary: Summary | None = None,
    **options,
) -> Tensor:
    """Put new frames between those of `frames`.

    frames: (N, H, W, C), C 1 (grey), 3 (RGB) or 4 (RGB and alpha); floats in [0, 1] or uint8; on
        any device. Frames of any size from 1x1 up.
    multiplier: 2 doubles the frame rate, 2.5 makes five frames of two, 1/2 keeps every second
        frame, "0-20:2, 21-:8" has its own for each pair; or a `Timeline` on which the frames are a
        second apart: Timeline(frame_rate=Fraction(60, 24)) makes 60 frames a second of 24.
        Networks with a fixed timestep (the paper's IFNet, v3.x) make halves, quarters ... by
        recursion and the rest at the nearest of these, with a line in the log.
    loop: make the frames between the last and the first, too (a Timeline says so itself).
    progress: called as (done, total, frame) with each frame; frame: (H, W, C).
    cancel: called before each network run; returning True raises Cancelled, and an exception of
        its own goes through.
    out: where to put the result, (count, H, W, C), of any dtype and device.
    summary: counts what is done.
    options: see `Options`: scale, ensemble, refine, tta, cuts, cut_sensitivity, duplicates.

    Returns `out`, or a new tensor like `frames`. Input frames are in it bit for bit, where the
    timeline falls on them. One frame alone comes back as it is. Raises ValueError for what can't
    be frames.
    """
    frames = torch.as_tensor(frames).detach()
    if frames.ndim != 4:
        raise ValueError(
            f"frames must be (N, H, W, C), such as (49, 480, 720, 3), not {tuple(frames.shape)}"
        )
    if len(frames) == 0:
        raise ValueError("there are no frames to interpolate: the batch is empty")
    timeline = multiplier
    if not isinstance(timeline, Timeline):
        timeline = Timeline(parse_multiplier(multiplier), loop=loop)
    total = timeline.count(len(frames))
    if out is None:
        out = frames.new_empty((total, *frames.shape[1:]))
    elif out.shape != (total, *frames.shape[1:]):
        raise ValueError(f"out is {tuple(out.shape)}, not {(total, *frames.shape[1:])}")

    stream = _stream(model, frames, timeline, Options(**options), cancel, summary)
    for i, (_, frame) in enumerate(stream):
        out[i] = frame
        if progress:
            progress(i + 1, total, out[i])
    return out


def interpolate_stream(
    model: Network,
    frames: Iterable[Tensor | Frame],
    timeline: Timeline = Timeline(),  # noqa: B008 (frozen)
    options: Options = Options(),  # noqa: B008 (frozen)
    cancel: Cancel | None = None,
    summary: Summary | None = None,
) -> Iterator[tuple[Fraction, Tensor]]:
    """As `interpolate`, frame by frame: holds a few input frames, however many there are.

    frames: images of (H, W, C) each, a second apart, or with times of their own.
    Yields (position, frame): 2 is the third input frame, 5/2 what lies halfway between the third
    and the fourth.
    """
    dtype = None
    for place, frame in _stream(model, frames, timeline, options, cancel, summary):
        dtype = dtype or frame.dtype  # the first is an input frame
        yield place, frame.to(dtype)


def _stream(
    model: Network,
    frames: Iterable[Tensor | Frame],
    timeline: Timeline,
    options: Options,
    cancel: Cancel | None,
    summary: Summary | None,
) -> Iterator[tuple[Fraction, Tensor]]:
    """As interpolate_stream, but that new frames have the dtype that `Pairs` gives them."""
    options.check(model)
    summary = summary or Summary()
    run = _Run(model, options, cancel, summary)
    begun: deque[tuple[Sequence[_Step], Iterator[Tensor]]] = deque()
    with freed_memory_kept() if model.device.type == "cpu" else nullcontext():
        try:
            each = map(_step, timeline.steps(_keys(frames, timeline, options, summary)))
            for steps in run.together(run.pairs.aside(each)):
                begun.append((steps, run.begin(steps)))
                if len(begun) > run.pairs.ahead:
                    yield from run.images(*begun.popleft())
            while begun:
                yield from run.images(*begun.popleft())
        finally:
            run.pairs.close()


@dataclass(frozen=True, eq=False)
class _Key:
    """An input frame, (H, W, C), between which and the next one there is motion, or a cut."""

    index: int
    image: Tensor
    thumbnail: Tensor | None
    shot: int = 0


class _Step(NamedTuple):
    """What is shown from one frame to the next, at timesteps in [0, 1]; inner: those in (0, 1);
    moves: the network makes what lies between."""

    first: _Key
    second: _Key
    timesteps: Sequence[Fraction]
    inner: Sequence[Fraction]
    moves: bool


def _keys(
    frames: Iterable[Tensor | Frame], timeline: Timeline, options: Options, summary: Summary
) -> Iterator[tuple[_Key, Fraction]]:
    """The frames and their places, and what follows the last where the timeline closes."""
    placed = _placed(frames, timeline, options, summary)
    if not options.duplicates:
        yield from ((key, place) for key, place, _ in placed)
        return
    for _, shot in groupby(placed, lambda frame: frame[0].shot):
        yield from even_out(shot)


def _placed(
    frames: Iterable[Tensor | Frame], timeline: Timeline, options: Options, summary: Summary
) -> Iterator[tuple[_Key, Fraction, bool]]:
    """The frames, their places, and whether each repeats the ones before, if that is asked."""
    seek_cuts = options.cuts != "ignore" and options.cut_sensitivity > 0
    cuts = CutDetector(options.cut_sensitivity)
    first = before = run = None
    within_range = True

    def after(key: _Key) -> _Key:
        if before is None:
            return key
        cut = seek_cuts and cuts.is_cut(before.thumbnail, key.thumbnail)
        summary.cuts += cut
        return replace(key, shot=before.shot + cut)

    for index, frame in enumerate(frames):
        if not isinstance(frame, Frame):
            frame = Frame(frame, Fraction(index), Fraction(1))
        if not check_frame(frame.image, index, like=before and before.image) and within_range:
            log.warning("frames have values outside [0, 1]; new frames are made from clamped ones")
            within_range = False
        looked_at = seek_cuts or options.duplicates
        key = after(_Key(index, frame.image, thumbnail(frame.image) if looked_at else None))
        # Not with the frame before: a slow drift would go unseen from frame to frame.
        repeats = bool(options.duplicates and run and is_duplicate(run.thumbnail, key.thumbnail))
        summary.given += 1
        summary.repeats += repeats
        yield key, timeline.place(index, frame.time), repeats
        before, run, end = key, run if repeats else key, frame.time + frame.duration
        if timeline.loop:
            first = first or key
    if before and timeline.closes:
        follows = after(replace(first, index=before.index + 1)) if timeline.loop else before
        yield follows, timeline.place(before.index + 1, end), not timeline.loop


def _step(found: tuple[_Key, _Key, Sequence[Fraction]]) -> _Step:
    first, second, timesteps = found
    inner = [t for t in timesteps if 0 < t < 1]
    same_shot = first.shot == second.shot
    moves = bool(inner) and same_shot and not _same(first.image, second.image)
    return _Step(first, second, timesteps, inner, moves)


class _Run:
    """What is shown between two frames: themselves, what a network makes of them, or a cut."""

    def __init__(self, model: Network, options: Options, cancel: Cancel | None, summary: Summary):
        self.options, self.cancel, self.summary = options, cancel, summary
        self.pairs = Pairs(model, options, cancel)

    def together(self, steps: Iterable[_Step]) -> Iterator[list[_Step]]:
        """`steps`, in such groups that the network's calls make good use of the device."""
        group: list[_Step] = []
        for step in steps:
            group.append(step)
            runs = sum(len(step.inner) for step in group if step.moves)
            most = self.pairs.at_once(step.first.image) if runs else 0
            if runs >= most or len(group) >= most:
                yield group
                group = []
        if group:
            yield group

    def begin(self, steps: Sequence[_Step]) -> Iterator[Tensor]:
        """Have the network make what `steps` need of it."""
        return self.pairs.all_between(
            [(step.first.image, step.second.image, step.inner) for step in steps if step.moves]
        )

    def images(
        self, steps: Sequence[_Step], made: Iterator[Tensor]
    ) -> Iterator[tuple[Fraction, Tensor]]:
        """Yield the images at the steps' timesteps, with their places in the clip; made: what
        `begin` gave."""
        for step in steps:
            if self.cancel and self.cancel():
                raise Cancelled("interpolation was cancelled")
            first, second = step.first, step.second
            between = made if step.moves else self._without_network(step)
            for t in step.timesteps:
                self.summary.shown += 1
                place = first.index + t * (second.index - first.index)
                yield place, first.image if t == 0 else second.image if t == 1 else next(between)

    def _without_network(self, step: _Step) -> Iterator[Tensor]:
        first, second = step.first, step.second
        for t in step.inner:
            if first.shot == second.shot:
                yield first.image
            elif self.options.cuts == "hold":
                yield first.image if t < HALF else second.image
            else:
                yield _fade(first.image, second.image, float(t))


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two frames are equal; most differ in the first row that is compared."""
    return torch.equal(first[:: len(first)], second[:: len(second)]) and torch.equal(first, second)


def _fade(first: Tensor, second: Tensor, share: float) -> Tensor:
    mixed = torch.lerp(first.float(), second.float(), share)
    return (mixed if first.is_floating_point() else mixed.round()).to(first.dtype)


def check_frame(image: Tensor, index: int, like: Tensor | None = None) -> bool:
    """Raise ValueError unless `image` can be frame number `index`, after one `like` it. Returns
    whether all its values are within [0, 1]."""
    where = f"frame {index}"
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"{where} is {tuple(image.shape)}, not (height, width, channels) of 1, 3 or 4 channels"
        )
    if like is not None and image.shape != like.shape:
        raise ValueError(
            f"{where} is {_size(image)}, but the frames before are {_size(like)}: "
            "all frames must be of one size"
        )
    if image.dtype == torch.uint8:
        return True
    if not image.is_floating_point():
        raise ValueError(f"{where} is {image.dtype}; frames are float (0 to 1) or uint8 (0 to 255)")
    low, high = (float(x) for x in torch.aminmax(image))
    if not (low > float("-inf") and high < float("inf")):  # NaN fails both
        raise ValueError(
            f"{where} has NaN or infinite values: whatever made it failed (a VAE in float16 is a "
            "common cause). Make it again before interpolating"
        )
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"{where} has values from {low:.3g} to {high:.3g}, but float frames are in [0, 1]: "
            "divide by 255, or map [-1, 1] to [0, 1], first"
        )
    return low >= 0 and high <= 1


def _size(image: Tensor) -> str:
    height, width, channels = image.shape
    return f"{width}x{height} with {channels} channels"
