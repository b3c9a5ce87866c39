"""Callbacks: the last checkpoint is the last, history survives, pictures come when they should."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from centernet.callbacks import BestAndLast, CollectDetections, History, Pictures, SaveOnInterrupt, epoch_line
from centernet.data.images import read_image
from centernet.module import CtdetModule
from tests import tiny
from tests.test_module import SHAPES, build_data, build_trainer, pytestmark  # noqa: F401  the same warnings are quiet

ROW = {"epoch": 3, "lr": 1.25e-4, "images_per_second": 51.7, "train/loss": 1.5, "train/loss/size": 2.0}


def build_module() -> CtdetModule:
    pl.seed_everything(0, verbose=False)
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK)
    tiny.enliven(module.detector.network)
    return module


def fit(folder: Path, shapes: Path, *callbacks: pl.Callback, epochs: int = 2, **options: Any) -> pl.Trainer:
    trainer = build_trainer(folder, max_epochs=epochs, callbacks=list(callbacks))
    trainer.fit(build_module(), build_data(shapes, limit=8, batch_size=4), weights_only=True, **options)
    return trainer


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Scripted(CtdetModule):
    """Reaches the AP that is written down for each epoch."""

    script = (0.5, 0.7, 0.6, 0.4, 0.8)

    def log_dict(self, values: dict[str, Any], **options: Any) -> None:
        super().log_dict({name: torch.tensor(self.script[self.current_epoch]) for name in values}, **options)


def train_scripted(folder: Path, shapes: Path, epochs: int, ckpt: Path | None = None) -> dict[str, int]:
    """Train; then the step that each checkpoint in the folder is of."""
    module = Scripted(class_names=SHAPES, backbone=tiny.NETWORK)
    trainer = build_trainer(folder, max_epochs=epochs, callbacks=[BestAndLast(folder)])
    trainer.fit(module, build_data(shapes, limit=8, batch_size=4), ckpt_path=ckpt, weights_only=True)
    assert trainer.checkpoint_callback.best_model_path == str(folder / "best.ckpt")
    return {path.name: torch.load(path, weights_only=True)["global_step"] for path in sorted(folder.iterdir())}


def test_last_is_of_the_last_epoch_and_best_of_the_best(shapes, tmp_path):
    assert train_scripted(tmp_path, shapes, epochs=4) == {"best.ckpt": 4, "last.ckpt": 8}


def test_a_resumed_run_starts_with_the_best_so_far(shapes, tmp_path):
    first = tmp_path / "first"
    assert train_scripted(first, shapes, epochs=3) == {"best.ckpt": 4, "last.ckpt": 6}
    # Epoch 4 is worse than epoch 2 was: its best stays the best, also in the new folder.
    assert train_scripted(tmp_path / "second", shapes, 4, first / "last.ckpt") == {"best.ckpt": 4, "last.ckpt": 8}
    assert train_scripted(tmp_path / "third", shapes, 5, first / "last.ckpt") == {"best.ckpt": 10, "last.ckpt": 10}
    assert {path.name for path in first.iterdir()} == {"best.ckpt", "last.ckpt"}
    # Going on in the same folder.
    assert train_scripted(first, shapes, 4, first / "last.ckpt") == {"best.ckpt": 4, "last.ckpt": 8}
    # The old folder is gone but for its last checkpoint.
    (first / "best.ckpt").unlink()
    assert train_scripted(tmp_path / "fourth", shapes, 5, first / "last.ckpt") == {"best.ckpt": 10, "last.ckpt": 10}


def test_a_quick_trial_run_writes_no_checkpoint(shapes, tmp_path):
    trainer = build_trainer(tmp_path, fast_dev_run=True, callbacks=[BestAndLast(tmp_path)])
    trainer.fit(build_module(), build_data(shapes))
    assert not list(tmp_path.iterdir())


def test_history_has_a_row_per_epoch_and_per_class_and_survives_a_resume(shapes, tmp_path):
    fit(tmp_path, shapes, History(tmp_path), BestAndLast(tmp_path), epochs=2)
    first = rows_of(tmp_path / "history.csv")
    assert [row["epoch"] for row in first] == ["1", "2"]
    assert [row["step"] for row in first] == ["2", "4"]
    assert all(float(row["images_per_second"]) > 0 for row in first)
    assert {"train/loss", "train/loss/heatmap", "val/loss/offset", "val/AP", "lr"} <= set(first[0])
    assert not [name for name in first[0] if name.startswith("bar_")]
    assert [(row["epoch"], row["class"]) for row in rows_of(tmp_path / "per_class.csv")] == [
        (epoch, name) for epoch in ("1", "2") for name in SHAPES
    ]
    assert read_image(tmp_path / "curves.png").std() > 5
    again = tmp_path / "again"
    fit(again, shapes, History(again), BestAndLast(again), epochs=3, ckpt_path=tmp_path / "last.ckpt")
    second = rows_of(tmp_path / "again" / "history.csv")
    assert second[:2] == first
    assert [row["epoch"] for row in second] == ["1", "2", "3"]
    assert len(rows_of(tmp_path / "again" / "per_class.csv")) == 12


def test_an_epoch_is_told_in_one_line():
    line = epoch_line({**ROW, "val/loss": 1.25, "val/AP": 0.5, "val/AP50": 0.75, "val/AP75": 0.6}, 140, ["AP", "AP50"])
    assert line == (
        "epoch   3/140  loss 1.500 (size 2.000)  val loss 1.250  AP 0.500  AP50 0.750  lr 0.00013  52 images/s"
    )
    assert epoch_line(ROW, None, ["AP"]) == "epoch   3  loss 1.500 (size 2.000)  lr 0.00013  52 images/s"
    assert "loss nan" in epoch_line({"epoch": 1, "lr": 1.0, "images_per_second": 0.0}, -1, ["AP"])


def test_pictures_are_drawn_every_so_many_epochs_and_at_the_end(shapes, tmp_path, monkeypatch):
    drawn: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "centernet.callbacks.save_image",
        lambda path, image: drawn.append((trainer.current_epoch + 1, path.name)) or path,
    )
    pictures = Pictures(tmp_path, count=3, every=2)
    trainer = build_trainer(tmp_path, max_epochs=5, callbacks=[pictures], enable_checkpointing=False)
    trainer.fit(build_module(), build_data(shapes, limit=8, batch_size=4))
    names = ["val_00.png", "val_01.png", "val_02.png"]
    assert drawn == [(epoch, name) for epoch in (2, 4, 5) for name in names]


def test_evaluation_draws_its_pictures(shapes, tmp_path):
    trainer = build_trainer(tmp_path, callbacks=[Pictures(tmp_path / "pictures", count=20)])
    trainer.validate(build_module(), build_data(shapes), verbose=False)
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 8  # there are no more
    height, width, _ = read_image(pictures[0]).shape
    assert width > 2 * height  # truth, prediction and heatmap side by side
    build_trainer(tmp_path, callbacks=[Pictures(tmp_path / "none", count=0)]).validate(
        build_module(), build_data(shapes), verbose=False
    )
    assert not (tmp_path / "none").exists()


def test_all_detections_are_collected_by_image(shapes, tmp_path):
    collect = CollectDetections()
    data = build_data(shapes)
    build_trainer(tmp_path, callbacks=[collect]).validate(build_module(), data, verbose=False)
    assert set(collect.rows) == set(data.datasets["val"].ids.tolist())
    assert all(found["boxes"].shape == (100, 4) for found in collect.rows.values())


class Interrupt(pl.Callback):
    """Ctrl-C in the middle of the second epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        if trainer.global_step == 3:
            raise KeyboardInterrupt


def test_an_interrupted_run_is_saved_and_says_how_to_go_on(shapes, tmp_path, capfd):
    folder = tmp_path / "a run {with} braces"
    stop = SaveOnInterrupt(folder, "python train.py 'x={a: 1}' ckpt={path}")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(folder, shapes, Interrupt(), stop, BestAndLast(folder))
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3
    said = capfd.readouterr().out
    assert f"interrupted; checkpoint {folder / 'last.ckpt'} saved after step 3" in said
    assert f"resume with: python train.py 'x={{a: 1}}' ckpt='{folder / 'last.ckpt'}'" in said


def test_a_run_that_is_interrupted_at_once_saves_nothing(shapes, tmp_path):
    class AtOnce(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, shapes, AtOnce(), SaveOnInterrupt(tmp_path))
    assert not list(tmp_path.glob("*.ckpt"))


def test_other_errors_do_not_replace_the_last_good_checkpoint(shapes, tmp_path):
    class Trip(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("tripped")

    with pytest.raises(RuntimeError, match="tripped"):
        fit(tmp_path, shapes, Trip(), SaveOnInterrupt(tmp_path), BestAndLast(tmp_path))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_skipped_images_are_reported(shapes, tmp_path, caplog):
    make = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(SHAPES)],
    }
    for split in ("train", "val"):
        tiny.make_coco(tmp_path / "data", split=split, **make)
    (tmp_path / "data" / "train" / "2.png").write_bytes(b"broken")
    data = build_data(tmp_path / "data", on_bad_image="skip", batch_size=2)
    trainer = build_trainer(tmp_path, callbacks=[History(tmp_path)], enable_checkpointing=False)
    with caplog.at_level(logging.WARNING):
        trainer.fit(build_module(), data)
    assert "skipped 1 unreadable images so far" in caplog.text
