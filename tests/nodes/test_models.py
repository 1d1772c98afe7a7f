"""Models as ComfyUI holds them: precision, core's own models, memory of the device."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ..support.pack import interpolate, load  # isort: skip  (makes ComfyUI's modules importable)

import comfy.model_management as model_management


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_precision_is_the_chosen_one(
    pack: SimpleNamespace, model: object, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(pack.rife, "usable_dtype", lambda dtype, device: dtype)  # on any CPU
    (file,) = (pack.models / "rife").iterdir()
    assert load(pack, file.name, str(dtype).removeprefix("torch.")).model.network.dtype == dtype


def test_a_precision_that_the_device_only_emulates_is_replaced(
    pack: SimpleNamespace, model: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack.rife, "usable_dtype", lambda dtype, device: torch.float32)
    (file,) = (pack.models / "rife").iterdir()
    assert load(pack, file.name, "bfloat16").model.network.dtype == torch.float32


@pytest.mark.parametrize(("suits", "dtype"), [(True, torch.float16), (False, torch.float32)])
def test_auto_precision_is_what_comfyui_thinks_of_the_device(
    pack: SimpleNamespace,
    model: object,
    monkeypatch: pytest.MonkeyPatch,
    suits: bool,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(model_management, "should_use_fp16", lambda device: suits)
    (file,) = (pack.models / "rife").iterdir()
    assert load(pack, file.name).model.network.dtype == dtype


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
