"""Writing videos, through PyAV."""

import contextlib
import errno
import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import torch

from ..fileio import raise_file_errors
from .base import Reader, Writer
from .encoders import FILE_FORMATS, Encoding
from .extras import Extra, advise
from .output import OutputFile
from .output_plan import OutputPlanner, capitalize
from .reader import VideoReader
from .streams import AV_ERRORS, file_url
from .time_grid import representable_rate

logger = logging.getLogger(__name__)

# Errors that end the picture, too, and are no fault of what is written.
_DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM
}  # fmt: skip


class VideoWriter(Writer):
    """Writes a video file in the container that the name's suffix stands for.

    The encoder is H.264 (VP9 in .webm) in 8-bit 4:2:0, as all players take it; H.265 or AV1 in 10
    bits for HDR, and in .mov ProRes for what has transparency, unless `encoding` says otherwise.
    Players need even sizes where chroma is subsampled, so the last column or row is then doubled.
    Pictures lose transparency, over black, in formats without it.

    Frames keep their exact times in .mp4 and .mov; .mkv and .webm round them to milliseconds.

    Sound and subtitles are copied from `like` as they are if the container takes them. Other sound
    is encoded anew. Colour tags, pixel shape, chapters, titles and other tags are kept. All is
    tried before the first frame, on a file in memory, and warnings say what is left out; what
    fails later costs no frame.

    Args:
        path: The file.
        like: The input.
        frame_rate: Frames a second, on average.
        encoding: Quality, encoder and pixel format.
        time_base: Seconds of which all times are multiples; None: chosen for frames at `frame_rate`
            and for those at `like`'s times, evenly divided.
        sound: Whether to keep sound and subtitles.
        show_at: When the output shows what `like` shows at a time, both in seconds; None: at the
            same time.

    Raises:
        FileError: The settings don't go together, or the file can't be written.
    """

    def __init__(
        self,
        path: Path,
        like: Reader,
        frame_rate: Fraction,
        encoding: Encoding = Encoding(),  # noqa: B008 (frozen)
        *,
        time_base: Fraction | None = None,
        sound: bool = True,
        show_at: Callable[[Fraction], Fraction] | None = None,
    ):
        self._path = path
        self._muxer = FILE_FORMATS[path.suffix.lower()].muxer
        self._rate = representable_rate(Fraction(frame_rate))
        self._source = like if isinstance(like, VideoReader) else None
        self._last: tuple[Fraction, int] | None = None  # time, pts
        self._broken: set[int] = set()  # indices of input streams that are not written any more
        show_at = show_at or (lambda time: time)
        with self._errors():
            planner = OutputPlanner(path, like, self._rate, encoding, time_base)
            plan = planner.plan(sound, show_at)
            self._time_base = plan.settings.time_base
            self._start = 0  # pts of the clip's first frame
            if self._source:
                self._start = round(show_at(self._source.video_start) / self._time_base)
            self._output = OutputFile(
                file_url(path), self._muxer, plan.settings, plan.extras, plan.options
            )
        self._tracks = {extra.stream: (extra, track) for extra, track in self._output.tracks}
        if self._source:
            streams = [extra for extra, _ in self._output.tracks if extra.stream is not None]
            side_streams = self._source.side_streams
            side_streams.decoded = {extra.stream for extra in streams if extra.is_decoded}
            side_streams.copied = {extra.stream for extra in streams if not extra.is_decoded}

    def write(self, image: torch.Tensor, time: Fraction, duration: Fraction | None = None) -> None:
        pts = self._start + round(time / self._time_base)
        if self._last is not None:
            last_time, last_pts = self._last
            if time <= last_time:
                raise ValueError(
                    f"the frame at {float(time):.6f} s does not come after the last one"
                )
            pts = max(pts, last_pts + 1)  # the grid may be coarser than the frames are close
        self._last = time, pts
        with self._errors():
            self._write_queued()
            self._output.video.write(image, pts, duration or 1 / self._rate)

    def close(self) -> None:
        with self._errors():
            self._write_queued()
            self._output.video.finish()
            for extra, track in self._output.tracks:
                if extra.stream not in self._broken:
                    self._attempt(extra, track.finish)
            self._output.container.close()

    def discard(self) -> None:
        # Without its file, closing has no header to move to the front of gigabytes.
        with contextlib.suppress(OSError):
            self._path.unlink()
        with contextlib.suppress(OSError, *AV_ERRORS):
            self._output.container.close()

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return raise_file_errors("write", self._path, AV_ERRORS)

    def _write_queued(self) -> None:
        """Writes the sound and subtitles that were read since the last call."""
        queue = self._source.side_streams.queue if self._source else ()
        while queue:
            index, item = queue.popleft()
            if index not in self._broken:
                extra, track = self._tracks[index]
                self._attempt(extra, track.write, _shift(item, self._source.origin))

    def _attempt(self, extra: Extra, action: Callable, *args: object) -> None:
        """Does something with an extra; if that fails, goes on without it: the picture matters
        more."""
        try:
            action(*args)
        except (OSError, *AV_ERRORS) as error:
            if getattr(error, "errno", None) in _DISK_ERRORS:
                raise
            self._broken.add(extra.stream)
            logger.warning(
                "%s ends early: it can't be written (%s).%s", capitalize(extra.name),
                getattr(error, "strerror", None) or error, advise([extra.name], self._muxer),
            )  # fmt: skip


def _shift(item: av.Packet | av.AudioFrame, origin: Fraction) -> av.Packet | av.AudioFrame:
    """Returns the item with times that count from `origin`, seconds on its own clock."""
    if item.time_base:
        ticks = round(origin / item.time_base)
        for name in ("pts", "dts") if isinstance(item, av.Packet) else ("pts",):
            if getattr(item, name) is not None:
                setattr(item, name, getattr(item, name) - ticks)
    return item
