"""Chooses an engine's GPU kernels: the first language whose kernels are seen to work here."""

import logging
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ..engine.engine import Engine, supports_scale
from ..engine.kernels import interface as kernels
from ..engine.kernels.estimation import KernelEstimation, kernel_estimation
from ..networks.base import Network
from ..networks.warp import resize
from .planner import first_line, is_out_of_memory

log = logging.getLogger(__name__)

#: The kernels count within a frame in 32 bits.
MOST_PIXELS = 2**25
#: The largest mean difference of frames, of levels in [0, 1], that rounding to 16 bits can make.
MOST_DIFFERENCE = 0.01

#: By network, dtype, device and languages to try: the first that makes the same frames.
_checked_estimations: dict[Hashable, type[KernelEstimation] | None] = {}


def create_engine(network: Network, size: Sequence[int], scale: float) -> Engine:
    """An engine for frames of a size, with GPU kernels where they work.

    Args:
        network: On a GPU.
        size: Height and width of the frames, in pixels.
        scale: See `Options`.
    """
    if size[0] * size[1] > MOST_PIXELS or not supports_scale(network, scale):
        return Engine(network)
    key = network.version, network.dtype, network.device, kernels.names_to_try()
    if key not in _checked_estimations:
        with torch.cuda.device_of(next(network.parameters())):  # Triton goes by the current one
            _checked_estimations[key] = _find_working_estimation(Engine(network))
    return Engine(network, _checked_estimations[key])


def _find_working_estimation(plain: Engine) -> type[KernelEstimation] | None:
    """Tries the kernels once: compilers and devices differ, and users had rather wait than have
    frames that are wrong."""
    level, reasons = logging.INFO, ""
    for name in kernels.names_to_try():
        try:
            estimation = kernel_estimation(name)
            _check_estimation(plain, estimation)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if not isinstance(error, ImportError):  # which is usual
                level = logging.WARNING
            reasons += f"{'; ' if reasons else ''}{name}: {first_line(error)}"
            continue
        if reasons:
            log.log(level, "the fused kernels by %s take the place of others (%s)", name, reasons)
        return estimation
    if reasons:
        log.log(level, "without the fused kernels frames take longer (%s)", reasons)
    return None


@torch.inference_mode()
def _check_estimation(plain: Engine, estimation: type[KernelEstimation]) -> None:
    """Raises an error if `estimation` renders other frames than `plain`."""
    network, side = plain.network, plain.network.side_multiple()
    random = torch.Generator().manual_seed(0)
    images = resize(torch.rand(2, 3, 8, 16, generator=random), side // 8).to(network.device)
    pair = [plain.prepare(image[None]) for image in images]
    expected = plain.motion(*pair, doubling_flags=[]).render(*(image[None] for image in images))
    fused, frames = Engine(network, estimation), images.permute(0, 2, 3, 1).contiguous()
    indices = [torch.full((1,), i, device=network.device) for i in range(2)]

    def render() -> Tensor:
        prepared = fused.prepare(images)
        if fused.can_prepare_slots:
            for index in indices:
                fused.prepare_slot(prepared.image_and_features, frames, index)
        pair = (prepared.with_index(index) for index in indices)
        return fused.motion(*pair, doubling_flags=[]).render_frames(frames)

    with estimation.kernels.precompile():
        render()
    difference = float((render() - expected.permute(0, 2, 3, 1)).abs().mean())
    if not difference < MOST_DIFFERENCE:
        raise RuntimeError(f"they make other frames, {difference:.3f} apart")
