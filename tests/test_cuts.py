"""Which pairs of frames are cuts, and which motion, light and effects are not."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from rife.analysis.cuts import CutDetector
from rife.analysis.thumbnail import make_thumbnail

from .support.shots import camera_view, encode_and_decode, read_shot

BIKES_CUTS = [30, 76, 137, 187, 242]  # by eye


def find_cuts(images, sensitivity=0.5):
    detector = CutDetector(sensitivity)
    pairs = pairwise(make_thumbnail(image) for image in images)
    return [i for i, pair in enumerate(pairs, 1) if detector.is_cut(*pair)]


def score_pairs(images):
    detector = CutDetector()
    return [detector.score(*pair) for pair in pairwise(map(make_thumbnail, images))]


def test_a_clips_own_cuts_are_found_and_nothing_else(clips):
    assert find_cuts(read_shot(clips("bikes"))) == BIKES_CUTS


@pytest.mark.parametrize(
    "name",
    [
        "bigbuckbunny",
        pytest.param("carphone_pristine", marks=pytest.mark.slow),
        "carphone_distorted",
    ],
)
def test_a_clip_of_one_shot_has_no_cut(clips, name):
    assert find_cuts(read_shot(clips(name))) == []


@pytest.mark.parametrize("light", [1, 0.5, 0.2])
def test_a_splice_is_found_in_the_dark_too(bunny_shot, bikes_shot, light):
    a, b = ([camera_view(image) * light for image in shot] for shot in (bunny_shot, bikes_shot))
    assert find_cuts(a + b) == [len(a)]
    assert find_cuts(b + a) == [len(b)]


def test_a_splice_of_shots_of_the_same_colours_is_found(bunny_shot, bikes_shot):
    a, b = (
        torch.stack([camera_view(image) for image in shot]) for shot in (bunny_shot, bikes_shot)
    )
    alike = (b - b.mean((0, 1, 2))) / b.std((0, 1, 2)) * a.std((0, 1, 2)) + a.mean((0, 1, 2))
    assert find_cuts([*a, *alike.clamp(0, 1)]) == [len(a)]


def test_a_splice_is_found_after_encoding(bunny_shot, bikes_shot):
    joined = [(camera_view(image) * 255).byte() for image in bunny_shot + bikes_shot]
    assert find_cuts(encode_and_decode(joined, 28)) == [len(bunny_shot)]


@pytest.mark.parametrize("colour", [0.0, 1.0])
@pytest.mark.parametrize("length", [4, 10])
def test_fades_are_no_cuts(bikes_shot, colour, length):
    amounts = [min(1, i / length) for i in range(12)]
    out = [camera_view(x) * (1 - t) + colour * t for x, t in zip(bikes_shot, amounts, strict=True)]
    assert find_cuts(out + out[::-1]) == []


@pytest.mark.parametrize("length", [6, 10])
def test_dissolves_are_no_cuts(bunny_shot, bikes_shot, length):
    amounts = [min(1, i / length) for i in range(12)]
    steps = zip(bunny_shot, bikes_shot, amounts, strict=True)
    assert find_cuts([camera_view(a) * (1 - t) + camera_view(b) * t for a, b, t in steps]) == []


@pytest.mark.parametrize("gain", [1.5, 3, 6])
@pytest.mark.parametrize("length", [1, 3])
def test_flashes_are_no_cuts(bunny_shot, bikes_shot, gain, length):
    for shot in (bunny_shot, bikes_shot):
        images = [camera_view(image) for image in shot]
        for i in range(5, 5 + length):
            images[i] = (images[i] * gain).clamp(0, 1)
        assert find_cuts(images) == []


def test_lightning_in_a_part_of_the_picture_is_no_cut(bikes_shot):
    images = [camera_view(image) for image in bikes_shot]
    images[5][:, :160] = (images[5][:, :160] * 5).clamp(0, 1)
    assert find_cuts(images) == []


@pytest.mark.parametrize("step", [0.05, 0.1, 0.2])
def test_pans_are_no_cuts(bunny_shot, bikes_shot, step):
    for shot in (bunny_shot, bikes_shot):
        # A view of half the width, so that a step of it is half as wide in the picture.
        pan = [
            camera_view(image, x=-0.5 + abs(i * step % 2 - 1), zoom=2)
            for i, image in enumerate(shot)
        ]
        assert find_cuts(pan) == []


@pytest.mark.parametrize("rate", [1.05, 1.1])
def test_zooms_are_no_cuts(bunny_shot, bikes_shot, rate):
    for shot in (bunny_shot, bikes_shot):
        images = [camera_view(image, zoom=rate**i) for i, image in enumerate(shot)]
        assert find_cuts(images) == find_cuts(images[::-1]) == []


def test_shaking_is_no_cut(bunny_shot, bikes_shot):
    shifts = np.random.default_rng(0).uniform(-0.08, 0.08, (12, 2))
    for shot in (bunny_shot, bikes_shot):
        steps = zip(shot, shifts, strict=True)
        assert (
            find_cuts([camera_view(image, *map(float, at), zoom=1.3) for image, at in steps]) == []
        )


def test_a_large_thing_that_rushes_by_is_no_cut(bunny_shot, bikes_shot):
    images, other = [camera_view(image) for image in bunny_shot], camera_view(bikes_shot[0])
    for i, image in enumerate(images):
        left, right = (min(320, max(0, 50 * i + edge)) for edge in (-200, 0))
        image[20:160, left:right] = other[20:160, left - 50 * i + 200 : right - 50 * i + 200]
    assert find_cuts(images) == []


def test_more_sensitive_finds_no_less_and_0_finds_nothing(clips, bunny_shot):
    rushing = [camera_view(image) for image in read_shot(clips("bikes"), 78, 60)[::4]]
    images = [camera_view(image) for image in bunny_shot] + rushing
    by_sensitivity = [set(find_cuts(images, s / 10)) for s in range(11)]
    assert by_sensitivity[0] == set()
    assert all(less <= more for less, more in pairwise(by_sensitivity))
    assert by_sensitivity[5] == {len(bunny_shot)}
    assert len(by_sensitivity[10]) > 1


@pytest.mark.parametrize("sensitivity", [-0.1, 1.1, float("nan")])
def test_sensitivity_out_of_range_is_refused(sensitivity):
    with pytest.raises(ValueError, match="sensitivity"):
        CutDetector(sensitivity)


def test_scores_of_floats_and_bytes_agree(bikes_shot):
    assert score_pairs(bikes_shot) == pytest.approx(
        score_pairs([image / 255 for image in bikes_shot]), abs=1e-4
    )
