"""The archive of the Comfy registry, in a ComfyUI that has nothing else."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ..support import archive
from ..support.comfyui import server as comfyui_server
from ..support.comfyui.prompts import images_prompt, saved_images
from ..support.comfyui.server import NAME, NODES, ComfyUI
from ..support.hub import UNPINNED, serving

pytestmark = pytest.mark.comfyui


def test_the_archive_is_all_that_a_new_user_needs(
    comfy: ComfyUI,
    clips: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unpacked for an empty ComfyUI it has its nodes, gets its model, and makes a frame."""
    monkeypatch.setattr(
        comfyui_server, "PACK", archive.install(tmp_path / "rife-frame-interpolation")
    )
    directory, python = Path(os.environ["COMFYUI_DIR"]), comfy.process.args[0]
    with serving(comfy.hub.content) as hub:
        server = ComfyUI(directory, python, tmp_path / "base", hub)
        try:
            server.connect()
            assert set(server.get("/object_info")) >= {*NODES}
            (server.base / "input" / "bikes.mp4").write_bytes(clips("bikes").read_bytes())
            first, middle, last = saved_images(server, images_prompt("bikes.mp4", UNPINNED))
            apart = [np.abs(middle - end.astype(float)).mean() for end in (first, last)]
            assert max(apart) < np.abs(last - first.astype(float)).mean()
            assert min(apart) > 0.5
            took = re.search(rf"[\d.]+ seconds: .*{NAME}", server.log.read_text())
            assert took, "it was not imported without an error"
            print(took[0])  # for people
        finally:
            server.stop()
