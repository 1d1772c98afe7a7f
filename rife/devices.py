"""The device that a model runs on, and the dtype of its convolutions there."""

import logging
import platform
import re

import torch

from .networks.finite import dtype_name

log = logging.getLogger(__name__)


def best_device() -> torch.device:
    """Returns CUDA (also for AMD's ROCm), Apple's MPS or Intel's XPU if available, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return torch.device("xpu")
    return torch.device("cpu")


def usable_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Replaces a dtype that the device only emulates, and logs a warning.

    Args:
        dtype: The user's choice.
        device: Where the model runs.

    Returns:
        `dtype`, or `default_dtype(device)` if the device has no instructions for `dtype`: emulated,
        it takes several times as long as float32 (2 to 6 times on a CPU).
    """
    if not _is_emulated(dtype, device):
        return dtype
    usable = default_dtype(device)
    log.warning(
        "this %s only emulates %s, which takes several times as long: %s is used instead",
        "CPU" if device.type == "cpu" else "GPU", dtype_name(dtype), dtype_name(usable),
    )  # fmt: skip
    return usable


def _is_emulated(dtype: torch.dtype, device: torch.device) -> bool:
    if device.type == "cuda":
        if dtype != torch.bfloat16 or torch.version.hip:
            return False
        return torch.cuda.get_device_capability(device) < (8, 0)
    if device.type != "cpu" or dtype == torch.float32:
        return False
    convolutions = torch.ops.mkldnn
    if dtype == torch.float16:
        return not _ask_torch(convolutions, "_is_mkldnn_fp16_supported")
    # oneDNN accepts bfloat16 from AVX-512 on; the instructions for it came with later CPUs.
    instructions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not _ask_torch(convolutions, "_is_mkldnn_bf16_supported") or (
        is_x86 and not any(_ask_torch(torch.cpu, name) for name in instructions)
    )


def _ask_torch(module: object, question: str) -> bool:
    """Calls a function that not every version of torch has; False without it."""
    return bool(getattr(module, question, lambda: False)())


def default_dtype(device: torch.device) -> torch.dtype:
    """Returns float16 on CUDA devices where it is fast and correct, else float32."""
    # float16 is slow before Volta (7.0), and broken on the Turing cards without tensor cores.
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (7, 0):
        return torch.float32
    is_broken = re.search(
        r"GTX 16|\bMX[45]50|\bT\d{3,4}\b|CMP 30HX", torch.cuda.get_device_name(device)
    )
    return torch.float32 if is_broken else torch.float16
