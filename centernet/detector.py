"""Detector: a network and a task, the only path from images to detections.

Used by validation, evaluation, prediction and export. Objects as Points, Sec. 4.1: one forward pass, peaks, no
non-maximum suppression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from centernet.errors import InputError, did_you_mean
from centernet.models.centernet import CenterNet, build_network, network_spec
from centernet.models.fuse import fuse
from centernet.structures import Batch, Detections, Outputs
from centernet.tasks import Task, build_task

# Mean and standard deviation of RGB in 0 .. 1. CenterNet uses "coco" for COCO. For KITTI and VOC it applies ImageNet's
# values, in RGB order, to BGR images: their converted weights expect "imagenet_swapped".
NORMALIZATIONS = {
    "coco": ((0.47026115, 0.44719302, 0.40789654), (0.27809835, 0.27408164, 0.28863828)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "imagenet_swapped": ((0.406, 0.456, 0.485), (0.225, 0.224, 0.229)),
}


class Found(NamedTuple):
    """The results of one forward pass."""

    outputs: list[Outputs]  # raw maps of every stack, for the losses
    maps: Outputs  # activated maps of the last stack, source of the detections
    detections: Detections


class Detector(nn.Module):
    """Images in, batched detections in input pixels out.

    ``normalization``: a name in ``NORMALIZATIONS``. Forward takes images ``[B, 3, H, W]``, RGB, uint8 or float in 0 ..
    255, and returns detections ``[B, K, ...]``. Raises ``InputError`` for an unknown normalization, or if the strides
    of network and task differ.
    """

    def __init__(self, network: CenterNet, task: Task, normalization: str = "coco") -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            hint = did_you_mean(str(normalization), NORMALIZATIONS)
            raise InputError(f"normalization={normalization!r} is unknown; {hint}")
        stride = getattr(network, "stride", task.stride)
        if stride != task.stride:
            raise InputError(
                f"the network's stride is {stride} and the task's is {task.stride}; build both with the same stride"
            )
        self.network, self.task, self.normalization = network, task, normalization
        mean, std = NORMALIZATIONS[normalization]
        # Constants, not weights: the checkpoint stores their name.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images in 0 .. 255 for the network, float32 ``[B, 3, H, W]``."""
        return (images.float() - self.mean) / self.std

    def outputs(self, images: Tensor) -> list[Outputs]:
        """Raw maps of every stack."""
        return self.network(self.normalize(images))

    def find(self, images: Tensor) -> Found:
        """All results of one pass, detections in input pixels."""
        outputs = self.outputs(images)
        maps = self.task.activate(outputs[-1])
        return Found(outputs, maps, self.task.decode(maps))

    def forward(self, images: Tensor) -> Detections:
        return self.find(images).detections

    def find_in_images(self, batch: Batch) -> Found:
        """The same for a batch with ``input_from_image`` and the image fields of ``Task.lift``: detections in image
        pixels (3D boxes in camera space), on the device of that matrix."""
        found = self.find(batch["image"].to(self.mean.device))
        device = batch["input_from_image"].device
        detections = {name: value.to(device) for name, value in found.detections.items()}
        return found._replace(detections=self.task.lift(detections, batch))

    def fuse(self) -> Detector:
        """A copy for inference: batch norm folded into convolutions, HarDNet's blocks without concatenations.

        Same outputs up to rounding; see ``centernet.models.fuse``.
        """
        return Detector(fuse(self.network), self.task, self.normalization).to(self.mean.device)


def build_detector(
    task: str,
    class_names: Sequence[str] | int,
    backbone: str | Mapping[str, Any],
    pretrained: bool | str = False,
    normalization: str = "coco",
    task_options: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Detector:
    """A detector from plain data: the task for these classes (names or their number), then a network with its heads."""
    count = class_names if isinstance(class_names, int) else len(class_names)
    made = build_task(task, count, facts, **(task_options or {}))
    network = build_network(network_spec(backbone), made.heads, pretrained).to(memory_format=torch.channels_last)
    return Detector(network, made, normalization)
