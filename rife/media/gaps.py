"""What of a video's picture is missing, in sentences for its user."""

import math

from .base import Reader
from .damage import Evidence, has_clean_end, readable_time
from .decoding import FrameDecoder
from .demuxing import PacketReader
from .source import Part, VideoSource


class GapReporter:
    """Follows the frames of a video and reports what is missing between and after them.

    Args:
        reader: Takes the reports.
        source: The file.
        part: The part of it that is read.
        begin: When the whole clip begins, seconds on the file's clock.
        evidence: What packets told of damage.
        packets: Their reader.
        decoder: Their decoder.
    """

    def __init__(
        self,
        reader: Reader,
        source: VideoSource,
        part: Part,
        begin: float,
        evidence: Evidence,
        packets: PacketReader,
        decoder: FrameDecoder,
    ):
        self._reader, self._source, self._part, self._begin = reader, source, part, begin
        self._evidence, self._packets, self._decoder = evidence, packets, decoder
        self._name = source.path.name
        # When the latest frame is shown, and for how long it is meant to be; seconds.
        self._latest: tuple[float, float] | None = None

    def report_before(self, shown: float, length: float) -> bool:
        """Reports what is missing before the next frame.

        Args:
            shown: When that frame is shown, seconds on the file's clock.
            length: For how long it is meant to be, seconds.

        Returns:
            Whether pictures are missing between it and the frame before.
        """
        before, self._latest = self._latest, (shown, max(length, self._source.period))
        if before is None:
            self._report_before_first(shown)
            return False
        last, step = before
        hole_start = last + step
        is_hole = shown - last > 1.5 * step and (
            self._evidence.explains(last, step, shown)
            or self._decoder.is_any_lost(last + step / 2, shown - step / 2)
        )
        if not is_hole:
            still_start = last + self._source.period
            if self._evidence.shares_silence(self._sound_indices(), still_start, shown):
                is_hole, hole_start = True, still_start
        if is_hole:
            self._reader.report_damage(
                f"{self._name} is damaged: {shown - hole_start:.2f} s of the picture are missing "
                f"at {self._readable(hole_start)}; the frame before them is held."
            )
        elif self._evidence.take_unexplained(last):
            self._reader.report_damage(f"{self._name} is damaged near {self._readable(last)}.")
        return is_hole

    def _report_before_first(self, shown: float) -> None:
        is_damaged = self._evidence.take_unexplained(shown)
        if self._part.begins_later:
            return
        first_packet = self._decoder.first_shown * float(self._source.stream.time_base)
        missing = shown - first_packet
        if is_damaged:
            self._reader.report_damage(
                f"{self._name} is damaged at its beginning, which is left out."
            )
        elif missing > self._source.period / 2:
            self._reader.report_damage(
                f"{self._name} begins between two key frames: the first {missing:.2f} s of the "
                "picture can't be decoded and are left out."
            )

    def report_after_last(self) -> None:
        """Reports what is missing after the latest frame, which was the last that could be read."""
        last, step = self._latest
        reached = end = last + step
        is_damaged = self._evidence.take_unexplained(math.inf) or self._decoder.is_any_lost(
            last, math.inf
        )
        if is_damaged:
            end = max(end, self._packets.video_reached)
        missing = min(max(end, self._promised_end(reached)), float(self._part.end)) - reached
        if missing > 1.5 * self._source.period:
            self._reader.report_damage(
                f"{self._name} is cut short or damaged: the last {missing:.2f} s, from "
                f"{self._readable(reached)} on, are missing."
            )
        elif is_damaged:
            self._reader.report_damage(
                f"{self._name} is damaged near {self._readable(last)}, its end."
            )
        elif not self._evidence.is_whole and not self._reader.damage and math.isinf(self._part.end):
            self._reader.report_damage(
                f"{self._name} is cut short: "
                + (
                    "it ends within a packet, and doesn't tell how much is missing."
                    if self._source.may_jump
                    else "no picture is missing, but sound may be."
                )
            )

    def stated_end(self) -> float | None:
        """Returns when the last frame ends, seconds on the file's clock, if the file tells that
        surely."""
        stream = self._source.stream
        if stream.duration and stream.frames:  # MP4, whose index lists all frames
            if self._part.begins_later or self._packets.video_count >= stream.frames:
                return self._source.stated_video_end()
        elif self._has_clean_end():
            return self._source.tagged_end()
        return None

    def _promised_end(self, reached: float) -> float:
        """Returns when the clip should have ended, seconds, if its file tells that surely; else
        `reached`, the end of the last frame that could be read."""
        source, stream = self._source, self._source.stream
        if source.may_jump or source.times.are_counted:
            return reached  # these tell nothing: FFmpeg takes their length from the last packets
        if stream.duration and stream.frames and not source.times.are_derived:
            if not self._part.begins_later and self._packets.video_count >= stream.frames:
                return reached
            return source.stated_video_end()
        if source.container.format.name == "avi" and stream.frames:  # as its header has it
            return max(reached, stream.frames * source.period)
        length = source.stated_duration or 0
        missing = length - max(reached, self._packets.reached)
        if not self._has_clean_end():
            end = source.tagged_end()
            if end is not None:
                return end
            return length if missing > source.period else reached
        # Many a writer guesses the length.
        return length if missing > max(1, length / 20) else reached

    def _has_clean_end(self) -> bool:
        return has_clean_end(self._source.path, self._evidence.file_end)

    def _sound_indices(self) -> list[int]:
        return [s.index for s in self._source.other_streams if s.type == "audio"]

    def _readable(self, moment: float) -> str:
        return readable_time(max(0, moment - self._begin))
