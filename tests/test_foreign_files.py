"""What is no RIFE model is named for what it is."""

import io
import pickle
import zipfile

import pytest
import torch
from torch import nn

from rife.models.checkpoint import load_model

from .support.checkpoint_files import FORMATS, refusal


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
def test_other_models_are_named(save, name):
    message = refusal(save(FOREIGN[name]))
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
def test_files_of_another_kind(write, kind):
    data, expected = UNREADABLE[kind]
    assert expected in refusal(write(data))


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
def test_models_of_other_programs_are_named(write, kind):
    data, expected = OTHER_PROGRAMS[kind]
    message = refusal(write(data + bytes(100), "flownet.pth"))
    assert expected in message and "damaged" not in message
    assert "get the PyTorch checkpoint" in message or kind == "GGUF"


@pytest.mark.parametrize(
    "beside, expected",
    [(".param", "an ncnn model's weights"), (".xml", "an OpenVINO model's weights")],
)
def test_weights_without_a_mark_are_named_by_the_file_beside_them(write, beside, expected):
    weights = write(bytes(range(256)) * 40, "flownet.bin")
    assert "by its name, weights of ncnn or OpenVINO" in refusal(weights)
    write(b"7767517\n3 3\n", f"flownet{beside}")
    message = refusal(weights)
    assert expected in message and f"the {beside} file beside it" in message


def test_a_name_counts_only_where_the_bytes_say_nothing(small_state, save, write):
    assert load_model(save(small_state, "flownet.onnx"), device="cpu")
    assert "by its name, a TensorRT engine" in refusal(write(b"\1\2\3" * 99, "rife.engine"))
    assert "an ONNX model" in refusal(write(b"\x08\x08\x12\x07pytorch", "rife.engine"))


ARCHIVES = {
    "film_net_fp32/code/__torch__/feature_extractor.py": "FILM",
    "model/constants.pkl": "TorchScript",
    "model.weights.h5": "a Keras model",
    "rife.mlpackage/Data/com.apple.CoreML/model.mlmodel": "a Core ML model",
    "arr_0.npy": "NumPy arrays",
    "rife/flownet.pkl": "unpack it",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_of_other_programs_are_named(write, name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, bytes(1000))
        file.comment = b"made by hand"
    assert ARCHIVES[name] in refusal(write(stream.getvalue()))


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
    for content, expected in contents:
        FORMATS[form](content, tmp_path / "x")
        assert expected in refusal(tmp_path / "x")
