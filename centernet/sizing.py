"""Settings that are ``auto``: input size, network, batch and epochs, chosen for the data and the machine.

They are settled before anything is built, so that a run, its logs and its checkpoints know plain values only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from centernet.build import build_datamodule, plain
from centernet.data.datamodule import ImageDataset
from centernet.data.images import read_sizes
from centernet.data.pixels import free_memory
from centernet.data.transforms import eval_pipeline
from centernet.errors import InputError
from centernet.models.centernet import divisor_of, has_trained_weights, require_divisible
from centernet.models.summary import build_counted, count_activations
from centernet.ops.affine import Size
from centernet.ops.boxes import box_area
from centernet.structures import Head

AUTO = "auto"
# What may be `auto`, in the order in which it is settled.
KEYS = (
    "backbone.name",
    "pretrained",
    "schedule.backbone_lr_factor",
    "resolution",
    "data.batch_size",
    "trainer.accumulate_grad_batches",
    "schedule.epochs",
)
# The longer side of the input in pixels, and the batch, without and with a GPU.
SIDES, BATCHES = (320, 640), (8, 32)
# The light network for a CPU; with a GPU, one that has ImageNet's weights, which learn at this share of the rate.
NETWORKS, TRAINED_RATE = ("n", "m"), 0.3
# Objects with sides below this many input pixels (two cells) are small; with more than this share of them the input
# becomes larger, in these steps.
SMALL_SIDE, SMALL_SHARE, LARGER = 8.0, 0.25, (1.0, 1.5, 2.0)
# The share of the memory for the outputs of all layers in float32. (Not all of them are kept for the gradients, and
# 16 bits take half; the rest is for gradients, weights and working memory.)
MEMORY_SHARE = 0.5
# A training takes this many steps, but not fewer or more epochs than these.
STEPS, LEAST_EPOCHS, MOST_EPOCHS = 3000, 24, 300
# At least this many batches per epoch, for batches above the smallest. Gradients of smaller ones are accumulated.
BATCHES_PER_EPOCH, SMALLEST_BATCH = 16, 4
HEADERS = 64  # images to look at where the annotations have no sizes


class Choice(NamedTuple):
    """A setting, its value, and why."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        shown = str(self.value).lower() if isinstance(self.value, bool) else str(self.value).replace(" ", "")
        return f"{self.key.removesuffix('.name')}={shown}"


def take_over(cfg: DictConfig, theirs: Mapping[str, Any] | None) -> None:
    """Replace every ``auto`` by the value of the training that goes on: the machine and the data may be others now.

    ``theirs``: the plain configuration in its checkpoint, None if it has none.
    """
    for key in KEYS:
        if OmegaConf.select(cfg, key) != AUTO:
            continue
        value: Any = theirs
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value not in (None, AUTO):
            OmegaConf.update(cfg, key, value)


def settle(cfg: DictConfig) -> list[Choice]:
    """Replace every ``auto`` in a training's configuration; returns what was chosen and why.

    The training data is read for that, without its images. Raises ``InputError`` as the data does.
    """
    wanted = {key for key in KEYS if OmegaConf.select(cfg, key) == AUTO}
    chosen: list[Choice] = []

    def choose(key: str, value: Any, reason: str) -> None:
        if key in wanted:
            OmegaConf.update(cfg, key, value)
            chosen.append(Choice(key, value, reason))

    if isinstance(cfg.resolution, int):
        OmegaConf.update(cfg, "resolution", [cfg.resolution] * 2)
    has_gpu = cfg.trainer.accelerator in ("auto", "gpu") and torch.cuda.is_available()
    machine = "with a GPU" if has_gpu else "without a GPU"
    if "backbone.name" in wanted:
        choose("backbone.name", NETWORKS[has_gpu], f"recommended {machine}")
    if "pretrained" in wanted:
        name, trained = cfg.backbone.name, has_trained_weights(plain(cfg.backbone))
        choose("pretrained", trained, f"ImageNet weights of {name}" if trained else f"none for {name}")
    if "schedule.backbone_lr_factor" in wanted:
        OmegaConf.update(cfg, "schedule.backbone_lr_factor", TRAINED_RATE if cfg.pretrained else 1.0)
    if not wanted & {"resolution", "data.batch_size", "schedule.epochs"}:
        if "trainer.accumulate_grad_batches" in wanted:
            OmegaConf.update(cfg, "trainer.accumulate_grad_batches", 1)
        return chosen
    dataset, divisor = read_training_data(cfg), divisor_of(plain(cfg.backbone))
    if "resolution" in wanted:
        choose("resolution", *choose_resolution(dataset, SIDES[has_gpu], machine, divisor))
    require_divisible(plain(cfg.resolution), divisor)
    processes, gathered = count_processes(plain(cfg.trainer)), 1
    if "data.batch_size" in wanted:
        fitting = fitting_batch(plain(cfg.backbone), len(dataset.class_names), plain(cfg.resolution), has_gpu)
        batch, reason = choose_batch(len(dataset), BATCHES[has_gpu], fitting, processes)
        choose("data.batch_size", batch, f"{reason} {machine}" if batch == BATCHES[has_gpu] else reason)
        gathered = max(SMALLEST_BATCH // (batch * processes), 1)
    if "trainer.accumulate_grad_batches" in wanted:
        OmegaConf.update(cfg, "trainer.accumulate_grad_batches", gathered)
        if gathered > 1:
            chosen.append(Choice("trainer.accumulate_grad_batches", gathered, f"{SMALLEST_BATCH} images per step"))
    step = cfg.data.batch_size * processes * cfg.trainer.accumulate_grad_batches
    steps = max(len(dataset) // max(step, 1), 1)  # the data refuses a batch of 0
    if "schedule.epochs" in wanted:
        epochs = min(max(round(STEPS / steps), LEAST_EPOCHS), MOST_EPOCHS)
        reason = f"{epochs * steps} steps, {steps} per epoch"
        if (limit := OmegaConf.select(cfg, "trainer.max_time")) is not None:
            reason = f"for the warm-up only: trainer.max_time={limit} ends the training"
        choose("schedule.epochs", epochs, reason)
    return chosen


def describe(chosen: list[Choice]) -> str:
    """What was chosen and why, a line each; empty if nothing was."""
    if not chosen:
        return ""
    width = max(len(str(choice)) for choice in chosen)
    lines = [f"  {choice!s:<{width}}  {choice.reason}" for choice in chosen]
    return "\n".join(["chosen for this data and machine; KEY=VALUE on the command line changes it:", *lines])


def read_training_data(cfg: DictConfig) -> ImageDataset:
    """The training data of a configuration, whatever its input is to be."""
    data = build_datamodule({**_unresolved(cfg.data), "resolution": [64, 64], "batch_size": 1, "augment": None})
    data.prepare_data()
    dataset = data.read_split("train", eval_pipeline(data.resolution), train=True)
    if not len(dataset):
        raise InputError(f"the training data ({getattr(dataset, 'source', 'data')}) has no images; give it some")
    return dataset


def _unresolved(node: DictConfig) -> dict[str, Any]:
    """A node as plain data, without the values that depend on what is to be chosen."""
    return {key: plain(node[key]) for key in node if key not in ("resolution", "batch_size", "augment")}


def choose_resolution(dataset: ImageDataset, most: int, machine: str, divisor: int) -> tuple[list[int], str]:
    """(height, width) of the input for the images of a data set, and why.

    The shape of the images (the median of their sides relative to the longer one), the longer side as long as theirs
    (median) but at most ``most`` pixels: more if too many objects would be small.
    """
    sizes = image_sizes(dataset)
    longest = float(np.median(sizes.max(1)))
    shape = np.median(sizes / sizes.max(1, keepdims=True), axis=0)
    sides = box_area(dataset.fields["boxes"][~dataset.fields["crowd"]].double()).clamp(min=0).sqrt().numpy()
    for larger in LARGER:
        scale = min(1.0, most * larger / longest)
        if scale == 1 or not len(sides) or (sides * scale < SMALL_SIDE).mean() <= SMALL_SHARE:
            break
    # Rounded to the nearest multiple, upward from the middle between two.
    size = [max(int(longest * scale * share / divisor + 0.5), 1) * divisor for share in shape]
    height, width = np.median(sizes, axis=0).astype(int).tolist()
    reason = f"images of {width}x{height} pixels (width x height)"
    if scale < 1:
        reason += f", reduced to {most * larger:.0f} {machine}"
    return size, reason + (", as many objects are small" if larger > 1 else "")


def image_sizes(dataset: ImageDataset) -> np.ndarray:
    """(height, width) ``[N, 2]`` of the images: as annotated, else from the headers of some of them."""
    known = dataset.sizes[(dataset.sizes > 0).all(1)]
    if len(known):
        return known
    some = dataset.files[np.linspace(0, len(dataset) - 1, min(HEADERS, len(dataset))).astype(int)]
    found = [sizes[0] for file in some if (sizes := read_sizes(file)) is not None]
    if not found:
        raise InputError(f"image {some[0]} cannot be read; check the image folder")
    return np.array(found)


def fitting_batch(backbone: Mapping[str, Any], classes: int, size: Size, has_gpu: bool) -> int:
    """How many images of ``size`` (height, width) a training step has memory for."""
    memory = torch.cuda.get_device_properties(0).total_memory if has_gpu else free_memory()
    network = build_counted(backbone, {"heatmap": Head(classes, "focal")})
    each = 4 * count_activations(network, tuple(size))
    return int(MEMORY_SHARE * memory // each) if memory else BATCHES[has_gpu]


def choose_batch(images: int, usual: int, fitting: int, processes: int) -> tuple[int, str]:
    """The largest power of two up to the ``usual`` batch that memory is ``fitting`` for and that leaves an epoch of
    this many ``images`` enough batches, and why."""
    enough = max(images // (BATCHES_PER_EPOCH * processes), SMALLEST_BATCH)
    batch = 2 ** (max(min(usual, fitting, enough), 1).bit_length() - 1)
    if batch == usual:
        return batch, "usual"
    return batch, "as many as fit into memory" if fitting < enough else f"for an epoch of {images} images"


def count_processes(trainer: Mapping[str, Any]) -> int:
    """Processes that a training will have, as its launcher or its options say."""
    if size := os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS"):
        return int(size)
    devices = trainer["devices"]
    if isinstance(devices, (list, tuple)):
        devices = len(devices)
    elif devices in (-1, "-1", AUTO):
        devices = max(torch.cuda.device_count(), 1)
    return int(devices) * int(trainer["num_nodes"])
