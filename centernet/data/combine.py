"""Inputs made of several images of a batch: copy-paste, mosaic, mixup, in this order.

The images have been read, warped and color-jittered already, so that only the copying of pixels is added. What becomes
of a sample depends on its batch alone and is reproducible from the seed with any number of workers.

- Copy-paste (Ghiasi et al., 2021, arXiv:2012.07177, Sec. 3): some objects of the next sample, cut out along their
  masks, or along their boxes where they have none. The edge is hard; the authors found no gain in a blended one.
- Mosaic (Bochkovskiy et al., 2020, arXiv:2004.10934, Sec. 3.3): four images meet, the sample and the next three.
- Mixup (Zhang et al., 2018, arXiv:1710.09412, Eq. 1; for detection arXiv:1902.04103, Sec. 3.1): the mean of two images,
  with the objects of both. The partner is half a batch away, so that two mosaics that are mixed have no image in common
  in a batch of eight or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from centernet.data.masks import Masks
from centernet.data.transforms import keep_shown
from centernet.fields import hide_points
from centernet.ops.affine import Size
from centernet.structures import Objects, Sample

# Minimum distance from the input's edges, as a fraction of its side, at which the four images of a mosaic meet.
MARGIN = 0.25
# The weight of an image in a mixture is drawn from Beta(8, 8): 0.5 with a standard deviation of 0.12, so that the
# objects of both stay visible.
BETA = 8.0
# Share of the next sample's objects that are pasted.
PASTED_SHARE = 0.5
# An object of which less than this share of its pixels is left is dropped.
LEFT_SHARE = 0.3
# Separates the random stream of these draws from that of the warp.
_STREAM = 4


class Shares(NamedTuple):
    """Fractions of the training samples that are combined with others of their batch."""

    mosaic: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0


class Plan(NamedTuple):
    """How a sample is combined with others, and where its own objects are cut out for them.

    ``cut``: where the four images of a mosaic meet (x, y); ``weight`` of the sample in a mixture; ``paste``: seed of
    the choice of pasted objects; each None if the sample is left without. ``rows``: the mask of each object among
    ``masks``.
    """

    cut: tuple[int, int] | None = None
    weight: float | None = None
    paste: int | None = None
    masks: Masks | None = None
    rows: Sequence[int] = ()


def draw_plan(shares: Shares, size: Size, *entropy: int) -> Plan:
    """The plan of a sample of this size (height, width), determined by ``entropy``.

    Every number is drawn whether it is used or not, so that one share does not change what the others do.
    """
    rng = np.random.default_rng((_STREAM, *entropy))
    is_mosaic = rng.random() < shares.mosaic
    cut = tuple(int(side * rng.uniform(MARGIN, 1 - MARGIN)) for side in size[::-1])
    is_mixed, is_pasted = rng.random() < shares.mixup, rng.random() < shares.copy_paste
    seed, weight = int(rng.integers(2**31)), float(rng.beta(BETA, BETA))
    return Plan(cut if is_mosaic else None, weight if is_mixed else None, seed if is_pasted else None)


def combine(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples of a batch, combined as their ``plan`` says; one alone stays as it is."""
    count = len(samples)
    if "plan" not in samples[0] or count == 1:
        return samples
    plans = [sample["plan"] for sample in samples]
    made = list(samples)
    for n, plan in enumerate(plans):
        if plan.paste is not None:
            other = samples[(n + 1) % count]
            made[n] = paste(samples[n], other, choose(other["objects"], plan.paste))
    samples, made = made, list(made)
    for n, plan in enumerate(plans):
        if plan.cut is not None:
            made[n] = join_quadrants([samples[(n + step) % count] for step in range(4)], plan.cut)
    samples, made = made, list(made)
    for n, plan in enumerate(plans):
        if plan.weight is not None:
            made[n] = mix(samples[n], samples[(n + count // 2) % count], plan.weight)
    return made


def choose(objects: Objects, seed: int) -> list[int]:
    """Which objects are pasted; crowd regions never."""
    chosen = np.random.default_rng(seed).random(len(objects["labels"])) < PASTED_SHARE
    return (chosen & ~objects["crowd"].numpy()).nonzero()[0].tolist()


def paste(sample: Sample, other: Sample, chosen: Sequence[int]) -> Sample:
    """A sample with the ``chosen`` objects of another one, in the places that they have there.

    What is partly hidden then is reduced to its visible part, and so is an object of the other sample that comes along
    in part because it overlaps a chosen one.
    """
    region = np.zeros(tuple(sample["image"].shape[1:]), np.uint8)
    windows = _windows(other)
    for n in chosen:
        region[windows[n]] |= _pixels_of(other, n, windows[n])
    pixels = cv2.copyTo(_rows(other["image"]), region, _rows(sample["image"]).copy())  # a tenth of torch.where's time
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    return {**sample, "image": image, "objects": _join([_shown(sample, 1 - region), _shown(other, region)])}


def join_quadrants(samples: Sequence[Sample], cut: tuple[int, int]) -> Sample:
    """A mosaic: the first of four samples with the top left, top right, bottom left and bottom right of them."""
    height, width = samples[0]["image"].shape[1:]
    x, y = cut
    image = torch.empty_like(samples[0]["image"])
    objects = []
    for n, sample in enumerate(samples):
        left, right = ((0, x), (x, width))[n % 2]
        top, bottom = ((0, y), (y, height))[n // 2]
        image[:, top:bottom, left:right] = sample["image"][:, top:bottom, left:right]
        boxes = sample["objects"]["boxes"]
        low, high = boxes.new_tensor([left, top]), boxes.new_tensor([right, bottom])
        inside = hide_points(sample["objects"], lambda at: ((at >= low) & (at < high)).all(-1))  # noqa: B023
        objects.append(keep_shown(inside, boxes.clamp(low.repeat(2), high.repeat(2))))
    return {**samples[0], "image": image, "objects": _join(objects)}


def mix(sample: Sample, other: Sample, weight: float) -> Sample:
    """``weight`` times the pixels of a sample plus the rest of the other's, and the objects of both."""
    pixels = cv2.addWeighted(_rows(sample["image"]), weight, _rows(other["image"]), 1 - weight, 0)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    return {**sample, "image": image, "objects": _join([sample["objects"], other["objects"]])}


def _rows(image: Tensor) -> np.ndarray:
    """An image ``[3, H, W]`` as OpenCV has it ``[H, W, 3]``, in the same memory."""
    return image.permute(1, 2, 0).numpy()


def _join(parts: Sequence[Objects]) -> Objects:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _windows(sample: Sample) -> list[tuple[slice, slice]]:
    """The rows and columns of the input that the box of each object touches."""
    low, high = sample["objects"]["boxes"].numpy().reshape(-1, 2, 2).swapaxes(0, 1)
    size = sample["image"].shape[:0:-1]
    corners = np.concatenate([np.floor(low).clip(0, size), np.ceil(high).clip(0, size)], 1).astype(int).tolist()
    return [(slice(y1, y2), slice(x1, x2)) for x1, y1, x2, y2 in corners]


def _pixels_of(sample: Sample, n: int, window: tuple[slice, slice]) -> np.ndarray:
    """The pixels uint8 (0 or 1) of object ``n`` in its window: those of its mask, or all if it has none."""
    plan, (rows, columns) = sample["plan"], window
    size = rows.stop - rows.start, columns.stop - columns.start
    if plan.masks is None or not plan.masks.has_mask(plan.rows[n]) or 0 in size:
        return np.ones(size, np.uint8)
    window_from_image = sample["input_from_image"].numpy().copy()
    window_from_image[:2, 2] -= columns.start, rows.start
    return plan.masks.pixels(plan.rows[n], window_from_image, size)


def _shown(sample: Sample, region: np.ndarray) -> Objects:
    """The objects of a sample of which only a region uint8 ``[H, W]`` (0 or 1) is shown.

    A side of a box moves if the outermost pixels of its object there are hidden. Joints whose pixel is hidden are not
    labeled.
    """
    whole = sample["objects"]["boxes"]
    boxes = whole.clone()
    for n, window in enumerate(_windows(sample)):
        shown = region[window]
        if not shown.any():
            boxes[n] = 0
        elif not shown.all():
            pixels = _pixels_of(sample, n, window)
            left = pixels & shown
            if left.sum() < max(LEFT_SHARE * pixels.sum(), 1):
                boxes[n] = 0
            else:
                extent, whole_extent = _extent(left, window), _extent(pixels, window)
                boxes[n] = torch.where(extent == whole_extent, whole[n], extent)
    last = torch.tensor(region.shape[::-1]) - 1

    def is_shown(points: Tensor) -> Tensor:
        place = points.round().long()
        x, y = place.clamp(torch.zeros_like(last), last).unbind(-1)
        return torch.from_numpy(region)[y, x].bool() | ((place < 0) | (place > last)).any(-1)

    return keep_shown(hide_points(sample["objects"], is_shown), boxes)


def _extent(pixels: np.ndarray, window: tuple[slice, slice]) -> Tensor:
    """The box in the input of those pixels in a window that are not 0."""
    x, y, width, height = cv2.boundingRect(pixels)
    x, y = x + window[1].start, y + window[0].start
    return torch.tensor([x, y, x + width, y + height])
