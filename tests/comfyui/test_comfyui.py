"""The nodes inside a real ComfyUI: whole graphs, interrupts, model files that come and go."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from rife.zoo import DEFAULT, ZOO

from .conftest import OTHER_PACK, ComfyUI, Rejected

pytestmark = pytest.mark.comfyui

#: Published without a size or a hash on record, so that the Hub here can offer it.
UNPINNED = "flownet_cogvideo.pkl"


def video_prompt(clip: str, model: str, multiplier: int = 2) -> dict:
    """Load video -> our nodes -> create video -> save video."""
    return {
        "load": {"class_type": "LoadVideo", "inputs": {"file": clip}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
        "model": {
            "class_type": "LoadRIFEModel",
            "inputs": {"model_name": model},
        },
        "rife": {
            "class_type": "RIFEFrameInterpolate",
            "inputs": {"model": ["model", 0], "images": ["parts", 0], "multiplier": multiplier},
        },
        "video": {"class_type": "CreateVideo", "inputs": {"images": ["rife", 0], "fps": 16.0}},
        "save": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["video", 0],
                "filename_prefix": "smooth",
                "format": "auto",
                "codec": "auto",
            },
        },
    }


def images_prompt(clip: str, model: str, *, frames: int = 2, multiplier: int = 2) -> dict:
    """The clip's first frames, made small -> our nodes -> save image."""
    prompt = video_prompt(clip, model, multiplier)
    del prompt["video"]
    prompt["some"] = {
        "class_type": "ImageFromBatch",
        "inputs": {"image": ["parts", 0], "batch_index": 0, "length": frames},
    }
    prompt["small"] = {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["some", 0],
            "upscale_method": "area",
            "width": 240,
            "height": 160,
            "crop": "disabled",
        },
    }
    prompt["rife"]["inputs"]["images"] = ["small", 0]
    prompt["save"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["rife", 0], "filename_prefix": "frame"},
    }
    return prompt


def saved_images(comfy: ComfyUI, prompt: dict) -> list[np.ndarray]:
    run = comfy.run(prompt)
    assert run.ended == "success", run.events[-1]
    return [np.asarray(Image.open(path)) for path in comfy.files(run)]


def test_both_nodes_are_listed_with_their_inputs_in_order(comfy: ComfyUI) -> None:
    loader = comfy.get("/object_info/LoadRIFEModel")["LoadRIFEModel"]
    interpolate = comfy.get("/object_info/RIFEFrameInterpolate")["RIFEFrameInterpolate"]
    assert loader["display_name"] == "Load RIFE Model"
    assert loader["input_order"] == {"required": ["model_name"], "optional": ["precision"]}
    assert loader["output"] == ["RIFE_MODEL"]
    assert interpolate["display_name"] == "RIFE Frame Interpolate"
    assert interpolate["input_order"]["required"] == ["model", "images", "multiplier"]
    assert interpolate["output"] == ["IMAGE"]
    for node in (loader, interpolate):
        assert all(options["tooltip"] for _, options in node["input"]["required"].values())


def test_a_clip_of_49_frames_becomes_97_at_twice_the_rate(comfy: ComfyUI, clip: str) -> None:
    run = comfy.run(video_prompt(clip, "v4.0.pkl"))
    assert run.ended == "success", run.events[-1]
    (path,) = comfy.files(run)
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (720, 480, 16)
        assert sum(1 for _ in video.decode(stream)) == 97


def test_progress_counts_every_new_frame_and_shows_some(comfy: ComfyUI, clip: str) -> None:
    run = comfy.run(images_prompt(clip, "v4.0.pkl", frames=9, multiplier=3))
    steps = [data for data in run.of("progress") if data["node"] == "rife"]
    assert [step["value"] for step in steps] == sorted(step["value"] for step in steps)
    assert (steps[-1]["value"], steps[-1]["max"]) == (16, 16)
    previews = run.of("preview")
    assert all(preview["jpeg"].startswith(b"\xff\xd8") for preview in previews)
    seconds = run.events[-1][0] - run.events[0][0]
    assert 1 <= len(previews) <= 4 * seconds


def test_an_interrupt_ends_the_run_within_two_frames(comfy: ComfyUI, clip: str) -> None:
    run = comfy.submit(video_prompt(clip, "v4.0.pkl", multiplier=4))
    asked = None
    for kind, data in comfy.follow(run):
        if asked is None and kind == "progress" and data["node"] == "rife" and data["value"] >= 5:
            asked = time.monotonic()
            comfy.post("/interrupt", {})
    times = [when for when, kind, data in run.events if kind == "progress" and when < asked]
    frame_seconds = (times[-1] - times[0]) / (len(times) - 1)
    latency = run.events[-1][0] - asked
    print(f"a frame takes {frame_seconds:.2f} s; interrupted after {latency:.2f} s")
    assert run.ended == "interrupted"
    assert latency <= 2 * frame_seconds + 0.2

    assert len(saved_images(comfy, images_prompt(clip, "v4.0.pkl", multiplier=4))) == 5


def test_two_models_one_after_the_other_give_frames_of_their_own(comfy: ComfyUI, clip: str) -> None:
    first = saved_images(comfy, images_prompt(clip, "v4.0.pkl"))
    second = saved_images(comfy, images_prompt(clip, "frame_interpolation/v3.8.pkl"))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[2], second[2])
    assert not np.array_equal(first[1], second[1])


def test_a_replaced_model_file_is_noticed_and_an_unchanged_one_is_not_read_again(
    comfy: ComfyUI, clip: str, weights: Callable[[str], Path]
) -> None:
    path = comfy.base / "models" / "rife" / "replaced" / "model.pkl"
    path.parent.mkdir()
    prompt = images_prompt(clip, str(path.relative_to(comfy.base / "models" / "rife")))

    shutil.copyfile(weights("v4.0"), path)
    before = saved_images(comfy, prompt)
    assert {"model", "rife"} <= comfy.run(prompt).cached

    shutil.copyfile(weights("v3.8"), path)
    after = comfy.run(prompt)
    assert not {"model", "rife"} & after.cached
    assert not np.array_equal(np.asarray(Image.open(comfy.files(after)[1])), before[1])


def model_list(comfy: ComfyUI) -> tuple[list[str], dict]:
    """The loader's list of models, and the settings of that input."""
    loader = comfy.get("/object_info/LoadRIFEModel")["LoadRIFEModel"]
    options, settings = loader["input"]["required"]["model_name"]
    return settings["options"] if options == "COMBO" else options, settings


def test_the_list_has_what_every_folder_holds_then_what_can_be_downloaded(comfy: ComfyUI) -> None:
    names, settings = model_list(comfy)
    there = ["v4.0.pkl", "v3.8.pkl", "rife47.pth"]
    assert [name for name in names if name in there] == there
    downloads = [name for name in ZOO if name not in there]
    assert names[-len(downloads) :] == downloads
    assert settings["default"] == DEFAULT
    assert comfy.hub.log == []


def test_a_published_model_is_downloaded_once_and_the_workflow_stays_valid(
    comfy: ComfyUI, clip: str
) -> None:
    path = comfy.base / "models" / "rife" / UNPINNED
    size = len(comfy.hub.content)
    prompt = images_prompt(clip, UNPINNED)
    before, _ = model_list(comfy)

    comfy.hub.stop_at = size // 2
    comfy.hub.gate.clear()
    run = comfy.submit(prompt)
    for kind, data in comfy.follow(run):
        if kind == "progress" and data["node"] == "model" and not comfy.hub.gate.is_set():
            while not any(part.stat().st_size for part in path.parent.glob(".*.part")):
                time.sleep(0.02)
            comfy.post("/interrupt", {})
            comfy.hub.gate.set()
    assert run.ended == "interrupted"
    assert not path.exists()

    run = comfy.run(prompt)
    assert run.ended == "success", run.events[-1]
    steps = [data for data in run.of("progress") if data["node"] == "model"]
    assert (steps[-1]["value"], steps[-1]["max"]) == (size, size)
    assert path.read_bytes() == comfy.hub.content
    _, second = comfy.hub.ranges()
    assert second.startswith("bytes=")
    assert sorted(model_list(comfy)[0]) == sorted(before)
    requests = len(comfy.hub.log)
    assert {"model", "rife"} <= comfy.run(prompt).cached
    shutil.copyfile(comfy.base / OTHER_PACK / "rife47.pth", path)
    assert not {"model", "rife"} & comfy.run(prompt).cached
    assert len(comfy.hub.log) == requests

    downloaded = [np.asarray(Image.open(path)) for path in comfy.files(run)]
    assert np.array_equal(downloaded, saved_images(comfy, images_prompt(clip, "v3.8.pkl")))


def test_a_download_that_fails_says_how_to_do_it_by_hand(comfy: ComfyUI, clip: str) -> None:
    comfy.hub.status = 404
    try:
        run = comfy.run(images_prompt(clip, "rife49.pth"))
    finally:
        comfy.hub.status = None
    assert run.ended == "error"
    message = run.of("execution_error")[0]["exception_message"]
    for part in ("rife49.pth", "404", comfy.hub.url, str(comfy.base / "models" / "rife")):
        assert part in message


def test_an_unknown_model_is_refused_with_what_to_do(comfy: ComfyUI, clip: str) -> None:
    with pytest.raises(Rejected) as refusal:
        comfy.run(images_prompt(clip, "mine.pth"))
    for part in ("mine.pth", DEFAULT, str(comfy.base / "models" / "rife")):
        assert part in str(refusal.value)


def test_the_precision_changes_the_frames_a_little(comfy: ComfyUI, clip: str) -> None:
    def middle(precision: str) -> np.ndarray:
        prompt = images_prompt(clip, "v4.0.pkl")
        prompt["model"]["inputs"]["precision"] = precision
        return saved_images(comfy, prompt)[1].astype(int)

    exact = middle("float32")
    assert 0 < abs(middle("bfloat16") - exact).mean() < 1


def test_a_file_that_is_no_model_ends_the_run_with_the_reason(comfy: ComfyUI, clip: str) -> None:
    (comfy.base / "models" / "rife" / "empty.pth").touch()
    run = comfy.run(images_prompt(clip, "empty.pth"))
    assert run.ended == "error"
    assert "empty.pth" in run.of("execution_error")[0]["exception_message"]


def test_memory_stays_flat_over_runs_and_models_can_be_unloaded(comfy: ComfyUI, clip: str) -> None:
    process = psutil.Process(comfy.process.pid)

    def resident_after_run(multiplier: int) -> int:
        saved_images(comfy, images_prompt(clip, "v4.0.pkl", frames=3, multiplier=multiplier))
        return process.memory_info().rss

    resident_after_run(3)
    early = resident_after_run(4)
    for multiplier in (3, 4, 3, 4, 3):
        resident_after_run(multiplier)
    late = resident_after_run(4)
    print(f"resident after 2 runs {early >> 20} MiB, after 8 {late >> 20} MiB")
    assert late < 1.05 * early

    comfy.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(2)
    assert len(saved_images(comfy, images_prompt(clip, "v4.0.pkl", multiplier=5))) == 6
