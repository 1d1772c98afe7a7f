"""All that only a GPU can show, by one command of less than eight minutes.

Runs the tests that need a GPU, times whole runs (the fixed cost of a run and that of a new frame,
by where the frames are and how they lie in memory), runs the peers in turns with ours, and says
where the time goes: by thread, by kernel, and on a timeline. Frames are made here and networks have
random weights, so nothing but torch and this repository's requirements is needed; peers come from
folders, as benchmarks.speed says. Run from the repository's root:

    python -m benchmarks.gpu_day --out gpu_day.json [--comfyui DIR] [--animescripter DIR]
    python -m benchmarks.report gpu_day.json      # writes gpu.md

Each part is a process of its own and may fail by itself; a table of all comes last. `--rehearse`
runs all parts on the CPU with tiny frames, to see whether they run.
"""

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import NETWORKS, Case, contenders
from benchmarks.report import gpu_tables
from benchmarks.roofline import ceilings, work
from benchmarks.speed import OPTIONS, machine, psnr, take_turns, timed
from rife import Network, Options, interpolate
from rife.inference.frames import pad

#: Height and width.
SIZES = {"480p": (480, 720), "1080p": (1080, 1920), "4K": (2160, 3840)}
REHEARSAL = {"480p": (64, 96), "1080p": (96, 128), "4K": (128, 192)}
#: Frames given to the runs whose times make the fixed and the marginal cost.
LENGTHS = (7, 25, 49, 97)
#: How frames are given: on the GPU or not, and as a VAE's decoder leaves them, plane by plane.
PLACES = ("CPU", "CPU planar", "GPU", "GPU planar")
CONVOLUTIONS = ("dgrad", "conv", "fprop", "xmma", "cutlass", "nchw", "nhwc")
#: Of kernels, the first that is part of a name tells the kind: ours by CUDA C and Triton, others'.
KINDS = (
    "prepare_frame", "gather_block_input", "render_frames", "full_size_motion",
    "finish_convolution", "pack_block_output", "Memcpy", "Memset", *CONVOLUTIONS, "index",
    "elementwise", "reduce",
)  # fmt: skip


def main() -> None:
    args = parse_arguments()
    if args.part:
        with torch.inference_mode():
            print("RESULT " + json.dumps(PARTS[args.part](args), default=float))
        return
    results = {"about": {"gpu_day": machine(args)}, "gpu_day": {}}
    deadline = time.monotonic() + args.seconds
    for name in args.parts:
        left = deadline - time.monotonic()
        print(f"--- {name}, {left:.0f} s left", flush=True)
        if left > 10:
            results["gpu_day"][name] = run_part(name, min(left, LIMITS.get(name, 90)))
            args.out.write_text(json.dumps(results, indent=1))
    print(gpu_tables(results))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("gpu_day.json"), metavar="FILE")
    for option in OPTIONS:
        parser.add_argument(f"--{option}", type=Path, metavar="DIR", help="else left out")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seconds", type=float, default=470, metavar="N", help="of all parts")
    parser.add_argument("--network", default="v4.25", choices=NETWORKS)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # in its own process
    args = parser.parse_args()
    args.device = "cpu" if args.rehearse else "cuda"
    args.sizes = REHEARSAL if args.rehearse else SIZES
    args.dtype = torch.float32 if args.rehearse else torch.float16
    folders = {name: getattr(args, option.replace("-", "_")) for option, name in OPTIONS.items()}
    args.folders = {name: folder.resolve() for name, folder in folders.items() if folder}
    return args


def run_part(name: str, limit: float) -> dict:
    """What the part returns, or `failed` with the end of what it said."""
    command = [sys.executable, "-u", "-m", "benchmarks.gpu_day", *sys.argv[1:], "--part", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
        print(said, flush=True)
        return {"failed": f"took more than {limit:.0f} s", "said": said[-2000:]}
    lines = done.stdout.splitlines()
    print(*[line for line in lines if not line.startswith("RESULT ")], sep="\n", flush=True)
    if done.returncode or not lines or not lines[-1].startswith("RESULT "):
        print(done.stderr[-3000:], flush=True)
        last = done.stderr.strip().splitlines()[-1:]
        return {"failed": "".join(last) or f"status {done.returncode}"}
    return json.loads(lines[-1].removeprefix("RESULT "))


# What is run


def network_for(args: argparse.Namespace) -> Network:
    return copy.deepcopy(NETWORKS[args.network]()).to(args.device, args.dtype)


def moving_frames(height: int, width: int, count: int) -> Tensor:
    """(count, H, W, 3) float32: a smooth pattern that moves by a pixel each way, without a cut."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, max(4, height // 12), max(4, width // 12), generator=random)
    large = F.interpolate(coarse, (height + 64, width + 64), mode="bicubic").clamp(0, 1)[0]
    large = large.permute(1, 2, 0).contiguous()
    frames = torch.empty(count, height, width, 3)
    for i in range(count):
        at = min(i % 60, 60 - i % 60)
        frames[i] = large[at : at + height, at : at + width]
    return frames


def laid_out(frames: Tensor, place: str, device: str) -> Tensor:
    """The same frames where, and as, `place` of PLACES says."""
    if place.startswith("GPU"):
        frames = frames.to(device)
    if place.endswith("planar"):
        frames = frames.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    return frames


def milliseconds(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


# The parts


def tests(args: argparse.Namespace) -> dict:
    """Those that are marked cuda, but for slow ones."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests",
        "-m",
        "cuda and not slow",
        "-q",
        "--durations=5",
    ]
    command += ["-p", "no:cacheprovider", *(["--collect-only"] if args.rehearse else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout[-5000:])
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"summary": lines[-1] if lines else done.stderr[-300:], "not passed": failed}


def first_runs(args: argparse.Namespace) -> dict:
    """Seconds of the first, second and third run of a process, without kernels kept on disk and
    with them."""
    code = (
        "import sys, json, torch\n"
        "from benchmarks import gpu_day\n"
        "sys.argv = ['gpu_day', *json.loads(sys.argv[1])]\n"
        "args = gpu_day.parse_arguments()\n"
        "network = gpu_day.network_for(args)\n"
        "frames = gpu_day.moving_frames(*args.sizes['480p'], 49)\n"
        "torch.zeros(1, device=args.device) @ torch.zeros(1, device=args.device)\n"
        "run = lambda: gpu_day.interpolate(network, frames, 2)\n"
        "print(json.dumps([gpu_day.milliseconds(run, args.device) / 1000 for _ in range(3)]))\n"
    )
    given = [word for word in sys.argv[1:] if word != "--part" and word not in PARTS]
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        places = ("TRITON_CACHE_DIR", "XDG_CACHE_HOME", "CUDA_CACHE_PATH", "LOCALAPPDATA")
        kept = {name: folder for name in places}
        for name in ("kernels compiled", "kernels on disk"):
            done = subprocess.run(
                [sys.executable, "-c", code, json.dumps(given)],
                capture_output=True, text=True, env={**os.environ, **kept}, check=True,
            )  # fmt: skip
            result[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, *(f"{seconds:.2f} s" for seconds in result[name]))
    return result


def lengths(args: argparse.Namespace) -> dict:
    """Milliseconds, by size, place and what is done about cuts: the fixed cost of a run and the
    marginal cost of a new frame, by least squares over medians; all of a 49-frame run by its new
    frames."""
    network, rows = network_for(args), {}
    for size in ("480p", "1080p"):
        made = moving_frames(*args.sizes[size], max(LENGTHS))
        for place in PLACES:
            frames = laid_out(made, place, args.device)
            for cuts in ("hold", "ignore"):
                if place.endswith("planar") and cuts == "ignore":
                    continue
                rows[f"{size}, {place}, cuts {cuts}"] = row = fixed_and_marginal(
                    lambda n, f=frames, c=cuts: interpolate(network, f[:n], 2, Options(cuts=c)),
                    args.device,
                )
                print(f"{size} {place:10} cuts {cuts:6}", row, flush=True)
            del frames
    return rows


def fixed_and_marginal(run: Callable[[int], object], device: str) -> dict[str, float]:
    run(max(LENGTHS))
    took = {n: [milliseconds(lambda n=n: run(n), device) for _ in range(4)][1:] for n in LENGTHS}
    times = {n: median(each) for n, each in took.items()}
    marginal, fixed = np.polyfit([n - 1 for n in LENGTHS], list(times.values()), 1)
    whole = times[49] / 48
    return {"fixed": round(fixed, 1), "marginal": round(marginal, 3), "whole": round(whole, 3)}


def peers(args: argparse.Namespace) -> dict:
    """Ours and others' in turns, frames in and out on the CPU."""
    args.runs, args.resident, rows = 3, False, {}
    network = NETWORKS[args.network]()
    for size, count in (("480p", 49), ("1080p", 49), ("4K", 9)):
        case = Case(args.network, network, *args.sizes[size], args.device)
        names = ("ours", *args.folders, *(("ours, scale 1",) if size == "4K" else ()))
        found, missing = contenders(args.folders, case, names)
        frames = moving_frames(*args.sizes[size], count)
        for contender in found.values():  # once by each, so that all shapes are known
            timed(contender, frames, 2, args.device)
        rows |= take_turns(args, case, frames, 2, found, missing)
    return rows


def throughput(args: argparse.Namespace) -> dict:
    """The network alone: frames on the GPU, cuts not looked for; against what the convolutions
    need at the speed of this card's computing or copying, whichever is longer."""
    network, result = network_for(args), {}
    found = ceilings(args.device, 5, 16 if args.rehearse else 1)
    word = str(args.dtype).removeprefix("torch.")
    result["ceilings"] = found
    plain = NETWORKS[args.network]()
    for size in ("480p", "1080p"):
        frames = moving_frames(*args.sizes[size], 49).to(args.device)
        row = {}
        for multiplier in (2, 4):

            def run(n: int, m: int = multiplier, f: Tensor = frames) -> None:
                interpolate(network, f[:n], m, Options(cuts="ignore"))

            run(49)
            short, long_ = (
                median(milliseconds(partial(run, n), args.device) for _ in range(3))
                for n in (9, 49)
            )
            row[f"{multiplier}x"] = (long_ - short) / 40  # of an input frame
        layers, moved = work(plain, *args.sizes[size], 2, 1)
        least = sum(
            max(x.flops / found[f"convolution {word}"], x.bytes(word) / found["copy"])
            for x in layers
        )
        row["least"] = 1000 * (least + moved / found["copy"])
        result[size] = row
        print(size, {name: round(value, 3) for name, value in row.items()}, flush=True)
    return result


def kernels(args: argparse.Namespace) -> dict:
    """Microseconds of a new frame by kind of kernel, and how many are launched."""
    if args.device == "cpu":
        return {}
    network, result = network_for(args), {}
    for size in ("480p", "1080p"):
        frames = moving_frames(*args.sizes[size], 49).to(args.device)
        interpolate(network, frames, 2, Options(cuts="ignore"))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            interpolate(network, frames, 2, Options(cuts="ignore"))
            torch.cuda.synchronize()
        kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
        for event in events:
            kind = next((word for word in KINDS if word in event.key), "other")
            kind = "convolution" if kind in CONVOLUTIONS else kind
            kinds[kind][0] += event.self_device_time_total / 48
            kinds[kind][1] += event.count / 48
        result[size] = dict(sorted(kinds.items(), key=lambda item: -item[1][0]))
        for kind, (took, count) in result[size].items():
            print(f"{size} {kind:12} {took:8.1f} us, {count:6.1f} a new frame")
        for event in events[:12]:
            print(f"   {event.self_device_time_total / 48:8.1f} us  {event.key[:90]}")
    return result


def languages(args: argparse.Namespace) -> dict:
    """By size and what the fused kernels are written in: milliseconds of a new frame on the GPU,
    and microseconds of each kernel (benchmarks.kernels), in turns."""
    if args.device == "cpu":
        return {}
    from benchmarks.kernels import LANGUAGES, compare, lines_of

    result = {}
    for size in ("480p", "1080p"):
        frames = moving_frames(*args.sizes[size], 49).to(args.device)
        networks = {language: network_for(args) for language in (*LANGUAGES, "none")}
        took = defaultdict(list)
        for n in (49, *(3 * [9, 49])):
            for language, network in networks.items():
                os.environ["RIFE_KERNELS"] = language
                run = partial(interpolate, network, frames[:n], 2, cuts="ignore")
                took[language, n].append(milliseconds(run, args.device))
        result[size] = {
            f"whole network, ms, {language}": (
                median(took[language, 49][1:]) - median(took[language, 9])
            )
            / 40
            for language in networks
        }
        rows = compare(network_for(args), *args.sizes[size])
        for name, value in result[size].items():
            print(f"{size} {name}: {value:.3f}")
        print(*lines_of(rows), sep="\n", flush=True)
        for language in LANGUAGES:
            result[size] |= {f"{x}, us, {language}": r.get(language, 0) for x, r in rows.items()}
    return result


def threads(args: argparse.Namespace) -> dict:
    """Milliseconds of a new frame by thread and by the function of ours that it is in, by looking
    at all threads every half a millisecond."""
    network, result = network_for(args), {}
    for size in ("480p", "1080p"):
        frames = moving_frames(*args.sizes[size], 97)
        interpolate(network, frames, 2)
        cpu = time.process_time()
        with sampled() as counts:
            took = milliseconds(lambda f=frames: interpolate(network, f, 2), args.device)
        cpu = 1000 * (time.process_time() - cpu)
        whole = sum(n for (thread, _), n in counts.items() if thread == "MainThread") or 1
        rows = {
            f"{thread}: {function}": took / 96 * n / whole
            for (thread, function), n in counts.most_common(14)
        }
        result[size] = {"whole": took / 96, "processors": cpu / 96, **rows}
        print(f"{size}: {took / 96:.2f} ms a new frame, {cpu / 96:.2f} ms of processors")
        for name, each in rows.items():
            print(f"   {each:7.2f} ms  {name}")
    return result


@contextmanager
def sampled() -> Iterator[Counter]:
    """How often threads were seen in functions of ours, {(thread, function): times}."""
    counts: Counter = Counter()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.0005):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                while frame and f"{os.sep}rife{os.sep}" not in frame.f_code.co_filename:
                    frame = frame.f_back
                if frame:
                    where = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
                    counts[re.sub(r"_\d+$", "", names.get(ident, "?")), where] += 1

    watcher = threading.Thread(target=look, name="sampler")
    watcher.start()
    try:
        yield counts
    finally:
        done.set()
        watcher.join()


def exactness(args: argparse.Namespace) -> dict:
    """Ours beside the plain network in float32: dB of all, and of the worst 64x64 tile."""
    result = {}
    half = network_for(args)
    full = copy.deepcopy(NETWORKS[args.network]()).to(args.device, torch.float32)
    torch.backends.cudnn.allow_tf32 = False
    for size in ("480p", "1080p"):
        height, width = args.sizes[size]
        frames = moving_frames(height, width, 13)
        made = interpolate(half, frames, 2, Options(cuts="ignore", scale=1))[1::2]
        again = interpolate(half, frames, 2, Options(cuts="ignore", scale=1))[1::2]
        wanted = []
        for pair in zip(frames, frames[1:], strict=False):
            x = [pad(f.permute(2, 0, 1)[None].to(args.device), full.side_multiple(1)) for f in pair]
            image = full.motion(*(full.prepare(i) for i in x), 0.5).render(*x)[0]
            wanted.append(image[:, :height, :width].permute(1, 2, 0).cpu())
        error = (made - torch.stack(wanted)).square().mean(-1)
        tiles = F.avg_pool2d(error[:, None], min(64, height))
        worst = -10 * float(tiles.max().clamp(min=1e-12).log10())
        result[size] = {
            "whole": psnr(made, torch.stack(wanted)),
            "worst tile": worst,
            "runs equal": bool(torch.equal(made, again)),
        }
        print(size, result[size])
    return result


def memory(args: argparse.Namespace) -> dict:
    """MB of the GPU: at the peak of 2x at 4K, of 49 and 200 small frames, and what is kept."""
    if args.device == "cpu":
        return {}
    network, result = network_for(args), {}
    small = moving_frames(*args.sizes["480p"], 200)
    runs = {"4K, 9 frames": moving_frames(*args.sizes["4K"], 9)}
    runs |= {"480p, 49 frames": small[:49], "480p, 200 frames": small}
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for name, frames in runs.items():
        torch.cuda.reset_peak_memory_stats()
        interpolate(network, frames, 2)
        result[name] = (torch.cuda.max_memory_allocated() - before) / 1e6
        result[f"kept after {name}"] = (torch.cuda.memory_allocated() - before) / 1e6
    print({name: round(value) for name, value in result.items()})
    return result


def timeline(args: argparse.Namespace) -> dict:
    """What the GPU does while it runs from and to the CPU; and a picture beside the results."""
    if args.device == "cpu":
        return {}
    from benchmarks.timeline import busy_time, draw_lanes, record, sort_into_lanes

    network, result = network_for(args), {}
    for size in ("480p", "1080p"):
        frames = moving_frames(*args.sizes[size], 64)
        trace, new = record(network, frames, 0.5)
        lanes = sort_into_lanes(trace["traceEvents"])
        whole = max(span.stop for spans in lanes.values() for span in spans)
        result[size] = {name: busy_time(spans) / 1000 / new for name, spans in lanes.items()}
        result[size]["whole"] = whole / 1000 / new
        print(size, {name: round(value, 3) for name, value in result[size].items()})
        try:
            draw_lanes(lanes, args.out.with_name(f"timeline-{size}.png"))
        except Exception:
            traceback.print_exc()
    return result


PARTS: dict[str, Callable[[argparse.Namespace], dict]] = {
    "tests": tests,
    "peers": peers,
    "lengths": lengths,
    "first runs": first_runs,
    "throughput": throughput,
    "threads": threads,
    "kernels": kernels,
    "languages": languages,
    "exactness": exactness,
    "memory": memory,
    "timeline": timeline,
}
#: Seconds that a part may take; others 90.
LIMITS = {"tests": 120, "peers": 120, "timeline": 60}


if __name__ == "__main__":
    main()
