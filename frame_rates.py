"""Finds the frame rate of a node's images in the prompt, so that nobody has to type it in.

ComfyUI hands over every prompt before it checks it, the page's and those of API users. Where a
node's `source_fps` is unknown, it is linked there to the output that has the rate, as a user would
link it, so that caching and errors are ComfyUI's own.
"""

from typing import Any

import nodes as comfy_nodes

INTERPOLATE = "RIFEFrameInterpolate"
#: What nodes that load or make images call the output with their frame rate.
RATE_NAMES = ("fps", "frame_rate", "framerate")
#: Nodes that give a frame for each frame of this input, or of a part of it, in order, once or many
#: times over. Those that pick, double or mix frames change the rate and are not among them.
PASS_FRAMES_ON = {
    "AdjustBrightness": "images",
    "AdjustContrast": "images",
    "Canny": "image",
    "CenterCropImages": "images",
    "ColorTransfer": "image_target",
    "ImageAddNoise": "image",
    "ImageBlur": "image",
    "ImageCompositeMasked": "destination",
    "ImageCrop": "image",
    "ImageCropV2": "image",
    "ImageFlip": "image",
    "ImageFromBatch": "image",
    "ImageInvert": "image",
    "ImagePadForOutpaint": "image",
    "ImageQuantize": "image",
    "ImageRotate": "image",
    "ImageScale": "image",
    "ImageScaleBy": "image",
    "ImageScaleToMaxDimension": "image",
    "ImageScaleToTotalPixels": "image",
    "ImageSharpen": "image",
    "ImageUpscaleWithModel": "image",
    "JoinImageWithAlpha": "image",
    "Morphology": "image",
    "NormalizeImages": "images",
    "PreviewImage": "images",
    "RepeatImageBatch": "image",
    "ResizeAndPadImage": "image",
    "ResizeImageMaskNode": "input",
    "ResizeImagesByLongerEdge": "images",
    "ResizeImagesByShorterEdge": "images",
    "SaveImage": "images",
    "SplitImageWithAlpha": "image",
}

Prompt = dict[str, dict[str, Any]]


def connect_source_fps(prompt: Prompt) -> None:
    """Links every `source_fps` that is unknown to the rate of the images, where that is found.

    Args:
        prompt: Nodes by id. Gets a node that takes the rate out of VideoHelperSuite's video_info
            where that is needed.
    """
    for node_id, node in list(prompt.items()):
        if node.get("class_type") == INTERPOLATE:
            _connect(prompt, node_id, ())


def _connect(prompt: Prompt, node_id: str, seen: tuple[str, ...]) -> bool:
    """Returns whether the node's `source_fps` is known."""
    inputs = prompt[node_id]["inputs"]
    if not inputs.get("source_fps") and (rate := _find_rate(prompt, inputs.get("images"), seen)):
        inputs["source_fps"] = rate
    return bool(inputs.get("source_fps"))


def _find_rate(prompt: Prompt, images: Any, seen: tuple[str, ...]) -> list | None:
    """Returns a link to the frame rate of the images that come over the link `images`.

    Args:
        seen: The nodes on the way here: a prompt that goes in a circle is ComfyUI's to refuse.
    """
    if not isinstance(images, list) or images[0] not in prompt or images[0] in seen:
        return None
    node_id, seen = images[0], (*seen, images[0])
    kind, inputs = prompt[node_id].get("class_type"), prompt[node_id].get("inputs", {})
    if kind in PASS_FRAMES_ON:
        return _find_rate(prompt, inputs.get(PASS_FRAMES_ON[kind]), seen)
    if kind == INTERPOLATE and not _connect(prompt, node_id, seen):
        return None
    outputs = _outputs(kind)
    for index, (name, type_name) in enumerate(outputs):
        if name.lower() in RATE_NAMES and type_name == "FLOAT":
            return [node_id, index]
    for index, (_, type_name) in enumerate(outputs):
        if type_name == "VHS_VIDEOINFO":
            rate_id, info = f"{node_id}.fps", {"video_info": [node_id, index]}
            prompt[rate_id] = {"class_type": "VHS_VideoInfoLoaded", "inputs": info}
            return [rate_id, 0]
    return None


def _outputs(kind: str) -> list[tuple[str, str]]:
    """Returns name and type of each output of a kind of node."""
    node = comfy_nodes.NODE_CLASS_MAPPINGS.get(kind)
    types = getattr(node, "RETURN_TYPES", ())
    return list(zip(getattr(node, "RETURN_NAMES", None) or types, types, strict=False))
