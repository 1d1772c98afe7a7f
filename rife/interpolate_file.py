"""A clip on disk -> a clip on disk: decoded, interpolated and encoded at the same time."""

import logging
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from .callbacks import Cancel
from .fileio import atomic_output, refuse_same_file
from .interpolate import Summary, interpolate_stream
from .media import Edit, Encoding, create_writer, open_reader
from .networks.base import Network
from .options import Options
from .timeline import Schedule, Timeline

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None, Tensor], None]


def interpolate_file(
    model: Network,
    source: str | Path,
    target: str | Path,
    timeline: Timeline = Timeline(),  # noqa: B008 (frozen)
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
    summary: Summary | None = None,
) -> int:
    """Interpolate `source` to `target`; holds a few frames at a time, however long the clip.

    source, target: videos, animations or folders of images, see `open_reader` and
        `create_writer`. `target` appears only when it is whole; an existing one is replaced only
        with `overwrite`. Sound, colour tags and metadata are kept; slow motion has no sound.
    encoding: quality, encoder and pixel format of a video.
    frame_rate: of a folder of images. start, duration: seconds; the part of a video to take.
    interlaced: what becomes of interlaced video, "deinterlace" or "keep".
    edit: what is done to each image of `source` first, such as a crop: (H, W, C) -> (h, w, C).
    progress: called as (done, total or None, frame) with each frame; frame: (H, W, C).
    summary: counts what is done.

    Returns the number of frames written. Raises FileError for what can't be read or written,
    ValueError for options that `model` lacks.
    """
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
        summary = summary or Summary()
        total = info.frame_count and timeline.count(info.frame_count, source_rate)
        count = 0
        # Left from the last to the first, however it ends: nobody reads any more when the writer
        # finishes or discards its file, and when the reader closes its own.
        with (
            create_writer(
                temporary, reader, rate, encoding,
                time_base=_time_base(timeline, info.time_base), sound=not timeline.slow_motion,
                show_at=_slowed(timeline, source_rate) if timeline.slow_motion else None,
            ) as writer,
            closing(iter(reader)) as frames,
            closing(
                interpolate_stream(
                    model, frames, timeline, options, cancel, summary, frame_rate=source_rate
                )
            ) as stream,
        ):  # fmt: skip
            for count, (image, time, duration) in enumerate(stream, 1):
                writer.write(image, time, duration)
                if progress:
                    progress(count, total, image)
        summary.damage += reader.damage
    return count


def _slowed(timeline: Timeline, source_rate: Fraction) -> Callable[[Fraction], Fraction]:
    """When slow motion shows what the input shows at a time."""
    return lambda time: timeline.place(time * source_rate, time) / timeline.rate(source_rate)


def _time_base(timeline: Timeline, source: Fraction) -> Fraction | None:
    """The grid of all times of a clip whose input frames keep theirs; None: that of its rate."""
    if timeline.is_evenly_spaced:
        return None
    if isinstance(timeline.multiplier, Schedule):
        parts = math.lcm(*(multiplier for _, _, multiplier in timeline.multiplier.spans))
    else:
        parts = timeline.multiplier.numerator
    return source / parts
