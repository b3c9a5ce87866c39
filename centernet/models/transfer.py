"""Starting from another network's weights: copies matching tensors, head rows by class name, and keeps the rest
initialized."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from centernet.errors import some
from centernet.models.centernet import CenterNet
from centernet.structures import InputError


@dataclass
class TransferReport:
    """Names of tensors that were copied or not; ``str()`` makes it readable."""

    copied: list[str] = field(default_factory=list)
    by_class: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    classes_copied: list[str] = field(default_factory=list)
    classes_new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = sum(map(len, (self.copied, self.by_class, self.resized, self.missing)))
        lines = [f"copied {len(self.copied) + len(self.by_class)} of {total} tensors"]
        if self.by_class:
            lines.append(
                f"head rows copied by class name: {_listed(self.classes_copied) or 'none'}; "
                f"new classes, as initialized: {_listed(self.classes_new) or 'none'}"
            )
        if self.resized:
            lines.append(f"as initialized, because the shape differs: {_listed(self.resized)}")
        if self.missing:
            lines.append(f"as initialized, because the checkpoint lacks them: {_listed(self.missing)}")
        if self.unused:
            lines.append(f"in the checkpoint, but not in this network: {_listed(self.unused)}")
        return "\n".join(lines)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _shapes(tensors: Mapping[str, Tensor], names: Sequence[str], most: int = 2) -> str:
    """The first few of these tensors with their shapes."""
    return some((f"{name} {list(tensors[name].shape)}" for name in names), most) or "nothing"


@torch.no_grad()
def copy_weights(
    network: CenterNet,
    state_dict: Mapping[str, Tensor],
    class_names_from: Sequence[str],
    class_names_to: Sequence[str],
    class_heads: Collection[str],
) -> TransferReport:
    """Copy ``state_dict`` (of a ``CenterNet``) into ``network`` where it fits, in place.

    ``class_names_from`` of the weights, ``class_names_to`` of the network: rows of ``class_heads`` (those whose
    channels are the classes) go by name, and other classes keep their initialization. Raises ``InputError`` if no
    backbone tensor fits.
    """
    report = TransferReport(unused=[name for name in state_dict if name not in network.state_dict()])
    places = {name: row for row, name in enumerate(class_names_from)}
    same_classes = list(class_names_from) == list(class_names_to)
    report.classes_copied = [name for name in class_names_to if name in places]
    report.classes_new = [name for name in class_names_to if name not in places]
    for name, target in network.state_dict().items():
        source = state_dict.get(name)
        if source is None:
            report.missing.append(name)
        elif not same_classes and _is_class_wise(network, name, class_heads, len(class_names_to)):
            per_class = len(target) // len(class_names_to)
            if source.shape[1:] != target.shape[1:] or len(source) != per_class * len(places):
                report.resized.append(name)
                continue
            for row, wanted in enumerate(class_names_to):
                if wanted in places:
                    first = places[wanted] * per_class
                    target[row * per_class : (row + 1) * per_class] = source[first : first + per_class]
            report.by_class.append(name)
        elif source.shape != target.shape:
            report.resized.append(name)
        else:
            target.copy_(source)
            report.copied.append(name)
    if not any(name.startswith("backbone.") and not name.endswith("num_batches_tracked") for name in report.copied):
        own = [name for name in network.state_dict() if name.startswith("backbone.")]
        raise InputError(
            f"no tensor of the checkpoint's backbone fits this one; looked for {_shapes(network.state_dict(), own)}; "
            f"found {_shapes(state_dict, list(state_dict))}; choose the backbone that it was trained with"
        )
    return report


@torch.no_grad()
def keep_classes(network: CenterNet, rows: Sequence[int], class_heads: Collection[str], num_classes: int) -> None:
    """Reduce the ``class_heads`` of a network of ``num_classes`` to the classes ``rows``, in this order, in place."""
    for stack in network.head.stacks:
        for name in class_heads:
            last = stack[name][-1]
            for part in ("weight", "bias"):
                values = getattr(last, part).unflatten(0, (num_classes, -1))[list(rows)].flatten(0, 1)
                setattr(last, part, nn.Parameter(values))
            last.out_channels = len(last.bias)


def _is_class_wise(network: CenterNet, name: str, class_heads: Collection[str], num_classes: int) -> bool:
    """Whether the rows of this tensor are the classes: the last convolution of one of ``class_heads``."""
    found = re.fullmatch(r"head\.stacks\.(\d+)\.(\w+)\.(\d+)\.(weight|bias)", name)
    if found is None or found[2] not in class_heads:
        return False
    branch = network.head.stacks[int(found[1])][found[2]]
    # Class-agnostic extreme points have one channel for all classes.
    return int(found[3]) == len(branch) - 1 and branch[-1].out_channels % num_classes == 0
