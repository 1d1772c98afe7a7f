"""What every RIFE network answers, so that nothing above it asks which one it has."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import itemgetter
from typing import ClassVar

import torch
from torch import Tensor, nn

from .warp import at_least_float32, resize, warp


class NonFiniteError(ValueError):
    """A network, or a frame that it made, has NaN or infinite values.

    Args:
        version: Of the network, as people know it.
        dtype: That it runs in.
        what: What it has or made, to follow its name.
    """

    def __init__(self, version: str, dtype: torch.dtype, what: str):
        super().__init__(f"{version} in {dtype_name(dtype)} {what}: {advice_on_range(dtype)}")
        self.version, self.dtype, self.what = version, dtype, what


def dtype_name(dtype: torch.dtype) -> str:
    """As people write it: "float16"."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def at_input_frame(index: int, timestep: Fraction) -> Iterator[None]:
    """Says which frame it was, in a NonFiniteError from within."""
    try:
        yield
    except NonFiniteError as error:
        share = f"{float(timestep):.3g}"
        place = f"{error.what} at {share} of the way from input frame {index} to the next"
        raise NonFiniteError(error.version, error.dtype, place) from None


def advice_on_range(dtype: torch.dtype) -> str:
    """What helps where numbers are too large for a dtype, for people."""
    if dtype == torch.float32:
        return "the model file is damaged or altered; get it again, or choose another model"
    return 'use float32 ("precision" on Load RIFE Model, --dtype float32 on the command line)'


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor of floating point has neither NaN nor infinity."""
    if not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:  # torch can do little with 8 bits
        tensor = tensor.float()
    return all(bool(bound.isfinite()) for bound in tensor.aminmax())


@dataclass(frozen=True)
class Prepared:
    """One frame, made ready for a network: whatever can be computed before its neighbour is known.

    seen: (B, 3 + features, H, W) float32, the image in [0, 1] and, to networks with a head, its
        features; sides divisible as `Network.side_multiple` asks.
    pyramid: of the refine module, coarser and coarser.
    index: (B,) integers, where both hold other frames too: these of them are meant.
    """

    seen: Tensor
    pyramid: tuple[Tensor, ...] = ()
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.seen if self.index is None else self.index)

    @property
    def image(self) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1]."""
        return self.seen[:, :3]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Prepared":
        """With all its tensors changed alike."""
        return Prepared(change(self.seen), tuple(map(change, self.pyramid)), self.index)

    def picked(self) -> "Prepared":
        """The frames that are meant, alone."""
        if self.index is None:
            return self
        return replace(self.map(self._pick), index=None)

    def picked_pyramid(self) -> tuple[Tensor, ...]:
        return tuple(map(self._pick, self.pyramid))

    def _pick(self, x: Tensor) -> Tensor:
        return x if self.index is None else x.index_select(0, self.index)


@dataclass(frozen=True)
class Motion:
    """How to make the frame between two others.

    flow: (B, 4, H, W) float32, in pixels: where each pixel of the new frame lies in the first
        frame (x, y), then in the second (x, y).
    mask: (B, 1, H, W) float32 in [0, 1], the first frame's share in the blend.
    residual: (B, 3, H, W) float32 in [-1, 1], a correction of the blended colours, or None.
    """

    flow: Tensor
    mask: Tensor
    residual: Tensor | None = None

    def checksum(self) -> Tensor:
        """(B,) float32: NaN or infinity where flow, mask or residual have such a value; what is
        rendered with them can look sound, but isn't."""
        parts = (self.flow, self.mask, self.residual)
        return sum(part.sum((1, 2, 3)) for part in parts if part is not None)

    def render(self, image0: Tensor, image1: Tensor) -> Tensor:
        """The frame in between, (B, C, H, W) in [0, 1].

        image0, image1: (B, C, H, W) in [0, 1]; C is 1 (grey), 3 (RGB) or 4 (RGB and alpha).
        """
        warped = warp(image0, self.flow[:, :2]), warp(image1, self.flow[:, 2:])
        return blend(*warped, self.mask, self.residual)


def blend(warped0: Tensor, warped1: Tensor, mask: Tensor, residual: Tensor | None) -> Tensor:
    """(B, C, H, W) in [0, 1] each, as in `Motion`."""
    merged = warped0 * mask + warped1 * (1 - mask)
    if residual is not None:
        if merged.shape[1] == 1:
            merged = merged + residual.mean(dim=1, keepdim=True)
        else:
            merged[:, :3] += residual
    return merged.clamp(0, 1)


class Block(nn.Module):
    """One step of refinement: what it sees -> planes of flow, mask and, to some, features.

    conv0: its first two convolutions, each with its activation. up: how many times smaller the
    planes come out than it sees.
    """

    up: int

    def body(self, x: Tensor) -> Tensor:
        """All but the first convolution and the two resizings: (B, planes, h, w)."""
        raise NotImplementedError

    def estimate(self, x: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """x: what it sees, made `scale` times smaller. Returns, at full size, flow (B, 4, H, W) in
        pixels, mask (B, 1, H, W) before its sigmoid, and all other planes."""
        x = self.conv0[0](x.to(self.conv0[0][0].weight.dtype))
        up = scale * self.up
        out = resize(at_least_float32(self.body(x)), up)
        return out[:, :4] * up, out[:, 4:5], out[:, 5:]


class Network(nn.Module):
    """The small interface of all RIFE networks: prepare each frame once, then ask for motion.

    Convolutions run in the weights' dtype; flow, mask and warping are float32 always.
    """

    #: Name and generation, for people.
    version: str
    #: True: any timestep in (0, 1). False: the midpoint only; other timesteps by recursion.
    any_timestep: ClassVar[bool] = True
    #: Scale factors of the blocks, coarse to fine.
    scales: tuple[int, ...]
    #: What the blocks see and in how many channels, in their order: "image0" and "image1", warped
    #: by the flow so far, with "features0" and "features1"; "still0" and "still1", the images as
    #: they are; "time"; "mask" and "handed", what the block before found; "flow". The first block
    #: sees as many of them as it has channels.
    inputs: Mapping[str, int]
    #: Each block changes the mask before it; else it makes a new one.
    mask_adds: bool = True
    #: The second block may find that the first lost its way; see IFNet_v4.
    doubles_scales: bool = False
    #: What can be switched on, of "ensemble" and "refine" (see `motion`) ...
    options: frozenset[str] = frozenset()
    #: ... and what is part of this network, switched on or not.
    built_in: frozenset[str] = frozenset()
    #: Working memory that a pair takes at its peak, bytes per pixel, measured in float32 ...
    bytes_per_pixel: int
    #: ... and what `refine` adds to it, where that is an option.
    refine_bytes_per_pixel: int = 0
    #: Parts of the state dict that serve training alone; checkpoints may lack or carry them.
    training_only: ClassVar[tuple[str, ...]] = ("block_tea.", "teacher.", "caltime.")
    #: The state of those that check_weights has found sound.
    _checked_weights: Hashable = None

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "Network | None":
        """A network of this family with the parameters read off `state`, its weights not loaded.

        None: `state` is of another family.
        """
        raise NotImplementedError

    def prepare(self, image: Tensor, *, refine: bool = False) -> Prepared:
        """Compute what depends on one frame alone; `refine` as it will be given to `motion`.

        image: (B, 3, H, W) in [0, 1], H and W multiples of `side_multiple(scale)`.
        """
        return Prepared(image.float())

    def motion(
        self,
        frame0: Prepared,
        frame1: Prepared,
        timestep: float | Tensor = 0.5,
        *,
        scale: float = 1.0,
        ensemble: bool = False,
        refine: bool = False,
    ) -> Motion:
        """Estimate the motion to the frame at `timestep` (0: `frame0`, 1: `frame1`).

        timestep: a number, or (B, 1, 1, 1); networks with a fixed timestep give the midpoint.
        scale: the resolution of the flow estimate: 0.5 for 4K and large motion, 2 for fine detail.
        ensemble: average both orders of the pair. refine: add the refine module's residual.
        """
        raise NotImplementedError

    def forward(
        self, image0: Tensor, image1: Tensor, timestep: float | Tensor = 0.5, **options
    ) -> Tensor:
        """The frame between two images: `prepare`, `motion` and `Motion.render` in one call."""
        refine = options.get("refine", False)
        frame0 = self.prepare(image0[:, :3], refine=refine)
        frame1 = self.prepare(image1[:, :3], refine=refine)
        motion = self.motion(frame0, frame1, timestep, **options)
        self.check_finite(motion)
        return motion.render(image0, image1)

    def check_finite(self, motion: Motion) -> None:
        """Raises NonFiniteError for motion that this network should not have found."""
        if not motion.checksum().isfinite().all():
            raise self.non_finite_error()

    def weights_state(self) -> Hashable:
        """Changes when weights are replaced, moved or written to; but not by writing to their
        `.data`, or in inference mode to what was made in it: torch does not count that."""
        return tuple(
            (x.data_ptr(), x.dtype, x.device, None if x.is_inference() else x._version)
            for x in (*self.parameters(), *self.buffers())
        )

    def check_weights(self) -> None:
        """Raises NonFiniteError for weights that were lost in the conversion to their dtype."""
        if self.dtype == torch.float32:  # what is loaded is finite in float32
            return
        state = self.weights_state()
        if state != self._checked_weights:
            sums = [weight.sum(dtype=torch.float32) for weight in self.parameters()]
            if not torch.stack(sums).isfinite().all():
                raise self.non_finite_error("has weights that are too large for it")
            self._checked_weights = state

    def non_finite_error(
        self, what: str = "made a frame of NaN or infinite values"
    ) -> NonFiniteError:
        return NonFiniteError(self.version, self.dtype, what)

    def side_multiple(self, scale: float = 1.0) -> int:
        """What both sides of a frame must be multiples of: every block halves its input twice."""
        return max(32, 4 * round(max(self.scales) * max(1.0, 1 / scale)))

    def memory_needed(
        self, height: int, width: int, channels: int = 3, *, scale: float = 1.0, refine: bool = True
    ) -> int:
        """Bytes of working memory, beside the weights, that a pair of such frames takes at most."""
        multiple = self.side_multiple(scale)
        pixels = (height + -height % multiple) * (width + -width % multiple)
        images = 4 * 4 * channels  # both frames, padded, warped and blended, in float32
        needed = pixels * (self.bytes_per_pixel + images)
        if scale > 1:  # the network works on more pixels than there are
            needed *= scale**2
        elif scale <= 0.5 and "refine" not in self.built_in:
            needed *= 0.6  # measured at 0.5 and 0.25: 0.4 to 0.58
        return round(needed + pixels * self.refine_bytes_per_pixel * refine)

    @property
    def blocks(self) -> list[Block]:
        """The blocks that estimate motion, as many as `scales`."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def one_by_one(
    motion: Callable[..., Motion], frames: Sequence[Prepared], times: Tensor, **options
) -> Motion:
    """What `motion` makes of a batch if each pair in it is alone; times: (B, 1, 1, 1)."""

    singles = []
    for i in range(len(times)):
        alone = slice(i, i + 1)
        pair = (frame.map(itemgetter(alone)) for frame in frames)
        singles.append(motion(*pair, times[alone], **options))
    return Motion(
        torch.cat([single.flow for single in singles]),
        torch.cat([single.mask for single in singles]),
        None if singles[0].residual is None else torch.cat([m.residual for m in singles]),
    )
