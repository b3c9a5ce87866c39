"""ddd_dle: 3D boxes from one image, with what MonoDLE found about where they are lost.

Ma et al., "Delving into Localization Errors for Monocular 3D Object Detection", CVPR 2021 (arXiv:2103.16237): the
projection of the 3D center is found instead of the 2D center, objects too far away to be located are left out of
training, and dimensions are trained by what they cost in overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from centernet.ops.camera import wrap_angle
from centernet.structures import HEATMAP_BIAS, AtCells, Detections, Head, InputError, Objects, Outputs, Targets
from centernet.tasks.ctdet import Placed
from centernet.tasks.ddd import SURE, DddTask

# How wrong a depth may be (meters) and still count as right in a detection's score.
DEPTH_TOLERANCE = 1.0
HEADING_BINS = 12
HEADING_STEP = 2 * torch.pi / HEADING_BINS
# (h, w, l) in meters: the means over KITTI's pedestrians, cars and cyclists as MonoDLE gives them, and a usual car.
KITTI_DIMENSIONS = ((1.76, 0.66, 0.84), (1.53, 1.63, 3.88), (1.74, 0.60, 1.76))
USUAL_DIMENSIONS = (1.5, 1.6, 3.9)


class DddDleTask(DddTask):
    """3D boxes at the projections of their centers, with depths that know how sure they are.

    - ``k``, ``radius``, ``min_overlap``, ``ignored``, ``focal``, ``overlap``: see ``DddTask``.
    - ``max_depth``: objects farther away (meters) are ignored.
    - ``mean_dimensions``: [h, w, l] in meters of each class, to which the network says the difference. None: those of
      KITTI's pedestrian, car, cyclist for three classes, else a car's.

    The heatmap, the 2D box and everything else belong to the cell that the 3D center is projected into; objects with a
    center outside the grid are dropped. A score is the peak's times the probability that the depth is right to within a
    meter, by the Laplace distribution that the network says. (The authors multiply by a decreasing function of the
    spread that may exceed 1; exp(-spread) would put every near guess before every far object.) All losses are means
    over objects; the authors give depth the weight 1.
    """

    name = "ddd_dle"
    requires = (*DddTask.requires, "center_3d")
    takes = ("mean_dimensions", "focal")
    threshold = 0.15  # scores are peaks times the confidence of depth

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
        size_weight: float = 1.0,
        offset_weight: float = 1.0,
        offset_3d_weight: float = 1.0,
        max_depth: float = 65.0,
        mean_dimensions: Sequence[Sequence[float]] | None = None,
        ignored: str = "gaussian",
        focal: float | None = None,
        overlap: str = "official",
    ) -> None:
        super().__init__(
            num_classes,
            stride,
            k,
            radius,
            min_overlap,
            heatmap_weight,
            depth_weight,
            dimensions_weight,
            rotation_weight,
            size_weight,
            offset_weight,
            slots=None,
            ignored=ignored,
            focal=focal,
            overlap=overlap,
        )
        if not max_depth > 0:
            raise InputError(f"task {self.name}: max_depth={max_depth} must be positive")
        if mean_dimensions is None:
            mean_dimensions = KITTI_DIMENSIONS if num_classes == 3 else [USUAL_DIMENSIONS] * num_classes
        rows = [[float(side) for side in row] for row in mean_dimensions]
        if len(rows) != num_classes or not all(len(row) == 3 and min(row) > 0 for row in rows):
            raise InputError(
                f"task {self.name}: mean_dimensions={rows} must hold three positive numbers (height, width, length in "
                f"meters) for each of the {num_classes} classes"
            )
        self.offset_3d_weight, self.max_depth, self.mean_dimensions = offset_3d_weight, max_depth, rows

    @property
    def heads(self) -> dict[str, Head]:
        return {
            "heatmap": Head(self.num_classes, "focal", self.heatmap_weight, HEATMAP_BIAS, per_class=True),
            "depth": Head(2, "laplacian", self.depth_weight),
            "dimensions": Head(3, "dimension_aware_l1", self.dimensions_weight),
            "rotation": Head(2 * HEADING_BINS, "heading_bins", self.rotation_weight),
            "size": Head(2, "l1", self.size_weight),
            "offset": Head(2, "l1", self.offset_weight),
            "offset_3d": Head(2, "l1", self.offset_3d_weight),
        }

    def place(self, objects: Objects, grid_size: tuple[int, int]) -> Placed:
        """As in ``DddTask``, but the center of an object is the projection of its 3D center."""
        height, width = grid_size
        is_far = objects["location"][..., 2] > self.max_depth
        placed = super().place({**objects, "crowd": objects["crowd"] | is_far}, grid_size)
        center = objects["center_3d"].float() / self.stride
        corner = center.floor()
        is_inside = (corner >= 0).all(-1) & (corner[..., 0] < width) & (corner[..., 1] < height)
        is_object = placed.is_object & is_inside
        rows = is_object.nonzero(as_tuple=True)
        return placed._replace(
            center=torch.where(is_object[..., None], center, placed.center),
            corner=torch.where(is_object[..., None], corner, placed.corner),
            cell=torch.where(is_object, corner[..., 1] * width + corner[..., 0], 0).long(),
            present=placed.present & (is_inside | ~placed.is_object),
            is_object=is_object,
            rows=rows,
            radius=self.radius_of(placed.size[rows]),
        )

    def encode_cells(self, placed: Placed, objects: Objects) -> dict[str, AtCells]:
        targets = super().encode_cells(placed, objects)
        middle = (placed.boxes[..., :2] + placed.boxes[..., 2:]) / 2
        dimensions = targets["dimensions"]
        residual = dimensions.value - self.means(objects["labels"], dimensions.value)
        return {
            **targets,
            "dimensions": AtCells(placed.cell, torch.cat([residual, dimensions.value], -1), dimensions.mask),
            "offset": AtCells(placed.cell, middle - placed.corner, placed.is_object),
            "offset_3d": targets["offset"],
        }

    def means(self, labels: Tensor, like: Tensor) -> Tensor:
        """Mean dimensions ``[..., 3]`` of the classes ``[...]``; labels that name none may hold anything."""
        return like.new_tensor(self.mean_dimensions)[labels.clamp(0, self.num_classes - 1)]

    def decode(self, maps: Outputs) -> Detections:
        found = super().decode(maps)
        found["scores"] = found["scores"] * confidence_of(found.pop("depth_spread"))
        order = found["scores"].topk(found["scores"].shape[1]).indices
        return {
            name: value.gather(1, order.view(*order.shape, *[1] * (value.ndim - 2)).expand_as(value))
            for name, value in found.items()
        }

    def describe(self, at: Outputs, labels: Tensor, corner: Tensor) -> Detections:
        found = super().describe(at, labels, corner)
        return {
            **found,
            "center_3d": (corner + at["offset_3d"]) * self.stride,
            "dimensions": at["dimensions"] + self.means(labels, at["dimensions"]),
            "depth_spread": at["depth"][..., 1].exp(),
        }

    def encode_alpha(self, alpha: Tensor) -> Tensor:
        """Number of the nearest of twelve directions, and how much further the angle is, ``[..., 2]``."""
        nearest = (alpha / HEADING_STEP).round()
        return torch.stack([nearest % HEADING_BINS, alpha - nearest * HEADING_STEP], -1)

    def decode_alpha(self, rotation: Tensor) -> Tensor:
        logits, residuals = rotation.chunk(2, -1)
        which = logits.argmax(-1, keepdim=True)
        return wrap_angle((which * HEADING_STEP + residuals.gather(-1, which)).squeeze(-1))

    def mirror_alpha(self, rotation: Tensor) -> Tensor:
        """As in ``DddTask``; direction n changes places with 6 - n, and residuals change their sign."""
        mirrored = [(HEADING_BINS // 2 - n) % HEADING_BINS for n in range(HEADING_BINS)]
        logits, residuals = rotation.chunk(2, 1)
        return torch.cat([logits[:, mirrored], -residuals[:, mirrored]], 1)

    def perfect_alpha(self, targets: Tensor) -> Tensor:
        which, residual = targets.split(1, 1)
        is_it = (which.round().long() == torch.arange(HEADING_BINS, device=which.device)[:, None, None]).to(which.dtype)
        return torch.cat([SURE * is_it, residual * is_it], 1)

    def perfect(self, targets: Targets, grid_size: tuple[int, int]) -> Outputs:
        outputs = super().perfect(targets, grid_size)
        depth = outputs["depth"]
        sure = torch.full_like(depth, -SURE)  # logarithm of a spread of almost nothing
        return {**outputs, "depth": torch.cat([depth, sure], 1), "dimensions": outputs["dimensions"][:, :3]}


def confidence_of(spread: Tensor) -> Tensor:
    """Probability that a depth is right to ``DEPTH_TOLERANCE``, for Laplace distributions with these standard
    deviations (meters, same shape)."""
    return -torch.expm1(-(2**0.5) * DEPTH_TOLERANCE / spread)
