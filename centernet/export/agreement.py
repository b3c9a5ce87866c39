"""Whether an exported file finds what PyTorch finds: names, shapes, then values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from centernet.errors import InputError, some
from centernet.ops.boxes import pairwise_iou

Found = Mapping[str, np.ndarray]

# Tolerances of scores and of other values (pixels, meters, radians): absolute, and relative to their size. Runtimes add
# in other orders, and 16 bits have eleven of precision.
TOLERANCES = {"fp32": ((1e-4, 1e-3), (0.05, 1e-3)), "fp16": ((2e-3, 0.05), (1.0, 0.03))}
# The share of detections that may differ by more: a peak between two nearly equal cells, a joint between two peaks or
# an angle between two bins may fall to either side by a rounding error. In 8 bits: that may not be found again.
MOST_JUMPS = {"fp32": 0.01, "fp16": 0.05, "int8": 0.2}
# In 8 bits, what PyTorch finds with at least this score is to be found with this overlap.
SURE, OVERLAP = 0.3, 0.5


class MismatchError(RuntimeError):
    """An exported file does not find what PyTorch finds."""


class Agreement(NamedTuple):
    """How near a file comes to PyTorch on some images.

    ``rows``: PyTorch's detections that were compared; ``jumps``: those of them that differ by more than the tolerance,
    or, if these are more, those of the file that PyTorch does not have; ``largest``: the largest difference by output,
    among the others. In 8 bits: ``rows`` of at least ``SURE``, ``jumps`` without a box that fits.
    """

    images: int
    rows: int
    jumps: int
    largest: dict[str, float]

    def lines(self) -> list[str]:
        """The report, for people."""
        title = f"compared with PyTorch on {self.images} images: {self.rows} detections, {self.jumps} differ"
        if not self.rows:
            return [title, "  these images show nothing that PyTorch finds; give others with --images"]
        return [title, *(f"  largest difference of {name}: {value:.3g}" for name, value in self.largest.items())]


def compare(pairs: Sequence[tuple[Found, Found]], precision: str = "fp32") -> Agreement:
    """Compare pairs of batched detections, PyTorch's first, ``[N, K, ...]`` each.

    Raises ``MismatchError`` for other names, then other shapes, then other values. Values are compared row by row, each
    of PyTorch's with the most similar one of its class: equal scores may come in any order. Left out are rows without a
    score, and those so near the last score that others may take their place.
    """
    if not pairs:
        raise InputError("there are no images to compare the exported file on; give some with --images")
    rows, jumps, images = 0, 0, 0
    largest: dict[str, float] = {}
    for wanted, found in pairs:
        _check_names_and_shapes(wanted, found)
        for n in range(len(wanted["scores"])):
            images += 1
            mine, theirs = ({name: value[n] for name, value in each.items()} for each in (wanted, found))
            agree = _agree_roughly if precision == "int8" else _agree
            count, missed, differences = agree(mine, theirs, precision)
            _, invented, _ = agree(theirs, mine, precision)
            rows, jumps = rows + count, jumps + max(missed, invented)
            for name, value in differences.items():
                largest[name] = max(largest.get(name, 0.0), value)
    agreement = Agreement(images, rows, jumps, largest)
    if jumps > MOST_JUMPS[precision] * rows:
        raise MismatchError(f"{jumps} of {rows} detections of the exported file differ from PyTorch's")
    return agreement


def _check_names_and_shapes(wanted: Found, found: Found) -> None:
    if list(wanted) != list(found):
        raise MismatchError(f"the exported file's outputs are {some(found, 20)}; PyTorch's are {some(wanted, 20)}")
    for name, value in wanted.items():
        if value.shape != found[name].shape:
            raise MismatchError(
                f"the exported file's {name} has the shape {list(found[name].shape)}; PyTorch's is {list(value.shape)}"
            )
        if not np.isfinite(found[name]).all() and np.isfinite(value).all():
            raise MismatchError(f"the exported file's {name} has values that are not finite; PyTorch's are finite")


def _agree(wanted: Found, found: Found, precision: str) -> tuple[int, int, dict[str, float]]:
    """Rows of one image that are compared, how many differ, and the largest differences of the others."""
    of_scores, of_others = TOLERANCES[precision]
    scores = wanted["scores"]
    reach = of_scores[0] + of_scores[1] * scores[-1]
    compared = (scores > 0) & ((scores > scores[-1] + reach) | (scores[-1] == 0))
    largest = dict.fromkeys((name for name in wanted if name != "labels"), 0.0)
    if not compared.any():
        return 0, int((found["scores"] > of_scores[0]).any() and not (scores > 0).any()), largest
    worst = np.zeros((int(compared.sum()), len(scores)))
    differences = {}
    for name in largest:
        mine, theirs = (each[name].reshape(len(scores), -1).astype(np.float64) for each in (wanted, found))
        mine = mine[compared]
        difference = np.abs(mine[:, None] - theirs[None])
        absolute, relative = of_scores if name == "scores" else of_others
        tolerance = absolute + relative * np.abs(mine)[:, None]
        worst = np.maximum(worst, np.nan_to_num(difference / tolerance, nan=np.inf).max(-1))
        differences[name] = difference.max(-1)
    worst = np.where(wanted["labels"][compared, None] == found["labels"][None], worst, np.inf)
    nearest = worst.argmin(1)
    agrees = worst.min(1) <= 1
    for name, difference in differences.items():
        if agrees.any():
            largest[name] = float(difference[np.arange(len(nearest)), nearest][agrees].max())
    return len(nearest), int((~agrees).sum()), largest


def _agree_roughly(wanted: Found, found: Found, precision: str) -> tuple[int, int, dict[str, float]]:
    """Confident detections of one image, how many have no box of their class in ``found``, and the differences of those
    that have."""
    sure = wanted["scores"] >= SURE
    largest = {"scores": 0.0, "boxes": 0.0}
    if not sure.any():
        return 0, 0, largest
    overlaps = pairwise_iou(torch.from_numpy(wanted["boxes"][sure]), torch.from_numpy(found["boxes"])).numpy()
    overlaps = np.where(wanted["labels"][sure, None] == found["labels"][None], overlaps, 0)
    # Of two boxes that fit, the more confident one: detections are sorted by score.
    fits = overlaps >= OVERLAP
    best, is_found = fits.argmax(1), fits.any(1)
    for name in largest:
        if is_found.any():
            difference = np.abs(wanted[name][sure] - found[name][best])[is_found]
            largest[name] = float(difference.max())
    return int(sure.sum()), int((~is_found).sum()), largest
