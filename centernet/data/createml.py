"""Data in CreateML's format: a json per split that lists images with their objects, boxes by their centers in pixels.

Format of developer.apple.com/documentation/createml, as Roboflow and others export it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from centernet.data.annotated import AnnotatedDataModule, AnnotatedDataset
from centernet.data.coco_format import read_content, require_images
from centernet.data.coco_layout import SPLITS, Found, entry, folder_of, image_folders
from centernet.data.division import Part
from centernet.errors import some
from centernet.structures import InputError

# The json of a split, and of data that is not divided.
ANNOTATIONS = ("{split}/_annotations.createml.json", "{split}/annotations.json", "{split}.json")
UNDIVIDED = ("_annotations.createml.json", "annotations.json")
# Of a box: its center and its size.
NUMBERS = ("x", "y", "width", "height")


class CreateMLDataset(AnnotatedDataset):
    """Images and boxes of one json. Arguments: see ``CocoDataset``. Raises ``InputError``, naming the image, for
    anything wrong with the files."""

    def __init__(
        self,
        annotations: str | Path,
        images: Sequence[Path],
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
        source = Path(annotations)
        content = read_createml(source, class_names)
        if part is not None:
            content = part.of(content, source)
        found, arrays = read_content(content, source, class_names, joints, masks, extreme_points)
        self.folder = folder_of(found["files"], images)
        require_images(found["files"], self.folder, source)
        files = [os.path.join(self.folder, name) for name in found["files"]]
        super().__init__((found, arrays), files, source, pipeline, train, on_bad_image, seed, masks)


def is_createml(content: Any) -> bool:
    """Whether this is the content of a json of the format: a list of images with their annotations."""
    return isinstance(content, list) and all(
        isinstance(row, dict) and _name_of(row) is not None and isinstance(row.get("annotations"), list)
        for row in content
    )


def _name_of(row: Mapping[str, Any]) -> str | None:
    name = row.get("image", row.get("imagefilename"))
    return name if isinstance(name, str) else None


def read_createml(path: Path, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """A json as COCO's three lists; ``class_names``: all classes, by default those that are there, by name."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"annotations {path} cannot be read ({error.strerror}); check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); check that the download is complete") from None
    if not is_createml(content) or not content:
        raise InputError(f"{path} is not in CreateML's format: a list of images, each with image and annotations")
    images, annotations, names = [], [], [_name_of(row) for row in content]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: image {twice!r} is listed twice; list it once, with all its annotations")
    for name, row in zip(names, content, strict=True):
        images.append({"id": name, "file_name": name})
        for n, thing in enumerate(row["annotations"], 1):
            where = f"{path}: image {name}, annotation {n}"
            label, box = _read_object(thing, where)
            annotations.append({"id": f"{n} of {name}", "image_id": name, "category_id": label, "bbox": box})
    there = sorted({row["category_id"] for row in annotations})
    classes = list(class_names or there)
    if others := sorted(set(there) - set(classes)):
        raise InputError(
            f"{path} has objects of {some(others)}, and the classes are {some(classes, 6)}; use the same classes"
        )
    if not classes:
        raise InputError(f"{path} has no annotations, and so no classes; give annotated images")
    numbers = {name: number for number, name in enumerate(classes, 1)}
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    rows = [{**row, "category_id": numbers[row["category_id"]]} for row in annotations]
    return {"images": images, "annotations": rows, "categories": categories}


def _read_object(thing: Any, where: str) -> tuple[str, list[float]]:
    """The class and the box (x, y, width, height) of an annotation."""
    label = thing.get("label") if isinstance(thing, dict) else None
    place = thing.get("coordinates") if isinstance(thing, dict) else None
    if not isinstance(label, str) or not label:
        raise InputError(f"{where} has no label; CreateML requires the name of a class")
    if not isinstance(place, dict) or not all(_is_number(place.get(key)) for key in NUMBERS):
        raise InputError(
            f"{where} ({label}) has coordinates {place!r}; CreateML requires the numbers {', '.join(NUMBERS)}"
        )
    x, y, width, height = (float(place[key]) for key in NUMBERS)
    return label, [x - width / 2, y - height / 2, width, height]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


class CreateMLDataModule(AnnotatedDataModule):
    """Train and val splits in CreateML's format below ``root``: a json in the folder of each split, or one json, with
    ``val_share``. Other options: ``AnnotatedDataModule``."""

    def __init__(self, root: str | Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.root = None if root is None else Path(root)

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> CreateMLDataset:
        found = self.locate(split)
        return CreateMLDataset(
            found.annotations, found.images, pipeline, **self.options_of(train), part=self.part(split)
        )

    def locate(self, split: str) -> Found:
        """The json of a split and the folders that may hold its images. Raises ``InputError`` without one."""
        if self.root is None or not self.root.is_dir():
            raise InputError(f"data.root={self.root} is not an existing folder; give the folder that holds the data")
        splits = {name: find_createml(self.root, name) for name in SPLITS}
        if self.val_share is not None:
            if splits["val"] is not None:
                raise InputError(
                    f"data.val_share={self.val_share} holds out training images, but {splits['val'].annotations} is "
                    "there for validation; leave data.val_share out"
                )
            split = "train"
        found = splits[split] or (find_createml(self.root, None) if self.val_share is not None else None)
        if found is None:
            raise InputError(
                f"no {split} annotations in CreateML's format in {self.root}: looked for {', '.join(ANNOTATIONS)}; "
                "data.val_share=0.2 holds out a fifth of data that is not divided"
            )
        return found


def find_createml(root: Path, split: str | None) -> Found | None:
    """The json of a split, or of data that is not divided, by its name and by its content; None without one."""
    names = SPLITS[split] if split else ("",)
    for name in names:
        for pattern in ANNOTATIONS if split else UNDIVIDED:
            path = entry(root, pattern.format(split=name))
            if path is not None and path.is_file() and _is_file_of_createml(path):
                return Found(path, [path.parent, *image_folders(root, split or "train", name or None)], name)
    return None


def _is_file_of_createml(path: Path) -> bool:
    if path.name.endswith(".createml.json"):
        return True
    with path.open("rb") as file:
        if file.read(64).lstrip()[:1] != b"[":  # COCO's begins with a brace
            return False
    try:
        return is_createml(json.loads(path.read_bytes()))
    except (ValueError, OSError, RecursionError):
        return False
