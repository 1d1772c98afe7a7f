"""Odd sides, rotation and pixels that are not square."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from rife.fileio import FileError
from rife.media import open_reader

from .support.clips import pattern, read_frames, recode, write_clip


@pytest.mark.parametrize("size", [(63, 48), (64, 47), (63, 47)])
def test_odd_sides_are_evened_by_doubling_the_last_pixels(tmp_path, size, caplog):
    (tmp_path / "in").mkdir()
    for index in range(3):
        Image.fromarray(pattern(index, *size)).save(tmp_path / "in" / f"{index}.png")
    (frame, *_) = read_frames(recode(tmp_path / "in", tmp_path / "out.mp4", crf=1))
    width, height = size
    assert frame.image.shape == (height + height % 2, width + width % 2, 3)
    expected = torch.from_numpy(pattern(0, *size)).float()
    assert (frame.image[:height, :width].float() - expected).abs().mean() < 4
    if width % 2:
        assert (frame.image[:, -1].float() - frame.image[:, -2].float()).abs().mean() < 3
    assert "even sides" in caplog.text


def with_display_matrix(source, target, a, b, c, d):
    """A copy of an MP4 whose track header asks for x' = ax + cy, y' = bx + dy."""
    data = bytearray(source.read_bytes())
    at = data.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30),
                    data.index(b"tkhd"))  # fmt: skip
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_rotated_video_is_read_and_written_the_right_way_up(tmp_path, matrix, upright):
    plain = write_clip(tmp_path / "plain.mp4", count=2, aspect=Fraction(4, 3))
    source = with_display_matrix(plain, tmp_path / "in.mp4", *matrix)
    expected = torch.from_numpy(upright(pattern(0)).copy()).float()
    turned = matrix[0] == 0
    target = recode(source, tmp_path / "out.mp4", crf=4)
    for path in source, target:
        with open_reader(path) as reader:
            frame = next(iter(reader))
            assert (reader.info.width, reader.info.height) == frame.image.shape[1::-1]
            assert reader.sample_aspect_ratio == (Fraction(3, 4) if turned else Fraction(4, 3))
        assert frame.image.shape == expected.shape
        assert (frame.image.float() - expected).abs().mean() < 3
    with av.open(str(target)) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_pixel_shape_is_kept(tmp_path):
    source = write_clip(tmp_path / "in.mp4", aspect=Fraction(128, 117))
    with av.open(str(recode(source, tmp_path / "out.mp4"))) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(128, 117)


def test_a_change_of_size_in_the_middle_is_an_error(tmp_path):
    small, large = write_clip(tmp_path / "a.h264"), write_clip(tmp_path / "b.h264", size=(96, 64))
    (tmp_path / "both.h264").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(FileError, match="64x48 to 96x64"):
        read_frames(tmp_path / "both.h264")
