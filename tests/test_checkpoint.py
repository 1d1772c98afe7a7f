"""Checkpoints of every version and format: recognised, loaded, described, saved, converted."""

import argparse
import builtins
import ctypes
import gc
import re
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rife.devices import default_dtype
from rife.models import safe_read
from rife.models.checkpoint import (
    NETWORKS,
    CheckpointError,
    convert,
    describe,
    load_model,
    read_state_dict,
    save_model,
)
from rife.networks.finite import dtype_name
from rife.networks.ifnet import IFNet, IFNet_2R, IFNet_m
from rife.networks.ifnet_hdv3 import IFNet_HDv3
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4
from rife.RIFE import Model

from .support.checkpoint_files import BIAS, FORMATS, SMALL, refusal, safetensors_file
from .support.processes import peak_memory
from .support.seeded import seeded_images, seeded_state

# What is read

EVERY_NETWORK = {
    "IFNet": (IFNet, "RIFE (paper"),
    "IFNet_m": (IFNet_m, "RIFEm"),
    "v3.5": (lambda: IFNet_HDv3(1), "RIFE v3.5"),
    "v3.8": (lambda: IFNet_HDv3(2), "RIFE v3.6 - v3.9"),
    **{name: (lambda row=row: IFNet_v4(row), f"RIFE {name}") for name, row in VERSIONS.items()},
}


@pytest.mark.parametrize("kind", EVERY_NETWORK)
def test_every_network_is_recognised_by_its_tensors_alone(save, kind):
    make, version = EVERY_NETWORK[kind]
    with torch.device("meta"):
        state = make().state_dict()
    state = {key: torch.full(t.shape, 0.5, dtype=torch.float16) for key, t in state.items()}
    path = save({f"module.{key}": tensor for key, tensor in state.items()})
    lines = describe(path)
    assert lines["version"].startswith(version)
    model = load_model(path, device="cpu")
    assert model.version == lines["version"]
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(p.is_contiguous() and (p == 0.5).all() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    if isinstance(model, IFNet_v4):
        assert model.parameters_row == VERSIONS[kind]


def test_the_same_tensors_are_IFNet_2R_only_when_named(save):
    path = save(IFNet().state_dict())
    assert type(load_model(path, device="cpu")) is IFNet
    assert type(load_model(path, device="cpu", network="IFNet_2R")) is IFNet_2R


def test_a_network_named_wrongly(save, small_state):
    path = save(small_state)
    assert "not of IFNet_2R" in refusal(path, network="IFNet_2R")
    with pytest.raises(CheckpointError, match="no network 'RIFE': it is one of .*IFNet_m"):
        load_model(path, network="RIFE")
    assert type(load_model(path, device="cpu", network="IFNet_v4")) is NETWORKS["IFNet_v4"]


@pytest.mark.parametrize("version", ["v3.5", "v3.8", "v4.0"])
def test_published_weights_load(weights, version, tmp_path):
    model = load_model(weights(version), device="cpu")
    theirs = torch.load(weights(version), map_location="cpu", weights_only=True)
    theirs = {key.removeprefix("module."): tensor for key, tensor in theirs.items()}
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[key]), key


def test_published_weights_are_described(weights):
    lines = describe(weights("v3.8"))
    expected = {
        "file": f"{weights('v3.8')} (12.2 MB)",
        "version": "RIFE v3.6 - v3.9",
        "network": "IFNet_HDv3",
        "weights": "2,277,600 of float32",
        "timesteps": "the midpoint; others by recursion",
        "scales": "4 2 1",
        "side multiple": "32 pixels",
    }
    assert lines.items() >= expected.items()
    lines = describe(weights("v4.0"))
    expected = {
        "weights": "8,412,855 of float32",
        "timesteps": "any",
        "scales": "8 4 2 1",
        "side multiple": "64 pixels",
    }
    assert lines.items() >= expected.items()
    assert "channels=(192, 128, 96, 64)" in lines["network"]


@pytest.mark.parametrize("prefix", ["", "module.", "flownet.", "module.flownet.", "model."])
@pytest.mark.parametrize("blocks", ["block", "blocks."])
@pytest.mark.parametrize("form", FORMATS)
def test_every_form_of_file_and_of_key(small_state, tmp_path, form, prefix, blocks):
    state = {prefix + re.sub("^block", blocks, key): tensor for key, tensor in small_state.items()}
    FORMATS[form](state, tmp_path / "flownet.pkl")
    read = read_state_dict(tmp_path)
    assert read.keys() == small_state.keys()
    assert all(torch.equal(read[key], small_state[key]) for key in small_state)
    assert load_model(tmp_path, device="cpu").parameters_row == SMALL


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_weights_of_another_precision(small_state, tmp_path, form, dtype):
    state = {key: tensor.to(dtype) for key, tensor in small_state.items()}
    FORMATS[form](state, tmp_path / "x")
    model = load_model(tmp_path / "x", device="cpu")
    assert model.dtype == torch.float32
    assert torch.equal(
        model.state_dict()["block1.lastconv.0.bias"], state["block1.lastconv.0.bias"].float()
    )
    assert load_model(tmp_path / "x", "cpu", torch.bfloat16).dtype == torch.bfloat16
    assert str(dtype).removeprefix("torch.") in describe(tmp_path / "x")["weights"]


EIGHT_BITS = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_weights_of_eight_bits_load_exactly(small_state, tmp_path, form, dtype):
    state = {key: tensor.to(dtype) for key, tensor in small_state.items()}
    try:
        FORMATS[form](state, tmp_path / "x")
    except (KeyError, ValueError):
        pytest.skip("this safetensors doesn't write it")
    for wanted in (torch.float32, torch.float16):
        model = load_model(tmp_path / "x", "cpu", wanted)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[key].to(wanted)), key
    assert dtype_name(dtype) in describe(tmp_path / "x")["weights"]
    state[BIAS] = torch.full((24,), torch.nan).to(dtype)
    FORMATS[form](state, tmp_path / "x")
    assert f"1 with NaN or infinity ({BIAS})" in refusal(tmp_path / "x")


def test_weights_of_four_bits_are_named(write):
    header = {"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    message = refusal(write(safetensors_file(header, bytes(2))))
    assert "holds tensors of F4, which isn't supported; get the model in float16" in message


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int8, torch.complex64, torch.bool])
def test_tensors_of_harmless_dtypes_are_not_called_dangerous(save, small_state, dtype):
    state = small_state | {BIAS: torch.ones(24).to(dtype)}
    assert f"1 not of floating point ({BIAS} {dtype})" in refusal(save(state))
    assert "refused" not in refusal(save({"x": torch.ones(24).to(dtype)}))


def test_what_training_keeps_beside_weights_is_passed_over(save, small_state):
    content = {
        "state_dict": small_state, "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}}],
        "hyper_parameters": argparse.Namespace(lr=1e-4, path=Path("x")), "best": np.float64(3),
        "dtype": torch.float16, "size": torch.Size([1]), "counts": defaultdict(list, a=[1]),
    }  # fmt: skip
    assert load_model(save(content), device="cpu").parameters_row == SMALL


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_of_pickle(save, small_state, protocol):
    model = load_model(save(small_state, pickle_protocol=protocol), device="cpu")
    assert all(torch.equal(tensor, small_state[key]) for key, tensor in model.state_dict().items())


def test_tensors_that_share_a_storage_or_lie_across_it(small_state, save):
    whole = torch.cat([tensor.flatten() for tensor in small_state.values()])
    parts = whole.split([tensor.numel() for tensor in small_state.values()])
    views = {
        key: part.view(small_state[key].shape) for key, part in zip(small_state, parts, strict=True)
    }
    key = "block0.conv0.1.0.weight"
    views[key] = small_state[key].permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)
    assert not views[key].is_contiguous()
    model = load_model(save(views), device="cpu")
    assert all(torch.equal(tensor, small_state[key]) for key, tensor in model.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    storages = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert len(storages) == len(small_state)


@pytest.mark.parametrize("kind", ["IFNet", "IFNet_m", "v3.5", "v3.8", "v4.0 - v4.1", "v4.25 lite"])
def test_saved_and_loaded_again_the_frame_is_the_same_to_the_bit(tmp_path, kind):
    network = EVERY_NETWORK[kind][0]().eval()
    network.load_state_dict(seeded_state(network))
    save_model(network, tmp_path / "a.safetensors")
    first = load_model(tmp_path / "a.safetensors", device="cpu")
    save_model(first, tmp_path / "b.safetensors")
    second = load_model(tmp_path / "b.safetensors", device="cpu")
    expected = seeded_images(128, 128)
    images = expected[:, :3], expected[:, 3:]
    with torch.no_grad():
        frames = [
            model.motion(*map(model.prepare, images)).render(*images)
            for model in (network, first, second)
        ]
    assert torch.equal(frames[0], frames[1]) and torch.equal(frames[0], frames[2])


def test_saving_replaces_and_leaves_nothing_else(small_state, save, tmp_path):
    model = load_model(save(small_state), device="cpu")
    for _ in range(2):
        save_model(model, tmp_path / "y.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "y.safetensors"]
    with pytest.raises(OSError, match="does not exist"):
        save_model(model, tmp_path / "nowhere" / "y.safetensors")


@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_a_loaded_model_lets_go_of_its_file(small_state, tmp_path, form):
    FORMATS[form](small_state, tmp_path / "x")
    model = load_model(tmp_path / "x", device="cpu")
    with open(tmp_path / "x", "r+b") as file:
        file.write(bytes((tmp_path / "x").stat().st_size))
    assert all(torch.equal(tensor, small_state[key]) for key, tensor in model.state_dict().items())


# What only training needs


def test_parts_for_training_may_lack_or_be_there(save, small_state):
    state = IFNet().state_dict()
    without = {key: t for key, t in state.items() if not key.startswith("block_tea.")}
    for tensors in (state, without):
        assert load_model(save(tensors), device="cpu").state_dict().keys() == without.keys()
    extra = {f"{part}.conv.weight": torch.ones(1) for part in ("block_tea", "teacher", "caltime")}
    assert (
        load_model(save(small_state | extra), device="cpu").state_dict().keys()
        == small_state.keys()
    )


def test_the_manager_loads_with_and_without_a_teacher(save):
    model = Model(device="cpu")
    state = seeded_state(model.flownet)
    without = {key: t for key, t in state.items() if not key.startswith("block_tea.")}
    before = model.flownet.block_tea.conv0[0][0].weight.clone()
    model.load_model(save(without))
    assert torch.equal(model.flownet.block_tea.conv0[0][0].weight, before)
    assert torch.equal(model.flownet.block2.lastconv.bias, state["block2.lastconv.bias"])
    model.load_model(save(state))
    assert torch.equal(
        model.flownet.state_dict()["block_tea.lastconv.bias"], state["block_tea.lastconv.bias"]
    )
    assert all(parameter.requires_grad for parameter in model.flownet.parameters())
    with pytest.raises(CheckpointError, match="of another shape .*block_tea.lastconv.bias"):
        model.load_model(save(state | {"block_tea.lastconv.bias": torch.ones(3)}))


# RIFE's, but not right


def without(state, key):
    return {k: tensor for k, tensor in state.items() if k != key}


FAULTS = {
    "missing": (lambda s: without(s, BIAS), f"1 missing ({BIAS})"),
    "unexpected": (
        lambda s: s | {f"block9.{i}": torch.ones(1) for i in range(5)},
        "5 unexpected (block9.0, ...)",
    ),
    "odd key": (lambda s: s | {"a\nb" + 900 * "c": torch.ones(1)}, r"1 unexpected (a\nbccc"),
    "shape": (
        lambda s: s | {BIAS: torch.ones(25)},
        f"1 of another shape ({BIAS} (25,) instead of (24,))",
    ),
    "dtype": (
        lambda s: s | {BIAS: s[BIAS].to(torch.int64)},
        f"1 not of floating point ({BIAS} torch.int64)",
    ),
    "bool": (lambda s: s | {BIAS: s[BIAS] > 0}, f"({BIAS} torch.bool)"),
    "complex": (lambda s: s | {BIAS: s[BIAS] * 1j}, f"({BIAS} torch.complex64)"),
    "NaN": (lambda s: s | {BIAS: s[BIAS] * torch.nan}, f"1 with NaN or infinity ({BIAS})"),
    "inf": (
        lambda s: s | {BIAS: torch.tensor(11 * [0.0, 1.0] + [torch.inf, -torch.inf]).half()},
        f"1 with NaN or infinity ({BIAS})",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tensors_that_do_not_fit(save, small_state, fault):
    change, expected = FAULTS[fault]
    message = refusal(save(change(small_state)))
    assert expected in message
    assert "looks like RIFE v4" in message and "get it again" in message


def test_two_tensors_of_one_name(save, small_state):
    message = refusal(save(small_state | {f"module.{BIAS}": small_state[BIAS]}))
    assert f"holds {BIAS} twice" in message
    message = refusal(save(small_state | {BIAS.replace("block", "blocks."): small_state[BIAS]}))
    assert f"holds {BIAS} twice" in message


FIRST, BODY, LAST = (
    f"block0.{part}.weight" for part in ("conv0.1.0", "convblock.0.conv", "lastconv.0")
)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    "shapes",
    [
        {FIRST: ()},
        {FIRST: (0, 4, 3, 3)},
        {FIRST: (2**40, 0, 3, 3)},
        {FIRST: (7, 4, 3, 3), BODY: (7, 2, 3, 3)},
        {BODY: (8,)},
        {BODY: (8, 0, 3, 3)},
        {LAST: (8,)},
        {LAST: (8, 0, 4, 4)},
    ],
)
def test_shapes_that_make_no_network(save, small_state, shapes):
    wrong = {key: torch.ones(shape) for key, shape in shapes.items()}
    assert "get it again" in refusal(save(small_state | wrong))


@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_files_cut_short(small_state, tmp_path, form):
    FORMATS[form](small_state, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    for length in (9, 20, 100, 3000, len(data) // 2, len(data) - 500, len(data) - 1):
        (tmp_path / "x").write_bytes(data[:length])
        assert "damaged or cut short" in refusal(tmp_path / "x"), length


def test_folders_and_files_that_are_not_there(tmp_path):
    assert "is a folder; name the model file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "x.pth")


def test_a_file_without_permission_to_read(small_state, save, monkeypatch):
    path = save(small_state)

    def denied(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", denied)
    assert refusal(path) == "can't be read (Permission denied)"


def test_a_file_that_changes_while_it_is_converted_is_not_said_to_be_the_source(
    small_state, save, tmp_path, monkeypatch
):
    path, target = save(small_state), tmp_path / "y.safetensors"
    original = path.read_bytes()

    def touched(path):
        content = read_tensors(path)
        path.write_bytes(original + b"x")
        return content

    read_tensors = safe_read.read_tensors
    monkeypatch.setattr("rife.models.checkpoint.read_tensors", touched)
    with pytest.raises(CheckpointError, match="written to meanwhile"):
        convert(path, target)
    assert not target.exists()


# Memory and devices


@pytest.fixture(scope="module")
def large():
    """About 200 MB of weights that a network takes."""
    with torch.device("meta"):
        state = IFNet_v4(replace(SMALL, channels=(840, 500, 96, 64))).state_dict()
    return {key: torch.ones(tensor.shape) for key, tensor in state.items()}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured with /proc")
@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_loading_takes_twice_the_size_of_the_file(large, tmp_path, form):
    FORMATS[form](large, tmp_path / "x")
    size = (tmp_path / "x").stat().st_size
    assert size > 2e8
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed would serve again, unseen
    before = peak_memory(from_now=True)
    model = load_model(tmp_path / "x", device="cpu")
    used = peak_memory() - before
    assert size < used < 2.1 * size
    assert model.parameters_row.channels == (840, 500, 96, 64)


@pytest.mark.cuda
def test_on_cuda(save, small_state):
    model = load_model(save(small_state))
    assert model.device.type == "cuda"
    assert model.dtype == default_dtype(model.device)
