"""VIDEOs of every kind through RIFE Video Interpolate: what comes out is what ComfyUI itself makes
of what went in, and Save Video writes it."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ..support.comfyui.server import ComfyUI, Run

pytestmark = pytest.mark.comfyui

COUNT, RATE, WIDTH, HEIGHT = 6, 24, 320, 192
STEP = 1 / 255
#: FFmpeg's numbers: colour space, primaries, transfer.
TAGS = {"sRGB": (1, 1, 13), "HDR": (9, 9, 18), "HDR PQ": (9, 9, 16)}
CROP = {"crop": {"x": 64, "y": 32, "width": 160, "height": 96}}
TRIM = {"trim": {"start_time": 1 / RATE, "duration": 4 / RATE}}


def picture(step: int) -> np.ndarray:
    """(H, W, 4) in [0, 1]: smooth colours that move to the right, clearer towards the bottom."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x = x - 2 * step
    red, green = 0.5 + 0.4 * np.sin(x / 25), 0.5 + 0.4 * np.sin(y / 20 + x / 60)
    return np.stack((red, green, 0.2 + 0.6 * y / HEIGHT, y / HEIGHT), 2)


def write(
    path: Path, codec: str, pixel_format: str, colors: str = "sRGB", sounds: int = 1, **options: str
) -> None:
    """A video of `COUNT` pictures with sound and a title."""
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "a title"
        stream = file.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = TAGS[colors]
        context.color_range = 1
        tracks = [file.add_stream("aac", rate=48000, layout="stereo") for _ in range(sounds)]
        for step in range(COUNT):
            image = (picture(step) * 65535).astype(np.uint16)
            frame = av.VideoFrame.from_ndarray(image, "rgba64le")
            file.mux(
                stream.encode(
                    frame.reformat(format=pixel_format, dst_colorspace=context.colorspace)
                )
            )
        file.mux(stream.encode(None))
        tone = np.sin(np.arange(48000 * COUNT // RATE) / 20).astype(np.float32)
        tone = av.AudioFrame.from_ndarray(np.stack((tone, tone)), "fltp", "stereo")
        tone.sample_rate = 48000
        for sound in tracks:
            file.mux([*sound.encode(tone), *sound.encode(None)])


@pytest.fixture(scope="module", autouse=True)
def files(comfy: ComfyUI) -> None:
    folder = comfy.base / "input"
    write(folder / "sdr.mp4", "libx264", "yuv420p", crf="8")
    write(folder / "hlg.mp4", "libx264", "yuv420p10le", "HDR", crf="8")
    write(folder / "pq.mp4", "libx264", "yuv420p10le", "HDR PQ", crf="8")
    write(folder / "alpha.mov", "prores_ks", "yuva444p10le")
    # A second sound track that nobody can decode, as that of iPhones' spatial audio.
    write(folder / "spatial.mp4", "libx264", "yuv420p", sounds=2)
    data = (folder / "spatial.mp4").read_bytes()
    for known, unknown in ((b"mp4a", b"apac"), (b"esds", b"xxxx")):
        start, _, end = data.rpartition(known)
        data = start + unknown + end
    (folder / "spatial.mp4").write_bytes(data)


def needs(comfy: ComfyUI, node: str, text: str = "") -> None:
    """Skip where ComfyUI has no such node, or none whose definition has `text` in it."""
    known = comfy.get("/object_info")
    if node not in known or text not in str(known[node]):
        pytest.skip(f"this ComfyUI has no {node}{text and ' with '}{text}")


class Graph(dict):
    """A prompt, built node by node. What the running ComfyUI lacks skips the test."""

    def __init__(self, comfy: ComfyUI) -> None:
        super().__init__()
        self.comfy = comfy

    def add(self, kind: str, **inputs: object) -> list:
        needs(self.comfy, kind)
        name = str(len(self))
        self[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]

    def load(self, file: str, **edit: dict) -> list:
        if edit:
            needs(self.comfy, "LoadVideo", "VIDEO_EDIT")
        return self.add("LoadVideo", file=file, **({"edit": edit} if edit else {}))

    def resize(self, video: list, width: int, height: int) -> list:
        needs(self.comfy, "ResizeImageMaskNode", "VIDEO")
        kind = {
            "resize_type": "scale dimensions",
            "resize_type.width": width,
            "resize_type.height": height,
            "resize_type.crop": "disabled",
        }
        return self.add("ResizeImageMaskNode", input=video, scale_method="area", **kind)

    def join(self, *videos: list) -> list:
        inputs = {f"videos.video{i}": video for i, video in enumerate(videos)}
        return self.add("ConcatenateVideo", **inputs, codec="auto")

    def rife(self, video: list, **settings: object) -> list:
        model = self.add("LoadRIFEModel", model_name="v4.0.pkl")
        settings = {"multiplier": 2, "crf": 0} | settings
        return self.add("RIFEVideoInterpolate", model=model, video=video, **settings)

    def save(self, video: list, format: str = "auto") -> list:
        settings = {"format": "auto", "codec": "auto"}
        if "COMFY_DYNAMICCOMBO" in str(self.comfy.get("/object_info/SaveVideo")):
            settings = {"format": format, "format.codec": "auto"}
        return self.add("SaveVideo", video=video, filename_prefix="saved", **settings)


def run(comfy: ComfyUI, graph: Graph) -> Run:
    done = comfy.run(graph)
    assert done.ended == "success", done.of("execution_error")[0]["exception_message"]
    return done


def shown(comfy: ComfyUI, graph: Graph, *videos: list) -> list[dict]:
    """What ComfyUI makes of VIDEOs."""
    for i, video in enumerate(videos):
        graph.add("ShowVideo", video=video, name=f"shown{i}")
    run(comfy, graph)
    folder = comfy.base / "output"
    return [torch.load(folder / f"shown{i}.pt", weights_only=False) for i in range(len(videos))]


def check_originals(before: dict, after: dict) -> None:
    """The frames that were given are there, at every second place, with all that is beside them.

    As exactly as 4:2:0 video holds colours: within a step of 8 bits, a few at the frame's edges.
    """
    count = len(before["images"])
    assert len(after["images"]) == 2 * count - 1
    assert after["images"].shape[1:] == before["images"].shape[1:]
    assert after["frame_rate"] == 2 * before["frame_rate"]
    error = (after["images"][::2] - before["images"]).abs().flatten()
    assert error.mean() < STEP and error.quantile(0.999) < 4 * STEP
    assert after["get_bit_depth"] == before["get_bit_depth"]
    assert after["get_color_space"] == before["get_color_space"]
    assert (after["audio"] is None) == (before["audio"] is None)


def crop(graph: Graph) -> list:
    return graph.load("sdr.mp4", **CROP)


def trim(graph: Graph) -> list:
    return graph.load("sdr.mp4", **TRIM)


def trimmed_and_cropped(graph: Graph) -> list:
    return graph.load("sdr.mp4", **TRIM, **CROP)


def resized(graph: Graph) -> list:
    return graph.resize(graph.load("sdr.mp4"), 200, 120)


def cropped_and_resized(graph: Graph) -> list:
    return graph.resize(graph.load("sdr.mp4", **CROP), 200, 120)


def cropped_hlg(graph: Graph) -> list:
    return graph.load("hlg.mp4", **CROP)


def joined(graph: Graph) -> list:
    return graph.join(graph.load("sdr.mp4"), graph.load("sdr.mp4", **TRIM))


def joined_and_cropped(graph: Graph) -> list:
    return graph.join(graph.load("sdr.mp4", **CROP), graph.load("sdr.mp4", **CROP))


def hlg(graph: Graph) -> list:
    return graph.load("hlg.mp4")


def pq(graph: Graph) -> list:
    return graph.load("pq.mp4")


def alpha(graph: Graph) -> list:
    needs(graph.comfy, "RIFEVideoInterpolate", "mkv")
    return graph.load("alpha.mov")


def cropped_alpha(graph: Graph) -> list:
    return graph.load("alpha.mov", **CROP)


KINDS = [crop, trim, trimmed_and_cropped, resized, cropped_and_resized, cropped_hlg, joined,
         joined_and_cropped, hlg, pq, alpha, cropped_alpha]  # fmt: skip


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_frames_of_a_video_are_those_that_comfyui_makes_of_it(
    comfy: ComfyUI, make: Callable[[Graph], list]
) -> None:
    graph = Graph(comfy)
    video = make(graph)
    before, after = shown(comfy, graph, video, graph.rife(video))
    check_originals(before, after)
    assert after["metadata"].get("title") == before["metadata"].get("title")
    if "alpha" in make.__name__:
        error = (after["alpha"][::2] - before["alpha"]).abs()
        assert error.max() < 2 * STEP


@pytest.mark.parametrize("codec", ["auto", "h264", "av1"])
@pytest.mark.parametrize("format", ["auto", "mp4", "mkv", "webm"])
def test_every_container_and_codec_on_offer_works(comfy: ComfyUI, format: str, codec: str) -> None:
    offered = comfy.get("/object_info/RIFEVideoInterpolate")["RIFEVideoInterpolate"]["input"]
    for name, value in (("format", format), ("codec", codec)):
        if value not in offered["optional"][name][1]["options"]:
            pytest.skip(f"this ComfyUI offers no {value}")
    graph = Graph(comfy)
    video = graph.rife(graph.load("sdr.mp4"), format=format, codec=codec, crf=20)
    graph.save(video, format)
    done = run(comfy, graph)
    (path,) = comfy.files(done)
    with av.open(str(path)) as file:
        stream, sound = file.streams.video[0], file.streams.audio[0]
        kinds = {"h264"} if codec != "av1" else {"av1"}
        if format == "webm":
            kinds = {"av1"} if codec == "av1" else {"vp9"}
        assert stream.codec.canonical_name in kinds
        tags = {key.lower(): value for key, value in file.metadata.items()}
        assert tags["title"] == "a title" and "RIFEVideoInterpolate" in tags["prompt"]
        times = [frame.time for frame in file.decode(stream)]
        assert len(times) == 2 * COUNT - 1
        assert times[-1] - times[0] == pytest.approx((COUNT - 1) / RATE, abs=0.001)
        assert sound.duration is None or float(sound.duration * sound.time_base) > 0.2
    assert ("WebM files hold no H.264" in " ".join(done.said_on(video[0]))) == (
        (format, codec) == ("webm", "h264")
    )


@pytest.mark.parametrize(
    ("make", "colors"),
    [(crop, "sRGB"), (cropped_hlg, "HDR"), (hlg, "HDR"), (pq, "HDR PQ"), (joined, "sRGB")],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_what_save_video_writes_has_the_pictures_colours_sound_and_tags(
    comfy: ComfyUI, make: Callable[[Graph], list], colors: str
) -> None:
    graph = Graph(comfy)
    video = make(graph)
    graph.save(graph.rife(video))
    (before,) = shown(comfy, graph, video)
    (path,) = sorted((comfy.base / "output").glob("saved*"))[-1:]
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        context = stream.codec_context
        tags = context.colorspace, context.color_primaries, context.color_trc
        assert tags == TAGS[colors]
        assert (stream.width, stream.height) == before["get_dimensions"]
        assert file.metadata["title"] == "a title" and "prompt" in file.metadata
        assert file.streams.audio
        bits = max(component.bits for component in stream.format.components)
        assert bits == (8 if colors == "sRGB" else 10)
        assert sum(1 for _ in file.decode(stream)) == 2 * len(before["images"]) - 1


@pytest.mark.parametrize("color_space", TAGS)
def test_a_video_in_memory_keeps_its_colour_space_and_depth(
    comfy: ComfyUI, color_space: str
) -> None:
    needs(comfy, "CreateVideo", "color_space")
    graph = Graph(comfy)
    parts = graph.add("GetVideoComponents", video=graph.load("sdr.mp4"))
    video = graph.add("CreateVideo", images=parts, fps=24.0, color_space=color_space)
    small = graph.resize(video, 160, 96)
    for inputs in (video, small):
        before, after = shown(comfy, graph, inputs, graph.rife(inputs))
        assert after["get_color_space"] == color_space
        check_originals(before, after)
        assert torch.equal(after["images"][::2], before["images"])


def test_transparency_of_a_video_in_memory_is_interpolated(comfy: ComfyUI) -> None:
    needs(comfy, "CreateVideo", "color_space")
    graph = Graph(comfy)
    image, alpha = "torch.full((3, 48, 64, 3), 0.5)", "torch.linspace(0, 1, 3)[:, None, None]"
    parts = f"images={image}, alpha={alpha}.expand(3, 48, 64), frame_rate=Fraction(24)"
    result = f"InputImpl.VideoFromComponents(Types.VideoComponents({parts}))"
    video = graph.add("OddValue", expression=result)
    before, after = shown(comfy, graph, video, graph.rife(video, cuts="ignore"))
    assert after["alpha"].shape == (5, 48, 64)
    assert torch.equal(after["alpha"][::2], before["alpha"])
    assert 0 < after["alpha"][1].mean() < 0.5


def test_images_beyond_1_stay_and_new_ones_reach_as_far(comfy: ComfyUI) -> None:
    """As EXR images are."""
    graph = Graph(comfy)
    ramp = "torch.linspace(0, 4, 64)[None, None, :, None].repeat(2, 48, 1, 3)"
    images = graph.add("OddValue", expression=f"{ramp} + torch.arange(2).view(2, 1, 1, 1)")
    model = graph.add("LoadRIFEModel", model_name="v4.0.pkl")
    result = graph.add("RIFEFrameInterpolate", model=model, images=images, multiplier=2)
    before, after = shown(
        comfy, graph, *(graph.add("CreateVideo", images=x, fps=24.0) for x in (images, result))
    )
    assert torch.equal(after["images"][::2], before["images"])
    assert after["images"][1].max() > 4


def test_a_sound_track_without_a_decoder_is_left_out_and_named(comfy: ComfyUI) -> None:
    graph = Graph(comfy)
    video = graph.rife(graph.load("spatial.mp4"))
    graph.save(video)
    done = run(comfy, graph)
    (path,) = comfy.files(done)
    with av.open(str(path)) as file:
        assert [stream.codec.canonical_name for stream in file.streams.audio] == ["aac"]
        assert sum(1 for _ in file.decode(video=0)) == 2 * COUNT - 1
    assert any("apac" in line for line in done.said_on(video[0]))
