"""However a run from file to file ends, on a device for which a thread reads frames ahead: only one
thread at a time uses a container, and after the run none does."""

import random
import threading
import time
from contextlib import contextmanager
from itertools import count, groupby
from typing import NamedTuple

import av
import pytest

from rife import Options, interpolate, interpolate_file
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4, Parameters

from .support.clips import write_clip
from .support.late_device import late
from .support.seeded import seeded_clip, seeded_state

FRAMES = 12


class Failure(Exception):
    """An error of the caller's own code."""


class Call(NamedTuple):
    """A call of a container's method; is_alone: no other thread was in that container."""

    name: str
    thread: int
    is_alone: bool
    container: int


class Calls(list):
    """The calls of all containers.

    Attributes:
        failing: The name of a call that raises Failure.
        calls_left: How many of these calls are left before it does.
    """

    failing, calls_left = None, 0

    def count_down(self, name):
        if name == self.failing:
            self.calls_left -= 1
            if self.calls_left <= 0:
                raise Failure


class WatchedContainer:
    """A container of PyAV that records its calls."""

    numbers = count()

    def __init__(self, container, calls):
        self._container, self._calls, self._number = container, calls, next(self.numbers)
        self._inside = threading.Lock()

    def __getattr__(self, name):
        return getattr(self._container, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @contextmanager
    def _call(self, name):
        is_alone = self._inside.acquire(blocking=False)
        self._calls.append(Call(name, threading.get_ident(), is_alone, self._number))
        try:
            self._calls.count_down(name)
            time.sleep(0.001)  # long enough for another thread to enter it
            yield
        finally:
            if is_alone:
                self._inside.release()

    def demux(self, *streams):
        packets = self._container.demux(*streams)
        while True:
            with self._call("demux"):
                packet = next(packets, None)
            if packet is None:
                return
            yield packet

    def mux(self, packets):
        with self._call("mux"):
            self._container.mux(packets)

    def close(self):
        with self._call("close"):
            self._container.close()


@pytest.fixture(scope="module")
def model():
    network = IFNet_v4(Parameters((8, 8, 8, 8), planes=13, head=VERSIONS["v4.25 - v4.26"].head))
    network.eval().load_state_dict(seeded_state(network))
    return network


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(
        tmp_path_factory.mktemp("clip") / "in.mp4", count=FRAMES, size=(64, 48), audio="aac"
    )


@pytest.fixture
def calls(monkeypatch):
    calls, open_container = Calls(), av.open

    def open_watched(*args, **options):
        return WatchedContainer(open_container(*args, **options), calls)

    monkeypatch.setattr(av, "open", open_watched)
    return calls


def check_calls(calls):
    for container in {call.container for call in calls}:
        own_calls = [call for call in calls if call.container == container]
        names = [call.name for call in own_calls]
        assert all(call.is_alone for call in own_calls), "two threads in one container"
        assert names.count("close") == 1, "left open, or closed twice"
        assert names[-1] == "close", f"{names[-1]} after it was closed"
        turns = [key for key, _ in groupby(c.thread for c in own_calls if c.name != "close")]
        assert len(turns) <= 2, "a container that goes to and fro between threads"
    assert {call.thread for call in calls if call.name == "mux"} <= {threading.main_thread().ident}


def reader_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("frames")]


def test_frames_are_read_in_a_thread_and_sound_is_written_in_the_callers(
    model, clip, tmp_path, calls
):
    with late():
        interpolate_file(model, clip, tmp_path / "out.mp4")
    check_calls(calls)
    readers = {call.thread for call in calls if call.name == "demux"}
    assert readers - {threading.main_thread().ident}, "nothing was read ahead"
    assert not reader_threads()
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert sum(1 for packet in out.demux(out.streams.audio[0]) if packet.size) > FRAMES


FAILING_CALLS = ("progress", "cancel", "mux", "demux")


@pytest.mark.parametrize("runs", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_after_a_failure_nothing_is_read_or_written(model, clip, tmp_path, calls, runs):
    rng = random.Random(runs)
    for number in range(runs):
        calls.clear()
        failing = FAILING_CALLS[number % len(FAILING_CALLS)]
        calls.failing, calls.calls_left = failing, rng.randint(1, FRAMES)
        with late(number), pytest.raises(Failure) as caught:
            interpolate_file(
                model,
                clip,
                tmp_path / "out.mp4",
                progress=lambda *_: calls.count_down("progress"),
                cancel=lambda: calls.count_down("cancel"),
            )
        # The traceback keeps alive whatever the run had not released.
        assert caught.tb and not reader_threads(), failing
        calls_by_then = len(calls)
        time.sleep(0.005)
        assert len(calls) == calls_by_then, f"{failing}: {calls[calls_by_then:]}"
        check_calls(calls)
        assert not list(tmp_path.iterdir()), failing


def test_the_devices_memory_is_freed_before_the_caller_gets_the_error(model):
    with late() as device, pytest.raises(Failure) as caught:

        def fail(done, total, frame):
            if done == 5:
                raise Failure

        interpolate(model, seeded_clip(8, 40, 70), options=Options(cuts="ignore"), progress=fail)
    assert caught.tb  # keeps every function's variables alive
    assert device.synchronized
    assert not reader_threads()
