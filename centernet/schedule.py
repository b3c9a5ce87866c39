"""Optimizer and learning rate as plain data.

Defaults of Objects as Points, Sec. 5: Adam, 1.25e-4 for a global batch of 32, divided by ten at two epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from centernet.structures import InputError

OPTIMIZERS = ("adam", "adamw", "sgd")
DECAYS = ("step", "cosine", "constant")
# Option names in checkpoints of earlier versions.
OLD_NAMES = {"batch_size": "lr_batch_size", "final": "min_lr_ratio"}


@dataclass(frozen=True)
class Schedule:
    """How to optimize.

    ``lr`` is for a global batch of ``lr_batch_size`` and scales linearly with the actual one (``lr_batch_size=None``:
    no scaling). ``decay``: ``step`` (times ``gamma`` at each of ``milestones``, in epochs), ``cosine`` (down to
    ``min_lr_ratio`` times ``lr`` over ``epochs``) or ``constant``; before it a linear warm-up from ``warmup_factor``
    times ``lr`` over ``warmup_epochs``.
    """

    optimizer: str = "adam"
    lr: float = 1.25e-4
    lr_batch_size: int | None = 32
    epochs: int = 140
    decay: str = "step"
    milestones: Sequence[float] = (90, 120)
    gamma: float = 0.1
    min_lr_ratio: float = 0.01
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    weight_decay: float = 0.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        for name, value, choices in (("optimizer", self.optimizer, OPTIMIZERS), ("decay", self.decay, DECAYS)):
            if value not in choices:
                raise InputError(f"schedule.{name}={value!r} is unknown; choose one of {', '.join(choices)}")
        if self.lr <= 0:
            raise InputError(f"schedule.lr={self.lr} is not positive; use a learning rate above 0")
        if self.epochs < 1:
            raise InputError(f"schedule.epochs={self.epochs} is too small; use at least 1")

    @classmethod
    def of(cls, given: Schedule | Mapping[str, Any] | None) -> Schedule:
        """A schedule from plain data, with current option names or those of older checkpoints.

        Raises ``InputError`` for an unknown option.
        """
        if isinstance(given, Schedule):
            return given
        try:
            return cls(**{OLD_NAMES.get(name, name): value for name, value in (given or {}).items()})
        except TypeError as error:
            raise InputError(f"schedule: {error}; choose from {', '.join(cls.__dataclass_fields__)}") from None

    def scaled_lr(self, global_batch: int) -> float:
        """The learning rate for a global batch of this size."""
        return self.lr if self.lr_batch_size is None else self.lr * global_batch / self.lr_batch_size

    def factor(self, epoch: float) -> float:
        """The learning rate at a (fractional) epoch, relative to its base."""
        if epoch < self.warmup_epochs:
            return self.warmup_factor + (1 - self.warmup_factor) * epoch / self.warmup_epochs
        if self.decay == "step":
            return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        if self.decay == "cosine":
            progress = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
            return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return 1.0

    def build_optimizer(self, network: nn.Module, global_batch: int) -> torch.optim.Optimizer:
        """The optimizer for all trainable parameters; no weight decay for norms and biases."""
        lr = self.scaled_lr(global_batch)
        groups = _decay_groups(network.parameters(), self.weight_decay)
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=self.momentum)
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=lr)


def _decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    if not weight_decay:
        return [{"params": trained}]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
