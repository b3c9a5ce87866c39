"""Oracle evaluation: what the errors of each head cost (the original's ``--eval_oracle_*``)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from centernet.errors import InputError, did_you_mean
from centernet.metrics.rows import ImageMetric
from centernet.report import oracle_figure
from centernet.tasks import Task

log = logging.getLogger(__name__)

PLAIN, ALL, LADDER = "none", "all", "ladder"


def oracle_variants(asked: str | Sequence[str], task: Task) -> dict[str, list[str]]:
    """Which heads are replaced in each variant, by its name: nothing, the heads asked for together, or for ``ladder``
    each head alone and all of them. Raises ``InputError`` for a head that the task does not have."""
    heads = list(task.heads)
    if asked == LADDER:
        return {PLAIN: [], **{head: [head] for head in heads}, ALL: heads}
    chosen = [asked] if isinstance(asked, str) else list(asked)
    for head in chosen:
        if head not in heads:
            raise InputError(
                f"oracle={head} is not a head of task {task.name}; {did_you_mean(str(head), [*heads, LADDER])}"
            )
    return {PLAIN: [], " + ".join(chosen): chosen}


class Oracle(Callback):
    """Also evaluates detections of maps in which the truth takes the place of some heads.

    Writes ``oracle.json`` and ``oracle.png`` into ``folder``, prints a table, and logs the main result of each variant
    as ``oracle/HEADS``. What is missing to 1 with all heads replaced is what the grid, the number of detections and the
    decoding cost. Raises ``InputError`` for an unknown head, or with several scales, whose maps are not one.
    """

    def __init__(self, asked: str | Sequence[str], folder: str | Path) -> None:
        self.asked, self.folder = asked, Path(folder)
        self.results: dict[str, dict[str, float]] = {}
        self._variants: dict[str, list[str]] = {}
        self._metrics: dict[str, ImageMetric] = {}

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        if not module.detector.has_maps:
            raise InputError(
                "oracle works on the maps of a network, which an exported file does not give; remove oracle"
            )
        if len(module.detector.modes.scales) > 1:
            raise InputError("oracle works on the maps of one pass; remove inference.scales")
        self._variants = oracle_variants(self.asked, module.task)

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._metrics = {name: module.new_metric() for name in self._variants}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Mapping[str, Any], batch: Any, batch_index: int, *_: Any
    ) -> None:
        maps = outputs["maps"]
        size = tuple(next(iter(maps.values())).shape[-2:])
        truth = module.task.oracle(module.task.encode(batch["objects"], size), size)
        for name, heads in self._variants.items():
            mixed = {**maps, **{head: truth[head] for head in heads}}
            found = module.detector.decode_in_images(mixed, batch)
            self._metrics[name].update(found, batch["truth"], batch["image_id"])

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.results = {
            name: {key: float(value) for key, value in metric.compute_once().items()}
            for name, metric in self._metrics.items()
        }
        main = module.metric.headline[0]
        if not trainer.is_global_zero:
            return
        values = {name: results[main] for name, results in self.results.items()}
        for logger in trainer.loggers:
            logger.log_metrics({f"oracle/{name}": value for name, value in values.items()})
        self.folder.mkdir(parents=True, exist_ok=True)
        defined = {
            name: {key: None if math.isnan(value) else value for key, value in results.items()}
            for name, results in self.results.items()
        }
        (self.folder / "oracle.json").write_text(json.dumps(defined, indent=2))
        (self.folder / "oracle.png").write_bytes(oracle_figure(values, main))
        log.info("\n" + self.table(module.metric.headline))

    def table(self, columns: Sequence[str]) -> str:
        """Each variant's main results, and what the first of them gains."""
        width = max(len(name) for name in ("truth for", *self.results))
        lines = [f"{'truth for':<{width}}" + "".join(f"{column:>9}" for column in columns) + f"{'gain':>9}"]
        for name, results in self.results.items():
            gain = results[columns[0]] - self.results[PLAIN][columns[0]]
            shown = "".join(f"{results[column]:9.3f}" for column in columns)
            lines.append(f"{name:<{width}}{shown}" + (f"{gain:+9.3f}" if name != PLAIN else f"{'':>9}"))
        return "\n".join(lines)
