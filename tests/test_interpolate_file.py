"""`interpolate_file`: rates, times, sound and length of the clips it writes."""

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from PIL import Image, ImageDraw

from rife import Options, Schedule, Timeline, interpolate_file, load_model
from rife.fileio import FileError
from rife.media import open_reader

from .support.clips import write_clip

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights("v4.0"), "cpu")


def times(path):
    with open_reader(path) as reader:
        return [frame.time for frame in reader]


def sound(path):
    """The sound's packets, and the times in seconds of the first and the last."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.size]
        starts = [p.pts * p.time_base for p in packets]
        return [bytes(p) for p in packets], min(starts), starts[-1]


@pytest.mark.parametrize("suffix", [".mp4", pytest.param(".mkv", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("24", "60"),
        ("8", "24"),
        ("16", "60"),
        ("24000/1001", "60000/1001"),
        ("60", "24"),
        ("30", "25"),
    ],
)
def test_any_rate_becomes_any_other_in_sync(model, tmp_path, source, target, suffix):
    clip, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    rate, source = Fraction(target), Fraction(source)
    count = round(2 * source)
    write_clip(clip, count=count, rate=source, audio="aac", size=(64, 32))
    written = interpolate_file(model, clip, out, Timeline(frame_rate=rate)).shown
    written_times = times(out)
    assert written == len(written_times) == math.ceil(count * rate / source)
    rounding = 0 if suffix == ".mp4" else Fraction(1, 1000)
    assert all(abs(t - k / rate) <= rounding for k, t in enumerate(written_times))
    assert abs(len(written_times) / rate - count / source) < 1 / rate
    assert sound(out) == sound(clip)


def test_originals_stay_in_the_places_that_rounded_times_give_them(model, tmp_path):
    """Although Matroska rounds to milliseconds, frame 2 of 24 per second is frame 5 of 60."""
    clip, out = tmp_path / "in.mkv", tmp_path / "out"
    write_clip(clip, count=13, rate=24, codec="ffv1", options={}, pixel_format="bgr0")
    interpolate_file(model, clip, out, Timeline(frame_rate=Fraction(60)))
    with open_reader(clip) as ours, open_reader(out) as theirs:
        originals, frames = [f.image for f in ours], [f.image for f in theirs]
    assert len(frames) == 33
    assert all(torch.equal(a, b) for a, b in zip(frames[:31:5], originals[::2], strict=True))
    assert torch.equal(frames[32], originals[12])


def test_uneven_times_are_kept_by_a_multiplier_and_evened_by_a_rate(model, tmp_path):
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    uneven = [Fraction(t, 100) for t in (0, 4, 10, 12, 20)]
    write_clip(clip, times=uneven, rate=25)
    interpolate_file(model, clip, out, Timeline(Fraction(2)))
    between = [(a + b) / 2 for a, b in zip(uneven, uneven[1:], strict=False)]
    assert times(out) == sorted(uneven + between)
    interpolate_file(model, clip, out, Timeline(frame_rate=Fraction(50)), overwrite=True)
    assert times(out) == [Fraction(k, 50) for k in range(13)]  # the last lasts 1 / 20.8 s


def test_slow_motion_is_as_many_times_longer_and_silent(model, tmp_path):
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(clip, count=5, rate=25, audio="aac")
    interpolate_file(model, clip, out, Timeline(Fraction(4), slow_motion=True))
    assert times(out) == [Fraction(k, 25) for k in range(17)]
    with av.open(str(out)) as container:
        assert not container.streams.audio
        assert container.streams.video[0].average_rate == 25


def test_a_schedule_divides_each_pair_in_its_own_time(model, tmp_path):
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(clip, count=4, rate=25)
    interpolate_file(model, clip, out, Timeline(Schedule.parse("1:4, 2:3")))
    expected = [0, 1, 1.25, 1.5, 1.75, 2, 2 + Fraction(1, 3), 2 + Fraction(2, 3), 3]
    assert times(out) == [Fraction(t) / 25 for t in expected]
    interpolate_file(
        model, clip, out, Timeline(Schedule.parse("1:4"), slow_motion=True), overwrite=True
    )
    assert times(out) == [Fraction(k, 25) for k in range(7)]


def test_a_loop_lasts_a_frame_longer_than_without(model, tmp_path):
    clip, out = tmp_path / "in.mp4", tmp_path / "out.gif"
    write_clip(clip, count=4, rate=25)
    assert interpolate_file(model, clip, out, Timeline(2, loop=True)).shown == 8
    assert times(out) == [Fraction(2 * k, 100) for k in range(8)]


def test_a_part_of_a_clip(model, tmp_path):
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(clip, count=50, rate=25, audio="aac")
    window = {"start": Fraction(1), "duration": Fraction(1, 2)}
    assert interpolate_file(model, clip, out, **window).shown == 2 * 13 - 1
    assert times(out) == [Fraction(k, 50) for k in range(25)]


def test_options_that_the_model_lacks_are_refused_before_anything_is_written(weights, tmp_path):
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(clip, count=3)
    v38 = load_model(weights("v3.8"), "cpu")
    with pytest.raises(ValueError, match="refine"):
        interpolate_file(v38, clip, out, options=Options(refine=True))
    with pytest.raises(FileError, match="input itself"):
        interpolate_file(v38, clip, clip, overwrite=True)
    assert list(tmp_path.iterdir()) == [clip]


def test_progress_and_cancel_are_told_of_every_frame(model, tmp_path):
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(clip, count=4)
    calls = []

    def report(done, total, frame):
        calls.append((done, total, tuple(frame.shape)))

    interpolate_file(model, clip, out, progress=report)
    assert calls == [(k, 7, (48, 64, 3)) for k in range(1, 8)]

    class Interrupt(Exception):
        pass

    def interrupt():
        if len(calls) > 9:
            raise Interrupt

    before = out.read_bytes()
    with pytest.raises(Interrupt):
        interpolate_file(model, clip, out, overwrite=True, progress=report, cancel=interrupt)
    assert out.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [clip, out]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_run_may_end_at_any_moment_and_leaves_nothing_half():
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.random_ends", "10"],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kill: ended early" in done.stdout


def stills(path, durations, size=(64, 48)):
    """Writes a GIF or APNG of a moving disc; each frame is shown for so many milliseconds."""
    pictures = []
    for index in range(len(durations)):
        picture = Image.new("RGB", size, "navy")
        ImageDraw.Draw(picture).ellipse((5 + 7 * index, 12, 21 + 7 * index, 28), fill="gold")
        pictures.append(picture)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations)
    return path


def shown(path):
    """How long each frame of an animation or a video is shown, in milliseconds."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            starts = sorted(packet.pts for packet in container.demux(stream) if packet.size)
            ends = [*starts[1:], stream.duration]
            step = 1000 * stream.time_base
            return [float((b - a) * step) for a, b in zip(starts, ends, strict=True)]
    with open_reader(path) as reader:
        return [float(1000 * frame.duration) for frame in reader]


@pytest.mark.parametrize(
    ("suffix", "timeline"),
    [
        (".gif", Timeline(Fraction(4))),
        (".apng", Timeline(Fraction(4))),
        (".webp", Timeline(Fraction(5, 2))),
        (".mp4", Timeline(Fraction(2))),
        (".mp4", Timeline(Schedule.parse("0-:3"))),
        (".gif", Timeline(frame_rate=Fraction(20))),
    ],
)
def test_a_last_frame_that_is_held_stays_as_long(model, tmp_path, suffix, timeline):
    clip = stills(tmp_path / "in.gif", [100] * 5 + [3000])
    out = tmp_path / f"out{suffix}"
    interpolate_file(model, clip, out, timeline)
    lasted = shown(out)
    assert sum(lasted) == pytest.approx(3500, abs=0.1)
    if timeline.frame_rate is None:
        beyond = 20 if timeline.multiplier == Fraction(5, 2) else 0  # the 14th lies at 12.5 places
        assert lasted[-1] == pytest.approx(3000 - beyond, abs=0.1)


def test_a_last_frame_like_the_others_is_divided_as_they_are(model, tmp_path):
    clip, out = stills(tmp_path / "in.gif", [100] * 4), tmp_path / "out.gif"
    interpolate_file(model, clip, out, Timeline(Fraction(2)))
    assert shown(out) == [50] * 7
    interpolate_file(model, clip, out, Timeline(Fraction(2), loop=True), overwrite=True)
    assert shown(out) == [50] * 8


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_length_in_time_ends_when_the_input_does(model, tmp_path, suffix):
    durations = [100, 200, 100, 300]
    clip, out = stills(tmp_path / "in.gif", durations), tmp_path / f"out{suffix}"
    count = interpolate_file(model, clip, out, Timeline(4, length="duration")).shown
    assert count == 16
    even = [d / 4 for d in durations for _ in range(4)]
    assert shown(out)[:-1] == even[:-1] if suffix == ".mp4" else sum(shown(out)) == 700
    with open_reader(out) as reader:
        frames = [frame.image for frame in reader]
    assert all((frame.int() - frames[-1].int()).abs().max() < 8 for frame in frames[12:])
    assert (frames[11].int() - frames[12].int()).abs().max() > 30


def test_with_a_length_in_time_picture_and_sound_end_together(model, tmp_path):
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(clip, count=10, rate=25, audio="aac")
    interpolate_file(model, clip, out, Timeline(Fraction(3), length="duration"))
    assert times(out) == [Fraction(k, 75) for k in range(30)]
    for path in (clip, out):
        with av.open(str(path)) as container:
            (video,), (audio,) = container.streams.video, container.streams.audio
            assert video.duration * video.time_base == Fraction(2, 5)
            assert sound(path) == sound(clip)
            assert audio.duration
