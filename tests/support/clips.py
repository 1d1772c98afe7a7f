"""Writes video files for tests, and reads what is in a file."""

from fractions import Fraction

import av
import numpy as np

from rife.media import Encoding, create_writer, open_reader

WIDTH, HEIGHT = 64, 48
TRANSFERS = {1: 1, 6: 6, 9: 16}  # by matrix; 16 is HDR's PQ


def pattern(index, width=WIDTH, height=HEIGHT):
    """(H, W, 3) uint8: smooth, coloured, asymmetric and moving."""
    y, x = np.mgrid[:height, :width]
    red = 40 + 170 * x / width
    green = 60 + 120 * y / height
    blue = 128 + 60 * np.sin((x + 2 * index) / 9)
    return np.stack([red, green, blue], -1).round().astype(np.uint8)


def convert(frame, pixel_format, options):
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
    )
    flags = "flags=bicubic+accurate_rnd+full_chroma_inp:out_h_chr_pos=0"
    scale, format = graph.add("scale", f"{flags}:{options}"), graph.add("format", pixel_format)
    graph.link_nodes(source, scale, format, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def write_clip(
    path, *, times=None, count=10, rate=25, codec="libx264", pixel_format="yuv420p",
    size=(WIDTH, HEIGHT), matrix=None, color_range=1, picture=pattern, options=None, audio=None,
    audio_start=Fraction(0), video_start=Fraction(0), aspect=None, metadata=(), time_base=None,
):  # fmt: skip
    """Writes a video file with plain PyAV. times: in seconds. audio: the codec of a 440 Hz tone."""
    rate = Fraction(rate)
    times = [index / rate for index in range(count)] if times is None else times
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "4"})
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        context.time_base = time_base or Fraction(1, 12800)
        if aspect:
            context.sample_aspect_ratio = aspect
        if matrix:
            context.colorspace = context.color_primaries = matrix
            context.color_trc = TRANSFERS[matrix]
            context.color_range = color_range
        sound = container.add_stream(audio, rate=48000) if audio else None
        if sound:
            sound.codec_context.layout = "mono"
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            name = {1: "bt709", 9: "bt2020"}.get(matrix, "bt601")
            full = "full" if color_range == 2 else "limited"
            frame = convert(frame, pixel_format, f"out_color_matrix={name}:out_range={full}")
            frame.pts = round((video_start + time) / context.time_base)
            frame.time_base = context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            for block in range(int((times[-1] + 1 / rate) * 48000) // 960):
                wave = np.sin(2 * np.pi * 440 * (np.arange(960) + 960 * block) / 48000)
                wave = np.where(block % 10 == 0, wave, 0 * wave)  # beeps, five a second
                tone = (wave * 20000).astype(np.int16)[None]
                chunk = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
                chunk.sample_rate, chunk.time_base = 48000, Fraction(1, 48000)
                chunk.pts = round(audio_start * 48000) + 960 * block
                container.mux(sound.encode(chunk))
            container.mux(sound.encode(None))
    return path


def multiply_rate(source, target, multiplier=2, *, time_base=None, sound=True, **encoding):
    """Writes every frame, and copies of it in between: what the command line does, without a
    network."""
    with (
        open_reader(source) as reader,
        create_writer(
            target, reader, reader.info.frame_rate * multiplier, Encoding(**encoding),
            time_base=time_base, sound=sound,
        ) as writer,
    ):  # fmt: skip
        previous = None
        for frame in reader:
            for step in range(1, multiplier) if previous else ():
                time = previous.time + (frame.time - previous.time) * Fraction(step, multiplier)
                writer.write(previous.image, time)
            writer.write(frame.image, frame.time)
            previous = frame
    return target


def recode(source, target, **options):
    return multiply_rate(source, target, multiplier=1, **options)


def read_frames(path):
    with open_reader(path) as reader:
        return list(reader)


def decode_frames(path):
    """Returns the pictures of a video, as FFmpeg decodes them."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def read_packets(path, kind):
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def beep_times(path):
    """The times in seconds, from the first video frame on, at which the sound sets in."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        first = float(frame.pts * frame.time_base)
    with av.open(str(path)) as container:
        samples = [
            (frame.pts * frame.time_base, np.abs(frame.to_ndarray()).max(0) / peak)
            for frame in container.decode(audio=0)
            for peak in [32768 if frame.format.name.startswith("s16") else 1]
        ]
    result, quiet_since = [], -1.0
    for start, block in samples:
        for offset in np.flatnonzero(block > 0.2):
            time = float(start) - first + offset / 48000
            if time - quiet_since > 0.05:
                result.append(time)
            quiet_since = time
    return result
