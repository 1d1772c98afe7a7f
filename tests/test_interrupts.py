"""Signals end the command line politely, at any moment, with the output whole or not there."""

import os
import pydoc
import signal
import subprocess
import sys
import time
from functools import lru_cache

import pytest

from rife import load_model
from rife.media.writer import VideoWriter
from rife.models.zoo import DEFAULT

from .support.clips import decode_frames
from .support.command_line import ROOT, run_rife

load_once = lru_cache(load_model)
EXIT_STATUS = {name: 128 + getattr(signal, name, 0) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
posix = pytest.mark.skipif(os.name == "nt", reason="signals, pipes and links")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def model(weights):
    return weights("v4.0.safetensors")


def start(*arguments, options=()) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *options, "-m", "rife", *map(str, arguments)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
        # Programs that run these tests in the background have SIGINT ignored, and so all below.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@posix
@pytest.mark.parametrize(
    "how", [how if how == "SIGINT" else pytest.param(how, marks=slow) for how in EXIT_STATUS]
)
def test_an_interrupt_leaves_no_debris(model, clips, tmp_path, how):
    out = tmp_path / "out.mp4"
    process = start("interpolate", clips("bikes"), out, "--model", model)
    deadline = time.monotonic() + 120
    while not any(p.stat().st_size for p in tmp_path.glob("*.mp4")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(getattr(signal, how))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == EXIT_STATUS[how]
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == f"interrupted; {out} was not written"
    assert list(tmp_path.iterdir()) == []


@posix
def test_an_interrupt_while_torch_is_imported_ends_without_a_traceback():
    process = start("models", options=["-X", "importtime"])
    while "torch" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("rife.media.writer.VideoWriter.write", "before"),
        ("rife.media.writer.VideoWriter.close", "before"),
        ("rife.media.writer.VideoWriter.close", "after"),
        ("os.replace", "before"),
        ("os.replace", "after"),
        ("rife.fileio.remove_path", "before"),
        ("os.unlink", "after"),
    ],
)
def test_interrupts_at_any_moment_leave_the_old_file_or_the_new_and_say_which(
    model, short_clip, tmp_path, monkeypatch, call, when, overwrite
):
    out = tmp_path / "out.mp4"
    if overwrite:
        out.write_bytes(b"precious")
    true = pydoc.locate(call)
    monkeypatch.setattr("rife.cli.load_model", load_once)

    def interrupted(*args, **options):
        result = None if when == "before" else true(*args, **options)
        signal.raise_signal(signal.SIGINT)
        return true(*args, **options) if when == "before" else result

    monkeypatch.setattr(call, interrupted)
    stderr = run_rife(
        "interpolate",
        short_clip,
        out,
        "--model",
        model,
        "-m",
        1,
        *["--overwrite"] * overwrite,
        check=130,
    ).stderr
    last = stderr.splitlines()[-1]
    if out.exists() and out.read_bytes() != b"precious":
        assert len(decode_frames(out)) == 12
        assert last == f"interrupted, but {out} is whole already"
    else:
        became = "is as it was" if overwrite else "was not written"
        assert last == f"interrupted; {out} {became}"
    assert list(tmp_path.iterdir()) == [out] * out.exists()


@posix
def test_the_second_interrupt_lets_the_first_clean_up_and_the_third_ends(tmp_path):
    script = f"""
import importlib.util, signal, sys
spec = importlib.util.spec_from_file_location("interrupts", {str(ROOT / "rife/interrupts.py")!r})
interrupts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupts)
signal.signal(signal.SIGINT, signal.default_int_handler)
with interrupts.raise_on_signal() as check:
    check()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as stop:
        print(stop.exit_status)
        signal.raise_signal(signal.SIGTERM)
        print("cleaned up", flush=True)
        try:
            check()
        except interrupts.Interrupted:
            signal.raise_signal(signal.SIGTERM)
print("not reached")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "130\ncleaned up\n"
    assert run.stderr == "\nCleaning up; once more to end at once.\n"
    assert run.returncode == 143


@posix
def test_a_signal_while_python_ends_does_not_change_the_status(tmp_path):
    script = """
import atexit, os, runpy, signal, sys

atexit.register(lambda: [os.kill(os.getpid(), n) for n in (signal.SIGINT, signal.SIGTERM)])
sys.argv = ["rife", "models"]
runpy.run_module("rife", run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert DEFAULT in run.stdout


def test_signals_that_were_ignored_stay_so(model, short_clip, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write = VideoWriter.write
    monkeypatch.setattr(
        VideoWriter, "write", lambda *args: [signal.raise_signal(signal.SIGTERM), write(*args)]
    )
    try:
        run_rife("interpolate", short_clip, tmp_path / "out.mp4", "--model", model, "-m", 1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(decode_frames(tmp_path / "out.mp4")) == 12
