"""The settings of a run, beside where its output frames lie: one value for all parts."""

from dataclasses import dataclass

from .networks.base import Network

#: Others would not divide the networks' pyramids.
SCALES = (0.125, 0.25, 0.5, 1, 2, 4, 8)
#: What is shown where a cut lies between two frames.
CUTS = ("hold", "blend", "ignore")


@dataclass(frozen=True)
class Options:
    """The settings of a run. Each of ensemble, refine and tta costs up to twice the time.

    Attributes:
        scale: The resolution of the flow estimate: 0.5 for 4K and large motion, 2 for fine detail;
            None chooses by the frames' size, as upstream advises.
        ensemble: Whether both orders of each pair are averaged.
        refine: Whether v4.0's refine networks run, too.
        tta: Whether the frames are averaged with those of a pass turned by 180 degrees.
        cuts: Between two shots, "hold" shows the earlier frame up to the middle and the later one
            from there, "blend" fades from one to the other, "ignore" morphs as if there were no
            cut.
        cut_sensitivity: From 0, where no cut is detected, to 1, where fast motion may count as one.
        duplicates: Whether motion is spread evenly over frames that repeat, see
            analysis/duplicates.py.
    """

    scale: float | None = None
    ensemble: bool = False
    refine: bool = False
    tta: bool = False
    cuts: str = "hold"
    cut_sensitivity: float = 0.5
    duplicates: bool = False

    def check(self, model: Network) -> None:
        """Raises ValueError for values that can't be, or that `model` lacks."""
        if self.scale is not None and self.scale not in SCALES:
            known = ", ".join(map(str, SCALES))
            raise ValueError(f"scale is {self.scale}, but must be one of {known} (usually 0.5 - 2)")
        if self.cuts not in CUTS:
            raise ValueError(f"cuts is {self.cuts!r}, but must be one of {', '.join(CUTS)}")
        if not 0 <= self.cut_sensitivity <= 1:
            raise ValueError(f"cut_sensitivity is {self.cut_sensitivity}, but must be from 0 to 1")
        for name in ("ensemble", "refine"):
            if getattr(self, name) and name not in model.options | model.built_in:
                raise ValueError(f"{model.version} has no {name}: switch it off, or use a model "
                                 f"that has it")  # fmt: skip

    def scale_for(self, height: int, width: int) -> float:
        """The scale for frames of a size in pixels: 1 up to 1440p, 1/2 up to 4K, 1/4 beyond."""
        if self.scale is not None:
            return self.scale
        pixels = height * width
        return 1.0 if pixels <= 2560 * 1440 else 0.5 if pixels <= 4096 * 2304 else 0.25
