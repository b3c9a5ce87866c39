"""Pictures: what is drawn is where it should be, and nothing else changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from centernet.data.images import read_image
from centernet.joints import JointSet
from centernet.tasks import build_task
from centernet.visualize import (
    BIRDS_EYE_SIDE,
    MARGIN,
    SIDES,
    Look,
    class_color,
    draw_birds_eye,
    draw_boxes,
    draw_boxes_3d,
    draw_joints,
    draw_objects,
    enlarge,
    overlay_heatmap,
    panel,
    pictures_of,
    plot_history,
    save_image,
    truth_and_prediction,
    views_from_above,
)

GRAY = np.full((120, 160, 3), 128, np.uint8)


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
        plate = (drawn == class_color(0)).all(-1)
        assert plate.sum() > 100
        dark = (drawn.max(-1) < 60).sum()
        assert dark > 20  # the letters


def test_without_boxes_the_picture_is_the_image():
    assert np.array_equal(draw_boxes(GRAY, np.zeros((0, 4)), [], ["a"]), GRAY)


def test_classes_have_colors_that_can_be_told_apart():
    colors = np.array([class_color(label) for label in range(12)])
    distance = np.abs(colors[:, None] - colors[None]).sum(-1) + 1000 * np.eye(12)
    assert distance.min() > 40
    assert colors.min() >= 0
    assert colors.max() <= 255


def test_a_peak_glows_where_it_is_in_the_image():
    heatmap = np.zeros((16, 16), np.float32)
    heatmap[5, 10] = 1.0  # input pixel (40, 20), image pixel (80, 40) at half the size
    glowing = overlay_heatmap(GRAY, heatmap, np.diag([0.5, 0.5, 1.0])).astype(int)
    change = glowing[..., 0] - glowing[..., 2]  # red over blue
    y, x = np.unravel_index(cv2.GaussianBlur(change.astype(np.float32), (0, 0), 2).argmax(), change.shape)
    assert abs(x - 80) <= 2
    assert abs(y - 40) <= 2
    assert change[100, 20] < 0


def test_an_empty_heatmap_leaves_the_image_visible():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    shown = overlay_heatmap(image, np.zeros((15, 20)), np.eye(3))
    assert np.corrcoef(shown[..., 1].ravel(), image[..., 1].ravel())[0, 1] > 0.99


def test_pictures_stand_side_by_side_under_their_captions():
    made = panel({"truth": GRAY, "prediction": GRAY + 20})
    assert made.shape == (120 + MARGIN, 320, 3)
    assert np.array_equal(made[MARGIN:, :160], GRAY)
    assert np.array_equal(made[MARGIN:, 160:], GRAY + 20)
    assert made[:MARGIN, :160].max() > 200  # the caption


def test_small_images_are_enlarged_and_large_ones_left():
    big, factor = enlarge(GRAY, 320)
    assert big.shape == (240, 320, 3)
    assert factor == 2
    same, factor = enlarge(big, 320)
    assert same is big
    assert factor == 1


def test_truth_and_prediction_show_each_its_own():
    detections = {
        "boxes": np.array([[20.0, 20, 60, 60], [100, 70, 140, 110]]),
        "scores": np.array([0.9, 0.2]),
        "labels": np.array([0, 0]),
    }
    truth = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}
    picture = truth_and_prediction(
        GRAY, truth, detections, Look(["a"]), {"heatmap": np.zeros((30, 40))}, np.eye(3), threshold=0.3
    )
    width = picture.shape[1] // 3
    left, middle = picture[MARGIN:, :width], picture[MARGIN:, width : 2 * width]
    assert np.ptp(left) == 0  # no truth, nothing drawn
    changed = np.argwhere((middle != middle[-1, -1]).any(-1))
    assert changed.max(0)[1] <= 2 * 60 + 60  # the box below the threshold is not there
    assert changed.min(0)[0] <= 2 * 20
    without = truth_and_prediction(GRAY, truth, detections, Look(["a"]))
    assert without.shape[1] == 2 * width


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


def test_from_above_things_lie_where_they_are_and_point_where_they_go():
    view = draw_birds_eye(cars((0, 1.5, 20)), reach=40)
    colors = np.argwhere(is_color(view, class_color(0)))
    middle = colors.mean(0)
    assert view.shape == (BIRDS_EYE_SIDE, BIRDS_EYE_SIDE, 3)
    assert middle[1] == pytest.approx(BIRDS_EYE_SIDE / 2, abs=3)
    assert middle[0] == pytest.approx(BIRDS_EYE_SIDE / 2, abs=8)
    # Yaw -90 degrees: it drives away from us, so that its heading line lies in the upper half.
    column = is_color(view[:, BIRDS_EYE_SIDE // 2], class_color(0))
    rows = np.flatnonzero(column)
    assert (rows < BIRDS_EYE_SIDE / 2 - 2).sum() > (rows > BIRDS_EYE_SIDE / 2 + 2).sum()
    truth = draw_birds_eye(cars(), 40, cars((5, 1.5, 20)))
    assert is_color(truth, (150, 150, 150), 20).sum() > 20


def test_what_rows_have_decides_what_is_drawn():
    rows = cars((0, 1.5, 12))
    assert np.array_equal(draw_objects(GRAY, rows, Look(["car"])), draw_boxes(GRAY, rows["boxes"], [0], ["car"]))
    solid = draw_objects(GRAY, rows, Look(["car"], {}, {"calibration": CAMERA}))
    assert np.array_equal(solid, draw_boxes_3d(GRAY, rows, ["car"], CAMERA))
    person = {"boxes": rows["boxes"], "labels": rows["labels"], "joints": np.array([[[15, 15], [20, 30], [40, 30]]])}
    boxes = draw_boxes(GRAY, 2 * person["boxes"], [0], ["man"])
    drawn = draw_objects(GRAY, person, Look(["man"], {"joints": HANDS.plain()}), factor=2.0)
    assert np.array_equal(drawn, draw_joints(boxes, 2 * person["joints"], HANDS))
    # Joints that nobody named are not drawn.
    assert np.array_equal(draw_objects(GRAY, person, Look(["man"]), factor=2.0), boxes)


def test_wide_images_are_stacked_and_3d_truth_gets_birds_eye_views():
    wide = np.full((100, 340, 3), 128, np.uint8)
    rows = cars((0, 1.5, 12))
    found = {**rows, "scores": np.array([0.9])}
    flat = truth_and_prediction(wide, rows, found, Look(["car"]))
    assert flat.shape[:2] == (2 * (100 + MARGIN), 340)
    whole = truth_and_prediction(wide, rows, found, Look(["car"], {}, {"calibration": CAMERA}))
    assert whole.shape[0] == 2 * (100 + MARGIN) + BIRDS_EYE_SIDE + 3 * MARGIN
    assert whole.shape[1] == 2 * BIRDS_EYE_SIDE


def test_only_what_is_solid_is_seen_from_above():
    rows = cars((0, 1.5, 12))
    look = Look(["car"], {}, {"calibration": CAMERA})
    assert views_from_above(rows, Look(["car"])) == {}
    assert views_from_above({"boxes": rows["boxes"], "labels": rows["labels"]}, look) == {}
    (alone,) = views_from_above(rows, look).values()
    assert alone.shape == (BIRDS_EYE_SIDE, BIRDS_EYE_SIDE, 3)
    truth, both = views_from_above(rows, look, cars((5, 1.5, 20))).values()
    assert is_color(truth, class_color(0)).any()
    assert is_color(both, (150, 150, 150), 20).any()  # the truth under the prediction


def test_an_image_is_written_as_it_is_into_new_folders(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    path = save_image(tmp_path / "a" / "b" / "c.png", image)
    assert np.array_equal(read_image(path), image)


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "taken.png").mkdir()
    with pytest.raises((OSError, cv2.error)):
        save_image(tmp_path / "taken.png", GRAY)


def history(epochs: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": n + 1,
            "lr": 1e-3,
            "train/loss": 9 / (n + 1),
            "val/loss": 10 / (n + 1),
            "val/AP": n / 10,
            "val/APs": np.nan,
        }
        for n in range(epochs)
    ]


@pytest.mark.parametrize(
    "rows",
    [
        history(1),
        history(5),
        [{"epoch": 1}],
        [*history(2), {"epoch": 3, "train/loss": 2.0}],
        [*history(2), {"epoch": 3, "train/loss": -0.5, "train/loss/depth": -1.0}],
    ],
)
def test_curves_are_drawn_of_whatever_there_is(tmp_path, rows):
    picture = read_image(plot_history(rows, tmp_path / "curves.png"))
    assert picture.shape[1] > picture.shape[0] > 200
    assert picture.std() > 5


def test_a_pose_model_that_was_made_without_data_draws_skeletons_as_well():
    # As converted originals are: the file names no joints, so they are COCO's.
    found = {"boxes": np.zeros((1, 4)), "labels": [0], "scores": [1.0], "joints": np.zeros((1, 17, 2))}
    look = Look(["person"], build_task("multi_pose", 1).facts)
    assert [picture.kind for picture in pictures_of(found, look)] == ["box", "skeleton"]
    assert JointSet.of(look.facts["joints"]) == JointSet.of()
    assert draw_objects(np.full((32, 32, 3), 128, np.uint8), found, look).shape == (32, 32, 3)
