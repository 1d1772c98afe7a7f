"""RIFE files: read safely, recognised by what is in them, refused with what they look like.

Nothing depends on a file's name. What the networks compute is theirs; this module only picks one.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..devices import best_device, default_dtype
from ..fileio import FileError, atomic_output, refuse_same_file, sha256
from ..networks.base import Network, advice_on_range, dtype_name, is_finite
from ..networks.ifnet import IFNet, IFNet_2R, IFNet_m
from ..networks.ifnet_hdv3 import IFNet_HDv3
from ..networks.ifnet_v4 import IFNet_v4
from .errors import CheckpointError
from .foreign_files import abbreviate, identify_folder, identify_state_dict
from .safe_read import CheckpointContents, read_tensors

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
    model, weights, _ = _recognise(path, network)
    device = best_device() if device is None else torch.device(device)
    dtype = dtype or default_dtype(device)
    # Copied even where nothing changes: tensors may share their memory, or be parts of more.
    whole = {"copy": True, "memory_format": torch.contiguous_format}
    weights = {key: tensor.to(device, dtype, **whole) for key, tensor in weights.items()}
    _check_converted(weights, path)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def network_of(state: Mapping[str, Tensor]) -> Network:
    """The network of a state dict, for inference, with these very tensors.

    Raises CheckpointError for what is no RIFE model.
    """
    state = _normalise(state, "the model")
    model = _fresh(state, FAMILIES, "the model")
    _check_converted({key: x for key, x in state.items() if x.dtype in FLOATS}, "the model")
    model.load_state_dict(_fitting(model, state, "the model"), assign=True)
    return model.eval().requires_grad_(False)


def describe(path: str | os.PathLike) -> dict[str, str]:
    """What a checkpoint is, as lines for people: version, network, timesteps, options, size ...

    Raises CheckpointError as `load_model` does.
    """
    model, weights, contents = _recognise(path)
    origin = contents.metadata
    dtypes = sorted({dtype_name(t.dtype) for t in weights.values()})
    row = getattr(model, "parameters_row", None)
    return {
        "file": f"{path} ({contents.size / 1e6:.1f} MB)",
        "version": model.version,
        "network": type(model).__name__ + (f", {row}" if row else ""),
        "weights": f"{sum(t.numel() for t in weights.values()):,} of {', '.join(dtypes)}",
        "timesteps": "any" if model.any_timestep else "the midpoint; others by recursion",
        "scales": " ".join(map(str, model.scales)),
        "side multiple": f"{model.side_multiple()} pixels",
        **{name: _effect(model, name) for name in EFFECTS},
        **{key: abbreviate([origin[key]]) for key in ("source", "sha256") if key in origin},
    }


def _effect(model: Network, option: str) -> str:
    if option in model.built_in:
        return "part of this network, always on"
    if option in ("ensemble", "refine") and option not in model.options:
        return "this network has none"
    return EFFECTS[option]


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
    digest = sha256(source)
    model, weights, _ = _recognise(source, network)
    if sha256(source) != digest:
        raise CheckpointError(f"{source}: was written to meanwhile; try again when it is whole")
    if half:
        weights = {key: tensor.half() for key, tensor in weights.items()}
        _check_converted(weights, source, "leave out --half")
    model.load_state_dict(weights, assign=True)
    origin = {"source": source.name, "sha256": digest}
    save_model(model, target, origin, overwrite)


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
    return _normalise(read_tensors(path).tensors, path)


def _recognise(
    path: str | os.PathLike, network: str | None = None
) -> tuple[Network, dict[str, Tensor], CheckpointContents]:
    """The network in a file, for inference and on the meta device, the weights that it takes, and
    all that was read."""
    path = _file(path)
    contents = read_tensors(path)
    state = _normalise(contents.tensors, path)
    if network is not None and network not in NETWORKS:
        raise CheckpointError(f"no network {network!r}: it is one of {', '.join(NETWORKS)}")
    # A file that we wrote says which of two it is.
    stated = NETWORKS.get(contents.metadata.get("network", ""))
    families = (NETWORKS[network],) if network else (*filter(None, [stated]), *FAMILIES)
    fault = network and f"not of {network}; name none, to have the network recognised"
    model = _fresh(state, families, path, fault)
    return model, _fitting(model, state, path), contents


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
            f"{name}: {otherwise or 'not a RIFE model, but ' + identify_state_dict(state)}"
        )
    for part, _ in list(model.named_children()):
        if f"{part}." in model.training_only:
            delattr(model, part)
    return model


#: dtypes of weights; each is exact in float32, or is rounded to it.
FLOATS = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
)  # fmt: skip


def _check_converted(
    weights: Mapping[str, Tensor], name: str | os.PathLike, advice: str | None = None
) -> None:
    """Raises CheckpointError for numbers that were lost when weights took their dtype."""
    lost = [key for key, tensor in weights.items() if not is_finite(tensor)]
    if lost:
        dtype = weights[lost[0]].dtype
        raise CheckpointError(
            f"{name}: {len(lost)} of its tensors ({abbreviate(lost, 1)}) hold numbers that are too "
            f"large for {dtype_name(dtype)}: {advice or advice_on_range(dtype)}"
        )


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
        "with NaN or infinity": [
            key
            for key, tensor in weights.items()
            if tensor.dtype in FLOATS and not is_finite(tensor)
        ],
    }
    if any(faults.values()):
        listed = "; ".join(
            f"{len(keys)} {fault} ({abbreviate(keys, 1)})" for fault, keys in faults.items() if keys
        )
        raise CheckpointError(
            f"{path}: looks like {model.version}, but its tensors don't fit: {listed}. "
            "The file is damaged or altered; get it again"
        )
    return weights


def _file(path: str | os.PathLike) -> Path:
    if os.path.isdir(path):
        inside = Path(path, "flownet.pkl")
        if inside.is_file():
            return inside
        raise CheckpointError(f"{path}: {identify_folder(Path(path))}")
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such file; check the name")
    return Path(path)


def _normalise(state: Mapping[str, Tensor], path: str | os.PathLike) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        name = re.sub(r"^((module|flownet|model)\.)+", "", key)
        name = re.sub(r"^blocks\.(\d+)\.", r"block\1.", name)
        if name in renamed:
            raise CheckpointError(
                f"{path}: holds {abbreviate([name])} twice, with and without a prefix; get a file "
                "with one model"
            )
        renamed[name] = tensor
    return renamed
