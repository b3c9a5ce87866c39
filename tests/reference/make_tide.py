"""Make ``tests/reference/tide.json``: random detections with the numbers that TIDE's own package gives for them.

``python -m tests.reference.make_tide PYTHON``, where PYTHON is an interpreter with the package tidecv (1.0.1; it is no
dependency of this project). The same input gives the same file. Scores differ, as the package puts errors before
true detections of the same score where it corrects some.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

PLACE = Path(__file__).parent / "tide.json"
CLASSES, IMAGES, SEEDS = 3, 30, (1, 2, 4)

# Run by the other interpreter: reads a case, prints AP and each kind of error's count and cost (in percent).
THEIRS = """
import contextlib, json, sys
from tidecv import TIDE, Data
case = json.load(sys.stdin)
truth, found = Data("truth"), Data("found")
for data in (truth, found):
    for label in range(case["classes"]):
        data.add_class(label, str(label))
    for image in range(case["images"]):
        data.add_image(image, str(image))
sides = lambda box: [box[0], box[1], box[2] - box[0], box[3] - box[1]]
for image, label, box in case["truth"]:
    truth.add_ground_truth(image, label, sides(box))
for image, label, score, box in case["found"]:
    found.add_detection(image, label, score, sides(box))
run = TIDE().evaluate(truth, found, mode=TIDE.BOX)
costs = {kind.short_name: cost for kind, cost in run.fix_main_errors().items()}
counts = {kind.short_name: len(rows) for kind, rows in run.error_dict.items()}
print(json.dumps({"AP50": run.ap, "costs": {k: costs[k] for k in counts if k in costs}, "counts": counts}))
"""


def make_case(seed: int) -> dict[str, Any]:
    """Random objects, each found never, once or twice, more or less well, sometimes as another class; and noise."""
    rng = np.random.default_rng(seed)
    truth: list[list[Any]] = []
    found: list[list[Any]] = []
    for image in range(IMAGES):
        for _ in range(rng.integers(1, 7)):
            (x, y), (width, height) = rng.integers(0, 200, 2).tolist(), rng.integers(12, 60, 2).tolist()
            box, label = [x, y, x + width, y + height], int(rng.integers(CLASSES))
            truth.append([image, label, box])
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                moved = (np.array(box) + rng.normal(0, rng.choice([1.0, 3.0, 9.0]), 4)).round(1).tolist()
                named = label if rng.random() < 0.8 else (label + int(rng.integers(1, CLASSES))) % CLASSES
                if moved[2] - moved[0] > 2 and moved[3] - moved[1] > 2:
                    found.append([image, named, rng.beta(3, 2), moved])
        for _ in range(rng.integers(0, 3)):
            (x, y), (width, height) = rng.integers(0, 200, 2).tolist(), rng.integers(12, 60, 2).tolist()
            found.append([image, int(rng.integers(CLASSES)), rng.beta(2, 3), [x, y, x + width, y + height]])
    for row in found:
        row[2] = round(float(row[2]), 6)
    assert len({row[2] for row in found}) == len(found), "equal scores; take another seed"
    return {"classes": CLASSES, "images": IMAGES, "truth": truth, "found": found}


def main() -> None:
    rows = []
    for seed in SEEDS:
        case = make_case(seed)
        told = subprocess.run(
            [sys.argv[1], "-c", THEIRS], input=json.dumps(case), capture_output=True, text=True, check=True
        ).stdout
        rows.append(json.dumps({**case, "tide": json.loads(told.splitlines()[-1])}, separators=(",", ":")))
    PLACE.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
