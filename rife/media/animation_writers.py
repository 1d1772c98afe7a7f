"""Writing animated pictures (GIF, WebP, APNG), frames encoded by Pillow.

Pillow writes an animation only from all of its frames at once. Here frames are encoded one by one
and put into the file's containers as they come, so that memory doesn't grow with the clip.

FFmpeg's own muxers lose what these files have: PyAV (18.1) can't hand an ICC profile to them, and
they take the last frame's duration only before the first frame is written. Its GIFs take ten times
as long.
"""

import contextlib
import io
import logging
import math
import struct
from abc import abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import torch
from PIL import GifImagePlugin, Image

from ..fileio import FileError, raise_file_errors
from .base import Reader, Writer
from .pictures import PILLOW_ERRORS, PNG_SIGNATURE, png_chunk, to_picture

logger = logging.getLogger(__name__)


class _AnimationWriter(Writer):
    """Holds each frame until the next one tells how long it lasts.

    Times become whole steps of the format's clock. It is the times that are rounded, not the
    durations, so that the animation's length is right whatever the number of frames. Of frames too
    close to be shown one after the other, the last is, which a warning says at the end; what lasts
    longer than a frame may is written as several.

    Args:
        path: The file.
        like: The input; transparency, ICC profile and number of plays are taken from it.
        frame_rate: Frames a second, on average.

    Raises:
        FileError: Frames are too close on average, or the file can't be written.
    """

    _clock: int  # steps a second
    _shortest = 1  # steps that a frame may last
    _longest: int
    _faster = ".mp4"  # suffixes of formats that show more frames a second

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
        self._count = 0  # frames that are in the file
        self._left_out = 0
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
    def _header(self, first: Image.Image) -> bytes:
        """Returns what the file begins with, up to the first frame."""

    @abstractmethod
    def _frame(self, picture: Image.Image, steps: int) -> bytes:
        """Returns a frame that lasts so many steps."""

    @abstractmethod
    def _finish(self) -> None:
        """Writes what the file ends with, and numbers in its header that are known only now."""


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
        opaque = picture.convert("RGB")
        # Octree is ten times as fast as Pillow's default, and closer to the picture. One index is
        # left for transparency.
        palette = opaque.quantize(255, Image.Quantize.FASTOCTREE)
        indices = opaque.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
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
    _sequence = 0  # number of the next chunk that belongs to a frame

    def _header(self, first: Image.Image) -> bytes:
        chunks = dict(_png_chunks(first, self._like.icc_profile))
        header = PNG_SIGNATURE + png_chunk(b"IHDR", chunks[b"IHDR"])
        self._control_position = len(header)
        header += self._control_chunk()
        if b"iCCP" in chunks:
            header += png_chunk(b"iCCP", chunks[b"iCCP"])
        return header

    def _control_chunk(self) -> bytes:
        return png_chunk(b"acTL", struct.pack(">II", self._count, self._like.plays))

    def _next_sequence_number(self) -> bytes:
        self._sequence += 1
        return struct.pack(">I", self._sequence - 1)

    def _frame(self, picture: Image.Image, steps: int) -> bytes:
        # Numerator and denominator have 16 bits; beyond 65 s this may be the nearest such fraction.
        delay = 1 / Fraction(self._clock, steps).limit_denominator(0xFFFF)
        control = struct.pack(">4I2H2B", *picture.size, 0, 0, *delay.as_integer_ratio(), 0, 0)
        chunks = [png_chunk(b"fcTL", self._next_sequence_number() + control)]
        for kind, data in _png_chunks(picture):
            if kind != b"IDAT":
                continue
            if not self._count:  # the first frame is what viewers without animation show
                chunks.append(png_chunk(b"IDAT", data))
            else:
                chunks.append(png_chunk(b"fdAT", self._next_sequence_number() + data))
        return b"".join(chunks)

    def _finish(self) -> None:
        self._file.write(png_chunk(b"IEND", b""))
        self._file.seek(self._control_position)
        self._file.write(self._control_chunk())


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
        header = b"".join(number.to_bytes(3, "little") for number in numbers)
        return _riff_chunk(b"ANMF", header + b"\x02" + data)  # 2: replace, don't blend

    def _finish(self) -> None:
        size = self._file.tell() - 8
        if size > 0xFFFFFFFF:
            raise FileError(f"{self._path} is beyond the 4 GB of WebP; write a .mp4 file instead.")
        self._file.seek(4)
        self._file.write(struct.pack("<I", size))


#: Suffix -> what writes such animations.
ANIMATIONS_WRITTEN = {".gif": GifWriter, ".webp": WebpWriter, ".apng": ApngWriter}


def _png_chunks(
    image: Image.Image, icc_profile: bytes | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yields kind and content of the chunks of `image` as a PNG."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=4, icc_profile=icc_profile)
    data, position = encoded.getvalue(), len(PNG_SIGNATURE)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += length + 12


def _riff_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
