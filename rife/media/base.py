"""What readers and writers of clips share."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import torch

logger = logging.getLogger(__name__)

#: What is done to a frame's image, (H, W, C), such as a crop; all frames come out in one size.
Edit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip before its frames are read."""

    path: Path
    width: int  # pixels, the way up in which the clip is shown
    height: int
    frame_rate: Fraction | None  # average, frames per second
    frame_count: int | None  # an estimate, for progress bars
    has_alpha: bool  # frames have 4 channels
    time_base: Fraction  # seconds; the grid on which frame times lie
    is_deep: bool = False  # frames are float32, as the source has more than 8 bits a channel


@dataclass(frozen=True)
class Frame:
    """One picture of a clip.

    image: (H, W, 3 or 4), uint8, or float32 in [0, 1] where the source is deeper than 8 bits.
    time: exact seconds from the clip's first frame.
    duration: seconds on screen, as far as the source says.
    follows_gap: whether frames are missing before this one, so that nothing is to be made between
        it and the frame before.
    """

    image: torch.Tensor
    time: Fraction
    duration: Fraction
    follows_gap: bool = False


class Reader(ABC):
    """A clip as an iterable of frames, to be gone through once; a context manager.

    Only the thread that iterates touches the file. An iterator that isn't run to its end is closed
    before the reader is.
    """

    info: ClipInfo
    icc_profile: bytes | None = None
    plays: int = 0  # times an animation is shown; 0: for ever

    _edit: Edit | None = None

    def __init__(self) -> None:
        #: What of the clip is damaged or missing, a line each, as far as it has been read.
        self.damage: list[str] = []

    def report_damage(self, text: str) -> None:
        """Say that a part of the clip is damaged or missing, and go on without it."""
        self.damage.append(text)
        logger.warning("%s", text)

    def apply(self, edit: Edit) -> None:
        """Have every frame edited before it is given."""
        info = self.info
        height, width, _ = edit(torch.zeros(info.height, info.width, 3 + info.has_alpha)).shape
        self._edit, self.info = edit, replace(info, width=width, height=height)

    def __iter__(self) -> Generator[Frame, None, None]:
        with closing(self._read_frames()) as frames:
            for frame in frames:
                yield replace(frame, image=self._edit(frame.image)) if self._edit else frame

    @abstractmethod
    def _read_frames(self) -> Generator[Frame, None, None]: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writer(ABC):
    """Takes frames in order of time. As a context manager it closes the output at the end of
    the block, or discards it when the block raises.
    """

    @abstractmethod
    def write(self, image: torch.Tensor, time: Fraction, duration: Fraction | None = None) -> None:
        """Add one frame.

        image: (H, W, 3 or 4) uint8, or floating point in [0, 1].
        time: seconds from the clip's first frame, later than the frame before.
        duration: seconds on screen if no frame follows (None: 1 / frame rate).
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the output: it is whole when this returns without an error."""

    @abstractmethod
    def discard(self) -> None:
        """Let go of the output unfinished, as fast as possible and without an error."""

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            return self.discard()
        try:
            self.close()
        except BaseException:
            self.discard()
            raise


def to_uint8(image: torch.Tensor) -> torch.Tensor:
    """The frame on the CPU as uint8, rounded to the nearest value. Shape unchanged."""
    if image.dtype != torch.uint8:
        image = image.float().clamp(0, 1).mul(255).round_().to(torch.uint8)
    return image.cpu().contiguous()
