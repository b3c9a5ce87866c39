"""Callbacks: progress, history and curves, pictures, and checkpoints, also on interruption."""

from __future__ import annotations

import csv
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only

from centernet.data.images import read_image
from centernet.fields import IMAGE_FIELDS, index, unstack_objects
from centernet.visualize import Look, plot_history, save_image, truth_and_prediction

log = logging.getLogger(__name__)


class ProgressBar(TQDMProgressBar):
    """A live bar with the losses on a terminal; disabled elsewhere (the epoch lines of ``History`` remain)."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0)

    def on_train_epoch_start(self, trainer: pl.Trainer, *rest: Any) -> None:
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1:>3}")

    def make_room(self) -> None:
        """Clear the bar's line before other output; the bar redraws itself below."""
        if self.is_enabled and self._train_progress_bar is not None:
            self.train_progress_bar.clear()

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, module)
        shown.pop("v_num", None)
        return {name.removeprefix("bar_"): value for name, value in shown.items()}


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
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")

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


class History(Callback):
    """One line per epoch on the screen; ``history.csv``, ``per_class.csv`` and ``curves.png`` in the run folder.

    Continues after a resume: its rows are stored in the checkpoint.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, float]] = []
        self.class_rows: list[dict[str, Any]] = []
        self._images, self._busy, self._since = 0, 0.0, None

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "class_rows": self.class_rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.class_rows = list(state["rows"]), list(state["class_rows"])

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

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._pause()
        rate = self._images / self._busy if self._busy else 0.0
        self._images, self._busy = 0, 0.0
        # Only this epoch's results: rate and lr of the last epoch are among the metrics as well.
        measured = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train/", "val/"))}
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
        classes = [
            {
                "epoch": row["epoch"],
                "class": name,
                **{k: v if isinstance(v, int) else float(v) for k, v in values.items()},
            }
            for name, values in module.per_class.items()
        ]
        self.class_rows = [old for old in self.class_rows if old["epoch"] < row["epoch"]] + classes
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and classes:
                logger.log_table("val/per_class", list(classes[0]), [list(line.values()) for line in classes])
        if trainer.is_global_zero:
            if isinstance(trainer.progress_bar_callback, ProgressBar):
                trainer.progress_bar_callback.make_room()
            log.info(epoch_line(row, trainer.max_epochs, module.metric.headline))
            self.write()
        skipped = int(trainer.datamodule.datasets["train"].skipped) if getattr(trainer, "datamodule", None) else 0
        if skipped and trainer.is_global_zero:
            log.warning(f"skipped {skipped} unreadable images so far; check the files or data.on_bad_image")

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
            path = plot_history(self.rows, self.folder / "curves.png", module.metric.plotted)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image("curves", [str(path)])


def epoch_line(row: Mapping[str, float], epochs: int | None, headline: Sequence[str]) -> str:
    """One line about an epoch, with the metric's ``headline`` results."""
    total = f"/{epochs}" if epochs and epochs > 0 else ""
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


class Pictures(Callback):
    """Truth beside prediction and heatmaps for the first ``count`` validation images, every ``every`` epochs and at the
    end. ``threshold``: minimum score (None: the task's)."""

    def __init__(self, folder: str | Path, count: int = 8, every: int = 5, threshold: float | None = None) -> None:
        self.folder, self.count, self.every, self.threshold = Path(folder), count, every, threshold
        self._drawn: list[np.ndarray] = []

    def _wanted(self, trainer: pl.Trainer) -> bool:
        if trainer.sanity_checking or not trainer.is_global_zero or not self.count:
            return False
        epoch = trainer.current_epoch + 1
        # Not `trainer.training`, which is False during validation within training.
        fitting = trainer.state.fn == TrainerFn.FITTING
        return not fitting or epoch % self.every == 0 or epoch == trainer.max_epochs

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int, dataloader_idx: int = 0
    ) -> None:
        if not self._wanted(trainer) or len(self._drawn) >= self.count:
            return
        dataset = trainer.datamodule.datasets["val"] if getattr(trainer, "datamodule", None) else None
        if dataset is None:
            return
        rows = {int(image_id): row for row, image_id in enumerate(dataset.ids)}
        for n, truth in enumerate(unstack_objects(batch["truth"])):
            if len(self._drawn) >= self.count:
                break
            image = read_image(dataset.files[rows[int(batch["image_id"][n])]])
            detections = {name: value[n].float().cpu().numpy() for name, value in outputs["detections"].items()}
            truth = {name: value.cpu().numpy() for name, value in index(truth, ~truth["crowd"]).items()}
            heatmaps = {name: maps[n].amax(0).float().cpu().numpy() for name, maps in outputs["heatmaps"].items()}
            fields = {name: batch[name][n].cpu().numpy() for name in IMAGE_FIELDS if name in batch}
            self._drawn.append(
                truth_and_prediction(
                    image,
                    truth,
                    detections,
                    Look(module.class_names, module.task.facts, fields),
                    heatmaps,
                    batch["input_from_image"][n].cpu().numpy(),
                    module.task.threshold if self.threshold is None else self.threshold,
                    module.task.stride,
                )
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        drawn, self._drawn = self._drawn, []
        if not drawn:
            return
        # Only the newest pictures, so the run folder stays small; W&B keeps older ones.
        paths = [save_image(self.folder / f"val_{n:02d}.png", picture) for n, picture in enumerate(drawn)]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/pictures", [str(path) for path in paths])


class SaveOnInterrupt(Callback):
    """Saves ``last.ckpt`` when Ctrl-C stops the run, and prints how to resume."""

    def __init__(self, folder: str | Path, resume_command: str = "") -> None:
        self.folder, self.resume_command = Path(folder), resume_command

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, KeyboardInterrupt) or trainer.sanity_checking:
            return
        path = self.folder / "last.ckpt"
        if trainer.world_size > 1:
            # Other processes may have exited already; the last epoch's checkpoint is complete.
            state = "of the last finished epoch" if path.is_file() else "not yet written"
        elif trainer.global_step == 0:
            return
        else:
            trainer.save_checkpoint(path)
            state = f"saved after step {trainer.global_step}"
        print(f"\ninterrupted; checkpoint {path} {state}", flush=True)
        if path.is_file() and self.resume_command:
            # Not str.format: overrides may contain braces.
            print("resume with:", self.resume_command.replace("{path}", shlex.quote(str(path))), flush=True)


class CollectDetections(Callback):
    """Keeps the detections of a validation run on the CPU: ``rows`` of (image id, detections in image pixels)."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, torch.Tensor]] = {}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int, dataloader_idx: int = 0
    ) -> None:
        for n, image_id in enumerate(batch["image_id"].tolist()):
            self.rows[image_id] = {name: value[n].cpu() for name, value in outputs["detections"].items()}

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.rows)
            self.rows = {image_id: rows for part in gathered for image_id, rows in part.items()}
