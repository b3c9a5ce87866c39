"""Which format the files below a folder have, by what lies there, and the data module that reads it."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from centernet.data.coco import CocoDataModule
from centernet.data.coco_layout import find_undivided, has_split
from centernet.data.createml import CreateMLDataModule, find_createml
from centernet.data.datamodule import CenterNetDataModule
from centernet.data.kitti import KittiDataModule
from centernet.data.voc import VocDataModule
from centernet.data.voc_layout import find_folders, find_split_folders
from centernet.data.yolo import YoloDataModule
from centernet.data.yolo_format import find_description
from centernet.errors import some
from centernet.structures import InputError

# What the json of COCO's format is called by what wrote it.
WRITERS = {"result.json": "Label Studio's", "instances_default.json": "CVAT's", "_annotations.coco.json": "Roboflow's"}
PREFIXES = ("instances", "person_keypoints")


class Format(NamedTuple):
    """A format: what it is called, the option of the group ``data`` that reads it, its module, what has to lie in the
    folder, and what of it does (None: nothing)."""

    name: str
    option: str
    module: type[CenterNetDataModule]
    needs: str
    find: Callable[[Path], str | None]


def _find_kitti(root: Path) -> str | None:
    folders = [root / "training" / name for name in ("image_2", "label_2")]
    return "training/image_2 and training/label_2" if all(folder.is_dir() for folder in folders) else None


def _find_voc(root: Path) -> str | None:
    if folders := find_folders(root):
        return some(f"{_below(each.annotations, root)}/*.xml" for each in folders)
    splits = find_split_folders(root)
    return some(f"{_below(each.annotations, root)}/*.xml" for each in splits.values()) if splits else None


def _find_yolo(root: Path) -> str | None:
    found = find_description(root)
    return None if found is None else found.source.name


def _find_coco(root: Path) -> str | None:
    for prefix in PREFIXES:
        path = has_split(root, "train", prefix) or has_split(root, "val", prefix)
        if path is None and (undivided := find_undivided(root, prefix)) is not None:
            path = undivided.annotations
        if path is not None and _is_coco(path):
            writer = WRITERS.get(path.name)
            return _below(path, root) + (f", as {writer} exports are called" if writer else "")
    return None


def _is_coco(path: Path) -> bool:
    """Whether a json has COCO's lists; a large one is believed to."""
    if path.stat().st_size > 2**25:
        return True
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        return path.name in WRITERS or path.name.startswith(PREFIXES)  # damaged: its reader says how
    return isinstance(content, dict) and "images" in content and "annotations" in content


def _find_createml(root: Path) -> str | None:
    found = next((each for split in ("train", "val", None) if (each := find_createml(root, split)) is not None), None)
    return None if found is None else _below(found.annotations, root)


FORMATS = (
    Format("KITTI", "kitti", KittiDataModule, "training/image_2 and training/label_2", _find_kitti),
    Format(
        "COCO", "coco", CocoDataModule, "annotations/instances_train.json or a json of another usual name", _find_coco
    ),
    Format("CreateML", "createml", CreateMLDataModule, "train/_annotations.createml.json", _find_createml),
    Format("YOLO", "yolo", YoloDataModule, "data.yaml, or classes.txt beside images and labels", _find_yolo),
    Format("Pascal VOC", "voc", VocDataModule, "Annotations/*.xml, or VOC2007, VOC2012, ... with them", _find_voc),
)


def find_format(root: Path) -> tuple[Format, str]:
    """The format of the files below a folder, and why it is taken for that. Raises ``InputError`` with what every
    format needs if there is none."""
    if not root.is_dir():
        raise InputError(f"data.root={root} is not an existing folder; give the folder that holds the data")
    found = [(each, what) for each in FORMATS if (what := each.find(root)) is not None]
    if not found:
        needs = "; ".join(f"{each.name}: {each.needs}" for each in FORMATS)
        there = some((f"{name}/" if (root / name).is_dir() else name for name in sorted(os.listdir(root))), 12)
        inner = next((path for path in sorted(root.iterdir()) if path.is_dir() and _holds_any(path)), None)
        advice = f"set data.root={inner}, which has one" if inner else "set data.root to the folder that holds it"
        raise InputError(f"no known format in {root} ({needs}); found {there or 'nothing'}; {advice}")
    chosen, what = found[0]
    others = [f"{why} ({each.name}; data={each.option} reads it)" for each, why in found[1:]]
    return chosen, f"it has {what}" + (f"; not read: {', '.join(others)}" if others else "")


def _holds_any(path: Path) -> bool:
    try:
        return any(each.find(path) is not None for each in FORMATS)
    except InputError:  # found, and not right
        return True


def data_module(
    root: str | Path | None = None,
    val_share: float | None = None,
    joints: Any = None,
    prefix: str = "instances",
    **options: Any,
) -> CenterNetDataModule:
    """The data module of the format that lies in ``root``; its ``setup`` says what it is taken for and why.

    ``prefix``: which of COCO's files (``CocoDataModule``); other options: ``AnnotatedDataModule``. Raises
    ``InputError`` for a folder without a known format, and for an option that the format does not have.
    """
    if root is None:
        raise InputError("no data given; set data.root=DIR, the folder that holds it")
    chosen, why = find_format(Path(root))
    given = {"val_share": val_share, "joints": joints, "prefix": None if prefix == "instances" else prefix}
    given = {name: value for name, value in given.items() if value is not None}
    if chosen.module is CocoDataModule and prefix == "instances" and not _has_prefix(Path(root), prefix):
        given["prefix"] = PREFIXES[1]
    known = _options_of(chosen.module)
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"data.{unknown[0]}={given[unknown[0]]} has no meaning for {chosen.name} data; leave it out")
    module = chosen.module(root=root, **given, **options)
    module.introduction = f"{root} is taken for {chosen.name} data: {why}"
    return module


def _has_prefix(root: Path, prefix: str) -> bool:
    """Whether a json of this prefix, or of a name without one, lies in a folder."""
    return any(has_split(root, split, prefix) for split in ("train", "val")) or find_undivided(root, prefix) is not None


def _options_of(module: type) -> set[str]:
    """The options of a module and of those above it."""
    return {name for part in module.__mro__ if "__init__" in vars(part) for name in inspect.signature(part).parameters}


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
