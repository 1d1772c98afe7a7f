"""Checkpoints: every kind is read and recognised, all else is refused in words."""

import argparse
import builtins
import ctypes
import gc
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rife.devices import best_device, default_dtype
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
from rife.networks.base import dtype_name
from rife.networks.ifnet import IFNet, IFNet_2R, IFNet_m
from rife.networks.ifnet_hdv3 import IFNet_HDv3
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4, Parameters
from rife.RIFE import Model

from .support.checkpoint_files import (
    Member,
    archive,
    legacy,
    reducing,
    safetensors_file,
    zipped,
)
from .support.processes import peak_memory
from .support.seeded import seeded_images, seeded_state

SMALL = Parameters((8, 8, 8, 8))  # of no published version, and quick


@pytest.fixture(scope="module")
def small():
    """A complete state dict of a quick network."""
    return seeded_state(IFNet_v4(SMALL))


@pytest.fixture
def saved(tmp_path):
    """saved(content) -> a file with a name that says nothing, as torch.save writes it."""

    def save(content, name="x.bin", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture
def written(tmp_path):
    def write(data, name="x.pkl"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def refusal(path, **options):
    """What `load_model` and `describe` say against a file, in a line or two fit to be shown."""
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


def frame(model):
    images = seeded_images(64, 64)
    with torch.no_grad():
        return model(images[:, :3], images[:, 3:])


# What is read

EVERY_NETWORK = {
    "IFNet": (IFNet, "RIFE (paper"),
    "IFNet_m": (IFNet_m, "RIFEm"),
    "v3.5": (lambda: IFNet_HDv3(1), "RIFE v3.5"),
    "v3.8": (lambda: IFNet_HDv3(2), "RIFE v3.6 - v3.9"),
    **{name: (lambda row=row: IFNet_v4(row), f"RIFE {name}") for name, row in VERSIONS.items()},
}


@pytest.mark.parametrize("kind", EVERY_NETWORK)
def test_every_network_is_recognised_by_its_tensors_alone(saved, kind):
    make, version = EVERY_NETWORK[kind]
    with torch.device("meta"):
        state = make().state_dict()
    state = {key: torch.full(t.shape, 0.5, dtype=torch.float16) for key, t in state.items()}
    path = saved({f"module.{key}": tensor for key, tensor in state.items()})
    lines = describe(path)
    assert lines["version"].startswith(version)
    model = load_model(path, device="cpu")
    assert model.version == lines["version"]
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(p.is_contiguous() and (p == 0.5).all() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    if isinstance(model, IFNet_v4):
        assert model.parameters_row == VERSIONS[kind]


def test_the_same_tensors_are_IFNet_2R_only_when_named(saved):
    path = saved(IFNet().state_dict())
    assert type(load_model(path, device="cpu")) is IFNet
    assert type(load_model(path, device="cpu", network="IFNet_2R")) is IFNet_2R


def test_a_network_named_wrongly(saved, small):
    path = saved(small)
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


FORMS = {
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


@pytest.mark.parametrize("prefix", ["", "module.", "flownet.", "module.flownet.", "model."])
@pytest.mark.parametrize("blocks", ["block", "blocks."])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_and_of_key(small, tmp_path, form, prefix, blocks):
    state = {prefix + re.sub("^block", blocks, key): tensor for key, tensor in small.items()}
    FORMS[form](state, tmp_path / "flownet.pkl")
    read = read_state_dict(tmp_path)
    assert read.keys() == small.keys()
    assert all(torch.equal(read[key], small[key]) for key in small)
    assert load_model(tmp_path, device="cpu").parameters_row == SMALL


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_weights_of_another_precision(small, tmp_path, form, dtype):
    state = {key: tensor.to(dtype) for key, tensor in small.items()}
    FORMS[form](state, tmp_path / "x")
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
def test_weights_of_eight_bits_load_exactly(small, tmp_path, form, dtype):
    state = {key: tensor.to(dtype) for key, tensor in small.items()}
    try:
        FORMS[form](state, tmp_path / "x")
    except (KeyError, ValueError):
        pytest.skip("this safetensors doesn't write it")
    for wanted in (torch.float32, torch.float16):
        model = load_model(tmp_path / "x", "cpu", wanted)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[key].to(wanted)), key
    assert dtype_name(dtype) in describe(tmp_path / "x")["weights"]
    state[BIAS] = torch.full((24,), torch.nan).to(dtype)
    FORMS[form](state, tmp_path / "x")
    assert f"1 with NaN or infinity ({BIAS})" in refusal(tmp_path / "x")


def test_weights_of_four_bits_are_named(written):
    header = {"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    message = refusal(written(safetensors_file(header, bytes(2))))
    assert "holds tensors of F4, which isn't supported; get the model in float16" in message


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int8, torch.complex64, torch.bool])
def test_tensors_of_harmless_dtypes_are_not_called_dangerous(saved, small, dtype):
    state = small | {BIAS: torch.ones(24).to(dtype)}
    assert f"1 not of floating point ({BIAS} {dtype})" in refusal(saved(state))
    assert "refused" not in refusal(saved({"x": torch.ones(24).to(dtype)}))


def test_what_training_keeps_beside_weights_is_passed_over(saved, small):
    content = {
        "state_dict": small, "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}}],
        "hyper_parameters": argparse.Namespace(lr=1e-4, path=Path("x")), "best": np.float64(3),
        "dtype": torch.float16, "size": torch.Size([1]), "counts": defaultdict(list, a=[1]),
    }  # fmt: skip
    assert load_model(saved(content), device="cpu").parameters_row == SMALL


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_of_pickle(saved, small, protocol):
    model = load_model(saved(small, pickle_protocol=protocol), device="cpu")
    assert all(torch.equal(tensor, small[key]) for key, tensor in model.state_dict().items())


def test_tensors_that_share_a_storage_or_lie_across_it(small, saved):
    whole = torch.cat([tensor.flatten() for tensor in small.values()])
    parts = whole.split([tensor.numel() for tensor in small.values()])
    views = {key: part.view(small[key].shape) for key, part in zip(small, parts, strict=True)}
    key = "block0.conv0.1.0.weight"
    views[key] = small[key].permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)
    assert not views[key].is_contiguous()
    model = load_model(saved(views), device="cpu")
    assert all(torch.equal(tensor, small[key]) for key, tensor in model.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    storages = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert len(storages) == len(small)


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


def test_saving_replaces_and_leaves_nothing_else(small, saved, tmp_path):
    model = load_model(saved(small), device="cpu")
    for _ in range(2):
        save_model(model, tmp_path / "y.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "y.safetensors"]
    with pytest.raises(OSError, match="does not exist"):
        save_model(model, tmp_path / "nowhere" / "y.safetensors")


@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_a_loaded_model_lets_go_of_its_file(small, tmp_path, form):
    FORMS[form](small, tmp_path / "x")
    model = load_model(tmp_path / "x", device="cpu")
    with open(tmp_path / "x", "r+b") as file:
        file.write(bytes((tmp_path / "x").stat().st_size))
    assert all(torch.equal(tensor, small[key]) for key, tensor in model.state_dict().items())


# What only training needs


def test_parts_for_training_may_lack_or_be_there(saved, small):
    state = IFNet().state_dict()
    without = {key: t for key, t in state.items() if not key.startswith("block_tea.")}
    for given in (state, without):
        assert load_model(saved(given), device="cpu").state_dict().keys() == without.keys()
    extra = {f"{part}.conv.weight": torch.ones(1) for part in ("block_tea", "teacher", "caltime")}
    assert load_model(saved(small | extra), device="cpu").state_dict().keys() == small.keys()


def test_the_manager_loads_with_and_without_a_teacher(saved):
    model = Model(device="cpu")
    state = seeded_state(model.flownet)
    without = {key: t for key, t in state.items() if not key.startswith("block_tea.")}
    before = model.flownet.block_tea.conv0[0][0].weight.clone()
    model.load_model(saved(without))
    assert torch.equal(model.flownet.block_tea.conv0[0][0].weight, before)
    assert torch.equal(model.flownet.block2.lastconv.bias, state["block2.lastconv.bias"])
    model.load_model(saved(state))
    assert torch.equal(
        model.flownet.state_dict()["block_tea.lastconv.bias"], state["block_tea.lastconv.bias"]
    )
    assert all(parameter.requires_grad for parameter in model.flownet.parameters())
    with pytest.raises(CheckpointError, match="of another shape .*block_tea.lastconv.bias"):
        model.load_model(saved(state | {"block_tea.lastconv.bias": torch.ones(3)}))


# RIFE's, but not right


def without(state, key):
    return {k: tensor for k, tensor in state.items() if k != key}


BIAS = "block2.lastconv.0.bias"
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
def test_tensors_that_do_not_fit(saved, small, fault):
    change, told = FAULTS[fault]
    message = refusal(saved(change(small)))
    assert told in message
    assert "looks like RIFE v4" in message and "get it again" in message


def test_two_tensors_of_one_name(saved, small):
    message = refusal(saved(small | {f"module.{BIAS}": small[BIAS]}))
    assert f"holds {BIAS} twice" in message
    message = refusal(saved(small | {BIAS.replace("block", "blocks."): small[BIAS]}))
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
def test_shapes_that_make_no_network(saved, small, shapes):
    wrong = {key: torch.ones(shape) for key, shape in shapes.items()}
    assert "get it again" in refusal(saved(small | wrong))


# Other things


def lookalike(*keys):
    return {key: torch.ones(1, 1, 1, 1) for key in keys}


FOREIGN = {
    "FILM": lookalike("extract.extract_sublevels.convs.0.0.conv.weight"),
    "LoRA": lookalike("lora_unet_down_blocks_0.lora_down.weight", "lora_te.alpha"),
    "Stable Diffusion": lookalike(
        "model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"
    ),
    "diffusion transformer": lookalike("double_blocks.0.img_attn.norm.key_norm.scale"),
    "VAE": lookalike("encoder.conv_in.weight", "decoder.mid.block_1.conv1.weight"),
    "ControlNet": lookalike("control_model.input_blocks.0.0.weight"),
    "text or CLIP": lookalike("text_model.encoder.layers.0.mlp.fc1.weight"),
    "text": lookalike("encoder.block.0.layer.0.SelfAttention.k.weight"),
    "upscaler": lookalike("conv_first.weight", "body.0.rdb1.conv1.weight"),
    "ESRGAN": lookalike("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
    "something unknown (1 tensors: a.b)": lookalike("a.b"),
    "something like RIFE, of a version unknown": lookalike("block0.conv0.0.0.weight"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_models_are_named(saved, name):
    message = refusal(saved(FOREIGN[name]))
    assert "not a RIFE model, but" in message and name in message


def test_the_three_files_of_v3_1(weights):
    folder = weights("v3.1").parent
    assert "use v3.5 or later" in refusal(folder / "flownet.pkl")
    assert "separate refine network" in refusal(folder / "unet.pkl")
    assert "separate context network" in refusal(folder / "contextnet.pkl")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_named(tmp_path):
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(tmp_path / "x.pt")
    assert "TorchScript" in refusal(tmp_path / "x.pt")


def plain_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("rife/flownet.pkl", b"x" * 100)
    return stream.getvalue()


UNREADABLE = {
    "empty": (b"", "an empty file"),
    "page": (b"\n<!DOCTYPE html>\n<html><head>", "a web page"),
    "LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
        "git lfs pull",
    ),
    "text": (b"Please sign in to see this file.\n", "a text file"),
    "text, like a pickle": (b"c is for\ncookie\n", "a text file"),
    "JSON": (b'{"a": {"b": 1}}', "a text file"),
    "JSON, a brace in ninth place": (b'{"abc": {"b": 1}}', "a text file"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture"),
    "ncnn": (b"7767517\n12 34\n", "ncnn"),
    "gzip": (b"\x1f\x8b\x08\0", "unpack it"),
    "zip": (plain_zip(), "unpack it"),
    "noise": (bytes(range(250, 0, -1)), "damaged"),
    "zeros": (bytes(5000), "damaged"),
    "a plain pickle": (pickle.dumps([1, 2, 3]), "damaged"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_files_of_another_kind(written, kind):
    data, told = UNREADABLE[kind]
    assert told in refusal(written(data))


#: How other programs' models begin, and what they are.
OTHER_PROGRAMS = {
    "ONNX by torch": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX model"),
    "ONNX by onnx": (b"\x08\x0a:\xe3\xd4\xa1\x0a\x0a&\x0a\5image", "an ONNX model"),
    "ONNX of no producer": (b"\x08\x09\x12\0\x1a\0:\xb0\x01", "an ONNX model"),
    "TensorRT": (b"ptrt" + bytes(4) + b"\x01" * 200, "a TensorRT engine"),
    "TensorRT 10": (b"ftrt" + bytes(4) + b"\x18\0\0\0", "a TensorRT engine"),
    "ncnn's weights in 16 bits": (b"G\x6b\x30\x01" + bytes(range(256)), "an ncnn model's weights"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(16), "a GGUF"),
    "TFLite": (b"\x1c\0\0\0TFL3\x14\0\x20\0", "a TensorFlow Lite model"),
    "TensorFlow": (b"\x08\x01\x12\xa3\xd4\x01\x0a\x8a\x10\x0a", "a TensorFlow model"),
    "Core ML": (b"\x08\x07\x12\xc5\x02\x0a\x3f\x0a\x05image", "a Core ML model"),
    "Core ML, short": (b"\x08\x04\x12\x4a\x0a\x1f\x0a\x05image", "a Core ML model"),
    "OpenVINO": (b'<?xml version="1.0"?>\n<net name="rife" version="11">', "an OpenVINO model"),
    "Keras": (b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0", "a Keras or other HDF5 file"),
    "NumPy": (b"\x93NUMPY\x01\0v\0{'descr': '<f4'", "a NumPy array"),
}


@pytest.mark.parametrize("kind", OTHER_PROGRAMS)
def test_models_of_other_programs_are_named(written, kind):
    data, told = OTHER_PROGRAMS[kind]
    message = refusal(written(data + bytes(100), "flownet.pth"))
    assert told in message and "damaged" not in message
    assert "get the PyTorch checkpoint" in message or kind == "GGUF"


@pytest.mark.parametrize(
    "beside, told", [(".param", "an ncnn model's weights"), (".xml", "an OpenVINO model's weights")]
)
def test_weights_without_a_mark_are_named_by_the_file_beside_them(written, beside, told):
    weights = written(bytes(range(256)) * 40, "flownet.bin")
    assert "by its name, weights of ncnn or OpenVINO" in refusal(weights)
    written(b"7767517\n3 3\n", f"flownet{beside}")
    message = refusal(weights)
    assert told in message and f"the {beside} file beside it" in message


def test_a_name_counts_only_where_the_bytes_say_nothing(small, saved, written):
    assert load_model(saved(small, "flownet.onnx"), device="cpu")
    assert "by its name, a TensorRT engine" in refusal(written(b"\1\2\3" * 99, "rife.engine"))
    assert "an ONNX model" in refusal(written(b"\x08\x08\x12\x07pytorch", "rife.engine"))


ARCHIVES = {
    "film_net_fp32/code/__torch__/feature_extractor.py": "FILM",
    "model/constants.pkl": "TorchScript",
    "model.weights.h5": "a Keras model",
    "rife.mlpackage/Data/com.apple.CoreML/model.mlmodel": "a Core ML model",
    "arr_0.npy": "NumPy arrays",
    "rife/flownet.pkl": "unpack it",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_of_other_programs_are_named(written, name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, bytes(1000))
        file.comment = b"made by hand"
    assert ARCHIVES[name] in refusal(written(stream.getvalue()))


FOLDERS = {
    "saved_model.pb": "a TensorFlow model",
    "Manifest.json": "a Core ML model",
    "rife.pth": "name the model file in it",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert FOLDERS[name] in refusal(tmp_path)


@pytest.mark.parametrize("form", ["pth", "pkl"])
def test_checkpoints_of_something_else(tmp_path, form):
    nameless = {1: torch.ones(1)}
    contents = ([1, 2], "a list"), (3, "a int"), ({"a": 1}, "no tensors"), (nameless, "no tensors")
    for content, told in contents:
        FORMS[form](content, tmp_path / "x")
        assert told in refusal(tmp_path / "x")


@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_files_cut_short(small, tmp_path, form):
    FORMS[form](small, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    for length in (9, 20, 100, 3000, len(data) // 2, len(data) - 500, len(data) - 1):
        (tmp_path / "x").write_bytes(data[:length])
        assert "damaged or cut short" in refusal(tmp_path / "x"), length


def test_folders_and_files_that_are_not_there(tmp_path):
    assert "is a folder; name the model file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "x.pth")


def test_a_file_without_permission_to_read(small, saved, monkeypatch):
    path = saved(small)

    def denied(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", denied)
    assert refusal(path) == "can't be read (Permission denied)"


# Hostile files


class Runs:
    """An object whose pickle runs `function` when it is opened."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["plain", "torch", "inside"])
def test_a_pickle_that_runs_a_command_is_named_and_not_run(tmp_path, small, form, protocol):
    marker = tmp_path / "was here"
    content = Runs(os.system, f"touch '{marker}'")
    if form == "plain":
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    else:
        content = small | {"x": content} if form == "inside" else content
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
def test_pickles_that_ask_for_more_than_tensors(written, monkeypatch, tmp_path, name, wrap):
    monkeypatch.chdir(tmp_path)
    assert f"calls {name}," in refusal(written(wrap(HOSTILE[name])))
    assert not Path("marker").exists()


class Program(nn.Module):
    pass


def test_what_other_code_has_let_torch_load_is_refused_all_the_same(saved, small):
    with torch.serialization.safe_globals([Program]):
        message = refusal(saved(small | {"x": Program()}))
    assert f"{Program.__module__}.Program" in message


ODD = {
    "sparse": lambda: torch.ones(3, 3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(3, device="meta"),
}


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_of_odd_kinds(saved, small, kind):
    assert "calls torch._utils._rebuild" in refusal(saved(small | {"x": ODD[kind]()}))


NESTED = {
    "shared, slow to hash": b"\x80\x02)q\1" + 27 * b"h\1h\1\x86q\1" + b"}h\1K\1s.",
    "deep, fatal to hash": b"\x80\x02})" + 20_000 * b"\x85" + b"K\1s.",
    "long": b"\x80\x02" + 1_100_000 * b"]" + b".",
}


@pytest.mark.parametrize("wrap", [legacy, zipped])
@pytest.mark.parametrize("name", NESTED)
def test_nesting_beyond_reason(written, name, wrap):
    assert "damaged" in refusal(written(wrap(NESTED[name])))


def test_a_compressed_archive(saved, small, tmp_path):
    with (
        zipfile.ZipFile(saved(small)) as archive,
        zipfile.ZipFile(tmp_path / "y", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in archive.infolist():
            bomb.writestr(member.filename, archive.read(member))
        bomb.writestr("x/data/9999", bytes(50_000_000))
    assert "compressed" in refusal(tmp_path / "y")


# What two readers could see differently


SECOND = Member("x/data.pkl", b"\x80\x02}.")
VERSION = Member("x/version", b"3\n")


def changed(member=SECOND, own=None, listed=None):
    return replace(member, own=own or {}, listed=listed or {})


def two_directories(gap):
    """To readers that trust the last end, the second archive; to those that trust what it says,
    from the file's start on, the first."""
    loaded, checked = (
        archive([replace(SECOND, data=data), VERSION]) for data in (b"\x80\x02]N.", b"\x80\x02}N.")
    )
    return loaded[:-22] + gap + checked


DATA = len(b"PK\3\4") + 26 + len("x/data.pkl")
LARGE_SIZES = struct.pack("<2H2Q", 1, 16, 4, 4)
ZIP64 = b"PK\6\6" + struct.pack("<Q2H2I4Q", 44, 20, 20, 0, 0, 1, 1, 56, 99)
TWO_READINGS = {
    "two directories": two_directories(b""),
    "two directories, apart": two_directories(bytes(9)),
    "two archives": archive([SECOND]) + archive([SECOND]),
    "something before": archive([replace(SECOND, name="y/data.pkl")], start=b"PK\3\4" + bytes(40)),
    "something after": archive([SECOND]) + bytes(5),
    "an end within the comment": archive([SECOND], comment=archive([VERSION])),
    "something between": archive([SECOND, VERSION], gap=b"PK\3\4" + bytes(30)),
    "another name": archive([changed(own={"name": b"x/version."}), VERSION]),
    "another size": archive([changed(own={"size": 2, "packed": 2}), VERSION]),
    "another method": archive([changed(own={"method": 8})]),
    "another checksum": archive([changed(own={"checksum": 1})]),
    "another place": archive([SECOND, changed(VERSION, listed={"position": 0})]),
    "one within the other": archive([changed(listed={"size": 5, "packed": 5}), VERSION]),
    "a second size": archive([changed(listed={"extra": LARGE_SIZES})]),
    "a second size of its own": archive([changed(own={"extra": LARGE_SIZES})]),
    "a second name": archive([changed(listed={"extra": struct.pack("<2H", 0x7075, 1) + b"y"})]),
    "a name twice": archive([SECOND, VERSION, VERSION]),
    "a name twice but for case": archive([SECOND, VERSION, replace(VERSION, name="x/VERSION")]),
    "another count": archive([SECOND, VERSION], count=1),
    "another length": archive([SECOND, VERSION], length=57),
    "another start": archive([SECOND, VERSION], position=0),
    "sizes that follow and differ": archive(
        [changed(own={"flags": 8, "after": b"PK\7\x08" + bytes(12)}, listed={"flags": 8}), VERSION]
    ),
    "an end for large archives that differs": (
        archive([SECOND], gap=ZIP64 + b"PK\6\7" + struct.pack("<IQI", 0, DATA + 4, 1))
    ),
}


@pytest.mark.parametrize("kind", TWO_READINGS)
def test_archives_with_two_readings_are_refused(written, kind):
    message = refusal(written(TWO_READINGS[kind]))
    assert "refused: damaged, or made so that programs read it differently (" in message


def test_the_same_archives_without_a_lie_have_one_reading(written):
    sound = (
        archive([SECOND, VERSION]),
        archive([SECOND], comment=b"a word"),
        archive([changed(own={"extra": struct.pack("<2H", 0x5455, 1) + b"x"})]),
    )
    for data in sound:
        assert "holds no tensors" in refusal(written(data))


def test_a_flipped_bit_in_the_numbers_of_an_archive_is_noticed(saved, small):
    path = saved({key: torch.full_like(tensor, 0.1) for key, tensor in small.items()})
    data = bytearray(path.read_bytes())
    at = data.index(torch.tensor(8 * [0.1]).numpy().tobytes())
    data[at + 2] ^= 1
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_files_without_checksums_load(saved, small):
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch writes checksums always")
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(small)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_model(path, device="cpu").parameters_row == SMALL


@pytest.mark.parametrize("inside", ["pickle", "storages", "x/data.pkl"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_tar_archives_are_named_and_not_opened(written, form, inside):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as file:
        entry = tarfile.TarInfo(inside)
        entry.size = 4
        file.addfile(entry, io.BytesIO(b"\x80\x02}."))
    assert "a tar archive; unpack it" in refusal(written(stream.getvalue()))


def test_what_is_a_pickle_and_a_tar_archive_is_a_tar_archive_as_to_torch(written):
    entry = tarfile.TarInfo(legacy(b"\x80\x02}.")[:99].decode("latin-1"))
    block = entry.tobuf(tarfile.USTAR_FORMAT, "latin-1")
    assert "a tar archive" in refusal(written(block + bytes(1024)))


def test_an_older_file_with_something_after_its_end(small, tmp_path):
    FORMS["pkl"](small, tmp_path / "x")
    with open(tmp_path / "x", "ab") as file:
        file.write(archive([SECOND]))
    assert "something follows its end" in refusal(tmp_path / "x")


@pytest.mark.parametrize("inside", ['"dtype": "F16", ', '"shape": [4], ', ""])
def test_a_safetensors_header_that_names_something_twice(written, inside):
    entry = json.dumps(F32)
    header = f'{{"a": {entry}, "a": {entry}}}' if not inside else f'{{"a": {{{inside}{entry[1:]}}}'
    assert "a name twice" in refusal(written(safetensors_file(header.encode(), bytes(8))))


class Changing(io.FileIO):
    """A file on which `change` is called before the read of that number."""

    def __init__(self, path, number, change):
        super().__init__(path)
        self._left, self._change = number, change

    def readinto(self, buffer):
        self._left -= 1
        if self._left == 0:
            self._change()
        return super().readinto(buffer)


@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
@pytest.mark.parametrize("number", [1, 2, 5, 40])
def test_a_file_that_shrinks_while_it_is_read_is_an_error(
    small, tmp_path, monkeypatch, form, number
):
    FORMS[form](small, tmp_path / "x")

    def shrink():
        os.truncate(tmp_path / "x", 4000)

    opened = lambda path, mode: Changing(path, number, shrink)  # noqa: E731
    monkeypatch.setattr(safe_read, "open", opened, raising=False)
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_model(tmp_path / "x", device="cpu")


def test_a_file_that_changes_while_it_is_converted_is_not_said_to_be_the_source(
    small, saved, tmp_path, monkeypatch
):
    path, target = saved(small), tmp_path / "y.safetensors"
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


def test_a_file_that_vanishes_once_it_is_read_is_described_all_the_same(small, saved, monkeypatch):
    path = saved(small)
    size = path.stat().st_size
    monkeypatch.setattr(
        safe_read, "open", lambda path, mode: Changing(path, 2, path.unlink), raising=False
    )
    assert f"({size / 1e6:.1f} MB)" in describe(path)["file"]


@pytest.mark.parametrize("form", ["pth", "pkl", "safetensors"])
def test_a_file_that_is_replaced_while_it_is_read_stays_what_was_opened(
    small, tmp_path, monkeypatch, form
):
    FORMS[form](small, tmp_path / "x")
    (tmp_path / "y").write_bytes(b"something else")

    def swap():
        os.replace(tmp_path / "y", tmp_path / "x")

    monkeypatch.setattr(
        safe_read, "open", lambda path, mode: Changing(path, 2, swap), raising=False
    )
    model = load_model(tmp_path / "x", device="cpu")
    assert all(torch.equal(tensor, small[key]) for key, tensor in model.state_dict().items())


# Claims


def test_tensors_that_claim_more_than_the_file_holds(saved, small):
    path = saved({key: torch.ones(1).expand(tensor.shape) for key, tensor in small.items()})
    assert path.stat().st_size < sum(tensor.nbytes for tensor in small.values())
    assert "damaged or cut short" in refusal(path)


def tensor(key, numbers, length):
    """A pickled tensor of `length` floats, in a storage of `numbers` floats."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\2\0\0\0%bX\3\0\0\0cpuJ%b%%btQ"
    storage %= key, struct.pack("<i", numbers)
    rest = b"tensor_v2\n(%bK\0J%b\x85K\1\x85\x89}tR" % (storage, struct.pack("<i", length))
    return b"ctorch._utils\n_rebuild_" + rest


def test_a_storage_does_not_grow_for_tensors_that_claim_more(written):
    """torch alone would make it, and copy what it claims so far."""
    tensors = (tensor(b"00", 10, length) % b"N" for length in (2**25, 2**26))
    before = peak_memory(from_now=True)
    assert "damaged" in refusal(written(legacy(b"\x80\x02%b%b0." % tuple(tensors))))
    assert peak_memory() - before < 2**24


def test_a_storage_is_not_read_under_many_names(written):
    """To torch's reader of archives, case is all one."""
    items = (b"X\2\0\0\0%b" % key + tensor(key, 1000, 1) % b"" for key in (b"ab", b"aB", b"Ab"))
    content = b"\x80\x02}(%bu." % b"".join(items)
    assert "damaged" in refusal(written(zipped(content, {"data/ab": bytes(4000)})))


@pytest.mark.parametrize("name", ["other/data.pkl", "x/DATA.pkl"])
def test_an_archive_of_two_checkpoints(saved, small, name):
    path = saved(small)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"N.")
    assert "unpack it" in refusal(path)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LYING_HEADERS = {
    "out of range": {"a": F32 | {"shape": [2_000], "data_offsets": [0, 8_000]}},
    "offsets swapped": {"a": F32 | {"data_offsets": [8, 0]}},
    "overlapping": {"a": F32, "b": F32},
    "a hole": {"a": F32 | {"shape": [1], "data_offsets": [4, 8]}},
    "negative": {"a": F32 | {"shape": [-2]}},
    "huge": {"a": F32 | {"shape": [2**62, 4]}},
    "huger": {"a": F32 | {"shape": [2**70]}},
    "another size": {"a": F32 | {"dtype": "F64"}},
    "unknown dtype": {"a": F32 | {"dtype": "F99"}},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "a list": [],
}


@pytest.mark.parametrize("lie", LYING_HEADERS)
def test_safetensors_headers_that_lie(written, lie):
    assert "damaged" in refusal(written(safetensors_file(LYING_HEADERS[lie], bytes(8))))


@pytest.mark.parametrize("length", [1, 10**6, 10**8, 2**62, 2**64 - 1])
def test_safetensors_headers_whose_length_lies(written, length):
    header = json.dumps({"a": F32}).encode()
    assert refusal(written(struct.pack("<Q", length) + header + bytes(8)))


def test_a_safetensors_header_longer_than_any(written):
    header = {"__metadata__": {"tags": 1_100_000 * "x"}, "a": F32}
    assert "damaged" in refusal(written(safetensors_file(header, bytes(8))))


def test_empty_safetensors(written):
    assert "no tensors" in refusal(written(safetensors_file({}, b"")))


# Memory, devices


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
    FORMS[form](large, tmp_path / "x")
    size = (tmp_path / "x").stat().st_size
    assert size > 2e8
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed would serve again, unseen
    before = peak_memory(from_now=True)
    model = load_model(tmp_path / "x", device="cpu")
    used = peak_memory() - before
    assert size < used < 2.1 * size
    assert model.parameters_row.channels == (840, 500, 96, 64)


@pytest.mark.parametrize(
    "available, best",
    [("cuda mps xpu", "cuda"), ("mps xpu", "mps"), ("xpu", "xpu"), ("", "cpu")],
)
def test_the_best_device(monkeypatch, available, best):
    modules = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
    for name, module in modules.items():
        is_there = name in available.split()
        monkeypatch.setattr(module, "is_available", lambda is_there=is_there: is_there)
    assert best_device() == torch.device(best)


@pytest.mark.parametrize(
    "name, capability, dtype",
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), torch.float16),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5), torch.float16),
        ("Tesla T4", (7, 5), torch.float16),
        ("Tesla V100-SXM2-16GB", (7, 0), torch.float16),
        ("NVIDIA GeForce GTX 1660 SUPER", (7, 5), torch.float32),
        ("NVIDIA GeForce MX450", (7, 5), torch.float32),
        ("NVIDIA T1000 8GB", (7, 5), torch.float32),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1), torch.float32),
    ],
)
def test_float16_where_the_card_is_good_at_it(monkeypatch, name, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert default_dtype(torch.device("cuda")) == dtype


@pytest.mark.parametrize("device", ["cpu", "mps", "xpu"])
def test_float32_elsewhere(device):
    assert default_dtype(torch.device(device)) == torch.float32


@pytest.mark.cuda
def test_on_cuda(saved, small):
    model = load_model(saved(small))
    assert model.device.type == "cuda"
    assert model.dtype == default_dtype(model.device)


@pytest.mark.parametrize(
    "how",
    [
        ["--cases", "90", "--seed", "14"],
        pytest.param(["--minutes", "0.33"], marks=pytest.mark.slow),
    ],
)
def test_fuzzing_finds_nothing(how):
    command = [sys.executable, "-m", "tests.fuzz.checkpoints", *how]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
