"""Where a video file is damaged or cut short, told from clips that only stand still for a while."""

import math
from dataclasses import dataclass
from pathlib import Path

# Formats in which packets lie in the file one after the other, with a few bytes between: where more
# was passed over, it could not be read.
_CONTIGUOUS = {"matroska,webm", "flv", "live_flv", "asf"}
# Formats in which frames that repeat are stored, too: a gap is a gap.
_CONSTANT_RATE = {"ogg"}
_LEAST_SKIP = 256  # bytes
# A still holds nothing. What a hole held was, per second, at least this part of the file's mean.
_LEAST_DENSITY = 0.1
# Sound that stops and goes on within so many seconds of a gap of the picture shares the gap.
_NEAR = 0.5
#: A gap of the sound, or of a picture whose sound may share it, counts from so many seconds on:
#: encoders leave out up to 0.4 s of silence.
LEAST_GAP = 1.0
# Matroska's names of the whole, of what holds everything, and of what may follow the packets.
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_AFTER_PACKETS = b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67"  # cues, tags
# Of the elements that hold the packets, and of what may be anywhere.
_CLUSTER, _FILLERS = b"\x1f\x43\xb6\x75", (0xEC, 0xBF)
# MPEG-TS consists of packets of one size, each of which begins with a byte 0x47, or 4 bytes later.
_TRANSPORT_PACKETS = (188, 0), (192, 4), (204, 0)


@dataclass
class _Mark:
    """A stretch of time, in seconds, within which something could not be read.

    is_certain: known without a gap in the picture. longest: seconds that it can account for.
    """

    start: float
    end: float
    is_certain: bool
    longest: float


class Evidence:
    """What packets tell of damage, and which gaps between frames it explains.

    Args:
        format_name: FFmpeg's.
        density: mean bytes per second of the file, if its length is known.
        is_whole: whether the file is as long as it should be.
        begin: where the packets should begin in it, bytes, if that is known.
    """

    def __init__(
        self, format_name: str, density: float | None, is_whole: bool, begin: int | None = None
    ):
        self.is_whole = is_whole
        #: Whether frames are missing wherever there are gaps between packets. MPEG-TS numbers its
        #: packets, so that FFmpeg marks those beside missing ones.
        is_numbered = format_name == "mpegts"
        self.tells_by_gaps = not (is_whole or is_numbered) or format_name in _CONSTANT_RATE
        self._is_contiguous = format_name in _CONTIGUOUS
        self._density = density
        self.file_end = begin  # where the packets so far end, bytes
        self.last_shown = -math.inf  # when the last frame that was decoded is shown, seconds
        self._marks: list[_Mark] = []
        self._silences: dict[int, list[tuple[float, float]]] = {}  # by stream

    def skipped_bytes(self, pos: int | None, size: int) -> int:
        """Follows the packets through the file; returns how much was passed over before this one,
        if that can't be right."""
        if not self._is_contiguous or pos is None or pos < 0:
            return 0
        before, self.file_end = self.file_end, max(self.file_end or 0, pos + size)
        skipped = 0 if before is None else pos - before
        return skipped if skipped >= _LEAST_SKIP else 0

    def mark(self, start: float, end: float, is_certain: bool = False, skipped: int = 0) -> None:
        """Note that something was not readable between two times; skipped: bytes, if known."""
        longest = float("inf")
        if skipped and self._density:
            longest = skipped / (_LEAST_DENSITY * self._density)
        self._marks.append(_Mark(start, end, is_certain, longest))

    def mark_certain(self) -> None:
        """Note damage after the last decoded frame that is known without a gap in the picture."""
        self.mark(self.last_shown, self.last_shown, is_certain=True)

    def add_silence(self, stream: int, start: float, end: float) -> None:
        """Note a gap in a stream of sound, seconds."""
        self._silences.setdefault(stream, []).append((start, end))

    def explains(self, first: float, step: float, second: float) -> bool:
        """Whether frames are missing between two that follow each other.

        Args:
            first, second: when they are shown, seconds.
            step: seconds for which the first is meant to be shown.
        """
        if second - first <= 1.5 * step:
            return False
        is_explained = any(
            mark.start < second and mark.end >= first and second - first <= mark.longest
            for mark in self._marks
        )
        if is_explained:  # all that led to it is said with it
            self._marks = [mark for mark in self._marks if mark.start >= second]
        return is_explained

    def take_unexplained(self, before: float) -> bool:
        """Whether there was damage before a time that left no gap; forgets it."""
        past = [mark for mark in self._marks if mark.end < before]
        self._marks = [mark for mark in self._marks if mark.end >= before]
        return any(mark.is_certain for mark in past)

    def shares_silence(self, sounds: list[int], start: float, end: float) -> bool:
        """Whether all of these streams of sound stop and go on together with the picture, which
        shows nothing new from `start` to `end`, seconds."""
        if not sounds or end - start < LEAST_GAP:
            return False
        return all(
            any(
                abs(stop - start) <= _NEAR and abs(go_on - end) <= _NEAR
                for stop, go_on in self._silences.get(stream, ())
            )
            for stream in sounds
        )


def has_clean_end(path: Path, last_packet_end: int | None = None) -> bool:
    """Whether a file is as long as its header states, and what follows its last packet is what its
    format has there. Knows Matroska, WebM, AVI and MPEG-TS; takes others for clean.

    Args:
        last_packet_end: where in the file that is, bytes; None if it isn't known.
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
    """Where the packets of a Matroska or WebM file begin, or what is damaged before them, bytes;
    None for other files, and if there are none."""
    end = path.stat().st_size - 12
    with path.open("rb") as file:
        position, _ = _segment(file.read(4096))
        while position is not None and position <= end:
            file.seek(position)
            element = file.read(12)
            # Whatever else may precede the packets has a name of four bytes.
            width = 1 if element[0] in _FILLERS else 4
            length, size = _ebml_number(element[width:])
            is_name = width == 1 or 0x10 <= element[0] < 0x20
            if element.startswith(_CLUSTER) or not is_name or size is None:
                return position
            position += width + length + size
    return None


def _segment(head: bytes) -> tuple[int | None, int | None]:
    """Where the contents of a Matroska or WebM file begin, and how long they are, as it states;
    bytes."""
    begin = head.find(_SEGMENT) + len(_SEGMENT)
    if not head.startswith(_EBML) or not len(_SEGMENT) <= begin < len(head):
        return None, None
    length, size = _ebml_number(head[begin:])
    return begin + length, size


def _ebml_number(data: bytes) -> tuple[int, int | None]:
    """How many bytes a number has, and the number; None: unknown."""
    length = 9 - data[0].bit_length()
    unknown = (1 << 7 * length) - 1
    number = int.from_bytes(data[:length], "big") & unknown
    return length, None if number == unknown else number


def _transport_packets(head: bytes) -> tuple[int, int] | None:
    """The size of the packets of an MPEG-TS file, and where in each its sync byte is."""
    for size, offset in _TRANSPORT_PACKETS:
        if head[offset : offset + 3 * size + 1 : size] == b"\x47" * 4:
            return size, offset
    return None


def has_packet_between(path: Path, stream_id: int, start: int, end: int) -> bool:
    """Whether an MPEG-TS file has a packet (PES) of a stream that begins between those of two
    pictures: it was one, too, before it was damaged.

    Args:
        stream_id: its PID.
        start, end: where those of the pictures begin, bytes.
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
    """Such as 5.00 s, 1:05 or 1:00:05."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
