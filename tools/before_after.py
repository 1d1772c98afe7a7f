"""The animation at the top of the README: a clip as it is, beside the same with new frames.

    python -m tools.before_after CLIP MODEL docs/before-after.webp --first 0 --last 45

The README's is CogVideo's train_running.mp4 (inference/gradio_composite_demo/example_videos), made
with v4.0. The train's frame 45 looks like its frame 0, so that it loops.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import rife
from tools.strip import read

TIMES = 4
PANEL, GAP, MARGIN = (358, 240), 4, 8
QUALITY = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rate", type=int, default=8, help="of the clip, in frames a second")
    parser.add_argument("--first", type=int, default=0, help="frame of the clip to begin with")
    parser.add_argument("--last", type=int, required=True, help="the frame that looks like it")
    args = parser.parse_args()

    before = torch.from_numpy(read(args.clip)[args.first :][: args.last - args.first + 1])
    after = rife.interpolate(rife.load_model(args.model), before, TIMES)[:-1]
    labels = f"{args.rate} fps", f"{TIMES * args.rate} fps with RIFE"
    pictures = []
    for i in range(len(after)):
        picture = Image.new("RGB", (2 * PANEL[0] + GAP, PANEL[1]), "white")
        for column, frame in enumerate((before[i // TIMES], after[i])):
            panel = Image.fromarray(frame.numpy()).resize(PANEL, Image.Resampling.LANCZOS)
            label(panel, labels[column])
            picture.paste(panel, (column * (PANEL[0] + GAP), 0))
        pictures.append(picture)
    ends = [round(1000 * i / (TIMES * args.rate)) for i in range(len(pictures) + 1)]
    durations = [end - start for start, end in zip(ends, ends[1:], strict=False)]
    pictures[0].save(
        args.picture, save_all=True, append_images=pictures[1:], duration=durations,
        loop=0, quality=QUALITY, method=6,
    )  # fmt: skip


def label(panel: Image.Image, text: str) -> None:
    """Written into the lower left corner."""
    pen = ImageDraw.Draw(panel, "RGBA")
    font = ImageFont.load_default(size=18)
    left, top, right, bottom = pen.textbbox((2 * MARGIN, PANEL[1] - 2 * MARGIN), text, font, "ls")
    box = (left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN)
    pen.rounded_rectangle(box, MARGIN, fill=(0, 0, 0, 170))
    pen.text((2 * MARGIN, PANEL[1] - 2 * MARGIN), text, "white", font, anchor="ls")


if __name__ == "__main__":
    main()
