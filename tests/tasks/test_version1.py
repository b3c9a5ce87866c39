"""Options of format 1: every one of them arrives at its new place, and the old defaults build the tasks of today."""

from __future__ import annotations

from typing import Any

import pytest

from centernet.errors import InputError
from centernet.tasks import Task, build_task, task_names
from centernet.tasks._version1 import HEADS, RENAMED, upgrade

_POINTS = {"k": 100, "radius": "centernet", "min_overlap": 0.7, "heatmap_weight": 1.0}
_BOXES = {**_POINTS, "heatmap_loss": "focal", "crowds": "ignore", "evaluator": "faster-coco-eval"}
_SPACE = {
    **_POINTS,
    "depth_weight": 0.1,
    "dimensions_weight": 1.0,
    "rotation_weight": 1.0,
    "offset_weight": 1.0,
    "ignored": "gaussian",
    "focal": None,
    "overlap": "official",
}
# What the files in configs/task said.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ctdet": {
        **_BOXES,
        "size_weight": 0.1,
        "offset_weight": 1.0,
        "regression_loss": "l1",
        "size_target": "center",
        "offset": True,
    },
    "ctdet_dense": {**_BOXES, "size_weight": 0.05, "offset_weight": 0.5},
    "multi_pose": {
        **_BOXES,
        "joints": None,
        "size_weight": 0.1,
        "offset_weight": 1.0,
        "joints_weight": 1.0,
        "joint_heatmap_weight": 1.0,
        "joint_offset_weight": 1.0,
        "joint_heatmap_loss": "focal",
        "regression_loss": "l1",
        "joints_target": "center",
        "offset": True,
        "joint_heatmap": True,
        "joint_offset": True,
        "jointless": "center",
    },
    "ddd": {**_SPACE, "size_weight": 0.1, "size": True, "offset": True, "slots": None},
    "ddd_dle": {
        **_SPACE,
        "size_weight": 1.0,
        "offset_3d_weight": 1.0,
        "max_depth": 65.0,
        "mean_dimensions": None,
    },
}
_NEW_POINTS = {
    "k": (40, {"heatmap": {"max_detections": 40}}),
    "radius": ("cornernet", {"heatmap": {"radius": "cornernet"}}),
    "min_overlap": (0.5, {"heatmap": {"min_overlap": 0.5}}),
    "heatmap_weight": (2.0, {"heatmap": {"weight": 2.0}}),
}
_NEW_BOXES = {
    **_NEW_POINTS,
    "heatmap_loss": ("mse", {"heatmap": {"loss": "mse"}}),
    "crowds": ("objects", {"heatmap": {"crowds": "objects"}}),
    "evaluator": ("pycocotools", {"metric": {"backend": "pycocotools"}}),
}
_NEW_SIZES = {
    "size_weight": (2.0, {"size": {"weight": 2.0}}),
    "offset_weight": (2.0, {"offset": {"weight": 2.0}}),
}
_NEW_SPACE = {
    **_NEW_POINTS,
    **_NEW_SIZES,
    "depth_weight": (2.0, {"depth": {"weight": 2.0}}),
    "dimensions_weight": (2.0, {"dimensions": {"weight": 2.0}}),
    "rotation_weight": (2.0, {"rotation": {"weight": 2.0}}),
    "ignored": ("region", {"heatmap": {"ignore": "region"}}),
    "focal": (700.0, {"depth": {"focal": 700.0}}),
    "overlap": ("relaxed", {"metric": {"overlap": "relaxed"}}),
}
_JOINTS = {"names": ["a", "b"]}
_MEANS = [[1.0, 2.0, 3.0]] * 3
# By task: each old option, another value than its default, and where that must arrive.
ARRIVES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "ctdet": {
        **_NEW_BOXES,
        **_NEW_SIZES,
        "regression_loss": ("smooth_l1", {"size": {"loss": "smooth_l1"}, "offset": {"loss": "smooth_l1"}}),
        "size_target": ("dense", {"size": {"supervise": "dense"}}),
        "offset": (False, {"offset": None}),
    },
    "ctdet_dense": {
        **_NEW_BOXES,
        "size_weight": (2.0, {"box": {"size_weight": 2.0}}),
        "offset_weight": (2.0, {"box": {"offset_weight": 2.0}}),
    },
    "multi_pose": {
        **_NEW_BOXES,
        **_NEW_SIZES,
        "joints": (_JOINTS, {"facts": {"joints": _JOINTS}}),
        "joints_weight": (2.0, {"joints": {"weight": 2.0}}),
        "joint_heatmap_weight": (2.0, {"joint_heatmap": {"weight": 2.0}}),
        "joint_offset_weight": (2.0, {"joint_offset": {"weight": 2.0}}),
        "joint_heatmap_loss": ("mse", {"joint_heatmap": {"loss": "mse"}}),
        "regression_loss": (
            "smooth_l1",
            {name: {"loss": "smooth_l1"} for name in ("size", "offset", "joint_offset")},
        ),
        "joints_target": ("dense", {"joints": {"supervise": "dense"}}),
        "offset": (False, {"offset": None}),
        "joint_heatmap": (False, {"joint_heatmap": None}),
        "joint_offset": (False, {"joint_offset": None}),
        "jointless": ("box", {"unlabeled": "box"}),
    },
    "ddd": {
        **_NEW_SPACE,
        "size": (False, {"size": None}),
        "offset": (False, {"offset": None}),
        "slots": (50, {"pad_objects": 50}),
    },
    "ddd_dle": {
        **_NEW_SPACE,
        "offset_3d_weight": (2.0, {"offset_3d": {"weight": 2.0}}),
        "max_depth": (40.0, {"heatmap": {"max_depth": 40.0}}),
        "mean_dimensions": (_MEANS, {"dimensions": {"means": _MEANS}}),
    },
}


def settings_of(task: Task) -> dict[str, Any]:
    """Everything that the options of a task decide."""
    plain = (bool, int, float, str, type(None), list)
    return {
        name: {key: value for key, value in vars(term).items() if isinstance(value, plain)}
        for name, term in task.terms.items()
    }


# Tasks that earlier versions did not have.
NEW = {"ctdet_iou", "ddd_geo", "exdet", "multi_pose_iou"}


def test_every_task_and_every_old_option_is_looked_at():
    assert DEFAULTS.keys() == ARRIVES.keys() == RENAMED.keys() == set(task_names()) - NEW
    for name, options in DEFAULTS.items():
        assert options.keys() == ARRIVES[name].keys()
        assert RENAMED[name].keys() <= options.keys()


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_old_defaults_build_the_task_of_today(name):
    options, facts, metric = upgrade(name, DEFAULTS[name])
    old, new = build_task(name, 3, facts, **options), build_task(name, 3)
    assert old.heads == new.heads
    assert settings_of(old) == settings_of(new)
    assert facts == {}
    assert metric == ({"overlap": "official"} if name.startswith("ddd") else {"backend": "faster-coco-eval"})
    names = ["Pedestrian", "Car", "Cyclist"]
    assert type(old.metric(names, **metric)) is type(new.metric(names))


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in ARRIVES for option in ARRIVES[name]])
def test_an_old_option_arrives_at_its_new_place(name, option):
    value, wanted = ARRIVES[name][option]
    options, facts, metric = upgrade(name, {option: value})
    assert {**options, **({"facts": facts} if facts else {}), **({"metric": metric} if metric else {})} == wanted
    # And among the old defaults it is what differs.
    options, facts, metric = upgrade(name, {**DEFAULTS[name], option: value})
    task, default = build_task(name, 3, facts, **options), build_task(name, 3)
    task.metric(["Pedestrian", "Car", "Cyclist"], **metric)
    if "metric" not in wanted and option not in ("jointless", "slots"):
        assert settings_of(task) != settings_of(default)
    for term, changed in wanted.items():
        for key, new in changed.items() if term in task.terms and changed else ():
            attribute = {"ignore": "ignore_by"}.get(key, key)
            assert getattr(task.terms[term], attribute) == new
        assert changed is not None or term not in task.terms
    if option == "jointless":
        assert task.unlabeled == "box"
    if option == "slots":
        assert task.heads["depth"].loss == "mean_l1"


@pytest.mark.parametrize(
    ("target", "wanted"), [("center", {"supervise": "center"}), ("per_class", {"per_class": True})]
)
def test_the_other_ways_to_supervise_sizes_arrive(target, wanted):
    assert upgrade("ctdet", {"size_target": target}) == ({"size": wanted}, {}, {})


def test_dense_sizes_never_looked_at_the_regression_loss():
    for order in (1, -1):
        given = dict([("size_target", "dense"), ("regression_loss", "smooth_l1")][::order])
        options, _, _ = upgrade("ctdet", given)
        assert options == {"size": {"supervise": "dense"}, "offset": {"loss": "smooth_l1"}}
        assert build_task("ctdet", 3, **options).heads["size"].loss == "dense_l1"


def test_what_is_left_out_stays_left_out_whatever_else_is_said_of_it():
    options, _, _ = upgrade("ctdet", {"offset": False, "offset_weight": 2.0, "regression_loss": "l1"})
    assert options["offset"] is None
    options, _, _ = upgrade("multi_pose", {**DEFAULTS["multi_pose"], "joint_heatmap": False})
    assert build_task("multi_pose", 1, **options).heads.keys() == {"heatmap", "size", "offset", "joints"}


def test_slots_that_were_none_stay_none_and_everything_else_that_was_null_is_not_said():
    assert upgrade("ddd", {"slots": None, "focal": None})[0] == {"pad_objects": None}
    assert upgrade("ddd_dle", {"mean_dimensions": None, "focal": None}) == ({}, {}, {})


def test_an_option_that_never_was_one_is_left_for_the_task_to_refuse():
    options, _, _ = upgrade("ctdet", {"stride": 2, "radios": "round"})
    assert options == {"stride": 2, "radios": "round"}
    with pytest.raises(InputError, match="task ctdet has no option 'radios'"):
        build_task("ctdet", 3, **options)
    options, _, _ = upgrade("ctdet", {"size_target": "both"})
    with pytest.raises(InputError, match=r"size\.supervise='both' is unknown; choose one of center, dense"):
        build_task("ctdet", 3, **options)


def test_a_head_that_was_renamed_has_the_channels_that_it_had():
    assert HEADS == {"ctdet_dense": {"size": "box"}}
    assert build_task("ctdet_dense", 3).heads["box"].channels == 4
