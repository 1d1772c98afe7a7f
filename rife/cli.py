"""The command line: a thin coat over the library. `python -m rife --help`."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import torch

from .console import print_error, printable, progress_bar, steady_console
from .devices import best_device, usable_dtype
from .fileio import FileError, refuse_same_file
from .inference.planner import NotEnoughMemory, first_line, is_out_of_memory
from .interpolate import Summary
from .interpolate_file import interpolate_file
from .interrupts import raised_once
from .media import Encoding
from .models.checkpoint import (
    EXTENSIONS,
    NETWORKS,
    OPTION_EFFECTS,
    convert,
    describe,
    load_model,
)
from .models.download import fetch
from .models.zoo import DEFAULT, ZOO, on_disk
from .options import CUTS, Options
from .timeline import LENGTHS, Timeline, parse_frame_rate, parse_multiplier, parse_number

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 done, 1 could not, 2 misused, 3 done with --strict, though something in
        the input was damaged or missing; interrupted, 128 and the signal's number: 130 after
        Ctrl-C, 143 after a kill, 129 where the terminal was closed.
    """
    with steady_console(), raised_once() as check:
        output = before = None
        try:
            args = _parser().parse_args(arguments, argparse.Namespace(cancel=check))
            output = getattr(args, "output", None)
            before = _state(output)
            return args.run(args) or 0
        except KeyboardInterrupt as stop:
            print_error("interrupted" + _what_became_of(output, before))
            return getattr(stop, "status", 130)
        except (NotEnoughMemory, OSError, ValueError) as error:
            print_error(f"error: {error}")
            return 1
        except (MemoryError, RuntimeError) as error:  # for the model itself, or one large frame
            if not is_out_of_memory(error):
                raise
            print_error(f"error: out of memory. Try --device cpu ({first_line(error)})")
            return 1


def _state(path: Path | None) -> tuple[int, ...] | None:
    """Differs if what is at `path` was replaced."""
    try:
        status = os.stat(path) if path else None
    except (OSError, ValueError):
        status = None
    return status and (status.st_ino, status.st_mtime_ns, status.st_size)


def _what_became_of(output: Path | None, before: tuple[int, ...] | None) -> str:
    if output is None:
        return ""
    if _state(output) != before:
        return f", but {output} is whole already"
    return f"; {output} {'is as it was' if before else 'was not written'}"


def run_interpolate(args: argparse.Namespace) -> int:
    """IN to OUT, a frame at a time."""
    _check_input(args.input)
    refuse_same_file(args.input, args.output)  # known at once, a model takes seconds
    device, dtype = args.device or best_device(), DTYPES.get(args.dtype)
    if dtype:
        dtype = usable_dtype(dtype, device)
    model = load_model(_chosen_model(args.model), device, dtype)
    options = Options(
        args.scale, args.ensemble, args.refine, args.tta,
        args.cuts, args.cut_sensitivity, args.duplicates,
    )  # fmt: skip
    timeline = Timeline(
        args.multiplier, args.target_fps, args.loop, args.slow_motion, length=args.length
    )
    encoding = Encoding(args.crf, args.codec, args.pixel_format)
    summary = Summary()
    with progress_bar(args.input.name, unit="frame") as report:
        interpolate_file(
            model, args.input, args.output, timeline, options, encoding,
            frame_rate=args.fps, start=args.start, duration=args.duration,
            interlaced=args.interlaced,
            overwrite=args.overwrite, progress=report, cancel=args.cancel, summary=summary,
        )  # fmt: skip
    _print(f"{args.output}")
    return 3 if args.strict and summary.damage else 0


def _check_input(path: Path) -> None:
    if not os.path.exists(path):
        raise FileError(f"{path} does not exist; check the path")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise FileError(f"{path} is no file or folder but a pipe or a device; save it as a file")


def run_info(args: argparse.Namespace) -> int:
    """What a model file is."""
    return _print(*(f"{name:14}{x}" for name, x in describe(find_model(args.file)).items()))


def run_models(_: argparse.Namespace) -> int:
    """The table of published models."""
    rows = [("NAME", "VERSION", "SIZE", "ON DISK", "GOOD FOR")]
    for entry in ZOO.values():
        size = f"{entry.size / 1e6:.1f} MB" if entry.size else ""
        here = "yes" if on_disk(entry, [_models_folder()]) else ""
        rows.append((entry.name, entry.version, size, here, entry.good_for))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return _print(*("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows))


def run_get(args: argparse.Namespace) -> None:
    """One of them, downloaded."""
    if args.name not in ZOO:
        raise FileError(f'There is no "{args.name}" among: python -m rife models')
    with progress_bar(args.name, unit="B", unit_scale=True) as report:
        path = fetch(ZOO[args.name], args.to or _models_folder(), report, args.cancel)
    _print(f"{path}")


def run_convert(args: argparse.Namespace) -> None:
    """IN as a .safetensors file."""
    convert(
        find_model(args.input), args.output,
        half=args.half, network=args.network, overwrite=args.overwrite,
    )  # fmt: skip
    _print(f"{args.output}")


def run_doctor(_: argparse.Namespace) -> int:
    """A report for an issue; 1 if something is wrong."""
    from .doctor import examine

    return 0 if examine([_models_folder()]) else 1


def _print(*lines: str) -> int:
    """Print `lines`; returns 1 if they could not be had, though somebody wanted them."""
    print(*map(printable, lines), sep="\n", flush=True)
    failure = sys.stdout.failure
    if not failure or isinstance(failure, BrokenPipeError):
        return 0
    print_error(f"standard output can't be written ({failure})")
    return 1


def find_model(name: str | os.PathLike) -> Path:
    """The model file of that path, or of that name in the folder of models.

    Raises FileError if there is neither.
    """
    name = os.fspath(name)
    for path in (Path(name), _models_folder() / name):
        if os.path.exists(path):
            return path
    advice = f"get it with: python -m rife models get {name}" if name in ZOO else "check the name"
    raise FileError(f"{name} is neither here nor in the folder {_models_folder()}; {advice}")


def _chosen_model(name: Path | None) -> Path:
    name = name or os.environ.get("RIFE_MODEL")
    if name:
        return find_model(name)
    folder = _models_folder()
    here = sorted(p for p in folder.glob("*") if p.suffix.lower() in EXTENSIONS)
    if len(here) == 1:
        return here[0]
    found = f"holds {len(here)} of them" if here else "holds none"
    raise FileError(
        f"Which model? Name it with --model or RIFE_MODEL (the folder {folder} {found}). A good "
        f"one to get: python -m rife models get {DEFAULT}"
    )


def _models_folder() -> Path:
    return Path(os.environ.get("RIFE_MODELS") or "models")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m rife", description="Video frame interpolation with RIFE.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    p = commands.add_parser(
        "interpolate",
        help="put new frames between those of a clip",
        description="Put new frames between those of a clip. Sound, rotation, colour tags and "
        "metadata are kept; OUT appears only when it is whole.",
    )
    p.set_defaults(run=run_interpolate)
    p.add_argument(
        "input", type=_read_by(_path), metavar="IN",
        help="a video, an animated GIF, WebP or PNG, or a folder of numbered images",
    )  # fmt: skip
    p.add_argument(
        "output", type=_read_by(_path), metavar="OUT",
        help="the same kinds, by suffix: .mp4 .mov .mkv .webm .gif .webp .apng; a name "
        "without a suffix is a folder of numbered PNG images",
    )  # fmt: skip
    p.add_argument(
        "-m", "--multiplier", type=_read_by(parse_multiplier), default=Fraction(2), metavar="N",
        help="times as many frames a second: 2 (the default), 2.5, 5/2; or, for each pair of "
        'frames, a schedule such as "0-20:2, 21:8, 22-:1"',
    )  # fmt: skip
    p.add_argument(
        "--target-fps", type=_read_by(parse_frame_rate), metavar="R",
        help="frames a second instead, evenly spaced: 60, 23.976, 60000/1001; fewer than IN has "
        "are picked from it",
    )  # fmt: skip
    p.add_argument(
        "--length", choices=LENGTHS, default="frames",
        help="frames: end at the last frame, (n - 1) m + 1 of them (the default); duration: n m "
        "frames, the last one held, so that picture and sound end together",
    )  # fmt: skip
    p.add_argument(
        "--slow-motion", action="store_true",
        help="show the frames at the rate of IN: as many times slower, without sound",
    )  # fmt: skip
    p.add_argument(
        "--loop", action="store_true", help="make the frames from the last to the first, too"
    )
    p.add_argument(
        "--cuts", choices=CUTS, default="hold",
        help="between two shots, hold each frame up to the middle (the default), blend them, or "
        "ignore the cut and morph",
    )  # fmt: skip
    p.add_argument(
        "--cut-sensitivity", type=float, default=0.5, metavar="S",
        help="from 0, no cut is seen, to 1; default 0.5",
    )  # fmt: skip
    p.add_argument(
        "--duplicates", action="store_true",
        help="spread the motion evenly over frames that repeat, as in animation on twos",
    )  # fmt: skip
    p.add_argument(
        "--interlaced", choices=("deinterlace", "keep"), default="deinterlace",
        help="make interlaced video progressive (the default), or keep both fields in each frame",
    )  # fmt: skip
    p.add_argument(
        "--start", type=_read_by(_seconds), default=Fraction(0), metavar="SECONDS",
        help="where in a video to begin",
    )  # fmt: skip
    p.add_argument(
        "--duration", type=_read_by(_seconds), metavar="SECONDS",
        help="how much of it to take; good for trying settings",
    )  # fmt: skip
    p.add_argument(
        "--model", type=_read_by(_path),
        help="a RIFE checkpoint (.safetensors .pth .pkl .pt) of any version, or its name in the "
        "folder of models (see the command models); default: RIFE_MODEL, or the only one there",
    )  # fmt: skip
    p.add_argument(
        "--device",
        type=_read_by(_device),
        help="cpu, cuda, cuda:1, mps ...; default: the best there is",
    )
    p.add_argument("--dtype", choices=DTYPES, help="default: float16 on CUDA, float32 elsewhere")
    p.add_argument(
        "--scale", type=_read_by(_scale), metavar="S",
        help=f"{OPTION_EFFECTS['scale']}; default auto, by the size",
    )  # fmt: skip
    p.add_argument(
        "--ensemble", action="store_true", help=f"{OPTION_EFFECTS['ensemble']} (up to v4.20)"
    )
    p.add_argument(
        "--refine", action="store_true", help=f"{OPTION_EFFECTS['refine']} (v4.0 and v4.1)"
    )
    p.add_argument("--tta", action="store_true", help=OPTION_EFFECTS["tta"])
    p.add_argument(
        "--fps", type=_read_by(parse_frame_rate), default=Fraction(24), metavar="R",
        help="frame rate of a folder of images, such as 24 or 24000/1001; default 24",
    )  # fmt: skip
    p.add_argument(
        "--crf", type=_read_by(_quality), default=18, metavar="Q",
        help="video quality, from 0 (lossless) to 51 (tiny), or 63 of VP9 and AV1; default 18",
    )  # fmt: skip
    p.add_argument(
        "--codec",
        help="video encoder, such as libx264, libx265, libvpx-vp9, libsvtav1, prores_ks, ffv1; the "
        "default is H.264 (VP9 in .webm), H.265 (AV1) for HDR, ProRes for transparency in .mov",
    )
    p.add_argument(
        "--pixel-format",
        help="such as yuv420p10le; the default is yuv420p, which all players take, more bits for "
        "HDR, and what IN has in codecs for editing, such as ffv1",
    )
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    p.add_argument(
        "--strict", action="store_true",
        help="end with status 3 if anything in IN was damaged or missing; OUT is written all the "
        "same",
    )  # fmt: skip

    p = commands.add_parser("info", help="say what a model file is")
    p.set_defaults(run=run_info)
    p.add_argument(
        "file", type=_read_by(_path), metavar="FILE",
        help="its path, or its name in the folder of models",
    )  # fmt: skip

    p = commands.add_parser(
        "models",
        help="list the published models, or get one",
        description="List the published models. The folder of models is ./models, or what "
        "RIFE_MODELS names.",
    )
    p.set_defaults(run=run_models)
    p = p.add_subparsers(metavar="get").add_parser("get", help="download a model")
    p.set_defaults(run=run_get)
    p.add_argument("name", metavar="NAME", help="as the list has it")
    p.add_argument(
        "--to",
        type=_read_by(_path),
        metavar="FOLDER",
        help="default: the folder of models, see above",
    )

    p = commands.add_parser(
        "convert",
        help="make a .safetensors file of a model",
        description="Make a .safetensors file of a model, with what new frames need and nothing "
        "else, and a note of where it came from.",
    )
    p.set_defaults(run=run_convert)
    p.add_argument(
        "input", type=_read_by(_path), metavar="IN",
        help="its path, or its name in the folder of models",
    )  # fmt: skip
    p.add_argument(
        "output", type=_read_by(_path), metavar="OUT", help="a name that ends in .safetensors"
    )
    p.add_argument("--half", action="store_true", help="as float16, half as large")
    p.add_argument(
        "--network", choices=NETWORKS, metavar="NAME",
        help="IFNet_2R, for its files, which look like IFNet's",
    )  # fmt: skip
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    p = commands.add_parser(
        "doctor",
        help="report versions, devices and models, and test each device for a second",
        description="Print what an issue needs to say: versions, devices, the models found, and "
        "whether a small self-test comes out right on each device. The exit status is 1 if "
        "something is wrong.",
    )
    p.set_defaults(run=run_doctor)
    return parser


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *arguments) -> argparse.Namespace:
        args = super().parse_args(*arguments)
        if [] in vars(args).values():  # what argparse makes of --fps=--
            self.error("-- is no value")
        return args

    def error(self, message: str) -> NoReturn:
        print_error(f"error: {message}; see {self.prog} --help")
        self.exit(2)


def _read_by(parse: Callable[[str], object]) -> Callable[[str], object]:
    """What argparse asks for: a reader of text whose error is shown to the user."""

    def read(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is no name of a file")
    return Path(text)


def _seconds(text: str) -> Fraction:
    try:
        seconds = parse_number(text)
    except ValueError:
        seconds = Fraction(-1)
    if seconds < 0:
        raise ValueError(f"{text!r} is no time in seconds; try 10 or 12.5")
    return seconds


def _quality(text: str) -> int:
    if not re.fullmatch(r"\s*\d{1,2}\s*", text) or int(text) > 63:
        raise ValueError(f"{text!r} is no quality; try 18, or another number from 0 to 51")
    return int(text)


def _scale(text: str) -> float | None:
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no scale; try auto, 0.5, 1 or 2") from None


def _device(text: str) -> torch.device:
    try:
        one = torch.ones(1, device=text)
        one.tolist()  # "meta" is a device that holds nothing
    except Exception as error:  # of whatever kind a backend that isn't there raises
        raise ValueError(f"{text!r} can't be used here: {first_line(error)}") from error
    return one.device
