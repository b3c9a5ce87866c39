"""3D boxes from above: the camera, rings of equal distance around it, and a view that its contents fill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from centernet.ops.affine import Size
from centernet.visualize.colors import PAPER, class_color
from centernet.visualize.labels import draw_plate, font_size, line_width, text_mask, write
from centernet.visualize.objects import SOLID, Look, corners_of, pictures_of, whole_pixels

ROOM = (480, 480)  # largest width and height of a view in pixels
MOST = 90.0  # meters; what lies farther away does not widen a view
GROUND, RING, TEXT, CAMERA, OTHERS = (24,) * 3, (70,) * 3, (160,) * 3, (235,) * 3, (150,) * 3
ASPECTS = (0.6, 1.6)  # width by height
SHARE = 0.35  # of the color within a box
NOSE = 0.4  # how far the line of the heading sticks out, in half lengths


class View(NamedTuple):
    """The ground that is shown, in meters of camera space: x from ``left`` to ``right``, z from ``near`` (behind the
    camera, which is at 0, 0) to ``far``."""

    left: float
    right: float
    near: float
    far: float


def view_of(rows: Mapping[str, Any]) -> View:
    """The smallest view that shows the camera and these boxes up to ``MOST`` meters, in a shape that is good to look
    at."""
    points = corners_of(rows)[:, :4, [0, 2]].reshape(-1, 2).clip((-MOST, 0), (MOST, MOST))
    points = np.concatenate([points, [(-4, 0), (4, 12)]])  # never fewer meters
    (left, _), (right, far) = points.min(0), points.max(0)
    margin = 0.06 * max(right - left, far)
    left, right, near, far = left - margin, right + margin, -margin, far + margin
    wider = max(ASPECTS[0] * (far - near) - (right - left), 0) / 2
    return View(left - wider, right + wider, near, max(far, near + (right - left) / ASPECTS[1]))


def draw_birds_eye(
    rows: Mapping[str, Any], view: View, others: Mapping[str, Any] | None = None, room: Size = ROOM
) -> np.ndarray:
    """3D boxes from above, RGB uint8 as large as ``room`` (width, height) allows: the camera, rings and a scale in
    meters.

    ``rows`` in the colors of their classes with their headings, ``others`` (truth under a prediction) in gray. Says how
    many of ``rows`` lie outside the view.
    """
    width, depth = view.right - view.left, view.far - view.near
    scale = min(room[0] / width, room[1] / depth)
    canvas = np.full((round(depth * scale), round(width * scale), 3), GROUND, np.uint8)
    size, thick = font_size(canvas), line_width(canvas)

    def place(points: np.ndarray) -> np.ndarray:
        """Pixels int32 ``[.., 2]`` of points (x, z)."""
        return whole_pixels(np.stack([points[..., 0] - view.left, view.far - points[..., 1]], -1) * scale)

    _draw_ground(canvas, view, scale, size)
    for corners in corners_of(others) if others is not None else ():
        cv2.polylines(canvas, [place(corners[:4, [0, 2]])], True, OTHERS, 1, cv2.LINE_AA)
    footprints = corners_of(rows)[:, :4, [0, 2]]
    colors = [class_color(int(label)) for label in rows["labels"]]
    filled = canvas.copy()
    for corners, color in zip(footprints, colors, strict=True):
        cv2.fillPoly(filled, [place(corners)], color, cv2.LINE_AA)
    canvas = cv2.addWeighted(filled, SHARE, canvas, 1 - SHARE, 0)
    for corners, color in zip(footprints, colors, strict=True):
        cv2.polylines(canvas, [place(corners)], True, color, thick, cv2.LINE_AA)
        middle, front = corners.mean(0), corners[:2].mean(0)
        ends = place(np.stack([middle, front + NOSE * (front - middle)]))
        cv2.line(canvas, *ends.tolist(), color, thick, cv2.LINE_AA)
    middles = footprints.mean(1)
    low, high = (view.left, view.near), (view.right, view.far)
    if outside := int(((middles < low) | (middles > high)).any(1).sum()):
        draw_plate(canvas, f"{outside} outside this view", (4, 4), size, PAPER)
    return canvas


def _draw_ground(canvas: np.ndarray, view: View, scale: float, size: int) -> None:
    """Rings around the camera, its mark, and the scale along the lower edge, in place."""
    height, width = canvas.shape[:2]
    camera = np.array([-view.left, view.far]) * scale
    x, y = (round(v) for v in camera.tolist())
    step = next((step for step in (5, 10) if view.far <= 6 * step), 20)
    # Rings are named where they cross the way to the upper corner that is farther away, which is seldom in use.
    corner = np.array([max((view.left, view.right), key=abs), view.far])
    way = corner / np.hypot(*corner) * (1, -1)
    for ring in range(step, int(np.hypot(*corner)) + 1, step):
        cv2.circle(canvas, (x, y), round(ring * scale), RING, 1, cv2.LINE_AA)
        high, wide = text_mask(f"{ring} m", size).shape
        left, top = (round(v) for v in (camera + way * ring * scale - (wide / 2, high / 2)).tolist())
        if left >= 2 and top >= 2 and left + wide <= width - 2:
            cv2.rectangle(canvas, (left - 2, top), (left + wide + 1, top + high - 1), GROUND, -1)
            write(canvas, f"{ring} m", (left, top), size, TEXT)
    wing = 0.6 * size
    mark = np.array([(x, y), (x - wing, y - 1.4 * wing), (x + wing, y - 1.4 * wing)], np.int32)
    cv2.polylines(canvas, [mark], True, CAMERA, 1, cv2.LINE_AA)
    # The scale to the left and right of the camera.
    step = next((step for step in (1, 2, 5, 10, 20, 50) if step * scale >= 4 * size), 50)
    for meters in range(-int(-view.left // step) * step, int(view.right) + 1, step):
        at = x + round(meters * scale)
        text = f"{meters} m" if meters == 0 else f"{meters:+d}"
        high, wide = text_mask(text, size).shape
        left = at - wide // 2
        if left >= 2 and left + wide <= width - 2:
            cv2.line(canvas, (at, height - high - 5), (at, height - high - 1), TEXT, 1)
            write(canvas, text, (left, height - high), size, TEXT)


def views_from_above(
    rows: Mapping[str, Any], look: Look, truth: Mapping[str, Any] | None = None, room: Size = ROOM
) -> dict[str, np.ndarray]:
    """Bird's-eye views of rows by caption, including ``truth`` if given; empty without 3D boxes."""
    if SOLID not in pictures_of(rows, look):
        return {}
    if truth is None:
        return {"from above": draw_birds_eye(rows, view_of(rows), room=room)}
    view = view_of(truth if len(truth["labels"]) else rows)
    return {
        "truth from above": draw_birds_eye(truth, view, room=room),
        "prediction from above (gray: truth)": draw_birds_eye(rows, view, truth, room),
    }
