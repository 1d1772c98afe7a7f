"""Folders of images and animations as input and output."""

import itertools
import os
import re
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from rife import Options, interpolate_file
from rife.fileio import FileError
from rife.media import Encoding, create_writer, open_reader
from rife.media.pictures import png_chunk
from rife.networks.ifnet_v4 import IFNet_v4, Parameters

from .support.seeded import seeded_state

SIZE = 24, 16  # width, height


def picture(index, mode="RGB"):
    """A gradient with a square that moves by two pixels per image; in RGBA the square is
    transparent."""
    array = np.zeros((SIZE[1], SIZE[0], len(mode)), np.uint8)
    array[..., 0] = np.arange(SIZE[0]) * 8
    array[..., 1] = np.arange(SIZE[1])[:, None] * 12
    if mode == "RGBA":
        array[..., 3] = 255
    array[4:8, 2 * index : 2 * index + 6] = 0 if mode == "RGBA" else 255
    return Image.fromarray(array)


def animation(path, durations, mode="RGB", **options):
    first, *rest = (picture(index, mode) for index in range(len(durations)))
    clear = 2 if path.suffix == ".gif" else 1  # a frame's place before the next one
    first.save(
        path, save_all=True, append_images=rest, duration=durations, disposal=clear, **options
    )
    return path


def folder_of(path, count=3, **options):
    path.mkdir()
    for index in range(count):
        picture(index).save(path / f"frame_{index}.png", **options)
    return path


def copy(source, target, frame_rate=None, period=Fraction(1, 24)):
    """Writes every frame as it is read. period: seconds per image of a folder."""
    if not target.suffix:
        target.mkdir()
    with (
        open_reader(source, 1 / period) as reader,
        create_writer(target, reader, frame_rate or reader.info.frame_rate) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time, frame.duration)
    return target


def frames_of(path):
    with open_reader(path) as reader:
        return list(reader)


def delays(path):
    """The durations in the file in milliseconds, read by Pillow."""
    with Image.open(path) as image:
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
    return durations


# Folders.


def test_images_are_read_in_the_order_of_their_names_evenly_spaced(tmp_path):
    for number in 8, 9, 10, 11, 100:
        Image.new("RGB", SIZE, (number, 0, 0)).save(tmp_path / f"shot_{number}_1920x1080.png")
    with open_reader(tmp_path, Fraction(10)) as reader:
        frames = list(reader)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [8, 9, 10, 11, 100]
    assert [frame.time for frame in frames] == [Fraction(index, 10) for index in range(5)]
    assert not any(frame.follows_gap for frame in frames)
    assert reader.info.frame_count == 5
    assert reader.info.frame_rate == 10


def test_nothing_is_to_be_made_from_one_sequence_to_the_next(tmp_path, caplog):
    for name in ["a_1", "a_2", "b_1", "b_2", "b_3"]:
        Image.new("RGB", SIZE).save(tmp_path / f"{name}.png")
    assert [frame.follows_gap for frame in frames_of(tmp_path)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    (message,) = caplog.messages
    assert str(tmp_path) in message and "2 sequences" in message and "\n" not in message


def test_hidden_and_other_files_are_ignored(tmp_path):
    folder_of(tmp_path / "in")
    (tmp_path / "in" / "._frame_1.png").write_bytes(b"macOS")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    (tmp_path / "in" / "sub.png").mkdir()
    assert len(frames_of(tmp_path / "in")) == 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "PNG"])
def test_every_kind_of_image_is_read(tmp_path, suffix):
    Image.new("RGB", SIZE, (200, 100, 50)).save(tmp_path / f"1.{suffix}")
    (frame,) = frames_of(tmp_path)
    assert frame.image.dtype == torch.uint8
    assert frame.image.shape == (16, 24, 3)
    assert (frame.image.float().mean((0, 1)) - torch.tensor([200.0, 100, 50])).abs().max() < 3


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 3), ("L", 3), ("LA", 4), ("P", 3), ("RGB", 3), ("RGBA", 4)],
)
def test_every_mode_becomes_rgb_or_rgba(tmp_path, mode, channels):
    Image.new("L", SIZE, 200).convert(mode).save(tmp_path / "1.png")
    (frame,) = frames_of(tmp_path)
    assert frame.image.shape == (16, 24, channels)
    expected = 255 if mode == "1" else 200
    assert frame.image[..., :3].float().mean() == pytest.approx(
        expected, abs=70 if mode == "1" else 0
    )


def test_one_transparent_image_makes_all_of_them_rgba(tmp_path):
    picture(0).save(tmp_path / "1.png")
    picture(1, "RGBA").save(tmp_path / "2.png")
    assert [frame.image.shape[-1] for frame in frames_of(tmp_path)] == [4, 4]


def deep_pixels(channels, seed=0):
    """(H, W, channels) uint16, no two alike."""
    return np.random.RandomState(seed).randint(0, 65536, (*SIZE[::-1], channels)).astype(np.uint16)


def png16(pixels, *chunks):
    """A PNG file of (H, W, 1 to 4) uint16, unfiltered."""
    height, width, channels = pixels.shape
    rows = np.pad(pixels.astype(">u2").reshape(height, -1).view(np.uint8), ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def decode_by_ffmpeg(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_images_pass_bit_for_bit(tmp_path, caplog, channels):
    (tmp_path / "in").mkdir()
    pixels = [deep_pixels(channels, seed) for seed in range(3)]
    for index, image in enumerate(pixels):
        (tmp_path / "in" / f"{index}.png").write_bytes(png16(image))
    first, *_ = frames_of(tmp_path / "in")
    assert first.image.dtype == torch.float32
    copy(tmp_path / "in", tmp_path / "out")
    for index, image in enumerate(pixels):
        colours = [0, 0, 0] if channels < 3 else [0, 1, 2]
        expected = image[..., colours + ([] if channels % 2 else [channels - 1])]
        assert np.array_equal(decode_by_ffmpeg(tmp_path / "out" / f"{index + 1:08}.png"), expected)
    assert not caplog.text


def test_all_values_of_16_bits_pass_and_8_bit_images_beside_them(tmp_path):
    (tmp_path / "in").mkdir()
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "in" / "1.tif")
    Image.fromarray(values.view(np.uint8)[:, ::2].copy()).save(tmp_path / "in" / "2.png")
    copy(tmp_path / "in", tmp_path / "out")
    deep, shallow = (decode_by_ffmpeg(path) for path in sorted((tmp_path / "out").iterdir()))
    assert np.array_equal(deep[..., 1], values)
    assert np.array_equal(shallow[..., 1], values.view(np.uint8)[:, ::2].astype(np.uint16) * 257)


def test_16_bit_images_keep_colour_marks_transparency_and_way_up(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = deep_pixels(3)
    pixels[0] = 7
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").write_bytes(
        png16(
            pixels,
            (b"iCCP", b"x\0\0" + zlib.compress(profile)),
            (b"eXIf", exif.tobytes()[6:]),
            (b"tRNS", struct.pack(">HHH", 7, 7, 7)),
        )
    )
    copy(tmp_path / "in", tmp_path / "out")
    written = decode_by_ffmpeg(tmp_path / "out" / "00000001.png")
    assert np.array_equal(written[..., :3], np.rot90(pixels, -1))
    assert (written[:, -1, 3] == 0).all() and (written[:, :-1, 3] == 65535).all()
    with Image.open(tmp_path / "out" / "00000001.png") as image:
        image.load()
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_depth_that_an_animation_loses_is_said(tmp_path, caplog, suffix):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").write_bytes(png16(np.full((16, 24, 1), 513, np.uint16)))
    (frame,) = frames_of(copy(tmp_path / "in", tmp_path / f"out.{suffix}"))
    assert abs(frame.image.float().mean() - 2) <= 1
    assert f".{suffix} holds 8 bits a channel" in caplog.text


def test_a_16_bit_animation_is_read_as_8_with_a_warning(tmp_path, caplog):
    (tmp_path / "in.png").write_bytes(png16(np.full((16, 24, 1), 513, np.uint16)))
    (frame,) = frames_of(tmp_path / "in.png")
    assert frame.image.unique().tolist() == [2]
    assert "in.png has 16 bits" in caplog.text


@pytest.mark.parametrize("mode", ["F", "I"])
def test_images_of_32_bits_are_refused(tmp_path, mode):
    Image.new(mode, SIZE, 1).save(tmp_path / "1.tif")
    with pytest.raises(FileError, match=r"1\.tif has 32 bits a channel; save"):
        open_reader(tmp_path)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_transparency(tmp_path, mode):
    image = picture(0).convert(mode)
    clear = image.getpixel((0, 0))
    image.save(tmp_path / "1.png", transparency=clear)
    (frame,) = frames_of(tmp_path)
    expected = (np.array(image).reshape(16, 24, -1) != clear).any(-1)
    assert np.array_equal(frame.image[..., 3].numpy() > 0, expected)


def test_cmyk_images_become_rgb_with_one_warning_and_without_their_profile(tmp_path, caplog):
    cmyk = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cmyk = cmyk[:16] + b"CMYK" + cmyk[20:]
    for index in range(3):
        image = Image.new("RGB", SIZE, (200, 100, 50)).convert("CMYK")
        image.save(tmp_path / f"{index}.jpg", icc_profile=cmyk, quality=95)
    with open_reader(tmp_path) as reader:
        frames = list(reader)
    assert reader.icc_profile is None
    assert (frames[2].image.float().mean((0, 1)) - torch.tensor([200.0, 100, 50])).abs().max() < 3
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: 0.jpg, like 2 more, is CMYK")


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", SIZE)
    image.paste((255, 255, 255), (0, 0, 12, 4))
    image.save(tmp_path / f"1.{suffix}", exif=exif, quality=95)
    with open_reader(tmp_path) as reader:
        (frame,) = reader
    stored = np.array(image)
    expected = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(stored),
    }[orientation]
    assert (reader.info.height, reader.info.width) == expected.shape[:2]
    assert frame.image.shape == expected.shape
    assert (frame.image.float() - torch.from_numpy(expected.astype(np.float32))).abs().mean() < 10


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FileError, match="no images"):
        open_reader(tmp_path)


def test_different_sizes_are_refused_naming_both_files(tmp_path):
    Image.new("RGB", (24, 16)).save(tmp_path / "a1.png")
    Image.new("RGB", (24, 18)).save(tmp_path / "a2.png")
    with pytest.raises(FileError, match=r"a1\.png is 24x16.*a2\.png is 24x18"):
        open_reader(tmp_path)


def test_sizes_are_told_as_images_are_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 16)).save(tmp_path / "a1.jpg")
    Image.new("RGB", (24, 16)).save(tmp_path / "a2.jpg", exif=exif)
    with pytest.raises(FileError, match=r"a1\.jpg is 24x16.*a2\.jpg is 16x24"):
        open_reader(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(
    "content", [lambda whole: whole[:-60], lambda whole: b"no image", lambda whole: b""]
)
def test_a_broken_image_is_named_before_any_work_is_done(tmp_path, content, suffix):
    for index in range(3):
        picture(index).save(tmp_path / f"frame_{index}.{suffix}")
    path = tmp_path / f"frame_1.{suffix}"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(FileError, match=rf"frame_1\.{suffix}") as caught:
        open_reader(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_image_of_a_size_that_takes_all_memory_is_refused(tmp_path):
    header = struct.pack(">II5B", 90_000, 90_000, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header), png_chunk(b"IDAT", b"")
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(FileError, match=r"1\.png: .*pixels"):
        open_reader(tmp_path)


def test_an_image_that_turns_out_damaged_is_left_out_and_said(tmp_path):
    for index in range(4):
        picture(index).save(tmp_path / f"frame_{index}.png")
    path = tmp_path / "frame_2.png"
    whole = bytearray(path.read_bytes())
    at = whole.index(b"IDAT") + 12
    whole[at : at + 20] = bytes(20)
    path.write_bytes(whole)
    with open_reader(tmp_path, Fraction(10)) as reader:
        frames = list(reader)
    assert [frame.time for frame in frames] == [0, Fraction(1, 10), Fraction(3, 10)]
    assert [frame.follows_gap for frame in frames] == [False, False, True]
    (damage,) = reader.damage
    assert "frame_2.png" in damage and "held" in damage


@pytest.mark.skipif(os.name == "nt", reason="links need privileges")
def test_a_link_to_nothing_is_named(tmp_path):
    picture(0).save(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileError, match=r"2\.png: it does not exist"):
        open_reader(tmp_path)


def test_an_animation_among_images_is_said(tmp_path, caplog):
    picture(0).save(tmp_path / "1.png")
    animation(tmp_path / "2.png", [100, 100])
    animation(tmp_path / "3.webp", [100, 100])
    assert len(frames_of(tmp_path)) == 3
    (message,) = caplog.messages
    assert "2.png, like 1 more, holds several pictures" in message


def test_uneven_times_that_a_folder_loses_are_said(tmp_path, caplog):
    copy(animation(tmp_path / "even.gif", [100, 100, 100]), tmp_path / "even")
    assert not caplog.text
    copy(animation(tmp_path / "in.gif", [100, 40, 250]), tmp_path / "out")
    assert "lasted 0.040 to 0.100 s" in caplog.text


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_folder_goes_to_a_numbered_folder_bit_for_bit(tmp_path, mode):
    (tmp_path / "in").mkdir()
    for index in range(3):
        picture(index, mode).save(tmp_path / "in" / f"{index}.png")
    copy(tmp_path / "in", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000001.png", "00000002.png", "00000003.png"]
    for index, name in enumerate(names):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.mode == mode
            assert np.array_equal(np.array(image), np.array(picture(index, mode)))


def test_float_frames_are_rounded_not_cut(tmp_path):
    folder_of(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    with (
        open_reader(tmp_path / "in") as reader,
        create_writer(tmp_path / "out", reader, Fraction(24)) as writer,
    ):
        image = torch.full((16, 24, 3), 100.6 / 255)
        image[0, 0] = torch.tensor([-0.5, 1.5, 1.0])
        writer.write(image, Fraction(0))
    (frame,) = frames_of(tmp_path / "out")
    assert frame.image[0, 0].tolist() == [0, 255, 255]
    assert frame.image[1:].unique().tolist() == [101]


def test_colour_profile_and_srgb_mark_are_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    folder_of(tmp_path / "icc", icc_profile=profile)
    mark = PngImagePlugin.PngInfo()
    mark.add(b"sRGB", b"\x01")
    folder_of(tmp_path / "srgb", pnginfo=mark)
    copy(tmp_path / "icc", tmp_path / "icc_out")
    copy(tmp_path / "srgb", tmp_path / "srgb_out")
    with Image.open(tmp_path / "icc_out" / "00000002.png") as image:
        assert image.info["icc_profile"] == profile
    with Image.open(tmp_path / "srgb_out" / "00000002.png") as image:
        assert image.info["srgb"] == 1
    for suffix in "webp", "apng":
        copy(tmp_path / "icc", tmp_path / f"out.{suffix}")
        with Image.open(tmp_path / f"out.{suffix}") as image:
            assert image.info["icc_profile"] == profile


# Animations.


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng", "png"])
def test_an_animation_keeps_its_uneven_times(tmp_path, suffix):
    path = animation(tmp_path / f"in.{suffix}", [100, 40, 250])
    with open_reader(path) as reader:
        frames = list(reader)
    assert [frame.time for frame in frames] == [0, Fraction(1, 10), Fraction(14, 100)]
    assert [frame.duration for frame in frames] == [Fraction(n, 1000) for n in (100, 40, 250)]
    assert reader.info.frame_rate == Fraction(3000, 390)
    assert reader.info.frame_count == 3
    assert (reader.info.width, reader.info.height) == SIZE


@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
@pytest.mark.parametrize("source", ["gif", "webp", "apng"])
def test_durations_pass_unchanged_from_format_to_format(tmp_path, source, target):
    path = animation(tmp_path / f"in.{source}", [100, 40, 250])
    assert delays(copy(path, tmp_path / f"out.{target}")) == [100, 40, 250]


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_rounded_durations_add_up_to_the_exact_length(tmp_path, suffix):
    source = folder_of(tmp_path / "in", 1)
    rate = Fraction(30000, 1001)
    with (
        open_reader(source) as reader,
        create_writer(tmp_path / f"out.{suffix}", reader, rate) as writer,
    ):
        for index in range(100):
            writer.write(torch.full((16, 24, 3), index, dtype=torch.uint8), index / rate)
    result = delays(tmp_path / f"out.{suffix}")
    assert len(result) == 100
    assert sum(result) == pytest.approx(float(100000 / rate), abs=5 if suffix == "gif" else 0.5)
    assert max(result) - min(result) <= (10 if suffix == "gif" else 1) + 1e-6


@pytest.mark.parametrize("target", ["gif", "webp", "apng"])
@pytest.mark.parametrize("source", ["gif", "webp", "apng"])
@pytest.mark.parametrize("plays", [0, 1, 3])
def test_the_number_of_showings_is_kept(tmp_path, source, target, plays):
    if source == "gif":
        options = {} if plays == 1 else {"loop": max(plays - 1, 0)}
    else:
        options = {"loop": plays}
    path = animation(tmp_path / f"in.{source}", [100, 100], **options)
    with open_reader(copy(path, tmp_path / f"out.{target}")) as reader:
        assert reader.plays == plays


@pytest.mark.parametrize("target", ["gif", "webp", "apng", "folder"])
@pytest.mark.parametrize("source", ["gif", "webp", "apng"])
def test_transparency_is_kept_and_nothing_shines_through(tmp_path, source, target):
    path = animation(tmp_path / f"in.{source}", [100] * 4, "RGBA", lossless=True)
    target = tmp_path / (f"out.{target}" if target != "folder" else target)
    for index, frame in enumerate(frames_of(copy(path, target))):
        expected = torch.from_numpy(np.array(picture(index, "RGBA")))
        assert torch.equal(frame.image[..., 3], expected[..., 3])
        visible = expected[..., 3] == 255
        error = (frame.image.float() - expected.float())[visible].abs()
        assert error.mean() < 6


@pytest.mark.parametrize(("suffix", "limit"), [("gif", 6), ("webp", 6), ("apng", 0)])
def test_pictures_come_out_as_they_went_in(tmp_path, suffix, limit):
    source = folder_of(tmp_path / "in", 3)
    frames = frames_of(copy(source, tmp_path / f"out.{suffix}"))
    assert len(frames) == 3
    for index, frame in enumerate(frames):
        expected = torch.from_numpy(np.array(picture(index)))
        assert frame.image.shape == expected.shape
        assert (frame.image.float() - expected.float()).abs().mean() <= limit


def test_opaque_animations_give_three_channels_even_if_stored_with_transparency(tmp_path):
    first, second = picture(0), picture(1)
    first.save(tmp_path / "in.gif", save_all=True, append_images=[second], duration=100)
    with open_reader(tmp_path / "in.gif") as reader:
        assert not reader.info.has_alpha
        assert [frame.image.shape[-1] for frame in reader] == [3, 3]


def test_too_short_gif_frames_last_as_long_as_browsers_show_them(tmp_path):
    assert [frame.duration for frame in frames_of(animation(tmp_path / "in.gif", [10, 0, 20]))] == [
        Fraction(1, 10), Fraction(1, 10), Fraction(1, 50)
    ]  # fmt: skip


def test_a_gif_beyond_50_frames_a_second_is_refused_up_front(tmp_path):
    with open_reader(folder_of(tmp_path / "in")) as reader:
        with pytest.raises(FileError, match=r"\.webp or \.mp4"):
            create_writer(tmp_path / "out.gif", reader, Fraction(60))
        create_writer(tmp_path / "out.gif", reader, Fraction(50)).discard()


@pytest.mark.parametrize(("suffix", "shortest"), [("gif", 20), ("webp", 1), ("apng", 1)])
def test_of_frames_too_close_to_be_shown_the_last_is(tmp_path, caplog, suffix, shortest):
    """The run goes on, and the clip keeps its length."""
    with (
        open_reader(folder_of(tmp_path / "in")) as reader,
        create_writer(tmp_path / f"out.{suffix}", reader, Fraction(20)) as writer,
    ):
        for value, time in (10, 0), (20, 100), (30, 100.2), (40, 100.4), (50, 200):
            image = torch.full((16, 24, 3), value, dtype=torch.uint8)
            writer.write(image, Fraction(time) / 1000, Fraction(1, 1000000))
    frames = frames_of(tmp_path / f"out.{suffix}")
    assert [round(float(frame.image.float().mean()), -1) for frame in frames] == [10, 40, 50]
    assert delays(tmp_path / f"out.{suffix}") == [100, 100, shortest]
    assert f"less than {shortest} ms apart: 2 were left out" in caplog.text


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
@pytest.mark.parametrize("seconds", [Fraction(655), 1000, 300, 70000, Fraction(1, 3), "70.001"])
def test_long_frames_last_as_long_as_they_should(tmp_path, suffix, seconds):
    """Also where the duration exceeds the numbers of the format."""
    seconds = Fraction(seconds)
    copy(folder_of(tmp_path / "in"), tmp_path / f"out.{suffix}", period=seconds)
    total = sum(frame.duration for frame in frames_of(tmp_path / f"out.{suffix}"))
    assert abs(total - 3 * seconds) <= Fraction(1, 100) + 3 * seconds**2 / 65535**2
    if seconds <= 600:
        assert len(frames_of(tmp_path / f"out.{suffix}")) == 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_a_frame_that_is_held_keeps_its_time(tmp_path, suffix):
    path = animation(tmp_path / f"in.{suffix}", [100, 100, 3000])
    with open_reader(path) as reader:
        assert [frame.duration for frame in reader] == [Fraction(1, 10), Fraction(1, 10), 3]
    assert delays(copy(path, tmp_path / f"out.{suffix}")) == [100, 100, 3000]


def test_the_grid_of_an_apng_holds_all_of_its_times(tmp_path):
    with open_reader(animation(tmp_path / "in.apng", [100, 40, 250])) as reader:
        assert reader.info.time_base == Fraction(1, 100)


def test_an_apngs_picture_for_old_viewers_is_no_frame(tmp_path):
    first, *rest = (picture(index) for index in range(3))
    first.save(
        tmp_path / "in.png", save_all=True, append_images=rest, duration=100, default_image=True
    )
    frames = frames_of(tmp_path / "in.png")
    assert len(frames) == 2
    assert torch.equal(frames[0].image, torch.from_numpy(np.array(picture(1))))


def test_a_still_picture_is_a_clip_of_one_frame(tmp_path):
    picture(0).save(tmp_path / "1.png")
    (frame,) = frames_of(tmp_path / "1.png")
    assert frame.time == 0


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_a_damaged_animation_is_refused_at_the_start(tmp_path, suffix):
    path = animation(tmp_path / f"in.{suffix}", [100] * 6)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(FileError, match=f"in.{suffix}"):
        open_reader(path)
    path.write_bytes(b"no picture")
    with pytest.raises(FileError, match=f"in.{suffix}"):
        open_reader(path)


@pytest.mark.parametrize("damage", ["a hole", "an end"])
def test_frames_that_a_damaged_gif_lost_are_said(tmp_path, caplog, damage):
    """Pillow ignores everything after such a place."""
    path = animation(tmp_path / "in.gif", [100] * 6)
    with open_reader(path) as reader:
        assert not reader.damage
    whole = path.read_bytes()
    third = [match.start() for match in re.finditer(b"!\xf9\x04", whole)][2]
    path.write_bytes(whole[:third] + (b"\x99" * 20 + b";" if damage == "a hole" else b""))
    with open_reader(path) as reader:
        assert len(list(reader)) == 2
        assert reader.damage == caplog.messages
    assert "in.gif is damaged or cut short after 0.20 s; 2 frames" in caplog.text


def test_written_animations_are_well_formed(tmp_path):
    """Checks sizes and counts that lenient readers ignore."""
    source = folder_of(tmp_path / "in", 3)
    webp = copy(source, tmp_path / "out.webp").read_bytes()
    assert struct.unpack_from("<I", webp, 4)[0] == len(webp) - 8
    at, kinds = 12, []
    while at < len(webp):
        kind, length = struct.unpack_from("<4sI", webp, at)
        kinds.append(kind)
        at += 8 + length + length % 2
    assert at == len(webp)
    assert kinds == [b"VP8X", b"ANIM", b"ANMF", b"ANMF", b"ANMF"]

    apng = copy(source, tmp_path / "out.apng").read_bytes()
    at, numbers, kinds = 8, [], []
    while at < len(apng):
        length, kind = struct.unpack_from(">I4s", apng, at)
        kinds.append(kind)
        if kind in (b"fcTL", b"fdAT"):
            numbers.append(struct.unpack_from(">I", apng, at + 8)[0])
        if kind == b"acTL":
            assert struct.unpack_from(">I", apng, at + 8)[0] == 3
        at += 12 + length
    assert numbers == list(range(len(numbers)))
    grouped = [kind for kind, _ in itertools.groupby(kinds)]
    assert grouped == [
        b"IHDR", b"acTL", b"fcTL", b"IDAT", b"fcTL", b"fdAT", b"fcTL", b"fdAT", b"IEND"
    ]  # fmt: skip
    gif = copy(source, tmp_path / "out.gif").read_bytes()
    assert gif[:6] == b"GIF89a"
    assert gif[-1:] == b";"


def test_a_codec_for_an_image_output_is_refused(tmp_path):
    with open_reader(folder_of(tmp_path / "in")) as reader:
        for name in "out.gif", "in":
            with pytest.raises(FileError, match="video only"):
                create_writer(tmp_path / name, reader, Fraction(24), Encoding(codec="libx264"))


# Through a network.


@pytest.fixture(scope="module")
def network():
    network = IFNet_v4(Parameters((8, 8, 8, 8))).eval()
    network.load_state_dict(seeded_state(network))
    return network


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng", ".mp4", ""])
@pytest.mark.parametrize("seconds", [300, 1000])
def test_images_may_be_shown_for_minutes(network, tmp_path, suffix, seconds):
    source, target = folder_of(tmp_path / "in"), tmp_path / f"out{suffix}"
    summary = interpolate_file(network, source, target, frame_rate=Fraction(1, seconds))
    assert summary.shown == 5
    if suffix in (".gif", ".webp", ".apng"):
        assert sum(delays(target)) == 2500 * seconds
    elif suffix:
        with av.open(str(target)) as container:
            times = [frame.time for frame in container.decode(video=0)]
        assert times == [index * seconds / 2 for index in range(5)]
    else:
        assert len(list(target.iterdir())) == 5


def test_no_frame_is_made_from_one_sequence_to_the_next(network, tmp_path):
    (tmp_path / "in").mkdir()
    names = "a_9", "a_10", "b_1", "b_2"
    for index, name in enumerate(names):
        picture(4 * index).save(tmp_path / "in" / f"{name}.png")
    interpolate_file(network, tmp_path / "in", tmp_path / "out", options=Options(cuts="ignore"))
    images = [frame.image for frame in frames_of(tmp_path / "out")]
    originals = [frame.image for frame in frames_of(tmp_path / "in")]
    assert all(map(torch.equal, images[::2], originals))
    assert torch.equal(images[3], originals[1]) or torch.equal(images[3], originals[2])
    assert not torch.equal(images[1], originals[0])


def test_16_bit_originals_are_among_the_frames_bit_for_bit(network, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(3):
        (tmp_path / "in" / f"{index}.png").write_bytes(png16(deep_pixels(3, index)))
    interpolate_file(network, tmp_path / "in", tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 5
    for index, file in enumerate(files[::2]):
        assert np.array_equal(decode_by_ffmpeg(file), deep_pixels(3, index))
    assert decode_by_ffmpeg(files[1]).dtype == np.uint16


@pytest.mark.parametrize("target", ["out.gif", "out.apng", "out"])
def test_sound_and_hdr_that_pictures_can_not_hold_are_said(tmp_path, caplog, target):
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", 48000)
        video.width, video.height, video.pix_fmt = 32, 16, "yuv420p10le"
        video.codec_context.color_trc = 16  # PQ
        for index in range(3):
            image = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8))
            image.pts, image.time_base = index, Fraction(1, 25)
            container.mux(video.encode(image.reformat(format="yuv420p10le")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 5760), np.int16), "s16", "mono")
        silence.sample_rate, silence.pts = 48000, 0
        container.mux(sound.encode(silence))
        for stream in video, sound:
            container.mux(stream.encode(None))
    copy(tmp_path / "in.mp4", tmp_path / target)
    assert any("holds pictures alone; left out: aac audio." in text for text in caplog.messages)
    assert any("can't say that its colours are HDR" in text for text in caplog.messages)
    assert ("holds 8 bits" in caplog.text) == (target != "out")
