"""What lies where in a file: bytes, storages, tensors; and the errors of those who read them."""

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

#: Bytes. No RIFE file's list of tensors is a tenth as long, and read into memory, a list can take
#: many times its size.
LONGEST_LIST = 1 << 20


class CheckpointError(ValueError):
    """A file that can't be used as a RIFE model; the message says why, for people."""


def unsupported(what: str) -> CheckpointError:
    return CheckpointError(
        f"holds {what}, which isn't supported; get the model in float16 or float32"
    )


def ambiguous(what: str) -> CheckpointError:
    return CheckpointError(
        f"refused: damaged, or made so that programs read it differently ({what}); get it again "
        "from a source that you trust"
    )


def read_bytes(file: BinaryIO, position: int, count: int) -> bytes:
    return bytes(_read_into(file, position, bytearray(count)))


def _read_into(file: BinaryIO, position: int, target: Any) -> Any:
    """Fills a buffer; ValueError if the file ends before, as it does when it shrinks."""
    view, done = memoryview(target), 0
    file.seek(position)
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise ValueError("the file ends early")
        done += count
    return target


class Place(NamedTuple):
    """Bytes in a file. checksum: their CRC-32, or 0 where it is not known."""

    position: int
    size: int
    checksum: int = 0

    def read(self, file: BinaryIO) -> np.ndarray:
        data = _read_into(file, self.position, np.empty(self.size, np.uint8))
        if self.checksum and zlib.crc32(data) != self.checksum:
            raise ValueError("another checksum")
        return data


@dataclass
class Storage:
    """Numbers in a row, which tensors share. place: set once it is known."""

    key: str
    dtype: torch.dtype
    size: int
    place: Place | None = None


class StoredTensor(NamedTuple):
    """A tensor whose numbers aren't read yet; offset and strides count elements."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


#: Of a tensor, to torch.
_MOST_SIDES = 64


def checked_counts(numbers: Iterable[object]) -> tuple[int, ...]:
    """Sizes, strides or offsets, if they can be such."""
    numbers = tuple(numbers)
    if len(numbers) > _MOST_SIDES or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError("not sizes")
    return numbers


def known_dtypes(names: Mapping[str, str]) -> dict[str, torch.dtype]:
    """Those of the dtypes that this torch has."""
    return {name: getattr(torch, dtype) for name, dtype in names.items() if hasattr(torch, dtype)}


#: dtypes that are read, by the names that .safetensors gives them.
DTYPES = known_dtypes({
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
})  # fmt: skip
