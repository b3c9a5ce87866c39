"""One line per epoch, on the screen and in files; curves."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.utilities import rank_zero_only

from centernet.callbacks.progress import ProgressBar
from centernet.metrics.rows import hidden_note, with_objects
from centernet.visualize import plot_history

log = logging.getLogger(__name__)

CURVES = "curves.png"


class History(Callback):
    """One line per epoch on the screen; ``history.csv``, ``per_class.csv``, ``curves.png`` and the settings
    (``hparams.yaml``) in the run folder.

    Continues after a resume: its rows are stored in the checkpoint.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, float]] = []
        self.class_rows: list[dict[str, Any]] = []
        self._images, self._busy, self._since = 0, 0.0, None
        self._is_validated = False  # in this epoch
        self._noted = ""  # what was said of classes that are left out
        self.seconds = 0.0  # that training and validation have taken, before resumes too
        self._counted = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        self._count()
        return {"rows": self.rows, "class_rows": self.class_rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.class_rows = list(state["rows"]), list(state["class_rows"])
        self.seconds = state.get("seconds", 0.0)  # absent in earlier versions

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_hparams_to_yaml(self.folder / "hparams.yaml", dict(module.hparams))

    def on_train_start(self, *_: Any) -> None:
        self._counted = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self._count()

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds, self._counted = self.seconds + now - self._counted, now

    def on_train_batch_start(self, *_: Any) -> None:
        self._since = self._since or time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        self._images += len(batch["image"]) * trainer.world_size

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Validation runs inside the training epoch but does not count as training time.
        self._pause()

    def _pause(self) -> None:
        if self._since is not None:
            self._busy += time.perf_counter() - self._since
            self._since = None

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._is_validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._pause()
        rate = self._images / self._busy if self._busy else 0.0
        self._images, self._busy = 0, 0.0
        # Only this epoch's results: those of the last validation stay among the metrics until the next one.
        validated, self._is_validated = self._is_validated, False
        found = trainer.callback_metrics if validated else {}
        measured = module.epoch_losses() | {k: float(v) for k, v in found.items() if k.startswith("val/")}
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "images_per_second": rate,
            **measured,
        }
        module.log("images_per_second", rate, rank_zero_only=True)
        module.log("lr", row["lr"], rank_zero_only=True)
        self.rows = [old for old in self.rows if old["epoch"] < row["epoch"]] + [row]
        # Plain numbers, as checkpoints hold only plain data.
        per_class = module.per_class if validated else {}
        classes = [
            {
                "epoch": row["epoch"],
                "class": name,
                **{k: v if isinstance(v, int) else float(v) for k, v in values.items()},
            }
            for name, values in with_objects(per_class).items()
        ]
        self.class_rows = [old for old in self.class_rows if old["epoch"] < row["epoch"]] + classes
        if trainer.is_global_zero:
            if isinstance(trainer.progress_bar_callback, ProgressBar):
                trainer.progress_bar_callback.make_room()
            log.info(
                epoch_line(row, trainer.max_epochs, module.metric.headline, module.clock and module.clock.progress)
            )
            self.write()
            if (note := hidden_note(per_class)) and note != self._noted:
                log.info(f"per_class.csv: {note}")
                self._noted = note
        data = getattr(trainer, "datamodule", None)
        skipped = data.datasets["train"].skipped if data is not None else torch.zeros(())
        if trainer.world_size > 1:
            skipped = trainer.strategy.reduce(skipped.to(module.device), reduce_op="sum")
        if skipped and trainer.is_global_zero:
            log.warning(f"skipped {int(skipped)} unreadable images so far; check the files or data.on_bad_image")

    def write(self) -> None:
        """Write the complete csv files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, rows in (("history.csv", self.rows), ("per_class.csv", self.class_rows)):
            with open(self.folder / name, "w", newline="") as file:
                writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
                writer.writeheader()
                writer.writerows(rows)

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.rows:
            weights = {name: weight for term in module.task.terms.values() for name, weight in term.weights.items()}
            if module.teacher is not None:
                weights["teacher"] = module.teacher.weight
            plot_history(self.rows, self.folder / CURVES, module.metric.plotted, weights)


def epoch_line(
    row: Mapping[str, float], epochs: int | None, headline: Sequence[str], progress: float | None = None
) -> str:
    """One line about an epoch, with the metric's ``headline`` results; ``progress``: the share of a time budget."""
    total = f"/{epochs}" if epochs and epochs > 0 else "" if progress is None else f" ({progress:.0%})"
    parts = [f"epoch {row['epoch']:>3.0f}{total}", f"loss {row.get('train/loss', float('nan')):.3f}"]
    heads = [f"{k.rsplit('/', 1)[1]} {v:.3f}" for k, v in row.items() if k.startswith("train/loss/")]
    if heads:
        parts[-1] += f" ({', '.join(heads)})"
    if "val/loss" in row:
        parts.append(f"val loss {row['val/loss']:.3f}")
    for name in headline:
        if f"val/{name}" in row:
            parts.append(f"{name} {row[f'val/{name}']:.3f}")
    parts.append(f"lr {row['lr']:.2g}")
    parts.append(f"{row['images_per_second']:.0f} images/s")
    return "  ".join(parts)
