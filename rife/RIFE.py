"""Model: the paper's manager of a network, to load, save, infer and train with.

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
    """Holds IFNet, or with `arbitrary` IFNet_m, for any timestep.

    device: None is the best at hand.
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
        """Load weights from a file, or from `flownet.pkl` in a folder.

        Raises CheckpointError if they are not of this network. A file without the teacher leaves
        the one that is here.
        """
        load_weights(self.flownet, read_state_dict(path), Path(path))

    def save_model(self, path: str | os.PathLike) -> None:
        """Save the weights, teacher included, to a file, or to `flownet.pkl` in a folder."""
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
        """The frame between two, (B, 3, H, W) in [0, 1], sides multiples of 32 / min(scale, 1).

        scale: divides the blocks' scale factors, so that 0.5 estimates flow at half the resolution.
        TTA: average with the pass over the frames turned by 180 degrees.
        timestep: for IFNet_m; IFNet makes the midpoint.
        """
        pair = torch.cat((img0, img1), 1)
        scales = [s / scale for s in self.flownet.scales]
        frame = self.flownet(pair, scales, timestep)[2][2]
        if TTA:
            turned = self.flownet(pair.flip(2, 3), scales, timestep)[2][2]
            frame = (frame + turned.flip(2, 3)) / 2
        return frame

    def update(
        self, imgs: Tensor, gt: Tensor, learning_rate: float, training: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of training: `imgs` (B, 6, H, W), the pair; `gt` (B, 3, H, W), the true frame.

        Laplacian-pyramid L1 of student and teacher, and 0.01 x distillation, stepped by AdamW.
        training False computes the same without a step. Returns the student's frame and a dict:
        `loss_l1`, `loss_tea`, `loss_distill`; `flow` (B, 2, H, W), to the first frame, and `mask`;
        `flow_tea` (B, 4, H, W) and `merged_tea`, the teacher's.
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
    """Mean absolute difference of two images' Laplacian pyramids, summed over the levels.

    image, target: (B, C, H, W), sides multiples of 2 ** levels and above 2 ** (levels + 1).
    Niklaus and Liu, "Context-aware Synthesis for Video Frame Interpolation", CVPR 2018.
    """
    pairs = zip(_laplacian(image, levels), _laplacian(target, levels), strict=True)
    return sum(F.l1_loss(a, b) for a, b in pairs)


def _laplacian(image: Tensor, levels: int) -> Sequence[Tensor]:
    pyramid = []
    for _ in range(levels):
        smaller = _blur(image)[:, :, ::2, ::2]
        spread = torch.zeros_like(image)
        spread[:, :, ::2, ::2] = 4 * smaller
        pyramid.append(image - _blur(spread))
        image = smaller
    return pyramid


def _blur(image: Tensor) -> Tensor:
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=image.device, dtype=image.dtype) / 16
    channels = image.shape[1]
    kernel = (row[:, None] * row).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(image, (2, 2, 2, 2), "reflect"), kernel, groups=channels)
