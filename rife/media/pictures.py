"""Single pictures, which folders and animations consist of: read and written by Pillow, and with 16
bits by FFmpeg and by hand."""

import contextlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from ..fileio import FileError, raise_file_errors
from .base import to_uint8
from .conversion import Orientation
from .streams import AV_ERRORS

#: Kind and content of each.
Chunks = Iterable[tuple[bytes, bytes]]

#: What Pillow raises for damaged files, beside OSError.
PILLOW_ERRORS = (
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)
_EXIF_ORIENTATION = 0x0112
# Values of this EXIF tag -> what turns the picture.
_ORIENTATIONS = {
    2: Orientation(False, False, True),
    3: Orientation(False, True, True),
    4: Orientation(False, True, False),
    5: Orientation(True, False, False),
    6: Orientation(True, False, True),
    7: Orientation(True, True, True),
    8: Orientation(True, True, False),
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def open_image(path: Path) -> Image.Image:
    """Opens an image without decoding it.

    Raises:
        FileError: The file is no image, or can't be read.
    """
    with raise_file_errors("read", path, PILLOW_ERRORS):
        try:
            return Image.open(path)
        except UnidentifiedImageError as error:
            what = "no image, or a damaged one" if path.stat().st_size else "empty"
            raise FileError(f"{path} is {what}.") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Provides an open image; what goes wrong within the block becomes a FileError."""
    with raise_file_errors("read", path, PILLOW_ERRORS), open_image(path) as image:
        yield image


def read_image(path: Path, has_alpha: bool, is_deep: bool) -> torch.Tensor:
    """Reads a still picture and turns it as it is displayed.

    Args:
        path: A file that Pillow opens.
        has_alpha: Whether to return 4 channels.
        is_deep: Whether to return float32 and not uint8; 16-bit pictures lose nothing then.

    Returns:
        (H, W, 3 or 4) uint8, or float32 in [0, 1].

    Raises:
        FileError: It can't be read.
    """
    with opened(path) as image:
        if not is_deep:
            return to_tensor(ImageOps.exif_transpose(image), has_alpha)
        if not has_16_bits(image):
            return to_tensor(ImageOps.exif_transpose(image), has_alpha).float() / 255
        orientation = _exif_orientation(image)
    # Pillow would make 8 bits of all but grey.
    with (
        raise_file_errors("read", path, AV_ERRORS),
        path.open("rb") as file,
        av.open(file) as container,
    ):
        frame = next(container.decode(video=0), None)
        if frame is None:
            raise FileError(f"{path} holds no picture.")
        array = frame.to_ndarray(format="rgba64le" if has_alpha else "rgb48le")
    return torch.from_numpy(orientation.apply(array).astype(np.float32) / 65535)


def has_16_bits(image: Image.Image) -> bool:
    """Returns whether the file has 16 bits a channel, without decoding it."""
    return any(";16" in str(tile) for tile in image.tile)


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height after EXIF orientation, without decoding the image."""
    size = image.size
    if image.format == "TIFF":  # some versions of Pillow turn the size before the image is loaded
        size = image.tag_v2[256], image.tag_v2[257]
    return size[::-1] if _exif_orientation(image).transpose else size


def rgb_profile(image: Image.Image) -> bytes | None:
    """Returns the ICC profile, if it fits RGB pixels."""
    profile = image.info.get("icc_profile") or b""
    return profile if profile[16:20] == b"RGB " else None


def _exif_orientation(image: Image.Image) -> Orientation:
    # Pillow decodes a whole PNG in search of EXIF data at its end.
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    return _ORIENTATIONS.get(exif.get(_EXIF_ORIENTATION), Orientation())


def to_tensor(image: Image.Image, has_alpha: bool) -> torch.Tensor:
    """Returns the pixels, (H, W, 4 or 3) uint8, with or without alpha."""
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion clips them
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGBA" if has_alpha else "RGB")))


def to_picture(image: torch.Tensor) -> Image.Image:
    """Returns a Pillow image of (H, W, 3 or 4), uint8 or floating point in [0, 1]."""
    return Image.fromarray(to_uint8(image).numpy())


def is_transparent(image: Image.Image) -> bool:
    """Returns whether any pixel is. Opaque pictures, too, may have an alpha channel or color."""
    return image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255


def save_png8(file: Path, image: torch.Tensor, icc_profile: bytes | None, chunks: Chunks) -> None:
    """Writes a PNG of 8 bits a channel.

    Args:
        file: Where to.
        image: (H, W, 3 or 4), uint8 or floating point in [0, 1].
        icc_profile: Of its colours; None: without.
        chunks: What else is put before the pixels.
    """
    info = PngImagePlugin.PngInfo()
    for chunk in chunks:
        info.add(*chunk)
    to_picture(image).save(file, compress_level=4, icc_profile=icc_profile, pnginfo=info)


def save_png16(file: Path, image: torch.Tensor, icc_profile: bytes | None, chunks: Chunks) -> None:
    """Writes a PNG of 16 bits a channel, which Pillow can't; arguments as of `save_png8`."""
    height, width, channels = image.shape
    array = image.float().cpu().clamp(0, 1).mul(65535).round().numpy().astype(">u2")
    rows = array.view(np.uint8).reshape(height, -1)
    # Filter 2: each row less the one above.
    rows = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    rows = np.pad(rows, ((0, 0), (1, 0)), constant_values=2)
    with file.open("wb") as stream:
        stream.write(PNG_SIGNATURE)
        colour_type = {3: 2, 4: 6}[channels]
        header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
        stream.write(png_chunk(b"IHDR", header))
        if icc_profile:
            stream.write(png_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile)))
        for chunk in chunks:
            stream.write(png_chunk(*chunk))
        stream.write(png_chunk(b"IDAT", zlib.compress(rows, 4)))
        stream.write(png_chunk(b"IEND", b""))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk as PNG files have it, with its length and its checksum."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
