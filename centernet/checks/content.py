"""The annotations of a split as flat arrays, whatever their format, and the boxes of a json as it has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from centernet.data.coco import CocoDataset
from centernet.data.coco_format import load_json
from centernet.data.datamodule import ImageDataset
from centernet.data.warps import EvalWarp


class Raw(NamedTuple):
    """Boxes ``[R, 4]`` of a COCO json as they are written, and the image (position) of each ``[R]``."""

    boxes: np.ndarray
    image: np.ndarray


class Split(NamedTuple):
    """One split. ``files [N]``; ``sizes [N, 2]`` (height, width), 0 where unknown; of M objects: ``boxes [M, 4]`` (x1,
    y1, x2, y2 in image pixels), ``labels``, ``crowd`` and ``image`` (position) ``[M]``."""

    name: str
    source: str
    files: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    image: np.ndarray
    class_names: Sequence[str]
    notes: Sequence[str]
    raw: Raw | None

    @property
    def is_object(self) -> np.ndarray:
        """bool ``[M]``: neither a crowd nor a region ignored for every class."""
        return ~self.crowd & (self.labels >= 0)

    @property
    def counts(self) -> np.ndarray:
        """Objects of each class."""
        return np.bincount(self.labels[self.is_object], minlength=len(self.class_names))

    @property
    def per_image(self) -> np.ndarray:
        """Objects of each image."""
        return np.bincount(self.image[self.is_object], minlength=len(self.files))


class Grid(NamedTuple):
    """How images become inputs, and inputs grids: the warp of evaluation, cells of ``stride`` input pixels, and the
    number of detections per image that the task keeps."""

    warp: EvalWarp
    stride: int
    detections: int

    def resized(self, size: tuple[int, int]) -> Grid:
        """The same for inputs of another (height, width)."""
        return self._replace(warp=EvalWarp(size, self.warp.mode, self.warp.divisor))


def split_of(name: str, dataset: ImageDataset) -> Split:
    """The arrays of a data set. The json of one in COCO's format is read again, for what its reader drops."""
    count = np.diff(dataset.offsets.numpy())
    fields = {key: dataset.fields[key].numpy() for key in ("boxes", "labels", "crowd")}
    source = getattr(dataset, "source", name)
    return Split(
        name,
        str(source),
        dataset.files,
        dataset.sizes,
        fields["boxes"].astype(np.float64),
        fields["labels"],
        fields["crowd"].astype(bool),
        np.repeat(np.arange(len(count)), count),
        dataset.class_names,
        dataset.notes,
        _raw(dataset) if isinstance(dataset, CocoDataset) else None,
    )


def _raw(dataset: CocoDataset) -> Raw:
    path = Path(dataset.source)
    content: dict[str, Any] = load_json(path.read_bytes(), path, masks=False)
    # The json may have more images than the split.
    position = {dataset.original_id(image_id): n for n, image_id in enumerate(dataset.ids.tolist())}
    rows = [row for row in content["annotations"] if row["image_id"] in position]
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    return Raw(boxes, np.array([position[row["image_id"]] for row in rows], np.int64))


def input_boxes(split: Split, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Boxes ``[M, 4]`` of a split in input pixels, and whether they are known ``[M]``, as their images' sizes are."""
    unique, which = np.unique(split.sizes, axis=0, return_inverse=True)
    is_known = unique.all(1)
    matrices = np.array(
        [
            grid.warp.matrix(tuple(size)) if known else np.eye(3)
            for size, known in zip(unique.tolist(), is_known, strict=True)
        ]
    ).reshape(-1, 3, 3)
    which = which.reshape(-1)[split.image]  # numpy 2.0 kept the axis
    matrix = matrices[which]
    scale, shift = matrix[:, [0, 1], [0, 1]], matrix[:, :2, 2]  # no warp of evaluation turns
    corners = split.boxes.reshape(-1, 2, 2) * scale[:, None] + shift[:, None]
    return corners.reshape(-1, 4), is_known[which]
