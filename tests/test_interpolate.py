"""`interpolate` and `interpolate_stream` with real weights."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import av
import pytest
import torch

from rife import (
    Cancelled,
    Options,
    Summary,
    Timeline,
    interpolate,
    interpolate_stream,
    load_model,
)
from rife.engine.engine import Engine
from rife.media.base import Frame
from rife.networks.ifnet_hdv3 import IFNet_HDv3
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4

from .support.seeded import seeded_images, seeded_state


@pytest.fixture(scope="module")
def bikes(clips):
    """(4, 96, 128, 3) float32 in [0, 1]: a window of a real clip."""
    with av.open(str(clips("bikes"))) as container:
        frames = [f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), 4)]
    return torch.stack([torch.from_numpy(f) for f in frames])[:, 100:196, 200:328].float() / 255


def counted(monkeypatch):
    """A list to which each call of the network adds the number of frames that it renders."""
    calls, plain = [], Engine.motion

    def motion(engine, first, *args, **options):
        calls.append(len(first.image_and_features))
        return plain(engine, first, *args, **options)

    monkeypatch.setattr(Engine, "motion", motion)
    return calls


def psnr(a, b):
    return -10 * torch.log10((a.float() - b.float()).square().mean())


@pytest.mark.parametrize("multiplier", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_originals_come_through_bit_for_bit(v40, bikes, dtype, multiplier):
    frames = (bikes * 255).round().to(dtype) if dtype == torch.uint8 else bikes.to(dtype)
    out = interpolate(v40, frames[:3, :40, :50], multiplier)
    assert out.dtype == dtype
    assert out.shape == (2 * multiplier + 1, 40, 50, 3)
    assert torch.equal(out[::multiplier], frames[:3, :40, :50])


def test_new_frames_lie_between_their_neighbours_in_order(v40, bikes):
    out = interpolate(v40, bikes[:2], 4)
    distances = [psnr(out[0], frame) for frame in out[1:]]
    assert distances == sorted(distances, reverse=True)
    average = (bikes[0] + bikes[2]) / 2
    ours = interpolate(v40, bikes[[0, 2]])[1]
    assert psnr(ours, bikes[1]) > psnr(average, bikes[1]) + 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_narrow_input_gives_the_same_frame_as_float32(v40, bikes, dtype):
    frames = (bikes * 255).round().to(dtype) if dtype == torch.uint8 else bikes.to(dtype)
    wide = frames.float() / (255 if dtype == torch.uint8 else 1)
    ours, reference = interpolate(v40, frames[:2])[1], interpolate(v40, wide[:2])[1]
    tolerance = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.uint8: 0.501 / 255}[dtype]
    ours = ours.float() / (255 if dtype == torch.uint8 else 1)
    assert (ours - reference).abs().max() <= tolerance


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 2), (64, 64), (65, 129)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_channels(v40, v38, size, channels):
    frames = torch.rand(2, *size, channels)
    for model in (v40, v38):
        out = interpolate(model, frames, options=Options(cuts="ignore"))
        assert out.shape == (3, *size, channels)
        assert out.isfinite().all()
        assert out.min() >= 0
        assert out.max() <= 1


def test_grey_is_the_same_as_rgb_of_equal_channels(v40, bikes):
    grey = bikes[:2].mean(-1, keepdim=True)
    out = interpolate(v40, grey)
    as_rgb = interpolate(v40, grey.expand(-1, -1, -1, 3))
    assert (out - as_rgb[..., :1]).abs().max() < 1e-6


def test_alpha_moves_with_the_colours(v40, bikes):
    """An alpha channel that equals the green one still does: one flow warps and blends both."""
    frames = torch.cat((bikes[:2], bikes[:2, ..., 1:2]), dim=-1)
    out = interpolate(v40, frames)
    assert (out[1, ..., 3] - out[1, ..., 1]).abs().max() < 1e-6
    assert torch.equal(out[1, ..., :3], interpolate(v40, bikes[:2])[1])


def test_a_still_costs_no_network_run_and_is_the_frame_itself(v40, bikes, monkeypatch):
    runs = counted(monkeypatch)
    out = interpolate(v40, bikes[[0, 0, 1]], 3)
    assert all(torch.equal(frame, bikes[0]) for frame in out[:4])
    assert not torch.equal(out[4], bikes[0])
    assert sum(runs) == 2


def test_borders_are_not_darkened_by_the_padding(v40, v38):
    """White frames of odd sizes stay white up to the edge."""
    frames = torch.ones(2, 70, 90, 3)
    frames[1, 30:40, 40:50] = 0.99  # not the same frame twice
    for model in (v40, v38):
        assert interpolate(model, frames)[1].min() > 0.98


def test_one_frame_comes_back_and_none_is_refused(v40, bikes):
    assert torch.equal(interpolate(v40, bikes[:1], 4), bikes[:1])
    with pytest.raises(ValueError, match="empty"):
        interpolate(v40, bikes[:0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f[1].fill_(float("nan")), "frame 1 has NaN"),
        (lambda f: f[2, 3, 4, 0].fill_(float("inf")), "frame 2 has NaN or inf"),
        (lambda f: f.mul_(255), r"frame 0 has values from .* divide by 255"),
        (lambda f: f.mul_(2).sub_(1), r"\[-1, 1\] to \[0, 1\]"),
    ],
)
def test_what_cannot_be_frames_is_refused_with_the_reason(v40, bikes, spoil, message):
    frames = bikes.clone()
    spoil(frames)
    with pytest.raises(ValueError, match=message):
        interpolate(v40, frames)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.rand(2, 8, 8), r"must be \(N, H, W, C\)"),
        (torch.rand(2, 8, 8, 2), "1, 3 or 4 channels"),
        (torch.rand(2, 0, 8, 3), "frame 0 is"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.int32), "int32"),
    ],
)
def test_shapes_and_types_are_checked(v40, frames, message):
    with pytest.raises(ValueError, match=message):
        interpolate(v40, frames)


def test_frames_of_different_sizes_are_refused_by_number(v40):
    frames = [torch.rand(8, 8, 3), torch.rand(8, 8, 3), torch.rand(8, 9, 3)]
    with pytest.raises(ValueError, match="frame 2 is 9x8 .* before are 8x8"):
        list(interpolate_stream(v40, frames))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("gain", [1.2, 6, 500])
def test_frames_beyond_1_stay_and_new_ones_reach_as_far(v40, bikes, gain, dtype):
    frames = (bikes[:2] + gain * bikes[:2] ** 16).to(dtype)
    out = interpolate(v40, frames, 4)
    assert torch.equal(out[::4], frames)
    means, peaks = out.float().mean((1, 2, 3)), out.float().amax((1, 2, 3))
    expected = torch.lerp(means[0], means[-1], torch.linspace(0, 1, 5))
    assert torch.allclose(means, expected, rtol=0.03)
    assert peaks.amin() > 0.8 * peaks[[0, -1]].amin() and peaks.amax() <= 1.001 * frames.max()


def test_frames_beyond_1_give_the_new_ones_of_a_darker_exposure(v40, bikes):
    darker = interpolate(v40, bikes[:2])[1]
    brighter = interpolate(v40, bikes[:2] * 4)[1]
    error = (brighter / 4 - darker).square().mean()
    assert -10 * error.log10() > 40


def test_transparency_is_left_as_it_is_beside_colours_beyond_1(v40, bikes):
    frames = torch.cat((bikes[:2] * 4, torch.full_like(bikes[:2, ..., :1], 0.25)), 3)
    out = interpolate(v40, frames)
    assert torch.allclose(out[1, ..., 3], frames[0, ..., 3], atol=1e-5)


def test_a_pair_beyond_1_changes_nothing_of_the_others(v40, bikes):
    frames = torch.cat((bikes[:3], bikes[3:] * 4))
    assert torch.equal(interpolate(v40, frames)[:5], interpolate(v40, bikes[:3]))


def test_values_below_0_pass_untouched_and_are_said_once(v40, bikes, caplog):
    frames = bikes[:3] - 0.3
    out = interpolate(v40, frames)
    assert torch.equal(out[::2], frames)
    assert out[1::2].min() >= 0
    assert [record.message for record in caplog.records] == [
        "frames have values below 0; new frames are made as if these were 0"
    ]


def test_fixed_timestep_networks_make_other_multipliers_by_recursion(v38, bikes, caplog):
    quarter = interpolate(v38, bikes[:2], 4)
    half = interpolate(v38, bikes[:2], 2)
    assert torch.equal(quarter[2], half[1])
    assert torch.equal(quarter[1], interpolate(v38, torch.stack((bikes[0], half[1])))[1])
    assert not caplog.records
    thirds = interpolate(v38, bikes[:2], 3)
    assert len(thirds) == 4
    assert caplog.text.count("3/8, 5/8") == 1
    eighths = interpolate(v38, bikes[:2], 8)
    assert torch.equal(thirds[1], eighths[3])
    assert torch.equal(thirds[2], eighths[5])


def test_each_frame_is_prepared_once(v40, bikes, monkeypatch):
    prepared = []
    plain = Engine.prepare
    monkeypatch.setattr(Engine, "prepare", lambda *a, **o: prepared.append(1) or plain(*a, **o))
    interpolate(v40, bikes, 3)
    assert len(prepared) == len(bikes)
    prepared.clear()
    interpolate(v40, bikes, 1)
    interpolate(v40, bikes, 0.5)
    assert not prepared


@pytest.mark.parametrize(("multiplier", "most"), [(2, 10), (16, 2), (Fraction(1, 2), 4)])
def test_stream_reads_no_further_ahead_than_a_call_needs(v40, bikes, multiplier, most):
    read = []

    def source():
        for i in range(40):
            read.append(i)
            yield bikes[i % 4, :64, :64] + i / 1000

    stream = interpolate_stream(v40, source(), Timeline(Fraction(multiplier)))
    for frame in islice(stream, 12):
        assert len(read) <= frame.time + most


def test_progress_counts_the_frames(v40, bikes):
    calls = []
    out = interpolate(
        v40, bikes[:3], 3, progress=lambda done, total, frame: calls.append((done, total, frame))
    )
    assert [(done, total) for done, total, _ in calls] == [(i, 7) for i in range(1, 8)]
    assert all(torch.equal(frame, out[i]) for i, (_, _, frame) in enumerate(calls))


def test_cancel_stops_before_the_next_network_run(v40, bikes, monkeypatch):
    monkeypatch.setattr("rife.inference.planner.BATCH", 1)
    done = []
    with pytest.raises(Cancelled):
        interpolate(v40, bikes, progress=lambda *a: done.append(a), cancel=lambda: len(done) >= 2)
    assert len(done) in (2, 3)  # the next one may be an original

    class Interrupt(BaseException):
        pass

    def interrupt():
        raise Interrupt

    with pytest.raises(Interrupt):
        interpolate(v40, bikes, cancel=interrupt)


def test_cancel_stops_while_frames_are_read_of_which_none_is_shown(v40, bikes):
    read = []

    def endless():
        while True:
            read.append(bikes[len(read) % 2])
            yield read[-1]

    timeline = Timeline(frame_rate=Fraction(1, 10**6))
    with pytest.raises(Cancelled):
        list(interpolate_stream(v40, endless(), timeline, cancel=lambda: len(read) >= 5))
    assert len(read) == 5


def test_24_to_60_frames_a_second_keeps_what_falls_on_an_original(v40, bikes):
    out = interpolate(v40, bikes[:3], Fraction(60, 24))
    assert len(out) == 6
    assert torch.equal(out[::5], bikes[[0, 2]])
    times = [f.time for f in interpolate_stream(v40, bikes[:3], Timeline(Fraction(5, 2)))]
    assert times == [Fraction(2 * k, 5) for k in range(6)]
    fifths = interpolate(v40, bikes[:2], 5)
    assert torch.equal(out[1], fifths[2])
    assert torch.equal(out[2], fifths[4])


def test_at_a_frame_rate_the_last_frame_is_shown_for_its_time(v40, bikes):
    out = interpolate(v40, bikes[:3], Timeline(frame_rate=Fraction(60, 24)))
    assert len(out) == 8
    assert torch.equal(out[:6], interpolate(v40, bikes[:3], 2.5))
    assert torch.equal(out[5:], bikes[[2, 2, 2]])
    looped = Timeline(frame_rate=Fraction(2), loop=True)
    assert torch.equal(
        interpolate(v40, bikes, looped), interpolate(v40, bikes, Timeline(2, loop=True))
    )


def test_fewer_frames_are_picked_and_none_is_made(v40, bikes, monkeypatch):
    runs = counted(monkeypatch)
    assert torch.equal(interpolate(v40, bikes, "0.5"), bikes[[0, 3]])
    assert not runs


def test_a_loop_ends_before_the_first_frame_comes_again(v40, bikes):
    out = interpolate(v40, bikes[:3], Timeline(2, loop=True))
    assert len(out) == 6
    assert torch.equal(out[::2], bikes[:3])
    assert (out[5] - interpolate(v40, bikes[[2, 0]])[1]).abs().max() < 1e-5


def test_a_schedule_speeds_some_pairs_up(v40, bikes):
    out = interpolate(v40, bikes, "1:3")
    assert len(out) == 6
    assert torch.equal(out[[0, 1, 4, 5]], bikes)
    assert torch.equal(out[2:4], interpolate(v40, bikes[1:3], 3)[1:3])


@pytest.fixture(scope="module")
def spliced(clips):
    """(4, 136, 320, 3): two frames of one real shot, two of another."""
    shots = []
    for name, step in (("bikes", 2), ("bigbuckbunny", 4)):
        with av.open(str(clips(name))) as container:
            frames = [f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), 2)]
        shots += [torch.from_numpy(f)[::step, ::step][:136] for f in frames]
    return torch.stack(shots).float() / 255


def test_a_cut_holds_the_earlier_frame_up_to_the_middle(v40, spliced):
    out = interpolate(v40, spliced, 5)
    assert all(torch.equal(frame, spliced[1]) for frame in out[5:8])
    assert all(torch.equal(frame, spliced[2]) for frame in out[8:11])
    assert torch.equal(out[:6], interpolate(v40, spliced[:2], 5))


def test_a_cut_may_be_faded_or_ignored(v40, spliced):
    faded = interpolate(v40, spliced, 4, Options(cuts="blend"))
    assert (faded[5] - torch.lerp(spliced[1], spliced[2], 0.25)).abs().max() < 1e-6
    as_bytes = (spliced * 255).round().byte()
    assert (
        interpolate(v40, as_bytes, 4, Options(cuts="blend"))[5] / 255 - faded[5]
    ).abs().max() < 0.01
    ignored = interpolate(v40, spliced, 2, Options(cuts="ignore"))
    blind = interpolate(v40, spliced, 2, Options(cut_sensitivity=0))
    assert torch.equal(ignored, blind)
    assert not torch.equal(ignored[3], spliced[1])
    assert not torch.equal(ignored[3], spliced[2])


def test_frames_on_twos_move_evenly_when_asked(v40, bikes):
    on_twos = bikes.repeat_interleave(2, 0)[:-1]
    even = interpolate(v40, on_twos, 2, Options(duplicates=True))
    assert torch.equal(even, interpolate(v40, bikes, 4))
    assert torch.equal(interpolate(v40, on_twos, 2)[:3], on_twos[[0, 0, 0]])


def test_a_cut_on_twos_stays_where_it_is(v40, spliced):
    """Re-timing ends with the shot: the last repeat is held until the middle of the cut."""
    on_twos = spliced.repeat_interleave(2, 0)
    out = interpolate(v40, on_twos, 4, Options(duplicates=True))
    assert (out[:9:4] - interpolate(v40, spliced[:2], 2)).abs().max() < 1e-4
    assert all(torch.equal(frame, spliced[1]) for frame in out[8:14])
    assert all(torch.equal(frame, spliced[2]) for frame in out[14:17])


def test_result_goes_where_it_is_wanted(v40, bikes):
    out = torch.empty(3, 96, 128, 3, dtype=torch.float16)
    assert interpolate(v40, bikes[:2], out=out) is out
    assert torch.equal(out, interpolate(v40, bikes[:2]).half())
    with pytest.raises(ValueError, match="out is"):
        interpolate(v40, bikes[:2], out=out[:2])


def test_input_is_not_changed(v40, bikes):
    before = bikes.clone()
    interpolate(v40, bikes, 2, Options(tta=True, refine=True))
    assert torch.equal(bikes, before)


def test_tta_is_the_mean_with_the_turned_pass(v40, bikes):
    frames = bikes[:2, :64, :64]  # a size that is not padded, which turning would move
    turned = interpolate(v40, frames.flip(1, 2))[1].flip(0, 1)
    expected = (interpolate(v40, frames)[1] + turned) / 2
    assert (interpolate(v40, frames, options=Options(tta=True))[1] - expected).abs().max() < 1e-6


def test_options_change_the_frame_where_the_network_has_them(v40, bikes):
    plain = interpolate(v40, bikes[:2])[1]
    for options in ({"ensemble": True}, {"refine": True}, {"scale": 0.5}, {"scale": 2.0}):
        other = interpolate(v40, bikes[:2], options=Options(**options))[1]
        assert not torch.equal(other, plain), options
        assert psnr(other, plain) > 25, options


def test_options_that_a_network_lacks_are_refused(v38):
    frames = torch.rand(2, 8, 8, 3)
    with pytest.raises(ValueError, match="cuts"):
        Options(cuts="skip").check(v38)
    with pytest.raises(ValueError, match="cut_sensitivity"):
        Options(cut_sensitivity=2).check(v38)
    with pytest.raises(ValueError, match=r"v3.6 - v3.9 has no refine"):
        interpolate(v38, frames, options=Options(refine=True))
    interpolate(v38, frames, options=Options(ensemble=True))  # built in
    no_ensemble = IFNet_v4(VERSIONS["v4.25 - v4.26"])
    with pytest.raises(ValueError, match="no ensemble"):
        Options(ensemble=True).check(no_ensemble)
    with pytest.raises(ValueError, match="scale"):
        Options(scale=0).check(v38)


@pytest.mark.parametrize("make", [lambda network: network, Engine])
def test_v40_decides_about_doubled_scales_for_each_pair_alone(make):
    """A batch that contains one pair of huge motion gives what each pair gives alone."""
    network = IFNet_v4(VERSIONS["v4.0 - v4.1"]).eval()
    network.load_state_dict(seeded_state(network, gain=2.5))
    far = seeded_images(64, 64)
    near = far * 0.01
    x = torch.cat((far, near))
    images = x[:, :3], x[:, 3:]
    lost, plain = [], network.needs_doubled_scales
    network.needs_doubled_scales = lambda change: lost.append(plain(change)) or lost[-1]
    model = make(network)
    with torch.no_grad():
        a, b = (model.prepare(image, refine=True) for image in images)
        together = model.motion(a, b, 0.5, refine=True)
        mixed = lost[0].tolist()
        for i in range(2):
            a, b = (model.prepare(image[i : i + 1], refine=True) for image in images)
            alone = model.motion(a, b, 0.5, refine=True)
            assert torch.allclose(together.flow[i], alone.flow[0], atol=1e-4)
            assert torch.allclose(together.residual[i], alone.residual[0], atol=1e-5)
    assert mixed == [True, False]


def test_interpolating_keeps_no_graph_and_works_on_trainable_networks(bikes):
    model = IFNet_HDv3()
    out = interpolate(model, bikes[:2, :32, :32])
    assert not out.requires_grad


@pytest.mark.parametrize("version", ["v3.5", "v3.8", "v4.0"])
def test_bfloat16_weights_give_the_same_frame_but_for_noise(weights, bikes, version):
    options = {"refine": version == "v4.0"}
    reference = interpolate(
        load_model(weights(version), "cpu"), bikes[:2], options=Options(**options)
    )
    model = load_model(weights(version), "cpu", torch.bfloat16)
    assert model.dtype == torch.bfloat16
    out = interpolate(model, bikes[:2], options=Options(**options))
    assert out.dtype == torch.float32
    assert 42 < psnr(out[1], reference[1]) < 100


@pytest.mark.parametrize("row", VERSIONS)
def test_every_v4_row_runs_in_bfloat16(row, bikes):
    model = IFNet_v4(VERSIONS[row]).eval()
    model.load_state_dict(seeded_state(model, 0.1))
    reference = interpolate(model, bikes[:2, :64, :64])
    out = interpolate(model.bfloat16(), bikes[:2, :64, :64])
    assert psnr(out[1], reference[1]) > 30


def test_flow_and_mask_stay_float32_in_half_networks():
    model = IFNet_v4(VERSIONS["v4.25 - v4.26"]).bfloat16()
    image = model.prepare(torch.rand(1, 3, 64, 64))
    with torch.no_grad():
        motion = model.motion(image, image)
    assert motion.flow.dtype == motion.mask.dtype == torch.float32


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu(weights, v40, bikes):
    reference = interpolate(v40, bikes)
    for dtype, floor in ((torch.float32, 70), (torch.float16, 50)):
        model = load_model(weights("v4.0"), "cuda", dtype)
        out = interpolate(model, bikes)
        assert out.device.type == "cpu"
        assert torch.equal(out[::2], bikes)
        assert psnr(out, reference) > floor


# v3.8's thirds are made by recursion, one frame in a call.
@pytest.mark.parametrize(("model", "multiplier"), [("v40", 2), ("v40", 3), ("v38", 2)])
def test_several_pairs_in_a_call_give_what_one_by_one_gives(
    request, bikes, monkeypatch, model, multiplier
):
    """With a still and a cut among them."""
    model = request.getfixturevalue(model)
    clip = torch.cat((bikes[[0, 1, 1, 2, 3], :64, :96], bikes[:3, 20:84, 20:116].flip(2)))
    calls = counted(monkeypatch)
    together = interpolate(model, clip, multiplier)
    many = len(calls)
    monkeypatch.setattr("rife.inference.planner.BATCH", 1)
    alone = interpolate(model, clip, multiplier)
    assert many < len(calls) - many
    assert (together - alone).abs().max() < 1e-5
    assert torch.equal(together[::multiplier], clip)


def test_a_length_in_time_shows_the_last_frame_for_its_time(v40, bikes):
    timeline = Timeline(Fraction(3), length="duration")
    out = interpolate(v40, bikes[:3], timeline)
    assert len(out) == 9
    assert torch.equal(out[:7], interpolate(v40, bikes[:3], 3))
    assert torch.equal(out[7], bikes[2]) and torch.equal(out[8], bikes[2])
    looped = replace(timeline, loop=True)
    assert torch.equal(
        interpolate(v40, bikes[:3], looped), interpolate(v40, bikes[:3], Timeline(3, loop=True))
    )


@pytest.mark.parametrize("multiplier", ["1/2", "2/3", "1", "3/2", "2", "7/3"])
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_a_length_in_time_has_as_many_frames_as_that_time_holds(v40, bikes, multiplier, frames):
    clip = bikes[torch.arange(frames) % 4, :64, :64]
    timeline = Timeline(Fraction(multiplier), length="duration")
    stream = list(interpolate_stream(v40, clip, timeline))
    assert len(stream) == timeline.count(frames) == math.ceil(frames * Fraction(multiplier))
    pace = 1 / Fraction(multiplier)
    assert [f.time for f in stream] == [k * pace for k in range(len(stream))]
    assert {f.duration for f in stream} == {pace}
    assert torch.equal(stream[0].image, clip[0])


def test_nothing_is_made_across_a_gap(v40, bikes, caplog):
    times = [Fraction(t) for t in (0, 1, 30, 31)]
    frames = [
        Frame(image, time, Fraction(1), follows_gap=time == 30)
        for image, time in zip(bikes, times, strict=True)
    ]
    for cuts in ("hold", "blend", "ignore"):
        summary = Summary()
        out = list(
            interpolate_stream(
                v40, frames, Timeline(Fraction(4)), Options(cuts=cuts), summary=summary
            )
        )
        assert [f.time for f in out[3:10]] == [0.75, 1, 8.25, 15.5, 22.75, 30, 30.25]
        assert all(torch.equal(out[k].image, bikes[1]) for k in (4, 5))
        assert all(torch.equal(out[k].image, bikes[2]) for k in (6, 7, 8))
        assert not torch.equal(out[9].image, bikes[2])
        assert summary.cuts == 0


def test_recursion_has_an_end(v38, bikes):
    with pytest.raises(ValueError, match="midpoints only.*5000 frames.*1024 at most"):
        interpolate(v38, bikes[:2], 5000)
