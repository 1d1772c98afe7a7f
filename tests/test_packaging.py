"""What users install."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_requirements_and_pyproject_name_the_same_packages():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read toml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert project["dependencies"] == [line for line in lines if not line.startswith("#")]
