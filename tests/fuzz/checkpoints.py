"""Loads checkpoints that are damaged, or lie, at random: `python -m tests.fuzz.checkpoints`.

Each has to load, or be refused with a message. Nothing else may happen: no other error, no crash,
no more than a minute, no more memory than twice the file's size, no code run. Tensors that load
have to be those that torch or safetensors load. Some files change while they are read.
"""

import argparse
import collections
import faulthandler
import io
import json
import os
import pickletools
import random
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from rife.models import safe_read
from rife.models.checkpoint import CheckpointError, load_model
from rife.networks.ifnet_v4 import IFNet_v4, Parameters

from ..support.checkpoint_files import Member, archive, legacy, reducing, safetensors_file, zipped
from ..support.processes import peak_memory

TIME_LIMIT = 60  # seconds, on a busy machine, too
EXTRA_MEMORY = 32 << 20  # bytes that Python and torch take, besides twice the file's size
MARKER = "code was run"


# Building files


def saved(content: object, form: str) -> bytes:
    if form == "safetensors":
        return safetensors_bytes({key: tensor.contiguous() for key, tensor in content.items()})
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=form == "zip")
    return stream.getvalue()


# Kinds of cases: each builds a file from a random generator

STATE = {
    key: torch.full(tensor.shape, 0.1)
    for key, tensor in IFNet_v4(Parameters((8, 8, 8, 8))).state_dict().items()
}
FORMATS = ("zip", "legacy", "safetensors")
SOUND_FILES = {form: saved(STATE, form) for form in FORMATS}
SOUND_PICKLE = zipfile.ZipFile(io.BytesIO(SOUND_FILES["zip"])).read("archive/data.pkl")
SOUND_ARCHIVE = zipfile.ZipFile(io.BytesIO(SOUND_FILES["zip"]))
STORAGES = {
    name.removeprefix("archive/"): SOUND_ARCHIVE.read(name)
    for name in SOUND_ARCHIVE.namelist()
    if name.startswith("archive/data/")
}
NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
DANGEROUS_CALLS = [
    ("os system", f"touch '{MARKER}'"),
    ("posix system", f"touch '{MARKER}'"),
    ("posix mkdir", MARKER),
    ("builtins exec", f"open('{MARKER}', 'w')"),
    ("builtins eval", f"open('{MARKER}', 'w')"),
    ("__builtin__ eval", f"open('{MARKER}', 'w')"),
    ("pathlib Path.touch", MARKER),
    ("subprocess getoutput", f"touch '{MARKER}'"),
    ("torch._inductor.codecache os.system", f"touch '{MARKER}'"),
    ("torch.serialization os.mkdir", MARKER),
    ("torch load", MARKER),
    ("builtins bytearray", MARKER),
    ("torch._utils _rebuild_meta_tensor_no_storage", MARKER),
]


def cut(r: random.Random) -> bytes:
    data = SOUND_FILES[r.choice(FORMATS)]
    return data[
        : r.choice([r.randrange(len(data)), r.randrange(2000), len(data) - r.randrange(99)])
    ]


def flipped(r: random.Random) -> bytes:
    data = bytearray(SOUND_FILES[r.choice(FORMATS)])
    for _ in range(r.choice([1, 2, 10, 100])):
        data[_position(r, data)] ^= 1 << r.randrange(8)
    return bytes(data)


def overwritten(r: random.Random) -> bytes:
    data = bytearray(SOUND_FILES[r.choice(FORMATS)])
    for _ in range(r.choice([1, 2, 5])):
        size = r.choice([1, 2, 4, 8, 50])
        number = (r.choice(NUMBERS) & (256**size - 1)).to_bytes(size, "little")
        new = r.choice([number, r.randbytes(size)])
        i = _position(r, data)
        data[i : i + size] = new
    return bytes(data)


def _position(r: random.Random, data: bytes) -> int:
    """Mostly near an end, where files keep their lists."""
    near = min(len(data), r.choice([100, 5000, 20000]))
    return r.choice([r.randrange(near), len(data) - 1 - r.randrange(near), r.randrange(len(data))])


def spliced(r: random.Random) -> bytes:
    a, b = SOUND_FILES[r.choice(FORMATS)], SOUND_FILES[r.choice(FORMATS)]
    i, j = _position(r, a), _position(r, b)
    return r.choice([a[:i] + b[j:], a + b, a[:i] + a[min(i, j) :], b[:9] + a])


def altered_tensors(r: random.Random) -> bytes:
    state = dict(STATE)
    for key in r.sample([*state], r.choice([1, 1, 3, 30])):
        tensor = state.pop(key)
        change = r.choice(["drop", "rename", "reshape", "retype", "fill", "prefix", "stride"])
        if change == "rename":
            state[r.choice([key[:-3], key + "x", f"block{r.randrange(9)}." + key[7:]])] = tensor
        elif change == "reshape":
            shape = [r.choice([0, 1, 2, 3, 8, 24, 1000]) for _ in range(r.randrange(6))]
            state[key] = torch.ones([n if i < 2 else min(n, 8) for i, n in enumerate(shape)])
        elif change == "retype":
            types = [torch.int8, torch.int64, torch.bool, torch.float16, torch.float8_e5m2]
            state[key] = tensor.to(r.choice([*types, torch.bfloat16, torch.float64]))
        elif change == "fill":
            state[key] = tensor * r.choice([torch.nan, torch.inf, 1e38, 0])
        elif change == "prefix":
            state[r.choice(["module.", "model.flownet.", "teacher.", "module.module."]) + key] = (
                tensor
            )
        elif change == "stride":
            wide = [r.choice([n, 1000, 10**4]) for n in (1, 1, 1, 1)[: r.randrange(1, 5)]]
            state[key] = torch.ones([1] * len(wide)).expand(wide)
    small = sum(tensor.nbytes for tensor in state.values()) < 10**7
    form = r.choice(FORMATS if small else FORMATS[:2])
    content = {r.choice(["state_dict", "model", "x"]): state} if r.random() < 0.2 else state
    return saved(content if form != "safetensors" else state, form)


def altered_pickle(r: random.Random) -> bytes:
    """A sound pickle with other opcodes, numbers or names here and there."""
    places = [position for _, _, position in pickletools.genops(SOUND_PICKLE)]
    data = bytearray(SOUND_PICKLE)
    for i in sorted(r.sample(range(len(places) - 1), r.choice([1, 1, 2, 5, 50])), reverse=True):
        new = r.choice([
            bytes([r.choice(b"()]}RbQqhrjtu\x85\x86\x87seaN.0123\x88\x89KMJ\x8a\x81\x93cio")]),
            b"J" + struct.pack("<I", r.choice(NUMBERS)),
            b"\x8a\x08" + r.randbytes(8),
            b"c%b\n%b\n" % tuple(r.choice(DANGEROUS_CALLS)[0].encode().split()),
            b"ctorch\n%bStorage\n" % r.choice([b"Double", b"QInt8", b"Untyped", b"Bool", b"X"]),
        ])  # fmt: skip
        data[places[i] : r.choice([places[i], places[i + 1]])] = new
    return _wrapped(r, bytes(data))


def _wrapped(r: random.Random, content: bytes) -> bytes:
    return r.choice([
        lambda: zipped(content, STORAGES),
        lambda: zipped(content, STORAGES, compress=True),
        lambda: legacy(content, [str(i) for i in range(r.choice([0, 1, len(STORAGES)]))])
        + b"".join(struct.pack("<q", r.choice([1, 8, 2**40])) + bytes(9) for _ in range(3)),
        lambda: content,
    ])()  # fmt: skip


def hostile_pickle(r: random.Random) -> bytes:
    """A pickle that calls something, alone or inside a sound one."""
    function, argument = r.choice(DANGEROUS_CALLS)
    call = reducing(function, argument)
    if r.random() < 0.5:
        i = r.randrange(len(SOUND_PICKLE))
        return _wrapped(r, SOUND_PICKLE[:i] + call[2:-1] + SOUND_PICKLE[i:])
    if r.random() < 0.5:  # the same as other opcodes
        module, name = function.encode().split()
        text = argument.encode()
        call = r.choice([
            b"(S'%b'\ni%b\n%b\n." % (text.replace(b"'", b'"'), module, name),
            b"\x80\x04\x8c%c%b\x8c%c%b\x93\x8c%c%b\x85R."
            % (len(module), module, len(name), name, len(text), text),
            b"\x80\x02(c%b\n%b\nX%b%bo." % (module, name, struct.pack("<I", len(text)), text),
            b"\x80\x02c%b\n%b\nX%b%b\x85\x81."
            % (module, name, struct.pack("<I", len(text)), text),
        ])  # fmt: skip
    return _wrapped(r, call)


def random_pickle(r: random.Random) -> bytes:
    """Opcodes at random, which nest and share and now and then are sound."""
    pieces = [b"(", b")", b"]", b"}", b"t", b"\x85", b"\x86", b"\x87", b"R", b"s", b"u", b"a",
              b"e", b"b", b"Q", b"q\1", b"h\1", b"q\2", b"h\2", b"\x88", b"N", b"K\1", b"0", b"2",
              b"X\7\0\0\0storage", b"ccollections\nOrderedDict\n)R", b"ctorch\nFloatStorage\n",
              b"ctorch._utils\n_rebuild_tensor_v2\n", b"J\xff\xff\xff\x7f", b"X\1\0\0\0000",
              b"X\3\0\0\0cpu", b"X\6\0\0\0block0"]  # fmt: skip
    chosen = r.sample(pieces, r.randrange(2, len(pieces)))
    count = r.choice([3, 10, 50, 300, 20_000])
    body = b"".join(r.choice(chosen) for _ in range(count))
    if r.random() < 0.3:
        body = b")q\1" + r.choice([b"h\1h\1\x86q\1", b"(h\1h\1h\1tq\1", b"\x85"]) * count
    return _wrapped(r, b"\x80\x02" + r.choice([b"", b"}", b"("]) + body + b"}h\1K\1s" + b".")


def lying_storage(r: random.Random) -> bytes:
    """Storages and tensors that claim any size, place and kind."""

    def integer() -> bytes:
        n = r.choice([*NUMBERS, 2**40, 2**62, 2**63, -1, -8, 10, 10, 10, 10])
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def integers() -> bytes:
        return b"(" + b"".join(integer() for _ in range(r.randrange(4))) + b"t"

    def tensor() -> bytes:
        kind = r.choice([b"Float", b"Half", b"Double", b"Char", b"ComplexFloat", b"QInt8"])
        key = b"X\1\0\0\0" + r.choice([b"0", b"1", b"/"])
        place = b"X\3\0\0\0" + r.choice([b"cpu", b"cud", b"met"])
        start = b"(X\7\0\0\0storagectorch\n%bStorage\n" % kind + key + place
        storage = start + r.choice([size, integer()]) + view + b"tQ"
        rest = integer() + integers() + integers() + b"\x89ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"

    size, view = integer(), r.choice([b"", b"N", b"N", b"(X\1\0\0\0v" + integers()[1:-1] + b"t"])
    names = r.sample([*STATE], r.choice([1, 3, 10, len(STATE)]))
    items = (b"X" + struct.pack("<I", len(name)) + name.encode() + tensor() for name in names)
    return _wrapped(r, b"\x80\x02}(" + b"".join(items) + b"u.")


def lying_header(r: random.Random) -> bytes:
    data = SOUND_FILES["safetensors"]
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if r.random() < 0.2:
        return struct.pack("<Q", r.choice([*NUMBERS, length - 1, length + 1, 2**64 - 1])) + data[8:]
    numbers = [*NUMBERS, -1, 2**63, 2**64, 10**30, 0.5, "1", None, [], len(rest)]
    for _ in range(r.choice([1, 1, 2, 20])):
        key = r.choice([*header])
        entry = header[key]
        change = r.choice(["shape", "data_offsets", "dtype", "drop", "copy", "odd"])
        if change == "drop":
            del header[key]
        elif change == "copy":
            header[key + "x"] = entry
        elif change == "odd" or not isinstance(entry, dict):
            header[key] = r.choice(numbers)
        elif change == "dtype":
            entry["dtype"] = r.choice(["F64", "F16", "I64", "BOOL", "U8", "F8_E4M3", "F4", "X", 1])
        elif isinstance(entry.get(change), list) and entry[change]:
            entry[change][r.randrange(len(entry[change]))] = r.choice(numbers)
    return safetensors_file(
        header, rest[: r.choice([len(rest), len(rest), r.randrange(len(rest))])]
    )


def lying_zip(r: random.Random) -> bytes:
    """Archives that unpack to more, hold members twice, or none that they should."""
    members = dict(STORAGES)
    for _ in range(r.randrange(3)):
        name = r.choice([*members, "byteorder", ".format_version", "constants.pkl", "data.pkl"])
        members[name] = r.choice([b"", b"big", bytes(20_000_000), r.randbytes(100)])
    data = bytearray(zipped(SOUND_PICKLE, members, compress=r.random() < 0.8))
    directory = data.rfind(b"PK\1\2", 0, r.randrange(100, len(data)))
    for _ in range(r.randrange(4)):
        i = max(0, directory) + r.randrange(46)
        data[i : i + 4] = struct.pack("<I", r.choice(NUMBERS))
    return bytes(data)


# Differences between readers

OTHER_STATE = {key: tensor * 2 for key, tensor in STATE.items()}  # as large, and other numbers
PICKLES = (
    SOUND_PICKLE,
    b"\x80\x02}.",
    reducing(*DANGEROUS_CALLS[0]),
    b"\x80\x02}" + b")" + b"\x85" * 99_999 + b"Ns.",
)
PIECES = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08")


def members_of(pickle: bytes, factor: float = 1) -> list[Member]:
    numbers = OTHER_STATE if factor == 2 else STATE
    storages = [Member(f"x/data/{i}", x.numpy().tobytes()) for i, x in enumerate(numbers.values())]
    return [Member("x/data.pkl", pickle), *storages, Member("x/version", b"3\n")]


def two_archives(r: random.Random) -> bytes:
    """Two in a row, of one length or not, whose ends lie about where they are or don't."""
    one, other = members_of(r.choice(PICKLES)), members_of(r.choice(PICKLES), r.choice([1, 2]))
    padding = Member("x/padding", bytes(abs(len(one[0].data) - len(other[0].data))))
    (one if len(one[0].data) < len(other[0].data) else other).append(padding)
    first, gap = archive(one), r.choice([b"", b"", bytes(r.randrange(99))])
    first = r.choice([first, first[:-22], first[: first.rfind(b"PK\1\2")]])
    end = {"position": r.choice(NUMBERS)} if r.random() < 0.2 else {}
    second = r.choice([archive(other, **end), archive(other, start=first + gap, **end)])
    return second if second.startswith(first) else first + gap + second


def lying_members(r: random.Random) -> bytes:
    """The members' own headers don't agree with the directory."""
    members = members_of(SOUND_PICKLE)
    if r.random() < 0.3:
        name = r.choice(
            ["x/data.pkl", "x/DATA.PKL", "x/data/0", "X/data/1", "x/Data/2", "y/data.pkl"]
        )
        members.insert(r.randrange(len(members)), Member(name, r.choice(PICKLES)))
    for _ in range(r.choice([0, 1, 1, 1, 2, 5])):
        i = r.choice([0, 0, r.randrange(len(members))])
        size, other = len(members[i].data), r.choice(members)
        number = r.choice([*NUMBERS, abs(size - 1), size + 1, 4, len(other.data)])
        fields = r.choice([
            {"name": r.choice([other.name, members[i].name.upper(), "x/data\\.pkl", ""]).encode()},
            {"size": number, "packed": number}, {"size": number}, {"packed": number},
            {"position": r.choice([0, 1, number])}, {"checksum": number},
            {"flags": 1 << r.randrange(16)}, {"method": r.choice([0, 8, 12, 99])},
            {"flags": 8, "after": r.choice(PIECES[5:]) + r.randbytes(12)},
            {"extra": struct.pack("<2H2Q", 1, 16, number, r.choice(NUMBERS))},
            {"extra": struct.pack("<2H", 1, r.choice([0, 8, 24, 65535])) + bytes(r.randrange(30))},
            {"extra": struct.pack("<2HBI", 0x7075, 10, 1, 0) + b"x/abc"},
            {"extra": r.randbytes(r.randrange(9))},
        ])  # fmt: skip
        which = r.choice([{"own": fields}, {"listed": fields}, {"own": fields, "listed": fields}])
        members[i] = replace(members[i], **which)
    end = {}
    if r.random() < 0.3:
        number = r.choice([*NUMBERS, len(members) - 1])
        name = r.choice(["count", "length", "position"])
        end[name] = number & 0xFFFF if name == "count" else number
    return archive(members, gap=r.choice([b"", b"", b"", r.choice(PIECES) + bytes(72)]), **end)


def large_ends(r: random.Random) -> bytes:
    """PyTorch writes the ends of large archives beside the usual one; some contradict it."""
    data = bytearray(SOUND_FILES["zip"])
    for _ in range(r.choice([1, 1, 2])):
        i = len(data) - 1 - r.randrange(98)
        number = r.choice([*NUMBERS, 2**40, len(data) - 98, len(data) - 22]).to_bytes(8, "little")
        width = r.choice([1, 2, 4, 8])
        data[i : i + width] = number[:width]
    return bytes(data)


def surrounded(r: random.Random) -> bytes:
    """A sound file with something before it, after it or in its end, at times another file."""
    data, form = SOUND_FILES[(form := r.choice(FORMATS))], form
    other = saved(OTHER_STATE, r.choice(FORMATS))
    piece = r.choice([b"\0", b"\n", bytes(512), r.choice(PIECES) + bytes(18), other, data, b"{}"])
    if form == "zip" and r.random() < 0.5:  # as the comment, with its true length or not
        length = struct.pack("<H", r.choice([len(piece) & 0xFFFF, 0, r.randrange(65536)]))
        return data[:-2] + length + piece
    return r.choice([piece + data, data + piece, data[:8] + piece + data[8:]])


def wrapped(r: random.Random) -> bytes:
    """Archives within archives, and members of torch's oldest files."""

    def tar(names: Sequence[str], data: bytes) -> bytes:
        stream = io.BytesIO()
        form = r.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
        with tarfile.open(fileobj=stream, mode="w", format=form) as file:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
        return stream.getvalue()

    data = r.choice([*SOUND_FILES.values(), *PICKLES])
    oldest = ["pickle", "storages", "tensors", "x/data.pkl", "x/version"]
    for _ in range(r.randrange(1, 4)):
        name = r.choice(["x/data.pkl", "pickle", "flownet.pkl", "x/data/0"])
        data = r.choice([
            lambda data=data: tar(r.sample(oldest, r.randrange(1, 4)), data),
            lambda data=data, name=name: archive([Member(name, data)]),
            lambda data=data: archive([Member("x/data.pkl", SOUND_PICKLE), Member("x/tar", data)]),
            lambda data=data: data[:100] + tar(["pickle"], data)[100:],
            lambda data=data: legacy(r.choice(PICKLES)) + data,
        ])()  # fmt: skip
    return data


def doubled_keys(r: random.Random) -> bytes:
    """A .safetensors header with names twice, in other spellings, orders and numbers."""
    data = SOUND_FILES["safetensors"]
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    items = [(json.dumps(key), dict(entry)) for key, entry in header.items()]
    for _ in range(r.choice([1, 1, 2])):
        i = r.randrange(len(items))
        key, entry = items[i]
        change = r.choice(["again", "spelt", "inside", "move", "metadata", "space", "number"])
        if change == "again":
            items.insert(
                r.randrange(len(items)), (key, {**entry, "dtype": r.choice(["F32", "I32"])})
            )
        elif change == "spelt":
            items.append((f'"\\u{ord(key[1]):04x}{key[2:]}', r.choice([entry, items[0][1]])))
        elif change == "inside":
            twice = json.dumps(entry)[1:-1]
            items[i] = (key, "{" + twice + ', "data_offsets": ' + r.choice(["[0, 4]", "[]"]) + "}")
        elif change == "move" and isinstance(entry, dict):
            entry["data_offsets"] = r.choice([e for _, e in items if isinstance(e, dict)])[
                "data_offsets"
            ]
        elif change == "metadata":
            items.append(
                ('"__metadata__"', r.choice(['{"a": "b", "a": "c"}', '{"a": 1}', "[]", "{}"]))
            )
        elif change == "number" and isinstance(entry, dict):
            shape = ", ".join(f"{n}.0" if r.random() < 0.5 else f"{n}e0" for n in entry["shape"])
            items[i] = (key, json.dumps(entry | {"shape": 0}).replace("0", f"[{shape}]", 1))
    text = ", ".join(
        f"{key}: {entry if isinstance(entry, str) else json.dumps(entry)}" for key, entry in items
    )
    header = ("{" + text + "}" + r.choice(["", " ", "\n", "\0", "{}"])).encode()
    return safetensors_file(header, rest)


@dataclass
class Change:
    """A change of a file while it is read.

    Attributes:
        data: The file's content at first.
        reads: The number of the read before which the file changes.
        apply: Changes the file at a path.
    """

    data: bytes
    reads: int
    apply: Callable[[Path], None]


def changing(r: random.Random) -> Change:
    """A sound file that shrinks, grows, is written over or replaced while it is read."""
    data, other = SOUND_FILES[r.choice(FORMATS)], saved(OTHER_STATE, r.choice(FORMATS))
    size, place = r.choice([0, r.randrange(len(data)), len(data) - 1]), r.randrange(len(data))

    def write_over(path: Path) -> None:
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(r.choice([bytes(9), r.randbytes(99), other[place:]]))

    def swap(path: Path) -> None:
        path.with_name("other").write_bytes(other)
        os.replace(path.with_name("other"), path)

    apply = r.choice([
        lambda path: os.truncate(path, size), lambda path: path.write_bytes(other),
        lambda path: os.truncate(path, len(data) + 999), Path.unlink, write_over, swap,
    ])  # fmt: skip
    return Change(data, r.choice([1, 2, 3, 10, 50, 150]), apply)


KINDS: tuple[Callable[[random.Random], bytes | Change], ...] = (
    cut, flipped, overwritten, spliced, altered_tensors, altered_pickle, hostile_pickle,
    random_pickle, lying_storage, lying_header, lying_zip, two_archives, lying_members, large_ends,
    surrounded, wrapped, doubled_keys, changing,
)  # fmt: skip


# The run


class ChangingFile(io.FileIO):
    """A file that changes before so many reads."""

    def __init__(self, path: Path, change: Change):
        super().__init__(path)
        self._path, self._change, self._left = path, change, change.reads

    def readinto(self, buffer: object) -> int:
        self._left -= 1
        if self._left == 0:
            self._change.apply(self._path)
        return super().readinto(buffer)


def check_loading(path: Path, change: Change | None = None) -> str:
    """Loads a file, as must end well: returns "loaded", "loaded here alone" or "refused"."""
    size = path.stat().st_size
    before = peak_memory(from_now=True)
    faulthandler.dump_traceback_later(TIME_LIMIT, exit=True)
    safe_read.open = (lambda path, mode: ChangingFile(path, change)) if change else open
    try:
        load_model(path, device="cpu")
        result = "loaded"
    except CheckpointError as error:
        message = str(error).removeprefix(f"{path}: ")
        assert len(message) < 700 and message.isprintable(), message
        assert "eights only" not in message, message
        result = "refused"
    finally:
        faulthandler.cancel_dump_traceback_later()
    memory = peak_memory() - before
    assert memory <= 2 * size + EXTRA_MEMORY, f"took {memory / 1e6:.0f} MB"
    assert not Path(MARKER).exists(), "ran code"
    if result == "loaded" and not change and not loads_elsewhere(path):
        return "loaded here alone"
    return result


def loads_elsewhere(path: Path) -> bool:
    """Returns whether torch or safetensors load a file, which must give the same tensors."""
    ours = safe_read.read_tensors(path).tensors
    try:
        if path.read_bytes()[8:9] == b"{":
            theirs = load_file(path)
        else:
            theirs = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return False
    for wrapper in ("state_dict", "model"):
        theirs = theirs.get(wrapper, theirs)
    theirs = {key: value for key, value in theirs.items() if isinstance(value, torch.Tensor)}
    assert ours.keys() == theirs.keys(), "torch sees other tensors"
    for key, tensor in ours.items():
        other = theirs[key]
        assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype), key
        same = torch.equal(
            tensor.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
        )
        assert same, f"torch sees other numbers in {key}"
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cases", type=int, help="so many instead")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    faulthandler.enable()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-checkpoint-"))
    os.chdir(folder)
    path = folder / "x"
    print(f"seed {args.seed}; should this end early, the file that did it is {path}", flush=True)
    for sound in (*SOUND_FILES.values(), zipped(SOUND_PICKLE, STORAGES)):
        path.write_bytes(sound)
        assert check_loading(path) == "loaded", "what is sound loads, and what is imported late, is"

    counts, longest = collections.Counter(), collections.Counter()
    end = time.monotonic() + 60 * args.minutes
    number = 0
    while number < args.cases if args.cases else time.monotonic() < end:
        kind = KINDS[number % len(KINDS)]
        case = kind(random.Random(f"{args.seed} {number}"))
        change = case if isinstance(case, Change) else None
        path.write_bytes(change.data if change else case)
        start = time.monotonic()
        try:
            counts[kind.__name__, check_loading(path, change)] += 1
        except Exception as error:
            print(f"case {number}, {kind.__name__}: {type(error).__name__}: {error}")
            raise
        longest[kind.__name__] = max(longest[kind.__name__], time.monotonic() - start)
        number += 1

    shutil.rmtree(folder)
    outcomes = "loaded", "loaded here alone", "refused"
    print(f"{'kind':18}{'cases':>8}{'loaded':>8}{'alone':>8}{'refused':>8}{'longest':>10}")
    for kind in KINDS:
        name = kind.__name__
        each = [counts[name, outcome] for outcome in outcomes]
        columns = "".join(f"{count:8}" for count in (sum(each), *each))
        print(f"{name:18}{columns}{longest[name]:8.2f} s")
    print(f"{number} cases, all loaded or refused in words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
