"""Checks that open images: unreadable ones, other sizes, EXIF, and near-duplicates within and across splits.

Images are compared by differences of neighboring pixels in a picture of 9 x 9 (a difference hash, twice: along rows and
along columns); those that agree in a quarter of its bits, exactly, are compared as pictures of 32 x 32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from centernet.checks.content import Split
from centernet.checks.findings import EXAMPLES, Example, Finding, share
from centernet.data.images import read_image, read_sizes
from centernet.errors import InputError
from centernet.machine import available_cores
from centernet.ops.affine import Size

SAMPLE = 1000  # images of a split, of a larger one
CHOICES = ("none", "sample", "all")
SIDE = 32  # pixels, of the pictures that are compared
ALIKE = 4.0  # of 255, the mean difference of two pictures below which they count as the same
FLAT = 3.0  # of 255, the deviation of gray values below which an image shows nothing
BANDS = 4  # of the hash
MOST_ALIKE = 64  # images in a row of equal bands that are compared with each other
SERIOUS_LEAK = 0.01


class Seen(NamedTuple):
    """What an image shows: ``index`` in its split, ``fault`` (why it cannot be read), its size as ``shown`` and as
    ``stored`` (height, width; None where unknown), a gray picture ``[32, 32]``."""

    index: int
    fault: str
    shown: Size | None
    stored: Size | None
    picture: np.ndarray | None


def look(split: Split, images: str, bit_depth: int | None = None) -> list[Seen]:
    """Open images of a split: ``all``, a ``sample`` of evenly spaced ones, ``none``."""
    count = len(split.files) if images == "all" else min(SAMPLE, len(split.files)) if images == "sample" else 0
    which = np.linspace(0, len(split.files) - 1, count).astype(int).tolist() if count else []

    def see(index: int) -> Seen:
        file = str(split.files[index])
        shown, stored = read_sizes(file) or (None, None)
        try:
            pixels = read_image(file, None, bit_depth)
        except InputError as error:
            return Seen(index, str(error), shown, stored, None)
        gray = cv2.cvtColor(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        return Seen(index, "", shown or pixels.shape[:2], stored or pixels.shape[:2], gray)

    with ThreadPoolExecutor(available_cores()) as pool:  # OpenCV decodes without Python's lock
        return list(pool.map(see, which))


def check_images(split: Split, seen: Sequence[Seen]) -> Iterator[Finding]:
    """What is wrong with single images."""
    bad = [each for each in seen if each.fault]
    if bad:
        yield Finding(
            "unreadable",
            "serious",
            f"{share(len(bad), len(seen))} images that were opened cannot be read ({bad[0].fault.rpartition('; ')[0]})",
            "replace or remove them, or train with data.on_bad_image=skip; --images all lists all of them",
            split.name,
            len(bad),
            _examples(split, bad),
        )
    unlike, exchanged = [], 0
    for each in seen:
        size = tuple(split.sizes[each.index].tolist())
        if each.shown and all(size) and size not in (each.shown, each.stored):
            unlike.append(each)
            exchanged += size == tuple(each.shown)[::-1]
    if unlike:
        first, annotated = unlike[0], split.sizes[unlike[0].index].tolist()
        turned = f"; in {exchanged} of them width and height are exchanged" if exchanged else ""
        yield Finding(
            "sizes",
            "serious",
            f"{share(len(unlike), len(seen))} images that were opened have another size than their annotations say "
            f"({os.path.basename(split.files[first.index])}: {first.shown[1]}x{first.shown[0]} pixels, annotated at "
            f"{annotated[1]}x{annotated[0]}{turned})",
            "use the images that were annotated, or correct width and height in the annotations"
            + (", and check which way up the images were annotated" if exchanged else ""),
            split.name,
            len(unlike),
            _examples(split, unlike),
        )
    turned = [each for each in seen if each.shown != each.stored]
    if turned:
        as_stored = sum(tuple(split.sizes[each.index].tolist()) == each.stored for each in turned)
        yield Finding(
            "turned",
            "note",
            f"{share(len(turned), len(seen))} images that were opened are turned by EXIF, and {as_stored} of "
            "them are annotated as they are stored",
            "nothing: each is read as its annotations are; look at samples of square images, whose size cannot tell",
            split.name,
            len(turned),
            _examples(split, turned),
        )
    blank = [each for each in seen if each.picture is not None and each.picture.std() < FLAT]
    if blank:
        yield Finding(
            "blank",
            "warning",
            f"{share(len(blank), len(seen))} images that were opened are of one color",
            "remove them, or export them again",
            split.name,
            len(blank),
            _examples(split, blank),
        )


def check_duplicates(splits: Mapping[str, Split], seen: Mapping[str, Sequence[Seen]]) -> Iterator[Finding]:
    """Images that look alike, within splits and across them."""
    there = [
        (name, each)
        for name, of_split in seen.items()
        for each in of_split
        if each.picture is not None and each.picture.std() >= FLAT
    ]
    pairs = near_duplicates(np.array([each.picture for _, each in there]).reshape(-1, SIDE, SIDE))
    for name in splits:
        within = [(a, b) for a, b in pairs if there[a][0] == there[b][0] == name]
        within = [(a, b) for a, b in within if _path(splits, there[a]) != _path(splits, there[b])]
        if within:
            again = {b for _, b in within}
            yield Finding(
                "near-duplicates",
                "warning",
                f"{share(len(again), len(seen[name]))} images that were opened look like another one of the split",
                "keep one of each, unless they are frames of a video that differ in their objects",
                name,
                len(again),
                _pairs(splits, there, within),
            )
    across = [(a, b) for a, b in pairs if there[a][0] != there[b][0]]
    across = [(a, b) for a, b in across if _path(splits, there[a]) != _path(splits, there[b])]
    if across:
        leaked = {b if there[b][0] == "val" else a for a, b in across}
        total = len(seen["val"])
        yield Finding(
            "leak",
            "serious" if len(leaked) > SERIOUS_LEAK * total else "warning",
            f"{share(len(leaked), total)} validation images that were opened look like a training image, so that the "
            "AP is too high",
            "divide by scene, video or patient, not by image, and keep copies together",
            "",
            len(leaked),
            _pairs(splits, there, across),
        )


def near_duplicates(pictures: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (a < b) of gray pictures ``[N, 32, 32]`` uint8 that look alike, in order."""
    if len(pictures) < 2:
        return []
    small = np.array([cv2.resize(each, (9, 9), interpolation=cv2.INTER_AREA) for each in pictures]).astype(int)
    along = (small[:, :8, 1:] > small[:, :8, :-1], small[:, 1:, :8] > small[:, :-1, :8])
    bits = np.packbits(np.concatenate([each.reshape(-1, 64) for each in along], 1), axis=1)
    bands = np.ascontiguousarray(bits).view(np.uint32).reshape(-1, BANDS)
    found = set()
    for band in bands.T:
        order = band.argsort(kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            # In a large group, which is of images with little in them, each is compared with the next ones only.
            for place, a in enumerate(group[:-1]):
                others = group[place + 1 : place + 1 + MOST_ALIKE]
                difference = np.abs(pictures[others].astype(int) - pictures[a]).mean((1, 2))
                found |= {(min(a, b), max(a, b)) for b in others[difference < ALIKE].tolist()}
    return sorted((int(a), int(b)) for a, b in found)


def _path(splits: Mapping[str, Split], one: tuple[str, Seen]) -> str:
    """The same file listed twice is a finding of its own."""
    return os.path.abspath(splits[one[0]].files[one[1].index])


def _pairs(
    splits: Mapping[str, Split], there: Sequence[tuple[str, Seen]], pairs: Sequence[tuple[int, int]]
) -> list[Example]:
    """Both images of a few pairs, one after the other."""
    return [
        Example(str(splits[there[one][0]].files[there[one][1].index]), None, f"{n + 1}: {there[one][0]}")
        for n, pair in enumerate(pairs[: EXAMPLES // 2])
        for one in pair
    ]


def _examples(split: Split, seen: Sequence[Seen]) -> list[Example]:
    return [Example(str(split.files[each.index]), None, each.fault) for each in seen[:EXAMPLES]]
