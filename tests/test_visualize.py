"""Pictures: what is drawn is where it should be, and nothing else changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from centernet.data.images import read_image
from centernet.fields import move, stack_objects
from centernet.joints import JointSet
from centernet.structures import Objects
from centernet.tasks import build_task
from centernet.visualize import (
    Look,
    View,
    class_color,
    draw_birds_eye,
    draw_boxes,
    draw_boxes_3d,
    draw_detections,
    draw_inputs,
    draw_joints,
    draw_objects,
    enlarge,
    nothing_above,
    overlay_heatmap,
    panel,
    pictures_of,
    resized,
    save_image,
    truth_and_prediction,
    view_of,
    views_from_above,
)
from centernet.visualize.above import OTHERS
from centernet.visualize.heatmaps import color_scale
from centernet.visualize.labels import font_size, text_mask
from centernet.visualize.objects import SIDES
from centernet.visualize.panels import GAP, LEAST, LEAST_WIDE, bar_height

GRAY = np.full((120, 160, 3), 128, np.uint8)
BAR = bar_height(font_size(GRAY))


def says(picture: np.ndarray, text: str, size: int, color: tuple[int, int, int] = (255, 255, 255)) -> bool:
    """Whether a picture has this text in it."""
    mask = text_mask(text, size)
    mask = mask[:, : picture.shape[1]].astype(np.float32)
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
        assert says(drawn, "zebra 0.75", font_size(GRAY), (0, 158, 115)) or says(
            255 - drawn, "zebra 0.75", font_size(GRAY)
        )
        plate = (drawn == class_color(0)).all(-1)
        assert plate.sum() > 100


def test_without_boxes_the_picture_is_the_image():
    assert np.array_equal(draw_boxes(GRAY, np.zeros((0, 4)), [], ["a"]), GRAY)


def test_a_box_in_the_color_of_its_ground_is_seen_by_its_seam():
    ground = np.full((120, 160, 3), class_color(0), np.uint8)
    drawn = draw_boxes(ground, [[30, 40, 100, 90]], [0], ["a"])
    assert (drawn[60:80, 28:33].astype(int).sum(-1).min(1) < 0.7 * sum(class_color(0))).all()


def test_a_peak_glows_where_it_is_in_the_image():
    heatmap = np.zeros((16, 16), np.float32)
    heatmap[5, 10] = 1.0  # input pixel (40, 20), image pixel (80, 40) at half the size
    glowing = overlay_heatmap(GRAY, heatmap, np.diag([0.5, 0.5, 1.0])).astype(int)
    light = glowing.sum(-1)
    y, x = np.unravel_index(cv2.GaussianBlur(light.astype(np.float32), (0, 0), 2).argmax(), light.shape)
    assert abs(x - 80) <= 2
    assert abs(y - 40) <= 2
    assert np.ptp(glowing[100, 20]) == 0  # gray elsewhere


def test_under_a_heatmap_the_image_is_gray_and_still_visible():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    shown = overlay_heatmap(image, np.zeros((15, 20)), np.eye(3))
    assert (np.ptp(shown, axis=-1) == 0).all()
    gray = image @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(shown[..., 0].ravel(), gray.ravel())[0, 1] > 0.99


def test_higher_values_are_lighter_in_the_scale_of_a_heatmap():
    scale = color_scale(101, 6)
    assert scale.shape == (6, 101, 3)
    light = scale[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light[30:]) > -1.5).all()
    assert light[100] > light[60] + 30 > light[30] + 60


def test_pictures_stand_side_by_side_under_their_captions():
    made = panel({"truth": GRAY, "prediction": GRAY + 20})
    assert made.shape == (120 + BAR, 320 + GAP, 3)
    assert np.array_equal(made[BAR:, :160], GRAY)
    assert np.array_equal(made[BAR:, 160 + GAP :], GRAY + 20)
    assert says(made[:BAR, :160], "truth", font_size(GRAY), (235,) * 3)
    assert says(made[:BAR, 160:], "prediction", font_size(GRAY), (235,) * 3)
    titled = panel({"truth": GRAY, "prediction": GRAY}, title="image.jpg")
    assert says(titled[:BAR], "image.jpg", font_size(GRAY), (235,) * 3)
    in_columns = panel({"a": GRAY, "b": GRAY, "c": GRAY}, columns=2)
    assert in_columns.shape == (2 * (120 + BAR) + GAP, 320 + GAP, 3)


def test_a_caption_that_is_wider_than_its_picture_is_whole():
    text = "prediction: 3 with score ≥ 0.30"
    made = panel({text: GRAY[:, :40]})
    assert says(made[:BAR], text, font_size(GRAY[:, :40]), (235,) * 3)


def test_the_scale_of_a_heatmap_stands_beside_its_caption():
    plain, scaled = (panel({"heatmap": GRAY}, scales=names) for names in ((), ("heatmap",)))
    assert np.ptp(plain[:BAR].astype(int), axis=-1).max() == 0
    colorful = np.flatnonzero((np.ptp(scaled[:BAR].astype(int), axis=-1) > 40).any(0))
    assert len(colorful) > 30
    assert colorful.max() < 160
    assert np.array_equal(plain[BAR:], scaled[BAR:])


def test_small_images_are_enlarged_and_large_ones_reduced():
    big, factor = enlarge(GRAY, 320)
    assert big.shape == (240, 320, 3)
    assert factor == 2
    same, factor = enlarge(big, 320)
    assert same is big
    assert factor == 1
    assert resized(GRAY, 320, 640)[0].shape == (240, 320, 3)
    small, factor = resized(np.zeros((3000, 4000, 3), np.uint8))
    assert small.shape == (960, 1280, 3)
    assert factor == 0.32
    assert resized(big, 10, 320)[0] is big


NOTHING = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}


def test_truth_and_prediction_show_each_its_own():
    detections = {
        "boxes": np.array([[20.0, 20, 60, 60], [100, 70, 140, 110]]),
        "scores": np.array([0.9, 0.2]),
        "labels": np.array([0, 0]),
    }
    truth = {"boxes": np.array([[100.0, 20, 140, 60]]), "labels": np.zeros(1, int)}
    picture = truth_and_prediction(
        GRAY, truth, detections, Look(["a"]), {"heatmap": np.zeros((30, 40))}, np.eye(3), threshold=0.3, name="x.jpg"
    )
    width = LEAST
    size = font_size(np.zeros((1, LEAST, 3)))
    bar = bar_height(size)
    assert picture.shape == (2 * bar + LEAST * 3 // 4, 3 * width + 2 * GAP, 3)
    assert says(picture[:bar], "x.jpg (160 x 120)", size, (235,) * 3)
    for n, caption in enumerate(("truth: 1 object", "prediction: 1 with score ≥ 0.30", "heatmap: highest 0.00")):
        assert says(picture[bar : 2 * bar, n * (width + GAP) :], caption, size, (235,) * 3), caption
    left, middle = picture[2 * bar :, :width], picture[2 * bar :, width + GAP : 2 * width + GAP]
    factor = LEAST / 160
    for side, low, high in ((left, 100, 140), (middle, 20, 60)):
        columns = np.flatnonzero((side != 128).any((0, 2)))
        assert low * factor - 4 <= columns.min() < columns.max() <= high * factor + 4
    without = truth_and_prediction(GRAY, truth, detections, Look(["a"]))
    assert without.shape[1] == 2 * width + GAP


def test_an_empty_prediction_says_how_good_the_best_was():
    detections = {"boxes": np.array([[20.0, 20, 60, 60]]), "scores": np.array([0.1299]), "labels": np.array([0])}
    large = np.full((300, 400, 3), 128, np.uint8)
    drawn = draw_detections(large, detections, Look(["a"]), 0.3)
    assert says(drawn, "nothing above 0.30 (best 0.12)", round(1.25 * font_size(large)))
    assert np.array_equal(
        draw_detections(large, detections, Look(["a"]), 0.05),
        draw_boxes(large, [[20, 20, 60, 60]], [0], ["a"], [0.1299]),
    )
    panes = truth_and_prediction(large, NOTHING, detections, Look(["a"]))
    assert says(panes, "no objects", round(1.25 * font_size(large)))
    assert says(panes, "nothing above 0.30 (best 0.12)", round(1.25 * font_size(large)))


@pytest.mark.parametrize(
    ("threshold", "scores", "text"),
    [
        (0.3, [0.1, 0.12], "nothing above 0.30 (best 0.12)"),
        (0.3, [0.2999], "nothing above 0.30 (best 0.29)"),
        (0.005, [0.001], "nothing above 0.005 (best 0.00)"),
        (0.15, [], "nothing above 0.15 (no detections)"),
    ],
)
def test_an_empty_panel_names_the_threshold(threshold, scores, text):
    assert nothing_above(threshold, scores) == text


def test_large_pictures_lie_in_rows_of_two():
    large = np.full((960, 1280, 3), 128, np.uint8)
    picture = truth_and_prediction(
        large, NOTHING, {**NOTHING, "scores": np.zeros(0)}, Look(["a"]), {"heatmap": np.zeros((240, 320))}, np.eye(3)
    )
    bar = bar_height(18)
    assert picture.shape == (bar + 2 * (960 + bar) + GAP, 2 * 1280 + GAP, 3)


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


def test_wide_images_are_stacked_and_3d_truth_gets_birds_eye_views():
    wide = np.full((100, 340, 3), 128, np.uint8)
    rows = cars((0, 1.5, 12))
    found = {**rows, "scores": np.array([0.9])}
    flat = truth_and_prediction(wide, rows, found, Look(["car"]), name="wide.png")
    height, bar = round(LEAST_WIDE * 100 / 340), bar_height(14)
    assert flat.shape[:2] == (bar + 2 * (height + bar) + GAP, LEAST_WIDE)
    whole = truth_and_prediction(wide, rows, found, Look(["car"], {}, {"calibration": CAMERA}), name="wide.png")
    assert whole.shape == (len(flat) + GAP + bar + 480, LEAST_WIDE, 3)
    below = whole[len(flat) + GAP :]
    assert says(below[:bar], "truth from above", 14, (235,) * 3)
    assert says(below[:bar], "prediction from above (gray: truth)", 14, (235,) * 3)


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


def inputs_of(objects: Objects, matrix: torch.Tensor, **fields: torch.Tensor) -> np.ndarray:
    """The picture of a training input of gray pixels with objects of an image that this matrix moves into it."""
    rows = {"crowd": torch.zeros(len(objects["labels"]), dtype=torch.bool), **objects}
    batch = {
        "image": torch.from_numpy(GRAY).permute(2, 0, 1)[None],
        "input_from_image": matrix[None],
        "objects": stack_objects([move(rows, matrix)]),
        **{name: value[None] for name, value in fields.items()},
    }
    return draw_inputs([batch], ["a.jpg"], Look(["car", "van"]))


def test_training_inputs_are_shown_with_their_objects_but_without_crowds():
    boxes = torch.tensor([[20.0, 20, 60, 60], [100, 70, 140, 110]])
    shift = torch.tensor([[1.0, 0, 10], [0, 1, 20], [0, 0, 1]], dtype=torch.float64)
    crowd = torch.tensor([False, True])
    picture = inputs_of({"boxes": boxes, "labels": torch.tensor([0, 1]), "crowd": crowd}, shift)
    bar = bar_height(font_size(np.zeros((1, LEAST, 3))))
    assert says(picture[:bar], "a.jpg", font_size(np.zeros((1, LEAST, 3))), (235,) * 3)
    factor = LEAST / 160
    shown = resized(GRAY, LEAST)[0]
    wanted = draw_boxes(shown, np.array([[30, 40, 70, 80]]) * factor, [0], ["car"])
    assert np.array_equal(picture[bar:], wanted)


@pytest.mark.parametrize("turn", [0.4, -2.0])
def test_3d_boxes_of_training_inputs_are_mirrored_with_them(turn):
    rows = {name: torch.from_numpy(value) for name, value in cars((2, 1.5, 14)).items()}
    rows["yaw"] = torch.tensor([turn])
    mirror = torch.tensor([[-1.0, 0, 159], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    plain, mirrored = (
        is_color(inputs_of(rows, matrix, calibration=torch.from_numpy(CAMERA)), class_color(0))[60:]
        for matrix in (torch.eye(3, dtype=torch.float64), mirror)
    )
    near = cv2.dilate(plain[:, ::-1].astype(np.uint8), np.ones((9, 9))).astype(bool)
    below = np.s_[90:]  # without the label
    assert mirrored[below].sum() > 100
    assert (mirrored & near)[below].sum() == mirrored[below].sum()


def test_an_image_is_written_as_it_is_into_new_folders(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    path = save_image(tmp_path / "a" / "b" / "c.png", image)
    assert np.array_equal(read_image(path), image)


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "taken.png").mkdir()
    with pytest.raises((OSError, cv2.error)):
        save_image(tmp_path / "taken.png", GRAY)


def test_a_pose_model_that_was_made_without_data_draws_skeletons_as_well():
    # As converted originals are: the file names no joints, so they are COCO's.
    found = {"boxes": np.zeros((1, 4)), "labels": [0], "scores": [1.0], "joints": np.zeros((1, 17, 2))}
    look = Look(["person"], build_task("multi_pose", 1).facts)
    assert [picture.kind for picture in pictures_of(found, look)] == ["box", "skeleton"]
    assert JointSet.of(look.facts["joints"]) == JointSet.of()
    assert draw_objects(np.full((32, 32, 3), 128, np.uint8), found, look).shape == (32, 32, 3)
