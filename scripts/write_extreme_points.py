"""Write COCO annotations with the extreme points of their objects, found in their masks.

    python scripts/write_extreme_points.py instances_train2017.json instances_extreme_train2017.json

Each annotation gets ``extreme_points``: x and y of its topmost, leftmost, bottommost and rightmost point in pixels of
the image (``centernet/data/extremes.py``). Training does not need this file: with data.extreme_points=masks the points
are found in the masks when annotations are read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from centernet.command import run_command
from centernet.data.coco_format import field_of, load_json, size_of
from centernet.data.extremes import KEY, read_extreme_points
from centernet.data.masks import Masks
from centernet.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path, help="a json in COCO's format")
    parser.add_argument("out", type=Path, help="the json to write")
    parser.add_argument(
        "--boxes", action="store_true", help="without a mask: the middles of the box's edges, instead of an error"
    )
    args = parser.parse_args()
    count = write(args.annotations, args.out, "boxes" if args.boxes else "masks")
    print(f"{args.out}: extreme points of {count} annotations")


def write(source: Path, target: Path, way: str) -> int:
    """Write the annotations ``source`` with extreme points to ``target``; returns their number. ``way``: see
    ``read_extreme_points``. Raises ``InputError`` for anything wrong with the files."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"annotations {source} cannot be read ({error.strerror}); check the path") from None
    given = load_json(data, source)
    sizes = {image["id"]: size_of(image) for image in given["images"]}
    rows = given["annotations"]
    boxes = np.array([field_of(row, "bbox", "annotation", source) for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = Masks.of(
        [row.get("segmentation") for row in rows],
        [sizes.get(field_of(row, "image_id", "annotation", source), (0, 0)) for row in rows],
    )
    points = read_extreme_points(rows, masks, boxes, way, str(source)).astype(float).round(2).tolist()
    content = json.loads(data)  # with its polygons as they are in the file
    for row, own in zip(content["annotations"], points, strict=True):
        row[KEY] = own
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content))
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}); choose another file") from None
    return len(rows)


if __name__ == "__main__":
    run_command(main)
