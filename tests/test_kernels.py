"""The fused kernels against plain torch: on a GPU where there is one, else in Triton's interpreter
on the CPU. And that they compile for GPUs, which takes none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is for Linux")

# ruff: noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from rife import kernels
from rife.engine import Engine
from rife.fused import FusedRun
from rife.network import Prepared, blend
from rife.warp import resize, warp

from .seeded import seeded_images
from .test_engine import NETWORKS, seeded, settings

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 16, 32
#: Of the blocks before: planes, PixelShuffle's cell, factor (above the scale of the next block, or
#: what is handed over would not be the same by both ways).
FOUND = {
    "none": [],
    "one": [(5, 1, 8)],
    "a cell": [(14, 2, 8)],
    "many": [(5, 1, 32), (6, 2, 16), (9, 1, 8)],
}
CLOSE = 2e-5 if DEVICE == "cpu" else 2e-4


@pytest.fixture(autouse=True)
def large_programs(monkeypatch):
    """The interpreter takes as long for a program of few pixels as for one of many."""
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "BLOCK", 1024)


def found_before(name, batch=2):
    random = torch.Generator().manual_seed(3)
    found = []
    for planes, cell, factor in FOUND[name]:
        h, w = max(1, HEIGHT // factor // cell), max(1, WIDTH // factor // cell)
        raw = torch.rand(batch, planes * cell**2, h, w, generator=random) * 4 - 2
        raw = raw.to(DEVICE).contiguous(memory_format=torch.channels_last)
        found.append(kernels.Found(raw, cell, factor))
    return found


def size_of(found):
    """Height and width of the motion, of which every block's planes are a whole part."""
    last = max(found, key=lambda f: f.factor * f.cell, default=None)
    if last is None:
        return HEIGHT, WIDTH
    h, w = last.raw.shape[2:]
    return h * last.cell * last.factor, w * last.cell * last.factor


def full_size(found, size, adds):
    """Flow (2, 4, H, W) and what is handed over, by plain torch at full size."""
    flow, handed = torch.zeros(2, 4, *size, device=DEVICE), None
    for one in found:
        planes = F.pixel_shuffle(one.raw.float().contiguous(), one.cell)
        planes = resize(planes, one.factor)
        flow += planes[:, :4] * one.factor
        handed = handed[:, :1] + planes[:, 4:5] if adds and handed is not None else planes[:, 4:]
    return flow, handed


def ring(channels, wide, height, width, count=3):
    random = torch.Generator().manual_seed(4)
    seen = torch.zeros(count, wide, height, width)
    seen[:, :channels] = torch.rand(count, channels, height, width, generator=random)
    return seen.to(DEVICE).contiguous(memory_format=torch.channels_last)


INDICES = torch.tensor([2, 0], device=DEVICE), torch.tensor([1, 2], device=DEVICE)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize(
    ("before", "channels", "wide", "parts"),
    [
        ("none", 7, 8, {"warped", "time"}),
        ("none", 3, 4, {"still", "time"}),
        ("none", 3, 4, {"warped", "mask", "flow"}),
        ("one", 3, 4, {"warped", "still", "mask", "flow"}),
        ("a cell", 11, 16, {"warped", "time", "mask", "handed", "flow"}),
        ("many", 7, 8, {"warped", "time", "mask", "handed", "flow"}),
        ("many", 3, 4, {"warped", "still", "time", "mask", "flow"}),
    ],
)
def test_blocks_see_what_plain_torch_gives_them(before, scale, channels, wide, parts):
    found, adds = found_before(before), "handed" not in parts
    size = size_of(found)
    seen = ring(channels, wide, *size)
    times = torch.tensor([0.3, 0.9], device=DEVICE)
    flow, handed = full_size(found, size, adds)
    if handed is None:
        handed = torch.zeros(2, 1, *size, device=DEVICE)
    wanted = []
    if "warped" in parts:
        wanted += [warp(seen[i], f) for i, f in zip(INDICES, flow.split(2, 1), strict=True)]
    if "still" in parts:
        wanted += [seen[i] for i in INDICES]
    if "time" in parts:
        wanted += [times.view(2, 1, 1, 1).expand(2, 1, *size)]
    if "mask" in parts:
        wanted += [handed]
    if "flow" in parts:
        wanted += [flow / scale]
    wanted = resize(torch.cat(wanted, 1), 1 / scale)
    filled = -(-(wanted.shape[1] + 1) // 8) * 8
    made = kernels.see(
        seen, INDICES, times, found, scale=scale, adds=adds, size=filled,
        warped="warped" in parts, still="still" in parts, time=int("time" in parts),
        given=handed.shape[1] * ("mask" in parts), flow=4 * ("flow" in parts),
    )  # fmt: skip
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert (made[:, : wanted.shape[1]] - wanted).abs().max() < CLOSE
    assert not made[:, wanted.shape[1] :].any()


@pytest.mark.parametrize("before", list(FOUND)[1:])
@pytest.mark.parametrize("adds", [False, True])
def test_flow_and_mask_are_those_of_plain_torch(before, adds):
    found = found_before(before)
    size = size_of(found)
    flow, handed = full_size(found, size, adds)
    made = kernels.spread(found, size, adds=adds)
    assert (made[:, :4] - flow).abs().max() < CLOSE * flow.abs().max()
    assert (made[:, 4:] - handed[:, :1]).abs().max() < CLOSE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("residual", [False, True])
def test_frames_are_those_of_plain_torch(channels, residual, dtype):
    found = found_before("many")
    height, width = size_of(found)
    random = torch.Generator().manual_seed(5)
    images = torch.rand(3, height - 3, width - 5, channels, generator=random).to(DEVICE)
    images = (255 * images).byte() if dtype == torch.uint8 else images.to(dtype)
    change = None
    if residual:
        change = torch.rand(2, 3, height, width, generator=random).to(DEVICE) - 0.5
    made = kernels.show(images, INDICES, found, (height, width), adds=True, residual=change)
    assert made.dtype == dtype and made.shape == (2, *images.shape[1:])

    levels = 255 if dtype == torch.uint8 else 1
    x = images.permute(0, 3, 1, 2).float() / levels
    x = F.pad(x, (0, 5, 0, 3), mode="replicate")
    flow, mask = full_size(found, (height, width), True)
    warped = (warp(x[i], f) for i, f in zip(INDICES, flow.split(2, 1), strict=True))
    wanted = blend(*warped, torch.sigmoid(mask), change)[:, :, : height - 3, : width - 5].permute(
        0, 2, 3, 1
    )
    if dtype == torch.uint8:
        apart = made.float() - (255 * wanted).round()
        assert apart.abs().max() <= 1 and (apart != 0).float().mean() < 1e-3
    else:
        assert (made.float() - wanted).abs().max() < (CLOSE if dtype == torch.float32 else 1e-3)


def test_values_beyond_the_border_and_nan_stay_within_the_image():
    found = found_before("one", batch=1)
    found[0].raw[:, :4] = torch.tensor([1e9, -1e9, float("nan"), float("inf")], device=DEVICE)[
        :, None, None
    ]
    images = torch.rand(3, *size_of(found), 3, device=DEVICE)
    indices = tuple(index[:1] for index in INDICES)
    made = kernels.show(images, indices, found, size_of(found), adds=True)
    assert made.shape == (1, *images.shape[1:])  # and nothing was read from elsewhere


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("slopes", [None, 0.2, "each"])
@pytest.mark.parametrize("residual", [False, True])
def test_activations_are_those_of_plain_torch(dtype, slopes, residual):
    y, x = (torch.randn(2, 6, 7, 9, device=DEVICE).to(dtype) for _ in range(2))
    bias = torch.randn(6, device=DEVICE).to(dtype)
    if slopes is not None:
        slopes = torch.rand(6, device=DEVICE) if slopes == "each" else torch.tensor([slopes] * 6)
        slopes = slopes.to(DEVICE, dtype)
    wanted = y.float() + bias.float()[:, None, None] + (x.float() if residual else 0)
    if slopes is not None:
        wanted = F.prelu(wanted, slopes.float())
    made = kernels.activate(y.clone(), bias, slopes, x if residual else None)
    assert made.dtype == dtype
    assert (made.float() - wanted).abs().max() < (1e-6 if dtype == torch.float32 else 4e-3)


FEW = ("paper", "v3.5", "v4.6", "v4.25 - v4.26")


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_engines_with_and_without_kernels_make_the_same(name):
    network = seeded(name).to(DEVICE)
    multiple = network.side_multiple()
    images = seeded_images(multiple, multiple).view(2, 3, multiple, multiple).to(DEVICE)
    times = torch.tensor([0.3, 0.7], device=DEVICE).view(2, 1, 1, 1)
    for options in settings(network):
        with torch.inference_mode():
            plain, fused = Engine(network), Engine(network, FusedRun)
            frames = [plain.prepare(x[None], refine=options["refine"]) for x in images]
            motion = plain.motion(*frames, 0.3, **options)
            wanted = motion.render(*(x[None] for x in images))
            both = fused.prepare(images, refine=options["refine"])
            indices = (torch.tensor(i, device=DEVICE) for i in ((0, 1), (1, 0)))
            picked = (Prepared(both.seen, both.pyramid, index) for index in indices)
            made = fused.motion(*picked, times, doubts=[], **options)
            frame = made.frames(images.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)
        reach = motion.flow.abs().max()
        assert reach > 0.5
        assert (frame[:1] - wanted).abs().max() < CLOSE, options
        assert (made.flow[:1] - motion.flow).abs().max() < CLOSE * max(1, reach), options
        assert (made.mask[:1] - motion.mask).abs().max() < CLOSE, options


COMPILE = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rife import kernels
from rife.engine import Engine
from rife.fused import FusedRun
from rife.network import Prepared
from tests.test_engine import seeded

TYPES = {torch.float16: "*fp16", torch.float32: "*fp32", torch.int64: "*i64", torch.uint8: "*u8"}

def typed(x):
    if isinstance(x, tuple):
        return tuple(map(typed, x))
    return TYPES[x.dtype] if torch.is_tensor(x) else "i32"

class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **options):
        names, given = self.kernel.arg_names, {**dict(zip(self.kernel.arg_names, args)), **options}
        constant = {p.name for p in self.kernel.params if p.is_constexpr}
        source = ASTSource(
            self.kernel,
            {n: "constexpr" if n in constant else typed(given[n]) for n in names},
            {(names.index(n),): given[n] for n in constant},
        )
        for target in TARGETS:
            triton.compile(source, target=GPUTarget(*target))
        print(self.kernel.__name__, flush=True)

TARGETS = eval(sys.argv[1])
for name in ("_see", "_show", "_spread", "_activate"):
    setattr(kernels, name, Compiled(getattr(kernels, name)))
for name in sys.argv[2:]:
    network = seeded(name).half()
    m = network.side_multiple()
    with torch.inference_mode():
        refine = "refine" in network.options | network.built_in
        engine = Engine(network, FusedRun)
        both = engine.prepare(torch.zeros(2, 3, m, m), refine=refine)
        first, second = (Prepared(both.seen, both.pyramid, torch.tensor([i])) for i in (0, 1))
        ensemble = "ensemble" in network.options
        motion = engine.motion(first, second, 0.5, refine=refine, ensemble=ensemble, doubts=[])
        motion.frames(torch.zeros(2, m, m, 3, dtype=torch.half))
        motion.frames(torch.zeros(2, m, m, 4, dtype=torch.uint8))
"""


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ('[("cuda", 90, 32)]', ["v4.25 - v4.26"]),
        pytest.param(
            '[("cuda", 75, 32), ("cuda", 86, 32), ("cuda", 120, 32), ("hip", "gfx1100", 32)]',
            ["v4.25 - v4.26", "v4.0 - v4.1", "v3.5", "paper"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_all_kernels_of_a_network_compile_for_gpus(targets, names):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, targets, *names],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"_see", "_show", "_activate"} <= set(done.stdout.split())
