"""Pictures: boxes on images, truth beside prediction, heatmaps, curves of a run."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

MARGIN = 26  # pixels of the caption bar


def class_colour(label: int) -> tuple[int, int, int]:
    """A colour (RGB, 0 .. 255) for a class; neighbours in number are far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.61803399) % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_boxes(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    class_names: Sequence[str],
    scores: Sequence[float] | None = None,
) -> np.ndarray:
    """A copy of an RGB uint8 image with boxes (image pixels), class names and scores drawn on it."""
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    thick = max(1, round(max(height, width) / 400))
    scale = max(0.35, max(height, width) / 1400)
    for n, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        colour = class_colour(int(label))
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thick, cv2.LINE_AA)
        text = class_names[int(label)] + (f" {float(scores[n]):.2f}" if scores is not None else "")
        (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        left = int(np.clip(x1, 0, max(width - w, 0)))
        top = y1 if y1 >= h + base else min(max(y1, 0) + h + base, height)
        cv2.rectangle(canvas, (left, top - h - base), (left + w, top), colour, -1)
        cv2.putText(canvas, text, (left, top - base), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def overlay_heatmap(
    image: np.ndarray, heatmap: np.ndarray, input_from_image: np.ndarray, stride: int = 4
) -> np.ndarray:
    """An RGB uint8 image with a peak map ``[h, w]`` (grid space, 0 .. 1) laid over it."""
    grid_from_image = np.diag([1 / stride, 1 / stride, 1.0]) @ input_from_image
    height, width = image.shape[:2]
    on_image = cv2.warpAffine(
        heatmap.astype(np.float32), grid_from_image[:2], (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    strength = np.clip(on_image, 0, 1)[..., None]
    colours = cv2.applyColorMap((np.clip(on_image, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return (image * (0.75 - 0.55 * strength) + colours * (0.15 + 0.65 * strength)).clip(0, 255).astype(np.uint8)


def panel(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pictures of equal size side by side, each under its caption."""
    framed = []
    for caption, picture in pictures.items():
        bar = np.full((MARGIN, picture.shape[1], 3), 32, np.uint8)
        cv2.putText(bar, caption, (6, MARGIN - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        framed.append(np.vstack([bar, picture]))
    return np.hstack(framed)


def enlarge(image: np.ndarray, side: int = 320) -> tuple[np.ndarray, float]:
    """An image enlarged so that its longer side is at least ``side`` pixels, and the factor."""
    factor = max(1.0, side / max(image.shape[:2]))
    if factor == 1.0:
        return image, 1.0
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), factor


def save_image(path: str | Path, image: np.ndarray) -> Path:
    """Write an RGB uint8 image; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1])):
        raise OSError(f"{path} could not be written")
    return path


def truth_and_prediction(
    image: np.ndarray,
    truth: Mapping[str, Any],
    detections: Mapping[str, Any],
    class_names: Sequence[str],
    heatmap: np.ndarray | None = None,
    input_from_image: np.ndarray | None = None,
    threshold: float = 0.3,
    stride: int = 4,
) -> np.ndarray:
    """One picture: truth, detections at or above ``threshold``, and the heatmap. Boxes in image pixels."""
    big, factor = enlarge(image)
    kept = detections["scores"] >= threshold
    pictures = {
        "truth": draw_boxes(big, np.asarray(truth["boxes"]) * factor, truth["labels"], class_names),
        f"prediction (score >= {threshold:g})": draw_boxes(
            big,
            np.asarray(detections["boxes"][kept]) * factor,
            detections["labels"][kept],
            class_names,
            detections["scores"][kept],
        ),
    }
    if heatmap is not None:
        image_from_big = np.diag([1 / factor, 1 / factor, 1.0])
        pictures["heatmap"] = overlay_heatmap(big, heatmap, input_from_image @ image_from_big, stride)
    return panel(pictures)


def plot_history(rows: Sequence[Mapping[str, float]], path: str | Path) -> Path:
    """Curves of losses, AP and learning rate over epochs as one PNG. ``rows``: one mapping per epoch, with
    ``epoch``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    names = sorted({name for row in rows for name in row})
    groups = (
        ("loss", [n for n in names if n.startswith(("train/loss", "val/loss"))]),
        ("average precision", [f"val/{n}" for n in ("AP", "AP50", "AP75", "APs", "APm", "APl") if f"val/{n}" in names]),
        ("learning rate", [n for n in names if n == "lr"]),
    )
    for axis, (title, columns) in zip(axes, groups, strict=True):
        for name in columns:
            points = [(row["epoch"], row[name]) for row in rows if name in row and np.isfinite(row[name])]
            if points:
                style = {"linestyle": "--"} if name.startswith("val/loss") else {}
                axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name, **style)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
