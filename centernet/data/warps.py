"""Geometric augmentation: where an image lies in the input, and its pixels there, in one pass.

Flip, scale 0.6 to 1.3 and crop of Objects as Points, Sec. 5 (``RandomCropWarp``), and what others use instead.

Convention: see ``centernet.ops.affine``; ``input_from_image`` is the only geometric state.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from centernet.errors import InputError
from centernet.ops.affine import (
    Size,
    crop_matrix,
    fit_extent,
    flip_matrix,
    place_matrix,
    stretch_matrix,
)

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

EVAL_MODES = ("fit", "keep", "stretch", "width")


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


class Span(NamedTuple):
    """Along one axis: the pixels of the image, from the first to before the last, that become pixels of the input."""

    source: tuple[int, int]
    target: tuple[int, int]

    @property
    def line(self) -> tuple[float, float]:
        """Factor and shift from the image's coordinates to those of the input: edges of pixels lie on edges."""
        factor = (self.target[1] - self.target[0]) / (self.source[1] - self.source[0])
        return factor, self.target[0] - 0.5 - factor * (self.source[0] - 0.5)


def span(side: int, scale: float, middle: float, room: int) -> Span:
    """The span closest to an image of ``side`` pixels, ``scale`` times as large, with its middle at ``middle``, in an
    input of ``room`` pixels: all of the image, or all of the input."""
    length = side * scale
    if length <= room:
        shown = min(max(round(length), 1), room)
        first = min(max(round(middle - length / 2), 0), room - shown)
        return Span((0, side), (first, first + shown))
    taken = min(max(round(room / scale), 1), side)
    first = min(max(round((length / 2 - middle) / scale), 0), side - taken)
    return Span((first, first + taken), (0, room))


class Spans(NamedTuple):
    """A rectangle of the image that becomes one of the input; ``mirrored``: the image's width, if the spans count in
    its mirror image."""

    rows: Span
    columns: Span
    mirrored: int | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Input-from-image matrix ``[3, 3]``."""
        (scale_x, shift_x), (scale_y, shift_y) = self.columns.line, self.rows.line
        matrix = np.array([[scale_x, 0.0, shift_x], [0.0, scale_y, shift_y], [0.0, 0.0, 1.0]])
        return matrix if self.mirrored is None else matrix @ flip_matrix(self.mirrored)

    def resize(self, image: np.ndarray, size: Size) -> np.ndarray:
        """The input of ``size`` (height, width), black around the rectangle."""
        ((top, bottom), (y, below)), ((left, right), (x, after)) = self.rows, self.columns
        if self.mirrored is not None:
            left, right = self.mirrored - right, self.mirrored - left
        part = cv2.resize(image[top:bottom, left:right], (after - x, below - y), interpolation=cv2.INTER_LINEAR)
        if self.mirrored is not None:
            part = cv2.flip(part, 1)
        if part.shape[:2] == tuple(size):
            return part
        return cv2.copyMakeBorder(part, y, size[0] - below, x, size[1] - after, cv2.BORDER_CONSTANT)


class ZoomWarp(Warp):
    """Large-scale jitter: scale, aspect, position, flip and rotation in one warp (Ghiasi et al., 2021,
    arXiv:2012.07177, Sec. 3.1).

    The image is ``scale`` times as large as it fits into the input, and ``aspect`` times as wide in relation to its
    height; both are drawn from ranges on a logarithmic scale. It lies anywhere where it covers as much of the input as
    it can; flipped with probability ``flip``, turned by up to ``rotation`` degrees.

    Without rotation, whole pixels of the image become whole pixels of the input (scale and place are rounded to that),
    which takes half of a warp's time.
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
        placed = self._draw(image_size)
        return placed.matrix if isinstance(placed, Spans) else placed

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        placed = self._draw(data["image"].shape[:2])
        if isinstance(placed, Spans):
            return {"matrix": placed.matrix, "output": self.size, "spans": placed}
        return {"matrix": placed, "output": self.size}

    def apply(
        self, image: np.ndarray, matrix: np.ndarray, output: Size, spans: Spans | None = None, **params: Any
    ) -> np.ndarray:
        return super().apply(image, matrix, output) if spans is None else spans.resize(image, output)

    def _draw(self, image_size: Size) -> Spans | np.ndarray:
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
        is_mirrored = rng.random() < self.flip
        if not self.rotation:
            columns, rows = map(span, (width, height), scales, target, self.size[::-1])
            return Spans(rows, columns, width if is_mirrored else None)
        matrix = place_matrix((width / 2, height / 2), tuple(target), scales, turn)
        return matrix @ flip_matrix(width) if is_mirrored else matrix


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
