"""Option names of tasks in checkpoints of format 1 and older command lines, and their current places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_POINTS = {
    "k": "heatmap.max_detections",
    "radius": "heatmap.radius",
    "min_overlap": "heatmap.min_overlap",
    "heatmap_weight": "heatmap.weight",
}
_BOX_POINTS = {**_POINTS, "heatmap_loss": "heatmap.loss", "crowds": "heatmap.crowds", "evaluator": "metric.backend"}
_BOX = {"size_weight": "size.weight", "offset_weight": "offset.weight"}
_SPACE = {
    **_POINTS,
    **_BOX,
    "depth_weight": "depth.weight",
    "dimensions_weight": "dimensions.weight",
    "rotation_weight": "rotation.weight",
    "ignored": "heatmap.ignore",
    "focal": "depth.focal",
    "overlap": "metric.overlap",
}
RENAMED: dict[str, dict[str, str]] = {
    "ctdet": {**_BOX_POINTS, **_BOX},
    "ctdet_dense": {**_BOX_POINTS, "size_weight": "box.size_weight", "offset_weight": "box.offset_weight"},
    "multi_pose": {
        **_BOX_POINTS,
        **_BOX,
        "joints": "facts.joints",
        "joints_weight": "joints.weight",
        "joints_target": "joints.supervise",
        "joint_heatmap_weight": "joint_heatmap.weight",
        "joint_heatmap_loss": "joint_heatmap.loss",
        "joint_offset_weight": "joint_offset.weight",
        "jointless": "unlabeled",
    },
    "ddd": {**_SPACE, "slots": "pad_objects"},
    "ddd_dle": {
        **_SPACE,
        "offset_3d_weight": "offset_3d.weight",
        "max_depth": "heatmap.max_depth",
        "mean_dimensions": "dimensions.means",
    },
}
"""By task: the old option and its new place; places below ``metric`` and ``facts`` are no longer options of the
task."""

TARGETS = {
    "center": {"supervise": "center"},
    "dense": {"supervise": "dense"},
    "per_class": {"per_class": True},
}
HEADS = {"ctdet_dense": {"size": "box"}}
"""Heads that were renamed."""


def upgrade(task: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Options of format 1 as (options of the task, facts of the data, options of the metric)."""
    new: dict[str, Any] = {}
    left_out = []
    for name, value in options.items():
        if isinstance(value, bool) and name in ("size", "offset", "joint_heatmap", "joint_offset"):
            left_out += [] if value else [name]
        elif name == "size_target":
            new.setdefault("size", {}).update(TARGETS.get(value, {"supervise": value}))
        elif name == "regression_loss":
            parts = ("size", "offset", "joint_offset") if task == "multi_pose" else ("size", "offset")
            for part in parts:
                new.setdefault(part, {})["loss"] = value
        elif (place := RENAMED[task].get(name)) is not None:
            if value is None and name != "slots":
                continue  # unset, so the default applies
            *path, last = place.split(".")
            node = new
            for step in path:
                node = node.setdefault(step, {})
            node[last] = value
        else:
            new[name] = value  # same name today, or unknown: the task raises
    if "supervise" in new.get("size", {}) and new["size"]["supervise"] == "dense":
        new["size"].pop("loss", None)  # dense supervision never used it
    new |= dict.fromkeys(left_out)
    return new, new.pop("facts", {}), new.pop("metric", {})
