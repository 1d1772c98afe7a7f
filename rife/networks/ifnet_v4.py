"""IFNet v4: every RIFE from v4.0 to v4.26 as one network, which a row of `Parameters` describes.

The network makes frames at any timestep. A checkpoint's row is read off its tensors, and the rows
in `VERSIONS` name the published versions. Upstream: Practical-RIFE and vs-rife 5.7.0.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .base import Block, Motion, Network, PreparedFrames, estimate_pairs_separately
from .refine import Contextnet, Unet
from .warp import at_least_float32, resize, swap_directions, warp


@dataclass(frozen=True)
class Head:
    """The encoder that gives every frame its features.

    Attributes:
        layers: 2 or 4 convolutions, of which the first halves the size and the last doubles it.
        width: Channels between the convolutions.
        features: Channels of its output.
        named: Whether the convolutions' keys are `cnn0` to `cnn3`; else they are numbers.
    """

    layers: int
    width: int
    features: int
    named: bool


@dataclass(frozen=True)
class Parameters:
    """What tells one v4 network from another.

    Attributes:
        channels: Width of each block.
        scales: Scale factor of each block.
        body: The eight convolutions of a block: "prelu" (PReLU, one residual around all eight),
            "leaky" (LeakyReLU, no residual) or "resconv" (a residual and a factor beta for each).
        groups: Groups of each resconv's convolution.
        planes: Output channels of each block: 4 of flow, 1 of mask, and either 1 that is unused or
            8 of features for the next block.
        shuffle: Whether a block's last layer ends in a PixelShuffle.
        head: The encoder, or None. With one, each block's mask replaces the one before; without,
            it is added to it.
        refine: Whether the network has Contextnet and Unet.
    """

    channels: tuple[int, ...]
    scales: tuple[int, ...] = (8, 4, 2, 1)
    body: Literal["prelu", "leaky", "resconv"] = "resconv"
    groups: int = 1
    planes: int = 6
    shuffle: bool = True
    head: Head | None = None
    refine: bool = False

    @property
    def block_features(self) -> int:
        """Feature channels that each block passes on to the next."""
        return self.planes - 5 if self.planes > 6 else 0


_WIDE = (192, 128, 96, 64)
_LITE = (128, 96, 64, 48)
_FIVE = (*_WIDE, 32)
_16_8_4_2_1 = (16, 8, 4, 2, 1)
_HEAD_47 = Head(layers=2, width=16, features=4, named=False)
_HEAD_410 = Head(layers=4, width=32, features=8, named=False)
_HEAD_410_LITE = Head(layers=4, width=32, features=4, named=False)
_HEAD_413 = Head(layers=4, width=32, features=8, named=True)
_HEAD_415_LITE = Head(layers=4, width=16, features=4, named=True)
_HEAD_426_HEAVY = Head(layers=4, width=16, features=16, named=True)

#: Versions that share a row differ in nothing but their weights.
VERSIONS: dict[str, Parameters] = {
    "v4.0 - v4.1": Parameters(_WIDE, body="prelu", planes=5, shuffle=False, refine=True),
    "v4.2 - v4.4": Parameters(_WIDE, body="leaky", planes=5, shuffle=False),
    "v4.5": Parameters(_WIDE, planes=5),
    "v4.6": Parameters(_WIDE),
    "v4.7 - v4.9": Parameters(_WIDE, head=_HEAD_47),
    "v4.10 - v4.12": Parameters(_WIDE, head=_HEAD_410),
    "v4.12 - v4.13 lite": Parameters(_LITE, head=_HEAD_410_LITE),
    "v4.13 - v4.15, v4.17 - v4.19, v4.24": Parameters(_WIDE, head=_HEAD_413),
    "v4.14 lite": Parameters(_WIDE, groups=2, head=_HEAD_413),
    "v4.15 - v4.17 lite": Parameters(_LITE, head=_HEAD_415_LITE),
    "v4.20": Parameters((384, 192, 96, 48), head=_HEAD_413),
    "v4.21 - v4.23": Parameters((256, 192, 96, 48), planes=13, head=_HEAD_413),
    "v4.22 lite": Parameters((192, 128, 64, 32), planes=13, head=_HEAD_415_LITE),
    "v4.25 - v4.26": Parameters(_FIVE, _16_8_4_2_1, planes=13, head=_HEAD_415_LITE),
    "v4.25 lite": Parameters((*_WIDE, 24), (32, 16, 8, 4, 1), planes=13, head=_HEAD_415_LITE),
    "v4.25 heavy": Parameters(
        (384, 256, 192, 128, 64), _16_8_4_2_1, planes=13, head=_HEAD_415_LITE
    ),
    "v4.26 heavy": Parameters(_FIVE, _16_8_4_2_1, planes=13, head=_HEAD_426_HEAVY),
}


class ResConv(nn.Module):
    """A convolution, multiplied by beta and added to its input."""

    def __init__(self, c: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, 1, 1, groups=groups)
        self.beta = nn.Parameter(torch.ones(1, c, 1, 1))
        self.relu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x) * self.beta + x)


class IFBlock(Block):
    """One step of the estimate: flow, mask and, in some versions, features for the next block."""

    def __init__(self, in_planes: int, c: int, parameters: Parameters):
        super().__init__()
        p = parameters

        def conv(a: int, b: int, stride: int = 1) -> nn.Sequential:
            activation = nn.PReLU(b) if p.body == "prelu" else nn.LeakyReLU(0.2)
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), activation)

        self.conv0 = nn.Sequential(conv(in_planes, c // 2, stride=2), conv(c // 2, c, stride=2))
        self.convblock = nn.Sequential(
            *(ResConv(c, p.groups) if p.body == "resconv" else conv(c, c) for _ in range(8))
        )
        if p.shuffle:
            self.lastconv = nn.Sequential(
                nn.ConvTranspose2d(c, 4 * p.planes, 4, 2, 1), nn.PixelShuffle(2)
            )
        else:
            self.lastconv = nn.ConvTranspose2d(c, p.planes, 4, 2, 1)
        self.has_residual = p.body == "prelu"
        self.output_stride = 1 if p.shuffle else 2
        self.block_features = p.block_features

    def forward(
        self, x: Tensor, flow: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Estimates a change of the flow and a mask.

        Args:
            x: All of the block's input but the flow, (B, C, H, W).
            flow: (B, 4, H, W) in pixels, or None at the first block.
            scale: By how much the input is reduced.

        Returns:
            Flow, (B, 4, H, W) in pixels; the mask before its sigmoid, (B, 1, H, W); and features
            for the next block, (B, block_features, H, W).
        """
        x = resize(x, 1 / scale)
        if flow is not None:
            x = torch.cat((x, resize(flow, 1 / scale) / scale), 1)
        flow, mask, features = self.estimate(x, scale)
        return flow, mask, features[:, : self.block_features]

    def body(self, x: Tensor) -> Tensor:
        x = self.conv0[1](x)
        out = self.convblock(x)
        return self.lastconv(out + x if self.has_residual else out)


class _BlockOutput(NamedTuple):
    """What a block adds to the estimate, as `IFBlock.forward` returns it."""

    flow: Tensor
    mask: Tensor
    features: Tensor

    def averaged_with(self, reverse: "_BlockOutput") -> "_BlockOutput":
        """The mean with what the block adds for the frames in the opposite order."""
        flow = (self.flow + swap_directions(reverse.flow)) / 2
        return _BlockOutput(flow, (self.mask - reverse.mask) / 2, self.features)


class _Estimate(NamedTuple):
    """The estimate so far (None before the first block), and both frames warped by its flow."""

    warped: tuple[Tensor, Tensor]
    flow: Tensor | None = None
    mask: Tensor | None = None
    features: Tensor | None = None

    def reversed(self) -> "_Estimate":
        """The same for the frames in the opposite order."""
        mask = None if self.mask is None else -self.mask
        flow = None if self.flow is None else swap_directions(self.flow)
        return _Estimate(self.warped[::-1], flow, mask, self.features)


class IFNet_v4(Network):
    """The network that a row of `Parameters` describes."""

    any_timestep: ClassVar[bool] = True
    # v4.0 - v4.1: where block 1 adds more than this, block 0 has missed the motion.
    doubling_threshold: float = 32

    def __init__(self, parameters: Parameters):
        super().__init__()
        self.parameters_row = p = parameters
        names = [name for name, row in VERSIONS.items() if row == p]
        self.version = f"RIFE {names[0]}" if names else "RIFE v4 (of no published version)"
        self.scales = p.scales
        options = {"ensemble": not p.block_features, "refine": p.refine}
        self.options = frozenset(name for name, exists in options.items() if exists)

        features = p.head.features if p.head else 0
        first = {"image0": 3, "image1": 3, "features0": features, "features1": features, "time": 1}
        self.inputs = first | {"mask": 1, "block_features": p.block_features, "flow": 4}
        self.adds_masks = p.head is None
        in_planes = sum(self.inputs.values())
        self.bytes_per_pixel = 240 + 7 * in_planes
        self.refine_bytes_per_pixel = 360 if p.refine else 0
        for i, c in enumerate(p.channels):
            self.add_module(f"block{i}", IFBlock(in_planes if i else sum(first.values()), c, p))
        if p.head:
            self.encode = _build_head(p.head)
        if p.refine:
            self.contextnet = Contextnet()
            self.unet = Unet()

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "IFNet_v4 | None":
        """Known by four blocks or more, each with a `lastconv`."""
        parameters = read_parameters(state)
        return None if parameters is None else cls(parameters)

    @property
    def blocks(self) -> list[IFBlock]:
        return [self.get_submodule(f"block{i}") for i in range(len(self.scales))]

    @property
    def can_double_scales(self) -> bool:
        return self.parameters_row.body == "prelu"

    def side_multiple(self, scale: float = 1.0) -> int:
        return super().side_multiple(scale) * (2 if self.can_double_scales else 1)

    def prepare(self, image: Tensor, *, refine: bool = False) -> PreparedFrames:
        image = image.float()
        image_and_features = image
        if self.encode is not None:
            features = self.encode(image.to(self.dtype)).float()
            image_and_features = torch.cat((image, features), 1)
        pyramid = self.contextnet.pyramid(image.to(self.dtype)) if refine else ()
        return PreparedFrames(image_and_features, pyramid)

    def motion(
        self,
        frame0: PreparedFrames,
        frame1: PreparedFrames,
        timestep: float | Tensor = 0.5,
        *,
        scale: float = 1.0,
        ensemble: bool = False,
        refine: bool = False,
    ) -> Motion:
        scales = [s / scale for s in self.scales]
        time = torch.ones_like(frame0.image[:, :1]) * timestep
        frames = frame0.image_and_features, frame1.image_and_features
        estimate = start = _Estimate(warped=frames)
        for i in range(len(scales)):
            output = self._run_block(i, scales[i], estimate, time)
            if i == 1 and self.can_double_scales:
                doubles = self.needs_doubled_scales(output.flow)
                if doubles.any() and not doubles.all():  # each pair decides for itself
                    options = {"scale": scale, "ensemble": ensemble, "refine": refine}
                    pair = frame0, frame1
                    return estimate_pairs_separately(self.motion, pair, time, **options)
                if doubles.all():
                    scales = [2 * s for s in scales]
                    # Upstream runs this block in one order only, even in an ensemble.
                    first = self._run_block(0, scales[0], start, time)
                    estimate = self._add_output(start, first, frames)
                    output = self._run_block(1, scales[1], estimate, time)
            if ensemble:
                output = output.averaged_with(
                    self._run_block(i, scales[i], estimate.reversed(), 1 - time)
                )
            is_warped = refine or i + 1 < len(scales)
            estimate = self._add_output(estimate, output, frames if is_warped else None)
        residual = self._residual(frame0, frame1, estimate) if refine else None
        return Motion(estimate.flow, torch.sigmoid(estimate.mask), residual)

    def _run_block(self, i: int, scale: float, estimate: _Estimate, time: Tensor) -> _BlockOutput:
        first, second = estimate.warped
        # In the order of `inputs`; the block itself adds the flow.
        parts = [first[:, :3], second[:, :3], first[:, 3:], second[:, 3:], time]
        if estimate.flow is not None:
            parts += [estimate.mask, estimate.features]
        return _BlockOutput(*self.blocks[i](torch.cat(parts, 1), estimate.flow, scale))

    def _add_output(
        self, estimate: _Estimate, output: _BlockOutput, frames: tuple[Tensor, Tensor] | None
    ) -> _Estimate:
        """The estimate with a block's output; if `frames` are given, the new flow warps them."""
        flow, mask = output.flow, output.mask
        if estimate.flow is not None:
            flow = estimate.flow + flow
            mask = estimate.mask + mask if self.adds_masks else mask
        warped = estimate.warped
        if frames:
            warped = warp(frames[0], flow[:, :2]), warp(frames[1], flow[:, 2:])
        return _Estimate(warped, flow, mask, output.features)

    def _residual(
        self, frame0: PreparedFrames, frame1: PreparedFrames, estimate: _Estimate
    ) -> Tensor:
        flow = estimate.flow
        context0 = self.contextnet.warp_pyramid(frame0.pyramid, flow[:, :2])
        context1 = self.contextnet.warp_pyramid(frame1.pyramid, flow[:, 2:])
        warped = (x[:, :3] for x in estimate.warped)
        refined = self.unet(
            frame0.image, frame1.image, *warped, estimate.mask, flow, context0, context1
        )
        return at_least_float32(refined) * 2 - 1


def _build_head(head: Head) -> nn.Sequential:
    if head.layers == 2:
        return nn.Sequential(
            nn.Conv2d(3, head.width, 3, 2, 1),
            nn.ConvTranspose2d(head.width, head.features, 4, 2, 1),
        )
    layers = {
        "cnn0": nn.Conv2d(3, head.width, 3, 2, 1),
        "relu0": nn.LeakyReLU(0.2),
        "cnn1": nn.Conv2d(head.width, head.width, 3, 1, 1),
        "relu1": nn.LeakyReLU(0.2),
        "cnn2": nn.Conv2d(head.width, head.width, 3, 1, 1),
        "relu2": nn.LeakyReLU(0.2),
        "cnn3": nn.ConvTranspose2d(head.width, head.features, 4, 2, 1),
    }
    return nn.Sequential(OrderedDict(layers)) if head.named else nn.Sequential(*layers.values())


def read_parameters(state: Mapping[str, Tensor]) -> Parameters | None:
    """Returns the row of parameters that a state dict fits, or None if it is of no v4 network.

    Scales leave no trace in the tensors: a published row brings its own, any other gets the usual
    ones for its number of blocks.
    """
    channels = tuple(
        state[key].shape[0]
        for key in takewhile(state.__contains__, (f"block{i}.conv0.1.0.weight" for i in count()))
    )
    usual_scales = {4: (8, 4, 2, 1), 5: (16, 8, 4, 2, 1)}
    shuffle = "block0.lastconv.0.weight" in state
    last = state.get("block0.lastconv.0.weight" if shuffle else "block0.lastconv.weight")
    if len(channels) not in usual_scales or last is None:
        return None

    body, groups = "leaky", 1
    if "block0.convblock.0.beta" in state:
        body = "resconv"
        groups = max(1, channels[0] // state["block0.convblock.0.conv.weight"].shape[1])
    elif "block0.convblock.0.1.weight" in state:
        body = "prelu"
    parameters = Parameters(
        channels=channels,
        scales=usual_scales[len(channels)],
        body=body,
        groups=groups,
        planes=last.shape[1] // 4 if shuffle else last.shape[1],
        shuffle=shuffle,
        head=_read_head(state),
        refine="unet.conv.weight" in state,
    )
    published = (row for row in VERSIONS.values() if replace(parameters, scales=row.scales) == row)
    return next(published, parameters)


def _read_head(state: Mapping[str, Tensor]) -> Head | None:
    forms = {  # key of the last layer -> key of the first, layers, whether they are named
        "encode.cnn3.weight": ("encode.cnn0.weight", 4, True),
        "encode.6.weight": ("encode.0.weight", 4, False),
        "encode.1.weight": ("encode.0.weight", 2, False),
    }
    for last, (first, layers, named) in forms.items():
        if last in state and first in state:
            return Head(layers, state[first].shape[0], state[last].shape[1], named)
    return None
