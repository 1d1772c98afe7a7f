"""Writing videos, through PyAV."""

import contextlib
import errno
import io
import logging
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import torch

from ..fileio import raise_file_errors
from .base import Reader, Writer
from .colors import SCREEN
from .encoders import (
    CONTAINERS,
    LARGEST_DENOMINATOR,
    Container,
    Encoding,
    PixelTraits,
    check_encoder,
    choose_encoders,
    encoder_options,
    keeps_light,
    roomier_format,
)
from .parts import Part, advise, chapters_part, collect_parts, tags_parts
from .reader import VideoReader
from .streams import AV_ERRORS, KEPT_SIDE_DATA, LOST_SIDE_DATA, file_url
from .time_grid import fitting_grid, natural_grid, representable_rate
from .tracks import Track, VideoSettings, VideoTrack

logger = logging.getLogger(__name__)

# What stops the picture, too, and is no fault of what is written.
_DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM
}  # fmt: skip


class VideoWriter(Writer):
    """A video file in the container that the name's suffix stands for.

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
        frame_rate: Frames a second, on average.
        encoding: Quality, encoder and pixel format.
        time_base: Seconds of which all times are multiples; None: made for frames at `frame_rate`
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
        self._path, self._like, self._encoding = path, like, encoding
        self._kind = CONTAINERS[path.suffix.lower()]
        self._rate = representable_rate(Fraction(frame_rate))
        self._show_at = show_at or (lambda time: time)
        self._wanted_grid = time_base or natural_grid(like.info, self._rate)
        self._source = like if isinstance(like, VideoReader) else None
        self._last: tuple[Fraction, int] | None = None  # time, pts
        self._broken: set[int] = set()  # streams that are not written any more
        with self._errors():
            parts, lost = self._collect_parts(sound)
            settings, parts, lost_too = self._choose(parts)
            self._warn(settings, lost + lost_too)
            self._time_base = settings.time_base
            self._start = 0
            if self._source:
                self._start = round(self._show_at(self._source.video_start) / self._time_base)
            self._output = _Output(file_url(path), self._kind, settings, parts)
        if self._source:
            streams = [part for part, _ in self._output.tracks if part.stream is not None]
            self._source.side_streams.decoded = {p.stream for p in streams if p.is_decoded}
            self._source.side_streams.copied = {p.stream for p in streams if not p.is_decoded}

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return raise_file_errors("write", self._path, AV_ERRORS)

    def _collect_parts(self, sound: bool) -> tuple[list[Part], list[str]]:
        if self._source is None:
            return [], []
        parts, lost = collect_parts(
            self._source, self._path.suffix, self._kind.format, self._kind.sound, sound
        )
        parts = (
            tags_parts(self._source, self._rate)
            + chapters_part(self._source, self._show_at)
            + parts
        )
        return parts, lost

    def _choose(self, parts: list[Part]) -> tuple[VideoSettings, list[Part], list[str]]:
        """Encoder and pixel format, the parts that can be written with them, and the others' names.

        Tries them by writing a black frame.
        """
        if self._encoding.codec:
            check_encoder(self._encoding.codec, self._kind, self._path.suffix)
        failures: list[tuple[str, Exception]] = []
        for encoder, name in choose_encoders(
            self._kind, self._source_format, self._is_deep_hdr, self._encoding
        ):
            settings = self._settings(encoder, name)
            error = self._try(settings, parts)
            if error and parts and not self._try(settings, []):
                kept = [part for part in parts if not self._try(settings, [part])]
                lost = [part.name for part in parts if part not in kept]
                parts, error = kept, self._try(settings, kept)
            else:
                lost = []
            if error is None:
                return settings, parts, lost
            failures.append((encoder, error))
        encoder, error = failures[0]
        with raise_file_errors(f"encode with {encoder} to", self._path, AV_ERRORS):
            raise error

    @property
    def _source_format(self) -> str:
        if self._source:
            return self._source.pixel_format
        info = self._like.info
        return (
            ("rgba64le" if info.is_deep else "rgba")
            if info.has_alpha
            else ("rgb48le" if info.is_deep else "rgb24")
        )

    @property
    def _is_deep_hdr(self) -> bool:
        return bool(self._source) and self._source.colors.is_hdr and self._like.info.is_deep

    def _settings(self, encoder: str, pixel_format: str) -> VideoSettings:
        info, source = self._like.info, self._source
        side_data = source.side_data if source else {}
        options = encoder_options(
            encoder, self._encoding.crf, *(side_data.get(name) for name in KEPT_SIDE_DATA)
        )
        if not self._encoding.b_frames:
            options["bf"] = "0"
        return VideoSettings(
            encoder,
            pixel_format,
            options,
            info.width,
            info.height,
            self._rate,
            fitting_grid(
                self._wanted_grid, self._rate, LARGEST_DENOMINATOR.get(encoder, 2**31 - 1)
            ),
            (source.colors if source else SCREEN).stored_as(pixel_format),
            source.sample_aspect_ratio if source else Fraction(1),
        )

    def _try(self, settings: VideoSettings, parts: Sequence[Part]) -> Exception | None:
        """What goes wrong with a black frame and the first items of each part, in memory."""
        channels = 4 if self._like.info.has_alpha else 3
        image = torch.zeros(settings.height, settings.width, channels, dtype=torch.uint8)
        try:
            output = _Output(io.BytesIO(), self._kind, settings, parts, final=False)
            try:
                for part, track in output.tracks:
                    for item in part.fresh_samples() if part.stream is not None else ():
                        track.write(item)
                output.video.write(image, 0, 1 / settings.rate)
                output.video.finish()
                for _, track in output.tracks:
                    track.finish()
            finally:
                output.container.close()
        except (OSError, AttributeError, *AV_ERRORS) as error:
            return error
        return None

    def _warn(self, settings: VideoSettings, lost: Sequence[str]) -> None:
        """Say what the output will not have of the input."""
        encoder, name, info = settings.encoder, settings.pixel_format, self._like.info
        has, wanted = PixelTraits.of(name), PixelTraits.of(self._source_format)
        no_alpha, fewer_bits, less_chroma = has.shortfall(wanted)
        if info.has_alpha and no_alpha:
            logger.warning(
                "%s in %s holds no transparency: it becomes black. %s.",
                name, self._path.suffix, _capitalized(self._kind.alpha_advice),
            )  # fmt: skip
        if self._is_deep_hdr and not fewer_bits:
            logger.info("The clip is HDR: it is written with %s in %d bits.", encoder, has.bits)
        less = []
        if fewer_bits:
            less.append(f"{has.bits} bits of {wanted.bits}")
        if less_chroma and self._source:
            less.append("colours at a lower resolution, as players need it")
        if less:
            roomier = roomier_format(encoder, self._source_format)
            logger.warning(
                "%s holds %s%s.", name, " and ".join(less),
                f"; pixel format {roomier} keeps all" if roomier else "",
            )  # fmt: skip
        width, height = len(settings.columns), len(settings.rows)
        if (width, height) != (info.width, info.height):
            logger.warning(
                "%s needs even sides: %dx%d is written as %dx%d, the last row or column doubled.",
                name, info.width, info.height, width, height,
            )  # fmt: skip
        if settings.aspect != 1 and not re.search("264|265|hevc|mpeg4", encoder):
            # PyAV can't set it for the container, and these streams don't hold it themselves.
            logger.warning(
                "%s loses the pixels' shape, %s: they become square.", encoder, settings.aspect
            )
        lost = [*lost, *self._lost_side_data(encoder)]
        if lost:
            logger.warning(
                "Left out, as it can't be kept: %s.%s", ", ".join(lost),
                advise(lost, self._kind.format),
            )  # fmt: skip
        if self._kind.format in ("matroska", "webm") and self._rate > 1000:
            logger.warning(
                "%s keeps times to a millisecond, so that some frames share one; .mp4 keeps them.",
                self._path.suffix,
            )

    def _lost_side_data(self, encoder: str) -> list[str]:
        names = self._source.side_data if self._source else ()
        return [
            name.lower().replace("_", " ")
            for name in names
            if name in LOST_SIDE_DATA or not keeps_light(encoder)
        ]

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

    def _write_queued(self) -> None:
        """Write the sound and subtitles that were read since the last call."""
        queue = self._source.side_streams.queue if self._source else ()
        tracks = {part.stream: (part, track) for part, track in self._output.tracks}
        while queue:
            index, item = queue.popleft()
            if index not in self._broken:
                part, track = tracks[index]
                self._guard(part, track.write, _shifted(item, self._source.origin))

    def _guard(self, part: Part, work: Callable, *args: object) -> None:
        """Do something with a part; if that fails, go on without it: the picture matters more."""
        try:
            work(*args)
        except (OSError, *AV_ERRORS) as error:
            if getattr(error, "errno", None) in _DISK_ERRORS:
                raise
            self._broken.add(part.stream)
            logger.warning(
                "%s ends early: it can't be written (%s).%s", _capitalized(part.name),
                getattr(error, "strerror", None) or error, advise([part.name], self._kind.format),
            )  # fmt: skip

    def close(self) -> None:
        with self._errors():
            self._write_queued()
            self._output.video.finish()
            for part, track in self._output.tracks:
                if part.stream not in self._broken:
                    self._guard(part, track.finish)
            self._output.container.close()

    def discard(self) -> None:
        # Without its file, closing has no header to move to the front of gigabytes.
        with contextlib.suppress(OSError):
            self._path.unlink()
        with contextlib.suppress(OSError, *AV_ERRORS):
            self._output.container.close()


class _Output:
    """A container with its picture and parts, its header written.

    Args:
        file: A path or a file in memory.
        final: Whether it is to be kept.
    """

    def __init__(
        self,
        file: str | io.BytesIO,
        kind: Container,
        settings: VideoSettings,
        parts: Sequence[Part],
        final: bool = True,
    ):
        options = {}
        for holder in (kind, *parts) if final else ():
            options.update(holder.options)
        self.container = av.open(file, "w", format=kind.format, container_options=options)
        try:
            self.video = VideoTrack(self.container, settings)
            added = [(part, part.add(self.container, self.video.stream)) for part in parts]
            self.tracks: list[tuple[Part, Track]] = [pair for pair in added if pair[1] is not None]
            self.container.start_encoding()
            for part, track in self.tracks:
                if part.stream is None:
                    for item in part.fresh_samples():
                        track.write(item)
        except BaseException:
            with contextlib.suppress(OSError, *AV_ERRORS):
                self.container.close()
            raise


def _shifted(item: av.Packet | av.AudioFrame, origin: Fraction) -> av.Packet | av.AudioFrame:
    """The item with times that count from `origin`, seconds on its own clock."""
    if item.time_base:
        shift = round(origin / item.time_base)
        for name in ("pts", "dts") if isinstance(item, av.Packet) else ("pts",):
            if getattr(item, name) is not None:
                setattr(item, name, getattr(item, name) - shift)
    return item


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
