"""COCO-format data: a json with images, annotations and categories, and a folder of images.

Format of cocodataset.org (instances and keypoints). Category ids may have gaps, images may have no annotations, and
crowds become ignore regions. Annotations are stored in flat arrays with offsets, which workers share without copying.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from centernet.data.annotated import AnnotatedDataModule, AnnotatedDataset
from centernet.data.coco_format import read_annotations, require_images
from centernet.data.coco_layout import Found, find_split, find_undivided, folder_of, has_split, image_folders
from centernet.data.division import Part
from centernet.data.extremes import require_way
from centernet.structures import InputError


class CocoDataset(AnnotatedDataset):
    """Images and boxes of one COCO json.

    ``annotations``: path of the json; ``images``: the folder that its ``file_name`` entries are relative to, or several
    that may be it; ``class_names`` sets the order of the classes (default: by category id); ``masks``: keep the
    segmentations, for augmentations that rebuild truncated boxes from them or cut objects out; ``extreme_points``: give
    objects this field (``centernet.data.extremes``), from what annotations say or else from their ``masks``, or, where
    they have none, ``boxes``; ``part``: only these of its images. Raises ``InputError``, naming the entry, for anything
    wrong with the files.

    If categories or annotations have keypoints, objects get the field ``joints``, and the attribute ``joints`` is their
    ``JointSet``: the names of all categories in order of first appearance; a joint that a category lacks is never
    labeled. The argument ``joints`` (see ``JointSet.of``) overrides or completes the json.

    Attributes: those of ``AnnotatedDataset``, and ``folder``, the images' folder.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | Sequence[Path],
        pipeline: Callable[..., Any],
        class_names: Sequence[str] | None = None,
        train: bool = False,
        on_bad_image: str = "error",
        seed: int = 0,
        masks: bool = False,
        joints: Mapping[str, Any] | None = None,
        extreme_points: str | None = None,
        part: Part | None = None,
    ) -> None:
        source = Path(annotations)
        folders = [Path(images)] if isinstance(images, (str, Path)) else list(images)
        content = read_annotations(source, class_names, joints, masks, require_way(extreme_points), part)
        names = content[0]["files"]
        self.folder = folder_of(names, folders)
        others = [folder for folder in folders if folder != self.folder]
        require_images(names, self.folder, source, others)
        files = [os.path.join(self.folder, name) for name in names]
        super().__init__(content, files, source, pipeline, train, on_bad_image, seed, masks)


class CocoDataModule(AnnotatedDataModule):
    """Train and val splits in COCO format.

    ``root`` holds both in one of the usual layouts (``centernet.data.coco_layout``: COCO's own, Roboflow's, ...); or
    pass the four paths (relative to ``root`` or absolute). ``prefix``: which of COCO's files, ``instances`` or
    ``person_keypoints``. With ``val_share``, one json is divided: that of the training, or the only one. Other options:
    ``AnnotatedDataModule``.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        train_annotations: str | Path | None = None,
        train_images: str | Path | None = None,
        val_annotations: str | Path | None = None,
        val_images: str | Path | None = None,
        prefix: str = "instances",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.prefix = prefix
        self.root = None if root is None else Path(root)
        self.paths = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> CocoDataset:
        annotations, images, name = self.locate(split)
        dataset = CocoDataset(annotations, images, pipeline, **self.options_of(train), part=self.part(split))
        if split == "val" and name == "test":
            dataset.notes.append(
                f"{self.root} has a test split and none for validation, so {annotations} also chooses the best "
                "checkpoint; keep other images for an unbiased test"
            )
        return dataset

    def locate(self, split: str) -> Found:
        """The json of a split and the folders that may hold its images. Raises ``InputError`` with the paths that were
        tried."""
        own, root = split, self.root
        if self.val_share is not None:
            self._require_undivided()
            split = "train"
        annotations, images = self.paths[split]
        if root is None and annotations is None:
            raise InputError(
                "no data given; set data.root=DIR, or set data.train_annotations, data.train_images, "
                "data.val_annotations and data.val_images"
            )
        if root is not None and not root.is_dir():
            raise InputError(f"data.root={root} is not an existing folder; give the folder that holds the data")
        base = root or Path()
        if annotations is None:
            whole = find_undivided(base, self.prefix) if self.val_share is not None else None
            found = whole or find_split(base, split, self.prefix)
        else:
            path = base / annotations
            if not path.is_file():
                raise InputError(f"{split} annotations {path} do not exist; set data.{split}_annotations=FILE.json")
            found = Found(path, [*image_folders(base, split), path.parent], split)
        if images is not None:
            found = found._replace(images=[base / images])
            if not found.images[0].is_dir():
                raise InputError(
                    f"{split} image folder {found.images[0]} does not exist; set data.{split}_images=FOLDER"
                )
        return found._replace(name=own) if self.val_share is not None else found

    def _require_undivided(self) -> None:
        """Raise ``InputError`` if images are to be held out of data that has a validation split."""
        given = self.paths["val"][0]
        if given is None and self.root is not None and self.paths["train"][0] is None and self.root.is_dir():
            given = has_split(self.root, "val", self.prefix)
        if given is not None:
            raise InputError(
                f"data.val_share={self.val_share} holds out training images, but {given} is there for validation; "
                "leave data.val_share out"
            )
