"""The command line: a thin coat over the library. `python -m rife --help`."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from tqdm import tqdm

from .checkpoint import (
    EFFECTS,
    EXTENSIONS,
    NETWORKS,
    CheckpointError,
    convert,
    describe,
    load_model,
)
from .download import fetch
from .files import FileError, Reader, atomic_output, refuse_same_file
from .interpolate import Options, interpolate_stream
from .video import create_writer, open_reader
from .zoo import DEFAULT, ZOO, on_disk

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 could not, 2 misused, 130 interrupted."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    # A polite kill cleans up like Ctrl-C, also in the background, where shells switch that off.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print("interrupted; the output was not written", file=sys.stderr)
        return 130
    except (FileError, CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        print(f"error: out of memory. Try --scale 0.5 or --device cpu ({error})", file=sys.stderr)
        return 1
    return 0


def run_interpolate(args: argparse.Namespace) -> None:
    """IN to OUT, a frame at a time."""
    if not args.input.exists():
        raise FileError(f"{args.input} does not exist; check the path")
    refuse_same_file(args.input, args.output)
    options = Options(args.scale, args.ensemble, args.refine, args.tta)
    model = load_model(_chosen_model(args.model), args.device, DTYPES.get(args.dtype))
    options.check(model)
    with (
        atomic_output(args.output, args.overwrite) as temporary,
        open_reader(args.input, args.fps) as reader,
    ):
        rate = (reader.info.frame_rate or args.fps) * args.multiplier
        time_base = reader.info.time_base / args.multiplier
        with create_writer(
            temporary, reader, rate,
            crf=args.crf, codec=args.codec, pixel_format=args.pixel_format, time_base=time_base,
        ) as writer:  # fmt: skip
            times = _Times(reader)
            stream = interpolate_stream(model, times, args.multiplier, options)
            for position, image in _with_bar(stream, reader, args.multiplier):
                time, duration = times.at(position, args.multiplier)
                writer.write(image, time, duration)
    print(f"{args.output}")


class _Times:
    """A reader's images, one by one, and when the frames between the last two are shown."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.index = -1
        self.before = self.now = None

    def __iter__(self) -> Iterator[torch.Tensor]:
        for frame in self.reader:
            self.index += 1
            self.before, self.now = self.now, frame
            yield frame.image

    def at(self, position: Fraction, multiplier: int) -> tuple[Fraction, Fraction]:
        """Time and duration, in seconds, of the output frame at `position` in the input."""
        if position == self.index:
            return self.now.time, self.now.duration / multiplier
        step = self.now.time - self.before.time
        return self.before.time + step * (position - self.index + 1), step / multiplier


def _with_bar(stream: Iterator, reader: Reader, multiplier: int) -> Iterator:
    count = reader.info.frame_count
    total = (count - 1) * multiplier + 1 if count else None
    return tqdm(stream, total=total, unit="frame", desc=reader.info.path.name, dynamic_ncols=True)


def run_info(args: argparse.Namespace) -> None:
    """What a model file is."""
    print("\n".join(f"{name:14}{value}" for name, value in describe(find_model(args.file)).items()))


def run_models(_: argparse.Namespace) -> None:
    """The table of published models."""
    rows = [("NAME", "VERSION", "SIZE", "ON DISK", "GOOD FOR")]
    for entry in ZOO.values():
        size = f"{entry.size / 1e6:.1f} MB" if entry.size else ""
        here = "yes" if on_disk(entry, [_models_folder()]) else ""
        rows.append((entry.name, entry.version, size, here, entry.good_for))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def run_get(args: argparse.Namespace) -> None:
    """One of them, downloaded."""
    if args.name not in ZOO:
        raise FileError(f'There is no "{args.name}" among: python -m rife models')
    with tqdm(desc=args.name, unit="B", unit_scale=True, dynamic_ncols=True) as bar:

        def report(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        path = fetch(ZOO[args.name], args.to or _models_folder(), report)
    print(path)


def run_convert(args: argparse.Namespace) -> None:
    """IN as a .safetensors file."""
    convert(
        find_model(args.input), args.output,
        half=args.half, network=args.network, overwrite=args.overwrite,
    )  # fmt: skip
    print(args.output)


def find_model(name: str | os.PathLike) -> Path:
    """The model file of that path, or of that name in the folder of models.

    Raises FileError if there is neither.
    """
    for path in (Path(name), _models_folder() / name):
        if path.exists():
            return path
    advice = f"get it with: python -m rife models get {name}" if name in ZOO else "check the name"
    raise FileError(f"{name} is neither here nor in the folder {_models_folder()}; {advice}")


def _chosen_model(name: str | None) -> Path:
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
    parser = argparse.ArgumentParser(
        prog="python -m rife", description="Video frame interpolation with RIFE."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    p = commands.add_parser(
        "interpolate",
        help="put new frames between those of a clip",
        description="Put new frames between those of a clip. Sound, rotation, colour tags and "
        "metadata are kept; OUT appears only when it is whole.",
    )
    p.set_defaults(run=run_interpolate)
    p.add_argument(
        "input", type=Path, metavar="IN",
        help="a video, an animated GIF, WebP or PNG, or a folder of numbered images",
    )  # fmt: skip
    p.add_argument(
        "output", type=Path, metavar="OUT",
        help="the same kinds, by suffix: .mp4 .mov .mkv .webm .gif .webp .apng; a name "
        "without a suffix is a folder of numbered PNG images",
    )  # fmt: skip
    p.add_argument(
        "-m", "--multiplier", type=_at_least_one, default=2, metavar="N",
        help="times as many frames a second; default 2",
    )  # fmt: skip
    p.add_argument(
        "--model",
        help="a RIFE checkpoint (.safetensors .pth .pkl .pt) of any version, or its name in the "
        "folder of models (see the command models); default: RIFE_MODEL, or the only one there",
    )  # fmt: skip
    p.add_argument(
        "--device", type=_device, help="cpu, cuda, cuda:1, mps ...; default: the best there is"
    )
    p.add_argument("--dtype", choices=DTYPES, help="default: float16 on CUDA, float32 elsewhere")
    p.add_argument("--scale", type=float, default=1.0, metavar="S", help=EFFECTS["scale"])
    p.add_argument("--ensemble", action="store_true", help=f"{EFFECTS['ensemble']} (up to v4.20)")
    p.add_argument("--refine", action="store_true", help=f"{EFFECTS['refine']} (v4.0 and v4.1)")
    p.add_argument("--tta", action="store_true", help=EFFECTS["tta"])
    p.add_argument(
        "--fps", type=_rate, default=Fraction(24), metavar="R",
        help="frame rate of a folder of images, such as 24 or 24000/1001; default 24",
    )  # fmt: skip
    p.add_argument(
        "--crf", type=int, default=18, metavar="Q",
        help="video quality, from 0 (lossless) to 51 (tiny); default 18",
    )  # fmt: skip
    p.add_argument("--codec", help="video encoder, such as libx265, libvpx-vp9, prores_ks, ffv1")
    p.add_argument("--pixel-format", help="such as yuv420p10le; default yuv420p")
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    p = commands.add_parser("info", help="say what a model file is")
    p.set_defaults(run=run_info)
    p.add_argument("file", metavar="FILE", help="its path, or its name in the folder of models")

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
        "--to", type=Path, metavar="FOLDER", help="default: the folder of models, see above"
    )

    p = commands.add_parser(
        "convert",
        help="make a .safetensors file of a model",
        description="Make a .safetensors file of a model, with what new frames need and nothing "
        "else, and a note of where it came from.",
    )
    p.set_defaults(run=run_convert)
    p.add_argument("input", metavar="IN", help="its path, or its name in the folder of models")
    p.add_argument("output", type=Path, metavar="OUT", help="a name that ends in .safetensors")
    p.add_argument("--half", action="store_true", help="as float16, half as large")
    p.add_argument(
        "--network", choices=NETWORKS, metavar="NAME",
        help="IFNet_2R, for its files, which look like IFNet's",
    )  # fmt: skip
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text!r} can't be used here: {reason}") from error


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no frame rate; try 24 or 24000/1001")
    return rate
