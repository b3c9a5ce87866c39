"""Builds objects from a configuration or a checkpoint; nothing else instantiates configuration nodes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from centernet.callbacks import TimeBudget, seconds_of
from centernet.data.datamodule import CenterNetDataModule
from centernet.data.readers import options_for, reader_for
from centernet.errors import InputError
from centernet.export.exported import is_exported, load_exported
from centernet.machine import available_cores
from centernet.models.centernet import divisor_of, require_divisible
from centernet.modes import Modes
from centernet.module import CenterNetModule, load_module
from centernet.plugins import AtomicCheckpointIO, CheckpointActivations, Compile, NormSync

log = logging.getLogger(__name__)

# A checkpoint's configuration may name only these: loading a downloaded file must not run arbitrary code.
_DATA_PREFIX = "centernet.data."
# Weights stay in float32: an update of Adam is too small for half of the bits, and the 64-bit kernels have no use here.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")
MATMUL_PRECISIONS = ("highest", "high", "medium")
# Options of ours beside those of Lightning's Trainer.
TRAINER_EXTRAS = ("compile", "checkpoint_activations", "matmul_precision")
# Of an evaluation, where neither the user nor the checkpoint says another.
USUAL_BATCH = 8
# Ways to fit images that give all inputs one size.
ONE_SIZE = ("fit", "stretch", "width")


def plain(config: Any) -> Any:
    """A config node as plain Python data, resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def build_datamodule(data: Mapping[str, Any], backbone: Mapping[str, Any] | None = None) -> CenterNetDataModule:
    """The data module of a ``data`` node, with inputs that fit this ``backbone`` node."""
    options = plain(data)
    if isinstance(options["resolution"], int):
        options["resolution"] = [options["resolution"]] * 2
    target = options.get("_target_", "")
    if not target.startswith(_DATA_PREFIX):
        raise InputError(f"data._target_={target!r} is not below {_DATA_PREFIX}; name a data module of this package")
    require_divisible(options["resolution"], 4)
    if backbone is not None and options.get("test_mode") == "keep":
        options["divisor"] = divisor_of(plain(backbone))
    try:
        return instantiate(options, _convert_="all", _recursive_=False)
    except Exception as error:
        # Hydra wraps constructor errors.
        cause = _cause(error)
        if isinstance(cause, TypeError) and "unexpected keyword argument" in str(cause):
            raise InputError(
                f"data: {str(cause).partition(' ')[2]}; run python train.py --help data to list the options"
            ) from None
        raise cause from None


def build_module(
    cfg: DictConfig, class_names: list[str], facts: Mapping[str, Any] | None = None, continues: bool = False
) -> CenterNetModule:
    """The LightningModule of a configuration, for the classes and facts of its data. ``continues``: all weights will
    come from a checkpoint, so none are fetched or read now."""
    task_options = plain(cfg.task)
    pretrained = False if continues else cfg.pretrained
    module = CenterNetModule(
        task_options.pop("name"),
        class_names=class_names,
        facts=facts,
        backbone=plain(cfg.backbone),
        pretrained=pretrained,
        schedule=plain(cfg.schedule),
        normalization=cfg.get("normalization"),
        task_options=task_options,
        metric_options=plain(cfg.get("metric")),
        teacher=cfg.get("teacher"),
        teacher_weight=cfg.get("teacher_weight", 1.0),
        inference=modes_of(cfg),
    )
    module.run_config = plain(cfg)
    module.save_hyperparameters(module.run_config)
    return module


def modes_of(cfg: DictConfig) -> Modes:
    """The modes of inference of a configuration. Raises ``InputError``."""
    given = plain(cfg.get("inference"))
    if given and given.get("flip") == "by_preset":
        raise InputError(
            "inference=published repeats the test of a published number, but no preset is given; add experiment=NAME "
            "(make list-experiments), or choose inference=plain, flip or multiscale"
        )
    return Modes.of(given)


def build_trainer(cfg: DictConfig, callbacks: list[Callback] | None = None, started: float | None = None) -> pl.Trainer:
    """The Trainer with the configured callbacks and logger; ``callbacks`` are added. ``started``: when the command
    began (``time.perf_counter``), for its time budget.

    Sets the precision of float32 products for the whole process. Raises ``InputError`` for options that do not fit.
    """
    options = plain(cfg.trainer)
    if options.get("accelerator") == "auto":
        options["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if options["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise InputError(
            "trainer.accelerator=gpu, but no CUDA device is available; use trainer=default or trainer=ddp_cpu"
        )
    compiles, repeats, products = (options.pop(name, None) for name in TRAINER_EXTRAS)
    if compiles and repeats:
        raise InputError(
            "trainer.compile=true decides itself what is computed again; use trainer.checkpoint_activations=false"
        )
    _set_matmul_precision(products or MATMUL_PRECISIONS[0], options["accelerator"])
    options["precision"] = _one_of("precision", options["precision"], PRECISIONS)
    if options["precision"] == "auto":
        options["precision"] = "bf16-mixed" if is_fast_in_16_bits(options["accelerator"]) else "32-true"
    if options["sync_batchnorm"] and options["accelerator"] == "cpu":
        raise InputError("trainer.sync_batchnorm=true works on GPUs only; use trainer=ddp_cpu")
    if options["accumulate_grad_batches"] == "auto":  # `sizing` knows the data
        options["accumulate_grad_batches"] = 1
    if options["benchmark"] is None:
        mode = cfg.get("test_mode") or cfg.data.get("test_mode")
        options["benchmark"] = not options["deterministic"] and mode in ONE_SIZE
    if options["deterministic"] is False and not torch.are_deterministic_algorithms_enabled():
        options["deterministic"] = None  # nothing to set, as setting it imports torch's compiler: seconds
    _announce_turns(options)
    if (limit := options.pop("max_time", None)) is not None:
        callbacks = [*(callbacks or []), TimeBudget(seconds_of(limit), started)]
        options["max_epochs"] = -1  # the time decides
    plugins = [AtomicCheckpointIO(), *([NormSync()] if options.pop("sync_batchnorm") else [])]
    changes = [*([Compile()] if compiles else []), *([CheckpointActivations()] if repeats else [])]
    callbacks = [*changes, *(callbacks or [])]
    nodes = plain(cfg.get("callbacks") or {})
    # A preset may set options of callbacks that an evaluation does not have.
    made = [instantiate(node, _convert_="all") for node in nodes.values() if node and "_target_" in node]
    made = [callback for callback in made if not getattr(callback, "is_off", False)]
    logger_node = plain(cfg.get("logger") or {})
    logger: Any = False
    if logger_node.get("_target_"):
        try:
            logger = instantiate(logger_node, _convert_="all") or False  # Lightning takes None for its own default
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, ModuleNotFoundError):
                raise InputError(
                    f"logger {logger_node['_target_'].rsplit('.', 1)[-1]} is not installed ({cause}); install "
                    "it or use logger=csv"
                ) from None
            raise cause from None
    try:
        return instantiate(
            options,
            callbacks=[*made, *callbacks],
            logger=logger,
            plugins=plugins,
            default_root_dir=cfg.paths.run,
            _convert_="all",
        )
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, (TypeError, ValueError, MisconfigurationException)):
            reason = str(cause).removeprefix("Trainer.__init__() ").rstrip(".")
            raise InputError(f"trainer: {reason}; python train.py --help trainer=default lists the options") from None
        raise cause from None


def _announce_turns(options: Mapping[str, Any]) -> None:
    """Say so if more processes are asked for than the machine has cores."""
    cores = available_cores()
    wanted = options["devices"]
    if options["accelerator"] == "cpu" and isinstance(wanted, int) and wanted > cores:
        log.warning(
            f"trainer.devices={wanted}, but this machine has {cores} cores: {wanted} processes take turns, which "
            f"is slower than trainer.devices={cores}"
        )


def _one_of(option: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise InputError(f"trainer.{option}={value!r} is not possible; choose one of {', '.join(known)}")
    return value


def is_fast_in_16_bits(accelerator: str) -> bool:
    """Whether this machine multiplies bfloat16 numbers faster than float32: GPUs since the A100, CPUs with AVX512-BF16
    or AMX."""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("avx512_bf16", "amx_tile"))
    return any(has() for has in known)


def _set_matmul_precision(value: str, accelerator: str) -> None:
    """How GPUs multiply float32 numbers, in matrix products and convolutions."""
    _one_of("matmul_precision", value, MATMUL_PRECISIONS)
    if accelerator == "gpu":
        torch.set_float32_matmul_precision(value)
        torch.backends.cudnn.allow_tf32 = value != "highest"


def tune(cfg: DictConfig, trainer: pl.Trainer, module: CenterNetModule, data: CenterNetDataModule) -> None:
    """Find the batch size and the learning rate before training, where ``tune`` asks for it."""
    tuner = Tuner(trainer)
    if cfg.tune.batch_size:
        if not trainer.strategy.root_device.type == "cuda":
            raise InputError("tune.batch_size=true needs a GPU, whose memory it fills; set data.batch_size=N")
        tuner.scale_batch_size(module, datamodule=data, init_val=data.batch_size)
        log.info(f"batch size: {data.batch_size} fits (data.batch_size={data.batch_size})")
    if cfg.tune.lr:
        epochs, trainer.fit_loop.max_epochs = trainer.fit_loop.max_epochs, -1  # the test may take several
        found = tuner.lr_find(module, datamodule=data, update_attr=False).suggestion()
        trainer.fit_loop.max_epochs = epochs
        if found is None:
            raise InputError("tune.lr=true found no learning rate, as no loss fell; set schedule.lr=RATE")
        module.schedule = dataclasses.replace(module.schedule, lr=found, lr_batch_size=None)
        log.info(f"learning rate: {found:.2g} (schedule.lr={found:.2g} schedule.lr_batch_size=null)")


def from_checkpoint(path: str | Path, cfg: DictConfig) -> tuple[CenterNetModule, CenterNetDataModule]:
    """Module and data of a checkpoint or an exported file (``centernet.export``); values of ``data``, ``resolution``,
    ``test_mode`` and ``metric`` override its own."""
    said = {name: value for name, value in plain(cfg.get("metric") or {}).items() if value is not None}
    module, spec = (exported_module if is_exported(path) else load_module)(path, said)
    module.detector.use(modes_of(cfg))
    transform = {"resolution": spec["resolution"], "test_mode": spec["mode"], "divisor": spec["divisor"]}
    given = {key: value for key, value in plain(cfg.data).items() if value is not None}
    if "_target_" in given:
        trained = (module.run_config or {}).get("data") or {}
        options = {**options_for(module.task.needs, trained), **given, **transform}
    else:
        trained = (module.run_config or {}).get("data")
        other_files = {"root", "val_annotations", "val_images", "splits", "yaml"} & set(given)
        if trained is None and not other_files:
            raise InputError(
                f"{path} does not record its training data; set data.root=DIR, or data=NAME for built-in data"
            )
        # Other data is read from files even if the training data was generated.
        reader = reader_for(module.task.needs, trained or {}, given) if other_files else trained
        if "val_split" in given:
            reader = {**reader, "val_share": None} if "val_share" in reader else reader  # the other list is the answer
        options = {**options_for(module.task.needs, trained or {}), **reader, **transform, **given}
    for key in ("resolution", "test_mode"):
        if cfg.get(key):
            options[key] = plain(cfg[key])
    if is_exported(path):
        size = options["resolution"]
        module.detector.require_size([size] * 2 if isinstance(size, int) else size, options["test_mode"])
    if options.get("batch_size") == "auto":  # for training
        options["batch_size"] = ((module.run_config or {}).get("data") or {}).get("batch_size", USUAL_BATCH)
    data = build_datamodule(options)
    data.class_names = module.class_names
    return module, data


def exported_module(
    path: str | Path, metric_options: Mapping[str, Any] | None = None
) -> tuple[CenterNetModule, dict[str, Any]]:
    """A module that evaluates an exported file, and its preprocessing; ``metric_options`` override those of the file.
    Raises ``InputError``."""
    exported = load_exported(path)
    about = exported.artifact.metadata
    module = CenterNetModule(
        about["task"],
        class_names=exported.class_names,
        facts=about["facts"],
        backbone=about["backbone"],
        normalization=exported.normalization,
        task_options=about["task_options"],
        metric_options={**about.get("metric_options", {}), **(metric_options or {})},
        detector=exported,
    )
    return module, exported.spec


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
