"""Config or checkpoint -> objects: the only place that instantiates."""

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

from centernet.data.datamodule import CenterNetDataModule
from centernet.module import CenterNetModule, load_module, read_checkpoint, require_divisible
from centernet.structures import InputError
from centernet.tasks.base import Task, task_class

log = logging.getLogger(__name__)

# A checkpoint's configuration may name nothing else: reading a file from the internet must run no code of its choice.
_DATA_PREFIX = "centernet.data."


def plain(config: Any) -> Any:
    """A config node as plain Python data, resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def build_datamodule(data: Mapping[str, Any]) -> CenterNetDataModule:
    """The data module of a ``data`` node, its files read and checked."""
    options = plain(data)
    target = options.get("_target_", "")
    if not target.startswith(_DATA_PREFIX):
        raise InputError(f"data._target_={target!r} is not below {_DATA_PREFIX}")
    require_divisible(options["resolution"], 4)
    try:
        return instantiate(options, _convert_="all")
    except Exception as error:
        # Hydra wraps whatever a constructor raises.
        cause = _cause(error)
        if isinstance(cause, TypeError) and "unexpected keyword argument" in str(cause):
            raise InputError(f"data: {str(cause).partition(' ')[2]}; see configs/data for what there is") from None
        raise cause from None


def build_module(cfg: DictConfig, class_names: list[str], facts: Mapping[str, Any] | None = None) -> CenterNetModule:
    """The LightningModule of a configuration, for these classes; ``facts`` of the data fill in what the task takes."""
    task_options = plain(cfg.task)
    name = task_options.pop("name")
    for option in task_class(name).takes:
        if option not in (facts or {}):
            continue
        said = task_options.get(option)
        if said is None:
            task_options[option] = facts[option]
        elif isinstance(said, Mapping) and isinstance(facts[option], Mapping):
            task_options[option] = {**facts[option], **said}
    pretrained = cfg.pretrained
    checkpoint = isinstance(pretrained, str) and pretrained.endswith(".ckpt")
    module = CenterNetModule(
        task=name,
        class_names=class_names,
        backbone=plain(cfg.backbone),
        pretrained=False if checkpoint else pretrained,
        schedule=plain(cfg.schedule),
        normalization=cfg.get("normalization") or "coco",
        task_options=task_options,
    )
    if checkpoint:
        log.info(start_from(module, pretrained))
    module.run_config = plain(cfg)
    return module


def start_from(module: CenterNetModule, path: str | Path) -> str:
    """Copy what fits from another checkpoint (head rows by class name) and say what was copied."""
    from centernet.models.convert import copy_weights

    content = read_checkpoint(path)
    theirs = content["centernet"]["module"]["class_names"]
    prefix = "detector.network."
    weights = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    class_heads = [name for name, head in module.task.heads.items() if head.per_class]
    return str(copy_weights(module.detector.network, weights, theirs, module.class_names, class_heads))


def build_trainer(cfg: DictConfig, callbacks: list[Callback] | None = None) -> pl.Trainer:
    """The Trainer with the configured callbacks and logger; ``callbacks`` are added."""
    options = plain(cfg.trainer)
    if options.get("accelerator") == "auto":
        options["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if options["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator=gpu, but no CUDA device is there; say trainer=default or trainer=ddp_cpu")
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
                    f"logger {logger_node['_target_'].rsplit('.', 1)[-1]} is not installed ({_cause(error)})"
                ) from None
            raise
    return instantiate(
        options, callbacks=[*made, *(callbacks or [])], logger=logger, default_root_dir=cfg.paths.run, _convert_="all"
    )


def from_checkpoint(path: str | Path, cfg: DictConfig) -> tuple[CenterNetModule, CenterNetDataModule]:
    """Module and data of a checkpoint; what ``data``, ``resolution`` and ``test_mode`` say replaces its own."""
    module, spec = load_module(path)
    transform = {"resolution": spec["resolution"], "test_mode": spec["mode"]}
    given = {key: value for key, value in plain(cfg.data).items() if value is not None}
    if "_target_" in given:
        options = {**given, **transform}
    else:
        trained = (module.run_config or {}).get("data")
        other_files = {"root", "val_annotations", "val_images", "splits"} & set(given)
        if trained is None and not other_files:
            raise InputError(f"{path} does not say what data it was trained on; say data.root=DIR")
        # Other files are read as files even when the training's were drawn: drawing is not what is wanted there.
        kept = ("batch_size", "eval_batch_size", "num_workers", "seed", "joints")
        reader = {**_reader(module.task), **{k: trained[k] for k in kept if k in (trained or {})}}
        options = {**(reader if other_files else trained), **transform, **given}
    for key in ("resolution", "test_mode"):
        if cfg.get(key):
            options[key] = plain(cfg[key])
    data = build_datamodule(options)
    data.class_names = module.class_names
    return module, data


def _reader(task: Task) -> dict[str, Any]:
    """The data module that reads the usual files of a task."""
    if "location" in task.requires:
        return {"_target_": "centernet.data.kitti.KittiDataModule"}
    prefix = {"prefix": "person_keypoints"} if "joints" in task.requires else {}
    return {"_target_": "centernet.data.coco.CocoDataModule", **prefix}


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
