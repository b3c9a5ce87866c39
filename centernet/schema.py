"""What every key of the configuration may hold: its type, its range, its choices.

Checked before anything heavy is imported, so a mistake is answered at once, in one sentence: the key, its value, what
is allowed. A node that names a class of somebody else (``_target_``) may have any other keys; so may tasks and terms,
whose constructors know their options.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union

import annotated_types
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from centernet.errors import InputError, propose

MISSING = "???"
"""How a configuration marks a value that has to be given."""


def _ordered(pair: list[float]) -> list[float]:
    if pair[0] > pair[1]:
        raise ValueError
    return pair


def _some_time(given: str) -> str:
    if not given.strip("0:"):
        raise ValueError
    return given


# Kinds of values. A text in an annotation says what is allowed where the type alone does not.

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Within1 = Annotated[float, Field(gt=0, lt=1)]
Bits = Annotated[int, Field(ge=8, le=16)]
Auto = Literal["auto"]
Text = Annotated[str, "text"]
Place = Annotated[str, "a path (a number as ./2017)"]
Size = Annotated[list[Count], Field(min_length=2, max_length=2), "[height, width] in pixels"]
Range = Annotated[
    list[Positive],
    Field(min_length=2, max_length=2),
    AfterValidator(_ordered),
    "a range of numbers above 0, such as [0.5, 2]",
]
Mode = Literal["fit", "keep", "stretch", "width"]
Loss = Literal["l1", "smooth_l1"]
Options = Annotated[dict[str, Any], "options {KEY: VALUE, ...}"]
Names = Annotated[list[str | None], "a list of names"]
# Batches: so many of them, or this share of all.
Some = Annotated[Whole | Share, "a number of batches, or a fraction of them from 0.0 to 1.0"]


class Node(BaseModel):
    """The keys of one node; others are mistakes."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Open(BaseModel):
    """The keys of a node that may have others, which somebody else checks."""

    model_config = ConfigDict(strict=True, extra="allow")


# Data.


class Color(Node):
    """Of ``centernet.data.transforms.ColorJitter``."""

    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.4
    hue: Annotated[float, Field(ge=0, le=180)] = 0
    lighting: NotNegative = 0.1
    p: Share = 1.0


class NoWarp(Open):
    """What all augmentations have. Without a warp, the options of one have no effect and may stay."""

    warp: Literal["crop", "jitter", "stretch", "zoom"] | None = None
    color: Color | None = None
    blur: Share = 0
    noise: Share = 0
    visible_boxes: bool = False
    mosaic: Share = 0
    mixup: Share = 0
    copy_paste: Share = 0
    clean: Share = 0


class Warp(NoWarp):
    """What all warps have."""

    model_config = ConfigDict(extra="forbid")
    flip: Share = 0.5


class Crop(Warp):
    """Of ``RandomCropWarp``."""

    scales: Annotated[list[Positive], Field(min_length=1), "a list of numbers above 0"] = [1.0]
    border: Whole = 128


class Jitter(Warp):
    """Of ``JitterWarp``."""

    scale: Below1 = 0.4
    shift: NotNegative = 0.1
    p_jitter: Share = 1.0
    fill: Literal["whole", "width"] = "whole"


class Stretch(Warp):
    """Of ``StretchWarp``."""

    short_sides: Annotated[list[Positive], Field(min_length=1), "a list of sides in pixels"] = [512]
    distortion: Range = [0.4, 1.6]
    shift: NotNegative = 0.2
    rotation: Annotated[float, Field(ge=0, le=180)] = 0


class Zoom(Warp):
    """Of ``ZoomWarp``."""

    scale: Range = [0.5, 1.6]
    aspect: Range = [0.8, 1.25]
    rotation: Annotated[float, Field(ge=0, le=180)] = 0


WARPS: dict[Any, type[NoWarp]] = {"crop": Crop, "jitter": Jitter, "stretch": Stretch, "zoom": Zoom}


class Data(Open):
    """What all data modules of this package have (``CenterNetDataModule``)."""

    target_: Text | None = Field(None, alias="_target_")
    root: Place | None = None
    resolution: Size | Count | Auto | None = None
    batch_size: Count | Auto = 32
    eval_batch_size: Count | None = None
    num_workers: Whole | None = None
    augment: dict[str, Any] | None = None  # the node `augment`
    test_mode: Mode = "fit"
    divisor: Count = 32
    on_bad_image: Literal["error", "skip"] = "error"
    bit_depth: Bits | None = None
    cache: Literal["auto", "ram", "disk", "none"] = "auto"
    limit: Count | None = None
    skip_empty: bool = False
    validate_on: Literal["val", "train"] = "val"
    seed: Whole = 0


class Drawn(Data):
    """Of the built-in data besides (``centernet.data.builtin.drawing.DrawnData``)."""

    train_count: Count = 400
    val_count: Count = 100
    draw_seed: Whole = 0


class Coco(Data):
    """Of ``CocoDataModule``."""

    model_config = ConfigDict(extra="forbid")
    train_annotations: Place | None = None
    train_images: Place | None = None
    val_annotations: Place | None = None
    val_images: Place | None = None
    prefix: Text = "instances"
    joints: Options | None = None


class Kitti(Data):
    """Of ``KittiDataModule``."""

    model_config = ConfigDict(extra="forbid")
    train_split: Place = "train"
    val_split: Place = "val"
    splits: Place | None = None
    class_names: Annotated[list[str], "a list of names"] = []


class DrawnCoco(Coco, Drawn):
    """Built-in data in COCO's format."""

    model_config = ConfigDict(extra="forbid")


class DrawnKitti(Kitti, Drawn):
    """Built-in data in KITTI's format."""

    model_config = ConfigDict(extra="forbid")


class CheckpointData(Node):
    """What replaces the data of a checkpoint (configs/data/checkpoint.yaml)."""

    root: Place | None = None
    val_annotations: Place | None = None
    val_images: Place | None = None
    joints: Options | None = None
    val_split: Place | None = None
    splits: Place | None = None
    bit_depth: Bits | None = None
    eval_batch_size: Count | None = None
    num_workers: Whole | None = None
    limit: Count | None = None


_BUILT_IN = "centernet.data.builtin"
DATA: dict[Any, type[BaseModel]] = {
    None: CheckpointData,
    "centernet.data.coco.CocoDataModule": Coco,
    "centernet.data.kitti.KittiDataModule": Kitti,
    f"{_BUILT_IN}.shapes.ShapesDataModule": DrawnCoco,
    f"{_BUILT_IN}.figures.FiguresDataModule": DrawnCoco,
    f"{_BUILT_IN}.cuboids.CuboidsDataModule": DrawnKitti,
}


# The model and its training.


class Backbone(Node):
    """A network (``network_spec``)."""

    name: Text
    neck: Annotated[dict[str, Any] | str, "a neck, such as {name: deconv}"] | None = None
    head_channels: Annotated[Count | dict[str, Any], "a whole number of at least 1"] | None = None
    head_tower: Whole | None = None
    head_start: Text | None = None
    body: Text | None = None
    options: Options | None = None


class Term(Open):
    """The options that terms have in common, or that only one of them has (``centernet.tasks.terms``)."""

    weight: NotNegative = 1.0
    supervise: Literal["center", "dense"] = "center"
    per_class: bool = False
    size_weight: NotNegative = 0
    offset_weight: NotNegative = 0
    quality: Below1 = 0
    quality_weight: NotNegative = 1.0
    share: Below1 = 0
    focal: Positive | Literal["data"] | None = None
    means: Annotated[list[Any] | Literal["data"], "[h, w, l] in meters of each class, or data"] | None = None
    ground: Annotated[list[Any] | Literal["data"], "[height, deviation] in meters, or data"] | None = None


class Heatmap(Term):
    """Of terms with peaks."""

    loss: Literal["focal", "mse"] = "focal"
    radius: Literal["centernet", "cornernet", "proportional"] = "centernet"
    min_overlap: Within1 = 0.7
    crowds: Literal["ignore", "objects"] = "ignore"
    margin: Whole = 1
    max_detections: Count = 100
    extent: Positive = 0.54
    center: Literal["cell", "block"] = "cell"
    ignore: Literal["gaussian", "region"] = "gaussian"
    max_depth: Positive = 65.0


class Value(Term):
    """Of terms with values."""

    loss: Loss = "l1"


class Box(Term):
    """Of boxes that are trained by their overlap."""

    loss: Literal["giou", "iou", "diou", "ciou"] = "giou"


class Task(Open):
    """The terms of this package by their names, and the options of tasks; a task of one's own may have others."""

    name: Text
    pad_objects: Count | None = None
    unlabeled: Literal["center", "box"] = "center"
    heatmap: Heatmap = Heatmap()
    box: Box = Box()
    size: Value | None = None
    offset: Value | None = None
    joints: Value = Value()
    joint_heatmap: Heatmap | None = None
    joint_offset: Value | None = None
    depth: Term = Term()
    bottom: Term = Term()
    dimensions: Term = Term()
    rotation: Term = Term()
    offset_3d: Value = Value()


class Metric(Open):
    """Of the metrics of this package; a task of one's own may have another one."""

    backend: Literal["faster-coco-eval", "pycocotools"] | None = None
    overlap: Literal["official", "relaxed"] | None = None


class Schedule(Node):
    """Of ``centernet.schedule.Schedule``."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Positive = 1.25e-4
    lr_batch_size: Count | None = 32
    epochs: Count | Auto = 140
    decay: Literal["step", "cosine", "flat_cosine", "constant"] = "step"
    milestones: Annotated[list[NotNegative], "a list of epochs, such as [90, 120]"] = []
    gamma: Positive = 0.1
    min_lr_ratio: Share = 0.01
    flat: Share = 0.5
    warmup_epochs: NotNegative = 0
    warmup_factor: Share = 0.01
    weight_decay: NotNegative = 0
    momentum: Below1 = 0.9
    backbone_lr_factor: Factor | Auto = 1.0
    layer_decay: Factor = 1.0
    freeze_epochs: Whole = 0


class Trainer(Open):
    """Options of Lightning's Trainer that the configuration names, and of ours (``build.TRAINER_EXTRAS``)."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Annotated[
        Count | Literal[-1] | Auto | list[Whole] | Annotated[str, Field(pattern=r"^-?\d+(,\d+)*$")],
        "a number of devices, -1 or auto for all, or a list of their numbers",
    ] = 1
    num_nodes: Count = 1
    strategy: Text = "auto"
    sync_batchnorm: bool = False
    max_epochs: Annotated[Count | Literal[-1, "auto"], "a whole number of at least 1, or -1 for no limit"] | None = None
    max_steps: Annotated[Count | Literal[-1], "a whole number of at least 1, or -1 for no limit"] = -1
    max_time: (
        Annotated[
            str,
            Field(pattern=r"^\d+:\d+:\d+:\d+$"),
            AfterValidator(_some_time),
            "a time as days:hours:minutes:seconds, such as 00:00:20:00 for twenty minutes",
        ]
        | None
    ) = None
    limit_train_batches: Some | None = None
    limit_val_batches: Some | None = None
    overfit_batches: Some = 0
    val_check_interval: Annotated[Count | Factor, "a number of batches, or a fraction of an epoch"] | None = None
    check_val_every_n_epoch: Count | None = 1
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] = 0
    gradient_clip_val: NotNegative | None = None
    accumulate_grad_batches: Count | Auto = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] | None = None
    matmul_precision: Literal["high", "highest", "medium"] = "high"
    compile: bool = False
    deterministic: Annotated[bool | Literal["warn"], "true, false or warn"] | None = False
    benchmark: bool | None = None
    log_every_n_steps: Whole = 10
    enable_model_summary: bool = False
    fast_dev_run: Annotated[bool | Whole, "true, false or a number of batches"] = False


class Average(Open):
    """Of ``AverageWeights``."""

    decay: Within1 | None = None


class Early(Open):
    """Of ``StopEarly``."""

    patience: Count | None = None
    min_delta: NotNegative = 0


class Top(Open):
    """Of ``TopCheckpoints``."""

    count: Whole | None = None


class Pictures(Open):
    """Of ``Pictures``."""

    count: Whole = 8
    every: Count = 5
    threshold: Share | None = None


class Dashboard(Open):
    """Of ``Dashboard``."""

    classes: Whole = 20


class Interrupt(Open):
    """Of ``SaveOnInterrupt``."""

    minutes: Positive | None = None


class Profile(Open):
    """Of ``centernet.callbacks.profile.Profile``."""

    warmup: Whole = 10
    steps: Count = 20
    traced: Whole = 3


class Callbacks(Open):
    """The callbacks of this package; others may be added."""

    average: Average | None = None
    early_stopping: Early | None = None
    top: Top | None = None
    pictures: Pictures | None = None
    dashboard: Dashboard | None = None
    interrupt: Interrupt | None = None
    profile: Profile | None = None


class Logger(Open):
    """What the loggers of this package have."""

    offline: bool = True
    project: Text = "centernet"
    tags: Names = []
    log_model: bool = False
    timeout: Positive = 30


class Paths(Open):
    """Folders; other places may be added, to be referred to."""

    data: Place = "data"
    runs: Place = "runs"
    run: Place | None = None


class Recipe(Open):
    """What the data recommends, for others to refer to; more may be added."""

    resolution: Size | Count | Auto = "auto"
    normalization: Text = "coco"
    pretrained: bool | Auto | Text = "auto"
    backbone: Text = "auto"
    epochs: Count | Auto = "auto"
    lr: Positive = 1.25e-4
    lr_batch_size: Count | None = 32


class Tune(Node):
    """What is found before training."""

    lr: bool = False
    batch_size: bool = False


class Command(Node):
    """What both commands have. The nodes ``augment`` and ``data`` have kinds of their own."""

    ckpt: Place | None = None
    paths: Paths = Paths()
    metric: Metric = Metric()
    logger: Logger | None = None


class Train(Command):
    """configs/train.yaml"""

    seed: Annotated[int, Field(ge=0, lt=2**32), "a whole number from 0 to 4294967295"] = 0
    recipe: Recipe = Recipe()
    resolution: Size | Count | Auto
    task: Task
    backbone: Backbone
    augment: dict[str, Any]
    schedule: Schedule
    normalization: Literal["coco", "imagenet", "imagenet_swapped"] | None = None
    pretrained: Annotated[bool | str, "true, false, auto or a weight file"] = "auto"
    teacher: Place | None = None
    teacher_weight: NotNegative = 1.0
    label: Annotated[str | int | float, "a name"] | None = None
    tune: Tune = Tune()
    evaluate: bool = True
    callbacks: Callbacks | None = None
    # After what they refer to, so that a mistake is found where it was made.
    trainer: Trainer
    data: dict[str, Any]


class Eval(Command):
    """configs/eval.yaml"""

    resolution: Size | Count | None = None
    test_mode: Mode | None = None
    pictures: Whole = 8
    trainer: Trainer
    data: dict[str, Any]


COMMANDS: dict[str, type[Command]] = {"train": Train, "eval": Eval}


def check(command: str, config: Mapping[str, Any], known: Iterable[str] = ()) -> None:
    """Raise ``InputError`` for the first value of a resolved configuration that is not possible, or a key that nothing
    reads. ``known``: all keys, for proposals."""
    _require_values(config)
    _check(COMMANDS[command], config, (), known)
    if "augment" in config:
        warp = config["augment"].get("warp")
        _check(WARPS.get(warp, NoWarp) if isinstance(warp, str) else NoWarp, config["augment"], ("augment",), known)
    target = config["data"].get("_target_")
    _check(DATA.get(target, Data) if isinstance(target, str | None) else Data, config["data"], ("data",), known)


def _require_values(node: Any, *path: str) -> None:
    if node == MISSING:
        raise InputError(f"{'.'.join(path)} has no value; set {'.'.join(path)}=VALUE")
    if isinstance(node, Mapping):
        for key, value in node.items():
            _require_values(value, *path, str(key))


def _check(model: type[BaseModel], node: Mapping[str, Any], path: tuple[str, ...], known: Iterable[str]) -> None:
    try:
        model.model_validate(node)
    except ValidationError as failure:
        error = failure.errors(include_url=False, include_context=False)[0]
        raise InputError(_sentence(model, node, path, error, known)) from None


def _sentence(
    model: type[BaseModel], node: Mapping[str, Any], path: tuple[str, ...], error: Any, known: Iterable[str]
) -> str:
    """What is wrong and what to do, for an error of pydantic."""
    kind: Any = model
    # As far as keys lead; below a value, pydantic names the members of its type.
    for step in error["loc"]:
        fields = _fields(kind)
        if step not in fields and error["type"] != "extra_forbidden":
            break
        path = (*path, str(step))
        if step not in fields:
            break
        kind, node = fields[step], node.get(step, MISSING) if isinstance(node, Mapping) else node
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        if len(path) > 1:  # what this node can have, rather than what it happens to have
            known = [".".join((*path[:-1], name)) for name in _fields(kind)]
        return f"{key} is unknown; {propose(key, known)}"
    if node == MISSING:
        return f"{key} is missing; set {key}=VALUE"
    return f"{key}={show(node)} is not possible; give {describe(kind)}"


def _fields(kind: Any) -> dict[str, Any]:
    """The kinds of the keys below a key of this kind, if there are any."""
    for model in (kind, *typing.get_args(kind)):
        if isinstance(model, type) and issubclass(model, BaseModel):
            hints = typing.get_type_hints(model, include_extras=True)
            return {field.alias or name: hints[name] for name, field in model.model_fields.items()}
    return {}


def show(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(show(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# What is allowed, in words.


def describe(kind: Any) -> str:
    """What a kind of value allows."""
    return _listed(list(dict.fromkeys(_words(kind))))


def _listed(words: list[str]) -> str:
    if len(words) == 1:
        return words[0]
    return ", or ".join(words) if any(" " in word for word in words) else f"{', '.join(words[:-1])} or {words[-1]}"


def _words(kind: Any) -> list[str]:
    origin = typing.get_origin(kind)
    if origin is Annotated:
        inner, *notes = typing.get_args(kind)
        if said := [note for note in notes if isinstance(note, str)]:
            return [said[0]]
        bounds = [one for note in notes for one in (note.metadata if hasattr(note, "metadata") else [note])]
        return [_number(inner, bounds)] if inner in (int, float) else _words(inner)
    if origin in (Union, types.UnionType):
        # null last
        return [word for part in sorted(typing.get_args(kind), key=_is_none) for word in _words(part)]
    if origin is Literal:
        return [show(value) for value in typing.get_args(kind)]
    if origin is list:
        return [f"a list of {_listed(_words(typing.get_args(kind)[0]))}"]
    if _is_none(kind):
        return ["null"]
    simple = {bool: ["true", "false"], str: ["text"], int: ["a whole number"], float: ["a number"]}
    return simple.get(kind, ["options {KEY: VALUE, ...}"])


def _is_none(kind: Any) -> bool:
    return kind is type(None)


def _number(kind: type, bounds: Iterable[Any]) -> str:
    """A range of numbers in words."""
    least = above = -math.inf
    most = below = math.inf
    for bound in bounds:
        least = bound.ge if isinstance(bound, annotated_types.Ge) else least
        above = bound.gt if isinstance(bound, annotated_types.Gt) else above
        most = bound.le if isinstance(bound, annotated_types.Le) else most
        below = bound.lt if isinstance(bound, annotated_types.Lt) else below
    name = "a whole number" if kind is int else "a number"
    if math.isfinite(least) and math.isfinite(most):
        return f"{name} from {least:g} to {most:g}"
    words = [
        f"{word} {bound:g}"
        for word, bound in (("of at least", least), ("above", above), ("of at most", most), ("below", below))
        if math.isfinite(bound)
    ]
    return " ".join([name, " and ".join(words)]).strip()
