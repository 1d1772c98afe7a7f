"""How large calls of the network may be: by the memory there is, and by what failed before."""

import copy
import gc
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor, nn

from ..networks.base import Network
from ..options import Options
from .tiling import Grid, Window, finer, look_ahead, windows

log = logging.getLogger(__name__)

#: Frames of a call, at most, and pixels, up to which more frames in one make it faster: measured on
#: CPUs (benchmarks/constants.py), a guess elsewhere. Fixed, and not what is fastest at the moment,
#: because frames depend on it in their last bits: two runs give the same.
BATCH = 8
BATCH_PIXELS = {"cpu": 400_000, "else": 3_000_000}
#: How the allocators say it, in lower case: CUDA's and ROCm's, cuDNN's, MPS's, XPU's, the CPU's.
_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",
    "out_of_device_memory",
    "out_of_host_memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "could not create a memory object",
)


class Job(NamedTuple):
    """One frame to make, at a timestep in (0, 1) between two others, (H, W, C)."""

    first: Tensor
    second: Tensor
    timestep: Fraction


class NotEnoughMemory(MemoryError):
    """Every way has failed; the message says what was tried and what helps, for people."""


@dataclass(frozen=True)
class Way:
    """How the next frames are made: `batch` at once of whole frames, or one of `tiles`.

    pixels: of one call of the network. smaller: whether there is a way with fewer.
    model: what makes them.
    """

    model: Network
    batch: int
    pixels: int
    smaller: bool
    grid: Grid = (1, 1)
    tiles: Sequence[Window] = ()

    def __str__(self) -> str:
        how = f"{self.batch} at a time" if self.batch > 1 else "one at a time"
        if self.tiles:
            how = f"in {self.grid[0]} x {self.grid[1]} tiles"
        return f"{how} on {'the CPU' if self.model.device.type == 'cpu' else self.model.device}"


class Ladder:
    """Finds the way with the largest calls that there is memory for, and a smaller one when there
    was none: fewer timesteps at once, then more and more tiles, then all that on the CPU.

    memory_limit: bytes that a call may take on the network's device; None: all that is available.
    """

    def __init__(self, model: Network, options: Options, memory_limit: float | None = None):
        self.options = options
        self._model, self._limit = model, memory_limit
        self._most_pixels = math.inf  # of a call, by what was too much before
        self._failure = ""  # that the log doesn't have yet
        self._most_tiles = 0  # that the log has

    def batch(self, height: int, width: int, channels: int) -> int:
        """How many frames of this size to make in one call, as far as memory is known."""
        scale = self.options.scale_for(height, width)
        most = self._most(height, width, channels)
        device = "cpu" if self._model.device.type == "cpu" else "else"
        pixels = min(most, BATCH_PIXELS[device])
        return max(1, min(BATCH, int(pixels // self._pixels(height, width, scale))))

    def _pixels(self, height: int, width: int, scale: float) -> int:
        """That a call takes for one frame or tile of this size, of a frame seen at `scale`."""
        multiple = self._model.side_multiple(scale)
        views = 2 if self.options.tta else 1
        return views * (height + -height % multiple) * (width + -width % multiple)

    def _most(self, height: int, width: int, channels: int) -> float:
        """Pixels of a call that there is memory for."""
        if self._limit is None:
            self._limit = available_memory(self._model.device)
        options, views = self.options, 2 if self.options.tta else 1
        scale = options.scale_for(height, width)
        needed = views * self._model.memory_needed(
            height, width, channels, scale=scale, refine=options.refine
        )
        return min(self._most_pixels, self._pixels(height, width, scale) * self._limit / needed)

    def way(self, jobs: Sequence[Job]) -> Way:
        """How to make the first of `jobs`, or more."""
        model, options, job = self._model, self.options, jobs[0]
        height, width, channels = job.first.shape
        scale = options.scale_for(height, width)
        whole = self._pixels(height, width, scale)
        most = self._most(height, width, channels)
        grid: Grid = (1, 1)
        smaller = finer(grid, height, width)
        if whole <= most or not smaller:
            batch = min(len(jobs), self.batch(height, width, channels))
            way = Way(model, batch, batch * whole, batch > 1 or smaller is not None)
        else:
            tiles_model, margin = look_ahead(
                model, job.first, job.second, float(job.timestep), scale, options.ensemble
            )
            multiple = model.side_multiple(scale)
            largest = whole
            while largest > most and smaller:
                grid, smaller = smaller, finer(smaller, height, width)
                tiles = windows(height, width, grid, margin, multiple)
                sides = ((len(tile.rows), len(tile.columns)) for tile in tiles)
                largest = max(self._pixels(*side, scale) for side in sides)
            way = Way(tiles_model, 1, largest, smaller is not None, grid, tiles)
        self._tell(way, f"frames of {width}x{height}")
        return way

    def step_down(self, way: Way | None, frame: Tensor, reason: str) -> None:
        """Remember that `way` took too much; None: even to look ahead did.

        Raises NotEnoughMemory where nothing is left to try for such a `frame`, (H, W, C).
        """
        free_memory(self._model.device)
        self._failure = reason
        if way and way.smaller:
            self._most_pixels = way.pixels // 2 if way.batch > 1 else way.pixels * 3 // 4
        elif self._model.device.type != "cpu":
            self._model = copy_to_cpu(self._model)
            self._most_pixels, self._limit, self._most_tiles = math.inf, None, 0
        else:
            height, width, _ = frame.shape
            raise NotEnoughMemory(
                f"there is not enough memory to interpolate frames of {width}x{height}, not even "
                f"in small tiles on the CPU: close other programs or make the frames smaller "
                f"({reason})"
            )

    def _tell(self, way: Way, frames: str) -> None:
        if self._failure:
            log.warning(
                "out of memory: %s are made %s from here on (%s)", frames, way, self._failure
            )
        elif len(way.tiles) > self._most_tiles:
            log.info("%s take more memory than is free: they are made %s", frames, way)
        self._failure, self._most_tiles = "", max(self._most_tiles, len(way.tiles))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is any device's way to say that there is no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """Of its message, for the log."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def available_memory(device: torch.device) -> float:
    """Bytes that a run may take on `device`: all that is free, or half where others need it too."""
    backend = getattr(torch, device.type, None)
    if device.type != "cpu" and hasattr(backend, "mem_get_info"):
        free, _ = backend.mem_get_info(device)
        return free + backend.memory_reserved(device) - backend.memory_allocated(device)
    return min(psutil.virtual_memory().available, _left_in_container()) / 2


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """What a Linux control group (a container, a systemd unit) leaves, or infinity."""
    try:
        limit = int((folder / "memory.max").read_text())  # "max": there is none
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if "active_file " in line)
    except (OSError, ValueError):
        return math.inf
    return max(0, limit - used + cached)


def free_memory(device: torch.device) -> None:
    """Give back to `device` what nothing refers to any more."""
    gc.collect()
    backend = getattr(torch, device.type, None)
    if hasattr(backend, "empty_cache"):
        backend.empty_cache()


def copy_to_cpu(model: Network) -> Network:
    """A copy in float32; `model` stays as and where it is, and takes no more memory there."""
    copies: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        weight = parameter.detach().to("cpu", copy=True).float()
        copies[id(parameter)] = nn.Parameter(weight, requires_grad=False)
    for buffer in model.buffers():
        copies[id(buffer)] = buffer.to("cpu", copy=True)
    return copy.deepcopy(model, copies)
