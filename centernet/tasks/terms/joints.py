"""Terms of joints: offsets from the object's center, and heatmaps to snap them to.

Objects as Points, Sec. 4.2 and 5.3. Errors relative to the joints' tolerances are those of the object keypoint
similarity (cocodataset.org), which YOLO-Pose (Maji et al., 2022, arXiv:2204.06806, Sec. 3.3) trains by; positions
predicted in all cells near a joint are those of Papandreou et al. (2017, arXiv:1701.01779, Sec. 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from centernet.errors import InputError
from centernet.joints import JointSet
from centernet.ops.boxes import box_area
from centernet.ops.heatmap import draw_gaussians, is_recorded, on_host
from centernet.ops.peaks import strongest_peaks_per_channel
from centernet.structures import AtCells, DenseMap, Detections, Objects, Outputs
from centernet.tasks.terms.base import About, HeatmapTerm, Peaks, Placed, Regression, Term, ignored_regions
from centernet.tasks.terms.box import Offset

# Peaks of joint heatmaps below this probability are discarded; a joint farther from its peak than this fraction of the
# box's longer side keeps its regressed position (both as in the original).
MIN_JOINT_SCORE, SNAP_DISTANCE = 0.1, 0.3
# Position of a missing peak: farther away than any joint.
NOWHERE = 1e4
# Standard deviation of the Gaussian around a regressed position, as a fraction of the box's longer side, and how likely
# the best peak under it must be for the joint to snap to it.
REGRESSED_SPREAD, MIN_LIKELIHOOD = 0.2, 0.02
# The least tolerance in cells: closer to a joint than this, small objects do not weigh more.
LEAST_TOLERANCE = 0.25


def joint_set(term: Term) -> JointSet:
    """The joints of a task: those of its data, else COCO's 17."""
    return JointSet.of(term.fact("joints", "data"), f"task {term.about.task}: joints")


def shown_joints(placed: Placed, objects: Objects, stride: int) -> tuple[Tensor, Tensor]:
    """Joints ``[B, M, J, 2]`` in cells, and which of them are supervised ``[B, M, J]``: labeled and inside the grid."""
    joints = objects["joints"].float()
    points = joints[..., :2] / stride
    (x, y), (height, width) = points.unbind(-1), placed.grid_size
    is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return points, (joints[..., 2] > 0) & placed.is_object[..., None] & is_inside


def tolerances(placed: Placed, joints: JointSet) -> Tensor:
    """How far off each joint may be, in cells ``[B, M, J]``: twice its sigma times the square root of the box's area,
    where the object keypoint similarity is exp(-1/2)."""
    sigmas = torch.tensor(joints.sigmas).to(placed.boxes.device, non_blocking=True)
    return (2 * sigmas * box_area(placed.boxes).sqrt()[..., None]).clamp(min=LEAST_TOLERANCE)


def joint_peaks(heatmap: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The best ``most`` peaks of joint heatmaps ``[B, J, H, W]``: probability and cell ``[B, J, P]``."""
    return strongest_peaks_per_channel(heatmap, most)


def vote(heatmap: Tensor, offset: Tensor, cells: Tensor) -> Tensor:
    """Positions ``[B, J, P, 2]`` of joints at flat ``cells [B, J, P]``, in cells: the mean of what each cell and its
    eight neighbors say in ``offset [B, 2 J, H, W]``, weighted by their probabilities ``heatmap [B, J, H, W]`` (as the
    Hough voting of arXiv:1701.01779, Sec. 3.3)."""
    height, width = heatmap.shape[-2:]
    step = torch.arange(9, device=cells.device)
    row = torch.div(cells, width, rounding_mode="floor")
    # Not cells % width: the exporter to ONNX has no remainder by a width that is free.
    x = (cells - row * width)[..., None] + step % 3 - 1
    y = row[..., None] + torch.div(step, 3, rounding_mode="floor") - 1
    is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # Of what lies outside, any cell: it does not count.
    near = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(2)
    weight = heatmap.flatten(2).gather(2, near).view_as(x) * is_inside
    said = offset.unflatten(1, (-1, 2)).flatten(3).gather(3, near[:, :, None].expand(-1, -1, 2, -1))
    said = said.view(*said.shape[:3], *x.shape[2:]) + torch.stack([x, y], 2)
    total = weight.sum(-1).clamp(min=torch.finfo(heatmap.dtype).tiny)
    return ((weight[:, :, None] * said).sum(-1) / total[:, :, None]).transpose(2, 3)


def nearest_peak(regressed: Tensor, boxes: Tensor, peaks: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """For each joint ``regressed [B, J, K, 2]`` of objects with ``boxes [B, K, 4]``, the nearest of the strong ``peaks
    [B, J, P, 2]`` (``scores [B, J, P]``): its index ``[B, J, K]``, and whether it lies in the box and near enough to
    snap to it. As the original. All in cells."""
    peaks = torch.where((scores > MIN_JOINT_SCORE)[..., None], peaks, -NOWHERE)
    nearest, which = _squared_distances(regressed, peaks).min(-1)
    snapped = peaks.gather(2, which[..., None].expand(-1, -1, -1, 2))
    low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]
    is_near = nearest.sqrt() <= SNAP_DISTANCE * (high - low).amax(-1)
    is_inside = ((snapped >= low) & (snapped <= high)).all(-1)
    return which, is_near & is_inside & (snapped[..., 0] > -NOWHERE)


def likeliest_peak(regressed: Tensor, boxes: Tensor, peaks: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The same for the peak with the largest product of its probability and a Gaussian around the regressed position:
    its index, and whether this product is large enough to snap to it."""
    variance = (REGRESSED_SPREAD * (boxes[..., 2:] - boxes[..., :2]).amax(-1)).square().clamp(min=LEAST_TOLERANCE**2)
    # Of the product's logarithm, as there are many of them: exponentials that vanish take longest.
    away = _squared_distances(regressed, peaks) / (2 * variance[:, None, :, None])
    likelihood, which = (scores.log()[:, :, None] - away).max(-1)
    return which, likelihood > math.log(MIN_LIKELIHOOD)


def _squared_distances(regressed: Tensor, peaks: Tensor) -> Tensor:
    """Of each joint ``[B, J, K, 2]`` and each peak ``[B, J, P, 2]``: ``[B, J, K, P]``."""
    # Not torch.cdist: its matrix product loses precision, and export has no operator for it.
    # And not a difference of both coordinates at once: a sum over two numbers takes longer than one of two maps.
    x, y = (regressed[..., None, n] - peaks[:, :, None, :, n] for n in (0, 1))
    return x * x + y * y


def snap_joints(
    joints: Tensor,
    boxes: Tensor,
    heatmap: Tensor,
    peaks: Tensor,
    scores: Tensor,
    choose: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Joints ``[B, K, J, 2]`` snapped to peaks of their ``heatmap [B, J, H, W]``, and its values there ``[B, K, J]``.

    ``choose`` (``nearest_peak``, ``likeliest_peak``) selects among ``peaks [B, J, P, 2]`` with these ``scores [B, J,
    P]``; a joint that has none keeps its regressed position. All in cells.
    """
    height, width = heatmap.shape[-2:]
    regressed = joints.transpose(1, 2)  # [B, J, K, 2]
    given = (regressed, boxes, peaks, scores)
    if on_host(regressed) and not is_recorded():
        # What is computed for each joint and each of its peaks stays in the caches, an image at a time.
        chosen = [choose(*rows) for rows in zip(*(each.split(1) for each in given), strict=True)]
        which, is_snapped = (torch.cat(each) for each in zip(*chosen, strict=True))
    else:
        which, is_snapped = choose(*given)
    snapped = peaks.gather(2, which[..., None].expand(-1, -1, -1, 2))
    # The score of a joint that was not snapped is its heatmap's probability at the regressed cell.
    x, y = regressed.floor().unbind(-1)
    in_grid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    cell = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
    there = heatmap.flatten(2).gather(2, cell) * in_grid
    scores = torch.where(is_snapped, scores.gather(2, which), there)
    joints = torch.where(is_snapped[..., None], snapped, regressed)
    return joints.transpose(1, 2), scores.transpose(1, 2)


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


class RelativeJoints(Joints):
    """Offsets in cells from every cell under the object's Gaussian to each of its joints, with errors relative to the
    tolerance of the joint.

    A joint's weights sum to 1 over its cells, divided by its tolerance (``tolerances``), and the loss is divided by the
    sum of all weights: it is in cells, and counts joints equally by the share of their tolerance that is missed.
    """

    unit_sum = True

    def __init__(self, name: str, about: About, weight: float = 1.0) -> None:
        super().__init__(name, about, weight, "dense")

    def weigh(self, gaussian: Tensor, owner: Tensor, placed: Placed) -> Tensor:
        # In the order of owners: [B, J, M], and a last one that stands for "no owner".
        per_cell = tolerances(placed, self.joints).reciprocal().transpose(1, 2).flatten()
        return gaussian * F.pad(per_cell, (0, 1))[owner]

    def mirror(self, values: Tensor) -> Tensor:
        # Input pixels are mirrored at the last pixel, so the image moves by a pixel against the cells.
        points = values.unflatten(1, (-1, 2))[:, self.joints.mirrored]
        x, y = points.split(1, 2)
        return torch.cat([1 - 1 / self.about.stride - x, y], 2).flatten(1, 2)


class NearJoints(RelativeJoints):
    """Position of each joint, predicted in all cells under its own Gaussian (``SpreadHeatmap``), each joint in channels
    of its own: a peak that is a cell off still knows where the joint is, and joints may share a cell."""

    reads_peaks = False
    found_in = "joint_heatmap"
    sharpness = 3.0

    def encode(self, placed: Placed, objects: Objects) -> DenseMap:
        points, is_shown = shown_joints(placed, objects, self.about.stride)
        return self.under_gaussians(placed, points.flatten(2), is_shown, points.floor(), spread(placed, self.joints))

    def taught(self, maps: Outputs) -> DenseMap:
        """Each joint where the teacher finds that joint."""
        return DenseMap(maps[self.name], maps[self.found_in].repeat_interleave(2, 1).square())


def spread(placed: Placed, joints: JointSet) -> Tensor:
    """Radii int64 ``[B, M, J, 2]`` of Gaussians as wide as annotations of the joint scatter, at least a cell: their
    standard deviation (a sixth of the window) is half the tolerance."""
    radius = (1.5 * tolerances(placed, joints) - 0.5).clamp(min=1).long()
    return radius[..., None].expand(-1, -1, -1, 2)


class JointHeatmap(HeatmapTerm):
    """One channel per joint, with the Gaussian radii of the objects; no loss inside crowd regions."""

    needs = ("joints",)

    def __init__(self, name: str, about: About, weight: float = 1.0, loss: str = "focal") -> None:
        super().__init__(name, about, weight, loss)
        self.joints = joint_set(self)
        self.channels = len(self.joints.names)

    def radii(self, placed: Placed) -> Tensor:
        """Radii int64 ``[B, M, J, 2]`` along x and y of the Gaussians of joints."""
        return placed.radius[:, :, None].expand(-1, -1, self.channels, -1)

    def encode(self, placed: Placed, objects: Objects) -> DenseMap:
        points, is_shown = shown_joints(placed, objects, self.about.stride)
        shape = (len(points), self.channels, *placed.grid_size)
        heatmap = draw_gaussians(
            points.floor().long().flatten(0, 2),
            torch.where(is_shown[..., None], self.radii(placed), -1).flatten(0, 2),
            torch.arange(self.channels, device=points.device).expand_as(is_shown).flatten(),
            shape,
            placed.image[..., None].expand_as(is_shown).flatten(),
        )
        regions = ignored_regions(placed, placed.boxes, torch.zeros_like(placed.cell), 1)
        return DenseMap(heatmap, None if regions is None else (~regions).to(heatmap.dtype).expand(shape))

    def mirror(self, values: Tensor) -> Tensor:
        return values[:, self.joints.mirrored]


class SpreadHeatmap(JointHeatmap):
    """Joint heatmap whose Gaussians are as wide as annotations of the joint scatter (``spread``).

    ``share``: the score of an object is score^(1 - s) * (mean probability of its joints)^s with s = ``share``.
    """

    def __init__(self, name: str, about: About, weight: float = 1.0, share: float = 0.25) -> None:
        super().__init__(name, about, weight)
        self.share = self.number("share", share, least=0, below=1)

    def radii(self, placed: Placed) -> Tensor:
        return spread(placed, self.joints)


class JointOffset(Offset):
    """Position of a joint in its cell, predicted in that cell."""

    needs = ("joints",)
    reads_peaks = False
    found_in = "joint_heatmap"

    def __init__(self, name: str, about: About, weight: float = 1.0, loss: str = "l1") -> None:
        super().__init__(name, about, weight, "center", loss)

    def encode(self, placed: Placed, objects: Objects) -> AtCells:
        points, is_shown = shown_joints(placed, objects, self.about.stride)
        cells = torch.where(is_shown[..., None], points.floor(), 0)
        flat = (cells[..., 1] * placed.grid_size[1] + cells[..., 0]).long()
        offset = torch.where(is_shown[..., None], points - cells, 0)
        return AtCells(flat.flatten(1), offset.flatten(1, 2), is_shown.flatten(1))
