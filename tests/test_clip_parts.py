"""A part of a clip is what the whole clip has there, its sound included."""

from fractions import Fraction
from functools import lru_cache

import av
import pytest
import torch

from rife.fileio import FileError
from rife.media import Encoding, create_writer, open_reader
from rife.media.decoding import FrameDecoder

from .support.clips import beep_times, read_frames, read_packets, recode, write_clip


def part_of(path, start, duration=None):
    with open_reader(path, start=start, duration=duration) as reader:
        return list(reader), reader.info.frame_count


@pytest.fixture(scope="module")
def read_whole(clips):
    """read_whole(name) gives all frames of a clip, which it decodes once."""
    return lru_cache(lambda name: read_frames(clips(name)))


def assert_part(whole, start, duration, frames, count):
    """`frames` are those of `whole` that ComfyUI's trim would give, and `count` tells how many."""
    end = float("inf") if duration is None else start + duration
    kept = [frame for frame in whole if start <= frame.time < end]
    assert [frame.time for frame in frames] == [frame.time - kept[0].time for frame in kept]
    assert all(torch.equal(a.image, b.image) for a, b in zip(frames, kept, strict=True))
    assert abs(count - len(kept)) <= 1


@pytest.mark.parametrize(
    ("name", "start", "duration"),
    [
        ("bikes", 6, None),
        ("bikes", Fraction(301, 100), Fraction(1, 2)),
        ("bikes", 0, 2),
        ("bikes", 1.25, 100.0),
        ("bikes", Fraction("9.96"), None),
        ("bigbuckbunny", Fraction("4.4"), Fraction("0.52")),
    ],
)
def test_a_part_is_what_the_whole_clip_has_there(clips, read_whole, name, start, duration):
    assert_part(read_whole(name), start, duration, *part_of(clips(name), start, duration))


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mkv", "libx264", {}),
        ("mkv", "libx264", {"x264-params": "open-gop=1:bframes=3:scenecut=0"}),
        ("mp4", "libx264", {"x264-params": "open-gop=1:bframes=3:scenecut=0"}),
        ("mp4", "libx265", {"x265-params": "log-level=error:keyint=25:open-gop=1"}),
        ("ts", "libx264", {}),
        ("webm", "libvpx-vp9", {}),
        ("avi", "mpeg4", {"bf": "2"}),
    ],
)
def test_a_part_begins_right_wherever_the_file_can_be_sought(tmp_path, suffix, codec, options):
    options = {"g": "25", **options}
    path = write_clip(tmp_path / f"in.{suffix}", count=100, codec=codec, options=options)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        begin = frame.pts * frame.time_base
    whole, duration = read_frames(path), Fraction("0.61")
    for start in map(Fraction, ("0.5", "1.96", "2", "2.51", "3.3")):
        frames, _ = part_of(path, begin + start, duration)
        assert_part(whole, start, duration, frames, len(frames))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("in.mp4", "libx264", {}),
        ("in.mkv", "libx264", {"x264-params": "open-gop=1:bframes=3:scenecut=0"}),
        ("in.ts", "libx265", {"x265-params": "log-level=error:keyint=25:open-gop=1"}),
    ],
)
def test_a_late_part_of_a_clip_is_reached_without_decoding_all(
    tmp_path, name, codec, options, monkeypatch
):
    path = write_clip(tmp_path / name, count=500, codec=codec, options={"g": "25", **options})
    decoded, decode = [], FrameDecoder.decode

    def decode_and_count(self, packets):
        for frame in decode(self, packets):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(FrameDecoder, "decode", decode_and_count)
    for start in 18, 19:
        decoded.clear()
        with open_reader(path, start=start, duration=0.5) as reader:
            assert [frame.time for frame in reader] == [Fraction(index, 25) for index in range(13)]
        assert len(decoded) < 500 / 2


@pytest.mark.parametrize(
    ("start", "duration", "first", "last"),
    [(2, 1.5, 0, 1.5), (2.013, 1, 0.027, 1), (4, None, 0, 2)],
)
def test_sound_of_a_part_is_copied_and_in_time(clips, tmp_path, start, duration, first, last):
    source, target = clips("bigbuckbunny"), tmp_path / "out.mp4"
    with (
        open_reader(source, start=start, duration=duration) as reader,
        create_writer(target, reader, reader.info.frame_rate, Encoding(crf=51)) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time)
    shown = start + first  # the first frame, with which the file begins
    expected = [
        (time - shown, data)
        for time, data in read_packets(source, "audio")
        if shown - 1e-9 <= time < start + last
    ]
    got = read_packets(target, "audio")
    assert [data for _, data in got] == [data for _, data in expected]
    assert [time for time, _ in got] == pytest.approx([float(t) for t, _ in expected], abs=1e-3)


@pytest.mark.parametrize(
    ("source", "codec", "target"), [("mp4", "aac", "mp4"), ("mkv", "libopus", "mkv"),
    ("mp4", "aac", "webm"), ("ts", "aac", "mp4")]
)  # fmt: skip
def test_sound_of_a_part_is_heard_with_its_picture(tmp_path, source, codec, target):
    path = write_clip(tmp_path / f"in.{source}", count=100, audio=codec)
    with av.open(str(path)) as container:
        begin = next(container.decode(video=0)).time
    with (
        open_reader(path, start=begin + 1.31, duration=2) as reader,
        create_writer(tmp_path / f"out.{target}", reader, Fraction(25)) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time)
    shown = 1.32  # the first frame from there on
    expected = [time - shown for time in beep_times(path) if shown <= time < 3.3]
    assert beep_times(tmp_path / f"out.{target}") == pytest.approx(expected, abs=0.005)


def test_sound_before_the_first_frame_belongs_to_a_part_that_starts_earlier(tmp_path):
    path = write_clip(tmp_path / "in.mkv", count=25, audio="aac", video_start=Fraction(1))
    with (
        open_reader(path, start=0.5, duration=1) as reader,
        create_writer(tmp_path / "out.mkv", reader, Fraction(25)) as writer,
    ):
        assert reader.video_start == pytest.approx(0.5, abs=0.03)
        frames = [writer.write(frame.image, frame.time) for frame in reader]
    assert len(frames) == 13
    before = [time for time in beep_times(path) if -0.5 < time < 0.5]
    assert beep_times(tmp_path / "out.mkv") == pytest.approx(before, abs=0.005)


def test_a_part_without_a_frame_is_an_error_that_says_what_there_is(clips, tmp_path):
    for start, duration, message in [
        (12, None, "bikes.mp4 holds no video frame from 12.00 s on; it lasts 10.00 s"),
        (9.97, None, "no video frame from 9.97 s on"),
        (3, 0, "no video frame from 3.00 s to 3.00 s"),
    ]:
        with pytest.raises(FileError, match=message):
            open_reader(clips("bikes"), start=start, duration=duration)
    (tmp_path / "in").mkdir()
    plain = write_clip(tmp_path / "plain.mp4")
    for path in recode(plain, tmp_path / "in"), recode(plain, tmp_path / "in.gif"):
        with pytest.raises(FileError, match="of video files only"):
            open_reader(path, duration=1)


def test_a_download_that_broke_off_is_said_only_where_a_part_has_it(tmp_path, caplog):
    source = write_clip(tmp_path / "in.mp4", count=200, options={"g": "10", "crf": "4"})
    whole = recode(source, tmp_path / "front.mp4", crf=4).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert len(part_of(tmp_path / "cut.mp4", 1, 1)[0]) == 25
    assert not caplog.records
    assert 60 < len(part_of(tmp_path / "cut.mp4", 1)[0]) < 80
    assert "cut.mp4 is cut short or damaged: the last 4." in caplog.text
