"""The archive that the Comfy registry serves, made by its rule: what git tracks, less what
.comfyignore names in gitignore's patterns (`comfy node pack`)."""

import io
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def files() -> list[str]:
    """The paths in the archive, with slashes."""
    ignored = _tracked("--ignored", "--exclude-from=.comfyignore")
    return sorted(_tracked() - ignored)


def _tracked(*options: str) -> set[str]:
    command = ["git", "-c", "core.quotepath=off", "ls-files", "--cached", *options]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line for line in listed.splitlines() if (ROOT / line).is_file()}


def build() -> bytes:
    """Returns the zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files():
            archive.write(ROOT / file, file)
    return content.getvalue()


def install(folder: Path) -> Path:
    """Unpacks the archive into `folder`, as ComfyUI-Manager and comfy-cli do."""
    with zipfile.ZipFile(io.BytesIO(build())) as archive:
        archive.extractall(folder)
    return folder
