"""The commands train and eval. Heavy imports happen after the command line and the configuration have been checked."""

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from centernet.cli import CONFIGS, register_backbones, take_arguments, understand_groups
from centernet.command import fail, hidden, imports, run_command
from centernet.continued import differences, kept_record, require_more_to_train, training_begins
from centernet.deferred import defer_compiler
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
    run_command(functools.partial(_start, command, name))


def _start(command: Callable[[DictConfig], Any], name: str) -> None:
    with imports(), _refusals():
        take_arguments(name)
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import open_dict

        from centernet import sweep
        from centernet.composition import check_command

        register_run_folder(name)
        check_command(name, sys.argv[1:])
    job = sweep.command_words()

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)
    def run(cfg: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return sweep.run_job(job)
        with imports():
            _quiet()
            from centernet.callbacks import finished_run

        with open_dict(cfg):
            if cfg.get("ckpt") == "auto" and _has_other_folder(HydraConfig.get().overrides.hydra):
                cfg.ckpt = continued_folder(f"{cfg.paths.runs}/{name}", cfg.paths.run, HydraConfig.get().overrides.task)
            cfg.paths.run = HydraConfig.get().runtime.output_dir
        with finished_run():
            return _recorded(command, cfg)

    with kept_record(sys.argv[1:] if name == "train" else []):
        run()


@contextmanager
def _refusals() -> Iterator[None]:
    """A command that is refused says so in its folder, if a sweep has made one for it."""
    try:
        yield
    except InputError as error:
        folders = [Path(word.partition("=")[2].strip("'")) for word in sys.argv if word.startswith("hydra.run.dir=")]
        for folder in folders:
            if folder.is_dir():
                fail_status(folder, in_one_line(error))
        raise


def _has_other_folder(options: Any) -> bool:
    """Whether this process looks for the run to continue by itself, as its own run folder is a temporary one: one of
    torchrun or srun, or on another node. Lightning gives the folder to those it starts."""
    return is_on_other_node() or (not is_first_process() and not any(o.startswith("hydra.run.dir=") for o in options))


def _recorded(command: Callable[[DictConfig], Any], cfg: DictConfig) -> float | None:
    """Run a command; how it ended is in its folder (``status.json``) for sweeps and tables of runs."""
    folder = Path(cfg.paths.run)
    if is_first_process():
        start_status(folder)
    try:
        value = command(cfg)
    except (InputError, NonFiniteLossError) as error:
        fail_status(folder, in_one_line(error))
        fail(error)
    except Exception as error:
        if _is_lost_connection(error):
            fail(InputError("another process of this run ended; its message is above"))
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


def _quiet() -> None:
    """Import what the commands need, and keep only the messages that the user can act on."""
    import warnings

    import faster_coco_eval  # noqa: F401  (it sets its own log level on import, as Lightning does)

    # Seconds of imports that are of no use here, or not yet: torch's compiler; torchmetrics restores a window function
    # of scipy for another library, torch's counter of operations looks for kernels of triton, and timm for a logger,
    # which are imported where they are wanted.
    defer_compiler()
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    with hidden("scipy.signal", "hamming"), hidden("triton"):
        import pytorch_lightning  # noqa: F401
    with hidden("wandb"):
        from centernet import models  # noqa: F401
    from centernet import build, sizing  # noqa: F401

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
        ".*your dataloader is not resumable.*",  # ours are: they go on with the next batch
        ".*AccumulateGrad node's stream.*",  # Lightning sets DDP up in a stream of its own
    ):
        warnings.filterwarnings("ignore", pattern)
    if not is_first_process():
        logging.getLogger("centernet").setLevel(logging.ERROR)


def train(cfg: DictConfig) -> float | None:
    """Train, then evaluate the best checkpoint; returns its metric, which a sweep compares."""
    import pytorch_lightning as pl
    from pytorch_lightning.plugins.environments import LightningEnvironment

    from centernet import build, console, sizing
    from centernet.callbacks import SaveOnInterrupt

    started = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    run = Path(cfg.paths.run)
    ckpt, content = _checkpoint_to_continue(cfg.ckpt, run)
    theirs = content.get(KEY, {}).get("config")
    sizing.take_over(cfg, theirs)
    chosen = sizing.settle(cfg)
    # The first process knows whether the command may come again; others may have found the folder by themselves.
    may_repeat = cfg.ckpt == "auto" or not is_first_process()
    done = "" if ckpt is None else require_more_to_train(ckpt, content, build.plain(cfg), may_repeat)
    trainer = build.build_trainer(cfg, started=STARTED)
    # Lightning's own processes start with the training, and are given the run folder.
    if trainer.world_size > 1 and not isinstance(trainer.strategy.cluster_environment, LightningEnvironment):
        trainer.strategy.setup_environment()
        ckpt = trainer.strategy.broadcast(ckpt)  # only the first process knows the run folder
    data = build.build_datamodule(cfg.data, cfg.backbone)
    data.prepare_data()
    data.setup("fit")
    module = build.build_module(cfg, data.class_names, data.facts, continues=ckpt is not None)
    if ckpt is not None and content:
        _require_same_model(ckpt, content, module)
    module.overrides = console.overrides()
    stop = next((callback for callback in trainer.callbacks if isinstance(callback, SaveOnInterrupt)), None)
    if stop is not None:
        stop.resume_command = " ".join(["python train.py", *map(shlex.quote, module.overrides), "ckpt={path}"])
    build.tune(cfg, trainer, module, data)
    if chosen:
        log.info(sizing.describe(chosen))
    console.announce(cfg, data, module, trainer)
    if theirs and (changed := differences(theirs, build.plain(cfg))):
        log.info(f"differs from the checkpoint, which counts from now on: {changed}")
    training_begins()
    _fit(trainer, module, data, ckpt, stop)
    log.info(done or f"training took {console.minutes(time.perf_counter() - started)}")
    if not cfg.evaluate or trainer.fast_dev_run:
        return None
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    if trainer.limit_val_batches == 0:
        log.info("nothing was validated (trainer.limit_val_batches=0), so there is nothing to evaluate")
        return None
    results = _validate(trainer, module, data, run, best)
    if trainer.is_global_zero:
        log.info(console.after_training(run, data, module))
    return results.get(module.metric.headline[0])


KEY = "centernet"  # of the description in checkpoints (`checkpoint.KEY`, whose module needs torch)


def _checkpoint_to_continue(given: str | None, run: Path) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint file for ``ckpt=FILE``, ``ckpt=FOLDER`` or ``ckpt=auto``, and its content without weights; damaged
    ones are named."""
    from centernet.checkpoint import read_checkpoint
    from centernet.resume import newest_content

    if given is None:
        return None, {}
    if given != "auto" and not Path(given).is_dir():
        found, content = Path(given), read_checkpoint(given)
    else:
        found, content, damaged = newest_content(run if given == "auto" else given)
        for sentence in damaged:
            log.warning(sentence)
        if found is None and given != "auto":
            raise InputError(f"ckpt={given} holds no whole checkpoint; give a run folder or a checkpoint file")
        log.info("no run to continue; starting a new one" if found is None else f"continuing from {found}")
    if found is None:
        return None, {}
    if "loops" not in content:
        raise InputError(
            f"ckpt={given} holds weights only, with no training to continue; start from them with pretrained={found}"
        )
    return found.resolve(), {name: content.get(name) for name in (KEY, "loops", "callbacks", "global_step")}


def _require_same_model(ckpt: Path, content: Mapping[str, Any], module: CenterNetModule) -> None:
    from centernet.checkpoint import difference

    if (reason := difference(content[KEY]["module"], module.description()["module"])) is not None:
        raise InputError(f"the checkpoint does not match this run: {reason}")


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

    from centernet import build, console
    from centernet.callbacks import Analysis, Dashboard, Oracle, Pictures, ProgressBar

    pl.seed_everything(0, workers=True, verbose=False)  # nothing is drawn, unless by a model of the user's own
    module, data = build.from_checkpoint(cfg.ckpt, cfg)
    run = Path(cfg.paths.run)
    data.prepare_data()
    data.setup("validate")
    names = ("ckpt", "data", "resolution", "test_mode", "inference", "metric")
    module.save_hyperparameters({"evaluation": {name: build.plain(cfg[name]) for name in names}})
    if cfg.trainer.precision is None:
        cfg.trainer.precision = (module.run_config or {}).get("trainer", {}).get("precision", "32-true")
    shown = [Pictures(run / "pictures", count=cfg.pictures), Dashboard(), ProgressBar()]
    if cfg.analysis:
        shown.append(Analysis(run / "analysis", f"{module.backbone['name']}, {module.task.name}: {cfg.ckpt}"))
    if cfg.oracle is not None:
        shown.append(Oracle(build.plain(cfg.oracle), run))
    trainer = build.build_trainer(cfg, shown)
    dataset = data.datasets["val"]
    modes = module.detector.modes.describe()
    log.info(
        f"{cfg.ckpt}: {module.task.name}, {module.backbone['name']}, {len(dataset)} images of {dataset.source}"
        f"{', ' if modes else ''}{modes}"
    )
    results = _validate(trainer, module, data, run, None)
    if trainer.is_global_zero:
        log.info(console.after_evaluation(run, data, bool(cfg.pictures)))
    return results.get(module.metric.headline[0])


def _validate(trainer: pl.Trainer, module: CenterNetModule, data: Any, run: Path, ckpt: str | None) -> dict[str, float]:
    """Evaluate, write ``metrics.json`` and ``detections.json``, print the tables; returns the metrics."""
    from centernet.callbacks import CollectDetections

    collect = CollectDetections()
    trained = _train_seconds(trainer)  # before the checkpoint's, which is perhaps of an earlier epoch, takes its place
    trainer.callbacks.append(collect)
    try:
        logged = trainer.validate(module, data, ckpt_path=ckpt, verbose=False, weights_only=True)[0]
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
