"""Plans how large the calls of a network may be: by the memory that is free, and by what failed."""

import copy
import gc
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from ..networks.base import Network
from ..options import Options
from .frames import FrameSpec, Job
from .tiling import Grid, Tile, finer_grid, measure_tile_margin, split_into_tiles

log = logging.getLogger(__name__)

#: The most frames in a call, and the pixels up to which more frames in a call make it faster:
#: measured on CPUs (benchmarks/constants.py), a guess elsewhere. They are fixed, and not what is
#: fastest at the moment, because frames depend on them in their last bits: two runs give the same.
BATCH = 8
BATCH_PIXELS = {"cpu": 400_000, "else": 3_000_000}
#: How the allocators of CUDA, ROCm, cuDNN, MPS, XPU and the CPU say it, in lower case.
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


class NotEnoughMemory(MemoryError):
    """Even the smallest calls take too much; the message says what was tried and what helps."""


@dataclass(frozen=True)
class CallPlan:
    """How the next frames are rendered: several whole frames in a call, or one tile in a call.

    Attributes:
        network: What renders them; on the CPU, where the device has failed.
        batch: Frames in a call, at most.
        pixels: Of the largest call of the network.
        can_shrink: Whether there is a plan with fewer pixels on the same device.
        grid: Rows and columns of tiles.
        tiles: Of one frame; none, where frames are rendered whole.
    """

    network: Network
    batch: int
    pixels: int
    can_shrink: bool
    grid: Grid = (1, 1)
    tiles: Sequence[Tile] = ()

    def __str__(self) -> str:
        how = f"{self.batch} at a time" if self.batch > 1 else "one at a time"
        if self.tiles:
            how = f"in {self.grid[0]} x {self.grid[1]} tiles"
        device = self.network.device
        return f"{how} on {'the CPU' if device.type == 'cpu' else device}"


class MemoryPlanner:
    """Plans the largest calls that there is memory for, and smaller ones after a failure: fewer
    frames in a call, then more and more tiles, then all of that on the CPU.

    Args:
        network: What is to be called.
        options: Of the run.
        memory_limit: Bytes that a call may take on the network's device; None: all that is
            available.
    """

    def __init__(self, network: Network, options: Options, memory_limit: float | None = None):
        self._options = options
        self._views = 2 if options.tta else 1
        self._network, self._limit = network, memory_limit
        self._most_pixels = math.inf  # of a call; less after a failure
        self._unlogged_failure = ""
        self._most_logged_tiles = 0

    def batch_size(self, spec: FrameSpec) -> int:
        """How many such frames to render in one call, as far as memory is known."""
        device = "cpu" if self._network.device.type == "cpu" else "else"
        pixels = min(self._affordable_pixels(spec), BATCH_PIXELS[device])
        return max(1, min(BATCH, int(pixels // self._call_pixels(spec, spec.height, spec.width))))

    def plan(self, jobs: Sequence[Job], spec: FrameSpec) -> CallPlan:
        """How to render the first of `jobs`, and those after it that fit into the same call."""
        height, width = spec.height, spec.width
        whole = self._call_pixels(spec, height, width)
        smaller = finer_grid((1, 1), height, width)
        if whole <= self._affordable_pixels(spec) or not smaller:
            batch = min(len(jobs), self.batch_size(spec))
            can_shrink = batch > 1 or smaller is not None
            plan = CallPlan(self._network, batch, batch * whole, can_shrink)
        else:
            plan = self._plan_tiles(jobs[0], spec)
        self._log_change(plan, spec)
        return plan

    def shrink(self, plan: CallPlan | None, spec: FrameSpec, reason: str) -> None:
        """Makes the next plans smaller than one that ran out of memory.

        Args:
            plan: That one; None, where even planning ran out of memory.
            spec: Of its frames.
            reason: What the allocator said, for the log.

        Raises:
            NotEnoughMemory: There is no smaller plan.
        """
        free_memory(self._network.device)
        self._unlogged_failure = reason
        if plan and plan.can_shrink:
            self._most_pixels = plan.pixels // 2 if plan.batch > 1 else plan.pixels * 3 // 4
        elif self._network.device.type != "cpu":
            self._network = copy_to_cpu(self._network)
            self._most_pixels, self._limit, self._most_logged_tiles = math.inf, None, 0
        else:
            raise NotEnoughMemory(
                f"there is not enough memory to interpolate frames of {spec.width}x{spec.height}, "
                f"not even in small tiles on the CPU: close other programs or make the frames "
                f"smaller ({reason})"
            )

    def _call_pixels(self, spec: FrameSpec, height: int, width: int) -> int:
        """Pixels that the network sees of a frame, or of a tile of one, of this size."""
        multiple = spec.multiple
        return self._views * (height + -height % multiple) * (width + -width % multiple)

    def _affordable_pixels(self, spec: FrameSpec) -> float:
        """Pixels of a call that there is memory for."""
        if self._limit is None:
            self._limit = available_memory(self._network.device)
        needed = self._views * self._network.memory_needed(
            *spec.shape, scale=spec.scale, refine=self._options.refine
        )
        whole = self._call_pixels(spec, spec.height, spec.width)
        return min(self._most_pixels, whole * self._limit / needed)

    def _plan_tiles(self, job: Job, spec: FrameSpec) -> CallPlan:
        """The coarsest grid whose tiles there is memory for, or the finest that there is."""
        height, width = spec.height, spec.width
        network, margin = measure_tile_margin(
            self._network, job.first, job.second, float(job.timestep), spec.scale,
            self._options.ensemble,
        )  # fmt: skip
        most = self._affordable_pixels(spec)
        largest, smaller = math.inf, finer_grid((1, 1), height, width)
        while largest > most and smaller:
            grid, smaller = smaller, finer_grid(smaller, height, width)
            tiles = split_into_tiles(height, width, grid, margin, spec.multiple)
            largest = max(
                self._call_pixels(spec, len(tile.rows), len(tile.columns)) for tile in tiles
            )
        return CallPlan(network, 1, largest, smaller is not None, grid, tiles)

    def _log_change(self, plan: CallPlan, spec: FrameSpec) -> None:
        frames = f"frames of {spec.width}x{spec.height}"
        if self._unlogged_failure:
            log.warning(
                "out of memory: %s are made %s from here on (%s)",
                frames, plan, self._unlogged_failure,
            )  # fmt: skip
        elif len(plan.tiles) > self._most_logged_tiles:
            log.info("%s take more memory than is free: they are made %s", frames, plan)
        self._unlogged_failure = ""
        self._most_logged_tiles = max(self._most_logged_tiles, len(plan.tiles))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether any device says by `error` that there is no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """The first line of the error's message, for the log."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def available_memory(device: torch.device) -> float:
    """Bytes that a run may take on `device`: all that is free, or half of it on devices that other
    programs need, too."""
    backend = getattr(torch, device.type, None)
    if device.type != "cpu" and hasattr(backend, "mem_get_info"):
        free, _ = backend.mem_get_info(device)
        return free + backend.memory_reserved(device) - backend.memory_allocated(device)
    return min(psutil.virtual_memory().available, _free_in_container()) / 2


def _free_in_container(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that a Linux control group (a container, a systemd unit) leaves free, or infinity."""
    try:
        limit = int((folder / "memory.max").read_text())  # "max", where there is no limit
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if "active_file " in line)
    except (OSError, ValueError):
        return math.inf
    return max(0, limit - used + cached)


def free_memory(device: torch.device) -> None:
    """Gives back to `device` the memory of tensors that nothing refers to any more."""
    gc.collect()
    backend = getattr(torch, device.type, None)
    if hasattr(backend, "empty_cache"):
        backend.empty_cache()


def copy_to_cpu(network: Network) -> Network:
    """A copy on the CPU, in float32; takes no memory on the device of `network`."""
    copies: dict[int, Tensor] = {}
    for parameter in network.parameters():
        weight = parameter.detach().to("cpu", copy=True).float()
        copies[id(parameter)] = nn.Parameter(weight, requires_grad=False)
    for buffer in network.buffers():
        copies[id(buffer)] = buffer.to("cpu", copy=True)
    return copy.deepcopy(network, copies)
