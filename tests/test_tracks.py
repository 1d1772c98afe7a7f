"""Sound, subtitles, timecodes and tags go along with the picture."""

from fractions import Fraction

import av
import pytest

from rife.media import Encoding, create_writer, open_reader

from .support.clips import beep_times, read_frames, read_packets, recode, write_clip


def test_real_sound_is_copied_bit_for_bit_and_in_time(clips, tmp_path):
    source = clips("bigbuckbunny")
    with (
        open_reader(source) as reader,
        create_writer(tmp_path / "out.mp4", reader, Fraction(5), Encoding(crf=51)) as writer,
    ):
        for index, frame in enumerate(reader):
            if index % 5 == 0:
                writer.write(frame.image, frame.time)
    assert read_packets(tmp_path / "out.mp4", "audio") == read_packets(source, "audio")


@pytest.mark.parametrize(
    ("source", "codec", "target", "expected"),
    [
        ("mp4", "aac", "mp4", "aac"),
        ("mp4", "aac", "mkv", "aac"),
        ("mp4", "aac", "mov", "aac"),
        ("mp4", "aac", "webm", "opus"),
        ("mkv", "libopus", "webm", "opus"),
        ("mkv", "libopus", "mp4", "opus"),
        ("mkv", "flac", "mp4", "flac"),
        ("mkv", "pcm_s16le", "mov", "pcm_s16le"),
        ("mkv", "pcm_s16le", "mp4", "pcm_s16le"),
        ("mkv", "libopus", "mov", "aac"),
        ("mkv", "libmp3lame", "mp4", "mp3float"),
    ],
)
def test_sound_stays_in_time_copied_or_encoded_anew(tmp_path, source, codec, target, expected):
    path = write_clip(tmp_path / f"in.{source}", count=25, audio=codec)
    out = recode(path, tmp_path / f"out.{target}")
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.name == expected
    before, after = beep_times(path), beep_times(out)
    assert len(before) == 5
    assert after == pytest.approx(before, abs=0.005)


@pytest.mark.parametrize("late", ["audio", "video"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_late_start_of_sound_or_picture_is_kept(tmp_path, late, suffix):
    start = Fraction(2, 5)
    path = write_clip(tmp_path / "in.mkv", count=25, audio="aac", **{f"{late}_start": start})
    out = recode(path, tmp_path / f"out.{suffix}")
    before, after = beep_times(path), beep_times(out)
    assert before[0] == pytest.approx(start if late == "audio" else -start, abs=0.03)
    assert after == pytest.approx(before, abs=0.005)


def test_a_clock_that_starts_late_is_set_to_zero(tmp_path):
    late = Fraction(10)
    source = write_clip(
        tmp_path / "in.ts", audio="aac", count=25, audio_start=late, video_start=late
    )  # fmt: skip
    with av.open(str(source)) as container:
        assert container.start_time > 9_000_000
    assert read_frames(source)[0].time == 0
    with av.open(str(recode(source, tmp_path / "out.mp4"))) as container:
        assert container.start_time < 100_000
        assert container.duration == pytest.approx(1_000_000, abs=60_000)


def test_a_start_between_two_steps_of_the_clock_moves_all_frames_alike(tmp_path):
    source = write_clip(
        tmp_path / "in.mkv", audio="aac", count=10, video_start=Fraction(1, 50)
    )  # fmt: skip
    target = recode(source, tmp_path / "out.mp4", time_base=Fraction(1, 25))
    assert [frame.time for frame in read_frames(target)] == [
        Fraction(index, 25) for index in range(10)
    ]


def test_a_timecode_is_kept(tmp_path):
    plain = write_clip(tmp_path / "plain.mp4")
    with open_reader(plain) as reader:
        reader.stream_metadata["timecode"] = "01:00:00:00"
        with create_writer(tmp_path / "in.mov", reader, Fraction(25)) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    with av.open(str(recode(tmp_path / "in.mov", tmp_path / "out.mov"))) as container:
        assert [stream.type for stream in container.streams] == ["video", "data"]
        assert container.streams[1].metadata["timecode"] == "01:00:00:00"


def test_sound_can_be_left_out(tmp_path):
    source = write_clip(tmp_path / "in.mp4", audio="aac")
    with av.open(str(recode(source, tmp_path / "out.mp4", sound=False))) as container:
        assert not container.streams.audio


def test_sound_that_is_left_or_changed_is_said(tmp_path, caplog):
    source = write_clip(tmp_path / "in.mp4", audio="aac")
    recode(source, tmp_path / "out.webm")
    assert "aac audio" in caplog.text


def test_subtitles_are_kept_or_their_loss_is_said(tmp_path, caplog):
    subtitles = tmp_path / "in.srt"
    subtitles.write_text("1\n00:00:00,100 --> 00:00:00,300\nHello\n\n")
    plain = write_clip(tmp_path / "plain.mkv")
    with (
        av.open(str(plain)) as video, av.open(str(subtitles)) as text,
        av.open(str(tmp_path / "in.mkv"), "w") as out,
    ):  # fmt: skip
        streams = {
            0: out.add_stream_from_template(video.streams.video[0], opaque=True),
            1: out.add_stream_from_template(text.streams.subtitles[0]),
        }
        streams[1].metadata["language"] = "fin"
        for index, container in enumerate([video, text]):
            for packet in container.demux():
                if packet.size:
                    packet.stream = streams[index]
                    out.mux(packet)
    kept = recode(tmp_path / "in.mkv", tmp_path / "out.mkv")
    with av.open(str(kept)) as container:
        assert container.streams.subtitles[0].metadata["language"] == "fin"
    assert [text for _, text in read_packets(kept, "subtitles")] == [b"Hello"]
    recode(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert "Left out, as it can't be kept: srt subtitle" in caplog.text


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_titles_and_workflows_are_kept(tmp_path, suffix):
    tags = {"title": "Bikes", "prompt": '{"3": {"class_type": "KSampler"}}'}
    source = tmp_path / "in.mkv"
    write_clip(source, metadata=tags)
    with av.open(str(recode(source, tmp_path / f"out.{suffix}"))) as container:
        tags_written = {key.lower(): value for key, value in container.metadata.items()}
    assert tags_written["title"] == "Bikes"
    assert tags_written["prompt"] == tags["prompt"]


def test_the_language_of_sound_is_kept(tmp_path):
    source = write_clip(tmp_path / "in.mp4", audio="aac")
    with open_reader(source) as reader:
        reader.other_streams[0].metadata["language"] = "swe"
        with create_writer(tmp_path / "out.mp4", reader, Fraction(25)) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].metadata["language"] == "swe"
