"""ddd: 3D boxes from one image.

Objects as Points, Sec. 4 and appendix (targets and losses of depth, dimensions and orientation); the bins of angles
follow Mousavian et al., 2017 (arXiv:1612.00496).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from centernet.metrics.kitti import PROTOCOLS, KittiAP
from centernet.ops.affine import is_mirrored, transform_points
from centernet.ops.boxes import pairwise_iou
from centernet.ops.camera import box_corners, unproject, wrap_angle, yaw_of_alpha
from centernet.ops.heatmap import (
    draw_gaussians,
    draw_regions,
    find_peaks,
    gather_cells,
    gaussian_radius,
    points_of_cells,
    suppress_non_peaks,
)
from centernet.structures import (
    HEATMAP_BIAS,
    AtCells,
    Batch,
    DenseMap,
    Detections,
    Head,
    InputError,
    Objects,
    Outputs,
    Targets,
)
from centernet.tasks.base import weighted_losses
from centernet.tasks.ctdet import CtdetTask, Placed, classes_of

# What the original adds to a sigmoid before it divides by it.
DEPTH_MARGIN = 1e-6
# The two bins of alpha: their middles, and how far they reach to either side (they overlap by 60 degrees).
BIN_MIDDLES = (-torch.pi / 2, torch.pi / 2)
BIN_REACH = 2 * torch.pi / 3
# The largest value of a heatmap that is no center: the loss hardly pushes it down any more.
NO_CENTER = 0.9999
# A logit that is as good as certain.
SURE = 10.0


class DddTask(CtdetTask):
    """3D boxes from depth, dimensions and observation angle at the centers of 2D boxes.

    - ``k``: detections per image. ``radius``: ``centernet``, ``cornernet`` or ``proportional``, at ``min_overlap``.
    - ``size``, ``offset``: whether to regress the 2D box's size, and where in its cell its center lies.
    - ``slots``: None: the losses at centers are means over the objects. A number: over so many rows per image, or over
      all rows where there are more objects. The original has 50, weights these losses thereby by how full an image is,
      and gives depth the weight 1, which without slots would drown everything else.
    - ``ignored``: around objects that count neither way (crowd rows) the heatmap is not pushed down under a
      ``gaussian``, or in the whole box (``region``). A label of -1 means all classes.
    - ``focal``: focal length in input pixels that depths belong to. With it the network learns and says how far away
      things look to such a camera, whatever the image's own camera and scale, and ``lift`` multiplies by the ratio of
      the two focal lengths. None: depth is taken as it is, as in the original.
    - ``overlap``: what counts as found in evaluation, ``official`` or ``relaxed``.

    Where an object was ``rescaled`` and there is no ``focal``, its depth and dimensions are not supervised.
    """

    name = "ddd"
    requires = ("boxes", "labels", "location", "dimensions", "alpha")

    def __init__(
        self,
        num_classes: int,
        stride: int = 4,
        k: int = 100,
        radius: str = "centernet",
        min_overlap: float = 0.7,
        heatmap_weight: float = 1.0,
        depth_weight: float = 0.1,
        dimensions_weight: float = 1.0,
        rotation_weight: float = 1.0,
        size_weight: float = 0.1,
        offset_weight: float = 1.0,
        size: bool = True,
        offset: bool = True,
        slots: int | None = None,
        ignored: str = "gaussian",
        focal: float | None = None,
        overlap: str = "official",
    ) -> None:
        super().__init__(
            num_classes, stride, k, radius, min_overlap, heatmap_weight, size_weight, offset_weight, offset=offset
        )
        for option, value, choices in (
            ("ignored", ignored, ("gaussian", "region")),
            ("overlap", overlap, tuple(PROTOCOLS)),
        ):
            if value not in choices:
                raise InputError(f"task {self.name}: {option}={value!r} is unknown; choose one of {', '.join(choices)}")
        for option, number in (("slots", slots), ("focal", focal)):
            if number is not None and not number > 0:
                raise InputError(f"task {self.name}: {option}={number} must be positive, or null")
        self.depth_weight, self.dimensions_weight = depth_weight, dimensions_weight
        self.rotation_weight, self.size, self.slots = rotation_weight, size, slots
        self.ignored, self.focal, self.overlap = ignored, focal, overlap

    @property
    def heads(self) -> dict[str, Head]:
        value, angle = ("l1", "multi_bin") if self.slots is None else ("mean_l1", "mean_multi_bin")
        heads = {
            "heatmap": Head(self.num_classes, "focal", self.heatmap_weight, HEATMAP_BIAS, per_class=True),
            "depth": Head(1, value, self.depth_weight),
            "dimensions": Head(3, value, self.dimensions_weight),
            "rotation": Head(8, angle, self.rotation_weight),
        }
        if self.size:
            heads["size"] = Head(2, value, self.size_weight)
        if self.offset:
            heads["offset"] = Head(2, value, self.offset_weight)
        return heads

    def encode(self, objects: Objects, grid_size: tuple[int, int]) -> Targets:
        placed = self.place(objects, grid_size)
        targets: Targets = {
            "heatmap": self.encode_heatmap(placed, objects["labels"], grid_size),
            **self.encode_cells(placed, objects),
        }
        if self.slots is not None:
            targets = {name: _with_slots(target, self.slots) for name, target in targets.items()}
        return targets

    def place(self, objects: Objects, grid_size: tuple[int, int]) -> Placed:
        placed = super().place(objects, grid_size)
        return placed._replace(radius=self.radius_of(placed.size[placed.rows]))

    def radius_of(self, size: Tensor) -> Tensor:
        """Radii int64 ``[N]`` of Gaussians for sizes ``[N, 2]`` (cells); here the sides are not rounded up first."""
        return gaussian_radius(size[:, 1], size[:, 0], self.min_overlap, self.radius).long()

    def encode_heatmap(self, placed: Placed, labels: Tensor, grid_size: tuple[int, int]) -> DenseMap:
        """The Gaussians of the objects; where something is ignored, almost or entirely no push downwards.

        A center stays one whatever is ignored around it. In the original an ignored object overwrites the centers of
        the objects that the annotation names before it.
        """
        shape = (len(labels), self.num_classes, *grid_size)
        centers = placed.corner[placed.rows].long()
        heatmap = draw_gaussians(centers, placed.radius, labels[placed.rows], shape, placed.rows[0])
        ignored = (placed.present & ~placed.is_object).nonzero(as_tuple=True)
        row, channel = classes_of(labels[ignored], self.num_classes)
        if not len(row):
            return DenseMap(heatmap)
        image = ignored[0][row]
        if self.ignored == "region":
            # Whole cells, the one with the far corner included.
            regions = draw_regions(placed.boxes[ignored][row].floor(), channel, shape, image)
            return DenseMap(heatmap, (~regions).to(heatmap.dtype))
        centers, radius = placed.corner[ignored].long(), self.radius_of(placed.size[ignored])
        unknown = draw_gaussians(centers[row], radius[row], channel, shape, image)
        return DenseMap(torch.maximum(heatmap, unknown.clamp(max=NO_CENTER)))

    def encode_cells(self, placed: Placed, objects: Objects) -> dict[str, AtCells]:
        """What is regressed at centers; depth and dimensions not of objects that augmentation has rescaled, unless
        depth is that of one and the same camera."""
        cell, is_object = placed.cell, placed.is_object
        depth = objects["location"][..., 2:].float()
        is_known = is_object
        if self.focal is not None and "focal" in objects:
            depth = depth * torch.where(is_object, self.focal / objects["focal"].float(), 1)[..., None]
        elif "rescaled" in objects:
            is_known = is_object & ~objects["rescaled"]
        targets = {
            "depth": AtCells(cell, depth, is_known),
            "dimensions": AtCells(cell, objects["dimensions"].float(), is_known),
            "rotation": AtCells(cell, self.encode_alpha(objects["alpha"].float()), is_object),
        }
        if self.size:
            targets["size"] = AtCells(cell, placed.size, is_object)
        if self.offset:
            targets["offset"] = AtCells(cell, placed.center - placed.corner, is_object)
        return targets

    def losses(self, outputs: Sequence[Outputs], targets: Targets) -> dict[str, Tensor]:
        return weighted_losses(self.heads, [with_depth(stack) for stack in outputs], targets)

    def activate(self, outputs: Outputs) -> Outputs:
        return with_depth(super().activate(outputs))

    def decode(self, maps: Outputs) -> Detections:
        """Boxes and ``center_3d [B, K, 2]`` (what ``lift`` brings into space) in input pixels, depth and dimensions in
        meters, alpha in radians. Without a size map boxes are as small as a point."""
        scores, labels, cell = find_peaks(suppress_non_peaks(maps["heatmap"]), self.k)
        at = {name: gather_cells(value, cell) for name, value in maps.items() if name != "heatmap"}
        corner = points_of_cells(cell, maps["heatmap"].shape[-1])
        return {"scores": scores, "labels": labels, **self.describe(at, labels, corner)}

    def describe(self, at: Outputs, labels: Tensor, corner: Tensor) -> Detections:
        """Everything but scores and labels of detections, from the values ``[B, K, C]`` of the maps in their cells,
        whose upper left corners are ``corner [B, K, 2]``."""
        center = corner + (at["offset"] if self.offset else 0.5)
        half = at["size"] / 2 if self.size else torch.zeros_like(center)
        return {
            "boxes": torch.cat([center - half, center + half], -1) * self.stride,
            "center_3d": center * self.stride,
            "depth": at["depth"][..., 0],
            "dimensions": at["dimensions"],
            "alpha": self.decode_alpha(at["rotation"]),
        }

    def merge_flipped(self, maps: Outputs) -> Outputs:
        merged = {}
        for name, value in maps.items():
            plain, mirrored = value.chunk(2)
            mirrored = mirrored.flip(-1)
            if name == "rotation":
                mirrored = self.mirror_alpha(mirrored)
            # See CtdetTask for the offset.
            merged[name] = plain if name.startswith("offset") else (plain + mirrored) / 2
        return merged

    def encode_alpha(self, alpha: Tensor) -> Tensor:
        """Targets ``[..., C]`` of angles ``[...]`` in -pi .. pi."""
        return torch.cat(bins_of_alpha(alpha), -1)

    def decode_alpha(self, rotation: Tensor) -> Tensor:
        """Angles ``[...]`` in -pi .. pi of what the rotation map says, ``[..., C]``."""
        return alpha_of_bins(rotation)

    def mirror_alpha(self, rotation: Tensor) -> Tensor:
        """What the rotation map ``[B, C, H, W]`` would say of a mirror image: alpha becomes pi - alpha.

        Here both bins change into themselves, and the residual changes its sign.
        """
        return rotation * rotation.new_tensor([1, 1, -1, 1] * 2)[:, None, None]

    def perfect_alpha(self, targets: Tensor) -> Tensor:
        """The rotation map that a flawless network would give for a map of targets ``[B, C, H, W]``."""
        inside, residual = targets.chunk(2, 1)
        sure = (2 * inside - 1) * SURE
        return torch.stack([-sure, sure, residual.sin(), residual.cos()], 2).flatten(1, 2)

    def depth_scale(self, batch: Batch) -> Tensor:
        """What ``lift`` multiplies the depths of each image by, ``[B]``: 1, or this camera's focal length in input
        pixels, divided by ``focal``."""
        camera = _calibration(batch)
        if self.focal is None:
            return torch.ones_like(camera[:, 0, 0])
        scale = torch.linalg.det(batch["input_from_image"][:, :2, :2]).abs().sqrt()
        return camera[:, 0, 0] * scale.to(camera) / self.focal

    def lift(self, detections: Detections, batch: Batch) -> Detections:
        """From input to image pixels, and with ``batch["calibration"] [B, 3, 4]`` into camera space: ``location``,
        ``yaw`` and ``corners``.

        Boxes are cut at the border of the image. Every image has its own camera, and depth means z, as it was trained.
        (The original uses the first camera of a batch, takes depth for the projective one, a few millimeters more in
        KITTI, and moves sizes by the translation.) Raises ``InputError`` when there is no calibration.
        """
        lifted = super().lift(detections, batch)
        if "image_size" in batch:
            # As results are written and as KITTI labels what is cut: boxes end at the index of the last pixel.
            last = batch["image_size"].to(lifted["boxes"]).flip(-1).repeat(1, 2)[:, None] - 1
            lifted["boxes"] = lifted["boxes"].clamp(min=0).minimum(last)
        camera, image_from_input = _calibration(batch), torch.linalg.inv(batch["input_from_image"])
        center = transform_points(image_from_input, detections["center_3d"])
        depth = (detections["depth"] * self.depth_scale(batch)[:, None]).to(center.dtype)
        mirrored = wrap_angle(torch.pi - detections["alpha"])
        alpha = torch.where(is_mirrored(image_from_input)[:, None], mirrored, detections["alpha"])
        dimensions = detections["dimensions"]
        location = unproject(camera, center, depth + camera[:, None, 2, 3])
        location = location + F.pad(dimensions[..., :1] / 2, (1, 1))  # from the box's middle to its bottom
        yaw = yaw_of_alpha(camera, alpha, center[..., 0])
        return {
            **lifted,
            "center_3d": center,
            "depth": depth,
            "alpha": alpha,
            "location": location,
            "yaw": yaw,
            "corners": box_corners(dimensions, location, yaw),
        }

    def metric(self, class_names: Sequence[str]) -> KittiAP:
        return KittiAP(class_names, overlap=self.overlap)

    def perfect(self, targets: Targets, grid_size: tuple[int, int]) -> Outputs:
        outputs = super().perfect(targets, grid_size)
        outputs["depth"] = logit_of_depth(outputs["depth"])
        outputs["rotation"] = self.perfect_alpha(outputs["rotation"])
        return outputs


def with_depth(maps: Outputs) -> Outputs:
    """Maps with the first channel of ``depth`` in meters, 1 / (sigmoid + 1e-6) - 1, computed in float32."""
    raw, others = maps["depth"].float().split([1, maps["depth"].shape[1] - 1], 1)
    return {**maps, "depth": torch.cat([1 / (raw.sigmoid() + DEPTH_MARGIN) - 1, others], 1)}


def logit_of_depth(depth: Tensor) -> Tensor:
    """What a network must say for these depths (meters, 0 or more; same shape): the inverse of ``with_depth``."""
    return torch.logit((1 / (depth.double() + 1) - DEPTH_MARGIN).clamp(min=DEPTH_MARGIN)).to(depth.dtype)


def bins_of_alpha(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Whether angles ``[...]`` (radians in -pi .. pi) lie in each of the two bins (0 or 1), and where, ``[..., 2]``.

    A residual is alpha minus the bin's middle, not wrapped (only its sine and cosine count), and 0 outside.
    """
    residual = alpha[..., None] - alpha.new_tensor(BIN_MIDDLES)
    inside = (wrap_angle(residual).abs() < BIN_REACH).to(alpha.dtype)
    return inside, torch.where(inside > 0, residual, 0)


def alpha_of_bins(rotation: Tensor) -> Tensor:
    """Angles ``[...]`` in -pi .. pi from ``[..., 8]``: of the bin that is surer to hold the angle."""
    bins = rotation.unflatten(-1, (2, 4))
    angle = torch.atan2(bins[..., 2], bins[..., 3]) + rotation.new_tensor(BIN_MIDDLES)
    return wrap_angle(torch.where(bins[..., 0, 1] > bins[..., 1, 1], angle[..., 0], angle[..., 1]))


def put_true_depth(detections: Detections, objects: Objects, scale: Tensor | float = 1.0) -> Detections:
    """Detections with the depth of the objects that they show: how good would they be if depth were known?

    ``detections [B, K, ...]`` before ``lift`` and padded ``objects [B, M, ...]``, both in input pixels; a detection
    takes the depth of the object of its class whose box it overlaps most, if that is more than half (IoU). ``scale
    [B]``: ``DddTask.depth_scale``, which ``lift`` multiplies by.
    """
    if not objects["labels"].shape[1]:
        return detections
    is_same = detections["labels"][..., None] == objects["labels"][:, None]
    is_same = is_same & (objects["valid"] & ~objects["crowd"])[:, None]
    overlap = pairwise_iou(detections["boxes"], objects["boxes"].to(detections["boxes"])) * is_same
    best, which = overlap.max(-1)
    depth = detections["depth"]
    true = objects["location"][..., 2].to(depth).gather(1, which) / torch.as_tensor(scale).to(depth).view(-1, 1)
    return {**detections, "depth": torch.where(best > 0.5, true, depth)}


def _with_slots(target: AtCells | DenseMap, slots: int) -> AtCells | DenseMap:
    """Targets at cells with at least so many rows, the new ones unsupervised."""
    if isinstance(target, DenseMap) or target.cell.shape[1] >= slots:
        return target
    missing = slots - target.cell.shape[1]
    return AtCells(
        F.pad(target.cell, (0, missing)), F.pad(target.value, (0, 0, 0, missing)), F.pad(target.mask, (0, missing))
    )


def _calibration(batch: Batch) -> Tensor:
    if "calibration" not in batch:
        raise InputError(
            "3D boxes need the camera of every image, but the batch has no calibration; give the matrix P2 [3, 4] of a "
            "KITTI calib file, or a focal length (centernet.ops.camera.camera_matrix)"
        )
    return batch["calibration"]
