"""IFNet_m: the paper's network for any timestep, told to every block as one more input plane.

Upstream: ECCV2022-RIFE, model/IFNet_m.py.
"""

from typing import ClassVar

import torch
from torch import Tensor

from .IFNet import IFNet


class IFNet_m(IFNet):
    """As IFNet; `timestep` in (0, 1) is where between the two frames the new one lies."""

    version = "RIFEm (paper, any timestep)"
    any_timestep: ClassVar[bool] = True
    extra_planes: ClassVar[int] = 1

    def _plane(self, like: Tensor, timestep: float | Tensor) -> tuple[Tensor, ...]:
        return (torch.ones_like(like[:, :1]) * timestep,)
