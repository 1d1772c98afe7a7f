"""Which output frame lies where between which input frames. Exact: fractions, never floats."""

from collections.abc import Sequence
from fractions import Fraction


def timesteps(multiplier: int) -> list[Fraction]:
    """Where the new frames of a pair lie, 0 being its first frame and 1 its second.

    multiplier: how many times as many frames (less the last); 2 gives [1/2].
    """
    if multiplier < 1:
        raise ValueError(f"multiplier must be 1 or more, not {multiplier}")
    return [Fraction(k, multiplier) for k in range(1, multiplier)]


def nearest_dyadic(wanted: Sequence[Fraction]) -> list[Fraction]:
    """The timesteps k / 2^n that recursion to the midpoint can reach, nearest to those `wanted`.

    n is as small as brings each within an eighth of the smallest gap of `wanted` (0 and 1 counted
    in): exactly for halves, quarters and so on, one part in 24 of the pair for thirds.
    """
    if not wanted:
        return []
    marks = [Fraction(0), *wanted, Fraction(1)]
    tolerance = min(b - a for a, b in zip(marks, marks[1:], strict=False)) / 8
    steps = 2
    while True:
        near = [Fraction(round(t * steps), steps) for t in wanted]
        if all(abs(t - n) <= tolerance for t, n in zip(wanted, near, strict=True)):
            return near
        steps *= 2
