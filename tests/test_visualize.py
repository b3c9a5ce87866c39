"""Pictures: what is drawn is where it should be, and nothing else changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from centernet.data.images import read_image
from centernet.visualize import (
    MARGIN,
    class_colour,
    draw_boxes,
    enlarge,
    overlay_heatmap,
    panel,
    plot_history,
    save_image,
    truth_and_prediction,
)

GREY = np.full((120, 160, 3), 128, np.uint8)


def test_a_box_is_drawn_on_its_border_in_the_colour_of_its_class():
    drawn = draw_boxes(GREY, [[30.2, 40, 100, 90]], [1], ["a", "b"])
    colour = np.array(class_colour(1))
    for x, y in ((60, 90), (100, 60), (30, 70), (80, 40)):
        assert np.abs(drawn[y, x].astype(int) - colour).max() < 30
    assert (drawn[50:85, 40:95] == 128).all()  # its inside
    assert (drawn[95:, :] == 128).all()
    assert (GREY == 128).all()  # the image itself is left alone


def test_every_box_has_a_name_plate_inside_the_picture():
    for box in ([30, 40, 100, 90], [-20, -20, 30, 30], [140, 100, 200, 160], [0, 0, 160, 120]):
        drawn = draw_boxes(GREY, [box], [0], ["zebra"], [0.75])
        plate = (drawn == class_colour(0)).all(-1)
        assert plate.sum() > 100
        dark = (drawn.max(-1) < 60).sum()
        assert dark > 20  # the letters


def test_without_boxes_the_picture_is_the_image():
    assert np.array_equal(draw_boxes(GREY, np.zeros((0, 4)), [], ["a"]), GREY)


def test_classes_have_colours_that_can_be_told_apart():
    colours = np.array([class_colour(label) for label in range(12)])
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(12)
    assert distance.min() > 40
    assert colours.min() >= 0
    assert colours.max() <= 255


def test_a_peak_glows_where_it_is_in_the_image():
    heatmap = np.zeros((16, 16), np.float32)
    heatmap[5, 10] = 1.0  # input pixel (40, 20), image pixel (80, 40) at half the size
    glowing = overlay_heatmap(GREY, heatmap, np.diag([0.5, 0.5, 1.0])).astype(int)
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
    made = panel({"truth": GREY, "prediction": GREY + 20})
    assert made.shape == (120 + MARGIN, 320, 3)
    assert np.array_equal(made[MARGIN:, :160], GREY)
    assert np.array_equal(made[MARGIN:, 160:], GREY + 20)
    assert made[:MARGIN, :160].max() > 200  # the caption


def test_small_images_are_enlarged_and_large_ones_left():
    big, factor = enlarge(GREY, 320)
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
        GREY, truth, detections, ["a"], {"heatmap": np.zeros((30, 40))}, np.eye(3), threshold=0.3
    )
    width = picture.shape[1] // 3
    left, middle = picture[MARGIN:, :width], picture[MARGIN:, width : 2 * width]
    assert np.ptp(left) == 0  # no truth, nothing drawn
    changed = np.argwhere((middle != middle[-1, -1]).any(-1))
    assert changed.max(0)[1] <= 2 * 60 + 60  # the box below the threshold is not there
    assert changed.min(0)[0] <= 2 * 20
    without = truth_and_prediction(GREY, truth, detections, ["a"])
    assert without.shape[1] == 2 * width


def test_an_image_is_written_as_it_is_into_new_folders(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    path = save_image(tmp_path / "a" / "b" / "c.png", image)
    assert np.array_equal(read_image(path), image)


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "taken.png").mkdir()
    with pytest.raises((OSError, cv2.error)):
        save_image(tmp_path / "taken.png", GREY)


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
    "rows", [history(1), history(5), [{"epoch": 1}], [*history(2), {"epoch": 3, "train/loss": 2.0}]]
)
def test_curves_are_drawn_of_whatever_there_is(tmp_path, rows):
    picture = read_image(plot_history(rows, tmp_path / "curves.png"))
    assert picture.shape[1] > picture.shape[0] > 200
    assert picture.std() > 5
