"""Text and progress bars on a terminal.

Control characters in file names can't garble them, and a closed output can't end the program.
"""

import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

# Control characters, line and paragraph separators, changes of the writing direction, surrogates.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MAX_LENGTH = 2000


def printable(text: str) -> str:
    """Returns the text fit for a terminal: on one line, escaped, and shortened if very long."""
    if len(text) > _MAX_LENGTH:
        text = f"{text[: _MAX_LENGTH // 2]} ... {text[-_MAX_LENGTH // 2 :]}"
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class UnfailingStream:
    """A text stream whose writes never fail.

    Once the stream below is closed, its reader is gone (`| head`) or its disk is full, the text is
    dropped.

    Attributes:
        failure: The error from the stream below, or None.
    """

    def __init__(self, stream: TextIO | None):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # its encoding may lack letters
        self._stream = io.StringIO() if stream is None else stream
        self.failure: Exception | None = None

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._drop_on_error():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._drop_on_error():
            self._stream.flush()

    @contextmanager
    def _drop_on_error(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.failure = error
            # Python flushes the stream's buffer when it ends; that must not fail, too.
            with suppress(OSError, ValueError):
                devnull = os.open(os.devnull, os.O_WRONLY)
                os.dup2(devnull, self._stream.fileno())
                os.close(devnull)


@contextmanager
def unfailing_console() -> Iterator[None]:
    """Within the block, standard output and error are UnfailingStreams, and log messages go to
    standard error, a line each."""
    log = logging.getLogger()
    level = log.level
    with ExitStack() as stack:
        for redirect, stream in (redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr):
            unfailing = UnfailingStream(stream)
            stack.enter_context(redirect(unfailing))
            stack.callback(unfailing.flush)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_OneLineFormatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def print_error(text: str) -> None:
    """Prints a line on standard error."""
    print(printable(text), file=sys.stderr)


@contextmanager
def progress_bar(name: str, **settings) -> Iterator[Callable[..., None]]:
    """Shows a progress bar, with log messages above it.

    Args:
        name: What it is shown for.
        settings: Arguments of tqdm, such as `unit`.

    Yields:
        A callback to move the bar: (done, total or None, anything else). If the block succeeds, the
        bar ends full, whatever the last total was.
    """
    # Where the bar is no line that changes, but a new line each time, it is shown more rarely.
    interval = 0.1 if sys.stderr.isatty() else 10
    with (
        _Bar(desc=printable(name), dynamic_ncols=True, mininterval=interval, **settings) as bar,
        logging_redirect_tqdm(tqdm_class=_Bar),
    ):

        def report(done: int, total: int | None, *_: object) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
        bar.total = bar.n


class _Bar(tqdm):
    def clear(self, nolock: bool = False) -> None:
        """Makes room for a log message; a file can't erase the bar, so a new line begins."""
        if sys.stderr.isatty():
            super().clear(nolock)
        else:
            self.fp.write("\n")
