"""The CPU's memory: what one frame frees is kept for the next, and results lie in large pages.

glibc gives large blocks back to the system at once, which hands them out again page by page, each
cleared: up to a third of a frame's time on a CPU. PyTorch keeps freed memory on GPUs alone. Memory
that is written for the first time, as results are, takes a fifth of the time in pages of 2 MB.
Measured in benchmarks/README.md.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

#: Parameters of mallopt(3): their numbers, their values while memory is kept, and those afterwards:
#: glibc's own at the start, but for the thresholds, which are as high as glibc raises them itself.
_PARAMETERS = {
    "M_TRIM_THRESHOLD": (-1, -1, 64 << 20),
    "M_TOP_PAD": (-2, 64 << 20, 128 << 10),
    "M_MMAP_THRESHOLD": (-3, 32 << 20, 32 << 20),
    "M_MMAP_MAX": (-4, 0, 65536),
}
#: The advice for madvise(2) on Linux, and the bytes of a large page.
_MADV_HUGEPAGE, _LARGE_PAGE = 14, 2 << 20
_lock = threading.Lock()
_keepers = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keeps freed memory with the process as long as anyone in it is in such a context; then what
    is free goes back to the system.

    Does nothing where there is no glibc, or where a MALLOC_ variable of the environment says that
    someone has chosen already.
    """
    library = _load_glibc()
    _count_keepers(1, library)
    try:
        yield
    finally:
        _count_keepers(-1, library)


def _count_keepers(change: int, library: ctypes.CDLL | None) -> None:
    global _keepers
    if library is None:
        return
    with _lock:
        before, _keepers = _keepers, _keepers + change
        if not before or not _keepers:
            for number, keeping, usual in _PARAMETERS.values():
                library.mallopt(number, keeping if _keepers else usual)
        if not _keepers:
            library.malloc_trim(0)


def _load_glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.empty; on Linux the CPU's memory is in large pages, where the system has some."""
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    if sys.platform == "linux" and tensor.device.type == "cpu" and tensor.nbytes >= 2 * _LARGE_PAGE:
        start = -(-tensor.data_ptr() // _LARGE_PAGE) * _LARGE_PAGE
        end = (tensor.data_ptr() + tensor.nbytes) // _LARGE_PAGE * _LARGE_PAGE
        size = ctypes.c_size_t(end - start)
        # It is advice: that it fails changes nothing.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), size, _MADV_HUGEPAGE)
    return tensor
