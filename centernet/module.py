"""The LightningModules: they conduct network, task, schedule and metric, and say what a checkpoint holds.

A checkpoint carries everything that is needed to use it, as plain data under the key ``centernet``: task, classes,
network, evaluation transform, and (from the command line) the whole run configuration. It loads with
``weights_only=True``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from centernet.inference import NORMALIZATIONS, Detector
from centernet.models import convert
from centernet.models.centernet import build_network, network_spec
from centernet.schedule import Schedule
from centernet.structures import Batch, InputError, JointSet, NonFiniteLossError
from centernet.tasks.base import build_task

log = logging.getLogger(__name__)

FORMAT = 1


class CenterNetModule(pl.LightningModule):
    """Trains any task; every argument is plain data.

    ``task`` name and ``task_options`` of the task; ``num_classes`` or ``class_names``; ``backbone`` a name or a
    description of the network (``build_network``); ``pretrained`` True, False or a weight file; ``schedule`` a
    ``Schedule`` or its options; ``normalization`` of the images (``NORMALIZATIONS``). Raises ``InputError`` for
    anything unknown.
    """

    def __init__(
        self,
        task: str,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        backbone: str | Mapping[str, Any] = "resnet18",
        pretrained: bool | str = False,
        schedule: Schedule | Mapping[str, Any] | None = None,
        normalization: str = "coco",
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if num_classes is None and class_names is None:
            raise InputError("say num_classes=N or class_names=[...]")
        if num_classes is not None and class_names is not None and num_classes != len(class_names):
            raise InputError(f"num_classes={num_classes}, but {len(class_names)} class names were given")
        if normalization not in NORMALIZATIONS:
            raise InputError(f"normalization={normalization!r} is unknown; choose one of {', '.join(NORMALIZATIONS)}")
        self.class_names = None if class_names is None else list(class_names)
        self.task = build_task(task, num_classes or len(class_names), **(task_options or {}))
        self.backbone = network_spec(backbone)
        self.normalization = normalization
        self.task_options = dict(task_options or {})
        network = build_network(backbone, self.task.heads, pretrained).to(memory_format=torch.channels_last)
        if network.stride != self.task.stride:
            raise InputError(
                f"the network's stride is {network.stride}, the task's {self.task.stride}; they must agree"
            )
        self.detector = Detector(network, self.task, normalization)
        self.schedule = Schedule.of(schedule)
        self.metric: Any = None
        self.per_class: dict[str, dict[str, float]] = {}
        self.run_config: dict[str, Any] | None = None  # resolved, plain; set by the command line
        # Another run may have left its evaluation transform here; without a data module it is what travels on.
        self.eval_spec: dict[str, Any] | None = None

    # Lightning's order: setup, training, validation, optimizers, checkpoints.

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, "class_names", None)
        if names is not None:
            if self.class_names is None:
                self.class_names = list(names)
            if len(names) == len(self.class_names) and list(names) != self.class_names:
                first = next(pair for pair in zip(names, self.class_names, strict=True) if pair[0] != pair[1])
                raise InputError(
                    f"the data's classes are not the model's, or in another order (first: {first[0]!r} in the data, "
                    f"{first[1]!r} in the model)"
                )
            if len(names) != self.task.num_classes:
                raise InputError(
                    f"the data has {len(names)} classes ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''}), "
                    f"the model has {self.task.num_classes}"
                )
            if stage == "fit":
                self._take_facts(data.facts)
            data.set_divisor(self.detector.network.divisor)
            self.eval_spec = data.eval_spec
            self._check_data(data)
        if self.class_names is None:
            self.class_names = [str(label) for label in range(self.task.num_classes)]
        self.metric = self.task.metric(self.class_names).to(self.device)

    def _take_facts(self, facts: Mapping[str, Any]) -> None:
        """Fill in task options that nobody said from what the data says, as long as the network's heads stay the same.

        (The command line does so before it builds the network.)
        """
        missing = {o: facts[o] for o in self.task.takes if o in facts and self.task_options.get(o) is None}
        if not missing:
            return
        task = build_task(self.task.name, self.task.num_classes, **{**self.task_options, **missing})
        if task.heads == self.task.heads:
            self.task_options = {**self.task_options, **missing}
            self.task = self.detector.task = task

    def _check_data(self, data: Any) -> None:
        require_divisible(data.resolution, self.detector.network.divisor)
        for split, dataset in data.datasets.items():
            where = f"the {split} data ({getattr(dataset, 'source', type(dataset).__name__)})"
            self.task.check_data(dataset.fields, dataset.facts, where)
            if dataset.most_objects > self.task.k:
                log.warning(
                    f"an image of the {split} data has {dataset.most_objects} objects, but at most "
                    f"{self.task.k} are detected per image; raise task.k"
                )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        parts = self._losses(batch, self.detector.outputs(batch["image"]))
        self._require_finite(parts["loss"], batch)
        self._log_losses("train", parts, len(batch["image"]))
        return parts["loss"]

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        outputs = self.detector.outputs(batch["image"])
        parts = self._losses(batch, outputs)
        # The last step of an epoch may have spoiled the weights; nothing of that may become the last checkpoint.
        self._require_finite(parts["loss"], batch)
        self._log_losses("val", parts, len(batch["image"]))
        maps = self.task.activate(outputs[-1])
        detections = self.task.lift(self.task.decode(maps), batch)
        self.metric.update(detections, batch["truth"], batch["image_id"])
        peaks = {name: maps[name] for name, head in self.task.heads.items() if head.is_heatmap}
        return {"detections": detections, "heatmaps": peaks}

    def on_validation_epoch_end(self) -> None:
        results = self.metric.compute()
        self.per_class = self.metric.per_class
        self.metric.reset()
        self.log_dict({f"val/{name}": value for name, value in results.items()})

    def predict_step(self, batch: Batch, batch_index: int) -> Any:
        return self.task.lift(self.detector(batch["image"]), batch)

    def _losses(self, batch: Batch, outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        grid_size = tuple(next(iter(outputs[-1].values())).shape[-2:])
        return self.task.losses(outputs, self.task.encode(batch["objects"], grid_size))

    def _require_finite(self, loss: Tensor, batch: Batch) -> None:
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"the {'' if self.training else 'validation '}loss is {loss.item()} in epoch {self.current_epoch + 1}, "
                f"step {self.global_step}; the batch holds the images {batch['image_id'].tolist()}; "
                "lower schedule.lr or look at these images"
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
        _ = trainer.estimated_stepping_batches  # makes the loaders, so that their length is known
        batches = trainer.num_training_batches
        per_epoch = max(batches / trainer.accumulate_grad_batches, 1) if batches != float("inf") else 1
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step / per_epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["centernet"] = self.description()
        # Lightning's own name for the constructor's arguments, so that its load_from_checkpoint works as well.
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = checkpoint["centernet"]["module"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        spec = read_description(checkpoint, "the checkpoint")["module"]
        mine = self.description()["module"]
        if (reason := _difference(spec, mine)) is not None:
            raise InputError(f"the checkpoint does not fit this run: {reason}")

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of itself, as plain data."""
        return {
            "format": FORMAT,
            "module": {
                "task": self.task.name,
                "class_names": self.class_names or [str(label) for label in range(self.task.num_classes)],
                "backbone": self.backbone,
                "normalization": self.normalization,
                "task_options": self.task_options,
                "schedule": {**self.schedule.__dict__, "milestones": list(self.schedule.milestones)},
            },
            "eval": self.eval_spec,
            "config": self.run_config,
        }


class CtdetModule(CenterNetModule):
    """2D boxes: ``Trainer().fit(CtdetModule(backbone="resnet18", num_classes=3), datamodule)``. Task options:
    ``CtdetTask``."""

    def __init__(
        self,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        backbone: str | Mapping[str, Any] = "resnet18",
        pretrained: bool | str = False,
        schedule: Schedule | Mapping[str, Any] | None = None,
        normalization: str = "coco",
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__("ctdet", num_classes, class_names, backbone, pretrained, schedule, normalization, task_options)


class CtdetDenseModule(CenterNetModule):
    """2D boxes as HarDNet regresses them; used like ``CtdetModule``. Task options: ``CtdetDenseTask``."""

    def __init__(
        self,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        backbone: str | Mapping[str, Any] = "hardnet85",
        pretrained: bool | str = False,
        schedule: Schedule | Mapping[str, Any] | None = None,
        normalization: str = "coco",
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        name = "ctdet_dense"
        super().__init__(name, num_classes, class_names, backbone, pretrained, schedule, normalization, task_options)


class MultiPoseModule(CenterNetModule):
    """Boxes and joints (human pose); used like ``CtdetModule``. Task options: ``MultiPoseTask``."""

    def __init__(
        self,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        backbone: str | Mapping[str, Any] = "dla34",
        pretrained: bool | str = False,
        schedule: Schedule | Mapping[str, Any] | None = None,
        normalization: str = "coco",
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        name = "multi_pose"
        super().__init__(name, num_classes, class_names, backbone, pretrained, schedule, normalization, task_options)


class DddModule(CenterNetModule):
    """Monocular 3D boxes; used like ``CtdetModule``. ``task``: ``ddd`` (the original) or ``ddd_dle``; task options:
    ``DddTask``, ``DddDleTask``."""

    def __init__(
        self,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        backbone: str | Mapping[str, Any] = "dla34",
        pretrained: bool | str = False,
        schedule: Schedule | Mapping[str, Any] | None = None,
        normalization: str = "imagenet",
        task_options: Mapping[str, Any] | None = None,
        task: str = "ddd",
    ) -> None:
        super().__init__(task, num_classes, class_names, backbone, pretrained, schedule, normalization, task_options)


def require_divisible(resolution: Sequence[int], divisor: int) -> None:
    """Raise ``InputError`` with the nearest sizes when height or width is not a multiple of ``divisor``."""
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
    raise InputError(f"input {height}x{width} is not divisible by {divisor}; nearest: {nearest}")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of this project on the CPU; no code in it is run. Raises ``InputError``."""
    content = convert.read_checkpoint(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is no checkpoint of this project")
    read_description(content, path)
    return content


def read_description(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself (see ``CenterNetModule.description``)."""
    description = checkpoint.get("centernet")
    if description is None:
        raise InputError(
            f"{path} is no checkpoint of this project; convert originals with scripts/convert_checkpoint.py"
        )
    if description["format"] > FORMAT:
        raise InputError(f"{path} was written by a newer version (format {description['format']}); update centernet")
    return description


def load_module(path: str | Path) -> tuple[CenterNetModule, dict[str, Any]]:
    """The module of a checkpoint, with its weights, and its evaluation transform. Raises ``InputError``."""
    checkpoint = read_checkpoint(path)
    description = read_description(checkpoint, path)
    module = CenterNetModule(**description["module"])
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"the weights in {path} do not fit its own description ({str(error).splitlines()[0]})"
        ) from None
    module.eval_spec, module.run_config = description["eval"], description["config"]
    return module, description["eval"] or {"resolution": [512, 512], "mode": "fit", "divisor": 32}


def _difference(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str | None:
    """Why a checkpoint cannot go on in this run, or None."""
    if theirs["task"] != mine["task"]:
        return f"it is for task {theirs['task']}, this run is for {mine['task']}"
    if len(theirs["class_names"]) != len(mine["class_names"]):
        return f"it has {len(theirs['class_names'])} classes, this run has {len(mine['class_names'])}"
    if theirs["class_names"] != mine["class_names"]:
        first = next(a for a, b in zip(theirs["class_names"], mine["class_names"], strict=True) if a != b)
        return f"its classes are others or in another order (first: {first})"
    a, b = (len(JointSet.of((spec["task_options"] or {}).get("joints")).names) for spec in (theirs, mine))
    if theirs["task"] == "multi_pose" and a != b:
        return f"it has {a} joints, this run has {b}"
    if theirs["backbone"] != mine["backbone"]:
        return f"its network is {theirs['backbone']['name']} ({theirs['backbone']}), this run's {mine['backbone']}"
    return None
