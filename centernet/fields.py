"""The table of fields: what objects, detections and images can hold, and how it changes when an image is warped.

Generic code (warping, mirroring, mosaics, pasting, padding, collation, messages, pictures) reads ``FIELDS``; a new
field is one row there. Only readers, terms and metrics refer to fields by name.

Convention: spaces and matrices as in ``centernet.structures`` and ``centernet.ops.affine``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from centernet.joints import JointSet
from centernet.ops.affine import is_mirrored, scale_of, transform_boxes, transform_points
from centernet.ops.camera import wrap_angle
from centernet.structures import Detections, Objects, Rows


class Geometry(Enum):
    """How a field follows its image under an affine map of the pixels (``fields.move``)."""

    CONSTANT = "stays"
    METRIC = "meters or camera space: independent of pixels"
    BOX = "x1, y1, x2, y2 in pixels: the upright box around the moved corners"
    POINTS = "x, y in pixels, optionally followed by a visibility"
    LENGTH = "pixels: scales with the image"
    VIEWING_ANGLE = "radians around the vertical, as seen by the camera: a mirror maps it to pi minus itself"
    PLANE_ANGLE = "radians on the image plane, from x toward y: a direction, which rotates and flips with the image"


class Field(NamedTuple):
    """One row of the table.

    ``about``: shape of one row, units, meaning. ``partners``: the fact of the data (a ``JointSet``) that defines which
    elements a mirror swaps, or the index of each element's partner, whatever the data. ``of``: ``object`` or
    ``image``. ``pad``: value of padded rows. ``source``: data that has it, to complete the message "use ...".
    ``annotation``: the key of COCO annotations that holds it, for plain numbers. ``inside``: points that lie in the
    object's box, also when only a part of it is shown.
    """

    about: str
    geometry: Geometry = Geometry.CONSTANT
    partners: str | tuple[int, ...] | None = None
    of: str = "object"
    pad: float = 0
    source: str = ""
    annotation: str | None = None
    inside: bool = False


_JOINTS = (
    "data=figures (built in), or data=coco_pose with person_keypoints_*.json of COCO or any json whose categories have "
    "keypoints, or data=yolo with a yaml that has kpt_shape"
)
_SPACE = "data=cuboids (built in), or data=kitti"

FIELDS: dict[str, Field] = {
    # Fields of every data set.
    "boxes": Field("[4] x1, y1, x2, y2", Geometry.BOX),
    "labels": Field("int64, class; -1: a region ignored for every class"),
    "crowd": Field("bool, a region that is neither found nor missed, not an object"),
    "area": Field("pixels of the object's mask in the image, by which COCO sorts small, medium and large"),
    "valid": Field("bool, only in a batch: False where a row is padding"),
    # Fields of every task.
    "scores": Field("0 .. 1, detections only"),
    # Pascal VOC.
    "difficult": Field("bool, an object that VOC's evaluation leaves out", source="data=voc"),
    "truncated": Field("bool, part of the object is outside the image or hidden", source="data=voc"),
    # Joints, of objects [J, 3] with visibility: -1 the class has no such joint, 0 not labeled, 1 hidden, 2 visible.
    "joints": Field("[J, 2 or 3] x, y, visibility", Geometry.POINTS, "joints", source=_JOINTS),
    "joint_scores": Field("[J] 0 .. 1, detections only", partners="joints"),
    # Extreme points of ExtremeNet; see centernet.data.extremes.
    "extreme_points": Field(
        "[4, 2] x, y of the topmost, leftmost, bottommost and rightmost point",
        Geometry.POINTS,
        (0, 3, 2, 1),
        inside=True,
        source="data.extreme_points=masks (data=shapes, built in, or a json with masks), or data.extreme_points=boxes",
    ),
    # Monocular 3D; see centernet.ops.camera.
    "dimensions": Field("[3] height, width, length in meters", Geometry.METRIC, source=_SPACE),
    "location": Field("[3] middle of the box's bottom face in camera space, meters", Geometry.METRIC, source=_SPACE),
    "yaw": Field("rotation around the camera's y axis, -pi .. pi", Geometry.VIEWING_ANGLE, source=_SPACE),
    "alpha": Field("observation angle, -pi .. pi", Geometry.VIEWING_ANGLE, source=_SPACE),
    "center_3d": Field("[2] projection of the middle of the 3D box", Geometry.POINTS, source=_SPACE),
    "bottom": Field("[2] projection of the middle of the 3D box's bottom face", Geometry.POINTS, source=_SPACE),
    "bottom_spread": Field("standard deviation of the bottom's row in pixels, detections only", Geometry.LENGTH),
    "depth": Field("meters along the camera's axis, detections only", Geometry.METRIC),
    "depth_spread": Field("standard deviation of the depth, detections only", Geometry.METRIC),
    "corners": Field("[8, 3] of the 3D box in camera space, meters, detections only", Geometry.METRIC),
    "focal": Field("focal length of the image's camera in pixels", Geometry.LENGTH, source=_SPACE, pad=1),
    "rescaled": Field("bool, augmentation changed the image's scale, so depth no longer matches it"),
    "truncation": Field("share of the object outside the image, 0 .. 1", source=_SPACE),
    "occlusion": Field("int64, 0 fully visible, 1 partly, 2 largely occluded, 3 unknown", source=_SPACE),
    "neutral": Field("bool, a crowd row whose detections count neither way (a Van detected as Car)"),
    "calibration": Field("[3, 4] image pixels from camera meters (KITTI's P2)", of="image", source=_SPACE),
}
_UNKNOWN = Field("any other result of a task")


class Picture(NamedTuple):
    """Fields that are drawn together: ``kind`` names the function (``centernet.visualize``), which takes these ``rows``
    (those in ``optional`` may be absent), the ``fact`` of the data and the ``image`` field that it needs. ``hides`` is
    the kind that it replaces."""

    kind: str
    rows: tuple[str, ...]
    optional: tuple[str, ...] = ()
    fact: str | None = None
    image: str | None = None
    hides: str | None = None


PICTURES = (
    Picture("solid", ("boxes", "dimensions", "location", "yaw"), image="calibration", hides="box"),
    Picture("box", ("boxes",)),
    Picture("octagon", ("extreme_points",)),
    Picture("skeleton", ("joints", "joint_scores"), optional=("joint_scores",), fact="joints"),
)

IMAGE_FIELDS = tuple(name for name, field in FIELDS.items() if field.of == "image")
Partners = Mapping[str, Sequence[int]]


def partners_of(facts: Mapping[str, Any]) -> Partners:
    """For every fact that pairs elements (joints): the index of each element's partner in the mirror image."""
    named = {field.partners for field in FIELDS.values() if isinstance(field.partners, str)}
    return {name: JointSet.of(facts[name]).mirrored for name in sorted(named) if facts.get(name) is not None}


def move(rows: Rows, matrix: Tensor, partners: Partners | None = None) -> Rows:
    """Rows of one image ``[M, ...]`` under a matrix ``[3, 3]``, or of a batch ``[B, M, ...]`` under ``[B, 3, 3]``.

    Each field moves according to its geometry; pixels become float32. ``partners``: see ``partners_of``; without them,
    a mirror swaps no elements.
    """
    mirrored = is_mirrored(matrix)
    mirrors = bool(mirrored.any())
    moved = {}
    for name, value in rows.items():
        field = FIELDS.get(name, _UNKNOWN)
        if field.geometry is Geometry.BOX:
            value = transform_boxes(matrix, value.double()).float()
        elif field.geometry is Geometry.POINTS:
            value = _move_points(matrix, value)
        elif field.geometry is Geometry.LENGTH:
            value = value * scale_of(matrix)[..., None].to(value.dtype)
        elif field.geometry is Geometry.PLANE_ANGLE:
            along = torch.stack([value.cos(), value.sin()], -1).to(matrix.dtype) @ matrix[..., :2, :2].mT
            value = torch.atan2(along[..., 1], along[..., 0]).to(value.dtype)
        if mirrors:
            value = _mirror(value, field, mirrored, partners or {})
        moved[name] = value
    return moved


def _move_points(matrix: Tensor, value: Tensor) -> Tensor:
    """Points ``[..., M, 2]``, or ``[..., M, J, 2 or 3]`` with J to a row."""
    points = value[..., :2].double()
    # Matrices have as many axes as rows of single points.
    flat = points.flatten(-3, -2) if value.ndim > matrix.ndim else points
    moved = transform_points(matrix, flat).float().view(points.shape)
    return torch.cat([moved, value[..., 2:].float()], -1) if value.shape[-1] > 2 else moved


def _mirror(value: Tensor, field: Field, mirrored: Tensor, partners: Partners) -> Tensor:
    """Swap left and right elements of a field where the image is mirrored (bool ``[]`` or ``[B]``)."""
    other = value
    if field.geometry is Geometry.VIEWING_ANGLE:
        other = wrap_angle(torch.pi - value)
    elif isinstance(order := partners.get(field.partners, field.partners), Sequence) and not isinstance(order, str):
        axis = -2 if field.geometry is Geometry.POINTS else -1
        other = value.index_select(axis, torch.as_tensor(order, device=value.device))
    if other is value:
        return value
    return torch.where(mirrored.view(*mirrored.shape, *[1] * (value.ndim - mirrored.ndim)), other, value)


def hide_points(objects: Objects, is_shown: Callable[[Tensor], Tensor]) -> Objects:
    """Objects of one image without the labels of points that are not shown; ``is_shown`` maps points ``[..., 2]`` to
    bool ``[...]``."""
    hidden = dict(objects)
    for name, value in objects.items():
        if FIELDS.get(name, _UNKNOWN).geometry is Geometry.POINTS and value.shape[-1] == 3:
            keeps = is_shown(value[..., :2])[..., None] | (value[..., 2:] < 0)
            hidden[name] = torch.where(keeps, value, 0)
    return hidden


def cut_objects(objects: Objects, boxes: Tensor) -> Objects:
    """Objects of one image with the boxes ``[M, 4]`` of their visible parts; of those that are cut, points that belong
    into the box are moved into it."""
    is_cut = (boxes != objects["boxes"]).any(-1)[:, None, None]
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    moved = {
        name: torch.where(is_cut, value.maximum(low.to(value.dtype)).minimum(high.to(value.dtype)), value)
        for name, value in objects.items()
        if FIELDS.get(name, _UNKNOWN).inside
    }
    return {**objects, **moved, "boxes": boxes}


def sources(names: Sequence[str]) -> str:
    """The data that has the first of these fields that only some data has, or an empty string."""
    return next((field.source for name in names if (field := FIELDS.get(name, _UNKNOWN)).source), "")


def index(rows: Rows, keep: Tensor) -> Rows:
    """Select rows of every field of one image."""
    return {name: value[keep] for name, value in rows.items()}


def stack_objects(items: Sequence[Objects]) -> Objects:
    """Pad the objects of several images to the largest count and stack them, with ``valid`` marking the real rows."""
    counts = torch.tensor([len(item["labels"]) for item in items])
    most = int(counts.max()) if len(items) else 0
    batch: Objects = {}
    for name, first in items[0].items():
        out = first.new_full((len(items), most, *first.shape[1:]), FIELDS.get(name, _UNKNOWN).pad)
        for row, item in enumerate(items):
            out[row, : len(item[name])] = item[name]
        batch[name] = out
    batch["valid"] = torch.arange(most) < counts[:, None]
    return batch


def unstack_objects(batch: Objects) -> Iterator[Objects]:
    """The objects of each image of a batch, without padding and without ``valid``."""
    for row, keep in enumerate(batch["valid"]):
        yield index({name: value[row] for name, value in batch.items() if name != "valid"}, keep)


def unbatch(detections: Detections, threshold: float = 0.0) -> list[Detections]:
    """Split detections by image and drop those with a score below ``threshold``, and empty rows, of score 0 and without
    a box, with which a task fills up an image that has too few."""
    boxes = detections["boxes"]
    is_empty = (detections["scores"] == 0) & (boxes[..., 2:] == boxes[..., :2]).all(-1)
    kept = (detections["scores"] >= threshold) & ~is_empty
    return [
        index({name: value[row] for name, value in detections.items()}, kept[row])
        for row in range(len(detections["scores"]))
    ]
