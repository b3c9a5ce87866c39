"""Terms of joints: offsets from the object's center, and heatmaps to snap them to.

Objects as Points, Sec. 4.2 and 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from centernet.errors import InputError
from centernet.joints import JointSet
from centernet.ops.heatmap import draw_gaussians, draw_regions
from centernet.structures import AtCells, DenseMap, Detections, Objects
from centernet.tasks.terms.base import About, HeatmapTerm, Peaks, Placed, Regression, Term
from centernet.tasks.terms.box import Offset


def joint_set(term: Term) -> JointSet:
    """The joints of a task: those of its data, else COCO's 17."""
    return JointSet.of(term.fact("joints", "data"), f"task {term.about.task}: joints")


def shown_joints(placed: Placed, objects: Objects, stride: int) -> tuple[Tensor, Tensor]:
    """Joints ``[B, M, J, 2]`` in cells, and which of them are supervised ``[B, M, J]``: labeled and inside the grid."""
    joints = objects["joints"].float()
    points = joints[..., :2] / stride
    height, width = placed.grid_size
    is_inside = ((points >= 0) & (points < points.new_tensor([width, height]))).all(-1)
    return points, (joints[..., 2] > 0) & placed.is_object[..., None] & is_inside


class Joints(Regression):
    """Offsets in cells from the object's cell to each of its joints, x and y of one after the other."""

    needs = ("joints",)
    known_losses = ("l1",)
    positions = (True,)

    def __init__(self, name: str, about: About, weight: float = 1.0, supervise: str = "center") -> None:
        super().__init__(name, about, weight, supervise)
        self.joints = joint_set(self)
        self.channels = 2 * len(self.joints.names)

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        points, is_shown = shown_joints(placed, objects, self.about.stride)
        return points.flatten(2), is_shown

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"joints": (peaks.corner[:, :, None] + values.unflatten(-1, (-1, 2))) * self.about.stride}

    def mirror(self, values: Tensor) -> Tensor:
        # The original's: it leaves out that the mirrored cell's origin lies on its other side (a cell less a pixel).
        points = values.unflatten(1, (-1, 2))[:, self.joints.mirrored]
        return (points * points.new_tensor([-1, 1]).view(2, 1, 1)).flatten(1, 2)

    @property
    def facts(self) -> dict[str, Any]:
        return {"joints": self.joints.plain()}

    def check_facts(self, facts: Mapping[str, Any], where: str) -> None:
        there = JointSet.of(facts.get("joints"))
        theirs, mine = there.names, self.joints.names
        if len(theirs) != len(mine):
            raise InputError(
                f"{where} has {len(theirs)} joints ({', '.join(theirs[:4])}, ...), the model has {len(mine)} "
                f"({', '.join(mine[:4])}, ...); use data with the same joints"
            )
        for place, (a, b) in enumerate(zip(theirs, mine, strict=True)):
            if a != b:
                raise InputError(
                    f"joint {place} is {a!r} in {where} and {b!r} in the model; use data with the same joints "
                    "or rename them with data.joints={names: [...]}"
                )
        if {frozenset(pair) for pair in there.flip_pairs} != {frozenset(pair) for pair in self.joints.flip_pairs}:
            raise InputError(
                f"{where} and the model have different left-right pairs; set data.joints={{flip_pairs: [...]}}"
            )


class JointHeatmap(HeatmapTerm):
    """One channel per joint, with the Gaussian radii of the objects; no loss inside crowd regions."""

    needs = ("joints",)

    def __init__(self, name: str, about: About, weight: float = 1.0, loss: str = "focal") -> None:
        super().__init__(name, about, weight, loss)
        self.joints = joint_set(self)
        self.channels = len(self.joints.names)

    def encode(self, placed: Placed, objects: Objects) -> DenseMap:
        points, is_shown = shown_joints(placed, objects, self.about.stride)
        image, row, joint = is_shown.nonzero(as_tuple=True)
        shape = (len(points), self.channels, *placed.grid_size)
        cells = points[image, row, joint].floor().long()
        heatmap = draw_gaussians(cells, placed.radius[image, row], joint, shape, image)
        ignored = placed.present & ~placed.is_object
        if not ignored.any():
            return DenseMap(heatmap)
        of_image = ignored.nonzero(as_tuple=True)[0]
        one = (shape[0], 1, *placed.grid_size)
        regions = draw_regions(placed.boxes[ignored], torch.zeros_like(of_image), one, of_image)
        return DenseMap(heatmap, (~regions).to(heatmap.dtype).expand(shape))

    def mirror(self, values: Tensor) -> Tensor:
        return values[:, self.joints.mirrored]


class JointOffset(Offset):
    """Position of a joint in its cell, predicted in that cell."""

    needs = ("joints",)
    reads_peaks = False

    def __init__(self, name: str, about: About, weight: float = 1.0, loss: str = "l1") -> None:
        super().__init__(name, about, weight, "center", loss)

    def encode(self, placed: Placed, objects: Objects) -> AtCells:
        points, is_shown = shown_joints(placed, objects, self.about.stride)
        cells = torch.where(is_shown[..., None], points.floor(), 0)
        flat = (cells[..., 1] * placed.grid_size[1] + cells[..., 0]).long()
        offset = torch.where(is_shown[..., None], points - cells, 0)
        return AtCells(flat.flatten(1), offset.flatten(1, 2), is_shown.flatten(1))
