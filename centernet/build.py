"""Builds objects from a configuration or a checkpoint; nothing else instantiates configuration nodes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from centernet.checkpoint import KEY, network_weights, read_checkpoint
from centernet.data.datamodule import CenterNetDataModule
from centernet.data.readers import reader_for
from centernet.errors import InputError
from centernet.models.centernet import divisor_of
from centernet.models.transfer import copy_weights
from centernet.module import CenterNetModule, load_module, require_divisible

log = logging.getLogger(__name__)

# A checkpoint's configuration may name only these: loading a downloaded file must not run arbitrary code.
_DATA_PREFIX = "centernet.data."


def plain(config: Any) -> Any:
    """A config node as plain Python data, resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def build_datamodule(data: Mapping[str, Any], backbone: Mapping[str, Any] | None = None) -> CenterNetDataModule:
    """The data module of a ``data`` node, with inputs that fit this ``backbone`` node."""
    options = plain(data)
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


def build_module(cfg: DictConfig, class_names: list[str], facts: Mapping[str, Any] | None = None) -> CenterNetModule:
    """The LightningModule of a configuration, for the classes and facts of its data."""
    task_options = plain(cfg.task)
    pretrained = cfg.pretrained
    checkpoint = isinstance(pretrained, str) and pretrained.endswith(".ckpt")
    module = CenterNetModule(
        task_options.pop("name"),
        class_names=class_names,
        facts=facts,
        backbone=plain(cfg.backbone),
        pretrained=False if checkpoint else pretrained,
        schedule=plain(cfg.schedule),
        normalization=cfg.get("normalization"),
        task_options=task_options,
        metric_options=plain(cfg.get("metric")),
    )
    if checkpoint:
        log.info(start_from(module, pretrained))
    module.run_config = plain(cfg)
    module.save_hyperparameters(module.run_config)
    return module


def start_from(module: CenterNetModule, path: str | Path) -> str:
    """Copy matching weights from another checkpoint (head rows by class name); returns a summary."""
    content = read_checkpoint(path)
    theirs = content[KEY]["module"]["class_names"]
    by_class = [name for name, head in module.task.heads.items() if head.per_class]
    return str(copy_weights(module.detector.network, network_weights(content), theirs, module.class_names, by_class))


def build_trainer(cfg: DictConfig, callbacks: list[Callback] | None = None) -> pl.Trainer:
    """The Trainer with the configured callbacks and logger; ``callbacks`` are added."""
    options = plain(cfg.trainer)
    if options.get("accelerator") == "auto":
        options["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if options["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise InputError(
            "trainer.accelerator=gpu, but no CUDA device is available; use trainer=default or trainer=ddp_cpu"
        )
    nodes = plain(cfg.get("callbacks") or {})
    made = [instantiate(node, _convert_="all") for node in nodes.values() if node]
    logger_node = plain(cfg.get("logger") or {})
    logger: Any = False
    if logger_node.get("_target_"):
        try:
            logger = instantiate(logger_node, _convert_="all")
        except Exception as error:
            if isinstance(_cause(error), ModuleNotFoundError):
                raise InputError(
                    f"logger {logger_node['_target_'].rsplit('.', 1)[-1]} is not installed ({_cause(error)}); install "
                    "it or use logger=csv"
                ) from None
            raise
    return instantiate(
        options, callbacks=[*made, *(callbacks or [])], logger=logger, default_root_dir=cfg.paths.run, _convert_="all"
    )


def from_checkpoint(path: str | Path, cfg: DictConfig) -> tuple[CenterNetModule, CenterNetDataModule]:
    """Module and data of a checkpoint; values of ``data``, ``resolution``, ``test_mode`` and ``metric`` override its
    own."""
    said = {name: value for name, value in plain(cfg.get("metric") or {}).items() if value is not None}
    module, spec = load_module(path, said)
    transform = {"resolution": spec["resolution"], "test_mode": spec["mode"], "divisor": spec["divisor"]}
    given = {key: value for key, value in plain(cfg.data).items() if value is not None}
    if "_target_" in given:
        options = {**given, **transform}
    else:
        trained = (module.run_config or {}).get("data")
        other_files = {"root", "val_annotations", "val_images", "splits"} & set(given)
        if trained is None and not other_files:
            raise InputError(f"{path} does not record its training data; set data.root=DIR")
        # Other data is read from files even if the training data was generated.
        reader = reader_for(module.task.needs, trained or {}) if other_files else trained
        options = {**reader, **transform, **given}
    for key in ("resolution", "test_mode"):
        if cfg.get(key):
            options[key] = plain(cfg[key])
    data = build_datamodule(options)
    data.class_names = module.class_names
    return module, data


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
