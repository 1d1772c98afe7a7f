"""Files that are damaged, cut short or no videos are clear errors; failed runs leave nothing."""

import logging
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from PIL import Image

from rife.fileio import FileError, atomic_output
from rife.media import create_writer, open_reader

from .support.clips import read_frames, recode, write_clip


def test_wrong_files_are_each_a_clear_error(tmp_path):
    (tmp_path / "text.txt").write_text("hello world\n" * 100)
    (tmp_path / "text.mp4").write_text("hello world\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    Image.new("RGB", (32, 32)).save(tmp_path / "still.jpg")
    whole = write_clip(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name, message in [
        ("text.txt", "text.txt is not a video"),
        ("text.mp4", "text.mp4: Invalid data"),
        ("empty.mp4", "empty.mp4 is empty"),
        ("folder", "folder holds no images"),
        ("sound.m4a", "sound.m4a holds no video, only audio"),
        ("still.jpg", "still.jpg is not a video; for images, name their folder"),
        ("cut.mp4", "cut.mp4: Invalid data"),
        ("missing.mp4", "missing.mp4: it does not exist"),
    ]:
        with pytest.raises(FileError, match=message):
            open_reader(tmp_path / name)


@pytest.mark.parametrize("length", [50, 5000])
def test_damage_in_the_middle_costs_the_frames_that_need_it(clips, tmp_path, length):
    data = bytearray(clips("bikes").read_bytes())
    data[200_000 : 200_000 + length] = np.random.default_rng(0).bytes(length)
    (tmp_path / "in.mp4").write_bytes(data)
    whole = read_frames(clips("bikes"))
    with open_reader(tmp_path / "in.mp4") as reader:
        frames = list(reader)
        (damage,) = reader.damage
    assert "in.mp4 is damaged: 1.64 s of the picture are missing at 3.84 s" in damage
    (after,) = (index for index, frame in enumerate(frames) if frame.follows_gap)
    assert frames[after].time - frames[after - 1].time == frames[after - 1].duration > 1.6
    by_time = {frame.time: frame.image for frame in whole}
    assert len(frames) == len(whole) - 1.64 * 25
    assert all(torch.equal(frame.image, by_time[frame.time]) for frame in frames)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_download_that_broke_off_is_read_as_far_as_it_goes(tmp_path, suffix):
    source = write_clip(tmp_path / f"in.{suffix}", count=100, options={"g": "10", "crf": "4"})
    if suffix == "mp4":
        source = recode(source, tmp_path / "front.mp4", crf=4)  # with the index at the front
    whole = source.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    with open_reader(cut) as reader:
        frames = list(reader)
        *_, damage = reader.damage
    assert 40 < len(frames) < 60
    end = float(frames[-1].time) + 1 / 25
    assert f"the last {4 - end:.2f} s, from {end:.2f} s on, are missing" in damage
    gaps = sum(b.time - a.time > Fraction(1, 25) for a, b in pairwise(frames))
    assert gaps == len(reader.damage) - 1 == sum(frame.follows_gap for frame in frames)


def test_a_failing_run_leaves_nothing(tmp_path):
    source = write_clip(tmp_path / "in.mp4", count=30, audio="aac")
    with (
        pytest.raises(KeyboardInterrupt),
        atomic_output(tmp_path / "out.mp4") as path,
        open_reader(source) as reader,
        create_writer(path, reader, Fraction(25)) as writer,
    ):
        for index, frame in enumerate(reader):
            writer.write(frame.image, frame.time)
            if index == 20:
                raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_nothing_is_logged_when_all_is_kept(tmp_path, caplog):
    recode(write_clip(tmp_path / "in.mp4", audio="aac"), tmp_path / "out.mp4")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
