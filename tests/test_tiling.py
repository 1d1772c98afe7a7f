"""Tiles cover the frame, blend evenly, and give what the whole frame gives."""

from itertools import islice

import av
import pytest
import torch
import torch.nn.functional as F

from rife import load_model
from rife.inference.tiling import SMALLEST_CORE, finer_grid, measure_tile_margin, split_into_tiles

from .support.seeded import seeded_images


@pytest.mark.parametrize("size", [(270, 480), (257, 1000), (301, 300)])
@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (2, 4), (1, 3)])
@pytest.mark.parametrize("margin", [0, 40, 1000])
def test_what_all_tiles_agree_on_is_what_the_blend_gives(size, grid, margin):
    frame = torch.rand(*size, 3)
    canvas = torch.zeros(3, *size)
    for tile in split_into_tiles(*size, grid, margin, multiple=64):
        tile.blend_into(canvas, tile.cut_from(frame).permute(2, 0, 1))
    assert (canvas.permute(1, 2, 0) - frame).abs().max() < 1e-6


def test_tiles_fade_into_each_other_without_a_step():
    """Where two tiles disagree by 1, neighbouring pixels differ by a tenth at most."""
    canvas = torch.zeros(1, 64, 400)
    left, right = split_into_tiles(64, 400, (1, 2), 50, multiple=32)
    left.blend_into(canvas, torch.zeros(1, 64, 400)[..., : len(left.columns)])
    right.blend_into(canvas, torch.ones(1, 64, len(right.columns)))
    assert canvas.min() == 0
    assert canvas.max() == 1
    assert canvas.diff(dim=-1).abs().max() < 0.1
    assert (canvas[..., 200 - 20] == 0).all()  # and all of that is near the middle
    assert (canvas[..., 200 + 20] == 1).all()


def test_tiles_see_their_margin_and_begin_on_multiples():
    for tile in split_into_tiles(1000, 2000, (2, 4), 150, multiple=64):
        for span, size, parts in ((tile.rows, 1000, 2), (tile.columns, 2000, 4)):
            assert span.start % 64 == 0
            counted = torch.nonzero(span.weight)[:, 0] + span.start
            assert span.start == 0 or counted[0] - span.start >= 150
            assert span.stop == size or span.stop - 1 - counted[-1] >= 150
            assert len(span) < size / parts + 2 * (150 + 16 + 64)


def test_cores_are_halved_along_the_longer_side_until_they_are_small():
    grid, seen = (1, 1), []
    while grid:
        seen.append(grid)
        grid = finer_grid(grid, 1080, 1920)
    assert seen[:4] == [(1, 1), (1, 2), (2, 2), (2, 4)]
    rows, columns = seen[-1]
    assert SMALLEST_CORE <= max(1080 / rows, 1920 / columns) < 2 * SMALLEST_CORE


def test_overlaps_grow_with_the_motion(weights):
    """A texture that moves by `shift` pixels moves by half of that to the middle."""
    model = load_model(weights("v4.0.safetensors"), "cpu")
    wide = seeded_images(256, 600, count=1)[0].permute(1, 2, 0)
    context = 2 * 4 * 8  # twice the coarsest block's stride
    margins = {}
    for shift in (4, 24):
        second = wide[:, 40 - shift : 552 - shift]
        _, margins[shift] = measure_tile_margin(model, wide[:, 40:552], second, 0.5, 1.0)
        assert context + 0.7 * shift <= margins[shift] <= context + 2.5 * shift + 12
    assert margins[24] >= margins[4] + 0.7 * 20


def test_whether_scales_are_doubled_is_decided_for_all_tiles_by_the_whole_frame(weights, clips):
    """Most tiles do not see the fast motion that decides. The model itself goes on deciding for
    each call."""
    model = load_model(weights("v4.0.safetensors"), "cpu")
    with av.open(str(clips("bikes"))) as container:
        frames = [f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), 43)]
    images = [torch.from_numpy(frames[i]).float() / 255 for i in (40, 41, 42)]
    with torch.no_grad():
        slow, _ = measure_tile_margin(model, *images[:2], 0.5, 1.0)
        fast, _ = measure_tile_margin(model, images[0], images[2], 0.5, 1.0)
        x = [F.pad(image, (0, 0, 0, 0, 0, 48)).permute(2, 0, 1)[None] for image in images]
        for settled, second in ((slow, x[1]), (fast, x[2])):
            pair = model.prepare(x[0]), model.prepare(second)
            assert torch.equal(settled.motion(*pair).flow, model.motion(*pair).flow)
        still = [model.prepare(x[0][..., :128])] * 2
        assert torch.equal(slow.motion(*still).flow, model.motion(*still).flow)
        assert not torch.equal(fast.motion(*still).flow, model.motion(*still).flow)
    assert model.doubling_threshold == 32
    assert fast.block0 is model.block0
