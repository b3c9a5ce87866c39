"""COCO-format data: a json with images, annotations and categories, and a folder of images.

Format of cocodataset.org (instances and keypoints). Category ids may have gaps, images may have no annotations, and
crowds become ignore regions. Annotations are stored in flat arrays with offsets, which workers share without copying.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from centernet.data.coco_format import read_annotations, require_images
from centernet.data.coco_layout import Found, find_split, folder_of, image_folders
from centernet.data.datamodule import CenterNetDataModule, ImageDataset
from centernet.data.extremes import KEY, require_way
from centernet.data.masks import Masks
from centernet.joints import JointSet
from centernet.structures import InputError, Objects

log = logging.getLogger(__name__)


class CocoDataset(ImageDataset):
    """Images and boxes of one COCO json.

    ``annotations``: path of the json; ``images``: the folder that its ``file_name`` entries are relative to, or several
    that may be it; ``class_names`` sets the order of the classes (default: by category id); ``masks``: keep the
    segmentations, for augmentations that rebuild truncated boxes from them or cut objects out; ``extreme_points``: give
    objects this field (``centernet.data.extremes``), from what annotations say or else from their ``masks``, or, where
    they have none, ``boxes``. Raises ``InputError``, naming the entry, for anything wrong with the files.

    If categories or annotations have keypoints, objects get the field ``joints``, and the attribute ``joints`` is their
    ``JointSet``: the names of all categories in order of first appearance; a joint that a category lacks is never
    labeled. The argument ``joints`` (see ``JointSet.of``) overrides or completes the json.

    Attributes: ``class_names``, ``category_ids`` (by label), ``image_ids`` (as in the json), ``notes`` (what was
    dropped, one sentence each).
    """

    results = "detections.json (COCO results)"
    joints: JointSet | None = None

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | Sequence[Path],
        pipeline: Callable[..., Any],
        class_names: Sequence[str] | None = None,
        train: bool = False,
        on_bad_image: str = "error",
        seed: int = 0,
        masks: bool = False,
        joints: Mapping[str, Any] | None = None,
        extreme_points: str | None = None,
    ) -> None:
        self.source = Path(annotations)
        folders = [Path(images)] if isinstance(images, (str, Path)) else list(images)
        found, arrays = read_annotations(self.source, class_names, joints, masks, require_way(extreme_points))
        self.class_names, self.category_ids, self.image_ids = (
            found[name] for name in ("class_names", "category_ids", "image_ids")
        )
        self.notes = [f"{self.source}: {note}" for note in found["notes"]]
        self._joint_places = dict(found["joint_places"])
        if found["joints"] is not None:
            self.joints = JointSet.of(found["joints"])
        self.folder = folder_of(found["files"], folders)
        others = [folder for folder in folders if folder != self.folder]
        require_images(found["files"], self.folder, self.source, others)
        self.nothing_to_learn = f"{self.source} has no annotations to learn from"
        # Tensors hold integers: if the json's ids are not integers, positions replace them.
        self._numeric = all(isinstance(image_id, int) for image_id in self.image_ids)
        super().__init__(
            files=[os.path.join(self.folder, name) for name in found["files"]],
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

    def result_rows(self, image_id: int, detections: Objects) -> list[dict[str, Any]]:
        """Detections of one image (image space) as rows of COCO's result format."""
        original = image_id if self._numeric else self.image_ids[image_id]
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


class CocoDataModule(CenterNetDataModule):
    """Train and val splits in COCO format.

    ``root`` holds both in one of the usual layouts (``centernet.data.coco_layout``: COCO's own, Roboflow's, ...); or
    pass the four paths (relative to ``root`` or absolute). ``prefix``: which of COCO's files, ``instances`` or
    ``person_keypoints``; ``joints``: see ``CocoDataset``. Other options: ``CenterNetDataModule``.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        train_annotations: str | Path | None = None,
        train_images: str | Path | None = None,
        val_annotations: str | Path | None = None,
        val_images: str | Path | None = None,
        prefix: str = "instances",
        joints: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.prefix, self.joints = prefix, joints
        self.root = None if root is None else Path(root)
        self.paths = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> CocoDataset:
        annotations, images, name = self.locate(split)
        dataset = CocoDataset(
            annotations,
            images,
            pipeline,
            class_names=self.class_names,
            train=train,
            on_bad_image=self.on_bad_image if train else "error",
            seed=self.seed,
            masks=train and (self.visible_boxes or self.shares.copy_paste > 0),
            joints=self.joints,
            extreme_points=self.extreme_points,
        )
        if split == "val" and name == "test":
            dataset.notes.append(
                f"{self.root} has a test split and none for validation, so {annotations} also chooses the best "
                "checkpoint; keep other images for an unbiased test"
            )
        return dataset

    def locate(self, split: str) -> Found:
        """The json of a split and the folders that may hold its images. Raises ``InputError`` with the paths that were
        tried."""
        annotations, images = self.paths[split]
        root = self.root
        if root is None and annotations is None:
            raise InputError(
                "no data given; set data.root=DIR, or set data.train_annotations, data.train_images, "
                "data.val_annotations and data.val_images"
            )
        if root is not None and not root.is_dir():
            raise InputError(f"data.root={root} is not an existing folder; give the folder that holds the data")
        base = root or Path()
        if annotations is None:
            found = find_split(base, split, self.prefix)
        else:
            path = base / annotations
            if not path.is_file():
                raise InputError(f"{split} annotations {path} do not exist; set data.{split}_annotations=FILE.json")
            found = Found(path, [*image_folders(base, split), path.parent], split)
        if images is not None:
            found = found._replace(images=[base / images])
            if not found.images[0].is_dir():
                raise InputError(
                    f"{split} image folder {found.images[0]} does not exist; set data.{split}_images=FOLDER"
                )
        return found
