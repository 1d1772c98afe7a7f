"""The paper's family against results of CogVideo's code, stored in data/cogvideo_results.npz.

They stand in where that code is not at hand (see test_parity.py). To store them anew:
COGVIDEO_DIR=... python -m tests.test_stored_results
"""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rife.networks.ifnet import IFNet, IFNet_2R, IFNet_m
from rife.networks.ifnet_hdv3 import IFNet_HDv3

from .support.oracles import cogvideo_package
from .support.seeded import seeded_images, seeded_state

FILE = Path(__file__).parent / "data/cogvideo_results.npz"
STEP = 3  # every third row and column is stored

PAPER = {"IFNet": (IFNet, 0.5), "IFNet_m": (IFNet_m, 0.5), "IFNet_2R": (IFNet_2R, 0.6)}


def run_paper(model, gain) -> dict[str, np.ndarray]:
    """The six outputs and the loss's gradients, for 9 channels at timestep 0.3."""
    model.load_state_dict(seeded_state(model, gain))
    x = seeded_images(64, 96, 3)
    flow_list, mask, merged, flow_teacher, merged_teacher, loss = model(x, [4, 2, 1], timestep=0.3)
    (loss + merged[2].mean() + merged_teacher.mean()).backward()
    gradients = torch.stack([p.grad.norm() for _, p in sorted(model.named_parameters())])
    outputs = {
        **{f"flow{i}": flow for i, flow in enumerate(flow_list)},
        "mask": mask,
        **{f"merged{i}": frame for i, frame in enumerate(merged)},
        "flow_teacher": flow_teacher,
        "merged_teacher": merged_teacher,
    }
    stored = {name: x.detach()[..., ::STEP, ::STEP].numpy() for name, x in outputs.items()}
    return stored | {"loss": loss.detach().numpy(), "gradients": gradients.numpy()}


def run_hdv3(model) -> dict[str, np.ndarray]:
    """Flow, mask and frame of the published forward pass, or of ours."""
    model.load_state_dict(seeded_state(model, 0.6))
    x = seeded_images(64, 96)
    with torch.no_grad():
        if isinstance(model, IFNet_HDv3):
            motion = model.motion(model.prepare(x[:, :3]), model.prepare(x[:, 3:]))
            flow, mask, frame = motion.flow, motion.mask, motion.render(x[:, :3], x[:, 3:])
        else:
            flow_list, mask, merged = model(x, scale_list=[4, 2, 1])
            flow, frame = flow_list[2], merged[2]
    outputs = {"flow": flow, "mask": mask, "frame": frame}
    return {name: x[..., ::STEP, ::STEP].numpy() for name, x in outputs.items()}


def assert_as_stored(name: str, ours: dict[str, np.ndarray]) -> None:
    stored = np.load(FILE)
    for output, value in ours.items():
        theirs = stored[f"{name}.{output}"]
        tolerance = 1e-4 * np.abs(theirs).max() if output == "gradients" else 1e-5
        assert np.abs(value - theirs).max() <= tolerance, output


@pytest.mark.parametrize("name", PAPER)
def test_paper_family_gives_the_stored_results(name):
    model, gain = PAPER[name]
    assert_as_stored(name, run_paper(model(), gain))


def test_hdv3_gives_the_stored_results():
    assert_as_stored("IFNet_HDv3", run_hdv3(IFNet_HDv3()))


def store() -> None:
    name = cogvideo_package(os.environ["COGVIDEO_DIR"])
    networks = {"IFNet": "IFNet", "IFNet_m": "IFNet_m", "IFNet_2R": "IFNet"}
    results = {}
    for module, network in networks.items():
        theirs = getattr(importlib.import_module(f"{name}.{module}"), network)()
        outputs = run_paper(theirs, PAPER[module][1])
        results |= {f"{module}.{output}": value for output, value in outputs.items()}
    theirs = importlib.import_module(f"{name}.IFNet_HDv3").IFNet()
    results |= {f"IFNet_HDv3.{output}": value for output, value in run_hdv3(theirs).items()}
    np.savez_compressed(FILE, **results)


if __name__ == "__main__":
    store()
