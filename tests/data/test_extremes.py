"""Extreme points from masks: exact for polygons and run lengths, with the original's rule for ties; and from files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from centernet.data import cache
from centernet.data.builtin.shapes import ShapesDataModule
from centernet.data.coco import CocoDataModule, CocoDataset
from centernet.data.extremes import TOLERANCE, edge_middles, extreme_points_of
from centernet.data.kitti import KittiDataModule
from centernet.data.masks import Masks
from centernet.data.readers import options_for, reader_for
from centernet.data.transforms import eval_pipeline
from centernet.errors import InputError
from tests.data.test_masks import star
from tests.tiny import make_coco

SIZE = (48, 64)


def points_of(*segmentations: object) -> np.ndarray:
    return extreme_points_of(Masks.of(list(segmentations), [SIZE] * len(segmentations)))


def plainly(rings: list[np.ndarray]) -> np.ndarray:
    """The rule, one vertex at a time."""
    every = np.concatenate(rings)
    extent = np.ptp(every, axis=0) + 1
    found = []
    for axis, sign in ((1, 1), (0, 1), (1, -1), (0, -1)):
        edge = (sign * every[:, axis]).min()
        ring = next(ring for ring in rings if (sign * ring[:, axis]).min() == edge)
        first = int((sign * ring[:, axis]).argmin())
        near = [sign * vertex[axis] - edge <= TOLERANCE * extent[axis] for vertex in ring]
        chosen = [first]
        for step in (1, -1):
            n = (first + step) % len(ring)
            while near[n] and n != first:
                chosen.append(n)
                n = (n + step) % len(ring)
        along = ring[chosen, 1 - axis]
        point = np.zeros(2)
        point[axis], point[1 - axis] = sign * edge, (along.min() + along.max()) / 2
        found.append(point)
    return np.array(found)


def test_the_points_of_a_convex_polygon_are_its_extreme_vertices():
    assert points_of([[20, 5, 40, 20, 25, 40, 10, 30]]).tolist() == [[[20, 5], [10, 30], [25, 40], [40, 20]]]


def test_a_straight_edge_counts_by_its_middle():
    assert points_of([[10, 10, 30, 10, 30, 40, 10, 40]]).tolist() == [[[20, 10], [10, 25], [20, 40], [30, 25]]]


def test_an_almost_straight_edge_counts_as_straight_up_to_two_percent_of_the_height():
    # The height is 99, with the last pixel 100: a step of 2 counts, of 2.01 does not.
    for step, x in ((2, 20), (2.01, 10)):
        top, *_ = points_of([[10, 0, 30, step, 30, 99, 10, 99]])[0]
        assert top.tolist() == [x, 0]


def test_of_two_tips_of_one_height_the_first_in_the_polygon_counts_alone():
    # Between the tips the outline falls.
    assert points_of([[10, 5, 20, 20, 30, 5, 30, 30, 10, 30]])[0, 0].tolist() == [10, 5]
    assert points_of([[30, 5, 30, 30, 10, 30, 10, 5, 20, 20]])[0, 0].tolist() == [30, 5]


def test_an_edge_over_the_end_of_the_list_of_vertices_is_one_edge():
    # The top has four vertices, of which the list begins with the third.
    assert points_of([[25, 8, 31, 8, 31, 30, 11, 30, 11, 8, 19, 8]])[0, 0].tolist() == [21, 8]


def test_of_several_rings_the_one_with_the_extreme_vertex_decides_on_each_side():
    first, second = [10, 10, 20, 10, 20, 20, 10, 20], [30, 5, 40, 5, 40, 15, 30, 15]
    assert points_of([first, second]).tolist() == [[[35, 5], [10, 15], [15, 20], [40, 10]]]


@given(
    corners=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=3, max_size=14),
    others=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=3, max_size=6),
    rings=st.integers(1, 2),
)
def test_many_polygons_at_once_have_the_points_of_each_by_the_plain_rule(corners, others, rings):
    # Rows of small integers have ties of every kind.
    outlines = [np.array(corners, np.float32), np.array(others, np.float32)][:rings]
    mask = [outline.ravel().tolist() for outline in outlines]
    lone = [[3.0, 1, 5, 2, 4, 7]]
    found = points_of(lone, None, mask, lone)
    np.testing.assert_allclose(found[2], plainly(outlines), atol=1e-5)
    assert np.isnan(found[1]).all()
    assert (found[0] == found[3]).all()


@given(x=st.floats(10, 50), y=st.floats(10, 40), radius=st.floats(3, 30), turn=st.floats(0, 1))
def test_the_points_lie_on_the_box_of_the_polygon(x, y, radius, turn):
    polygon = star(x, y, radius, turn=turn).astype(np.float32)
    (top, left, bottom, right) = points_of([polygon.ravel().tolist()])[0]
    low, high = polygon.min(0), polygon.max(0)
    assert (left[0], top[1], right[0], bottom[1]) == (low[0], low[1], high[0], high[1])
    for point in (top, left, bottom, right):
        assert (low <= point).all()
        assert (point <= high).all()


def encoded(bitmap: np.ndarray) -> dict[str, object]:
    return rle.encode(np.asfortranarray(bitmap.astype(np.uint8)))


def test_run_lengths_are_counted_from_corner_to_corner_of_pixels():
    bitmap = np.zeros(SIZE)
    bitmap[10:20, 5:15] = 1
    bitmap[8:10, 12] = 1  # a tip upward of one pixel's width
    assert points_of(encoded(bitmap)).tolist() == [[[12.5, 8], [5, 15], [10, 20], [15, 15]]]
    as_numbers = {"size": list(SIZE), "counts": [10 + 5 * 48, 10, 38, 10, 48 * 58 - 20]}
    assert points_of(as_numbers).tolist() == [[[6, 10], [5, 15], [6, 20], [7, 15]]]
    assert np.isnan(points_of(encoded(np.zeros(SIZE)))).all()


def test_a_gap_in_the_first_row_of_pixels_ends_an_edge():
    bitmap = np.zeros(SIZE)
    bitmap[11:30, 10:30] = 1
    bitmap[10, 12:15] = bitmap[10, 20:30] = 1
    assert points_of(encoded(bitmap))[0, 0].tolist() == [13.5, 10]


@given(width=st.integers(1, 40), height=st.integers(1, 40))
def test_a_rectangle_is_the_same_as_a_polygon_and_as_run_lengths(width, height):
    bitmap = np.zeros(SIZE)
    bitmap[4 : 4 + height, 7 : 7 + width] = 1
    x, y = 7 + width, 4 + height
    polygon, runs = points_of([[7, 4, x, 4, x, y, 7, y]], encoded(bitmap))
    assert polygon.tolist() == runs.tolist() == edge_middles(np.array([[7, 4, x, y]]))[0].tolist()


# Files ---------------------------------------------------------------------------------------------------------------

TRIANGLE = {"image_id": 1, "bbox": [10, 5, 30, 35], "segmentation": [[20, 5, 40, 20, 25, 40, 10, 30]]}
POINTS = [[20, 5], [10, 30], [25, 40], [40, 20]]
BARE = {"image_id": 2, "bbox": [10, 10, 20, 30]}


def read(folder, *annotations, way: str | None = "masks") -> CocoDataset:
    path, images = make_coco(folder, annotations)
    return CocoDataset(path, images, eval_pipeline((64, 64)), extreme_points=way)


def test_objects_have_the_points_of_their_masks_where_the_file_has_no_others(tmp_path):
    given = [[21, 5], [10, 31], [26, 40], [40, 21]]
    # The second object is of the first image, and sorted before the first one.
    data = read(tmp_path, {**TRIANGLE, "image_id": 2}, {**TRIANGLE, "extreme_points": given})
    assert data.objects(0)["extreme_points"].tolist() == [given]
    assert data.objects(1)["extreme_points"].tolist() == [POINTS]
    assert data.masks is None
    flat = read(tmp_path / "flat", {**BARE, "extreme_points": [value for point in given for value in point]})
    assert flat.objects(1)["extreme_points"].tolist() == [given]


def test_without_the_option_no_points_are_read(tmp_path):
    assert "extreme_points" not in read(tmp_path, TRIANGLE, way=None).fields


def test_an_object_without_a_mask_is_named_unless_boxes_will_do(tmp_path):
    with pytest.raises(InputError) as raised:
        read(tmp_path, TRIANGLE, BARE, {**BARE, "id": 77})
    assert str(raised.value).endswith(
        "2 of 3 annotations have neither a mask nor extreme_points (2, 77); add masks, or set "
        "data.extreme_points=boxes to take the middles of the edges of their boxes"
    )
    data = read(tmp_path, TRIANGLE, BARE, way="boxes")
    assert data.objects(0)["extreme_points"].tolist() == [POINTS]
    assert data.objects(1)["extreme_points"].tolist() == [[[20, 10], [10, 25], [20, 40], [30, 25]]]


def test_crowds_need_no_mask(tmp_path):
    data = read(tmp_path, TRIANGLE, {**BARE, "iscrowd": 1})
    assert torch.isfinite(data.fields["extreme_points"]).all()


@pytest.mark.parametrize("points", [[[1, 2]], "four", [[1, 2], [3, 4], [5, 6], [7, math.inf]], 3])
def test_points_of_a_file_that_are_none_are_named(tmp_path, points):
    with pytest.raises(InputError, match=r"annotation 1 has extreme_points .*; give \[x, y\] of the top, left, bottom"):
        read(tmp_path, {**TRIANGLE, "extreme_points": points})


def test_another_way_is_refused(tmp_path):
    message = r"^data.extreme_points='mask' is unknown; choose one of masks, boxes or null$"
    with pytest.raises(InputError, match=message):
        read(tmp_path, TRIANGLE, way="mask")
    with pytest.raises(InputError, match=message):
        CocoDataModule(root=tmp_path, extreme_points="mask")


def test_points_of_a_large_file_are_found_once_for_each_way(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LEAST_BYTES", 1)
    first = read(tmp_path, TRIANGLE, BARE, way="boxes")
    assert len(list(tmp_path.rglob("*.cache.npz"))) == 1
    monkeypatch.setattr("centernet.data.coco_format.read_extreme_points", None)  # not called again
    path = tmp_path / "annotations" / "instances_train.json"
    again = CocoDataset(path, tmp_path / "train", eval_pipeline((64, 64)), extreme_points="boxes")
    assert torch.equal(first.fields["extreme_points"], again.fields["extreme_points"])
    monkeypatch.undo()
    with pytest.raises(InputError, match="1 of 2 annotations have neither a mask"):
        CocoDataset(path, tmp_path / "train", eval_pipeline((64, 64)), extreme_points="masks")


def test_built_in_shapes_have_points_on_their_boxes(shapes):
    data = ShapesDataModule(
        shapes, train_count=24, val_count=8, num_workers=0, resolution=(64, 64), extreme_points="masks"
    )
    data.setup("fit")
    for dataset in data.datasets.values():
        known = ~dataset.fields["crowd"]
        points, boxes = dataset.fields["extreme_points"][known], dataset.fields["boxes"][known]
        sides = torch.stack([points[:, 1, 0], points[:, 0, 1], points[:, 3, 0], points[:, 2, 1]], 1)
        torch.testing.assert_close(sides.double(), boxes, atol=0.011, rtol=0)
    batch = next(iter(data.val_dataloader()))
    assert batch["objects"]["extreme_points"].shape[2:] == (4, 2)


def test_data_without_masks_takes_boxes_or_is_refused(cuboids):
    options = {"root": cuboids, "num_workers": 0, "resolution": (64, 128)}
    data = KittiDataModule(**options, extreme_points="boxes")
    data.setup("validate")
    fields = data.datasets["val"].fields
    assert torch.equal(fields["extreme_points"], torch.from_numpy(edge_middles(fields["boxes"].numpy())))
    refused = KittiDataModule(**options, extreme_points="masks")
    with pytest.raises(InputError, match=r"has no masks to find extreme points in; set data.extreme_points=boxes"):
        refused.setup("validate")


def test_other_data_for_a_task_with_extreme_points_is_read_with_them():
    needs = ("boxes", "labels", "extreme_points")
    assert options_for(needs, {}) == {"extreme_points": "masks"}
    assert options_for(needs, {"extreme_points": "boxes"}) == {"extreme_points": "boxes"}
    assert options_for(("boxes",), {"extreme_points": "boxes"}) == {}
    assert reader_for(needs, {"extreme_points": "boxes"})["extreme_points"] == "boxes"


def test_detections_are_written_with_their_points(tmp_path):
    data = read(tmp_path, TRIANGLE)
    found = {
        "boxes": torch.tensor([[10.0, 5, 40, 40]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([0]),
        "extreme_points": torch.tensor([POINTS]) + 0.123,
    }
    data.write_results(tmp_path, {1: found})
    (row,) = json.loads((tmp_path / "detections.json").read_text())
    assert row["extreme_points"] == [[x + 0.12, y + 0.12] for x, y in POINTS]
