"""Where a video file is damaged or cut short.

Frames are missing where there is a gap between their times and something couldn't be read nearby: a
gap alone may be a picture that stands still.
"""

import math
from dataclasses import dataclass
from pathlib import Path

# Formats in which packets follow each other in the file, with a few bytes between: where more was
# passed over, it could not be read.
_CONTIGUOUS = {"matroska,webm", "flv", "live_flv", "asf"}
# Formats in which repeated frames are stored, too: a gap is always damage.
_CONSTANT_RATE = {"ogg"}
_LEAST_SKIP = 256  # bytes
# Packets of a picture that stands still are small. Those in a hole had at least this part of the
# file's mean of bytes per second.
_LEAST_DENSITY = 0.1
# Sound shares a gap with the picture if it stops and goes on within so many seconds of it.
_NEAR = 0.5
#: A gap of the sound, or of a picture whose sound may share it, counts from so many seconds on:
#: encoders leave out up to 0.4 s of silence.
LEAST_GAP = 1.0
# Matroska's elements: the header, what holds everything else, and what may follow the packets.
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_AFTER_PACKETS = b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67"  # cues, tags
# Matroska's elements that hold the packets, and those that may be anywhere.
_CLUSTER, _FILLERS = b"\x1f\x43\xb6\x75", (0xEC, 0xBF)
# MPEG-TS consists of packets of one size, each with a sync byte 0x47: (size, where the byte is).
_TRANSPORT_PACKETS = (188, 0), (192, 4), (204, 0)


@dataclass
class _Mark:
    """A stretch of time within which something could not be read.

    Attributes:
        start: Seconds.
        end: Seconds.
        is_certain: Whether it is damage even without a gap in the picture.
        longest: Seconds of the longest gap that it explains.
    """

    start: float
    end: float
    is_certain: bool
    longest: float


class Evidence:
    """What packets tell of damage, and which gaps between frames it explains.

    Args:
        format_name: FFmpeg's name of the file's format.
        density: Mean bytes per second of the file, if its duration is known.
        is_whole: Whether the file is as long as it should be.
        begin: Where the packets should begin in the file, bytes, if that is known.

    Attributes:
        is_whole: Whether the file is as long as it should be.
        tells_by_gaps: Whether frames are missing wherever there are gaps between packets.
        file_end: Where the packets so far end in the file, bytes; None: not known.
        last_shown: When the last frame that was decoded is shown, seconds.
    """

    def __init__(
        self, format_name: str, density: float | None, is_whole: bool, begin: int | None = None
    ):
        self.is_whole = is_whole
        # MPEG-TS numbers its packets, so that FFmpeg marks those beside missing ones.
        is_numbered = format_name == "mpegts"
        self.tells_by_gaps = not (is_whole or is_numbered) or format_name in _CONSTANT_RATE
        self._is_contiguous = format_name in _CONTIGUOUS
        self._density = density
        self.file_end = begin
        self.last_shown = -math.inf
        self._marks: list[_Mark] = []
        # Stream of sound -> start and end of its gaps, seconds.
        self._silences: dict[int, list[tuple[float, float]]] = {}

    def count_skipped_bytes(self, pos: int | None, size: int) -> int:
        """Follows the packets through the file.

        Args:
            pos: Where the next packet begins, bytes; None or negative: not known.
            size: Its bytes.

        Returns:
            Bytes that were passed over before it, if they are too many for its format; else 0.
        """
        if not self._is_contiguous or pos is None or pos < 0:
            return 0
        last_end, self.file_end = self.file_end, max(self.file_end or 0, pos + size)
        skipped = 0 if last_end is None else pos - last_end
        return skipped if skipped >= _LEAST_SKIP else 0

    def mark(self, start: float, end: float, is_certain: bool = False, skipped: int = 0) -> None:
        """Notes that something could not be read.

        Args:
            start: When it would have been shown at the earliest, seconds.
            end: When it would have been shown at the latest, seconds.
            is_certain: Whether it is damage even without a gap in the picture.
            skipped: Its bytes, if known; else 0.
        """
        longest = float("inf")
        if skipped and self._density:
            longest = skipped / (_LEAST_DENSITY * self._density)
        self._marks.append(_Mark(start, end, is_certain, longest))

    def mark_certain(self) -> None:
        """Notes damage after the last decoded frame that is known without a gap in the picture."""
        self.mark(self.last_shown, self.last_shown, is_certain=True)

    def add_silence(self, stream: int, start: float, end: float) -> None:
        """Notes a gap in a stream of sound; start and end in seconds."""
        self._silences.setdefault(stream, []).append((start, end))

    def explains(self, first: float, step: float, second: float) -> bool:
        """Returns whether frames are missing between two that follow each other.

        Args:
            first: When the earlier one is shown, seconds.
            step: For how long it is meant to be, seconds.
            second: When the later one is shown, seconds.
        """
        if second - first <= 1.5 * step:
            return False
        is_explained = any(
            mark.start < second and mark.end >= first and second - first <= mark.longest
            for mark in self._marks
        )
        if is_explained:  # the report of this gap covers all marks before its end
            self._marks = [mark for mark in self._marks if mark.start >= second]
        return is_explained

    def take_unexplained(self, before: float) -> bool:
        """Returns whether there was certain damage before a time, seconds, that left no gap.
        Forgets it."""
        past = [mark for mark in self._marks if mark.end < before]
        self._marks = [mark for mark in self._marks if mark.end >= before]
        return any(mark.is_certain for mark in past)

    def shares_silence(self, streams: list[int], start: float, end: float) -> bool:
        """Returns whether streams of sound, all of them, stop and go on together with the picture,
        which shows nothing new from `start` to `end`, seconds."""
        if not streams or end - start < LEAST_GAP:
            return False
        return all(
            any(
                abs(stop - start) <= _NEAR and abs(go_on - end) <= _NEAR
                for stop, go_on in self._silences.get(stream, ())
            )
            for stream in streams
        )


def has_clean_end(path: Path, last_packet_end: int | None = None) -> bool:
    """Returns whether a file is as long as its header states, and its last packet is followed by
    what its format has there. Knows Matroska, WebM, AVI and MPEG-TS; takes others for clean.

    Args:
        path: The file.
        last_packet_end: Where its last packet ends, bytes; None: not known.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        if head.startswith(b"RIFF"):
            return size >= 8 + int.from_bytes(head[4:8], "little")
        if layout := _transport_packets(head):
            return size % layout[0] == 0
        begin, stated = _segment(head)
        if begin is None:
            return True
        if stated is not None and size < begin + stated:
            return False
        if last_packet_end is None or size - last_packet_end < _LEAST_SKIP:
            return True
        file.seek(last_packet_end)
        rest = file.read(1 << 20)
        return any(name in rest for name in _AFTER_PACKETS)


def find_packets(path: Path) -> int | None:
    """Returns where the packets of a Matroska or WebM file begin, or damage before them, bytes;
    None for other files, and if there are no packets."""
    end = path.stat().st_size - 12
    with path.open("rb") as file:
        position, _ = _segment(file.read(4096))
        while position is not None and position <= end:
            file.seek(position)
            element = file.read(12)
            # All else that may precede the packets has a name of four bytes.
            width = 1 if element[0] in _FILLERS else 4
            length, size = _ebml_number(element[width:])
            is_name = width == 1 or 0x10 <= element[0] < 0x20
            if element.startswith(_CLUSTER) or not is_name or size is None:
                return position
            position += width + length + size
    return None


def _segment(head: bytes) -> tuple[int | None, int | None]:
    """Returns where the contents of a Matroska or WebM file begin, and their stated length, bytes;
    None: not such a file, or not stated."""
    begin = head.find(_SEGMENT) + len(_SEGMENT)
    if not head.startswith(_EBML) or not len(_SEGMENT) <= begin < len(head):
        return None, None
    length, size = _ebml_number(head[begin:])
    return begin + length, size


def _ebml_number(data: bytes) -> tuple[int, int | None]:
    """Returns how many bytes a number at the beginning of `data` has, and the number; None:
    unknown."""
    length = 9 - data[0].bit_length()
    unknown = (1 << 7 * length) - 1
    number = int.from_bytes(data[:length], "big") & unknown
    return length, None if number == unknown else number


def _transport_packets(head: bytes) -> tuple[int, int] | None:
    """Returns the size of an MPEG-TS file's packets, and where in each its sync byte is; None: no
    such file."""
    for size, offset in _TRANSPORT_PACKETS:
        if head[offset : offset + 3 * size + 1 : size] == b"\x47" * 4:
            return size, offset
    return None


def has_packet_between(path: Path, stream_id: int, start: int, end: int) -> bool:
    """Returns whether an MPEG-TS file has a packet (PES) of a stream that begins between those of
    two pictures: it was a picture, too, before it was damaged.

    Args:
        path: The file.
        stream_id: The stream's PID.
        start: Where the packet of the earlier picture begins, bytes.
        end: Where the packet of the later picture begins, bytes.
    """
    with path.open("rb") as file:
        layout = _transport_packets(file.read(4096))
        if layout is None or not 0 <= start < end:
            return False
        size, offset = layout
        begin = (start // size + 1) * size
        file.seek(begin)
        data = file.read(max(0, end // size * size - begin))
    starts = (0x47, 0x40 | stream_id >> 8, stream_id & 0xFF)
    return any(
        (data[i], data[i + 1] & 0x5F, data[i + 2]) == starts
        for i in range(offset, len(data) - 2, size)
    )


def readable_time(seconds: float) -> str:
    """Returns a time for people, such as 5.00 s, 1:05 or 1:00:05."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
