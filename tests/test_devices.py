"""The device and the precision that a model runs in; precisions it would emulate are replaced."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from rife import usable_dtype
from rife.devices import best_device, default_dtype

CPU = torch.device("cpu")
SHOWN = (
    "import torch, logging; logging.basicConfig(format='%(message)s'); import rife; "
    "print(rife.usable_dtype(torch.bfloat16, torch.device('cpu')))"
)


@pytest.fixture
def instructions(monkeypatch):
    """instructions(NAMES): as if torch said that this CPU has them, and no others."""
    questions = {
        "avx512 core": (torch.ops.mkldnn, "_is_mkldnn_bf16_supported"),
        "fp16": (torch.ops.mkldnn, "_is_mkldnn_fp16_supported"),
        "avx512_bf16": (torch.cpu, "_is_avx512_bf16_supported"),
        "amx": (torch.cpu, "_is_amx_tile_supported"),
    }

    def only(*names):
        for name, (module, question) in questions.items():
            monkeypatch.setattr(module, question, lambda has=name in names: has, raising=False)

    return only


@pytest.mark.parametrize(
    ("machine", "has", "dtype", "usable"),
    [
        ("x86_64", ("avx512 core", "avx512_bf16"), torch.bfloat16, True),
        ("AMD64", ("avx512 core", "amx"), torch.bfloat16, True),
        ("x86_64", ("avx512 core",), torch.bfloat16, False),  # oneDNN takes it, and emulates
        ("x86_64", ("avx512_bf16", "amx"), torch.bfloat16, False),  # oneDNN is kept from it
        ("x86_64", (), torch.bfloat16, False),
        ("arm64", ("avx512 core",), torch.bfloat16, True),
        ("arm64", (), torch.bfloat16, False),
        ("x86_64", ("fp16",), torch.float16, True),
        ("x86_64", ("avx512 core", "avx512_bf16"), torch.float16, False),
        ("x86_64", (), torch.float32, True),
    ],
)
def test_a_cpu_computes_in_what_it_has_instructions_for(
    machine, has, dtype, usable, instructions, monkeypatch, caplog
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    instructions(*has)
    assert usable_dtype(dtype, CPU) == (dtype if usable else torch.float32)
    told = [record.getMessage() for record in caplog.records]
    name = str(dtype).removeprefix("torch.")
    wanted = f"this CPU only emulates {name}, which takes several times as long: float32 is used"
    assert told == ([] if usable else [f"{wanted} instead"])


@pytest.mark.parametrize(
    ("capability", "dtype", "usable"),
    [
        ((7, 5), torch.bfloat16, False),
        ((8, 0), torch.bfloat16, True),
        ((7, 5), torch.float16, True),
    ],
)
def test_gpus_before_ampere_have_no_bfloat16(capability, dtype, usable, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 2080")
    device = torch.device("cuda")
    assert usable_dtype(dtype, device) == (dtype if usable else default_dtype(device))


def test_a_cpu_with_avx2_alone_is_known_in_a_process_of_its_own():
    """As torch itself sees it, where oneDNN is held back."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "torch.float32"
    assert "only emulates bfloat16" in done.stderr


@pytest.mark.parametrize(
    "available, best",
    [("cuda mps xpu", "cuda"), ("mps xpu", "mps"), ("xpu", "xpu"), ("", "cpu")],
)
def test_the_best_device(monkeypatch, available, best):
    modules = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
    for name, module in modules.items():
        is_there = name in available.split()
        monkeypatch.setattr(module, "is_available", lambda is_there=is_there: is_there)
    assert best_device() == torch.device(best)


@pytest.mark.parametrize(
    "name, capability, dtype",
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), torch.float16),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5), torch.float16),
        ("Tesla T4", (7, 5), torch.float16),
        ("Tesla V100-SXM2-16GB", (7, 0), torch.float16),
        ("NVIDIA GeForce GTX 1660 SUPER", (7, 5), torch.float32),
        ("NVIDIA GeForce MX450", (7, 5), torch.float32),
        ("NVIDIA T1000 8GB", (7, 5), torch.float32),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1), torch.float32),
    ],
)
def test_float16_where_the_card_is_good_at_it(monkeypatch, name, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert default_dtype(torch.device("cuda")) == dtype


@pytest.mark.parametrize("device", ["cpu", "mps", "xpu"])
def test_float32_elsewhere(device):
    assert default_dtype(torch.device(device)) == torch.float32
