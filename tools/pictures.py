"""The registry's pictures: docs/icon.png and docs/banner.png.

    python -m tools.pictures

White is what is given, orange what RIFE makes between.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parents[1] / "docs"
FINER = 4  # times as many pixels, made smaller at the end
GROUND = (38, 42, 92), (17, 19, 44)  # top, bottom
GIVEN, MADE, FAINT = (245, 246, 255), (255, 134, 66), (178, 184, 220)


def main() -> None:
    icon(400).save(DOCS / "icon.png", optimize=True)
    banner(1680, 720).save(DOCS / "banner.png", optimize=True)


def icon(side: int) -> Image.Image:
    """Two frames and the one between, on a tile with round corners."""
    size = side * FINER
    picture = ground(size, size)
    frames(picture, 0, 0, size)
    corners = Image.new("L", (size, size))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, size - 1, size - 1), size * 0.22, fill=255)
    picture.putalpha(corners)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def banner(width: int, height: int) -> Image.Image:
    """The name, and a ball that bounces: seen four times a bounce, and four times as often."""
    w, h = width * FINER, height * FINER
    picture = ground(w, h)
    frames(picture, w * 0.73, h * 0.03, h * 0.52)
    pen = ImageDraw.Draw(picture)
    for text, y, size, colour, bold in (
        ("RIFE Frame Interpolation", 0.235, 0.125, GIVEN, 0.002),
        ("Smooth video and slow motion in ComfyUI", 0.375, 0.06, FAINT, 0),
    ):
        font = ImageFont.load_default(h * size)
        pen.text((w * 0.06, h * y), text, colour, font, anchor="lm", stroke_width=h * bold)
    bounces, each = 3, 16
    last = bounces * each
    for given in (False, True):  # the given ones on top
        for i in range(last + 1):
            if (i % 4 == 0) != given:
                continue
            up = 1 - (2 * (i % each) / each - 1) ** 2
            x, y = w * (0.07 + 0.86 * i / last), h * (0.88 - 0.30 * up)
            pen.circle((x, y), h * (0.025 if given else 0.015), fill=GIVEN if given else MADE)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def frames(picture: Image.Image, left: float, top: float, side: float) -> None:
    """The pack's sign, within a square."""

    def card(at: Image.Image, x: float, width: float, height: float, colour: object) -> None:
        box = (x - width / 2, 0.5 - height / 2, x + width / 2, 0.5 + height / 2)
        box = [corner + side * part for corner, part in zip((left, top) * 2, box, strict=True)]
        ImageDraw.Draw(at).rounded_rectangle(box, side * 0.07, fill=colour)

    gap, behind = Image.new("L", picture.size), picture.copy()
    card(gap, 0.5, 0.48, 0.62, 255)
    card(picture, 0.27, 0.34, 0.44, GIVEN)
    card(picture, 0.73, 0.34, 0.44, GIVEN)
    picture.paste(behind, mask=gap)
    card(picture, 0.5, 0.42, 0.56, MADE)
    triangle = ((0.435, 0.385), (0.435, 0.615), (0.615, 0.5))
    points = [(left + side * x, top + side * y) for x, y in triangle]
    ImageDraw.Draw(picture).polygon(points, fill=GIVEN)


def ground(width: int, height: int) -> Image.Image:
    top, bottom = (Image.new("RGB", (width, height), colour) for colour in GROUND)
    return Image.composite(bottom, top, Image.linear_gradient("L").resize((width, height)))


if __name__ == "__main__":
    main()
