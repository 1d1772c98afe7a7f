"""IFNet_2R: the paper's network at twice the resolution, sharper and about four times slower.

Upstream: ECCV2022-RIFE, model/IFNet_2R.py. Its checkpoints look exactly like IFNet's.
"""

from typing import ClassVar

from .IFNet import IFBlock, IFNet


class IFBlock_2R(IFBlock):
    """An IFBlock whose first convolution keeps the resolution."""

    first_stride: ClassVar[int] = 1


class IFNet_2R(IFNet):
    """As IFNet, every block and the refine module at twice the resolution."""

    version = "RIFE 2R (paper, twice the resolution)"
    bytes_per_pixel = 2200
    block: ClassVar[type[IFBlock]] = IFBlock_2R
