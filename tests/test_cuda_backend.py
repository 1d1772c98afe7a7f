"""The CUDA backend on a device that does all work as late as it may (see `late_device`)."""

import gc
import logging
import random
import threading
import time
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from fractions import Fraction
from itertools import count, pairwise
from types import SimpleNamespace

import pytest
import torch

from rife import Cancelled, NonFiniteError, interpolate, interpolate_stream
from rife.engine.engine import Engine
from rife.engine.estimation import Estimation
from rife.inference import cuda_backend, cuda_device, cuda_pipeline, kernel_choice
from rife.inference.cuda_device import begin_download, stage_frame
from rife.inference.cuda_pipeline import CudaPipeline
from rife.inference.frames import FrameSpec, Job
from rife.inference.session import InferenceSession
from rife.inference.threads import ITEMS_AHEAD, call_ahead
from rife.interpolate_file import interpolate_file
from rife.networks.ifnet_hdv3 import IFNet_HDv3
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4, Parameters
from rife.options import Options
from rife.timeline import Timeline

from .support.late_device import LateDevice, late
from .support.networks import NETWORKS
from .support.seeded import seeded_clip, seeded_state

SMALL = (8, 8, 8, 8)
SMALL_NETWORKS = {
    "head": lambda: IFNet_v4(Parameters(SMALL, planes=13, head=VERSIONS["v4.25 - v4.26"].head)),
    "refine": lambda: IFNet_v4(
        Parameters(SMALL, body="prelu", planes=5, shuffle=False, refine=True)
    ),
    "halves": lambda: IFNet_HDv3(1),
}


def network(name, gain=0.5):
    model = SMALL_NETWORKS[name]().eval()
    model.load_state_dict(seeded_state(model, gain=gain))
    return model


def clip(count, height=40, width=70, seed=1):
    return seeded_clip(count, height, width, seed)


#: To make every frame: these clips' motion is too wild for pictures of one shot.
ALL = Options(cuts="ignore")


def apart(a, b):
    return (a.float() - b.float()).abs().max().item()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_frames_are_those_made_without_streams(name, seed):
    model, frames = network(name), clip(10, 32, 60)
    for multiplier, options in ((2, {}), (Fraction(5, 2), {"refine": name == "refine"}), (3, {})):
        wanted = interpolate(model, frames, multiplier, replace(ALL, **options))
        with late(seed) as device:
            result = interpolate(model, frames, multiplier, replace(ALL, **options))
        assert apart(result, wanted) < 1e-5, (multiplier, options)
        assert device.captured and device.replays > device.captured
        assert device.synchronized


def test_bytes_are_rounded_as_elsewhere():
    model, frames = network("head"), (255 * clip(9)).round().byte()
    wanted = interpolate(model, frames, options=ALL)
    with late():
        result = interpolate(model, frames, options=ALL)
    assert result.dtype == torch.uint8
    assert apart(result, wanted) <= 1  # a sum may round the other way
    assert (result != wanted).float().mean() < 1e-3


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha_pass(channels):
    model = network("head")
    frames = torch.cat((clip(8), clip(8, seed=2)), 3)[..., :channels].contiguous()
    wanted = interpolate(model, frames, options=ALL)
    with late():
        assert apart(interpolate(model, frames, options=ALL), wanted) < 1e-5


def test_cuts_repeats_and_other_rates_find_their_frames():
    model, shots = network("head"), (clip(6), clip(7, seed=5))
    frames = torch.cat((shots[0], shots[0][-1:], shots[1]))
    timeline = Timeline(frame_rate=Fraction(60, 24), loop=True)
    for options in ({"duplicates": True}, {"cuts": "blend"}):
        wanted = interpolate(model, frames, timeline, Options(**options))
        with late(3):
            assert apart(interpolate(model, frames, timeline, Options(**options)), wanted) < 1e-5


def test_values_outside_the_range_are_clamped():
    model, frames = network("head"), clip(6) * 1.4 - 0.2
    wanted = interpolate(model, frames, options=ALL)
    with late():
        assert apart(interpolate(model, frames, options=ALL), wanted) < 1e-5


def test_frames_that_need_doubled_scales_are_made_again_with_care():
    model, frames = network("refine", gain=1.0), clip(12)
    seen, plain = [], model.needs_doubled_scales
    model.needs_doubled_scales = lambda change: (
        seen.append(change.abs().amax((2, 3))) or plain(change)
    )
    interpolate(model, frames, options=ALL)
    pair = torch.cat(seen).unflatten(1, (2, 2)).amax(2).amin(1)
    model.doubling_threshold = float(pair.median())  # so that some pairs are lost, and some are not
    model.needs_doubled_scales = plain
    wanted, lost = interpolate(model, frames, options=ALL), []
    model.needs_doubled_scales = lambda change: lost.append(plain(change)) or lost[-1]
    with late(1):
        result = interpolate(model, frames, options=ALL)
    flags = torch.cat(lost)
    assert flags.any() and not flags.all()
    assert apart(result, wanted) < 1e-5


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_a_frame_that_is_not_finite_is_an_error(name, kind):
    model, frames = network(name), clip(8)
    frames = (frames * 255).to(kind) if kind == torch.uint8 else frames
    model.load_state_dict({key: x * 1e20 for key, x in model.state_dict().items()})
    for multiplier in (2, 4):
        with late() as device, pytest.raises(NonFiniteError, match="from input frame 0 to the"):
            interpolate(model, frames, multiplier, ALL)
        assert device.synchronized


def test_what_is_made_of_a_frame_that_is_not_finite_is_an_error(monkeypatch):
    """Quarters are made of the middle, which is not among the frames that are asked for."""
    calls = count()

    def only_the_first(motion):
        return torch.full((len(motion.flow),), 0 if next(calls) else torch.nan)

    monkeypatch.setattr("rife.networks.base.Motion.checksum", only_the_first)
    model, frames = network("halves"), clip(2)
    with late(), pytest.raises(NonFiniteError):
        list(InferenceSession(model, Options()).render(*frames, [Fraction(1, 4)]))
    assert next(calls) == 2


def test_flow_that_is_not_finite_is_an_error_though_the_frames_look_like_frames():
    model, frames = network("head"), clip(8)
    with torch.no_grad():
        model.block3.lastconv[0].bias[0] = torch.inf
    with late(), pytest.raises(NonFiniteError):
        interpolate(model, frames, options=ALL)


def test_what_can_not_be_captured_is_done_each_time_and_said_once(caplog):
    model, frames = network("head"), clip(14)
    wanted = interpolate(model, frames, options=ALL)
    with late(capture_error=RuntimeError("operation not permitted\nmore")) as device:
        assert apart(interpolate(model, frames, options=ALL), wanted) < 1e-5
    assert device.captured == device.replays == 0
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        "the device's work can't be captured as a graph, so frames take longer "
        "(operation not permitted)"
    ]


def test_no_memory_for_a_graph_makes_calls_smaller(caplog):
    model, frames = network("head"), clip(14)
    wanted = interpolate(model, frames, options=ALL)
    with late(capture_error=torch.OutOfMemoryError("CUDA out of memory"), late=False) as device:
        assert apart(interpolate(model, frames, options=ALL), wanted) < 1e-5
    assert "out of memory" in caplog.text
    assert device.synchronized


class BrokenEstimation(Estimation):
    """Renders black frames, or raises `error`."""

    uses_kernels = True
    kernels = SimpleNamespace(precompile=nullcontext)
    finish_convolution = staticmethod(lambda y, *_: y)
    error = None

    def run_first_convolution(self, convolution, scale, both_orders=False):
        if self.error:
            raise self.error
        height, width = (side // scale // 2 for side in self.frames[0].image_and_features.shape[2:])
        weight = convolution.layers[0].weight
        return [weight.new_zeros(len(self.times), len(weight), height, width)]

    def add_output(self, output):
        pass

    def finish(self, residual):
        return SimpleNamespace(render_frames=lambda images: torch.zeros_like(images[:1]))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Failed to find C compiler.\nPlease specify via CC"), "find C compiler."),
        (None, "they make other frames"),
    ],
)
def test_kernels_that_fail_or_err_are_done_without_and_that_is_said_once(caplog, error, said):
    model, frames = network("head"), clip(14)
    wanted = interpolate(model, frames, options=ALL)
    with late(late=False) as device, pytest.MonkeyPatch.context() as patch:
        run = type("KernelEstimation", (BrokenEstimation,), {"error": error})
        patch.setenv("RIFE_KERNELS", "triton")  # to be undone before what `late` sets
        patch.setattr(kernel_choice, "kernel_estimation", lambda name: run)
        for _ in range(2):
            assert apart(interpolate(model, frames, options=ALL), wanted) < 1e-5
    assert device.replays
    (message,) = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert message.startswith("without the fused kernels frames take longer (")
    assert said in message


def test_a_graph_that_does_something_else_is_not_replayed(caplog):
    model, frames = network("head"), clip(14)
    wanted = interpolate(model, frames, options=ALL)
    with late(late=False) as device:
        capture = device.capture_graph
        device.capture_graph = lambda work: (capture(work)[0], lambda: None)
        assert apart(interpolate(model, frames, options=ALL), wanted) < 1e-5
    assert "can't be captured as a graph" in caplog.text
    assert caplog.text.count("a replay made something else") == 1


def test_waiting_is_noticed_by_the_late_device():
    """Without this, the tests above would show nothing about waiting."""
    for wait in (lambda x: bool(x.any()), lambda x: x.item(), lambda x: torch.tensor([1.0, 2.0])):
        with pytest.raises(RuntimeError, match="capturing"):
            LateDevice().capture_graph(lambda wait=wait: wait(torch.ones(1)))


@pytest.mark.parametrize("missing", [None, "uploads", "compute", "downloads"])
def test_a_missing_wait_is_noticed_by_the_late_device(missing):
    """If one of the streams does not wait for the others, frames come out wrong."""
    model, frames = network("head"), list(clip(14))
    wanted = interpolate(model, torch.stack(frames), options=ALL)[1::2]
    worst = 0.0
    for seed in range(4):
        device = LateDevice(seed)
        if missing:
            stream, wait = getattr(device, missing), device.wait_event
            device.wait_event = lambda to, event, wait=wait, stream=stream: (
                None if to is stream else wait(to, event)
            )
        spec = FrameSpec.of(frames[0], model, Options())
        pipeline = CudaPipeline(Engine(model), Options(), device, spec, torch.float32, batch=2)
        jobs = [Job(*pair, Fraction(1, 2)) for pair in pairwise(frames)]
        coming = [
            begin_download(device, pipeline.render(jobs[i : i + 2])[0])
            for i in range(0, len(jobs), 2)
        ]
        worst = max(worst, apart(torch.cat([get() for get in coming]), wanted))
    assert worst < 1e-5 if missing is None else worst > 1e-3


@pytest.fixture
def new_pipelines(monkeypatch):
    """Weak references to the pipelines that are built."""
    created = []

    def remembered(*args):
        pipeline = CudaPipeline(*args)
        created.append(weakref.ref(pipeline))
        return pipeline

    monkeypatch.setattr("rife.inference.cuda_pipeline.CudaPipeline", remembered)
    return created


def stop_after(calls):
    """A `cancel` function that returns True once it has been called so often."""
    asked = count(1)
    return lambda: next(asked) > calls


def test_the_next_run_starts_from_what_the_last_one_set_up(new_pipelines):
    model, other = network("head"), network("refine")
    clips = [clip(14), clip(8, seed=2), clip(9, 32, 60), clip(14, seed=3)]
    wanted = [interpolate(model, frames, options=ALL) for frames in clips]
    wanted_of_other = interpolate(other, clips[0], options=ALL)
    with late() as device:
        for i in (0, 1, 3, 0, 2, 1):
            captured = device.captured
            assert apart(interpolate(model, clips[i], options=ALL), wanted[i]) < 1e-5
            if i in (0, 2):
                with pytest.raises(Cancelled):
                    interpolate(model, clips[i], options=ALL, cancel=stop_after(12))
        assert apart(interpolate(other, clips[0], options=ALL), wanted_of_other) < 1e-5
        assert apart(interpolate(model, clips[3], options=ALL), wanted[3]) < 1e-5
    assert len(new_pipelines) == 3  # of two sizes and two networks
    assert device.captured == captured + 2  # of the other network, a call and its frames


def test_what_is_left_holds_no_frame_and_goes_with_its_network(new_pipelines):
    model, seen = network("head"), []

    def frames():
        for frame in clip(14):
            frame = frame.clone()
            seen.append(weakref.ref(frame))
            yield frame

    with late() as device:
        device.capture_graph = None  # unlike CUDA's, this device's graphs are cycles
        for cancel in (stop_after(12), None):
            with suppress(Cancelled):
                stream = interpolate_stream(model, frames(), options=ALL, cancel=cancel)
                deque(stream, maxlen=0)
            del stream
        gc.collect()
        assert len(seen) > 14 and not any(ref() is not None for ref in seen)
        assert new_pipelines[0]() is not None
        del model
        assert new_pipelines[0]() is None


@pytest.mark.parametrize("change", ["load", "add", "replace"])
def test_changed_weights_make_other_frames(change, new_pipelines):
    model, frames = network("head"), clip(8)
    with late():
        interpolate(model, frames, options=ALL)
        with torch.no_grad():
            if change == "load":
                model.load_state_dict(seeded_state(model, seed=4))
            elif change == "add":
                model.block1.conv0[0][0].weight += 0.1
            else:
                model.block1.conv0[0][0].weight.data = model.block1.conv0[0][0].weight * 1.5
        result = interpolate(model, frames, options=ALL)
        assert new_pipelines[0]() is None
    assert apart(result, interpolate(model, frames, options=ALL)) < 1e-5


def test_no_more_is_left_than_a_share_of_the_memory_the_oldest_goes_first(new_pipelines):
    models, frames = [network("head") for _ in range(3)], clip(5)
    with late() as device:
        interpolate(models[0], frames, options=ALL)
        device.total_memory = int(2.5 * new_pipelines[0]().nbytes / cuda_pipeline.KEPT_SHARE)
        for model in models[1:]:
            interpolate(model, frames, options=ALL)
        gc.collect()
        assert [ref() is not None for ref in new_pipelines] == [False, True, True]
        device.total_memory = 0
        interpolate(models[2], frames, options=ALL)
        gc.collect()
        assert [ref() is not None for ref in new_pipelines] == [False, False, False]


def test_memory_is_given_back_on_demand(new_pipelines):
    models, frames = [network("head") for _ in range(2)], clip(5)
    with late() as device:
        for model in models:
            interpolate(model, frames, options=ALL)
        assert cuda_pipeline.idle_pipelines.release(models[0])
        gc.collect()
        assert [ref() is not None for ref in new_pipelines] == [False, True]
        assert device.emptied == 1
        assert cuda_pipeline.idle_pipelines.release() and not cuda_pipeline.idle_pipelines.release()
        gc.collect()
        assert new_pipelines[1]() is None


def test_no_memory_is_answered_by_giving_back_what_earlier_runs_left(new_pipelines, caplog):
    models, frames = [network("head"), network("refine")], clip(9)
    wanted = interpolate(models[1], frames, options=ALL)
    with late(late=False) as device:
        interpolate(models[0], frames, options=ALL)
        device.capture_error = torch.OutOfMemoryError("CUDA out of memory")
        assert apart(interpolate(models[1], frames, options=ALL), wanted) < 1e-5
    assert new_pipelines[0]() is None
    assert "out of memory" not in caplog.text


def test_two_runs_at_once_mix_nothing_up():
    model, clips = network("head"), [clip(14), clip(14, seed=2)]
    wanted = [interpolate(model, frames, options=ALL) for frames in clips]
    with late(), pytest.MonkeyPatch.context() as patch:
        seeds = count()
        patch.setattr(
            "rife.inference.cuda_device.cuda_device_of", lambda model: LateDevice(next(seeds))
        )
        with ThreadPoolExecutor(2) as threads:
            for _ in range(2):
                result = threads.map(lambda frames: interpolate(model, frames, options=ALL), clips)
                assert max(apart(*each) for each in zip(result, wanted, strict=True)) < 1e-5
    assert not torch.backends.cudnn.benchmark


def test_a_device_that_fails_at_the_end_is_said_hides_no_error_and_keeps_nothing(
    new_pipelines, caplog
):
    def fail():
        raise RuntimeError("an illegal memory access was encountered\nmore")

    with late() as device:
        device.synchronize = fail
        with pytest.raises(Cancelled):
            interpolate(network("head"), clip(14), options=ALL, cancel=stop_after(12))
        assert new_pipelines[0]() is None
    assert "failed at the end of a run (an illegal memory access" in caplog.text


def test_calls_are_full_whatever_the_multiplier(monkeypatch):
    """The last call too: another shape would have to be set up."""
    jobs, sizes, make, made = [], [], CudaPipeline.render, CudaPipeline._call_network
    monkeypatch.setattr(
        "rife.inference.cuda_pipeline.CudaPipeline.render",
        lambda self, these, *args, **more: (
            jobs.append(len(these)) or make(self, these, *args, **more)
        ),
    )
    monkeypatch.setattr(
        "rife.inference.cuda_pipeline.CudaPipeline._call_network",
        lambda self, order: sizes.append(order.shape[1]) or made(self, order),
    )
    model, frames = network("head"), clip(9)
    for multiplier in (2, 5):
        jobs.clear()
        wanted = interpolate(model, frames, multiplier, ALL)
        with late():
            assert apart(interpolate(model, frames, multiplier, ALL), wanted) < 1e-5
        assert set(jobs[:-1]) == {3}
    assert set(sizes) == {3}


@pytest.mark.parametrize("channels", [3, 4])
def test_planar_frames_are_staged_as_they_lie_and_make_the_same(channels):
    model, frames = network("head"), clip(9).repeat(1, 1, 1, 2)[..., :channels].contiguous()
    planar = frames.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    staged = stage_frame(LateDevice(), planar[0], torch.float16)
    assert staged.stride() == planar[0].stride()
    assert torch.equal(staged, frames[0].half())
    with late():
        assert torch.equal(
            interpolate(model, planar, options=ALL), interpolate(model, frames, options=ALL)
        )
    sparse = frames[0][::2, :, :2]
    assert torch.equal(stage_frame(LateDevice(), sparse, torch.float32), sparse)


def test_a_frame_that_can_not_be_staged_ahead_is_staged_when_it_is_needed(monkeypatch):
    model, frames = network("head"), clip(9)
    wanted, stage, calls = interpolate(model, frames, options=ALL), stage_frame, count()

    def fails_sometimes(*args):
        if threading.current_thread() is not threading.main_thread() and next(calls) % 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return stage(*args)

    monkeypatch.setattr(cuda_backend, "stage_frame", fails_sometimes)
    with late():
        assert apart(interpolate(model, frames, options=ALL), wanted) < 1e-5
    assert next(calls) >= 9


def test_frames_are_asked_for_in_the_caller_s_mode():
    modes = []

    def frames():
        for frame in clip(3):
            modes.append(torch.is_inference_mode_enabled())
            yield frame

    model = network("head")
    with late():
        list(interpolate_stream(model, frames()))
        with torch.inference_mode():
            list(interpolate_stream(model, frames()))
    assert modes == [False] * 3 + [True] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_frames_made_of_made_ones_take_the_same_slots(new_pipelines, dtype):
    """Although their dtype is not that of the user's frames."""
    model = network("halves").bfloat16()
    frames = (255 * clip(5)).byte() if dtype == torch.uint8 else clip(5)
    with late():
        result = interpolate(model, frames, 4, ALL)
    assert result.dtype == dtype
    assert len(new_pipelines) == 1


def test_frames_are_looked_at_ahead_in_order_and_no_further_than_needed():
    asked = iter(range(100))
    ahead = call_ahead(lambda: next(asked))
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    ahead.close()
    assert next(asked) <= 5 + ITEMS_AHEAD + 1
    few = iter([1, 2])
    assert list(call_ahead(lambda: next(few, None))) == [1, 2]


def test_what_fails_while_looking_ahead_is_raised_in_its_turn():
    def frames():
        yield 1
        raise ValueError("this frame is broken")

    items = frames()
    ahead = call_ahead(lambda: next(items, None))
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_no_frame_is_looked_at_once_a_run_has_ended():
    images, over, late_looks = clip(8), False, 0

    def frames():
        nonlocal late_looks
        for i in count():
            time.sleep(0.02)
            late_looks += over
            yield images[i % 8]

    calls = count()
    with late(), pytest.raises(Cancelled) as kept:
        options = {"cancel": lambda: next(calls) > 2}
        for _ in interpolate_stream(network("head"), frames(), **options):
            pass
    over = True
    time.sleep(0.3)
    assert kept.tb and not late_looks


def test_settings_of_cudnn_are_put_back():
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    with pytest.raises(KeyError), cuda_device.best_convolutions():
        assert torch.backends.cudnn.benchmark
        raise KeyError
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == before


def test_files_take_the_same_way(clips, tmp_path):
    model = network("head")
    with late(2):
        interpolate_file(
            model, clips("carphone_pristine"), tmp_path / "out.mp4", duration=Fraction(1, 2)
        )
    assert (tmp_path / "out.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_two_hundred_runs_of_all_kinds_leave_nothing_and_mix_nothing_up():
    """Each run starts from what the runs before it left."""
    models = [network(name) for name in SMALL_NETWORKS]
    order = random.Random(0)
    wanted = {}
    with late() as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr("rife.inference.cuda_device.cuda_device_of", lambda model: None)
        for run in range(200):
            number, height, width = (
                order.randrange(len(models)),
                *order.choice([(40, 70), (33, 64)]),
            )
            frames, multiplier = clip(order.choice([2, 5, 9]), height, width), order.choice([2, 3])
            key = number, frames.shape, multiplier
            if key not in wanted:
                wanted[key] = interpolate(models[number], frames, multiplier, ALL)
            stop = order.choice([None, None, 3, 6])
            with pytest.MonkeyPatch.context() as on_device:
                on_device.setattr("rife.inference.cuda_device.cuda_device_of", lambda model: device)
                if stop:
                    with suppress(Cancelled):
                        cancel = stop_after(stop)
                        interpolate(models[number], frames, multiplier, ALL, cancel=cancel)
                result = interpolate(models[number], frames, multiplier, ALL)
            assert apart(result, wanted[key]) < 1e-5, run
    assert device.captured < 30


class Nowhere(LateDevice):
    """A device whose memory holds no values: to read one or to use the CPU's memory is an error."""

    device = torch.device("meta")

    def empty(self, size, dtype):
        return torch.empty(tuple(size), dtype=dtype, device="meta")

    def holds(self, tensor):
        return tensor.is_meta


FEW = ("v3.5", "v4.0 - v4.1")


@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_no_network_waits_for_the_device_or_computes_beside_it(name):
    with torch.device("meta"):
        model = NETWORKS[name][0]().eval().half()
    frames = list(torch.zeros(6, 96, 150, 3))
    options = Options(
        refine="refine" in model.options | model.built_in, ensemble="ensemble" in model.options
    )
    device = Nowhere(late=False)
    spec = FrameSpec.of(frames[0], model, options)
    pipeline = CudaPipeline(Engine(model), options, device, spec, torch.float32, batch=1)
    for pair in pairwise(frames):
        result, _ = pipeline.render([Job(*pair, Fraction(1, 2))])
    assert result.is_meta and result.shape == (1, 96, 150, 3)
    assert device.replays


def test_waiting_and_mixing_are_errors_nowhere():
    """Without this, the test above would show nothing."""
    for work in (lambda x: bool(x.any()), lambda x: x + torch.ones(2), lambda x: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            work(torch.ones(2, device="meta"))
