"""Terms of extreme points: their heatmaps, their offsets, and the heatmap of centers that groups them.

ExtremeNet (Zhou et al., 2019, arXiv:1901.08043), Sec. 3 and 4, as the original implementation of CenterNet has it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from centernet.ops.grouping import Extremes, Groups, aggregate_edges, group_extremes
from centernet.ops.heatmap import find_peaks, suppress_non_peaks
from centernet.structures import AtCells, DenseMap, Objects, Outputs
from centernet.tasks.terms.base import About, HeatmapTerm, Placed, ignored_regions
from centernet.tasks.terms.box import Offset
from centernet.tasks.terms.points import Points, gaussians, in_every_class

SIDES = ("top", "left", "bottom", "right")
"""The heatmaps of extreme points, in the order of the field."""
# The axis of their maps along which the edge of an object runs.
ALONG = {"top": 3, "left": 2, "bottom": 3, "right": 2}


def box_of(points: Tensor) -> Tensor:
    """The boxes ``[..., 4]`` (x1, y1, x2, y2) that extreme points ``[..., 4, 2]`` lie on."""
    top, left, bottom, right = points.unbind(-2)
    return torch.stack([left[..., 0], top[..., 1], right[..., 0], bottom[..., 1]], -1)


class ExtremeCenters(Points):
    """Centers of the boxes on which extreme points lie; in decoding, they group these points.

    Of the options that ``Points`` has not:

    - ``candidates``: peaks of each kind of extreme point per image (the paper takes 40, the original's CenterNet 100).
    - ``min_score``, ``min_center_score``: the least probability of an extreme point, and of the center of a group.
    - ``aggregation``: weight of edge aggregation (Sec. 4.3; the paper uses 0.1, the original's CenterNet 0).
    - ``groups``: groups per image and pass, before suppression; ``max_detections`` are left after it.
    - ``ghosts``: a box gets half its score if the scores inside it sum up to more than so many times its own (Sec. 4.2;
      3 in the paper); None: no suppression of ghosts, as in the original's CenterNet.
    """

    needs = ("boxes", "labels", "extreme_points")

    def __init__(
        self,
        name: str,
        about: About,
        weight: float = 1.0,
        loss: str = "focal",
        radius: str = "centernet",
        min_overlap: float = 0.7,
        crowds: str = "ignore",
        max_detections: int = 100,
        candidates: int = 100,
        groups: int = 1000,
        min_score: float = 0.1,
        min_center_score: float = 0.1,
        aggregation: float = 0.0,
        ghosts: float | None = None,
    ) -> None:
        super().__init__(name, about, weight, loss, radius, min_overlap, crowds, 1, max_detections)
        self.candidates = int(self.number("candidates", candidates, least=1))
        self.groups = int(self.number("groups", groups, least=1))
        self.min_score = self.number("min_score", min_score, least=0, below=1)
        self.min_center_score = self.number("min_center_score", min_center_score, least=0, below=1)
        self.aggregation = self.number("aggregation", aggregation, least=0)
        self.ghosts = None if ghosts is None else self.number("ghosts", ghosts, above=0)

    @property
    def rows(self) -> int:
        return self.groups

    @property
    def most_peaks(self) -> int:
        return self.candidates

    @property
    def takes_any_grid(self) -> bool:
        return not self.aggregation  # which goes through the grid line by line

    def place(self, objects: Objects, grid_size: tuple[int, int]) -> Placed:
        boxes = box_of(objects["extreme_points"]).to(objects["boxes"].dtype)
        if self.crowds == "ignore":  # regions without points of their own
            boxes = torch.where(objects["crowd"][..., None], objects["boxes"], boxes)
        return super().place({**objects, "boxes": boxes}, grid_size)

    def find(self, maps: Outputs) -> Groups:
        """The groups of extreme points of activated maps."""
        kinds = []
        for side in SIDES:
            heatmap = maps[side]
            if self.aggregation:
                heatmap = aggregate_edges(heatmap, self.aggregation, ALONG[side])
            kinds.append(Extremes(*find_peaks(suppress_non_peaks(heatmap).clamp(max=1), self.candidates)))
        is_agnostic = all(maps[side].shape[1] == 1 for side in SIDES)
        thresholds = (self.min_score, self.min_center_score)
        return group_extremes(kinds, maps[self.name], self.groups, *thresholds, per_class=not is_agnostic)


class ExtremeHeatmap(HeatmapTerm):
    """Extreme points of one kind, with the Gaussians of their objects; a point outside the grid counts at its edge, as
    in the original. A channel for each class, or, after ``ignore_classes``, one for all."""

    needs = ("extreme_points",)
    per_class = True
    side: ClassVar[int]
    """Which of the points."""

    def __init__(self, name: str, about: About, weight: float = 1.0, loss: str = "focal") -> None:
        super().__init__(name, about, weight, loss)
        self.channels = about.num_classes

    def ignore_classes(self) -> None:
        """Let points have no class."""
        self.per_class, self.channels = False, 1

    def encode(self, placed: Placed, objects: Objects) -> DenseMap:
        labels = objects["labels"]
        channel = labels.clamp(min=0) if self.per_class else torch.zeros_like(labels)
        points = points_on_grid(placed, objects, self.about.stride, self.side)
        heatmap = gaussians(placed, points, placed.radius, channel, self.channels)
        # The last channel stands for all.
        ignored = torch.where(labels < 0, self.channels, channel)
        regions = ignored_regions(placed, placed.boxes, ignored, self.channels + 1)
        return DenseMap(heatmap, None if regions is None else (~in_every_class(regions)).to(heatmap.dtype))


class ExtremeOffset(Offset):
    """Position of an extreme point in its cell, predicted in that cell."""

    needs = ("extreme_points",)
    reads_peaks = False
    side: ClassVar[int]

    def __init__(self, name: str, about: About, weight: float = 1.0, loss: str = "l1") -> None:
        super().__init__(name, about, weight, "center", loss)

    def encode(self, placed: Placed, objects: Objects) -> AtCells:
        points = points_on_grid(placed, objects, self.about.stride, self.side)
        cells = points.floor()
        flat = (cells[..., 1] * placed.grid_size[1] + cells[..., 0]).long()
        return AtCells(flat, points - cells, placed.is_object)


def points_on_grid(placed: Placed, objects: Objects, stride: int, side: int) -> Tensor:
    """Points ``[B, M, 2]`` of this side in cells, inside the grid; 0 without an object."""
    height, width = placed.grid_size
    x, y = (objects["extreme_points"][..., side, :].float() / stride).unbind(-1)
    points = torch.stack([x.clamp(0, width - 1), y.clamp(0, height - 1)], -1)
    return torch.where(placed.is_object[..., None], points, 0)


class Top(ExtremeHeatmap):
    """Topmost points."""

    side = 0


class Left(ExtremeHeatmap):
    """Leftmost points; the rightmost ones of the mirrored image."""

    side, partner = 1, "right"


class Bottom(ExtremeHeatmap):
    """Bottommost points."""

    side = 2


class Right(ExtremeHeatmap):
    """Rightmost points."""

    side, partner = 3, "left"


class TopOffset(ExtremeOffset):
    """Of topmost points."""

    side, found_in = 0, "top"


class LeftOffset(ExtremeOffset):
    """Of leftmost points."""

    side, found_in, partner = 1, "left", "right_offset"


class BottomOffset(ExtremeOffset):
    """Of bottommost points."""

    side, found_in = 2, "bottom"


class RightOffset(ExtremeOffset):
    """Of rightmost points."""

    side, found_in, partner = 3, "right", "left_offset"
