"""The members of a zip archive that has one reading only.

A zip archive has a list of its members, and each member says the same of itself again; the end of
the archive says where the list is, and may say so twice. Readers differ in whom they believe.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from .tensor_layout import LONGEST_LIST, CheckpointError, Place, ambiguous, read_bytes


class Member(NamedTuple):
    """A member as the archive's directory has it. numbers: method, checksum, sizes and the like."""

    name: bytes
    numbers: bytes
    position: int
    size: int
    checksum: int
    is_packed: bool
    has_descriptor: bool


#: Bytes of a zip archive's end, at most: with the longest comment.
_LONGEST_END = 22 + 0xFFFF


def list_members(file: BinaryIO, size: int) -> tuple[list[Member], int]:
    """Reads the directory of a zip archive; also returns where that begins."""
    tail = read_bytes(file, max(0, size - _LONGEST_END), min(size, _LONGEST_END))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("no end")
    disks, here, count, length, position, comment = struct.unpack_from("<I2H2IH", tail, at + 4)
    if 0xFFFFFFFF in (length, position) or count == 0xFFFF:
        raise CheckpointError("an archive of more than 4 GB, so no RIFE model")
    if disks or here != count:
        raise ambiguous("it is a part of several")
    if at + 22 + comment != len(tail):
        raise ambiguous("something follows its end")
    end = size - len(tail) + at
    if tail[at - 20 : at - 16] == b"PK\x06\x07":  # an end for large archives, as PyTorch writes
        end -= 76
        large = struct.unpack_from("<4sQ4xII4Q4sIQI", tail, at - 76)
        numbers = (0, 0, count, count, length, position)
        if large != (b"PK\x06\x06", 44, *numbers, b"PK\x06\x07", 0, end, 1):
            raise ambiguous("its two ends contradict each other")
    if position + length != end:
        raise ambiguous("its list of members isn't where it should be")
    if length > LONGEST_LIST:
        raise ValueError("the list of members is too long")
    members = list(_parse_directory(read_bytes(file, position, length)))
    if len(members) != count:
        raise ambiguous("it has other members than it says")
    return members, position


def _parse_directory(directory: bytes) -> Iterator[Member]:
    at = 0
    while at < len(directory):
        signature, flags, method, checksum, packed, size, *lengths, disk, position = (
            struct.unpack_from("<4s4x2H4x3I4H6xI", directory, at)
        )
        name_end = at + 46 + lengths[0]
        end = at + 46 + sum(lengths)
        if signature != b"PK\x01\x02" or disk or end > len(directory):
            raise ValueError("no list of members")
        _check_extra(directory[name_end : name_end + lengths[1]])
        yield Member(
            name=directory[at + 46 : name_end],
            numbers=directory[at + 8 : at + 28],
            position=position,
            size=size,
            checksum=checksum,
            is_packed=method != 0 or packed != size or bool(flags & 1),
            has_descriptor=bool(flags & 8),
        )
        at = end


def _check_extra(fields: bytes) -> None:
    """Refuses those in which some programs see other sizes or another name."""
    at = 0
    while at + 4 <= len(fields):
        kind, length = struct.unpack_from("<2H", fields, at)
        if kind in (0x0001, 0x7075):
            raise ambiguous("a member has two sizes or names")
        at += 4 + length


def find_members(file: BinaryIO, members: Sequence[Member], end: int) -> dict[bytes, Place]:
    """Finds the bytes of each member, of an archive that has one reading only.

    It is members, one right after the other from the first byte up to the directory, and each
    says of itself what the directory says of it.
    """
    places: dict[bytes, Place] = {}
    position = 0
    for member in members:
        if member.position != position:
            raise ambiguous("its members aren't where they should be")
        signature, numbers, *lengths = struct.unpack("<4s2x20s2H", read_bytes(file, position, 30))
        words = read_bytes(file, position + 30, sum(lengths))
        name, extra = words[: lengths[0]], words[lengths[0] :]
        _check_extra(extra)
        start = position + 30 + len(words)
        position = start + member.size
        if member.has_descriptor:  # then checksum and sizes follow, and may be 0 here
            if read_bytes(file, position, 16) != b"PK\x07\x08" + member.numbers[8:]:
                raise ambiguous("a member contradicts the list")
            if numbers[8:] == bytes(12):
                numbers = numbers[:8] + member.numbers[8:]
            position += 16
        if (signature, numbers, name) != (b"PK\x03\x04", member.numbers, member.name):
            raise ambiguous("a member contradicts the list")
        places[name] = Place(start, member.size, member.checksum)
    if position != end:
        raise ambiguous("something lies between its members and their list")
    # To torch's reader, case is all one.
    if len({name.decode("utf-8", "replace").lower() for name in places}) < len(members):
        raise ambiguous("two members have one name")
    return places
