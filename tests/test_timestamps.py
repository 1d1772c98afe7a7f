"""The times of frames: exact, in order, and as a target rate asks for them."""

from fractions import Fraction
from itertools import pairwise

import av
import pytest
import torch

from rife.media import create_writer, open_reader

from .support.clips import HEIGHT, WIDTH, multiply_rate, pattern, read_frames, recode, write_clip


def test_real_video_doubles_to_exactly_twice_the_rate(clips, tmp_path):
    target = multiply_rate(clips("carphone_pristine"), tmp_path / "out.mp4", crf=40)
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(60000, 1001)
        assert stream.frames == 239
        assert stream.duration * stream.time_base == pytest.approx(239 * 1001 / 60000, abs=1e-3)
        times = [frame.pts * stream.time_base for frame in container.decode(stream)]
    assert times == [Fraction(index * 1001, 60000) for index in range(239)]


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "25", "12.5", "8"])
@pytest.mark.parametrize("multiplier", [2, 3, 5])
def test_times_and_rate_are_exact(tmp_path, rate, multiplier):
    rate = Fraction(rate)
    source = write_clip(tmp_path / "in.mp4", rate=rate, time_base=1 / rate, count=7)
    target = multiply_rate(source, tmp_path / "out.mp4", multiplier)
    frames = read_frames(target)
    count = 6 * multiplier + 1
    assert [frame.time for frame in frames] == [index / rate / multiplier for index in range(count)]
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate * multiplier
        assert stream.duration * stream.time_base == pytest.approx(
            count / rate / multiplier, abs=1e-3
        )


def test_uneven_times_are_kept(tmp_path):
    times = [Fraction(tick, 600) for tick in (0, 20, 45, 46, 120, 200, 333)]
    source = write_clip(tmp_path / "in.mp4", times=times, time_base=Fraction(1, 600))
    assert [frame.time for frame in read_frames(source)] == times
    halves = sorted(times + [(a + b) / 2 for a, b in pairwise(times)])
    assert [
        frame.time for frame in read_frames(multiply_rate(source, tmp_path / "out.mp4"))
    ] == halves


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
def test_every_container_holds_all_frames_in_order(tmp_path, suffix):
    source = write_clip(tmp_path / "in.mp4", count=12)
    frames = read_frames(recode(source, tmp_path / f"out.{suffix}"))
    assert len(frames) == 12
    for index, frame in enumerate(frames):
        assert frame.time == pytest.approx(Fraction(index, 25), abs=0.0006)
        expected = torch.from_numpy(pattern(index)).float()
        assert (frame.image.float() - expected).abs().mean() < 3


def test_a_target_rate_is_exact_whatever_the_source(tmp_path):
    source = write_clip(tmp_path / "in.mp4", rate=Fraction(24000, 1001), count=5)
    with (
        open_reader(source) as reader,
        create_writer(tmp_path / "out.mp4", reader, Fraction(60)) as writer,
    ):
        for index, frame in enumerate(reader):
            writer.write(frame.image, Fraction(index, 60))
    assert [frame.time for frame in read_frames(tmp_path / "out.mp4")] == [
        Fraction(index, 60) for index in range(5)
    ]


def test_the_last_frame_may_last_longer(tmp_path):
    source = write_clip(tmp_path / "in.mp4", count=4)
    with (
        open_reader(source) as reader,
        create_writer(tmp_path / "out.mp4", reader, Fraction(25)) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time, Fraction(1))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(3 / 25 + 1)


def test_frames_out_of_order_are_a_programming_error(tmp_path):
    with open_reader(write_clip(tmp_path / "in.mp4")) as reader:
        writer = create_writer(tmp_path / "out.mp4", reader, Fraction(25))
        image = torch.zeros(HEIGHT, WIDTH, 3)
        writer.write(image, Fraction(1, 25))
        with pytest.raises(ValueError, match="does not come after"):
            writer.write(image, Fraction(1, 25))
        writer.discard()


def test_a_stream_without_times_is_evenly_spaced(tmp_path):
    frames = read_frames(write_clip(tmp_path / "in.h264", count=7))
    assert [frame.time for frame in frames] == [Fraction(index, 25) for index in range(7)]
    for index, frame in enumerate(frames):
        assert (frame.image.float() - torch.from_numpy(pattern(index)).float()).abs().mean() < 3
