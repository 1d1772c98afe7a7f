"""Output frames: key frames themselves, frames that the network renders between them, or a cut."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from .callbacks import Cancel, stop_if_cancelled
from .inference.highlights import compress, expand
from .inference.session import InferenceSession
from .key_frames import KeyFrame
from .networks.finite import at_input_frame
from .options import Options
from .timeline import HALF, Timeline

#: Timesteps of one pair that the network is asked for at once: so a run of any multiplier takes no
#: more memory, and can be stopped.
MOST_TIMESTEPS = 256
#: New frames of one pair that networks with a fixed timestep can make, by recursion.
MOST_BY_RECURSION = 1024


class OutputFrame(NamedTuple):
    """A frame of the result.

    Attributes:
        image: (H, W, C), like the input's.
        time: When it is shown, in seconds; the first frame is shown at 0.
        duration: For how long, in seconds.
    """

    image: Tensor
    time: Fraction
    duration: Fraction


@dataclass(frozen=True, eq=False)
class Step:
    """The output frames from one key frame to the next.

    Attributes:
        first: The key frame at timestep 0.
        second: The key frame at timestep 1.
        timesteps: Of the output frames, in [0, 1].
        is_motion: Whether the network renders those within (0, 1).
    """

    first: KeyFrame
    second: KeyFrame
    timesteps: Sequence[Fraction]
    is_motion: bool

    @property
    def new_timesteps(self) -> list[Fraction]:
        """The timesteps at which no key frame lies."""
        return [t for t in self.timesteps if 0 < t < 1]

    @property
    def peak(self) -> float:
        """The largest value of both key frames."""
        return max(self.first.peak, self.second.peak)

    def network_images(self) -> tuple[Tensor, Tensor]:
        """The images of both key frames, (H, W, C), brought into [0, 1] if they are HDR."""
        images = self.first.image, self.second.image
        return tuple(compress(x, self.peak) for x in images) if self.peak > 1 else images

    def user_image(self, rendered: Tensor) -> Tensor:
        """What the network rendered from `network_images`, in the range of the key frames."""
        return expand(rendered, self.peak) if self.peak > 1 else rendered

    def split(self, count: int) -> "tuple[Step, Step]":
        """The step up to its first `count` new frames, and the rest of it."""
        end = self.timesteps.index(self.new_timesteps[count])
        head, tail = self.timesteps[:end], self.timesteps[end:]
        return replace(self, timesteps=head), replace(self, timesteps=tail)


class OutputRenderer:
    """Turns the key frames of one run into output frames.

    Args:
        session: Renders.
        timeline: Where the output frames lie.
        options: What is shown at cuts.
        frame_rate: Input frames a second.
        cancel: Asked at each step.

    Attributes:
        frame_count: Output frames so far.
    """

    def __init__(
        self,
        session: InferenceSession,
        timeline: Timeline,
        options: Options,
        frame_rate: Fraction,
        cancel: Cancel | None,
    ):
        self._session, self._timeline, self._options = session, timeline, options
        self._cancel = cancel
        self._period = 1 / timeline.rate(frame_rate) if timeline.is_evenly_spaced else None
        self.frame_count = 0

    def plan_steps(self, key_frames: Iterable[KeyFrame]) -> Iterator[Step]:
        """Yields the steps from key frame to key frame; many timesteps in several steps.

        Raises:
            ValueError: A network with a fixed timestep can't render that many.
        """
        network = self._session.network
        most = MOST_TIMESTEPS if network.any_timestep else MOST_BY_RECURSION
        for first, second, timesteps in self._timeline.steps(
            (key, key.place) for key in key_frames
        ):
            if len(timesteps) > most and not network.any_timestep:
                raise ValueError(
                    f"{network.version} makes midpoints only, so it can't make {len(timesteps)} "
                    f"frames of one, but {most} at most; use a smaller multiplier, or a model of v4"
                )
            for start in range(0, len(timesteps), most):
                piece = timesteps[start : start + most]
                is_motion = (
                    any(0 < t < 1 for t in piece)
                    and first.shot == second.shot
                    and not _are_equal(first.image, second.image)
                )
                yield Step(first, second, piece, is_motion)

    def render(self, steps: Iterable[Step]) -> Generator[OutputFrame, None, None]:
        """Yields the output frames of the steps, in order, while the next are being rendered."""
        submitted: deque[tuple[Sequence[Step], Iterator[Tensor]]] = deque()
        for group in self._group(steps):
            pairs = [
                (*step.network_images(), step.new_timesteps) for step in group if step.is_motion
            ]
            submitted.append((group, self._session.submit(pairs)))
            if len(submitted) > self._session.pipeline_depth:
                yield from self._output(*submitted.popleft())
        while submitted:
            yield from self._output(*submitted.popleft())

    def _group(self, steps: Iterable[Step]) -> Iterator[list[Step]]:
        """Groups the steps so that calls of the network are as large as the device likes them."""
        group: list[Step] = []
        count = 0  # of frames that the network renders for the group
        for step in steps:
            most = self._session.batch_size(step.first.image) if count or step.is_motion else 0
            while (
                step.is_motion
                and self._session.fills_calls
                and count + len(step.new_timesteps) > most
            ):
                head, step = step.split(most - count)
                yield [*group, head]
                group, count = [], 0
            group.append(step)
            count += len(step.new_timesteps) if step.is_motion else 0
            if count >= most or len(group) >= most:
                yield group
                group, count = [], 0
        if group:
            yield group

    def _output(self, steps: Sequence[Step], rendered: Iterator[Tensor]) -> Iterator[OutputFrame]:
        """Yields the frames of a group; rendered: those that its steps with motion need."""
        for step in steps:
            stop_if_cancelled(self._cancel)
            first, second = step.first, step.second
            new_images = (
                map(step.user_image, rendered) if step.is_motion else self._images_at_cut(step)
            )
            for t in step.timesteps:
                time, duration = self._next_time(step)
                self.frame_count += 1
                with at_input_frame(first.index, t):
                    image = first.image if t == 0 else second.image if t == 1 else next(new_images)
                yield OutputFrame(image, time, duration)

    def _images_at_cut(self, step: Step) -> Iterator[Tensor]:
        """Yields what is shown at the step's new timesteps without any motion."""
        first, second = step.first, step.second
        for t in step.new_timesteps:
            if first.shot == second.shot:
                yield first.image
            elif self._options.cuts == "blend" and not second.follows_gap:
                yield _blend(first.image, second.image, float(t))
            else:
                yield first.image if t < HALF else second.image

    def _next_time(self, step: Step) -> tuple[Fraction, Fraction]:
        """Time and duration, in seconds, of the next output frame, which lies within `step`."""
        if self._period:
            return self.frame_count * self._period, self._period
        first, second = step.first, step.second
        if first is second:
            return self._last_time(first)
        pace = (second.time - first.time) / (second.place - first.place)
        return first.time + (self.frame_count - first.place) * pace, pace

    def _last_time(self, last: KeyFrame) -> tuple[Fraction, Fraction]:
        """As `_next_time`, where the input ends with the key frame `last`."""
        place_of = self._timeline.place
        end = last.time + last.duration
        pace = last.duration / (place_of(last.index + 1, end) - last.place)
        beyond = self.frame_count - last.place  # not 0, where no output frame falls on `last`
        if self._timeline.fills_last_interval or not last.is_held(self._timeline.tick):
            return last.time + beyond * pace, pace
        if beyond:  # as far as the frames before would go
            before = place_of(last.index - 1, last.time - last.interval)
            beyond *= last.interval / (last.place - before)
        return last.time + beyond, end - last.time - beyond


def _are_equal(first: Tensor, second: Tensor) -> bool:
    """Whether two images are equal; of most that aren't, one row tells it."""
    return torch.equal(first[:: len(first)], second[:: len(second)]) and torch.equal(first, second)


def _blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    mixed = torch.lerp(first.float(), second.float(), share)
    return (mixed if first.is_floating_point() else mixed.round()).to(first.dtype)
