"""Several pictures as one: captions, names of files, scales of heatmaps, truth beside prediction, training inputs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from centernet.data.images import read_image
from centernet.fields import move, stack_objects
from centernet.structures import Objects
from centernet.visualize import (
    Look,
    class_color,
    draw_boxes,
    draw_detections,
    draw_inputs,
    enlarge,
    nothing_above,
    overlay_heatmap,
    panel,
    resized,
    save_image,
    truth_and_prediction,
)
from centernet.visualize.heatmaps import color_scale
from centernet.visualize.labels import font_size
from centernet.visualize.panels import GAP, LEAST, LEAST_WIDE, bar_height
from tests.test_visualize import CAMERA, GRAY, cars, is_color, says

BAR = bar_height(font_size(GRAY))
NOTHING = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}


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
