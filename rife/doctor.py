"""Prints a report for issues: versions, devices, models, and a self-test of each device.

Anything may be broken where this runs, so each line of the report is computed by itself, and an
exception becomes the line's text.
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
from typing import Protocol

import av
import psutil
import torch

from .console import printable
from .devices import default_dtype
from .engine.kernels import nvrtc
from .fileio import sha256
from .inference import cuda_device, kernel_choice
from .inference.planner import first_line
from .interpolate import interpolate
from .models.checkpoint import EXTENSIONS, CheckpointError, describe
from .models.zoo import DEFAULT, ZOO
from .networks.base import Network
from .networks.finite import dtype_name
from .networks.ifnet_v4 import VERSIONS, IFNet_v4
from .networks.warp import resize
from .options import Options

#: The packages in requirements.txt besides torch and av, and those used only if installed.
PACKAGES = ("numpy", "einops", "safetensors", "pillow", "tqdm", "filelock", "psutil")
OPTIONAL_PACKAGES = ("huggingface_hub",)
ENCODERS = ("libx264", "libopenh264", "libx265", "libvpx-vp9", "libsvtav1", "aac", "libopus")
#: Reported by name if they are set; their values may be private.
VARIABLES = (
    *("RIFE_MODELS", "RIFE_MODEL", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY"),
    *("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS", "TRITON_INTERPRET"),
)
#: The self-test's frames: enough of them for CUDA graphs to be captured and replayed.
HEIGHT, WIDTH, NEW_FRAMES = 64, 128, 32
#: Multiplies the weights of the random network's last layers, for motion of several pixels.
MOTION_GAIN = 5
#: The largest mean difference from the network's own frames in float32; for other dtypes it is
#: kernel_choice.MOST_DIFFERENCE.
MAX_MEAN_DIFFERENCE = 1e-3


class Host(Protocol):
    """A program that this library is installed in, with folders of models of its own.

    A module with these names is one, too.
    """

    #: The program's name.
    NAME: str

    def describe(self) -> str:
        """Returns its version and where it is."""

    def find_model_folders(self) -> list[Path]:
        """Returns the folders where it keeps RIFE models; some may not exist."""


class Problem(str):
    """The text of a line that reports something wrong."""


#: Each line's name, and the function that returns its text.
Lines = list[tuple[str, Callable[[], str]]]


def examine(model_folders: Iterable[Path], host: Host | None = None) -> bool:
    """Prints the report.

    Args:
        model_folders: Where to look for models.
        host: The program that this library is installed in, if any; its folders are searched, too.

    Returns:
        Whether everything is well.
    """
    sections: dict[str, Callable[[], Lines]] = {
        "Versions": partial(_list_versions, host),
        "Machine": _list_machine,
        "Devices": _list_devices,
        "Models": partial(_list_models, model_folders, host),
    }
    problems = 0
    for title, list_lines in sections.items():
        _print(title)
        try:
            lines = list_lines()
        except Exception as error:
            lines = [("", partial(_describe_error, error))]
        for name, describe_line in lines:
            try:
                text = describe_line()
            except Exception as error:
                text = _describe_error(error)
            if isinstance(text, Problem):
                problems += 1
                text = f"PROBLEM: {text}"
            _print(f"  {name:11}  " + text.replace("\n", "\n" + " " * 15))
    _print(f"Problems: {problems}" if problems else "No problems found.")
    return not problems


def _print(text: str) -> None:
    with suppress(RuntimeError):  # the user has no home folder
        home = str(Path.home())
        if len(home) > 1:
            text = text.replace(home, "~")
    encoding = sys.stdout.encoding or "utf-8"
    for line in map(printable, text.split("\n")):
        print(line.encode(encoding, "replace").decode(encoding), flush=True)


def _describe_error(error: Exception) -> Problem:
    return Problem(f"{type(error).__name__}: {first_line(error)}")


def _list_versions(host: Host | None) -> Lines:
    return [
        ("rife", _own_version),
        *([(host.NAME, host.describe)] if host else []),
        ("Python", lambda: f"{platform.python_version()}, {platform.machine()}"),
        ("torch", _torch_version),
        ("Triton", _triton_version),
        ("NVRTC", _nvrtc_version),
        ("PyAV", _av_version),
        ("packages", lambda: ", ".join(map(_package_version, PACKAGES + OPTIONAL_PACKAGES))),
    ]


def _own_version() -> str:
    from . import __version__

    return f"{__version__}, in {Path(__file__).absolute().parent}"


def _torch_version() -> str:
    libraries = {
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
        "cuDNN": torch.backends.cudnn.version(),
    }
    return ", ".join([torch.__version__, *(f"{name} {v}" for name, v in libraries.items() if v)])


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
    encoders = [name for name in ENCODERS if _has_encoder(name)]
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    text = f"{av.__version__}, libavcodec {ffmpeg}, encoders {' '.join(encoders)}"
    return text if encoders else Problem(f"{text} none")


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


def _list_machine() -> Lines:
    return [
        ("system", platform.platform),
        ("CPU", _describe_cpu),
        ("memory", _describe_memory),
        ("disk", lambda: f"{shutil.disk_usage('.').free / 1e9:.1f} GB free in {Path.cwd()}"),
        ("variables", lambda: " ".join(filter(os.environ.get, VARIABLES)) or "none set"),
    ]


def _describe_memory() -> str:
    memory = psutil.virtual_memory()
    return f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free"


def _describe_cpu() -> str:
    name, info = platform.processor(), Path("/proc/cpuinfo")
    if info.is_file() and (match := re.search("model name\t: (.+)", info.read_text())):
        name = match[1]
    extensions = torch.backends.cpu.get_cpu_capability()
    return (
        f"{name}, {psutil.cpu_count()} threads, {torch.get_num_threads()} for torch, {extensions}"
    )


def _list_devices() -> Lines:
    devices = [torch.device("cpu")]
    for kind in ("cuda", "xpu"):
        backend = getattr(torch, kind, None)
        if backend and backend.is_available():
            devices += [torch.device(kind, index) for index in range(backend.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    lines: Lines = []
    for device in devices:
        lines.append((str(device), partial(_describe_device, device)))
        lines.append((f"{device} test", partial(_test_device, device)))
    return lines


def _describe_device(device: torch.device) -> str:
    parts = [dtype_name(default_dtype(device))]
    if device.type in ("cuda", "xpu"):
        backend = getattr(torch, device.type)
        properties = backend.get_device_properties(device)
        kind = getattr(properties, "gcnArchName", None) or getattr(properties, "major", "")
        if isinstance(kind, int):
            kind = f"compute capability {kind}.{properties.minor}"
        parts = [properties.name, kind, f"{properties.total_memory / 1e9:.1f} GB", *parts]
        if hasattr(backend, "mem_get_info"):
            parts.append(f"{backend.mem_get_info(device)[0] / 1e9:.1f} GB free")
    return ", ".join(filter(None, parts))


@torch.inference_mode()
def _test_device(device: torch.device) -> str:
    """Interpolates a clip on the device, and compares with frames of the plain network on the CPU.

    The network has the default model's shape and random weights.
    """
    network = _random_network()
    pair = resize(torch.rand(2, 3, 8, 16, generator=torch.Generator().manual_seed(0)), HEIGHT // 8)
    # The clip shows the two frames in turn, so that only two new frames need to be known.
    expected = torch.cat((network(pair[:1], pair[1:]), network(pair[1:], pair[:1])))
    clip = pair.repeat(NEW_FRAMES // 2 + 1, 1, 1, 1)[: NEW_FRAMES + 1].permute(0, 2, 3, 1)

    model = copy.deepcopy(network).to(device, default_dtype(device))
    options = Options(cuts="ignore")
    with _captured_log() as messages:
        interpolate(model, clip, 2, options)  # compiles kernels, where there are any
        start = time.perf_counter()
        new_frames = interpolate(model, clip, 2, options)[1::2].permute(0, 3, 1, 2)
        seconds = time.perf_counter() - start
        backend = _describe_backend(model)
    difference = (new_frames - expected.repeat(NEW_FRAMES // 2, 1, 1, 1)).abs()
    text = (
        f"{seconds / NEW_FRAMES * 1e3:.2f} ms a frame of {WIDTH}x{HEIGHT}, {backend}, "
        f"{difference.mean():.0e} from the network's own frames, at most {difference.max():.0e}"
    )
    is_float32 = model.dtype == torch.float32
    limit = MAX_MEAN_DIFFERENCE if is_float32 else kernel_choice.MOST_DIFFERENCE
    is_right = bool(difference.mean() < limit)  # False for NaN
    text = "\n".join([text, *messages])
    return f"ok: {text}" if is_right else Problem(f"wrong frames: {text}")


def _random_network() -> Network:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = IFNet_v4(VERSIONS[ZOO[DEFAULT].version]).eval().requires_grad_(False)
    for block in network.blocks:
        block.lastconv[0].weight *= MOTION_GAIN
    return network


def _describe_backend(model: Network) -> str:
    if cuda_device.cuda_device_of(model) is None:
        return "the plain engine"
    fused = kernel_choice.create_engine(model, (HEIGHT, WIDTH), 1.0).uses_kernels
    return f"streams and graphs, {'fused' if fused else 'plain'} kernels"


@contextmanager
def _captured_log() -> Iterator[list[str]]:
    """Within the block, messages of the library's log go into the list, and nowhere else."""
    messages: list[str] = []
    log, handler = logging.getLogger(__package__), logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    propagate, level = log.propagate, log.level
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
        log.setLevel(level)


def _list_models(folders: Iterable[Path], host: Host | None) -> Lines:
    folders = [*folders, *(host.find_model_folders() if host else [])]
    lines: Lines = []
    for folder in folders:
        files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in EXTENSIONS]
        lines.append((str(folder), partial("{} files".format, len(files))))
        lines += [
            (f"  {file.relative_to(folder)}", partial(_describe_model, file)) for file in files
        ]
    return lines


def _describe_model(file: Path) -> str:
    """Says what a model file is, and whether it is the published file of its name."""
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
