"""The notebooks run from top to bottom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl

from centernet.data.builtin.shapes import ShapesDataModule
from centernet.module import CtdetModule
from tests.places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = ShapesDataModule(root="data/shapes", train_count=8, val_count=2, resolution=(64, 64), num_workers=0)
    trainer = pl.Trainer(max_steps=1, logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer.fit(CtdetModule(num_classes=4, backbone="test_resnet"), data)
    run = tmp_path / "runs" / "train" / "now"
    trainer.save_checkpoint(run / "best.ckpt")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    space: dict[str, object] = {}
    for number, cell in enumerate(cells):
        assert not cell["outputs"], f"cell {number} was committed with its output"
        exec(compile("".join(cell["source"]), f"{path.name}:{number}", "exec"), space)
