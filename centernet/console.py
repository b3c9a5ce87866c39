"""What the commands print before and after their work: the data and the network, where results lie, what comes next."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from omegaconf import DictConfig

    from centernet.module import CenterNetModule

log = logging.getLogger(__name__)


def announce(cfg: DictConfig, data: Any, module: CenterNetModule, trainer: pl.Trainer) -> None:
    """What is trained on what, before training."""
    sizes = ", ".join(f"{len(d)} {split} images" for split, d in data.datasets.items())
    log.info(f"data: {'; '.join([sizes, *data.datasets['train'].describe()])}")
    batch = min(data.batch_size, math.ceil(len(data.datasets["train"]) / trainer.world_size))
    count = sum(p.numel() for p in module.detector.network.parameters())
    log.info(
        f"network: {module.backbone['name']} + {module.backbone['neck']['name']}, {count / 1e6:.1f} M parameters, "
        f"input {data.resolution[0]}x{data.resolution[1]}, batch {batch} x {trainer.world_size}, "
        f"on {trainer.strategy.root_device}"
    )
    log.info(f"run folder: {cfg.paths.run}")


def after_training(run: Path, data: Any, module: CenterNetModule) -> str:
    """Where a training's results lie, and commands that go on from them."""
    shown, dataset = near(run), data.datasets["val"]
    best, images = f"{shown}/best.ckpt", getattr(dataset, "folder", None)
    commands = [f"python eval.py {setting('ckpt', best)}"]
    if images is not None:
        commands.append(f"python scripts/demo.py {shlex.quote(best)} {shlex.quote(near(Path(images)))}")
    if module.trainer.max_epochs == module.schedule.epochs:  # neither a time nor another number ended the training
        commands.append(f"python train.py {setting('ckpt', shown)} schedule.epochs={2 * module.schedule.epochs}")
    lines = [
        "",
        f"checkpoints   {best}, {shown}/last.ckpt",
        f"pictures      {shown}/pictures/ (training inputs, truth, prediction, heatmaps)",
        f"curves        {shown}/curves.png, numbers in {shown}/history.csv and {shown}/per_class.csv",
        f"detections    {shown}/{dataset.results}, {shown}/metrics.json",
        "",
        *(f"{'next:' if n == 0 else '':5} {command}" for n, command in enumerate(commands)),
    ]
    if is_built_in(data):
        lines.append(f"your own data: python train.py task={module.task.name} {data.own_data_command}")
    return "\n".join([*lines, "all options:   python train.py --help"])


def after_evaluation(run: Path, data: Any, has_pictures: bool) -> str:
    """Where an evaluation's results lie, those that are there."""
    shown = near(run)
    lines = ["", f"detections    {shown}/{data.datasets['val'].results}, {shown}/metrics.json"]
    if has_pictures:
        lines.append(f"pictures      {shown}/pictures/")
    if (run / "analysis" / "report.html").is_file():
        lines.append(f"what is wrong {shown}/analysis/report.html")
    if (run / "oracle.png").is_file():
        lines.append(f"oracle        {shown}/oracle.png")
    return "\n".join(lines)


def is_built_in(data: Any) -> bool:
    """Whether data was drawn by this package."""
    return type(data).__module__.startswith("centernet.data.builtin.")


def near(path: Path) -> str:
    """A path as it is written from here: relative if it lies below, else absolute."""
    path = path.absolute()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def setting(key: str, path: str) -> str:
    """``KEY=PATH`` for a command line, whatever the path contains."""
    if not re.fullmatch(r"[\w./:+-]+", path):
        path = "'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"  # a value of Hydra's grammar
    return shlex.quote(f"{key}={path}")


def overrides() -> list[str]:
    """The overrides of this run, without the checkpoint that it continues."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    return [str(word) for word in HydraConfig.get().overrides.task if not word.startswith("ckpt=")]


def minutes(seconds: float) -> str:
    """A duration in minutes and seconds."""
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
