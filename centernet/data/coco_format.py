"""The syntax of COCO's json: its lists, classes and joints, checked entry by entry.

Format of cocodataset.org (instances and keypoints).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from centernet.errors import InputError
from centernet.joints import COCO_JOINTS, JointSet


def load_json(path: Path) -> dict[str, Any]:
    """The content of an annotation file, with its three lists. Raises ``InputError`` for anything else."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"annotations {path} do not exist; check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); check that the download is complete") from None
    except OSError as error:
        raise InputError(
            f"annotations {path} cannot be read ({error.strerror}); check the file and its permissions"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a list, not COCO annotations; give an annotation file, not a result file")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{path} has no {key!r}; COCO annotations need images, annotations and categories")
    for key in ("images", "categories"):
        if not content[key]:
            raise InputError(f"{path} has an empty list of {key}; add at least one")
    return content


def field_of(entry: Mapping[str, Any], key: str, kind: str, source: Path) -> Any:
    """A required value of an image, annotation or category (``kind``) of ``source``."""
    if key not in entry:
        raise InputError(f"{source}: {kind} {entry.get('id', '(without id)')} has no {key!r}; COCO requires it")
    return entry[key]


def read_classes(content: Mapping[str, Any], source: Path, wanted: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Class names and category ids by label: by rising id, or in the order of ``wanted``."""
    by_id = {field_of(c, "id", "category", source): str(c.get("name", c["id"])) for c in content["categories"]}
    ids = sorted(by_id)
    names = [by_id[category] for category in ids]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{source}: two categories are called {twice!r}; give every class its own name")
    if wanted is None:
        return names, ids
    if missing := set(names) ^ set(wanted):
        raise InputError(
            f"{source} has the classes {_some(names)} but {_some(wanted)} are required (not in both: "
            f"{_some(sorted(missing))}); use the same classes"
        )
    return list(wanted), [ids[names.index(name)] for name in wanted]


def read_joint_set(
    content: Mapping[str, Any], source: Path, given: Mapping[str, Any] | None
) -> tuple[JointSet | None, dict[Any, list[int]]]:
    """The joints of all categories together, and the positions of each category's joints among them, by category id."""
    named = {
        field_of(c, "id", "category", source): [str(name) for name in c["keypoints"]]
        for c in content["categories"]
        if c.get("keypoints")
    }
    for category, listed in named.items():
        if len(set(listed)) < len(listed):
            twice = next(name for name in listed if listed.count(name) > 1)
            raise InputError(f"{source}: category {category!r} has two joints named {twice!r}; give each a unique name")
    used = {a.get("category_id"): len(a["keypoints"]) // 3 for a in content["annotations"] if a.get("keypoints")}
    if not named and not used:
        return None, {}
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"data.joints={given!r} is not a mapping; give names, flip_pairs, sigmas or skeleton")
    given = dict(given or {})
    usual = [str(name) for name in given.get("names") or COCO_JOINTS]
    if given.get("names") and len(named) == 1 and all(len(listed) == len(usual) for listed in named.values()):
        named = dict.fromkeys(named, usual)
    for category, count in used.items():
        if category not in named:
            if count != len(usual):
                raise InputError(
                    f"{source}: annotations of category {category!r} have {count} joints without names; set "
                    "data.joints={names: [...]}"
                )
            named[category] = usual
    names = list(dict.fromkeys(name for category in sorted(named, key=str) for name in named[category]))
    if given.get("names") and set(names) != set(usual):
        raise InputError(
            f"{source} has {len(names)} joints ({_some(names)}), but data.joints names {len(usual)}; name the joints "
            "of the file"
        )
    if given.get("names"):
        names = usual  # other given values follow this order
    places = {category: [names.index(name) for name in listed] for category, listed in named.items()}
    if given.get("skeleton") is None:
        lines = [
            (named[c["id"]][a - 1], named[c["id"]][b - 1])
            for c in content["categories"]
            for a, b in c.get("skeleton") or ()
            if c["id"] in named and 0 < a <= len(named[c["id"]]) and 0 < b <= len(named[c["id"]]) and a != b
        ]
        # COCO counts from 1.
        given["skeleton"] = list(dict.fromkeys(lines)) or None
    joints = JointSet.of({**given, "names": names}, f"{source}: joints")
    return joints, places


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")


def require_images(names: Sequence[str], folder: Path, source: Path) -> None:
    """Raise ``InputError`` when image files of the json are not in the folder (one listing per folder, not one call per
    file)."""
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist; give the folder that holds the images")
    listings: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, base = os.path.split(name)
        if parent not in listings:
            place = folder / parent
            listings[parent] = set(os.listdir(place)) if place.is_dir() else set()
        if base not in listings[parent]:
            missing.append(name)
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} images of {source} are not in {folder} (first: {missing[0]}); "
            "check the images folder"
        )
