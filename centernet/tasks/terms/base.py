"""Term: one property of an object, predicted at its point, and everything that follows from it.

Objects as Points, Sec. 3: a head, its target and its loss; Sec. 4.1: reading it at a peak.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from centernet.errors import InputError
from centernet.losses import LOSSES, soft_focal
from centernet.ops.heatmap import dense_owner, draw_regions, gather_cells, on_host, points_of_cells, zeros_on_host
from centernet.structures import HEATMAP_BIAS, AtCells, DenseMap, Detections, Head, Objects, Outputs, Target


@dataclass(frozen=True)
class About:
    """What terms may know about their task; ``facts``: metadata of the data, as plain data."""

    task: str
    num_classes: int
    stride: int = 4
    facts: dict[str, Any] = field(default_factory=dict)
    pad_objects: int | None = None
    wanted: set[str] = field(default_factory=set)  # facts that a term requested and the data lacks


class Placed(NamedTuple):
    """Objects ``[B, M]`` on the grid; all numbers in cells."""

    grid_size: tuple[int, int]  # height, width
    image: Tensor  # int64 [B, M] row of the batch
    boxes: Tensor  # [B, M, 4] clipped
    size: Tensor  # [B, M, 2] width, height
    center: Tensor  # [B, M, 2] the object's point
    corner: Tensor  # [B, M, 2] the cell that holds the point
    cell: Tensor  # int64 [B, M] its flat index, 0 without an object
    present: Tensor  # bool [B, M] a crowd region or an object, at least partly inside the grid
    is_object: Tensor  # bool [B, M] trained as an object
    radius: Tensor  # int64 [B, M, 2] of its Gaussian along x and y, -1 without an object


def ignored_regions(placed: Placed, boxes: Tensor, channel: Tensor, channels: int) -> Tensor | None:
    """Cells inside the ``boxes [B, M, 4]`` of ignored objects, bool ``[B, channels, H, W]``; None if there are surely
    none. ``channel`` int64 ``[B, M]``."""
    ignored = placed.present & ~placed.is_object
    if on_host(ignored) and not ignored.any():
        return None
    shape = (len(channel), channels, *placed.grid_size)
    return draw_regions(boxes.flatten(0, 1), channel.flatten(), shape, placed.image.flatten(), ignored.flatten())


class Peaks(NamedTuple):
    """The K best points of each image, by decreasing score."""

    scores: Tensor  # [B, K]
    labels: Tensor  # int64 [B, K]
    cell: Tensor  # int64 [B, K] flat index
    corner: Tensor  # [B, K, 2] x, y of the cell


class Term:
    """One output map: its head, how ground truth becomes its target, and how to read it.

    A subclass implements ``head``, ``encode`` and ``read``, and overrides the rest where it differs. Constructors take
    the term's name (of its head, its target and its loss in the log), ``about`` the task, and the term's options; they
    raise ``InputError`` for an invalid option.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Fields that objects must have (``centernet.fields``)."""
    reads_peaks: ClassVar[bool] = True
    """Whether ``read`` applies at the peaks of objects."""
    is_merged: ClassVar[bool] = True
    """Whether flip testing averages with the mirrored image or keeps the plain one."""
    found_in: ClassVar[str] = "heatmap"
    """The heatmap whose peaks are the cells where the map is read."""
    positions: ClassVar[tuple[bool, ...]] = ()
    """For each pair of channels in a group (see ``Regression.truth``): whether it is a position (x, y) on the grid,
    predicted relative to the cell. Empty: none is."""
    partner: ClassVar[str] = ""
    """The term whose map of the mirrored image says what this one's says, if it is not the same term."""
    meaning: ClassVar[tuple[str, ...]] = ()
    """Options that define what a value of the map means; a teacher's must be the same."""

    def __init__(self, name: str, about: About, weight: float = 1.0) -> None:
        self.name, self.about = name, about
        self.weight = self.number("weight", weight, least=0.0)

    @property
    def head(self) -> Head:
        """The output map that the network must emit, and its supervision."""
        raise NotImplementedError

    @property
    def weights(self) -> dict[str, float]:
        """Weight in the total loss of each part that ``losses`` returns."""
        return {self.name: self.head.weight}

    def encode(self, placed: Placed, objects: Objects) -> Target:
        """The target of a batch; ``objects`` padded, in input pixels."""
        raise NotImplementedError

    def activate(self, raw: Tensor) -> Tensor:
        """The raw map ``[B, C, H, W]`` as probabilities, meters, or whatever it represents; float32."""
        return raw.float()

    def losses(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        """The parts of the loss of one stack, unweighted."""
        return {self.name: LOSSES[self.head.loss](self.activate(raw), target)}

    def taught(self, maps: Outputs) -> DenseMap:
        """The target that a teacher's activated maps are: its values in every cell, weighted by its confidence that
        there is an object (as Du et al., 2021, arXiv:2111.00674, weigh features).

        The confidence is squared: the many cells of the background, each with a little of it, would outweigh objects.
        """
        value, found = maps[self.name], maps[self.found_in]
        if self.head.per_class:
            weight = found.repeat_interleave(value.shape[1] // found.shape[1], 1)
        else:
            weight = found.amax(1, keepdim=True).expand_as(value)
        return DenseMap(value, weight.square())

    def imitation(self, raw: Tensor, target: DenseMap) -> dict[str, Tensor]:
        """The parts of the loss of one stack, unweighted, against what a teacher says (``taught``)."""
        return {self.name: LOSSES["dense_l1"](self.activate(raw), target)}

    def check_teacher(self, other: Term) -> None:
        """Raise ``InputError`` if the map of another model's term does not say the same as this one's."""
        self.check_facts(other.facts, "the teacher")
        channels = other.head.channels
        if other.head.per_class:  # of this model's classes
            channels = channels // other.about.num_classes * self.about.num_classes
        if channels != self.head.channels:
            raise InputError(
                f"the teacher's head {self.name} has {other.head.channels} channels, this run's has "
                f"{self.head.channels}; use the teacher's options of task.{self.name}"
            )
        for option in self.meaning:
            a, b = getattr(other, option), getattr(self, option)
            if a != b:
                raise InputError(
                    f"the teacher was trained with task.{self.name}.{option}={a}, this run uses {b}; use the teacher's"
                )

    def at_peaks(self, values: Tensor, peaks: Peaks) -> Tensor:
        """The values ``[B, K, C]`` that the activated map ``[B, C, H, W]`` has for the peaks."""
        return gather_cells(values, peaks.cell)

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        """Fields of detections, in input pixels, from the values ``[B, K, C]`` of the activated map for the peaks.

        ``center [B, K, 2]`` and ``size [B, K, 2]`` become boxes; other fields keep their names.
        """
        raise NotImplementedError

    def mirror(self, values: Tensor) -> Tensor:
        """The activated map ``[B, C, H, W]`` of a mirrored image, already flipped back, converted to the original
        image."""
        return values

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        """The raw map of a perfect network for a target."""
        if isinstance(target, DenseMap):
            return target.value
        rows, count, channels = target.value.shape
        flat = target.value.new_zeros(rows, grid_size[0] * grid_size[1], channels)
        mask = target.mask if target.mask.ndim == 3 else target.mask[..., None].expand(rows, count, channels)
        for m in range(count):
            cell = target.cell[:, m, None, None].expand(-1, 1, channels)
            flat.scatter_(1, cell, torch.where(mask[:, m, None] > 0, target.value[:, m, None], flat.gather(1, cell)))
        return flat.transpose(1, 2).reshape(rows, channels, *grid_size)

    def oracle(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        """The activated map of a perfect network for a target in every cell."""
        return self.activate(self.perfect(target, grid_size))

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the data that the term uses, given or by default, if others (pictures, results) need them too."""
        return {}

    def check_facts(self, facts: Mapping[str, Any], where: str) -> None:
        """Raise ``InputError`` if the facts of other data do not fit this term; ``where`` names the data."""

    def number(
        self, option: str, value: Any, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
    ) -> Any:
        """``value`` if it is a number in range; otherwise raises ``InputError``, naming the option."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not (least <= value and above < value < below):
            bounds = (("of at least", least), ("above", above), ("below", below))
            wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds if math.isfinite(bound))
            raise InputError(
                f"task {self.about.task}: {self.name}.{option}={value!r} must be a number {wanted}".rstrip()
            )
        return value

    def choice(self, option: str, value: Any, known: Iterable[Any]) -> Any:
        """``value`` if it is one of ``known``; otherwise raises ``InputError``, listing them."""
        if value not in (known := tuple(known)):
            listed = ", ".join(str(one) for one in known)
            raise InputError(
                f"task {self.about.task}: {self.name}.{option}={value!r} is unknown; choose one of {listed}"
            )
        return value

    def fact(self, name: str, value: Any) -> Any:
        """An option that may come from the data: ``value`` or, for ``data``, the data's fact (None without one)."""
        if not (isinstance(value, str) and value == "data"):
            return value
        if self.about.facts.get(name) is None:
            self.about.wanted.add(name)
        return self.about.facts.get(name)


class HeatmapTerm(Term):
    """A map of peaks, one channel for each kind of point. ``loss``: ``focal``, or ``mse`` against the raw map."""

    reads_peaks = False
    channels: int
    per_class: ClassVar[bool] = False

    def __init__(self, name: str, about: About, weight: float = 1.0, loss: str = "focal") -> None:
        super().__init__(name, about, weight)
        self.loss = self.choice("loss", loss, ("focal", "mse"))

    @property
    def head(self) -> Head:
        return Head(self.channels, self.loss, self.weight, HEATMAP_BIAS, self.per_class)

    def activate(self, raw: Tensor) -> Tensor:
        # The mean squared error compares raw maps with probabilities; only the focal loss trains logits.
        return raw.float().clamp(0, 1) if self.loss == "mse" else raw.float().sigmoid()

    def losses(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        return {self.name: LOSSES[self.loss](raw, target)}

    def taught(self, maps: Outputs) -> DenseMap:
        """Every cell of the teacher's heatmap, peaks and background."""
        return DenseMap(maps[self.name])

    def imitation(self, raw: Tensor, target: DenseMap) -> dict[str, Tensor]:
        return {self.name: (LOSSES["mse"] if self.loss == "mse" else soft_focal)(raw, target)}

    def perfect(self, target: Target, grid_size: tuple[int, int]) -> Tensor:
        return torch.logit(target.value, eps=1e-6) if self.loss == "focal" else target.value


class Regression(Term):
    """Values of objects, supervised at their centers or in every cell under their Gaussians.

    A subclass implements ``truth``. ``supervise``: ``center``, or ``dense`` (weighted by the Gaussian; where windows
    overlap, the object with the larger weight owns the cell). ``loss``: ``l1`` or ``smooth_l1`` at centers; dense
    supervision is L1. With ``About.pad_objects``, the mean is over this many rows per image, full or empty.
    """

    channels: int
    known_losses: ClassVar[tuple[str, ...]] = ("l1", "smooth_l1")
    dense_losses: ClassVar[tuple[str, ...]] = ("l1",)
    """Of the ``known_losses``, those that dense supervision can use."""
    sharpness: ClassVar[float] = 6.0
    unit_sum: ClassVar[bool] = False
    """The weights of dense supervision, see ``gaussian_windows``."""

    def __init__(
        self, name: str, about: About, weight: float = 1.0, supervise: str = "center", loss: str | None = None
    ) -> None:
        super().__init__(name, about, weight)
        self.supervise = self.choice("supervise", supervise, ("center", "dense"))
        self.loss = self.choice("loss", loss or self.known_losses[0], self.known_losses)
        if self.supervise == "dense" and self.loss not in self.dense_losses:
            raise InputError(f"task {about.task}: {name}.loss={loss} requires supervise=center; use loss=l1 with dense")

    @property
    def head(self) -> Head:
        loss = self.loss
        if self.supervise == "dense":
            loss = "dense_l1"
        elif self.about.pad_objects is not None:
            loss = f"mean_{loss}"
            if loss not in LOSSES:
                raise InputError(
                    f"task {self.about.task}: pad_objects is incompatible with {self.name}.loss={self.loss}; set "
                    "pad_objects=null"
                )
        return Head(self.channels, loss, self.weight)

    def truth(self, placed: Placed, objects: Objects) -> tuple[Tensor, Tensor]:
        """Values ``[B, M, C]`` (positions in cells), and where they are known: bool ``[B, M]``, or ``[B, M, G]`` for G
        groups of equally many channels."""
        raise NotImplementedError

    def encode(self, placed: Placed, objects: Objects) -> Target:
        value, known = self.truth(placed, objects)
        if self.supervise == "dense":
            return self.under_gaussians(placed, value, known)
        if known.ndim == 3:
            known = known.repeat_interleave(value.shape[-1] // known.shape[-1], -1)
        if any(self.positions):
            origin = self._origin(placed.corner)
            groups = value.shape[-1] // origin.shape[-1]
            value = value - (origin if groups == 1 else origin.repeat(1, 1, groups))
        return AtCells(placed.cell, torch.where(known if known.ndim == 3 else known[..., None], value, 0), known)

    def _origin(self, points: Tensor) -> Tensor:
        """What is subtracted from the values of each group in a cell at ``points [..., 2]``."""
        if self.positions == (True,):
            return points
        return torch.cat([points if is_place else torch.zeros_like(points) for is_place in self.positions], -1)

    def under_gaussians(
        self,
        placed: Placed,
        value: Tensor,
        known: Tensor,
        corner: Tensor | None = None,
        radius: Tensor | None = None,
    ) -> DenseMap:
        """Every cell of an object's window predicts the object's values; unknown values have weight 0.

        ``corner``, ``radius [B, M, G, 2]``: the windows of each group, if they are not those of the object.
        """
        (count, _), (height, width) = placed.cell.shape, placed.grid_size
        known = known if known.ndim == 3 else known[..., None]
        groups, channels = known.shape[-1], value.shape[-1] // known.shape[-1]
        corner = placed.corner[:, :, None] if corner is None else corner
        radius = placed.radius[:, :, None] if radius is None else radius
        # Each group is drawn as an image of its own.
        plane = placed.image[:, None] * groups + torch.arange(groups, device=known.device)[:, None]
        owner, weight = dense_owner(
            corner.transpose(1, 2).expand(-1, groups, -1, -1).flatten(0, 2).long(),
            torch.where(known[..., None], radius, -1).transpose(1, 2).flatten(0, 2),
            plane.flatten(),
            (count * groups, height, width),
            self.sharpness,
            self.unit_sum,
        )
        rows = value.unflatten(-1, (groups, channels)).transpose(1, 2).flatten(0, 2)
        if on_host(owner):
            return self._in_owned_cells(owner, weight, rows, placed, groups)
        weight = self.weigh(weight, owner, placed)
        spread = torch.cat([rows, rows.new_zeros(1, channels)])[owner]  # the last row stands for "no owner"
        if any(self.positions):
            cells = points_of_cells(torch.arange(height * width, device=value.device), width).view(height, width, 2)
            spread = torch.where(owner[..., None] >= 0, spread - self._origin(cells), 0)
        shape = (count, groups * channels, height, width)
        weight = weight[:, None].expand(-1, channels, -1, -1).reshape(shape)
        return DenseMap(spread.permute(0, 3, 1, 2).reshape(shape), weight)

    def _in_owned_cells(self, owner: Tensor, weight: Tensor, rows: Tensor, placed: Placed, groups: int) -> DenseMap:
        """The same where only the cells that have an owner are computed: a few of all, but how many is not known
        before."""
        (planes, height, width), channels = owner.shape, rows.shape[-1]
        shape = (planes // groups, groups * channels, height, width)
        plane, cell = (owner.flatten(1) >= 0).nonzero().unbind(1)
        own = owner.flatten(1)[plane, cell]
        said, weighed = rows[own], self.weigh(weight.flatten(1)[plane, cell], own, placed)
        if any(self.positions):
            said = said - self._origin(points_of_cells(cell, width))
        spread, weights = (zeros_on_host((planes, channels, height * width), said.dtype) for _ in range(2))
        spread[plane, :, cell] = said
        weights[plane, :, cell] = weighed[:, None].expand(-1, channels).to(said.dtype)
        return DenseMap(spread.view(shape), weights.view(shape))

    def weigh(self, gaussian: Tensor, owner: Tensor, placed: Placed) -> Tensor:
        """The weights of dense supervision in cells ``[...]``, given the Gaussian of each cell's owner: its flat index
        among the objects ``[B, G, M]``, -1 for none."""
        return gaussian
