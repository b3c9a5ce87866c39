"""ddd_geo: what is encoded comes back; where the ground is; whom of two estimates to believe; nine cells for one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from centernet.losses import LOSSES
from centernet.ops.affine import transform_points
from centernet.ops.camera import project
from centernet.structures import AtCells, Batch, Detections, InputError, Objects
from centernet.tasks import build_task
from centernet.tasks.ddd_geo import DddGeoTask
from centernet.tasks.terms.base import About
from centernet.tasks.terms.points import BlockPoints
from centernet.tasks.terms.space import CERTAIN, USUAL_DEPTH, Bottom, LogDepth, meet_ground, put_true_depth
from tests.tasks import test_ddd
from tests.tasks.test_ddd import CAMERA, CLASSES, HEIGHT, MATRICES, WIDTH, batch_of, by_column, clipped, scenes
from tests.tiny import make_batch

GRID = (HEIGHT, WIDTH)
# A camera that looks along the ground, with its horizon in row 40.
LEVEL = torch.tensor([[200.0, 0, 160, 0], [0, 200, 40, 0], [0, 0, 1, 0]], dtype=torch.float64)


def with_bottom(objects: Objects) -> Objects:
    return {**objects, "bottom": project(CAMERA, objects["location"])}


def scene(places: list[tuple[float, float, float, float, float]], labels: list[int] | None = None) -> Objects:
    return with_bottom(test_ddd.scene(places, labels))


def in_input(objects: Objects, matrix: Tensor) -> Objects:
    return {**test_ddd.in_input(objects, matrix), "bottom": transform_points(matrix, objects["bottom"])}


def task_of(ground: list[float] | None = None, **options: Any) -> DddGeoTask:
    return DddGeoTask(CLASSES, facts={} if ground is None else {"ground": ground}, **options)


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@settings(max_examples=10)
@given(truth=scenes())
def test_what_is_encoded_is_decoded_and_lifted_back_to_its_place(truth, matrix):
    truth = with_bottom(truth)
    task = task_of(heatmap={"max_detections": 20})
    moved = in_input(truth, matrix)
    targets = task.encode(make_batch(moved), GRID)
    assert set(targets) == set(task.heads)
    found = task.detect(task.perfect(targets, GRID))
    lifted = task.lift(found, batch_of(matrix))
    count = len(truth["labels"])
    assert (lifted["scores"][0, :count] > 0.999).all()
    assert (lifted["scores"][0, count:] < 0.999).all()
    assert not {"bottom", "bottom_spread", "depth_spread"} & set(lifted)
    ours, wanted = by_column({name: value[0, :count] for name, value in found.items()}), by_column(moved)
    np.testing.assert_array_equal(ours["labels"], wanted["labels"])
    np.testing.assert_allclose(ours["boxes"], clipped(wanted["boxes"]), atol=1e-3)
    np.testing.assert_allclose(ours["bottom"][:, 1], wanted["bottom"][:, 1], atol=1e-3)
    np.testing.assert_allclose(ours["dimensions"], wanted["dimensions"], atol=1e-5)
    ours, wanted = by_column({name: value[0, :count] for name, value in lifted.items()}), by_column(truth)
    assert np.abs(ours["location"] - wanted["location"]).max(initial=0) < 1e-2
    np.testing.assert_allclose(np.exp(1j * ours["yaw"]), np.exp(1j * wanted["yaw"]), atol=1e-3)


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("focal", [None, 300.0])
def test_the_ground_corrects_a_depth_that_is_unsure(matrix, focal):
    truth = scene([(-2, 1.6, 14, 0.4, 1), (3, 1.6, 25, 1.5, 1)], [0, 1])
    task = task_of([1.6, 0.0], heatmap={"max_detections": 2}, depth={"focal": focal})
    moved = in_input(truth, matrix) | {"focal": torch.full((2,), 180 * float(matrix[:2, 0].norm()))}
    maps = task.activate(task.perfect(task.encode(make_batch(moved), GRID), GRID))
    maps["depth"][:, 0] *= 1.5
    maps["depth"][:, 1] = -15
    wrong = by_column({name: value[0] for name, value in task.lift(task.decode(maps), batch_of(matrix)).items()})
    maps["depth"][:, 1] = 0
    right = by_column({name: value[0] for name, value in task.lift(task.decode(maps), batch_of(matrix)).items()})
    z = by_column(truth)["location"][:, 2]
    np.testing.assert_allclose(wrong["depth"], 1.5 * z, rtol=1e-3)
    np.testing.assert_allclose(right["depth"], z, rtol=1e-3)
    np.testing.assert_allclose(right["location"], by_column(truth)["location"], atol=0.05)


def seen(row: float, row_spread: float, depth: float, depth_spread: float) -> Detections:
    """One detection in image pixels."""
    numbers = {"bottom_spread": row_spread, "depth": depth, "depth_spread": depth_spread}
    return {name: torch.tensor([[value]]) for name, value in numbers.items()} | {"bottom": torch.tensor([[[0.0, row]]])}


def met(found: Detections, ground: list[float] | None) -> tuple[float, float]:
    """Depth and spread after the ground has been asked."""
    about = About("ddd_geo", 1)
    batch: Batch = {"calibration": LEVEL[None], "input_from_image": torch.eye(3)[None]}
    found = meet_ground(found, batch, LogDepth("depth", about), Bottom("bottom", about, ground=ground))
    assert set(found) == {"depth", "depth_spread"}
    return found["depth"].item(), found["depth_spread"].item()


def test_two_equally_sure_estimates_meet_at_their_geometric_mean():
    # 20 pixels below the horizon the ground is 200 * 1.5 / 20 = 15 meters away; a tenth of 20 pixels is a tenth of it.
    depth, spread = met(seen(60, 2, 60, 6), [1.5, 0])
    assert depth == pytest.approx(30, rel=1e-5)
    # The variance of the mean of two numbers that correlate by a half is three quarters of theirs.
    assert spread == pytest.approx(30 * 0.1 * math.sqrt(0.75), rel=1e-5)


def test_an_estimate_that_is_half_as_sure_has_no_say():
    # With a correlation of a half, what the worse one knows is in the better one already.
    assert met(seen(60, 2, 60, 12), [1.5, 0]) == pytest.approx((15, 1.5), rel=1e-5)
    assert met(seen(60, 4, 60, 6), [1.5, 0]) == pytest.approx((60, 6), rel=1e-5)
    # Spreads of 3 and 2: the shares are (4 - 3) / (9 + 4 - 6) and (9 - 3) / (9 + 4 - 6).
    depth, spread = met(seen(60, 2, 60, 9), [1.5, 0])
    assert depth == pytest.approx(60 ** (1 / 7) * 15 ** (6 / 7), rel=1e-5)
    assert spread == pytest.approx(depth * math.sqrt(0.15**2 / 49 + 36 * 0.1**2 / 49 + 6 * 0.15 * 0.1 / 49), rel=1e-4)


def test_the_variances_of_the_row_and_of_the_height_add_up():
    alone = seen(60, 2, 60, 1e9)
    assert met(alone, [1.5, 0]) == pytest.approx((15, 1.5), rel=1e-3)
    assert met(alone, [1.5, 0.15 * math.sqrt(3)]) == pytest.approx((15, 3), rel=1e-3)


@pytest.mark.parametrize("row", [40.0, 25.0, -1000.0])
def test_what_stands_above_the_horizon_or_on_no_known_ground_keeps_its_depth(row):
    for found, ground in ((seen(row, 0.5, 12, 3), [1.5, 0.1]), (seen(60, 1e-3, 12, 3), None)):
        assert met(found, ground) == pytest.approx((12, 3), rel=1e-4)


def test_scores_fall_with_the_spread_of_depth_and_are_in_order_once_lifted():
    task = task_of(heatmap={"max_detections": 2}, depth={"focal": 90.0})
    truth = scene([(-4, 1.6, 20, 0.5, 1), (4, 1.6, 30, 0.5, 1)], [0, 1])
    truth["focal"] = torch.full((2,), 180.0)
    maps = task.activate(task.perfect(task.encode(make_batch(truth), GRID), GRID))
    middle = WIDTH // 2
    maps["depth"][:, 1, :, :middle], maps["depth"][:, 1, :, middle:] = math.log(0.1), math.log(0.01)
    found = task.decode(maps)
    assert (found["scores"] > 0.999).all()
    lifted = task.lift(found, batch_of(MATRICES["as it is"]))
    assert lifted["labels"].tolist() == [[1, 0]]
    wanted = [1 - math.exp(-(2**0.5) / spread) for spread in (0.3, 2.0)]  # meters
    assert lifted["scores"][0].tolist() == pytest.approx(wanted, rel=1e-4)
    assert lifted["depth"][0].tolist() == pytest.approx([30, 20], rel=1e-4)


def test_the_true_depth_is_believed_more_than_the_ground():
    task = task_of([3.2, 0.0], heatmap={"max_detections": 2})
    truth = scene([(-4, 1.6, 20, 0.5, 1), (4, 1.6, 30, 0.5, 1)], [0, 1])
    batch = make_batch(truth)
    maps = task.activate(task.perfect(task.encode(batch, GRID), GRID))
    maps["depth"][:, 1], maps["bottom"][:, 1] = 0, -3
    found = task.decode(maps)
    assert (task.lift(found, batch_of(MATRICES["as it is"]))["depth"] > 35).all()
    known = task.lift(put_true_depth(found, batch), batch_of(MATRICES["as it is"]))
    assert known["depth"][0].sort().values.tolist() == pytest.approx([20, 30], rel=1e-3)


def test_errors_of_depth_count_relative_to_the_distance():
    depth = LogDepth("depth", About("ddd_geo", 1))
    for meters in (8.0, 40.0):
        true = math.log(meters / USUAL_DEPTH)
        target = AtCells(torch.tensor([[0]]), torch.tensor([[[true]]]), torch.ones(1, 1))
        for factor in (1.0, 1.1):
            raw = torch.tensor([true + math.log(factor), -2.0]).view(1, 2, 1, 1)
            wanted = math.sqrt(2) * math.exp(2) * math.log(factor) - 2
            assert depth.losses(raw, target)["depth"].item() == pytest.approx(wanted, rel=1e-4)


# Nine cells ----------------------------------------------------------------------------------------------------------


def rows_of(target: AtCells) -> dict[tuple[int, int], list[float]]:
    """The values that are taught, by cell (x, y), of the first image."""
    found = zip(target.cell[0].tolist(), target.value[0].tolist(), target.mask[0].tolist(), strict=True)
    rows = [((cell % WIDTH, cell // WIDTH), value) for cell, value, is_taught in found if is_taught]
    assert len(rows) == len(dict(rows))  # no cell is taught twice
    return dict(rows)


def test_the_nine_cells_around_a_center_all_tell_where_it_is():
    truth = scene([(0.4, 1.6, 20, 0.5, 1)])
    targets = task_of().encode(make_batch(truth), GRID)
    x, y = (truth["center_3d"][0] / 4).floor().long().tolist()
    around = {(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert (targets["heatmap"].value == 1).sum() == 1
    for name, target in targets.items():
        if name != "heatmap":
            assert set(rows_of(target)) == around, name
    for cell, value in rows_of(targets["offset_3d"]).items():
        np.testing.assert_allclose(4 * (np.array(cell) + value), truth["center_3d"][0], atol=1e-4)
    for (_, row), (value,) in rows_of(targets["bottom"]).items():
        assert 4 * (row + value) == pytest.approx(truth["bottom"][0, 1].item(), abs=1e-4)
    assert all(value == [0] for value in rows_of(targets["depth"]).values())  # as far as usual


def test_a_cell_between_two_centers_belongs_to_the_nearer_one_and_none_lies_outside():
    # Two centers three cells apart, the first in the leftmost column.
    truth = scene([(-17.45, 1.6, 20, 0.5, 0.5), (-16.15, 1.6, 20, 0.5, 1)], [0, 1])
    corners = (truth["center_3d"] / 4).floor().long()
    assert corners[:, 0].tolist() == [0, 3]
    cells = rows_of(task_of().encode(make_batch(truth), GRID)["dimensions"])
    height = {cell: value[3] for cell, value in cells.items()}
    assert len(cells) == 6 + 9
    assert all(height[cell] == pytest.approx(0.75 if cell[0] <= 1 else 1.5) for cell in cells)


def test_of_two_centers_in_touching_cells_each_keeps_its_own():
    truth = scene([(0, 1.6, 20, 0.5, 1), (0.45, 1.6, 20, 0.5, 1)], [0, 1])
    corners = (truth["center_3d"] / 4).floor().long().tolist()
    assert corners[1][0] - corners[0][0] == 1
    placed = BlockPoints("heatmap", About("ddd_geo", CLASSES)).place(make_batch(truth), GRID)
    rows, objects = BlockPoints("heatmap", About("ddd_geo", CLASSES)).samples(placed, make_batch(truth))
    assert int(rows.is_object.sum()) == 12
    owner = dict(zip(rows.cell[rows.is_object].tolist(), objects["labels"][rows.is_object].tolist(), strict=True))
    assert [owner[y * WIDTH + x] for x, y in corners] == [0, 1]


def test_rescaled_objects_teach_no_depth_and_no_dimensions_but_where_they_stand():
    truth = scene([(0, 1.6, 20, 0.5, 1)])
    truth["rescaled"][0] = True
    targets = task_of().encode(make_batch(truth), GRID)
    known = {name: bool(target.mask.any()) for name, target in targets.items() if isinstance(target, AtCells)}
    assert {name for name, is_known in known.items() if not is_known} == {"depth", "dimensions"}


def test_images_without_objects_and_any_padding_give_a_finite_loss_and_a_usable_gradient():
    task = DddGeoTask(2)
    batch = make_batch(scene([(0, 1.6, 20, 0.5, 1)]), scene([]))
    for name in ("boxes", "location", "dimensions", "alpha", "center_3d", "bottom"):
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
    heads = DddGeoTask(3).heads
    assert {name: head.channels for name, head in heads.items()} == {
        "heatmap": 3, "depth": 2, "bottom": 2, "dimensions": 3, "rotation": 24, "size": 2, "offset": 2, "offset_3d": 2,
    }  # fmt: skip
    assert all(head.loss in LOSSES for head in heads.values())


def test_the_ground_is_what_was_said_or_else_what_the_data_says():
    assert task_of([1.6, 0.2]).terms["bottom"].ground == (1.6, 0.2)
    assert task_of().terms["bottom"].ground is None
    assert "ground" in task_of().wanted
    assert task_of([1.6, 0.2], bottom={"ground": [1.8, 0]}).terms["bottom"].ground == (1.8, 0)
    assert task_of([1.6, 0.2], bottom={"ground": None}).terms["bottom"].ground is None


@pytest.mark.parametrize("ground", [1.65, [1.65], [0, 0.1], [-1.65, 0.1], [1.65, -0.1], [math.nan, 0], ["a", "b"], []])
def test_a_ground_that_is_none_is_refused(ground):
    with pytest.raises(InputError) as raised:
        build_task("ddd_geo", 3, bottom={"ground": ground})
    assert str(raised.value).startswith(f"task ddd_geo: bottom.ground={ground!r} must hold two numbers, the camera's")


def test_without_a_camera_there_is_no_depth_from_the_ground():
    task = task_of([1.6, 0.0], heatmap={"max_detections": 1})
    found = task.detect(task.perfect(task.encode(make_batch(scene([(0, 1.6, 20, 0.5, 1)])), GRID), GRID))
    assert found["depth_spread"].item() == pytest.approx(20 * math.exp(CERTAIN), rel=1e-3)
    with pytest.raises(InputError, match="3D boxes need the camera of every image"):
        task.lift(found, {"input_from_image": torch.eye(3)[None]})
