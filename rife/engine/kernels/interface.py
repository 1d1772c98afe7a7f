"""The fused kernels of GPUs: what they compute, in what they are written, and which of them run.

nvrtc_kernels.py has them in CUDA C, triton_kernels.py in Triton. estimation.py is what calls them.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

#: The first of them that can be had and makes the right frames is the one that runs.
NAMES = ("triton", "nvrtc")
#: An environment variable: the only one of `NAMES` to be tried, or "none".
VARIABLE = "RIFE_KERNELS"


@dataclass(frozen=True)
class BlockOutput:
    """What a block puts out: raw (B, C, h, w) channels last, its first planes before a
    PixelShuffle(cell), flow still in pixels of the block; `factor`: how many times larger the
    shuffled planes are made for the frame, and by how much flow grows."""

    raw: Tensor
    cell: int
    factor: int


@dataclass(frozen=True)
class BlockInputLayout:
    """The channels of a block's input, in this order.

    Attributes:
        scale: How many times smaller than the frames it is.
        warped: Whether both frames come as motion moves them.
        still: Whether both frames come as they are.
        time: Channels of the timestep, 0 or 1.
        handed: Channels of what blocks hand over.
        flow: Channels of the flow, 0 or 4.
        size: All channels; those beyond the ones above are zeros.
    """

    scale: int
    warped: bool
    still: bool
    time: int
    handed: int
    flow: int
    size: int


class Kernels(Protocol):
    """What a module of kernels has."""

    def gather_block_input(
        self,
        frames: Tensor,
        indices: tuple[Tensor, Tensor],
        times: Tensor,
        outputs: Sequence[BlockOutput],
        layout: BlockInputLayout,
        *,
        adds: bool,
    ) -> Tensor:
        """Returns a block's input, (B, layout.size, h, w) channels last, of the frames' dtype.

        Args:
            frames: (N, c, H, W) channels last, c a power of two.
            indices: (B,) int64 each: which of them are the first and the second frame.
            times: (B,) float32.
            outputs: Of the blocks before.
            adds: Masks are added up; else the last block's counts.
        """

    def render_frames(
        self,
        images: Tensor,
        indices: tuple[Tensor, Tensor],
        outputs: Sequence[BlockOutput],
        size: tuple[int, int],
        *,
        adds: bool,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Returns the frames, (B, h, w, C), of the images' dtype, as Motion.render makes them.

        Args:
            images: (N, h, w, C), bytes or floats in [0, 1].
            size: Height and width of the motion, at least the images'.
            residual: (B, 3, height, width) float32.
        """

    def full_size_motion(
        self, outputs: Sequence[BlockOutput], size: tuple[int, int], *, adds: bool
    ) -> Tensor:
        """Returns flow in pixels and the mask before its sigmoid, (B, 5, height, width) float32."""

    def finish_convolution(
        self, y: Tensor, bias: Tensor, slopes: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        """fuse.Activate: does what follows a convolution in one pass, in place where `y` allows it.

        Args:
            y, residual: (B, C, h, w).
            bias, slopes: (C,).
        """

    #: (prepared, images, source, features, target): writes an image, (N, h, w, 1, 3 or 4), and its
    #: features, (1, C, H, W), as one of the prepared frames, (M, C', H, W) channels last, filled up
    #: with zeros. source, target: (1,) int64, which of them. None: plain torch does that.
    prepare_frame: Callable[..., None] | None
    #: (y, bias, cell) -> (B, P, cell * h, cell * w) channels last: what follows a block's last
    #: convolution, (B, C, h, w): its bias and PixelShuffle(cell), and planes of zeros. None:
    #: blocks' outputs stay as convolutions leave them.
    pack_block_output: Callable[[Tensor, Tensor, int], Tensor] | None

    def precompile(self) -> AbstractContextManager:
        """Within it, what the functions return may be arbitrary. After it, all kernels that were
        called are compiled, several at a time where that can be done."""


def names_to_try() -> tuple[str, ...]:
    """The kernels to try, the best first."""
    choice = os.environ.get(VARIABLE)
    if not choice:
        return NAMES
    if choice not in (*NAMES, "none"):
        raise ValueError(f"{VARIABLE} is {choice!r}, not one of {', '.join(NAMES)} or none")
    return () if choice == "none" else (choice,)


def load_kernels(name: str) -> Kernels:
    """Imports one of `NAMES`.

    Raises:
        ImportError: It can't be had here.
    """
    return importlib.import_module(f".{name}_kernels", __package__)
