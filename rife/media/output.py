"""A video file that is being written, with all its streams."""

import contextlib
import io
from collections.abc import Mapping, Sequence

import av

from .extras import Extra
from .streams import AV_ERRORS
from .tracks import Track, VideoSettings, VideoTrack


class OutputFile:
    """A container with its video and its extras, its header written.

    Args:
        file: A path, or a file in memory.
        muxer: FFmpeg's name of what writes the container.
        settings: The video's.
        extras: What it has beside the video.
        options: The container's, beside those that extras need.

    Attributes:
        container: PyAV's.
        video: The video.
        tracks: Extras that are streams, each with its track.
    """

    def __init__(
        self,
        file: str | io.BytesIO,
        muxer: str,
        settings: VideoSettings,
        extras: Sequence[Extra],
        options: Mapping[str, str],
    ):
        self.container = av.open(file, "w", format=muxer, container_options=dict(options))
        try:
            self.video = VideoTrack(self.container, settings)
            added = [(extra, extra.add(self.container, self.video.stream)) for extra in extras]
            self.tracks: list[tuple[Extra, Track]] = [pair for pair in added if pair[1] is not None]
            self.container.start_encoding()
            for extra, track in self.tracks:
                if extra.stream is None:
                    for item in extra.fresh_samples():
                        track.write(item)
        except BaseException:
            with contextlib.suppress(OSError, *AV_ERRORS):
                self.container.close()
            raise
