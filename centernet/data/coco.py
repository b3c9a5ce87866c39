"""COCO-format data: a json with images, annotations and categories, and a folder of images.

Format of cocodataset.org (instances and keypoints). Category ids may have gaps, images may have no annotations, and
crowds become ignore regions. Annotations are stored in flat arrays with offsets, which workers share without copying.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from centernet.data.coco_format import field_of, load_json, read_classes, read_joint_set, require_images
from centernet.data.datamodule import CenterNetDataModule, ImageDataset
from centernet.data.masks import Masks
from centernet.fields import FIELDS
from centernet.joints import JointSet
from centernet.structures import InputError, Objects

log = logging.getLogger(__name__)

# Where to look for the json and the images of a split: {split} is train or val, {prefix} is instances or
# person_keypoints. The first match wins.
LAYOUTS = (
    ("annotations/{prefix}_{split}2017.json", ("{split}2017", "images/{split}2017")),
    ("annotations/{prefix}_{split}.json", ("{split}", "images/{split}", "images")),
    ("annotations/{split}.json", ("{split}", "images/{split}", "images")),
    ("{split}/_annotations.coco.json", ("{split}",)),
    ("{split}.json", ("{split}", "images/{split}", "images")),
)


class CocoDataset(ImageDataset):
    """Images and boxes of one COCO json.

    ``annotations``: path of the json; ``images``: the folder that its ``file_name`` entries are relative to;
    ``class_names`` sets the order of the classes (default: by category id); ``masks``: keep the segmentations, for
    augmentations that rebuild truncated boxes from them. Raises ``InputError``, naming the entry, for anything wrong
    with the files.

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
        images: str | Path,
        pipeline: Callable[..., Any],
        class_names: Sequence[str] | None = None,
        train: bool = False,
        on_bad_image: str = "error",
        seed: int = 0,
        masks: bool = False,
        joints: Mapping[str, Any] | None = None,
    ) -> None:
        content = load_json(Path(annotations))
        self.source, self.folder = Path(annotations), Path(images)
        self.notes: list[str] = []
        try:
            self.joints, self._joint_places = read_joint_set(content, self.source, joints)
            if self.joints is not None and len(self.joints.names) > 1 and not self.joints.flip_pairs:
                self.notes.append(
                    f"{self.source}: none of the {len(self.joints.names)} joints has a left-right pair, so flipped "
                    f"images keep their names; set data.joints={{flip_pairs: [[NAME, NAME], ...]}} to pair them"
                )
            files, sizes, fields, offsets, segmentations = self._read_content(content, class_names)
        except InputError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.source} is not in COCO format ({error}); see cocodataset.org for the format"
            ) from error
        super().__init__(
            files=files,
            image_ids=self.image_ids if self._numeric else range(len(files)),
            fields=fields,
            offsets=offsets,
            pipeline=pipeline,
            train=train,
            on_bad_image=on_bad_image,
            seed=seed,
        )
        if masks:
            owners = np.repeat(np.arange(len(sizes)), np.diff(offsets))
            self.masks = Masks(segmentations, [sizes[image] for image in owners])

    @property
    def facts(self) -> dict[str, Any]:
        return {} if self.joints is None else {"joints": self.joints.plain()}

    def describe(self) -> list[str]:
        if self.joints is None:
            return super().describe()
        names = self.joints.names
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        pairs = len(self.joints.flip_pairs)
        return [*super().describe(), f"{len(names)} joints ({shown}), {pairs} left-right pairs"]

    def _read_content(
        self, content: Mapping[str, Any], class_names: Sequence[str] | None
    ) -> tuple[list[Path], list[tuple[int, int]], dict[str, np.ndarray], np.ndarray, list[Any]]:
        """Files, sizes, flat fields, offsets and segmentations of a json; sets classes and image ids."""
        self.class_names, self.category_ids = read_classes(content, self.source, class_names)
        entries = content["images"]
        self.image_ids = [field_of(entry, "id", "image", self.source) for entry in entries]
        position = {image_id: n for n, image_id in enumerate(self.image_ids)}
        if len(position) < len(entries):
            twice = next(i for n, i in enumerate(self.image_ids) if position[i] != n)
            raise InputError(f"{self.source}: image id {twice!r} appears twice; give every image a unique id")
        # Tensors hold integers: if the json's ids are not integers, positions replace them.
        self._numeric = all(isinstance(image_id, int) for image_id in self.image_ids)
        names = [str(field_of(entry, "file_name", "image", self.source)) for entry in entries]
        require_images(names, self.folder, self.source)
        sizes = [(int(entry.get("height") or 0), int(entry.get("width") or 0)) for entry in entries]
        return [self.folder / name for name in names], sizes, *self._collect(content["annotations"], position, sizes)

    def _collect(
        self, annotations: Sequence[Mapping[str, Any]], position: Mapping[Any, int], sizes: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, np.ndarray], np.ndarray, list[Any]]:
        """Flat fields sorted by image, the offsets ``[images + 1]`` of each image's rows, and their segmentations."""
        label_of = {category: label for label, category in enumerate(self.category_ids)}
        rows: list[tuple[Any, ...]] = []
        empty = outside = beyond = 0
        for annotation in annotations:
            where = f"{self.source}: annotation {annotation.get('id', '(without id)')}"
            image = position.get(field_of(annotation, "image_id", "annotation", self.source))
            if image is None:
                raise InputError(
                    f"{where} refers to image {annotation['image_id']!r}, which is not in the json's images; add the "
                    "image or remove the annotation"
                )
            label = label_of.get(field_of(annotation, "category_id", "annotation", self.source))
            if label is None:
                raise InputError(
                    f"{where} refers to category {annotation['category_id']!r}, which is not in the json's categories; "
                    "add the category or remove the annotation"
                )
            box = annotation.get("bbox")
            try:
                x, y, width, height = (float(v) for v in box)
            except (TypeError, ValueError):
                raise InputError(f"{where} has bbox {box!r}; COCO requires [x, y, width, height]") from None
            if not (width > 0 and height > 0 and np.isfinite([x, y, width, height]).all()):
                empty += 1
                continue
            image_height, image_width = sizes[image]
            if image_width and (x >= image_width or y >= image_height or x + width <= 0 or y + height <= 0):
                outside += 1
                continue
            beyond += bool(image_width and (x + width > image_width + 1 or y + height > image_height + 1))
            area = float(annotation.get("area") or width * height)
            corners = [x, y, x + width, y + height]
            crowd = bool(annotation.get("iscrowd", 0))
            joints = self._read_joints(annotation, where)
            rows.append((image, label, crowd, area, corners, annotation.get("segmentation"), joints, annotation))
        if empty or outside:
            self.notes.append(
                f"{self.source}: dropped {empty} boxes without area and {outside} boxes outside their image"
            )
        if beyond > 0.3 * max(len(rows), 1):
            self.notes.append(
                f"{self.source}: {beyond} of {len(rows)} boxes extend beyond their image; COCO's bbox is [x, y, width, "
                "height], these look like [x1, y1, x2, y2]"
            )
        rows.sort(key=lambda row: row[0])
        counts = np.bincount([row[0] for row in rows], minlength=len(sizes)) if rows else np.zeros(len(sizes), int)
        fields = {
            "boxes": np.array([row[4] for row in rows], np.float64).reshape(-1, 4),
            "labels": np.array([row[1] for row in rows], np.int64),
            "crowd": np.array([row[2] for row in rows], bool),
            "area": np.array([row[3] for row in rows], np.float64),
        }
        fields |= self._read_numbers([row[7] for row in rows])
        if self.joints is not None:
            joints = np.array([row[6] for row in rows], np.float32)
            fields["joints"] = joints.reshape(-1, len(self.joints.names), 3)
        return fields, np.concatenate([[0], np.cumsum(counts)]), [row[5] for row in rows]

    def _read_numbers(self, annotations: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Fields that annotations hold as plain numbers; all must have them, apart from crowds."""
        found = {}
        for name, field in FIELDS.items():
            there = [field.annotation in row for row in annotations if not row.get("iscrowd")]
            if any(there) and not all(there):
                self.notes.append(
                    f"{self.source}: {there.count(False)} of {len(there)} annotations have no {field.annotation!r}, "
                    f"so that {name} is not read"
                )
            elif any(there):
                found[name] = np.array([float(row.get(field.annotation, 0)) for row in annotations])
        return found

    def _read_joints(self, annotation: Mapping[str, Any], where: str) -> np.ndarray | None:
        """Joints ``[J, 3]`` of an annotation (x, y, visibility); zeros where it has none."""
        if self.joints is None:
            return None
        places = self._joint_places.get(annotation["category_id"], [])
        joints = np.zeros((len(self.joints.names), 3), np.float32)
        joints[:, 2] = -1  # joints that the class does not have
        joints[places, 2] = 0
        given = annotation.get("keypoints")
        if not given:
            return joints
        if len(given) != 3 * len(places):
            raise InputError(
                f"{where} has {len(given)} numbers in keypoints, but its category has {len(places)} joints; COCO "
                "requires x, y, visibility for each"
            )
        rows = np.asarray(given, np.float32).reshape(-1, 3)
        if not np.isfinite(rows).all():
            raise InputError(f"{where} has keypoints that are not finite: {given}; replace them with numbers")
        # Unlabeled joints have no position, whatever the file holds.
        joints[places] = np.where(rows[:, 2:] > 0, rows, 0)
        return joints

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
        return rows


class CocoDataModule(CenterNetDataModule):
    """Train and val splits in COCO format.

    ``root`` holds both in one of the usual layouts (COCO's own, ``annotations/instances_train.json`` + ``train/``,
    Roboflow's ``train/_annotations.coco.json``, ...); or pass the four paths (relative to ``root`` or absolute).
    ``prefix``: which of COCO's files, ``instances`` or ``person_keypoints``; ``joints``: see ``CocoDataset``. Other
    options: ``CenterNetDataModule``.
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
        annotations, images = self.locate(split)
        return CocoDataset(
            annotations,
            images,
            pipeline,
            class_names=self.class_names,
            train=train,
            on_bad_image=self.on_bad_image if train else "error",
            seed=self.seed,
            masks=train and self.visible_boxes,
            joints=self.joints,
        )

    def locate(self, split: str) -> tuple[Path, Path]:
        """The json and the image folder of a split. Raises ``InputError`` with the paths that were tried."""
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
            for json_name, folders in LAYOUTS:
                if (base / json_name.format(split=split, prefix=self.prefix)).is_file():
                    annotations = json_name.format(split=split, prefix=self.prefix)
                    if images is None:
                        names = [folder.format(split=split) for folder in folders]
                        images = next((name for name in names if (base / name).is_dir()), names[0])
                    break
            else:
                tried = ", ".join(name.format(split=split, prefix=self.prefix) for name, _ in LAYOUTS)
                raise InputError(
                    f"no {split} annotations in {base} (tried {tried}); set data.{split}_annotations=FILE.json "
                    f"data.{split}_images=FOLDER"
                )
        annotations = base / annotations
        if not annotations.is_file():
            raise InputError(f"{split} annotations {annotations} do not exist; set data.{split}_annotations=FILE.json")
        if images is None:
            images = next((n for n in (split, f"images/{split}", "images") if (base / n).is_dir()), annotations.parent)
        images = base / images
        if not images.is_dir():
            raise InputError(f"{split} image folder {images} does not exist; set data.{split}_images=FOLDER")
        return annotations, images
