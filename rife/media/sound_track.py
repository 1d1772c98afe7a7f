"""Sound that is encoded anew for a video file that is being written."""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

# Seconds. Between where sound should go on and where it does, less is the rounding of its times,
# and more is filled with silence, or left out.
_LEAST_JUMP = Fraction(1, 200)
# Number of channels -> the layouts to assume for sound that names none: first the one that FFmpeg
# guesses, then one for encoders that don't know that.
_GUESSED_LAYOUTS = {
    1: ("mono",), 2: ("stereo",), 3: ("2.1", "3.0"), 4: ("4.0", "quad"), 5: ("5.0",), 6: ("5.1",),
    7: ("6.1",), 8: ("7.1",), 16: ("hexadecagonal",),
}  # fmt: skip
# Number of channels -> the layout to which sound of as many channels, or more, is mixed.
_MIXES = {8: "7.1", 6: "5.1", 2: "stereo", 1: "mono"}
# FFmpeg's sample formats as NumPy's.
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_BIT_RATE = 96000  # of a channel


class SoundTrack:
    """A stream of sound that is encoded anew, in one piece: silence where some is missing, and
    nothing twice.

    Args:
        container: The file.
        encoder: FFmpeg's name.
        source: The stream that the sound comes from.

    Raises:
        ValueError: The encoder can't take such sound, however it is mixed.
    """

    def __init__(
        self, container: av.container.OutputContainer, encoder: str, source: av.AudioStream
    ):
        self._container = container
        layout = source.codec_context.layout
        self._source_layout, encoded_layout = choose_layout(encoder, layout)
        self._channels = layout.nb_channels
        self.stream = container.add_stream(encoder, rate=_choose_rate(encoder, source))
        context = self.stream.codec_context
        context.layout = encoded_layout
        formats = [format.name for format in av.Codec(encoder, "w").audio_formats or ()]
        context.format = next((f for f in ("fltp", "flt") if f in formats), formats[0])
        context.bit_rate = _BIT_RATE * max(2, context.layout.nb_channels)
        self._resampler: av.AudioResampler | None = None
        self._resampler_input: tuple[str, str, int] | None = None  # format, layout, rate
        self._end: Fraction | None = None  # seconds; where the sound so far ends

    def write(self, item: av.AudioFrame) -> None:
        for frame in self._join(item):
            self._encode(frame)

    def finish(self) -> None:
        self._drain_resampler()
        self._container.mux(self.stream.encode(None))

    def _join(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """Yields the frame so that it begins where the last one ended: silence goes before it, or
        what was played already is cut off."""
        rate, start = frame.sample_rate, self._end
        if frame.pts is not None and frame.time_base:
            own_start = frame.pts * frame.time_base
            if start is None or abs(own_start - start) > _LEAST_JUMP:
                start = own_start
        start = start or Fraction(0)
        if self._end is not None and start > self._end:
            missing = round((start - self._end) * rate)
            while missing > 0:
                count = min(missing, rate)
                silence = _rebuild(frame, _silence(frame, count), frame.layout.name)
                yield self._place(silence, self._end)
                missing -= count
            start = self._end
        if self._end is not None and start < self._end:
            doubled = round((self._end - start) * rate)
            if doubled >= frame.samples:
                return
            frame = _rebuild(frame, _to_array(frame)[doubled:], frame.layout.name)
            start = self._end
        yield self._place(frame, start)

    def _place(self, frame: av.AudioFrame, start: Fraction) -> av.AudioFrame:
        """Returns the frame with its time, seconds, and its layout's name."""
        rate = frame.sample_rate
        first_sample = round(start * rate)
        self._end = Fraction(first_sample + frame.samples, rate)
        if frame.layout.nb_channels == self._channels and self._source_layout:
            frame = _rebuild(frame, _to_array(frame), self._source_layout)
        frame.pts, frame.time_base = first_sample, Fraction(1, rate)
        return frame

    def _encode(self, frame: av.AudioFrame) -> None:
        resampler_input = frame.format.name, frame.layout.name, frame.sample_rate
        context = self.stream.codec_context
        if resampler_input != self._resampler_input:
            self._drain_resampler()
            self._resampler_input = resampler_input
            self._resampler = av.AudioResampler(context.format, context.layout, context.rate)
        for resampled in self._resampler.resample(frame):
            self._container.mux(self.stream.encode(resampled))

    def _drain_resampler(self) -> None:
        if self._resampler is not None:
            for resampled in self._resampler.resample(None):
                if resampled is not None:
                    self._container.mux(self.stream.encode(resampled))


def choose_layout(encoder: str, layout: av.AudioLayout) -> tuple[str | None, str]:
    """Returns the name to give to a source's layout (None: its own), and the layout to encode it
    in.

    Raises:
        ValueError: The encoder can't take such sound, however it is mixed.
    """
    is_named = not layout.name.endswith("channels")
    count = layout.nb_channels
    names = (layout.name,) if is_named else _GUESSED_LAYOUTS.get(count, ())
    for name in names:
        if _can_encode(encoder, name):
            return (None if is_named else name), name
    for channels, name in _MIXES.items():
        if names and channels <= count and _can_encode(encoder, name):
            return (None if is_named else names[0]), name
    raise ValueError(f"{encoder} can't take {layout.name}")


def _can_encode(encoder: str, layout: str) -> bool:
    try:
        context = av.CodecContext.create(encoder, "w")
        context.layout, context.rate = layout, 48000
        context.format = av.Codec(encoder, "w").audio_formats[0].name
        context.open()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _choose_rate(encoder: str, source: av.AudioStream) -> int:
    """Returns the source's sample rate, or else the next higher one that the encoder takes."""
    rates = av.Codec(encoder, "w").audio_rates
    own = source.codec_context.sample_rate
    if not rates or own in rates:
        return own
    return min((rate for rate in rates if rate > own), default=max(rates))


def _to_array(frame: av.AudioFrame) -> np.ndarray:
    """Returns (samples, channels). PyAV's own `to_ndarray` crashes at eight channels, one plane
    each."""
    dtype = _SAMPLE_TYPES[frame.format.packed.name]
    if not frame.format.is_planar:
        flat = np.frombuffer(frame.planes[0], dtype)
        count = frame.samples * frame.layout.nb_channels
        return flat[:count].reshape(-1, frame.layout.nb_channels)
    planes = frame.planes[: frame.layout.nb_channels]
    return np.stack([np.frombuffer(plane, dtype)[: frame.samples] for plane in planes], 1)


def _rebuild(frame: av.AudioFrame, samples: np.ndarray, layout: str) -> av.AudioFrame:
    """Returns a frame like `frame`, but for its samples, (samples, channels), and its layout."""
    new = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples.reshape(1, -1)), frame.format.packed.name, layout
    )
    new.sample_rate = frame.sample_rate
    return new


def _silence(frame: av.AudioFrame, count: int) -> np.ndarray:
    """Returns so many samples of silence in the format of `frame`: (count, channels)."""
    dtype = _SAMPLE_TYPES[frame.format.packed.name]
    return np.full((count, frame.layout.nb_channels), 128 if dtype == "u1" else 0, dtype)
