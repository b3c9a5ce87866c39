"""The same objects in the files of every format, written by hand."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import yaml

from tests.tiny import make_image

CLASSES = ["cat", "dog"]
SPLITS = ("train", "val")


class Thing(NamedTuple):
    """An object: its class, its box (x1, y1, x2, y2 in whole pixels, by corners of pixels), and VOC's marks."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool = False
    truncated: bool = False


class Scene(NamedTuple):
    """An image with its objects."""

    name: str
    things: Sequence[Thing] = ()
    size: tuple[int, int] = (48, 64)


SCENES: dict[str, list[Scene]] = {
    "train": [
        Scene("a", [Thing("cat", (4, 6, 24, 16)), Thing("dog", (30, 10, 60, 40))]),
        Scene("b", [Thing("dog", (0, 0, 64, 48))]),
        Scene("c"),
        Scene("d", [Thing("cat", (8, 3, 29, 33))], (36, 40)),
    ],
    "val": [Scene("e", [Thing("dog", (5, 5, 20, 30)), Thing("cat", (20, 20, 40, 40))]), Scene("f")],
}


def write_images(folder: Path, scenes: Sequence[Scene]) -> None:
    """A picture for each scene, the same one whatever the format."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        pixels = make_image(*scene.size, seed=zlib.crc32(scene.name.encode()))
        cv2.imwrite(str(folder / f"{scene.name}.png"), pixels[..., ::-1])


def write_coco(root: Path, splits: Mapping[str, Sequence[Scene]] = SCENES) -> Path:
    """``annotations/instances_SPLIT.json`` and ``SPLIT/``."""
    for split, scenes in splits.items():
        write_images(root / split, scenes)
        images = [
            {"id": n, "file_name": f"{scene.name}.png", "height": scene.size[0], "width": scene.size[1]}
            for n, scene in enumerate(scenes, 1)
        ]
        rows = [
            {"image_id": n, "category_id": CLASSES.index(thing.name) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for n, scene in enumerate(scenes, 1)
            for thing in scene.things
            for x1, y1, x2, y2 in [thing.box]
        ]
        categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)]
        numbered = [{"id": n, "iscrowd": 0, **row} for n, row in enumerate(rows, 1)]
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": numbered, "categories": categories}))
    return root


def voc_xml(scene: Scene) -> str:
    """The annotation of a scene; VOC counts pixels from 1, and a box includes its last one."""
    rows = [
        f"<object><name>{thing.name}</name><truncated>{int(thing.truncated)}</truncated>"
        f"<difficult>{int(thing.difficult)}</difficult><bndbox><xmin>{thing.box[0] + 1}</xmin>"
        f"<ymin>{thing.box[1] + 1}</ymin><xmax>{thing.box[2]}</xmax><ymax>{thing.box[3]}</ymax></bndbox></object>"
        for thing in scene.things
    ]
    height, width = scene.size
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{scene.name}.png</filename>{size}{''.join(rows)}</annotation>"


def write_voc(root: Path, splits: Mapping[str, Sequence[Scene]] = SCENES) -> Path:
    """``Annotations``, ``JPEGImages`` and a list of ``ImageSets/Main`` for each split."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, scenes in splits.items():
        write_images(root / "JPEGImages", scenes)
        for scene in scenes:
            (root / "Annotations" / f"{scene.name}.xml").write_text(voc_xml(scene))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{scene.name}\n" for scene in scenes))
    return root


def yolo_lines(scene: Scene) -> str:
    """The labels of a scene: class, center and size, as shares of the image's size."""
    height, width = scene.size
    lines = []
    for thing in scene.things:
        x1, y1, x2, y2 = thing.box
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(" ".join([str(CLASSES.index(thing.name)), *map(repr, shares)]))
    return "".join(f"{line}\n" for line in lines)


def write_yolo(root: Path, splits: Mapping[str, Sequence[Scene]] = SCENES, **keys: object) -> Path:
    """``data.yaml``, ``images/SPLIT`` and ``labels/SPLIT``; images without objects have no label file. ``keys`` are
    added to the yaml."""
    for split, scenes in splits.items():
        write_images(root / "images" / split, scenes)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        for scene in scenes:
            if scene.things:
                (root / "labels" / split / f"{scene.name}.txt").write_text(yolo_lines(scene))
    places = {split: f"images/{split}" for split in splits}
    (root / "data.yaml").write_text(yaml.safe_dump({**places, "names": CLASSES, **keys}))
    return root


def write_createml(root: Path, splits: Mapping[str, Sequence[Scene]] = SCENES) -> Path:
    """``SPLIT/_annotations.createml.json`` beside the images."""
    for split, scenes in splits.items():
        write_images(root / split, scenes)
        rows = []
        for scene in scenes:
            things = [
                {
                    "label": thing.name,
                    "coordinates": {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1},
                }
                for thing in scene.things
                for x1, y1, x2, y2 in [thing.box]
            ]
            rows.append({"image": f"{scene.name}.png", "annotations": things})
        (root / split / "_annotations.createml.json").write_text(json.dumps(rows))
    return root
