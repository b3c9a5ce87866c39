"""From images to the network's input: one warp, a color map, and objects moved with the image.

Augmentation of Objects as Points, Sec. 5 (flip, scale 0.6 to 1.3, crop, color); the color terms are those of AlexNet
(PCA lighting) and of CornerNet.

Convention: see ``centernet.ops.affine``; ``input_from_image`` is the only geometric state; ``centernet.fields.move``
moves objects with it, never albumentations.
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from centernet.data.masks import Masks
from centernet.fields import cut_objects, index
from centernet.ops.affine import (
    Size,
    crop_matrix,
    fit_extent,
    flip_matrix,
    place_matrix,
    stretch_matrix,
)
from centernet.ops.boxes import box_area, clip_boxes
from centernet.structures import InputError, Objects

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

# A truncated object is kept if, along one axis, more than this many input pixels (two cells) or more than half of it
# remain.
KEPT_SIDE, KEPT_SHARE = 8.0, 0.5
# A box that lost more than this share of its area is a poor fit for the visible part of its object.
CUT_SHARE = 0.1

# Standard deviation of the blur in pixels, and of the noise as a share of the range of values.
BLUR, NOISE = (0.5, 2.0), (0.01, 0.05)

EVAL_MODES = ("fit", "keep", "stretch", "width")

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


class Warp(A.DualTransform):
    """Base of all geometric steps: a subclass gives the matrix, and this class warps once and returns it.

    Besides ``image`` it takes ``input_from_image`` (start with the identity) and returns it multiplied.
    """

    def __init__(self, size: Size) -> None:
        super().__init__(p=1.0)
        self.size = tuple(size)

    def matrix(self, image_size: Size) -> np.ndarray:
        """Input-from-image matrix ``[3, 3]`` for an image of this size; may draw from ``self.random_generator``."""
        raise NotImplementedError

    def output_size(self, image_size: Size) -> Size:
        """(height, width) of the input made from an image of this size."""
        return self.size

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        return {"image": self.apply, "input_from_image": self.apply_to_matrix}

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        size = data["image"].shape[:2]
        return {"matrix": self.matrix(size), "output": self.output_size(size)}

    def apply(self, image: np.ndarray, matrix: np.ndarray, output: Size, **params: Any) -> np.ndarray:
        return cv2.warpAffine(image, matrix[:2], (output[1], output[0]), flags=cv2.INTER_LINEAR)

    def apply_to_matrix(self, input_from_image: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        return matrix @ input_from_image


class RandomCropWarp(Warp):
    """Random scale, crop and flip in one warp.

    The window is ``scale`` times as wide as the one that holds the whole image, ``scale`` drawn from ``scales``; its
    center is drawn uniformly, at least ``border`` pixels from the image's edge where the image allows (half, a quarter,
    ... of it where not); flipped left to right with probability ``flip``.
    """

    def __init__(
        self,
        size: Size,
        scales: Sequence[float] = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3),
        border: int = 128,
        flip: float = 0.5,
    ) -> None:
        super().__init__(size)
        self.scales, self.border, self.flip = tuple(scales), border, flip

    def matrix(self, image_size: Size) -> np.ndarray:
        height, width = image_size
        rng = self.random_generator
        extent = fit_extent(image_size, self.size) * float(rng.choice(self.scales))
        x, y = (int(rng.integers(b, side - b)) for side in (width, height) for b in [_border(self.border, side)])
        return _window(x, y, extent, self.size, width, mirrored=rng.random() < self.flip)


class JitterWarp(Warp):
    """Scale and shift drawn from clipped normals, then flip: the original's augmentation without random crops.

    With probability ``p_jitter`` the window is scaled by N(1, ``scale``) within 1 ± ``scale`` and shifted by N(0,
    ``shift``) within ± 2 ``shift``. ``fill``: before that, the window holds the ``whole`` image, and shifts count in
    its width, or it is as wide as the image (``width``, see ``EvalWarp``), and shifts count in the image's own width
    and height.
    """

    def __init__(
        self,
        size: Size,
        scale: float = 0.4,
        shift: float = 0.1,
        p_jitter: float = 1.0,
        flip: float = 0.5,
        fill: str = "whole",
    ) -> None:
        super().__init__(size)
        if fill not in ("whole", "width"):
            raise InputError(f"augment.fill={fill!r} is unknown; choose whole or width")
        self.scale, self.shift, self.p_jitter, self.flip, self.fill = scale, shift, p_jitter, flip, fill

    def matrix(self, image_size: Size) -> np.ndarray:
        height, width = image_size
        rng = self.random_generator
        extent = width if self.fill == "width" else fit_extent(image_size, self.size)
        unit_x, unit_y = (width, height) if self.fill == "width" else (extent, extent)
        x, y = width / 2, height / 2
        if rng.random() < self.p_jitter:
            x += unit_x * float(np.clip(rng.normal() * self.shift, -2 * self.shift, 2 * self.shift))
            y += unit_y * float(np.clip(rng.normal() * self.shift, -2 * self.shift, 2 * self.shift))
            extent *= float(np.clip(rng.normal() * self.scale + 1, 1 - self.scale, 1 + self.scale))
        return _window(x, y, extent, self.size, width, mirrored=rng.random() < self.flip)


class StretchWarp(Warp):
    """HarDNet's scale, aspect, shift, flip and rotation in one warp (arXiv:1909.00948, the authors' training).

    The image's shorter side is drawn from ``short_sides``, its longer side then keeps the aspect times a factor drawn
    from ``distortion``; the image's center is shifted, along each axis, by up to the larger of half of what hangs over
    and ``shift`` of the input; flipped with probability ``flip``, turned by up to ``rotation`` degrees. ``short_sides``
    are pixels of a 512 x 512 input and grow with the shorter side of another one.
    """

    def __init__(
        self,
        size: Size,
        short_sides: Sequence[float] = tuple(range(192, 897, 64)),
        distortion: Sequence[float] = (0.4, 1.6),
        shift: float = 0.2,
        flip: float = 0.5,
        rotation: float = 0.0,
    ) -> None:
        super().__init__(size)
        self.short_sides, self.distortion = tuple(short_sides), tuple(distortion)
        self.shift, self.flip, self.rotation = shift, flip, rotation

    def matrix(self, image_size: Size) -> np.ndarray:
        height, width = image_size
        rng = self.random_generator
        scale = float(rng.choice(self.short_sides)) * min(self.size) / 512 / min(image_size)
        other = scale * rng.uniform(*self.distortion)
        # The longer side takes the distortion; of a square image the width does.
        scales = (scale, other) if height > width else (other, scale)
        target = []
        for side, factor, room in zip((width, height), scales, self.size[::-1], strict=True):
            reach = max((side * factor - room) / 2, self.shift * room)
            target.append(room / 2 + rng.uniform(-reach, reach))
        turn = rng.uniform(-self.rotation, self.rotation)
        matrix = place_matrix((width / 2, height / 2), tuple(target), scales, turn)
        return matrix @ flip_matrix(width) if rng.random() < self.flip else matrix


class ZoomWarp(Warp):
    """Large-scale jitter: scale, aspect, position, flip and rotation in one warp (Ghiasi et al., 2021,
    arXiv:2012.07177, Sec. 3.1).

    The image is ``scale`` times as large as it fits into the input, and ``aspect`` times as wide in relation to its
    height; both are drawn from ranges on a logarithmic scale. It lies anywhere where it covers as much of the input as
    it can; flipped with probability ``flip``, turned by up to ``rotation`` degrees.
    """

    def __init__(
        self,
        size: Size,
        scale: Sequence[float] = (0.5, 1.6),
        aspect: Sequence[float] = (0.8, 1.25),
        flip: float = 0.5,
        rotation: float = 0.0,
    ) -> None:
        super().__init__(size)
        for name, pair in (("scale", scale), ("aspect", aspect)):
            if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
                raise InputError(
                    f"augment.{name}={list(pair)} is not a range; give two numbers above 0, such as [0.5, 2]"
                )
        self.scale, self.aspect, self.flip, self.rotation = tuple(scale), tuple(aspect), flip, rotation

    def matrix(self, image_size: Size) -> np.ndarray:
        rng = self.random_generator
        height, width = image_size
        factor, aspect = (float(np.exp(rng.uniform(*np.log(pair)))) for pair in (self.scale, self.aspect))
        factor *= self.size[1] / fit_extent(image_size, self.size)
        scales = (factor * aspect**0.5, factor / aspect**0.5)
        target = []
        for side, scale, room in zip((width, height), scales, self.size[::-1], strict=True):
            reach = abs(side * scale - room) / 2
            target.append(room / 2 + rng.uniform(-reach, reach))
        turn = rng.uniform(-self.rotation, self.rotation)
        matrix = place_matrix((width / 2, height / 2), tuple(target), scales, turn)
        return matrix @ flip_matrix(width) if rng.random() < self.flip else matrix


class EvalWarp(Warp):
    """The deterministic warp of evaluation and prediction.

    ``fit``: the whole image, centered, aspect kept, padded with black. ``keep``: the image's own resolution, padded to
    the next multiple of ``divisor`` (an exact multiple gets one more, as in the original). ``stretch``: resized to
    ``size``, aspect not kept. ``width``: the image's width fills the input's, aspect kept, centered vertically; excess
    height is cropped at the top and bottom (as the original does for KITTI).

    ``scale`` (test-time scales): ``keep`` pads the image resized by it; the others make an input that is so many times
    as large, to the nearest multiple of ``divisor``.
    """

    def __init__(self, size: Size, mode: str = "fit", divisor: int = 32, scale: float = 1.0) -> None:
        if mode not in EVAL_MODES:
            raise InputError(f"test_mode={mode!r} is unknown; choose one of {', '.join(EVAL_MODES)}")
        if scale != 1:
            size = tuple(max(int(side * scale / divisor + 0.5), 1) * divisor for side in size)
        super().__init__(size)
        self.mode, self.divisor, self.scale = mode, divisor, scale

    def output_size(self, image_size: Size) -> Size:
        if self.mode != "keep":
            return self.size
        return tuple((side | (self.divisor - 1)) + 1 for side in self._scaled(image_size))

    def _scaled(self, image_size: Size) -> Size:
        return tuple(max(int(side * self.scale), 1) for side in image_size)

    def matrix(self, image_size: Size) -> np.ndarray:
        height, width = image_size
        if self.mode == "stretch":
            return stretch_matrix(image_size, self.size)
        if self.mode == "keep":
            size = self.output_size(image_size)
            scaled = self._scaled(image_size)
            # The original centers on whole pixels here.
            place = crop_matrix((scaled[1] // 2, scaled[0] // 2), size[1], size)
            return place if self.scale == 1 else place @ stretch_matrix(image_size, scaled)
        extent = width if self.mode == "width" else fit_extent(image_size, self.size)
        return crop_matrix((width / 2, height / 2), extent, self.size)


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


def _window(x: float, y: float, extent: float, size: Size, width: int, mirrored: bool) -> np.ndarray:
    if not mirrored:
        return crop_matrix((x, y), extent, size)
    return crop_matrix((width - 1 - x, y), extent, size) @ flip_matrix(width)


def _border(border: int, side: int) -> int:
    """The largest of border, border / 2, border / 4, ... that leaves room for a center along this side."""
    for divisor in (2**n for n in itertools.count()):
        if side - border // divisor > border // divisor:
            return border // divisor
    raise AssertionError


WARPS: dict[str, type[Warp]] = {
    "crop": RandomCropWarp,
    "jitter": JitterWarp,
    "stretch": StretchWarp,
    "zoom": ZoomWarp,
}


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
