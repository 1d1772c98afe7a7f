"""Reading videos, through PyAV."""

import contextlib
import math
from collections import deque
from collections.abc import Collection, Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from ..fileio import FileError, plain_errors
from .base import ClipInfo, Frame, Reader
from .colors import Colors
from .streams import AV_ERRORS, describe, disposition, file_url, kept_tags


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
    cover = av.stream.Disposition.attached_pic.value
    for stream in container.streams.video:
        if not disposition(stream) & cover:
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams}))
    raise FileError(f"{path} holds no video, only {kinds or 'nothing'}.")


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


class VideoReader(Reader):
    """A video file's first video stream, decoded frame by frame.

    Frames are RGB, or RGBA where the stream has transparency; the stream's own matrix and range
    are used, and frames that are to be shown rotated are rotated. Streams of more than 8 bits give
    float32. Frames keep their own times, evenly spaced or not.

    start, duration: the part to read, in seconds on the file's own clock (None: to its end).
    Frames with start <= time < start + duration are given, both ends rounded down to the clock's
    ticks, as ComfyUI does. Sound and subtitles are cut between packets.

    Raises FileError, at the start or while frames are read, if the part holds no frame or can't be
    decoded to its end: a damaged place is never passed over in silence.
    """

    def __init__(
        self,
        path: Path,
        start: Fraction | float = Fraction(0),
        duration: Fraction | float | None = None,
    ):
        super().__init__()
        self._path = path
        self._start = start if start > 0 else -math.inf
        self._end = math.inf if duration is None else max(start, 0) + duration
        #: Indices of the streams beside the video whose packets, or decoded frames, are wanted.
        self.copied_streams: Collection[int] = ()
        self.decoded_streams: Collection[int] = ()
        #: These, with their stream's index, in the file's order. Whoever iterates over the frames
        #: appends; a writer, in whatever thread, takes them from the left.
        self.queue: deque[tuple[int, av.Packet | av.AudioFrame]] = deque()
        with self._errors():
            # Where a file can't be sought exactly, decoding has to begin earlier.
            earlier = [start - seconds for seconds in (0, 5, 10, 20)] if start > 0 else []
            for self._seek_to in (*earlier, None):
                if self._find_first():
                    break
            self._container = self._open()
        self._stream = _video_stream(self._container, path)
        self._decoder = _decoder(self._stream)
        self.metadata = kept_tags(self._container)
        self.stream_metadata = kept_tags(self._stream)
        if start > 0:
            self.stream_metadata.pop("timecode", None)  # the whole clip's
        self.other_streams, self.dropped = [], []  # streams to copy; descriptions of the rest
        for stream in self._container.streams:
            # PyAV crashes at streams without a codec.
            if stream.type in ("audio", "subtitle") and stream.codec_context is not None:
                self.other_streams.append(stream)
            elif stream is not self._stream and "timecode" not in stream.metadata:
                self.dropped.append(describe(stream))

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return plain_errors("read", self._path, AV_ERRORS)

    def _open(self) -> av.container.InputContainer:
        container = av.open(file_url(self._path), metadata_errors="replace")
        # FFmpeg takes any text for terminal art and a still for a video of one frame.
        if container.format.name == "tty" or container.format.name.endswith(("_pipe", "image2")):
            container.close()
            raise FileError(f"{self._path} is not a video; for images, name their folder.")
        return container

    def _find_first(self) -> bool:
        """Decode up to the part's first frame, and note what it tells.

        False: decoding fails if it begins at `_seek_to`, or begins within the part.
        """
        with self._open() as container:
            stream = _video_stream(container, self._path)
            decoder = _decoder(stream)
            # In floating point, so that not even rounding differs from where ComfyUI trims.
            self._start_pts, self._end_pts = (
                moment if math.isinf(moment) else int(float(moment) / stream.time_base)
                for moment in (self._start, self._end)
            )
            packets = self._packets(container, stream)
            frames = (frame for packet in packets for frame in decoder.decode(packet))
            try:
                first = next(frames, None)
                if self._seek_to is not None and (
                    first is None or first.pts is None or first.pts > self._start_pts
                ):
                    return False
                while first is not None and self._place(first) < 0:
                    first = next(frames, None)
            except (OSError, *AV_ERRORS):
                if self._seek_to is None:
                    raise
                return False
            if first is None or self._place(first) > 0:
                raise FileError(f"{self._path} holds no video frame{self._part(container)}.")
            if first.pts is None and self._part(container):
                raise FileError(
                    f"The frames of {self._path} have no times, so no part of it can be read; give "
                    "them some with ffmpeg -i FILE -c copy FILE.mp4."
                )
            self._probe(container, stream, first)
        return True

    def _place(self, frame: av.VideoFrame) -> int:
        """-1: before the part to read, 0: in it, 1: after it."""
        pts = self._start_pts if frame.pts is None else frame.pts
        return (pts >= self._end_pts) - (pts < self._start_pts)

    def _part(self, container: av.container.InputContainer) -> str:
        """The part to read, for people; empty if it is all."""
        if math.isinf(self._start) and math.isinf(self._end):
            return ""
        text = f" from {max(0, float(self._start)):.2f} s "
        text += "on" if math.isinf(self._end) else f"to {float(self._end):.2f} s"
        if container.duration:
            text += f"; it lasts {container.duration / av.time_base:.2f} s"
        return text

    def _packets(
        self, container: av.container.InputContainer, *streams: av.stream.Stream
    ) -> Iterator[av.Packet]:
        """The packets from `_seek_to` on, video (the first of the streams) from a key frame on."""
        video, key = streams[0], None
        if self._seek_to is not None:
            container.seek(int(self._seek_to / video.time_base), stream=video)
        for packet in container.demux(*streams):
            if self._seek_to is not None and packet.stream.index == video.index:
                if key is None and packet.is_keyframe:
                    key = packet.pts
                # What is shown before the key frame, though stored after, needs what was skipped.
                if packet.pts is not None and (key is None or packet.pts < key):
                    continue
            yield packet

    def _probe(
        self, container: av.container.InputContainer, stream: av.VideoStream, first: av.VideoFrame
    ) -> None:
        components = first.format.components
        has_alpha = any(component.is_alpha for component in components)
        self._deep = max(component.bits for component in components) > 8
        self._rgb_format = (
            ("rgba64le" if has_alpha else "rgb48le")
            if self._deep
            else ("rgba" if has_alpha else "rgb24")
        )
        self._coded_size = first.width, first.height
        self._converted_kind: tuple[str, Colors] | None = None
        self._orientation = _orientation(first)
        self.colors = Colors.of(first, stream.codec_context)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        width, height = self._coded_size
        if self._orientation[0]:
            width, height, aspect = height, width, 1 / aspect
        self.sample_aspect_ratio = aspect

        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._first_pts = first.pts or 0
        starts = [
            s.start_time * s.time_base for s in container.streams.audio if s.start_time is not None
        ]
        start = begin = self._first_pts * stream.time_base
        if self._start > 0 and stream.start_time is not None:
            begin = stream.start_time * stream.time_base  # of the whole clip's first frame
        # Where sound begins: with the first frame, unless it began before all frames.
        self._others_start = start if begin < self._start else self._start
        # Container time of the clip's very start ...
        self.origin = min([start, *(max(s, self._others_start) for s in starts)])
        self.video_start = start - self.origin  # when, after that, the first frame is shown
        self._skipped = self.origin - min([begin, *starts])
        count = stream.frames
        if not count and container.duration:
            count = round(container.duration * rate / av.time_base)
        if count:
            count = max(1, count - round((start - begin) * rate))
        if self._end < math.inf:
            limit = math.ceil((self._end - start) * rate)
            count = min(count or limit, limit)
        self.info = ClipInfo(
            self._path, width, height, Fraction(rate), count or None, has_alpha, stream.time_base,
            self._deep,
        )  # fmt: skip

    def __iter__(self) -> Generator[Frame, None, None]:
        period = 1 / self.info.frame_rate
        time, reached = -period, Fraction(0)
        ended = False
        try:
            for packet in self._packets(self._container, self._stream, *self.other_streams):
                # Sound is stored near the picture that it belongs to.
                if ended and (packet.dts or 0) * packet.time_base > self._end + 2:
                    break
                # In MPEG-TS the flag may stand for no more than a seam between two pieces.
                if packet.is_corrupt and not ended and self._container.format.name != "mpegts":
                    raise ValueError("a part is missing")
                shown = None if packet.pts is None else packet.pts * packet.time_base
                if shown is not None:
                    reached = max(reached, shown - self.origin)
                if packet.stream.index != self._stream.index:
                    if shown is None or self._others_start <= shown < self._end:
                        self._enqueue(packet)
                    continue
                if ended:
                    continue
                if packet.dts is not None and packet.dts >= self._end_pts:
                    packet, ended = None, True  # the decoder gives what it still holds
                for frame in self._decoder.decode(packet):
                    ended = ended or self._place(frame) > 0
                    if self._place(frame):
                        continue
                    previous, time = time, time + period
                    if frame.pts is not None:
                        own = (frame.pts - self._first_pts) * self.info.time_base
                        time = own if own > previous else time
                    yield Frame(self._image(frame), time, period)
            # A download that broke off between two packets just ends.
            promised = Fraction(self._container.duration or 0, av.time_base)
            left = min(promised - self._skipped, self._end - self.origin)
            if reached < left - max(1, promised / 20):
                raise ValueError(f"it should last {float(promised):.2f} s")
        except FileError:
            raise
        except (OSError, *AV_ERRORS) as error:
            raise FileError(
                f"{self._path} is damaged: it could be read up to "
                f"{float(max(time, 0) + self._skipped):.2f} s only "
                f"({getattr(error, 'strerror', None) or error}). Get a whole copy, or mend it with "
                "ffmpeg -i FILE MENDED_FILE."
            ) from error

    def _enqueue(self, packet: av.Packet) -> None:
        """Hand on a packet of sound or subtitles, decoded if that is wanted."""
        index = packet.stream.index
        if index in self.copied_streams and packet.size:
            self.queue.append((index, packet))
        elif index in self.decoded_streams:
            self.queue.extend((index, frame) for frame in packet.decode())

    def _image(self, frame: av.VideoFrame) -> torch.Tensor:
        if (frame.width, frame.height) != self._coded_size:
            old, new = self._coded_size, (frame.width, frame.height)
            raise FileError(
                f"{self._path} changes its frame size from {old[0]}x{old[1]} to "
                f"{new[0]}x{new[1]}; split it there, or scale it to one size."
            )
        if frame.is_corrupt:
            raise ValueError("damaged frame")
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
        self._container.close()
