"""The error of files and folders, and output that is either whole under its final name or not
there at all."""

import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "the file is too large for this disk; choose another folder",
    errno.EACCES: "permission is denied; choose another folder or change its permissions",
    errno.EPERM: "permission is denied; choose another folder or change its permissions",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOENT: "it does not exist; check the path",
}
_NUMBERED_IMAGE = re.compile(r"\d{8}\.png")


class FileError(OSError):
    """A file can't be read or written; the message says which, why, and what to do next."""


@contextmanager
def plain_errors(doing: str, path: Path, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise system errors, and those named in `also`, as FileErrors about `path`."""
    try:
        yield
    except FileError:
        raise
    except (OSError, *also) as error:
        reason = _ADVICE.get(getattr(error, "errno", None) or 0)
        if reason is None:
            reason = f"{getattr(error, 'strerror', None) or error or type(error).__name__}"
        raise FileError(f"Can't {doing} {path}: {reason}.") from error


def refuse_same_file(source: str | Path, destination: str | Path) -> None:
    """Raise FileError if both names stand for one file or folder, whatever the spelling."""
    if os.path.exists(destination) and os.path.samefile(source, destination):
        raise FileError(f"{destination} is the input itself; choose another name for the output.")


@contextmanager
def atomic_output(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its final name only when the block ends
    well; it is removed otherwise.

    A name without a suffix, and an existing folder, stand for a folder of numbered images: then
    the temporary path is a new, empty folder. Nothing but an empty folder is replaced unless
    `overwrite` is set, and a folder only if all it holds are numbered images such as ours.

    Raises FileError if the folder around `path` is missing (none are created) or not writable,
    if `path` is taken, or if nothing was written.
    """
    shown, path = path, Path(os.path.realpath(path))  # a link stays, and its target is replaced
    as_folder = path.is_dir() or not path.suffix
    _check_destination(path, shown, as_folder, overwrite)
    temporary = path.with_name(f".rife-{secrets.token_hex(6)}{path.suffix}")
    try:
        with plain_errors("write", shown):
            temporary.mkdir() if as_folder else temporary.touch(exist_ok=False)
        yield temporary
        with plain_errors("write", shown):
            if not (any(temporary.iterdir()) if as_folder else temporary.stat().st_size):
                raise FileError(f"Nothing was written to {shown}.")
            _check_destination(path, shown, as_folder, overwrite)
            _move_into_place(temporary, path)
    except FileError as error:
        # Readers of the message know the file by its final name.
        raise FileError(str(error).replace(str(temporary), str(shown))) from error
    finally:
        _remove(temporary)


def _check_destination(path: Path, shown: str | Path, as_folder: bool, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise FileError(f"The folder {path.parent} does not exist; create it first.")
    if not path.exists():
        return
    if not as_folder:
        if not overwrite:
            raise FileError(f"{shown} exists; choose another name or allow overwriting.")
        return
    if not path.is_dir():
        raise FileError(f"{shown} is a file; the name of an output file needs a suffix like .mp4.")
    held = [entry.name for entry in path.iterdir()]
    if held and not overwrite:
        raise FileError(f"The folder {shown} is not empty; choose another or allow overwriting.")
    if other := next((name for name in held if not _NUMBERED_IMAGE.fullmatch(name)), None):
        raise FileError(
            f"The folder {shown} holds more than numbered PNG images ({other}), "
            "so it is not overwritten; choose another folder."
        )


def _move_into_place(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(temporary, path)
        return
    aside = temporary.with_name(f"{temporary.name}.old")
    try:
        os.rename(path, aside)
        os.rename(temporary, path)
    except BaseException:
        if aside.exists():
            os.rename(aside, path)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
    except OSError as error:
        logger.warning("%s could not be removed (%s); please delete it.", path, error)
