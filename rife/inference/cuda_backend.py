"""The backend of GPUs that work beside the CPU: whole frames, by a pipeline kept between runs."""

import copy
import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..callbacks import Cancel, stop_if_cancelled
from ..engine.kernels import interface as kernels
from ..networks.base import Network
from ..options import Options
from . import cuda_pipeline
from .backend import Backend, RenderedFrame
from .cuda_device import CudaDevice, begin_download, stage_frame, transfer_dtype
from .cuda_pipeline import CudaPipeline
from .frames import FrameSpec, Job
from .kernel_choice import create_engine
from .planner import CallPlan, MemoryPlanner, first_line

log = logging.getLogger(__name__)


class CudaBackend(Backend):
    """Renders whole frames on a GPU, while the CPU goes on with other work.

    Args:
        network: On the GPU.
        options: Of the run, without tta.
        device: The GPU's streams, for this run.
        planner: Says how many frames a call has.
        cancel: Asked before each call of the network.
    """

    def __init__(
        self,
        network: Network,
        options: Options,
        device: CudaDevice,
        planner: MemoryPlanner,
        cancel: Cancel | None = None,
    ):
        self._network, self._options, self._device = network, options, device
        self._planner, self._cancel = planner, cancel
        self._weights = network.weights_state()
        self._pipeline: CudaPipeline | None = None
        self._key: Hashable = None  # of the pipeline, in the cache
        self._staged = WeakIdKeyDictionary()  # frame -> its copy in a staging buffer

    def can_render(self, plan: CallPlan) -> bool:
        return plan.network is self._network and not plan.tiles

    @torch.inference_mode()
    def prefetch(self, frame: Tensor) -> None:
        if not self._device.owns(frame):
            dtype = transfer_dtype(frame.dtype, self._network.dtype)
            with suppress(RuntimeError):  # it is tried again, and then raised, where it is needed
                self._staged[frame] = stage_frame(self._device, frame, dtype)

    def render(
        self, plan: CallPlan, jobs: Sequence[Job], spec: FrameSpec, *, fill_batch: bool
    ) -> list[RenderedFrame]:
        pipeline = self._pipeline_for(plan, jobs[0].first.dtype, spec)
        stop_if_cancelled(self._cancel)
        frames, verdicts = pipeline.render(jobs, self._staged, fill_batch=fill_batch)
        verdicts = begin_download(self._device, verdicts)
        return [
            RenderedFrame(job, frame, (lambda i=i: float(verdicts()[i]),), self)
            for i, (job, frame) in enumerate(zip(jobs, frames, strict=True))
        ]

    def fetch(self, image: Tensor, like: Tensor) -> Callable[[], Tensor]:
        return begin_download(self._device, image) if like.device.type == "cpu" else lambda: image

    def release_memory(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline:
            self._end_run(pipeline)

    def close(self) -> None:
        """Ends the run, and leaves the pipeline to the next one."""
        self._staged.clear()
        self._leave_pipeline()

    def _pipeline_for(self, plan: CallPlan, dtype: torch.dtype, spec: FrameSpec) -> CudaPipeline:
        """The run's pipeline; another one, where it doesn't fit: an earlier run's, or a new one."""
        dtype = transfer_dtype(dtype, self._network.dtype)  # frames can be rendered ones
        pipeline = self._pipeline
        if (
            pipeline is None
            or (pipeline.spec, pipeline.dtype) != (spec, dtype)
            or pipeline.batch < plan.batch
        ):
            self._leave_pipeline()
            batch = max(plan.batch, self._planner.batch_size(spec))
            self._pipeline = self._take_or_create_pipeline(spec, dtype, batch)
        return self._pipeline

    def _take_or_create_pipeline(
        self, spec: FrameSpec, dtype: torch.dtype, batch: int
    ) -> CudaPipeline:
        options, device = self._options, self._device
        self._key = spec, dtype, options.ensemble, options.refine, kernels.names_to_try()
        pipeline = cuda_pipeline.idle_pipelines.take(self._network, self._key)
        if pipeline and pipeline.batch >= batch:
            pipeline.begin_run(device)
            return pipeline
        # A copy, of the same weights: the network goes when its owner lets go of it.
        engine = create_engine(copy.copy(self._network), spec.shape[:2], spec.scale)
        return cuda_pipeline.CudaPipeline(engine, options, device, spec, dtype, batch)

    def _leave_pipeline(self) -> None:
        """Leaves the pipeline to the next run, if the GPU still works."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline and self._end_run(pipeline):
            cuda_pipeline.idle_pipelines.put(self._network, self._weights, self._key, pipeline)

    def _end_run(self, pipeline: CudaPipeline) -> bool:
        """Whether the GPU still works."""
        try:
            pipeline.end_run()
        except RuntimeError as error:  # and no other error is hidden by it
            log.warning("the device failed at the end of a run (%s)", first_line(error))
            return False
        return True
