"""Calls in several threads: results in order, errors in their turn, nothing after closing."""

import sys
import threading
import time
from contextlib import closing

import pytest
import torch

from rife import OutputFrame
from rife.inference.threads import (
    MOST_AHEAD,
    frame_workers,
    frames_ahead,
    map_ahead,
    start_one_core_threads,
)

loop = sys.modules["rife.interpolate"]  # whose name in the package is its function's


@pytest.fixture(autouse=True)
def four_workers(monkeypatch):
    with start_one_core_threads(4, "test") as threads:
        monkeypatch.setattr("rife.inference.threads.frame_workers", lambda: threads)
        yield


def test_each_thread_has_one_core_and_all_others_what_they_had():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with start_one_core_threads(3, "test") as threads:
            assert list(threads.map(lambda _: torch.get_num_threads(), range(8))) == [1] * 8
        assert torch.get_num_threads() == 2
        counts = []
        other = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert counts == [2]
    finally:
        torch.set_num_threads(before)
    assert frame_workers() is frame_workers()


def test_the_larger_frames_are_the_fewer_are_in_work():
    sizes = (480, 720), (1080, 1920), (2160, 3840), (4320, 7680)
    assert [frames_ahead(torch.empty(*size, 3, device="meta")) for size in sizes] == [8, 4, 2, 2]
    assert frames_ahead(torch.empty(1, 1, 1)) == MOST_AHEAD


def test_results_come_in_order_some_calls_ahead():
    begun = []

    def slow(x):
        begun.append(x)
        time.sleep(0.02 * (x % 3))
        return -x

    results = map_ahead(slow, iter(range(20)), lambda item: 3)
    assert next(results) == 0
    assert max(begun) <= 3
    assert list(results) == [-x for x in range(1, 20)]


def test_errors_come_in_their_turn():
    def broken():
        yield from (1, 2, 3)
        raise ValueError("no more")

    results = map_ahead(lambda x: x, broken(), lambda item: 8)
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ValueError, match="no more"):
        next(results)
    results = map_ahead(lambda x: 1 / x, [2, 1, 0, 1], lambda item: 8)
    assert [next(results) for _ in range(2)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_nothing_is_called_once_it_is_closed():
    over, late = False, []

    def slow(x):
        time.sleep(0.02)
        late.append(over)

    with closing(map_ahead(slow, range(100), lambda item: 8)) as results:
        next(results)
    over = True
    time.sleep(0.1)
    assert late and not any(late)


def shown(count):
    for i in range(count):
        yield OutputFrame(torch.full((4, 5, 3), float(i)), i, 1)


@pytest.mark.parametrize("in_threads", [True, False])
@pytest.mark.parametrize("inference", [True, False])
def test_frames_are_written_to_their_places_and_come_in_order(in_threads, inference):
    with torch.inference_mode(inference):
        out = torch.full((30, 4, 5, 3), -1, dtype=torch.float64)
    written = list(loop._write_to(out, shown(30), in_threads))
    assert [frame.time for frame in written] == list(range(30))
    assert torch.equal(out[:, 0, 0, 0], torch.arange(30.0).double())
    assert [frame.image.data_ptr() for frame in written] == [place.data_ptr() for place in out]


def test_nobody_writes_once_it_is_closed(monkeypatch):
    out, closed = torch.zeros(30, 4, 5, 3), []

    def slow(source, target):
        time.sleep(0.02)
        closed.append(stream.gi_frame is None)

    monkeypatch.setattr(loop, "_copy", slow)
    frames = shown(30)
    stream = loop._write_to(out, frames, in_threads=True)
    with closing(stream):
        next(stream)
    written = len(closed)
    time.sleep(0.1)
    assert len(closed) == written
    assert frames.gi_frame is None
