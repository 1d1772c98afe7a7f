"""How callers stop long work, of any kind."""

from collections.abc import Callable

#: Called now and then; returning True stops the work, and so does an exception of its own.
Cancel = Callable[[], bool | None]


class Cancelled(Exception):
    """The cancel callback asked to stop."""


def stop_if_cancelled(cancel: Cancel | None) -> None:
    """Raise Cancelled if the callback asks to stop."""
    if cancel and cancel():
        raise Cancelled("interpolation was cancelled")
