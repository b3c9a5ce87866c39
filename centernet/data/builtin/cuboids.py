"""cuboids: street scenes that the package draws itself, written as real KITTI files.

Deterministic from a seed; train and val come from different seeds. Boxes of KITTI's types and sizes stand on a plane
1.65 m below a camera like KITTI's, at two thirds of its resolution. Depth can be read from where they touch the ground
and from their size, heading from lights, windows and faces. The scenes include occluded and truncated objects,
neighboring types, ignored regions and frames without objects, so all cases of the benchmark occur without a download.

Convention: as in ``centernet.ops.camera``; pixels of the image have their centers at whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from centernet.data import kitti_format as kitti
from centernet.data.builtin import drawing
from centernet.data.kitti import KittiDataModule
from centernet.data.kitti_splits import PUBLISHED
from centernet.ops.camera import box_corners, project, wrap_angle

# Raise it when the drawing changes, so that files drawn by an older version are drawn again.
VERSION = 3
# The benchmark's limits of height (40 and 25 pixels) count image pixels: smaller images would leave out most objects.
HEIGHT, WIDTH = 256, 832
CAMERA_HEIGHT = 1.65  # meters above the ground
EMPTY_SHARE, REGION_SHARE = 0.05, 0.15
NEAREST, FARTHEST = 8.0, 36.0  # meters
LEAST_HEIGHT, LEAST_VISIBLE, MOST_TRUNCATED = 24.0, 0.3, 0.5
ROAD = 4.5  # meters from its middle to its edge

# How often a type comes, and mean and deviation of height, width and length in meters: about those of KITTI's labels.
TYPES: dict[str, tuple[float, tuple[float, float, float], tuple[float, float, float]]] = {
    "Car": (0.36, (1.53, 1.63, 3.88), (0.13, 0.10, 0.40)),
    "Pedestrian": (0.28, (1.76, 0.66, 0.84), (0.10, 0.10, 0.12)),
    "Cyclist": (0.24, (1.74, 0.60, 1.76), (0.09, 0.08, 0.15)),
    "Van": (0.04, (2.20, 1.90, 5.00), (0.20, 0.12, 0.50)),
    "Truck": (0.02, (3.20, 2.60, 8.00), (0.30, 0.15, 1.00)),
    "Person_sitting": (0.04, (1.27, 0.60, 0.80), (0.08, 0.06, 0.10)),
    "Tram": (0.02, (3.50, 2.50, 14.0), (0.10, 0.10, 1.00)),
}
Color = tuple[int, int, int]
GLASS, BLACK, WHITE, RED, LIGHT = (150, 200, 230), (25, 25, 30), (245, 245, 245), (230, 20, 20), (255, 240, 120)
SKIN, HAIR, TROUSERS, METAL = (240, 190, 150), (70, 40, 20), (45, 50, 90), (180, 185, 190)
SHADOW = (48, 50, 48)

# A mark on a face: left, bottom, right, top as shares of the face, and a color; a disc sits inside its rectangle.
Mark = tuple[str, float, float, float, float, Color]
_HEAD = {
    "front": [("box", 0.0, 0.84, 1.0, 1.0, SKIN), ("box", 0.0, 0.95, 1.0, 1.0, HAIR)],
    "back": [("box", 0.0, 0.84, 1.0, 1.0, HAIR)],
    "side": [("box", 0.0, 0.84, 1.0, 1.0, HAIR), ("box", 0.55, 0.84, 1.0, 0.95, SKIN)],
}
_VEHICLE: dict[str, list[Mark]] = {
    "front": [
        ("box", 0.08, 0.55, 0.92, 0.92, GLASS),
        ("disc", 0.05, 0.22, 0.29, 0.46, LIGHT),
        ("disc", 0.71, 0.22, 0.95, 0.46, LIGHT),
        ("box", 0.0, 0.0, 1.0, 0.12, BLACK),
    ],
    "back": [
        ("box", 0.18, 0.64, 0.82, 0.90, BLACK),
        ("box", 0.03, 0.30, 0.27, 0.50, RED),
        ("box", 0.73, 0.30, 0.97, 0.50, RED),
        ("box", 0.0, 0.0, 1.0, 0.12, BLACK),
    ],
    "side": [
        ("disc", 0.11, 0.0, 0.29, 0.42, BLACK),
        ("disc", 0.71, 0.0, 0.89, 0.42, BLACK),
        ("box", 0.0, 0.32, 0.05, 0.50, RED),
        ("box", 0.95, 0.28, 1.0, 0.46, LIGHT),
    ],
}
_PERSON: dict[str, list[Mark]] = {
    "front": [*_HEAD["front"], ("box", 0.0, 0.0, 1.0, 0.45, TROUSERS), ("box", 0.25, 0.52, 0.75, 0.78, WHITE)],
    "back": [*_HEAD["back"], ("box", 0.0, 0.0, 1.0, 0.45, TROUSERS), ("box", 0.15, 0.48, 0.85, 0.80, BLACK)],
    "side": [*_HEAD["side"], ("box", 0.0, 0.0, 1.0, 0.45, TROUSERS), ("box", 0.0, 0.48, 0.25, 0.80, BLACK)],
}
_CYCLIST: dict[str, list[Mark]] = {
    "front": [*_HEAD["front"], ("box", 0.35, 0.0, 0.65, 0.42, BLACK), ("disc", 0.3, 0.40, 0.7, 0.56, LIGHT)],
    "back": [*_HEAD["back"], ("box", 0.35, 0.0, 0.65, 0.42, BLACK), ("box", 0.25, 0.40, 0.75, 0.52, RED)],
    "side": [
        *_HEAD["side"],
        ("box", 0.0, 0.0, 1.0, 0.42, METAL),
        ("disc", 0.02, 0.0, 0.42, 0.40, BLACK),
        ("disc", 0.58, 0.0, 0.98, 0.40, BLACK),
        ("box", 0.0, 0.42, 0.06, 0.52, RED),
        ("box", 0.94, 0.42, 1.0, 0.52, LIGHT),
    ],
}
MARKS: dict[str, dict[str, list[Mark]]] = {
    "Car": {**_VEHICLE, "side": [("box", 0.06, 0.58, 0.68, 0.92, GLASS), *_VEHICLE["side"]]},
    "Van": {**_VEHICLE, "side": [("box", 0.72, 0.55, 0.97, 0.88, GLASS), *_VEHICLE["side"]]},
    "Truck": {**_VEHICLE, "side": [("box", 0.0, 0.25, 0.76, 1.0, METAL), *_VEHICLE["side"]]},
    "Tram": {**_VEHICLE, "side": [("box", 0.18 * n + 0.08, 0.5, 0.18 * n + 0.20, 0.88, GLASS) for n in range(5)]},
    "Pedestrian": _PERSON,
    "Person_sitting": _PERSON,
    "Cyclist": _CYCLIST,
}
# Corners of ``box_corners`` at a face's lower left, lower right and upper left; sides run from the back to the front.
FACES = {"front": (0, 1, 4), "back": (2, 3, 6), "side": (3, 0, 7), "other side": (2, 1, 6), "top": (6, 5, 7)}
SHADES = {"front": 1.0, "back": 0.85, "side": 0.68, "other side": 0.68, "top": 1.15}


@dataclass(frozen=True)
class Cuboid:
    """One thing on the ground, with its numbers rounded as in a label file."""

    kind: str
    dimensions: np.ndarray  # [3] height, width, length, meters
    location: np.ndarray  # [3] middle of the bottom face, meters
    yaw: float
    color: Color

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners ``[8, 3]`` in meters, ordered as ``centernet.ops.camera.box_corners`` does."""
        return box_corners(*(torch.tensor(v) for v in (self.dimensions, self.location, self.yaw))).numpy()

    @property
    def radius(self) -> float:
        """Of the circle around its footprint, meters."""
        return float(np.hypot(*self.dimensions[1:])) / 2

    @property
    def alpha(self) -> float:
        """Observation angle as in KITTI's labels: against the direction to the location."""
        return float(wrap_angle(torch.tensor(self.yaw - np.arctan2(self.location[0], self.location[2]))))


def _write_split(draft: Path, split: drawing.Split) -> None:
    for folder in ("training/image_2", "training/label_2", "training/calib", "ImageSets"):
        (draft / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{split.first + n:06d}" for n in range(split.count)]
    for name, (pixels, labels, camera) in zip(names, split.scenes(draw_scene), strict=True):
        cv2.imwrite(str(draft / f"training/image_2/{name}.png"), pixels[..., ::-1])
        kitti.write_labels(draft / f"training/label_2/{name}.txt", labels)
        kitti.write_calibration(draft / f"training/calib/{name}.txt", camera)
    (draft / f"ImageSets/{split.name}.txt").write_text("".join(f"{name}\n" for name in names))


write_cuboids = partial(drawing.draw_splits, "cuboids", VERSION, _write_split)


class CuboidsDataModule(drawing.DrawnData, KittiDataModule):
    """The built-in 3D data: drawn below ``root`` on first use, read like KITTI. Options: ``KittiDataModule``."""

    kind = "cuboids"
    write = staticmethod(write_cuboids)
    usual: ClassVar = {"resolution": (HEIGHT // 2, WIDTH // 2)}

    def __init__(self, *args: Any, splits: str | Path | None = None, **options: Any) -> None:
        # A published division, which a preset may ask for, is of the real frames; drawn ones have lists of their own.
        super().__init__(*args, splits=None if splits in PUBLISHED else splits, **options)


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, kitti.Labels, np.ndarray]:
    """One scene: RGB uint8 ``[H, W, 3]``, its labels, and its camera P2 ``[3, 4]``."""
    camera = _draw_camera(rng)
    things = [] if rng.random() < EMPTY_SHARE else _place_things(rng, camera)
    region = _place_region(rng) if rng.random() < REGION_SHARE else []
    visible = _visible_shares(camera, things)
    shown = [(thing, share) for thing, share in zip(things, visible, strict=True) if share >= LEAST_VISIBLE]
    # Far away first. Where circles around footprints do not meet, the tangents to them order them rightly.
    order = sorted([*region, *(thing for thing, _ in shown)], key=_nearness, reverse=True)
    image = _draw_street(rng, camera)
    for thing in order:
        _draw_shadow(image, camera, thing)
    for thing in order:
        _draw_thing(image, camera, thing)
    return image, _labels(camera, shown, region), camera


def _draw_camera(rng: np.random.Generator) -> np.ndarray:
    """A P2 like KITTI's at two thirds of its size; focal length and principal point differ a little between frames."""
    focal, x, y = 480 * rng.uniform(0.97, 1.03), WIDTH / 2 + rng.uniform(-12, 12), 96 + rng.uniform(-6, 6)
    depth_shift = 0.003
    # The left color camera stands 6 cm beside the camera that labels are given for.
    shift = [focal * 0.06 + x * depth_shift, y * depth_shift, depth_shift]
    return np.column_stack([[[focal, 0, x], [0, focal, y], [0, 0, 1]], shift])


def _place_things(rng: np.random.Generator, camera: np.ndarray) -> list[Cuboid]:
    """Five to thirteen things (if there is room) that do not meet, each at least ``LEAST_HEIGHT`` pixels tall and
    mostly in the image."""
    wanted = int(rng.integers(5, 14))
    kinds, shares = list(TYPES), np.array([share for share, _, _ in TYPES.values()])
    things: list[Cuboid] = []
    for _ in range(6 * wanted):
        kind = str(rng.choice(kinds, p=shares / shares.sum()))
        thing = _make_thing(rng, kind, *_pick_place(rng, camera))
        box, truncation = _box(camera, thing)
        is_free = all(np.hypot(*(thing.location - t.location)[[0, 2]]) > thing.radius + t.radius for t in things)
        is_near = thing.location[2] - thing.radius < NEAREST / 2
        if is_free and not is_near and truncation <= MOST_TRUNCATED and box[3] - box[1] >= LEAST_HEIGHT:
            things.append(thing)
        if len(things) == wanted:
            break
    return things


def _pick_place(rng: np.random.Generator, camera: np.ndarray) -> tuple[float, float]:
    """x and z on the ground: any column of the image, as many near as far things (evenly spread over octaves)."""
    z = float(np.exp(rng.uniform(np.log(NEAREST), np.log(FARTHEST))))
    return float((rng.uniform(-0.05, 1.05) * WIDTH - camera[0, 2]) / camera[0, 0] * z), z


def _make_thing(rng: np.random.Generator, kind: str, x: float, z: float) -> Cuboid:
    _, mean, deviation = TYPES[kind]
    dimensions = np.array(mean) + np.array(deviation) * np.clip(rng.normal(size=3), -2, 2)
    # Half of all things go along the street, most trams do.
    is_along = rng.random() < 0.5 or kind == "Tram"
    yaw = rng.choice([-1, 1]) * np.pi / 2 + rng.normal() * 0.1 if is_along else rng.uniform(-np.pi, np.pi)
    return Cuboid(
        kind, dimensions.round(2), np.array([x, CAMERA_HEIGHT, z]).round(2), round(float(yaw), 2), _strong_color(rng)
    )


def _place_region(rng: np.random.Generator) -> list[Cuboid]:
    """A few cars too far away to be labeled one by one."""
    x, z = rng.uniform(-20, 20), rng.uniform(55, 70)
    return [_make_thing(rng, "Car", x + 4.5 * n, z + 5 * rng.random()) for n in range(int(rng.integers(2, 5)))]


def _strong_color(rng: np.random.Generator) -> Color:
    hsv = np.array([[[rng.integers(180), rng.integers(150, 240), rng.integers(150, 235)]]], np.uint8)
    return tuple(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist())


def _nearness(thing: Cuboid) -> float:
    """Squared length of the tangent from the camera to the circle around a footprint."""
    return float(thing.location[0] ** 2 + thing.location[2] ** 2 - thing.radius**2)


def _pixels(camera: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Image pixels ``[N, 2]`` of points ``[N, 3]`` in meters."""
    return project(torch.from_numpy(camera), torch.from_numpy(points)).numpy()


def _box(camera: np.ndarray, thing: Cuboid) -> tuple[np.ndarray, float]:
    """The box around the projected corners, clipped to the image, and the share of its area that this cuts off."""
    points = _pixels(camera, thing.corners)
    whole = np.concatenate([points.min(0), points.max(0)])
    box = np.clip(whole, 0, [WIDTH - 1, HEIGHT - 1] * 2)
    return box, float(1 - (box[2:] - box[:2]).prod() / (whole[2:] - whole[:2]).prod())


def _visible_shares(camera: np.ndarray, things: Sequence[Cuboid]) -> list[float]:
    """For each thing the share of its pixels that no nearer one hides; what is hidden too much hides nothing itself."""
    covered = np.zeros((HEIGHT, WIDTH), bool)
    shares = dict.fromkeys(range(len(things)), 0.0)
    for n in sorted(shares, key=lambda n: _nearness(things[n])):
        mask = np.zeros(covered.shape, np.uint8)
        hull = cv2.convexHull(_pixels(camera, things[n].corners).astype(np.float32))[:, 0]
        cv2.fillConvexPoly(mask, drawing.fixed_point(hull), 1, shift=drawing.SUBPIXEL)
        own = mask.astype(bool)
        shares[n] = float((own & ~covered).sum() / max(own.sum(), 1))
        if shares[n] >= LEAST_VISIBLE:
            covered |= own
    return list(shares.values())


def _labels(camera: np.ndarray, shown: Sequence[tuple[Cuboid, float]], region: Sequence[Cuboid]) -> kitti.Labels:
    """The label rows of a scene, DontCare last."""
    things = [thing for thing, _ in shown]
    boxes, truncations = ([part[n] for part in (_box(camera, thing) for thing in things)] for n in (0, 1))
    rows = {
        "types": [thing.kind for thing in things],
        "truncation": truncations,
        "occlusion": [0 if share > 0.9 else 1 if share > 0.6 else 2 for _, share in shown],
        "alpha": [thing.alpha for thing in things],
        "boxes": boxes,
        "dimensions": [thing.dimensions for thing in things],
        "location": [thing.location for thing in things],
        "yaw": [thing.yaw for thing in things],
    }
    parts = np.array([_box(camera, thing)[0] for thing in region]).reshape(-1, 4)
    sides = parts[:, 2:] - parts[:, :2]
    if (sides > 0).all(1).any():
        parts = parts[(sides > 0).all(1)]
        unknown = {"truncation": -1, "occlusion": -1, "alpha": kitti.UNKNOWN_ANGLE, "yaw": kitti.UNKNOWN_ANGLE}
        unknown |= {"dimensions": [-1.0] * 3, "location": [kitti.UNKNOWN_LOCATION] * 3}
        unknown |= {"types": kitti.DONT_CARE, "boxes": np.concatenate([parts[:, :2].min(0), parts[:, 2:].max(0)])}
        rows = {name: [*values, unknown[name]] for name, values in rows.items()}
    return kitti.Labels(
        types=np.array(rows["types"], str),
        occlusion=np.array(rows["occlusion"], np.int64),
        boxes=np.array(rows["boxes"]).reshape(-1, 4),
        dimensions=np.array(rows["dimensions"]).reshape(-1, 3),
        location=np.array(rows["location"]).reshape(-1, 3),
        **{name: np.array(rows[name], float) for name in ("truncation", "alpha", "yaw")},
    )


def _draw_street(rng: np.random.Generator, camera: np.ndarray) -> np.ndarray:
    """Sky, skyline, grass, pavement and a road whose markings are meters apart; ``[H, W, 3]``."""
    horizon = round(camera[1, 2])
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    down = np.linspace(0, 1, horizon)[:, None, None]
    image[:horizon] = (1 - down) * np.array([130, 170, 215]) + down * np.array([215, 225, 235])
    image[horizon:] = np.array([96, 122, 78]) + rng.integers(-10, 11, 3)
    x = 0
    while x < image.shape[1]:
        width, height = (int(rng.integers(*bounds)) for bounds in ((24, 90), (6, 44)))
        image[horizon - height : horizon, x : x + width] = rng.integers(135, 175) + rng.integers(-8, 9, 3)
        x += width
    middle, gray = rng.uniform(-2, 2), int(rng.integers(88, 112))

    def lay(left: float, right: float, near: float, far: float, color: Sequence[float]) -> None:
        drawing.fill(image, _pixels(camera, _ground([left, right, right, left], [near, near, far, far])), color)

    lay(middle - ROAD - 2.5, middle + ROAD + 2.5, 1, 300, (165, 160, 150))
    lay(middle - ROAD, middle + ROAD, 1, 300, (gray, gray, gray + 4))
    for edge in (-ROAD + 0.25, ROAD - 0.4):
        lay(middle + edge, middle + edge + 0.15, 1, 300, (215, 215, 210))
    for near in np.arange(rng.uniform(1, 7), 120, 6.0):
        lay(middle - 0.08, middle + 0.08, near, near + 3, (225, 225, 220))
    ground = image[horizon:]
    grain = cv2.resize(rng.integers(0, 14, (HEIGHT // 4, WIDTH // 4), np.uint8), ground.shape[1::-1])
    image[horizon:] = cv2.subtract(ground, cv2.merge([grain] * 3))
    return image


def _ground(x: Sequence[float], z: Sequence[float]) -> np.ndarray:
    return np.column_stack([x, np.full(len(x), CAMERA_HEIGHT), z])


def _draw_shadow(image: np.ndarray, camera: np.ndarray, thing: Cuboid) -> None:
    """A dark patch under a thing, a little larger than its footprint."""
    foot = thing.corners[:4]
    drawing.fill(image, _pixels(camera, foot + 0.15 * (foot - foot.mean(0))), SHADOW)


def _draw_thing(image: np.ndarray, camera: np.ndarray, thing: Cuboid) -> None:
    """The faces of a thing that look toward the camera, with their marks."""
    corners = thing.corners
    eye = -np.linalg.solve(camera[:, :3], camera[:, 3])
    for face, (origin, right, up) in FACES.items():
        start, across, upward = corners[origin], corners[right] - corners[origin], corners[up] - corners[origin]
        middle = start + (across + upward) / 2
        if (eye - middle) @ (middle - corners.mean(0)) <= 0:
            continue
        marks = MARKS[thing.kind].get(face.removeprefix("other "), [])
        for *shape, color in [("box", 0, 0, 1, 1, thing.color), *marks]:
            outline = _outline(*shape)
            points = start + outline[:, :1] * across + outline[:, 1:] * upward
            drawing.fill(image, _pixels(camera, points), SHADES[face] * np.array(color))


def _outline(shape: str, left: float, bottom: float, right: float, top: float) -> np.ndarray:
    """Polygon ``[N, 2]`` in shares of a face."""
    if shape == "box":
        return np.array([[left, bottom], [right, bottom], [right, top], [left, top]], float)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    around = np.column_stack([np.cos(angle), np.sin(angle)]) / 2
    return np.array([left + right, bottom + top]) / 2 + around * [right - left, top - bottom]
