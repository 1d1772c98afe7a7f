"""Convolutions for inference: each with its activation in one pass, in the layout that suits it."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..networks.ifnet_v4 import ResConv

_ACTIVATIONS = (nn.LeakyReLU, nn.PReLU)

#: (y, bias, slopes below zero, of each channel, what is added before) -> y, changed in place.
Activate = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def fuse(network: nn.Module, activate: "Activate | None" = None) -> nn.Module:
    """A copy of `network` that computes the same in fewer passes, for inference alone.

    Convolutions take their activations in, and a ResConv becomes one of them; their weights are
    copied, the others shared. Tensors go through in torch's channels_last layout.
    activate: does what follows a convolution, its bias and residual included, in one pass.
    """
    shared = {id(parameter): parameter for parameter in network.parameters()}
    fused = _fused(copy.deepcopy(network, shared), upsamples=activate is None)
    for module in fused.modules():
        if isinstance(module, Layer):
            module.finish = activate
    return fused


def _fused(module: nn.Module, upsamples: bool) -> nn.Module:
    """upsamples: whether Upsamplings may take the place of convolutions."""
    if isinstance(module, ResConv):
        return _from_resconv(module)
    if isinstance(module, nn.ConvTranspose2d) and upsamples and Upsampling.suits(module):
        return Upsampling(module)
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return Layer(module)
    if isinstance(module, nn.PixelShuffle):
        return _Shuffle()
    if isinstance(module, nn.Sequential):
        layers: list[nn.Module] = []
        for layer in (_fused(child, upsamples) for child in module):
            before = layers[-1] if layers else None
            if isinstance(layer, _Shuffle) and isinstance(before, Upsampling):
                layers[-1] = before.shuffled()
            elif isinstance(layer, _ACTIVATIONS) and isinstance(before, (Layer, Upsampling)):
                layers[-1] = before.activate(layer)
            else:
                layers.append(layer)
        return nn.Sequential(*layers)
    for name, child in module.named_children():
        setattr(module, name, _fused(child, upsamples))
    return module


def _from_resconv(module: ResConv) -> "Layer":
    """leaky(conv(x) * beta + x): beta scales the kernel, and x is its centre's 1 in float32; with
    fewer bits that 1 would drown what it is added to."""
    conv, beta = module.conv, module.beta.flatten()
    weight = conv.weight * beta[:, None, None, None]
    residual = weight.dtype != torch.float32
    if not residual:
        one_group = torch.eye(weight.shape[1], device=weight.device)
        weight[:, :, 1, 1] += one_group.repeat(conv.groups, 1)
    return Layer(conv, weight, conv.bias * beta, residual).activate(module.relu)


class Layer(nn.Module):
    """A convolution, plain or transposed, and the activation that follows it.

    residual: the input is added before the activation. weight, bias: instead of the module's.
    """

    def __init__(
        self,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        residual: bool = False,
    ):
        super().__init__()
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.weight = _constant(conv.weight if weight is None else weight)
        self.bias = _constant(conv.bias if bias is None else bias)
        self.residual = residual
        self.slope: float | Tensor | None = None  # below zero; None: no activation
        self.finish: Activate | None = None  # instead of torch's functions
        self._slopes: Tensor | None = None
        self._packed: list[Tensor] = []

    @property
    def takes_parts(self) -> bool:
        """Whether parts of its input are never made one tensor."""
        return not (self.transposed or self.finish) and _packs(self.weight)

    def activate(self, activation: nn.LeakyReLU | nn.PReLU) -> "Layer":
        """Take in what follows."""
        if isinstance(activation, nn.LeakyReLU):
            self.slope = activation.negative_slope
        else:
            self.slope = activation.weight.detach()
        return self

    @cached_property
    def _is_maximum(self) -> bool:
        """Whether its activation is the maximum of y and y times the slope."""
        return bool((self.slope <= 1).all())

    def with_weight(self, weight: Tensor) -> "Layer":
        """The same with another kernel."""
        layer = copy.deepcopy(self)
        layer.weight = _constant(weight)
        return layer

    def narrowed(self, planes: int) -> "Layer":
        """The same, transposed, with its first planes alone."""
        layer = self.with_weight(self.weight[:, :planes])
        layer.bias = _constant(self.bias[:planes])
        return layer

    def widened(self, planes: int) -> "Layer":
        """The same, transposed, with planes of zeros after its own."""
        more = planes - self.weight.shape[1]
        layer = self.with_weight(F.pad(self.weight, (0, 0, 0, 0, 0, more)))
        layer.bias = _constant(F.pad(self.bias, (0, more)))
        return layer

    def forward(
        self, x: Tensor | Sequence[Tensor], padding: tuple[int, int] | None = None
    ) -> Tensor:
        """x: (B, C, h, w), or its parts along C. padding: instead of the module's, rows and columns
        of zeros."""
        padding = padding or self.padding
        parts = (x,) if isinstance(x, Tensor) else x
        if self.takes_parts:
            return self._onednn(parts, padding)
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        bias = None if self.finish else self.bias
        if self.transposed:
            y = F.conv_transpose2d(x, self.weight, bias, self.stride, padding)
        else:
            y = F.conv2d(x, self.weight, bias, self.stride, padding, groups=self.groups)
        if self.finish:
            return self.finish(y, self.bias, self._each_slope(), x if self.residual else None)
        return self._activated(y.add_(x) if self.residual else y)

    def _each_slope(self) -> Tensor | None:
        """One for each channel."""
        if self._slopes is None and self.slope is not None:
            self._slopes = torch.ones_like(self.bias) * self.slope
        return self._slopes

    def _onednn(self, parts: Sequence[Tensor], padding: tuple[int, int]) -> Tensor:
        """Through torch's own way to oneDNN (what torch.compile calls): the weights are brought
        into the CPU's best layout once, and LeakyReLU costs no pass."""
        mkldnn, geometry = torch.ops.mkldnn, [padding, self.stride, (1, 1), self.groups]
        if not self._packed:
            sizes = [x.shape[1] // self.groups for x in parts]
            self._packed = [
                mkldnn._reorder_convolution_weight(kernel, *geometry, x.shape)
                for kernel, x in zip(self.weight.split(sizes, 1), parts, strict=True)
            ]
        fuses = isinstance(self.slope, float) and not self.residual and len(parts) == 1
        y = mkldnn._convolution_pointwise(
            parts[0], self._packed[0], self.bias, *geometry,
            "leaky_relu" if fuses else "none", [self.slope] if fuses else [], "",
        )  # fmt: skip
        for x, kernel in zip(parts[1:], self._packed[1:], strict=True):
            mkldnn._convolution_pointwise_.binary(
                y, x, kernel, None, *geometry, "add", 1.0, None, [], ""
            )
        if fuses:
            return y
        return self._activated(y.add_(parts[0]) if self.residual else y)

    def _activated(self, y: Tensor) -> Tensor:
        if self.slope is None:
            return y
        if isinstance(self.slope, float):
            return F.leaky_relu_(y, self.slope)
        if y.dtype == torch.bfloat16 and y.device.type == "cpu" and self._is_maximum:
            # Torch's own takes up to ten times as long there.
            return torch.maximum(y, y * self.slope[:, None, None], out=y)
        return F.prelu(y, self.slope)


class Upsampling(nn.Module):
    """A transposed convolution (kernel 4, stride 2, padding 1), and the PixelShuffle(2) that may
    follow, as a convolution: each 2x2 window of the input makes a cell of the output.

    Gives float32 in torch's usual layout.
    """

    def __init__(self, conv: nn.ConvTranspose2d, side: int = 2, planes: int | None = None):
        """side: of the cells; 4 with the PixelShuffle. planes: only the first ones, counted before
        it."""
        super().__init__()
        self.conv, self.side = conv, side
        weight, bias = conv.weight[:, :planes], conv.bias[:planes]
        # What a window's first and second row (or column) are multiplied with: these rows of the
        # kernel make one half of the cell, these the other.
        halves = torch.tensor([[2, 0], [3, 1]])
        parts = weight[:, :, halves][..., halves]
        parts = parts.unflatten(1, (-1, side // 2, side // 2))
        bias = bias.view(-1, 1, side // 2, 1, side // 2).expand(-1, 2, -1, 2, -1)
        self.layer = Layer(
            nn.Conv2d(1, 1, 2, padding=1),
            rearrange(parts, "i p a b y h x w -> (p y a x b) i h w"),
            bias.flatten(),
        )

    @staticmethod
    def suits(conv: nn.ConvTranspose2d) -> bool:
        """Whether it is one of those, and faster this way: where oneDNN would fill up planes."""
        geometry = conv.kernel_size, conv.stride, conv.padding, conv.groups
        fills_up = conv.out_channels % 16 != 0
        return geometry == ((4, 4), (2, 2), (1, 1), 1) and fills_up and _packs(conv.weight)

    def shuffled(self) -> "Upsampling":
        """With a PixelShuffle(2) after it."""
        return Upsampling(self.conv, 4)

    def activate(self, activation: nn.LeakyReLU | nn.PReLU) -> Layer:
        """A usual layer, since what follows wants its layout."""
        return Layer(self.conv).activate(activation)

    def narrowed(self, planes: int) -> "Upsampling":
        """The same, with the first planes of its convolution alone."""
        return Upsampling(self.conv, self.side, planes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, planes, side * h, side * w)."""
        cells = self.layer(x).float().permute(0, 2, 3, 1).contiguous()
        # A row of a cell is moved as one number.
        rows = cells.view({2: torch.float64, 4: torch.complex128}[self.side])
        rows = rearrange(rows, "b h w (p y) -> b p h y w", y=self.side).contiguous()
        border = slice(self.side // 2, -(self.side // 2))
        return rows.view(torch.float32).flatten(2, 3)[:, :, border, border]


class _Shuffle(nn.Module):
    """PixelShuffle(2) from channels_last to float32 in torch's usual layout, in one pass."""

    def forward(self, x: Tensor) -> Tensor:
        batch, planes, height, width = x.shape
        y = x.new_empty(batch, planes // 4, 2 * height, 2 * width, dtype=torch.float32)
        for i in range(4):
            y[:, :, i // 2 :: 2, i % 2 :: 2] = x[:, i::4]
        return y


def _constant(weight: Tensor) -> nn.Parameter:
    """As oneDNN reads it: element after element, whatever the strides."""
    layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
    return nn.Parameter(weight.detach().contiguous(memory_format=layout), requires_grad=False)


def _packs(x: Tensor) -> bool:
    """Whether oneDNN's packed convolutions run here: x86 CPUs, float32, or bfloat16 from AVX-512
    on."""
    if x.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_reorder_convolution_weight"):
        return False
    if x.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.dtype == torch.float32
