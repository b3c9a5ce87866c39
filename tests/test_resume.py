"""A run that stops anywhere and continues equals the run that did not stop: weights, optimizer, history."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch

from centernet.callbacks import AverageWeights, BestAndLast, History, SaveOnInterrupt
from centernet.checkpoint import LIVE_WEIGHTS, read_checkpoint
from centernet.errors import InputError
from centernet.module import CtdetModule
from centernet.resume import newest_checkpoint
from tests import tiny
from tests.test_module import SHAPES, build_data, build_trainer
from tests.test_module import pytestmark as quiet

pytestmark = [*quiet, pytest.mark.filterwarnings("ignore:Checkpoint directory")]

EPOCHS = 3
SCHEDULE = {"decay": "cosine", "epochs": EPOCHS, "warmup_epochs": 0.5, "lr": 0.01, "lr_batch_size": None}


class StopAt(pl.Callback):
    """Ctrl-C, as its handler notes it, at the end of a step or of a batch of validation; then the run stops."""

    def __init__(self, stop: SaveOnInterrupt, step: int, batch: int | None = None) -> None:
        self.stop, self.step, self.batch = stop, step, batch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.batch is None and trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.step:
            self.stop.signal = signal.SIGINT

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if index == self.batch and trainer.global_step == self.step:
            self.stop.signal = signal.SIGINT


class Run(NamedTuple):
    """What a training leaves."""

    module: CtdetModule
    rows: list[dict[str, float]]
    classes: list[dict[str, Any]]
    seen: list[int]  # images, in the order of training
    rates: list[float]  # after each step


class Watch(pl.Callback):
    """Writes down what is trained on, and at which rate."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        self.seen += batch["image_id"].tolist()
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def train(
    folder: Path,
    shapes: Path,
    ckpt: Path | None = None,
    stop_at: tuple[int, int | None] | None = None,
    decay: float | None = None,
    schedule: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    teacher: Path | None = None,
    **options: Any,
) -> Run:
    pl.seed_everything(0, verbose=False)
    schedule = {**SCHEDULE, **(schedule or {})}
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, schedule=schedule, teacher=teacher)
    tiny.enliven(module.detector.network)
    stop, history, watch = SaveOnInterrupt(folder), History(folder), Watch()
    callbacks = [watch, history, BestAndLast(folder)]
    if decay is not None:
        callbacks.append(AverageWeights(decay))
    if stop_at is not None:
        callbacks.append(StopAt(stop, *stop_at))
    trainer = build_trainer(folder, max_epochs=EPOCHS, callbacks=[*callbacks, stop], **options)
    images = build_data(shapes, **{"batch_size": 4, "limit": 22, **(data or {})})
    if stop_at is None:
        trainer.fit(module, images, ckpt_path=ckpt, weights_only=True)
    else:
        with pytest.raises(SystemExit):
            trainer.fit(module, images, ckpt_path=ckpt, weights_only=True)
    return Run(module, history.rows, history.class_rows, watch.seen, watch.rates)


def assert_equal_runs(a: Run, b: Run) -> None:
    for (name, x), y in zip(a.module.state_dict().items(), b.module.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    for mine, theirs in zip(a.rows + a.classes, b.rows + b.classes, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"images_per_second"}:
            assert str(mine[name]) == str(theirs[name]), name  # NaN equals NaN


@pytest.fixture(scope="module")
def straight(shapes, tmp_path_factory) -> Run:
    run = train(tmp_path_factory.mktemp("straight"), shapes)
    assert [row["epoch"] for row in run.rows] == [1, 2, 3]
    assert len(run.seen) == EPOCHS * 20  # 22 images in batches of 4, the last 2 left out
    return run


# A step is (batch of training, None), a batch of validation (step, batch). Epochs have 5 batches, validations 2.
@pytest.mark.parametrize("stop_at", [(1, None), (3, None), (5, None), (8, None), (12, None), (5, 0), (10, 1)], ids=str)
def test_a_run_that_is_stopped_anywhere_and_resumed_equals_one_that_is_not(straight, shapes, tmp_path, stop_at):
    stopped = train(tmp_path, shapes, stop_at=stop_at)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == stop_at[0]
    resumed = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt")
    assert stopped.seen + resumed.seen == straight.seen
    assert stopped.rates + resumed.rates == straight.rates
    assert_equal_runs(resumed, straight)


def test_stopping_twice_in_an_epoch_changes_nothing(straight, shapes, tmp_path):
    first = train(tmp_path, shapes, stop_at=(6, None))
    second = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", stop_at=(9, None))
    resumed = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt")
    assert first.seen + second.seen + resumed.seen == straight.seen
    assert_equal_runs(resumed, straight)


@pytest.mark.parametrize("ckpt", ["last.ckpt", "previous.ckpt"])
def test_workers_resume_at_the_end_and_in_the_middle_of_an_epoch(straight, shapes, tmp_path, ckpt):
    train(tmp_path, shapes, stop_at=(13, None), data={"num_workers": 1})
    done = torch.load(tmp_path / ckpt, weights_only=True)["global_step"]
    assert done == {"last.ckpt": 13, "previous.ckpt": 10}[ckpt]
    resumed = train(tmp_path, shapes, ckpt=tmp_path / ckpt, data={"num_workers": 1})
    assert resumed.seen == straight.seen[4 * done :]
    assert_equal_runs(resumed, straight)


def test_accumulated_gradients_are_not_lost(shapes, tmp_path):
    whole = train(tmp_path / "whole", shapes, accumulate_grad_batches=2)
    # Batch 3 of an epoch begins a step of two: the run stops after batch 4.
    stopped = train(tmp_path, shapes, stop_at=(3, None), accumulate_grad_batches=2)
    assert len(stopped.seen) == 4 * 4
    resumed = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", accumulate_grad_batches=2)
    assert stopped.seen + resumed.seen == whole.seen
    assert_equal_runs(resumed, whole)


@pytest.mark.parametrize("stop_at", [(7, None), (10, 0)], ids=str)
def test_averaged_weights_resume_exactly(shapes, tmp_path, stop_at):
    whole = train(tmp_path / "whole", shapes, decay=0.9)
    train(tmp_path, shapes, stop_at=stop_at, decay=0.9)
    resumed = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", decay=0.9)
    assert_equal_runs(resumed, whole)
    last = [torch.load(path / "last.ckpt", weights_only=True) for path in (tmp_path / "whole", tmp_path)]
    for name, value in last[0][LIVE_WEIGHTS].items():
        assert torch.equal(value, last[1][LIVE_WEIGHTS][name]), name


@pytest.mark.parametrize("stop_at", [(7, None), (10, 0)], ids=str)
def test_a_run_with_a_teacher_resumes_exactly(straight, shapes, tmp_path, stop_at):
    teacher = tmp_path / "teacher.ckpt"
    straight.module.trainer.save_checkpoint(teacher)
    whole = train(tmp_path / "whole", shapes, decay=0.9, teacher=teacher)
    assert all(row["train/loss/teacher"] > 0 for row in whole.rows)
    train(tmp_path, shapes, stop_at=stop_at, decay=0.9, teacher=teacher)
    resumed = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", decay=0.9, teacher=teacher)
    assert_equal_runs(resumed, whole)
    plain, taught = (torch.load(path, weights_only=True) for path in (teacher, tmp_path / "last.ckpt"))
    assert plain["state_dict"].keys() == taught["state_dict"].keys() == taught[LIVE_WEIGHTS].keys()
    assert any(not torch.equal(value, taught["state_dict"][name]) for name, value in plain["state_dict"].items())


def test_a_teacher_may_come_or_go_in_the_middle_of_an_epoch(straight, shapes, tmp_path):
    teacher = tmp_path / "teacher.ckpt"
    straight.module.trainer.save_checkpoint(teacher)
    train(tmp_path, shapes, stop_at=(7, None))
    train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", stop_at=(8, None), teacher=teacher)
    run = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt")
    assert [row["epoch"] for row in run.rows] == [1, 2, 3]
    assert all("train/loss/teacher" not in row for row in run.rows)


def test_an_epoch_without_validation_is_not_given_the_results_of_the_last_one(shapes, tmp_path):
    run = train(tmp_path, shapes, check_val_every_n_epoch=2)
    assert ["val/AP" in row for row in run.rows] == [False, True, False]
    assert {row["epoch"] for row in run.classes} == {2}
    stopped = train(tmp_path / "b", shapes, stop_at=(5, None), check_val_every_n_epoch=2)
    assert len(stopped.seen) == 20
    resumed = train(tmp_path / "b", shapes, ckpt=tmp_path / "b" / "last.ckpt", check_val_every_n_epoch=2)
    assert_equal_runs(resumed, run)


# What the run says now counts.


def test_a_resumed_run_uses_its_own_learning_rate(straight, shapes, tmp_path, caplog):
    train(tmp_path, shapes, stop_at=(7, None))
    with caplog.at_level(logging.INFO):
        resumed = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", schedule={"lr": 0.001})
    assert resumed.rates == pytest.approx([rate / 10 for rate in straight.rates[7:]])
    assert "settings differ; this run's are used: schedule.lr 0.01 -> 0.001" in caplog.text


def test_a_resumed_run_may_decay_weights_though_the_stopped_one_did_not(shapes, tmp_path):
    train(tmp_path, shapes, stop_at=(7, None))
    before = torch.load(tmp_path / "last.ckpt", weights_only=True)["optimizer_states"][0]
    resumed = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", schedule={"weight_decay": 0.1})
    after = resumed.module.trainer.optimizers[0].state_dict()
    assert [group["weight_decay"] for group in after["param_groups"]] == [0.1, 0.0]
    assert len(before["param_groups"]) == 1
    steps = {float(state["step"]) for state in after["state"].values()}
    assert steps == {15.0}  # moments were kept for every parameter


def test_a_resumed_run_continues_the_epoch_in_batches_of_another_size(straight, shapes, tmp_path):
    stopped = train(tmp_path, shapes, stop_at=(7, None))
    resumed = train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", data={"batch_size": 2})
    # Of epoch 2, 8 of 22 images are trained on: 14 are left, and all are seen.
    assert (stopped.seen + resumed.seen)[:40] == straight.seen[:40]
    assert len(resumed.seen) == 14 + 22
    assert [row["epoch"] for row in resumed.rows] == [1, 2, 3]
    assert len(resumed.rates) == 7 + 11
    # The schedule follows the epochs, not the steps.
    assert resumed.rates[7] == pytest.approx(straight.rates[10])


def test_another_optimizer_is_refused(shapes, tmp_path):
    train(tmp_path, shapes, stop_at=(2, None))
    message = "trained with schedule.optimizer=adam, this run uses sgd; keep it, or start a new run from its weights"
    with pytest.raises(InputError, match=message):
        train(tmp_path, shapes, ckpt=tmp_path / "last.ckpt", schedule={"optimizer": "sgd"})


def test_the_schedule_ends_with_the_last_epoch_when_gradients_are_accumulated(shapes, tmp_path):
    run = train(tmp_path, shapes, accumulate_grad_batches=2, schedule={"warmup_epochs": 0, "min_lr_ratio": 0.1})
    # Five batches make three steps; after nine the rate is a tenth.
    final = run.module.trainer.optimizers[0].param_groups[0]["lr"]
    assert final == pytest.approx(0.001)
    assert run.rates[-1] > 0.0011


# Files.


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_is_taken(shapes, tmp_path):
    train(tmp_path, shapes)
    assert newest_checkpoint(tmp_path) == (tmp_path / "last.ckpt", [])
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    found, (sentence,) = newest_checkpoint(tmp_path)
    assert found == tmp_path / "previous.ckpt"
    assert "last.ckpt" in sentence
    assert sentence.endswith("; taking the one before")
    assert read_checkpoint(found)["epoch"] == EPOCHS - 2
    assert newest_checkpoint(tmp_path / "nothing") == (None, [])
