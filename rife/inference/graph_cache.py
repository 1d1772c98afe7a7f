"""Work that is always the same, on the same memory: captured as CUDA graphs, then replayed."""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .cuda_device import CudaDevice
from .planner import first_line, is_out_of_memory

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Calls before the one that is captured: cuDNN and Triton choose and compile in them.
WARM_UP_CALLS = 2


class GraphCache:
    """Runs work by name, from the third call on as a graph, which costs the CPU next to nothing.

    Attributes:
        nbytes: Of the GPU's memory that the graphs take.
        may_capture: Whether new graphs are captured; False once it has failed.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self.may_capture = True
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, tuple[Any, Callable[[], None]]] = {}

    def run(self, device: CudaDevice, name: Hashable, work: Callable[[], T]) -> T:
        """Runs `work`, or the graph of that name, and returns its outputs, which the next call of
        that name may write over."""
        if name not in self._graphs and self.may_capture:
            self._calls[name] = self._calls.get(name, 0) + 1
            if self._calls[name] > WARM_UP_CALLS:
                self._capture(device, name, work)
        if name not in self._graphs:
            return work()
        outputs, replay = self._graphs[name]
        replay()
        return outputs

    def _capture(self, device: CudaDevice, name: Hashable, work: Callable[[], Any]) -> None:
        """Captures a graph and keeps it if its replay gives what `work` gives."""
        reserved = device.reserved_memory
        try:
            outputs, replay = device.capture_graph(work)
            self.nbytes += max(0, device.reserved_memory - reserved)
            expected = [x.clone() for x in _tensors(work())]
            replay()
            for one, other in zip(_tensors(outputs), expected, strict=True):
                if not torch.allclose(one.float(), other.float(), 1e-2, 1e-2, equal_nan=True):
                    raise RuntimeError("a replay made something else")
            self._graphs[name] = outputs, replay
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.may_capture = False
            log.warning(
                "the device's work can't be captured as a graph, so frames take longer (%s)",
                first_line(error),
            )


def _tensors(outputs: Sequence[Tensor | None]) -> list[Tensor]:
    return [x for x in outputs if x is not None]
