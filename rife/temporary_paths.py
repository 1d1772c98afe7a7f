"""Temporary files and folders, and their removal if the process that wrote them is killed.

Each temporary path has a lock file beside it, named `.rife-`, 12 hexadecimal digits and `-lock`.
Its process keeps the lock file locked for as long as it uses the path. The lock file names the
host, the temporary path and the final path. One that nobody has locked is of a process that was
killed: the next run in the folder removes what that process left, and restores a folder that it was
about to replace.
"""

import logging
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from .interrupts import delay_signals

if os.name == "nt":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

_LOCK_NAME = re.compile(r"(\.rife-[0-9a-f]{12})-lock")
#: File systems on which every process that can open a file sees its lock; on network drives some
#: may not.
_LOCAL_FILE_SYSTEMS = re.compile(
    "apfs|b(cache|tr)fs|exfat|ext[234]|f2fs|fuseblk|hfs|msdos|ntfs3?|overlay|refs|tmpfs|ufs|vfat|"
    "xfs|zfs"
)


def backup_path(temporary: Path) -> Path:
    """Returns where an existing folder is moved while the temporary one takes its place."""
    return temporary.with_name(f"{temporary.name}.old")


@contextmanager
def reserve_temporary_path(path: Path) -> Iterator[Path]:
    """Reserves a temporary path for this process until the block ends.

    Args:
        path: What the temporary file or folder is to become.

    Yields:
        A new path in the same folder and with the same suffix. Nothing is created there.

    Raises:
        OSError: The folder can't be written to.
    """
    lock = None
    try:
        with delay_signals():
            stem, lock = _create_lock(path.parent)
            temporary = path.with_name(stem + path.suffix)
            if lock:
                text = "\0".join([platform.node(), temporary.name, path.name])
                lock.write(os.fsencode(text))
                lock.flush()
        yield temporary
    finally:
        if lock:
            with delay_signals():
                _remove_lock(lock)


def clean_up_after_killed_runs(folder: Path) -> None:
    """Removes what killed processes of this host left in a folder, and restores what they moved.

    Whatever may belong to a running process, or to another host, stays.
    """
    with suppress(OSError):
        lock_paths = [path for path in folder.iterdir() if _LOCK_NAME.fullmatch(path.name)]
        if not lock_paths or not _is_local(folder):
            return
        for path in lock_paths:
            with suppress(OSError), open(path, "rb+") as lock:
                if _try_lock(lock) and _is_file_at(lock, path) and _clean_up(folder, path, lock):
                    _remove_lock(lock)


def remove_path(path: Path) -> None:
    """Removes a file or a folder; if that fails, logs that the user has to."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s could not be removed (%s); please delete it.", path, error)


def _clean_up(folder: Path, lock_path: Path, lock: BinaryIO) -> bool:
    """Cleans up after the killed process of a lock; returns whether the lock can go, too."""
    host, *names = os.fsdecode(lock.read()).split("\0")
    if not host:  # the process was killed before it wrote anything
        return True
    stem = _LOCK_NAME.fullmatch(lock_path.name)[1]
    if host != platform.node() or len(names) != 2 or not names[0].startswith(stem):
        return False
    temporary, target = (folder / Path(name).name for name in names)
    backup = backup_path(temporary)
    if backup.is_dir():
        if not os.path.lexists(target):
            os.rename(backup, target)
            logger.warning("%s is as it was before a run that was killed.", target)
        elif temporary.is_dir():  # the killed run had not replaced `target`: someone else wrote it
            logger.warning("%s is what %s was before a run that was killed.", backup, target)
            return False
        else:
            remove_path(backup)
    if os.path.lexists(temporary):
        remove_path(temporary)
        logger.info("Removed what a run that was killed had left: %s", temporary)
    return True


def _create_lock(folder: Path) -> tuple[str, BinaryIO | None]:
    """Returns the start of a new temporary name, and its lock; None where files can't be locked."""
    while True:
        stem = f".rife-{secrets.token_hex(6)}"
        path = folder / f"{stem}-lock"
        lock = open(path, "xb+")  # noqa: SIM115 (open for as long as the path is reserved)
        try:
            if _try_lock(lock) and _is_file_at(lock, path):
                return stem, lock
        except OSError:
            # Left there, another host that can lock it would take this process for a killed one.
            _remove_lock(lock)
            return stem, None
        lock.close()  # another process took it for a killed one's, and locked it first


def _try_lock(file: BinaryIO) -> bool:
    """Locks a file; returns False if another process has. Raises OSError if it can't be locked."""
    try:
        if os.name == "nt":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_file_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at `path`: another process may have removed it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _remove_lock(lock: BinaryIO) -> None:
    with suppress(OSError):
        if os.name == "nt":  # Windows removes no open files
            lock.close()
        os.unlink(lock.name)
    lock.close()


def _is_local(folder: Path) -> bool:
    parents = (folder, *folder.parents)
    mounts = [m for m in psutil.disk_partitions(all=True) if Path(m.mountpoint) in parents]
    if not mounts:
        return False
    *_, nearest = sorted(mounts, key=lambda mount: len(mount.mountpoint))
    is_local_kind = bool(_LOCAL_FILE_SYSTEMS.fullmatch(nearest.fstype.lower()))
    return is_local_kind and "remote" not in nearest.opts
