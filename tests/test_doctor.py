"""`python -m rife doctor` reports what works and what does not."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from rife import doctor
from rife.doctor import examine
from rife.models.zoo import DEFAULT

from .support import archive
from .support.command_line import run_rife


@pytest.fixture
def models(tmp_path: Path, weights: Callable[[str], Path]) -> Path:
    """A folder that holds v4.0."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copyfile(weights("v4.0"), folder / "some.pkl")
    return folder


def line(report: str, name: str) -> str:
    """The rest of the report line that begins with `name`."""
    (text,) = (row.strip().removeprefix(name).strip() for row in report.splitlines()
               if row.strip().startswith(f"{name} "))  # fmt: skip
    return text


def test_all_is_well(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: models.parent)
    monkeypatch.setenv("RIFE_MODELS", str(models))
    monkeypatch.setenv("HF_ENDPOINT", "https://user:password@hub")
    report = run_rife("doctor").stdout
    assert report.endswith("No problems found.\n")
    assert line(report, "torch").startswith(torch.__version__)
    assert line(report, "cpu test").startswith("ok: ")
    assert line(report, "some.pkl").startswith("RIFE v4.0 - v4.1, 35")
    assert "~" in report and str(models) not in report
    assert "HF_ENDPOINT" in report and "password" not in report


def test_the_self_tests_frames_are_no_mere_average() -> None:
    """Averaged frames would show nothing about warping."""
    network = doctor._random_network()
    images = torch.rand(2, 1, 3, doctor.HEIGHT, doctor.WIDTH)
    motion = network.motion(*map(network.prepare, images))
    assert 1 < motion.flow.abs().mean() < motion.flow.abs().max() < 20


def test_what_is_wrong_is_said_and_the_rest_goes_on(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (models / DEFAULT).write_bytes((models / "some.pkl").read_bytes())
    (models / "rife49.pth").touch()
    (models / "other.pth").touch()

    def broken(*_: object) -> None:
        raise OSError("no idea")

    def wrong(model: object, frames: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.zeros(2 * len(frames) - 1, *frames.shape[1:])

    monkeypatch.setattr(psutil, "virtual_memory", broken)
    monkeypatch.setattr(doctor, "interpolate", wrong)
    assert not examine([models])
    report = capsys.readouterr().out
    assert line(report, "memory") == "PROBLEM: OSError: no idea"
    assert line(report, "cpu test").startswith("PROBLEM: wrong frames: ")
    assert line(report, DEFAULT).startswith("PROBLEM: RIFE v4.0 - v4.1, 35.0 MB, not the published")
    assert line(report, "rife49.pth").startswith("PROBLEM: ")
    assert not line(report, "other.pth").startswith("PROBLEM: ")
    assert report.endswith("Problems: 4\n")

    monkeypatch.setattr(doctor, "_list_devices", broken)
    assert not examine([])
    assert "PROBLEM: OSError: no idea" in capsys.readouterr().out


def test_what_the_log_says_of_a_device_is_part_of_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = doctor.interpolate

    def logging(*inputs: object, **options: object) -> torch.Tensor:
        doctor.kernel_choice.log.warning("no kernels (%s)", "why")
        return whole(*inputs, **options)

    monkeypatch.setattr(doctor, "interpolate", logging)
    assert examine([])
    printed = capsys.readouterr()
    assert printed.out.count("no kernels (why)") == 2 and not printed.err


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["-m", "rife"], id="module", marks=pytest.mark.slow),
        pytest.param(["-I", "."], id="folder"),
    ],
)
def test_it_runs_in_the_installed_pack_and_finds_comfyuis_models(
    models: Path, tmp_path: Path, command: list[str]
) -> None:
    comfyui = tmp_path / "ComfyUI"
    pack = archive.install(comfyui / "custom_nodes" / "rife-frame-interpolation")
    (comfyui / "comfyui_version.py").write_text('__version__ = "0.25.0"\n')
    others = comfyui / "custom_nodes" / "ComfyUI-Frame-Interpolation" / "ckpts" / "rife"
    for folder in (comfyui / "models" / "frame_interpolation", others):
        shutil.copytree(models, folder)
    done = subprocess.run(
        [sys.executable, *command, "doctor"], cwd=pack, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert line(done.stdout, "ComfyUI").startswith("0.25.0, in ")
    assert done.stdout.count("RIFE v4.0 - v4.1") == 2
