"""Mosaic: four images of a batch in one input (Bochkovskiy et al., 2020, arXiv:2004.10934, Sec. 3.3).

An image is combined with the next three of its batch, already read, warped and color-jittered, so a mosaic costs only
the copying of its pixels. It depends on the batch alone and is reproducible from the seed with any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from centernet.data.transforms import keep_shown
from centernet.fields import hide_outside
from centernet.ops.affine import Size
from centernet.structures import Sample

# Minimum distance from the input's edges, as a fraction of its side, at which the four images meet.
MARGIN = 0.25
# Separates the random stream of a sample's mosaic from that of its warp.
_STREAM = 4


def draw_cut(probability: float, size: Size, *entropy: int) -> tuple[int, int] | None:
    """Where the four images meet (x, y), or None for a plain sample; determined by ``entropy``."""
    rng = np.random.default_rng((_STREAM, *entropy))
    if rng.random() >= probability:
        return None
    return tuple(int(side * rng.uniform(MARGIN, 1 - MARGIN)) for side in size[::-1])


def make_mosaics(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples of a batch; those with a ``mosaic`` cut are combined with the next three."""
    made = list(samples)
    for n, sample in enumerate(samples):
        if (cut := sample.get("mosaic")) is not None:
            four = [samples[(n + step) % len(samples)] for step in range(4)]
            made[n] = {**sample, **join_quadrants(four, cut)}
    return made


def join_quadrants(samples: Sequence[Sample], cut: tuple[int, int]) -> dict[str, object]:
    """``image`` and ``objects`` of a mosaic: top left, top right, bottom left and bottom right of four samples."""
    height, width = samples[0]["image"].shape[1:]
    x, y = cut
    image = torch.empty_like(samples[0]["image"])
    objects = []
    for n, sample in enumerate(samples):
        left, right = ((0, x), (x, width))[n % 2]
        top, bottom = ((0, y), (y, height))[n // 2]
        image[:, top:bottom, left:right] = sample["image"][:, top:bottom, left:right]
        boxes = sample["objects"]["boxes"]
        low, high = boxes.new_tensor([left, top] * 2), boxes.new_tensor([right, bottom] * 2)
        shown = hide_outside(sample["objects"], low[:2], high[:2])
        objects.append(keep_shown(shown, boxes.clamp(low, high)))
    return {"image": image, "objects": {name: torch.cat([one[name] for one in objects]) for name in objects[0]}}
