"""Compares detectors of cuts: ours, CogVideo's rule, a plain difference, and PySceneDetect.

Makes short seeded sequences from real clips: splices of different shots, and what is easily
mistaken for one (fades, flashes, pans, zooms, shaking, large objects that rush by). Half of them
are encoded with H.264. Thresholds are tuned on the clips of TUNING; figures are for these and for
all others.

Run from the repository's root, with the development set-up of the README and with scenedetect and
opencv-python-headless: python -m benchmarks.cuts --clips DIR
"""

import argparse
import io
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F

from rife.analysis.cuts import CutDetector
from rife.analysis.duplicates import is_duplicate
from rife.analysis.thumbnail import make_thumbnail
from tools import assets

#: Cuts found by eye, as the number of the first frame after; other clips are one shot, or fade.
CUTS = {
    "bikes": (30, 76, 137, 187, 242),
    "comfyui_login": (50, 100, 150, 200, 252, 302),
    "Megamind": (98, 154, 200),
    "trailer_bbb": (593, 864, 900, 988, 1049),
}
TUNING = {"bikes", "carphone_pristine", "comfyui_login", "kitten", "horse", "cogvideo_1"}
TUNING |= {"cogvideo_4", "a", "box"}
#: A clip -> the clip of which it is a part, so that no sequence splices the two.
PART_OF = {"bigbuckbunny": "trailer_bbb"}

#: Pixels across and number of frames of a sequence.
WIDTH, LENGTH = 256, 20

Frames = list[torch.Tensor]  # (3, H, W), in [0, 1]
Images = list[np.ndarray]  # (H, W, 3), uint8
Rule = Callable[[Images], set[int]]  # -> numbers of the frames at which shots begin


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def as_image(frame: torch.Tensor) -> np.ndarray:
    return (255 * frame.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy().copy()


def read_images(path: Path, longer_side: int = 480) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            scale = min(1, longer_side / max(frame.width, frame.height)) / 2
            size = {
                "width": round(frame.width * scale) * 2,
                "height": round(frame.height * scale) * 2,
            }
            yield frame.to_ndarray(format="rgb24", interpolation="AREA", **size)


def split_into_shots(path: Path) -> list[Images]:
    """Returns the clip's shots, of at most 100 frames, without frames of nearly one colour."""
    shots = [[]]
    for i, image in enumerate(read_images(path)):
        is_flat = image.std() < 16
        if i in CUTS.get(path.stem, ()) or (is_flat and shots[-1]):
            shots.append([])
        if len(shots[-1]) < 100 and not is_flat:
            shots[-1].append(image)
    return [shot for shot in shots if len(shot) > 5]


class SequenceMaker:
    """Makes one sequence from shots.

    Args:
        shots: (name of the clip, images).
        seed: Decides all that is random.
    """

    def __init__(self, shots: list[tuple[str, Images]], seed: str) -> None:
        self.shots, self.random = shots, random.Random(seed)
        self.height = self.random.choice((108, 144, 172, 192, 256))

    def view(self, image, x=0.0, y=0.0, zoom=1.0, angle=0.0) -> torch.Tensor:
        """Returns what a camera sees of an image.

        Args:
            image: (3, H, W).
            x: Where the camera is; the image's borders are at -1 and 1.
            y: Likewise.
            zoom: 2 shows half of the image in each direction.
            angle: By which the camera is turned, in radians.
        """
        rows, columns = image.shape[1:]
        fit = min(columns / WIDTH, rows / self.height) / zoom
        width, height = fit * WIDTH / columns, fit * self.height / rows
        cos, sin = np.cos(angle), np.sin(angle)
        affine = [[width * cos, -height * sin, x], [width * sin, height * cos, y]]
        size = (1, 3, self.height, WIDTH)
        grid = F.affine_grid(torch.tensor([affine], dtype=torch.float32), size, align_corners=False)
        return F.grid_sample(image[None], grid, padding_mode="reflection", align_corners=False)[0]

    def pick_shot(self, other_than: str = "", speed: int = 1) -> tuple[str, Frames]:
        """Returns a clip's name and LENGTH frames of a shot, back and forth if it is short."""
        name, shot = self.random.choice([shot for shot in self.shots if shot[0] != other_than])
        start = self.random.randrange(max(1, len(shot) - LENGTH * speed))
        cycle = [*range(len(shot)), *range(len(shot) - 2, 0, -1)] or [0]
        indices = [cycle[(start + i * speed) % len(cycle)] for i in range(LENGTH)]
        return name, [as_tensor(shot[i]) for i in indices]

    def from_still_camera(self, other_than: str = "", speed: int = 1) -> tuple[str, Frames]:
        """Returns a shot from a still camera, somewhere in the picture."""
        name, frames = self.pick_shot(other_than, speed)
        zoom = self.random.uniform(1, 1.5)
        x, y = (self.random.uniform(-1, 1) * (1 - 1 / zoom) for _ in "xy")
        return name, [self.view(image, x, y, zoom) for image in frames]

    def from_moving_camera(
        self, path: Callable[[float], tuple], other_than: str = ""
    ) -> tuple[str, Frames]:
        """Returns a shot from a moving camera, with blur: path(time) -> (x, y, zoom, angle)."""
        name, frames = self.pick_shot(other_than)
        shutter = self.random.choice((0, 0.25, 0.5))
        moments = np.linspace(0, shutter, 5 if shutter else 1)
        return name, [
            torch.stack([self.view(image, *path(i + m)) for m in moments]).mean(0)
            for i, image in enumerate(frames)
        ]

    def add_grain(self, frames: Frames) -> Frames:
        noise = np.random.default_rng(self.random.randrange(2**32))
        sigma = self.random.uniform(0.02, 0.08)
        return [
            f + sigma * torch.from_numpy(noise.standard_normal(f.shape)).float() for f in frames
        ]

    # Sequences with a cut: each returns the frames and the number of the second shot's first frame.

    def splice(self, make=None) -> tuple[Frames, int]:
        make = make or self.from_still_camera
        name, a = make()
        _, b = make(other_than=name)
        at = self.random.randrange(4, LENGTH - 4)
        return a[:at] + b[at:], at

    def splice_alike(self):
        """Gives the second shot the colours of the first."""
        frames, at = self.splice()
        a, b = torch.stack(frames[:at]), torch.stack(frames[at:])
        (m, s), (n, t) = ((x.mean((0, 2, 3)), x.std((0, 2, 3))) for x in (a, b))
        b = (b - n[:, None, None]) * (s / t.clamp(min=0.02))[:, None, None] + m[:, None, None]
        return [*a, *b.clamp(0, 1)], at

    def splice_dark(self):
        frames, at = self.splice()
        light = self.random.uniform(0.1, 0.3)
        return [frame * light for frame in frames], at

    def splice_grainy(self):
        frames, at = self.splice()
        return self.add_grain(frames), at

    def splice_moving(self):
        return self.splice(lambda other_than="": self.make_pan(other_than, 0.02, 0.1))

    # Sequences without a cut: each returns the frames and None.

    def fast(self):
        return self.from_still_camera(speed=self.random.choice((2, 3)))[1], None

    def grain(self):
        return self.add_grain(self.from_still_camera()[1]), None

    def fade(self):
        frames, colour = self.from_still_camera()[1], self.random.choice((0.0, 1.0))
        length, inward = self.random.randint(4, 16), self.random.random() < 0.5
        amounts = [min(1, max(0, (i - 2) / length)) for i in range(LENGTH)]
        if inward:
            amounts.reverse()
        return [
            torch.lerp(f, torch.full_like(f, colour), a)
            for f, a in zip(frames, amounts, strict=True)
        ], None

    def dissolve(self):
        name, a = self.from_still_camera()
        _, b = self.from_still_camera(other_than=name)
        length = self.random.randint(5, 16)
        return [
            torch.lerp(*p, min(1, max(0, (i - 2) / length)))
            for i, p in enumerate(zip(a, b, strict=True))
        ], None

    def flash(self):
        frames, local = self.from_still_camera()[1], self.random.random() < 0.4
        gain, start = self.random.uniform(1.5, 6), self.random.randrange(4, LENGTH - 4)
        y, x = torch.meshgrid(
            *(torch.linspace(-1, 1, n) for n in frames[0].shape[1:]), indexing="ij"
        )
        dx, dy, r = (self.random.uniform(*ab) for ab in ((-1, 1), (-1, 1), (0.2, 1)))
        glow = torch.exp(-((x - dx) ** 2 + (y - dy) ** 2) / r**2) if local else torch.ones_like(x)
        for i in range(start, start + self.random.randint(1, 3)):
            frames[i] = frames[i] * (1 + (gain - 1) * glow)
        return frames, None

    def make_pan(self, other_than: str, slowest: float, fastest: float):
        zoom, angle = self.random.uniform(2, 3), self.random.uniform(0, 2 * np.pi)
        step = self.random.uniform(slowest, fastest) * 2 / zoom  # of the view's width
        dx, dy = step * np.cos(angle), step * np.sin(angle) * 0.5
        reach, phase = 1 - 1 / zoom, self.random.uniform(0, 4)

        def swing(distance):  # from border to border
            return reach * (abs((distance / reach + phase) % 4 - 2) - 1)

        return self.from_moving_camera(
            lambda t: (swing(dx * t), swing(dy * t), zoom, 0), other_than
        )

    def pan(self):
        return self.make_pan("", 0.05, 0.2)[1], None

    def zoom(self):
        rate, inward = self.random.uniform(1.02, 1.1), self.random.random() < 0.5
        return self.from_moving_camera(lambda t: (0, 0, rate ** (t if inward else LENGTH - t), 0))[
            1
        ], None

    def shake(self):
        noise = np.random.default_rng(self.random.randrange(2**32))
        poses = noise.uniform(-1, 1, (LENGTH + 2, 4)) * self.random.uniform(0.02, 0.1)

        def path(t):
            before, after = poses[int(t)], poses[int(t) + 1]
            x, y, zoom, angle = before + (t % 1) * (after - before)
            return x, y, 1.3 + zoom / 2, angle / 2

        return self.from_moving_camera(path)[1], None

    def object(self):
        """Lets a large piece of another shot rush across the picture."""
        name, frames = self.from_still_camera()
        _, other = self.from_still_camera(other_than=name)
        width, height = (round(self.random.uniform(0.3, 0.75) * n) for n in (WIDTH, self.height))
        speed, top = self.random.uniform(0.05, 0.25), self.random.randint(0, self.height - height)
        for i, frame in enumerate(frames):
            left = round((i * speed - 0.6) * WIDTH)
            a, b = max(0, left), min(WIDTH, left + width)
            if a < b:
                rows = slice(top, top + height)
                frame[:, rows, a:b] = other[0][:, rows, a - left : b - left]
        return frames, None


WITH_CUT = ("splice", "splice_alike", "splice_dark", "splice_grainy", "splice_moving")
WITHOUT_CUT = ("fast", "grain", "fade", "dissolve", "flash", "pan", "zoom", "shake", "object")


def make_sequences(
    shots: list[tuple[str, Images]], per_kind: int, seed: int
) -> Iterator[tuple[str, Images, set[int]]]:
    """Yields (kind, images, cuts)."""
    for kind in WITH_CUT + WITHOUT_CUT:
        for k in range(per_kind):
            frames, cut = getattr(SequenceMaker(shots, f"{seed} {kind} {k}"), kind)()
            images = [as_image(frame) for frame in frames]
            yield kind, encode_and_decode(images) if k % 2 else images, {cut} - {None}


def encode_and_decode(images: Images, crf: int = 23) -> Images:
    """Returns the images as they come back from H.264."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def detect_cuts(images: Images) -> set[int]:
    """Our detector."""
    detector = CutDetector()
    thumbnails = (make_thumbnail(torch.from_numpy(image)) for image in images)
    return {i for i, pair in enumerate(pairwise(thumbnails), 1) if detector.is_cut(*pair)}


def by_difference(threshold: float) -> Rule:
    return lambda images: {i for i, x in enumerate(differences(images), 1) if x > threshold}


def differences(images: Images) -> list[float]:
    frames = (F.adaptive_avg_pool2d(as_tensor(image), 32) for image in images)
    return [(a - b).abs().mean().item() for a, b in pairwise(frames)]


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Returns the mean SSIM (Wang et al., 2004) of two images (3, H, W)."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / 4.5)
    kernel = (torch.outer(line, line) / line.sum() ** 2)[None, None]
    mean_a, mean_b, aa, bb, ab = (
        F.conv2d(F.pad(x[:, None], (5, 5, 5, 5), "replicate"), kernel)
        for x in (a, b, a * a, b * b, a * b)
    )
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    var = aa - mean_a**2 + bb - mean_b**2
    return (luminance * (2 * (ab - mean_a * mean_b) + 9e-4) / (var + 9e-4)).mean().item()


def by_ssim(images: Images) -> set[int]:
    small = (F.interpolate(as_tensor(x)[None], (32, 32), mode="bilinear")[0] for x in images)
    return {i for i, (a, b) in enumerate(pairwise(small), 1) if ssim(a, b) < 0.2}


def by_scenedetect(name: str) -> Rule:
    try:
        from scenedetect import FrameTimecode, detectors
    except ImportError as error:
        raise SystemExit(
            f"needed: pip install scenedetect opencv-python-headless ({error})"
        ) from None

    def rule(images: Images) -> set[int]:
        detector = getattr(detectors, name)(min_scene_len=1)
        cuts: list = []
        for i, image in enumerate(images):
            cuts += detector.process_frame(FrameTimecode(i, 25.0), image[..., ::-1].copy())
        return {cut.frame_num for cut in cuts}

    return rule


def tune_difference(labelled: list[tuple[str, Images, set[int]]]) -> float:
    """Returns the threshold of the mean difference with the best F1."""
    scored = sorted(
        (
            (x, i in cuts)
            for _, images, cuts in labelled
            for i, x in enumerate(differences(images), 1)
        ),
        reverse=True,
    )
    cuts, hits, best = sum(cut for _, cut in scored), 0, (0.0, 0.0)
    for n, (x, cut) in enumerate(scored, 1):
        hits += cut
        best = max(best, (2 * hits / (n + cuts), x))
    return best[1]


def print_accuracy(
    rules: dict[str, Rule], labelled: Iterable[tuple[str, Images, set[int]]]
) -> None:
    """Prints how often each rule errs, and on which kinds of sequences or clips."""
    hits, missed, false = Counter(), defaultdict(Counter), defaultdict(Counter)
    for kind, images, cuts in labelled:
        for name, rule in rules.items():
            detected = rule(images)
            hits[name] += len(detected & cuts)
            missed[name][kind] += len(cuts - detected)
            false[name][kind] += len(detected - cuts)
    print(
        "| rule | precision | recall | F1 | missed | false |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name in rules:
        hit, lost, wrong = hits[name], missed[name].total(), false[name].total()
        scores = (
            hit / max(1, hit + wrong),
            hit / max(1, hit + lost),
            2 * hit / (2 * hit + lost + wrong),
        )
        kinds = [
            ", ".join(f"{kind} {n}" for kind, n in c.most_common() if n) or "none"
            for c in (missed[name], false[name])
        ]
        print(f"| {name} |", " | ".join([f"{x:.3f}" for x in scores] + kinds), "|")


def print_repeats(paths: list[Path]) -> None:
    """Prints how many repeats are detected after encoding, and how much motion passes for one."""
    print("| clip | repeats at crf 18 | 23 | 28 | real motion | pan, 0.25 pixels a frame |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in paths:
        images = list(islice(read_images(path, 720), 8, 40))
        twos = [image for image in images[:16] for _ in range(2)]
        width, still = images[0].shape[1], as_tensor(images[0])[None]
        pan = []
        for i in range(12):
            affine = torch.tensor([[[1, 0, i * 0.5 / width], [0, 1, 0]]])
            grid = F.affine_grid(affine, still.shape, align_corners=False)
            pan.append(
                F.grid_sample(still, grid, padding_mode="reflection", align_corners=False)[0]
            )
        cells = []
        tests = [(encode_and_decode(twos, crf), 2) for crf in (18, 23, 28)]
        tests += [(images, 1), (encode_and_decode([as_image(x) for x in pan]), 1)]
        for frames, step in tests:
            thumbnails = [make_thumbnail(torch.from_numpy(x)) for x in frames]
            repeats = [is_duplicate(*pair) for pair in list(pairwise(thumbnails))[::step]]
            cells.append(f"{sum(repeats)} of {len(repeats)}")
        print(f"| {path.stem} |", " | ".join(cells), "|")


def print_times() -> None:
    """Prints how long a frame takes in each step of the detectors."""
    print("| frame | thumbnail | cut | repeat |\n| --- | --- | --- | --- |")
    torch.set_num_threads(1)
    for height, width in ((480, 720), (1080, 1920)):
        for dtype in (torch.uint8, torch.float32):
            image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
            image = image if dtype == torch.uint8 else image / 255
            detector, before, times = CutDetector(), make_thumbnail(image), []
            for _ in range(200):
                marks = [time.perf_counter()]
                after = make_thumbnail(image)
                marks.append(time.perf_counter())
                detector.is_cut(before, after)
                marks.append(time.perf_counter())
                is_duplicate(before, after)
                marks.append(time.perf_counter())
                times.append([1e3 * (b - a) for a, b in pairwise(marks)])
                before = after
            cells = " | ".join(f"{ms:.2f} ms" for ms in np.median(times, 0))
            print(f"| {width}x{height} {str(dtype)[6:]} | {cells} |")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, help="a folder of more clips")
    parser.add_argument("--per-kind", type=int, default=30, help="sequences of each kind")
    options = parser.parse_args()
    paths = [assets.clip(name) for name in ("bikes", "bigbuckbunny", "carphone_pristine")]
    paths += sorted(options.clips.iterdir()) if options.clips else []
    parts = []
    for seed, tuning in enumerate((True, False)):
        shots = [
            (PART_OF.get(path.stem, path.stem), shot)
            for path in paths
            if (path.stem in TUNING) == tuning
            for shot in split_into_shots(path)
        ]
        parts.append(list(make_sequences(shots, options.per_kind, seed)))
    rules = {
        "ours": detect_cuts,
        "SSIM of 32x32 below 0.2 (CogVideo)": by_ssim,
        "mean difference, tuned": by_difference(tune_difference(parts[0])),
        "PySceneDetect ContentDetector": by_scenedetect("ContentDetector"),
        "PySceneDetect AdaptiveDetector (looks 2 frames ahead)": by_scenedetect("AdaptiveDetector"),
    }
    for title, part in zip(("Tuning", "Held out"), parts, strict=True):
        print(f"\n{title}: {len(part)} sequences, {sum(len(c) for *_, c in part)} cuts\n")
        print_accuracy(rules, part)
    for title, tuning in (("Whole clips of the tuning", True), ("Whole clips held out", False)):
        clips = [path for path in paths if (path.stem in TUNING) == tuning]
        print(f"\n{title}\n")
        labelled = ((p.stem, list(read_images(p)), set(CUTS.get(p.stem, ()))) for p in clips)
        print_accuracy(rules, labelled)
    print("\nRepeats\n")
    print_repeats(paths)
    print("\nTime on one core\n")
    print_times()


if __name__ == "__main__":
    main()
