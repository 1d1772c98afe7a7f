"""A real ComfyUI for the tests beside this file, driven through its HTTP API.

COMFYUI_DIR names a ComfyUI checkout and COMFYUI_PYTHON the Python that runs it (default: the one
running the tests). COMFYUI_FRONTEND may name a folder that holds another page than the checkout's
own (`static` of the package comfyui-frontend-package), and COMFYUI_PACKS folders of other packs to
install beside this one, for the workflows that use them. The server gets a base directory of its
own, so the checkout stays as it is.
"""

import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from ..support.comfyui.server import OTHER_PACK, ComfyUI
from ..support.hub import serving


@pytest.fixture(scope="session")
def comfy(
    tmp_path_factory: pytest.TempPathFactory, weights: Callable[[str], Path]
) -> Iterator[ComfyUI]:
    """A ComfyUI with this pack, v4.0 in models/rife, v3.8 in models/frame_interpolation and what
    says that it is rife47.pth in another pack. Its Hugging Face Hub has v3.8 under every name."""
    directory = os.environ.get("COMFYUI_DIR")
    if not directory:
        pytest.skip("COMFYUI_DIR names no ComfyUI")
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    base = tmp_path_factory.mktemp("comfyui") / "base"
    with serving(weights("v3.8").read_bytes()) as hub:
        server = ComfyUI(Path(directory), python, base, hub)
        try:
            for version, target in (
                ("v4.0", "models/rife/v4.0.pkl"),
                ("v3.8", "models/frame_interpolation/v3.8.pkl"),
                ("v4.0", f"{OTHER_PACK}/rife47.pth"),
            ):
                (base / target).write_bytes(weights(version).read_bytes())
            server.connect()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def clip(comfy: ComfyUI, clips: Callable[[str], Path]) -> str:
    """49 frames of 720x480 at 8 fps, as CogVideoX makes them: a file name of the input folder."""
    path = comfy.base / "input" / "clip.mp4"
    with av.open(str(clips("bikes"))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=8, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 720, 480, "yuv420p"
        for index, frame in enumerate(source.decode(video=0)):
            if index == 49:
                break
            scaled = frame.reformat(720, 480, "yuv420p")
            scaled.pts, scaled.time_base = index, Fraction(1, 8)
            target.mux(stream.encode(scaled))
        target.mux(stream.encode(None))
    return path.name


@pytest.fixture(scope="session")
def talking(comfy: ComfyUI, clips: Callable[[str], Path]) -> str:
    """The first second of a real clip with its sound, made small: 25 frames at 25 fps."""
    path = comfy.base / "input" / "talking.mp4"
    with av.open(str(clips("bigbuckbunny"))) as source, av.open(str(path), "w") as target:
        video = target.add_stream("libx264", rate=25, options={"crf": "12"})
        video.width, video.height, video.pix_fmt = 192, 112, "yuv420p"
        sound = target.add_stream_from_template(source.streams.audio[0])
        index = 0
        for packet in source.demux(video=0, audio=0):
            if packet.stream.type == "audio":
                if packet.size and packet.pts * packet.time_base < 1:
                    packet.stream = sound
                    target.mux(packet)
                continue
            for frame in packet.decode():
                if index < 25:
                    scaled = frame.reformat(192, 112, "yuv420p")
                    scaled.pts, scaled.time_base = index, Fraction(1, 25)
                    target.mux(video.encode(scaled))
                    index += 1
        target.mux(video.encode(None))
    return path.name
