"""Pictures of training inputs and of validation images, and their detections."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from centernet.fields import IMAGE_FIELDS, index, unbatch, unstack_objects
from centernet.visualize import Look, draw_inputs, save_image, truth_and_prediction


class Shown(NamedTuple):
    """A validation image (RGB uint8) with its truth and what was ``found`` in it, in image pixels: rows as arrays, peak
    maps ``[h, w]``, and the ``panel`` that shows them side by side."""

    name: str
    image: np.ndarray
    truth: Mapping[str, np.ndarray]
    found: Mapping[str, np.ndarray]
    heatmaps: Mapping[str, np.ndarray]
    input_from_image: np.ndarray
    stride: int
    look: Look
    panel: np.ndarray


class Pictures(Callback):
    """Truth beside prediction and heatmaps for the first ``count`` validation images, every ``every`` epochs and at the
    end; before the first epoch, ``train_batches.png``: as many of its first inputs, as augmentation makes them.

    ``threshold``: minimum score (None: the task's). ``shown`` holds the pictures of the newest validation, ``inputs``
    that of the training inputs.
    """

    def __init__(self, folder: str | Path, count: int = 8, every: int = 5, threshold: float | None = None) -> None:
        self.folder, self.count, self.every, self.threshold = Path(folder), count, every, threshold
        self.shown: list[Shown] = []
        self.inputs: np.ndarray | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        dataset = getattr(getattr(trainer, "datamodule", None), "datasets", {}).get("train")
        if dataset is None or not trainer.is_global_zero or not self.count:
            return
        # Read here, not by the loader, whose workers would have to start anew. Neither seeds nor counts of the training
        # change.
        loader, skipped = trainer.train_dataloader, dataset.skipped.clone()
        draws, size = list(itertools.islice(loader.sampler, self.count)), loader.batch_size or self.count
        with torch.random.fork_rng(devices=[]):
            parts = [[dataset[draw] for draw in draws[start : start + size]] for start in range(0, len(draws), size)]
            batches = [loader.collate_fn(samples) for samples in parts]
        dataset.skipped.copy_(skipped)
        if not batches:  # a run that continues at the end of an epoch
            return
        rows = {image_id: row for row, image_id in enumerate(dataset.ids.tolist())}
        names = [Path(dataset.files[rows[n]]).name for batch in batches for n in batch["image_id"].tolist()]
        height, width = batches[0]["image"].shape[-2:]
        title = f"inputs of epoch {trainer.current_epoch + 1} as augmentation makes them ({width} x {height})"
        self.inputs = draw_inputs(batches, names, Look(module.class_names, module.task.facts), title)
        save_image(self.folder / "train_batches.png", self.inputs)

    def _wanted(self, trainer: pl.Trainer) -> bool:
        if trainer.sanity_checking or not trainer.is_global_zero or not self.count:
            return False
        epoch = trainer.current_epoch + 1
        # Not `trainer.training`, which is False during validation within training.
        fitting = trainer.state.fn == TrainerFn.FITTING
        return not fitting or epoch % self.every == 0 or epoch == trainer.max_epochs

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.shown = []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int, dataloader_idx: int = 0
    ) -> None:
        if not self._wanted(trainer) or len(self.shown) >= self.count:
            return
        dataset = trainer.datamodule.datasets["val"] if getattr(trainer, "datamodule", None) else None
        if dataset is None:
            return
        rows = {image_id: row for row, image_id in enumerate(dataset.ids.tolist())}
        threshold = module.task.threshold if self.threshold is None else self.threshold
        for n, truth in enumerate(unstack_objects(batch["truth"])):
            if len(self.shown) >= self.count:
                break
            row = rows[int(batch["image_id"][n])]
            path, image = Path(dataset.files[row]), dataset.read(row)
            detections = {name: value[n].float().cpu().numpy() for name, value in outputs["detections"].items()}
            kept = detections["scores"] >= threshold
            truth = {name: value.cpu().numpy() for name, value in index(truth, ~truth["crowd"]).items()}
            heatmaps = {name: maps[n].amax(0).float().cpu().numpy() for name, maps in outputs["heatmaps"].items()}
            fields = {name: batch[name][n].cpu().numpy() for name in IMAGE_FIELDS if name in batch}
            look = Look(module.class_names, module.task.facts, fields)
            matrix, stride = batch["input_from_image"][n].cpu().numpy(), module.task.stride
            panel = truth_and_prediction(image, truth, detections, look, heatmaps, matrix, threshold, stride, path.name)
            found = {name: value[kept] for name, value in detections.items()}
            self.shown.append(Shown(path.name, image, truth, found, heatmaps, matrix, stride, look, panel))

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Only the newest, so the run folder stays small.
        for n, shown in enumerate(self.shown):
            save_image(self.folder / f"val_{n:02d}.png", shown.panel)


class CollectDetections(Callback):
    """Keeps the detections of a validation run on the CPU: ``rows`` of (image id, detections in image pixels)."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, torch.Tensor]] = {}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int, dataloader_idx: int = 0
    ) -> None:
        found = unbatch({name: value.cpu() for name, value in outputs["detections"].items()})
        self.rows |= dict(zip(batch["image_id"].tolist(), found, strict=True))

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.rows)
            self.rows = {image_id: rows for part in gathered for image_id, rows in part.items()}
