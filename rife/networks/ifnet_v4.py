"""IFNet v4: every RIFE from v4.0 to v4.26, any timestep, as one network with a row of parameters.

Upstream: Practical-RIFE and vs-rife 5.7.0. A checkpoint's parameters are read off its tensors; the
rows in `VERSIONS` name them.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .base import Block, Motion, Network, Prepared, one_by_one
from .refine import Contextnet, Unet
from .warp import at_least_float32, resize, swap_directions, warp


@dataclass(frozen=True)
class Head:
    """The encoder that gives every frame its features.

    layers: 2 or 4 convolutions, the first halving the size, the last doubling it. named: their
    keys are `cnn0` .. `cnn3`, else numbers.
    """

    layers: int
    width: int
    features: int
    named: bool


@dataclass(frozen=True)
class Parameters:
    """What tells one v4 network from another.

    channels: width of each block. scales: scale factor of each block.
    body: of the eight convolutions, "prelu" (PReLU, a residual around all), "leaky" (LeakyReLU, no
        residual) or "resconv" (a residual and a factor beta around each). groups: of each resconv.
    planes: what each block puts out; 4 of flow, 1 of mask, 1 unused or 8 of features to hand over.
    shuffle: the last layer ends in a PixelShuffle. head: the encoder; with one, each block's mask
        replaces the one before, without, it adds. refine: has Contextnet and Unet.
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
    def hands_over(self) -> int:
        """Feature channels that each block hands to the next."""
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

#: Versions in one row are the same function, told apart by their weights alone.
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
    """A convolution times beta, added to its input."""

    def __init__(self, c: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, 1, 1, groups=groups)
        self.beta = nn.Parameter(torch.ones(1, c, 1, 1))
        self.relu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x) * self.beta + x)


class IFBlock(Block):
    """One step of refinement at its scale: flow, mask and, to some versions, features."""

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
        self.residual_around = p.body == "prelu"
        self.up = 1 if p.shuffle else 2
        self.hands_over = p.hands_over

    def forward(
        self, x: Tensor, flow: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, C, H, W); flow: (B, 4, H, W) in pixels, or None at the first block; scale: how far
        the input is reduced. Returns flow in pixels, mask before its sigmoid, and features."""
        x = resize(x, 1 / scale)
        if flow is not None:
            x = torch.cat((x, resize(flow, 1 / scale) / scale), 1)
        flow, mask, handed = self.estimate(x, scale)
        return flow, mask, handed[:, : self.hands_over]

    def body(self, x: Tensor) -> Tensor:
        x = self.conv0[1](x)
        out = self.convblock(x)
        return self.lastconv(out + x if self.residual_around else out)


class IFNet_v4(Network):
    """The network that a row of `Parameters` describes."""

    any_timestep: ClassVar[bool] = True
    #: v4.0 - v4.1: when block 1 finds motion beyond this many pixels in both directions, block 0
    #: has lost its way, and both run again with all scales doubled.
    lost_at: ClassVar[float] = 32

    def __init__(self, parameters: Parameters):
        super().__init__()
        self.parameters_row = p = parameters
        names = [name for name, row in VERSIONS.items() if row == p]
        self.version = f"RIFE {names[0]}" if names else "RIFE v4 (of no published version)"
        self.scales = p.scales
        options = {"ensemble": not p.hands_over, "refine": p.refine}
        self.options = frozenset(name for name, has in options.items() if has)

        features = p.head.features if p.head else 0
        first = {"image0": 3, "image1": 3, "features0": features, "features1": features, "time": 1}
        self.inputs = first | {"mask": 1, "handed": p.hands_over, "flow": 4}
        self.mask_adds = p.head is None
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
    def doubles_scales(self) -> bool:
        return self.parameters_row.body == "prelu"

    def side_multiple(self, scale: float = 1.0) -> int:
        return super().side_multiple(scale) * (2 if self.doubles_scales else 1)

    def prepare(self, image: Tensor, *, refine: bool = False) -> Prepared:
        image = image.float()
        seen = image
        if self.parameters_row.head:
            seen = torch.cat((image, self.encode(image.to(self.dtype)).float()), 1)
        pyramid = self.contextnet.pyramid(image.to(self.dtype)) if refine else ()
        return Prepared(seen, pyramid)

    def motion(
        self,
        frame0: Prepared,
        frame1: Prepared,
        timestep: float | Tensor = 0.5,
        *,
        scale: float = 1.0,
        ensemble: bool = False,
        refine: bool = False,
    ) -> Motion:
        scales = [s / scale for s in self.scales]
        blocks = self.blocks
        plane = torch.ones_like(frame0.image[:, :1]) * timestep
        seen0, seen1 = frame0.seen, frame1.seen

        def look(flow: Tensor) -> tuple[Tensor, Tensor]:
            return warp(seen0, flow[:, :2]), warp(seen1, flow[:, 2:])

        def step(i, view, flow, mask, handed, backwards=False):
            a, b, t = (*view, plane)
            if backwards:
                a, b, t = b, a, 1 - t
                mask = None if mask is None else -mask
                flow = None if flow is None else swap_directions(flow)
            parts = [a[:, :3], b[:, :3], a[:, 3:], b[:, 3:], t]
            if flow is not None:
                parts += [mask, handed]
            return blocks[i](torch.cat(parts, 1), flow, scales[i])

        flow = mask = handed = None
        view = (seen0, seen1)
        for i in range(len(blocks)):
            change, new_mask, new_handed = step(i, view, flow, mask, handed)
            if i == 1 and self.doubles_scales:
                lost = self.lost(change)
                if lost.any() and not lost.all():
                    options = {"scale": scale, "ensemble": ensemble, "refine": refine}
                    return one_by_one(self.motion, (frame0, frame1), plane, **options)
                if lost.all():
                    scales = [2 * s for s in scales]
                    flow, mask, handed = step(0, (seen0, seen1), None, None, None)
                    view = look(flow)
                    change, new_mask, new_handed = step(1, view, flow, mask, handed)
            if ensemble:
                back, back_mask, _ = step(i, view, flow, mask, handed, backwards=True)
                change = (change + swap_directions(back)) / 2
                new_mask = (new_mask - back_mask) / 2
            mask = mask + new_mask if self.mask_adds and mask is not None else new_mask
            flow = change if flow is None else flow + change
            handed = new_handed
            if refine or i + 1 < len(blocks):
                view = look(flow)

        residual = None
        if refine:
            c0 = self.contextnet.warp_pyramid(frame0.pyramid, flow[:, :2])
            c1 = self.contextnet.warp_pyramid(frame1.pyramid, flow[:, 2:])
            warped = (v[:, :3] for v in view)
            refined = self.unet(frame0.image, frame1.image, *warped, mask, flow, c0, c1)
            residual = at_least_float32(refined) * 2 - 1
        return Motion(flow, torch.sigmoid(mask), residual)

    def lost(self, change: Tensor) -> Tensor:
        """(B,), true where both directions of block 1's flow exceed `lost_at` somewhere."""
        return (change.abs().amax((2, 3)).unflatten(1, (2, 2)).amax(2) > self.lost_at).all(1)


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
    """The row of parameters that `state` was made with, or None if it is not of a v4 network.

    Scales leave no trace in the tensors: a published row gives its own, any other the usual ones
    for its number of blocks.
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
    found = Parameters(
        channels=channels,
        scales=usual_scales[len(channels)],
        body=body,
        groups=groups,
        planes=last.shape[1] // 4 if shuffle else last.shape[1],
        shuffle=shuffle,
        head=_read_head(state),
        refine="unet.conv.weight" in state,
    )
    rows = (row for row in VERSIONS.values() if replace(found, scales=row.scales) == row)
    return next(rows, found)


def _read_head(state: Mapping[str, Tensor]) -> Head | None:
    forms = {
        "encode.cnn3.weight": ("encode.cnn0.weight", 4, True),
        "encode.6.weight": ("encode.0.weight", 4, False),
        "encode.1.weight": ("encode.0.weight", 2, False),
    }
    for last, (first, layers, named) in forms.items():
        if last in state and first in state:
            return Head(layers, state[first].shape[0], state[last].shape[1], named)
    return None
