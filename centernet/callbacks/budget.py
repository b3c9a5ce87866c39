"""Training by the clock: the schedule ends when the time is up, whatever the data and the machine."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from centernet.errors import InputError

# Validations at the end: that of the last weights, and that of the best ones.
FINAL_VALIDATIONS = 2
# Seconds for everything else at the end: checkpoints, curves, result files.
CLOSING = 4.0
# Without a measurement: time of an image in validation, relative to training.
GUESS = 0.5
# How many steps and validations the estimates look back on: enough to pass over slow ones, few enough to see a change.
STEPS, VALIDATIONS = 31, 3


def seconds_of(given: Any) -> float:
    """Seconds of ``days:hours:minutes:seconds``. Raises ``InputError``."""
    parts = re.fullmatch(r"(\d+):(\d+):(\d+):(\d+)", str(given))
    seconds = (
        sum(int(part) * unit for part, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True)) if parts else 0
    )
    if not seconds:
        raise InputError(
            f"trainer.max_time={given!r} is not a time; write days:hours:minutes:seconds, such as 00:00:20:00 for "
            "twenty minutes"
        )
    return float(seconds)


class TimeBudget(Callback):
    """Ends the whole command after ``seconds``, counted from ``started`` (of ``time.perf_counter``), with a complete
    schedule: the learning rate follows the share of the time that is gone (``progress``).

    The time of the final evaluation is set aside: the longest of the last validations, or, before the first one, an
    estimate from the median of the last steps. The very first step is not counted, since compiling, starting a GPU and
    choosing algorithms can take as long as hundreds of steps. A validation takes place when all of them together take
    at most ``validation_share`` of the time. Several processes follow the clock of the first one. A continued run has
    what is left.
    """

    def __init__(self, seconds: float, started: float | None = None, validation_share: float = 0.1) -> None:
        self.seconds, self.validation_share = seconds, validation_share
        self.progress = 0.0
        """The share of the training time that is gone, from 0 to 1."""
        self._started = time.perf_counter() if started is None else started
        self._before = 0.0  # seconds that a run took before it was continued
        self._begin = 0.0  # progress at the first step
        self._first: float | None = None  # when the first step began
        self._validations: deque[float] = deque(maxlen=VALIDATIONS)  # seconds of each
        self._since = 0.0
        self._epoch = [0.0, 0.0]  # when it began, and its seconds of validation
        self._steps: deque[float] = deque(maxlen=STEPS)  # seconds per image, of all processes together
        self._stepped: float | None = None  # when the last step ended, or the epoch began
        self._group: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._elapsed(), "progress": self.progress, "validation": self._validation}

    @property
    def _validation(self) -> float | None:
        """Seconds that a validation takes, as far as it is known."""
        return max(self._validations, default=None)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before, self._begin = state["seconds"], state["progress"]
        self._validations.clear()
        if state["validation"] is not None:
            self._validations.append(state["validation"])
        self.progress = self._begin

    def _elapsed(self) -> float:
        return self._before + time.perf_counter() - self._started

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        if stage == "fit":
            module.clock = self

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")  # between the hosts: nothing waits for a device
        self._first, self.progress = time.perf_counter(), self._begin
        self._epoch = [self._first, 0.0]
        self._steps.clear()
        self._stepped = None
        self._follow(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self._stepped is not None:
            self._stepped = time.perf_counter()  # not the validation in between

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        now, images = time.perf_counter(), len(batch["image"]) * trainer.world_size
        if self._stepped is not None:
            self._steps.append((now - self._stepped) / max(images, 1))
        self._stepped = now
        self._follow(trainer)
        if self.progress >= 1 and not trainer.should_stop:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1  # the last weights are validated

    def _follow(self, trainer: pl.Trainer) -> None:
        """Set ``progress``, the same in all processes; it never falls."""
        now = time.perf_counter()
        left = self.seconds - self._reserve(trainer) - (self._elapsed() - (now - self._first))
        share = (now - self._first) / max(left, 1e-3)
        self.progress = max(self._of_first(min(self._begin + (1 - self._begin) * share, 1.0)), self.progress)

    def _reserve(self, trainer: pl.Trainer) -> float:
        """Seconds to set aside for the end."""
        each = self._validation
        if each is None:
            data = getattr(trainer, "datamodule", None)
            images = len(data.datasets["val"]) if data is not None else 0
            each = GUESS * images * statistics.median(self._steps) if self._steps else 0.0
        return FINAL_VALIDATIONS * each + CLOSING

    def _of_first(self, value: float) -> float:
        if self._group is None:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        torch.distributed.broadcast(shared, 0, group=self._group)
        return float(shared)

    # Validations: measured, and rare enough.

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self._first is None:
            return
        took = time.perf_counter() - self._since
        self._validations.append(took)
        self._epoch[1] += took

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        now = time.perf_counter()
        epoch = now - self._epoch[0] - self._epoch[1]
        self._epoch = [now, 0.0]
        if self._validation is not None and not trainer.should_stop:
            every = math.ceil(
                self._validation * (1 - self.validation_share) / (self.validation_share * max(epoch, 1e-3))
            )
            trainer.check_val_every_n_epoch = int(self._of_first(max(every, 1)))

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._group = None
