"""A before/after picture: frames of a clip that the network never saw, next to what it made of
their neighbours."""

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import rife

# In bikes.mp4, by eye: (frame before, left edge of the crop). Fast motion in three kinds: a rider,
# a man walking, and lettering that repeats, where v4.0 still errs.
MOMENTS = ((38, 330), (189, 60), (70, 120))
CROP = 272  # a square of the clip's full height
ERROR_GAIN = 4

GAP, CAPTION, HEADER = 8, 26, 34
BACKGROUND, TEXT, FAINT = "#16181d", "#f2f2f2", "#a5abb5"


def draw(clip: Path, model_file: Path, picture: Path) -> None:
    """Writes the picture: a row for each of MOMENTS, drawn from frames i, i + 1 and i + 2."""
    frames = read(clip)
    model = rife.load_model(model_file)
    rows = [row(model, frames[i : i + 3], i, left) for i, left in MOMENTS]

    columns = len(rows[0])
    width = columns * (CROP + GAP) + GAP
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (CROP + CAPTION + GAP)), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for y, cells in enumerate(rows):
        top = HEADER + y * (CROP + CAPTION + GAP)
        for x, (title, caption, image) in enumerate(cells):
            at = GAP + x * (CROP + GAP)
            if y == 0:
                write(pen, at, HEADER / 2, title, TEXT)
            sheet.paste(Image.fromarray(image), (at, top))
            write(pen, at, top + CROP + CAPTION / 2, caption, FAINT)
    sheet.save(picture, optimize=True)


def row(model, frames: np.ndarray, i: int, left: int) -> list[tuple[str, str, np.ndarray]]:
    """Title, caption and image of each column. frames: (3, H, W, 3) uint8, true in the middle."""
    before, true, after = frames
    pair = torch.from_numpy(frames[::2].astype(np.float32) / 255)
    ours = to_bytes(rife.interpolate(model, pair, timeline=2)[1].cpu().numpy() * 255)
    average = to_bytes((before.astype(np.float32) + after) / 2)
    error = to_bytes(np.abs(ours.astype(np.float32) - true) * ERROR_GAIN)
    cells = [
        ("frame before", f"frame {i}", before),
        ("without RIFE: average", f"PSNR {psnr(average, true):.1f} dB", average),
        ("RIFE v4.0", f"PSNR {psnr(ours, true):.1f} dB", ours),
        ("true frame", f"frame {i + 1}, not shown to RIFE", true),
        ("frame after", f"frame {i + 2}", after),
        (f"RIFE's error, x{ERROR_GAIN}", "", error),
    ]
    return [(title, caption, image[:CROP, left : left + CROP]) for title, caption, image in cells]


def read(clip: Path) -> np.ndarray:
    """All frames, (N, H, W, 3) uint8."""
    with av.open(str(clip)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def psnr(frame: np.ndarray, true: np.ndarray) -> float:
    """Of whole frames, as the published figures are, not of the crop."""
    return -10 * np.log10(np.mean((frame.astype(np.float64) - true) ** 2) / 255**2)


def to_bytes(image: np.ndarray) -> np.ndarray:
    return image.round().clip(0, 255).astype(np.uint8)


def write(pen: ImageDraw.ImageDraw, left: float, middle: float, text: str, colour: str) -> None:
    """Centred over a column."""
    font = ImageFont.load_default(size=20)
    pen.text((left + CROP / 2, middle), text, fill=colour, font=font, anchor="mm")


def save_within(picture: Image.Image, path: Path, largest: int, **options) -> None:
    """As JPEG or WebP, as good as fits into so many bytes."""
    for quality in range(90, 10, -5):
        file = BytesIO()
        kind = {".jpg": "JPEG", ".webp": "WEBP"}[path.suffix]
        picture.save(file, kind, quality=quality, optimize=True, **options)
        if file.tell() <= largest:
            path.write_bytes(file.getvalue())
            print(f"{path.name}: {file.tell()} bytes, quality {quality}, {picture.size}")
            return
    raise SystemExit(f"{path} can't be made smaller than {largest} bytes")
