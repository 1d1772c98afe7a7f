"""A node pack for the ComfyUI of the tests: it outputs values that other packs may output, and
shows what they get.

`server.py` installs it; the imports are for the expressions that tests send.
"""

import shutil  # noqa: F401
from fractions import Fraction  # noqa: F401
from io import BytesIO  # noqa: F401
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import InputImpl, Types  # noqa: F401


class OddValue:
    """Outputs the value of a Python expression, as a type that fits every input."""

    RETURN_TYPES = ("*",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"expression": ("STRING", {})}}

    def make(self, expression: str) -> tuple[object]:
        return (eval(expression),)  # noqa: S307


class ShowVideo:
    """Writes what ComfyUI itself decodes of a VIDEO to a file in the output folder."""

    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"video": ("VIDEO",), "name": ("STRING", {})}}

    def show(self, video: object, name: str) -> dict:
        shown = dict(vars(video.get_components()))
        shown["metadata"] = dict(shown["metadata"] or {})
        for ask in ("get_bit_depth", "get_color_space", "get_dimensions"):
            shown[ask] = getattr(video, ask, lambda: None)()
        folder = Path(folder_paths.get_output_directory())
        folder.mkdir(exist_ok=True)
        torch.save(shown, folder / f"{name}.pt")
        return {}


NODE_CLASS_MAPPINGS = {"OddValue": OddValue, "ShowVideo": ShowVideo}
