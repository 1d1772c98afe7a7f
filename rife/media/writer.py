"""Writing videos, through PyAV."""

import contextlib
import io
import logging
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from ..fileio import FileError, plain_errors
from .base import ClipInfo, Reader, Writer, to_uint8
from .colors import SCREEN
from .reader import VideoReader
from .streams import AV_ERRORS, describe, disposition, file_url, kept_tags

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Container:
    video: tuple[str, ...]  # default encoders, best first
    audio: str  # encoder for sound that can't be copied
    options: tuple[tuple[str, str], ...] = ()


_H264 = ("libx264", "libopenh264")
# Arbitrary tags, such as ComfyUI's workflows, survive in MP4 with use_metadata_tags only.
_MOVFLAGS = (("movflags", "+faststart+use_metadata_tags"),)
CONTAINERS = {
    ".mp4": _Container(_H264, "aac", _MOVFLAGS),
    ".m4v": _Container(_H264, "aac", _MOVFLAGS),
    ".mov": _Container(_H264, "aac", _MOVFLAGS),
    ".mkv": _Container(_H264, "aac"),
    ".webm": _Container(("libvpx-vp9", "libsvtav1"), "libopus"),
}


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
        self._kind = CONTAINERS[path.suffix.lower()]
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
            self._container = av.open(
                file_url(path), "w", container_options=dict(self._kind.options)
            )
            try:
                self._add_video(codec, frame_rate, crf, pixel_format, like.info)
                if source is not None:
                    self._container.metadata.update(source.metadata)
                    self._stream.metadata.update(source.stream_metadata)
                    self._set_aspect(source.sample_aspect_ratio)
                    self._shift = source.origin
                    if sound:
                        self._add_others(source)
                with plain_errors(f"encode with {self._stream.codec.name} to", path, AV_ERRORS):
                    self._container.start_encoding()
            except BaseException:
                self.discard()
                raise
        self._source = source
        if source is not None:
            source.copied_streams, source.decoded_streams = self._copied, self._encoded

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return plain_errors("write", self._path, AV_ERRORS)

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
        self._colors = self._colors.stored_as(pixel_format)
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
                    describe(stream),
                )
            else:
                lost.append(describe(stream))
                continue
            new.metadata.update(kept_tags(stream))
            new.disposition = disposition(stream)
        if lost:
            logger.warning("Left out, as it can't be kept: %s.", ", ".join(lost))

    def _can_hold(self, stream: av.stream.Stream) -> bool:
        """Tried on a file in memory: some containers refuse a stream only with the header."""
        try:
            with av.open(io.BytesIO(), "w", format=self._container.format.name) as trial:
                trial.add_stream_from_template(stream)
                trial.start_encoding()
        except (OSError, AttributeError, *AV_ERRORS):
            return False
        return True

    def _add_encoded_audio(self, source: av.AudioStream) -> av.AudioStream:
        name = self._kind.audio
        rate = 48000 if name == "libopus" else source.codec_context.sample_rate
        stream = self._container.add_stream(name, rate=rate)
        stream.codec_context.layout = source.codec_context.layout.name
        stream.codec_context.bit_rate = 96000 * max(2, source.codec_context.channels)
        return stream

    def _mux_queued(self) -> None:
        """Write the sound and subtitles that were read since the last call."""
        queue = self._source.queue if self._source else ()
        while queue:
            index, item = queue.popleft()
            if index in self._encoded:
                if item.pts is not None:
                    item.pts -= round(self._shift / item.time_base)
                self._container.mux(self._encoded[index].encode(item))
            else:
                shift = round(self._shift / item.time_base)
                pts, dts = item.pts, item.dts
                item.pts = (dts if pts is None else pts) - shift
                item.dts = (pts if dts is None else dts) - shift
                item.stream = self._copied[index]
                self._container.mux(item)

    def write(self, image: torch.Tensor, time: Fraction, duration: Fraction | None = None) -> None:
        pts = self._start + round(time / self._time_base)
        if self._last_pts is not None and pts <= self._last_pts:
            raise ValueError(f"the frame at {float(time):.6f} s does not come after the last one")
        self._last_pts, self._last_duration = pts, duration or self._period
        with self._errors():
            self._mux_queued()
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
            array = self._colors.to_16_bits(image, self._format.name)
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
            self._mux_queued()
            self._mux(self._stream.encode(None), final=True)
            for stream in self._encoded.values():
                self._container.mux(stream.encode(None))
            self._container.close()

    def discard(self) -> None:
        # Without its file, closing has no header to move to the front of gigabytes.
        with contextlib.suppress(OSError):
            self._path.unlink()
        with contextlib.suppress(OSError, *AV_ERRORS):
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
