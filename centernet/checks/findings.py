"""What a check finds, and how findings are told: worst first, each with what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from centernet.errors import some

LEVELS = ("serious", "warning", "note")
"""Would spoil a training; costs something; worth knowing."""
EXAMPLES = 6  # that a finding names and shows
WIDTH = 100  # of the text

# Every check, by its name in findings, and what a set without findings has passed.
CHECKS = {
    "refused": "both splits can be read",
    "task": "the task finds the fields that it needs",
    "objects": "both splits have objects",
    "format": "boxes are [x, y, width, height] in pixels",
    "empty boxes": "every box has a width and a height",
    "outside": "boxes lie in their images",
    "repeated boxes": "no object is annotated twice",
    "classes": "every class has objects in both splits",
    "few objects": "every class has enough objects to learn from",
    "small objects": "objects are larger than a cell of the output",
    "crowded images": "no image has more objects than can be detected",
    "collisions": "centers have cells of their own",
    "empty images": "most images have objects",
    "same files": "no file is listed twice or in both splits",
    "unreadable": "every image can be read",
    "sizes": "images have the sizes that they were annotated at",
    "turned": "no image is turned by EXIF",
    "blank": "no image is of one color",
    "near-duplicates": "no two images of a split look alike",
    "leak": "no image of the validation split looks like one of the training split",
    "reader": "the reader has nothing to add",
}
OF_IMAGES = ("unreadable", "sizes", "turned", "blank", "near-duplicates", "leak")
"""Checks that open images."""
OF_JSON = ("format", "empty boxes")
"""Checks of what is written in a json in COCO's format; readers of other formats tell themselves what they drop."""


class Example(NamedTuple):
    """Where to see it: an image file, and a box (x1, y1, x2, y2) in its pixels, or None for the whole image."""

    file: str
    box: tuple[float, float, float, float] | None = None
    about: str = ""


class Finding(NamedTuple):
    """``check``: a key of ``CHECKS``; ``level``: one of ``LEVELS``; ``what`` and ``do``: a sentence each; ``split``:
    train, val, or nothing where it is about both; ``count``: of images, boxes or classes."""

    check: str
    level: str
    what: str
    do: str
    split: str = ""
    count: int = 0
    examples: Sequence[Example] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**self._asdict(), "examples": [example._asdict() for example in self.examples]}


def sort(findings: Iterable[Finding]) -> list[Finding]:
    """Worst first; of one level, in the order of ``CHECKS``."""
    order = list(CHECKS)
    return sorted(findings, key=lambda each: (LEVELS.index(each.level), order.index(each.check)))


def passed(findings: Sequence[Finding], has_opened: bool, has_json: bool) -> list[str]:
    """What the checks without findings say, of those that were made."""
    found = {each.check for each in findings}
    left_out = (() if has_opened else OF_IMAGES) + (() if has_json else OF_JSON)
    made = [name for name in CHECKS if name not in left_out]
    if "refused" in found:  # what was not read was not checked
        return []
    return [CHECKS[name] for name in made if name not in found and name != "reader"]


def told(findings: Sequence[Finding], fine: Sequence[str]) -> str:
    """All findings as text."""
    blocks = []
    for each in findings:
        first = f"{each.level.upper() if each.level == 'serious' else each.level}: "
        where = f"{each.split}: " if each.split else ""
        lines = textwrap.wrap(f"{first}{where}{each.what}", WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        names = dict.fromkeys("/".join(Path(example.file).parts[-2:]) for example in each.examples)
        if names:
            lines += textwrap.wrap(
                f"such as {some(names, 3)}",
                WIDTH,
                initial_indent="    ",
                subsequent_indent="    ",
                break_long_words=False,
            )
        lines += textwrap.wrap(f"-> {each.do}", WIDTH, initial_indent="    ", subsequent_indent="       ")
        blocks.append("\n".join(lines))
    if fine:
        blocks.append("\n".join(textwrap.wrap(f"fine: {'; '.join(fine)}", WIDTH, subsequent_indent="    ")))
    return "\n\n".join(blocks)


def share(count: int, total: int) -> str:
    """``3 of 10 (30 %)``."""
    part = 100 * count / max(total, 1)
    shown = f"{part:.0f}" if part >= 10 or part == 0 else f"{part:.2g}"
    return f"{count} of {total} ({shown} %)"


def spread(where: np.ndarray, most: int = EXAMPLES) -> np.ndarray:
    """A few of the positions at which a mask is True, evenly spaced."""
    found = np.flatnonzero(where)
    return found[np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)] if len(found) else found


def counted(names: Mapping[str, int], most: int = 8) -> str:
    """``cat 3, dog 1``."""
    return some((f"{name} {count}" for name, count in names.items()), most)
