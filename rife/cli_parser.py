"""The command line's arguments: every command, its options and their help."""

import argparse
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import torch

from .console import print_error
from .inference.planner import first_line
from .models.checkpoint import NETWORKS, OPTION_EFFECTS
from .options import CUTS
from .timeline import LENGTHS, parse_frame_rate, parse_multiplier, parse_number

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_Commands = argparse._SubParsersAction  # what add_subparsers returns; it has no public name


def create_parser() -> argparse.ArgumentParser:
    """Creates the parser of the command line.

    Returns:
        A parser whose namespaces have the name of the command in `command`, one of "interpolate",
        "info", "models", "get", "convert" and "doctor", and that command's arguments.
    """
    parser = _Parser(prog="python -m rife", description="Video frame interpolation with RIFE.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_interpolate(commands)
    _add_info(commands)
    _add_models(commands)
    _add_convert(commands)
    _add_doctor(commands)
    return parser


def _add_interpolate(commands: _Commands) -> None:
    parser = commands.add_parser(
        "interpolate",
        help="put new frames between those of a clip",
        description="Put new frames between those of a clip. Sound, rotation, colour tags and "
        "metadata are kept; OUT appears only when it is whole.",
    )
    parser.set_defaults(command="interpolate")
    parser.add_argument(
        "input", type=_argument_type(_parse_path), metavar="IN",
        help="a video, an animated GIF, WebP or PNG, or a folder of numbered images",
    )  # fmt: skip
    parser.add_argument(
        "output", type=_argument_type(_parse_path), metavar="OUT",
        help="the same kinds, by suffix: .mp4 .mov .mkv .webm .gif .webp .apng; a name "
        "without a suffix is a folder of numbered PNG images",
    )  # fmt: skip
    # The help lists the options in this order.
    _add_timeline_options(parser)
    _add_detection_options(parser)
    _add_reading_options(parser)
    _add_model_options(parser)
    _add_network_options(parser)
    parser.add_argument(
        "--fps", type=_argument_type(parse_frame_rate), default=Fraction(24), metavar="R",
        help="frame rate of a folder of images, such as 24 or 24000/1001; default 24",
    )  # fmt: skip
    _add_encoding_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--strict", action="store_true",
        help="end with status 3 if anything in IN was damaged or missing; OUT is written all the "
        "same",
    )  # fmt: skip


def _add_timeline_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", "--multiplier", type=_argument_type(parse_multiplier), default=Fraction(2),
        metavar="N",
        help="times as many frames a second: 2 (the default), 2.5, 5/2; or, for each pair of "
        'frames, a schedule such as "0-20:2, 21:8, 22-:1"',
    )  # fmt: skip
    parser.add_argument(
        "--target-fps", type=_argument_type(parse_frame_rate), metavar="R",
        help="frames a second instead, evenly spaced: 60, 23.976, 60000/1001; fewer than IN has "
        "are picked from it",
    )  # fmt: skip
    parser.add_argument(
        "--length", choices=LENGTHS, default="frames",
        help="frames: end at the last frame, (n - 1) m + 1 of them (the default); duration: n m "
        "frames, the last one held, so that picture and sound end together",
    )  # fmt: skip
    parser.add_argument(
        "--slow-motion", action="store_true",
        help="show the frames at the rate of IN: as many times slower, without sound",
    )  # fmt: skip
    parser.add_argument(
        "--loop", action="store_true", help="make the frames from the last to the first, too"
    )


def _add_detection_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cuts", choices=CUTS, default="hold",
        help="between two shots, hold each frame up to the middle (the default), blend them, or "
        "ignore the cut and morph",
    )  # fmt: skip
    parser.add_argument(
        "--cut-sensitivity", type=float, default=0.5, metavar="S",
        help="from 0, no cut is seen, to 1; default 0.5",
    )  # fmt: skip
    parser.add_argument(
        "--duplicates", action="store_true",
        help="spread the motion evenly over frames that repeat, as in animation on twos",
    )  # fmt: skip


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interlaced", choices=("deinterlace", "keep"), default="deinterlace",
        help="make interlaced video progressive (the default), or keep both fields in each frame",
    )  # fmt: skip
    parser.add_argument(
        "--start", type=_argument_type(_parse_seconds), default=Fraction(0), metavar="SECONDS",
        help="where in a video to begin",
    )  # fmt: skip
    parser.add_argument(
        "--duration", type=_argument_type(_parse_seconds), metavar="SECONDS",
        help="how much of it to take; good for trying settings",
    )  # fmt: skip


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=_argument_type(_parse_path),
        help="a RIFE checkpoint (.safetensors .pth .pkl .pt) of any version, or its name in the "
        "folder of models (see the command models); default: RIFE_MODEL, or the only one there",
    )  # fmt: skip
    parser.add_argument(
        "--device",
        type=_argument_type(_parse_device),
        help="cpu, cuda, cuda:1, mps ...; default: the best there is",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="default: float16 on CUDA, float32 elsewhere"
    )


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale", type=_argument_type(_parse_scale), metavar="S",
        help=f"{OPTION_EFFECTS['scale']}; default auto, by the size",
    )  # fmt: skip
    parser.add_argument(
        "--ensemble", action="store_true", help=f"{OPTION_EFFECTS['ensemble']} (up to v4.20)"
    )
    parser.add_argument(
        "--refine", action="store_true", help=f"{OPTION_EFFECTS['refine']} (v4.0 and v4.1)"
    )
    parser.add_argument("--tta", action="store_true", help=OPTION_EFFECTS["tta"])


def _add_encoding_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--crf", type=_argument_type(_parse_quality), default=18, metavar="Q",
        help="video quality, from 0 (lossless) to 51 (tiny), or 63 of VP9 and AV1; default 18",
    )  # fmt: skip
    parser.add_argument(
        "--codec",
        help="video encoder, such as libx264, libx265, libvpx-vp9, libsvtav1, prores_ks, ffv1; the "
        "default is H.264 (VP9 in .webm), H.265 (AV1) for HDR, ProRes for transparency in .mov",
    )
    parser.add_argument(
        "--pixel-format",
        help="such as yuv420p10le; the default is yuv420p, which all players take, more bits for "
        "HDR, and what IN has in codecs for editing, such as ffv1",
    )


def _add_info(commands: _Commands) -> None:
    parser = commands.add_parser("info", help="say what a model file is")
    parser.set_defaults(command="info")
    parser.add_argument(
        "file", type=_argument_type(_parse_path), metavar="FILE",
        help="its path, or its name in the folder of models",
    )  # fmt: skip


def _add_models(commands: _Commands) -> None:
    parser = commands.add_parser(
        "models",
        help="list the published models, or get one",
        description="List the published models. The folder of models is ./models, or what "
        "RIFE_MODELS names.",
    )
    parser.set_defaults(command="models")
    parser = parser.add_subparsers(metavar="get").add_parser("get", help="download a model")
    parser.set_defaults(command="get")
    parser.add_argument("name", metavar="NAME", help="as the list has it")
    parser.add_argument(
        "--to",
        type=_argument_type(_parse_path),
        metavar="FOLDER",
        help="default: the folder of models, see above",
    )


def _add_convert(commands: _Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="make a .safetensors file of a model",
        description="Make a .safetensors file of a model, with what new frames need and nothing "
        "else, and a note of where it came from.",
    )
    parser.set_defaults(command="convert")
    parser.add_argument(
        "input", type=_argument_type(_parse_path), metavar="IN",
        help="its path, or its name in the folder of models",
    )  # fmt: skip
    parser.add_argument(
        "output",
        type=_argument_type(_parse_path),
        metavar="OUT",
        help="a name that ends in .safetensors",
    )
    parser.add_argument("--half", action="store_true", help="as float16, half as large")
    parser.add_argument(
        "--network", choices=NETWORKS, metavar="NAME",
        help="IFNet_2R, for its files, which look like IFNet's",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_doctor(commands: _Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="report versions, devices and models, and test each device for a second",
        description="Print what an issue needs to say: versions, devices, the models found, and "
        "whether a small self-test comes out right on each device. The exit status is 1 if "
        "something is wrong.",
    )
    parser.set_defaults(command="doctor")


class _Parser(argparse.ArgumentParser):
    """Prints an error as one line."""

    def parse_args(self, *arguments) -> argparse.Namespace:
        args = super().parse_args(*arguments)
        if [] in vars(args).values():  # argparse stores [] for --fps=--
            self.error("-- is no value")
        return args

    def error(self, message: str) -> NoReturn:
        print_error(f"error: {message}; see {self.prog} --help")
        self.exit(2)


def _argument_type(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Makes argparse show the text of a ValueError that `parse` raises."""

    def read(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _parse_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is no name of a file")
    return Path(text)


def _parse_seconds(text: str) -> Fraction:
    try:
        seconds = parse_number(text)
    except ValueError:
        seconds = Fraction(-1)
    if seconds < 0:
        raise ValueError(f"{text!r} is no time in seconds; try 10 or 12.5")
    return seconds


def _parse_quality(text: str) -> int:
    if not re.fullmatch(r"\s*\d{1,2}\s*", text) or int(text) > 63:
        raise ValueError(f"{text!r} is no quality; try 18, or another number from 0 to 51")
    return int(text)


def _parse_scale(text: str) -> float | None:
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no scale; try auto, 0.5, 1 or 2") from None


def _parse_device(text: str) -> torch.device:
    try:
        one = torch.ones(1, device=text)
        one.tolist()  # a tensor on "meta" has no values
    except Exception as error:  # a missing backend may raise any
        raise ValueError(f"{text!r} can't be used here: {first_line(error)}") from error
    return one.device
