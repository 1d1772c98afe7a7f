"""An output appears whole under its final name, or not at all."""

import os
import pydoc
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rife.fileio import FileError, atomic_output, refuse_same_file

from .support.outputs import list_names, replace_once, write_numbered

ROOT = Path(__file__).parent.parent


def test_a_file_gets_its_name_only_at_the_end(tmp_path):
    target = tmp_path / "out.mp4"
    with atomic_output(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"
        assert temporary.name.startswith(".")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert list_names(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["out.mp4", "folder"])
def test_a_failure_leaves_no_debris(tmp_path, name, error):
    with pytest.raises(error), atomic_output(tmp_path / name) as temporary:
        inside = temporary / "00000001.png" if temporary.is_dir() else temporary
        inside.write_bytes(b"half")
        raise error
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    (tmp_path / "out.mp4").write_bytes(b"old")
    write_numbered(tmp_path / "folder")
    for name in "out.mp4", "folder":
        with pytest.raises(error), atomic_output(tmp_path / name, overwrite=True):
            raise error
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert list_names(tmp_path / "folder") == ["00000001.png", "00000002.png"]
    assert list_names(tmp_path) == ["folder", "out.mp4"]


def test_an_existing_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"old")
    with pytest.raises(FileError, match="out.mp4 exists"), atomic_output(tmp_path / "out.mp4"):
        pytest.fail("the block was entered")
    assert (tmp_path / "out.mp4").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["out.mp4", "folder"])
def test_what_appears_meanwhile_is_not_replaced_and_the_work_is_kept(tmp_path, name):
    target = tmp_path / name
    kept = target.with_stem(f"{target.stem}-1")
    with pytest.raises(FileError, match=kept.name), atomic_output(target) as temporary:
        if temporary.is_dir():
            write_numbered(temporary, 1)
            write_numbered(target, 3)
        else:
            temporary.write_bytes(b"new")
            target.write_bytes(b"someone else's")
    assert list_names(tmp_path) == sorted([name, kept.name])
    assert len(list_names(target)) == 3 if target.is_dir() else target.read_bytes()[:4] == b"some"
    assert len(list_names(kept)) == 1 if kept.is_dir() else kept.read_bytes() == b"new"


def test_overwriting_replaces_files_and_folders_whole(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"old")
    write_numbered(tmp_path / "folder", 3)
    with atomic_output(tmp_path / "out.mp4", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    with atomic_output(tmp_path / "folder", overwrite=True) as temporary:
        (temporary / "00000001.png").write_bytes(b"new")
        assert len(list_names(tmp_path / "folder")) == 3
    assert (tmp_path / "out.mp4").read_bytes() == b"new"
    assert list_names(tmp_path / "folder") == ["00000001.png"]
    assert list_names(tmp_path) == ["folder", "out.mp4"]


def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path, monkeypatch):
    write_numbered(tmp_path / "folder")
    rename = os.rename

    def fail_for_the_new_one(source, target):
        if str(target) == str(tmp_path / "folder") and not str(source).endswith(".old"):
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new_one)
    with (
        pytest.raises(FileError, match="permission"),
        atomic_output(tmp_path / "folder", overwrite=True) as temporary,
    ):
        (temporary / "00000001.png").write_bytes(b"new")
    assert (tmp_path / "folder" / "00000002.png").read_bytes() == b"old"
    assert (tmp_path / "folder-1" / "00000001.png").read_bytes() == b"new"
    assert list_names(tmp_path) == ["folder", "folder-1"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "folder").mkdir()
    with atomic_output(tmp_path / "folder") as temporary:
        (temporary / "00000001.png").write_bytes(b"new")
    assert list_names(tmp_path / "folder") == ["00000001.png"]


@pytest.mark.parametrize("stranger", ["holiday.jpg", "1.png", "notes.txt", "00000003"])
def test_a_folder_with_anything_else_is_never_overwritten(tmp_path, stranger):
    write_numbered(tmp_path / "folder")
    (tmp_path / "folder" / stranger).write_bytes(b"dear")
    with (
        pytest.raises(FileError, match=stranger),
        atomic_output(tmp_path / "folder", overwrite=True),
    ):
        pytest.fail("the block was entered")
    assert (tmp_path / "folder" / stranger).read_bytes() == b"dear"


def test_a_missing_folder_is_named_and_not_made(tmp_path):
    with (
        pytest.raises(FileError, match="missing does not exist"),
        atomic_output(tmp_path / "missing" / "out.mp4"),
    ):
        pytest.fail("the block was entered")
    assert list_names(tmp_path) == []


def test_a_folder_without_write_permission_is_refused_before_any_work(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # a mode would not stop root, whom CI runs as
    with (
        pytest.raises(FileError, match="out.mp4: permission is denied"),
        atomic_output(tmp_path / "out.mp4"),
    ):
        pytest.fail("the block was entered")


def test_a_file_in_place_of_an_output_folder_is_refused(tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(FileError, match="suffix"), atomic_output(tmp_path / "out", overwrite=True):
        pytest.fail("the block was entered")
    assert (tmp_path / "out").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["out.mp4", "folder"])
def test_nothing_written_is_an_error_not_an_empty_output(tmp_path, name):
    with pytest.raises(FileError, match="Nothing was written"), atomic_output(tmp_path / name):
        pass
    assert list_names(tmp_path) == []


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real.mp4").write_bytes(b"old")
    try:
        (tmp_path / "link.mp4").symlink_to(tmp_path / "real.mp4")
    except OSError:
        pytest.skip("links need a privilege here")
    with atomic_output(tmp_path / "link.mp4", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link.mp4").is_symlink()
    assert (tmp_path / "real.mp4").read_bytes() == b"new"


def test_the_input_is_refused_as_output_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    os.link(tmp_path / "a.mp4", tmp_path / "hard.mp4")
    for source, target in [
        ("a.mp4", tmp_path / "a.mp4"),
        ("a.mp4", "folder/../a.mp4"),
        ("a.mp4", "hard.mp4"),
        ("folder", tmp_path / "folder"),
    ]:
        with pytest.raises(FileError, match="the input itself"):
            refuse_same_file(source, target)
    refuse_same_file("a.mp4", "b.mp4")
    refuse_same_file("a.mp4", "folder")


@pytest.mark.parametrize(
    "name", ["a" * 300 + ".mp4", "a." + "b" * 300, "a\0b.mp4", "a" * 300, "a\0b", "/", "/dev/null"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_cannot_be_is_refused_before_any_work(tmp_path, name, overwrite):
    with pytest.raises(FileError), atomic_output(tmp_path / name, overwrite):
        pytest.fail("the block was entered")
    assert list_names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["12:31.mp4", "-o.mp4", " .mp4", "a\nb.mp4", "OUT.MP4", "..mp4", "x"]
)
def test_any_other_name_is_taken(tmp_path, name):
    with atomic_output(tmp_path / name) as temporary:
        (temporary / "00000001.png" if temporary.is_dir() else temporary).write_bytes(b"new")
    assert list_names(tmp_path) == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
def test_only_files_and_folders_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "missing" / "out.mp4")
    before = list_names(tmp_path)
    for name in before:
        with (
            pytest.raises(FileError, match="pipe|leads nowhere|missing does not exist"),
            atomic_output(tmp_path / name, overwrite=True),
        ):
            pytest.fail("the block was entered")
    (tmp_path / "nowhere.mp4").unlink()
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "out.mp4")
    with atomic_output(tmp_path / "nowhere.mp4") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "nowhere.mp4").is_symlink()
    assert (tmp_path / "out.mp4").read_bytes() == b"new"
    assert list_names(tmp_path) == sorted([*before, "out.mp4"])


def test_a_folder_that_holds_the_input_is_refused_as_output(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "00000001.png").touch()
    for folder in ("a", "a/b", "a/b/../../a"):
        with pytest.raises(FileError, match="holds the input"):
            refuse_same_file(tmp_path / "a" / "b" / "00000001.png", tmp_path / folder)
    refuse_same_file(tmp_path / "a" / "b", tmp_path / "a" / "b" / "out.mp4")
    refuse_same_file(tmp_path / "missing", tmp_path / "a")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("out.mp4", "os.replace"),
        ("out.mp4", "pathlib.Path.unlink"),
        ("folder", "os.rename"),
        ("folder", "shutil.rmtree"),
        ("folder", "pathlib.Path.unlink"),
    ],
)
def test_interrupts_in_the_last_steps_leave_the_new_output_and_nothing_else(
    tmp_path, monkeypatch, name, call
):
    if name == "out.mp4":
        (tmp_path / name).write_bytes(b"old")
    else:
        write_numbered(tmp_path / name, 1)
    plain = pydoc.locate(call)

    def interrupted(*args, **options):
        plain(*args, **options)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_once(tmp_path / name)
    assert list_names(tmp_path) == [name]
    content = tmp_path / name / "00000001.png" if name == "folder" else tmp_path / name
    assert content.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file size")
def test_a_disk_without_room_is_a_clear_error_and_leaves_nothing(tmp_path):
    """A limit on file size stands in for a full disk: some data is written before the error comes,
    for some outputs only when they are closed."""
    names = ["out.mp4", "out.mkv", "out.webm", "out.webp", "out.apng", "out.gif", "out"]
    script = """
        import resource, signal, sys
        from fractions import Fraction
        from pathlib import Path
        import torch
        from PIL import Image
        from rife.fileio import FileError, atomic_output
        from rife.media import create_writer, open_reader

        folder = Path(sys.argv[1])
        (folder / "in").mkdir()
        torch.manual_seed(0)
        noise = torch.randint(0, 256, (6, 160, 240, 3), dtype=torch.uint8)
        for index, image in enumerate(noise):
            Image.fromarray(image.numpy()).save(folder / "in" / f"{index}.png")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
        for name in sys.argv[2:]:
            reader = open_reader(folder / "in")
            try:
                with (
                    atomic_output(folder / name) as path,
                    create_writer(path, reader, Fraction(24)) as writer,
                ):
                    for frame in reader:
                        writer.write(frame.image, frame.time)
            except FileError as error:
                print(error)
            else:
                print("no error for", name)
        print([path.name for path in folder.iterdir()])
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path, *names],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *messages, left = run.stdout.splitlines()
    assert len(messages) == len(names)
    for name, message in zip(names, messages, strict=True):
        assert f"/{name}" in message
        assert "too large" in message
    assert left == "['in']"
