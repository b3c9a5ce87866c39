"""What becomes of the losses of an epoch: each is checked, and their mean is known, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from centernet.errors import NonFiniteLossError


class EpochLosses:
    """Mean losses over the images of an epoch, of all processes together.

    Summed on the device, and part of the checkpoint: the means of Lightning's ``log`` would be lost when a run stops
    within an epoch.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # losses times images, and under "images" their number; float64 scalars

    def clear(self) -> None:
        """Begin another epoch."""
        self._sums = {}

    def add(self, parts: Mapping[str, Tensor], images: int) -> None:
        """Add the losses of a batch of so many images."""
        added = {name: value.double() * images for name, value in parts.items()}
        added["images"] = torch.full_like(added["loss"], images)
        # A continued run may have losses that the stopped one did not.
        self._sums = {name: self._sums.get(name, 0) + value for name, value in added.items()}

    def means(self, device: torch.device) -> dict[str, float]:
        """The means so far, by their names in the log. All processes must call it; ``device``: where they talk."""
        sums = self.state(device)
        images = sums.pop("images", 0)
        return {f"train/{name if name == 'loss' else f'loss/{name}'}": value / images for name, value in sums.items()}

    def state(self, device: torch.device) -> dict[str, float]:
        """The sums over all processes, empty before the first batch; see ``means``."""
        if not self._sums:
            return {}
        values = torch.stack(list(self._sums.values())).to(device)
        if distributed.is_initialized():
            distributed.all_reduce(values)
        return dict(zip(self._sums, values.tolist(), strict=True))

    def load(self, state: Mapping[str, float], device: torch.device) -> None:
        """Go on from the sums of a checkpoint: in the first process, as they are those of all."""
        share = 1.0 if not distributed.is_initialized() or distributed.get_rank() == 0 else 0.0
        self._sums = {name: torch.tensor(v * share, dtype=torch.float64, device=device) for name, v in state.items()}


class Unchecked(NamedTuple):
    """A loss that nobody has looked at, and what to say if it is not finite."""

    loss: Tensor
    image_ids: Tensor
    kind: str  # "" or "validation "
    epoch: int  # from 1
    step: int
    copied: torch.cuda.Event | None = None


class FiniteCheck:
    """Raises ``NonFiniteLossError`` for a loss that is not finite: on the CPU at once, on a GPU when the next step
    begins, as looking at it sooner would make the host wait for the device."""

    def __init__(self) -> None:
        self._last: Unchecked | None = None

    def watch(self, given: Unchecked) -> None:
        """Check this loss, maybe later."""
        self._last = given
        if not given.loss.is_cuda:
            self.require()
            return
        # Into pinned memory behind the forward pass; reading it later waits for the copy, not for the backward pass.
        host = torch.empty((), dtype=given.loss.dtype, pin_memory=True)
        host.copy_(given.loss, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._last = given._replace(loss=host, copied=copied)

    def require(self) -> None:
        """Check the loss that is still unchecked, if there is one."""
        given, self._last = self._last, None
        if given is None:
            return
        if given.copied is not None:
            given.copied.synchronize()
        if not math.isfinite(value := float(given.loss)):
            raise NonFiniteLossError(
                f"the {given.kind}loss is {value} in epoch {given.epoch}, step {given.step}; the batch has image ids "
                f"{given.image_ids.tolist()}; lower schedule.lr or check these images"
            )
