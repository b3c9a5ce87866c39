"""KITTI's files are read as they are, and every fault in them is named by file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from centernet.data.kitti_format import (
    Labels,
    objects_of,
    parse_labels,
    read_calibration,
    read_labels,
    read_split,
    require_types,
    write_calibration,
    write_labels,
    write_results,
)
from centernet.structures import InputError

ROW = "0.25 1 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01"
P2 = "P2: 707.0493 0 604.0814 45.75831 0 707.0493 180.5066 -0.3454157 0 0 1 0.004981016"


def labels_of(*types: str) -> Labels:
    """Rows of these types, all in the same place."""
    return parse_labels("\n".join(f"{name} {ROW}" for name in types), "made.txt")


def test_every_column_of_a_label_lands_in_its_field(tmp_path: Path) -> None:
    path = tmp_path / "000000.txt"
    path.write_text(f"\nPedestrian {ROW}\n\n")
    labels = read_labels(path)
    assert len(labels) == 1
    assert labels.types.tolist() == ["Pedestrian"]
    assert (labels.truncation[0], labels.occlusion[0], labels.alpha[0], labels.yaw[0]) == (0.25, 1, -0.2, 0.01)
    np.testing.assert_array_equal(labels.boxes, [[712.40, 143.00, 810.73, 307.92]])
    np.testing.assert_array_equal(labels.dimensions, [[1.89, 0.48, 1.20]])
    np.testing.assert_array_equal(labels.location, [[1.84, 1.47, 8.41]])
    assert labels.scores is None


def test_scores_are_read_from_results_and_passed_over_in_labels() -> None:
    text = f"Car {ROW} 0.87"
    assert parse_labels(text, "made.txt", with_scores=True).scores.tolist() == [0.87]
    assert parse_labels(text, "made.txt").scores is None


@pytest.mark.parametrize("with_scores", [False, True])
def test_an_empty_file_has_no_rows_but_all_fields(with_scores: bool) -> None:
    labels = parse_labels("\n", "made.txt", with_scores)
    assert len(labels) == 0
    assert labels.boxes.shape == (0, 4)
    assert {name: value.shape for name, value in objects_of(labels).items()}["dimensions"] == (0, 3)


def test_windows_line_ends_are_read() -> None:
    assert parse_labels(f"Car {ROW}\r\nVan {ROW}\r\n", "made.txt").types.tolist() == ["Car", "Van"]


@pytest.mark.parametrize(
    ("text", "with_scores", "message"),
    [
        (f"Car {ROW}\nCar 1 2 3", False, "made.txt, line 2 has 4 columns; KITTI requires 15: type truncated occluded"),
        (f"Car {ROW}", True, "made.txt, line 1 has 15 columns; KITTI requires 16: .* rotation_y score"),
        (f"Car {ROW} 0.5 1", False, "made.txt, line 1 has 17 columns"),
        (f"\nCar {ROW}".replace("8.41", "far"), False, "made.txt, line 2 has 'far' as z; KITTI requires a number"),
        (f"Car {ROW}".replace("1.89", "nan"), False, "made.txt, line 1 has 'nan' as h"),
    ],
)
def test_a_broken_line_is_named(text: str, with_scores: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_labels(text, "made.txt", with_scores)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels .*000007.txt does not exist"):
        read_labels(tmp_path / "000007.txt")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InputError, match=r"picture.txt is not a text file"):
        read_labels(tmp_path / "picture.txt")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    labels = labels_of("Car", "DontCare")
    write_labels(tmp_path / "a.txt", labels)
    assert (tmp_path / "a.txt").read_text().splitlines()[0] == f"Car {ROW}"
    again = read_labels(tmp_path / "a.txt")
    for name in ("types", "truncation", "occlusion", "alpha", "boxes", "dimensions", "location", "yaw"):
        np.testing.assert_array_equal(getattr(again, name), getattr(labels, name))


def test_results_have_sixteen_columns_and_keep_close_scores_apart(tmp_path: Path) -> None:
    rows = labels_of("Car", "Car")
    path = tmp_path / "000001.txt"
    write_results(
        path, rows.types, np.array([0.9981, 0.9979]), rows.boxes, rows.alpha, rows.dimensions, rows.location, rows.yaw
    )
    assert path.read_text().splitlines()[0].split()[:3] == ["Car", "-1", "-1"]
    assert read_labels(path, with_scores=True).scores.tolist() == [0.9981, 0.9979]
    none = labels_of()
    write_results(path, [], np.zeros(0), none.boxes, none.alpha, none.dimensions, none.location, none.yaw)
    assert path.read_text() == ""


def test_types_become_objects_crowds_or_nothing() -> None:
    types = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "DontCare", "Tram", "Misc", "Spaceship")
    fields = objects_of(labels_of(*types))
    assert fields["labels"].tolist() == [1, 1, 1, 0, 0, 2, -1]
    assert fields["crowd"].tolist() == [False, True, True, False, True, False, True]
    assert fields["neutral"].tolist() == [False, True, False, False, True, False, False]
    assert fields["area"] == pytest.approx((810.73 - 712.40) * (307.92 - 143.00))
    assert {len(value) for value in fields.values()} == {7}


def test_neighbors_of_a_class_that_is_not_asked_for_are_left_out() -> None:
    labels = labels_of("Car", "Van", "Person_sitting", "Pedestrian", "DontCare")
    fields = objects_of(labels, ["Pedestrian"])
    assert fields["labels"].tolist() == [0, 0, -1]
    assert fields["neutral"].tolist() == [True, False, False]


def test_a_neighbor_can_be_a_class_of_its_own() -> None:
    fields = objects_of(labels_of("Car", "Van", "Truck"), ["Van", "Car"])
    assert fields["labels"].tolist() == [1, 0, 1]
    assert fields["crowd"].tolist() == [False, False, True]
    assert not fields["neutral"].any()


@pytest.mark.parametrize("names", [[], ["Car", "Car"], ["Car", "car"], ["DontCare"]])
def test_classes_must_be_types_of_kitti(names: list[str]) -> None:
    with pytest.raises(InputError, match=r"data.class_names=.* must be one or more distinct types of Car, Van"):
        require_types(names)


@pytest.mark.parametrize("others", ["", "P0: 1 2 3\n\nTr_velo_cam: 4\n"])
def test_p2_is_found_whatever_else_the_calibration_holds(tmp_path: Path, others: str) -> None:
    path = tmp_path / "000000.txt"
    path.write_text(f"{others}{P2}\n\n")
    matrix = read_calibration(path)
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix[:, 3], [45.75831, -0.3454157, 0.004981016])
    assert matrix[0, 2] == 604.0814


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"000000.txt has no line P2 \(it has nothing\)"),
        ("P0: 1\nP1: 2", r"000000.txt has no line P2 \(it has P0, P1\); KITTI requires 'P2:' and 12 numbers"),
        ("P2: 1 2 3", "000000.txt: P2 has 3 numbers; KITTI requires 12"),
        (P2.replace("604.0814", "middle"), "000000.txt: P2 has 'middle'; KITTI requires a number"),
        (P2.replace("707.0493", "0"), "000000.txt: P2 has the focal lengths 0 and 0; both must be positive"),
    ],
)
def test_a_calibration_without_a_sound_p2_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "000000.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_calibration(path)


def test_a_missing_calibration_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"calibration .*000003.txt does not exist"):
        read_calibration(tmp_path / "000003.txt")


def test_a_written_calibration_has_the_seven_lines_and_the_same_p2(tmp_path: Path) -> None:
    matrix = np.array([[240.5, 0, 208, 15.1], [0, 240.5, 64, -0.1], [0, 0, 1, 0.004]])
    write_calibration(tmp_path / "a.txt", matrix)
    np.testing.assert_array_equal(read_calibration(tmp_path / "a.txt"), matrix)
    names = [line.partition(":")[0] for line in (tmp_path / "a.txt").read_text().splitlines()]
    assert names == ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]


def test_a_list_of_frames_keeps_its_order_and_spelling(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("000012\n\n000003\r\n7\n")
    assert read_split(path) == ["000012", "000003", "7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "train.txt lists no frame"),
        ("000001\nimage_2/000002.png\n", "train.txt, line 2 is 'image_2/000002.png'"),
        ("000001\n000002\n1\n", "train.txt, line 3: frame 1 is already in line 1"),
    ],
)
def test_a_bad_list_of_frames_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_split(path)
