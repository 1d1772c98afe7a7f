"""Which frames repeat the one before, and where the others belong."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rife.analysis.duplicates import is_duplicate, retime_repeats
from rife.analysis.thumbnail import make_thumbnail

from .support.shots import camera_view, encode_and_decode, read_shot


def repeats(images):
    return [is_duplicate(*pair) for pair in pairwise(map(make_thumbnail, images))]


def test_repeats_are_found_after_encoding(bunny_shot, bikes_shot):
    for shot in (bunny_shot, bikes_shot):
        twos = encode_and_decode([image[:272, :640] for image in shot for _ in range(2)], 23)
        assert repeats(twos) == [True, False] * 11 + [True]


def test_a_talking_head_before_a_still_background_is_no_repeat(clips):
    assert not any(repeats(read_shot(clips("carphone_pristine"))))


def test_a_slow_pan_is_no_repeat(bunny_shot, bikes_shot):
    for shot in (bunny_shot, bikes_shot):
        pan = [camera_view(shot[0], x=0.5 * i / 720, size=(406, 720)) for i in range(8)]
        assert not any(repeats(pan))
        assert not any(repeats(encode_and_decode([(x * 255).byte() for x in pan])))


def test_a_change_in_a_small_part_is_no_repeat(bikes_shot):
    other = bikes_shot[0].clone()
    other[100:120, 300:320] = 255 - other[100:120, 300:320]
    assert not is_duplicate(make_thumbnail(bikes_shot[0]), make_thumbnail(other))


# Re-timing


def keys(lengths):
    """Re-times runs of equal frames of these lengths: [(number of the run, time)]."""
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
