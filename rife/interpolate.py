"""The loop: frames in, denser frames out, through any network.

One way for all callers: `interpolate` (a batch) and the command line (a stream) both run
`interpolate_stream`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .network import Network, Prepared
from .timeline import nearest_dyadic, timesteps

log = logging.getLogger(__name__)

Progress = Callable[[int, int, Tensor], None]
Cancel = Callable[[], bool | None]


class Cancelled(Exception):
    """The cancel callback asked to stop."""


@dataclass(frozen=True)
class Options:
    """What a run may ask of a network, beside the timesteps.

    scale: resolution of the flow estimate; 0.5 for 4K and large motion, 2 for fine detail.
    ensemble: average both orders of each pair. refine: run v4.0's refine networks too.
    tta: average with the pass over frames turned by 180 degrees. Each of the three costs up to
    twice the time.
    """

    scale: float = 1.0
    ensemble: bool = False
    refine: bool = False
    tta: bool = False

    def check(self, model: Network) -> None:
        """Raise ValueError for what `model` can't do."""
        if not 0.1 <= self.scale <= 8:
            raise ValueError(f"scale is {self.scale}, but must be from 0.1 to 8 (usually 0.25 - 2)")
        for name in ("ensemble", "refine"):
            if getattr(self, name) and name not in model.options | model.built_in:
                raise ValueError(f"{model.version} has no {name}: switch it off, or use a model "
                                 f"that has it")  # fmt: skip


def interpolate(
    model: Network,
    frames: Tensor,
    multiplier: int = 2,
    *,
    scale: float = 1.0,
    ensemble: bool = False,
    refine: bool = False,
    tta: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Put `multiplier` - 1 new frames between each two of `frames`.

    frames: (N, H, W, C), C 1 (grey), 3 (RGB) or 4 (RGB and alpha); floats in [0, 1] or uint8; on
        any device. Frames of any size from 1x1 up.
    multiplier: 2 doubles the frame rate, and so on; 1 changes nothing. Networks with a fixed
        timestep (the paper's IFNet, v3.x) make 2, 4, 8 ... by recursion and the rest at the
        nearest dyadic timesteps (`timeline.nearest_dyadic`), with a line in the log.
    scale, ensemble, refine, tta: see `Options`.
    progress: called as (done, total, frame) after each new frame; frame: (H, W, C).
    cancel: called before each network run; returning True raises Cancelled, and an exception of
        its own goes through.
    out: where to put the result, ((N - 1) * multiplier + 1, H, W, C), of any dtype and device.

    Returns `out`, or a new tensor like `frames`. The original frames are in it bit for bit. One
    frame alone comes back as it is. Raises ValueError for what can't be frames.
    """
    frames = torch.as_tensor(frames).detach()
    if frames.ndim != 4:
        raise ValueError(
            f"frames must be (N, H, W, C), such as (49, 480, 720, 3), not {tuple(frames.shape)}"
        )
    if len(frames) == 0:
        raise ValueError("there are no frames to interpolate: the batch is empty")
    total = (len(frames) - 1) * multiplier + 1
    if out is None:
        out = frames.new_empty((total, *frames.shape[1:]))
    elif out.shape != (total, *frames.shape[1:]):
        raise ValueError(f"out is {tuple(out.shape)}, not {(total, *frames.shape[1:])}")

    new, all_new = 0, total - len(frames)
    options = Options(scale, ensemble, refine, tta)
    stream = interpolate_stream(model, frames, multiplier, options, cancel)
    for i, (position, frame) in enumerate(stream):
        out[i] = frame
        if position.denominator > 1:
            new += 1
            if progress:
                progress(new, all_new, frame)
    return out


@torch.inference_mode()
def interpolate_stream(
    model: Network,
    frames: Iterable[Tensor],
    multiplier: int = 2,
    options: Options = Options(),  # noqa: B008 (frozen)
    cancel: Cancel | None = None,
) -> Iterator[tuple[Fraction, Tensor]]:
    """As `interpolate`, frame by frame: holds two input frames at a time, however many there are.

    frames: of (H, W, C) each. Yields (position, frame): 2 is the third input frame, 5/2 the frame
    halfway between the third and the fourth.
    """
    options.check(model)
    wanted = timesteps(multiplier)
    made = wanted if model.any_timestep else nearest_dyadic(wanted)
    if made != wanted:
        log.warning(
            "%s makes midpoints only: %dx is made at the nearest steps within reach, %s",
            model.version, multiplier, ", ".join(map(str, made)),
        )  # fmt: skip
    run = _Run(model, options, cancel)

    before, ready_before = None, None
    for index, image in enumerate(frames):
        check_frame(image, index, like=before)
        ready = run.ready(image) if wanted else None
        if before is not None:
            new_frames = run.between(ready_before, ready, made)
            for timestep, new in zip(wanted, new_frames, strict=True):
                yield index - 1 + timestep, run.finish(new, like=image)
        yield Fraction(index), image
        before, ready_before = image, ready


@dataclass(frozen=True)
class _Ready:
    """A frame on the model's device: image (1, C, H, W) float32, padded; and as the model has it
    (with tta, a batch of two: as it is and turned)."""

    image: Tensor
    prepared: Prepared


class _Run:
    """One network and the options of one run."""

    def __init__(self, model: Network, options: Options, cancel: Cancel | None):
        self.model, self.options, self.cancel = model, options, cancel
        self.side_multiple = model.side_multiple(options.scale)
        self.warned = False

    def ready(self, image: Tensor) -> _Ready:
        """(H, W, C) as the user has it -> what the network takes, its features computed once."""
        x = rearrange(image, "h w c -> 1 c h w").to(self.model.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else self._within_range(x.float())
        return self._prepare(pad(x, self.side_multiple))

    def between(
        self, first: _Ready, second: _Ready, timesteps: Sequence[Fraction]
    ) -> Iterator[Tensor]:
        """Yield the frames at `timesteps`, (1, C, H, W) padded, in order."""
        if self.model.any_timestep:
            for timestep in timesteps:
                yield self._render(first, second, timestep)
        elif timesteps:
            yield from self._bisect(first, second, timesteps)

    def finish(self, padded: Tensor, like: Tensor) -> Tensor:
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
            scale=options.scale,
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
        if not self.warned and not torch.equal(clamped, x):
            log.warning("frames have values outside [0, 1]; new frames are made from clamped ones")
            self.warned = True
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


def check_frame(image: Tensor, index: int, like: Tensor | None = None) -> None:
    """Raise ValueError unless `image` can be frame number `index`, after one `like` it."""
    where = f"frame {index}"
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"{where} is {tuple(image.shape)}, not (height, width, channels) of 1, 3 or 4 channels"
        )
    if like is not None and image.shape != like.shape:
        raise ValueError(
            f"{where} is {_size(image)}, but the frames before are {_size(like)}: "
            "all frames must be of one size"
        )
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise ValueError(f"{where} is {image.dtype}; frames are float (0 to 1) or uint8 (0 to 255)")
    low, high = (float(x) for x in torch.aminmax(image))
    if not (low > float("-inf") and high < float("inf")):  # NaN fails both
        raise ValueError(
            f"{where} has NaN or infinite values: whatever made it failed (a VAE in float16 is a "
            "common cause). Make it again before interpolating"
        )
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"{where} has values from {low:.3g} to {high:.3g}, but float frames are in [0, 1]: "
            "divide by 255, or map [-1, 1] to [0, 1], first"
        )


def _size(image: Tensor) -> str:
    height, width, channels = image.shape
    return f"{width}x{height} with {channels} channels"
