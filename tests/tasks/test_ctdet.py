"""ctdet: what is encoded is decoded again, whatever the objects; crowds are left alone; options and their messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.losses import LOSSES
from centernet.ops.affine import crop_matrix, flip_matrix, transform_boxes
from centernet.structures import HEATMAP_BIAS, AtCells, DenseMap, Detections, InputError, Objects, stack_objects
from centernet.tasks import build_task, require_fields, task_names
from centernet.tasks.ctdet import CtdetTask
from tests.tiny import make_batch, make_objects

HEIGHT, WIDTH = 16, 20  # cells
CLASSES = 3


@st.composite
def images(draw: st.DrawFn, most: int = 12) -> Objects:
    """Objects with centers in different cells that lie inside the grid."""
    cells = draw(st.lists(st.tuples(st.integers(0, WIDTH - 2), st.integers(0, HEIGHT - 2)), unique=True, max_size=most))
    boxes, labels = [], []
    for cx, cy in cells:
        # A tenth from the cell's border: the center shall not change its cell by rounding.
        x, y = cx + draw(st.floats(0.1, 0.9)), cy + draw(st.floats(0.1, 0.9))
        half_width = draw(st.floats(0.05, 1)) * min(x, WIDTH - 1 - x)
        half_height = draw(st.floats(0.05, 1)) * min(y, HEIGHT - 1 - y)
        boxes.append([4 * (x - half_width), 4 * (y - half_height), 4 * (x + half_width), 4 * (y + half_height)])
        labels.append(draw(st.integers(0, CLASSES - 1)))
    return make_objects(boxes, labels)


def assert_found(detections: Detections, image: int, objects: Objects) -> None:
    """The best detections of an image are exactly its objects, the others are far less sure."""
    count = len(objects["labels"])
    scores = detections["scores"][image]
    assert (scores[:count] > 0.99999).all()
    assert (scores[count:] < 0.9999).all()
    found = torch.cat([detections["labels"][image, :count, None], detections["boxes"][image, :count]], 1).numpy()
    wanted = torch.cat([objects["labels"][:, None], objects["boxes"].float()], 1).numpy()
    # Scores are equal, so that the order is free: sort by center.
    found, wanted = (rows[np.lexsort((rows[:, 1] + rows[:, 3], rows[:, 2] + rows[:, 4]))] for rows in (found, wanted))
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("radius", ["centernet", "cornernet", "proportional"])
@pytest.mark.parametrize("size_target", ["center", "per_class", "dense"])
@settings(max_examples=15)
@given(data=st.lists(images(), min_size=1, max_size=3))
def test_what_is_encoded_is_decoded_again(data, size_target, radius):
    task = CtdetTask(CLASSES, k=20, size_target=size_target, radius=radius)
    targets = task.encode(make_batch(*data), (HEIGHT, WIDTH))
    detections = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    assert detections["boxes"].shape == (len(data), 20, 4)
    for image, objects in enumerate(data):
        assert_found(detections, image, objects)


@pytest.mark.parametrize("size_target", ["center", "per_class", "dense"])
def test_any_number_of_objects_is_encoded_and_decoded(size_target):
    rng = np.random.default_rng(0)
    cells = rng.choice((WIDTH - 2) * (HEIGHT - 2), 200, replace=False)
    x, y = 1 + cells % (WIDTH - 2) + 0.5, 1 + cells // (WIDTH - 2) + 0.5
    half = rng.uniform(0.2, 0.4, (2, 200))
    crowded = make_objects(
        4 * np.stack([x - half[0], y - half[1], x + half[0], y + half[1]], 1), rng.integers(0, 3, 200)
    )
    task = CtdetTask(CLASSES, k=220, size_target=size_target)
    targets = task.encode(make_batch(crowded, make_objects([])), (HEIGHT, WIDTH))
    detections = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    assert_found(detections, 0, crowded)
    assert (detections["scores"][1] < 1e-5).all()


@pytest.mark.parametrize("crowds", ["ignore", "objects"])
@pytest.mark.parametrize("size_target", ["center", "per_class", "dense"])
def test_a_region_of_no_class_is_ignored_for_every_class(size_target, crowds):
    task = CtdetTask(CLASSES, size_target=size_target, crowds=crowds)
    rows = make_objects([[8, 8, 40, 40], [44, 20, 60, 40]], labels=[-1, 1], crowd=[True, False])
    targets = task.encode(make_batch(make_objects([]), rows), (HEIGHT, WIDTH))
    heatmap = targets["heatmap"]
    assert (heatmap.value == 1).sum() == 1
    assert heatmap.value[1, 1].max() == 1
    assert (heatmap.weight[1, :, 3:10, 3:10] == 0).all()
    assert (heatmap.weight[0] == 1).all()
    losses = task.losses([task.perfect(targets, (HEIGHT, WIDTH))], targets)
    assert torch.isfinite(losses["loss"])


@given(st.lists(images(), min_size=2, max_size=4))
def test_a_batch_is_encoded_like_its_images_one_by_one(data):
    for size_target in ("center", "per_class", "dense"):
        task = CtdetTask(CLASSES, size_target=size_target)
        together = task.encode(make_batch(*data), (HEIGHT, WIDTH))
        for image, objects in enumerate(data):
            alone = task.encode(make_batch(objects), (HEIGHT, WIDTH))
            for name, target in together.items():
                if isinstance(target, DenseMap):
                    assert torch.equal(target.value[image], alone[name].value[0])
                else:
                    count = len(objects["labels"])
                    for field in ("cell", "value", "mask"):
                        assert torch.equal(getattr(target, field)[image, :count], getattr(alone[name], field)[0])
                    assert not target.mask[image, count:].any()


@given(images())
def test_without_an_offset_the_middle_of_the_cell_is_taken(objects):
    task = CtdetTask(CLASSES, offset=False)
    targets = task.encode(make_batch(objects), (HEIGHT, WIDTH))
    assert set(targets) == set(task.heads) == {"heatmap", "size"}
    found = task.detect(task.perfect(targets, (HEIGHT, WIDTH)))
    boxes = found["boxes"][0, : len(objects["labels"])]
    center = (boxes[:, :2] + boxes[:, 2:]) / 8
    assert torch.allclose(center - center.floor(), torch.full_like(center, 0.5), atol=1e-4)


def test_a_box_is_clipped_to_the_grid_and_one_outside_is_dropped():
    task = CtdetTask(1)
    inside, across, outside = [8, 8, 24, 16], [-40, 8, 20, 16], [-40, 8, -4, 16]
    targets = task.encode(make_batch(make_objects([inside, across, outside])), (HEIGHT, WIDTH))
    size = targets["size"]
    assert size.mask.tolist() == [[True, True, False]]
    assert size.value[0, :2].tolist() == [[4, 2], [5, 2]]
    assert (targets["heatmap"].value == 1).sum() == 2
    assert size.cell.tolist() == [[3 * WIDTH + 4, 3 * WIDTH + 2, 0]]


def test_equal_objects_in_one_cell_are_one_detection():
    task = CtdetTask(1, k=5)
    twice = make_objects([[8, 8, 24, 16]] * 2)
    found = task.detect(task.perfect(task.encode(make_batch(twice), (HEIGHT, WIDTH)), (HEIGHT, WIDTH)))
    assert found["scores"][0, 0] > 0.999
    assert found["scores"][0, 1] < 0.999
    assert torch.allclose(found["boxes"][0, 0], torch.tensor([8.0, 8, 24, 16]))


def test_no_loss_and_no_gradient_come_from_inside_a_crowd_region():
    task = CtdetTask(2)
    objects = make_objects([[8, 8, 24, 24], [40, 8, 72, 56]], labels=[0, 1], crowd=[False, True])
    targets = task.encode(make_batch(objects), (HEIGHT, WIDTH))
    heatmap = targets["heatmap"]
    assert (heatmap.value == 1).sum() == 1
    assert (heatmap.value[0, 1] == 0).all()
    hidden = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    hidden[2:15, 10:19] = True  # its box in cells
    assert torch.equal(heatmap.weight[0, 1] == 0, hidden)
    assert (heatmap.weight[0, 0] == 1).all()  # other classes are learned there
    assert targets["size"].mask.tolist() == targets["offset"].mask.tolist() == [[True, False]]
    outputs = {
        name: torch.zeros(1, head.channels, HEIGHT, WIDTH, requires_grad=True) for name, head in task.heads.items()
    }
    task.losses([outputs], targets)["loss"].backward()
    assert torch.equal(outputs["heatmap"].grad[0, 1] == 0, hidden)


def test_crowds_are_objects_where_that_is_wanted():
    objects = make_objects([[40, 8, 72, 56]], crowd=[True])
    targets = CtdetTask(1, crowds="objects").encode(make_batch(objects), (HEIGHT, WIDTH))
    assert targets["heatmap"].weight is None
    assert (targets["heatmap"].value == 1).sum() == 1
    assert targets["size"].mask.tolist() == [[True]]


def test_a_crowd_in_one_image_hides_nothing_in_another():
    crowd = make_objects([[8, 8, 24, 24]], crowd=[True])
    targets = CtdetTask(1).encode(make_batch(make_objects([]), crowd), (HEIGHT, WIDTH))
    assert (targets["heatmap"].weight[0] == 1).all()
    assert (targets["heatmap"].weight[1] == 0).any()


@pytest.mark.parametrize(
    "options", [{}, {"size_target": "per_class"}, {"size_target": "dense"}, {"heatmap_loss": "mse"}]
)
def test_images_without_objects_give_a_finite_loss_and_a_usable_gradient(options):
    task = CtdetTask(2, **options)
    targets = task.encode(make_batch(make_objects([]), make_objects([])), (HEIGHT, WIDTH))
    outputs = {
        name: torch.randn(2, head.channels, HEIGHT, WIDTH, requires_grad=True) for name, head in task.heads.items()
    }
    parts = task.losses([outputs], targets)
    parts["loss"].backward()
    assert parts["size"] == parts["offset"] == 0
    assert parts["heatmap"] > 0
    assert all(torch.isfinite(out.grad).all() for out in outputs.values())


@given(images(most=5))
@settings(max_examples=10)
def test_the_perfect_output_has_almost_no_loss(objects):
    for options in ({}, {"size_target": "per_class"}, {"size_target": "dense"}, {"regression_loss": "smooth_l1"}):
        task = CtdetTask(CLASSES, **options)
        targets = task.encode(make_batch(objects), (HEIGHT, WIDTH))
        parts = task.losses([task.perfect(targets, (HEIGHT, WIDTH))], targets)
        assert parts["size"] < 1e-5
        assert parts["offset"] < 1e-5
        worse = {
            name: torch.zeros(1, head.channels, HEIGHT, WIDTH) + (head.bias or 1) for name, head in task.heads.items()
        }
        if len(objects["labels"]):
            assert parts["loss"] < task.losses([worse], targets)["loss"]


def test_the_total_is_the_weighted_sum_and_stacks_are_averaged():
    task = CtdetTask(2, heatmap_weight=2, size_weight=0.25, offset_weight=3)
    targets = task.encode(make_batch(make_objects([[8, 8, 24, 16]])), (HEIGHT, WIDTH))
    torch.manual_seed(0)
    first, second = (
        {name: torch.randn(1, head.channels, HEIGHT, WIDTH) for name, head in task.heads.items()} for _ in range(2)
    )
    a, b, both = task.losses([first], targets), task.losses([second], targets), task.losses([first, second], targets)
    for name in both:
        assert both[name].item() == pytest.approx((a[name].item() + b[name].item()) / 2, rel=1e-5)
    assert a["loss"].item() == pytest.approx(
        2 * a["heatmap"].item() + 0.25 * a["size"].item() + 3 * a["offset"].item(), 1e-5
    )


def test_heads_follow_from_the_options():
    heads = CtdetTask(5).heads
    assert {name: (head.channels, head.loss, head.weight) for name, head in heads.items()} == {
        "heatmap": (5, "focal", 1.0),
        "size": (2, "l1", 0.1),
        "offset": (2, "l1", 1.0),
    }
    assert heads["heatmap"].bias == HEATMAP_BIAS
    assert torch.sigmoid(torch.tensor(HEATMAP_BIAS)).item() == pytest.approx(0.1, abs=1e-3)
    assert heads["size"].bias == heads["offset"].bias == 0
    assert CtdetTask(5, size_target="per_class").heads["size"].channels == 10
    assert CtdetTask(5, size_target="dense").heads["size"].loss == "dense_l1"
    assert CtdetTask(5, regression_loss="smooth_l1").heads["offset"].loss == "smooth_l1"
    assert CtdetTask(5, heatmap_loss="mse").heads["heatmap"].is_heatmap
    for options in ({}, {"size_target": "per_class"}, {"size_target": "dense"}, {"heatmap_loss": "mse"}):
        assert all(head.loss in LOSSES for head in CtdetTask(5, **options).heads.values())


def test_an_object_moves_the_size_channels_of_its_own_class_only():
    task = CtdetTask(3, size_target="per_class")
    targets = task.encode(make_batch(make_objects([[8, 8, 24, 16]], labels=[1])), (HEIGHT, WIDTH))
    assert isinstance(targets["size"], AtCells)
    assert targets["size"].mask.tolist() == [[[0, 0, 1, 1, 0, 0]]]
    assert targets["size"].value[0, 0, 2:4].tolist() == [4, 2]


def test_merging_an_image_with_its_mirror_averages_what_a_mirror_changes():
    task = CtdetTask(2)
    torch.manual_seed(0)
    maps = {name: torch.rand(2, head.channels, 4, 6) for name, head in task.heads.items()}
    same = task.merge_flipped({name: torch.cat([value, value.flip(-1)]) for name, value in maps.items()})
    for name, value in maps.items():
        assert torch.allclose(same[name], value)
    mirrored = {name: torch.rand_like(value) for name, value in maps.items()}
    merged = task.merge_flipped({name: torch.cat([maps[name], mirrored[name]]) for name in maps})
    assert torch.allclose(merged["heatmap"], (maps["heatmap"] + mirrored["heatmap"].flip(-1)) / 2)
    assert torch.equal(merged["offset"], maps["offset"])


@pytest.mark.parametrize("flipped", [False, True])
def test_detections_are_lifted_to_where_the_objects_are_in_the_image(flipped):
    task = CtdetTask(1, k=1)
    matrix = crop_matrix((60, 50), 130, (64, 80))
    if flipped:
        matrix = matrix @ flip_matrix(120)
    matrix = torch.from_numpy(matrix)
    in_image = torch.tensor([[[30.0, 35, 70, 62]]], dtype=torch.float64)
    objects = make_objects(transform_boxes(matrix, in_image)[0])
    found = task.detect(task.perfect(task.encode(make_batch(objects), (HEIGHT, WIDTH)), (HEIGHT, WIDTH)))
    lifted = task.lift(found, {"input_from_image": matrix[None]})
    assert torch.allclose(lifted["boxes"].double(), in_image, atol=1e-3)
    assert lifted["boxes"].dtype == torch.float32
    assert lifted["scores"] is found["scores"]


def test_maps_are_activated_in_float32():
    task = CtdetTask(1)
    outputs = {name: torch.full((1, head.channels, 2, 2), -30.0).bfloat16() for name, head in task.heads.items()}
    maps = task.activate(outputs)
    assert all(value.dtype == torch.float32 for value in maps.values())
    assert (maps["heatmap"] > 0).all()
    assert (maps["size"] == -30).all()


def test_fewer_cells_than_k_are_no_obstacle():
    task = CtdetTask(1, k=100)
    found = task.decode({name: torch.rand(1, head.channels, 3, 4) for name, head in task.heads.items()})
    assert found["boxes"].shape == (1, 12, 4)


def test_encoding_follows_the_device_and_takes_padding_as_it_comes():
    task = CtdetTask(2)
    batch = make_batch(make_objects([[8, 8, 24, 16]]), make_objects([]))
    batch["boxes"][1] = float("nan")
    batch["labels"][1] = 99
    targets = task.encode(batch, (HEIGHT, WIDTH))
    assert (targets["heatmap"].value[1] == 0).all()
    outputs = {name: torch.zeros(2, head.channels, HEIGHT, WIDTH) for name, head in task.heads.items()}
    assert torch.isfinite(task.losses([outputs], targets)["loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"radius": "round"},
            "task ctdet: radius='round' is unknown; choose one of centernet, cornernet, proportional",
        ),
        ({"heatmap_loss": "l1"}, "task ctdet: heatmap_loss='l1' is unknown; choose one of focal, mse"),
        ({"regression_loss": "l2"}, "task ctdet: regression_loss='l2' is unknown; choose one of l1, smooth_l1"),
        (
            {"size_target": "middle"},
            "task ctdet: size_target='middle' is unknown; choose one of center, per_class, dense",
        ),
        ({"crowds": "drop"}, "task ctdet: crowds='drop' is unknown; choose one of ignore, objects"),
        ({"radios": 1}, "task ctdet has no option 'radios'; did you mean radius?"),
        ({"zzz": 1}, "task ctdet has no option 'zzz'; it has num_classes"),
    ],
)
def test_a_bad_option_is_named_with_what_there_is(options, message):
    with pytest.raises(InputError) as raised:
        build_task("ctdet", 3, **options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("name", task_names())
def test_every_task_says_which_heads_are_per_class(name):
    heads = build_task(name, 3).heads
    assert [head for head in heads if heads[head].per_class] == ["heatmap"]


def test_sizes_per_class_are_per_class():
    assert build_task("ctdet", 3, size_target="per_class").heads["size"].per_class


def test_an_unknown_task_is_named_with_close_ones():
    with pytest.raises(InputError, match=r"unknown task 'ctdte'; did you mean ctdet"):
        build_task("ctdte", 3)
    assert "ctdet" in task_names()
    assert "base" not in task_names()


def test_data_without_the_needed_fields_is_refused():
    task = CtdetTask(1)
    require_fields(task, make_objects([]), "the train data")
    with pytest.raises(InputError, match="task ctdet needs objects with labels, which the train data does not have"):
        require_fields(task, {"boxes": torch.zeros(0, 4)}, "the train data")


def test_the_metric_knows_the_classes_and_counts_every_detection():
    metric = CtdetTask(2, k=300).metric(["cat", "dog"])
    assert metric.class_names == ["cat", "dog"]
    truth = stack_objects([make_objects([[0, 0, 10, 10]], labels=[1])])
    detections = {
        "boxes": truth["boxes"].clone(),
        "scores": torch.ones(1, 1),
        "labels": torch.tensor([[1]]),
    }
    metric.update(detections, truth, torch.tensor([5]))
    assert metric.compute()["AP"] == 1
    assert CtdetTask.monitor in metric.compute()


@pytest.mark.parametrize(
    ("option", "message"), [({"k": 0}, "k=0 is too small"), ({"min_overlap": 2.0}, "min_overlap=2.0 must lie between")]
)
def test_numbers_that_make_no_sense_are_refused(option, message):
    with pytest.raises(InputError, match=message):
        CtdetTask(num_classes=2, **option)
