"""Interpolates a file to a file: decodes, interpolates and encodes at the same time."""

import logging
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from .callbacks import Cancel, Progress
from .fileio import atomic_output, refuse_same_file
from .interpolate import Summary, interpolate_stream
from .media import Edit, Encoding, create_writer, open_reader
from .networks.base import Network
from .options import Options
from .timeline import Schedule, Timeline, TimelineLike

log = logging.getLogger(__name__)


def interpolate_file(
    model: Network,
    source: str | Path,
    target: str | Path,
    timeline: TimelineLike = 2,
    options: Options = Options(),  # noqa: B008 (frozen)
    encoding: Encoding = Encoding(),  # noqa: B008 (frozen)
    *,
    frame_rate: Fraction = Fraction(24),
    start: Fraction = Fraction(0),
    duration: Fraction | None = None,
    interlaced: str = "deinterlace",
    edit: Edit | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Summary:
    """Interpolates `source` to `target`; holds a few frames at a time, however long the clip.

    Args:
        model: The network, from `load_model`.
        source: A video, an animation or a folder of images, see `open_reader`.
        target: Likewise, see `create_writer`. It appears only when it is whole. Sound, colour tags
            and metadata are kept; slow motion has no sound.
        timeline: Where the output frames lie, see `interpolate`.
        options: The settings of the run.
        encoding: Quality, encoder and pixel format of a video.
        frame_rate: Of a folder of images.
        start: Seconds of a video to leave out at its beginning.
        duration: Seconds of a video to take; None: up to its end.
        interlaced: What becomes of interlaced video, "deinterlace" or "keep".
        edit: What is done to each image of `source` first, such as a crop: (H, W, C) -> (h, w, C).
        overwrite: Whether an existing `target` is replaced.
        progress: Called with each frame.
        cancel: See `interpolate`.

    Returns:
        What was done.

    Raises:
        FileError: `source` can't be read or `target` can't be written.
        ValueError: `options` ask for what `model` lacks.
    """
    timeline = Timeline.of(timeline)
    options.check(model)
    refuse_same_file(source, target)
    with (
        atomic_output(target, overwrite) as temporary,
        open_reader(source, frame_rate, start, duration, interlaced, edit) as reader,
    ):
        info = reader.info
        source_rate = info.frame_rate or frame_rate
        timeline = replace(timeline, tick=info.time_base)
        rate = timeline.rate(source_rate)
        if timeline.slow_motion and getattr(reader, "other_streams", ()):
            log.warning("Slow motion has no sound: it is left out.")
        summary = Summary()
        total = info.frame_count and timeline.count(info.frame_count, source_rate)
        # Left from the last to the first, however it ends: nobody reads any more when the writer
        # finishes or discards its file, and when the reader closes its own.
        with (
            create_writer(
                temporary, reader, rate, encoding,
                time_base=_time_base(timeline, info.time_base), sound=not timeline.slow_motion,
                show_at=_slow_down(timeline, source_rate) if timeline.slow_motion else None,
            ) as writer,
            closing(iter(reader)) as frames,
            closing(
                interpolate_stream(
                    model, frames, timeline, options,
                    frame_rate=source_rate, cancel=cancel, summary=summary,
                )
            ) as stream,
        ):  # fmt: skip
            for done, (image, time, duration) in enumerate(stream, 1):
                writer.write(image, time, duration)
                if progress:
                    progress(done, total, image)
        summary.damage += reader.damage
    return summary


def _slow_down(timeline: Timeline, source_rate: Fraction) -> Callable[[Fraction], Fraction]:
    """A function from times in the input to the times at which slow motion shows the same."""
    return lambda time: timeline.place(time * source_rate, time) / timeline.rate(source_rate)


def _time_base(timeline: Timeline, source: Fraction) -> Fraction | None:
    """The time base of a clip whose input frames keep their times; None, where its rate is one.

    Args:
        timeline: Where the output frames lie.
        source: The input's time base, in seconds.
    """
    if timeline.is_evenly_spaced:
        return None
    if isinstance(timeline.multiplier, Schedule):
        parts = math.lcm(*(multiplier for _, _, multiplier in timeline.multiplier.spans))
    else:
        parts = timeline.multiplier.numerator
    return source / parts
