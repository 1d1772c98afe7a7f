"""Reads a pickle without running code.

A pickle is a list of instructions, and only those that make texts, numbers, lists, dicts and
tensors are carried out, here.
"""

import pickletools
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import torch

from .tensor_layout import (
    DTYPES,
    CheckpointError,
    Storage,
    StoredTensor,
    checked_counts,
    known_dtypes,
    unsupported,
)


class _Inert:
    """Stands for an object beside the weights, of a class known to be harmless; does nothing."""


def _make_dict() -> dict:
    return {}


def _make_tensor(
    storage: Storage, offset: int, shape: tuple, strides: tuple, *rest: object
) -> StoredTensor:
    dtype = next((value for value in rest if isinstance(value, torch.dtype)), storage.dtype)
    if dtype not in _PLAIN:
        raise unsupported(f"tensors of {dtype}")
    return StoredTensor(
        storage, dtype, *checked_counts([offset]), checked_counts(shape), checked_counts(strides)
    )


def _make_parameter(tensor: StoredTensor, requires_grad: bool, hooks: object) -> StoredTensor:
    return tensor


#: dtypes whose numbers lie one by one in their bytes.
_PLAIN = {*DTYPES.values(), torch.complex32, torch.complex128}
#: All that pickles may name, "module name" each: what takes its place here ...
_KNOWN: dict[str, Callable | torch.dtype] = {
    "collections OrderedDict": _make_dict,
    "torch._utils _rebuild_tensor": _make_tensor,
    "torch._utils _rebuild_tensor_v2": _make_tensor,
    "torch._utils _rebuild_tensor_v3": _make_tensor,
    "torch._utils _rebuild_parameter": _make_parameter,
    "torch.storage UntypedStorage": torch.uint8,
    **{f"torch {name}": value for name, value in vars(torch).items() if type(value) is torch.dtype},
    **known_dtypes({
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


def unpickle(stream: BinaryIO, storages: dict[str, Storage]) -> object:
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


def _carry_out(instructions: Iterable[tuple], storages: dict[str, Storage]) -> object:
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


def _find_storage(persistent_id: Any, storages: dict[str, Storage]) -> Storage:
    kind, dtype, key, _, count, *view = persistent_id
    if kind != "storage" or type(key) is not str or any(view):
        raise ValueError("no storage")
    storage = Storage(key, dtype, checked_counts([count])[0] * dtype.itemsize)
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
