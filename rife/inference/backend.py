"""The interface of a backend, which renders frames in calls of the network."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from .frames import FrameSpec, Job
from .planner import CallPlan


class RenderedFrame(NamedTuple):
    """A frame as a backend rendered it.

    Attributes:
        job: What was asked for.
        image: (H, W, C): on the network's device or on the frames', in [0, 1] or bytes. It can be
            one of the frames of another job.
        verdicts: Functions that wait for the device and return 0 where the image is sound, 1 where
            the network would have doubled its scales and the backend could not, NaN where the
            network's result is not finite. One for the image, and one for each rendered image that
            it was made from.
        backend: What rendered it.
    """

    job: Job
    image: Tensor
    verdicts: tuple[Callable[[], float], ...]
    backend: "Backend"


class Backend(ABC):
    """Renders frames, in calls of the network as large as a plan says."""

    @abstractmethod
    def can_render(self, plan: CallPlan) -> bool:
        """Whether this backend can make such calls."""

    @abstractmethod
    def prefetch(self, frame: Tensor) -> None:
        """Begins what can be done for a frame, (H, W, C), before it is part of a job.

        Any thread may call it.
        """

    @abstractmethod
    def render(
        self, plan: CallPlan, jobs: Sequence[Job], spec: FrameSpec, *, fill_batch: bool
    ) -> list[RenderedFrame]:
        """Renders the jobs in one call of the network.

        Args:
            plan: How, from the session's planner.
            jobs: `plan.batch` of them, or fewer.
            spec: Of the jobs' frames.
            fill_batch: Whether a call of fewer jobs than usual is as large as the others
                nevertheless, where setting up another size would take long.
        """

    @abstractmethod
    def fetch(self, image: Tensor, like: Tensor) -> Callable[[], Tensor]:
        """Begins to bring a rendered image to the user.

        Args:
            image: Of a RenderedFrame of this backend.
            like: A frame of the user's, (H, W, C), whose device the result has.

        Returns:
            A function that waits for the image and returns it, (H, W, C).
        """

    @abstractmethod
    def release_memory(self) -> None:
        """Gives up all memory that can be had again; the backend goes on to work."""

    @abstractmethod
    def close(self) -> None:
        """Ends the run."""
