"""Which encoder and pixel format a video is written with, and what they can't hold."""

import contextlib
import io
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import av

from ..fileio import FileError


@dataclass(frozen=True)
class Encoding:
    """How a video is encoded. Animations and folders of images leave no such choice.

    Attributes:
        crf: Quality, lower is better, for encoders that have such a setting; others ignore it.
        codec: FFmpeg's name of the encoder. None chooses one that suits the container and the clip.
        pixel_format: FFmpeg's name. None chooses one that suits the encoder and the clip.
        b_frames: Whether the encoder may store frames in another order than that in which they are
            shown. In .mkv, which holds no decoding times, some programs then lose the first ones.
    """

    crf: int = 18
    codec: str | None = None
    pixel_format: str | None = None
    b_frames: bool = True


@dataclass(frozen=True)
class FileFormat:
    """What a kind of file is written with by default. Encoders have FFmpeg's names, best first.

    Attributes:
        muxer: FFmpeg's name of what writes the container.
        video: Encoders for most clips.
        sound: The encoder for sound that can't be copied.
        alpha_advice: How transparency can be kept, for messages.
        hdr: Encoders for clips in HDR; none: those for most clips.
        alpha: Encoders for clips with transparency; none: those for most clips.
        options: The container's.
    """

    muxer: str
    video: tuple[str, ...]
    sound: str
    alpha_advice: str
    hdr: tuple[str, ...] = ()
    alpha: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


_H264 = ("libx264", "libopenh264")
_HEVC = ("libx265", "libx264")
_OTHER_FILES = ".mov, .webm, .webp, .apng and .gif files keep it"
# Arbitrary tags, such as ComfyUI's workflows, survive in MP4 with use_metadata_tags only.
_MP4 = {"movflags": "+faststart+use_metadata_tags"}
FILE_FORMATS = {
    ".mp4": FileFormat("mp4", _H264, "aac", _OTHER_FILES, _HEVC, options=_MP4),
    ".m4v": FileFormat("ipod", _H264, "aac", _OTHER_FILES, _HEVC, options=_MP4),
    ".mov": FileFormat(
        "mov", _H264, "aac", "codec prores_ks or qtrle keeps it", _HEVC, ("prores_ks",), _MP4
    ),
    ".mkv": FileFormat("matroska", _H264, "aac", "codec ffv1 or libvpx-vp9 keeps it", _HEVC),
    ".webm": FileFormat(
        "webm", ("libvpx-vp9", "libsvtav1"), "libopus", "codec libvpx-vp9 keeps it",
        ("libsvtav1", "libvpx-vp9"),
    ),
}  # fmt: skip
# Encoders for editing keep what the input has; all others are for players, which want 4:2:0.
_FOR_EDITING = {
    "apng", "dnxhd", "ffv1", "ffvhuff", "huffyuv", "magicyuv", "png", "prores", "prores_aw",
    "prores_ks", "qtrle", "rawvideo", "utvideo", "v210",
}  # fmt: skip
# Encoder -> its option for quality, and that option's largest value.
_QUALITY = {
    "libx264": ("crf", 51), "libx264rgb": ("crf", 51), "libx265": ("crf", 51),
    "libvpx": ("crf", 63), "libvpx-vp9": ("crf", 63), "libsvtav1": ("crf", 63),
    "libaom-av1": ("crf", 63), "h264_nvenc": ("cq", 51), "hevc_nvenc": ("cq", 51),
    "av1_nvenc": ("cq", 51),
}  # fmt: skip
#: Encoder -> the largest denominator that its clock may have.
LARGEST_DENOMINATOR = {"mpeg4": 65535, "libvpx": 10**9, "libvpx-vp9": 10**9}
# Encoder -> how it is told of HDR's light: the option, its keys for mastering display and content
# light level, and the units in which the first counts chromaticity and luminance (None: 1).
_LIGHT = {
    "libx264": ("x264-params", "mastering-display", "cll", (50000, 10000)),
    "libx265": ("x265-params", "master-display", "max-cll", (50000, 10000)),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", (None, None)),
}
_MOST_PIXEL_FORMATS = 3  # that are tried of an encoder: it may refuse one that it lists


@dataclass(frozen=True)
class PixelTraits:
    """What a pixel format can hold.

    Attributes:
        bits: Of a colour channel.
        chroma: Samples of each colour channel in 4 x 4 pixels; 0: grey.
        alpha: Whether it has transparency.
        rgb: Whether it is RGB, and not YUV.
    """

    bits: int
    chroma: int
    alpha: bool
    rgb: bool

    @classmethod
    def of(cls, name: str) -> "PixelTraits":
        """Returns the traits of the pixel format that FFmpeg knows by a name."""
        format = av.VideoFormat(name, 4, 4)
        colors = [component for component in format.components if not component.is_alpha]
        grey = len(colors) < 3 and not format.has_palette
        return cls(
            bits=1 if format.has_palette else min(component.bits for component in colors),
            chroma=0 if grey else format.chroma_width(4) * format.chroma_height(4),
            alpha=len(colors) < len(format.components),
            rgb=format.is_rgb,
        )

    def shortfall(self, wanted: "PixelTraits") -> tuple[int, int, int]:
        """Returns by how much alpha, bits and chroma are less than `wanted`; 0: not less."""
        return (
            int(wanted.alpha and not self.alpha),
            max(0, wanted.bits - self.bits),
            max(0, wanted.chroma - self.chroma),
        )


def choose_encoders(
    file_format: FileFormat, source_format: str, is_hdr: bool, encoding: Encoding
) -> Iterator[tuple[str, str]]:
    """Finds encoders for a clip, by FFmpeg's names.

    Args:
        file_format: The output's.
        source_format: FFmpeg's name of the clip's pixel format.
        is_hdr: Whether the clip needs more than 8 bits, whatever players like.
        encoding: What the user chose.

    Yields:
        An encoder and one of its pixel formats, best first.

    Raises:
        FileError: The encoder has no such pixel format, or PyAV none of the usual encoders.
    """
    codec, pixel_format = encoding.codec, encoding.pixel_format
    source = PixelTraits.of(source_format)
    names = (codec,) if codec else file_format.video
    if not codec and not pixel_format:
        names = (source.alpha and file_format.alpha) or (is_hdr and file_format.hdr) or names
    encoders = []
    for name in names:
        with contextlib.nullcontext() if codec else contextlib.suppress(ValueError):
            encoders.append(av.Codec(name, "w"))
    if not encoders:
        raise FileError(
            f"This build of PyAV has none of the encoders {', '.join(names)}; "
            "install PyAV from PyPI (pip install av), or choose another codec."
        )
    for encoder in encoders:
        known = [format.name for format in encoder.video_formats or ()]
        if pixel_format and known and pixel_format not in known:
            raise FileError(
                f"{encoder.name} has no pixel format {pixel_format}; it has {', '.join(known)}."
            )
        if pixel_format or not known:
            yield encoder.name, pixel_format or "yuv420p"
        else:
            for name in rank_formats(encoder.name, known, source_format, is_hdr)[
                :_MOST_PIXEL_FORMATS
            ]:
                yield encoder.name, name


def rank_formats(encoder: str, known: list[str], source_format: str, is_hdr: bool) -> list[str]:
    """Sorts the pixel formats of an encoder, the one that suits the clip best first.

    Args:
        encoder: FFmpeg's name.
        known: The encoder's pixel formats.
        source_format: The clip's pixel format.
        is_hdr: Whether the clip needs more than 8 bits, whatever players like.
    """
    wanted = PixelTraits.of(source_format)
    if encoder not in _FOR_EDITING:
        bits = 10 if is_hdr else 8
        wanted = PixelTraits(bits, 4, wanted.alpha and _has_usual_alpha(encoder), False)

    def cost(name: str) -> tuple:
        has = PixelTraits.of(name)
        return (
            *has.shortfall(wanted), name != source_format and encoder in _FOR_EDITING,
            has.rgb != wanted.rgb, has.alpha != wanted.alpha, has.bits, has.chroma,
        )  # fmt: skip

    return sorted(known, key=cost)


def _has_usual_alpha(encoder: str) -> bool:
    """Returns whether players know the transparency that an encoder writes; x265's, next to none
    does."""
    return "265" not in encoder and "hevc" not in encoder


def roomier_format(encoder: str, source_format: str) -> str | None:
    """Returns a YUV pixel format of an encoder that has the depth and the colour of the clip."""
    wanted = PixelTraits.of(source_format)
    fitting = []
    for format in av.Codec(encoder, "w").video_formats or ():
        has = PixelTraits.of(format.name)
        if not any(has.shortfall(wanted)[1:]) and re.match("yuva?[^aj]", format.name):
            fitting.append((has.bits, has.chroma, has.alpha, format.name))
    return min(fitting)[-1] if fitting else None


def check_encoder(name: str, file_format: FileFormat, suffix: str) -> None:
    """Raises FileError unless there is such an encoder, of video that the container takes."""
    usual = "libx264 libx265 libsvtav1 libvpx-vp9 prores_ks ffv1 h264_nvenc hevc_nvenc av1_nvenc"
    with av.open(io.BytesIO(), "w", format=file_format.muxer) as trial:
        try:
            if av.Codec(name, "w").type == "video":
                trial.add_stream(name)
                return
        except ValueError:
            pass
        fitting = [name for name in usual.split() if name in trial.supported_codecs]
    raise FileError(
        f"{name} is no video encoder for {suffix} files here; try one of {', '.join(fitting)}."
    )


def encoder_options(
    encoder: str, crf: int, mastering: bytes | None = None, light: bytes | None = None
) -> dict[str, str]:
    """Returns an encoder's options.

    Args:
        encoder: FFmpeg's name.
        crf: Quality; lower is better. Encoders without such a setting do without.
        mastering: FFmpeg's AVMasteringDisplayMetadata.
        light: FFmpeg's AVContentLightMetadata.

    Raises:
        FileError: `crf` is out of the encoder's range.
    """
    options = {}
    name, most = _QUALITY.get(encoder, (None, 0))
    if name:
        if not 0 <= crf <= most:
            raise FileError(f"{encoder} has a crf from 0 to {most}, not {crf}.")
        options[name] = str(crf)
    if encoder == "libvpx-vp9":
        options |= {"b": "0", "row-mt": "1"}  # a bit rate would be a ceiling to the quality
    if encoder == "libx265":
        options["x265-params"] = "log-level=error"
    if encoder in _LIGHT and (mastering or light):
        option, mastering_key, light_key, units = _LIGHT[encoder]
        parameters = [options[option]] if option in options else []
        if mastering:
            parameters.append(f"{mastering_key}={_describe_display(mastering, *units)}")
        if light:
            parameters.append(f"{light_key}={','.join(map(str, struct.unpack('=2I', light[:8])))}")
        options[option] = ":".join(parameters)
    return options


def keeps_light(encoder: str) -> bool:
    """Returns whether mastering display and content light level can be handed to an encoder."""
    return encoder in _LIGHT


def _describe_display(data: bytes, chromaticity: int | None, luminance: int | None) -> str:
    """Returns AVMasteringDisplayMetadata as G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)."""
    numbers = struct.unpack("=20i", data[:80])
    values = [a / b if b else 0.0 for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    *colors, darkest, brightest = values

    def pair(a: float, b: float, steps: int | None) -> str:
        return f"({a:.6f},{b:.6f})" if steps is None else f"({round(a * steps)},{round(b * steps)})"

    red, green, blue, white = (pair(*colors[i : i + 2], chromaticity) for i in (0, 2, 4, 6))
    return f"G{green}B{blue}R{red}WP{white}L{pair(brightest, darkest, luminance)}"
