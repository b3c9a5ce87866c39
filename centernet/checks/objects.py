"""Checks of classes and objects: enough of each, large enough, not too many, not in one cell; files listed twice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from centernet.checks.content import Grid, Split, input_boxes
from centernet.checks.findings import Example, Finding, counted, share, spread

FEW = 10  # training objects of a class
SMALL = (0.05, 0.5)  # shares of objects below a cell: a warning, and serious
LOST = (0.01, 0.2)  # the same for objects whose centers share a cell
MOSTLY_EMPTY = 0.5  # of the images


def check_classes(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Objects and classes of both splits, together."""
    for name, split in splits.items():
        if not split.is_object.any():
            why = "nothing can be learned" if name == "train" else "there is no AP to choose the best checkpoint by"
            yield Finding("objects", "serious", f"no image has an object, so {why}", "check the annotations", name)
    if len(splits) < 2 or not all(split.is_object.any() for split in splits.values()):
        return
    train, val = splits["train"].counts, splits["val"].counts
    names = np.array(splits["train"].class_names)
    absent = {
        "val": (
            (train > 0) & (val == 0),
            "have no objects in the validation split, so that their AP is not measured",
            "move some of their images to the validation split, or ignore their AP",
        ),
        "train": (
            (val > 0) & (train == 0),
            "have objects in the validation split, but none to learn from, and will have an AP of 0",
            "divide the data again, or leave the classes out",
        ),
        "": (
            (train == 0) & (val == 0),
            "have no object in either split",
            "leave them out if they are not meant to have any: each costs a map of the output",
        ),
    }
    for name, (which, what, do) in absent.items():
        if which.any():
            listed = counted({each: (train + val)[n] for n, each in enumerate(names) if which[n]})
            level = "warning" if name else "note"
            yield Finding("classes", level, f"{which.sum()} classes {what} ({listed})", do, name, int(which.sum()))
    few = (train > 0) & (train < FEW)
    if few.any():
        yield Finding(
            "few objects",
            "warning",
            f"{few.sum()} classes have fewer than {FEW} training objects "
            f"({counted({each: train[n] for n, each in enumerate(names) if few[n]})})",
            "annotate more of them, or merge them with similar classes",
            "train",
            int(few.sum()),
        )


class Cells(NamedTuple):
    """How the objects of a split lie on a grid: ``small``: sides below a cell; ``shared``: another object of the class
    has its center in the same cell, counted without the one that remains; bool ``[M]``, False where unknown."""

    small: np.ndarray
    shared: np.ndarray
    side: np.ndarray

    @property
    def shares(self) -> tuple[float, float]:
        """Of the objects of known size, how many are small and how many are lost to others in their cells."""
        known = max(int(np.isfinite(self.side).sum()), 1)
        return float(self.small.sum()) / known, float(self.shared.sum()) / known


def cells_of(split: Split, grid: Grid) -> Cells:
    """Sizes and centers of objects on a grid. ``side``: the root of their area in input pixels, NaN where unknown."""
    boxes, is_known = input_boxes(split, grid)
    kept = split.is_object & is_known
    side = np.sqrt(np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1))
    side = np.where(kept, side, np.nan)
    cell = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2 / grid.stride).astype(np.int64)
    columns = np.column_stack([split.image, split.labels, cell])[kept]
    shared = np.zeros(len(boxes), bool)
    if len(columns):
        order = np.lexsort(columns.T[::-1])
        again = np.zeros(len(columns), bool)
        again[order[1:]] = (np.diff(columns[order], axis=0) == 0).all(1)
        shared[np.flatnonzero(kept)[again]] = True
    return Cells(kept & (side < grid.stride), shared, side)


def check_objects(split: Split, grid: Grid) -> Iterator[Finding]:
    """Sizes, numbers and cells of the objects of a split."""
    cells, total = cells_of(split, grid), int(split.is_object.sum())
    height, width = grid.warp.size
    small, lost = cells.shares
    at = f"at {width}x{height} (width x height)" if grid.warp.mode != "keep" else "at the images' own size"
    if small > SMALL[0]:
        yield Finding(
            "small objects",
            "serious" if small > SMALL[1] else "warning",
            f"{share(int(cells.small.sum()), total)} objects are smaller than a cell of {grid.stride} pixels {at}",
            f"{_larger(split, grid)}, cut the images into tiles, or leave these objects out of the annotations",
            split.name,
            int(cells.small.sum()),
            _examples(split, cells.small),
        )
    if lost > LOST[0]:
        yield Finding(
            "collisions",
            "serious" if lost > LOST[1] else "warning",
            f"{share(int(cells.shared.sum()), total)} objects have their center in the cell of another one of their "
            f"class {at}, and cannot be found beside it: recall is at most {100 * (1 - lost):.1f} %",
            _larger(split, grid),
            split.name,
            int(cells.shared.sum()),
            _examples(split, cells.shared),
        )
    counts = split.per_image
    beyond = counts - grid.detections
    if (beyond > 0).any():
        missed = int(beyond.clip(0).sum())
        yield Finding(
            "crowded images",
            "warning",
            f"{share(int((beyond > 0).sum()), len(counts))} images have more than the {grid.detections} objects that "
            f"are detected in an image (at most {counts.max()}), so that {share(missed, total)} objects are missed",
            f"set task.heatmap.max_detections={int(np.ceil(counts.max() / 100) * 100)}",
            split.name,
            int((beyond > 0).sum()),
            [Example(str(split.files[n])) for n in spread(beyond > 0)],
        )
    if total and (empty := counts == 0).mean() > MOSTLY_EMPTY:
        yield Finding(
            "empty images",
            "note",
            f"{share(int(empty.sum()), len(empty))} images have no object",
            "if they are not meant as negatives, complete the annotations, or train with data.skip_empty=true",
            split.name,
            int(empty.sum()),
            [Example(str(split.files[n])) for n in spread(empty)],
        )


def _larger(split: Split, grid: Grid) -> str:
    """What to do about objects that are small or lost."""
    best = suggested(resolutions(split, grid))
    return "raise the resolution" if best is None else f"set resolution=[{best.size[0]},{best.size[1]}]"


def _examples(split: Split, which: np.ndarray) -> list[Example]:
    return [
        Example(str(split.files[split.image[n]]), tuple(split.boxes[n].tolist()), split.class_names[split.labels[n]])
        for n in spread(which)
    ]


def check_files(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Files that are listed twice, told by their paths, without opening any."""
    paths = {name: np.array([os.path.abspath(file) for file in split.files]) for name, split in splits.items()}
    for name, files in paths.items():
        _, first = np.unique(files, return_index=True)
        again = np.ones(len(files), bool)
        again[first] = False
        if again.any():
            yield Finding(
                "same files",
                "warning",
                f"{share(int(again.sum()), len(files))} entries name an image file that another one names",
                "list every image once, with all of its annotations: an entry is background where another has objects",
                name,
                int(again.sum()),
                [Example(str(splits[name].files[n])) for n in spread(again)],
            )
    if len(paths) == 2 and (both := np.isin(paths["val"], paths["train"])).any():
        yield Finding(
            "same files",
            "serious",
            f"{share(int(both.sum()), len(both))} validation images are training images as well, so that the AP says "
            "nothing about other images",
            "divide the data so that no image is in both splits",
            "",
            int(both.sum()),
            [Example(str(splits["val"].files[n])) for n in spread(both)],
        )


RESOLUTIONS = (256, 320, 384, 512, 640, 768, 1024, 1280, 1536)
"""Longer sides of inputs in pixels."""


class Resolution(NamedTuple):
    """An input of (height, width), the shares of training objects that are small or lost in it, and whether it is the
    one of the training."""

    size: tuple[int, int]
    small: float
    lost: float
    is_chosen: bool = False


def resolutions(split: Split, grid: Grid) -> list[Resolution]:
    """What larger and smaller inputs would do, by rising size; up to twice the images' size."""
    known = split.sizes[split.sizes.all(1)]
    if not len(known) or grid.warp.mode == "keep":
        return []
    longest = np.median(known.max(1))
    shape = np.median(known / known.max(1, keepdims=True), axis=0)
    divisor = grid.warp.divisor
    sizes = {
        tuple(max(int(side * each / divisor + 0.5), 1) * divisor for each in shape.tolist())
        for side in RESOLUTIONS
        if side <= 2 * longest
    }
    chosen = tuple(grid.warp.size)
    rows = [(size, *cells_of(split, grid.resized(size)).shares, size == chosen) for size in sizes | {chosen}]
    return sorted((Resolution(*row) for row in rows), key=lambda row: row.size[0] * row.size[1])


def suggested(rows: list[Resolution]) -> Resolution | None:
    """The smallest input in which few objects are small or lost; None if there is none, or nothing is known."""
    return next((row for row in rows if row.small <= SMALL[0] and row.lost <= LOST[0]), None)
