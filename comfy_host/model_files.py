"""Finds model files by the names that the loader node lists, and downloads published ones."""

import os
from pathlib import Path

import folder_paths

from .. import rife
from ..rife.models.download import download_model
from ..rife.models.zoo import DEFAULT, ZOO
from .inputs import describe
from .progress import show_progress, stop_if_interrupted

OWN_FOLDER, CORE_FOLDER = "rife", "frame_interpolation"
OTHER_PACK = "ComfyUI-Frame-Interpolation"
#: ComfyUI's names of the folders in which models are looked for, in this order.
FOLDERS = (OWN_FOLDER, CORE_FOLDER, OTHER_PACK)


def register_model_folders() -> None:
    """Adds our model folders to those that the user's extra_model_paths.yaml names.

    They are models/rife, models/frame_interpolation, and the folder of ComfyUI-Frame-Interpolation
    where that is installed.
    """
    folders = [
        (folder, os.path.join(folder_paths.models_dir, folder))
        for folder in (OWN_FOLDER, CORE_FOLDER)
    ]
    for custom_nodes in map(Path, folder_paths.get_folder_paths("custom_nodes")):
        folders += [
            (OTHER_PACK, str(pack / "ckpts" / "rife"))
            for pack in custom_nodes.glob("*")
            if pack.name.lower() == OTHER_PACK.lower()
        ]
    for folder, path in folders:
        folder_paths.folder_names_and_paths.setdefault(folder, ([], set(rife.EXTENSIONS)))
        folder_paths.add_model_folder_path(folder, path)


def model_names() -> list[str]:
    """Returns the names of the model files in our folders, then of the published ones to download.

    A name is the file's alone, so that it stays the same in whichever folder the file is, and
    before it is downloaded. Where two folders have a file of one name, the later folder's file has
    its folder's name before it.
    """
    names: list[str] = []
    for folder in FOLDERS:
        if folder in folder_paths.folder_names_and_paths:
            files = folder_paths.filter_files_extensions(
                folder_paths.get_filename_list(folder), rife.EXTENSIONS
            )
            names += [f"{folder}/{file}" if file in names else file for file in files]
    return names + [name for name in ZOO if name not in names]


def find_model(name: str) -> Path | None:
    """Returns the file of an entry of `model_names`; None if it has yet to be downloaded.

    Raises:
        FileNotFoundError: There is no such file, nor a published model, or it is no name at all.
    """
    if not isinstance(name, str):
        raise FileNotFoundError(
            f"model_name is {describe(name)}, but must be a model's name, such as {DEFAULT}."
        )
    plain = [(folder, name) for folder in FOLDERS]
    prefixed = [(folder, name.removeprefix(f"{folder}/")) for folder in FOLDERS]
    for folder, file in plain + prefixed:
        if path := folder_paths.get_full_path(folder, file):
            return Path(path)
    if name in ZOO:
        return None
    raise FileNotFoundError(
        f'There is no RIFE model "{name}". Choose another one, such as {DEFAULT}, which is '
        f"downloaded where it is missing; or put the file into the folder {_own_folder_path()} and "
        "press R to refresh the list."
    )


def find_or_download_model(name: str) -> Path:
    """Returns the file of an entry of `model_names`, downloaded first if it is missing.

    Raises:
        OSError: There is no such model, or the download failed.
    """
    return find_model(name) or _download(name)


def _own_folder_path() -> str:
    return folder_paths.get_folder_paths(OWN_FOLDER)[0]


#: State of a downloaded file -> fingerprint of its name before the download. The fingerprint stays,
#: so that ComfyUI doesn't repeat the run that downloaded the model.
_fingerprints_before_download: dict[str, str] = {}


def fingerprint_model(name: str | None) -> str:
    """Returns a text that changes when the file behind a model's name does.

    Args:
        name: As in `model_names`. None: it comes over a link, and is not known yet (or it is null,
            which can't be told apart here).
    """
    if name is None:
        return ""
    path = find_model(name)
    if path is None:
        return name
    state = _file_state(path)
    return _fingerprints_before_download.get(state, state)


def _file_state(path: Path) -> str:
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _download(name: str) -> Path:
    """Downloads a published model into our folder, and shows the progress in bytes."""
    with show_progress(desc=name, unit="B", unit_scale=True) as report_progress:
        path = download_model(ZOO[name], _own_folder_path(), report_progress, stop_if_interrupted)
    _fingerprints_before_download[_file_state(path)] = name
    return path
