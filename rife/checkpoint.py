"""RIFE files: read safely, recognised by what is in them, refused with what they look like.

Nothing depends on a file's name. What the networks compute is theirs; this module only picks one.
"""

import hashlib
import io
import os
import pickletools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .file_kinds import UNREADABLE, looks_like, some
from .fileio import FileError, atomic_output, refuse_same_file
from .IFNet import IFNet
from .IFNet_2R import IFNet_2R
from .IFNet_HDv3 import IFNet_HDv3
from .IFNet_m import IFNet_m
from .IFNet_v4 import IFNet_v4
from .network import Network

#: Each is asked in turn whether a state dict is its own; none accepts another's.
FAMILIES: tuple[type[Network], ...] = (IFNet_v4, IFNet_HDv3, IFNet, IFNet_m)
#: For `load_model(network=...)`. IFNet_2R has to be named: its files look like IFNet's.
NETWORKS: dict[str, type[Network]] = {c.__name__: c for c in (*FAMILIES, IFNet_2R)}

#: What each option of `interpolate` does, for people.
EFFECTS = {
    "scale": "resolution of the flow estimate: 0.5 for 4K or large motion, 2 for fine detail",
    "ensemble": "average both orders of each pair, for twice the time",
    "refine": "run the refine networks too, for sharper detail",
    "tta": "average with the pass over frames turned upside down, for twice the time",
}

#: File name endings that `load_model` reads.
EXTENSIONS = (".safetensors", ".pth", ".pkl", ".pt", ".ckpt", ".bin")


class CheckpointError(ValueError):
    """A file that can't be used as a RIFE model; the message says why, for people."""


def load_model(
    path: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    network: str | None = None,
) -> Network:
    """Load a RIFE model for inference, whatever its version and file format.

    path: a .safetensors file, or a pickle as upstream publishes (.pkl, .pth, .pt); a folder with
        a `flownet.pkl` in it.
    device: None is `best_device()`. dtype: of the convolutions; None is `default_dtype(device)`.
    network: for files that two networks could claim, the name of the one meant: "IFNet_2R".

    Raises CheckpointError for a file that isn't a RIFE model or can't be read safely.
    """
    model, weights = _recognise(path, network)
    device = best_device() if device is None else torch.device(device)
    dtype = dtype or default_dtype(device)
    # Copied even where nothing changes: the file may be mapped into memory, and change later.
    whole = {"copy": True, "memory_format": torch.contiguous_format}
    weights = {key: tensor.to(device, dtype, **whole) for key, tensor in weights.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def network_of(state: Mapping[str, Tensor]) -> Network:
    """The network of a state dict, for inference, with these very tensors.

    Raises CheckpointError for what is no RIFE model.
    """
    state = _normalise(state)
    model = _fresh(state, FAMILIES, "the model")
    model.load_state_dict(_fitting(model, state, "the model"), assign=True)
    return model.eval().requires_grad_(False)


def describe(path: str | os.PathLike) -> dict[str, str]:
    """What a checkpoint is, as lines for people: version, network, timesteps, options, size ...

    Raises CheckpointError as `load_model` does.
    """
    model, weights = _recognise(path)
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in weights.values()})
    row = getattr(model, "parameters_row", None)
    origin = _metadata(path)
    return {
        "file": f"{path} ({_file(path).stat().st_size / 1e6:.1f} MB)",
        "version": model.version,
        "network": type(model).__name__ + (f", {row}" if row else ""),
        "weights": f"{sum(t.numel() for t in weights.values()):,} of {', '.join(dtypes)}",
        "timesteps": "any" if model.any_timestep else "the midpoint; others by recursion",
        "scales": " ".join(map(str, model.scales)),
        "side multiple": f"{model.side_multiple()} pixels",
        **{name: _effect(model, name) for name in EFFECTS},
        **{key: some([origin[key]]) for key in ("source", "sha256") if key in origin},
    }


def _effect(model: Network, option: str) -> str:
    if option in model.built_in:
        return "part of this network, always on"
    if option in ("ensemble", "refine") and option not in model.options:
        return "this network has none"
    return EFFECTS[option]


def best_device() -> torch.device:
    """CUDA (AMD's ROCm included), Apple's MPS, Intel's XPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return torch.device("xpu")
    return torch.device("cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """float16 on CUDA where it is fast and sound, float32 elsewhere.

    It is slow before Volta (7.0) and broken on the Turing cards without tensor cores.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (7, 0):
        return torch.float32
    broken = re.search(
        r"GTX 16|\bMX[45]50|\bT\d{3,4}\b|CMP 30HX", torch.cuda.get_device_name(device)
    )
    return torch.float32 if broken else torch.float16


def save_model(
    model: Network,
    path: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a network's weights as a .safetensors file, whole or not at all.

    metadata: goes into the file, beside the network's version and name.

    Raises FileError if it can't be written.
    """
    tensors = {key: tensor.contiguous().cpu() for key, tensor in model.state_dict().items()}
    own = {"format": "pt", "version": model.version, "network": type(model).__name__}
    with atomic_output(Path(path), overwrite) as temporary:
        save_file(tensors, temporary, {**(metadata or {}), **own})


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    half: bool = False,
    network: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model as a .safetensors file with what inference needs, and where it came from.

    half: as float16; else each tensor stays as it is. network: as for `load_model`; the new file
    names it, and needs it no more.

    Raises CheckpointError as `load_model` does, FileError if `target` can't be written or exists.
    """
    source, target = _file(source), Path(target)
    if target.suffix != ".safetensors":
        raise FileError(f"{target}: the name of the new file has to end in .safetensors")
    refuse_same_file(source, target)
    model, weights = _recognise(source, network)
    model.load_state_dict(weights, assign=True)
    origin = {"source": source.name, "sha256": sha256(source)}
    save_model(model.half() if half else model, target, origin, overwrite)


def sha256(path: str | os.PathLike) -> str:
    """A file's sha256, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def load_weights(model: Network, state: Mapping[str, Tensor], path: Path) -> None:
    """Load `state`, read from `path`, into `model`, strictly but for what only training needs.

    Raises CheckpointError if they don't fit; `model` is unchanged then.
    """
    model.load_state_dict(_fitting(model, state, path), strict=False)


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a checkpoint's tensors under the names that the networks give them.

    Prefixes (`module.`, `flownet.`) are taken off, `blocks.0.` becomes `block0.`. No code in a
    file is run.

    Raises CheckpointError for a file without tensors or that can't be read safely.
    """
    path = _file(path)
    start = b""
    try:
        with open(path, "rb") as file:
            start = file.read(LONGEST_LIST)
            content = _read(path, file, start)
        state = _normalise(_tensors(content))
        # A tensor with a stride of 0 can claim any size; copied, it would take it.
        if sum(tensor.nbytes for tensor in state.values()) > path.stat().st_size:
            raise ValueError("the tensors are larger than the file")
        return state
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from error
    except Exception as error:  # damaged files raise whatever their bytes happen to spell
        reason = next(text for head, text in UNREADABLE if re.match(head, start[:512], re.I))
        raise CheckpointError(f"{path}: {reason}") from error


def _recognise(
    path: str | os.PathLike, network: str | None = None
) -> tuple[Network, dict[str, Tensor]]:
    """The network in a file, for inference and on the meta device, and the weights it takes."""
    path = _file(path)
    state = read_state_dict(path)
    if network is not None and network not in NETWORKS:
        raise CheckpointError(f"no network {network!r}: it is one of {', '.join(NETWORKS)}")
    # A file that we wrote says which of two it is.
    stated = NETWORKS.get(_metadata(path).get("network", ""))
    families = (NETWORKS[network],) if network else (*filter(None, [stated]), *FAMILIES)
    fault = network and f"not of {network}; name none, to have the network recognised"
    model = _fresh(state, families, path, fault)
    return model, _fitting(model, state, path)


def _fresh(
    state: Mapping[str, Tensor],
    families: Iterable[type[Network]],
    name: str | os.PathLike,
    otherwise: str | None = None,
) -> Network:
    """The network of the first family that claims `state`, for inference and on the meta device;
    otherwise: what is wrong if none does."""
    try:
        with torch.device("meta"):  # shapes that lie cost nothing there
            models = (family.from_state_dict(state) for family in families)
            model = next((model for model in models if model is not None), None)
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{name}: named like RIFE's, but its tensors' shapes make no network; get it again"
        ) from error
    if model is None:
        raise CheckpointError(
            f"{name}: {otherwise or 'not a RIFE model, but ' + looks_like(state)}"
        )
    for part, _ in list(model.named_children()):
        if f"{part}." in model.training_only:
            delattr(model, part)
    return model


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _fitting(
    model: Network, state: Mapping[str, Tensor], path: str | os.PathLike
) -> dict[str, Tensor]:
    """Those of `state` that `model` takes; raises CheckpointError unless all is as it should be."""
    expected = model.state_dict()
    weights = {key: state[key] for key in expected if key in state}
    spare = model.training_only
    faults = {
        "missing": [k for k in expected if k not in state and not k.startswith(spare)],
        "unexpected": [k for k in state if k not in expected and not k.startswith(spare)],
        "of another shape": [
            f"{key} {tuple(tensor.shape)} instead of {tuple(expected[key].shape)}"
            for key, tensor in weights.items()
            if tensor.shape != expected[key].shape
        ],
        "not of floating point": [
            f"{key} {tensor.dtype}" for key, tensor in weights.items() if tensor.dtype not in FLOATS
        ],
        # A sum is finite if its terms are, and needs no memory.
        "with NaN or infinity": [
            key
            for key, tensor in weights.items()
            if tensor.dtype in FLOATS and not tensor.sum(dtype=torch.float32).isfinite()
        ],
    }
    if any(faults.values()):
        listed = "; ".join(
            f"{len(keys)} {fault} ({some(keys, 1)})" for fault, keys in faults.items() if keys
        )
        raise CheckpointError(
            f"{path}: looks like {model.version}, but its tensors don't fit: {listed}. "
            "The file is damaged or altered; get it again"
        )
    return weights


def _metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a .safetensors file says of itself; nothing in other formats."""
    try:
        with safe_open(_file(path), "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _file(path: str | os.PathLike) -> Path:
    if os.path.isdir(path):
        inside = Path(path, "flownet.pkl")
        if inside.is_file():
            return inside
        raise CheckpointError(
            f"{path}: is a folder; name the model file in it (such as rife_v4.25.safetensors)"
        )
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such file; check the name")
    return Path(path)


#: Bytes. No RIFE file's list of tensors is a tenth as long, and read into memory, a list can take
#: many times its size.
LONGEST_LIST = 1 << 20


def _read(path: Path, file: BinaryIO, start: bytes) -> object:
    """What the checkpoint holds; its format is told by its first bytes.

    Raises CheckpointError for what should not be read, anything for what can't be.
    """
    if start[8:9] == b"{":
        if int.from_bytes(start[:8], "little") > LONGEST_LIST:
            raise ValueError("the header is too long")
        return load_file(path)
    if start.startswith(b"PK\x03\x04"):
        _check_pickles(_zipped_pickle(file), 1)
    else:  # a magic number, a version, the system, the content and the list of storages
        _check_pickles(start, 5)
    left = os.fstat(file.fileno()).st_size

    def place(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        nonlocal left
        left -= storage.nbytes()
        if left < 0:
            raise ValueError("the storages are larger than the file")
        if storage.resizable():  # a tensor that claims more would make it grow; numpy's don't
            return torch.from_numpy(np.empty(storage.nbytes(), np.uint8)).untyped_storage()
        return storage

    file.seek(0)
    return torch.load(file, map_location=place, weights_only=True)


def _zipped_pickle(file: BinaryIO) -> bytes:
    with ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise CheckpointError(
                "a TorchScript program, not a checkpoint; get the model's weights instead"
            )
        # torch finds members whatever their case.
        pickles = [member for member in members if member.filename.lower().endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(
                "a zip archive that is no PyTorch checkpoint; unpack it and choose the model in it"
            )
        # PyTorch compresses nothing; what does may unpack to more than the memory holds.
        if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
            raise CheckpointError("a compressed archive, which no checkpoint is; get the original")
        with archive.open(pickles[0]) as pickle:
            return pickle.read(LONGEST_LIST)


#: All that the pickle of a state dict asks for.
PLAIN = re.compile(
    r"torch \w+Storage|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|collections OrderedDict"
)


def _check_pickles(data: bytes, count: int) -> None:
    """Refuse by name what the first `count` pickles in `data` ask for beside plain tensors.

    torch's weights-only loading runs no code either. But it puts that differently in each version,
    others in this process can widen what it trusts, and some bytes make it allocate gigabytes
    (bytearray), compute for years (tuples in tuples, shared) or crash (tuples in tuples, deep).

    Raises ValueError for what is no pickle or nested beyond reason.
    """
    stream = io.BytesIO(data)
    strings, is_string, last = [], {}, None
    tuples = shared = 0
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                wanted = " ".join(strings[-2:]) if argument is None else argument
                if not re.fullmatch(r"[\w.]+ [\w.]+", wanted):
                    raise ValueError("not a name")
                if not PLAIN.fullmatch(wanted):
                    called = wanted.replace(" ", ".")[:100]
                    raise CheckpointError(
                        f"refused: this pickle calls {called}, as no plain weights do, and may run "
                        "any code with it; get the model from a source that you trust"
                    )
            elif "PUT" in name:
                is_string[argument] = isinstance(last, str)
            elif "GET" in name:
                shared += not is_string.get(argument, True)
            elif isinstance(argument, str):
                strings.append(argument)
            tuples += name.startswith("TUPLE")
            if tuples > 10_000 or shared > 30:
                raise ValueError("tuples in tuples")
            last = argument


def _tensors(content: object) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "params_ema", "params", "model", "flownet"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, not a model's weights")
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError("holds no tensors, so it is no model")
    return tensors


def _normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        name = re.sub(r"^((module|flownet|model)\.)+", "", key)
        name = re.sub(r"^blocks\.(\d+)\.", r"block\1.", name)
        if name in renamed:
            raise CheckpointError(
                f"holds {some([name])} twice, with and without a prefix; get a file with one model"
            )
        renamed[name] = tensor
    return renamed
