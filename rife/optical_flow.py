"""The motion that a network estimates between frames, and motion as colours.

Direction is hue and length is saturation, with the colour wheel of Baker et al., "A Database and
Evaluation Methodology for Optical Flow" (2007), by which flow is commonly shown.
"""

import math
from contextlib import closing
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from .analysis.validation import check_shape, check_values
from .callbacks import Cancel, Progress
from .inference.session import InferenceSession
from .networks.base import Network
from .networks.finite import at_input_frame
from .options import Options

#: The wheel's corners and the steps to the next: more where eyes tell hues apart better.
_CORNERS = (
    ((1, 0, 0), 15),  # red, to the right
    ((1, 1, 0), 6),  # yellow
    ((0, 1, 0), 4),  # green
    ((0, 1, 1), 11),  # cyan
    ((0, 0, 1), 13),  # blue
    ((1, 0, 1), 6),  # magenta
)


def optical_flow(
    model: Network,
    frames: Tensor,
    timestep: float | Fraction = 0.5,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimates the motion between each two of `frames`.

    Args:
        model: The network, from `load_model`.
        frames: (N, H, W, C) as `interpolate` takes them, N >= 2.
        timestep: The moment between the two frames, in (0, 1); networks with a fixed timestep give
            the middle.
        options: The settings of the run.
        progress: Called with a picture of each motion, see `motion_to_image`.
        cancel: See `interpolate`.

    Returns:
        Flow, (N - 1, H, W, 4) float32 in pixels: where each pixel of the frame at `timestep` lies
        in the first frame (x, y) and in the second (x, y); and mask, (N - 1, H, W) float32 in
        [0, 1], the first frame's share in the blend.

    Raises:
        ValueError: `frames` can't be frames, or `options` ask for what `model` lacks.
    """
    frames = torch.as_tensor(frames).detach()
    pairs = len(frames) - 1
    if frames.ndim != 4 or pairs < 1:
        raise ValueError(
            f"motion is between two frames or more, (N, H, W, C), not {tuple(frames.shape)}"
        )
    if not 0 < timestep < 1:
        raise ValueError(f"timestep is {timestep}, but must lie between 0 and 1")
    options.check(model)
    for index, frame in enumerate(frames):
        check_shape(frame, index)
        check_values(frame, index)
    flow = frames.new_empty((pairs, *frames.shape[1:3], 4), dtype=torch.float32)
    mask = frames.new_empty((pairs, *frames.shape[1:3]), dtype=torch.float32)
    with closing(InferenceSession(model, options, cancel)) as session:
        for i, (first, second) in enumerate(pairwise(frames)):  # each the same tensor in both pairs
            with at_input_frame(i, Fraction(timestep)):
                flow[i], mask[i] = session.estimate_motion(first, second, Fraction(timestep))
            if progress:
                progress(i + 1, pairs, motion_to_image(flow[i]))
    return flow, mask


def motion_to_image(flow: Tensor, largest: float | None = None) -> Tensor:
    """Shows the motion from the first frame to the second, see `flow_to_image`.

    Args:
        flow: (..., H, W, 4) in pixels, from `optical_flow`.
        largest: See `flow_to_image`.

    Returns:
        (..., H, W, 3) float32 in [0, 1].
    """
    return flow_to_image(flow[..., 2:] - flow[..., :2], largest)


def flow_to_image(flow: Tensor, largest: float | None = None) -> Tensor:
    """Shows motion as colours: none is white, to the right red, downwards yellow, to the left sky
    blue, upwards violet.

    Args:
        flow: (..., H, W, 2) in pixels, x to the right and y down; what is not finite counts as no
            motion.
        largest: The length in pixels that is shown in full colour; longer motion is shown darker.
            None: the largest in all of `flow`.

    Returns:
        (..., H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: `flow` has another shape, or `largest` is not above 0.
    """
    if flow.ndim < 3 or flow.shape[-1] != 2:
        raise ValueError(f"flow has shape {tuple(flow.shape)}, not (..., H, W, 2)")
    if largest is not None and not largest > 0:
        raise ValueError(f"largest is {largest}; it must be above 0")
    x, y = flow.float().nan_to_num(0, 0, 0).unbind(-1)
    length = torch.hypot(x, y)
    if largest is None:
        largest = float(length.max()) if length.numel() else 0
    length = length / (largest or 1)

    wheel = _wheel().to(flow.device)
    steps = len(wheel) - 2  # from the first direction around to the last, next to it
    position = torch.atan2(-y, -x).div_(math.pi).add_(1).mul_(steps / 2)
    step = position.long().clamp_(0, steps)
    position -= step
    image = flow.new_empty((*length.shape, 3), dtype=torch.float32)
    for channel in range(3):  # one by one: working memory is that of a few planes
        colours = wheel[:, channel].contiguous()
        colour = torch.lerp(colours[step], colours[step + 1], position)
        paled = 1 - length * (1 - colour)
        image[..., channel] = torch.where(length <= 1, paled, 0.75 * colour)
    return image


def _wheel() -> Tensor:
    """(56, 3): 55 colours, and the first again."""
    ends = [corner for corner, _ in _CORNERS[1:] + _CORNERS[:1]]
    colours = []
    for (start, count), end in zip(_CORNERS, ends, strict=True):
        share = torch.arange(count)[:, None] / count
        colours.append(torch.lerp(torch.tensor(start).float(), torch.tensor(end).float(), share))
    return torch.cat([*colours, colours[0][:1]])
