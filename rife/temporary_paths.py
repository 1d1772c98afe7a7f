"""Names for work that isn't done: each belongs to one process, and what a killed one left behind is
found and put right by the next.

A claim is a hidden file, `.rife-` and 12 hex digits and `-lock`, that its process holds locked as
long as it lives. It names the host, the temporary file or folder, and what that is to become.
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

from .interrupts import held_back

if os.name == "nt":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

_LOCK = re.compile(r"(\.rife-[0-9a-f]{12})-lock")
#: Where a lock is one for all who can reach the file. On network drives it may not be.
_LOCAL = re.compile(
    "apfs|b(cache|tr)fs|exfat|ext[234]|f2fs|fuseblk|hfs|msdos|ntfs3?|overlay|refs|tmpfs|ufs|vfat|"
    "xfs|zfs"
)


def aside(temporary: Path) -> Path:
    """Where a folder that `temporary` is to replace waits until it has."""
    return temporary.with_name(f"{temporary.name}.old")


@contextmanager
def claimed(path: Path) -> Iterator[Path]:
    """Yield a fresh name beside `path`, with its suffix, that belongs to this process until the
    block ends. Raises OSError where nothing can be written."""
    lock = None
    try:
        with held_back():
            stem, lock = _claim(path.parent)
            temporary = path.with_name(stem + path.suffix)
            if lock:
                text = "\0".join([platform.node(), temporary.name, path.name])
                lock.write(os.fsencode(text))
                lock.flush()
        yield temporary
    finally:
        if lock:
            with held_back():
                _remove_lock(lock)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this host left in `folder`, and put back what they had moved
    aside; what may belong to a living one stays."""
    with suppress(OSError):
        locks = [path for path in folder.iterdir() if _LOCK.fullmatch(path.name)]
        if not locks or not _is_local(folder):
            return
        for path in locks:
            with suppress(OSError), open(path, "rb+") as lock:
                if _try_lock(lock) and _is_at(lock, path) and _put_right(folder, path, lock):
                    _remove_lock(lock)


def remove(path: Path) -> None:
    """Remove a file or a folder, or say that it is still there."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s could not be removed (%s); please delete it.", path, error)


def _put_right(folder: Path, path: Path, lock: BinaryIO) -> bool:
    """Whether nothing is left of the claim at `path`, which nobody owns."""
    host, *names = os.fsdecode(lock.read()).split("\0")
    if not host:  # it was killed before there was more
        return True
    stem = _LOCK.fullmatch(path.name)[1]
    if host != platform.node() or len(names) != 2 or not names[0].startswith(stem):
        return False
    temporary, target = (folder / Path(name).name for name in names)
    old = aside(temporary)
    if old.is_dir():
        if not os.path.lexists(target):
            os.rename(old, target)
            logger.warning("%s is as it was before a run that was killed.", target)
        elif temporary.is_dir():  # `target` is neither: something newer
            logger.warning("%s is what %s was before a run that was killed.", old, target)
            return False
        else:
            remove(old)
    if os.path.lexists(temporary):
        remove(temporary)
        logger.info("Removed what a run that was killed had left: %s", temporary)
    return True


def _claim(folder: Path) -> tuple[str, BinaryIO | None]:
    """How a name begins, and the lock that makes it ours; None where files can't be locked."""
    while True:
        stem = f".rife-{secrets.token_hex(6)}"
        path = folder / f"{stem}-lock"
        lock = open(path, "xb+")  # noqa: SIM115 (it stays open as long as the claim)
        try:
            if _try_lock(lock) and _is_at(lock, path):
                return stem, lock
        except OSError:  # it must not be there for a sweep that can
            _remove_lock(lock)
            return stem, None
        lock.close()  # a sweep was faster


def _try_lock(file: BinaryIO) -> bool:
    """Lock it unless someone else does; raises OSError where files can't be locked."""
    try:
        if os.name == "nt":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether `path` is still this file's: who had it locked before may have removed it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _remove_lock(lock: BinaryIO) -> None:
    with suppress(OSError):
        if os.name == "nt":  # which removes no open files
            lock.close()
        os.unlink(lock.name)
    lock.close()


def _is_local(folder: Path) -> bool:
    around = (folder, *folder.parents)
    mounts = [m for m in psutil.disk_partitions(all=True) if Path(m.mountpoint) in around]
    if not mounts:
        return False
    *_, nearest = sorted(mounts, key=lambda mount: len(mount.mountpoint))
    return bool(_LOCAL.fullmatch(nearest.fstype.lower())) and "remote" not in nearest.opts
