"""What every key of the configuration may hold: its type, its range, its choices.

Checked before anything heavy is imported, so a mistake is answered at once, in one sentence. A node that names a class
of somebody else (``_target_``) may have any other keys; so may tasks and terms, whose constructors know their options.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from centernet.data_schema import DATA, WARPS, Data, NoWarp
from centernet.errors import InputError
from centernet.kinds import (
    MISSING,
    Auto,
    Below1,
    Count,
    Factor,
    Loss,
    Mode,
    Names,
    Node,
    NotNegative,
    Open,
    Options,
    Place,
    Positive,
    Share,
    Size,
    Some,
    Text,
    Time,
    Whole,
    Within1,
    check_node,
)

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
    smoothing: NotNegative = 0
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
    candidates: Count = 100
    groups: Count = 1000
    min_score: Below1 = 0.1
    min_center_score: Below1 = 0.1
    aggregation: NotNegative = 0
    ghosts: Positive | None = None


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
    agnostic: bool = False
    heatmap: Heatmap = Heatmap()
    box: Box = Box()
    size: Value | None = None
    offset: Value | None = None
    joints: Value = Value()
    joint_heatmap: Heatmap | None = None
    joint_offset: Value | None = None
    top: Heatmap = Heatmap()
    left: Heatmap = Heatmap()
    right: Heatmap = Heatmap()
    top_offset: Value | None = None
    left_offset: Value | None = None
    bottom_offset: Value | None = None
    right_offset: Value | None = None
    depth: Term = Term()
    bottom: Heatmap = Heatmap()  # in one task, rows of boxes; in another, bottommost points
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
    max_time: Time | None = None
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
    checkpoint_activations: bool = False
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


class Inference(Node):
    """Of ``centernet.modes.Modes``."""

    flip: Annotated[bool | Literal["by_preset"], "true or false"] = False
    scales: Annotated[list[Positive], "a list of numbers above 0, such as [0.5, 1, 2]"] = [1.0]
    nms: Literal["soft", "linear", "plain", "none"] | None = None
    tiles: Size | Count | None = None
    overlap: Below1 = 0.2


class Published(Node):
    """How a preset's published numbers were tested."""

    flip: Annotated[bool | Literal["by_preset"], "true or false"] = "by_preset"


class Command(Node):
    """What both commands have. The nodes ``augment`` and ``data`` have kinds of their own."""

    ckpt: Place | None = None
    paths: Paths = Paths()
    metric: Metric = Metric()
    inference: Inference = Inference()
    published: Published = Published()
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
    analysis: bool = True
    oracle: Annotated[list[Text] | Text, "ladder, or a list of heads, such as [heatmap, size]"] | None = None
    trainer: Trainer
    data: dict[str, Any]


COMMANDS: dict[str, type[Command]] = {"train": Train, "eval": Eval}


def check(command: str, config: Mapping[str, Any], known: Iterable[str] = ()) -> None:
    """Raise ``InputError`` for the first value of a resolved configuration that is not possible, or a key that nothing
    reads. ``known``: all keys, for proposals."""
    _require_values(config)
    check_node(COMMANDS[command], config, (), known)
    if "augment" in config:
        warp = config["augment"].get("warp")
        check_node(WARPS.get(warp, NoWarp) if isinstance(warp, str) else NoWarp, config["augment"], ("augment",), known)
    target = config["data"].get("_target_")
    check_node(DATA.get(target, Data) if isinstance(target, str | None) else Data, config["data"], ("data",), known)


def _require_values(node: Any, *path: str) -> None:
    if node == MISSING:
        raise InputError(f"{'.'.join(path)} has no value; set {'.'.join(path)}=VALUE")
    if isinstance(node, Mapping):
        for key, value in node.items():
            _require_values(value, *path, str(key))
