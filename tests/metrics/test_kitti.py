"""KittiAP on small made-up frames; tests/reference holds it against what the benchmark's tool printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from centernet.fields import index, stack_objects
from centernet.metrics.kitti import DIFFICULTIES, MEASURES, KittiAP, limit_of
from centernet.structures import Detections, InputError, Objects

CLASSES = ["Car", "Pedestrian", "Cyclist"]
SUMMARY = ["AP", "AP_2d", "AOS", "AP_bev", "AP_3d"]
SHAPE = ("boxes", "labels", "alpha", "dimensions", "location", "yaw")


def make_truth(count: int, label: int = 0, **changes: Any) -> Objects:
    """Easy objects in a row, 60 pixels high, 10 m apart; ``changes`` set a field of all or of each."""
    place = torch.arange(count, dtype=torch.float64)
    fields = {
        "boxes": torch.stack([place * 100, place * 0 + 100, place * 100 + 80, place * 0 + 160], -1),
        "labels": torch.full((count,), label),
        "crowd": torch.zeros(count, dtype=torch.bool),
        "neutral": torch.zeros(count, dtype=torch.bool),
        "truncation": torch.zeros(count, dtype=torch.float64),
        "occlusion": torch.zeros(count, dtype=torch.long),
        "alpha": torch.full((count,), 0.3, dtype=torch.float64),
        "dimensions": torch.tensor([1.5, 1.6, 3.9], dtype=torch.float64).repeat(count, 1),
        "location": torch.stack([place * 10, place * 0 + 1.5, place * 0 + 20], -1),
        "yaw": torch.full((count,), 0.4, dtype=torch.float64),
    }
    for name, value in changes.items():
        fields[name] = torch.as_tensor(value, dtype=fields[name].dtype).expand(fields[name].shape).clone()
    return fields


def joined(*parts: Objects) -> Objects:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def found_on(truth: Objects, scores: Sequence[float] | None = None, **changes: Any) -> Detections:
    """Detections that lie exactly on the rows of a truth, by default with falling scores."""
    count = len(truth["labels"])
    found = {name: truth[name].clone() for name in SHAPE}
    found["scores"] = (
        torch.linspace(0.9, 0.5, count).double() if scores is None else torch.tensor(scores, dtype=torch.float64)
    )
    for name, value in changes.items():
        found[name] = torch.as_tensor(value, dtype=found[name].dtype).expand(found[name].shape).clone()
    return found


def evaluate(
    *frames: tuple[Detections, Objects], overlap: str = "official", class_names: Sequence[str] = CLASSES
) -> dict[str, float]:
    metric = KittiAP(class_names, overlap)
    for number, (found, truth) in enumerate(frames):
        add(metric, found, truth, number)
    return numbers(metric)


def add(metric: KittiAP, found: Detections, truth: Objects, image_id: int) -> None:
    metric.update({name: v[None] for name, v in found.items()}, stack_objects([truth]), torch.tensor([image_id]))


def numbers(metric: KittiAP) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def precision(found: Detections, truth: Objects, name: str = "car_2d_easy", overlap: str = "official") -> list[float]:
    """The precisions of a curve that are not 0."""
    metric = KittiAP(CLASSES, overlap)
    add(metric, found, truth, 0)
    numbers(metric)
    return [value for value in metric.curves[name].tolist() if value != 0]


def scene(seed: int, frames: int = 5) -> list[tuple[Detections, Objects]]:
    """Truth of all kinds, and detections near it."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(frames):
        count = 8
        kind = random.integers(0, 4, count)
        truth = make_truth(count, labels=np.where(kind == 3, -1, random.integers(0, 3, count)))
        truth["crowd"], truth["neutral"] = torch.from_numpy(kind > 1), torch.from_numpy(kind == 2)
        truth["occlusion"] = torch.from_numpy(random.integers(0, 3, count))
        found = found_on(index(truth, torch.arange(count).repeat(2)), -np.sort(-random.random(2 * count)))
        found["labels"] = found["labels"].clamp(min=0)
        found["boxes"] += torch.from_numpy(random.normal(0, 4, found["boxes"].shape))
        found["location"] += torch.from_numpy(random.normal(0, 0.2, found["location"].shape))
        made.append((found, truth))
    return made


def test_the_curves_to_plot_are_the_moderate_ones_whose_mean_is_the_result():
    metric = KittiAP(CLASSES)
    for number, (found, truth) in enumerate(scene(1)):
        add(metric, found, truth, number)
    results, curves = numbers(metric), metric.precision_over_recall()
    assert len(curves) == 4 * len(CLASSES)
    for name, curve in curves.items():
        assert name.endswith("_moderate")
        assert curve[1:].mean() == pytest.approx(results[f"{name}_R40"], abs=1e-6)
    assert results["car_2d_moderate_R40"] > 0.05


def test_the_results_are_a_summary_and_every_class_measure_difficulty_and_sampling():
    results = evaluate(*scene(0))
    names = [f"{c}_{m}_{d}_{p}" for c in ("car", "pedestrian", "cyclist") for m in MEASURES for d in DIFFICULTIES
             for p in ("R11", "R40")]  # fmt: skip
    assert list(results)[:5] == SUMMARY
    assert sorted(list(results)[5:]) == sorted(names)
    assert results["AP_3d"] == pytest.approx(
        np.mean([results[f"{c}_3d_moderate_R40"] for c in ("car", "pedestrian", "cyclist")])
    )
    assert results["AP"] == pytest.approx(np.mean([results[name] for name in SUMMARY[1:]]))
    assert 0 < results["AP"] < 1


def test_perfect_detections_score_one_if_there_are_objects_enough():
    truth = joined(*(make_truth(120, label) for label in range(3)))
    truth["boxes"][:, [1, 3]] += 200.0 * truth["labels"][:, None]
    truth["location"][:, 2] += 10.0 * truth["labels"]
    results = evaluate((found_on(truth), truth))
    assert all(value == pytest.approx(1) for value in results.values())
    few = make_truth(4)
    # Four scores give four of the 41 recalls: the tool's way, which does not reach 100 % with few objects.
    assert precision(found_on(few), few) == [1, 1, 1, 1]


def test_a_small_case_by_hand():
    # Hit (0.9), false positive (0.8), hit the wrong way round by a right angle (0.7): thresholds 0.9 and 0.7.
    truth = make_truth(2)
    aside = index(make_truth(3), torch.tensor([0, 2, 1]))
    found = found_on(aside, [0.9, 0.8, 0.7], alpha=[0.3, 0.3, 0.3 + math.pi / 2])
    assert precision(found, truth) == pytest.approx([1, 2 / 3])
    assert precision(found, truth, "car_aos_easy") == pytest.approx([1, 1.5 / 3])
    results = evaluate((found, truth))
    assert results["car_2d_easy_R11"] == pytest.approx(1 / 11)
    assert results["car_2d_easy_R40"] == pytest.approx(2 / 3 / 40)
    assert results["car_aos_moderate_R40"] == pytest.approx(1.5 / 3 / 40)
    assert results["car_3d_hard_R40"] == pytest.approx(2 / 3 / 40)


def test_precision_is_made_monotone():
    truth = make_truth(3)
    found = found_on(index(make_truth(4), torch.tensor([3, 0, 1, 2])), [0.9, 0.8, 0.7, 0.6])
    assert precision(found, truth) == pytest.approx([3 / 4, 3 / 4, 3 / 4])  # 1/2, 2/3, 3/4 before


def test_each_object_is_found_once_and_more_detections_of_it_are_wrong():
    truth = make_truth(1)
    twice = index(truth, torch.tensor([0, 0]))
    assert precision(found_on(twice, [0.9, 0.8]), truth) == [1]
    assert precision(found_on(twice, [0.9, 0.9]), truth) == [1 / 2]


def test_thresholds_come_from_the_best_score_and_hits_from_the_largest_overlap():
    truth = make_truth(1)
    both = found_on(index(truth, torch.tensor([0, 0])), [0.9, 0.4])
    both["boxes"][0, 2] -= 10  # scored higher, overlaps less
    assert precision(both, truth) == [1]
    # The object takes the first at 0.9; with equal scores it takes the better fitting one, and the other is wrong.
    both["scores"][1] = 0.9
    both["alpha"][0] += math.pi
    assert precision(both, truth) == [1 / 2]
    assert precision(both, truth, "car_aos_easy") == [1 / 2]


def test_objects_choose_in_the_order_of_the_file():
    truth = make_truth(2)
    truth["boxes"][1] = truth["boxes"][0] + torch.tensor([8.0, 0, 8, 0])
    found = found_on(index(truth, torch.tensor([1, 0])), [0.9, 0.5])
    # The first object takes the better scored detection in the first pass and leaves the other one to the second.
    assert len(precision(found, truth)) == 2
    only = index(found, torch.tensor([0]))
    assert precision(only, truth) == [1]
    assert evaluate((only, truth))["car_2d_easy_R11"] == pytest.approx(1 / 11)


def test_without_detections_nothing_is_reported_and_the_means_are_zero():
    truth = make_truth(3)
    metric = KittiAP(CLASSES)
    add(metric, found_on(make_truth(0), []), truth, 0)
    results = numbers(metric)
    assert [results[name] for name in SUMMARY] == [0] * 5
    assert all(math.isnan(value) for name, value in results.items() if name not in SUMMARY)
    assert metric.per_class["Car"]["objects"] == 3
    assert math.isnan(metric.per_class["Car"]["3D"])


def test_a_class_that_was_never_detected_counts_as_zero_in_the_means_and_one_without_objects_does_not_count():
    cars, walker = make_truth(120), make_truth(1, 1)
    walker["boxes"] += torch.tensor([0.0, 300, 0, 300])
    results = evaluate((found_on(cars), joined(cars, walker)))
    assert results["car_2d_moderate_R40"] == 1
    assert math.isnan(results["pedestrian_2d_moderate_R40"])
    assert results["AP_2d"] == pytest.approx(1 / 2)
    wrong = found_on(walker, [0.1], labels=2)
    results = evaluate((joined(found_on(cars), wrong), cars))
    assert results["cyclist_2d_moderate_R40"] == 0  # the tool's word for a class that is found but not there
    assert results["AP_2d"] == 1


def test_without_any_truth_the_tool_says_zero_and_the_summary_is_no_number():
    results = evaluate((found_on(make_truth(3)), make_truth(0)))
    assert all(math.isnan(results[name]) for name in SUMMARY)
    assert results["car_3d_moderate_R40"] == 0
    assert math.isnan(results["cyclist_3d_moderate_R40"])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_metric_that_saw_nothing_computes_too():
    assert all(math.isnan(value) for value in numbers(KittiAP(CLASSES)).values())


def test_a_neighboring_class_is_neither_hit_nor_missed():
    car, van = make_truth(1), index(make_truth(2, crowd=True, neutral=True), torch.tensor([1]))
    truth = joined(car, van)
    assert precision(found_on(truth, [0.5, 0.9]), truth) == [1]  # the van's detection is not wrong
    assert precision(found_on(car, [0.5]), truth) == [1]  # and nobody misses it
    assert evaluate((found_on(van, [0.9]), van))["car_2d_easy_R11"] == 0


def test_a_crowd_row_that_is_not_neutral_is_not_there():
    car, truck = make_truth(1), index(make_truth(2, crowd=True), torch.tensor([1]))
    assert precision(found_on(joined(car, truck), [0.5, 0.9]), joined(car, truck)) == [1 / 2]


def test_regions_that_nobody_cares_for_absorb_false_positives_by_the_share_of_the_detection():
    car, other = make_truth(1), index(make_truth(2), torch.tensor([1]))
    found = found_on(joined(car, other), [0.5, 0.9])
    unknown = {"dimensions": -1, "location": -1000, "yaw": -10, "crowd": True, "alpha": -10}
    for width, wanted in ((200, 1.0), (57, 1.0), (55, 1 / 2)):  # of the detection's 80; 70 % must lie inside
        region = make_truth(1, -1, boxes=[100, 50, 100 + width, 400], **unknown)
        truth = joined(car, region)
        assert precision(found, truth) == [wanted]
        assert precision(found, truth, "car_3d_easy") == [1 / 2]  # a region has no place in space
    assert precision(found_on(car, [0.5]), joined(car, region)) == [1]


def test_detections_without_a_place_lie_where_the_regions_without_a_place_lie():
    # The tool measures both at -1000 m: seen from above, a region covers a meter there, which holds a small footprint.
    truth = make_truth(2, 1)
    found = found_on(truth, [0.5, 0.9])
    found["location"][1], found["dimensions"][1] = -1000, torch.tensor([1.7, 0.6, 0.8])
    region = make_truth(1, -1, dimensions=-1, location=-1000, yaw=-10, crowd=True)
    assert precision(found, truth, "pedestrian_bev_easy") == [1 / 2]
    assert precision(found, joined(truth, region), "pedestrian_bev_easy") == [1]
    assert precision(found, joined(truth, region), "pedestrian_3d_easy") == [1 / 2]


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({}, "easy moderate hard"),
        ({"occlusion": 1}, "moderate hard"),
        ({"occlusion": 2}, "hard"),
        ({"occlusion": 3}, ""),
        ({"truncation": 0.15}, "easy moderate hard"),
        ({"truncation": 0.16}, "moderate hard"),
        ({"truncation": 0.3}, "moderate hard"),
        ({"truncation": 0.31}, "hard"),
        ({"truncation": 0.51}, ""),
        ({"boxes": [0, 100, 80, 140]}, "easy moderate hard"),
        ({"boxes": [0, 100, 80, 139.5]}, "moderate hard"),
        ({"boxes": [0, 100, 80, 125]}, "moderate hard"),
        ({"boxes": [0, 100, 80, 124.5]}, ""),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_difficulty_leaves_out_what_is_harder(changes, counted, dtype):
    # Beside it lies an easy object. What is left out is neither missed nor is its detection wrong.
    easy, other = index(make_truth(2), torch.tensor([1])), make_truth(1, **changes)
    truth = {name: v.to(dtype) if v.is_floating_point() else v for name, v in joined(easy, other).items()}
    for level in DIFFICULTIES:
        wanted = [1, 1] if level in counted.split() else [1]
        assert precision(found_on(truth, [0.5, 0.9]), truth, f"car_2d_{level}") == wanted
        missed = precision(found_on(easy, [0.5]), truth, f"car_2d_{level}")
        assert missed == [1]


def test_a_small_detection_is_neither_right_nor_wrong():
    truth = make_truth(1, boxes=[0, 100, 80, 140])
    for height, wanted in ((40.9, [1]), (40, [1]), (39.9, [])):
        assert precision(found_on(truth, [0.9], boxes=[0, 100, 80, 100 + height]), truth) == wanted
    aside = index(make_truth(2, boxes=[500, 100, 580, 139]), torch.tensor([1]))
    assert precision(found_on(joined(truth, aside), [0.5, 0.9]), truth) == [1]


def test_a_small_detection_of_any_class_may_take_an_object():
    truth = make_truth(1, boxes=[0, 100, 80, 140])
    small = found_on(truth, [0.9], boxes=[0, 100, 80, 139], labels=2)
    for labels in (2, -1):
        small["labels"][:] = labels
        both = joined(found_on(truth, [0.5]), small)
        assert precision(both, truth) == []  # the best score is the small one's: no threshold is sampled
        assert precision(both, truth, "car_2d_moderate") == [1]  # it is not small there, and of another class


def test_an_object_prefers_a_detection_that_is_not_small_even_where_the_small_one_fits_better():
    truth = make_truth(1, boxes=[0, 100, 80, 140])
    large = found_on(truth, [0.9], boxes=[0, 100, 65, 140])
    small = found_on(truth, [0.9], boxes=[0, 100, 80, 139])
    assert precision(joined(large, small), truth) == [1]


def test_of_equals_the_first_row_counts():
    truth = make_truth(1, boxes=[0, 100, 80, 140])
    one = found_on(truth, [0.9])
    small, opposite = found_on(truth, [0.9], boxes=[0, 100, 80, 139]), found_on(truth, [0.9], alpha=0.3 + math.pi)
    assert precision(joined(one, small), truth) == [1]  # the best score is that of the large one, if that comes first
    assert precision(joined(small, one), truth) == []
    assert precision(joined(one, opposite), truth, "car_aos_easy") == [1 / 2]  # and so is the largest overlap
    assert precision(joined(opposite, one), truth, "car_aos_easy") == pytest.approx([])


def test_relaxed_overlaps_are_smaller_on_the_ground_and_in_space_only():
    assert {kind: limit_of("CAR", kind, "relaxed") for kind in ("2d", "bev", "3d")} == {
        "2d": 0.7,
        "bev": 0.5,
        "3d": 0.5,
    }
    assert limit_of("Cyclist", "3d", "official") == 0.5
    assert limit_of("Tram", "bev", "relaxed") == 0.25
    truth = make_truth(1)
    moved = found_on(truth, [0.9])
    moved["location"][:, 0] += 0.6 * math.cos(0.4)
    moved["location"][:, 2] -= 0.6 * math.sin(0.4)  # by 0.6 m along the length of 3.9 m: 3.3 / 4.5 = 0.73
    moved["location"][:, 1] += 0.3  # and down by a fifth of the height: 2.64 / 4.56 = 0.58
    assert precision(moved, truth, "car_bev_easy") == [1]
    assert precision(moved, truth, "car_3d_easy") == []
    assert precision(moved, truth, "car_3d_easy", "relaxed") == [1]
    exactly = found_on(truth, [0.9], boxes=[0, 100, 80, 142])
    assert limit_of("Car", "2d", "official") == 42 / 60
    assert precision(exactly, truth) == []  # a hit takes more than the limit


def test_one_unknown_angle_silences_the_orientation_and_unknown_places_the_space():
    frames = scene(1)
    found = frames[0][0]
    found["alpha"][0] = -10
    found["location"][found["labels"] == 1] = -1000
    results = evaluate(*frames[:1])
    silent = {name.rsplit("_", 2)[0] for name, value in results.items() if math.isnan(value)}
    assert silent >= {"car_aos", "pedestrian_aos", "cyclist_aos", "pedestrian_bev", "pedestrian_3d"}
    assert not math.isnan(results["car_3d_easy_R40"])
    assert math.isnan(results["AOS"])
    assert results["AP"] == pytest.approx(np.mean([results[name] for name in ("AP_2d", "AP_bev", "AP_3d")]))


def test_a_frame_that_came_twice_counts_once():
    frames = scene(3)
    once, twice = KittiAP(CLASSES), KittiAP(CLASSES)
    for n, frame in enumerate(frames):
        add(once, *frame, n)
    for n in (0, 1, 0, 2, 3, 1, 4, 4):
        add(twice, *frames[n], n)
    np.testing.assert_equal(numbers(twice), numbers(once))
    assert twice.per_class == once.per_class


def test_frames_may_come_in_any_order_and_in_batches():
    frames = scene(4)
    order = [3, 0, 4, 1, 2]
    batched = KittiAP(CLASSES)
    found = {name: torch.stack([frames[n][0][name] for n in order]) for name in frames[0][0]}
    batched.update(found, stack_objects([frames[n][1] for n in order]), torch.tensor(order))
    np.testing.assert_equal(numbers(batched), evaluate(*frames))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_rank_without_frames_takes_part_with_empty_rows():
    full = KittiAP(CLASSES)
    for n, frame in enumerate(scene(6)):
        add(full, *frame, n)
    wanted = numbers(full)
    others = {name: torch.cat(getattr(full, name)) for name in full._defaults}
    names = iter(others)

    def gather(mine: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        theirs = others[next(names)]
        assert mine.dtype == theirs.dtype
        assert mine.shape[1:] == theirs.shape[1:]
        return [mine, theirs]

    empty = KittiAP(CLASSES)
    empty.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    rows = {name: getattr(empty, name) for name in others}
    empty._is_synced = False
    for name, value in rows.items():
        setattr(empty, name, [value] if isinstance(value, torch.Tensor) else value)
    np.testing.assert_equal(numbers(empty), wanted)


def test_classes_are_known_by_their_names_whatever_the_case():
    truth = make_truth(120)
    results = evaluate((found_on(truth), truth), class_names=["CAR"])
    assert results["car_2d_easy_R40"] == 1
    assert len(results) == 5 + 4 * 3 * 2


def test_the_table_shows_percent_and_a_dash_for_what_is_not_reported():
    truth = make_truth(2)
    aside = index(make_truth(3), torch.tensor([0, 2, 1]))
    metric = KittiAP(CLASSES)
    add(metric, found_on(aside, [0.9, 0.8, 0.7]), truth, 0)
    lines = metric.table(metric.compute()).splitlines()
    assert len(lines) == 2 + 4 + 1
    assert lines[1].split() == ["AP", "in", "%", *DIFFICULTIES, *DIFFICULTIES]
    assert lines[2].split() == ["Car", "2D", *["1.67"] * 3, *["9.09"] * 3]
    assert lines[-1] == "2 classes without objects are not shown"
    assert metric.per_class["Car"] == pytest.approx(
        {"2D": 1 / 60, "AOS": 1 / 60, "BEV": 1 / 60, "3D": 1 / 60, "objects": 2}
    )


def test_a_class_that_nothing_was_found_of_has_dashes_in_the_table():
    truth = make_truth(2)
    metric = KittiAP(CLASSES)
    add(metric, index(found_on(truth, [0.9, 0.8]), torch.tensor([], dtype=torch.long)), truth, 0)
    lines = metric.table(metric.compute()).splitlines()
    assert [line.split() for line in lines[2:6]] == [["Car", name, *"------"] for name in ("2D", "AOS", "BEV", "3D")]


def test_an_unknown_overlap_is_named():
    with pytest.raises(InputError, match="KittiAP: overlap='strict' is unknown; choose one of official, relaxed"):
        KittiAP(CLASSES, overlap="strict")
