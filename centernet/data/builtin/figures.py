"""figures: small scenes with stick figures that the package draws itself, written as real COCO keypoint files.

Deterministic from a seed; train and val come from different seeds. The figures face the camera, so a person's left is
at the image's right, and have COCO's 17 joints. The scenes include overlaps, hidden joints, joints outside the image,
tiny figures without labeled joints, crowd regions and images without people.
"""

from __future__ import annotations

import colorsys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np

from centernet.data.builtin import drawing
from centernet.data.coco import CocoDataModule
from centernet.joints import COCO_JOINTS, COCO_SKELETON

# Raise it when the drawing changes, so that files drawn by an older version are drawn again.
VERSION = 1
CROWD_SHARE, EMPTY_SHARE, TINY_SHARE = 0.08, 0.06, 0.07
# Pixels from head to sole: of figures with joints, of tiny ones without, of those in a crowd.
HEIGHTS, TINY_HEIGHTS, CROWD_HEIGHT = (40.0, 112.0), (16.0, 24.0), 16.0
_SCALE = 4  # scenes are drawn this many times larger and averaged down

# A figure in fractions of its height, with the origin between the hips, x to the image's right and y down.
HEAD, EAR = 0.17, 0.055  # radii
NECK = np.array([0.0, -0.27])
FACE = {"nose": (0.0, 0.05), "eye": (0.075, -0.03), "ear": (0.165, 0.02)}  # from the middle of the head
SHOULDER, HIP = np.array([0.125, -0.25]), np.array([0.085, 0.0])
ARM, LEG = 0.155, 0.175  # each half of them
LIMB, RIM = 0.075, 0.022  # width of a limb, and of the dark line around everything

WHITE, DARK, SHOES, RED = [255, 255, 255], [25, 25, 35], [60, 50, 50], [220, 60, 60]


class Figure(NamedTuple):
    """A figure in image pixels: ``joints [17, 2]``, middle of the ``head [2]``, ``height``, and its colors."""

    joints: np.ndarray
    head: np.ndarray
    height: float
    colors: dict[str, list[int]]

    @property
    def hull(self) -> np.ndarray:
        """Convex hull ``[N, 2]`` of the drawing."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], 1)
        middles = np.concatenate([self.joints, self.head[None]])
        radii = [EAR if name.endswith("ear") else LIMB / 2 for name in COCO_JOINTS] + [HEAD]
        points = middles[:, None] + self.height * (np.array(radii) + RIM)[:, None, None] * circle
        return cv2.convexHull(points.reshape(-1, 2).astype(np.float32)).reshape(-1, 2)


class Canvas:
    """A picture on which discs, limbs and polygons are drawn, one over the other, in image pixels.

    It records which joint each pixel shows: joint n is visible wherever n has not been overdrawn.
    """

    def __init__(self, background: np.ndarray) -> None:
        self.size = background.shape[:2]
        self.pixels = np.repeat(np.repeat(background, _SCALE, 0), _SCALE, 1)
        self.owner = np.full(self.pixels.shape[:2], -1, np.int32)

    def disc(self, middle: np.ndarray, radius: float, color: list[int], joint: int = -1) -> None:
        at, size = _fixed(middle).tolist(), round(radius * _SCALE * 2**drawing.SUBPIXEL)
        for layer, value in ((self.pixels, color), (self.owner, joint)):
            cv2.circle(layer, at, size, value, -1, cv2.LINE_8, drawing.SUBPIXEL)

    def limb(self, start: np.ndarray, end: np.ndarray, width: float, color: list[int]) -> None:
        a, b = _fixed(start).tolist(), _fixed(end).tolist()
        for layer, value in ((self.pixels, color), (self.owner, -1)):
            cv2.line(layer, a, b, value, max(1, round(width * _SCALE)), cv2.LINE_8, drawing.SUBPIXEL)

    def polygon(self, points: np.ndarray, color: list[int]) -> None:
        for layer, value in ((self.pixels, color), (self.owner, -1)):
            cv2.fillPoly(layer, [_fixed(points)], value, cv2.LINE_8, drawing.SUBPIXEL)

    def shows(self, point: np.ndarray, joint: int) -> bool:
        """Whether a point lies in the image and shows this joint."""
        x, y = np.floor((point + 0.5) * _SCALE).astype(int)
        return self.contains(point) and bool(self.owner[y, x] == joint)

    def contains(self, point: np.ndarray) -> bool:
        """Whether a point lies in the image."""
        return bool((point >= 0).all() and point[0] <= self.size[1] - 1 and point[1] <= self.size[0] - 1)

    def image(self) -> np.ndarray:
        """The picture, RGB uint8 ``[H, W, 3]``."""
        return cv2.resize(self.pixels, self.size[::-1], interpolation=cv2.INTER_AREA)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Image pixels to fixed-point coordinates of the larger drawing; the middle of the first pixel is at 0 in both."""
    return drawing.fixed_point((points + 0.5) * _SCALE - 0.5)


def _write_split(draft: Path, split: drawing.Split) -> None:
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO_JOINTS),
        "skeleton": [[a + 1, b + 1] for a, b in COCO_SKELETON],  # COCO counts from 1
    }
    drawn = split.scenes(draw_scene)
    scenes = ((pixels, [{"category_id": category["id"], **one} for one in people]) for pixels, people in drawn)
    drawing.write_coco_split(draft, split, scenes, [category], "person_keypoints", quality=95)


write_figures = partial(drawing.draw_splits, "figures", VERSION, _write_split)


class FiguresDataModule(drawing.DrawnData, CocoDataModule):
    """The built-in persons: drawn below ``root`` on first use, read like any COCO keypoint data. Options:
    ``CenterNetDataModule``."""

    own_data_command = "data=coco_pose data.root=YOUR_DATA"
    kind = "figures"
    write = staticmethod(write_figures)
    usual: ClassVar = {"prefix": "person_keypoints"}


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One scene: RGB uint8 ``[H, W, 3]`` and its annotations in COCO's fields (without ids and category)."""
    height, width = int(rng.integers(128, 177)), int(rng.integers(128, 177))
    # A muted background: what is colorful belongs to a figure.
    canvas = Canvas(drawing.draw_background(rng, height, width) // 2 + 90)
    kind = rng.random()
    annotations: list[dict[str, Any]] = []
    if kind < EMPTY_SHARE:
        return canvas.image(), annotations
    if kind < EMPTY_SHARE + CROWD_SHARE:
        annotations.append(_draw_crowd(rng, canvas))
    boxes = [drawing.corners_of(a["bbox"]) for a in annotations]
    placed: list[tuple[Figure, np.ndarray]] = []
    window = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)
    most = int(rng.integers(2, 7))
    for _ in range(10 * most):
        if len(placed) == most:
            break
        is_tiny = rng.random() < TINY_SHARE
        # Sizes are spread evenly over octaves: as many small figures as large ones.
        size = float(np.exp(rng.uniform(*np.log(TINY_HEIGHTS if is_tiny else HEIGHTS))))
        figure = make_figure(rng, rng.uniform((0, 0.1 * height), (width, height)), size)
        hull = figure.hull
        area, outline = cv2.intersectConvexConvex(hull, window)
        # Overlaps and figures cut by the border are wanted, hidden ones and slivers are not.
        if area < 0.6 * cv2.contourArea(hull):
            continue
        box = np.concatenate([outline.min((0, 1)), outline.max((0, 1))])
        if any(drawing.covered_share(other, box) > 0.4 for other in boxes):
            continue
        boxes.append(box)
        placed.append((figure, outline[:, 0]))
    placed.sort(key=lambda pair: pair[0].joints[:, 1].max())  # lower figures are nearer
    for n, (figure, _) in enumerate(placed):
        draw_figure(canvas, figure, first=n * len(COCO_JOINTS))
    for n, (figure, outline) in enumerate(placed):
        annotations.append(_annotate(canvas, figure, outline, first=n * len(COCO_JOINTS)))
    return canvas.image(), annotations


def make_figure(rng: np.random.Generator, hips: np.ndarray, height: float) -> Figure:
    """A figure in some pose, with the middle of its hips at a point of the image."""
    joints = {}
    tilt, turn = rng.uniform(-0.25, 0.25), rng.uniform(-1, 1)  # of the head: to the shoulder, and to the side
    head = NECK + drawing.turned(np.array([0.0, -0.19]), tilt)
    joints["nose"] = head + drawing.turned(FACE["nose"] + np.array([0.03 * turn, 0]), tilt)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        outward = np.array([sign, 1.0])
        for part in ("eye", "ear"):
            shift = np.array([0.02 * turn if part == "eye" else 0, 0])
            joints[f"{side}_{part}"] = head + drawing.turned(FACE[part] * outward + shift, tilt)
        arm, leg = rng.uniform(0.25, 2.3), rng.uniform(0.0, 0.5)  # from straight down outward
        forearm, shin = arm + rng.uniform(-0.9, 1.2), leg + rng.uniform(-0.5, 0.1)
        joints[f"{side}_shoulder"] = SHOULDER * outward
        joints[f"{side}_elbow"] = joints[f"{side}_shoulder"] + ARM * outward * _direction(arm)
        joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + ARM * outward * _direction(forearm)
        joints[f"{side}_hip"] = HIP * outward
        joints[f"{side}_knee"] = joints[f"{side}_hip"] + LEG * outward * _direction(leg)
        joints[f"{side}_ankle"] = joints[f"{side}_knee"] + LEG * outward * _direction(shin)
    lean = rng.uniform(-0.2, 0.2)
    points = np.array([joints[name] for name in COCO_JOINTS])
    place = drawing.turned(np.concatenate([points, head[None]]), lean) * height + hips
    colors = {
        "left": _color(rng, (-0.02, 0.13), (0.75, 1.0), (0.85, 1.0)),  # red to yellow
        "right": _color(rng, (0.50, 0.72), (0.70, 1.0), (0.75, 1.0)),  # cyan to blue
        "shirt": _color(rng, (0.25, 0.45), (0.30, 0.8), (0.50, 0.9)),  # greens
        "skin": _color(rng, (0.05, 0.10), (0.20, 0.5), (0.75, 1.0)),
        "hair": _color(rng, (0.02, 0.12), (0.30, 0.8), (0.15, 0.6)),
    }
    return Figure(place[:-1], place[-1], height, colors)


def _direction(angle: float) -> np.ndarray:
    """Unit vector, turned from straight down to the image's right."""
    return np.array([np.sin(angle), np.cos(angle)])


def _color(rng: np.random.Generator, *ranges: tuple[float, float]) -> list[int]:
    """An RGB color with hue, saturation and value drawn from these ranges."""
    hue, saturation, value = (rng.uniform(*bounds) for bounds in ranges)
    return [round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value)]


def draw_figure(canvas: Canvas, figure: Figure, first: int) -> None:
    """Draw a figure from its legs to its face; its joint n becomes joint ``first + n`` of the canvas."""
    joints = dict(zip(COCO_JOINTS, figure.joints, strict=True))
    unit, colors = figure.height, figure.colors

    def dot(name: str, radius: float, color: list[int]) -> None:
        canvas.disc(joints[name], radius * unit, color, first + COCO_JOINTS.index(name))

    def limb(side: str, parts: tuple[str, str, str], last: list[int]) -> None:
        points = [joints[f"{side}_{part}"] for part in parts]
        for width, color in ((LIMB + 2 * RIM, DARK), (LIMB, colors[side])):
            canvas.limb(points[0], points[1], width * unit, color)
            canvas.limb(points[1], points[2], width * unit, color)
        dot(f"{side}_{parts[1]}", 0.03, WHITE)
        dot(f"{side}_{parts[2]}", LIMB / 2 + RIM, DARK)
        dot(f"{side}_{parts[2]}", LIMB / 2, last)

    for side in ("right", "left"):
        limb(side, ("hip", "knee", "ankle"), SHOES)
    trunk = np.array([joints[name] for name in ("left_shoulder", "left_hip", "right_hip", "right_shoulder")])
    for width, color in ((LIMB + 2 * RIM, DARK), (LIMB, colors["shirt"])):
        for a, b in zip(trunk, np.roll(trunk, 1, 0), strict=True):
            canvas.limb(a, b, width * unit, color)
    canvas.polygon(trunk, colors["shirt"])
    for side in ("right", "left"):
        dot(f"{side}_hip", 0.03, colors[side])
        limb(side, ("shoulder", "elbow", "wrist"), colors["skin"])
        dot(f"{side}_shoulder", 0.03, WHITE)
    up = (figure.head - trunk.mean(0)) / np.linalg.norm(figure.head - trunk.mean(0))
    for side in ("right", "left"):
        dot(f"{side}_ear", EAR + RIM, DARK)
    canvas.disc(figure.head, (HEAD + RIM) * unit, DARK)
    canvas.disc(figure.head, HEAD * unit, colors["hair"])
    canvas.disc(figure.head - 0.03 * unit * up, (HEAD - 0.03) * unit, colors["skin"])
    for side in ("right", "left"):
        dot(f"{side}_ear", EAR, colors[side])
        canvas.disc(joints[f"{side}_eye"], 0.05 * unit, WHITE)
        dot(f"{side}_eye", 0.03, DARK)
    dot("nose", 0.035, RED)


def _annotate(canvas: Canvas, figure: Figure, outline: np.ndarray, first: int) -> dict[str, Any]:
    """COCO's fields of a figure; one that is too small has no labeled joints."""
    keypoints: list[float] = []
    for n, point in enumerate(figure.joints):
        is_labeled = figure.height > TINY_HEIGHTS[1] and canvas.contains(point)
        seen = 2 if canvas.shows(point, first + n) else 1
        keypoints += [*drawing.rounded(point), seen] if is_labeled else [0, 0, 0]
    labeled = sum(seen > 0 for seen in keypoints[2::3])
    return {**drawing.outlined(outline), "keypoints": keypoints, "num_keypoints": labeled}


def _draw_crowd(rng: np.random.Generator, canvas: Canvas) -> dict[str, Any]:
    """A patch of many tiny figures, annotated as one crowd region with a run-length mask."""
    height, width = canvas.size
    columns, rows = int(rng.integers(4, 8)), int(rng.integers(2, 4))
    w, h = columns * 10 + 8, rows * 15 + 8
    x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
    for row in range(rows):
        for column in range(columns):
            hips = np.array([x + 9 + 10 * column, y + 14 + 15 * row]) + rng.uniform(-1, 1, 2)
            draw_figure(canvas, make_figure(rng, hips, CROWD_HEIGHT), first=0)
    jointless = {"keypoints": [0] * (3 * len(COCO_JOINTS)), "num_keypoints": 0}
    return {**drawing.crowd_region(x, y, w, h, canvas.size), **jointless}
