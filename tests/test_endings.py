"""However a run from file to file ends, on a device that reads frames ahead in a thread: one thread
at a time touches a container, and once the run is over, none does."""

import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from itertools import count, groupby

import av
import pytest

from rife import Options, interpolate, interpolate_file
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4, Parameters

from .support.clips import write_clip
from .support.late_device import late
from .support.seeded import seeded_clip, seeded_state

FRAMES = 12


class Failure(Exception):
    """What the caller's own code raises."""


class Calls(list):
    """What was done with containers: (name, thread, alone in the container, container's number).

    fails: what raises Failure, and at which call from now on, if it is one of a container.
    """

    fails = None, 0

    def countdown(self, name):
        """Note that `name` happens; raises Failure where it is to fail."""
        kind, left = self.fails
        if kind == name:
            self.fails = kind, left - 1
            if left <= 1:
                raise Failure


class Watched:
    """A container of PyAV that tells who calls it, and whether others are in it."""

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
        alone = self._inside.acquire(blocking=False)
        self._calls.append((name, threading.get_ident(), alone, self._number))
        try:
            self._calls.countdown(name)
            time.sleep(0.001)  # long enough for another thread to be in it, too
            yield
        finally:
            if alone:
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
    calls, opened = Calls(), av.open
    monkeypatch.setattr(av, "open", lambda *args, **kw: Watched(opened(*args, **kw), calls))
    return calls


def check(calls):
    for container in {call[3] for call in calls}:
        own = [call for call in calls if call[3] == container]
        names = [name for name, *_ in own]
        assert all(alone for _, _, alone, _ in own), "two threads in one container"
        assert names.count("close") == 1, "left open, or closed twice"
        assert names[-1] == "close", f"{names[-1]} after it was closed"
        turns = [key for key, _ in groupby(thread for name, thread, *_ in own if name != "close")]
        assert len(turns) <= 2, "a container that goes to and fro between threads"
    frames = threading.main_thread().ident
    assert {thread for name, thread, *_ in calls if name == "mux"} <= {frames}


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("frames")]


def test_frames_are_read_in_a_thread_and_sound_is_written_in_the_callers(
    model, clip, tmp_path, calls
):
    with late():
        interpolate_file(model, clip, tmp_path / "out.mp4")
    check(calls)
    readers = {thread for name, thread, *_ in calls if name == "demux"}
    assert readers - {threading.main_thread().ident}, "nothing was read ahead"
    assert not threads()
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert sum(1 for packet in out.demux(out.streams.audio[0]) if packet.size) > FRAMES


WAYS = ("progress", "cancel", "mux", "demux")


@pytest.mark.parametrize("runs", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_after_a_failure_nothing_is_read_or_written(model, clip, tmp_path, calls, runs):
    chance = random.Random(runs)
    ended = Counter()
    for number in range(runs):
        calls.clear()
        cause = WAYS[number % len(WAYS)]
        calls.fails = cause, chance.randint(1, FRAMES)
        with late(number), pytest.raises(Failure) as kept:
            interpolate_file(
                model,
                clip,
                tmp_path / "out.mp4",
                progress=lambda *_: calls.countdown("progress"),
                cancel=lambda: calls.countdown("cancel"),
            )
        ended[cause] += 1
        assert kept.tb and not threads(), cause  # it holds all that the run had not let go
        over = len(calls)
        time.sleep(0.005)
        assert len(calls) == over, f"{cause}: {calls[over:]}"
        check(calls)
        assert not list(tmp_path.iterdir()), cause
    assert set(ended) == set(WAYS)


def test_the_devices_memory_is_given_back_before_the_caller_hears_of_a_failure(model):
    with late() as device, pytest.raises(Failure) as kept:

        def fail(done, total, frame):
            if done == 5:
                raise Failure

        interpolate(model, seeded_clip(8, 40, 70), options=Options(cuts="ignore"), progress=fail)
    assert kept.tb  # holds the frames of every function, and what lives in them
    assert device.synchronized
    assert not threads()
