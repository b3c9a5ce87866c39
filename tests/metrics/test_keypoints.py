"""CocoAP of joints against pycocotools, called here directly, and against numbers worked out by hand."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from centernet.fields import stack_objects
from centernet.joints import COCO_SIGMAS
from centernet.metrics.coco import BACKENDS, CocoAP
from centernet.structures import Detections, InputError, Objects
from tests.tiny import make_objects

NAMES = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl", "box_AP", "box_AP50", "box_AP75"]
CLASSES = ["person", "dog"]
FIVE = (0.03, 0.05, 0.08, 0.1, 0.02)


def make_people(boxes: Any, joints: Any, labels: Any = None, crowd: Any = None) -> Objects:
    """Truth of one image with joints ``[M, J, 3]``."""
    return {**make_objects(boxes, labels, crowd), "joints": torch.as_tensor(joints, dtype=torch.float64)}


def scene(seed: int, sigmas: tuple[float, ...], images: int = 6) -> tuple[list[Objects], list[Detections]]:
    """Truth of several sizes with some joints or all of them unlabeled, and crowds; detections near it and elsewhere.

    There are more than 20 detections in an image, some of score 0.
    """
    rng = np.random.default_rng(seed)
    truths, founds = [], []
    for _ in range(images):
        count, spread = int(rng.integers(0, 6)), np.array(sigmas)[:, None]
        corner, side = rng.uniform(0, 200, (count, 1, 2)), np.exp(rng.uniform(3, 5.5, (count, 1, 2)))
        points = corner + side * rng.random((count, len(sigmas), 2))
        seen = rng.integers(0, 3, (count, len(sigmas), 1)) * (rng.random((count, 1, 1)) > 0.2)
        boxes, labels = np.concatenate([corner, corner + side], 2)[:, 0], rng.integers(0, 2, count)
        truth = make_people(
            boxes, np.concatenate([points * (seen > 0), seen], 2), labels, (rng.random(count) < 0.2) & (count > 1)
        )
        truth["area"] *= torch.from_numpy(rng.uniform(0.4, 1, count))  # a mask is smaller than its box
        truths.append(truth)
        scale = np.sqrt(side.prod(2, keepdims=True))
        near = [points + k * spread * scale * rng.normal(0, 1, points.shape) for k in (0.5, 1, 2, 3)]
        far = rng.uniform(0, 200, (15, len(sigmas), 2))
        found = np.concatenate([*near, far])
        scores = rng.random(len(found))
        scores[-5:] = 0
        founds.append(
            {
                "boxes": torch.from_numpy(np.concatenate([found.min(1), found.max(1)], 1)),
                "scores": torch.from_numpy(scores),
                "labels": torch.from_numpy(np.concatenate([np.tile(labels, 4), rng.integers(0, 2, 15)])),
                "joints": torch.from_numpy(found),
                "joint_scores": torch.from_numpy(rng.random(found.shape[:2])),  # says nothing here
            }
        )
    return truths, founds


def by_hand(truths: list[Objects], founds: list[Detections], ids: list[int], sigmas: tuple[float, ...]) -> list[float]:
    """What pycocotools says of joints and of boxes when a user writes the files of the official format."""
    annotations, joints, boxes = [], [], []
    for image_id, truth, found in zip(ids, truths, founds, strict=True):
        for n, (x1, y1, x2, y2) in enumerate(truth["boxes"].tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(truth["labels"][n]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(truth["area"][n]),
                    "iscrowd": int(truth["crowd"][n]),
                    "keypoints": truth["joints"][n].flatten().tolist(),
                    "num_keypoints": int((truth["joints"][n, :, 2] > 0).sum()),
                }
            )
        for n, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist()):
            row = {
                "image_id": image_id,
                "category_id": int(found["labels"][n]) + 1,
                "score": float(found["scores"][n]),
            }
            boxes.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
            joints.append({**row, "keypoints": [v for x, y in found["joints"][n].tolist() for v in (x, y, 1)]})
    stats = []
    with contextlib.redirect_stdout(io.StringIO()):
        for rows, iou_type in ((joints, "keypoints"), (boxes, "bbox")):
            truth = COCO()
            truth.dataset = {
                "images": [{"id": image_id} for image_id in ids],
                "annotations": annotations,
                "categories": [{"id": n + 1, "name": name} for n, name in enumerate(CLASSES)],
            }
            truth.createIndex()
            evaluator = COCOeval(truth, truth.loadRes(rows), iou_type)
            if iou_type == "keypoints":
                evaluator.params.kpt_oks_sigmas = np.array(sigmas)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            stats += evaluator.stats.tolist()
    return [value if value > -1 else float("nan") for value in stats[:13]]


def padded(founds: list[Detections]) -> Detections:
    """A batch of detections, filled up with rows of zeros."""
    most = max(len(found["scores"]) for found in founds)

    def pad(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value, value.new_zeros(most - len(value), *value.shape[1:])])

    return {name: torch.stack([pad(found[name]) for found in founds]) for name in founds[0]}


def fill(metric: CocoAP, truths: list[Objects], founds: list[Detections], ids: list[int], size: int = 2) -> CocoAP:
    """Update a metric batch by batch."""
    for start in range(0, len(ids), size):
        part = slice(start, start + size)
        metric.update(padded(founds[part]), stack_objects(truths[part]), torch.tensor(ids[part]))
    return metric


def compute(metric: CocoAP) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def make_metric(backend: str = BACKENDS[0], sigmas: Any = FIVE, classes: Any = CLASSES) -> CocoAP:
    return CocoAP(classes, backend=backend, iou_type="keypoints", sigmas=sigmas)


def found_as(truth: Objects, joints: Any = None, score: float = 0.9) -> Detections:
    """The truth of an image as a batch of detections, with other joints where they are given."""
    points = truth["joints"][..., :2] if joints is None else torch.as_tensor(joints, dtype=torch.float64)
    return {
        "boxes": truth["boxes"][None],
        "scores": torch.full((1, len(truth["labels"])), score),
        "labels": truth["labels"][None],
        "joints": points[None],
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sigmas", [COCO_SIGMAS, FIVE, (0.07,)], ids=len)
@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_those_of_pycocotools_for_any_number_of_joints(seed, sigmas, backend):
    truths, founds = scene(seed, sigmas)
    ids = [7 * n + 2**40 for n in range(len(truths))]  # large ids: float32 would merge them
    numbers = compute(fill(make_metric(backend, sigmas), truths, founds, ids))
    assert list(numbers) == NAMES
    np.testing.assert_allclose(list(numbers.values()), by_hand(truths, founds, ids, sigmas), atol=1e-6)
    assert 0.02 < numbers["AP"] < 0.98


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_similarity_of_one_person_is_the_mean_over_its_labeled_joints(backend):
    # A joint that is d pixels off counts exp(-d^2 / (2 area (2 sigma)^2)). Of three joints two are labeled: one is
    # hit, the other is so far off that the mean of both lies just above or just below the threshold 0.75.
    sigmas, area = (0.1, 0.05, 0.02), 2500.0
    truth = make_people([[0, 0, 50, 60]], [[[10, 10, 2], [40, 40, 1], [0, 0, 0]]])
    truth["area"][:] = area
    for similarity, passed in ((0.751, 6), (0.749, 5)):
        off = math.sqrt(-2 * area * (2 * sigmas[1]) ** 2 * math.log(2 * similarity - 1))
        metric = make_metric(backend, sigmas, ["person"])
        joints = [[[10, 10], [40 + off * 0.6, 40 - off * 0.8], [500, 500]]]
        metric.update(found_as(truth, joints), stack_objects([truth]), torch.tensor([1]))
        numbers = compute(metric)
        assert numbers["AP"] == numbers["AR"] == pytest.approx(passed / 10)
        assert numbers["AP75"] == (passed == 6)
        assert numbers["box_AP"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_truth_found_perfectly_scores_one_and_what_is_not_there_is_not_a_number(backend):
    truth = make_people([[0, 0, 50, 60]], torch.full((1, 5, 3), 20.0))
    metric = make_metric(backend)
    metric.update(found_as(truth), stack_objects([truth]), torch.tensor([3]))
    numbers = compute(metric)
    assert all(numbers[name] == 1 for name in NAMES if not name.endswith("l"))
    assert np.isnan(numbers["APl"])
    assert np.isnan(numbers["ARl"])
    assert metric.per_class["person"] == pytest.approx({"AP": 1, "AP50": 1, "box_AP": 1, "objects": 1})
    assert all(np.isnan(metric.per_class["dog"][column]) for column in ("AP", "AP50", "box_AP"))
    assert metric.per_class["dog"]["objects"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_class_without_truth_leaves_the_others_where_they_are(backend):
    truth = make_people([[0, 0, 50, 60]], torch.full((1, 5, 3), 20.0), [1])
    metric = make_metric(backend, classes=["cat", "person", "dog"])
    metric.update(found_as(truth), stack_objects([truth]), torch.tensor([3]))
    assert compute(metric)["AP"] == 1
    assert [row["AP"] for row in metric.per_class.values()] == pytest.approx([math.nan, 1, math.nan], nan_ok=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_truth_without_a_labeled_joint_counts_for_boxes_only(backend):
    joints = torch.zeros(2, 5, 3)
    joints[0] = torch.tensor([20.0, 20, 2])
    truth = make_people([[0, 0, 50, 60], [100, 100, 180, 190]], joints)
    metric = make_metric(backend, classes=["person"])
    metric.update(index_of(found_as(truth), [0]), stack_objects([truth]), torch.tensor([1]))
    numbers = compute(metric)
    assert numbers["AP"] == numbers["AR"] == 1
    assert 0.4 < numbers["box_AP"] < 0.6
    assert metric.per_class["person"]["objects"] == 2
    # A detection near it is no mistake either.
    both = make_metric(backend, classes=["person"])
    points = torch.stack([torch.full((5, 2), 20.0), torch.full((5, 2), 140.0)])
    found = found_as(truth, points)
    found["scores"] = torch.tensor([[0.5, 0.9]])
    both.update(found, stack_objects([truth]), torch.tensor([1]))
    assert compute(both)["AP"] == compute(both)["box_AP"] == 1


def index_of(detections: Detections, rows: list[int]) -> Detections:
    return {name: value[:, rows] for name, value in detections.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_lies_in_a_crowd_is_neither_hit_nor_missed(backend):
    joints = torch.zeros(2, 5, 3)
    joints[0] = torch.tensor([20.0, 20, 2])
    truth = make_people([[0, 0, 50, 60], [100, 100, 180, 190]], joints, [0, 0], [False, True])
    points = torch.stack([torch.full((5, 2), 20.0), torch.full((5, 2), 140.0), torch.full((5, 2), 150.0)])
    found = {
        "boxes": torch.tensor([[[0.0, 0, 50, 60], [110, 110, 140, 150], [120, 120, 150, 160]]]),
        "scores": torch.tensor([[0.5, 0.9, 0.8]]),
        "labels": torch.zeros(1, 3, dtype=torch.long),
        "joints": points[None],
    }
    metric = make_metric(backend, classes=["person"])
    metric.update(found, stack_objects([truth]), torch.tensor([1]))
    assert compute(metric)["AP"] == compute(metric)["box_AP"] == 1
    assert metric.per_class["person"]["objects"] == 1
    plain = make_metric(backend, classes=["person"])
    alone = {name: value[:1] for name, value in truth.items()}
    plain.update(found, stack_objects([alone]), torch.tensor([1]))
    assert compute(plain)["AP"] < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_twenty_detections_of_an_image_count_for_joints_and_a_hundred_for_boxes(backend):
    place = torch.arange(40)[:, None] * 60.0
    joints = torch.cat([(place[:, None] + 20).expand(40, 5, 2), torch.full((40, 5, 1), 2.0)], -1)
    truth = make_people(place + torch.tensor([0.0, 0, 50, 60]), joints)
    found = {**found_as(truth), "scores": torch.linspace(1, 0.5, 40)[None]}
    metric = make_metric(backend, classes=["person"])
    metric.update(found, stack_objects([truth]), torch.tensor([1]))
    numbers = compute(metric)
    assert numbers["AR"] == pytest.approx(0.5)
    assert numbers["box_AP"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_at_all_scores_zero_where_there_is_truth(backend):
    truth = make_people([[0, 0, 50, 60]], torch.full((1, 5, 3), 20.0))
    metric = make_metric(backend)
    metric.update(index_of(found_as(truth), []), stack_objects([truth]), torch.tensor([1]))
    numbers = compute(metric)
    assert all(numbers[name] == 0 for name in NAMES if not name.endswith("l"))
    assert np.isnan(numbers["APl"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_any_truth_nothing_is_a_number(backend):
    _, founds = scene(1, FIVE)
    nobody = make_people([], torch.zeros(0, 5, 3))
    metric = fill(make_metric(backend), [nobody] * len(founds), founds, list(range(len(founds))))
    assert all(np.isnan(value) for value in compute(metric).values())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_metric_that_saw_nothing_computes_too(backend):
    numbers = compute(make_metric(backend))
    assert list(numbers) == NAMES
    assert all(np.isnan(value) for value in numbers.values())


def test_an_image_that_came_twice_counts_once():
    truths, founds = scene(3, FIVE)
    ids = list(range(len(truths)))
    once = fill(make_metric(), truths, founds, ids)
    twice = fill(fill(make_metric(), truths, founds, ids), truths[:3], founds[:3], ids[:3])
    np.testing.assert_equal(compute(twice), compute(once))
    np.testing.assert_equal(twice.per_class, once.per_class)
    doubled = [n for n in ids for _ in range(2)]
    within = fill(make_metric(), [truths[n] for n in doubled], [founds[n] for n in doubled], doubled)
    np.testing.assert_equal(compute(within), compute(once))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_rank_without_images_takes_part_with_empty_rows():
    truths, founds = scene(6, FIVE)
    full = fill(make_metric(), truths, founds, list(range(len(truths))))
    wanted = compute(full)
    others = {name: torch.cat(getattr(full, name)) for name in full._defaults}
    names = iter(others)

    def gather(mine: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        theirs = others[next(names)]
        assert mine.dtype == theirs.dtype
        assert mine.shape[1:] == theirs.shape[1:]
        return [mine, theirs]

    empty = make_metric()
    empty.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    rows = {name: getattr(empty, name) for name in others}
    empty._is_synced = False
    for name, value in rows.items():
        setattr(empty, name, [value] if isinstance(value, torch.Tensor) else value)
    np.testing.assert_equal(compute(empty), wanted)


@pytest.mark.parametrize("sigmas", [None, (), (0.1, 0.0), (0.1, -0.1)])
def test_joints_need_sigmas(sigmas):
    with pytest.raises(InputError, match=r"CocoAP: sigmas=.* is invalid; give one positive number per joint"):
        make_metric(sigmas=sigmas)


def test_an_unknown_kind_is_named():
    with pytest.raises(InputError, match="CocoAP: iou_type='segm' is unknown; choose one of bbox, keypoints"):
        CocoAP(CLASSES, iou_type="segm")


def test_joints_and_sigmas_must_be_as_many():
    truth = make_people([[0, 0, 50, 60]], torch.full((1, 4, 3), 20.0))
    with pytest.raises(InputError, match="detections have 4 joints but there are 5 sigmas; give one per joint"):
        make_metric().update(found_as(truth), stack_objects([truth]), torch.tensor([1]))
    with pytest.raises(InputError, match="truth have 4 joints"):
        make_metric().update(found_as(truth, torch.zeros(1, 5, 2)), stack_objects([truth]), torch.tensor([1]))
