"""Convolutions for inference: activations in the same pass, weights in a fast layout.

`fuse_layers` replaces a network's layers by them: FusedConvolution for most, UpsamplingConvolution
for some transposed ones on CPUs, PixelShuffle2 for what may follow these.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..networks.ifnet_v4 import ResConv

_ACTIVATIONS = (nn.LeakyReLU, nn.PReLU)

#: `Kernels.finish_convolution`: (y, bias, each channel's slope below zero, residual) -> y.
FinishConvolution = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def fuse_layers(network: nn.Module, finish: FinishConvolution | None = None) -> nn.Module:
    """Returns a copy of `network` that computes the same in fewer passes, for inference alone.

    Convolutions take in the activations that follow them, and a ResConv becomes one convolution.
    Their weights are copied, all others shared. Tensors should be in the channels_last layout.

    Args:
        network: A network, or any module.
        finish: Does what follows a convolution, its bias and residual included; None: torch does.
    """
    shared = {id(parameter): parameter for parameter in network.parameters()}
    fused = _fuse(copy.deepcopy(network, shared), allow_upsampling=finish is None)
    for module in fused.modules():
        if isinstance(module, FusedConvolution):
            module.finish = finish
    return fused


def _fuse(module: nn.Module, allow_upsampling: bool) -> nn.Module:
    """allow_upsampling: whether an UpsamplingConvolution may replace a transposed convolution."""
    if isinstance(module, ResConv):
        return _fuse_resconv(module)
    if (
        isinstance(module, nn.ConvTranspose2d)
        and allow_upsampling
        and UpsamplingConvolution.can_replace(module)
    ):
        return UpsamplingConvolution(module)
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return FusedConvolution(module)
    if isinstance(module, nn.PixelShuffle):
        return PixelShuffle2()
    if isinstance(module, nn.Sequential):
        layers: list[nn.Module] = []
        for layer in (_fuse(child, allow_upsampling) for child in module):
            previous = layers[-1] if layers else None
            is_convolution = isinstance(previous, (FusedConvolution, UpsamplingConvolution))
            if isinstance(layer, PixelShuffle2) and isinstance(previous, UpsamplingConvolution):
                layers[-1] = previous.with_shuffle()
            elif isinstance(layer, _ACTIVATIONS) and is_convolution:
                layers[-1] = previous.absorb_activation(layer)
            else:
                layers.append(layer)
        return nn.Sequential(*layers)
    for name, child in module.named_children():
        setattr(module, name, _fuse(child, allow_upsampling))
    return module


def _fuse_resconv(module: ResConv) -> "FusedConvolution":
    """leaky(conv(x) * beta + x) as one convolution: beta scales the kernel, and a 1 in the kernel's
    centre adds x. In fewer bits than float32 that 1 would drown the weight that it is added to, so
    there x is added afterwards."""
    conv, beta = module.conv, module.beta.flatten()
    weight = conv.weight * beta[:, None, None, None]
    residual = weight.dtype != torch.float32
    if not residual:
        one_group = torch.eye(weight.shape[1], device=weight.device)
        weight[:, :, 1, 1] += one_group.repeat(conv.groups, 1)
    return FusedConvolution(conv, weight, conv.bias * beta, residual).absorb_activation(module.relu)


class FusedConvolution(nn.Module):
    """A convolution, plain or transposed, and the activation that follows it.

    Args:
        conv: The convolution.
        weight: Its kernel instead of `conv.weight`.
        bias: Its bias instead of `conv.bias`.
        residual: Whether the input is added before the activation.

    Attributes:
        slope: The activation's slope below zero, for all channels or, (C,), for each; None: there
            is no activation.
        finish: Does what follows the convolution; None: torch's functions do.
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
        self.slope: float | Tensor | None = None
        self.finish: FinishConvolution | None = None
        self._slopes: Tensor | None = None
        self._packed: list[Tensor] = []

    @property
    def takes_parts(self) -> bool:
        """Whether it can take its input in several tensors without joining them."""
        return not (self.transposed or self.finish) and _has_packed_convolutions(self.weight)

    def absorb_activation(self, activation: nn.LeakyReLU | nn.PReLU) -> "FusedConvolution":
        """Takes in the activation that follows; returns itself."""
        if isinstance(activation, nn.LeakyReLU):
            self.slope = activation.negative_slope
        else:
            self.slope = activation.weight.detach()
        return self

    @cached_property
    def _is_maximum(self) -> bool:
        """Whether its activation equals max(y, slope * y)."""
        return bool((self.slope <= 1).all())

    def with_weight(self, weight: Tensor) -> "FusedConvolution":
        """Returns a copy with another kernel."""
        layer = copy.deepcopy(self)
        layer.weight = _constant(weight)
        return layer

    def narrowed(self, planes: int) -> "FusedConvolution":
        """Returns a copy, of a transposed one, that gives the first planes only."""
        layer = self.with_weight(self.weight[:, :planes])
        layer.bias = _constant(self.bias[:planes])
        return layer

    def widened(self, planes: int) -> "FusedConvolution":
        """Returns a copy, of a transposed one, that gives planes of zeros after its own."""
        more = planes - self.weight.shape[1]
        layer = self.with_weight(F.pad(self.weight, (0, 0, 0, 0, 0, more)))
        layer.bias = _constant(F.pad(self.bias, (0, more)))
        return layer

    def forward(
        self, x: Tensor | Sequence[Tensor], padding: tuple[int, int] | None = None
    ) -> Tensor:
        """Convolves and activates.

        Args:
            x: (B, C, h, w), or its parts along the channels.
            padding: Rows and columns of zeros, instead of the module's.
        """
        padding = padding or self.padding
        parts = (x,) if isinstance(x, Tensor) else x
        if self.takes_parts:
            return self._convolve_parts(parts, padding)
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        bias = None if self.finish else self.bias
        if self.transposed:
            y = F.conv_transpose2d(x, self.weight, bias, self.stride, padding)
        else:
            y = F.conv2d(x, self.weight, bias, self.stride, padding, groups=self.groups)
        if self.finish:
            return self.finish(y, self.bias, self._channel_slopes(), x if self.residual else None)
        return self._activate(y.add_(x) if self.residual else y)

    def _channel_slopes(self) -> Tensor | None:
        if self._slopes is None and self.slope is not None:
            self._slopes = torch.ones_like(self.bias) * self.slope
        return self._slopes

    def _convolve_parts(self, parts: Sequence[Tensor], padding: tuple[int, int]) -> Tensor:
        """Calls oneDNN by the functions of torch that torch.compile uses: weights are brought into
        the CPU's best layout once, and LeakyReLU costs no pass of its own."""
        mkldnn, geometry = torch.ops.mkldnn, [padding, self.stride, (1, 1), self.groups]
        if not self._packed:
            sizes = [x.shape[1] // self.groups for x in parts]
            self._packed = [
                mkldnn._reorder_convolution_weight(kernel, *geometry, x.shape)
                for kernel, x in zip(self.weight.split(sizes, 1), parts, strict=True)
            ]
        in_one_pass = isinstance(self.slope, float) and not self.residual and len(parts) == 1
        y = mkldnn._convolution_pointwise(
            parts[0], self._packed[0], self.bias, *geometry,
            "leaky_relu" if in_one_pass else "none", [self.slope] if in_one_pass else [], "",
        )  # fmt: skip
        for x, kernel in zip(parts[1:], self._packed[1:], strict=True):
            mkldnn._convolution_pointwise_.binary(
                y, x, kernel, None, *geometry, "add", 1.0, None, [], ""
            )
        if in_one_pass:
            return y
        return self._activate(y.add_(parts[0]) if self.residual else y)

    def _activate(self, y: Tensor) -> Tensor:
        if self.slope is None:
            return y
        if isinstance(self.slope, float):
            return F.leaky_relu_(y, self.slope)
        if y.dtype == torch.bfloat16 and y.device.type == "cpu" and self._is_maximum:
            # F.prelu takes up to ten times as long there.
            return torch.maximum(y, y * self.slope[:, None, None], out=y)
        return F.prelu(y, self.slope)


class UpsamplingConvolution(nn.Module):
    """A transposed convolution (kernel 4, stride 2, padding 1) as a plain one.

    Each 2x2 window of the input makes one cell of the output: 2x2 pixels, or 4x4 with the
    PixelShuffle(2) that may follow. The output is float32 in torch's usual layout.

    Args:
        conv: The transposed convolution.
        side: Of the cells: 2, or 4 with the PixelShuffle.
        planes: Give the first planes only, counted before the PixelShuffle.
    """

    def __init__(self, conv: nn.ConvTranspose2d, side: int = 2, planes: int | None = None):
        super().__init__()
        self.conv, self.side = conv, side
        weight, bias = conv.weight[:, :planes], conv.bias[:planes]
        # The rows (or columns) of the kernel that a window's first and second row are multiplied
        # with: for the first half of the cell, and for the second.
        rows = torch.tensor([[2, 0], [3, 1]])
        kernel = weight[:, :, rows][..., rows]
        kernel = kernel.unflatten(1, (-1, side // 2, side // 2))
        bias = bias.view(-1, 1, side // 2, 1, side // 2).expand(-1, 2, -1, 2, -1)
        self.layer = FusedConvolution(
            nn.Conv2d(1, 1, 2, padding=1),
            rearrange(kernel, "i p a b y h x w -> (p y a x b) i h w"),
            bias.flatten(),
        )

    @staticmethod
    def can_replace(conv: nn.ConvTranspose2d) -> bool:
        """Whether `conv` can be run like this and is faster: oneDNN fills up its planes to 16s."""
        geometry = conv.kernel_size, conv.stride, conv.padding, conv.groups
        is_filled_up = conv.out_channels % 16 != 0
        return (
            geometry == ((4, 4), (2, 2), (1, 1), 1)
            and is_filled_up
            and _has_packed_convolutions(conv.weight)
        )

    def with_shuffle(self) -> "UpsamplingConvolution":
        """Returns one that does a PixelShuffle(2), too."""
        return UpsamplingConvolution(self.conv, 4)

    def absorb_activation(self, activation: nn.LeakyReLU | nn.PReLU) -> FusedConvolution:
        """Returns a FusedConvolution: another layer follows, which wants its layout."""
        return FusedConvolution(self.conv).absorb_activation(activation)

    def narrowed(self, planes: int) -> "UpsamplingConvolution":
        """Returns one that gives the first planes of its convolution only."""
        return UpsamplingConvolution(self.conv, self.side, planes)

    def forward(self, x: Tensor) -> Tensor:
        """Turns (B, C, h, w) into (B, planes, side * h, side * w)."""
        cells = self.layer(x).float().permute(0, 2, 3, 1).contiguous()
        # A row of a cell is moved as one number.
        rows = cells.view({2: torch.float64, 4: torch.complex128}[self.side])
        rows = rearrange(rows, "b h w (p y) -> b p h y w", y=self.side).contiguous()
        border = slice(self.side // 2, -(self.side // 2))
        return rows.view(torch.float32).flatten(2, 3)[:, :, border, border]


class PixelShuffle2(nn.Module):
    """PixelShuffle(2) from channels_last to float32 in torch's usual layout, in one pass."""

    def forward(self, x: Tensor) -> Tensor:
        batch, planes, height, width = x.shape
        y = x.new_empty(batch, planes // 4, 2 * height, 2 * width, dtype=torch.float32)
        for i in range(4):
            y[:, :, i // 2 :: 2, i % 2 :: 2] = x[:, i::4]
        return y


def _constant(weight: Tensor) -> nn.Parameter:
    """A weight in a layout that oneDNN, which ignores strides, reads right."""
    layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
    return nn.Parameter(weight.detach().contiguous(memory_format=layout), requires_grad=False)


def _has_packed_convolutions(x: Tensor) -> bool:
    """Whether oneDNN's packed convolutions take such a tensor: on x86 CPUs, in float32, or in
    bfloat16 from AVX-512 on."""
    if x.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_reorder_convolution_weight"):
        return False
    if x.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.dtype == torch.float32
