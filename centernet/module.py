"""The LightningModules: training and validation of a detector, and the content of checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from centernet.checkpoint import (
    FORMAT,
    KEY,
    USUAL_EVAL,
    difference,
    load_weights,
    read_checkpoint,
    upgrade_checkpoint,
)
from centernet.detector import build_detector
from centernet.errors import InputError, NonFiniteLossError
from centernet.metrics.rows import ImageMetric
from centernet.models.centernet import network_spec
from centernet.schedule import Schedule
from centernet.structures import Batch
from centernet.tasks import Task, task_names

log = logging.getLogger(__name__)


class CenterNetModule(pl.LightningModule):
    """Trains any task; every argument is plain data.

    ``task``: its name, with ``task_options``; ``num_classes`` or ``class_names``; ``facts``: metadata of the data
    (``ImageDataset.facts``); ``backbone``: a name or a description of the network (``build_network``); ``pretrained``:
    True, False or a weight file; ``schedule``: a ``Schedule`` or its options; ``normalization``: of the images
    (``NORMALIZATIONS``); ``metric_options``: of the task's metric. Batches hold images uint8 ``[B, 3, H, W]`` with
    objects in input pixels and truth in image pixels (``structures.Batch``). Raises ``InputError`` for unknown names or
    options.

    ``CenterNetModule.for_data(data, ...)`` takes classes and facts from a data module.
    """

    TASK: ClassVar[str | None] = None
    """The task of a named module; this class takes it as an argument."""
    BACKBONE: ClassVar[str] = "resnet18"
    NORMALIZATION: ClassVar[str] = "coco"

    def __init__(
        self,
        task: str | None = None,
        *,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        facts: Mapping[str, Any] | None = None,
        backbone: str | Mapping[str, Any] | None = None,
        pretrained: bool | str = False,
        schedule: Schedule | Mapping[str, Any] | None = None,
        normalization: str | None = None,
        task_options: Mapping[str, Any] | None = None,
        metric_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if (task := task or self.TASK) is None:
            raise InputError(f"no task is given; give task, one of {', '.join(task_names())}")
        if num_classes is None and class_names is None:
            raise InputError("neither num_classes nor class_names is given; give one of them")
        if num_classes is not None and class_names is not None and num_classes != len(class_names):
            raise InputError(
                f"num_classes={num_classes}, but class_names has {len(class_names)} names; make them agree"
            )
        self.task_options, self.metric_options = dict(task_options or {}), dict(metric_options or {})
        self.backbone = network_spec(backbone or self.BACKBONE)
        self.detector = build_detector(
            task,
            class_names or num_classes,
            self.backbone,
            pretrained,
            normalization or self.NORMALIZATION,
            self.task_options,
            facts,
        )
        self.schedule = Schedule.of(schedule)
        self.class_names = None if class_names is None else list(class_names)
        self.metric = self._make_metric()
        self.per_class: dict[str, dict[str, float]] = {}
        self.run_config: dict[str, Any] | None = None  # resolved, plain; set by the command line
        # How images become inputs; kept from a loaded checkpoint unless a data module replaces it.
        self.eval_spec: dict[str, Any] | None = None
        self.save_hyperparameters(
            {
                **self.description()["module"],
                "pretrained": pretrained if isinstance(pretrained, bool) else str(pretrained),
            }
        )

    @classmethod
    def for_data(cls, data: Any, **options: Any) -> CenterNetModule:
        """A module for the classes and facts of a data module; calls its ``prepare_data`` and ``setup``."""
        data.prepare_data()
        data.setup("fit")
        return cls(class_names=data.class_names, facts=data.facts, **options)

    @property
    def task(self) -> Task:
        """The task of the detector."""
        return self.detector.task

    def _make_metric(self) -> ImageMetric:
        names = self.class_names or [str(label) for label in range(self.task.num_classes)]
        try:
            return self.task.metric(names, **self.metric_options).to(self.device)
        except InputError:
            raise
        except (TypeError, ValueError) as error:  # torchmetrics raises ValueError for unknown options
            raise InputError(
                f"metric_options of task {self.task.name} are invalid ({error}); remove the unknown option"
            ) from None

    # Lightning's order: setup, training, validation, optimizers, checkpoints.

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if getattr(data, "class_names", None) is None:
            return
        if self.class_names is None and len(data.class_names) == self.task.num_classes:
            self.class_names = list(data.class_names)
            self.metric = self._make_metric()
        self._require_classes(data.class_names)
        self._check_data(data, stage)
        # Preprocessing for prediction, with the network's input divisor.
        self.eval_spec = {**data.eval_spec, "divisor": self.detector.network.divisor}

    def _require_classes(self, names: Sequence[str]) -> None:
        """Raise ``InputError`` unless the data's classes are the model's, in the same order."""
        if len(names) != self.task.num_classes:
            raise InputError(
                f"the data has {len(names)} classes ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''}), the "
                f"model has {self.task.num_classes}; use data of the same classes"
            )
        for place, (theirs, mine) in enumerate(zip(names, self.class_names, strict=True)):
            if theirs != mine:
                raise InputError(
                    f"class {place} is {theirs!r} in the data and {mine!r} in the model; use the same classes in the "
                    "same order"
                )

    def _check_data(self, data: Any, stage: str) -> None:
        divisor = self.detector.network.divisor
        require_divisible(data.resolution, divisor)
        if data.test_mode == "keep" and data.divisor % divisor:
            raise InputError(
                f"test_mode=keep pads images to multiples of {data.divisor}, but this network needs multiples of "
                f"{divisor}; set divisor={divisor} in the data module"
            )
        if stage == "fit" and (unused := sorted(self.task.wanted & data.facts.keys())):
            log.warning(
                f"the data provides {', '.join(unused)}, but the model was built without it; use "
                f"{type(self).__name__}.for_data(data)"
            )
        most = self.task.heatmap.max_detections
        for split, dataset in data.datasets.items():
            where = f"the {split} data ({getattr(dataset, 'source', type(dataset).__name__)})"
            self.task.check_data(dataset.fields, dataset.facts, where)
            if dataset.most_objects > most:
                log.warning(
                    f"an image of the {split} data has {dataset.most_objects} objects, but at most {most} are detected "
                    "per image; raise task.heatmap.max_detections"
                )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        parts = self._losses(batch, self.detector.outputs(batch["image"]))
        self._require_finite(parts["loss"], batch)
        self._log_losses("train", parts, len(batch["image"]))
        return parts["loss"]

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        found = self.detector.find_in_images(batch)
        parts = self._losses(batch, found.outputs)
        # The last step of an epoch may have corrupted the weights; do not save them as the last checkpoint.
        self._require_finite(parts["loss"], batch)
        self._log_losses("val", parts, len(batch["image"]))
        self.metric.update(found.detections, batch["truth"], batch["image_id"])
        peaks = {name: found.maps[name] for name, head in self.task.heads.items() if head.is_heatmap}
        return {"detections": found.detections, "heatmaps": peaks}

    def on_validation_epoch_end(self) -> None:
        results = self.metric.compute()
        self.per_class = self.metric.per_class
        self.metric.reset()
        self.log_dict({f"val/{name}": value for name, value in results.items()})

    def predict_step(self, batch: Batch, batch_index: int) -> Any:
        return self.detector.find_in_images(batch).detections

    def _losses(self, batch: Batch, outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        grid_size = tuple(next(iter(outputs[-1].values())).shape[-2:])
        return self.task.losses(outputs, self.task.encode(batch["objects"], grid_size))

    def _require_finite(self, loss: Tensor, batch: Batch) -> None:
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"the {'' if self.training else 'validation '}loss is {loss.item()} in epoch {self.current_epoch + 1}, "
                f"step {self.global_step}; the batch has image ids {batch['image_id'].tolist()}; lower schedule.lr or "
                "check these images"
            )

    def _log_losses(self, split: str, parts: Mapping[str, Tensor], count: int) -> None:
        training = split == "train"
        for name, value in parts.items():
            key = f"{split}/loss" if name == "loss" else f"{split}/loss/{name}"
            self.log(key, value.detach(), on_step=False, on_epoch=True, batch_size=count, sync_dist=not training)
            if training:
                # The bar shows short names; "bar_" entries go to no logger.
                self.log(f"bar_{name}", value.detach(), prog_bar=True, logger=False, batch_size=count)

    def configure_optimizers(self) -> dict[str, Any]:
        trainer = self.trainer
        data = getattr(trainer, "datamodule", None)
        per_process = getattr(data, "batch_size", None) or getattr(trainer.train_dataloader, "batch_size", None)
        per_process = per_process or self.schedule.lr_batch_size or 1
        global_batch = per_process * trainer.world_size * trainer.accumulate_grad_batches
        optimizer = self.schedule.build_optimizer(self.detector.network, global_batch)
        if self.schedule.lr_batch_size not in (None, global_batch):
            log.info(
                f"lr {self.schedule.lr:g} is for a batch of {self.schedule.lr_batch_size}; scaled to "
                f"{self.schedule.scaled_lr(global_batch):g} for {global_batch} "
                "(schedule.lr_batch_size=null turns this off)"
            )
        _ = trainer.estimated_stepping_batches  # builds the loaders, so their length is known
        batches = trainer.num_training_batches
        per_epoch = max(batches / trainer.accumulate_grad_batches, 1) if batches != float("inf") else 1
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step / per_epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.description()
        # Lightning's key for constructor arguments, so its load_from_checkpoint works as well.
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = checkpoint[KEY]["module"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        spec = upgrade_checkpoint(checkpoint, "the checkpoint")[KEY]["module"]
        if (reason := difference(spec, self.description()["module"])) is not None:
            raise InputError(f"the checkpoint does not match this run: {reason}")

    def description(self) -> dict[str, Any]:
        """The description stored in checkpoints, as plain data."""
        return {
            "format": FORMAT,
            "module": {
                "task": self.task.name,
                "class_names": self.class_names or [str(label) for label in range(self.task.num_classes)],
                "facts": self.task.facts,
                "backbone": self.backbone,
                "normalization": self.detector.normalization,
                "task_options": self.task_options,
                "metric_options": self.metric_options,
                "schedule": {**self.schedule.__dict__, "milestones": list(self.schedule.milestones)},
            },
            "eval": self.eval_spec,
            "config": self.run_config,
        }


class CtdetModule(CenterNetModule):
    """2D boxes: ``Trainer().fit(CtdetModule(backbone="resnet18", num_classes=3), datamodule)``."""

    TASK, BACKBONE = "ctdet", "resnet18"


class CtdetDenseModule(CenterNetModule):
    """2D boxes with HarDNet's dense regression."""

    TASK, BACKBONE = "ctdet_dense", "hardnet85"


class MultiPoseModule(CenterNetModule):
    """Boxes and joints (human pose)."""

    TASK, BACKBONE = "multi_pose", "dla34"


class DddModule(CenterNetModule):
    """Monocular 3D boxes; ``task="ddd_dle"`` for MonoDLE's findings."""

    TASK, BACKBONE, NORMALIZATION = "ddd", "dla34", "imagenet"


def require_divisible(resolution: Sequence[int], divisor: int) -> None:
    """Raise ``InputError`` with the nearest valid sizes if height or width is not a multiple of ``divisor``."""
    try:
        height, width = (int(side) for side in resolution)
    except (TypeError, ValueError):
        raise InputError(f"resolution={resolution!r} must be [height, width], such as [512,512]") from None
    if height % divisor == 0 and width % divisor == 0 and height > 0 and width > 0:
        return

    def near(side: int, up: bool) -> int:
        return max(divisor, (side // divisor + (up and side % divisor > 0)) * divisor)

    low, high = (near(height, False), near(width, False)), (near(height, True), near(width, True))
    nearest = f"{low[0]}x{low[1]}" + (f", {high[0]}x{high[1]}" if high != low else "")
    raise InputError(f"input {height}x{width} is not divisible by {divisor}; use {nearest}")


def load_module(
    path: str | Path, metric_options: Mapping[str, Any] | None = None
) -> tuple[CenterNetModule, dict[str, Any]]:
    """The module of a checkpoint with its weights, and its preprocessing. ``metric_options`` override those of the
    training run. Raises ``InputError``."""
    content = read_checkpoint(path)
    description = content[KEY]
    spec = dict(description["module"])
    spec["metric_options"] = {**spec["metric_options"], **(metric_options or {})}
    module = CenterNetModule(**spec)
    load_weights(module.detector.network, content, path)
    module.eval_spec, module.run_config = description["eval"], description["config"]
    return module, description["eval"] or USUAL_EVAL
