"""The engine computes what the plain network does: every family, every v4 row, all options and
scales."""

from fractions import Fraction
from itertools import islice

import av
import pytest
import torch

from rife import load_model
from rife.engine.engine import Engine
from rife.inference.frames import pad
from rife.inference.session import InferenceSession
from rife.options import Options

from .support.networks import NETWORKS, option_sets, seeded_network
from .support.seeded import seeded_images


def differences(network, x, timestep=0.3, **options):
    """The largest differences of frame, flow in pixels and mask; and the largest flow."""
    images = x[:, :3], x[:, 3:]
    results = []
    with torch.inference_mode():
        for runner in (network, Engine(network)):
            frames = [runner.prepare(i, refine=options.get("refine", False)) for i in images]
            motion = runner.motion(*frames, timestep, **options)
            results.append((motion.render(*images), motion.flow, motion.mask))
    largest = [(a - b).abs().max().item() for a, b in zip(*results, strict=True)]
    return *largest, results[0][1].abs().max().item()


@pytest.mark.parametrize("name", NETWORKS)
def test_frames_are_the_network_s(name):
    network = seeded_network(name)
    multiple = network.side_multiple()
    tall = seeded_images(2 * multiple, multiple)
    for options in option_sets(network):
        frame, flow, mask, reach = differences(network, tall, **options)
        assert reach > 0.5, "frames must move for this to say anything"
        assert frame <= 2e-5 and flow <= 2e-5 * max(1, reach) and mask <= 2e-5, options


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_frames_are_the_network_s_at_all_scales_in_several_strips_and_pairs(
    name, scale, monkeypatch
):
    monkeypatch.setattr("rife.engine.block_input.STRIP_PIXELS", 8192)
    # Random flow grows with the blocks' scales, and with it what rounding does to frames.
    network = seeded_network(name, NETWORKS[name][1] * min(1, scale))
    multiple = network.side_multiple(scale)
    height, width = (side + -side % multiple for side in (160, 224))
    for options in option_sets(network):
        for x in (seeded_images(height, width, batch=2), seeded_images(multiple, 2 * multiple)):
            frame, _, mask, _ = differences(network, x, scale=scale, **options)
            assert frame <= 2e-5 and mask <= 5e-5, options


@pytest.mark.parametrize("options", [{}, {"refine": True}, {"ensemble": True}])
def test_scales_are_doubled_where_the_network_doubles_them(options):
    network = seeded_network("v4.0 - v4.1")
    network.doubling_threshold = 0.5
    answers, plain = [], network.needs_doubled_scales
    network.needs_doubled_scales = lambda flow: answers.append(plain(flow)) or answers[-1]
    frame, *_ = differences(network, seeded_images(64, 128), **options)
    # The network's, then the engine's, first of the block's flow, then of the full-size flow.
    assert [bool(answer) for answer in answers] == [True, True, True]
    assert frame <= 2e-5


def test_several_timesteps_in_one_call_are_each_their_own():
    network = seeded_network("v4.25 - v4.26")
    engine = Engine(network)
    x = seeded_images(64, 128)
    with torch.inference_mode():
        frames = [engine.prepare(image) for image in (x[:, :3], x[:, 3:])]
        several = [frame.map(lambda x: x.expand(3, -1, -1, -1)) for frame in frames]
        times = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1)
        together = engine.motion(*several, times)
        for i, t in enumerate((0.2, 0.5, 0.9)):
            alone = engine.motion(*frames, t)
            assert (together.flow[i] - alone.flow[0]).abs().max() < 1e-4
            assert (together.mask[i] - alone.mask[0]).abs().max() < 1e-5


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_any_channels_are_rendered_alike(channels):
    network = seeded_network("v4.0 - v4.1")
    x = seeded_images(64, 128, count=3)
    first, second = x[:, :channels], x[:, 4 : 4 + channels]
    with torch.inference_mode():
        frames = [
            runner.motion(*(runner.prepare(c) for c in (x[:, :3], x[:, 4:7])), refine=False)
            for runner in (network, Engine(network))
        ]
        a, b = (motion.render(first, second) for motion in frames)
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 2e-5


def clip_pairs(path, *indices):
    with av.open(str(path)) as container:
        images = [f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), 80)]
    return [[torch.from_numpy(images[i + k]) for k in range(3)] for i in indices]


def psnr(frame, true):
    return -10 * torch.log10(((frame.float() - true.float()) / 255).square().mean()).item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "options"), [("v3.5", {}), ("v3.8", {}), ("v4.0", {}), ("v4.0", {"refine": True})]
)
def test_real_frames_are_as_good_in_float32_and_bfloat16(clips, weights, version, options):
    """Measured against the real frame that was left out."""
    network = load_model(weights(version), "cpu")
    half = load_model(weights(version), "cpu", torch.bfloat16)
    gains = {"float32": [], "bfloat16": []}
    for clip in ("bikes", "bigbuckbunny", "carphone_pristine"):
        for first, true, second in clip_pairs(clips(clip), 2, 30, 60):
            x = [i.permute(2, 0, 1)[None].float() / 255 for i in (first, second)]
            sides = first.shape[:2]
            x = [pad(i, network.side_multiple()) for i in x]
            with torch.inference_mode():
                plain = network(*x, **options)[0, :, : sides[0], : sides[1]]
            plain = psnr(255 * plain.permute(1, 2, 0), true)
            for name, model in (("float32", network), ("bfloat16", half)):
                pair = InferenceSession(model, Options(**options)).render(
                    first.float() / 255, second.float() / 255, [Fraction(1, 2)]
                )
                gains[name].append(psnr(255 * next(pair), true) - plain)
    for name, dB in gains.items():
        print(f"{version} {name}: {min(dB):.4f} to {max(dB):.4f} dB, mean {sum(dB) / len(dB):.4f}")
    assert max(map(abs, gains["float32"])) < 0.01
    assert abs(sum(gains["bfloat16"]) / len(gains["bfloat16"])) < 0.05
