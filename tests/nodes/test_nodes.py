"""What the nodes make of their inputs, and that workflows stay valid."""

import sys
from types import SimpleNamespace

import pytest
import torch

from ..support.pack import interpolate  # isort: skip  (makes ComfyUI's modules importable)

import comfy.model_management as model_management

SETTINGS = (
    "cuts", "cut_sensitivity", "duplicates", "loop", "ensemble", "refine", "tta", "flow_scale"
)  # fmt: skip


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
