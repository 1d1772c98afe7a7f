"""Threads that work on whole frames, each on one core.

Many frames at once, a core each, take less time than one frame after the other by a team of
threads: a team takes longer to wake than a core takes for most work on a frame.
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

#: With more threads memory, not cores, limits how fast frames are copied.
MOST_WORKERS = 8
#: Frames in work at once: so many, or as many as take so many bytes at 16 bits a value; at least 2.
MOST_AHEAD, BYTES_AHEAD = 8, 48 << 20
#: Items that `call_ahead` has ready.
ITEMS_AHEAD = 2


def start_one_core_threads(count: int, name: str) -> ThreadPoolExecutor:
    """Starts `count` threads, in each of which torch computes on one core."""
    before = torch.get_num_threads()
    started = threading.Barrier(count + 1)

    def initialize() -> None:
        torch.get_num_threads()  # the first call in a thread sets what the others have
        torch.set_num_threads(1)
        started.wait()

    threads = ThreadPoolExecutor(count, name)
    for _ in range(count):
        threads.submit(initialize)
    started.wait()
    torch.set_num_threads(before)  # threads that others start inherit what was set last
    return threads


@lru_cache
def frame_workers() -> ThreadPoolExecutor:
    """The threads for work on frames, of all runs in this process."""
    return start_one_core_threads(min(MOST_WORKERS, torch.get_num_threads()), "frame worker")


def submit(function: Callable[..., T], *args: Any) -> "Future[T]":
    """Has a frame worker call `function`."""
    return frame_workers().submit(function, *args)


def frames_ahead(frame: Tensor) -> int:
    """How many frames like `frame`, (H, W, C), are worked on at once without filling the memory."""
    return max(2, min(MOST_AHEAD, BYTES_AHEAD // (2 * frame.numel())))


def map_ahead(
    function: Callable[[S], T], items: Iterable[S], ahead: Callable[[S], int]
) -> Generator[T, None, None]:
    """As `map`, by the frame workers.

    Args:
        function: Called with each item.
        items: Iterated over by the caller's thread.
        ahead: Of an item, how many calls may have begun beyond the one whose result is yielded.

    Yields:
        The results, in order. An error is raised where the result would have been. Once the
        generator is closed, no call is under way any more.
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
        cancel_or_wait(pending)


def call_ahead(function: Callable[[], T | None]) -> Generator[T, None, None]:
    """Calls `function` in a thread of its own until it returns None, a few calls ahead.

    The thread is in inference mode if the caller is.

    Yields:
        The results, in order. Closing the generator waits for the call that is under way.
    """
    inference = torch.is_inference_mode_enabled()

    def call() -> T | None:
        with torch.inference_mode(inference):
            return function()

    thread = start_one_core_threads(1, "frames")
    try:
        pending = deque(thread.submit(call) for _ in range(ITEMS_AHEAD))
        while (item := pending.popleft().result()) is not None:
            pending.append(thread.submit(call))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def cancel_or_wait(calls: Iterable[Future[Any]]) -> None:
    """Cancels the calls that have not begun, and waits for those that have."""
    wait([call for call in calls if not call.cancel()])
