"""Detects frames that repeat, on thumbnails, and spreads the motion of a shot evenly over them."""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")

# The constants of `is_duplicate` are measured in benchmarks/cuts.md, under "Repeats".

#: Side of the blocks, in pixels of the thumbnail, on which two frames are compared.
BLOCK = 8
#: Mean difference of a block, on a scale up to 1, that compression may cause.
MAX_BLOCK_DIFFERENCE = 2.5 / 255
#: Motion of the whole picture, in pixels of the thumbnail, that counts as none.
MAX_MOTION = 0.02
#: Keeps the motion of pictures without slopes at 0.
REGULARISATION = 1e-4

#: The most equal frames that are a repeat, to be spread over; more are a still.
MAX_REPEAT_LENGTH = 4
#: The most runs of equal frames in a period of a cadence.
MAX_CADENCE_PERIOD = 6


def is_duplicate(first: Tensor, second: Tensor) -> bool:
    """Returns whether two thumbnails, of one size, show the same picture but for compression.

    No block may differ by more than compression does, and the picture as a whole must not have
    moved: slow pans differ less than compression does, but everywhere in one direction.
    """
    change = second - first
    block = [min(BLOCK, side) for side in first.shape[1:]]
    stride = [-(-side // 2) for side in block]
    differences = F.avg_pool2d(change.abs().mean(0, keepdim=True), block, stride)
    if differences.max() > MAX_BLOCK_DIFFERENCE:
        return False
    if min(first.shape[1:]) < 3:
        return True
    grey = (first + second).mean(0) / 2
    return _motion_length(grey, change.mean(0)) < MAX_MOTION


def _motion_length(grey: Tensor, change: Tensor) -> float:
    """Returns by how many pixels one motion of the whole picture explains its change.

    The least-squares solution of Lucas and Kanade (1981).

    Args:
        grey: (h, w), the mean of both pictures.
        change: (h, w), their difference.
    """
    dx = (grey[1:-1, 2:] - grey[1:-1, :-2]) / 2
    dy = (grey[2:, 1:-1] - grey[:-2, 1:-1]) / 2
    slopes = torch.stack((dx.flatten(), dy.flatten()))
    scatter = slopes @ slopes.T / dx.numel() + REGULARISATION * torch.eye(2)
    moments = slopes @ change[1:-1, 1:-1].flatten() / dx.numel()
    return torch.linalg.solve(scatter, moments).norm().item()


def retime_repeats(frames: Iterable[tuple[T, Fraction, bool]]) -> Iterator[tuple[T, Fraction]]:
    """Moves the distinct frames of one shot in time, so that the motion between them is even.

    - The first and the last frame of the shot are key frames at their own places.
    - Up to MAX_REPEAT_LENGTH equal frames become one key frame, at the place of the first of them.
    - More are a still: its first and its last frame are key frames.
    - Once a cadence (uneven runs of equal frames, such as those of 24 frames a second in 30 or 60)
      has come twice in a row, key frames are evenly spaced as long as it lasts. A key frame lies at
      its own place or later, but always before the next frame's own place.

    Holds one frame, and yields a key frame when the frame after it arrives.

    Args:
        frames: (frame, place on the timeline, whether it repeats the frame before), at increasing
            places.

    Yields:
        Key frames as (frame, place), at increasing places: motion runs from each to the next.
    """
    runs: deque[tuple[Fraction, int]] = deque(maxlen=2 * MAX_CADENCE_PERIOD)  # start, length
    previous: tuple[T, Fraction] | None = None
    run_start = key_place = even_place = Fraction(0)
    run_length = 0
    for frame, place, is_repeat in frames:
        if previous and run_length == 1:
            key_place = even_place if even_place < place else run_start
            yield previous[0], key_place
        if previous and is_repeat:
            run_length += 1
        else:
            if run_length > MAX_REPEAT_LENGTH:
                yield previous  # a still ends
                runs.clear()
            elif previous:
                runs.append((run_start, run_length))
            run_start, run_length = place, 1
            even_place = max(place, key_place + _cadence_step(runs, place)) if previous else place
        previous = frame, place
    if previous:
        yield previous


def _cadence_step(runs: Iterable[tuple[Fraction, int]], end: Fraction) -> Fraction:
    """Returns the mean distance of key frames if the runs up to `end` have a cadence, else 0."""
    starts, lengths = zip(*runs, strict=True) if runs else ((), ())
    for period in range(len(lengths) // 2, 1, -1):
        cadence = lengths[-period:]
        if cadence == lengths[-2 * period : -period] and len(set(cadence)) > 1:
            return (end - starts[-period]) / period
    return Fraction(0)
