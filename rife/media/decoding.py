"""Packets of a video decoded to frames with times, past what is damaged."""

import math
from collections import deque
from collections.abc import Iterable, Iterator

import av

from .damage import Evidence
from .source import VideoSource
from .streams import AV_ERRORS

# Packets that a decoder with threads may hold when it reports that one of them is damaged.
_MOST_IN_DECODER = 20


class FrameDecoder:
    """Decodes a video; after damage it goes on at the next key frame.

    Args:
        source: The file.
        evidence: Is told where packets can't be decoded.
        needs_key_frame: Whether packets before the first key frame can't be decoded, as after
            seeking.

    Attributes:
        durations: When each packet is shown that was sent to the decoder and not forgotten -> for
            how long it is, ticks.
        first_shown: When the first packet before all key frames is shown, ticks; infinity: none is.
    """

    def __init__(self, source: VideoSource, evidence: Evidence, needs_key_frame: bool):
        self.durations: dict[int, int] = {}
        self.first_shown = math.inf
        self._source, self._evidence = source, evidence
        # When the key frame is shown that decoding began with, ticks; None: it is still to come.
        self._key_pts: float | None = None if needs_key_frame else -math.inf

    def decode(self, packets: Iterable[av.Packet | None]) -> Iterator[av.VideoFrame]:
        """Yields frames in order of time.

        Args:
            packets: None among them says that some may be missing before the next one.
        """
        times = self._source.times
        latest: deque[av.Packet] = deque(maxlen=_MOST_IN_DECODER)
        to_repeat: deque[av.Packet] = deque()
        is_key_sent = False

        def packets_with_repeats() -> Iterator[av.Packet | None]:
            for packet in packets:
                yield packet
                while to_repeat:
                    yield to_repeat.popleft()

        for packet in packets_with_repeats():
            if packet is None:
                self._key_pts = None
                continue
            if not self._is_decodable(packet):
                continue
            latest.append(packet)
            is_key_sent = is_key_sent or packet.is_keyframe
            if packet.pts is not None and not times.are_derived:
                self.durations[packet.pts] = packet.duration or 0
                if not is_key_sent:
                    self.first_shown = min(self.first_shown, packet.pts)
            try:
                frames = self._source.decoder.decode(packet)
            except AV_ERRORS:
                self._evidence.mark_certain()
                self._source.decoder.flush_buffers()
                # With threads, a packet before the last one may be the damaged one.
                if not times.are_counted:
                    to_repeat.extendleft(reversed([*latest][1:]))
                latest.clear()
                self._key_pts = None
                continue
            yield from self._stamp(frames)

    def flush(self) -> Iterator[av.VideoFrame]:
        """Yields the frames that the decoder still holds, after all packets."""
        try:
            frames = self._source.decoder.decode(None)
        except AV_ERRORS:
            frames = []
        yield from self._stamp(frames)

    def forget_until(self, pts: int) -> None:
        """Forgets the durations of packets shown at `pts`, ticks, or before."""
        self.durations = {shown: d for shown, d in self.durations.items() if shown > pts}

    def is_any_lost(self, start: float, end: float) -> bool:
        """Returns whether a packet that is shown between two times, seconds, was decoded to
        nothing."""
        base = self._source.stream.time_base
        return any(start < float(pts * base) < end for pts in self.durations)

    def _is_decodable(self, packet: av.Packet) -> bool:
        """Returns whether what the packet needs was decoded before, after a seek or damage."""
        if self._key_pts is None and packet.is_keyframe:
            self._key_pts = -math.inf if packet.pts is None else packet.pts
        # What is shown before the key frame, though stored after, needs what was skipped.
        return self._key_pts is not None and (packet.pts is None or packet.pts >= self._key_pts)

    def _stamp(self, frames: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Gives frames their times."""
        base = self._source.stream.time_base
        for frame in frames:
            frame.time_base = base  # the last ones come without
            self._source.times.stamp(frame)
            self._evidence.last_shown = float(frame.pts * base)
            yield frame
