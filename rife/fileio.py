"""File errors that tell the user what to do, and output files that appear only when complete."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .interrupts import delay_signals
from .temporary_paths import (
    backup_path,
    clean_up_after_killed_runs,
    remove_path,
    reserve_temporary_path,
)

_ADVICE_BY_ERRNO = {
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
def raise_file_errors(
    action: str, path: Path, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Within the block, errors of the system are raised as FileErrors.

    Args:
        action: What the block does with the file, for the message, such as "read" or "write".
        path: The file or folder, for the message.
        also: Exceptions to treat in the same way as OSError.

    Raises:
        FileError: The block raised an OSError, or one of `also`.
    """
    try:
        yield
    except FileError:
        raise
    except (OSError, *also) as error:
        reason = _ADVICE_BY_ERRNO.get(getattr(error, "errno", None) or 0)
        if reason is None:
            reason = f"{getattr(error, 'strerror', None) or error or type(error).__name__}"
        raise FileError(f"Can't {action} {path}: {reason}.") from error


def refuse_same_file(source: str | Path, destination: str | Path) -> None:
    """Checks that an output would not overwrite its own input.

    Args:
        source: The input file or folder.
        destination: The output. If it is a folder, it would be replaced with all that it holds.

    Raises:
        FileError: Both are one file or folder, however they are spelled, or the destination is a
            folder that holds the source.
    """
    if not (os.path.exists(source) and os.path.exists(destination)):
        return
    if os.path.samefile(source, destination):
        raise FileError(f"{destination} is the input itself; choose another name for the output.")
    for folder in Path(os.path.realpath(source)).parents:
        if os.path.samefile(folder, destination):
            raise FileError(f"{destination} holds the input; choose another folder for the output.")


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, in hexadecimal; raises FileError if it can't be read."""
    digest = hashlib.sha256()
    with raise_file_errors("read", Path(path)), open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_output(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Provides a temporary path for an output, which takes its final name when the block succeeds.

    If the block fails, the temporary file or folder is removed. What killed runs left in the same
    folder is removed before the block runs (see `temporary_paths`).

    Args:
        path: The final path. A name without a suffix, or an existing folder, stands for a folder of
            numbered images. Its parent folder has to exist.
        overwrite: Whether an existing output is replaced. Folders are replaced only if they hold
            nothing but numbered images; empty ones in any case.

    Yields:
        The temporary path, beside the final one: an empty file, or an empty folder.

    Raises:
        FileError: The output can't be written, already exists, or nothing was written to it. If
            only the last step fails, since something else appeared at `path` meanwhile, the
            output is kept under a similar name, which the message says.
    """
    user_path = path
    with raise_file_errors("write", user_path, (ValueError,)):  # NUL in a name
        path = Path(os.path.realpath(path))  # a link stays, and its target is replaced
        clean_up_after_killed_runs(path.parent)
        is_folder = os.path.isdir(path) or not path.suffix
        _check_destination(path, user_path, is_folder, overwrite)
    with ExitStack() as stack:
        with raise_file_errors("write", user_path):
            temporary = stack.enter_context(reserve_temporary_path(path))
            stack.callback(_discard, temporary)
            temporary.mkdir() if is_folder else temporary.touch(exist_ok=False)
        try:
            yield temporary
        except FileError as error:
            # The user knows the file by its final name.
            raise FileError(str(error).replace(str(temporary), str(user_path))) from error
        if not (any(temporary.iterdir()) if is_folder else temporary.stat().st_size):
            raise FileError(f"Nothing was written to {user_path}.")
        try:
            with raise_file_errors("write", user_path), delay_signals():
                _check_destination(path, user_path, is_folder, overwrite)
                _move_into_place(temporary, path)
        except FileError as error:
            raise FileError(f"{error} What was made is {_keep_output(temporary, path)}") from error


def _check_destination(path: Path, user_path: str | Path, is_folder: bool, overwrite: bool) -> None:
    """Raises FileError if the output must not go to `path`, which the user calls `user_path`."""
    if not path.parent.is_dir():
        raise FileError(f"The folder {path.parent} does not exist; create it first.")
    if os.path.exists(user_path) and not (os.path.isfile(user_path) or os.path.isdir(user_path)):
        raise FileError(f"{user_path} is a pipe or a device; name a file or a folder.")
    try:
        path.lstat()
    except FileNotFoundError:
        return
    if path.is_symlink():
        raise FileError(f"{user_path} is a link that leads nowhere; choose another name.")
    if not is_folder:
        if not overwrite:
            raise FileError(f"{user_path} exists; choose another name or allow overwriting.")
        return
    if not path.is_dir():
        raise FileError(
            f"{user_path} is a file; the name of an output file needs a suffix like .mp4."
        )
    entries = [entry.name for entry in path.iterdir()]
    if entries and not overwrite:
        raise FileError(
            f"The folder {user_path} is not empty; choose another or allow overwriting."
        )
    if other := next((name for name in entries if not _NUMBERED_IMAGE.fullmatch(name)), None):
        raise FileError(
            f"The folder {user_path} holds more than numbered PNG images ({other}), "
            "so it is not overwritten; choose another folder."
        )


def _move_into_place(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(temporary, path)
        return
    backup = backup_path(temporary)
    os.rename(path, backup)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(backup, path)
        raise
    remove_path(backup)


def _keep_output(temporary: Path, path: Path) -> Path:
    """Moves the output to a free name like `path`; returns it."""
    for number in range(1, 100):
        numbered = path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not os.path.lexists(numbered):
            with suppress(OSError):
                os.rename(temporary, numbered)
                return numbered
    unhidden = path.with_name(temporary.name.replace(".rife-", "rife-"))
    with suppress(OSError):
        os.rename(temporary, unhidden)
    return unhidden


def _discard(temporary: Path) -> None:
    with delay_signals():
        remove_path(temporary)
