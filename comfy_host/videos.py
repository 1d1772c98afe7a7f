"""ComfyUI's VIDEO: its frames in memory or the file behind it, and new videos made of either."""

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from .. import rife
from ..rife.fileio import raise_file_errors
from ..rife.media.base import ClipInfo, to_uint8
from .compat import supported
from .inputs import check_value
from .memory import check_memory


@dataclass(frozen=True)
class VideoInMemory:
    """The frames of a VIDEO that isn't read from a file.

    Attributes:
        video: ComfyUI's VIDEO.
        components: Its components, as ComfyUI has them.
        images: (N, H, W, C); the last channel is the alpha, if the video has one.
        frame_rate: Frames per second.
    """

    video: Any
    components: Any
    images: Tensor
    frame_rate: Fraction

    def with_images(self, images: Tensor, frame_rate: Fraction, has_sound: bool) -> Any:
        """Returns a VIDEO like this one, of other images, with or without this one's sound."""
        alpha = getattr(self.components, "alpha", None)
        channels = self.components.images.shape[3]
        changes = {"frame_rate": frame_rate, "audio": self.components.audio if has_sound else None}
        if alpha is not None:
            changes["alpha"] = images[..., channels:].reshape(-1, *alpha.shape[1:])
        components = replace(self.components, images=images[..., :channels], **changes)
        bit_depth = getattr(self.video, "get_bit_depth", lambda: 8)()
        color_space = getattr(self.video, "get_color_space", lambda: "auto")()
        options = supported(
            InputImpl.VideoFromComponents,
            bit_depth=bit_depth,
            color_space=None if color_space == "auto" else color_space,
        )
        return InputImpl.VideoFromComponents(components, **options)


def get_video_in_memory(video: Any) -> VideoInMemory | None:
    """Returns the frames of a VIDEO; None if it can be read from a file, frame by frame.

    Raises:
        ValueError: The frames of an edited file are too many for the memory.
    """
    if not isinstance(video, InputImpl.VideoFromComponents):
        if not _is_edited(video) or _edit_steps(video) is not None:
            return None
        width, height = video.get_display_dimensions()
        shape = (video.get_frame_count(), height, width, 3)
        advice = "save the edited video with Save Video, load it with Load Video, and go on there"
        check_memory(shape, torch.float32, torch.device("cpu"), advice)
    components = video.get_components()
    images = check_value(io.Image.Input("video"), components.images)
    alpha = getattr(components, "alpha", None)
    if alpha is not None:
        images = torch.cat((images, alpha.view(*images.shape[:3], 1)), 3)
    return VideoInMemory(video, components, images, rife.parse_frame_rate(components.frame_rate))


def _is_edited(video: Any) -> bool:
    """Returns whether a VIDEO's frames are cropped or resized, unlike those in its file."""
    return getattr(video, "has_pending_frame_edits", lambda: False)()


def _edit_steps(video: Any) -> list[tuple] | None:
    """Returns what ComfyUI does to each frame of a file; None if that is unknown.

    The steps have no public name, and the edited file that ComfyUI (0.38) saves has wrong colours.
    """
    return getattr(video, "_VideoFromFile__spatial_ops", None)


def _get_frame_edit(video: Any) -> Callable[[Tensor], Tensor] | None:
    """Returns a VIDEO's edits as a function of an image (H, W, C), of floats or uint8."""
    if not _is_edited(video):
        return None
    from comfy_api.latest._util import apply_spatial_ops

    steps = _edit_steps(video)

    def edit(image: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            return to_uint8(edit(image.float() / 255))
        edited = [apply_spatial_ops(image[None, ..., :3], steps)[0]]
        for alpha in image[..., 3:].unbind(2):
            edited.append(apply_spatial_ops(alpha[None], steps, is_mask=True)[0, ..., None])
        return torch.cat(edited, 2)

    return edit


@contextmanager
def video_file(video: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the file behind a VIDEO; writes one for the time of the block if it has none.

    Yields:
        The file and the reader's options: `start` and `duration` of the part to read, in seconds,
        and `edit`, a function that edits each frame.
    """
    is_list = isinstance(video, getattr(InputImpl, "VideoFromList", ()))
    source = None if is_list else video.get_stream_source()
    start, duration = getattr(video, "get_active_trim_window", lambda: (0, 0))()
    options = {
        "start": Fraction(start),
        "duration": Fraction(duration) or None,
        "edit": _get_frame_edit(video),
    }
    if not is_list and not isinstance(source, BytesIO):
        yield Path(source), options
        return
    path = new_temporary_path(".mp4" if is_list else ".video")
    try:
        with raise_file_errors("write", path):
            if is_list:  # its stream source may be encoded anew, with losses
                video.save_to(str(path), crf=0)
            else:
                path.write_bytes(source.getbuffer())
        yield path, options
    finally:
        path.unlink(missing_ok=True)


def video_from_file(path: Path) -> Any:
    """Returns a VIDEO that is read from a file."""
    return InputImpl.VideoFromFile(str(path))


#: ComfyUI's codecs -> FFmpeg's encoders, where the names differ; None: what suits the clip.
_ENCODERS = {"auto": None, "av1": "libsvtav1"}
#: Whether Save Video knows .mkv files; older ones copy any video into .mp4.
_SAVES_MKV = hasattr(Types.VideoContainer, "MKV")


def choose_encoding(format: str, codec: str, crf: int, clip: ClipInfo) -> tuple[str, rife.Encoding]:
    """Returns a file's suffix and its encoding.

    Args:
        format: One of ComfyUI's containers.
        codec: One of ComfyUI's codecs.
        crf: Quality, from 0 (lossless) to 51.
        clip: The clip that is to be encoded.
    """
    if format == "webm" and codec == "h264":
        logging.getLogger(rife.__name__).warning("WebM files hold no H.264: this one is VP9.")
        codec = "auto"
    if clip.has_alpha and _SAVES_MKV and format in ("auto", "mkv") and codec == "auto":
        return ".mkv", rife.Encoding(crf, "prores_ks")
    suffix = f".{Types.VideoContainer.get_extension(format)}"
    pixel_format = "yuv420p10le" if clip.is_deep else None
    encoder = _ENCODERS.get(codec, codec)
    # Save Video (0.38) leaves out the first frames of .mkv files with B-frames.
    return suffix, rife.Encoding(crf, encoder, pixel_format, b_frames=suffix != ".mkv")


def new_temporary_path(suffix: str) -> Path:
    """Returns an unused name in the folder that ComfyUI empties when it starts."""
    folder = Path(folder_paths.get_temp_directory())
    with raise_file_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"rife_{secrets.token_hex(6)}{suffix}"
