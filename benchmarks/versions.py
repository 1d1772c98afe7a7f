"""Speed and memory of two checkouts of this repository, in turns: whether a change costs anything.

    python -m benchmarks.versions OTHER_DIR [--rounds 5] [--threads 2] [--only NAME]

OTHER_DIR is another checkout, such as `git worktree add ../before COMMIT`. Each case runs in two
processes, one a checkout, which wait while the other works; rounds alternate which is first. A
ratio is this checkout's time by the other's in the same round: 1.01 is a hundredth slower. CPU time
counts all threads, and says more than the clock where other programs run beside. Memory is the peak
of the resident memory of processes that do nothing else. Weights are random, frames a clip that
pans.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What each case interpolates 2x: frames in memory or a file, their number and size.
CASES = {
    "frames, 720x480": ("frames", 8, 480, 720),
    "frames, 1920x1080": ("frames", 3, 1080, 1920),
    "frames, 192x128": ("frames", 48, 128, 192),
    "file to file, 720x480": ("file", 12, 480, 720),
    "file to file, 192x128": ("file", 100, 128, 192),
}

#: Run in a checkout, with nothing but names that all versions have. Reads a line for each run.
WORKER = """
import json, os, resource, sys, time
import av, numpy as np, torch
from rife import interpolate, interpolate_file
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4

kind, count, height, width, folder = json.loads(sys.argv[1])
torch.manual_seed(0)
model = IFNet_v4(VERSIONS["v4.25 - v4.26"]).eval()
base = torch.rand(3, height // 8 + 2, (width + 2 * count) // 8 + 2)
base = torch.nn.functional.interpolate(base[None], scale_factor=8, mode="bicubic")[0].clamp(0, 1)
frames = torch.stack(
    [base[:, :height, 2 * i : 2 * i + width].permute(1, 2, 0) for i in range(count)]
).contiguous()
source, target = os.path.join(folder, "in.mp4"), os.path.join(folder, f"{os.getpid()}.mp4")
if kind == "file" and not os.path.exists(source):
    with av.open(source, "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in (frames * 255).byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def run():
    if kind == "frames":
        interpolate(model, frames, 2, cuts="ignore")
    else:
        interpolate_file(model, source, target, overwrite=True)


print("ready", flush=True)
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    row = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    row["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(row), flush=True)
"""


class Checkout:
    """A process that runs a case in a checkout, when it is told to."""

    def __init__(self, folder: Path, case: tuple, threads: int):
        environment = dict(os.environ, PYTHONPATH=str(folder), OMP_NUM_THREADS=str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(case)],
            cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._process.stdout.readline()

    def run(self) -> dict[str, float]:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", type=Path, metavar="OTHER_DIR")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N")
    parser.add_argument("--only", default="", metavar="NAME", help=f"part of: {', '.join(CASES)}")
    args = parser.parse_args()
    print("| case | seconds | CPU seconds | ratio | ratio of CPU time | memory, MB | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, case in CASES.items():
        if args.only in name:
            print(f"| {name} | {row(case, args.other.resolve(), args.rounds, args.threads)} |")


def row(case: tuple, other: Path, rounds: int, threads: int) -> str:
    """The cells of a case; ratios are medians over the rounds, with the lowest and the highest."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (Checkout(at, (*case, folder), threads) for at in (ROOT, other))
        for checkout in (ours, theirs):
            checkout.run()  # the first one finds its memory
        pairs = []
        for number in range(rounds):
            order = (ours, theirs) if number % 2 else (theirs, ours)
            results = {checkout: checkout.run() for checkout in order}
            pairs.append((results[ours], results[theirs]))
        ours.close()
        theirs.close()
    cells = [
        f"{statistics.median(mine[what] for mine, _ in pairs):.2f}" for what in ("wall", "cpu")
    ]
    for what in ("wall", "cpu"):
        ratios = sorted(mine[what] / its[what] for mine, its in pairs)
        cells.append(f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} - {ratios[-1]:.3f})")
    mine, its = (run["memory"] for run in pairs[-1])
    return " | ".join([*cells, f"{mine:.0f}", f"{mine / its:.3f}"])


if __name__ == "__main__":
    main()
