"""What GPU kernels compute for an engine, and which kinds of them there are.

nvrtc_kernels.py has them in CUDA C, triton_kernels.py in Triton; estimation.py calls them.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

#: The kinds of kernels. The first that can run here and makes the right frames is used.
NAMES = ("triton", "nvrtc")
#: An environment variable: the only one of `NAMES` to try, or "none".
VARIABLE = "RIFE_KERNELS"


@dataclass(frozen=True)
class RawBlockOutput:
    """A block's output as its last layer gives it.

    Attributes:
        planes: (B, C, h, w) channels last, before a PixelShuffle(`shuffle`). Once shuffled, the
            first ones are flow (4 planes, in pixels of the block), the mask before its sigmoid, and
            features for the next block.
        shuffle: 1 if there is no PixelShuffle to be done.
        factor: How many times smaller than the frame the shuffled planes are; flow in pixels of
            the frame is so many times larger.
    """

    planes: Tensor
    shuffle: int
    factor: int


@dataclass(frozen=True)
class BlockInputLayout:
    """The channels of a block's input, in this order.

    Attributes:
        scale: How many times smaller than the frames the input is.
        warped: Whether it has both frames, with their features, warped by the flow so far.
        unwarped: Whether it has both frames as they are.
        time: Channels of the timestep, 0 or 1.
        mask_and_features: Channels of what blocks pass on to the next.
        flow: Channels of the flow, 0 or 4.
        channels: All channels; those beyond the ones above are zeros.
    """

    scale: int
    warped: bool
    unwarped: bool
    time: int
    mask_and_features: int
    flow: int
    channels: int


class Kernels(Protocol):
    """What a module of kernels has."""

    def gather_block_input(
        self,
        frames: Tensor,
        indices: tuple[Tensor, Tensor],
        times: Tensor,
        outputs: Sequence[RawBlockOutput],
        layout: BlockInputLayout,
        *,
        adds_masks: bool,
    ) -> Tensor:
        """Gathers a block's input.

        Args:
            frames: (N, c, H, W) channels last, c a power of two.
            indices: (B,) int64 each: which of them are the first and the second frames.
            times: (B,) float32, the timesteps.
            outputs: Of the blocks before.
            layout: Of the input.
            adds_masks: Whether masks are added up, or only the last block's counts.

        Returns:
            (B, layout.channels, H / scale, W / scale) channels last, of the frames' dtype.
        """

    def render_frames(
        self,
        images: Tensor,
        indices: tuple[Tensor, Tensor],
        outputs: Sequence[RawBlockOutput],
        size: tuple[int, int],
        *,
        adds_masks: bool,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Renders the frames in between, as Motion.render does.

        Args:
            images: (N, h, w, C), bytes or floats in [0, 1].
            indices: (B,) int64 each: which of them are the first and the second frames.
            outputs: Of all blocks.
            size: Height and width of the motion, at least the images'.
            adds_masks: As in `gather_block_input`.
            residual: (B, 3, height, width) float32.

        Returns:
            (B, h, w, C), of the images' dtype.
        """

    def full_size_motion(
        self, outputs: Sequence[RawBlockOutput], size: tuple[int, int], *, adds_masks: bool
    ) -> Tensor:
        """Returns (B, 5, height, width) float32: flow in pixels and the mask before its sigmoid.

        The arguments are those of `render_frames`.
        """

    def finish_convolution(
        self, y: Tensor, bias: Tensor, slopes: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        """Does what follows a convolution in one pass, in place where the layout of `y` allows it.

        Args:
            y: The convolution's output, (B, C, h, w).
            bias: (C,).
            slopes: (C,), the activation's slope of each channel below zero, if there is one.
            residual: (B, C, h, w), added before the activation.
        """

    #: prepare_frame(prepared, images, source, features, target) writes an image, of (N, h, w, 1, 3
    #: or 4), and its features, (1, C, H, W), as one of the prepared frames, (M, C', H, W) channels
    #: last, and fills them up with zeros. source and target, (1,) int64, say which of them. None:
    #: plain torch does that.
    prepare_frame: Callable[..., None] | None
    #: pack_block_output(y, bias, shuffle) does what follows a block's last convolution, (B, C, h,
    #: w): adds the bias, does a PixelShuffle(shuffle) and adds planes of zeros. Returns (B, P,
    #: shuffle * h, shuffle * w) channels last. None: outputs stay as convolutions give them.
    pack_block_output: Callable[[Tensor, Tensor, int], Tensor] | None

    def precompile(self) -> AbstractContextManager:
        """Returns a context in which the functions above are called without being needed: they may
        return anything. At its end all kernels that were called are compiled, several at a time
        where that is possible."""


def names_to_try() -> tuple[str, ...]:
    """Returns the kinds of kernels to try, the best first, as the user's environment says.

    Raises:
        ValueError: The environment variable has a value that is none.
    """
    choice = os.environ.get(VARIABLE)
    if not choice:
        return NAMES
    if choice not in (*NAMES, "none"):
        raise ValueError(f"{VARIABLE} is {choice!r}, not one of {', '.join(NAMES)} or none")
    return () if choice == "none" else (choice,)


def load_kernels(name: str) -> Kernels:
    """Imports the kernels of one of `NAMES`.

    Raises:
        ImportError: They can't run here.
    """
    return importlib.import_module(f".{name}_kernels", __package__)
