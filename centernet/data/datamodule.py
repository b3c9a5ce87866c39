"""Base classes for all data: samples from flat arrays, collation, seeding, loaders.

No targets here: images stay uint8 and objects stay boxes until they are on the device.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from centernet.data.combine import Shares, combine, draw_plan
from centernet.data.extremes import complete_extreme_points, require_way
from centernet.data.images import read_image, require_bit_depth, require_sizes
from centernet.data.masks import Masks
from centernet.data.pixels import PLACES, PixelCache, pixel_cache
from centernet.data.transforms import (
    eval_pipeline,
    seed_pipeline,
    train_pipeline,
    trim_objects,
    warp_image,
)
from centernet.fields import IMAGE_FIELDS, Partners, move, partners_of, stack_objects
from centernet.machine import available_cores
from centernet.ops.affine import Size
from centernet.structures import Batch, InputError, Objects, Sample

log = logging.getLogger(__name__)


class Draw(NamedTuple):
    """What a sampler yields: the index of a sample and the numbers that seed its augmentation."""

    index: int
    entropy: tuple[int, ...]
    is_clean: bool = False  # not combined with others


class ImageDataset(Dataset):
    """Image files and the objects in them; subclasses read a format.

    ``files[n]`` belongs to ``image_ids[n]`` and to rows ``offsets[n]:offsets[n + 1]`` of every array in ``fields``
    (boxes in image pixels). ``sizes`` (height, width) ``[N, 2]`` that the annotations are for; images of another size
    are bad ones; 0 where unknown. ``pipeline`` comes from ``centernet.data.transforms``. ``on_bad_image``: ``error``,
    or ``skip`` to take the next image instead and count (``skipped``). ``bit_depth``: see ``read_image``.

    ``image_fields``: one row per image, passed along with the sample (``centernet.fields``). ``facts``: metadata of the
    data set as plain data, for the task: joint names, mean dimensions, ...

    In training, ``visible_boxes`` reduces objects to their visible part (using ``masks`` if a subclass sets them), and
    ``shares`` says how many samples are combined with others (``centernet.data.combine``).
    """

    class_names: list[str]
    notes: list[str]
    nothing_to_learn: str = "the data has no annotations"
    """Why it cannot be trained on, if it has no objects."""
    results: str = "results"
    masks: Masks | None = None
    visible_boxes: bool = False
    shares: Shares = Shares()
    bit_depth: int | None = None
    pixels: PixelCache | None = None
    views: Sequence[Callable[..., Any]] = ()
    """Pipelines of evaluation at other scales."""

    def __init__(
        self,
        files: Sequence[str | Path],
        image_ids: Sequence[int],
        fields: Mapping[str, np.ndarray],
        offsets: np.ndarray,
        pipeline: Callable[..., Any],
        train: bool,
        on_bad_image: str = "error",
        seed: int = 0,
        image_fields: Mapping[str, np.ndarray] | None = None,
        sizes: np.ndarray | None = None,
    ) -> None:
        if on_bad_image not in ("error", "skip"):
            raise InputError(f"data.on_bad_image={on_bad_image!r} is unknown; choose error or skip")
        # One array of fixed-width strings instead of a list of objects: workers then share its memory.
        self.files = np.array([str(file) for file in files])
        self.sizes = np.zeros((len(files), 2), np.int64) if sizes is None else np.asarray(sizes, np.int64)
        if on_bad_image == "error":
            require_sizes(self.files, self.sizes)
        self.ids = torch.tensor(list(image_ids), dtype=torch.int64)
        self.fields = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in fields.items()}
        self.offsets = torch.from_numpy(np.asarray(offsets, np.int64))
        self.image_fields = {name: torch.from_numpy(np.asarray(rows)) for name, rows in (image_fields or {}).items()}
        self.pipeline, self.train, self.seed = pipeline, train, seed
        self.on_bad_image = on_bad_image
        self.skipped = torch.zeros((), dtype=torch.int64).share_memory_()  # counted in the workers, read outside

    def __len__(self) -> int:
        return len(self.files)

    @property
    def facts(self) -> dict[str, Any]:
        """Metadata of this data set, as plain data."""
        return {}

    @cached_property
    def partners(self) -> Partners:
        """Which elements of a field a mirror swaps."""
        return partners_of(self.facts)

    @property
    def has_objects(self) -> bool:
        """Whether there is an object in any image, besides crowds."""
        return bool((~self.fields["crowd"]).any())

    def describe(self) -> list[str]:
        """Lines that describe the data before training."""
        counts = torch.bincount(self.fields["labels"][~self.fields["crowd"]], minlength=len(self.class_names)).tolist()
        shown = [f"{name} {count}" for name, count in zip(self.class_names, counts, strict=True)][:8]
        more = ", ..." if len(counts) > len(shown) else ""
        return [f"{len(counts)} classes (objects: {', '.join(shown)}{more})"]

    def objects(self, index: int) -> Objects:
        """Ground truth of one image, in image pixels."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return {name: value[rows] for name, value in self.fields.items()}  # type: ignore[return-value]

    def __getitem__(self, draw: int | Draw) -> Sample:
        if not isinstance(draw, Draw):
            draw = Draw(int(draw), (self.seed, int(torch.randint(2**31, ()))))
        index, entropy, is_clean = draw
        index, image = self._read(index)
        if self.train:
            seed_pipeline(self.pipeline, *entropy, index)
        pixels, input_from_image = warp_image(self.pipeline, image)
        size, first = tuple(pixels.shape[1:]), int(self.offsets[index])
        truth = self.objects(index)
        objects = self.warp(truth, input_from_image, image.shape[:2])
        rows = torch.arange(first, first + len(truth["labels"]))  # of the objects among the masks
        if self.train and self.visible_boxes:
            objects = trim_objects({**objects, "row": rows}, input_from_image.numpy(), size, self.masks, first)
            rows = objects.pop("row")
        sample: Sample = {
            "image": pixels,
            "input_from_image": input_from_image,
            "image_id": int(self.ids[index]),
            "image_size": torch.tensor(image.shape[:2]),
            "objects": objects,
            "truth": {name: value[:0] for name, value in truth.items()} if self.train else truth,
            **{name: rows[index] for name, rows in self.image_fields.items()},
        }
        if self.views:
            sample["views"] = [warp_image(pipeline, image) for pipeline in self.views]
        if self.train and any(self.shares):
            plan = draw_plan(Shares() if is_clean else self.shares, size, *entropy, index)
            sample["plan"] = plan._replace(masks=self.masks, rows=rows)
        return sample

    def write_results(self, folder: Path, detections: Mapping[int, Objects]) -> None:
        """Write detections (image pixels, by image id) in the format of the data; ``results`` names the files."""
        raise NotImplementedError

    def warp(self, truth: Objects, input_from_image: torch.Tensor, image_size: Size) -> Objects:
        """Objects of an image of this size, from image to input space."""
        return move(truth, input_from_image, self.partners)

    def read(self, index: int) -> np.ndarray:
        """The pixels of one image, RGB uint8 ``[H, W, 3]``, of the size that its annotations are for."""
        if self.pixels is not None and (kept := self.pixels.get(index)) is not None:
            return kept
        size = tuple(self.sizes[index].tolist())
        image = read_image(self.files[index], size if all(size) else None, self.bit_depth)
        if self.pixels is not None:
            self.pixels.put(index, image)
        return image

    def _read(self, index: int) -> tuple[int, np.ndarray]:
        first = ""
        for step in range(len(self)):
            at = (index + step) % len(self)
            try:
                return at, self.read(at)
            except InputError as error:
                if self.on_bad_image == "error":
                    raise
                first = first or str(error)
                self.skipped += 1
        raise InputError(f"none of the {len(self)} images can be used, as with this one: {first}")

    def keep_first(self, count: int) -> None:
        """Keep only the first ``count`` images."""
        self.select_images(torch.arange(min(count, len(self))))
        self.fields = {name: value[: int(self.offsets[-1])] for name, value in self.fields.items()}

    def drop_empty(self) -> None:
        """Drop images without annotations."""
        self.select_images((self.offsets.diff() > 0).nonzero().flatten())

    def select_images(self, kept: torch.Tensor) -> None:
        """Keep only these images (increasing positions); of those skipped in between, only the last may have rows."""
        ends = self.offsets[1:][kept]
        self.offsets = torch.cat([self.offsets[:-1][kept], ends[-1:]]) if len(kept) else self.offsets[:1]
        self.files, self.sizes, self.ids = self.files[kept.numpy()], self.sizes[kept.numpy()], self.ids[kept]
        self.image_fields = {name: rows[kept] for name, rows in self.image_fields.items()}

    @property
    def most_objects(self) -> int:
        """The largest number of objects in one image, not counting crowds."""
        kept = torch.cat([torch.zeros(1, dtype=torch.int64), (~self.fields["crowd"]).long().cumsum(0)])
        return int((kept[self.offsets[1:]] - kept[self.offsets[:-1]]).max())


class SeededSampler(DistributedSampler):
    """A DistributedSampler that also yields what seeds each sample: (seed, epoch, copy).

    ``copy`` is 1 for images that are repeated to give all processes equally many, else 0. Augmentation therefore
    differs by epoch and image, is reproducible from the seed, and depends neither on the number of workers nor on the
    number of processes. Lightning keeps a DistributedSampler as it is and calls ``set_epoch``.

    ``start``: an epoch and how many of its samples, of all processes, to leave out, because they were trained on before
    a resume.
    """

    start: tuple[int, int] = (0, 0)
    is_clean: Callable[[float], bool] = staticmethod(lambda epoch: False)
    """Whether samples at this position, in epochs, are left as they are, not combined with others."""

    def __iter__(self) -> Iterator[Draw]:
        order = list(range(len(self.dataset)))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(order), generator=generator).tolist()
        done = self.start[1] if self.start[0] == self.epoch else 0
        left = order[done:]
        draws = [Draw(index, (self.seed, self.epoch, 0)) for index in left]
        missing = -len(left) % self.num_replicas
        draws += [Draw(order[n % len(order)], (self.seed, self.epoch, 1)) for n in range(missing)]
        # One by one, as the loader asks for them: the position of a training by the clock is not known before.
        for n in range(self.rank, len(draws), self.num_replicas):
            yield draws[n]._replace(is_clean=self.is_clean(self.epoch + (done + n) / max(len(order), 1)))


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; objects are padded. Images keep their interleaved memory (channels last) and are stacked once."""
    sizes = {tuple(sample["image"].shape) for sample in samples}
    if len(sizes) > 1:
        raise InputError(
            "one batch holds images of different sizes; data.test_mode=keep requires data.eval_batch_size=1"
        )
    samples = combine(samples)
    # `default_collate` stacks in shared memory if this is a worker, from where they need not be copied again.
    images = default_collate([sample["image"].permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)
    return {
        "image": images,
        "input_from_image": torch.stack([sample["input_from_image"] for sample in samples]),
        "image_id": torch.tensor([sample["image_id"] for sample in samples]),
        "image_size": torch.stack([sample["image_size"] for sample in samples]),
        "objects": stack_objects([sample["objects"] for sample in samples]),
        "truth": stack_objects([sample["truth"] for sample in samples]),
        **{name: torch.stack([sample[name] for sample in samples]) for name in IMAGE_FIELDS if name in samples[0]},
        **({"views": _stack_views(samples)} if "views" in samples[0] else {}),
    }


def _stack_views(samples: Sequence[Sample]) -> list[dict[str, torch.Tensor]]:
    """The inputs at each other scale, with their matrices."""
    return [
        {"image": torch.stack([image for image, _ in view]), "input_from_image": torch.stack([m for _, m in view])}
        for view in zip(*(sample["views"] for sample in samples), strict=True)
    ]


def _start_worker(_: int) -> None:
    # Ctrl-C reaches every process; the main one finishes its step and then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    gc.freeze()  # a collection would write to all inherited objects, and so copy their pages into each worker


class CenterNetDataModule(pl.LightningDataModule):
    """Base of the data modules: a subclass writes ``build_dataset(split, pipeline, train)``.

    ``resolution`` (height, width) of the input; ``batch_size`` per process; ``eval_batch_size`` (default: the same, 1
    for ``keep``); ``num_workers`` per process (default: half the cores, at most 8); ``augment`` options of
    ``train_pipeline`` (None: its defaults) and besides them ``visible_boxes`` (``ImageDataset``), the ``Shares`` of
    ``centernet.data.combine``, and ``clean``, the last share of a training, in which no samples are combined;
    ``test_mode`` fit, keep, stretch or width; ``divisor``: ``keep`` pads images to multiples of it (the network's);
    ``on_bad_image`` error or skip; ``bit_depth``: the bits that 16-bit images use; ``cache``: where decoded images are
    kept for the next epoch, ``ram``, ``disk``, ``none`` or ``auto`` (``centernet.data.pixels``); ``limit`` to the first
    N images of each split; ``skip_empty``: leave out training images without annotations; ``allow_empty``: train even
    if no image has an annotation, which is refused otherwise; ``extreme_points``: ``masks`` or ``boxes``, give objects
    this field (``centernet.data.extremes``); ``validate_on`` val or train (to check that a model can
    overfit).

    ``class_names`` is known after ``setup``; setting it earlier fixes the order of the classes. ``own_data_command``:
    the command-line options that select a user's own data of this kind.
    """

    own_data_command = "data=auto data.root=YOUR_DATA"
    introduction: str | None = None
    """What to say once of the data before it is read."""

    def __init__(
        self,
        resolution: Sequence[int] = (512, 512),
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        augment: Mapping[str, Any] | None = None,
        test_mode: str = "fit",
        divisor: int = 32,
        on_bad_image: str = "error",
        bit_depth: int | None = None,
        limit: int | None = None,
        skip_empty: bool = False,
        allow_empty: bool = False,
        validate_on: str = "val",
        seed: int = 0,
        cache: str = "auto",
        extreme_points: str | None = None,
    ) -> None:
        super().__init__()
        if cache not in PLACES:
            raise InputError(f"data.cache={cache!r} is unknown; choose one of {', '.join(PLACES)}")
        self.cache, self.extreme_points = cache, require_way(extreme_points)
        if validate_on not in ("train", "val"):
            raise InputError(f"data.validate_on={validate_on!r} is unknown; choose val or train")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("limit", limit, 1),
        ):
            if value is not None and value < least:
                raise InputError(f"data.{name}={value} is too small; use at least {least}")
        self.limit, self.skip_empty, self.validate_on = limit, skip_empty, validate_on
        self.allow_empty = allow_empty
        self.bit_depth = require_bit_depth(bit_depth)
        self.resolution: Size = (int(resolution[0]), int(resolution[1]))
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or (1 if test_mode == "keep" else batch_size)
        self.num_workers = min(8, available_cores() // 2) if num_workers is None else num_workers
        self.augment = {"warp": "crop", "color": {}} if augment is None else dict(augment)
        self.visible_boxes = bool(self.augment.pop("visible_boxes", False))
        self.shares = Shares(*(float(self.augment.pop(name, 0.0)) for name in Shares._fields))
        self.clean = float(self.augment.pop("clean", 0.0))
        for name, value in (*self.shares._asdict().items(), ("clean", self.clean)):
            if not 0 <= value <= 1:
                raise InputError(f"augment.{name}={value} is not a fraction; choose a value from 0 to 1")
        self._progress: Callable[[float], float] = lambda epoch: 0.0
        self.test_mode, self.divisor = test_mode, divisor
        self.on_bad_image, self.seed = on_bad_image, seed
        self.class_names: list[str] | None = None
        self.datasets: dict[str, ImageDataset] = {}
        self._start = (0, 0)

    def build_dataset(self, split: str, pipeline: Callable[..., Any], train: bool) -> ImageDataset:
        """The dataset of ``train`` or ``val``. Raises ``InputError`` for anything wrong with the files."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        if self.introduction is not None:
            log.info(self.introduction)
            self.introduction = None
        if stage in ("fit", None) and "train" not in self.datasets:
            pipeline = train_pipeline(self.resolution, mode=self.test_mode, **self.augment)
            self._add("train", "train", pipeline, train=True)
        if "val" not in self.datasets:
            pipeline = eval_pipeline(self.resolution, self.test_mode, self.divisor)
            self._add("val", self.validate_on, pipeline, train=False)

    def read_split(self, split: str, pipeline: Callable[..., Any] | None, train: bool) -> ImageDataset:
        """The dataset of ``train`` or ``val`` with the images that are used: ``skip_empty``, ``limit``.

        Raises ``InputError`` if there is nothing in it to train on, unless ``allow_empty``.
        """
        dataset = self.build_dataset(split, pipeline, train)
        complete_extreme_points(dataset.fields, self.extreme_points, str(getattr(dataset, "source", split)))
        if train and not (self.allow_empty or dataset.has_objects):
            why = "; ".join([dataset.nothing_to_learn, *dataset.notes])
            raise InputError(f"{why}; data.allow_empty=true trains all the same")
        if self.skip_empty and split == "train":
            dataset.drop_empty()
            if not len(dataset):
                raise InputError(f"the {split} data has no annotations; training needs at least one")
        if self.limit is not None:
            dataset.keep_first(self.limit)
        return dataset

    def _add(self, role: str, split: str, pipeline: Callable[..., Any], train: bool) -> None:
        dataset = self.read_split(split, pipeline, train)
        dataset.visible_boxes, dataset.shares = self.visible_boxes, self.shares
        dataset.bit_depth = self.bit_depth
        processes = self.trainer.world_size if self.trainer else 1
        dataset.pixels = pixel_cache(self.cache, dataset.files.tolist(), dataset.sizes, self.bit_depth, processes)
        self.datasets[role] = dataset
        if self.class_names is None:
            self.class_names = dataset.class_names
        for note in dataset.notes:
            log.warning(note)
        if role == "val" and "train" in self.datasets and not dataset.has_objects:
            log.warning(
                f"the validation data ({getattr(dataset, 'source', split)}) has no annotations, so there is no AP to "
                "choose the best checkpoint by"
            )

    def continue_epoch(self, epoch: int, done: int) -> None:
        """Leave out the first ``done`` samples of this epoch, which were trained on before a resume."""
        self._start = (epoch, done)

    def take_scales(self, scales: Sequence[float]) -> None:
        """Evaluate images at these scales of the input as well (``centernet.modes``)."""
        if "val" in self.datasets:
            self.datasets["val"].views = [
                eval_pipeline(self.resolution, self.test_mode, self.divisor, scale) for scale in scales if scale != 1
            ]

    def follow(self, progress: Callable[[float], float]) -> None:
        """Take the share of the training that is done at a position in epochs from here (``clean``)."""
        self._progress = progress

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.datasets["train"], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.datasets["val"], self.eval_batch_size, shuffle=False)

    test_dataloader = val_dataloader

    def _loader(self, dataset: ImageDataset, batch_size: int, shuffle: bool) -> DataLoader:
        trainer = self.trainer
        sampler = SeededSampler(
            dataset,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            shuffle=shuffle,
            seed=self.seed,
        )
        if shuffle:
            # Workers start to load before Lightning tells the sampler its epoch.
            sampler.set_epoch(self._start[0])
            sampler.start = self._start
            sampler.is_clean = lambda epoch: self._progress(epoch) >= 1 - self.clean
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_start_worker,
            drop_last=shuffle and len(sampler) > batch_size,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Metadata of the training data (or of the validation data if there is no training data)."""
        dataset = self.datasets.get("train") or self.datasets.get("val")
        return {} if dataset is None else dataset.facts

    @property
    def eval_spec(self) -> dict[str, Any]:
        """How images become inputs, as plain data; stored in the checkpoint for prediction."""
        spec = {"resolution": list(self.resolution), "mode": self.test_mode, "divisor": self.divisor}
        return spec if self.bit_depth is None else {**spec, "bit_depth": self.bit_depth}
