"""An exponential moving average of the weights, for validation, the best checkpoint and everything after it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from centernet.checkpoint import LIVE_WEIGHTS, PREFIX, network_weights
from centernet.errors import InputError


class AverageWeights(Callback):
    """Averages weights and batch-norm statistics of the network over a training's steps (Polyak and Juditsky, 1992).

    After step n: average = d * average + (1 - d) * weights. At the full learning rate d = min(``decay``,
    (1 + n) / (10 + n)), so that it follows the weights closely at first. At a lower one, as at the end of a schedule,
    weights are less noisy and there is less to average: 1 - d is divided by the rate relative to the full one, and is
    at most 1. With a window of constant length the average would end behind the weights. Validation uses the average;
    a checkpoint holds it in place of the weights, and these under a key of their own, so training resumes exactly.
    ``decay`` None: no average.

    Unlike Lightning's ``WeightAveraging`` it copies the network alone, never waits for the device, and may be saved
    during a validation.
    """

    def __init__(self, decay: float | None = None) -> None:
        if decay is not None and not 0 < decay < 1:
            raise InputError(f"callbacks.average.decay={decay} is not between 0 and 1; 0.9998 is usual")
        self.decay, self.is_off = decay, decay is None
        self._average: dict[str, torch.Tensor] = {}
        self._steps = 0
        self._is_swapped = False

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]

    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        given = self._average or module.detector.network.state_dict()
        self._average = {name: value.detach().clone().to(module.device) for name, value in given.items()}

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step <= self._steps:  # accumulating gradients
            return
        self._steps = trainer.global_step
        weight = 1 - min(self.decay, (1 + self._steps) / (10 + self._steps))
        weight /= max(_rate(trainer.optimizers), weight)  # at most 1
        pairs = [(self._average[name], value) for name, value in module.detector.network.state_dict().items()]
        real = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([average for average, _ in real], [value for _, value in real], weight)
        for average, value in pairs:
            if not average.is_floating_point():  # counters
                average.copy_(value)

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap(module)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap(module)

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        if self._is_swapped:
            self._swap(module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._swap(module)
        self._average, self._is_swapped = {}, False

    def teardown(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        # A continued run that has nothing left to train does not end its training.
        if stage == "fit" and not self._is_swapped:
            self.on_train_end(trainer, module)

    @torch.no_grad()
    def _swap(self, module: Any) -> None:
        """Exchange weights and average."""
        if not self._average:  # evaluation without training
            return
        for name, value in module.detector.network.state_dict().items():
            kept = value.clone()
            value.copy_(self._average[name])
            self._average[name].copy_(kept)
        self._is_swapped = not self._is_swapped

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        if not self._average:
            return
        average = {PREFIX + name: value for name, value in self._average.items()}
        if self._is_swapped:
            checkpoint[LIVE_WEIGHTS] = average
        else:
            checkpoint[LIVE_WEIGHTS] = {name: checkpoint["state_dict"][name] for name in average}
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **average}

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._average = network_weights(checkpoint)
        if LIVE_WEIGHTS in checkpoint:
            module.load_state_dict(checkpoint[LIVE_WEIGHTS])


def _rate(optimizers: list[torch.optim.Optimizer]) -> float:
    """The learning rate relative to its base; 1 where it has no schedule."""
    group = optimizers[0].param_groups[0]
    return group["lr"] / group["initial_lr"] if group.get("initial_lr") else 1.0
