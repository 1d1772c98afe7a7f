"""Runs a network with a fraction of the work, for the same frames.

- Frames are warped only at the pixels that a block reads: block_input.py says which.
- What one block passes on to the next is not brought to full size in between: upscaling it r times
  and then downscaling it s times is, exactly, to upscale it r / s times. Only the flow is kept at
  full size, because every block adds to it.
- All this happens in strips of rows, up to each block's first convolution, so that little is ever
  large.
- Convolutions take in what follows them (layers.py).

The networks themselves define what is computed, and the tests hold the engine to them.
"""

import torch
from torch import Tensor

from ..networks.base import Motion, Network, PreparedFrames, estimate_pairs_separately
from ..networks.warp import at_least_float32, resize
from .blocks import EngineBlock, FirstConvolution
from .estimation import BlockOutput, Estimation
from .layers import fuse_layers

#: Whether torch has FBGEMM, whose embedding_bag is a fast weighted sum of rows.
_HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines


def supports_scale(network: Network, scale: float) -> bool:
    """Whether an engine can run a network at this scale, or leaves all to the network.

    It can where blocks see each frame as it is, or means of 2x2 pixels.
    """
    return all(s == scale or s / scale % 2 == 0 for s in network.scales)


class Engine:
    """Does what a network does, by methods of the same names.

    It takes over the network's weights as and where they are when it is made; after a change of
    them, another one is needed.

    Args:
        network: The network.
        estimation: What runs between the convolutions: `Estimation`, or a subclass by GPU kernels.

    Attributes:
        uses_kernels: Whether GPU kernels run.
    """

    def __init__(self, network: Network, estimation: type[Estimation] | None = None):
        self.network = network
        self._estimation_class = estimation = estimation or Estimation
        self.uses_kernels = estimation.uses_kernels
        self._fused = fuse_layers(network, estimation.finish_convolution)

        features = network.inputs.get("features0", 0)
        # Where there are features, all channels of a pixel are gathered at once, which is faster
        # from 7 channels on (benchmarks/README.md, "What the engine rests on").
        gathers = network.device.type == "cpu" and features and _HAS_FBGEMM
        is_channels_last = gathers or self.uses_kernels
        self._layout = torch.channels_last if is_channels_last else torch.contiguous_format
        self._frame_channels = 3 + features
        padded_channels = None
        if self.uses_kernels:  # which take a power of two
            padded_channels = 1 << (self._frame_channels - 1).bit_length()
            self._frame_channels = padded_channels

        self._blocks = [
            EngineBlock(network, i, block, padded_channels, estimation.pack_block_output)
            for i, block in enumerate(self._fused.blocks)
        ]
        if network.unet is not None:
            unet = self._fused.unet
            self._first_of_unet = FirstConvolution(
                unet.down0.conv1[0], network.unet.inputs, padded_channels=padded_channels
            )
            unet.join = tuple  # fused layers take their input in parts

    @torch.no_grad()
    def prepare(self, image: Tensor, *, refine: bool = False) -> PreparedFrames:
        """As Network.prepare."""
        network, pyramid = self._fused, ()
        image_and_features = image = image.float().contiguous()
        if self._frame_channels > 3:
            image_and_features = torch.empty(
                (len(image), self._frame_channels, *image.shape[2:]),
                dtype=network.dtype if self.uses_kernels else torch.float32,
                device=image.device,
                memory_format=self._layout,
            )
            image_and_features[:, :3], end = image, 3
            if network.encode is not None:
                features = network.encode(image.to(network.dtype))
                end += features.shape[1]
                image_and_features[:, 3:end] = features
            image_and_features[:, end:] = 0
        if refine or "refine" in network.built_in:
            levels = network.contextnet.pyramid(image.to(network.dtype))
            pyramid = tuple(level.contiguous() for level in levels)
        return PreparedFrames(image_and_features, pyramid)

    @property
    def can_prepare_slots(self) -> bool:
        """Whether `prepare_slot` can be called."""
        return self._estimation_class.prepare_frame is not None

    @torch.no_grad()
    def prepare_slot(self, slots: Tensor, images: Tensor, slot: Tensor) -> Tensor | None:
        """Prepares one image, without a pyramid, right where it belongs.

        Args:
            slots: The `PreparedFrames.image_and_features` of all images, written to.
            images: (N, h, w, C), bytes or floats in [0, 1].
            slot: (1,) int64, which of the images, and of the slots.

        Returns:
            The image's features, or None where the network has none.
        """
        network, features = self._fused, None
        if network.encode is not None:
            image = torch.empty(
                (1, 3, *slots.shape[2:]),
                dtype=slots.dtype,
                device=slots.device,
                memory_format=torch.channels_last,
            )
            self._estimation_class.prepare_frame(image, images, slot)
            features = network.encode(image)
        self._estimation_class.prepare_frame(slots, images, slot, features, slot)
        return features

    @torch.no_grad()
    def motion(
        self,
        frame0: PreparedFrames,
        frame1: PreparedFrames,
        timestep: float | Tensor = 0.5,
        *,
        scale: float = 1.0,
        ensemble: bool = False,
        refine: bool = False,
        doubling_flags: list[Tensor] | None = None,
    ) -> Motion:
        """As Network.motion, of frames from this engine's `prepare`.

        Args:
            doubling_flags: If given, scales are never doubled, as the CPU would have to wait for
                the device to know whether they should be. Instead, where the network can double
                its scales, (B,) is appended: true for each pair that may have needed it.
        """
        network, frames = self.network, (frame0, frame1)
        if not self.uses_kernels:
            frames = frame0.selected(), frame1.selected()
        options = {"scale": scale, "ensemble": ensemble, "refine": refine}
        if not supports_scale(network, scale):
            return network.motion(*frames, timestep, **options)
        scales = [s / scale for s in network.scales]
        device = frame0.image_and_features.device
        times = torch.as_tensor(timestep, dtype=torch.float32, device=device)
        times = times.expand(len(frame0), 1, 1, 1)
        both_orders = ensemble or "ensemble" in network.built_in

        estimation = self._estimation_class(frames, times, network.adds_masks)
        for i, block in enumerate(self._blocks):
            output = _run_block(estimation, block, scales[i], both_orders)
            if i == 1 and network.can_double_scales:
                # Upscaled, flow has no larger values: if this is false, so is the exact answer.
                doubles = network.needs_doubled_scales(output.forward_flow)
                if doubling_flags is not None:
                    doubling_flags.append(doubles)
                elif doubles.any() and (doubles := self._needs_doubled_scales(output)).any():
                    if not doubles.all():  # each pair decides for itself
                        return estimate_pairs_separately(self.motion, frames, times, **options)
                    scales = [2 * s for s in scales]
                    estimation = self._estimation_class(frames, times, network.adds_masks)
                    # Upstream runs this block in one order only, even in an ensemble.
                    first = _run_block(estimation, self._blocks[0], scales[0], both_orders=False)
                    estimation.add_output(first)
                    output = _run_block(estimation, block, scales[1], both_orders)
            estimation.add_output(output)
        is_refined = refine or "refine" in network.built_in
        return estimation.finish(self._residual(estimation) if is_refined else None)

    def _needs_doubled_scales(self, output: BlockOutput) -> Tensor:
        full_size_flow = resize(output.forward_flow, output.factor)
        return self.network.needs_doubled_scales(full_size_flow)

    def _residual(self, estimation: Estimation) -> Tensor:
        contextnet, unet = self._fused.contextnet, self._fused.unet
        contexts = [
            [
                level.contiguous(memory_format=torch.channels_last)
                for level in contextnet.warp_pyramid(frame.selected_pyramid(), flow)
            ]
            for frame, flow in zip(estimation.frames, estimation.flow.split(2, 1), strict=True)
        ]
        (x,) = estimation.run_first_convolution(self._first_of_unet, 1)
        return at_least_float32(unet.body(x, *contexts)) * 2 - 1


def _run_block(
    estimation: Estimation, block: EngineBlock, scale: float, both_orders: bool
) -> BlockOutput:
    scale = int(scale)
    x = estimation.run_first_convolution(block.first_convolution, scale, both_orders)
    planes = block.body(torch.cat(x) if both_orders else x[0])
    factor = scale * block.output_stride
    return estimation.read_output(planes, block.shuffle, factor, both_orders)
