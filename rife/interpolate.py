"""Frames in, denser frames out, through any network: the one way for all callers.

    frames -> KeyFrameReader -> Timeline.steps -> OutputRenderer (InferenceSession) -> OutputFrame

`interpolate` takes a batch, `interpolate_stream` an iterable, `interpolate_file` a file; nodes and
the command line call these.
"""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from .callbacks import Cancel, Progress
from .inference.malloc import empty, freed_memory_kept
from .inference.session import InferenceSession
from .inference.threads import cancel_or_wait, frames_ahead, submit
from .key_frames import KeyFrameReader
from .media.base import Frame
from .networks.base import Network
from .options import Options
from .output_frames import OutputFrame, OutputRenderer
from .timeline import Timeline, TimelineLike


@dataclass
class Summary:
    """What a run did; complete when the run has ended.

    Attributes:
        given: Input frames.
        shown: Output frames.
        cuts: Cuts that were detected.
        repeats: Frames that repeat the ones before, if `Options.duplicates` asks for them.
        damage: What of the input file is damaged, a line each.
    """

    given: int = 0
    shown: int = 0
    cuts: int = 0
    repeats: int = 0
    damage: list[str] = field(default_factory=list)


def interpolate(
    model: Network,
    frames: Tensor,
    timeline: TimelineLike = 2,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    out: Tensor | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    summary: Summary | None = None,
) -> Tensor:
    """Puts new frames between those of a batch.

    Args:
        model: The network, from `load_model`.
        frames: (N, H, W, C), C 1 (grey), 3 (RGB) or 4 (RGB and alpha); floats or uint8; on any
            device; of any size from 1x1 up. Floats are in [0, 1], in HDR beyond 1: new frames then
            reach as far as those beside them.
        timeline: 2 doubles the frame rate, 2.5 makes five frames of two, 1/2 keeps every second
            frame, "0-20:2, 21-:8" has its own multiplier for each pair; or a `Timeline`, on which
            the frames are a second apart: Timeline(frame_rate=Fraction(60, 24)) makes 60 frames a
            second of 24. Networks with a fixed timestep (the paper's IFNet, v3.x) make halves,
            quarters ... by recursion and the rest at the nearest of these, with a line in the log.
        options: The settings of the run.
        out: Where to put the result, (count, H, W, C), of any dtype and device.
        progress: Called with each frame.
        cancel: Called with each input frame and before each call of the network; returning True
            raises Cancelled, and an exception of its own goes through.
        summary: Counts what is done.

    Returns:
        `out`, or a new tensor like `frames`. Input frames are in it bit for bit, where the timeline
        falls on them. One frame alone comes back as it is.

    Raises:
        ValueError: `frames` can't be frames, or `options` ask for what `model` lacks.
        Cancelled: `cancel` asked to stop.
        NonFiniteError: The network made NaN or infinite values.
        NotEnoughMemory: Even small tiles on the CPU take too much.
    """
    frames = torch.as_tensor(frames).detach()
    if frames.ndim != 4:
        raise ValueError(
            f"frames must be (N, H, W, C), such as (49, 480, 720, 3), not {tuple(frames.shape)}"
        )
    if len(frames) == 0:
        raise ValueError("there are no frames to interpolate: the batch is empty")
    timeline = Timeline.of(timeline)
    total = timeline.count(len(frames))
    if out is None:
        out = empty((total, *frames.shape[1:]), frames.dtype, frames.device)
    elif out.shape != (total, *frames.shape[1:]):
        raise ValueError(f"out is {tuple(out.shape)}, not {(total, *frames.shape[1:])}")

    stream = _run(model, frames, timeline, options, cancel, summary, out=out)
    with closing(stream):
        for done, frame in enumerate(stream, 1):
            if progress:
                progress(done, total, frame.image)
    return out


def interpolate_stream(
    model: Network,
    frames: Iterable[Tensor | Frame],
    timeline: TimelineLike = 2,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    frame_rate: Fraction = Fraction(1),
    cancel: Cancel | None = None,
    summary: Summary | None = None,
) -> Generator[OutputFrame, None, None]:
    """As `interpolate`, frame by frame: holds a few input frames, however many there are.

    Close the generator where it isn't run to its end (`contextlib.closing`): then no thread of its
    own is left, and no memory of the device.

    Args:
        model: The network, from `load_model`.
        frames: Images, (H, W, C) each, that are a second apart, or frames with times of their own.
            On GPUs they are asked for in another thread, some frames ahead, in inference mode if
            that is on.
        timeline: See `interpolate`.
        options: The settings of the run.
        frame_rate: Input frames a second, on average; the rate of slow motion.
        cancel: See `interpolate`.
        summary: Counts what is done.

    Yields:
        The frames of the result, in order. An input frame that lasts longer than the one before it
        and ends the clip keeps its duration, whatever the multiplier.

    Raises:
        ValueError: As `interpolate`; so with the other errors.
    """
    dtype = None
    timeline = Timeline.of(timeline)
    with closing(_run(model, frames, timeline, options, cancel, summary, frame_rate)) as stream:
        for frame in stream:
            dtype = dtype or frame.image.dtype  # the first is an input frame
            yield frame._replace(image=frame.image.to(dtype))


def _run(
    model: Network,
    frames: Iterable[Tensor | Frame],
    timeline: Timeline,
    options: Options,
    cancel: Cancel | None,
    summary: Summary | None,
    frame_rate: Fraction = Fraction(1),
    out: Tensor | None = None,
) -> Generator[OutputFrame, None, None]:
    """As interpolate_stream, but that new frames have the session's dtype; or, where `out` is
    given, that all are written to it and are views on it."""
    options.check(model)
    session = InferenceSession(model, options, cancel)
    reader = KeyFrameReader(frames, timeline, options, session, cancel)
    renderer = OutputRenderer(session, timeline, options, frame_rate, cancel)
    key_frames = reader.key_frames()
    steps = session.iterate_ahead(renderer.plan_steps(key_frames))
    output = renderer.render(steps)
    if out is not None:
        output = _write_to(out, output, in_threads=session.is_beside_cpu)
    with freed_memory_kept() if model.device.type == "cpu" else nullcontext():
        try:
            yield from output
        finally:
            steps.close()  # first, as it may be a thread that reads the frames
            key_frames.close()
            output.close()
            session.close()
            if summary:
                summary.given += reader.frame_count
                summary.cuts += reader.cut_count
                summary.repeats += reader.repeat_count
                summary.shown += renderer.frame_count


def _write_to(
    out: Tensor, frames: Generator[OutputFrame, None, None], in_threads: bool
) -> Generator[OutputFrame, None, None]:
    """Copies frames to their places in a tensor.

    Args:
        out: (count, H, W, C).
        frames: `count` of them; closed at the end.
        in_threads: Whether several threads copy, while the next frames are being rendered. They do
            so between memories of the CPU alone.

    Yields:
        The frames, in order, as views on `out`. Once closed, nothing is written any more.
    """
    pending: deque[tuple[OutputFrame, Future]] = deque()
    in_threads = in_threads and out.device.type == "cpu"
    with closing(frames):
        try:
            for frame, target in zip(frames, out, strict=True):
                if in_threads and frame.image.device.type == "cpu":
                    copy = submit(_copy, frame.image, target)
                else:
                    copy = Future()
                    copy.set_result(_copy(frame.image, target))
                pending.append((frame._replace(image=target), copy))
                while pending and (len(pending) > 2 * frames_ahead(target) or pending[0][1].done()):
                    written, copy = pending.popleft()
                    copy.result()
                    yield written
            for written, copy in pending:
                copy.result()
                yield written
        finally:
            cancel_or_wait(copy for _, copy in pending)


@torch.inference_mode()
def _copy(source: Tensor, target: Tensor) -> None:
    target.copy_(source)
