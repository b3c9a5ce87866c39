"""The evaluator against what KITTI's offline tool printed, for every set of results in the reference folder."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from centernet.data.kitti_format import objects_of, parse_labels
from centernet.fields import stack_objects
from centernet.metrics.kitti import DIFFICULTIES, MEASURES, KittiAP, limit_of
from tests.places import REFERENCE

FOLDER = REFERENCE / "kitti_eval"
TRUTH = "label"


@cache
def read(name: str) -> dict[str, Any]:
    path = FOLDER / name
    return json.loads(path.read_text()) if path.is_file() else {}


def result_sets() -> list[Any]:
    """The names of all result sets; one that is skipped with a reason where there are none."""
    names = sorted(read("expected.json").get("results", {}))
    reason = f"no kitti_eval/expected.json in {REFERENCE} (set CENTERNET_REFERENCE)"
    return names or [pytest.param("", marks=pytest.mark.skip(reason=reason))]


@cache
def evaluated(name: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Results of the metric and its curves for one result set."""
    files, config = read("files.json"), read("expected.json")["config"]
    class_names = [word.capitalize() for word in config["classes"]]
    metric = KittiAP(class_names, overlap=protocol())
    for number, (frame, text) in enumerate(sorted(files[name].items())):
        truth = objects_of(parse_labels(files[TRUTH][frame], frame), class_names)
        rows = parse_labels(text, frame, with_scores=True)
        labels = [class_names.index(word) if word in class_names else -1 for word in rows.types]
        fields = ("boxes", "scores", "alpha", "dimensions", "location", "yaw")
        found = {field: torch.from_numpy(getattr(rows, field))[None] for field in fields}
        found["labels"] = torch.tensor(labels, dtype=torch.long)[None]
        truth = stack_objects([{field: torch.from_numpy(value) for field, value in truth.items()}])
        metric.update(found, truth, torch.tensor([number]))
    return {key: float(value) for key, value in metric.compute().items()}, metric.curves


def protocol() -> str:
    """Which of our overlaps is that of the file."""
    config = read("expected.json")["config"]
    for overlap in ("official", "relaxed"):
        if config["min_overlap_by_metric_then_class"] == {
            kind: [limit_of(name, kind, overlap) for name in config["classes"]] for kind in ("2d", "bev", "3d")
        }:
            return overlap
    raise AssertionError("the reference was measured with overlaps that the metric does not have")


@pytest.mark.parametrize("name", result_sets())
def test_every_printed_ap_and_every_precision_comes_out(name):
    expected = read("expected.json")["results"][name]
    numbers, curves = evaluated(name)
    assert len(read("files.json")[name]) == expected["frames"]
    compared = 0
    for class_name in read("expected.json")["config"]["classes"]:
        for measure in MEASURES:
            for level in DIFFICULTIES:
                key = f"{class_name}_{measure}_{level}"
                printed = expected["AP_11point_percent"].get(class_name, {}).get(measure)
                if printed is None:  # the tool reports nothing there
                    assert np.isnan(numbers[f"{key}_R11"]), key
                    assert np.isnan(numbers[f"{key}_R40"]), key
                    continue
                steps = expected["precision_at_41_recall_steps"][class_name][measure][level]
                np.testing.assert_allclose(100 * numbers[f"{key}_R11"], printed[level], atol=0.01, err_msg=key)
                np.testing.assert_allclose(curves[key], steps, atol=1e-4, err_msg=key)
                np.testing.assert_allclose(numbers[f"{key}_R40"], np.mean(steps[1:]), atol=1e-4, err_msg=key)
                compared += 1
    assert compared
