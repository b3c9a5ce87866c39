"""The content of a checkpoint, written and read as plain data, without Lightning.

The key ``centernet`` holds everything needed to use the weights: task, classes, facts of the data, network,
normalization, how an image becomes an input, and (from the command line) the configuration of the run. Files load with
``weights_only=True``, so no code in them runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from centernet.detector import Detector, build_detector
from centernet.errors import InputError
from centernet.models.files import read_file
from centernet.models.transfer import TransferReport, copy_weights
from centernet.tasks import build_task
from centernet.tasks._version1 import HEADS, upgrade

FORMAT = 2
KEY = "centernet"
PREFIX = "detector.network."
"""Prefix of the names of the network's tensors."""
LIVE_WEIGHTS = "live_weights"
"""Key of the weights that training continues with, in a checkpoint that holds their average in place of them."""
USUAL_EVAL = {"resolution": [512, 512], "mode": "fit", "divisor": 32}
"""How images become inputs if a checkpoint does not record it."""

# Names of data modules in format 1.
_MOVED = {
    f"centernet.data.{old}": f"centernet.data.builtin.{new}"
    for old, new in (
        ("synthetic.ShapesDataModule", "shapes.ShapesDataModule"),
        ("figures.FiguresDataModule", "figures.FiguresDataModule"),
        ("cuboids.CuboidsDataModule", "cuboids.CuboidsDataModule"),
    )
}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of this project on the CPU, in the current format. Raises ``InputError`` for other
    files."""
    content = read_file(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is not a checkpoint of this project; convert originals with scripts/convert_checkpoint.py"
        )
    return upgrade_checkpoint(content, path)


def upgrade_checkpoint(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Upgrade the content of an older format, in place. Raises ``InputError`` for content of another project."""
    if (description := content.get(KEY)) is None:
        raise InputError(
            f"{path} is not a checkpoint of this project; convert originals with scripts/convert_checkpoint.py"
        )
    if description["format"] > FORMAT:
        raise InputError(f"{path} was written by a newer version (format {description['format']}); update centernet")
    if description["format"] == 1:
        module = description["module"]
        task = module["task"]
        options, facts, metric = upgrade(task, module["task_options"] or {})
        module |= {"task_options": options, "facts": facts, "metric_options": metric}
        for old, new in HEADS.get(task, {}).items():
            weights = content["state_dict"]
            for name in [name for name in weights if f".{old}." in name and name.startswith(f"{PREFIX}head.")]:
                weights[name.replace(f".{old}.", f".{new}.")] = weights.pop(name)
        data = (description["config"] or {}).get("data")
        if data is not None:
            data["_target_"] = _MOVED.get(data["_target_"], data["_target_"])
        description["format"] = FORMAT
    return content


def load_detector(path: str | Path) -> tuple[Detector, dict[str, Any]]:
    """The detector of a checkpoint, with its weights, and the description under ``KEY``. Raises ``InputError``."""
    content = read_checkpoint(path)
    spec = content[KEY]["module"]
    detector = build_detector(
        spec["task"],
        spec["class_names"],
        spec["backbone"],
        normalization=spec["normalization"],
        task_options=spec["task_options"],
        facts=spec["facts"],
    )
    load_weights(detector.network, content, path)
    return detector, content[KEY]


def load_weights(network: torch.nn.Module, content: Mapping[str, Any], path: str | Path) -> None:
    """Load the network's weights from a checkpoint. Raises ``InputError`` if they do not match its description."""
    try:
        network.load_state_dict(network_weights(content))
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the weights in {path} do not match its description ({reason}); get an undamaged copy"
        ) from None


def is_checkpoint(source: Any) -> bool:
    """Whether this is, by its ending, the path of a checkpoint of this project (and not of a file of weights)."""
    return isinstance(source, (str, Path)) and Path(source).suffix == ".ckpt"


def start_from(detector: Detector, class_names: Sequence[str] | None, path: str | Path) -> TransferReport:
    """Copy matching weights from another checkpoint, head rows by the names of their classes. Raises ``InputError``."""
    if class_names is None:
        raise InputError(f"the classes of {path} are matched by their names; give class_names")
    content = read_checkpoint(path)
    by_class = [name for name, head in detector.task.heads.items() if head.per_class]
    theirs = content[KEY]["module"]["class_names"]
    try:
        return copy_weights(detector.network, network_weights(content), theirs, class_names, by_class)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def network_weights(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's tensors in a checkpoint, by their names in the network."""
    return {name.removeprefix(PREFIX): v for name, v in content["state_dict"].items() if name.startswith(PREFIX)}


def difference(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str | None:
    """Why a run cannot resume from a checkpoint: the first difference between two module descriptions, or None."""
    if theirs["task"] != mine["task"]:
        return f"its task is {theirs['task']}, this run's is {mine['task']}; add task={theirs['task']}"
    if len(theirs["class_names"]) != len(mine["class_names"]):
        return (
            f"it has {len(theirs['class_names'])} classes, this run has {len(mine['class_names'])}; use the same data, "
            "or start a new run from its weights with pretrained=CHECKPOINT"
        )
    for place, (a, b) in enumerate(zip(theirs["class_names"], mine["class_names"], strict=True)):
        if a != b:
            return f"class {place} is {a!r} there and {b!r} in this run; use the same classes in the same order"
    if theirs["backbone"] != mine["backbone"]:
        return _other_network(theirs["backbone"], mine["backbone"])
    there, here = (
        build_task(spec["task"], len(spec["class_names"]), spec["facts"], **spec["task_options"]).heads
        for spec in (theirs, mine)
    )
    for name in dict.fromkeys((*there, *here)):
        a, b = (heads[name].channels if name in heads else 0 for heads in (there, here))
        if a != b:
            return f"its head {name} has {a} channels, this run's has {b}; use the same options of the task"
    return None


def _other_network(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """How two descriptions of networks differ."""
    start = "or start a new run from its weights with pretrained=CHECKPOINT"
    if theirs["name"] != mine["name"]:
        name = theirs["name"]
        return f"its network is {name}, this run's is {mine['name']}; add backbone={name}, {start}"
    keys = [key for key in dict.fromkeys((*theirs, *mine)) if theirs.get(key) != mine.get(key)]
    shown = ", ".join(f"backbone.{key} is {theirs.get(key)} there and {mine.get(key)} in this run" for key in keys)
    return f"{shown}; use the same network, {start}"
