"""The table of fields: every geometry follows its image, padding comes and goes, detections are split by image."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from centernet.fields import (
    FIELDS,
    PICTURES,
    Field,
    Geometry,
    cut_objects,
    hide_points,
    index,
    move,
    partners_of,
    sources,
    stack_objects,
    unbatch,
    unstack_objects,
)
from centernet.ops.affine import flip_matrix, place_matrix, transform_boxes
from centernet.ops.camera import wrap_angle
from centernet.structures import Objects
from tests import tiny
from tests.tiny import make_objects

HANDS = {"joints": {"names": ["head", "left_hand", "right_hand"]}}
PARTNERS = partners_of(HANDS)
MIRROR = torch.from_numpy(flip_matrix(100))
HALF = torch.diag(torch.tensor([0.5, 0.5, 1], dtype=torch.float64))
SHIFT = torch.tensor([[1, 0, 7], [0, 1, -3], [0, 0, 1]], dtype=torch.float64)
# A quarter turn: what points to the right points down.
TURN = torch.tensor([[0, -1, 50], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
MATRICES = {"mirror": MIRROR, "half": HALF, "shift": SHIFT, "turn": TURN, "turned mirror": TURN @ MIRROR}


@pytest.fixture(autouse=True, scope="module")
def slope() -> Iterator[None]:
    """A field of the one geometry that no field of the table has yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FIELDS, "slope", Field("radians in the picture", Geometry.PLANE_ANGLE))
        yield


def full(count: int = 3, seed: int = 0) -> Objects:
    """Objects with a field of every geometry."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(1, 30, (count, 2))
    draws = {
        "joints": np.concatenate([rng.uniform(0, 90, (count, 3, 2)), rng.integers(-1, 3, (count, 3, 1))], -1),
        "center_3d": rng.uniform(0, 90, (count, 2)),
        "bottom": rng.uniform(0, 90, (count, 2)),
        "bottom_spread": rng.uniform(0, 9, count),
        "focal": rng.uniform(100, 900, count),
        "alpha": rng.uniform(-3, 3, count),
        "yaw": rng.uniform(-3, 3, count),
        "slope": rng.uniform(-3, 3, count),
        "dimensions": rng.uniform(1, 4, (count, 3)),
        "location": rng.uniform(-5, 40, (count, 3)),
        "joint_scores": rng.uniform(0, 1, (count, 3)),
        "extreme_points": rng.uniform(0, 90, (count, 4, 2)),
    }
    return {
        **make_objects(np.concatenate([corner, corner + size], -1), rng.integers(0, 3, count)),
        **{name: torch.from_numpy(value).float() for name, value in draws.items()},
        "rescaled": torch.arange(count) % 2 == 0,
        "unheard_of": torch.arange(count),
    }


def names_of(geometry: Geometry) -> list[str]:
    return [name for name, field in FIELDS.items() if field.geometry is geometry]


def assert_same(ours: Objects, wanted: Objects, but: tuple[str, ...] = ()) -> None:
    assert ours.keys() == wanted.keys()
    for name, value in ours.items():
        if name not in but:
            torch.testing.assert_close(value.double(), wanted[name].double(), atol=1e-4, rtol=1e-5, msg=name)


# Moving --------------------------------------------------------------------------------------------------------------


def test_the_geometries_of_the_table_are_those_that_the_tests_move():
    assert {field.geometry for field in FIELDS.values()} == set(Geometry)
    moving = {name for name, field in FIELDS.items() if field.geometry not in (Geometry.CONSTANT, Geometry.METRIC)}
    assert moving <= full().keys()


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_a_box_becomes_the_upright_box_around_its_moved_corners(matrix):
    moved = move({"boxes": torch.tensor([[10.0, 20, 30, 60]])}, matrix)["boxes"]
    corners = torch.tensor([[10, 20, 1], [30, 20, 1], [30, 60, 1], [10, 60, 1]], dtype=torch.float64) @ matrix[:2].T
    assert moved[0].tolist() == [*corners.amin(0).tolist(), *corners.amax(0).tolist()]
    assert moved.dtype == torch.float32


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_points_move_with_the_pixels_and_keep_their_visibility(matrix):
    points = torch.tensor([[[10.0, 20, 2], [30, 60, 0], [5, 5, -1]]] * 2)
    one = points[:, 0, :2]
    moved = move({"joints": points, "center_3d": one}, matrix)
    wanted = (points[..., :2].double() @ matrix[:2, :2].T + matrix[:2, 2]).float()
    assert torch.equal(moved["joints"], torch.cat([wanted, points[..., 2:]], -1))
    assert torch.equal(moved["center_3d"], wanted[:, 0])
    # The joints of detections have no visibility.
    assert torch.equal(move({"joints": points[..., :2]}, matrix)["joints"], wanted)


def test_as_many_rows_as_joints_are_no_reason_to_mix_them_up():
    square = torch.arange(8.0).view(2, 2, 2)
    moved = move({"joints": square}, SHIFT)["joints"]
    assert torch.equal(moved, square + torch.tensor([7.0, -3]))


@pytest.mark.parametrize(
    ("matrix", "scale"), [(HALF, 0.5), (MIRROR, 1), (TURN, 1), (HALF @ TURN @ MIRROR, 0.5), (SHIFT, 1)]
)
def test_a_length_grows_with_the_image_and_is_not_turned(matrix, scale):
    assert move({"focal": torch.tensor([700.0, 300])}, matrix)["focal"].tolist() == pytest.approx(
        [700 * scale, 300 * scale]
    )


@pytest.mark.parametrize(("matrix", "is_mirror"), [(HALF, False), (TURN, False), (MIRROR, True), (TURN @ MIRROR, True)])
def test_a_viewing_angle_changes_in_a_mirror_only(matrix, is_mirror):
    angles = torch.tensor([-3.0, -0.5, 0, 1, 3.1])
    for name in names_of(Geometry.VIEWING_ANGLE):
        moved = move({name: angles}, matrix)[name]
        wanted = wrap_angle(math.pi - angles) if is_mirror else angles
        assert torch.equal(moved, wanted)
        assert moved.abs().max() <= math.pi + 1e-6


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_an_angle_in_the_picture_points_where_the_moved_arrow_points(matrix):
    angles = torch.tensor([-3.0, -0.5, 0, 1, 3.1])
    moved = move({"slope": angles}, matrix)["slope"].double()
    arrow = torch.stack([angles.cos(), angles.sin()], -1).double() @ matrix[:2, :2].T
    arrow = arrow / arrow.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(torch.stack([moved.cos(), moved.sin()], -1), arrow, atol=1e-6, rtol=0)


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_meters_and_constants_are_not_touched(matrix):
    rows = full()
    moved = move(rows, matrix, PARTNERS)
    untouched = [*names_of(Geometry.METRIC), *names_of(Geometry.CONSTANT), "unheard_of"]
    for name in rows.keys() & set(untouched) - {"joint_scores"}:
        assert moved[name] is rows[name], name


@pytest.mark.parametrize("name", MATRICES)
def test_partners_change_places_in_a_mirror_and_nowhere_else(name):
    rows = full()
    moved, unnamed = move(rows, MATRICES[name], PARTNERS), move(rows, MATRICES[name])
    order = [0, 2, 1] if "mirror" in name else [0, 1, 2]
    assert PARTNERS == {"joints": [0, 2, 1]}
    assert torch.equal(moved["joints"], unnamed["joints"][:, order])
    assert torch.equal(moved["joint_scores"], rows["joint_scores"][:, order])
    # Whoever names no partners gets the elements in their places.
    assert torch.equal(unnamed["joint_scores"], rows["joint_scores"])


def test_partners_come_from_the_facts_of_the_data():
    assert partners_of({}) == partners_of({"joints": None}) == {}
    assert partners_of({"joints": {"names": ["a", "b"], "flip_pairs": [["a", "b"]]}}) == {"joints": [1, 0]}


def test_the_images_of_a_batch_move_each_by_its_own_matrix():
    images = [full(2, seed) for seed in range(4)]
    matrices = torch.stack([SHIFT, MIRROR, HALF, TURN @ MIRROR])
    batch = {name: torch.stack([image[name] for image in images]) for name in images[0]}
    together = move(batch, matrices, PARTNERS)
    for row, image in enumerate(images):
        assert_same({name: value[row] for name, value in together.items()}, move(image, matrices[row], PARTNERS))


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_images_without_objects_move_too(matrix):
    rows = full(0)
    moved = move(rows, matrix, PARTNERS)
    assert {name: value.shape for name, value in moved.items()} == {name: value.shape for name, value in rows.items()}


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """What augmentation does: a window of the image, larger or smaller, turned, perhaps mirrored."""
    place = st.floats(-50, 150)
    matrix = place_matrix(
        (draw(place), draw(place)),
        (draw(place), draw(place)),
        (scale := draw(st.floats(0.3, 3)), scale),
        draw(st.sampled_from([0.0, 0.0, 90.0, -30.0, 180.0])),
    )
    return torch.from_numpy(matrix @ flip_matrix(100) if draw(st.booleans()) else matrix)


@given(matrices(), st.integers(0, 4), st.integers(0, 5))
def test_moving_there_and_back_gives_the_rows_back(matrix, count, seed):
    rows = full(count, seed)
    back = move(move(rows, matrix, PARTNERS), torch.linalg.inv(matrix), PARTNERS)
    # An upright box around a turned one is larger, and stays it.
    is_turned = bool((matrix[:2, :2].abs().amax(0) < matrix[:2, :2].abs().sum(0) - 1e-9).any())
    assert_same(back, rows, but=("boxes",) if is_turned else ())
    if is_turned and count:
        grown = transform_boxes(torch.linalg.inv(matrix), transform_boxes(matrix, rows["boxes"]))
        torch.testing.assert_close(back["boxes"].double(), grown, atol=1e-3, rtol=0)


def test_points_that_are_not_shown_are_no_longer_labeled():
    joints = [[10, 10, 2], [20, 10, 1], [5, 10, 2], [10, 30, 1], [99, 99, -1], [10, 10, 0]]
    rows = {"joints": torch.tensor([joints]).float(), "center_3d": torch.tensor([[99.0, 99]]), "area": torch.ones(1)}
    low, high = torch.tensor([10, 10]), torch.tensor([20, 30])
    hidden = hide_points(rows, lambda points: ((points >= low) & (points < high)).all(-1))
    # What a class does not have stays what it is.
    assert hidden["joints"][0].tolist() == [[10, 10, 2], [0] * 3, [0] * 3, [0] * 3, [99, 99, -1], [10, 10, 0]]
    assert hidden["center_3d"] is rows["center_3d"]  # nobody looks for a label there
    assert hidden["area"] is rows["area"]
    assert rows["joints"][0, 1].tolist() == [20, 10, 1]


# Padding -------------------------------------------------------------------------------------------------------------


def test_padding_and_taking_it_away_gives_the_same_objects():
    images = [
        make_objects([[0, 0, 4, 4], [1, 1, 3, 9]], labels=[1, 0], crowd=[False, True]),
        make_objects([]),
        make_objects([[2, 2, 3, 3]]),
    ]
    batch = stack_objects(images)
    assert batch["valid"].tolist() == [[True, True], [False, False], [True, False]]
    for before, after in zip(images, unstack_objects(batch), strict=True):
        assert before.keys() == after.keys()
        for name in before:
            assert torch.equal(before[name], after[name])
            assert before[name].dtype == after[name].dtype


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_unstacking_is_the_inverse_of_stacking_for_every_field(counts):
    images = [full(count, seed) for seed, count in enumerate(counts)]
    batch = stack_objects(images)
    assert all(value.shape[:2] == (len(counts), max(counts)) for value in batch.values())
    for before, after in zip(images, unstack_objects(batch), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_rows_are_padded_with_what_the_table_says():
    batch = stack_objects([full(2), full(0)])
    for name, value in batch.items():
        pad = FIELDS[name].pad if name in FIELDS else 0
        assert (value[1] == pad).all(), name
    # Whatever is divided by a focal length stays finite.
    assert batch["focal"][1].tolist() == [1, 1]


def test_a_batch_without_any_object_keeps_its_fields():
    batch = stack_objects([tiny.make_objects([]), tiny.make_objects([])])
    assert batch["boxes"].shape == (2, 0, 4)
    assert batch["valid"].shape == (2, 0)
    assert [len(objects["labels"]) for objects in unstack_objects(batch)] == [0, 0]


def test_unknown_fields_travel_along():
    image = {**make_objects([[0, 0, 1, 1]]), "wheels": torch.ones(1, 17, 3)}
    batch = stack_objects([image, {**make_objects([]), "wheels": torch.zeros(0, 17, 3)}])
    assert batch["wheels"].shape == (2, 1, 17, 3)
    assert index(image, torch.tensor([False]))["wheels"].shape == (0, 17, 3)


def test_of_a_cut_object_the_points_that_belong_into_its_box_move_into_what_is_left_of_it():
    points = [[[20.0, 9.9], [10, 30], [24, 40], [40, 22]]] * 2
    objects = {
        **make_objects([[10, 10, 40, 40]] * 2),
        "extreme_points": torch.tensor(points),
        "center_3d": torch.tensor([[12.0, 38]] * 2),
    }
    shown = torch.tensor([[10, 10, 40, 40], [22, 10, 40, 25]], dtype=torch.float64)
    cut = cut_objects(objects, shown)
    assert torch.equal(cut["boxes"], shown)
    assert cut["extreme_points"][0].tolist() == objects["extreme_points"][0].tolist()
    assert cut["extreme_points"][1].tolist() == [[22, 10], [22, 25], [24, 25], [40, 22]]
    assert torch.equal(cut["center_3d"], objects["center_3d"])


def test_detections_are_split_by_image_and_cut_at_the_threshold():
    detections = {
        "boxes": torch.arange(24.0).reshape(2, 3, 4),
        "scores": torch.tensor([[0.9, 0.5, 0.1], [0.4, 0.3, 0.2]]),
        "labels": torch.tensor([[0, 1, 2], [2, 1, 0]]),
    }
    first, second = unbatch(detections, 0.5)
    assert first["scores"].tolist() == detections["scores"][0, :2].tolist()
    assert first["boxes"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert second["labels"].tolist() == []
    assert second["boxes"].shape == (0, 4)
    assert [len(image["scores"]) for image in unbatch(detections)] == [3, 3]
    # Rows of score 0 are empty if they have no box either.
    none = {**detections, "scores": torch.tensor([[0.9, 0.5, 0.0], [0.0, 0.0, 0.0]])}
    assert [len(image["scores"]) for image in unbatch(none)] == [3, 3]
    flat = detections["boxes"].clone()
    flat[:, 2, 2:] = flat[:, 2, :2]
    assert [len(image["scores"]) for image in unbatch({**none, "boxes": flat})] == [2, 2]


# The table -----------------------------------------------------------------------------------------------------------


def test_the_first_missing_field_that_only_some_data_has_says_which():
    assert sources(["boxes", "labels"]) == sources(["unheard_of"]) == sources([]) == ""
    assert sources(["boxes", "joints"]).startswith("data=figures (built in), or data=coco_pose")
    assert sources(["location", "joints"]) == "data=cuboids (built in), or data=kitti"


def test_pictures_are_drawn_from_fields_of_the_table():
    kinds = [picture.kind for picture in PICTURES]
    for picture in PICTURES:
        assert {*picture.rows, *picture.optional} <= FIELDS.keys()
        assert set(picture.optional) <= set(picture.rows)
        assert picture.image is None or FIELDS[picture.image].of == "image"
        assert picture.hides is None or picture.hides in kinds
