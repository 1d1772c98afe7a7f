"""Checkpoints, damaged and lying at random: `python -m tests.fuzz_checkpoint --minutes 10`.

Each may load or be refused in words. Nothing else may happen: no other error, no crash, no more
than 10 seconds, no more memory than twice the file's size, no code run.
"""

import argparse
import collections
import faulthandler
import io
import json
import os
import pickle
import pickletools
import random
import shutil
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes

from rife.checkpoint import CheckpointError, load_model
from rife.IFNet_v4 import IFNet_v4, Parameters

SECONDS = 10
SLACK = 32 << 20  # what Python and torch take for themselves, beside twice the file's size
MARKER = "code was run"


# Files, piece by piece


def legacy(content: bytes, storages: object = ()) -> bytes:
    """A file as torch wrote it before 1.6, around the pickle of its content."""
    start = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
    return b"".join(pickle.dumps(x, 2) for x in start) + content + pickle.dumps(list(storages), 2)


def zipped(content: bytes, members: Mapping[str, bytes] | None = None, compress=False) -> bytes:
    """A file as torch writes it, around the pickle of its content."""
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/version", b"3\n")
        for name, data in (members or {}).items():
            archive.writestr(f"x/{name}", data)
    return stream.getvalue()


@dataclass
class Member:
    """A member of an archive: what its own header and the archive's directory say of it, which is
    the truth but for what is given."""

    name: str
    data: bytes
    own: Mapping[str, object] = field(default_factory=dict)
    listed: Mapping[str, object] = field(default_factory=dict)


def archive(members: Sequence[Member], start=b"", gap=b"", comment=b"", **end: int) -> bytes:
    """A zip archive as told, lies included; `start` and `gap`: before and after its members."""
    body, directory = start, b""
    for member in members:
        truth = {
            "name": member.name.encode(), "flags": 0, "method": 0,
            "checksum": zlib.crc32(member.data), "packed": len(member.data),
            "size": len(member.data), "extra": b"", "position": len(body), "after": b"",
        }  # fmt: skip
        own, listed = {**truth, **member.own}, {**truth, **member.listed}
        body += b"PK\3\4" + struct.pack("<H", 20) + _numbers(own)
        body += own["name"] + own["extra"] + member.data + own["after"]
        directory += b"PK\1\2" + struct.pack("<2H", 20, 20) + _numbers(listed) + bytes(10)
        directory += struct.pack("<I", listed["position"]) + listed["name"] + listed["extra"]
    body += gap
    end = {"count": len(members), "length": len(directory), "position": len(body), **end}
    numbers = end["count"], end["count"], end["length"], end["position"], len(comment)
    return body + directory + b"PK\5\6" + struct.pack("<I2H2IH", 0, *numbers) + comment


def _numbers(told: Mapping[str, object]) -> bytes:
    numbers = (told[key] for key in ("flags", "method", "checksum", "packed", "size"))
    lengths = len(told["name"]), len(told["extra"])
    return struct.pack("<2H4x3I2H", *numbers, *lengths)


def safetensors_file(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def reducing(function: str, argument: str) -> bytes:
    """A pickle that calls "module name" with a string."""
    text = argument.encode()
    call = b"c%b\n%b\n" % tuple(function.encode().split())
    return b"\x80\x02" + call + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."


def saved(content: object, form: str) -> bytes:
    if form == "safetensors":
        return safetensors_bytes({key: tensor.contiguous() for key, tensor in content.items()})
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=form == "zip")
    return stream.getvalue()


# Kinds of cases: each makes a file out of a random generator

STATE = {
    key: torch.full(tensor.shape, 0.1)
    for key, tensor in IFNet_v4(Parameters((8, 8, 8, 8))).state_dict().items()
}
FORMS = ("zip", "legacy", "safetensors")
WHOLE = {form: saved(STATE, form) for form in FORMS}
TABLE = zipfile.ZipFile(io.BytesIO(WHOLE["zip"])).read("archive/data.pkl")
PRESENT = zipfile.ZipFile(io.BytesIO(WHOLE["zip"]))
STORAGES = {
    name.removeprefix("archive/"): PRESENT.read(name)
    for name in PRESENT.namelist()
    if name.startswith("archive/data/")
}
NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
RUN = [
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
    data = WHOLE[r.choice(FORMS)]
    return data[
        : r.choice([r.randrange(len(data)), r.randrange(2000), len(data) - r.randrange(99)])
    ]


def flipped(r: random.Random) -> bytes:
    data = bytearray(WHOLE[r.choice(FORMS)])
    for _ in range(r.choice([1, 2, 10, 100])):
        data[_position(r, data)] ^= 1 << r.randrange(8)
    return bytes(data)


def overwritten(r: random.Random) -> bytes:
    data = bytearray(WHOLE[r.choice(FORMS)])
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
    a, b = WHOLE[r.choice(FORMS)], WHOLE[r.choice(FORMS)]
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
    form = r.choice(FORMS if small else FORMS[:2])
    content = {r.choice(["state_dict", "model", "x"]): state} if r.random() < 0.2 else state
    return saved(content if form != "safetensors" else state, form)


def altered_pickle(r: random.Random) -> bytes:
    """A sound pickle with other opcodes, numbers or names here and there."""
    places = [position for _, _, position in pickletools.genops(TABLE)]
    data = bytearray(TABLE)
    for i in sorted(r.sample(range(len(places) - 1), r.choice([1, 1, 2, 5, 50])), reverse=True):
        new = r.choice([
            bytes([r.choice(b"()]}RbQqhrjtu\x85\x86\x87seaN.0123\x88\x89KMJ\x8a\x81\x93cio")]),
            b"J" + struct.pack("<I", r.choice(NUMBERS)),
            b"\x8a\x08" + r.randbytes(8),
            b"c%b\n%b\n" % tuple(r.choice(RUN)[0].encode().split()),
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
    function, argument = r.choice(RUN)
    call = reducing(function, argument)
    if r.random() < 0.5:
        i = r.randrange(len(TABLE))
        return _wrapped(r, TABLE[:i] + call[2:-1] + TABLE[i:])
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
    data = WHOLE["safetensors"]
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if r.random() < 0.2:
        return struct.pack("<Q", r.choice([*NUMBERS, length - 1, length + 1, 2**64 - 1])) + data[8:]
    numbers = [*NUMBERS, -1, 2**63, 2**64, 10**30, 0.5, "1", None, [], len(rest)]
    for _ in range(r.choice([1, 1, 2, 20])):
        key = r.choice([*header])
        entry = header[key]
        what = r.choice(["shape", "data_offsets", "dtype", "drop", "copy", "odd"])
        if what == "drop":
            del header[key]
        elif what == "copy":
            header[key + "x"] = entry
        elif what == "odd" or not isinstance(entry, dict):
            header[key] = r.choice(numbers)
        elif what == "dtype":
            entry["dtype"] = r.choice(["F64", "F16", "I64", "BOOL", "U8", "F8_E4M3", "F4", "X", 1])
        elif isinstance(entry.get(what), list) and entry[what]:
            entry[what][r.randrange(len(entry[what]))] = r.choice(numbers)
    return safetensors_file(
        header, rest[: r.choice([len(rest), len(rest), r.randrange(len(rest))])]
    )


def lying_zip(r: random.Random) -> bytes:
    """Archives that unpack to more, hold members twice, or none that they should."""
    members = dict(STORAGES)
    for _ in range(r.randrange(3)):
        name = r.choice([*members, "byteorder", ".format_version", "constants.pkl", "data.pkl"])
        members[name] = r.choice([b"", b"big", bytes(20_000_000), r.randbytes(100)])
    data = bytearray(zipped(TABLE, members, compress=r.random() < 0.8))
    directory = data.rfind(b"PK\1\2", 0, r.randrange(100, len(data)))
    for _ in range(r.randrange(4)):
        i = max(0, directory) + r.randrange(46)
        data[i : i + 4] = struct.pack("<I", r.choice(NUMBERS))
    return bytes(data)


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    cut, flipped, overwritten, spliced, altered_tensors, altered_pickle, hostile_pickle,
    random_pickle, lying_storage, lying_header, lying_zip,
)  # fmt: skip


# The run


def outcome(path: Path) -> str:
    """What became of loading a file; an AssertionError where that should not be."""
    before = peak_memory(from_now=True)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        load_model(path, device="cpu")
        result = "loaded"
    except CheckpointError as error:
        told = str(error).removeprefix(f"{path}: ")
        assert len(told) < 700 and told.isprintable() and "eights only" not in told, told
        result = "refused"
    finally:
        faulthandler.cancel_dump_traceback_later()
    taken = peak_memory() - before
    assert taken <= 2 * path.stat().st_size + SLACK, f"took {taken / 1e6:.0f} MB"
    assert not Path(MARKER).exists(), "ran code"
    return result


def peak_memory(from_now: bool = False) -> int:
    """The most memory that this process has held, in bytes, on Linux; elsewhere 0.

    Not by getrusage: its peak is inherited from the parent process.
    """
    if not sys.platform.startswith("linux"):
        return 0
    if from_now:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    faulthandler.enable()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-checkpoint-"))
    os.chdir(folder)
    path = folder / "x"
    print(f"seed {args.seed}; should this end early, the file that did it is {path}", flush=True)
    for sound in (*WHOLE.values(), zipped(TABLE, STORAGES)):
        path.write_bytes(sound)
        assert outcome(path) == "loaded", "what is sound loads, and what is imported late, is"

    counts, longest = collections.Counter(), collections.Counter()
    end = time.monotonic() + 60 * args.minutes
    number = 0
    while time.monotonic() < end:
        kind = KINDS[number % len(KINDS)]
        path.write_bytes(kind(random.Random(f"{args.seed} {number}")))
        start = time.monotonic()
        try:
            counts[kind.__name__, outcome(path)] += 1
        except Exception as error:
            print(f"case {number}, {kind.__name__}: {type(error).__name__}: {error}")
            raise
        longest[kind.__name__] = max(longest[kind.__name__], time.monotonic() - start)
        number += 1

    shutil.rmtree(folder)
    print(f"{'kind':18}{'cases':>8}{'loaded':>8}{'refused':>8}{'longest':>10}")
    for kind in KINDS:
        name = kind.__name__
        loaded, refused = counts[name, "loaded"], counts[name, "refused"]
        print(f"{name:18}{loaded + refused:8}{loaded:8}{refused:8}{longest[name]:8.2f} s")
    print(f"{number} cases in {args.minutes:g} minutes, all loaded or refused in words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
