"""Detector: network and task in one, the only way from images to detections.

Validation, evaluation, prediction and export call it. Objects as Points, Sec. 4.1: one forward pass, peaks, no
non-maximum suppression.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from centernet.errors import InputError, did_you_mean
from centernet.models.centernet import CenterNet
from centernet.models.fuse import fuse
from centernet.structures import Batch, Detections, Outputs
from centernet.tasks.base import Task

# Mean and standard deviation of RGB in 0 .. 1. "coco" is what CenterNet trains with on COCO. On KITTI and VOC it gives
# ImageNet's values, which are in RGB order, to BGR images: what their converted weights expect is "imagenet_swapped".
NORMALIZATIONS = {
    "coco": ((0.47026115, 0.44719302, 0.40789654), (0.27809835, 0.27408164, 0.28863828)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "imagenet_swapped": ((0.406, 0.456, 0.485), (0.225, 0.224, 0.229)),
}


class Found(NamedTuple):
    """What one pass of the detector gives."""

    outputs: list[Outputs]  # raw maps of every stack: what losses are computed from
    maps: Outputs  # activated maps of the last stack: what detections are read from
    detections: Detections


class Detector(nn.Module):
    """Images in, batched detections in input pixels out.

    ``normalization``: a name of ``NORMALIZATIONS``. Forward takes images ``[B, 3, H, W]``, RGB, uint8 or float in 0 ..
    255. Raises ``InputError`` for an unknown normalization, or a network whose stride is not the task's.
    """

    def __init__(self, network: CenterNet, task: Task, normalization: str = "coco") -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            hint = did_you_mean(str(normalization), NORMALIZATIONS)
            raise InputError(f"normalization={normalization!r} is unknown; {hint}")
        stride = getattr(network, "stride", task.stride)
        if stride != task.stride:
            raise InputError(f"the network's stride is {stride}, the task's {task.stride}; they must agree")
        self.network, self.task, self.normalization = network, task, normalization
        mean, std = NORMALIZATIONS[normalization]
        # Constants, not weights: they follow from the name that the checkpoint stores.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Images in 0 .. 255 to what the network takes, float32 ``[B, 3, H, W]``."""
        return (images.float() - self.mean) / self.std

    def outputs(self, images: Tensor) -> list[Outputs]:
        """Raw maps of every stack."""
        return self.network(self.normalize(images))

    def find(self, images: Tensor) -> Found:
        """Everything that one pass gives, detections in input pixels."""
        outputs = self.outputs(images)
        maps = self.task.activate(outputs[-1])
        return Found(outputs, maps, self.task.decode(maps))

    def forward(self, images: Tensor) -> Detections:
        return self.find(images).detections

    def find_in_images(self, batch: Batch) -> Found:
        """The same for a batch with ``input_from_image`` and what else ``Task.lift`` needs: detections in image pixels,
        on the device of that matrix."""
        found = self.find(batch["image"].to(self.mean.device))
        device = batch["input_from_image"].device
        detections = {name: value.to(device) for name, value in found.detections.items()}
        return found._replace(detections=self.task.lift(detections, batch))

    def fuse(self) -> Detector:
        """A copy for inference: batch norm folded into convolutions, HarDNet's blocks without concatenations.

        Same outputs up to rounding; see ``centernet.models.fuse``.
        """
        return Detector(fuse(self.network), self.task, self.normalization).to(self.mean.device)
