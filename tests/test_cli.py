"""`python -m rife`, run as users run it."""

import os
import random
import re
import shutil
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
from rife.models.checkpoint import read_state_dict
from rife.models.zoo import DEFAULT, ZOO
from rife.networks.ifnet import IFNet, IFNet_2R

from .support.clips import decode_frames
from .support.command_line import refusal, run_in_process, run_rife
from .support.hub import UNPINNED, serving
from .support.seeded import seeded_images, seeded_state

load_once = lru_cache(load_model)


@pytest.fixture(scope="module")
def model(weights):
    return weights("v4.0.safetensors")


def test_a_video_gets_twice_the_frames_its_sound_and_its_times(model, short_clip, tmp_path):
    done = run_rife(
        "interpolate", short_clip, tmp_path / "out.mp4", "--model", model, new_process=True
    )
    assert "23/23" in done.stderr
    assert "frame/s" in done.stderr
    frames = decode_frames(tmp_path / "out.mp4")
    assert [frame.time for frame in frames] == pytest.approx([i / 50 for i in range(23)])
    with av.open(str(tmp_path / "out.mp4")) as out, av.open(str(short_clip)) as source:
        assert out.streams.video[0].average_rate == 50
        assert out.streams.video[0].codec_context.name == "h264"
        assert out.streams.video[0].codec_context.pix_fmt == "yuv420p"
        packets = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (out, source)]
    assert packets[0] == packets[1], "sound is copied as it is"
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


def test_original_frames_stay_in_their_places(model, short_clip, tmp_path):
    """Every second frame of the output is the input's, but for the encoder's loss."""
    out = tmp_path / "out.mp4"
    run_rife("interpolate", short_clip, out, "--model", model, "--crf", 1, "-m", 3)
    ours, theirs = decode_frames(out), decode_frames(short_clip)
    assert len(ours) == 34
    for i, frame in enumerate(theirs):
        a, b = (f.to_ndarray(format="rgb24").astype(float) for f in (ours[3 * i], frame))
        assert abs(a - b).mean() < 2
        if i:
            before = ours[3 * i - 1].to_ndarray(format="rgb24").astype(float)
            assert abs(before - b).mean() > abs(a - b).mean()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".gif", ".webp", "", ".mkv"])
def test_any_kind_of_clip_becomes_any_other(model, short_clip, tmp_path, kind):
    other, back = tmp_path / f"other{kind}", tmp_path / "back.mp4"
    run_rife("interpolate", short_clip, other, "--model", model, "-m", 1)
    run_rife("interpolate", other, back, "--model", model, "--fps", 25)
    assert len(decode_frames(back)) == 23
    if not kind:
        assert len(list(other.glob("*.png"))) == 12


@pytest.mark.slow
def test_options_reach_the_network(model, short_clip, tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "other"
    run_rife("interpolate", short_clip, plain, "--model", model)
    options = ["--ensemble", "--refine", "--tta", "--scale", 0.5, "--dtype", "bfloat16"]
    run_rife("interpolate", short_clip, other, "--model", model, *options)
    images = [np.asarray(Image.open(f / "00000002.png"), float) for f in (plain, other)]
    assert 0 < abs(images[0] - images[1]).mean() < 5


def test_any_rate_loop_schedule_and_slow_motion(model, short_clip, tmp_path):
    def run(*options):
        out = tmp_path / "out.mp4"
        run_rife("interpolate", short_clip, out, "--model", model, "--overwrite", *options)
        with av.open(str(out)) as container:
            rate, sound = container.streams.video[0].average_rate, len(container.streams.audio)
        return rate, len(decode_frames(out)), sound

    assert run("--target-fps", 60) == (60, 29, 1)
    assert run("-m", "2.5", "--duplicates", "--cuts", "ignore") == (Fraction(125, 2), 29, 1)
    assert run("-m", "0-3:2, 4:3", "--slow-motion") == (25, 18, 0)
    assert run("--loop", "--start", "0.2", "--duration", "0.12") == (50, 6, 1)


def test_the_model_may_come_from_the_environment(model, short_clip, tmp_path):
    env = os.environ | {"RIFE_MODEL": str(model)}
    run_rife("interpolate", short_clip, tmp_path / "out.mp4", "-m", 1, env=env)
    env["RIFE_MODEL"] = ""
    assert "Which model?" in refusal("interpolate", short_clip, tmp_path / "o.mp4", env=env)


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
def test_a_model_is_got_and_then_found_by_its_name(weights, short_clip, tmp_path):
    with serving(weights("v3.8").read_bytes()) as hub:
        env = os.environ | {"RIFE_MODELS": str(tmp_path / "models"), "HF_ENDPOINT": hub.url}
        out = tmp_path / "out.mp4"
        run = ("interpolate", short_clip, out, "-m", 2, "--model", UNPINNED)
        assert f"python -m rife models get {UNPINNED}" in refusal(*run, env=env)
        assert f"models get {UNPINNED}" in refusal("info", UNPINNED, env=env)

        done = run_rife("models", "get", UNPINNED, env=env)
        assert "12.2M/12.2M" in done.stderr
        path = tmp_path / "models" / UNPINNED
        assert done.stdout == f"{path}\n"
        assert path.read_bytes() == hub.content

        requests = len(hub.log)
        run_rife(*run, env=env)
        assert len(decode_frames(out)) == 23
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


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(model, short_clip, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    assert "exists" in refusal("interpolate", short_clip, out, "--model", model)
    assert out.read_text() == "precious"
    run_rife("interpolate", short_clip, out, "--model", model, "-m", 1, "--overwrite")
    assert len(decode_frames(out)) == 12


def test_output_over_input_is_refused(model, short_clip, tmp_path):
    clip = tmp_path / "clip.mp4"
    shutil.copy(short_clip, clip)
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
def test_input_that_is_no_clip_is_refused(model, short_clip, tmp_path, content, message):
    clip = tmp_path / "text.mp4"
    if content == "half":
        content = short_clip.read_bytes()[: short_clip.stat().st_size // 2]
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
    model, short_clip, tmp_path
):
    missing = tmp_path / "none/out.mp4"
    assert "does not exist" in refusal("interpolate", short_clip, missing, "--model", model)
    if os.name == "posix" and os.geteuid():
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        assert "permission" in refusal(
            "interpolate", short_clip, folder / "o.mp4", "--model", model
        )


def test_models_that_are_none_are_refused(short_clip, tmp_path):
    model = tmp_path / "model.pth"
    model.write_bytes(b"<!doctype html><title>Sign in</title>")
    assert "web page" in refusal("interpolate", short_clip, tmp_path / "o.mp4", "--model", model)
    assert "is a folder" in refusal(
        "interpolate", short_clip, tmp_path / "o.mp4", "--model", tmp_path
    )
    assert not (tmp_path / "o.mp4").exists()


def test_unknown_settings_are_explained(model, short_clip, tmp_path, capsys):
    def misused(*arguments):
        """What a command line that can't be read is answered; no process of its own, for speed."""
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        return capsys.readouterr().err

    out = tmp_path / "out.mp4"
    assert "encoder" in refusal("interpolate", short_clip, out, "--model", model, "--codec", "wmv9")
    assert "has no pixel format" in refusal(
        "interpolate", short_clip, out, "--model", model, "--pixel-format", "rgb48le"
    )
    assert ".mp4" in refusal("interpolate", short_clip, tmp_path / "out.xyz", "--model", model)
    for options, message in (
        (["-m", "0"], "'0' is no multiplier"),
        (["-m", "3-1:2"], "in order"),
        (["--target-fps", "fast"], "'fast' is no frame rate"),
        (["--start", "-1"], "'-1' is no time"),
        (["--cuts", "skip"], "hold"),
        (["--scale", "half"], "'half' is no scale"),
    ):
        assert message in misused("interpolate", str(short_clip), str(out), *options)
    assert "cut_sensitivity" in refusal(
        "interpolate", short_clip, out, "--model", model, "--cut-sensitivity", "2"
    )
    assert "'warp9' can't be used" in misused(
        "interpolate", str(short_clip), str(out), "--device", "warp9"
    )
    assert list(tmp_path.iterdir()) == []


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


def test_picture_and_sound_end_together_if_that_is_asked(model, short_clip, tmp_path):
    run_rife(
        "interpolate", short_clip, tmp_path / "out.mp4", "--model", model, "--length", "duration"
    )
    assert len(decode_frames(tmp_path / "out.mp4")) == 24


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
