"""What the terminal gets: printable text, a progress bar, and whole lines beside it."""

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from rife.cli import main
from rife.console import UnfailingStream, print_error, printable, progress_bar, unfailing_console

from .support.clips import decode_frames
from .support.command_line import ROOT, run_rife

posix = pytest.mark.skipif(os.name == "nt", reason="signals, pipes and links")
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b31m", r"\x9b31m"),  # the same as ESC [
        ("gpj.\u202e4pm", r"gpj.\u202e4pm"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff.mp4", r"\udcff.mp4"),  # a byte that is no text
        ("é 中　文 می‌خواهم 👩‍🚀 \\x1b", "é 中　文 می‌خواهم 👩‍🚀 \\x1b"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled_out(text, shown):
    assert printable(text) == shown


def test_a_megabyte_is_cut_in_the_middle():
    shown = printable("begin" + "x" * 10**6 + "end")
    assert len(shown) < 2100
    assert shown.startswith("beginx") and shown.endswith("xend")


class Broken(io.StringIO):
    def write(self, _):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stream", [None, Broken(), "closed"])
def test_writing_to_what_is_gone_is_no_error(stream):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    unfailing = UnfailingStream(stream)
    print("text", file=unfailing, flush=True)
    assert (unfailing.failure is None) == (stream is None)


def test_a_bar_and_the_log_and_an_error_have_lines_of_their_own(capsys):
    with unfailing_console():
        with progress_bar("in\n.mp4", unit="frame") as report:
            logging.getLogger("rife").warning("first\n\x1b[1m%s", "\udcff")
            report(1, 10, None)
            logging.getLogger("rife").info("second")
            report(9, 10, None)
        with pytest.raises(ValueError), progress_bar("half", unit="frame") as report:
            report(3, 10)
            raise ValueError
        print_error("last")
    lines = capsys.readouterr().err.split("\n")
    for line in (r"first\n\x1b[1m\udcff", "second", "last"):
        assert line in lines
    ends = [line.rpartition("\r")[2] for line in lines if "frame" in line]
    assert any(line.startswith(r"in\n.mp4: 100%") and "9/9" in line for line in ends)
    assert "3/10" in ends[-1]


@pytest.fixture(scope="module")
def model(weights):
    return weights("v4.0.safetensors")


@posix
@pytest.mark.parametrize("where", ["stdout", "stderr"])
@pytest.mark.parametrize(
    "how", ["gone", *(pytest.param(how, marks=slow) for how in ("closed", "full"))]
)
def test_a_file_is_written_whoever_reads_its_name(short_clip, model, tmp_path, where, how):
    """The name is printed when the file is there already: that can't fail any more."""
    if how == "full" and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    number = {"stdout": 1, "stderr": 2}[where]
    redirected = {"closed": f"{number}>&-", "full": f"{number}>/dev/full", "gone": "| true"}[how]
    if how == "gone" and where == "stderr":
        redirected = "2>&1 >&3 3>&- | true"
    script = f'"$@" {redirected}; echo "${{PIPESTATUS[0]}}" >&4'
    read, write = os.pipe()
    run = subprocess.run(
        ["bash", "-c", f"exec 4>&{write}; exec 3>&1; {script}", "bash", sys.executable, "-m",
         "rife", "interpolate", short_clip, tmp_path / "é\u4e2d.mp4", "--model", model, "-m", "1"],
        cwd=ROOT, capture_output=True, text=True, pass_fds=[write],
    )  # fmt: skip
    os.close(write)
    with open(read) as status:
        assert status.read() == "0\n"
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert len(decode_frames(tmp_path / "é\u4e2d.mp4")) == 12


@posix
def test_a_report_that_nobody_can_read_is_an_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):
        assert main(["models"]) == 1
        os.set_blocking(full.fileno(), True)


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=slow)])
def test_names_are_printed_in_any_encoding(short_clip, model, tmp_path, encoding):
    folder = tmp_path / "\u4e2d\x1b[31m"
    folder.mkdir()
    out = folder / "o.mp4"
    done = run_rife(
        "interpolate", short_clip, out, "--model", model, "-m", 1,
        new_process=True, env=os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"},
    )  # fmt: skip
    assert "\\x1b[31m" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "\\u4e2d" in done.stdout
    assert len(decode_frames(out)) == 12


def test_a_warning_has_a_line_of_its_own_and_the_bar_ends_at_its_total(model, tmp_path):
    clip = tmp_path / "in\n\x1b[2J.mp4"
    with av.open(str(clip), "w", format="mp4") as target:
        video = target.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        for i in (0, 1, 2, 3, 40):  # by its length and rate, it had more
            image = np.full((48, 64, 3), 40 * i % 255, np.uint8)
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = i, Fraction(1, 25)
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
    done = run_rife(
        "interpolate", clip, tmp_path / "out.mp4", "--model", model, "--slow-motion",
        "--target-fps", 30, "--cuts", "ignore",
    )  # fmt: skip
    lines = done.stderr.split("\n")
    assert not [line for line in lines if "frame/s" in line and "even" in line]
    assert "\x1b" not in done.stdout + done.stderr
    bar = re.findall(r"(\d+)/(\d+)", lines[-2])
    assert bar and bar[-1][0] == bar[-1][1]
