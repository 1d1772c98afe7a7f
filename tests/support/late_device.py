"""A stand-in for `CudaDevice` that runs on the CPU.

It does real work on real tensors. Each stream does its work as late as the events allow, and the
streams take turns in a random order; so a wait that the backend forgets shows in the frames.
Captured graphs behave as on a GPU: capturing computes nothing, and a replay writes to the same
memory each time.
"""

import random
import threading
from collections import deque
from contextlib import contextmanager

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from rife.inference import cuda_pipeline, kernel_choice
from rife.inference.threads import call_ahead

#: Operations that make the CPU wait for the device.
WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")


#: What new memory holds.
UNSET = 77


class NothingWaits(TorchDispatchMode):
    """Raises an error where the CPU would wait for the device, as CUDA does during a capture."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        copies_from_cpu = name == "lift_fresh" and args[0].numel() > 1
        if name in WAITS or copies_from_cpu:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        return function(*args, **(kwargs or {}))


class Event:
    """A mark in a stream, as `torch.cuda.Event`."""

    def __init__(self):
        self.done = False


class LateDevice:
    """See above.

    Args:
        seed: Of the order in which the streams work.
        capture_error: An exception that the next capture raises.
        late: False does all work at once, so that errors come where they do on a GPU.

    Attributes:
        captured, replays, synchronized, emptied: How often each happened.
    """

    device = torch.device("cpu")
    total_memory = 1 << 34
    reserved_memory = 0

    def __init__(self, seed=0, capture_error=None, late=True):
        self.compute, self.uploads, self.downloads = deque(), deque(), deque()
        self.capture_error = capture_error
        self._random, self._late = random.Random(seed), late
        self.captured = self.replays = self.synchronized = self.emptied = 0
        self._memory, self._lock = [], threading.Lock()

    def enqueue(self, stream, work):
        stream.append(work)
        for _ in range(self._random.choice([0, 0, 0, 1, 5]) if self._late else 10):
            self._step()

    def record_event(self, stream):
        event = Event()
        stream.append(lambda: setattr(event, "done", True))
        return event

    def wait_event(self, stream, event):
        stream.append(event)

    def synchronize_event(self, event):
        while not event.done:
            assert self._step(), "the CPU waits for an event that no stream can reach"

    def empty(self, size, dtype):
        tensor = torch.full(tuple(size), UNSET, dtype=dtype)
        with self._lock:
            self._memory.append(StorageWeakRef(tensor.untyped_storage()))
        return tensor

    def owns(self, tensor):
        with self._lock:
            self._memory = [storage for storage in self._memory if not storage.expired()]
            return StorageWeakRef(tensor.untyped_storage()) in self._memory

    def record_use(self, tensor, stream):
        assert tensor is not None

    def staging_buffer(self, size, dtype):
        return torch.full(tuple(size), UNSET, dtype=dtype)

    def capture_graph(self, work):
        if self.capture_error:
            error, self.capture_error = self.capture_error, None
            raise error
        with NothingWaits():
            outputs = work()
        self.captured += 1
        static = [x for x in (outputs or ()) if x is not None]
        for tensor in static:
            tensor.fill_(UNSET)  # capturing computes nothing

        def replay():
            self.replays += 1
            fresh = [x for x in (work() or ()) if x is not None]
            for target, source in zip(static, fresh, strict=True):
                target.copy_(source)

        return outputs, replay

    def iterate_ahead(self, items):
        return call_ahead(lambda: next(items, None))

    def on_current_stream(self, work):
        return work

    def release_staging_memory(self):
        self.emptied += 1

    def synchronize(self):
        while self._step():
            pass
        self.synchronized += 1
        assert not (self.compute or self.uploads or self.downloads), "streams wait for each other"

    @torch.inference_mode()
    def _step(self):
        """Do one piece of work of a stream that waits for no event; False if there is none."""
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
    """A LateDevice on which all networks run inside the block, with three frames in a call.

    The fused kernels are off, as they take long on a CPU.
    """
    device = LateDevice(*args, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rife.inference.cuda_device.cuda_device_of", lambda model: device)
        patch.setenv("RIFE_KERNELS", "none")
        patch.setattr(kernel_choice, "_checked_estimations", {})
        patch.setattr(cuda_pipeline, "idle_pipelines", cuda_pipeline.PipelineCache())
        patch.setattr("rife.inference.planner.BATCH", 3)
        patch.setattr("rife.engine.engine._HAS_FBGEMM", False)  # a way of CPUs alone
        yield device
