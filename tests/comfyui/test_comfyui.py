"""The nodes inside a real ComfyUI: whole graphs, interrupts, model files that come and go."""

import ast
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from rife import save_model, usable_dtype
from rife.models.zoo import DEFAULT, ZOO
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4

from ..support.comfyui.prompts import images_prompt, saved_images, video_prompt
from ..support.comfyui.server import OTHER_PACK, PACK, ComfyUI, Rejected
from ..support.hub import UNPINNED
from ..support.seeded import seeded_state

pytestmark = pytest.mark.comfyui


def test_the_nodes_are_listed_with_their_inputs_in_order(comfy: ComfyUI) -> None:
    loader = comfy.get("/object_info/LoadRIFEModel")["LoadRIFEModel"]
    interpolate = comfy.get("/object_info/RIFEFrameInterpolate")["RIFEFrameInterpolate"]
    assert loader["display_name"] == "Load RIFE Model"
    assert loader["input_order"] == {"required": ["model_name"], "optional": ["precision"]}
    assert loader["output"] == ["INTERP_MODEL"]
    assert interpolate["display_name"] == "RIFE Frame Interpolate"
    assert interpolate["input_order"]["required"] == ["images", "multiplier"]
    assert interpolate["output"] == ["IMAGE", "FLOAT", "INT", "MASK", "STRING"]
    assert interpolate["output_name"] == ["images", "fps", "frame_count", "mask", "report"]
    video = comfy.get("/object_info/RIFEVideoInterpolate")["RIFEVideoInterpolate"]
    assert video["display_name"] == "RIFE Video Interpolate"
    assert video["input_order"]["required"] == ["video", "multiplier"]
    assert video["output"] == ["VIDEO", "STRING"]
    flow = comfy.get("/object_info/RIFEOpticalFlow")["RIFEOpticalFlow"]
    assert flow["display_name"] == "RIFE Optical Flow"
    assert flow["output"] == ["IMAGE", "MASK", "RIFE_FLOW", "STRING"]
    for node in (loader, interpolate, video, flow):
        inputs = node["input"]["required"] | node["input"]["optional"]
        assert all(options["tooltip"] for _, options in inputs.values())


def test_a_clip_of_49_frames_becomes_97_at_twice_the_rate(comfy: ComfyUI, clip: str) -> None:
    run = comfy.run(video_prompt(clip, "v4.0.pkl"))
    assert run.ended == "success", run.events[-1]
    (path,) = comfy.files(run)
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (720, 480, 16)
        assert sum(1 for _ in video.decode(stream)) == 97


def test_8_becomes_24_frames_a_second_and_the_rate_goes_to_create_video(
    comfy: ComfyUI, clip: str
) -> None:
    prompt = video_prompt(clip, "v4.0.pkl")
    prompt["rife"]["inputs"] |= {"source_fps": ["parts", 2], "target_fps": 24.0}
    prompt["video"]["inputs"]["fps"] = ["rife", 1]
    run = comfy.run(prompt)
    assert run.ended == "success", run.events[-1]
    (path,) = comfy.files(run)
    assert rate_and_count(path) == (24, 147)


def test_a_forgotten_rate_is_that_of_the_video(comfy: ComfyUI, clip: str, talking: str) -> None:
    """Also through a node that passes frames on; another video makes the node run again."""
    prompt = video_prompt(talking, "v4.0.pkl")
    prompt["small"] = {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["parts", 0], "upscale_method": "area", "scale_by": 0.5},
    }
    prompt["rife"]["inputs"] |= {"images": ["small", 0], "source_fps": 0.0}
    prompt["video"]["inputs"]["fps"] = ["rife", 1]
    for file, rate in ((talking, 50), (clip, 16)):
        prompt["load"]["inputs"]["file"] = file
        run = comfy.run(prompt)
        assert run.ended == "success", run.events[-1]
        assert rate_and_count(comfy.files(run)[0])[0] == rate
        assert "assumed" not in run.said_on("rife")[0]


def test_where_the_rate_is_unknown_8_fps_are_assumed_with_a_warning(
    comfy: ComfyUI, talking: str
) -> None:
    prompt = images_prompt(talking, "v4.0.pkl")
    prompt["twice"] = {
        "class_type": "ImageBatch",
        "inputs": {"image1": ["small", 0], "image2": ["small", 0]},
    }
    prompt["rife"]["inputs"]["images"] = ["twice", 0]
    warning, done, _ = comfy.run(prompt).said_on("rife")
    assert warning.startswith("8 fps assumed") and done == "4 -> 7 frames, 8 -> 16 fps"
    prompt["rife"]["inputs"]["target_fps"] = 60.0
    run = comfy.run(prompt)
    assert run.ended == "error"
    assert "connect source_fps" in run.of("execution_error")[0]["exception_message"]


def test_the_rate_is_followed_through_inputs_that_comfyui_s_nodes_have(comfy: ComfyUI) -> None:
    nodes = comfy.get("/object_info")
    text = (PACK / "comfy_host" / "source_rates.py").read_text()
    table = ast.literal_eval(re.search(r"PASS_FRAMES_ON = (\{.*?\})", text, re.DOTALL)[1])
    for kind, name in table.items():
        if kind in nodes:
            assert name in {**nodes[kind]["input"]["required"]}, kind
            assert not any(nodes[kind]["output_is_list"]), kind
    assert len(set(table) & set(nodes)) > 15


def test_videohelpersuite_s_rate_counts_the_frames_it_skips(comfy: ComfyUI, talking: str) -> None:
    if "VHS_LoadVideo" not in comfy.get("/object_info"):
        pytest.skip("VideoHelperSuite is not installed: COMFYUI_PACKS")
    prompt = video_prompt(talking, "v4.0.pkl")
    prompt["parts"] = {
        "class_type": "VHS_LoadVideo",
        "inputs": {
            **{"video": talking, "force_rate": 10, "custom_width": 0, "custom_height": 0},
            **{"frame_load_cap": 0, "skip_first_frames": 0, "select_every_nth": 2},
        },
    }
    prompt["video"]["inputs"]["fps"] = ["rife", 1]
    run = comfy.run(prompt)
    assert run.ended == "success", run.events[-1]
    assert rate_and_count(comfy.files(run)[0])[0] == 10


def test_every_setting_is_accepted(comfy: ComfyUI, clip: str) -> None:
    prompt = images_prompt(clip, "v4.0.pkl", frames=3)
    prompt["rife"]["inputs"] |= {
        "cuts": "blend",
        "cut_sensitivity": 0.4,
        "duplicates": True,
        "loop": True,
        "ensemble": True,
        "refine": True,
        "tta": True,
        "flow_scale": "0.5",
    }
    assert len(saved_images(comfy, prompt)) == 6


def file_to_file_prompt(clip: str, **settings: object) -> dict:
    """Load video -> our video node -> save video."""
    prompt = video_prompt(clip, "v4.0.pkl")
    del prompt["parts"], prompt["video"]
    prompt["rife"] = {
        "class_type": "RIFEVideoInterpolate",
        "inputs": {"model": ["model", 0], "video": ["load", 0], "multiplier": 2, **settings},
    }
    prompt["save"]["inputs"]["video"] = ["rife", 0]
    return prompt


def rate_and_count(path: Path) -> tuple[Fraction, int]:
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        return stream.average_rate, sum(1 for _ in video.decode(stream))


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as video:
        return [bytes(packet) for packet in video.demux(audio=0) if packet.size]


def test_a_video_goes_from_file_to_file_with_its_sound(comfy: ComfyUI, talking: str) -> None:
    run = comfy.run(file_to_file_prompt(talking))
    assert run.ended == "success", run.events[-1]
    (path,) = comfy.files(run)
    assert rate_and_count(path) == (50, 49)
    assert sound_of(path) == sound_of(comfy.base / "input" / talking)
    steps = [data for data in run.of("progress") if data["node"] == "rife"]
    assert (steps[-1]["value"], steps[-1]["max"]) == (49, 49)


def test_a_video_at_60_frames_a_second_and_in_slow_motion(comfy: ComfyUI, talking: str) -> None:
    run = comfy.run(file_to_file_prompt(talking, target_fps=60.0))
    assert run.ended == "success", run.events[-1]
    assert rate_and_count(comfy.files(run)[0]) == (60, 60)
    run = comfy.run(file_to_file_prompt(talking, slow_motion=True, crf=30, format="mp4"))
    assert run.ended == "success", run.events[-1]
    path = comfy.files(run)[0]
    assert rate_and_count(path) == (25, 49)
    with av.open(str(path)) as video:
        assert not video.streams.audio


def test_a_video_may_last_as_long_as_its_sound(comfy: ComfyUI, talking: str) -> None:
    run = comfy.run(file_to_file_prompt(talking, length="duration"))
    assert run.ended == "success", run.events[-1]
    (path,) = comfy.files(run)
    assert rate_and_count(path) == (50, 50)
    assert sound_of(path) == sound_of(comfy.base / "input" / talking)
    assert run.said_on("rife")[0] == "25 -> 50 frames, 25 -> 50 fps"


def test_what_a_run_warns_of_is_said_on_its_node(comfy: ComfyUI, talking: str) -> None:
    silent = "Slow motion has no sound: it is left out."
    for slow_motion in (True, False):
        run = comfy.run(file_to_file_prompt(talking, slow_motion=slow_motion, crf=25))
        assert run.ended == "success", run.events[-1]
        assert run.said_on("rife").count(silent) == slow_motion


def test_a_video_from_images_stays_in_memory_and_keeps_its_sound(
    comfy: ComfyUI, talking: str
) -> None:
    before = set((comfy.base / "temp").glob("rife_*"))
    prompt = file_to_file_prompt(talking)
    prompt["parts"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}}
    prompt["video"] = {
        "class_type": "CreateVideo",
        "inputs": {"images": ["parts", 0], "audio": ["parts", 1], "fps": ["parts", 2]},
    }
    prompt["rife"]["inputs"]["video"] = ["video", 0]
    run = comfy.run(prompt)
    assert run.ended == "success", run.events[-1]
    (path,) = comfy.files(run)
    assert rate_and_count(path) == (50, 49)
    assert sound_of(path)
    assert set((comfy.base / "temp").glob("rife_*")) == before


def test_a_trimmed_video_stays_trimmed(comfy: ComfyUI, talking: str) -> None:
    if "Video Slice" not in comfy.get("/object_info"):
        pytest.skip("this ComfyUI trims no videos")
    prompt = file_to_file_prompt(talking)
    prompt["trim"] = {
        "class_type": "Video Slice",
        "inputs": {
            "video": ["load", 0], "start_time": 0.2, "duration": 0.4, "strict_duration": False
        },
    }  # fmt: skip
    prompt["rife"]["inputs"]["video"] = ["trim", 0]
    run = comfy.run(prompt)
    assert run.ended == "success", run.events[-1]
    assert rate_and_count(comfy.files(run)[0]) == (50, 19)


def test_an_interrupted_video_leaves_no_file(comfy: ComfyUI, clip: str) -> None:
    temp = comfy.base / "temp"
    before = set(temp.glob("*"))
    run = comfy.submit(file_to_file_prompt(clip, multiplier=4))
    asked = False
    for kind, data in comfy.follow(run):
        if kind == "progress" and data["node"] == "rife" and data["value"] >= 5 and not asked:
            asked = True
            comfy.post("/interrupt", {})
    assert run.ended == "interrupted"
    assert set(temp.glob("*")) == before
    assert not set(temp.glob(".*"))


def test_flow_and_mask_can_be_looked_at(comfy: ComfyUI, clip: str) -> None:
    prompt = images_prompt(clip, "v4.0.pkl", frames=3)
    prompt["rife"] = {
        "class_type": "RIFEOpticalFlow",
        "inputs": {"model": ["model", 0], "images": ["small", 0]},
    }
    prompt["as_image"] = {"class_type": "MaskToImage", "inputs": {"mask": ["rife", 1]}}
    prompt["save_mask"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["as_image", 0], "filename_prefix": "mask"},
    }
    images = saved_images(comfy, prompt)
    assert [image.shape for image in images] == [(160, 240, 3)] * 4
    assert all(image.std() > 1 for image in images)


def test_progress_counts_every_frame_and_shows_some(comfy: ComfyUI, clip: str) -> None:
    run = comfy.run(images_prompt(clip, "v4.0.pkl", frames=9, multiplier=3))
    steps = [data for data in run.of("progress") if data["node"] == "rife"]
    assert [step["value"] for step in steps] == sorted(step["value"] for step in steps)
    assert (steps[-1]["value"], steps[-1]["max"]) == (25, 25)
    previews = run.of("preview")
    assert all(preview["jpeg"].startswith(b"\xff\xd8") for preview in previews)
    seconds = run.events[-1][0] - run.events[0][0]
    assert 1 <= len(previews) <= 4 * seconds
    lines = [line["text"] for line in run.of("line") if line["node"] == "rife"]
    assert lines[0].startswith("frame 1 of 25")
    assert run.said_on("rife")[0].startswith("9 -> 25 frames")


def test_a_preview_looks_like_the_frame_and_is_as_large(comfy: ComfyUI, talking: str) -> None:
    """Of bytes, which the frames of a file are, and of floats."""
    with av.open(str(comfy.base / "input" / talking)) as video:
        first = next(video.decode(video=0)).to_ndarray(format="rgb24")
    images = video_prompt(talking, "v4.0.pkl", multiplier=3)
    for prompt in (file_to_file_prompt(talking, multiplier=3), images):
        preview = comfy.run(prompt).of("preview")[0]["jpeg"]  # with the first frame that is done
        shown = np.asarray(Image.open(BytesIO(preview)))
        assert shown.shape == first.shape
        assert np.abs(shown.astype(int) - first).mean() < 4


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
    on_disk = ["v4.0.pkl", "v3.8.pkl", "rife47.pth"]
    assert [name for name in names if name in on_disk] == on_disk
    downloads = [name for name in ZOO if name not in on_disk]
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
    difference = abs(middle("bfloat16") - exact).mean()
    if usable_dtype(torch.bfloat16, torch.device("cpu")) == torch.float32:
        assert difference == 0  # this CPU would only emulate it
    else:
        assert 0 < difference < 1


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
    for run in range(17):
        resident_after_run(3 + run % 2)
    late = resident_after_run(4)
    print(f"resident after 2 runs {early >> 20} MiB, after 20 {late >> 20} MiB")
    assert late < 1.05 * early

    comfy.forget_results()
    assert len(saved_images(comfy, images_prompt(clip, "v4.0.pkl", multiplier=5))) == 6


def test_runs_interrupted_at_random_moments_leave_the_next_one_right(
    comfy: ComfyUI, clip: str, talking: str
) -> None:
    chance = random.Random(0)
    expected = saved_images(comfy, images_prompt(clip, "v4.0.pkl", frames=4, multiplier=3))
    (whole,) = comfy.files(comfy.run(file_to_file_prompt(talking, multiplier=3)))
    process, sizes, ended = psutil.Process(comfy.process.pid), [], Counter()
    for number in range(30):
        # An unused setting's value makes each prompt one that ComfyUI has not cached.
        changed = {"cut_sensitivity": number / 100 + 0.3}
        prompt = file_to_file_prompt(talking, multiplier=3, **changed)
        if number % 2:
            prompt = images_prompt(clip, "v4.0.pkl", frames=4, multiplier=3)
            prompt["rife"]["inputs"] |= changed
        run = comfy.submit(prompt)
        time.sleep(chance.uniform(0, 1.5))
        comfy.post("/interrupt", {})
        for _ in comfy.follow(run):
            pass
        ended[run.ended] += 1
        sizes.append(process.memory_info().rss)
    early = max(sizes[:10])  # a run that ends at once takes nothing
    print(f"runs ended {dict(ended)}; resident {early >> 20} -> {sizes[-1] >> 20} MiB")
    assert set(ended) <= {"interrupted", "success"} and ended["interrupted"]
    assert sizes[-1] < 1.05 * early
    assert not list((comfy.base / "temp").glob(".rife*"))
    prompt = images_prompt(clip, "v4.0.pkl", frames=4, multiplier=3)
    prompt["rife"]["inputs"]["cut_sensitivity"] = 0.65
    assert np.array_equal(saved_images(comfy, prompt), expected)
    run = comfy.run(file_to_file_prompt(talking, multiplier=3, cut_sensitivity=0.29))
    assert rate_and_count(comfy.files(run)[0]) == rate_and_count(whole) == (75, 73)


def test_core_s_node_runs_our_model_and_ours_core_s(comfy: ComfyUI, clip: str) -> None:
    if "FrameInterpolate" not in comfy.get("/object_info"):
        pytest.skip("this ComfyUI has no node of its own that interpolates")
    torch.manual_seed(0)
    network = IFNet_v4(VERSIONS["v4.25 - v4.26"]).eval()
    network.load_state_dict(seeded_state(network))
    save_model(network, comfy.base / "models" / "frame_interpolation" / "seeded.safetensors")
    result = {}
    for loader in ("LoadRIFEModel", "FrameInterpolationModelLoader"):
        prompt = images_prompt(clip, "seeded.safetensors")
        prompt["model"]["class_type"] = loader
        result[loader, "ours"] = saved_images(comfy, prompt)
        prompt["rife"] = {
            "class_type": "FrameInterpolate",
            "inputs": {"interp_model": ["model", 0], "images": ["small", 0], "multiplier": 2},
        }
        result[loader, "core's"] = saved_images(comfy, prompt)
    wanted = result["LoadRIFEModel", "ours"]
    for images in result.values():
        assert len(images) == 3
        for image, other in zip(images, wanted, strict=True):
            # Off the sides that are padded: reflected there, repeated here.
            apart = np.abs(image[:96, :160].astype(int) - other[:96, :160])
            assert apart.mean() < 0.5


@pytest.mark.parametrize("kind, checkpoint", [("RIFE VFI", "rife47.pth"), ("FL_RIFE", "rife47")])
def test_a_prompt_with_a_missing_node_of_others_runs_ours_with_its_checkpoint(
    comfy: ComfyUI, clip: str, kind: str, checkpoint: str
) -> None:
    if not comfy.get("/features").get("node_replacements"):
        pytest.skip("this ComfyUI replaces no nodes")
    prompt = images_prompt(clip, "v4.0.pkl", frames=2)
    del prompt["model"]
    inputs = {"images": ["small", 0], "frames": ["small", 0]}  # theirs has one of the two
    inputs |= {"ckpt_name": checkpoint, "multiplier": 4, "ensemble": True, "scale_factor": 1.0}
    prompt["rife"] = {"class_type": kind, "inputs": inputs}  # and no _meta, which pages add
    run = comfy.run(prompt)
    *_, frames, model = run.said_on("rife")
    assert frames.startswith("2 -> 5 frames")
    assert "v4.0" in model  # so rife47.pth is here; the default is not
    prompt["rife"] = {"class_type": kind, "inputs": inputs}
    del inputs["multiplier"]
    with pytest.raises(Rejected, match="multiplier"):
        comfy.run(prompt)


def test_a_prompt_may_name_its_model_and_a_wrong_name_is_refused(comfy: ComfyUI, clip: str) -> None:
    prompt = images_prompt(clip, "v4.0.pkl", frames=2)
    del prompt["model"]
    prompt["rife"]["inputs"]["model"] = "v4.0.pkl"
    assert "v4.0" in comfy.run(prompt).said_on("rife")[-1]
    prompt["rife"]["inputs"]["model"] = "rife40.pth"
    (error,) = comfy.run(prompt).of("execution_error")
    assert error["exception_message"].startswith('There is no RIFE model "rife40.pth".')


def test_a_run_says_on_its_node_what_it_did(comfy: ComfyUI, clip: str) -> None:
    run = comfy.run(images_prompt(clip, "v4.0.pkl", frames=3))
    frames, model = run.said_on("rife")
    assert frames == "3 -> 5 frames, 8 -> 16 fps" and "v4.0" in model
