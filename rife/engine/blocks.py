"""A network's blocks, rearranged for an engine: the first convolution apart from the rest."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.base import Block, Network
from .layers import FusedConvolution


class FirstConvolution:
    """A first convolution, with its input channels in the order in which they are gathered.

    Args:
        layer: The convolution.
        inputs: The channels of its input, as in `Network.inputs`; it may take only the first ones.
        both_orders: Whether it is also wanted for the pair in the opposite order.
        padded_channels: If given, each frame is padded with zeros to so many channels, and the
            whole input to a multiple of 8, which GPUs are fast at.

    Attributes:
        layers: The convolution and, if wanted, one for the opposite order: on the same input (but
            for the timestep) it gives what the first would give if the frames were swapped.
        channels: Channels of the input.
        halo: Rows above the first output row's own that it reads.
        tensors: The tensors that the input is gathered in, each with its parts and their channels:
            several, if the layer takes several, as frames with features are gathered fastest into
            tensors of their own.
    """

    #: The inputs of a network, and the part of the gathered input that each is in, in this order.
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
        padded_channels: int | None = None,
    ):
        weights = _split_weight(layer.weight, inputs)
        orders = (weights, _swap_frames(weights)) if both_orders else (weights,)
        arranged = [_arrange_weight(order, padded_channels) for order in orders]
        self.layers = [layer.with_weight(weight) for weight in arranged]
        self.channels = arranged[0].shape[1]
        self.halo = layer.stride[0] - 1

        sizes = {part: weight.shape[1] for part, weight in _join_parts(weights).items()}
        with_features = [part for part in ("frame0", "frame1") if sizes.get(part, 0) > 3]
        alone = with_features if layer.takes_parts else []
        rest = {part: size for part, size in sizes.items() if part not in alone}
        self.tensors = [{part: sizes[part]} for part in alone] + [rest]


def _split_weight(weight: Tensor, inputs: Mapping[str, int]) -> dict[str, Tensor]:
    """The weight for each of the inputs that the layer takes."""
    weights, end = {}, 0
    for name, size in inputs.items():
        if end < weight.shape[1] and size:
            weights[name] = weight[:, end : end + size]
        end += size
    return weights


def _swap_frames(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that do, on the same input, what `weights` do if the frames are swapped."""
    swap_digits = str.maketrans("01", "10")
    swapped = {name: weights[name.translate(swap_digits)] for name in weights}
    if "flow" in weights:
        swapped |= {"mask": -weights["mask"], "flow": weights["flow"].roll(2, 1)}
    return swapped


def _join_parts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weight for each part of the gathered input."""
    parts: dict[str, list[Tensor]] = {}
    for name, part in FirstConvolution.PARTS.items():
        if name in weights:
            parts.setdefault(part, []).append(weights[name])
    return {part: torch.cat(joined, 1) for part, joined in parts.items()}


def _arrange_weight(weights: Mapping[str, Tensor], padded_channels: int | None) -> Tensor:
    parts = _join_parts(weights)
    if not padded_channels:
        return torch.cat(list(parts.values()), 1)
    for part in parts:
        if part.startswith(("frame", "unwarped")):
            parts[part] = _pad_channels(parts[part], padded_channels)
    weight = torch.cat(list(parts.values()), 1)
    return _pad_channels(weight, round_up(weight.shape[1], 8))


def _pad_channels(weight: Tensor, channels: int) -> Tensor:
    """Adds zeros for more input channels."""
    return F.pad(weight, (0, 0, 0, 0, 0, channels - weight.shape[1]))


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class EngineBlock:
    """A network's block, divided into its first convolution and the rest.

    An `Estimation` gathers the input of the former and reads the output of the latter.

    Args:
        network: The network that the block is of.
        index: Which of its blocks it is.
        block: The block, with fused layers; its last layer may be changed.
        padded_channels: As in FirstConvolution; given where GPU kernels read the output.
        pack_block_output: `Kernels.pack_block_output`, or None.

    Attributes:
        first_convolution: The first convolution.
        body: All that follows it: (B, C, h, w) to (B, planes, h', w').
        output_stride: As in `Block`.
        shuffle: The PixelShuffle that still has to be done on the output; 1: none.
    """

    def __init__(
        self,
        network: Network,
        index: int,
        block: Block,
        padded_channels: int | None,
        pack_block_output: Callable[[Tensor, Tensor, int], Tensor] | None,
    ):
        both_orders = "ensemble" in network.options | network.built_in
        self.first_convolution = FirstConvolution(
            block.conv0[0][0], network.inputs, both_orders, padded_channels
        )
        self.body, self.output_stride, self.shuffle = block.body, block.output_stride, 1
        if isinstance(block.lastconv, nn.Sequential):  # it ends in a PixelShuffle(2)
            is_last = index + 1 == len(network.blocks)
            # Planes that nothing reads are left out: the last block's features, and unused ones.
            planes = 5 if is_last else 5 + network.inputs["block_features"]
            block.lastconv[0] = block.lastconv[0].narrowed(4 * planes)
            if padded_channels:  # GPU kernels do the PixelShuffle, or read planes before it
                block.lastconv[0] = block.lastconv[0].widened(round_up(4 * planes, 8))
                block.lastconv, self.shuffle = block.lastconv[0], 2
        if pack_block_output and isinstance(block.lastconv, FusedConvolution):
            shuffle, self.shuffle = self.shuffle, 1
            block.lastconv.finish = lambda y, bias, *_: pack_block_output(y, bias, shuffle)
