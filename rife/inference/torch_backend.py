"""The plain backend: frames by torch's operators on any device, whole or in tiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..callbacks import Cancel, stop_if_cancelled
from ..engine.engine import Engine
from ..networks.base import Motion, PreparedFrames
from ..options import Options
from .backend import Backend, RenderedFrame
from .frames import FrameSpec, Job, to_dtype, to_frames, to_network_input, to_rgb
from .planner import CallPlan


@dataclass(frozen=True)
class _PreparedFrame:
    """A frame or a tile as the network takes it.

    Attributes:
        image: (1, C, H', W') float32, padded; with tta (2, C, H', W'), upright and turned. Of
            several frames, theirs one after the other.
        prepared: The same as the network has prepared it.
    """

    image: Tensor
    prepared: PreparedFrames


#: Computes what is wanted, (B, C, h, w), from the motion between B pairs of frames or tiles.
_Output = Callable[[Motion, _PreparedFrame, _PreparedFrame], Tensor]


class TorchBackend(Backend):
    """Renders frames by torch's operators, on any device.

    It keeps the prepared frames of the latest jobs: the next pair begins with one of them.

    Args:
        options: Of the run.
        cancel: Asked before each call of the network.
    """

    def __init__(self, options: Options, cancel: Cancel | None = None):
        self._options, self._cancel = options, cancel
        self._engine: Engine | None = None
        self._prepared = WeakIdKeyDictionary()  # frame -> _PreparedFrame

    def can_render(self, plan: CallPlan) -> bool:
        return True

    def prefetch(self, frame: Tensor) -> None:
        pass

    def render(
        self, plan: CallPlan, jobs: Sequence[Job], spec: FrameSpec, *, fill_batch: bool = False
    ) -> list[RenderedFrame]:
        return self._run(plan, jobs, spec, self._render_output)

    def estimate_motion(
        self, plan: CallPlan, jobs: Sequence[Job], spec: FrameSpec
    ) -> list[RenderedFrame]:
        """As `render`, but that images are (H, W, 5): flow and mask, see `Motion`."""
        return self._run(plan, jobs, spec, self._motion_output)

    def fetch(self, image: Tensor, like: Tensor) -> Callable[[], Tensor]:
        return lambda: to_dtype(image, like.dtype).to(like.device)

    def keep_only(self, frames: Sequence[Tensor]) -> None:
        """Forgets all prepared frames but those of `frames`."""
        kept = [(frame, self._prepared[frame]) for frame in frames if frame in self._prepared]
        self._prepared.clear()
        self._prepared.update(kept)

    def release_memory(self) -> None:
        self._prepared.clear()

    def close(self) -> None:
        self._prepared.clear()
        self._engine = None

    def _run(
        self, plan: CallPlan, jobs: Sequence[Job], spec: FrameSpec, output: _Output
    ) -> list[RenderedFrame]:
        if self._engine is None or self._engine.network is not plan.network:
            self._engine = Engine(plan.network)
        run = self._run_tiles if plan.tiles else self._run_whole
        images, checksums = run(plan, jobs, spec, output)
        # 0 of a finite checksum, NaN of any other.
        verdicts = [(partial(float, 0 * checksum),) for checksum in checksums.tolist()]
        return [
            RenderedFrame(job, image, verdict, self)
            for job, image, verdict in zip(jobs, images, verdicts, strict=True)
        ]

    def _run_whole(
        self, plan: CallPlan, jobs: Sequence[Job], spec: FrameSpec, output: _Output
    ) -> tuple[Tensor, Tensor]:
        """Images, (B, H, W, C), and the checksums of their motion, (B,)."""
        for frame in (frame for job in jobs for frame in (job.first, job.second)):
            if frame not in self._prepared:
                self._prepared[frame] = self._prepare(frame, spec)
        firsts = _concatenate([self._prepared[job.first] for job in jobs])
        seconds = _concatenate([self._prepared[job.second] for job in jobs])
        images, checksums = self._call(firsts, seconds, jobs, spec, output)
        return to_frames(images, spec, images.dtype), checksums

    def _run_tiles(
        self, plan: CallPlan, jobs: Sequence[Job], spec: FrameSpec, output: _Output
    ) -> tuple[Tensor, Tensor]:
        """As `_run_whole`, of one job; the image is on the device of the frames."""
        (job,) = jobs
        canvas, checksums = None, 0
        for tile in plan.tiles:
            first, second = (
                self._prepare(tile.cut_from(frame), spec) for frame in (job.first, job.second)
            )
            images, checksum = self._call(first, second, jobs, spec, output)
            if canvas is None:
                size = images.shape[1], spec.height, spec.width
                canvas = torch.zeros(size, device=job.first.device)
            tile.blend_into(canvas, images[0])
            checksums = checksums + checksum
        return to_frames(canvas[None], spec, canvas.dtype), checksums

    def _call(
        self,
        first: _PreparedFrame,
        second: _PreparedFrame,
        jobs: Sequence[Job],
        spec: FrameSpec,
        output: _Output,
    ) -> tuple[Tensor, Tensor]:
        """One call of the network: its output, (B, C, h, w), and checksums, (B,)."""
        stop_if_cancelled(self._cancel)
        options = self._options
        views = 2 if options.tta else 1
        timesteps = torch.tensor([float(job.timestep) for job in jobs for _ in range(views)])
        motion = self._engine.motion(
            first.prepared,
            second.prepared,
            timesteps.to(first.image.device)[:, None, None, None],
            scale=spec.scale,
            ensemble=options.ensemble,
            refine=options.refine,
        )
        checksums = motion.checksum().view(len(jobs), views).sum(1)
        return output(motion, first, second), checksums

    def _prepare(self, image: Tensor, spec: FrameSpec) -> _PreparedFrame:
        """Prepares a frame or a tile, (H, W, C) as the user has it."""
        x = to_network_input(image[None].to(self._engine.network.device), spec.multiple)
        prepared = self._engine.prepare(self._views(to_rgb(x)), refine=self._options.refine)
        return _PreparedFrame(self._views(x), prepared)

    def _views(self, x: Tensor) -> Tensor:
        return torch.cat((x, turn(x))) if self._options.tta else x

    def _render_output(
        self, motion: Motion, first: _PreparedFrame, second: _PreparedFrame
    ) -> Tensor:
        """The frames in between, (B, C, h, w); with tta, the mean of both views."""
        frames = motion.render(first.image, second.image)
        return (frames[::2] + turn(frames[1::2])) / 2 if self._options.tta else frames

    def _motion_output(
        self, motion: Motion, first: _PreparedFrame, second: _PreparedFrame
    ) -> Tensor:
        """Flow and mask, (B, 5, h, w); with tta, the mean of both views."""
        if not self._options.tta:
            return torch.cat((motion.flow, motion.mask), 1)
        flow = (motion.flow[::2] - turn(motion.flow[1::2])) / 2  # turned, motion points back
        return torch.cat((flow, (motion.mask[::2] + turn(motion.mask[1::2])) / 2), 1)


def turn(x: Tensor) -> Tensor:
    """`x`, (B, C, H, W), turned by 180 degrees."""
    return x.flip(2, 3)


def _concatenate(frames: Sequence[_PreparedFrame]) -> _PreparedFrame:
    """Puts frames into one batch; several times the same frame takes no more memory than once."""
    first = frames[0]
    if len(first.image) == 1 and all(frame is first for frame in frames):

        def repeat(x: Tensor) -> Tensor:
            return x.expand(len(frames), -1, -1, -1)

        return _PreparedFrame(repeat(first.image), first.prepared.map(repeat))
    pyramids = zip(*(frame.prepared.pyramid for frame in frames), strict=True)
    prepared = PreparedFrames(
        torch.cat([frame.prepared.image_and_features for frame in frames]),
        tuple(map(torch.cat, pyramids)),
    )
    return _PreparedFrame(torch.cat([frame.image for frame in frames]), prepared)
