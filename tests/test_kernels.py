"""The GPU kernels, in each language, against plain torch; and that they compile for GPUs.

They run on a GPU where there is one, else on the CPU, in Triton's interpreter or by a C++ compiler.
"""

import logging
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.kernels import ARCHITECTURES, resources
from benchmarks.kernels import variants as kernel_variants
from rife import interpolate
from rife.engine.engine import Engine
from rife.engine.kernels import nvrtc_kernels
from rife.engine.kernels.estimation import kernel_estimation
from rife.engine.kernels.interface import BlockInputLayout, RawBlockOutput, load_kernels
from rife.inference import cuda_device, kernel_choice
from rife.inference.cuda_device import begin_download
from rife.inference.cuda_pipeline import CudaPipeline
from rife.inference.frames import FrameSpec, Job
from rife.networks.base import blend
from rife.networks.warp import resize, warp
from rife.options import Options

from .support.cases import slow_after_first
from .support.cpu_kernels import CpuKernelLauncher
from .support.late_device import LateDevice
from .support.networks import NETWORKS, option_sets, seeded_network
from .support.seeded import seeded_clip, seeded_images

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROOT = Path(__file__).parents[1]
SIZE = HEIGHT, WIDTH = 32, 64
#: Outputs of the blocks before: planes, PixelShuffle, and factor. It is above the scale of the next
#: block, as only then upscaling them less is the same as upscaling and then downscaling them.
OUTPUTS = {
    "none": [],
    "one": [(5, 1, 8)],
    "shuffled": [(14, 2, 8)],
    "many": [(5, 1, 32), (6, 2, 16), (9, 1, 8)],
}
CLOSE = 2e-5 if DEVICE == "cpu" else 2e-4


ON_CPU = CpuKernelLauncher(nvrtc_kernels.SOURCE_FILE)


#: Triton's are tested on GPUs as part of whole runs (test_cuda.py), as each takes seconds to
#: compile, and on CPUs among the slow tests, as its interpreter takes seconds, too.
ON_GPUS = [pytest.mark.cuda] if DEVICE == "cuda" else []
#: Triton's kernels leave preparing frames and packing blocks' outputs to torch.
ONLY_NVRTC = pytest.param("nvrtc", marks=ON_GPUS)
LANGUAGES = [pytest.param("triton", marks=pytest.mark.slow), ONLY_NVRTC]


@pytest.fixture(params=LANGUAGES)
def language(request, monkeypatch):
    """The language of the kernels."""
    if request.param == "triton":
        pytest.importorskip("triton", reason="Triton is for Linux")
    if DEVICE == "cpu" and request.param == "triton":
        # The interpreter takes as long for a program of few pixels as for one of many.
        monkeypatch.setattr(load_kernels("triton"), "BLOCK", 2048)
    if DEVICE == "cpu" and request.param == "nvrtc":
        monkeypatch.setattr(nvrtc_kernels, "_launcher", ON_CPU)
        monkeypatch.setattr(nvrtc_kernels, "precompile", ON_CPU.precompile)
    return request.param


@pytest.fixture
def kernels(language):
    return load_kernels(language)


def random_outputs(name, kernels, batch=2):
    random = torch.Generator().manual_seed(3)
    outputs = []
    for count, shuffle, factor in OUTPUTS[name]:
        h, w = HEIGHT // factor // shuffle, WIDTH // factor // shuffle
        planes = torch.rand(batch, count * shuffle**2, h, w, generator=random) * 4 - 2
        planes = planes.to(DEVICE).contiguous(memory_format=torch.channels_last)
        if kernels.pack_block_output:
            no_bias = planes.new_zeros(planes.shape[1])
            planes, shuffle = kernels.pack_block_output(planes, no_bias, shuffle), 1
        outputs.append(RawBlockOutput(planes, shuffle, factor))
    return outputs


def full_size(outputs, adds):
    """Flow, (2, 4, H, W), and mask and features, by plain torch at full size."""
    flow, passed = torch.zeros(2, 4, *SIZE, device=DEVICE), None
    for output in outputs:
        planes = F.pixel_shuffle(output.planes.float().contiguous(), output.shuffle)
        planes = resize(planes, output.factor)
        flow += planes[:, :4] * output.factor
        passed = passed[:, :1] + planes[:, 4:5] if adds and passed is not None else planes[:, 4:]
    return flow, passed


def random_frames(channels, frame_channels):
    random = torch.Generator().manual_seed(4)
    frames = torch.zeros(3, frame_channels, *SIZE)
    frames[:, :channels] = torch.rand(3, channels, *SIZE, generator=random)
    return frames.to(DEVICE).contiguous(memory_format=torch.channels_last)


INDICES = torch.tensor([2, 0], device=DEVICE), torch.tensor([1, 2], device=DEVICE)


@pytest.mark.parametrize("language", [ONLY_NVRTC], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("features", "frame_channels"), [(0, 3), (0, 4), (4, 8)])
def test_frames_are_prepared_as_plain_torch_does(
    kernels, dtype, channels, features, frame_channels
):
    images = torch.rand(3, HEIGHT - 3, WIDTH - 5, channels, device=DEVICE)
    images = (255 * images).byte() if dtype == torch.uint8 else images.to(dtype)
    feature_planes = torch.rand(1, features, *SIZE, device=DEVICE) if features else None
    slots = torch.rand(3, frame_channels, *SIZE, device=DEVICE).contiguous(
        memory_format=torch.channels_last
    )
    before, index = slots.clone(), torch.tensor([1], device=DEVICE)
    kernels.prepare_frame(slots, images, index, feature_planes, index)
    x = images[1:2].permute(0, 3, 1, 2).float() / (255 if dtype == torch.uint8 else 1)
    x = F.pad(x, (0, 5, 0, 3), mode="replicate")
    expected = torch.zeros(frame_channels, *SIZE, device=DEVICE)
    expected[:3] = x[0, :3]
    expected[3 : 3 + features] = feature_planes[0] if features else 0
    assert (slots[1] - expected).abs().max() < 1e-6
    assert torch.equal(slots[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize(
    ("before", "channels", "frame_channels", "parts"),
    [
        ("none", 7, 8, {"warped", "time"}),
        ("none", 3, 4, {"unwarped", "time"}),
        ("none", 3, 4, {"warped", "mask", "flow"}),
        ("one", 3, 4, {"warped", "unwarped", "mask", "flow"}),
        ("shuffled", 11, 16, {"warped", "time", "mask", "features", "flow"}),
        ("many", 7, 8, {"warped", "time", "mask", "features", "flow"}),
        ("many", 3, 4, {"warped", "unwarped", "time", "mask", "flow"}),
    ],
)
def test_block_inputs_are_those_of_plain_torch(
    kernels, before, scale, channels, frame_channels, parts
):
    outputs, adds = random_outputs(before, kernels), "features" not in parts
    frames = random_frames(channels, frame_channels)
    times = torch.tensor([0.3, 0.9], device=DEVICE)
    flow, passed = full_size(outputs, adds)
    if passed is None:
        passed = torch.zeros(2, 1, *SIZE, device=DEVICE)
    expected = []
    if "warped" in parts:
        expected += [warp(frames[i], f) for i, f in zip(INDICES, flow.split(2, 1), strict=True)]
    if "unwarped" in parts:
        expected += [frames[i] for i in INDICES]
    if "time" in parts:
        expected += [times.view(2, 1, 1, 1).expand(2, 1, *SIZE)]
    if "mask" in parts:
        expected += [passed]
    if "flow" in parts:
        expected += [flow / scale]
    expected = resize(torch.cat(expected, 1), 1 / scale)
    all_channels = -(-(expected.shape[1] + 1) // 8) * 8
    layout = BlockInputLayout(
        scale, "warped" in parts, "unwarped" in parts, int("time" in parts),
        passed.shape[1] * ("mask" in parts), 4 * ("flow" in parts), all_channels,
    )  # fmt: skip
    result = kernels.gather_block_input(frames, INDICES, times, outputs, layout, adds_masks=adds)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert (result[:, : expected.shape[1]] - expected).abs().max() < CLOSE
    assert not result[:, expected.shape[1] :].any()


@pytest.mark.parametrize("before", list(OUTPUTS)[1:])
@pytest.mark.parametrize("adds", [False, True])
def test_flow_and_mask_are_those_of_plain_torch(kernels, before, adds):
    outputs = random_outputs(before, kernels)
    flow, passed = full_size(outputs, adds)
    result = kernels.full_size_motion(outputs, SIZE, adds_masks=adds)
    assert (result[:, :4] - flow).abs().max() < CLOSE * flow.abs().max()
    assert (result[:, 4:] - passed[:, :1]).abs().max() < CLOSE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("residual", [False, True])
def test_frames_are_those_of_plain_torch(kernels, channels, residual, dtype):
    outputs = random_outputs("many", kernels)
    random = torch.Generator().manual_seed(5)
    images = torch.rand(3, HEIGHT - 3, WIDTH - 5, channels, generator=random).to(DEVICE)
    images = (255 * images).byte() if dtype == torch.uint8 else images.to(dtype)
    added = None
    if residual:
        added = torch.rand(2, 3, *SIZE, generator=random).to(DEVICE) - 0.5
    result = kernels.render_frames(images, INDICES, outputs, SIZE, adds_masks=True, residual=added)
    assert result.dtype == dtype and result.shape == (2, *images.shape[1:])

    levels = 255 if dtype == torch.uint8 else 1
    x = images.permute(0, 3, 1, 2).float() / levels
    x = F.pad(x, (0, 5, 0, 3), mode="replicate")
    flow, mask = full_size(outputs, True)
    warped = (warp(x[i], f) for i, f in zip(INDICES, flow.split(2, 1), strict=True))
    expected = blend(*warped, torch.sigmoid(mask), added)[:, :, : HEIGHT - 3, : WIDTH - 5].permute(
        0, 2, 3, 1
    )
    if dtype == torch.uint8:
        difference = result.float() - (255 * expected).round()
        assert difference.abs().max() <= 1 and (difference != 0).float().mean() < 1e-3
    else:
        assert (result.float() - expected).abs().max() < (CLOSE if dtype == torch.float32 else 1e-3)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("flow", [(1e9, -1e9, -1e9, 1e9), (1e9, -1e9, math.nan, math.inf)])
def test_flow_that_leaves_the_image_reads_nothing_from_elsewhere(kernels, flow):
    """Where flow is not finite the frame may be NaN: the run ends with an error then."""
    outputs = random_outputs("one", kernels, batch=1)
    outputs[0].planes[:, :4] = torch.tensor(flow, device=DEVICE)[:, None, None]
    images = torch.rand(3, *SIZE, 3, device=DEVICE)
    indices = tuple(index[:1] for index in INDICES)
    result = kernels.render_frames(images, indices, outputs, SIZE, adds_masks=True)
    assert result.shape == (1, *images.shape[1:])
    if not math.isfinite(sum(flow)):
        result = result.nan_to_num(0)
    assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("language", [ONLY_NVRTC], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "shuffle"), [(5, 1), (8, 1), (24, 2), (56, 2)])
def test_blocks_outputs_are_packed_as_plain_torch_shuffles_them(kernels, channels, shuffle, dtype):
    y = torch.randn(2, channels, 7, 9, device=DEVICE).to(dtype)
    bias = torch.randn(channels, device=DEVICE).to(dtype)
    expected = F.pixel_shuffle(y.float() + bias.float()[:, None, None], shuffle)
    result = kernels.pack_block_output(y, bias, shuffle)
    assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    assert result.shape[1] % 4 == 0
    planes = expected.shape[1]
    assert torch.equal(result[:, :planes], expected.to(dtype))
    assert not result[:, planes:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("slopes", [None, 0.2, "each"])
@pytest.mark.parametrize("residual", [False, True])
def test_activations_are_those_of_plain_torch(kernels, dtype, slopes, residual):
    y, x = (torch.randn(2, 6, 7, 9, device=DEVICE).to(dtype) for _ in range(2))
    bias = torch.randn(6, device=DEVICE).to(dtype)
    if slopes is not None:
        slopes = torch.rand(6, device=DEVICE) if slopes == "each" else torch.tensor([slopes] * 6)
        slopes = slopes.to(DEVICE, dtype)
    expected = y.float() + bias.float()[:, None, None] + (x.float() if residual else 0)
    if slopes is not None:
        expected = F.prelu(expected, slopes.float())
    result = kernels.finish_convolution(y.clone(), bias, slopes, x if residual else None)
    assert result.dtype == dtype
    assert (result.float() - expected).abs().max() < (1e-6 if dtype == torch.float32 else 4e-3)


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """On GPUs convolutions may use TF32, whose error is larger than that of the kernels."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


FEW = ("v3.5", "v4.25 - v4.26")


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_engines_with_and_without_kernels_make_the_same(language, name):
    network = seeded_network(name).to(DEVICE)
    multiple = network.side_multiple()
    images = seeded_images(multiple, multiple).view(2, 3, multiple, multiple).to(DEVICE)
    times = torch.tensor([0.3, 0.7], device=DEVICE).view(2, 1, 1, 1)
    for options in option_sets(network):
        with torch.inference_mode():
            plain, fused = Engine(network), Engine(network, kernel_estimation(language))
            frames = [plain.prepare(x[None], refine=options["refine"]) for x in images]
            motion = plain.motion(*frames, 0.3, **options)
            expected = motion.render(*(x[None] for x in images))
            prepared = fused.prepare(images, refine=options["refine"])
            indices = (torch.tensor(i, device=DEVICE) for i in ((0, 1), (1, 0)))
            pair = (prepared.with_index(index) for index in indices)
            result = fused.motion(*pair, times, doubling_flags=[], **options)
            frame = result.render_frames(images.permute(0, 2, 3, 1).contiguous()).permute(
                0, 3, 1, 2
            )
        reach = motion.flow.abs().max()
        assert reach > 0.3
        assert (frame[:1] - expected).abs().max() < CLOSE, options
        assert (result.flow[:1] - motion.flow).abs().max() < CLOSE * max(1, reach), options
        assert (result.mask[:1] - motion.mask).abs().max() < CLOSE, options


@pytest.mark.parametrize(
    ("name", "dtype"),
    slow_after_first(
        [
            ("v3.5", torch.uint8),
            ("v3.5", torch.float32),
            ("v4.6", torch.uint8),
            ("v4.25 - v4.26", torch.uint8),
        ],
        1,
    ),
)
def test_kernels_read_slots_and_are_recorded(language, name, dtype):
    network = seeded_network(name).to(DEVICE)
    frames = seeded_clip(5, 32, 61)
    frames = (255 * frames).byte() if dtype == torch.uint8 else frames
    device = LateDevice(1) if DEVICE == "cpu" else cuda_device.CudaDevice(network.device)
    spec = FrameSpec.of(frames[0], network, Options())
    engine = Engine(network, kernel_estimation(language))
    pipeline = CudaPipeline(engine, Options(), device, spec, dtype, batch=1)
    result = []
    for pair in pairwise(frames):
        compiled = len(ON_CPU.loaded)
        result.append(begin_download(device, pipeline.render([Job(*pair, Fraction(1, 2))])[0])())
        assert len(result) == 1 or len(ON_CPU.loaded) == compiled  # none while work is captured
    result = torch.cat(result)
    expected = interpolate(network.cpu(), frames, options=Options(cuts="ignore"))[1::2]
    difference = (result.float() - expected.float()).abs()
    assert difference.max() <= (1 if dtype == torch.uint8 else CLOSE)
    assert difference.mean() < 1e-3
    assert DEVICE == "cuda" or device.replays


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("amount, doubt", [(0.0, 0.0), (torch.inf, torch.nan)])
def test_kernels_notice_flow_that_is_not_finite(language, amount, doubt):
    network = seeded_network("v3.5").to(DEVICE)
    with torch.no_grad():
        network.block2.conv1[0].bias[0] = amount
    device = LateDevice(1) if DEVICE == "cpu" else cuda_device.CudaDevice(network.device)
    frames = (255 * seeded_clip(2, 32, 32)).byte()
    spec = FrameSpec.of(frames[0], network, Options())
    engine = Engine(network, kernel_estimation(language))
    pipeline = CudaPipeline(engine, Options(), device, spec, torch.uint8, batch=1)
    _, doubts = pipeline.render([Job(*frames, Fraction(1, 2))])
    assert begin_download(device, doubts)().tolist() == pytest.approx([doubt], nan_ok=True)


@pytest.mark.skipif(DEVICE == "cuda", reason="there the kernels are not the CPU's")
@pytest.mark.parametrize(
    ("names", "said"),
    [(("triton", "nvrtc"), "nvrtc"), (("triton",), "without the fused kernels"), ((), "")],
)
def test_where_triton_is_missing_nvrtc_runs(names, said, caplog, monkeypatch):
    monkeypatch.setattr("rife.engine.kernels.interface.NAMES", names)
    monkeypatch.setattr(kernel_choice, "_checked_estimations", {})
    monkeypatch.setattr(kernel_choice, "kernel_estimation", kernel_estimation.__wrapped__)
    monkeypatch.setattr(nvrtc_kernels, "_launcher", ON_CPU)
    monkeypatch.setattr(nvrtc_kernels, "precompile", ON_CPU.precompile)
    monkeypatch.setitem(sys.modules, "rife.engine.kernels.triton_kernels", None)
    caplog.set_level(logging.INFO)
    engine = kernel_choice.create_engine(seeded_network("v3.5"), SIZE, 1.0)
    assert engine.uses_kernels == ("nvrtc" in names)
    assert said in caplog.text
    assert not [r for r in caplog.records if r.levelno > logging.INFO]  # nothing is wrong


COMPILE = """
import sys, torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from rife.engine.kernels import triton_kernels as kernels
from rife.engine.engine import Engine
from rife.engine.kernels.estimation import kernel_estimation
from tests.support.networks import seeded_network

class Driver:
    def get_current_device(self): return self.number
    def get_current_target(self): return GPUTarget(*TARGETS[self.number])
    def get_current_stream(self, device): return 0

class Compiled:
    def __init__(self, kernel): self.kernel = kernel
    def __getitem__(self, grid): return self.launch
    def launch(self, *args, **options):
        for driver.active.number in range(len(TARGETS)):
            self.kernel.run(*args, grid=(1,), warmup=True, **options)
        print(self.kernel.__name__, flush=True)

TARGETS = eval(sys.argv[1])
KERNELS = "_gather_block_input", "_render_frames", "_full_size_motion", "_finish_convolution"
driver.set_active(Driver())
for name in KERNELS:
    setattr(kernels, name, Compiled(getattr(kernels, name)))
for name in sys.argv[2:]:
    network = seeded_network(name).half()
    m = network.side_multiple()
    with torch.inference_mode():
        refine = "refine" in network.options | network.built_in
        engine = Engine(network, kernel_estimation("triton"))
        both = engine.prepare(torch.zeros(2, 3, m, m), refine=refine)
        first, second = (both.with_index(torch.tensor([i])) for i in (0, 1))
        ensemble = "ensemble" in network.options
        options = {"refine": refine, "ensemble": ensemble}
        motion = engine.motion(first, second, 0.5, doubling_flags=[], **options)
        motion.render_frames(torch.zeros(2, m, m, 3, dtype=torch.half))
        motion.render_frames(torch.zeros(2, m, m, 4, dtype=torch.uint8))
"""


@pytest.mark.slow
def test_all_kernels_of_all_kinds_of_networks_compile_for_gpus():
    targets = [("cuda", 75, 32), ("cuda", 90, 32), ("hip", "gfx1100", 32)]
    names = ["v4.25 - v4.26", "v4.0 - v4.1"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, repr(targets), *names],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"_gather_block_input", "_render_frames", "_finish_convolution"} <= set(
        done.stdout.split()
    )


@pytest.fixture(scope="module")
def variants():
    """The CUDA C kernels of all networks."""
    return kernel_variants(seeded_network(name).half() for name in NETWORKS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="NVIDIA has nothing for macOS")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_cuda_c_kernels_of_all_networks_compile_for_gpus_and_hardly_spill(
    variants, architecture
):
    kinds = re.findall(r"^KERNEL (\w+)", nvrtc_kernels.SOURCE_FILE.read_text(), re.M)
    assert {name.partition("<")[0] for name in variants} == set(kinds)
    with ThreadPoolExecutor(2) as threads:
        needed = threads.map(resources, variants, [architecture] * len(variants))
        needed = dict(zip(variants, needed, strict=True))
    # Stack frame, stores and loads together: v4.26 heavy's last gather spills 48 bytes on sm_80 and
    # 16 on sm_75. An array in the wrong memory would be hundreds.
    assert not {name: x for name, x in needed.items() if x.spilled > 48}
    assert max(x.registers for x in needed.values()) <= 128
