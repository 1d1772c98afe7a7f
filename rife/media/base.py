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

#: Changes a frame's image, (H, W, C) -> (h, w, C), as a crop does; h and w are all frames' alike.
Edit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip before its frames are read.

    Attributes:
        path: The clip's file or folder.
        width: Of frames as they are displayed, pixels.
        height: Of frames as they are displayed, pixels.
        frame_rate: Frames a second, on average; None: not known.
        frame_count: An estimate, for progress bars; None: not known.
        has_alpha: Whether frames have 4 channels.
        time_base: Seconds of which all frame times are multiples.
        is_deep: Whether frames are float32, as the source has more than 8 bits a channel.
    """

    path: Path
    width: int
    height: int
    frame_rate: Fraction | None
    frame_count: int | None
    has_alpha: bool
    time_base: Fraction
    is_deep: bool = False


@dataclass(frozen=True)
class Frame:
    """One picture of a clip.

    Attributes:
        image: (H, W, 3 or 4), uint8, or float32 in [0, 1] where the source has more than 8 bits.
        time: Seconds from the clip's first frame, exact.
        duration: Seconds on screen, as far as the source tells.
        follows_gap: Whether frames are missing before this one, so that none is to be interpolated
            between it and the frame before.
    """

    image: torch.Tensor
    time: Fraction
    duration: Fraction
    follows_gap: bool = False


class Reader(ABC):
    """A clip as an iterable of frames, which can be iterated once; a context manager.

    Only the thread that iterates touches the file. An iterator that isn't exhausted must be closed
    before the reader is.

    Attributes:
        info: What is known of the clip beforehand.
        icc_profile: Of its colours, if its files have one.
        plays: How many times an animation is shown; 0: without end.
        damage: What of the clip is damaged or missing, a line each, as far as it has been read.
    """

    info: ClipInfo
    icc_profile: bytes | None = None
    plays: int = 0

    _edit: Edit | None = None

    def __init__(self) -> None:
        self.damage: list[str] = []

    def report_damage(self, text: str) -> None:
        """Notes and logs that something of the clip is damaged or missing."""
        self.damage.append(text)
        logger.warning("%s", text)

    def apply(self, edit: Edit) -> None:
        """Edits every frame's image from now on; `info` has the size that comes out."""
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
    """Takes frames in order of time.

    A context manager: closes the output at the end of the block, or discards it if the block
    raises.
    """

    @abstractmethod
    def write(self, image: torch.Tensor, time: Fraction, duration: Fraction | None = None) -> None:
        """Adds one frame.

        Args:
            image: (H, W, 3 or 4), uint8 or floating point in [0, 1].
            time: Seconds from the clip's first frame, more than the frame's before.
            duration: Seconds on screen if no frame follows; None: 1 / frame rate.

        Raises:
            FileError: The output can't be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finishes the output, which is whole if this returns without an error."""

    @abstractmethod
    def discard(self) -> None:
        """Closes the output unfinished, as fast as possible and without an error."""

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
    """Returns the image on the CPU as uint8, rounded to the nearest value; of the same shape."""
    if image.dtype != torch.uint8:
        image = image.float().clamp(0, 1).mul(255).round_().to(torch.uint8)
    return image.cpu().contiguous()
