"""Ends runs at random moments, in every way a run can end, and looks at what they leave behind.

    python -m tests.random_ends MODEL [RUNS]

Each run is a process of its own that interpolates a clip over an existing file. It is killed,
terminated, interrupted, or fails, up to the time that a whole run takes. The file under the final
name must be the old one or a whole new one; a run that could clean up must have; and the next run
must be right. POSIX only.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from rife import interpolate_file, load_model
from rife.media import open_reader

from .test_video import make

FRAMES = 12
WAYS = ("kill", "terminate", "interrupt", "fail")


class Failure(Exception):
    """Something went wrong in the middle of a run."""


def run(model, clip: Path, out: Path, fail_after: float = float("inf")) -> None:
    end = time.monotonic() + fail_after

    def cancel() -> None:
        if time.monotonic() > end:
            raise Failure

    interpolate_file(model, clip, out, overwrite=True, cancel=cancel)


def in_child(way: str, after: float, *arguments) -> int:
    """The exit status of a run that is ended `after` so many seconds."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run(*arguments, **({"fail_after": after} if way == "fail" else {}))
            status = 0
        except (KeyboardInterrupt, Failure):
            status = 1
        finally:
            os._exit(status)
    if way != "fail":
        time.sleep(after)
        signals = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
        os.kill(child, signals[way])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count(path: Path) -> int:
    with open_reader(path) as reader:
        return sum(1 for _ in reader)


def main(weights: str, runs: int = 100) -> None:
    torch.set_num_threads(1)  # threads don't survive a fork
    model = load_model(weights, "cpu")
    chance = random.Random(0)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        clip, out = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        make(clip, count=FRAMES, audio="aac")
        start = time.monotonic()
        run(model, clip, out)
        whole = time.monotonic() - start
        assert count(out) == 2 * FRAMES - 1
        for number in range(runs):
            way = WAYS[number % len(WAYS)]
            out.write_bytes(b"precious")
            status = in_child(way, chance.uniform(0, 1.1 * whole), model, clip, out)
            left = out.read_bytes() == b"precious"
            assert left or count(out) == 2 * FRAMES - 1, f"run {number} ({way}): half a file"
            assert status != 3, f"run {number} ({way}): not its own end"
            debris = [path for path in Path(folder).iterdir() if path not in (clip, out)]
            assert way == "kill" or not debris, f"run {number} ({way}): {debris}"
            for path in debris:
                path.unlink()
            found[f"{way}: {'ended early' if left else 'whole'}"] += 1
            if number % 10 == 9:
                run(model, clip, out)
                assert count(out) == 2 * FRAMES - 1
    for what, times in sorted(found.items()):
        print(f"{times:4} {what}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
