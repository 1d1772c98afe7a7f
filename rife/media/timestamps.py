"""Times of packets and frames, corrected where a file's clock jumps or tells nothing."""

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
# Formats that store when a frame is decoded, but not when it is shown.
_DECODING_TIMES_ONLY = {"avi", "asf", "asf_o"}
# A clock that goes back, or ahead, by more seconds has jumped; FFmpeg's command line has the same
# limits.
_MOST_BACK, _MOST_AHEAD = 0.1, 10.0
# Sound whose clock jumped waits for the picture's to jump for so many seconds, and packets.
_LONGEST_WAIT, _MOST_WAITING = 1.0, 500


@dataclass
class _StreamState:
    """Where a stream is on the steady clock.

    Attributes:
        piece: Which of the joined recordings its packets come from.
        last: When its last packet is decoded, seconds.
        next: When its next packet should be decoded, seconds.
        end: When what it shows or plays ends, seconds.
    """

    piece: int = 0
    last: float | None = None
    next: float = -math.inf
    end: float = -math.inf


class SteadyClock:
    """Puts the packets of a file on one clock that goes on evenly where the file's own jumps.

    The file's clock jumps where recordings, its pieces, were joined. Each piece goes on where the
    picture of the one before ends, and its sound stays with its picture: sound that would overlap
    with the piece before is left out.

    Args:
        format_flags: The flags of FFmpeg's container format.
        video: Index of the video stream.
    """

    def __init__(self, format_flags: int, video: int):
        self._most_ahead = _MOST_AHEAD if format_flags & MAY_JUMP else math.inf
        self._video = video
        self._shifts = [0.0]  # seconds by which each piece is shifted
        self._states: defaultdict[int, _StreamState] = defaultdict(_StreamState)

    def retime(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Yields the packets, which then have times on the steady clock."""
        waiting: deque[av.Packet] = deque()  # sound whose clock jumped before the picture's did
        for packet in packets:
            state = self._states[packet.stream.index]
            if packet.stream.index == self._video:
                if packet.dts is not None and not self._find_piece(packet, state):
                    self._begin_piece(packet, state)
                self._move(packet, state)
                yield packet
            elif waiting or not self._fits(packet, state):
                waiting.append(packet)
            elif self._move(packet, state):
                yield packet
            while waiting:
                state = self._states[waiting[0].stream.index]
                if not self._fits(waiting[0], state):
                    picture = self._states[self._video].next
                    if picture < state.next + _LONGEST_WAIT and len(waiting) < _MOST_WAITING:
                        break
                    self._begin_piece(waiting[0], state)
                if self._move(waiting[0], state):
                    yield waiting[0]
                waiting.popleft()
        for packet in waiting:
            state = self._states[packet.stream.index]
            if not self._fits(packet, state):
                self._begin_piece(packet, state)
            if self._move(packet, state):
                yield packet

    def _fits(self, packet: av.Packet, state: _StreamState) -> bool:
        """Returns whether the packet goes on where its stream was, in this piece or one begun
        since."""
        if packet.stream.type != "audio":
            state.piece = self._states[self._video].piece
            return True
        return packet.dts is None or self._find_piece(packet, state)

    def _find_piece(self, packet: av.Packet, state: _StreamState) -> bool:
        """Returns whether the packet goes on in its stream's piece or a later one, which is then
        that."""
        if state.last is None:
            return True
        decoded = float(packet.dts * packet.time_base)
        for piece in range(state.piece, len(self._shifts)):
            time = decoded + self._shifts[piece]
            if (
                time >= state.last - _MOST_BACK
                and time - self._reached(state, piece) <= self._most_ahead
            ):
                state.piece = piece
                return True
        return False

    def _reached(self, state: _StreamState, piece: int) -> float:
        """Returns when the stream should go on in a piece, seconds; as its sound tells if only the
        picture stands still."""
        return max([state.next, *(s.next for s in self._states.values() if s.piece == piece)])

    def _begin_piece(self, packet: av.Packet, state: _StreamState) -> None:
        """Has a new piece begin with the packet, where its stream should go on."""
        shown = packet.dts if packet.pts is None else packet.pts
        shift = max(
            state.next - float(packet.dts * packet.time_base),
            state.end - float(shown * packet.time_base),
        )
        self._shifts.append(shift)
        state.piece = len(self._shifts) - 1

    def _move(self, packet: av.Packet, state: _StreamState) -> bool:
        """Puts the packet on the steady clock; False: it would overlap what precedes it."""
        is_sound = packet.stream.type == "audio"
        base = packet.time_base
        if packet.dts is None:
            if not is_sound or not packet.size or state.last is None:
                return True
            packet.dts = round(state.next / base)
            packet.pts = packet.dts if packet.pts is None else packet.pts
        elif shift := self._shifts[state.piece]:
            ticks = round(shift / base)
            packet.dts += ticks
            if packet.pts is not None:
                packet.pts += ticks
        length = float((packet.duration or 0) * base)
        time = float(packet.dts * base)
        if is_sound and state.piece and time < state.next - length / 2:
            return False
        shown = time if packet.pts is None else float(packet.pts * base)
        if packet.pos is None and shown - state.end > self._most_ahead > -state.end:
            # FFmpeg gave a packet without a time that of the next, which is of another piece.
            shown = state.end
            packet.pts = round(shown / base)
        state.last, state.next = time, time + length
        state.end = max(state.end, shown + length)
        return True


class FrameTimes:
    """Gives decoded frames the times at which they are shown, in the order in which they come.

    Bare streams store no times. AVI and ASF store only decoding times, from which FFmpeg guesses
    the others; their frames are shown at the intervals at which they leave the decoder.

    Args:
        container_format: FFmpeg's, of the file.
        period: Ticks of the stream's clock from frame to frame, for files without times.

    Attributes:
        are_counted: Whether times are computed from the frames' count.
        are_decoding_times: Whether times are computed from decoding times.
        delay: How much later than its packet the first frame leaves the decoder, ticks.
    """

    def __init__(self, container_format: av.format.ContainerFormat, period: Fraction):
        self.are_counted = bool(container_format.flags & _NO_TIMES)
        self.are_decoding_times = container_format.name in _DECODING_TIMES_ONLY
        self.delay = 0
        self._period = period
        self._count = 0
        self._last = -period

    @property
    def are_derived(self) -> bool:
        """Whether the file doesn't store when frames are shown."""
        return self.are_counted or self.are_decoding_times

    def stamp(self, frame: av.VideoFrame) -> None:
        """Sets a frame's `pts`, ticks of the stream's clock."""
        if self.are_counted:
            frame.pts = round(self._count * self._period)
        elif self.are_decoding_times:
            frame.pts = None if frame.dts is None else frame.dts - self.delay
        if frame.pts is None:
            frame.pts = round(self._last + self._period)
        self._last = frame.pts
        self._count += 1
