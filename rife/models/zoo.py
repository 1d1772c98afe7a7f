"""The published models: a table of their names, addresses and purposes. See `download_model`.

The facts are from public records only, and None where no record states them. A sha256 is listed if
two independent records of the file agree on it; those of rife_v4.26_heavy and rife417 are from one
record, whose other RIFE files are all confirmed. `good_for` is what the models' makers say, in the
README of Practical-RIFE (past versions included) and in its issues. That README puts all of them
under the MIT licence.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face Hub, or on the mirror that HF_ENDPOINT names.

    Attributes:
        repo: The repository, as "owner/name".
        path: The file's path in it.
    """

    repo: str
    path: str

    @property
    def url(self) -> str:
        """The address that the file is downloaded from."""
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"{endpoint.rstrip('/')}/{self.repo}/resolve/main/{self.path}"


@dataclass(frozen=True)
class WebFile:
    """A file at any address, such as an asset of a GitHub release.

    Attributes:
        url: The address that the file is downloaded from.
    """

    url: str


@dataclass(frozen=True)
class PublishedModel:
    """One published model file.

    Attributes:
        name: The name that users know, and that the downloaded file gets.
        version: `load_model(file).version` without its "RIFE ".
        source: Where the file is.
        good_for: What its makers recommend it for, in a few words.
        size: In bytes, or None.
        sha256: In hexadecimal, or None.
        licence: An SPDX identifier, or None.
    """

    name: str
    version: str
    source: HubFile | WebFile
    good_for: str
    size: int | None = None
    sha256: str | None = None
    licence: str | None = "MIT"


def find_on_disk(entry: PublishedModel, folders: Iterable[str | os.PathLike]) -> Path | None:
    """Returns the model's file in the first of the folders that has it, or None."""
    paths = (Path(folder) / entry.name for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _comfy_org(name: str, version: str, *rest) -> PublishedModel:
    source = HubFile("Comfy-Org/frame_interpolation", f"frame_interpolation/{name}")
    return PublishedModel(name, version, source, *rest)


def _interpolation_pack(name: str, version: str, *rest) -> PublishedModel:
    base = "https://github.com/Fannovel16/ComfyUI-Frame-Interpolation/releases/download/models/"
    return PublishedModel(name, version, WebFile(base + name), *rest)


def _vs_rife(number: str, version: str, *rest) -> PublishedModel:
    name = f"flownet_v{number}.pkl"
    base = "https://github.com/HolyWu/vs-rife/releases/download/model/"
    return PublishedModel(name, version, WebFile(base + name), *rest)


_4_0 = "v4.0 - v4.1"
_4_2 = "v4.2 - v4.4"
_4_7 = "v4.7 - v4.9"
_4_10 = "v4.10 - v4.12"
_4_12_LITE = "v4.12 - v4.13 lite"
_4_13 = "v4.13 - v4.15, v4.17 - v4.19, v4.24"
_4_15_LITE = "v4.15 - v4.17 lite"
_4_21 = "v4.21 - v4.23"
_4_25 = "v4.25 - v4.26"

#: The model that Practical-RIFE recommends for most scenes, as ComfyUI's makers publish it.
DEFAULT = "rife_v4.25.safetensors"

# fmt: off
_ENTRIES = (
    _comfy_org(
        "rife_v4.25.safetensors", _4_25,
        "most scenes: its makers' default; anime and generated video too",
        22674688, "1505884b9bdae956795430d2a70f7e2317b2abd8f130f8cfdb35a5759f909481",
    ),
    _comfy_org(
        "rife_v4.26.safetensors", _4_25,
        "the newest of the standard models; generated video",
        22674688, "151874592c877740e5db11522f4514df569eeafb0a0fcb2696f16e9e8d317c94",
    ),
    _comfy_org(
        "rife_v4.25_lite.safetensors", "v4.25 lite",
        "v4.25 at a lower cost",
        22506384, "e5e5fe0286d30708f4c36aa23639a38d3d7cd0c724922c66e6b04130ae12c6e4",
    ),
    _comfy_org(
        "rife_v4.25_heavy.safetensors", "v4.25 heavy",
        "v4.25 in a network nearly four times as large; a beta",
        86669816, "40aa1838b91531f829caaac026f40d9d2e2f1eb12b65d1d6029a58ae4c703191",
    ),
    _comfy_org(
        "rife_v4.26_heavy.safetensors", "v4.26 heavy",
        "v4.26 with a wider encoder; users report glitches",
        22908216, "d2448f68503134b8c7c5430ce6032d6c76681a9a72f0ea8e0a56c7bee813482f",
    ),

    _interpolation_pack(
        "rife426.pth", _4_25,
        "v4.26, the newest of the standard models",
        24620531, "606421fe2148a9fdeca14e58d94dc339e87b87e0ebcc5dec84a50d6f488cfe7b",
    ),
    _interpolation_pack(
        "rife417.pth", _4_13,
        "v4.17: trained with FILM's style loss",
        21497983, "f6b1561354dda3b31606190cba1d1009ea001558c1b9c9cef2d03939bb381ee5",
    ),
    # No longer in the pack's release when its code began to name this repository first.
    PublishedModel(
        "rife49.pth", _4_7, HubFile("marduk191/rife", "rife49.pth"),
        "v4.9: anime; the pack's default",
        21345274, "e55fd00f3cc184e3c65961f4bb827a9da022e78eed36b055242c0ac30000d533",
    ),
    PublishedModel(
        "rife47.pth", _4_7, HubFile("marduk191/rife", "rife47.pth"),
        "v4.7: anime",
        21344827, "6a8a825ab2750558bdd20dcced386fd82b7222c7ba58c11d3b611d9c44f1be63",
    ),
    PublishedModel(
        "sudo_rife4_269.662_testV1_scale1.pth", _4_0,
        HubFile("marduk191/rife", "sudo_rife4_269.662_testV1_scale1.pth"),
        "v4.0 as styler00dollar trained it, an experiment for doubling",
        licence=None,
    ),

    _vs_rife(
        "4.26", _4_25, "v4.26 as its makers published it",
        24636301, "45c7f74156704769dc9f85cfcaf8552e1e926f9399dcfa3a553dee88fac6f53f",
    ),
    _vs_rife(
        "4.26.heavy", "v4.26 heavy", "v4.26 with a wider encoder; users report glitches",
        None, "4cc518e172156ad6207b9c7a43364f518832d83a4325d484240493a9e2980537",
    ),
    _vs_rife(
        "4.25", _4_25, "v4.25 as its makers published it: most scenes",
        24636301, "6615790efd627772917205db291f51cd392528a157ecbb2ecaeec3bff8eb6de2",
    ),
    _vs_rife(
        "4.25.lite", "v4.25 lite", "v4.25 at a lower cost",
        None, "81cdba223fe72a120130cc8552e5d2ecac824259d406f0c15323b3decf96b8b1",
    ),
    _vs_rife("4.25.heavy", "v4.25 heavy", "v4.25 in a network nearly four times as large; a beta"),
    _vs_rife("4.24", _4_13, "v4.18, tuned further; generated video"),
    _vs_rife("4.23", _4_21, "real scenes; a beta"),
    _vs_rife("4.22", _4_21, "a larger network, of August 2024"),
    _vs_rife("4.22.lite", "v4.22 lite", "anime and generated video, until v4.25"),
    _vs_rife("4.21", _4_21, "a larger network, of August 2024"),
    _vs_rife("4.20", "v4.20", "the largest network that can run as an ensemble"),
    _vs_rife("4.19", _4_13, "v4.18 with sports slow motion in its training; a withdrawn beta"),
    _vs_rife("4.18", _4_13, "real scenes, until v4.25"),
    _vs_rife("4.17", _4_13, "trained with FILM's style loss"),
    _vs_rife("4.17.lite", _4_15_LITE, "v4.17 at a lower cost"),
    _vs_rife("4.16.lite", _4_15_LITE, "low cost; a beta"),
    _vs_rife("4.15", _4_13, "of March 2024"),
    _vs_rife("4.15.lite", _4_15_LITE, "v4.15 at a lower cost"),
    _vs_rife("4.14", _4_13, "animation"),
    _vs_rife("4.14.lite", "v4.14 lite", "v4.14 at a lower cost"),
    _vs_rife("4.13", _4_13, "trained with another perceptual loss"),
    _vs_rife("4.13.lite", _4_12_LITE, "low cost, of November 2023"),
    _vs_rife("4.12", _4_10, "of November 2023"),
    _vs_rife("4.12.lite", _4_12_LITE, "a small network, of November 2023"),
    _vs_rife("4.11", _4_10, "of November 2023"),
    _vs_rife("4.10", _4_10, "anime"),
    _vs_rife("4.9", _4_7, "anime"),
    _vs_rife("4.8", _4_7, "anime"),
    _vs_rife("4.7", _4_7, "anime"),
    _vs_rife(
        "4.6", "v4.6", "widely used, of September 2022",
        21273159, "008646e761f0e67cb77f0c6c44cfe3c3e5a05d9d9465311b9681ca650ce030db",
    ),
    _vs_rife("4.5", "v4.5", "of September 2022"),
    _vs_rife("4.4", _4_2, "of August 2022"),
    _vs_rife("4.3", _4_2, "of August 2022"),
    _vs_rife("4.2", _4_2, "of August 2022"),
    _vs_rife("4.1", _4_0, "can refine its frames in a second network; of March 2022"),
    _vs_rife("4.0", _4_0, "can refine its frames in a second network; of December 2021"),

    # Every repository has a flownet.pkl; this one is CogVideo's model_rife/flownet.pkl.
    PublishedModel(
        "flownet_cogvideo.pkl", "v3.6 - v3.9", HubFile("AlexWortega/RIFE", "flownet.pkl"),
        "what CogVideo's demo runs", licence=None,
    ),
)
# fmt: on

#: The published models by name, the likeliest choices first.
ZOO: dict[str, PublishedModel] = {entry.name: entry for entry in _ENTRIES}
