"""A pack of one node for the ComfyUI of these tests, which gives what nodes of others may give.

`conftest.py` installs it; the imports are for the expressions that tests send.
"""

import shutil  # noqa: F401
from fractions import Fraction  # noqa: F401
from io import BytesIO  # noqa: F401

import torch  # noqa: F401
from comfy_api.latest import InputImpl, Types  # noqa: F401


class OddValue:
    """Gives what a Python expression makes, as a type that fits every input."""

    RETURN_TYPES = ("*",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"expression": ("STRING", {})}}

    def make(self, expression: str) -> tuple[object]:
        return (eval(expression),)  # noqa: S307


NODE_CLASS_MAPPINGS = {"OddValue": OddValue}
