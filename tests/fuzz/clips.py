"""Clips, damaged and lying at random: `python -m tests.fuzz.clips --minutes 10`.

Each is read, and written again by `interpolate_file`, in a process of its own. It may become a clip
or be refused in a line. Nothing else may happen: no other error, no crash, no more than 10 seconds
of work or 1 GB, no temporary file, thread or open file left behind; and what is missing in the
output must have been said. Linux only.
"""

import argparse
import collections
import faulthandler
import gc
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from rife import interpolate_file
from rife.fileio import FileError
from rife.media import open_reader
from rife.networks.ifnet_v4 import IFNet_v4, Parameters

from ..support.processes import open_files

SECONDS = 10
MEGABYTES = 1000
LOST = 3  # frames that may be missing
RATE = 5
TARGETS = (".mp4", ".mkv", ".webm", ".gif")


# Clips


def picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """(H, W, 4) uint8: coloured waves that move; a transparent square."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin((x * (c + 1) + y + 5 * index) / 9) for c in range(3)]
    image = np.stack([*waves, np.full_like(x, 255)], -1).astype(np.uint8)
    image[10:20, 10:20, 3] = 0
    return image


def video(
    codec: str, pixel_format: str = "yuv420p", *, path: Path, count: int = 25,
    audio: str | None = None, subtitles: bool = False, metadata: dict[str, str] | None = None,
    **options: str,
) -> None:  # fmt: skip
    """Writes a clip in one of FFmpeg's containers."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        stream.metadata.update(metadata or {})
        sound = container.add_stream(audio, rate=48000, layout="stereo") if audio else None
        texts = _subtitles() if subtitles else None
        words = texts and container.add_stream_from_template(texts.streams[0])
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgba")
            frame = frame.reformat(format=pixel_format)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            if sound:
                container.mux(sound.encode(_tone(index)))
        for packet in texts.demux() if texts else ():
            if packet.size:
                packet.stream = words
                container.mux(packet)
        for other in [stream, sound] if sound else [stream]:
            container.mux(other.encode(None))


def _tone(index: int) -> av.AudioFrame:
    """The sound that belongs to one frame."""
    samples = 48000 // RATE
    wave = 8000 * np.sin((np.arange(samples) + index * samples) * 2 * np.pi * 440 / 48000)
    stereo = np.repeat(wave, 2).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(stereo, format="s16", layout="stereo")
    frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), index * samples
    return frame


def _subtitles() -> av.container.InputContainer:
    text = b"1\n00:00:00,100 --> 00:00:00,300\nOne\n\n2\n00:00:00,500 --> 00:00:00,700\nTwo\n"
    return av.open(io.BytesIO(text), format="srt")


def animation(kind: str, *, path: Path, count: int = 12) -> None:
    first, *others = (Image.fromarray(picture(index)) for index in range(count))
    first.save(
        path, kind, save_all=True, append_images=others,
        duration=[1000 // RATE] * (count - 1) + [500],
        disposal=2 if kind == "GIF" else 1,
    )  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """A valid file, with its number of frames and its length in seconds."""

    name: str
    suffix: str
    data: bytes
    frames: int
    seconds: float


HDR10 = (
    "log-level=none:hdr10=1:repeat-headers=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    ":master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    ":max-cll=1000,400:keyint=8"
)
H264 = partial(video, "libx264", audio="aac", bf="2", g="8")
MAKERS: dict[tuple[str, str], Callable[..., None]] = {
    ("h264+aac", ".mp4"): H264,
    ("h264+aac", ".mkv"): H264,
    ("h264+aac", ".ts"): H264,
    ("vp9+opus+srt", ".mkv"): partial(video, "libvpx-vp9", audio="libopus", subtitles=True, g="8"),
    ("vp9 with alpha", ".webm"): partial(video, "libvpx-vp9", "yuva420p", g="8"),
    ("prores with timecode", ".mov"): partial(
        video, "prores_ks", "yuva444p10le", count=12, metadata={"timecode": "01:00:00:00"}
    ),
    ("qtrle", ".mov"): partial(video, "qtrle", "argb", count=12),
    ("mpeg4+pcm", ".avi"): partial(video, "mpeg4", audio="pcm_s16le", g="8"),
    ("hevc hdr10", ".mp4"): partial(
        video, "libx265", "yuv420p10le", count=12, **{"x265-params": HDR10}
    ),
    ("", ".gif"): partial(animation, "GIF"),
    ("", ".apng"): partial(animation, "PNG"),
    ("", ".webp"): partial(animation, "WEBP"),
}


def make_clips(folder: Path) -> list[Clip]:
    folder.mkdir()
    clips = []
    for (name, suffix), make in MAKERS.items():
        path = folder / f"whole{suffix}"
        make(path=path)
        clips.append(
            Clip(f"{suffix[1:]} {name}".strip(), suffix, path.read_bytes(), *measure(path))
        )
    return clips


def measure(path: Path) -> tuple[int, float]:
    """The number of frames, and the seconds from the first to the last."""
    count, last = 0, None
    with open_reader(path) as reader:
        for last in reader:  # noqa: B007
            count += 1
    return count, float(last.time)


# Kinds of damage: each changes a file by a random generator

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def flipped(r: random.Random, data: bytearray, _: bytes) -> None:
    for _ in range(r.choice([1, 2, 10, 100])):
        data[_position(r, data)] ^= 1 << r.randrange(8)


def extreme(r: random.Random, data: bytearray, _: bytes) -> None:
    """Overwrites numbers, mostly of headers, with extreme ones."""
    for _ in range(r.choice([1, 1, 2, 5])):
        size = r.choice([1, 2, 4, 4, 8])
        number = r.choice(NUMBERS) & (256**size - 1)
        i = _position(r, data)
        data[i : i + size] = number.to_bytes(size, r.choice(["little", "big"]))


def zeroed(r: random.Random, data: bytearray, _: bytes) -> None:
    i, j = _range(r, data)
    data[i:j] = bytes(j - i)


def removed(r: random.Random, data: bytearray, _: bytes) -> None:
    i, j = _range(r, data)
    del data[i:j]


def repeated(r: random.Random, data: bytearray, _: bytes) -> None:
    i, j = _range(r, data)
    data[i:i] = data[i:j] * r.choice([1, 1, 2, 5])


def shuffled(r: random.Random, data: bytearray, _: bytes) -> None:
    i, j = _range(r, data)
    step = r.choice([1, 16, 188, max(1, (j - i) // 4)])
    pieces = [data[k : min(k + step, j)] for k in range(i, j, step)]
    r.shuffle(pieces)
    data[i:j] = b"".join(pieces)


def inserted(r: random.Random, data: bytearray, _: bytes) -> None:
    i = _position(r, data)
    size = r.choice([1, 4, 100, 5000])
    data[i:i] = r.choice([bytes(size), r.randbytes(size), b"\xff" * size])


def cut(r: random.Random, data: bytearray, _: bytes) -> None:
    del data[_position(r, data) :]


def headless(r: random.Random, data: bytearray, _: bytes) -> None:
    del data[: _position(r, data)]


def spliced(r: random.Random, data: bytearray, other: bytes) -> None:
    i, j = _position(r, data), _position(r, other)
    data[:] = r.choice([data[:i] + other[j:], data + other, data[:i] + other + data[i:]])


def untouched(r: random.Random, data: bytearray, _: bytes) -> None:
    """Changes nothing: only the suffix is wrong, see `Case`."""


DAMAGES = (
    flipped, extreme, zeroed, removed, repeated, shuffled, inserted, cut, headless, spliced,
    untouched,
)  # fmt: skip


def _position(r: random.Random, data: bytes) -> int:
    """A random position: anywhere, or near an end, where files keep their directories."""
    near = min(len(data), r.choice([50, 1000]))
    return r.choice([r.randrange(len(data)), r.randrange(near), len(data) - 1 - r.randrange(near)])


def _range(r: random.Random, data: bytes) -> tuple[int, int]:
    i = _position(r, data)
    size = r.choice([r.randrange(1, 50), r.randrange(1, 5000), len(data) // r.randrange(2, 20)])
    return i, min(len(data), i + size)


# The run


@dataclass(frozen=True)
class Case:
    """A damaged file, and the output to make of it."""

    clip: Clip
    damage: str
    data: bytes
    source: str
    target: str

    @classmethod
    def of(cls, clips: list[Clip], seed: int, number: int) -> "Case":
        r = random.Random(f"{seed} {number}")
        clip = clips[number % len(clips)]
        damage = DAMAGES[(number + number // len(clips)) % len(DAMAGES)]
        data = bytearray(clip.data)
        damage(r, data, r.choice(clips).data)
        suffix = clip.suffix
        if damage is untouched or r.random() < 0.05:
            suffix = r.choice([other.suffix for other in clips])
        return cls(clip, damage.__name__, bytes(data), f"in{suffix}", f"out{r.choice(TARGETS)}")


@dataclass(frozen=True)
class Outcome:
    """The result of a case.

    kind: whole, reduced (and reported), silent (reduced, and not reported) or refused; anything
    else is a bug.
    """

    kind: str
    text: str = ""
    warnings: tuple[str, ...] = ()


GOOD = ("whole", "reduced", "refused")


class Fuzzer:
    """Runs cases in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._model = IFNet_v4(Parameters((8, 8, 8, 8))).eval()
        self._sound_warnings: dict[tuple[str, str], tuple[str, ...]] = {}
        self.clips = make_clips(folder)

    def run(self, case: Case) -> Outcome:
        """The outcome of a case. Warnings that the undamaged file gives, too, don't count."""
        key = case.clip.name, case.target
        if key not in self._sound_warnings:
            clip = case.clip
            sound = Case(clip, "none", clip.data, f"in{clip.suffix}", case.target)
            outcome = self._run_apart(sound, ())
            if outcome.kind != "whole":
                return Outcome("sound file", f"{outcome.kind}: {outcome.text}")
            self._sound_warnings[key] = outcome.warnings
        return self._run_apart(case, self._sound_warnings[key])

    def _run_apart(self, case: Case, expected: tuple[str, ...]) -> Outcome:
        """Runs the case in a process of its own, so that a crash is an outcome, too."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        (self.folder / case.source).write_bytes(case.data)
        child = os.fork()
        if child == 0:
            os.chdir(self.folder)
            with open("stderr", "wb") as stderr:
                os.dup2(stderr.fileno(), 2)
                faulthandler.enable(stderr)
                # Of work, whatever else the machine does; and of waiting for what never comes.
                faulthandler.register(signal.SIGXCPU, stderr, chain=True)
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
                faulthandler.dump_traceback_later(12 * SECONDS, exit=True, file=stderr)
                limit_memory()
                outcome = attempt(case, self._model, expected)
                Path("outcome").write_text(json.dumps(vars(outcome)))
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told = (self.folder / "stderr").read_text(errors="replace")
        if status:
            is_hang = "Timeout" in told or status == -signal.SIGXCPU
            return Outcome("hang" if is_hang else "crash", f"status {status}\n{told}")
        if "Traceback" in told or "Exception ignored" in told:
            return Outcome("traceback", told)
        return Outcome(**json.loads((self.folder / "outcome").read_text()))


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def attempt(case: Case, model: IFNet_v4, expected: tuple[str, ...]) -> Outcome:
    listener = Listener()
    logging.getLogger("rife").addHandler(listener)
    threads, memory = threading.active_count(), peak_memory()
    refusal = None
    try:
        summary = interpolate_file(model, case.source, case.target, 1)
    except FileError as error:
        refusal = str(error)
    except BaseException:
        return Outcome("error", traceback.format_exc())
    gc.collect()
    if left := set(os.listdir()) - {case.source, case.target, "stderr", "outcome"}:
        return Outcome("debris", str(left))
    if left := [
        name for name in open_files() if "in." in name or "out." in name or ".rife" in name
    ]:
        return Outcome("open file", str(left))
    if threading.active_count() > threads:
        return Outcome("thread", str(threading.enumerate()))
    if (taken := peak_memory() - memory) > MEGABYTES << 20:
        return Outcome("memory", f"{taken >> 20} MB")
    for text in [refusal, *listener.messages]:
        if text and (not text.isprintable() or len(text) > 700 or ".rife-" in text):
            return Outcome("message", text)
    if refusal:
        return Outcome("refused", refusal)
    try:
        frames, seconds = measure(Path(case.target))
    except FileError as error:
        return Outcome("output", str(error))
    clip = case.clip
    text = f"{frames} of {clip.frames} frames, {seconds:.2f} of {clip.seconds:.2f} s"
    warnings = tuple(re.sub(r"\d+", "#", text) for text in listener.messages)
    lost = max(clip.frames - frames, (clip.seconds - seconds) * RATE)
    told = summary.damage or set(warnings) - set(expected)
    kind = "whole" if lost <= LOST else "reduced" if told else "silent"
    return Outcome(kind, text, warnings)


def limit_memory() -> None:
    """Limits virtual memory, of which threads reserve much more than they use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (8 * MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cases", type=int, default=10**9, help="no more than so many")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--case", type=int, help="run this one alone, and keep its files")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads don't survive a fork
    folder = Path(tempfile.mkdtemp(prefix="fuzz-video-"))
    fuzzer = Fuzzer(folder / "case")
    if args.case is not None:
        case = Case.of(fuzzer.clips, args.seed, args.case)
        print(folder, case.clip.name, case.damage, case.source, case.target, fuzzer.run(case))
        return 0

    print(f"seed {args.seed}", flush=True)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    bad = number = 0
    end = time.monotonic() + 60 * args.minutes
    while number < args.cases and time.monotonic() < end:
        case = Case.of(fuzzer.clips, args.seed, number)
        outcome = fuzzer.run(case)
        counts[case.clip.name, outcome.kind] += 1
        counts[case.damage, outcome.kind] += 1
        if outcome.kind not in GOOD:
            what = f"{case.clip.name}, {case.damage}, {case.source} to {case.target}"
            print(f"case {number}, {what}: {outcome.kind}: {outcome.text}", flush=True)
            bad += outcome.kind != "silent"
        number += 1
    shutil.rmtree(folder)

    kinds = sorted({kind for _, kind in counts}, key=lambda kind: (kind not in GOOD, kind))
    print(f"{'':24}{'cases':>8}" + "".join(f"{kind:>10}" for kind in kinds))
    for name in [*(clip.name for clip in fuzzer.clips), *(damage.__name__ for damage in DAMAGES)]:
        row = [counts[name, kind] for kind in kinds]
        print(f"{name:24}{sum(row):8}" + "".join(f"{n:10}" for n in row))
    minutes = args.minutes + (time.monotonic() - end) / 60
    print(f"{number} cases in {minutes:.1f} minutes, {bad} that must not be")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
