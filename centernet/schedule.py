"""Optimizer and learning rate as plain data.

Defaults of Objects as Points, Sec. 5: Adam, 1.25e-4 for a global batch of 32, divided by ten at two epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from centernet.structures import InputError

OPTIMIZERS = ("adam", "adamw", "sgd")
DECAYS = ("step", "cosine", "flat_cosine", "constant")
# Option names in checkpoints of earlier versions.
OLD_NAMES = {"batch_size": "lr_batch_size", "final": "min_lr_ratio"}


@dataclass(frozen=True)
class Schedule:
    """How to optimize.

    ``lr`` is for a global batch of ``lr_batch_size`` and scales linearly with the actual one (``lr_batch_size=None``:
    no scaling). ``decay``: ``step`` (times ``gamma`` at each of ``milestones``, in epochs), ``cosine`` (down to
    ``min_lr_ratio`` times ``lr`` over ``epochs``), ``flat_cosine`` (the same after a fraction ``flat`` of the training
    at full rate) or ``constant``; before it a linear warm-up from ``warmup_factor`` times ``lr`` over
    ``warmup_epochs``.

    The backbone may learn at another rate: ``backbone_lr_factor`` times ``lr``, and every stage of it ``layer_decay``
    times the rate of the next one (ELECTRA, arXiv:2003.10555, Sec. 3.1, for networks with trained weights). For the
    first ``freeze_epochs`` it does not learn at all.
    """

    optimizer: str = "adam"
    lr: float = 1.25e-4
    lr_batch_size: int | None = 32
    epochs: int = 140
    decay: str = "step"
    milestones: Sequence[float] = (90, 120)
    gamma: float = 0.1
    min_lr_ratio: float = 0.01
    flat: float = 0.5
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    weight_decay: float = 0.0
    momentum: float = 0.9
    backbone_lr_factor: float = 1.0
    layer_decay: float = 1.0
    freeze_epochs: int = 0

    def __post_init__(self) -> None:
        for name, value, choices in (("optimizer", self.optimizer, OPTIMIZERS), ("decay", self.decay, DECAYS)):
            if value not in choices:
                raise InputError(f"schedule.{name}={value!r} is unknown; choose one of {', '.join(choices)}")
        if self.lr <= 0:
            raise InputError(f"schedule.lr={self.lr} is not positive; use a learning rate above 0")
        if self.epochs < 1:
            raise InputError(f"schedule.epochs={self.epochs} is too small; use at least 1")
        if self.freeze_epochs < 0:
            raise InputError(f"schedule.freeze_epochs={self.freeze_epochs} is negative; use 0 or more")
        if not 0 <= self.flat <= 1:
            raise InputError(f"schedule.flat={self.flat} is not a fraction; use 0 to 1")
        for name, value in (("backbone_lr_factor", self.backbone_lr_factor), ("layer_decay", self.layer_decay)):
            if not 0 < value <= 1:
                raise InputError(f"schedule.{name}={value} is not a fraction; use more than 0 and at most 1")

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
        if self.decay in ("cosine", "flat_cosine"):
            start = self.warmup_epochs if self.decay == "cosine" else max(self.flat * self.epochs, self.warmup_epochs)
            progress = max(epoch - start, 0.0) / max(self.epochs - start, 1e-9)
            return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return 1.0

    def build_optimizer(
        self, network: nn.Module, global_batch: int, scales_loss: bool = False
    ) -> torch.optim.Optimizer:
        """The optimizer for all trainable parameters; no weight decay for norms and biases. ``scales_loss``: gradients
        are those of a scaled loss (float16)."""
        lr = self.scaled_lr(global_batch)
        groups = self._groups(network, lr)
        # One kernel for all parameters, faster than a loop over them: a training step of ResNet-18 on a CPU by a sixth.
        # It would also undo the scaling of a loss by itself, so that gradients could not be clipped before.
        fused = (groups[0]["params"][0][1].device.type in ("cuda", "cpu") and not scales_loss) or None
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, fused=fused)
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=lr, fused=fused)

    def _groups(self, network: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Named parameters of equal rate and decay."""
        factors = self._factors(network)
        groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                decay = self.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((factors.get(name, 1.0), decay), []).append((name, parameter))
        order = sorted(groups, key=lambda key: (-key[0], -key[1]))
        return [{"params": groups[factor, decay], "lr": lr * factor, "weight_decay": decay} for factor, decay in order]

    def _factors(self, network: nn.Module) -> dict[str, float]:
        """The factor of the learning rate of every parameter of the backbone; that of its last stage is the largest."""
        stages: list[list[str]] = []
        last = ""
        for name, _ in network.named_parameters():
            if not name.startswith(BACKBONE):
                continue
            part = _stage(name)
            if not stages or (part != last and not part.startswith(("bn", "norm"))):  # a norm belongs to its layer
                stages.append([])
            stages[-1].append(name)
            last = part
        highest = len(stages) - 1
        return {
            name: self.backbone_lr_factor * self.layer_decay ** (highest - n)
            for n, names in enumerate(stages)
            for name in names
        }


BACKBONE = "backbone."
"""How the names of the parameters of a network's pretrained part begin."""


def _stage(name: str) -> str:
    """The part of the backbone that a parameter belongs to: the first names of its path."""
    path = name.removeprefix(f"{BACKBONE}body.").removeprefix("model.").split(".")
    # A list of blocks holds one stage each; anything else is a stage by its own name.
    return ".".join(path[:2]) if path[0] in ("blocks", "stages") and path[1].isdigit() else path[0]
