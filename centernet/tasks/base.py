"""Task: which maps the network emits, how truth becomes targets for them, how peaks become detections.

A task is a small object without parameters. It knows no dataset, no network and no Lightning; a new one is a new file
in this package with one subclass of ``Task`` (docs/adding.md).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from centernet.losses import LOSSES
from centernet.ops.affine import transform_boxes
from centernet.structures import (
    AtCells,
    Batch,
    DenseMap,
    Detections,
    Head,
    InputError,
    Objects,
    Outputs,
    Targets,
)


class Task:
    """Base of all tasks. Subclasses set the class attributes and write ``heads``, ``encode``, ``decode`` and
    ``metric``."""

    name: ClassVar[str]
    monitor: ClassVar[str] = "AP"
    """The metric (without ``val/``) that picks the best checkpoint; larger is better."""
    requires: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    """Fields that the data's objects must carry."""
    takes: ClassVar[tuple[str, ...]] = ()
    """Constructor options that the data knows (``facts`` of a data set): filled in where nobody says them."""

    threshold: ClassVar[float] = 0.3
    """Score from which a detection is worth drawing, when nobody says another one."""

    def __init__(self, num_classes: int, stride: int = 4, k: int = 100) -> None:
        if k < 1:
            raise InputError(f"task {self.name}: k={k} is too small; give at least 1")
        self.num_classes, self.stride, self.k = num_classes, stride, k

    @property
    def heads(self) -> dict[str, Head]:
        """The maps that the network must emit, by name."""
        raise NotImplementedError

    def encode(self, objects: Objects, grid_size: tuple[int, int]) -> Targets:
        """Targets of a batch, one per head. ``objects`` padded, in input pixels; ``grid_size`` (height, width) in
        cells."""
        raise NotImplementedError

    def decode(self, maps: Outputs) -> Detections:
        """Detections ``[B, K, ...]`` in input pixels from activated maps (see ``activate``), by falling score."""
        raise NotImplementedError

    def metric(self, class_names: Sequence[str]) -> Metric:
        """A fresh metric; ``update(detections, truth, image_id)`` takes image space, ``compute()`` a flat dict."""
        raise NotImplementedError

    def check_data(self, fields: Mapping[str, Tensor], facts: Mapping[str, Any], where: str) -> None:
        """Raise ``InputError`` when data with these fields and facts cannot be used; ``where`` names it.

        ``facts``: what the data set says of itself as plain data (see ``ImageDataset.facts``).
        """
        require_fields(self, fields, where)

    def activate(self, outputs: Outputs) -> Outputs:
        """Raw maps to maps that ``decode`` reads: probabilities for heatmaps, everything else as it is."""
        heads = self.heads
        return {
            # The mean squared error compares raw maps with probabilities; only the focal loss trains logits.
            name: out.float().clamp(0, 1)
            if heads[name].loss == "mse"
            else out.float().sigmoid()
            if heads[name].is_heatmap
            else out.float()
            for name, out in outputs.items()
        }

    def merge_flipped(self, maps: Outputs) -> Outputs:
        """Merge activated maps ``[2B, ...]`` of B images followed by their mirror images into ``[B, ...]``."""
        raise NotImplementedError

    def detect(self, outputs: Outputs) -> Detections:
        """Raw maps of the last stack to detections in input pixels."""
        return self.decode(self.activate(outputs))

    def lift(self, detections: Detections, batch: Batch) -> Detections:
        """Detections from input to image pixels, by the inverse of ``batch["input_from_image"]``."""
        image_from_input = torch.linalg.inv(batch["input_from_image"])
        return {**detections, "boxes": transform_boxes(image_from_input, detections["boxes"])}

    def losses(self, outputs: Sequence[Outputs], targets: Targets) -> dict[str, Tensor]:
        """Loss of each head, averaged over the stacks and unweighted, and under ``loss`` their weighted sum."""
        return weighted_losses(self.heads, outputs, targets)

    def perfect(self, targets: Targets, grid_size: tuple[int, int]) -> Outputs:
        """The raw output that a flawless network would give for ``targets``; makes every task its own test."""
        height, width = grid_size
        outputs: Outputs = {}
        for name, head in self.heads.items():
            target = targets[name]
            if isinstance(target, DenseMap):
                outputs[name] = torch.logit(target.value, eps=1e-6) if head.loss == "focal" else target.value
                continue
            rows, count, channels = target.value.shape
            flat = target.value.new_zeros(rows, height * width, channels)
            mask = target.mask if target.mask.ndim == 3 else target.mask[..., None].expand(rows, count, channels)
            for m in range(count):
                cell = target.cell[:, m, None, None].expand(-1, 1, channels)
                old = flat.gather(1, cell)
                flat.scatter_(1, cell, torch.where(mask[:, m, None] > 0, target.value[:, m, None], old))
            outputs[name] = flat.transpose(1, 2).reshape(rows, channels, height, width)
        return outputs


def weighted_losses(terms: Mapping[str, Head], outputs: Sequence[Outputs], targets: Targets) -> dict[str, Tensor]:
    """What ``Task.losses`` returns, for any named parts of the output and their targets."""
    parts = {
        name: sum(LOSSES[term.loss](stack[name], targets[name]) for stack in outputs) / len(outputs)
        for name, term in terms.items()
    }
    total = sum(term.weight * parts[name] for name, term in terms.items())
    return {"loss": total, **parts}


def task_names() -> list[str]:
    """Names of all tasks: the files of this package."""
    import centernet.tasks

    return sorted(m.name for m in pkgutil.iter_modules(centernet.tasks.__path__) if m.name != "base")


def build_task(name: str, num_classes: int, **options: Any) -> Task:
    """The task of this name (a file of this package). Raises ``InputError`` for an unknown name or option."""
    task = task_class(name)
    known = inspect.signature(task.__init__).parameters
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(p for p in known if p != 'self')}"
            raise InputError(f"task {name} has no option {option!r}; {hint}")
    try:
        return task(num_classes=num_classes, **options)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise InputError(f"task {name} does not understand its options ({error}): {given}") from error


def task_class(name: str) -> type[Task]:
    """The class of the task of this name. Raises ``InputError`` for an unknown name."""
    names = task_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise InputError(f"unknown task {name!r}; did you mean {', '.join(close)}?")
    module = importlib.import_module(f"centernet.tasks.{name}")
    return next(
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Task) and getattr(value, "name", None) == name
    )


# Which data has the fields that not every data set has.
SOURCES = {
    "joints": "data=figures (built in), or data=coco_pose with person_keypoints_*.json of COCO or any json whose "
    "categories have keypoints",
    "depth": "data=cuboids (built in), or data=kitti",
}


def require_fields(task: Task, fields: Mapping[str, Tensor], where: str) -> None:
    """Raise ``InputError`` when the data's objects lack a field that the task needs."""
    missing = [field for field in task.requires if field not in fields]
    if missing:
        source = "; ".join(SOURCES["joints" if field == "joints" else "depth"] for field in missing[:1])
        hint = f"; use {source}" if missing[0] not in Task.requires else ""
        raise InputError(f"task {task.name} needs objects with {', '.join(missing)}, which {where} does not have{hint}")


__all__ = ["AtCells", "DenseMap", "Task", "build_task", "require_fields", "task_class", "task_names", "weighted_losses"]
