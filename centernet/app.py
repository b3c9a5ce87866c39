"""The commands train and eval. Heavy imports, including Hydra, happen after the command line has been parsed."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from centernet.cli import CONFIGS, register_backbones, take_arguments, understand_groups
from centernet.errors import InputError, NonFiniteLossError
from centernet.folders import continued_folder, is_first_process, is_on_other_node, run_folder
from centernet.runs import fail_status, finish_status, in_one_line, start_status

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from omegaconf import DictConfig

    from centernet.callbacks import CollectDetections
    from centernet.module import CenterNetModule

__all__ = ["CONFIGS", "eval_main", "register_backbones", "train_main", "understand_groups"]

log = logging.getLogger(__name__)

STARTED = time.perf_counter()
"""When this process began, or almost: before the slow imports."""


def train_main() -> None:
    """The command `python train.py`."""
    _main(train, "train")


def eval_main() -> None:
    """The command `python eval.py`."""
    _main(evaluate, "eval")


def _main(command: Callable[[DictConfig], Any], name: str) -> None:
    try:
        take_arguments(name)
    except InputError as error:
        _fail(error)

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    from centernet import sweep

    register_run_folder(name)
    job = sweep.command_words()

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)
    def run(cfg: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return sweep.run_job(job)
        _quiet()
        from centernet.callbacks import finished_run

        with open_dict(cfg):
            if cfg.get("ckpt") == "auto" and is_on_other_node():
                cfg.ckpt = continued_folder(f"{cfg.paths.runs}/{name}", cfg.paths.run, HydraConfig.get().overrides.task)
            cfg.paths.run = HydraConfig.get().runtime.output_dir
        with finished_run():
            return _recorded(command, cfg)

    try:
        run()
    except KeyboardInterrupt:
        print("\ninterrupted", flush=True)
        sys.exit(130)


def _recorded(command: Callable[[DictConfig], Any], cfg: DictConfig) -> float | None:
    """Run a command; how it ended is in its folder (``status.json``) for sweeps and tables of runs."""
    folder = Path(cfg.paths.run)
    if is_first_process():
        start_status(folder)
    try:
        value = command(cfg)
    except (InputError, NonFiniteLossError) as error:
        fail_status(folder, in_one_line(error))
        _fail(error)
    except Exception as error:
        if _is_lost_connection(error):
            _fail(InputError("another process of this run ended; its message is above"))
        fail_status(folder, in_one_line(error))
        with open(folder / "run.log", "a") as file:
            traceback.print_exc(file=file)
        raise
    if is_first_process():
        finish_status(folder, value)
    return value


def register_run_folder(name: str) -> None:
    """Let configurations of the command ``name`` resolve ``run_folder``: Hydra asks several times, for one folder."""
    from omegaconf import OmegaConf

    _folder.cache_clear()
    OmegaConf.register_new_resolver(
        "run_folder",
        lambda parent, chosen, ckpt, words: _folder(parent, chosen, ckpt if name == "train" else None, *words),
        replace=True,
    )


@functools.cache  # of a function of the module, as joblib and submitit pickle the resolver
def _folder(parent: str, chosen: str | None, ckpt: str | None, *words: str) -> str:
    return run_folder(parent, chosen, ckpt, words)


def _fail(error: Exception) -> None:
    print(f"error: {in_one_line(error)}", file=sys.stderr, flush=True)
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
    if not is_first_process():
        logging.getLogger("centernet").setLevel(logging.ERROR)


def train(cfg: DictConfig) -> float | None:
    """Train, then evaluate the best checkpoint; returns its metric, which a sweep compares."""
    import pytorch_lightning as pl
    from pytorch_lightning.plugins.environments import LightningEnvironment

    from centernet import build, sizing
    from centernet.callbacks import SaveOnInterrupt

    started = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    run = Path(cfg.paths.run)
    chosen = sizing.settle(cfg)
    trainer = build.build_trainer(cfg, started=STARTED)
    ckpt = _checkpoint_to_continue(cfg.ckpt, run)
    # Lightning's own processes start with the training, and are given the run folder.
    if trainer.world_size > 1 and not isinstance(trainer.strategy.cluster_environment, LightningEnvironment):
        trainer.strategy.setup_environment()
        ckpt = trainer.strategy.broadcast(ckpt)  # only the first process knows the run folder
    data = build.build_datamodule(cfg.data, cfg.backbone)
    data.prepare_data()
    data.setup("fit")
    module = build.build_module(cfg, data.class_names, data.facts)
    stop = next((callback for callback in trainer.callbacks if isinstance(callback, SaveOnInterrupt)), None)
    if stop is not None:
        stop.resume_command = f"python train.py {_overrides()} ckpt={{path}}".replace("  ", " ")
    build.tune(cfg, trainer, module, data)
    if chosen:
        log.info(sizing.describe(chosen))
    _announce(cfg, data, module, trainer)
    _fit(trainer, module, data, ckpt, stop)
    log.info(f"training took {_minutes(time.perf_counter() - started)}")
    if not cfg.evaluate or trainer.fast_dev_run:
        return None
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    if trainer.limit_val_batches == 0:
        log.info("nothing was validated (trainer.limit_val_batches=0), so there is nothing to evaluate")
        return None
    results = _validate(trainer, module, data, run, best)
    if trainer.is_global_zero:
        _tell_where(run, data, module.task.name)
    return results.get(module.metric.headline[0])


def _checkpoint_to_continue(given: str | None, run: Path) -> Path | None:
    """The checkpoint file for ``ckpt=FILE``, ``ckpt=FOLDER`` or ``ckpt=auto``; damaged ones are named."""
    from centernet.checkpoint import read_checkpoint
    from centernet.resume import newest_checkpoint

    if given is None:
        return None
    if given != "auto" and not Path(given).is_dir():
        read_checkpoint(given)
        return Path(given).resolve()
    found, damaged = newest_checkpoint(run if given == "auto" else given)
    for sentence in damaged:
        log.warning(sentence)
    if found is None and given != "auto":
        raise InputError(f"ckpt={given} holds no whole checkpoint; give a run folder or a checkpoint file")
    log.info("no run to continue; starting a new one" if found is None else f"continuing from {found}")
    return None if found is None else found.resolve()


def _fit(trainer: pl.Trainer, module: CenterNetModule, data: Any, ckpt: Path | None, stop: Any) -> None:
    """Train; an interrupted run exits with the code of its signal, and no process of it stays behind."""
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        received = getattr(stop, "signal", 0) or signal.SIGINT
        if not getattr(stop, "has_told", False):
            raise KeyboardInterrupt from None
        sys.exit(128 + received)
    except BaseException as error:
        launcher = trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(signal.SIGKILL)  # they may wait for this process, in an operation that signals do not end
        if (reason := _killed_worker(error)) is not None:
            raise InputError(
                f"a data-loading worker was ended from outside ({reason}); perhaps memory ran out: "
                "lower data.num_workers, and continue with ckpt=auto"
            ) from None
        raise


def _killed_worker(error: BaseException | None) -> str | None:
    """What torch says of a data-loading worker that was ended from outside, None if that is not the reason.

    It is raised by a signal wherever the main thread is; writing a checkpoint then ends in an error of its own.
    """
    while error is not None:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
            return str(error).splitlines()[0]
        error = error.__cause__ or error.__context__
    return None


def _is_lost_connection(error: BaseException) -> bool:
    """Whether an operation among several processes failed because another one is gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection closed"))


def evaluate(cfg: DictConfig) -> float | None:
    """Evaluate a checkpoint on the data it was trained on, or on other data of the same classes."""
    import pytorch_lightning as pl
    from omegaconf import OmegaConf

    from centernet import build
    from centernet.callbacks import Dashboard, Pictures, ProgressBar

    if OmegaConf.is_missing(cfg, "ckpt"):
        raise InputError("no checkpoint given; set ckpt=RUN/best.ckpt")
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    module, data = build.from_checkpoint(cfg.ckpt, cfg)
    run = Path(cfg.paths.run)
    data.prepare_data()
    data.setup("validate")
    names = ("ckpt", "data", "resolution", "test_mode", "metric", "seed")
    module.save_hyperparameters({"evaluation": {name: build.plain(cfg[name]) for name in names}})
    if cfg.trainer.precision is None:
        cfg.trainer.precision = (module.run_config or {}).get("trainer", {}).get("precision", "32-true")
    shown = [Pictures(run / "pictures", count=cfg.pictures), Dashboard(), ProgressBar()]
    trainer = build.build_trainer(cfg, shown)
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
    trained = _train_seconds(trainer)  # before the checkpoint's, which is perhaps of an earlier epoch, takes its place
    trainer.callbacks.append(collect)
    try:
        logged = trainer.validate(module, data, ckpt_path=ckpt, verbose=False, weights_only=True)[0]
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        trainer.callbacks.remove(collect)
    results = {k.removeprefix("val/"): v for k, v in logged.items() if k.startswith("val/") and "loss" not in k}
    if trainer.is_global_zero:
        _write_results(run, data, trainer, results, collect, ckpt, trained)
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
    trainer: pl.Trainer,
    results: Mapping[str, float],
    collect: CollectDetections,
    ckpt: str | None,
    trained: float | None,
) -> None:
    dataset, module = data.datasets["val"], trainer.lightning_module
    run.mkdir(parents=True, exist_ok=True)
    dataset.write_results(run, collect.rows)
    content = {
        "metrics": _json_safe(results),
        "per_class": {name: _json_safe(values) for name, values in module.per_class.items()},
        "images": len(dataset),
        "annotations": str(dataset.source),
        "task": module.task.name,
        "network": module.backbone,
        "parameters": sum(p.numel() for p in module.detector.network.parameters()),
        "train_seconds": trained,
        "checkpoint": ckpt,
    }
    # In one step: a sweep takes the file as the sign that a run is finished.
    part = run / ".metrics.json.part"
    part.write_text(json.dumps(content, indent=2))
    os.replace(part, run / "metrics.json")


def _train_seconds(trainer: pl.Trainer) -> float | None:
    """Seconds of the training that ended, None without one."""
    from centernet.callbacks import History

    return next((callback.seconds for callback in trainer.callbacks if isinstance(callback, History)), None)


def _json_safe(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}


def _tell_where(run: Path, data: Any, task: str) -> None:
    shown = os.path.relpath(run) if run.is_relative_to(Path.cwd()) else str(run)
    best = f"{shown}/best.ckpt"
    images = getattr(data.datasets["val"], "folder", "IMAGES")
    log.info(
        f"""
checkpoints   {best}, {shown}/last.ckpt
pictures      {shown}/pictures/ (training inputs, truth, prediction, heatmaps)
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
