"""What a terminal shows: lines of text and a bar, whatever is in names, and whoever has stopped
reading."""

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

# Control characters, ends of lines and paragraphs, changes of direction, bytes that are no text.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 2000


def printable(text: str) -> str:
    """`text` on one line, with what a terminal would act on spelled out, and of bounded length."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class SteadyStream:
    """A text stream, but that writing never fails: where nobody reads any more (`| head`) or the
    disk is full, what is written goes nowhere.

    Attributes:
        failure: why, from then on.
    """

    def __init__(self, stream: TextIO | None):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # also names that it has no letters for
        self._stream = io.StringIO() if stream is None else stream
        self.failure: Exception | None = None

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._giving_up():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._giving_up():
            self._stream.flush()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.failure = error
            # What is still in the stream's buffer must not fail once more when Python ends.
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextmanager
def steady_console() -> Iterator[None]:
    """Within the block standard output and error are SteadyStreams, and the log goes to the latter,
    a line each."""
    log = logging.getLogger()
    level = log.level
    with ExitStack() as stack:
        for redirect, stream in (redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr):
            steady = SteadyStream(stream)
            stack.enter_context(redirect(steady))
            stack.callback(steady.flush)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_OneLine("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def print_error(text: str) -> None:
    """Print a line on standard error."""
    print(printable(text), file=sys.stderr)


@contextmanager
def progress_bar(name: str, **settings) -> Iterator[Callable[..., None]]:
    """A bar, and the callback (done, total or None, anything more) that moves it; lines of the log
    go above it. Where the block ends well, so does the bar: what was done is the total then."""
    # Where lines stay, one in ten seconds is enough.
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
        """Make room for a line: what is no terminal can't forget the bar."""
        if sys.stderr.isatty():
            super().clear(nolock)
        else:
            self.fp.write("\n")
