"""Reading animated pictures (GIF, WebP, APNG), through Pillow."""

import contextlib
import logging
import math
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from PIL import Image

from ..fileio import raise_file_errors
from .base import ClipInfo, Frame, Reader
from .pictures import (
    PILLOW_ERRORS,
    has_16_bits,
    is_transparent,
    open_image,
    rgb_profile,
    to_tensor,
)

logger = logging.getLogger(__name__)

#: Suffixes of animated pictures.
ANIMATIONS_READ = {".gif", ".webp", ".apng", ".png"}


# Milliseconds that a frame lasts whose duration browsers take for a mistake, and the least one that
# they don't.
_DEFAULT_DURATION, _LEAST_DURATION, _LEAST_GIF_DURATION = 100, 1, 20
# APNG stores durations as fractions of 16-bit numbers, which Pillow gives as floats.
_LARGEST_DENOMINATOR = 65535
_FINEST_GRID = Fraction(1, 10**6)  # seconds


class AnimationReader(Reader):
    """An animated GIF, WebP or PNG, with the durations that browsers show: GIF frames of less
    than 20 ms last 100 ms.

    All frames are decoded once at the start, for the true frame rate, for whether anything is
    transparent, and so that damage is known before work begins. Frames are uint8 RGB or RGBA.

    Args:
        path: The file.

    Raises:
        FileError: It is no image, or can't be read.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._path = path
        self._image = open_image(path)
        try:
            with self._errors():
                self._read_properties()
        except BaseException:
            self._image.close()
            raise

    def _read_properties(self) -> None:
        """Decodes all frames once, and notes what is known of the animation then."""
        if has_16_bits(self._image):
            logger.warning("%s has 16 bits a channel; it is read with 8.", self._path)
        # A PNG may hold a picture for viewers without animation, which is no part of it.
        self._first = 1 if getattr(self._image, "default_image", False) else 0
        count = getattr(self._image, "n_frames", 1) - self._first
        is_gif = self._image.format == "GIF"
        has_alpha = False
        self._durations = []
        for frame in self._frames(count):
            self._durations.append(self._duration())
            has_alpha |= is_transparent(frame)
        if is_gif and not _is_whole_gif(self._path.read_bytes()):
            self.report_damage(
                f"{self._path} is damaged or cut short after {float(sum(self._durations)):.2f} s; "
                f"{count} frames could be read."
            )
        self.icc_profile = rgb_profile(self._image)
        self.plays = self._image.info.get("loop", 1 if is_gif else 0)
        if is_gif and self._image.info.get("loop"):
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
        """Returns how long the current frame lasts, seconds."""
        milliseconds = self._image.info.get("duration", 0)
        if milliseconds < (_LEAST_GIF_DURATION if self._image.format == "GIF" else _LEAST_DURATION):
            milliseconds = _DEFAULT_DURATION
        return Fraction(milliseconds / 1000).limit_denominator(_LARGEST_DENOMINATOR)

    def _read_frames(self) -> Generator[Frame, None, None]:
        time = Fraction(0)
        frames = self._frames(len(self._durations))
        for duration in self._durations:
            with self._errors():
                image = to_tensor(next(frames), self.info.has_alpha)
            yield Frame(image, time, duration)
            time += duration

    def close(self) -> None:
        self._image.close()


def _is_whole_gif(data: bytes) -> bool:
    """Returns whether block follows block up to the end; Pillow stops or skips where none does."""

    def color_table_size(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    position = 13 + color_table_size(data[10])
    try:
        while (block := data[position : position + 1]) != b";":
            if block == b"!":  # an extension
                position += 2
            elif block == b",":  # an image, its color table, and a byte
                position += 11 + color_table_size(data[position + 9])
            else:
                return False
            while length := data[position]:  # of a piece of the block
                position += 1 + length
            position += 1
    except IndexError:
        return False
    return True


def _common_step(durations: Sequence[Fraction]) -> Fraction:
    """Returns the largest step of which all are multiples, but no less than the finest grid;
    seconds."""
    denominator = math.lcm(*(duration.denominator for duration in durations))
    step = Fraction(math.gcd(*(int(duration * denominator) for duration in durations)), denominator)
    return max(step, _FINEST_GRID)
