"""What users see in ComfyUI's real page: templates, example workflows, help, names, subgraph."""

import json
import os
import shutil
import urllib.error
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote

import av
import pytest

from rife.zoo import ZOO
from tools import assets

from .conftest import NAME, NODES, PACK, ComfyUI

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from .browser import CHROMIUM, Page, browsing  # noqa: E402

pytestmark = pytest.mark.comfyui

WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))
#: Of 25 frames at 25 a second with sound: rate, frames and whether there is sound afterwards.
RESULTS = {
    "RIFE Smooth Video 2x": (50, 49, True),
    "RIFE 24 to 60 fps": (60, 60, True),
    "RIFE Slow Motion 8x": (25, 193, False),
    "RIFE Seamless Loop": (100, 100, False),
    "RIFE Long Video": (50, 49, True),
}
GENERATED = ("RIFE after CogVideoX", "RIFE after CogVideoX Wrapper")


@pytest.fixture(scope="module")
def page(comfy: ComfyUI, weights: Callable[[str], Path]) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on the PATH")
    # v4.0 under the names of the workflows' models, which can't be fetched without a network.
    for name in ("rife_v4.25.safetensors", "rife_v4.26.safetensors"):
        shutil.copyfile(weights("v4.0.safetensors"), comfy.base / "models" / "rife" / name)
    with browsing(comfy) as page:
        yield page


def read(path: Path) -> tuple[Fraction, int, bool]:
    """A video's rate, number of frames and whether it has sound."""
    with av.open(str(path)) as video:
        stream, sound = video.streams.video[0], bool(video.streams.audio)
        return stream.average_rate, sum(1 for _ in video.decode(stream)), sound


def essence(graph: dict) -> tuple:
    """What a workflow does, without what each page adds to it."""
    nodes = sorted(
        (node["id"], node["type"], str(node.get("widgets_values"))) for node in graph["nodes"]
    )
    return nodes, sorted(map(tuple, graph["links"]))


def test_the_template_browser_lists_the_workflows_with_their_pictures(page: Page) -> None:
    fetched = set()
    page.tab.on("response", lambda answer: fetched.add(unquote(answer.url)) if answer.ok else None)
    page.open()
    dialog = page.templates(NAME)
    titles = [dialog.get_by_text(workflow.stem, exact=True).first for workflow in WORKFLOWS]
    for part in (*titles, *dialog.locator("img").all()):  # those in sight are fetched
        part.evaluate("(it) => it.scrollIntoView({block: 'center'})")
        page.settle(0.3)
    widths = dialog.locator("img").evaluate_all("(all) => all.map((it) => it.naturalWidth)")
    page.close_dialogs()
    names = {url.rpartition("/")[2] for url in fetched if f"/workflow_templates/{NAME}/" in url}
    assert names == {f"{workflow.stem}.jpg" for workflow in WORKFLOWS}
    assert len(widths) == len(WORKFLOWS)
    assert set(widths) - {0} == {400}  # older pages drop the ones out of sight


@pytest.mark.parametrize("name", RESULTS)
def test_a_template_opens_without_complaint_and_runs(
    page: Page, comfy: ComfyUI, talking: str, name: str
) -> None:
    page.load_template(NAME, name)
    assert page.problems == []
    page.upload(comfy.base / "input" / talking)
    (saved,) = page.run()
    assert read(saved) == RESULTS[name]
    assert page.problems == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_dropping_the_picture_on_the_canvas_loads_the_same_graph(
    page: Page, workflow: Path
) -> None:
    graph = json.loads(workflow.read_text())
    if missing := page.server.lacks(graph):
        pytest.skip(f"this ComfyUI lacks {', '.join(missing)}")
    page.load(graph)
    loaded = essence(page.graph)
    page.load(node_graph())
    page.drop(workflow.with_suffix(".webp"))
    assert essence(page.graph) == loaded


@pytest.mark.parametrize("name", GENERATED)
def test_the_half_after_the_generator_runs_on_a_generated_clip(
    page: Page, comfy: ComfyUI, talking: str, name: str
) -> None:
    """On one that CogVideoX made, where COGVIDEO_DIR names a checkout of it."""
    clip = comfy.base / "input" / talking
    if "COGVIDEO_DIR" in os.environ:
        clip = clip.with_name("horse.mp4")
        shutil.copyfile(assets.video("horse"), clip)
    graph = json.loads((PACK / "example_workflows" / f"{name}.json").read_text())
    if missing := comfy.lacks(graph):
        pytest.skip(f"this ComfyUI lacks {', '.join(missing)}")
    page.load(graph)
    page.feed(clip.name)
    (saved,) = page.run()
    assert read(saved) == (24, 3 * read(clip)[1] - 2, False)


def node_graph(*kinds: str) -> dict:
    """A workflow of unconnected nodes, side by side."""
    nodes = [
        {"id": number, "type": kind, "pos": [450 * number, 100]}
        for number, kind in enumerate(kinds, 1)
    ]
    return {"version": 0.4, "last_node_id": len(nodes), "nodes": nodes, "links": []}


@pytest.mark.parametrize("kind", NODES)
def test_the_info_button_opens_our_help_page(page: Page, kind: str) -> None:
    help_page = PACK / "web" / "docs" / f"{kind}.md"
    page.load(node_graph(kind))
    headings = [line.lstrip("# ") for line in help_page.read_text().splitlines() if line[:1] == "#"]
    shown = page.help(1)
    assert headings and all(heading in shown for heading in headings)


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_the_nodes_names_follow_the_language(page: Page, language: str) -> None:
    expected = json.loads((PACK / "locales" / language / "nodeDefs.json").read_text())
    page.speak(language)
    try:
        page.load(node_graph(*NODES))
        titles = page.tab.evaluate("app.graph.nodes.map((node) => [node.type, node.title])")
        labels = page.tab.evaluate(
            "app.graph.nodes.map((node) => node.widgets.map((it) => it.label))"
        )
    finally:
        page.speak("en")
    assert dict(titles) == {kind: expected[kind]["display_name"] for kind in NODES}
    for (kind, _), shown in zip(titles, labels, strict=True):
        assert {it["name"] for it in expected[kind]["inputs"].values()} >= set(filter(None, shown))
        assert any(shown)


def test_the_subgraph_is_found_and_runs(page: Page, comfy: ComfyUI, talking: str) -> None:
    try:
        comfy.get("/global_subgraphs")
    except urllib.error.HTTPError:
        pytest.skip("this ComfyUI has no subgraphs that packs bring along")
    page.load(node_graph("LoadVideo", "SaveVideo"))
    page.upload(comfy.base / "input" / talking)
    interpolate = page.add("Interpolate video")
    assert [slot["name"] for slot in interpolate["inputs"]] == [
        "video", "model_name", "multiplier", "target_fps"
    ]  # fmt: skip
    page.tab.evaluate(
        """(id) => {
            const [load, save] = ["LoadVideo", "SaveVideo"].map(
                (type) => app.graph.nodes.find((node) => node.type === type));
            const node = app.graph.getNodeById(id);
            load.connect(0, node, "video");
            node.connect("video", save, "video");
            node.widgets.find((it) => it.name === "multiplier").value = 3;
        }""",
        interpolate["id"],
    )
    (saved,) = page.run()
    assert read(saved) == (75, 73, True)
    assert page.problems == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_node_link_and_value_is_as_the_nodes_define_them(
    comfy: ComfyUI, workflow: Path
) -> None:
    """Without a browser. COMFYUI_PACKS names the folders of other packs to install and check."""
    graph, known = json.loads(workflow.read_text()), comfy.get("/object_info")
    if missing := comfy.lacks(graph):
        pytest.skip(f"this ComfyUI lacks {', '.join(missing)}")
    nodes = {node["id"]: node for node in graph["nodes"] if node["type"] in known}
    for node in nodes.values():
        definition = known[node["type"]]
        slots = {slot["name"]: slot for slot in node["inputs"]}
        assert set(definition["input"].get("required", {})) <= set(slots)
        inputs = {**definition["input"].get("required", {})} | definition["input"].get(
            "optional", {}
        )
        values = iter(node["widgets_values"])
        for name, slot in slots.items():
            kind, *options = inputs.get(name, [None])
            if kind is not None:  # else one of a newer ComfyUI, or the button of Load Video
                assert slot["type"] == ("COMBO" if isinstance(kind, list) else kind)
            if isinstance(node["widgets_values"], dict):  # by name, as VideoHelperSuite saves them
                assert "widget" not in slot or name in node["widgets_values"]
            elif "widget" in slot:
                value = next(values)
                choices = kind if isinstance(kind, list) else dict(*options).get("options")
                if choices and value and not str(value).endswith(".safetensors"):
                    assert value in choices
                if name in ("seed", "noise_seed"):
                    assert next(values) == "fixed"  # Run again after a change makes the same clip
        assert isinstance(node["widgets_values"], dict) or not list(values)
    for _, origin, output, target, slot, kind in graph["links"]:
        assert known[nodes[origin]["type"]]["output"][output] == kind
        assert nodes[target]["inputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][slot]["name"] in str(known[nodes[target]["type"]]["input"])


def test_the_workflows_offer_the_models_they_name() -> None:
    """As the page wants them: a file that it lets users download, in a folder for its kind."""
    for workflow in WORKFLOWS:
        for node in json.loads(workflow.read_text())["nodes"]:
            for model in node["properties"].get("models", []):
                assert model["name"] in node["widgets_values"]
                assert model["url"].startswith("https://huggingface.co/")
                assert model["url"].endswith("/" + model["name"])
                if node["type"] == "LoadRIFEModel":
                    published = ZOO[model["name"]]
                    assert published.source.path.endswith(model["name"])
                    assert published.source.repo in model["url"]
                    assert (model["hash"], model["directory"]) == (published.sha256, "rife")


def test_a_missing_node_of_others_is_swapped_for_ours(page: Page, comfy: ComfyUI) -> None:
    if not comfy.get("/features").get("node_replacements"):
        pytest.skip("this ComfyUI replaces no nodes")
    load = {"id": 1, "type": "LoadImage", "pos": [50, 100], "size": [200, 100]}
    load["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": [1]}]
    vfi = {"id": 2, "type": "RIFE VFI", "pos": [350, 100], "size": [250, 300]}
    vfi["inputs"] = [{"name": "frames", "type": "IMAGE", "link": 1}]
    vfi["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": [2]}]
    vfi["widgets_values"] = ["rife47.pth", 10, 4, True, True, 1.0]
    show = {"id": 3, "type": "PreviewImage", "pos": [700, 100], "size": [200, 100]}
    show["inputs"] = [{"name": "images", "type": "IMAGE", "link": 2}]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]
    page.load({"nodes": [load, vfi, show], "links": links, "version": 0.4})
    page.tab.get_by_test_id("error-overlay-see-errors").click()
    page.tab.get_by_role("button", name="Replace Node").click()
    page.settle()
    ours = page.node("RIFEFrameInterpolate")
    assert ours["widgets_values"][0] == 4
    linked = {slot["name"] for slot in ours["inputs"] if slot.get("link")}
    assert linked == {"images"} and ours["outputs"][0]["links"]
    assert page.node("PreviewImage")["inputs"][0]["link"] in ours["outputs"][0]["links"]
