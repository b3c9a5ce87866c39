"""The KITTI object benchmark as downloaded: images, labels and calibration of single frames, no conversion.

Geiger et al., "Are we ready for Autonomous Driving?", CVPR 2012. Rows of neighboring types (Van, Truck,
Person_sitting) and DontCare become ignore regions; see ``centernet.data.kitti_format``.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from centernet.data.datamodule import CenterNetDataModule, ImageDataset
from centernet.data.images import read_sizes
from centernet.data.kitti_format import (
    CLASSES,
    DONT_CARE,
    TYPES,
    objects_of,
    parse_labels,
    read_calibration,
    read_labels,
    require_types,
    write_detections,
)
from centernet.data.kitti_splits import PUBLISHED, USUAL, FrameList, published_list, read_list
from centernet.data.transforms import seed_pipeline
from centernet.data.warps import EvalWarp
from centernet.errors import some
from centernet.ops.affine import Size, scale_of
from centernet.ops.camera import project
from centernet.structures import Detections, InputError, Objects

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg")
# The original's augmentation; see configs/augment/ddd.yaml.
AUGMENT = {"warp": "jitter", "fill": "width", "scale": 0.4, "shift": 0.1, "p_jitter": 0.5, "flip": 0.0, "color": None}
# KITTI's own images differ by 1.5 %. Depth is learned at one focal length and one image scale.
MOST_SIZE_CHANGE = 0.10
# Beyond this relative change of scale, an image no longer matches the labeled depth.
MOST_SCALE_CHANGE = 0.01


class KittiDataset(ImageDataset):
    """The frames of one list, from ``root/part/{image_2,label_2,calib}``.

    ``frames`` is a list, or a text file with one frame number per line; ``part`` is ``training``, or ``testing``, which
    has no labels. ``evaluation`` is the warp of evaluation: objects of images at another scale are marked ``rescaled``.
    ``class_names`` selects and orders KITTI's types. Raises ``InputError``, naming the frames, for anything wrong with
    the files.

    Attributes: ``class_names``, ``image_ids`` (frame numbers), ``sizes`` (height, width of each image), ``notes``.
    """

    results = "results/data/ (KITTI results, one file per frame)"

    def __init__(
        self,
        root: str | Path,
        frames: str | Path | FrameList,
        pipeline: Callable[..., Any],
        evaluation: EvalWarp,
        class_names: Sequence[str] = CLASSES,
        train: bool = False,
        part: str = "training",
        on_bad_image: str = "error",
        seed: int = 0,
    ) -> None:
        self.class_names, self.evaluation = require_types(class_names), evaluation
        frames = frames if isinstance(frames, FrameList) else read_list(frames)
        self.source, self.folder = f"{frames.source} of {root}", Path(root) / part / "image_2"
        self.notes: list[str] = []
        names = frames.frames
        files = _find(self.folder, SUFFIXES, "images", frames)
        calibrations = _find(self.folder.with_name("calib"), (".txt",), "calibration files", frames)
        projections = np.array([read_calibration(path) for path in calibrations])
        if part == "testing":
            labels = [parse_labels("", self.source)] * len(names)
        else:
            found = _find(self.folder.with_name("label_2"), (".txt",), "label files", frames)
            labels = [read_labels(path) for path in found]
        rows = [objects_of(of_frame, self.class_names) for of_frame in labels]
        types = Counter(name for of_frame in labels for name in of_frame.types.tolist())
        if unknown := {name: count for name, count in types.items() if name not in (*TYPES, DONT_CARE)}:
            listed = ", ".join(f"{count} {name}" for name, count in unknown.items())
            self.notes.append(f"{self.source}: dropped rows of types unknown to KITTI: {listed}")
        counts = np.array([len(of_frame["labels"]) for of_frame in rows])
        fields = {name: np.concatenate([of_frame[name] for of_frame in rows]) for name in rows[0]}
        fields, counts = self._complete(fields, np.repeat(np.arange(len(names)), counts), projections, names)
        there = ", ".join(f"{count} {name}" for name, count in types.items()) or "no rows"
        self.nothing_to_learn = (
            f"{self.source} has no {' or '.join(self.class_names)} to train on (it has {there}); use other frames or "
            "data.class_names"
        )
        self.image_ids = [int(name) for name in names]
        super().__init__(
            files=files,
            image_ids=self.image_ids,
            fields=fields,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            pipeline=pipeline,
            train=train,
            on_bad_image=on_bad_image,
            seed=seed,
            image_fields={"calibration": projections},
            sizes=_require_alike(files, names),
        )
        if train:
            self._note_rescaling()

    def _note_rescaling(self, draws: int = 32) -> None:
        """Add a note if augmentation rescales nearly every image, so that depth is hardly supervised."""
        size = tuple(self.sizes[0].tolist())
        seed_pipeline(self.pipeline, 0)  # every sample seeds it again
        usual = _scale(self.evaluation.matrix(size))
        changes = [_scale(self.pipeline.transforms[0].matrix(size)) / usual for _ in range(draws)]
        kept = sum(abs(change - 1) <= MOST_SCALE_CHANGE for change in changes)
        if kept < draws / 8:
            self.notes.append(
                f"{self.source}: only {kept} of {draws} random training images keep the scale of evaluation (test_mode "
                f"{self.evaluation.mode}), and the others do not supervise depth; use augment=ddd "
                "data.test_mode=width, or task.depth.focal=data to normalize depth by the focal length"
            )

    def _complete(
        self, fields: dict[str, np.ndarray], owners: np.ndarray, projections: np.ndarray, names: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Fields with ``center_3d`` and ``bottom`` and without empty boxes, and the number of rows of each image.

        ``owners``: the image of each row.
        """
        sides = fields["boxes"][:, 2:] - fields["boxes"][:, :2]
        keep = (sides > 0).all(1)
        for which, reason in (
            ((sides < 0).any(1), "of negative size"),
            ((sides >= 0).all(1) & ~keep, "without width or height"),
        ):
            if count := int(which.sum()):
                where = some(dict.fromkeys(names[owner] for owner in owners[which]))
                self.notes.append(f"{self.source}: dropped {count} boxes {reason} (frames {where})")
        fields, owners = {name: value[keep] for name, value in fields.items()}, owners[keep]
        is_solid = (fields["dimensions"] > 0).all(1)
        if (flat := ~is_solid & ~fields["crowd"]).any():
            row = int(flat.argmax())
            raise InputError(
                f"{self.source}: frame {names[owners[row]]} has a {self.class_names[fields['labels'][row]]} with "
                f"dimensions {fields['dimensions'][row].tolist()}; 3D labels need height, width and length in meters"
            )
        cameras = projections[owners]
        middle = fields["location"] - fields["dimensions"][:, :1] / 2 * [0, 1, 0]
        below = np.stack([middle, fields["location"]], 1)
        points = project(torch.from_numpy(cameras), torch.from_numpy(below)).numpy()
        is_ahead = middle[:, 2] + cameras[:, 2, 3] > 0
        if (behind := ~is_ahead & ~fields["crowd"]).any():
            # They are truncated by the image border, so the benchmark's evaluation ignores them as well.
            fields["crowd"], fields["neutral"] = fields["crowd"] | behind, fields["neutral"] | behind
            self.notes.append(f"{self.source}: ignored {int(behind.sum())} objects whose center is behind the camera")
        fields["focal"] = cameras[:, 0, 0]
        is_seen = (is_solid & is_ahead)[:, None]
        of_box = (fields["boxes"][:, :2] + fields["boxes"][:, 2:]) / 2
        fields["center_3d"], fields["bottom"] = (np.where(is_seen, points[:, n], of_box) for n in (0, 1))
        return fields, np.bincount(owners, minlength=len(names))

    def warp(self, truth: Objects, input_from_image: Tensor, image_size: Size) -> Objects:
        """Objects in input space, with ``rescaled`` set if the image's scale is not that of evaluation."""
        change = _scale(input_from_image.numpy()) / _scale(self.evaluation.matrix(image_size))
        return {
            **super().warp(truth, input_from_image, image_size),
            "rescaled": torch.full_like(truth["crowd"], abs(change - 1) > MOST_SCALE_CHANGE),
        }

    @property
    def facts(self) -> dict[str, Any]:
        """Plain data: ``mean_dimensions`` per class (h, w, l in meters; the mean of all for a class without objects),
        ``ground``, mean and standard deviation of the camera's height above the objects' bottoms (meters), and
        ``focal``, the mean focal length in input pixels at evaluation."""
        scales = {size: _scale(self.evaluation.matrix(size)) for size in {tuple(size) for size in self.sizes.tolist()}}
        focals = self.image_fields["calibration"][:, 0, 0].tolist()
        sizes = self.sizes.tolist()
        focal = float(np.mean([f * scales[tuple(size)] for f, size in zip(focals, sizes, strict=True)]))
        facts = {**super().facts, "focal": focal}
        is_object = ~self.fields["crowd"]
        if is_object.any():
            labels, dimensions = self.fields["labels"][is_object], self.fields["dimensions"][is_object]
            means = [
                (dimensions[labels == label] if (labels == label).any() else dimensions).mean(0).tolist()
                for label in range(len(self.class_names))
            ]
            facts["mean_dimensions"] = means
            height = self.fields["location"][is_object, 1]
            facts["ground"] = [float(height.mean()), float(height.std())]
        return facts

    def write_results(self, folder: str | Path, detections: Mapping[int, Detections]) -> Path:
        """Write ``folder/results/data/NNNNNN.txt`` for every frame, as the benchmark's tool and server expect.

        ``detections``: by frame number, in image and camera space; frames without detections get an empty file. Fields
        that the task does not predict are written as unknown. Returns the folder.
        """
        place = Path(folder) / "results" / "data"
        place.mkdir(parents=True, exist_ok=True)
        for frame, (height, width) in zip(self.ids.tolist(), self.sizes.tolist(), strict=True):
            found = detections.get(frame) or {"boxes": torch.zeros(0, 4), "labels": [], "scores": torch.zeros(0)}
            types = [self.class_names[label] for label in found["labels"]]
            write_detections(place / f"{frame:06d}.txt", types, found, (height, width))
        return place


class KittiDataModule(CenterNetDataModule):
    """Train and val splits of the KITTI object benchmark below ``root``.

    ``train_split`` and ``val_split`` name lists in ``root/ImageSets`` (``train`` for ``train.txt``) or are paths of
    text files; ``splits`` is another folder with such lists, or a published division of the whole benchmark, ``3dop``
    (used where there is no ``ImageSets``) or ``subcnn``. Paths that do not exist are taken relative to ``root``. The
    list ``test`` holds frames of ``root/testing``, which have no labels. ``augment`` and ``test_mode`` default to
    the original's for this data. Other options: ``CenterNetDataModule``.
    """

    own_data_command = "data=kitti data.root=YOUR_DATA"

    def __init__(
        self,
        root: str | Path | None = None,
        train_split: str | Path = "train",
        val_split: str | Path = "val",
        splits: str | Path | None = None,
        class_names: Sequence[str] = CLASSES,
        resolution: Sequence[int] = (384, 1280),
        augment: Mapping[str, Any] | None = None,
        test_mode: str = "width",
        **options: Any,
    ) -> None:
        super().__init__(resolution=resolution, augment=augment or AUGMENT, test_mode=test_mode, **options)
        if self.augment.get("rotation"):
            raise InputError(
                f"augment.rotation={self.augment['rotation']} is not supported with 3D labels; set augment.rotation=0"
            )
        for name, share in self.shares._asdict().items():
            if share:
                raise InputError(f"augment.{name}={share} is not supported with 3D labels; set augment.{name}=0")
        self.root = None if root is None else Path(root)
        self.splits = None if splits is None else Path(splits)
        self.lists = {"train": train_split, "val": val_split}
        self.class_names = require_types(class_names)

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> KittiDataset:
        frames = self.locate(split)
        if train and frames.is_testing:
            raise InputError(f"data.train_split={self.lists[split]} has no labels (testing); use train or trainval")
        return KittiDataset(
            self.root,
            frames,
            pipeline,
            evaluation=EvalWarp(self.resolution, self.test_mode, self.divisor),
            class_names=self.class_names,
            train=train,
            part="testing" if frames.is_testing else "training",
            on_bad_image=self.on_bad_image if train else "error",
            seed=self.seed,
        )

    def setup(self, stage: str | None = None) -> None:
        if stage == "fit" and self.locate(self.validate_on).is_testing:
            raise InputError(
                f"data.val_split={self.lists['val']} has no labels to select the best checkpoint by; train with val, "
                "then predict the testing frames with eval.py ckpt=RUN/best.ckpt data.val_split=test"
            )
        if self.splits is None and self.root is not None and not (self.root / "ImageSets").is_dir():
            log.info(
                f"{self.root} has no ImageSets, so the frames are divided as {USUAL} does (built in); data.splits=NAME "
                f"takes another division: {', '.join(PUBLISHED)} or a folder of lists"
            )
        super().setup(stage)

    def locate(self, split: str) -> FrameList:
        """The frames of ``train`` or ``val``. Raises ``InputError`` with the path that was tried."""
        if self.root is None:
            raise InputError("no data given; set data.root=DIR to the folder that holds KITTI's training")
        if not self.root.is_dir():
            raise InputError(f"data.root={self.root} is not an existing folder; give the folder that holds KITTI")
        name = str(self.lists[split])
        if name.endswith(".txt"):
            path = self._find(Path(name))
            if not path.is_file():
                raise InputError(
                    f"data.{split}_split={name} does not exist, nor does it in {self.root}; give a list of frames"
                )
            return read_list(path)
        folder = self._find(self.splits) if self.splits else self.root / "ImageSets"
        if not folder.is_dir() and str(self.splits or USUAL) in PUBLISHED:
            return published_list(str(self.splits or USUAL), name)
        if not folder.is_dir():
            raise InputError(
                f"data.splits={self.splits} does not exist, nor does it in {self.root}; give a folder with train.txt "
                f"and val.txt (one frame number per line), or {' or '.join(PUBLISHED)}"
            )
        path = folder / f"{name}.txt"
        if not path.is_file():
            others = ", ".join(sorted(file.stem for file in folder.glob("*.txt"))) or "none"
            raise InputError(f"data.{split}_split={name} is not in {folder}; use one of its lists: {others}")
        return read_list(path)

    def _find(self, path: Path) -> Path:
        return path if path.exists() else self.root / path


def _scale(matrix: np.ndarray) -> float:
    return float(scale_of(torch.from_numpy(matrix)))


def _find(folder: Path, suffixes: Sequence[str], what: str, wanted: FrameList) -> list[Path]:
    """The files of frames in a folder (one listing, not one call per file). Raises ``InputError`` for missing files."""
    if not folder.is_dir():
        raise InputError(f"{what} folder {folder} does not exist; arrange the data as training/image_2, label_2, calib")
    there = set(os.listdir(folder))
    found = {name: next((name + end for end in suffixes if name + end in there), None) for name in wanted.frames}
    if absent := [name for name, file in found.items() if file is None]:
        raise InputError(
            f"{len(absent)} of {len(found)} frames of {wanted.source} have no {what} in {folder} ({some(absent)}); "
            f"{wanted.remedy}"
        )
    return [folder / file for file in found.values()]


def _require_alike(files: Sequence[Path], names: Sequence[str]) -> np.ndarray:
    """(height, width) ``[N, 2]`` of the images; raises ``InputError`` if one differs from the others.

    An image with an unreadable header counts as the median: reading it will raise the error.
    """
    sizes = np.array([(read_sizes(file) or [(0, 0)])[0] for file in files])
    is_known = sizes.all(1)
    if not is_known.any():
        raise InputError(f"none of the {len(files)} files is an image (first: {files[0]}); check the image folder")
    usual = np.median(sizes[is_known], axis=0)
    sizes[~is_known] = usual
    is_unlike = (abs(sizes - usual) > MOST_SIZE_CHANGE * usual).any(1)
    if is_unlike.any():
        n = int(is_unlike.argmax())
        raise InputError(
            f"frame {names[n]} ({files[n]}) is {sizes[n][1]}x{sizes[n][0]} pixels, but the other images are about "
            f"{usual[1]:g}x{usual[0]:g}; depth needs one size and focal length, so remove it from the list"
        )
    return sizes
