"""Connects `source_fps` to the frame rate of the images, so that nobody has to type it in.

Every prompt comes here before ComfyUI checks it, whether the page sent it or a user of the API. A
`source_fps` that is unknown is linked to the output that has the rate, as a user would link it, so
that caching and errors are ComfyUI's own.
"""

from typing import Any

from .prompts import Prompt, find_node_class

INTERPOLATE = "RIFEFrameInterpolate"
#: Names under which nodes that load or make images output their frame rate.
RATE_OUTPUTS = ("fps", "frame_rate", "framerate")
#: Nodes whose output has a frame for each frame of this input, or of a part of it, in order, once
#: or several times over. Nodes that pick, double or mix frames change the rate and are left out.
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


def connect_source_fps(prompt: Prompt) -> None:
    """Links each unknown `source_fps` to the frame rate of its images, where the prompt has it.

    Args:
        prompt: Is changed in place. Gets a node that takes the rate out of VideoHelperSuite's
            video_info where that is needed.
    """
    for node_id, node in list(prompt.items()):
        if node.get("class_type") == INTERPOLATE:
            _connect_node(prompt, node_id, ())


def _connect_node(prompt: Prompt, node_id: str, visited: tuple[str, ...]) -> bool:
    """Returns whether the node's `source_fps` is known now."""
    inputs = prompt[node_id]["inputs"]
    if not inputs.get("source_fps"):
        rate_link = _find_rate(prompt, inputs.get("images"), visited)
        if rate_link:
            inputs["source_fps"] = rate_link
    return bool(inputs.get("source_fps"))


def _find_rate(prompt: Prompt, images: Any, visited: tuple[str, ...]) -> list | None:
    """Returns a link to the frame rate of images; None where the prompt doesn't have it.

    Args:
        images: The link over which the images come, [node id, output's number]; anything else has
            no rate.
        visited: Nodes between here and the interpolation. A prompt that goes in a circle has no
            rate either, and is ComfyUI's to refuse.
    """
    if not isinstance(images, list) or images[0] not in prompt or images[0] in visited:
        return None
    node_id, visited = images[0], (*visited, images[0])
    class_type, inputs = prompt[node_id].get("class_type"), prompt[node_id].get("inputs", {})
    if class_type in PASS_FRAMES_ON:
        return _find_rate(prompt, inputs.get(PASS_FRAMES_ON[class_type]), visited)
    if class_type == INTERPOLATE and not _connect_node(prompt, node_id, visited):
        return None
    outputs = _list_outputs(class_type)
    for index, (name, output_type) in enumerate(outputs):
        if name.lower() in RATE_OUTPUTS and output_type == "FLOAT":
            return [node_id, index]
    for index, (_, output_type) in enumerate(outputs):
        if output_type == "VHS_VIDEOINFO":
            rate_id, info = f"{node_id}.fps", {"video_info": [node_id, index]}
            prompt[rate_id] = {"class_type": "VHS_VideoInfoLoaded", "inputs": info}
            return [rate_id, 0]
    return None


def _list_outputs(class_type: str | None) -> list[tuple[str, str]]:
    """Returns name and type of each output of a node."""
    node = find_node_class(class_type)
    types = getattr(node, "RETURN_TYPES", ())
    return list(zip(getattr(node, "RETURN_NAMES", None) or types, types, strict=False))
