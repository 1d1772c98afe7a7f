"""What reading and writing need to know of FFmpeg's containers and streams."""

import re
from dataclasses import dataclass
from pathlib import Path

import av
import av.logging

# FFmpeg reports damage as ValueError, too; av.FFmpegError covers it all.
AV_ERRORS = (av.FFmpegError, ValueError, EOFError)
# Tags that describe the input file rather than what is in it.
_FILE_TAGS = {
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
    "alpha_mode",
}

#: What frames carry beside the picture: what some encoders keep, and what none does.
KEPT_SIDE_DATA = ["MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"]
LOST_SIDE_DATA = ["DYNAMIC_HDR_PLUS", "DOVI_METADATA", "DYNAMIC_HDR_VIVID", "STEREO3D", "SPHERICAL"]


@dataclass(frozen=True)
class PacketTimes:
    """The times of a packet.

    Attributes:
        decoded: When it is decoded, seconds; None: not stated.
        shown: When it is shown or played, seconds; when it is decoded where that is not stated.
        length: Seconds for which it is shown or played; 0: not stated.
    """

    decoded: float | None
    shown: float | None
    length: float

    @classmethod
    def of(cls, packet: av.Packet) -> "PacketTimes":
        base = packet.time_base
        decoded = None if packet.dts is None else float(packet.dts * base)
        shown = decoded if packet.pts is None else float(packet.pts * base)
        return cls(decoded, shown, float((packet.duration or 0) * base))

    @property
    def start(self) -> float:
        """When it is shown or played; 0 if that is not stated."""
        return 0.0 if self.shown is None else self.shown

    @property
    def end(self) -> float:
        return self.start + self.length


def file_url(path: Path) -> str:
    """Returns a path as FFmpeg takes it: it would read what precedes a colon as a protocol."""
    return f"file:{path}"


def kept_tags(holder: av.container.InputContainer | av.stream.Stream) -> dict[str, str]:
    return {key: value for key, value in holder.metadata.items() if key.lower() not in _FILE_TAGS}


def describe(stream: av.stream.Stream) -> str:
    name = codec_name(stream)
    return f"{name} {stream.type}" if name else f"{stream.type}"


def codec_name(stream: av.stream.Stream) -> str | None:
    """Returns FFmpeg's name, or four letters from the file if it has no decoder; None: the file
    tells nothing."""
    if stream.codec_context is not None:
        return stream.codec_context.name
    # PyAV knows nothing of a stream without a decoder, but FFmpeg's summary of the file does.
    summary = summarize(stream.container)
    match = re.search(rf"Stream #0:{stream.index}\b.*?: \w+: (\w+)(?: \((\S+) /)?", summary)
    name = match and (match[2] if match[1] in ("none", "unknown") else match[1])
    return name or None


def summarize(container: av.container.InputContainer) -> str:
    """Returns what FFmpeg's own programs print of a file."""
    level = av.logging.get_level()
    try:
        av.logging.set_level(av.logging.INFO)
        return container.dumps_format()
    finally:
        av.logging.set_level(level)


def disposition(stream: av.stream.Stream) -> int:
    """Returns what a stream is marked as, which PyAV gives as a Flag or a plain number."""
    return int(getattr(stream.disposition, "value", stream.disposition))


def is_cover(stream: av.stream.Stream) -> bool:
    """Returns whether a video stream is a still picture that stands for the file."""
    return bool(disposition(stream) & av.stream.Disposition.attached_pic.value)
