"""multi_pose_iou: boxes and joints that are encoded are decoded again; joints weigh by their tolerances; every person
supervises a box, and joints only where they are labeled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from centernet.fields import move, partners_of
from centernet.joints import COCO_JOINTS, COCO_SIGMAS
from centernet.ops.affine import flip_matrix
from centernet.structures import InputError, Objects, Targets
from centernet.tasks import build_task
from centernet.tasks.multi_pose_iou import MultiPoseIouTask
from centernet.tasks.terms.joints import likeliest_peak, vote
from tests.tasks.test_multi_pose import FIVE, HEIGHT, WIDTH, is_clear, joined, make_person, match, people
from tests.tiny import make_batch, make_objects

SIZE = (HEIGHT, WIDTH)
SPREAD = [[45, 40, 2], [50, 50, 2], [70, 52, 2], [52, 66, 2], [66, 65, 2]]


def encode(task: MultiPoseIouTask, *images: Objects) -> Targets:
    return task.encode(make_batch(*images), SIZE)


def detect(task: MultiPoseIouTask, *images: Objects) -> Any:
    return task.detect(task.perfect(encode(task, *images), SIZE))


@settings(max_examples=15)
@given(objects=people())
@pytest.mark.parametrize("options", [{}, {"box": {"quality": 0}}], ids=str)
def test_boxes_and_joints_that_are_encoded_are_decoded_again(options, objects):
    task = MultiPoseIouTask(1, facts=FIVE, heatmap={"max_detections": 20}, **options)
    found = detect(task, objects)
    assert set(found) == {"boxes", "scores", "labels", "joints", "joint_scores"}
    for row, detection in enumerate(match(found, objects)):
        np.testing.assert_allclose(found["boxes"][0, detection], objects["boxes"][row], atol=1e-2)
        labeled = objects["joints"][row, :, 2] > 0
        if is_clear(objects, row):
            ours, theirs = found["joints"][0, detection][labeled], objects["joints"][row, labeled, :2]
            assert (ours - theirs).norm(dim=-1).le(1e-2).all()


def test_joints_that_share_a_cell_are_all_exact():
    task = MultiPoseIouTask(1, facts=FIVE, heatmap={"max_detections": 2})
    person = make_person([32, 32, 60, 60], [[40 + 0.7 * n, 41 + 0.5 * n, 2] for n in range(5)])
    found = detect(task, person)
    torch.testing.assert_close(found["joints"][0, 0], person["joints"][0, :, :2], atol=1e-3, rtol=0)
    assert (found["joint_scores"][0, 0] > 0.99).all()


def test_a_mirrored_image_has_the_mirrored_joints():
    task = MultiPoseIouTask(1, facts=FIVE, heatmap={"max_detections": 1})
    person = make_person([40, 30, 81, 70], SPREAD)
    mirrored = move(person, torch.from_numpy(flip_matrix(4 * WIDTH)), partners_of(task.facts))
    maps = task.activate(task.perfect(encode(task, person, mirrored), SIZE))
    found = task.decode(task.merge_flipped(maps))
    torch.testing.assert_close(found["boxes"][0, 0], person["boxes"][0].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found["joints"][0, 0], person["joints"][0, :, :2], atol=1e-3, rtol=0)


def test_a_joint_counts_by_the_share_of_its_tolerance_that_is_missed():
    task = MultiPoseIouTask(1)
    # 15 x 10 cells, 9 x 5 of them under the Gaussian.
    person = make_person([20, 20, 80, 60], [[50, 40, 2]] * 17)
    targets = encode(task, person)
    wanted = [1 / (2 * sigma * math.sqrt(15 * 10)) for sigma in COCO_SIGMAS]
    assert ((targets["joints"].weight > 0).sum((-1, -2)) == 9 * 5).all()
    for name in ("joints", "joint_offset"):
        weight = targets[name].weight[0].unflatten(0, (17, 2))
        assert weight[:, 0].sum((-1, -2)).tolist() == pytest.approx(wanted, rel=1e-4)
        assert torch.equal(weight[:, 0], weight[:, 1])
    outputs = {name: torch.zeros(1, head.channels, *SIZE) for name, head in task.heads.items()}
    outputs["joints"] += targets["joints"].value
    for joint in ("nose", "left_hip"):
        at = COCO_JOINTS.index(joint)
        off = {**outputs, "joints": outputs["joints"].clone()}
        off["joints"][:, 2 * at] += 0.1 * COCO_SIGMAS[at]
        # A tenth of sigma along one of 34 coordinates, in units of the mean of the inverse tolerances.
        mean = sum(1 / sigma for sigma in COCO_SIGMAS) / 17
        assert task.losses([off], targets)["joints"].item() == pytest.approx(0.1 / 34 / mean, rel=1e-3)


def test_gaussians_of_joints_are_as_wide_as_their_annotations_scatter():
    task = MultiPoseIouTask(1)
    joints = [[0.0, 0, 0] for _ in COCO_JOINTS]
    joints[COCO_JOINTS.index("nose")] = [62, 14, 2]
    joints[COCO_JOINTS.index("left_hip")] = [66, 50, 2]
    heatmap = encode(task, make_person([12, 8, 108, 72], joints))["joint_heatmap"].value[0]
    # 24 x 16 cells: tolerances of 1.02 and 4.19 cells, and so radii int(1.03) = 1 and int(5.79) = 5.
    for joint, cell, radius in (("nose", (15, 3), 1), ("left_hip", (16, 12), 5)):
        y, x = (heatmap[COCO_JOINTS.index(joint)] > 0).nonzero(as_tuple=True)
        low, high = [c - radius for c in cell], [c + radius for c in cell]
        assert ([x.min(), y.min()], [x.max(), y.max()]) == (low, high)
        assert heatmap[COCO_JOINTS.index(joint), cell[1], cell[0]] == 1


@pytest.mark.parametrize("visibility", [0, -1])
def test_a_person_without_labeled_joints_and_a_class_without_any_supervise_their_box_alone(visibility):
    task = MultiPoseIouTask(2, facts=FIVE)
    targets = encode(task, make_person([32, 32, 60, 60], [[0, 0, visibility]] * 5, label=1))
    assert (targets["heatmap"].value[0, 1] == 1).sum() == 1
    assert targets["box"].weight.sum().item() == pytest.approx(math.log(28 * 28), rel=1e-5)
    for name in ("joints", "joint_offset"):
        assert targets[name].weight.sum() == 0
    assert targets["joint_heatmap"].value.max() == 0
    outputs = {name: torch.zeros(1, head.channels, *SIZE, requires_grad=True) for name, head in task.heads.items()}
    task.losses([outputs], targets)["loss"].backward()
    assert outputs["box"].grad.any()
    assert not outputs["joints"].grad.any()
    assert not outputs["joint_offset"].grad.any()


def test_joints_that_are_not_labeled_or_lie_outside_supervise_nothing():
    task = MultiPoseIouTask(1, facts=FIVE)
    joints = [[40, 40, 2], [44, 52, 1], [48, 36, 0], [-3, 40, 2], [40, 4 * HEIGHT, 2]]
    targets = encode(task, make_person([32, 32, 60, 60], joints))
    for name in ("joints", "joint_offset"):
        shown = targets[name].weight[0].unflatten(0, (5, 2)).sum((-1, -2, -3)) > 0
        assert shown.tolist() == [True, True, False, False, False]
    assert [int((each == 1).sum()) for each in targets["joint_heatmap"].value[0]] == [1, 1, 0, 0, 0]


def test_an_image_without_objects_has_a_finite_loss():
    task = MultiPoseIouTask(1)
    empty = {**make_objects([]), "joints": torch.zeros(0, 17, 3)}
    outputs = {name: torch.zeros(1, head.channels, *SIZE, requires_grad=True) for name, head in task.heads.items()}
    parts = task.losses([outputs], encode(task, empty))
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])
    assert all(torch.isfinite(each.grad).all() for each in outputs.values())
    assert parts["joints"] == parts["joint_offset"] == parts["box"] == 0


def test_a_box_of_a_pixel_and_one_of_the_whole_input_are_exact_with_their_joints():
    task = MultiPoseIouTask(2, facts=FIVE, heatmap={"max_detections": 2})
    pixel = make_person([41.25, 22.5, 42.25, 23.5], [[41.5, 23, 2]] * 5, label=1)
    whole = make_person([0, 0, 4 * WIDTH, 4 * HEIGHT], [[10 + 20 * n, 70 + 5 * n, 2] for n in range(5)])
    targets = encode(task, joined(pixel, whole))
    assert all(torch.isfinite(target.weight).all() for target in targets.values() if target.weight is not None)
    found = task.detect(task.perfect(targets, SIZE))
    for label, person in enumerate((whole, pixel)):
        mine = found["labels"][0] == label
        assert found["boxes"][0, mine][0].tolist() == pytest.approx(person["boxes"][0].tolist(), abs=1e-2)
        torch.testing.assert_close(found["joints"][0, mine][0], person["joints"][0, :, :2], atol=1e-2, rtol=0)


def test_nothing_is_learned_inside_a_crowd():
    task = MultiPoseIouTask(1, facts=FIVE)
    targets = encode(task, make_person([32, 32, 60, 60], [[40, 40, 2]] * 5, crowd=True))
    for name in ("heatmap", "joint_heatmap"):
        assert targets[name].value.max() == 0
        assert (targets[name].weight[0, :, 9:14, 9:14] == 0).all()
    assert targets["box"].weight.sum() == targets["joints"].weight.sum() == targets["joint_offset"].weight.sum() == 0


def two_peaks(task: MultiPoseIouTask) -> dict[str, torch.Tensor]:
    """Maps with centers at cells (2, 2), of class 0, and (5, 5), of the last class, and the joints of the second."""
    maps = {name: torch.zeros(1, head.channels, 8, 8) for name, head in task.heads.items()}
    maps["box"][:] = 3
    maps["heatmap"][0, 0, 2, 2], maps["heatmap"][0, -1, 5, 5] = 0.8, 0.7
    maps["box"][0, 4, 2, 2], maps["box"][0, 4, 5, 5] = 0.1, 0.9
    maps["joint_heatmap"][0, :, 5, 5], maps["joint_offset"][0, :, 5, 5] = 0.6, 0.5
    return maps


def test_a_score_is_the_peak_the_quality_of_the_box_and_the_probability_of_the_joints():
    options = {"heatmap": {"max_detections": 2}, "box": {"quality": 0.25}}
    plain = MultiPoseIouTask(1, facts=FIVE, **options, joint_heatmap={"share": 0})
    task = MultiPoseIouTask(1, facts=FIVE, **options, joint_heatmap={"share": 0.4})
    # The second peak's box is better, and so it comes first.
    boxes = [0.7**0.75 * 0.9**0.25, 0.8**0.75 * 0.1**0.25]
    assert plain.decode(two_peaks(plain))["scores"][0].tolist() == pytest.approx(boxes)
    found = task.decode(two_peaks(task))
    assert found["scores"][0].tolist() == pytest.approx([boxes[0] ** 0.6 * 0.6**0.4, 0])
    assert found["boxes"][0, 0].tolist() == [12, 12, 32, 32]
    assert found["joints"][0, 0].tolist() == [[22, 22]] * 5
    assert found["joint_scores"][0].tolist() == [pytest.approx([0.6] * 5), [0] * 5]


def test_joints_say_nothing_about_the_score_of_a_class_without_any():
    task = MultiPoseIouTask(2, facts={**FIVE, "jointless": [0]}, heatmap={"max_detections": 2})
    found = task.decode(two_peaks(task))
    assert found["labels"][0].tolist() == [1, 0]
    assert found["scores"][0].tolist() == pytest.approx([(0.7 * 0.9) ** 0.375 * 0.6**0.25, (0.8 * 0.1) ** 0.5])


def test_a_joint_snaps_to_the_peak_that_is_likeliest_from_where_it_was_regressed():
    regressed, boxes = torch.tensor([[[[10.0, 10.0]]]]), torch.tensor([[[0.0, 5, 20, 15]]])
    peaks = torch.tensor([[[[11.0, 10], [14, 10], [10, 40]]]])
    # 0.2 of the longer side are 4 cells: factors of exp(-1/32), exp(-1/2) and almost 0.
    for scores, chosen in (([0.5, 0.7, 1.0], 0), ([0.5, 0.9, 1.0], 1)):
        which, is_snapped = likeliest_peak(regressed, boxes, peaks, torch.tensor([[scores]]))
        assert (which.item(), is_snapped.item()) == (chosen, True)
    assert not likeliest_peak(regressed, boxes, peaks, torch.tensor([[[0.015, 0.015, 1]]]))[1].item()


def test_neighbors_of_a_peak_vote_for_where_the_joint_is():
    heatmap, offset = torch.zeros(1, 2, 4, 5), torch.zeros(1, 4, 4, 5)
    heatmap[0, 1, 2, 3], heatmap[0, 1, 2, 4], heatmap[0, 1, 0, 3] = 0.6, 0.2, 0.9
    offset[0, 2:, 2, 3] = torch.tensor([0.25, 0.5])
    offset[0, 2:, 2, 4] = torch.tensor([-0.35, 0.9])
    everywhere = torch.arange(20).expand(1, 2, 20)
    positions = vote(heatmap, offset, everywhere)
    # (3.25, 2.5) three times and (3.65, 2.9) once; the cell two rows above is not a neighbor.
    assert positions[0, 1, 2 * 5 + 3].tolist() == pytest.approx([3.35, 2.6])
    assert torch.isfinite(positions).all()
    assert torch.equal(vote(heatmap, offset, everywhere[..., 13:14]), positions[:, :, 13:14])


def test_votes_are_weighted_means_over_the_neighborhood_up_to_the_border():
    torch.manual_seed(0)
    heatmap, offset = torch.rand(2, 3, 5, 4), torch.randn(2, 6, 5, 4)
    y, x = torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij")
    weighted = heatmap[:, :, None] * (offset.unflatten(1, (3, 2)) + torch.stack([x, y]))
    sums = [torch.nn.functional.avg_pool2d(each, 3, 1, 1) for each in (weighted.flatten(1, 2), heatmap)]
    wanted = (sums[0].unflatten(1, (3, 2)) / sums[1][:, :, None]).flatten(3).transpose(2, 3)
    torch.testing.assert_close(vote(heatmap, offset, torch.arange(20).expand(2, 3, 20)), wanted)


def test_the_heads_and_their_weights():
    task = MultiPoseIouTask(1)
    assert {name: head.channels for name, head in task.heads.items()} == {
        "heatmap": 1, "box": 5, "joints": 34, "joint_heatmap": 17, "joint_offset": 34,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unlabeled": "box"}, "task multi_pose_iou has no option 'unlabeled'"),
        ({"joints": {"supervise": "dense"}}, "task multi_pose_iou: joints has no option 'supervise'"),
        (
            {"joint_offset": None},
            "task multi_pose_iou: joint_offset=null is not possible; terms that can be null: none",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(options, message):
    with pytest.raises(InputError) as raised:
        build_task("multi_pose_iou", 1, **options)
    assert str(raised.value).startswith(message)
