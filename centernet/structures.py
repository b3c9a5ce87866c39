"""The vocabulary: what travels between data, tasks, networks and metrics.

Spaces: image (pixels of the file), input (pixels of the network's input), grid (cells of the output map),
camera (meters). Matrices are destination-from-source. Points are (x, y), boxes (x1, y1, x2, y2), sizes (height, width).
Convention: the center of the first pixel is at (0, 0), as in ``cv2.warpAffine`` and in the original implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from centernet.errors import InputError, NonFiniteLossError

__all__ = [
    "HEATMAP_BIAS", "AtCells", "Batch", "DenseMap", "Detections", "Head", "InputError", "JointSet",
    "NonFiniteLossError", "Objects", "Outputs", "Sample", "Target", "Targets", "empty_objects", "index",
    "stack_objects", "unbatch", "unstack_objects",
]  # fmt: skip


class Objects(TypedDict, total=False):
    """Ground truth of one image ``[M, ...]``, or of a batch ``[B, M, ...]`` padded with ``valid = False``.

    More fields (joints, dimensions, ...) may be there; a task says in ``requires`` which ones it needs.
    """

    boxes: Tensor  # float [.., M, 4] xyxy
    labels: Tensor  # int64 [.., M] contiguous, 0 .. num_classes - 1
    crowd: Tensor  # bool [.., M] an ignore region, not an object
    area: Tensor  # float [.., M] pixels of the object's mask in the image, what COCO sorts small / medium / large by
    valid: Tensor  # bool [B, M] only in a batch: False where a row is padding

    # float [.., M, J, 3] x, y, and -1 its class has no such joint / 0 not labeled / 1 labeled but hidden / 2 visible
    joints: Tensor

    # Monocular 3D (KITTI). A label of -1 marks a region that is ignored for every class (DontCare).
    neutral: Tensor  # bool [.., M] a crowd row that evaluation neither rewards nor punishes for its label (Van as Car)
    truncation: Tensor  # float [.., M] share of the object outside the image, 0 .. 1
    occlusion: Tensor  # int64 [.., M] 0 fully visible, 1 partly, 2 largely occluded, 3 unknown
    alpha: Tensor  # float [.., M] observation angle, radians in -pi .. pi
    dimensions: Tensor  # float [.., M, 3] height, width, length in meters
    location: Tensor  # float [.., M, 3] middle of the box's bottom face in camera space, meters
    yaw: Tensor  # float [.., M] rotation around the camera's y axis, radians in -pi .. pi
    center_3d: Tensor  # float [.., M, 2] projection of the middle of the 3D box, in the space of the boxes
    rescaled: Tensor  # bool [.., M] augmentation changed the image's scale, so that depth no longer fits what is seen
    focal: Tensor  # float [.., M] focal length of the image's camera, in pixels of the space of the boxes


class Sample(TypedDict):
    """One image on its way to the network."""

    image: Tensor  # uint8 [3, H, W] RGB
    input_from_image: Tensor  # float64 [3, 3]
    image_id: int
    image_size: Tensor  # int64 [2] (height, width) of the file
    objects: Objects  # in input space: what is encoded
    truth: Objects  # in image space: what is evaluated (empty while training)
    mosaic: NotRequired[tuple[int, int] | None]  # where four images meet, if this one becomes a mosaic (x, y)
    calibration: NotRequired[Tensor]  # float64 [3, 4] image pixels from camera meters (KITTI's P2)


class Batch(TypedDict):
    """Stacked samples; ``objects`` and ``truth`` are padded to the largest count of the batch."""

    image: Tensor  # uint8 [B, 3, H, W]
    input_from_image: Tensor  # float64 [B, 3, 3]
    image_id: Tensor  # int64 [B]
    image_size: Tensor  # int64 [B, 2]
    objects: Objects
    truth: Objects
    calibration: NotRequired[Tensor]  # float64 [B, 3, 4]


class Detections(TypedDict, total=False):
    """Detections ``[B, K, ...]`` of a batch, or ``[K, ...]`` of one image, sorted by falling score."""

    boxes: Tensor  # float [.., K, 4] xyxy
    scores: Tensor  # float [.., K]
    labels: Tensor  # int64 [.., K]

    joints: Tensor  # float [.., K, J, 2] x, y
    joint_scores: Tensor  # float [.., K, J]

    # Monocular 3D; location, yaw and corners only after ``Task.lift``.
    center_3d: Tensor  # float [.., K, 2] x, y of what is lifted to the middle of the 3D box
    depth: Tensor  # float [.., K] meters along the camera's axis
    dimensions: Tensor  # float [.., K, 3] height, width, length in meters
    alpha: Tensor  # float [.., K] observation angle, radians in -pi .. pi
    location: Tensor  # float [.., K, 3] middle of the bottom face, camera space, meters
    yaw: Tensor  # float [.., K] radians in -pi .. pi
    corners: Tensor  # float [.., K, 8, 3] camera space, meters


HEATMAP_BIAS = -2.19
"""Logit of 0.1: every cell starts as a peak of probability 0.1, as in the focal-loss paper (arXiv:1708.02002, Sec.
4.1)."""


@dataclass(frozen=True)
class Head:
    """One output map: what the network emits and how it is supervised.

    ``loss`` names an entry of ``centernet.losses.LOSSES``; ``weight`` is its share of the total; ``bias`` is what the
    last convolution starts from: ``HEATMAP_BIAS`` for heatmaps. ``per_class``: the channels are the classes, in their
    order, so many per class.
    """

    channels: int
    loss: str
    weight: float = 1.0
    bias: float = 0.0
    per_class: bool = False

    @property
    def is_heatmap(self) -> bool:
        """Whether the map holds peaks (as opposed to regressed values)."""
        return self.loss in ("focal", "mse")


# COCO's person (Lin et al., 2014); the sigmas are how far annotators differ, relative to the object's scale.
COCO_JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
COCO_SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2),
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
# Joints that nobody measured: the mean of COCO's.
USUAL_SIGMA = 0.07


@dataclass(frozen=True)
class JointSet:
    """The joints of an object: names, which of them change places in a mirror, their tolerance, what is connected.

    ``flip_pairs`` and ``skeleton`` are pairs of positions in ``names``; ``sigmas`` belong to the object keypoint
    similarity (standard deviation of a joint, relative to the square root of the object's area).
    """

    names: tuple[str, ...] = COCO_JOINTS
    flip_pairs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, description: Any = None, where: str = "joints") -> JointSet:
        """Joints from plain data: a mapping with any of the four keys, or None for COCO's person.

        Pairs may name joints or give their positions. What is absent follows from the names: left and right are
        paired, COCO's joints get COCO's sigmas and skeleton. Raises ``InputError`` for pairs that name no joint.
        """
        if description is not None and not isinstance(description, Mapping):
            raise InputError(f"{where}={description!r} is no mapping; give names, flip_pairs, sigmas or skeleton")
        given = dict(description or {})
        if unknown := set(given) - {"names", "flip_pairs", "sigmas", "skeleton"}:
            raise InputError(
                f"{where}: {', '.join(sorted(unknown))} is unknown; there are names, flip_pairs, sigmas and skeleton"
            )
        names = tuple(str(name) for name in given.get("names") or COCO_JOINTS)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{where}: two joints are called {twice!r}; give every joint its own name")
        is_coco = names == COCO_JOINTS
        if given.get("flip_pairs") is None:
            pairs = _left_and_right(names)
        else:
            pairs = tuple(_pair(pair, names, f"{where}: flip pair") for pair in given["flip_pairs"])
        moved = [joint for pair in pairs for joint in pair]
        if len(set(moved)) < len(moved):
            twice = names[next(joint for joint in moved if moved.count(joint) > 1)]
            raise InputError(f"{where}: joint {twice!r} is in two flip pairs; a mirror can move it to one place only")
        if given.get("skeleton") is None:
            skeleton = COCO_SKELETON if is_coco else ()
        else:
            skeleton = tuple(_pair(pair, names, f"{where}: skeleton line") for pair in given["skeleton"])
        sigmas = given.get("sigmas")
        if sigmas is None:
            known = dict(zip(COCO_JOINTS, COCO_SIGMAS, strict=True))
            sigmas = [known.get(name, USUAL_SIGMA) for name in names]
        try:
            is_sound = len(sigmas) == len(names) and all(float(sigma) > 0 for sigma in sigmas)
        except (TypeError, ValueError):
            is_sound = False
        if not is_sound:
            raise InputError(f"{where}: {len(names)} joints need {len(names)} positive sigmas, given were {sigmas}")
        return cls(names, pairs, tuple(float(sigma) for sigma in sigmas), skeleton)

    @property
    def mirrored(self) -> list[int]:
        """For each joint the one that stands in its place in a mirror image."""
        order = list(range(len(self.names)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return order

    def plain(self) -> dict[str, Any]:
        """The same as plain data; ``JointSet.of`` reads it."""
        return {
            "names": list(self.names),
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "sigmas": list(self.sigmas),
            "skeleton": [list(pair) for pair in self.skeleton],
        }


def _left_and_right(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of joints whose names differ in left / right (l_ / r_ before, _l / _r behind, L / R before a capital)."""
    swaps = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
    position = {name: n for n, name in enumerate(names)}
    pairs = []
    for n, name in enumerate(names):
        partners = [name.replace(left, right) for left, right in swaps if left in name]
        partners += [f"{other}{name[2:]}" for one, other in (("l_", "r_"), ("L_", "R_")) if name.startswith(one)]
        partners += [f"{name[:-2]}{other}" for one, other in (("_l", "_r"), ("_L", "_R")) if name.endswith(one)]
        partners += [f"R{name[1:]}" for one in name[:1] if one == "L" and name[1:2].isupper()]
        pairs += [(n, position[partner]) for partner in partners if partner in position][:1]
    return tuple(pairs)


def _pair(pair: Any, names: Sequence[str], where: str) -> tuple[int, int]:
    try:
        a, b = pair
    except (TypeError, ValueError):
        raise InputError(f"{where} {pair!r} must hold two joints") from None
    found = []
    for joint in (a, b):
        if isinstance(joint, str) and joint in names:
            found.append(list(names).index(joint))
        elif isinstance(joint, int) and 0 <= joint < len(names):
            found.append(joint)
        else:
            raise InputError(f"{where} {list(pair)} names no joint {joint!r}; the joints are {', '.join(names)}")
    if found[0] == found[1]:
        raise InputError(f"{where} {list(pair)} joins a joint with itself")
    return found[0], found[1]


@dataclass
class DenseMap:
    """A target for every cell: ``value [B, C, H, W]`` and, where cells count differently, ``weight`` of that shape."""

    value: Tensor
    weight: Tensor | None = None


@dataclass
class AtCells:
    """A target at single cells.

    ``cell [B, M]`` flat index ``y * width + x``; ``value [B, M, C]``; ``mask`` bool or 0/1, ``[B, M]`` (whole rows) or
    ``[B, M, C]`` (single elements).
    """

    cell: Tensor
    value: Tensor
    mask: Tensor


Target = DenseMap | AtCells
Targets = dict[str, Target]
Outputs = dict[str, Tensor]


def empty_objects() -> Objects:
    """Ground truth of an image without objects."""
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.long),
        "crowd": torch.zeros(0, dtype=torch.bool),
        "area": torch.zeros(0),
    }


def index(rows: Any, keep: Tensor) -> Any:
    """Select rows of every field of an ``Objects`` or ``Detections`` of one image."""
    return {name: value[keep] for name, value in rows.items()}


def stack_objects(items: Sequence[Objects]) -> Objects:
    """Pad the objects of several images to the largest count and stack them, with ``valid`` marking the real rows."""
    most = max((len(item["labels"]) for item in items), default=0)
    batch: dict[str, Tensor] = {}
    for name in items[0]:
        first = items[0][name]
        out = first.new_zeros((len(items), most, *first.shape[1:]))
        for row, item in enumerate(items):
            out[row, : len(item[name])] = item[name]
        batch[name] = out
    batch["valid"] = torch.zeros(len(items), most, dtype=torch.bool)
    for row, item in enumerate(items):
        batch["valid"][row, : len(item["labels"])] = True
    return batch  # type: ignore[return-value]


def unstack_objects(batch: Objects) -> Iterator[Objects]:
    """The objects of each image of a batch, without padding and without ``valid``."""
    for row in range(len(batch["valid"])):
        keep = batch["valid"][row]
        yield {name: value[row][keep] for name, value in batch.items() if name != "valid"}  # type: ignore[misc]


def unbatch(detections: Detections, threshold: float = 0.0) -> list[Detections]:
    """Split detections by image and drop those with a score below ``threshold``."""
    return [
        index({name: value[row] for name, value in detections.items()}, detections["scores"][row] >= threshold)
        for row in range(len(detections["scores"]))
    ]
