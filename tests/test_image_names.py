"""The order in which a folder's images are read, and the notes about their names."""

import random
from pathlib import Path

import pytest

from rife.media.image_names import order_images


def order(*names):
    """The names of each sequence, and the notes. The files are listed in a random order."""
    files = [Path(name) for name in names]
    random.Random(0).shuffle(files)
    sequences, notes = order_images(files)
    return [[file.name for file in sequence.files] for sequence in sequences], notes


@pytest.mark.parametrize(
    "names",
    [
        "frame_8_1920x1080.png frame_9_1920x1080.png frame_10_1920x1080.png",
        "shot_8_v2.png shot_9_v2.png shot_10_v2.png",
        "8.png 9.jpg 10.png 11.TIF",
        "ComfyUI_00009_.png ComfyUI_00010_.png ComfyUI_00011_.png",
        "9-59-59.png 10-00-00.png 10-00-01.png 12-00-59.png",
        "2026-01-31_23-59-59.png 2026-02-01_00-00-00.png 2026-02-01_00-00-01.png",
        "a12.00.59.950.png a12.01.00.000.png a12.01.00.050.png",
        "t0.92.png t0.96.png t1.00.png t1.04.png",
        "t0.0.png t0.04.png t0.08.png t0.12.png t0.16.png t0.2.png t0.24.png",
        "t0.8.png t0.9.png t0.10.png t0.11.png",
        "v1.9.9.png v1.9.10.png v1.9.11.png",
        "frame8.png frame09.png frame010.png",
        "-0002.png -0001.png 0000.png 0001.png",
        "f_-10.png f_-9.png f_-8.png f_-7.png",
        "f-8.png f-9.png f-10.png",
        "Frame_1.png frame_2.png FRAME_3.png frame_4.png",
        "f_٨.png f_９.png f_10.png f_११.png",
        "f_1_seed99.png f_2_seed5.png f_3_seed70.png",
        "f_8_0.32s.png f_9_0.36s.png f_10_0.4s.png",
        "end.png start.png",
        "image.png",
    ],
)
def test_images_are_read_as_people_count(names):
    names = names.split()
    assert order(*names) == ([names], [])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a_8.png a_9.png a_10.png", "b_1.png b_2.png"),
        ("take1_001.png take1_002.png", "take2_001.png take2_002.png"),
        ("take9_001.png take9_002.png", "take10_001.png"),
        ("0001_L.png 0002_L.png", "0001_R.png 0002_R.png"),
        ("cover.png", "f_1.png f_2.png f_3.png"),
        ("1.9.png 1.10.png", "2.9.png 2.10.png"),
    ],
)
def test_sequences_are_read_one_after_the_other_and_said(first, second):
    first, second = first.split(), second.split()
    sequences, (note,) = order(*first, *second)
    assert sequences == [first, second]
    assert note.startswith("2 sequences")
    for group in (first, second):
        named = f"{group[0]} to {group[-1]} ({len(group)})" if group[1:] else group[0]
        assert named in note


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ("f_10.png f_11.png f_15.png f_16.png f_18.png", "12-14, 17."),
        ("f_1.png f_2.png f_4.png f_7.png", "3, 5-6."),
        ("10.png 20.png 40.png", "30."),
        ("t0.04.png t0.08.png t0.20.png", "0.12-0.16."),
        ("f_1_v2.png f_2_v2.png f_4_v2.png", "3."),
        (" ".join(f"{i}.png" for i in range(40) if i % 4), "4, 8, 12, 16, 20 and 4 more."),
    ],
)
def test_missing_numbers_are_said(names, missing):
    names = names.split()
    sequences, (note,) = order(*names)
    assert sequences == [names]
    assert f": {missing}" in note


@pytest.mark.parametrize(
    "names",
    [
        "f_1.png f_5.png",
        "f_1.png f_3.png f_5.png f_7.png",
        "20260131_120059.png 20260131_120105.png 20260131_120312.png",
        "12-00-59.png 12-01-00.png 12-01-02.png",
    ],
)
def test_numbers_that_count_nothing_have_no_gaps(names):
    names = names.split()
    assert order(*names) == ([names], [])


def test_of_images_that_differ_in_their_suffix_one_is_read_and_the_others_are_said():
    sequences, (note,) = order("f_1.png", "f_1.jpg", "f_2.jpg", "f_3.jpeg", "f_3.tif")
    assert sequences == [["f_1.png", "f_2.jpg", "f_3.tif"]]
    assert "left out: f_1.jpg, f_3.jpeg." in note


@pytest.mark.parametrize(
    ("names", "twice"),
    [
        (["f_01.png", "f_1.png", "f_2.png", "f_3.png"], "f_1.png"),
        (["f_1.png", "f_2.png", "f_2b.png", "f_3.png"], "f_2b.png"),
        (["F_1.png", "f_1.png", "f_2.png"], "f_1.png"),
    ],
)
def test_a_number_that_occurs_twice_is_said(names, twice):
    sequences, (note,) = order(*names)
    assert sequences == [names]
    assert f"twice in {names[0]} to {names[-1]} ({len(names)}): {twice}." in note
