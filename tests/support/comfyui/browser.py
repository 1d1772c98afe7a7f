"""ComfyUI's page in a headless Chromium, for the tests and tools/gallery."""

from __future__ import annotations

import base64
import json
import mimetypes
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator
    from playwright.sync_api import Page as Tab

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
SECONDS = 30
RUN_SECONDS = 300
READY = """() => window.app?.extensionManager
    && window.LiteGraph?.registered_node_types.LoadRIFEModel
    && document.querySelector('[data-testid="queue-button"]')"""
#: Where the page says that something is wrong: 0.25's overlay, older dialogs, toasts.
COMPLAINTS = '[data-testid="error-overlay"], [role="dialog"], .p-toast-message-error'
#: Where on the screen the widget of a node is drawn, a node's title without one.
PLACE = """([id, name]) => {
    const node = app.graph.getNodeById(id), {ds, canvas} = app.canvas;
    const widget = node.widgets?.find((it) => it.name === name);
    const [x, y] = ds.convertOffsetToCanvas(
        [node.pos[0] + node.size[0] / 2, node.pos[1] + (widget ? widget.last_y + 10 : -15)]);
    const frame = canvas.getBoundingClientRect();
    return [frame.x + x, frame.y + y];
}"""

#: Where nodes lie, titles included: [[id, left, top, right, bottom], ...] in the graph's units.
BOXES = """() => {
    const {scale, offset} = app.canvas.ds;
    const frame = app.canvas.canvas.getBoundingClientRect();
    const title = LiteGraph.NODE_TITLE_HEIGHT;
    return app.graph.nodes.map(({id, pos: [x, y], size: [width, height]}) => {
        if (!LiteGraph.vueNodesMode) return [id, x, y - title, x + width, y + height];
        const box = document.querySelector(`[data-node-id="${id}"]`).getBoundingClientRect();
        const left = (box.x - frame.x) / scale - offset[0];
        const top = (box.y - frame.y) / scale - offset[1];
        return [id, left, top, left + box.width / scale, top + box.height / scale];
    });
}"""

#: Put a video file in the place of what generates the frames.
FROM_FILE = """(file) => {
    const [load, parts] = ["LoadVideo", "GetVideoComponents"].map((type) => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        return node;
    });
    load.widgets.find((it) => it.name === "file").value = file;
    load.connect(0, parts, 0);
    const rife = app.graph.nodes.find((it) => it.type === "RIFEFrameInterpolate");
    parts.connect(0, rife, rife.findInputSlot("images"));
}"""


class Page:
    """One page of a running ComfyUI, its dialogs closed."""

    def __init__(self, tab: Tab, server: Any) -> None:
        self.tab, self.server = tab, server
        tab.set_default_timeout(SECONDS * 1000)
        self.open()

    def open(self) -> None:
        self.tab.goto(f"http://127.0.0.1:{self.server.port}/")
        self.tab.wait_for_function(READY)
        self.settle()
        self.close_dialogs()

    def settle(self, seconds: float = 1) -> None:
        """Waits for what the page does by itself after a step, where no event marks its end."""
        self.tab.wait_for_timeout(seconds * 1000)

    def close_dialogs(self) -> None:
        while self.tab.locator('[role="dialog"]:visible').count():
            self.tab.keyboard.press("Escape")
            self.settle(0.5)

    @property
    def problems(self) -> list[str]:
        """The errors that the page shows."""
        self.settle()
        return [text for text in self.tab.locator(COMPLAINTS).all_inner_texts() if text.strip()]

    @property
    def graph(self) -> dict:
        """The workflow on the canvas, as the page saves it."""
        return json.loads(self.tab.evaluate("JSON.stringify(app.graph.serialize())"))

    def load(self, workflow: dict) -> None:
        text = json.dumps(workflow)
        self.tab.evaluate("(text) => app.loadGraphData(JSON.parse(text), true, true, null)", text)
        self.settle()

    def templates(self, module: str) -> Locator:
        """The template browser, open at those of a pack."""
        self.command("Comfy.BrowseTemplates")
        dialog = self.tab.get_by_role("dialog")
        dialog.get_by_text(module, exact=True).first.click()
        self.settle()
        return dialog

    def load_template(self, module: str, name: str) -> None:
        dialog = self.templates(module)
        dialog.locator("img").first.wait_for()
        dialog.get_by_text(name, exact=True).first.click()
        dialog.wait_for(state="hidden")
        self.settle()

    def node(self, kind: str) -> dict:
        (node,) = (node for node in self.graph["nodes"] if node["type"] == kind)
        return node

    def place(self, node: int, widget: str = "") -> tuple[float, float]:
        return tuple(self.tab.evaluate(PLACE, [node, widget]))

    def connect(self, kind: str, output: str, to: str, name: str) -> None:
        """Connects an output of the only node of a kind to an input of another."""
        self.tab.evaluate(
            """([kind, output, to, name]) => {
                const [from, target] = [kind, to].map(
                    (type) => app.graph.nodes.find((node) => node.type === type));
                from.connect(from.findOutputSlot(output), target, target.findInputSlot(name));
            }""",
            [kind, output, to, name],
        )

    def value(self, kind: str, widget: str) -> Any:
        """The value that a widget shows, of the only node of its kind."""
        return self.tab.evaluate(
            """([kind, name]) => app.graph.nodes.find((node) => node.type === kind)
                .widgets.find((it) => it.name === name)?.value""",
            [kind, widget],
        )

    def command(self, name: str) -> None:
        self.tab.evaluate("(name) => app.extensionManager.command.execute(name)", name)
        self.settle()

    def search(self, words: str) -> list[str]:
        """The results of the search box, best first: each a name and the text beside it."""
        self.command("Workspace.SearchBox.Toggle")
        self.tab.keyboard.type(words)
        self.settle()
        result = self.tab.get_by_role("option").all_inner_texts()
        self.close_dialogs()
        self.tab.keyboard.press("Escape")
        return result

    def add(self, name: str) -> dict:
        """Search for a node by its name and add it, as with a double click on the canvas."""
        before = {node["id"] for node in self.graph["nodes"]}
        self.command("Workspace.SearchBox.Toggle")
        self.tab.keyboard.type(name)
        self.settle()
        self.tab.keyboard.press("Enter")
        self.settle()
        self.tab.mouse.click(500, 500)  # where the page lets users place what they added
        self.settle()
        (node,) = (node for node in self.graph["nodes"] if node["id"] not in before)
        return node

    def help(self, node: int) -> str:
        """The text that the info button of a node opens."""
        self.tab.mouse.click(*self.place(node))
        self.tab.get_by_test_id("info-button").click()
        page = self.tab.locator(".node-help-content")
        page.locator("h1").first.wait_for()  # the page comes from the server
        self.settle()
        return page.inner_text()

    def set(self, setting: str, value: Any) -> None:
        """Changes a setting and reopens the page, which reads some settings only then."""
        change = "([setting, value]) => app.extensionManager.setting.set(setting, value)"
        self.tab.evaluate(change, [setting, value])
        self.settle()
        self.open()

    def speak(self, language: str) -> None:
        self.set("Comfy.Locale", language)

    def render_nodes_2(self, on: bool) -> bool:
        """Show nodes as Nodes 2.0 does or as the classic page does; False if this page can't, or
        has no more than an experiment of it."""
        version = self.tab.evaluate("window.__COMFYUI_FRONTEND_VERSION__")
        if tuple(map(int, version.split(".")[:2])) < (1, 33):
            self.open()
            return not on
        set_to = "(to) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', to)"
        self.tab.evaluate(set_to, on)
        self.settle()
        self.open()
        return self.tab.evaluate("!!LiteGraph.vueNodesMode") is on

    def boxes(self) -> list[list[float]]:
        return self.tab.evaluate(BOXES)

    def upload(self, path: Path) -> None:
        """Click the button of Load Video and choose a file."""
        with self.tab.expect_file_chooser() as chooser:
            self.tab.mouse.click(*self.place(self.node("LoadVideo")["id"], "upload"))
        chooser.value.set_files(path)
        chosen = "(name) => app.graph.nodes.some((n) => n.widgets?.some((w) => w.value === name))"
        self.tab.wait_for_function(chosen, arg=path.name)

    def swap_nodes(self) -> None:
        """Accept all nodes that the page offers in place of missing ones."""
        see_errors = self.tab.get_by_test_id("error-overlay-see-errors")
        if see_errors.count():  # else they are in sight
            see_errors.click()
        self.tab.get_by_role("button", name="Replace All", exact=True).click()
        self.settle()

    def drop(self, path: Path) -> None:
        """Drop a file on an empty place of the canvas."""
        data = base64.b64encode(path.read_bytes()).decode()
        kind = mimetypes.guess_type(path.name)[0] or "image/webp"
        self.tab.evaluate(
            """([name, type, data]) => {
                const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], name, {type}));
                const place = {clientX: 400, clientY: 700, bubbles: true, cancelable: true};
                document.getElementById('graph-canvas')
                    .dispatchEvent(new DragEvent('drop', {...place, dataTransfer}));
            }""",
            [path.name, kind, data],
        )
        self.settle(2)

    def feed(self, file: str) -> None:
        """Gives RIFE the frames of a video of the input folder, in place of those it was to get."""
        self.tab.evaluate(FROM_FILE, file)

    def run(self) -> list[Path]:
        """Presses Run and waits for the end; returns the saved files."""
        with self.tab.expect_response("**/prompt") as answer:
            self.tab.get_by_test_id("queue-button").click()
        answer = answer.value.json()
        assert "prompt_id" in answer, answer
        give_up = time.monotonic() + RUN_SECONDS
        while not (done := self.server.get(f"/history/{answer['prompt_id']}")):
            assert time.monotonic() < give_up, "the run doesn't end"
            self.settle(0.2)
        (done,) = done.values()
        assert done["status"]["status_str"] == "success", done["status"]
        return [
            self.server.base / file["type"] / file["subfolder"] / file["filename"]
            for output in done["outputs"].values()
            for files in output.values()
            for file in files
            if isinstance(file, dict) and file["type"] == "output"
        ]


@contextmanager
def browsing(server: Any, width: int = 1600, height: int = 1000) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright  # only these tests need it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            tab = browser.new_page(viewport={"width": width, "height": height})
            yield Page(tab, server)
        finally:
            browser.close()
