"""The files of YOLO's format: the yaml that describes a data set, lists of images, a text file of labels per image.

Format of docs.ultralytics.com/datasets: detection (class and box), segmentation (class and outline) and pose (class,
box and joints); all coordinates are shares of the image's width and height.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from yaml import YAMLError, safe_load

from centernet.data.coco_layout import SPLITS, entry
from centernet.data.images import SUFFIXES
from centernet.errors import InputError, some

NAMES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
CLASS_FILES = ("classes.txt", "obj.names")
# The folders of a split's images in data without a yaml file.
FOLDERS = ("images/{}", "{}/images", "{}")
SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# Shares beyond 0 .. 1 by more than this are pixels, or a mistake; less is rounding.
SLACK = 0.01

# Everything that pyyaml raises for a file that is not YAML.
UNREADABLE = (YAMLError, ValueError, RecursionError, TypeError, AttributeError, LookupError, ArithmeticError)


class Description(NamedTuple):
    """A data set: ``source``, its file; ``names`` of the classes in order; ``splits``: folders and lists of images as
    they are written, by split (train, val, test), relative to ``base``; ``joints``: how many, and numbers for each;
    ``flip``: each joint's partner in the mirror image; ``joint_names``, if they are given."""

    source: Path
    base: Path
    names: list[str]
    splits: dict[str, list[str]]
    joints: tuple[int, int] | None = None
    flip: list[int] | None = None
    joint_names: list[str] | None = None

    def places(self, split: str) -> list[Path]:
        """The folders and lists of a split. Raises ``InputError`` for one that does not exist (the others may be
        missing)."""
        return [_place(each, self.base, self.source, split) for each in self.splits[split]]


def read_description(path: Path) -> Description:
    """A yaml as Ultralytics and Roboflow write it. Raises ``InputError``, naming the key, for what is wrong."""
    try:
        content = safe_load(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"data.yaml={path} does not exist; give the yaml that describes the data") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML ({reason}); correct it") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path} describes no data set; YOLO's yaml has the keys train, val and names")
    names = _read_names(content, path)
    base = _base(content.get("path"), path)
    splits = {}
    for split, keys in SPLIT_KEYS.items():
        given = next((content[key] for key in keys if content.get(key)), None)
        if given is not None:
            splits[split] = _listed(given, path, split)
    if not splits:
        raise InputError(f"{path} names no images; YOLO's yaml has the keys train and val")
    joints = _read_joints(content, path)
    flip = _read_flip(content, path, joints)
    return Description(path, base, names, splits, joints, flip, _read_joint_names(content, path, joints))


def _read_names(content: Mapping[Any, Any], path: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, Mapping):
        numbers = {str(key).strip(): name for key, name in names.items()}
        if wrong := [key for key in numbers if not (key.isascii() and key.isdigit())]:
            raise InputError(f"{path}: names has the key {some(wrong)}; its keys are numbers of classes, from 0")
        of_number = {int(key): name for key, name in numbers.items()}
        if sorted(of_number) != list(range(len(numbers))):
            raise InputError(
                f"{path}: names has the numbers {some(sorted(of_number))}; number the classes 0, 1, 2, ..."
            )
        names = [of_number[number] for number in range(len(of_number))]
    if not isinstance(names, list) or not names:
        raise InputError(f"{path} has no names of classes; add names: [NAME, ...] or names: {{0: NAME, ...}}")
    if wrong := [name for name in names if isinstance(name, (list, Mapping)) or name is None]:
        raise InputError(f"{path}: names holds {some(wrong)}; give a name for each class")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two classes are called {twice!r}; give every class its own name")
    count = content.get("nc")
    if count is not None and count != len(names):
        raise InputError(f"{path}: nc is {count}, but names has {len(names)} classes; make them agree")
    return names


def _base(given: Any, path: Path) -> Path:
    """The folder that the paths of a yaml are relative to: ``path`` in it, itself relative to the yaml."""
    if given is None:
        return path.parent
    if not isinstance(given, str):
        raise InputError(f"{path}: path is {given!r}; give the folder of the data, or leave it out")
    # Ultralytics looks in its own folder of data sets; a copy of the data has moved from there.
    return next((place for place in (path.parent / given, Path(given)) if _exists(place)), path.parent)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _listed(given: Any, path: Path, split: str) -> list[str]:
    listed = given if isinstance(given, list) else [given]
    if wrong := [each for each in listed if not isinstance(each, str) or not each.strip()]:
        raise InputError(
            f"{path}: {split} holds {some(wrong)}; give a folder, a text file of images, or a list of them"
        )
    return listed


def _place(given: str, base: Path, path: Path, split: str) -> Path:
    """A folder or list of images of a yaml."""
    # Roboflow writes ../train/images for a folder beside the yaml.
    trimmed = given
    while trimmed.startswith("../"):
        trimmed = trimmed[3:]
    tried = list(dict.fromkeys([base / given, base / trimmed, path.parent / given, path.parent / trimmed]))
    found = next((place for place in tried if _exists(place)), None)
    if found is None:
        raise InputError(
            f"{path}: {split} is {given}, which does not exist in {base}; correct the path, which is relative to "
            "path, or to the yaml"
        )
    return found


def _read_joints(content: Mapping[Any, Any], path: Path) -> tuple[int, int] | None:
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    if not (isinstance(shape, list) and [type(value) for value in shape] == [int, int] and shape[0] > 0):
        raise InputError(f"{path}: kpt_shape is {shape!r}; give [number of joints, 2 or 3]")
    if shape[1] not in (2, 3):
        raise InputError(f"{path}: kpt_shape is {shape!r}; a joint has 2 numbers (x, y) or 3 (x, y, visibility)")
    return shape[0], shape[1]


def _read_flip(content: Mapping[Any, Any], path: Path, joints: tuple[int, int] | None) -> list[int] | None:
    flip = content.get("flip_idx")
    if flip is None or joints is None:
        return None
    is_list = isinstance(flip, list) and all(type(place) is int for place in flip)
    if not is_list or sorted(flip) != list(range(joints[0])) or any(flip[flip[n]] != n for n in flip):
        raise InputError(
            f"{path}: flip_idx is {flip!r}; give the place of each joint's partner in the mirror image, 0 to "
            f"{joints[0] - 1}"
        )
    return flip


def _read_joint_names(content: Mapping[Any, Any], path: Path, joints: tuple[int, int] | None) -> list[str] | None:
    """Names of the joints, if they are given: a list for each class, of which there is one kind here."""
    names = content.get("kpt_names")
    if names is None or joints is None:
        return None
    if isinstance(names, Mapping):
        lists = list(names.values())
        names = lists[0] if lists and all(each == lists[0] for each in lists) else None
    if not isinstance(names, list) or len(names) != joints[0] or len({str(name) for name in names}) < len(names):
        raise InputError(
            f"{path}: kpt_names does not hold {joints[0]} different names, the same for all classes; correct it"
        )
    return [str(name) for name in names]


def find_description(root: Path) -> Description | None:
    """What describes the data below ``root``: a yaml, or a list of class names beside ``images`` and ``labels``; None
    without one."""
    path = find_yaml(root)
    if path is not None:
        return read_description(path)
    classes = next((path for name in CLASS_FILES if (path := entry(root, name)) is not None), None)
    if classes is None or not classes.is_file():
        return None
    names = [line.strip() for line in _read_text(classes).splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{classes} does not hold a different name of a class in each line; correct it")
    splits: dict[str, list[str]] = {}
    for split, called in SPLITS.items():
        places = [(name, entry(root, pattern.format(name))) for name in called for pattern in FOLDERS]
        found = next(((name, place) for name, place in places if place is not None and place.is_dir()), None)
        if found is not None:
            splits["test" if found[0] == "test" else split] = [str(found[1].relative_to(root))]
    if not splits:
        images = entry(root, "images")
        splits = {"train": [images.name if images is not None and images.is_dir() else "."]}
    return Description(classes, root, names, splits)


def find_yaml(root: Path) -> Path | None:
    """The yaml below ``root`` that describes data: of a usual name, or the only one that has names and images."""
    usual = (entry(root, name) for name in NAMES)
    found = next((path for path in usual if path is not None and path.is_file()), None)
    if found is not None:
        return found
    others = [path for path in sorted(root.iterdir()) if path.suffix in (".yaml", ".yml") and path.is_file()]
    described = [path for path in others if _describes(path)]
    return described[0] if len(described) == 1 else None


def _describes(path: Path) -> bool:
    try:
        content = safe_load(path.read_bytes())
    except (OSError, *UNREADABLE):
        return False
    return isinstance(content, Mapping) and "names" in content and ("train" in content or "val" in content)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file; replace it") from None


def find_files(places: Sequence[Path], source: Path) -> list[Path]:
    """The images of folders, with all below them, and of text files with a path in each line, sorted by place.

    Raises ``InputError`` for a list with missing files, and if there are none.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            names = (Path(folder) / name for folder, _, files in os.walk(place) for name in files)
            found += sorted(path for path in names if path.suffix.lower() in SUFFIXES)
        elif place.suffix.lower() in SUFFIXES:
            found.append(place)
        else:
            found += _files_of_list(place, source.parent)
    found = list(dict.fromkeys(found))
    if not found:
        raise InputError(f"no images in {some(places)}; correct the paths in {source}")
    return found


def _files_of_list(path: Path, base: Path) -> list[Path]:
    files, missing = [], []
    for line in _read_text(path).splitlines():
        if not (name := line.strip()):
            continue
        # ./ is the list's own folder; other tools write paths that are relative to the yaml.
        tried = (path.parent / name, base / name, Path(name))
        file = next((each for each in tried if _exists(each)), None)
        if file is None:
            missing.append(name)
        else:
            files.append(file)
    if missing:
        raise InputError(f"{len(missing)} images in {path} do not exist ({some(missing, 3)}); correct the list")
    return files


def label_file(image: Path) -> Path:
    """Where the labels of an image lie: in ``labels`` in place of the last folder ``images``, else beside it."""
    parts = list(image.parts)
    places = [n for n, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


class Label(NamedTuple):
    """A line: its number, the class, and the object by shares of the image's size: ``box`` (center x, center y, width,
    height), ``outline [N, 2]`` and ``joints [J, 3]`` (x, y, visibility), where it has them."""

    line: int
    number: int
    box: np.ndarray
    outline: np.ndarray | None = None
    joints: np.ndarray | None = None


def read_labels(path: Path, classes: int, joints: tuple[int, int] | None) -> tuple[list[Label], list[str]]:
    """The objects of one image, and a phrase about each line that cannot be read; none of both without the file."""
    if not path.is_file():
        return [], []
    labels, faults = [], []
    for n, line in enumerate(_read_text(path).splitlines(), 1):
        if words := line.split():
            try:
                labels.append(_read_label(n, words, classes, joints))
            except InputError as error:
                faults.append(f"{path} line {n}: {error}")
    return labels, faults


def _read_label(n: int, words: Sequence[str], classes: int, joints: tuple[int, int] | None) -> Label:
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        word = next(_not_numbers(words))
        raise InputError(f"{word[:20]!r} is not a number") from None
    if not np.isfinite(values).all():
        raise InputError("a number is not finite")
    if values[0] != math.floor(values[0]) or not 0 <= values[0] < classes:
        raise InputError(f"class {words[0][:20]}, and the classes are 0 to {classes - 1}")
    number, rest = int(values[0]), values[1:]
    if joints is not None:
        return _read_pose(n, number, rest, joints)
    if len(rest) == 4:
        _require_shares(rest)
        return Label(n, number, rest)
    if len(rest) < 6 or len(rest) % 2:
        raise InputError(f"{len(words)} numbers, where a box has 5 and an outline 7, 9, 11, ...")
    _require_shares(rest)
    outline = rest.reshape(-1, 2)
    low, high = outline.min(0), outline.max(0)
    return Label(n, number, np.concatenate([(low + high) / 2, high - low]), outline)


def _not_numbers(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        try:
            float(word)
        except ValueError:
            yield word


def _read_pose(n: int, number: int, rest: np.ndarray, shape: tuple[int, int]) -> Label:
    count, width = shape
    if len(rest) != 4 + count * width:
        raise InputError(f"{len(rest) + 1} numbers, where kpt_shape {[*shape]} needs {5 + count * width}")
    points = rest[4:].reshape(count, width)
    # Without a visibility, a joint in the corner is one that is not labeled.
    seen = points[:, 2] if width == 3 else np.where((points[:, :2] > 0).any(1), 2, 0)
    _require_shares(rest[:4])
    _require_shares(points[seen > 0, :2])
    return Label(n, number, rest[:4], joints=np.column_stack([points[:, :2], seen]))


def _require_shares(values: np.ndarray) -> None:
    """Raise ``InputError`` unless these are shares of an image's size."""
    outside = values[(values < -SLACK) | (values > 1 + SLACK)]
    if outside.size:
        raise InputError(f"{outside.flat[0]:g} is no share of the image's size, from 0 to 1")
