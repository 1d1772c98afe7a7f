"""Reads the tensors of checkpoints from any source: PyTorch's files and .safetensors.

- No code in a file is run.
- The file is opened once and parsed here alone, so the bytes that are checked are those loaded.
- A file that two programs could read differently (an archive with two directories, a header that
  has a name twice) is refused.
- The file is not mapped into memory: if it shrinks while it is read, that is an error, whereas a
  mapping would end the process.
"""

import io
import json
import math
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError, ambiguous_error, unsupported_error
from .foreign_files import identify_archive, identify_file
from .tensor_layout import (
    MAX_HEADER_BYTES,
    SAFETENSORS_DTYPES,
    ByteRange,
    Storage,
    StoredTensor,
    read_bytes,
    validate_counts,
)
from .unpickle import unpickle
from .zip_members import locate_members, read_directory


class CheckpointContents(NamedTuple):
    """What was read from a checkpoint.

    Attributes:
        tensors: Its tensors, by the names that the file gives them.
        metadata: The metadata of a .safetensors file; empty for other formats.
        size: Of the file, in bytes.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    size: int


def read_tensors(path: Path) -> CheckpointContents:
    """Reads a checkpoint's tensors into memory, on the CPU.

    Args:
        path: The file; its format is told by its first bytes, whatever its name.

    Returns:
        The tensors, which may be views of shared storages, the metadata and the file's size.

    Raises:
        CheckpointError: The file is no checkpoint, is damaged or can't be read safely.
    """
    start = b""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(MAX_HEADER_BYTES)
            content, metadata = _parse(file, size, start)
            tensors = _load_tensors(file, size, _find_state_dict(content))
            return CheckpointContents(tensors, metadata, size)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from error
    except Exception as error:  # parsing a damaged file may raise anything
        raise CheckpointError(f"{path}: {identify_file(start[:512], path)}") from error


def _parse(file: BinaryIO, size: int, start: bytes) -> tuple[object, dict[str, str]]:
    """Returns a file's content, with a StoredTensor for each tensor, and its metadata.

    Raises CheckpointError for a file that must not be read, any exception for a damaged one.
    """
    if start[8:9] == b"{":
        return _parse_safetensors(start, size)
    if start.startswith(b"PK\x03\x04"):
        return _parse_zip(file, size), {}
    return _parse_pickles(file, size, start), {}


# Tensors


def _find_state_dict(content: object) -> dict[str, StoredTensor]:
    for wrapper in ("state_dict", "params_ema", "params", "model", "flownet"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, not a model's weights")
    tensors = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, StoredTensor)
    }
    if not tensors:
        raise CheckpointError("holds no tensors, so it is no model")
    return tensors


def _load_tensors(
    file: BinaryIO, size: int, stored_tensors: Mapping[str, StoredTensor]
) -> dict[str, Tensor]:
    """Reads each storage once, and returns the tensors as views of them."""
    # A tensor with a stride of 0 can have any shape, and would take that much memory once copied.
    if sum(tensor.size for tensor in stored_tensors.values()) > size:
        raise ValueError("the tensors are larger than the file")
    storage_bytes: dict[int, Tensor] = {}
    tensors = {}
    for name, stored in stored_tensors.items():
        storage = stored.storage
        if storage.byte_range is None or storage.byte_range.size != storage.size:
            raise ValueError("a storage is missing or of another size")
        if id(storage) not in storage_bytes:
            storage_bytes[id(storage)] = torch.from_numpy(storage.byte_range.read(file))
        tensors[name] = _view_storage(storage_bytes[id(storage)], stored)
    return tensors


def _view_storage(storage_bytes: Tensor, stored: StoredTensor) -> Tensor:
    if 0 in stored.shape:
        return torch.empty(stored.shape, dtype=stored.dtype)
    steps = zip(stored.shape, stored.strides, strict=True)
    last = stored.offset + sum((length - 1) * stride for length, stride in steps)
    if (last + 1) * stored.dtype.itemsize > len(storage_bytes):
        raise ValueError("a tensor reaches beyond its storage")
    return storage_bytes.view(stored.dtype).as_strided(stored.shape, stored.strides, stored.offset)


# .safetensors

#: Its dtypes that torch can't compute with: scales, and several numbers in a byte.
_UNSUPPORTED_DTYPES = ("F8_E8M0", "F6_E2M3", "F6_E3M2", "F4")


def _parse_safetensors(start: bytes, size: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    length = int.from_bytes(start[:8], "little")
    if 8 + length > len(start):
        raise ValueError("the header is too long, or cut short")
    header = json.loads(start[8 : 8 + length].decode(), object_pairs_hook=_refuse_duplicate_keys)
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is no text")
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] in _UNSUPPORTED_DTYPES:
            raise unsupported_error(f"tensors of {entry['dtype']}")
        dtype, shape = SAFETENSORS_DTYPES[entry["dtype"]], validate_counts(entry["shape"])
        start_offset, end_offset = validate_counts(entry["data_offsets"])
        tensor_size = end_offset - start_offset
        byte_range = ByteRange(8 + length + start_offset, tensor_size)
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        storage = Storage(name, dtype, tensor_size, byte_range)
        tensors[name] = StoredTensor(storage, dtype, 0, shape, strides)
        if start_offset != end or tensors[name].size != tensor_size:
            raise ValueError("tensors that overlap, leave a hole or have another size")
        end = end_offset
    if 8 + length + end != size:
        raise ValueError("the tensors are not all of the file")
    return tensors, metadata


def _refuse_duplicate_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(items)) < len(items):
        raise ambiguous_error("its header has a name twice")
    return dict(items)


# PyTorch's zip archives


def _parse_zip(file: BinaryIO, size: int) -> object:
    members, directory_position = read_directory(file, size)
    names = [member.name.decode("utf-8", "replace") for member in members]
    if kind := identify_archive(names):
        raise CheckpointError(kind)
    # PyTorch never compresses, and a compressed member may unpack to more than the memory holds.
    if any(member.is_packed for member in members):
        raise CheckpointError("a compressed archive, which no checkpoint is; get the original")
    byte_ranges = locate_members(file, members, directory_position)
    pickle_name = next(name for name in byte_ranges if name.endswith(b"/data.pkl"))
    folder = pickle_name.removesuffix(b"data.pkl")
    byte_order = byte_ranges.get(folder + b"byteorder")
    if byte_order and bytes(byte_order.read(file)) != b"little":
        raise CheckpointError("written by a big-endian machine, which isn't supported")
    pickle_range = byte_ranges[pickle_name]
    if pickle_range.size > MAX_HEADER_BYTES:
        raise ValueError("the pickle is too long")
    storages: dict[str, Storage] = {}
    content = unpickle(io.BytesIO(pickle_range.read(file)), storages)
    for storage in storages.values():
        storage.byte_range = byte_ranges[folder + b"data/" + storage.key.encode()]
    return content


# PyTorch's pickles, as it wrote them before version 1.6

#: The first pickle in such a file.
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


def _parse_pickles(file: BinaryIO, size: int, start: bytes) -> object:
    """Reads five pickles (magic number, version, system, content, the storages' keys) and finds the
    storages that follow them: the number of elements of each, and these."""
    _refuse_tar(start)
    stream = io.BytesIO(start)
    storages: dict[str, Storage] = {}
    magic, _, _, content, keys = (unpickle(stream, storages) for _ in range(5))
    if magic != _MAGIC_NUMBER or not isinstance(keys, list):
        raise ValueError("no checkpoint")
    position = stream.tell()
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(read_bytes(file, position, 8), "little")
        byte_range = ByteRange(position + 8, count * storage.dtype.itemsize)
        end = byte_range.position + byte_range.size
        if storage.byte_range or end > size:
            raise ValueError("a storage that is there twice, or isn't")
        storage.byte_range, position = byte_range, end
    if position != size:
        raise ambiguous_error("something follows its end")
    return content


def _refuse_tar(start: bytes) -> None:
    """Refuses what could be a tar archive: torch reads it as one, whatever else it could be."""
    try:
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return
    raise CheckpointError("a tar archive; unpack it and choose the model in it")
