"""Finds frames that repeat, on thumbnails; and where on the time axis the frames of a clip with
repeats belong."""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")

# Repeats, see benchmarks/cuts.md.
BLOCK, SAME = 8, 2.5 / 255  # a block of the thumbnail may differ by as much on average
STILL = 0.02  # pixels of the thumbnail that the whole picture may move

# Re-timing.
LONGEST_REPEAT = 4  # frames; what stands longer is a still
LONGEST_CADENCE = 6  # runs


def is_duplicate(a: Tensor, b: Tensor) -> bool:
    """Whether two thumbnails, of one size, show the same picture but for compression.

    No block may differ by more than compression does, and the whole may not have moved (after
    Lucas and Kanade, 1981): slow pans differ less than compression, but all in one direction.
    """
    change = b - a
    block = [min(BLOCK, side) for side in a.shape[1:]]
    difference = F.avg_pool2d(
        change.abs().mean(0, keepdim=True), block, [-(-n // 2) for n in block]
    )
    if difference.max() > SAME:
        return False
    if min(a.shape[1:]) < 3:
        return True
    grey, change = (a + b).mean(0) / 2, change.mean(0)[1:-1, 1:-1]
    dx = (grey[1:-1, 2:] - grey[1:-1, :-2]) / 2
    dy = (grey[2:, 1:-1] - grey[:-2, 1:-1]) / 2
    slopes = torch.stack((dx.flatten(), dy.flatten()))
    scatter = slopes @ slopes.T / dx.numel() + 1e-4 * torch.eye(2)
    motion = torch.linalg.solve(scatter, slopes @ change.flatten() / dx.numel())
    return motion.norm().item() < STILL


def retime_repeats(frames: Iterable[tuple[T, Fraction, bool]]) -> Iterator[tuple[T, Fraction]]:
    """Where the distinct frames of one shot belong, so that motion between them is even.

    frames: (frame, its place, whether it repeats the frame before), at increasing places.
    Yields key frames as (frame, place), at increasing places: motion runs from each to the next.

    - The first and the last frame are keys at their own places.
    - Up to LONGEST_REPEAT equal frames are one key, at the place of the first of them.
    - More are a still: its first and its last frame are keys.
    - Once a cadence (uneven runs of equal frames, as of 24 frames a second in 30 or in 60) has been
      seen twice in a row, keys come evenly, as long as it lasts. A key lies at its frame's own
      place or later, but always before the next frame's own place.

    Holds one frame, and yields a key when the frame after it arrives.
    """
    runs: deque[tuple[Fraction, int]] = deque(maxlen=2 * LONGEST_CADENCE)  # start, length
    previous: tuple[T, Fraction] | None = None
    start = key = wanted = Fraction(0)
    length = 0
    for frame, place, repeats in frames:
        if previous and length == 1:
            key = wanted if wanted < place else start
            yield previous[0], key
        if previous and repeats:
            length += 1
        else:
            if length > LONGEST_REPEAT:
                yield previous
                runs.clear()
            elif previous:
                runs.append((start, length))
            start, length = place, 1
            wanted = max(place, key + _step(runs, place)) if previous else place
        previous = frame, place
    if previous:
        yield previous


def _step(runs: Iterable[tuple[Fraction, int]], end: Fraction) -> Fraction:
    """The time from key to key if the runs up to `end` have a cadence, else 0."""
    starts, lengths = zip(*runs, strict=True) if runs else ((), ())
    for period in range(len(lengths) // 2, 1, -1):
        cycle = lengths[-period:]
        if cycle == lengths[-2 * period : -period] and len(set(cycle)) > 1:
            return (end - starts[-period]) / period
    return Fraction(0)
