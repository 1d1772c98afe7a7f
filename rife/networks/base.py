"""The interface that all RIFE networks share, so that nothing above asks which one it has."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import ClassVar

import torch
from torch import Tensor, nn

from .finite import NonFiniteError
from .refine import Contextnet, Unet
from .warp import at_least_float32, resize, warp


@dataclass(frozen=True)
class PreparedFrames:
    """A batch of frames with everything that can be computed before their neighbours are known.

    Attributes:
        image_and_features: (B, 3 + features, H, W), each image in [0, 1] and, from networks with
            an encoder, its features. float32 from `Network.prepare`; an engine that runs GPU
            kernels uses the network's dtype, and adds channels of zeros. H and W are multiples of
            `Network.side_multiple`.
        pyramid: The refine module's features of each frame, from fine to coarse; may be empty.
        index: (B,) integers, which of the frames in the tensors make up the batch; None: all of
            them. An index spares a copy.
    """

    image_and_features: Tensor
    pyramid: tuple[Tensor, ...] = ()
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image_and_features if self.index is None else self.index)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.image_and_features, *self.pyramid

    @property
    def image(self) -> Tensor:
        """(B, 3, H, W), in [0, 1]."""
        return self.image_and_features[:, :3]

    def map(self, function: Callable[[Tensor], Tensor]) -> "PreparedFrames":
        """Applies a function to each tensor."""
        first, *pyramid = map(function, self.tensors)
        return PreparedFrames(first, tuple(pyramid), self.index)

    def with_index(self, index: Tensor) -> "PreparedFrames":
        """The frames at `index`, (B,) integers, without copying them."""
        return replace(self, index=index)

    def selected(self) -> "PreparedFrames":
        """The frames of the batch alone, copied out of the tensors if there is an index."""
        if self.index is None:
            return self
        return replace(self.map(self._select), index=None)

    def selected_pyramid(self) -> tuple[Tensor, ...]:
        return tuple(map(self._select, self.pyramid))

    def _select(self, x: Tensor) -> Tensor:
        return x if self.index is None else x.index_select(0, self.index)


@dataclass(frozen=True)
class Motion:
    """What turns two frames into the frame between them.

    Attributes:
        flow: (B, 4, H, W) float32, in pixels: where each pixel of the new frame lies in the first
            frame (x, y), then in the second (x, y).
        mask: (B, 1, H, W) float32 in [0, 1], the first frame's share in the blend.
        residual: (B, 3, H, W) float32 in [-1, 1], a correction of the blended colours, or None.
    """

    flow: Tensor
    mask: Tensor
    residual: Tensor | None = None

    def checksum(self) -> Tensor:
        """Returns (B,) float32: NaN or infinity for each pair whose motion has such a value.

        The rendered frame does not always show it: a warp clamps its coordinates to the image.
        """
        parts = (self.flow, self.mask, self.residual)
        return sum(part.sum((1, 2, 3)) for part in parts if part is not None)

    def render(self, image0: Tensor, image1: Tensor) -> Tensor:
        """Returns the frame in between, (B, C, H, W) in [0, 1].

        Args:
            image0: The first frame, (B, C, H, W) in [0, 1]; C is 1 (grey), 3 (RGB) or 4 (RGBA).
            image1: The second frame.
        """
        warped = warp(image0, self.flow[:, :2]), warp(image1, self.flow[:, 2:])
        return blend(*warped, self.mask, self.residual)


def blend(warped0: Tensor, warped1: Tensor, mask: Tensor, residual: Tensor | None) -> Tensor:
    """Blends two warped frames, (B, C, H, W) in [0, 1] each; mask and residual as in `Motion`."""
    blended = warped0 * mask + warped1 * (1 - mask)
    if residual is not None:
        if blended.shape[1] == 1:
            blended = blended + residual.mean(dim=1, keepdim=True)
        else:
            blended[:, :3] += residual
    return blended.clamp(0, 1)


class Block(nn.Module):
    """One step of the estimate: refines flow and mask at the block's own resolution.

    Attributes:
        conv0: The first two convolutions, each a Sequential with its activation.
        lastconv: The layer that all output planes come from, or None: IFBlocks of HDv3 have a head
            for flow and one for mask.
        output_stride: Pixels of the block's input to a pixel of its output, along each axis.
    """

    conv0: nn.Sequential
    output_stride: int

    def __init__(self) -> None:
        super().__init__()
        self.lastconv: nn.Module | None = None

    def body(self, x: Tensor) -> Tensor:
        """Runs everything after the first convolution: (B, C, h, w) to (B, planes, h', w')."""
        raise NotImplementedError

    def estimate(self, x: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the block and brings its output to full size.

        Args:
            x: The block's input, (B, C, H / scale, W / scale).
            scale: How many times smaller than the frames `x` is.

        Returns:
            Flow, (B, 4, H, W) in pixels; the mask before its sigmoid, (B, 1, H, W); and all other
            planes, (B, planes - 5, H, W).
        """
        x = self.conv0[0](x.to(self.conv0[0][0].weight.dtype))
        factor = scale * self.output_stride
        output = resize(at_least_float32(self.body(x)), factor)
        return output[:, :4] * factor, output[:, 4:5], output[:, 5:]


class Network(nn.Module):
    """A RIFE network: `prepare` each frame once, then ask for the `motion` between two of them.

    Convolutions run in the weights' dtype; flow, mask and warping are always float32.

    Everything that engines, tiles and the model loader may ask of a network is declared here.
    Parts that a network lacks are None.

    Attributes:
        encode: Gives each image its features, (B, 3, H, W) to (B, features, H, W).
        contextnet: The refine module's pyramid of one frame.
        unet: The refine module's residual.
    """

    #: Name and generation, for people.
    version: str
    #: Whether it makes frames at any timestep in (0, 1), or only the midpoint, from which others
    #: are made by recursion.
    any_timestep: ClassVar[bool] = True
    #: Scale factors of the blocks, coarse to fine.
    scales: tuple[int, ...]
    #: The channels of a block's input, in order: "image0" and "image1", warped by the flow so far,
    #: and "features0" and "features1", warped too; "unwarped0" and "unwarped1", the images as they
    #: are; "time", the timestep; "mask" and "block_features", from the block before; "flow". The
    #: first block takes only as many of them, from the beginning, as it has input channels.
    inputs: Mapping[str, int]
    #: Whether each block's mask is added to the one before, or replaces it.
    adds_masks: bool = True
    #: Whether blocks 0 and 1 have to run again, with all scales doubled, where
    #: `needs_doubled_scales` is true for what block 1 adds to the flow.
    can_double_scales: bool = False
    #: Pixels of flow beyond which scales are doubled.
    doubling_threshold: float = math.inf
    #: Which of "ensemble" and "refine" (see `motion`) can be switched on.
    options: frozenset[str] = frozenset()
    #: Which of them are always on.
    built_in: frozenset[str] = frozenset()
    #: Bytes of working memory per pixel that a pair takes at its peak, measured in float32.
    bytes_per_pixel: int
    #: What `refine` adds to that, where it is an option.
    refine_bytes_per_pixel: int = 0
    #: Parts of the state dict that only training needs; checkpoints may have them or not.
    training_only: ClassVar[tuple[str, ...]] = ("block_tea.", "teacher.", "caltime.")
    #: What tells networks of one family apart, for people; None if nothing does.
    parameters_row: object | None = None
    #: `weights_state` when check_weights last succeeded.
    _checked_weights: Hashable = None

    def __init__(self) -> None:
        super().__init__()
        self.encode: nn.Module | None = None
        self.contextnet: Contextnet | None = None
        self.unet: Unet | None = None

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "Network | None":
        """Returns a network of this family that `state` fits, or None if `state` is of another.

        Weights are not loaded.
        """
        raise NotImplementedError

    def prepare(self, image: Tensor, *, refine: bool = False) -> PreparedFrames:
        """Computes what depends on one frame alone.

        Args:
            image: (B, 3, H, W) in [0, 1], H and W multiples of `side_multiple(scale)`.
            refine: As it will be passed to `motion`.
        """
        return PreparedFrames(image.float())

    def motion(
        self,
        frame0: PreparedFrames,
        frame1: PreparedFrames,
        timestep: float | Tensor = 0.5,
        *,
        scale: float = 1.0,
        ensemble: bool = False,
        refine: bool = False,
    ) -> Motion:
        """Estimates the motion to the frame at `timestep`.

        Args:
            frame0: The frames at timestep 0.
            frame1: The frames at timestep 1.
            timestep: In (0, 1), or (B, 1, 1, 1). Networks with a fixed timestep ignore it and give
                the midpoint.
            scale: The resolution of the flow estimate: 0.5 for 4K and large motion, 2 for fine
                detail.
            ensemble: Average the estimates for both orders of the pair.
            refine: Add the refine module's residual.
        """
        raise NotImplementedError

    def forward(
        self, image0: Tensor, image1: Tensor, timestep: float | Tensor = 0.5, **options
    ) -> Tensor:
        """Returns the frame between two images: `prepare`, `motion` and `render` in one call.

        Args:
            image0: (B, C, H, W) in [0, 1], as in `Motion.render`; sides as in `prepare`.
            image1: The second image.
            timestep: As in `motion`, and so are the options.

        Raises:
            NonFiniteError: The network estimated NaN or infinite values.
        """
        refine = options.get("refine", False)
        frame0 = self.prepare(image0[:, :3], refine=refine)
        frame1 = self.prepare(image1[:, :3], refine=refine)
        motion = self.motion(frame0, frame1, timestep, **options)
        self.check_finite(motion)
        return motion.render(image0, image1)

    def check_finite(self, motion: Motion) -> None:
        """Checks motion that this network estimated.

        Raises:
            NonFiniteError: It has NaN or infinite values.
        """
        if not motion.checksum().isfinite().all():
            raise self.non_finite_error()

    def weights_state(self) -> Hashable:
        """Returns a value that changes when weights are replaced, moved or written to.

        Writing to their `.data`, or in inference mode to inference tensors, goes unnoticed: torch
        does not count that.
        """
        return tuple(
            (x.data_ptr(), x.dtype, x.device, None if x.is_inference() else x._version)
            for x in (*self.parameters(), *self.buffers())
        )

    def check_weights(self) -> None:
        """Checks that the conversion to the network's dtype kept all weights finite.

        Raises:
            NonFiniteError: Some weights are too large for the dtype.
        """
        if self.dtype == torch.float32:  # the loader has checked that
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
        """Returns what both sides of a frame must be multiples of, for `motion` at `scale`."""
        # Every block halves its input twice.
        return max(32, 4 * round(max(self.scales) * max(1.0, 1 / scale)))

    def memory_needed(
        self, height: int, width: int, channels: int = 3, *, scale: float = 1.0, refine: bool = True
    ) -> int:
        """Returns the working memory in bytes, besides the weights, that one pair takes at most.

        Args:
            height: The frames', before padding.
            width: The frames', before padding.
            channels: The frames'.
            scale: As in `motion`.
            refine: As in `motion`.
        """
        multiple = self.side_multiple(scale)
        pixels = (height + -height % multiple) * (width + -width % multiple)
        images = 4 * 4 * channels  # both frames, padded, warped and blended, in float32
        needed = pixels * (self.bytes_per_pixel + images)
        if scale > 1:  # the network works on more pixels than the frame has
            needed *= scale**2
        elif scale <= 0.5 and "refine" not in self.built_in:
            needed *= 0.6  # measured at 0.5 and 0.25: 0.4 to 0.58
        return round(needed + pixels * self.refine_bytes_per_pixel * refine)

    def needs_doubled_scales(self, flow: Tensor) -> Tensor:
        """Returns (B,): whether flow to both frames exceeds `doubling_threshold` somewhere.

        Args:
            flow: What block 1 adds to the flow, (B, 4, H, W) in pixels.
        """
        largest = flow.abs().amax((2, 3)).unflatten(1, (2, 2)).amax(2)
        return (largest > self.doubling_threshold).all(1)

    @property
    def blocks(self) -> list[Block]:
        """The blocks that estimate motion, one for each of `scales`."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def estimate_pairs_separately(
    motion: Callable[..., Motion], frames: Sequence[PreparedFrames], times: Tensor, **options
) -> Motion:
    """Calls `Network.motion` once for each pair of a batch.

    Args:
        motion: A network's, or an engine's.
        frames: The first and the second frames.
        times: (B, 1, 1, 1).
        **options: Of `motion`.
    """
    motions = []
    for i in range(len(times)):
        only = slice(i, i + 1)
        pair = (frame.map(itemgetter(only)) for frame in frames)
        motions.append(motion(*pair, times[only], **options))
    return Motion(
        torch.cat([each.flow for each in motions]),
        torch.cat([each.mask for each in motions]),
        None if motions[0].residual is None else torch.cat([each.residual for each in motions]),
    )
