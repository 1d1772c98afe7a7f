"""Detects cuts between consecutive frames, on thumbnails, without looking ahead."""

from collections import deque
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# The constants below are tuned on the clips that benchmarks/cuts.py lists as TUNING.
# benchmarks/cuts.md says how often the detector errs with them, on those clips and on others.

#: Rows and columns to which a thumbnail is shrunk before its patches are compared.
GRID = (24, 32)
#: Side of a square patch, in cells of the grid.
PATCH = 12
#: Every fourth patch, down and across, is searched for in the other frame.
STRIDE = 4
#: How many rows and columns a patch may move: a quarter of the picture in each direction.
SEARCH_RANGE = (6, 8)
#: RMS contrast at which a patch counts half; flatter patches tell little. Full scale is 1.
HALF_WEIGHT_CONTRAST = 0.02
#: Values from here on may be clipped, and count as no texture.
CLIPPED_FROM = 0.97
#: RMS contrast of noise, which keeps the normalisation from amplifying it.
NOISE_CONTRAST = 0.01
#: Mean weight of the patches at which the texture lost counts half: nearly flat pictures are
#: little evidence.
HALF_TRUST_WEIGHT = 0.1
#: Rows and columns of the grid on which colours are compared.
COLOUR_GRID = (6, 8)
#: Weight of the change of colours in the score.
COLOUR_WEIGHT = 2.0
#: The change of colours counts up to this share of full scale.
MAX_COLOUR_CHANGE = 0.05
#: Weight of the unrest, the running mean of the texture lost in the pairs before.
UNREST_WEIGHT = 0.5
#: Share of the unrest that lasts from one pair to the next.
UNREST_DECAY = 0.7
#: The longest flash, in frames.
MAX_FLASH_LENGTH = 3
#: Texture that the end of a flash loses at least.
MIN_FLASH_LOSS = 0.3
#: The score above which a pair is a cut, at sensitivity 0.5.
THRESHOLD = 0.4
#: By how much the threshold falls from sensitivity 0 to 1.
THRESHOLD_SPAN = 0.42


class CutDetector:
    """Detects the cuts of a clip from the thumbnails of its frames, pair by pair and in order.

    The score of a pair is the share of the texture that gets lost: each patch of a frame is
    searched for near its place in the other frame by normalised correlation. Changes of brightness
    and contrast don't affect the correlation, so fades and most flashes score low; motion loses
    only what it covers. Both directions are searched and the lower loss counts: a thing that
    appears is missing from the frame before, but what that frame shows is still in the frame after.
    Changes of colour raise the score, and unrest in the pairs before lowers it.

    Args:
        sensitivity: From 0, where no pair is a cut, to 1, where fast motion may count as one.
            0.5 makes the fewest errors.

    Raises:
        ValueError: The sensitivity is out of range.
    """

    def __init__(self, sensitivity: float = 0.5) -> None:
        if not 0 <= sensitivity <= 1:
            raise ValueError(f"sensitivity is {sensitivity}, but must be from 0 to 1")
        self.sensitivity = sensitivity
        self._unrest = 0.0
        self._features = WeakIdKeyDictionary()  # thumbnail -> _Features
        # The last frames, as far back as one before the longest flash.
        self._recent: deque[_Features] = deque(maxlen=MAX_FLASH_LENGTH + 2)

    def is_cut(self, before: Tensor, after: Tensor) -> bool:
        """Returns whether a new shot begins at `after`.

        Args:
            before: Thumbnail of a frame, from `make_thumbnail`.
            after: Thumbnail of the next frame, of the same size.
        """
        threshold = THRESHOLD + THRESHOLD_SPAN * (0.5 - self.sensitivity)
        return self.score(before, after) > threshold and self.sensitivity > 0

    def score(self, before: Tensor, after: Tensor) -> float:
        """Scores the next pair of the clip, and takes note of it for the pairs that follow.

        Returns:
            From 0 or less (the same picture) to about 1 (nothing in common).
        """
        first, second = self.extract_features(before), self.extract_features(after)
        for features in (first, second):
            if not (self._recent and self._recent[-1] is features):
                self._recent.append(features)
        loss = _texture_loss(first, second)
        if loss > MIN_FLASH_LOSS:  # at the end of a flash, a frame from before it comes back
            earlier = list(self._recent)[:-2]
            loss = min([loss, *(_texture_loss(features, second) for features in earlier)])
        change = second.colours - first.colours
        # A flash makes everything brighter; a cut makes some things darker too.
        brighter, darker = change.clip(min=0).mean(), (-change).clip(min=0).mean()
        colour_change = min(float(min(brighter, darker)), MAX_COLOUR_CHANGE)
        score = loss - UNREST_WEIGHT * self._unrest + COLOUR_WEIGHT * colour_change
        self._unrest = UNREST_DECAY * self._unrest + (1 - UNREST_DECAY) * loss
        return score

    def extract_features(self, thumbnail: Tensor) -> "_Features":
        """Returns what `score` compares of a frame, computed once for each thumbnail.

        This is most of the work; any thread may call it beforehand.
        """
        if thumbnail not in self._features:
            self._features[thumbnail] = _extract_features(thumbnail)
        return self._features[thumbnail]


class _Features(NamedTuple):
    """What is compared of a frame.

    Attributes:
        patches: (positions, values); each patch has mean 0 and length 1.
        weights: (positions,); how much each patch counts, by its texture.
        colours: (3, 6, 8); mean colours.
    """

    patches: np.ndarray
    weights: np.ndarray
    colours: np.ndarray


def _extract_features(thumbnail: Tensor) -> _Features:
    # In numpy: with arrays this small, torch spends most of the time waking its threads.
    grid = F.adaptive_avg_pool2d(thumbnail, GRID).numpy()
    patches = sliding_window_view(grid, (PATCH, PATCH), (1, 2)).transpose(1, 2, 0, 3, 4)
    patches = patches.reshape(-1, 3, PATCH**2)
    unclipped = (patches < CLIPPED_FROM).mean((1, 2), dtype=np.float32)
    patches = (patches - patches.mean(2, keepdims=True)).reshape(len(patches), -1)
    energy = np.einsum("pv,pv->p", patches, patches) / patches.shape[1]
    patches /= np.sqrt(patches.shape[1] * (energy + NOISE_CONTRAST**2))[:, None]
    weights = unclipped * energy / (energy + HALF_WEIGHT_CONTRAST**2)
    return _Features(patches, weights, F.adaptive_avg_pool2d(thumbnail, COLOUR_GRID).numpy())


def _texture_loss(first: _Features, second: _Features) -> float:
    """Returns the share of the texture that the two frames don't have in common, from 0 to 1."""
    return min(_unmatched_share(first, second), _unmatched_share(second, first))


def _unmatched_share(source: _Features, target: _Features) -> float:
    """Returns the share of the texture of `source` that `target` lacks, from 0 to 1."""
    searched, in_range = _search_windows()
    weights = source.weights[searched]
    # In torch, whose threads can be kept to one; numpy's BLAS wakes a team for this.
    correlation = torch.from_numpy(source.patches[searched]) @ torch.from_numpy(target.patches).T
    best_match = (correlation.numpy() * in_range).max(1)
    unmatched = weights @ (1 - best_match.clip(0, 1))
    return float(unmatched / (weights.sum() + HALF_TRUST_WEIGHT * len(weights)))


@lru_cache
def _search_windows() -> tuple[np.ndarray, np.ndarray]:
    """Returns which patches are searched for, (searched,), and where, (searched, positions)."""
    positions = np.indices([side - PATCH + 1 for side in GRID]).reshape(2, -1).T
    searched = (positions % STRIDE == 0).all(1).nonzero()[0]
    in_range = (abs(positions[searched, None] - positions) <= SEARCH_RANGE).all(2)
    return searched, in_range.astype(np.float32)
