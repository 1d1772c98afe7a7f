"""Measures each GPU kernel on its own: Triton's and those in CUDA C, in turns.

A network runs once with each kind of kernels, and every call of a kernel is kept with its
arguments. Each call is then captured 20 times in one CUDA graph, which is replayed. Prints how long
a call takes and how many GB/s it moves, counting the bytes that it has to move: its arguments and
its result, once (of frames, only the pixels that a block reads). Run from the repository's root, on
a machine with a GPU:

    python -m benchmarks.kernels

--registers needs no GPU: it compiles all kernels for several GPUs and prints their registers.
"""

import argparse
import copy
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.peers import NETWORKS
from rife import Network
from rife.engine.engine import Engine
from rife.engine.kernels import nvrtc_kernels
from rife.engine.kernels.estimation import KernelEstimation, kernel_estimation
from rife.engine.kernels.interface import Kernels, RawBlockOutput, load_kernels
from rife.engine.kernels.nvrtc import compiler
from rife.inference.planner import BATCH, BATCH_PIXELS

SIZES = {"480p": (480, 720), "1080p": (1080, 1920)}
LANGUAGES = ("triton", "nvrtc")
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120")
#: Calls in a graph.
CALLS = 20
#: How often each kind is measured, in turns.
ROUNDS = 5


class Call(NamedTuple):
    """One call of a function of a module of kernels.

    Attributes:
        function: Its name.
        arguments: Its positional arguments.
        options: Its keyword arguments.
        name: The same for calls that do the same work.
        bytes: How many it has to move.
    """

    function: str
    arguments: tuple
    options: dict[str, Any]
    name: str
    bytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--network", default="v4.25", choices=NETWORKS)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--registers", action="store_true", help="compile alone, for many GPUs")
    args = parser.parse_args()
    network = copy.deepcopy(NETWORKS[args.network]()).half()
    if args.registers:
        for line in register_table(variants([network]), ARCHITECTURES):
            print(line)
        return
    for size in args.sizes:
        print(*lines_of(compare(network.cuda(), *SIZES[size])), sep="\n")


# Times


def compare(
    network: Network, height: int, width: int, languages: Iterable[str] = LANGUAGES
) -> dict[str, dict[str, Any]]:
    """Measures all calls of kernels that one call of a network makes.

    Returns:
        A row for each call, by its name: how often the network makes it ("calls"), the MB that it
        has to move ("MB"), and its microseconds by language. The last row sums up what a new
        frame takes.
    """
    rows: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        timers: dict[str, dict[str, Callable[[], float]]] = {}
        for language in languages:
            calls, pairs = calls_of(network, height, width, language)
            counts = Counter(call.name for call in calls)
            timers[language] = {}
            for call in calls:
                if call.name not in timers[language]:
                    timers[language][call.name] = make_timer(load_kernels(language), call)
                    row = rows.setdefault(call.name, {"calls": counts[call.name]})
                    row["MB"] = call.bytes / 1e6
        for language in timers:
            for name in timers[language]:
                rows[name][language] = []
        for _ in range(ROUNDS):
            for name in rows:
                for language in timers:
                    if name in timers[language]:
                        rows[name][language].append(timers[language][name]())
    for row in rows.values():
        row |= {language: median(row[language]) for language in languages if language in row}
    sums = {
        language: sum(row["calls"] * row.get(language, 0) for row in rows.values()) / pairs
        for language in languages
    }
    megabytes = sum(row["calls"] * row["MB"] for row in rows.values()) / pairs
    return rows | {
        f"all, of a new frame of {width}x{height}": {"calls": 1, "MB": megabytes, **sums}
    }


def lines_of(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    languages = [key for key in next(reversed(rows.values())) if key not in ("calls", "MB")]
    heads = "".join(f"{language:>12}{'GB/s':>7}" for language in languages)
    yield f"{'':58}{'calls':>6}{'MB':>8}{heads}"
    for name, row in rows.items():
        cells = ""
        for language in languages:
            took = row.get(language)
            cells += f"{took:9.1f} us{1000 * row['MB'] / took:7.0f}" if took else f"{'':19}"
        yield f"{name:58}{row['calls']:6}{row['MB']:8.1f}{cells}"


def calls_of(network: Network, height: int, width: int, language: str) -> tuple[list[Call], int]:
    """Returns the calls of kernels that one call of a network makes, and its number of pairs."""
    calls: list[Call] = []
    kernels = load_kernels(language)

    def record(function: str) -> staticmethod:
        return staticmethod(recording(kernels, function, calls))

    class RecordedEstimation(KernelEstimation):
        finish_convolution = record("finish_convolution")
        if kernels.pack_block_output:
            pack_block_output = record("pack_block_output")

    RecordedEstimation.kernels = type("Recorded", (), {name: record(name) for name in FUNCTIONS})
    multiple = network.side_multiple()
    padded = [-(-side // multiple) * multiple for side in (height, width)]
    device = "cpu" if network.device.type == "cpu" else "else"
    pairs = max(1, min(BATCH, BATCH_PIXELS[device] // (padded[0] * padded[1])))
    engine = Engine(network, RecordedEstimation)
    random = torch.Generator().manual_seed(0)
    images = torch.rand(pairs + 1, 3, *padded, generator=random).to(network.device)
    frames = engine.prepare(images)
    calls.clear()
    indices = (torch.arange(i, pairs + i, device=network.device) for i in (0, 1))
    motion = engine.motion(
        *(frames.with_index(index) for index in indices),
        torch.full((pairs, 1, 1, 1), 0.5, device=network.device), doubling_flags=[],
    )  # fmt: skip
    unpadded = images[:, :, :height, :width].permute(0, 2, 3, 1).contiguous()
    motion.render_frames(unpadded.to(network.dtype))
    return calls, pairs


#: The functions of a module of kernels.
FUNCTIONS = [name for name in vars(Kernels) if not name.startswith("_") and name != "precompile"]


def recording(kernels: Kernels, function: str, calls: list[Call]) -> Callable:
    """Returns the function with its calls recorded in `calls`."""
    launch = getattr(kernels, function)

    def launch_and_record(*arguments: Any, **options: Any) -> Any:
        result = launch(*arguments, **options)
        tensors = list(tensors_of((arguments, options)))
        moved = sum(x.nbytes for x in tensors) + sum(x.nbytes for x in tensors_of(result))
        scale = 1
        if function == "gather_block_input":
            scale = arguments[4].scale
            share_read = 4 / scale**2 if scale > 1 else 1
            moved -= (1 - share_read) * arguments[0].nbytes
        shape = "x".join(map(str, next(tensors_of(result)).shape))
        dtype = str(tensors[0].dtype).removeprefix("torch.")
        details = " ".join(
            word
            for word, is_given in (
                (f"scale {scale}", function == "gather_block_input"),
                (dtype, function == "render_frames"),
                ("residual", function == "finish_convolution" and arguments[3] is not None),
                ("slopes", function == "finish_convolution" and arguments[2] is not None),
            )
            if is_given
        )
        name = f"{function} {shape} {details}".strip()
        calls.append(Call(function, arguments, options, name, moved))
        return result

    return launch_and_record


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in a call's arguments or result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, RawBlockOutput):
        yield value.planes
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_of(each)


def make_timer(kernels: Kernels, call: Call) -> Callable[[], float]:
    """Returns a function that measures a call, as the mean of many, in microseconds."""

    def run() -> None:
        for _ in range(CALLS):
            getattr(kernels, call.function)(*call.arguments, **call.options)

    run()
    if not torch.cuda.is_available():

        def measure_on_cpu() -> float:
            started = time.perf_counter()
            run()
            return 1e6 * (time.perf_counter() - started) / CALLS

        return measure_on_cpu
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        run()
    graph.replay()

    def measure() -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        return 1000 * start.elapsed_time(stop) / CALLS

    return measure


# Registers


def variants(networks: Iterable[Network]) -> list[str]:
    """Returns the kernels in CUDA C, with the arguments of their templates, that networks launch.

    With all options of the networks, on frames in bytes and in the network's dtype.
    """
    names: set[str] = set()
    for network in networks:
        side = network.side_multiple()
        with torch.inference_mode(), nvrtc_kernels.dry_run() as noted:
            for ensemble in {False, "ensemble" in network.options}:
                for refine in {False, "refine" in network.options}:
                    engine = Engine(network, kernel_estimation("nvrtc"))
                    frames = engine.prepare(torch.zeros(2, 3, side, side), refine=refine)
                    pair = (frames.with_index(torch.tensor([i])) for i in (0, 1))
                    motion = engine.motion(
                        *pair, 0.5, ensemble=ensemble, refine=refine, doubling_flags=[]
                    )
                    for dtype in (network.dtype, torch.uint8):
                        for channels in (1, 3, 4):
                            images = torch.zeros(2, side, side, channels, dtype=dtype)
                            motion.render_frames(images)
                            engine.prepare_slot(
                                frames.image_and_features, images, torch.tensor([1])
                            )
                    motion.mask  # noqa: B018
        names |= {name for name, _ in noted}
    return sorted(names)


class Resources(NamedTuple):
    registers: int
    spilled: int


def resources(kernel: str, architecture: str) -> Resources:
    """Returns a thread's registers and the bytes that are spilled, as the compiler reports them."""
    source = nvrtc_kernels.SOURCE_FILE.read_text(encoding="utf-8")
    log = compiler().compile(source, kernel, architecture, "--ptxas-options=-v").log
    registers = int(re.search(r"Used (\d+) registers", log)[1])
    spilled = sum(map(int, re.findall(r"(\d+) bytes (?:spill|stack)", log)))
    return Resources(registers, spilled)


def register_table(kernels: Iterable[str], architectures: Iterable[str]) -> Iterator[str]:
    """Yields the lines of a table in Markdown: each kernel's registers, and what is spilled."""
    yield "| kernel | " + " | ".join(architectures) + " |"
    yield "| --- |" + " --- |" * len(architectures)
    with ThreadPoolExecutor(2) as threads:
        for kernel in kernels:
            needed = threads.map(resources, [kernel] * len(architectures), architectures)
            cells = [
                str(x.registers) + (f" ({x.spilled} B spilled)" * bool(x.spilled)) for x in needed
            ]
            yield f"| `{kernel}` | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
