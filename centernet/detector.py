"""Detector: a network and a task, the only path from images to detections.

Used by validation, evaluation, prediction and export. Objects as Points, Sec. 4.1: one forward pass, peaks, no
non-maximum suppression; other modes of inference (``centernet.modes``) by option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from centernet.errors import InputError, did_you_mean
from centernet.models.centernet import CenterNet, build_network, network_spec
from centernet.models.fuse import fuse
from centernet.modes import Modes
from centernet.ops.nms import decay_scores
from centernet.ops.tiles import tile_axis
from centernet.structures import Batch, Detections, Outputs
from centernet.tasks import Task, build_task
from centernet.tasks.base import by_score

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

    ``normalization``: a name in ``NORMALIZATIONS``; ``modes``: see ``use``. Forward takes images ``[B, 3, H, W]``, RGB,
    uint8 or float in 0 .. 255, and returns detections ``[B, K, ...]``. Raises ``InputError`` for an unknown
    normalization, or if the strides of network and task differ.
    """

    has_maps: ClassVar[bool] = True
    """Whether ``find`` gives maps besides detections; an exported file does not."""

    def __init__(
        self,
        network: CenterNet,
        task: Task,
        normalization: str = "coco",
        modes: Modes | Mapping[str, Any] | None = None,
    ) -> None:
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
        self.use(modes)
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

    def use(self, modes: Modes | Mapping[str, Any] | None) -> None:
        """Take these modes of inference (``Modes.of``) from now on. Raises ``InputError`` for modes that the task or
        the network does not allow."""
        self.modes = Modes.of(modes)
        divisor = getattr(self.network, "divisor", self.task.stride)
        if self.modes.scales != (1.0,) and not self.task.any_scale:
            raise InputError(
                f"inference.scales does not apply to task {self.task.name}, which tells distances by sizes in the "
                "image; remove it"
            )
        if self.modes.tiles and any(side % divisor for side in self.modes.tiles):
            height, width = self.modes.tiles
            raise InputError(f"inference.tiles=[{height},{width}] must be multiples of {divisor} for this network")

    def find(self, images: Tensor, given: Outputs | None = None) -> Found:
        """All results for inputs of one size, detections in input pixels. ``given``: activated maps that take the place
        of the network's (``Task.oracle``)."""
        count = len(images)
        outputs = self._tiled(torch.cat([images, images.flip(-1)]) if self.modes.flip else images)
        maps, given, mirrored = self.task.activate(outputs[-1]), given or {}, None
        if self.modes.flip:
            if self.task.merges_maps:
                maps = self.task.merge_flipped(maps)
            else:
                maps, mirrored = ({name: value.chunk(2)[n] for name, value in maps.items()} for n in (0, 1))
            outputs = [{name: value[:count] for name, value in stack.items()} for stack in outputs]
        maps = {**maps, **given}
        detections = self.task.decode(maps)
        if mirrored is not None:
            others = self.task.decode({**mirrored, **self.task.mirrored(given)})
            others = self.task.unmirrored(others, images.shape[-1])
            detections = {name: torch.cat([value, others[name]], 1) for name, value in detections.items()}
        return Found(outputs, maps, detections)

    def _tiled(self, images: Tensor) -> list[Outputs]:
        """Raw maps of every stack, put together from tiles if the images are larger than one."""
        size = tuple(images.shape[-2:])
        if self.modes.tiles is None or all(tile >= side for tile, side in zip(self.modes.tiles, size, strict=True)):
            return self.outputs(images)
        divisor, stride = getattr(self.network, "divisor", self.task.stride), self.task.stride
        rows, columns = (
            tile_axis(side, tile, self.modes.overlap, divisor, stride)
            for side, tile in zip(size, self.modes.tiles, strict=True)
        )
        whole: list[Outputs] = []
        for row in rows:
            for column in columns:
                piece = images[..., row.start : row.start + row.size, column.start : column.start + column.size]
                for number, stack in enumerate(self.outputs(piece)):
                    if number == len(whole):
                        cells = (size[0] // stride, size[1] // stride)
                        whole.append({name: value.new_empty(*value.shape[:2], *cells) for name, value in stack.items()})
                    for name, value in stack.items():
                        target, source = (
                            tuple(
                                slice((tile.first - start) // stride, (tile.last - start) // stride)
                                for tile, start in zip((row, column), starts, strict=True)
                            )
                            for starts in ((0, 0), (row.start, column.start))
                        )
                        whole[number][name][:, :, *target] = value[:, :, *source]
        return whole

    def forward(self, images: Tensor) -> Detections:
        return self.find(images).detections

    def find_in_images(self, batch: Batch, given: Outputs | None = None) -> Found:
        """The same for a batch with ``input_from_image`` and the image fields of ``Task.lift``: detections in image
        pixels (3D boxes in camera space), on the device of that matrix.

        With several scales, ``batch["views"]`` has the inputs of all scales but 1, in their order: images and matrices.
        Maps and outputs are those of scale 1.
        """
        found = self.find(batch["image"].to(self.mean.device), given)
        passes = {1.0: self._lifted(found.detections, batch)}
        others = [scale for scale in self.modes.scales if scale != 1]
        for scale, view in zip(others, batch["views"] if others else [], strict=True):
            passes[scale] = self._lifted(self.find(view["image"].to(self.mean.device)).detections, {**batch, **view})
        return found._replace(detections=self._merge([passes[scale] for scale in self.modes.scales]))

    def decode_in_images(self, maps: Outputs, batch: Batch) -> Detections:
        """Detections in image pixels from activated maps of the inputs of a batch."""
        return self._merge([self._lifted(self.task.decode(maps), batch)])

    def _lifted(self, detections: Detections, batch: Batch) -> Detections:
        device = batch["input_from_image"].device
        return self.task.lift({name: value.to(device) for name, value in detections.items()}, batch)

    def _merge(self, passes: Sequence[Detections], most: int | None = None) -> Detections:
        """The detections of several passes over the same images, in image pixels: the ``most`` best (default: as many
        as the task is to find)."""
        most = most or min(passes[0]["scores"].shape[1], self.task.heatmap.max_detections)
        found = {name: torch.cat([each[name] for each in passes], 1) for name in passes[0]}
        if len(passes) > 1 or self.suppression != "none" or (self.modes.flip and not self.task.merges_maps):
            scores = decay_scores(found["boxes"], found["scores"], found["labels"], self.suppression)
            found = by_score({**found, "scores": scores})
        return self.task.settle({name: value[:, :most] for name, value in found.items()})

    @property
    def suppression(self) -> str:
        """The method of suppression that applies to the detections of all passes."""
        return self.modes.nms or self.task.suppression or self.modes.suppression

    def fuse(self) -> Detector:
        """A copy for inference: batch norm folded into convolutions, HarDNet's blocks without concatenations.

        Same outputs up to rounding; see ``centernet.models.fuse``.
        """
        return Detector(fuse(self.network), self.task, self.normalization, self.modes).to(self.mean.device)


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
