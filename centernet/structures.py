"""The vocabulary: what travels between data, tasks, networks and metrics.

Spaces: image (pixels of the file), input (pixels of the network's input), grid (cells of the output map),
camera (metres). Matrices are destination-from-source. Points are (x, y), boxes (x1, y1, x2, y2), sizes (height, width).
Convention: the centre of the first pixel is at (0, 0), as in ``cv2.warpAffine`` and in the original implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from centernet.errors import InputError, NonFiniteLossError

__all__ = [
    "HEATMAP_BIAS", "AtCells", "Batch", "DenseMap", "Detections", "Head", "InputError", "NonFiniteLossError", "Objects",
    "Outputs", "Sample", "Target", "Targets", "empty_objects", "index", "stack_objects", "unbatch", "unstack_objects",
]  # fmt: skip


class Objects(TypedDict, total=False):
    """Ground truth of one image ``[M, ...]``, or of a batch ``[B, M, ...]`` padded with ``valid = False``.

    More fields (joints, dimensions, ...) may be there; a task says in ``requires`` which ones it needs.
    """

    boxes: Tensor  # float [.., M, 4] xyxy
    labels: Tensor  # int64 [.., M] contiguous, 0 .. num_classes - 1
    crowd: Tensor  # bool [.., M] an ignore region, not an object
    area: Tensor  # float [.., M] pixels of the object's mask in the image, what COCO sorts small / medium / large by
    valid: Tensor  # bool [B, M] only in a batch: False where a row is padding


class Sample(TypedDict):
    """One image on its way to the network."""

    image: Tensor  # uint8 [3, H, W] RGB
    input_from_image: Tensor  # float64 [3, 3]
    image_id: int
    image_size: Tensor  # int64 [2] (height, width) of the file
    objects: Objects  # in input space: what is encoded
    truth: Objects  # in image space: what is evaluated (empty while training)
    mosaic: NotRequired[tuple[int, int] | None]  # where four images meet, if this one becomes a mosaic (x, y)


class Batch(TypedDict):
    """Stacked samples; ``objects`` and ``truth`` are padded to the largest count of the batch."""

    image: Tensor  # uint8 [B, 3, H, W]
    input_from_image: Tensor  # float64 [B, 3, 3]
    image_id: Tensor  # int64 [B]
    image_size: Tensor  # int64 [B, 2]
    objects: Objects
    truth: Objects


class Detections(TypedDict, total=False):
    """Detections ``[B, K, ...]`` of a batch, or ``[K, ...]`` of one image, sorted by falling score."""

    boxes: Tensor  # float [.., K, 4] xyxy
    scores: Tensor  # float [.., K]
    labels: Tensor  # int64 [.., K]


HEATMAP_BIAS = -2.19
"""Logit of 0.1: every cell starts as a peak of probability 0.1, as in the focal-loss paper (arXiv:1708.02002, Sec.
4.1)."""


@dataclass(frozen=True)
class Head:
    """One output map: what the network emits and how it is supervised.

    ``loss`` names an entry of ``centernet.losses.LOSSES``; ``weight`` is its share of the total; ``bias`` is what the
    last convolution starts from: ``HEATMAP_BIAS`` for heatmaps.
    """

    channels: int
    loss: str
    weight: float = 1.0
    bias: float = 0.0

    @property
    def is_heatmap(self) -> bool:
        """Whether the map holds logits of peaks (as opposed to regressed values)."""
        return self.loss in ("focal", "mse")


@dataclass
class DenseMap:
    """A target for every cell: ``value [B, C, H, W]`` and, where cells count differently, ``weight`` of that shape."""

    value: Tensor
    weight: Tensor | None = None


@dataclass
class AtCells:
    """A target at single cells.

    ``cell [B, M]`` flat index ``y * width + x``; ``value [B, M, C]``; ``mask`` bool or 0/1, ``[B, M]`` (whole rows) or
    ``[B, M, C]`` (single elements).
    """

    cell: Tensor
    value: Tensor
    mask: Tensor


Target = DenseMap | AtCells
Targets = dict[str, Target]
Outputs = dict[str, Tensor]


def empty_objects() -> Objects:
    """Ground truth of an image without objects."""
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.long),
        "crowd": torch.zeros(0, dtype=torch.bool),
        "area": torch.zeros(0),
    }


def index(rows: Any, keep: Tensor) -> Any:
    """Select rows of every field of an ``Objects`` or ``Detections`` of one image."""
    return {name: value[keep] for name, value in rows.items()}


def stack_objects(items: Sequence[Objects]) -> Objects:
    """Pad the objects of several images to the largest count and stack them, with ``valid`` marking the real rows."""
    most = max((len(item["labels"]) for item in items), default=0)
    batch: dict[str, Tensor] = {}
    for name in items[0]:
        first = items[0][name]
        out = first.new_zeros((len(items), most, *first.shape[1:]))
        for row, item in enumerate(items):
            out[row, : len(item[name])] = item[name]
        batch[name] = out
    batch["valid"] = torch.zeros(len(items), most, dtype=torch.bool)
    for row, item in enumerate(items):
        batch["valid"][row, : len(item["labels"])] = True
    return batch  # type: ignore[return-value]


def unstack_objects(batch: Objects) -> Iterator[Objects]:
    """The objects of each image of a batch, without padding and without ``valid``."""
    for row in range(len(batch["valid"])):
        keep = batch["valid"][row]
        yield {name: value[row][keep] for name, value in batch.items() if name != "valid"}  # type: ignore[misc]


def unbatch(detections: Detections, threshold: float = 0.0) -> list[Detections]:
    """Split detections by image and drop those with a score below ``threshold``."""
    return [
        index({name: value[row] for name, value in detections.items()}, detections["scores"][row] >= threshold)
        for row in range(len(detections["scores"]))
    ]
