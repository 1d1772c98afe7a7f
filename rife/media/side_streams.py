"""The sound and the subtitles of a video that is being read, on their way to a writer."""

from collections import deque
from collections.abc import Callable, Collection

import av

from .damage import LEAST_GAP, Evidence
from .source import Part
from .streams import AV_ERRORS, PacketTimes


class SideStreams:
    """A queue of the packets beside the video.

    Whoever iterates over the video's frames fills it; a writer, in whatever thread, empties it. So
    each file is touched by one thread.

    Args:
        part: The part to read.
        evidence: Is told where sound is missing.
        report_damage: Takes a sentence about damaged sound.
        file_name: For these sentences.

    Attributes:
        copied: Indices of the streams whose packets are wanted.
        decoded: Indices of the streams of sound whose decoded frames are wanted.
        queue: Indices of streams, each with a packet or a frame, in the file's order.
    """

    def __init__(
        self,
        part: Part,
        evidence: Evidence,
        report_damage: Callable[[str], None],
        file_name: str,
    ):
        self.copied: Collection[int] = ()
        self.decoded: Collection[int] = ()
        self.queue: deque[tuple[int, av.Packet | av.AudioFrame]] = deque()
        self._start, self._end = part.start, part.end
        self._evidence = evidence
        self._report_damage, self._file_name = report_damage, file_name
        # Packets that come before `open` is called.
        self._early: list[av.Packet] | None = []
        # Stream of sound -> when its last packet is played and for how long, seconds.
        self._last_sound: dict[int, tuple[float, float]] = {}

    def open(self, start: float) -> None:
        """Lets packets into the queue from now on, those that came early first.

        Args:
            start: When the first packet may be played, seconds on the file's clock.
        """
        early, self._early = self._early or [], None
        self._start = start
        for packet in early:
            self.add(packet)

    def add(self, packet: av.Packet) -> None:
        """Puts a packet into the queue if it is wanted and belongs to the part."""
        times = PacketTimes.of(packet)
        shown = times.shown
        if self._early is not None:
            if shown is None or shown >= self._start:
                self._early.append(packet)
            return
        if shown is not None and not self._start <= shown < self._end:
            return
        index = packet.stream.index
        if shown is not None and packet.stream.type == "audio":
            self._note_silence(index, shown, times.length)
        if index in self.copied and packet.size:
            self.queue.append((index, packet))
        elif index in self.decoded:
            try:
                self.queue.extend((index, frame) for frame in packet.decode())
            except AV_ERRORS:
                self.report_damaged(packet)

    def report_damaged(self, packet: av.Packet) -> None:
        """Reports that a packet is left out, as it is damaged."""
        where = "" if packet.pts is None else f" at {float(packet.pts * packet.time_base):.2f} s"
        self._report_damage(
            f"{self._file_name}: {packet.stream.type} is damaged{where}; that much is left out."
        )

    def _note_silence(self, index: int, start: float, length: float) -> None:
        before, last_length = self._last_sound.get(index, (start, 0.0))
        if start - before - last_length > LEAST_GAP:
            self._evidence.add_silence(index, before + last_length, start)
        # MP4 has the packet before a gap last as long as the gap.
        self._last_sound[index] = start, min(length, last_length) or length
