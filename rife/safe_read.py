"""Reads the tensors of PyTorch's archives and older pickles, and of .safetensors files.

What is checked is what is loaded: the file is opened once, and no other reader sees it. What two
readers could see differently (two lists of members in an archive, a name that stands twice) is
refused. No code in a file is run: a pickle is a list of instructions, and only those that make
texts, numbers, lists, dicts and tensors are carried out, here. Nothing is mapped into memory, so
that a file that shrinks meanwhile is an error and not the end of the process.
"""

import io
import json
import math
import os
import pickletools
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .file_kinds import name_archive, name_file

#: Bytes. No RIFE file's list of tensors is a tenth as long, and read into memory, a list can take
#: many times its size.
LONGEST_LIST = 1 << 20


class CheckpointError(ValueError):
    """A file that can't be used as a RIFE model; the message says why, for people."""


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


# Bytes


def _read(file: BinaryIO, position: int, count: int) -> bytes:
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


class _Place(NamedTuple):
    """Bytes in a file. checksum: their CRC-32, or 0 where it is not known."""

    position: int
    size: int
    checksum: int = 0

    def read(self, file: BinaryIO) -> np.ndarray:
        data = _read_into(file, self.position, np.empty(self.size, np.uint8))
        if self.checksum and zlib.crc32(data) != self.checksum:
            raise ValueError("another checksum")
        return data


# Tensors


@dataclass
class _Storage:
    """Numbers in a row, which tensors share. place: set once it is known."""

    key: str
    dtype: torch.dtype
    size: int
    place: _Place | None = None


class StoredTensor(NamedTuple):
    """A tensor whose numbers aren't read yet; offset and strides count elements."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


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


#: Of a tensor, to torch.
_MOST_SIDES = 64


def _counts(numbers: Iterable[object]) -> tuple[int, ...]:
    """Sizes, strides or offsets, if they can be such."""
    numbers = tuple(numbers)
    if len(numbers) > _MOST_SIDES or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError("not sizes")
    return numbers


def _dtypes(names: Mapping[str, str]) -> dict[str, torch.dtype]:
    """Those of the dtypes that this torch has."""
    return {name: getattr(torch, dtype) for name, dtype in names.items() if hasattr(torch, dtype)}


# .safetensors

_SAFETENSORS = _dtypes({
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
})  # fmt: skip
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
            raise _unsupported(f"tensors of {entry['dtype']}")
        dtype, shape = _SAFETENSORS[entry["dtype"]], _counts(entry["shape"])
        first, last = _counts(entry["data_offsets"])
        place = _Place(8 + length + first, last - first)
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        storage = _Storage(name, dtype, last - first, place)
        tensors[name] = StoredTensor(storage, dtype, 0, shape, strides)
        if first != end or tensors[name].size != last - first:
            raise ValueError("tensors that overlap, leave a hole or have another size")
        end = last
    if 8 + length + end != size:
        raise ValueError("the tensors are not all of the file")
    return tensors, metadata


def _refuse_key_twice(items: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(items)) < len(items):
        raise _ambiguous("its header has a name twice")
    return dict(items)


def _unsupported(what: str) -> CheckpointError:
    return CheckpointError(
        f"holds {what}, which isn't supported; get the model in float16 or float32"
    )


def _ambiguous(what: str) -> CheckpointError:
    return CheckpointError(
        f"refused: damaged, or made so that programs read it differently ({what}); get it again "
        "from a source that you trust"
    )


# PyTorch's zip archives


def _parse_zip(file: BinaryIO, size: int) -> object:
    members, end = _list_members(file, size)
    if kind := name_archive([member.name.decode("utf-8", "replace") for member in members]):
        raise CheckpointError(kind)
    # PyTorch compresses nothing; what does may unpack to more than the memory holds.
    if any(member.is_packed for member in members):
        raise CheckpointError("a compressed archive, which no checkpoint is; get the original")
    places = _find_members(file, members, end)
    folder = next(name for name in places if name.endswith(b"/data.pkl"))[: -len(b"data.pkl")]
    if (order := places.get(folder + b"byteorder")) and bytes(order.read(file)) != b"little":
        raise CheckpointError("written by a big-endian machine, which isn't supported")
    pickle = places[folder + b"data.pkl"]
    if pickle.size > LONGEST_LIST:
        raise ValueError("the pickle is too long")
    storages: dict[str, _Storage] = {}
    content = _unpickle(io.BytesIO(pickle.read(file)), storages)
    for storage in storages.values():
        storage.place = places[folder + b"data/" + storage.key.encode()]
    return content


class _Member(NamedTuple):
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


def _list_members(file: BinaryIO, size: int) -> tuple[list[_Member], int]:
    """Reads the directory of a zip archive; also returns where that begins."""
    tail = _read(file, max(0, size - _LONGEST_END), min(size, _LONGEST_END))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("no end")
    disks, here, count, length, position, comment = struct.unpack_from("<I2H2IH", tail, at + 4)
    if 0xFFFFFFFF in (length, position) or count == 0xFFFF:
        raise CheckpointError("an archive of more than 4 GB, so no RIFE model")
    if disks or here != count:
        raise _ambiguous("it is a part of several")
    if at + 22 + comment != len(tail):
        raise _ambiguous("something follows its end")
    end = size - len(tail) + at
    if tail[at - 20 : at - 16] == b"PK\x06\x07":  # an end for large archives, as PyTorch writes
        end -= 76
        large = struct.unpack_from("<4sQ4xII4Q4sIQI", tail, at - 76)
        numbers = (0, 0, count, count, length, position)
        if large != (b"PK\x06\x06", 44, *numbers, b"PK\x06\x07", 0, end, 1):
            raise _ambiguous("its two ends contradict each other")
    if position + length != end:
        raise _ambiguous("its list of members isn't where it should be")
    if length > LONGEST_LIST:
        raise ValueError("the list of members is too long")
    members = list(_parse_directory(_read(file, position, length)))
    if len(members) != count:
        raise _ambiguous("it has other members than it says")
    return members, position


def _parse_directory(directory: bytes) -> Iterator[_Member]:
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
        yield _Member(
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
            raise _ambiguous("a member has two sizes or names")
        at += 4 + length


def _find_members(file: BinaryIO, members: Sequence[_Member], end: int) -> dict[bytes, _Place]:
    """Finds the bytes of each member, of an archive that has one reading only.

    It is members, one right after the other from the first byte up to the directory, and each
    says of itself what the directory says of it.
    """
    places: dict[bytes, _Place] = {}
    position = 0
    for member in members:
        if member.position != position:
            raise _ambiguous("its members aren't where they should be")
        signature, numbers, *lengths = struct.unpack("<4s2x20s2H", _read(file, position, 30))
        words = _read(file, position + 30, sum(lengths))
        name, extra = words[: lengths[0]], words[lengths[0] :]
        _check_extra(extra)
        start = position + 30 + len(words)
        position = start + member.size
        if member.has_descriptor:  # then checksum and sizes follow, and may be 0 here
            if _read(file, position, 16) != b"PK\x07\x08" + member.numbers[8:]:
                raise _ambiguous("a member contradicts the list")
            if numbers[8:] == bytes(12):
                numbers = numbers[:8] + member.numbers[8:]
            position += 16
        if (signature, numbers, name) != (b"PK\x03\x04", member.numbers, member.name):
            raise _ambiguous("a member contradicts the list")
        places[name] = _Place(start, member.size, member.checksum)
    if position != end:
        raise _ambiguous("something lies between its members and their list")
    # To torch's reader, case is all one.
    if len({name.decode("utf-8", "replace").lower() for name in places}) < len(members):
        raise _ambiguous("two members have one name")
    return places


# PyTorch's pickles

#: What a file of PyTorch before 1.6 begins with.
_MAGIC = 0x1950A86A20F9469CFC6C


def _parse_pickles(file: BinaryIO, size: int, start: bytes) -> object:
    """Reads five pickles (a number, a version, the system, the content, the storages' keys), then
    the storages: how many numbers, and these."""
    _refuse_tar(start)
    stream = io.BytesIO(start)
    storages: dict[str, _Storage] = {}
    magic, _, _, content, keys = (_unpickle(stream, storages) for _ in range(5))
    if magic != _MAGIC or not isinstance(keys, list):
        raise ValueError("no checkpoint")
    position = stream.tell()
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(_read(file, position, 8), "little")
        place = _Place(position + 8, count * storage.dtype.itemsize)
        if storage.place or place.position + place.size > size:
            raise ValueError("a storage that is there twice, or isn't")
        storage.place, position = place, place.position + place.size
    if position != size:
        raise _ambiguous("something follows its end")
    return content


def _refuse_tar(start: bytes) -> None:
    """To torch, what could be a tar archive is one, whatever else it could be."""
    try:
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return
    raise CheckpointError("a tar archive; unpack it and choose the model in it")


class _Inert:
    """Stands for an object beside the weights, of a class known to be harmless; does nothing."""


def _make_dict() -> dict:
    return {}


def _make_tensor(
    storage: _Storage, offset: int, shape: tuple, strides: tuple, *rest: object
) -> StoredTensor:
    dtype = next((value for value in rest if isinstance(value, torch.dtype)), storage.dtype)
    if dtype not in _PLAIN:
        raise _unsupported(f"tensors of {dtype}")
    return StoredTensor(storage, dtype, *_counts([offset]), _counts(shape), _counts(strides))


def _make_parameter(tensor: StoredTensor, requires_grad: bool, hooks: object) -> StoredTensor:
    return tensor


#: dtypes whose numbers lie one by one in their bytes.
_PLAIN = {*_SAFETENSORS.values(), torch.complex32, torch.complex128}
#: All that pickles may name, "module name" each: what takes its place here ...
_KNOWN: dict[str, Callable | torch.dtype] = {
    "collections OrderedDict": _make_dict,
    "torch._utils _rebuild_tensor": _make_tensor,
    "torch._utils _rebuild_tensor_v2": _make_tensor,
    "torch._utils _rebuild_tensor_v3": _make_tensor,
    "torch._utils _rebuild_parameter": _make_parameter,
    "torch.storage UntypedStorage": torch.uint8,
    **{f"torch {name}": value for name, value in vars(torch).items() if type(value) is torch.dtype},
    **_dtypes({
        "torch FloatStorage": "float32", "torch DoubleStorage": "float64",
        "torch HalfStorage": "float16", "torch BFloat16Storage": "bfloat16",
        "torch LongStorage": "int64", "torch IntStorage": "int32", "torch ShortStorage": "int16",
        "torch CharStorage": "int8", "torch ByteStorage": "uint8", "torch BoolStorage": "bool",
        "torch ComplexFloatStorage": "complex64", "torch ComplexDoubleStorage": "complex128",
    }),
}  # fmt: skip
#: ... and what training scripts keep beside weights, and is passed over.
_PASSED_OVER = re.compile(
    r"torch (Size|device)|argparse Namespace|pathlib \w+Path|collections defaultdict|"
    r"numpy dtype|numpy\._?core\.multiarray scalar|_codecs encode|"
    r"(__builtin__|builtins) (list|dict|set|int|float)"
)

#: Instructions that push what they carry ...
_LITERALS = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING",
))  # fmt: skip
#: ... or what they stand for ...
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
#: ... or so many of the values before, as a tuple.
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _unpickle(stream: BinaryIO, storages: dict[str, _Storage]) -> object:
    """Reads one pickle up to its end.

    Args:
        stream: What holds it, in memory.
        storages: Takes the storages that it names, by their keys.

    Raises:
        CheckpointError: It calls for more than weights need.
    """
    start = stream.tell()
    try:
        return _carry_out(pickletools.genops(stream), storages)
    except CheckpointError:
        raise
    except Exception:
        stream.seek(start)
        _refuse_calls(stream)  # a better reason, if there is one
        raise


def _carry_out(instructions: Iterable[tuple], storages: dict[str, _Storage]) -> object:
    """Carries out a pickle's instructions, those that weights need. `stack` are the values since
    the last mark, `outer` those before each mark. Keys are numbers and texts, since tuples in
    tuples can take forever to compare, and some of them crash Python."""
    stack: list[Any] = []
    outer: list[list[Any]] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        nonlocal stack
        values, stack = stack, outer.pop()
        return values

    def put_items(target: Any, flat: list[Any]) -> None:
        keys, values = flat[::2], flat[1::2]
        if not all(key is None or isinstance(key, (str, int, float)) for key in keys):
            raise ValueError("no plain keys")
        if not isinstance(target, _Inert):
            dict.update(target, zip(keys, values, strict=True))

    def append(target: Any, values: list[Any]) -> None:
        if not isinstance(target, _Inert):
            list.extend(target, values)

    for opcode, argument, _ in instructions:
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in _LITERALS:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE":
                values = pop_to_mark()
                stack.append(tuple(values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [stack.pop() for _ in range(_TUPLES[opcode.name])]
                stack.append(tuple(reversed(values)))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_resolve(argument))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not (type(module) is type(attribute) is str):
                    raise ValueError("not a name")
                stack.append(_resolve(f"{module} {attribute}"))
            case "BINPERSID":
                stack[-1] = _find_storage(stack[-1], storages)
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                if not isinstance(stack[-1], _Inert):
                    stack[-1] = stack[-1](*arguments)
            case "BUILD":
                stack.pop()  # attributes of a dict or a tensor, which nothing here needs
            case "SETITEM":
                put_items(stack[-3], stack[-2:])
                del stack[-2:]
            case "SETITEMS":
                items = pop_to_mark()
                put_items(stack[-1], items)
            case "APPEND":
                append(stack[-2], stack[-1:])
                del stack[-1:]
            case "APPENDS":
                values = pop_to_mark()
                append(stack[-1], values)
            case _:
                raise ValueError("an instruction that weights don't need")
    raise ValueError("no end")


def _find_storage(persistent_id: Any, storages: dict[str, _Storage]) -> _Storage:
    kind, dtype, key, _, count, *view = persistent_id
    if kind != "storage" or type(key) is not str or any(view):
        raise ValueError("no storage")
    storage = _Storage(key, dtype, _counts([count])[0] * dtype.itemsize)
    if storages.setdefault(key, storage) != storage:
        raise ValueError("a storage that is two")
    return storages[key]


def _resolve(name: str) -> Any:
    """What stands for "module name" here."""
    if not re.fullmatch(r"[\w.]+ [\w.]+", name):
        raise ValueError("not a name")
    if name in _KNOWN:
        return _KNOWN[name]
    if _PASSED_OVER.fullmatch(name):
        return _Inert()
    called = name.replace(" ", ".")[:100]
    if re.fullmatch(r"torch\._utils _rebuild_\w+|torch \w+Storage", name):
        raise CheckpointError(
            f"refused: this pickle calls {called}, which makes another kind of tensor than plain "
            "weights are (sparse, quantized, ...); get the model in float16 or float32"
        )
    raise CheckpointError(
        f"refused: this pickle calls {called}, as no plain weights do, and may run any code with "
        "it; get the model from a source that you trust"
    )


def _refuse_calls(stream: BinaryIO) -> None:
    """Refuses by name what a pickle calls for, even one that can't be carried out."""
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            _resolve(argument)
        elif opcode.name == "STACK_GLOBAL":
            _resolve(" ".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
