"""NVRTC is found, its errors become one line, and compiled kernels are kept on disk."""

import logging
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from rife.engine.kernels import nvrtc
from rife.engine.kernels.nvrtc import Compiled, KernelError, Nvrtc, compile_or_read

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="NVIDIA has nothing for macOS")

SOURCE = """
template <int N> __global__ void add(int* sum) {
    sum[threadIdx.x] += N;
}
"""


@pytest.fixture(scope="module")
def compiler():
    return nvrtc.compiler()


@pytest.fixture
def counted(compiler, monkeypatch):
    """The kernels that are compiled."""
    kernels, compile = [], Nvrtc.compile

    def counting(self, source, kernel, *args):
        kernels.append(kernel)
        return compile(self, source, kernel, *args)

    monkeypatch.setattr(Nvrtc, "compile", counting)
    return kernels


def test_a_kernel_is_compiled_to_a_gpus_machine_code(compiler):
    compiled = compiler.compile(SOURCE, "add<3>", "sm_90")
    assert compiled.cubin.startswith(b"\x7fELF") and compiled.name in compiled.cubin


@pytest.mark.parametrize(
    ("source", "kernel", "architecture", "message"),
    [
        (SOURCE.replace("+= N", "+= M"), "add<3>", "sm_90", r'kernels.cu\(3\): error: .*"M"'),
        (SOURCE, "subtract<3>", "sm_90", "subtract"),
        (SOURCE, "add<3>", "sm_1", "sm_1"),
    ],
)
def test_what_cannot_be_compiled_is_said_in_a_line(compiler, source, kernel, architecture, message):
    with pytest.raises(KernelError) as caught:
        compiler.compile(source, kernel, architecture)
    assert re.search(message, str(caught.value))
    assert kernel in str(caught.value) and "\n" not in str(caught.value)


def test_a_kernel_is_compiled_once_for_each_source_name_and_architecture(
    compiler, counted, tmp_path
):
    folder = tmp_path / "not yet there"
    for _ in range(2):
        first = compile_or_read(compiler, SOURCE, "add<1>", "sm_75", folder)
        second = compile_or_read(compiler, SOURCE, "add<2>", "sm_75", folder)
        third = compile_or_read(compiler, SOURCE, "add<2>", "sm_90", folder)
        fourth = compile_or_read(compiler, SOURCE + "// other", "add<2>", "sm_90", folder)
        assert counted == ["add<1>", "add<2>", "add<2>", "add<2>"]
    assert len({x.cubin for x in (first, second, third)}) == 3
    assert fourth.name == second.name != first.name
    assert {file.suffix for file in folder.iterdir()} == {".cubin"}  # no temporary one
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    ],
)
def test_a_damaged_file_is_made_again(compiler, counted, tmp_path, damage):
    compile_or_read(compiler, SOURCE, "add<1>", "sm_75", tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    compiled = compile_or_read(compiler, SOURCE, "add<1>", "sm_75", tmp_path)
    assert compiled == compile_or_read(compiler, SOURCE, "add<1>", "sm_75", tmp_path)
    assert len(counted) == 2
    assert file.read_bytes() == content


def test_where_nothing_can_be_kept_kernels_are_compiled_each_time(
    compiler, counted, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "a file"
    folder.write_text("")
    for _ in range(2):
        assert compile_or_read(compiler, SOURCE, "add<1>", "sm_75", folder).cubin
    assert len(counted) == 2
    assert "compiled kernels are not kept" in caplog.text


def test_a_missing_library_is_said_with_its_name(tmp_path):
    file = tmp_path / "libnvrtc.so.13"
    with pytest.raises(ImportError, match="NVRTC can't be loaded .*libnvrtc.so.13"):
        Nvrtc([str(file)])
    with pytest.raises(ImportError, match="none beside torch"):
        Nvrtc([])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the driver is")
def test_a_missing_driver_is_said_as_what_it_is():
    with pytest.raises(ImportError, match="NVIDIA's driver can't be loaded"):
        nvrtc.driver()


@pytest.mark.parametrize(
    ("platform", "cuda", "names", "expected"),
    [
        (
            "linux", "12.8",
            ["nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "nvidia/cu13/lib/libnvrtc.so.13"],
            ["libnvrtc.so.12", "libnvrtc.so.12"],
        ),
        (
            "linux", "13.0",
            ["nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "nvidia/cu13/lib/libnvrtc.so.13",
             "nvidia/cu13/lib/libnvrtc.alt.so.13"],
            ["libnvrtc.so.13", "libnvrtc.so.13"],
        ),
        (
            "win32", "12.6",
            ["torch/lib/nvrtc64_120_0.dll", "torch/lib/nvrtc64_120_0.alt.dll",
             "torch/lib/nvrtc-builtins64_126.dll"],
            ["nvrtc64_120_0.dll", "nvrtc64_120_0.dll"],
        ),
        (
            "win32", "13.0",
            ["nvidia/cu13/bin/x86_64/nvrtc64_130_0.dll"],
            ["nvrtc64_130_0.dll", "nvrtc64_130_0.dll"],
        ),
        ("linux", None, ["nvidia/cu13/lib/libnvrtc.so.13"], ["libnvrtc.so.13"]),
    ],
)  # fmt: skip
def test_the_library_of_torchs_cuda_is_looked_for_beside_it_first(
    platform, cuda, names, expected, tmp_path, monkeypatch
):
    for name in ("torch/__init__.py", "nvidia/x", *names):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setattr(nvrtc, "_IS_WINDOWS", platform == "win32")
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    files = nvrtc.library_files()
    assert [Path(file).name for file in files] == expected
    assert Path(files[0]).is_absolute() and os.path.isfile(files[0])


def test_compiled_code_is_what_was_kept(compiler, tmp_path):
    """Also if it contains the bytes that separate the parts of the file."""
    compiled = Compiled(b"name", b"\n\n\x00\n")

    class Compiler:
        version = "13.0"

        def compile(self, *_):
            return compiled

    for _ in range(2):
        assert compile_or_read(Compiler(), "", "name", "sm_90", tmp_path) == compiled
