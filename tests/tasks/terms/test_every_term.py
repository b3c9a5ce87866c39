"""Every term: what is encoded is read again, a mirrored image says the same, padding and neighbors change nothing."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import centernet.tasks.terms
from centernet.fields import move, partners_of, stack_objects
from centernet.losses import LOSSES
from centernet.ops.affine import flip_matrix
from centernet.ops.heatmap import gather_cells
from centernet.structures import AtCells, Objects, Target
from centernet.tasks.terms import extremes
from centernet.tasks.terms.angle import Angle, TwelveBins, TwoBins
from centernet.tasks.terms.base import About, HeatmapTerm, Peaks, Placed, Regression, Term
from centernet.tasks.terms.box import BoxOffset, DenseBox, Offset, Size
from centernet.tasks.terms.joints import JointHeatmap, JointOffset, Joints, NearJoints, RelativeJoints, SpreadHeatmap
from centernet.tasks.terms.points import BlockPoints, EllipsePoints, Points, ProjectedPoints, StreetPoints
from centernet.tasks.terms.sides import SURE, Sides
from centernet.tasks.terms.space import (
    CERTAIN,
    Bottom,
    Depth,
    DepthWithSpread,
    Dimensions,
    LogDepth,
    ProjectedOffset,
    RelativeDimensions,
)

GRID = (44, 60)  # cells
STRIDE = 4
CLASSES = 3
FACTS = {"joints": {"names": ["head", "left_hand", "right_hand", "left_foot", "right_foot"]}}
ABOUT = About("a_task", CLASSES, STRIDE, FACTS)
NAN = float("nan")


def one(cell: tuple[int, int], size: tuple[float, float], label: int, alpha: float, z: float, shown: str) -> Objects:
    """An object in input pixels: box, projected center and joints, each in a cell of its own that a mirror maps to a
    cell (what lies on a cell's last pixel at the most). ``shown``: the visibility of each joint."""
    x, y = cell
    center = torch.tensor([4 * x + 1.0, 4 * y + 2.5])
    half = torch.tensor(size) / 2
    # Around the center, in cells of which no two are the same.
    steps = torch.tensor([[0, -2], [-2, 0], [2, 1], [-1, 2], [1, 3]]) * STRIDE
    points = torch.tensor([[0.0, 3], [1, 0], [2.5, 2], [3, 1], [0.5, 1.5]])
    joints = torch.tensor([4 * x, 4 * y]) + steps + points
    return {
        "boxes": torch.cat([center - half, center + half])[None],
        "labels": torch.tensor([label]),
        "crowd": torch.tensor([False]),
        "area": torch.tensor([float(size[0] * size[1])]),
        "joints": torch.cat([joints, torch.tensor([float(each) for each in shown])[:, None]], -1)[None],
        "extreme_points": torch.stack(
            [
                center - half * torch.tensor([0, 1]),
                center - half * torch.tensor([1, 0]),
                center + half * torch.tensor([0, 1]),
                center + half * torch.tensor([1, 0]),
            ]
        )[None],
        "alpha": torch.tensor([alpha]),
        "center_3d": torch.tensor([[4 * (x + 1) + 2.0, 4 * (y - 1) + 0.5]]),
        "bottom": torch.tensor([[4 * x + 3.0, 4 * y + 0.3 * size[1]]]),
        "location": torch.tensor([[0.0, 1.6, z]]),
        "dimensions": torch.tensor([[1.5, 0.6 + label, 4 - 0.1 * z]]),
        "focal": torch.tensor([500.0 + z]),
    }


def joined(*objects: Objects) -> Objects:
    return {name: torch.cat([each[name] for each in objects]) for name in objects[0]}


# Small, wide, tall and large ones; the last image has none.
IMAGES = [
    joined(
        one((8, 8), (14, 18), 0, 0.3, 12, "22222"),
        one((30, 10), (60, 21), 2, -2.5, 30, "22121"),
        one((50, 30), (17, 50), 1, 1.9, 7.5, "20022"),
        one((12, 30), (64, 70), 1, -0.9, 22, "00000"),
    ),
    one((40, 20), (90, 40), 2, 3.0, 18, "12212"),
]
IMAGES.append({name: value[:0] for name, value in IMAGES[0].items()})


def batch_of(images: list[Objects]) -> Objects:
    """A batch whose padding holds anything."""
    batch = stack_objects(images)
    for value in batch.values():
        if value.is_floating_point():
            value[~batch["valid"]] = NAN
    batch["labels"][~batch["valid"]] = 99
    return batch


def sides(objects: Objects) -> Tensor:
    return objects["boxes"][..., 2:] - objects["boxes"][..., :2]


def middle(objects: Objects) -> Tensor:
    return (objects["boxes"][..., :2] + objects["boxes"][..., 2:]) / 2


class Case(NamedTuple):
    """A term, the points that it belongs to, and what is read from its flawless map: a function of the objects for each
    field (joints: of those that are labeled)."""

    make: Callable[..., Term]
    wanted: dict[str, Callable[[Objects], Tensor]] = {}
    options: dict[str, Any] = {}
    points: type[Points] = Points
    difference: dict[int, float] = {}
    """By channel: what the mirrored image says too much, where the original's formula is not exact."""

    def term(self) -> Term:
        return self.make("it", ABOUT, **self.options)

    def title(self) -> str:
        return "-".join([self.make.__name__, *(str(value) for value in self.options.values())])


def joints_of(objects: Objects) -> Tensor:
    return objects["joints"][..., :2]


def sure(objects: Objects) -> Tensor:
    return torch.full(objects["labels"].shape, 1 / (1 + math.exp(-SURE)))


def below(objects: Objects) -> Tensor:
    """The row of the bottom, in the cell's column."""
    column = (middle(objects)[..., 0] / STRIDE).floor() * STRIDE
    return torch.stack([column, objects["bottom"][..., 1]], -1)


# What the original leaves out: the mirrored cell's origin is a cell less a pixel away.
LEFT_OUT = 1 - 1 / STRIDE
CENTER, SIZE, DENSE = {"center": middle}, {"size": sides}, {"supervise": "dense"}
CASES = [
    Case(Points),
    Case(Points, options={"loss": "mse"}),
    Case(Points, options={"radius": "cornernet", "margin": 0}),
    Case(Points, options={"radius": "proportional", "min_overlap": 0.3}),
    Case(EllipsePoints, points=EllipsePoints),
    Case(EllipsePoints, options={"extent": 0.4}, points=EllipsePoints),
    Case(StreetPoints, points=StreetPoints),
    Case(StreetPoints, options={"ignore": "region"}, points=StreetPoints),
    Case(ProjectedPoints, points=ProjectedPoints),
    Case(BlockPoints, points=BlockPoints),
    Case(Size, SIZE),
    Case(Size, SIZE, {"loss": "smooth_l1"}),
    Case(Size, SIZE, {"per_class": True}),
    Case(Size, SIZE, DENSE),
    Case(Size, SIZE, {**DENSE, "per_class": True}),
    Case(Offset, CENTER),
    Case(Offset, CENTER, {"loss": "smooth_l1"}),
    Case(Offset, CENTER, DENSE),
    Case(BoxOffset, CENTER, points=ProjectedPoints),
    Case(BoxOffset, CENTER, DENSE, ProjectedPoints),
    Case(DenseBox, {**SIZE, **CENTER}, difference={2: 1 / STRIDE}),
    Case(Sides, {**SIZE, **CENTER, "box_quality": sure}),
    Case(Sides, {**SIZE, **CENTER}, {"quality": 0, "loss": "ciou"}, EllipsePoints),
    Case(TwoBins, {"alpha": lambda objects: objects["alpha"]}),
    Case(TwelveBins, {"alpha": lambda objects: objects["alpha"]}),
    Case(Depth, {"depth": lambda objects: objects["location"][..., 2]}),
    Case(Depth, {"depth": lambda objects: objects["location"][..., 2] * 250 / objects["focal"]}, {"focal": 250}),
    Case(
        DepthWithSpread,
        {
            "depth": lambda objects: objects["location"][..., 2],
            "depth_spread": lambda objects: torch.full_like(objects["focal"], math.exp(CERTAIN)),
        },
    ),
    Case(
        LogDepth,
        {
            "depth": lambda objects: objects["location"][..., 2] * 250 / objects["focal"],
            "depth_spread": lambda objects: objects["location"][..., 2] * 250 / objects["focal"] * math.exp(CERTAIN),
        },
        {"focal": 250},
    ),
    Case(
        Bottom,
        {
            "bottom": below,
            "bottom_spread": lambda objects: torch.full_like(objects["focal"], STRIDE * math.exp(CERTAIN)),
        },
    ),
    Case(Dimensions, {"dimensions": lambda objects: objects["dimensions"]}),
    Case(RelativeDimensions, {"dimensions": lambda objects: objects["dimensions"]}),
    Case(ProjectedOffset, {"center_3d": lambda objects: objects["center_3d"]}, points=ProjectedPoints),
    Case(ProjectedOffset, {"center_3d": lambda objects: objects["center_3d"]}, DENSE, ProjectedPoints),
    Case(Joints, {"joints": joints_of}, difference=dict.fromkeys(range(0, 10, 2), -LEFT_OUT)),
    Case(Joints, {"joints": joints_of}, DENSE, difference=dict.fromkeys(range(0, 10, 2), -LEFT_OUT)),
    Case(RelativeJoints, {"joints": joints_of}),
    Case(RelativeJoints, {"joints": joints_of}, points=EllipsePoints),
    Case(NearJoints),
    Case(SpreadHeatmap),
    Case(JointHeatmap),
    Case(JointHeatmap, options={"loss": "mse"}),
    Case(JointOffset),
    Case(JointOffset, options={"loss": "smooth_l1"}),
    Case(extremes.ExtremeCenters, points=extremes.ExtremeCenters),
    Case(extremes.ExtremeCenters, options={"loss": "mse", "radius": "cornernet"}, points=extremes.ExtremeCenters),
    *(
        Case(make, points=extremes.ExtremeCenters)
        for make in (extremes.Top, extremes.Left, extremes.Bottom, extremes.Right)
    ),
    Case(extremes.Top, options={"loss": "mse"}),
    *(
        Case(make, points=extremes.ExtremeCenters)
        for make in (extremes.TopOffset, extremes.LeftOffset, extremes.BottomOffset, extremes.RightOffset)
    ),
    Case(extremes.TopOffset, options={"loss": "smooth_l1"}),
]
# What the mirrored image says in another map.
PARTNERS = {
    extremes.Left: extremes.Right,
    extremes.Right: extremes.Left,
    extremes.LeftOffset: extremes.RightOffset,
    extremes.RightOffset: extremes.LeftOffset,
}
every_case = pytest.mark.parametrize("case", CASES, ids=Case.title)


def place(case: Case, objects: Objects) -> Placed:
    return case.points("heatmap", ABOUT).place(objects, GRID)


def flawless(case: Case, objects: Objects) -> tuple[Tensor, Target]:
    """The activated map of a flawless network, and the target."""
    term = case.term()
    target = term.encode(place(case, objects), objects)
    return term.activate(term.perfect(target, GRID)), target


def terms_there_are() -> Iterator[type[Term]]:
    for module in pkgutil.iter_modules(centernet.tasks.terms.__path__, "centernet.tasks.terms."):
        for value in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(value) and issubclass(value, Term):
                yield value


def test_no_term_is_left_out_here():
    bases = {Term, HeatmapTerm, Regression, Angle, extremes.ExtremeHeatmap, extremes.ExtremeOffset}
    assert {case.make for case in CASES} == set(terms_there_are()) - bases


@every_case
def test_the_head_is_that_of_the_flawless_map_and_its_loss_there_is_almost_none(case):
    term, objects = case.term(), batch_of(IMAGES)
    target = term.encode(place(case, objects), objects)
    raw = term.perfect(target, GRID)
    assert raw.shape == (len(IMAGES), term.head.channels, *GRID)
    assert torch.isfinite(raw).all()
    assert term.head.loss in LOSSES
    losses = term.losses(raw, target)
    assert losses.keys() == term.weights.keys()
    far = term.losses(raw + 1, target)
    for part, value in losses.items():
        # The spread of a depth or a row that is certain is a reward, and close to a center the focal loss still wants
        # less than the Gaussian says; everything else costs nothing.
        most = 0 if case.make in (DepthWithSpread, LogDepth, Bottom) else 0.1 if term.head.loss == "focal" else 1e-3
        assert value < most
        assert far[part] > value


def found_channels(term):
    """Of the heatmap in which a teacher finds what the term is about."""
    return term.head.channels // 2 if isinstance(term, NearJoints) else CLASSES


@every_case
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(case):
    term = case.term()
    torch.manual_seed(0)
    raw = torch.rand(2, term.head.channels, *GRID, requires_grad=True)
    maps = {term.found_in: torch.rand(2, found_channels(term), *GRID), term.name: term.activate(raw.detach())}
    target = term.taught(maps)
    losses = term.imitation(raw, target)
    assert losses.keys() == term.weights.keys()
    total = sum(losses.values())
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert raw.grad.abs().max() < 1e-6
    other = (raw.detach() + torch.randn_like(raw)).requires_grad_()
    for value in term.imitation(other, target).values():
        assert value > 0.01
        (gradient,) = torch.autograd.grad(value, other, retain_graph=True)
        assert gradient.abs().max() > 0


REGRESSIONS = [case for case in CASES if not issubclass(case.make, HeatmapTerm)]


@pytest.mark.parametrize("case", REGRESSIONS, ids=Case.title)
def test_a_teacher_teaches_values_only_where_it_finds_something(case):
    term = case.term()
    torch.manual_seed(0)
    raw, theirs = (torch.randn(2, term.head.channels, *GRID) for _ in range(2))
    maps = {term.found_in: torch.zeros(2, found_channels(term), *GRID), term.name: term.activate(theirs)}
    assert sum(term.imitation(raw, term.taught(maps)).values()) == 0
    maps[term.found_in][1, 1, 20, 30] = 0.5
    target = term.taught(maps)
    assert target.weight.amax(1).count_nonzero() == 1
    channels = term.head.channels
    if term.head.per_class or isinstance(term, NearJoints):  # of one class, of one joint
        channels //= found_channels(term)
    assert target.weight.sum().item() == pytest.approx(0.25 * channels)
    value = sum(term.imitation(raw, target).values())
    assert value > 0
    # What it says elsewhere does not matter.
    elsewhere = raw + 1
    elsewhere[1, :, 20, 30] = raw[1, :, 20, 30]
    assert sum(term.imitation(elsewhere, target).values()).item() == pytest.approx(value.item(), rel=1e-5)


@every_case
def test_what_is_encoded_is_read_again(case):
    term, objects = case.term(), batch_of(IMAGES)
    placed = place(case, objects)
    assert torch.equal(placed.is_object, objects["valid"])
    maps, _ = flawless(case, objects)
    labels = torch.where(placed.is_object, objects["labels"], 0)
    peaks = Peaks(torch.ones(placed.cell.shape), labels, placed.cell, placed.corner)
    assert term.reads_peaks == bool(case.wanted)
    found = term.read(gather_cells(maps, placed.cell), peaks) if term.reads_peaks else {}
    assert found.keys() == case.wanted.keys()
    for name, wanted in case.wanted.items():
        known = placed.is_object
        if name == "joints":
            known = known[..., None] & (objects["joints"][..., 2] > 0)
            assert known.sum() == 18
        torch.testing.assert_close(found[name][known], wanted(objects)[known], atol=1e-4, rtol=1e-4)


@every_case
def test_a_batch_is_encoded_as_its_images_one_by_one(case):
    together, _ = flawless(case, batch_of(IMAGES))
    for row, image in enumerate(IMAGES):
        alone, _ = flawless(case, stack_objects([image]))
        assert torch.equal(together[row], alone[0])


@every_case
def test_a_mirrored_image_says_the_same(case):
    term, objects = case.term(), stack_objects(IMAGES)
    matrix = torch.from_numpy(flip_matrix(STRIDE * GRID[1])).expand(len(IMAGES), 3, 3)
    mirrored = move(objects, matrix, partners_of(FACTS))
    plain, target = flawless(case, objects)
    other, _ = flawless(case._replace(make=PARTNERS.get(case.make, case.make)), mirrored)
    back = term.mirror(other.flip(-1))
    said = where_said(target, plain)
    assert said.any()
    difference = torch.zeros(plain.shape[1])
    for channel, too_much in case.difference.items():
        difference[channel] = too_much
    wanted = plain + difference[:, None, None]
    torch.testing.assert_close(back[said], wanted[said], atol=2e-5, rtol=1e-4)


def where_said(target: Target, like: Tensor) -> Tensor:
    """Where a flawless map ``like [B, C, H, W]`` says something of an object (bool, same shape)."""
    if isinstance(target, AtCells):
        mask = target.mask if target.mask.ndim == 3 else target.mask[..., None]
        if mask.shape[-1] not in (1, like.shape[1]):
            mask = mask.any(-1, keepdim=True)
        shown = Regression.perfect(Plain(), AtCells(target.cell, mask.float(), mask), GRID)
    else:
        shown = torch.ones_like(target.value) if target.weight is None else target.weight
    return (shown > 0).expand_as(like)


class Plain(Term):
    """Only what every term inherits."""

    def __init__(self) -> None:
        super().__init__("plain", ABOUT)


def test_only_offsets_in_cells_are_kept_from_the_plain_image():
    kept = {case.make for case in CASES if not case.term().is_merged}
    of_extremes = {extremes.TopOffset, extremes.LeftOffset, extremes.BottomOffset, extremes.RightOffset}
    assert kept == {Offset, BoxOffset, ProjectedOffset, JointOffset, *of_extremes}


POINTS = [case for case in CASES if issubclass(case.make, Points) and case.make is not extremes.ExtremeCenters]


@pytest.mark.parametrize("case", POINTS, ids=Case.title)
def test_the_points_are_found_again(case):
    term = case.make("heatmap", ABOUT, max_detections=9, **case.options)
    objects = batch_of(IMAGES)
    placed = term.place(objects, GRID)
    peaks = term.find({"heatmap": term.activate(term.perfect(term.encode(placed, objects), GRID))})
    assert peaks.scores.shape == (3, 9)
    for row, count in enumerate(objects["valid"].sum(1).tolist()):
        assert (peaks.scores[row, :count] > 0.9999).all()
        assert (peaks.scores[row, count:] < 0.9999).all()
        found = zip(peaks.labels[row, :count].tolist(), peaks.cell[row, :count].tolist(), strict=True)
        there = objects["valid"][row]
        assert set(found) == set(
            zip(objects["labels"][row, there].tolist(), placed.cell[row, there].tolist(), strict=True)
        )
        corner = torch.stack([peaks.cell[row] % GRID[1], peaks.cell[row] // GRID[1]], -1)
        assert torch.equal(peaks.corner[row], corner.float())


@pytest.mark.parametrize("loss", ["l1", "smooth_l1"])
def test_joints_are_found_again_at_the_peaks_of_their_heatmap(loss):
    objects = batch_of(IMAGES)
    heatmap, target = flawless(Case(JointHeatmap), objects)
    offset, _ = flawless(Case(JointOffset, options={"loss": loss}), objects)
    assert target.weight is None
    found = (target.value == 1).nonzero()
    is_labeled = objects["joints"][..., 2] > 0
    assert len(found) == is_labeled.sum()
    assert ((heatmap > 0.9999) == (target.value == 1)).all()
    at_peaks = offset[found[:, 0], :, found[:, 2], found[:, 3]]
    ours = torch.cat([found[:, :2], STRIDE * (found[:, [3, 2]] + at_peaks)], -1)
    image, row, joint = is_labeled.nonzero(as_tuple=True)
    wanted = torch.cat([torch.stack([image, joint], -1), objects["joints"][image, row, joint, :2]], -1)
    torch.testing.assert_close(*(torch.tensor(sorted(rows.tolist())) for rows in (ours, wanted)), atol=1e-4, rtol=0)


def test_where_windows_overlap_the_object_with_the_larger_weight_has_the_cell():
    objects = stack_objects(
        [joined(one((20, 20), (60, 60), 0, 0, 10, "22222"), one((24, 20), (12, 12), 1, 0, 10, "22222"))]
    )
    for case in (Case(Size, options=DENSE), Case(DenseBox)):
        _, target = flawless(case, objects)
        assert target.value[0, :2, 20, 20].tolist() == [15, 15]
        assert target.value[0, :2, 20, 24].tolist() == [3, 3]
        assert set(target.value[0, 0].unique().tolist()) == {0, 3, 15}
        assert (target.value[:, :2][target.weight[:, :2] > 0] > 0).all()
