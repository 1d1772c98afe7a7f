"""What the engine's two numbers rest on: pixels of a strip, and pixels of a call.

Doubles a clip at several sizes with v4.25 (random weights of its shape), by each number in turn and
again and again, so that what else the machine does meets all alike, and prints the lowest and the
median time of a new frame. Run from the repository's root:

    python -m benchmarks.constants [--dtype bfloat16] [--rounds 5] [--threads N]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

import rife.engine.block_input
import rife.inference.planner
from benchmarks.peers import NETWORKS
from rife import Network, Options, interpolate

FRAMES = 10
SIZES = ((128, 192), (256, 384), (480, 720))
STRIPS = (12288, 24576, 49152, 98304, 10**12)
CALLS = (1, 100_000, 200_000, 400_000, 800_000, 1_200_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    network = NETWORKS["v4.25"]().to(getattr(torch, args.dtype))
    print("| what | size | pixels | lowest, ms | median, ms |\n| --- | --- | ---: | ---: | ---: |")
    for height, width in SIZES:
        clip = moving(height, width)
        compare("strip", STRIPS, set_strip, network, clip, args.rounds)
        compare("call", CALLS, set_call, network, clip, args.rounds)


def set_strip(pixels: int) -> None:
    rife.engine.block_input.STRIP_PIXELS = pixels


def set_call(pixels: int) -> None:
    rife.inference.planner.BATCH_PIXELS["cpu"] = pixels


def moving(height: int, width: int) -> Tensor:
    """(FRAMES, H, W, 3): smooth noise that moves by 5 pixels to the left and 3 upwards."""
    small = torch.rand(1, 3, height // 8 + 8, width // 8 + 8, generator=torch.manual_seed(0))
    large = F.interpolate(small, scale_factor=8, mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    views = [large[3 * i : 3 * i + height, 5 * i : 5 * i + width] for i in range(FRAMES)]
    return torch.stack(views)


def compare(
    what: str,
    numbers: Sequence[int],
    choose: Callable[[int], None],
    network: Network,
    clip: Tensor,
    rounds: int,
) -> None:
    usual = rife.engine.block_input.STRIP_PIXELS, rife.inference.planner.BATCH_PIXELS["cpu"]
    times: dict[int, list[float]] = {number: [] for number in numbers}
    for _ in range(1 + rounds):
        for number in numbers:
            choose(number)
            start = time.perf_counter()
            interpolate(network, clip, 2, Options(cuts="ignore"))
            times[number].append(1000 * (time.perf_counter() - start) / (FRAMES - 1))
    rife.engine.block_input.STRIP_PIXELS, rife.inference.planner.BATCH_PIXELS["cpu"] = usual
    size = "{1}x{0}".format(*clip.shape[1:3])
    for number, (_, *measured) in times.items():  # the first warms up
        shown = f"{number:,}" if number < 10**12 else "all"
        print(f"| {what} | {size} | {shown} | {min(measured):.1f} | {median(measured):.1f} |")


if __name__ == "__main__":
    main()
