"""What the nodes do with values that their widgets don't allow: they come over links, and through
the API. Every prompt ends well, or with one line that tells people what is wrong."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from ..support.comfyui.server import NAME, ComfyUI, Rejected, Run

pytestmark = pytest.mark.comfyui

FRAMES, VIDEO, FLOW, LOADER = (
    "RIFEFrameInterpolate", "RIFEVideoInterpolate", "RIFEOpticalFlow", "LoadRIFEModel"
)  # fmt: skip
#: Python's own words for a mistake of ours, and those of the libraries below us.
TRACEBACKS = ("AttributeError", "KeyError", "IndexError", "TypeError", "ZeroDivisionError",
              "OverflowError", "AssertionError", "RuntimeError", "torch.", "av.")  # fmt: skip


class Linked(str):
    """Python for a value that comes over a link."""


def in_memory(images: str = "torch.rand(3, 48, 64, 3)", frame_rate: str = "24") -> Linked:
    """A video that is no file."""
    parts = f"images={images}, audio=None, frame_rate={frame_rate}"
    return Linked(f"InputImpl.VideoFromComponents(Types.VideoComponents({parts}))")


class Case(NamedTuple):
    """One input of a node that gets `value`; says: a part of the line that refuses it, None where
    it works."""

    node: str
    name: str
    value: object
    says: str | None


CASES = [
    # Typed, or sent through the API: ComfyUI checks these, but for NaN; older ones no lists either.
    Case(FRAMES, "multiplier", 10**7, "bigger than max"),
    Case(FRAMES, "multiplier", 0, "smaller than min"),
    Case(FRAMES, "multiplier", -3, "smaller than min"),
    Case(FRAMES, "multiplier", "2", None),
    Case(FRAMES, "multiplier", True, None),
    Case(FRAMES, "multiplier", "two", "INT"),
    Case(FRAMES, "multiplier", None, "INT"),
    Case(FRAMES, "multiplier", float("inf"), "INT"),
    Case(FRAMES, "multiplier", {"__value__": [2, 3]}, "INT"),
    Case(FRAMES, "source_fps", float("nan"), "source_fps is nan, but must be a number from 0"),
    Case(FRAMES, "source_fps", 1e9, "bigger than max"),
    Case(FRAMES, "target_fps", float("nan"), "target_fps is nan"),
    Case(FRAMES, "cut_sensitivity", float("nan"), "cut_sensitivity is nan"),
    Case(FRAMES, "cuts", "x", "cuts"),
    Case(FRAMES, "flow_scale", "3", "flow_scale"),
    Case(FRAMES, "length", None, "length"),
    Case(FRAMES, "target_fps", 1e-9, "1e-09 is no frame rate"),
    Case(FRAMES, "images", "frames", "images is 'frames', but"),
    Case(FLOW, "timestep", float("nan"), "timestep is nan"),
    Case(LOADER, "precision", None, "precision"),
    Case(LOADER, "model_name", None, "model"),
    Case(LOADER, "model_name", 5, "model"),
    Case(LOADER, "model_name", "", "There is no RIFE model"),
    Case(LOADER, "model_name", "a\x1b[31m\n.pth", "There is no RIFE model"),
    Case(LOADER, "model_name", "../" * 9 + "etc/passwd", "There is no RIFE model"),
    Case(LOADER, "model_name", "a\0.pth", "There is no RIFE model"),
    Case(LOADER, "model_name", "a" * 5000, "There is no RIFE model"),
    Case(VIDEO, "crf", 99, "bigger than max"),
    Case(VIDEO, "video", 5, "video is 5, but"),
    Case(VIDEO, "target_fps", 3.14159, None),
    Case(VIDEO, "target_fps", 999.999, None),
    Case(VIDEO, "target_fps", 0.001, None),
    Case(VIDEO, "multiplier", 64, None),
    Case(VIDEO, "format", None, "format"),
    Case(VIDEO, "codec", "exe", "codec"),
    # Over links: ComfyUI checks the type only, and not even that where it is "*".
    Case(FRAMES, "multiplier", Linked("10**7"), "must be a whole number from 1 to 2048"),
    Case(FRAMES, "multiplier", Linked("10**400"), "must be a whole number from 1 to 2048"),
    Case(FRAMES, "multiplier", Linked("0"), "multiplier is 0, but"),
    Case(FRAMES, "multiplier", Linked("2.5"), "multiplier is 2.5, but"),
    Case(FRAMES, "multiplier", Linked("3.0"), None),
    Case(FRAMES, "multiplier", Linked("float('nan')"), "multiplier is nan, but"),
    Case(FRAMES, "multiplier", Linked("'2'"), "multiplier is '2', but"),
    Case(FRAMES, "multiplier", Linked("None"), "multiplier is None, but"),
    Case(FRAMES, "multiplier", Linked("torch.tensor([2])"), "multiplier is int64 of (1,), but"),
    Case(FRAMES, "source_fps", Linked("0"), None),
    Case(FRAMES, "source_fps", Linked("float('inf')"), "source_fps is inf, but"),
    Case(FRAMES, "source_fps", Linked("Fraction(24000, 1001)"), None),
    Case(FRAMES, "source_fps", Linked("0.001"), None),
    Case(FRAMES, "target_fps", Linked("'60'"), "target_fps is '60', but"),
    Case(FRAMES, "flow_scale", Linked("3"), "flow_scale is 3, but"),
    Case(FRAMES, "duplicates", Linked("'false'"), "duplicates is 'false', but"),
    Case(FRAMES, "model", Linked("'v4.0.pkl'"), None),
    Case(FRAMES, "model", Linked("'v9.pkl'"), 'There is no RIFE model "v9.pkl"'),
    Case(FRAMES, "model", Linked("torch.nn.Linear(1, 1)"), "model is a Linear, but"),
    Case(FRAMES, "images", Linked("None"), "images is None, but"),
    Case(FRAMES, "images", Linked("[torch.rand(4, 4, 3)] * 2"), "images is a list, but"),
    Case(FRAMES, "images", Linked("torch.rand(0, 48, 64, 3)"), "images is empty, but"),
    Case(FRAMES, "images", Linked("torch.rand(4, 48, 64)"), "images is float32 of (4, 48, 64)"),
    Case(FRAMES, "images", Linked("torch.rand(4, 48, 64, 5)"), "1, 3 or 4 channels"),
    Case(FRAMES, "images", Linked("torch.ones(3, 48, 64, 3).byte()"), "images is uint8 of"),
    Case(FRAMES, "images", Linked("torch.rand(3, 48, 64, 3) / 0"), "NaN or infinite"),
    Case(FRAMES, "images", Linked("torch.rand(3, 48, 64, 3) * 255"), "divide by 255"),
    Case(FRAMES, "images", Linked("torch.rand(3, 48, 64, 3).double()"), None),
    Case(FRAMES, "images", Linked("torch.rand(3, 48, 64, 3).half()"), None),
    Case(FRAMES, "images", Linked("torch.rand(3, 3, 48, 64).movedim(1, 3)"), None),
    Case(FRAMES, "images", Linked("torch.rand(1, 48, 64, 3)"), None),
    Case(FRAMES, "images", Linked("torch.rand(3, 1, 1, 3)"), None),
    Case(FRAMES, "mask", Linked("torch.rand(1, 64, 64)"), None),
    Case(FRAMES, "mask", Linked("torch.rand(2, 48, 64)"), "mask has 2 frames and images 6"),
    Case(FRAMES, "mask", Linked("torch.rand(48, 64)"), "mask is float32 of (48, 64), but"),
    Case(FLOW, "images", Linked("torch.rand(1, 48, 64, 3)"), "two frames"),
    Case(FLOW, "images", Linked("torch.rand(2, 1, 1, 3)"), None),
    Case(FLOW, "images", Linked("torch.rand(2, 48, 64)"), "images is float32 of (2, 48, 64)"),
    Case(LOADER, "model_name", Linked("None"), "model"),
    Case(LOADER, "model_name", Linked("['v4.0.pkl']"), "model"),
    Case(LOADER, "model_name", Linked("'v3.8.pkl'"), None),
    Case(VIDEO, "video", Linked("None"), "video is None, but"),
    Case(VIDEO, "video", Linked("'clip.mp4'"), "video is 'clip.mp4', but"),
    Case(VIDEO, "video", Linked("InputImpl.VideoFromFile('/gone/clip.mp4')"), "/gone/clip.mp4"),
    Case(VIDEO, "video", Linked("InputImpl.VideoFromFile(BytesIO(b''))"), "is empty"),
    Case(VIDEO, "video", Linked("InputImpl.VideoFromFile(BytesIO(b'text' * 99))"), "Can't read"),
    Case(VIDEO, "video", in_memory("torch.rand(0, 48, 64, 3)"), "video is empty, but"),
    Case(VIDEO, "video", in_memory("torch.rand(3, 48, 64)"), "video is float32 of (3, 48, 64)"),
    Case(VIDEO, "video", in_memory(frame_rate="0"), "0 is no frame rate"),
    Case(VIDEO, "video", in_memory(frame_rate="float('nan')"), "nan is no frame rate"),
    Case(VIDEO, "video", in_memory(frame_rate="23.976"), None),
    Case(VIDEO, "multiplier", Linked("2.5"), "multiplier is 2.5, but"),
    Case(VIDEO, "crf", Linked("99"), "crf is 99, but"),
    Case(VIDEO, "slow_motion", Linked("2"), "slow_motion is 2, but"),
]  # fmt: skip


@pytest.fixture(scope="session")
def small(comfy: ComfyUI) -> str:
    """Six frames of 64x48, in which a bar moves to the right."""
    encoded(comfy.base / "input" / "small.mp4", "libx264", "yuv420p")
    return "small.mp4"


@pytest.fixture(scope="session")
def outcomes() -> Iterator[Counter]:
    """How the prompts of this file ended."""
    counted: Counter = Counter()
    yield counted
    print(f"\nodd values: {sum(counted.values())} prompts, {dict(counted)}")


def prompt_of(clip: str, node: str, **inputs: object) -> dict:
    """A small run of a node, its result saved."""
    prompt = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": clip}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
        "model": {"class_type": LOADER, "inputs": {"model_name": "v4.0.pkl"}},
        "rife": {"class_type": node, "inputs": {"model": ["model", 0]}},
        "save": {
            "class_type": "SaveImage",
            "inputs": {"images": ["rife", 0], "filename_prefix": "odd"},
        },
    }
    if node == LOADER:
        prompt["model"]["inputs"] |= inputs
        node, inputs = FRAMES, {}
        prompt["rife"]["class_type"] = node
    if node == VIDEO:
        prompt["save"] = {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["rife", 0],
                "filename_prefix": "odd",
                "format": "auto",
                "codec": "auto",
            },
        }
    own = {FRAMES: {"images": ["parts", 0], "multiplier": 2}, FLOW: {"images": ["parts", 0]}}
    own[VIDEO] = {"video": ["load", 0], "multiplier": 2}
    prompt["rife"]["inputs"] |= own[node] | inputs
    for step in list(prompt.values()):
        for name, value in step["inputs"].items():
            if isinstance(value, Linked):
                prompt["odd"] = {"class_type": "OddValue", "inputs": {"expression": str(value)}}
                step["inputs"][name] = ["odd", 0]
    return prompt


def end_of(comfy: ComfyUI, prompt: dict) -> tuple[str, str, Run | None]:
    """Run a prompt: how it ended, what was said, and its run.

    Asserts that what is said is a line for people, of ours or of ComfyUI's own check, and that an
    error leaves no file and an idle server.
    """
    folders = [comfy.base / name for name in ("temp", "output", "models/rife")]
    before = {file for folder in folders for file in folder.rglob("*")}
    try:
        run = comfy.run(prompt)
    except Rejected as refusal:
        answer = json.loads(str(refusal))
        errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
        assert errors and not any("xception" in error["type"] for error in errors), answer
        said = " ".join(f"{error['message']}: {error['details']}" for error in errors)
        assert said.isprintable()
        return "refused by ComfyUI", said, None
    while any(comfy.get("/queue").values()):  # running and pending
        time.sleep(0.01)
    if run.ended == "success":
        return "success", "", run
    assert run.ended == "error"
    (error,) = run.of("execution_error")
    said = error["exception_message"].strip()
    assert said.isprintable() and 10 < len(said) < 500, error
    assert not error["exception_type"].startswith(TRACEBACKS), error
    assert f"/{NAME}/" in error["traceback"][-1], error
    assert {file for folder in folders for file in folder.rglob("*")} == before
    clips = [comfy.base / "input", comfy.base / "temp"]
    opened = psutil.Process(comfy.process.pid).open_files()
    assert not [file for file in opened if Path(file.path).parent in clips]
    return "error of ours", said, run


def picture(step: int) -> np.ndarray:
    """64x48 pixels with a bar that moves 5 pixels a step; opaque in RGBA."""
    image = np.full((48, 64, 4), 60, np.uint8)
    image[8:40, 8 + 5 * step : 20 + 5 * step] = 200, 120, 40, 255
    return image


def encoded(
    path: Path, codec: str, pixel_format: str, *, frames: int = 6, sound: str = "", **options: str
) -> None:
    """Write a video of `picture`s at 8 fps, with half a second of silence if a codec for sound is
    named."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        audio = file.add_stream(sound, rate=48000, layout="stereo") if sound else None
        for step in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(step), "rgba")))
        file.mux(stream.encode(None))
        if audio:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.int16), "s16", "stereo")
            silence.sample_rate = 48000
            file.mux([*audio.encode(silence), *audio.encode(None)])


def animated(path: Path, last: int = 100) -> None:
    first, *rest = [Image.fromarray(picture(step)).convert("RGB") for step in range(6)]
    durations = [100] * 5 + [last]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def halved(path: Path) -> None:
    """A video that lacks its second half, as a download that broke off."""
    encoded(path, "libx264", "yuv420p", frames=40, g="4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class OddFile(NamedTuple):
    """How to write it, and a part of the line that refuses it, or of one that is said of a run."""

    write: Callable[[Path], None]
    refused: str | None = None
    warned: str = ""


def h264(path: Path) -> None:
    encoded(path, "libx264", "yuv420p")


FILES = {
    "empty.mp4": OddFile(Path.touch, refused="is empty"),
    "text.mp4": OddFile(lambda path: path.write_text("no video\n" * 99), refused="Can't read"),
    "picture.mp4": OddFile(
        lambda path: Image.fromarray(picture(0)).save(path, "PNG"), refused="is not a video"
    ),
    "cut.mp4": OddFile(halved, refused="cut.mp4"),
    "cut.mkv": OddFile(halved, warned="cut.mkv is cut short or damaged"),
    "one.mp4": OddFile(lambda path: encoded(path, "libx264", "yuv420p", frames=1)),
    "colon 12:30.mp4": OddFile(h264),
    "12:30.mp4": OddFile(h264),
    "名前 %d %s {} ü.mp4": OddFile(h264),
    "escape \x1b[31m.mp4": OddFile(h264),
    "escape \x1b[31m none.mp4": OddFile(Path.touch, refused="is empty"),
    "two\nlines.mp4": OddFile(h264),
    "two\nlines cut.mp4": OddFile(halved, refused="two\\nlines cut.mp4"),
    "two\nlines cut.mkv": OddFile(halved, warned="two\\nlines cut.mkv is cut short or damaged"),
    "alpha.mov": OddFile(lambda path: encoded(path, "qtrle", "argb"), warned="no transparency"),
    "alpha.mkv": OddFile(lambda path: encoded(path, "ffv1", "yuva420p"), warned="no transparency"),
    "deep.mkv": OddFile(lambda path: encoded(path, "libx264", "yuv420p10le")),
    "sound.avi": OddFile(
        lambda path: encoded(path, "mpeg4", "yuv420p", sound="pcm_s16le"), warned="encoded anew"
    ),
    "sound.mkv": OddFile(
        lambda path: encoded(path, "ffv1", "yuv420p", sound="pcm_s16le"), warned="encoded anew"
    ),
    "animated.gif": OddFile(lambda path: animated(path, last=3000)),
    "animated.webp": OddFile(animated),
}


def names(case: Case) -> str:
    return f"{case.node}-{case.name}-{case.value!r:.40}"


def check_end(comfy: ComfyUI, prompt: dict, says: str | None, outcomes: Counter) -> list[str]:
    """Run a prompt that works, or is refused with what `says` is a part of; then a normal one. The
    lines on the node."""
    outcome, said, run = end_of(comfy, prompt)
    outcomes[outcome] += 1
    assert (outcome == "success") == (says is None), said
    assert (says or "") in said
    normal = prompt_of("small.mp4", FRAMES, cut_sensitivity=sum(outcomes.values()) / 1000)
    outcome, said, normal_run = end_of(comfy, normal)
    assert outcome == "success", said
    assert len(comfy.files(normal_run)) == 11
    return run.said_on("rife") if run else []


@pytest.mark.parametrize("case", CASES, ids=names)
def test_an_odd_value_works_or_is_refused_in_one_line(
    comfy: ComfyUI, small: str, outcomes: Counter, case: Case
) -> None:
    prompt = prompt_of(small, case.node, **{case.name: case.value})
    check_end(comfy, prompt, case.says, outcomes)


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_works_or_is_refused_in_one_line(
    comfy: ComfyUI, small: str, outcomes: Counter, name: str
) -> None:
    file = FILES[name]
    file.write(comfy.base / "input" / name)
    lines = check_end(comfy, prompt_of(name, VIDEO), file.refused, outcomes)
    warned = file.warned
    if "mkv" in str(comfy.get(f"/object_info/{VIDEO}")):  # in which transparency is kept
        warned = warned.removeprefix("no transparency")
    warnings = lines[:-2]  # above those on frames and the model
    assert bool(warnings) == bool(warned)
    assert not warnings or any(warned in line for line in warnings)


@pytest.mark.parametrize(
    ("setting", "says"), [("deinterlace", "progressive first"), ("keep", "left so")]
)
def test_interlaced_video_is_made_progressive_or_kept(
    comfy: ComfyUI, small: str, outcomes: Counter, setting: str, says: str
) -> None:
    options = {"x264-params": "tff=1", "flags": "+ildct+ilme"}
    encoded(comfy.base / "input" / "interlaced.mp4", "libx264", "yuv420p", **options)
    outcome, said, run = end_of(comfy, prompt_of("interlaced.mp4", VIDEO, interlaced=setting))
    outcomes[outcome] += 1
    assert outcome == "success", said
    warning, *_ = run.said_on("rife")
    assert warning.startswith("interlaced.mp4 is interlaced") and says in warning


def test_a_video_of_10_bits_keeps_them(comfy: ComfyUI, small: str, outcomes: Counter) -> None:
    encoded(comfy.base / "input" / "deep.mkv", "libx264", "yuv420p10le")
    outcome, said, run = end_of(comfy, prompt_of("deep.mkv", VIDEO, crf=17))
    outcomes[outcome] += 1
    assert outcome == "success", said
    (path,) = comfy.files(run)
    with av.open(str(path)) as video:
        assert video.streams.video[0].format.name == "yuv420p10le"


def test_a_temp_folder_that_can_not_be_used_is_named(
    comfy: ComfyUI, small: str, outcomes: Counter
) -> None:
    temp, away = comfy.base / "temp", comfy.base / "temp.away"
    temp.rename(away)
    temp.touch()
    try:
        for setting in ({}, {"video": Linked("InputImpl.VideoFromFile(BytesIO(b'text' * 99))")}):
            outcome, said, _ = end_of(comfy, prompt_of(small, VIDEO, crf=20, **setting))
            outcomes[outcome] += 1
            assert said.startswith(f"Can't write {temp}")
    finally:
        temp.unlink()
        away.rename(temp)


@pytest.mark.parametrize(
    "prompt",
    [
        # A million new frames of each pair; of one pixel, so that they fit into memory.
        dict(images=Linked("torch.rand(4, 1, 1, 3)"), source_fps=0.001, target_fps=1000.0),
        dict(images=Linked("torch.zeros(9999, 8, 8, 3)"), multiplier=64),
        dict(video=Linked("InputImpl.VideoFromFile('long.mkv')"), target_fps=1000.0),
        dict(video=Linked("InputImpl.VideoFromFile('long.mkv')"), target_fps=0.01),
    ],
    ids=["a million of a pair", "stills", "a million frames", "none for long"],
)
def test_a_run_of_any_kind_ends_soon_after_an_interrupt(
    comfy: ComfyUI, small: str, outcomes: Counter, prompt: dict
) -> None:
    folders = [comfy.base / name for name in ("temp", "output")]
    before = {file for folder in folders for file in folder.rglob("*")}
    node = FRAMES if "images" in prompt else VIDEO
    if node == VIDEO and not (long := comfy.base / "input" / "long.mkv").exists():
        encoded(long, "rawvideo", "yuv420p", frames=20_000)
    prompt = {
        name: Linked(value.replace("long.mkv", str(comfy.base / "input" / "long.mkv")))
        if isinstance(value, Linked)
        else value
        for name, value in prompt.items()
    }
    run = comfy.submit(prompt_of(small, node, **prompt))
    for kind, data in comfy.follow(run):
        if kind == "executing" and data["node"] == "rife":
            time.sleep(1)
            asked = time.monotonic()
            comfy.post("/interrupt", {})
    assert run.ended == "interrupted"
    outcomes["interrupted"] += 1
    print(f"{time.monotonic() - asked:.2f} s")
    assert {file for folder in folders for file in folder.rglob("*")} == before
