"""Single pictures, through Pillow and, where they have 16 bits, FFmpeg: what folders and animations
share."""

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
from .streams import AV_ERRORS

Chunks = Iterable[tuple[bytes, bytes]]  # kind and content

# What Pillow raises for damaged files, beside OSError.
PILLOW_ERRORS = (
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)
_ORIENTATION = 0x0112  # in EXIF data
# Its values -> whether to transpose, then to flip rows and to flip columns.
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def open_image(path: Path) -> Image.Image:
    """Raises FileError if there is none."""
    with raise_file_errors("read", path, PILLOW_ERRORS):
        try:
            return Image.open(path)
        except UnidentifiedImageError as error:
            what = "no image, or a damaged one" if path.stat().st_size else "empty"
            raise FileError(f"{path} is {what}.") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    with raise_file_errors("read", path, PILLOW_ERRORS), open_image(path) as image:
        yield image


def read_image(path: Path, has_alpha: bool, is_deep: bool) -> torch.Tensor:
    """Read a still picture, the way up in which it is shown.

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
        transpose, flip_rows, flip_columns = _turns(image)
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
    array = array.transpose(1, 0, 2) if transpose else array
    array = array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return torch.from_numpy(array.astype(np.float32) / 65535)


def has_16_bits(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel; known without decoding it."""
    return any(";16" in str(tile) for tile in image.tile)


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after EXIF orientation, without decoding the image."""
    size = image.size
    if image.format == "TIFF":  # some versions of Pillow turn the size before the image is loaded
        size = image.tag_v2[256], image.tag_v2[257]
    return size[::-1] if _turns(image)[0] else size


def rgb_profile(image: Image.Image) -> bytes | None:
    """The ICC profile, if it fits RGB pixels."""
    profile = image.info.get("icc_profile") or b""
    return profile if profile[16:20] == b"RGB " else None


def _turns(image: Image.Image) -> tuple[bool, bool, bool]:
    # Pillow decodes a whole PNG in search of EXIF data at its end.
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    return _TURNS.get(exif.get(_ORIENTATION), (False, False, False))


def to_tensor(image: Image.Image, alpha: bool) -> torch.Tensor:
    """(H, W, 3 or 4) uint8."""
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion clips them
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGBA" if alpha else "RGB")))


def to_picture(image: torch.Tensor) -> Image.Image:
    """image: (H, W, 3 or 4)."""
    return Image.fromarray(to_uint8(image).numpy())


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is; formats use transparency to save space in opaque pictures, too."""
    return image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255


def save_png8(
    file: Path,
    image: torch.Tensor,
    icc_profile: bytes | None,
    chunks: Iterable[tuple[bytes, bytes]],
) -> None:
    """Write a PNG of 8 bits a channel.

    Args:
        image: (H, W, 3 or 4), uint8 or floating point in [0, 1].
        icc_profile: Of its colours.
        chunks: What else is to be put before the pixels.
    """
    info = PngImagePlugin.PngInfo()
    for chunk in chunks:
        info.add(*chunk)
    to_picture(image).save(file, compress_level=4, icc_profile=icc_profile, pnginfo=info)


def save_png16(
    file: Path,
    image: torch.Tensor,
    icc_profile: bytes | None,
    chunks: Iterable[tuple[bytes, bytes]],
) -> None:
    """Write a PNG of 16 bits a channel, which Pillow can't; arguments as of `save_png8`."""
    height, width, channels = image.shape
    array = image.float().cpu().clamp(0, 1).mul(65535).round().numpy().astype(">u2")
    rows = array.view(np.uint8).reshape(height, -1)
    # Filter 2: each row less the one above.
    rows = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    rows = np.pad(rows, ((0, 0), (1, 0)), constant_values=2)
    with file.open("wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n")
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
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
