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

from .conftest import ComfyUI, Rejected

pytestmark = pytest.mark.comfyui


def video_prompt(clip: str, model: str, multiplier: int = 2) -> dict:
    """Load video -> our nodes -> create video -> save video."""
    return {
        "load": {"class_type": "LoadVideo", "inputs": {"file": clip}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
        "model": {"class_type": "LoadRIFEModel", "inputs": {"model_name": model}},
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
    assert loader["input_order"]["required"] == ["model_name"]
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


def test_without_models_the_error_says_which_file_to_put_where(comfy: ComfyUI, clip: str) -> None:
    models, away = comfy.base / "models", comfy.base / "away"
    files = [path for path in models.glob("*/**/*") if path.is_file()]
    for path in files:
        (away / path.relative_to(models)).parent.mkdir(parents=True, exist_ok=True)
        path.rename(away / path.relative_to(models))
    try:
        listed = comfy.get("/object_info/LoadRIFEModel")["LoadRIFEModel"]["input"]["required"]
        with pytest.raises(Rejected) as refusal:
            comfy.run(images_prompt(clip, "rife_v4.26.safetensors"))
    finally:
        for path in files:
            (away / path.relative_to(models)).rename(path)
    assert "rife_v4.26.safetensors" in str(listed["model_name"])
    assert "rife_v4.26.safetensors" in str(refusal.value)
    assert str(models / "rife") in str(refusal.value)


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
