"""The notebooks run from top to bottom, and are stored as they ran."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import pytorch_lightning as pl

from centernet.data.builtin.shapes import ShapesDataModule
from centernet.module import CtdetModule
from tests.places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# An absolute path of somebody's machine, such as /home/me/runs; not a part of a relative one, an address or a fraction.
ABSOLUTE = re.compile(r"(?<![\w./:])/[a-z]\w*/\w")
MOST = 1_500_000  # bytes of a notebook with its pictures


def cells_of(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built-in data and a run of a small network."""
    folder = tmp_path_factory.mktemp("notebooks")
    data = ShapesDataModule(
        root=folder / "data" / "shapes", train_count=8, val_count=2, resolution=(64, 64), num_workers=0
    )
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=folder,
        limit_val_batches=0, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(CtdetModule(num_classes=4, backbone="test_resnet"), data)
    trainer.save_checkpoint(folder / "runs" / "train" / "now" / "best.ckpt")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    matplotlib.use("agg")
    space: dict[str, object] = {}
    for number, cell in enumerate(cells_of(path)):
        exec(compile("".join(cell["source"]), f"{path.name}:{number}", "exec"), space)


def test_there_are_the_three_notebooks_that_the_readme_names() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_targets", "02_predict", "03_errors"]
    readme = (ROOT / "README.md").read_text()
    assert all(path.stem in readme for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_it_ran_from_top_to_bottom(path: Path) -> None:
    cells = cells_of(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not ["".join(output["text"]) for output in outputs if output.get("name") == "stderr"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    assert path.stat().st_size < MOST
    texts = ["".join(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in outputs]
    assert not [text for text in texts if ABSOLUTE.search(text)]
