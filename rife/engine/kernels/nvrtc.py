"""Launches kernels in CUDA C: compiled by NVRTC, which comes with torch, for the very GPU.

Both libraries, NVRTC and the driver, are called by ctypes. What was compiled is kept on disk, so
that later processes load it in milliseconds.
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

OPTIONS = ("--std=c++17",)
#: Compilers that run at the same time.
THREADS = 4

_IS_WINDOWS = sys.platform == "win32"


class KernelError(RuntimeError):
    """A kernel can't be compiled, loaded or launched."""


@dataclass(frozen=True)
class Compiled:
    """Machine code of one kernel: `name` as it stands in `cubin`; log: what the compiler said."""

    name: bytes
    cubin: bytes
    log: str = ""


# NVRTC


class Nvrtc:
    """The compiler.

    Raises:
        ImportError: It can't be loaded.
    """

    def __init__(self, files: Sequence[str]):
        """files: of the library, the best first, each a path or a name that the system finds."""
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
        """Compiles one kernel of a source.

        Args:
            source: In CUDA C, without headers.
            kernel: Its name, with the arguments of its template.
            architecture: Such as "sm_90".
            options: More than `OPTIONS`.

        Raises:
            KernelError: With the compiler's first error, which names the line.
        """
        program, name = c_void_p(), kernel.encode()
        self._call(
            "nvrtcCreateProgram",
            byref(program),
            source.encode(),
            b"kernels.cu",
            c_int(0),
            None,
            None,
        )
        try:
            self._call("nvrtcAddNameExpression", program, name)
            flags = [*OPTIONS, *options, f"--gpu-architecture={architecture}"]
            array = (c_char_p * len(flags))(*(flag.encode() for flag in flags))
            status = self._library.nvrtcCompileProgram(program, c_int(len(flags)), array)
            said = self._output("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
            if status:
                errors = [line for line in said.splitlines() if "error" in line]
                reason = errors[0] if errors else self._describe(status)
                raise KernelError(f"{kernel} can't be compiled for {architecture}: {reason}")
            lowered = c_char_p()
            self._call("nvrtcGetLoweredName", program, name, byref(lowered))
            return Compiled(lowered.value, self._output("CUBIN", program), said)
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
    """The one of torch's CUDA.

    Raises:
        ImportError: It can't be loaded, or torch is for other GPUs.
    """
    if torch.version.hip:
        raise ImportError("NVRTC is for NVIDIA's GPUs")
    return Nvrtc(library_files())


def library_files() -> list[str]:
    """Where NVRTC may be, the best first: beside torch, in NVIDIA's own package, where the system
    looks; of torch's version of CUDA."""
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
        by_name = f"nvrtc64_{major}0_0.dll" if _IS_WINDOWS else f"libnvrtc.so.{major}"
        return [file for file in [*files, by_name] if _major(file) in (major, None)]
    return files


def _major(file: str) -> str | None:
    """The version of CUDA that an NVRTC's file name gives: libnvrtc.so.12, nvrtc64_120_0.dll."""
    name = Path(file).name
    number = name.split("_")[1][:-1] if _IS_WINDOWS else name.partition(".so.")[2].split(".")[0]
    return number or None


# What was compiled


def cache_folder() -> Path:
    """Of this user, for what can be made again."""
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
    """As `Nvrtc.compile`, but kept in `folder`, where that can be written; a damaged file counts as
    none."""
    key = "\0".join((source, kernel, architecture, compiler.version, *OPTIONS))
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
    """The GPUs' driver, in the contexts that torch uses.

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
        """Calls within it concern the context that torch has on a device."""
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
        """The kernel as `launch` takes it. It stays loaded as long as the process runs."""
        module, function = c_void_p(), c_void_p()
        self._call("cuModuleLoadData", byref(module), compiled.cubin)
        self._call("cuModuleGetFunction", byref(function), module, compiled.name)
        return function

    def launch(
        self, function: c_void_p, grid: Sequence[int], block: Sequence[int], stream: int, arguments
    ) -> None:
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
    """The process's.

    Raises:
        ImportError: It can't be loaded.
    """
    return Driver()


# Kernels


class Kernels:
    """The kernels of one source, each compiled and loaded when it is first launched on a device."""

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
            grid: Blocks of threads, by x, y and z.
            block: Threads of each, by x, y and z.
            arguments: Of ctypes' types.
            device: Of the memory that the arguments point to.

        Raises:
            ImportError: NVRTC or the driver can't be loaded.
            KernelError: It can't be compiled, loaded or launched.
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
    def note(self) -> Iterator[set[tuple[str, int]]]:
        """Within it, kernels are not launched, but put into a set, with their devices' numbers."""
        noted: set[tuple[str, int]] = set()
        token = self._noted.set(noted)
        try:
            yield noted
        finally:
            self._noted.reset(token)

    @contextmanager
    def precompile(self) -> Iterator[None]:
        """Compiles all kernels that are noted within it, several at a time."""
        with self.note() as noted:
            yield
        new = sorted(noted - self._loaded.keys())
        with ThreadPoolExecutor(THREADS, "nvrtc") as threads:
            for key, compiled in zip(new, threads.map(self._compile, new), strict=True):
                with driver().on(key[1]):
                    self._loaded[key] = driver().load(compiled)

    def _compile(self, key: tuple[str, int]) -> Compiled:
        kernel, device = key
        major, minor = torch.cuda.get_device_capability(device)
        architecture = f"sm_{major}{minor}"
        return compile_or_read(compiler(), self.source, kernel, architecture, cache_folder())
