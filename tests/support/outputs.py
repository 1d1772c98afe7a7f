"""Outputs written by `atomic_output`, and what a folder holds afterwards."""

from rife.fileio import atomic_output


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_numbered(folder, count=2):
    folder.mkdir(exist_ok=True)
    for number in range(1, count + 1):
        (folder / f"{number:08}.png").write_bytes(b"old")


def replace_once(path, content=b"new"):
    with atomic_output(path, overwrite=True) as temporary:
        (temporary / "00000001.png" if temporary.is_dir() else temporary).write_bytes(content)
