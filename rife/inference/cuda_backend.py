"""Whole frames by a device that works beside the CPU: NVIDIA's by CUDA, AMD's by ROCm.

Input frames lie in slots on the device, each uploaded and prepared once. Calls of the network read
them by the slots' numbers, so that a call is always the same work on the same memory: after the
second it is captured as a graph, and from there on replayed, which costs the CPU next to nothing.
Uploads, the network and downloads are three streams, which wait for each other by events alone;
the CPU waits where it needs a finished frame, while the next are being made. What a run has set up
stays with its network for the next run.
"""

import atexit
import gc
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, MutableMapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from einops import rearrange
from torch import Tensor

from ..engine.engine import Engine, supports_scale
from ..engine.kernels import interface as kernels
from ..engine.kernels.estimation import KernelEstimation, kernel_estimation
from ..networks.base import Network, PreparedFrames
from ..networks.warp import resize
from ..options import Options
from .planner import Job, first_line, free_memory, is_out_of_memory
from .threads import one_core_threads
from .tiling import colours, pad

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Of a frame: the fused kernels count what lies within one in 32 bits.
MOST_PIXELS = 2**25
#: On average, of levels in [0, 1], when rounding to 16 bits is all that differs.
MOST_APART = 0.01
#: Calls before the one that is captured: cuDNN and Triton choose and compile in them.
WARM_UP = 2
#: Items that the thread of `Device.aside` has ready.
LOOK_AHEAD = 2
#: What is kept between runs: of the device's memory this share, and of the CPU's pinned memory what
#: runs need whose frames take at most so many bytes each (some ten of them at once).
KEPT_SHARE, KEPT_STAGING = 1 / 16, 16 << 20


class Device:
    """What such a device does beside arithmetic, for one run, from the thread that begins it. Tests
    have one that runs on the CPU, as late and in as odd an order as its streams allow.

    compute: the stream that the caller's own work is queued on.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.compute = torch.cuda.current_stream(device)
        self.uploads, self.downloads = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._captures = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._pins = True

    @property
    def total_memory(self) -> int:
        """Bytes."""
        return torch.cuda.get_device_properties(self.device).total_memory

    @property
    def reserved_memory(self) -> int:
        """Bytes that torch has taken of it."""
        return torch.cuda.memory_reserved(self.device)

    def on(self, stream: torch.cuda.Stream, work: Callable[[], Any]) -> None:
        """Queue what `work` does."""
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            work()

    def mark(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        """An event once all is done that has been queued up to here."""
        return stream.record_event()

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        """Make `stream`, not the CPU, wait."""
        stream.wait_event(event)

    def finish(self, event: torch.cuda.Event) -> None:
        """Make the CPU wait."""
        event.synchronize()

    def empty(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the device."""
        with torch.cuda.stream(self.compute):
            return torch.empty(tuple(size), dtype=dtype, device=self.device)

    def holds(self, tensor: Tensor) -> bool:
        """Whether its memory is the device's."""
        return tensor.device == self.device

    def lend(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        """Its memory is not given to others before `stream` is done with it."""
        tensor.record_stream(stream)

    def staging(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the CPU that the device can copy from and to while both do something else. Let
        go, it is used again once what was queued with it is done."""
        if self._pins:
            try:
                return torch.empty(tuple(size), dtype=dtype, pin_memory=True)
            except RuntimeError as error:
                self._pins = False
                log.info("no pinned memory, so copies are slower (%s)", first_line(error))
        return torch.empty(tuple(size), dtype=dtype)

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """What `work` returns, and what does it all again, on the same memory. Nothing is done
        yet."""
        try:
            return self._capture(work)
        except Exception as error:
            log.info("a graph is captured with caches emptied (%s)", first_line(error))
        torch.cuda.synchronize(self.device)
        free_memory(self.device)  # in a capture, torch doesn't do that by itself
        self._pool = torch.cuda.graph_pool_handle()  # the failed one may count as in use
        return self._capture(work)

    def _capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """As torch.cuda.graph; but that empties everyone's caches first, always, and its stream
        belongs to the first GPU that it was used on."""
        graph = torch.cuda.CUDAGraph()
        self._captures.wait_stream(self.compute)
        with (
            _one_capture,
            _no_garbage_collection(),
            torch.cuda.device(self.device),
            torch.cuda.stream(self._captures),
        ):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                made = work()
            except BaseException:
                with suppress(RuntimeError):  # that it failed is known
                    graph.capture_end()
                raise
            graph.capture_end()
        self.compute.wait_stream(self._captures)
        return made, graph.replay

    def on_this_stream(self, work: Callable[..., T]) -> Callable[..., T]:
        """`work`, for other threads: they queue it on the stream that is current here."""
        stream = torch.cuda.current_stream(self.device)

        def queued(*args: Any) -> T:
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                return work(*args)

        return queued

    def aside(self, items: Iterator[T]) -> Generator[T, None, None]:
        """`items`, found by a thread of its own; its look at frames on the device then waits for
        itself alone, and not for all that is queued."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(self.compute)

        def following() -> T | None:
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                return next(items, None)

        with closing(found_ahead(following)) as found:
            for item in found:
                self.compute.wait_stream(stream)
                yield item

    def synchronize(self) -> None:
        """Wait for all that has been queued."""
        for stream in (self.uploads, self.compute, self.downloads):
            stream.synchronize()

    def empty_staging(self) -> None:
        """Give staging's memory back, which torch keeps otherwise."""
        try:
            if hasattr(torch._C, "_host_emptyCache"):
                torch._C._host_emptyCache()
            elif hasattr(getattr(torch, "accelerator", None), "empty_host_cache"):
                torch.accelerator.empty_host_cache()
        except RuntimeError as error:  # of a device that has failed before
            log.info("pinned memory can't be given back (%s)", first_line(error))


#: Held while a graph is captured.
_one_capture = threading.Lock()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What it frees could be graphs and events, which a capture doesn't allow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class GraphCache:
    """Does work that is always the same, on the same memory: captured as graphs, where that can be
    done.

    nbytes: of the device's memory that the graphs take.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, tuple[Any, Callable[[], None]]] = {}
        self.may_capture = True

    def __call__(self, device: Device, name: Hashable, work: Callable[[], T]) -> T:
        """What `work` returns. The next call of that name may write over it."""
        if name not in self._graphs and self.may_capture:
            self._calls[name] = self._calls.get(name, 0) + 1
            if self._calls[name] > WARM_UP:
                self._capture(device, name, work)
        if name not in self._graphs:
            return work()
        made, replay = self._graphs[name]
        replay()
        return made

    def _capture(self, device: Device, name: Hashable, work: Callable[[], Any]) -> None:
        """Only what a replay does right counts."""
        reserved = device.reserved_memory
        try:
            made, replay = device.capture(work)
            self.nbytes += max(0, device.reserved_memory - reserved)
            wanted = [x.clone() for x in _tensors(work())]
            replay()
            for one, other in zip(_tensors(made), wanted, strict=True):
                if not torch.allclose(one.float(), other.float(), 1e-2, 1e-2, equal_nan=True):
                    raise RuntimeError("a replay made something else")
            self._graphs[name] = made, replay
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.may_capture = False
            log.warning(
                "the device's work can't be captured as a graph, so frames take longer (%s)",
                first_line(error),
            )


class Card:
    """Makes frames between others, all of one size, on a `Device`.

    engine: its network is on the device; if it is fused, it suits the options' scale. size: of the
    frames, (height, width, channels). dtype: `carried`'s. batch: frames of a call, at most.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        device: Device,
        size: tuple[int, int, int],
        dtype: torch.dtype,
        batch: int,
    ):
        self.engine, self.options, self.device, self.batch = engine, options, device, batch
        self.size, self.dtype = size, dtype
        self._scale = options.scale_for(*size[:2])
        # The frames of one call, and as many again to upload meanwhile.
        slots = 2 * batch + 1
        self._images = device.empty((slots, *size), dtype)
        self._prepared: PreparedFrames | None = None
        self._slot = device.empty((1,), torch.int64)
        self._orders: dict[int, Tensor] = {}
        self._graphs = GraphCache()
        self.begin(device)

    def begin(self, device: Device) -> None:
        """Be ready for a run on the streams of `device`, with no frame of another run."""
        slots = len(self._images)
        self.device, self._graphs.may_capture = device, True
        self._held: list[Tensor | None] = [None] * slots
        self._read: list[Any] = [None] * slots  # the event after the last call that did
        self._used = [0] * slots  # the number of that call
        self._call = 0
        # That memory may have been others', whose work is still queued.
        device.wait(device.uploads, device.mark(device.compute))

    @property
    def nbytes(self) -> int:
        """Of the device's memory."""
        tensors = [self._images, self._slot, *self._orders.values()]
        if self._prepared:
            tensors += self._prepared.tensors
        weights = self.engine.network.parameters()  # the engine has its own
        return self._graphs.nbytes + sum(x.nbytes for x in (*tensors, *weights))

    @torch.inference_mode()
    def make(
        self,
        jobs: Sequence[Job],
        staged: MutableMapping[Tensor, Tensor] | None = None,
        *,
        fill: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Queue the making of `batch` frames or fewer.

        staged: frames -> what `stage` made of them. fill: of fewer jobs, make a call of `batch`
        nevertheless, as calls of another size take a second to set up; for the last of many.

        Returns the frames, (B, H, W, C) on the device, of the dtype they lie in; and doubts, (B,)
        float32: NaN where a frame is, 1 where it is wrong, as the network would have doubled its
        scales, and 0 where all is well.
        """
        self._call += 1
        count = len(jobs)
        if fill:
            jobs = [*jobs, *[jobs[-1]] * (self.batch - count)]
        staged = {} if staged is None else staged
        with best_convolutions():
            slots = [[self._place(frame, staged) for frame in job[:2]] for job in jobs]
            batch, order = len(jobs), self.device.staging((3, len(jobs)), torch.int32)
            order[:2] = torch.tensor(slots).T
            times = torch.tensor([float(job.timestep) for job in jobs], dtype=torch.float32)
            order[2] = times.view(torch.int32)
            if batch not in self._orders:
                self._orders[batch] = self.device.empty((3, batch), torch.int32)
            target = self._orders[batch]
            frames = self.device.empty((batch, *self.size), self._images.dtype)
            doubts = self.device.empty((batch,), torch.float32)

            def work() -> None:
                target.copy_(order, non_blocking=True)
                made = self._graphs(self.device, batch, lambda: self._made(target))
                frames.copy_(made[0])  # a replay writes to where the last one did
                doubts.copy_(made[1])

            compute = self.device.compute
            self.device.on(compute, work)
            done = self.device.mark(compute)
            for slot in {slot for pair in slots for slot in pair}:
                self._read[slot] = done
        return frames[:count], doubts[:count]

    def _made(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """order: (3, B), slots of the first and the second frames, and timesteps' bits."""
        indices, times = order[:2].long().unbind(), order[2].view(torch.float32)
        first, second = (self._prepared.with_index(index) for index in indices)
        lost: list[Tensor] = []
        options = self.options
        motion = self.engine.motion(
            first, second, times[:, None, None, None], scale=self._scale,
            ensemble=options.ensemble, refine=options.refine, doubling_flags=lost,
        )  # fmt: skip
        doubts = motion.checksum() * 0  # of what is finite, 0
        if lost:
            doubts = doubts.masked_fill(lost[0], 1)
        if self.engine.uses_kernels:
            frames = motion.render_frames(self._images)
        else:
            frames = motion.render(*(self._taken(index) for index in indices))
            frames = rearrange(frames, "b c h w -> b h w c")[:, : self.size[0], : self.size[1]]
            if self._images.dtype == torch.uint8:
                frames = (frames * 255).round_()
            frames = frames.to(self._images.dtype)
        return frames, doubts

    def _taken(self, index: Tensor) -> Tensor:
        """Frames as networks see them, (B, C, H, W) float32, padded."""
        x = rearrange(self._images.index_select(0, index), "b h w c -> b c h w").float()
        if self._images.dtype == torch.uint8:
            x = x / 255
        return pad(x.contiguous(), self.engine.network.side_multiple(self._scale))

    def _place(self, frame: Tensor, staged: MutableMapping[Tensor, Tensor]) -> int:
        """The slot that has `frame`, if need be from now on; in use by this call."""
        slot = next((i for i, held in enumerate(self._held) if held is frame), None)
        if slot is None:
            slot = min(range(len(self._used)), key=self._used.__getitem__)
            self._held[slot] = None  # until the new one is there
            self._upload(frame, staged.pop(frame, None), slot)
            self._held[slot] = frame
        self._used[slot] = self._call
        return slot

    def _upload(self, frame: Tensor, staged: Tensor | None, slot: int) -> None:
        device, compute = self.device, self.device.compute
        target = self._images[slot]
        if device.holds(frame):
            source, stream = frame, compute
            device.lend(frame, compute)
        else:
            source, stream = staged, device.uploads
            if source is None:
                source = stage(device, frame, target.dtype)
            if self._read[slot] is not None:
                device.wait(stream, self._read[slot])

        def upload() -> None:
            image = source
            if source.stride() != target.stride():  # as it lies: the device turns it round
                image = source.to(target.device, non_blocking=True)
            target.copy_(image, non_blocking=True)
            if target.is_floating_point():
                target.clamp_(0, 1)

        device.on(stream, upload)
        if stream is not compute:
            device.wait(compute, device.mark(stream))
        number = device.staging((1,), torch.int64).fill_(slot)

        def prepare() -> None:
            self._slot.copy_(number, non_blocking=True)
            self._graphs(device, "prepare", self._prepare)

        device.on(compute, prepare)

    def _prepare(self) -> tuple[Tensor | None, ...]:
        prepared, in_place = self._prepared, self.engine.can_prepare_slots
        if prepared is None or prepared.pyramid or not in_place:
            x = colours(self._taken(self._slot))
            made = self.engine.prepare(x, refine=self.options.refine)
        if prepared is None:
            prepared = self._prepared = made.map(self._for_all_slots)
        if in_place and not prepared.pyramid:
            return (
                self.engine.prepare_slot(prepared.image_and_features, self._images, self._slot),
            )
        for slots, one in zip(prepared.tensors, made.tensors, strict=True):
            slots.index_copy_(0, self._slot, one)
        return made.tensors

    def _for_all_slots(self, one: Tensor) -> Tensor:
        size = (len(self._images), *one.shape[1:])
        together = one.is_contiguous(memory_format=torch.channels_last) and not one.is_contiguous()
        layout = torch.channels_last if together else torch.contiguous_format
        return torch.empty(size, dtype=one.dtype, device=one.device, memory_format=layout)

    def download(self, made: Tensor) -> Callable[[], Tensor]:
        """Begin to bring what `make` returned, or a part of it, to the CPU; the function returned
        waits for it."""
        device = self.device
        target = device.staging(made.shape, made.dtype)
        device.wait(device.downloads, device.mark(device.compute))
        device.on(device.downloads, lambda: target.copy_(made, non_blocking=True))
        device.lend(made, device.downloads)
        done = device.mark(device.downloads)

        def get() -> Tensor:
            device.finish(done)
            return target

        return get

    def end(self) -> None:
        """Wait for what is queued, and forget the run's frames."""
        self.device.synchronize()
        self._held = [None] * len(self._held)
        self._read = [None] * len(self._read)
        if self._images[0].nbytes > KEPT_STAGING:
            self.device.empty_staging()


def stage(device: Device, frame: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a frame of the CPU's that the device can fetch, of the dtype it is carried in; its
    values lie in the order in which the frame's do, where they lie close together."""
    order = sorted(range(frame.ndim), key=frame.stride, reverse=True)
    if not (ordered := frame.permute(order)).is_contiguous():
        ordered, order = frame, range(frame.ndim)
    target = device.staging(ordered.shape, dtype).copy_(ordered)
    return target.permute([order.index(i) for i in range(frame.ndim)])


def found_ahead(following: Callable[[], T | None]) -> Generator[T, None, None]:
    """What `following` returns, call for call, up to the first None: called in another thread, some
    calls ahead, as inference if the caller is. Closed, it waits for the call that is under way."""
    inference = torch.is_inference_mode_enabled()

    def call() -> T | None:
        with torch.inference_mode(inference):
            return following()

    thread = one_core_threads(1, "frames")
    try:
        coming = deque(thread.submit(call) for _ in range(LOOK_AHEAD))
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(call))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A card between two runs; weights: see Network.weights_state."""

    network: "weakref.ref[Network]"
    weights: Hashable
    kind: Hashable
    card: Card


class CardCache:
    """Cards, for the next run of their network; each at rest, and with one run at a time.

    They go with their network, when its weights change, and when they take more than KEPT_SHARE of
    the device's memory, the oldest first.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kept: list[_Kept] = []  # the newest last

    def take(self, network: Network, kind: Hashable) -> Card | None:
        """A card of this kind that `network` left here, as its weights are now."""
        weights = network.weights_state()
        with self._lock:
            mine = [kept for kept in self._kept if kept.network() is network]
            stale = [kept for kept in mine if kept.weights != weights]
            fits = [kept for kept in mine if kept.weights == weights and kept.kind == kind][-1:]
            self._drop([*stale, *fits])
        return fits[0].card if fits else None

    def put(self, network: Network, weights: Hashable, kind: Hashable, card: Card) -> None:
        """Keep a card at rest; weights: the state that it was made of."""
        alive = weakref.ref(network, lambda _: self._drop_dead())
        device, room = card.device, KEPT_SHARE * card.device.total_memory
        with self._lock:
            self._kept.append(_Kept(alive, weights, kind, card))
            for kept in reversed(self._kept):
                if kept.card.device.device == device.device:
                    room -= kept.card.nbytes
                    if room < 0:
                        self._drop([kept])

    def release(self, network: Network | None = None) -> bool:
        """Give back the memory of those of a network, or of all. Returns whether there were any."""
        with self._lock:
            gone = [kept for kept in self._kept if network is None or kept.network() is network]
            self._drop(gone)
        for device in {kept.card.device for kept in gone}:
            device.empty_staging()
        return bool(gone)

    def _drop_dead(self) -> None:
        with self._lock:
            self._drop([kept for kept in self._kept if kept.network() is None])

    def _drop(self, gone: Sequence[_Kept]) -> None:
        self._kept = [kept for kept in self._kept if kept not in gone]


#: Of this process.
cards = CardCache()
atexit.register(cards.release)  # while the device is there


def device_of(model: Network) -> Device | None:
    """The device of a network, if it is one that works beside the CPU."""
    return Device(model.device) if model.device.type == "cuda" else None


def engine_for(model: Network, size: Sequence[int], scale: float) -> Engine:
    """An engine for frames of this height and width: with the fused kernels, where they run."""
    if size[0] * size[1] > MOST_PIXELS or not supports_scale(model, scale):
        return Engine(model)
    kind = model.version, model.dtype, model.device, kernels.names_to_try()
    if kind not in _trusted:
        with torch.cuda.device_of(next(model.parameters())):  # Triton goes by the current one
            _trusted[kind] = _trusted_run(Engine(model))
    return Engine(model, _trusted[kind])


#: Networks, with their dtypes, devices and kernels to try -> the first that make the same frames.
_trusted: dict[Hashable, type[KernelEstimation] | None] = {}


def _trusted_run(plain: Engine) -> type[KernelEstimation] | None:
    """Tries the kernels once: compilers and devices differ, and users had rather wait than have
    frames that are wrong."""
    level, reasons = logging.INFO, ""
    for name in kernels.names_to_try():
        try:
            run = kernel_estimation(name)
            _compare(plain, run)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if not isinstance(error, ImportError):  # which is usual
                level = logging.WARNING
            reasons += f"{'; ' if reasons else ''}{name}: {first_line(error)}"
            continue
        if reasons:
            log.log(level, "the fused kernels by %s take the place of others (%s)", name, reasons)
        return run
    if reasons:
        log.log(level, "without the fused kernels frames take longer (%s)", reasons)
    return None


@torch.inference_mode()
def _compare(plain: Engine, run: type[KernelEstimation]) -> None:
    """Raises an error if `run` makes other frames than `plain`."""
    network, side = plain.network, plain.network.side_multiple()
    random = torch.Generator().manual_seed(0)
    images = resize(torch.rand(2, 3, 8, 16, generator=random), side // 8).to(network.device)
    frames = [plain.prepare(image[None]) for image in images]
    wanted = plain.motion(*frames, doubling_flags=[]).render(*(image[None] for image in images))
    fused, given = Engine(network, run), images.permute(0, 2, 3, 1).contiguous()
    indices = [torch.full((1,), i, device=network.device) for i in range(2)]

    def render() -> Tensor:
        both = fused.prepare(images)
        if fused.can_prepare_slots:
            for index in indices:
                fused.prepare_slot(both.image_and_features, given, index)
        picked = (both.with_index(index) for index in indices)
        return fused.motion(*picked, doubling_flags=[]).render_frames(given)

    with run.kernels.precompile():
        render()
    apart = float((render() - wanted.permute(0, 2, 3, 1)).abs().mean())
    if not apart < MOST_APART:
        raise RuntimeError(f"they make other frames, {apart:.3f} apart")


def carried(dtype: torch.dtype, network: torch.dtype) -> torch.dtype:
    """In which dtype frames lie on the device and travel to and fro: bytes as they are; floats in
    16 bits, a quarter of a byte's step exact, where the network has no more."""
    if dtype == torch.uint8:
        return dtype
    return torch.float32 if network == torch.float32 else torch.float16


@contextmanager
def best_convolutions() -> Iterator[None]:
    """Let cuDNN try its algorithms, of those that give the same bits each time, on the first call
    of a size; after it, the settings are again what others chose. AMD's takes minutes for that."""
    _count_cudnn_users(1)
    try:
        yield
    finally:
        _count_cudnn_users(-1)


_cudnn_lock = threading.Lock()
_cudnn_users = 0
_cudnn_before = False, False


def _count_cudnn_users(change: int) -> None:
    """The first one sets what is best, the last one puts back what was."""
    global _cudnn_users, _cudnn_before
    cudnn = torch.backends.cudnn
    with _cudnn_lock:
        if not _cudnn_users:
            _cudnn_before = cudnn.benchmark, cudnn.deterministic
            cudnn.benchmark, cudnn.deterministic = torch.version.hip is None, True
        _cudnn_users += change
        if not _cudnn_users:
            cudnn.benchmark, cudnn.deterministic = _cudnn_before


def _tensors(made: Sequence[Tensor | None]) -> list[Tensor]:
    return [x for x in made if x is not None]
