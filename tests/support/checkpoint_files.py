"""Checkpoint files of every format, written by torch or piece by piece, with any lie in them."""

import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rife.models.checkpoint import CheckpointError, describe, load_model
from rife.networks.ifnet_v4 import Parameters

#: Of no published version, and quick.
SMALL = Parameters((8, 8, 8, 8))
#: A tensor of that network.
BIAS = "block2.lastconv.0.bias"
#: An entry in a .safetensors header.
FLOAT32_HEADER = {"dtype": "FLOAT32_HEADER", "shape": [2], "data_offsets": [0, 8]}

#: Functions that write a state dict to a path, by the format.
FORMATS = {
    "pth": lambda state, path: torch.save(state, path),
    "pkl": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "safetensors": save_file,
    "OrderedDict": lambda state, path: torch.save(OrderedDict(state), path),
    "parameters": lambda state, path: torch.save(
        {key: nn.Parameter(tensor) for key, tensor in state.items()}, path
    ),
    "trained": lambda state, path: torch.save(
        {"epoch": 3, "model": state, "optimizer": {"betas": (0.9, 0.999), "state": [1, None]}},
        path,
    ),
    **{
        wrapper: lambda state, path, wrapper=wrapper: torch.save({wrapper: state}, path)
        for wrapper in ("state_dict", "model", "params", "params_ema", "flownet")
    },
}


def refusal(path, **options):
    """Returns how `load_model` and `describe` refuse a file, without the name of the file."""
    with pytest.raises(CheckpointError) as caught:
        load_model(path, device="cpu", **options)
    message = str(caught.value)
    if not options:
        with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
            describe(path)
    assert message.startswith(f"{path}: "), message
    assert len(message) < len(str(path)) + 500 and "\n" not in message
    assert "weights_only" not in message and "Weights only" not in message
    return message.removeprefix(f"{path}: ")


def legacy(content: bytes, storages: object = ()) -> bytes:
    """A file as torch wrote it before 1.6, around a pickle."""
    start = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
    return b"".join(pickle.dumps(x, 2) for x in start) + content + pickle.dumps(list(storages), 2)


def zipped(content: bytes, members: Mapping[str, bytes] | None = None, compress=False) -> bytes:
    """A file as torch writes it, around a pickle."""
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
    """A member of an archive. `own` and `listed` replace true fields in its own header and in the
    archive's directory."""

    name: str
    data: bytes
    own: Mapping[str, object] = field(default_factory=dict)
    listed: Mapping[str, object] = field(default_factory=dict)


def archive(members: Sequence[Member], start=b"", gap=b"", comment=b"", **end: int) -> bytes:
    """A zip archive of these members. `start` and `gap` are bytes before and after them; `end`
    replaces fields of the end record."""
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
    """A pickle that calls the function "module name" with a string."""
    text = argument.encode()
    call = b"c%b\n%b\n" % tuple(function.encode().split())
    return b"\x80\x02" + call + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."
