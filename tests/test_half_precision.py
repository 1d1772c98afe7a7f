"""float16 and bfloat16 against float32, on real weights and frames, up to 4096x2304.

Upstream's float16 falls apart beyond 2048 pixels, since it computes coordinates in it.

CPUs take minutes for a frame in float16, so here it is emulated: what each layer takes and gives
and its weights are rounded to float16, sums are float32, which is what GPUs do. That this is
faithful is tested too, on a small window.
"""

import pytest
import torch

from rife import interpolate, load_model
from rife.engine.layers import FusedConvolution, fuse_layers

from .support.quality import psnr, scaled_pair, worst_tile


def rounded(x):
    if isinstance(x, list | tuple):  # a layer's input in parts, or its padding
        return [rounded(part) for part in x]
    return x.half().float() if torch.is_tensor(x) else x


@pytest.fixture
def emulated(monkeypatch):
    """emulated(model, frames): the result of `interpolate` in emulated float16."""

    def fuse_and_round(network, finish):
        fused = fuse_layers(network, finish)
        for module in fused.modules():
            if isinstance(module, FusedConvolution):
                module.register_forward_pre_hook(lambda _, inputs: tuple(map(rounded, inputs)))
                module.register_forward_hook(lambda *args: rounded(args[-1]))
        return fused

    def run(model, frames):
        with monkeypatch.context() as patch:
            patch.setattr("rife.engine.engine.fuse_layers", fuse_and_round)
            return interpolate(model.half().float(), frames)

    return run


@pytest.mark.parametrize("version", ["v4.0", "v3.8"])
def test_emulated_float16_is_float16(clips, weights, version, emulated):
    frames = scaled_pair(clips("bikes"), 40, 272, 640)[:, :64, 200:264]
    true = interpolate(load_model(weights(version), "cpu", torch.float16), frames)[1]
    almost = emulated(load_model(weights(version), "cpu"), frames)[1]
    reference = interpolate(load_model(weights(version), "cpu"), frames)[1]
    assert psnr(true - reference) < 110, "float16 must differ for this to say anything"
    assert psnr(almost - reference) == pytest.approx(psnr(true - reference), abs=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "height", "width"),
    [("v4.0", 720, 1280), ("v3.8", 720, 1280), ("v4.0", 2304, 4096)],
)
def test_half_precision_keeps_the_frame(clips, weights, version, height, width, emulated):
    frames = scaled_pair(clips("bigbuckbunny"), 10, height, width)
    reference = interpolate(load_model(weights(version), "cpu"), frames)[1]
    half = load_model(weights(version), "cpu", torch.bfloat16)
    results = {
        "float16": (emulated(load_model(weights(version), "cpu"), frames), 50),
        "bfloat16": (interpolate(half, frames), 42),
    }
    for name, (frames, floor) in results.items():
        error = frames[1] - reference
        assert psnr(error) >= floor, name
        assert worst_tile(error) >= 35, name
