"""Says what a file is that is no RIFE model, for error messages.

A file is identified by its first bytes, an archive or folder by the names in it, and a state dict
by its keys. In each table the first entry that matches counts.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

#: Patterns of other models' state dict keys.
_KEY_PATTERNS = (
    (r"^extract\.extract_sublevels", "FILM (Google's interpolator; ComfyUI's own node runs it)"),
    (r"lora_(up|down|A|B)\b|\.lora_", "a LoRA"),
    (r"^diffusion_model\.|^down_blocks\.", "a Stable Diffusion or similar checkpoint"),
    (r"^(double_blocks|transformer_blocks|joint_blocks)\.", "a diffusion transformer"),
    (r"^first_stage_model\.|^(encoder|decoder)\.(conv_in|mid)", "a VAE"),
    (r"^control_model\.|^controlnet", "a ControlNet"),
    (r"text_model\.|^transformer\.resblocks|^encoder\.block\.", "a text or CLIP encoder"),
    (r"(?i)rdb\d|^conv_first|^body\.\d", "an upscaler (ESRGAN or similar)"),
    (r"^fusionnet\.|^down3\.conv1|^up0\.0\.", "RIFE v2 or v3.1's separate refine network"),
    (r"^conv0\.conv1|^conv4\.conv2", "RIFE v3.1's separate context network"),
)

_ADVICE = "get the PyTorch checkpoint (.safetensors, .pth or .pkl) instead"

#: Patterns of the first bytes of files that aren't checkpoints; the last matches any file.
_SIGNATURES = (
    (rb"\Z", "an empty file; get it again"),
    (rb"\s*(<\?xml[^>]*>\s*)?<net ", f"an OpenVINO model; {_ADVICE}"),
    (
        rb"\s*<(!doctype|html|head|\?xml)",
        "a web page, not a model; the download gave a login or error page instead of the file. "
        "Open the link in a browser and get the file itself",
    ),
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the model itself; run 'git lfs pull' or download the file",
    ),
    (rb"GGUF|GGML|lmgg|tjgg|fmgg", "a GGUF language or diffusion model, not a RIFE model"),
    (rb"7767517\b|\xdd\x85\x76\x00", f"an ncnn model; {_ADVICE}"),
    (rb"\x47\x6b\x30\x01|\x38\x4b\x0d\x00|\x56\xc0\x02\x00", f"an ncnn model's weights; {_ADVICE}"),
    (rb"[fp]trt", f"a TensorRT engine, which runs on one kind of GPU alone; {_ADVICE}"),
    (rb".{4}\{.{0,400}\"(names|stride|task|version)\"", f"a TensorRT engine; {_ADVICE}"),
    # Three protobuf messages: version 1; a version and a description; a version and a producer.
    (rb"\x08\x01\x12", f"a TensorFlow model; {_ADVICE}"),
    (rb"\x08[\x02-\x20]\x12[\x01-\xff][\x80-\xff]?[\x01-\x7f]?\x0a", f"a Core ML model; {_ADVICE}"),
    (
        rb"\x08[\x02-\x20](\x12\0|[\x12\x1a\x22\x32].[ -~]|[\x3a\x42\x72])",
        f"an ONNX model; {_ADVICE}",
    ),
    (rb".{4}TFL3", f"a TensorFlow Lite model; {_ADVICE}"),
    (rb"\x89HDF\r\n\x1a\n", f"a Keras or other HDF5 file; {_ADVICE}"),
    (rb".{4}ET\d\d", f"an ExecuTorch program; {_ADVICE}"),
    (rb"RKNN", f"an RKNN model; {_ADVICE}"),
    (rb"\x93NUMPY", f"a NumPy array; {_ADVICE}"),
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|.{4}ftyp|\x1aE\xdf\xa3",
        "a picture, video or sound, not a model",
    ),
    (
        rb"7z\xbc\xaf|Rar!|\x1f\x8b|\xfd7zXZ|BZh\d|\x28\xb5\x2f\xfd|PK\x05\x06",
        "a packed archive; unpack it and choose the model in it",
    ),
    (rb"\x7fELF|MZ.{40}", "a program or library, not a model"),
    (rb"[\t\n\r -~]+\Z", "a text file, not a model"),
    (rb"", "damaged or cut short, or no RIFE model at all; get it again"),
)
#: What a file may be if its first bytes don't tell, by the suffix of another file beside it ...
_COMPANION_SUFFIXES = {".param": "an ncnn model's weights", ".xml": "an OpenVINO model's weights"}
#: ... or by its own suffix.
_SUFFIXES = {
    ".onnx": "an ONNX model", ".param": "an ncnn model", ".mnn": "an MNN model",
    ".trt": "a TensorRT engine", ".engine": "a TensorRT engine", ".plan": "a TensorRT engine",
    ".mlmodel": "a Core ML model", ".tflite": "a TensorFlow Lite model",
    ".pb": "a TensorFlow model", ".h5": "a Keras model", ".keras": "a Keras model",
    ".bin": "weights of ncnn or OpenVINO, if they are whole",
}  # fmt: skip
#: Patterns of member names in zip archives that aren't checkpoints.
_MEMBER_PATTERNS = (
    (
        r"/code/__torch__/(feature_extractor|pyramid_flow_estimator)\.py$",
        "FILM (Google's interpolator) as a TorchScript program, not RIFE; ComfyUI's own node runs "
        "its weights",
    ),
    (
        r"/constants\.pkl$|/model\.json$|^code/",
        "a TorchScript program, not a checkpoint; get the model's weights instead",
    ),
    (r"/archive_format$|models/model\.json$", f"a program of torch.export; {_ADVICE}"),
    (r"^model\.weights\.h5$", f"a Keras model; {_ADVICE}"),
    (r"\.mlmodel$|\.mlpackage/", f"a Core ML model; {_ADVICE}"),
    (r"^[^/]+\.npy$", f"NumPy arrays; {_ADVICE}"),
)
#: Files in folders that are models of other programs.
_FOLDER_CONTENTS = (
    ("saved_model.pb", f"a TensorFlow model (FILM is published so); {_ADVICE}"),
    ("Manifest.json", f"a Core ML model; {_ADVICE}"),
    ("coremldata.bin", f"a Core ML model; {_ADVICE}"),
    ("model.onnx", f"an ONNX model; {_ADVICE}"),
)


def identify_file(start: bytes, path: Path) -> str:
    """Says what a file is that could not be read.

    Args:
        start: Its first bytes.
        path: The file; its name counts only if the bytes don't tell.

    Returns:
        Words that follow the file's name in an error message.
    """
    kind = next(text for pattern, text in _SIGNATURES if re.match(pattern, start, re.I | re.S))
    if kind == _SIGNATURES[-1][1]:
        for suffix, companion_kind in _COMPANION_SUFFIXES.items():
            if path.suffix != suffix and path.with_suffix(suffix).is_file():
                return f"{companion_kind}, as the {suffix} file beside it says; {_ADVICE}"
        if suffix_kind := _SUFFIXES.get(path.suffix.lower()):
            return f"{kind}; or, by its name, {suffix_kind}: {_ADVICE}"
    return kind


def identify_archive(names: Sequence[str]) -> str | None:
    """Says what a zip archive with members of these names is; None for a PyTorch checkpoint."""
    for pattern, kind in _MEMBER_PATTERNS:
        if any(re.search(pattern, name) for name in names):
            return kind
    # PyTorch's reader ignores case.
    if sum(name.lower().endswith("/data.pkl") for name in names) == 1:
        return None
    return "a zip archive that is no PyTorch checkpoint; unpack it and choose the model in it"


def identify_folder(path: Path) -> str:
    """Says what a folder is, in words that follow its name in an error message."""
    for name, kind in _FOLDER_CONTENTS:
        if (path / name).exists():
            return f"is a folder: {kind}"
    return "is a folder; name the model file in it (such as rife_v4.25.safetensors)"


def identify_state_dict(state: Mapping[str, Tensor]) -> str:
    """Says what a state dict seems to be that is of no RIFE network."""
    if "block0.conv0.0.0.weight" in state:
        if "block0.conv1.weight" in state:
            return (
                "RIFE v2 - v3.1, whose three separate files are not supported; "
                "use v3.5 or later (rife_v4.25.safetensors suits most scenes)"
            )
        return f"something like RIFE, of a version unknown here ({len(state)} tensors)"
    for pattern, kind in _KEY_PATTERNS:
        if any(re.search(pattern, key) for key in state):
            return f"what looks like {kind}"
    return f"something unknown ({len(state)} tensors: {abbreviate(sorted(state))})"


def abbreviate(names: Sequence[str], count: int = 3) -> str:
    """The first `count` names, escaped and shortened, fit for an error message."""
    shown = ", ".join(repr(name)[1:-1][:80] for name in names[:count])
    return shown + (", ..." if len(names) > count else "")
