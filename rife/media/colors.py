"""A video's colours: its tags, and conversion between its YUV and RGB that doesn't drift."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av

# swscale's defaults darken 4:2:0 video by a whole level (of 255) each time it goes to RGB and
# back, and its versions disagree on where chroma lies. Told both, nothing drifts.
_SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"

_FULL = 2  # AVColorRange
_UNSPECIFIED = 2  # AVColorTransferCharacteristic and AVColorPrimaries
# AVColorSpace -> swscale's name for the matrix.
_MATRICES = {
    1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"
}  # fmt: skip


@dataclass(frozen=True)
class Colors:
    """A clip's colour tags, in FFmpeg's numbers, and how its YUV relates to RGB."""

    space: int
    range: int
    primaries: int
    transfer: int
    matrix: str  # swscale's name; a guess where the clip doesn't say

    @classmethod
    def of(cls, frame: av.VideoFrame, context: av.VideoCodecContext) -> "Colors":
        # Untagged high-definition video is shown as BT.709 by players, and the rest as BT.601.
        guess = "bt709" if frame.width >= 1280 or frame.height > 576 else "bt601"
        full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
        return cls(
            space=int(frame.colorspace),
            range=_FULL if full else int(frame.color_range),
            primaries=int(context.color_primaries),
            transfer=int(context.color_trc),
            matrix=_MATRICES.get(frame.colorspace, guess),
        )

    def converter(
        self, size: tuple[int, int], source: str, target: str
    ) -> Callable[[av.VideoFrame], av.VideoFrame]:
        """From one pixel format to another, one of them RGB and the other in these colours."""
        width, height = size
        graph = av.filter.Graph()
        options = [_SCALING]
        for side, name in ("in", source), ("out", target):
            format = av.VideoFormat(name, 2, 2)
            if not format.is_rgb:
                range_ = "full" if self.range == _FULL else "limited"
                options += [f"{side}_color_matrix={self.matrix}", f"{side}_range={range_}"]
                options += [f"{side}_h_chr_pos=0"]
                if format.chroma_height() < 2:
                    options += [f"{side}_v_chr_pos=128"]
        graph.link_nodes(
            graph.add_buffer(
                width=width, height=height, format=av.VideoFormat(source), time_base=Fraction(1)
            ),
            graph.add("scale", ":".join(options)),
            graph.add("format", target),
            graph.add("buffersink"),
        ).configure()

        def convert(frame: av.VideoFrame) -> av.VideoFrame:
            for tag in "color_trc", "color_primaries":
                # Newer swscale refuses some, though these aren't to be converted.
                if hasattr(frame, tag):
                    setattr(frame, tag, _UNSPECIFIED)
            graph.push(frame)
            return graph.pull()

        return convert


# For pictures, which come without YUV: what every player understands.
SCREEN = Colors(space=1, range=1, primaries=1, transfer=1, matrix="bt709")
