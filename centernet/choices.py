"""What can be configured: groups, their options and keys with comments, read from the text of the YAML files.

Nothing is composed and no heavy modules are imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from centernet.architectures import ARCHITECTURES

HERE = Path(__file__).resolve().parent
# The configuration is beside the package in a checkout and inside it in an installed wheel.
CONFIGS = next(
    (folder for folder in (HERE.parent / "configs", HERE / "configs") if (folder / "train.yaml").is_file()), HERE
)

# Choices of only one of the commands.
EVAL_ONLY = {("data", "checkpoint")}
# What presets choose for a training, and an evaluation takes from the checkpoint.
FROM_CHECKPOINT = {
    *("task", "backbone", "augment", "schedule", "recipe", "callbacks", "tune"),
    *("pretrained", "normalization", "teacher", "teacher_weight", "label", "evaluate", "debug"),
}
# Keys of other groups that have no effect in an evaluation.
TRAINING_ONLY = {
    *("data.resolution", "data.test_mode", "data.augment", "data.seed", "data.divisor"),
    *("data.train_annotations", "data.train_images", "data.train_split"),
    "data.train_difficult",
    *("data.skip_empty", "data.on_bad_image", "data.cache"),
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.limit_train_batches"),
    *("trainer.overfit_batches", "trainer.val_check_interval", "trainer.check_val_every_n_epoch"),
    *("trainer.num_sanity_val_steps", "trainer.gradient_clip_val", "trainer.accumulate_grad_batches"),
    *("trainer.log_every_n_steps", "trainer.sync_batchnorm"),
    "trainer.enable_model_summary",
}
# Top-level keys that replace some of these.
INSTEAD = {"data.resolution": "resolution", "data.test_mode": "test_mode"}


def groups() -> list[str]:
    """The groups of options, without Hydra's own."""
    return sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and re.match(r"(?!hydra$)[a-z]", path.name))


def options(group: str, command: str = "") -> dict[str, str]:
    """The options of a group with one line about each, for ``command`` if given. Files that begin with an underscore
    are base files, not options."""
    paths = [path for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_")]
    found = {path.stem: about(path) for path in sorted(paths, key=lambda path: _natural(path.stem))}
    if group == "backbone":
        found |= {name: spec["about"] for name, spec in ARCHITECTURES.items()}
    if command == "train":
        found = {option: line for option, line in found.items() if (group, option) not in EVAL_ONLY}
    if command == "eval" and group == "experiment":  # only the data of presets is used
        found = {option: line for option, line in found.items() if not is_sweep(option)}
    return found


def about(path: Path) -> str:
    """The description of a YAML: its first comment line that is neither a package nor a command."""
    lines = [line for line in header(path.read_text()) if not line.startswith(("@package", "python "))]
    return lines[0] if lines else ""


def header(text: str) -> list[str]:
    """The comment lines at the beginning of a YAML, without `#`."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


class Default(NamedTuple):
    """A line of a defaults list: ``- group: option   # comment``."""

    group: str
    option: str
    comment: str


def defaults(command: str) -> list[Default]:
    """The groups of a command with their defaults. Groups without a comment are not listed in help."""
    lines = (CONFIGS / f"{command}.yaml").read_text().splitlines()
    matches = (re.fullmatch(r"  - (\w+): (\w+)(?:\s+# (.*))?", line) for line in lines)
    return [Default(m[1], m[2], m[3] or "") for m in matches if m]


# The keys of a choice, with their comments.


@dataclass(frozen=True)
class Node:
    """A key of a YAML: its value as written (or the keys below it), the trailing comment, the comments above."""

    value: str | dict[str, Node]
    comment: str = ""
    above: tuple[str, ...] = ()


def read_nodes(text: str) -> dict[str, Node]:
    """The keys of a YAML with their comments, without its defaults list."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = text.splitlines()
    first = len(header(text))

    def read(mapping: yaml.MappingNode) -> dict[str, Node]:
        nodes = {}
        for key, value in mapping.value:
            row = key.start_mark.line
            top = row
            while top > first and lines[top - 1].lstrip().startswith("#"):
                top -= 1
            above = tuple(line.strip() for line in lines[top:row])
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                rest, content = lines[row][key.end_mark.column + 1 :], read(value)
            else:
                end = value.end_mark
                rest = lines[end.line][end.column :] if end.line < len(lines) else ""
                content = text[value.start_mark.index : end.index].strip()
            comment = rest.strip() if rest.strip().startswith("#") else ""
            nodes[key.value] = Node(content, comment, above)
        return nodes

    nodes = read(root) if isinstance(root, yaml.MappingNode) else {}
    nodes.pop("defaults", None)
    return nodes


def merge_nodes(base: dict[str, Node], over: dict[str, Node]) -> dict[str, Node]:
    """``base`` with the values of ``over``; a key keeps its comments if ``over`` has none."""
    merged = dict(base)
    for key, new in over.items():
        old = base.get(key, Node(""))
        both = isinstance(old.value, dict) and isinstance(new.value, dict)
        value = merge_nodes(old.value, new.value) if both else new.value
        merged[key] = Node(value, new.comment or old.comment, new.above or old.above)
    return merged


class Choice(NamedTuple):
    """The content of ``group=option``: comments of its file, its choices in other groups, and its keys at their places
    in the whole configuration."""

    header: list[str]
    chooses: dict[str, str]
    nodes: dict[str, Node]


def read_choice(group: str, option: str) -> Choice:
    """A choice with everything inherited from other files of its group."""
    text = (CONFIGS / group / f"{option}.yaml").read_text()
    lines = header(text)
    chooses: dict[str, str] = {}
    inherited: dict[str, Node] = {}
    for entry in yaml.safe_load(text).get("defaults", []):
        if isinstance(entry, dict):
            own = {str(key).removeprefix("override ").lstrip("/"): str(name) for key, name in entry.items()}
            # Behind what is inherited and stays.
            chooses = {other: name for other, name in chooses.items() if other not in own} | own
        elif entry != "_self_":
            parent = read_choice(group, entry)
            chooses |= parent.chooses
            inherited = merge_nodes(inherited, parent.nodes)
    nodes = read_nodes(text)
    if "@package _global_" not in lines:
        nodes = {group: Node(nodes)}
    return Choice([line for line in lines if not line.startswith("@package")], chooses, merge_nodes(inherited, nodes))


def is_sweep(preset: str) -> bool:
    """Whether ``experiment=preset`` describes a sweep and no single training: it sets Hydra's options for sweeps, and
    no others."""
    nodes = read_choice("experiment", preset).nodes
    return set(nodes) == {"hydra"} and set(nodes["hydra"].value) <= {"mode", "sweep", "sweeper", "launcher"}
