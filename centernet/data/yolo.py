"""YOLO-format data: images and a text file of labels beside each, described by a yaml; no conversion.

An image without a label file has no objects. Outlines become boxes and masks, joints those of the task.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from centernet.data.annotated import AnnotatedDataModule, AnnotatedDataset
from centernet.data.coco_format import read_content
from centernet.data.division import Part
from centernet.data.images import read_sizes
from centernet.data.yolo_format import (
    Description,
    Label,
    find_description,
    find_files,
    label_file,
    read_description,
    read_labels,
)
from centernet.errors import some
from centernet.joints import COCO_JOINTS
from centernet.ops.affine import Size
from centernet.structures import InputError

log = logging.getLogger(__name__)


class YoloDataset(AnnotatedDataset):
    """The images of one split.

    ``description``: what the yaml says; ``split``: train, val or test; ``class_names`` sets the order of the classes
    (default: the yaml's). Other arguments: ``AnnotatedDataset``. Raises ``InputError``, naming file and line, for
    anything wrong with the files.
    """

    def __init__(
        self,
        description: Description,
        split: str,
        pipeline: Callable[..., Any],
        class_names: Sequence[str] | None = None,
        train: bool = False,
        on_bad_image: str = "error",
        seed: int = 0,
        masks: bool = False,
        joints: Mapping[str, Any] | None = None,
        extreme_points: str | None = None,
        part: Part | None = None,
    ) -> None:
        places = description.places(split)
        source = some(places)
        content, left_out = read_split(description, split, joints, on_bad_image == "skip")
        if part is not None:
            content = part.of(content, source)
        found, arrays = read_content(content, source, class_names, _pairs(description, joints), masks, extreme_points)
        self.folder = places[0] if places[0].is_dir() else Path(found["files"][0]).parent
        super().__init__((found, arrays), found["files"], source, pipeline, train, on_bad_image, seed, masks)
        if left_out:
            self.notes.append(f"{source}: left out {len(left_out)} images that cannot be read ({some(left_out)})")


def _pairs(description: Description, joints: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What completes the joints: the yaml's pairs, unless others are given. Names are already those that are given."""
    if joints is not None and not isinstance(joints, Mapping):
        return joints  # which is refused with a sentence
    given = {key: value for key, value in (joints or {}).items() if key != "names"}
    if description.flip is not None:
        pairs = [[n, other] for n, other in enumerate(description.flip) if n < other]
        given = {"flip_pairs": pairs, **given}
    return given or None


def _joint_names(description: Description, joints: Mapping[str, Any] | None) -> list[str]:
    """The names of the joints: given, the yaml's, those of COCO's person, or numbers."""
    count = description.joints[0] if description.joints else 0
    given = (joints or {}).get("names") if isinstance(joints, Mapping) else None
    if given and len(given) != count:
        raise InputError(
            f"data.joints names {len(given)} joints, but kpt_shape of {description.source} has {count}; name them all"
        )
    names = given or description.joint_names
    if not names and count == len(COCO_JOINTS):
        names = COCO_JOINTS
    return [str(name) for name in names or range(count)]


def read_split(
    description: Description, split: str, joints: Mapping[str, Any] | None = None, skips: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The images of a split as COCO's three lists, and those that were left out (``skips``) as they cannot be read."""
    names = _joint_names(description, joints)
    images, annotations, faults, left_out = [], [], [], []
    places = description.places(split)
    files = find_files(places, description.source)
    ids = _ids(files)
    for image_id, file in zip(ids, files, strict=True):
        path = label_file(file)
        labels, wrong = read_labels(path, len(description.names), description.joints)
        faults += wrong
        sizes = read_sizes(file)
        if sizes is None and labels:
            if not skips:
                raise InputError(f"image {file} cannot be read; replace or remove it, or set data.on_bad_image=skip")
            left_out.append(str(file))
            continue
        size = sizes[0] if sizes else (0, 0)
        images.append({"id": image_id, "file_name": str(file), "height": size[0], "width": size[1]})
        annotations += [
            {"id": f"{path} line {label.line}", "image_id": image_id, **_annotation(label, size)} for label in labels
        ]
    if faults:
        raise InputError(
            f"{len(faults)} label line{'s' * (len(faults) > 1)} cannot be read: {'; '.join(faults[:3])}"
            f"{'; ...' if len(faults) > 3 else ''}; correct or remove {'them' if len(faults) > 1 else 'it'}"
        )
    if not images:
        raise InputError(f"none of the {len(files)} images of {some(places)} can be read; replace them")
    keypoints = {"keypoints": names} if description.joints else {}
    categories = [{"id": number, "name": name, **keypoints} for number, name in enumerate(description.names)]
    return {"images": images, "annotations": annotations, "categories": categories}, left_out


def _ids(files: Sequence[Path]) -> list[Any]:
    """What results call the images: their names as numbers, if they all are, or as they are; paths if names repeat."""
    stems = [file.stem for file in files]
    if len(set(stems)) < len(stems):
        return [str(file) for file in files]
    # As many digits as 64 bits hold.
    if any(not (stem.isascii() and stem.isdigit() and len(stem) <= 18) for stem in stems):
        return stems
    numbers = [int(stem) for stem in stems]
    return stems if len(set(numbers)) < len(numbers) else numbers


def _annotation(label: Label, size: Size) -> dict[str, Any]:
    """A line in COCO's fields and in pixels of an image of this size (height, width)."""
    pixels = np.array(size[::-1], np.float64)
    center, sides = label.box[:2] * pixels, label.box[2:] * pixels
    entry: dict[str, Any] = {"category_id": label.number, "bbox": [*(center - sides / 2).tolist(), *sides.tolist()]}
    if label.outline is not None:
        points = label.outline * pixels
        x, y = points.T
        entry["segmentation"] = [points.flatten().tolist()]
        entry["area"] = float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    if label.joints is not None:
        entry["keypoints"] = np.column_stack([label.joints[:, :2] * pixels, label.joints[:, 2]]).flatten().tolist()
    return entry


class YoloDataModule(AnnotatedDataModule):
    """Train and val splits in YOLO's format.

    ``yaml``: the file that describes the data; or ``root``: the folder that holds it, or ``classes.txt``, ``images``
    and ``labels``. ``val_split``: the split to evaluate, val or test; by default val, and test without it. With
    ``val_share``, the training images are divided. Other options: ``AnnotatedDataModule``.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        yaml: str | Path | None = None,
        val_split: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if val_split not in (None, "train", "val", "test"):
            raise InputError(f"data.val_split={val_split} is no split of YOLO data; choose val or test")
        self.val_split = val_split
        self.root = None if root is None else Path(root)
        self.yaml = None if yaml is None else Path(yaml)

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> YoloDataset:
        description = self.describe()
        part, there = self.part(split), description.splits
        if part is not None:
            if self.val_split is not None or ("val" in there and there["val"] != there.get("train")):
                raise InputError(
                    f"data.val_share={self.val_share} holds out training images, but {description.source} names others "
                    "for validation; leave data.val_share out"
                )
            name = "train"
        elif split == "val":
            name = self.val_split or ("val" if "val" in there or "test" not in there else "test")
        else:
            name = split
        if name not in there:
            advice = "data.val_share=0.2 holds out a fifth of the training images" if name == "val" else "add it"
            raise InputError(f"{description.source} names no images for {name}; {advice}")
        dataset = YoloDataset(description, name, pipeline, **self.options_of(train), part=part)
        if name == "test" and self.val_split is None:
            dataset.notes.append(
                f"{description.source} has a test split and none for validation, so test also chooses the best "
                "checkpoint; keep other images for an unbiased test"
            )
        return dataset

    def describe(self) -> Description:
        """What describes the data. Raises ``InputError`` with what was looked for."""
        if self.yaml is not None:
            tried = [self.yaml] if self.root is None else [self.root / self.yaml, self.yaml]
            return read_description(next((path for path in tried if path.is_file()), tried[0]))
        if self.root is None:
            raise InputError("no data given; set data.yaml=FILE, or data.root=DIR to the folder that holds it")
        if not self.root.is_dir():
            raise InputError(f"data.root={self.root} is not an existing folder; give the folder that holds the data")
        if (found := find_description(self.root)) is None:
            there = sorted(os.listdir(self.root))
            raise InputError(
                f"no yaml in {self.root} that describes YOLO data, nor a classes.txt beside images and labels; found "
                f"{some(there, 12) or 'nothing'}; set data.yaml=FILE"
            )
        return found
