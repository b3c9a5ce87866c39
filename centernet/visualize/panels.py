"""Several pictures as one, with captions: truth beside prediction, what a training batch holds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from centernet.fields import FIELDS, Geometry, index, move, partners_of, unstack_objects
from centernet.structures import Batch, Objects
from centernet.visualize.above import ROOM, views_from_above
from centernet.visualize.colors import PAPER
from centernet.visualize.heatmaps import color_scale, overlay_heatmap
from centernet.visualize.labels import draw_notice, font_size, shorten, text_mask, write
from centernet.visualize.objects import SOLID, Look, draw_objects

GAP = 4  # pixels between pictures
LEAST, MOST = 384, 1280  # pixels of the longer side of a picture in a panel
LEAST_WIDE = 768  # of one that is more than twice as wide as high; those lie one below the other
ROW = 2600  # pixels of a row of a panel; what does not fit goes to the next one
WIDTH = 1920  # pixels of a row of training inputs
# How many of them are in a row, for inputs up to so much wider than high.
COLUMNS = ((1.4, 4), (2.0, 3), (math.inf, 2))


def bar_height(size: int) -> int:
    """Pixels of a caption bar with text of this size."""
    return round(1.8 * size)


def panel(
    pictures: Mapping[str, np.ndarray], columns: int | None = None, title: str = "", scales: Collection[str] = ()
) -> np.ndarray:
    """Pictures in rows of so many ``columns`` (None: in one row), each under its caption, all under a ``title``.

    Captions in ``scales`` come with the color scale of heatmaps.
    """
    size = max(font_size(picture) for picture in pictures.values())
    framed = [_captioned(picture, text, size, text in scales) for text, picture in pictures.items()]
    return _titled(_grid(framed, columns or len(framed)), title, size)


def _titled(picture: np.ndarray, title: str, size: int) -> np.ndarray:
    return _captioned(picture, shorten(title, size, picture.shape[1] - size), size) if title else picture


def _grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    rows = [_joined(pictures[start : start + columns], below=False) for start in range(0, len(pictures), columns)]
    return _joined(rows, below=True)


def _joined(pictures: Sequence[np.ndarray], below: bool) -> np.ndarray:
    """Pictures in a row or a column with gaps, padded to one height or width."""
    along, across = (0, 1) if below else (1, 0)
    extent = max(picture.shape[across] for picture in pictures)
    padded = []
    for n, picture in enumerate(pictures):
        pad = [(0, 0)] * 3
        pad[across] = (0, extent - picture.shape[across])
        pad[along] = (GAP if n else 0, 0)
        padded.append(_pad(picture, pad))
    return np.concatenate(padded, along)


def _pad(picture: np.ndarray, pad: Sequence[tuple[int, int]]) -> np.ndarray:
    (top, bottom), (left, right), _ = pad
    return cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=PAPER)


def _captioned(picture: np.ndarray, caption: str, size: int, with_scale: bool = False) -> np.ndarray:
    """A picture under a bar with text, padded if the text needs more room."""
    wide = text_mask(caption, size).shape[1]
    colors, zero, one = 6 * size, text_mask("0", size).shape[1], text_mask("1", size).shape[1]
    room = wide + size + (colors + zero + one + 2 * size if with_scale else 0)
    if room > picture.shape[1]:
        picture = _pad(picture, [(0, 0), (0, room - picture.shape[1]), (0, 0)])
    bar = np.full((bar_height(size), picture.shape[1], 3), PAPER, np.uint8)
    top = (len(bar) - text_mask(caption, size).shape[0]) // 2
    write(bar, caption, (size // 2, top), size)
    if with_scale:
        right = bar.shape[1] - size // 2 - one
        write(bar, "1", (right, top), size)
        left = right - size // 3 - colors
        high = round(0.8 * size)
        middle = (len(bar) - high) // 2
        bar[middle : middle + high, left : left + colors] = color_scale(colors, high)
        write(bar, "0", (left - size // 3 - zero, top), size)
    return np.vstack([bar, picture])


def enlarge(image: np.ndarray, side: int = LEAST) -> tuple[np.ndarray, float]:
    """An image enlarged so that its longer side is at least ``side`` pixels, and the factor."""
    return resized(image, side, max(side, *image.shape[:2]))


def resized(image: np.ndarray, least: int = LEAST, most: int = MOST) -> tuple[np.ndarray, float]:
    """An image whose longer side has ``least`` to ``most`` pixels, and the factor."""
    side = max(image.shape[:2])
    factor = min(max(1.0, least / side), most / side)
    if factor == 1.0:
        return image, 1.0
    how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    width, height = (max(round(side * factor), 1) for side in image.shape[1::-1])
    return cv2.resize(image, (width, height), interpolation=how), factor


def save_image(path: str | Path, image: np.ndarray) -> Path:
    """Write an RGB uint8 image; creates folders as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1])):
        raise OSError(f"{path} cannot be written; check the folder and its permissions")
    return path


def nothing_above(threshold: float, scores: Any) -> str:
    """What to say of an image whose ``scores`` are all below the threshold."""
    best = max((float(score) for score in scores), default=None)
    # Rounded down, as a best of 0.30 would contradict what is said.
    told = "no detections" if best is None else f"best {math.floor(best * 100) / 100:.2f}"
    return f"nothing above {_number(threshold)} ({told})"


def _number(threshold: float) -> str:
    two = f"{threshold:.2f}"
    return two if float(two) == threshold else f"{threshold:g}"


def draw_detections(
    image: np.ndarray, detections: Mapping[str, Any], look: Look, threshold: float, factor: float = 1.0
) -> np.ndarray:
    """``draw_objects`` for the detections at or above ``threshold``; says so if there are none."""
    scores = np.asarray(detections["scores"])
    kept = scores >= threshold
    drawn = draw_objects(image, {name: np.asarray(v)[kept] for name, v in detections.items()}, look, factor)
    if not kept.any():
        draw_notice(drawn, nothing_above(threshold, scores))
    return drawn


def truth_and_prediction(
    image: np.ndarray,
    truth: Mapping[str, Any],
    detections: Mapping[str, Any],
    look: Look,
    heatmaps: Mapping[str, np.ndarray] | None = None,
    input_from_image: np.ndarray | None = None,
    threshold: float = 0.3,
    stride: int = 4,
    name: str = "",
) -> np.ndarray:
    """One picture under the file's ``name``: truth, detections at or above ``threshold``, every heatmap ``[h, w]``, and
    bird's-eye views.

    Everything in image pixels; the image is shown with ``LEAST`` to ``MOST`` pixels.
    """
    is_wide = image.shape[1] > 2 * image.shape[0]
    big, factor = resized(image, LEAST_WIDE if is_wide else LEAST)
    kept = np.asarray(detections["scores"]) >= threshold
    found = {field: np.asarray(value)[kept] for field, value in detections.items()}
    known = draw_objects(big, truth, look, factor)
    if not len(truth["labels"]):
        draw_notice(known, "no objects")
    pictures = {
        f"truth: {_counted(len(truth['labels']), 'object')}": known,
        f"prediction: {kept.sum()} with score ≥ {_number(threshold)}": draw_detections(
            big, detections, look, threshold, factor
        ),
    }
    image_from_big = np.diag([1 / factor, 1 / factor, 1.0])
    scales = []
    for head, heatmap in (heatmaps or {}).items():
        scales.append(f"{head.replace('_', ' ')}: highest {heatmap.max():.2f}")
        pictures[scales[-1]] = overlay_heatmap(big, heatmap, input_from_image @ image_from_big, stride)
    title = " ".join(part for part in (name, f"({image.shape[1]} x {image.shape[0]})") if part)
    columns = 1 if is_wide else max(1, ROW // (big.shape[1] + GAP))
    picture = panel(pictures, columns, title, scales)
    room = ((big.shape[1] - GAP) // 2, ROOM[1]) if is_wide else ROOM
    if not (views := views_from_above(found, look, truth, room)):
        return picture
    size = font_size(big)
    below = [_captioned(view, text, size) for text, view in views.items()]
    return _joined([picture, _joined(below, below=False)], below=True)


def draw_inputs(batches: Sequence[Batch], names: Sequence[str], look: Look, title: str = "") -> np.ndarray:
    """The inputs of training batches with their objects, as augmentation made them, each under one of the ``names``."""
    height, width = batches[0]["image"].shape[-2:]
    columns = next(count for aspect, count in COLUMNS if width <= aspect * height)
    tiles: list[np.ndarray] = []
    for batch in batches:
        for n, rows in enumerate(unstack_objects(batch["objects"])):
            image, factor = resized(batch["image"][n].permute(1, 2, 0).numpy(), LEAST, WIDTH // columns)
            rows, fields = _in_input(index(rows, ~rows["crowd"]), batch, n, look)
            tile = draw_objects(image, rows, look._replace(image_fields=fields), factor)
            size = font_size(tile)
            tiles.append(_captioned(tile, shorten(names[len(tiles)], size, tile.shape[1] - size), size))
    return _titled(_grid(tiles, columns), title, font_size(tiles[0]))


def _in_input(
    objects: Objects, batch: Batch, n: int, look: Look
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Objects of an input, and the fields of its image, such that they are drawn where they are in the input."""
    fields = {}
    if SOLID.image in batch:
        # 3D boxes stay in the camera space of the image, so only the camera follows the input; what augmentation
        # mirrored of them is mirrored back.
        matrix, camera = batch["input_from_image"][n], batch[SOLID.image][n]
        fields[SOLID.image] = (matrix.to(camera.dtype) @ camera).numpy()
        back = move(objects, torch.linalg.inv(matrix), partners_of(look.facts))
        objects = {name: back[name] if _is_viewing_angle(name) else value for name, value in objects.items()}
    return {name: value.numpy() for name, value in objects.items()}, fields


def _is_viewing_angle(name: str) -> bool:
    return name in FIELDS and FIELDS[name].geometry is Geometry.VIEWING_ANGLE


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
