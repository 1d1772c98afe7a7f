"""Runs of nodes: each prepares its model, shows its progress, and reports what it did."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from . import rife
from .comfy_host.memory import empty_images
from .comfy_host.models import network_on_device, resolve_model
from .comfy_host.progress import collect_warnings, show_progress, stop_if_interrupted
from .rife.networks.finite import dtype_name

#: Frames per second of images whose rate is unknown: CogVideoX's.
ASSUMED_RATE = Fraction(8)


class NodeRun:
    """A run of a node that uses a model.

    Args:
        node: The node's class.
        model: What its input `model` has.
        unit: What progress counts.

    Attributes:
        warnings: Lines for the report, in order.
    """

    def __init__(
        self, node: type[io.ComfyNode], model: ModelPatcher | str | None, unit: str = "frame"
    ) -> None:
        self.warnings: list[str] = []
        self._node_id = getattr(node.hidden, "unique_id", None)
        self._model = resolve_model(model)
        self._unit = unit
        self._started = time.monotonic()
        self._network_summary = ""

    @contextmanager
    def prepare(self, height: int, width: int, channels: int = 3) -> Iterator[dict[str, Any]]:
        """Yields arguments for the library: the network on its device, and callbacks."""
        with (
            collect_warnings() as warnings,
            network_on_device(self._model, height, width, channels) as network,
            show_progress(self._node_id, desc="RIFE", unit=self._unit) as report_progress,
        ):
            self._network_summary = f"{network.version}, {dtype_name(network.dtype)}"
            yield {"model": network, "progress": report_progress, "cancel": stop_if_interrupted}
        self.warnings += warnings

    def describe_result(self) -> list[str]:
        """Returns lines for the report that say what was done."""
        return []

    def make_output(self, *values: Any, **ui: Any) -> io.NodeOutput:
        """Returns the node's outputs, of which the report is the last.

        Args:
            *values: The outputs before the report.
            **ui: What only the page gets, beside the report that it shows on the node.
        """
        seconds = time.monotonic() - self._started
        last_line = f"{self._network_summary}, {seconds:.1f} s"
        report = "\n".join([*self.warnings, *self.describe_result(), last_line])
        return io.NodeOutput(*values, report, ui={"text": (report,), **ui})


class InterpolationRun(NodeRun):
    """A run of a node that interpolates.

    Args:
        node: The node's class.
        model: What its input `model` has.
        source_rate: Frames per second of the input; None if unknown.
        timeline: Where the output frames lie.

    Attributes:
        summary: What the run did, for the report.

    Raises:
        ValueError: The timeline needs the input's rate, which is unknown.
    """

    def __init__(
        self,
        node: type[io.ComfyNode],
        model: ModelPatcher | str | None,
        source_rate: Fraction | None,
        timeline: rife.Timeline,
    ) -> None:
        super().__init__(node, model)
        if source_rate is None and timeline.frame_rate is not None:
            raise ValueError(
                "target_fps needs the frame rate of the images, which is unknown: connect "
                "source_fps to the fps of the node that loads them, or type it in."
            )
        if source_rate is None:
            source_rate = ASSUMED_RATE
            self.warnings.append(
                f"{source_rate} fps assumed, as the images' frame rate is unknown: set source_fps "
                "for the right fps output."
            )
        self._source_rate, self._timeline = source_rate, timeline
        self.summary = rife.Summary()

    @property
    def output_rate(self) -> Fraction:
        """Frames per second of the output."""
        return self._timeline.rate(self._source_rate)

    def interpolate(self, images: Tensor, options: rife.Options) -> Tensor:
        """Returns the output frames (M, H, W, C) of images (N, H, W, C)."""
        timeline = self._timeline
        if timeline.frame_rate is not None:  # in frames per image, as images are a second apart
            timeline = replace(timeline, frame_rate=timeline.frame_rate / self._source_rate)
        out = empty_images(images, timeline.count(len(images)))
        with self.prepare(*images.shape[1:]) as arguments:
            return rife.interpolate(
                frames=images,
                timeline=timeline,
                options=options,
                out=out,
                summary=self.summary,
                **arguments,
            )

    def describe_result(self) -> list[str]:
        """Returns the numbers and rates of frames, and how many cuts and repeats there are."""
        summary = self.summary
        frames = f"{summary.given} -> {summary.shown} frames"
        rates = f"{_format_rate(self._source_rate)} -> {_format_rate(self.output_rate)} fps"
        counts = [
            f"{count} {name}{'s' * (count != 1)}"
            for count, name in ((summary.cuts, "cut"), (summary.repeats, "repeated frame"))
            if count
        ]
        return [f"{frames}, {rates}", *filter(None, [", ".join(counts)])]


def _format_rate(rate: Fraction) -> str:
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")
