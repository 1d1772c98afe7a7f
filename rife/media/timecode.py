"""SMPTE timecodes: labels such as 01:02:03:04 and 01:02:03;04 that number frames.

Drop-frame labels (with a semicolon) skip numbers, never frames, so as to keep to the clock at rates
such as 29.97.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_PATTERN = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.,])(\d{2,3})")
# Frames a second, or 1000/1001 of that, for which there are timecodes.
_RATES = (24, 25, 30, 48, 50, 60, 72, 96, 100, 120)


@dataclass(frozen=True)
class Timecode:
    """The label of one frame.

    Attributes:
        seconds: Since midnight, as the label reads.
        frames: Since that second began; a fraction, as a moment may lie between two frames.
        drop_frame: Whether labels skip numbers.
    """

    seconds: int
    frames: Fraction
    drop_frame: bool

    @classmethod
    def parse(cls, text: str) -> "Timecode | None":
        """Reads a label; None: the text is none."""
        match = _PATTERN.fullmatch(text.strip())
        if not match:
            return None
        hours, minutes, seconds = (int(match[i]) for i in (1, 2, 3))
        if hours > 23 or minutes > 59 or seconds > 59:
            return None
        return cls((hours * 60 + minutes) * 60 + seconds, Fraction(int(match[5])), match[4] != ":")


def convert_timecode(text: str, rate: Fraction, new_rate: Fraction, skipped: int = 0) -> str | None:
    """Finds the label, at another rate, of the moment that `text` labels.

    Args:
        text: The label of a clip's first frame.
        rate: Frames a second of that clip.
        new_rate: Frames a second of its copy.
        skipped: Frames between that first frame and the one to label.

    Returns:
        The label; None if `text` is none, or there are none for one of the rates.
    """
    label = Timecode.parse(text)
    if label and rate == new_rate and not skipped:
        return text
    base, new_base = _base(rate), _base(new_rate)
    if not label or base is None or new_base is None:
        return None
    drop_frame = label.drop_frame and base % 30 == 0
    frame = label.seconds * base + label.frames
    if drop_frame and skipped:
        # Count real frames, without the numbers that labels skip, and then add those again.
        minutes = label.seconds // 60
        frame += skipped - base // 15 * (minutes - minutes // 10)
        frame = _with_skipped_labels(frame, base)
    else:
        frame += skipped
    number = round(frame * new_base / base)
    second, frame = divmod(number, new_base)
    second %= 24 * 60 * 60
    mark = ":"
    if drop_frame and new_base % 30 == 0 and new_rate.denominator == 1001:
        mark = ";"
        if second % 60 == 0 and second % 600:
            frame = max(frame, new_base // 15)  # these labels don't exist
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{mark}{frame:02}"


def _with_skipped_labels(frame: int | Fraction, base: int) -> int | Fraction:
    """Returns the number that the label of real frame `frame` stands for; base: labels a second."""
    skip = base // 15  # labels that each minute but every tenth skips
    ten_minutes, rest = divmod(frame, 600 * base - 9 * skip)
    minutes = 0 if rest < 60 * base else 1 + (rest - 60 * base) // (60 * base - skip)
    return frame + skip * (9 * ten_minutes + minutes)


def _base(rate: Fraction) -> int | None:
    """Returns the labels a second at a rate; None: it has no timecodes."""
    for base in _RATES:
        if rate in (base, Fraction(base * 1000, 1001)):
            return base
    return None
