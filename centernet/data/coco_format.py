"""COCO's json: its lists, classes and joints, checked entry by entry, and its annotations as flat arrays.

Format of cocodataset.org (instances and keypoints).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from centernet.data.cache import Content, read_once
from centernet.data.division import Part
from centernet.data.extremes import KEY, read_extreme_points
from centernet.data.masks import Masks, rings_in
from centernet.errors import InputError, some
from centernet.fields import FIELDS
from centernet.joints import COCO_JOINTS, JointSet
from centernet.machine import without_garbage_collection

VERSION = 2  # of what is read; raise it when the same json is read differently


def read_annotations(
    source: Path,
    class_names: Sequence[str] | None,
    joints: Mapping[str, Any] | None,
    masks: bool,
    extreme_points: str | None = None,
    part: Part | None = None,
) -> Content:
    """A json as plain data (``class_names``, ``category_ids``, ``image_ids``, ``files``, ``joints``, ``joint_places``,
    ``notes``) and arrays (``images``: sizes and offsets; ``fields``, sorted by image; ``masks``).

    Arguments: see ``CocoDataset``. A large json is parsed once (``centernet.data.cache``). Raises ``InputError``,
    naming the entry, for anything wrong with it.
    """
    data = _read_bytes(source)

    def read() -> Content:
        with without_garbage_collection():
            content = load_json(data, source, masks or extreme_points is not None)
            if part is not None:
                content = part.of(content, source)
            return _Reader(source, joints).read(content, class_names, masks, extreme_points)

    keys = {name: field.annotation for name, field in FIELDS.items() if field.annotation}
    options = [VERSION, class_names, joints, masks, keys]
    options += [*([extreme_points] if extreme_points else []), *(part or ())]
    try:
        return read_once(source, data, options, read)
    except InputError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{source} is not in COCO format ({error}); see cocodataset.org for the format") from error


def read_content(
    content: Mapping[str, Any],
    source: object,
    class_names: Sequence[str] | None = None,
    joints: Mapping[str, Any] | None = None,
    masks: bool = False,
    extreme_points: str | None = None,
    flags: Sequence[str] = (),
) -> Content:
    """The same for COCO's three lists, made by a reader of another format; ``source`` names their files. ``flags``:
    keys of annotations that become fields of booleans."""
    with without_garbage_collection():
        return _Reader(source, joints).read(content, class_names, masks, extreme_points, flags)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"annotations {path} do not exist; check the path") from None
    except OSError as error:
        raise InputError(
            f"annotations {path} cannot be read ({error.strerror}); check the file and its permissions"
        ) from None


def load_json(data: bytes, path: Path, masks: bool = True) -> dict[str, Any]:
    """The content of the annotation file ``path``, with its three lists. Raises ``InputError`` for anything else.

    Polygons, most of the file, become arrays on the way (without ``masks``: nothing), an eighth of their lists' size.
    """

    def shorten(entry: dict[str, Any]) -> dict[str, Any]:
        if isinstance(entry.get("segmentation"), list):
            entry["segmentation"] = rings_in(entry["segmentation"]) if masks else None
        return entry

    try:
        content = json.loads(data, object_hook=shorten)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); check that the download is complete") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a list, not COCO annotations; give an annotation file, not a result file")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{path} has no {key!r}; COCO annotations need images, annotations and categories")
    for key in ("images", "categories"):
        if not content[key]:
            raise InputError(f"{path} has an empty list of {key}; add at least one")
    return content


class _Reader:
    """Reads one json; ``notes`` are about what was dropped."""

    def __init__(self, source: object, joints: Mapping[str, Any] | None) -> None:
        self.source, self.given_joints = source, joints
        self.notes: list[str] = []

    def read(
        self,
        content: Mapping[str, Any],
        class_names: Sequence[str] | None,
        masks: bool,
        extreme_points: str | None = None,
        flags: Sequence[str] = (),
    ) -> Content:
        joints, places = read_joint_set(content, self.source, self.given_joints)
        if joints is not None and len(joints.names) > 1 and not joints.flip_pairs:
            self.notes.append(
                f"none of the {len(joints.names)} joints has a left-right pair, so flipped images keep their names; "
                "set data.joints={flip_pairs: [[NAME, NAME], ...]} to pair them"
            )
        names, category_ids = read_classes(content, self.source, class_names)
        image_ids = [field_of(entry, "id", "image", self.source) for entry in content["images"]]
        position = {image_id: n for n, image_id in enumerate(image_ids)}
        if len(position) < len(image_ids):
            twice = next(i for n, i in enumerate(image_ids) if position[i] != n)
            raise InputError(f"{self.source}: image id {twice!r} appears twice; give every image a unique id")
        sizes = np.array([size_of(entry) for entry in content["images"]])
        label_of = {category: label for label, category in enumerate(category_ids)}
        annotations = content["annotations"]
        images = self._look_up("image", position, annotations)
        labels = self._look_up("category", label_of, annotations)
        boxes = self._read_boxes(annotations)
        kept = self._kept(annotations, boxes, sizes[images])
        rows = [annotations[n] for n in kept]
        boxes, images = boxes[kept], images[kept]
        areas = self._read_areas(rows)
        fields = {
            "boxes": np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            "labels": labels[kept],
            "crowd": np.array([bool(row.get("iscrowd", 0)) for row in rows], bool),
            "area": np.where(areas > 0, areas, boxes[:, 2] * boxes[:, 3]),
        }
        fields |= self._read_numbers(rows, fields["crowd"])
        fields |= {name: np.array([bool(row.get(name)) for row in rows], bool) for name in flags}
        if joints is not None:
            fields["joints"] = self._read_joints(rows, len(joints.names), places)
        outlines = [row.get("segmentation") for row in rows]
        if extreme_points is not None:
            own = Masks.of(outlines, sizes[images])
            fields[KEY] = read_extreme_points(rows, own, fields["boxes"], extreme_points, str(self.source))
        # Sorted last: reading in the order of the file is several times as fast as jumping through it.
        order = images.argsort(kind="stable")
        fields = {name: value[order] for name, value in fields.items()}
        counts = np.bincount(images, minlength=len(sizes))
        arrays = {"images": {"sizes": sizes, "offsets": np.concatenate([[0], np.cumsum(counts)])}, "fields": fields}
        if masks:
            arrays["masks"] = vars(Masks.of([outlines[n] for n in order], sizes[images[order]]))
        plain = {
            "class_names": names,
            "category_ids": category_ids,
            "image_ids": image_ids,
            "files": [str(field_of(entry, "file_name", "image", self.source)) for entry in content["images"]],
            "joints": None if joints is None else joints.plain(),
            "joint_places": list(places.items()),
            "notes": self.notes,
        }
        return plain, arrays

    def _where(self, annotation: Mapping[str, Any]) -> str:
        return f"{self.source}: annotation {annotation.get('id', '(without id)')}"

    def _look_up(self, kind: str, place: Mapping[Any, int], annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The place of each annotation's image or category (``kind``)."""
        key = f"{kind}_id"
        try:
            found = [place.get(row[key], -1) for row in annotations]
        except KeyError:
            found = [place.get(field_of(row, key, "annotation", self.source), -1) for row in annotations]
        if -1 in found:
            row = annotations[found.index(-1)]
            lists = {"image": "images", "category": "categories"}
            raise InputError(
                f"{self._where(row)} refers to {kind} {row[key]!r}, which is not in the json's {lists[kind]}; add the "
                f"{kind} or remove the annotation"
            )
        return np.array(found, np.int64)

    def _read_boxes(self, annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Boxes ``[M, 4]`` (x, y, width, height) of all annotations."""
        try:
            boxes = np.array([row["bbox"] for row in annotations], np.float64)
        except (KeyError, TypeError, ValueError):  # one by one: the error names the annotation
            boxes = np.empty(0)
        if boxes.shape != (len(annotations), 4):
            boxes = np.array([self._read_box(row) for row in annotations], np.float64)
        return boxes.reshape(-1, 4)

    def _read_box(self, annotation: Mapping[str, Any]) -> tuple[float, ...]:
        try:
            x, y, width, height = annotation["bbox"]
            return float(x), float(y), float(width), float(height)
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{self._where(annotation)} has bbox {annotation.get('bbox')!r}; COCO requires [x, y, width, height]"
            ) from None

    def _read_areas(self, annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Areas ``[M]``; 0 where an annotation has none."""
        try:
            areas = np.array([float(row.get("area") or 0) for row in annotations])
        except (TypeError, ValueError):
            for row in annotations:
                try:
                    float(row.get("area") or 0)
                except (TypeError, ValueError):
                    raise InputError(
                        f"{self._where(row)} has area {row['area']!r}; COCO requires a number, or leave it out"
                    ) from None
            raise
        return np.where(np.isfinite(areas), areas, 0)

    def _kept(self, annotations: Sequence[Mapping[str, Any]], boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Positions of the boxes ``[M, 4]`` (corner and size) that show something of their images ``[M, 2]``."""
        start, end, limit = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], sizes[:, ::-1]
        is_finite = np.isfinite(boxes).all(1)
        is_negative = is_finite & (boxes[:, 2:] < 0).any(1)
        is_flat = is_finite & ~is_negative & (boxes[:, 2:] == 0).any(1)
        is_known = limit.all(1)
        kept = is_finite & ~is_negative & ~is_flat
        is_outside = kept & is_known & ((start >= limit) | (end <= 0)).any(1)
        kept &= ~is_outside
        reasons = {
            "NaN or infinite": ~is_finite,
            "of negative width or height": is_negative,
            "without width or height": is_flat,
            "outside their image": is_outside,
        }
        told = [
            f"{which.sum()} {reason} ({self._ids(annotations, which)})"
            for reason, which in reasons.items()
            if which.any()
        ]
        if told:
            self.notes.append(f"dropped {(~kept).sum()} of {len(kept)} boxes: {', '.join(told)}")
        beyond = kept & is_known & (end > limit + 1).any(1)
        if beyond.sum() > 0.3 * max(kept.sum(), 1):
            self.notes.append(
                f"{beyond.sum()} of {kept.sum()} boxes extend beyond their image ({self._ids(annotations, beyond)}); "
                "COCO's bbox is [x, y, width, height], these look like [x1, y1, x2, y2]"
            )
        return np.flatnonzero(kept)

    def _ids(self, annotations: Sequence[Mapping[str, Any]], which: np.ndarray) -> str:
        """The ids of the first few of these annotations, and the images of those without one."""
        chosen = [annotations[n] for n in np.flatnonzero(which)[:6]]
        ids = [row["id"] if "id" in row else f"one of image {row['image_id']}" for row in chosen]
        return f"annotation{'s' if len(ids) > 1 else ''} {some(ids)}"

    def _read_numbers(self, annotations: Sequence[Mapping[str, Any]], crowd: np.ndarray) -> dict[str, np.ndarray]:
        """Fields that annotations hold as plain numbers; all must have them, apart from crowds."""
        found = {}
        for name, field in FIELDS.items():
            if field.annotation is None:
                continue
            there = np.array([field.annotation in row for row in annotations], bool)[~crowd]
            if there.any() and not there.all():
                self.notes.append(
                    f"{(~there).sum()} of {len(there)} annotations have no {field.annotation!r}, so that {name} is not "
                    "read"
                )
            elif there.any():
                found[name] = np.array([float(row.get(field.annotation, 0)) for row in annotations])
        return found

    def _read_joints(
        self, annotations: Sequence[Mapping[str, Any]], count: int, places: Mapping[Any, Sequence[int]]
    ) -> np.ndarray:
        """Joints ``[M, J, 3]`` (x, y, visibility); zeros where an annotation has none, -1 what its class lacks."""
        joints = np.zeros((len(annotations), count, 3), np.float32)
        joints[:, :, 2] = -1
        for row, of_row in zip(annotations, joints, strict=True):
            own = places.get(row["category_id"], [])
            of_row[own, 2] = 0
            given = row.get("keypoints")
            if not given:
                continue
            if len(given) != 3 * len(own):
                raise InputError(
                    f"{self._where(row)} has {len(given)} numbers in keypoints, but its category has {len(own)} "
                    "joints; COCO requires x, y, visibility for each"
                )
            values = np.asarray(given, np.float32).reshape(-1, 3)
            if not np.isfinite(values).all():
                raise InputError(
                    f"{self._where(row)} has keypoints that are not finite: {given}; replace them with numbers"
                )
            # Unlabeled joints have no position, whatever the file holds.
            of_row[own] = np.where(values[:, 2:] > 0, values, 0)
        return joints


def field_of(entry: Mapping[str, Any], key: str, kind: str, source: object) -> Any:
    """A required value of an image, annotation or category (``kind``) of ``source``."""
    if key not in entry:
        raise InputError(f"{source}: {kind} {entry.get('id', '(without id)')} has no {key!r}; COCO requires it")
    return entry[key]


def read_classes(
    content: Mapping[str, Any], source: object, wanted: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Class names and category ids by label: by rising id, or in the order of ``wanted``."""
    named = [(field_of(c, "id", "category", source), str(c.get("name", c["id"]))) for c in content["categories"]]
    by_id = dict(named)
    if len(by_id) < len(named):
        twice = next(category for n, (category, _) in enumerate(named) if category in dict(named[:n]))
        alike = " and ".join(repr(name) for category, name in named if category == twice)
        raise InputError(f"{source}: categories {alike} have the same id {twice!r}; give every class its own id")
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
    content: Mapping[str, Any], source: object, given: Mapping[str, Any] | None
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


def require_images(names: Sequence[str], folder: Path, source: Path, others: Sequence[Path] = ()) -> None:
    """Raise ``InputError`` when image files of the json are not in the folder (one listing per folder, not one call per
    file). ``others``: folders that were looked at before."""
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
            f"{len(missing)} of {len(names)} images of {source} are not in {folder} (first: {missing[0]})"
            + (f", nor in {some(others)}" if others and len(missing) == len(names) else "")
            + "; check the images folder"
        )


def size_of(image: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of an image's entry; zeros unless it has both."""
    height, width = int(image.get("height") or 0), int(image.get("width") or 0)
    return (height, width) if height and width else (0, 0)
