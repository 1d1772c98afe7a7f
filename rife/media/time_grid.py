"""The grid of times that a video file is written on."""

import math
from fractions import Fraction

from .base import ClipInfo

# The largest number in FFmpeg's fractions, and in MP4's durations of frames.
_MOST = 2**31 - 1
_LONGEST_FRAME = 600  # seconds that one frame may last, whatever the others do
_FALLBACK = 90000  # steps a second: the clock of MPEG


def representable_rate(rate: Fraction) -> Fraction:
    """Returns `rate`, or the nearest one that a fraction of FFmpeg's can hold; frames a second."""
    if rate.numerator <= _MOST and rate.denominator <= _MOST:
        return rate
    return rate.limit_denominator(max(1, int(_MOST // max(1, rate)) - 1))


def natural_grid(info: ClipInfo, rate: Fraction) -> Fraction:
    """Returns the step, in seconds, of which the times of frames at `rate` are multiples, and those
    of the input's frames and of equal parts between them: input times are seldom as even as their
    rate promises."""
    input_step = info.time_base * info.frame_rate / rate if info.frame_rate else info.time_base
    step = _common_step(1 / rate, input_step)
    return step if _fits(step, rate, _MOST) else input_step


def fitting_grid(wanted: Fraction, rate: Fraction, most: int = _MOST) -> Fraction:
    """Returns `wanted`, if files can hold it, or else a step to which times can be rounded;
    seconds.

    Args:
        wanted: A step of which all times are multiples.
        rate: Frames a second, on average.
        most: The largest denominator that the encoder takes.
    """
    if _fits(wanted, rate, most):
        return wanted
    # Of one frame's time, at least a hundredth; so fine only where frames are short.
    steps = max(_FALLBACK, 10 ** math.ceil(math.log10(100 * rate)) if rate > 1 else 0)
    if rate < 1:
        # A frame that lasts for minutes needs no finer clock, and overflows it.
        steps = min(steps, max(1, int(_MOST * rate / 16)))
    return Fraction(1, min(steps, most))


def _fits(step: Fraction, rate: Fraction, most: int) -> bool:
    longest = max(_LONGEST_FRAME, 16 / rate)
    return step.denominator <= most and step.numerator <= _MOST and longest / step <= _MOST


def _common_step(a: Fraction, b: Fraction) -> Fraction:
    """Returns the largest step of which both are multiples."""
    return Fraction(
        math.gcd(a.numerator * b.denominator, b.numerator * a.denominator),
        a.denominator * b.denominator,
    )
