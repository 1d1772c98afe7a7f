"""Times of packets and frames, put right where a file's clock jumps or tells nothing."""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av

#: Formats whose clock may jump anywhere, where recordings were joined (AVFMT_TS_DISCONT).
MAY_JUMP = 0x0200
# Formats that hold a bare stream without times (AVFMT_NOTIMESTAMPS).
_NO_TIMES = 0x0080
# Formats that tell when a frame is decoded, but not when it is shown.
_DECODING_TIMES_ONLY = {"avi", "asf", "asf_o"}
# A clock that goes back by more, or ahead by more, in seconds, was not one recording's; as FFmpeg's
# own command line has it.
_BACK, _AHEAD = 0.1, 10.0
# Sound whose clock jumped waits for the picture's to jump for so many seconds, and packets.
_PATIENCE, _MOST_WAITING = 1.0, 500


@dataclass
class _Track:
    """One stream on the steady clock."""

    piece: int = 0  # of the joined ones, that its packets come from
    last: float | None = None  # decoding time of its last packet, seconds
    next: float = -math.inf  # when its next packet is due
    end: float = -math.inf  # when what it shows or plays ends


class SteadyClock:
    """Puts the packets of a file on one clock that goes on evenly where the file's own jumps.

    Pieces are joined where the picture goes on, and the sound of each stays with its picture: of
    sounds that would overlap at a joint the second is left out.

    Args:
        format_flags: of FFmpeg's container format.
        video: index of the video stream.
    """

    def __init__(self, format_flags: int, video: int):
        self._ahead = _AHEAD if format_flags & MAY_JUMP else math.inf
        self._video = video
        self._shifts = [0.0]  # seconds, by piece
        self._tracks: defaultdict[int, _Track] = defaultdict(_Track)

    def steady(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Yields the packets, their times on the steady clock."""
        waiting: deque[av.Packet] = deque()  # sound that jumped before the picture did
        for packet in packets:
            track = self._tracks[packet.stream.index]
            if packet.stream.index == self._video:
                if packet.dts is not None and not self._find_piece(packet, track):
                    self._begin_piece(packet, track)
                self._move(packet, track)
                yield packet
            elif waiting or not self._fits(packet, track):
                waiting.append(packet)
            elif self._move(packet, track):
                yield packet
            while waiting:
                track = self._tracks[waiting[0].stream.index]
                if not self._fits(waiting[0], track):
                    picture = self._tracks[self._video].next
                    if picture < track.next + _PATIENCE and len(waiting) < _MOST_WAITING:
                        break
                    self._begin_piece(waiting[0], track)
                if self._move(waiting[0], track):
                    yield waiting[0]
                waiting.popleft()
        for packet in waiting:
            track = self._tracks[packet.stream.index]
            if not self._fits(packet, track):
                self._begin_piece(packet, track)
            if self._move(packet, track):
                yield packet

    def _fits(self, packet: av.Packet, track: _Track) -> bool:
        """Whether the packet goes on where its stream was, in this piece or one begun since."""
        if packet.stream.type != "audio":
            track.piece = self._tracks[self._video].piece
            return True
        return packet.dts is None or self._find_piece(packet, track)

    def _find_piece(self, packet: av.Packet, track: _Track) -> bool:
        if track.last is None:
            return True
        decoded = float(packet.dts * packet.time_base)
        for piece in range(track.piece, len(self._shifts)):
            time = decoded + self._shifts[piece]
            if time >= track.last - _BACK and time - self._reached(track, piece) <= self._ahead:
                track.piece = piece
                return True
        return False

    def _reached(self, track: _Track, piece: int) -> float:
        """When the stream was to go on, or, where only the picture stands still, the sound has."""
        return max([track.next, *(t.next for t in self._tracks.values() if t.piece == piece)])

    def _begin_piece(self, packet: av.Packet, track: _Track) -> None:
        shown = packet.dts if packet.pts is None else packet.pts
        shift = max(
            track.next - float(packet.dts * packet.time_base),
            track.end - float(shown * packet.time_base),
        )
        self._shifts.append(shift)
        track.piece = len(self._shifts) - 1

    def _move(self, packet: av.Packet, track: _Track) -> bool:
        """Put the packet on the steady clock. False: it would overlap what precedes it."""
        is_sound = packet.stream.type == "audio"
        base = packet.time_base
        if packet.dts is None:
            if not is_sound or not packet.size or track.last is None:
                return True
            packet.dts = round(track.next / base)
            packet.pts = packet.dts if packet.pts is None else packet.pts
        elif shift := self._shifts[track.piece]:
            ticks = round(shift / base)
            packet.dts += ticks
            if packet.pts is not None:
                packet.pts += ticks
        length = float((packet.duration or 0) * base)
        time = float(packet.dts * base)
        if is_sound and track.piece and time < track.next - length / 2:
            return False
        shown = time if packet.pts is None else float(packet.pts * base)
        if packet.pos is None and shown - track.end > self._ahead > -track.end:
            # A packet without a time of its own got that of the next, which is of another piece.
            shown = track.end
            packet.pts = round(shown / base)
        track.last, track.next = time, time + length
        track.end = max(track.end, shown + length)
        return True


class FrameTimes:
    """Gives decoded frames the times at which they are shown, in the order in which they come.

    Bare streams have no times, and AVI and ASF only decoding times, of which FFmpeg guesses others:
    there, frames are shown as far apart as they leave the decoder.

    Args:
        container_format: FFmpeg's, of the file.
        period: ticks of the stream's clock from frame to frame, where the file tells none.
    """

    def __init__(self, container_format: av.format.ContainerFormat, period: Fraction):
        self.are_counted = bool(container_format.flags & _NO_TIMES)
        self.are_decoding_times = container_format.name in _DECODING_TIMES_ONLY
        #: How much later than its packet the first frame leaves the decoder, in ticks.
        self.delay = 0
        self._period = period
        self._count = 0
        self._last = -period

    @property
    def are_made_up(self) -> bool:
        return self.are_counted or self.are_decoding_times

    def stamp(self, frame: av.VideoFrame) -> None:
        """Set `pts`, in ticks of the stream's clock."""
        if self.are_counted:
            frame.pts = round(self._count * self._period)
        elif self.are_decoding_times:
            frame.pts = None if frame.dts is None else frame.dts - self.delay
        if frame.pts is None:
            frame.pts = round(self._last + self._period)
        self._last = frame.pts
        self._count += 1
