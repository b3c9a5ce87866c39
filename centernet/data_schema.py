"""What the keys of data and augmentation may hold; a part of ``centernet.schema``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from centernet.kinds import (
    Auto,
    Below1,
    Bits,
    Count,
    Mode,
    Node,
    NotNegative,
    Open,
    Options,
    Place,
    Positive,
    Range,
    Share,
    Size,
    Text,
    Whole,
    Within1,
)

# Lists of images by name.
Lists = Annotated[str | list[str], "the name of a list, or [NAME, ...]"]


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
    allow_empty: bool = False
    validate_on: Literal["val", "train"] = "val"
    extreme_points: Literal["masks", "boxes"] | None = None
    seed: Whole = 0


class Drawn(Data):
    """Of the built-in data besides (``centernet.data.builtin.drawing.DrawnData``)."""

    train_count: Count = 400
    val_count: Count = 100
    draw_seed: Whole = 0


class OwnData(Data):
    """Of ``AnnotatedDataModule``."""

    joints: Options | None = None
    val_share: Within1 | None = None


class Coco(OwnData):
    """Of ``CocoDataModule``."""

    model_config = ConfigDict(extra="forbid")
    train_annotations: Place | None = None
    train_images: Place | None = None
    val_annotations: Place | None = None
    val_images: Place | None = None
    prefix: Text = "instances"


class Voc(OwnData):
    """Of ``VocDataModule``."""

    model_config = ConfigDict(extra="forbid")
    train_split: Lists | None = None
    val_split: Lists | None = None
    train_difficult: bool = True


class Yolo(OwnData):
    """Of ``YoloDataModule``."""

    model_config = ConfigDict(extra="forbid")
    yaml: Place | None = None
    val_split: Literal["train", "val", "test"] | None = None


class CreateML(OwnData):
    """Of ``CreateMLDataModule``."""

    model_config = ConfigDict(extra="forbid")


class AnyFormat(OwnData):
    """Of ``centernet.data.auto.data_module``."""

    model_config = ConfigDict(extra="forbid")
    prefix: Text = "instances"


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
    yaml: Place | None = None
    joints: Options | None = None
    val_split: Lists | None = None
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
    "centernet.data.voc.VocDataModule": Voc,
    "centernet.data.yolo.YoloDataModule": Yolo,
    "centernet.data.createml.CreateMLDataModule": CreateML,
    "centernet.data.auto.data_module": AnyFormat,
    f"{_BUILT_IN}.shapes.ShapesDataModule": DrawnCoco,
    f"{_BUILT_IN}.figures.FiguresDataModule": DrawnCoco,
    f"{_BUILT_IN}.cuboids.CuboidsDataModule": DrawnKitti,
}
