"""Clips on disk: videos with their sound (PyAV), animated pictures and folders of images (Pillow).

`open_reader` and `create_writer` choose by the name; what they return is a `Reader`, an iterable of
`Frame`s, and a `Writer`, which takes frames.
"""

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from ..fileio import FileError, raise_file_errors
from .animation_writers import ANIMATIONS_WRITTEN
from .animations import ANIMATIONS_READ, AnimationReader
from .base import Edit, Reader, Writer
from .encoders import FILE_FORMATS, Encoding
from .folders import FolderReader, FolderWriter
from .reader import VideoReader
from .streams import describe
from .writer import VideoWriter

logger = logging.getLogger(__name__)


def open_reader(
    path: str | Path,
    frame_rate: Fraction = Fraction(24),
    start: Fraction | float = Fraction(0),
    duration: Fraction | float | None = None,
    interlaced: str = "deinterlace",
    edit: Edit | None = None,
) -> Reader:
    """Opens a video file, an animated GIF, WebP or PNG, or a folder of images.

    Args:
        path: The file or folder.
        frame_rate: Of a folder, which has none of its own; frames a second.
        start: When the part of a video file to read begins, seconds (see `VideoReader`).
        duration: Seconds that this part lasts; None: to the file's end.
        interlaced: "deinterlace" makes interlaced video progressive, "keep" leaves it as it is.
        edit: What is done to each image first, such as a crop.

    Raises:
        FileError: There is nothing readable at `path`, or no frame in that part.
    """
    reader = _open_reader(Path(path), frame_rate, start, duration, interlaced)
    if edit:
        reader.apply(edit)
    return reader


def _open_reader(
    path: Path,
    frame_rate: Fraction,
    start: Fraction | float,
    duration: Fraction | float | None,
    interlaced: str,
) -> Reader:
    part = start > 0 or duration is not None
    if part and (path.is_dir() or path.suffix.lower() in ANIMATIONS_READ):
        raise FileError(f"A part can be read of video files only; {path} is read whole or not.")
    if path.is_dir():
        return FolderReader(path, frame_rate)
    with raise_file_errors("read", path):
        if not path.stat().st_size:
            raise FileError(f"{path} is empty.")
    if path.suffix.lower() in ANIMATIONS_READ:
        return AnimationReader(path)
    return VideoReader(path, start, duration, interlaced)


def create_writer(
    path: str | Path,
    like: Reader,
    frame_rate: Fraction,
    encoding: Encoding = Encoding(),  # noqa: B008 (frozen)
    *,
    time_base: Fraction | None = None,
    sound: bool = True,
    show_at: Callable[[Fraction], Fraction] | None = None,
) -> Writer:
    """Starts an output whose kind follows from `path`.

    An existing folder is filled with numbered PNG images; .gif, .webp and .apng become animations;
    other files are videos (see `VideoWriter`).

    Args:
        path: The file, or an existing folder.
        like: The input's reader; size, transparency, colours, sound and tags are taken from it.
        frame_rate: Frames a second, on average.
        encoding: Of a video: quality, encoder and pixel format.
        time_base: Of a video: see `VideoWriter`.
        sound: Of a video: whether to keep sound and subtitles.
        show_at: Of a video: see `VideoWriter`.

    Raises:
        FileError: The suffix is unknown, or settings don't go together.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix in FILE_FORMATS and not path.is_dir():
        return VideoWriter(
            path, like, frame_rate, encoding,
            time_base=time_base, sound=sound, show_at=show_at,
        )  # fmt: skip
    if encoding.codec or encoding.pixel_format:
        raise FileError(f"A codec and pixel format can be chosen for video only, not for {path}.")
    if isinstance(like, VideoReader):
        _warn_of_what_pictures_lose(suffix or "A folder", like, sound)
    if path.is_dir():
        return FolderWriter(path, like)
    if suffix in ANIMATIONS_WRITTEN:
        return ANIMATIONS_WRITTEN[suffix](path, like, frame_rate)
    known = ", ".join([*FILE_FORMATS, *ANIMATIONS_WRITTEN])
    raise FileError(f"Can't write {suffix or 'unnamed'} files; the name may end in {known}.")


def _warn_of_what_pictures_lose(kind: str, like: VideoReader, sound: bool) -> None:
    others = [describe(stream) for stream in like.other_streams] if sound else []
    if others:
        logger.warning("%s holds pictures alone; left out: %s.", kind, ", ".join(others))
    if like.colors.is_hdr:
        logger.warning(
            "%s can't say that its colours are HDR: they are kept as they are and look pale.", kind
        )
