"""Downloads published models; a file appears under its name only when it is whole and checked.

For a file on the Hugging Face Hub, huggingface_hub is asked for its size, its sha256 and the
headers to send, so that mirrors, tokens and offline mode work as elsewhere. The bytes of every file
are received here: huggingface_hub's own download can't resume after a lost connection (over Xet),
and most of its versions neither report progress nor can be cancelled.
"""

import hashlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..callbacks import Cancel, Cancelled
from ..fileio import FileError, raise_file_errors, sha256
from .checkpoint import CheckpointError, load_model
from .zoo import HubFile, PublishedModel

logger = logging.getLogger(__name__)

#: Called with the bytes received so far and the bytes in all, None if unknown.
DownloadProgress = Callable[[int, int | None], None]

USER_AGENT = "comfyui-rife"
#: Seconds without a byte after which a connection counts as lost.
TIMEOUT = 30
#: Seconds to wait before each further attempt. They start anew once an attempt has received more
#: than CHUNK_SIZE.
RETRY_DELAYS = (1, 2, 4)
#: The most bytes received between two calls of `cancel`.
CHUNK_SIZE = 1 << 18
#: The most bytes that a download may have; no model is a tenth as large.
MAX_SIZE = 1 << 30

_REASONS_BY_STATUS = {
    401: "it asks for a login",
    403: "it denies access",
    404: "the file isn't there any more",
    416: "it has another version of the file",
    429: "it is asked too often; try again later",
}
#: The statuses below 500 after which another attempt may succeed.
_TEMPORARY_STATUSES = (408, 416, 429)


class DownloadError(FileError):
    """A model can't be downloaded; the message says why, and how to get it by hand."""


class _Rejected(Exception):
    """The server doesn't send the file, or sends something else; another attempt won't help."""


class _ConnectionLost(Exception):
    """The download was interrupted; another attempt may succeed."""


def download_model(
    entry: PublishedModel,
    folder: str | os.PathLike,
    progress: DownloadProgress | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """Downloads a published model, unless the folder has a file of its name already.

    The bytes go to a hidden file beside the final one. It takes the final name when its size, its
    sha256 and the network in it are what the entry and the server say. After a lost connection, a
    cancel or a kill it stays there, and the next call resumes it. If another process downloads the
    same file, this one waits for it.

    Args:
        entry: The model, a value of `ZOO`.
        folder: Where the file goes; created if missing.
        progress: Called as (bytes received, bytes in all or None).
        cancel: Called between chunks. If it returns True, Cancelled is raised.

    Returns:
        The path of the file.

    Raises:
        DownloadError: The file can't be downloaded, or isn't the published one.
        Cancelled: `cancel` returned True.
    """
    folder = Path(folder)
    target = folder / entry.name
    if target.is_file():
        return target
    try:
        with raise_file_errors("write", target):
            folder.mkdir(parents=True, exist_ok=True)
            with _exclusive_lock(folder / f".{entry.name}.lock", cancel):
                if not target.is_file():  # another process may have downloaded it meanwhile
                    os.replace(_Download(entry, folder, progress, cancel).run(), target)
    except (FileError, _Rejected, _ConnectionLost) as error:
        raise DownloadError(
            f"{entry.name} was not downloaded: {str(error).rstrip('.')}. To do it by hand, open "
            f"{entry.source.url} in a browser and save it as {entry.name} in the folder {folder}."
        ) from error
    return target


@dataclass(frozen=True)
class _RemoteFile:
    """What is known of a file on a server before it is requested.

    Attributes:
        url: Its address.
        size: In bytes, or None.
        sha256: In hexadecimal, or None.
        headers: To send with requests to that address, but not where it redirects to.
    """

    url: str
    size: int | None
    sha256: str | None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Download:
    """One download into a hidden file in the folder.

    The hidden file's name is `.NAME.TAG.part`, where TAG stands for the server's version (ETag) of
    the file, so that parts of two versions are never joined.
    """

    entry: PublishedModel
    folder: Path
    progress: DownloadProgress | None
    cancel: Cancel | None

    def run(self) -> Path:
        """Returns the hidden file, whole and checked."""
        remote = self._find_remote_file()
        delays, last_size = iter(RETRY_DELAYS), self._part_size()
        while True:
            try:
                part = self._receive(remote)
                break
            except _ConnectionLost as error:
                if self._part_size() >= last_size + CHUNK_SIZE:
                    delays, last_size = iter(RETRY_DELAYS), self._part_size()
                delay = next(delays, None)
                if delay is None:
                    raise
                logger.warning("%s: %s; trying again", self.entry.name, error)
                self._wait(delay)
        try:
            self._check(part, remote)
        except _Rejected:
            part.unlink()
            raise
        return part

    def _find_remote_file(self) -> _RemoteFile:
        entry, url = self.entry, self.entry.source.url
        as_listed = _RemoteFile(url, entry.size, entry.sha256)
        if not isinstance(entry.source, HubFile):
            return as_listed
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise _Rejected("HF_HUB_OFFLINE forbids to ask the Hugging Face Hub")
        try:
            from huggingface_hub import get_hf_file_metadata
            from huggingface_hub.utils import build_hf_headers
        except ImportError:
            return as_listed
        try:
            metadata = get_hf_file_metadata(url, timeout=TIMEOUT, library_name=USER_AGENT)
        except Exception as error:  # of requests or of httpx, by its version
            status = getattr(getattr(error, "response", None), "status_code", None)
            raise _Rejected(str(_connection_error(status, error))) from error
        # The ETag of a file in Git LFS is its sha256; that of other files is shorter.
        hub_sha256 = metadata.etag if len(metadata.etag or "") == 64 else None
        if entry.sha256 and hub_sha256 and hub_sha256 != entry.sha256:
            raise _Rejected(f"the Hub has another file there by now (sha256 {hub_sha256})")
        headers = build_hf_headers(library_name=USER_AGENT)
        return _RemoteFile(url, entry.size or metadata.size, hub_sha256 or entry.sha256, headers)

    def _receive(self, remote: _RemoteFile) -> Path:
        """Appends the missing bytes to the hidden file, and returns that."""
        part, part_size = self._find_part(), self._part_size()
        if part and part_size == remote.size:  # a run was killed before it could check the file
            return part
        with self._request(remote, part_size) as response:
            if response.headers.get_content_type() == "text/html":
                raise _Rejected("the server sends a web page (a login or an error), not the file")
            start = part_size if response.status == 206 else 0
            total = remote.size if response.length is None else start + response.length
            if total and total > MAX_SIZE:
                raise _Rejected(f"the server's file has {total:,} bytes, as no model has")
            if total and remote.size and total != remote.size:
                raise _Rejected(f"the server's file has {total:,} bytes, not {remote.size:,}")
            tag = hashlib.sha256(response.headers.get("ETag", "").encode()).hexdigest()[:8]
            new_part = self.folder / f".{self.entry.name}.{tag}.part"
            sent = response.headers.get("Content-Range", f"bytes {start}-")
            is_continuation = part == new_part and start and sent.startswith(f"bytes {start}-")
            if part and not is_continuation:
                part.unlink()
                if start:
                    raise _ConnectionLost(_REASONS_BY_STATUS[416])
            self._copy(response, new_part, start, total)
        return new_part

    def _request(self, remote: _RemoteFile, start: int) -> HTTPResponse:
        request = urllib.request.Request(remote.url, headers={"User-Agent": USER_AGENT})
        for name, value in remote.headers.items():  # a redirect must not get the user's token
            request.add_unredirected_header(name, value)
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            with _network_errors():
                return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code == 416 and (part := self._find_part()):
                part.unlink()
            raise _connection_error(error.code, error) from error

    def _copy(self, response: HTTPResponse, path: Path, received: int, total: int | None) -> None:
        limit = total or MAX_SIZE
        with open(path, "ab") as file:
            while received <= limit:
                if self.progress:
                    self.progress(received, total)
                _stop_if_cancelled(self.cancel)
                with _network_errors():
                    # read1 returns what has arrived; `read` would wait for a whole chunk.
                    chunk = response.read1(CHUNK_SIZE)
                if not chunk:
                    break
                received += len(chunk)
                file.write(chunk)
        if received > limit:
            path.unlink()
            raise _Rejected(f"the server sends more than the {limit:,} bytes that the file has")
        if total is not None and received < total:
            raise _ConnectionLost(f"the connection broke after {received:,} of {total:,} bytes")

    def _check(self, path: Path, remote: _RemoteFile) -> None:
        size = path.stat().st_size
        if remote.size and size != remote.size:
            raise _Rejected(f"what arrived has {size:,} bytes, not {remote.size:,}")
        if remote.sha256 and (digest := sha256(path)) != remote.sha256:
            raise _Rejected(f"what arrived has the sha256 {digest}, not {remote.sha256}")
        try:
            version = load_model(path, device="cpu", dtype=torch.float32).version
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise _Rejected(f"what arrived can't be used: {reason}") from error
        if version != f"RIFE {self.entry.version}":
            raise _Rejected(f"what arrived is {version}, not {self.entry.version}")

    def _find_part(self) -> Path | None:
        return next(self.folder.glob(f".{self.entry.name}.*.part"), None)

    def _part_size(self) -> int:
        part = self._find_part()
        return part.stat().st_size if part else 0

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _stop_if_cancelled(self.cancel)
            time.sleep(min(0.2, seconds))


def _stop_if_cancelled(cancel: Cancel | None) -> None:
    if cancel and cancel():
        raise Cancelled("the download was cancelled")


@contextmanager
def _exclusive_lock(path: Path, cancel: Cancel | None) -> Iterator[None]:
    """Holds a lock on the file at `path`; the system releases it if the process dies."""
    lock = FileLock(path)
    while True:
        _stop_if_cancelled(cancel)
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _network_errors() -> Iterator[None]:
    """Raises errors of the connection as _ConnectionLost; those with a status stay HTTPErrors."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, HTTPException) as error:
        raise _connection_error(None, getattr(error, "reason", error)) from error


def _connection_error(status: int | None, error: object) -> _ConnectionLost | _Rejected:
    """The exception for a server's status, or for no answer at all."""
    if status is None:
        return _ConnectionLost(f"no connection ({error})")
    kind = _ConnectionLost if status >= 500 or status in _TEMPORARY_STATUSES else _Rejected
    return kind(f"the server answers {status}: {_REASONS_BY_STATUS.get(status, 'an error')}")
