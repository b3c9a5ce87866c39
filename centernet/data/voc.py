"""Pascal VOC as downloaded: xml files, lists and images, no conversion.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010. Objects marked difficult are left out
of the evaluation; ``centernet.metrics.voc`` has its numbers.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from centernet.data.annotated import AnnotatedDataModule, AnnotatedDataset
from centernet.data.coco_format import read_content
from centernet.data.division import Part
from centernet.data.voc_format import CLASSES, VocImage, read_xml, write_results
from centernet.data.voc_layout import (
    YEARS,
    VocFolder,
    VocSet,
    find_folders,
    find_split_folders,
    image_files,
    named_sets,
    usual_sets,
    whole_sets,
)
from centernet.errors import some
from centernet.structures import InputError, Objects

log = logging.getLogger(__name__)


class VocDataset(AnnotatedDataset):
    """The images of some sets (``VocSet``), each with its xml.

    ``class_names`` sets the order of the classes; by default they are VOC's twenty for years of the challenge, else
    those that are there, by name. Objects have the fields ``difficult`` and ``truncated``; difficult ones are no
    objects (``crowd``), unless ``with_difficult``. Other arguments: ``AnnotatedDataset``. Raises ``InputError``, naming
    file and object, for anything wrong with the files.
    """

    def __init__(
        self,
        sets: Sequence[VocSet],
        pipeline: Callable[..., Any],
        class_names: Sequence[str] | None = None,
        train: bool = False,
        on_bad_image: str = "error",
        seed: int = 0,
        masks: bool = False,
        joints: Mapping[str, Any] | None = None,
        extreme_points: str | None = None,
        part: Part | None = None,
        with_difficult: bool = False,
    ) -> None:
        shown = some(dict.fromkeys(f"{each.folder.path} ({each.name})" for each in sets))
        content = read_sets(sets, shown, class_names, with_difficult)
        if part is not None:
            content = part.of(content, shown)
        self.folder = sets[0].folder.images
        self.set_name = sets[0].name.rpartition("_")[2]
        self.results = f"detections.json (COCO results) and results/comp4_det_{self.set_name}_CLASS.txt (VOC results)"
        found, arrays = read_content(
            content, shown, class_names, joints, masks, extreme_points, flags=("difficult", "truncated")
        )
        super().__init__((found, arrays), found["files"], shown, pipeline, train, on_bad_image, seed, masks)

    def write_results(self, folder: Path, detections: Mapping[int, Objects]) -> None:
        """Write detections (image space, by image id) as COCO results and as VOC's text files."""
        super().write_results(folder, detections)
        names = dict(enumerate(self.image_ids))
        write_results(folder / "results", self.set_name, self.class_names, names, detections)


def read_sets(
    sets: Sequence[VocSet], source: str, class_names: Sequence[str] | None = None, with_difficult: bool = False
) -> dict[str, Any]:
    """The images of some sets as COCO's three lists; arguments as ``VocDataset`` has them."""
    images, annotations, seen = [], [], Counter(name for each in sets for name in each.names)
    if twice := [name for name, count in seen.items() if count > 1]:
        raise InputError(
            f"{len(twice)} images are in {source} more than once ({some(twice)}); use sets without common images"
        )
    found = [(each, name, read) for each in sets for name, read in zip(each.names, _read_all(each), strict=True)]
    there = {thing.name for _, _, read in found for thing in read.objects}
    if class_names is None:
        of_challenge = any(each.folder.year for each in sets) and there <= set(CLASSES)
        class_names = CLASSES if of_challenge else sorted(there)
    labels = _labels(there, class_names, source)
    for each in sets:
        own = [(name, read) for place, name, read in found if place is each]
        files = image_files(each.folder, each.names, [read.file_name for _, read in own], source)
        for (name, read), file in zip(own, files, strict=True):
            height, width = read.size
            images.append({"id": name, "file_name": str(file), "height": height, "width": width})
            annotations += [
                {
                    "id": f"{name}.xml object {n}",
                    "image_id": name,
                    "category_id": labels[thing.name],
                    "bbox": thing.xywh,
                    "iscrowd": int(thing.difficult and not with_difficult),
                    "difficult": thing.difficult,
                    "truncated": thing.truncated,
                }
                for n, thing in enumerate(read.objects, 1)
            ]
    categories = [{"id": number, "name": name} for name, number in labels.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _read_all(each: VocSet) -> list[VocImage]:
    there = set(os.listdir(each.folder.annotations))
    if missing := [name for name in each.names if f"{name}.xml" not in there]:
        raise InputError(
            f"{len(missing)} of {len(each.names)} images of {each.name} have no xml in {each.folder.annotations} "
            f"(first: {missing[0]}); complete the folder or correct the list"
        )
    return [read_xml(each.folder.annotations / f"{name}.xml") for name in each.names]


def _labels(there: Collection[str], class_names: Sequence[str], source: str) -> dict[str, int]:
    """The classes with their numbers, from 1. Raises ``InputError`` if others are there."""
    if others := sorted(set(there) - set(class_names)):
        raise InputError(
            f"{source} has objects of {some(others)}, and the classes are {some(class_names, 6)}; use the same classes"
        )
    if not class_names:
        raise InputError(f"{source} has no objects, and so no classes; give annotated images")
    return {name: number for number, name in enumerate(class_names, 1)}


class VocDataModule(AnnotatedDataModule):
    """Train and val splits in VOC's format below ``root``: VOCdevkit, the folder that holds it, one of its years
    (VOC2007), or any folder of such files (``centernet.data.voc_layout``).

    ``train_split`` and ``val_split`` name lists (``trainval``: of all years there, ``2007_test``) or text files with
    names of images, one or several; by default trainval of 2007 and 2012 are trained on and the test of 2007 is
    evaluated, as far as they are there, or other lists as their names say. ``train_difficult``: whether difficult
    objects are trained on, as the original does. Other options: ``AnnotatedDataModule``.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        train_split: str | Sequence[str] | None = None,
        val_split: str | Sequence[str] | None = None,
        train_difficult: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = None if root is None else Path(root)
        self.splits = {"train": train_split, "val": val_split}
        self.train_difficult = train_difficult

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> VocDataset:
        sets = self.locate(split)
        names = some(dict.fromkeys(each.name for each in sets))
        dataset = VocDataset(
            sets,
            pipeline,
            **self.options_of(train),
            part=self.part(split),
            with_difficult=train and self.train_difficult,
        )
        years = {each.folder.year for each in sets} & set(YEARS)
        if split == "train" and len(years) == 1 and self.splits[split] is None and self.val_share is None:
            missing = next(year for year in YEARS if year not in years)
            dataset.notes.append(
                f"{self.root} has no VOC{missing}, so that {names} is trained on, and less than the 2007_trainval and "
                f"2012_trainval of published results; data.train_split={sets[0].name} says that this is meant"
            )
        return dataset

    def _add(self, role: str, split: str, pipeline: Callable[..., Any], train: bool) -> None:
        if self.val_share is None:
            names = some(dict.fromkeys(each.name for each in self.locate(split)))
            log.info(f"Pascal VOC in {self.root}: {names} for {'training' if role == 'train' else 'validation'}")
        super()._add(role, split, pipeline, train)

    def locate(self, split: str) -> list[VocSet]:
        """The sets of ``train`` or ``val``. Raises ``InputError`` with what is there."""
        root = self.root
        if root is None:
            raise InputError("no data given; set data.root=DIR to VOCdevkit, or to one of its years")
        if not root.is_dir():
            raise InputError(f"data.root={root} is not an existing folder; give the folder that holds VOC's files")
        folders = find_folders(root)
        if not folders and not find_split_folders(root):
            raise InputError(
                f"no files of Pascal VOC in {root}: looked for Annotations/*.xml in it, in VOC2007, VOC2012, ..., in "
                "VOCdevkit, and for xml files in train and val; set data.root to the folder that holds them"
            )
        if self.val_share is not None:
            return self._undivided(root, folders)
        if (wanted := self.splits[split]) is not None:
            return named_sets(f"data.{split}_split", wanted, root, folders)
        if (found := usual_sets(root, folders, split)) is None:
            raise InputError(
                f"{root} is not divided into training and validation; data.val_share=0.2 holds out a fifth of its "
                "images, or set data.train_split and data.val_split to lists of images"
            )
        return found

    def _undivided(self, root: Path, folders: Sequence[VocFolder]) -> list[VocSet]:
        """All images, or those of ``train_split``, to hold a share of them out."""
        if self.splits["val"] is not None:
            raise InputError(
                f"data.val_share={self.val_share} holds out training images, but data.val_split is given; leave one of "
                "them out"
            )
        if (wanted := self.splits["train"]) is not None:
            return named_sets("data.train_split", wanted, root, folders)
        if (divided := usual_sets(root, folders, "val")) is not None:
            raise InputError(
                f"data.val_share={self.val_share} holds out training images, but {root} has {divided[0].name} for "
                "validation; leave data.val_share out, or choose data.train_split"
            )
        return whole_sets(root, folders)
