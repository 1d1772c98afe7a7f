"""How to pad frames to the multiples that networks need: quality by kind of padding.

Predicts frame i + 1 of real clips from frames i and i + 2 and prints the mean PSNR (dB) over the
whole frame and over a border of 12 pixels. Run from the repository's root, with the development
set-up of the README: python -m benchmarks.padding
"""

from itertools import product

import av
import torch
import torch.nn.functional as F

from rife import load_model
from tools import assets

CLIPS = {"bikes": range(1, 246, 7), "carphone_pristine": range(1, 116, 6)}
MODELS = ("v4.0", "v3.8")
MODES = ("constant", "replicate", "reflect")
SIDES = ("right and bottom", "all sides")
BORDER = 12


def pad(x: torch.Tensor, mode: str, sides: str) -> tuple[torch.Tensor, int, int]:
    """x: (1, 3, H, W) -> padded to multiples of 64, and where `x` begins in it."""
    rows, columns = (-side % 64 for side in x.shape[-2:])
    top, left = (rows // 2, columns // 2) if sides == "all sides" else (0, 0)
    return F.pad(x, (left, columns - left, top, rows - top), mode=mode), top, left


def read(name: str) -> list[torch.Tensor]:
    with av.open(str(assets.clip(name))) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [torch.from_numpy(image).permute(2, 0, 1)[None] for image in images]


def psnr(error: torch.Tensor) -> float:
    return -10 * error.square().mean().log10().item()


@torch.inference_mode()
def main() -> None:
    models = {version: load_model(assets.weights(version), "cpu") for version in MODELS}
    scores: dict[tuple, list[tuple[float, float]]] = {}
    for name, moments in CLIPS.items():
        frames = read(name)
        inside = torch.zeros_like(frames[0], dtype=torch.bool)
        inside[..., BORDER:-BORDER, BORDER:-BORDER] = True
        for i, mode, sides in product(moments, MODES, SIDES):
            before, true, after = (frame.float() / 255 for frame in frames[i : i + 3])
            height, width = true.shape[-2:]
            (a, top, left), (b, _, _) = pad(before, mode, sides), pad(after, mode, sides)
            for version, model in models.items():
                ours = model(a, b)[..., top : top + height, left : left + width]
                error = ours - true
                scores.setdefault((version, mode, sides), []).append(
                    (psnr(error), psnr(error[~inside]))
                )
    print(f"{'model':6} {'padding':10} {'on':18} {'whole':>7} {'border':>7}  frames")
    for (version, mode, sides), values in sorted(scores.items(), reverse=True):
        whole, border = torch.tensor(values).mean(0).tolist()
        print(f"{version:6} {mode:10} {sides:18} {whole:7.2f} {border:7.2f}  {len(values)}")


if __name__ == "__main__":
    main()
