"""Imports published code to compare with, without running its __init__."""

import sys
import types
from pathlib import Path


def package(name: str, folder: Path) -> types.ModuleType:
    """Make `folder` importable as package `name`, whatever had that name before."""
    for loaded in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
        del sys.modules[loaded]
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    return module


def cogvideo_package(checkout: str | Path) -> str:
    """The name under which a checkout of CogVideo has its RIFE networks importable."""
    package("cogvideo_rife", Path(checkout) / "inference/gradio_composite_demo/rife")
    return "cogvideo_rife"
