"""One pair of frames, as the user has them -> the frames between, through any network."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .network import Network, Prepared
from .options import Options
from .timeline import nearest_dyadic

log = logging.getLogger(__name__)

Cancel = Callable[[], bool | None]


class Cancelled(Exception):
    """The cancel callback asked to stop."""


@dataclass(frozen=True)
class _Ready:
    """A frame on the model's device: image (1, C, H, W) float32, padded; and as the model has it
    (with tta, a batch of two: as it is and turned)."""

    image: Tensor
    prepared: Prepared


class Pairs:
    """One network and the options of one run: keeps what the next pair can use again."""

    def __init__(self, model: Network, options: Options, cancel: Cancel | None = None):
        self.model, self.options, self.cancel = model, options, cancel
        self._latest: tuple[Tensor, _Ready] | None = None
        self._warned = False
        self._said: set[tuple[Fraction, ...]] = set()

    @torch.inference_mode()
    def between(
        self, first: Tensor, second: Tensor, timesteps: Sequence[Fraction]
    ) -> Iterator[Tensor]:
        """Yield the frames at `timesteps`, ascending within (0, 1), each of the size, dtype and
        device of `first`.

        first, second: (H, W, C) of one size; C 1, 3 or 4; floats in [0, 1] or uint8.
        """
        height, width, _ = first.shape
        self._scale = self.options.scale_for(height, width)
        ready0, ready1 = self._ready(first), self._ready(second)
        self._latest = second, ready1
        for frame in self._frames(ready0, ready1, timesteps):
            yield self._finish(frame, first)

    def _frames(
        self, first: _Ready, second: _Ready, timesteps: Sequence[Fraction]
    ) -> Iterator[Tensor]:
        if self.model.any_timestep:
            for timestep in timesteps:
                yield self._render(first, second, timestep)
        elif timesteps:
            yield from self._bisect(first, second, self._within_reach(timesteps))

    def _within_reach(self, timesteps: Sequence[Fraction]) -> list[Fraction]:
        reachable = nearest_dyadic(timesteps)
        if reachable != list(timesteps) and tuple(timesteps) not in self._said:
            self._said.add(tuple(timesteps))
            log.warning(
                "%s makes midpoints only: frames at %s are made at the nearest steps within reach, "
                "%s", self.model.version,
                ", ".join(map(str, timesteps)), ", ".join(map(str, reachable)),
            )  # fmt: skip
        return reachable

    def _ready(self, image: Tensor) -> _Ready:
        """(H, W, C) as the user has it -> what the network takes, its features computed once."""
        if self._latest and self._latest[0] is image:
            return self._latest[1]
        x = rearrange(image, "h w c -> 1 c h w").to(self.model.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else self._within_range(x.float())
        return self._prepare(pad(x, self.model.side_multiple(self._scale)))

    def _finish(self, padded: Tensor, like: Tensor) -> Tensor:
        """(1, C, H, W) padded -> (H, W, C) of the size, dtype and device of `like`."""
        height, width, _ = like.shape
        x = rearrange(padded[..., :height, :width], "1 c h w -> h w c")
        if like.dtype == torch.uint8:
            x = (x * 255).round()
        return x.to(device=like.device, dtype=like.dtype)

    def _bisect(
        self, first: _Ready, second: _Ready, timesteps: Sequence[Fraction]
    ) -> Iterator[Tensor]:
        half = Fraction(1, 2)
        middle = self._render(first, second, half)
        left = [2 * t for t in timesteps if t < half]
        right = [2 * t - 1 for t in timesteps if t > half]
        ready = self._prepare(middle) if left or right else None
        if left:
            yield from self._bisect(first, ready, left)
        if half in timesteps:
            yield middle
        if right:
            yield from self._bisect(ready, second, right)

    def _render(self, first: _Ready, second: _Ready, timestep: Fraction) -> Tensor:
        if self.cancel and self.cancel():
            raise Cancelled("interpolation was cancelled")
        options = self.options
        motion = self.model.motion(
            first.prepared,
            second.prepared,
            float(timestep),
            scale=self._scale,
            ensemble=options.ensemble,
            refine=options.refine,
        )
        frame = motion.render(self._views(first.image), self._views(second.image))
        if options.tta:
            frame = (frame[:1] + turn(frame[1:])) / 2
        return frame

    def _prepare(self, x: Tensor) -> _Ready:
        colour = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]
        refine = self.options.refine
        return _Ready(x, self.model.prepare(self._views(colour), refine=refine))

    def _views(self, x: Tensor) -> Tensor:
        return torch.cat((x, turn(x))) if self.options.tta else x

    def _within_range(self, x: Tensor) -> Tensor:
        clamped = x.clamp(0, 1)
        if not self._warned and not torch.equal(clamped, x):
            log.warning("frames have values outside [0, 1]; new frames are made from clamped ones")
            self._warned = True
        return clamped


def pad(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) on the right and bottom to multiples of `multiple`, repeating the border.

    Upstream pads with black, into which things that leave the frame seem to move: a ghost, and
    0.5 dB along the border (benchmarks/padding.py).
    """
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def turn(x: Tensor) -> Tensor:
    """`x` (B, C, H, W) turned by 180 degrees."""
    return x.flip(2, 3)
