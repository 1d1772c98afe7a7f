"""Pickles build tensors and run nothing."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from .support.checkpoint_files import legacy, reducing, refusal, zipped


class Calls:
    """An object whose pickle calls `function` when it is loaded."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["plain", "torch", "inside"])
def test_a_pickle_that_runs_a_command_is_named_and_not_run(tmp_path, small_state, form, protocol):
    marker = tmp_path / "was here"
    content = Calls(os.system, f"touch '{marker}'")
    if form == "plain":
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    else:
        content = small_state | {"x": content} if form == "inside" else content
        torch.save(content, tmp_path / "x.pkl", pickle_protocol=protocol)
    assert f"{os.system.__module__}.system" in refusal(tmp_path / "x.pkl")
    assert not marker.exists()
    if form == "plain":
        with open(tmp_path / "x.pkl", "rb") as file:
            pickle.load(file)
        assert marker.exists(), "the pickle would have run"


HOSTILE = {
    "builtins.exec": reducing("builtins exec", "open('marker', 'w')"),
    "builtins.eval": reducing("builtins eval", "open('marker', 'w')"),
    "builtins.getattr": reducing("builtins getattr", "a"),
    "subprocess.Popen": reducing("subprocess Popen", "touch marker"),
    "numpy.core.multiarray._reconstruct": reducing("numpy.core.multiarray _reconstruct", "a"),
    "torch.hub.load": reducing("torch.hub load", "a"),
    "torch.load": reducing("torch load", "a"),
    "torch._utils._rebuild_sparse_tensor": reducing("torch._utils _rebuild_sparse_tensor", "a"),
    "torch._utils._rebuild_qtensor": reducing("torch._utils _rebuild_qtensor", "a"),
    "torch._utils._rebuild_meta_tensor_no_storage": reducing(
        "torch._utils _rebuild_meta_tensor_no_storage", "a"
    ),
    "builtins.bytearray": b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x70\x85R.",  # 1.9 GB
}


@pytest.mark.parametrize("wrap", [legacy, zipped])
@pytest.mark.parametrize("name", HOSTILE)
def test_pickles_that_ask_for_more_than_tensors(write, monkeypatch, tmp_path, name, wrap):
    monkeypatch.chdir(tmp_path)
    assert f"calls {name}," in refusal(write(wrap(HOSTILE[name])))
    assert not Path("marker").exists()


class Program(nn.Module):
    pass


def test_what_other_code_has_let_torch_load_is_refused_all_the_same(save, small_state):
    with torch.serialization.safe_globals([Program]):
        message = refusal(save(small_state | {"x": Program()}))
    assert f"{Program.__module__}.Program" in message


ODD = {
    "sparse": lambda: torch.ones(3, 3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(3, device="meta"),
}


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_of_odd_kinds(save, small_state, kind):
    assert "calls torch._utils._rebuild" in refusal(save(small_state | {"x": ODD[kind]()}))


NESTED = {
    "shared, slow to hash": b"\x80\x02)q\1" + 27 * b"h\1h\1\x86q\1" + b"}h\1K\1s.",
    "deep, fatal to hash": b"\x80\x02})" + 20_000 * b"\x85" + b"K\1s.",
    "long": b"\x80\x02" + 1_100_000 * b"]" + b".",
}


@pytest.mark.parametrize("wrap", [legacy, zipped])
@pytest.mark.parametrize("name", NESTED)
def test_nesting_beyond_reason(write, name, wrap):
    assert "damaged" in refusal(write(wrap(NESTED[name])))
