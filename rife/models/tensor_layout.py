"""Where tensors lie in a file: byte ranges, storages, and tensors as views of storages."""

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

#: The longest pickle, .safetensors header or zip directory that is read, in bytes. Those of RIFE
#: files are not a tenth as long, and once parsed they can take many times their size in memory.
MAX_HEADER_BYTES = 1 << 20


def read_bytes(file: BinaryIO, position: int, count: int) -> bytes:
    """Reads exactly `count` bytes; raises ValueError if the file ends before."""
    return bytes(_read_into(file, position, bytearray(count)))


def _read_into(file: BinaryIO, position: int, buffer: Any) -> Any:
    view, filled = memoryview(buffer), 0
    file.seek(position)
    while filled < len(view):
        count = file.readinto(view[filled:])
        if not count:  # also when the file shrinks while it is read
            raise ValueError("the file ends early")
        filled += count
    return buffer


class ByteRange(NamedTuple):
    """A range of bytes in a file.

    Attributes:
        position: The offset of its first byte.
        size: How many bytes it has.
        checksum: Their CRC-32, or 0 where it is unknown.
    """

    position: int
    size: int
    checksum: int = 0

    def read(self, file: BinaryIO) -> np.ndarray:
        """Reads the bytes; raises ValueError if they are cut short or the checksum differs."""
        data = _read_into(file, self.position, np.empty(self.size, np.uint8))
        if self.checksum and zlib.crc32(data) != self.checksum:
            raise ValueError("another checksum")
        return data


@dataclass
class Storage:
    """A flat array of numbers, which several tensors may share.

    Attributes:
        key: Its name in the file.
        dtype: The dtype of the numbers; a tensor may view them as another.
        size: In bytes, as its first mention in the file has it.
        byte_range: Where its bytes lie; None until that is known.
    """

    key: str
    dtype: torch.dtype
    size: int
    byte_range: ByteRange | None = None


class StoredTensor(NamedTuple):
    """A tensor that is not loaded yet: a strided view of a storage.

    Attributes:
        storage: What holds its numbers.
        dtype: The dtype it has in the file.
        offset: Of its first element in the storage, in elements.
        shape: Its sizes.
        strides: The steps along each dimension, in elements.
    """

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes, if it were contiguous."""
        return math.prod(self.shape) * self.dtype.itemsize


_MAX_DIMENSIONS = 64  # torch's own limit


def validate_counts(numbers: Iterable[object]) -> tuple[int, ...]:
    """Returns sizes, strides or offsets as a tuple; raises ValueError if they can't be such."""
    counts = tuple(numbers)
    if len(counts) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in counts):
        raise ValueError("not sizes")
    return counts


def available_dtypes(names: Mapping[str, str]) -> dict[str, torch.dtype]:
    """Maps each key to the dtype of that name, leaving out those that this torch lacks."""
    return {key: getattr(torch, name) for key, name in names.items() if hasattr(torch, name)}


#: The dtypes that are read, by the names that .safetensors files give them.
SAFETENSORS_DTYPES = available_dtypes({
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
})  # fmt: skip
