"""How a run continues from a checkpoint: exactly where it stopped, with the settings that it is given now.

The checkpoint provides the weights, the optimizer's moments and the position; the run provides learning rate, weight
decay, batch size and number of processes. Lightning alone would take all of them from the checkpoint.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from centernet.checkpoint import read_checkpoint
from centernet.errors import InputError

log = logging.getLogger(__name__)

PROGRESS = "centernet_progress"
"""Key of the state of an unfinished epoch in a checkpoint."""
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The newest checkpoint of a run folder, and the one before it."""


def newest_checkpoint(folder: str | Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run folder (None: there is none), and a sentence for each damaged one."""
    path, _, damaged = newest_content(folder)
    return path, damaged


def newest_content(folder: str | Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The same with the content of the checkpoint."""
    damaged: list[str] = []
    for name in (LAST, PREVIOUS, "best.ckpt"):
        path = Path(folder) / name
        if not path.is_file():
            continue
        try:
            return path, read_checkpoint(path), damaged
        except InputError as error:
            damaged.append(f"{error}; taking the one before")
    return None, {}, damaged


def repeat_validation(loops: dict[str, Any], is_validating: bool) -> None:
    """Change the loops' state in a checkpoint that is written between an epoch's last step and its end, or in a
    validation, so that the resumed run starts with the whole validation."""
    steps, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
    if not _is_mid_epoch(loops) or not (is_validating or steps["is_last_batch"]):
        return
    for count in ("total", "current"):
        steps[count]["completed"] = steps[count]["processed"]
        # What Lightning takes for an evaluation that was interrupted in its first batch.
        validation[count].update(ready=1, started=1, processed=0, completed=0)


def continue_epoch(loops: dict[str, Any], data: Any, done: int, global_batch: int) -> None:
    """Let a data module, and the loops' state in a checkpoint, continue the epoch of which ``done`` images have been
    trained on; its batches may be of another size than they were."""
    if not hasattr(data, "continue_epoch"):
        if done:
            log.warning("the data is not a data module of this package: the epoch starts with its first batch")
        return
    data.continue_epoch(loops["epoch_progress"]["current"]["processed"], done)
    if done and not loops["epoch_loop.batch_progress"]["is_last_batch"]:
        loader = data.train_dataloader()
        left = max(len(data.datasets["train"]) - done, 0) / global_batch
        _set_position(loops, len(loader) - (math.floor(left) if loader.drop_last else math.ceil(left)))


def _set_position(loops: dict[str, Any], batches: int) -> None:
    """Change the loops' state to this number of finished batches in its unfinished epoch."""
    progress, state = loops["epoch_loop.batch_progress"], loops["epoch_loop.state_dict"]
    total = progress["total"]
    if total["completed"] < total["processed"]:  # saved within the last hook of a step
        state["_batches_that_stepped"] += 1
    count = total["processed"]
    total.update(ready=count, started=count, completed=count)
    progress["current"].update(ready=batches, started=batches, processed=batches, completed=batches)
    progress["is_last_batch"] = False


def _is_mid_epoch(loops: Mapping[str, Any]) -> bool:
    epoch = loops["epoch_progress"]["current"]
    return epoch["processed"] < epoch["ready"]


def steps_done(loops: Mapping[str, Any], per_epoch: int, accumulated: int) -> int:
    """Optimizer steps until the position in a checkpoint, if all epochs have ``per_epoch`` of them."""
    steps = loops["epoch_progress"]["current"]["processed"] * per_epoch
    if _is_mid_epoch(loops):
        steps += math.ceil(loops["epoch_loop.batch_progress"]["current"]["processed"] / accumulated)
    return steps


def keep_settings(
    checkpoint: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    steps: int,
    theirs: Mapping[str, Any],
    mine: Mapping[str, Any],
) -> None:
    """Put the settings of a new optimizer and scheduler into their saved states, in place, at a position in steps.

    ``theirs`` and ``mine``: the schedules of the checkpoint and of this run. Raises ``InputError`` if the state cannot
    be used.
    """
    changed = [name for name in mine if name in theirs and theirs[name] != mine[name]]
    if changed:
        shown = ", ".join(f"schedule.{name} {theirs[name]} -> {mine[name]}" for name in changed)
        log.info(f"the checkpoint's settings differ; this run's are used: {shown}")
    (state,) = checkpoint["optimizer_states"]
    _take_over(state, optimizer, theirs["optimizer"], mine["optimizer"])
    for group, factor in zip(state["param_groups"], scheduler.lr_lambdas, strict=True):
        group["lr"] = group["initial_lr"] * factor(steps)
    rates = [group["lr"] for group in state["param_groups"]]
    position = {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates}
    checkpoint["lr_schedulers"] = [{**scheduler.state_dict(), **position}]


def _take_over(saved: dict[str, Any], optimizer: torch.optim.Optimizer, theirs: str, mine: str) -> None:
    """Put a new optimizer's settings into the saved state of another one; its moments are matched by parameter."""
    if theirs != mine:
        raise InputError(
            f"the checkpoint was trained with schedule.optimizer={theirs}, this run uses {mine}; keep it, or start a "
            "new run from its weights with pretrained=CHECKPOINT"
        )
    old_groups, new_groups = saved["param_groups"], optimizer.state_dict()["param_groups"]
    if all("param_names" in group for group in old_groups):
        old, new = (
            {name: n for group in groups for name, n in zip(group["param_names"], group["params"], strict=True)}
            for groups in (old_groups, new_groups)
        )
        ids = {n: old.get(name) for name, n in new.items()}
    else:
        # Checkpoints of earlier versions: the same groups in the same order, or the state is of no use.
        shapes = [[len(group["params"]) for group in groups] for groups in (old_groups, new_groups)]
        if shapes[0] != shapes[1]:
            raise InputError(
                "the checkpoint's optimizer has other groups of parameters; keep its schedule.weight_decay, or start a "
                "new run from its weights with pretrained=CHECKPOINT"
            )
        pairs = zip(new_groups, old_groups, strict=True)
        ids = {a: b for new, group in pairs for a, b in zip(new["params"], group["params"], strict=True)}
    saved["state"] = {new: saved["state"][old] for new, old in ids.items() if old in saved["state"]}
    saved["param_groups"] = new_groups
