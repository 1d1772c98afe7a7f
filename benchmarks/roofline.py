"""Compares interpolation with what the machine can do at best (a roofline).

Counts, for each network and size, the arithmetic of its convolutions for a new frame and the bytes
that they have to move: each convolution's input, output and weights once, the input and output
frames once. Warping, resizing and activations are left out, so both are lower bounds. Then measures
what this machine reaches in a large matrix product, in a convolution of 64 channels and in copying
memory, and prints how much of that the results of benchmarks.speed reach. Run from the repository's
root:

    python -m benchmarks.roofline --results results.json --out results.json
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import NETWORKS
from benchmarks.speed import SIZES, save, size_of, sized
from rife import Network, Options

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="SIZE")
    parser.add_argument("--results", type=Path, metavar="FILE", help="of benchmarks.speed")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results, added to if there")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU")
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="of which the best counts")
    parser.add_argument("--small", action="store_true", help="small ceilings, to try this out")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with torch.inference_mode():
        limits = ceilings(args.device, args.runs, 8 if args.small else 1)
        for name, value in limits.items():
            unit = "GB/s" if name == "copy" else "GFLOP/s"
            print(f"{name:24} {value / 1e9:8.1f} {unit}")
        setup = {"device": args.device, "threads": torch.get_num_threads()}
        save(args, "ceilings", {" | ".join(map(str, setup.values())): {**setup, **limits}})
        for name in args.networks:
            network = NETWORKS[name]()
            rows = [work_row(name, network, *sized(size, None)[:2]) for size in args.sizes]
            save(args, "work", {f"{name} | {size_of(row)}": row for row in rows})
            for row in rows:
                print(
                    f"{name:12} {size_of(row)}: a new frame at 2x takes "
                    f"{row['flops'] / 1e9:.1f} GFLOP, {row['bytes']['float32'] / 1e9:.2f} GB "
                    f"({row['bytes']['bfloat16'] / 1e9:.2f} in bfloat16)"
                )
    if args.results:
        with torch.inference_mode():
            rows = shares(json.loads(args.results.read_text()), limits, args)
        save(args, "shares", rows)
        print(*map(in_words, rows.values()), sep="\n")


# The work


class Layer(NamedTuple):
    """The work of one convolution for a new frame.

    Attributes:
        flops: Additions and multiplications.
        values: Of its input and its output.
        weights: Of its kernel.
    """

    flops: float
    values: float
    weights: float

    def bytes(self, precision: str) -> float:
        return BYTES[precision] * (self.values + self.weights)


def work(
    network: Network, height: int, width: int, multiplier: int, scale: float
) -> tuple[list[Layer], float]:
    """Counts the work for one new frame in the middle of a clip.

    Returns:
        The work of each convolution, and the bytes of the input and output frames.
    """
    # Counted on the smallest frames: all but the weights grows with the pixels.
    side = network.side_multiple(scale)
    growth = (height + -height % side) * (width + -width % side) / side**2
    image = torch.zeros(1, 3, side, side)
    # One of the two input frames is new, and is prepared once for all timesteps. By recursion,
    # where only midpoints can be had, each output frame is prepared, too.
    share = 1 / (multiplier - 1) if network.any_timestep else 1
    preparing = [
        Layer(*(share * x for x in layer))
        for layer in count_convolutions(network, network.prepare, image)
    ]
    frame = network.prepare(image)
    motion = partial(network.motion, scale=scale)
    estimating = count_convolutions(network, motion, frame, frame)
    layers = [Layer(growth * f, growth * v, w) for f, v, w in preparing + estimating]
    return layers, 4 * 3 * height * width * (1 + 2 / (multiplier - 1))


def count_convolutions(network: nn.Module, run: Callable, *arguments: object) -> list[Layer]:
    """Runs `run` and returns the work of each convolution of the network in it."""
    convolutions = []

    def count(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,) = inputs
        # Each value of an output (of an input, if transposed) meets one channel's weights.
        side = x if isinstance(layer, nn.ConvTranspose2d) else output
        flops = 2 * side.numel() * layer.weight[0].numel()
        convolutions.append(Layer(flops, x.numel() + output.numel(), layer.weight.numel()))

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    run(*arguments)
    for hook in hooks:
        hook.remove()
    return convolutions


def work_row(name: str, network: Network, height: int, width: int) -> dict:
    """Returns the work of a new frame at 2x, at the scale that is the default for its size."""
    scale = Options().scale_for(height, width)
    layers, frames = work(network, height, width, 2, scale)
    return {
        "network": name,
        "height": height,
        "width": width,
        "scale": scale,
        "flops": sum(layer.flops for layer in layers),
        "bytes": {p: frames + sum(layer.bytes(p) for layer in layers) for p in BYTES},
    }


# The machine


def ceilings(device: str, runs: int, smaller: int) -> dict[str, float]:
    """Measures FLOP/s and bytes/s, the best of several runs.

    Args:
        device: "cpu" or "cuda".
        runs: How many.
        smaller: Divides the sizes of matrices, images and memory.
    """
    limits = {}
    for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16):
        precision = str(dtype).removeprefix("torch.")
        n = (2048 if device == "cpu" else 8192) // smaller
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        seconds = best(lambda a=a, b=b: a @ b, device, runs)
        limits[f"matmul {precision}"] = 2 * n**3 / seconds
        side = 512 // smaller
        x = torch.randn(1, 64, side, side, device=device, dtype=dtype)
        weight = torch.randn(64, 64, 3, 3, device=device, dtype=dtype)
        x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
        seconds = best(lambda x=x, w=weight: F.conv2d(x, w, padding=1), device, runs)
        limits[f"convolution {precision}"] = 2 * 64 * 64 * 9 * side**2 / seconds
    size = 2**28 // smaller  # bytes: larger than any cache
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    limits["copy"] = 2 * size / best(lambda: target.copy_(source), device, runs)
    return limits


def best(run: Callable[[], object], device: str, runs: int) -> float:
    """Runs `run` several times; returns the fewest seconds. The first one is for warming up."""
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


# What was reached


def shares(results: dict, limits: dict[str, float], args: argparse.Namespace) -> dict[str, dict]:
    """Computes what share of the limits our rows of benchmarks.speed reach.

    Returns:
        A row for each, with its shares of "matmul", "convolution" and "copy". "both" compares with
        a machine that has nothing to do but each convolution, at the limit of computing or of
        copying, whichever takes longer.
    """
    setup = (args.device, torch.get_num_threads())
    rows, networks = {}, {}
    for key, row in results.get("speed", {}).items():
        name, precision = row["network"], row.get("precision")
        if (row["device"].split(",")[0], row["threads"]) != setup or not row[
            "contender"
        ].startswith("ours"):
            continue
        if name not in args.networks or f"matmul {precision}" not in limits:
            continue
        networks[name] = networks.get(name) or NETWORKS[name]()
        size = row["height"], row["width"]
        layers, frames = work(networks[name], *size, row["multiplier"], row["scale"])
        seconds = median(row["seconds"]) / row["new"]
        flops = sum(layer.flops for layer in layers)
        moved = frames + sum(layer.bytes(precision) for layer in layers)
        peak, copy = limits[f"convolution {precision}"], limits["copy"]
        least = sum(max(x.flops / peak, x.bytes(precision) / copy) for x in layers)
        columns = ("network", "height", "width", "multiplier", "contender", "device", "threads")
        rows[key] = {
            **{k: row[k] for k in columns},
            "seconds": seconds,
            "flops": flops,
            "bytes": moved,
            "matmul": flops / limits[f"matmul {precision}"] / seconds,
            "convolution": flops / peak / seconds,
            "copy": moved / copy / seconds,
            "both": (least + frames / copy) / seconds,
        }
    return rows


def in_words(row: dict) -> str:
    return (
        f"{row['network']:12} {size_of(row)} {row['multiplier']}x "
        f"{row['contender']:15} {1000 * row['seconds']:9.1f} ms, "
        f"{row['flops'] / row['seconds'] / 1e9:7.1f} GFLOP/s: {row['matmul']:4.0%} of matmul, "
        f"{row['convolution']:4.0%} of convolution; {row['copy']:4.0%} of copy; "
        f"{row['both']:4.0%} of both"
    )


if __name__ == "__main__":
    main()
