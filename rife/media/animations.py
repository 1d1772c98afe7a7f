"""Animated pictures (GIF, WebP, APNG), through Pillow.

Pillow writes an animation only from all of its frames at once. Here frames are encoded one by one
and put into the file's containers as they come, so that memory doesn't grow with the clip.
"""

import contextlib
import io
import logging
import math
import struct
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import torch
from PIL import GifImagePlugin, Image

from ..fileio import FileError, raise_file_errors
from .base import ClipInfo, Frame, Reader, Writer
from .pictures import (
    PILLOW_ERRORS,
    has_16_bits,
    is_transparent,
    open_image,
    png_chunk,
    rgb_profile,
    to_picture,
    to_tensor,
)

logger = logging.getLogger(__name__)


ANIMATIONS_READ = {".gif", ".webp", ".apng", ".png"}


class AnimationReader(Reader):
    """An animated GIF, WebP or PNG, with the durations that browsers show: GIF frames of less
    than 20 ms last 100 ms.

    All frames are decoded once at the start, for the true frame rate, for whether anything is
    transparent, and so that damage is known before work begins. Frames are uint8 RGB or RGBA.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._path = path
        self._image = open_image(path)
        try:
            with self._errors():
                self._read_all()
        except BaseException:
            self._image.close()
            raise

    def _read_all(self) -> None:
        if has_16_bits(self._image):
            logger.warning("%s has 16 bits a channel; it is read with 8.", self._path)
        # A PNG may hold a picture for viewers without animation, which is no part of it.
        self._first = 1 if getattr(self._image, "default_image", False) else 0
        count = getattr(self._image, "n_frames", 1) - self._first
        has_alpha = False
        self._durations = []
        for frame in self._frames(count):
            self._durations.append(self._duration())
            has_alpha |= is_transparent(frame)
        if self._image.format == "GIF" and not _is_whole_gif(self._path.read_bytes()):
            self.report_damage(
                f"{self._path} is damaged or cut short after {float(sum(self._durations)):.2f} s; "
                f"{count} frames could be read."
            )
        self.icc_profile = rgb_profile(self._image)
        self.plays = self._image.info.get("loop", 1 if self._image.format == "GIF" else 0)
        if self._image.format == "GIF" and self._image.info.get("loop"):
            self.plays += 1  # a GIF counts the repetitions after the first showing
        rate = count / sum(self._durations)
        grid = _common_step(self._durations)
        self.info = ClipInfo(self._path, *self._image.size, rate, count, has_alpha, grid)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return raise_file_errors("read", self._path, PILLOW_ERRORS)

    def _frames(self, count: int) -> Iterator[Image.Image]:
        for index in range(self._first, self._first + count):
            self._image.seek(index)
            self._image.load()
            yield self._image

    def _duration(self) -> Fraction:
        milliseconds = self._image.info.get("duration", 0)
        if milliseconds < (20 if self._image.format == "GIF" else 1):
            milliseconds = 100
        # APNG has fractions of two 16-bit numbers, which Pillow gives as a float.
        return Fraction(milliseconds / 1000).limit_denominator(65535)

    def _read_frames(self) -> Generator[Frame, None, None]:
        time = Fraction(0)
        frames = self._frames(len(self._durations))
        for duration in self._durations:
            with self._errors():
                tensor = to_tensor(next(frames), self.info.has_alpha)
            yield Frame(tensor, time, duration)
            time += duration

    def close(self) -> None:
        self._image.close()


class _AnimationWriter(Writer):
    """Holds each frame until the next one tells how long it lasts.

    Times become whole steps of the format's clock. It is the times that are rounded, not the
    durations, so that the animation's length is right whatever the number of frames. Of frames too
    close to be shown one after the other, the last is, which a warning says at the end; what lasts
    longer than a frame may is written as several.

    Raises FileError if frames are too close on average.
    """

    _clock: int  # steps a second
    _shortest = 1  # steps that a frame may last
    _longest: int
    _faster = ".mp4"  # what shows more frames a second

    def __init__(self, path: Path, like: Reader, frame_rate: Fraction):
        limit = self._clock // self._shortest
        if frame_rate > limit:
            raise FileError(
                f"Can't write {path}: {path.suffix} shows at most {limit} frames per second; write "
                f"a {self._faster} file instead, or fewer frames."
            )
        if like.info.is_deep:
            logger.warning("%s holds 8 bits a channel, the input has more.", path.suffix)
        self._path, self._like = path, like
        self._period = 1 / Fraction(frame_rate)
        # The latest picture, and the steps at which it begins and, if none follows, ends.
        self._waiting: tuple[Image.Image, int, int] | None = None
        self._count = self._left_out = 0
        with raise_file_errors("write", path):
            self._file = path.open("wb")

    def write(self, image: torch.Tensor, time: Fraction, duration: Fraction | None = None) -> None:
        picture = to_picture(image).convert("RGBA" if self._like.info.has_alpha else "RGB")
        start = round(time * self._clock)
        end = round((time + (duration or self._period)) * self._clock)
        if self._waiting and start - self._waiting[1] < self._shortest:
            start = self._waiting[1]
            self._left_out += 1
        elif self._waiting:
            self._write_waiting(start)
        self._waiting = picture, start, max(end, start + self._shortest)

    def _write_waiting(self, end: int) -> None:
        picture, start, _ = self._waiting
        parts = math.ceil((end - start) / self._longest)
        bounds = [start + (end - start) * part // parts for part in range(parts + 1)]
        with raise_file_errors("write", self._path, PILLOW_ERRORS):
            for begin, stop in pairwise(bounds):
                if not self._count:
                    self._file.write(self._header(picture))
                self._file.write(self._frame(picture, stop - begin))
                self._count += 1

    def close(self) -> None:
        if self._waiting:
            self._write_waiting(self._waiting[2])
        with raise_file_errors("write", self._path):
            if self._count:
                self._finish()
            self._file.close()
        if self._left_out:
            logger.warning(
                "%s can't show frames less than %g ms apart: %d were left out.",
                *(self._path.suffix, 1000 * self._shortest / self._clock, self._left_out),
            )

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    @abstractmethod
    def _header(self, first: Image.Image) -> bytes: ...

    @abstractmethod
    def _frame(self, picture: Image.Image, steps: int) -> bytes: ...

    @abstractmethod
    def _finish(self) -> None: ...


class GifWriter(_AnimationWriter):
    """An animated GIF; each frame has a palette of its own, and pixels are opaque or not at all."""

    _clock = 100
    _shortest = 2  # players take 100 ms instead of less
    _longest = 0xFFFF
    _faster = ".webp or .mp4"

    def _header(self, first: Image.Image) -> bytes:
        screen = b"GIF89a" + struct.pack("<HHBBB", *first.size, 0, 0, 0)
        if self._like.plays == 1:
            return screen
        loop = struct.pack("<BHB", 1, min(max(self._like.plays - 1, 0), 0xFFFF), 0)
        return screen + b"!\xff\x0bNETSCAPE2.0\x03" + loop

    def _frame(self, picture: Image.Image, steps: int) -> bytes:
        colours = picture.convert("RGB")
        # Octree is ten times as fast as Pillow's default, and closer. One is left for transparency.
        palette = colours.quantize(255, Image.Quantize.FASTOCTREE)
        indices = colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        options = {"duration": steps * 10, "include_color_table": True, "disposal": 1}
        if picture.mode == "RGBA":
            indices.putpalette((palette.getpalette() + [0] * 768)[:768])
            indices.paste(255, mask=picture.getchannel("A").point(lambda a: 255 * (a < 128)))
            options |= {"transparency": 255, "disposal": 2}
        return b"".join(GifImagePlugin.getdata(indices, **options))

    def _finish(self) -> None:
        self._file.write(b";")


class ApngWriter(_AnimationWriter):
    """A lossless animated PNG."""

    _clock = 1000
    _longest = 0xFFFF * _clock
    _sequence = 0

    def _header(self, first: Image.Image) -> bytes:
        chunks = dict(_png_chunks(first, self._like.icc_profile))
        header = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", chunks[b"IHDR"])
        self._control_at = len(header)
        header += self._control()
        if b"iCCP" in chunks:
            header += png_chunk(b"iCCP", chunks[b"iCCP"])
        return header

    def _control(self) -> bytes:
        return png_chunk(b"acTL", struct.pack(">II", self._count, self._like.plays))

    def _number(self) -> bytes:
        self._sequence += 1
        return struct.pack(">I", self._sequence - 1)

    def _frame(self, picture: Image.Image, steps: int) -> bytes:
        # Numerator and denominator have 16 bits; beyond 65 s this may be the nearest such fraction.
        delay = 1 / Fraction(self._clock, steps).limit_denominator(0xFFFF)
        frame = struct.pack(">4I2H2B", *picture.size, 0, 0, *delay.as_integer_ratio(), 0, 0)
        parts = [png_chunk(b"fcTL", self._number() + frame)]
        for kind, data in _png_chunks(picture):
            if kind == b"IDAT":
                first = not self._count
                parts.append(
                    png_chunk(b"IDAT", data) if first else png_chunk(b"fdAT", self._number() + data)
                )
        return b"".join(parts)

    def _finish(self) -> None:
        self._file.write(png_chunk(b"IEND", b""))
        self._file.seek(self._control_at)
        self._file.write(self._control())


class WebpWriter(_AnimationWriter):
    """An animated WebP of good, not lossless, quality."""

    _clock = 1000
    _longest = 0xFFFFFF
    _quality = 90

    def _header(self, first: Image.Image) -> bytes:
        icc = self._like.icc_profile
        flags = 0x02 | (0x10 if first.mode == "RGBA" else 0) | (0x20 if icc else 0)
        size = b"".join((side - 1).to_bytes(3, "little") for side in first.size)
        return (
            b"RIFF\0\0\0\0WEBP"
            + _riff_chunk(b"VP8X", struct.pack("<I", flags) + size)
            + (_riff_chunk(b"ICCP", icc) if icc else b"")
            + _riff_chunk(b"ANIM", struct.pack("<IH", 0, min(self._like.plays, 0xFFFF)))
        )

    def _frame(self, picture: Image.Image, steps: int) -> bytes:
        encoded = io.BytesIO()
        picture.save(encoded, "WEBP", quality=self._quality, method=4)
        data = encoded.getvalue()[12:]
        if data[:4] == b"VP8X":  # what it says of the file stands in the header already
            data = data[18:]
        numbers = (0, 0, picture.width - 1, picture.height - 1, steps)
        place = b"".join(number.to_bytes(3, "little") for number in numbers)
        return _riff_chunk(b"ANMF", place + b"\x02" + data)  # 2: replace, don't blend

    def _finish(self) -> None:
        size = self._file.tell() - 8
        if size > 0xFFFFFFFF:
            raise FileError(f"{self._path} is beyond the 4 GB of WebP; write a .mp4 file instead.")
        self._file.seek(4)
        self._file.write(struct.pack("<I", size))


ANIMATIONS_WRITTEN = {".gif": GifWriter, ".webp": WebpWriter, ".apng": ApngWriter}


def _is_whole_gif(data: bytes) -> bool:
    """Whether block follows block up to the end; Pillow stops or skips where none does."""

    def table_size(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at = 13 + table_size(data[10])
    try:
        while (kind := data[at : at + 1]) != b";":
            if kind == b"!":
                at += 2
            elif kind == b",":
                at += 11 + table_size(data[at + 9])
            else:
                return False
            while data[at]:  # the length of a part of the block
                at += 1 + data[at]
            at += 1
    except IndexError:
        return False
    return True


def _common_step(durations: Sequence[Fraction]) -> Fraction:
    """The largest step of which all are multiples; microseconds, if it would be less."""
    denominator = math.lcm(*(duration.denominator for duration in durations))
    step = Fraction(math.gcd(*(int(duration * denominator) for duration in durations)), denominator)
    return max(step, Fraction(1, 10**6))


def _png_chunks(
    image: Image.Image, icc_profile: bytes | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the chunks of `image` as a PNG."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=4, icc_profile=icc_profile)
    data, at = encoded.getvalue(), 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += length + 12


def _riff_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
