"""Threads that take whole frames, one core each: many frames at once, not each by a team.

A team of threads takes longer to wake than most work on a frame takes one core.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")
T = TypeVar("T")

#: Beyond it memory, not cores, limits copies of frames.
MOST_WORKERS = 8
#: Frames in work at once: as many, and of that many bytes, of 16 bits a value; but two at least.
MOST_AHEAD, BYTES_AHEAD = 8, 48 << 20


def one_core_threads(count: int, name: str) -> ThreadPoolExecutor:
    """`count` threads, in each of which torch computes with one core."""
    before = torch.get_num_threads()
    started = threading.Barrier(count + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread sets what the others have
        torch.set_num_threads(1)
        started.wait()

    threads = ThreadPoolExecutor(count, name)
    for _ in range(count):
        threads.submit(start)
    started.wait()
    torch.set_num_threads(before)  # threads that others start take over what was set last
    return threads


@lru_cache
def workers() -> ThreadPoolExecutor:
    """The threads for work on frames, of all runs."""
    return one_core_threads(min(MOST_WORKERS, torch.get_num_threads()), "frame worker")


def submit(function: Callable[..., T], *args: Any) -> "Future[T]":
    """Have a worker call `function`."""
    return workers().submit(function, *args)


def frames_ahead(frame: Tensor) -> int:
    """How many frames like `frame` are worked on at once, so that they don't fill the memory."""
    return max(2, min(MOST_AHEAD, BYTES_AHEAD // (2 * frame.numel())))


def map_ahead(
    function: Callable[[S], T], items: Iterable[S], ahead: Callable[[S], int]
) -> Generator[T, None, None]:
    """As `map`, by the workers: up to `ahead(item)` calls have begun beyond the one yielded.

    What fails is raised in its turn. Once closed, no call is under way any more.
    """
    pending: deque[Future[T]] = deque()
    items, failure = iter(items), None
    try:
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            pending.append(submit(function, item))
            if len(pending) > ahead(item):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        failure = None
        finish(pending)


def finish(pending: Iterable[Future[Any]]) -> None:
    """Wait until none of the calls is under way; what has not begun is left out."""
    wait([call for call in pending if not call.cancel()])
