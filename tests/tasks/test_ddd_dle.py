"""ddd_dle: what is encoded is decoded and lifted back exactly; what lies too far or outside; how sure a depth is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from centernet.losses import LOSSES
from centernet.ops.affine import flip_matrix
from centernet.structures import AtCells, DenseMap, InputError
from centernet.tasks import build_task
from centernet.tasks.ddd_dle import DddDleTask
from centernet.tasks.terms.angle import HEADING_BINS, HEADING_STEP, TwelveBins
from centernet.tasks.terms.base import About
from tests.tasks.test_ddd import (
    CLASSES,
    HEIGHT,
    IMAGE_SIZE,
    MATRICES,
    WIDTH,
    batch_of,
    by_column,
    clipped,
    in_input,
    scene,
    scenes,
)
from tests.tiny import make_batch

GRID = (HEIGHT, WIDTH)
ANGLE = TwelveBins("rotation", About("ddd_dle", CLASSES))


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@settings(max_examples=15)
@given(truth=scenes())
def test_what_is_encoded_is_decoded_and_lifted_back_to_its_place(truth, matrix):
    task = DddDleTask(CLASSES, heatmap={"max_detections": 20})
    moved = in_input(truth, matrix)
    targets = task.encode(make_batch(moved), GRID)
    found = task.detect(task.perfect(targets, GRID))
    lifted = task.lift(found, batch_of(matrix))
    count = len(truth["labels"])
    assert (found["scores"][0, :count] > 0.999).all()
    assert (found["scores"][0, count:] < 0.999).all()
    ours, wanted = by_column({name: value[0, :count] for name, value in found.items()}), by_column(moved)
    np.testing.assert_array_equal(ours["labels"], wanted["labels"])
    np.testing.assert_allclose(ours["boxes"], clipped(wanted["boxes"]), atol=1e-3)
    np.testing.assert_allclose(ours["center_3d"], wanted["center_3d"], atol=1e-3)
    np.testing.assert_allclose(ours["dimensions"], wanted["dimensions"], atol=1e-5)
    ours, wanted = by_column({name: value[0, :count] for name, value in lifted.items()}), by_column(truth)
    assert np.abs(ours["location"] - wanted["location"]).max(initial=0) < 1e-2
    np.testing.assert_allclose(np.exp(1j * ours["yaw"]), np.exp(1j * wanted["yaw"]), atol=1e-3)


@given(truth=scenes())
@settings(max_examples=10)
def test_the_perfect_output_costs_almost_nothing_but_the_log_of_its_spread(truth):
    task = DddDleTask(CLASSES)
    targets = task.encode(make_batch(truth), GRID)
    assert set(targets) == set(task.heads)
    parts = task.losses([task.perfect(targets, GRID)], targets)
    assert all(parts[name] < 1e-3 for name in ("dimensions", "rotation", "size", "offset", "offset_3d"))
    if len(truth["labels"]):
        # The spread is as good as none, so that rounding of a depth counts.
        assert parts["depth"] < 0


def test_everything_belongs_to_the_cell_of_the_3d_center():
    # Close and cut by the left border: the 2D box's middle is far from the projection of the 3D center.
    truth = scene([(-3.5, 1.6, 4.5, 0.4, 1)], [1])
    targets = DddDleTask(CLASSES).encode(make_batch(truth), GRID)
    x, y = (truth["center_3d"][0] / 4).floor().long().tolist()
    box = torch.from_numpy(clipped(truth["boxes"].numpy())) / 4
    middle = (box[:, :2] + box[:, 2:]) / 2
    assert (middle[0, 0] - x).abs() > 2
    assert targets["heatmap"].value[0, 1, y, x] == 1
    for target in targets.values():
        if isinstance(target, AtCells):
            assert target.cell.tolist() == [[y * WIDTH + x]]
    assert torch.allclose(targets["offset"].value[0].double(), middle - torch.tensor([x, y]), atol=1e-4)
    assert (targets["offset_3d"].value >= 0).all()
    assert (targets["offset_3d"].value < 1).all()


def test_an_object_with_its_center_outside_is_dropped_and_one_too_far_away_ignored():
    truth = scene([(0, 1.6, 20, 0.5, 1), (-7.8, 1.6, 8, 1.5, 1), (5, 1.6, 70, 0.5, 2)], [0, 1, 2])
    assert truth["center_3d"][1, 0] < 0 < truth["boxes"][1, 2]
    targets = DddDleTask(CLASSES, heatmap={"ignore": "region"}).encode(make_batch(truth), GRID)
    assert targets["depth"].mask.tolist() == [[True, False, False]]
    assert (targets["heatmap"].value == 1).nonzero()[:, 1].tolist() == [0]
    hidden = targets["heatmap"].weight[0] == 0
    assert hidden.any(-1).any(-1).tolist() == [False, False, True]
    everything = DddDleTask(CLASSES, heatmap={"max_depth": 80}).encode(make_batch(truth), GRID)
    assert everything["depth"].mask.tolist() == [[True, False, True]]


def test_rescaled_objects_teach_no_depth_and_no_dimensions():
    truth = scene([(0, 1.6, 20, 0.5, 1)])
    truth["rescaled"][0] = True
    targets = DddDleTask(CLASSES).encode(make_batch(truth), GRID)
    known = {name: bool(target.mask.any()) for name, target in targets.items() if isinstance(target, AtCells)}
    assert {name for name, is_known in known.items() if not is_known} == {"depth", "dimensions"}


def test_scores_fall_with_the_spread_of_depth_and_are_in_order():
    task = DddDleTask(CLASSES, heatmap={"max_detections": 2})
    truth = scene([(-4, 1.6, 20, 0.5, 1), (4, 1.6, 30, 0.5, 1)], [0, 1])
    targets = task.encode(make_batch(truth), GRID)
    maps = task.activate(task.perfect(targets, GRID))
    first, second = targets["depth"].cell[0].tolist()
    maps["depth"].flatten(2)[0, 1, first] = math.log(2.0)
    maps["depth"].flatten(2)[0, 1, second] = math.log(0.5)
    found = task.decode(maps)
    assert found["labels"].tolist() == [[1, 0]]
    assert found["scores"][0].tolist() == pytest.approx(
        [1 - math.exp(-(2**0.5) / 0.5), 1 - math.exp(-(2**0.5) / 2)], rel=1e-4
    )
    assert found["depth"][0].tolist() == pytest.approx([30, 20], rel=1e-4)
    np.testing.assert_allclose(found["boxes"][0], clipped(truth["boxes"].numpy())[[1, 0]], atol=1e-3)


def test_an_angle_is_the_nearest_of_twelve_directions_and_a_rest():
    angles = torch.linspace(-math.pi, math.pi, 200)
    targets = ANGLE.code(angles)
    assert set(targets[:, 0].tolist()) == set(range(HEADING_BINS))
    assert (targets[:, 1].abs() <= HEADING_STEP / 2 + 1e-6).all()
    assert ANGLE.code(torch.tensor([0.0, math.pi / 6, -math.pi / 6]))[:, 0].tolist() == [0, 1, 11]
    back = ANGLE.angle(ANGLE.perfect(DenseMap(targets.T.reshape(1, 2, 1, 200)), (1, 200))[0, :, 0].T)
    assert torch.allclose((back - angles).cos(), torch.ones(200))
    assert back.abs().max() <= math.pi + 1e-6


def test_the_mirror_of_a_heading_is_the_heading_of_the_mirror():
    angles = torch.linspace(-3, 3, 50)  # none between two directions, where rounding decides
    targets = [DenseMap(ANGLE.code(each).T.reshape(1, 2, 1, 50)) for each in (angles, math.pi - angles)]
    maps = [ANGLE.perfect(target, (1, 50)) for target in targets]
    mirrored, wanted = (ANGLE.angle(rotation[0, :, 0].T) for rotation in (ANGLE.mirror(maps[0]), maps[1]))
    assert torch.allclose((mirrored - wanted).cos(), torch.ones(50))


def test_merging_an_image_with_its_mirror_changes_nothing_but_keeps_both_offsets():
    task = DddDleTask(CLASSES)
    torch.manual_seed(0)
    maps = {name: torch.rand(1, head.channels, 4, 6) for name, head in task.heads.items()}
    reflected = {name: value.flip(-1) for name, value in maps.items()}
    reflected["rotation"] = ANGLE.mirror(reflected["rotation"])
    merged = task.merge_flipped({name: torch.cat([maps[name], reflected[name]]) for name in maps})
    for name, value in maps.items():
        assert torch.allclose(merged[name], value), name
    other = task.merge_flipped({name: torch.cat([maps[name], torch.rand_like(maps[name])]) for name in maps})
    assert [name for name in maps if torch.equal(other[name], maps[name])] == ["offset", "offset_3d"]


def test_a_mirrored_image_is_lifted_to_the_same_place():
    truth = scene([(3, 1.6, 25, 0.7, 1)], [1])
    mirror = torch.from_numpy(flip_matrix(IMAGE_SIZE[1]))
    task = DddDleTask(CLASSES, heatmap={"max_detections": 1})
    places = []
    for matrix in (MATRICES["as it is"], mirror):
        targets = task.encode(make_batch(in_input(truth, matrix)), GRID)
        places.append(task.lift(task.detect(task.perfect(targets, GRID)), batch_of(matrix)))
    for name in ("location", "yaw", "corners", "boxes"):
        assert torch.allclose(places[0][name], places[1][name], atol=1e-2), name


def test_mean_dimensions_come_from_the_data_or_are_those_of_kitti():
    pedestrian, car, cyclist = DddDleTask(3).terms["dimensions"].means
    assert pedestrian[2] < cyclist[2] < car[2]
    assert DddDleTask(2).terms["dimensions"].means == [[1.5, 1.6, 3.9]] * 2
    said = {"mean_dimensions": [[4, 5, 6]], "focal": 300.0}
    assert DddDleTask(1, facts=said).terms["dimensions"].means == [[4, 5, 6]]
    assert DddDleTask(1, facts=said).terms["depth"].focal == 300
    assert DddDleTask(1).terms["depth"].focal is None
    task = DddDleTask(1, facts=said, dimensions={"means": [[1, 2, 3]]})
    truth = scene([(0, 1.6, 20, 0.5, 1)])
    value = task.encode(make_batch(truth), GRID)["dimensions"].value[0, 0].tolist()
    assert value == pytest.approx([0.5, -0.4, 0.9, 1.5, 1.6, 3.9], abs=1e-5)


def test_images_without_objects_and_any_padding_give_a_finite_loss_and_a_usable_gradient():
    task = DddDleTask(2)
    batch = make_batch(scene([(0, 1.6, 20, 0.5, 1)]), scene([]))
    for name in ("boxes", "location", "dimensions", "alpha", "center_3d"):
        batch[name][1] = float("nan")
    batch["labels"][1] = 99
    for objects in (batch, make_batch(scene([]), scene([]))):
        targets = task.encode(objects, GRID)
        outputs = {name: torch.randn(2, head.channels, *GRID, requires_grad=True) for name, head in task.heads.items()}
        parts = task.losses([outputs], targets)
        parts["loss"].backward()
        assert torch.isfinite(parts["loss"])
        assert all(torch.isfinite(out.grad).all() for out in outputs.values())
        assert all(not out.grad[1].any() for name, out in outputs.items() if name != "heatmap")


def test_heads_follow_from_the_options():
    heads = DddDleTask(3).heads
    assert {name: head.channels for name, head in heads.items()} == {
        "heatmap": 3, "depth": 2, "dimensions": 3, "rotation": 24, "size": 2, "offset": 2, "offset_3d": 2,
    }  # fmt: skip
    assert all(head.loss in LOSSES for head in heads.values())


def test_data_without_projected_centers_is_refused():
    task = DddDleTask(1)
    fields = {name: torch.zeros(1) for name in task.needs if name != "center_3d"}
    with pytest.raises(
        InputError, match="task ddd_dle needs objects with center_3d, which the data does not have; use"
    ):
        task.check_data(fields, {}, "the data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heatmap": {"max_depth": 0}}, "task ddd_dle: heatmap.max_depth=0 must be a number above 0"),
        ({"dimensions": {"means": [[1, 2, 3]]}}, "task ddd_dle: dimensions.means=[[1, 2, 3]] must hold three positive"),
        ({"dimensions": {"means": [[1, 2, 0]] * 3}}, "task ddd_dle: dimensions.means="),
        ({"heatmap": {"ignore": "box"}}, "task ddd_dle: heatmap.ignore='box' is unknown"),
        ({"pad_objects": 50}, "task ddd_dle: pad_objects is incompatible with depth.loss=laplacian"),
    ],
)
def test_a_bad_option_is_named_with_what_there_is(options, message):
    with pytest.raises(InputError) as raised:
        build_task("ddd_dle", 3, **options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@settings(max_examples=10)
@given(truth=scenes())
def test_with_a_focal_length_depth_is_learned_as_one_camera_sees_it_even_of_rescaled_images(truth, matrix):
    task = DddDleTask(CLASSES, heatmap={"max_detections": 20}, depth={"focal": 300.0})
    moved = in_input(truth, matrix)
    count = len(truth["labels"])
    here = 180.0 * float(matrix[:2, 0].norm())
    moved |= {"focal": torch.full((count,), here, dtype=torch.float64), "rescaled": torch.ones(count, dtype=torch.bool)}
    targets = task.encode(make_batch(moved), (HEIGHT, WIDTH))
    assert torch.equal(targets["depth"].mask, targets["rotation"].mask)
    found = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    ours = by_column({name: value[0, :count] for name, value in found.items()})
    wanted = by_column(moved)
    np.testing.assert_allclose(ours["depth"], wanted["location"][:, 2] * 300 / here, rtol=1e-4)
    lifted = by_column({name: value[0, :count] for name, value in task.lift(found, batch_of(matrix)).items()})
    assert np.abs(lifted["location"] - by_column(truth)["location"]).max(initial=0) < 1e-2


def test_without_a_focal_length_rescaled_depth_is_not_learned():
    truth = scene([(1, 1.6, 25, 1.5, 1)], [1])
    truth["rescaled"] = torch.tensor([True])
    targets = DddDleTask(CLASSES).encode(make_batch(truth), (HEIGHT, WIDTH))
    assert targets["rotation"].mask.all()
    assert not targets["depth"].mask.any()
    assert not targets["dimensions"].mask.any()
