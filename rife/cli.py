"""The command line, a thin layer over the library: `python -m rife --help`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_parser import DTYPES, create_parser
from .console import print_error, printable, progress_bar, unfailing_console
from .devices import best_device, usable_dtype
from .fileio import FileError, refuse_same_file
from .inference.planner import NotEnoughMemory, first_line, is_out_of_memory
from .interpolate_file import interpolate_file
from .interrupts import raise_on_signal
from .media import Encoding
from .models.checkpoint import EXTENSIONS, convert, describe, load_model
from .models.download import download_model
from .models.zoo import DEFAULT, ZOO, find_on_disk
from .options import Options
from .timeline import Timeline

if TYPE_CHECKING:
    from .doctor import Host


def main(arguments: Sequence[str] | None = None, host: "Host | None" = None) -> int:
    """Runs a command.

    Args:
        arguments: The command and its arguments; None for those of the process.
        host: The program that this library is installed in, for the doctor's report.

    Returns:
        The exit status: 0 for success, 1 for failure, 2 for wrong arguments; with --strict, 3 if
        the output was written but something in the input was damaged or missing. After a signal,
        128 plus its number: 130 for Ctrl-C, 143 for a kill, 129 for a closed terminal.
    """
    with unfailing_console(), raise_on_signal() as raise_if_interrupted:
        output = stamp = None
        try:
            namespace = argparse.Namespace(cancel=raise_if_interrupted, host=host)
            args = create_parser().parse_args(arguments, namespace)
            output = getattr(args, "output", None)
            stamp = _file_stamp(output)
            return _COMMANDS[args.command](args)
        except KeyboardInterrupt as interrupt:
            print_error("interrupted" + _describe_output(output, stamp))
            return getattr(interrupt, "exit_status", 130)
        except (NotEnoughMemory, OSError, ValueError) as error:
            print_error(f"error: {error}")
            return 1
        except (MemoryError, RuntimeError) as error:  # by the model itself, or one large frame
            if not is_out_of_memory(error):
                raise
            print_error(f"error: out of memory. Try --device cpu ({first_line(error)})")
            return 1


def _file_stamp(path: Path | None) -> tuple[int, ...] | None:
    """A value that changes when the file is replaced; None without a file."""
    try:
        status = os.stat(path) if path else None
    except (OSError, ValueError):
        status = None
    return status and (status.st_ino, status.st_mtime_ns, status.st_size)


def _describe_output(output: Path | None, stamp_before: tuple[int, ...] | None) -> str:
    if output is None:
        return ""
    if _file_stamp(output) != stamp_before:
        return f", but {output} is whole already"
    return f"; {output} {'is as it was' if stamp_before else 'was not written'}"


def _run_interpolate(args: argparse.Namespace) -> int:
    _check_input(args.input)
    refuse_same_file(args.input, args.output)  # before the model is loaded, which takes seconds
    device, dtype = args.device or best_device(), DTYPES.get(args.dtype)
    if dtype:
        dtype = usable_dtype(dtype, device)
    model = load_model(_choose_model(args.model), device, dtype)
    options = Options(
        args.scale, args.ensemble, args.refine, args.tta,
        args.cuts, args.cut_sensitivity, args.duplicates,
    )  # fmt: skip
    timeline = Timeline(
        args.multiplier, args.target_fps, args.loop, args.slow_motion, length=args.length
    )
    encoding = Encoding(args.crf, args.codec, args.pixel_format)
    with progress_bar(args.input.name, unit="frame") as report:
        summary = interpolate_file(
            model, args.input, args.output, timeline, options, encoding,
            frame_rate=args.fps, start=args.start, duration=args.duration,
            interlaced=args.interlaced,
            overwrite=args.overwrite, progress=report, cancel=args.cancel,
        )  # fmt: skip
    _print_lines(f"{args.output}")
    return 3 if args.strict and summary.damage else 0


def _check_input(path: Path) -> None:
    if not os.path.exists(path):
        raise FileError(f"{path} does not exist; check the path")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise FileError(f"{path} is no file or folder but a pipe or a device; save it as a file")


def _run_info(args: argparse.Namespace) -> int:
    properties = describe(_find_model(args.file))
    return _print_lines(*(f"{name:14}{text}" for name, text in properties.items()))


def _run_models(_: argparse.Namespace) -> int:
    rows = [("NAME", "VERSION", "SIZE", "ON DISK", "GOOD FOR")]
    for entry in ZOO.values():
        size = f"{entry.size / 1e6:.1f} MB" if entry.size else ""
        on_disk = "yes" if find_on_disk(entry, [_models_folder()]) else ""
        rows.append((entry.name, entry.version, size, on_disk, entry.good_for))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return _print_lines(*("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows))


def _run_get(args: argparse.Namespace) -> int:
    if args.name not in ZOO:
        raise FileError(f'There is no "{args.name}" among: python -m rife models')
    with progress_bar(args.name, unit="B", unit_scale=True) as report:
        path = download_model(ZOO[args.name], args.to or _models_folder(), report, args.cancel)
    _print_lines(f"{path}")
    return 0


def _run_convert(args: argparse.Namespace) -> int:
    convert(
        _find_model(args.input), args.output,
        half=args.half, network=args.network, overwrite=args.overwrite,
    )  # fmt: skip
    _print_lines(f"{args.output}")
    return 0


def _run_doctor(args: argparse.Namespace) -> int:
    from .doctor import examine  # here, so that other commands work where its imports fail

    return 0 if examine([_models_folder()], args.host) else 1


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "interpolate": _run_interpolate,
    "info": _run_info,
    "models": _run_models,
    "get": _run_get,
    "convert": _run_convert,
    "doctor": _run_doctor,
}


def _print_lines(*lines: str) -> int:
    """Prints the lines; returns 1 if that failed, unless the reader has only stopped reading."""
    print(*map(printable, lines), sep="\n", flush=True)
    failure = sys.stdout.failure
    if not failure or isinstance(failure, BrokenPipeError):
        return 0
    print_error(f"standard output can't be written ({failure})")
    return 1


def _find_model(name: str | os.PathLike) -> Path:
    """Returns the model file at that path, or of that name in the folder of models."""
    name = os.fspath(name)
    for path in (Path(name), _models_folder() / name):
        if os.path.exists(path):
            return path
    advice = f"get it with: python -m rife models get {name}" if name in ZOO else "check the name"
    raise FileError(f"{name} is neither here nor in the folder {_models_folder()}; {advice}")


def _choose_model(name: Path | None) -> Path:
    """Returns the model of that name, else RIFE_MODEL's, else the only one in the folder."""
    name = name or os.environ.get("RIFE_MODEL")
    if name:
        return _find_model(name)
    folder = _models_folder()
    models = sorted(path for path in folder.glob("*") if path.suffix.lower() in EXTENSIONS)
    if len(models) == 1:
        return models[0]
    content = f"holds {len(models)} of them" if models else "holds none"
    raise FileError(
        f"Which model? Name it with --model or RIFE_MODEL (the folder {folder} {content}). A good "
        f"one to get: python -m rife models get {DEFAULT}"
    )


def _models_folder() -> Path:
    return Path(os.environ.get("RIFE_MODELS") or "models")
