"""Compiles kernels in CUDA C for the GPU at hand, and launches them.

The compiler is NVRTC, which comes with torch. Both NVRTC and the GPU's driver are called by ctypes.
Compiled kernels are kept on disk, so that later processes load them in milliseconds.
"""

import ctypes
import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ...fileio import atomic_output

log = logging.getLogger(__name__)

COMPILER_OPTIONS = ("--std=c++17",)
#: Compilers that run at the same time.
COMPILER_THREADS = 4

_IS_WINDOWS = sys.platform == "win32"


class KernelError(RuntimeError):
    """A kernel can't be compiled, loaded or launched."""


@dataclass(frozen=True)
class Compiled:
    """The machine code of one kernel.

    Attributes:
        name: The kernel's name in the machine code.
        cubin: The machine code.
        log: The compiler's messages; empty if it did not run.
    """

    name: bytes
    cubin: bytes
    log: str = ""


# NVRTC


class Nvrtc:
    """The compiler.

    Args:
        files: Where its library may be, the best first: paths, or names for the system to find.

    Attributes:
        version: Such as "12.8".

    Raises:
        ImportError: It can't be loaded.
    """

    def __init__(self, files: Sequence[str]):
        failures = []
        for file in files:
            try:
                self._library = ctypes.CDLL(file)
                break
            except OSError as error:
                failures.append(f"{file}: {error}")
        else:
            reason = failures[0] if failures else "there is none beside torch"
            raise ImportError(f"NVRTC can't be loaded ({reason})")
        self._library.nvrtcGetErrorString.restype = c_char_p
        major, minor = c_int(), c_int()
        self._call("nvrtcVersion", byref(major), byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, source: str, kernel: str, architecture: str, *options: str) -> Compiled:
        """Compiles one kernel.

        Args:
            source: Source text in CUDA C, without headers.
            kernel: The kernel's name, with the arguments of its template.
            architecture: Such as "sm_90".
            *options: More options for the compiler.

        Raises:
            KernelError: With the compiler's first error, which names the line.
        """
        program, name = c_void_p(), kernel.encode()
        file, no_headers = b"kernels.cu", (c_int(0), None, None)
        self._call("nvrtcCreateProgram", byref(program), source.encode(), file, *no_headers)
        try:
            self._call("nvrtcAddNameExpression", program, name)
            flags = [*COMPILER_OPTIONS, *options, f"--gpu-architecture={architecture}"]
            array = (c_char_p * len(flags))(*(flag.encode() for flag in flags))
            status = self._library.nvrtcCompileProgram(program, c_int(len(flags)), array)
            messages = self._output("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
            if status:
                errors = [line for line in messages.splitlines() if "error" in line]
                reason = errors[0] if errors else self._describe(status)
                raise KernelError(f"{kernel} can't be compiled for {architecture}: {reason}")
            mangled = c_char_p()
            self._call("nvrtcGetLoweredName", program, name, byref(mangled))
            return Compiled(mangled.value, self._output("CUBIN", program), messages)
        finally:
            self._library.nvrtcDestroyProgram(byref(program))

    def _output(self, kind: str, program: c_void_p) -> bytes:
        size = c_size_t()
        self._call(f"nvrtcGet{kind}Size", program, byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{kind}", program, buffer)
        return buffer.raw

    def _describe(self, status: int) -> str:
        return self._library.nvrtcGetErrorString(c_int(status)).decode()

    def _call(self, function: str, *arguments) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise KernelError(f"{function}: {self._describe(status)}")


@cache
def compiler() -> Nvrtc:
    """Returns the compiler of torch's version of CUDA.

    Raises:
        ImportError: It can't be loaded, or torch is for other GPUs.
    """
    if torch.version.hip:
        raise ImportError("NVRTC is for NVIDIA's GPUs")
    return Nvrtc(library_files())


def library_files() -> list[str]:
    """Returns where NVRTC may be, of torch's version of CUDA, the best first.

    Beside torch, in NVIDIA's own packages, and where the system looks.
    """
    pattern = "nvrtc64_*.dll" if _IS_WINDOWS else "libnvrtc.so*"
    folders = [Path(torch.__file__).parent / "lib"]
    nvidia = importlib.util.find_spec("nvidia")
    for package in nvidia.submodule_search_locations if nvidia else ():
        # cuda_nvrtc/lib up to CUDA 12, cu13/lib from 13 on; bin, and bin/x86_64, on Windows.
        for name in ("cuda_nvrtc", "cu[0-9]*"):
            for folder in sorted(Path(package).glob(name), reverse=True):
                folders += [folder / "lib", folder / "bin", folder / "bin" / "x86_64"]
    files = [
        str(file) for folder in folders for file in folder.glob(pattern) if ".alt." not in file.name
    ]
    major = (torch.version.cuda or "").partition(".")[0]
    if major:
        system_name = f"nvrtc64_{major}0_0.dll" if _IS_WINDOWS else f"libnvrtc.so.{major}"
        return [file for file in [*files, system_name] if _major(file) in (major, None)]
    return files


def _major(file: str) -> str | None:
    """The version of CUDA in NVRTC's file name: libnvrtc.so.12, nvrtc64_120_0.dll."""
    name = Path(file).name
    number = name.split("_")[1][:-1] if _IS_WINDOWS else name.partition(".so.")[2].split(".")[0]
    return number or None


# The cache on disk


def cache_folder() -> Path:
    """Returns this user's folder for compiled kernels, as the system's rules for caches have it."""
    if _IS_WINDOWS:
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rife" / "kernels"


def compile_or_read(
    compiler: Nvrtc, source: str, kernel: str, architecture: str, folder: Path
) -> Compiled:
    """Reads a compiled kernel from `folder`, or compiles it as `Nvrtc.compile` and keeps it there.

    A damaged file is replaced. A folder that can't be written to is done without, which is logged.
    """
    key = "\0".join((source, kernel, architecture, compiler.version, *COMPILER_OPTIONS))
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.cubin"
    with suppress(OSError, ValueError):
        digest, name, cubin = file.read_bytes().split(b"\n", 2)
        if digest == _digest(name, cubin):
            return Compiled(name, cubin)
    compiled = compiler.compile(source, kernel, architecture)
    content = b"\n".join((_digest(compiled.name, compiled.cubin), compiled.name, compiled.cubin))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_output(file, overwrite=True) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        log.info("compiled kernels are not kept, so each run compiles them again (%s)", error)
    return compiled


def _digest(name: bytes, cubin: bytes) -> bytes:
    return hashlib.sha256(name + b"\n" + cubin).hexdigest().encode()


# The driver


class Driver:
    """NVIDIA's driver, in the contexts that torch uses.

    Raises:
        ImportError: It can't be loaded.
    """

    def __init__(self):
        name = "nvcuda.dll" if _IS_WINDOWS else "libcuda.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise ImportError(f"NVIDIA's driver can't be loaded ({error})") from error
        self._call("cuInit", c_uint(0))
        self._contexts: dict[int, c_void_p] = {}

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        """Makes torch's context on a device current."""
        if device not in self._contexts:
            number, context = c_int(), c_void_p()
            self._call("cuDeviceGet", byref(number), c_int(device))
            self._call("cuDevicePrimaryCtxRetain", byref(context), number)
            self._contexts[device] = context
        self._call("cuCtxPushCurrent_v2", self._contexts[device])
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", byref(c_void_p()))

    def load(self, compiled: Compiled) -> c_void_p:
        """Loads a kernel, for as long as the process runs; returns what `launch` takes."""
        module, function = c_void_p(), c_void_p()
        self._call("cuModuleLoadData", byref(module), compiled.cubin)
        self._call("cuModuleGetFunction", byref(function), module, compiled.name)
        return function

    def launch(
        self, function: c_void_p, grid: Sequence[int], block: Sequence[int], stream: int, arguments
    ) -> None:
        """Queues a kernel on a stream; the arguments are those of `KernelLauncher.launch`."""
        pointers = (c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        sizes = map(c_uint, (*grid, *block, 0))
        self._call("cuLaunchKernel", function, *sizes, c_void_p(stream), pointers, None)

    def _call(self, function: str, *arguments) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            text = c_char_p()
            self._library.cuGetErrorString(c_int(status), byref(text))
            raise KernelError(f"{function}: {(text.value or b'error %d' % status).decode()}")


@cache
def driver() -> Driver:
    """Returns the process's one driver.

    Raises:
        ImportError: It can't be loaded.
    """
    return Driver()


# Kernels


class KernelLauncher:
    """Launches kernels of one source; each is compiled and loaded at its first launch on a device.

    Args:
        source: Source text in CUDA C.
    """

    def __init__(self, source: str):
        self.source = source
        self._loaded: dict[tuple[str, int], c_void_p] = {}
        self._noted: ContextVar[set[tuple[str, int]] | None] = ContextVar("noted", default=None)

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence,
        device: torch.device,
    ) -> None:
        """Queues a kernel on the device's current stream.

        Args:
            kernel: Its name, with the arguments of its template.
            grid: Blocks of threads along x, y and z.
            block: Threads of each block along x, y and z.
            arguments: The kernel's arguments, of ctypes' types.
            device: The device with the memory that the arguments point to.

        Raises:
            ImportError: NVRTC or the driver can't be loaded.
            KernelError: The kernel can't be compiled, loaded or launched.
        """
        key = kernel, device.index
        noted = self._noted.get()
        if noted is not None:
            noted.add(key)
            return
        with driver().on(device.index):
            if key not in self._loaded:
                self._loaded[key] = driver().load(self._compile(key))
            stream = torch.cuda.current_stream(device).cuda_stream
            driver().launch(self._loaded[key], grid, block, stream, arguments)

    @contextmanager
    def dry_run(self) -> Iterator[set[tuple[str, int]]]:
        """Launches nothing in the context; yields a set of what would have been launched.

        It holds the kernels' names with their devices' numbers.
        """
        noted: set[tuple[str, int]] = set()
        token = self._noted.set(noted)
        try:
            yield noted
        finally:
            self._noted.reset(token)

    @contextmanager
    def precompile(self) -> Iterator[None]:
        """Launches nothing in the context, but compiles its kernels, several at a time."""
        with self.dry_run() as noted:
            yield
        new = sorted(noted - self._loaded.keys())
        with ThreadPoolExecutor(COMPILER_THREADS, "nvrtc") as threads:
            for key, compiled in zip(new, threads.map(self._compile, new), strict=True):
                with driver().on(key[1]):
                    self._loaded[key] = driver().load(compiled)

    def _compile(self, key: tuple[str, int]) -> Compiled:
        kernel, device = key
        major, minor = torch.cuda.get_device_capability(device)
        architecture = f"sm_{major}{minor}"
        return compile_or_read(compiler(), self.source, kernel, architecture, cache_folder())
