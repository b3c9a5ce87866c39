"""Pictures: what is drawn is where it should be, and nothing else changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from centernet.joints import JointSet
from centernet.tasks import build_task
from centernet.visualize import (
    Look,
    View,
    class_color,
    draw_birds_eye,
    draw_boxes,
    draw_boxes_3d,
    draw_joints,
    draw_objects,
    pictures_of,
    truth_and_prediction,
    view_of,
    views_from_above,
)
from centernet.visualize.above import OTHERS
from centernet.visualize.labels import font_size, text_mask
from centernet.visualize.objects import SIDES, octagons

GRAY = np.full((120, 160, 3), 128, np.uint8)


def says(picture: np.ndarray, text: str, size: int, color: tuple[int, int, int] = (255, 255, 255)) -> bool:
    """Whether a picture has this text in it."""
    mask = text_mask(text, size).astype(np.float32)
    if mask.shape[1] > picture.shape[1]:
        return False
    shown = (picture.astype(np.float32) @ (np.array(color) / np.square(color).sum())).astype(np.float32) * 255
    found = cv2.matchTemplate(shown, mask, cv2.TM_CCOEFF_NORMED)
    return bool(found.max() > 0.95)


def test_a_box_is_drawn_on_its_border_in_the_color_of_its_class():
    drawn = draw_boxes(GRAY, [[30.2, 40, 100, 90]], [1], ["a", "b"])
    color = np.array(class_color(1))
    for x, y in ((60, 90), (100, 60), (30, 70), (80, 40)):
        assert np.abs(drawn[y, x].astype(int) - color).max() < 30
    assert (drawn[50:85, 40:95] == 128).all()  # its inside
    assert (drawn[95:, :] == 128).all()
    assert (GRAY == 128).all()  # the image itself is left alone


def test_every_box_has_a_name_plate_inside_the_picture():
    for box in ([30, 40, 100, 90], [-20, -20, 30, 30], [140, 100, 200, 160], [0, 0, 160, 120]):
        drawn = draw_boxes(GRAY, [box], [0], ["zebra"], [0.75])
        assert says(255 - drawn, "zebra 0.75", font_size(GRAY))
        plate = (drawn == class_color(0)).all(-1)
        assert plate.sum() > 100


def test_of_boxes_in_one_place_the_best_is_on_top():
    drawn = draw_boxes(GRAY, [[30, 40, 100, 90]] * 2, [0, 1], ["a", "b"], [0.9, 0.4])
    assert (drawn[60, 30] == class_color(0)).all()


def test_without_boxes_the_picture_is_the_image():
    assert np.array_equal(draw_boxes(GRAY, np.zeros((0, 4)), [], ["a"]), GRAY)


def test_a_box_in_the_color_of_its_ground_is_seen_by_its_seam():
    ground = np.full((120, 160, 3), class_color(0), np.uint8)
    drawn = draw_boxes(ground, [[30, 40, 100, 90]], [0], ["a"])
    assert (drawn[60:80, 28:33].astype(int).sum(-1).min(1) < 0.7 * sum(class_color(0))).all()


OCTAGON_POINTS = [[40, 10], [20, 50], [60, 90], [100, 12]]
HANDS = JointSet.of({"names": ["head", "left_hand", "right_hand"], "skeleton": [["head", "left_hand"]]})


def is_color(image: np.ndarray, color: tuple[int, int, int], near: int = 40) -> np.ndarray:
    return (np.abs(image.astype(int) - color) < near).all(-1)


def test_joints_are_drawn_where_they_are_in_the_color_of_their_side():
    drawn = draw_joints(GRAY, [[[80, 20], [40, 60], [120, 60]]], HANDS)
    for (x, y), color in zip(((80, 20), (40, 60), (120, 60)), (SIDES[2], SIDES[0], SIDES[1]), strict=True):
        assert is_color(drawn[y, x], color)
    assert not np.array_equal(drawn[40, 60], GRAY[40, 60])  # on the line between head and left hand
    assert np.array_equal(drawn[40, 100], GRAY[40, 100])  # no line to the other one
    assert (GRAY == 128).all()


def test_unlabeled_joints_are_not_drawn_and_unsure_ones_are_hollow():
    truth = draw_joints(GRAY, [[[80, 20, 2], [0, 0, 0], [120, 60, 1]]], HANDS)
    assert np.array_equal(truth[:12, :12], GRAY[:12, :12])
    assert np.array_equal(truth[40, 60], GRAY[40, 60])
    assert is_color(truth[60, 120], SIDES[1])
    unsure = draw_joints(GRAY, [[[80, 20], [40, 60], [120, 60]]], HANDS, [[0.9, 0.05, 0.9]])
    assert not is_color(unsure[60, 40], SIDES[0])
    assert is_color(unsure[60, 120], SIDES[1])


CAMERA = np.array([[150.0, 0, 80, 0], [0, 150, 40, 0], [0, 0, 1, 0]])


def cars(*places: tuple[float, float, float]) -> dict[str, np.ndarray]:
    count = len(places)
    return {
        "boxes": np.tile([10.0, 10, 50, 50], (count, 1)),
        "labels": np.zeros(count, int),
        "location": np.array(places, float).reshape(-1, 3),
        "dimensions": np.tile([1.5, 1.6, 4.0], (count, 1)),
        "yaw": np.full(count, -np.pi / 2),
    }


def test_a_3d_box_is_drawn_where_the_camera_sees_it():
    drawn = draw_boxes_3d(GRAY, cars((0, 1.5, 12)), ["car"], CAMERA)
    changed = np.argwhere((drawn != GRAY).any(-1))
    assert says(255 - drawn, "car 12 m", font_size(GRAY))
    # The near face is at 10 m: 24 pixels wide around x = 80, its bottom 22.5 below and its top at y = 40.
    edges = is_color(drawn, class_color(0))
    ys, xs = np.nonzero(edges[45:])  # below the name
    ys = ys + 45
    assert (xs.min(), xs.max()) == pytest.approx((68, 92), abs=2)
    assert ys.max() == pytest.approx(62.5, abs=2)
    assert changed.min(0)[0] < 40  # the name stands above


def test_a_3d_box_that_reaches_behind_the_camera_is_drawn_flat():
    drawn = draw_boxes_3d(GRAY, cars((0, 1.5, 1)), ["car"], CAMERA)
    assert np.array_equal(drawn, draw_boxes(GRAY, [[10, 10, 50, 50]], [0], ["car"]))


VIEW = View(-20, 20, -2, 38)


def test_from_above_things_lie_where_they_are_and_point_where_they_go():
    view = draw_birds_eye(cars((0, 1.5, 20)), VIEW, room=(400, 400))
    colors = np.argwhere(is_color(view, class_color(0)))
    middle = colors.mean(0)
    assert view.shape == (400, 400, 3)
    assert middle[1] == pytest.approx(200, abs=3)
    assert middle[0] == pytest.approx(180, abs=8)
    # Yaw -90 degrees: it drives away from us, so that its heading line lies in the upper half.
    column = is_color(view[:, 200], class_color(0))
    rows = np.flatnonzero(column)
    assert (rows < 178).sum() > (rows > 182).sum()
    assert rows.min() < 180 - 20 - 4  # and sticks out, as the front is 2 m ahead
    truth = draw_birds_eye(cars(), VIEW, cars((5, 1.5, 20)))
    assert is_color(truth, OTHERS, 20).sum() > 20


def test_from_above_the_camera_has_rings_and_a_scale_in_meters():
    view = draw_birds_eye(cars(), VIEW, room=(400, 400))
    size = font_size(view)
    for text in ("10 m", "20 m", "30 m", "0 m", "-10", "+10"):
        assert says(view, text, size, (160,) * 3), text
    # Rings around (200, 380) with a radius of 100 pixels for 10 m.
    for x, y in ((200, 280), (100, 380), (300, 380), (271, 309)):
        assert (view[y - 2 : y + 3, x - 2 : x + 3].max(-1) > 50).any()
    assert (view[230:270, 190:210] == 24).all()
    assert (view[366:382, 192:208] > 200).any()  # the camera's mark


def test_a_view_from_above_is_filled_by_its_contents():
    far = view_of(cars((-2, 1.5, 50), (6, 1.5, 30)))
    assert 52 < far.far < 58
    assert (far.right - far.left) / (far.far - far.near) == pytest.approx(0.6)
    wide = view_of(cars((-30, 1.5, 12), (30, 1.5, 15)))
    assert -40 < wide.left < -30 < 30 < wide.right < 40
    assert view_of(cars()) == view_of(cars((0, 1.5, 5)))  # never fewer meters
    assert view_of(cars((0, 1.5, 700))).far < 100


def test_what_lies_outside_a_view_is_counted():
    rows = cars((0, 1.5, 20), (0, 1.5, 200), (90, 1.5, 20))
    view = draw_birds_eye(rows, VIEW, room=(400, 400))
    assert says(view, "2 outside this view", font_size(view))
    assert not says(draw_birds_eye(cars((0, 1.5, 20)), VIEW, room=(400, 400)), "2 outside this view", font_size(view))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30])
def test_numbers_that_make_no_sense_do_not_stop_a_training(odd):
    rows = cars((0, 1.5, 12), (2, 1.5, 20))
    with np.errstate(all="ignore"):
        flat = draw_boxes(GRAY, [[odd, 10, 50, 50], [10, 10, 50, odd], [30, 40, 100, 90]], [0, 0, 1], ["a", "b"])
        rows["location"][0, 0] = odd
        look = Look(["car"], {}, {"calibration": CAMERA})
        solid = draw_objects(GRAY, rows, look)
        (view,) = views_from_above(rows, look).values()
        joints = draw_joints(GRAY, [[[odd, 20], [40, odd], [120, 60]]], HANDS)
    assert flat.shape == solid.shape == joints.shape == GRAY.shape
    assert view.ndim == 3
    assert is_color(flat[60, 100], class_color(1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (20, 4000)])
def test_images_of_odd_shapes_are_drawn(shape):
    image = np.full((*shape, 3), 128, np.uint8)
    rows = {"boxes": np.array([[0.0, 0, shape[1], shape[0]]]), "labels": np.zeros(1, int)}
    drawn = truth_and_prediction(image, rows, {**rows, "scores": np.array([0.2])}, Look(["a"]), name="odd.png")
    assert min(drawn.shape[:2]) > 30


def test_an_octagon_has_a_quarter_of_each_side_around_its_extreme_point_cut_off_at_corners():
    # A side of 80 makes segments of 20; that of the right point ends at the corner above it.
    wanted = [[20, 40], [30, 10], [50, 10], [100, 10], [100, 22], [70, 90], [50, 90], [20, 60]]
    assert octagons(np.array([OCTAGON_POINTS])).tolist() == [wanted]
    assert octagons(np.zeros((0, 4, 2))).shape == (0, 8, 2)


def test_octagons_are_drawn_over_boxes_in_the_color_of_the_class():
    rows = {"boxes": np.array([[20, 10, 100, 90]]), "labels": [1], "extreme_points": np.array([OCTAGON_POINTS])}
    look = Look(["a", "b"])
    assert [picture.kind for picture in pictures_of(rows, look)] == ["box", "octagon"]
    drawn, plain = (draw_objects(GRAY, each, look) for each in (rows, {**rows, "extreme_points": np.zeros((1, 4, 2))}))
    # On the edge from the left to the top, which no box has.
    assert np.abs(drawn[25, 25].astype(int) - class_color(1)).max() < 30
    assert tuple(plain[25, 25]) == tuple(GRAY[25, 25])


def test_what_rows_have_decides_what_is_drawn():
    rows = cars((0, 1.5, 12))
    assert np.array_equal(draw_objects(GRAY, rows, Look(["car"])), draw_boxes(GRAY, rows["boxes"], [0], ["car"]))
    solid = draw_objects(GRAY, rows, Look(["car"], {}, {"calibration": CAMERA}))
    assert np.array_equal(solid, draw_boxes_3d(GRAY, rows, ["car"], CAMERA))
    person = {"boxes": rows["boxes"], "labels": rows["labels"], "joints": np.array([[[15, 15], [20, 30], [40, 30]]])}
    boxes = draw_boxes(GRAY, 2 * person["boxes"], [0], ["man"])
    drawn = draw_objects(GRAY, person, Look(["man"], {"joints": HANDS.plain()}), factor=2.0)
    inside = np.s_[25:95, 25:95]
    assert np.array_equal(drawn[inside], draw_joints(boxes, 2 * person["joints"], HANDS)[inside])
    # Joints that nobody named are not drawn.
    assert np.array_equal(draw_objects(GRAY, person, Look(["man"]), factor=2.0), boxes)


def test_only_what_is_solid_is_seen_from_above():
    rows = cars((0, 1.5, 12))
    look = Look(["car"], {}, {"calibration": CAMERA})
    assert views_from_above(rows, Look(["car"])) == {}
    assert views_from_above({"boxes": rows["boxes"], "labels": rows["labels"]}, look) == {}
    (alone,) = views_from_above(rows, look).values()
    assert alone.shape == (480, 296, 3)
    truth, both = views_from_above(rows, look, cars((5, 1.5, 20))).values()
    assert is_color(truth, class_color(0)).any()
    assert is_color(both, OTHERS, 20).any()  # the truth under the prediction


def test_a_pose_model_that_was_made_without_data_draws_skeletons_as_well():
    # As converted originals are: the file names no joints, so they are COCO's.
    found = {"boxes": np.zeros((1, 4)), "labels": [0], "scores": [1.0], "joints": np.zeros((1, 17, 2))}
    look = Look(["person"], build_task("multi_pose", 1).facts)
    assert [picture.kind for picture in pictures_of(found, look)] == ["box", "skeleton"]
    assert JointSet.of(look.facts["joints"]) == JointSet.of()
    assert draw_objects(np.full((32, 32, 3), 128, np.uint8), found, look).shape == (32, 32, 3)
