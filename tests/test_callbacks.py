"""Callbacks: the last checkpoint is the last, history survives, pictures come when they should."""

from __future__ import annotations

import csv
import logging
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

from centernet.callbacks import (
    AverageWeights,
    BestAndLast,
    CollectDetections,
    History,
    Pictures,
    SaveOnInterrupt,
    StopEarly,
    TopCheckpoints,
    epoch_line,
)
from centernet.data.coco import CocoDataModule
from centernet.data.images import read_image
from centernet.errors import InputError
from centernet.module import CtdetModule, load_module
from tests import tiny
from tests.data.test_images import photograph
from tests.test_module import SHAPES, build_data, build_trainer, pytestmark  # noqa: F401  the same warnings are quiet

GRAY = np.full((96, 128, 3), 128, np.uint8)
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
    return {path.name: torch.load(path, weights_only=True)["global_step"] for path in sorted(folder.glob("[bl]*.ckpt"))}


def test_last_is_of_the_last_epoch_and_best_of_the_best(shapes, tmp_path):
    assert train_scripted(tmp_path, shapes, epochs=4) == {"best.ckpt": 4, "last.ckpt": 8}


def test_a_resumed_run_starts_with_the_best_so_far(shapes, tmp_path):
    first = tmp_path / "first"
    assert train_scripted(first, shapes, epochs=3) == {"best.ckpt": 4, "last.ckpt": 6}
    # Epoch 4 is worse than epoch 2 was: its best stays the best, also in the new folder.
    assert train_scripted(tmp_path / "second", shapes, 4, first / "last.ckpt") == {"best.ckpt": 4, "last.ckpt": 8}
    assert train_scripted(tmp_path / "third", shapes, 5, first / "last.ckpt") == {"best.ckpt": 10, "last.ckpt": 10}
    assert {path.name for path in first.iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    # Going on in the same folder.
    assert train_scripted(first, shapes, 4, first / "last.ckpt") == {"best.ckpt": 4, "last.ckpt": 8}
    # The old folder is gone but for its last checkpoint.
    (first / "best.ckpt").unlink()
    assert train_scripted(tmp_path / "fourth", shapes, 5, first / "last.ckpt") == {"best.ckpt": 10, "last.ckpt": 10}


def test_a_quick_trial_run_writes_no_checkpoint(shapes, tmp_path):
    trainer = build_trainer(tmp_path, fast_dev_run=True, callbacks=[BestAndLast(tmp_path)])
    trainer.fit(build_module(), build_data(shapes))
    assert not list(tmp_path.iterdir())


def test_history_has_a_row_per_epoch_and_per_class_and_survives_a_resume(shapes, tmp_path, caplog):
    caplog.set_level(logging.INFO)
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
    assert yaml.safe_load((tmp_path / "hparams.yaml").read_text())["class_names"] == SHAPES
    assert "not shown" not in caplog.text
    again = tmp_path / "again"
    fit(again, shapes, History(again), BestAndLast(again), epochs=3, ckpt_path=tmp_path / "last.ckpt")
    second = rows_of(tmp_path / "again" / "history.csv")
    assert second[:2] == first
    assert [row["epoch"] for row in second] == ["1", "2", "3"]
    assert len(rows_of(tmp_path / "again" / "per_class.csv")) == 12


def test_classes_without_objects_do_not_fill_the_table_per_class(tmp_path, caplog):
    names = [f"class {n}" for n in range(40)]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(names)]
    for split in ("train", "val"):
        rows = [
            {"image_id": image, "category_id": 1 + 3 * image, "bbox": [4, 4, 30, 30], "area": 900} for image in (1, 2)
        ]
        tiny.make_coco(tmp_path / "data", rows, categories=categories, split=split)
    module = CtdetModule(class_names=names, backbone=tiny.NETWORK)
    trainer = build_trainer(tmp_path, max_epochs=2, callbacks=[History(tmp_path)], enable_checkpointing=False)
    with caplog.at_level(logging.INFO):
        trainer.fit(module, build_data(tmp_path / "data", batch_size=2))
    shown = [(row["epoch"], row["class"]) for row in rows_of(tmp_path / "per_class.csv")]
    assert shown == [(epoch, name) for epoch in ("1", "2") for name in ("class 3", "class 6")]
    assert [r.message for r in caplog.records if "not shown" in r.message] == [
        "per_class.csv: 38 classes without objects are not shown"
    ]
    assert len(module.per_class) == 40


def test_the_curves_are_told_the_weights_of_the_losses(shapes, tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr(
        "centernet.callbacks.history.plot_history", lambda rows, path, results, weights: told.update(weights)
    )
    fit(tmp_path, shapes, History(tmp_path), epochs=1)
    assert told == {"heatmap": 1.0, "size": 0.1, "offset": 1.0}


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
        "centernet.callbacks.pictures.save_image",
        lambda path, image: drawn.append((trainer.current_epoch + 1, path.name)) or path,
    )
    pictures = Pictures(tmp_path, count=3, every=2)
    trainer = build_trainer(tmp_path, max_epochs=5, callbacks=[pictures], enable_checkpointing=False)
    trainer.fit(build_module(), build_data(shapes, limit=8, batch_size=4))
    names = ["val_00.png", "val_01.png", "val_02.png"]
    assert drawn == [(1, "train_batches.png"), *((epoch, name) for epoch in (2, 4, 5) for name in names)]


class Look(pl.Callback):
    """Which pictures there are when the first epoch begins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.current_epoch == 0:
            assert trainer.global_step == 0
            self.found = sorted(path.name for path in self.folder.glob("*.png"))


def test_the_inputs_of_the_training_are_drawn_before_its_first_epoch(shapes, tmp_path):
    look = Look(tmp_path)
    fit(tmp_path, shapes, Pictures(tmp_path, count=6), look, epochs=1)
    assert look.found == ["train_batches.png"]
    picture = read_image(tmp_path / "train_batches.png")
    assert picture.shape[1] > picture.shape[0] > 2 * 384  # four in a row, two in the next one


def test_a_run_that_continues_at_the_end_of_an_epoch_has_no_inputs_to_draw(shapes, tmp_path):
    data = build_data(shapes)
    data.setup("fit")
    loader = torch.utils.data.DataLoader(data.datasets["train"], batch_size=2, sampler=[])
    trainer = SimpleNamespace(datamodule=data, is_global_zero=True, train_dataloader=loader, current_epoch=0)
    Pictures(tmp_path).on_train_start(trainer, None)
    assert not list(tmp_path.iterdir())


def test_the_drawn_inputs_are_those_that_are_trained_on(shapes, tmp_path, monkeypatch):
    drawn, trained = [], []
    monkeypatch.setattr(
        "centernet.callbacks.pictures.draw_inputs",
        lambda batches, *_: drawn.extend(image for batch in batches for image in batch["image"]) or GRAY,
    )

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
            trained.extend(batch["image"])

    data = build_data(shapes, limit=8, batch_size=4, augment={"warp": "zoom", "mosaic": 0.5, "mixup": 0.5, "color": {}})
    trainer = build_trainer(tmp_path, callbacks=[Pictures(tmp_path, count=8), Watch()], enable_checkpointing=False)
    trainer.fit(build_module(), data)
    assert len(drawn) == len(trained) == 8
    assert all(torch.equal(one, other) for one, other in zip(drawn, trained, strict=True))


def test_drawing_the_inputs_changes_nothing_about_the_training(shapes, tmp_path):
    weights = []
    for count in (0, 4):
        pictures = Pictures(tmp_path / str(count), count=count)
        trainer = fit(tmp_path, shapes, pictures, epochs=1)
        weights.append(trainer.lightning_module.state_dict())
        assert (tmp_path / str(count) / "train_batches.png").is_file() == (count > 0)
        assert trainer.datamodule.datasets["train"].skipped == 0
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


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


def test_pictures_show_the_pixels_that_were_evaluated(tmp_path, monkeypatch):
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(
        "centernet.callbacks.pictures.truth_and_prediction", lambda image, *_: drawn.append(image) or image
    )
    path, images = tiny.make_coco(tmp_path, images=[{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}])
    stored = photograph(images / "a.jpg", 6)
    files = {"train_annotations": path, "train_images": images, "val_annotations": path, "val_images": images}
    data = CocoDataModule(**files, resolution=(64, 64), num_workers=0)
    trainer = build_trainer(tmp_path, callbacks=[Pictures(tmp_path / "pictures")])
    trainer.validate(CtdetModule(num_classes=2, backbone=tiny.NETWORK), data, verbose=False)
    assert (drawn[0] == stored).mean() > 0.9  # two decoders round differently


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


def test_an_interruption_of_an_evaluation_saves_nothing(shapes, tmp_path):
    class Stop(pl.Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            raise KeyboardInterrupt

    (tmp_path / "last.ckpt").write_bytes(b"of the training")
    trainer = build_trainer(tmp_path, callbacks=[Stop(), SaveOnInterrupt(tmp_path)])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.validate(build_module(), build_data(shapes), verbose=False)
    assert (tmp_path / "last.ckpt").read_bytes() == b"of the training"


def test_a_signal_is_obeyed_after_the_step_and_handlers_are_put_back(shapes, tmp_path, capfd):
    class Signal(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                signal.raise_signal(signal.SIGTERM)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop = SaveOnInterrupt(tmp_path, "python train.py ckpt={path}")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, shapes, Signal(), BestAndLast(tmp_path), stop)
    assert stop.signal == signal.SIGTERM
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
    assert "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before[1]


def test_the_last_checkpoint_is_saved_within_epochs_at_an_interval(shapes, tmp_path):
    class Watch(pl.Callback):
        saved: list[int] = []

        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if (tmp_path / "last.ckpt").is_file():
                self.saved.append(torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"])

    watch = Watch()
    fit(tmp_path, shapes, watch, SaveOnInterrupt(tmp_path, minutes=0), epochs=2)
    assert watch.saved == [1, 2, 3]


def test_the_best_checkpoints_are_kept_where_that_is_wanted(shapes, tmp_path):
    module = Scripted(class_names=SHAPES, backbone=tiny.NETWORK)
    callbacks = [BestAndLast(tmp_path), TopCheckpoints(tmp_path, count=2)]
    trainer = build_trainer(tmp_path, max_epochs=5, callbacks=callbacks)
    trainer.fit(module, build_data(shapes, limit=8, batch_size=4))
    # 0.5, 0.7, 0.6, 0.4, 0.8: epochs 2 and 5.
    assert sorted(path.name for path in tmp_path.glob("top*")) == ["top_epoch_002.ckpt", "top_epoch_005.ckpt"]
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "best.ckpt")


def test_training_stops_when_nothing_gets_better(shapes, tmp_path, caplog):
    module = Scripted(class_names=SHAPES, backbone=tiny.NETWORK)
    stop = StopEarly(patience=2)
    trainer = build_trainer(tmp_path, max_epochs=5, callbacks=[stop], enable_checkpointing=False)
    with caplog.at_level(logging.INFO):
        trainer.fit(module, build_data(shapes, limit=8, batch_size=4))
    assert trainer.current_epoch == 4  # 0.5, 0.7, then 0.6 and 0.4
    assert "stopped early: val/AP has not risen for 2 validations" in caplog.text


def test_averaged_weights_are_validated_and_saved_and_training_goes_on_with_its_own(shapes, tmp_path):
    seen: list[dict[str, torch.Tensor]] = []

    class Watch(pl.Callback):
        def note(self, module: Any) -> None:
            seen.append({name: value.clone() for name, value in module.detector.network.named_parameters()})

        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            self.note(module)

        def on_validation_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            self.note(module)

    fit(tmp_path, shapes, AverageWeights(0.5), Watch(), BestAndLast(tmp_path), epochs=1)
    *steps, validated, _ = seen
    assert len(steps) == 2
    # d = min(0.5, (1 + n) / (10 + n)): 2/11 after the first step, 3/12 after the second.
    module = build_module()
    for name, start in module.detector.network.named_parameters():
        wanted = start.lerp(steps[0][name], 1 - 2 / 11).lerp(steps[1][name], 1 - 3 / 12)
        assert torch.allclose(validated[name], wanted, atol=1e-6), name
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for name, value in steps[1].items():
        assert torch.equal(content["state_dict"][f"detector.network.{name}"], validated[name])
        assert torch.equal(content["live_weights"][f"detector.network.{name}"], value)
    loaded, _ = load_module(tmp_path / "best.ckpt")
    for name, value in loaded.detector.network.named_parameters():
        assert torch.equal(value, validated[name])


@pytest.mark.parametrize(("rate", "share"), [(1.0, 0.1), (0.5, 0.2), (0.1, 1.0), (0.01, 1.0), (0.0, 1.0), (None, 0.1)])
def test_the_average_follows_the_weights_more_closely_at_a_lower_learning_rate(rate, share):
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.25)
    if rate is not None:  # as a scheduler does it
        optimizer.param_groups[0] |= {"initial_lr": 0.25, "lr": 0.25 * rate}
    trainer = SimpleNamespace(global_step=200, optimizers=[optimizer])
    module = SimpleNamespace(detector=SimpleNamespace(network=network), device=torch.device("cpu"))
    average = AverageWeights(0.9)
    average.on_fit_start(trainer, module)
    before = network.weight.item()
    torch.nn.init.constant_(network.weight, before + 1)
    average.on_train_batch_end(trainer, module)
    average.on_train_end(trainer, module)
    assert network.weight.item() == pytest.approx(before + share)


@pytest.mark.parametrize("decay", [0, 1, 1.5])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(InputError, match=f"callbacks.average.decay={decay} is not between 0 and 1"):
        AverageWeights(decay)


def test_a_frozen_backbone_does_not_change_and_then_learns(shapes, tmp_path):
    seen: list[dict[str, torch.Tensor]] = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
            seen.append({name: value.clone() for name, value in module.detector.network.state_dict().items()})

    pl.seed_everything(0, verbose=False)
    schedule = {"freeze_epochs": 1, "lr": 0.01, "epochs": 2, "decay": "constant"}
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, schedule=schedule)
    before = {name: value.clone() for name, value in module.detector.network.state_dict().items()}
    trainer = build_trainer(tmp_path, max_epochs=2, callbacks=[Watch()], enable_checkpointing=False)
    trainer.fit(module, build_data(shapes, limit=8, batch_size=4))
    first, second = seen
    backbone = [name for name in before if name.startswith("backbone.")]
    assert all(torch.equal(before[name], first[name]) for name in backbone)
    assert not all(torch.equal(before[name], first[name]) for name in before.keys() - set(backbone))
    changed = [name for name in backbone if not torch.equal(first[name], second[name])]
    assert any("running_mean" in name for name in changed)
    assert any("weight" in name for name in changed)


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
    data = build_data(tmp_path / "data", on_bad_image="skip", batch_size=2, allow_empty=True)
    trainer = build_trainer(tmp_path, callbacks=[History(tmp_path)], enable_checkpointing=False)
    with caplog.at_level(logging.WARNING):
        trainer.fit(build_module(), data)
    assert "skipped 1 unreadable images so far" in caplog.text
