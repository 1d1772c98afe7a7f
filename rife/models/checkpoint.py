"""Loads, describes, converts and saves RIFE checkpoints of every version and file format.

A file is recognised by the names and shapes of its tensors; the file's own name doesn't count.
Anything that is no RIFE model is refused with an error that says what it is.
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
from ..networks.base import Network
from ..networks.finite import advice_on_range, dtype_name, is_finite
from ..networks.ifnet import IFNet, IFNet_2R, IFNet_m
from ..networks.ifnet_hdv3 import IFNet_HDv3
from ..networks.ifnet_v4 import IFNet_v4
from .errors import CheckpointError
from .foreign_files import abbreviate, identify_folder, identify_state_dict
from .safe_read import CheckpointContents, read_tensors

#: File name suffixes that checkpoints usually have. `load_model` reads files of any name.
EXTENSIONS = (".safetensors", ".pth", ".pkl", ".pt", ".ckpt", ".bin")

#: The network classes that `from_state_dict` is tried on, in this order; no state dict fits two.
FAMILIES: tuple[type[Network], ...] = (IFNet_v4, IFNet_HDv3, IFNet, IFNet_m)
#: The network classes by the names that `load_model(network=...)` takes. IFNet_2R is used only
#: when named, as its state dict looks like IFNet's.
NETWORKS: dict[str, type[Network]] = {c.__name__: c for c in (*FAMILIES, IFNet_2R)}

#: The options of `interpolate` that depend on the network, and what each does, for users.
OPTION_EFFECTS = {
    "scale": "resolution of the flow estimate: 0.5 for 4K or large motion, 2 for fine detail",
    "ensemble": "average both orders of each pair, for twice the time",
    "refine": "run the refine networks too, for sharper detail",
    "tta": "average with the pass over frames turned upside down, for twice the time",
}

#: The dtypes that weights may have in a file. float32 holds all of them exactly but float64.
_WEIGHT_DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
)  # fmt: skip


def load_model(
    path: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    network: str | None = None,
) -> Network:
    """Loads a RIFE model for inference.

    Args:
        path: A .safetensors file or a PyTorch pickle (.pkl, .pth, .pt), or a folder with a
            `flownet.pkl` in it.
        device: Where the model runs; None for `best_device()`.
        dtype: Of the convolutions; None for `default_dtype(device)`.
        network: The class of the network, a key of NETWORKS; None to recognise it. Only IFNet_2R
            has to be named.

    Returns:
        The network, in evaluation mode and without gradients.

    Raises:
        CheckpointError: The file isn't a RIFE model, or can't be read safely.
    """
    model, weights, _ = _read_model(path, network)
    device = best_device() if device is None else torch.device(device)
    dtype = dtype or default_dtype(device)
    # Copied even if nothing changes: the tensors may be views of a storage that they share.
    as_own_tensor = {"copy": True, "memory_format": torch.contiguous_format}
    weights = {key: tensor.to(device, dtype, **as_own_tensor) for key, tensor in weights.items()}
    _check_range(weights, path)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def network_from_state_dict(state: Mapping[str, Tensor]) -> Network:
    """Builds the network that a state dict belongs to, for inference.

    Args:
        state: Tensors by name. The network takes them as they are, without a copy.

    Returns:
        The network, in evaluation mode and without gradients.

    Raises:
        CheckpointError: The state dict is of no RIFE model.
    """
    state = _normalise_keys(state, "the model")
    model = _build_network(state, FAMILIES, "the model")
    floats = {key: tensor for key, tensor in state.items() if tensor.dtype in _WEIGHT_DTYPES}
    _check_range(floats, "the model")
    model.load_state_dict(_select_weights(model, state, "the model"), assign=True)
    return model.eval().requires_grad_(False)


def describe(path: str | os.PathLike) -> dict[str, str]:
    """Describes a checkpoint for people.

    Args:
        path: As for `load_model`.

    Returns:
        A text for each property of the model: its version, network, weights, options and so on.

    Raises:
        CheckpointError: As `load_model` raises it.
    """
    model, weights, contents = _read_model(path)
    metadata = contents.metadata
    dtypes = sorted({dtype_name(tensor.dtype) for tensor in weights.values()})
    parameters = model.parameters_row
    return {
        "file": f"{path} ({contents.size / 1e6:.1f} MB)",
        "version": model.version,
        "network": type(model).__name__ + (f", {parameters}" if parameters else ""),
        "weights": f"{sum(t.numel() for t in weights.values()):,} of {', '.join(dtypes)}",
        "timesteps": "any" if model.any_timestep else "the midpoint; others by recursion",
        "scales": " ".join(map(str, model.scales)),
        "side multiple": f"{model.side_multiple()} pixels",
        **{option: _describe_option(model, option) for option in OPTION_EFFECTS},
        **{key: abbreviate([metadata[key]]) for key in ("source", "sha256") if key in metadata},
    }


def _describe_option(model: Network, option: str) -> str:
    if option in model.built_in:
        return "part of this network, always on"
    if option in ("ensemble", "refine") and option not in model.options:
        return "this network has none"
    return OPTION_EFFECTS[option]


def save_model(
    model: Network,
    path: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Writes a network's weights as a .safetensors file, which appears only when it is whole.

    Args:
        model: The network.
        path: The file to write.
        metadata: Texts to store in the file, beside the network's version and class.
        overwrite: Whether an existing file is replaced.

    Raises:
        FileError: The file can't be written, or exists and isn't to be replaced.
    """
    tensors = {key: tensor.contiguous().cpu() for key, tensor in model.state_dict().items()}
    own_metadata = {"format": "pt", "version": model.version, "network": type(model).__name__}
    with atomic_output(Path(path), overwrite) as temporary:
        save_file(tensors, temporary, {**(metadata or {}), **own_metadata})


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    half: bool = False,
    network: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint anew as a .safetensors file that holds only what inference needs.

    The new file's metadata has the source's name and sha256, and the class of the network.

    Args:
        source: The checkpoint to read, as for `load_model`.
        target: The file to write; its name ends in .safetensors.
        half: Whether to convert the weights to float16; otherwise they keep their dtypes.
        network: As for `load_model`. The new file doesn't need it any more.
        overwrite: Whether an existing file is replaced.

    Raises:
        CheckpointError: As `load_model` raises it.
        FileError: `target` can't be written, or exists and isn't to be replaced.
    """
    source, target = _find_checkpoint(source), Path(target)
    if target.suffix != ".safetensors":
        raise FileError(f"{target}: the name of the new file has to end in .safetensors")
    refuse_same_file(source, target)
    digest = sha256(source)
    model, weights, _ = _read_model(source, network)
    if sha256(source) != digest:
        raise CheckpointError(f"{source}: was written to meanwhile; try again when it is whole")
    if half:
        weights = {key: tensor.half() for key, tensor in weights.items()}
        _check_range(weights, source, "leave out --half")
    model.load_state_dict(weights, assign=True)
    save_model(model, target, {"source": source.name, "sha256": digest}, overwrite)


def load_weights(model: Network, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads a state dict into a network of the caller's.

    Args:
        model: The network; unchanged if the tensors don't fit.
        state: As `read_state_dict` returns it. Tensors that only training needs may be missing.
        path: The file it was read from, for error messages.

    Raises:
        CheckpointError: The tensors don't fit.
    """
    model.load_state_dict(_select_weights(model, state, path), strict=False)


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Reads a checkpoint's tensors without running code that may be in the file.

    Args:
        path: As for `load_model`.

    Returns:
        The tensors, on the CPU, by the names that the networks give them: without prefixes such as
        `module.`, and with `block0.` for `blocks.0.`.

    Raises:
        CheckpointError: The file has no tensors, or can't be read safely.
    """
    path = _find_checkpoint(path)
    return _normalise_keys(read_tensors(path).tensors, path)


def _read_model(
    path: str | os.PathLike, network: str | None = None
) -> tuple[Network, dict[str, Tensor], CheckpointContents]:
    """Returns a checkpoint's network on the meta device, its weights, and all that was read."""
    path = _find_checkpoint(path)
    contents = read_tensors(path)
    state = _normalise_keys(contents.tensors, path)
    if network is not None and network not in NETWORKS:
        raise CheckpointError(f"no network {network!r}: it is one of {', '.join(NETWORKS)}")
    if network:
        families = [NETWORKS[network]]
        mismatch = f"not of {network}; name none, to have the network recognised"
    else:
        # Files by `save_model` state the network's class, which tells IFNet_2R from IFNet.
        stated = NETWORKS.get(contents.metadata.get("network", ""))
        families = [stated, *FAMILIES] if stated else FAMILIES
        mismatch = None
    model = _build_network(state, families, path, mismatch)
    return model, _select_weights(model, state, path), contents


def _build_network(
    state: Mapping[str, Tensor],
    families: Iterable[type[Network]],
    name: str | os.PathLike,
    mismatch: str | None = None,
) -> Network:
    """Builds the network of the first family that recognises `state`, without weights.

    It is on the meta device and has no parts that only training needs. `mismatch` is the error's
    text if no family recognises the state dict.
    """
    try:
        with torch.device("meta"):  # takes no memory, whatever the shapes in the file
            models = (family.from_state_dict(state) for family in families)
            model = next((model for model in models if model is not None), None)
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{name}: named like RIFE's, but its tensors' shapes make no network; get it again"
        ) from error
    if model is None:
        raise CheckpointError(
            f"{name}: {mismatch or 'not a RIFE model, but ' + identify_state_dict(state)}"
        )
    for part, _ in list(model.named_children()):
        if f"{part}." in model.training_only:
            delattr(model, part)
    return model


def _select_weights(
    model: Network, state: Mapping[str, Tensor], path: str | os.PathLike
) -> dict[str, Tensor]:
    """Returns the tensors of `state` that `model` takes; raises CheckpointError if any is wrong."""
    expected = model.state_dict()
    weights = {key: state[key] for key in expected if key in state}
    optional = model.training_only
    faults = {
        "missing": [k for k in expected if k not in state and not k.startswith(optional)],
        "unexpected": [k for k in state if k not in expected and not k.startswith(optional)],
        "of another shape": [
            f"{key} {tuple(tensor.shape)} instead of {tuple(expected[key].shape)}"
            for key, tensor in weights.items()
            if tensor.shape != expected[key].shape
        ],
        "not of floating point": [
            f"{key} {tensor.dtype}"
            for key, tensor in weights.items()
            if tensor.dtype not in _WEIGHT_DTYPES
        ],
        "with NaN or infinity": [
            key
            for key, tensor in weights.items()
            if tensor.dtype in _WEIGHT_DTYPES and not is_finite(tensor)
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


def _check_range(
    weights: Mapping[str, Tensor], name: str | os.PathLike, advice: str | None = None
) -> None:
    """Raises CheckpointError if weights became infinite when they were converted to their dtype."""
    overflown = [key for key, tensor in weights.items() if not is_finite(tensor)]
    if overflown:
        dtype = weights[overflown[0]].dtype
        raise CheckpointError(
            f"{name}: {len(overflown)} of its tensors ({abbreviate(overflown, 1)}) hold numbers "
            f"that are too large for {dtype_name(dtype)}: {advice or advice_on_range(dtype)}"
        )


def _find_checkpoint(path: str | os.PathLike) -> Path:
    if os.path.isdir(path):
        file = Path(path, "flownet.pkl")
        if file.is_file():
            return file
        raise CheckpointError(f"{path}: {identify_folder(Path(path))}")
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such file; check the name")
    return Path(path)


def _normalise_keys(state: Mapping[str, Tensor], path: str | os.PathLike) -> dict[str, Tensor]:
    normalised = {}
    for key, tensor in state.items():
        name = re.sub(r"^((module|flownet|model)\.)+", "", key)
        name = re.sub(r"^blocks\.(\d+)\.", r"block\1.", name)
        if name in normalised:
            raise CheckpointError(
                f"{path}: holds {abbreviate([name])} twice, with and without a prefix; get a file "
                "with one model"
            )
        normalised[name] = tensor
    return normalised
