"""Reading videos, through PyAV."""

import contextlib
import logging
import math
import re
import sys
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch

from ..fileio import FileError, raise_file_errors
from .base import ClipInfo, Frame, Reader
from .colors import Colors
from .damage import (
    LEAST_GAP,
    Evidence,
    find_packets,
    has_clean_end,
    has_packet_between,
    readable_time,
)
from .deinterlace import deinterlaced, field_parity, is_interlaced
from .streams import (
    AV_ERRORS,
    KEPT_SIDE_DATA,
    LOST_SIDE_DATA,
    codec_name,
    disposition,
    file_url,
    kept_tags,
    summarize,
)
from .timestamps import MAY_JUMP, FrameTimes, SteadyClock

logger = logging.getLogger(__name__)

#: What can be done with interlaced video, and what is said of it.
_INTERLACING = {
    "deinterlace": "%s is interlaced: it is made progressive first, with bwdif (--interlaced keep "
    "leaves it as it is).",
    "keep": "%s is interlaced and left so: new frames are made of both fields woven together, and "
    "the output is marked progressive.",
}
INTERLACED = tuple(_INTERLACING)
# Packets that a decoder with threads may have taken when it tells that one of them is damaged.
_IN_DECODER = 20
# A file that can't be read on so many times is at its end.
_MOST_FAILURES = 20
# MPEG-TS marks a packet beside which something is missing: a gap within so many more is damage.
_SUSPECT_AFTER = 4
# So many frames at one time: the file tells no times.
_AT_ONE_TIME = 64


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to transpose, flip rows and flip columns, so that the frame is the right way up."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    videos = [stream for stream in container.streams.video if not _is_cover(stream)]
    for stream in videos:
        if stream.codec_context is not None:
            return stream
    if videos and (name := codec_name(videos[0])):
        raise FileError(
            f"The video of {path} is {name}, which can't be decoded here; convert it first, to "
            "H.264 for example."
        )
    if videos:
        raise FileError(f"{path} is damaged or cut short: it doesn't tell how its video is coded.")
    kinds = ", ".join(sorted({_kind(stream) for stream in container.streams}))
    raise FileError(f"{path} holds no video, only {kinds or 'nothing'}.")


def _is_cover(stream: av.stream.Stream) -> bool:
    return bool(disposition(stream) & av.stream.Disposition.attached_pic.value)


def _kind(stream: av.stream.Stream) -> str:
    return "a cover picture" if _is_cover(stream) else stream.type


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1":
        # FFmpeg's own VP8 and VP9 decoders pass over transparency.
        name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(context.name)
        if name in av.codecs_available:
            context = av.CodecContext.create(name, "r")
    context.thread_type = "AUTO"
    # By default decoders paint over damage and say nothing.
    context.options = {"err_detect": "explode"}
    return context


def _clamped(ticks: float | Fraction) -> int:
    """A whole number that FFmpeg can take for a time."""
    return int(max(min(ticks, 2**62), -(2**62)))


def _start_of(packet: av.Packet) -> float:
    """When it is shown or played, seconds."""
    ticks = packet.dts if packet.pts is None else packet.pts
    return float((ticks or 0) * packet.time_base)


def _end_of(packet: av.Packet) -> float:
    return _start_of(packet) + float((packet.duration or 0) * packet.time_base)


def _frame_rate(stream: av.VideoStream) -> Fraction:
    """Frames a second on average; some formats give the ticks of their clock instead."""
    rates = stream.average_rate, stream.guessed_rate, stream.base_rate
    return next((Fraction(rate) for rate in rates if rate and rate <= 2000), Fraction(25))


def _tagged_end(stream: av.VideoStream) -> float | None:
    """When a stream of a Matroska or WebM file ends, as a tag tells; seconds."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if match is None:
        return None
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _from_key_frame(packets: Iterable[av.Packet], start: Fraction) -> Iterator[av.Packet]:
    """Those from the last key frame on that is shown at `start`, ticks, or before."""
    held: list[av.Packet] | None = []
    for packet in packets:
        if held is None:
            yield packet
            continue
        if packet.is_keyframe and packet.pts is not None and packet.pts <= start:
            held = []
        held.append(packet)
        if packet.dts is not None and packet.dts > start:
            yield from held
            held = None
    yield from held or ()


class VideoReader(Reader):
    """A video file's first video stream, decoded frame by frame.

    Frames are RGB, or RGBA where the stream has transparency; the stream's own matrix and range
    are used, and frames that are to be shown rotated are rotated. Streams of more than 8 bits give
    float32. Frames keep their own times, evenly spaced or not; where recordings were joined, and
    the clock goes back or far ahead, it goes on evenly. Of frames at one time the last is given,
    the one that a player leaves on the screen.

    What can't be read is reported (`damage`) and passed over, up to the next frame that can be
    decoded without it; that one `follows_gap`.

    Args:
        start, duration: the part to read, in seconds on the file's own clock (None: to its end).
            Frames with start <= time < start + duration are given, both ends rounded down to the
            clock's ticks, as ComfyUI does. Sound and subtitles are cut between packets.
        interlaced: "deinterlace" makes interlaced frames progressive, "keep" leaves them.

    Raises:
        FileError: if the part holds no frame, or none that can be decoded.
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
        self._start = start if start > 0 else -math.inf
        self._end = math.inf if duration is None else max(start, 0) + duration
        #: Indices of the streams beside the video whose packets, or decoded frames, are wanted.
        self.copied_streams: Collection[int] = ()
        self.decoded_streams: Collection[int] = ()
        #: These, with their stream's index, in the file's order. Whoever iterates over the frames
        #: appends; a writer, in whatever thread, takes them from the left.
        self.queue: deque[tuple[int, av.Packet | av.AudioFrame]] = deque()
        self._is_interlacing_said = False
        self._container: av.container.InputContainer | None = None
        try:
            with self._errors():
                # Where a file can't be sought exactly, decoding has to begin earlier.
                earlier = [start - seconds for seconds in (0, 5, 10, 20)] if start > 0 else []
                for seek_to in (*earlier, None):
                    self._open()
                    if self._find_first(seek_to):
                        break
                    self.close()
        except BaseException:
            self.close()
            raise
        self.metadata = kept_tags(self._container)
        self.stream_metadata = kept_tags(self._stream)

    @property
    def timecode(self) -> str | None:
        """Of the whole clip's first frame."""
        tags = self.stream_metadata, self.metadata, *(s.metadata for s in self.unread_streams)
        return next((text for each in tags if (text := each.get("timecode"))), None)

    @property
    def chapters(self) -> list[tuple[Fraction, Fraction, dict[str, str]]]:
        """Start, end, both in seconds after `origin`, and tags, of the part that is read."""
        chapters = []
        end_of_part = self._end - self.origin
        if not hasattr(self._container, "chapters"):
            if "Chapter #" in summarize(self._container):
                logger.warning("Chapters are left out: they need a newer PyAV (pip install -U av).")
            return []
        for chapter in self._container.chapters():
            start, end = (
                min(chapter[side] * chapter["time_base"] - self.origin, end_of_part)
                for side in ("start", "end")
            )
            if end > max(start, 0):
                chapters.append((max(start, Fraction(0)), end, chapter["metadata"]))
        return chapters

    def reopen(self) -> av.container.InputContainer:
        """The file once more, at its beginning."""
        return av.open(file_url(self._path), metadata_errors="replace")

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return raise_file_errors("read", self._path, AV_ERRORS)

    # Opening.

    def _open(self) -> None:
        self._container = container = av.open(file_url(self._path), metadata_errors="replace")
        # FFmpeg takes any text for terminal art and a still for a video of one frame.
        if container.format.name == "tty" or container.format.name.endswith(("_pipe", "image2")):
            raise FileError(f"{self._path} is not a video; for images, name their folder.")
        self._stream = stream = _video_stream(container, self._path)
        self._decoder = _decoder(stream)
        self.other_streams, self.unread_streams = [], []  # beside the picture
        for other in container.streams:
            # PyAV crashes at streams without a codec.
            if other.type in ("audio", "subtitle") and other.codec_context is not None:
                self.other_streams.append(other)
            elif other is not stream:
                self.unread_streams.append(other)
        self._rate = _frame_rate(stream)
        self._period = float(1 / self._rate)  # seconds
        self._times = FrameTimes(container.format, 1 / self._rate / stream.time_base)
        # In floating point, so that not even rounding differs from where ComfyUI trims.
        self._start_pts, self._end_pts = (
            moment if math.isinf(moment) else _clamped(float(moment) / stream.time_base)
            for moment in (self._start, self._end)
        )
        length = container.duration and container.duration / av.time_base
        is_whole = has_clean_end(self._path)
        density = length and container.size / length
        begin = None if self._start > 0 else find_packets(self._path)
        self._evidence = Evidence(container.format.name, density, is_whole, begin)
        #: Since the last video packet: what makes a gap before the next one damage, or is damage.
        self._suspect_packets, self._is_damaged, self._skipped_bytes = 0, False, 0
        self._latest: av.Packet | None = None  # packet, and the one before the bytes passed over
        self._before_skip: av.Packet | None = None
        self._skipped_time = 0.0  # between these two, seconds
        self._lead_in = math.inf  # when the first packet before all key frames is shown, ticks
        self._key_pts: float | None = -math.inf  # of the key frame that decoding began with
        self._sent: dict[int, int] = {}  # packets in the decoder: when shown, how long
        self._last_stamp = -math.inf  # of decoded frames, seconds
        self._reached = self._video_reached = -math.inf  # the end of what was read, seconds
        self._packet_count = 0
        self._is_after_end = False
        self._sounded: dict[int, tuple[float, float]] = {}  # a stream's last packet: when, how long
        self._early: list[av.Packet] | None = []  # sound that was read before it is wanted

    def _find_first(self, seek_to: Fraction | float | None) -> bool:
        """Decode up to the part's first frame, and note what it tells.

        seek_to: where decoding begins, at the last key frame up to there (None: at the beginning).
        False: nothing can be decoded if it begins there, or it begins within the part.
        """
        container, stream = self._container, self._stream
        may_jump = bool(container.format.flags & MAY_JUMP)
        self._refuse_part_after_end(may_jump)
        if self._times.are_decoding_times:
            self._times.delay = self._decoding_delay()
            # ComfyUI trims on FFmpeg's clock, which has that delay.
            self._start_pts -= self._times.delay
            self._end_pts -= self._times.delay
        if seek_to is not None:
            if self._times.are_counted:
                return False
            if not may_jump:
                pts = _clamped(seek_to / stream.time_base)
                try:
                    container.seek(pts, stream=stream)
                except (OSError, *AV_ERRORS):
                    return False
            self._key_pts = None
        packets = self._demuxed()
        if not self._times.are_made_up:
            packets = self._with_times_checked(packets)
            if self._times.are_counted and seek_to is not None:
                return False
        packets = SteadyClock(container.format.flags, stream.index).steady(packets)
        packets = self._video_packets(packets)
        if seek_to is not None and may_jump:
            packets = _from_key_frame(packets, seek_to / stream.time_base)
        frames = self._decoded(packets)
        parity = field_parity(stream.codec_context)
        frames = self._with_interlacing_said(frames, parity)
        if self._interlaced == "deinterlace":
            frames = deinterlaced(frames, parity)
        first = next(frames, None)
        if seek_to is not None and (first is None or first.pts > self._start_pts):
            return False
        while first is not None and self._place(first) < 0:
            first = next(frames, None)
        if first is None or self._place(first) > 0:
            if first is None and self._evidence.take_unexplained(math.inf):
                raise FileError(
                    f"{self._path} holds no video frame that can be decoded{self._part()}: it is "
                    "damaged, cut short or encrypted. Get a whole copy."
                )
            raise FileError(f"{self._path} holds no video frame{self._part()}.")
        self._frames = chain([first], frames)
        self._probe(first)
        return True

    def _refuse_part_after_end(self, may_jump: bool) -> None:
        """Raise FileError if the clip ends before the part begins, without decoding all of it."""
        length = self._container.duration
        if may_jump or self._times.are_counted or not length:
            return
        end = (length + max(self._container.start_time or 0, 0)) / av.time_base
        if self._start > 1.1 * end + 10:
            raise FileError(f"{self._path} holds no video frame{self._part()}.")

    def _decoding_delay(self) -> int:
        """How much later than its packet's the first frame's time is, in a format that stores when
        frames are decoded. Read in a container of its own, from the file's beginning."""
        with self.reopen() as container:
            stream = _video_stream(container, self._path)
            decoder, first = _decoder(stream), None
            for packet in container.demux(stream):
                if first is None:
                    first = packet.dts
                with contextlib.suppress(*AV_ERRORS):
                    for frame in decoder.decode(packet):
                        return 0 if None in (frame.dts, first) else frame.dts - first
        return 0

    def _place(self, frame: av.VideoFrame) -> int:
        """-1: before the part to read, 0: in it, 1: after it."""
        return -1 if frame.pts < self._start_pts else int(frame.pts >= self._end_pts)

    def _part(self) -> str:
        """The part to read, for people; empty if it is all."""
        if self._start <= 0 and math.isinf(self._end):
            return ""
        text = f" from {max(0, float(self._start)):.2f} s "
        text += "on" if math.isinf(self._end) else f"to {float(self._end):.2f} s"
        if self._container.duration:
            text += f"; it lasts {self._container.duration / av.time_base:.2f} s"
        return text

    def _probe(self, first: av.VideoFrame) -> None:
        container, stream = self._container, self._stream
        components = first.format.components
        has_alpha = any(component.is_alpha for component in components)
        self._deep = max(component.bits for component in components) > 8
        self._rgb_format = (
            ("rgba64le" if has_alpha else "rgb48le")
            if self._deep
            else ("rgba" if has_alpha else "rgb24")
        )
        self._coded_size = first.width, first.height
        self.pixel_format = first.format.name
        #: What the first frame carries, by FFmpeg's names without AV_FRAME_DATA_.
        self.side_data = {
            name: bytes(data)
            for name in KEPT_SIDE_DATA + LOST_SIDE_DATA
            if (data := first.side_data.get(name)) is not None
        }
        self._converted_kind: tuple[str, Colors] | None = None
        self._orientation = _orientation(first)
        self.colors = Colors.of(first, self._decoder)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        width, height = self._coded_size
        if self._orientation[0]:
            width, height, aspect = height, width, 1 / aspect
        self.sample_aspect_ratio = aspect

        rate = self._rate
        self._first_pts = first.pts
        starts = [
            s.start_time * s.time_base for s in container.streams.audio if s.start_time is not None
        ]
        start = begin = self._first_pts * stream.time_base
        if self._start > 0:  # `begin`: of the whole clip's first frame
            if self._times.are_counted:
                begin = Fraction(0)
            elif stream.start_time is not None:
                begin = stream.start_time * stream.time_base
        self.frames_before_part = round((start - begin) * rate)
        # Where sound begins: with the first frame, unless it began before all frames.
        self._others_start = start if begin < self._start else self._start
        # Container time of the clip's very start ...
        self.origin = min([start, *(max(s, self._others_start) for s in starts)])
        self.video_start = start - self.origin  # when, after that, the first frame is shown
        self._begin = float(min([begin, *starts]))
        count = stream.frames
        if not count and (length := self._stated_length()):
            count = round(length * rate)
        if count:
            count = max(1, count - self.frames_before_part)
        if self._end < math.inf:
            limit = math.ceil((self._end - start) * rate)
            count = min(count or limit, limit)
        self.info = ClipInfo(
            self._path, width, height, Fraction(rate), count or None, has_alpha, stream.time_base,
            self._deep,
        )  # fmt: skip

    def _stated_length(self) -> float | None:
        """Seconds that the picture lasts, as the file tells."""
        if self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        end, start = _tagged_end(self._stream), self._stream.start_time or 0
        if end is not None:
            return end - float(start * self._stream.time_base)
        return self._container.duration and self._container.duration / av.time_base

    # Packets.

    def _demuxed(self) -> Iterator[av.Packet]:
        """All packets that can be read."""
        streams = self._stream, *self.other_streams
        packets, failures = self._container.demux(*streams), 0
        while failures < _MOST_FAILURES:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (OSError, LookupError, *AV_ERRORS):  # PyAV looks up streams that appear late
                failures += 1
                self._suspect_packets = _SUSPECT_AFTER
                self._evidence.mark(self._last_stamp, self._last_stamp, is_certain=True)
                packets = self._container.demux(*streams)
                continue
            failures = 0
            self._look_at(packet)
            # In MPEG-TS the flag may stand for no more than a seam between two pieces.
            if packet.is_corrupt and self._container.format.name != "mpegts":
                if packet.stream.index == self._stream.index:
                    self._is_damaged = True
                else:
                    self._report_sound(packet)
                continue
            yield packet

    def _look_at(self, packet: av.Packet) -> None:
        if packet.is_corrupt:
            self._suspect_packets = _SUSPECT_AFTER
        skipped = self._evidence.skipped_bytes(packet.pos, packet.size)
        if skipped > self._skipped_bytes:
            self._skipped_bytes, self._before_skip = skipped, self._latest
            end = 0.0 if self._latest is None else _end_of(self._latest)
            self._skipped_time = _start_of(packet) - end
        self._latest = packet

    def _with_times_checked(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """The same packets; notes whether the file gives them all one time, which is none."""
        read, times, count = [], set(), 0
        for packet in packets:
            read.append(packet)
            if packet.stream.index == self._stream.index and packet.size:
                times.add(packet.pts)
                count += 1
                if packet.pts is None or len(times) > 1 or count == _AT_ONE_TIME:
                    break
        self._times.are_counted = count > 1 and len(times) == 1 and None not in times
        return chain(read, packets)

    def _video_packets(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """The packets of the video; the others are handed on. Ends a little after the part.

        Each waits for the next one, which may show that it is cut short itself.
        """
        last_dts, is_over = -math.inf, False
        held: av.Packet | None = None
        for packet in packets:
            if packet.dts is None:
                time = None
            else:
                time = float(packet.dts * packet.time_base)
                # Sound is stored near the picture that it belongs to.
                if is_over and time > self._end + 2:
                    break
            shown = time if packet.pts is None else float(packet.pts * packet.time_base)
            length = float((packet.duration or 0) * packet.time_base)
            if shown is not None:
                self._reached = max(self._reached, shown + length)
            if packet.stream.index != self._stream.index:
                self._take_other(packet, shown)
                continue
            if not packet.size:  # the frame before goes on
                last_dts = last_dts if time is None else time
                continue
            self._packet_count += 1
            reached = self._video_reached
            if shown is not None:
                self._video_reached = max(self._video_reached, shown + length)
            step = max(length, self._period)
            is_gap = time is not None and 1.5 * step < time - last_dts < math.inf
            if self._packet_count == 1:
                is_gap = self._skipped_bytes > 0 and self._skipped_time > 1.5 * step
                if is_gap:
                    self._evidence.mark(self._last_stamp, self._last_stamp, is_certain=True)
            elif self._skipped_bytes and shown is not None and shown > reached + step / 2:
                # Decoding times tell no gap here: FFmpeg guesses the first ones of Matroska files.
                self._evidence.mark(self._last_stamp, shown, skipped=self._skipped_bytes)
            elif is_gap and self._is_one_unreadable(held, packet):
                self._is_damaged = True
            if self._is_suspect() or self._is_damaged or self._skipped_bytes:
                if self._is_hole(shown, is_gap):
                    if held is not None and not self._is_cut(held):
                        yield held
                    held, self._key_pts = None, None
                self._suspect_packets = max(0, self._suspect_packets - 1)
            if time is not None:
                last_dts = time
                is_over = time >= self._end
            if held is not None and not self._is_after_end:
                yield held
            held = packet
        if held is not None and not self._is_after_end:
            yield held

    def _is_hole(self, shown: float | None, is_gap: bool) -> bool:
        """Whether what was passed over before a video packet can have been pictures; notes that."""
        is_hole = self._is_damaged or is_gap
        if is_hole:
            end = self._last_stamp if shown is None else shown
            skipped = 0 if self._is_suspect() else self._skipped_bytes
            self._evidence.mark(self._last_stamp, end, self._is_damaged, skipped)
        self._is_damaged, self._skipped_bytes = False, 0
        return is_hole

    def _is_one_unreadable(self, first: av.Packet | None, second: av.Packet) -> bool:
        """Whether an MPEG-TS file has a picture between two packets that couldn't be read."""
        if self._container.format.name != "mpegts" or first is None:
            return False
        if first.pos is None or second.pos is None:
            return False
        return has_packet_between(self._path, self._stream.id, first.pos, second.pos)

    def _is_suspect(self) -> bool:
        return self._suspect_packets > 0 or self._evidence.tells_by_gaps

    def _is_cut(self, packet: av.Packet) -> bool:
        """Whether a packet before a hole reaches into it."""
        return packet.is_corrupt or packet is self._before_skip or not self._evidence.is_whole

    def _take_other(self, packet: av.Packet, shown: float | None) -> None:
        """Hand on a packet of sound or subtitles if it belongs to the part."""
        if self._early is not None:
            if shown is None or shown >= self._start:
                self._early.append(packet)
            return
        if shown is not None and not self._others_start <= shown < self._end:
            return
        index = packet.stream.index
        if shown is not None and packet.stream.type == "audio":
            # MP4 has the packet before a gap last as long as the gap.
            before, length = self._sounded.get(index, (shown, 0.0))
            if shown - before - length > LEAST_GAP:
                self._evidence.add_silence(index, before + length, shown)
            own = float((packet.duration or 0) * packet.time_base)
            self._sounded[index] = shown, min(own, length) or own
        if index in self.copied_streams and packet.size:
            self.queue.append((index, packet))
        elif index in self.decoded_streams:
            try:
                self.queue.extend((index, frame) for frame in packet.decode())
            except AV_ERRORS:
                self._report_sound(packet)

    def _report_sound(self, packet: av.Packet) -> None:
        where = "" if packet.pts is None else f" at {float(packet.pts * packet.time_base):.2f} s"
        self.report_damage(
            f"{self._path.name}: {packet.stream.type} is damaged{where}; that much is left out."
        )

    # Frames.

    def _decoded(self, packets: Iterator[av.Packet]) -> Iterator[av.VideoFrame]:
        """The frames in order of time; where one can't be decoded, those up to a key frame lack."""
        sent: deque[av.Packet] = deque(maxlen=_IN_DECODER)
        again: deque[av.Packet] = deque()
        is_key_sent = False
        while packet := again.popleft() if again else next(packets, None):
            if not self._is_decodable(packet):
                continue
            sent.append(packet)
            is_key_sent = is_key_sent or packet.is_keyframe
            if packet.pts is not None and not self._times.are_made_up:
                self._sent[packet.pts] = packet.duration or 0
                if not is_key_sent:
                    self._lead_in = min(self._lead_in, packet.pts)
            try:
                frames = self._decoder.decode(packet)
            except AV_ERRORS:
                self._evidence.mark(self._last_stamp, self._last_stamp, is_certain=True)
                self._decoder.flush_buffers()
                # With threads, a packet before the last one may be the damaged one.
                if not self._times.are_counted:
                    again.extendleft(reversed([*sent][1:]))
                sent.clear()
                self._key_pts = None
                continue
            yield from self._stamped(frames)
        if self._is_damaged or self._suspect_packets:
            self._evidence.mark(self._last_stamp, sys.float_info.max, self._is_damaged)
        try:
            frames = self._decoder.decode(None)
        except AV_ERRORS:
            frames = []
        yield from self._stamped(frames)

    def _is_decodable(self, packet: av.Packet) -> bool:
        """Whether what the packet needs was decoded before, after a seek or damage."""
        if self._key_pts is None and packet.is_keyframe:
            self._key_pts = -math.inf if packet.pts is None else packet.pts
        # What is shown before the key frame, though stored after, needs what was skipped.
        return self._key_pts is not None and (packet.pts is None or packet.pts >= self._key_pts)

    def _stamped(self, frames: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            frame.time_base = self._stream.time_base  # the last ones come without
            self._times.stamp(frame)
            self._last_stamp = float(frame.pts * self._stream.time_base)
            yield frame

    def _with_interlacing_said(
        self, frames: Iterator[av.VideoFrame], parity: str | None
    ) -> Iterator[av.VideoFrame]:
        for frame in frames:
            if not self._is_interlacing_said and is_interlaced(frame, parity):
                self._is_interlacing_said = True
                logger.warning(_INTERLACING[self._interlaced], self._path.name)
            yield frame

    def _in_part(self) -> Iterator[tuple[av.VideoFrame, int | None]]:
        """The frames of the part, no two at one time, and when the next one is shown."""
        latest = None
        for frame in self._frames:
            if self._is_after_end or (latest is not None and frame.pts < latest.pts):
                continue
            if latest is not None and frame.pts > latest.pts:
                self._is_after_end = self._place(frame) > 0
                yield latest, frame.pts
            latest = frame
        if not self._is_after_end:
            yield latest, None

    def _read_frames(self) -> Generator[Frame, None, None]:
        early, self._early = self._early or [], None
        for packet in early:
            moment = packet.dts if packet.pts is None else packet.pts
            self._take_other(packet, None if moment is None else float(moment * packet.time_base))
        base, before = self._stream.time_base, None
        with self._errors():
            for frame, next_pts in self._in_part():
                follows_gap = self._report_gap(before, float(frame.pts * base))
                length = self._sent.get(frame.pts) or round(self._period / base)
                before = float(frame.pts * base), max(float(length * base), self._period)
                self._sent = {pts: d for pts, d in self._sent.items() if pts > frame.pts}
                time = (frame.pts - self._first_pts) * base
                duration = self._duration(frame.pts, length, next_pts)
                yield Frame(self._image(frame), time, duration, follows_gap)
            if not self._is_after_end:
                self._report_end(*before)

    def _duration(self, pts: int, length: int, next_pts: int | None) -> Fraction:
        """How long a frame is shown; length: as its packet has it, ticks."""
        base = self._stream.time_base
        if next_pts is None:
            end = self._stated_end()
            rest = 0 if end is None else end - float(pts * base)
            if rest > float(length * base) + self._period / 2:
                return Fraction(round(rest / base)) * base
            return length * base
        if self._is_after_end:
            period = round(self._period / base)
            return min(next_pts - pts, max(period, math.floor(self._end_pts) - pts)) * base
        return (next_pts - pts) * base

    def _stated_end(self) -> float | None:
        """When the last frame ends, as the file tells, if that is known to be so; seconds on the
        file's clock."""
        stream = self._stream
        if stream.duration and stream.frames:  # MP4, whose index lists all frames
            if self._start > 0 or self._packet_count >= stream.frames:
                return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        elif has_clean_end(self._path, self._evidence.file_end):
            return _tagged_end(stream)
        return None

    # What is missing.

    def _report_gap(self, before: tuple[float, float] | None, shown: float) -> bool:
        """Report what is missing before the frame shown at a time; returns whether pictures are.

        before: when the frame before is shown and how long that is meant to last, seconds.
        """
        name = self._path.name
        if before is None:
            is_damaged = self._evidence.take_unexplained(shown)
            missing = shown - self._lead_in * float(self._stream.time_base)
            if is_damaged and self._start <= 0:
                self.report_damage(f"{name} is damaged at its beginning, which is left out.")
            elif missing > self._period / 2 and self._start <= 0:
                self.report_damage(
                    f"{name} begins between two key frames: the first {missing:.2f} s of the "
                    "picture can't be decoded and are left out."
                )
            return False
        last, step = before
        end = last + step
        is_hole = shown - last > 1.5 * step and (
            self._evidence.explains(last, step, shown)
            or self._is_lost(last + step / 2, shown - step / 2)
        )
        if not is_hole and self._evidence.shares_silence(
            self._sounds(), last + self._period, shown
        ):
            is_hole, end = True, last + self._period
        if is_hole:
            self.report_damage(
                f"{name} is damaged: {shown - end:.2f} s of the picture are missing at "
                f"{self._readable(end)}; the frame before them is held."
            )
            return True
        if self._evidence.take_unexplained(last):
            self.report_damage(f"{name} is damaged near {self._readable(last)}.")
        return False

    def _is_lost(self, start: float, end: float) -> bool:
        """Whether a packet was decoded to nothing that was to be shown between two times."""
        base = self._stream.time_base
        return any(start < float(pts * base) < end for pts in self._sent)

    def _sounds(self) -> list[int]:
        return [stream.index for stream in self.other_streams if stream.type == "audio"]

    def _report_end(self, last: float, step: float) -> None:
        """Report what is missing after the last frame that could be read.

        last, step: when it is shown, and how long it is meant to last; seconds.
        """
        reached = end = last + step
        is_damaged = self._evidence.take_unexplained(math.inf) or self._is_lost(last, math.inf)
        if is_damaged:
            end = max(end, self._video_reached)
        missing = min(max(end, self._promised_end(reached)), float(self._end)) - reached
        if missing > 1.5 * self._period:
            self.report_damage(
                f"{self._path.name} is cut short or damaged: the last {missing:.2f} s, from "
                f"{self._readable(reached)} on, are missing."
            )
        elif is_damaged:
            self.report_damage(
                f"{self._path.name} is damaged near {self._readable(last)}, its end."
            )
        elif not self._evidence.is_whole and not self.damage and math.isinf(self._end):
            is_unknown = self._container.format.flags & MAY_JUMP
            self.report_damage(
                f"{self._path.name} is cut short: "
                + (
                    "it ends within a packet, and doesn't tell how much is missing."
                    if is_unknown
                    else "no picture is missing, but sound may be."
                )
            )

    def _promised_end(self, reached: float) -> float:
        """When the clip should have ended, seconds, if its file tells for sure; else `reached`."""
        stream, container = self._stream, self._container
        length = (container.duration or 0) / av.time_base
        if container.format.flags & MAY_JUMP or self._times.are_counted:
            return reached  # these tell nothing: FFmpeg takes their length from the last packets
        if stream.duration and stream.frames and not self._times.are_made_up:
            if self._start <= 0 and self._packet_count >= stream.frames:
                return reached
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        if container.format.name == "avi" and stream.frames:  # as its header has it
            return max(reached, stream.frames * self._period)
        if not has_clean_end(self._path, self._evidence.file_end):
            end = _tagged_end(stream)
            if end is not None:
                return end
            return length if length - max(reached, self._reached) > self._period else reached
        # Many a writer's length is a guess.
        return length if length - max(reached, self._reached) > max(1, length / 20) else reached

    def _readable(self, moment: float) -> str:
        return readable_time(max(0, moment - self._begin))

    def _image(self, frame: av.VideoFrame) -> torch.Tensor:
        if (frame.width, frame.height) != self._coded_size:
            old, new = self._coded_size, (frame.width, frame.height)
            raise FileError(
                f"{self._path} changes its frame size from {old[0]}x{old[1]} to "
                f"{new[0]}x{new[1]}; split it there, or scale it to one size."
            )
        kind = frame.format.name, Colors.of(frame, self._decoder)
        if kind != self._converted_kind:
            self._converted_kind = kind
            self._to_rgb = kind[1].converter(self._coded_size, kind[0], self._rgb_format)
        array = self._to_rgb(frame).to_ndarray()
        if self._deep:
            array = kind[1].from_16_bits(array, kind[0])
        transpose, flip_rows, flip_columns = self._orientation
        if transpose:
            array = array.transpose(1, 0, 2)
        array = array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        return torch.from_numpy(np.array(array))

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None
