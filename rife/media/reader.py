"""Reading videos, through PyAV.

A frame's way: `PacketReader` (demuxing.py) -> `FrameDecoder` (decoding.py) -> deinterlacing -> the
part that is read (here) -> `FrameToImage` (conversion.py). Sound and subtitles go from the packet
reader to `SideStreams`, `GapReporter` follows the frames and says what is missing.
"""

import contextlib
import logging
import math
from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av

from ..fileio import FileError, raise_file_errors
from .base import ClipInfo, Frame, Reader
from .conversion import FrameToImage
from .damage import Evidence, find_packets, has_clean_end
from .decoding import FrameDecoder
from .deinterlace import deinterlace, field_parity, is_interlaced
from .demuxing import PacketReader, skip_to_key_frame
from .gaps import GapReporter
from .side_streams import SideStreams
from .source import Part, VideoSource, open_container
from .streams import AV_ERRORS, KEPT_SIDE_DATA, LOST_SIDE_DATA, kept_tags, summarize

logger = logging.getLogger(__name__)

#: What can be done with interlaced video, and what is said of it.
_INTERLACING = {
    "deinterlace": "%s is interlaced: it is made progressive first, with bwdif (--interlaced keep "
    "leaves it as it is).",
    "keep": "%s is interlaced and left so: new frames are made of both fields woven together, and "
    "the output is marked progressive.",
}
INTERLACED = tuple(_INTERLACING)
# Decoding begins so many seconds before the part: the first of these that works, as not all files
# can be sought exactly.
_SEEK_EARLIER = (0, 5, 10, 20)


class VideoReader(Reader):
    """A video file's first video stream, decoded frame by frame.

    Frames are RGB, or RGBA where the stream has transparency, converted by the stream's own matrix
    and range, and turned as the stream says. Streams of more than 8 bits give float32. Frames keep
    their own times, evenly spaced or not; where recordings were joined, and the clock goes back or
    far ahead, times go on evenly. Of frames with the same time only the last is given, which is the
    one that a player leaves on the screen.

    What can't be read is reported (`damage`) and left out, up to the next frame that can be decoded
    without it; that one `follows_gap`.

    Args:
        path: The file.
        start: When the part to read begins, seconds on the file's own clock.
        duration: Seconds that the part lasts; None: to the file's end. Frames with start <= time <
            start + duration are given, both ends rounded down to the clock's ticks, as ComfyUI
            does. Sound and subtitles are cut between packets.
        interlaced: "deinterlace" makes interlaced frames progressive, "keep" leaves them.

    Attributes:
        side_streams: The queue of sound and subtitles.
        other_streams: PyAV's streams of sound and subtitles.
        unread_streams: PyAV's other streams beside the video.
        metadata: The file's tags.
        stream_metadata: The video stream's tags.
        pixel_format: FFmpeg's name of the first frame's.
        colors: The first frame's colours.
        side_data: What the first frame carries, by FFmpeg's names without AV_FRAME_DATA_.
        sample_aspect_ratio: Width of a pixel, as it is displayed, over its height.
        origin: When the part begins, seconds on the file's clock: with its first frame, or with its
            sound if that is earlier.
        video_start: Seconds from `origin` to the first frame.
        frames_before_part: Frames of the clip that precede the part, an estimate.

    Raises:
        FileError: The part holds no frame, or none that can be decoded.
    """

    def __init__(
        self,
        path: Path,
        start: Fraction | float = Fraction(0),
        duration: Fraction | float | None = None,
        interlaced: str = "deinterlace",
    ):
        super().__init__()
        if interlaced not in INTERLACED:
            raise ValueError(f"interlaced is {interlaced!r}, not one of {', '.join(INTERLACED)}")
        if math.isnan(start) or (duration is not None and math.isnan(duration)):
            raise FileError(f"A part of {path} can't begin at, or last, NaN seconds.")
        self._path, self._interlaced = path, interlaced
        self._part = Part(
            start if start > 0 else -math.inf,
            math.inf if duration is None else max(start, 0) + duration,
        )
        self._is_interlacing_reported = False
        self._source: VideoSource | None = None
        try:
            with self._errors():
                first = self._open()
                self._describe_picture(first)
                self._describe_times(first)
        except BaseException:
            self.close()
            raise
        self.metadata = kept_tags(self._source.container)
        self.stream_metadata = kept_tags(self._source.stream)

    @property
    def other_streams(self) -> list[av.stream.Stream]:
        return self._source.other_streams

    @property
    def unread_streams(self) -> list[av.stream.Stream]:
        return self._source.unread_streams

    @property
    def timecode(self) -> str | None:
        """The timecode of the whole clip's first frame."""
        tags = self.stream_metadata, self.metadata, *(s.metadata for s in self.unread_streams)
        return next((text for each in tags if (text := each.get("timecode"))), None)

    @property
    def chapters(self) -> list[tuple[Fraction, Fraction, dict[str, str]]]:
        """Start, end, both in seconds after `origin`, and tags, of the part that is read."""
        container = self._source.container
        if not hasattr(container, "chapters"):
            if "Chapter #" in summarize(container):
                logger.warning("Chapters are left out: they need a newer PyAV (pip install -U av).")
            return []
        chapters = []
        end_of_part = self._part.end - self.origin
        for chapter in container.chapters():
            start, end = (
                min(chapter[side] * chapter["time_base"] - self.origin, end_of_part)
                for side in ("start", "end")
            )
            if end > max(start, 0):
                chapters.append((max(start, Fraction(0)), end, chapter["metadata"]))
        return chapters

    def reopen(self) -> av.container.InputContainer:
        """Opens the file once more, at its beginning."""
        return open_container(self._path)

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return raise_file_errors("read", self._path, AV_ERRORS)

    # Opening, and finding the part.

    def _open(self) -> av.VideoFrame:
        """Opens the file so that decoding begins shortly before the part, and returns its first
        frame."""
        start, seek_times = self._part.start, []
        if self._part.begins_later:
            seek_times = [start - seconds for seconds in _SEEK_EARLIER]
        for seek_to in (*seek_times, None):
            self._open_source()
            first = self._find_first(seek_to)
            if first is not None:
                return first
            self.close()
        raise AssertionError("without seeking there is a first frame, or an error")

    def _open_source(self) -> None:
        self._source = source = VideoSource(self._path)
        # In floating point, so that not even rounding differs from where ComfyUI trims.
        self._start_pts, self._end_pts = (
            moment if math.isinf(moment) else _clamp(float(moment) / source.stream.time_base)
            for moment in (self._part.start, self._part.end)
        )
        length = source.stated_duration
        self._evidence = Evidence(
            source.container.format.name,
            density=length and source.container.size / length,
            is_whole=has_clean_end(self._path),
            begin=None if self._part.begins_later else find_packets(self._path),
        )
        self.side_streams = SideStreams(
            self._part, self._evidence, self.report_damage, self._path.name
        )
        self._packets = PacketReader(source, self._part, self._evidence, self.side_streams)

    def _find_first(self, seek_to: Fraction | float | None) -> av.VideoFrame | None:
        """Decodes up to the part's first frame, which `_frames` then begins with.

        Args:
            seek_to: Decoding begins at the last key frame up to here, seconds; None: at the
                beginning.

        Returns:
            The first frame; None if nothing can be decoded from there on, or only from a time
            within the part.

        Raises:
            FileError: The part holds no frame that can be decoded.
        """
        source = self._source
        self._refuse_part_after_end()
        if source.times.are_decoding_times:
            source.times.delay = source.find_decoding_delay()
            # ComfyUI trims on FFmpeg's clock, which has that delay.
            self._start_pts -= source.times.delay
            self._end_pts -= source.times.delay
        if seek_to is not None and not self._seek(seek_to):
            return None
        if not source.times.are_derived:
            self._packets.detect_missing_times()
            if source.times.are_counted and seek_to is not None:
                return None
        frames = self._decode(seek_to)
        first = next(frames, None)
        if seek_to is not None and (first is None or first.pts > self._start_pts):
            return None
        while first is not None and self._compare_with_part(first) < 0:
            first = next(frames, None)
        if first is None and self._evidence.take_unexplained(math.inf):
            raise FileError(
                f"{self._path} holds no video frame that can be decoded{self._part_text}: it is "
                "damaged, cut short or encrypted. Get a whole copy."
            )
        if first is None or self._compare_with_part(first) > 0:
            raise FileError(f"{self._path} holds no video frame{self._part_text}.")
        self._frames = chain([first], frames)
        return first

    def _seek(self, moment: Fraction | float) -> bool:
        """Goes to the last key frame up to a moment, seconds; returns whether that is possible.

        A file whose clock may jump stays at its beginning, and `_decode` skips packets instead.
        """
        source = self._source
        if source.times.are_counted:
            return False
        if not source.may_jump:
            try:
                source.container.seek(
                    _clamp(moment / source.stream.time_base), stream=source.stream
                )
            except (OSError, *AV_ERRORS):
                return False
        return True

    def _decode(self, seek_to: Fraction | float | None) -> Iterator[av.VideoFrame]:
        """Decodes from the file's position on, and deinterlaces if that is wanted.

        Args:
            seek_to: As of `_find_first`.
        """
        source = self._source
        self._decoder = FrameDecoder(source, self._evidence, needs_key_frame=seek_to is not None)

        def decode_all() -> Iterator[av.VideoFrame]:
            packets = self._packets.read_video()
            if seek_to is not None and source.may_jump:
                packets = skip_to_key_frame(packets, seek_to / source.stream.time_base)
            yield from self._decoder.decode(packets)
            self._packets.note_unread_end()
            yield from self._decoder.flush()

        parity = field_parity(source.stream.codec_context)
        frames = self._report_interlacing(decode_all(), parity)
        return deinterlace(frames, parity) if self._interlaced == "deinterlace" else frames

    def _report_interlacing(
        self, frames: Iterator[av.VideoFrame], parity: str | None
    ) -> Iterator[av.VideoFrame]:
        for frame in frames:
            if not self._is_interlacing_reported and is_interlaced(frame, parity):
                self._is_interlacing_reported = True
                logger.warning(_INTERLACING[self._interlaced], self._path.name)
            yield frame

    def _refuse_part_after_end(self) -> None:
        """Raises FileError if the clip ends before the part begins, without decoding all of it."""
        container, times = self._source.container, self._source.times
        if self._source.may_jump or times.are_counted or not container.duration:
            return
        end = (container.duration + max(container.start_time or 0, 0)) / av.time_base
        if self._part.start > 1.1 * end + 10:
            raise FileError(f"{self._path} holds no video frame{self._part_text}.")

    def _compare_with_part(self, frame: av.VideoFrame) -> int:
        """Returns -1 for a frame before the part to read, 0 for one in it, 1 for one after it."""
        return -1 if frame.pts < self._start_pts else int(frame.pts >= self._end_pts)

    @property
    def _part_text(self) -> str:
        return self._part.describe(self._source.stated_duration)

    # What the first frame tells.

    def _describe_picture(self, first: av.VideoFrame) -> None:
        self._images = FrameToImage(first, self._source.decoder, self._path)
        self.colors = self._images.colors
        self.pixel_format = first.format.name
        self.side_data = {
            name: bytes(data)
            for name in KEPT_SIDE_DATA + LOST_SIDE_DATA
            if (data := first.side_data.get(name)) is not None
        }
        aspect = self._source.stream.sample_aspect_ratio or Fraction(1)
        self.sample_aspect_ratio = 1 / aspect if self._images.orientation.transpose else aspect

    def _describe_times(self, first: av.VideoFrame) -> None:
        source, stream = self._source, self._source.stream
        self._first_pts = first.pts
        start = clip_begin = first.pts * stream.time_base
        if self._part.begins_later:
            if source.times.are_counted:
                clip_begin = Fraction(0)
            elif stream.start_time is not None:
                clip_begin = stream.start_time * stream.time_base
        self.frames_before_part = round((start - clip_begin) * source.rate)
        sound_starts = [
            sound.start_time * sound.time_base
            for sound in source.container.streams.audio
            if sound.start_time is not None
        ]
        # Sound begins with the first frame, unless it began before all frames.
        self._side_start = start if clip_begin < self._part.start else self._part.start
        self.origin = min([start, *(max(begin, self._side_start) for begin in sound_starts)])
        self.video_start = start - self.origin
        self._gaps = GapReporter(
            self, source, self._part, float(min([clip_begin, *sound_starts])),
            self._evidence, self._packets, self._decoder,
        )  # fmt: skip
        width, height = self._images.coded_size
        if self._images.orientation.transpose:
            width, height = height, width
        self.info = ClipInfo(
            self._path, width, height, source.rate, self._estimate_count(start),
            self._images.has_alpha, stream.time_base, self._images.is_deep,
        )  # fmt: skip

    def _estimate_count(self, start: Fraction) -> int | None:
        """Estimates how many frames the part has, which begins at `start`, seconds."""
        source = self._source
        count = source.stream.frames
        if not count and (length := source.stated_video_duration()):
            count = round(length * source.rate)
        if count:
            count = max(1, count - self.frames_before_part)
        if self._part.end < math.inf:
            most = math.ceil((self._part.end - start) * source.rate)
            count = min(count or most, most)
        return count or None

    # Frames.

    def _read_frames(self) -> Generator[Frame, None, None]:
        source, base = self._source, self._source.stream.time_base
        self.side_streams.open(self._side_start)
        with self._errors():
            for frame, next_pts in self._frames_in_part():
                length = self._decoder.durations.get(frame.pts) or round(source.period / base)
                follows_gap = self._gaps.report_before(
                    float(frame.pts * base), float(length * base)
                )
                self._decoder.forget_until(frame.pts)
                yield Frame(
                    self._images.convert(frame),
                    (frame.pts - self._first_pts) * base,
                    self._duration(frame.pts, length, next_pts),
                    follows_gap,
                )
            if not self._packets.is_video_over:
                self._gaps.report_after_last()

    def _frames_in_part(self) -> Iterator[tuple[av.VideoFrame, int | None]]:
        """Yields the frames of the part, no two with the same time, each with the time of the next
        one, ticks; None: there is none."""
        latest = None
        for frame in self._frames:
            if self._packets.is_video_over or (latest is not None and frame.pts < latest.pts):
                continue
            if latest is not None and frame.pts > latest.pts:
                self._packets.is_video_over = self._compare_with_part(frame) > 0
                yield latest, frame.pts
            latest = frame
        if not self._packets.is_video_over:
            yield latest, None

    def _duration(self, pts: int, length: int, next_pts: int | None) -> Fraction:
        """Returns how long a frame is shown, seconds.

        Args:
            pts: When it is shown, ticks.
            length: How long it is shown, as its packet has it, ticks.
            next_pts: When the next frame is shown, ticks; None: it is the last one.
        """
        base, period = self._source.stream.time_base, self._source.period
        if next_pts is None:
            end = self._gaps.stated_end()
            rest = 0 if end is None else end - float(pts * base)
            if rest > float(length * base) + period / 2:
                return Fraction(round(rest / base)) * base
            return length * base
        if self._packets.is_video_over:
            shortest = round(period / base)
            return min(next_pts - pts, max(shortest, math.floor(self._end_pts) - pts)) * base
        return (next_pts - pts) * base


def _clamp(ticks: float | Fraction) -> int:
    """Returns a whole number that FFmpeg can take for a time."""
    return int(max(min(ticks, 2**62), -(2**62)))
