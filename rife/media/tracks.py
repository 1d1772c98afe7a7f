"""The streams of a video file that is being written."""

import contextlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import torch

from .colors import Colors
from .conversion import ImageToFrame

_MAY_REPEAT_TIMES = 0x20000  # AVFMT_TS_NONSTRICT


class Track(Protocol):
    """One stream beside the picture."""

    stream: av.stream.Stream

    def write(self, item: av.Packet | av.AudioFrame) -> None:
        """Muxes one item, whose times are the output's."""

    def finish(self) -> None:
        """Muxes what is still held back."""


class CopiedTrack:
    """A stream of packets as they are, in order of time.

    Args:
        container: The file.
        stream: The stream that the packets come from.
    """

    def __init__(self, container: av.container.OutputContainer, stream: av.stream.Stream):
        self._container = container
        self.stream = container.add_stream_from_template(stream, opaque=True)
        # Of packets that a coarse clock gives one time, most containers want the second later.
        self._least_step = 0 if container.format.flags & _MAY_REPEAT_TIMES else 1
        # When the last packet is decoded, and when it ends; ticks of the stream's clock.
        self._last_dts: int | None = None
        self._last_end = 0

    def write(self, item: av.Packet) -> None:
        base = self.stream.time_base

        def rescale(ticks: int) -> int:
            return round(ticks * item.time_base / base)

        pts = None if item.pts is None else rescale(item.pts)
        dts = None if item.dts is None else rescale(item.dts)
        if dts is None:
            dts = self._last_end if pts is None else pts
        if self._last_dts is not None:
            dts = max(dts, self._last_dts + self._least_step)
        duration = rescale(item.duration or 0)
        item.pts = dts if pts is None else max(pts, dts)
        item.dts, item.duration = dts, duration
        item.time_base, item.stream = base, self.stream
        self._last_dts, self._last_end = dts, dts + duration
        self._container.mux(item)

    def finish(self) -> None:
        pass


@dataclass(frozen=True)
class VideoSettings:
    """How a video is encoded.

    Attributes:
        encoder: FFmpeg's name.
        pixel_format: FFmpeg's name.
        options: The encoder's.
        width: Of the images to encode.
        height: Of the images to encode.
        rate: Frames a second, on average.
        time_base: Seconds of which all times are multiples.
        colors: Tags, and how YUV relates to RGB.
        aspect: Width of a pixel over its height.
    """

    encoder: str
    pixel_format: str
    options: dict[str, str]
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    colors: Colors
    aspect: Fraction

    @property
    def columns(self) -> torch.Tensor:
        """Indices of the columns to encode: all, and the last again if their number is odd and must
        be even."""
        return _even_indices(self.width, self._format.chroma_width() < 2)

    @property
    def rows(self) -> torch.Tensor:
        """Indices of the rows to encode, likewise."""
        return _even_indices(self.height, self._format.chroma_height() < 2)

    @property
    def _format(self) -> av.VideoFormat:
        return av.VideoFormat(self.pixel_format, 2, 2)


class VideoTrack:
    """The video stream, encoded frame by frame.

    Args:
        container: The file.
        settings: How images are encoded.
    """

    def __init__(self, container: av.container.OutputContainer, settings: VideoSettings):
        self._container, self._settings = container, settings
        rows, columns = settings.rows, settings.columns
        self._frames = ImageToFrame(settings.pixel_format, settings.colors, rows, columns)
        self._last: tuple[int, Fraction] | None = None  # pts, seconds it lasts
        self._count = 0
        # FFmpeg silently takes the options of other encoders.
        self.stream = container.add_stream(
            settings.encoder, rate=settings.rate, time_base=settings.time_base,
            options=settings.options,
        )  # fmt: skip
        self.stream.width, self.stream.height = len(columns), len(rows)
        self.stream.pix_fmt = settings.pixel_format
        context, colors = self.stream.codec_context, settings.colors
        context.colorspace, context.color_range = colors.space, colors.range
        context.color_primaries, context.color_trc = colors.primaries, colors.transfer
        context.sample_aspect_ratio = settings.aspect
        if "265" in settings.encoder or "hevc" in settings.encoder:
            with contextlib.suppress(AttributeError, ValueError):
                context.codec_tag = "hvc1"  # the one that Apple's players know

    def write(self, image: torch.Tensor, pts: int, duration: Fraction) -> None:
        """Encodes an image.

        Args:
            image: (H, W, 3 or 4), uint8 or floating point in [0, 1].
            pts: When it is shown, in steps of the settings' time base.
            duration: Seconds on screen, if it is the last one.
        """
        frame = self._frames.convert(image)
        frame.pts, frame.time_base = pts, self._settings.time_base
        self._last = pts, duration
        self._count += 1
        self._mux(self.stream.encode(frame))

    def finish(self) -> None:
        """Muxes what the encoder still holds."""
        self._mux(self.stream.encode(None), is_end=True)

    def _mux(self, packets: list[av.Packet], is_end: bool = False) -> None:
        for packet in packets:
            # Encoders tell no durations. Containers take the clip's end from the last frame or, if
            # frames are stored in another order, from the last that is stored.
            is_last = packet.pts == self._last[0] or (is_end and packet is packets[-1])
            duration = self._last[1] if is_last else 1 / self._settings.rate
            packet.duration = round(duration / packet.time_base)
            if self._count <= 2:
                packet.dts = packet.pts  # x265 has none for so few frames, and gives any number
            self._container.mux(packet)


def _even_indices(side: int, must_be_even: bool) -> torch.Tensor:
    return torch.arange(side + side % 2 if must_be_even else side).clamp(max=side - 1)
