"""Model: the paper's class that loads, saves, runs and trains a network.

Upstream: ECCV2022-RIFE, model/RIFE.py. To interpolate clips, see `rife.interpolate`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .devices import best_device
from .fileio import atomic_output
from .models.checkpoint import load_weights, read_state_dict
from .networks.ifnet import IFNet, IFNet_m


class Model:
    """Manages one network of the paper.

    Args:
        arbitrary: Use IFNet_m, for any timestep, instead of IFNet, for the midpoint.
        device: Where it runs; None: the best device at hand.

    Attributes:
        device: Where the network is.
        flownet: The network.
        optimizer: AdamW, over all of its weights.
    """

    def __init__(self, arbitrary: bool = False, device: str | torch.device | None = None):
        self.device = torch.device(device) if device is not None else best_device()
        self.flownet = (IFNet_m if arbitrary else IFNet)().to(self.device)
        # The paper's training found that a large weight decay keeps losses from becoming NaN.
        self.optimizer = torch.optim.AdamW(self.flownet.parameters(), lr=1e-6, weight_decay=1e-3)

    def train(self) -> None:
        self.flownet.train()

    def eval(self) -> None:
        self.flownet.eval()

    def load_model(self, path: str | os.PathLike) -> None:
        """Loads weights. Those of the teacher stay as they are if the file has none.

        Args:
            path: A file, or a folder with a `flownet.pkl`.

        Raises:
            CheckpointError: The weights are not of this network.
        """
        load_weights(self.flownet, read_state_dict(path), Path(path))

    def save_model(self, path: str | os.PathLike) -> None:
        """Saves the weights, the teacher's included.

        Args:
            path: A file, or an existing folder, in which `flownet.pkl` is written.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "flownet.pkl"
        state = {key: tensor.cpu() for key, tensor in self.flownet.state_dict().items()}
        with atomic_output(path, overwrite=True) as temporary:
            torch.save(state, temporary)

    @torch.no_grad()
    def inference(
        self,
        img0: Tensor,
        img1: Tensor,
        scale: float = 1,
        TTA: bool = False,
        timestep: float = 0.5,
    ) -> Tensor:
        """Interpolates between two frames.

        Args:
            img0: The first frame, (B, 3, H, W) in [0, 1], sides multiples of 32 / min(scale, 1).
            img1: The second frame.
            scale: Divides the blocks' scale factors: 0.5 estimates flow at half the resolution.
            TTA: Average with the result for the frames rotated by 180 degrees.
            timestep: Of IFNet_m, in (0, 1); IFNet makes the midpoint.

        Returns:
            The frame in between, (B, 3, H, W) in [0, 1].
        """
        pair = torch.cat((img0, img1), 1)
        scales = [s / scale for s in self.flownet.scales]
        frame = self.flownet(pair, scales, timestep)[2][2]
        if TTA:
            rotated = self.flownet(pair.flip(2, 3), scales, timestep)[2][2]
            frame = (frame + rotated.flip(2, 3)) / 2
        return frame

    def update(
        self, imgs: Tensor, gt: Tensor, learning_rate: float, training: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Takes one AdamW step on student, teacher and 0.01 x distillation loss.

        Args:
            imgs: The pairs of frames, (B, 6, H, W) in [0, 1].
            gt: The true frames in between, (B, 3, H, W).
            learning_rate: Of this step.
            training: If false, the losses are computed, but no step is taken.

        Returns:
            The student's frame, (B, 3, H, W), and a dict: the losses `loss_l1` (of the student's
            frame) and `loss_tea` (of the teacher's), see `laplacian_l1`, and `loss_distill`; the
            student's `flow` to the first frame, (B, 2, H, W), and `mask`; the teacher's `flow_tea`,
            (B, 4, H, W), and frame, `merged_tea`.
        """
        self.flownet.train(training)
        with torch.set_grad_enabled(training):
            flow_list, mask, merged, flow_teacher, merged_teacher, loss_distill = self.flownet(
                torch.cat((imgs, gt), 1)
            )
            loss_l1 = laplacian_l1(merged[2], gt)
            loss_tea = laplacian_l1(merged_teacher, gt)
        if training:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.zero_grad()
            (loss_l1 + loss_tea + 0.01 * loss_distill).backward()
            self.optimizer.step()
        return merged[2], {
            "loss_l1": loss_l1,
            "loss_tea": loss_tea,
            "loss_distill": loss_distill,
            "flow": flow_list[2][:, :2],
            "mask": mask,
            "flow_tea": flow_teacher,
            "merged_tea": merged_teacher,
        }


def laplacian_l1(image: Tensor, target: Tensor, levels: int = 5) -> Tensor:
    """Returns the mean absolute difference of two Laplacian pyramids, summed over the levels.

    Niklaus and Liu, "Context-aware Synthesis for Video Frame Interpolation", CVPR 2018.

    Args:
        image: (B, C, H, W), sides multiples of 2 ** levels and above 2 ** (levels + 1).
        target: As `image`.
        levels: Of the pyramids.
    """
    pairs = zip(_laplacian_pyramid(image, levels), _laplacian_pyramid(target, levels), strict=True)
    return sum(F.l1_loss(a, b) for a, b in pairs)


def _laplacian_pyramid(image: Tensor, levels: int) -> Sequence[Tensor]:
    pyramid = []
    for _ in range(levels):
        smaller = _blur(image)[:, :, ::2, ::2]
        upsampled = torch.zeros_like(image)
        upsampled[:, :, ::2, ::2] = 4 * smaller
        pyramid.append(image - _blur(upsampled))
        image = smaller
    return pyramid


def _blur(image: Tensor) -> Tensor:
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=image.device, dtype=image.dtype) / 16
    channels = image.shape[1]
    kernel = (row[:, None] * row).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(image, (2, 2, 2, 2), "reflect"), kernel, groups=channels)
