"""Reading videos: file names, clocks, interlaced pictures, and damage."""

import io
import math
import os
import re
import sys
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch

from rife import interpolate_file, load_model
from rife.fileio import FileError
from rife.media import create_writer, open_reader
from rife.media.streams import describe

from .support.cases import slow_after_first

WIDTH, HEIGHT = 64, 48
RATE = 25


def pattern(index, width=WIDTH, height=HEIGHT):
    """(H, W, 3) uint8: a bright column over grey that moves two pixels per frame."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[:, 2 * index % width :][:, :6] = 220
    return image


def grainy(index, width=WIDTH, height=HEIGHT):
    """The pattern with noise, which stays large in every codec."""
    noise = np.random.default_rng(index).integers(-60, 60, (height, width, 1))
    return (pattern(index, width, height).astype(int) // 2 + 70 + noise).astype(np.uint8)


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
    """The frames of a clip, its damage report, and the closed reader."""
    with open_reader(path, **options) as reader:
        reader.side_streams.copied = [stream.index for stream in reader.other_streams]
        return list(reader), reader.damage, reader


def frames_of(path, **options):
    return read(path, **options)[0]


def times_of(frames):
    """The times of the frames in units of 1/25 s."""
    return [frame.time * RATE for frame in frames]


def order_of(frames):
    """The number of each frame, read from its picture."""
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
    """Writes recordings one after the other into a file; each has a clock of its own."""
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
    slow_after_first(
        [
            ("ts", "libx264", "aac", {"bf": "2"}),
            ("ts", "libx264", None, {"bf": "0"}),
            ("ts", "mpeg2video", "mp2", {"bf": "2"}),
            ("mpg", "mpeg1video", "mp2", {}),
        ]
    ),
)
def test_joined_recordings_go_on_evenly(tmp_path, starts, suffix, codec, sound, options):
    path = joined(tmp_path / f"in.{suffix}", starts, codec=codec, sound=sound, **options)
    frames, damage, reader = read(path)
    assert times_of(frames) == list(range(12 * len(starts)))
    assert order_of(frames) == list(range(12)) * len(starts)
    assert not damage
    if sound:
        times = [packet.pts * packet.time_base for _, packet in reader.side_streams.queue]
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
    """Writes a Matroska file of single pictures at these times."""
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
    first = next(packet.pts * packet.time_base for _, packet in reader.side_streams.queue)
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
@pytest.mark.parametrize("start", slow_after_first([1e30, 1000, 10**40, math.inf]))
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


# Interlaced pictures.


def woven(index, width=WIDTH, height=HEIGHT):
    """Two fields half a frame apart, in one frame: a bar that moves fast."""
    image = pattern(4 * index, width, height)
    image[1::2] = pattern(4 * index + 2, width, height)[1::2]
    return image


def combing(image):
    """How far rows differ from the mean of their neighbours, in levels of 255."""
    grey = image[..., :3].float().mean(-1) * (255 if image.is_floating_point() else 1)
    return (grey[1:-1] - (grey[:-2] + grey[2:]) / 2).abs().mean()


INTERLACED_KINDS = [
    ("mp4", "libx264", {"x264-params": "tff=1", "flags": "+ildct+ilme"}, {}),
    ("mkv", "libx264", {"x264-params": "tff=1", "flags": "+ildct+ilme", "bf": "2"}, {}),
    ("ts", "mpeg2video", {"flags": "+ildct+ilme", "top": "1"}, {}),
    ("mov", "prores_ks", {"flags": "+ildct"}, {"pixel_format": "yuv422p10le"}),
    ("mov", "prores_ks", {"flags": "+ildct"}, {"pixel_format": "yuva444p10le"}),
    ("mov", "prores_ks", {"flags": "+ildct"}, {"size": (65, 51), "pixel_format": "yuv422p10le"}),
]


@pytest.mark.parametrize(("suffix", "codec", "options", "form"), INTERLACED_KINDS)
def test_interlaced_video_is_made_progressive_and_that_is_said_once(
    tmp_path, suffix, codec, options, form, caplog
):
    path = make(tmp_path / f"in.{suffix}", 9, codec, picture=woven, **form, **options)
    frames, damage, _ = read(path)
    assert caplog.text.count("is interlaced") == 1
    assert times_of(frames) == list(range(9))
    assert all(combing(frame.image) < 1 for frame in frames)
    assert frames[0].image.shape[2] == (4 if "yuva" in form.get("pixel_format", "") else 3)
    assert frames[0].image.is_floating_point() == (codec == "prores_ks")
    assert not damage
    # Part by part it is the same, but that the first frame of a part may lack what precedes it.
    with av.open(str(path)) as container:
        begin = next(container.decode(video=0)).time
    part = frames_of(path, start=begin + 0.15, duration=0.12)
    assert times_of(part) == [0, 1, 2]
    assert all(torch.equal(a.image, b.image) for a, b in zip(part[1:], frames[5:7], strict=True))
    caplog.clear()
    kept = frames_of(path, interlaced="keep")
    assert times_of(kept) == list(range(9))
    assert all(combing(frame.image) > 5 for frame in kept)
    assert caplog.text.count("is interlaced and left so") == 1


def test_progressive_video_is_left_bit_for_bit(tmp_path, caplog):
    path = make(tmp_path / "in.mp4", codec="libx264")
    kept = frames_of(path, interlaced="keep")
    assert all(map(torch.equal, *([f.image for f in x] for x in (frames_of(path), kept))))
    assert not caplog.records


def test_an_interlaced_stretch_is_made_progressive_and_the_rest_left(tmp_path, caplog):
    options = {"format": "mpegts", "codec": "libx264", "bf": "0"}
    first, second = io.BytesIO(), io.BytesIO()
    make(first, 8, **options)
    fields = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    make(second, 8, picture=woven, **fields, **options)
    (tmp_path / "in.ts").write_bytes(first.getvalue() + second.getvalue() + first.getvalue())
    frames = frames_of(tmp_path / "in.ts")
    kept = frames_of(tmp_path / "in.ts", interlaced="keep")
    assert times_of(frames) == times_of(kept) == list(range(24))
    changed = [not torch.equal(a.image, b.image) for a, b in zip(frames, kept, strict=True)]
    assert changed == [False] * 8 + [True] * 8 + [False] * 8


def test_other_ways_with_interlaced_video_are_a_programming_error(tmp_path):
    with pytest.raises(ValueError, match="not one of deinterlace, keep"):
        open_reader(make(tmp_path / "in.mp4"), interlaced="weave")


# Damage.


def zeroed(path, start, end):
    """A copy in which a part of the file, from 0 to 1, is overwritten with zeros."""
    data = bytearray(path.read_bytes())
    a, b = int(len(data) * start), int(len(data) * end)
    data[a:b] = bytes(b - a)
    target = path.with_stem("damaged")
    target.write_bytes(data)
    return target


def without(path, start, end):
    """A copy without a part of the file, from 0 to 1."""
    data = path.read_bytes()
    target = path.with_stem("damaged")
    target.write_bytes(data[: int(len(data) * start)] + data[int(len(data) * end) :])
    return target


def assert_hole(path, whole, doubtful, most_lines=1):
    """Asserts that the frames that are left are right and at their times, up to `doubtful` ones at
    a hole, and that the damage report names each hole."""
    frames, damage, _ = read(path)
    assert len(frames) < len(whole)
    by_time = {round(float(frame.time * RATE)): frame.image for frame in whole}
    right = [torch.equal(f.image, by_time[round(float(f.time * RATE))]) for f in frames]
    assert right.count(False) <= doubtful
    gaps = [(a, b) for a, b in pairwise(frames) if round(float((b.time - a.time) * RATE)) > 1]
    assert [b.follows_gap for b in frames].count(True) == len(gaps)
    assert 1 <= len(gaps) == len(damage) <= most_lines
    for (a, b), line in zip(gaps, damage, strict=True):
        assert b.follows_gap
        missing = float(b.time - a.time) - 1 / RATE
        told = float(re.search(r"damaged: ([\d.]+) s of the picture are missing at ", line)[1])
        assert told == pytest.approx(missing, abs=0.011)
        assert path.name in line


HOLES = [
    ("webm", "libvpx-vp9", {"crf": "40", "b": "0"}, zeroed, 0),
    ("mkv", "libx264", {"bf": "0"}, zeroed, 0),
    ("mkv", "libx264", {"bf": "0"}, without, 0),
    ("flv", "libx264", {"bf": "0"}, zeroed, 0),
    ("ts", "mpeg2video", {}, zeroed, 0),
    ("ts", "libx264", {"bf": "0"}, without, 0),
    # The tail of a picture may be zeros without an error, and the first one after a hole joined to
    # what is left of another.
    ("mpg", "mpeg2video", {}, zeroed, 1),
    ("mov", "mpeg4", {}, zeroed, 1),
    ("mp4", "libx265", {"x265-params": "log-level=error:bframes=0:keyint=10"}, zeroed, 1),
]


@pytest.mark.parametrize(("suffix", "codec", "options", "harm", "doubtful"), HOLES)
@pytest.mark.parametrize("sound", slow_after_first([None, "mp2"], 1))
def test_a_hole_is_said_and_what_follows_it_is_right(
    tmp_path, suffix, codec, options, harm, doubtful, sound
):
    if sound:
        sound = {"webm": "libopus", "flv": "aac", "mov": "aac"}.get(suffix, sound)
    path = make(
        tmp_path / f"whole.{suffix}", 100, codec, sound=sound, picture=grainy, g="10",
        format="mpeg" if suffix == "mpg" else None,
        pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p", **options,
    )  # fmt: skip
    assert_hole(harm(path, 0.4, 0.6), frames_of(path), doubtful, most_lines=2)


def remuxed(path, target, keep):
    """A copy of only those packets for which keep(kind, seconds) is true."""
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None and keep(packet.stream.type, packet.pts * packet.time_base):
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv", "ts"])
def test_packets_that_lack_in_picture_and_sound_are_a_hole(tmp_path, suffix):
    path = make(tmp_path / f"whole.{suffix}", 200, "libx264", sound="aac", bf="0", g="10")
    first = frames_of(path)[0].time
    with av.open(str(path)) as container:
        begin = next(container.decode(video=0)).time
    target = tmp_path / f"in.{suffix}"
    remuxed(path, target, lambda kind, time: not 2 - 0.001 <= time - begin < 5)
    frames, damage, _ = read(target)
    assert first == 0 and len(frames) == 125
    (line,) = damage
    assert re.search(r"(2.98|3.00) s of the picture are missing at 2.", line)
    assert [frame.follows_gap for frame in frames] == [False] * 50 + [True] + [False] * 74


STILLS = {
    "no_sound": {},
    "sound_goes_on": {"sound": True},
    "sound_ends": {"sound": True, "sound_times": [(0, 1)]},
    "sound_begins": {"sound": True, "sound_times": [(9, 99)]},
    "sound_pauses_elsewhere": {"sound": True, "sound_times": [(0, 2), (4, 99)]},
    "silence_left_out": {"sound": True, "sound_times": [(a / 2, a / 2 + 0.1) for a in range(30)]},
}


STILL_FORMS = [
    ("mkv", "libx264", "aac"),
    ("ts", "libx264", "mp2"),
    ("mp4", "libx264", "aac"),
    ("webm", "libvpx", "libopus"),
    ("flv", "libx264", "aac"),
]
#: To FFmpeg a jump of 10 s in a transport stream is a joint, but for sound that goes on.
JOINTS_TO_FFMPEG = {("ts", "no_sound"), ("ts", "sound_ends")}


@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "kind"),
    [
        pytest.param(*form, kind, marks=[pytest.mark.slow] if form in STILL_FORMS[2:] else [])
        for form in STILL_FORMS
        for kind in STILLS
        if (form[0], kind) not in JOINTS_TO_FFMPEG
    ],
)
def test_a_clip_that_stands_still_is_not_called_damaged(tmp_path, suffix, codec, sound, kind):
    times = [*range(25), *range(275, 300)]
    options = {**STILLS[kind], "sound": sound if STILLS[kind] else None}
    if suffix == "ts":
        options["bf"] = "0"
    path = make(tmp_path / f"in.{suffix}", times=times, codec=codec, **options)
    frames, damage, _ = read(path)
    assert times_of(frames) == pytest.approx(times, abs=0.03)
    assert not damage
    assert not any(frame.follows_gap for frame in frames)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "webm", "avi", "mov", "flv"])
def test_slides_are_not_called_damaged(tmp_path, suffix):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4", "flv": "flv1"}.get(suffix, "libx264")
    times = range(0, 125 * 8, 125)
    path = make(tmp_path / f"in.{suffix}", times=times, codec=codec, sound=None)
    frames, damage, _ = read(path)
    assert times_of(frames) == pytest.approx(list(times), abs=0.03)
    assert not damage


@pytest.mark.parametrize(("suffix", "codec"), [
    ("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mjpeg"),
    ("mov", "mpeg4"),
])  # fmt: skip
@pytest.mark.parametrize("sound", [False, True])
def test_an_end_that_lacks_is_said(tmp_path, suffix, codec, sound):
    sound = {"webm": "libopus", "avi": "mp2"}.get(suffix, "aac") if sound else None
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    form = {"pixel_format": pixel_format, "sound": sound, "g": "5", "picture": grainy}
    if suffix in ("mp4", "mov"):
        form["movflags"] = "+faststart"
    path = tmp_path / f"whole.{suffix}"
    if suffix in ("mp4", "mov"):
        copy(make(tmp_path / "plain.mkv", 120, codec, **{**form, "movflags": ""}), path)
    else:
        make(path, 120, codec, **form)
    cut = without(path, 0.95, 1)
    frames, damage, _ = read(cut)
    assert 100 < len(frames) < 120
    end = float(frames[-1].time) + 1 / RATE
    (line,) = [line for line in damage if "cut short" in line]
    missing = float(re.search(r"the last ([\d.]+) s, from [\d.]+ s on, are missing", line)[1])
    assert missing == pytest.approx(120 / RATE - end, abs=0.1)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv", "mov"])
@pytest.mark.parametrize("longer", ["sound", "picture"])
def test_sound_and_picture_of_different_lengths_are_not_called_damaged(tmp_path, suffix, longer):
    count, times = (50, [(0, 1)]) if longer == "picture" else (50, None)
    path = make(tmp_path / "all.mkv", count, "libx264", sound="aac", sound_times=times, bf="0")
    target = tmp_path / f"in.{suffix}"
    remuxed(path, target, lambda kind, time: longer == "picture" or kind == "audio" or time < 1)
    frames, damage, _ = read(target)
    assert len(frames) == (50 if longer == "picture" else pytest.approx(25, abs=1))
    assert not damage
    assert frames[-1].duration == pytest.approx(1 / RATE, abs=0.002)


def zeroed_bytes(path, *parts):
    """Overwrites those byte ranges of the file with zeros."""
    data = bytearray(path.read_bytes())
    for start, end in parts:
        data[start:end] = bytes(end - start)
    path.write_bytes(data)


def video_packets(path):
    """(position, size, time, is key frame) of each packet, in the file's order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [(p.pos, p.size, float(p.pts * p.time_base), p.is_keyframe) for p in packets]


# Key frames every ten frames, and no others.
X264 = {"picture": grainy, "g": "10", "bf": "0", "sc_threshold": "0"}


@pytest.mark.parametrize(("suffix", "codec", "sound"), [
    ("mkv", "libx264", None), ("mkv", "libx264", "aac"), ("webm", "libvpx-vp9", "libopus"),
])  # fmt: skip
@pytest.mark.parametrize("harmed", ["its_first_element", "its_first_packets"])
def test_a_beginning_that_lacks_is_said(tmp_path, suffix, codec, sound, harmed):
    path = make(tmp_path / f"in.{suffix}", 60, codec, sound=sound, **X264)
    whole = frames_of(path)
    begin = path.read_bytes().index(b"\x1f\x43\xb6\x75")
    begin += 0 if harmed == "its_first_element" else 30
    zeroed_bytes(path, (begin, video_packets(path)[15][0]))
    frames, damage, _ = read(path)
    assert 10 <= len(frames) < 50
    assert torch.equal(frames[-1].image, whole[-1].image)
    assert damage == [f"{path.name} is damaged at its beginning, which is left out."]


@pytest.mark.parametrize("suffix", ["mkv", "webm", "ts", "flv"])
def test_a_clip_that_begins_late_is_not_called_damaged(tmp_path, suffix):
    codec, sound = ("libvpx-vp9", "libopus") if suffix == "webm" else ("libx264", "aac")
    for options in {"start": 20}, {"sound": sound}, {"sound": sound, "start": 20}:
        path = make(tmp_path / f"late.{suffix}", 60, codec, **X264, **options)
        begin = video_packets(path)[0][2]
        target = tmp_path / f"in.{suffix}"
        remuxed(path, target, lambda kind, time, at=begin + 0.79: kind == "audio" or time > at)
        frames, damage, _ = read(target)
        assert len(frames) == 40
        assert not damage


def test_a_hole_of_reordered_frames_near_the_beginning_is_said(tmp_path):
    path = make(tmp_path / "in.mkv", 60, "libx264", sound="aac", **{**X264, "bf": "2"})
    packets = video_packets(path)
    second = next(index for index, packet in enumerate(packets) if index and packet[3])
    zeroed_bytes(path, (sum(packets[3][:2]), packets[second][0] - 600))
    frames, damage, _ = read(path)
    assert len(frames) < 58
    assert any("of the picture are missing at 0." in line for line in damage)


@pytest.mark.parametrize("bf", ["0", "2"])
def test_a_transport_stream_that_begins_between_key_frames_says_so(tmp_path, bf):
    path = make(tmp_path / "whole.ts", 40, "libx264", sound="mp2", **{**X264, "bf": bf})
    # With the tables that precede the first picture.
    data, packets = path.read_bytes(), video_packets(path)
    cut = tmp_path / "in.ts"
    cut.write_bytes(data[: packets[0][0]] + data[packets[3][0] :])
    frames, damage, _ = read(cut)
    assert len(frames) == 30
    missing = packets[10][2] - min(packet[2] for packet in packets[3:10])
    assert damage == [
        f"in.ts begins between two key frames: the first {missing:.2f} s of the picture can't be "
        "decoded and are left out."
    ]


def test_pictures_that_need_what_precedes_the_first_key_frame_are_no_damage(tmp_path):
    path = make(tmp_path / "whole.ts", 40, "mpeg2video", bf="2", g="10")
    data, packets = path.read_bytes(), video_packets(path)
    key = next(index for index, packet in enumerate(packets) if index and packet[3])
    assert packets[key + 1][2] < packets[key][2]
    cut = tmp_path / "in.ts"
    cut.write_bytes(data[: packets[0][0]] + data[packets[key][0] :])
    frames, damage, _ = read(cut)
    assert 25 < len(frames) <= 40 - key
    assert not damage


@pytest.mark.parametrize("rest", [0, 1, 100])
def test_a_transport_stream_that_ends_within_a_packet_is_called_cut_short(tmp_path, rest):
    path = make(tmp_path / "in.ts", 40, "libx264", picture=grainy, g="10", bf="0", sound="mp2")
    data = path.read_bytes()
    path.write_bytes(data[: video_packets(path)[30][0] + rest])
    frames, damage, _ = read(path)
    assert len(frames) == 30
    assert damage == (
        ["in.ts is cut short: it ends within a packet, and doesn't tell how much is missing."]
        if rest
        else []
    )


@pytest.mark.parametrize("sound", [None, "mp2"])
@pytest.mark.parametrize("kept", [4, 16, 20])
def test_pictures_of_a_transport_stream_that_are_zeros_are_a_hole(tmp_path, sound, kept):
    path = make(tmp_path / "in.ts", 40, "libx264", picture=grainy, g="10", bf="0", sound=sound)
    whole, packets = frames_of(path), video_packets(path)
    data = path.read_bytes()
    video = data[packets[0][0] + 1 :][:2][1:]  # the low byte of its PID
    parts = [
        (position + kept, position + 188)
        for position in range(packets[13][0], packets[20][0], 188)
        if data[position + 2 : position + 3] == video
    ]
    zeroed_bytes(path, *parts)
    assert_hole(path, whole, doubtful=0)


def test_damaged_sound_costs_no_frame_and_is_said(tmp_path):
    path = make(tmp_path / "in.mkv", 50, "libx264", sound="flac")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.size and p.pos]
    for packet in packets[5:8]:
        data[packet.pos + 20 : packet.pos + packet.size] = bytes(packet.size - 20)
    path.write_bytes(data)
    with open_reader(path) as reader:
        reader.side_streams.decoded = [reader.other_streams[0].index]
        frames = list(reader)
    assert len(frames) == 50
    assert reader.damage and all(": audio is damaged at " in line for line in reader.damage)
    assert reader.side_streams.queue


def test_sound_that_is_cut_short_costs_no_frame(tmp_path):
    make(tmp_path / "all.mkv", 50, "libx264", sound="flac", bf="0", g="30")
    path = tmp_path / "whole.mkv"
    remuxed(tmp_path / "all.mkv", path, lambda kind, time: kind == "audio" or time < 1.199)
    with av.open(str(path)) as container:
        last = max((p for p in container.demux() if p.size), key=lambda packet: packet.pos)
        assert last.stream.type == "audio"
    cut = tmp_path / "in.mkv"
    cut.write_bytes(path.read_bytes()[: last.pos + last.size // 2])
    frames, damage, _ = read(cut)
    assert len(frames) == 30
    assert any("audio is damaged" in line or "cut short" in line for line in damage)


def test_a_stream_without_a_decoder_is_named(tmp_path):
    data = make(tmp_path / "in.mp4", codec="libx264", sound="aac").read_bytes()
    (tmp_path / "sound.mp4").write_bytes(data.replace(b"mp4a", b"apac").replace(b"esds", b"xxxx"))
    with open_reader(tmp_path / "sound.mp4") as reader:
        assert len(list(reader)) == 10
        assert [describe(stream) for stream in reader.unread_streams] == ["apac audio"]
    (tmp_path / "video.mp4").write_bytes(data.replace(b"avc1", b"xyz9"))
    with pytest.raises(FileError, match="The video of .*video.mp4 is xyz9, which can't be decoded"):
        open_reader(tmp_path / "video.mp4")


def test_files_without_a_frame_are_an_error_of_one_line(tmp_path):
    whole = make(tmp_path / "in.mp4", 30, "libx264").read_bytes()
    moov = whole.index(b"moov")
    (tmp_path / "moov.mp4").write_bytes(whole[: moov + 313])
    mdat = whole.index(b"mdat") + 4
    zeros = bytes(moov - 4 - mdat)
    (tmp_path / "zeros.mp4").write_bytes(whole[:mdat] + zeros + whole[moov - 4 :])
    (tmp_path / "noise.mp4").write_bytes(
        whole[:mdat] + np.random.default_rng(0).bytes(len(zeros)) + whole[moov - 4 :]
    )
    make(tmp_path / "sound.mkv", 1, sound="aac")
    with av.open(str(tmp_path / "header.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    for name, message in [
        ("moov.mp4", "damaged or cut short"),
        ("zeros.mp4", "holds no video frame that can be decoded.*damaged, cut short or encrypted"),
        ("noise.mp4", "holds no video frame that can be decoded.*damaged, cut short or encrypted"),
        ("header.mkv", "header.mkv"),
    ]:
        with pytest.raises(FileError, match=message) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(pattern(0), "rgb24").reformat(format="yuvj420p")
        packets = noise(container, "aac", 0, Fraction(1), None)
        packets += cover.encode(frame) + cover.encode(None)
        for packet in packets:
            container.mux(packet)
    with pytest.raises(FileError, match="no video, only a cover picture, audio"):
        open_reader(tmp_path / "in.mp4")


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_frames_are_edited_before_they_are_given(tmp_path, pixel_format):
    codec = "libx264" if pixel_format.endswith("10le") else "mpeg4"
    make(tmp_path / "clip.mp4", codec=codec, pixel_format=pixel_format)
    with open_reader(tmp_path / "clip.mp4") as reader:
        whole = [frame.image for frame in reader]
    with open_reader(tmp_path / "clip.mp4", edit=lambda image: image[8:, 16:48]) as reader:
        assert (reader.info.width, reader.info.height) == (32, HEIGHT - 8)
        for image, frame in zip(whole, reader, strict=True):
            assert torch.equal(frame.image, image[8:, 16:48])


def test_an_edited_clip_is_interpolated_and_keeps_its_sound(tmp_path, weights):
    make(tmp_path / "clip.mp4", codec="libx264", sound="aac")
    source, target = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    model = load_model(weights("v4.0"))
    summary = interpolate_file(model, source, target, edit=lambda image: image[:, :32])
    assert summary.shown == 19
    with av.open(str(target)) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, len(video.streams.audio)) == (32, HEIGHT, 1)
