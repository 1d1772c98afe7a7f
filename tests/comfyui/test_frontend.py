"""What users see in ComfyUI's real page: templates, example workflows, help, names, subgraph."""

import json
import os
import shutil
import urllib.error
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote

import av
import pytest

from rife.models.zoo import ZOO
from tools import assets

from ..support.comfyui.browser import CHROMIUM, Page, browsing
from ..support.comfyui.server import NAME, NODES, PACK, ComfyUI

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


def test_app_mode_shows_what_a_person_sets_of_the_first_template(page: Page) -> None:
    commands = page.tab.evaluate("app.extensionManager.command.commands.map((it) => it.id)")
    if "Comfy.ToggleLinear" not in commands:
        pytest.skip("this page has no App mode")
    page.load_template(NAME, "RIFE Smooth Video 2x")
    page.command("Comfy.ToggleLinear")
    page.close_dialogs()  # a tour of it
    try:
        for name in ("file", "multiplier", "target_fps", "duplicates"):
            assert page.tab.get_by_text(name, exact=True).locator("visible=true").count() == 1
    finally:
        page.command("Comfy.ToggleLinear")


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


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_nodes_of_the_workflows_lie_apart(page: Page, nodes_2: bool) -> None:
    """They are of other sizes in each rendering, and in each page."""
    try:
        if not page.render_nodes_2(nodes_2):
            pytest.skip("this page has one rendering only")
        for workflow in WORKFLOWS:
            page.load(json.loads(workflow.read_text()))
            for one, other in combinations(page.boxes(), 2):
                apart = max(*(a - b for a, b in zip(one[1:3], other[3:], strict=True)))
                apart = max(apart, *(a - b for a, b in zip(other[1:3], one[3:], strict=True)))
                assert apart > 5, (workflow.stem, one, other)
    finally:
        page.render_nodes_2(False)


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


def test_the_report_says_where_the_frames_are_played_at_another_rate(
    page: Page, comfy: ComfyUI, talking: str
) -> None:
    page.load(
        node_graph(
            *("LoadVideo", "GetVideoComponents", "RIFEFrameInterpolate"),
            *("CreateVideo", "SaveVideo"),
        )
    )
    page.upload(comfy.base / "input" / talking)
    page.connect("LoadVideo", "VIDEO", "GetVideoComponents", "video")
    page.connect("GetVideoComponents", "images", "RIFEFrameInterpolate", "images")
    page.connect("RIFEFrameInterpolate", "images", "CreateVideo", "images")
    page.connect("CreateVideo", "VIDEO", "SaveVideo", "video")
    (saved,) = page.run()
    assert read(saved) == (30, 49, False)
    line, done, _ = page.value("RIFEFrameInterpolate", "report").splitlines()
    assert line.startswith("Create Video plays them at 30 fps, not at 50: connect fps")
    assert done == "25 -> 49 frames, 25 -> 50 fps"

    page.connect("RIFEFrameInterpolate", "fps", "CreateVideo", "fps")
    (saved,) = page.run()
    assert read(saved) == (50, 49, False)
    node = comfy.get("/object_info/RIFEFrameInterpolate")["RIFEFrameInterpolate"]
    if node.get("has_intermediate_output"):  # else older ones don't show it again: it didn't run
        assert page.value("RIFEFrameInterpolate", "report").startswith(done)


@pytest.mark.parametrize("kind", NODES)
def test_the_info_button_opens_our_help_page(page: Page, kind: str) -> None:
    help_page = PACK / "web" / "docs" / f"{kind}.md"
    page.load(node_graph(kind))
    headings = [line.lstrip("# ") for line in help_page.read_text().splitlines() if line[:1] == "#"]
    shown = page.help(1)
    assert headings and all(heading in shown for heading in headings)


@pytest.fixture(params=[False, True], ids=["classic", "Nodes 2.0"])
def rendering(page: Page, request: pytest.FixtureRequest) -> Iterator[None]:
    """The page, drawing nodes in one of its two ways."""
    if not page.render_nodes_2(request.param):
        pytest.skip("this page has one rendering only")
    yield
    page.render_nodes_2(False)


def test_a_forgotten_rate_is_the_video_s_and_the_report_stays_on_the_node(
    page: Page, comfy: ComfyUI, talking: str, rendering: None
) -> None:
    comfy.forget_results()  # old cores show no report of a node whose outputs are cached
    kinds = ["LoadVideo", "GetVideoComponents", "RIFEFrameInterpolate", "CreateVideo", "SaveVideo"]
    page.load(node_graph(*kinds))
    page.tab.evaluate(
        """([kinds, file]) => {
            const [load, parts, rife, create, save] =
                kinds.map((kind) => app.graph.nodes.find((node) => node.type === kind));
            load.widgets.find((it) => it.name === "file").value = file;
            load.connect(0, parts, 0);
            parts.connect(0, rife, rife.findInputSlot("images"));
            rife.connect(0, create, create.findInputSlot("images"));
            rife.connect(1, create, create.findInputSlot("fps"));
            create.connect(0, save, 0);
        }""",
        [kinds, talking],
    )
    values = page.node("RIFEFrameInterpolate")["widgets_values"]
    (saved,) = page.run()
    assert read(saved) == (50, 49, False)
    assert report_in(page).startswith("25 -> 49 frames, 25 -> 50 fps\n")
    assert page.node("RIFEFrameInterpolate")["widgets_values"] == values
    page.load(page.graph)
    assert report_in(page) is None
    node = comfy.get("/object_info/RIFEFrameInterpolate")["RIFEFrameInterpolate"]
    if node.get("has_intermediate_output"):
        page.run()  # nothing to do but to show again what there is
        assert report_in(page)


def report_in(page: Page, kind: str = "RIFEFrameInterpolate") -> str | None:
    """What the box of text on the node of a kind shows; pages hide those that are far or small."""
    page.tab.evaluate(
        """(kind) => {
            app.canvas.ds.scale = 1;
            app.canvas.centerOnNode(app.graph.nodes.find((it) => it.type === kind));
            app.canvas.setDirty(true, true);
        }""",
        kind,
    )
    page.settle()
    boxes = page.tab.locator("textarea:visible").evaluate_all("(all) => all.map((it) => it.value)")
    return next((text for text in boxes if text), None)


def test_a_failed_download_says_why_on_its_node_until_the_next_run(
    page: Page, comfy: ComfyUI, rendering: None
) -> None:
    page.load(node_graph("EmptyImage", "LoadRIFEModel", "RIFEOpticalFlow", "PreviewImage"))
    page.tab.evaluate(
        """(model) => {
            const [image, loader, flow, show] = app.graph.nodes;
            image.widgets.find((it) => it.name === "batch_size").value = 2;
            loader.widgets.find((it) => it.name === "model_name").value = model;
            image.connect(0, flow, flow.findInputSlot("images"));
            loader.connect(0, flow, flow.findInputSlot("model"));
            flow.connect(0, show, 0);
        }""",
        "rife49.pth",
    )
    report_in(page, "LoadRIFEModel")
    comfy.hub.status = 404
    try:
        page.tab.get_by_test_id("queue-button").click()
        page.tab.locator("textarea:visible").wait_for()
    finally:
        comfy.hub.status = None
    page.close_dialogs()  # older pages say it there, too
    why = report_in(page, "LoadRIFEModel")
    assert why.startswith("rife49.pth was not downloaded: the server answers 404")
    page.tab.evaluate(
        """() => {
            const loader = app.graph.nodes.find((it) => it.type === "LoadRIFEModel");
            loader.widgets.find((it) => it.name === "model_name").value = "v4.0.pkl";
        }"""
    )
    page.run()
    assert report_in(page, "RIFEOpticalFlow").startswith("RIFE v4.0")  # what the other node did


#: How many nodes of others may come first: those that are called so.
@pytest.mark.parametrize(
    ("words", "others"), [("interpolate", 0), ("fps", 0), ("slow motion", 0), ("smooth", 1)]
)
def test_the_search_finds_ours_first(page: Page, comfy: ComfyUI, words: str, others: int) -> None:
    if "node_replacements" not in comfy.get("/features"):
        pytest.skip("this ComfyUI knows neither aliases nor subgraphs of packs")
    page.load(node_graph("LoadVideo"))
    result = page.search(words)
    assert any(
        name in text for text in result[: others + 1] for name in ("RIFE", "Interpolate (smooth")
    )


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
    interpolate = page.add("Interpolate (smooth")
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
    if "DYNAMICCOMBO" in str(known["SaveVideo"]):
        pytest.skip("this ComfyUI's Save Video has other widgets; pages fit old values to them")
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


def replaced_graph(kind: str, widgets: list, **node: object) -> dict:
    """A workflow in which a node of another pack gets images and one more link, whose checkpoint is
    its first widget, and whose images become a video of 60 fps."""

    def slot(name: str, kind: str, *links: int) -> dict:
        return {"name": name, "type": kind, "link": links[0] if links else None}

    def output(kind: str, *links: int) -> dict:
        return {"name": kind, "type": kind, "links": list(links)}

    nodes = [
        {"id": 1, "type": "LoadVideo", "outputs": [output("VIDEO", 1)]},
        {
            "id": 2,
            "type": "GetVideoComponents",
            "inputs": [slot("video", "VIDEO", 1)],
            "outputs": [output("IMAGE", 2), output("AUDIO"), output("FLOAT", 3), output("INT")],
        },
        {
            "id": 3,
            "type": kind,
            "inputs": [slot("frames", "IMAGE", 2), slot("states", "FLOAT", 3)],
            "outputs": [output("IMAGE", 4)],
            "widgets_values": widgets,
            "properties": {"cnr_id": "comfyui-frame-interpolation", "ver": "1.0.7"},
            **node,
        },
        {
            "id": 4,
            "type": "CreateVideo",
            "inputs": [slot("images", "IMAGE", 4)],
            "outputs": [output("VIDEO", 5)],
            "widgets_values": [60],
        },
        {"id": 5, "type": "SaveVideo", "inputs": [slot("video", "VIDEO", 5)]},
    ]
    for node in nodes:
        node["pos"] = [300 * node["id"], 300]
        node["size"] = [250, 200]
    links = [
        [1, 1, 0, 2, 0, "VIDEO"],
        [2, 2, 0, 3, 0, "IMAGE"],
        [3, 2, 2, 3, 1, "FLOAT"],
        [4, 3, 0, 4, 0, "IMAGE"],
        [5, 4, 0, 5, 0, "VIDEO"],
    ]
    return {"nodes": nodes, "links": links, "last_node_id": 5, "last_link_id": 5, "version": 0.4}


def inputs(page: Page, kind: str) -> dict:
    """What a node's inputs are: values, and the types of nodes that are connected."""
    return page.tab.evaluate(
        """(kind) => {
            const node = app.graph.nodes.find((it) => it.type === kind);
            const values = node.widgets.map((it) => [it.name, it.value]);
            const links = node.inputs.flatMap(({name}, slot) => {
                const link = node.getInputLink(slot);
                return link ? [[name, app.graph.getNodeById(link.origin_id).type]] : [];
            });
            return Object.fromEntries([...values, ...links]);
        }""",
        kind,
    )


@pytest.mark.parametrize(
    "kind, widgets, title, expected",
    [
        (
            "RIFE VFI",
            ["rife47.pth", 10, 100, True, True, 1.0],
            "RIFE VFI (recommend rife47 and rife49)",
            {"multiplier": 100, "source_fps": 0.6, "checkpoint": "rife47.pth"},
        ),
        (
            "FL_RIFE",
            ["rife47", 3, False],
            "Mine",
            {"multiplier": 3, "source_fps": 20, "checkpoint": "rife47.pth"},
        ),
        (
            "RIFEInterpolation",
            [16, 48, 1, "flownet.pkl", 8, True],
            None,
            {"source_fps": 16, "target_fps": 48, "checkpoint": None},
        ),
    ],
)
def test_a_missing_node_of_others_is_swapped_for_ours(
    page: Page, comfy: ComfyUI, kind: str, widgets: list, title: str | None, expected: dict
) -> None:
    """With its links, values and checkpoint; `fps` becomes the rate that is typed after it."""
    if not comfy.get("/features").get("node_replacements"):
        pytest.skip("this ComfyUI replaces no nodes")
    workflow = replaced_graph(kind, widgets, **{"title": title} if title else {})
    workflow["nodes"][2]["inputs"][0]["name"] = "frames" if kind == "RIFE VFI" else "images"
    page.load(workflow)
    page.swap_nodes()
    ours = inputs(page, "RIFEFrameInterpolate")
    checkpoint = expected.pop("checkpoint")
    assert ours.items() >= expected.items()
    assert ours["images"] == "GetVideoComponents"
    assert ours.get("model") == ("LoadRIFEModel" if checkpoint else None)
    if checkpoint:
        assert inputs(page, "LoadRIFEModel")["model_name"] == checkpoint
    else:
        assert page.tab.get_by_text("the default model is used").last.is_visible()
    assert inputs(page, "CreateVideo").items() >= {
        "images": "RIFEFrameInterpolate", "fps": 60
    }.items()  # fmt: skip
    saved = page.node("RIFEFrameInterpolate")
    assert saved.get("title", "RIFE Frame Interpolate") == (
        "Mine" if title == "Mine" else "RIFE Frame Interpolate"
    )
    assert saved["properties"].get("cnr_id") != "comfyui-frame-interpolation"
    assert 3 not in [link[0] for link in page.graph["links"]]  # to an input that ours has not
    assert not page.node("GetVideoComponents")["outputs"][2]["links"]


def test_a_swapped_workflow_gives_what_it_gave(page: Page, comfy: ComfyUI, talking: str) -> None:
    if not comfy.get("/features").get("node_replacements"):
        pytest.skip("this ComfyUI replaces no nodes")
    page.load(replaced_graph("RIFE VFI", ["rife47.pth", 10, 3, True, True, 1.0]))
    page.swap_nodes()
    page.upload(comfy.base / "input" / talking)
    (saved,) = page.run()
    assert read(saved) == (60, 73, False)


def test_a_missing_node_that_is_bypassed_is_offered_once_it_is_not(
    page: Page, comfy: ComfyUI
) -> None:
    """The page looks for missing nodes only among those that would run."""
    if not comfy.get("/features").get("node_replacements"):
        pytest.skip("this ComfyUI replaces no nodes")
    page.load(replaced_graph("RIFE VFI", ["rife47.pth", 10, 3, True, True, 1.0], mode=4))
    assert page.problems == []
    page.tab.evaluate("app.canvas.selectNode(app.graph.getNodeById(3))")
    page.command("Comfy.Canvas.ToggleSelectedNodes.Bypass")
    page.swap_nodes()
    assert inputs(page, "RIFEFrameInterpolate")["multiplier"] == 3
