"""Contents of checkpoints of the two original repositories: names of tensors, heads, tasks, classes, colors.

xingyizhou/CenterNet (Objects as Points) and PingoLH/CenterNet-HarDNet. Facts only; ``convert.py`` applies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from centernet.joints import COCO_JOINTS


@dataclass(frozen=True)
class Family:
    """Tensor names of one kind of network.

    ``renames``: (pattern, replacement) pairs for ``re.sub``, all applied in this order; ``unused``: patterns of tensors
    that the original stores but does not use; ``first``: our name of the first convolution; ``task``: the task that
    boxes were published with.
    """

    renames: tuple[tuple[str, str], ...]
    first: str
    unused: tuple[str, ...] = ()
    stacked_heads: bool = False
    task: str = "ctdet"


def _numbered(word: str, ours: str, last: int = 3) -> tuple[tuple[str, str], ...]:
    """``word_1`` to ``ours.0`` and so on: the originals count from 1."""
    return tuple((rf"\b{word}_{n}\b", f"{ours}.{n - 1}") for n in range(1, last + 1))


_OURS = "backbone.body.model."  # our backbones are wrapped in timm's feature getter

FAMILIES: dict[str, Family] = {
    "resnet": Family(
        renames=(
            (r"^(conv1|bn1|layer[1-4])\.", r"backbone.body.\1."),
            (r"^deconv_layers\.", "neck.layers."),
        ),
        first="backbone.body.conv1.weight",
    ),
    "dla": Family(
        renames=(
            (r"^base\.", "backbone.body."),
            (r"^dla_up\.ida_(\d)\.", r"neck.steps.\1."),
            (r"^ida_up\.", "neck.last."),
            *_numbered("proj", "project"),
            *_numbered("node", "node"),
            *_numbered("up", "up"),
            # A deformable block is {conv, actf: [batch norm, ReLU]} there and a sequence of the three here.
            (r"^(neck\..*)\.conv\.", r"\1.0."),
            (r"\.actf\.0\.", ".1."),
        ),
        first="backbone.body.base_layer.0.weight",
        # The ImageNet classifier, and the shortcuts of aggregation nodes whose inner trees have their own.
        unused=(r"base\.fc\.(weight|bias)", r"base\.level[34]\.project\..+"),
    ),
    "hourglass": Family(
        renames=(
            (r"^pre\.", f"{_OURS}stem."),
            (r"^kps\.", f"{_OURS}hourglasses."),
            (r"^cnvs\.", f"{_OURS}out."),
            (r"^inters\.", f"{_OURS}between."),
            (r"^inters_\.", f"{_OURS}from_input."),
            (r"^cnvs_\.", f"{_OURS}from_output."),
            (r"\bup1\.", "stay."),
            (r"\blow1\.", "down."),
            (r"\blow2\.", "inner."),
            (r"\blow3\.", "up."),
            (r"\bskip\.", "shortcut."),
            (r"\.conv\.", ".0."),
            (r"\.bn\.", ".1."),
        ),
        first=f"{_OURS}stem.0.0.weight",
        stacked_heads=True,
    ),
    "hardnet": Family(
        renames=(
            (r"^base\.([01])\.", rf"{_OURS}stem.\1."),
            # The list of blocks, transitions and pools is cut into stages here, each from its transition on.
            (r"^base\.3\.", f"{_OURS}stages.0.1."),
            *((rf"^base\.{n}\.", f"{_OURS}stages.1.{n - 4}.") for n in (4, 6, 7, 8)),
            *((rf"^base\.{n}\.", f"{_OURS}stages.2.{n - 9}.") for n in (9, 11, 12, 13)),
            (r"^last_proj\.", "neck.project.0."),
            (r"^last_blk\.", "neck.bottom."),
            (r"^denseBlocksUp\.", "neck.blocks."),
            (r"^conv1x1_up\.", "neck.merges."),
            (r"\.conv\.", ".0."),
            (r"\.norm\.", ".1."),
        ),
        first=f"{_OURS}stem.0.0.weight",
        task="ctdet_dense",
    ),
}

# Ours -> (the original's name, family). ResNet-34 has no published weights, but the original can train it.
NETWORKS: dict[str, tuple[str, str]] = {
    "resnet18": ("res_18", "resnet"),
    "resnet34": ("res_34", "resnet"),
    "resnet101": ("res_101", "resnet"),
    "resdcn18": ("resdcn_18", "resnet"),
    "resdcn101": ("resdcn_101", "resnet"),
    "dlav0_34": ("dlav0_34", "dla"),
    "dla34": ("dla_34", "dla"),
    "hourglass104": ("hourglass", "hourglass"),
    "hardnet68": ("hardnet_68", "hardnet"),
    "hardnet85": ("hardnet_85", "hardnet"),
}


def published_task(network: str) -> str:
    """The task for boxes that a network (ours by name, or any of timm's) was published with."""
    return FAMILIES[NETWORKS[network][1]].task if network in NETWORKS else "ctdet"


HEADS: dict[str, str] = {
    "hm": "heatmap",
    "wh": "size",
    "reg": "offset",
    "hps": "joints",
    "hm_hp": "joint_heatmap",
    "hp_offset": "joint_offset",
    "dep": "depth",
    "rot": "rotation",
    "dim": "dimensions",
    "hm_t": "top",
    "hm_l": "left",
    "hm_b": "bottom",
    "hm_r": "right",
    "hm_c": "center",
    "reg_t": "top_offset",
    "reg_l": "left_offset",
    "reg_b": "bottom_offset",
    "reg_r": "right_offset",
}

CLASSES = -1
"""Stands for the number of classes in ``TASKS``."""


@dataclass(frozen=True)
class Layout:
    """The heads of a task, by our names: channels of each (several where the original has options), and which may lack.

    ``classes``: the head whose channels are the classes. A negative number of channels is that multiple of them; no
    number means any. ``wide``: the options of a head that has more channels than the first choice; ``narrow``: the
    task's options where a head has fewer; ``renamed``: heads with another name in this project's task.
    ``normalization``: of the colors (see ``NORMALIZATIONS``); ``tested``: resolution and mode of the published numbers,
    if not the default.
    """

    classes: str
    channels: dict[str, tuple[int, ...]]
    optional: frozenset[str] = field(default_factory=frozenset)
    wide: dict[str, dict[str, Any]] = field(default_factory=dict)
    narrow: dict[str, dict[str, Any]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    normalization: str = "coco"
    tested: tuple[list[int], str] | None = None


_EXTREMES = ("top", "left", "bottom", "right")

# The first that fits is taken.
TASKS: dict[str, Layout] = {
    "ctdet_dense": Layout("heatmap", {"heatmap": (CLASSES,), "size": (4,)}, renamed={"size": "box"}),
    "ctdet": Layout(
        "heatmap",
        {"heatmap": (CLASSES,), "size": (2, 2 * CLASSES), "offset": (2,)},
        optional=frozenset({"offset"}),
        wide={"size": {"per_class": True}},
    ),
    "multi_pose": Layout(
        "heatmap",
        {
            "heatmap": (CLASSES,),
            "size": (2,),
            "joints": (),
            "offset": (2,),
            "joint_heatmap": (),
            "joint_offset": (2,),
        },
        optional=frozenset({"offset", "joint_heatmap", "joint_offset"}),
    ),
    "ddd": Layout(
        "heatmap",
        {
            "heatmap": (CLASSES,),
            "depth": (1,),
            "rotation": (8,),
            "dimensions": (3,),
            "size": (2,),
            "offset": (2,),
        },
        optional=frozenset({"size", "offset"}),
        normalization="imagenet_swapped",
        tested=([384, 1280], "width"),
    ),
    "exdet": Layout(
        "center",
        {
            # One channel: class-agnostic extreme points.
            **dict.fromkeys(_EXTREMES, (CLASSES, 1)),
            "center": (CLASSES,),
            **{f"{name}_offset": (2,) for name in _EXTREMES},
        },
        optional=frozenset(f"{name}_offset" for name in _EXTREMES),
        narrow={"top": {"agnostic": True}},
        renamed={"center": "heatmap"},
    ),
}

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
KITTI_CLASSES = ("Pedestrian", "Car", "Cyclist")

# Class names of published checkpoints by task and number of classes, in channel order.
CLASS_NAMES: dict[tuple[str, int], tuple[str, ...]] = {
    ("ctdet", 80): COCO_CLASSES,
    ("ctdet_dense", 80): COCO_CLASSES,
    ("exdet", 80): COCO_CLASSES,
    ("ctdet", 20): VOC_CLASSES,
    ("ctdet_dense", 20): VOC_CLASSES,
    ("multi_pose", 1): ("person",),
    ("ddd", 3): KITTI_CLASSES,
}

# Pascal (known by its number of classes) and KITTI were trained with ImageNet's values in RGB order on BGR images.
NORMALIZATIONS: dict[int, str] = {len(VOC_CLASSES): "imagenet_swapped"}


def tested_as(task: str, network: str, num_classes: int) -> tuple[list[int], str]:
    """How published numbers were measured: resolution (height, width) and mode; ``keep`` is the image's own
    resolution."""
    if (own := TASKS[task].tested) is not None:
        return own
    if num_classes == len(VOC_CLASSES):
        return [512, 512], "fit"
    return [512, 512], "stretch" if network == "hardnet85" else "keep"


def facts_of(channels: Mapping[str, int]) -> dict[str, Any]:
    """Facts of the data that follow from head channels: joints other than COCO's are numbered, as no file names
    them."""
    count = channels.get("joints", 0) // 2
    return {} if count in (0, len(COCO_JOINTS)) else {"joints": {"names": [f"joint_{n}" for n in range(count)]}}


def mismatch_of(channels: Mapping[str, int]) -> str | None:
    """A mismatch between related heads, by the originals' names, or None."""
    joints, heatmap = channels.get("joints", 0), channels.get("joint_heatmap")
    if heatmap is None or 2 * heatmap == joints:
        return None
    return f"head hps has {joints} channels, which is not twice the {heatmap} joints of head hm_hp"
