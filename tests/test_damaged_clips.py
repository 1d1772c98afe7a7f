"""Randomly damaged clips: a few of the cases that `tests.fuzz.clips` tries for hours."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")
def test_damaged_clips_are_made_or_refused_in_a_line_and_leave_nothing():
    command = [sys.executable, "-m", "tests.fuzz.clips", "--cases", "12", "--seed", "0"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 cases" in done.stdout
