"""What follows from the terms: every task is a list of them and nothing else; what does not fit is said at once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from centernet.errors import InputError
from centernet.losses import LOSSES
from centernet.metrics.coco import CocoAP
from centernet.metrics.rows import ImageMetric
from centernet.ops.heatmap import gather_cells
from centernet.structures import AtCells, Detections, Head, Objects, Outputs, Targets
from centernet.tasks import Task, build_task, task_names
from centernet.tasks.base import HEATMAP, task_class
from centernet.tasks.terms.base import Peaks, Placed, Term
from centernet.tasks.terms.box import Offset, Size
from centernet.tasks.terms.points import Points
from tests.tiny import make_batch, make_objects

GRID = (16, 20)
# Written once, for every task.
FOLLOWS = (
    "encode",
    "losses",
    "imitation",
    "check_teacher",
    "activate",
    "decode",
    "detect",
    "merge_flipped",
    "perfect",
    "heads",
    "needs",
    "check_data",
)
every_task = pytest.mark.parametrize("name", task_names())


def truth(count: int = 2) -> Objects:
    """Objects with everything that any task needs."""
    boxes = torch.tensor([[8.0, 8, 30, 26], [40, 20, 72, 50], [20, 36, 36, 60]])[:count]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    joints = torch.cat([middle[:, None].expand(-1, 17, 2), torch.full((count, 17, 1), 2.0)], -1)
    return {
        **make_objects(boxes.tolist(), list(range(count))),
        "joints": joints,
        "alpha": torch.linspace(-1, 1, count),
        "center_3d": middle,
        "bottom": middle + torch.tensor([0, 12.0]),
        "extreme_points": torch.stack(
            [
                torch.stack([middle[:, 0] - 3, boxes[:, 1]], -1),
                torch.stack([boxes[:, 0], middle[:, 1] + 2], -1),
                torch.stack([middle[:, 0] + 2, boxes[:, 3]], -1),
                torch.stack([boxes[:, 2], middle[:, 1] - 4], -1),
            ],
            1,
        ),
        "location": torch.tensor([[0, 1.6, 20.0]]).expand(count, 3),
        "dimensions": torch.tensor([[1.5, 1.6, 3.9]]).expand(count, 3),
    }


def random_outputs(task: Task, images: int = 1, seed: int = 0) -> Outputs:
    torch.manual_seed(seed)
    return {name: torch.randn(images, head.channels, *GRID) for name, head in task.heads.items()}


# Tasks are lists of terms --------------------------------------------------------------------------------------------


@every_task
def test_no_task_inherits_from_another_or_rewrites_what_follows_from_its_terms(name):
    cls = task_class(name)
    assert cls.__bases__ == (Task,)
    assert cls.name == name
    assert not vars(cls).keys() & set(FOLLOWS)
    assert all(inspect.getattr_static(cls, method) is vars(Task)[method] for method in FOLLOWS)


@every_task
def test_the_heatmap_comes_first_and_every_term_is_a_head_of_its_name(name):
    cls, task = task_class(name), build_task(name, 3)
    assert next(iter(cls.TERMS)) == HEATMAP
    assert isinstance(task.heatmap, Points)
    assert list(task.terms) == list(task.heads) == list(cls.TERMS)
    assert set(cls.OPTIONAL) < set(cls.TERMS)
    assert all(isinstance(term, Term) and term.name == each for each, term in task.terms.items())
    assert all(head.loss in LOSSES or each == "box" for each, head in task.heads.items())


@every_task
def test_each_optional_term_can_be_left_out_and_no_other(name):
    cls = task_class(name)
    for term in cls.TERMS:
        if term in cls.OPTIONAL:
            task = build_task(name, 3, **{term: None})
            assert term not in task.heads
            targets = task.encode(make_batch(truth()), GRID)
            assert targets.keys() == task.heads.keys()
            assert term not in task.losses([random_outputs(task)], targets)
            assert task.decode(random_outputs(task))["boxes"].shape == (1, task.heatmap.rows, 4)
        else:
            known = ", ".join(cls.OPTIONAL) or "none"
            message = f"^task {name}: {term}=null is not possible; terms that can be null: {known}$"
            with pytest.raises(InputError, match=message):
                build_task(name, 3, **{term: None})


@every_task
def test_detections_have_no_center_and_no_size_of_their_own_and_fall_in_score(name):
    task = build_task(name, 3)
    found = task.detect(random_outputs(task, images=2))
    assert found.keys() >= {"boxes", "scores", "labels"}
    assert not found.keys() & {"center", "size"}
    # Where a pass finds several boxes of an object, more than are left of all of them.
    rows = 100 if task.suppression is None else 1000
    assert all(value.shape[:2] == (2, rows) for value in found.values())
    assert (found["scores"].diff() <= 0).all()


# What is wrong -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ctdte", {}, "unknown task 'ctdte'; did you mean ctdet"),
        (
            "base",
            {},
            f"unknown task 'base'; choose one of {', '.join(task_names())}",
        ),
        ("_version1", {}, "unknown task '_version1'; "),
        ("ctdet", {"heatmaps": {}}, "task ctdet has no option 'heatmaps'; did you mean heatmap?"),
        ("ctdet", {"k": 40}, "task ctdet has no option 'k'; choose one of stride, pad_objects, heatmap, size, offset"),
        (
            "multi_pose",
            {"zzz": 1},
            "task multi_pose has no option 'zzz'; choose one of stride, unlabeled, pad_objects, heatmap, size, offset, "
            "joints, joint_heatmap, joint_offset",
        ),
        ("ctdet", {"offset": {"wheels": 4}}, "task ctdet: offset has no option 'wheels'; choose one of weight, "),
        ("ctdet", {"offset": True}, "task ctdet: offset=True must be a mapping of options; for example {weight: 1.0}"),
        ("ddd", {"pad_objects": 0}, "task ddd: pad_objects=0 must be a positive integer or null"),
        ("ddd", {"pad_objects": 2.5}, "task ddd: pad_objects=2.5 must be a positive integer or null"),
        (
            "ctdet",
            {"pad_objects": 50, "size": {"loss": "smooth_l1"}},
            "task ctdet: pad_objects is incompatible with size.loss=smooth_l1",
        ),
        ("ddd_dle", {"pad_objects": 50}, "task ddd_dle: pad_objects is incompatible with depth.loss=laplacian"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(name, options, message):
    with pytest.raises(InputError) as raised:
        build_task(name, 3, **options)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_task_that_is_made_without_its_name_minds_its_options_as_well():
    with pytest.raises(InputError, match=r"task ctdet has no option 'sizes'; did you mean size, stride\?"):
        task_class("ctdet")(3, sizes={})


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("ctdet", ["labels"], "task ctdet needs objects with labels, which the train data does not have"),
        (
            "ddd",
            ["location", "alpha"],
            "task ddd needs objects with location, alpha, which the train data does not have; use data=cuboids "
            "(built in), or data=kitti",
        ),
        (
            "multi_pose",
            ["joints"],
            "task multi_pose needs objects with joints, which the train data does not have; use data=figures "
            "(built in), or data=coco_pose with person_keypoints_*.json of COCO or any json whose categories have "
            "keypoints, or data=yolo with a yaml that has kpt_shape",
        ),
    ],
)
def test_data_without_a_needed_field_is_refused_with_the_data_that_has_it(name, missing, message):
    task = build_task(name, 3)
    task.check_data(truth(), {}, "the train data")
    with pytest.raises(InputError) as raised:
        task.check_data(
            {field: value for field, value in truth().items() if field not in missing}, {}, "the train data"
        )
    assert str(raised.value) == message


def test_a_task_that_takes_only_the_image_says_so():
    assert build_task("ctdet", 3).image_fields({"focal": None, "calibration": None}, (4, 6)) == {}
    with pytest.raises(InputError, match=r"task ctdet needs only the image; remove focal$"):
        build_task("ctdet", 3).image_fields({"focal": 700.0, "calibration": None}, (4, 6))
    camera = build_task("ddd", 3).image_fields({"focal": 700.0, "calibration": None}, (40, 60))["calibration"]
    assert (camera.shape, camera[0, 0].item()) == ((3, 4), 700)


# Losses --------------------------------------------------------------------------------------------------------------


@every_task
def test_the_loss_is_the_weighted_sum_of_parts_that_are_averaged_over_the_stacks(name):
    task = build_task(name, 3)
    targets = task.encode(make_batch(truth(), truth(1)), GRID)
    stacks = [random_outputs(task, images=2, seed=seed) for seed in range(3)]
    together, alone = task.losses(stacks, targets), [task.losses([stack], targets) for stack in stacks]
    weights = {part: weight for term in task.terms.values() for part, weight in term.weights.items()}
    assert together.keys() == {"loss", *weights}
    for part, value in together.items():
        assert value.item() == pytest.approx(sum(each[part].item() for each in alone) / 3, rel=1e-5)
    total = sum(weight * together[part].item() for part, weight in weights.items())
    assert together["loss"].item() == pytest.approx(total, rel=1e-5)


@every_task
def test_what_a_teacher_says_is_learned_by_all_terms_with_their_weights_and_in_all_stacks(name):
    task = build_task(name, 3)
    maps = task.activate(random_outputs(task, seed=9))
    stacks = [random_outputs(task, seed=seed) for seed in range(2)]
    parts = [
        (term.weights[part], value)
        for key, term in task.terms.items()
        for stack in stacks
        for part, value in term.imitation(stack[key], term.taught(maps)).items()
    ]
    assert len(parts) == 2 * sum(len(term.weights) for term in task.terms.values())
    total = sum(weight * value.item() for weight, value in parts) / 2
    assert task.imitation(stacks, maps).item() == pytest.approx(total, rel=1e-5)


@every_task
def test_a_weight_changes_the_sum_and_not_its_part(name):
    plain = build_task(name, 3)
    targets = plain.encode(make_batch(truth()), GRID)
    outputs = random_outputs(plain)
    before = plain.losses([outputs], targets)
    for term in plain.terms:
        weights = plain.terms[term].weights
        option, part = ("weight", term) if term in weights else ("size_weight", "size")
        weight = weights[part]
        after = build_task(name, 3, **{term: {option: weight + 2}}).losses([outputs], targets)
        assert after[part] == before[part]
        assert after["loss"].item() == pytest.approx((before["loss"] + 2 * before[part]).item(), rel=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_padded_losses_are_means_over_so_many_rows_or_over_all_there_are(rows):
    plain, padded = build_task("ctdet", 3), build_task("ctdet", 3, pad_objects=rows)
    objects = make_batch(truth(2), truth(1))
    targets = padded.encode(objects, GRID)
    most = max(rows, 2)
    assert isinstance(size := targets["size"], AtCells)
    assert (size.cell.shape, size.value.shape, size.mask.shape) == ((2, most), (2, most, 2), (2, most))
    assert size.mask.sum() == 3
    outputs = random_outputs(plain, images=2)
    per_object = plain.losses([outputs], plain.encode(objects, GRID))
    per_row = padded.losses([outputs], targets)
    assert per_row["heatmap"] == per_object["heatmap"]
    for part in ("size", "offset"):
        # Three objects, in twice as many rows as an image has.
        assert per_row[part].item() == pytest.approx(per_object[part].item() * 3 / (2 * most), rel=1e-3)
    assert {name: head.loss for name, head in padded.heads.items()} == {
        "heatmap": "focal", "size": "mean_l1", "offset": "mean_l1",
    }  # fmt: skip


def test_single_elements_are_padded_too():
    task = build_task("ctdet", 3, pad_objects=9, size={"per_class": True})
    assert task.encode(make_batch(truth()), GRID)["size"].mask.shape == (1, 9, 6)


# Rules across terms --------------------------------------------------------------------------------------------------


def known(targets: Targets) -> dict[str, list[bool]]:
    """By term: which objects of the first image say anything."""
    return {
        name: target.mask[0].view(len(target.mask[0]), -1).any(-1).tolist()
        for name, target in targets.items()
        if isinstance(target, AtCells) and name != "joint_offset"
    }


@pytest.mark.parametrize("name", ["ddd", "ddd_dle"])
def test_depth_and_dimensions_are_not_learned_from_rescaled_objects_unless_they_are_of_one_camera(name):
    rows = {**truth(2), "rescaled": torch.tensor([False, True])}
    targets = build_task(name, 3).encode(make_batch(rows), GRID)
    mute = {term for term, which in known(targets).items() if which == [True, False]}
    assert mute == {"depth", "dimensions"}
    assert all(which == [True, True] for term, which in known(targets).items() if term not in mute)
    with_focal = {**rows, "focal": torch.tensor([500.0, 250.0])}
    one_camera = build_task(name, 3, depth={"focal": 1000}).encode(make_batch(with_focal), GRID)
    assert all(which == [True, True] for which in known(one_camera).values())
    assert one_camera["depth"].value[0, :, 0].tolist() == [40, 80]
    # A camera that is asked for does not help data that does not know its own.
    assert known(build_task(name, 3, depth={"focal": 1000}).encode(make_batch(rows), GRID))["depth"] == [True, False]


@pytest.mark.parametrize(("unlabeled", "boxes"), [("center", [True, False, True]), ("box", [True, True, True])])
def test_size_and_offset_are_learned_from_what_shows_joints_or_can_have_none(unlabeled, boxes):
    rows = truth(3)
    rows["joints"][1, :, 2], rows["joints"][2, :, 2] = 0, -1
    targets = build_task("multi_pose", 3, unlabeled=unlabeled).encode(make_batch(rows), GRID)
    assert known(targets) == {"size": boxes, "offset": boxes, "joints": [True, False, False]}
    assert (targets["heatmap"].value == 1).sum() == 3


# A task of one's own -------------------------------------------------------------------------------------------------


class Color(Term):
    """A number per object that is in no table."""

    needs = ("color",)

    @property
    def head(self) -> Head:
        return Head(1, "l1", self.weight)

    def encode(self, placed: Placed, objects: Objects) -> AtCells:
        return AtCells(placed.cell, objects["color"][..., None], placed.is_object)

    def read(self, values: Tensor, peaks: Peaks) -> Detections:
        return {"color": values[..., 0]}


class ColorTask(Task):
    """Boxes that have a color; only those above 0 are learned."""

    name = "color"
    TERMS = {"heatmap": partial(Points, max_detections=2), "size": Size, "offset": Offset, "color": Color}
    OPTIONAL = ("size",)

    def metric(self, class_names: Sequence[str], **options: Any) -> ImageMetric:
        return CocoAP(class_names, **options)

    def supervised(self, placed: Placed, objects: Objects) -> dict[str, Tensor]:
        return {"color": objects["color"] > 0}


def test_a_term_and_a_task_of_ones_own_need_nothing_else():
    task = ColorTask(2, color={"weight": 3})
    assert task.needs == ("boxes", "labels", "color")
    objects = make_batch({**make_objects([[8, 8, 24, 16], [40, 40, 60, 60]], [0, 1]), "color": torch.tensor([0.5, -1])})
    targets = task.encode(objects, GRID)
    assert targets["color"].mask.tolist() == [[True, False]]
    assert targets["size"].mask.tolist() == [[True, True]]
    flawless = task.perfect(targets, GRID)
    assert gather_cells(flawless["color"], targets["color"].cell)[0, :, 0].tolist() == [0.5, 0]
    found = task.detect(flawless)
    assert sorted(found["color"][0].tolist()) == [0, 0.5]
    assert task.losses([{**flawless, "color": flawless["color"] + 2}], targets)["color"].item() == pytest.approx(
        2, 1e-3
    )
    lifted = task.lift(found, {"input_from_image": torch.diag(torch.tensor([2.0, 2, 1]).double())[None]})
    torch.testing.assert_close(lifted["boxes"], found["boxes"] / 2)
    assert lifted["color"] is found["color"]
    merged = task.merge_flipped({name: torch.cat([value, value.flip(-1)]) for name, value in flawless.items()})
    assert all(torch.equal(merged[name], value) for name, value in flawless.items())


def test_without_a_size_boxes_are_points():
    task = ColorTask(2, size=None)
    boxes = task.decode(random_outputs(task))["boxes"]
    assert torch.equal(boxes[..., :2], boxes[..., 2:])
