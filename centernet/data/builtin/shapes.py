"""shapes: small scenes that the package draws itself, written as real COCO files.

Deterministic from a seed; train and val come from different seeds. The scenes include overlaps, small objects, images
without objects and crowd regions, so any machine can exercise all cases without a download.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from centernet.data.builtin import drawing
from centernet.data.coco import CocoDataModule

# Raise it when the drawing changes, so that files drawn by an older version are drawn again.
VERSION = 7
CLASSES = ("disc", "box", "triangle", "star")
CROWD_SHARE, EMPTY_SHARE = 0.06, 0.06


def _write_split(draft: Path, split: drawing.Split) -> None:
    categories = [{"id": n + 1, "name": name, "supercategory": "shape"} for n, name in enumerate(CLASSES)]
    drawing.write_coco_split(draft, split, split.scenes(draw_scene), categories)


write_shapes = partial(drawing.draw_splits, "shapes", VERSION, _write_split)


class ShapesDataModule(drawing.DrawnData, CocoDataModule):
    """The built-in data: drawn below ``root`` on first use, read like any COCO data. Options:
    ``CenterNetDataModule``."""

    kind = "shapes"
    write = staticmethod(write_shapes)


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One scene: RGB uint8 ``[H, W, 3]`` and its annotations in COCO's fields (without ids)."""
    height, width = int(rng.integers(96, 145)), int(rng.integers(112, 177))
    image = drawing.draw_background(rng, height, width)
    kind = rng.random()
    annotations: list[dict[str, Any]] = []
    if kind < EMPTY_SHARE:
        return image, annotations
    if kind < EMPTY_SHARE + CROWD_SHARE:
        annotations.append(_draw_crowd(rng, image))
    boxes: list[np.ndarray] = [drawing.corners_of(a["bbox"]) for a in annotations]
    for _ in range(int(rng.integers(4, 15))):
        label = int(rng.integers(len(CLASSES)))
        # Sizes are spread evenly over octaves: as many small objects as large ones.
        side = float(np.exp(rng.uniform(np.log(20), np.log(0.6 * min(height, width)))))
        center = rng.uniform((0, 0), (width, height))
        polygon = _outline(rng, label, side) + center
        visible = np.clip(polygon, 0, (width - 1, height - 1))
        box = np.concatenate([visible.min(0), visible.max(0)])
        # Overlaps are wanted, hidden objects and slivers at the border are not.
        is_cut = np.ptp(visible, axis=0).prod() < 0.5 * np.ptp(polygon, axis=0).prod()
        if is_cut or any(drawing.covered_share(other, box) > 0.35 for other in boxes):
            continue
        _fill(image, polygon, _contrasting(rng, image, box), rim=CLASSES[label] == "box")
        boxes.append(box)
        annotations.append({"category_id": label + 1, **drawing.outlined(visible)})
    return image, annotations


def _outline(rng: np.random.Generator, label: int, side: float) -> np.ndarray:
    """Polygon ``[N, 2]`` of a shape around the origin, about ``side`` pixels across, turned and slightly stretched."""
    # The first corner points up, a box stands on its side; all are then turned by up to 30 degrees.
    corners = {"disc": 32, "box": 4, "triangle": 3, "star": 10}[CLASSES[label]]
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) - np.pi / 2
    radii = np.ones(corners)
    if CLASSES[label] == "box":
        angles = angles + np.pi / 4
    elif CLASSES[label] == "star":
        radii = np.tile([1.0, 0.45], 5)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] * side / 2
    points *= np.array([1.0, rng.uniform(0.7, 1.0)])
    return drawing.turned(points, rng.uniform(-np.pi / 6, np.pi / 6))


def _fill(image: np.ndarray, polygon: np.ndarray, color: list[int], rim: bool) -> None:
    """Fill a polygon; ``rim`` adds a darker line inside (a small box is hard to tell from a disc otherwise)."""
    drawing.fill(image, polygon, color)
    if rim:
        inner = drawing.fixed_point(polygon.mean(0) + 0.8 * (polygon - polygon.mean(0)))
        cv2.polylines(image, [inner], True, [c // 3 for c in color], 2, cv2.LINE_AA, drawing.SUBPIXEL)


def _contrasting(rng: np.random.Generator, image: np.ndarray, box: np.ndarray) -> list[int]:
    """A color that stands out from what is under the box."""
    x1, y1, x2, y2 = np.round(box).astype(int)
    under = image[y1 : y2 + 1, x1 : x2 + 1].reshape(-1, 3).mean(0)
    colors = rng.integers(0, 256, (8, 3))
    return colors[np.abs(colors - under).sum(1).argmax()].tolist()


def _draw_crowd(rng: np.random.Generator, image: np.ndarray) -> dict[str, Any]:
    """A patch of many tiny discs, annotated as one crowd region with a run-length mask."""
    height, width = image.shape[:2]
    w, h = int(rng.integers(40, 70)), int(rng.integers(30, 50))
    x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
    color = rng.integers(0, 256, 3).tolist()
    for cx in range(x + 4, x + w - 3, 8):
        for cy in range(y + 4, y + h - 3, 8):
            cv2.circle(image, (cx, cy), 3, color, -1, cv2.LINE_AA)
    return {"category_id": CLASSES.index("disc") + 1, **drawing.crowd_region(x, y, w, h, (height, width))}
