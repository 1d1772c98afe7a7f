"""What reading and writing need to know of FFmpeg's containers and streams."""

from pathlib import Path

import av

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


def file_url(path: Path) -> str:
    """A path as FFmpeg takes it: it would read what precedes a colon as a protocol."""
    return f"file:{path}"


def kept_tags(holder: av.container.InputContainer | av.stream.Stream) -> dict[str, str]:
    return {key: value for key, value in holder.metadata.items() if key.lower() not in _FILE_TAGS}


def describe(stream: av.stream.Stream) -> str:
    name = stream.codec_context.name if stream.codec_context else None
    return f"{name} {stream.type}" if name else f"{stream.type}"


def disposition(stream: av.stream.Stream) -> int:
    """PyAV gives a Flag or a plain number, depending on its version."""
    return int(getattr(stream.disposition, "value", stream.disposition))
