"""Frames between pairs of frames, through any network, on any device, in the memory at hand.

Where memory is short, calls of the network become smaller: fewer frames in a call, then tiles of
the frames, then all of it on the CPU (planner.py).
"""

import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ..callbacks import Cancel
from ..networks.base import Network
from ..options import Options
from ..timeline import HALF, nearest_dyadic
from . import cuda_device, cuda_pipeline
from .backend import Backend, RenderedFrame
from .cuda_backend import CudaBackend
from .frames import FrameSpec, Job
from .planner import CallPlan, MemoryPlanner, first_line, free_memory, is_out_of_memory
from .threads import map_ahead
from .torch_backend import TorchBackend

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")

#: Two frames, (H, W, C) of one size, and the ascending timesteps in (0, 1) to render between them.
Pair = tuple[Tensor, Tensor, Sequence[Fraction]]


class InferenceSession:
    """One network with the options of one run. It keeps what the next pair can use again, until it
    is closed.

    Frames are (H, W, C) of one size; C is 1, 3 or 4; floats in [0, 1] or uint8; on any device.

    Args:
        network: What renders.
        options: Of the run.
        cancel: Asked before each call of the network, see `Cancel`.
        memory_limit: Bytes that one call of the network may take; None: all that is available.
            Where memory runs out nevertheless, calls are smaller from there on, with a line in
            the log.

    Raises:
        NonFiniteError: The network's weights are not finite.
    """

    def __init__(
        self,
        network: Network,
        options: Options,
        cancel: Cancel | None = None,
        memory_limit: float | None = None,
    ):
        network.check_weights()
        self.network, self.options = network, options
        self._planner = MemoryPlanner(network, options, memory_limit)
        self._device = cuda_device.cuda_device_of(network)
        self._torch = TorchBackend(options, cancel)
        self._backends: list[Backend] = [self._torch]
        if self._device and not options.tta:
            cuda = CudaBackend(network, options, self._device, self._planner, cancel)
            self._backends.insert(0, cuda)
        self._has_warned_of_timesteps = False

    @property
    def is_beside_cpu(self) -> bool:
        """Whether the device leaves the CPU free for other work meanwhile."""
        return self._device is not None

    @property
    def fills_calls(self) -> bool:
        """Whether calls of fewer frames than `batch_size` cost as much as full ones."""
        return self.is_beside_cpu and self.network.any_timestep

    @property
    def pipeline_depth(self) -> int:
        """How many calls of `submit` are best made before the first one's frames are taken."""
        return 2 if self.is_beside_cpu else 0

    def batch_size(self, frame: Tensor) -> int:
        """How many frames like `frame` are best rendered in one call of the network."""
        return self._planner.batch_size(self._spec_of(frame))

    def iterate_ahead(self, items: Iterator[T]) -> Generator[T, None, None]:
        """Iterates over `items` in a thread of its own, where the device leaves the CPU free.

        Meant for items that examine frames before they are submitted. Once the generator is closed,
        nothing is examined any more.
        """
        return self._device.iterate_ahead(items) if self._device else (item for item in items)

    def map_frames(
        self, function: Callable[[S], T], items: Iterable[S], ahead: Callable[[S], int]
    ) -> Generator[T, None, None]:
        """As threads.map_ahead where the device leaves the CPU free, else as `map`."""
        if self._device:
            return map_ahead(self._device.on_current_stream(function), items, ahead)
        return (function(item) for item in items)

    def prefetch(self, frame: Tensor) -> None:
        """Begins what can be done for a frame, in any thread, before it is submitted."""
        self._backends[0].prefetch(frame)

    def render(
        self, first: Tensor, second: Tensor, timesteps: Sequence[Fraction]
    ) -> Iterator[Tensor]:
        """As `submit`, of one pair."""
        return self.submit([(first, second, timesteps)])

    def submit(self, pairs: Sequence[Pair]) -> Iterator[Tensor]:
        """Renders the frames of several pairs, one after the other.

        On GPUs, which work beside the CPU, all is queued when this returns.

        Returns:
            An iterator over the frames, (H, W, C) each, on the device of the pairs' frames and of
            their dtype; on GPUs, frames of floats are float16 where the network has no more bits.
            It raises NotEnoughMemory where the smallest tiles are too large, on the CPU too, and
            NonFiniteError instead of a frame of NaN or infinite values.
        """
        if not self.network.any_timestep:
            pairs = [(a, b, self._reachable(timesteps)) for a, b, timesteps in pairs]
        frames = self._begin(pairs)
        if self.is_beside_cpu:
            frames = iter(list(frames))
        return (finish() for finish in frames)

    @torch.inference_mode()
    def estimate_motion(
        self, first: Tensor, second: Tensor, timestep: Fraction = HALF
    ) -> tuple[Tensor, Tensor]:
        """Estimates the motion by which the frame at `timestep` is rendered.

        Networks with a fixed timestep give the middle; with tta, it is the mean of both passes.

        Returns:
            Flow, (H, W, 4), in pixels: where each pixel of the new frame lies in the first frame
            (x, y), then in the second; and mask, (H, W), the first frame's share in [0, 1]. Both
            are float32, on the device of `first`.
        """
        self._torch.keep_only([first, second])
        (motion,) = self._run([Job(first, second, timestep)], self._torch.estimate_motion)
        self._needs_exact_render(motion)
        planes = motion.image.to(first.device)
        return planes[..., :4], planes[..., 4]

    def close(self) -> None:
        """Gives memory back, but for what the next run of the network starts from."""
        for backend in self._backends:
            backend.close()

    def _spec_of(self, frame: Tensor) -> FrameSpec:
        return FrameSpec.of(frame, self.network, self.options)

    def _reachable(self, timesteps: Sequence[Fraction]) -> list[Fraction]:
        """The timesteps nearest to those wanted that bisection reaches."""
        reachable = nearest_dyadic(timesteps)
        if reachable != list(timesteps) and not self._has_warned_of_timesteps:
            self._has_warned_of_timesteps = True
            log.warning(
                "%s makes midpoints only: frames at %s, and at others out of reach, are made at "
                "the nearest steps, %s", self.network.version,
                _list(timesteps), _list(reachable),
            )  # fmt: skip
        return reachable

    @torch.inference_mode()
    def _begin(self, pairs: Sequence[Pair]) -> Iterator[Callable[[], Tensor]]:
        """Renders; yields functions that wait for the frames, in order."""
        self._torch.keep_only([frame for pair in pairs for frame in pair[:2]])
        if self.network.any_timestep or all(set(timesteps) <= {HALF} for *_, timesteps in pairs):
            jobs = [Job(a, b, t) for a, b, timesteps in pairs for t in timesteps]
            rendered = self._render(jobs, fill_batch=True)
        else:
            rendered = (frame for a, b, ts in pairs if ts for frame in self._bisect(a, b, ts))
        for frame in rendered:
            fetch = frame.backend.fetch(frame.image, like=pairs[0][0])
            yield partial(self._finish, frame, fetch, pairs[0][0])

    def _bisect(
        self,
        first: Tensor,
        second: Tensor,
        timesteps: Sequence[Fraction],
        verdicts: tuple[Callable[[], float], ...] = (),
    ) -> Iterator[RenderedFrame]:
        """Renders midpoints, and midpoints between those; verdicts: of `first` and `second`."""
        (middle,) = self._render([Job(first, second, HALF)])
        middle = middle._replace(verdicts=(*verdicts, *middle.verdicts))
        left = [2 * t for t in timesteps if t < HALF]
        right = [2 * t - 1 for t in timesteps if t > HALF]
        if left:
            yield from self._bisect(first, middle.image, left, middle.verdicts)
        if HALF in timesteps:
            yield middle
        if right:
            yield from self._bisect(middle.image, second, right, middle.verdicts)

    def _render(self, jobs: Sequence[Job], *, fill_batch: bool = False) -> Iterator[RenderedFrame]:
        """Renders jobs by the first backend that can do what is planned."""

        def call(plan: CallPlan, jobs: Sequence[Job], spec: FrameSpec) -> list[RenderedFrame]:
            backend = next(x for x in self._backends if x.can_render(plan))
            return backend.render(plan, jobs, spec, fill_batch=fill_batch)

        return self._run(jobs, call)

    def _run(
        self,
        jobs: Sequence[Job],
        call: Callable[[CallPlan, Sequence[Job], FrameSpec], list[RenderedFrame]],
    ) -> Iterator[RenderedFrame]:
        """Yields what `call` makes of the jobs, in calls as large as there is memory for."""
        remaining = list(jobs)
        while remaining:
            spec = self._spec_of(remaining[0].first)
            plan = rendered = None
            try:
                plan = self._planner.plan(remaining, spec)
                rendered = call(plan, remaining[: plan.batch], spec)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Only here the error is gone, and with it all the tensors that its traceback holds.
            if rendered is None:
                self._recover_memory(plan, spec, reason)
            else:
                yield from rendered
                del remaining[: plan.batch]

    def _recover_memory(self, plan: CallPlan | None, spec: FrameSpec, reason: str) -> None:
        """Gives up what is kept, if only for speed; else makes the next calls smaller."""
        for backend in self._backends:
            backend.release_memory()
        if cuda_pipeline.idle_pipelines.release():
            free_memory(self.network.device)
        else:
            self._planner.shrink(plan, spec, reason)

    @torch.inference_mode()
    def _finish(self, frame: RenderedFrame, fetch: Callable[[], Tensor], like: Tensor) -> Tensor:
        """Waits for a frame; renders it again where the backend could not do it exactly."""
        if not self._needs_exact_render(frame):
            return fetch()
        (exact,) = self._run([frame.job], self._torch.render)
        self._needs_exact_render(exact)
        return exact.backend.fetch(exact.image, like)()

    def _needs_exact_render(self, frame: RenderedFrame) -> bool:
        """Waits for the verdicts on a frame.

        Raises:
            NonFiniteError: It, or one that it was made from, is not finite.
        """
        verdicts = [verdict() for verdict in frame.verdicts]
        if not all(map(math.isfinite, verdicts)):
            raise self.network.non_finite_error()
        return any(verdicts)


def _list(timesteps: Sequence[Fraction]) -> str:
    return ", ".join([*map(str, timesteps[:8]), *["..."] * (len(timesteps) > 8)])
