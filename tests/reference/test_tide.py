"""Errors by kind and their costs equal those of TIDE's own package (``make_tide``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from centernet.metrics.analysis import analyze

CASES = json.loads((Path(__file__).parent / "tide.json").read_text())
NAMES = {
    "class": "Cls", "location": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg", "missed": "Miss",
}  # fmt: skip
# One of the 101 recalls at which precision is read may be rounded to its other side: the package computes them as
# n / 100, COCO, which AP50 here equals, by linspace. That is at most one hundredth of one class's AP.
ONE_RECALL = 100 / 101 / 3


def columns(rows: list[list[Any]]) -> dict[str, np.ndarray]:
    image, labels, *scores, boxes = (np.array(each) for each in zip(*rows, strict=True))
    sides = boxes[:, 2:] - boxes[:, :2]
    about = {"scores": scores[0]} if scores else {"crowd": np.zeros(len(labels)), "area": sides.prod(1)}
    return {"image": image, "labels": labels, "boxes": boxes.astype(float), **about}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case['found'])} detections")
def test_errors_and_their_costs_equal_those_of_tides_own_package(case):
    names = [str(label) for label in range(case["classes"])]
    ours = analyze(np.arange(case["images"]), columns(case["found"]), columns(case["truth"]), names)
    theirs = case["tide"]
    assert 100 * ours["AP50"] == pytest.approx(theirs["AP50"], abs=1e-9)
    assert {NAMES[kind]: about["count"] for kind, about in ours["errors"].items()} == theirs["counts"]
    for kind, about in ours["errors"].items():
        tolerance = ONE_RECALL if kind == "missed" else 1e-9
        assert 100 * about["cost"] == pytest.approx(theirs["costs"][NAMES[kind]], abs=tolerance), kind
