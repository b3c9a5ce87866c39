"""`make clean` removes what can be made again, and `make clean-runs` says what it removes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.places import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the Makefile beside caches, drawn data, data of the user's own, and a run."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (
        *("data/shapes/drawn.json", "data/shapes/train/1.jpg", "data/mine/train/1.jpg", "data/notes.txt"),
        *("data/mine/__pycache__/kept.txt", "centernet/__pycache__/a.pyc", ".pytest_cache/a", ".ruff_cache/a"),
        *("runs/train/one/best.ckpt", "runs/train/one/last.ckpt", "runs/train/one/.hydra/config.yaml", ".venv/a"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def make(folder: Path, *words: str, answer: str = "") -> tuple[int, str]:
    # Not as a part of the `make test` that perhaps started the tests.
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, input=answer, env=own)
    return done.returncode, done.stdout + done.stderr


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"Makefile"}


RUN = {"runs/train/one/best.ckpt", "runs/train/one/last.ckpt", "runs/train/one/.hydra/config.yaml"}
KEPT = {"data/mine/train/1.jpg", "data/notes.txt", "data/mine/__pycache__/kept.txt", ".venv/a"}


def test_cleaning_removes_caches_and_drawn_data_and_keeps_runs_and_own_data(project):
    code, said = make(project, "clean")
    assert code == 0
    assert said == "removed data/shapes\n"
    assert files(project) == RUN | KEPT
    assert make(project, "clean") == (0, "")


@pytest.mark.parametrize(("words", "answer"), [(["YES=1"], ""), ([], "y\n")])
def test_cleaning_runs_says_what_it_removes(project, words, answer):
    code, said = make(project, "clean-runs", *words, answer=answer)
    assert code == 0
    assert "runs/train/one\n" in said
    assert "runs/ holds 1 runs with 2 checkpoints, " in said
    assert not files(project) & RUN
    assert files(project) >= KEPT | {"data/shapes/train/1.jpg"}
    assert "there is no folder runs" in make(project, "clean-runs")[1]


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_without_a_yes_no_run_is_removed(project, answer):
    code, said = make(project, "clean-runs", answer=answer)
    assert code != 0
    assert "nothing was removed" in said
    assert files(project) >= RUN
