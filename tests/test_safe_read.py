"""Checkpoints that lie about their tensors, or change while they are read."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from rife.models import safe_read
from rife.models.checkpoint import CheckpointError, describe, load_model

from .support.checkpoint_files import (
    FLOAT32_HEADER,
    FORMATS,
    Member,
    archive,
    legacy,
    refusal,
    safetensors_file,
    zipped,
)
from .support.processes import peak_memory


@pytest.mark.parametrize("inside", ["pickle", "storages", "x/data.pkl"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_tar_archives_are_named_and_not_opened(write, form, inside):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as file:
        entry = tarfile.TarInfo(inside)
        entry.size = 4
        file.addfile(entry, io.BytesIO(b"\x80\x02}."))
    assert "a tar archive; unpack it" in refusal(write(stream.getvalue()))


def test_what_is_a_pickle_and_a_tar_archive_is_a_tar_archive_as_to_torch(write):
    entry = tarfile.TarInfo(legacy(b"\x80\x02}.")[:99].decode("latin-1"))
    block = entry.tobuf(tarfile.USTAR_FORMAT, "latin-1")
    assert "a tar archive" in refusal(write(block + bytes(1024)))


def test_an_older_file_with_something_after_its_end(small_state, tmp_path):
    FORMATS["pkl"](small_state, tmp_path / "x")
    with open(tmp_path / "x", "ab") as file:
        file.write(archive([Member("x/data.pkl", b"\x80\x02}.")]))
    assert "something follows its end" in refusal(tmp_path / "x")


@pytest.mark.parametrize("inside", ['"dtype": "F16", ', '"shape": [4], ', ""])
def test_a_safetensors_header_that_names_something_twice(write, inside):
    entry = json.dumps(FLOAT32_HEADER)
    header = f'{{"a": {entry}, "a": {entry}}}' if not inside else f'{{"a": {{{inside}{entry[1:]}}}'
    assert "a name twice" in refusal(write(safetensors_file(header.encode(), bytes(8))))


class ChangingFile(io.FileIO):
    """A file that calls `change` before its `number`th read."""

    def __init__(self, path, number, change):
        super().__init__(path)
        self._left, self._change = number, change

    def readinto(self, buffer):
        self._left -= 1
        if self._left == 0:
            self._change()
        return super().readinto(buffer)


@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
@pytest.mark.parametrize("number", [1, 2, 5, 40])
def test_a_file_that_shrinks_while_it_is_read_is_an_error(
    small_state, tmp_path, monkeypatch, form, number
):
    FORMATS[form](small_state, tmp_path / "x")

    def shrink():
        os.truncate(tmp_path / "x", 4000)

    opened = lambda path, mode: ChangingFile(path, number, shrink)  # noqa: E731
    monkeypatch.setattr(safe_read, "open", opened, raising=False)
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_model(tmp_path / "x", device="cpu")


def test_a_file_that_vanishes_once_it_is_read_is_described_all_the_same(
    small_state, save, monkeypatch
):
    path = save(small_state)
    size = path.stat().st_size
    monkeypatch.setattr(
        safe_read, "open", lambda path, mode: ChangingFile(path, 2, path.unlink), raising=False
    )
    assert f"({size / 1e6:.1f} MB)" in describe(path)["file"]


@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_a_file_that_is_replaced_while_it_is_read_stays_what_was_opened(
    small_state, tmp_path, monkeypatch, form
):
    FORMATS[form](small_state, tmp_path / "x")
    (tmp_path / "y").write_bytes(b"something else")

    def swap():
        os.replace(tmp_path / "y", tmp_path / "x")

    monkeypatch.setattr(
        safe_read, "open", lambda path, mode: ChangingFile(path, 2, swap), raising=False
    )
    model = load_model(tmp_path / "x", device="cpu")
    assert all(torch.equal(tensor, small_state[key]) for key, tensor in model.state_dict().items())


def test_tensors_that_claim_more_than_the_file_holds(save, small_state):
    path = save({key: torch.ones(1).expand(tensor.shape) for key, tensor in small_state.items()})
    assert path.stat().st_size < sum(tensor.nbytes for tensor in small_state.values())
    assert "damaged or cut short" in refusal(path)


def pickled_tensor(key, storage_length, length):
    """A pickled tensor of `length` floats, in a storage that holds another number of them."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\2\0\0\0%bX\3\0\0\0cpuJ%b%%btQ"
    storage %= key, struct.pack("<i", storage_length)
    rest = b"tensor_v2\n(%bK\0J%b\x85K\1\x85\x89}tR" % (storage, struct.pack("<i", length))
    return b"ctorch._utils\n_rebuild_" + rest


def test_a_storage_does_not_grow_for_tensors_that_claim_more(write):
    """torch would grow the storage, and copy what the first tensors claim."""
    tensors = (pickled_tensor(b"00", 10, length) % b"N" for length in (2**25, 2**26))
    before = peak_memory(from_now=True)
    assert "damaged" in refusal(write(legacy(b"\x80\x02%b%b0." % tuple(tensors))))
    assert peak_memory() - before < 2**24


def test_a_storage_is_not_read_under_several_names(write):
    """torch's reader of archives ignores case."""
    items = (
        b"X\2\0\0\0%b" % key + pickled_tensor(key, 1000, 1) % b"" for key in (b"ab", b"aB", b"Ab")
    )
    content = b"\x80\x02}(%bu." % b"".join(items)
    assert "damaged" in refusal(write(zipped(content, {"data/ab": bytes(4000)})))


LYING_HEADERS = {
    "out of range": {"a": FLOAT32_HEADER | {"shape": [2_000], "data_offsets": [0, 8_000]}},
    "offsets swapped": {"a": FLOAT32_HEADER | {"data_offsets": [8, 0]}},
    "overlapping": {"a": FLOAT32_HEADER, "b": FLOAT32_HEADER},
    "a hole": {"a": FLOAT32_HEADER | {"shape": [1], "data_offsets": [4, 8]}},
    "negative": {"a": FLOAT32_HEADER | {"shape": [-2]}},
    "huge": {"a": FLOAT32_HEADER | {"shape": [2**62, 4]}},
    "huger": {"a": FLOAT32_HEADER | {"shape": [2**70]}},
    "another size": {"a": FLOAT32_HEADER | {"dtype": "F64"}},
    "unknown dtype": {"a": FLOAT32_HEADER | {"dtype": "F99"}},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "a list": [],
}


@pytest.mark.parametrize("lie", LYING_HEADERS)
def test_safetensors_headers_that_lie(write, lie):
    assert "damaged" in refusal(write(safetensors_file(LYING_HEADERS[lie], bytes(8))))


@pytest.mark.parametrize("length", [1, 10**6, 10**8, 2**62, 2**64 - 1])
def test_safetensors_headers_whose_length_lies(write, length):
    header = json.dumps({"a": FLOAT32_HEADER}).encode()
    assert refusal(write(struct.pack("<Q", length) + header + bytes(8)))


def test_a_safetensors_header_longer_than_any(write):
    header = {"__metadata__": {"tags": 1_100_000 * "x"}, "a": FLOAT32_HEADER}
    assert "damaged" in refusal(write(safetensors_file(header, bytes(8))))


def test_empty_safetensors(write):
    assert "no tensors" in refusal(write(safetensors_file({}, b"")))


@pytest.mark.parametrize(
    "how",
    [
        ["--cases", "90", "--seed", "14"],
        pytest.param(["--minutes", "0.33"], marks=pytest.mark.slow),
    ],
)
def test_fuzzing_finds_nothing(how):
    command = [sys.executable, "-m", "tests.fuzz.checkpoints", *how]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
