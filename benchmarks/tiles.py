"""Tiles against whole frames: how far they differ, whether seams show, and what an 8K frame takes.

Run from the repository's root, with the development set-up of the README:

    python -m benchmarks.tiles [OTHER.mp4 ...]
    python -m benchmarks.tiles 8k

The first makes the frame halfway between frames i and i + gap of real clips from whole frames and
from tiles, memory being limited to a third and a ninth of what the whole takes, and prints for each
the PSNR of one against the other (dB) and whether there are seams: how much their difference
changes from a row or column of pixels to the next, on average along the worst of those where tiles
meet and along the worst of all others, in levels of 255. Rounding to 8 bits alone makes 0.33.
"""

import logging
import resource
import sys
import time
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import torch
import torch.nn.functional as F

from rife import load_model
from rife.inference.frames import FrameSpec, Job
from rife.inference.planner import MemoryPlanner
from rife.inference.session import InferenceSession
from rife.inference.tiling import FADE
from rife.options import Options
from tools import assets

CLIPS = {"bigbuckbunny": range(5, 125, 40), "bikes": range(5, 245, 80)}
MODELS = ("v4.0", "v3.8")
GAPS = (1, 2)
HALF = Fraction(1, 2)


def read(path: Path) -> list[torch.Tensor]:
    """(H, W, 3) uint8 each."""
    with av.open(str(path)) as container:
        return [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def psnr(error: torch.Tensor) -> float:
    return -10 * error.square().mean().clamp_min(1e-12).log10().item()


def seams(error: torch.Tensor, grid: tuple[int, int]) -> tuple[float, float]:
    """error: (H, W, 3), tiles less whole -> the mean step across its worst line where tiles meet,
    and across its worst line elsewhere, in levels of 255."""
    worst = [0.0, 0.0]
    for axis, count in enumerate(grid):
        size = error.shape[axis]
        steps = 255 * error.diff(dim=axis).abs().mean((1 - axis, 2))
        near = torch.zeros(size - 1, dtype=torch.bool)
        for i in range(1, count):
            edge = round(i * size / count)
            near[edge - FADE // 2 - 1 : edge + FADE // 2] = True
        for kind, lines in enumerate((near, ~near)):
            if lines.any():
                worst[kind] = max(worst[kind], steps[lines].max().item())
    return worst[0], worst[1]


def compare(extra: list[str]) -> None:
    clips = {name: (assets.clip(name), moments) for name, moments in CLIPS.items()}
    clips |= {Path(name).stem: (Path(name), range(2, 40, 12)) for name in extra}
    print("model  clip           gap frame grid     PSNR   seam  other")
    worst = {}
    for name, (path, moments) in clips.items():
        frames = read(path)
        for version, gap, i in product(MODELS, GAPS, moments):
            if i + gap >= len(frames):
                continue
            model = load_model(assets.weights(version), "cpu")
            pair = [frame.float() / 255 for frame in (frames[i], frames[i + gap])]
            needed = model.memory_needed(*pair[0].shape)
            (whole,) = InferenceSession(model, Options(), memory_limit=needed * 2).render(
                *pair, [HALF]
            )
            grids = set()
            for part in (3, 9):
                limit = needed / part
                spec = FrameSpec.of(pair[0], model, Options())
                with torch.inference_mode():
                    plan = MemoryPlanner(model, Options(), limit).plan([Job(*pair, HALF)], spec)
                if plan.grid in grids:
                    continue
                grids.add(plan.grid)
                session = InferenceSession(model, Options(), memory_limit=limit)
                (tiled,) = session.render(*pair, [HALF])
                error = tiled - whole
                score, (seam, other) = psnr(error), seams(error, plan.grid)
                print(
                    f"{version:6} {name:14} {gap:3} {i:5} {plan.grid[0]}x{plan.grid[1]:<4} "
                    f"{score:6.1f} {seam:6.3f} {other:6.3f}", flush=True,
                )  # fmt: skip
                worst.setdefault((version, gap), []).append((score, seam))
    for (version, gap), values in sorted(worst.items()):
        scores, seam = zip(*values, strict=True)
        print(
            f"{version}, gap {gap}: PSNR from {min(scores):.1f}, median "
            f"{torch.tensor(scores).median():.1f}; at 45 or more {sum(s >= 45 for s in scores)} of "
            f"{len(scores)}; worst seam {max(seam):.3f}"
        )


def eight_k() -> None:
    """An 8K pair, enlarged from a real one, in calls of 4 GB, with v4.0: time and memory."""
    frames = read(assets.clip("bigbuckbunny"))[40:42]
    pair = []
    for frame in frames:
        x = F.interpolate(frame.permute(2, 0, 1)[None].float(), (4320, 7680), mode="bicubic")
        pair.append(x[0].clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous())
    del frames, frame, x
    model = load_model(assets.weights("v4.0.safetensors"), "cpu")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the frames
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    (frame,) = InferenceSession(model, Options(), memory_limit=4_000_000_000).render(*pair, [HALF])
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(
        f"8K, v4.0: {tuple(frame.shape)} in {time.perf_counter() - start:.0f} s; "
        f"{before / 1e9:.1f} GB before, {int(status) * 1024 / 1e9:.1f} GB at the peak"
    )


if __name__ == "__main__":
    eight_k() if sys.argv[1:] == ["8k"] else compare(sys.argv[1:])
