"""A video file as FFmpeg opens it: its streams, its decoder, and what its header states."""

import contextlib
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from ..fileio import FileError
from .streams import AV_ERRORS, codec_name, file_url, is_cover
from .timestamps import MAY_JUMP, FrameTimes

# FFmpeg's VP8 and VP9 decoders ignore transparency; these don't.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Frames a second. Some formats give the ticks of their clock instead, which are more.
_HIGHEST_RATE = 2000


@dataclass(frozen=True)
class Part:
    """The part of a file that is read, in seconds on the file's clock.

    Attributes:
        start: When it begins; -infinity: with the file.
        end: When it ends; infinity: with the file.
    """

    start: Fraction | float = -math.inf
    end: Fraction | float = math.inf

    @property
    def begins_later(self) -> bool:
        """Whether it begins after the file."""
        return self.start > 0

    def describe(self, duration: float | None) -> str:
        """Returns the end of a sentence that says which part it is; empty if it is the whole file.

        Args:
            duration: Seconds that the file lasts, if known.
        """
        if not self.begins_later and math.isinf(self.end):
            return ""
        text = f" from {max(0, float(self.start)):.2f} s "
        text += "on" if math.isinf(self.end) else f"to {float(self.end):.2f} s"
        return text + (f"; it lasts {duration:.2f} s" if duration else "")


class VideoSource:
    """An open video file.

    Args:
        path: The file.

    Attributes:
        container: PyAV's container.
        stream: The video stream that is read.
        decoder: Its decoder.
        other_streams: Streams of sound and subtitles.
        unread_streams: All streams beside these: covers, attachments, data, unknown codecs.
        rate: Frames a second, on average.
        period: Seconds from frame to frame, on average.
        times: Gives decoded frames their times.
        may_jump: Whether the format's clock may jump, as that of MPEG-TS does.

    Raises:
        FileError: The file is no video, or its video can't be decoded.
    """

    def __init__(self, path: Path):
        self.path = path
        self.container = open_container(path)
        try:
            self._refuse_what_is_no_video()
            self.stream = _choose_video_stream(self.container, path)
            self.decoder = _create_decoder(self.stream)
        except BaseException:
            self.container.close()
            raise
        self.other_streams: list[av.stream.Stream] = []
        self.unread_streams: list[av.stream.Stream] = []
        for stream in self.container.streams:
            # PyAV crashes at streams without a codec.
            if stream.type in ("audio", "subtitle") and stream.codec_context is not None:
                self.other_streams.append(stream)
            elif stream is not self.stream:
                self.unread_streams.append(stream)
        self.rate = _average_rate(self.stream)
        self.period = float(1 / self.rate)
        self.times = FrameTimes(self.container.format, 1 / self.rate / self.stream.time_base)
        self.may_jump = bool(self.container.format.flags & MAY_JUMP)

    def close(self) -> None:
        self.container.close()

    def _refuse_what_is_no_video(self) -> None:
        # FFmpeg takes any text for terminal art and a still for a video of one frame.
        name = self.container.format.name
        if name == "tty" or name.endswith(("_pipe", "image2")):
            raise FileError(f"{self.path} is not a video; for images, name their folder.")

    @property
    def stated_duration(self) -> float | None:
        """Seconds that the whole file lasts, as its header states; 0 or None: not stated."""
        return self.container.duration and self.container.duration / av.time_base

    def stated_video_duration(self) -> float | None:
        """Returns how long the picture lasts, seconds, as the file states."""
        stream = self.stream
        if stream.duration:
            return float(stream.duration * stream.time_base)
        end = self.tagged_end()
        if end is not None:
            return end - float((stream.start_time or 0) * stream.time_base)
        return self.stated_duration

    def stated_video_end(self) -> float:
        """Returns when the last frame of a video ends whose stream states its duration; seconds."""
        stream = self.stream
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)

    def tagged_end(self) -> float | None:
        """Returns when the video of a Matroska or WebM file ends, as a tag states; seconds."""
        match = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", self.stream.metadata.get("DURATION", ""))
        if match is None:
            return None
        return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])

    def find_decoding_delay(self) -> int:
        """Returns how much later than its packet's the first frame's time is, ticks, in a format
        that stores when frames are decoded. Reads the file's beginning in a container of its own.
        """
        with open_container(self.path) as container:
            stream = _choose_video_stream(container, self.path)
            decoder, first = _create_decoder(stream), None
            for packet in container.demux(stream):
                if first is None:
                    first = packet.dts
                with contextlib.suppress(*AV_ERRORS):
                    for frame in decoder.decode(packet):
                        return 0 if None in (frame.dts, first) else frame.dts - first
        return 0


def open_container(path: Path) -> av.container.InputContainer:
    return av.open(file_url(path), metadata_errors="replace")


def _choose_video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    videos = [stream for stream in container.streams.video if not is_cover(stream)]
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


def _kind(stream: av.stream.Stream) -> str:
    return "a cover picture" if is_cover(stream) else stream.type


def _create_decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1":
        name = _ALPHA_DECODERS.get(context.name)
        if name in av.codecs_available:
            context = av.CodecContext.create(name, "r")
    context.thread_type = "AUTO"
    # By default decoders conceal damage and don't report it.
    context.options = {"err_detect": "explode"}
    return context


def _average_rate(stream: av.VideoStream) -> Fraction:
    """Returns the frames a second, on average."""
    rates = stream.average_rate, stream.guessed_rate, stream.base_rate
    return next((Fraction(rate) for rate in rates if rate and rate <= _HIGHEST_RATE), Fraction(25))
