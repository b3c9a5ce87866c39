"""A training by the clock: the schedule is complete when the time is up."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from centernet.callbacks import BestAndLast, History, TimeBudget, budget, seconds_of
from centernet.errors import InputError
from centernet.module import CtdetModule
from tests import tiny
from tests.test_module import SHAPES, build_data, build_trainer, pytestmark  # noqa: F401  the same warnings are quiet


class Time:
    """A clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: self.now))


def fake_trainer(val_images: int | None = None) -> SimpleNamespace:
    """What a budget asks of a trainer; ``val_images``: None without a data module."""
    data = None if val_images is None else SimpleNamespace(datasets={"val": [None] * val_images})
    return SimpleNamespace(world_size=1, datamodule=data, should_stop=False, check_val_every_n_epoch=1)


class Ticking(CtdetModule):
    """Needs a second for every step, and two for every batch of a validation."""

    clock_of_test: Time

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.clock_of_test.now += 1.0
        return super().training_step(batch, index)

    def validation_step(self, batch: Any, index: int) -> Any:
        self.clock_of_test.now += 2.0
        return super().validation_step(batch, index)


def train(
    folder: Path, shapes: Path, clock: Time, given: TimeBudget, ckpt: Path | None = None, **options: Any
) -> tuple[pl.Trainer, list[dict[str, float]]]:
    """Eight steps per epoch, a validation of two batches; returns the history's rows too."""
    module = Ticking(class_names=SHAPES, backbone=tiny.NETWORK, schedule={"decay": "cosine", "epochs": 10, "lr": 1e-4})
    module.clock_of_test = clock
    history = History(folder)
    trainer = build_trainer(folder, max_epochs=-1, callbacks=[BestAndLast(folder), history, given], **options)
    trainer.fit(module, build_data(shapes, limit=8, batch_size=1, eval_batch_size=4), ckpt_path=ckpt, weights_only=True)
    return trainer, history.rows


def test_training_ends_with_a_complete_schedule_and_leaves_time_for_the_evaluation(shapes, tmp_path, monkeypatch):
    clock = Time(monkeypatch)
    started, clock.now = clock.now, clock.now + 7.0  # imports
    trainer, rows = train(tmp_path, shapes, clock, TimeBudget(200.0, started, validation_share=0.4))
    # A validation takes 4 seconds; one was kept for the evaluation that follows, and what closes the run.
    assert clock.now + 4.0 + budget.CLOSING == pytest.approx(started + 200.0, abs=2.0)
    assert trainer.callback_metrics["val/AP"] is not None
    assert rows[-1]["lr"] == pytest.approx(1e-4 / 32 * 0.01, rel=0.3)  # of the step before the last
    assert "val/AP" in rows[-1]
    rates = [row["lr"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert (tmp_path / "last.ckpt").is_file()


def test_validations_are_rare_enough(shapes, tmp_path, monkeypatch):
    clock = Time(monkeypatch)
    _, rows = train(tmp_path, shapes, clock, TimeBudget(300.0, clock.now, validation_share=0.1))
    validated = [row["epoch"] for row in rows if "val/AP" in row]
    # 4 seconds of 40: every fifth epoch of eight, after the first.
    assert validated[0] == 1
    assert all(epoch % 5 == 0 for epoch in validated[1:-1])
    assert validated[-1] == rows[-1]["epoch"]


def test_a_continued_run_has_what_is_left(shapes, tmp_path, monkeypatch):
    clock = Time(monkeypatch)

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    given = TimeBudget(120.0, clock.now)
    module = Ticking(class_names=SHAPES, backbone=tiny.NETWORK, schedule={"decay": "cosine", "epochs": 10, "lr": 1e-4})
    module.clock_of_test = clock
    trainer = build_trainer(tmp_path, max_epochs=-1, callbacks=[BestAndLast(tmp_path), given, Stop()])
    trainer.fit(module, build_data(shapes, limit=8, batch_size=1, eval_batch_size=4))
    spent, progress = clock.now - 100.0, given.progress
    assert 0.2 < progress < 0.5
    clock.now = 5000.0
    again = TimeBudget(120.0, clock.now)
    _, rows = train(tmp_path / "again", shapes, clock, again, ckpt=tmp_path / "last.ckpt")
    assert again.progress == 1.0
    assert clock.now - 5000.0 + spent + 4.0 + budget.CLOSING == pytest.approx(120.0, abs=2.5)
    assert rows[0]["lr"] < 1e-4 / 32 * 0.9  # not from the beginning


def test_progress_never_falls_and_ends_at_one(monkeypatch):
    clock = Time(monkeypatch)
    given = TimeBudget(100.0, clock.now)
    trainer = fake_trainer()
    given.on_train_start(trainer, None)
    seen = []
    for step in range(120):
        clock.now += 1.0
        if step == 20:  # a long validation: less is left
            given.on_validation_start(trainer, None)
            clock.now += 10.0
            given.on_validation_end(trainer, None)
        given.on_train_batch_end(trainer, None, None, {"image": [0]}, step)
        seen.append(given.progress)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert trainer.should_stop
    assert trainer.check_val_every_n_epoch == 1


def test_a_slow_first_step_neither_ends_the_training_nor_moves_the_schedule_far(monkeypatch):
    clock = Time(monkeypatch)
    given = TimeBudget(600.0, clock.now)
    trainer = fake_trainer(val_images=5000)
    given.on_train_start(trainer, None)
    given.on_train_epoch_start(trainer, None)
    batch, seen = {"image": [0] * 8}, []
    for step, seconds in enumerate([30.0, 0.1, 0.1, 20.0, *[0.1] * 96]):  # a compiled network is compiled twice
        clock.now += seconds
        given.on_train_batch_end(trainer, None, None, batch, step)
        seen.append(given.progress)
    assert not trainer.should_stop
    # The two final validations of 5000 images at half the time of a step's are set aside: 62.5 seconds.
    assert seen[0] == pytest.approx(30.0 / (600 - budget.CLOSING))
    assert seen[-1] == pytest.approx((50.0 + 98 * 0.1) / (600 - 62.5 - budget.CLOSING), rel=1e-6)


def test_the_time_of_a_validation_is_not_taken_for_that_of_a_step(monkeypatch):
    clock = Time(monkeypatch)
    given = TimeBudget(600.0, clock.now)
    trainer = fake_trainer(val_images=10)
    given.on_train_start(trainer, None)
    for epoch in range(3):
        given.on_train_epoch_start(trainer, None)
        clock.now += 1.0
        given.on_train_batch_end(trainer, None, None, {"image": [0]}, epoch)
        clock.now += 100.0  # one that is not told
    assert given._reserve(trainer) == pytest.approx(2 * 0.5 * 10 * 1.0 + budget.CLOSING)


def test_a_slow_first_validation_is_forgotten(monkeypatch):
    clock = Time(monkeypatch)
    given = TimeBudget(600.0, clock.now)
    trainer = fake_trainer()
    given.on_train_start(trainer, None)
    reserves = []
    for seconds in (50.0, 2.0, 3.0, 2.0):
        given.on_validation_start(trainer, None)
        clock.now += seconds
        given.on_validation_end(trainer, None)
        reserves.append(given._reserve(trainer) - budget.CLOSING)
    assert reserves == [100.0, 100.0, 100.0, 6.0]


@pytest.mark.parametrize(
    ("given", "seconds"), [("00:00:20:00", 1200), ("00:01:00:30", 3630), ("2:00:00:00", 172800), ("00:00:00:05", 5)]
)
def test_times_are_days_hours_minutes_and_seconds(given, seconds):
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", ["20", "20:00", "00:00:00:00", 1200, "a:b:c:d", "00:00:-1:00"])
def test_another_form_of_time_is_refused(given):
    with pytest.raises(InputError, match="is not a time; write days:hours:minutes:seconds, such as 00:00:20:00"):
        seconds_of(given)


def test_the_line_of_an_epoch_shows_the_share_of_the_time(shapes, tmp_path, monkeypatch, caplog):
    clock = Time(monkeypatch)
    with caplog.at_level(logging.INFO):
        train(tmp_path, shapes, clock, TimeBudget(60.0, clock.now))
    lines = [record.message for record in caplog.records if record.message.startswith("epoch")]
    assert lines[0].startswith("epoch   1 (")
    assert lines[-1].split("  loss")[0].endswith("(100%)")
