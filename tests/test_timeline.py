"""Which output frame lies where."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rife.timeline import nearest_dyadic, timesteps


def test_new_frames_divide_the_pair_evenly():
    assert timesteps(1) == []
    assert timesteps(2) == [Fraction(1, 2)]
    assert timesteps(5) == [Fraction(k, 5) for k in (1, 2, 3, 4)]
    with pytest.raises(ValueError, match="multiplier"):
        timesteps(0)


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_powers_of_two_are_dyadic_already(power):
    wanted = timesteps(2**power)
    assert nearest_dyadic(wanted) == wanted


def test_thirds_become_eighths():
    assert nearest_dyadic(timesteps(3)) == [Fraction(3, 8), Fraction(5, 8)]


@given(st.integers(2, 64))
def test_dyadic_timesteps_keep_order_symmetry_and_distance(multiplier):
    wanted = timesteps(multiplier)
    near = nearest_dyadic(wanted)
    assert all(t.denominator & (t.denominator - 1) == 0 for t in near)
    assert near[0] > 0
    assert near[-1] < 1
    assert near == sorted(set(near))
    assert near == [1 - t for t in reversed(near)]
    assert max(abs(a - b) for a, b in zip(wanted, near, strict=True)) <= Fraction(1, 8 * multiplier)
