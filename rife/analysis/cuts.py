"""Finds cuts in a clip, on thumbnails, and looks no further ahead than the frame it is given."""

from collections import deque
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# Cuts, tuned on the clips that benchmarks/cuts.py names for it.
GRID = (24, 32)  # rows and columns of what is compared
WINDOW, STRIDE = 12, 4  # size of the pieces that are looked for, and from one to the next
REACH = (6, 8)  # how far: a quarter of the picture each way
FLAT = 0.02  # contrast that counts half, as a part of full scale
WHITE = 0.97  # what is as bright may have been clipped
NOISE = 0.01  # contrast that is no more than noise
DOUBT = 0.1  # textured pieces, as a part of all, that halve the trust in what they say
COLOUR = 2.0  # weight of the change of colours, which counts up to
COLOUR_MOST = 0.05  # of full scale
CALM, KEPT = 0.5, 0.7  # weight of the unrest before, and how much of it lasts from pair to pair
FLASH, FLASH_ENDS = 3, 0.3  # frames a flash may last; what its end loses at least
THRESHOLD, SPAN = 0.4, 0.42  # at sensitivity 0.5, and from 0 to 1


class CutDetector:
    """Finds cuts in a clip whose pairs of consecutive frames it is shown in order.

    A pair's score is what part of the picture's texture is found nowhere near its place in the
    other frame, by normalised correlation: brightness and contrast, so fades and most flashes,
    don't matter, and motion matters only as far as things appear. The smaller of both directions
    counts, as what appears is found nowhere before, but what was there is found after. Colours that
    come and go raise the score, and unrest before the pair lowers it.

    sensitivity: 0 finds no cut at all; at 1 fast motion may pass for one; 0.5 errs least.
    """

    def __init__(self, sensitivity: float = 0.5):
        if not 0 <= sensitivity <= 1:
            raise ValueError(f"sensitivity is {sensitivity}, but must be from 0 to 1")
        self.sensitivity = sensitivity
        self._unrest = 0.0
        self._described = WeakIdKeyDictionary()  # thumbnail -> _Description
        self._seen: deque[_Description] = deque(maxlen=FLASH + 2)

    def is_cut(self, before: Tensor, after: Tensor) -> bool:
        """Whether a new shot begins at `after`. Both are thumbnails of one size."""
        threshold = THRESHOLD + SPAN * (0.5 - self.sensitivity)
        return self.score(before, after) > threshold and self.sensitivity > 0

    def score(self, before: Tensor, after: Tensor) -> float:
        """From 0 or less (the same picture) to 1 (nothing in common); remembers the pair."""
        one, other = self.describe(before), self.describe(after)
        for each in (one, other):
            if not (self._seen and self._seen[-1] is each):
                self._seen.append(each)
        lost = _lost(one, other)
        if lost > FLASH_ENDS:  # unless what comes after was there before, as when a flash ends
            lost = min([lost, *(_lost(older, other) for older in list(self._seen)[:-2])])
        change = other.colours - one.colours
        # A flash makes everything brighter; a cut makes some things darker too.
        both_ways = float(min(change.clip(min=0).mean(), (-change).clip(min=0).mean()))
        score = lost - CALM * self._unrest + COLOUR * min(both_ways, COLOUR_MOST)
        self._unrest = KEPT * self._unrest + (1 - KEPT) * lost
        return score

    def describe(self, thumbnail: Tensor) -> "_Description":
        """Most of the work on a thumbnail, done once; any thread may do it before."""
        if thumbnail not in self._described:
            self._described[thumbnail] = _describe(thumbnail)
        return self._described[thumbnail]


class _Description(NamedTuple):
    """A frame as it is compared: its pieces, (positions, values), each with mean 0 and length 1;
    their weights, by how much texture they have; and its colours, (3, 6, 8)."""

    pieces: np.ndarray
    weights: np.ndarray
    colours: np.ndarray


def _describe(frame: Tensor) -> _Description:
    """In numpy: for arrays this small, torch takes longest to wake its threads."""
    grid = F.adaptive_avg_pool2d(frame, GRID).numpy()
    pieces = sliding_window_view(grid, (WINDOW, WINDOW), (1, 2)).transpose(1, 2, 0, 3, 4)
    pieces = pieces.reshape(-1, 3, WINDOW**2)
    unclipped = (pieces < WHITE).mean((1, 2), dtype=np.float32)
    pieces = (pieces - pieces.mean(2, keepdims=True)).reshape(len(pieces), -1)
    energy = np.einsum("pv,pv->p", pieces, pieces) / pieces.shape[1]
    pieces /= np.sqrt(pieces.shape[1] * (energy + NOISE**2))[:, None]
    weights = unclipped * energy / (energy + FLAT**2)
    return _Description(pieces, weights, F.adaptive_avg_pool2d(frame, (6, 8)).numpy())


def _lost(one: _Description, other: _Description) -> float:
    """What part of the texture is not found in the other frame, from 0 to 1."""
    return min(_lost_from(one, other), _lost_from(other, one))


def _lost_from(one: _Description, other: _Description) -> float:
    picked, near = _positions()
    weights = one.weights[picked]
    # Torch's threads can be kept to one; numpy's BLAS wakes a team for this.
    likeness = torch.from_numpy(one.pieces[picked]) @ torch.from_numpy(other.pieces).T
    likeness = (likeness.numpy() * near).max(1)
    lost = weights @ (1 - likeness.clip(0, 1))
    return float(lost / (weights.sum() + DOUBT * len(weights)))


@lru_cache
def _positions() -> tuple[np.ndarray, np.ndarray]:
    """Which positions' pieces are looked for, and (piece, position) where."""
    place = np.indices([side - WINDOW + 1 for side in GRID]).reshape(2, -1).T
    picked = (place % STRIDE == 0).all(1).nonzero()[0]
    near = (abs(place[picked, None] - place) <= REACH).all(2)
    return picked, near.astype(np.float32)
