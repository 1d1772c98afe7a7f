"""Zip archives with two readings are refused."""

import struct
import zipfile
from dataclasses import replace

import pytest
import torch

from rife.models.checkpoint import load_model

from .support.checkpoint_files import SMALL, Member, archive, refusal

PICKLE = Member("x/data.pkl", b"\x80\x02}.")
VERSION = Member("x/version", b"3\n")


def lying(member=PICKLE, own=None, listed=None):
    """The member with false fields in its own header, or in the archive's directory."""
    return replace(member, own=own or {}, listed=listed or {})


def two_directories(gap):
    """Two archives in one file: readers that go by the last end record see the second, those that
    count its offsets from the file's start see the first."""
    first, second = (
        archive([replace(PICKLE, data=data), VERSION]) for data in (b"\x80\x02]N.", b"\x80\x02}N.")
    )
    return first[:-22] + gap + second


HEADER_SIZE = len(b"PK\3\4") + 26 + len("x/data.pkl")
LARGE_SIZES = struct.pack("<2H2Q", 1, 16, 4, 4)
ZIP64 = b"PK\6\6" + struct.pack("<Q2H2I4Q", 44, 20, 20, 0, 0, 1, 1, 56, 99)
TWO_READINGS = {
    "two directories": two_directories(b""),
    "two directories, apart": two_directories(bytes(9)),
    "two archives": archive([PICKLE]) + archive([PICKLE]),
    "something before": archive([replace(PICKLE, name="y/data.pkl")], start=b"PK\3\4" + bytes(40)),
    "something after": archive([PICKLE]) + bytes(5),
    "an end within the comment": archive([PICKLE], comment=archive([VERSION])),
    "something between": archive([PICKLE, VERSION], gap=b"PK\3\4" + bytes(30)),
    "another name": archive([lying(own={"name": b"x/version."}), VERSION]),
    "another size": archive([lying(own={"size": 2, "packed": 2}), VERSION]),
    "another method": archive([lying(own={"method": 8})]),
    "another checksum": archive([lying(own={"checksum": 1})]),
    "another place": archive([PICKLE, lying(VERSION, listed={"position": 0})]),
    "one within the other": archive([lying(listed={"size": 5, "packed": 5}), VERSION]),
    "a second size": archive([lying(listed={"extra": LARGE_SIZES})]),
    "a second size of its own": archive([lying(own={"extra": LARGE_SIZES})]),
    "a second name": archive([lying(listed={"extra": struct.pack("<2H", 0x7075, 1) + b"y"})]),
    "a name twice": archive([PICKLE, VERSION, VERSION]),
    "a name twice but for case": archive([PICKLE, VERSION, replace(VERSION, name="x/VERSION")]),
    "another count": archive([PICKLE, VERSION], count=1),
    "another length": archive([PICKLE, VERSION], length=57),
    "another start": archive([PICKLE, VERSION], position=0),
    "sizes that follow and differ": archive(
        [lying(own={"flags": 8, "after": b"PK\7\x08" + bytes(12)}, listed={"flags": 8}), VERSION]
    ),
    "an end for large archives that differs": (
        archive([PICKLE], gap=ZIP64 + b"PK\6\7" + struct.pack("<IQI", 0, HEADER_SIZE + 4, 1))
    ),
}


@pytest.mark.parametrize("kind", TWO_READINGS)
def test_archives_with_two_readings_are_refused(write, kind):
    message = refusal(write(TWO_READINGS[kind]))
    assert "refused: damaged, or made so that programs read it differently (" in message


def test_the_same_archives_without_a_lie_have_one_reading(write):
    sound = (
        archive([PICKLE, VERSION]),
        archive([PICKLE], comment=b"a word"),
        archive([lying(own={"extra": struct.pack("<2H", 0x5455, 1) + b"x"})]),
    )
    for data in sound:
        assert "holds no tensors" in refusal(write(data))


@pytest.mark.parametrize("name", ["other/data.pkl", "x/DATA.pkl"])
def test_an_archive_of_two_checkpoints(save, small_state, name):
    path = save(small_state)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"N.")
    assert "unpack it" in refusal(path)


def test_a_compressed_archive(save, small_state, tmp_path):
    with (
        zipfile.ZipFile(save(small_state)) as archive,
        zipfile.ZipFile(tmp_path / "y", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in archive.infolist():
            bomb.writestr(member.filename, archive.read(member))
        bomb.writestr("x/data/9999", bytes(50_000_000))
    assert "compressed" in refusal(tmp_path / "y")


def test_a_flipped_bit_in_the_numbers_of_an_archive_is_noticed(save, small_state):
    path = save({key: torch.full_like(tensor, 0.1) for key, tensor in small_state.items()})
    data = bytearray(path.read_bytes())
    at = data.index(torch.tensor(8 * [0.1]).numpy().tobytes())
    data[at + 2] ^= 1
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_files_without_checksums_load(save, small_state):
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch writes checksums always")
    torch.serialization.set_crc32_options(False)
    try:
        path = save(small_state)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_model(path, device="cpu").parameters_row == SMALL
