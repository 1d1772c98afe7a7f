"""The loop: frames in, denser frames out, through any network.

One way for all callers: `interpolate` (a batch), `interpolate_file` (a stream) and the nodes
all run `_stream`.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .analysis.cuts import CutDetector
from .analysis.duplicates import is_duplicate, retime_repeats
from .analysis.thumbnail import make_thumbnail
from .callbacks import Cancel, stop_if_cancelled
from .inference.highlights import compress, expand
from .inference.malloc import empty, freed_memory_kept
from .inference.session import Pairs
from .inference.threads import finish, frames_ahead, submit
from .media.base import Frame
from .networks.base import Network, at_input_frame
from .options import Options
from .timeline import HALF, Schedule, Timeline, parse_multiplier

log = logging.getLogger(__name__)

Progress = Callable[[int, int, Tensor], None]

#: Of one pair that the network is asked for at once, so that a run of any multiplier takes no more
#: memory and can be stopped.
MOST_TIMESTEPS = 256
#: Frames of one that networks with a fixed timestep make, by recursion.
MOST_BY_RECURSION = 1024
#: Of the values of a frame in HDR, on average; brighter frames count from 0 to 255.
MOST_MEAN = 8


class OutputFrame(NamedTuple):
    """A frame of the result.

    image: (H, W, C), like the input's. time, duration: in seconds; the first frame is shown at 0.
    """

    image: Tensor
    time: Fraction
    duration: Fraction


@dataclass
class Summary:
    """What a run did, counted while it goes on: frames given and shown, cuts found, frames that
    repeat (where that was looked for), and what of the input is damaged, a line each."""

    given: int = 0
    shown: int = 0
    cuts: int = 0
    repeats: int = 0
    damage: list[str] = field(default_factory=list)


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

    frames: (N, H, W, C), C 1 (grey), 3 (RGB) or 4 (RGB and alpha); floats or uint8; on any device.
        Frames of any size from 1x1 up. Floats are in [0, 1], in HDR beyond 1: new frames then reach
        as far as those beside them.
    multiplier: 2 doubles the frame rate, 2.5 makes five frames of two, 1/2 keeps every second
        frame, "0-20:2, 21-:8" has its own for each pair; or a `Timeline` on which the frames are a
        second apart: Timeline(frame_rate=Fraction(60, 24)) makes 60 frames a second of 24.
        Networks with a fixed timestep (the paper's IFNet, v3.x) make halves, quarters ... by
        recursion and the rest at the nearest of these, with a line in the log.
    loop: make the frames between the last and the first, too (a Timeline says so itself).
    progress: called as (done, total, frame) with each frame; frame: (H, W, C).
    cancel: called with each input frame and before each network run; returning True raises
        Cancelled, and an exception of its own goes through.
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
        out = empty((total, *frames.shape[1:]), frames.dtype, frames.device)
    elif out.shape != (total, *frames.shape[1:]):
        raise ValueError(f"out is {tuple(out.shape)}, not {(total, *frames.shape[1:])}")

    stream = _stream(model, frames, timeline, Options(**options), cancel, summary, out=out)
    with closing(stream):
        for done, frame in enumerate(stream, 1):
            if progress:
                progress(done, total, frame.image)
    return out


def interpolate_stream(
    model: Network,
    frames: Iterable[Tensor | Frame],
    timeline: Timeline = Timeline(),  # noqa: B008 (frozen)
    options: Options = Options(),  # noqa: B008 (frozen)
    cancel: Cancel | None = None,
    summary: Summary | None = None,
    *,
    frame_rate: Fraction = Fraction(1),
) -> Generator[OutputFrame, None, None]:
    """As `interpolate`, frame by frame: holds a few input frames, however many there are.

    Close the generator where it isn't run to its end (`contextlib.closing`): then no thread of its
    own is left, and no memory of the device.

    Args:
        frames: images of (H, W, C) each, a second apart, or with times of their own. On GPUs they
            are asked for in another thread, some frames ahead, in inference mode if that is on.
        frame_rate: input frames a second, on average; the rate of slow motion.

    Yields:
        The frames of the result, in order. An input frame that lasts longer than the one before it
        and ends the clip keeps its duration, whatever the multiplier.
    """
    dtype = None
    with closing(_stream(model, frames, timeline, options, cancel, summary, frame_rate)) as stream:
        for frame in stream:
            dtype = dtype or frame.image.dtype  # the first is an input frame
            yield frame._replace(image=frame.image.to(dtype))


def _stream(
    model: Network,
    frames: Iterable[Tensor | Frame],
    timeline: Timeline,
    options: Options,
    cancel: Cancel | None,
    summary: Summary | None,
    frame_rate: Fraction = Fraction(1),
    out: Tensor | None = None,
) -> Generator[OutputFrame, None, None]:
    """As interpolate_stream, but that new frames have the dtype that `Pairs` gives them; or, where
    `out` is given, that all are written to it and lie there."""
    options.check(model)
    summary = summary or Summary()
    run = _Run(model, options, timeline, frame_rate, cancel, summary)
    keys = _keys(frames, timeline, options, cancel, summary, run.pairs)
    steps = run.pairs.aside(run.steps(keys))
    output = run.frames(steps)
    if out is not None:
        output = _write(output, out, beside=run.pairs.is_beside_cpu)
    with freed_memory_kept() if model.device.type == "cpu" else nullcontext():
        try:
            yield from output
        finally:
            steps.close()  # first, as it may be a thread that runs the rest
            keys.close()
            output.close()
            run.pairs.close()


def _write(
    frames: Generator[OutputFrame, None, None], out: Tensor, beside: bool
) -> Generator[OutputFrame, None, None]:
    """Copy `frames` to their places in `out`, and yield them there, in order; beside: by several
    threads while the next are made, between memories of the CPU. Once closed, nobody writes any
    more."""
    pending: deque[tuple[OutputFrame, Future]] = deque()
    beside = beside and out.device.type == "cpu"
    with closing(frames):
        try:
            for frame, place in zip(frames, out, strict=True):
                written = frame._replace(image=place)
                if beside and frame.image.device.type == "cpu":
                    copy = submit(_copy, frame.image, place)
                else:
                    copy = Future()
                    copy.set_result(_copy(frame.image, place))
                pending.append((written, copy))
                while pending and (len(pending) > 2 * frames_ahead(place) or pending[0][1].done()):
                    written, copy = pending.popleft()
                    copy.result()
                    yield written
            for written, copy in pending:
                copy.result()
                yield written
        finally:
            finish(copy for _, copy in pending)


@torch.inference_mode()
def _copy(source: Tensor, target: Tensor) -> None:
    target.copy_(source)


@dataclass(frozen=True, eq=False)
class _KeyFrame:
    """An input frame, (H, W, C), between which and the next one there is motion, or a cut.

    place: on the timeline's axis. time, duration: in seconds. interval: seconds since the input
    frame before, None for the first. peak: its largest value. shot: frames of one number belong to
    one shot.
    """

    index: int
    image: Tensor
    thumbnail: Tensor | None
    place: Fraction
    time: Fraction
    duration: Fraction
    interval: Fraction | None
    peak: float = 1
    shot: int = 0
    follows_gap: bool = False

    def is_held(self, tick: Fraction) -> bool:
        """Whether it lasts longer than the frame before it, by more than a tick of the clock."""
        return self.interval is None or self.duration > self.interval + tick


@dataclass(frozen=True, eq=False)
class _Step:
    """The frames that are shown from one key frame on, at timesteps in [0, 1] on the way to the
    next; is_motion: the network makes those within (0, 1)."""

    first: _KeyFrame
    second: _KeyFrame
    timesteps: Sequence[Fraction]
    is_motion: bool

    @property
    def new(self) -> list[Fraction]:
        """The timesteps at which no input frame lies."""
        return [t for t in self.timesteps if 0 < t < 1]

    @property
    def peak(self) -> float:
        """The largest value of both frames."""
        return max(self.first.peak, self.second.peak)

    def network_images(self) -> tuple[Tensor, Tensor]:
        """Both frames, (H, W, C), in [0, 1]."""
        images = self.first.image, self.second.image
        return tuple(compress(x, self.peak) for x in images) if self.peak > 1 else images

    def user_image(self, image: Tensor) -> Tensor:
        """What the network made of `network_images`, in these frames' range."""
        return expand(image, self.peak) if self.peak > 1 else image

    def split(self, count: int) -> "tuple[_Step, _Step]":
        """Up to the first `count` of the new frames, and from there on."""
        end = self.timesteps.index(self.new[count])
        head, tail = self.timesteps[:end], self.timesteps[end:]
        return replace(self, timesteps=head), replace(self, timesteps=tail)


def _keys(
    frames: Iterable[Tensor | Frame],
    timeline: Timeline,
    options: Options,
    cancel: Cancel | None,
    summary: Summary,
    pairs: Pairs,
) -> Generator[_KeyFrame, None, None]:
    """The frames, and what follows the last where the timeline closes; without those that repeat,
    if that is asked."""
    latest: deque[_KeyFrame] = deque(maxlen=2)
    with closing(_placed(frames, timeline, options, cancel, summary, pairs)) as placed:
        if not options.duplicates:
            yield from (key for key, _ in placed)
            return

        def noted() -> Iterator[tuple[_KeyFrame, Fraction, bool]]:
            for key, repeats in placed:
                latest.append(key)
                yield key, key.place, repeats

        for _, shot in groupby(noted(), lambda frame: frame[0].shot):
            for key, place in retime_repeats(shot):
                if place != key.place:  # moved towards the frame that has just come
                    before, after = latest
                    share = (place - before.place) / (after.place - before.place)
                    time = before.time + share * (after.time - before.time)
                    key = replace(key, place=place, time=time)
                yield key


def _placed(
    frames: Iterable[Tensor | Frame],
    timeline: Timeline,
    options: Options,
    cancel: Cancel | None,
    summary: Summary,
    pairs: Pairs,
) -> Generator[tuple[_KeyFrame, bool], None, None]:
    """The frames, and whether each repeats the ones before, if that is asked."""
    detect_cuts = options.cuts != "ignore" and options.cut_sensitivity > 0
    cuts = CutDetector(options.cut_sensitivity)
    first = before = run = None
    is_negative = False

    def checked() -> Iterator[tuple[int, Frame]]:
        size = None
        for index, frame in enumerate(frames):
            stop_if_cancelled(cancel)
            if not isinstance(frame, Frame):
                frame = Frame(frame, Fraction(index), Fraction(1))
            check_size(frame.image, index, size)
            size = frame.image.shape
            yield index, frame

    def examine(item: tuple[int, Frame]) -> tuple[int, Frame, float, float, Tensor | None]:
        """What needs no other frame."""
        index, frame = item
        low, high = check_values(frame.image, index)
        small = make_thumbnail(frame.image) if detect_cuts or options.duplicates else None
        if detect_cuts:
            cuts.extract_features(small)
        if high <= 1:  # else the network sees another one
            pairs.stage(frame.image)
        return index, frame, low, high, small

    def in_shot(key: _KeyFrame) -> _KeyFrame:
        if before is None:
            return key
        cut = detect_cuts and cuts.is_cut(before.thumbnail, key.thumbnail)
        summary.cuts += cut and not key.follows_gap
        return replace(key, shot=before.shot + (cut or key.follows_gap))

    with (
        closing(checked()) as items,
        closing(pairs.map(examine, items, lambda item: frames_ahead(item[1].image))) as examined,
    ):
        for index, frame, low, high, small in examined:
            if low < 0 and not is_negative:
                log.warning("frames have values below 0; new frames are made as if these were 0")
                is_negative = True
            key = in_shot(
                _KeyFrame(
                    index,
                    frame.image,
                    small,
                    timeline.place(index, frame.time),
                    frame.time,
                    frame.duration,
                    before and frame.time - before.time,
                    high,
                    follows_gap=frame.follows_gap,
                )
            )
            # Not with the frame before: a slow drift would go unseen from frame to frame.
            repeats = bool(
                options.duplicates and run and is_duplicate(run.thumbnail, key.thumbnail)
            )
            repeats = repeats and not key.follows_gap
            summary.given += 1
            summary.repeats += repeats
            yield key, repeats
            before, run = key, run if repeats else key
            if timeline.loop:
                first = first or key
    if before and timeline.fills_last_interval:
        end = before.time + before.duration
        place = timeline.place(before.index + 1, end)
        last = replace(before, index=before.index + 1, place=place, time=end, follows_gap=False)
        if timeline.loop:
            last = in_shot(
                replace(last, image=first.image, thumbnail=first.thumbnail, peak=first.peak)
            )
        yield last, not timeline.loop


class _Run:
    """What is shown between two frames: themselves, what a network makes of them, or a cut."""

    def __init__(
        self,
        model: Network,
        options: Options,
        timeline: Timeline,
        frame_rate: Fraction,
        cancel: Cancel | None,
        summary: Summary,
    ):
        self.options, self.timeline = options, timeline
        self.cancel, self.summary = cancel, summary
        self.pairs = Pairs(model, options, cancel)
        self._any_timestep, self._version = model.any_timestep, model.version
        self._period = 1 / timeline.rate(frame_rate) if timeline.is_evenly_spaced else None
        self._count = 0  # output frames so far

    def steps(self, keys: Iterable[_KeyFrame]) -> Iterator[_Step]:
        """What is shown, from key frame to key frame; many timesteps in several steps."""
        for first, second, timesteps in self.timeline.steps((key, key.place) for key in keys):
            most = MOST_TIMESTEPS if self._any_timestep else MOST_BY_RECURSION
            if len(timesteps) > most and not self._any_timestep:
                raise ValueError(
                    f"{self._version} makes midpoints only, so it can't make {len(timesteps)} "
                    f"frames of one, but {most} at most; use a smaller multiplier, or a model of v4"
                )
            for start in range(0, len(timesteps), most):
                piece = timesteps[start : start + most]
                is_motion = (
                    any(0 < t < 1 for t in piece)
                    and first.shot == second.shot
                    and not _same(first.image, second.image)
                )
                yield _Step(first, second, piece, is_motion)

    def frames(self, steps: Iterable[_Step]) -> Generator[OutputFrame, None, None]:
        """What is shown, a few calls of the network after they have begun."""
        begun: deque[tuple[Sequence[_Step], Iterator[Tensor]]] = deque()
        for group in self.groups(steps):
            begun.append((group, self.begin(group)))
            if len(begun) > self.pairs.ahead:
                yield from self.output(*begun.popleft())
        while begun:
            yield from self.output(*begun.popleft())

    def groups(self, steps: Iterable[_Step]) -> Iterator[list[_Step]]:
        """`steps`, in such groups that the network's calls make good use of the device."""
        group: list[_Step] = []
        runs = 0
        for step in steps:
            most = self.pairs.at_once(step.first.image) if runs or step.is_motion else 0
            while step.is_motion and self.pairs.fills_calls and runs + len(step.new) > most:
                part, step = step.split(most - runs)
                yield [*group, part]
                group, runs = [], 0
            group.append(step)
            runs += len(step.new) if step.is_motion else 0
            if runs >= most or len(group) >= most:
                yield group
                group, runs = [], 0
        if group:
            yield group

    def begin(self, steps: Sequence[_Step]) -> Iterator[Tensor]:
        """Have the network make what `steps` need of it."""
        return self.pairs.all_between(
            [(*step.network_images(), step.new) for step in steps if step.is_motion]
        )

    def output(self, steps: Sequence[_Step], rendered: Iterator[Tensor]) -> Iterator[OutputFrame]:
        """The frames at the steps' timesteps; rendered: what `begin` gave."""
        for step in steps:
            stop_if_cancelled(self.cancel)
            first, second = step.first, step.second
            between = (
                map(step.user_image, rendered) if step.is_motion else self._without_network(step)
            )
            for t in step.timesteps:
                time, duration = self._shown(step)
                self.summary.shown += 1
                self._count += 1
                with at_input_frame(first.index, t):
                    image = first.image if t == 0 else second.image if t == 1 else next(between)
                yield OutputFrame(image, time, duration)

    def _shown(self, step: _Step) -> tuple[Fraction, Fraction]:
        """Time and duration, in seconds, of the output frame that comes next, which lies within
        `step`."""
        if self._period:
            return self._count * self._period, self._period
        first, second = step.first, step.second
        if first is not second:
            pace = (second.time - first.time) / (second.place - first.place)
            return first.time + (self._count - first.place) * pace, pace
        last, place_of = first, self.timeline.place
        end = last.time + last.duration
        pace = last.duration / (place_of(last.index + 1, end) - last.place)
        beyond = self._count - last.place  # where no output frame falls on the last input frame
        if self.timeline.fills_last_interval or not last.is_held(self.timeline.tick):
            return last.time + beyond * pace, pace
        if beyond:  # as far as the frames before would go
            before = place_of(last.index - 1, last.time - last.interval)
            beyond *= last.interval / (last.place - before)
        return last.time + beyond, end - last.time - beyond

    def _without_network(self, step: _Step) -> Iterator[Tensor]:
        first, second = step.first, step.second
        for t in step.new:
            if first.shot == second.shot:
                yield first.image
            elif self.options.cuts == "blend" and not second.follows_gap:
                yield _fade(first.image, second.image, float(t))
            else:
                yield first.image if t < HALF else second.image


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two frames are equal; most differ in the first row that is compared."""
    return torch.equal(first[:: len(first)], second[:: len(second)]) and torch.equal(first, second)


def _fade(first: Tensor, second: Tensor, share: float) -> Tensor:
    mixed = torch.lerp(first.float(), second.float(), share)
    return (mixed if first.is_floating_point() else mixed.round()).to(first.dtype)


def check_size(image: Tensor, index: int, size: Sequence[int] | None = None) -> None:
    """Raise ValueError unless `image` can be frame number `index`, after those of `size`, as far as
    that can be told without its values."""
    where = f"frame {index}"
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"{where} is {tuple(image.shape)}, not (height, width, channels) of 1, 3 or 4 channels"
        )
    if size is not None and image.shape != size:
        raise ValueError(
            f"{where} is {_size(image.shape)}, but the frames before are {_size(size)}: "
            "all frames must be of one size"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(f"{where} is {image.dtype}; frames are float (0 to 1) or uint8 (0 to 255)")


def check_values(image: Tensor, index: int) -> tuple[float, float]:
    """Raise ValueError unless the values of `image` can be a frame's. Returns the smallest and the
    largest; bytes count as 0 and 1."""
    if image.dtype == torch.uint8:
        return 0, 1
    where = f"frame {index}"
    order = sorted(range(image.ndim), key=image.stride, reverse=True)  # as they lie: it is faster
    low, high = torch.stack(torch.aminmax(image.permute(order))).tolist()
    if not (low > float("-inf") and high < float("inf")):  # NaN fails both
        raise ValueError(
            f"{where} has NaN or infinite values: whatever made it failed (a VAE in float16 is a "
            "common cause). Make it again before interpolating"
        )
    if low < -0.5 or (high > 1.5 and image.mean(dtype=torch.float32) > MOST_MEAN):
        raise ValueError(
            f"{where} has values from {low:.3g} to {high:.3g}, but float frames are in [0, 1], "
            "with highlights beyond: divide by 255, or map [-1, 1] to [0, 1], first"
        )
    return low, high


def _size(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{width}x{height} with {channels} channels"
