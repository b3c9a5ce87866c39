"""The LightningModules: training and validation of a detector, and the content of checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.enums import GradClipAlgorithmType
from torch import Tensor
from torch.profiler import record_function

from centernet.callbacks.averaging import AverageWeights
from centernet.checkpoint import (
    FORMAT,
    KEY,
    LIVE_WEIGHTS,
    USUAL_EVAL,
    difference,
    is_checkpoint,
    load_weights,
    read_checkpoint,
    start_from,
    upgrade_checkpoint,
)
from centernet.detector import Detector, build_detector
from centernet.epoch import EpochLosses, FiniteCheck, Unchecked
from centernet.errors import InputError
from centernet.metrics.rows import ImageMetric
from centernet.models.centernet import network_spec, require_divisible
from centernet.modes import Modes
from centernet.resume import PROGRESS, continue_epoch, keep_settings, repeat_validation, steps_done
from centernet.schedule import Schedule
from centernet.structures import Batch
from centernet.tasks import Task, task_names
from centernet.teacher import Teacher

log = logging.getLogger(__name__)


class Clock(Protocol):
    """What tells the share of the training time that is gone."""

    progress: float


class CenterNetModule(pl.LightningModule):
    """Trains any task; every argument but the last is plain data.

    ``task``: its name, with ``task_options``; ``num_classes`` or ``class_names``; ``facts``: metadata of the data
    (``ImageDataset.facts``); ``backbone``: a name or a description of the network (``build_network``); ``pretrained``:
    True, False, a weight file, or a checkpoint of this project (``.ckpt``); ``schedule``: a ``Schedule`` or its
    options; ``normalization``: of the images (``NORMALIZATIONS``); ``metric_options``: of the task's metric;
    ``teacher``: a checkpoint of the same task, whose maps are learned besides the ground truth, with ``teacher_weight``
    in the total loss (``Teacher``); ``inference``: modes of validation (``centernet.modes``); ``detector``: one that is
    there already, such as an exported file's, in place of a new one; it is not stored. Batches hold images uint8
    ``[B, 3, H, W]`` with objects in input pixels and truth in image pixels (``structures.Batch``).
    Raises ``InputError`` for unknown names or options.

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
        teacher: str | Path | None = None,
        teacher_weight: float = 1.0,
        inference: Modes | Mapping[str, Any] | None = None,
        detector: Detector | None = None,
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
        self.detector = detector or build_detector(
            task,
            class_names or num_classes,
            self.backbone,
            False if is_checkpoint(pretrained) else pretrained,
            normalization or self.NORMALIZATION,
            self.task_options,
            facts,
        )
        self.detector.use(inference)
        self.schedule = Schedule.of(schedule)
        self.class_names = None if class_names is None else list(class_names)
        if is_checkpoint(pretrained):
            log.info(f"pretrained={pretrained}: {start_from(self.detector, self.class_names, pretrained)}")
        if teacher is not None and self.class_names is None:
            raise InputError("a teacher is matched by the names of the classes; give class_names")
        self.teacher = None if teacher is None else Teacher(teacher, self.task, self.class_names, teacher_weight)
        self.metric = self.new_metric()
        self.per_class: dict[str, dict[str, float]] = {}
        self.run_config: dict[str, Any] | None = None  # resolved, plain; set by the command line
        self.overrides: list[str] | None = None  # the words of the command line that it was made from
        # How images become inputs; kept from a loaded checkpoint unless a data module replaces it.
        self.eval_spec: dict[str, Any] | None = None
        self.clock: Clock | None = None  # of a training that ends at a time; set by its callback
        self.latest: dict[str, Tensor] = {}  # losses of the last training step, on the device
        self._epoch, self._finite = EpochLosses(), FiniteCheck()
        self._trained: list[torch.nn.Parameter] | None = None  # of the backbone, once some are frozen
        self._resumed: dict[str, Any] | None = None  # the checkpoint that the run continues from, while it starts
        self.save_hyperparameters(
            {
                **self.description()["module"],
                "pretrained": pretrained if isinstance(pretrained, bool) else str(pretrained),
                "teacher": teacher and str(teacher),
                "teacher_weight": teacher_weight,
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

    def new_metric(self) -> ImageMetric:
        """An empty metric of the task, as validation uses it."""
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
        if self.trainer.world_size > 1:
            theirs, mine = self.trainer.strategy.broadcast(str(self.trainer.ckpt_path)), str(self.trainer.ckpt_path)
            if theirs != mine:
                raise InputError(
                    f"the first process continues from {theirs}, this one from {mine}; give ckpt=FILE to all of them"
                )
        data = getattr(self.trainer, "datamodule", None)
        if getattr(data, "class_names", None) is None:
            return
        if self.class_names is None and len(data.class_names) == self.task.num_classes:
            self.class_names = list(data.class_names)
            self.metric = self.new_metric()
        self._require_classes(data.class_names)
        self._check_data(data, stage)
        if hasattr(data, "take_scales"):
            data.take_scales(self.detector.modes.scales)
        if hasattr(data, "continue_epoch"):
            data.continue_epoch(0, 0)  # a checkpoint is read after this
            data.follow(self._progress)
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
        if self.teacher is not None:
            require_divisible(data.resolution, self.teacher.divisor)
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

    def _progress(self, epoch: float) -> float:
        """The share of the training that is done at a position in epochs."""
        return self.clock.progress if self.clock else epoch / max(self.trainer.max_epochs or 1, 1)

    def on_train_start(self) -> None:
        self._freeze_backbone()

    def on_train_epoch_start(self) -> None:
        self._epoch.clear()  # not called for an epoch that is continued
        self._freeze_backbone()

    def _freeze_backbone(self) -> None:
        """Freeze weights and batch-norm statistics of the backbone for the first ``schedule.freeze_epochs``."""
        if not self.schedule.freeze_epochs:
            return
        backbone, frozen = self.detector.network.backbone, self.current_epoch < self.schedule.freeze_epochs
        if self._trained is None:
            self._trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        for parameter in self._trained:
            parameter.requires_grad_(not frozen)
        backbone.train(not frozen)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self._finite.require()
        with record_function("encode"):  # before the forward pass: the host prepares the launches of both
            targets = self._targets(batch)
        with record_function("forward"):
            outputs = self.detector.outputs(batch["image"])
        with record_function("losses"):
            parts = self.task.losses(outputs, targets)
        if self.teacher is not None:
            with record_function("teacher"):
                parts["teacher"] = self.task.imitation(outputs, self.teacher.maps(batch["image"]))
                parts["loss"] = parts["loss"] + self.teacher.weight * parts["teacher"]
        self._watch(parts["loss"], batch)
        self.latest = {name: value.detach() for name, value in parts.items()}
        self._epoch.add(self.latest, len(batch["image"]))
        return parts["loss"]

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        found = self.detector.find_in_images(batch)
        has_maps = self.detector.has_maps  # an exported file gives detections only
        parts = self.task.losses(found.outputs, self._targets(batch)) if has_maps else {}
        # The last step of an epoch may have corrupted the weights; do not save them as the last checkpoint.
        if has_maps:
            self._watch(parts["loss"], batch)
        self._finite.require()
        for name, value in parts.items():
            key = "val/loss" if name == "loss" else f"val/loss/{name}"
            self.log(key, value, on_step=False, on_epoch=True, batch_size=len(batch["image"]), sync_dist=True)
        self.metric.update(found.detections, batch["truth"], batch["image_id"])
        peaks = {name: found.maps[name] for name, head in self.task.heads.items() if head.is_heatmap and has_maps}
        return {"detections": found.detections, "heatmaps": peaks, "maps": found.maps}

    def on_train_epoch_end(self) -> None:
        self._finite.require()
        self.log_dict(self.epoch_losses())
        self._epoch.clear()

    def on_validation_epoch_end(self) -> None:
        results = self.metric.compute_once()
        self.per_class = self.metric.per_class
        self.metric.reset()
        self.log_dict({f"val/{name}": value for name, value in results.items()})

    def predict_step(self, batch: Batch, batch_index: int) -> Any:
        return self.detector.find_in_images(batch).detections

    def _targets(self, batch: Batch) -> dict[str, Any]:
        height, width = batch["image"].shape[-2:]
        return self.task.encode(batch["objects"], (height // self.task.stride, width // self.task.stride))

    def _watch(self, loss: Tensor, batch: Batch) -> None:
        kind = "" if self.training else "validation "
        self._finite.watch(Unchecked(loss.detach(), batch["image_id"], kind, self.current_epoch + 1, self.global_step))

    def epoch_losses(self) -> dict[str, float]:
        """Mean losses over the images of the epoch so far, of all processes, by their names in the log."""
        return self._epoch.means(self.device)

    # Optimizer and schedule; a continued run uses its own settings (`resume`).

    def configure_optimizers(self) -> dict[str, Any]:
        trainer, schedule = self.trainer, self.schedule
        global_batch = self._global_batch()
        optimizer = schedule.build_optimizer(
            self.detector.network, global_batch * trainer.accumulate_grad_batches, self._scales_loss()
        )
        batches = self._batches_per_epoch()
        # The last batches of an epoch make a step, however few they are.
        per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if batches != float("inf") else 1
        per_epoch = max(per_epoch, 1)

        def factor(step: int) -> float:
            return schedule.factor(self.clock.progress * schedule.epochs if self.clock else step / per_epoch)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        self._announce_batch()
        self._announce_rate(global_batch * trainer.accumulate_grad_batches)
        if self._resumed is not None:
            checkpoint, self._resumed = self._resumed, None
            theirs, mine = checkpoint[KEY]["module"]["schedule"], self.description()["module"]["schedule"]
            steps = steps_done(checkpoint["loops"]["fit_loop"], per_epoch, trainer.accumulate_grad_batches)
            keep_settings(checkpoint, optimizer, scheduler, steps, theirs, mine)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _scales_loss(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # In mixed precision Lightning refuses to clip for a fused optimizer, although without a scaled loss (bfloat16)
        # there is nothing that the optimizer would undo.
        if self._scales_loss():
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            kind = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(self.trainer.precision_plugin, optimizer, gradient_clip_val or 0, kind)

    def _global_batch(self) -> int:
        """Images per batch of all processes together, which never are more than the data has."""
        data, processes = getattr(self.trainer, "datamodule", None), self.trainer.world_size
        own = getattr(data, "batch_size", None) or getattr(self.trainer.train_dataloader, "batch_size", None)
        if own and (images := len(getattr(data, "datasets", {}).get("train", ()))):
            own = min(own, math.ceil(images / processes))
        return (own or self.schedule.lr_batch_size or 1) * processes

    def _batches_per_epoch(self) -> float:
        trainer, data = self.trainer, getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "continue_epoch"):
            _ = trainer.estimated_stepping_batches  # builds the loaders
            return trainer.num_training_batches
        # Lightning's loaders would start to load at once, before a checkpoint's epoch is known.
        batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    def _announce_batch(self) -> None:
        data, processes = getattr(self.trainer, "datamodule", None), self.trainer.world_size
        wanted, images = getattr(data, "batch_size", 0), len(getattr(data, "datasets", {}).get("train", ()))
        if images and wanted > math.ceil(images / processes):
            have = f"{images} training images" + (f" for {processes} processes" if processes > 1 else "")
            log.warning(
                f"data.batch_size={wanted} is more than there is: {have}; a batch has {math.ceil(images / processes)}, "
                "and the learning rate is for that"
            )

    def _announce_rate(self, batch: int) -> None:
        if self.schedule.lr_batch_size not in (None, batch):
            log.info(
                f"lr {self.schedule.lr:g} is for a batch of {self.schedule.lr_batch_size}; scaled to "
                f"{self.schedule.scaled_lr(batch):g} for {batch} (schedule.lr_batch_size=null turns this off)"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._finite.require()  # weights after a step that failed are not saved
        checkpoint[KEY] = self.description()
        if losses := self._epoch.state(self.device):
            checkpoint[PROGRESS] = {"losses": losses}
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            repeat_validation(checkpoint["loops"]["fit_loop"], self.trainer.validating)
        # Lightning's key for constructor arguments, so its load_from_checkpoint works as well.
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = checkpoint[KEY]["module"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        spec = upgrade_checkpoint(checkpoint, "the checkpoint")[KEY]["module"]
        if (reason := difference(spec, self.description()["module"])) is not None:
            raise InputError(f"the checkpoint does not match this run: {reason}")
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if LIVE_WEIGHTS in checkpoint and not any(isinstance(c, AverageWeights) for c in self.trainer.callbacks):
            log.warning("the checkpoint holds averaged weights; set callbacks.average.decay to continue exactly")
        self._resumed = checkpoint
        losses = checkpoint.get(PROGRESS, {}).get("losses", {})
        self._epoch.load(losses, self.device)
        data = getattr(self.trainer, "datamodule", None)
        continue_epoch(checkpoint["loops"]["fit_loop"], data, int(losses.get("images", 0)), self._global_batch())

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
            "overrides": self.overrides,
        }


class CtdetIouModule(CenterNetModule):
    """2D boxes by their overlap, recommended: ``Trainer().fit(CtdetIouModule(backbone="s", num_classes=3), data)``."""

    TASK, BACKBONE = "ctdet_iou", "n"


class CtdetModule(CenterNetModule):
    """2D boxes as in the original."""

    TASK, BACKBONE = "ctdet", "resnet18"


class CtdetDenseModule(CenterNetModule):
    """2D boxes with HarDNet's dense regression."""

    TASK, BACKBONE = "ctdet_dense", "hardnet85"


class MultiPoseModule(CenterNetModule):
    """Boxes and joints (human pose)."""

    TASK, BACKBONE = "multi_pose", "dla34"


class ExdetModule(CenterNetModule):
    """2D boxes by extreme points; its data needs ``extreme_points="masks"``."""

    TASK, BACKBONE = "exdet", "dla34"


class DddModule(CenterNetModule):
    """Monocular 3D boxes; ``task="ddd_dle"`` for MonoDLE's findings."""

    TASK, BACKBONE, NORMALIZATION = "ddd", "dla34", "imagenet"


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
