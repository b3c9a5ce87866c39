"""ddd: what is encoded is decoded and lifted back to its place; what is ignored, rescaled or without camera."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from centernet.losses import LOSSES
from centernet.ops.affine import crop_matrix, flip_matrix, transform_boxes, transform_points
from centernet.ops.camera import box_corners, project, wrap_angle
from centernet.structures import AtCells, DenseMap, InputError, Objects
from centernet.tasks import build_task
from centernet.tasks.ddd import DddTask
from centernet.tasks.terms.angle import TwoBins
from centernet.tasks.terms.base import About
from centernet.tasks.terms.space import Depth, DepthWithSpread, put_true_depth
from tests.tiny import alpha_of_yaw, make_batch, make_objects

HEIGHT, WIDTH = 24, 80  # cells
CLASSES = 3
CAMERA = torch.tensor([[180.0, 0, 158, 11.2], [0, 180, 44, 0.05], [0, 0, 1, 0.0027]], dtype=torch.float64)
IMAGE_SIZE = (94, 318)
ANGLE = TwoBins("rotation", About("ddd", CLASSES))
DEPTH = Depth("depth", About("ddd", CLASSES))


def scene(places: list[tuple[float, float, float, float, float]], labels: list[int] | None = None) -> Objects:
    """Truth of one image in image pixels, from (x, y, z, yaw, size) of each object; the 2D box holds the corners."""
    rows = torch.tensor(places, dtype=torch.float64).view(-1, 5)
    location, yaw = rows[:, :3], rows[:, 3]
    dimensions = torch.tensor([1.5, 1.6, 3.9], dtype=torch.float64) * rows[:, 4:]
    corners = project(CAMERA, box_corners(dimensions, location, yaw))
    center = project(CAMERA, location - dimensions[:, :1] / 2 * torch.tensor([0, 1, 0]))
    boxes = torch.cat([corners.amin(-2), corners.amax(-2)], -1)
    return {
        **make_objects(boxes, labels or [n % CLASSES for n in range(len(rows))]),
        "location": location,
        "dimensions": dimensions,
        "yaw": yaw,
        "alpha": alpha_of_yaw(CAMERA, yaw, center[:, 0]),
        "center_3d": center,
        "rescaled": torch.zeros(len(rows), dtype=torch.bool),
    }


def in_input(objects: Objects, matrix: Tensor) -> Objects:
    """Truth in input pixels; the network sees the mirror image's angle."""
    alpha = objects["alpha"]
    return {
        **objects,
        "boxes": transform_boxes(matrix, objects["boxes"]),
        "center_3d": transform_points(matrix, objects["center_3d"]),
        "alpha": wrap_angle(torch.pi - alpha) if torch.linalg.det(matrix[:2, :2]) < 0 else alpha,
    }


@st.composite
def scenes(draw: st.DrawFn, most: int = 5) -> Objects:
    """Objects of which each has a cell of its own, all of them in sight."""
    columns = draw(st.lists(st.integers(-4, 4), unique=True, max_size=most))
    places = []
    for column in columns:
        z = draw(st.floats(20, 60))
        x = z * (column + draw(st.floats(-0.2, 0.2))) / 7
        places.append((x, draw(st.floats(0, 1.8)), z, draw(st.floats(-math.pi, math.pi)), draw(st.floats(0.4, 1.2))))
    return scene(places, [draw(st.integers(0, CLASSES - 1)) for _ in places])


def batch_of(matrix: Tensor, count: int = 1) -> dict[str, Tensor]:
    return {"input_from_image": matrix.expand(count, 3, 3), "calibration": CAMERA.expand(count, 3, 4)}


def by_column(rows: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Rows in the order of their boxes' middles, as scores are equal."""
    order = (rows["boxes"][:, 0] + rows["boxes"][:, 2]).argsort()
    return {name: value[order].double().numpy() for name, value in rows.items()}


MATRICES = {
    "as it is": torch.eye(3, dtype=torch.float64),
    "half": torch.from_numpy(crop_matrix((150, 40), 450, (96, 320))),
    "mirrored": torch.from_numpy(crop_matrix((160, 47), 330, (96, 320)) @ flip_matrix(318)),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("rows", [50, None])
@settings(max_examples=10)
@given(truth=scenes())
def test_what_is_encoded_is_decoded_and_lifted_back_to_its_place(truth, rows, matrix):
    task = DddTask(CLASSES, pad_objects=rows, heatmap={"max_detections": 20})
    moved = in_input(truth, matrix)
    targets = task.encode(make_batch(moved), (HEIGHT, WIDTH))
    found = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    count = len(truth["labels"])
    assert (found["scores"][0, :count] > 0.99999).all()
    assert (found["scores"][0, count:] < 0.9999).all()
    ours = by_column({name: value[0, :count] for name, value in found.items()})
    # Where two boxes share a cell it can hold one of them only; their columns are apart, so that there are none.
    wanted = by_column(moved)
    np.testing.assert_array_equal(ours["labels"], wanted["labels"])
    np.testing.assert_allclose(ours["boxes"], clipped(wanted["boxes"]), atol=1e-3)
    np.testing.assert_allclose(ours["depth"], wanted["location"][:, 2], rtol=1e-4)
    np.testing.assert_allclose(ours["dimensions"], wanted["dimensions"], rtol=1e-5)
    np.testing.assert_allclose(np.exp(1j * ours["alpha"]), np.exp(1j * wanted["alpha"]), atol=1e-4)
    # In ddd the 2D center is lifted; with the projection of the 3D center the place is exact.
    order = (found["boxes"][0, :count, 0] + found["boxes"][0, :count, 2]).argsort()
    exact = {name: value[:, order] for name, value in found.items()}
    exact["center_3d"] = torch.from_numpy(wanted["center_3d"])[None].float()
    lifted = by_column({name: value[0] for name, value in task.lift(exact, batch_of(matrix)).items()})
    wanted = by_column(truth)
    assert np.abs(lifted["location"] - wanted["location"]).max(initial=0) < 1e-2
    np.testing.assert_allclose(np.exp(1j * lifted["yaw"]), np.exp(1j * wanted["yaw"]), atol=1e-3)
    corners = box_corners(*(torch.from_numpy(wanted[name]) for name in ("dimensions", "location", "yaw")))
    assert np.abs(lifted["corners"] - corners.numpy()).max(initial=0) < 2e-2


def clipped(boxes: np.ndarray) -> np.ndarray:
    return boxes.clip(0, [4 * (WIDTH - 1), 4 * (HEIGHT - 1)] * 2)


def test_the_2d_center_of_a_car_ahead_is_lifted_to_almost_its_place():
    truth = scene([(1, 1.6, 25, 1.5, 1)], [1])
    task = DddTask(CLASSES, heatmap={"max_detections": 1})
    found = task.detect(task.perfect(task.encode(make_batch(truth), (HEIGHT, WIDTH)), (HEIGHT, WIDTH)))
    lifted = task.lift(found, batch_of(MATRICES["as it is"]))
    assert torch.equal(lifted["center_3d"], found["center_3d"])
    assert (lifted["location"][0, 0].double() - truth["location"][0]).abs().max() < 0.1
    assert lifted["corners"].shape == (1, 1, 8, 3)
    assert all(lifted[name].dtype == torch.float32 for name in ("boxes", "location", "yaw", "corners", "depth"))


def test_every_image_is_lifted_with_its_own_camera():
    truth = scene([(3, 1.6, 25, 1.5, 1)], [1])
    task = DddTask(CLASSES, heatmap={"max_detections": 1})
    found = task.detect(task.perfect(task.encode(make_batch(truth, truth), (HEIGHT, WIDTH)), (HEIGHT, WIDTH)))
    batch = batch_of(MATRICES["as it is"], 2)
    batch["calibration"] = torch.stack([CAMERA, CAMERA * torch.tensor([2.0, 2, 1])[:, None]])
    first, second = task.lift(found, batch)["location"][:, 0]
    assert first[2].item() == pytest.approx(second[2].item(), abs=1e-4)
    assert abs(first[0] - second[0]) > 1


def test_without_a_camera_one_sentence_says_what_is_missing():
    task = DddTask(1)
    found = task.decode({name: torch.rand(1, head.channels, 3, 4) for name, head in task.heads.items()})
    with pytest.raises(InputError, match=r"3D boxes need the camera of every image, but the batch has no calibration"):
        task.lift(found, {"input_from_image": torch.eye(3)[None]})


def test_with_a_focal_length_the_depths_of_another_camera_are_scaled():
    task, plain = DddTask(1, depth={"focal": 360.0}), DddTask(1)
    found = plain.decode({name: torch.rand(1, head.channels, 3, 4) for name, head in plain.heads.items()})
    half = torch.diag(torch.tensor([0.5, 0.5, 1], dtype=torch.float64))
    same, other = plain.lift(found, batch_of(half)), task.lift(found, batch_of(half))
    # 180 pixels in the image are 90 in the input, a quarter of what the depths belong to.
    assert torch.allclose(other["depth"], same["depth"] / 4)
    assert torch.allclose(other["location"][..., 2], other["depth"], atol=1e-4)
    assert task.terms["depth"].scale(batch_of(half)).tolist() == [0.25]
    assert plain.terms["depth"].scale(batch_of(half)).tolist() == [1]


@given(st.floats(-math.pi, math.pi))
def test_an_angle_survives_its_bins(angle):
    alpha = torch.tensor([angle])
    inside, residual = ANGLE.code(alpha).chunk(2, -1)
    assert inside.sum() in (1, 2)
    # Certain only in the middle of the overlap and outside of it: within, either bin gives the angle.
    for surer in (inside[0] > 0).nonzero().flatten().tolist():
        rotation = torch.zeros(1, 8)
        rotation[0, 4 * surer + 1] = 1
        rotation[0, [2, 6]], rotation[0, [3, 7]] = residual[0].sin() * 3, residual[0].cos() * 3
        back = ANGLE.angle(rotation)
        assert back.abs() <= math.pi + 1e-6
        assert (back - alpha).cos() > 1 - 1e-6


def test_the_bins_overlap_by_thirty_degrees_on_either_side():
    degrees = torch.tensor([-180, -151, -149, -90, -31, -29, 0, 29, 31, 90, 149, 151, 180.0])
    inside = ANGLE.code(degrees.deg2rad())[:, :2]
    assert inside.tolist() == [
        [1, 1], [1, 1], [1, 0], [1, 0], [1, 0], [1, 1], [1, 1], [1, 1], [0, 1], [0, 1], [0, 1], [1, 1], [1, 1],
    ]  # fmt: skip


def test_depth_is_one_over_the_sigmoid_less_one_in_float32():
    raw = torch.linspace(-8, 8, 50).view(1, 1, 5, 10)
    wanted = 1 / (torch.sigmoid(raw) + 1e-6) - 1
    assert torch.equal(DEPTH.activate(raw), wanted)
    assert torch.allclose(DEPTH.perfect(DenseMap(wanted), (5, 10)), raw, atol=1e-3)
    assert DEPTH.activate(raw.bfloat16()).dtype == torch.float32
    assert torch.isfinite(DEPTH.activate(raw * 1000)).all()
    two = DepthWithSpread("depth", DEPTH.about).activate(raw.expand(1, 2, 5, 10))  # only the first channel is a depth
    assert torch.equal(two[:, 1:], raw)


def test_the_network_is_trained_on_what_it_will_say():
    task = DddTask(CLASSES, pad_objects=50)
    targets = task.encode(make_batch(scene([(0, 1.6, 20, 0.5, 1), (9, 1.6, 50, 2, 1)])), (HEIGHT, WIDTH))
    good = task.losses([task.perfect(targets, (HEIGHT, WIDTH))], targets)
    assert good["depth"] < 1e-5
    assert good["dimensions"] == good["size"] == 0
    assert good["rotation"] == pytest.approx(2 * math.log(2) * 48 / 50, abs=1e-3)
    outputs = task.perfect(targets, (HEIGHT, WIDTH))
    cell = targets["depth"].cell[0, 0]
    is_first = (torch.arange(HEIGHT * WIDTH) == cell).view(1, 1, HEIGHT, WIDTH)
    wrong = DenseMap(DEPTH.activate(outputs["depth"]) + 5 * is_first)
    outputs["depth"] = DEPTH.perfect(wrong, (HEIGHT, WIDTH))
    # Five meters off at one of fifty rows, or at one of two objects.
    assert task.losses([outputs], targets)["depth"].item() == pytest.approx(5 / 50, rel=1e-3)
    alone = DddTask(CLASSES)
    few = alone.encode(make_batch(scene([(0, 1.6, 20, 0.5, 1), (9, 1.6, 50, 2, 1)])), (HEIGHT, WIDTH))
    assert alone.losses([outputs], few)["depth"].item() == pytest.approx(5 / 2, rel=1e-3)
    assert alone.losses([alone.perfect(few, (HEIGHT, WIDTH))], few)["rotation"] < 1e-3


@pytest.mark.parametrize("rows", [4, 50, None])
def test_any_number_of_objects_is_encoded(rows):
    task = DddTask(CLASSES, pad_objects=rows, heatmap={"max_detections": 80})
    rng = np.random.default_rng(0)
    many = scene([(x, y, 40, 0, 0.3) for x, y in rng.uniform([-25, -6], [25, 6], (60, 2))])
    targets = task.encode(make_batch(many, scene([])), (HEIGHT, WIDTH))
    assert targets["depth"].mask.sum() == 60
    outputs = {name: torch.randn(2, head.channels, HEIGHT, WIDTH) for name, head in task.heads.items()}
    assert torch.isfinite(task.losses([outputs], targets)["loss"])


@pytest.mark.parametrize("rows", [50, None])
def test_images_without_objects_give_a_finite_loss_and_a_usable_gradient(rows):
    task = DddTask(2, pad_objects=rows)
    targets = task.encode(make_batch(scene([]), scene([])), (HEIGHT, WIDTH))
    outputs = {
        name: torch.randn(2, head.channels, HEIGHT, WIDTH, requires_grad=True) for name, head in task.heads.items()
    }
    parts = task.losses([outputs], targets)
    parts["loss"].backward()
    assert all(parts[name] == 0 for name in ("depth", "dimensions", "size", "offset"))
    assert all(torch.isfinite(out.grad).all() for out in outputs.values())


def test_rescaled_objects_teach_no_depth_and_no_dimensions_but_everything_else():
    truth = scene([(0, 1.6, 20, 0.5, 1), (9, 1.6, 50, 2, 1)])
    truth["rescaled"][1] = True
    targets = DddTask(CLASSES).encode(make_batch(truth), (HEIGHT, WIDTH))
    for name, target in targets.items():
        if isinstance(target, AtCells):
            wanted = [[True, False]] if name in ("depth", "dimensions") else [[True, True]]
            assert target.mask.tolist() == wanted, name
    del truth["rescaled"]  # data that never rescales
    assert DddTask(CLASSES).encode(make_batch(truth), (HEIGHT, WIDTH))["depth"].mask.sum() == 2


def ignoring(label: int, ignored: str) -> tuple[Tensor, Tensor, DenseMap]:
    """Loss per cell of a heatmap that says 0.9 everywhere, with and without one ignored object, and its target."""
    task = DddTask(CLASSES, heatmap={"ignore": ignored})
    truth = scene([(-4, 1.6, 20, 0.5, 1), (4, 1.6, 20, 0.5, 1)], [0, label])
    costs = []
    for crowd in (False, True):
        shown = {name: value[: 1 + crowd] for name, value in truth.items()}
        shown["crowd"] = torch.tensor([False, True])[: 1 + crowd]
        target = task.encode(make_batch(shown), (HEIGHT, WIDTH))["heatmap"]
        raw = torch.full((1, CLASSES, HEIGHT, WIDTH), 2.2, requires_grad=True)
        LOSSES["focal"](raw, target).backward()
        costs.append(raw.grad[0])
    return costs[0], costs[1], target


@pytest.mark.parametrize("ignored", ["gaussian", "region"])
@pytest.mark.parametrize("label", [1, -1])
def test_ignored_objects_are_neither_centers_nor_pushed_down_for_their_classes(label, ignored):
    without, with_it, target = ignoring(label, ignored)
    assert (target.value == 1).sum() == 1
    box = scene([(4, 1.6, 20, 0.5, 1)])["boxes"][0]
    x, y = ((box[:2] + box[2:]) / 8).long().tolist()
    for channel in range(CLASSES):
        if label in (-1, channel):
            assert with_it[channel, y, x].abs() < 1e-3 * without[channel, y, x]
        else:
            assert torch.equal(with_it[channel], without[channel])
    # Far away nothing changes.
    assert torch.equal(with_it[:, :, -1], without[:, :, -1])
    if ignored == "region":
        assert set(target.weight.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("ignored", ["gaussian", "region"])
def test_a_center_under_something_ignored_stays_a_center(ignored):
    truth = scene([(0, 1.6, 20, 0.5, 1), (0, 1.6, 20, 0.5, 2)], [1, -1])
    for order in ([0, 1], [1, 0]):
        shown = {name: value[order] for name, value in truth.items()}
        shown["crowd"] = torch.tensor(order) == 1
        heatmap = DddTask(CLASSES, heatmap={"ignore": ignored}).encode(make_batch(shown), (HEIGHT, WIDTH))["heatmap"]
        assert (heatmap.value == 1).nonzero()[:, 1].tolist() == [1]


def test_padding_may_hold_anything():
    task = DddTask(2)
    truth = scene([(0, 1.6, 20, 0.5, 1)], [0])
    batch = make_batch(truth, scene([]))
    for name in ("boxes", "location", "dimensions", "alpha", "center_3d"):
        batch[name][1] = float("nan")
    batch["labels"][1] = 99
    targets = task.encode(batch, (HEIGHT, WIDTH))
    outputs = {name: torch.zeros(2, head.channels, HEIGHT, WIDTH) for name, head in task.heads.items()}
    assert torch.isfinite(task.losses([outputs], targets)["loss"])
    assert (targets["heatmap"].value[1] == 0).all()


def test_without_size_and_offset_maps_boxes_are_points_in_the_middle_of_cells():
    task = DddTask(CLASSES, size=None, offset=None, heatmap={"max_detections": 1})
    assert set(task.heads) == {"heatmap", "depth", "dimensions", "rotation"}
    targets = task.encode(make_batch(scene([(0, 1.6, 20, 0.5, 1)])), (HEIGHT, WIDTH))
    assert set(targets) == set(task.heads)
    found = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    assert torch.equal(found["boxes"][..., :2], found["boxes"][..., 2:])
    assert torch.equal(found["center_3d"] / 4 % 1, torch.full((1, 1, 2), 0.5))


def test_heads_follow_from_the_options():
    heads = DddTask(3, pad_objects=50, depth={"weight": 1}).heads
    assert {name: (head.channels, head.weight) for name, head in heads.items()} == {
        "heatmap": (3, 1),
        "depth": (1, 1),
        "dimensions": (3, 1),
        "rotation": (8, 1),
        "size": (2, 0.1),
        "offset": (2, 1),
    }
    for rows in (None, 50):
        assert all(head.loss in LOSSES for head in DddTask(3, pad_objects=rows).heads.values())


@given(truth=scenes(most=3))
@settings(max_examples=10)
def test_a_mirror_image_says_the_same_and_merging_changes_nothing(truth):
    task = DddTask(CLASSES, heatmap={"max_detections": 10})
    mirror = torch.from_numpy(flip_matrix(4 * WIDTH))
    plain, mirrored = (
        task.activate(task.perfect(task.encode(make_batch(in_input(truth, matrix)), (HEIGHT, WIDTH)), (HEIGHT, WIDTH)))
        for matrix in (MATRICES["as it is"], mirror)
    )
    count = len(truth["labels"])
    alone = task.decode(plain)
    # A mirrored center may lie one cell further: take the mirror image of the maps themselves for those.
    reflected = {name: value.flip(-1) for name, value in plain.items()}
    reflected["rotation"] = ANGLE.mirror(reflected["rotation"])
    merged = task.decode(task.merge_flipped({name: torch.cat([plain[name], reflected[name]]) for name in plain}))
    for name in alone:
        assert torch.allclose(merged[name][:, :count], alone[name][:, :count], atol=1e-4), name
    # And that mirror image of the maps says the angles that the mirrored objects have.
    angles = [task.decode(maps)["alpha"][0, :count].sort().values for maps in (mirrored, reflected)]
    assert torch.allclose(*angles, atol=1e-4) or bool((angles[0].abs() > 3.14).any())


def test_merging_averages_everything_but_the_offset():
    task = DddTask(2)
    torch.manual_seed(0)
    maps = {name: torch.rand(2, head.channels, 4, 6) for name, head in task.heads.items()}
    merged = task.merge_flipped(maps)
    for name, value in maps.items():
        plain, mirrored = value[:1], value[1:].flip(-1)
        if name == "rotation":
            mirrored = mirrored * torch.tensor([1.0, 1, -1, 1, 1, 1, -1, 1])[:, None, None]
        wanted = plain if name == "offset" else (plain + mirrored) / 2
        assert torch.allclose(merged[name], wanted), name


def test_true_depth_replaces_that_of_detections_that_show_an_object():
    truth = make_batch(scene([(-4, 1.6, 20, 0.5, 1), (4, 1.6, 30, 0.5, 1), (0, 1.6, 40, 0, 1)], [0, 1, 2]))
    truth["crowd"][0, 2] = True
    boxes = truth["boxes"][0, [0, 1, 2, 0, 1]].float()
    boxes[4] += 1000  # shows nothing
    detections: dict[str, Any] = {
        "boxes": boxes[None],
        "scores": torch.ones(1, 5),
        "labels": torch.tensor([[0, 1, 2, 1, 1]]),  # the fourth is of another class
        "depth": torch.full((1, 5), 7.0),
    }
    assert put_true_depth(detections, truth)["depth"].tolist() == [[20, 30, 7, 7, 7]]
    assert put_true_depth(detections, truth, torch.tensor([2.0]))["depth"].tolist() == [[10, 15, 7, 7, 7]]
    assert detections["depth"].unique().tolist() == [7]
    nothing = make_batch(scene([]))
    assert put_true_depth(detections, nothing)["depth"].unique().tolist() == [7]


def test_with_true_depth_a_wrong_depth_does_no_harm():
    truth = scene([(-4, 1.6, 20, 0.5, 1), (4, 1.6, 30, 0.5, 1)], [1, 1])
    for depth in ({}, {"focal": 100.0}):
        task = DddTask(CLASSES, heatmap={"max_detections": 2}, depth=depth)
        maps = task.activate(task.perfect(task.encode(make_batch(truth), (HEIGHT, WIDTH)), (HEIGHT, WIDTH)))
        maps["depth"] = maps["depth"] * 3
        batch = batch_of(MATRICES["as it is"])
        found = put_true_depth(task.decode(maps), make_batch(truth), task.terms["depth"].scale(batch))
        assert task.lift(found, batch)["location"][0, :, 2].sort().values.tolist() == pytest.approx([20, 30], abs=1e-3)


def test_what_is_lifted_is_what_the_metric_takes():
    truth = scene([(-4, 1.6, 20, 0.5, 1), (4, 1.6, 30, 0.5, 1)], [1, 1])
    truth |= {"truncation": torch.zeros(2), "occlusion": torch.zeros(2), "neutral": torch.zeros(2, dtype=torch.bool)}
    task = DddTask(CLASSES, heatmap={"max_detections": 2})
    found = task.detect(task.perfect(task.encode(make_batch(truth), (HEIGHT, WIDTH)), (HEIGHT, WIDTH)))
    metric = task.metric(["Pedestrian", "Car", "Cyclist"], overlap="relaxed")
    metric.update(task.lift(found, batch_of(MATRICES["as it is"])), make_batch(truth), torch.tensor([3]))
    assert metric.overlap == "relaxed"
    assert metric.compute().keys() >= {"AP", "AP_2d", "AP_bev", "AOS"}


def test_data_without_3d_labels_is_refused():
    message = r"task ddd needs objects with location, dimensions, alpha, which the data does not have; use data=cuboids"
    with pytest.raises(InputError, match=message):
        DddTask(1).check_data(make_objects([]), {}, "the data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heatmap": {"ignore": "box"}}, "task ddd: heatmap.ignore='box' is unknown; choose one of gaussian, region"),
        ({"pad_objects": 0}, "task ddd: pad_objects=0 must be a positive integer or null"),
        ({"depth": {"focal": -1.0}}, "task ddd: depth.focal=-1.0 must be a number above 0"),
        ({"heatmap": {"radius": "round"}}, "task ddd: heatmap.radius='round' is unknown"),
        ({"pad_object": 4}, "task ddd has no option 'pad_object'; did you mean pad_objects?"),
    ],
)
def test_a_bad_option_is_named_with_what_there_is(options, message):
    with pytest.raises(InputError) as raised:
        build_task("ddd", 3, **options)
    assert str(raised.value).startswith(message)
