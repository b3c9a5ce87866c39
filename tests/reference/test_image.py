"""Radii, Gaussians and affine maps against measurements of the original (image_xy)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from centernet.ops.affine import crop_matrix, transform_points
from centernet.ops.heatmap import dense_owner, draw_gaussians, gaussian_radius, gaussian_windows
from tests.reference.cases import Case, cases, measures, read

FILE = "image_xy"


def heatmap_is_first(entry: dict) -> bool:
    return "FIRST" in entry["function"]


def is_dense(entry: dict) -> bool:
    return "draw_dense_reg" in entry["function"]


@pytest.mark.parametrize("entry", cases(FILE, measures("gaussian_radius")))
def test_the_radius_is_that_of_the_original(entry):
    case = read(FILE, entry)
    height, width = torch.from_numpy(case.inputs["hw"]).unbind(-1)
    radius = gaussian_radius(height, width, case.params["min_overlap"])
    np.testing.assert_allclose(radius.numpy(), case.outputs["radius"], rtol=1e-12)
    assert radius.long().clamp(min=0).tolist() == case.outputs["int_radius"].tolist()


@pytest.mark.parametrize("entry", cases(FILE, measures("gaussian2D")))
def test_one_gaussian_is_that_of_the_original(entry):
    case = read(FILE, entry)
    side = case.params["shape"][0]
    radius = side // 2
    assert case.params["sigma"] == pytest.approx(side / 6)
    drawn = draw(np.array([[radius, radius]]), np.array([radius]), (side, side))
    np.testing.assert_allclose(drawn, case.outputs["g"], atol=1e-7)


@pytest.mark.parametrize(
    "entry", cases(FILE, lambda entry: measures("draw_umich_gaussian")(entry) and not is_dense(entry))
)
def test_many_gaussians_are_those_of_the_original(entry):
    case = read(FILE, entry)
    size = (case.params["height"], case.params["width"])
    centers, radius, peak = (case.inputs[name] for name in ("centers_xy", "radius", "k"))
    if (peak == 1).all():
        drawn = draw(centers, radius, size)
    else:  # the original can lower a peak; nothing here does, but the windows must be the same
        owner, cell, value = gaussian_windows(torch.from_numpy(centers), torch.from_numpy(radius), size)
        drawn = torch.zeros(size).view(-1)
        drawn.scatter_reduce_(0, cell, value * torch.from_numpy(peak).float()[owner], "amax")
        drawn = drawn.view(size).numpy()
    np.testing.assert_allclose(drawn, case.outputs["heatmap"], atol=1e-6)


def draw(centers: np.ndarray, radius: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One channel of one image, as the package draws it."""
    zeros = torch.zeros(len(radius), dtype=torch.long)
    return draw_gaussians(torch.from_numpy(centers), torch.from_numpy(radius), zeros, (1, 1, *size), zeros)[
        0, 0
    ].numpy()


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: is_dense(entry) and not heatmap_is_first(entry)))
def test_a_dense_regression_belongs_to_the_largest_gaussian(entry):
    # Here the regression is drawn before the heatmap: an object is compared with those before it.
    case = read(FILE, entry)
    owner, drawn, is_largest, value = dense_regression(case)
    theirs = case.outputs["regmap"]
    np.testing.assert_allclose(drawn, case.outputs["heatmap"], atol=1e-6)
    is_shared = is_largest.sum(0) > 1
    ours = np.take_along_axis(value, owner.clip(0)[None, None], 0)[0]
    np.testing.assert_allclose(ours[:, (owner >= 0) & ~is_shared], theirs[:, (owner >= 0) & ~is_shared], atol=1e-4)
    assert (theirs[:, owner < 0] == 0).all()
    # Where several are largest, the original compares float64 with a float32 copy, so that rounding picks one of them.
    is_theirs = (np.abs(value - theirs) < 1e-4).all(1) & is_largest
    assert is_theirs.any(0)[is_shared].all()


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: is_dense(entry) and heatmap_is_first(entry)))
def test_a_dense_regression_drawn_after_the_heatmap_agrees_where_the_original_writes_it(entry):
    # An artifact of the original: with the heatmap drawn first, an object is compared with itself, a float64 Gaussian
    # with its own float32 copy in the heatmap, and the cells where the copy was rounded up are never written (they keep
    # 0 or what an earlier object left there). There the original trains toward a wrong value. Ours writes all cells.
    case = read(FILE, entry)
    owner, drawn, is_largest, value = dense_regression(case)
    theirs, heatmap = case.outputs["regmap"], case.outputs["heatmap"]
    np.testing.assert_allclose(drawn, heatmap, atol=1e-6)
    centers, radius = case.inputs["centers_xy"][owner], case.inputs["radius"][owner]
    y, x = np.indices(owner.shape)
    squared = (x - centers[..., 0]) ** 2 + (y - centers[..., 1]) ** 2
    exact = np.exp(-squared / (2 * ((2 * radius + 1) / 6) ** 2))
    is_written = (owner >= 0) & (is_largest.sum(0) == 1) & (exact >= heatmap)
    assert is_written.sum() > 0.1 * (owner >= 0).sum()
    ours = np.take_along_axis(value, owner.clip(0)[None, None], 0)[0]
    np.testing.assert_allclose(ours[:, is_written], theirs[:, is_written], atol=1e-4)


def dense_regression(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Owner and heatmap ``[H, W]``, which objects are largest ``[N, H, W]``, what they want ``[N, 2, H, W]``."""
    size = (case.params["height"], case.params["width"])
    centers, radius = (torch.from_numpy(case.inputs[name]) for name in ("centers_xy", "radius"))
    zeros = torch.zeros(len(radius), dtype=torch.long)
    owner, drawn = (field[0].numpy() for field in dense_owner(centers, radius, zeros, (1, *size)))
    each = np.stack([draw(centers[n : n + 1].numpy(), radius[n : n + 1].numpy(), size) for n in range(len(radius))])
    is_largest = (each >= drawn * (1 - 1e-6)) & (each > 0)
    value = np.broadcast_to(case.inputs["values"][:, :, None, None], (len(radius), 2, *size))
    if case.params["is_offset"]:
        y, x = np.indices(size)
        value = value - np.stack([np.stack([x - cx, y - cy]) for cx, cy in case.inputs["centers_xy"]])
    return owner, drawn, is_largest, value


@pytest.mark.parametrize("entry", cases(FILE, measures("get_affine_transform")))
def test_convention_crop_matrix_is_the_originals_affine_transform(entry):
    case = read(FILE, entry)
    width, height = case.params["output_size_wh"]
    # The original takes one extent or two, and reads the first; a shift moves the window by a share of the extent.
    extent = np.broadcast_to(np.asarray(case.params["scale"], np.float64), (2,))
    center = case.inputs["center"] + extent * np.asarray(case.params.get("shift", (0, 0)))
    matrix = crop_matrix(tuple(center), float(extent[0]), (height, width), case.params["rot"])
    points = torch.from_numpy(case.inputs["pts"]).double()
    # The original computes its matrix from three float32 points: a few 1e-4 of a pixel.
    close = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(matrix[:2, :2], case.outputs["trans"][:, :2], atol=1e-5)
    np.testing.assert_allclose(matrix[:2, 2], case.outputs["trans"][:, 2], **close)
    moved = transform_points(torch.from_numpy(matrix), points)
    np.testing.assert_allclose(moved, case.outputs["pts_trans"], **close)
    inverse = torch.from_numpy(np.linalg.inv(matrix))
    np.testing.assert_allclose(inverse[:2, :2], case.outputs["trans_inv"][:, :2], rtol=1e-4, atol=1e-4)
    back = transform_points(inverse, points)
    np.testing.assert_allclose(back, case.outputs["pts_trans_inv"], rtol=1e-4, atol=5e-2)
    if "transform_preds" in case.outputs:
        np.testing.assert_allclose(back, case.outputs["transform_preds"], rtol=1e-4, atol=5e-2)
