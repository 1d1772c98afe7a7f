"""Input frames become key frames: checked, placed on the timeline, with cuts and repeats found."""

import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from .analysis.cuts import CutDetector
from .analysis.duplicates import is_duplicate, retime_repeats
from .analysis.thumbnail import make_thumbnail
from .analysis.validation import check_shape, check_values
from .callbacks import Cancel, stop_if_cancelled
from .inference.session import InferenceSession
from .inference.threads import frames_ahead
from .media.base import Frame
from .options import Options
from .timeline import Timeline

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class KeyFrame:
    """An input frame; from each to the next there is motion, or a cut.

    Attributes:
        index: Its number in the input.
        image: (H, W, C).
        thumbnail: Of the image, where cuts or repeats are looked for.
        place: On the timeline's axis, where output frame k lies at k.
        time: When it is shown, in seconds.
        duration: For how long it is shown, in seconds.
        interval: Seconds since the input frame before; None for the first.
        peak: Its largest value; 1 or less but in HDR.
        shot: Frames of one shot have one number.
        follows_gap: Whether frames are missing before it.
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


class _ExaminedFrame(NamedTuple):
    """What can be said of a frame without any other.

    Attributes:
        index: Its number in the input.
        frame: The frame.
        low: Its smallest value.
        high: Its largest value.
        thumbnail: Where cuts or repeats are looked for.
    """

    index: int
    frame: Frame
    low: float
    high: float
    thumbnail: Tensor | None


class KeyFrameReader:
    """Reads the input frames of one run, once.

    Args:
        frames: Images, (H, W, C), that are a second apart, or frames with times of their own.
        timeline: Where they lie.
        options: Whether cuts and repeats are looked for.
        session: That will render from the frames.
        cancel: Asked with each frame.

    Attributes:
        frame_count: Input frames so far.
        cut_count: Cuts that were detected.
        repeat_count: Frames that repeat the ones before.
    """

    def __init__(
        self,
        frames: Iterable[Tensor | Frame],
        timeline: Timeline,
        options: Options,
        session: InferenceSession,
        cancel: Cancel | None,
    ):
        self._frames, self._timeline, self._options = frames, timeline, options
        self._session, self._cancel = session, cancel
        self._detects_cuts = options.cuts != "ignore" and options.cut_sensitivity > 0
        self._detector = CutDetector(options.cut_sensitivity)
        self._has_warned_of_negatives = False
        self.frame_count = self.cut_count = self.repeat_count = 0

    def key_frames(self) -> Generator[KeyFrame, None, None]:
        """Yields all key frames, and one that follows the last where the timeline closes."""
        with closing(self._place_frames()) as placed:
            if self._options.duplicates:
                yield from _retime(placed)
            else:
                yield from (key for key, _ in placed)

    def _place_frames(self) -> Generator[tuple[KeyFrame, bool], None, None]:
        """Yields the frames as key frames, and whether each repeats the ones before."""
        first = before = distinct = None
        with (
            closing(self._check_shapes()) as frames,
            closing(
                self._session.map_frames(
                    self._examine, frames, lambda item: frames_ahead(item[1].image)
                )
            ) as examined,
        ):
            for frame in examined:
                self._warn_of_negatives(frame)
                key = self._key_frame(frame, before)
                # Not compared with the frame before: a slow drift would go unnoticed.
                is_repeat = self._is_repeat(distinct, key)
                self.frame_count += 1
                self.repeat_count += is_repeat
                yield key, is_repeat
                before, distinct = key, distinct if is_repeat else key
                if self._timeline.loop:
                    first = first or key
        if before and self._timeline.fills_last_interval:
            yield self._closing_frame(first, before), not self._timeline.loop

    def _check_shapes(self) -> Iterator[tuple[int, Frame]]:
        """Yields the frames with their numbers."""
        shape = None
        for index, frame in enumerate(self._frames):
            stop_if_cancelled(self._cancel)
            if not isinstance(frame, Frame):
                frame = Frame(frame, Fraction(index), Fraction(1))
            check_shape(frame.image, index, shape)
            shape = frame.image.shape
            yield index, frame

    def _examine(self, item: tuple[int, Frame]) -> _ExaminedFrame:
        """Does what needs no other frame; any thread may call it."""
        index, frame = item
        low, high = check_values(frame.image, index)
        thumbnail = None
        if self._detects_cuts or self._options.duplicates:
            thumbnail = make_thumbnail(frame.image)
        if self._detects_cuts:
            self._detector.extract_features(thumbnail)
        if high <= 1:  # else the network is given another image, see Step.network_images
            self._session.prefetch(frame.image)
        return _ExaminedFrame(index, frame, low, high, thumbnail)

    def _warn_of_negatives(self, frame: _ExaminedFrame) -> None:
        if frame.low < 0 and not self._has_warned_of_negatives:
            log.warning("frames have values below 0; new frames are made as if these were 0")
            self._has_warned_of_negatives = True

    def _key_frame(self, examined: _ExaminedFrame, before: KeyFrame | None) -> KeyFrame:
        frame = examined.frame
        key = KeyFrame(
            examined.index,
            frame.image,
            examined.thumbnail,
            self._timeline.place(examined.index, frame.time),
            frame.time,
            frame.duration,
            before and frame.time - before.time,
            examined.high,
            follows_gap=frame.follows_gap,
        )
        return self._with_shot(key, before) if before else key

    def _with_shot(self, key: KeyFrame, before: KeyFrame) -> KeyFrame:
        """`key` in the shot of the frame before it, or in a new one."""
        is_cut = self._detects_cuts and self._detector.is_cut(before.thumbnail, key.thumbnail)
        self.cut_count += is_cut and not key.follows_gap
        return replace(key, shot=before.shot + (is_cut or key.follows_gap))

    def _is_repeat(self, distinct: KeyFrame | None, key: KeyFrame) -> bool:
        """Whether `key` repeats the last distinct frame."""
        if not self._options.duplicates or distinct is None:
            return False
        return bool(is_duplicate(distinct.thumbnail, key.thumbnail)) and not key.follows_gap

    def _closing_frame(self, first: KeyFrame | None, last: KeyFrame) -> KeyFrame:
        """The frame that follows the last: the first one, in a loop, else the last itself."""
        index, end = last.index + 1, last.time + last.duration
        place = self._timeline.place(index, end)
        key = replace(last, index=index, place=place, time=end, follows_gap=False)
        if not self._timeline.loop:
            return key
        key = replace(key, image=first.image, thumbnail=first.thumbnail, peak=first.peak)
        return self._with_shot(key, last)


def _retime(placed: Iterable[tuple[KeyFrame, bool]]) -> Iterator[KeyFrame]:
    """Yields the distinct frames of each shot, moved in time so that their motion is even."""
    latest: deque[KeyFrame] = deque(maxlen=2)

    def remember() -> Iterator[tuple[KeyFrame, Fraction, bool]]:
        for key, is_repeat in placed:
            latest.append(key)
            yield key, key.place, is_repeat

    for _, shot in groupby(remember(), lambda item: item[0].shot):
        for key, place in retime_repeats(shot):
            if place != key.place:  # it moves towards the frame that has just come
                before, after = latest
                share = (place - before.place) / (after.place - before.place)
                time = before.time + share * (after.time - before.time)
                key = replace(key, place=place, time=time)
            yield key
