"""Decides between which input frames, and at which timestep, each output frame lies.

Every input frame has a place on an axis on which output frame k lies at k. The place of input frame
i is 2 i where frames are doubled, and 60 times its time in seconds where the output has 60 frames a
second. All else, the output frames' timesteps and number, follows from the places. Places are
fractions, never floats, so that nothing drifts in hours of video.
"""

import math
import re
import reprlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

S, T = TypeVar("S"), TypeVar("T")
HALF = Fraction(1, 2)
#: Where a clip ends: with its last frame, or after as many seconds as the input (`Timeline`).
LENGTHS = ("frames", "duration")
#: The timesteps of a pair are a sequence, whose length Python can only count up to some size. A
#: Timeline's frame rate has the same bound: with frames a second apart, it is a multiplier.
MAX_MULTIPLIER = 10**9
#: The highest frame rate that is parsed, in frames a second.
MAX_FRAME_RATE = 10**6

# Neighbouring parts of the pattern match different characters, so a match takes linear time.
_SPAN = re.compile(r"(\d{1,9})\s*(?:(-)\s*(?:(\d{1,9})\s*)?)?:\s*(\d{1,9})")
_short = reprlib.Repr()
_short.maxstring = _short.maxlong = _short.maxother = 60


class LazySequence(Sequence[T]):
    """Applies `function` to an item of `items` when it is indexed.

    Ten million timesteps between two frames take no memory this way.
    """

    def __init__(self, items: Sequence[S], function: Callable[[S], T]) -> None:
        self._items, self._function = items, function

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int | slice) -> "T | LazySequence[T]":
        if isinstance(index, slice):
            return LazySequence(self._items[index], self._function)
        return self._function(self._items[index])


@dataclass(frozen=True)
class Schedule:
    """A multiplier for each pair of consecutive frames.

    Attributes:
        spans: (first pair, last pair, multiplier), in order and without overlaps; pair 0 is that of
            the first two frames, and a last pair of None means all that follow. Pairs in no span
            have multiplier 1.
    """

    spans: tuple[tuple[int, int | None, int], ...]

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Parses a schedule such as "0-20:2, 21:8, 22-:1".

        Raises:
            ValueError: The text is no schedule; the message names the part that is wrong.
        """
        spans, next_free = [], 0
        for part in map(str.strip, text.split(",")):
            match, shown = _SPAN.fullmatch(part), _short.repr(part)
            if not match:
                raise ValueError(
                    f"{shown} is no part of a schedule; write PAIR:N or FIRST-LAST:N, such as "
                    "0-20:2, 21:8, 22-:1"
                )
            first, multiplier = int(match[1]), int(match[4])
            last = int(match[3]) if match[3] else None if match[2] else first
            if multiplier < 1:
                raise ValueError(f"{shown}: a pair's multiplier must be 1 or more")
            if next_free is None or first < next_free or (last is not None and last < first):
                raise ValueError(f"{shown}: pairs must be named once and in order")
            spans.append((first, last, multiplier))
            next_free = None if last is None else last + 1
        return cls(tuple(spans))

    def place(self, index: int) -> Fraction:
        """Returns the place of frame `index`: the sum of the multipliers of all pairs before it."""
        begun = bisect_right(self._first_pairs, index)
        if not begun:
            return Fraction(index)
        first, last, multiplier = self.spans[begun - 1]
        end = index if last is None else min(index, last + 1)
        added_in_span = (multiplier - 1) * (end - first)
        return Fraction(index + self._added_before[begun - 1] + added_in_span)

    @cached_property
    def _first_pairs(self) -> list[int]:
        return [first for first, _, _ in self.spans]

    @cached_property
    def _added_before(self) -> list[int]:
        """How many frames the spans before each span add."""
        added = (
            (last + 1 - first) * (multiplier - 1)
            for first, last, multiplier in self.spans
            if last is not None
        )
        return list(accumulate(added, initial=0))


@dataclass(frozen=True)
class Timeline:
    """Where the output frames of a clip lie. The first input frame is the first output frame.

    Where the output has fewer frames than the input (a multiplier m < 1 makes
    floor((n - 1) m) + 1 of n), the nearest input frames are picked and none is interpolated; the
    first one stays, and so does the last one if the output has two frames or more.

    Attributes:
        multiplier: Output frames per input frame: a whole number, a fraction such as 5/2, or a
            Schedule. m >= 1 makes ceil((n - 1) m) + 1 frames of n, the last of which is the last
            input frame.
        frame_rate: Output frames per second, evenly spaced; replaces the multiplier. The clip lasts
            as long as before: n frames of 1 / r seconds become ceil(n frame_rate / r), and the last
            input frame is shown for its own duration, too.
        loop: Interpolate from the last frame back to the first, too: ceil(n m) frames.
        slow_motion: Show the output frames at the input's rate.
        tick: In seconds. An input frame that lies this near to an output frame is that frame, as
            files round the times of their frames.
        length: "frames" ends with the last input frame, as above. "duration" shows that one for
            its own duration, so that the clip lasts as long as before: ceil(n m) frames.

    Raises:
        ValueError: The multiplier, the frame rate or the length is out of range.
    """

    multiplier: Fraction | Schedule = Fraction(2)
    frame_rate: Fraction | None = None
    loop: bool = False
    slow_motion: bool = False
    tick: Fraction = Fraction(0)
    length: str = "frames"

    @classmethod
    def of(cls, timeline: "TimelineLike") -> "Timeline":
        """A timeline as it is, or the one of a multiplier. Raises ValueError for anything else."""
        return timeline if isinstance(timeline, cls) else cls(parse_multiplier(timeline))

    def __post_init__(self) -> None:
        if isinstance(self.multiplier, int):  # its quotients would not be exact
            object.__setattr__(self, "multiplier", Fraction(self.multiplier))
        elif not isinstance(self.multiplier, Fraction | Schedule):
            object.__setattr__(self, "multiplier", parse_multiplier(self.multiplier))
        if not isinstance(self.multiplier, Schedule):
            _check_range("multiplier", self.multiplier)
        if self.frame_rate is not None:
            _check_range("the frame rate", self.frame_rate)
        if self.length not in LENGTHS:
            raise ValueError(f"length is {self.length!r}, but must be one of {', '.join(LENGTHS)}")

    @property
    def fills_last_interval(self) -> bool:
        """Whether the output also covers the time for which the last input frame is shown.

        It then goes on to the place of the frame that would follow: with `loop` the first frame,
        else the last frame itself, still shown.
        """
        return self.loop or self.frame_rate is not None or self.length == "duration"

    @property
    def is_evenly_spaced(self) -> bool:
        """Whether output frames are evenly spaced in time, whatever the input's times."""
        return self.slow_motion or self.frame_rate is not None

    def place(self, index: int, time: Fraction) -> Fraction:
        """Returns the place of input frame `index`, shown `time` seconds after the first."""
        if isinstance(self.multiplier, Schedule) and self.frame_rate is None:
            return self.multiplier.place(index)
        if self.frame_rate is None:
            return index * self.multiplier
        place = time * self.frame_rate
        nearest = Fraction(round(place))
        is_near = abs(place - nearest) <= min(self.tick * self.frame_rate, Fraction(1, 8))
        return nearest if is_near else place

    def count(self, frames: int, frame_rate: Fraction = Fraction(1)) -> int:
        """Returns how many output frames a clip of evenly spaced frames becomes.

        Args:
            frames: Number of input frames.
            frame_rate: Input frames per second.
        """
        if frames < 2 and not (frames and self.fills_last_interval):
            return frames
        before_last, last, end = (
            self.place(i, i / frame_rate) for i in range(frames - 2, frames + 1)
        )
        if self.fills_last_interval:
            return math.ceil(end)
        return (math.ceil(last) if last - before_last >= 1 else math.floor(last)) + 1

    def rate(self, source: Fraction) -> Fraction:
        """Returns the output's frames per second for an input with `source` frames per second.

        With a Schedule, this is the rate of its highest multiplier.
        """
        if self.slow_motion:
            return source
        if self.frame_rate is not None:
            return self.frame_rate
        if isinstance(self.multiplier, Schedule):
            return source * max(multiplier for _, _, multiplier in self.multiplier.spans)
        return source * self.multiplier

    def steps(
        self, keys: Iterable[tuple[T, Fraction]]
    ) -> Iterator[tuple[T, T, Sequence[Fraction]]]:
        """Yields which output frames lie between which two key frames, in order.

        Args:
            keys: Key frames and their places, in order. If `fills_last_interval`, the one that
                follows the last frame is among them.

        Yields:
            (first, second, timesteps): timesteps are in [0, 1], where 0 is `first` itself and 1 is
            `second`.
        """
        previous = None  # (key frame, place)
        # A step is held back where a frame is picked: if it is the last, the clip's last frame
        # takes its place.
        picked = None
        count = 0  # output frames that were yielded or picked
        for key, end in keys:
            if previous is not None:
                first, start = previous
                numbers = range(math.ceil(start), math.ceil(end))
                if numbers and picked:
                    yield picked
                    picked = None
                if end - start >= 1:
                    yield first, key, _timesteps(numbers, start, end)
                elif numbers:
                    is_second_nearer = (numbers[0] - start) / (end - start) >= HALF
                    picked = first, key, [Fraction(is_second_nearer)]
                count += len(numbers)
            previous = key, end
        if previous is None:
            return
        last, end = previous
        replaces_picked = bool(picked) and (self.fills_last_interval or end < count)
        if picked and (self.loop or count == 1 or not replaces_picked):
            yield picked
        if self.loop:
            return
        if replaces_picked:
            ends_with_last = count > 1
        else:
            ends_with_last = not (self.fills_last_interval and numbers)
        if ends_with_last:
            yield last, last, [Fraction(1)]


#: What callers may give for a timeline: one, or a multiplier.
TimelineLike = Timeline | Schedule | Fraction | int | float | str


def _timesteps(numbers: range, start: Fraction, end: Fraction) -> Sequence[Fraction]:
    """Returns the timesteps of the output frames `numbers` between the places start and end."""
    return LazySequence(numbers, lambda k: (k - start) / (end - start))


def _check_range(name: str, number: Fraction) -> None:
    if number <= 0:
        raise ValueError(f"{name} must be more than 0, not {_short.repr(str(number))}")
    if number > MAX_MULTIPLIER:
        raise ValueError(f"{name} must be {MAX_MULTIPLIER} or less")


def nearest_dyadic(wanted: Sequence[Fraction]) -> list[Fraction]:
    """Returns the timesteps k / 2^n, which recursion to the midpoint reaches, nearest to `wanted`.

    n is as small as brings each timestep within an eighth of their mean distance: exact for halves,
    quarters and so on, within 1/24 of the pair for thirds, and within 1/16 for a single timestep
    anywhere, by four midpoints.

    Args:
        wanted: Timesteps between 0 and 1, in order.
    """
    tolerance = Fraction(1, 8 * (len(wanted) + 1))
    parts = 2
    while True:
        nearest = [Fraction(min(max(round(t * parts), 1), parts - 1), parts) for t in wanted]
        if all(abs(t - n) <= tolerance for t, n in zip(wanted, nearest, strict=True)):
            return nearest
        parts *= 2


def parse_number(value: str | int | float | Fraction) -> Fraction:
    """Returns a number exactly: "2.5", "5/2", "1e3".

    Raises:
        ValueError: The value is no number, is infinite, or would take long to compute, such as
            "1e999999999".
    """
    try:
        if isinstance(value, str) and (len(value) > 100 or re.search(r"[eE][-+]?[\d_]{4}", value)):
            raise ValueError
        return Fraction(value)
    except (ValueError, ArithmeticError):
        raise ValueError(f"{_short.repr(value)} is no number") from None


def parse_multiplier(value: str | int | float | Fraction | Schedule) -> Fraction | Schedule:
    """Returns a multiplier: a number ("2", "2.5", "5/2") or a schedule ("0-20:2, 21:8, 22-:1").

    Raises:
        ValueError: The value is neither.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, str) and ":" in value:
        return Schedule.parse(value)
    number = _parse_within(value, MAX_MULTIPLIER)
    if number is None:
        raise ValueError(
            f"{_short.repr(value)} is no multiplier; try 2, 2.5, 5/2, or a schedule such as "
            "0-20:2, 21-:4"
        )
    return number


def parse_frame_rate(value: str | int | float | Fraction) -> Fraction:
    """Returns frames per second exactly: 23.976 and 23.98 mean NTSC's 24000/1001.

    Raises:
        ValueError: The value is no frame rate.
    """
    rate = _parse_within(value, MAX_FRAME_RATE)
    if rate is None:
        raise ValueError(f"{_short.repr(value)} is no frame rate; try 24, 23.976 or 24000/1001")
    ntsc = Fraction(round(rate * Fraction(1001, 1000)) * 1000, 1001)
    # NTSC rates come rounded to hundredths, such as 23.98 and 29.97: an error of less than a third
    # of the distance to 24 and 30. Whole numbers are never NTSC's.
    if rate.denominator > 1 and abs(rate - ntsc) <= min(Fraction(5, 1000), rate / 3000):
        return ntsc
    return rate


def _parse_within(value: str | int | float | Fraction, largest: int) -> Fraction | None:
    """Returns the number, its denominator limited to a million; None if not in (0, largest]."""
    try:
        number = parse_number(value).limit_denominator(10**6)
    except ValueError:
        return None
    return number if 0 < number <= largest else None
