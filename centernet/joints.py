"""Joints: names, left-right pairs, tolerances and skeleton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from centernet.errors import InputError

# COCO's person (Lin et al., 2014); the sigmas are the annotators' spread relative to the object's scale.
COCO_JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
COCO_SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2),
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
# For joints without a measured sigma: the mean of COCO's.
USUAL_SIGMA = 0.07


@dataclass(frozen=True)
class JointSet:
    """The joints of an object: names, left-right pairs, tolerances and skeleton.

    ``flip_pairs`` and ``skeleton`` are pairs of positions in ``names``; ``sigmas`` belong to the object keypoint
    similarity (standard deviation of a joint, relative to the square root of the object's area).
    """

    names: tuple[str, ...] = COCO_JOINTS
    flip_pairs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, description: Any = None, where: str = "joints") -> JointSet:
        """Joints from plain data: a mapping with any of the four keys, or None for COCO's person.

        Pairs hold names or positions of joints. Missing values follow from the names: left and right are paired, and
        COCO's joints get COCO's sigmas and skeleton. Raises ``InputError`` for pairs of unknown joints.
        """
        if description is not None and not isinstance(description, Mapping):
            raise InputError(f"{where}={description!r} is not a mapping; give names, flip_pairs, sigmas or skeleton")
        given = dict(description or {})
        if unknown := set(given) - {"names", "flip_pairs", "sigmas", "skeleton"}:
            raise InputError(
                f"{where}: {', '.join(sorted(unknown))} is unknown; choose from names, flip_pairs, sigmas and skeleton"
            )
        names = tuple(str(name) for name in given.get("names") or COCO_JOINTS)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{where}: two joints are named {twice!r}; give every joint a unique name")
        is_coco = names == COCO_JOINTS
        if given.get("flip_pairs") is None:
            pairs = _left_and_right(names)
        else:
            pairs = tuple(_pair(pair, names, f"{where}: flip pair") for pair in given["flip_pairs"])
        moved = [joint for pair in pairs for joint in pair]
        if len(set(moved)) < len(moved):
            twice = names[next(joint for joint in moved if moved.count(joint) > 1)]
            raise InputError(f"{where}: joint {twice!r} is in two flip pairs; list it once")
        if given.get("skeleton") is None:
            skeleton = COCO_SKELETON if is_coco else ()
        else:
            skeleton = tuple(_pair(pair, names, f"{where}: skeleton line") for pair in given["skeleton"])
        sigmas = given.get("sigmas")
        if sigmas is None:
            known = dict(zip(COCO_JOINTS, COCO_SIGMAS, strict=True))
            sigmas = [known.get(name, USUAL_SIGMA) for name in names]
        try:
            is_sound = len(sigmas) == len(names) and all(float(sigma) > 0 for sigma in sigmas)
        except (TypeError, ValueError):
            is_sound = False
        if not is_sound:
            raise InputError(
                f"{where}: sigmas={sigmas} does not fit {len(names)} joints; give {len(names)} positive numbers"
            )
        return cls(names, pairs, tuple(float(sigma) for sigma in sigmas), skeleton)

    @property
    def mirrored(self) -> list[int]:
        """For each joint, the index of its partner in the mirror image."""
        order = list(range(len(self.names)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return order

    def plain(self) -> dict[str, Any]:
        """The same as plain data; ``JointSet.of`` reads it."""
        return {
            "names": list(self.names),
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "sigmas": list(self.sigmas),
            "skeleton": [list(pair) for pair in self.skeleton],
        }


def _left_and_right(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of joints whose names differ in left / right (l_ / r_ before, _l / _r behind, L / R before a capital)."""
    swaps = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
    position = {name: n for n, name in enumerate(names)}
    pairs = []
    for n, name in enumerate(names):
        partners = [name.replace(left, right) for left, right in swaps if left in name]
        partners += [f"{other}{name[2:]}" for one, other in (("l_", "r_"), ("L_", "R_")) if name.startswith(one)]
        partners += [f"{name[:-2]}{other}" for one, other in (("_l", "_r"), ("_L", "_R")) if name.endswith(one)]
        partners += [f"R{name[1:]}" for one in name[:1] if one == "L" and name[1:2].isupper()]
        pairs += [(n, position[partner]) for partner in partners if partner in position][:1]
    return tuple(pairs)


def _pair(pair: Any, names: Sequence[str], where: str) -> tuple[int, int]:
    try:
        a, b = pair
    except (TypeError, ValueError):
        raise InputError(f"{where} {pair!r} does not hold two joints; give a pair") from None
    found = []
    for joint in (a, b):
        if isinstance(joint, str) and joint in names:
            found.append(list(names).index(joint))
        elif isinstance(joint, int) and 0 <= joint < len(names):
            found.append(joint)
        else:
            raise InputError(f"{where} {list(pair)} has unknown joint {joint!r}; choose from {', '.join(names)}")
    if found[0] == found[1]:
        raise InputError(f"{where} {list(pair)} joins a joint with itself; give two different joints")
    return found[0], found[1]
