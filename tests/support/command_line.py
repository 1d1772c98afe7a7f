"""The command line, run as users run it."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from rife.cli import main

ROOT = Path(__file__).parents[2]


def run_rife(*arguments, check=0, env=None, new_process=False) -> subprocess.CompletedProcess:
    """Runs the command line, which must end with exit status `check`. new_process: in a
    process of its own, which takes seconds to start."""
    command = [sys.executable, "-m", "rife", *map(str, arguments)]
    if new_process:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env
        )
    else:
        done = run_in_process(command, env)
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


def run_in_process(command, env) -> subprocess.CompletedProcess:
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            patch.dict(os.environ, env or os.environ, clear=True),
        ):
            code = main(command[3:])
    except SystemExit as stop:
        code = stop.code
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def refusal(*arguments, **options) -> str:
    """Runs the command line, which must fail; returns its error message, one line."""
    message = run_rife(*arguments, check=1, **options).stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    return message
