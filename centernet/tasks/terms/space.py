"""Terms of 3D boxes: depth and dimensions, in the original's or MonoDLE's form, depth from the ground, and lifting to
camera space.

Objects as Points, Sec. 4 and appendix; Ma et al., "Delving into Localization Errors for Monocular 3D Object Detection",
CVPR 2021 (arXiv:2103.16237); Zhang et al., "Objects are Different", CVPR 2021 (MonoFlex, arXiv:2104.02323), for several
estimates of one depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from centernet.errors import InputError
from centernet.losses import LOSSES
from centernet.ops.affine import Size as ImageSize
from centernet.ops.affine import scale_of
from centernet.ops.boxes import pairwise_iou
from centernet.ops.camera import box_corners, camera_matrix, unproject, yaw_of_alpha
from centernet.structures import Batch, Detections, Objects, Target
from centernet.tasks.terms.base import About, Peaks, Placed, Regression
from centernet.tasks.terms.box import Offset

# Added to a sigmoid before dividing by it, as in the original.
DEPTH_MARGIN = 1e-6
# Depth error (meters) still counted as correct in a detection's score.
DEPTH_TOLERANCE = 1.0
# Of the errors of the learned depth and of the ground's, as measured on the built-in scenes (0.5 in two trainings).
CORRELATION = 0.5
# Logarithm of a near-zero spread.
CERTAIN = -10.0
# Depth (meters) of an output of 0 where the network predicts a logarithm, and the largest logarithm.
USUAL_DEPTH, MOST_LOG = 20.0, 10.0
# (h, w, l) in meters: MonoDLE's means over KITTI's pedestrians, cars and cyclists, and a typical car.
KITTI_DIMENSIONS = ((1.76, 0.66, 0.84), (1.53, 1.63, 3.88), (1.74, 0.60, 1.76))
USUAL_DIMENSIONS = (1.5, 1.6, 3.9)


class Depth(Regression):
    """Distance along the camera's axis in meters, encoded as 1 / sigmoid - 1.

    ``focal``: reference focal length in input pixels. The network then predicts depth normalized to this camera,
    independent of the image's own camera and scale, and lifting multiplies by the ratio of the two focal lengths.
    ``data``: the data's fact; None: no normalization, as in the original.
    """

    needs = ("location",)
    known_losses = ("l1",)
    channels = 1
    meaning = ("focal",)

    def __init__(self, name: str, about: About, weight: float = 0.1, focal: float | str | None = None) -> None:
        super().__init__(name, about, weight)
        focal = self.fact("focal", focal)
        self.focal = None if focal is None else self.number("focal", focal, above=0)

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        depth = objects["location"][..., 2:].float()
        if self.focal is not None and "focal" in objects:
            depth = depth * torch.where(placed.is_object, self.focal / objects["focal"].float(), 1)[..., None]
        return depth, placed.is_object

    def rescaled(self, objects: Objects) -> Tensor | None:
        """Objects ``[B, M]`` whose depth does not match the image's scale, or None."""
        return None if self.focal is not None and "focal" in objects else objects.get("rescaled")

    def activate(self, raw: Tensor) -> Tensor:
        """The first channel in meters, computed in float32."""
        depth, others = raw.float().split([1, raw.shape[1] - 1], 1)
        return torch.cat([1 / (depth.sigmoid() + DEPTH_MARGIN) - 1, others], 1)

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"depth": values[..., 0]}

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        depth = super().perfect(target, grid_size)
        return torch.logit((1 / (depth.double() + 1) - DEPTH_MARGIN).clamp(min=DEPTH_MARGIN)).to(depth.dtype)

    def scale(self, batch: Batch) -> Tensor:
        """The factor ``[B]`` by which lifting multiplies depths: 1, or the camera's focal length in input pixels
        divided by ``focal``."""
        camera = calibration_of(batch)
        if self.focal is None:
            return torch.ones_like(camera[:, 0, 0])
        return camera[:, 0, 0] * scale_of(batch["input_from_image"]).to(camera) / self.focal


class DepthWithSpread(Depth):
    """Depth, and the logarithm of the standard deviation of a Laplace distribution around it (MonoDLE, Sec. 4.1)."""

    known_losses = ("laplacian",)
    channels = 2

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"depth": values[..., 0], "depth_spread": values[..., 1].exp()}

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        depth = super().perfect(target, grid_size)
        return torch.cat([depth, torch.full_like(depth, CERTAIN)], 1)


class LogDepth(Depth):
    """Depth as the logarithm of its ratio to ``USUAL_DEPTH``, and the logarithm of the relative standard deviation.

    A Laplace distribution over the logarithm: errors count relative to the distance, as they are seen. Read as depth
    and ``depth_spread``, both in meters.
    """

    known_losses = ("laplacian",)
    channels = 2

    def __init__(self, name: str, about: About, weight: float = 1.0, focal: float | str | None = "data") -> None:
        super().__init__(name, about, weight, focal)

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        depth, known = super().truth(placed, objects)
        return (depth.clamp(min=DEPTH_MARGIN) / USUAL_DEPTH).log(), known

    def activate(self, raw: Tensor) -> Tensor:
        """Depth in meters, and the logarithm of its relative spread, in float32."""
        depth, spread = raw.float().clamp(-MOST_LOG, MOST_LOG).chunk(2, 1)
        return torch.cat([USUAL_DEPTH * depth.exp(), spread], 1)

    def losses(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        return {self.name: LOSSES[self.head.loss](raw, target)}

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        depth, spread = values.unbind(-1)
        return {"depth": depth, "depth_spread": depth * spread.exp()}

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        depth = Regression.perfect(self, target, grid_size)
        return torch.cat([depth, torch.full_like(depth, CERTAIN)], 1)


class Bottom(Regression):
    """The row in which the middle of the box's bottom face is seen, relative to the cell, and the logarithm of the
    standard deviation of a Laplace distribution around it, both in cells.

    ``ground``: [height, deviation] of the camera above the ground that objects stand on, mean and standard deviation in
    meters, by which a row tells a depth (``meet_ground``); ``data``: the data's fact; None: the row tells none. What is
    read as ``bottom`` has the column of its cell, which says nothing of depth.
    """

    needs = ("bottom",)
    known_losses = ("laplacian",)
    channels = 2
    positions = (True,)

    def __init__(
        self, name: str, about: About, weight: float = 1.0, ground: Sequence[float] | str | None = "data"
    ) -> None:
        super().__init__(name, about, weight)
        ground = self.fact("ground", ground)
        try:
            self.ground = None if ground is None else tuple(float(value) for value in ground)
        except (TypeError, ValueError):
            self.ground = ()
        if self.ground is not None and not (
            len(self.ground) == 2 and 0 < self.ground[0] < math.inf and 0 <= self.ground[1] < math.inf
        ):
            raise InputError(
                f"task {about.task}: {name}.ground={ground!r} must hold two numbers, the camera's height above the "
                "ground and its standard deviation in meters ([1.65, 0.1])"
            )

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        return objects["bottom"][..., 1:].float() / self.about.stride, placed.is_object

    def _origin(self, points: Tensor) -> Tensor:
        return points[..., 1:]

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        x, y = peaks.corner.unbind(-1)
        row, spread = values.unbind(-1)
        bottom = torch.stack([x, y + row], -1)
        return {"bottom": bottom * self.about.stride, "bottom_spread": spread.exp() * self.about.stride}

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        row = super().perfect(target, grid_size)
        return torch.cat([row, torch.full_like(row, CERTAIN)], 1)


class Dimensions(Regression):
    """Height, width and length in meters."""

    needs = ("dimensions",)
    known_losses = ("l1",)
    channels = 3

    def __init__(self, name: str, about: About, weight: float = 1.0) -> None:
        super().__init__(name, about, weight)

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        return objects["dimensions"].float(), placed.is_object

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"dimensions": values}


class RelativeDimensions(Dimensions):
    """Difference from the mean dimensions of the class, with a loss weighted by 3D overlap (MonoDLE, Sec. 4.3).

    ``means``: [h, w, l] in meters of each class; ``data``: the data's fact, else those of KITTI's pedestrian, car and
    cyclist for three classes, else a car's.
    """

    known_losses = ("dimension_aware_l1",)
    meaning = ("means",)

    def __init__(
        self, name: str, about: About, weight: float = 1.0, means: Sequence[Sequence[float]] | str | None = "data"
    ) -> None:
        super().__init__(name, about, weight)
        count = about.num_classes
        means = self.fact("mean_dimensions", means)
        if means is None:
            means = KITTI_DIMENSIONS if count == 3 else [USUAL_DIMENSIONS] * count
        try:
            self.means = [[float(side) for side in row] for row in means]
        except (TypeError, ValueError):
            self.means = []
        if len(self.means) != count or not all(len(row) == 3 and min(row) > 0 for row in self.means):
            raise InputError(
                f"task {about.task}: {name}.means={means} must hold three positive numbers (height, width, length in "
                f"meters) for each of the {count} classes"
            )

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        dimensions, known = super().truth(placed, objects)
        return torch.cat([dimensions - self.of_classes(objects["labels"], dimensions), dimensions], -1), known

    def of_classes(self, labels: Tensor, like: Tensor) -> Tensor:
        """Mean dimensions ``[..., 3]`` of the classes ``[...]``; arbitrary for invalid labels."""
        # Copied without stopping for the device.
        means = torch.tensor(self.means, dtype=like.dtype).to(like.device, non_blocking=True)
        return means[labels.clamp(0, self.about.num_classes - 1)]

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"dimensions": values + self.of_classes(peaks.labels, values)}

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        return super().perfect(target, grid_size)[:, :3]


class ProjectedOffset(Offset):
    """Position of an object's projected 3D center in its cell."""

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"center_3d": (peaks.corner + values) * self.about.stride}


def confidence_of(spread: Tensor) -> Tensor:
    """Probability that a depth is within ``DEPTH_TOLERANCE``, for Laplace distributions with these standard deviations
    (meters, same shape)."""
    return -torch.expm1(-(2**0.5) * DEPTH_TOLERANCE / spread)


def known_in_space(depth: Depth, objects: Objects) -> dict[str, Tensor]:
    """Masks objects that augmentation has rescaled for depth and dimensions, unless depth is normalized by the focal
    length."""
    rescaled = depth.rescaled(objects)
    return {} if rescaled is None else {"depth": ~rescaled, "dimensions": ~rescaled}


def calibration_of(batch: Batch) -> Tensor:
    """The cameras ``[B, 3, 4]`` of a batch."""
    if "calibration" not in batch:
        raise InputError(
            "3D boxes need the camera of every image, but the batch has no calibration; give the matrix P2 [3, 4] of "
            "a KITTI calib file or a focal length in pixels"
        )
    return batch["calibration"]


def camera_fields(given: Mapping[str, Any], image_size: ImageSize) -> dict[str, Tensor]:
    """The image field ``calibration`` (float64 ``[3, 4]``) from the given ``calibration``, or from the ``focal`` length
    in image pixels of a camera whose axis meets the middle of an image of ``image_size`` (height, width)."""
    focal, given_camera = given.get("focal"), given.get("calibration")
    if focal is not None and not 0 < focal < float("inf"):
        raise InputError(f"focal={focal} is not a focal length; give it in pixels of the image (KITTI: 721)")
    if given_camera is None:
        return {} if focal is None else {"calibration": camera_matrix(focal, image_size)}
    try:
        camera = torch.as_tensor(given_camera).double()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"calibration {str(given_camera)[:60]!r} is not a matrix; give P2 [3, 4] "
            "(centernet.data.kitti_format.read_calibration reads it)"
        ) from None
    if camera.shape != (3, 4) or not torch.isfinite(camera).all() or not (camera[0, 0] > 0 and camera[1, 1] > 0):
        raise InputError(
            f"calibration of shape {list(camera.shape)} is not a camera matrix with positive focal lengths; give P2 "
            "[3, 4]"
        )
    return {"calibration": camera}


def meet_ground(detections: Detections, batch: Batch, depth: Depth, bottom: Bottom) -> Detections:
    """Detections in image pixels, without ``bottom``, whose depth is the mean of the learned one and of the ground's.

    The ray through the row r of a box's bottom meets the plane y = ``bottom.ground[0]`` meters below the camera at
    z = f y / (r - c), with the horizon in row c. Its relative variance is the sum of those of y and of r - c. The mean
    is taken in log space, with the least variance for errors that correlate by ``CORRELATION`` (MonoFlex, Sec. 3.4,
    takes them to be independent). A row above the horizon tells nothing. Raises ``InputError`` without a calibration.
    """
    found = dict(detections)
    row, row_spread = found.pop("bottom")[..., 1], found.pop("bottom_spread")
    if bottom.ground is None:
        return found
    (y, deviation), camera = bottom.ground, calibration_of(batch)[:, None].to(row)
    below = (row - camera[..., 1, 2]).clamp(min=DEPTH_MARGIN)
    meters = (camera[..., 1, 1] * y + camera[..., 1, 3] - row * camera[..., 2, 3]) / below
    other = (meters / depth.scale(batch)[:, None].to(row)).clamp(min=DEPTH_MARGIN)
    # Relative standard deviations.
    own = found["depth_spread"] / found["depth"]
    ground = ((row_spread / below).square() + (deviation / y) ** 2).sqrt()
    both = CORRELATION * own * ground
    share = ((own.square() - both) / (own.square() + ground.square() - 2 * both)).clamp(0, 1)  # of the ground
    mean = torch.lerp(found["depth"].log(), other.log(), share).exp()
    variance = ((1 - share) * own).square() + (share * ground).square() + 2 * share * (1 - share) * both
    return {**found, "depth": mean, "depth_spread": mean * variance.sqrt()}


def lift_to_space(detections: Detections, batch: Batch, depth: Depth) -> Detections:
    """Detections in image pixels with ``location``, ``yaw`` and ``corners`` in camera space, by ``center_3d``, depth,
    dimensions and alpha; boxes end at the image's last pixel.

    Every image has its own camera, and depth is z, as in training. (The original uses the first camera of a batch,
    treats depth as projective, a few millimeters more in KITTI, and shifts sizes by the translation.) Raises
    ``InputError`` without a calibration.
    """
    camera, center, dimensions = calibration_of(batch), detections["center_3d"], detections["dimensions"]
    lifted = dict(detections)
    if "image_size" in batch:
        # As in KITTI's labels and result files, boxes end at the index of the last pixel.
        last = batch["image_size"].to(lifted["boxes"]).flip(-1).repeat(1, 2)[:, None] - 1
        lifted["boxes"] = lifted["boxes"].clamp(min=0).minimum(last)
    meters = (detections["depth"] * depth.scale(batch)[:, None]).to(center.dtype)
    location = unproject(camera, center, meters + camera[:, None, 2, 3])
    location = location + F.pad(dimensions[..., :1] / 2, (1, 1))  # from the box's middle to its bottom
    yaw = yaw_of_alpha(camera, detections["alpha"], center[..., 0])
    corners = box_corners(dimensions, location, yaw)
    return {**lifted, "depth": meters, "location": location, "yaw": yaw, "corners": corners}


def put_true_depth(detections: Detections, objects: Objects, scale: Tensor | float = 1.0) -> Detections:
    """Detections with ground-truth depth, to measure the cost of depth errors.

    ``detections [B, K, ...]`` before lifting and padded ``objects [B, M, ...]``, both in input pixels; a detection
    takes the depth of the object of its class whose box it overlaps most, if that is more than half (IoU). ``scale
    [B]``: ``Depth.scale``, which lifting multiplies by.
    """
    if not objects["labels"].shape[1]:
        return detections
    is_same = detections["labels"][..., None] == objects["labels"][:, None]
    is_same = is_same & (objects["valid"] & ~objects["crowd"])[:, None]
    overlap = pairwise_iou(detections["boxes"], objects["boxes"].to(detections["boxes"])) * is_same
    best, which = overlap.max(-1)
    depth = detections["depth"]
    true = objects["location"][..., 2].to(depth).gather(1, which) / torch.as_tensor(scale).to(depth).view(-1, 1)
    found = {**detections, "depth": torch.where(best > 0.5, true, depth)}
    if "depth_spread" in found:  # so that nothing else has a say
        spread = found["depth_spread"]
        found["depth_spread"] = torch.where(best > 0.5, true * math.exp(CERTAIN), spread)
    return found
