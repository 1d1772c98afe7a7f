"""What a run shows on its node and in the console, and how it is stopped."""

import gc
import logging
import threading
from types import GeneratorType, SimpleNamespace

import numpy as np
import pytest
import torch

from ..support.pack import PACK, interpolate  # isort: skip  (makes ComfyUI's modules importable)

import comfy.model_management as model_management
import comfy.model_patcher
import comfy.utils


def test_progress_counts_the_frames_and_previews_a_few(
    pack: SimpleNamespace,
    model: object,
    frames: torch.Tensor,
    reported: list[tuple[int, int, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pack.host.progress, "SECONDS_BETWEEN_PREVIEWS", 1e9)
    interpolate(pack, model, frames, 5)
    assert [value for value, _, _ in reported] == sorted(value for value, _, _ in reported)
    assert reported[-1][:2] == (16, 16)
    ((kind, image, longest),) = [preview for _, _, preview in reported if preview]
    assert (kind, image.mode, image.size) == ("JPEG", "RGB", (92, 64))
    assert longest is None  # ComfyUI would enlarge it to this


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_previews_of_large_frames_are_small_and_keep_their_proportions(
    pack: SimpleNamespace, channels: int
) -> None:
    image = pack.host.progress.make_preview(torch.rand(2160, 3840, channels), 512)
    assert (image.mode, image.size) == ("RGB", (512, 288))
    assert pack.host.progress.make_preview(torch.rand(600, 100, channels), 512).size == (85, 512)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_previews_look_like_the_frame_whatever_it_is_made_of(
    pack: SimpleNamespace, dtype: torch.dtype
) -> None:
    """Frames of 8-bit videos are bytes."""
    frame = torch.linspace(0, 255, 12).view(2, 2, 3)
    frame = (frame if dtype == torch.uint8 else frame / 255).to(dtype)
    preview = torch.from_numpy(np.array(pack.host.progress.make_preview(frame, 512)))
    assert (preview.flatten() - torch.linspace(0, 255, 12)).abs().max() <= 1


def test_an_interrupt_stops_the_run_and_the_next_run_is_whole(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    reported = []

    def interrupt_at_once(value: int, *_: object, **__: object) -> None:
        reported.append(value)
        model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt_at_once)
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            interpolate(pack, model, frames, 4)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert reported == [1]  # the first frame, which is an original
    assert len(interpolate(pack, model, frames, 4)) == 13


@pytest.mark.parametrize("node", ["RIFEFrameInterpolate", "RIFEOpticalFlow"])
@pytest.mark.parametrize("cause", ["progress", "cancel", "a bad frame"])
def test_nothing_runs_any_more_when_comfyui_empties_its_caches(
    pack: SimpleNamespace,
    model: object,
    frames: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    node: str,
    cause: str,
) -> None:
    """Generators that are still alive then hold the device's memory."""

    class Interrupt(BaseException):
        pass

    def stop(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # ComfyUI passes the first and the last on, and others now and then
            raise Interrupt

    def record_generators() -> None:
        alive.append(
            [
                item
                for item in gc.get_objects()
                if type(item) is GeneratorType
                and item.gi_frame is not None
                and f"{PACK}/rife/" in item.gi_code.co_filename
            ]
        )

    calls, alive = 0, []
    monkeypatch.setattr(model_management, "soft_empty_cache", record_generators)
    if cause == "cancel":
        name = "throw_exception_if_processing_interrupted"
        monkeypatch.setattr(model_management, name, stop)
    if cause == "a bad frame":
        frames = torch.cat((frames, frames[:1] / 0))
    if cause == "progress":
        comfy.utils.set_progress_bar_global_hook(stop)
    try:
        with pytest.raises((Interrupt, ValueError)):
            pack.nodes[node].execute(model=model, images=frames)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert alive == [[]]


@pytest.fixture
def texts_on_node(pack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is shown on RIFE Frame Interpolate, which is node 7: (node, text)."""
    lines: list[tuple[str, str]] = []
    monkeypatch.setattr(
        pack.nodes["RIFEFrameInterpolate"],
        "hidden",
        SimpleNamespace(unique_id="7"),
        raising=False,
    )
    monkeypatch.setattr(
        pack.host.progress.PromptServer.instance,
        "send_progress_text",
        lambda text, node_id: lines.append((node_id, text)),
        raising=False,
    )
    return lines


def test_a_run_says_on_its_node_what_it_did(
    pack: SimpleNamespace, model: object, frames: torch.Tensor, texts_on_node: list[tuple[str, str]]
) -> None:
    node = pack.nodes["RIFEFrameInterpolate"]
    clip = torch.cat((frames, frames[-1:], 1 - frames.flip(2)))
    result = node.execute(model, clip, source_fps=8.0, target_fps=60.0, duplicates=True)
    (text,) = result.ui["text"]
    assert text.startswith(f"9 -> {len(result[0])} frames, 8 -> 60 fps\n1 cut, 1 repeated frame\n")
    assert "v4.0" in text and "float32" in text and text.endswith(" s")
    assert result[-1] == text
    assert texts_on_node[0][0] == "7" and texts_on_node[0][1].startswith(
        f"frame 1 of {len(result[0])}"
    )


def test_what_a_run_warns_of_is_said_on_its_node(
    pack: SimpleNamespace, model: object, frames: torch.Tensor, texts_on_node: list[tuple[str, str]]
) -> None:
    node, logger = (
        pack.nodes["RIFEFrameInterpolate"],
        logging.getLogger(pack.rife.__name__),
    )
    before = list(logger.handlers)
    for images, warned in ((frames - 0.4, True), (frames, False)):
        report = node.execute(model, images, 2, 24.0).result[-1]
        *warnings, count, _ = report.splitlines()
        assert count.startswith("4 -> 7 frames")
        assert [line.partition(";")[0] for line in warnings] == (
            ["frames have values below 0"] if warned else []
        )
    with pytest.raises(ValueError):
        node.execute(model, frames / 0, 2)
    assert logger.handlers == before


def test_warnings_are_said_once_and_in_a_line_each(pack: SimpleNamespace) -> None:
    logger = logging.getLogger(f"{pack.rife.__name__}.media.reader")
    logger.warning("before")
    with pack.host.progress.collect_warnings() as lines:
        for name in ("a\x1b[31m.mp4", "b\n.mp4", "b\n.mp4"):
            reader = threading.Thread(target=logger.warning, args=("%s is damaged", name))
            reader.start()
            reader.join()
        logger.info("unimportant")
        logging.getLogger("elsewhere").warning("not ours")
    logger.warning("after")
    assert lines == ["a\\x1b[31m.mp4 is damaged", "b\\n.mp4 is damaged"]
