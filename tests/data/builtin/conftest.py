"""Built-in COCO data in a size that holds the rare scenes, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from centernet.data.builtin.figures import write_figures
from centernet.data.builtin.shapes import write_shapes


@pytest.fixture(scope="session")
def drawn_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 training and 10 validation images; read only."""
    return write_shapes(tmp_path_factory.mktemp("drawn") / "shapes", train=90, val=10, seed=3)


@pytest.fixture(scope="session")
def drawn_figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training and 10 validation images; read only."""
    return write_figures(tmp_path_factory.mktemp("drawn") / "figures", train=120, val=10, seed=3)
