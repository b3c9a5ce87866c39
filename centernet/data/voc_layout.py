"""Where Pascal VOC's files lie: the devkit with its years, one of its years, and what tools make of the format.

A folder of the format has ``Annotations``, ``JPEGImages`` and lists in ``ImageSets/Main``. Exports have other names, no
lists, or a folder for each split. Upper and lower case do not matter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from centernet.data.coco_layout import SPLITS, entry
from centernet.data.images import SUFFIXES
from centernet.data.voc_format import read_names
from centernet.errors import InputError, some

LISTS = "ImageSets/Main"
# The years of the published trainings; each later year's trainval holds that of the years before it.
YEARS = ("2007", "2012")


class VocFolder(NamedTuple):
    """A folder of the format: ``year`` of the challenge (empty: another's), where its xml, images and lists are."""

    path: Path
    year: str
    annotations: Path
    images: Path

    def list_of(self, name: str) -> Path | None:
        """The list of this name, if there is one."""
        path = entry(self.path, f"{LISTS}/{name}.txt")
        return path if path is not None and path.is_file() else None

    def names(self) -> list[str]:
        """The names of all annotated images."""
        return sorted(name[:-4] for name in os.listdir(self.annotations) if name.endswith(".xml"))

    def has_annotated(self, name: str) -> bool:
        """Whether there is a list of this name whose first image is annotated (the challenge keeps some tests)."""
        path = self.list_of(name)
        return path is not None and read_names(path)[0] in self.names()


class VocSet(NamedTuple):
    """Images of a folder by name; ``name`` is what the set is called, such as 2007_test."""

    name: str
    folder: VocFolder
    names: list[str]


def find_folders(root: Path) -> list[VocFolder]:
    """The folders of the format that ``root`` is or holds: the devkit, a year, or a folder of another's data."""
    devkit = entry(root, "VOCdevkit")
    for place in (root, *([devkit] if devkit is not None and devkit.is_dir() else [])):
        if (own := _folder(place)) is not None:
            return [own]
        below = [_folder(path) for path in sorted(place.iterdir()) if re.fullmatch(r"(?i)voc\d{4}", path.name)]
        if found := [folder for folder in below if folder is not None]:
            return found
    return []


def find_split_folders(root: Path) -> dict[str, VocFolder]:
    """The folders of the splits, by ``train`` and ``val``, where each has its own xml files."""
    found = {}
    for split, names in SPLITS.items():
        for name in names:
            path = entry(root, name)
            if path is not None and path.is_dir() and (folder := _folder(path)) is not None:
                found[split] = folder
                break
    return found


def _folder(path: Path) -> VocFolder | None:
    year = re.fullmatch(r"(?i)voc(\d{4})", path.name)
    for place in ("Annotations", "xml", "labels", ""):
        annotations = entry(path, place)
        if annotations is None or not annotations.is_dir():
            continue
        if any(name.endswith(".xml") for name in os.listdir(annotations)):
            pictures = (entry(path, name) for name in ("JPEGImages", "images"))
            images = next((each for each in pictures if each is not None and each.is_dir()), annotations)
            return VocFolder(path, year[1] if year else "", annotations, images)
    return None


def usual_sets(root: Path, folders: Sequence[VocFolder], split: str) -> list[VocSet] | None:
    """The sets of ``train`` or ``val``, as the lists that are there suggest; None if the data is not divided.

    Trainval of 2007 and 2012 against the test of 2007, as far as they are there; elsewhere trainval against test, or
    train against val.
    """
    if not folders:
        own = find_split_folders(root)
        return [VocSet(own[split].path.name, own[split], own[split].names())] if len(own) == 2 else None
    if any(folder.year in YEARS for folder in folders):
        folders = [folder for folder in folders if folder.year in YEARS]
    tested = [folder for folder in folders if folder.has_annotated("test")]
    if tested and any(folder.list_of("trainval") for folder in folders):
        pairs = [(folder, "trainval") for folder in folders] if split == "train" else [(tested[0], "test")]
    elif tested and any(folder.list_of("train") for folder in folders):
        validates = any(folder.list_of("val") for folder in folders)
        name = "train" if split == "train" else "val" if validates else "test"
        pairs = [(folder, name) for folder in folders]
    elif all(any(folder.list_of(name) for folder in folders) for name in ("train", "val")):
        pairs = [(folder, split) for folder in folders]
    else:
        return None
    return [_set(folder, name, path) for folder, name in pairs if (path := folder.list_of(name)) is not None]


def whole_sets(root: Path, folders: Sequence[VocFolder]) -> list[VocSet]:
    """All images, of data that is to be divided."""
    folders = folders or list(find_split_folders(root).values())
    found = []
    for folder in folders:
        path = folder.list_of("trainval") or folder.list_of("train")
        found.append(
            VocSet(folder.path.name, folder, folder.names()) if path is None else _set(folder, path.stem, path)
        )
    return found


def named_sets(key: str, wanted: str | Sequence[str], root: Path, folders: Sequence[VocFolder]) -> list[VocSet]:
    """The sets of an option: ``LIST`` (in every folder that has it), ``YEAR_LIST``, or a text file with image names.

    Raises ``InputError``, naming the option ``key``, for a list that is not there.
    """
    found: list[VocSet] = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name.endswith(".txt"):
            path = next((path for path in (Path(name), root / name) if path.is_file()), None)
            if path is None:
                raise InputError(f"{key}: {name} does not exist, nor does it in {root}; give a list of image names")
            found += _of_file(path, folders)
            continue
        year, _, called = name.partition("_") if re.match(r"\d{4}_", name) else ("", "", name)
        there = [folder for folder in folders if not year or folder.year == year]
        sets = [_set(folder, called, path) for folder in there if (path := folder.list_of(called)) is not None]
        if not sets:
            raise InputError(f"{key}: {name} is not in {root}; use one of its lists: {_lists(folders)}")
        found += sets
    return found


def _of_file(path: Path, folders: Sequence[VocFolder]) -> list[VocSet]:
    """The images of a text file; each is looked for in all folders."""
    left = read_names(path)
    found = []
    for folder in folders:
        there = set(folder.names())
        if own := [name for name in left if name in there]:
            found.append(VocSet(path.stem, folder, own))
        left = [name for name in left if name not in there]
    if left:
        raise InputError(
            f"{len(left)} images of {path} have no annotation in {some(folder.annotations for folder in folders)} "
            f"({some(left)}); correct the list"
        )
    return found


def _set(folder: VocFolder, name: str, path: Path) -> VocSet:
    return VocSet(f"{folder.year}_{name}" if folder.year else name, folder, read_names(path))


def _lists(folders: Sequence[VocFolder]) -> str:
    names = []
    for folder in folders:
        place = entry(folder.path, LISTS)
        stems = sorted(path.stem for path in place.glob("*.txt")) if place is not None else []
        names += [f"{folder.year}_{stem}" if folder.year else stem for stem in stems if "_" not in stem]
    return some(names, 12) or "there are none"


def image_files(folder: VocFolder, names: Sequence[str], given: Sequence[str], source: str) -> list[Path]:
    """The images of these names, whatever their suffix; ``given``: what the xml files call them.

    Raises ``InputError`` if there are none for some.
    """
    listing = os.listdir(folder.images)
    by_stem = {os.path.splitext(file)[0]: file for file in listing if os.path.splitext(file)[1].lower() in SUFFIXES}
    there = set(listing)
    files, missing = [], []
    for name, called in zip(names, given, strict=True):
        file = by_stem.get(name) or (called if called in there else None)
        if file is None:
            missing.append(name)
        else:
            files.append(folder.images / file)
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} images of {source} are not in {folder.images} (first: {missing[0]}); "
            "complete the folder"
        )
    return files
