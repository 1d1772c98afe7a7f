"""The members of a zip archive, refused where two programs could read it differently.

A zip archive ends in a directory of its members. Each member has a header that repeats what the
directory says of it, and the archive's end record, of which there may be two, says where the
directory is. Programs differ in which of these they believe, so all of them have to agree here.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from .errors import CheckpointError, ambiguous_error
from .tensor_layout import MAX_HEADER_BYTES, ByteRange, read_bytes


class Member(NamedTuple):
    """A member as the archive's directory describes it.

    Attributes:
        name: Its path in the archive.
        header_fields: The bytes that its own header has to repeat: flags, method, time, checksum
            and sizes.
        position: The offset of its header in the file.
        size: In bytes, unpacked.
        checksum: The CRC-32 of its content.
        is_packed: Whether it is compressed or encrypted.
        has_descriptor: Whether checksum and sizes are written after the content, too.
    """

    name: bytes
    header_fields: bytes
    position: int
    size: int
    checksum: int
    is_packed: bool
    has_descriptor: bool


#: Bytes of the end record with the longest possible comment.
_MAX_END_BYTES = 22 + 0xFFFF


def read_directory(file: BinaryIO, size: int) -> tuple[list[Member], int]:
    """Reads the directory of a zip archive.

    Args:
        file: The archive, opened for reading bytes.
        size: Of the file, in bytes.

    Returns:
        The members in the directory's order, and the directory's offset in the file.

    Raises:
        CheckpointError: The archive is ambiguous, or larger than any RIFE model.
        ValueError: It is damaged.
    """
    tail = read_bytes(file, max(0, size - _MAX_END_BYTES), min(size, _MAX_END_BYTES))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("no end")
    disks, disk_count, count, length, position, comment = struct.unpack_from(
        "<I2H2IH", tail, at + 4
    )
    if 0xFFFFFFFF in (length, position) or count == 0xFFFF:
        raise CheckpointError("an archive of more than 4 GB, so no RIFE model")
    if disks or disk_count != count:
        raise ambiguous_error("it is a part of several")
    if at + 22 + comment != len(tail):
        raise ambiguous_error("something follows its end")
    end = size - len(tail) + at
    # PyTorch writes the end record of zip64, too, whatever the size.
    if tail[at - 20 : at - 16] == b"PK\x06\x07":
        end -= 76
        zip64 = struct.unpack_from("<4sQ4xII4Q4sIQI", tail, at - 76)
        expected = (0, 0, count, count, length, position)
        if zip64 != (b"PK\x06\x06", 44, *expected, b"PK\x06\x07", 0, end, 1):
            raise ambiguous_error("its two ends contradict each other")
    if position + length != end:
        raise ambiguous_error("its list of members isn't where it should be")
    if length > MAX_HEADER_BYTES:
        raise ValueError("the list of members is too long")
    members = list(_parse_directory(read_bytes(file, position, length)))
    if len(members) != count:
        raise ambiguous_error("it has other members than it says")
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
        _check_extra_fields(directory[name_end : name_end + lengths[1]])
        yield Member(
            name=directory[at + 46 : name_end],
            header_fields=directory[at + 8 : at + 28],
            position=position,
            size=size,
            checksum=checksum,
            is_packed=method != 0 or packed != size or bool(flags & 1),
            has_descriptor=bool(flags & 8),
        )
        at = end


def _check_extra_fields(fields: bytes) -> None:
    """Refuses the fields from which some programs take another size (zip64) or name (Unicode)."""
    at = 0
    while at + 4 <= len(fields):
        kind, length = struct.unpack_from("<2H", fields, at)
        if kind in (0x0001, 0x7075):
            raise ambiguous_error("a member has two sizes or names")
        at += 4 + length


def locate_members(
    file: BinaryIO, members: Sequence[Member], directory_position: int
) -> dict[bytes, ByteRange]:
    """Finds the content of each member.

    The members have to follow one another without a gap, from the first byte of the file up to the
    directory, and the header of each has to agree with the directory.

    Args:
        file: The archive, opened for reading bytes.
        members: As `read_directory` returns them.
        directory_position: The directory's offset in the file.

    Returns:
        The range of each member's content, by the member's name.

    Raises:
        CheckpointError: The archive is ambiguous.
        ValueError: It is damaged.
    """
    byte_ranges: dict[bytes, ByteRange] = {}
    position = 0
    for member in members:
        if member.position != position:
            raise ambiguous_error("its members aren't where they should be")
        signature, fields, *lengths = struct.unpack("<4s2x20s2H", read_bytes(file, position, 30))
        name_and_extra = read_bytes(file, position + 30, sum(lengths))
        name, extra = name_and_extra[: lengths[0]], name_and_extra[lengths[0] :]
        _check_extra_fields(extra)
        start = position + 30 + len(name_and_extra)
        position = start + member.size
        if member.has_descriptor:  # it follows the content, and the header may have zeros instead
            if read_bytes(file, position, 16) != b"PK\x07\x08" + member.header_fields[8:]:
                raise ambiguous_error("a member contradicts the list")
            if fields[8:] == bytes(12):
                fields = fields[:8] + member.header_fields[8:]
            position += 16
        if (signature, fields, name) != (b"PK\x03\x04", member.header_fields, member.name):
            raise ambiguous_error("a member contradicts the list")
        byte_ranges[name] = ByteRange(start, member.size, member.checksum)
    if position != directory_position:
        raise ambiguous_error("something lies between its members and their list")
    # PyTorch's reader ignores case.
    if len({name.decode("utf-8", "replace").lower() for name in byte_ranges}) < len(members):
        raise ambiguous_error("two members have one name")
    return byte_ranges
