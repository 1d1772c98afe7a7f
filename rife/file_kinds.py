"""What files that are no RIFE model are: told by their first bytes or by their tensors' names."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

#: What other models' keys look like; the first that fits names the file.
FOREIGN = (
    (r"^extract\.extract_sublevels", "FILM (Google's interpolator; ComfyUI's own node runs it)"),
    (r"lora_(up|down|A|B)\b|\.lora_", "a LoRA"),
    (r"^diffusion_model\.|^down_blocks\.", "a Stable Diffusion or similar checkpoint"),
    (r"^(double_blocks|transformer_blocks|joint_blocks)\.", "a diffusion transformer"),
    (r"^first_stage_model\.|^(encoder|decoder)\.(conv_in|mid)", "a VAE"),
    (r"^control_model\.|^controlnet", "a ControlNet"),
    (r"text_model\.|^transformer\.resblocks|^encoder\.block\.", "a text or CLIP encoder"),
    (r"(?i)rdb\d|^conv_first|^body\.\d", "an upscaler (ESRGAN or similar)"),
    (r"^fusionnet\.|^down3\.conv1|^up0\.0\.", "RIFE v2 or v3.1's separate refine network"),
    (r"^conv0\.conv1|^conv4\.conv2", "RIFE v3.1's separate context network"),
)

#: What files that can't be read begin with, and what they are; the last fits all.
UNREADABLE = (
    (rb"\Z", "an empty file; get it again"),
    (
        rb"\s*<(!doctype|html|head|\?xml)",
        "a web page, not a model; the download gave a login or error page instead of the file. "
        "Open the link in a browser and get the file itself",
    ),
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the model itself; run 'git lfs pull' or download the file",
    ),
    (rb"GGUF", "a GGUF language or diffusion model, not a RIFE model"),
    (rb"7767517", "an ncnn model; get the PyTorch checkpoint instead"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|.{4}ftyp", "a picture, video or sound, not a model"),
    (rb"7z\xbc\xaf|Rar!|\x1f\x8b", "a packed archive; unpack it and choose the model in it"),
    (rb"[\t\n\r -~]+\Z", "a text file, not a model"),
    (rb"", "damaged or cut short, or no RIFE model at all; get it again"),
)


def looks_like(state: Mapping[str, Tensor]) -> str:
    """What a state dict that is no RIFE network seems to be, in words."""
    if "block0.conv0.0.0.weight" in state:
        if "block0.conv1.weight" in state:
            return (
                "RIFE v2 - v3.1, whose three separate files are not supported; "
                "use v3.5 or later (rife_v4.25.safetensors suits most scenes)"
            )
        return f"something like RIFE, of a version unknown here ({len(state)} tensors)"
    for pattern, name in FOREIGN:
        if any(re.search(pattern, key) for key in state):
            return f"what looks like {name}"
    return f"something unknown ({len(state)} tensors: {some(sorted(state))})"


def some(names: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(repr(name)[1:-1][:80] for name in names[:count])
    return shown + (", ..." if len(names) > count else "")
