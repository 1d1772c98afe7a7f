"""Reads the tensors of PyTorch's archives and older pickles, and of .safetensors files.

What is checked is what is loaded: the file is opened once, and no other reader sees it. What two
readers could see differently (two lists of members in an archive, a name that stands twice) is
refused. No code in a file is run. Nothing is mapped into memory, so that a file that shrinks
meanwhile is an error and not the end of the process.
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

from .foreign_files import name_archive, name_file
from .tensor_layout import (
    DTYPES,
    LONGEST_LIST,
    CheckpointError,
    Place,
    Storage,
    StoredTensor,
    ambiguous,
    checked_counts,
    read_bytes,
    unsupported,
)
from .unpickle import unpickle
from .zip_members import find_members, list_members


class Contents(NamedTuple):
    """What a file holds: its tensors by name and, of .safetensors, what it says of itself.

    size: of the file, in bytes.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    size: int


def read_tensors(path: Path) -> Contents:
    """Reads a checkpoint's tensors into memory of their own, on the CPU.

    Args:
        path: The file, of whatever name.

    Returns:
        The tensors under the names that the file gives them, its metadata and its size.

    Raises:
        CheckpointError: The file is something else, is damaged or can't be read safely.
    """
    start = b""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(LONGEST_LIST)
            content, metadata = _parse(file, size, start)
            return Contents(_load(file, size, _find_state_dict(content)), metadata, size)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from error
    except Exception as error:  # damaged files raise whatever their bytes happen to spell
        raise CheckpointError(f"{path}: {name_file(start[:512], path)}") from error


def _parse(file: BinaryIO, size: int, start: bytes) -> tuple[object, dict[str, str]]:
    """Returns what is in a file, whose format its first bytes tell, and its metadata.

    Raises CheckpointError for what must not be read, anything for what can't be.
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


def _load(file: BinaryIO, size: int, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Reads the numbers of tensors, once for those that share them."""
    # A tensor with a stride of 0 can claim any size; copied, it would take it.
    if sum(tensor.size for tensor in stored.values()) > size:
        raise ValueError("the tensors are larger than the file")
    numbers: dict[int, Tensor] = {}
    loaded = {}
    for name, tensor in stored.items():
        storage = tensor.storage
        if storage.place is None or storage.place.size != storage.size:
            raise ValueError("a storage is missing or of another size")
        if id(storage) not in numbers:
            numbers[id(storage)] = torch.from_numpy(storage.place.read(file))
        loaded[name] = _view(numbers[id(storage)], tensor)
    return loaded


def _view(data: Tensor, tensor: StoredTensor) -> Tensor:
    """The tensor as a view of its storage's bytes."""
    if 0 in tensor.shape:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((n - 1) * stride for n, stride in steps)
    if (last + 1) * tensor.dtype.itemsize > len(data):
        raise ValueError("a tensor reaches beyond its storage")
    return data.view(tensor.dtype).as_strided(tensor.shape, tensor.strides, tensor.offset)


# .safetensors

#: Its other dtypes, of scales alone or of several numbers in a byte.
_PACKED = ("F8_E8M0", "F6_E2M3", "F6_E3M2", "F4")


def _parse_safetensors(start: bytes, size: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    length = int.from_bytes(start[:8], "little")
    if 8 + length > len(start):
        raise ValueError("the header is too long, or cut short")
    header = json.loads(start[8 : 8 + length].decode(), object_pairs_hook=_refuse_key_twice)
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is no text")
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] in _PACKED:
            raise unsupported(f"tensors of {entry['dtype']}")
        dtype, shape = DTYPES[entry["dtype"]], checked_counts(entry["shape"])
        first, last = checked_counts(entry["data_offsets"])
        place = Place(8 + length + first, last - first)
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        storage = Storage(name, dtype, last - first, place)
        tensors[name] = StoredTensor(storage, dtype, 0, shape, strides)
        if first != end or tensors[name].size != last - first:
            raise ValueError("tensors that overlap, leave a hole or have another size")
        end = last
    if 8 + length + end != size:
        raise ValueError("the tensors are not all of the file")
    return tensors, metadata


def _refuse_key_twice(items: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(items)) < len(items):
        raise ambiguous("its header has a name twice")
    return dict(items)


# PyTorch's zip archives


def _parse_zip(file: BinaryIO, size: int) -> object:
    members, end = list_members(file, size)
    if kind := name_archive([member.name.decode("utf-8", "replace") for member in members]):
        raise CheckpointError(kind)
    # PyTorch compresses nothing; what does may unpack to more than the memory holds.
    if any(member.is_packed for member in members):
        raise CheckpointError("a compressed archive, which no checkpoint is; get the original")
    places = find_members(file, members, end)
    folder = next(name for name in places if name.endswith(b"/data.pkl"))[: -len(b"data.pkl")]
    if (order := places.get(folder + b"byteorder")) and bytes(order.read(file)) != b"little":
        raise CheckpointError("written by a big-endian machine, which isn't supported")
    pickle = places[folder + b"data.pkl"]
    if pickle.size > LONGEST_LIST:
        raise ValueError("the pickle is too long")
    storages: dict[str, Storage] = {}
    content = unpickle(io.BytesIO(pickle.read(file)), storages)
    for storage in storages.values():
        storage.place = places[folder + b"data/" + storage.key.encode()]
    return content


# PyTorch's pickles

#: What a file of PyTorch before 1.6 begins with.
_MAGIC = 0x1950A86A20F9469CFC6C


def _parse_pickles(file: BinaryIO, size: int, start: bytes) -> object:
    """Reads five pickles (a number, a version, the system, the content, the storages' keys), then
    the storages: how many numbers, and these."""
    _refuse_tar(start)
    stream = io.BytesIO(start)
    storages: dict[str, Storage] = {}
    magic, _, _, content, keys = (unpickle(stream, storages) for _ in range(5))
    if magic != _MAGIC or not isinstance(keys, list):
        raise ValueError("no checkpoint")
    position = stream.tell()
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(read_bytes(file, position, 8), "little")
        place = Place(position + 8, count * storage.dtype.itemsize)
        if storage.place or place.position + place.size > size:
            raise ValueError("a storage that is there twice, or isn't")
        storage.place, position = place, place.position + place.size
    if position != size:
        raise ambiguous("something follows its end")
    return content


def _refuse_tar(start: bytes) -> None:
    """To torch, what could be a tar archive is one, whatever else it could be."""
    try:
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return
    raise CheckpointError("a tar archive; unpack it and choose the model in it")
