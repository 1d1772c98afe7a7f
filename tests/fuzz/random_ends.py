"""Ends runs at random moments, in each possible manner, and checks what they leave behind.

    python -m tests.fuzz.random_ends [RUNS]

Each run is a process of its own that interpolates a clip with sound over an existing file, on the
CPU or as on a GPU (see `late_device`). RUNS times in each manner it gets a signal, as the command
line, or an exception is raised somewhere in it. The file under the final name must be the old one
or a whole new one; but for SIGKILL, nothing else may be left: no temporary file, thread or open
file; and what SIGKILL leaves is removed by the next run. Linux only.
"""

import contextlib
import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tqdm import TMonitor

from rife import cli, interpolate_file, load_model
from rife.media import open_reader
from rife.media.reader import VideoReader
from rife.media.writer import VideoWriter
from rife.networks.ifnet_v4 import IFNet_v4, Parameters

from ..support.late_device import late
from ..support.processes import open_files
from ..support.seeded import seeded_state
from .clips import H264

FRAMES = 25
OUTPUT = 2 * FRAMES - 1
SIGNALS = {
    "kill": [signal.SIGKILL],
    "terminate": [signal.SIGTERM],
    "interrupt": [signal.SIGINT],
    "interrupt twice": [signal.SIGINT, signal.SIGINT],
    "hang up": [signal.SIGHUP],
}
PLACES = ("progress", "cancel", "writer", "reader")
OLD = b"precious"


class Failure(Exception):
    """Something went wrong in the middle of a run."""


def run_command(weights: Path, clip: Path, out: Path) -> int:
    arguments = ["interpolate", clip, out, "--model", weights, "--device", "cpu", "--overwrite"]
    return cli.main(list(map(str, arguments)))


def run_and_fail(weights: Path, clip: Path, out: Path, *, place: str, calls: int) -> int:
    """Interpolates, and raises Failure after `calls` calls at that place."""
    left = count(calls, -1)

    def fail(*_: object) -> None:
        if next(left) <= 0:
            raise Failure

    write, read = VideoWriter.write, VideoReader.__iter__

    def failing_write(self: VideoWriter, *arguments: object) -> None:
        fail()
        write(self, *arguments)

    def failing_read(self: VideoReader) -> Iterator:
        with contextlib.closing(read(self)) as frames:
            for frame in frames:
                fail()
                yield frame

    hooks = {place: fail} if place in ("progress", "cancel") else {}
    with pytest.MonkeyPatch.context() as patch:
        if place == "writer":
            patch.setattr(VideoWriter, "write", failing_write)
        if place == "reader":
            patch.setattr(VideoReader, "__iter__", failing_read)
        try:
            interpolate_file(load_model(weights, "cpu"), clip, out, overwrite=True, **hooks)
        except Failure:
            return 1
    return 0


def start(run: Callable[[], int], folder: Path, log: Path, is_late: bool) -> int:
    """The id of a process that runs `run`, and checks that no thread or open file is left."""
    polite = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    signal.pthread_sigmask(signal.SIG_BLOCK, polite)
    gc.collect()  # a codec that the child frees waits for its threads, which don't survive a fork
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, polite)
        return child
    status = 99
    try:
        with log.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        for name in polite:
            signal.signal(name, lambda *_: None)  # before and after the run itself
        signal.pthread_sigmask(signal.SIG_UNBLOCK, polite)
        with late() if is_late else contextlib.nullcontext():
            status = run()
        # The progress bar has a thread for all bars to come, and frames have workers for all runs.
        permanent = type(threading.main_thread()), TMonitor
        others = [
            thread
            for thread in threading.enumerate()
            if not isinstance(thread, permanent) and not thread.name.startswith("frame worker")
        ]
        assert not others, others
        gc.collect()
        still_open = [name for name in open_files() if name.startswith(str(folder))]
        assert not still_open, still_open
    except BaseException:
        traceback.print_exc()
        status = 98
    finally:
        os._exit(status)


def is_running(child: int) -> bool:
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, child, options) is None


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def frames_in(path: Path) -> int:
    with open_reader(path) as reader:
        return sum(1 for _ in reader)


def main(runs: int = 25) -> None:
    torch.set_num_threads(1)  # threads don't survive a fork
    rng = random.Random(0)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        log, folder = Path(folder) / "log", Path(folder) / "clips"
        folder.mkdir()
        clip, out = folder / "in.mp4", folder / "out.mp4"
        weights = log.with_name("tiny.safetensors")
        save_file(seeded_state(IFNet_v4(Parameters((8, 8, 8, 8)))), weights)
        H264(path=clip, count=FRAMES)
        whole = {}
        for is_late in False, True:
            begin = time.monotonic()
            status = finish(start(partial(run_command, weights, clip, out), folder, log, is_late))
            assert status == 0, log.read_text()
            whole[is_late] = time.monotonic() - begin
            assert frames_in(out) == OUTPUT
        endings = [*SIGNALS, *PLACES]
        for number, ending in enumerate(endings * runs):
            is_late = bool(number // len(endings) % 2)
            out.write_bytes(OLD)
            label = f"run {number} ({ending}{', late' if is_late else ''})"
            if ending in SIGNALS:
                child = start(partial(run_command, weights, clip, out), folder, log, is_late)
                begin = time.monotonic()
                end = begin + rng.uniform(0, 1.05 * whole[is_late])
                while time.monotonic() < end and is_running(child):
                    time.sleep(0.002)
                if not is_running(child):  # machines are busy now and then
                    whole[is_late] = time.monotonic() - begin
                for name in SIGNALS[ending]:
                    os.kill(child, name)
                    time.sleep(rng.uniform(0, 0.02))
            else:
                calls = rng.randrange(FRAMES if ending == "reader" else OUTPUT)
                run = partial(run_and_fail, weights, clip, out, place=ending, calls=calls)
                child = start(run, folder, log, is_late)
            status = finish(child)
            is_old = out.read_bytes() == OLD
            assert is_old or frames_in(out) == OUTPUT, f"{label}: half a file"
            if ending != "kill":
                assert status in (0, 1, 129, 130, 143), f"{label}: {status}\n{log.read_text()}"
                output = log.read_text()
                assert "Traceback" not in output and "Exception ignored" not in output, output
                assert list(folder.iterdir()) in ([clip, out], [out, clip]), label
            elif len(list(folder.iterdir())) > 2:
                outcomes["kill: left a temporary file"] += 1
                run_command_again = partial(run_command, weights, clip, out)
                assert finish(start(run_command_again, folder, log, is_late)) == 0, log.read_text()
                assert sorted(folder.iterdir()) == [clip, out], f"{label}: not cleaned up"
            outcomes[f"{ending}: {'ended early' if is_old else 'whole'}"] += 1
    for outcome, times in sorted(outcomes.items()):
        print(f"{times:4} {outcome}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
