"""Holding out a share of undivided data for validation: by image, every class alike, the same images every time.

Iterative stratification (Sechidis et al., "On the Stratification of Multi-label Data", ECML PKDD 2011, Algorithm 1):
classes are divided from the rarest on, and each image goes to the side that lacks its class most.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from centernet.errors import InputError

# Roboflow names augmented copies of an image NAME.rf.HASH.jpg; one in training would give away one in validation.
COPY_MARK = ".rf."
NONE = object()  # the class of images without objects


class Part(NamedTuple):
    """The images of one split: ``share`` of all are for validation; ``split`` is train or val."""

    share: float
    split: str

    def of(self, content: Mapping[str, Any], source: object) -> dict[str, Any]:
        """COCO's three lists with the images of this part only. Raises ``InputError`` if none are left."""
        held = {id_ for id_, is_held in zip(*held_out(content, self.share), strict=True) if is_held}
        is_val = self.split == "val"
        images = [entry for entry in content["images"] if (entry.get("id") in held) == is_val]
        if not images:
            raise InputError(
                f"data.val_share={self.share} of {len(content['images'])} images of {source} leaves none for "
                f"{'validation' if is_val else 'training'}; choose another share, or give a validation split"
            )
        rows = [row for row in content["annotations"] if (row.get("image_id") in held) == is_val]
        return {**content, "images": images, "annotations": rows}


def held_out(content: Mapping[str, Any], share: float) -> tuple[list[Any], list[bool]]:
    """The ids of all images, and which are for validation. The order of the files' content has no influence."""
    classes: dict[Any, set[Any]] = defaultdict(set)
    for row in content["annotations"]:
        classes[row.get("image_id")].add(row.get("category_id"))
    groups: dict[str, list[Any]] = defaultdict(list)
    for entry in sorted(content["images"], key=lambda entry: str(entry.get("file_name"))):
        groups[_original(str(entry.get("file_name")))].append(entry.get("id"))
    units = [frozenset().union(*(classes.get(id_, ()) for id_ in ids)) or frozenset([NONE]) for ids in groups.values()]
    chosen = _divide(units, [len(ids) for ids in groups.values()], share)
    pairs = [(id_, is_held) for ids, is_held in zip(groups.values(), chosen, strict=True) for id_ in ids]
    return [id_ for id_, _ in pairs], [is_held for _, is_held in pairs]


def _original(file_name: str) -> str:
    """What the copies of an image have in common."""
    folder, name = os.path.split(file_name)
    return os.path.join(folder, name.partition(COPY_MARK)[0])


def _divide(units: Sequence[frozenset[Any]], sizes: Sequence[int], share: float) -> list[bool]:
    """Which units, with these classes and numbers of images, are held out."""
    order = np.random.default_rng(0).permutation(len(units)).tolist()
    members: dict[Any, list[int]] = defaultdict(list)
    left: Counter[Any] = Counter()
    for unit in order:
        for label in units[unit]:
            members[label].append(unit)
            left[label] += sizes[unit]
    # How many images each side, training and validation, still lacks: of each class and of all.
    lacks = {label: [(1 - share) * count, share * count] for label, count in left.items()}
    lacks_any = [(1 - share) * sum(sizes), share * sum(sizes)]
    first = {label: place for place, label in enumerate(sorted(members, key=lambda label: members[label][0]))}
    held: dict[int, bool] = {}
    while left:
        label = min(left, key=lambda each: (left[each], first[each]))
        for unit in members[label]:
            if unit in held:
                continue
            train, val = lacks[label] if abs(lacks[label][0] - lacks[label][1]) > 1e-9 else lacks_any
            side = held[unit] = val > train
            lacks_any[side] -= sizes[unit]
            for each in units[unit]:
                lacks[each][side] -= sizes[unit]
                left[each] -= sizes[unit]
        left = Counter({each: count for each, count in left.items() if count > 0})
    return [held[unit] for unit in range(len(units))]
