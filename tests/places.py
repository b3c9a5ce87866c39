"""Folders outside the repository that some tests read; each may be absent, and then those tests are skipped."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = Path(os.environ.get("CENTERNET_REFERENCE") or ROOT.parent / "shared" / "reference")
DATA = Path(os.environ.get("CENTERNET_DATA") or ROOT.parent / "shared" / "data")
