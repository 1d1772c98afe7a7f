"""Offers RIFE Frame Interpolate in the place of other packs' nodes, where those are missing."""

from typing import NamedTuple

from comfy_api.latest import ComfyAPI, io

from .prompts import Prompt, find_node_class, register_prompt_handler


class Replacement(NamedTuple):
    """What RIFE Frame Interpolate takes over from another pack's node.

    Its first output takes the place of the other node's.

    Attributes:
        old_node_id: The other node's id.
        old_widgets: The other node's widgets, in the order in which workflows save their values.
        inputs: Our inputs -> the other node's.
    """

    old_node_id: str
    old_widgets: list[str]
    inputs: dict[str, str]


#: The name of a checkpoint fits our `model` in prompts only; in the page, `web/swap.js` connects a
#: loader.
REPLACEMENTS = (
    Replacement(  # ComfyUI-Frame-Interpolation
        "RIFE VFI",
        [
            *("ckpt_name", "clear_cache_after_n_frames", "multiplier", "fast_mode", "ensemble"),
            *("scale_factor", "dtype", "torch_compile", "batch_size"),
        ],
        {"images": "frames", "multiplier": "multiplier", "model": "ckpt_name"},
    ),
    Replacement(  # ComfyUI_Fill-Nodes
        "FL_RIFE",
        ["ckpt_name", "multiplier", "ensemble"],
        {"images": "images", "multiplier": "multiplier", "model": "ckpt_name"},
    ),
    Replacement(  # ComfyUI-VFI
        "RIFEInterpolation",
        ["source_fps", "target_fps", "scale", "model_name", "batch_size", "use_fp16"],
        {"images": "images", "source_fps": "source_fps", "target_fps": "target_fps"},
    ),
)
_BY_OLD_NODE_ID = {replacement.old_node_id: replacement for replacement in REPLACEMENTS}


async def offer_replacements() -> None:
    """Registers the replacements; ComfyUIs that know none are left as they are."""
    if not hasattr(io, "NodeReplace"):
        return
    for old_node_id, old_widgets, inputs in REPLACEMENTS:
        await ComfyAPI().node_replacement.register(
            io.NodeReplace(
                new_node_id="RIFEFrameInterpolate",
                old_node_id=old_node_id,
                old_widget_ids=old_widgets,
                input_mapping=[{"new_id": new, "old_id": old} for new, old in inputs.items()],
                output_mapping=[{"new_idx": 0, "old_idx": 0}],
            )
        )
    register_prompt_handler(_complete_missing_nodes)


def _complete_missing_nodes(prompt: Prompt) -> None:
    """Adds to the nodes that ComfyUI will replace what it needs for that.

    It fails without `_meta`, which only the page's prompts have, and without an input that it maps.
    Where such an input is null, it refuses the prompt in one line.
    """
    for node in prompt.values():
        replacement = _BY_OLD_NODE_ID.get(node.get("class_type"))
        if replacement and find_node_class(replacement.old_node_id) is None:
            node.setdefault("_meta", {})
            for name in replacement.inputs.values():
                node.setdefault("inputs", {}).setdefault(name, None)
