"""Between image and input, there and back, against measurements of the original (postprocess_xy)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from centernet.data.transforms import eval_pipeline, warp_image
from centernet.data.warps import EvalWarp
from centernet.detector import Detector
from centernet.ops.affine import crop_matrix, fit_extent
from centernet.tasks.ctdet import CtdetTask
from tests.reference.cases import Case, cases, measures, read

FILE = "postprocess_xy"


@pytest.mark.parametrize("entry", cases(FILE, measures("ctdet_post_process")))
def test_detections_are_lifted_to_the_image_pixels_of_the_original(entry):
    case = read(FILE, entry)
    grid_boxes = torch.from_numpy(case.inputs["dets"])
    size = (4 * case.params["h"], 4 * case.params["w"])
    matrices = [
        crop_matrix(tuple(center), float(np.ravel(extent)[0]), size)  # of two extents the original reads the first
        for center, extent in zip(case.inputs["c"], case.inputs["s"], strict=True)
    ]
    task = CtdetTask(case.params["num_classes"])
    detections = {"boxes": grid_boxes[..., :4] * 4, "scores": grid_boxes[..., 4], "labels": grid_boxes[..., 5].long()}
    lifted = task.lift(detections, {"input_from_image": torch.from_numpy(np.stack(matrices))})
    # Theirs are grouped by image and class: image, class from 1, x1, y1, x2, y2, score.
    rows = [
        [image, label + 1, *box, score]
        for image in range(len(grid_boxes))
        for label in range(task.num_classes)
        for box, score, own in zip(
            *(lifted[name][image].tolist() for name in ("boxes", "scores", "labels")), strict=True
        )
        if own == label
    ]
    np.testing.assert_allclose(rows, case.outputs["rows"], rtol=1e-4, atol=1e-2)


def shrunk(case: Case) -> np.ndarray:
    """The image (BGR) resized by the test scale, as the original does before it warps."""
    image, scale = case.inputs["image"], case.params["scale"]
    if scale == 1:
        return image
    height, width = image.shape[:2]
    return cv2.resize(image, (int(width * scale), int(height * scale)))


def input_size(case: Case) -> tuple[int, int]:
    return 4 * int(case.outputs["out_height"]), 4 * int(case.outputs["out_width"])


def original_matrix(case: Case) -> np.ndarray:
    return crop_matrix(tuple(case.outputs["c"]), float(np.ravel(case.outputs["s"])[0]), input_size(case))


def is_pre_process(entry: dict[str, Any]) -> bool:
    return entry["function"].startswith("BaseDetector.pre_process")


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: is_pre_process(entry) and not entry["params"]["fix_res"]))
def test_keep_pads_and_places_an_image_as_the_original(entry):
    case = read(FILE, entry)
    image = shrunk(case)
    pipeline = eval_pipeline((1, 1), "keep", divisor=case.params["pad"] + 1)
    pixels, matrix = warp_image(pipeline, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    assert tuple(pixels.shape[1:]) == input_size(case)
    np.testing.assert_allclose(matrix, original_matrix(case), atol=1e-9)
    assert_same_pixels(pixels, case)


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: is_pre_process(entry) and entry["params"]["fix_res"]))
def test_fit_places_an_image_as_the_original_where_that_shows_the_whole_image(entry):
    # The original takes the longer side of the image as the window's width, whatever the input's shape, and leaves it
    # as it is for other test scales. Where the input is not square this cuts off a part of the image or shrinks it
    # needlessly; ours always fits the whole image (`fit_extent`). The matrices agree where the two windows do.
    case = read(FILE, entry)
    image = cv2.cvtColor(shrunk(case), cv2.COLOR_BGR2RGB)
    size = input_size(case)
    assert size == (case.params["input_h"], case.params["input_w"])
    ours = EvalWarp(size).matrix(image.shape[:2])
    if fit_extent(image.shape[:2], size) == float(case.outputs["s"]):
        np.testing.assert_allclose(ours, original_matrix(case), atol=1e-9)
    assert_same_pixels(torch.from_numpy(Fixed(size, original_matrix(case))(image)).permute(2, 0, 1), case)


class Fixed(EvalWarp):
    """The package's warp with a matrix from elsewhere."""

    def __init__(self, size: tuple[int, int], matrix: np.ndarray) -> None:
        super().__init__(size)
        self.fixed = matrix

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.apply(image, self.fixed, self.size)


def assert_same_pixels(pixels: torch.Tensor, case: Case) -> None:
    """Normalized pixels, loosely: OpenCV interpolates differently from version to version."""
    names = {(0.408, 0.447, 0.470): "coco", (0.485, 0.456, 0.406): "imagenet"}
    name = names[tuple(round(value, 3) for value in case.params["mean"])]
    network_input = Detector(nn.Identity(), CtdetTask(1), name).normalize(pixels[None])
    # The original's images are BGR.
    difference = np.abs(network_input.flip(1).numpy() - case.outputs["images"].astype(np.float32))
    assert difference.mean() < 0.05
    assert (difference > 0.3).mean() < 0.02
