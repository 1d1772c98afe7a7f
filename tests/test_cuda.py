"""What only a GPU can show: the same frames from graphs, streams and kernels, how exact 16 bits
are, and memory that comes back."""

import gc
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from itertools import combinations

import pytest
import torch

from rife import Cancelled, interpolate, load_model
from rife.engine.engine import Engine
from rife.engine.kernels import nvrtc_kernels
from rife.engine.kernels.interface import NAMES
from rife.inference import cuda_device, cuda_pipeline, kernel_choice
from rife.inference.session import InferenceSession
from rife.inference.tiling import pad
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4
from rife.options import Options

from .support.quality import psnr, scaled_pair, worst_tile
from .support.seeded import seeded_clip, seeded_state

pytestmark = pytest.mark.cuda

ALL = Options(cuts="ignore")
SIZES = {"480p": (480, 720), "1080p": (1080, 1920), "4K": (2160, 3840)}


def network(row="v4.25 - v4.26", dtype=torch.float16):
    model = IFNet_v4(VERSIONS[row]).eval()
    model.load_state_dict(seeded_state(model))
    return model.to("cuda", dtype)


def clip(count, height=96, width=150, seed=1):
    return seeded_clip(count, height, width, seed)


@pytest.fixture
def counted(monkeypatch):
    """A list that grows with each captured graph."""
    graphs, capture = [], cuda_device.CudaDevice.capture_graph

    def counting(self, work):
        result = capture(self, work)
        graphs.append(1)
        return result

    monkeypatch.setattr(cuda_device.CudaDevice, "capture_graph", counting)
    return graphs


@pytest.mark.parametrize("kernels", ["nvrtc", "none"])
@pytest.mark.parametrize("row", ["v4.0 - v4.1", "v4.6", "v4.25 - v4.26"])
def test_frames_are_the_cpu_s(row, kernels, counted, caplog, monkeypatch):
    monkeypatch.setenv("RIFE_KERNELS", kernels)
    monkeypatch.setattr("rife.inference.planner.BATCH", 4)  # several calls, so that one is captured
    model, frames = network(row, torch.float32), clip(12)
    result = interpolate(model, frames, 3, ALL)
    wanted = interpolate(model.cpu(), frames, 3, ALL)
    assert not caplog.records, caplog.text
    assert len(counted) >= 2
    assert (result - wanted).abs().mean() < 1e-3  # convolutions may be in TF32


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_kernels_of_all_languages_make_the_same_frames(dtype, counted, caplog, monkeypatch):
    """In float16, of frames in bytes and in floats, captured."""
    monkeypatch.setattr("rife.inference.planner.BATCH", 4)
    frames, result = clip(12), {}
    frames = (255 * frames).byte() if dtype == torch.uint8 else frames
    for language in (*NAMES, "none"):
        monkeypatch.setenv("RIFE_KERNELS", language)
        model = network()
        assert kernel_choice.create_engine(model, frames.shape[1:3], 1.0).uses_kernels == (
            language != "none"
        )
        captured = len(counted)
        result[language] = interpolate(model, frames, 3, ALL).float()
        assert len(counted) > captured
        assert torch.equal(result[language], interpolate(model, frames, 3, ALL).float())
    assert not caplog.records, caplog.text
    levels = 255 if dtype == torch.uint8 else 1
    for one, other in combinations(result.values(), 2):
        assert (one - other).abs().mean() < kernel_choice.MOST_DIFFERENCE * levels


@pytest.mark.parametrize("stream", ["default", "other"])
def test_a_kernel_is_launched_on_the_current_stream_of_its_memory_s_device(stream):
    y = torch.full((1, 8, 512, 512), 1.0, device="cuda", dtype=torch.float16)
    bias = torch.ones(8, device="cuda", dtype=torch.float16)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream() if stream == "other" else None):
        for _ in range(100):  # each waits for the one before
            y = nvrtc_kernels.finish_convolution(y * 0.5, bias, None, None)
        result = y.cpu()
    assert (result == 2).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("version", ["v3.8", "v4.0"])
def test_float16_is_as_good_as_float32(clips, weights, version, size):
    """Ours in float16 against the plain network in float32, on real frames and weights."""
    frames = scaled_pair(clips("bikes"), 30, *SIZES[size])
    exact = load_model(weights(version), "cuda", torch.float32)
    scale = Options().scale_for(*SIZES[size])
    x = [pad(f.permute(2, 0, 1)[None].cuda(), exact.side_multiple(scale)) for f in frames]
    with torch.inference_mode():
        seen = [exact.prepare(i) for i in x]
        wanted = exact.motion(*seen, 0.5, scale=scale).render(*x)
    wanted = wanted[0, :, : SIZES[size][0], : SIZES[size][1]].permute(1, 2, 0).cpu()
    half = load_model(weights(version), "cuda", torch.float16)
    run = InferenceSession(half, Options())
    result = [next(run.render(*frames, [Fraction(1, 2)])) for _ in range(4)]  # the last as a graph
    run.close()
    for frame in result:
        error = frame.float() - wanted
        print(f"{version} {size}: {psnr(error):.1f} dB, worst tile {worst_tile(error):.1f}")
        assert psnr(error) >= 50 and worst_tile(error) >= 38
        assert torch.equal(frame, result[0])


def test_two_runs_give_the_same_bits():
    model, frames = network(), clip(20, 270, 480)
    first, second = (interpolate(model, frames, 2, ALL) for _ in range(2))
    assert torch.equal(first, second)


def test_frames_on_the_gpu_stay_there():
    model, frames = network(), clip(9)
    on_gpu = interpolate(model, frames.cuda(), 2)
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), interpolate(model, frames, 2))


def test_memory_is_flat_and_comes_back():
    """With the network, or when it is asked for."""
    model, frames = network(), clip(8, 270, 480)
    interpolate(model, frames, 2, ALL)  # what libraries keep once for all
    cuda_pipeline.idle_pipelines.release()
    gc.collect()
    torch.cuda.empty_cache()
    before, peaks = torch.cuda.mem_get_info()[0], []
    for count in (100, 300):  # either with its graphs captured
        torch.cuda.reset_peak_memory_stats()
        turning = clip(8, 270, 480)[torch.arange(count) % 8]
        interpolate(model, turning, 2, ALL)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < peaks[0] + 20e6
    (kept,) = cuda_pipeline.idle_pipelines._idle
    assert kept.pipeline.nbytes > 50e6
    torch.cuda.empty_cache()
    held = before - torch.cuda.mem_get_info()[0]
    print(f"kept {kept.pipeline.nbytes / 1e6:.0f} MB, of the device's memory {held / 1e6:.0f} MB")
    assert held / 3 < kept.pipeline.nbytes < 3 * held  # what it is capped by
    del kept, model
    gc.collect()
    torch.cuda.empty_cache()
    assert before - torch.cuda.mem_get_info()[0] < 50e6


def test_later_runs_capture_nothing_and_make_the_same(counted):
    model, frames = network(), clip(20, 270, 480)
    first = interpolate(model, frames, 2)
    captured = len(counted)
    assert captured >= 2
    for _ in range(3):
        assert torch.equal(interpolate(model, frames, 2), first)
    with suppress(Cancelled):
        calls = iter(range(1000))
        interpolate(model, frames, 2, cancel=lambda: next(calls) > 25)
    assert torch.equal(interpolate(model, frames, 2), first)
    assert len(counted) == captured
    model.load_state_dict(seeded_state(model, seed=3))
    assert not torch.equal(interpolate(model, frames, 2), first)


@pytest.mark.parametrize("resident", [False, True])
def test_planar_frames_make_the_same(resident):
    """As a VAE leaves them."""
    model, frames = network(), clip(12, 270, 480)
    planar = frames.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    result = [interpolate(model, x.cuda() if resident else x, 2).cpu() for x in (frames, planar)]
    assert torch.equal(*result)


def test_a_stream_of_the_caller_s_is_kept_to():
    model, frames = network(), clip(20, 270, 480)
    wanted = interpolate(model, frames, 2, ALL)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        resident = frames.cuda(non_blocking=True)
        result = interpolate(model, resident, 2, ALL)
        stream.synchronize()
    assert torch.equal(result.cpu(), wanted)


def test_two_runs_at_once_mix_nothing_up():
    model, clips = network(), [clip(20, 270, 480, seed) for seed in (1, 2)]
    wanted = [interpolate(model, frames, 2, ALL) for frames in clips]
    cuda_pipeline.idle_pipelines.release()
    with ThreadPoolExecutor(2) as threads:
        for _ in range(4):
            result = threads.map(lambda frames: interpolate(model, frames, 2, ALL), clips)
            assert all(map(torch.equal, result, wanted))


def test_no_memory_in_a_capture_is_known_and_answered(monkeypatch, caplog):
    """By emptying the caches, as a capture can't."""
    motion, failures = Engine.motion, []

    def full_at_first(self, *args, **options):
        if torch.cuda.is_current_stream_capturing() and not failures:
            failures.append(1)
            torch.empty(2**46, dtype=torch.uint8, device="cuda")
        return motion(self, *args, **options)

    model, frames = network(), clip(20, 270, 480)
    wanted = interpolate(model, frames, 2, ALL)
    cuda_pipeline.idle_pipelines.release()
    monkeypatch.setattr(Engine, "motion", full_at_first)
    assert torch.equal(interpolate(model, frames, 2, ALL), wanted)
    assert failures and not caplog.records, caplog.text


def test_runs_of_all_kinds_mix_nothing_up():
    models = [network(row) for row in ("v4.0 - v4.1", "v4.6", "v4.25 - v4.26")]
    order, wanted = random.Random(0), {}
    for run in range(200):
        number, size = order.randrange(3), order.choice([(96, 150), (128, 64)])
        key = number, size, order.choice([2, 6, 12])
        frames = clip(key[2], *size)
        if key not in wanted:
            wanted[key] = interpolate(models[number], frames, 2, ALL)
        if run % 3 == 0:
            calls = iter(range(1000))
            with suppress(Cancelled):
                interpolate(models[number], frames, 2, ALL, cancel=lambda c=calls: next(c) > 4)
        assert torch.equal(interpolate(models[number], frames, 2, ALL), wanted[key]), run
