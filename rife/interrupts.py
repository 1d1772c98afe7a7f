"""What signals that ask the program to end do: Ctrl-C, a kill, a terminal that is closed.

Imports nothing heavy, so that it works while torch is imported, which takes seconds.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Ctrl-C, `kill`, a closed terminal and Ctrl-Break, those of them that this system has.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
]


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end.

    Attributes:
        exit_status: The status to exit with, by the shells' convention.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


def exit_on_signals() -> None:
    """Makes signals end the program at once and silently, for while it is still starting."""
    _set_handlers(lambda number, _: os._exit(128 + number))


def ignore_signals() -> None:
    """Makes the program ignore signals, for when its work is done and Python is shutting down.

    A signal would change the exit status then.
    """
    _set_handlers(signal.SIG_IGN)


@contextmanager
def raise_on_signal() -> Iterator[Callable[[], None]]:
    """Within the block, the first signal raises Interrupted.

    The second prints that the first is being handled, and the third ends the program.

    Yields:
        A function that raises Interrupted if there was a signal. Python drops exceptions in some
        places, such as finalizers, and long work calls this to notice a signal all the same.
    """
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise Interrupted(number)
        if len(received) > 2:
            os._exit(128 + number)
        os.write(2, b"\nCleaning up; once more to end at once.\n")

    def raise_if_received() -> None:
        if received:
            raise Interrupted(received[0])

    previous = _set_handlers(handle)
    try:
        yield raise_if_received
    finally:
        _restore_handlers(previous)


@contextmanager
def delay_signals() -> Iterator[None]:
    """Signals that arrive within the block take effect after it."""
    received: list[int] = []
    previous = _set_handlers(lambda number, _: received.append(number))
    try:
        yield
    finally:
        _restore_handlers(previous)
        for number in received:
            signal.raise_signal(number)


_Handler = Callable[[int, FrameType | None], object]


def _set_handlers(handler: _Handler | int) -> dict[int, _Handler | int]:
    """Sets the handler of all SIGNALS and returns those that it replaces.

    Ignored signals stay ignored: `nohup`, and shells that run something in the background, rely on
    that. In threads other than the main one this does nothing, as Python allows it only there.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }


def _restore_handlers(handlers: dict[int, _Handler | int]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
