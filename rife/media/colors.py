"""A video's colours: its tags, and conversion between its YUV and RGB that doesn't drift."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
import torch

# swscale's defaults darken 4:2:0 video by a whole level (of 255) each time it goes to RGB and
# back, and its versions disagree on where chroma lies. With these flags, and the chroma's position
# as an option, nothing drifts.
_SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"

# In FFmpeg's numbers: AVColorSpace, AVColorRange, AVColorTransferCharacteristic, AVColorPrimaries.
_RGB, _BT709, _BT2020 = 0, 1, 9
_LIMITED, _FULL = 1, 2
_UNSPECIFIED = 2
_LIMITED_WHITE = 255 << 8  # swscale's white in 16 bits of RGB, made of limited-range YUV
_PQ, _HLG = 16, 18
# AVColorSpace -> swscale's name for the matrix.
_MATRICES = {
    1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"
}  # fmt: skip


@dataclass(frozen=True)
class Colors:
    """A clip's colour tags, in FFmpeg's numbers, and how its YUV relates to RGB.

    Attributes:
        space: AVColorSpace.
        range: AVColorRange.
        primaries: AVColorPrimaries.
        transfer: AVColorTransferCharacteristic.
        matrix: swscale's name of the matrix; a guess where the clip has no tag.
    """

    space: int
    range: int
    primaries: int
    transfer: int
    matrix: str

    @classmethod
    def of(cls, frame: av.VideoFrame, context: av.VideoCodecContext) -> "Colors":
        """Returns the colours of a frame and its decoder."""
        # Untagged high-definition video is shown as BT.709 by players, and the rest as BT.601.
        guess = "bt709" if frame.width >= 1280 or frame.height > 576 else "bt601"
        full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
        return cls(
            space=_RGB if frame.format.is_rgb else int(frame.colorspace),
            range=_FULL if full else int(frame.color_range),
            primaries=int(context.color_primaries),
            transfer=int(context.color_trc),
            matrix=_MATRICES.get(frame.colorspace, guess),
        )

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer is PQ or HLG."""
        return self.transfer in (_PQ, _HLG)

    def stored_as(self, pixel_format: str) -> "Colors":
        """Returns the colours of a copy in another pixel format, tagged as it is converted."""
        target = av.VideoFormat(pixel_format, 2, 2)
        if target.is_rgb:
            return replace(self, space=_RGB, range=_FULL)
        colors = self
        if self.space == _RGB:
            space = _BT2020 if self.primaries == _BT2020 else _BT709
            colors = replace(self, space=space, range=_LIMITED, matrix=_MATRICES[space])
        # yuvj formats are full range by name, and swscale makes all grey so.
        always_full = pixel_format.startswith("yuvj") or len(target.components) < 3
        return replace(colors, range=_FULL) if always_full else colors

    def from_16_bits(self, array: np.ndarray, source: str) -> np.ndarray:
        """Returns (H, W, 3 or 4) uint16 RGB, which was converted from format `source`, as float32
        in [0, 1].

        swscale counts 2^16 for 2^8 steps of limited-range YUV, so its white is less than 65535.
        """
        format = av.VideoFormat(source, 2, 2)
        bits = format.components[0].bits
        top = 65535 if format.is_rgb else (2**bits - 1) << (16 - bits)
        is_limited = self.range != _FULL and not format.is_rgb and len(format.components) >= 3
        white = _LIMITED_WHITE if is_limited else top
        image = np.multiply(array, 1 / white, dtype=np.float32)
        if white != top:
            image[..., 3:] *= white / top
        return np.minimum(image, 1, out=image)

    def to_16_bits(self, image: torch.Tensor, target: str) -> np.ndarray:
        """Returns (H, W, 3 or 4) floats in [0, 1] as uint16 RGB, for conversion to `target`."""
        white = 65535 if av.VideoFormat(target, 2, 2).is_rgb else _LIMITED_WHITE
        array = image.float().cpu().clamp(0, 1).mul(white).round_()
        array[..., 3:] *= 65535 / white
        return array.numpy().astype(np.uint16)

    def create_converter(
        self, size: tuple[int, int], source: str, target: str
    ) -> Callable[[av.VideoFrame], av.VideoFrame]:
        """Creates a function that converts frames between two pixel formats, one of which is RGB
        and the other in these colours.

        Args:
            size: Width and height of the frames.
            source: FFmpeg's name of the pixel format to convert from.
            target: FFmpeg's name of the pixel format to convert to.
        """
        width, height = size
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(
                width=width, height=height, format=av.VideoFormat(source), time_base=Fraction(1)
            )
        ]
        filters = [*self._filters(source, target), ("buffersink", None)]
        nodes += [graph.add(name, options) for name, options in filters]
        graph.link_nodes(*nodes).configure()

        def convert(frame: av.VideoFrame) -> av.VideoFrame:
            for tag in "color_trc", "color_primaries":
                # Newer swscale refuses some, though these aren't to be converted.
                if hasattr(frame, tag):
                    setattr(frame, tag, _UNSPECIFIED)
            graph.push(frame)
            return graph.pull()

        return convert

    def _filters(self, source: str, target: str) -> list[tuple[str, str]]:
        """Returns the filters of a conversion, with their options."""
        format = av.VideoFormat(target, 2, 2)
        if self.range == _FULL and not format.is_rgb and len(format.components) >= 3:
            # FFmpeg 8 makes full-range chroma half a level too low, but limited range right. So
            # limited range is made and stretched here, in 16 bits.
            limited = replace(self, range=_LIMITED)
            between = _deepest(format)
            luma, chroma = (
                _stretch_expression(format.components[0].bits, steps, zero)
                for steps, zero in ((219, 16), (224, 128))
            )
            return [
                *limited._filters(source, between),
                ("lutyuv", f"y={luma}:u={chroma}:v={chroma}"),
                (
                    "scale",
                    ":".join([_SCALING, "sws_dither=none", *self._scale_options(between, target)]),
                ),
                ("format", target),
            ]
        return [
            ("scale", ":".join([_SCALING, *self._scale_options(source, target)])),
            ("format", target),
        ]

    def _scale_options(self, source: str, target: str) -> list[str]:
        """Returns the options of the scale filter that tell what its input and its output are."""
        options = []
        for side, name in ("in", source), ("out", target):
            format = av.VideoFormat(name, 2, 2)
            if not format.is_rgb:
                range_ = "full" if self.range == _FULL else "limited"
                options += [f"{side}_color_matrix={self.matrix}", f"{side}_range={range_}"]
                options += [f"{side}_h_chr_pos=0"]
                if format.chroma_height() < 2:
                    options += [f"{side}_v_chr_pos=128"]
        return options


def _deepest(format: av.VideoFormat) -> str:
    """Returns the planar 16-bit format with chroma and alpha like those of `format`."""
    alpha = "a" if any(component.is_alpha for component in format.components) else ""
    chroma = {(1, 1): "420", (1, 2): "422"}.get(
        (format.chroma_width(), format.chroma_height()), "444"
    )
    return f"yuv{alpha}{chroma}p16le"


def _stretch_expression(bits: int, steps: int, zero: int) -> str:
    """Returns an expression for lutyuv: a 16-bit value in limited range as one in full range.

    Args:
        bits: To which the result is rounded; it stays in 16.
        steps: How many steps the limited range has in 8 bits.
        zero: Where the limited range has its 0 in 8 bits.
    """
    top = 2**bits - 1
    middle = 0 if zero == 16 else 2 ** (bits - 1)
    value = f"round((val-{zero << 8})*{top}/{steps << 8})+{middle}"
    return f"clip({value}\\,0\\,{top})*{1 << (16 - bits)}"


#: For pictures, which come without YUV: what every player understands.
SCREEN = Colors(space=_BT709, range=_LIMITED, primaries=1, transfer=1, matrix="bt709")
