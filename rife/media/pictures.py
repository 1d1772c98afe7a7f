"""Single pictures through Pillow: what folders and animations share."""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..fileio import plain_errors
from .base import to_uint8

# What Pillow raises for damaged files, beside OSError.
PILLOW_ERRORS = (
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    with plain_errors("read", path, PILLOW_ERRORS), Image.open(path) as image:
        yield image


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
