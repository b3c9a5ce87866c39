"""Shared by the built-in data sets: atomic creation of folders, a seed per split, files and shapes."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np

from centernet.structures import InputError

STAMP = "drawn.json"
SUBPIXEL = 4  # fractional bits of the coordinates given to OpenCV


class Split(NamedTuple):
    """One split of a data set to draw: ``count`` scenes from ``seed``, and ``first`` scenes in the splits before it."""

    kind: str
    version: int
    name: str
    count: int
    first: int
    seed: int

    def scenes(self, draw: Callable[[np.random.Generator], Any]) -> Iterator[Any]:
        """The results of ``draw`` with one random generator per scene; a smaller split is a prefix of a larger one."""
        return (draw(np.random.default_rng((self.version, self.seed, n))) for n in range(self.count))


class DrawnData:
    """Mixin that makes the data module of a format draw its files below ``root`` on first use.

    List it before that module among the bases. ``kind`` names the data and its default folder, ``write`` draws it,
    ``usual`` holds its defaults for options of the format's module.
    """

    kind: str
    write: Callable[..., Path]
    usual: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        root: str | Path | None = None,
        train_count: int = 400,
        val_count: int = 100,
        draw_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(root=root or f"data/{self.kind}", **{**self.usual, **options})
        self.counts = {"train": train_count, "val": val_count}
        self.draw_seed = draw_seed

    def prepare_data(self) -> None:
        self.write(self.root, **self.counts, seed=self.draw_seed)

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> Any:
        self.prepare_data()
        return super().build_dataset(split, pipeline, train)


def draw_splits(
    kind: str,
    version: int,
    write: Callable[[Path, Split], None],
    folder: str | Path,
    train: int = 400,
    val: int = 100,
    seed: int = 0,
) -> Path:
    """Draw these splits into ``folder`` with ``write`` unless they already exist; returns the folder."""

    def draw(draft: Path) -> None:
        write(draft, Split(kind, version, "train", train, 0, 2 * seed))
        write(draft, Split(kind, version, "val", val, train, 2 * seed + 1))

    return draw_once(folder, {"kind": kind, "version": version, "train": train, "val": val, "seed": seed}, draw)


def draw_once(folder: str | Path, wanted: Mapping[str, Any], draw: Callable[[Path], None]) -> Path:
    """Fill ``folder`` with ``draw`` unless it already holds what is ``wanted``; returns the folder.

    The folder is created atomically: drawn under a name unique to the process, then moved into place. A process that
    comes second uses the existing folder. ``wanted`` (plain data, with the ``kind`` and version of the drawing) is
    written into it. Raises ``InputError`` if the folder holds something else.
    """
    folder = Path(folder)
    if is_drawn(folder, wanted):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as draft:
        new = Path(draft) / "new"  # one level down, because temporary folders are closed to other users
        new.mkdir()
        draw(new)
        (new / STAMP).write_text(json.dumps(wanted))
        while not is_drawn(folder, wanted):
            with suppress(FileNotFoundError):  # an earlier drawing goes, unless another process moved it already
                folder.rename(Path(tempfile.mkdtemp(dir=draft)) / "old")
            try:
                new.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise  # otherwise another process came first; the next round looks at what it brought
    return folder


def is_drawn(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a folder holds exactly what is wanted; raises ``InputError`` if its content must not be replaced."""
    try:
        names = os.listdir(folder)
        there = json.loads((folder / STAMP).read_text()) if STAMP in names else {}
    except FileNotFoundError:  # nothing is there, or another process is just replacing it
        return False
    if names and not there:
        raise InputError(f"{folder} is not empty and was not drawn by this package; set another data.root")
    if there.get("kind", wanted["kind"]) != wanted["kind"]:  # earlier versions noted no kind
        raise InputError(f"{folder} holds {there['kind']}, not {wanted['kind']}; set another data.root")
    return there == wanted


def write_coco_split(
    root: Path,
    split: Split,
    scenes: Iterable[tuple[np.ndarray, list[dict[str, Any]]]],
    categories: Sequence[Mapping[str, Any]],
    prefix: str = "instances",
    quality: int = 92,
) -> None:
    """Write scenes (RGB uint8 ``[H, W, 3]``, annotations in COCO's fields without ids) as one split in COCO's layout.

    The seed makes image ids of splits distinct; ``prefix``: of the json's name; ``quality``: of the JPEGs.
    """
    for name in (split.name, "annotations"):
        (root / name).mkdir(exist_ok=True)
    images, annotations = [], []
    for n, (pixels, objects) in enumerate(scenes):
        name = f"{split.name}_{n:05d}.jpg"
        cv2.imwrite(str(root / split.name / name), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        image_id = split.seed * 100_000 + n + 1
        images.append({"id": image_id, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        for thing in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **thing})
    content = {
        "info": {"description": f"{split.kind} {split.name}, drawn from seed {split.seed}"},
        "images": images,
        "annotations": annotations,
        "categories": list(categories),
    }
    (root / "annotations" / f"{prefix}_{split.name}.json").write_text(json.dumps(content))


def outlined(points: np.ndarray) -> dict[str, Any]:
    """COCO's fields of an object with this outline ``[N, 2]`` in image pixels."""
    low, high = points.min(0), points.max(0)
    return {
        "bbox": rounded([*low, *(high - low)]),
        "area": round(float(cv2.contourArea(points.astype(np.float32))), 2),
        "segmentation": [rounded(points.ravel())],
        "iscrowd": 0,
    }


def crowd_region(x: int, y: int, w: int, h: int, image_size: tuple[int, int]) -> dict[str, Any]:
    """COCO's fields of a crowd that fills a rectangle of an image (height, width), with a run-length mask."""
    mask = np.zeros(image_size, np.uint8)
    mask[y : y + h, x : x + w] = 1
    return {
        "bbox": [x, y, w, h],
        "area": w * h,
        "segmentation": {"size": list(image_size), "counts": run_lengths(mask)},
        "iscrowd": 1,
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths of a 0/1 mask, column by column, starting with the zeros, as COCO stores crowds."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return runs if flat[0] == 0 else [0, *runs]


def draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A color gradient with a few strokes and noise."""
    corners = rng.integers(40, 216, (2, 2, 3)).astype(np.float32)
    image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(int(rng.integers(0, 5))):
        a, b = (tuple(int(v) for v in rng.uniform((0, 0), (width, height))) for _ in range(2))
        cv2.line(image, a, b, rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 3)), cv2.LINE_AA)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def fill(image: np.ndarray, polygon: np.ndarray, color: Sequence[float]) -> None:
    """Fill a polygon ``[N, 2]`` in image pixels with an RGB color."""
    cv2.fillPoly(image, [fixed_point(polygon)], [int(c) for c in np.clip(color, 0, 255)], cv2.LINE_AA, SUBPIXEL)


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points ``[..., 2]`` turned around the origin, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Pixels as OpenCV's fixed-point coordinates."""
    return np.round(points * 2**SUBPIXEL).astype(np.int32)


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
