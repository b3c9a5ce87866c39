"""ctdet_dense: what is encoded is decoded again; every object counts the same; mirrored maps agree; crowds are left
alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.structures import DenseMap, InputError
from centernet.tasks import build_task
from centernet.tasks.ctdet_dense import CtdetDenseTask
from tests.tasks.test_ctdet import CLASSES, HEIGHT, WIDTH, assert_found, images
from tests.tiny import make_batch, make_objects


@settings(max_examples=25)
@given(data=st.lists(images(), min_size=1, max_size=3))
def test_what_is_encoded_is_decoded_again(data):
    task = CtdetDenseTask(CLASSES, heatmap={"max_detections": 20})
    targets = task.encode(make_batch(*data), (HEIGHT, WIDTH))
    detections = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    assert detections["boxes"].shape == (len(data), 20, 4)
    for image, objects in enumerate(data):
        assert_found(detections, image, objects)


@given(images())
def test_a_mirrored_image_has_the_mirrored_maps_and_merging_both_gives_the_objects_back(objects):
    task = CtdetDenseTask(CLASSES, heatmap={"max_detections": 20})
    # Here the mirror takes the grid's width to 0: cell c becomes W - 1 - c, what lies at x in it lies at 1 - x.
    x1, y1, x2, y2 = objects["boxes"].unbind(-1)
    mirrored = {**objects, "boxes": torch.stack([4 * WIDTH - x2, y1, 4 * WIDTH - x1, y2], -1)}
    targets = task.encode(make_batch(objects, mirrored), (HEIGHT, WIDTH))
    maps = task.merge_flipped(task.activate(task.perfect(targets, (HEIGHT, WIDTH))))
    found = task.decode(maps)
    assert found["boxes"].shape[0] == 1
    assert_found(found, 0, objects)


def test_the_weights_of_every_object_sum_to_one_and_are_narrow():
    task = CtdetDenseTask(1)
    small, large = [8, 8, 12, 12], [60, 60, 180, 140]
    for box in (small, large):
        target = task.encode(make_batch(make_objects([box])), (40, 50))["box"]
        assert isinstance(target, DenseMap)
        assert target.weight.sum((2, 3)).flatten().tolist() == pytest.approx([1.0] * 4, abs=1e-5)
        assert target.weight[0, 0].max() == target.weight[0, 0, (box[1] + box[3]) // 8, (box[0] + box[2]) // 8]


def test_every_cell_of_an_object_points_to_its_center():
    task = CtdetDenseTask(1)
    target = task.encode(make_batch(make_objects([[20, 22, 63, 59]])), (HEIGHT, WIDTH))["box"]
    owned = target.value[0, 0] > 0
    y, x = owned.nonzero(as_tuple=True)
    assert owned.sum() > 9
    center = target.value[0, 2:][:, owned] + torch.stack([x, y])
    assert torch.allclose(center, torch.tensor([[41.5 / 4], [40.5 / 4]]).expand_as(center), atol=1e-5)
    assert (target.value[0, :, ~owned] == 0).all()


def test_the_object_with_the_larger_weight_has_the_cell():
    task = CtdetDenseTask(2)
    # A small one inside a large one: its weight at its own center is larger, although it comes first.
    small, large = [36, 28, 44, 36], [0, 0, 80, 64]
    target = task.encode(make_batch(make_objects([small, large], [0, 1])), (HEIGHT, WIDTH))["box"]
    assert target.value[0, :2, 8, 10].tolist() == [2, 2]
    assert target.value[0, :2, 8, 12].tolist() == [20, 16]


def test_boxes_may_reach_the_end_of_the_input():
    task = CtdetDenseTask(1, heatmap={"max_detections": 1})
    targets = task.encode(make_batch(make_objects([[40, 40, 100, 100]])), (HEIGHT, WIDTH))
    found = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    assert found["boxes"][0, 0].tolist() == pytest.approx([40, 40, 4 * WIDTH, 4 * HEIGHT], abs=1e-3)


def test_the_parts_of_the_loss_are_heatmap_size_and_offset_with_their_weights():
    task = CtdetDenseTask(2)
    targets = task.encode(make_batch(make_objects([[8, 8, 24, 24]])), (HEIGHT, WIDTH))
    flawless = task.perfect(targets, (HEIGHT, WIDTH))
    assert task.losses([flawless], targets)["loss"] < 1e-2
    wrong = {**flawless, "box": flawless["box"] + torch.tensor([1.0, 1, 3, 3]).view(1, 4, 1, 1)}
    parts = task.losses([wrong, wrong], targets)
    assert set(parts) == {"loss", "heatmap", "size", "offset"}
    assert parts["size"].item() == pytest.approx(1, abs=1e-3)
    assert parts["offset"].item() == pytest.approx(3, abs=1e-3)
    total = parts["heatmap"] + 0.05 * parts["size"] + 0.5 * parts["offset"]
    assert parts["loss"].item() == pytest.approx(total.item())


def test_an_image_without_objects_has_a_loss_with_a_usable_gradient():
    task = CtdetDenseTask(2)
    targets = task.encode(make_batch(make_objects([])), (HEIGHT, WIDTH))
    outputs = {
        name: torch.zeros(1, head.channels, HEIGHT, WIDTH, requires_grad=True) for name, head in task.heads.items()
    }
    loss = task.losses([outputs], targets)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert (outputs["box"].grad == 0).all()


def test_no_size_is_learned_from_a_crowd_region():
    task = CtdetDenseTask(1)
    objects = make_objects([[8, 8, 24, 24], [40, 8, 72, 56]], crowd=[False, True])
    targets = task.encode(make_batch(objects), (HEIGHT, WIDTH))
    assert (targets["heatmap"].value == 1).sum() == 1
    assert (targets["heatmap"].weight[0, 0, 2:15, 10:19] == 0).all()
    assert targets["box"].weight[0, 0].sum().item() == pytest.approx(1, abs=1e-5)


def test_it_is_found_by_its_name_and_names_its_options():
    assert {name: head.channels for name, head in build_task("ctdet_dense", 3).heads.items()} == {
        "heatmap": 3,
        "box": 4,
    }
    task = build_task("ctdet_dense", 2, heatmap={"max_detections": 7}, box={"size_weight": 0.2})
    assert task.heatmap.max_detections == 7
    assert task.terms["box"].weights == {"size": 0.2, "offset": 0.5}
    with pytest.raises(InputError, match=r"task ctdet_dense has no option 'size'"):
        build_task("ctdet_dense", 3, size={"supervise": "dense"})
    with pytest.raises(InputError, match=r"task ctdet_dense: heatmap.crowds='no' is unknown"):
        build_task("ctdet_dense", 3, heatmap={"crowds": "no"})
