"""Ctrl-C and the other polite ways to end a program: what happens then, and when.

Needs no other module, so that it can be at work while torch is imported, which takes seconds.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Ctrl-C, kill, the terminal that is closed, Ctrl-Break; as far as the system has them.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
]


class Interrupted(KeyboardInterrupt):
    """Someone asked the program to end, by a signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number  # as shells have it


def exit_at_once() -> None:
    """From here on a signal ends the program without a word: for when nothing has begun yet."""
    _handle_by(lambda number, _: os._exit(128 + number))


def ignore() -> None:
    """From here on no signal changes what the program says: for when all is done and Python, which
    takes a while, ends."""
    _handle_by(signal.SIG_IGN)


@contextmanager
def raised_once() -> Iterator[Callable[[], None]]:
    """Within the block the first signal raises Interrupted, the second leaves the first one's
    cleaning up in peace, and the third ends the program.

    Yields a function that raises Interrupted if a signal has come: some code drops exceptions that
    are raised within it, such as what runs while objects are freed.
    """
    came: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            raise Interrupted(number)
        if len(came) > 2:
            os._exit(128 + number)
        os.write(2, b"\nCleaning up; once more to end at once.\n")

    def check() -> None:
        if came:
            raise Interrupted(came[0])

    before = _handle_by(handle)
    try:
        yield check
    finally:
        _restore(before)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that come within the block take effect after it."""
    came: list[int] = []
    before = _handle_by(lambda number, _: came.append(number))
    try:
        yield
    finally:
        _restore(before)
        for number in came:
            signal.raise_signal(number)


_Handler = Callable[[int, FrameType | None], object]


def _handle_by(handler: _Handler | int) -> dict[int, _Handler | int]:
    """Returns the handlers that were there. What is ignored stays so: `nohup` and shells, for what
    they run in the background, mean it. Python knows signals in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }


def _restore(handlers: dict[int, _Handler | int]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
