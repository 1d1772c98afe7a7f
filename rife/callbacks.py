"""How callers follow long work of any kind, and stop it."""

from collections.abc import Callable

from torch import Tensor

#: Called as (done, total, image) with each frame, (H, W, C), when `done` of `total` are finished;
#: `total` is None where the number of frames is not known beforehand.
Progress = Callable[[int, int | None, Tensor], None]

#: Called now and then; returning True stops the work, and so does an exception of its own.
Cancel = Callable[[], bool | None]


class Cancelled(Exception):
    """The cancel callback asked to stop."""


def stop_if_cancelled(cancel: Cancel | None) -> None:
    """Raises Cancelled if the callback asks to stop."""
    if cancel and cancel():
        raise Cancelled("interpolation was cancelled")
