"""The nodes: a schema and a few lines each.

What ComfyUI's machinery asks for is in `comfy_host`, what frames need is in `rife`. Workflows are
saved with widget values by position: append inputs, never reorder them.
"""

from comfy_api.latest import ComfyExtension, io
from torch import Tensor

from . import comfy_host as host
from . import rife
from .rife.zoo import DEFAULT

RIFEModel = io.Custom("RIFE_MODEL")
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
                    options=host.model_names(),
                    default=DEFAULT,
                    tooltip="A file of models/rife, models/frame_interpolation or "
                    "ComfyUI-Frame-Interpolation; its version is read off the file. After these "
                    "come published models, each downloaded into models/rife when it is first run. "
                    "v4.25 suits most scenes, v4.26 generated video, v4.7 - v4.10 anime.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(host.PRECISIONS),
                    default="auto",
                    optional=True,  # prompts made before this input came stay valid
                    tooltip="auto: float16 where the device is good at it, else float32. float16 "
                    "and bfloat16 are faster and smaller on most GPUs; float32 is exact.",
                ),
            ],
            outputs=[RIFEModel.Output(display_name="model")],
            **host.known(
                io.Schema,
                search_aliases=["rife", "frame interpolation model", "vfi model", "flownet"],
            ),
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        """Say before anything runs what is missing, instead of "value not in list"."""
        try:
            host.fingerprint(model_name)
        except FileNotFoundError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None, precision: str | None = "auto") -> str:
        return host.fingerprint(model_name)

    @classmethod
    def execute(cls, model_name: str, precision: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(host.load_model(model_name, precision))


class RIFEFrameInterpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RIFEFrameInterpolate",
            display_name="RIFE Frame Interpolate",
            category=CATEGORY,
            description="Makes new frames between the given ones, for smoother or slower motion. "
            "The given frames come through unchanged.",
            inputs=[
                RIFEModel.Input("model", tooltip="The model, from Load RIFE Model."),
                io.Image.Input("images", tooltip="The frames, in order."),
                io.Int.Input(
                    "multiplier",
                    default=2,
                    min=1,
                    max=64,
                    tooltip="How many frames each pair becomes: n frames in, "
                    "(n - 1) * multiplier + 1 out. To keep the speed, multiply the frame rate "
                    "by it; to slow down, keep the frame rate.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
            **host.known(
                io.Schema,
                search_aliases=[
                    "rife",
                    "frame interpolation",
                    "interpolate frames",
                    "slow motion",
                    "smooth video",
                    "increase fps",
                    "vfi",
                ],
            ),
        )

    @classmethod
    def execute(cls, model: host.ModelPatcher, images: Tensor, multiplier: int) -> io.NodeOutput:
        frames = max(0, len(images) - 1) * multiplier + 1
        progress = host.progress(desc="RIFE", unit="frame")
        with host.running(model, images) as network, progress as report:
            result = rife.interpolate(
                network,
                images,
                multiplier,
                progress=report,
                cancel=host.stop_if_interrupted,
                out=host.empty_images(images, frames),
            )
        return io.NodeOutput(result)


class RIFEExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadRIFEModel, RIFEFrameInterpolate]


async def comfy_entrypoint() -> RIFEExtension:
    host.register_model_folders()
    return RIFEExtension()
