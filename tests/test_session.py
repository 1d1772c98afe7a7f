"""Where memory is short, smaller calls give the same frames, in a fixed order of attempts, each
logged once."""

import copy
import gc
import logging
import math
import os
import subprocess
import sys
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import psutil
import pytest
import torch
from torch.overrides import TorchFunctionMode

from rife import load_model
from rife.callbacks import Cancelled
from rife.engine.engine import Engine
from rife.inference.frames import FrameSpec, Job
from rife.inference.planner import (
    BATCH_PIXELS,
    MemoryPlanner,
    NotEnoughMemory,
    _free_in_container,
    available_memory,
    copy_to_cpu,
    is_out_of_memory,
)
from rife.inference.session import InferenceSession
from rife.networks.base import Motion
from rife.networks.ifnet_hdv3 import IFNet_HDv3
from rife.options import Options

from .support.seeded import seeded_images

HALF = Fraction(1, 2)
QUARTERS = [Fraction(1, 4), HALF, Fraction(3, 4)]
LOTS = 10**12


@pytest.fixture(scope="module")
def bikes(clips):
    """(3, 192, 512, 3) uint8: a window of a real clip. Needs no padding."""
    with av.open(str(clips("bikes"))) as container:
        frames = [f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), 5, 8)]
    return torch.stack([torch.from_numpy(f) for f in frames])[:, 40:232, 64:576].contiguous()


def psnr(a, b):
    return -10 * torch.log10((a.float() - b.float()).square().mean().clamp_min(1e-12))


def seam(error, columns):
    """The mean step across the worst column of pixels near where two tiles meet, in levels of 255.
    error: (H, W, 3)."""
    steps = 255 * error.diff(dim=1).abs().mean((0, 2))
    middle = error.shape[1] // columns
    return steps[middle - 20 : middle + 20].max()


class FakeCuda(TorchFunctionMode):
    """Tensors sent to CUDA stay on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        cuda = torch.device("cuda")
        here = [
            torch.device("cpu") if isinstance(a, torch.device) and a == cuda else a for a in args
        ]
        return function(*here, **(kwargs or {}))


@pytest.fixture
def on_device(monkeypatch):
    """on_device(model, cuda, cpu): `model` on a pretended GPU.

    Calls of more than `cuda` pixels there, or `cpu` pixels on the CPU, run out of memory. Its
    attribute `calls` lists (device, batch, pixels) of every call.
    """

    def make(model, cuda=LOTS, cpu=LOTS):
        weight = next(model.parameters())
        calls = []

        class Limited(type(model)):
            @property
            def device(self):
                is_original = next(self.parameters()) is weight  # a copy on the CPU has others
                return torch.device("cuda" if is_original else "cpu")

            def check(self, first):
                pixels = first.image[:, 0].numel()
                if pixels > {"cuda": cuda, "cpu": cpu}[self.device.type]:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

            def motion(self, first, second, *args, **options):  # the look ahead
                self.check(first)
                return super().motion(first, second, *args, **options)

        class LimitedEngine(Engine):
            def motion(self, first, second, *args, **options):
                if isinstance(self.network, Limited):
                    self.network.check(first)
                    pixels = first.image[:, 0].numel()
                    calls.append((self.network.device.type, len(first.image), pixels))
                return super().motion(first, second, *args, **options)

        monkeypatch.setattr("rife.inference.torch_backend.Engine", LimitedEngine)
        monkeypatch.setattr(
            "rife.inference.cuda_device.cuda_device_of", lambda model: None
        )  # it can't do more than that
        limited = copy.copy(model)
        limited.__class__ = Limited
        limited.calls = calls
        return limited

    with FakeCuda():
        yield make


@pytest.mark.parametrize("tta", [False, True])
def test_several_timesteps_in_one_call_give_what_one_by_one_gives(v40, bikes, on_device, tta):
    first, second = bikes[:2, 60:180, 100:228].float() / 255
    options = Options(tta=tta, refine=True)
    single = list(InferenceSession(v40, options, memory_limit=LOTS).render(first, second, QUARTERS))
    model = on_device(v40)
    together = list(
        InferenceSession(model, options, memory_limit=LOTS).render(first, second, QUARTERS)
    )
    assert [batch for _, batch, _ in model.calls] == [6 if tta else 3]
    for a, b in zip(single, together, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_batches_are_no_larger_than_helps(v40, bikes, on_device, monkeypatch):
    model = on_device(v40)
    whole = 192 * 512
    monkeypatch.setitem(BATCH_PIXELS, "else", 2 * whole)
    list(InferenceSession(model, Options(), memory_limit=LOTS).render(*bikes[:2], QUARTERS))
    assert model.calls == [("cuda", 2, 2 * whole), ("cuda", 1, whole)]


def test_no_memory_is_answered_by_smaller_batches_then_tiles_then_the_cpu(
    v40, bikes, on_device, caplog
):
    """Each step is logged once, no frame is made twice, and the next pair starts where this one
    ended."""
    whole = 192 * 512
    expected = [
        list(
            InferenceSession(v40, Options(), memory_limit=LOTS).render(*bikes[i : i + 2], QUARTERS)
        )
        for i in range(2)
    ]
    for most, how, lines in (
        (2 * whole, "one at a time on cuda", 1),
        (whole - 1, "in 1 x 2 tiles on cuda", 2),
        (100, "3 at a time on the CPU", 2),
    ):
        caplog.clear()
        model = on_device(v40, cuda=most)
        session = InferenceSession(model, Options(), memory_limit=LOTS)
        for i in range(2):
            result = list(session.render(*bikes[i : i + 2], QUARTERS))
            assert len(result) == 3
            assert (
                min(psnr(a / 255, b / 255) for a, b in zip(result, expected[i], strict=True)) > 45
            )
            assert len(caplog.records) == lines, caplog.text
        assert how in caplog.messages[-1]
        assert "out of memory: frames of 512x192" in caplog.messages[-1]
        assert "CUDA out of memory" in caplog.messages[-1]
        assert {r.levelno for r in caplog.records} == {logging.WARNING}
    assert next(v40.parameters()).device.type == "cpu"
    assert {where for where, _, _ in model.calls} == {"cpu"}


def test_memory_that_ends_in_the_middle_of_a_pair_spares_the_frames_made(
    v40, bikes, on_device, monkeypatch
):
    model = on_device(v40)
    session = InferenceSession(
        model, Options(), memory_limit=192 * 512 * 500
    )  # bytes: one at a time
    frames = session.render(*bikes[:2], QUARTERS)
    result = [next(frames)]
    plain, failures = Engine.motion, []

    def fails_once(self, *args, **options):
        if not failures:
            failures.append(1)
            raise RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)")
        return plain(self, *args, **options)

    monkeypatch.setattr(Engine, "motion", fails_once)
    result += frames
    assert len(result) == 3
    assert failures
    for a, b in zip(
        result, InferenceSession(v40, Options()).render(*bikes[:2], QUARTERS), strict=True
    ):
        assert psnr(a / 255, b / 255) > 45


def test_nothing_of_the_failed_call_is_held_when_memory_is_freed(
    v40, bikes, on_device, monkeypatch
):
    """Of all tensors as large as a frame, only the caller's are left."""
    left = []

    def count(device):
        gc.collect()
        tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]
        left.append(len([x for x in tensors if x.ndim == 4 and x.shape[-1] == 512]))

    monkeypatch.setattr("rife.inference.planner.free_memory", count)
    model = on_device(v40, cuda=192 * 512 - 1)
    list(InferenceSession(model, Options(), memory_limit=LOTS).render(*bikes[:2], [HALF]))
    assert left == [0]


def test_where_nothing_is_left_to_try_people_are_told(v40, bikes, on_device):
    model = on_device(v40, cuda=100, cpu=100)
    with pytest.raises(NotEnoughMemory, match="512x192.*on the CPU: close other programs"):
        list(InferenceSession(model, Options(), memory_limit=LOTS).render(*bikes[:2], [HALF]))


def test_other_errors_pass(v40, bikes, monkeypatch):
    monkeypatch.setattr("rife.engine.engine.Engine.motion", lambda *args, **options: [][1])
    with pytest.raises(IndexError):
        list(InferenceSession(v40, Options(), memory_limit=LOTS).render(*bikes[:2], [HALF]))


def test_an_8k_frame_is_planned_in_tiles_that_4_gb_hold(v40, monkeypatch):
    """Checks the plan only; benchmarks/tiles.md has a real run."""
    monkeypatch.setattr("rife.inference.planner.measure_tile_margin", lambda *args: (v40, 676))
    frame = torch.zeros(1, 1, 3, dtype=torch.uint8).expand(4320, 7680, 3)
    spec = FrameSpec.of(frame, v40, Options())
    plan = MemoryPlanner(v40, Options(), 4 * 10**9).plan([Job(frame, frame, HALF)], spec)
    assert plan.grid == (2, 2)
    for tile in plan.tiles:
        sides = len(tile.rows), len(tile.columns)
        assert v40.memory_needed(*sides, scale=0.25, refine=False) <= 4 * 10**9


@pytest.mark.parametrize("version", ["v4.0", "v3.8"])
def test_tiles_agree_with_the_whole_frame_and_show_no_seam(v40, v38, bikes, version, caplog):
    caplog.set_level(logging.INFO)
    model = {"v4.0": v40, "v3.8": v38}[version]
    pair = bikes[:2, :128].float() / 255
    needed = model.memory_needed(*pair[0].shape, refine=False)
    (whole,) = InferenceSession(model, Options(), memory_limit=LOTS).render(*pair, [HALF])
    assert not caplog.records
    session = InferenceSession(model, Options(), memory_limit=needed * 0.8)
    for _ in range(2):
        (tiled,) = session.render(*pair, [HALF])
    assert caplog.messages == [
        "frames of 512x128 take more memory than is free: they are made in 1 x 2 tiles on the CPU"
    ]
    assert not torch.equal(tiled, whole)
    assert psnr(tiled, whole) > 50
    assert seam(tiled - whole, 2) < 0.33  # what rounding to 8 bits makes


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("limit", [LOTS, 30_000_000])
def test_motion_is_what_the_frame_is_made_by(v40, bikes, tta, limit):
    first, second = bikes[:2].float() / 255
    flow, mask = InferenceSession(v40, Options(tta=tta), memory_limit=limit).estimate_motion(
        first, second, HALF
    )
    assert flow.shape == (192, 512, 4)
    assert mask.shape == (192, 512)
    images = (x.permute(2, 0, 1)[None] for x in (first, second))
    motion = Motion(flow.permute(2, 0, 1)[None], mask[None, None])
    frame = motion.render(*images)[0].permute(1, 2, 0)
    (result,) = InferenceSession(v40, Options(tta=tta), memory_limit=LOTS).render(
        first, second, [HALF]
    )
    # Frames averaged over both passes are not quite what averaged motion makes.
    inner = slice(40, 150), slice(40, 470)
    assert psnr(frame[inner], result[inner]) > (32 if tta else 48)


def test_a_network_with_a_fixed_timestep_gives_the_motion_to_the_middle(v38, bikes):
    session = InferenceSession(v38, Options(), memory_limit=LOTS)
    for a, b in zip(
        session.estimate_motion(*bikes[:2, :64, :64]),
        session.estimate_motion(*bikes[:2, :64, :64], Fraction(1, 4)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_recursion_goes_through_tiles(v38, bikes):
    pair, quarter = bikes[:2, :128], [Fraction(1, 4)]
    (whole,) = InferenceSession(v38, Options(), memory_limit=LOTS).render(*pair, quarter)
    (tiled,) = InferenceSession(v38, Options(), memory_limit=20_000_000).render(*pair, quarter)
    assert not torch.equal(tiled, whole)
    assert psnr(tiled / 255, whole / 255) > 45


def test_cancel_stops_between_tiles(v40, bikes):
    asked = []
    session = InferenceSession(
        v40, Options(), lambda: asked.append(1) or len(asked) == 3, 20_000_000
    )
    with pytest.raises(Cancelled):
        list(session.render(*bikes[:2], [HALF]))
    assert len(asked) == 3


def test_every_kind_of_no_memory_is_known():
    for fails in (
        lambda: torch.empty(2**50),
        lambda: torch.nn.Conv2d(1, 2**16, 1)(torch.ones(1, 1, 2**12, 2**12)),
        lambda: bytearray(2**60),
        lambda: np.empty(2**60, np.uint8),
    ):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            fails()
        assert is_out_of_memory(caught.value), caught.value
    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.90 GB, max allowed: 18.13 GB)"),
        RuntimeError("XPU out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"
        ),  # fmt: skip
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough "
            "memory: you tried to allocate 7962624000 bytes."
        ),  # fmt: skip
    ):
        assert is_out_of_memory(error), error
    for error in (RuntimeError("mat1 and mat2 shapes"), ValueError("out of memory"), KeyError(1)):
        assert not is_out_of_memory(error), error


def test_a_copy_on_the_cpu_is_whole_and_leaves_the_model_as_it_is():
    model = IFNet_HDv3().eval().bfloat16()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ours = copy_to_cpu(model)
    assert type(ours) is IFNet_HDv3
    assert ours.dtype == torch.float32
    assert not ours.training
    for key, value in ours.state_dict().items():
        assert torch.equal(value, before[key].float())
        assert torch.equal(model.state_dict()[key], before[key])
    assert model.dtype == torch.bfloat16


def test_a_container_leaves_what_it_may_have_less_what_is_used(tmp_path):
    cpu = torch.device("cpu")
    assert 0 < available_memory(cpu) <= psutil.virtual_memory().total / 2
    assert _free_in_container(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("5000\n")
    stat = "anon 2000\ninactive_file 1000\nactive_file 500\nworkingset_refault_file 7\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert _free_in_container(tmp_path) == 8000 - 5000 + 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_in_container(tmp_path) == math.inf


UNDER_A_LIMIT = """
import logging, resource, sys
from fractions import Fraction
from pathlib import Path
import torch
from rife import load_model
from rife.networks.base import Motion
from rife.options import Options
from rife.inference.session import InferenceSession

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
model = load_model(sys.argv[1], "cpu")
torch.manual_seed(0)
small = torch.nn.functional.interpolate(torch.rand(1, 3, 60, 110), (2160, 3860), mode="bilinear")
wide = (small[0] * 255).to(torch.uint8).permute(1, 2, 0).contiguous()
first, second = wide[:, :3840].clone(), wide[:, 20:].clone()
del small, wide
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 560_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
# The limit is wrong by far: failures have to be answered.
session = InferenceSession(model, Options(), memory_limit=10**12)
(frame,) = session.render(first, second, [Fraction(1, 2)])
true = torch.cat((first[:, 10:], second[:, -10:]), 1).float()
error = (frame.float() - true)[:, 100:-100] / 255
print("PSNR", -10 * error.square().mean().log10().item())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")
def test_4k_is_made_in_560_mb_whose_end_the_allocator_tells(weights):
    """Real failures of the CPU's allocator: one warning per attempt, and the right frame in the
    end."""
    command = [sys.executable, "-c", UNDER_A_LIMIT, str(weights("v4.0.safetensors"))]
    # Of address space, threads' heaps reserve much, and freed memory is kept: the less, the surer.
    plain = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | plain
    )
    assert run.returncode == 0, run.stderr
    *lines, last = run.stdout.splitlines()
    assert lines
    assert all(line.startswith("out of memory: frames of 3840x2160 are made in") for line in lines)
    assert "allocate" in lines[0]
    assert float(last.split()[1]) > 35


@pytest.mark.cuda
def test_cuda_that_is_short_of_memory_makes_the_same_frames_in_tiles(weights, caplog):
    model = load_model(weights("v4.0.safetensors"), "cuda", torch.float32)
    pair = seeded_images(1088, 1920).unflatten(1, (2, 3))[0].permute(0, 2, 3, 1)
    (whole,) = InferenceSession(model, Options()).render(*pair, [HALF])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(400e6 / total)
    try:
        result = list(
            InferenceSession(model, Options(), memory_limit=LOTS).render(*pair, [HALF, HALF])
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "tiles on cuda" in caplog.text
    assert min(psnr(frame, whole) for frame in result) > 45
