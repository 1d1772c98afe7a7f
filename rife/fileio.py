"""The error of files and folders, and output that is either whole under its final name or not
there at all."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .interrupts import held_back
from .temporary_paths import aside, claimed, remove, sweep

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
    """Raise FileError if both names stand for one file or folder, whatever the spelling, or if
    `destination` is a folder that holds `source`, and would be replaced with it."""
    if not (os.path.exists(source) and os.path.exists(destination)):
        return
    if os.path.samefile(source, destination):
        raise FileError(f"{destination} is the input itself; choose another name for the output.")
    for folder in Path(os.path.realpath(source)).parents:
        if os.path.samefile(folder, destination):
            raise FileError(f"{destination} holds the input; choose another folder for the output.")


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal; raises FileError if it can't be read."""
    digest = hashlib.sha256()
    with plain_errors("read", Path(path)), open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_output(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its final name only when the block ends
    well; it is removed otherwise.

    A name without a suffix, and an existing folder, stand for a folder of numbered images: then
    the temporary path is a new, empty folder. Nothing but an empty folder is replaced unless
    `overwrite` is set, and a folder only if all it holds are numbered images such as ours.

    What killed processes left beside `path` is removed first, see `temporary_paths.sweep`.

    Raises FileError if the folder around `path` is missing (none are created) or not writable,
    if `path` is taken, or if nothing was written. If `path` can't be had in the end, though it
    could at first, what was written gets a name like it, which the error says.
    """
    shown = path
    with plain_errors("write", shown, (ValueError,)):  # NUL in a name
        path = Path(os.path.realpath(path))  # a link stays, and its target is replaced
        sweep(path.parent)
        as_folder = os.path.isdir(path) or not path.suffix
        _check_destination(path, shown, as_folder, overwrite)
    with ExitStack() as stack:
        with plain_errors("write", shown):
            temporary = stack.enter_context(claimed(path))
            stack.callback(_discard, temporary)
            temporary.mkdir() if as_folder else temporary.touch(exist_ok=False)
        try:
            yield temporary
        except FileError as error:
            # Readers of the message know the file by its final name.
            raise FileError(str(error).replace(str(temporary), str(shown))) from error
        if not (any(temporary.iterdir()) if as_folder else temporary.stat().st_size):
            raise FileError(f"Nothing was written to {shown}.")
        try:
            with plain_errors("write", shown), held_back():
                _check_destination(path, shown, as_folder, overwrite)
                _move_into_place(temporary, path)
        except FileError as error:
            raise FileError(f"{error} What was made is {_keep(temporary, path)}") from error


def _check_destination(path: Path, shown: str | Path, as_folder: bool, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise FileError(f"The folder {path.parent} does not exist; create it first.")
    if os.path.exists(shown) and not (os.path.isfile(shown) or os.path.isdir(shown)):
        raise FileError(f"{shown} is a pipe or a device; name a file or a folder.")
    try:
        path.lstat()
    except FileNotFoundError:
        return
    if path.is_symlink():
        raise FileError(f"{shown} is a link that leads nowhere; choose another name.")
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
    old = aside(temporary)
    os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(old, path)
        raise
    remove(old)


def _keep(temporary: Path, path: Path) -> Path:
    """Give what was written a name that is free; returns it."""
    for number in range(1, 100):
        name = path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not os.path.lexists(name):
            with suppress(OSError):
                os.rename(temporary, name)
                return name
    kept = path.with_name(temporary.name.replace(".rife-", "rife-"))
    with suppress(OSError):
        os.rename(temporary, kept)
    return kept


def _discard(temporary: Path) -> None:
    with held_back():
        remove(temporary)
