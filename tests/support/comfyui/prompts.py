"""Prompts for ComfyUI: node id -> class_type and inputs."""

import numpy as np
from PIL import Image

from .server import ComfyUI


def video_prompt(clip: str, model: str, multiplier: int = 2) -> dict:
    """Load video -> our nodes -> create video -> save video."""
    return {
        "load": {"class_type": "LoadVideo", "inputs": {"file": clip}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
        "model": {
            "class_type": "LoadRIFEModel",
            "inputs": {"model_name": model},
        },
        "rife": {
            "class_type": "RIFEFrameInterpolate",
            "inputs": {"model": ["model", 0], "images": ["parts", 0], "multiplier": multiplier},
        },
        "video": {"class_type": "CreateVideo", "inputs": {"images": ["rife", 0], "fps": 16.0}},
        "save": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["video", 0],
                "filename_prefix": "smooth",
                "format": "auto",
                "codec": "auto",
            },
        },
    }


def images_prompt(clip: str, model: str, *, frames: int = 2, multiplier: int = 2) -> dict:
    """The clip's first frames, made small -> our nodes -> save image."""
    prompt = video_prompt(clip, model, multiplier)
    del prompt["video"]
    prompt["some"] = {
        "class_type": "ImageFromBatch",
        "inputs": {"image": ["parts", 0], "batch_index": 0, "length": frames},
    }
    prompt["small"] = {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["some", 0],
            "upscale_method": "area",
            "width": 240,
            "height": 160,
            "crop": "disabled",
        },
    }
    prompt["rife"]["inputs"]["images"] = ["small", 0]
    prompt["save"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["rife", 0], "filename_prefix": "frame"},
    }
    return prompt


def saved_images(comfy: ComfyUI, prompt: dict) -> list[np.ndarray]:
    run = comfy.run(prompt)
    assert run.ended == "success", run.events[-1]
    return [np.asarray(Image.open(path)) for path in comfy.files(run)]
