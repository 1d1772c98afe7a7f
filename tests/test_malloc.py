"""What a run does to the heap of its process; each test runs one in a process of its own."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rife.inference import malloc

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's heap can be told to keep memory"
)

#: Takes and frees 200 MB twice, as two frames would; prints pages that were new to the process.
PROGRAM = """
import resource
import torch
from rife.inference.malloc import freed_memory_kept

def faults(size=50_000_000):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

torch.ones(50_000_000)
start = resident()
with freed_memory_kept():
    with freed_memory_kept():
        first = faults()
    # Less, since glibc wants room for aligning it, which small blocks may have taken by then.
    second, held = faults(49_000_000), resident() - start
print(first, second, held, resident() - start, faults())
"""
PAGES = 50_000_000 * 4 // 4096


def run(**environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PATH": "", **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [int(word) for word in done.stdout.split()]


def test_freed_memory_serves_again_and_goes_back_in_the_end():
    first, second, held, left, after = run()
    assert second < first / 3  # not of PAGES: with huge pages there are few faults
    assert held > PAGES / 2
    assert left < PAGES / 10
    assert after > first / 3, "the heap is as it was before"


def test_whoever_has_set_the_heap_up_is_left_alone():
    first, second, held, *_ = run(MALLOC_MMAP_MAX_="65536")
    assert second > first / 2
    assert held < PAGES / 10


def test_results_ask_for_large_pages():
    """The kernel shows which pages a mapping may have: `hg` among its flags."""
    frames = malloc.empty((9, 480, 720, 3), torch.float32, torch.device("cpu"))
    assert frames.shape == (9, 480, 720, 3) and frames.dtype == torch.float32
    middle = frames.data_ptr() + frames.nbytes // 2
    flags = mapping = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            start, end = (int(side, 16) for side in first.split("-"))
            mapping = start <= middle < end
        elif first == "VmFlags:" and mapping:
            flags = rest
    assert flags
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        assert "hg" in flags
    frames.fill_(1)
    assert malloc.empty((0, 2), torch.uint8, torch.device("cpu")).shape == (0, 2)
