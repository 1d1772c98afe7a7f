"""What the system takes for memory: keeps what a frame frees for the next one, and asks for large
pages for results.

glibc hands large blocks back to the system at once, which hands them out again page by page, each
cleared: up to a third of a frame's time on a CPU. PyTorch keeps freed memory on GPUs alone. What is
written for the first time, as results are, is five times as fast in pages of 2 MB.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

#: Parameters of mallopt(3): their numbers, their values while memory is kept, and after. Those are
#: glibc's own at the start; the thresholds, which it raises by itself, are as high as it goes.
_PARAMETERS = {
    "M_TRIM_THRESHOLD": (-1, -1, 64 << 20),
    "M_TOP_PAD": (-2, 64 << 20, 128 << 10),
    "M_MMAP_THRESHOLD": (-3, 32 << 20, 32 << 20),
    "M_MMAP_MAX": (-4, 0, 65536),
}
#: Of madvise(2) on Linux; and bytes of a large page.
_MADV_HUGEPAGE, _LARGE_PAGE = 14, 2 << 20
_lock = threading.Lock()
_keepers = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """As long as this is entered, by anyone in the process, freed memory stays with the process;
    then what is free goes back. Does nothing where there is no glibc, or where a MALLOC_ variable
    of the environment says that someone has chosen already."""
    library = _glibc()
    _count(1, library)
    try:
        yield
    finally:
        _count(-1, library)


def _count(change: int, library: ctypes.CDLL | None) -> None:
    global _keepers
    if library is None:
        return
    with _lock:
        before, _keepers = _keepers, _keepers + change
        if not before or not _keepers:
            for number, kept, usual in _PARAMETERS.values():
                library.mallopt(number, kept if _keepers else usual)
        if not _keepers:
            library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.empty, in large pages where Linux has some for the asking."""
    made = torch.empty(tuple(shape), dtype=dtype, device=device)
    if sys.platform == "linux" and made.device.type == "cpu" and made.nbytes >= 2 * _LARGE_PAGE:
        start = -(-made.data_ptr() // _LARGE_PAGE) * _LARGE_PAGE
        end = (made.data_ptr() + made.nbytes) // _LARGE_PAGE * _LARGE_PAGE
        size = ctypes.c_size_t(end - start)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), size, _MADV_HUGEPAGE)  # or it says no
    return made
