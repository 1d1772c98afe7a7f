"""The packets of a video file, read past what is damaged."""

import math
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import av

from .damage import Evidence, has_packet_between
from .side_streams import SideStreams
from .source import Part, VideoSource
from .streams import AV_ERRORS, PacketTimes
from .timestamps import SteadyClock

# Reading ends after so many failures in a row.
_MOST_FAILURES = 20
# MPEG-TS marks a packet beside which something is missing: a gap within so many more is damage.
_SUSPECT_AFTER = 4
# A file that gives so many frames the same time stores no times.
_AT_ONE_TIME = 64
# Seconds after the part's end within which its sound may be stored.
_SOUND_DELAY = 2


class PacketReader:
    """Reads the packets of a file in order, and notes where some are damaged or missing.

    Args:
        source: The file.
        part: The part of it to read.
        evidence: Is told what is damaged or missing.
        side_streams: Takes the packets of sound and subtitles.

    Attributes:
        reached: When all that was read so far ends, seconds.
        video_reached: When the video that was read so far ends, seconds.
        video_count: Video packets that were read so far.
        is_video_over: Whether no more video packets are wanted; set by whoever takes the frames.
    """

    def __init__(
        self, source: VideoSource, part: Part, evidence: Evidence, side_streams: SideStreams
    ):
        self.reached = self.video_reached = -math.inf
        self.video_count = 0
        self.is_video_over = False
        self._source, self._end = source, part.end
        self._evidence, self._side_streams = evidence, side_streams
        # Since the last video packet: packets that are damage if there is a gap nearby, whether any
        # is damage for certain, and bytes that belong to no packet.
        self._suspect_packets, self._is_damaged, self._skipped_bytes = 0, False, 0
        self._latest: av.Packet | None = None
        self._before_skip: av.Packet | None = None  # the packet before the skipped bytes
        self._skipped_time = 0.0  # seconds from that packet's end to the start of the next
        self._packets = self._demux()

    def detect_missing_times(self) -> None:
        """Detects whether the file gives all frames the same time, which is none: frames are then
        counted (`FrameTimes.are_counted`). Reads ahead; no packet is lost."""
        read, times, count = [], set(), 0
        for packet in self._packets:
            read.append(packet)
            if packet.stream.index == self._source.stream.index and packet.size:
                times.add(packet.pts)
                count += 1
                if packet.pts is None or len(times) > 1 or count == _AT_ONE_TIME:
                    break
        self._source.times.are_counted = count > 1 and len(times) == 1 and None not in times
        self._packets = chain(read, self._packets)

    def read_video(self) -> Iterator[av.Packet | None]:
        """Reads the file up to a little after the part, and hands all but the video's packets to
        the side streams.

        Each video packet waits for the next one, which may show that it is cut short itself.

        Yields:
            The video's packets; None where some before the next one may be missing.
        """
        source = self._source
        clock = SteadyClock(source.container.format.flags, source.stream.index)
        last_decoded, is_over = -math.inf, False
        waiting: av.Packet | None = None
        for packet in clock.retime(self._packets):
            times = PacketTimes.of(packet)
            # Sound is stored near the picture that it belongs to.
            if is_over and times.decoded is not None and times.decoded > self._end + _SOUND_DELAY:
                break
            if times.shown is not None:
                self.reached = max(self.reached, times.shown + times.length)
            if packet.stream.index != source.stream.index:
                self._side_streams.add(packet)
                continue
            if packet.size:
                if self._detect_hole(packet, times, waiting, last_decoded):
                    if waiting is not None and not self._is_cut_short(waiting):
                        yield waiting
                    yield None
                    waiting = None
                if times.decoded is not None:
                    is_over = times.decoded >= self._end
                if waiting is not None and not self.is_video_over:
                    yield waiting
                waiting = packet
            # An empty packet says that the frame before goes on.
            last_decoded = last_decoded if times.decoded is None else times.decoded
        if waiting is not None and not self.is_video_over:
            yield waiting

    def note_unread_end(self) -> None:
        """Notes whether the file's last bytes were damaged, after all packets were decoded."""
        if self._is_damaged or self._suspect_packets:
            self._evidence.mark(
                self._evidence.last_shown, sys.float_info.max, is_certain=self._is_damaged
            )

    def _demux(self) -> Iterator[av.Packet]:
        """Yields all packets that can be read."""
        container = self._source.container
        streams = self._source.stream, *self._source.other_streams
        packets, failures = container.demux(*streams), 0
        while failures < _MOST_FAILURES:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (OSError, LookupError, *AV_ERRORS):  # PyAV looks up streams that appear late
                failures += 1
                self._suspect_packets = _SUSPECT_AFTER
                self._evidence.mark_certain()
                packets = container.demux(*streams)
                continue
            failures = 0
            self._note_skipped_bytes(packet)
            if packet.is_corrupt:
                self._suspect_packets = _SUSPECT_AFTER
                # In MPEG-TS the flag may stand for no more than a seam between two pieces.
                if container.format.name != "mpegts":
                    if packet.stream.index == self._source.stream.index:
                        self._is_damaged = True
                    else:
                        self._side_streams.report_damaged(packet)
                    continue
            yield packet

    def _note_skipped_bytes(self, packet: av.Packet) -> None:
        skipped = self._evidence.count_skipped_bytes(packet.pos, packet.size)
        if skipped > self._skipped_bytes:
            self._skipped_bytes, self._before_skip = skipped, self._latest
            end = 0.0 if self._latest is None else PacketTimes.of(self._latest).end
            self._skipped_time = PacketTimes.of(packet).start - end
        self._latest = packet

    def _detect_hole(
        self,
        packet: av.Packet,
        times: PacketTimes,
        before: av.Packet | None,
        last_decoded: float,
    ) -> bool:
        """Detects whether pictures may be missing before a video packet, and notes why.

        Args:
            packet: The video packet.
            times: The packet's.
            before: The video packet before it; None: there is none, or a hole.
            last_decoded: When that one is decoded, seconds.
        """
        self.video_count += 1
        reached = self.video_reached
        if times.shown is not None:
            self.video_reached = max(reached, times.shown + times.length)
        step = max(times.length, self._source.period)
        is_gap = times.decoded is not None and 1.5 * step < times.decoded - last_decoded < math.inf
        if self.video_count == 1:
            is_gap = self._skipped_bytes > 0 and self._skipped_time > 1.5 * step
            if is_gap:
                self._evidence.mark_certain()
        elif self._skipped_bytes and times.shown is not None and times.shown > reached + step / 2:
            # Decoding times tell no gap here: FFmpeg guesses the first ones of Matroska files.
            self._evidence.mark(self._evidence.last_shown, times.shown, skipped=self._skipped_bytes)
        elif is_gap and self._is_one_unreadable(before, packet):
            self._is_damaged = True
        if not (self._is_suspect() or self._is_damaged or self._skipped_bytes):
            return False
        is_hole = self._is_damaged or is_gap
        if is_hole:
            start = self._evidence.last_shown
            end = start if times.shown is None else times.shown
            skipped = 0 if self._is_suspect() else self._skipped_bytes
            self._evidence.mark(start, end, self._is_damaged, skipped)
        self._is_damaged, self._skipped_bytes = False, 0
        self._suspect_packets = max(0, self._suspect_packets - 1)
        return is_hole

    def _is_one_unreadable(self, first: av.Packet | None, second: av.Packet) -> bool:
        """Returns whether an MPEG-TS file has an unreadable picture between two packets."""
        if self._source.container.format.name != "mpegts" or first is None:
            return False
        if first.pos is None or second.pos is None:
            return False
        return has_packet_between(self._source.path, self._source.stream.id, first.pos, second.pos)

    def _is_suspect(self) -> bool:
        return self._suspect_packets > 0 or self._evidence.tells_by_gaps

    def _is_cut_short(self, packet: av.Packet) -> bool:
        """Returns whether a packet before a hole reaches into it."""
        return packet.is_corrupt or packet is self._before_skip or not self._evidence.is_whole


def skip_to_key_frame(
    packets: Iterable[av.Packet | None], start: Fraction
) -> Iterator[av.Packet | None]:
    """Yields the packets from the last key frame on that is shown at `start`, ticks, or before."""
    held: list[av.Packet] | None = []
    for packet in packets:
        if held is None:
            yield packet
            continue
        if packet is None:
            continue  # what precedes a key frame isn't needed
        if packet.is_keyframe and packet.pts is not None and packet.pts <= start:
            held = []
        held.append(packet)
        if packet.dts is not None and packet.dts > start:
            yield from held
            held = None
    yield from held or ()
