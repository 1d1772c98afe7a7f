"""Getting a published model: whole, checked and under its name, or not there at all.

The Hugging Face Hub is asked through huggingface_hub for a file's size and sha256, so that mirrors,
tokens and offline mode work as elsewhere. The bytes come one way from everywhere: a download of
huggingface_hub's own can't go on after a cut (over Xet), nor, in most of its versions, report its
progress or be cancelled.
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
from ..fileio import FileError, plain_errors, sha256
from .checkpoint import CheckpointError, load_model
from .zoo import HubFile, Published

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

AGENT = "comfyui-rife"
TIMEOUT = 30  # seconds without a byte
PAUSES = (1, 2, 4)  # seconds before further attempts; a chunk more than ever starts them again
CHUNK = 1 << 18  # bytes between looks at `cancel`, at most
LARGEST = 1 << 30  # bytes; no model is a tenth of it

_ANSWERS = {
    401: "it asks for a login",
    403: "it denies access",
    404: "the file isn't there any more",
    416: "it has another version of the file",
    429: "it is asked too often; try again later",
}
#: Statuses below 500 after which it is worth trying again.
_PASSING = (408, 416, 429)


class DownloadError(FileError):
    """A model can't be downloaded; the message says why, and how to get it by hand."""


class _Refused(Exception):
    """What the server has is not to be had, or not the file."""


class _Cut(Exception):
    """The connection failed, in a way that may pass."""


def fetch(
    entry: Published,
    folder: str | os.PathLike,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """The path of `entry` in `folder`, downloaded if it isn't there.

    progress: called as (bytes done, bytes in all or None). cancel: called between chunks;
        returning True raises Cancelled, and an exception of its own goes through.

    The file takes its name when its size, its sha256 and the network in it are what the entry and
    the server say. What has arrived before a cut, a cancel or a kill is kept, hidden, for the next
    call to go on from. A second process waits for the first. Raises DownloadError.
    """
    folder = Path(folder)
    target = folder / entry.name
    if target.is_file():
        return target
    try:
        with plain_errors("write", target):
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder / f".{entry.name}.lock", cancel):
                if not target.is_file():  # else another process was first
                    os.replace(_Download(entry, folder, progress, cancel).run(), target)
    except (FileError, _Refused, _Cut) as error:
        raise DownloadError(
            f"{entry.name} was not downloaded: {str(error).rstrip('.')}. To do it by hand, open "
            f"{entry.source.url} in a browser and save it as {entry.name} in the folder {folder}."
        ) from error
    return target


@dataclass(frozen=True)
class _Offer:
    """What is known of a file before its first byte."""

    url: str
    size: int | None
    sha256: str | None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Download:
    """One download into a hidden file beside the final one.

    That file's name ends in a mark of the server's version, so that two are never mixed.
    """

    entry: Published
    folder: Path
    progress: Progress | None
    cancel: Cancel | None

    def run(self) -> Path:
        """The hidden file, whole and checked."""
        offer = self._ask()
        pauses, most = iter(PAUSES), self._size()
        while True:
            try:
                part = self._receive(offer)
                break
            except _Cut as error:
                if self._size() >= most + CHUNK:
                    pauses, most = iter(PAUSES), self._size()
                pause = next(pauses, None)
                if pause is None:
                    raise
                logger.warning("%s: %s; trying again", self.entry.name, error)
                self._wait(pause)
        try:
            self._check(part, offer)
        except _Refused:
            part.unlink()
            raise
        return part

    def _ask(self) -> _Offer:
        entry, url = self.entry, self.entry.source.url
        known = _Offer(url, entry.size, entry.sha256)
        if not isinstance(entry.source, HubFile):
            return known
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise _Refused("HF_HUB_OFFLINE forbids to ask the Hugging Face Hub")
        try:
            from huggingface_hub import get_hf_file_metadata
            from huggingface_hub.utils import build_hf_headers
        except ImportError:
            return known
        try:
            stated = get_hf_file_metadata(url, timeout=TIMEOUT, library_name=AGENT)
        except Exception as error:  # of requests or of httpx, as its version has it
            status = getattr(getattr(error, "response", None), "status_code", None)
            raise _Refused(str(_failure(status, error))) from error
        # The hash of what Git LFS holds; other files' etag is no sha256.
        lfs = stated.etag if len(stated.etag or "") == 64 else None
        if entry.sha256 and lfs and lfs != entry.sha256:
            raise _Refused(f"the Hub has another file there by now (sha256 {lfs})")
        headers = build_hf_headers(library_name=AGENT)
        return _Offer(url, entry.size or stated.size, lfs or entry.sha256, headers)

    def _receive(self, offer: _Offer) -> Path:
        """Get what is missing of the file."""
        part, have = self._part(), self._size()
        if part and have == offer.size:  # killed before it could be checked
            return part
        with self._open(offer, have) as response:
            if response.headers.get_content_type() == "text/html":
                raise _Refused("the server sends a web page (a login or an error), not the file")
            start = have if response.status == 206 else 0
            total = offer.size if response.length is None else start + response.length
            if total and total > LARGEST:
                raise _Refused(f"the server's file has {total:,} bytes, as no model has")
            if total and offer.size and total != offer.size:
                raise _Refused(f"the server's file has {total:,} bytes, not {offer.size:,}")
            mark = hashlib.sha256(response.headers.get("ETag", "").encode()).hexdigest()[:8]
            current = self.folder / f".{self.entry.name}.{mark}.part"
            sent = response.headers.get("Content-Range", f"bytes {start}-")
            if part and (part != current or not start or not sent.startswith(f"bytes {start}-")):
                part.unlink()
                if start:
                    raise _Cut(_ANSWERS[416])
            self._copy(response, current, start, total)
        return current

    def _open(self, offer: _Offer, start: int) -> HTTPResponse:
        request = urllib.request.Request(offer.url, headers={"User-Agent": AGENT})
        for name, value in offer.headers.items():  # a token is not for the servers behind
            request.add_unredirected_header(name, value)
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            with _network():
                return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code == 416 and (part := self._part()):
                part.unlink()
            raise _failure(error.code, error) from error

    def _copy(self, response: HTTPResponse, path: Path, done: int, total: int | None) -> None:
        most = total or LARGEST
        with open(path, "ab") as file:
            while done <= most:
                if self.progress:
                    self.progress(done, total)
                _stop_if(self.cancel)
                with _network():
                    chunk = response.read1(CHUNK)  # what there is; a whole chunk may take minutes
                if not chunk:
                    break
                done += len(chunk)
                file.write(chunk)
        if done > most:
            path.unlink()
            raise _Refused(f"the server sends more than the {most:,} bytes that the file has")
        if total is not None and done < total:
            raise _Cut(f"the connection broke after {done:,} of {total:,} bytes")

    def _check(self, path: Path, offer: _Offer) -> None:
        size = path.stat().st_size
        if offer.size and size != offer.size:
            raise _Refused(f"what arrived has {size:,} bytes, not {offer.size:,}")
        if offer.sha256 and (found := sha256(path)) != offer.sha256:
            raise _Refused(f"what arrived has the sha256 {found}, not {offer.sha256}")
        try:
            version = load_model(path, device="cpu", dtype=torch.float32).version
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise _Refused(f"what arrived can't be used: {reason}") from error
        if version != f"RIFE {self.entry.version}":
            raise _Refused(f"what arrived is {version}, not {self.entry.version}")

    def _part(self) -> Path | None:
        return next(self.folder.glob(f".{self.entry.name}.*.part"), None)

    def _size(self) -> int:
        part = self._part()
        return part.stat().st_size if part else 0

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _stop_if(self.cancel)
            time.sleep(min(0.2, seconds))


def _stop_if(cancel: Cancel | None) -> None:
    if cancel and cancel():
        raise Cancelled("the download was cancelled")


@contextmanager
def _alone(path: Path, cancel: Cancel | None) -> Iterator[None]:
    """Hold the lock at `path`, which the system takes back from a process that dies."""
    lock = FileLock(path)
    while True:
        _stop_if(cancel)
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
def _network() -> Iterator[None]:
    """Raise what goes wrong on the line as _Cut; an answer of the server stays an HTTPError."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, HTTPException) as error:
        raise _failure(None, getattr(error, "reason", error)) from error


def _failure(status: int | None, error: object) -> _Cut | _Refused:
    if status is None:
        return _Cut(f"no connection ({error})")
    kind = _Cut if status >= 500 or status in _PASSING else _Refused
    return kind(f"the server answers {status}: {_ANSWERS.get(status, 'an error')}")
