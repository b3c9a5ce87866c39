"""exdet: points go there and back, are mirrored and merged with their sides swapped, and ghosts are found out."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from centernet.data.builtin.shapes import ShapesDataModule
from centernet.detector import Detector
from centernet.errors import InputError
from centernet.fields import move, partners_of
from centernet.inference import Predictor
from centernet.models import build_network
from centernet.module import ExdetModule
from centernet.ops.affine import flip_matrix
from centernet.ops.nms import suppress_ghosts
from centernet.structures import Objects, Outputs
from centernet.tasks.exdet import ExdetTask
from centernet.tasks.terms.extremes import SIDES, box_of
from tests import tiny
from tests.places import ROOT
from tests.test_module import build_trainer
from tests.test_module import pytestmark as quiet
from tests.tiny import make_batch, make_objects

pytestmark = quiet

HEIGHT, WIDTH, CLASSES = 24, 32, 3
SIZE = (HEIGHT, WIDTH)


def objects_with(points: object, labels: list[int], crowd: list[bool] | None = None) -> Objects:
    extremes = torch.tensor(points, dtype=torch.float32).reshape(-1, 4, 2)
    return {**make_objects(box_of(extremes).tolist(), labels, crowd), "extreme_points": extremes}


# Two objects apart from each other, input pixels.
POINTS = [
    [[20.0, 8.5], [9.25, 30], [24.5, 52], [41, 22]],
    [[90.0, 40], [70.5, 60.25], [97, 88.75], [118, 71]],
]
PAIR = objects_with(POINTS, [0, 2])


def found_again(task: ExdetTask, objects: Objects) -> dict[str, Tensor]:
    """What a perfect network's maps are decoded to, without suppression: the certain ones."""
    found = task.detect(task.perfect(task.encode(make_batch(objects), SIZE), SIZE))
    sure = found["scores"][0] > 0.5
    return {name: value[0, sure] for name, value in found.items()}


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("aggregation", [0.0, 0.1])
def test_perfect_maps_are_decoded_to_the_objects(agnostic, aggregation):
    task = ExdetTask(CLASSES, agnostic=agnostic, heatmap={"aggregation": aggregation})
    found = found_again(task, PAIR)
    order = found["labels"].argsort()
    assert found["labels"][order].tolist() == [0, 2]
    torch.testing.assert_close(found["extreme_points"][order], torch.tensor(POINTS), atol=1e-4, rtol=0)
    torch.testing.assert_close(found["boxes"][order], box_of(torch.tensor(POINTS)), atol=1e-4, rtol=0)


def test_without_offsets_points_are_in_the_middles_of_their_cells():
    task = ExdetTask(CLASSES, **{f"{side}_offset": None for side in SIDES})
    found = found_again(task, PAIR)
    wanted = ((torch.tensor(POINTS) / 4).floor() + 0.5) * 4
    assert torch.equal(found["extreme_points"][found["labels"].argsort()], wanted)


@given(
    seed=st.integers(0, 10**6),
    width=st.integers(24, 60),
    height=st.integers(24, 60),
    agnostic=st.booleans(),
)
def test_any_object_is_found_again(seed, width, height, agnostic):
    rng = torch.Generator().manual_seed(seed)
    low = torch.rand(2, generator=rng) * torch.tensor([124.0 - width, 92.0 - height])
    t, l, b, r = torch.rand(4, generator=rng)  # noqa: E741  where along its side each point is
    x, y = low.tolist()
    points = [
        [x + t.item() * width, y],
        [x, y + l.item() * height],
        [x + b.item() * width, y + height],
        [x + width, y + r.item() * height],
    ]
    found = found_again(ExdetTask(CLASSES, agnostic=agnostic), objects_with([points], [1]))
    assert found["labels"].tolist() == [1]
    torch.testing.assert_close(found["extreme_points"][0], torch.tensor(points), atol=1e-3, rtol=0)


def test_agnostic_maps_have_one_channel_and_the_centers_those_of_the_classes():
    channels = {name: head.channels for name, head in ExdetTask(CLASSES, agnostic=True).heads.items()}
    assert channels == {
        "heatmap": CLASSES, **dict.fromkeys(SIDES, 1), **dict.fromkeys([f"{side}_offset" for side in SIDES], 2),
    }  # fmt: skip
    with pytest.raises(InputError, match="task exdet: agnostic=1 is not possible; use true or false"):
        ExdetTask(CLASSES, agnostic=1)


def test_a_point_outside_the_grid_counts_at_its_edge():
    outside = objects_with([[[60, -9], [-5, 40], [70, 60], [90, 41]]], [0])
    targets = ExdetTask(CLASSES).encode(make_batch(outside), SIZE)
    assert targets["top"].value[0, 0, 0, 15] == 1
    assert targets["left"].value[0, 0, 10, 0] == 1
    assert targets["top_offset"].value[0, 0].tolist() == [0, 0]


def test_inside_crowds_nothing_is_learned_of_their_class_and_of_any_class_without_one():
    crowd = objects_with([*POINTS, [[60, 0], [40, 10], [60, 20], [80, 10]]], [0, 2, 0], [False, False, True])
    for label, muted in ((0, [0]), (-1, [0, 1, 2])):
        crowd["labels"][2] = label
        targets = ExdetTask(CLASSES).encode(make_batch(crowd), SIZE)
        for name in ("heatmap", *SIDES):
            weight = targets[name].weight[0, :, 2, 15]
            assert [n for n in range(CLASSES) if weight[n] == 0] == muted
            assert targets[name].weight[0, :, 2, 3].tolist() == [1] * CLASSES
            assert (targets[name].value == 1).sum() == 2
    agnostic = ExdetTask(CLASSES, agnostic=True).encode(make_batch(crowd), SIZE)
    assert agnostic["top"].weight[0, :, 2, 15].tolist() == [0]


def test_the_original_trains_crowds_like_objects():
    crowd = objects_with(POINTS, [0, 2], [False, True])
    targets = ExdetTask(CLASSES, heatmap={"crowds": "objects"}).encode(make_batch(crowd), SIZE)
    assert all((targets[name].value == 1).sum() == 2 for name in SIDES)


# Mirror images -------------------------------------------------------------------------------------------------------


def mirrored(objects: Objects) -> Objects:
    return move(objects, torch.from_numpy(flip_matrix(4 * WIDTH)), partners_of({}))


def test_a_mirror_swaps_left_and_right():
    other = mirrored(PAIR)["extreme_points"]
    assert other[0].tolist() == [[107, 8.5], [86, 22], [102.5, 52], [117.75, 30]]
    assert box_of(other)[0].tolist() == [86, 8.5, 117.75, 52]


# In cells that a mirror maps to cells.
WHOLE = objects_with(
    [[[20, 8.5], [8, 30], [24.5, 52], [41, 22]], [[90, 40], [70.5, 60.25], [97, 88.75], [118, 71]]], [0, 2]
)


def perfect(task: ExdetTask, objects: Objects) -> Outputs:
    return task.activate(task.perfect(task.encode(make_batch(objects), SIZE), SIZE))


def test_maps_of_the_mirror_image_are_those_that_are_made_of_the_plain_ones():
    task = ExdetTask(CLASSES)
    made, wanted = task.mirrored(perfect(task, WHOLE)), perfect(task, mirrored(WHOLE))
    for name in SIDES:
        torch.testing.assert_close(made[name], wanted[name], atol=1e-5, rtol=0)
        known = (wanted[name].amax(1, keepdim=True) > 0.999).expand(-1, 2, -1, -1)
        offset = f"{name}_offset"
        torch.testing.assert_close(made[offset][known], wanted[offset][known], atol=1e-4, rtol=0)


def test_merged_maps_say_the_same_as_each_of_the_two_images():
    task = ExdetTask(CLASSES)
    plain, other = perfect(task, WHOLE), perfect(task, mirrored(WHOLE))
    merged = task.merge_flipped({name: torch.cat([plain[name], other[name]]) for name in plain})
    for name in SIDES:
        torch.testing.assert_close(merged[name], plain[name], atol=1e-5, rtol=0)


class Said(nn.Module):
    """A network that says what it is told, of an image and (the second half of a batch) of its mirror image."""

    stride = 4

    def __init__(self, plain: Outputs, other: Outputs) -> None:
        super().__init__()
        self.maps = {name: torch.cat([plain[name], other[name]]) for name in plain}

    def forward(self, images: Tensor) -> list[Outputs]:
        return [{name: value[: len(images)] for name, value in self.maps.items()}]


IDENTITY = torch.eye(3).double()[None]


def image_batch() -> dict[str, Tensor]:
    return {"image": torch.zeros(1, 3, 4 * HEIGHT, 4 * WIDTH, dtype=torch.uint8), "input_from_image": IDENTITY}


def raw(task: ExdetTask, objects: Objects) -> Outputs:
    return task.perfect(task.encode(make_batch(objects), SIZE), SIZE)


def test_flip_testing_puts_the_detections_of_both_images_together_and_suppresses_them():
    task = ExdetTask(CLASSES)
    one, two = ({name: value[n : n + 1] for name, value in WHOLE.items()} for n in range(2))
    # The second object is seen in the mirror image only.
    detector = Detector(Said(raw(task, one), raw(task, mirrored(WHOLE))), task, modes={"flip": True})
    found = detector.find_in_images(image_batch()).detections
    assert found["scores"].shape == (1, 100)
    sure = found["scores"][0] > 0.9
    order = found["labels"][0, sure].argsort()
    points = found["extreme_points"][0, sure][order]
    assert found["labels"][0, sure].sort().values.tolist() == [0, 2]
    torch.testing.assert_close(points[0], one["extreme_points"][0], atol=1e-3, rtol=0)
    # As in the original, what was found in the mirror image is a pixel too far to the right.
    torch.testing.assert_close(points[1], two["extreme_points"][0] + torch.tensor([1, 0]), atol=1e-3, rtol=0)
    # The copy of the first one is suppressed: exp(-o^2 / 0.5) of its score is left.
    (again,) = found["scores"][0, (found["scores"][0] > 0) & ~sure & (found["labels"][0] == 0)][:1]
    assert again < 0.25


def test_maps_that_are_given_take_their_places_in_the_mirror_image_too():
    task = ExdetTask(CLASSES)
    nothing = {name: torch.full_like(value, -9.0) for name, value in raw(task, WHOLE).items()}
    detector = Detector(Said(nothing, nothing), task, modes={"flip": True, "nms": "none"})
    found = detector.find(image_batch()["image"], perfect(task, WHOLE)).detections
    assert (found["scores"] > 0.9).sum() == 4
    boxes = found["boxes"][found["scores"] > 0.9]
    torch.testing.assert_close(boxes[:2], boxes[2:] - torch.tensor([1, 0, 1, 0]), atol=1e-3, rtol=0)


def test_one_pass_is_suppressed_too_unless_said_otherwise():
    task = ExdetTask(CLASSES)
    network = Said(raw(task, WHOLE), raw(task, WHOLE))
    assert Detector(network, task).suppression == "soft"
    assert Detector(network, task, modes={"nms": "none"}).suppression == "none"
    assert Detector(network, task, modes={"nms": "plain", "scales": [1, 2]}).suppression == "plain"


# Ghosts --------------------------------------------------------------------------------------------------------------


def test_a_box_around_three_objects_in_a_row_is_a_ghost():
    row = [[10.0, 10, 20, 20], [30, 10, 40, 20], [50, 10, 60, 20]]
    boxes, scores = torch.tensor([[[10.0, 10, 60, 20], *row]]), torch.tensor([[0.8, 0.81, 0.82, 0.83]])
    labels = torch.zeros(1, 4, dtype=torch.long)
    assert suppress_ghosts(boxes, scores, labels)[0].tolist() == pytest.approx([0.4, 0.81, 0.82, 0.83])
    # Two that are less likely are no reason, nor are those of another class or partly outside.
    fewer = torch.tensor([[0.8, 0.79, 0.78]])
    assert torch.equal(suppress_ghosts(boxes[:, :3], fewer, labels[:, :3]), fewer)
    scores = torch.tensor([[0.8, 0.79, 0.78, 0.77]])
    assert suppress_ghosts(boxes, scores, labels)[0, 0] == 0.4
    assert torch.equal(suppress_ghosts(boxes, scores, torch.tensor([[0, 0, 0, 1]])), scores)
    beyond = boxes.clone()
    beyond[0, 3, 2] = 61
    assert torch.equal(suppress_ghosts(beyond, scores, labels), scores)
    assert torch.equal(suppress_ghosts(boxes, scores, labels, share=5), scores)


def test_ghosts_are_suppressed_by_option_and_sink_to_their_place():
    found = {
        "boxes": torch.tensor([[[10.0, 10, 60, 20], [10, 10, 20, 20], [30, 10, 40, 20], [50, 10, 60, 20]]]),
        "scores": torch.tensor([[0.8, 0.79, 0.78, 0.77]]),
        "labels": torch.zeros(1, 4, dtype=torch.long),
    }
    assert ExdetTask(CLASSES).settle(found) is found
    settled = ExdetTask(CLASSES, heatmap={"ghosts": 2.9}).settle(found)
    assert settled["scores"][0].tolist() == pytest.approx([0.79, 0.78, 0.77, 0.4])
    assert settled["boxes"][0, 3].tolist() == [10, 10, 60, 20]


# In the field --------------------------------------------------------------------------------------------------------


def test_the_boxes_of_an_untrained_network_are_no_inside_out_ones():
    task = ExdetTask(2, **{f"{side}_offset": None for side in SIDES})  # whose offsets may be anything
    network = tiny.enliven(build_network(tiny.NETWORK, task.heads))
    detector = Detector(network, task).eval()
    with torch.inference_mode():
        found = detector(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    kept = found["scores"] > 0
    assert kept.any()
    boxes = found["boxes"][kept]
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert not found["boxes"][~kept].any()


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExdetModule, Path]:
    """A module after a step on shapes, and its checkpoint."""
    data = ShapesDataModule(
        shapes, train_count=24, val_count=8, num_workers=0, resolution=(64, 64), batch_size=4, extreme_points="masks"
    )
    data.setup("fit")
    module = ExdetModule.for_data(data, backbone=tiny.NETWORK)
    folder = tmp_path_factory.mktemp("exdet")
    trainer = build_trainer(folder, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module, folder / "last.ckpt"


def test_a_module_trains_validates_and_predicts_with_points(trained):
    module, path = trained
    assert 0 <= module.trainer.callback_metrics["val/AP"] <= 1
    predictor = Predictor.from_checkpoint(path)
    result = predictor(tiny.make_image(96, 120), threshold=0.01)
    assert result.extreme_points.shape == (len(result), 4, 2)
    assert result.draw(tiny.make_image(96, 120)).shape == (96, 120, 3)


def test_data_without_points_is_refused_with_the_option(shapes):
    data = ShapesDataModule(shapes, train_count=24, val_count=8, num_workers=0)
    data.setup("validate")
    message = r"needs objects with extreme_points, which the val data does not have; use data.extreme_points=masks \("
    with pytest.raises(InputError, match=message):
        ExdetTask(4).check_data(data.datasets["val"].fields, {}, "the val data")


def test_the_script_writes_points_that_are_read_again(tmp_path, monkeypatch, capsys):
    star = {"image_id": 1, "bbox": [10, 5, 30, 35], "segmentation": [[20, 5, 40, 20, 25, 40, 10, 30]]}
    path, images = tiny.make_coco(tmp_path, [star, {"image_id": 2, "bbox": [10, 10, 20, 30]}])

    def run(*words: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["write_extreme_points.py", str(path), str(tmp_path / "new.json"), *words])
        try:
            runpy.run_path(str(ROOT / "scripts" / "write_extreme_points.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code
        return 0

    assert run() == 2
    assert "1 of 2 annotations have neither a mask nor extreme_points (2)" in capsys.readouterr().err
    assert run("--boxes") == 0
    assert "extreme points of 2 annotations" in capsys.readouterr().out
    content = json.loads((tmp_path / "new.json").read_text())
    first, second = content["annotations"]
    assert first["extreme_points"] == [[20, 5], [10, 30], [25, 40], [40, 20]]
    assert second["extreme_points"] == [[20, 10], [10, 25], [20, 40], [30, 25]]
    assert first["segmentation"] == star["segmentation"]
    assert images.is_dir()
