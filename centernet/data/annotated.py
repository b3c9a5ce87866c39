"""Data sets of boxes, perhaps with masks and joints, whatever the format of their files.

A format is read into COCO's three lists (images, annotations, categories), which are checked once
(``centernet.data.coco_format``), so that the same objects give the same samples in every format.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from centernet.data.cache import Content
from centernet.data.datamodule import CenterNetDataModule, ImageDataset
from centernet.data.division import Part
from centernet.data.extremes import KEY
from centernet.data.masks import Masks
from centernet.joints import JointSet
from centernet.structures import InputError, Objects

log = logging.getLogger(__name__)


class AnnotatedDataset(ImageDataset):
    """Images and what ``content`` says of them (``coco_format.read_annotations``).

    ``files``: the paths of its images; ``source``: what messages call the annotations; ``masks``: whether the content
    has them. Other arguments: ``ImageDataset``.

    Attributes: ``class_names``, ``category_ids`` (by label), ``image_ids`` (as the files have them), ``joints``, the
    ``JointSet`` of data with keypoints, ``notes`` (what was dropped, one sentence each).
    """

    results = "detections.json (COCO results)"
    joints: JointSet | None = None

    def __init__(
        self,
        content: Content,
        files: Sequence[str | Path],
        source: str | Path,
        pipeline: Callable[..., Any],
        train: bool = False,
        on_bad_image: str = "error",
        seed: int = 0,
        masks: bool = False,
    ) -> None:
        found, arrays = content
        self.source = source
        self.class_names, self.category_ids, self.image_ids = (
            found[name] for name in ("class_names", "category_ids", "image_ids")
        )
        self.notes = [f"{source}: {note}" for note in found["notes"]]
        self._joint_places = dict(found["joint_places"])
        if found["joints"] is not None:
            self.joints = JointSet.of(found["joints"])
        self.nothing_to_learn = f"{source} has no annotations to learn from"
        # Tensors hold integers: if the ids are not integers, positions replace them.
        self._numeric = all(isinstance(image_id, int) for image_id in self.image_ids)
        super().__init__(
            files=files,
            image_ids=self.image_ids if self._numeric else range(len(self.image_ids)),
            fields=arrays["fields"],
            offsets=arrays["images"]["offsets"],
            pipeline=pipeline,
            train=train,
            on_bad_image=on_bad_image,
            seed=seed,
            sizes=arrays["images"]["sizes"],
        )
        if masks:
            self.masks = Masks(**arrays["masks"])

    @property
    def facts(self) -> dict[str, Any]:
        if self.joints is None:
            return {}
        places = self._joint_places
        jointless = [label for label, category in enumerate(self.category_ids) if places and not places.get(category)]
        return {"joints": self.joints.plain()} | ({"jointless": jointless} if jointless else {})

    def describe(self) -> list[str]:
        if self.joints is None:
            return super().describe()
        names = self.joints.names
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        pairs = len(self.joints.flip_pairs)
        return [*super().describe(), f"{len(names)} joints ({shown}), {pairs} left-right pairs"]

    def write_results(self, folder: Path, detections: Mapping[int, Objects]) -> None:
        """Write detections (image space, by image id) as COCO results."""
        rows = [row for image_id, found in detections.items() for row in self.result_rows(image_id, found)]
        (folder / "detections.json").write_text(json.dumps(rows))

    def original_id(self, image_id: int) -> Any:
        """The id that the files have for an image."""
        return image_id if self._numeric else self.image_ids[image_id]

    def result_rows(self, image_id: int, detections: Objects) -> list[dict[str, Any]]:
        """Detections of one image (image space) as rows of COCO's result format."""
        original = self.original_id(image_id)
        boxes = detections["boxes"].double().tolist()
        rows = [
            {
                "image_id": original,
                "category_id": self.category_ids[label],
                "bbox": [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)],
                "score": round(score, 5),
            }
            for (x1, y1, x2, y2), label, score in zip(
                boxes, detections["labels"].tolist(), detections["scores"].tolist(), strict=True
            )
        ]
        if "joints" in detections:
            for row, joints in zip(rows, detections["joints"].double().tolist(), strict=True):
                # A result lists the joints of its category; the third number is 1, as in the original.
                named = [joints[place] for place in self._joint_places.get(row["category_id"]) or range(len(joints))]
                row["keypoints"] = [value for x, y in named for value in (round(x, 2), round(y, 2), 1.0)]
        if KEY in detections:
            for row, points in zip(rows, detections[KEY].double().tolist(), strict=True):
                row[KEY] = [[round(x, 2), round(y, 2)] for x, y in points]
        return rows


class AnnotatedDataModule(CenterNetDataModule):
    """Base of the data modules of such data.

    ``joints``: completes or overrides what the files say of joints (``JointSet.of``). ``val_share``: the share of the
    images to hold out for validation, where the data is not divided (``centernet.data.division``). Other options:
    ``CenterNetDataModule``.
    """

    def __init__(self, joints: Mapping[str, Any] | None = None, val_share: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        if val_share is not None and not 0 < val_share < 1:
            raise InputError(
                f"data.val_share={val_share} is not a share; give a number above 0 and below 1, such as 0.2"
            )
        self.joints, self.val_share = joints, val_share

    @property
    def needs_masks(self) -> bool:
        """Whether the augmentation of training images uses masks."""
        return self.visible_boxes or self.shares.copy_paste > 0

    def part(self, split: str) -> Part | None:
        """Which images of undivided data a split takes; None for data that is divided."""
        return None if self.val_share is None else Part(self.val_share, split)

    def options_of(self, train: bool) -> dict[str, Any]:
        """Options of a data set that follow from those of the module."""
        return {
            "class_names": self.class_names,
            "train": train,
            "on_bad_image": self.on_bad_image if train else "error",
            "seed": self.seed,
            "masks": train and self.needs_masks,
            "joints": self.joints,
            "extreme_points": self.extreme_points,
        }

    def _add(self, role: str, split: str, pipeline: Callable[..., Any], train: bool) -> None:
        super()._add(role, split, pipeline, train)
        if role == "val" and self.val_share is not None and split == "val":
            log.info(
                f"{len(self.datasets[role])} images of {self.datasets[role].source} are held out for validation "
                f"(data.val_share={self.val_share}): always the same ones, of every class about this share"
            )
