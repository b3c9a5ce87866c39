"""Boxes, octagons, joints and 3D boxes on images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from centernet.fields import PICTURES, Picture
from centernet.joints import JointSet
from centernet.ops.camera import box_corners, project
from centernet.visualize.colors import BLACK, Color, class_color
from centernet.visualize.labels import FAR, Label, draw_labels, line_width

# A joint below this probability is drawn hollow: its position was regressed from the center only.
SURE_JOINT = 0.1
# Left, right and middle of a body.
SIDES = ((80, 200, 255), (255, 140, 60), (240, 240, 90))
# Corners (see box_corners) that the edges of a 3D box join, and those around its front.
EDGES = ((0, 1), (1, 5), (5, 4), (4, 0), (1, 2), (2, 3), (3, 0), (2, 6), (3, 7), (5, 6), (6, 7), (7, 4))
FRONT = [0, 1, 5, 4]
NEAR = 0.1  # meters; points nearer to the camera are not drawn
SOLID, SKELETON, OCTAGON = (next(p for p in PICTURES if p.kind == kind) for kind in ("solid", "skeleton", "octagon"))
# How dark the seam around lines is, by which they are seen on grounds of their own color.
SEAM = 0.5
FRONT_SHARE = 0.3  # of the color over the front of a 3D box

Line = tuple[np.ndarray, bool, Color]  # points int32 [P, 2], whether they are the corners of a box, color


class Look(NamedTuple):
    """Context for drawing rows: class names, ``facts`` of the data, fields of the image."""

    class_names: Sequence[str]
    facts: Mapping[str, Any] = {}
    image_fields: Mapping[str, Any] = {}


def draw_boxes(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    class_names: Sequence[str],
    scores: Sequence[float] | None = None,
) -> np.ndarray:
    """A copy of an RGB uint8 image with boxes (image pixels), class names and scores drawn on it."""
    canvas = np.ascontiguousarray(image).copy()
    draw_labels(canvas, _trace_boxes(canvas, boxes, labels, class_names, scores))
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
    thick = line_width(canvas)
    radius = thick + 1
    bones, thin, dots = [], [], []
    for n, person in enumerate(np.asarray(joints, float)):
        shown = person[:, 2] > 0 if person.shape[1] == 3 else np.ones(len(person), bool)
        sure = np.ones(len(person), bool) if scores is None else np.asarray(scores[n]) >= SURE_JOINT
        points = whole_pixels(person[:, :2])
        for a, b in joint_set.skeleton:
            if shown[a] and shown[b]:
                color = SIDES[side[a]] if side[a] == side[b] else SIDES[2]
                (bones if sure[a] and sure[b] else thin).append((points[[a, b]], False, color))
        dots += [(points[joint].tolist(), SIDES[side[joint]], sure[joint]) for joint in np.flatnonzero(shown)]
    _draw_lines(canvas, thin, 1)
    _draw_lines(canvas, bones, thick)
    for point, color, is_sure in dots:
        cv2.circle(canvas, point, radius + 1, BLACK, -1, cv2.LINE_AA)
        cv2.circle(canvas, point, radius, color, -1 if is_sure else 1, cv2.LINE_AA)
    return canvas


def draw_boxes_3d(
    image: np.ndarray,
    rows: Mapping[str, Any],
    class_names: Sequence[str],
    calibration: np.ndarray,
    scores: Sequence[float] | None = None,
) -> np.ndarray:
    """A copy of an RGB uint8 image with 3D boxes, their fronts tinted; ``calibration [3, 4]`` to its pixels.

    ``rows``: ``labels`` and the fields of a ``solid`` (``centernet.fields.PICTURES``); a box that extends behind the
    camera is drawn as its 2D box. Labels say the distance along the camera's axis.
    """
    canvas = np.ascontiguousarray(image).copy()
    draw_labels(canvas, _trace_solids(canvas, rows, class_names, calibration, scores))
    return canvas


def octagons(points: np.ndarray) -> np.ndarray:
    """Octagons ``[N, 8, 2]`` around objects with extreme points ``[N, 4, 2]`` (top, left, bottom, right).

    ExtremeNet (arXiv:1901.08043), Sec. 4.4: on its side of the box, each point becomes a segment as long as a quarter
    of that side, cut off at the corners; the segments' ends are joined.
    """
    top, left, bottom, right = np.asarray(points, float).reshape(-1, 4, 2).swapaxes(0, 1)
    low, high = np.stack([left[:, 0], top[:, 1]], 1), np.stack([right[:, 0], bottom[:, 1]], 1)
    reach = (high - low) / 8

    def end(point: np.ndarray, axis: int, sign: int) -> np.ndarray:
        moved = point.copy()
        moved[:, axis] = np.clip(point[:, axis] + sign * reach[:, axis], low[:, axis], high[:, axis])
        return moved

    ends = ((left, 1, -1), (top, 0, -1), (top, 0, 1), (right, 1, -1), (right, 1, 1), (bottom, 0, 1))
    return np.stack([end(*each) for each in (*ends, (bottom, 0, -1), (left, 1, 1))], 1)


def corners_of(rows: Mapping[str, Any]) -> np.ndarray:
    """Corners ``[N, 8, 3]`` in meters of the 3D boxes that rows hold; 0 where they are undefined."""
    values = (torch.as_tensor(np.asarray(rows[name]), dtype=torch.float64) for name in SOLID.rows[1:])
    return np.nan_to_num(box_corners(*values).numpy())


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
    """A copy of an RGB uint8 image with all drawable fields of ``rows`` (truth or detections, image pixels), and above
    them their labels.

    ``factor``: how much larger ``image`` is than the rows' image.
    """
    canvas, labels = np.ascontiguousarray(image).copy(), []
    for picture in pictures_of(rows, look):
        canvas, more = PAINTERS[picture.kind](canvas, rows, look, factor)
        labels += more
    if labels and "ids" in rows:
        labels = [
            label._replace(text=f"{n} {label.text}" if n else label.text)
            for n, label in zip(np.asarray(rows["ids"]).tolist(), labels, strict=True)
        ]
    draw_labels(canvas, labels)
    return canvas


# A painter draws one kind of picture and returns the canvas and the labels that belong on it.


def _paint_solids(
    canvas: np.ndarray, rows: Mapping[str, Any], look: Look, factor: float
) -> tuple[np.ndarray, list[Label]]:
    camera = np.diag([factor, factor, 1.0]) @ np.asarray(look.image_fields[SOLID.image], float)
    rows = {**rows, "boxes": np.asarray(rows["boxes"], float) * factor}
    return canvas, _trace_solids(canvas, rows, look.class_names, camera, rows.get("scores"))


def _paint_boxes(
    canvas: np.ndarray, rows: Mapping[str, Any], look: Look, factor: float
) -> tuple[np.ndarray, list[Label]]:
    boxes = np.asarray(rows["boxes"], float) * factor
    return canvas, _trace_boxes(canvas, boxes, rows["labels"], look.class_names, rows.get("scores"))


def _paint_skeletons(
    canvas: np.ndarray, rows: Mapping[str, Any], look: Look, factor: float
) -> tuple[np.ndarray, list[Label]]:
    field, scores = SKELETON.rows
    points = np.array(rows[field], float)
    points[..., :2] *= factor
    return draw_joints(canvas, points, JointSet.of(look.facts[SKELETON.fact]), rows.get(scores)), []


def _paint_octagons(
    canvas: np.ndarray, rows: Mapping[str, Any], look: Look, factor: float
) -> tuple[np.ndarray, list[Label]]:
    shapes = octagons(np.asarray(rows[OCTAGON.rows[0]], float) * factor)
    lines = [
        (whole_pixels(np.concatenate([shape, shape[:1]])), False, class_color(int(label)))
        for shape, label in zip(shapes, rows["labels"], strict=True)
    ]
    _draw_lines(canvas, lines[::-1], max(1, line_width(canvas) - 1))
    return canvas, []


Painter = Callable[[np.ndarray, Mapping[str, Any], Look, float], tuple[np.ndarray, list[Label]]]
PAINTERS: dict[str, Painter] = {
    "solid": _paint_solids,
    "box": _paint_boxes,
    "octagon": _paint_octagons,
    "skeleton": _paint_skeletons,
}


def _trace_boxes(
    canvas: np.ndarray, boxes: Any, labels: Sequence[int], class_names: Sequence[str], scores: Sequence[float] | None
) -> list[Label]:
    """Draw boxes, in place, the first (of detections the best) on top; their labels."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    colors = [class_color(int(label)) for label in labels]
    lines = [_rectangle(box, color) for box, color in zip(boxes, colors, strict=True)]
    _draw_lines(canvas, lines[::-1], line_width(canvas))
    return [
        Label(_named(class_names[int(label)], scores, n), color, box)
        for n, (box, label, color) in enumerate(zip(boxes, labels, colors, strict=True))
    ]


def _trace_solids(
    canvas: np.ndarray,
    rows: Mapping[str, Any],
    class_names: Sequence[str],
    calibration: np.ndarray,
    scores: Sequence[float] | None,
) -> list[Label]:
    """Draw 3D boxes, in place, the farthest first; their labels."""
    corners = corners_of(rows)
    pixels = project(torch.as_tensor(calibration), torch.as_tensor(corners)).numpy()
    colors = [class_color(int(label)) for label in rows["labels"]]
    labels, lines = [], []
    for n, (at, places, color) in enumerate(zip(corners, pixels, colors, strict=True)):
        name = class_names[int(rows["labels"][n])]
        if at[:, 2].min() < NEAR:
            box = np.asarray(rows["boxes"][n], float)
            lines.append([_rectangle(box, color)])
        else:
            name = f"{name} {at[:, 2].mean():.0f} m"
            box = np.concatenate([places.min(0), places.max(0)])
            points = whole_pixels(places)
            _tint(canvas, points[FRONT], color)
            lines.append([(points[[a, b]], False, color) for a, b in EDGES])
        labels.append(Label(_named(name, scores, n), color, box))
    thick = max(1, line_width(canvas) - 1)  # there are twelve for each object
    for n in np.argsort(-corners[:, :, 2].mean(1), kind="stable"):
        _draw_lines(canvas, lines[n], thick)
    return labels


def _named(name: str, scores: Sequence[float] | None, n: int) -> str:
    return name if scores is None else f"{name} {float(scores[n]):.2f}"


def whole_pixels(points: np.ndarray) -> np.ndarray:
    """Points as whole pixels int32, those far outside drawn nearer, undefined ones at 0."""
    return np.nan_to_num(points).clip(-FAR, FAR).round().astype(np.int32)


def _rectangle(box: np.ndarray, color: Color) -> Line:
    x1, y1, x2, y2 = whole_pixels(box)
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.int32), True, color


def _draw_lines(canvas: np.ndarray, lines: Sequence[Line], thick: int) -> None:
    """Draw lines with a dark seam, in place."""
    if not lines:
        return
    region, origin = _region(canvas, np.concatenate([points for points, _, _ in lines]), thick + 2)
    seam = region.copy()
    for points, is_box, _ in lines:
        _draw_line(seam, points - origin, is_box, BLACK, thick + 2)
    region[:] = cv2.addWeighted(seam, SEAM, region, 1 - SEAM, 0)
    for points, is_box, color in lines:
        _draw_line(region, points - origin, is_box, color, thick)


def _draw_line(canvas: np.ndarray, points: np.ndarray, is_box: bool, color: Color, thick: int) -> None:
    if not is_box:
        cv2.polylines(canvas, [points], False, color, thick, cv2.LINE_AA)
        return
    # Not by OpenCV, whose thickness is not a number of pixels.
    low = points.min(0) - (thick - 1) // 2
    high = points.max(0) - (thick - 1) // 2 + thick
    (outer, inner) = (_window(low + less, high - less) for less in (0, thick))
    kept = canvas[inner].copy()
    canvas[outer] = color
    canvas[inner] = kept


def _window(low: np.ndarray, high: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns from a corner (x, y) up to another one, without what is above or left of the picture."""
    (x1, y1), (x2, y2) = low.clip(0), high.clip(0)
    return slice(y1, y2), slice(x1, x2)


def _tint(canvas: np.ndarray, corners: np.ndarray, color: Color) -> None:
    """Lay a color over a polygon, in place."""
    region, origin = _region(canvas, corners, 1)
    filled = cv2.fillPoly(region.copy(), [corners - origin], color, cv2.LINE_AA)
    region[:] = cv2.addWeighted(filled, FRONT_SHARE, region, 1 - FRONT_SHARE, 0)


def _region(canvas: np.ndarray, points: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a canvas, at least a pixel, around points int32 ``[P, 2]``, and its top left corner (x, y)."""
    last = np.array(canvas.shape[1::-1]) - 1
    low = (points.min(0) - margin).clip(0, last)
    high = (points.max(0) + margin).clip(0, last)
    return canvas[low[1] : high[1] + 1, low[0] : high[0] + 1], low.astype(np.int32)
