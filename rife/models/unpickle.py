"""Reads a pickle without running code.

A pickle is a program of simple instructions. This module interprets the instructions that build
texts, numbers, lists, dicts and tensors, and refuses all others, without Python's own unpickler.
"""

import pickletools
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import torch

from .errors import CheckpointError, unsupported_error
from .tensor_layout import (
    SAFETENSORS_DTYPES,
    Storage,
    StoredTensor,
    available_dtypes,
    validate_counts,
)


class _Placeholder:
    """Stands for an object that training scripts keep beside weights; its content is dropped."""


def _build_dict() -> dict:
    return {}


def _build_tensor(
    storage: Storage, offset: int, shape: tuple, strides: tuple, *rest: object
) -> StoredTensor:
    dtype = next((value for value in rest if isinstance(value, torch.dtype)), storage.dtype)
    if dtype not in _UNPACKED_DTYPES:
        raise unsupported_error(f"tensors of {dtype}")
    (offset,) = validate_counts([offset])
    return StoredTensor(storage, dtype, offset, validate_counts(shape), validate_counts(strides))


def _unwrap_parameter(tensor: StoredTensor, requires_grad: bool, hooks: object) -> StoredTensor:
    return tensor


#: dtypes whose numbers take whole bytes, one number after the other.
_UNPACKED_DTYPES = {*SAFETENSORS_DTYPES.values(), torch.complex32, torch.complex128}
#: What stands in for each function and class that pickled weights name, by "module name".
_REPLACEMENTS: dict[str, Callable | torch.dtype] = {
    "collections OrderedDict": _build_dict,
    "torch._utils _rebuild_tensor": _build_tensor,
    "torch._utils _rebuild_tensor_v2": _build_tensor,
    "torch._utils _rebuild_tensor_v3": _build_tensor,
    "torch._utils _rebuild_parameter": _unwrap_parameter,
    "torch.storage UntypedStorage": torch.uint8,
    **{f"torch {name}": value for name, value in vars(torch).items() if type(value) is torch.dtype},
    **available_dtypes({
        "torch FloatStorage": "float32", "torch DoubleStorage": "float64",
        "torch HalfStorage": "float16", "torch BFloat16Storage": "bfloat16",
        "torch LongStorage": "int64", "torch IntStorage": "int32", "torch ShortStorage": "int16",
        "torch CharStorage": "int8", "torch ByteStorage": "uint8", "torch BoolStorage": "bool",
        "torch ComplexFloatStorage": "complex64", "torch ComplexDoubleStorage": "complex128",
    }),
}  # fmt: skip
#: What training scripts keep beside weights; each becomes a placeholder.
_IGNORED_NAMES = re.compile(
    r"torch (Size|device)|argparse Namespace|pathlib \w+Path|collections defaultdict|"
    r"numpy dtype|numpy\._?core\.multiarray scalar|_codecs encode|"
    r"(__builtin__|builtins) (list|dict|set|int|float)"
)

#: Instructions that push their argument.
_LITERALS = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING",
))  # fmt: skip
#: Instructions that push a constant.
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
#: Instructions that pack the last one to three values into a tuple.
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def unpickle(stream: BinaryIO, storages: dict[str, Storage]) -> object:
    """Reads one pickle, and leaves the stream at its end.

    Args:
        stream: The pickle, in memory.
        storages: The storages that the pickle mentions are added here, by their keys.

    Returns:
        The pickled object, with a StoredTensor for each tensor in it.

    Raises:
        CheckpointError: The pickle calls something that plain weights don't need.
        Exception: Of any kind, if it is damaged.
    """
    start = stream.tell()
    try:
        return _interpret(pickletools.genops(stream), storages)
    except CheckpointError:
        raise
    except Exception:
        stream.seek(start)
        _refuse_unknown_names(stream)  # tells the user more, if there are any
        raise


def _interpret(instructions: Iterable[tuple], storages: dict[str, Storage]) -> object:
    """Returns what a pickle's instructions build."""
    stack: list[Any] = []  # the values since the last mark
    outer_stacks: list[list[Any]] = []  # the values before each mark
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        nonlocal stack
        values, stack = stack, outer_stacks.pop()
        return values

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
                outer_stacks.append(stack)
                stack = []
            case "TUPLE":
                values = pop_to_mark()
                stack.append(tuple(values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [stack.pop() for _ in range(_TUPLE_LENGTHS[opcode.name])]
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
                stack[-1] = _declare_storage(stack[-1], storages)
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                if not isinstance(stack[-1], _Placeholder):
                    stack[-1] = stack[-1](*arguments)
            case "BUILD":
                stack.pop()  # attributes of a dict or a tensor, which no network needs
            case "SETITEM":
                _set_items(stack[-3], stack[-2:])
                del stack[-2:]
            case "SETITEMS":
                items = pop_to_mark()
                _set_items(stack[-1], items)
            case "APPEND":
                _extend(stack[-2], stack[-1:])
                del stack[-1:]
            case "APPENDS":
                values = pop_to_mark()
                _extend(stack[-1], values)
            case _:
                raise ValueError("an instruction that weights don't need")
    raise ValueError("no end")


def _set_items(target: Any, keys_and_values: list[Any]) -> None:
    keys, values = keys_and_values[::2], keys_and_values[1::2]
    # Nested tuples as keys can take forever to hash, and some of them crash Python.
    if not all(key is None or isinstance(key, (str, int, float)) for key in keys):
        raise ValueError("no plain keys")
    if not isinstance(target, _Placeholder):
        dict.update(target, zip(keys, values, strict=True))


def _extend(target: Any, values: list[Any]) -> None:
    if not isinstance(target, _Placeholder):
        list.extend(target, values)


def _declare_storage(persistent_id: Any, storages: dict[str, Storage]) -> Storage:
    kind, dtype, key, _, count, *view = persistent_id
    if kind != "storage" or type(key) is not str or any(view):
        raise ValueError("no storage")
    (count,) = validate_counts([count])
    storage = Storage(key, dtype, count * dtype.itemsize)
    if storages.setdefault(key, storage) != storage:
        raise ValueError("a storage that is two")
    return storages[key]


def _resolve(name: str) -> Any:
    """Returns the stand-in for a "module name"; raises CheckpointError if weights don't need it."""
    if not re.fullmatch(r"[\w.]+ [\w.]+", name):
        raise ValueError("not a name")
    if name in _REPLACEMENTS:
        return _REPLACEMENTS[name]
    if _IGNORED_NAMES.fullmatch(name):
        return _Placeholder()
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


def _refuse_unknown_names(stream: BinaryIO) -> None:
    """Raises CheckpointError for the first name in a damaged pickle that weights don't need."""
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            _resolve(argument)
        elif opcode.name == "STACK_GLOBAL":
            _resolve(" ".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
