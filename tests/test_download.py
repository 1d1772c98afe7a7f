"""A downloaded model appears under its name whole and checked, or not at all.

The server runs here, and acts as the Hub and as a release host.
"""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pytest

from rife.callbacks import Cancelled
from rife.models import download
from rife.models.checkpoint import save_model
from rife.models.download import DownloadError, download_model
from rife.models.zoo import HubFile, PublishedModel, WebFile
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4

from .support.hub import serving
from .support.seeded import seeded_state

ROOT = Path(__file__).parent.parent
VERSION = "v4.15 - v4.17 lite"
NAME = "rife_test.safetensors"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    network = IFNet_v4(VERSIONS[VERSION])
    network.load_state_dict(seeded_state(network))
    path = tmp_path_factory.mktemp("published") / NAME
    save_model(network.half(), path)
    return path.read_bytes()


@pytest.fixture
def server(checkpoint, monkeypatch):
    monkeypatch.setattr(download, "RETRY_DELAYS", (0, 0))
    with serving(checkpoint) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(params=["hub", "release"])
def entry(request, server):
    hub = HubFile("owner/repo", f"folder/{NAME}")
    source = hub if request.param == "hub" else WebFile(f"{server.url}/releases/{NAME}")
    return PublishedModel(NAME, VERSION, source, "tests")


def with_hash(entry, content):
    return replace(entry, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def visible_files(folder):
    """The files that a listing of models would show."""
    return [path.name for path in folder.iterdir() if path.suffix not in (".part", ".lock")]


def refusal(entry, folder):
    """Returns the message of a download that fails, and leaves nothing under the final name."""
    with pytest.raises(DownloadError) as error:
        download_model(entry, folder)
    assert visible_files(folder) == []
    assert entry.source.url in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("is_known", [False, True], ids=["unknown hash", "known hash"])
def test_a_model_arrives_whole(server, entry, checkpoint, tmp_path, is_known):
    steps = []
    entry = with_hash(entry, checkpoint) if is_known else entry
    path = download_model(entry, tmp_path / "models" / "rife", lambda *step: steps.append(step))
    assert path == tmp_path / "models" / "rife" / NAME
    assert path.read_bytes() == checkpoint
    assert visible_files(path.parent) == [NAME]
    assert not list(path.parent.glob("*.part"))
    assert steps[0] == (0, len(checkpoint)) and steps[-1] == (len(checkpoint), len(checkpoint))
    assert steps == sorted(steps)


def test_what_is_there_is_not_fetched_again(server, entry, tmp_path):
    (tmp_path / NAME).write_bytes(b"the user's own")
    assert download_model(entry, tmp_path).read_bytes() == b"the user's own"
    assert server.log == []


def test_a_cut_is_resumed(server, entry, checkpoint, tmp_path):
    server.stop_at = len(checkpoint) // 2
    assert download_model(entry, tmp_path).read_bytes() == checkpoint
    assert server.ranges() == [None, f"bytes={len(checkpoint) // 2}-"]


def test_a_cancel_stops_it_and_the_next_call_goes_on(server, entry, checkpoint, tmp_path):
    answers = iter([False] * 8)
    with pytest.raises(Cancelled):
        download_model(entry, tmp_path, cancel=lambda: next(answers, True))
    assert visible_files(tmp_path) == []
    assert download_model(entry, tmp_path).read_bytes() == checkpoint
    assert server.ranges()[1].startswith("bytes=")


def test_two_versions_of_a_file_are_never_mixed(server, entry, checkpoint, tmp_path):
    server.content, server.stop_at = b"old" * len(checkpoint), 1000
    with pytest.raises(KeyboardInterrupt):
        download_model(entry, tmp_path, cancel=lambda: part_size(tmp_path) == 1000 and interrupt())
    server.content, server.etag = checkpoint, '"second"'
    assert download_model(entry, tmp_path).read_bytes() == checkpoint
    assert not list(tmp_path.glob("*.part"))


def part_size(folder):
    return sum(path.stat().st_size for path in folder.glob(".*.part"))


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("entry", ["release"], indirect=True)
def test_a_whole_hidden_file_is_not_fetched_again(server, entry, checkpoint, tmp_path):
    mark = hashlib.sha256(server.etag.encode()).hexdigest()[:8]
    (tmp_path / f".{NAME}.{mark}.part").write_bytes(checkpoint)
    assert download_model(with_hash(entry, checkpoint), tmp_path).read_bytes() == checkpoint
    assert server.log == []


def test_a_hidden_file_that_is_too_long_is_dropped(server, entry, checkpoint, tmp_path):
    mark = hashlib.sha256(server.etag.encode()).hexdigest()[:8]
    (tmp_path / f".{NAME}.{mark}.part").write_bytes(bytes(len(checkpoint) + 1))
    assert download_model(entry, tmp_path).read_bytes() == checkpoint
    assert server.ranges()[-1] is None
    assert not list(tmp_path.glob(".*.part"))


def test_a_wrong_hash(server, entry, checkpoint, tmp_path):
    entry = replace(with_hash(entry, checkpoint), sha256="0" * 64)
    server.stated = "0" * 64
    assert "sha256" in refusal(entry, tmp_path)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("entry", ["hub"], indirect=True)
def test_a_hash_that_only_the_hub_states_counts(server, entry, tmp_path):
    server.stated = "0" * 64
    assert f"not {'0' * 64}" in refusal(entry, tmp_path)


@pytest.mark.parametrize("entry", ["hub"], indirect=True)
def test_another_file_on_the_hub_is_refused_before_it_is_fetched(server, entry, tmp_path):
    assert "another file" in refusal(replace(entry, sha256="0" * 64), tmp_path)
    assert server.ranges() == []


def test_a_file_of_another_size(server, entry, checkpoint, tmp_path):
    server.content = checkpoint[:-8]
    message = refusal(replace(entry, size=len(checkpoint)), tmp_path)
    assert "bytes" in message or "can't be used" in message


CHUNKED = b"Transfer-Encoding: chunked"
PIECE = b"10000\r\n" + bytes(65536) + b"\r\n"


@pytest.mark.parametrize("is_known", [True, False], ids=["known size", "unknown size"])
@pytest.mark.parametrize("headers", [CHUNKED, b"Connection: close"])
def test_a_body_that_never_ends_is_stopped_at_the_size_of_the_file(
    server, entry, checkpoint, tmp_path, monkeypatch, headers, is_known
):
    piece = PIECE if headers == CHUNKED else bytes(65536)
    server.raw = headers, lambda: repeat(piece)
    monkeypatch.setattr(download, "MAX_SIZE", 8 << 20)
    if is_known:
        entry = with_hash(entry, checkpoint)
    elif isinstance(entry.source, HubFile):
        server.content = b"x"  # what the Hub says: one byte
    assert "the server sends more than the" in refusal(entry, tmp_path)
    assert not list(tmp_path.glob("*.part"))
    assert server.sent < 24 << 20  # some of it still on its way


def test_a_body_that_is_longer_by_a_byte(server, entry, checkpoint, tmp_path):
    server.raw = b"Connection: close", lambda: [checkpoint, b"x"]
    assert "the server sends more than" in refusal(with_hash(entry, checkpoint), tmp_path)


def test_a_body_without_a_length_that_breaks_off_is_a_cut(server, entry, checkpoint, tmp_path):
    server.raw = b"Connection: close", lambda: [checkpoint[:-1]]
    message = refusal(with_hash(entry, checkpoint), tmp_path)
    assert f"broke after {len(checkpoint) - 1:,} of {len(checkpoint):,} bytes" in message
    server.raw = None
    assert download_model(with_hash(entry, checkpoint), tmp_path).read_bytes() == checkpoint


def test_a_length_that_no_model_has_is_refused_before_a_byte_is_kept(server, entry, tmp_path):
    server.raw = b"Content-Length: 99999999999", lambda: repeat(bytes(65536))
    if isinstance(entry.source, HubFile):
        server.content = b""  # of which the Hub says nothing
    assert "as no model has" in refusal(entry, tmp_path)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("entry", ["release"], indirect=True)
def test_a_server_that_always_breaks_off_is_given_up(server, entry, checkpoint, tmp_path):
    sizes = iter(range(1000, 2000))
    server.raw = (
        f"Content-Length: {len(checkpoint)}".encode(),
        lambda: [checkpoint[: next(sizes)]],
    )
    assert "the connection broke after" in refusal(entry, tmp_path)
    assert next(sizes) < 1010


@pytest.mark.parametrize("entry", ["release"], indirect=True)
def test_another_part_than_was_asked_for_is_not_appended(server, entry, checkpoint, tmp_path):
    server.stop_at, server.range = 300_000, f"bytes 5-{len(checkpoint) - 1}/{len(checkpoint)}"
    assert download_model(entry, tmp_path).read_bytes() == checkpoint
    assert server.ranges() == [None, "bytes=300000-", None]


@pytest.mark.parametrize("entry", ["release"], indirect=True)
def test_a_cancel_is_heard_while_bytes_trickle(server, entry, tmp_path):
    def trickle():
        for _ in range(600):
            time.sleep(0.05)
            yield b"x"

    server.raw = b"Content-Length: 5000000", trickle
    answers = iter([False] * 5)
    with pytest.raises(Cancelled):
        download_model(entry, tmp_path, cancel=lambda: next(answers, True))
    assert server.sent < 100


def test_another_version_of_rife(server, entry, tmp_path):
    assert f"RIFE {VERSION}, not v4.6" in refusal(replace(entry, version="v4.6"), tmp_path)


@pytest.mark.parametrize("is_known", [False, True], ids=["unknown size", "known size"])
def test_a_login_page(server, entry, checkpoint, tmp_path, is_known):
    entry = with_hash(entry, checkpoint) if is_known else entry
    server.page = "text/html; charset=utf-8", b"<!DOCTYPE html><html>Log in</html>"
    assert "web page" in refusal(entry, tmp_path)


@pytest.mark.parametrize("entry", ["release"], indirect=True)
def test_a_login_page_that_claims_to_be_a_file(server, entry, tmp_path):
    server.page = "application/octet-stream", b"<!DOCTYPE html><html>Log in</html>"
    assert "web page" in refusal(entry, tmp_path)


@pytest.mark.parametrize(("status", "words"), [(404, "isn't there"), (403, "denies"), (503, "503")])
def test_a_server_that_says_no(server, entry, tmp_path, status, words):
    server.status = status
    assert words in refusal(entry, tmp_path)


def test_no_network(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for source in (HubFile("owner/repo", NAME), WebFile(f"http://127.0.0.1:9/{NAME}")):
        entry = PublishedModel(NAME, VERSION, source, "tests")
        assert "no connection" in refusal(entry, tmp_path)


@pytest.mark.parametrize("entry", ["hub"], indirect=True)
def test_offline_mode_is_respected(server, entry, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refusal(entry, tmp_path)
    assert server.log == []


@pytest.mark.parametrize("entry", ["hub"], indirect=True)
def test_it_works_without_huggingface_hub(server, entry, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert download_model(entry, tmp_path).read_bytes() == checkpoint


@pytest.mark.parametrize("entry", ["hub"], indirect=True)
def test_a_token_is_for_the_hub_alone(server, entry, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download_model(entry, tmp_path)
    for method, path, headers in server.log:
        assert ("Authorization" in headers) == ("/files/" not in path), (method, path)


SCRIPT = """
    import sys
    from pathlib import Path
    from rife.models.download import download_model, DownloadError
    from rife.models.zoo import HubFile, PublishedModel, WebFile
    heavy = {{"huggingface_hub", "httpx", "requests"}} & set(sys.modules)
    assert not heavy, "imported before it is needed"
    source = WebFile({url!r}) if {url!r} else HubFile("owner/repo", "folder/{name}")
    entry = PublishedModel({name!r}, {version!r}, source, "tests")
    print("ready", flush=True)
    try:
        print(download_model(entry, {folder!r}))
    except DownloadError as error:
        sys.exit(str(error))
"""


def start(entry, folder, before=""):
    """Fetch in a process of its own, up to its first line of output."""
    url = entry.source.url if isinstance(entry.source, WebFile) else None
    values = {"url": url, "name": NAME, "version": VERSION, "folder": str(folder)}
    script = before + textwrap.dedent(SCRIPT.format(**values))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


@pytest.mark.parametrize(
    "entry", ["hub", pytest.param("release", marks=pytest.mark.slow)], indirect=True
)
def test_killed_in_the_middle_it_goes_on_when_started_again(server, entry, checkpoint, tmp_path):
    server.gate.clear()
    server.stop_at = len(checkpoint) // 2
    process = start(entry, tmp_path)
    while part_size(tmp_path) < len(checkpoint) // 2 - download.CHUNK_SIZE:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    part_size_before = part_size(tmp_path)
    assert visible_files(tmp_path) == []
    assert download_model(entry, tmp_path).read_bytes() == checkpoint
    assert server.ranges() == [None, f"bytes={part_size_before}-"]


@pytest.mark.parametrize("entry", ["hub"], indirect=True)
def test_two_processes_fetch_it_once(server, entry, checkpoint, tmp_path):
    server.gate.clear()
    server.stop_at = len(checkpoint) // 2
    processes = [start(entry, tmp_path), start(entry, tmp_path)]
    time.sleep(0.5)
    server.gate.set()
    for process in processes:
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert Path(output.strip()).read_bytes() == checkpoint
    assert len(server.ranges()) == 2  # the start and, after the cut, the rest


@pytest.mark.skipif(sys.platform == "win32", reason="limits as on Linux and macOS")
@pytest.mark.parametrize("entry", ["release"], indirect=True)
def test_a_full_disk(server, entry, checkpoint, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))\n"
    process = start(entry, tmp_path, before=limit)
    _, errors = process.communicate(timeout=30)
    assert "too large for this disk" in errors and "by hand" in errors
    assert "Traceback" not in errors
    assert visible_files(tmp_path) == []
    assert download_model(entry, tmp_path).read_bytes() == checkpoint
