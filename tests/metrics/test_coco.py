"""CocoAP against pycocotools, called here directly, on made-up truth and detections."""

from __future__ import annotations

import contextlib
import gc
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from centernet.fields import stack_objects
from centernet.metrics import coco
from centernet.metrics.coco import BACKENDS, CocoAP, _class_groups, _evaluate
from centernet.structures import Detections, Objects
from tests.tiny import make_objects

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
CLASSES = ["cat", "dog", "bird"]


def scene(seed: int, images: int = 6, crowds: bool = True) -> tuple[list[Objects], list[Detections]]:
    """Truth of several sizes, and detections near it, elsewhere, and of the wrong class."""
    rng = np.random.default_rng(seed)
    truths, founds = [], []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        corner, side = rng.uniform(0, 200, (count, 2)), np.exp(rng.uniform(1.5, 5.5, (count, 2)))
        boxes, labels = np.concatenate([corner, corner + side], 1), rng.integers(0, 3, count)
        truth = make_objects(boxes, labels, (rng.random(count) < 0.2) & crowds)
        truth["area"] *= torch.from_numpy(rng.uniform(0.4, 1, count))  # a mask is smaller than its box
        truths.append(truth)
        near = boxes + rng.normal(0, 0.08, boxes.shape) * np.tile(side, 2)
        far = np.sort(rng.uniform(0, 200, (4, 2, 2)), 1).reshape(4, 4)
        rows = np.concatenate([near, near + 3, far])
        founds.append(
            {
                "boxes": torch.from_numpy(rows),
                "scores": torch.from_numpy(rng.random(len(rows))),
                "labels": torch.from_numpy(np.concatenate([labels, labels, rng.integers(0, 3, 4)])),
            }
        )
    return truths, founds


def padded(founds: list[Detections]) -> Detections:
    """A batch of detections; rows are filled up with boxes of score 0, as a fixed K brings them."""
    most = max(len(found["scores"]) for found in founds)
    batch: dict[str, list[torch.Tensor]] = {"boxes": [], "scores": [], "labels": []}
    for found in founds:
        for name, value in found.items():
            batch[name].append(torch.cat([value, value.new_zeros(most - len(value), *value.shape[1:])]))
    return {name: torch.stack(values) for name, values in batch.items()}


def by_hand(truths: list[Objects], founds: list[Detections], ids: list[int]) -> list[float]:
    """What pycocotools says when a user writes the json and calls it."""
    annotations = [
        {
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": crowd,
        }
        for image_id, truth in zip(ids, truths, strict=True)
        for (x1, y1, x2, y2), label, area, crowd in zip(
            *(truth[name].tolist() for name in ("boxes", "labels", "area", "crowd")), strict=True
        )
    ]
    results = [
        {"image_id": image_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image_id, found in zip(ids, founds, strict=True)
        for (x1, y1, x2, y2), label, score in zip(
            *(found[name].tolist() for name in ("boxes", "labels", "scores")), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image_id} for image_id in ids],
            "annotations": [{"id": n + 1, **row, "iscrowd": int(row["iscrowd"])} for n, row in enumerate(annotations)],
            "categories": [{"id": n + 1, "name": name} for n, name in enumerate(CLASSES)],
        }
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist()


def compute(metric: CocoAP) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def fill(metric: CocoAP, truths: list[Objects], founds: list[Detections], ids: list[int], size: int = 2) -> CocoAP:
    """Update a metric batch by batch."""
    for start in range(0, len(ids), size):
        part = slice(start, start + size)
        metric.update(padded(founds[part]), stack_objects(truths[part]), torch.tensor(ids[part]))
    return metric


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_the_twelve_numbers_are_those_of_pycocotools(seed, backend):
    truths, founds = scene(seed)
    ids = [7 * n + 2**40 for n in range(len(truths))]  # large ids: float32 would merge them
    numbers = compute(fill(CocoAP(CLASSES, backend=backend), truths, founds, ids))
    wanted = [value if value > -1 else float("nan") for value in by_hand(truths, founds, ids)]
    assert list(numbers) == NAMES
    np.testing.assert_allclose(list(numbers.values()), wanted, atol=1e-6)
    assert numbers["AP"] > 0.05


def test_both_backends_agree_to_ten_digits():
    truths, founds = scene(9, images=20)
    metric = fill(CocoAP(CLASSES), truths, founds, list(range(20)))
    first, second = (_evaluate(*metric.collected(), 3, backend) for backend in BACKENDS)
    for mine, theirs in zip(first, second, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [1, 40, 90])
def test_a_few_classes_at_a_time_give_the_numbers_of_all_at_once(rows, backend, monkeypatch):
    truths, founds = scene(3, images=12)
    for found in founds:
        found["scores"] = (8 * found["scores"]).round() / 8  # equal ones, across images too
    collected = fill(CocoAP(CLASSES), truths, founds, list(range(12))).collected()
    whole = _evaluate(*collected, 5, backend)  # two classes that nothing belongs to
    monkeypatch.setattr(coco, "ROWS_AT_ONCE", rows)
    for mine, theirs in zip(_evaluate(*collected, 5, backend), whole, strict=True):
        assert np.array_equal(mine, theirs)


def test_classes_are_grouped_by_their_rows(monkeypatch):
    monkeypatch.setattr(coco, "ROWS_AT_ONCE", 10)
    rows = np.array([4, 6, 1, 30, 0, 0, 9, 2])
    assert _class_groups(np.concatenate([[0], rows.cumsum()])) == [(0, 2), (2, 3), (3, 4), (4, 7), (7, 8)]


@pytest.mark.parametrize("enabled", [True, False])
def test_evaluation_leaves_garbage_collection_as_it_was(enabled):
    metric = fill(CocoAP(CLASSES), *scene(0), list(range(6)))
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        metric.compute()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_the_table_of_many_classes_has_those_with_objects_only():
    metric = CocoAP(CLASSES)
    metric.per_class = {f"class {n}": {"AP": 0.5, "objects": n % 2} for n in range(12)}
    lines = metric.class_table(most=4).splitlines()
    assert [line.split()[1] for line in lines[1:5]] == ["1", "3", "5", "7"]
    assert lines[5:] == ["2 more classes are in metrics.json", "6 classes without objects are not shown"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_truth_found_perfectly_scores_one_and_what_is_not_there_is_not_a_number(backend):
    truth = make_objects([[0, 0, 20, 20], [30, 30, 90, 90]], [0, 1])
    metric = CocoAP(CLASSES, backend=backend)
    metric.update({**detections_of(truth)}, stack_objects([truth]), torch.tensor([3]))
    numbers = compute(metric)
    assert [numbers[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "AR100")] == [1] * 6
    assert np.isnan(numbers["APl"])
    assert np.isnan(numbers["ARl"])
    assert metric.per_class["cat"] == pytest.approx({"AP": 1, "AP50": 1, "AR100": 1, "objects": 1})
    assert np.isnan(metric.per_class["bird"]["AP"])
    assert metric.per_class["bird"]["objects"] == 0
    lines = metric.class_table().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["class", *CLASSES[:2]]
    assert lines[-1] == "1 class without objects is not shown"


def detections_of(truth: Objects) -> Detections:
    """The truth of an image as a batch of detections."""
    return {
        "boxes": truth["boxes"][None],
        "scores": torch.full((1, len(truth["labels"])), 0.9),
        "labels": truth["labels"][None],
    }


def test_the_area_under_the_curves_is_ap50():
    truths, founds = scene(2)
    truths = [{**truth, "labels": truth["labels"].clamp(max=1)} for truth in truths]  # no birds
    metric = fill(CocoAP(CLASSES), truths, founds, list(range(len(truths))))
    at_50 = compute(metric)["AP50"]
    curves = metric.precision_over_recall()
    assert list(curves) == ["mean of classes", *CLASSES]
    assert curves["mean of classes"].mean() == pytest.approx(at_50, abs=1e-6)
    assert at_50 > 0.05
    for name in CLASSES:
        assert curves[name].mean() == pytest.approx(metric.per_class[name]["AP50"], nan_ok=True)
    assert np.isnan(curves["bird"]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_at_all_scores_zero(backend):
    truths, _ = scene(1, crowds=False)
    nothing = {
        "boxes": torch.zeros(1, 0, 4),
        "scores": torch.zeros(1, 0),
        "labels": torch.zeros(1, 0, dtype=torch.long),
    }
    metric = CocoAP(CLASSES, backend=backend)
    for n, truth in enumerate(truths):
        metric.update(nothing, stack_objects([truth]), torch.tensor([n]))
    numbers = compute(metric)
    assert numbers["AP"] == numbers["AP50"] == numbers["AR1"] == numbers["AR100"] == 0
    assert sum(values["objects"] for values in metric.per_class.values()) == sum(len(t["labels"]) for t in truths)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_any_truth_nothing_is_a_number(backend):
    _, founds = scene(1)
    metric = CocoAP(CLASSES, backend=backend)
    metric.update(padded(founds[:1]), stack_objects([make_objects([])]), torch.tensor([1]))
    assert all(np.isnan(value) for value in compute(metric).values())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_metric_that_saw_nothing_computes_too(backend):
    assert all(np.isnan(value) for value in compute(CocoAP(CLASSES, backend=backend)).values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_lies_in_a_crowd_is_neither_hit_nor_missed(backend):
    truth = make_objects([[0, 0, 20, 20], [50, 50, 150, 150]], [0, 0], [False, True])
    boxes = torch.tensor([[[0.0, 0, 20, 20], [60, 60, 80, 80], [90, 90, 110, 110]]])
    found = {"boxes": boxes, "scores": torch.tensor([[0.5, 0.9, 0.8]]), "labels": torch.zeros(1, 3, dtype=torch.long)}
    metric = CocoAP(["cat"], backend=backend)
    metric.update(found, stack_objects([truth]), torch.tensor([1]))
    assert compute(metric)["AP"] == 1
    assert metric.per_class["cat"]["objects"] == 1
    plain = CocoAP(["cat"], backend=backend)
    plain.update(found, stack_objects([make_objects([[0, 0, 20, 20]])]), torch.tensor([1]))
    assert compute(plain)["AP"] < 0.5


def test_the_area_is_that_of_the_mask_not_of_the_box():
    truth = make_objects([[0, 0, 40, 40]])
    truth["area"][:] = 500.0  # small by its mask, medium by its box
    metric = CocoAP(["cat"])
    metric.update(detections_of(truth), stack_objects([truth]), torch.tensor([1]))
    numbers = compute(metric)
    assert numbers["APs"] == 1
    assert np.isnan(numbers["APm"])


def test_an_image_that_came_twice_counts_once():
    truths, founds = scene(3)
    ids = list(range(len(truths)))
    once = fill(CocoAP(CLASSES), truths, founds, ids)
    twice = fill(fill(CocoAP(CLASSES), truths, founds, ids), truths[:3], founds[:3], ids[:3])
    np.testing.assert_equal(compute(twice), compute(once))
    assert twice.per_class.keys() == once.per_class.keys()
    within = CocoAP(CLASSES)  # also when both came in one batch
    doubled = [n for n in ids for _ in range(2)]
    within = fill(within, [truths[n] for n in doubled], [founds[n] for n in doubled], doubled)
    np.testing.assert_equal(compute(within), compute(once))


def test_two_processes_give_the_numbers_of_one_without_the_padding(monkeypatch):
    # Three images on two ranks: the sampler pads with the first image, so that rank 1 brings it again.
    truths, founds = scene(5, images=3)
    ranks = []
    for rank, ids in enumerate(([0, 2], [1, 0])):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        ranks.append(fill(CocoAP(CLASSES), [truths[n] for n in ids], [founds[n] for n in ids], ids))
        monkeypatch.undo()
    alone = compute(fill(CocoAP(CLASSES), truths, founds, [0, 1, 2]))
    for name in ranks[0]._defaults:
        setattr(ranks[0], name, getattr(ranks[0], name) + getattr(ranks[1], name))
    np.testing.assert_equal(compute(ranks[0]), alone)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_rank_without_images_takes_part_with_empty_rows():
    truths, founds = scene(6)
    full = fill(CocoAP(CLASSES), truths, founds, list(range(len(truths))))
    wanted = compute(full)
    others = {name: torch.cat(getattr(full, name)) for name in full._defaults}
    names = iter(others)

    def gather(mine: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        theirs = others[next(names)]
        assert mine.dtype == theirs.dtype
        assert mine.shape[1:] == theirs.shape[1:]
        return [mine, theirs]

    empty = CocoAP(CLASSES)
    empty.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    rows = {name: getattr(empty, name) for name in others}
    empty._is_synced = False
    for name, value in rows.items():
        setattr(empty, name, [value] if isinstance(value, torch.Tensor) else value)
    np.testing.assert_equal(compute(empty), wanted)


def test_a_reset_metric_starts_anew():
    truths, founds = scene(2)
    ids = list(range(len(truths)))
    metric = fill(CocoAP(CLASSES), truths, founds, ids)
    first = compute(metric)
    metric.reset()
    assert metric.images == []
    np.testing.assert_equal(compute(fill(metric, truths, founds, ids)), first)


def test_a_hundred_detections_count_however_many_there_are():
    boxes = torch.arange(150).float()[:, None] * 30 + torch.tensor([0.0, 0, 20, 20])
    truth = make_objects(boxes)
    found = {"boxes": boxes[None], "scores": torch.linspace(1, 0.5, 150)[None], "labels": torch.zeros(1, 150).long()}
    metric = CocoAP(["cat"])
    metric.update(found, stack_objects([truth]), torch.tensor([1]))
    assert compute(metric)["AR100"] == pytest.approx(100 / 150, abs=1e-6)


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend='coco' is unknown; choose one of faster-coco-eval, pycocotools"):
        CocoAP(CLASSES, backend="coco")
