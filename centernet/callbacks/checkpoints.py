"""Checkpoints: the best, the last, and what is saved when a run is stopped."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only

from centernet.resume import LAST, PREVIOUS

log = logging.getLogger(__name__)


def save_last(trainer: pl.Trainer, folder: str | Path) -> Path:
    """Save ``last.ckpt`` in a run folder and keep the one before as ``previous.ckpt``; all processes must call it."""
    path = Path(folder) / LAST
    trainer.save_checkpoint(path.with_name(f".{LAST}.new"))
    if trainer.is_global_zero:
        if path.is_file():
            os.replace(path, path.with_name(PREVIOUS))
        os.replace(path.with_name(f".{LAST}.new"), path)
    return path


class BestAndLast(ModelCheckpoint):
    """Saves ``best.ckpt`` by the metric's first headline, and ``last.ckpt`` after every epoch, in the run folder."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor="val/AP",  # replaced by the metric's own in setup
            mode="max",
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        self.monitor = f"val/{module.metric.headline[0]}"
        super().setup(trainer, module, stage)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        # Lightning's `save_last` writes only with a new best checkpoint, and History has this epoch only now.
        if not trainer.fast_dev_run:
            save_last(trainer, self.dirpath)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A resumed run has its own folder: it starts with the best checkpoint so far, if it still exists.
        theirs, mine = Path(state_dict["best_model_path"]), Path(self.dirpath) / "best.ckpt"
        if not theirs.is_file():
            return
        if rank_zero_only.rank == 0 and theirs.resolve() != mine.resolve():
            mine.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(theirs, mine)
        kept = {"dirpath": self.dirpath, "best_model_path": str(mine), "kth_best_model_path": str(mine)}
        score = {"best_k_models": {str(mine): state_dict["best_model_score"]}}
        super().load_state_dict({**state_dict, **kept, **score})


class TopCheckpoints(ModelCheckpoint):
    """Besides ``best.ckpt`` keeps the ``count`` best checkpoints, as ``top_epoch_NNN.ckpt`` (None: does not)."""

    def __init__(self, folder: str | Path, count: int | None = None) -> None:
        super().__init__(
            dirpath=folder,
            filename="top_epoch_{epoch:03d}",
            monitor="val/AP",  # replaced by the metric's own in setup
            mode="max",
            save_top_k=count or 0,
            auto_insert_metric_name=False,
        )
        self.is_off = not count

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        self.monitor = f"val/{module.metric.headline[0]}"
        super().setup(trainer, module, stage)

    def format_checkpoint_name(self, metrics: dict[str, torch.Tensor], *rest: Any, **options: Any) -> str:
        # Epochs count from 1, as on the screen.
        return super().format_checkpoint_name({**metrics, "epoch": metrics["epoch"] + 1}, *rest, **options)


class StopEarly(EarlyStopping):
    """Stops training when the metric's first headline has not risen for ``patience`` validations (None: never)."""

    def __init__(self, patience: int | None = None, min_delta: float = 0.0) -> None:
        # The monitor is replaced by the metric's own in setup.
        super().__init__("val/AP", patience=patience or 1, min_delta=min_delta, mode="max", verbose=False)
        self.is_off = patience is None

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        self.monitor = f"val/{module.metric.headline[0]}"
        super().setup(trainer, module, stage)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.stopped_epoch:
            log.info(f"stopped early: {self.monitor} has not risen for {self.patience} validations")


class SaveOnInterrupt(Callback):
    """Stops a run after its current step on Ctrl-C or SIGTERM, saves ``last.ckpt`` and prints how to resume.

    ``minutes``: also save ``last.ckpt`` within epochs, at this interval. A second Ctrl-C stops at once. Several
    processes stop after the same step.
    """

    def __init__(self, folder: str | Path, resume_command: str = "", minutes: float | None = None) -> None:
        self.folder, self.resume_command, self.minutes = Path(folder), resume_command, minutes
        self.signal = 0  # that was received
        self.has_told = False  # the user how to go on
        self._saved_at = time.monotonic()
        self._complete = True  # the weights are those after a whole step
        self._is_agreed = False  # all processes stop after the same step
        self._before: dict[int, Any] = {}  # handlers to restore
        self._group: Any = None
        self._sent: tuple[Any, torch.Tensor] | None = None

    # Signals: noted at once, obeyed after the step.

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.signal, self._saved_at, self._complete, self._is_agreed = 0, time.monotonic(), True, False
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")  # between the hosts, apart from the gradients
            # Lightning asks about SIGTERM before every step, and makes the host wait for the device to do so.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if rank_zero_only.rank == 0:
            # Not print, which a signal may interrupt in the middle of another print.
            os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    # Steps: between two of them the run may be saved and stopped.

    def on_train_batch_start(self, *_: Any) -> None:
        self._complete = False

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        loop = trainer.fit_loop.epoch_loop
        self._complete = not loop._should_accumulate()  # gradients are not saved
        stop, save = self._agree(trainer)
        if not self._complete:
            return
        if stop:
            self._stop()
        if save:
            save_last(trainer, self.folder)
            self._saved_at = time.monotonic()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._agree(trainer)[0]:
            self._stop()

    def _stop(self) -> None:
        self._is_agreed = True
        raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()  # BestAndLast saves now

    def _agree(self, trainer: pl.Trainer) -> tuple[bool, bool]:
        """Whether any process was told to stop, and whether it is time to save."""
        due = self.minutes is not None and time.monotonic() - self._saved_at > 60 * self.minutes
        if trainer.world_size == 1:
            return bool(self.signal), due
        # Processes ask each other after every step and read the answer a step later, when it has long arrived.
        stop = save = 0
        if self._sent is not None:
            work, answer = self._sent
            work.wait()
            stop, save = answer.tolist()
        flags = torch.tensor([int(self.signal > 0), int(due and trainer.is_global_zero)], dtype=torch.int32)
        self._sent = (torch.distributed.all_reduce(flags, group=self._group, async_op=True), flags)
        return stop > 0, save > 0

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._close()

    def _close(self) -> None:
        if self._sent is not None:
            self._sent[0].wait()
        self._sent = self._group = None

    # The end.

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        stopped = isinstance(exception, KeyboardInterrupt) or self.signal > 0
        if not stopped or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        path = self.folder / LAST
        if self._complete and (self._is_agreed or trainer.world_size == 1) and trainer.global_step > 0:
            save_last(trainer, self.folder)
            state = f"saved after step {trainer.global_step}"
        elif path.is_file():
            state = "of the last finished epoch"
        else:
            state = "not yet written"
        self.has_told = True
        if not trainer.is_global_zero:
            return
        print(f"\ninterrupted; checkpoint {path} {state}", flush=True)
        if path.is_file() and self.resume_command:
            # Not str.format: overrides may contain braces.
            print("resume with:", self.resume_command.replace("{path}", shlex.quote(str(path))), flush=True)
