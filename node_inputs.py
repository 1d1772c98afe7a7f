"""Types, inputs and outputs that several nodes share."""

from comfy_api.latest import io

from . import rife
from .comfy_host.compat import supported
from .rife.models.zoo import DEFAULT

# Core's type, so that core's nodes accept our models and ours accept core's.
RIFEModel = io.Custom("INTERP_MODEL")
RIFEFlow = io.Custom("RIFE_FLOW")
#: What people who want smoother or slower video type into the search, in their languages. Only the
#: interpolating nodes have these words, as the search puts nodes with shorter names first.
SEARCH_ALIASES = [
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


def model_input() -> io.Input:
    return RIFEModel.Input(
        "model",
        optional=True,
        tooltip="From Load RIFE Model, or ComfyUI's own loader. Left unconnected: the default "
        f"model, {DEFAULT}, downloaded when it is missing.",
    )


def multiplier_input() -> io.Int.Input:
    return io.Int.Input(
        "multiplier",
        default=2,
        min=1,
        max=2048,
        tooltip="How many frames each pair becomes: n frames in, (n - 1) * multiplier + 1 out.",
    )


def target_fps_input() -> io.Float.Input:
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


def settings_inputs() -> list[io.Input]:
    """Returns the settings of both interpolating nodes: `loop`, and one for each of Options."""
    advanced = supported(io.Boolean.Input, advanced=True)
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
        flow_scale_input(),
    ]


def flow_scale_input() -> io.Combo.Input:
    return io.Combo.Input(
        "flow_scale",
        options=["auto", "0.25", "0.5", "1", "2"],
        default="auto",
        optional=True,
        tooltip="Resolution at which motion is estimated: less for large motion and large "
        "frames, 2 for fine detail. auto: 1 up to 1440p, 0.5 up to 4K, 0.25 beyond.",
        **supported(io.Combo.Input, advanced=True),
    )


def length_input() -> io.Combo.Input:
    return io.Combo.Input(
        "length",
        options=list(rife.LENGTHS),
        default="frames",
        optional=True,
        tooltip="frames: the clip ends with its last frame. duration: it lasts as long as before, "
        "so that sound and picture end together: n frames in, n * multiplier out, the last one is "
        "held. With target_fps or loop it always does.",
        **supported(io.Combo.Input, advanced=True),
    )


def report_output() -> io.String.Output:
    return io.String.Output(
        display_name="report",
        tooltip="What was done and what was warned of, as the node shows it after its run.",
    )
