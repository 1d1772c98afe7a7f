"""The streams of a video file that is being written: each takes what it is given and muxes it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
import torch

from .base import to_uint8
from .colors import Colors

# Seconds between where sound should go on and where it does. What is less is the rounding of its
# times; what is more is filled with silence, or left out.
_JUMP = Fraction(1, 200)
_MAY_REPEAT_TIMES = 0x20000  # AVFMT_TS_NONSTRICT
# What sound of so many channels is taken for that doesn't name them, as FFmpeg guesses it; the
# second where an encoder knows no other.
_UNNAMED = {
    1: ("mono",), 2: ("stereo",), 3: ("2.1", "3.0"), 4: ("4.0", "quad"), 5: ("5.0",), 6: ("5.1",),
    7: ("6.1",), 8: ("7.1",), 16: ("hexadecagonal",),
}  # fmt: skip
# By number of channels, the layouts to which others are mixed.
_MIXES = {8: "7.1", 6: "5.1", 2: "stereo", 1: "mono"}
# FFmpeg's sample formats as NumPy's.
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


class Track(Protocol):
    """One stream beside the picture."""

    stream: av.stream.Stream

    def write(self, item: av.Packet | av.AudioFrame) -> None:
        """Mux one item, whose times are the output's."""

    def finish(self) -> None:
        """Mux what is still held back."""


class CopiedTrack:
    """Packets as they are, in order of time."""

    def __init__(self, container: av.container.OutputContainer, stream: av.stream.Stream):
        self._container = container
        self.stream = container.add_stream_from_template(stream, opaque=True)
        # Of packets that a coarse clock gives one time, most containers want the second later.
        self._least_step = 0 if container.format.flags & _MAY_REPEAT_TIMES else 1
        self._last: int | None = None  # decoding time, in the stream's own time base
        self._due = 0

    def write(self, item: av.Packet) -> None:
        base = self.stream.time_base

        def to_base(ticks: int) -> int:
            return round(ticks * item.time_base / base)

        pts, dts = (None if t is None else to_base(t) for t in (item.pts, item.dts))
        dts = self._due if dts is None and pts is None else pts if dts is None else dts
        if self._last is not None:
            dts = max(dts, self._last + self._least_step)
        duration = to_base(item.duration or 0)
        item.pts = dts if pts is None else max(pts, dts)
        item.dts, item.duration = dts, duration
        item.time_base, item.stream = base, self.stream
        self._last, self._due = dts, dts + duration
        self._container.mux(item)

    def finish(self) -> None:
        pass


class SoundTrack:
    """Sound that is encoded anew, in one piece: silence where some is missing, and nothing twice.

    Raises:
        ValueError: The encoder can't take such sound, however it is mixed.
    """

    def __init__(
        self, container: av.container.OutputContainer, encoder: str, source: av.AudioStream
    ):
        self._container = container
        layout = source.codec_context.layout
        self._relabelled, self.layout = choose_layout(encoder, layout)
        self._channels = layout.nb_channels
        self.stream = container.add_stream(encoder, rate=_choose_rate(encoder, source))
        context = self.stream.codec_context
        context.layout = self.layout
        formats = [format.name for format in av.Codec(encoder, "w").audio_formats or ()]
        context.format = next((f for f in ("fltp", "flt") if f in formats), formats[0])
        context.bit_rate = 96000 * max(2, context.layout.nb_channels)
        self._resampler, self._kind = None, None
        self._end: Fraction | None = None  # seconds; where the sound so far ends

    def write(self, item: av.AudioFrame) -> None:
        for frame in self._continue(item):
            self._encode(frame)

    def _continue(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """The frame so that it begins where the last one ended."""
        rate, start = frame.sample_rate, self._end
        if frame.pts is not None and frame.time_base:
            own = frame.pts * frame.time_base
            start = own if start is None or abs(own - start) > _JUMP else start
        start = start or Fraction(0)
        if self._end is not None and start > self._end:
            missing = round((start - self._end) * rate)
            while missing > 0:
                count = min(missing, rate)
                silence = _rebuilt(frame, _silence(frame, count), frame.layout.name)
                yield self._placed(silence, self._end)
                missing -= count
            start = self._end
        if self._end is not None and start < self._end:
            doubled = round((self._end - start) * rate)
            if doubled >= frame.samples:
                return
            frame = _rebuilt(frame, _to_array(frame)[doubled:], frame.layout.name)
            start = self._end
        yield self._placed(frame, start)

    def _placed(self, frame: av.AudioFrame, start: Fraction) -> av.AudioFrame:
        rate = frame.sample_rate
        first = round(start * rate)
        self._end = Fraction(first + frame.samples, rate)
        if frame.layout.nb_channels == self._channels and self._relabelled:
            frame = _rebuilt(frame, _to_array(frame), self._relabelled)
        frame.pts, frame.time_base = first, Fraction(1, rate)
        return frame

    def _encode(self, frame: av.AudioFrame) -> None:
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        context = self.stream.codec_context
        if kind != self._kind:
            self._drain()
            self._kind = kind
            self._resampler = av.AudioResampler(context.format, context.layout, context.rate)
        for ready in self._resampler.resample(frame):
            self._container.mux(self.stream.encode(ready))

    def _drain(self) -> None:
        if self._resampler is not None:
            for ready in self._resampler.resample(None):
                if ready is not None:
                    self._container.mux(self.stream.encode(ready))

    def finish(self) -> None:
        self._drain()
        self._container.mux(self.stream.encode(None))


def _choose_rate(encoder: str, source: av.AudioStream) -> int:
    rates = av.Codec(encoder, "w").audio_rates
    own = source.codec_context.sample_rate
    if not rates or own in rates:
        return own
    return min((rate for rate in rates if rate > own), default=max(rates))


def choose_layout(encoder: str, layout: av.AudioLayout) -> tuple[str | None, str]:
    """The name to give to a source's layout (None: its own), and the layout to encode it in."""
    named = not layout.name.endswith("channels")
    count = layout.nb_channels
    names = (layout.name,) if named else _UNNAMED.get(count, ())
    for name in names:
        if _takes(encoder, name):
            return (None if named else name), name
    for channels, name in _MIXES.items():
        if names and channels <= count and _takes(encoder, name):
            return (None if named else names[0]), name
    raise ValueError(f"{encoder} can't take {layout.name}")


def _takes(encoder: str, layout: str) -> bool:
    try:
        context = av.CodecContext.create(encoder, "w")
        context.layout, context.rate = layout, 48000
        context.format = av.Codec(encoder, "w").audio_formats[0].name
        context.open()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _to_array(frame: av.AudioFrame) -> np.ndarray:
    """(samples, channels). PyAV's own way crashes at eight channels, one plane each."""
    kind = _SAMPLE_TYPES[frame.format.packed.name]
    if not frame.format.is_planar:
        flat = np.frombuffer(frame.planes[0], kind)
        count = frame.samples * frame.layout.nb_channels
        return flat[:count].reshape(-1, frame.layout.nb_channels)
    planes = frame.planes[: frame.layout.nb_channels]
    return np.stack([np.frombuffer(plane, kind)[: frame.samples] for plane in planes], 1)


def _rebuilt(frame: av.AudioFrame, samples: np.ndarray, layout: str) -> av.AudioFrame:
    """A frame like `frame`, but for its samples, (samples, channels), and its layout."""
    new = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples.reshape(1, -1)), frame.format.packed.name, layout
    )
    new.sample_rate = frame.sample_rate
    return new


def _silence(frame: av.AudioFrame, count: int) -> np.ndarray:
    kind = _SAMPLE_TYPES[frame.format.packed.name]
    return np.full((count, frame.layout.nb_channels), 128 if kind == "u1" else 0, kind)


@dataclass(frozen=True)
class VideoSettings:
    """How pictures are stored."""

    encoder: str
    pixel_format: str
    options: dict[str, str]
    width: int  # of the pictures that come
    height: int
    rate: Fraction  # frames a second, on average
    time_base: Fraction  # seconds
    colors: Colors
    aspect: Fraction  # of a pixel

    @property
    def columns(self) -> torch.Tensor:
        """Indices of the columns to write."""
        return _evened(self.width, av.VideoFormat(self.pixel_format, 2, 2).chroma_width() < 2)

    @property
    def rows(self) -> torch.Tensor:
        return _evened(self.height, av.VideoFormat(self.pixel_format, 2, 2).chroma_height() < 2)


class VideoTrack:
    """The picture."""

    def __init__(self, container: av.container.OutputContainer, settings: VideoSettings):
        self._container, self._settings = container, settings
        self._format = av.VideoFormat(settings.pixel_format, 2, 2)
        self._alpha = any(component.is_alpha for component in self._format.components)
        self._deep = max(component.bits for component in self._format.components) > 8
        self._rows, self._columns = settings.rows, settings.columns
        self._from_layout: str | None = None
        self._last: tuple[int, Fraction] | None = None  # pts, seconds it lasts
        self._count = 0
        # FFmpeg would take the options of another encoder without a word.
        self.stream = container.add_stream(
            settings.encoder, rate=settings.rate, time_base=settings.time_base,
            options=settings.options,
        )  # fmt: skip
        self.stream.width, self.stream.height = len(self._columns), len(self._rows)
        self.stream.pix_fmt = settings.pixel_format
        context, colors = self.stream.codec_context, settings.colors
        context.colorspace, context.color_range = colors.space, colors.range
        context.color_primaries, context.color_trc = colors.primaries, colors.transfer
        context.sample_aspect_ratio = settings.aspect
        if "265" in settings.encoder or "hevc" in settings.encoder:
            with contextlib.suppress(AttributeError, ValueError):
                context.codec_tag = "hvc1"  # the one that Apple's players know

    def write(self, image: torch.Tensor, pts: int, duration: Fraction) -> None:
        """Add a picture.

        Args:
            image: (H, W, 3 or 4), uint8 or floating point in [0, 1].
            pts: In steps of the settings' time base.
            duration: Seconds on screen, if it is the last one.
        """
        frame = self._to_frame(image)
        frame.pts, frame.time_base = pts, self._settings.time_base
        self._last = pts, duration
        self._count += 1
        self._mux(self.stream.encode(frame))

    def finish(self) -> None:
        """Mux what the encoder still holds."""
        self._mux(self.stream.encode(None), final=True)

    def _to_frame(self, image: torch.Tensor) -> av.VideoFrame:
        channels = image.shape[-1]
        if channels == 4 and not self._alpha:
            scale = image[..., 3:].float() / (255 if image.dtype == torch.uint8 else 1)
            image, channels = (image[..., :3] * scale).to(image.dtype), 3
        image = image[self._rows][:, self._columns]
        if self._deep and image.dtype != torch.uint8:
            array = self._settings.colors.to_16_bits(image, self._format.name)
            layout = "rgba64le" if channels == 4 else "rgb48le"
        else:
            array, layout = to_uint8(image).numpy(), "rgba" if channels == 4 else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=layout)
        if self._from_layout != layout:
            size = frame.width, frame.height
            self._from_layout = layout
            self._from_rgb = self._settings.colors.converter(size, layout, self._format.name)
        return self._from_rgb(frame)

    def _mux(self, packets: list[av.Packet], final: bool = False) -> None:
        for packet in packets:
            # Encoders tell no durations. Containers take the clip's end from the last frame or, if
            # frames are stored in another order, from the last that is stored.
            last = packet.pts == self._last[0] or (final and packet is packets[-1])
            duration = self._last[1] if last else 1 / self._settings.rate
            packet.duration = round(duration / packet.time_base)
            if self._count <= 2:
                packet.dts = packet.pts  # x265 has none for so few frames, and gives any number
            self._container.mux(packet)


def _evened(side: int, is_subsampled: bool) -> torch.Tensor:
    """Indices of the pixels to write along a side: all, and the last again if that evens it."""
    return torch.arange(side + side % 2 if is_subsampled else side).clamp(max=side - 1)
