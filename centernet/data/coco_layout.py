"""Where the json and the images of a split lie below a folder: the names that people and tools give them.

COCO's own layout, and those of Roboflow, CVAT, FiftyOne and Label Studio. Upper and lower case do not matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from centernet.errors import InputError, some

# What a split is called; the first name that is found wins. Only where nothing else is there, `test` validates.
SPLITS = {
    "train": ("train2017", "train", "training", "train2014"),
    "val": ("val2017", "val", "valid", "validation", "val2014", "dev", "test"),
}
# The json: {split} is one of these names, {prefix} instances or person_keypoints.
ANNOTATIONS = (
    "annotations/{prefix}_{split}.json",  # COCO
    "annotations/{split}.json",
    "{split}/_annotations.coco.json",  # Roboflow
    "{split}/annotations/{prefix}_default.json",  # CVAT, an export of each split
    "{split}/annotations.json",
    "{split}/labels.json",  # FiftyOne
    "{split}/result.json",  # Label Studio
    "{split}/{split}.json",
    "{prefix}_{split}.json",
    "{split}.json",
    "{split}_annotations.json",
    "annotations_{split}.json",
)
# The json of data that is not divided.
UNDIVIDED = (
    "annotations/{prefix}_default.json",  # CVAT
    "annotations/{prefix}.json",
    "annotations/annotations.json",
    "_annotations.coco.json",  # Roboflow
    "annotations.json",
    "labels.json",  # FiftyOne
    "result.json",  # Label Studio
    "{prefix}_default.json",
    "{prefix}.json",
)
# The folder that the json's file names are relative to. Which one has them is decided by looking for the files.
IMAGES = (
    "{split}",
    "images/{split}",
    "{split}/images",
    "{split}/images/default",
    "{split}/data",
    "data/{split}",
    "images/default",
    "images",
    "data",
    "",
)
# Files of other formats, and what they are.
FOREIGN = {
    "data.yaml": ("YOLO", "yolo"),
    "dataset.yaml": ("YOLO", "yolo"),
    "classes.txt": ("YOLO", "yolo"),
    "Annotations": ("Pascal VOC", "voc"),
}


class Found(NamedTuple):
    """The json of a split, the folders that may hold its images (best guess first), and the split's name there."""

    annotations: Path
    images: list[Path]
    name: str


def find_split(root: Path, split: str, prefix: str = "instances") -> Found:
    """The files of ``train`` or ``val`` below ``root``.

    Raises ``InputError`` with what was looked for, what is there, and what to do.
    """
    if (found := _search(root, split, prefix)) is not None:
        return found
    tried = some((pattern.format(split="SPLIT", prefix=prefix) for pattern in ANNOTATIONS), len(ANNOTATIONS))
    names = SPLITS[split]
    raise InputError(
        f"no {split} annotations in {root}: looked for {tried}, where SPLIT is {', '.join(names[:-1])} or {names[-1]}; "
        f"found {_inventory(root)}; {_advice(root, split, prefix)}"
    )


def has_split(root: Path, split: str, prefix: str = "instances") -> Path | None:
    """The json of ``train`` or ``val`` below ``root``, if it is there."""
    found = _search(root, split, prefix)
    return None if found is None else found.annotations


def find_undivided(root: Path, prefix: str = "instances") -> Found | None:
    """The files of data that is not divided into splits: a json of a usual name, or the only one; None without one."""
    usual = (entry(root, pattern.format(prefix=prefix)) for pattern in UNDIVIDED)
    found = next((path for path in usual if path is not None and path.is_file()), None)
    if found is None and _search(root, "train", prefix) is None:
        places = [path for path in (root, entry(root, "annotations")) if path is not None]
        there = [path for place in places if place.is_dir() for path in sorted(place.glob("*.json"))]
        found = there[0] if len(there) == 1 else None
    return None if found is None else Found(found, [*image_folders(root, "train"), found.parent], "train")


def image_folders(root: Path, split: str, name: str | None = None) -> list[Path]:
    """The existing folders below ``root`` that may hold the images of a split; ``name``: what it is called there."""
    names = list(dict.fromkeys([name or SPLITS[split][0], *SPLITS[split]]))
    folders = [
        folder
        for pattern in IMAGES
        for called in names
        if (folder := entry(root, pattern.format(split=called))) is not None and folder.is_dir()
    ]
    return list(dict.fromkeys(folders))


def folder_of(files: Sequence[str], folders: Sequence[Path], looks: int = 16) -> Path:
    """The folder that has the most of some of these files; the first among equals."""
    some_files = files[:: max(len(files) // looks, 1)][:looks]
    return max(folders, key=lambda folder: sum(os.path.isfile(folder / file) for file in some_files))


def _search(root: Path, split: str, prefix: str) -> Found | None:
    for name in SPLITS[split]:
        for pattern in ANNOTATIONS:
            path = entry(root, pattern.format(split=name, prefix=prefix))
            if path is not None and path.is_file():
                return Found(path, image_folders(root, split, name), name)
    return None


def entry(root: Path, relative: str) -> Path | None:
    """The file or folder of this name, whatever its upper and lower case; None if there is none."""
    path = root
    for part in Path(relative).parts:
        if (path / part).exists():
            path = path / part
        elif path.is_dir() and (alike := [n for n in os.listdir(path) if n.lower() == part.lower()]):
            path = path / min(alike)
        else:
            return None
    return path


def _inventory(root: Path) -> str:
    """What a folder holds: folders with their json files, and files."""

    def shown() -> Iterator[str]:
        for path in sorted(root.iterdir()):
            if path.is_dir():
                inside = sorted(inner.name for inner in path.glob("*.json"))
                yield f"{path.name}/" + (f" with {some(inside, 3)}" if inside else "")
            else:
                yield path.name

    return some(sorted(shown(), key=lambda name: (name.startswith("."), "/" not in name)), 12) or "nothing"


def _advice(root: Path, split: str, prefix: str) -> str:
    if (undivided := find_undivided(root, prefix)) is not None:
        return f"{undivided.annotations} is not divided: data.val_share=0.2 holds out a fifth of its images"
    for inner in sorted(path for path in root.iterdir() if path.is_dir()):
        if _search(inner, split, prefix) is not None:
            return f"set data.root={inner}, which has them"
    for name, (what, option) in FOREIGN.items():
        if name in os.listdir(root):  # in this case: `annotations` is COCO's
            return f"{name} belongs to {what}'s format, which data={option} reads"
    advice = f"set data.{split}_annotations=FILE.json data.{split}_images=FOLDER"
    if split == "val" and has_split(root, "train", prefix) is not None:
        advice += ", or hold out a fifth of the training images with data.val_share=0.2"
    return advice
