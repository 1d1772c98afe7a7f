"""Shows on the node and in the console how far a run is and what it warns of; stops it if asked."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.utils
from comfy import model_management
from comfy.cli_args import args
from PIL import Image
from server import PromptServer
from torch import Tensor
from tqdm import tqdm

from .. import rife
from ..rife.console import printable
from ..rife.media.base import to_uint8

SECONDS_BETWEEN_PREVIEWS = 0.3


def stop_if_interrupted() -> None:
    """Raises ComfyUI's exception if the user has interrupted the run."""
    model_management.throw_exception_if_processing_interrupted()


@contextmanager
def show_progress(
    node_id: str | None = None, **console_settings: Any
) -> Iterator[Callable[..., None]]:
    """Shows a bar, a line of text and previews on a node, and a bar in the console.

    Args:
        node_id: None for a run without a node of its own, such as a download.
        **console_settings: Settings of tqdm for the console's bar; `unit` is what is counted.

    Yields:
        The callback that reports progress: (number done, total or None, newest frame).
    """
    node_bar = comfy.utils.ProgressBar(0)
    started = time.monotonic()
    last_preview = float("-inf")

    with tqdm(**console_settings) as console_bar:

        def report_progress(done: int, total: int | None, frame: Tensor | None = None) -> None:
            nonlocal last_preview
            stop_if_interrupted()
            console_bar.total = total
            console_bar.update(done - console_bar.n)
            preview = None
            if time.monotonic() - last_preview >= SECONDS_BETWEEN_PREVIEWS:
                seconds = time.monotonic() - started
                unit = console_settings["unit"]
                _show_text(node_id, _describe_progress(done, total, seconds, unit))
                if frame is not None:
                    # Without a size: ComfyUI would enlarge small previews to it.
                    preview = ("JPEG", make_preview(frame, args.preview_size), None)
                last_preview = time.monotonic()
            if total:
                node_bar.update_absolute(done, total, preview)

        yield report_progress


def _show_text(node_id: str | None, text: str) -> None:
    """Shows a line of text on a node, in the place of the line before."""
    if node_id is not None:
        PromptServer.instance.send_progress_text(text, node_id)


def _describe_progress(done: int, total: int | None, seconds: float, unit: str) -> str:
    """Says how far a run is, how fast, and how long it will take."""
    if unit == "B":
        parts = [f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"]
    else:
        parts = [f"{unit} {done} of {total}" if total else f"{unit} {done}"]
        if seconds > 0:
            parts.append(f"{done / seconds:.3g} a second")
    if total and done and seconds > 1:
        left = seconds * (total - done) / done
        parts.append(f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")
    return ", ".join(parts)


def make_preview(frame: Tensor, longer_side: int) -> Image.Image:
    """Returns a small picture of a frame.

    Args:
        frame: (H, W, C), floats in [0, 1] or uint8.
        longer_side: Largest size of the picture, in pixels.
    """
    step = max(1, max(frame.shape[:2]) // longer_side)  # does most of the shrinking, cheaply
    pixels = to_uint8(frame[::step, ::step, :3])
    picture = Image.fromarray(pixels.expand(-1, -1, 3).numpy())
    picture.thumbnail((longer_side, longer_side), Image.Resampling.BILINEAR)
    return picture


class _WarningCollector(logging.Handler):
    """Keeps the text of each different warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(record.getMessage())
        if text not in self.texts:
            self.texts.append(text)


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Yields a list that gets each different warning that the library logs during the block."""
    logger, collector = logging.getLogger(rife.__name__), _WarningCollector()
    logger.addHandler(collector)
    try:
        yield collector.texts
    finally:
        logger.removeHandler(collector)
