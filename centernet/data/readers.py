"""Selects readers: for the fields that a task needs, and for the fields of images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from centernet.data.kitti_format import find_calibration

KEPT = ("batch_size", "eval_batch_size", "num_workers", "seed", "joints", "extreme_points")
# Readers of formats whose data a user is likely to have more of, once a model was trained on it.
YOLO = "centernet.data.yolo.YoloDataModule"
OWN = (
    *("centernet.data.voc.VocDataModule", YOLO),
    *("centernet.data.createml.CreateMLDataModule", "centernet.data.auto.data_module"),
)


def reader_for(fields: Collection[str], trained: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """The data module that reads other files of objects with these fields, and its options, as plain data.

    ``trained``: data options of the training run; those that do not depend on the files are kept, and the format if it
    is one of the user's own. ``given``: names of the options for the other files.
    """
    kept = {name: trained[name] for name in KEPT if name in trained}
    if "location" in fields:
        return {"_target_": "centernet.data.kitti.KittiDataModule", **kept}
    if "yaml" in given:
        return {"_target_": YOLO, **kept}
    if trained.get("_target_") in OWN and not any(name.startswith("val_") and name != "val_split" for name in given):
        return {"_target_": trained["_target_"], **kept}
    prefix = {"prefix": "person_keypoints"} if "joints" in fields else {}
    return {"_target_": "centernet.data.coco.CocoDataModule", **prefix, **kept}


def options_for(fields: Collection[str], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Options of any data module for objects with these fields, as plain data; ``trained``: see ``reader_for``."""
    return {name: trained.get(name) or "masks" for name in ("extreme_points",) if name in fields}


# How to find a field of an image: from the image's path and a file or folder that the user may give.
IMAGE_READERS: dict[str, Callable[[Path, Path | None], np.ndarray]] = {"calibration": find_calibration}
