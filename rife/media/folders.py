"""Folders of numbered images, through Pillow."""

import logging
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

import torch
from PIL import Image, ImageOps, PngImagePlugin

from ..fileio import FileError, plain_errors
from .base import ClipInfo, Frame, Reader, Writer
from .image_names import IMAGE_SUFFIXES, order_images
from .pictures import PILLOW_ERRORS, opened, to_picture, to_tensor

logger = logging.getLogger(__name__)


class FolderReader(Reader):
    """The images of a folder (PNG, JPEG, WebP, BMP, TIFF) in the order of their names, evenly
    spaced in time. Hidden files and files of other kinds are ignored.

    Several sequences of names are read one after the other; warnings say so, and which numbers are
    missing. Frames are uint8 RGB, or RGBA if any image has transparency; EXIF orientation is
    applied. 16-bit images are read as 8 bits, with a warning.

    Raises FileError if there is no image, if sizes differ, or if an image can't be read.
    """

    def __init__(self, path: Path, frame_rate: Fraction):
        super().__init__()
        with plain_errors("read", path):
            images = [
                file
                for file in path.iterdir()
                if file.suffix.lower() in IMAGE_SUFFIXES
                and not file.name.startswith(".")
                and not file.is_dir()
            ]
        if not images:
            raise FileError(f"The folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        sequences, notes = order_images(images)
        for note in notes:
            logger.warning("%s: %s", path, note)
        self._files = [file for sequence in sequences for file in sequence.files]
        self._sequence_starts = {sequence.files[0] for sequence in sequences[1:]}
        size, has_alpha, deep = None, False, False
        for file in self._files:
            with opened(file) as image:
                shown_size = _shown_size(image)
                if size is None:
                    size = shown_size
                    self.icc_profile = image.info.get("icc_profile")
                    self.srgb_intent = image.info.get("srgb")
                elif size != shown_size:
                    raise FileError(
                        f"Images differ in size: {self._files[0]} is {size[0]}x{size[1]}, "
                        f"{file} is {shown_size[0]}x{shown_size[1]}. Bring them to one size first."
                    )
                has_alpha |= image.has_transparency_data
                deep |= any(";16" in str(tile) for tile in image.tile)
        if deep:
            logger.warning("The 16-bit images in %s are read as 8 bits a channel.", path)
        rate = Fraction(frame_rate)
        self.info = ClipInfo(path, *size, rate, len(self._files), has_alpha, 1 / rate)

    def __iter__(self) -> Generator[Frame, None, None]:
        period = 1 / self.info.frame_rate
        for index, file in enumerate(self._files):
            with opened(file) as image:
                tensor = to_tensor(ImageOps.exif_transpose(image), self.info.has_alpha)
            yield Frame(tensor, index * period, period, file in self._sequence_starts)

    def close(self) -> None:
        pass


class FolderWriter(Writer):
    """Fills an existing folder with 00000001.png, 00000002.png ...: lossless 8-bit images, each
    with the ICC profile or sRGB mark of the input's images. Times are not kept.
    """

    def __init__(self, path: Path, like: Reader):
        self._path, self._count = path, 0
        self._icc_profile = like.icc_profile
        self._chunks = PngImagePlugin.PngInfo()
        if (intent := getattr(like, "srgb_intent", None)) is not None:
            self._chunks.add(b"sRGB", bytes([intent]))

    def write(self, image: torch.Tensor, time: Fraction, duration: Fraction | None = None) -> None:
        self._count += 1
        file = self._path / f"{self._count:08}.png"
        with plain_errors("write", file, PILLOW_ERRORS):
            to_picture(image).save(
                file, compress_level=4, icc_profile=self._icc_profile, pnginfo=self._chunks
            )

    def close(self) -> None:
        pass

    def discard(self) -> None:
        pass


def _shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after EXIF orientation, without decoding the image."""
    # Pillow decodes a whole PNG in search of EXIF data at its end.
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    turned = exif.get(0x0112, 1) >= 5
    return (image.height, image.width) if turned else image.size
