"""The nodes: for each a schema and one function that runs it.

`comfy_host` has what ComfyUI's machinery asks for, `rife` what interpolates. Workflows save widget
values by position: append inputs, never reorder them.
"""

from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import ComfyExtension, Types, io
from torch import Tensor

from . import rife
from .comfy_host.compat import supported
from .comfy_host.inputs import check_inputs
from .comfy_host.model_files import fingerprint_model, model_names, register_model_folders
from .comfy_host.models import PRECISIONS, load_model
from .comfy_host.prompts import register_prompt_handler
from .comfy_host.replacements import offer_replacements
from .comfy_host.source_rates import connect_source_fps
from .comfy_host.videos import (
    choose_encoding,
    get_video_in_memory,
    new_temporary_path,
    video_file,
    video_from_file,
)
from .node_inputs import (
    SEARCH_ALIASES,
    RIFEFlow,
    RIFEModel,
    flow_scale_input,
    length_input,
    model_input,
    multiplier_input,
    report_output,
    settings_inputs,
    target_fps_input,
)
from .rife.console import printable
from .rife.media import open_reader
from .rife.models.zoo import DEFAULT
from .runs import InterpolationRun, NodeRun

CATEGORY = "video/RIFE"


class LoadRIFEModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadRIFEModel",
            display_name="Load RIFE Model",
            category=CATEGORY,
            description="Loads a RIFE model, of any version and under any file name.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=model_names(),
                    default=DEFAULT,
                    tooltip="A file of models/rife, models/frame_interpolation or "
                    "ComfyUI-Frame-Interpolation; its version is read off the file. After these "
                    "come published models, each downloaded into models/rife when it is first run. "
                    "v4.25 suits most scenes, v4.26 generated video, v4.7 - v4.10 anime.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    optional=True,  # older prompts, which lack this input, stay valid
                    tooltip="auto: float16 where the device is good at it, else float32. float16 "
                    "and bfloat16 are faster and smaller on most GPUs; float32 is exact.",
                ),
            ],
            outputs=[
                RIFEModel.Output(
                    display_name="model",
                    tooltip="For the other RIFE nodes.",
                )
            ],
            **supported(io.Schema, search_aliases=["flownet"]),
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        """Says what is missing before anything runs, in place of ComfyUI's "value not in list"."""
        try:
            fingerprint_model(model_name)
        except FileNotFoundError as error:
            return printable(str(error))
        return True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None, precision: str | None = "auto") -> str:
        return fingerprint_model(model_name)

    @classmethod
    @check_inputs
    def execute(cls, model_name: str, precision: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(load_model(model_name, precision))


def _add_mask(images: Tensor, mask: Tensor) -> Tensor:
    """Returns images with their masks as a fourth channel.

    Args:
        images: (N, H, W, 3).
        mask: (N or 1, height, width), of any size.

    Raises:
        ValueError: The masks are not as many as the images, or these have another channel already.
    """
    if images.shape[3] != 3:
        raise ValueError(
            f"mask needs images of 3 channels, and these have {images.shape[3]}: transparency is "
            "interpolated without a mask. Split Image with Alpha takes it off."
        )
    if len(mask) not in (1, len(images)):
        raise ValueError(
            f"mask has {len(mask)} frames and images {len(images)}: connect the masks of these "
            "images, one each, or one mask for all."
        )
    mask = mask[:, None].to(images.device, images.dtype)
    mask = F.interpolate(mask, images.shape[1:3], mode="bilinear").movedim(1, 3)
    return torch.cat((images, mask.expand(len(images), -1, -1, -1)), 3)


def _make_timeline(
    multiplier: int,
    target_fps: float,
    loop: bool,
    slow_motion: bool = False,
    length: str = "frames",
) -> rife.Timeline:
    frame_rate = rife.parse_frame_rate(target_fps) if target_fps else None
    return rife.Timeline(Fraction(multiplier), frame_rate, loop, slow_motion, length=length)


def _make_options(flow_scale: str = "auto", **settings: Any) -> rife.Options:
    """Returns the library's options for the values of a node's inputs."""
    return rife.Options(scale=None if flow_scale == "auto" else float(flow_scale), **settings)


class RIFEFrameInterpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RIFEFrameInterpolate",
            display_name="RIFE Frame Interpolate",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            description="Makes new frames between the given ones, for smoother or slower motion. "
            "The given frames come through unchanged.",
            inputs=[
                model_input(),
                io.Image.Input("images", tooltip="The frames, in order."),
                multiplier_input(),
                io.Float.Input(
                    "source_fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.001,
                    optional=True,
                    tooltip="Frames per second of the images: decides the fps output, and how many "
                    "frames target_fps makes. 0: as in the video that the images come from. For "
                    "generated images, type it in: CogVideoX makes 8 (1.5: 16), Wan 16.",
                ),
                target_fps_input(),
                *settings_inputs(),
                length_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Masks of the images, one each or one for all: they move as the images "
                    "do. For masks alone, connect Convert Mask to Image to images.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="The frames at the new rate, in order.",
                ),
                io.Float.Output(
                    display_name="fps",
                    tooltip="For Create Video or Video Combine: keeps the speed. For slow motion, "
                    "use a lower one there.",
                ),
                io.Int.Output(display_name="frame_count", tooltip="How many frames there are now."),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="The masks at the new rate; all black where none are connected.",
                ),
                report_output(),
            ],
            **supported(io.Schema, search_aliases=SEARCH_ALIASES, has_intermediate_output=True),
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        model: ModelPatcher | None = None,
        images: Tensor | None = None,
        multiplier: int = 2,
        source_fps: float = 0.0,
        target_fps: float = 0.0,
        loop: bool = False,
        length: str = "frames",
        mask: Tensor | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        source_rate = rife.parse_frame_rate(source_fps) if source_fps else None
        timeline = _make_timeline(multiplier, target_fps, loop, length=length)
        run = InterpolationRun(cls, model, source_rate, timeline)
        if len(images) == 1:
            run.warnings.insert(
                0,
                "1 frame, so nothing to interpolate. Frames that come one by one, as from Load "
                "Image (from Folder), need Rebatch Images with batch_size 4096 first.",
            )
        if mask is None:
            result = run.interpolate(images, _make_options(**settings))
            mask = result.new_zeros(1).expand(result.shape[:3])
        else:
            with_mask = run.interpolate(_add_mask(images, mask), _make_options(**settings))
            result, mask = with_mask[..., :3].contiguous(), with_mask[..., 3].contiguous()
        fps = float(run.output_rate)
        return run.make_output(result, fps, len(result), mask, fps=(fps,))


class RIFEVideoInterpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RIFEVideoInterpolate",
            display_name="RIFE Video Interpolate",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            description="Makes a video smoother or slower, from file to file: its frames are never "
            "in memory all at once, however long it is. Sound and metadata are kept.",
            inputs=[
                model_input(),
                io.Video.Input("video", tooltip="The video, from Load Video or Create Video."),
                multiplier_input(),
                target_fps_input(),
                io.Boolean.Input(
                    "slow_motion",
                    default=False,
                    optional=True,
                    tooltip="Show the frames at the video's own rate: as many times slower, "
                    "without sound.",
                ),
                *settings_inputs(),
                io.Combo.Input(
                    "format",
                    options=Types.VideoContainer,
                    default="auto",
                    optional=True,
                    tooltip="The kind of file, as in Save Video, which then copies it as it is.",
                    **supported(io.Combo.Input, advanced=True),
                ),
                io.Combo.Input(
                    "codec",
                    options=Types.VideoCodec,
                    default="auto",
                    optional=True,
                    tooltip="The encoder, as in Save Video.",
                    **supported(io.Combo.Input, advanced=True),
                ),
                io.Int.Input(
                    "crf",
                    default=18,
                    min=0,
                    max=51,
                    optional=True,
                    tooltip="Quality of the encoding, from 0 (lossless) to 51 (tiny).",
                    **supported(io.Int.Input, advanced=True),
                ),
                length_input(),
                io.Combo.Input(
                    "interlaced",
                    options=list(rife.INTERLACED),
                    default="deinterlace",
                    optional=True,
                    tooltip="Interlaced video, of two fields a frame, as from TV and DVD: "
                    "deinterlace makes whole frames of it first, keep takes frames as they are.",
                    **supported(io.Combo.Input, advanced=True),
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The new video, for Save Video."),
                report_output(),
            ],
            **supported(io.Schema, search_aliases=SEARCH_ALIASES, has_intermediate_output=True),
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        model: ModelPatcher | None = None,
        video: Any = None,
        multiplier: int = 2,
        target_fps: float = 0.0,
        slow_motion: bool = False,
        loop: bool = False,
        format: str = "auto",
        codec: str = "auto",
        crf: int = 18,
        length: str = "frames",
        interlaced: str = "deinterlace",
        **settings: Any,
    ) -> io.NodeOutput:
        timeline = _make_timeline(multiplier, target_fps, loop, slow_motion, length)
        options = _make_options(**settings)
        if source := get_video_in_memory(video):
            run = InterpolationRun(cls, model, source.frame_rate, timeline)
            images = run.interpolate(source.images, options)
            result = source.with_images(images, run.output_rate, has_sound=not slow_motion)
            return run.make_output(result)

        with video_file(video) as (path, reader_options):
            reader_options["interlaced"] = interlaced
            with open_reader(path, **reader_options) as reader:
                clip = reader.info
            run = InterpolationRun(cls, model, clip.frame_rate, timeline)
            with run.prepare(clip.height, clip.width, 3 + clip.has_alpha) as arguments:
                suffix, encoding = choose_encoding(format, codec, crf, clip)
                target = new_temporary_path(suffix)
                run.summary = rife.interpolate_file(
                    source=path,
                    target=target,
                    timeline=timeline,
                    options=options,
                    encoding=encoding,
                    **reader_options,
                    **arguments,
                )
        return run.make_output(video_from_file(target))


class RIFEOpticalFlow(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RIFEOpticalFlow",
            display_name="RIFE Optical Flow",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            description="Shows the motion that the model finds between each two frames, and which "
            "of the two it trusts: why a new frame looks as it does.",
            inputs=[
                model_input(),
                io.Image.Input(
                    "images", tooltip="The frames, in order; n frames make n - 1 pairs."
                ),
                io.Float.Input(
                    "timestep",
                    default=0.5,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    optional=True,
                    tooltip="The moment between the two frames for which the motion is estimated. "
                    "Models up to v3.9 know the middle only.",
                ),
                io.Float.Input(
                    "largest_motion",
                    default=0.0,
                    min=0.0,
                    max=10000.0,
                    step=1.0,
                    optional=True,
                    tooltip="Pixels of motion between two frames that get the full colour. 0: the "
                    "largest in the clip.",
                ),
                flow_scale_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="flow_image",
                    tooltip="The motion from the first to the second frame of each pair on the "
                    "standard colour wheel: hue is direction, right red, down yellow, left cyan, "
                    "up purple; paler is slower.",
                ),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="White where the new frame is taken from the first frame, black where "
                    "from the second.",
                ),
                RIFEFlow.Output(
                    display_name="flow",
                    tooltip="(n - 1, height, width, 4) in pixels: where each pixel of the new "
                    "frame lies in the first frame (x, y) and in the second (x, y).",
                ),
                report_output(),
            ],
            **supported(
                io.Schema,
                search_aliases=["motion vectors", "flow map"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        model: ModelPatcher | None = None,
        images: Tensor | None = None,
        timestep: float = 0.5,
        largest_motion: float = 0.0,
        flow_scale: str = "auto",
    ) -> io.NodeOutput:
        run = NodeRun(cls, model, unit="pair")
        with run.prepare(*images.shape[1:]) as arguments:
            flow, mask = rife.optical_flow(
                frames=images, timestep=timestep, options=_make_options(flow_scale), **arguments
            )
        return run.make_output(rife.motion_to_image(flow, largest_motion or None), mask, flow)


class RIFEExtension(ComfyExtension):
    async def on_load(self) -> None:
        await offer_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadRIFEModel, RIFEFrameInterpolate, RIFEVideoInterpolate, RIFEOpticalFlow]


async def comfy_entrypoint() -> RIFEExtension:
    register_model_folders()
    register_prompt_handler(connect_source_fps)
    return RIFEExtension()
