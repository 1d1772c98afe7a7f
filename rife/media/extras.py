"""What a video has beside its picture, and how a copy of it can hold that: sound, subtitles,
covers, fonts, chapters, tags.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

import av

from .reader import VideoReader
from .sound_track import SoundTrack, choose_layout
from .streams import AV_ERRORS, describe, disposition, is_cover, kept_tags
from .timecode import convert_timecode
from .tracks import CopiedTrack, Track

logger = logging.getLogger(__name__)

# For a trial: the packets of a file that are searched for samples, and the samples of a stream.
_MOST_SEARCHED, _MOST_SAMPLES = 500, 8
# A cover's codec -> the suffix of its file, and its MIME type.
_COVER_FILES = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png"),
                "bmp": ("bmp", "image/bmp"), "gif": ("gif", "image/gif")}  # fmt: skip
# MP4 holds a cover beside these tags, or any tags (use_metadata_tags) and no cover.
_COVER_TAGS = {
    "album", "album_artist", "artist", "comment", "compilation", "composer", "copyright",
    "creation_time", "date", "description", "disc", "episode_id", "genre", "grouping", "keywords",
    "lyrics", "network", "season_number", "show", "synopsis", "title", "track",
}  # fmt: skip
# FFmpeg's muxer -> the codec to which it can convert subtitles of other containers.
_SUBTITLE_CODECS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "srt", "webm": "webvtt"}


@dataclass(frozen=True)
class Extra:
    """Something of the input that the copy is to have beside the picture.

    Attributes:
        name: For messages.
        add: Function of a container and its video stream (None in a trial without one) that puts
            the extra into the container and returns its track, if it has one.
        stream: Index of the input's stream whose items are written while frames are; None: all is
            written at the beginning.
        is_decoded: Whether the items are decoded frames of sound and not packets.
        samples: The stream's first items, for a trial; all items if `stream` is None.
        options: What the container needs for it.
    """

    name: str
    add: Callable[[av.container.OutputContainer, av.VideoStream | None], Track | None]
    stream: int | None = None
    is_decoded: bool = False
    samples: Sequence[av.Packet | av.AudioFrame] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def fresh_samples(self) -> list[av.Packet | av.AudioFrame]:
        """Returns the samples, to be written once: writing changes packets."""
        return [
            _copy_packet(item) if isinstance(item, av.Packet) else item for item in self.samples
        ]


def stream_extras(
    source: VideoReader, suffix: str, muxer: str, encoder: str, has_sound: bool
) -> tuple[list[Extra], list[str]]:
    """Chooses what of the streams of `source` a container can hold.

    Args:
        source: The input.
        suffix: The output's, for messages.
        muxer: FFmpeg's name of the output's.
        encoder: For sound that can't be copied.
        has_sound: Whether sound and subtitles are wanted.

    Returns:
        The extras, in the order of the input's streams, and the names of what is lost.
    """
    extras, lost = [], []
    streams = [*(source.other_streams if has_sound else ()), *source.unread_streams]
    samples = _read_samples(source, [s for s in streams if s.codec_context is not None])
    for stream in sorted(streams, key=lambda stream: stream.index):
        if _is_timecode(stream):
            continue  # it is kept as a tag of the video
        packets, frames = samples.get(stream.index, ((), ()))
        candidates = _candidates(stream, packets, frames, muxer, encoder, source.metadata)
        extra = next((extra for extra in candidates if _can_hold(muxer, extra)), None)
        if extra is None:
            lost.append(describe(stream))
            continue
        extras.append(extra)
        if extra.is_decoded:
            logger.warning(
                "%s files can't hold %s: it is encoded anew%s.",
                suffix, extra.name, _describe_mix(encoder, stream.codec_context.layout),
            )  # fmt: skip
    return extras, lost


def chapters_extra(source: VideoReader, show_at: Callable[[Fraction], Fraction]) -> list[Extra]:
    """Returns the chapters, if there are any.

    Args:
        source: The input.
        show_at: When the copy shows what the input shows at a time, both in seconds.
    """
    chapters = [
        {
            "id": number,
            "start": round(show_at(start) * 1000),
            "end": round(show_at(end) * 1000),
            "time_base": Fraction(1, 1000),
            "metadata": tags,
        }
        for number, (start, end, tags) in enumerate(source.chapters, 1)
    ]
    if not chapters:
        return []
    return [Extra("chapters", lambda container, _: container.set_chapters(chapters))]


def tag_extras(source: VideoReader, rate: Fraction) -> list[Extra]:
    """Returns titles and other tags; and the timecode as it is at `rate` frames a second."""

    def add_tags(container: av.container.OutputContainer, video: av.VideoStream) -> None:
        container.metadata.update(_without_timecode(source.metadata))
        video.metadata.update(_without_timecode(source.stream_metadata))

    extras = [Extra("tags", add_tags)]
    if source.timecode:
        text = convert_timecode(
            source.timecode, source.info.frame_rate, rate, source.frames_before_part
        )
        if text:
            extras.append(
                Extra("timecode", lambda _, video: video.metadata.update({"timecode": text}))
            )
        else:
            logger.warning(
                "Left out: the timecode %s, which has no counterpart at %.5g frames a second.",
                source.timecode,
                rate,
            )
    return extras


def advise(lost: Sequence[str], muxer: str) -> str:
    """Returns how what was left out can be added to the output with FFmpeg; empty if it can't."""
    advice = []
    if any("subtitle" in name for name in lost):
        advice.append(f"-map 1:s -c:s {_SUBTITLE_CODECS.get(muxer, 'copy')}")
    if any("audio" in name for name in lost):
        advice.append("-map 1:a")
    if not advice:
        return ""
    return f" Add it with ffmpeg -i OUT -i IN -map 0 -c copy {' '.join(advice)} NEW."


def _candidates(
    stream: av.stream.Stream,
    packets: Sequence[av.Packet],
    frames: Sequence[av.AudioFrame],
    muxer: str,
    encoder: str,
    tags: Mapping[str, str],
) -> list[Extra]:
    """Returns the forms in which a container may hold a stream, best first.

    Args:
        stream: The input's.
        packets: Its first ones.
        frames: What they decode to, if they are sound.
        muxer: The output's.
        encoder: For sound that can't be copied.
        tags: The input's.
    """
    if is_cover(stream):
        return _cover_candidates(stream, packets, muxer, tags)
    if stream.type == "attachment":
        return _attachment_candidates(stream.name, stream.mimetype, stream, muxer)
    if stream.type not in ("audio", "subtitle"):
        return []
    name = describe(stream)
    candidates = [Extra(name, partial(_add_copy, stream), stream.index, False, packets)]
    if stream.type == "audio":
        add = partial(_add_encoded, stream, encoder)
        candidates.append(Extra(name, add, stream.index, True, frames))
    return candidates


def _cover_candidates(
    stream: av.VideoStream, packets: Sequence[av.Packet], muxer: str, tags: Mapping[str, str]
) -> list[Extra]:
    suffix, mimetype = _COVER_FILES.get(stream.codec_context.name, (None, None))
    if not packets or not suffix:
        return []
    if muxer == "matroska":
        return _attachment_candidates(f"cover.{suffix}", mimetype, bytes(packets[0]), muxer)
    if muxer == "mp4" and not {key.lower() for key in tags} - _COVER_TAGS:
        add, options = partial(_add_copy, stream), {"movflags": "+faststart"}
        return [Extra("cover picture", add, None, False, packets[:1], options)]
    return []


def _attachment_candidates(
    name: str, mimetype: str | None, data: bytes | av.stream.Stream, muxer: str
) -> list[Extra]:
    if muxer != "matroska":
        return []

    def add(container: av.container.OutputContainer, _: av.VideoStream | None) -> None:
        content = data if isinstance(data, bytes) else data.data
        container.add_attachment(name, mimetype or "application/octet-stream", content)

    return [Extra(f"attachment {name}", add)]


def _add_copy(
    stream: av.stream.Stream, container: av.container.OutputContainer, _: av.VideoStream | None
) -> Track:
    return _with_tags(CopiedTrack(container, stream), stream)


def _add_encoded(
    stream: av.AudioStream,
    encoder: str,
    container: av.container.OutputContainer,
    _: av.VideoStream | None,
) -> Track:
    return _with_tags(SoundTrack(container, encoder, stream), stream)


def _with_tags(track: CopiedTrack | SoundTrack, stream: av.stream.Stream) -> Track:
    track.stream.metadata.update(kept_tags(stream))
    track.stream.disposition = disposition(stream)
    return track


def _can_hold(muxer: str, extra: Extra) -> bool:
    """Returns whether a container takes an extra. Tried on a file in memory, with all that a file
    has: some containers refuse a stream only with the header, with a packet or at the end."""
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            track = extra.add(trial, None)
            if track is None:
                return True  # such files need a picture; it is tried with that
            trial.start_encoding()
            for item in extra.fresh_samples():
                track.write(item)
            track.finish()
    except (OSError, AttributeError, *AV_ERRORS):
        return False
    return True


def _read_samples(
    source: VideoReader, streams: Sequence[av.stream.Stream]
) -> dict[int, tuple[list[av.Packet], list[av.AudioFrame]]]:
    """Returns by each stream's index its first packets and, for sound, what they decode to."""
    samples = {stream.index: ([], []) for stream in streams}
    if not samples:
        return samples
    with source.reopen() as container, contextlib.suppress(OSError, *AV_ERRORS):
        wanted = [container.streams[index] for index in samples]
        for count, packet in enumerate(container.demux(container.streams.video[0], *wanted)):
            packets, frames = samples.get(packet.stream.index, ([], []))
            if packet.size and not frames and len(packets) < _MOST_SAMPLES:
                packets.append(packet)
                if packet.stream.type == "audio":
                    with contextlib.suppress(OSError, *AV_ERRORS):
                        frames += packet.decode()
            if count == _MOST_SEARCHED or all(
                frames if container.streams[index].type == "audio" else packets
                for index, (packets, frames) in samples.items()
            ):
                break
    return samples


def _copy_packet(packet: av.Packet) -> av.Packet:
    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
    return copy


def _describe_mix(encoder: str, layout: av.AudioLayout) -> str:
    """Returns how the layout changes, if it does."""
    _, new = choose_layout(encoder, layout)
    if av.AudioLayout(new).nb_channels == layout.nb_channels:
        return ""
    return f", and its {layout.nb_channels} channels become {new}"


def _is_timecode(stream: av.stream.Stream) -> bool:
    """Returns whether a stream holds no more than a timecode, which it has as a tag, too."""
    is_more = stream.type in ("audio", "subtitle", "attachment") or is_cover(stream)
    return not is_more and "timecode" in stream.metadata


def _without_timecode(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key.lower() != "timecode"}
