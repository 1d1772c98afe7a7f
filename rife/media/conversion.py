"""Decoded frames as tensors, and tensors as frames to encode."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch

from ..fileio import FileError
from .base import to_uint8
from .colors import Colors


class Orientation(NamedTuple):
    """How stored pixels are turned for display: transposed first, then flipped.

    Attributes:
        transpose: Whether rows become columns.
        flip_rows: Whether the order of the rows is reversed.
        flip_columns: Whether the order of the columns is reversed.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Orientation":
        """Returns the orientation that a frame's display matrix states."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        # x' = a x + c y, y' = b x + d y
        a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
        if abs(b) > abs(a):
            return cls(True, b < 0, c < 0)
        return cls(False, d < 0, a < 0)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Returns a view of `pixels`, (H, W, C), as they are displayed."""
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


class FrameToImage:
    """Converts the decoded frames of one clip to tensors.

    Args:
        first: The clip's first frame; all others have its size and its orientation.
        decoder: The clip's decoder, which knows some of its colour tags.
        path: The clip's file, for messages.

    Attributes:
        has_alpha: Whether images have 4 channels.
        is_deep: Whether images are float32, as frames have more than 8 bits a channel.
        coded_size: Width and height of the frames as they are stored.
        orientation: How they are turned for display.
        colors: The first frame's colours.
    """

    def __init__(self, first: av.VideoFrame, decoder: av.VideoCodecContext, path: Path):
        components = first.format.components
        self.has_alpha = any(component.is_alpha for component in components)
        self.is_deep = max(component.bits for component in components) > 8
        self.coded_size = first.width, first.height
        self.orientation = Orientation.of(first)
        self.colors = Colors.of(first, decoder)
        self._decoder, self._path = decoder, path
        self._rgb_format = _rgb_format(self.has_alpha, self.is_deep)
        # Pixel format and colours that the converter takes; both may change within a clip.
        self._converter_input: tuple[str, Colors] | None = None
        self._to_rgb: Callable[[av.VideoFrame], av.VideoFrame] | None = None

    def convert(self, frame: av.VideoFrame) -> torch.Tensor:
        """Returns the frame as it is displayed: (H, W, 3 or 4), uint8, or float32 in [0, 1].

        Raises:
            FileError: Its size isn't the first frame's.
        """
        if (frame.width, frame.height) != self.coded_size:
            old, new = self.coded_size, (frame.width, frame.height)
            raise FileError(
                f"{self._path} changes its frame size from {old[0]}x{old[1]} to "
                f"{new[0]}x{new[1]}; split it there, or scale it to one size."
            )
        pixel_format, colors = frame.format.name, Colors.of(frame, self._decoder)
        if (pixel_format, colors) != self._converter_input:
            self._converter_input = pixel_format, colors
            self._to_rgb = colors.create_converter(self.coded_size, pixel_format, self._rgb_format)
        pixels = self._to_rgb(frame).to_ndarray()
        if self.is_deep:
            pixels = colors.from_16_bits(pixels, pixel_format)
        return torch.from_numpy(np.array(self.orientation.apply(pixels)))


class ImageToFrame:
    """Converts tensors to frames for an encoder.

    Args:
        pixel_format: FFmpeg's name of the encoder's.
        colors: How its YUV relates to RGB.
        rows, columns: Indices of the pixels to take of each image.
    """

    def __init__(
        self, pixel_format: str, colors: Colors, rows: torch.Tensor, columns: torch.Tensor
    ):
        components = av.VideoFormat(pixel_format, 2, 2).components
        self._has_alpha = any(component.is_alpha for component in components)
        self._is_deep = max(component.bits for component in components) > 8
        self._pixel_format, self._colors = pixel_format, colors
        self._rows, self._columns = rows, columns
        self._converter_input: str | None = None
        self._from_rgb: Callable[[av.VideoFrame], av.VideoFrame] | None = None

    def convert(self, image: torch.Tensor) -> av.VideoFrame:
        """Returns a frame of an image, (H, W, 3 or 4), uint8 or floating point in [0, 1]. Where the
        pixel format has no alpha, transparent images are put on black."""
        channels = image.shape[-1]
        if channels == 4 and not self._has_alpha:
            alpha = image[..., 3:].float() / (255 if image.dtype == torch.uint8 else 1)
            image, channels = (image[..., :3] * alpha).to(image.dtype), 3
        image = image[self._rows][:, self._columns]
        is_deep = self._is_deep and image.dtype != torch.uint8
        if is_deep:
            pixels = self._colors.to_16_bits(image, self._pixel_format)
        else:
            pixels = to_uint8(image).numpy()
        rgb_format = _rgb_format(channels == 4, is_deep)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=rgb_format)
        if rgb_format != self._converter_input:
            self._converter_input = rgb_format
            size = frame.width, frame.height
            self._from_rgb = self._colors.create_converter(size, rgb_format, self._pixel_format)
        return self._from_rgb(frame)


def _rgb_format(has_alpha: bool, is_deep: bool) -> str:
    """Returns FFmpeg's name of the RGB format with 8 or 16 bits a channel."""
    if is_deep:
        return "rgba64le" if has_alpha else "rgb48le"
    return "rgba" if has_alpha else "rgb24"
