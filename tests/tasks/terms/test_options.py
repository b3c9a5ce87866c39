"""Options, needs and facts of terms: what is wrong is said in one sentence, what is missing comes from the data."""

from __future__ import annotations

import math
from typing import Any

import pytest

from centernet.errors import InputError
from centernet.joints import COCO_JOINTS
from centernet.tasks import build_task, task_names
from centernet.tasks.base import _parameters, task_class
from centernet.tasks.terms.base import About
from centernet.tasks.terms.box import Offset, Size
from centernet.tasks.terms.joints import JointHeatmap, JointOffset, Joints
from centernet.tasks.terms.points import ProjectedPoints
from centernet.tasks.terms.space import KITTI_DIMENSIONS, USUAL_DIMENSIONS, Depth, RelativeDimensions

THREE = {"joints": {"names": ["head", "left_hand", "right_hand"]}}


def options_of(task: str, term: str) -> list[str]:
    return [name for name in _parameters(task_class(task).TERMS[term]) if name not in ("name", "about")]


def every_option() -> list[tuple[str, str, str]]:
    return [
        (task, term, option)
        for task in task_names()
        for term in task_class(task).TERMS
        for option in options_of(task, term)
    ]


def complaint(task: str, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        build_task(task, 3, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(("task", "term", "option"), every_option())
def test_nonsense_is_named_by_task_term_option_and_value_with_what_to_do(task, term, option):
    said = complaint(task, **{term: {option: "nonsense"}})
    assert said.startswith(f"task {task}: {term}.{option}=")
    assert "nonsense" in said
    todo = " must be a number", "; choose one of ", " must hold three positive numbers", " must hold two numbers"
    assert any(each in said for each in todo)


def are_numbers() -> list[tuple[str, str, str]]:
    words = ("loss", "supervise", "radius", "crowds", "ignore", "per_class", "means", "center", "ground")
    return [each for each in every_option() if each[2] not in words]


@pytest.mark.parametrize(("task", "term", "option"), are_numbers())
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True])
def test_a_number_is_finite_and_not_negative(task, term, option, value):
    said = complaint(task, **{term: {option: value}})
    assert said.startswith(f"task {task}: {term}.{option}={value} must be a number ")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            "ctdet",
            {"size": {"supervise": "everywhere"}},
            "task ctdet: size.supervise='everywhere' is unknown; choose one of center, dense",
        ),
        ("ctdet", {"size": {"per_class": 2}}, "task ctdet: size.per_class=2 is unknown; choose one of True, False"),
        (
            "ctdet",
            {"size": {"supervise": "dense", "loss": "smooth_l1"}},
            "task ctdet: size.loss=smooth_l1 requires supervise=center; use loss=l1 with dense",
        ),
        ("ctdet", {"offset": {"weight": -0.5}}, "task ctdet: offset.weight=-0.5 must be a number of at least 0"),
        (
            "ctdet",
            {"heatmap": {"min_overlap": 1}},
            "task ctdet: heatmap.min_overlap=1 must be a number above 0 and below 1",
        ),
        ("ctdet", {"size": {"wieght": 1}}, "task ctdet: size has no option 'wieght'; did you mean weight?"),
        (
            "ctdet_dense",
            {"box": {"weight": 1}},
            "task ctdet_dense: box has no option 'weight'; did you mean size_weight, offset_weight?",
        ),
        (
            "multi_pose",
            {"joints": {"loss": "l1"}},
            "task multi_pose: joints has no option 'loss'; choose one of weight, supervise",
        ),
        ("ddd", {"rotation": {"bins": 4}}, "task ddd: rotation has no option 'bins'; choose one of weight"),
        ("ddd", {"heatmap": {"max_depth": 40}}, "task ddd: heatmap has no option 'max_depth'; did you mean "),
        ("ddd", {"size": 0.1}, "task ddd: size=0.1 must be a mapping of options; for example {weight: 1.0}"),
        ("ddd", {"offset": False}, "task ddd: offset=False must be a mapping of options; for example {weight: 1.0}"),
        (
            "ddd_dle",
            {"dimensions": {"means": [[1, 2, 3]] * 2}},
            "task ddd_dle: dimensions.means=[[1, 2, 3], [1, 2, 3]] must hold three positive numbers (height, width, "
            "length in meters) for each of the 3 classes",
        ),
        ("ddd_dle", {"dimensions": {"means": [[1, 2, -3]] * 3}}, "task ddd_dle: dimensions.means="),
        ("ddd_dle", {"dimensions": {"means": [[1, 2]] * 3}}, "task ddd_dle: dimensions.means="),
        ("ddd_dle", {"dimensions": {"means": [1, 2, 3]}}, "task ddd_dle: dimensions.means="),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(task, options, message):
    assert complaint(task, **options).startswith(message)


def test_options_of_the_points_reach_through_every_class_above():
    about = About("a_task", 3)
    term = ProjectedPoints("heatmap", about, max_depth=40, ignore="region", radius="cornernet", min_overlap=0.5)
    assert (term.max_depth, term.ignore_by, term.radius, term.min_overlap) == (40, "region", "cornernet", 0.5)
    assert options_of("ddd_dle", "heatmap") == [
        "max_depth", "weight", "radius", "min_overlap", "ignore", "max_detections",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "needs"),
    [
        ("ctdet", ("boxes", "labels")),
        ("ctdet_dense", ("boxes", "labels")),
        ("ctdet_iou", ("boxes", "labels")),
        ("multi_pose", ("boxes", "labels", "joints")),
        ("multi_pose_iou", ("boxes", "labels", "joints")),
        ("ddd", ("boxes", "labels", "location", "dimensions", "alpha")),
        ("ddd_dle", ("boxes", "labels", "location", "center_3d", "dimensions", "alpha")),
        ("ddd_geo", ("boxes", "labels", "location", "center_3d", "bottom", "dimensions", "alpha")),
    ],
)
def test_a_task_needs_the_fields_that_its_terms_need(task, needs):
    assert build_task(task, 3).needs == needs


def test_what_a_term_needs_is_asked_for_only_where_it_is_used():
    assert Size.needs == Offset.needs == ()
    assert Joints.needs == JointHeatmap.needs == JointOffset.needs == ("joints",)
    assert Depth.needs == ("location",)


# Facts ---------------------------------------------------------------------------------------------------------------


def test_a_focal_length_is_what_was_said_or_else_what_the_data_says():
    plain, knowing = About("a_task", 1), About("a_task", 1, facts={"focal": 700.0})
    assert Depth("depth", plain).focal is None
    assert Depth("depth", knowing).focal is None  # as in the original, unless one asks for it
    assert Depth("depth", knowing, focal="data").focal == 700
    assert Depth("depth", plain, focal="data").focal is None
    assert Depth("depth", knowing, focal=300).focal == 300
    with pytest.raises(InputError, match=r"task a_task: depth\.focal=-7 must be a number above 0"):
        Depth("depth", About("a_task", 1, facts={"focal": -7}), focal="data")


def test_mean_dimensions_are_what_was_said_or_else_what_the_data_says_or_else_usual_ones():
    said, usual = [[1.0, 2.0, 3.0]], list(USUAL_DIMENSIONS)

    def means(count: int, facts: dict[str, Any], **options: Any) -> list[list[float]]:
        return RelativeDimensions("dimensions", About("a_task", count, facts=facts), **options).means

    assert means(1, {"mean_dimensions": said}) == said
    assert means(1, {"mean_dimensions": [[4, 5, 6]]}, means=said) == said
    assert means(1, {"mean_dimensions": said}, means=None) == [usual]
    assert means(2, {}) == [usual] * 2
    assert means(3, {}) == [list(row) for row in KITTI_DIMENSIONS]
    with pytest.raises(InputError, match="for each of the 2 classes"):
        means(2, {"mean_dimensions": said})


def test_joints_are_those_of_the_data_or_else_those_of_coco():
    coco, three = About("a_task", 1), About("a_task", 1, facts=THREE)
    assert Joints("joints", coco).joints.names == COCO_JOINTS
    assert (Joints("joints", coco).head.channels, JointHeatmap("map", coco).head.channels) == (34, 17)
    assert (Joints("joints", three).head.channels, JointHeatmap("map", three).head.channels) == (6, 3)
    assert JointOffset("offset", three).head.channels == 2
    heads = build_task("multi_pose", 1, facts=THREE).heads
    assert (heads["joints"].channels, heads["joint_heatmap"].channels) == (6, 3)


def test_only_joints_mind_what_other_data_says_of_itself():
    for name in task_names():
        task = build_task(name, 1)
        fields = dict.fromkeys(task.needs)
        task.check_data(fields, {"focal": 1.0, "mean_dimensions": [[1, 2, 3]]}, "the val data")
        if "joints" not in task.needs:
            task.check_data(fields, THREE, "the val data")
    with pytest.raises(
        InputError, match=r"the val data has 3 joints \(head, left_hand, right_hand, \.\.\.\), the model"
    ):
        build_task("multi_pose", 1).check_data(dict.fromkeys(["boxes", "labels", "joints"]), THREE, "the val data")
