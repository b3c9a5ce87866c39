"""What goes wrong, on disk after an evaluation: see ``centernet.metrics.analysis``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from centernet.metrics.analysis import BoxRows, analyze, curves_of, kinds_of, worst
from centernet.metrics.matching import match
from centernet.report import write_report

log = logging.getLogger(__name__)


class Analysis(Callback):
    """Writes ``analysis.json``, figures and ``report.html`` about the boxes of a validation into ``folder``.

    ``title``: of the page; ``result``: afterwards, the numbers, None for data without objects.
    """

    def __init__(self, folder: str | Path, title: str) -> None:
        self.folder, self.title = Path(folder), title
        self.result: dict[str, Any] | None = None
        self._rows = BoxRows()

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._rows = BoxRows().to(module.device)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int, *_: Any
    ) -> None:
        self._rows.update(outputs["detections"], batch["truth"], batch["image_id"])

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        gathered = self._rows.compute_once()
        images, found, truth = (gathered[name] for name in ("images", "found", "truth"))
        if not trainer.is_global_zero or not (truth["crowd"] == 0).any():
            return
        names = module.class_names or [str(label) for label in range(module.task.num_classes)]
        self.result = analyze(images, found, truth, names)
        matches = match(found, truth)
        curves = {name: curves_of(found, truth, matches, label) for label, name in enumerate(names)}
        gallery = worst(found, truth, matches, kinds_of(found, truth, matches))
        dataset = trainer.datamodule.datasets["val"]
        places = {int(image_id): row for row, image_id in enumerate(dataset.ids)}
        shown = []
        for row in gallery:
            place = places[int(images[row["image"]])]
            about = {"name": Path(dataset.files[place]).name, "class": names[row["label"]]}
            shown.append({**row, **about, "pixels": dataset.read(place)})
        write_report(self.folder, self.title, self.result, curves, shown)
        log.info("\n" + self.table())

    def table(self) -> str:
        """What each kind of error costs, and the best threshold."""
        lines = [f"{'errors':<12}{'number':>8}{'AP50 lost':>11}"]
        lines += [
            f"{kind:<12}{about['count']:>8}{about['cost']:>11.3f}   {about['about']}"
            for kind, about in self.result["errors"].items()
        ]
        best = self.result["best"]
        numbers = ", ".join(f"{name} {best[name]:.3f}" for name in ("precision", "recall", "F1"))
        lines.append(f"best threshold {best['threshold']:.2f}: {numbers}")
        return "\n".join(lines)
