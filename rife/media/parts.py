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
from .streams import AV_ERRORS, describe, disposition, kept_tags
from .timecode import convert_timecode
from .tracks import CopiedTrack, SoundTrack, Track, choose_layout

logger = logging.getLogger(__name__)

_COVER = av.stream.Disposition.attached_pic.value
_SAMPLED = 500  # packets at a file's beginning that are looked at
_PICTURES = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png"),
             "bmp": ("bmp", "image/bmp"), "gif": ("gif", "image/gif")}  # fmt: skip
# MP4 holds a cover beside these tags, or any tags (use_metadata_tags) and no cover.
_COVER_TAGS = {
    "album", "album_artist", "artist", "comment", "compilation", "composer", "copyright",
    "creation_time", "date", "description", "disc", "episode_id", "genre", "grouping", "keywords",
    "lyrics", "network", "season_number", "show", "synopsis", "title", "track",
}  # fmt: skip
# What FFmpeg makes of one container's subtitles in another.
_SUBTITLES = {"mp4": "mov_text", "mov": "mov_text", "matroska": "srt", "webm": "webvtt"}


@dataclass(frozen=True)
class Part:
    """Something of the input that the copy is to have beside the picture.

    name: for people.
    add: puts it into a container whose picture has been added, given that as well; returns the
        track, if it is one.
    stream: index of the input's stream, if its items are to be written.
    is_decoded: whether the items are decoded frames.
    samples: first items of the stream, to try with; all of them if `stream` is None.
    options: what the container needs for it.
    """

    name: str
    add: Callable[[av.container.OutputContainer, av.VideoStream], Track | None]
    stream: int | None = None
    is_decoded: bool = False
    samples: Sequence[av.Packet | av.AudioFrame] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def fresh_samples(self) -> list[av.Packet | av.AudioFrame]:
        """The samples, to be written once: writing changes them."""
        return [_copied(item) if isinstance(item, av.Packet) else item for item in self.samples]


def collect_parts(
    source: VideoReader, suffix: str, format: str, encoder: str, has_sound: bool
) -> tuple[list[Part], list[str]]:
    """What of the streams of `source` a container can hold.

    Args:
        suffix: The output's, for messages.
        format: FFmpeg's name of its container.
        encoder: For sound that can't be copied.
        has_sound: Whether sound and subtitles are wanted.

    Returns:
        The parts, in the order of the input's streams, and the names of what is lost.
    """
    parts, lost = [], []
    streams = [*(source.other_streams if has_sound else ()), *source.unread_streams]
    samples = _sample(source, [s for s in streams if s.codec_context is not None])
    for stream in sorted(streams, key=lambda stream: stream.index):
        packets, frames = samples.get(stream.index, ((), ()))
        if disposition(stream) & _COVER:
            ways = _cover_parts(stream, packets, format, source.metadata)
        elif stream.type == "attachment":
            ways = _attachment_parts(stream.name, stream.mimetype, stream, format)
        elif stream.type in ("audio", "subtitle"):
            ways = [Part(describe(stream), partial(_copy, stream), stream.index, False, packets)]
            if stream.type == "audio":
                add = partial(_encode, stream, encoder)
                ways.append(Part(describe(stream), add, stream.index, True, frames))
        elif "timecode" in stream.metadata:
            continue  # as a tag of the picture
        else:
            ways = []
        part = next((part for part in ways if _works(part, format)), None)
        if part is None:
            lost.append(describe(stream))
            continue
        parts.append(part)
        if part.is_decoded:
            logger.warning(
                "%s files can't hold %s: it is encoded anew%s.",
                suffix, part.name, _describe_mix(encoder, stream.codec_context.layout),
            )  # fmt: skip
    return parts, lost


def advise(lost: Sequence[str], format: str) -> str:
    """How what was left out can be added to the output with FFmpeg; empty if it can't."""
    advice = []
    if any("subtitle" in name for name in lost):
        advice.append(f"-map 1:s -c:s {_SUBTITLES.get(format, 'copy')}")
    if any("audio" in name for name in lost):
        advice.append("-map 1:a")
    if not advice:
        return ""
    return f" Add it with ffmpeg -i OUT -i IN -map 0 -c copy {' '.join(advice)} NEW."


def chapters_part(source: VideoReader, show_at: Callable[[Fraction], Fraction]) -> list[Part]:
    """The chapters, if there are any.

    Args:
        show_at: When the copy shows what the input shows at a time, both in seconds.
    """
    chapters = []
    for number, (start, end, tags) in enumerate(source.chapters, 1):
        chapters.append(
            {
                "id": number,
                "start": round(show_at(start) * 1000),
                "end": round(show_at(end) * 1000),
                "time_base": Fraction(1, 1000),
                "metadata": tags,
            }
        )
    if not chapters:
        return []
    return [Part("chapters", lambda container, _: container.set_chapters(chapters))]


def tags_parts(source: VideoReader, rate: Fraction) -> list[Part]:
    """Titles and other tags; and the timecode as it is at `rate` frames a second."""

    def add_tags(container: av.container.OutputContainer, video: av.VideoStream) -> None:
        container.metadata.update(_without_timecode(source.metadata))
        video.metadata.update(_without_timecode(source.stream_metadata))

    parts = [Part("tags", add_tags)]
    if source.timecode:
        text = convert_timecode(
            source.timecode, source.info.frame_rate, rate, source.frames_before_part
        )
        if text:
            parts.append(
                Part("timecode", lambda _, video: video.metadata.update({"timecode": text}))
            )
        else:
            logger.warning(
                "Left out: the timecode %s, which has no counterpart at %.5g frames a second.",
                source.timecode,
                rate,
            )
    return parts


def _without_timecode(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key.lower() != "timecode"}


def _copy(stream, container, _) -> Track:
    return _described(CopiedTrack(container, stream), stream)


def _encode(stream, encoder, container, _) -> Track:
    return _described(SoundTrack(container, encoder, stream), stream)


def _described(track: CopiedTrack | SoundTrack, stream: av.stream.Stream) -> Track:
    track.stream.metadata.update(kept_tags(stream))
    track.stream.disposition = disposition(stream)
    return track


def _cover_parts(
    stream: av.VideoStream, packets: Sequence[av.Packet], format: str, tags: Mapping[str, str]
) -> list[Part]:
    suffix, mimetype = _PICTURES.get(stream.codec_context.name, (None, None))
    if not packets or not suffix:
        return []
    if format == "matroska":
        return _attachment_parts(f"cover.{suffix}", mimetype, bytes(packets[0]), format)
    if format == "mp4" and not {key.lower() for key in tags} - _COVER_TAGS:
        add, options = partial(_copy, stream), {"movflags": "+faststart"}
        return [Part("cover picture", add, None, False, packets[:1], options)]
    return []


def _attachment_parts(
    name: str, mimetype: str | None, data: bytes | av.stream.Stream, format: str
) -> list[Part]:
    if format != "matroska":
        return []

    def add(container: av.container.OutputContainer, _: av.VideoStream) -> None:
        content = data if isinstance(data, bytes) else data.data
        container.add_attachment(name, mimetype or "application/octet-stream", content)

    return [Part(f"attachment {name}", add)]


def _describe_mix(encoder: str, layout: av.AudioLayout) -> str:
    """How the layout changes, if it does."""
    _, new = choose_layout(encoder, layout)
    if av.AudioLayout(new).nb_channels == layout.nb_channels:
        return ""
    return f", and its {layout.nb_channels} channels become {new}"


def _sample(
    source: VideoReader, streams: Sequence[av.stream.Stream]
) -> dict[int, tuple[list[av.Packet], list[av.AudioFrame]]]:
    """The first packets of each stream and, for sound, what they decode to."""
    samples = {stream.index: ([], []) for stream in streams}
    if not samples:
        return samples
    with source.reopen() as container, contextlib.suppress(OSError, *AV_ERRORS):
        wanted = [container.streams[index] for index in samples]
        for count, packet in enumerate(container.demux(container.streams.video[0], *wanted)):
            packets, frames = samples.get(packet.stream.index, ([], []))
            if packet.size and not frames and len(packets) < 8:
                packets.append(packet)
                if packet.stream.type == "audio":
                    with contextlib.suppress(OSError, *AV_ERRORS):
                        frames += packet.decode()
            if count == _SAMPLED or all(
                frames if container.streams[index].type == "audio" else packets
                for index, (packets, frames) in samples.items()
            ):
                break
    return samples


def _works(part: Part, format: str) -> bool:
    """Whether a container takes it. Tried on a file in memory, with all that a file has: some
    containers refuse a stream only with the header, with a packet or at the end.
    """
    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            track = part.add(trial, None)
            if track is None:
                return True  # such files need a picture; it is tried with that
            trial.start_encoding()
            for item in part.fresh_samples():
                track.write(item)
            track.finish()
    except (OSError, AttributeError, *AV_ERRORS):
        return False
    return True


def _copied(packet: av.Packet) -> av.Packet:
    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
    return copy
