"""cuda_backend.Device on the CPU, for tests: real work on real tensors, but each stream does what
it is given as late as events allow, in an odd order, and graphs are what they are on a GPU."""

import random
import threading
from collections import deque
from contextlib import contextmanager

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from rife.inference import cuda_backend
from rife.inference.cuda_backend import found_ahead

#: What makes the CPU wait for the device.
WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")


class NothingWaits(TorchDispatchMode):
    """Raises where the CPU would wait for the device, as CUDA does while a graph is captured."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        brings = name == "lift_fresh" and args[0].numel() > 1  # the CPU's numbers
        if name in WAITS or brings:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        return function(*args, **(kwargs or {}))


class Event:
    def __init__(self):
        self.done = False


class LateDevice:
    """seed: of the order. reason: why the first capture fails. late: False, if all is done at once,
    so that errors come where they do on a GPU. captured, replays, synchronized, emptied: how
    often."""

    device = torch.device("cpu")
    total_memory = 1 << 34
    reserved_memory = 0

    def __init__(self, seed=0, reason=None, late=True):
        self.compute, self.uploads, self.downloads = deque(), deque(), deque()
        self._random, self._reason, self._late = random.Random(seed), reason, late
        self.captured = self.replays = self.synchronized = self.emptied = 0
        self._memory, self._lock = [], threading.Lock()

    def on(self, stream, work):
        stream.append(work)
        for _ in range(self._random.choice([0, 0, 0, 1, 5]) if self._late else 10):
            self._step()

    def mark(self, stream):
        event = Event()
        stream.append(lambda: setattr(event, "done", True))
        return event

    def wait(self, stream, event):
        stream.append(event)

    def finish(self, event):
        while not event.done:
            assert self._step(), "the CPU waits for what never comes"

    def empty(self, size, dtype):
        tensor = torch.full(tuple(size), 77, dtype=dtype)
        with self._lock:
            self._memory.append(StorageWeakRef(tensor.untyped_storage()))
        return tensor

    def holds(self, tensor):
        with self._lock:
            self._memory = [mine for mine in self._memory if not mine.expired()]
            return StorageWeakRef(tensor.untyped_storage()) in self._memory

    def lend(self, tensor, stream):
        assert tensor is not None

    def staging(self, size, dtype):
        return torch.full(tuple(size), 77, dtype=dtype)

    def capture(self, work):
        if self._reason:
            reason, self._reason = self._reason, None
            raise reason
        with NothingWaits():
            made = work()
        self.captured += 1
        static = [x for x in (made or ()) if x is not None]
        for x in static:
            x.fill_(77)  # a capture does nothing yet

        def replay():
            self.replays += 1
            fresh = [x for x in (work() or ()) if x is not None]
            for target, source in zip(static, fresh, strict=True):
                target.copy_(source)

        return made, replay

    def aside(self, items):
        return found_ahead(lambda: next(items, None))

    def on_this_stream(self, work):
        return work

    def empty_staging(self):
        self.emptied += 1

    def synchronize(self):
        while self._step():
            pass
        self.synchronized += 1
        assert not (self.compute or self.uploads or self.downloads), "streams wait for each other"

    @torch.inference_mode()
    def _step(self):
        """Do something, if there is anything to do."""
        streams = []
        for stream in (self.compute, self.uploads, self.downloads):
            while stream and isinstance(stream[0], Event) and stream[0].done:
                stream.popleft()
            if stream and not isinstance(stream[0], Event):
                streams.append(stream)
        if streams:
            self._random.choice(streams).popleft()()
        return bool(streams)


@contextmanager
def late(*args, **options):
    """A LateDevice that all networks are on meanwhile, without the fused kernels, which take long
    here, and with three frames in a call."""
    device = LateDevice(*args, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rife.inference.cuda_backend.device_of", lambda model: device)
        patch.setenv("RIFE_KERNELS", "none")
        patch.setattr(cuda_backend, "_trusted", {})
        patch.setattr(cuda_backend, "cards", cuda_backend.CardCache())
        patch.setattr("rife.inference.planner.BATCH", 3)
        patch.setattr("rife.engine.engine._GATHERS", False)  # it is for CPUs alone
        yield device
