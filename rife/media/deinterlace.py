"""Interlaced frames become progressive ones."""

from collections import deque
from collections.abc import Iterable, Iterator

import av

# FFmpeg's filter takes no less.
_LEAST_HEIGHT = 8
# AVFieldOrder: which field is shown first, whatever the order in which they are stored.
_TOP_FIRST, _BOTTOM_FIRST = {2, 5}, {3, 4}


def field_parity(context: av.VideoCodecContext) -> str | None:
    """Returns the field order that the container states, for codecs whose frames don't.

    Returns:
        "tff" (top field first) or "bff"; None where frames are progressive or state it themselves.
    """
    if not getattr(context.codec, "intra_only", False):
        return None
    order = int(getattr(context, "field_order", 0) or 0)
    return "tff" if order in _TOP_FIRST else "bff" if order in _BOTTOM_FIRST else None


def is_interlaced(frame: av.VideoFrame, parity: str | None) -> bool:
    """Returns whether a frame is interlaced and high enough for the filter; parity: see
    `field_parity`."""
    return (frame.interlaced_frame or bool(parity)) and frame.height >= _LEAST_HEIGHT


def deinterlace(frames: Iterable[av.VideoFrame], parity: str | None) -> Iterator[av.VideoFrame]:
    """Makes frames progressive by FFmpeg's bwdif; their number and their times stay.

    Up to the first interlaced frame they pass untouched. From then on each waits for the next
    one; progressive ones among them stay as they are.

    Args:
        frames: In order of time.
        parity: See `field_parity`.
    """
    graph, graph_input = None, None
    times: deque[tuple[int, object]] = deque()  # the filter counts in another time base

    def pull_frames() -> Iterator[av.VideoFrame]:
        while graph is not None:
            try:
                frame = graph.pull()
            except (BlockingIOError, EOFError):
                return
            frame.pts, frame.time_base = times.popleft()
            yield frame

    for frame in frames:
        if graph is None and not is_interlaced(frame, parity):
            yield frame
            continue
        if graph_input != (frame.format.name, frame.width, frame.height):
            graph_input = frame.format.name, frame.width, frame.height
            if graph is not None:
                graph.push(None)
                yield from pull_frames()
            graph = _create_graph(frame, parity)
        times.append((frame.pts, frame.time_base))
        graph.push(frame)
        yield from pull_frames()
    if graph is not None:
        graph.push(None)
        yield from pull_frames()


def _create_graph(frame: av.VideoFrame, parity: str | None) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    marks = [graph.add("setfield", parity)] if parity else []
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, *marks, bwdif, graph.add("buffersink")).configure()
    return graph
