"""Shows what a GPU does while it interpolates, and whether copies and computing overlap.

Interpolates a clip at 2x, records the device in the middle of the run, prints how long its parts
are busy for each new frame, and draws that. Run from the repository's root, on a machine with a
GPU:

    python -m benchmarks.timeline --size 1920x1080 --seconds 1 --out timeline.png

--trace FILE draws a recording that was kept (a Chrome trace from torch.profiler).
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.peers import NETWORKS
from benchmarks.speed import machine, read_frames, sized
from rife import Network, interpolate

#: Kind of event -> the profiler's category, a word in the event's name, and the colour to draw.
LANES = {
    "upload": ("gpu_memcpy", "HtoD", "#4477aa"),
    "compute": ("kernel", "", "#228833"),
    "download": ("gpu_memcpy", "DtoH", "#ee6677"),
    "copies on the device": ("gpu_memcpy", "DtoD", "#bbbbbb"),
}


class Span(NamedTuple):
    """When an event took place, in microseconds."""

    start: float
    stop: float


def main() -> None:
    args = parse_arguments()
    if args.trace:
        trace, frames = json.loads(args.trace.read_text()), args.frames
    else:
        height, width, _ = sized(args.size, None)
        network = copy.deepcopy(NETWORKS[args.network]()).to("cuda", torch.float16)
        trace, frames = record(network, read_frames(args, height, width, 31), args.seconds)
        print({k: v for k, v in machine(args).items() if k in ("date", "gpu", "torch", "commit")})
    lanes = sort_into_lanes(trace["traceEvents"])
    print(*describe_lanes(lanes, frames), sep="\n")
    if args.out:
        draw_lanes(lanes, args.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--network", default="v4.25", choices=NETWORKS)
    parser.add_argument("--size", default="1920x1080", metavar="SIZE")
    parser.add_argument("--seconds", type=float, default=1, metavar="N", help="that are recorded")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="a video; default: bikes")
    parser.add_argument("--start", type=int, metavar="N", help="its first frame; default: no cut")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="draw this, run nothing")
    parser.add_argument("--frames", type=int, default=1, metavar="N", help="new ones in --trace")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a picture")
    parser.set_defaults(device="cuda")
    return parser.parse_args()


def record(network: Network, frames: Tensor, seconds: float) -> tuple[dict, int]:
    """Records the middle of a run.

    Args:
        network: On the GPU.
        frames: (N, H, W, 3); the run goes back and forth through them.
        seconds: How much is recorded, roughly.

    Returns:
        A Chrome trace, and how many new frames were made meanwhile.
    """
    interpolate(network, frames, 2)
    started = time.perf_counter()
    interpolate(network, frames, 2)
    last = len(frames) - 1
    seconds_per_frame = (time.perf_counter() - started) / 2 / last
    count = max(64, int(3 * seconds / seconds_per_frame))
    back_and_forth = frames[[min(i % (2 * last), 2 * last - i % (2 * last)) for i in range(count)]]
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    first, end = count // 2, min(count // 2 + int(seconds / seconds_per_frame), 2 * count - 4)

    def progress(done: int, *_: object) -> None:
        if done == first:
            profiler.start()
        elif done == end:
            torch.cuda.synchronize()
            profiler.stop()

    interpolate(network, back_and_forth, 2, progress=progress)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return json.loads(file.read_text()), (end - first) // 2


def sort_into_lanes(events: Iterable[dict]) -> dict[str, list[Span]]:
    """Returns the events of each kind in LANES, in order of time; the first starts at 0."""
    lanes: dict[str, list[Span]] = {name: [] for name in LANES}
    for event in events:
        for name, (category, word, _) in LANES.items():
            if event.get("cat") == category and word in event.get("name", ""):
                lanes[name].append(Span(event["ts"], event["ts"] + event["dur"]))
    start = min((span.start for spans in lanes.values() for span in spans), default=0)
    return {
        name: sorted(Span(a - start, b - start) for a, b in spans) for name, spans in lanes.items()
    }


def busy_time(spans: list[Span]) -> float:
    """Returns for how many microseconds at least one of the spans lasts, which are in order."""
    total, reached = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def describe_lanes(lanes: dict[str, list[Span]], frames: int) -> list[str]:
    whole = max((span.stop for spans in lanes.values() for span in spans), default=0)
    busy = {name: busy_time(spans) for name, spans in lanes.items()}
    longest = max(busy, key=busy.__getitem__)
    lines = [
        f"{frames} new frames, {whole / 1000 / frames:.2f} ms each, {1e6 * frames / whole:.0f} /s"
    ]
    lines += [
        f"  {name:20} {time_ / 1000 / frames:6.2f} ms a new frame, {time_ / whole:4.0%} of the time"
        for name, time_ in busy.items()
    ]
    return [*lines, f"the whole is {whole / busy[longest]:.2f} times the longest, {longest}"]


def draw_lanes(lanes: dict[str, list[Span]], file: Path) -> None:
    """Draws the whole recording and, below it, a hundredth of it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    whole = max(span.stop for spans in lanes.values() for span in spans)
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 5), layout="constrained")
    for axes, (low, high) in zip(
        (above, below), ((0, whole), (whole / 2, whole * 0.51)), strict=True
    ):
        for row, (name, spans) in enumerate(reversed(lanes.items())):
            bars = [(a, b - a) for a, b in spans if b > low and a < high]
            axes.broken_barh(bars, (row - 0.4, 0.8), color=LANES[name][2])
        axes.set_yticks(range(len(lanes)), reversed(lanes))
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}")
    below.set_xlabel("ms")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
