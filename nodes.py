"""The nodes: a schema and a few lines each.

What ComfyUI's machinery asks for is in `comfy_host`, what frames need is in `rife`. Workflows are
saved with widget values by position: append inputs, never reorder them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import ComfyExtension, Types, io
from torch import Tensor

from . import comfy_host as host
from . import rife
from .frame_rates import connect_source_fps
from .rife.console import printable
from .rife.media import open_reader
from .rife.models.zoo import DEFAULT

# Core's type, so that its nodes take our models and ours take its.
RIFEModel = io.Custom("INTERP_MODEL")
RIFEFlow = io.Custom("RIFE_FLOW")
CATEGORY = "video/RIFE"
#: Frames a second of images of which nothing is known: CogVideoX's.
ASSUMED_RATE = Fraction(8)
#: What people type who want smoother or slower video, in their languages. The interpolating nodes
#: only: of nodes with the same words, ComfyUI shows those with shorter names first.
ALIASES = [
    *("rife", "vfi", "interpolation", "frame interpolation", "interpolate frames", "tween"),
    *("fps", "frame rate", "increase fps", "smooth video", "slow motion"),
    *("补帧", "插帧", "帧率", "慢动作", "流畅", "補幀", "插幀", "影格率", "慢動作"),
    *("フレーム補間", "中割り", "スローモーション", "なめらか"),
    *("프레임 보간", "프레임 레이트", "슬로우 모션", "부드럽게"),
    *("Zwischenbilder", "Zeitlupe", "Bildrate", "fluidité", "ralenti", "images par seconde"),
    *("cámara lenta", "fluidez", "câmera lenta", "quadros por segundo"),
    *("плавность", "замедление", "частота кадров", "ağır çekim", "akıcı"),
    *("حركة بطيئة", "معدل الإطارات", "حرکت آهسته", "نرخ فریم"),
]


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
            outputs=[
                RIFEModel.Output(
                    display_name="model",
                    tooltip="For the other RIFE nodes.",
                )
            ],
            **host.known(io.Schema, search_aliases=["flownet"]),
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        """Say before anything runs what is missing, instead of "value not in list"."""
        try:
            host.fingerprint(model_name)
        except FileNotFoundError as error:
            return printable(str(error))
        return True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None, precision: str | None = "auto") -> str:
        return host.fingerprint(model_name)

    @classmethod
    @host.checked
    def execute(cls, model_name: str, precision: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(host.load_model(model_name, precision))


def _model_input() -> io.Input:
    return RIFEModel.Input(
        "model",
        optional=True,
        tooltip="From Load RIFE Model, or ComfyUI's own loader. Left unconnected: the default "
        f"model, {DEFAULT}, downloaded when it is missing.",
    )


def _multiplier_input() -> io.Int.Input:
    return io.Int.Input(
        "multiplier",
        default=2,
        min=1,
        max=2048,
        tooltip="How many frames each pair becomes: n frames in, (n - 1) * multiplier + 1 out.",
    )


def _target_fps_input() -> io.Float.Input:
    return io.Float.Input(
        "target_fps",
        default=0.0,
        min=0.0,
        max=1000.0,
        step=0.001,
        optional=True,
        tooltip="Frames per second to end with, such as 60, whatever the rate now; takes the "
        "multiplier's place, and the clip lasts as long as before. 0: use the multiplier. 23.976, "
        "29.97 and 59.94 mean NTSC's exact rates. Below the rate now, frames are picked.",
    )


def _settings() -> list[io.Input]:
    """The inputs that `_options` reads, and `loop`."""
    advanced = host.known(io.Boolean.Input, advanced=True)
    return [
        io.Combo.Input(
            "cuts",
            options=list(rife.CUTS),
            default="hold",
            optional=True,
            tooltip="Where one shot ends and another begins: hold shows each shot's frame up to "
            "the cut, blend fades, ignore morphs one shot into the other.",
        ),
        io.Float.Input(
            "cut_sensitivity",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip="More finds more cuts, but may take fast motion for one, which then stutters; "
            "less may miss cuts, which then morph.",
            **advanced,
        ),
        io.Boolean.Input(
            "duplicates",
            default=False,
            optional=True,
            tooltip="Spread the motion evenly over frames that repeat: for animation on twos or "
            "threes, 24 fps in 30, and generators that stall.",
        ),
        io.Boolean.Input(
            "loop",
            default=False,
            optional=True,
            tooltip="Make the frames from the last to the first, too, for a clip that repeats.",
        ),
        io.Boolean.Input(
            "ensemble",
            default=False,
            optional=True,
            tooltip="Average both orders of each pair: a little better, up to twice the time. "
            "Models up to v4.20 and v4.24.",
            **advanced,
        ),
        io.Boolean.Input(
            "refine",
            default=False,
            optional=True,
            tooltip="Sharper detail from the refine networks of v4.0 and v4.1 files.",
            **advanced,
        ),
        io.Boolean.Input(
            "tta",
            default=False,
            optional=True,
            tooltip="Average with the result of frames turned upside down: a little better, twice "
            "the time.",
            **advanced,
        ),
        _flow_scale_input(),
    ]


def _flow_scale_input() -> io.Combo.Input:
    return io.Combo.Input(
        "flow_scale",
        options=["auto", "0.25", "0.5", "1", "2"],
        default="auto",
        optional=True,
        tooltip="Resolution at which motion is estimated: less for large motion and large "
        "frames, 2 for fine detail. auto: 1 up to 1440p, 0.5 up to 4K, 0.25 beyond.",
        **host.known(io.Combo.Input, advanced=True),
    )


def _length_input() -> io.Combo.Input:
    return io.Combo.Input(
        "length",
        options=list(rife.LENGTHS),
        default="frames",
        optional=True,
        tooltip="frames: the clip ends with its last frame. duration: it lasts as long as before, "
        "so that sound and picture end together: n frames in, n * multiplier out, the last one is "
        "held. With target_fps or loop it always does.",
        **host.known(io.Combo.Input, advanced=True),
    )


def _report_output() -> io.String.Output:
    return io.String.Output(
        display_name="report",
        tooltip="What was done and what was warned of, as the node shows it after its run.",
    )


def _add_mask(images: Tensor, mask: Tensor) -> Tensor:
    """Returns images (N, H, W, 3) with their masks, (N or 1, any size), as a fourth channel.

    Raises:
        ValueError: The masks are not as many as the images, or these have no place for one.
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


def _timeline(
    multiplier: int,
    target_fps: float,
    loop: bool,
    slow_motion: bool = False,
    length: str = "frames",
) -> rife.Timeline:
    rate = rife.parse_frame_rate(target_fps) if target_fps else None
    return rife.Timeline(Fraction(multiplier), rate, loop, slow_motion, length=length)


def _options(flow_scale: str = "auto", **settings: Any) -> dict[str, Any]:
    """What `rife.Options` takes, of the values of `_settings`."""
    return {"scale": None if flow_scale == "auto" else float(flow_scale), **settings}


class _Run:
    """A run of a node with a model, and the report of it."""

    def __init__(
        self, node: type[io.ComfyNode], model: host.ModelPatcher | str | None, unit: str = "frame"
    ) -> None:
        """unit: what progress counts."""
        self.unit = unit
        self.node_id = getattr(node.hidden, "unique_id", None)
        self.model = host.resolve_model(model)
        self.warnings: list[str] = []
        self._started = time.monotonic()
        self._network = ""

    @contextmanager
    def network(self, height: int, width: int, channels: int = 3) -> Iterator[dict[str, Any]]:
        """Gives what the library takes: a network, and what it reports to."""
        with (
            host.warnings() as warnings,
            host.running(self.model, height, width, channels) as network,
            host.progress(self.node_id, desc="RIFE", unit=self.unit) as report,
        ):
            self._network = f"{network.version}, {str(network.dtype).removeprefix('torch.')}"
            yield {"model": network, "progress": report, "cancel": host.stop_if_interrupted}
        self.warnings += warnings

    def done(self) -> list[str]:
        """Returns lines that say what was done."""
        return []

    def output(self, *values: Any, **ui: Any) -> io.NodeOutput:
        """Returns the node's outputs, the report last, which the page also shows on the node; `ui`
        is for the page alone."""
        work = f"{self._network}, {time.monotonic() - self._started:.1f} s"
        report = "\n".join([*self.warnings, *self.done(), work])
        return io.NodeOutput(*values, report, ui={"text": (report,), **ui})


class _Interpolation(_Run):
    """A run of a node that makes frames."""

    def __init__(
        self,
        node: type[io.ComfyNode],
        model: host.ModelPatcher | str | None,
        source: Fraction | None,
        timeline: rife.Timeline,
    ) -> None:
        """source: frames a second, None where they are unknown."""
        super().__init__(node, model)
        if source is None and timeline.frame_rate is not None:
            raise ValueError(
                "target_fps needs the frame rate of the images, which is unknown: connect "
                "source_fps to the fps of the node that loads them, or type it in."
            )
        if source is None:
            source = ASSUMED_RATE
            self.warnings.append(
                f"{source} fps assumed, as the images' frame rate is unknown: set source_fps for "
                "the right fps output."
            )
        self.source, self.timeline = source, timeline
        self.summary = rife.Summary()

    @property
    def rate(self) -> Fraction:
        """Frames a second afterwards."""
        return self.timeline.rate(self.source)

    @contextmanager
    def network(self, height: int, width: int, channels: int = 3) -> Iterator[dict[str, Any]]:
        with super().network(height, width, channels) as given:
            yield {**given, "summary": self.summary}

    def interpolate(self, images: Tensor, options: dict[str, Any]) -> Tensor:
        timeline = self.timeline
        if timeline.frame_rate is not None:  # a second; of images, which are a second apart
            timeline = replace(timeline, frame_rate=timeline.frame_rate / self.source)
        out = host.empty_images(images, timeline.count(len(images)))
        with self.network(*images.shape[1:]) as given:
            return rife.interpolate(frames=images, multiplier=timeline, out=out, **given, **options)

    def done(self) -> list[str]:
        done = self.summary
        frames = f"{done.given} -> {done.shown} frames"
        rates = f"{_number(self.source)} -> {_number(self.rate)} fps"
        counts = [
            f"{count} {what}{'s' * (count != 1)}"
            for count, what in ((done.cuts, "cut"), (done.repeats, "repeated frame"))
            if count
        ]
        return [f"{frames}, {rates}", *filter(None, [", ".join(counts)])]


def _number(rate: Fraction) -> str:
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")


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
                _model_input(),
                io.Image.Input("images", tooltip="The frames, in order."),
                _multiplier_input(),
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
                _target_fps_input(),
                *_settings(),
                _length_input(),
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
                _report_output(),
            ],
            **host.known(io.Schema, search_aliases=ALIASES, has_intermediate_output=True),
        )

    @classmethod
    @host.checked
    def execute(
        cls,
        model: host.ModelPatcher | None = None,
        images: Tensor | None = None,
        multiplier: int = 2,
        source_fps: float = 0.0,
        target_fps: float = 0.0,
        loop: bool = False,
        length: str = "frames",
        mask: Tensor | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        source = rife.parse_frame_rate(source_fps) if source_fps else None
        timeline = _timeline(multiplier, target_fps, loop, length=length)
        run = _Interpolation(cls, model, source, timeline)
        if len(images) == 1:
            run.warnings.insert(
                0,
                "1 frame, so nothing to interpolate. Frames that come one by one, as from Load "
                "Image (from Folder), need Rebatch Images with batch_size 4096 first.",
            )
        if mask is None:
            result = run.interpolate(images, _options(**settings))
            mask = result.new_zeros(1).expand(result.shape[:3])
        else:
            joined = run.interpolate(_add_mask(images, mask), _options(**settings))
            result, mask = joined[..., :3].contiguous(), joined[..., 3].contiguous()
        rate = float(run.rate)
        return run.output(result, rate, len(result), mask, fps=(rate,))


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
                _model_input(),
                io.Video.Input("video", tooltip="The video, from Load Video or Create Video."),
                _multiplier_input(),
                _target_fps_input(),
                io.Boolean.Input(
                    "slow_motion",
                    default=False,
                    optional=True,
                    tooltip="Show the frames at the video's own rate: as many times slower, "
                    "without sound.",
                ),
                *_settings(),
                io.Combo.Input(
                    "format",
                    options=Types.VideoContainer,
                    default="auto",
                    optional=True,
                    tooltip="The kind of file, as in Save Video, which then copies it as it is.",
                    **host.known(io.Combo.Input, advanced=True),
                ),
                io.Combo.Input(
                    "codec",
                    options=Types.VideoCodec,
                    default="auto",
                    optional=True,
                    tooltip="The encoder, as in Save Video.",
                    **host.known(io.Combo.Input, advanced=True),
                ),
                io.Int.Input(
                    "crf",
                    default=18,
                    min=0,
                    max=51,
                    optional=True,
                    tooltip="Quality of the encoding, from 0 (lossless) to 51 (tiny).",
                    **host.known(io.Int.Input, advanced=True),
                ),
                _length_input(),
                io.Combo.Input(
                    "interlaced",
                    options=list(rife.INTERLACED),
                    default="deinterlace",
                    optional=True,
                    tooltip="Interlaced video, of two fields a frame, as from TV and DVD: "
                    "deinterlace makes whole frames of it first, keep takes frames as they are.",
                    **host.known(io.Combo.Input, advanced=True),
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The new video, for Save Video."),
                _report_output(),
            ],
            **host.known(io.Schema, search_aliases=ALIASES, has_intermediate_output=True),
        )

    @classmethod
    @host.checked
    def execute(
        cls,
        model: host.ModelPatcher | None = None,
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
        timeline = _timeline(multiplier, target_fps, loop, slow_motion, length)
        options = _options(**settings)
        if source := host.in_memory(video):
            run = _Interpolation(cls, model, source.frame_rate, timeline)
            images = run.interpolate(source.images, options)
            return run.output(source.remade(images, run.rate, sound=not slow_motion))

        with host.as_file(video) as (path, part):
            part["interlaced"] = interlaced
            with open_reader(path, **part) as reader:
                clip = reader.info
            run = _Interpolation(cls, model, clip.frame_rate, timeline)
            with run.network(clip.height, clip.width, 3 + clip.has_alpha) as given:
                suffix, encoding = host.choose_encoding(format, codec, crf, clip)
                target = host.temporary_file(suffix)
                rife.interpolate_file(
                    source=path,
                    target=target,
                    timeline=timeline,
                    options=rife.Options(**options),
                    encoding=encoding,
                    **part,
                    **given,
                )
        return run.output(host.video_from_file(target))


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
                _model_input(),
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
                _flow_scale_input(),
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
                _report_output(),
            ],
            **host.known(
                io.Schema,
                search_aliases=["motion vectors", "flow map"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @host.checked
    def execute(
        cls,
        model: host.ModelPatcher | None = None,
        images: Tensor | None = None,
        timestep: float = 0.5,
        largest_motion: float = 0.0,
        flow_scale: str = "auto",
    ) -> io.NodeOutput:
        run = _Run(cls, model, unit="pair")
        with run.network(*images.shape[1:]) as given:
            flow, mask = rife.optical_flow(
                frames=images, timestep=timestep, **given, **_options(flow_scale)
            )
        return run.output(rife.motion_to_image(flow, largest_motion or None), mask, flow)


#: Nodes of other packs in whose place RIFE Frame Interpolate is offered where they are missing. The
#: name of a checkpoint fits `model` in prompts only; in the page, `web/swap.js` connects a loader.
REPLACEMENTS = (
    host.Replacement(  # ComfyUI-Frame-Interpolation
        "RIFE VFI",
        [
            *("ckpt_name", "clear_cache_after_n_frames", "multiplier", "fast_mode", "ensemble"),
            *("scale_factor", "dtype", "torch_compile", "batch_size"),
        ],
        {"images": "frames", "multiplier": "multiplier", "model": "ckpt_name"},
    ),
    host.Replacement(  # ComfyUI_Fill-Nodes
        "FL_RIFE",
        ["ckpt_name", "multiplier", "ensemble"],
        {"images": "images", "multiplier": "multiplier", "model": "ckpt_name"},
    ),
    host.Replacement(  # ComfyUI-VFI
        "RIFEInterpolation",
        ["source_fps", "target_fps", "scale", "model_name", "batch_size", "use_fp16"],
        {"images": "images", "source_fps": "source_fps", "target_fps": "target_fps"},
    ),
)


class RIFEExtension(ComfyExtension):
    async def on_load(self) -> None:
        await host.offer_replacements("RIFEFrameInterpolate", REPLACEMENTS)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadRIFEModel, RIFEFrameInterpolate, RIFEVideoInterpolate, RIFEOpticalFlow]


async def comfy_entrypoint() -> RIFEExtension:
    host.register_model_folders()
    host.before_each_prompt(connect_source_fps)
    return RIFEExtension()
