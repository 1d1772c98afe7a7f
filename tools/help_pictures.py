"""The pictures of the nodes' help pages, in web/docs: real clips and real weights (v4.0).

    COGVIDEO_DIR=... python -m tools.help_pictures [NAME ...]

COGVIDEO_DIR is a checkout of CogVideo, whose clips are used beside those of `tools.assets`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import rife

from . import assets, strip

PICTURES = assets.ROOT / "web" / "docs" / "pictures"
WIDTH = 960  # the help panel shows it smaller
GAP, LINE = 8, 40
NEW = "#ffb000"  # the frame around what RIFE made
LARGEST_FILE = 60_000

Cell = tuple[str, np.ndarray | Image.Image]


def clip(name: str) -> np.ndarray:
    """All frames, (N, H, W, 3) uint8, of a clip that CogVideoX made or took, or of `assets`."""
    cogvideo = Path(os.environ["COGVIDEO_DIR"])
    homes = (
        cogvideo / "resources" / "videos",
        cogvideo / "inference" / "gradio_composite_demo" / "example_videos",
    )
    paths = [home / f"{name}.mp4" for home in homes]
    return strip.read(next((path for path in paths if path.exists()), None) or assets.clip(name))


def run(frames: np.ndarray, multiplier: int = 2, **options) -> np.ndarray:
    model = rife.load_model(assets.weights("v4.0"), device="cpu")
    images = torch.from_numpy(frames.astype(np.float32) / 255)
    return to_bytes(rife.interpolate(model, images, multiplier, **options))


def to_bytes(images: Tensor) -> np.ndarray:
    return strip.to_bytes(images.cpu().numpy() * 255)


def resized(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.stack([Image.fromarray(f).resize((width, height), Image.LANCZOS) for f in frames])


def crop(image: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    return image[top : top + height, left : left + width]


def sheet(rows: Sequence[Sequence[Cell]], new: Callable[[int, int], bool] = lambda *_: False):
    """Rows of images of one size, as wide as fits, each under its caption; those that are `new`
    (row, column) in a frame."""
    page = Image.new("RGB", (WIDTH, 10_000), strip.BACKGROUND)
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=26)
    y = 0
    for i, row in enumerate(rows):
        width = (WIDTH - GAP) // len(row) - GAP
        line = LINE if any(caption for caption, _ in row) else GAP
        for j, (caption, image) in enumerate(row):
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            height = round(width * image.height / image.width)
            x = GAP + j * (width + GAP)
            pen.text((x + width / 2, y + line / 2), caption, strip.TEXT, font, "mm")
            page.paste(image.resize((width, height), Image.LANCZOS), (x, y + line))
            if new(i, j):
                box = (x - 3, y + line - 3, x + width + 2, y + line + height + 2)
                pen.rectangle(box, outline=NEW, width=4)
        y += line + height
    return page.crop((0, 0, WIDTH, y + GAP))


def multiplier() -> Image.Image:
    """A painter's hand, by CogVideoX: 8 frames a second, and what 2x puts between them."""
    frames = clip("3")[8:11]
    between = run(frames)
    cut = [crop(f, 200, 20, 300, 330) for f in between]
    blank = Image.new("RGB", (300, 330), strip.BACKGROUND)
    rows = [
        [("8 fps" if i == 0 else "", c if i % 2 == 0 else blank) for i, c in enumerate(cut)],
        [("16 fps" if i == 0 else "", c) for i, c in enumerate(cut)],
    ]
    return sheet(rows, lambda i, j: i == 1 and j % 2 == 1)


def flow_scale() -> Image.Image:
    """The same frame at each scale, and the real one: large frames, large motion, fine detail."""
    rows = []
    moments = (
        # clip, real frame, size that the network gets, crop in the clip's own pixels
        ("train_running", 20, (2880, 1920), (60, 60, 300, 300)),
        ("train_running", 5, None, (60, 60, 300, 300)),
        ("bikes", 201, None, (150, 0, 272, 272)),
    )
    for name, i, size, box in moments:
        frames = clip(name)[i - 1 : i + 2]
        height, width = frames.shape[1:3]
        pair = frames[::2] if size is None else resized(frames[::2], *size)
        row = []
        for scale in (0.25, 0.5, 1, 2):
            made = run(pair, scale=scale, cuts="ignore")[1]
            if size is not None:
                made = resized(made[None], width, height)[0]
            error = strip.psnr(made, frames[1])
            row.append((f"{scale:g}: {error:.1f} dB", crop(made, *box)))
        rows.append([*row, ("real", crop(frames[1], *box))])
    return sheet(rows)


def cuts() -> Image.Image:
    """3x at a real cut."""
    frames = clip("bikes")[75:77]
    rows = []
    for choice in rife.CUTS:
        made = [crop(f, 60, 0, 408, 272) for f in run(frames, 3, cuts=choice)]
        rows.append([(choice if j == 0 else "", image) for j, image in enumerate(made)])
    return sheet(rows, lambda i, j: j in (1, 2))


def duplicates() -> Image.Image:
    """A man who walks by, each frame shown twice, without and with: one line of the picture, the
    first moment on top. The third cell shows which line."""
    line = 60
    frames = clip("bikes")[189:213]
    shown_twice = frames[np.arange(len(frames)) // 2 * 2]
    row = []
    for choice in (False, True):
        over_time = run(shown_twice, 1, duplicates=choice)[:, line]
        image = Image.fromarray(over_time).resize((640, 408), Image.NEAREST)
        row.append((f"duplicates: {str(choice).lower()}", image))
    whole = resized(frames[4:5], 640, 408)[0]
    whole[line * 408 // 272 + np.arange(-1, 2)] = 255
    return sheet([[*row, ("", whole)]])


def ensemble() -> Image.Image:
    """A frame without and with, and the real one; below, the errors times 4."""
    frames = clip("bikes")[100:103]
    box = (150, 0, 240, 160)
    rows = [[], []]
    for choice in (False, True):
        made = run(frames[::2], ensemble=choice)[1]
        error = np.abs(made.astype(int) - frames[1]) * strip.ERROR_GAIN
        caption = f"{'ensemble: ' * choice}{strip.psnr(made, frames[1]):.1f} dB"
        rows[0].append((caption, crop(made, *box)))
        rows[1].append(("", crop(error.clip(0, 255).astype(np.uint8), *box)))
    rows[0].append(("real", crop(frames[1], *box)))
    rows[1].append(("", Image.new("RGB", box[2:], strip.BACKGROUND)))
    return sheet(rows)


def optical_flow() -> Image.Image:
    """Two frames, the motion between them in colours, the mask, and what the colours mean."""
    frames = clip("3")[9:11]
    model = rife.load_model(assets.weights("v4.0"), device="cpu")
    flow, mask = rife.optical_flow(model, torch.from_numpy(frames.astype(np.float32) / 255))
    masked = to_bytes(mask[0][..., None].expand(-1, -1, 3))
    cells = [
        ("1", frames[0]),
        ("2", frames[1]),
        ("flow_image", to_bytes(rife.motion_to_image(flow)[0])),
        ("mask", masked),
    ]
    row = [(title, crop(image, 100, 20, 330, 330)) for title, image in cells]
    return sheet([[*row, ("", wheel(330))]])


def wheel(side: int) -> np.ndarray:
    """All directions up to full speed, on the background."""
    y, x = torch.meshgrid(*[torch.linspace(-1.1, 1.1, side)] * 2, indexing="ij")
    colours = to_bytes(rife.flow_to_image(torch.stack([x, y], -1), 1))
    background = np.array(Image.new("RGB", (side, side), strip.BACKGROUND))
    return np.where((torch.hypot(x, y) <= 1).numpy()[..., None], colours, background)


MADE = (multiplier, flow_scale, cuts, duplicates, ensemble, optical_flow)


def save(page: Image.Image, path: Path) -> None:
    """As good as the size allows."""
    for quality in range(90, 30, -4):
        page.save(path, quality=quality, method=6)
        if path.stat().st_size <= LARGEST_FILE:
            print(f"{path}: {path.stat().st_size} bytes, quality {quality}")
            return
    raise SystemExit(f"{path} has too much in it")


if __name__ == "__main__":
    torch.set_num_threads(2)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in MADE:
        if picture.__name__ in sys.argv[1:] or not sys.argv[1:]:
            save(picture(), PICTURES / f"{picture.__name__}.webp")
