"""Runs kernels.cu on the CPU: a C++ compiler compiles it, and threads run one after the other."""

import ctypes
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SHIM = Path(__file__).with_name("cuda_on_cpu.h")
FLAGS = [
    *("-std=c++17", "-O1", "-shared", "-fPIC", "-w"),
    "-fno-strict-aliasing",  # values are moved as words
    # An address that is no multiple of its word's size ends the process: on a GPU it is an error
    # after which nothing else works.
    *("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"),
    *("-nostdinc", "-nostdlib"),  # so that zig needs not compile its libraries first: minutes
]


@cache
def compiler() -> list[str]:
    """The command of a C++ compiler: an installed one, or zig, a package of PyPI."""
    for name in ("g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise RuntimeError("the tests need g++, clang++ or the package ziglang (requirements-dev.txt)")


class CpuKernelLauncher:
    """Does what nvrtc.KernelLauncher does, on tensors of the CPU.

    Attributes:
        loaded: The libraries of the kernels that have been launched, by the kernels' names.
    """

    def __init__(self, source: Path):
        self._source = source
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.loaded: dict[str, ctypes.CDLL] = {}
        self._noted: list[str] | None = None

    def launch(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence, device
    ) -> None:
        if self._noted is not None:
            self._noted.append(kernel)
            return
        if kernel not in self.loaded:
            self._compile([kernel])
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        sizes = ((ctypes.c_uint * 3)(*size) for size in (grid, block))
        getattr(self.loaded[kernel], _symbol(kernel))(*sizes, pointers)

    @contextmanager
    def precompile(self) -> Iterator[None]:
        """All kernels of a call in one file, as most time goes into starting the compiler."""
        self._noted = []
        try:
            yield
            new = dict.fromkeys(kernel for kernel in self._noted if kernel not in self.loaded)
        finally:
            self._noted = None
        if new:
            self._compile(list(new))

    def _compile(self, kernels: Sequence[str]) -> None:
        lines = [f'#include "{file.as_posix()}"' for file in (SHIM, self._source)]
        for kernel in kernels:
            lines += [
                f"EXPORT void {_symbol(kernel)}",
                "(unsigned* grid, unsigned* block, void** pointers)",
                f"{{ launch({kernel}, grid, block, pointers); }}",
            ]
        source = Path(self._folder.name, f"{_symbol(''.join(kernels))}.cpp")
        source.write_text("\n".join(lines) + "\n")
        library = source.with_suffix(".so")
        command = [*compiler(), *FLAGS, "-x", "c++", str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]
        self.loaded |= dict.fromkeys(kernels, ctypes.CDLL(str(library)))


def _symbol(kernel: str) -> str:
    return "kernel_" + hashlib.sha256(kernel.encode()).hexdigest()[:16]
