"""Training from Python as the command line does it: the same lines on the screen, the same files in a run folder."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from centernet import app, build, console
from centernet.callbacks import SaveOnInterrupt, finished_run
from centernet.cli import CONFIGS
from centernet.data.datamodule import CenterNetDataModule
from centernet.errors import InputError, did_you_mean
from centernet.folders import run_folder
from centernet.module import CenterNetModule

log = logging.getLogger(__name__)

RUNS = "runs/train"


class Trained(NamedTuple):
    """A training that ended: its ``folder`` with ``best.ckpt``, and what the best checkpoint reached (``AP``, ...)."""

    folder: Path
    metrics: dict[str, float]


def train(
    module: CenterNetModule,
    data: CenterNetDataModule,
    folder: str | Path | None = None,
    *,
    ckpt: str | Path | None = None,
    logger: str | Logger = "default",
    callbacks: Mapping[str, Mapping[str, Any] | None] | None = None,
    add: Sequence[Callback] = (),
    **options: Any,
) -> Trained:
    """Train a module on data, then evaluate its best checkpoint.

    ``folder``: of the run, by default a new one in ``runs/train``, named by the time; it gets checkpoints,
    ``history.csv``, ``curves.png``, pictures, ``metrics.json``, detections and ``run.log``. ``ckpt``: a checkpoint, or
    a run folder, to continue from. ``logger``: besides ``history.csv``, one of ``configs/logger`` (``default``:
    TensorBoard where it is installed; ``csv``: none) or a logger of Lightning. ``callbacks``: options of the usual
    callbacks (``configs/callbacks/default.yaml``), such as ``{"average": {"decay": None}}``; None leaves one out.
    ``add``: further callbacks. ``options``: of Lightning's ``Trainer`` and those of ``configs/trainer/default.yaml``;
    the number of epochs is the schedule's. Raises ``InputError`` for anything that does not fit.
    """
    started = time.perf_counter()
    if (words := None if ckpt is None else str(ckpt)) == "auto":
        raise InputError("ckpt=auto is for the command line; give a checkpoint or a run folder")
    folder = Path(run_folder(RUNS, None if folder is None else str(folder), words, ()))
    folder.mkdir(parents=True, exist_ok=True)
    with _told_as_on_the_command_line(folder), finished_run():
        cfg = _configuration(
            module, data, folder, logger if isinstance(logger, str) else "csv", callbacks or {}, options
        )
        trainer = build.build_trainer(cfg, list(add), started)
        if isinstance(logger, Logger):
            trainer.logger = logger
        start, content = app._checkpoint_to_continue(words, folder)
        data.prepare_data()
        data.setup("fit")
        if start is not None:
            app._require_same_model(start, content, module)
        stop = next((callback for callback in trainer.callbacks if isinstance(callback, SaveOnInterrupt)), None)
        if stop is not None:
            stop.resume_command = "train(module, data, ckpt={path})"
        console.announce(cfg, data, module, trainer)
        try:
            app._fit(trainer, module, data, start, stop)
        except SystemExit:  # of a command that was stopped
            raise KeyboardInterrupt from None
        log.info(f"training took {console.minutes(time.perf_counter() - started)}")
        metrics = {}
        if not trainer.fast_dev_run and trainer.limit_val_batches != 0:
            best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
            metrics = app._validate(trainer, module, data, folder, best)
        log.info(f"\ncheckpoints, history.csv, curves.png and pictures are in {console.near(folder)}")
    return Trained(folder, metrics)


def _configuration(
    module: CenterNetModule,
    data: CenterNetDataModule,
    folder: Path,
    logger: str,
    callbacks: Mapping[str, Mapping[str, Any] | None],
    options: Mapping[str, Any],
) -> DictConfig:
    """What ``build_trainer`` reads of the command line's configuration."""
    usual = _read("callbacks", "default")
    for name, given in callbacks.items():
        if name not in usual:
            raise InputError(f"there is no callback {name!r} among the usual ones; {did_you_mean(name, usual)}")
        usual[name] = None if given is None else {**usual[name], **given}
    return OmegaConf.create(
        {
            "paths": {"run": str(folder)},
            "schedule": {"epochs": module.schedule.epochs},
            "test_mode": data.test_mode,
            "trainer": {**_read("trainer", "default"), **options},
            "callbacks": usual,
            "logger": _read("logger", logger),
        },
        flags={"allow_objects": True},  # such as a strategy
    )


def _read(group: str, name: str) -> dict[str, Any]:
    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file():
        known = [file.stem for file in path.parent.glob("*.yaml")]
        raise InputError(f"there is no {group} {name!r}; {did_you_mean(name, known)}")
    if "${hydra:" in path.read_text():
        raise InputError(f"{group}={name!r} is for the command line; give the {group} itself, such as WandbRun(folder)")
    return OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[return-value]


@contextmanager
def _told_as_on_the_command_line(folder: Path) -> Iterator[None]:
    """Show this package's messages, in ``run.log`` too, and of the libraries only what the user can act on."""
    ours = logging.getLogger("centernet")
    handlers: list[logging.Handler] = [logging.FileHandler(folder / "run.log")]
    if not ours.hasHandlers():
        handlers.append(logging.StreamHandler(sys.stdout))
    level = ours.level
    with warnings.catch_warnings():
        app._quiet()
        if ours.level in (logging.NOTSET, logging.WARNING):
            ours.setLevel(logging.INFO)
        for handler in handlers:
            handler.setFormatter(logging.Formatter("%(message)s"))
            ours.addHandler(handler)
        try:
            yield
        finally:
            ours.setLevel(level)
            for handler in handlers:
                ours.removeHandler(handler)
                handler.close()
