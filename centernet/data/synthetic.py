"""shapes: small scenes that the package draws itself, written as real COCO files.

Deterministic from a seed; train and val come from different seeds. There are overlaps, small objects, images without
objects and crowd regions, so that everything a real data set can bring is met on any machine without a download.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from centernet.data.coco import CocoDataModule
from centernet.structures import InputError

# Raise it when the drawing changes, so that files drawn by an older version are drawn again.
VERSION = 7
CLASSES = ("disc", "box", "triangle", "star")
CROWD_SHARE, EMPTY_SHARE = 0.06, 0.06
_SUBPIXEL = 4  # fractional bits of the coordinates given to OpenCV


def draw_once(folder: str | Path, wanted: Mapping[str, Any], draw: Callable[[Path], None]) -> Path:
    """Let ``draw`` fill ``folder`` unless what is ``wanted`` is there already; returns the folder.

    The folder appears whole or not at all: it is drawn beside its place and moved there. ``wanted`` (plain data, with
    the ``kind`` and version of the drawing) is written into it. Raises ``InputError`` where something else lies there.
    """
    folder = Path(folder)
    stamp = folder / "drawn.json"
    there = json.loads(stamp.read_text()) if stamp.is_file() else {}
    if there == wanted:
        return folder
    if folder.exists() and not there and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and was not drawn by this package; give another data.root")
    if there.get("kind", wanted["kind"]) != wanted["kind"]:  # earlier versions noted no kind
        raise InputError(f"{folder} holds {there['kind']}, not {wanted['kind']}; give another data.root")
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    draw(draft)
    (draft / stamp.name).write_text(json.dumps(wanted))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder


def write_shapes(folder: str | Path, train: int = 400, val: int = 100, seed: int = 0) -> Path:
    """Draw the data set into ``folder`` (COCO layout) unless it is there already; returns the folder."""

    categories = [{"id": n + 1, "name": name, "supercategory": "shape"} for n, name in enumerate(CLASSES)]

    def draw(draft: Path) -> None:
        for split, (count, offset) in {"train": (train, 0), "val": (val, 1)}.items():
            own = 2 * seed + offset
            scenes = (draw_scene(np.random.default_rng((VERSION, own, n))) for n in range(count))
            write_coco_split(draft, split, scenes, own, categories, "shapes")

    return draw_once(folder, {"kind": "shapes", "version": VERSION, "train": train, "val": val, "seed": seed}, draw)


class ShapesDataModule(CocoDataModule):
    """The built-in data: drawn below ``root`` on first use, read like any COCO data. Options:
    ``CenterNetDataModule``."""

    def __init__(
        self,
        root: str | Path = "data/shapes",
        train_count: int = 400,
        val_count: int = 100,
        draw_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(root=root, **options)
        self.counts = {"train": train_count, "val": val_count}
        self.draw_seed = draw_seed

    def prepare_data(self) -> None:
        write_shapes(self.root, **self.counts, seed=self.draw_seed)

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> Any:
        self.prepare_data()
        return super().build_dataset(split, pipeline, train)


def write_coco_split(
    root: Path,
    split: str,
    scenes: Iterable[tuple[np.ndarray, list[dict[str, Any]]]],
    seed: int,
    categories: Sequence[Mapping[str, Any]],
    kind: str,
    prefix: str = "instances",
    quality: int = 92,
) -> None:
    """Write scenes (RGB uint8 ``[H, W, 3]``, annotations in COCO's fields without ids) as one split in COCO's layout.

    ``seed`` sets the image ids of splits apart; ``kind`` is what the json says of itself; ``quality`` of the JPEGs.
    """
    folder = root / split
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for n, (pixels, objects) in enumerate(scenes):
        name = f"{split}_{n:05d}.jpg"
        cv2.imwrite(str(folder / name), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        image_id = seed * 100_000 + n + 1
        images.append({"id": image_id, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        for thing in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **thing})
    content = {
        "info": {"description": f"{kind} {split}, drawn from seed {seed}"},
        "images": images,
        "annotations": annotations,
        "categories": list(categories),
    }
    (root / "annotations" / f"{prefix}_{split}.json").write_text(json.dumps(content))


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One scene: RGB uint8 ``[H, W, 3]`` and its annotations in COCO's fields (without ids)."""
    height, width = int(rng.integers(96, 145)), int(rng.integers(112, 177))
    image = draw_background(rng, height, width)
    kind = rng.random()
    annotations: list[dict[str, Any]] = []
    if kind < EMPTY_SHARE:
        return image, annotations
    if kind < EMPTY_SHARE + CROWD_SHARE:
        annotations.append(_draw_crowd(rng, image))
    boxes: list[np.ndarray] = [corners_of(a["bbox"]) for a in annotations]
    for _ in range(int(rng.integers(4, 15))):
        label = int(rng.integers(len(CLASSES)))
        # Sizes are spread evenly over octaves: as many small objects as large ones.
        side = float(np.exp(rng.uniform(np.log(20), np.log(0.6 * min(height, width)))))
        center = rng.uniform((0, 0), (width, height))
        polygon = _outline(rng, label, side) + center
        visible = np.clip(polygon, 0, (width - 1, height - 1))
        box = np.concatenate([visible.min(0), visible.max(0)])
        # Overlaps are wanted, hidden objects and slivers at the border are not.
        whole = np.ptp(polygon, axis=0).prod()
        shown = (box[2] - box[0]) * (box[3] - box[1])
        if shown < 0.5 * whole or any(covered_share(other, box) > 0.35 for other in boxes):
            continue
        _fill(image, polygon, _contrasting(rng, image, box), rim=CLASSES[label] == "box")
        boxes.append(box)
        annotations.append(
            {
                "category_id": label + 1,
                "bbox": rounded([box[0], box[1], box[2] - box[0], box[3] - box[1]]),
                "area": round(float(cv2.contourArea(visible.astype(np.float32))), 2),
                "segmentation": [rounded(visible.ravel())],
                "iscrowd": 0,
            }
        )
    return image, annotations


def draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A color gradient with a few strokes and noise."""
    corners = rng.integers(40, 216, (2, 2, 3)).astype(np.float32)
    image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(int(rng.integers(0, 5))):
        a, b = (tuple(int(v) for v in rng.uniform((0, 0), (width, height))) for _ in range(2))
        cv2.line(image, a, b, rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 3)), cv2.LINE_AA)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


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
    turn = rng.uniform(-np.pi / 6, np.pi / 6)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ rotation.T


def _fill(image: np.ndarray, polygon: np.ndarray, color: list[int], rim: bool) -> None:
    """Fill a polygon; ``rim`` adds a darker line inside (a small box is hard to tell from a disc otherwise)."""
    points = np.round(polygon * 2**_SUBPIXEL).astype(np.int32)
    cv2.fillPoly(image, [points], color, cv2.LINE_AA, _SUBPIXEL)
    if rim:
        inner = np.round((polygon.mean(0) + 0.8 * (polygon - polygon.mean(0))) * 2**_SUBPIXEL).astype(np.int32)
        cv2.polylines(image, [inner], True, [c // 3 for c in color], 2, cv2.LINE_AA, _SUBPIXEL)


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
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return {
        "category_id": CLASSES.index("disc") + 1,
        "bbox": [x, y, w, h],
        "area": w * h,
        "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
        "iscrowd": 1,
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths of a 0/1 mask, column by column, starting with the zeros, as COCO stores crowds."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return runs if flat[0] == 0 else [0, *runs]


def corners_of(bbox: list[float]) -> np.ndarray:
    x, y, w, h = bbox
    return np.array([x, y, x + w, y + h], float)


def covered_share(other: np.ndarray, box: np.ndarray) -> float:
    """Intersection over the smaller of two boxes."""
    inter = np.clip(np.minimum(other[2:], box[2:]) - np.maximum(other[:2], box[:2]), 0, None).prod()
    smaller = min((other[2:] - other[:2]).prod(), (box[2:] - box[:2]).prod())
    return float(inter / max(smaller, 1e-9))


def rounded(values: Any) -> list[float]:
    return [round(float(v), 2) for v in values]
