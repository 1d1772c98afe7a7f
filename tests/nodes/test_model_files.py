"""Names of models: the files behind them, and published ones to download."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ..support.pack import load  # isort: skip  (makes ComfyUI's modules importable)

import comfy.model_management as model_management
import folder_paths

from rife.models.zoo import DEFAULT, ZOO

from ..support.hub import UNPINNED, Server, serving


@pytest.fixture
def hub(weights: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A Hugging Face Hub whose every file is v3.8, as that of UNPINNED is."""
    with serving(weights("v3.8").read_bytes()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def fingerprint(pack: SimpleNamespace, name: str | None) -> str:
    return pack.nodes["LoadRIFEModel"].fingerprint_inputs(name, "auto")


def list_models(pack: SimpleNamespace) -> list[str]:
    return pack.nodes["LoadRIFEModel"].define_schema().inputs[0].options


def list_files(pack: SimpleNamespace) -> list[str]:
    """Returns the listed models that need no download."""
    return [name for name in list_models(pack) if pack.host.model_files.find_model(name)]


def test_names_are_plain_but_for_the_second_file_of_a_name(pack: SimpleNamespace) -> None:
    core, others = pack.models / "frame_interpolation", pack.others
    nested = os.path.join("old", "v3.PKL")
    files = {
        nested: pack.models / "rife" / "old" / "v3.PKL",
        os.path.join("rife", "same.pth"): pack.models / "rife" / "rife" / "same.pth",
        "same.pth": pack.models / "rife" / "same.pth",
        "core.safetensors": core / "core.safetensors",
        "frame_interpolation/same.pth": core / "same.pth",
        "ComfyUI-Frame-Interpolation/core.safetensors": others / "core.safetensors",
        "rife47.pth": others / "rife47.pth",
    }
    for folder in ("old", "rife"):
        (pack.models / "rife" / folder).mkdir()
    for path in (*files.values(), pack.models / "rife" / "README.md"):
        path.touch()
    missing = [name for name in ZOO if name != "rife47.pth"]
    assert list_models(pack) == [*files, *missing]
    assert {name: pack.host.model_files.find_model(name) for name in files} == files


def test_a_name_with_its_folder_is_understood_where_the_plain_one_would_do(
    pack: SimpleNamespace,
) -> None:
    path = pack.models / "frame_interpolation" / "core.pth"
    path.touch()
    assert pack.host.model_files.find_model("frame_interpolation/core.pth") == path


@pytest.mark.parametrize("folder", ["rife", "frame_interpolation", "others"])
def test_a_published_model_has_one_name_before_and_after_it_is_there(
    pack: SimpleNamespace, folder: str
) -> None:
    assert list_models(pack) == list(ZOO)
    path = (pack.others if folder == "others" else pack.models / folder) / DEFAULT
    path.touch()
    assert sorted(list_models(pack)) == sorted(ZOO)
    assert pack.host.model_files.find_model(DEFAULT) == path


def test_without_the_other_pack_its_folder_is_unknown(
    pack: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "custom_nodes")
    del folder_paths.folder_names_and_paths["ComfyUI-Frame-Interpolation"]
    pack.host.model_files.register_model_folders()
    assert set(folder_paths.folder_names_and_paths) == {
        "custom_nodes",
        "rife",
        "frame_interpolation",
    }
    assert list_models(pack) == list(ZOO)


def test_the_users_own_model_folder_comes_first_and_lists_models_only(
    pack: SimpleNamespace, tmp_path: Path
) -> None:
    own = tmp_path / "named in extra_model_paths.yaml"
    own.mkdir()
    for file in ("custom.pth", "notes.txt"):
        (own / file).touch()
    del folder_paths.folder_names_and_paths["rife"]
    folder_paths.add_model_folder_path("rife", str(own))
    pack.host.model_files.register_model_folders()
    assert folder_paths.get_folder_paths("rife") == [str(own), str(tmp_path / "rife")]
    assert list_files(pack) == ["custom.pth"]


def test_the_default_is_listed_and_valid_before_anything_is_downloaded(
    pack: SimpleNamespace, hub: Server
) -> None:
    loader = pack.nodes["LoadRIFEModel"]
    model_name, precision = loader.define_schema().inputs
    assert model_name.default == DEFAULT in model_name.options
    assert precision.default == "auto"
    assert loader.validate_inputs(DEFAULT) is True
    fingerprint(pack, DEFAULT)
    assert hub.log == []


def test_an_unknown_name_is_refused_with_what_to_do(pack: SimpleNamespace) -> None:
    message = pack.nodes["LoadRIFEModel"].validate_inputs("custom.pth")
    for part in ("custom.pth", str(pack.models / "rife"), DEFAULT):
        assert part in message
    with pytest.raises(OSError, match="custom.pth"):
        load(pack, "custom.pth")


@pytest.mark.parametrize("name", [None, 5, True, ["v4.0.pkl"], {}, torch.zeros(2)])
def test_what_is_no_name_is_refused_as_such(pack: SimpleNamespace, name: object) -> None:
    with pytest.raises(OSError, match="^model_name is .*, but must be a model's name"):
        load(pack, name)
    if name is not None:
        assert "model_name is" in pack.nodes["LoadRIFEModel"].validate_inputs(name)


@pytest.mark.parametrize(
    "name", ["a\x1b[31m\n.pth", "a\0.pth", "", "../" * 9 + "etc/passwd", "a" * 5000]
)
def test_whatever_is_in_a_name_the_error_is_one_line(pack: SimpleNamespace, name: str) -> None:
    message = pack.nodes["LoadRIFEModel"].validate_inputs(name)
    assert message.startswith("There is no RIFE model") and message.isprintable()
    with pytest.raises(OSError) as error:
        load(pack, name)
    assert str(error.value) == message


def test_a_published_model_is_downloaded_with_progress_when_it_is_run(
    pack: SimpleNamespace, hub: Server, reported: list[tuple[int, int, object]]
) -> None:
    model = load(pack, UNPINNED)
    assert model.model.network.version == "RIFE v3.6 - v3.9"
    assert (pack.models / "rife" / UNPINNED).read_bytes() == hub.content
    assert list_files(pack) == [UNPINNED]
    assert reported[0] == (0, len(hub.content), None)
    assert reported[-1] == (len(hub.content), len(hub.content), None)


def test_a_download_is_no_reason_to_run_again_but_a_new_file_is(
    pack: SimpleNamespace, hub: Server
) -> None:
    path = pack.models / "rife" / UNPINNED
    before = fingerprint(pack, UNPINNED)
    load(pack, UNPINNED)
    assert fingerprint(pack, UNPINNED) == before
    path.write_bytes(path.read_bytes() + b"changed")
    assert fingerprint(pack, UNPINNED) != before


def test_an_interrupted_download_goes_on_the_next_time(
    pack: SimpleNamespace, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stop_at = len(hub.content) // 2
    interrupt = model_management.interrupt_current_processing
    monkeypatch.setattr(hub.gate, "wait", lambda seconds: interrupt())
    with pytest.raises(model_management.InterruptProcessingException):
        load(pack, UNPINNED)
    assert list_files(pack) == []
    load(pack, UNPINNED)
    assert list_files(pack) == [UNPINNED]
    first, second = hub.ranges()
    assert first is None and second.startswith("bytes=")


def test_offline_the_error_says_how_to_do_it_by_hand(
    pack: SimpleNamespace, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError) as error:
        load(pack, UNPINNED)
    for part in ("HF_HUB_OFFLINE", ZOO[UNPINNED].source.url, str(pack.models / "rife")):
        assert part in str(error.value)


@pytest.mark.parametrize("node", ["LoadRIFEModel", "RIFEFrameInterpolate"])
def test_without_a_network_the_error_begins_with_the_cause(
    pack: SimpleNamespace, frames: torch.Tensor, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(pack.rife.models.download, "RETRY_DELAYS", ())
    inputs = {"model_name": DEFAULT} if node == "LoadRIFEModel" else {"images": frames}
    with pytest.raises(OSError) as error:
        pack.nodes[node].execute(**inputs)
    assert type(error.value) is OSError  # the page puts the type's path before the message
    assert str(error.value).startswith(f"{DEFAULT} was not downloaded: no connection (")
    assert str(error.value).isprintable()
    assert list_files(pack) == []


def test_a_replaced_file_has_another_fingerprint(pack: SimpleNamespace) -> None:
    path = pack.models / "rife" / "model.pth"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    first = fingerprint(pack, "model.pth")
    assert fingerprint(pack, "model.pth") == first
    path.write_bytes(b"two")
    os.utime(path, ns=(10**18, 10**18 + 1))
    newer = fingerprint(pack, "model.pth")
    path.write_bytes(b"three")
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert len({first, newer, fingerprint(pack, "model.pth")}) == 3


def test_a_model_name_that_comes_over_a_link_is_not_judged_before_it_is_known(
    pack: SimpleNamespace,
) -> None:
    loader = pack.nodes["LoadRIFEModel"]
    assert loader.validate_inputs(None) is True
    assert fingerprint(pack, None) == ""


def test_a_file_that_is_no_model_is_refused_by_name(pack: SimpleNamespace) -> None:
    (pack.models / "rife" / "empty.pth").touch()
    with pytest.raises(ValueError, match="empty.pth"):
        load(pack, "empty.pth")
