"""What the doctor's report says of the ComfyUI that this pack is installed in (`rife.doctor.Host`).

Imports nothing of ComfyUI, which doesn't run when the doctor does.
"""

import re
from pathlib import Path

NAME = "ComfyUI"


def describe() -> str:
    """Returns ComfyUI's version and folder, or that there is none."""
    comfyui = _find_comfyui()
    if comfyui is None:
        return "none: not in a folder custom_nodes"
    file = comfyui / "comfyui_version.py"
    version = re.search(r'"(.+)"', file.read_text()) if file.is_file() else None
    return f"{version[1] if version else 'of unknown version'}, in {comfyui}"


def find_model_folders() -> list[Path]:
    """Returns ComfyUI's folders of RIFE models, its own and those of another pack."""
    comfyui = _find_comfyui()
    if comfyui is None:
        return []
    own = [comfyui / "models" / name for name in ("rife", "frame_interpolation")]
    packs = (comfyui / "custom_nodes").iterdir()
    others = [pack for pack in packs if pack.name.lower() == "comfyui-frame-interpolation"]
    return own + [pack / "ckpts" / "rife" for pack in others]


def _find_comfyui() -> Path | None:
    custom_nodes = Path(__file__).absolute().parents[1]
    return custom_nodes.parent if custom_nodes.name == "custom_nodes" else None
