"""multi_pose: joints that are encoded are decoded again; what is not labeled is not supervised; mirrors swap sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.fields import move, stack_objects
from centernet.joints import COCO_JOINTS, JointSet
from centernet.ops.affine import crop_matrix, flip_matrix
from centernet.structures import AtCells, InputError, Objects
from centernet.tasks import build_task
from centernet.tasks.multi_pose import MultiPoseTask
from centernet.tasks.terms.joints import MIN_JOINT_SCORE
from tests.tiny import make_batch, make_objects

HEIGHT, WIDTH = 24, 32  # cells
FIVE = {"joints": {"names": ["top", "left_hand", "right_hand", "left_foot", "right_foot"], "sigmas": [0.05] * 5}}


def make_person(box: list[float], joints: list[list[float]], crowd: bool = False, label: int = 0) -> Objects:
    """One object with joints (x, y, visibility) in input pixels."""
    return {
        **make_objects([box], [label], [crowd]),
        "joints": torch.tensor(joints, dtype=torch.float32)[None],
    }


def joined(*people: Objects) -> Objects:
    """Several objects of one image."""
    return {name: torch.cat([person[name] for person in people]) for name in people[0]}


@st.composite
def people(draw: st.DrawFn) -> Objects:
    """Objects with centers in different cells, each with five joints in cells of their own, some not labeled."""
    centers = draw(st.lists(st.tuples(st.integers(2, 5), st.integers(2, 3)), unique=True, min_size=1, max_size=4))
    found = []
    for column, row in centers:
        # Boxes of 4 x 4 cells that do not overlap, so that no joint is nearer to a neighbor's peak.
        x, y = 5 * column + draw(st.floats(0.1, 0.9)), 5 * row + draw(st.floats(0.1, 0.9))
        # One offset map serves all kinds of joints, so that two joints in one cell could not both be exact.
        cells = st.tuples(st.integers(-1, 1), st.integers(-1, 1))
        joints = [
            [
                4 * (5 * column + dx + draw(st.floats(0.1, 0.9))),
                4 * (5 * row + dy + draw(st.floats(0.1, 0.9))),
                draw(st.sampled_from([0, 1, 2, 2])),
            ]
            for dx, dy in draw(st.lists(cells, unique=True, min_size=5, max_size=5))
        ]
        found.append(make_person([4 * (x - 2), 4 * (y - 2), 4 * (x + 2), 4 * (y + 2)], joints))
    return joined(*found)


def detect(task: MultiPoseTask, objects: Objects) -> Any:
    targets = task.encode(make_batch(objects), (HEIGHT, WIDTH))
    return task.detect(task.perfect(targets, (HEIGHT, WIDTH)))


def match(found: Any, objects: Objects) -> list[int]:
    """For each object the detection whose box has the nearest center."""
    centers = (found["boxes"][0, :, :2] + found["boxes"][0, :, 2:]) / 2
    wanted = (objects["boxes"][:, :2] + objects["boxes"][:, 2:]).float() / 2
    return (centers[None] - wanted[:, None]).square().sum(-1).argmin(1).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"joint_offset": None},
        {"joint_heatmap": None},
        {"joints": {"supervise": "dense"}},
        {"joints": {"supervise": "dense"}, "joint_heatmap": None},
        {"joint_heatmap": {"loss": "mse"}},
    ],
    ids=str,
)
@settings(max_examples=15)
@given(objects=people())
def test_joints_that_are_encoded_are_decoded_again(options, objects):
    task = MultiPoseTask(1, facts=FIVE, heatmap={"max_detections": 20}, unlabeled="box", **options)
    found = detect(task, objects)
    # Without an offset a joint is known to its cell.
    tolerance = 2.9 if options.get("joint_offset", {}) is None else 1e-2
    for row, detection in enumerate(match(found, objects)):
        np.testing.assert_allclose(found["boxes"][0, detection], objects["boxes"][row], atol=1e-2)
        labeled = objects["joints"][row, :, 2] > 0
        if "joint_heatmap" in task.terms and not is_clear(objects, row):
            continue
        ours, theirs = found["joints"][0, detection][labeled], objects["joints"][row, labeled, :2]
        assert (ours - theirs).norm(dim=-1).le(tolerance).all()


def is_clear(objects: Objects, row: int) -> bool:
    """Whether no other object's joint of the same kind lies close, where its Gaussian would hide this one's peak."""
    labeled = (objects["joints"][..., 2] > 0)[:, :, None]
    distance = torch.cdist(objects["joints"][row, :, None, :2], objects["joints"].transpose(0, 1)[..., :2])[:, 0]
    distance[:, row] = torch.inf
    return bool((torch.where(labeled[..., 0].T, distance, torch.inf) > 24).all())


def test_what_is_not_labeled_or_lies_outside_is_not_supervised():
    joints = [[40, 40, 2], [44, 52, 1], [48, 36, 0], [-3, 40, 2], [40, 4 * HEIGHT, 2]]
    task = MultiPoseTask(1, facts=FIVE)
    targets = task.encode(make_batch(make_person([32, 32, 60, 60], joints)), (HEIGHT, WIDTH))
    assert targets["joints"].mask[0, 0].tolist() == [True] * 4 + [False] * 6
    assert targets["joint_offset"].mask[0].tolist() == [True, True, False, False, False]
    assert [int((each == 1).sum()) for each in targets["joint_heatmap"].value[0]] == [1, 1, 0, 0, 0]
    np.testing.assert_allclose(targets["joints"].value[0, 0, :4], [10 - 11, 10 - 11, 11 - 11, 13 - 11])


@pytest.mark.parametrize(("unlabeled", "known"), [("center", False), ("box", True)])
def test_an_object_without_joints_is_a_center_whose_joints_are_not_supervised(unlabeled, known):
    task = MultiPoseTask(1, facts=FIVE, unlabeled=unlabeled)
    batch = make_batch(make_person([32, 32, 60, 60], [[0, 0, 0]] * 5))
    targets = task.encode(batch, (HEIGHT, WIDTH))
    assert (targets["heatmap"].value == 1).sum() == 1
    assert targets["size"].mask.tolist() == targets["offset"].mask.tolist() == [[known]]
    assert not targets["joints"].mask.any()
    assert targets["joint_heatmap"].value.max() == 0
    outputs = {
        name: torch.zeros(1, head.channels, HEIGHT, WIDTH, requires_grad=True) for name, head in task.heads.items()
    }
    parts = task.losses([outputs], targets)
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])
    assert not outputs["joints"].grad.any()


def test_an_object_of_a_class_that_has_no_joints_is_learned_as_a_box():
    task = MultiPoseTask(2, facts=FIVE)
    car = make_person([32, 32, 60, 60], [[0, 0, -1]] * 5, label=1)
    targets = task.encode(make_batch(car), (HEIGHT, WIDTH))
    assert targets["size"].mask.tolist() == targets["offset"].mask.tolist() == [[True]]
    assert not targets["joints"].mask.any()
    assert targets["joint_heatmap"].value.max() == 0


def test_nothing_is_learned_inside_a_crowd_neither_centers_nor_joints():
    task = MultiPoseTask(1, facts=FIVE)
    crowd = make_person([32, 32, 60, 60], [[40, 40, 2]] * 5, crowd=True)
    targets = task.encode(make_batch(crowd), (HEIGHT, WIDTH))
    for name in ("heatmap", "joint_heatmap"):
        assert targets[name].value.max() == 0
        assert (targets[name].weight[0, :, 9:14, 9:14] == 0).all()
        assert targets[name].weight.mean() > 0.9
    assert not targets["joints"].mask.any()


def test_an_image_without_objects_has_a_finite_loss():
    task = MultiPoseTask(1)
    empty = {**make_objects([]), "joints": torch.zeros(0, 17, 3)}
    outputs = {
        name: torch.zeros(1, head.channels, HEIGHT, WIDTH, requires_grad=True) for name, head in task.heads.items()
    }
    parts = task.losses([outputs], task.encode(make_batch(empty), (HEIGHT, WIDTH)))
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])
    assert torch.isfinite(outputs["joint_heatmap"].grad).all()


def test_a_batch_is_encoded_like_its_images_one_by_one():
    task = MultiPoseTask(1, facts=FIVE, joints={"supervise": "dense"})
    one = make_person([32, 32, 60, 60], [[40 + n, 40, 2] for n in range(5)])
    two = joined(one, make_person([62, 22, 100, 70], [[80 + n, 40 - n, 1] for n in range(5)]))
    both = task.encode(make_batch(one, two), (HEIGHT, WIDTH))
    for row, objects in enumerate((one, two)):
        alone = task.encode(make_batch(objects), (HEIGHT, WIDTH))
        for name in ("heatmap", "joint_heatmap", "joints"):
            assert torch.equal(both[name].value[row], alone[name].value[0])
            if both[name].weight is not None:
                assert torch.equal(both[name].weight[row], alone[name].weight[0])


def snap_maps(task: MultiPoseTask, peak: tuple[int, int], score: float) -> dict[str, torch.Tensor]:
    """Maps with one object at cell (10, 10), 8 cells wide and high, its joints all regressed to (10, 10)."""
    maps = {name: torch.zeros(1, head.channels, HEIGHT, WIDTH) for name, head in task.heads.items()}
    maps["heatmap"][0, 0, 10, 10] = 0.9
    maps["size"][0, :, 10, 10] = 8
    maps["offset"][0, :, 10, 10] = 0.5
    maps["joint_heatmap"][0, 0, peak[1], peak[0]] = score
    maps["joint_offset"][0, :, peak[1], peak[0]] = 0.25
    return maps


@pytest.mark.parametrize(
    ("peak", "score", "snapped"),
    [
        ((11, 11), 0.8, True),
        ((12, 10), 0.8, True),  # 2.26 cells away; the box's longer side is 8, so that 2.4 are allowed
        ((12, 12), 0.8, False),
        ((11, 11), MIN_JOINT_SCORE - 0.01, False),
    ],
)
def test_a_joint_snaps_to_a_peak_that_is_strong_and_near(peak, score, snapped):
    task = MultiPoseTask(1, facts=FIVE, heatmap={"max_detections": 3})
    found = task.decode(snap_maps(task, peak, score))
    wanted = [4 * (peak[0] + 0.25), 4 * (peak[1] + 0.25)] if snapped else [40, 40]
    assert found["joints"][0, 0, 0].tolist() == pytest.approx(wanted)
    assert found["joint_scores"][0, 0, 0].item() == pytest.approx(score if snapped else 0)
    # Joints without any peak stay where the center puts them.
    assert (found["joints"][0, 0, 1:] == 40).all()


def test_a_joint_does_not_snap_to_a_peak_outside_the_box():
    task = MultiPoseTask(1, facts=FIVE, heatmap={"max_detections": 3})
    maps = snap_maps(task, (15, 10), 0.9)
    maps["joints"][0, 0, 10, 10] = 4.5  # half a cell left of the peak, but the box ends at 14.5
    assert task.decode(maps)["joints"][0, 0, 0].tolist() == pytest.approx([4 * 14.5, 40])


def test_without_joint_heatmaps_a_joint_is_as_sure_as_its_object():
    task = MultiPoseTask(1, facts=FIVE, heatmap={"max_detections": 3}, joint_heatmap=None)
    maps = {name: torch.rand(1, head.channels, HEIGHT, WIDTH) for name, head in task.heads.items()}
    found = task.decode(maps)
    assert torch.equal(found["joint_scores"], found["scores"][..., None].expand(1, 3, 5))
    assert "joint_heatmap" not in task.heads
    assert "joint_offset" not in task.heads


def test_in_a_mirror_left_and_right_joints_change_places():
    joints = [[10, 20, 2], [30, 21, 2], [50, 22, 1], [31, 40, 2], [51, 41, 0]]
    person = make_person([8, 16, 60, 50], joints)
    matrix = torch.from_numpy(flip_matrix(100))
    order = JointSet.of(FIVE["joints"]).mirrored
    moved = move(person, matrix, {"joints": order})["joints"][0]
    # The hand at the left of the picture is the left one before and the right one after.
    assert moved.tolist() == [[89, 20, 2], [49, 22, 1], [69, 21, 2], [48, 41, 0], [68, 40, 2]]
    back = move(move(person, matrix, {"joints": order}), matrix, {"joints": order})["joints"]
    assert torch.equal(back, person["joints"])


@pytest.mark.parametrize("rotation", [0.0, 20.0, -90.0, 180.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_joints_follow_the_image_under_rotation_and_only_a_mirror_swaps_sides(rotation, mirrored):
    person = make_person([8, 16, 60, 50], [[10 * n, 7 * n, 2] for n in range(5)])
    matrix = crop_matrix((40, 30), 100, (96, 128), rotation)
    if mirrored:
        matrix = matrix @ flip_matrix(100)
    order = JointSet.of(FIVE["joints"]).mirrored
    moved = move(person, torch.from_numpy(matrix), {"joints": order})["joints"][0, :, :2].numpy()
    points = np.column_stack([person["joints"][0, :, :2].numpy(), np.ones(5)]) @ matrix[:2].T
    np.testing.assert_allclose(moved, points[order] if mirrored else points, atol=1e-4)


def test_maps_of_a_mirrored_image_merge_to_the_plain_ones():
    task = MultiPoseTask(1, facts=FIVE)
    person = make_person([40, 30, 80, 70], [[45, 40, 2], [50, 50, 2], [70, 52, 2], [52, 66, 2], [66, 65, 2]])
    # The grid's own mirror: cell x becomes WIDTH - 1 - x, so that the center must sit in the middle of its cell.
    size = (HEIGHT, WIDTH)
    plain = task.activate(task.perfect(task.encode(make_batch(person), size), size))
    order = JointSet.of(FIVE["joints"]).mirrored
    sign = torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1, 1)
    mirrored = {name: value.flip(-1) for name, value in plain.items()}
    mirrored["joints"] = (mirrored["joints"].unflatten(1, (-1, 2))[:, order] * sign).flatten(1, 2)
    mirrored["joint_heatmap"] = mirrored["joint_heatmap"][:, order]
    merged = task.merge_flipped({name: torch.cat([plain[name], mirrored[name]]) for name in plain})
    for name in plain:
        torch.testing.assert_close(merged[name], plain[name])


def test_lifting_takes_boxes_and_joints_back_to_the_image():
    task = MultiPoseTask(1, facts=FIVE)
    person = make_person([40, 30, 80, 70], [[45, 40, 2], [50, 50, 2], [70, 52, 2], [52, 66, 2], [66, 65, 2]])
    matrix = torch.from_numpy(crop_matrix((50, 40), 90, (96, 128)))
    warped = move(person, matrix)
    detections = {
        "boxes": warped["boxes"][None],
        "scores": torch.ones(1, 1),
        "labels": torch.zeros(1, 1, dtype=torch.long),
        "joints": warped["joints"][None, ..., :2],
    }
    lifted = task.lift(detections, {"input_from_image": matrix[None]})
    torch.testing.assert_close(lifted["joints"][0], person["joints"][..., :2], atol=1e-4, rtol=0)
    torch.testing.assert_close(lifted["boxes"][0], person["boxes"].float(), atol=1e-4, rtol=0)


def test_several_classes_share_the_joints():
    task = MultiPoseTask(2, facts=FIVE, heatmap={"max_detections": 4})
    one = make_person([20, 20, 50, 50], [[25 + 5 * n, 30, 2] for n in range(5)], label=1)
    two = make_person([70, 40, 110, 80], [[100 - 5 * n, 60, 2] for n in range(5)], label=0)
    found = detect(task, joined(one, two))
    order = match(found, joined(one, two))
    assert found["labels"][0, order].tolist() == [1, 0]
    torch.testing.assert_close(found["joints"][0, order[1]], two["joints"][0, :, :2], atol=1e-2, rtol=0)


def test_the_heads_are_those_of_the_original():
    heads = MultiPoseTask(1).heads
    assert {name: head.channels for name, head in heads.items()} == {
        "heatmap": 1, "size": 2, "offset": 2, "joints": 34, "joint_heatmap": 17, "joint_offset": 2,
    }  # fmt: skip
    assert {name: head.weight for name, head in heads.items() if head.weight != 1} == {"size": 0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"joints": {"supervise": "both"}}, r"joints.supervise='both' is unknown; choose one of center, dense"),
        ({"unlabeled": "x"}, r"unlabeled='x' is unknown; choose one of center, box"),
        (
            {"size": None},
            r"task multi_pose: size=null is not possible; terms that can be null: offset, joint_heatmap, joint_offset",
        ),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(options, message):
    with pytest.raises(InputError, match=message) as raised:
        build_task("multi_pose", 1, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        ({"flip_pairs": [["a", "c"]]}, r"flip pair \['a', 'c'\] has unknown joint 'c'; choose from a, b"),
        ({"flip_pairs": [[0, 2]]}, r"flip pair \[0, 2\] has unknown joint 2"),
        ({"flip_pairs": [[1, 1]]}, r"joins a joint with itself"),
        ({"names": ["a", "b", "c"], "flip_pairs": [[0, 1], [1, 2]]}, r"joint 'b' is in two flip pairs"),
        ({"names": ["a", "a"]}, r"two joints are named 'a'"),
        ({"sigmas": [0.1]}, r"sigmas=\[0.1\] does not fit 2 joints"),
        ({"pairs": []}, r"pairs is unknown; choose from names, flip_pairs, sigmas and skeleton"),
        ({"skeleton": [["a"]]}, r"skeleton line \['a'\] does not hold two joints"),
    ],
)
def test_joints_of_the_data_that_make_no_sense_are_refused_in_one_sentence(joints, message):
    with pytest.raises(InputError, match=message) as raised:
        build_task("multi_pose", 1, facts={"joints": {"names": ["a", "b"], **joints}})
    assert "\n" not in str(raised.value)


def test_data_with_other_joints_is_refused_by_number_and_by_name():
    task = MultiPoseTask(1)
    fields = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "joints": torch.zeros(0, 17, 3)}
    task.check_data(fields, {"joints": JointSet.of().plain()}, "the val data")
    with pytest.raises(InputError, match=r"the val data has 5 joints \(top, .*the model has 17 \(nose"):
        task.check_data(fields, FIVE, "the val data")
    swapped = ["nose", "right_eye", "left_eye", *COCO_JOINTS[3:]]
    with pytest.raises(InputError, match=r"joint 1 is 'right_eye' in the val data and 'left_eye' in the model"):
        task.check_data(fields, {"joints": {"names": swapped}}, "the val data")


def test_data_that_pairs_joints_otherwise_is_refused():
    fields = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "joints": torch.zeros(0, 5, 3)}
    task = MultiPoseTask(1, facts=FIVE)
    task.check_data(fields, FIVE, "the data")
    with pytest.raises(InputError, match=r"the data and the model have different left-right pairs"):
        task.check_data(fields, {"joints": {**FIVE["joints"], "flip_pairs": []}}, "the data")


def test_data_without_joints_is_refused_with_the_data_that_has_them():
    fields = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}
    message = r"needs objects with joints, which the train data does not have; use data=figures .*data=coco_pose"
    with pytest.raises(InputError, match=message):
        MultiPoseTask(1).check_data(fields, {}, "the train data")


def test_left_and_right_are_paired_by_name_and_coco_gets_its_own_tolerances():
    joints = JointSet.of()
    assert joints.names == COCO_JOINTS
    assert len(joints.flip_pairs) == 8
    assert joints.mirrored[:5] == [0, 2, 1, 4, 3]
    assert joints.sigmas[0] == 0.026
    assert JointSet.of(joints.plain()) == joints
    for names in (["l_paw", "r_paw", "tail"], ["paw_l", "paw_r", "tail"], ["LPaw", "RPaw", "Leg"]):
        assert JointSet.of({"names": names}).flip_pairs == ((0, 1),)
    assert JointSet.of({"names": ["Leg", "Reg", "leftmost"]}).flip_pairs == ()


def test_padding_changes_nothing():
    task = MultiPoseTask(1, facts=FIVE)
    person = make_person([32, 32, 60, 60], [[40 + n, 40, 2] for n in range(5)])
    padded = stack_objects([person, joined(person, person, person)])
    alone = task.encode(make_batch(person), (HEIGHT, WIDTH))
    for name, target in task.encode(padded, (HEIGHT, WIDTH)).items():
        if isinstance(target, AtCells):
            assert target.mask[0].sum() == alone[name].mask[0].sum()
        else:
            assert torch.equal(target.value[0], alone[name].value[0])
