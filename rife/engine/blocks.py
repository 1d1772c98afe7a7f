"""A network's blocks as an engine runs them: first convolution, body, and what the output is."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.base import Block, Network
from .layers import FusedConvolution


class FirstConvolution:
    """A first convolution whose kernel is arranged by the parts that its input is gathered in.

    Args:
        layer: The convolution.
        inputs: The channels of its input, as in `Network.inputs`; it may take only the first ones.
        both_orders: Whether it is wanted for the pair in the opposite order, too.
        frame_channels: If given, each frame is filled up with zeros to so many channels, and all of
            the input to a multiple of 8, which GPUs are fast at.

    Attributes:
        layers: The convolution and, if wanted, the one that gives on the same input (but for the
            timestep) what the first would give if the frames were swapped.
        channels: Channels of the input.
        halo: Rows above the first that it reads.
        tensors: The tensors that the input comes in, each with the parts in it and their channels:
            frames that are warped with their features are gathered on their own, if the layer
            takes several tensors.
    """

    #: The inputs of a network -> the part of the gathered input that each lies in, in this order.
    PARTS: ClassVar = {
        "image0": "frame0", "features0": "frame0", "image1": "frame1", "features1": "frame1",
        "unwarped0": "unwarped0", "unwarped1": "unwarped1", "time": "time",
        "mask": "mask_and_features", "block_features": "mask_and_features", "flow": "flow",
    }  # fmt: skip

    def __init__(
        self,
        layer: FusedConvolution,
        inputs: Mapping[str, int],
        both_orders: bool = False,
        frame_channels: int | None = None,
    ):
        kernels = _split_kernel(layer.weight, inputs)
        orders = (kernels, _swap_frames(kernels)) if both_orders else (kernels,)
        weights = [_arrange_kernel(order, frame_channels) for order in orders]
        self.layers = [layer.with_weight(weight) for weight in weights]
        self.channels = weights[0].shape[1]
        self.halo = layer.stride[0] - 1

        sizes: dict[str, int] = {}
        for name, part in self.PARTS.items():
            if name in kernels:
                sizes[part] = sizes.get(part, 0) + kernels[name].shape[1]
        gathered = [part for part in ("frame0", "frame1") if sizes.get(part, 0) > 3]
        alone = gathered if layer.takes_parts else []
        rest = {part: size for part, size in sizes.items() if part not in alone}
        self.tensors = [{part: sizes[part]} for part in alone] + [rest]


def _split_kernel(weight: Tensor, inputs: Mapping[str, int]) -> dict[str, Tensor]:
    """The part of the kernel for each of the inputs that the layer takes."""
    kernels, end = {}, 0
    for name, size in inputs.items():
        if end < weight.shape[1] and size:
            kernels[name] = weight[:, end : end + size]
        end += size
    return kernels


def _swap_frames(kernels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The kernels that see the frames of an unchanged input in the opposite order."""
    zero_for_one = str.maketrans("01", "10")
    swapped = {name: kernels[name.translate(zero_for_one)] for name in kernels}
    if "flow" in kernels:
        swapped |= {"mask": -kernels["mask"], "flow": kernels["flow"].roll(2, 1)}
    return swapped


def _arrange_kernel(kernels: Mapping[str, Tensor], frame_channels: int | None) -> Tensor:
    parts: dict[str, list[Tensor]] = {}
    for name, part in FirstConvolution.PARTS.items():
        if name in kernels:
            parts.setdefault(part, []).append(kernels[name])
    joined = {part: torch.cat(weights, 1) for part, weights in parts.items()}
    if not frame_channels:
        return torch.cat(list(joined.values()), 1)
    for part in joined:
        if part.startswith(("frame", "unwarped")):
            joined[part] = _fill_channels(joined[part], frame_channels)
    weight = torch.cat(list(joined.values()), 1)
    return _fill_channels(weight, round_up(weight.shape[1], 8))


def _fill_channels(weight: Tensor, channels: int) -> Tensor:
    """A kernel with zeros for more input channels."""
    return F.pad(weight, (0, 0, 0, 0, 0, channels - weight.shape[1]))


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class EngineBlock:
    """A network's block, taken apart where an `Estimation` gathers its input and reads its output.

    Args:
        network: The network that the block is of.
        index: Which of its blocks it is.
        block: The block, with fused layers.
        frame_channels: As in FirstConvolution; given where GPU kernels read the output.
        pack_block_output: `Kernels.pack_block_output`, or None.

    Attributes:
        first_convolution: What the input is gathered for.
        body: All that follows the first convolution: (B, C, h, w) to (B, planes, h', w').
        output_stride: As in `Block`.
        shuffle: The PixelShuffle that is still to be done on the output; 1: none.
    """

    def __init__(
        self,
        network: Network,
        index: int,
        block: Block,
        frame_channels: int | None,
        pack_block_output: Callable[[Tensor, Tensor, int], Tensor] | None,
    ):
        both_orders = "ensemble" in network.options | network.built_in
        self.first_convolution = FirstConvolution(
            block.conv0[0][0], network.inputs, both_orders, frame_channels
        )
        self.body, self.output_stride, self.shuffle = block.body, block.output_stride, 1
        if isinstance(block.lastconv, nn.Sequential):  # it ends in a PixelShuffle(2)
            is_last = index + 1 == len(network.blocks)
            planes = 5 if is_last else 5 + network.inputs["block_features"]
            block.lastconv[0] = block.lastconv[0].narrowed(4 * planes)
            if frame_channels:
                block.lastconv[0] = block.lastconv[0].widened(round_up(4 * planes, 8))
                block.lastconv, self.shuffle = block.lastconv[0], 2
        if pack_block_output and isinstance(block.lastconv, FusedConvolution):
            shuffle, self.shuffle = self.shuffle, 1
            block.lastconv.finish = lambda y, bias, *_: pack_block_output(y, bias, shuffle)
