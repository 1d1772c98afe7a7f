"""Reading videos of all kinds: names, clocks, interlacing, damage."""

import os
import sys

import av
import numpy as np
import pytest

from rife.media import create_writer, open_reader

WIDTH, HEIGHT = 64, 48


def pattern(index):
    """(H, W, 3) uint8: a bright column that moves two pixels a frame over grey."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[:, 2 * index % WIDTH :][:, :6] = 220
    return image


def make(path, count=10, rate=25, codec="mpeg4", **options):
    """A video of `count` frames, made with plain PyAV."""
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pattern(index), "rgb24")))
        container.mux(stream.encode(None))
    return path


def frames_of(path, **options):
    with open_reader(path, **options) as reader:
        return list(reader)


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
