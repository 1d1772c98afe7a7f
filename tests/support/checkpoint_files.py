"""Checkpoint files written piece by piece, lies included."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch


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
