"""Between which input frames, and at which timestep, each output frame lies."""

import math
import tracemalloc
from contextlib import closing
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rife import Cancelled, Options, interpolate_stream
from rife.timeline import (
    Schedule,
    Timeline,
    nearest_dyadic,
    parse_frame_rate,
    parse_multiplier,
)

HOURS = 3600
RATES = [Fraction(n) for n in (1, 8, 12, 15, 16, 24, 25, 30, 50, 60, 120)] + [
    Fraction(n * 1000, 1001) for n in (24, 30, 60, 120)
]
multipliers = st.one_of(
    st.integers(1, 64).map(Fraction), st.fractions(Fraction(1, 20), 20, max_denominator=60)
)
rates = st.sampled_from(RATES)


@st.composite
def schedules(draw):
    spans, free = [], 0
    for _ in range(draw(st.integers(1, 4))):
        first = free + draw(st.integers(0, 5))
        last = first + draw(st.integers(0, 5))
        spans.append((first, last, draw(st.integers(1, 9))))
        free = last + 1
    if draw(st.booleans()):
        spans.append((free, None, draw(st.integers(1, 9))))
    return Schedule(tuple(spans))


def positions(timeline, frames, times=None, last=Fraction(1)):
    """Returns the place in the input of each output frame of a clip.

    The last of the `frames` input frames is shown for `last` seconds.
    """
    times = times or [Fraction(i) for i in range(frames)]
    keys = [(i, timeline.place(i, t)) for i, t in enumerate(times)]
    if timeline.fills_last_interval and frames:
        follows = frames if timeline.loop else frames - 1
        keys.append((follows, timeline.place(frames, times[-1] + last)))
    return [a + t * (b - a) for a, b, ts in timeline.steps(keys) for t in ts]


@pytest.mark.parametrize(
    ("timeline", "keys", "count"),
    [
        (Timeline(Fraction(10**7)), 2, 10**7),
        (Timeline(Fraction(10**7 + 1, 2), loop=True), 3, 5_000_001),
        (Timeline(Schedule.parse("0:900000000")), 2, 900_000_000),
        (Timeline(frame_rate=Fraction(10**6, Fraction(1, 1000))), 3, 10**9),
    ],
)
def test_any_number_of_frames_between_two_takes_no_memory(timeline, keys, count):
    tracemalloc.start()
    placed = [(i, timeline.place(i, Fraction(i))) for i in range(keys)]
    first, second, timesteps = next(timeline.steps(placed))
    inner = timesteps[1:]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert (first, second, len(timesteps)) == (0, 1, count)
    step = Fraction(1) / (placed[1][1] - placed[0][1])
    assert timesteps[0] == 0 and inner[0] == step and inner[-1] == (count - 1) * step < 1
    assert timeline.count(keys) >= count


@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize(
    "timeline",
    [
        Timeline(Fraction(10**7)),
        Timeline(Schedule.parse("0:9000000")),
        Timeline(frame_rate=Fraction(10**9)),
    ],
)
def test_ten_million_frames_between_two_can_be_stopped(v40, timeline, still):
    frames, asked = torch.rand(2, 64, 64, 3), []
    if still:
        frames[1] = frames[0]
    with (
        pytest.raises(Cancelled),
        closing(
            interpolate_stream(
                v40,
                frames,
                timeline,
                Options(cuts="ignore"),
                cancel=lambda: asked.append(1) or asked[3:],
            )
        ) as stream,
    ):
        for _ in stream:
            assert len(asked) < 4
    assert len(asked) == 4


@pytest.mark.parametrize(
    "settings",
    [{"multiplier": Fraction(10**30)}, {"frame_rate": Fraction(10**9 + 1)}, {"frame_rate": -1}],
)
def test_numbers_beyond_counting_are_refused(settings):
    with pytest.raises(ValueError, match="multiplier|frame rate"):
        Timeline(**settings)


def wholes(numbers):
    return [Fraction(n) for n in numbers]


def test_doubling_puts_a_frame_in_the_middle_of_each_pair():
    assert positions(Timeline(), 3) == wholes([0, 0.5, 1, 1.5, 2])
    assert positions(Timeline(Fraction(1)), 3) == wholes([0, 1, 2])
    assert positions(Timeline(), 1) == [0]
    assert positions(Timeline(), 0) == []


def test_24_to_60_frames_a_second_and_the_last_frame_stays():
    five_halves = Timeline(Fraction(60, 24))
    assert positions(five_halves, 3) == [Fraction(2 * k, 5) for k in range(6)]
    assert positions(five_halves, 4)[-3:] == [Fraction(12, 5), Fraction(14, 5), 3]


def test_60_to_24_picks_the_nearest_and_keeps_first_and_last():
    fewer = Timeline(Fraction(24, 60))
    assert positions(fewer, 11) == [0, 3, 5, 8, 10]
    assert positions(fewer, 13) == [0, 3, 5, 8, 12]
    assert positions(fewer, 2) == [0]


def test_a_loop_leads_back_to_just_before_the_first_frame():
    assert positions(Timeline(loop=True), 3) == wholes([0, 0.5, 1, 1.5, 2, 2.5])
    assert positions(Timeline(Fraction(1), loop=True), 3) == [0, 1, 2]


def test_a_schedule_has_a_multiplier_for_each_pair():
    schedule = Timeline(Schedule.parse("1:3, 3-:2"))
    expected = [0, 1, Fraction(4, 3), Fraction(5, 3), 2, 3, 3.5, 4, 4.5, 5]
    assert positions(schedule, 6) == [Fraction(p) for p in expected]


def test_uneven_frames_become_even_ones_at_a_frame_rate():
    times = [Fraction(t, 100) for t in (0, 4, 10, 12)]
    output = positions(Timeline(frame_rate=Fraction(50)), 4, times, last=Fraction(2, 100))
    assert output == [0, Fraction(1, 2), 1, 1 + Fraction(1, 3), 1 + Fraction(2, 3), 2, 3]


def test_at_a_frame_rate_the_last_frame_is_shown_for_its_time():
    output = positions(Timeline(frame_rate=Fraction(5, 2)), 3)
    assert output == [*(Fraction(2 * k, 5) for k in range(6)), 2, 2]
    assert positions(Timeline(frame_rate=Fraction(3)), 1) == [0, 0, 0]
    assert positions(Timeline(frame_rate=Fraction(2, 5)), 5) == [0, 4]
    assert positions(Timeline(frame_rate=Fraction(2, 5)), 1) == [0]
    uneven = [Fraction(0), Fraction(5, 2)]
    assert positions(Timeline(frame_rate=Fraction(1)), 2, uneven)[-1] == 1


def test_rounded_times_still_fall_on_the_frames():
    """Matroska rounds the times of 24 frames a second to milliseconds."""
    times = [Fraction(round(Fraction(1000 * i, 24)), 1000) for i in range(25)]
    timeline = Timeline(frame_rate=Fraction(60), tick=Fraction(1, 1000))
    output = positions(timeline, 25, times, last=Fraction(1, 24))
    assert output[:62:5] == list(range(0, 25, 2))
    assert len(output) == 63


@given(multipliers, st.integers(0, 60), st.booleans())
def test_counts_are_as_documented(multiplier, frames, loop):
    timeline = Timeline(multiplier, loop=loop)
    output = positions(timeline, frames)
    assert len(output) == timeline.count(frames)
    if loop:
        assert len(output) == math.ceil(frames * multiplier)
    elif frames:
        exact = (frames - 1) * multiplier
        assert len(output) == (math.ceil(exact) if multiplier >= 1 else math.floor(exact)) + 1


@given(schedules(), st.integers(1, 60), st.booleans())
def test_a_schedule_makes_the_sum_of_its_multipliers(schedule, frames, loop):
    def of_pair(i):
        spans = (m for a, b, m in schedule.spans if a <= i and (b is None or i <= b))
        return next(spans, 1)

    timeline = Timeline(schedule, loop=loop)
    output = positions(timeline, frames)
    pairs = frames if loop else frames - 1
    assert len(output) == timeline.count(frames) == sum(map(of_pair, range(pairs))) + (not loop)
    for pair in range(pairs):
        count = of_pair(pair)
        inside = [p for p in output if pair <= p < pair + 1]
        assert inside == [pair + Fraction(k, count) for k in range(count)]


@given(multipliers, st.integers(1, 60), st.booleans())
def test_output_frames_are_in_order_inside_the_clip_and_keep_the_ends(multiplier, frames, loop):
    output = positions(Timeline(multiplier, loop=loop), frames)
    assert all(a < b for a, b in pairwise(output))
    assert output[0] == 0
    if loop:
        assert output[-1] < frames or multiplier < 1
    elif len(output) > 1:
        assert output[-1] == frames - 1
    if multiplier < 1:
        assert all(p.denominator == 1 for p in output)
        inner = output if loop else output[:-1]
        assert all(abs(p - k / multiplier) <= Fraction(1, 2) for k, p in enumerate(inner))
    else:
        assert all(p == k / multiplier for k, p in enumerate(output[:-1]))
    if multiplier.denominator == 1:
        assert set(range(frames)) <= set(output)


@given(rates, rates, st.integers(1, 200))
def test_a_clip_lasts_as_long_at_any_rate(source, target, frames):
    timeline = Timeline(frame_rate=target)
    times = [i / source for i in range(frames)]
    output = positions(timeline, frames, times, last=1 / source)
    assert len(output) == timeline.count(frames, source) == math.ceil(frames * target / source)
    assert 0 <= len(output) / target - frames / source < 1 / target
    assert output[0] == 0
    if len(output) > 1:
        assert output[-1] == frames - 1


@given(rates, rates, st.integers(0, 10 * HOURS))
def test_there_is_no_drift_in_ten_hours(source, target, second):
    """At any second of a long clip, output frame k lies at exactly k / target seconds."""
    timeline = Timeline(frame_rate=target)
    first = math.floor(second * source)
    keys = [(Fraction(i), timeline.place(i, i / source)) for i in range(first, first + 40)]
    assume(target >= source)
    number = math.ceil(keys[0][1])
    for a, b, timesteps in timeline.steps(keys):
        for t in timesteps:
            if b > a:
                assert (a + t * (b - a)) / source == number / target
                number += 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), rates)
def test_variable_frame_rates_are_in_order_too(gaps, target):
    times = [Fraction(sum(gaps[:i]), 100) for i in range(len(gaps) + 1)]
    timeline = Timeline(frame_rate=target, tick=Fraction(1, 1000))
    output = positions(timeline, len(times), times, last=times[-1] - times[-2])
    before_last = [p for p in output if p < len(gaps)]
    assert all(a < b for a, b in pairwise(before_last))
    assert output == before_last + [len(gaps)] * (len(output) - len(before_last))
    assert output[0] == 0
    assert output[-1] == len(gaps) or len(output) == 1
    clip_duration = times[-1] + times[-1] - times[-2]
    assert (
        abs(len(output) / target - clip_duration) < 2 / target
    )  # room for the last frame, in any case


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("0-20:2, 21:8, 22-:1", ((0, 20, 2), (21, 21, 8), (22, None, 1))),
        (" 3 : 4", ((3, 3, 4),)),
        ("0-:2", ((0, None, 2),)),
    ],
)
def test_schedules_are_read(text, spans):
    assert parse_multiplier(text) == Schedule(spans)


@pytest.mark.parametrize(
    "text",
    [
        *("", "two", "0", "-2", "1/0", "0-20:0", "5-3:2", "3:2, 3:4", "0-:2, 5:3", "0:2;1:3"),
        *(":2", "1:", "1 2:3", "1--2:3", "-:2", "0:1e3", "0-9999999999:2", "0:9999999999"),
        *("nan", "inf", "1e400", "1e-400", "1e999999999", "1e-999999999", "1e9_999_999_999"),
        *("1e10", "2\0", "0x10", "\x1b[31m2", "2/3/4", "½", float("nan"), float("inf"), 10**400),
    ],
)
def test_what_is_no_multiplier_is_refused_by_name(text):
    with pytest.raises(ValueError, match="multiplier|schedule|named once") as caught:
        parse_multiplier(text)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("text", [" 2 ", "２", "2e0", "2.000", "4/2", "0002", 2.0])
def test_a_number_may_be_written_in_any_usual_way(text):
    assert parse_multiplier(text) == parse_frame_rate(text) == 2


@pytest.mark.parametrize(
    "text",
    [
        *("1" * 10**6, "1" * 10**6 + ":2", " " * 10**6 + ":", "1" + " " * 10**6 + "x:2"),
        *("1 - " + " " * 10**6 + "2:", "1 " * 10**6 + ":", "1-" * 10**6 + ":2", "," * 10**6 + ":"),
        *("1:2" + " " * 10**6 + "3", "0:1," * 10**5, ("1" * 300 + ",") * 3000 + "0:1"),
    ],
)
def test_a_megabyte_of_schedule_is_refused_at_once_and_in_a_few_words(text):
    with pytest.raises(ValueError, match="multiplier|schedule|named once") as caught:
        parse_multiplier(text)
    assert len(str(caught.value)) < 300


def test_a_schedule_of_many_spans_is_parsed_and_searched():
    spans = 100_000
    schedule = parse_multiplier(", ".join(f"{2 * i}: 3" for i in range(spans)))
    assert [schedule.place(i) for i in range(6)] == [0, 3, 4, 7, 8, 11]
    assert schedule.place(2 * spans + 5) == 4 * spans + 5
    assert all(schedule.place(i) == 4 * (i // 2) + 3 * (i % 2) for i in range(199_000, 200_000))


def test_multipliers_may_be_fractions():
    for text in ("2.5", "5/2", 2.5, Fraction(5, 2)):
        assert parse_multiplier(text) == Fraction(5, 2)
    with pytest.raises(ValueError, match="multiplier"):
        Timeline(Fraction(0))
    with pytest.raises(ValueError, match="frame rate"):
        Timeline(frame_rate=Fraction(0))


@pytest.mark.parametrize("rate", [24, 30, 48, 60, 120])
def test_ntsc_rates_are_exact_however_they_are_rounded(rate):
    exact = Fraction(rate * 1000, 1001)
    for digits in (2, 3, 4, 6):
        assert parse_frame_rate(round(float(exact), digits)) == exact
    assert parse_frame_rate(float(exact)) == exact
    assert parse_frame_rate(f"{rate}000/1001") == exact
    assert parse_frame_rate(rate) == parse_frame_rate(float(rate)) == rate


@pytest.mark.parametrize(
    "rate",
    [
        *("12.5", "0.5", "7.5", "8", "59", "1/300", "0.001", "0.004", "0.995", "1.003", "2.002"),
        *("23.9", "999999", "1000000", "1/1000000", "59.95", "24.024"),
    ],
)
def test_other_rates_stay_as_they_are(rate):
    exact = Fraction(rate)
    assert parse_frame_rate(rate) == parse_frame_rate(float(exact)) == exact


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "0",
            "-1",
            "fast",
            "nan",
            "inf",
            "-inf",
            "1/0",
            "0/1",
            "1e-7",
            "1000001",
            "1e400",
        ),
        *("1e-400", "1e999999999", "2" * 10**6, "24\0", "24fps", float("nan"), float("inf"), -1.0),
    ],
)
def test_what_is_no_frame_rate_is_refused(text):
    with pytest.raises(ValueError, match="frame rate"):
        parse_frame_rate(text)


def steps(multiplier):
    return [Fraction(k, multiplier) for k in range(1, multiplier)]


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_powers_of_two_are_dyadic_already(power):
    wanted = steps(2**power)
    assert nearest_dyadic(wanted) == wanted


def test_thirds_become_eighths():
    assert nearest_dyadic(steps(3)) == [Fraction(3, 8), Fraction(5, 8)]


@given(st.integers(2, 64))
def test_dyadic_timesteps_keep_order_symmetry_and_distance(multiplier):
    wanted = steps(multiplier)
    near = nearest_dyadic(wanted)
    assert all(t.denominator & (t.denominator - 1) == 0 for t in near)
    assert near[0] > 0
    assert near[-1] < 1
    assert near == sorted(set(near))
    assert near == [1 - t for t in reversed(near)]
    assert max(abs(a - b) for a, b in zip(wanted, near, strict=True)) <= Fraction(1, 8 * multiplier)


@given(st.fractions(Fraction(1, 1000), Fraction(999, 1000)), st.integers(1, 8))
def test_dyadic_timesteps_anywhere_take_few_midpoints(offset, multiplier):
    wanted = [t for k in range(9) if 0 < (t := (k + offset) / multiplier) < 1]
    near = nearest_dyadic(wanted)
    assert near == sorted(set(near))
    assert all(0 < t < 1 and t.denominator <= 128 for t in near)
