"""Colors and labels: classes can be told apart by everybody, text can be read and covers no other text."""

from __future__ import annotations

import numpy as np
import pytest

from centernet.visualize import class_color, contrast, draw_boxes, draw_objects, text_color
from centernet.visualize.labels import (
    Label,
    draw_labels,
    draw_notice,
    font_size,
    line_width,
    place_labels,
    plate_size,
    shorten,
    text_mask,
    write,
)
from centernet.visualize.objects import Look

GRAY = np.full((120, 160, 3), 128, np.uint8)
# What color-blind eyes see of linear RGB (Machado et al., 2009, severity 1).
EYES = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colors: np.ndarray, eyes: str) -> np.ndarray:
    """OKLab of colors RGB 0 .. 255 ``[N, 3]``, as these eyes see them."""
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ np.transpose(EYES[eyes])
    cones = linear.clip(0, 1) @ np.transpose(
        [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    )
    axes = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.cbrt(cones) @ np.transpose(axes)


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize(("classes", "least"), [(12, 0.075), (24, 0.05)])
def test_everybody_can_tell_the_colors_of_the_first_classes_apart(eyes, classes, least):
    seen = lab(np.array([class_color(label) for label in range(classes)]), eyes)
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(classes)
    assert distance.min() > least  # 0.02 is a difference that is just seen


def test_eighty_classes_have_eighty_colors():
    colors = np.array([class_color(label) for label in range(80)])
    assert len({tuple(color) for color in colors.tolist()}) == 80
    assert colors.min() >= 0
    assert colors.max() <= 255
    neighbors = np.abs(colors[1:] - colors[:-1]).sum(1)
    assert neighbors.min() > 90


def test_text_can_be_read_on_the_color_of_every_class():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert text_color((240, 228, 66)) == (0, 0, 0)
    assert text_color((0, 114, 178)) == (255, 255, 255)
    for label in range(300):
        color = class_color(label)
        assert contrast(text_color(color), color) > 4.5


def test_lines_and_text_grow_with_the_picture():
    small, large = np.zeros((96, 128, 3), np.uint8), np.zeros((960, 1280, 3), np.uint8)
    assert (line_width(small), line_width(large)) == (1, 3)
    assert (font_size(small), font_size(large)) == (10, 18)
    drawn = [
        draw_boxes(i, [[0.3 * i.shape[1], 0.5 * i.shape[0], 0.6 * i.shape[1], 0.8 * i.shape[0]]], [0], ["a"])
        for i in (small, large)
    ]
    widths = [(image[int(0.65 * image.shape[0])] == class_color(0)).all(-1).sum() for image in drawn]
    assert widths == [2, 6]  # of the left and the right side


def test_letters_of_other_languages_are_drawn():
    for text in ("Füße", "собака", "≥"):
        assert not np.array_equal(text_mask(text, 12), text_mask("\0" * len(text), 12))
    assert not np.array_equal(text_mask("ü", 12), text_mask("u", 12))


def test_text_that_is_too_long_keeps_its_end():
    short = shorten("photographs/of/a/street_000123.jpg", 12, 120)
    assert short.startswith("…")
    assert short.endswith("000123.jpg")
    assert text_mask(short, 12).shape[1] <= 120
    assert shorten("a.jpg", 12, 120) == "a.jpg"


@pytest.mark.parametrize("at", [(-20, 5), (150, 5), (5, -6), (5, 115), (-500, 0), (0, 500)])
def test_text_beyond_the_edge_is_cut_off(at):
    canvas = GRAY.copy()
    write(canvas, "zebra", at, 12)
    assert canvas.shape == GRAY.shape


def test_labels_lie_above_the_boxes_of_all_objects():
    # The second box passes through the label of the first one.
    boxes, size = [[30, 40, 100, 90], [35, 5, 45, 115]], font_size(GRAY)
    drawn = draw_boxes(GRAY, boxes, [0, 1], ["wide", "high"])
    alone = draw_boxes(GRAY, boxes[:1], [0], ["wide"])
    ((x, y), *_) = place_labels(np.array([plate_size("wide", size)]), np.array(boxes[:1], float), GRAY.shape[:2])
    width, height = plate_size("wide", size)
    plate = np.s_[y : y + height, x : x + width]
    assert np.array_equal(alone[plate], drawn[plate])
    assert (alone[plate] == class_color(0)).all(-1).sum() > 100


def test_labels_lie_above_skeletons_as_well():
    joints = {"names": ["top", "low"], "skeleton": [["top", "low"]]}
    rows = {"boxes": [[30, 60, 90, 110]], "labels": [0], "joints": np.array([[[35, 5], [35, 110]]])}
    drawn = draw_objects(GRAY, rows, Look(["person"], {"joints": joints}))
    boxes = draw_boxes(GRAY, rows["boxes"], [0], ["person"])
    width, height = plate_size("person", font_size(GRAY))
    assert np.array_equal(drawn[60 - height : 59, 30 : 30 + width], boxes[60 - height : 59, 30 : 30 + width])
    assert not np.array_equal(drawn, boxes)


def plates_of(boxes: np.ndarray, sizes: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
    places = place_labels(sizes, boxes, picture)
    return np.array([[*at, *(at + size)] for at, size in zip(places, sizes, strict=True) if at is not None])


def test_labels_do_not_cover_each_other_and_stay_inside():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-30, 320, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 90, (60, 2))], 1)
    sizes = np.tile([48, 13], (60, 1))
    plates = plates_of(boxes, sizes, (240, 320))
    assert 25 < len(plates) <= 60
    assert plates[:, :2].min() >= 0
    assert (plates[:, 2:] <= (320, 240)).all()
    common = np.minimum(plates[:, None, 2:], plates[None, :, 2:]) - np.maximum(plates[:, None, :2], plates[None, :, :2])
    both = (common > 0).all(-1) & ~np.eye(len(plates), dtype=bool)
    assert not both.any()


def test_a_label_stands_above_its_box_or_where_it_hides_less():
    size, picture = np.array([[40, 12]]), (120, 160)
    assert place_labels(size, np.array([[30.0, 40, 100, 90]]), picture) == [(30, 28)]
    assert place_labels(size, np.array([[130.0, 40, 155, 90]]), picture) == [(120, 28)]  # moved inside
    # A small object above it would be hidden.
    places = place_labels(np.tile(size, (2, 1)), np.array([[30.0, 40, 100, 90], [32, 29, 50, 38]]), picture)
    assert places[0] == (30, 40)


def test_of_many_labels_in_one_place_the_first_are_drawn():
    boxes = np.tile([40.0, 40, 110, 80], (40, 1))
    places = place_labels(np.tile([30, 12], (40, 1)), boxes, (120, 160))
    assert places[0] == (40, 28)
    assert 4 <= sum(place is not None for place in places) <= 10
    assert places[20:] == [None] * 20


def test_an_object_outside_the_picture_has_no_label():
    boxes = np.array([[170.0, 10, 190, 30], [10, -40, 30, -5], [10, 10, 30, 30]])
    places = place_labels(np.tile([40, 12], (3, 1)), boxes, (120, 160))
    assert [place is None for place in places] == [True, True, False]


def test_no_label_is_wider_than_the_picture():
    canvas = GRAY.copy()
    draw_labels(
        canvas, [Label("a very long name of a class that nobody can read 0.87", (0, 158, 115), [0, 50, 160, 90])]
    )
    assert (canvas == (0, 158, 115)).all(-1).any(0).sum() > 100


def test_a_notice_is_in_the_middle_in_as_many_lines_as_it_needs():
    wide, narrow = np.full((200, 400, 3), 128, np.uint8), np.full((200, 90, 3), 128, np.uint8)
    for canvas, lines in ((wide, 1), (narrow, 3)):
        draw_notice(canvas, "nothing above 0.30 (best 0.12)")
        rows = np.flatnonzero((canvas != 128).any((1, 2)))
        height = plate_size("a", round(1.25 * font_size(canvas)))[1]
        assert len(rows) == lines * height
        assert rows.mean() == pytest.approx(99.5, abs=1)
