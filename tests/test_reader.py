"""Reading videos of all kinds: names, clocks, interlaced pictures, and what is damaged."""

import io
import math
import os
import sys
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch

from rife.fileio import FileError
from rife.media import create_writer, open_reader

WIDTH, HEIGHT = 64, 48
RATE = 25


def pattern(index, width=WIDTH, height=HEIGHT):
    """(H, W, 3) uint8: a bright column that moves two pixels a frame over grey."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[:, 2 * index % width :][:, :6] = 220
    return image


def make(
    path, count=10, codec="mpeg4", *, format=None, times=None, start=0, last=None,
    sound=None, sound_times=None, picture=pattern, size=(WIDTH, HEIGHT), pixel_format="yuv420p",
    **options,
):  # fmt: skip
    """A video made with plain PyAV.

    times: of the frames, in 1/25 s; start: added to them, seconds. sound: codec of a noise that
    lasts as long; sound_times: (from, to) pairs, seconds, outside of which it has no packets.
    last: how long the last frame is shown, in 1/25 s.
    """
    times = range(count) if times is None else times
    base = Fraction(1, RATE)
    target = path if isinstance(path, io.BytesIO) else f"file:{path}"
    with av.open(target, "w", format=format) as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.codec_context.time_base = base
        packets = []
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), "rgb24")
            frame.pts, frame.time_base = time + round(start / base), base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        latest = max(packets, key=lambda packet: packet.pts)
        for packet in packets:
            # MP4 tells it with the packet that is stored last, others with the one shown last.
            packet.duration = last if last and packet in (latest, packets[-1]) else 1
        if sound:
            packets += noise(container, sound, start, start + (times[-1] + 1) * base, sound_times)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def noise(container, codec, start, end, sound_times):
    stream = container.add_stream(codec, rate=48000)
    stream.codec_context.layout = "mono"
    rng, packets = np.random.default_rng(0), []
    for block in range(int((end - start) * 48000) // 960):
        samples = rng.integers(-9000, 9000, (1, 960), np.int16)
        chunk = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        chunk.sample_rate, chunk.time_base = 48000, Fraction(1, 48000)
        chunk.pts = round(start * 48000) + 960 * block
        packets += stream.encode(chunk)
    packets += stream.encode(None)
    return [
        packet
        for packet in packets
        if sound_times is None
        or any(a <= packet.pts * packet.time_base - start < b for a, b in sound_times)
    ]


def read(path, **options):
    """The frames of a clip, what is reported of it, and its reader, closed."""
    with open_reader(path, **options) as reader:
        reader.copied_streams = [stream.index for stream in reader.other_streams]
        return list(reader), reader.damage, reader


def frames_of(path, **options):
    return read(path, **options)[0]


def times_of(frames):
    """In 1/25 s."""
    return [frame.time * RATE for frame in frames]


def order_of(frames):
    """The numbers of the frames, as their pictures show them."""
    columns = [frame.image[HEIGHT // 2, :, 0].float() > 150 for frame in frames]
    return [int(column.float().argmax()) // 2 for column in columns]


def copy(source, target, **options):
    with (
        open_reader(source, **options) as reader,
        create_writer(target, reader, reader.info.frame_rate) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time)
    return target


# Names.


NAMES = ["-x.mp4", "a%d.mp4", "a %03d.mp4", "b#1.mp4", "ü.mp4"]
UNIX_NAMES = [
    "12:30.mp4", "concat:b.mp4", "http:x.mp4", "file:x.mp4", "pipe:.mkv", "what?.mp4", "a\\b.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES + (UNIX_NAMES if os.name != "nt" else []))
def test_a_path_is_a_path_whatever_its_name_looks_like(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make(name)
    assert len(frames_of(name)) == 10
    assert len(frames_of(f".{os.sep}{name}")) == 10
    assert len(frames_of(copy(name, f"9:{name}" if os.name != "nt" else f"9{name}"))) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_read_and_written(tmp_path):
    source = make(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    assert len(frames_of(source)) == 10
    assert len(frames_of(copy(source, tmp_path / os.fsdecode(b"\xff:.mkv")))) == 10


# Clocks.


def joined(path, starts, count=12, **options):
    """Recordings one after the other in a file, each with its own clock's start."""
    data = b""
    for start in starts:
        piece = io.BytesIO()
        make(
            piece,
            count,
            start=start,
            format={".ts": "mpegts", ".mpg": "mpeg"}[path.suffix],
            **options,
        )
        data += piece.getvalue()
    path.write_bytes(data)
    return path


JOINTS = {
    "back": (0, 0),
    "thrice": (0, 0, 0),
    "ahead": (0, 100),
    "far_back": (5000, 3),
    "back_and_ahead": (50, 0, 200, 100),
    "around_33_bits": (95441.9, 95441.9),
}


@pytest.mark.parametrize("starts", JOINTS.values(), ids=JOINTS)
@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "options"),
    [
        ("ts", "libx264", "aac", {"bf": "2"}),
        ("ts", "libx264", None, {"bf": "0"}),
        ("ts", "mpeg2video", "mp2", {"bf": "2"}),
        ("mpg", "mpeg1video", "mp2", {}),
    ],
)
def test_joined_recordings_go_on_evenly(tmp_path, starts, suffix, codec, sound, options):
    path = joined(tmp_path / f"in.{suffix}", starts, codec=codec, sound=sound, **options)
    frames, damage, reader = read(path)
    assert times_of(frames) == list(range(12 * len(starts)))
    assert order_of(frames) == list(range(12)) * len(starts)
    assert not damage
    if sound:
        times = [packet.pts * packet.time_base for _, packet in reader.queue]
        assert all(0 < b - a < 0.09 for a, b in pairwise(times))
        # Sound begins with each piece as it does with the first.
        lead = times[0] - reader.origin - reader.video_start
        assert abs(times[-1] - reader.origin - reader.video_start - lead - len(frames) / 25) < 0.1


def test_a_part_of_joined_recordings_is_what_the_whole_has_there(tmp_path):
    path = joined(tmp_path / "in.ts", (1, 0, 40), codec="libx264", sound="aac", g="5")
    whole = frames_of(path)
    with av.open(str(path)) as container:
        begin = next(container.decode(video=0)).time
    for start, duration in [(0.39, 0.2), (0.49, 0.3), (0.95, None), (1.19, 0.1)]:
        frames = frames_of(path, start=begin + start, duration=duration)
        end = math.inf if duration is None else start + duration
        kept = [frame for frame in whole if start <= frame.time < end]
        assert [frame.time for frame in frames] == [frame.time - kept[0].time for frame in kept]
        assert all(torch.equal(a.image, b.image) for a, b in zip(frames, kept, strict=True))


def test_a_still_of_a_transport_stream_with_sound_is_no_joint(tmp_path):
    times = [*range(10), *range(300, 310)]
    frames, damage, _ = read(make(tmp_path / "in.ts", times=times, codec="libx264", sound="aac"))
    assert times_of(frames) == times
    assert not damage


def stored(path, milliseconds):
    """Packets of single pictures with the times given, in Matroska."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE, time_base=Fraction(1, 1000))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        packets = []
        for index in range(len(milliseconds)):
            frame = av.VideoFrame.from_ndarray(pattern(index), "rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet, time in zip(packets, milliseconds, strict=True):
            packet.time_base = Fraction(1, 1000)
            packet.pts = packet.dts = time
            packet.stream = stream
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ([0, 40, 80, 80, 120, 160, 160, 160, 200], [0, 1, 3, 4, 7, 8]),
        ([0, 0, 0, 40, 80], [2, 3, 4]),
        ([0, 40, 80, 120, 120], [0, 1, 2, 4]),
        ([0, *[40] * 30, 80], [0, 30, 31]),
    ],
)
def test_of_frames_at_one_time_the_last_is_shown_and_nothing_shifts(tmp_path, times, shown):
    frames, damage, _ = read(stored(tmp_path / "in.mkv", times))
    assert [frame.time * 1000 for frame in frames] == sorted(set(times))
    assert order_of(frames) == [number % 32 for number in shown]
    assert not damage


@pytest.mark.parametrize("time", [0, 500])
def test_frames_that_are_all_at_one_time_are_evenly_spaced(tmp_path, time):
    frames = frames_of(stored(tmp_path / "in.mkv", [time] * 20))
    assert times_of(frames) == list(range(20))
    assert order_of(frames) == list(range(20))


KINDS = [
    ("avi", "libx264", {"bf": "2"}),
    ("avi", "libx264", {"bf": "3", "x264-params": "b-pyramid=normal:open-gop=1:keyint=8"}),
    ("avi", "mpeg4", {"bf": "2"}),
    ("avi", "mjpeg", {}),
    ("asf", "libx264", {"bf": "2"}),
    ("wmv", "wmv2", {}),
    ("flv", "libx264", {"bf": "2"}),
    ("h264", "libx264", {"bf": "2"}),
    ("hevc", "libx265", {"x265-params": "log-level=error"}),
    ("m4v", "mpeg4", {"bf": "2"}),
    ("m2v", "mpeg2video", {"bf": "2"}),
    ("m1v", "mpeg1video", {"bf": "2"}),
    ("mpg", "mpeg2video", {"bf": "2"}),
    ("nut", "libx264", {"bf": "2"}),
]


@pytest.mark.parametrize(("suffix", "codec", "options"), KINDS)
def test_frames_come_evenly_whatever_times_the_format_stores(tmp_path, suffix, codec, options):
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    formats = {"h264": "h264", "hevc": "hevc", "m4v": "m4v", "wmv": "asf", "mpg": "mpeg"}
    path = make(
        tmp_path / f"in.{suffix}", 24, codec, pixel_format=pixel_format,
        format=formats.get(suffix), **options,
    )  # fmt: skip
    whole, damage, reader = read(path)
    assert times_of(whole) == pytest.approx(list(range(24)), abs=0.02)
    assert order_of(whole) == list(range(24))
    assert [frame.duration * RATE for frame in whole] == pytest.approx([1] * 24, abs=0.03)
    assert not damage
    if suffix in ("h264", "hevc", "m4v", "m2v", "m1v"):  # counted from 0
        frames = frames_of(path, start=0.4, duration=0.2)
        assert order_of(frames) == [10, 11, 12, 13, 14]
    if suffix == "avi":
        assert reader.video_start == 0


@pytest.mark.parametrize(("codec", "options"), [("libx264", {"bf": "2"}), ("mpeg4", {"bf": "2"})])
def test_sound_of_an_avi_stays_with_its_picture(tmp_path, codec, options):
    path = make(tmp_path / "in.avi", 24, codec, sound="mp2", **options)
    _, _, reader = read(path)
    first = next(packet.pts * packet.time_base for _, packet in reader.queue)
    assert abs(first - reader.origin - reader.video_start) < 0.03


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "libx264", {"bf": "2"}),
        ("mp4", "libx264", {"bf": "0"}),
        ("mov", "mpeg4", {}),
        ("mkv", "libx264", {"bf": "2"}),
        ("webm", "libvpx-vp9", {}),
    ],
)
def test_a_last_frame_is_shown_as_long_as_its_file_tells(tmp_path, suffix, codec, options):
    path = make(tmp_path / f"in.{suffix}", codec=codec, last=75, **options)
    frames, damage, _ = read(path)
    assert times_of(frames) == list(range(10))
    assert [frame.duration * RATE for frame in frames] == [1] * 9 + [75]
    assert not damage
    # As far as a part has it.
    assert frames_of(path, start=0.2, duration=1)[-1].duration in (Fraction(75, RATE), 1)


def test_every_frame_lasts_to_the_next(tmp_path):
    times = [0, 1, 3, 10, 11]
    frames = frames_of(make(tmp_path / "in.mp4", times=times))
    assert [frame.duration * RATE for frame in frames] == [1, 2, 7, 1, 1]
    frames = frames_of(tmp_path / "in.mp4", duration=6 / RATE)
    assert [frame.duration * RATE for frame in frames] == [1, 2, 3]


# Numbers.


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "m4v"])
@pytest.mark.parametrize("start", [1e30, 10**40, math.inf, 1000])
def test_a_part_that_begins_after_the_end_is_an_error_of_one_line(tmp_path, suffix, start):
    path = make(tmp_path / f"in.{suffix}")
    with pytest.raises(FileError, match="in.* holds no video frame from") as error:
        open_reader(path, start=start)
    assert "\n" not in str(error.value)


def test_a_part_of_odd_numbers_is_an_error_or_all(tmp_path):
    path = make(tmp_path / "in.mp4")
    for start, duration in [(math.nan, None), (0, math.nan), (0, 0), (0.2, -1), (math.inf, 1)]:
        with pytest.raises(FileError):
            print(start, duration, open_reader(path, start=start, duration=duration).info)
    assert len(frames_of(path, start=-5)) == 10
    assert len(frames_of(path, duration=math.inf)) == 10
    assert len(frames_of(path, duration=1e30)) == 10
