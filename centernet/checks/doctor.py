"""Examines the data of a training: reads both splits without stopping at what is wrong, checks them, sums up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from centernet.build import build_datamodule, plain
from centernet.checks.boxes import check_boxes
from centernet.checks.content import Grid, Split, split_of
from centernet.checks.findings import Example, Finding, passed, sort
from centernet.checks.images import Seen, check_duplicates, check_images, look
from centernet.checks.objects import Resolution, check_classes, check_files, check_objects, resolutions
from centernet.cli import understand_groups
from centernet.composition import training
from centernet.data.datamodule import CenterNetDataModule, ImageDataset
from centernet.data.images import read_sizes
from centernet.data.transforms import eval_pipeline
from centernet.data.warps import EvalWarp
from centernet.errors import InputError
from centernet.models.centernet import divisor_of
from centernet.sizing import AUTO, NETWORKS, SIDES, choose_resolution
from centernet.tasks import build_task

SPLITS = ("train", "val")


class Report(NamedTuple):
    """``findings``: worst first; ``fine``: what passed; ``splits`` that could be read; ``seen``: images that were
    opened; ``reason``: where the input size comes from."""

    data: str
    findings: list[Finding]
    fine: list[str]
    splits: dict[str, Split]
    seen: dict[str, list[Seen]]
    grid: Grid
    reason: str
    resolutions: list[Resolution]
    bit_depth: int | None
    seconds: float

    @property
    def is_serious(self) -> bool:
        """Whether something would spoil a training."""
        return any(finding.level == "serious" for finding in self.findings)

    @property
    def summary(self) -> str:
        """What was examined, in a line."""
        splits = ", ".join(
            f"{name} {len(split.files)} images with {int(split.is_object.sum())} objects"
            for name, split in self.splits.items()
        )
        classes = len(next(iter(self.splits.values())).class_names) if self.splits else 0
        opened = sum(map(len, self.seen.values()))
        height, width = self.grid.warp.size
        return (
            f"{self.data}: {splits or 'no split can be read'}; {classes} classes; {opened} images opened; input "
            f"{width}x{height} (width x height{self.reason}), stride {self.grid.stride}, at most "
            f"{self.grid.detections} detections an image; {self.seconds:.1f} s"
        )


def examine(overrides: Sequence[str], images: str = "sample") -> Report:
    """Examine the data of ``python train.py OVERRIDES``; ``images``: which to open, see ``images.look``.

    Raises ``InputError`` for what is wrong with the overrides, and for files that are not there. Whatever is wrong with
    the data is a finding.
    """
    started = time.perf_counter()
    cfg = _configured(list(overrides))
    data = _data_of(cfg)
    datasets, findings = _read(data)
    splits = {name: split_of(name, dataset) for name, dataset in datasets.items()}
    if images != "none":
        splits = {name: _with_sizes(split) for name, split in splits.items()}
        for name, split in splits.items():
            datasets[name].sizes = split.sizes
    grid, reason, task_findings = _grid(cfg, datasets)
    findings += task_findings
    findings += check_classes(splits)
    findings += check_files(splits)
    for split in splits.values():
        findings += check_boxes(split)
        findings += check_objects(split, grid)
        findings += _notes(split)
    seen = {name: look(split, images, data.bit_depth) for name, split in splits.items()}
    if images != "none":
        for name, split in splits.items():
            findings += check_images(split, seen[name])
        findings += check_duplicates(splits, seen)
    findings = sort(findings)
    return Report(
        str(cfg.data.get("root") or getattr(next(iter(datasets.values()), None), "source", "data")),
        findings,
        passed(findings, images != "none", all(split.raw is not None for split in splits.values())),
        splits,
        seen,
        grid,
        reason,
        resolutions(splits["train"], grid) if "train" in splits else [],
        data.bit_depth,
        time.perf_counter() - started,
    )


def _configured(overrides: list[str]) -> Any:
    """The configuration of a training, checked as the command does."""
    understand_groups(overrides)
    cfg = training(overrides)
    if isinstance(cfg.resolution, int):
        cfg.resolution = [cfg.resolution] * 2
    if cfg.backbone.name == AUTO:
        cfg.backbone.name = NETWORKS[torch.cuda.is_available()]
    return cfg


def _data_of(cfg: Any) -> CenterNetDataModule:
    """The data module. Its input does not matter, and unreadable images do not stop it."""
    given = {key: plain(cfg.data[key]) for key in cfg.data if key not in ("resolution", "batch_size", "augment")}
    data = build_datamodule({**given, "resolution": [64, 64], "batch_size": 1, "augment": None})
    data.on_bad_image = "skip"
    data.prepare_data()
    return data


def _read(data: CenterNetDataModule) -> tuple[dict[str, ImageDataset], list[Finding]]:
    """The data sets that can be read, and findings about the others. Raises ``InputError`` for absent files."""
    datasets: dict[str, ImageDataset] = {}
    findings: list[Finding] = []
    pipeline = eval_pipeline(data.resolution)
    for name in SPLITS:
        if hasattr(data, "locate"):
            data.locate(name)
        try:
            datasets[name] = data.build_dataset(name, pipeline, train=name == "train")
        except InputError as error:
            what, _, do = str(error).rpartition("; ")
            findings.append(Finding("refused", "serious", what or do, do if what else "correct it", name, 1))
            try:  # for training, images of another size are left to the moment of reading
                datasets[name] = data.build_dataset(name, pipeline, train=True)
            except InputError:
                continue
        if data.class_names is None:
            data.class_names = datasets[name].class_names
    return datasets, findings


def _with_sizes(split: Split) -> Split:
    """A split with the sizes that its annotations do not tell, from the images' headers."""
    sizes = split.sizes.copy()
    for n in np.flatnonzero(~sizes.all(1)):
        if found := read_sizes(split.files[n]):
            sizes[n] = found[0]
    return split._replace(sizes=sizes)


def _grid(cfg: Any, datasets: Mapping[str, ImageDataset]) -> tuple[Grid, str, list[Finding]]:
    """The grid of the training, where its input size comes from, and findings about its task."""
    options, findings = plain(cfg.task), []
    dataset = next(iter(datasets.values()), None)
    name = options.pop("name")
    classes = len(dataset.class_names) if dataset is not None else 1
    task = build_task(name, classes, dataset.facts if dataset is not None else {}, **options)
    for split, each in datasets.items():
        try:
            task.check_data(each.fields, each.facts, f"the {split} data")
        except InputError as error:
            what, _, do = str(error).rpartition("; ")
            findings.append(Finding("task", "serious", what or do, do if what else "choose another task", split, 1))
    divisor, has_gpu = divisor_of(plain(cfg.backbone)), torch.cuda.is_available()
    size, reason = cfg.resolution, ""
    if size == AUTO:
        size, reason = [512, 512], ", a guess"
        if "train" in datasets:
            try:
                size, why = choose_resolution(
                    datasets["train"], SIDES[has_gpu], "with a GPU" if has_gpu else "without a GPU", divisor
                )
                reason = f"; auto: {why}"
            except InputError:  # no image can be read, which is a finding of its own
                pass
    warp = EvalWarp(tuple(size), cfg.data.test_mode, divisor)
    return Grid(warp, task.stride, task.heatmap.max_detections), reason, findings


TOLD = ("dropped ", "look like [x1, y1, x2, y2]")
"""What the reader of a json says and the checks of its boxes say better."""


def _notes(split: Split) -> list[Finding]:
    """What the reader dropped and changed."""
    notes = [note for note in split.notes if split.raw is None or not any(word in note for word in TOLD)]
    return [
        Finding(
            "reader",
            "warning" if "dropped" in note else "note",
            note.removeprefix(f"{split.source}: "),
            "correct it where it is not meant so",
            split.name,
            1,
            [Example(split.source)],
        )
        for note in notes
    ]


def check_json(report: Report) -> dict[str, Any]:
    """The report as plain data, for `check.json`."""
    return {
        "data": report.data,
        "serious": report.is_serious,
        "findings": [finding.plain() for finding in report.findings],
        "passed": report.fine,
        "splits": {
            name: {
                "source": split.source,
                "images": len(split.files),
                "objects": int(split.is_object.sum()),
                "crowds": int(split.crowd.sum()),
                "empty_images": int((split.per_image == 0).sum()),
                "most_objects": int(split.per_image.max(initial=0)),
                "opened": len(report.seen[name]),
                "classes": dict(zip(split.class_names, split.counts.tolist(), strict=True)),
            }
            for name, split in report.splits.items()
        },
        "input": list(report.grid.warp.size),
        "stride": report.grid.stride,
        "max_detections": report.grid.detections,
        "resolutions": [row._asdict() for row in report.resolutions],
        "seconds": round(report.seconds, 2),
    }


def file_name(path: str) -> str:
    """The last parts of a path, for a page."""
    return "/".join(Path(path).parts[-2:])
