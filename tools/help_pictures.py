"""The pictures of the nodes' help pages, in web/docs: real clips and real weights (v4.0).

    COGVIDEO_DIR=... python -m tools.help_pictures [NAME ...]

COGVIDEO_DIR is a checkout of CogVideo, whose clips are used beside those of `tools.assets`.
"""

import sys
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import rife

from . import assets, strip

PICTURES = assets.ROOT / "web" / "docs" / "pictures"
WIDTH = 640  # the help panel is some 260 pixels wide: few columns, large letters
GAP, LINE = 8, 48
MARK = "#ffb000"
LARGEST_FILE = 60_000


class Cell(NamedTuple):
    image: np.ndarray | Image.Image
    caption: str = ""
    marked: bool = False


Rows = list[tuple[str, list[Cell]]]  # each with its title


def clip(name: str) -> np.ndarray:
    """All frames, (N, H, W, 3) uint8."""
    return strip.read(assets.video(name))


def run(frames: np.ndarray, multiplier: int = 2, **options) -> np.ndarray:
    model = rife.load_model(assets.weights("v4.0"), device="cpu")
    images = torch.from_numpy(frames.astype(np.float32) / 255)
    return to_bytes(rife.interpolate(model, images, multiplier, rife.Options(**options)))


def to_bytes(images: Tensor) -> np.ndarray:
    return strip.to_bytes(images.cpu().numpy() * 255)


def resized(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.stack([Image.fromarray(f).resize((width, height), Image.LANCZOS) for f in frames])


def crop(image: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    return image[top : top + height, left : left + width]


def sheet(rows: Rows) -> Image.Image:
    """Rows under their titles, images of one size in each, as wide as fits."""
    page = Image.new("RGB", (WIDTH, 10_000), strip.BACKGROUND)
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=34)
    y = 0
    for title, cells in rows:
        pen.text((GAP, y + LINE / 2), title, strip.TEXT, font, "lm")
        y += LINE if title else GAP
        width = (WIDTH - GAP) // len(cells) - GAP
        captions = LINE * any(cell.caption for cell in cells)
        for i, (image, caption, marked) in enumerate(cells):
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            height = round(width * image.height / image.width)
            x, top = GAP + i * (width + GAP), y + captions
            pen.text((x + width / 2, y + LINE / 2), caption, strip.TEXT, font, "mm")
            page.paste(image.resize((width, height), Image.LANCZOS), (x, top))
            if marked:
                box = (x - 3, top - 3, x + width + 2, top + height + 2)
                pen.rectangle(box, outline=MARK, width=6)
        y += captions + height
    return page.crop((0, 0, WIDTH, y + GAP))


def multiplier() -> Image.Image:
    """A painter's hand, by CogVideoX: 8 frames a second, and what 2x puts between them."""
    first, new, last = (crop(f, 200, 20, 300, 330) for f in run(clip("3")[9:11]))
    nothing = Image.new("RGB", (300, 330), strip.BACKGROUND)
    return sheet(
        [
            ("8 fps", [Cell(first), Cell(nothing), Cell(last)]),
            ("16 fps", [Cell(first), Cell(new, marked=True), Cell(last)]),
        ]
    )


def flow_scale() -> Image.Image:
    """The same frames at each scale, and the real ones: large frames, large motion, fine detail.
    The best of each is marked."""
    scales = (0.25, 0.5, 1, 2)
    columns = []
    for name, i, size, box in (
        # clip, real frame, size that the network gets, crop in the clip's own pixels
        ("train_running", 20, (2880, 1920), (60, 60, 300, 300)),
        ("train_running", 5, None, (60, 60, 300, 300)),
        ("bikes", 201, None, (150, 0, 272, 272)),
    ):
        frames = clip(name)[i - 1 : i + 2]
        height, width = frames.shape[1:3]
        pair = frames[::2] if size is None else resized(frames[::2], *size)
        made = [run(pair, scale=scale, cuts="ignore")[1] for scale in scales]
        if size is not None:
            made = resized(made, width, height)
        scores = [strip.psnr(frame, frames[1]) for frame in made]
        columns.append(
            [
                Cell(crop(frame, *box), f"{score:.1f} dB", score == max(scores))
                for frame, score in zip(made, scores, strict=True)
            ]
            + [Cell(crop(frames[1], *box))]
        )
    titles = [*(f"flow_scale {scale:g}" for scale in scales), "real"]
    return sheet([(title, list(row)) for title, *row in zip(titles, *columns, strict=True)])


def cuts() -> Image.Image:
    """3x at a real cut: the frames before and after, and the two between by each choice."""
    frames = clip("bikes")[75:77]
    rows: Rows = [("", [Cell(crop(f, 60, 0, 408, 272)) for f in frames])]
    for choice in rife.CUTS:
        new = run(frames, 3, cuts=choice)[1:3]
        rows.append((choice, [Cell(crop(f, 60, 0, 408, 272), marked=True) for f in new]))
    return sheet(rows)


def duplicates() -> Image.Image:
    """A man who walks by, each frame shown twice, without and with: one line of the picture, the
    first moment on top. The first picture shows which line."""
    line = 60
    frames = clip("bikes")[189:213]
    shown_twice = frames[np.arange(len(frames)) // 2 * 2]
    cells = []
    for choice in (False, True):
        over_time = run(shown_twice, 1, duplicates=choice)[:, line]
        image = Image.fromarray(over_time).resize((640, 480), Image.NEAREST)
        cells.append(Cell(image, str(choice).lower()))
    whole = frames[4].copy()
    whole[line - 1 : line + 1] = 255
    return sheet([("", [Cell(whole)]), ("duplicates", cells)])


def ensemble() -> Image.Image:
    """A frame without and with, and the real one."""
    frames = clip("bikes")[100:103]
    box = (140, 40, 260, 120)
    rows: Rows = []
    for choice in (False, True):
        made = run(frames[::2], ensemble=choice)[1]
        title = f"ensemble {str(choice).lower()}, {strip.psnr(made, frames[1]):.1f} dB"
        rows.append((title, [Cell(crop(made, *box))]))
    return sheet([*rows, ("real", [Cell(crop(frames[1], *box))])])


def optical_flow() -> Image.Image:
    """Two frames, the motion between them in colours, with the wheel of the colours, the mask."""
    frames = clip("3")[9:11]
    model = rife.load_model(assets.weights("v4.0"), device="cpu")
    flow, mask = rife.optical_flow(model, torch.from_numpy(frames.astype(np.float32) / 255))
    box = (100, 20, 330, 330)
    motion = crop(to_bytes(rife.motion_to_image(flow)[0]), *box).copy()
    wheel(motion[10:130, 10:130])
    shares = crop(to_bytes(mask[0][..., None].expand(-1, -1, 3)), *box)
    return sheet(
        [
            ("", [Cell(crop(f, *box), str(i)) for i, f in enumerate(frames, 1)]),
            ("", [Cell(motion, "flow_image"), Cell(shares, "mask")]),
        ]
    )


def wheel(image: np.ndarray) -> None:
    """Draw the colours of all directions, up to full speed, into a square."""
    y, x = torch.meshgrid(*[torch.linspace(-1.02, 1.02, len(image))] * 2, indexing="ij")
    colours = to_bytes(rife.flow_to_image(torch.stack([x, y], -1), 1))
    inside = (torch.hypot(x, y) <= 1).numpy()
    image[inside] = colours[inside]


if __name__ == "__main__":
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in (multiplier, flow_scale, cuts, duplicates, ensemble, optical_flow):
        if picture.__name__ in sys.argv[1:] or not sys.argv[1:]:
            path = PICTURES / f"{picture.__name__}.webp"
            strip.save_within(picture(), path, LARGEST_FILE, method=6)
