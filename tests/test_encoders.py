"""Encoders and their settings, and any source into any target."""

from fractions import Fraction

import pytest
import torch
from PIL import Image

from rife.fileio import FileError, atomic_output
from rife.media import Encoding, create_writer, open_reader

from .support.clips import pattern, read_frames, recode, write_clip


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out.mp4", {"codec": "libx265"}),
        ("out.mkv", {"codec": "ffv1", "pixel_format": "yuv444p"}),
        ("out.mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}),
        ("out.webm", {"codec": "libsvtav1"}),
        ("out.mp4", {"pixel_format": "yuv444p"}),
    ],
)
def test_other_encoders_work(tmp_path, name, options):
    size = 64, 64  # AV1's least
    target = recode(write_clip(tmp_path / "in.mp4", count=5, size=size), tmp_path / name, **options)
    frames = read_frames(target)
    assert len(frames) == 5
    expected = torch.from_numpy(pattern(2, *size)).float()
    image = frames[2].image.float() * (1 if frames[2].image.dtype == torch.uint8 else 255)
    assert (image - expected).abs().mean() < 4


def test_a_lower_crf_gives_a_larger_file(tmp_path):
    source = write_clip(tmp_path / "in.mp4")
    for suffix in "mp4", "webm":
        fine = recode(source, tmp_path / f"fine.{suffix}", crf=5)
        coarse = recode(source, tmp_path / f"coarse.{suffix}", crf=45)
        assert fine.stat().st_size > 1.5 * coarse.stat().st_size


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.xyz", {}, r"\.xyz.*\.mp4"),
        ("out.mp4", {"codec": "nonsense"}, "nonsense is no video encoder.*libx264"),
        ("out.mp4", {"codec": "aac"}, "aac is no video encoder"),
        ("out.webm", {"codec": "libx264"}, "libx264 is no video encoder for .webm.*libvpx-vp9"),
        ("out.mp4", {"pixel_format": "nonsense"}, "no pixel format nonsense.*yuv420p"),
        ("out.mp4", {"pixel_format": "rgb24"}, "no pixel format rgb24"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_what_can_be(tmp_path, name, options, message):
    source = write_clip(tmp_path / "in.mp4", count=1)
    with (
        open_reader(source) as reader,
        pytest.raises(FileError, match=message),
        atomic_output(tmp_path / name) as temporary,
    ):
        create_writer(temporary, reader, Fraction(25), Encoding(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("target", ["out.gif", "out.webp", "out.apng", "out.mp4", "out.mkv", "out"])
@pytest.mark.parametrize("source", ["in.gif", "in.webp", "in.mp4", "in"])
def test_any_source_goes_to_any_target(tmp_path, source, target):
    plain = write_clip(tmp_path / "plain.mp4", count=5, rate=10)
    if source == "in":
        (tmp_path / "in").mkdir()
    recode(plain, tmp_path / source)
    if target == "out":
        (tmp_path / "out").mkdir()
    recode(tmp_path / source, tmp_path / target)
    frames = read_frames(tmp_path / target)
    assert len(frames) == 5
    for index, frame in enumerate(frames):
        expected = torch.from_numpy(pattern(index)).float()
        assert (frame.image[..., :3].float() - expected).abs().mean() < 8


def test_transparency_survives_in_webm_and_turns_black_in_mp4(tmp_path, caplog):
    picture = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    picture.paste((200, 100, 50, 255), (0, 0, 16, 32))
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "1.png")
    (frame,) = read_frames(recode(tmp_path / "in", tmp_path / "out.mp4", crf=4))
    assert frame.image[:, 20:].float().mean() < 4
    assert (frame.image[8, 8] - torch.tensor([200.0, 100, 50])).abs().max() < 4
    assert "transparency" in caplog.text
    caplog.clear()
    first = recode(tmp_path / "in", tmp_path / "out.webm", crf=4)
    for path in first, recode(first, tmp_path / "again.webm", crf=4):
        (frame,) = read_frames(path)
        assert frame.image.shape == (32, 32, 4)
        assert (frame.image[8, 8] - torch.tensor([200.0, 100, 50, 255])).abs().max() < 8
        assert frame.image[:, 20:, 3].max() < 4
    assert "transparency" not in caplog.text
