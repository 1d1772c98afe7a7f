"""Folders of images and animated pictures, in and out."""

import itertools
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from rife.fileio import FileError
from rife.media import create_writer, open_reader

SIZE = 24, 16  # width, height


def picture(index, mode="RGB"):
    """A gradient with a square that moves by two pixels an image; RGBA: a hole in its place."""
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


def copy(source, target, frame_rate=None, **options):
    """Write every frame as it is read."""
    if not target.suffix:
        target.mkdir()
    with (
        open_reader(source) as reader,
        create_writer(target, reader, frame_rate or reader.info.frame_rate, **options) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time, frame.duration)
    return target


def frames_of(path):
    with open_reader(path) as reader:
        return list(reader)


def delays(path):
    """Durations in the file, in ms, read by Pillow."""
    with Image.open(path) as image:
        found = []
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            found.append(image.info["duration"])
    return found


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
    [("1", 3), ("L", 3), ("LA", 4), ("P", 3), ("RGB", 3), ("RGBA", 4), ("I;16", 3)],
)
def test_every_mode_becomes_rgb_or_rgba(tmp_path, mode, channels):
    if mode == "I;16":
        image = Image.fromarray(np.full((16, 24), 200 << 8, np.uint16))
    else:
        image = Image.new("L", SIZE, 200).convert(mode)
    image.save(tmp_path / "1.png")
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


def test_16_bit_images_are_read_as_8_with_a_warning(tmp_path, caplog):
    Image.fromarray(np.full((16, 24), 513, np.uint16)).save(tmp_path / "1.png")
    (frame,) = frames_of(tmp_path)
    assert frame.image.unique().tolist() == [2]
    assert "16-bit" in caplog.text


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image = Image.new("RGB", SIZE)
    image.paste((255, 255, 255), (0, 0, 24, 4))  # the top becomes the right
    image.save(tmp_path / "1.jpg", exif=exif, quality=95)
    with open_reader(tmp_path) as reader:
        (frame,) = reader
    assert (reader.info.width, reader.info.height) == (16, 24)
    assert frame.image.shape == (24, 16, 3)
    assert frame.image[:, 13:].float().mean() > 240
    assert frame.image[:, :8].float().mean() < 10


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


def test_a_damaged_image_is_named(tmp_path):
    folder_of(tmp_path / "in")
    whole = (tmp_path / "in" / "frame_1.png").read_bytes()
    (tmp_path / "in" / "frame_1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"frame_1\.png"):
        frames_of(tmp_path / "in")
    (tmp_path / "in" / "frame_1.png").write_bytes(b"not an image")
    with pytest.raises(FileError, match=r"frame_1\.png"):
        open_reader(tmp_path / "in")


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
    found = delays(tmp_path / f"out.{suffix}")
    assert len(found) == 100
    assert sum(found) == pytest.approx(float(100000 / rate), abs=5 if suffix == "gif" else 0.5)
    assert max(found) - min(found) <= (10 if suffix == "gif" else 1) + 1e-6


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


def test_a_single_gif_frame_that_is_too_short_is_refused(tmp_path):
    with open_reader(folder_of(tmp_path / "in")) as reader:
        writer = create_writer(tmp_path / "out.gif", reader, Fraction(20))
        image = torch.zeros(16, 24, 3)
        writer.write(image, Fraction(0))
        with pytest.raises(FileError, match="50 frames per second"):
            writer.write(image, Fraction(1, 100))
        writer.discard()


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


def test_written_animations_are_well_formed(tmp_path):
    """Sizes and counts that lenient readers don't look at."""
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
                create_writer(tmp_path / name, reader, Fraction(24), codec="libx264")
