"""Writing videos: what a copy keeps of a clip, and the warnings about the rest."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from rife.fileio import FileError
from rife.media import Encoding, create_writer, open_reader
from rife.media.tracks import CopiedTrack

from .support.cases import slow_after_first

WIDTH, HEIGHT = 96, 64


def picture(index, width=WIDTH, height=HEIGHT):
    """(H, W, 3) uint8: smooth, coloured and moving, away from black and white."""
    y, x = np.mgrid[:height, :width]
    red = 90 + 60 * np.sin(x / 17 + index / 3)
    green = 110 + 50 * np.cos(y / 13)
    blue = 128 + 60 * np.sin((x + y) / 23)
    return np.stack([red, green, blue], -1).round().astype(np.uint8)


def make(
    path, *, codec="libx264", pixel_format="yuv420p", count=3, rate=25, size=(WIDTH, HEIGHT),
    space=2, color_range=0, primaries=2, transfer=2, options=None,
):  # fmt: skip
    """A video of `picture`s made with plain PyAV. The tags are FFmpeg's numbers."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "0"})
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        context.colorspace, context.color_range = space, color_range
        context.color_primaries, context.color_trc = primaries, transfer
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts, frame.time_base = index, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy(source, target, *, show_at=None, **encoding):
    """Writes every frame as it is, as the command line does with a multiplier of 1."""
    with (
        open_reader(source) as reader,
        create_writer(
            target, reader, reader.info.frame_rate, Encoding(**encoding), show_at=show_at
        ) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time)
    return target


def frames_of(path):
    with open_reader(path) as reader:
        return list(reader)


def first_frame(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def plane_means(path):
    """The mean of each plane over all frames, in levels of 255."""
    means = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            bits = frame.format.components[0].bits
            kind = np.uint8 if bits == 8 else np.uint16
            means.append(
                [
                    np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width].mean()
                    / 2 ** (bits - 8)
                    for plane in frame.planes
                ]
            )
    return np.mean(means, 0)


# Colours.


@pytest.mark.parametrize("space", slow_after_first([1, 6, 9], 1), ids=["bt709", "bt601", "bt2020"])
@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le"]
)
def test_lossless_passes_do_not_shift_any_plane(tmp_path, pixel_format, color_range, space):
    path = source = make(
        tmp_path / "in.mkv", pixel_format=pixel_format, space=space, color_range=color_range
    )
    for number in range(3):
        path = copy(path, tmp_path / f"{number}.mkv", crf=0, pixel_format=pixel_format)
        assert np.abs(plane_means(path) - plane_means(source)).max() < 0.1


@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "yuv444p12le", "yuv422p16le"])
def test_white_of_a_deep_video_is_1(tmp_path, pixel_format, color_range):
    bits = av.VideoFormat(pixel_format, 2, 2).components[0].bits
    luma = 235 << (bits - 8) if color_range == 1 else 2**bits - 1
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.codec_context.color_range = color_range
        frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
        for plane, value in zip(
            frame.planes, (luma, 1 << (bits - 1), 1 << (bits - 1)), strict=True
        ):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (frame,) = frames_of(tmp_path / "in.mkv")
    assert (frame.image - 1).abs().max() < 0.001
    target = copy(
        tmp_path / "in.mkv", tmp_path / "out.mkv", codec="ffv1", pixel_format=pixel_format
    )
    assert plane_means(target)[0] == pytest.approx(luma / 2 ** (bits - 8), abs=0.02)


@pytest.mark.parametrize(("width", "height"), slow_after_first([(WIDTH, HEIGHT), (1280, 720)], 1))
@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("in.mp4", "libx264rgb", "rgb24"), ("in.mkv", "ffv1", "bgr0"), ("in.mov", "png", "rgb24")],
)
@pytest.mark.parametrize(
    ("target", "options"),
    [("out.mp4", {}), ("out.webm", {}), ("out.mp4", {"codec": "libsvtav1"}),
     ("out.mov", {"pixel_format": "yuv444p"})],
)  # fmt: skip
def test_yuv_made_of_rgb_says_by_which_matrix(
    tmp_path, name, codec, pixel_format, target, options, width, height
):
    size = width, height
    source = make(
        tmp_path / name, codec=codec, pixel_format=pixel_format, space=0, count=1, size=size
    )
    frame = first_frame(copy(source, tmp_path / target, **options))
    assert (frame.colorspace, frame.color_range) == (1, 1)
    (frame,) = frames_of(tmp_path / target)
    error = frame.image.float() - torch.from_numpy(picture(0, *size)).float()
    assert error.mean((0, 1)).abs().max() < 0.5


def test_rgb_stays_rgb_in_an_rgb_codec(tmp_path):
    source = make(tmp_path / "in.mp4", codec="libx264rgb", pixel_format="rgb24", space=0)
    frame = first_frame(copy(source, tmp_path / "out.mp4", codec="libx264rgb"))
    assert (frame.format.name, frame.colorspace) == ("gbrp", 0)


@pytest.mark.parametrize("space", [4, 7, 8, 10, 14])  # FCC, SMPTE 240M, YCgCo, BT.2020 CL, ICtCp
def test_rare_matrices_are_kept_with_the_values_they_belong_to(tmp_path, space):
    source = make(tmp_path / "in.mkv", pixel_format="yuv444p", space=space)
    target = copy(source, tmp_path / "out.mkv", pixel_format="yuv444p", crf=0)
    before, after = first_frame(source), first_frame(target)
    assert after.colorspace == space
    assert np.abs(before.to_ndarray().astype(int) - after.to_ndarray()).max() <= 1


@pytest.mark.parametrize("codec", ["libx264", "libx264rgb"])
def test_grey_made_of_colour_is_tagged_as_the_full_range_it_has(tmp_path, codec):
    source = make(tmp_path / "in.mkv", codec="libx264", color_range=1, space=1)
    if codec == "libx264rgb":
        source = make(tmp_path / "rgb.mkv", codec=codec, pixel_format="rgb24", space=0)
    target = copy(source, tmp_path / "out.mkv", pixel_format="gray", crf=0)
    assert first_frame(target).color_range == 2
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    expected = (frames_of(source)[0].image.float() @ weights).mean()
    assert plane_means(target)[0] == pytest.approx(expected.item(), abs=1)
    again = copy(target, tmp_path / "again.mkv", crf=0)
    assert plane_means(again)[0] == pytest.approx(plane_means(target)[0], abs=0.1)


# Streams beside the picture.


def add_sound(container, codec, rate=48000, layout="stereo", format=None):
    stream = container.add_stream(codec, rate=rate)
    stream.codec_context.layout = layout
    if format:
        stream.codec_context.format = format
    return stream


def tone(count, rate, channels, first=0):
    """(channels, count) float: a click every tenth of a second."""
    position = np.arange(first, first + count) * 10 % rate < rate / 20
    return np.repeat((0.5 * position)[None], channels, 0)


def chunk(samples, rate, first, layout):
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray((samples.T.reshape(1, -1) * 32767).astype(np.int16)), "s16", layout
    )
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), first
    return frame


def make_with_sound(
    path, codec="pcm_s16le", rate=48000, layout="stereo", format=None, seconds=1, chunks=None
):
    """A video with clicks. chunks: the first samples of pieces of up to 1000."""
    channels = av.AudioLayout(layout).nb_channels
    if chunks is None:
        chunks = range(0, int(seconds * rate), 1000)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25, options={"q": "5"})
        video.width, video.height = WIDTH, HEIGHT
        sound = add_sound(container, codec, rate, layout, format)
        for index in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode(None))
        for first in chunks:
            samples = tone(min(1000, int(seconds * rate) - first), rate, channels, first)
            container.mux(sound.encode(chunk(samples, rate, first, layout)))
        container.mux(sound.encode(None))
    return path


def heard(path):
    """The times in seconds from the first frame at which clicks begin, the sound's length, and its
    number of channels."""
    first = first_frame(path)
    begin = first.pts * first.time_base
    clicks, quiet_since, end = [], -1.0, None
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            layout = frame.layout
            name = frame.format.packed.name
            kind, scale = {"u8": ("u1", 128), "s16": ("i2", 2**15), "s32": ("i4", 2**31)}.get(
                name, ("f4", 1)
            )
            # One plane is enough: all channels are alike.
            width = 1 if frame.format.is_planar else layout.nb_channels
            samples = np.frombuffer(frame.planes[0], kind)[: frame.samples * width : width]
            samples = samples.astype(float) / scale - (1 if name == "u8" else 0)
            start = float(frame.pts * frame.time_base - begin)
            for offset in np.flatnonzero(np.abs(samples) > 0.2):
                time = start + offset / frame.sample_rate
                if time - quiet_since > 0.02:
                    clicks.append(time)
                quiet_since = time
            end = start + frame.samples / frame.sample_rate
    return clicks, end, layout.nb_channels


@pytest.mark.parametrize("target", slow_after_first(["out.mp4", "out.webm", "out.mov", "out.mkv"]))
@pytest.mark.parametrize(
    ("source", "codec", "channels"),
    [("in.avi", "pcm_s16le", 1), ("in.avi", "pcm_s16le", 2), ("in.mkv", "pcm_s24le", 6),
     ("in.mkv", "pcm_u8", 3), ("in.mkv", "pcm_f32le", 8), ("in.mkv", "pcm_s16le", 4)],
)  # fmt: skip
def test_sound_whose_layout_is_unnamed_goes_into_every_container(
    tmp_path, source, codec, channels, target
):
    path = make_with_sound(tmp_path / source, codec, layout=f"{channels} channels", seconds=0.5)
    before, after = heard(path), heard(copy(path, tmp_path / target))
    assert before[2] == channels
    assert after[2] == channels
    assert after[0] == pytest.approx(before[0], abs=0.005)
    assert after[1] == pytest.approx(before[1], abs=0.03)


@pytest.mark.parametrize("rate", [8000, 11025, 22222, 96000])
@pytest.mark.parametrize("target", ["out.mp4", "out.webm"])
def test_sound_of_any_rate_stays_in_time(tmp_path, rate, target):
    path = make_with_sound(tmp_path / "in.avi", rate=rate, layout="2 channels")
    before, after = heard(path), heard(copy(path, tmp_path / target))
    assert len(before[0]) == 10
    assert after[0] == pytest.approx(before[0], abs=0.005)


def test_more_channels_than_an_encoder_takes_are_mixed_and_that_is_said(tmp_path, caplog):
    path = make_with_sound(tmp_path / "in.mkv", layout="hexadecagonal", seconds=0.5)
    clicks, _, channels = heard(copy(path, tmp_path / "out.webm"))
    assert channels == 8 and len(clicks) == 5
    assert "16 channels become 7.1" in caplog.text
    path = make_with_sound(tmp_path / "nine.mkv", layout="9 channels", seconds=0.5)
    with av.open(str(copy(path, tmp_path / "nine.webm"))) as container:
        assert not container.streams.audio
    assert "pcm_s16le audio. Add it with ffmpeg -i OUT -i IN" in caplog.text


def test_a_hole_in_sound_is_filled_and_what_overlaps_is_left_out(tmp_path):
    starts = [*range(0, 12000, 1000), *range(24000, 36000, 1000), *range(35400, 47000, 1000)]
    path = make_with_sound(tmp_path / "in.mkv", layout="2 channels", chunks=starts)
    clicks, _, _ = heard(copy(path, tmp_path / "out.webm"))
    expected = [0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert clicks == pytest.approx(expected, abs=0.005)


def test_a_sound_track_without_packets_costs_nothing(tmp_path):
    for codec in "aac", "pcm_s16le", "ac3":
        path = make_with_sound(tmp_path / "in.mkv", codec, chunks=[0])
        with av.open(str(path)) as container, av.open(str(tmp_path / "no.mkv"), "w") as out:
            streams = [out.add_stream_from_template(s, opaque=True) for s in container.streams]
            for packet in container.demux(video=0):
                if packet.size:
                    packet.stream = streams[0]
                    out.mux(packet)
        for target in "out.mp4", "out.mkv", "out.webm":
            assert len(frames_of(copy(tmp_path / "no.mkv", tmp_path / target))) == 25


@pytest.mark.parametrize("method", ["write", "finish"])
def test_sound_that_fails_late_does_not_cost_the_picture(tmp_path, caplog, monkeypatch, method):
    def fail(*_):
        raise ValueError("late trouble")

    path = make_with_sound(tmp_path / "in.mkv", "aac")
    with (
        open_reader(path) as reader,
        create_writer(tmp_path / "out.mp4", reader, Fraction(25)) as writer,
    ):
        monkeypatch.setattr(CopiedTrack, method, fail)
        for frame in reader:
            writer.write(frame.image, frame.time)
    assert len(frames_of(tmp_path / "out.mp4")) == 25
    assert "Aac audio ends early: it can't be written (late trouble)." in caplog.text
    assert "ffmpeg -i OUT -i IN" in caplog.text
    assert len(caplog.records) == 1


# Chapters, timecodes, tags.


def with_chapters(source, target, chapters, metadata=None):
    """A copy with these chapters: (start, end, title), in milliseconds."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        out.metadata.update(metadata or {})
        out.set_chapters(
            [
                {"id": number, "start": start, "end": end, "time_base": Fraction(1, 1000),
                 "metadata": {"title": title}}
                for number, (start, end, title) in enumerate(chapters, 1)
            ]
        )  # fmt: skip
        streams = [out.add_stream_from_template(s, opaque=True) for s in container.streams]
        for packet in container.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target


def chapters_of(path):
    with av.open(str(path)) as container:
        return [
            (
                *(float(c[side] * c["time_base"]) for side in ("start", "end")),
                c["metadata"]["title"],
            )
            for c in container.chapters()
        ]


CHAPTERS = [(0, 400, "Intro"), (400, 700, "Middle — μέση"), (700, 1000, "End")]


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov", "webm"])
def test_chapters_are_kept(tmp_path, suffix):
    source = with_chapters(make(tmp_path / "a.mkv", count=25), tmp_path / "in.mkv", CHAPTERS)
    got = chapters_of(copy(source, tmp_path / f"out.{suffix}"))
    assert [title for *_, title in got] == [title for *_, title in CHAPTERS]
    for chapter, (start, end, _) in zip(got, CHAPTERS, strict=True):
        assert chapter[:2] == pytest.approx((start / 1000, end / 1000), abs=0.002)


def test_chapters_move_with_what_they_mark(tmp_path):
    source = with_chapters(make(tmp_path / "a.mkv", count=25), tmp_path / "in.mkv", CHAPTERS)
    slow = copy(source, tmp_path / "slow.mkv", show_at=lambda time: 3 * time)
    assert [start for start, *_ in chapters_of(slow)] == pytest.approx([0, 1.2, 2.1], abs=0.002)
    with (
        open_reader(source, start=Fraction(1, 2), duration=Fraction(3, 10)) as reader,
        create_writer(tmp_path / "part.mkv", reader, Fraction(25)) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time)
    got = chapters_of(tmp_path / "part.mkv")
    # The part's first frame is that at 0.52 s.
    assert [title for *_, title in got] == ["Middle — μέση", "End"]
    assert got[0][:2] == pytest.approx((0, 0.18), abs=0.002)
    assert got[1][:2] == pytest.approx((0.18, 0.28), abs=0.002)


@pytest.mark.parametrize(
    ("text", "rate", "new_rate", "expected"),
    [
        ("01:02:03;04", "30000/1001", "60000/1001", "01:02:03;08"),
        ("01:02:03;04", "30000/1001", "60", "01:02:03:08"),
        ("01:02:03;04", "30000/1001", "50", "01:02:03:07"),
        ("01:02:03;04", "60000/1001", "30000/1001", "01:02:03;02"),
        ("01:02:03:50", "60", "24", "01:02:03:20"),
        ("23:59:59:23", "24", "48", "23:59:59:46"),
        ("23:59:59:59", "60", "24", "00:00:00:00"),
        ("10:00:00:00", "24000/1001", "60000/1001", "10:00:00:00"),
        ("01:02:03:04", "25", "25", "01:02:03:04"),
        ("01:02:03;04", "30000/1001", "75000/1001", None),
        ("01:02:03:04", "25", "12.5", None),
        ("01:02:03", "25", "50", None),
        ("25:00:00:00", "25", "50", None),
    ],
)
def test_a_timecode_is_that_of_the_same_moment_at_the_new_rate(
    tmp_path, caplog, text, rate, new_rate, expected
):
    rate, new_rate = Fraction(rate), Fraction(new_rate)
    with open_reader(make(tmp_path / "in.mp4", rate=rate, count=2)) as reader:
        reader.stream_metadata["timecode"] = text
        with create_writer(tmp_path / "out.mov", reader, new_rate) as writer:
            for index, frame in enumerate(reader):
                writer.write(frame.image, index / new_rate)
    with av.open(str(tmp_path / "out.mov")) as container:
        assert container.streams.video[0].metadata.get("timecode") == expected
    assert ("Left out: the timecode" in caplog.text) == (expected is None)


@pytest.mark.parametrize(
    ("text", "rate", "skipped", "expected"),
    [
        ("01:00:59;29", "30000/1001", 1, "01:01:00;02"),
        ("01:09:59;29", "30000/1001", 1, "01:10:00;00"),
        ("01:00:00;00", "30000/1001", 17982, "01:10:00;00"),
        ("01:00:59;59", "60000/1001", 1, "01:01:00;04"),
        ("23:59:59:24", "25", 1, "00:00:00:00"),
        ("00:00:59:29", "30000/1001", 1, "00:01:00:00"),
    ],
)
def test_a_part_has_the_timecode_of_its_first_frame(text, rate, skipped, expected):
    from rife.media.timecode import convert_timecode

    assert convert_timecode(text, Fraction(rate), Fraction(rate), skipped) == expected


def test_fonts_and_covers_are_kept_in_matroska(tmp_path):
    with (
        av.open(str(make(tmp_path / "a.mkv"))) as container,
        av.open(str(tmp_path / "in.mkv"), "w") as out,
    ):
        stream = out.add_stream_from_template(container.streams.video[0], opaque=True)
        out.add_attachment("font.ttf", "application/x-truetype-font", b"not a font" * 9)
        out.add_attachment("cover.png", "image/png", PNG)
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    copy(copy(tmp_path / "in.mkv", tmp_path / "out.mkv"), tmp_path / "again.mkv")
    for name in "out.mkv", "again.mkv":
        data = (tmp_path / name).read_bytes()
        assert b"not a font" * 9 in data and PNG in data
        assert b"font.ttf" in data and b"application/x-truetype-font" in data
        assert b"cover.png" in data


def png():
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture(0, 32, 32)).save(stream, "png")
    return stream.getvalue()


PNG = png()


@pytest.mark.parametrize("suffix", ["mp4", "m4v", "mov", "mkv", "webm"])
@pytest.mark.parametrize("tags", [{"title": "Film"}, {"prompt": "{}"}], ids=["usual", "workflow"])
def test_a_cover_picture_is_kept_or_named(tmp_path, caplog, suffix, tags):
    with (
        av.open(str(make(tmp_path / "a.mp4"))) as container,
        av.open(str(tmp_path / "in.mp4"), "w") as out,
    ):
        out.metadata["title"] = "Film"
        stream = out.add_stream_from_template(container.streams.video[0], opaque=True)
        cover = out.add_stream("png", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        out.start_encoding()
        packet = av.Packet(PNG)
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        packet.is_keyframe = True
        out.mux(packet)
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    target = tmp_path / f"out.{suffix}"
    with open_reader(tmp_path / "in.mp4") as reader:
        reader.metadata.update(tags)
        with create_writer(target, reader, Fraction(25)) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    assert len(frames_of(target)) == 3
    with av.open(str(target)) as container:
        tags_written = {key.lower(): value for key, value in container.metadata.items()}
    assert tags.items() <= tags_written.items()
    if suffix in ("webm", "mov", "m4v") or (suffix == "mp4" and "prompt" in tags):
        assert "Left out, as it can't be kept: png video" in caplog.text
    else:
        assert PNG in target.read_bytes()
        assert "Left out" not in caplog.text


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "mov"])
def test_strange_tags_cost_nothing(tmp_path, suffix):
    tags = {"title": "a\x1b[31mb\nc", "x" * 300: "long", "comment": "y" * 300_000,
            "with=equals": "1", "": "empty", "ключ": "значение"}  # fmt: skip
    with open_reader(make(tmp_path / "in.mkv")) as reader:
        reader.metadata.update(tags)
        with create_writer(tmp_path / f"out.{suffix}", reader, Fraction(25)) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    with av.open(str(tmp_path / f"out.{suffix}")) as container:
        tags_written = {key.lower(): value for key, value in container.metadata.items()}
    assert tags_written["title"] == tags["title"]
    assert tags_written["comment"] == tags["comment"]


# Depth, HDR, transparency.

DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


def make_hdr(path, transfer=16, light=True, **options):
    parameters = "log-level=error"
    if light:
        parameters += f":master-display={DISPLAY}:max-cll=1000,400"
    return make(
        path, codec="libx265", pixel_format="yuv420p10le", space=9, primaries=9, color_range=1,
        transfer=transfer, options={"crf": "10", "x265-params": parameters}, **options,
    )  # fmt: skip


@pytest.mark.parametrize("transfer", slow_after_first([16, 18], 1), ids=["PQ", "HLG"])
@pytest.mark.parametrize(
    ("target", "options", "codec"),
    [("out.mp4", {}, "hevc"), ("out.mov", {}, "hevc"), ("out.mkv", {}, "hevc"),
     ("out.m4v", {}, "h264"), ("out.webm", {}, "av1"), ("out.mp4", {"codec": "libx264"}, "h264"),
     ("out.mp4", {"codec": "libsvtav1"}, "av1")],
)  # fmt: skip
def test_hdr_keeps_its_depth_and_its_light(tmp_path, caplog, transfer, target, options, codec):
    source = make_hdr(tmp_path / "in.mp4", transfer)
    copy(source, tmp_path / target, **options)
    before, after = first_frame(source), first_frame(tmp_path / target)
    assert after.format.name == "yuv420p10le"
    for name in "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL":
        a, b = (np.frombuffer(bytes(f.side_data.get(name)), np.int32) for f in (before, after))
        if name.startswith("M"):
            a, b = (side[:20:2] / side[1:20:2] for side in (a, b))
        assert b == pytest.approx(a, rel=0.01)
    with av.open(str(tmp_path / target)) as container:
        context = container.streams.video[0].codec_context
        assert context.name.replace("libdav1d", "av1") == codec
        assert (context.color_trc, context.colorspace) == (transfer, 9)
        if codec == "hevc" and target != "out.mkv":
            assert context.codec_tag == "hvc1"
    assert not caplog.records


def test_what_hdr_loses_is_said(tmp_path, caplog):
    source = make_hdr(tmp_path / "in.mp4")
    copy(source, tmp_path / "out.mp4", codec="libx264", pixel_format="yuv420p")
    assert "yuv420p holds 8 bits of 10; pixel format yuv420p10le keeps all." in caplog.text
    caplog.clear()
    copy(source, tmp_path / "out.mov", codec="prores_ks")
    assert "can't be kept: mastering display metadata, content light level" in caplog.text


@pytest.mark.parametrize(
    ("codec", "pixel_format", "message"),
    [
        ("libx264", "yuv420p10le", "yuv420p holds 8 bits of 10; pixel format yuv420p10le"),
        ("libx264", "yuv444p", "colours at a lower resolution, as players need it; pixel format "
         "yuv444p keeps all"),
        ("libx264", "yuv422p10le", "8 bits of 10 and colours at a lower resolution, as players "
         "need it; pixel format yuv422p10le keeps all"),
        ("libx264", "yuv420p", None),
        ("ffv1", "gray", None),
    ],
)  # fmt: skip
def test_lost_depth_and_colour_are_said(tmp_path, caplog, codec, pixel_format, message):
    source = make(tmp_path / "in.mkv", codec=codec, pixel_format=pixel_format)
    copy(source, tmp_path / "out.mp4")
    assert message in caplog.text if message else not caplog.records


@pytest.mark.parametrize(
    ("source_codec", "source_format", "codec", "expected"),
    [
        ("ffv1", "yuv444p10le", "ffv1", "yuv444p10le"),
        ("ffv1", "bgr0", "ffv1", "bgr0"),
        ("ffv1", "yuv422p10le", "prores_ks", "yuv422p10le"),
        ("libx264", "yuv420p", "ffv1", "yuv420p"),
        ("libx264", "yuv444p", "qtrle", "rgb24"),
        ("libx264", "yuv420p", "mjpeg", "yuvj420p"),
        ("ffv1", "yuv444p10le", "qtrle", "rgb24"),
    ],
)
def test_codecs_for_editing_keep_what_a_clip_has(
    tmp_path, source_codec, source_format, codec, expected
):
    source = make(tmp_path / "in.mkv", codec=source_codec, pixel_format=source_format)
    target = copy(source, tmp_path / ("out.mov" if codec in ("qtrle",) else "out.mkv"), codec=codec)
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == expected


def make_transparent(path, codec, pixel_format):
    """A video of a red square of alpha 0.6 that moves over nothing."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for index in range(3):
            image = np.zeros((48, 64, 4), np.uint8)
            image[12:32, 4 + 5 * index : 24 + 5 * index] = 200, 30, 20, 153
            frame = av.VideoFrame.from_ndarray(image, "rgba").reformat(format=pixel_format)
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("source", "codec", "pixel_format"),
    [("in.mov", "qtrle", "argb"), ("in.mov", "prores_ks", "yuva444p10le"),
     ("in.mkv", "ffv1", "bgra"), ("in.mov", "png", "rgba")],
)  # fmt: skip
@pytest.mark.parametrize(
    ("target", "options"),
    slow_after_first([("out.mov", {}), ("out.mov", {"codec": "qtrle"}), ("out.webm", {}),
         ("out.mov", {"codec": "png"}), ("out.mov", {"codec": "prores_ks"}),
         ("out.mkv", {"codec": "ffv1"}), ("out.mkv", {"codec": "libvpx-vp9"})], 3),
)  # fmt: skip
def test_transparency_is_kept_where_it_can_be(
    tmp_path, caplog, source, codec, pixel_format, target, options
):
    path = make_transparent(tmp_path / source, codec, pixel_format)
    frames = frames_of(copy(path, tmp_path / target, crf=4, **options))
    for index, frame in enumerate(frames):
        image = frame.image.float() * (1 if frame.image.dtype == torch.uint8 else 255)
        inside = image[16:28, 8 + 5 * index : 20 + 5 * index]
        assert (inside - torch.tensor([200.0, 30, 20, 153])).abs().mean() < 6
        assert image[40:, :, 3].max() < 3
    assert "transparency" not in caplog.text


@pytest.mark.parametrize(
    ("target", "options", "advice"),
    [("out.mp4", {}, r".mov, .webm, .webp, .apng and .gif files keep it"),
     ("out.mkv", {}, "Codec ffv1 or libvpx-vp9 keeps it"),
     ("out.mov", {"codec": "libx264"}, "Codec prores_ks or qtrle keeps it")],
)  # fmt: skip
def test_lost_transparency_is_said_with_the_nearest_way_to_keep_it(
    tmp_path, caplog, target, options, advice
):
    path = make_transparent(tmp_path / "in.mov", "qtrle", "argb")
    frames = frames_of(copy(path, tmp_path / target, **options))
    assert frames[0].image.shape[-1] == 3
    assert advice in caplog.text


# Settings and times.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.mp4", {"crf": 52}, "libx264 has a crf from 0 to 51, not 52"),
        ("out.mp4", {"crf": -1}, "libx264 has a crf from 0 to 51, not -1"),
        ("out.webm", {"crf": 64}, "libvpx-vp9 has a crf from 0 to 63"),
        ("out.mov", {"codec": "ffv1"}, "ffv1 is no video encoder for .mov files here; try one"),
        ("out.mp4", {"codec": "libsvtav1"}, "encode with libsvtav1 to .*out.mp4"),
    ],
)
def test_what_an_encoder_refuses_is_said_before_the_first_frame(tmp_path, name, options, message):
    rate = Fraction(1000 if "codec" in options else 25)  # AV1's most is 240
    source = make(tmp_path / "in.mp4", size=(32, 32))
    with open_reader(source) as reader, pytest.raises(FileError, match=message):
        create_writer(tmp_path / name, reader, rate, Encoding(**options))


@pytest.mark.parametrize(
    ("rate", "grid"),
    [
        (Fraction("31.4159"), Fraction(1, 12800 * 314159)),
        (Fraction(1, 300), Fraction(300)),
        (Fraction(1, 10**4), None),
        (Fraction("1000.001"), None),
        (Fraction(2**31 - 1, 2**31 - 3), None),
        (Fraction(10**12 + 1, 10**11), None),
        (Fraction(5000), None),
    ],
)
@pytest.mark.parametrize("target", slow_after_first(["out.mp4", "out.mkv", "out.webm"]))
def test_every_rate_gives_a_file(tmp_path, rate, grid, target):
    with (
        open_reader(make(tmp_path / "in.mp4", count=6)) as reader,
        create_writer(tmp_path / target, reader, rate, time_base=grid) as writer,
    ):
        for index, frame in enumerate(reader):
            writer.write(frame.image, index / rate)
    with av.open(str(tmp_path / target)) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) == 6
    if rate < 1000:
        frames = frames_of(tmp_path / target)
        step = 0.001 if target != "out.mp4" else 1e-5
        assert [float(frame.time) for frame in frames] == pytest.approx(
            [float(index / rate) for index in range(6)], abs=step
        )


def test_times_nearer_than_the_grid_cost_no_frame(tmp_path):
    with (
        open_reader(make(tmp_path / "in.mp4", count=6)) as reader,
        create_writer(tmp_path / "out.mp4", reader, Fraction(25)) as writer,
    ):
        for index, frame in enumerate(reader):
            writer.write(frame.image, index * Fraction(1, 10**9))
    assert len(frames_of(tmp_path / "out.mp4")) == 6


@pytest.mark.parametrize("count", slow_after_first([1, 4, 2, 3, 7]))
@pytest.mark.parametrize(
    ("target", "codec"),
    [("out.mp4", "libx264"), ("out.mov", "libx264"), ("out.mkv", "libx264"),
     ("out.webm", "libvpx-vp9"), ("out.mp4", "libx265"), ("out.mkv", "libsvtav1")],
)  # fmt: skip
def test_the_last_frame_lasts_as_long_as_it_is_told(tmp_path, target, codec, count):
    with (
        open_reader(make(tmp_path / "in.mp4", count=7)) as reader,
        create_writer(tmp_path / target, reader, Fraction(25), Encoding(codec=codec)) as writer,
    ):
        for index, frame in zip(range(count), reader, strict=False):
            last = index == count - 1
            writer.write(frame.image, frame.time, Fraction(3) if last else Fraction(1, 25))
    with av.open(str(tmp_path / target)) as container:
        assert container.duration / av.time_base == pytest.approx((count - 1) / 25 + 3, abs=0.002)
    with open_reader(tmp_path / target) as reader:
        *_, frame = reader
        assert len([*_, frame]) == count
    assert float(frame.duration) == pytest.approx(3, abs=0.002)


@pytest.mark.parametrize("target", ["out.mkv", "out.mp4"])
def test_packets_shorter_than_the_clock_stay_in_time(tmp_path, target):
    source = make(tmp_path / "a.mkv", count=25)
    with av.open(str(source)) as container, av.open(str(tmp_path / "in.mkv"), "w") as out:
        video = out.add_stream_from_template(container.streams.video[0], opaque=True)
        sound = out.add_stream("pcm_s16le", rate=48000)
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = video
                out.mux(packet)
        # 40 samples last 5/6 ms: of six packets, two get the same millisecond.
        for first in range(0, 48000, 40):
            frame = chunk(tone(40, 48000, 2, first), 48000, first, "stereo")
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    before, after = heard(tmp_path / "in.mkv"), heard(copy(tmp_path / "in.mkv", tmp_path / target))
    assert before[1] == pytest.approx(1, abs=0.01)
    # In MP4 it is encoded anew, in pieces of 21 ms.
    assert after[1] == pytest.approx(before[1], abs=0.002 if target == "out.mkv" else 0.022)
    assert after[0] == pytest.approx(before[0], abs=0.005)
