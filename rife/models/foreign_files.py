"""What files that are no RIFE model are: told by their first bytes or by their tensors' names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

#: What other models' keys look like; the first that fits names the file.
FOREIGN = (
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

_GET = "get the PyTorch checkpoint (.safetensors, .pth or .pkl) instead"

#: What files that can't be read begin with, and what they are; the last fits all.
UNREADABLE = (
    (rb"\Z", "an empty file; get it again"),
    (rb"\s*(<\?xml[^>]*>\s*)?<net ", f"an OpenVINO model; {_GET}"),
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
    (rb"7767517\b|\xdd\x85\x76\x00", f"an ncnn model; {_GET}"),
    (rb"\x47\x6b\x30\x01|\x38\x4b\x0d\x00|\x56\xc0\x02\x00", f"an ncnn model's weights; {_GET}"),
    (rb"[fp]trt", f"a TensorRT engine, which runs on one kind of GPU alone; {_GET}"),
    (rb".{4}\{.{0,400}\"(names|stride|task|version)\"", f"a TensorRT engine; {_GET}"),
    # Three protobuf messages: version 1; a version and a description; a version and a producer.
    (rb"\x08\x01\x12", f"a TensorFlow model; {_GET}"),
    (rb"\x08[\x02-\x20]\x12[\x01-\xff][\x80-\xff]?[\x01-\x7f]?\x0a", f"a Core ML model; {_GET}"),
    (rb"\x08[\x02-\x20](\x12\0|[\x12\x1a\x22\x32].[ -~]|[\x3a\x42\x72])", f"an ONNX model; {_GET}"),
    (rb".{4}TFL3", f"a TensorFlow Lite model; {_GET}"),
    (rb"\x89HDF\r\n\x1a\n", f"a Keras or other HDF5 file; {_GET}"),
    (rb".{4}ET\d\d", f"an ExecuTorch program; {_GET}"),
    (rb"RKNN", f"an RKNN model; {_GET}"),
    (rb"\x93NUMPY", f"a NumPy array; {_GET}"),
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
#: What a file may be whose bytes say nothing, by another one beside it ...
COMPANIONS = {".param": "an ncnn model's weights", ".xml": "an OpenVINO model's weights"}
#: ... or by its own name.
ENDINGS = {
    ".onnx": "an ONNX model", ".param": "an ncnn model", ".mnn": "an MNN model",
    ".trt": "a TensorRT engine", ".engine": "a TensorRT engine", ".plan": "a TensorRT engine",
    ".mlmodel": "a Core ML model", ".tflite": "a TensorFlow Lite model",
    ".pb": "a TensorFlow model", ".h5": "a Keras model", ".keras": "a Keras model",
    ".bin": "weights of ncnn or OpenVINO, if they are whole",
}  # fmt: skip
#: What is in zip archives that are no checkpoints; the first that fits names them.
ARCHIVES = (
    (
        r"/code/__torch__/(feature_extractor|pyramid_flow_estimator)\.py$",
        "FILM (Google's interpolator) as a TorchScript program, not RIFE; ComfyUI's own node runs "
        "its weights",
    ),
    (
        r"/constants\.pkl$|/model\.json$|^code/",
        "a TorchScript program, not a checkpoint; get the model's weights instead",
    ),
    (r"/archive_format$|models/model\.json$", f"a program of torch.export; {_GET}"),
    (r"^model\.weights\.h5$", f"a Keras model; {_GET}"),
    (r"\.mlmodel$|\.mlpackage/", f"a Core ML model; {_GET}"),
    (r"^[^/]+\.npy$", f"NumPy arrays; {_GET}"),
)
#: What is in folders that are models.
FOLDERS = (
    ("saved_model.pb", f"a TensorFlow model (FILM is published so); {_GET}"),
    ("Manifest.json", f"a Core ML model; {_GET}"),
    ("coremldata.bin", f"a Core ML model; {_GET}"),
    ("model.onnx", f"an ONNX model; {_GET}"),
)


def name_file(start: bytes, path: Path) -> str:
    """What a file that can't be read is, by its first bytes, in words that follow its name."""
    kind = next(text for head, text in UNREADABLE if re.match(head, start, re.I | re.S))
    if kind == UNREADABLE[-1][1]:
        for suffix, other in COMPANIONS.items():
            if path.suffix != suffix and path.with_suffix(suffix).is_file():
                return f"{other}, as the {suffix} file beside it says; {_GET}"
        if other := ENDINGS.get(path.suffix.lower()):
            return f"{kind}; or, by its name, {other}: {_GET}"
    return kind


def name_archive(names: Sequence[str]) -> str | None:
    """What a zip archive with these members is; None: a checkpoint."""
    for pattern, kind in ARCHIVES:
        if any(re.search(pattern, name) for name in names):
            return kind
    # To torch's reader, case is all one.
    if sum(name.lower().endswith("/data.pkl") for name in names) == 1:
        return None
    return "a zip archive that is no PyTorch checkpoint; unpack it and choose the model in it"


def name_folder(path: Path) -> str:
    """What a folder is, in words that follow its name."""
    for inside, kind in FOLDERS:
        if (path / inside).exists():
            return f"is a folder: {kind}"
    return "is a folder; name the model file in it (such as rife_v4.25.safetensors)"


def looks_like(state: Mapping[str, Tensor]) -> str:
    """What a state dict that is no RIFE network seems to be, in words."""
    if "block0.conv0.0.0.weight" in state:
        if "block0.conv1.weight" in state:
            return (
                "RIFE v2 - v3.1, whose three separate files are not supported; "
                "use v3.5 or later (rife_v4.25.safetensors suits most scenes)"
            )
        return f"something like RIFE, of a version unknown here ({len(state)} tensors)"
    for pattern, name in FOREIGN:
        if any(re.search(pattern, key) for key in state):
            return f"what looks like {name}"
    return f"something unknown ({len(state)} tensors: {some(sorted(state))})"


def some(names: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(repr(name)[1:-1][:80] for name in names[:count])
    return shown + (", ..." if len(names) > count else "")
