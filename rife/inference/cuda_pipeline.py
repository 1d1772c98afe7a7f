"""Frames of one size on a GPU: uploaded, prepared and rendered without the CPU waiting.

Input frames lie in slots on the GPU, each uploaded and prepared once. Calls of the network read
them by the slots' numbers, so that a call is always the same work on the same memory: after the
second it is captured as a graph, and from there on replayed. Uploads, the network and downloads are
three streams, which wait for each other by events alone; the CPU waits where it needs a finished
frame, while the next are being rendered.
"""

import atexit
import threading
import weakref
from collections.abc import Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..networks.base import Network, PreparedFrames
from ..options import Options
from .cuda_device import CudaDevice, best_convolutions, stage_frame
from .frames import FrameSpec, Job, to_frames, to_network_input, to_rgb
from .graph_cache import GraphCache

#: What idle pipelines may keep: this share of the GPU's memory, and the staging buffers of runs
#: whose frames take at most so many bytes each (some ten of them at once).
KEPT_SHARE, KEPT_STAGING = 1 / 16, 16 << 20


class CudaPipeline:
    """Renders frames of one size, call by call.

    Attributes:
        spec: Of the frames.
        dtype: In which frames lie on the GPU, see `transfer_dtype`.
        batch: Frames in a call, at most.
        engine: Runs the network, which is on the GPU.
        device: The streams of the current run.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        device: CudaDevice,
        spec: FrameSpec,
        dtype: torch.dtype,
        batch: int,
    ):
        self.engine, self.spec, self.dtype, self.batch = engine, spec, dtype, batch
        self._ensemble, self._refine = options.ensemble, options.refine
        # The frames of one call, and as many again to upload meanwhile.
        slots = 2 * batch + 1
        self._images = device.empty((slots, *spec.shape), dtype)
        self._prepared: PreparedFrames | None = None  # of all slots
        self._slot_to_prepare = device.empty((1,), torch.int64)
        self._call_inputs: dict[int, Tensor] = {}  # by batch: slots and timesteps, see `render`
        self._graphs = GraphCache()
        self.begin_run(device)

    def begin_run(self, device: CudaDevice) -> None:
        """Makes the pipeline ready for a run on the streams of `device`, without any frames."""
        slots = len(self._images)
        self.device, self._graphs.may_capture = device, True
        self._frame_in_slot: list[Tensor | None] = [None] * slots
        self._last_read: list[Any] = [None] * slots  # the event after the last call that read it
        self._last_call = [0] * slots  # the number of that call
        self._call = 0
        # The slots' memory may have been others', whose work is still queued.
        device.wait_event(device.uploads, device.record_event(device.compute))

    def end_run(self) -> None:
        """Waits for what is queued, and forgets the run's frames."""
        self.device.synchronize()
        self._frame_in_slot = [None] * len(self._frame_in_slot)
        self._last_read = [None] * len(self._last_read)
        if self._images[0].nbytes > KEPT_STAGING:
            self.device.release_staging_memory()

    @property
    def nbytes(self) -> int:
        """Of the GPU's memory that the pipeline takes."""
        tensors = [self._images, self._slot_to_prepare, *self._call_inputs.values()]
        if self._prepared:
            tensors += self._prepared.tensors
        weights = self.engine.network.parameters()  # the engine has its own
        return self._graphs.nbytes + sum(x.nbytes for x in (*tensors, *weights))

    @torch.inference_mode()
    def render(
        self,
        jobs: Sequence[Job],
        staged: MutableMapping[Tensor, Tensor] | None = None,
        *,
        fill_batch: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Queues one call of the network.

        Args:
            jobs: `batch` of them, or fewer.
            staged: Frames -> their copies by `stage_frame`, where there are any; those that are
                uploaded are taken out.
            fill_batch: Whether a call of fewer jobs is as large as `batch` nevertheless: calls of
                another size take a second to set up.

        Returns:
            Frames, (B, H, W, C) on the GPU, of the dtype that frames lie in there; and verdicts,
            (B,) float32: 0 where a frame is sound, 1 where the network would have doubled its
            scales, NaN where its result is not finite.
        """
        self._call += 1
        count = len(jobs)
        if fill_batch:
            jobs = [*jobs, *[jobs[-1]] * (self.batch - count)]
        staged = {} if staged is None else staged
        with best_convolutions():
            slots = [[self._assign_slot(frame, staged) for frame in job[:2]] for job in jobs]
            batch = len(jobs)
            # (3, B): the slots of both frames, and the bits of the timesteps.
            inputs = self.device.staging_buffer((3, batch), torch.int32)
            inputs[:2] = torch.tensor(slots).T
            timesteps = torch.tensor([float(job.timestep) for job in jobs], dtype=torch.float32)
            inputs[2] = timesteps.view(torch.int32)
            if batch not in self._call_inputs:
                self._call_inputs[batch] = self.device.empty((3, batch), torch.int32)
            call_inputs = self._call_inputs[batch]
            frames = self.device.empty((batch, *self.spec.shape), self._images.dtype)
            verdicts = self.device.empty((batch,), torch.float32)

            def call_network() -> None:
                call_inputs.copy_(inputs, non_blocking=True)
                outputs = self._graphs.run(
                    self.device, batch, lambda: self._call_network(call_inputs)
                )
                frames.copy_(outputs[0])  # the next replay writes over the outputs
                verdicts.copy_(outputs[1])

            compute = self.device.compute
            self.device.enqueue(compute, call_network)
            done = self.device.record_event(compute)
            for slot in {slot for pair in slots for slot in pair}:
                self._last_read[slot] = done
        return frames[:count], verdicts[:count]

    def _call_network(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Frames and verdicts; inputs: see `render`."""
        indices, timesteps = inputs[:2].long().unbind(), inputs[2].view(torch.float32)
        first, second = (self._prepared.with_index(index) for index in indices)
        doubling_flags: list[Tensor] = []
        motion = self.engine.motion(
            first, second, timesteps[:, None, None, None], scale=self.spec.scale,
            ensemble=self._ensemble, refine=self._refine, doubling_flags=doubling_flags,
        )  # fmt: skip
        verdicts = motion.checksum() * 0  # NaN where it is not finite
        if doubling_flags:
            verdicts = verdicts.masked_fill(doubling_flags[0], 1)
        if self.engine.uses_kernels:
            frames = motion.render_frames(self._images)
        else:
            frames = motion.render(*(self._network_input(index) for index in indices))
            frames = to_frames(frames, self.spec, self._images.dtype)
        return frames, verdicts

    def _network_input(self, slots: Tensor) -> Tensor:
        return to_network_input(self._images.index_select(0, slots), self.spec.multiple)

    def _assign_slot(self, frame: Tensor, staged: MutableMapping[Tensor, Tensor]) -> int:
        """The slot of `frame` in this call; a new frame takes the one that was used longest ago."""
        slot = next((i for i, held in enumerate(self._frame_in_slot) if held is frame), None)
        if slot is None:
            slot = min(range(len(self._last_call)), key=self._last_call.__getitem__)
            self._frame_in_slot[slot] = None  # until the new one is there
            self._upload(frame, staged.pop(frame, None), slot)
            self._frame_in_slot[slot] = frame
        self._last_call[slot] = self._call
        return slot

    def _upload(self, frame: Tensor, staged: Tensor | None, slot: int) -> None:
        """Queues the upload of a frame and its preparation."""
        device, compute = self.device, self.device.compute
        target = self._images[slot]
        if device.owns(frame):
            source, stream = frame, compute
            device.record_use(frame, compute)
        else:
            source, stream = staged, device.uploads
            if source is None:
                source = stage_frame(device, frame, target.dtype)
            if self._last_read[slot] is not None:
                device.wait_event(stream, self._last_read[slot])

        def upload() -> None:
            image = source
            if source.stride() != target.stride():  # copied as it lies, then reordered by the GPU
                image = source.to(target.device, non_blocking=True)
            target.copy_(image, non_blocking=True)
            if target.is_floating_point():
                target.clamp_(0, 1)

        device.enqueue(stream, upload)
        if stream is not compute:
            device.wait_event(compute, device.record_event(stream))
        number = device.staging_buffer((1,), torch.int64).fill_(slot)

        def prepare() -> None:
            self._slot_to_prepare.copy_(number, non_blocking=True)
            self._graphs.run(device, "prepare", self._prepare_slot)

        device.enqueue(compute, prepare)

    def _prepare_slot(self) -> tuple[Tensor | None, ...]:
        """Prepares the frame in `_slot_to_prepare`, in the slot's part of `_prepared`."""
        slot, in_place = self._slot_to_prepare, self.engine.can_prepare_slots
        if self._prepared is None or self._prepared.pyramid or not in_place:
            x = to_rgb(self._network_input(slot))
            frame = self.engine.prepare(x, refine=self._refine)
        if self._prepared is None:
            self._prepared = frame.map(self._allocate_for_slots)
        prepared = self._prepared
        if in_place and not prepared.pyramid:
            return (self.engine.prepare_slot(prepared.image_and_features, self._images, slot),)
        for target, source in zip(prepared.tensors, frame.tensors, strict=True):
            target.index_copy_(0, slot, source)
        return frame.tensors

    def _allocate_for_slots(self, frame: Tensor) -> Tensor:
        size = (len(self._images), *frame.shape[1:])
        is_channels_last = (
            frame.is_contiguous(memory_format=torch.channels_last) and not frame.is_contiguous()
        )
        layout = torch.channels_last if is_channels_last else torch.contiguous_format
        return torch.empty(size, dtype=frame.dtype, device=frame.device, memory_format=layout)


@dataclass(frozen=True, eq=False)
class _IdlePipeline:
    """A pipeline between two runs.

    Attributes:
        network: That it renders with.
        weights: The network's `weights_state` when the pipeline was set up.
        key: What else it is for, see CudaBackend.
        pipeline: At rest.
    """

    network: "weakref.ref[Network]"
    weights: Hashable
    key: Hashable
    pipeline: CudaPipeline


class PipelineCache:
    """Pipelines for the next run of their network; each is used by one run at a time.

    They go with their network, when its weights change, and when they take more than KEPT_SHARE of
    the GPU's memory, the oldest first.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._idle: list[_IdlePipeline] = []  # the newest last

    def take(self, network: Network, key: Hashable) -> CudaPipeline | None:
        """Takes out the newest pipeline of this network and key that has its present weights."""
        weights = network.weights_state()
        with self._lock:
            own = [idle for idle in self._idle if idle.network() is network]
            stale = [idle for idle in own if idle.weights != weights]
            fitting = [idle for idle in own if idle.weights == weights and idle.key == key][-1:]
            self._remove([*stale, *fitting])
        return fitting[0].pipeline if fitting else None

    def put(
        self, network: Network, weights: Hashable, key: Hashable, pipeline: CudaPipeline
    ) -> None:
        """Keeps a pipeline whose run has ended; weights: the state that it was set up with."""
        reference = weakref.ref(network, lambda _: self._remove_dead())
        device = pipeline.device
        room = KEPT_SHARE * device.total_memory
        with self._lock:
            self._idle.append(_IdlePipeline(reference, weights, key, pipeline))
            for idle in reversed(self._idle):
                if idle.pipeline.device.device == device.device:
                    room -= idle.pipeline.nbytes
                    if room < 0:
                        self._remove([idle])

    def release(self, network: Network | None = None) -> bool:
        """Gives back the memory of a network's pipelines, or of all; whether there were any."""
        with self._lock:
            removed = [idle for idle in self._idle if network is None or idle.network() is network]
            self._remove(removed)
        for device in {idle.pipeline.device for idle in removed}:
            device.release_staging_memory()
        return bool(removed)

    def _remove_dead(self) -> None:
        with self._lock:
            self._remove([idle for idle in self._idle if idle.network() is None])

    def _remove(self, removed: Sequence[_IdlePipeline]) -> None:
        self._idle = [idle for idle in self._idle if idle not in removed]


#: Those of this process.
idle_pipelines = PipelineCache()
atexit.register(idle_pipelines.release)  # while the device is there
