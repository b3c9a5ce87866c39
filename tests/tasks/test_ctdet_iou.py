"""ctdet_iou: what is encoded is decoded again; Gaussians have the shape of boxes; every cell knows its box; scores know
how well boxes fit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.structures import InputError
from centernet.tasks import build_task
from centernet.tasks.ctdet_iou import CtdetIouTask
from tests.tasks.test_ctdet import CLASSES, HEIGHT, WIDTH, assert_found, images
from tests.tiny import make_batch, make_objects


@settings(max_examples=25)
@given(data=st.lists(images(), min_size=1, max_size=3))
@pytest.mark.parametrize("options", [{"box": {"smoothing": 0}}, {"box": {"smoothing": 0, "quality": 0}}])
def test_what_is_encoded_is_decoded_again(options, data):
    # Without smoothing, which mixes the boxes of two objects whose centers are in neighboring cells.
    task = CtdetIouTask(CLASSES, heatmap={"max_detections": 20}, **options)
    targets = task.encode(make_batch(*data), (HEIGHT, WIDTH))
    detections = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    assert set(detections) == {"boxes", "scores", "labels"}
    assert detections["boxes"].shape == (len(data), 20, 4)
    for image, objects in enumerate(data):
        assert_found(detections, image, objects)


def test_gaussians_have_the_shape_of_their_boxes():
    task = CtdetIouTask(1)
    targets = task.encode(make_batch(make_objects([[10, 30, 70, 46]])), (HEIGHT, WIDTH))
    heatmap = targets["heatmap"].value[0, 0]
    # 15 x 4 cells: radii int(15 * 0.27) = 4 and int(4 * 0.27) = 1 around cell (10, 9).
    y, x = (heatmap > 0).nonzero(as_tuple=True)
    assert (x.min(), x.max(), y.min(), y.max()) == (6, 14, 8, 10)
    assert heatmap[9, 10] == 1
    assert heatmap[9, 12].item() == pytest.approx(math.exp(-(2**2) / (2 * (9 / 6) ** 2)), abs=1e-6)
    assert heatmap[10, 10].item() == pytest.approx(math.exp(-(1**2) / (2 * (3 / 6) ** 2)), abs=1e-6)


def test_every_cell_under_the_gaussian_knows_the_sides_of_the_box():
    task = CtdetIouTask(1)
    box = [10.0, 30.0, 70.0, 46.0]
    target = task.encode(make_batch(make_objects([box])), (HEIGHT, WIDTH))["box"]
    shown = target.weight[0, 0] > 0
    assert shown.sum() == 9 * 3
    y, x = shown.nonzero(as_tuple=True)
    corners = target.value[0, :, y, x] + torch.stack([x, y, x, y])
    assert torch.allclose(corners * 4, torch.tensor(box)[:, None].expand_as(corners))


def test_an_object_weighs_as_the_logarithm_of_its_area_however_many_cells_it_has():
    task = CtdetIouTask(1)
    for box in ([8, 8, 12, 12], [20, 12, 60, 52]):
        target = task.encode(make_batch(make_objects([box])), (HEIGHT, WIDTH))["box"]
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert target.weight.shape == (1, 1, HEIGHT, WIDTH)
        assert target.weight.sum().item() == pytest.approx(math.log(area), rel=1e-5)


def test_a_box_of_a_pixel_and_one_of_the_whole_input_are_exact():
    task = CtdetIouTask(2, heatmap={"max_detections": 2})
    boxes = [[41.25, 22.5, 42.25, 23.5], [0, 0, 4 * WIDTH, 4 * HEIGHT]]
    targets = task.encode(make_batch(make_objects(boxes, [1, 0])), (HEIGHT, WIDTH))
    found = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    for box, label in zip(boxes, (1, 0), strict=True):
        assert found["boxes"][0, found["labels"][0] == label][0].tolist() == pytest.approx(box, abs=1e-2)


def test_a_mirrored_image_has_the_mirrored_boxes():
    task = CtdetIouTask(1, heatmap={"max_detections": 1})
    # Mirrored at the last pixel: x becomes 4 W - 1 - x.
    box = [9.0, 20.0, 62.0, 47.0]
    mirrored = [4 * WIDTH - 1 - box[2], 20.0, 4 * WIDTH - 1 - box[0], 47.0]
    targets = task.encode(make_batch(make_objects([box]), make_objects([mirrored])), (HEIGHT, WIDTH))
    found = task.decode(task.merge_flipped(task.activate(task.perfect(targets, (HEIGHT, WIDTH)))))
    assert found["boxes"][0, 0].tolist() == pytest.approx(box, abs=1e-3)


def test_a_score_is_the_peak_and_the_quality_of_its_box():
    task = CtdetIouTask(1, heatmap={"max_detections": 2}, box={"quality": 0.25})
    maps = {"heatmap": torch.zeros(1, 1, 8, 8), "box": torch.ones(1, 5, 8, 8)}
    maps["heatmap"][0, 0, 2, 2], maps["heatmap"][0, 0, 5, 5] = 0.8, 0.7
    maps["box"][0, 4, 2, 2], maps["box"][0, 4, 5, 5] = 0.1, 0.9
    found = task.decode(maps)
    # The second peak's box is better, and so it comes first.
    assert found["scores"][0].tolist() == pytest.approx([0.7**0.75 * 0.9**0.25, 0.8**0.75 * 0.1**0.25])
    assert found["boxes"][0, 0].tolist() == [20, 20, 24, 24]


def maps_of(box: list[float], x: int, y: int) -> dict[str, torch.Tensor]:
    """A peak in this cell of an 8x8 grid, where every cell predicts the same box (in cells)."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    left, top, right, bottom = box
    sides = torch.stack([columns + 1 - left, rows + 1 - top, right - columns, bottom - rows])
    maps = {"heatmap": torch.zeros(1, 1, 8, 8), "box": torch.cat([sides, torch.ones(1, 8, 8)])[None]}
    maps["heatmap"][0, 0, y, x] = 0.9
    return maps


@pytest.mark.parametrize(("x", "y"), [(3, 4), (0, 0), (7, 0), (0, 7), (7, 7)])
def test_smoothing_leaves_a_box_that_all_cells_agree_on(x, y):
    box = [-1.5, 0.25, 9.0, 8.5]
    found = CtdetIouTask(1, heatmap={"max_detections": 1}, box={"smoothing": 1.0}).decode(maps_of(box, x, y))
    assert found["boxes"][0, 0].tolist() == pytest.approx([4 * side for side in box], abs=1e-4)


def test_a_box_is_the_mean_of_those_around_the_peak_by_distance_and_overlap():
    maps = maps_of([0, 0, 8, 6], 3, 3)
    maps["box"][0, 2, 3, 4] += 2  # the right neighbor's box is 10 cells wide
    maps["box"][0, 1, 2, 3] -= 3  # the upper one's begins 3 cells lower
    maps["box"][0, :4, 2, 2] = torch.tensor([100.0, -90, 0, 0])  # another object's
    one, two = (math.exp(-0.5 / (0.1 * side) ** 2) * overlap**2 for side, overlap in ((8, 48 / 60), (6, 24 / 48)))
    sums = torch.zeros(4) + torch.tensor([0.0, 3 * two, 2 * one, 0])
    # Of the neighbors that predict the same box: left, below, and three corners.
    beside, below = math.exp(-0.5 / 0.8**2), math.exp(-0.5 / 0.6**2)
    total = 1 + one + two + beside + below + 3 * beside * below
    found = CtdetIouTask(1, heatmap={"max_detections": 1}, box={"smoothing": 0.1}).decode(maps)
    expected = (torch.tensor([0.0, 0, 8, 6]) + sums / total) * 4
    torch.testing.assert_close(found["boxes"][0, 0], expected, rtol=0, atol=1e-4)
    plain = CtdetIouTask(1, heatmap={"max_detections": 1}, box={"smoothing": 0}).decode(maps)
    assert plain["boxes"][0, 0].tolist() == [0, 0, 32, 24]


@pytest.mark.parametrize("width", [0.0, -3.0])
def test_a_box_turned_inside_out_stays_a_number(width):
    found = CtdetIouTask(1, heatmap={"max_detections": 1}).decode(maps_of([4, 2, 4 + width, 6], 3, 3))
    assert torch.isfinite(found["boxes"]).all()


@pytest.mark.parametrize("name", ["ctdet_iou", "multi_pose_iou"])
def test_boxes_end_at_the_image(name):
    task = build_task(name, 1)
    found = {"boxes": torch.tensor([[[-8.0, 4, 60, 90], [10, 10, 20, 20]], [[-8.0, 4, 60, 90], [70, 4, 90, 5]]])}
    batch = {
        "input_from_image": torch.diag(torch.tensor([2.0, 2, 1])).double().repeat(2, 1, 1),
        "image_size": torch.tensor([[40, 25], [100, 40]]),
    }
    assert task.lift(found, batch)["boxes"].tolist() == [
        [[0, 2, 25, 40], [5, 5, 10, 10]],
        [[0, 2, 30, 45], [35, 2, 40, 2.5]],
    ]
    assert build_task("ctdet", 1).lift(found, batch)["boxes"][0, 0].tolist() == [-4, 2, 30, 45]  # as in the original


def test_a_block_of_cells_is_the_center_where_the_gaussian_reaches_that_far():
    task = CtdetIouTask(2, heatmap={"center": "block"})
    large, flat = [8, 8, 40, 40], [48, 24, 76, 28]
    heatmap = task.encode(make_batch(make_objects([large, flat], [0, 1])), (HEIGHT, WIDTH))["heatmap"].value[0]
    assert (heatmap[0] == 1).nonzero().tolist() == [[y, x] for y in (5, 6, 7) for x in (5, 6, 7)]
    assert (heatmap[1] == 1).nonzero().tolist() == [[6, x] for x in (14, 15, 16)]


def test_crowds_teach_neither_boxes_nor_background():
    task = CtdetIouTask(1)
    objects = make_objects([[10, 10, 50, 50]])
    objects["crowd"][:] = True
    targets = task.encode(make_batch(objects), (HEIGHT, WIDTH))
    assert targets["box"].weight.sum() == 0
    assert (targets["heatmap"].weight[0, 0, 3:12, 3:12] == 0).all()
    losses = task.losses(
        [{name: torch.randn(1, head.channels, HEIGHT, WIDTH) for name, head in task.heads.items()}], targets
    )
    assert losses["box"] == losses["quality"] == 0


def test_the_parts_of_the_loss_and_their_weights():
    assert CtdetIouTask(1).terms["box"].weights == {"box": 5.0, "quality": 1.0}
    assert CtdetIouTask(1, box={"quality": 0, "weight": 2}).terms["box"].weights == {"box": 2}
    assert CtdetIouTask(3).heads["box"].channels == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": {"loss": "siou"}}, "task ctdet_iou: box.loss='siou' is unknown; choose one of giou, iou, diou, ciou"),
        ({"box": {"smoothing": -1}}, "task ctdet_iou: box.smoothing=-1 must be a number of at least 0"),
        ({"box": {"quality": 1}}, "task ctdet_iou: box.quality=1 must be a number of at least 0 and below 1"),
        ({"heatmap": {"center": 3}}, "task ctdet_iou: heatmap.center=3 is unknown; choose one of cell, block"),
        ({"heatmap": {"extent": 0}}, "task ctdet_iou: heatmap.extent=0 must be a number above 0"),
        ({"size": {}}, "task ctdet_iou has no option 'size'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(options, message):
    with pytest.raises(InputError) as raised:
        build_task("ctdet_iou", 2, **options)
    assert str(raised.value).startswith(message)
