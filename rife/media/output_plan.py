"""How a video file is to be written: encoder, pixel format, and what it holds beside the picture.

All is tried before the first frame, on a file in memory; warnings say what is left out.
"""

import io
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from ..fileio import raise_file_errors
from .base import Reader
from .colors import SCREEN
from .encoders import (
    FILE_FORMATS,
    LARGEST_DENOMINATOR,
    Encoding,
    PixelTraits,
    check_encoder,
    choose_encoders,
    encoder_options,
    keeps_light,
    roomier_format,
)
from .extras import Extra, advise, chapters_extra, stream_extras, tag_extras
from .output import OutputFile
from .reader import VideoReader
from .streams import AV_ERRORS, KEPT_SIDE_DATA, LOST_SIDE_DATA
from .time_grid import fitting_grid, natural_grid
from .tracks import VideoSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputPlan:
    """What was chosen for a video file.

    Attributes:
        settings: How its video is encoded.
        extras: What it holds beside that.
        options: The container's.
    """

    settings: VideoSettings
    extras: list[Extra]
    options: dict[str, str]


class OutputPlanner:
    """Chooses how a video file is written.

    Args:
        path: The file, for its suffix and for messages.
        like: The input.
        rate: Frames a second, on average.
        encoding: What the user chose.
        time_base: Seconds of which all times are multiples, if files can hold that; None: chosen
            for frames at `rate` and for those at `like`'s times, evenly divided.
    """

    def __init__(
        self,
        path: Path,
        like: Reader,
        rate: Fraction,
        encoding: Encoding,
        time_base: Fraction | None,
    ):
        self._path, self._encoding, self._rate = path, encoding, rate
        self._file_format = FILE_FORMATS[path.suffix.lower()]
        self._info = like.info
        self._source = like if isinstance(like, VideoReader) else None
        self._wanted_grid = time_base or natural_grid(like.info, rate)

    def plan(self, sound: bool, show_at: Callable[[Fraction], Fraction]) -> OutputPlan:
        """Chooses everything, and warns of what is lost.

        Args:
            sound: Whether to keep sound and subtitles.
            show_at: When the output shows what the input shows at a time, both in seconds.

        Raises:
            FileError: The user's choices don't go together, or no encoder works.
        """
        extras, lost = self._collect_extras(sound, show_at)
        settings, extras, refused = self._choose_settings(extras)
        self._warn_of_losses(settings, lost + refused)
        options = dict(self._file_format.options)
        for extra in extras:
            options.update(extra.options)
        return OutputPlan(settings, extras, options)

    def _collect_extras(
        self, sound: bool, show_at: Callable[[Fraction], Fraction]
    ) -> tuple[list[Extra], list[str]]:
        """Returns what the container can hold beside the video, and the names of what it can't."""
        if self._source is None:
            return [], []
        extras, lost = stream_extras(
            self._source, self._path.suffix, self._file_format.muxer, self._file_format.sound, sound
        )
        tags = tag_extras(self._source, self._rate)
        return tags + chapters_extra(self._source, show_at) + extras, lost

    def _choose_settings(self, extras: list[Extra]) -> tuple[VideoSettings, list[Extra], list[str]]:
        """Returns the settings of the first encoder and pixel format that work, the extras that can
        be written with them, and the names of the other extras."""
        if self._encoding.codec:
            check_encoder(self._encoding.codec, self._file_format, self._path.suffix)
        failures: list[tuple[str, Exception]] = []
        for encoder, pixel_format in choose_encoders(
            self._file_format, self._source_format, self._is_deep_hdr, self._encoding
        ):
            settings = self._settings(encoder, pixel_format)
            kept, error = extras, self._try(settings, extras)
            if error and extras and not self._try(settings, []):
                kept = [extra for extra in extras if not self._try(settings, [extra])]
                error = self._try(settings, kept)
            if error is None:
                return settings, kept, [extra.name for extra in extras if extra not in kept]
            failures.append((encoder, error))
        encoder, error = failures[0]
        with raise_file_errors(f"encode with {encoder} to", self._path, AV_ERRORS):
            raise error

    def _settings(self, encoder: str, pixel_format: str) -> VideoSettings:
        source = self._source
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
            self._info.width,
            self._info.height,
            self._rate,
            fitting_grid(
                self._wanted_grid, self._rate, LARGEST_DENOMINATOR.get(encoder, 2**31 - 1)
            ),
            (source.colors if source else SCREEN).stored_as(pixel_format),
            source.sample_aspect_ratio if source else Fraction(1),
        )

    def _try(self, settings: VideoSettings, extras: Sequence[Extra]) -> Exception | None:
        """Writes a black frame and the first items of each extra, in memory; returns the error that
        this raises, if any."""
        channels = 4 if self._info.has_alpha else 3
        image = torch.zeros(settings.height, settings.width, channels, dtype=torch.uint8)
        try:
            output = OutputFile(io.BytesIO(), self._file_format.muxer, settings, extras, {})
            try:
                for extra, track in output.tracks:
                    for item in extra.fresh_samples() if extra.stream is not None else ():
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

    @property
    def _source_format(self) -> str:
        """FFmpeg's name of the pixel format that holds all of the input."""
        if self._source:
            return self._source.pixel_format
        if self._info.is_deep:
            return "rgba64le" if self._info.has_alpha else "rgb48le"
        return "rgba" if self._info.has_alpha else "rgb24"

    @property
    def _is_deep_hdr(self) -> bool:
        return bool(self._source) and self._source.colors.is_hdr and self._info.is_deep

    def _warn_of_losses(self, settings: VideoSettings, lost: Sequence[str]) -> None:
        """Says what the output will not have of the input.

        Args:
            settings: The video's.
            lost: Names of streams that are left out.
        """
        self._warn_of_pixel_format(settings)
        self._warn_of_geometry(settings)
        lost = [*lost, *self._lost_side_data(settings.encoder)]
        muxer = self._file_format.muxer
        if lost:
            logger.warning(
                "Left out, as it can't be kept: %s.%s", ", ".join(lost), advise(lost, muxer)
            )
        if muxer in ("matroska", "webm") and self._rate > 1000:
            logger.warning(
                "%s keeps times to a millisecond, so that some frames share one; .mp4 keeps them.",
                self._path.suffix,
            )

    def _warn_of_pixel_format(self, settings: VideoSettings) -> None:
        encoder, name = settings.encoder, settings.pixel_format
        has, wanted = PixelTraits.of(name), PixelTraits.of(self._source_format)
        no_alpha, fewer_bits, less_chroma = has.shortfall(wanted)
        if self._info.has_alpha and no_alpha:
            logger.warning(
                "%s in %s holds no transparency: it becomes black. %s.",
                name, self._path.suffix, capitalize(self._file_format.alpha_advice),
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

    def _warn_of_geometry(self, settings: VideoSettings) -> None:
        width, height = len(settings.columns), len(settings.rows)
        if (width, height) != (settings.width, settings.height):
            logger.warning(
                "%s needs even sides: %dx%d is written as %dx%d, the last row or column doubled.",
                settings.pixel_format, settings.width, settings.height, width, height,
            )  # fmt: skip
        if settings.aspect != 1 and not re.search("264|265|hevc|mpeg4", settings.encoder):
            # PyAV can't set it for the container, and these streams don't hold it themselves.
            logger.warning(
                "%s loses the pixels' shape, %s: they become square.",
                settings.encoder, settings.aspect,
            )  # fmt: skip

    def _lost_side_data(self, encoder: str) -> list[str]:
        names = self._source.side_data if self._source else ()
        return [
            name.lower().replace("_", " ")
            for name in names
            if name in LOST_SIDE_DATA or not keeps_light(encoder)
        ]


def capitalize(text: str) -> str:
    """Returns the text with its first letter in upper case, and the others as they are."""
    return text[:1].upper() + text[1:]
