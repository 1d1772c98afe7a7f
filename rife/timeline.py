"""Which output frame lies where between which input frames. Exact: fractions, never floats.

Every input frame has a place on an axis on which output frame k lies at k: twice its number when
frames are doubled, 60 times its time in seconds when 60 frames a second are wanted. All else, an
output frame's timestep and how many there are, follows from places.
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
#: What a clip's length is counted in: up to its last frame, or for as long as before.
LENGTHS = ("frames", "duration")
#: No multiplier is more: a pair's timesteps have to be counted.
LARGEST = 10**9
#: No frame rate that is read is more.
FASTEST = 10**6

# No text fits two parts of the pattern side by side, so a match takes linear time.
_SPAN = re.compile(r"(\d{1,9})\s*(?:(-)\s*(?:(\d{1,9})\s*)?)?:\s*(\d{1,9})")
_short = reprlib.Repr()
_short.maxstring = _short.maxlong = _short.maxother = 60


class LazySequence(Sequence[T]):
    """`function` of each of `items`, computed whenever it is asked for: ten million of them take no
    memory."""

    def __init__(self, items: Sequence[S], function: Callable[[S], T]):
        self._items, self._function = items, function

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return LazySequence(self._items[index], self._function)
        return self._function(self._items[index])


@dataclass(frozen=True)
class Schedule:
    """A multiplier for each pair of frames: (first pair, last pair or None, multiplier) spans.

    Pair 0 is that of the first two frames. Pairs in no span have 1.
    """

    spans: tuple[tuple[int, int | None, int], ...]

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read "0-20:2, 21:8, 22-:1". Raises ValueError with the part that can't be."""
        spans, free = [], 0
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
            if free is None or first < free or (last is not None and last < first):
                raise ValueError(f"{shown}: pairs must be named once and in order")
            spans.append((first, last, multiplier))
            free = None if last is None else last + 1
        return cls(tuple(spans))

    def place(self, index: int) -> Fraction:
        """The sum of the multipliers of all pairs before frame `index`."""
        begun = bisect_right(self._firsts, index)  # spans
        if not begun:
            return Fraction(index)
        first, last, multiplier = self.spans[begun - 1]
        end = index if last is None else min(index, last + 1)
        return Fraction(index + self._made[begun - 1] + (multiplier - 1) * (end - first))

    @cached_property
    def _firsts(self) -> list[int]:
        return [first for first, _, _ in self.spans]

    @cached_property
    def _made(self) -> list[int]:
        """How many frames are new before each span."""
        made = ((last + 1 - first) * (m - 1) for first, last, m in self.spans if last is not None)
        return list(accumulate(made, initial=0))


@dataclass(frozen=True)
class Timeline:
    """Where output frames lie. The first input frame is the first output frame.

    multiplier: output frames for each input frame: a whole number, a fraction such as 5/2, or a
        Schedule. Of n frames, m >= 1 makes ceil((n - 1) m) + 1, the last of which is the last
        input frame; so (n - 1) m + 1 for whole m.
    frame_rate: output frames a second, evenly spaced; takes the multiplier's place. The clip lasts
        as long as before, n frames of 1 / r seconds make ceil(n frame_rate / r): the last input
        frame is shown for its time, too.
    length: "frames" ends with the last input frame, as above; "duration" shows it for its time, so
        that the clip lasts as long as before: ceil(n m) frames, the last ones the same.
    loop: go on from the last frame to the first, up to just before it: ceil(n m) frames.
    slow_motion: show the frames at the input's rate.
    tick: seconds; a frame that lies as near to an output frame is taken for it, since files round
        the times of their frames.

    Where there are to be fewer frames than came in (m < 1: floor((n - 1) m) + 1), the nearest are
    picked and none is made; the first and, if there are two or more, the last stay.

    What follows the last frame is the timeline's too (`closes`): with `loop` the first frame, else
    the last frame itself, still shown.
    """

    multiplier: Fraction | Schedule = Fraction(2)
    frame_rate: Fraction | None = None
    loop: bool = False
    slow_motion: bool = False
    tick: Fraction = Fraction(0)
    length: str = "frames"

    def __post_init__(self) -> None:
        if not isinstance(self.multiplier, Schedule):
            _check_range("multiplier", self.multiplier)
        if self.frame_rate is not None:
            _check_range("the frame rate", self.frame_rate)
        if self.length not in LENGTHS:
            raise ValueError(f"length is {self.length!r}, but must be one of {', '.join(LENGTHS)}")

    @property
    def closes(self) -> bool:
        """Whether the clip goes on to the place of a frame that would follow its last."""
        return self.loop or self.frame_rate is not None or self.length == "duration"

    @property
    def even(self) -> bool:
        """Whether output frames are evenly spaced in time, whatever the input's times."""
        return self.slow_motion or self.frame_rate is not None

    def place(self, index: int, time: Fraction) -> Fraction:
        """The place of input frame `index`, shown `time` seconds after the first."""
        if isinstance(self.multiplier, Schedule) and self.frame_rate is None:
            return self.multiplier.place(index)
        if self.frame_rate is None:
            return index * self.multiplier
        place = time * self.frame_rate
        nearest = Fraction(round(place))
        near = abs(place - nearest) <= min(self.tick * self.frame_rate, Fraction(1, 8))
        return nearest if near else place

    def count(self, frames: int, frame_rate: Fraction = Fraction(1)) -> int:
        """How many output frames are made of `frames` evenly spaced ones."""
        if frames < 2 and not (frames and self.closes):
            return frames
        before, last, end = (self.place(i, i / frame_rate) for i in range(frames - 2, frames + 1))
        if self.closes:
            return math.ceil(end)
        return (math.ceil(last) if last - before >= 1 else math.floor(last)) + 1

    def rate(self, source: Fraction) -> Fraction:
        """Frames a second of the output of a clip that has `source` of them; with a Schedule, the
        rate where there are most."""
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
        """Yield (first, second, timesteps), in order: all output frames, from pair to pair.

        keys: frames with their places, in order; if the timeline closes, the one that follows the
            last is among them. Timesteps are in [0, 1]; 0 is `first` itself, 1 is `second`.
        """
        previous, held = None, None
        shown = 0  # output frames that were yielded or are held
        for key, end in keys:
            if previous is not None:
                first, start = previous
                ks = range(math.ceil(start), math.ceil(end))
                if ks and held:
                    yield held
                    held = None
                if end - start >= 1:
                    yield first, key, _timesteps(ks, start, end)
                elif ks:
                    later = (ks[0] - start) / (end - start) >= HALF
                    # Held back, for it may be the last.
                    held = first, key, [Fraction(later)]
                shown += len(ks)
            previous = key, end
        if previous is None:
            return
        last, end = previous
        # Whether the last place went to a frame picked for it: the clip's last frame takes it.
        taken = bool(held) and (self.closes or end < shown)
        if held and (self.loop or shown == 1 or not taken):
            yield held
        if not self.loop and (shown > 1 if taken else not (self.closes and ks)):
            yield last, last, [Fraction(1)]


def _timesteps(ks: range, start: Fraction, end: Fraction) -> Sequence[Fraction]:
    """Where output frames `ks` lie between frames at the places `start` and `end`."""
    return LazySequence(ks, lambda k: (k - start) / (end - start))


def _check_range(name: str, number: Fraction) -> None:
    if number <= 0:
        raise ValueError(f"{name} must be more than 0, not {_short.repr(str(number))}")
    if number > LARGEST:
        raise ValueError(f"{name} must be {LARGEST} or less")


def nearest_dyadic(wanted: Sequence[Fraction]) -> list[Fraction]:
    """The timesteps k / 2^n that recursion to the midpoint can reach, nearest to those `wanted`.

    n is as small as brings each within an eighth of their mean distance: exactly for halves,
    quarters and so on, one part in 24 of the pair for thirds, and for a single one anywhere one
    part in 16, by four midpoints.
    """
    tolerance = Fraction(1, 8 * (len(wanted) + 1))
    steps = 2
    while True:
        near = [Fraction(min(max(round(t * steps), 1), steps - 1), steps) for t in wanted]
        if all(abs(t - n) <= tolerance for t, n in zip(wanted, near, strict=True)):
            return near
        steps *= 2


def parse_number(text: str | int | float | Fraction) -> Fraction:
    """A number, exactly: "2.5", "5/2", "1e3". Raises ValueError for anything else, infinity and
    what would take long to compute, such as "1e999999999", included."""
    try:
        if isinstance(text, str) and (len(text) > 100 or re.search(r"[eE][-+]?[\d_]{4}", text)):
            raise ValueError
        return Fraction(text)
    except (ValueError, ArithmeticError):
        raise ValueError(f"{_short.repr(text)} is no number") from None


def parse_multiplier(text: str | int | float | Fraction | Schedule) -> Fraction | Schedule:
    """A whole number, a fraction ("2.5", "5/2") or a schedule ("0-20:2, 21:8, 22-:1").

    Raises ValueError for anything else.
    """
    if isinstance(text, Schedule):
        return text
    if isinstance(text, str) and ":" in text:
        return Schedule.parse(text)
    number = _parse_within(text, LARGEST)
    if number is None:
        raise ValueError(
            f"{_short.repr(text)} is no multiplier; try 2, 2.5, 5/2, or a schedule such as "
            "0-20:2, 21-:4"
        )
    return number


def parse_frame_rate(text: str | int | float | Fraction) -> Fraction:
    """Frames a second, exactly: "24000/1001" as it is, and 23.976 as what it stands for, the same.

    Raises ValueError for what is no frame rate.
    """
    rate = _parse_within(text, FASTEST)
    if rate is None:
        raise ValueError(f"{_short.repr(text)} is no frame rate; try 24, 23.976 or 24000/1001")
    ntsc = Fraction(round(rate * Fraction(1001, 1000)) * 1000, 1001)
    # 23.98 and 29.97 are rounded to hundredths, which is less than a third of the distance to 24
    # and 30; whole numbers are never NTSC's.
    if rate.denominator > 1 and abs(rate - ntsc) <= min(Fraction(5, 1000), rate / 3000):
        return ntsc
    return rate


def _parse_within(text: str | int | float | Fraction, largest: int) -> Fraction | None:
    """The number, with a denominator up to a million, if it is more than 0 and not too large."""
    try:
        number = parse_number(text).limit_denominator(10**6)
    except ValueError:
        return None
    return number if 0 < number <= largest else None
