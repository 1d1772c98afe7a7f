"""Folders of numbered images, through Pillow."""

import logging
from collections import defaultdict
from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

from ..fileio import FileError, raise_file_errors
from .base import ClipInfo, Frame, Reader, Writer
from .image_names import IMAGE_SUFFIXES, order_images
from .pictures import (
    PILLOW_ERRORS,
    has_16_bits,
    opened,
    read_image,
    rgb_profile,
    save_png8,
    save_png16,
    shown_size,
)

logger = logging.getLogger(__name__)

# Format -> what whole files end with, or almost.
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}


class FolderReader(Reader):
    """The images of a folder (PNG, JPEG, WebP, BMP, TIFF) in the order of their names, evenly
    spaced in time. Hidden files and files of other kinds are ignored.

    Several sequences of names are read one after the other; warnings say so, and which numbers are
    missing. Frames are uint8 RGB, float32 if any image has 16 bits, and RGBA if any has
    transparency; EXIF orientation is applied. What turns out to be damaged after the first frame is
    left out and reported as damage.

    Args:
        path: The folder.
        frame_rate: Frames a second.

    Raises:
        FileError: There is no image, sizes differ, or an image can't be read.
    """

    def __init__(self, path: Path, frame_rate: Fraction):
        super().__init__()
        sequences, notes = order_images(_list_images(path))
        for note in notes:
            logger.warning("%s: %s", path, note)
        self._files = [file for sequence in sequences for file in sequence.files]
        self._sequence_starts = {sequence.files[0] for sequence in sequences[1:]}
        size, has_alpha, is_deep = self._inspect_images(path)
        rate = Fraction(frame_rate)
        self.info = ClipInfo(path, *size, rate, len(self._files), has_alpha, 1 / rate, is_deep)

    def _inspect_images(self, path: Path) -> tuple[tuple[int, int], bool, bool]:
        """Returns the size of all images, whether any has transparency, and whether any has 16
        bits; mostly without decoding them. Warns of what will be lost."""
        size, has_alpha, is_deep = None, False, False
        losses: dict[str, list[str]] = defaultdict(list)
        for file in self._files:
            with opened(file) as image:
                _refuse_broken(file, image)
                for loss in _list_losses(image):
                    losses[loss].append(file.name)
                if size is None:
                    size = shown_size(image)
                    self.icc_profile = rgb_profile(image)
                    self.srgb_intent = image.info.get("srgb")
                elif size != shown_size(image):
                    first, this = ("{}x{}".format(*sides) for sides in (size, shown_size(image)))
                    raise FileError(
                        f"Images differ in size: {self._files[0]} is {first}, {file} is {this}. "
                        "Bring them to one size first."
                    )
                has_alpha |= image.has_transparency_data
                is_deep |= has_16_bits(image)
        for loss, names in losses.items():
            more = f", like {len(names) - 1} more," if len(names) > 1 else ""
            logger.warning("%s: %s%s %s.", path, names[0], more, loss)
        return size, has_alpha, is_deep

    def _read_frames(self) -> Generator[Frame, None, None]:
        period = 1 / self.info.frame_rate
        is_after_gap = False
        for index, file in enumerate(self._files):
            try:
                image = read_image(file, self.info.has_alpha, self.info.is_deep)
            except FileError as error:
                if index == 0:
                    raise
                self.report_damage(f"{error} The frame before it is held in its place.")
                is_after_gap = True
                continue
            is_after_gap |= file in self._sequence_starts
            yield Frame(image, index * period, period, is_after_gap)
            is_after_gap = False

    def close(self) -> None:
        pass


class FolderWriter(Writer):
    """Fills an existing folder with 00000001.png, 00000002.png ...: lossless images of 8 bits, or
    16 if the input has more than 8, each with the ICC profile or sRGB mark of the input's images.
    Times are not kept, which a warning says if they are uneven.

    Args:
        path: The folder.
        like: The input.
    """

    def __init__(self, path: Path, like: Reader):
        self._path, self._times = path, []
        self._is_deep = like.info.is_deep
        self._icc_profile = like.icc_profile
        self._chunks = []
        if (intent := getattr(like, "srgb_intent", None)) is not None:
            self._chunks.append((b"sRGB", bytes([intent])))

    def write(self, image: torch.Tensor, time: Fraction, duration: Fraction | None = None) -> None:
        self._times.append(time)
        file = self._path / f"{len(self._times):08}.png"
        with raise_file_errors("write", file, PILLOW_ERRORS):
            save = save_png16 if self._is_deep else save_png8
            save(file, image, self._icc_profile, self._chunks)

    def close(self) -> None:
        steps = [after - before for before, after in pairwise(self._times)]
        if steps and max(steps) > 1.5 * min(steps):
            logger.warning(
                "Images have no times: frames that lasted %.3f to %.3f s are %d images alike. "
                "--target-fps makes them even.",
                *(min(steps), max(steps), len(self._times)),
            )

    def discard(self) -> None:
        pass


def _list_images(path: Path) -> list[Path]:
    with raise_file_errors("read", path):
        images = [
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES
            and not file.name.startswith(".")
            and not file.is_dir()
        ]
    if not images:
        raise FileError(f"The folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return images


def _refuse_broken(file: Path, image: Image.Image) -> None:
    """Raises an error if an image can't be read, mostly without decoding it."""
    if image.mode == "F" or ";32" in str(image.tile):
        raise FileError(f"{file} has 32 bits a channel; save it with 16 or 8 first.")
    end = _ENDS.get(image.format)
    if end and end not in _read_end(file):
        image.load()  # raises if it is cut short


def _list_losses(image: Image.Image) -> Iterator[str]:
    """Yields what of an image is lost when it is read, as ends of sentences about the file."""
    if image.format in ("PNG", "WEBP", "TIFF") and getattr(image, "is_animated", False):
        yield "holds several pictures, of which only the first is read"
    if image.mode == "CMYK":
        yield "is CMYK and becomes RGB without regard to colour profiles"


def _read_end(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 4096))
        return stream.read()
