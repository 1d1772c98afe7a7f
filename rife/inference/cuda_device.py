"""A GPU that works beside the CPU: streams and events, memory that both can reach, and graphs.

NVIDIA's by CUDA, AMD's by ROCm, which torch calls by the same names.
"""

import gc
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..networks.base import Network
from .planner import first_line, free_memory
from .threads import call_ahead

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Held while a graph is captured: torch can capture one at a time.
_capture_lock = threading.Lock()


class CudaDevice:
    """The streams of one run, from the thread that begins it.

    Tests have a device of the same methods that runs on the CPU, as late and in as odd an order as
    its streams allow.

    Attributes:
        device: The GPU.
        compute: The stream that the caller's own work is queued on.
        uploads: The stream of copies to the GPU.
        downloads: The stream of copies from the GPU.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.compute = torch.cuda.current_stream(device)
        self.uploads, self.downloads = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._captures = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._can_pin = True

    @property
    def total_memory(self) -> int:
        """The GPU's memory, in bytes."""
        return torch.cuda.get_device_properties(self.device).total_memory

    @property
    def reserved_memory(self) -> int:
        """The part of it that torch has taken, in bytes."""
        return torch.cuda.memory_reserved(self.device)

    def enqueue(self, stream: torch.cuda.Stream, work: Callable[[], Any]) -> None:
        """Queues what `work` does on `stream`."""
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            work()

    def record_event(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        """An event that happens when all is done that is queued on `stream` now."""
        return stream.record_event()

    def wait_event(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        """Makes `stream`, not the CPU, wait for `event`."""
        stream.wait_event(event)

    def synchronize_event(self, event: torch.cuda.Event) -> None:
        """Makes the CPU wait for `event`."""
        event.synchronize()

    def empty(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the GPU."""
        with torch.cuda.stream(self.compute):
            return torch.empty(tuple(size), dtype=dtype, device=self.device)

    def owns(self, tensor: Tensor) -> bool:
        """Whether the memory of `tensor` is the GPU's."""
        return tensor.device == self.device

    def record_use(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        """Keeps the memory of `tensor` from other uses until `stream` is done with it."""
        tensor.record_stream(stream)

    def staging_buffer(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the CPU that the GPU copies from and to while both go on with other work.

        Once nothing refers to it, it is used again when the copies queued with it are done.
        """
        if self._can_pin:
            try:
                return torch.empty(tuple(size), dtype=dtype, pin_memory=True)
            except RuntimeError as error:
                self._can_pin = False
                log.info("no pinned memory, so copies are slower (%s)", first_line(error))
        return torch.empty(tuple(size), dtype=dtype)

    def capture_graph(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Captures `work` as a CUDA graph without running it.

        Returns:
            The outputs of `work`, and a function that replays it: that reads and writes the same
            memory each time.
        """
        try:
            return self._capture_graph(work)
        except Exception as error:
            log.info("a graph is captured with caches emptied (%s)", first_line(error))
        torch.cuda.synchronize(self.device)
        free_memory(self.device)  # in a capture, torch doesn't do that by itself
        self._pool = torch.cuda.graph_pool_handle()  # the failed one may count as in use
        return self._capture_graph(work)

    def _capture_graph(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """As torch.cuda.graph, which always empties everyone's caches first, though, and whose
        stream belongs to the first GPU that it was used on."""
        graph = torch.cuda.CUDAGraph()
        self._captures.wait_stream(self.compute)
        with (
            _capture_lock,
            _garbage_collection_paused(),
            torch.cuda.device(self.device),
            torch.cuda.stream(self._captures),
        ):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = work()
            except BaseException:
                with suppress(RuntimeError):  # that it failed is known
                    graph.capture_end()
                raise
            graph.capture_end()
        self.compute.wait_stream(self._captures)
        return outputs, graph.replay

    def on_current_stream(self, work: Callable[..., T]) -> Callable[..., T]:
        """`work` for other threads: there, too, it is queued on the stream that is current here."""
        stream = torch.cuda.current_stream(self.device)

        def queued(*args: Any) -> T:
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                return work(*args)

        return queued

    def iterate_ahead(self, items: Iterator[T]) -> Generator[T, None, None]:
        """Iterates over `items` in a thread and on a stream of its own, a few items ahead.

        Where that thread waits for the GPU, as it does to read a frame's values, it waits for its
        own work alone, and not for all that is queued.
        """
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(self.compute)

        def next_item() -> T | None:
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                return next(items, None)

        with closing(call_ahead(next_item)) as ahead:
            for item in ahead:
                self.compute.wait_stream(stream)
                yield item

    def synchronize(self) -> None:
        """Waits for all that is queued."""
        for stream in (self.uploads, self.compute, self.downloads):
            stream.synchronize()

    def release_staging_memory(self) -> None:
        """Gives pinned memory back to the system, which torch keeps otherwise."""
        try:
            if hasattr(torch._C, "_host_emptyCache"):
                torch._C._host_emptyCache()
            elif hasattr(getattr(torch, "accelerator", None), "empty_host_cache"):
                torch.accelerator.empty_host_cache()
        except RuntimeError as error:  # of a device that has failed before
            log.info("pinned memory can't be given back (%s)", first_line(error))


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """It could free graphs and events, which a capture doesn't allow."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


def cuda_device_of(network: Network) -> CudaDevice | None:
    """The device of a network, if it is a GPU that works beside the CPU."""
    return CudaDevice(network.device) if network.device.type == "cuda" else None


def transfer_dtype(dtype: torch.dtype, network_dtype: torch.dtype) -> torch.dtype:
    """The dtype in which frames of `dtype` lie on the GPU and travel to and fro.

    Bytes stay bytes. Floats travel in 16 bits, exact to a quarter of a byte's step, where the
    network has no more.
    """
    if dtype == torch.uint8:
        return dtype
    return torch.float32 if network_dtype == torch.float32 else torch.float16


def stage_frame(device: CudaDevice, frame: Tensor, dtype: torch.dtype) -> Tensor:
    """Copies a frame of the CPU's into a staging buffer, as `dtype`.

    The copy's values lie in the order in which the frame's do, where those lie without gaps: that
    is the fastest copy.
    """
    order = sorted(range(frame.ndim), key=frame.stride, reverse=True)
    if not (ordered := frame.permute(order)).is_contiguous():
        ordered, order = frame, range(frame.ndim)
    buffer = device.staging_buffer(ordered.shape, dtype).copy_(ordered)
    return buffer.permute([order.index(i) for i in range(frame.ndim)])


def begin_download(device: CudaDevice, tensor: Tensor) -> Callable[[], Tensor]:
    """Begins to copy a tensor of the GPU's to the CPU.

    Returns:
        A function that waits for the copy and returns it.
    """
    buffer = device.staging_buffer(tensor.shape, tensor.dtype)
    device.wait_event(device.downloads, device.record_event(device.compute))
    device.enqueue(device.downloads, lambda: buffer.copy_(tensor, non_blocking=True))
    device.record_use(tensor, device.downloads)
    copied = device.record_event(device.downloads)

    def get() -> Tensor:
        device.synchronize_event(copied)
        return buffer

    return get


@contextmanager
def best_convolutions() -> Iterator[None]:
    """Lets cuDNN try its algorithms on the first call of a size, of those that give the same bits
    each time; afterwards the settings are again what others chose.

    AMD's library takes minutes for that, so it is left alone.
    """
    _count_cudnn_users(1)
    try:
        yield
    finally:
        _count_cudnn_users(-1)


_cudnn_lock = threading.Lock()
_cudnn_users = 0
_cudnn_before = False, False


def _count_cudnn_users(change: int) -> None:
    """The first one changes the settings, the last one restores them."""
    global _cudnn_users, _cudnn_before
    cudnn = torch.backends.cudnn
    with _cudnn_lock:
        if not _cudnn_users:
            _cudnn_before = cudnn.benchmark, cudnn.deterministic
            cudnn.benchmark, cudnn.deterministic = torch.version.hip is None, True
        _cudnn_users += change
        if not _cudnn_users:
            cudnn.benchmark, cudnn.deterministic = _cudnn_before
