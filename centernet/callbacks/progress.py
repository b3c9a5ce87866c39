"""The progress bar."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """A live bar with the losses on a terminal; disabled elsewhere (the epoch lines of ``History`` remain)."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0)
        self._looked, self._shown = 0.0, {}

    def on_train_epoch_start(self, trainer: pl.Trainer, *rest: Any) -> None:
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1:>3}")

    def make_room(self) -> None:
        """Clear the bar's line before other output; the bar redraws itself below."""
        if self.is_enabled and self._train_progress_bar is not None:
            self.train_progress_bar.clear()

    def get_metrics(self, trainer: pl.Trainer, module: Any) -> dict[str, Any]:
        # Looking at losses waits for the device, so it is done as often as a reader can follow.
        now = time.monotonic()
        if now - self._looked > 0.5:
            self._looked = now
            self._shown = {name: float(value) for name, value in module.latest.items()}
        return self._shown
