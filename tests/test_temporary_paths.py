"""What runs leave behind when they are killed, and how the next run removes or restores it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rife.fileio import FileError, atomic_output

from .support.outputs import list_names, replace_once, write_numbered

ROOT = Path(__file__).parents[1]
#: Without torch, which the package's own __init__ imports, and which takes seconds.
WRITE_AND_WAIT = f"""
import sys, time, types

rife = sys.modules["rife"] = types.ModuleType("rife")
rife.__path__ = [{str(ROOT / "rife")!r}]
from rife.fileio import atomic_output

with atomic_output(sys.argv[1], overwrite=True) as path:
    (path / "00000001.png" if path.is_dir() else path).write_bytes(b"half")
    print("working", flush=True)
    time.sleep(600)
"""
WRITE = WRITE_AND_WAIT.replace("time.sleep(600)", "")
KILL_BETWEEN_RENAMES = """
import os, signal
from pathlib import Path

rename = os.rename

def kill_after(source, target):
    rename(source, target)
    if str(target).endswith(".old"):
        os.kill(os.getpid(), signal.SIGKILL)

os.rename = kill_after
"""


def start_run(path, script=WRITE_AND_WAIT):
    """A process that has begun to write the output at `path`, or is killed on the way."""
    run = subprocess.Popen(
        [sys.executable, "-c", script, path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    run.stdout.readline()
    return run


def kill_run(path, script=WRITE_AND_WAIT):
    with start_run(path, script) as run:
        if script == WRITE_AND_WAIT:
            run.kill()  # the other scripts kill themselves


@pytest.mark.parametrize("name", ["out.mp4", "folder"])
def test_what_a_killed_run_left_is_removed_by_the_next_in_the_folder(tmp_path, name, caplog):
    caplog.set_level("INFO")
    kill_run(tmp_path / name)
    assert len(list_names(tmp_path)) == 2
    replace_once(tmp_path / "other.gif")
    assert list_names(tmp_path) == ["other.gif"]
    assert caplog.text.count("left: ") == 1


def test_what_a_living_run_has_stays(tmp_path):
    with start_run(tmp_path / "out.mp4") as first, start_run(tmp_path / "folder") as second:
        before = list_names(tmp_path)
        with atomic_output(tmp_path / "here.mp4") as ours:
            ours.write_bytes(b"new")
            replace_once(tmp_path / "other.gif")
            assert set(before) < set(list_names(tmp_path))
            assert ours.exists()
        assert list_names(tmp_path) == sorted([*before, "here.mp4", "other.gif"])
        first.kill()
        first.wait()
        replace_once(tmp_path / "other.gif")
        assert len(list_names(tmp_path)) == 4
        second.kill()
    replace_once(tmp_path / "other.gif")
    assert list_names(tmp_path) == ["here.mp4", "other.gif"]


def test_what_may_be_of_someone_else_stays(tmp_path, monkeypatch):
    names = [".rife-0123456789ab.mp4", ".rife-0123456789ab", ".rife-0123456789ab.mp4.old"]
    names += [".rife-notes-lock", ".rife-0123456789abc-lock", "rife-0123456789ab-lock"]
    for name in names:
        (tmp_path / name).write_text("mine")
    kill_run(tmp_path / "out.mp4")
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "another")
        replace_once(tmp_path / "other.gif")
    with monkeypatch.context() as patch:
        patch.setattr("psutil.disk_partitions", lambda all: [NetworkDrive])
        replace_once(tmp_path / "other.gif")
    assert len(list_names(tmp_path)) == len(names) + 3
    replace_once(tmp_path / "other.gif")
    assert list_names(tmp_path) == sorted([*names, "other.gif"])


class NetworkDrive:
    mountpoint, fstype, opts = "/", "nfs4", "rw"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_folder_that_a_killed_run_had_moved_aside_comes_back(tmp_path):
    write_numbered(tmp_path / "folder")
    script = KILL_BETWEEN_RENAMES + WRITE
    kill_run(tmp_path / "folder", script)
    assert "folder" not in list_names(tmp_path)
    with pytest.raises(FileError, match="not empty"), atomic_output(tmp_path / "folder"):
        pytest.fail("the block was entered")
    assert list_names(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "00000002.png").read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.slow
def test_a_folder_moved_aside_is_kept_where_its_name_is_taken_by_then(tmp_path, caplog):
    write_numbered(tmp_path / "folder")
    script = KILL_BETWEEN_RENAMES + WRITE
    kill_run(tmp_path / "folder", script)
    write_numbered(tmp_path / "folder", 5)
    for _ in range(2):
        replace_once(tmp_path / "other.gif")
    assert len(list_names(tmp_path / "folder")) == 5
    (old,) = tmp_path.glob("*.old")
    assert (old / "00000002.png").read_bytes() == b"old"
    assert old.name in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.slow
def test_a_folder_that_was_replaced_is_removed_if_the_kill_came_after(tmp_path):
    write_numbered(tmp_path / "folder")
    script = (
        """
import os, shutil, signal
shutil.rmtree = lambda path: os.kill(os.getpid(), signal.SIGKILL)
"""
        + WRITE
    )
    kill_run(tmp_path / "folder", script)
    replace_once(tmp_path / "other.gif")
    assert list_names(tmp_path) == ["folder", "other.gif"]
    assert (tmp_path / "folder" / "00000001.png").read_bytes() == b"half"


def test_where_files_cannot_be_locked_outputs_are_written_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("msvcrt.locking" if os.name == "nt" else "fcntl.flock", refuse)
    with atomic_output(tmp_path / "out.mp4") as temporary:
        temporary.write_bytes(b"new")
        assert list_names(tmp_path) == [temporary.name]
    assert list_names(tmp_path) == ["out.mp4"]
