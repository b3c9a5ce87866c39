"""Checks of single annotations: the format of boxes, empty ones, ones outside their images, repeated ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from centernet.checks.content import Raw, Split
from centernet.checks.findings import Example, Finding, share, spread

# Boxes may end this many pixels beyond their image: tools count pixels differently.
SLACK = 1.5
LEAST = 12  # boxes, of which a format can be told
MOST_BEYOND = 0.2  # the share of boxes beyond their images from which another format explains them better
ALMOST_ALL = 0.98
SPOILED = 0.1  # the share of unusable boxes from which a training is spoiled
TOLERABLE = 0.01


def check_boxes(split: Split) -> Iterator[Finding]:
    """All checks of this module."""
    if split.raw is not None:
        wrong = list(_format(split, split.raw))
        yield from wrong
        yield from _empty(split, split.raw)
        if wrong:  # it explains the others
            return
    yield from _outside(split)
    yield from _repeated(split)


def _format(split: Split, raw: Raw) -> Iterator[Finding]:
    """Boxes that are corners, fractions or centers, told by which reading puts them into their images."""
    is_finite = np.isfinite(raw.boxes).all(1)
    boxes, image = raw.boxes[is_finite], raw.image[is_finite]
    if len(boxes) < LEAST:
        return
    first, second, limit = boxes[:, :2], boxes[:, 2:], split.sizes[image][:, ::-1]
    is_known = limit.all(1)
    name = ""
    if (boxes.max(initial=0) <= 1 + 1e-6) and (boxes >= 0).mean() > ALMOST_ALL:
        name = "fractions of the image's size"
        do = "multiply x and width by the image's width, y and height by its height"
    elif is_known.mean() > 0.5:
        first, second, limit = first[is_known], second[is_known], limit[is_known]
        beyond = (first + second > limit + SLACK).any(1)
        if beyond.mean() < MOST_BEYOND:
            return
        as_corners = ((second >= first) & (second <= limit + SLACK)).all(1)
        as_centers = ((first - second / 2 >= -SLACK) & (first + second / 2 <= limit + SLACK)).all(1)
        if as_corners.mean() > ALMOST_ALL:
            name, do = "corners [x1, y1, x2, y2]", "write [x1, y1, x2 - x1, y2 - y1]"
        elif as_centers.mean() > ALMOST_ALL:
            name, do = (
                "centers and sizes [cx, cy, width, height]",
                "write [cx - width / 2, cy - height / 2, width, height]",
            )
    elif ((second >= first).all(1)).mean() > ALMOST_ALL:
        name, do = (
            "corners [x1, y1, x2, y2] (the json has no image sizes to be sure)",
            "write [x1, y1, x2 - x1, y2 - y1]",
        )
    if name:
        rows = spread(is_finite)
        shown = raw.boxes[rows]
        read = np.concatenate([shown[:, :2], shown[:, :2] + shown[:, 2:]], 1)  # as they would be trained on
        yield Finding(
            "format",
            "serious",
            f"the {len(boxes)} boxes are probably {name}, but COCO's bbox is [x, y, width, height] in pixels",
            f"{do}; a training on this learns nonsense, with an mAP of about 0",
            split.name,
            len(boxes),
            _examples(split, raw.image[rows], read),
        )


def _empty(split: Split, raw: Raw) -> Iterator[Finding]:
    is_finite = np.isfinite(raw.boxes).all(1)
    empty = ~is_finite | ~(raw.boxes[:, 2:] > 0).all(1)
    if empty.any():
        kinds = {
            "not finite": ~is_finite,
            "of negative size": is_finite & (raw.boxes[:, 2:] < 0).any(1),
            "without width or height": is_finite & (raw.boxes[:, 2:] == 0).any(1) & ~(raw.boxes[:, 2:] < 0).any(1),
        }
        listed = ", ".join(f"{which.sum()} {kind}" for kind, which in kinds.items() if which.any())
        rows = spread(empty)
        yield Finding(
            "empty boxes",
            "serious" if empty.mean() > SPOILED else "warning",
            f"{share(int(empty.sum()), len(empty))} boxes cannot be used ({listed}) and are dropped",
            "remove or correct them: an object without its box is learned as background",
            split.name,
            int(empty.sum()),
            [Example(str(split.files[n]), None, "box dropped") for n in raw.image[rows]],
        )


def _outside(split: Split) -> Iterator[Finding]:
    """Boxes that do not show in their images (a json: as written), and boxes that extend beyond them."""
    boxes, image = split.boxes, split.image
    if split.raw is not None:
        usable = np.isfinite(split.raw.boxes).all(1) & (split.raw.boxes[:, 2:] > 0).all(1)
        boxes, image = split.raw.boxes[usable], split.raw.image[usable]
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    limit = split.sizes[image][:, ::-1]
    is_known = limit.all(1)
    outside = is_known & ((boxes[:, :2] >= limit) | (boxes[:, 2:] <= 0)).any(1)
    beyond = is_known & ~outside & ((boxes[:, 2:] > limit + SLACK) | (boxes[:, :2] < -SLACK)).any(1)
    if outside.any():
        rows = spread(outside)
        yield Finding(
            "outside",
            "serious" if outside.mean() > SPOILED else "warning",
            f"{share(int(outside.sum()), len(outside))} boxes lie outside their images and are dropped",
            "check that the annotations are for these images, at this size; remove or correct the boxes",
            split.name,
            int(outside.sum()),
            [Example(str(split.files[n]), None, "box outside") for n in image[rows]],
        )
    if beyond.any():
        rows = spread(beyond)
        level = "serious" if beyond.mean() > MOST_BEYOND else "warning" if beyond.mean() > TOLERABLE else "note"
        yield Finding(
            "outside",
            level,
            f"{share(int(beyond.sum()), len(beyond))} boxes extend beyond their images",
            "check the box format, and that images were not resized or cropped after annotating; single ones do no "
            "harm, as they are clipped",
            split.name,
            int(beyond.sum()),
            _examples(split, image[rows], boxes[rows]),
        )


def _repeated(split: Split) -> Iterator[Finding]:
    """Equal boxes (to half a pixel) of one class in one image."""
    kept = split.is_object
    rows = np.column_stack([split.image[kept], split.labels[kept], np.rint(2 * split.boxes[kept]).astype(np.int64)])
    if not len(rows):
        return
    order = np.lexsort(rows.T[::-1])
    again = np.zeros(len(rows), bool)
    again[order[1:]] = (np.diff(rows[order], axis=0) == 0).all(1)
    if again.any():
        shown = np.flatnonzero(kept)[spread(again)]
        yield Finding(
            "repeated boxes",
            "serious" if again.mean() > SPOILED else "warning",
            f"{share(int(again.sum()), len(again))} objects are annotated twice (same image, class and box)",
            "remove the copies: only one of two can be found, which lowers the AP",
            split.name,
            int(again.sum()),
            _examples(split, split.image[shown], split.boxes[shown]),
        )


def _examples(split: Split, image: np.ndarray, boxes: np.ndarray, about: str = "") -> list[Example]:
    return [
        Example(str(split.files[n]), tuple(box), about) for n, box in zip(image.tolist(), boxes.tolist(), strict=True)
    ]
