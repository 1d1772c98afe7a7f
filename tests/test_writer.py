"""Writing videos: what of a clip its copy keeps, and what is said about the rest."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from rife.media import create_writer, open_reader

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


def copy(source, target, **options):
    """Every frame as it is: what the command line does with a multiplier of 1."""
    with (
        open_reader(source) as reader,
        create_writer(target, reader, reader.info.frame_rate, **options) as writer,
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


@pytest.mark.parametrize("space", [1, 6, 9], ids=["bt709", "bt601", "bt2020"])
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


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (1280, 720)])
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
    tmp_path, name, codec, pixel_format, target, options, size
):
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
    """(channels, count) float: a click at each tenth of a second."""
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
    """A video with clicks. chunks: where pieces of up to 1000 samples begin."""
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
    """Seconds from the first frame at which clicks begin, the sound's length, and its channels."""
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


@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.mkv", "out.webm"])
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
    assert after[2] == channels if channels != 3 or target != "out.webm" else True
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


class Fails:
    """A track in which something goes wrong late."""

    def __init__(self, track, method):
        self.stream, self._track, self._method = track.stream, track, method

    def write(self, item):
        if self._method == "write":
            raise ValueError("late trouble")
        self._track.write(item)

    def finish(self):
        if self._method == "finish":
            raise ValueError("late trouble")


@pytest.mark.parametrize("method", ["write", "finish"])
def test_sound_that_fails_late_does_not_cost_the_picture(tmp_path, caplog, method):

    path = make_with_sound(tmp_path / "in.mkv", "aac")
    with open_reader(path) as reader:
        writer = create_writer(tmp_path / "out.mp4", reader, Fraction(25))
        tracks = writer._output.tracks
        tracks[:] = [(part, Fails(track, method)) for part, track in tracks]
        with writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    assert len(frames_of(tmp_path / "out.mp4")) == 25
    assert "Aac audio ends early: it can't be written (late trouble)." in caplog.text
    assert "ffmpeg -i OUT -i IN" in caplog.text
    assert len(caplog.records) == 1
