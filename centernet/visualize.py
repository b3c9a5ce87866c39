"""Pictures: boxes, joints and 3D boxes on images, bird's-eye views, truth beside prediction, heatmaps, curves."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from centernet.fields import PICTURES, Picture
from centernet.joints import JointSet
from centernet.ops.camera import box_corners, project

MARGIN = 26  # pixels of the caption bar
# A joint below this probability is drawn hollow: its position was regressed from the center only.
SURE_JOINT = 0.1
# Left, right and middle of a body.
SIDES = ((80, 200, 255), (255, 140, 60), (240, 240, 90))
# Corners (see box_corners) that the edges of a 3D box join; the first four edges are its front.
EDGES = ((0, 1), (1, 5), (5, 4), (4, 0), (1, 2), (2, 3), (3, 0), (2, 6), (3, 7), (5, 6), (6, 7), (7, 4))
NEAR = 0.1  # meters; points nearer to the camera are not drawn
SOLID, SKELETON = (next(p for p in PICTURES if p.kind == kind) for kind in ("solid", "skeleton"))
BIRDS_EYE_SIDE = 384  # pixels of a bird's-eye view


def class_color(label: int) -> tuple[int, int, int]:
    """A color (RGB, 0 .. 255) for a class; consecutive labels differ strongly in hue."""
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
        color = class_color(int(label))
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thick, cv2.LINE_AA)
        text = class_names[int(label)] + (f" {float(scores[n]):.2f}" if scores is not None else "")
        (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        left = int(np.clip(x1, 0, max(width - w, 0)))
        top = y1 if y1 >= h + base else min(max(y1, 0) + h + base, height)
        cv2.rectangle(canvas, (left, top - h - base), (left + w, top), color, -1)
        cv2.putText(canvas, text, (left, top - base), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def draw_joints(image: np.ndarray, joints: Any, joint_set: JointSet, scores: Any = None) -> np.ndarray:
    """A copy of an RGB uint8 image with skeletons: ``joints [N, J, 2]`` or ``[N, J, 3]`` in image pixels.

    The optional third number is the visibility (0: not drawn); ``scores [N, J]``: joints below ``SURE_JOINT`` are
    hollow. Left, right and middle have colors of their own.
    """
    canvas = np.ascontiguousarray(image).copy()
    side = np.full(len(joint_set.names), 2)
    for left, right in joint_set.flip_pairs:
        side[left], side[right] = 0, 1
    thick = max(1, round(max(canvas.shape[:2]) / 400))
    for n, person in enumerate(np.asarray(joints, float)):
        shown = person[:, 2] > 0 if person.shape[1] == 3 else np.ones(len(person), bool)
        sure = np.ones(len(person), bool) if scores is None else np.asarray(scores[n]) >= SURE_JOINT
        points = [(round(x), round(y)) for x, y in np.clip(person[:, :2], -1e4, 1e4)]
        for a, b in joint_set.skeleton:
            if shown[a] and shown[b]:
                color = SIDES[side[a]] if side[a] == side[b] else SIDES[2]
                cv2.line(canvas, points[a], points[b], color, thick if sure[a] and sure[b] else 1, cv2.LINE_AA)
        for joint in np.flatnonzero(shown):
            color, radius = SIDES[side[joint]], thick + 1
            cv2.circle(canvas, points[joint], radius + 1, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(canvas, points[joint], radius, color, -1 if sure[joint] else 1, cv2.LINE_AA)
    return canvas


def corners_of(rows: Mapping[str, Any]) -> np.ndarray:
    """Corners ``[N, 8, 3]`` in meters of the 3D boxes that rows hold."""
    return box_corners(
        *(torch.as_tensor(np.asarray(rows[name]), dtype=torch.float64) for name in SOLID.rows[1:])
    ).numpy()


def draw_boxes_3d(
    image: np.ndarray,
    rows: Mapping[str, Any],
    class_names: Sequence[str],
    calibration: np.ndarray,
    scores: Sequence[float] | None = None,
) -> np.ndarray:
    """A copy of an RGB uint8 image with 3D boxes, their fronts crossed; ``calibration [3, 4]`` to its pixels.

    ``rows``: ``labels`` and the fields of a ``solid`` (``centernet.fields.PICTURES``); a box that extends behind the
    camera is drawn as its 2D box.
    """
    canvas = np.ascontiguousarray(image).copy()
    thick = max(1, round(max(canvas.shape[:2]) / 700))
    for n, corners in enumerate(corners_of(rows)):
        label = int(rows["labels"][n])
        color = class_color(label)
        if corners[:, 2].min() < NEAR:
            score = None if scores is None else [scores[n]]
            canvas = draw_boxes(canvas, [rows["boxes"][n]], [label], class_names, score)
            continue
        pixels = project(torch.as_tensor(calibration), torch.as_tensor(corners)).numpy()
        points = [(round(x), round(y)) for x, y in np.clip(pixels, -1e4, 1e4)]
        for a, b in (*EDGES, (0, 5), (1, 4)):
            cv2.line(canvas, points[a], points[b], color, thick, cv2.LINE_AA)
        text = f"{class_names[label]} {corners[:, 2].mean():.0f} m" + ("" if scores is None else f" {scores[n]:.2f}")
        place = (int(pixels[:, 0].min()), max(int(pixels[:, 1].min()) - 3, 10))
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, color, 1, cv2.LINE_AA)
    return canvas


def birds_eye_reach(rows: Mapping[str, Any]) -> float:
    """Range in meters of a bird's-eye view that shows these boxes, 20 to 90."""
    middle = corners_of(rows).mean(1)
    needed = np.maximum(1.1 * middle[:, 2] + 3, 2 * np.abs(middle[:, 0]) + 5)
    return float(np.clip(needed.max(initial=0), 20, 90))


def draw_birds_eye(
    rows: Mapping[str, Any], reach: float, others: Mapping[str, Any] | None = None, side: int = BIRDS_EYE_SIDE
) -> np.ndarray:
    """3D boxes from above, RGB uint8 ``[side, side, 3]``: the camera at the bottom, ``reach`` meters of view.

    ``rows`` in the colors of their classes with their headings, ``others`` (truth under a prediction) in gray.
    """
    canvas = np.full((side, side, 3), 24, np.uint8)
    scale = side / reach

    def place(points: np.ndarray) -> np.ndarray:
        at = np.stack([side / 2 + points[:, 0] * scale, side - points[:, 2] * scale], 1)
        return np.round(np.clip(at, -1e4, 1e4)).astype(np.int32)

    step = 10 if reach <= 60 else 20
    for meters in range(step, int(reach) + 1, step):
        row = round(side - meters * scale)
        cv2.line(canvas, (0, row), (side, row), (60, 60, 60), 1)
        cv2.putText(
            canvas, f"{meters} m", (3, row - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (140, 140, 140), 1, cv2.LINE_AA
        )
    for corners in corners_of(others) if others is not None else ():
        cv2.polylines(canvas, [place(corners[:4])], True, (150, 150, 150), 1, cv2.LINE_AA)
    for n, corners in enumerate(corners_of(rows)):
        color = class_color(int(rows["labels"][n]))
        cv2.polylines(canvas, [place(corners[:4])], True, color, 2, cv2.LINE_AA)
        heading = np.stack([corners[:4].mean(0), corners[:2].mean(0)])
        a, b = (tuple(int(v) for v in point) for point in place(heading))
        cv2.line(canvas, a, b, color, 2, cv2.LINE_AA)
    return canvas


class Look(NamedTuple):
    """Context for drawing rows: class names, ``facts`` of the data, fields of the image."""

    class_names: Sequence[str]
    facts: Mapping[str, Any] = {}
    image_fields: Mapping[str, Any] = {}


def _paint_solids(canvas: np.ndarray, rows: Mapping[str, Any], look: Look, factor: float) -> np.ndarray:
    camera = np.diag([factor, factor, 1.0]) @ np.asarray(look.image_fields[SOLID.image], float)
    boxes = np.asarray(rows["boxes"], float) * factor
    return draw_boxes_3d(canvas, {**rows, "boxes": boxes}, look.class_names, camera, rows.get("scores"))


def _paint_boxes(canvas: np.ndarray, rows: Mapping[str, Any], look: Look, factor: float) -> np.ndarray:
    boxes = np.asarray(rows["boxes"], float) * factor
    return draw_boxes(canvas, boxes, rows["labels"], look.class_names, rows.get("scores"))


def _paint_skeletons(canvas: np.ndarray, rows: Mapping[str, Any], look: Look, factor: float) -> np.ndarray:
    field, scores = SKELETON.rows
    points = np.array(rows[field], float)
    points[..., :2] *= factor
    return draw_joints(canvas, points, JointSet.of(look.facts[SKELETON.fact]), rows.get(scores))


PAINTERS = {"solid": _paint_solids, "box": _paint_boxes, "skeleton": _paint_skeletons}


def pictures_of(rows: Mapping[str, Any], look: Look) -> list[Picture]:
    """The entries of ``centernet.fields.PICTURES`` that can be drawn for rows."""
    shown = [
        picture
        for picture in PICTURES
        if all(name in rows for name in picture.rows if name not in picture.optional)
        and (picture.fact is None or picture.fact in look.facts)
        and (picture.image is None or picture.image in look.image_fields)
    ]
    hidden = {picture.hides for picture in shown}
    return [picture for picture in shown if picture.kind not in hidden]


def draw_objects(image: np.ndarray, rows: Mapping[str, Any], look: Look, factor: float = 1.0) -> np.ndarray:
    """A copy of an RGB uint8 image with all drawable fields of ``rows`` (truth or detections, image pixels).

    ``factor``: how much larger ``image`` is than the rows' image.
    """
    canvas = np.ascontiguousarray(image).copy()
    for picture in pictures_of(rows, look):
        canvas = PAINTERS[picture.kind](canvas, rows, look, factor)
    return canvas


def views_from_above(
    rows: Mapping[str, Any], look: Look, truth: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Bird's-eye views of rows by caption, including ``truth`` if given; empty without 3D boxes."""
    if SOLID not in pictures_of(rows, look):
        return {}
    if truth is None:
        return {"from above": draw_birds_eye(rows, birds_eye_reach(rows))}
    reach = birds_eye_reach(truth)
    return {
        "truth from above": draw_birds_eye(truth, reach),
        "prediction (gray: truth)": draw_birds_eye(rows, reach, truth),
    }


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
    colors = cv2.applyColorMap((np.clip(on_image, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return (image * (0.75 - 0.55 * strength) + colors * (0.15 + 0.65 * strength)).clip(0, 255).astype(np.uint8)


def panel(pictures: Mapping[str, np.ndarray], below: bool = False) -> np.ndarray:
    """Pictures side by side (of equal height) or one ``below`` the other (of any width), each under its caption."""
    framed = []
    for caption, picture in pictures.items():
        bar = np.full((MARGIN, picture.shape[1], 3), 32, np.uint8)
        cv2.putText(bar, caption, (6, MARGIN - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        framed.append(np.vstack([bar, picture]))
    if not below:
        return np.hstack(framed)
    width = max(picture.shape[1] for picture in framed)
    return np.vstack([np.pad(f, ((0, 0), (0, width - f.shape[1]), (0, 0)), constant_values=32) for f in framed])


def enlarge(image: np.ndarray, side: int = 320) -> tuple[np.ndarray, float]:
    """An image enlarged so that its longer side is at least ``side`` pixels, and the factor."""
    factor = max(1.0, side / max(image.shape[:2]))
    if factor == 1.0:
        return image, 1.0
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), factor


def save_image(path: str | Path, image: np.ndarray) -> Path:
    """Write an RGB uint8 image; creates folders as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1])):
        raise OSError(f"{path} cannot be written; check the folder and its permissions")
    return path


def truth_and_prediction(
    image: np.ndarray,
    truth: Mapping[str, Any],
    detections: Mapping[str, Any],
    look: Look,
    heatmaps: Mapping[str, np.ndarray] | None = None,
    input_from_image: np.ndarray | None = None,
    threshold: float = 0.3,
    stride: int = 4,
) -> np.ndarray:
    """One picture: truth, detections at or above ``threshold``, every heatmap ``[h, w]``, and bird's-eye views.

    Everything in image pixels.
    """
    big, factor = enlarge(image)
    kept = np.asarray(detections["scores"]) >= threshold
    found = {name: np.asarray(value)[kept] for name, value in detections.items()}
    pictures = {
        "truth": draw_objects(big, truth, look, factor),
        f"prediction (score >= {threshold:g})": draw_objects(big, found, look, factor),
    }
    image_from_big = np.diag([1 / factor, 1 / factor, 1.0])
    for name, heatmap in (heatmaps or {}).items():
        pictures[name.replace("_", " ")] = overlay_heatmap(big, heatmap, input_from_image @ image_from_big, stride)
    # Stack wide images vertically.
    picture = panel(pictures, below=big.shape[1] > 2 * big.shape[0])
    if not (views := views_from_above(found, look, truth)):
        return picture
    return panel({f"{image.shape[1]}x{image.shape[0]}": picture, "bird's-eye view": panel(views)}, below=True)


def plot_history(rows: Sequence[Mapping[str, float]], path: str | Path, results: Sequence[str] = ("AP",)) -> Path:
    """Curves of losses, these results of the metric, and learning rate over epochs as one PNG. ``rows``: one mapping
    per epoch, with ``epoch``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    names = sorted({name for row in rows for name in row})
    groups = (
        ("loss", [n for n in names if n.startswith(("train/loss", "val/loss"))]),
        ("average precision", [f"val/{n}" for n in results if f"val/{n}" in names]),
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
    # The loss of an uncertain depth may be negative, which a log scale cannot show.
    is_positive = all(row[name] > 0 for row in rows for name in groups[0][1] if np.isfinite(row.get(name, np.nan)))
    axes[0].set_yscale("log" if is_positive else "symlog")
    axes[1].set_ylim(0, 1)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def plot_groups(
    groups: Mapping[str, Sequence[float]], compared_with: Mapping[str, str], value: str, path: str | Path
) -> Path:
    """One row per group as one PNG: single values, their mean and sample standard deviation, and a bar from the mean of
    the group that it is compared with. ``value``: title of the axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(8, 1.5 + 0.32 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.use_sticky_edges = False  # bars that begin at 0 leave a margin for the marks there
    means = {name: float(np.mean(values)) for name, values in groups.items() if values}
    better, worse, right = "tab:blue", "tab:orange", ("axes fraction", "data")
    for row, (name, values) in enumerate(groups.items()):
        if name not in means:
            axis.annotate("no result", (1.01, row), xycoords=right, va="center", fontsize=8)
            continue
        text = f"{means[name]:.3f}"
        if (other := compared_with.get(name)) in means:
            change = means[name] - means[other]
            axis.barh(row, change, left=means[other], height=0.6, color=better if change >= 0 else worse, alpha=0.4)
            text += f"  {change:+.3f}"
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")  # not drawn
        runs = axis.scatter(values, [row] * len(values), s=16, facecolors="none", edgecolors="0.4", zorder=4)
        mean = axis.errorbar(means[name], row, xerr=spread, fmt="|", markersize=11, capsize=3, color="black", zorder=3)
        axis.annotate(text, (1.01, row), xycoords=right, va="center", fontsize=8)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.set_xlabel(value)
    axis.grid(axis="x", alpha=0.3)
    if means:
        bars = {"better": Patch(color=better, alpha=0.4), "worse": Patch(color=worse, alpha=0.4)}
        marks = {"single runs": runs, "mean ± standard deviation": mean, **bars}
        figure.legend(marks.values(), marks.keys(), loc="outside upper center", ncols=4, fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points ``(cost, value)`` that no other one beats: no cheaper one is as good; cheapest first."""
    front, best = [], -np.inf
    for index in sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1])):
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def plot_trade_off(points: Mapping[str, tuple[float, float]], cost: str, value: str, path: str | Path) -> Path:
    """Labeled points ``(cost, value)`` as one PNG, those of the Pareto front joined. ``cost``, ``value``: titles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    places = list(points.values())
    front = pareto_front(places)
    axis.scatter(*zip(*places, strict=True), color="0.6")
    axis.plot(*zip(*(places[n] for n in front), strict=True), marker="o", label="Pareto front")
    middle = (min(x for x, _ in places) + max(x for x, _ in places)) / 2
    for label, (x, y) in points.items():
        # Labels point to the middle, so that they stay inside.
        side = ("left", 6) if x <= middle else ("right", -6)
        axis.annotate(label, (x, y), (side[1], 5), textcoords="offset points", fontsize=7, ha=side[0])
    axis.set_xlabel(cost)
    axis.set_ylabel(value)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
