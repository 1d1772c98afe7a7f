"""Real weights on real clips score what the published code scores, frame by frame.

tests/data/quality_reference.json says how its figures were measured.
"""

import json
from pathlib import Path

import av
import pytest
import torch
import torch.nn.functional as F

from rife import load_model

REFERENCE = json.loads((Path(__file__).parent / "data/quality_reference.json").read_text())["psnr"]
RUNS = {
    "v3.8": ("v3.8", {}),
    "v4.0": ("v4.0", {}),
    "v4.0 refine": ("v4.0", {"refine": True}),
    "v4.0 ensemble": ("v4.0", {"ensemble": True}),
}


CLIPS = ("bikes", "carphone_pristine", "bigbuckbunny")
#: The others are slow: the small clip shows every run, the large one the two networks.
QUICK = {("carphone_pristine", run) for run in RUNS} | {("bikes", "v3.8"), ("bikes", "v4.0")}


@pytest.mark.parametrize(
    ("clip", "run"),
    [
        pytest.param(clip, run, marks=[] if (clip, run) in QUICK else pytest.mark.slow)
        for clip in CLIPS
        for run in RUNS
    ],
)
def test_predicted_frames_score_the_reference(clips, weights, clip, run):
    version, options = RUNS[run]
    model = load_model(weights(version), "cpu")
    wanted = REFERENCE[clip]["i"]
    frames = read(clips(clip), {j for i in wanted for j in (i, i + 1, i + 2)})
    scores = []
    for i in wanted:
        before, true, after = frames[i], frames[i + 1], frames[i + 2]
        height, width = true.shape[-2:]
        black = (0, -width % 64, 0, -height % 64)
        with torch.inference_mode():
            ours = model(F.pad(before, black), F.pad(after, black), 0.5, **options)
        error = ours[..., :height, :width] - true
        scores.append(-10 * error.square().mean().log10().item())
    assert scores == pytest.approx(REFERENCE[clip][run], abs=0.02)


def read(path, wanted):
    frames = {}
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i in wanted:
                image = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                frames[i] = image.permute(2, 0, 1)[None].float() / 255
            if len(frames) == len(wanted):
                return frames
    raise AssertionError(f"{path} has too few frames")
