"""Reading and writing clips. Video files and their sound are here, through PyAV; folders of
images and animated pictures are in images.py, and what all have in common in files.py.
"""

import contextlib
import io
import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from . import images
from .colors import SCREEN, Colors
from .files import ClipInfo, FileError, Frame, Reader, Writer, plain_errors, to_uint8

logger = logging.getLogger(__name__)

# FFmpeg reports damage as ValueError, too; av.FFmpegError covers it all.
_AV_ERRORS = (av.FFmpegError, ValueError, EOFError)


@dataclass(frozen=True)
class _Container:
    video: tuple[str, ...]  # default encoders, best first
    audio: str  # encoder for sound that can't be copied
    options: tuple[tuple[str, str], ...] = ()


_H264 = ("libx264", "libopenh264")
# Arbitrary tags, such as ComfyUI's workflows, survive in MP4 with use_metadata_tags only.
_MOVFLAGS = (("movflags", "+faststart+use_metadata_tags"),)
_CONTAINERS = {
    ".mp4": _Container(_H264, "aac", _MOVFLAGS),
    ".m4v": _Container(_H264, "aac", _MOVFLAGS),
    ".mov": _Container(_H264, "aac", _MOVFLAGS),
    ".mkv": _Container(_H264, "aac"),
    ".webm": _Container(("libvpx-vp9", "libsvtav1"), "libopus"),
}
# Tags that describe the input file rather than what is in it.
_FILE_TAGS = {
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
    "alpha_mode",
}


def open_reader(
    path: str | Path,
    frame_rate: Fraction = Fraction(24),
    start: Fraction | float = Fraction(0),
    duration: Fraction | float | None = None,
) -> Reader:
    """Open a video file, an animated GIF, WebP or PNG, or a folder of numbered images.

    frame_rate: of a folder, which has none of its own; frames per second.
    start, duration: the part of a video file to read, in seconds (see VideoReader).
    Raises FileError if there is nothing readable at `path`, or no frame in that part.
    """
    path = Path(path)
    part = start > 0 or duration is not None
    if part and (path.is_dir() or path.suffix.lower() in images.ANIMATIONS_READ):
        raise FileError(f"A part can be read of video files only; {path} is read whole or not.")
    if path.is_dir():
        return images.FolderReader(path, frame_rate)
    with plain_errors("read", path):
        if not path.stat().st_size:
            raise FileError(f"{path} is empty.")
    if path.suffix.lower() in images.ANIMATIONS_READ:
        return images.AnimationReader(path)
    return VideoReader(path, start, duration)


def create_writer(
    path: str | Path,
    like: Reader,
    frame_rate: Fraction,
    *,
    crf: int = 18,
    codec: str | None = None,
    pixel_format: str | None = None,
    time_base: Fraction | None = None,
    sound: bool = True,
) -> Writer:
    """Start an output whose kind follows from `path`: an existing folder is filled with numbered
    PNG images, .gif, .webp and .apng become animations, anything else is video (see VideoWriter,
    also for the options, which concern video alone).

    like: the reader of the input; size, transparency, colours, sound and tags are taken from it.
    frame_rate: frames per second, on average.
    Raises FileError for an unknown suffix and for settings that don't go together.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix in _CONTAINERS and not path.is_dir():
        return VideoWriter(
            path, like, frame_rate, crf, codec, pixel_format, time_base=time_base, sound=sound
        )
    if codec or pixel_format:
        raise FileError(f"A codec and pixel format can be chosen for video only, not for {path}.")
    if path.is_dir():
        return images.FolderWriter(path, like)
    if suffix in images.ANIMATIONS_WRITTEN:
        return images.ANIMATIONS_WRITTEN[suffix](path, like, frame_rate)
    known = ", ".join([*_CONTAINERS, *images.ANIMATIONS_WRITTEN])
    raise FileError(f"Can't write {suffix or 'unnamed'} files; the name may end in {known}.")


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
        if not _disposition(stream) & cover:
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
        self._path = path
        self._start = start if start > 0 else -math.inf
        self._end = math.inf if duration is None else max(start, 0) + duration
        self.on_packet: Callable[[av.Packet], None] | None = None  # gets all but video, in order
        with self._errors():
            # Where a file can't be sought exactly, decoding has to begin earlier.
            earlier = [start - seconds for seconds in (0, 5, 10, 20)] if start > 0 else []
            for self._seek_to in (*earlier, None):
                if self._find_first():
                    break
            self._container = self._open()
        self._stream = _video_stream(self._container, path)
        self._decoder = _decoder(self._stream)
        self.metadata = _kept_tags(self._container)
        self.stream_metadata = _kept_tags(self._stream)
        if start > 0:
            self.stream_metadata.pop("timecode", None)  # the whole clip's
        self.other_streams, self.dropped = [], []  # streams to copy; descriptions of the rest
        for stream in self._container.streams:
            # PyAV crashes at streams without a codec.
            if stream.type in ("audio", "subtitle") and stream.codec_context is not None:
                self.other_streams.append(stream)
            elif stream is not self._stream and "timecode" not in stream.metadata:
                self.dropped.append(_describe(stream))

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return plain_errors("read", self._path, _AV_ERRORS)

    def _open(self) -> av.container.InputContainer:
        container = av.open(str(self._path), metadata_errors="replace")
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
            except (OSError, *_AV_ERRORS):
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
            self._path, width, height, Fraction(rate), count or None, has_alpha, stream.time_base
        )

    def __iter__(self) -> Iterator[Frame]:
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
                    if self.on_packet and (
                        shown is None or self._others_start <= shown < self._end
                    ):
                        self.on_packet(packet)
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
        except (OSError, *_AV_ERRORS) as error:
            raise FileError(
                f"{self._path} is damaged: it could be read up to "
                f"{float(max(time, 0) + self._skipped):.2f} s only "
                f"({getattr(error, 'strerror', None) or error}). Get a whole copy, or mend it with "
                "ffmpeg -i FILE MENDED_FILE."
            ) from error

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
            array = array.astype(np.float32) / 65535
        transpose, flip_rows, flip_columns = self._orientation
        if transpose:
            array = array.transpose(1, 0, 2)
        array = array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        return torch.from_numpy(np.array(array))

    def close(self) -> None:
        self._container.close()


class VideoWriter(Writer):
    """A video file in the container that the name's suffix stands for.

    The encoder is H.264 (VP9 in .webm) in 8-bit 4:2:0 unless `codec` and `pixel_format`, FFmpeg's
    names, say otherwise; `crf` is its quality, lower being better, for encoders that have one.
    Players need even sizes where chroma is subsampled, so the last column or row is then doubled.
    Pictures lose transparency, over black, in formats without it.

    Frames keep their exact times in .mp4 and .mov; .mkv and .webm round them to milliseconds.
    `time_base` is the grid in seconds on which all times lie (None: made for frames at
    `frame_rate` and for those at `like`'s times, evenly divided).

    Sound and subtitles are copied from `like` as they are if the container takes them. Other sound
    is encoded anew, and a warning says what is left out. Colour tags, pixel shape, titles and other
    tags are kept.
    """

    def __init__(
        self,
        path: Path,
        like: Reader,
        frame_rate: Fraction,
        crf: int = 18,
        codec: str | None = None,
        pixel_format: str | None = None,
        *,
        time_base: Fraction | None = None,
        sound: bool = True,
    ):
        self._path = path
        self._kind = _CONTAINERS[path.suffix.lower()]
        self._period = 1 / Fraction(frame_rate)
        self._from_layout: str | None = None
        self._last_pts: int | None = None
        self._last_duration = self._period
        codec = codec or _default_codec(self._kind)
        self._time_base = time_base or _time_base(like.info, frame_rate)
        self._colors, self._start, source = SCREEN, 0, None
        if isinstance(like, VideoReader):
            self._colors, source = like.colors, like
            self._start = round(like.video_start / self._time_base)
        self._copied: dict[int, av.stream.Stream] = {}
        self._encoded: dict[int, av.AudioStream] = {}

        with self._errors():
            self._container = av.open(str(path), "w", container_options=dict(self._kind.options))
            try:
                self._add_video(codec, frame_rate, crf, pixel_format, like.info)
                if source is not None:
                    self._container.metadata.update(source.metadata)
                    self._stream.metadata.update(source.stream_metadata)
                    self._set_aspect(source.sample_aspect_ratio)
                    self._shift = source.origin
                    if sound:
                        self._add_others(source)
                with plain_errors(f"encode with {self._stream.codec.name} to", path, _AV_ERRORS):
                    self._container.start_encoding()
            except BaseException:
                self.discard()
                raise
        if source is not None:
            source.on_packet = self._take

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return plain_errors("write", self._path, _AV_ERRORS)

    def _add_video(
        self, name: str, rate: Fraction, crf: int, pixel_format: str | None, info: ClipInfo
    ) -> None:
        try:
            codec = av.Codec(name, "w")
            if codec.type != "video":
                raise ValueError
            # FFmpeg would take the options of another encoder without a word.
            self._stream = self._container.add_stream(
                name, rate=rate, time_base=self._time_base, options=_quality(name, crf)
            )
        except ValueError as error:
            raise FileError(
                f"{name} is no video encoder for {self._path.suffix} files here; "
                f"try one of {', '.join(_encoders(self._container))}."
            ) from error
        known = [format.name for format in codec.video_formats or ()]
        pixel_format = pixel_format or _default_pixel_format(name, known, info.has_alpha)
        if known and pixel_format not in known:
            raise FileError(
                f"{name} has no pixel format {pixel_format}; it has {', '.join(known)}."
            )
        self._format = av.VideoFormat(pixel_format, 2, 2)
        self._alpha = any(component.is_alpha for component in self._format.components)
        self._deep = max(component.bits for component in self._format.components) > 8
        if info.has_alpha and not self._alpha:
            logger.warning(
                "%s in %s holds no transparency: it becomes black. .webm, .webp, .apng and .gif "
                "keep it.",
                pixel_format,
                self._path.suffix,
            )
        self._columns = _evened(info.width, self._format.chroma_width() < 2)
        self._rows = _evened(info.height, self._format.chroma_height() < 2)
        width, height = len(self._columns), len(self._rows)
        if (width, height) != (info.width, info.height):
            logger.warning(
                "%s needs even sides: %dx%d is written as %dx%d, the last row or column doubled.",
                pixel_format,
                info.width,
                info.height,
                width,
                height,
            )
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = pixel_format
        context = self._stream.codec_context
        context.colorspace, context.color_range = self._colors.space, self._colors.range
        context.color_primaries = self._colors.primaries
        context.color_trc = self._colors.transfer
        if "265" in name or "hevc" in name:
            with contextlib.suppress(AttributeError, ValueError):
                context.codec_tag = "hvc1"  # the one that Apple's players know

    def _set_aspect(self, aspect: Fraction) -> None:
        context = self._stream.codec_context
        context.sample_aspect_ratio = aspect
        if aspect != 1 and not re.search("264|265|hevc|mpeg4", context.name):
            # PyAV can't set it for the container, and these streams don't hold it themselves.
            logger.warning(
                "%s loses the pixels' shape, %s: they become square.", context.name, aspect
            )

    def _add_others(self, source: VideoReader) -> None:
        lost = list(source.dropped)
        for stream in source.other_streams:
            if self._can_hold(stream):
                self._copied[stream.index] = new = self._container.add_stream_from_template(stream)
            elif stream.type == "audio":
                self._encoded[stream.index] = new = self._add_encoded_audio(stream)
                logger.warning(
                    "%s files can't hold %s: it is encoded anew.",
                    self._path.suffix,
                    _describe(stream),
                )
            else:
                lost.append(_describe(stream))
                continue
            new.metadata.update(_kept_tags(stream))
            new.disposition = _disposition(stream)
        if lost:
            logger.warning("Left out, as it can't be kept: %s.", ", ".join(lost))

    def _can_hold(self, stream: av.stream.Stream) -> bool:
        """Tried on a file in memory: some containers refuse a stream only with the header."""
        try:
            with av.open(io.BytesIO(), "w", format=self._container.format.name) as trial:
                trial.add_stream_from_template(stream)
                trial.start_encoding()
        except (OSError, AttributeError, *_AV_ERRORS):
            return False
        return True

    def _add_encoded_audio(self, source: av.AudioStream) -> av.AudioStream:
        name = self._kind.audio
        rate = 48000 if name == "libopus" else source.codec_context.sample_rate
        stream = self._container.add_stream(name, rate=rate)
        stream.codec_context.layout = source.codec_context.layout.name
        stream.codec_context.bit_rate = 96000 * max(2, source.codec_context.channels)
        return stream

    def _take(self, packet: av.Packet) -> None:
        """Hand on one packet of the input's sound or subtitles."""
        with self._errors():
            index = packet.stream.index
            if index in self._encoded:
                for frame in packet.decode():
                    if frame.pts is not None:
                        frame.pts -= round(self._shift / frame.time_base)
                    self._container.mux(self._encoded[index].encode(frame))
            elif index in self._copied and packet.size:
                shift = round(self._shift / packet.time_base)
                pts, dts = packet.pts, packet.dts
                packet.pts = (dts if pts is None else pts) - shift
                packet.dts = (pts if dts is None else dts) - shift
                packet.stream = self._copied[index]
                self._container.mux(packet)

    def write(self, image: torch.Tensor, time: Fraction, duration: Fraction | None = None) -> None:
        pts = self._start + round(time / self._time_base)
        if self._last_pts is not None and pts <= self._last_pts:
            raise ValueError(f"the frame at {float(time):.6f} s does not come after the last one")
        self._last_pts, self._last_duration = pts, duration or self._period
        with self._errors():
            frame = self._frame(image)
            frame.pts, frame.time_base = pts, self._time_base
            self._mux(self._stream.encode(frame))

    def _frame(self, image: torch.Tensor) -> av.VideoFrame:
        channels = image.shape[-1]
        if channels == 4 and not self._alpha:
            scale = image[..., 3:].float() / (255 if image.dtype == torch.uint8 else 1)
            image, channels = (image[..., :3] * scale).to(image.dtype), 3
        image = image[self._rows][:, self._columns]
        if self._deep and image.dtype != torch.uint8:
            array = image.float().cpu().clamp(0, 1).mul(65535).round().numpy().astype(np.uint16)
            layout = "rgba64le" if channels == 4 else "rgb48le"
        else:
            array, layout = to_uint8(image).numpy(), "rgba" if channels == 4 else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=layout)
        if self._from_layout != layout:
            size = frame.width, frame.height
            self._from_layout = layout
            self._from_rgb = self._colors.converter(size, layout, self._format.name)
        return self._from_rgb(frame)

    def _mux(self, packets: list[av.Packet], final: bool = False) -> None:
        for packet in packets:
            # Encoders tell no durations. Containers take the clip's end from the last frame or, if
            # frames are stored in another order, from the last that is stored.
            last = packet.pts == self._last_pts or (final and packet is packets[-1])
            duration = self._last_duration if last else self._period
            packet.duration = round(duration / packet.time_base)
            self._container.mux(packet)

    def close(self) -> None:
        with self._errors():
            self._mux(self._stream.encode(None), final=True)
            for stream in self._encoded.values():
                self._container.mux(stream.encode(None))
            self._container.close()

    def discard(self) -> None:
        # Without its file, closing has no header to move to the front of gigabytes.
        with contextlib.suppress(OSError):
            self._path.unlink()
        with contextlib.suppress(OSError, *_AV_ERRORS):
            self._container.close()


def _quality(encoder: str, crf: int) -> dict[str, str]:
    options = {"cq" if encoder.endswith("_nvenc") else "crf": str(crf)}
    if encoder == "libx265":
        options["x265-params"] = "log-level=error"
    if encoder == "libvpx-vp9":
        options |= {"b": "0", "row-mt": "1"}  # a bit rate would be a ceiling to the quality
    return options


def _default_codec(kind: _Container) -> str:
    for name in kind.video:
        with contextlib.suppress(ValueError):
            return av.Codec(name, "w").name
    raise FileError(
        f"This build of PyAV has none of the encoders {', '.join(kind.video)}; "
        "install PyAV from PyPI (pip install av), or choose another codec."
    )


def _default_pixel_format(codec: str, known: list[str], has_alpha: bool) -> str:
    if has_alpha and codec == "libvpx-vp9" and "yuva420p" in known:
        return "yuva420p"
    return "yuv420p" if not known or "yuv420p" in known else known[0]


def _encoders(container: av.container.OutputContainer) -> list[str]:
    """The usual encoders, as far as they are at hand and the container takes them."""
    usual = "libx264 libx265 libsvtav1 libvpx-vp9 prores_ks ffv1 h264_nvenc hevc_nvenc av1_nvenc"
    return [name for name in usual.split() if name in container.supported_codecs]


def _evened(side: int, subsampled: bool) -> torch.Tensor:
    """Indices of the pixels to write along a side: all, and the last again if that evens it."""
    return torch.arange(side + side % 2 if subsampled else side).clamp(max=side - 1)


def _time_base(info: ClipInfo, rate: Fraction) -> Fraction:
    """A grid for frames at `rate` and, if it can be, for the input's frames and equal parts of
    their distance: input times are seldom as even as their rate promises.
    """
    parts = info.time_base * info.frame_rate / rate if info.frame_rate else info.time_base
    for grid in (_common(1 / Fraction(rate), parts), parts):
        if grid.denominator < 2**31:
            return grid
    return Fraction(1, 90000)


def _common(a: Fraction, b: Fraction) -> Fraction:
    """The largest step of which both are multiples."""
    return Fraction(
        math.gcd(a.numerator * b.denominator, b.numerator * a.denominator),
        a.denominator * b.denominator,
    )


def _kept_tags(holder: av.container.InputContainer | av.stream.Stream) -> dict[str, str]:
    return {key: value for key, value in holder.metadata.items() if key.lower() not in _FILE_TAGS}


def _describe(stream: av.stream.Stream) -> str:
    name = stream.codec_context.name if stream.codec_context else None
    return f"{name} {stream.type}" if name else f"{stream.type}"


def _disposition(stream: av.stream.Stream) -> int:
    """PyAV gives a Flag or a plain number, depending on its version."""
    return int(getattr(stream.disposition, "value", stream.disposition))
