"""Data structures shared by data, tasks, networks and metrics.

Spaces: image (pixels of the file), input (pixels of the network's input), grid (cells of the output map),
camera (meters). Matrices are destination-from-source. Points are (x, y), boxes (x1, y1, x2, y2), sizes (height, width).
Convention: the center of the first pixel is at (0, 0), as in ``cv2.warpAffine`` and in the original implementation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from torch import Tensor

from centernet.errors import InputError, NonFiniteLossError

__all__ = [
    "HEATMAP_BIAS", "AtCells", "Batch", "DenseMap", "Detections", "Head", "InputError", "NonFiniteLossError", "Objects",
    "Outputs", "Rows", "Sample", "Target", "Targets",
]  # fmt: skip


Objects = dict[str, Tensor]
"""Ground truth of one image ``[M, ...]``, or of a batch ``[B, M, ...]`` padded with ``valid = False``.

``boxes``, ``labels``, ``crowd`` and ``area`` are always there; ``centernet.fields`` lists all other fields. A task
declares the fields that it needs.
"""

Detections = dict[str, Tensor]
"""Detections ``[B, K, ...]`` of a batch, or ``[K, ...]`` of one image, by decreasing score.

Always ``boxes``, ``scores`` and ``labels``, plus other fields of the task; see ``centernet.fields``.
"""

Rows = Objects | Detections


class Sample(TypedDict):
    """One training or evaluation image, with the image fields (``centernet.fields``) of its data."""

    image: Tensor  # uint8 [3, H, W] RGB
    input_from_image: Tensor  # float64 [3, 3]
    image_id: int
    image_size: Tensor  # int64 [2] (height, width) of the file
    objects: Objects  # input space, to encode targets
    truth: Objects  # image space, to evaluate (empty in training)
    views: NotRequired[list[tuple[Tensor, Tensor]]]  # image and input_from_image at other scales
    plan: NotRequired[Any]  # how it is combined with others of its batch (``centernet.data.combine.Plan``)


class Batch(TypedDict):
    """Stacked samples; ``objects`` and ``truth`` are padded to the largest count of the batch. Image fields
    (``centernet.fields``) are stacked beside them. ``views``, at test time with several scales: image and matrix of the
    others."""

    image: Tensor  # uint8 [B, 3, H, W]
    input_from_image: Tensor  # float64 [B, 3, 3]
    image_id: Tensor  # int64 [B]
    image_size: Tensor  # int64 [B, 2]
    objects: Objects
    truth: Objects
    views: NotRequired[list[dict[str, Tensor]]]


HEATMAP_BIAS = -2.19
"""Logit of 0.1: every cell starts as a peak of probability 0.1, as in the focal-loss paper (arXiv:1708.02002, Sec.
4.1)."""


@dataclass(frozen=True)
class Head:
    """One output map of the network and its supervision.

    ``loss`` names an entry of ``centernet.losses.LOSSES``; ``weight`` is its share of the total; ``bias`` initializes
    the last convolution: ``HEATMAP_BIAS`` for heatmaps. ``per_class``: the channels are the classes in their order,
    equally many for each.
    """

    channels: int
    loss: str
    weight: float = 1.0
    bias: float = 0.0
    per_class: bool = False

    @property
    def is_heatmap(self) -> bool:
        """Whether the map holds peaks (as opposed to regressed values)."""
        return self.loss in ("focal", "mse")


@dataclass
class DenseMap:
    """A target for every cell: ``value [B, C, H, W]`` and an optional ``weight`` of the same shape."""

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
