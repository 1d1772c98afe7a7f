"""Colours are read by their tags and written as they were."""

import av
import numpy as np
import pytest
import torch

from rife.media import Encoding, create_writer, open_reader

from .support.clips import HEIGHT, TRANSFERS, WIDTH, pattern, read_frames, recode, write_clip


def drift(source, target):
    """Largest difference of a colour channel's mean, over frames, in levels of 255."""
    pairs = zip(read_frames(source), read_frames(target), strict=True)
    return max(
        (a.image.float().mean((0, 1)) - b.image.float().mean((0, 1))).abs().max() for a, b in pairs
    )


@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 6, 9], ids=["bt709", "bt601", "bt2020"])
def test_tagged_colours_are_read_right_and_stay_as_they_are(tmp_path, matrix, color_range):
    # FFmpeg 8 makes full-range chroma half a level too low, here and wherever such files are made.
    limit = 0.3 if color_range == 1 else 1.3
    source = write_clip(tmp_path / "in.mp4", matrix=matrix, color_range=color_range, count=3)
    for index, frame in enumerate(read_frames(source)):
        expected = torch.from_numpy(pattern(index)).float()
        assert (frame.image.float() - expected).mean((0, 1)).abs().max() < limit
    target = recode(source, tmp_path / "out.mp4", crf=4)
    assert drift(source, target) < limit
    for path in source, target:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            context = container.streams.video[0].codec_context
            assert frame.colorspace == matrix
            assert frame.color_range == color_range
            assert (context.color_primaries, context.color_trc) == (matrix, TRANSFERS[matrix])


def test_untagged_real_colours_do_not_drift_and_stay_untagged(clips, tmp_path):
    with (
        open_reader(clips("carphone_pristine")) as reader,
        create_writer(
            tmp_path / "out.mp4", reader, reader.info.frame_rate, Encoding(crf=8)
        ) as writer,
    ):
        frames = []
        for frame, _ in zip(reader, range(20), strict=False):
            writer.write(frame.image, frame.time)
            frames.append(frame.image.float())
        assert reader.colors.space == 2
    with open_reader(tmp_path / "out.mp4") as reader:
        assert reader.colors.space == 2
        again = [frame.image.float() for frame in reader]
    for before, after in zip(frames, again, strict=True):
        assert (before.mean((0, 1)) - after.mean((0, 1))).abs().max() < 0.5
        assert (before - after).square().mean().sqrt() < 255 * 10 ** (-38 / 20)


def test_untagged_high_definition_is_taken_as_bt709(tmp_path):
    source = write_clip(tmp_path / "in.mp4", count=1, size=(1280, 720))
    tagged = write_clip(tmp_path / "tagged.mp4", count=1, size=(1280, 720), matrix=1)
    small = write_clip(tmp_path / "small.mp4", count=1)
    for path, matrix in [(source, "bt709"), (tagged, "bt709"), (small, "bt601")]:
        with open_reader(path) as reader:
            assert reader.colors.matrix == matrix


def test_deep_video_is_read_as_float_and_can_be_written_as_deep(tmp_path):
    ramp = np.linspace(16384, 49152, WIDTH).astype(np.uint16)
    deep = np.broadcast_to(ramp[None, :, None], (HEIGHT, WIDTH, 3)).copy()
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p10le"
        frame = av.VideoFrame.from_ndarray(deep, format="rgb48le")
        container.mux(stream.encode(frame.reformat(format="yuv444p10le")))
        container.mux(stream.encode(None))
    # swscale, which made YUV of it, takes 255 * 256 for white.
    expected = torch.from_numpy(deep.astype(np.float32) / 65280)
    target = recode(
        tmp_path / "in.mkv", tmp_path / "out.mkv", codec="ffv1", pixel_format="yuv444p10le"
    )
    for path in tmp_path / "in.mkv", target:
        (frame,) = read_frames(path)
        assert frame.image.dtype == torch.float32
        assert (frame.image - expected).abs().max() < 2 / 1023
        assert len(frame.image[0, :, 0].unique()) > 60  # 8 bits would have 33
