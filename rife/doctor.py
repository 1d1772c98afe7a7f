"""What an issue needs to say: versions, devices, models found, and whether frames come out right.

Anything may be broken where this runs, so each line is made on its own, and what fails becomes the
line's text.
"""

import copy
import logging
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path

import av
import psutil
import torch

from .console import printable
from .devices import default_dtype
from .engine.kernels import nvrtc
from .fileio import sha256
from .inference import cuda_backend
from .inference.planner import first_line
from .interpolate import interpolate
from .models.checkpoint import EXTENSIONS, CheckpointError, describe
from .models.zoo import DEFAULT, ZOO
from .networks.base import Network
from .networks.ifnet_v4 import VERSIONS, IFNet_v4
from .networks.warp import resize

#: What requirements.txt names besides torch and av, and what is used where it is there.
PACKAGES = ("numpy", "einops", "safetensors", "pillow", "tqdm", "filelock", "psutil")
EXTRAS = ("huggingface_hub",)
ENCODERS = ("libx264", "libopenh264", "libx265", "libvpx-vp9", "libsvtav1", "aac", "libopus")
#: Named where they are set; their values may be private.
VARIABLES = (
    *("RIFE_MODELS", "RIFE_MODEL", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY"),
    *("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS", "TRITON_INTERPRET"),
)
#: Of the self-test: enough frames for graphs to be recorded and replayed.
HEIGHT, WIDTH, NEW_FRAMES = 64, 128, 32
GAIN = 5  # of the last layers, for motion of some pixels
MOST_APART = 1e-3  # on average, in float32; with fewer bits cuda_backend.MOST_APART


class Problem(str):
    """A line that says what is wrong."""


#: The name of each line, and what makes its text.
Lines = list[tuple[str, Callable[[], str]]]


def examine(folders: Iterable[Path]) -> bool:
    """Print it all, of models those in `folders` and in ComfyUI's. False: something is wrong."""
    sections: dict[str, Callable[[], Lines]] = {
        "Versions": _versions,
        "Machine": _machine,
        "Devices": _devices,
        "Models": partial(_models, folders),
    }
    problems = 0
    for title, find in sections.items():
        _print(title)
        try:
            lines = find()
        except Exception as error:
            lines = [("", partial(_failure, error))]
        for name, line in lines:
            try:
                text = line()
            except Exception as error:
                text = _failure(error)
            wrong = isinstance(text, Problem)
            problems += wrong
            text = ("PROBLEM: " if wrong else "") + text
            _print(f"  {name:11}  " + text.replace("\n", "\n" + " " * 15))
    _print(f"Problems: {problems}" if problems else "No problems found.")
    return not problems


def _print(text: str) -> None:
    with suppress(RuntimeError):  # there is no home
        home = str(Path.home())
        if len(home) > 1:
            text = text.replace(home, "~")
    encoding = sys.stdout.encoding or "utf-8"
    for line in map(printable, text.split("\n")):
        print(line.encode(encoding, "replace").decode(encoding), flush=True)


def _failure(error: Exception) -> str:
    return Problem(f"{type(error).__name__}: {first_line(error)}")


def _versions() -> Lines:
    return [
        ("rife", _own_version),
        ("ComfyUI", _comfyui_version),
        ("Python", lambda: f"{platform.python_version()}, {platform.machine()}"),
        ("torch", _torch_version),
        ("Triton", _triton_version),
        ("NVRTC", _nvrtc_version),
        ("PyAV", _av_version),
        ("packages", lambda: ", ".join(map(_package_version, PACKAGES + EXTRAS))),
    ]


def _own_version() -> str:
    from . import __version__

    return f"{__version__}, in {Path(__file__).absolute().parent}"


def _comfyui() -> Path | None:
    """The folder of the ComfyUI whose custom_nodes has this."""
    custom_nodes = Path(__file__).absolute().parents[2]
    return custom_nodes.parent if custom_nodes.name == "custom_nodes" else None


def _comfyui_version() -> str:
    folder = _comfyui()
    if folder is None:
        return "none: not in a folder custom_nodes"
    file = folder / "comfyui_version.py"
    found = re.search(r'"(.+)"', file.read_text()) if file.is_file() else None
    return f"{found[1] if found else 'of unknown version'}, in {folder}"


def _torch_version() -> str:
    built = {
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
        "cuDNN": torch.backends.cudnn.version(),
    }
    return ", ".join([torch.__version__, *(f"{name} {v}" for name, v in built.items() if v)])


def _triton_version() -> str:
    try:
        import triton
    except ImportError as error:
        return f"none ({first_line(error)})"
    return triton.__version__


def _nvrtc_version() -> str:
    try:
        return nvrtc.compiler().version
    except ImportError as error:
        return f"none ({first_line(error)})"


def _av_version() -> str:
    found = [name for name in ENCODERS if _has_encoder(name)]
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    text = f"{av.__version__}, libavcodec {ffmpeg}, encoders {' '.join(found)}"
    return text if found else Problem(f"{text} none")


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True


def _package_version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name} none"


def _machine() -> Lines:
    def memory() -> str:
        now = psutil.virtual_memory()
        return f"{now.total / 1e9:.1f} GB, {now.available / 1e9:.1f} GB free"

    return [
        ("system", platform.platform),
        ("CPU", _cpu),
        ("memory", memory),
        ("disk", lambda: f"{shutil.disk_usage('.').free / 1e9:.1f} GB free in {Path.cwd()}"),
        ("variables", lambda: " ".join(filter(os.environ.get, VARIABLES)) or "none set"),
    ]


def _cpu() -> str:
    name, info = platform.processor(), Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search("model name\t: (.+)", info.read_text())):
        name = found[1]
    extensions = torch.backends.cpu.get_cpu_capability()
    return (
        f"{name}, {psutil.cpu_count()} threads, {torch.get_num_threads()} for torch, {extensions}"
    )


def _devices() -> Lines:
    devices = [torch.device("cpu")]
    for kind in ("cuda", "xpu"):
        backend = getattr(torch, kind, None)
        if backend and backend.is_available():
            devices += [torch.device(kind, index) for index in range(backend.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    lines: Lines = []
    for device in devices:
        lines.append((str(device), partial(_device, device)))
        lines.append((f"{device} test", partial(_self_test, device)))
    return lines


def _device(device: torch.device) -> str:
    parts = [str(default_dtype(device)).removeprefix("torch.")]
    if device.type in ("cuda", "xpu"):
        backend = getattr(torch, device.type)
        found = backend.get_device_properties(device)
        kind = getattr(found, "gcnArchName", None) or getattr(found, "major", "")
        if isinstance(kind, int):
            kind = f"compute capability {kind}.{found.minor}"
        parts = [found.name, kind, f"{found.total_memory / 1e9:.1f} GB", *parts]
        if hasattr(backend, "mem_get_info"):
            parts.append(f"{backend.mem_get_info(device)[0] / 1e9:.1f} GB free")
    return ", ".join(filter(None, parts))


@torch.inference_mode()
def _self_test(device: torch.device) -> str:
    """Frames of a random network with the default model's shape, made as any frames are on this
    device; and by the network itself, on the CPU."""
    network = _network()
    pair = resize(torch.rand(2, 3, 8, 16, generator=torch.Generator().manual_seed(0)), HEIGHT // 8)
    wanted = torch.cat((network(pair[:1], pair[1:]), network(pair[1:], pair[:1])))
    clip = pair.repeat(NEW_FRAMES // 2 + 1, 1, 1, 1)[: NEW_FRAMES + 1].permute(0, 2, 3, 1)

    model = copy.deepcopy(network).to(device, default_dtype(device))
    with _notes() as notes:
        interpolate(model, clip, cuts="ignore")  # compiles kernels, where there are any
        start = time.perf_counter()
        made = interpolate(model, clip, cuts="ignore")[1::2].permute(0, 3, 1, 2)
        seconds = time.perf_counter() - start
        way = _way(model)
    apart = (made - wanted.repeat(NEW_FRAMES // 2, 1, 1, 1)).abs()
    text = (
        f"{seconds / NEW_FRAMES * 1e3:.2f} ms a frame of {WIDTH}x{HEIGHT}, {way}, "
        f"{apart.mean():.0e} from the network's own frames, at most {apart.max():.0e}"
    )
    most = MOST_APART if model.dtype == torch.float32 else cuda_backend.MOST_APART
    right = bool(apart.mean() < most)  # not if NaN
    text = "\n".join([text, *notes])
    return f"ok: {text}" if right else Problem(f"wrong frames: {text}")


def _network() -> Network:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = IFNet_v4(VERSIONS[ZOO[DEFAULT].version]).eval().requires_grad_(False)
    for block in network.blocks:
        block.lastconv[0].weight *= GAIN
    return network


def _way(model: Network) -> str:
    """How frames are made on this model's device."""
    if cuda_backend.device_of(model) is None:
        return "the plain engine"
    fused = cuda_backend.engine_for(model, (HEIGHT, WIDTH), 1.0).uses_kernels
    return f"streams and graphs, {'fused' if fused else 'plain'} kernels"


@contextmanager
def _notes() -> Iterator[list[str]]:
    """What the library's log says meanwhile."""
    said: list[str] = []
    log, handler = logging.getLogger(__package__), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    propagate, level = log.propagate, log.level
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
        log.setLevel(level)


def _models(folders: Iterable[Path]) -> Lines:
    folders = [*folders]
    if comfyui := _comfyui():
        folders += [comfyui / "models" / name for name in ("rife", "frame_interpolation")]
        packs = (comfyui / "custom_nodes").iterdir()
        others = [pack for pack in packs if pack.name.lower() == "comfyui-frame-interpolation"]
        folders += [pack / "ckpts" / "rife" for pack in others]
    lines: Lines = []
    for folder in folders:
        files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in EXTENSIONS]
        lines.append((str(folder), partial("{} files".format, len(files))))
        lines += [(f"  {file.relative_to(folder)}", partial(_model, file)) for file in files]
    return lines


def _model(file: Path) -> str:
    """What is in it, and whether it is the published file of that name."""
    published = ZOO.get(file.name)
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    try:
        version = describe(file)["version"]
    except CheckpointError as error:
        return (Problem if published else str)(str(error).removeprefix(f"{file}: "))
    if published is None:
        return f"{version}, {size}"
    digest = sha256(file)
    if version.removeprefix("RIFE ") != published.version or digest != (published.sha256 or digest):
        return Problem(f"{version}, {size}, not the published file (its sha256 is {digest})")
    return f"{version}, {size}, {'as published' if published.sha256 else f'sha256 {digest}'}"
