"""The commands train and eval. Heavy imports, including Hydra, happen after the command line has been parsed."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from centernet.cli import CONFIGS, register_backbones, take_arguments, understand_groups
from centernet.errors import InputError, NonFiniteLossError

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from omegaconf import DictConfig

    from centernet.callbacks import CollectDetections
    from centernet.module import CenterNetModule

__all__ = ["CONFIGS", "eval_main", "register_backbones", "train_main", "understand_groups"]

log = logging.getLogger(__name__)

RUN_STAMP = "CENTERNET_RUN_STAMP"


def train_main() -> None:
    """The command `python train.py`."""
    _main(train, "train")


def eval_main() -> None:
    """The command `python eval.py`."""
    _main(evaluate, "eval")


def _main(command: Callable[[DictConfig], Any], name: str) -> None:
    # One time stamp for all processes of a run: `${now:}` would differ between ranks.
    os.environ.setdefault(RUN_STAMP, time.strftime("%Y-%m-%d_%H-%M-%S"))
    try:
        take_arguments(name)
    except InputError as error:
        _fail(error)

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)
    def run(cfg: DictConfig) -> float | None:
        _quiet()
        with open_dict(cfg):
            cfg.paths.run = cfg.paths.get("run") or HydraConfig.get().runtime.output_dir
        try:
            return command(cfg)
        except (InputError, NonFiniteLossError) as error:
            _fail(error)
        except KeyboardInterrupt:
            sys.exit(130)

    run()


def _fail(error: Exception) -> None:
    # Errors of data-loading workers arrive as traceback text; the message is its last line.
    text = str(error)
    mark = f"{type(error).__name__}: "
    if "Traceback (most recent call last)" in text and mark in text:
        text = text[text.rindex(mark) + len(mark) :].strip()
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(2)


def _quiet() -> None:
    """Keep only the messages that the user can act on."""
    import warnings

    import faster_coco_eval  # noqa: F401  (these libraries set their own log levels on import)
    import pytorch_lightning  # noqa: F401

    for name in (
        "faster_coco_eval",
        "lightning_utilities",
        "pytorch_lightning",
        "lightning.pytorch",
        "lightning_fabric",
        "timm",
        "wandb",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*Checkpoint directory.*",
        ".*persistent_workers.*",
        ".*overfit_batches.*",
        ".*could not find the monitored key.*",  # a run that ends before its first validation
        ".*It is recommended to use.*sync_dist.*",
        ".*using `DistributedSampler`.*",
        ".*_pytree.*",
        ".*isinstance.treespec.*",
        ".*weights_only.*",
        ".*lr_scheduler.step.*",
        ".*srun.*",
    ):
        warnings.filterwarnings("ignore", pattern)
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        logging.getLogger("centernet").setLevel(logging.ERROR)


def train(cfg: DictConfig) -> float | None:
    """Train, then evaluate the best checkpoint; returns its metric, which a sweep compares."""
    import pytorch_lightning as pl

    from centernet import build
    from centernet.callbacks import SaveOnInterrupt
    from centernet.checkpoint import read_checkpoint

    started = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.ckpt is not None:
        read_checkpoint(cfg.ckpt)
    run = Path(cfg.paths.run)
    trainer = build.build_trainer(cfg)
    data = build.build_datamodule(cfg.data, cfg.backbone)
    data.prepare_data()
    data.setup("fit")
    module = build.build_module(cfg, data.class_names, data.facts)
    for callback in trainer.callbacks:
        if isinstance(callback, SaveOnInterrupt):
            callback.resume_command = f"python train.py {_overrides()} ckpt={{path}}".replace("  ", " ")
    _announce(cfg, data, module, trainer)
    trainer.fit(module, data, ckpt_path=cfg.ckpt, weights_only=True)
    log.info(f"training took {_minutes(time.perf_counter() - started)}")
    if not cfg.evaluate or trainer.fast_dev_run:
        return None
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    results = _validate(trainer, module, data, run, best)
    if trainer.is_global_zero:
        _tell_where(run, data, module.task.name)
    return results.get(module.metric.headline[0])


def evaluate(cfg: DictConfig) -> float | None:
    """Evaluate a checkpoint on the data it was trained on, or on other data of the same classes."""
    import pytorch_lightning as pl
    from omegaconf import OmegaConf

    from centernet import build
    from centernet.callbacks import Pictures, ProgressBar

    if OmegaConf.is_missing(cfg, "ckpt"):
        raise InputError("no checkpoint given; set ckpt=RUN/best.ckpt")
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    module, data = build.from_checkpoint(cfg.ckpt, cfg)
    run = Path(cfg.paths.run)
    data.prepare_data()
    data.setup("validate")
    trainer = build.build_trainer(cfg, [Pictures(run / "pictures", count=cfg.pictures), ProgressBar()])
    dataset = data.datasets["val"]
    log.info(f"{cfg.ckpt}: {module.task.name}, {module.backbone['name']}, {len(dataset)} images of {dataset.source}")
    results = _validate(trainer, module, data, run, None)
    return results.get(module.metric.headline[0])


def _announce(cfg: DictConfig, data: Any, module: CenterNetModule, trainer: pl.Trainer) -> None:
    sizes = ", ".join(f"{len(d)} {split} images" for split, d in data.datasets.items())
    log.info(f"data: {'; '.join([sizes, *data.datasets['train'].describe()])}")
    count = sum(p.numel() for p in module.detector.network.parameters())
    log.info(
        f"network: {module.backbone['name']} + {module.backbone['neck']['name']}, {count / 1e6:.1f} M parameters, "
        f"input {data.resolution[0]}x{data.resolution[1]}, batch {data.batch_size} x {trainer.world_size}, "
        f"on {trainer.strategy.root_device}"
    )
    log.info(f"run folder: {cfg.paths.run}")


def _validate(trainer: pl.Trainer, module: CenterNetModule, data: Any, run: Path, ckpt: str | None) -> dict[str, float]:
    """Evaluate, write ``metrics.json`` and ``detections.json``, print the tables; returns the metrics."""
    from centernet.callbacks import CollectDetections

    collect = CollectDetections()
    trainer.callbacks.append(collect)
    try:
        logged = trainer.validate(module, data, ckpt_path=ckpt, verbose=False, weights_only=True)[0]
    finally:
        trainer.callbacks.remove(collect)
    results = {k.removeprefix("val/"): v for k, v in logged.items() if k.startswith("val/") and "loss" not in k}
    if trainer.is_global_zero:
        _write_results(run, data, module, results, collect, ckpt)
        dataset = data.datasets["val"]
        if len(dataset.fields["labels"]):
            log.info("\n" + module.metric.table(results))
            log.info(module.metric.class_table())
        else:
            log.info(f"{dataset.source} has no labels to evaluate against; detections are in {run}/{dataset.results}")
    return results


def _write_results(
    run: Path,
    data: Any,
    module: CenterNetModule,
    results: Mapping[str, float],
    collect: CollectDetections,
    ckpt: str | None,
) -> None:
    dataset = data.datasets["val"]
    run.mkdir(parents=True, exist_ok=True)
    dataset.write_results(run, collect.rows)
    content = {
        "metrics": _json_safe(results),
        "per_class": {name: _json_safe(values) for name, values in module.per_class.items()},
        "images": len(dataset),
        "annotations": str(dataset.source),
        "task": module.task.name,
        "network": module.backbone,
        "checkpoint": ckpt,
    }
    (run / "metrics.json").write_text(json.dumps(content, indent=2))


def _json_safe(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}


def _tell_where(run: Path, data: Any, task: str) -> None:
    shown = os.path.relpath(run) if run.is_relative_to(Path.cwd()) else str(run)
    best = f"{shown}/best.ckpt"
    images = getattr(data.datasets["val"], "folder", "IMAGES")
    log.info(
        f"""
checkpoints   {best}, {shown}/last.ckpt
pictures      {shown}/pictures/ (truth, prediction, heatmaps)
curves        {shown}/curves.png, numbers in {shown}/history.csv and {shown}/per_class.csv
detections    {shown}/{data.datasets["val"].results}, {shown}/metrics.json

next: python eval.py ckpt={best}
      python scripts/demo.py {best} {images}
      python train.py task={task} {data.own_data_command}
      python train.py --help"""
    )


def _overrides() -> str:
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return ""
    given = [o for o in HydraConfig.get().overrides.task if not o.startswith("ckpt=")]
    return " ".join(shlex.quote(override) for override in given)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
