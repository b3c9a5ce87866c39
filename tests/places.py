"""Folders that tests read.

The whole reference and real data lie outside the repository (CENTERNET_REFERENCE and CENTERNET_DATA, else ../shared).
Where they are absent, a small part of the reference travels with the repository (``tests/reference/golden``), and tests
of real data are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
GOLDEN = ROOT / "tests" / "reference" / "golden"


def first_folder(*candidates: Path) -> Path:
    """The first of these folders that exists, else the last one."""
    return next((folder for folder in candidates if folder.is_dir()), candidates[-1])


REFERENCE = Path(os.environ.get("CENTERNET_REFERENCE") or first_folder(SHARED / "reference", GOLDEN))
DATA = Path(os.environ.get("CENTERNET_DATA") or SHARED / "data")
COCO_EVAL = first_folder(DATA / "coco-eval-fixture", GOLDEN / "coco_eval")
