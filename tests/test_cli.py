"""`python -m rife`, run as users run it."""

import contextlib
import os
import pydoc
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from rife import load_model
from rife.cli import main
from rife.fileio import sha256
from rife.media.writer import VideoWriter
from rife.models.checkpoint import read_state_dict
from rife.models.zoo import DEFAULT, ZOO
from rife.networks.ifnet import IFNet, IFNet_2R

from .support.command_line import ROOT, refusal, run_in_process, run_rife
from .support.hub import serving
from .support.seeded import seeded_images, seeded_state

load_once = lru_cache(load_model)


@pytest.fixture(scope="module")
def model(weights):
    return weights("v4.0.safetensors")


@pytest.fixture(scope="module")
def short(clips, tmp_path_factory):
    """A second of a real clip, made small, with a beep: (path, frames)."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    with av.open(str(clips("bikes"))) as source, av.open(str(path), "w") as target:
        video = target.add_stream("libx264", rate=25, width=128, height=96, pix_fmt="yuv420p")
        audio = target.add_stream("aac", rate=44100, layout="mono")
        for i, frame in enumerate(source.decode(video=0)):
            if i == 12:
                break
            image = frame.to_image().resize((128, 96))
            small = av.VideoFrame.from_image(image)
            small.pts, small.time_base = i, Fraction(1, 25)
            target.mux(video.encode(small))
            sound = np.sin(np.arange(1764) / 10 + 176.4 * i).astype(np.float32)[None]
            beep = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            beep.sample_rate, beep.pts, beep.time_base = 44100, 1764 * i, Fraction(1, 44100)
            target.mux(audio.encode(beep))
        target.mux(video.encode(None))
        target.mux(audio.encode(None))
    return path


def frames_of(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_a_video_gets_twice_the_frames_its_sound_and_its_times(model, short, tmp_path):
    done = run_rife("interpolate", short, tmp_path / "out.mp4", "--model", model, new_process=True)
    assert "23/23" in done.stderr
    assert "frame/s" in done.stderr
    frames = frames_of(tmp_path / "out.mp4")
    assert [frame.time for frame in frames] == pytest.approx([i / 50 for i in range(23)])
    with av.open(str(tmp_path / "out.mp4")) as out, av.open(str(short)) as source:
        assert out.streams.video[0].average_rate == 50
        assert out.streams.video[0].codec_context.name == "h264"
        assert out.streams.video[0].codec_context.pix_fmt == "yuv420p"
        packets = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (out, source)]
    assert packets[0] == packets[1], "sound is copied as it is"
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


def test_original_frames_stay_in_their_places(model, short, tmp_path):
    """Every second frame of the output is the input's, but for the encoder's loss."""
    out = tmp_path / "out.mp4"
    run_rife("interpolate", short, out, "--model", model, "--crf", 1, "-m", 3)
    ours, theirs = frames_of(out), frames_of(short)
    assert len(ours) == 34
    for i, frame in enumerate(theirs):
        a, b = (f.to_ndarray(format="rgb24").astype(float) for f in (ours[3 * i], frame))
        assert abs(a - b).mean() < 2
        if i:
            before = ours[3 * i - 1].to_ndarray(format="rgb24").astype(float)
            assert abs(before - b).mean() > abs(a - b).mean()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".gif", ".webp", "", ".mkv"])
def test_any_kind_of_clip_becomes_any_other(model, short, tmp_path, kind):
    other, back = tmp_path / f"other{kind}", tmp_path / "back.mp4"
    run_rife("interpolate", short, other, "--model", model, "-m", 1)
    run_rife("interpolate", other, back, "--model", model, "--fps", 25)
    assert len(frames_of(back)) == 23
    if not kind:
        assert len(list(other.glob("*.png"))) == 12


@pytest.mark.slow
def test_options_reach_the_network(model, short, tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "other"
    run_rife("interpolate", short, plain, "--model", model)
    options = ["--ensemble", "--refine", "--tta", "--scale", 0.5, "--dtype", "bfloat16"]
    run_rife("interpolate", short, other, "--model", model, *options)
    images = [np.asarray(Image.open(f / "00000002.png"), float) for f in (plain, other)]
    assert 0 < abs(images[0] - images[1]).mean() < 5


def test_any_rate_loop_schedule_and_slow_motion(model, short, tmp_path):
    def run(*options):
        out = tmp_path / "out.mp4"
        run_rife("interpolate", short, out, "--model", model, "--overwrite", *options)
        with av.open(str(out)) as container:
            rate, sound = container.streams.video[0].average_rate, len(container.streams.audio)
        return rate, len(frames_of(out)), sound

    assert run("--target-fps", 60) == (60, 29, 1)
    assert run("-m", "2.5", "--duplicates", "--cuts", "ignore") == (Fraction(125, 2), 29, 1)
    assert run("-m", "0-3:2, 4:3", "--slow-motion") == (25, 18, 0)
    assert run("--loop", "--start", "0.2", "--duration", "0.12") == (50, 6, 1)


def test_the_model_may_come_from_the_environment(model, short, tmp_path):
    env = os.environ | {"RIFE_MODEL": str(model)}
    run_rife("interpolate", short, tmp_path / "out.mp4", "-m", 1, env=env)
    env["RIFE_MODEL"] = ""
    assert "Which model?" in refusal("interpolate", short, tmp_path / "o.mp4", env=env)


def test_info_says_what_a_model_is(model, weights):
    text = run_rife("info", model).stdout
    assert "RIFE v4.0 - v4.1" in text
    for option in ("scale", "ensemble", "refine", "tta"):
        assert text.count(f"\n{option} ") == 1
    assert "this network has none" not in text
    text = run_rife("info", weights("v3.8")).stdout
    assert "RIFE v3.6 - v3.9" in text
    assert re.search("\nensemble +part of this network, always on\n", text)
    assert re.search("\nrefine +this network has none\n", text)
    assert "v3.1" in refusal("info", weights("v3.1"))


UNPINNED = "flownet_cogvideo.pkl"  # of no size or hash on record: a server here can offer it


def test_models_are_listed_with_those_on_disk_marked(tmp_path):
    (tmp_path / DEFAULT).touch()
    header, *lines = run_rife(
        "models", env=os.environ | {"RIFE_MODELS": str(tmp_path)}
    ).stdout.split("\n")
    assert re.split("  +", header) == ["NAME", "VERSION", "SIZE", "ON DISK", "GOOD FOR"]
    assert [line.split(" ")[0] for line in lines] == [*ZOO, ""]
    assert re.split("  +", lines[0]) == [
        DEFAULT, "v4.25 - v4.26", "22.7 MB", "yes", ZOO[DEFAULT].good_for
    ]  # fmt: skip
    assert not any("  yes  " in line for line in lines[1:])


@pytest.mark.slow
def test_a_model_is_got_and_then_found_by_its_name(weights, short, tmp_path):
    with serving(weights("v3.8").read_bytes()) as hub:
        env = os.environ | {"RIFE_MODELS": str(tmp_path / "models"), "HF_ENDPOINT": hub.url}
        out = tmp_path / "out.mp4"
        run = ("interpolate", short, out, "-m", 2, "--model", UNPINNED)
        assert f"python -m rife models get {UNPINNED}" in refusal(*run, env=env)
        assert f"models get {UNPINNED}" in refusal("info", UNPINNED, env=env)

        done = run_rife("models", "get", UNPINNED, env=env)
        assert "12.2M/12.2M" in done.stderr
        path = tmp_path / "models" / UNPINNED
        assert done.stdout == f"{path}\n"
        assert path.read_bytes() == hub.content

        requests = len(hub.log)
        run_rife(*run, env=env)
        assert len(frames_of(out)) == 23
        assert "RIFE v3.6 - v3.9" in run_rife("info", UNPINNED, env=env).stdout
        run_rife("convert", UNPINNED, tmp_path / "converted.safetensors", env=env)
        assert len(hub.log) == requests

        run_rife("models", "get", UNPINNED, "--to", tmp_path / "other", env=env)
        assert (tmp_path / "other" / UNPINNED).read_bytes() == hub.content


def test_a_model_that_cannot_be_got(tmp_path):
    message = refusal("models", "get", "rife_v9.safetensors")
    assert "rife_v9.safetensors" in message and "python -m rife models" in message
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    message = refusal("models", "get", UNPINNED, "--to", tmp_path / "x", env=env)
    assert ZOO[UNPINNED].source.url in message and str(tmp_path / "x") in message


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def same_output(path, other):
    image0, image1 = seeded_images(64, 64).chunk(2, dim=1)
    outputs = [load_model(p, "cpu", torch.float32)(image0, image1) for p in (path, other)]
    return torch.equal(*outputs)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.8", "v4.0"])
def test_a_converted_model_gives_the_same_frames_and_says_where_it_is_from(
    weights, tmp_path, version
):
    source, out = weights(version), tmp_path / "out.safetensors"
    run_rife("convert", source, out)
    assert same_output(source, out)
    network = load_model(source, "cpu")
    assert metadata(out) == {
        "format": "pt",
        "version": network.version,
        "network": type(network).__name__,
        "source": source.name,
        "sha256": sha256(source),
    }
    assert set(read_state_dict(out)) == set(network.state_dict())
    text = run_rife("info", out).stdout
    assert source.name in text and sha256(source) in text


def test_converting_leaves_training_behind_and_keeps_each_dtype(tmp_path):
    source, out = tmp_path / "in.pth", tmp_path / "out.safetensors"
    state = seeded_state(IFNet())
    state |= {key: tensor.double() for key, tensor in state.items() if "block2" in key}
    torch.save(state, source)
    run_rife("convert", source, out)
    kept = read_state_dict(out)
    assert kept.keys() == {key for key in state if not key.startswith("block_tea.")} < state.keys()
    assert all(torch.equal(kept[key], state[key]) for key in kept)
    assert all(kept[key].dtype == state[key].dtype for key in kept)
    run_rife("convert", source, out, "--half", "--overwrite")
    assert {tensor.dtype for tensor in read_state_dict(out).values()} == {torch.float16}


def test_the_network_that_a_converted_file_names_is_recognised(tmp_path):
    source, out = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(seeded_state(IFNet_2R()), source)
    run_rife("convert", source, out, "--network", "IFNet_2R")
    assert type(load_model(source, "cpu")) is IFNet
    assert type(load_model(out, "cpu")) is IFNet_2R
    assert "RIFE 2R" in run_rife("info", out).stdout


@pytest.mark.slow
def test_converting_over_anything_is_refused(weights, tmp_path):
    source, out = weights("v3.8"), tmp_path / "out.safetensors"
    out.write_text("precious")
    assert "exists" in refusal("convert", source, out)
    assert out.read_text() == "precious"
    run_rife("convert", source, out, "--overwrite")
    before = out.read_bytes()
    (tmp_path / "alias.safetensors").symlink_to(out)
    for name in ("out", "alias"):
        same = tmp_path / f"{name}.safetensors"
        assert "input itself" in refusal("convert", out, same, "--half", "--overwrite")
    assert out.read_bytes() == before
    assert ".safetensors" in refusal("convert", source, tmp_path / "out.pth")
    assert ".safetensors" in refusal("convert", source, tmp_path)


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(model, short, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    assert "exists" in refusal("interpolate", short, out, "--model", model)
    assert out.read_text() == "precious"
    run_rife("interpolate", short, out, "--model", model, "-m", 1, "--overwrite")
    assert len(frames_of(out)) == 12


def test_output_over_input_is_refused(model, short, tmp_path):
    clip = tmp_path / "clip.mp4"
    shutil.copy(short, clip)
    before = clip.read_bytes()
    arguments = ("--model", model, "--overwrite")
    assert "input itself" in refusal("interpolate", clip, clip, *arguments)
    (tmp_path / "alias.mp4").symlink_to(clip)
    assert "input itself" in refusal("interpolate", clip, tmp_path / "alias.mp4", *arguments)
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "empty"),
        (b"hello " * 100, "text.mp4"),
        ("half", "Can't read"),
        ("sound", "no video"),
    ],
)
def test_input_that_is_no_clip_is_refused(model, short, tmp_path, content, message):
    clip = tmp_path / "text.mp4"
    if content == "half":
        content = short.read_bytes()[: short.stat().st_size // 2]
    if content == "sound":
        with av.open(str(clip), "w") as target:
            audio = target.add_stream("aac", rate=44100, layout="mono")
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate = 44100
            target.mux(audio.encode(silence))
            target.mux(audio.encode(None))
    elif content is not None:
        clip.write_bytes(content)
    out = tmp_path / "out.mp4"
    assert message in refusal("interpolate", clip, out, "--model", model)
    assert not out.exists()
    assert [p.name for p in tmp_path.iterdir() if p != clip] == []


def test_a_frame_count_of_one_comes_back_and_an_empty_folder_is_refused(model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    assert "no images" in refusal("interpolate", folder, tmp_path / "out", "--model", model).lower()
    Image.new("RGB", (30, 20), "red").save(folder / "1.png")
    run_rife("interpolate", folder, tmp_path / "out", "--model", model)
    assert Image.open(tmp_path / "out/00000001.png").getpixel((0, 0)) == (255, 0, 0)
    Image.new("RGB", (31, 20), "red").save(folder / "2.png")
    message = refusal("interpolate", folder, tmp_path / "out2", "--model", model)
    assert "1.png" in message
    assert "2.png" in message


def test_an_output_folder_that_is_missing_or_read_only_is_said_before_the_work(
    model, short, tmp_path
):
    missing = tmp_path / "none/out.mp4"
    assert "does not exist" in refusal("interpolate", short, missing, "--model", model)
    if os.name == "posix" and os.geteuid():
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        assert "permission" in refusal("interpolate", short, folder / "o.mp4", "--model", model)


def test_models_that_are_none_are_refused(short, tmp_path):
    model = tmp_path / "model.pth"
    model.write_bytes(b"<!doctype html><title>Sign in</title>")
    assert "web page" in refusal("interpolate", short, tmp_path / "o.mp4", "--model", model)
    assert "is a folder" in refusal("interpolate", short, tmp_path / "o.mp4", "--model", tmp_path)
    assert not (tmp_path / "o.mp4").exists()


def test_unknown_settings_are_explained(model, short, tmp_path, capsys):
    def misused(*arguments):
        """What a command line that can't be read is answered; no process of its own, for speed."""
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        return capsys.readouterr().err

    out = tmp_path / "out.mp4"
    assert "encoder" in refusal("interpolate", short, out, "--model", model, "--codec", "wmv9")
    assert "has no pixel format" in refusal(
        "interpolate", short, out, "--model", model, "--pixel-format", "rgb48le"
    )
    assert ".mp4" in refusal("interpolate", short, tmp_path / "out.xyz", "--model", model)
    for options, message in (
        (["-m", "0"], "'0' is no multiplier"),
        (["-m", "3-1:2"], "in order"),
        (["--target-fps", "fast"], "'fast' is no frame rate"),
        (["--start", "-1"], "'-1' is no time"),
        (["--cuts", "skip"], "hold"),
        (["--scale", "half"], "'half' is no scale"),
    ):
        assert message in misused("interpolate", str(short), str(out), *options)
    assert "cut_sensitivity" in refusal(
        "interpolate", short, out, "--model", model, "--cut-sensitivity", "2"
    )
    assert "'warp9' can't be used" in misused(
        "interpolate", str(short), str(out), "--device", "warp9"
    )
    assert list(tmp_path.iterdir()) == []


STATUS = {name: 128 + getattr(signal, name, 0) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
posix = pytest.mark.skipif(os.name == "nt", reason="signals, pipes and links")
slow = pytest.mark.slow


def start(*arguments, options=()) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *options, "-m", "rife", *map(str, arguments)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
        # Programs that run these tests in the background have SIGINT ignored, and so all below.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@posix
@pytest.mark.parametrize(
    "how", [how if how == "SIGINT" else pytest.param(how, marks=slow) for how in STATUS]
)
def test_an_interrupt_leaves_no_debris(model, clips, tmp_path, how):
    out = tmp_path / "out.mp4"
    process = start("interpolate", clips("bikes"), out, "--model", model)
    deadline = time.monotonic() + 120
    while not any(p.stat().st_size for p in tmp_path.glob("*.mp4")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(getattr(signal, how))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == STATUS[how]
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == f"interrupted; {out} was not written"
    assert list(tmp_path.iterdir()) == []


@posix
def test_an_interrupt_while_torch_is_imported_ends_without_a_traceback():
    process = start("models", options=["-X", "importtime"])
    while "torch" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("rife.media.writer.VideoWriter.write", "before"),
        ("rife.media.writer.VideoWriter.close", "before"),
        ("rife.media.writer.VideoWriter.close", "after"),
        ("os.replace", "before"),
        ("os.replace", "after"),
        ("rife.fileio.remove_path", "before"),
        ("os.unlink", "after"),
    ],
)
def test_interrupts_at_any_moment_leave_the_old_file_or_the_new_and_say_which(
    model, short, tmp_path, monkeypatch, call, when, overwrite
):
    out = tmp_path / "out.mp4"
    if overwrite:
        out.write_bytes(b"precious")
    true = pydoc.locate(call)
    monkeypatch.setattr("rife.cli.load_model", load_once)

    def interrupted(*args, **options):
        result = None if when == "before" else true(*args, **options)
        signal.raise_signal(signal.SIGINT)
        return true(*args, **options) if when == "before" else result

    monkeypatch.setattr(call, interrupted)
    stderr = run_rife(
        "interpolate",
        short,
        out,
        "--model",
        model,
        "-m",
        1,
        *["--overwrite"] * overwrite,
        check=130,
    ).stderr
    last = stderr.splitlines()[-1]
    if out.exists() and out.read_bytes() != b"precious":
        assert len(frames_of(out)) == 12
        assert last == f"interrupted, but {out} is whole already"
    else:
        became = "is as it was" if overwrite else "was not written"
        assert last == f"interrupted; {out} {became}"
    assert list(tmp_path.iterdir()) == [out] * out.exists()


@posix
def test_the_second_interrupt_lets_the_first_clean_up_and_the_third_ends(tmp_path):
    script = f"""
import importlib.util, signal, sys
spec = importlib.util.spec_from_file_location("interrupts", {str(ROOT / "rife/interrupts.py")!r})
interrupts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupts)
signal.signal(signal.SIGINT, signal.default_int_handler)
with interrupts.raise_on_signal() as check:
    check()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as stop:
        print(stop.exit_status)
        signal.raise_signal(signal.SIGTERM)
        print("cleaned up", flush=True)
        try:
            check()
        except interrupts.Interrupted:
            signal.raise_signal(signal.SIGTERM)
print("not reached")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "130\ncleaned up\n"
    assert run.stderr == "\nCleaning up; once more to end at once.\n"
    assert run.returncode == 143


@posix
def test_a_signal_while_python_ends_does_not_change_the_status(tmp_path):
    script = """
import atexit, os, runpy, signal, sys

atexit.register(lambda: [os.kill(os.getpid(), n) for n in (signal.SIGINT, signal.SIGTERM)])
sys.argv = ["rife", "models"]
runpy.run_module("rife", run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert DEFAULT in run.stdout


def test_signals_that_were_ignored_stay_so(model, short, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write = VideoWriter.write
    monkeypatch.setattr(
        VideoWriter, "write", lambda *args: [signal.raise_signal(signal.SIGTERM), write(*args)]
    )
    try:
        run_rife("interpolate", short, tmp_path / "out.mp4", "--model", model, "-m", 1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(frames_of(tmp_path / "out.mp4")) == 12


def test_damage_is_a_status_of_its_own_if_that_is_asked(model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        Image.effect_noise((64, 64), 50).convert("RGB").save(folder / f"{i}.png")
    whole = (folder / "1.png").read_bytes()
    for i, (options, status) in enumerate([(["--strict"], 0), ([], 0), (["--strict"], 3)]):
        if i == 1:
            (folder / "1.png").write_bytes(whole[:500] + bytes(500) + whole[1000:])
        out = tmp_path / f"out{i}"
        done = run_rife("interpolate", folder, out, "--model", model, *options, check=status)
        assert ("1.png" in done.stderr) == (i > 0)
        assert (out / "00000003.png").exists()
        assert done.stdout == f"{out}\n"


def test_picture_and_sound_end_together_if_that_is_asked(model, short, tmp_path):
    run_rife("interpolate", short, tmp_path / "out.mp4", "--model", model, "--length", "duration")
    assert len(frames_of(tmp_path / "out.mp4")) == 24


@posix
@pytest.mark.parametrize("where", ["stdout", "stderr"])
@pytest.mark.parametrize(
    "how", ["gone", *(pytest.param(how, marks=slow) for how in ("closed", "full"))]
)
def test_a_file_is_written_whoever_reads_its_name(short, model, tmp_path, where, how):
    """The name is printed when the file is there already: that can't fail any more."""
    if how == "full" and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    number = {"stdout": 1, "stderr": 2}[where]
    redirected = {"closed": f"{number}>&-", "full": f"{number}>/dev/full", "gone": "| true"}[how]
    if how == "gone" and where == "stderr":
        redirected = "2>&1 >&3 3>&- | true"
    script = f'"$@" {redirected}; echo "${{PIPESTATUS[0]}}" >&4'
    read, write = os.pipe()
    run = subprocess.run(
        ["bash", "-c", f"exec 4>&{write}; exec 3>&1; {script}", "bash", sys.executable, "-m",
         "rife", "interpolate", short, tmp_path / "é\u4e2d.mp4", "--model", model, "-m", "1"],
        cwd=ROOT, capture_output=True, text=True, pass_fds=[write],
    )  # fmt: skip
    os.close(write)
    with open(read) as status:
        assert status.read() == "0\n"
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert len(frames_of(tmp_path / "é\u4e2d.mp4")) == 12


@posix
def test_a_report_that_nobody_can_read_is_an_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):
        assert main(["models"]) == 1
        os.set_blocking(full.fileno(), True)


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=slow)])
def test_names_are_printed_in_any_encoding(short, model, tmp_path, encoding):
    folder = tmp_path / "\u4e2d\x1b[31m"
    folder.mkdir()
    out = folder / "o.mp4"
    done = run_rife(
        "interpolate", short, out, "--model", model, "-m", 1,
        new_process=True, env=os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"},
    )  # fmt: skip
    assert "\\x1b[31m" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "\\u4e2d" in done.stdout
    assert len(frames_of(out)) == 12


def test_a_warning_has_a_line_of_its_own_and_the_bar_ends_at_its_total(model, tmp_path):
    clip = tmp_path / "in\n\x1b[2J.mp4"
    with av.open(str(clip), "w", format="mp4") as target:
        video = target.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        for i in (0, 1, 2, 3, 40):  # by its length and rate, it had more
            image = np.full((48, 64, 3), 40 * i % 255, np.uint8)
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = i, Fraction(1, 25)
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
    done = run_rife(
        "interpolate", clip, tmp_path / "out.mp4", "--model", model, "--slow-motion",
        "--target-fps", 30, "--cuts", "ignore",
    )  # fmt: skip
    lines = done.stderr.split("\n")
    assert not [line for line in lines if "frame/s" in line and "even" in line]
    assert "\x1b" not in done.stdout + done.stderr
    bar = re.findall(r"(\d+)/(\d+)", lines[-2])
    assert bar and bar[-1][0] == bar[-1][1]


ODD = [
    "", " ", "0", "-1", "-0", "1/0", "nan", "inf", "-inf", "1e30", "1e400", "1e999999999", "２",
    "null", "None", "true", "\0", "a\0b", "\x1b[31m", "a\nb", "\udcff", "9" * 5000, "x" * 70_000,
    "1:2", "0-:1e9", ",", "/", ".", "..", "/dev/null", "/dev/zero", "~", "-", "--", "-x", "%s",
    "{}", "cpu:99", "meta", "cuda:-1", "12:30.mp4", "concat:x|y", "http://localhost:1/x.mp4",
]  # fmt: skip
OPTIONS = [
    "-m", "--multiplier", "--target-fps", "--length", "--cuts", "--cut-sensitivity", "--start",
    "--duration", "--model", "--device", "--dtype", "--scale", "--fps", "--crf", "--codec",
    "--pixel-format", "--interlaced",
]  # fmt: skip


@pytest.mark.parametrize("option", [*OPTIONS, "IN", "OUT", "FILE", "NAME", "--to", "COMMAND"])
def test_odd_values_are_answered_in_a_line(model, tmp_path, option, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rife.cli.load_model", load_once)
    monkeypatch.setenv("RIFE_MODEL", str(model))
    monkeypatch.setenv("RIFE_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    few = tmp_path / "few"
    few.mkdir()
    Image.new("RGB", (16, 16)).save(few / "1.png")
    for value in random.Random(option).sample(ODD, 15):
        commands = {
            "IN": ["interpolate", value, "out", "--overwrite"],
            "OUT": ["interpolate", "few", value],
            "FILE": ["info", value],
            "NAME": ["models", "get", value],
            "--to": ["models", "get", UNPINNED, "--to", value],
            "COMMAND": [value],
        }
        done = run_in_process(
            ["", "", "", *commands.get(option, ["interpolate", "few", "out", f"{option}={value}"])],
            None,
        )
        assert done.returncode in (0, 1, 2), value
        told = done.stderr + done.stdout
        assert "Traceback" not in told and "\x1b" not in told and "\0" not in told, value
        assert max(map(len, told.split("\n"))) < 3000, value
        if done.returncode == 1:
            assert done.stderr.splitlines()[-1].startswith("error: "), value
        shutil.rmtree("out", ignore_errors=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".rife-")]
