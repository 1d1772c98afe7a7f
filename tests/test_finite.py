"""Weights that a dtype cannot hold, and frames of NaN, are errors and never pass unnoticed."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rife import (
    CheckpointError,
    NonFiniteError,
    Options,
    interpolate,
    interpolate_stream,
    load_model,
    network_from_state_dict,
    optical_flow,
)
from rife.cli import main
from rife.models.checkpoint import convert
from rife.networks.ifnet_hdv3 import IFNet_HDv3
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4, Parameters
from rife.timeline import Timeline

from .support.seeded import seeded_clip, seeded_images, seeded_state

CHANNELS = (8, 8, 8, 8)
NETWORKS = {
    "plain": lambda: IFNet_v4(Parameters(CHANNELS)),
    "head": lambda: IFNet_v4(Parameters(CHANNELS, planes=13, head=VERSIONS["v4.25 - v4.26"].head)),
    "refine": lambda: IFNet_v4(
        Parameters(CHANNELS, body="prelu", planes=5, shuffle=False, refine=True)
    ),
    "halves": lambda: IFNet_HDv3(1),
}
WEIGHT = "block0.conv0.0.0.weight"
ALL = Options(cuts="ignore")


def state(name="plain", **changes):
    tensors = seeded_state(NETWORKS[name]())
    return tensors | {key: change(tensors[key]) for key, change in changes.items()}


def network(name="plain", gain=1e20):
    """A network whose weights are finite, but whose results are not."""
    model = NETWORKS[name]().eval()
    model.load_state_dict({key: tensor * gain for key, tensor in state(name).items()})
    return model


def flow_is_lost():
    """A network whose flow is infinite, while its frames look like frames."""
    model = NETWORKS["plain"]().eval()
    model.load_state_dict(state())
    with torch.no_grad():
        model.block3.lastconv[0].bias[0] = torch.inf
    return model


def refuses(model, *arguments, function=interpolate, **options):
    with pytest.raises(NonFiniteError) as caught:
        function(model, *arguments, **options)
    message = str(caught.value)
    assert message.startswith(f"{model.version} in {str(model.dtype)[6:]} ") and "\n" not in message
    return message


# Weights

TOO_LARGE = {
    "float16": (torch.float16, 1e6),
    "float16, by rounding": (torch.float16, 65_520 / 0.1),
    "bfloat16": (torch.bfloat16, 3.4e38 / 0.1),
    "float32": (torch.float32, 1e40),
}


@pytest.fixture(params=TOO_LARGE)
def large(request, tmp_path):
    """(file, dtype): a tensor in the file is finite there, but not in that dtype."""
    dtype, factor = TOO_LARGE[request.param]
    kind = torch.float64 if dtype == torch.float32 else torch.float32
    tensor = torch.full(state()[WEIGHT].shape, 0.1, dtype=torch.float64) * factor
    path = tmp_path / "large.safetensors"
    save_file({key: x.to(kind) for key, x in state().items()} | {WEIGHT: tensor.to(kind)}, path)
    return path, dtype


def test_weights_that_a_dtype_cannot_hold_are_refused_when_loaded(large):
    path, dtype = large
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=f"1 of its tensors .*{WEIGHT}.*too large for {name}"):
        load_model(path, "cpu", dtype)
    if dtype != torch.float32:
        with pytest.raises(CheckpointError, match="use float32 .*precision.*--dtype float32"):
            load_model(path, "cpu", dtype)
        assert load_model(path, "cpu", torch.float32).dtype == torch.float32


def test_the_largest_number_that_float16_holds_is_not_refused(tmp_path):
    largest = state(**{WEIGHT: lambda x: torch.full_like(x, 65_519)})
    save_file(largest, tmp_path / "x.safetensors")
    model = load_model(tmp_path / "x.safetensors", "cpu", torch.float16)
    assert model.state_dict()[WEIGHT].max() == 65_504


def test_a_conversion_to_half_size_that_would_lose_weights_is_refused(tmp_path):
    source, target = tmp_path / "x.pth", tmp_path / "y.safetensors"
    torch.save(state(**{WEIGHT: lambda x: x * 1e6}), source)
    with pytest.raises(CheckpointError, match=f"{WEIGHT}.*too large for float16: leave out --half"):
        convert(source, target, half=True)
    assert not target.exists()
    convert(source, target)
    assert load_model(target, "cpu", torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_state_dict_that_lost_weights_is_refused(dtype):
    lost = {key: (x * 1e38 * 1e3).to(dtype) for key, x in state().items()}
    with pytest.raises(CheckpointError, match="too large for .*float16: use float32"):
        network_from_state_dict(lost)


@pytest.mark.parametrize("function", [interpolate, optical_flow])
def test_weights_that_are_lost_later_are_noticed_before_the_first_frame(function):
    model = network_from_state_dict(state(**{WEIGHT: lambda x: x * 1e6}))
    frames = seeded_clip(2, 32, 32)
    message = refuses(model.to(torch.float16), frames, function=function)
    assert "weights that are too large for it: use float32" in message
    with pytest.raises(NonFiniteError):
        next(interpolate_stream(model.half(), frames))


# Frames


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_frame_that_is_not_finite_is_an_error(name, kind):
    frames = seeded_clip(3, 40, 50)
    frames = (frames * 255).to(kind) if kind == torch.uint8 else frames.to(kind)
    message = refuses(network(name), frames, 4, ALL)
    assert "made a frame of NaN or infinite values at 0.25 of the way from input frame 0" in message
    assert "the model file is damaged or altered; get it again" in message


WAYS = [{"tta": True}, {"ensemble": True}, {"refine": True}, {"scale": 0.5}, {"scale": 4}]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_it_is_noticed_whatever_a_run_asks_for(options):
    model = network("refine" if "refine" in options else "plain")
    refuses(model, seeded_clip(2, 40, 50), 2, replace(ALL, **options))
    refuses(model, seeded_clip(2, 40, 50), function=optical_flow, options=Options(**options))


@pytest.mark.parametrize("make", [network, flow_is_lost])
@pytest.mark.parametrize("tta", [False, True])
def test_it_is_noticed_in_tiles(monkeypatch, make, tta):
    monkeypatch.setattr("rife.inference.planner.available_memory", lambda device: 1)
    refuses(make(), seeded_clip(2, 160, 320), 2, replace(ALL, tta=tta))


def test_flow_that_is_not_finite_is_an_error_though_the_frame_looks_like_one():
    frames = seeded_clip(2, 64, 64)
    images = [frame.permute(2, 0, 1)[None] for frame in frames]
    model = flow_is_lost()
    with torch.no_grad():
        motion = model.motion(*map(model.prepare, images))
        assert motion.render(*images).isfinite().all() and not motion.flow.isfinite().all()
    refuses(model, frames, 2, ALL)
    refuses(model, frames, function=optical_flow)
    refuses(model, *images, function=model.__class__.__call__)


def test_the_frame_is_named_and_those_before_it_are_not_lost():
    """The network gives numbers for dark frames, and none for bright ones."""
    model = NETWORKS["plain"]().eval()
    weights = {key: torch.zeros_like(x) if "bias" in key else x for key, x in state().items()}
    weights["block3.conv0.0.0.weight"][:, 6:] = 0  # what isn't colours
    for layer in (0, 1):
        weights[f"block3.conv0.{layer}.0.weight"] *= 1e22
    model.load_state_dict(weights)
    frames = seeded_clip(5, 32, 32)
    frames[:3] *= 1e-30
    result = []
    stream = interpolate_stream(model, frames, Timeline(3))
    with pytest.raises(NonFiniteError, match="at 0.333 of the way from input frame 2 to the next"):
        result.extend(stream)
    assert len(result) == 7 and all(frame.image.isfinite().all() for frame in result)


def test_a_network_as_others_call_it_raises_too():
    images = seeded_images(64, 64)
    with torch.no_grad():
        refuses(network(), images[:, :3], images[:, 3:], function=IFNet_v4.__call__)


def test_sound_frames_are_as_they_were_and_nothing_is_said(caplog):
    model = NETWORKS["plain"]().eval()
    model.load_state_dict(state())
    result = interpolate(model, seeded_clip(3, 40, 50), Fraction(5, 2), ALL)
    assert result.isfinite().all() and not caplog.records


def test_the_command_line_says_it_in_one_line_and_leaves_no_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rife.cli.usable_dtype", lambda dtype, device: dtype)  # on any CPU
    (tmp_path / "in").mkdir()
    for i, frame in enumerate((seeded_clip(2, 32, 32) * 255).byte().numpy()):
        Image.fromarray(frame).save(tmp_path / "in" / f"{i}.png")
    out = tmp_path / "out.mp4"
    for gain, dtype, told in ((1e20, "float32", "made a frame"), (1e6, "float16", "use float32")):
        path = tmp_path / "model.safetensors"
        save_file({key: tensor * gain for key, tensor in state().items()}, path)
        model = ["--model", str(path), "--dtype", dtype, "--device", "cpu", "--cuts", "ignore"]
        assert main(["interpolate", str(tmp_path / "in"), str(out), *model]) == 1
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.search(f"^error: .*{told}", last), last
        assert not out.exists()
