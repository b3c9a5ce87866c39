"""Conversion of original checkpoints: renames tensors, changes the first convolution from BGR to RGB, checks
completeness.

``originals.py`` holds the facts: names of tensors, heads and classes in xingyizhou/CenterNet and CenterNet-HarDNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from centernet.errors import did_you_mean
from centernet.models.centernet import build_network, network_spec
from centernet.models.files import read_file
from centernet.models.head import hidden_width
from centernet.models.originals import (
    CLASS_NAMES,
    CLASSES,
    FAMILIES,
    HEADS,
    NETWORKS,
    NORMALIZATIONS,
    TASKS,
    Family,
    Layout,
    facts_of,
    mismatch_of,
)
from centernet.structures import Head, InputError

# How many differing tensors an error lists.
LISTED = 3


@dataclass
class ConversionReport:
    """Summary of a conversion; ``str()`` makes it readable."""

    backbone: str
    task: str
    num_classes: int
    matched: int
    unused: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    flipped: str = ""

    def __str__(self) -> str:
        lines = [
            f"{self.backbone}, task {self.task}, {self.num_classes} classes: {self.matched} tensors matched",
            f"changed from BGR to RGB: {self.flipped}",
        ]
        if self.unused:
            lines.append(f"dropped, unused by the network ({len(self.unused)}): {', '.join(self.unused)}")
        if self.added:
            lines.append(f"missing batch counters, set to 0: {len(self.added)}")
        return "\n".join(lines)


class Conversion(NamedTuple):
    """A converted checkpoint.

    ``state_dict`` of a ``CenterNet``; ``spec``: ``backbone`` (what ``build_network`` takes), ``task``, ``heads``
    (channels by name), ``task_options`` that match these heads, ``facts`` of the data, ``num_classes``, ``class_names``
    (None where the number of classes does not tell), ``normalization``.
    """

    state_dict: dict[str, Tensor]
    spec: dict[str, Any]
    report: ConversionReport


def convert_checkpoint(
    path: str | Path, arch: str | None = None, task: str | None = None, class_names: Sequence[str] | None = None
) -> Conversion:
    """Read an original ``.pth`` file and convert it; see ``convert``. Errors start with the path."""
    try:
        return convert(read_file(path), arch, task, class_names)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def convert(
    checkpoint: Any, arch: str | None = None, task: str | None = None, class_names: Sequence[str] | None = None
) -> Conversion:
    """The content of an original checkpoint as the state of one of our networks.

    ``arch`` (our name or the original's) and ``task`` are inferred from the tensors if not given. Strict: every tensor
    of the checkpoint is either used or listed as unused, and no tensor of the network is missing; anything else raises
    ``InputError``.
    """
    tensors = unwrap(checkpoint)
    names = [_our_name(arch)] if arch else list(NETWORKS)
    stacked = any(key.startswith("kps.") for key in tensors)
    channels, hidden = _find_heads(tensors, stacked)
    attempts: list[_Match] = []
    for name in names:
        attempts.append(_match(tensors, name, channels, hidden))
        if not attempts[-1].body:
            break
    best = min(attempts, key=lambda attempt: len(attempt.body))
    if best.body:
        listed = "; ".join(best.body[:LISTED]) + (
            "" if len(best.body) <= LISTED else f"; and {len(best.body) - LISTED} more"
        )
        which = f"this is not {best.name}" if arch else f"unknown architecture; the nearest is {best.name}"
        raise InputError(f"{which}, which differs in {len(best.body)} tensors: {listed}")
    task = _check_task(channels, task)
    if best.heads:
        raise InputError(f"wrong head sizes: {'; '.join(best.heads[:LISTED])}")
    num_classes = channels[TASKS[task].classes]
    known, layout = CLASS_NAMES.get((task, num_classes)), TASKS[task]
    if class_names is not None and len(class_names) != num_classes:
        raise InputError(
            f"the heads have {num_classes} classes, but class_names has {len(class_names)}; give one name per class"
        )

    family = FAMILIES[NETWORKS[best.name][1]]
    state = dict(best.state)
    state[family.first] = state[family.first].flip(1)
    for old, new in layout.renamed.items():
        state = {re.sub(rf"^(head\.stacks\.\d+)\.{old}\.", rf"\1.{new}.", name): value for name, value in state.items()}
    report = ConversionReport(
        best.name, task, num_classes, len(best.state) - len(best.added), best.unused, best.added, family.first
    )
    spec = {
        "backbone": best.backbone,
        "task": task,
        "heads": {layout.renamed.get(name, name): count for name, count in channels.items()},
        "task_options": _task_options(layout, channels),
        "facts": facts_of(channels),
        "num_classes": num_classes,
        "class_names": list(class_names or known or []) or None,
        "normalization": NORMALIZATIONS.get(num_classes, layout.normalization),
    }
    return Conversion(state, spec, report)


def _task_options(layout: Layout, channels: Mapping[str, int]) -> dict[str, Any]:
    """Task options that produce these heads."""
    options: dict[str, Any] = {name: None for name in sorted(layout.optional) if name not in channels}
    options |= {name: told for name, told in layout.wide.items() if channels[name] > layout.channels[name][0]}
    for name, told in layout.narrow.items():
        options |= told if channels[name] < channels[layout.classes] else {}
    return options


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """The tensors by name, out of the wrappers ``state_dict`` and ``module.``."""
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("state_dict"), Mapping):
        if "pytorch-lightning_version" in checkpoint:
            raise InputError("the file is already a PyTorch Lightning checkpoint; use it without conversion")
        checkpoint = checkpoint["state_dict"]
    if not isinstance(checkpoint, Mapping) or not all(isinstance(key, str) for key in checkpoint):
        raise InputError("the file has no named tensors; give a checkpoint or the state_dict of a network")
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError("the file has no named tensors; give a checkpoint or the state_dict of a network")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _our_name(arch: str) -> str:
    if arch in NETWORKS:
        return arch
    for name, (theirs, _) in NETWORKS.items():
        if arch == theirs:
            return name
    known = [*NETWORKS, *(theirs for theirs, _ in NETWORKS.values())]
    raise InputError(f"unknown architecture {arch!r}; {did_you_mean(arch, known)}")


def _head_key(key: str, stacked: bool) -> tuple[str, int, int, str] | None:
    """Our head, stack, layer and parameter for an original's key, or None if it does not belong to a head."""
    names = "|".join(sorted(HEADS, key=len, reverse=True))
    if stacked:
        found = re.fullmatch(rf"({names})\.(\d+)\.(0\.conv|1)\.(weight|bias)", key)
        return (HEADS[found[1]], int(found[2]), 0 if found[3] == "0.conv" else 2, found[4]) if found else None
    found = re.fullmatch(rf"({names})(?:\.(\d+))?\.(weight|bias)", key)
    return (HEADS[found[1]], 0, int(found[2] or 0), found[3]) if found else None


def _find_heads(tensors: Mapping[str, Tensor], stacked: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Output channels and hidden width of every head in the checkpoint, by our names."""
    channels: dict[str, int] = {}
    hidden: dict[str, int] = {}
    for key, value in tensors.items():
        place = _head_key(key, stacked)
        if place is None or place[3] != "bias":
            continue
        head, _, layer, _ = place
        if layer == 2 or key.count(".") == 1:
            channels[head] = len(value)
            hidden.setdefault(head, 0)
        else:
            hidden[head] = len(value)
    if not channels:
        raise InputError(
            f"the checkpoint has no CenterNet heads (tried {', '.join(HEADS)}); pass weights of a backbone as "
            "pretrained=FILE"
        )
    return channels, hidden


class _Match(NamedTuple):
    """Match of a checkpoint with one network; ``body`` and ``heads`` describe the differences."""

    name: str
    backbone: str | dict[str, Any]
    state: dict[str, Tensor]
    unused: list[str]
    added: list[str]
    body: list[str]
    heads: list[str]


def _match(tensors: Mapping[str, Tensor], name: str, channels: Mapping[str, int], hidden: Mapping[str, int]) -> _Match:
    family = FAMILIES[NETWORKS[name][1]]
    backbone = _with_head_width(name, channels, hidden)
    with torch.device("meta"):
        network = build_network(backbone, {head: Head(count, "l1") for head, count in channels.items()})
    expected = network.state_dict()
    state: dict[str, Tensor] = {}
    unused, body, heads = [], [], []
    for key, value in tensors.items():
        ours = _rename(key, family)
        if any(re.fullmatch(pattern, key) for pattern in family.unused):
            unused.append(key)
        elif ours not in expected:
            (heads if ours.startswith("head.") else body).append(f"{key} is not in it")
        elif expected[ours].shape != value.shape:
            problem = f"{key} is {list(value.shape)} and should be {list(expected[ours].shape)}"
            (heads if ours.startswith("head.") else body).append(problem)
        else:
            state[ours] = value
    added = []
    seen = {_rename(key, family) for key in tensors}
    for ours, value in expected.items():
        if ours in seen:
            continue
        if ours.endswith("num_batches_tracked"):
            # Files of PyTorch before 0.4.1 have no such counters; nothing in inference depends on them.
            state[ours] = torch.zeros((), dtype=value.dtype)
            added.append(ours)
        else:
            (heads if ours.startswith("head.") else body).append(f"{ours} (our name) is missing")
    return _Match(name, backbone, state, unused, added, body, heads)


def _with_head_width(name: str, channels: Mapping[str, int], hidden: Mapping[str, int]) -> str | dict[str, Any]:
    """The network's name, or a mapping if the checkpoint's heads have an unusual width."""
    rule = network_spec(name)["head_channels"]
    widths = set(hidden.values())
    if len(widths) == 1 and any(
        hidden[head] != hidden_width(rule, channels[head]) for head in channels if head in hidden
    ):
        return {"name": name, "head_channels": widths.pop()}
    return name


def _rename(key: str, family: Family) -> str:
    place = _head_key(key, family.stacked_heads)
    if place is not None:
        head, stack, layer, parameter = place
        return f"head.stacks.{stack}.{head}.{layer}.{parameter}"
    for pattern, replacement in family.renames:
        key = re.sub(pattern, replacement, key)
    return key


def _check_task(channels: Mapping[str, int], task: str | None) -> str:
    """The task that has these heads (the given one, or the only match)."""
    if task is not None and task not in TASKS:
        raise InputError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    problems = {name: _head_problems(channels, name) for name in ([task] if task else TASKS)}
    fitting = [name for name, found in problems.items() if not found]
    if fitting:
        return fitting[0]
    nearest = min(problems, key=lambda name: (len(set(channels) ^ set(TASKS[name].channels)), len(problems[name])))
    raise InputError(f"wrong head sizes for task {nearest}: {'; '.join(problems[nearest])}")


def _head_problems(channels: Mapping[str, int], task: str) -> list[str]:
    layout = TASKS[task]
    theirs = {ours: name for name, ours in HEADS.items()}
    problems = [f"head {theirs[head]} is not part of it" for head in channels if head not in layout.channels]
    classes = channels.get(layout.classes, 0)
    for head, allowed in layout.channels.items():
        sizes = [count if count > 0 else count * CLASSES * classes for count in allowed]
        if head not in channels:
            if head not in layout.optional:
                problems.append(f"head {theirs[head]} is missing")
        elif sizes and channels[head] not in sizes:
            choices = " or ".join(map(str, sizes))
            problems.append(f"head {theirs[head]} has {channels[head]} channels and should have {choices}")
    if (mismatch := mismatch_of(channels)) is not None:
        problems.append(mismatch)
    return problems
