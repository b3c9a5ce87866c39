"""The command line before Hydra reads it: help texts, option names of earlier versions, choices of groups.

Help comes from the text of the YAML files (``choices``) and the table of networks; no heavy modules are imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import yaml

from centernet.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from centernet.choices import (
    CONFIGS,
    FROM_CHECKPOINT,
    INSTEAD,
    TRAINING_ONLY,
    Default,
    Node,
    defaults,
    groups,
    is_sweep,
    options,
    read_choice,
    read_nodes,
)
from centernet.continued import continued_words, is_several, key_of, require_checkpoint, value_of
from centernet.errors import InputError, did_you_mean
from centernet.folders import is_first_process

# Renamed options, by their former dotted keys.
RENAMED = {
    "recipe.lr_batch": "recipe.lr_batch_size",
    "schedule.batch_size": "schedule.lr_batch_size",
    "schedule.final": "schedule.min_lr_ratio",
    "task.k": "task.heatmap.max_detections",
    "task.radius": "task.heatmap.radius",
    "task.min_overlap": "task.heatmap.min_overlap",
    "task.heatmap_weight": "task.heatmap.weight",
    "task.crowds": "task.heatmap.crowds",
    "task.ignored": "task.heatmap.ignore",
    "task.max_depth": "task.heatmap.max_depth",
    "task.size_weight": "task.size.weight",
    "task.offset_weight": "task.offset.weight",
    "task.depth_weight": "task.depth.weight",
    "task.focal": "task.depth.focal",
    "task.slots": "task.pad_objects",
    "task.jointless": "task.unlabeled",
    "task.overlap": "metric.overlap",
    "task.evaluator": "metric.backend",
}
# Options of Hydra that take a value.
WITH_VALUE = {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p"}

COMMANDS = {
    "train": """CenterNet: objects as points. Trains a network, evaluates it and draws its predictions.

  python train.py                                        built-in data: a first run in minutes on a CPU
  python train.py data=coco data.root=DIR                your own data in COCO format
  python train.py data=auto data.root=DIR                your own data as COCO, VOC, YOLO, CreateML or KITTI files
  python train.py experiment=ctdet_dla34 data.root=COCO  a published training
  python train.py backbone=resnet18 resolution=[256,256] schedule.epochs=30
  python train.py -m backbone=resnet18,resnet34          a sweep: one run per value, one table of results
  python train.py ... ckpt=auto                          continue the last run of this command
  python train.py ckpt=RUN schedule.epochs=60            continue this run with its settings, for longer
  python eval.py ckpt=RUN/best.ckpt                      evaluate""",
    "eval": """CenterNet: objects as points. Evaluates a checkpoint and draws its predictions.

  python eval.py ckpt=RUN/best.ckpt                      on the validation data of its training
  python eval.py ckpt=RUN/best.ckpt data.root=DIR        on other data of the same classes
  python eval.py ckpt=RUN/best.ckpt data.limit=16        on a few images
  python eval.py ckpt=model.onnx data=coco data.root=DIR an exported file
  python eval.py ckpt=RUN/best.ckpt resolution=[608,608] test_mode=keep
  python eval.py experiment=ctdet_hardnet85 ckpt=CONVERTED.ckpt data.root=COCO""",
}
MORE = """More help:

  python {name}.py --help {example:<31}the options of these choices, with comments
  python {name}.py --help data                           one group
  python {name}.py --cfg job                             the complete configuration of a run
  python {name}.py --hydra-help                          Hydra's own options"""
EXAMPLES = {"train": "task=ddd data=kitti", "eval": "data=checkpoint"}


def take_arguments(name: str) -> None:
    """Print help for ``--help``, or prepare ``sys.argv`` and the groups for Hydra. ``name``: the command, train or
    eval.

    Raises ``InputError`` for an unknown choice, and for a checkpoint that does not exist.
    """
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        try:
            print(help_text(name, words), flush=True)
        except BrokenPipeError:  # the reader closed the pipe, such as `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    words, notes = current_names(words)
    if name == "train":
        words, note = continued_words(words)
        notes += [note] if note else []
    else:
        require_effect(words)
        if (ckpt := value_of(words, "ckpt")) is not None and not is_several(ckpt):
            require_checkpoint(name, ckpt)
    if is_first_process():
        for note in notes:
            print(note, file=sys.stderr)
    sys.argv[1:] = words
    understand_groups(words)


def current_names(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line with renamed options replaced, and a note for each."""
    current, notes = [], []
    for word in words:
        prefix, key, rest = re.fullmatch(r"(\+{1,2}|~|)([^=+~]*)(.*)", word, re.DOTALL).groups()
        if key in RENAMED:
            notes.append(f"{key} was renamed; use {RENAMED[key]}")
            key = RENAMED[key]
        # Earlier schedules did not list all options, so some needed "+", which Hydra now rejects.
        if prefix == "+" and key.startswith("schedule."):
            prefix = "++"
        current.append(f"{prefix}{key}{rest}")
    return current, notes


def require_effect(words: Sequence[str]) -> None:
    """Raise ``InputError`` for a word that has no effect in an evaluation."""
    for word in words:
        key, value = key_of(word), word.partition("=")[2]
        if word.startswith("-") or "=" not in word:
            continue
        if key == "experiment" and value in options(key) and is_sweep(value):
            raise InputError("a ladder is a sweep of trainings; use it with python train.py")
        if key.partition(".")[0] in FROM_CHECKPOINT:
            raise InputError(f"{key} comes from the checkpoint in an evaluation; leave it out")
        if key in INSTEAD:
            raise InputError(f"{key} has no effect in an evaluation; set {INSTEAD[key]}")
        if key in TRAINING_ONLY or f"{key.rpartition('.')[0]}" in TRAINING_ONLY:
            raise InputError(f"{key} has no effect in an evaluation; leave it out")


def understand_groups(arguments: Sequence[str]) -> None:
    """Check the group choices on a command line and register the backbones; any other ``backbone=NAME`` is taken as a
    timm name.

    Raises ``InputError`` for an unknown option of a group, with close names, unless others of a sweep are known.
    """
    others = []
    for argument in arguments:
        group, equals, value = argument.lstrip("+").partition("=")
        if not equals or group not in groups():
            continue
        known = {*options(group), "null", ""}
        chosen = _options_in(value)
        for option in chosen:
            if option in known:
                continue
            if group == "backbone":
                others.append(option)
            elif known.isdisjoint(chosen):  # one of several ends its own job of the sweep only
                raise InputError(f"unknown {group} {option!r}; {did_you_mean(option, options(group))}")
    register_backbones(*others)


def register_backbones(*others: str) -> None:
    """Register the networks of ``ARCHITECTURES`` and ``others`` of timm as options of Hydra's group ``backbone``."""
    from hydra.core.config_store import ConfigStore

    for name in (*ARCHITECTURES, *others):
        node = {"name": name, "neck": None, "head_channels": None, "head_tower": None}
        ConfigStore.instance().store(group="backbone", name=name, node=node)


def _options_in(value: str) -> list[str]:
    """The options in the value of ``GROUP=VALUE``: one, several of a sweep, or a list."""
    if "(" in value and not value.startswith("choice("):
        return []  # another sweep function of Hydra, such as glob
    return [word.strip("'\" ") for word in value.removeprefix("choice(").strip("()[]").split(",")]


# The texts.


def help_text(name: str, words: Sequence[str] = ()) -> str:
    """The output of ``python NAME.py --help WORDS``: the overview, or the given groups (``data``) and choices
    (``data=coco``). Other options among them (``seed=1``, ``data.root=DIR``) are ignored.

    Raises ``InputError`` for an unknown group or option.
    """
    asked = []
    for before, word in zip(["", *words], words, strict=False):
        group, equals, value = word.lstrip("+").partition("=")
        if word.startswith(("-", "~")) or before in WITH_VALUE:
            continue
        if group not in groups():
            if not equals:
                raise InputError(f"unknown group {word!r}; {did_you_mean(word, groups())}")
        elif name == "eval" and group in FROM_CHECKPOINT:
            raise InputError(f"{group} comes from the checkpoint in an evaluation; python train.py --help {word}")
        elif equals:
            asked += [_help_choice(name, group, option) for option in _options_in(value)]
        else:
            asked.append(_help_group(name, group))
    return "\n\n".join(asked) if asked else _overview(name)


def _overview(name: str) -> str:
    keys = read_nodes((CONFIGS / f"{name}.yaml").read_text())
    keys.pop("hydra", None)
    listed = [default.group for default in defaults(name) if default.comment]
    parts = [
        COMMANDS[name],
        "GROUP=OPTION chooses an option (* marks the default), KEY=VALUE sets a value. Groups:",
        *(_help_group(name, group) for group in listed),
        "Keys (those of a group are GROUP.KEY=VALUE, such as data.batch_size=16; --help GROUP=OPTION lists them):",
        "\n".join(f"  {line}" for line in show_nodes(keys).splitlines()),
        MORE.format(name=name, example=EXAMPLES[name]),
    ]
    return "\n\n".join(parts)


def _help_group(name: str, group: str) -> str:
    chosen = next((default for default in defaults(name) if default.group == group), Default(group, "", ""))
    rows = {option + " *" * (option == chosen.option): line for option, line in options(group, name).items()}
    if group == "backbone":
        rows["NAME"] = "or any timm name with feature maps, such as convnext_tiny"
    width = max(map(len, rows))
    title = f"{group}: {chosen.comment}".rstrip()
    return "\n".join([title, *(f"  {option:<{width}}  {line}" for option, line in rows.items())])


def _help_choice(name: str, group: str, option: str) -> str:
    known = options(group, name if group == "experiment" else "")
    if group == "backbone" and option != "auto":
        return _help_backbone(option)
    if option not in known:
        raise InputError(f"unknown {group} {option!r}; {did_you_mean(option, known)}")
    choice = read_choice(group, option)
    if name == "eval":
        chooses = {other: choice for other, choice in choice.chooses.items() if other not in FROM_CHECKPOINT}
        choice = choice._replace(chooses=chooses, nodes=_effective(choice.nodes, ""))
    chosen = " ".join(f"{other}={name}" for other, name in choice.chooses.items())
    parts = ["\n".join([f"{group}={option}", *choice.header])]
    parts += [f"chooses {chosen}"] if chosen else []
    parts += [show_nodes(choice.nodes)] if choice.nodes else []
    return "\n\n".join(parts)


def _effective(nodes: dict[str, Node], prefix: str) -> dict[str, Node]:
    """Keys without those that have no effect in an evaluation."""
    kept = {}
    for key, node in nodes.items():
        if f"{prefix}{key}" in TRAINING_ONLY or (not prefix and key in FROM_CHECKPOINT):
            continue
        value = _effective(node.value, f"{prefix}{key}.") if isinstance(node.value, dict) else node.value
        if value != {}:
            kept[key] = replace(node, value=value)
    return kept


def _help_backbone(name: str) -> str:
    close = "" if name in ARCHITECTURES else did_you_mean(name, ARCHITECTURES, " ")
    spec = ARCHITECTURES.get(name) or {
        "about": f"A network of timm, if it has this name {f'({close})' if close.strip() else ''}".rstrip(),
        "body": name,
        **DEFAULT_ARCHITECTURE,
    }
    made = {
        key: spec[key]
        for key in ("body", "options", "neck", "head_channels", "head_start", "head_tower")
        if key in spec
    }
    nodes = {
        "name": Node(name),
        "neck": Node("null", "# null: as below; {name: deconv}, {name: dla_up, channels: 64}, {bilinear: all}"),
        "head_channels": Node("null", "# width of the heads' hidden layer; null: as below"),
        "head_tower": Node("null", "# hidden layers that all heads share, instead of one each; null: as below"),
    }
    shown = yaml.safe_dump(made, sort_keys=False, default_flow_style=None, width=100)
    lines = "\n".join(f"  {line}" for line in shown.splitlines())
    return f"backbone={name}\n{spec['about']}\n\n{show_nodes({'backbone': Node(nodes)})}\n\nmade of:\n{lines}"


def show_nodes(nodes: dict[str, Node]) -> str:
    """Keys as YAML, with aligned comments."""
    rows = list(_rows(nodes, ""))
    width = max((len(left) for left, comment in rows if comment and len(left) <= 44), default=0)
    return "\n".join(f"{left:<{width}}  {comment}".rstrip() for left, comment in rows)


def _rows(nodes: dict[str, Node], indent: str) -> Iterator[tuple[str, str]]:
    for number, (key, node) in enumerate(nodes.items()):
        if number and not indent and node.above:
            yield "", ""
        yield from ((indent + line, "") for line in node.above)
        if isinstance(node.value, dict):
            yield f"{indent}{key}:", node.comment
            yield from _rows(node.value, indent + "  ")
        else:
            yield f"{indent}{key}: {node.value}".rstrip(), node.comment
