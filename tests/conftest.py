"""What all tests share: folders of reference numbers and real data, quiet surroundings, the built-in data in small."""

from __future__ import annotations

import os
from pathlib import Path

# Before any import that reads them: nothing here needs the network, and two cores are shared by all test processes.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from centernet.data.builtin.cuboids import write_cuboids
from centernet.data.builtin.figures import write_figures
from centernet.data.builtin.shapes import write_shapes
from tests.commands import command  # noqa: F401  a fixture for all
from tests.places import DATA, REFERENCE

torch.set_num_threads(1)

# The same examples on every run, so that a failure repeats. No deadline: the first example pays for imports.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """Numbers measured from the original implementations."""
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference numbers in {REFERENCE} (set CENTERNET_REFERENCE)")
    return REFERENCE


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Small real data sets."""
    if not DATA.is_dir():
        pytest.skip(f"no data sets in {DATA} (set CENTERNET_DATA)")
    return DATA


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data set in small: 24 train and 8 val images. Read it, do not write to it."""
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=24, val=8)


@pytest.fixture(scope="session")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in persons with joints in small, like ``shapes``."""
    return write_figures(tmp_path_factory.mktemp("data") / "figures", train=24, val=8)


@pytest.fixture(scope="session")
def cuboids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in 3D boxes in small, like ``shapes``."""
    return write_cuboids(tmp_path_factory.mktemp("data") / "cuboids", train=24, val=8)
