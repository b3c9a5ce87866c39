"""From images to the network's input: one warp, a color map, and objects moved with the image.

Augmentation of Objects as Points, Sec. 5; the color terms are those of AlexNet (PCA lighting) and of CornerNet.

Convention: see ``centernet.ops.affine``; ``input_from_image`` is the only geometric state; ``centernet.fields.move``
moves objects with it, never albumentations. The warps are in ``centernet.data.warps``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from centernet.data.masks import Masks
from centernet.data.warps import WARPS, A, EvalWarp
from centernet.fields import cut_objects, index
from centernet.ops.affine import Size
from centernet.ops.boxes import box_area, clip_boxes
from centernet.structures import InputError, Objects

# A truncated object is kept if, along one axis, more than this many input pixels (two cells) or more than half of it
# remain.
KEPT_SIDE, KEPT_SHARE = 8.0, 0.5
# A box that lost more than this share of its area is a poor fit for the visible part of its object.
CUT_SHARE = 0.1

# Standard deviation of the blur in pixels, and of the noise as a share of the range of values.
BLUR, NOISE = (0.5, 2.0), (0.01, 0.05)

# Principal components of ImageNet's colors (Krizhevsky et al., 2012), with the values CornerNet and CenterNet use, RGB
# rows.
PCA_VALUES = np.array([0.2141788, 0.01817699, 0.00341571])
PCA_VECTORS = np.array(
    [
        [-0.56089297, 0.71832671, 0.41158938],
        [-0.58327470, 0.00994535, -0.81221408],
        [-0.58752847, -0.69563484, 0.41340352],
    ]
)
GRAY = np.array([0.299, 0.587, 0.114])


class ColorJitter(A.ImageOnlyTransform):
    """Brightness, contrast and saturation in random order, then hue and PCA lighting, as one affine map of the colors.

    Each of the first three scales by 1 ± its amount; ``hue`` turns the colors around the gray axis by up to so many
    degrees; ``lighting`` is the standard deviation along the color axes. All are affine in the pixel's color, so a
    single 3x4 matrix applies them in one pass over the uint8 image (the original works in float and does not saturate
    at 0 and 255).
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        lighting: float = 0.1,
        hue: float = 0.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.brightness, self.contrast, self.saturation, self.lighting = brightness, contrast, saturation, lighting
        self.hue = hue

    def color_matrix(self, mean_gray: float) -> np.ndarray:
        """A random affine color map ``[3, 4]`` for RGB in 0 .. 255, given the image's mean gray value."""
        rng = self.random_generator
        linear, constant = np.eye(3), np.zeros(3)
        for step in rng.permutation(3):
            amount = (self.brightness, self.contrast, self.saturation)[step]
            alpha = 1 + rng.uniform(-amount, amount)
            linear, constant = linear * alpha, constant * alpha
            if step == 1:
                constant = constant + (1 - alpha) * mean_gray
            elif step == 2:
                linear = linear + (1 - alpha) * GRAY
        if self.hue:
            turn = _turn_around_gray(rng.uniform(-self.hue, self.hue))
            linear, constant = turn @ linear, turn @ constant
        constant = constant + 255 * PCA_VECTORS @ (PCA_VALUES * rng.normal(0, self.lighting, 3))
        return np.column_stack([linear, constant])

    def apply(self, image: np.ndarray, **params: Any) -> np.ndarray:
        mean_gray = float(GRAY @ cv2.mean(image)[:3])
        return cv2.transform(image, self.color_matrix(mean_gray))


def _turn_around_gray(degrees: float) -> np.ndarray:
    """Rotation ``[3, 3]`` of RGB colors around the axis of grays (Rodrigues' formula)."""
    angle = np.deg2rad(degrees)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) / 3


def train_pipeline(
    size: Size,
    warp: str | None = "crop",
    color: Mapping[str, float] | None = None,
    blur: float = 0.0,
    noise: float = 0.0,
    mode: str = "fit",
    **warp_options: Any,
) -> A.Compose:
    """The training pipeline: ``pipeline(image=RGB uint8, input_from_image=eye(3))``.

    ``warp``: ``crop``, ``jitter``, ``stretch``, ``zoom`` or None (no augmentation: as in evaluation, with the ``mode``
    of ``EvalWarp``); ``color``: options of ``ColorJitter`` or None; ``blur``, ``noise``: probabilities; other options
    belong to the warp.
    """
    if warp is None:
        # Images of a batch share one size, which `keep` does not guarantee.
        steps: list[A.BasicTransform] = [EvalWarp(size, "fit" if mode == "keep" else mode)]
    elif warp in WARPS:
        _require_known("augment", WARPS[warp], warp_options)
        steps = [WARPS[warp](size, **warp_options)]
    else:
        raise InputError(f"augment.warp={warp!r} is unknown; choose one of {', '.join(WARPS)} or null")
    if color is not None:
        _require_known("augment.color", ColorJitter, color)
        steps.append(ColorJitter(**color))
    for name, probability, step in (
        ("blur", blur, partial(A.GaussianBlur, sigma_limit=BLUR)),
        ("noise", noise, partial(A.GaussNoise, std_range=NOISE)),
    ):
        if not 0 <= probability <= 1:
            raise InputError(f"augment.{name}={probability} is not a probability; choose a value from 0 to 1")
        if probability:
            steps.append(step(p=probability))
    return A.Compose(steps)


def _require_known(where: str, step: type, options: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(step).parameters if name != "size"]
    for option in options:
        if option not in known:
            raise InputError(f"{where}.{option} is unknown; {step.__name__} has the options {', '.join(known)}")


def eval_pipeline(size: Size, mode: str = "fit", divisor: int = 32, scale: float = 1.0) -> A.Compose:
    """The pipeline of evaluation, prediction and export; see ``EvalWarp``."""
    return A.Compose([EvalWarp(size, mode, divisor, scale)])


def seed_pipeline(pipeline: A.Compose, *entropy: int) -> None:
    """Seed every step of a pipeline from these numbers, each with a stream of its own.

    (albumentations gives all steps one and the same seed, which would tie the crop to the colors.)
    """
    for step, child in zip(
        pipeline.transforms, np.random.SeedSequence(entropy).spawn(len(pipeline.transforms)), strict=True
    ):
        step.random_generator = np.random.default_rng(child)
        step.py_random.seed(int(child.generate_state(1)[0]))


def warp_image(pipeline: A.Compose, image: np.ndarray) -> tuple[Tensor, Tensor]:
    """Run a pipeline on an RGB uint8 image ``[H, W, 3]``: input uint8 ``[3, h, w]`` and matrix float64 ``[3, 3]``."""
    out = pipeline(image=image, input_from_image=np.eye(3))
    return torch.from_numpy(out["image"]).permute(2, 0, 1), torch.from_numpy(out["input_from_image"])


def trim_objects(
    objects: Objects, input_from_image: np.ndarray, size: Size, masks: Masks | None = None, first: int = 0
) -> Objects:
    """Objects in input space, reduced to their visible part in an input of ``size`` (height, width).

    Boxes are clipped. A box that lost more than a tenth of its area, or that is the hull of a rotated box, becomes the
    box of the visible part of its mask, if it has one: row ``first + n`` of ``masks`` belongs to object n. Objects with
    too little left are dropped, crowd regions only if nothing is left.
    """
    whole = objects["boxes"]
    boxes = clip_boxes(whole, size[1], size[0])
    left = box_area(boxes)
    if masks is not None:
        is_turned = bool(abs(input_from_image[0, 1]) > 1e-9)
        is_cut = (left < (1 - CUT_SHARE) * box_area(whole)) | is_turned
        for n in (is_cut & (left > 0)).nonzero().flatten().tolist():
            if masks.has_mask(first + n):
                shown = masks.visible_box(first + n, input_from_image, size)
                boxes[n] = 0 if shown is None else torch.from_numpy(shown)
    return keep_shown(objects, boxes)


def keep_shown(objects: Objects, shown: Tensor) -> Objects:
    """Objects with the boxes ``shown [M, 4]`` of their visible parts, without those that have too little left."""
    whole = objects["boxes"]
    sides, whole_sides = shown[:, 2:] - shown[:, :2], whole[:, 2:] - whole[:, :2]
    is_enough = ((sides > KEPT_SIDE) | (sides > KEPT_SHARE * whole_sides)).any(-1) | objects["crowd"]
    return index(cut_objects(objects, shown), is_enough & (sides > 0).all(-1))
