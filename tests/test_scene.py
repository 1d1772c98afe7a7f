"""Cuts, repeats, and where frames of a clip with repeats belong."""

import io
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rife.analysis.cuts import CutDetector
from rife.analysis.duplicates import is_duplicate, retime_repeats
from rife.analysis.thumbnail import make_thumbnail

BIKES_CUTS = [30, 76, 137, 187, 242]  # by eye


def read(path, first=0, count=10_000):
    """Frames of (H, W, 3), uint8, at half the size or so."""
    images = []
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i >= first + count:
                break
            if i >= first:
                width, height = (n // (1 + (n > 640)) for n in (frame.width, frame.height))
                image = frame.to_ndarray(format="rgb24", width=width, height=height)
                images.append(torch.from_numpy(image))
    return images


def encoded(images, crf=23):
    """As they come back from H.264."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image.numpy(), "rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def cuts(images, sensitivity=0.5):
    detector = CutDetector(sensitivity)
    pairs = pairwise(make_thumbnail(image) for image in images)
    return [i for i, pair in enumerate(pairs, 1) if detector.is_cut(*pair)]


def scores(images):
    detector = CutDetector()
    return [detector.score(*pair) for pair in pairwise(map(make_thumbnail, images))]


def view(image, x=0.0, y=0.0, zoom=1.0, size=(180, 320)):
    """Float image as a camera at (x, y) sees it; the borders are at -1 and 1."""
    affine = torch.tensor([[[1 / zoom, 0, x], [0, 1 / zoom, y]]])
    grid = F.affine_grid(affine, (1, 3, *size), align_corners=False)
    planes = image.permute(2, 0, 1)[None].float() / 255
    seen = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return seen[0].permute(1, 2, 0)


@pytest.fixture(scope="module")
def bunny(clips):
    return read(clips("bigbuckbunny"), 33, 12)  # its frame 32 is a repeat


@pytest.fixture(scope="module")
def bikes(clips):
    return read(clips("bikes"), 78, 12)  # of the third shot


# Cuts


def test_a_clips_own_cuts_are_found_and_nothing_else(clips):
    assert cuts(read(clips("bikes"))) == BIKES_CUTS


@pytest.mark.parametrize(
    "name",
    [
        "bigbuckbunny",
        pytest.param("carphone_pristine", marks=pytest.mark.slow),
        "carphone_distorted",
    ],
)
def test_a_clip_of_one_shot_has_no_cut(clips, name):
    assert cuts(read(clips(name))) == []


@pytest.mark.parametrize("light", [1, 0.5, 0.2])
def test_a_splice_is_found_in_the_dark_too(bunny, bikes, light):
    a, b = ([view(image) * light for image in shot] for shot in (bunny, bikes))
    assert cuts(a + b) == [len(a)]
    assert cuts(b + a) == [len(b)]


def test_a_splice_of_shots_of_the_same_colours_is_found(bunny, bikes):
    a, b = (torch.stack([view(image) for image in shot]) for shot in (bunny, bikes))
    alike = (b - b.mean((0, 1, 2))) / b.std((0, 1, 2)) * a.std((0, 1, 2)) + a.mean((0, 1, 2))
    assert cuts([*a, *alike.clamp(0, 1)]) == [len(a)]


def test_a_splice_is_found_after_encoding(bunny, bikes):
    both = [(view(image) * 255).byte() for image in bunny + bikes]
    assert cuts(encoded(both, 28)) == [len(bunny)]


@pytest.mark.parametrize("colour", [0.0, 1.0])
@pytest.mark.parametrize("length", [4, 10])
def test_fades_are_no_cuts(bikes, colour, length):
    amounts = [min(1, i / length) for i in range(12)]
    out = [view(x) * (1 - t) + colour * t for x, t in zip(bikes, amounts, strict=True)]
    assert cuts(out + out[::-1]) == []


@pytest.mark.parametrize("length", [6, 10])
def test_dissolves_are_no_cuts(bunny, bikes, length):
    amounts = [min(1, i / length) for i in range(12)]
    steps = zip(bunny, bikes, amounts, strict=True)
    assert cuts([view(a) * (1 - t) + view(b) * t for a, b, t in steps]) == []


@pytest.mark.parametrize("gain", [1.5, 3, 6])
@pytest.mark.parametrize("length", [1, 3])
def test_flashes_are_no_cuts(bunny, bikes, gain, length):
    for shot in (bunny, bikes):
        images = [view(image) for image in shot]
        for i in range(5, 5 + length):
            images[i] = (images[i] * gain).clamp(0, 1)
        assert cuts(images) == []


def test_lightning_in_a_part_of_the_picture_is_no_cut(bikes):
    images = [view(image) for image in bikes]
    images[5][:, :160] = (images[5][:, :160] * 5).clamp(0, 1)
    assert cuts(images) == []


@pytest.mark.parametrize("step", [0.05, 0.1, 0.2])
def test_pans_are_no_cuts(bunny, bikes, step):
    for shot in (bunny, bikes):
        # A view of half the width, so that a step of it is half as wide in the picture.
        pan = [view(image, x=-0.5 + abs(i * step % 2 - 1), zoom=2) for i, image in enumerate(shot)]
        assert cuts(pan) == []


@pytest.mark.parametrize("rate", [1.05, 1.1])
def test_zooms_are_no_cuts(bunny, bikes, rate):
    for shot in (bunny, bikes):
        images = [view(image, zoom=rate**i) for i, image in enumerate(shot)]
        assert cuts(images) == cuts(images[::-1]) == []


def test_shaking_is_no_cut(bunny, bikes):
    way = np.random.default_rng(0).uniform(-0.08, 0.08, (12, 2))
    for shot in (bunny, bikes):
        steps = zip(shot, way, strict=True)
        assert cuts([view(image, *map(float, at), zoom=1.3) for image, at in steps]) == []


def test_a_large_thing_that_rushes_by_is_no_cut(bunny, bikes):
    images, other = [view(image) for image in bunny], view(bikes[0])
    for i, image in enumerate(images):
        left, right = (min(320, max(0, 50 * i + edge)) for edge in (-200, 0))
        image[20:160, left:right] = other[20:160, left - 50 * i + 200 : right - 50 * i + 200]
    assert cuts(images) == []


def test_more_sensitive_finds_no_less_and_0_finds_nothing(clips, bunny):
    rushing = [view(image) for image in read(clips("bikes"), 78, 60)[::4]]
    images = [view(image) for image in bunny] + rushing
    found = [set(cuts(images, s / 10)) for s in range(11)]
    assert found[0] == set()
    assert all(less <= more for less, more in pairwise(found))
    assert found[5] == {len(bunny)}
    assert len(found[10]) > 1


@pytest.mark.parametrize("sensitivity", [-0.1, 1.1, float("nan")])
def test_sensitivity_out_of_range_is_refused(sensitivity):
    with pytest.raises(ValueError, match="sensitivity"):
        CutDetector(sensitivity)


# Thumbnails


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 5), (1, 5000), (5000, 1), (7, 900)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frames_of_any_size_work(size, channels):
    images = [torch.randint(0, 256, (*size, channels), dtype=torch.uint8) for _ in range(3)]
    small = [make_thumbnail(image) for image in images]
    assert all(x.shape[0] == 3 and max(x.shape) <= 160 and min(x.shape) >= 1 for x in small)
    cuts(images)
    assert is_duplicate(small[0], small[0])
    assert is_duplicate(small[0], small[0].clone())


def test_floats_bytes_alpha_and_grey_agree(bikes):
    image = bikes[0]
    want = make_thumbnail(image)
    assert want.dtype == torch.float32
    assert want.max() > 0.5
    alpha = torch.randint(0, 256, (*image.shape[:2], 1), dtype=torch.uint8)
    for same in (image / 255, (image / 255).half(), torch.cat((image, alpha), 2)):
        torch.testing.assert_close(make_thumbnail(same), want, atol=1e-3, rtol=0)
    grey = image[..., :1]
    torch.testing.assert_close(make_thumbnail(grey), make_thumbnail(grey.expand(-1, -1, 3)))


def test_scores_of_floats_and_bytes_agree(bikes):
    assert scores(bikes) == pytest.approx(scores([image / 255 for image in bikes]), abs=1e-4)


# Repeats


def repeats(images):
    return [is_duplicate(*pair) for pair in pairwise(map(make_thumbnail, images))]


def test_repeats_are_found_after_encoding(bunny, bikes):
    for shot in (bunny, bikes):
        twos = encoded([image[:272, :640] for image in shot for _ in range(2)], 23)
        assert repeats(twos) == [True, False] * 11 + [True]


def test_a_talking_head_before_a_still_background_is_no_repeat(clips):
    assert not any(repeats(read(clips("carphone_pristine"))))


def test_a_slow_pan_is_no_repeat(bunny, bikes):
    for shot in (bunny, bikes):
        pan = [view(shot[0], x=0.5 * i / 720, size=(406, 720)) for i in range(8)]
        assert not any(repeats(pan))
        assert not any(repeats(encoded([(x * 255).byte() for x in pan])))


def test_a_change_in_a_small_part_is_no_repeat(bikes):
    other = bikes[0].clone()
    other[100:120, 300:320] = 255 - other[100:120, 300:320]
    assert not is_duplicate(make_thumbnail(bikes[0]), make_thumbnail(other))


# Re-timing


def keys(lengths):
    """[(number of the run, place)] for runs of equal frames of these lengths."""
    frames, place = [], Fraction(0)
    for run, length in enumerate(lengths):
        for k in range(length):
            frames.append((run, place, k > 0))
            place += 1
    return list(retime_repeats(frames))


def test_distinct_frames_stay_where_they_are():
    assert keys([1] * 5) == [(i, i) for i in range(5)]


def test_one_frame_and_none():
    assert keys([1]) == [(0, 0)]
    assert keys([]) == []


@pytest.mark.parametrize("length", [2, 3, 4])
def test_animation_on_twos_threes_fours_is_even(length):
    got = keys([length] * 5)
    assert got[:-1] == [(i, i * length) for i in range(5)]
    assert got[-1] == (4, 5 * length - 1)


def test_irregular_stalls_are_bridged():
    assert keys([1, 2, 1, 1, 3, 1, 1]) == [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5), (5, 8), (6, 9)]


def test_a_still_stands_until_its_last_frame():
    assert keys([1, 6, 1, 1]) == [(0, 0), (1, 1), (1, 6), (2, 7), (3, 8)]


def test_a_clip_that_never_moves_has_two_keys():
    assert keys([7]) == [(0, 0), (0, 6)]
    assert keys([3]) == [(0, 0), (0, 2)]


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize(
    ("cadence", "step"),
    [([1, 1, 1, 2], Fraction(5, 4)), ([2, 3], Fraction(5, 2)), ([1, 1, 1, 1, 2], Fraction(6, 5))],
)
def test_a_cadence_becomes_even_once_seen_twice(cadence, step, start):
    runs = (cadence * 9)[start:]
    got = keys(runs)
    settled = 3 * len(cadence)
    gaps = {b - a for (_, a), (_, b) in pairwise(got[settled : len(runs)])}
    assert gaps == {step}


def test_keys_are_where_frames_are_again_once_a_cadence_ends():
    got = keys([1, 1, 1, 2] * 4 + [1] * 8)
    assert got[-4:] == [(20 + i, 24 + i) for i in range(4)]


def test_frames_without_end_are_passed_on_at_once():
    def endless():
        for i in range(10**9):
            assert i < 4, "looked too far ahead"
            yield i, Fraction(i), False

    stream = retime_repeats(endless())
    assert [next(stream) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=80)
    | st.lists(st.sampled_from([(4, False), (4, True), (3, False)]), min_size=30, max_size=80)
    | st.integers(1, 30).map(lambda n: [(1, i % 5 == 4) for i in range(5 * n)])
)
def test_keys_are_in_order_and_never_early_whatever_comes(steps):
    places, place = [], Fraction(0)
    for gap, _ in steps:
        place += Fraction(gap, 10)
        places.append(place)
    equal = [repeats for _, repeats in steps]
    frames = list(zip(range(len(steps)), places, equal, strict=True))
    got = list(retime_repeats(frames))

    assert got[0] == (0, places[0])
    assert got[-1] == (len(steps) - 1, places[-1])
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(got))
    assert all(places[i] <= at for i, at in got)
    assert all(at < places[i + 1] for i, at in got[:-1])
    assert {i for i, _, repeats in frames if not repeats} <= {i for i, _ in got}
