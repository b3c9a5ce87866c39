"""Which reader understands which data: for a task's fields, and for what images carry besides pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from centernet.data.kitti_format import find_calibration

KEPT = ("batch_size", "eval_batch_size", "num_workers", "seed", "joints")


def reader_for(fields: Collection[str], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The data module that reads the usual files of objects with these fields, and its options, as plain data.

    ``trained``: the options of the data of the training, of which it keeps what other files do not change.
    """
    kept = {name: trained[name] for name in KEPT if name in trained}
    if "location" in fields:
        return {"_target_": "centernet.data.kitti.KittiDataModule", **kept}
    prefix = {"prefix": "person_keypoints"} if "joints" in fields else {}
    return {"_target_": "centernet.data.coco.CocoDataModule", **prefix, **kept}


# How the field of an image is found: from its path, and a file or folder that the user may name.
IMAGE_READERS: dict[str, Callable[[Path, Path | None], np.ndarray]] = {"calibration": find_calibration}
