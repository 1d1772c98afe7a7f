"""The pictures of the example workflows and the README's screenshots, from real runs in ComfyUI.

    python -m tools.gallery [workflows | screens]

workflows: opens each file of example_workflows/ in ComfyUI's page, saves it anew as the page does,
runs it, and draws NAME.jpg, which the template browser shows, and NAME.webp, before and after side
by side, which carries the workflow: drop it on the canvas. screens: the pictures of the page in
docs/. Without either, both.

COMFYUI_DIR, COMFYUI_PYTHON and COMFYUI_PACKS are as for tests/comfyui. COGVIDEO_DIR is a checkout
of CogVideo, for its example clips. v4.0 stands in for the models that the workflows name.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from tests.support.comfyui.browser import Page, browsing
from tests.support.comfyui.server import NAME, NODES, PACK, ComfyUI
from tests.support.hub import serving

from . import assets
from .strip import save_within

WORKFLOWS, DOCS = PACK / "example_workflows", PACK / "docs"
WORKFLOW_TAG = 0x010F  # the EXIF field in which ComfyUI keeps workflows
MADE, GROUND, TEXT = (255, 134, 66), (22, 24, 29), (242, 242, 242)
SIZE = 480, 320  # of the clips
ANIMATED = 16  # frames
LARGEST_THUMBNAIL, LARGEST_ANIMATION, LARGEST_SCREEN = 30_000, 60_000, 150_000

#: Name -> the first frame, how many, and frames a second.
CLIPS = {
    "horse": (0, 12, 8),  # one gallop, so that the end leads to the start
    "train_running": (12, 13, 8),
    "bigbuckbunny": (36, 14, 24),
}


@dataclass(frozen=True)
class Scene:
    """What is shown of a workflow: new frames between `first` and the frame after it."""

    clip: str
    says: str
    steps: Fraction  # output frames for each of the clip's
    first: int


SCENES = {
    "RIFE Smooth Video 2x": Scene("horse", "8 to 16 fps", Fraction(2), 1),
    "RIFE 24 to 60 fps": Scene("bigbuckbunny", "24 to 60 fps", Fraction(60, 24), 2),
    "RIFE Slow Motion 8x": Scene("horse", "8x slower", Fraction(8), 7),
    "RIFE Seamless Loop": Scene("horse", "from the end to the start", Fraction(4), 11),
    "RIFE Long Video": Scene("bigbuckbunny", "file to file", Fraction(2), 4),
    "RIFE after CogVideoX": Scene("train_running", "CogVideoX, 8 to 24 fps", Fraction(3), 1),
    "RIFE after CogVideoX Wrapper": Scene(
        "train_running", "CogVideoX, 8 to 24 fps", Fraction(3), 7
    ),
}


def main() -> None:
    wanted = sys.argv[1:] or ["workflows", "screens"]
    with comfyui() as server:
        if "workflows" in wanted:
            with browsing(server) as page:
                for name, scene in SCENES.items():
                    draw(page, name, scene)
        if "screens" in wanted:
            with browsing(server, 1200, 720) as page:
                take_screens(page)


@contextmanager
def comfyui() -> Iterator[ComfyUI]:
    """A fresh ComfyUI with this pack, its models and the clips in its input folder."""
    with tempfile.TemporaryDirectory() as folder, serving(b"") as hub:
        python = os.environ.get("COMFYUI_PYTHON", sys.executable)
        server = ComfyUI(Path(os.environ["COMFYUI_DIR"]), python, Path(folder) / "base", hub)
        try:
            for name in ("rife_v4.25.safetensors", "rife_v4.26.safetensors"):
                weights = assets.weights("v4.0.safetensors")
                shutil.copyfile(weights, server.base / "models" / "rife" / name)
            for name, part in CLIPS.items():
                cut(assets.video(name), server.base / "input" / f"{name}.mp4", *part)
            server.connect()
            yield server
        finally:
            server.stop()


def read(path: Path) -> tuple[list[Image.Image], Fraction]:
    """The frames of a video, and its rate."""
    with av.open(str(path)) as video:
        rate = video.streams.video[0].average_rate
        return [frame.to_image() for frame in video.decode(video=0)], rate


def cut(path: Path, target: Path, first: int, frames: int, rate: int) -> None:
    """Write a small copy of a part of a clip."""
    with av.open(str(target), "w") as video:
        stream = video.add_stream("libx264", rate=rate, options={"crf": "12"})
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        for index, image in enumerate(read(path)[0][first : first + frames]):
            frame = av.VideoFrame.from_image(fill(image, *SIZE))
            frame.pts, frame.time_base = index, Fraction(1, rate)
            video.mux(stream.encode(frame))
        video.mux(stream.encode(None))


def fill(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image made smaller, its middle where its sides are in another ratio."""
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    x, y = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((x, y, x + width, y + height))


def draw(page: Page, name: str, scene: Scene) -> None:
    path = WORKFLOWS / f"{name}.json"
    graph = json.loads(path.read_text())
    if missing := page.server.lacks(graph):
        print(f"{name} is left as it is, without {', '.join(missing)}")
        return
    page.load(graph)
    graph = page.graph
    graph["extra"].pop("ds", None)  # without it the page fits the workflow into the window
    for node in graph["nodes"]:
        if node["type"] == "LoadVideo":
            # Its button's value, the second, lands on the edits of newer ComfyUIs.
            del node["widgets_values"][1:]
            node["inputs"] = [slot for slot in node["inputs"] if slot["name"] != "upload"]
    path.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n")

    clip = page.server.base / "input" / f"{scene.clip}.mp4"
    if any(node["type"] == "LoadVideo" for node in graph["nodes"]):
        page.upload(clip)
    else:
        page.feed(clip.name)
    before, after = read(clip), read(page.run()[0])

    picture = thumbnail(before[0], after[0], scene)
    save_within(picture, path.with_suffix(".jpg"), LARGEST_THUMBNAIL)
    first, *rest = animation(before, after, scene)
    exif = Image.Exif()
    exif[WORKFLOW_TAG] = "workflow:" + json.dumps(graph, separators=(",", ":"))
    options = {"save_all": True, "append_images": rest, "duration": round(1000 / after[1])}
    save_within(first, path.with_suffix(".webp"), LARGEST_ANIMATION, exif=exif, loop=0, **options)


def thumbnail(before: list[Image.Image], after: list[Image.Image], scene: Scene) -> Image.Image:
    """Two frames of the clip and, large, one that was made between them. A square: the template
    browser cuts off what is not."""
    picture = Image.new("RGB", (400, 400), GROUND)
    for column in (0, 1):
        given = before[(scene.first + column) % len(before)]
        picture.paste(fill(given, 198, 131), (column * 202, 0))
    made = after[round((scene.first + 0.5) * scene.steps)]
    picture.paste(fill(made, 394, 259), (3, 138))
    ImageDraw.Draw(picture).rectangle((0, 135, 399, 399), outline=MADE, width=3)
    return label(picture, 10, 390, scene.says, 24)


def animation(before: tuple, after: tuple, scene: Scene) -> list[Image.Image]:
    """The clip and what became of it, as they would play side by side."""
    pictures, start = [], round(scene.first * scene.steps)
    for step in range(ANIMATED):
        passed = int(step * before[1] / after[1])  # frames of the clip
        picture = Image.new("RGB", (424, 140), GROUND)
        picture.paste(fill(before[0][(scene.first + passed) % len(before[0])], 210, 140), (0, 0))
        picture.paste(fill(after[0][(start + step) % len(after[0])], 210, 140), (214, 0))
        pictures.append(label(label(picture, 6, 134, "before", 14), 220, 134, "after", 14))
    return pictures


def label(picture: Image.Image, left: int, bottom: int, text: str, size: int) -> Image.Image:
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    width, height, pad = pen.textlength(text, font), size * 1.5, size // 2
    box = (left, bottom - height, left + width + 2 * pad, bottom)
    pen.rounded_rectangle(box, height / 3, fill=GROUND)
    pen.text((left + pad, bottom - height / 2), text, TEXT, font, anchor="lm")
    return picture


def take_screens(page: Page) -> None:
    """The steps of the first workflow, and the nodes."""
    page.tab.evaluate("app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    page.templates(NAME)
    page.tab.wait_for_load_state("networkidle")
    shoot(page, "first-1-template")
    page.close_dialogs()

    page.load_template(NAME, "RIFE Smooth Video 2x")
    show(page, left=70, top=90)
    shoot(page, "first-2-workflow")
    page.upload(page.server.base / "input" / "horse.mp4")
    page.run()
    page.tab.mouse.move(600, 690)
    page.settle(8)  # until the note that the job is done has gone
    shoot(page, "first-3-result")

    page.load({"version": 0.4, "nodes": [], "links": []})
    page.tab.evaluate(LAY_OUT, list(NODES))
    x, y, width, height = show(page, left=70, top=100)
    shoot(page, "nodes", {"x": x, "y": y, "width": width, "height": height})


LAY_OUT = """(kinds) => {
    let x = 0;
    for (const kind of kinds) {
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        node.pos = [x, 0];
        node.setSize([300, node.computeSize()[1]]);
        x += 330;
    }
}"""
#: Fill the canvas, from the given left and top on; where the workflow then lies on the screen.
SHOW = """([left, top]) => {
    const items = [...app.graph.nodes, ...(app.graph.groups ?? app.graph._groups)];
    const xs = items.flatMap((it) => [it.pos[0], it.pos[0] + it.size[0]]);
    const ys = items.flatMap((it) => [it.pos[1] - 50, it.pos[1] + it.size[1]]);
    const x = Math.min(...xs), y = Math.min(...ys);
    const width = Math.max(...xs) - x, height = Math.max(...ys) - y;
    const {ds} = app.canvas;
    ds.scale = Math.min((innerWidth - left - 20) / width, (innerHeight - top - 20) / height, 1);
    const frame = app.canvas.canvas.getBoundingClientRect();
    ds.offset[0] = (left - frame.x) / ds.scale - x;
    ds.offset[1] = (top - frame.y) / ds.scale - y;
    app.canvas.setDirty(true, true);
    return [left - 10, top - 5, width * ds.scale + 20, height * ds.scale + 20];
}"""


def show(page: Page, left: int, top: int) -> list[float]:
    box = page.tab.evaluate(SHOW, [left, top])
    page.settle()
    return box


def shoot(page: Page, name: str, part: dict | None = None) -> None:
    picture = Image.open(BytesIO(page.tab.screenshot(clip=part))).convert("RGB")
    save_within(picture, DOCS / f"{name}.jpg", LARGEST_SCREEN)


if __name__ == "__main__":
    main()
