"""Numbers that are NaN or infinite: how to notice them, and the error that says where they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """A network's weights, or a frame it produced, have NaN or infinite values.

    Args:
        version: The network's, for people ("RIFE v4.6").
        dtype: The dtype the network runs in.
        what: The fault, to follow the network's name in the message.
    """

    def __init__(self, version: str, dtype: torch.dtype, what: str):
        super().__init__(f"{version} in {dtype_name(dtype)} {what}: {advice_on_range(dtype)}")
        self.version, self.dtype, self.what = version, dtype, what


def dtype_name(dtype: torch.dtype) -> str:
    """The dtype as people write it, such as "float16"."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def at_input_frame(index: int, timestep: Fraction) -> Iterator[None]:
    """Adds the place in the clip to the message of a NonFiniteError raised inside the context.

    Args:
        index: The input frame before the place.
        timestep: Where the place lies between that frame and the next, in (0, 1).
    """
    try:
        yield
    except NonFiniteError as error:
        share = f"{float(timestep):.3g}"
        place = f"{error.what} at {share} of the way from input frame {index} to the next"
        raise NonFiniteError(error.version, error.dtype, place) from None


def advice_on_range(dtype: torch.dtype) -> str:
    """What people can do where numbers are too large for a dtype."""
    if dtype == torch.float32:
        return "the model file is damaged or altered; get it again, or choose another model"
    return 'use float32 ("precision" on Load RIFE Model, --dtype float32 on the command line)'


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor has neither NaN nor infinity."""
    if not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:  # torch has no aminmax for 8-bit floats
        tensor = tensor.float()
    return all(bool(bound.isfinite()) for bound in tensor.aminmax())
