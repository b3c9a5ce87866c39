"""Dashboards: a run in Weights & Biases, and what W&B and TensorBoard show of it besides Lightning's numbers."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only

from centernet.callbacks.history import CURVES, History
from centernet.callbacks.pictures import Pictures, Shown
from centernet.data.images import read_image
from centernet.errors import InputError
from centernet.metrics.rows import with_objects
from centernet.visualize import resized

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

# Numbers and what they are plotted over.
AXES = {
    "train/*": "trainer/global_step",
    "val/*": "epoch",
    "per_class/*": "epoch",
    "lr": "epoch",
    "images_per_second": "epoch",
}
LONGEST = 1024  # pixels of the longer side of an image with boxes that W&B draws
LONGEST_PICTURE = 2560  # of a picture of the run folder


def in_section(metrics: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Metrics with the results of an evaluation (``val/...``) in this section."""
    return {
        f"{section}/{name.removeprefix('val/')}" if name.startswith("val/") else name: value
        for name, value in metrics.items()
    }


class TensorBoardRun(TensorBoardLogger):
    """TensorBoard's files in ``tensorboard`` below a run folder."""

    results = "val"
    """Section of evaluation results: val, and best after training, which else would be one more point of the curves."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="tensorboard", default_hp_metric=False)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(in_section(metrics, self.results), step)


def tensorboard_if_installed(folder: str | Path) -> TensorBoardRun | None:
    """A logger for a run folder; None where TensorBoard is not installed."""
    return None if find_spec("tensorboard") is None else TensorBoardRun(folder)


class WandbRun(WandbLogger):
    """A W&B run for a run folder; it starts at once, so a missing key or server is reported before any work.

    ``name``: by default ``experiment`` (or ``job_type``) and the folder's name; ``notes``: by default the command with
    these ``overrides``; ``group``: by default the folder of its sweep, below ``sweeps``. A run that continues a
    ``ckpt`` (file, folder, auto) in its own folder keeps its id. ``log_model``: upload the best checkpoint.
    ``timeout``: seconds to wait for the server. Epochs count from 1. Raises ``InputError`` if W&B cannot start.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str = "centernet",
        entity: str | None = None,
        offline: bool = True,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str | None] = (),
        notes: str | None = None,
        log_model: bool = False,
        timeout: float = 30,
        experiment: str | None = None,
        job_type: str = "train",
        overrides: Sequence[str] = (),
        sweeps: str | Path | None = None,
        ckpt: str | Path | None = None,
    ) -> None:
        folder = Path(folder).resolve()
        label = folder.name
        if sweeps is not None and (above := Path(sweeps).resolve()) in folder.parents:
            inside = folder.relative_to(above)
            label, group = str(inside), group or inside.parts[0]
        options = {
            "project": project,
            "entity": entity,
            "name": name or f"{experiment or job_type} {label}",
            "group": group,
            "job_type": job_type,
            "tags": [tag for tag in tags if tag not in (None, "checkpoint")],  # eval's data=checkpoint names no data
            "notes": notes or shlex.join(["python", f"{job_type}.py", *overrides]),
            "mode": "offline" if offline else None,  # None: online, unless WANDB_MODE says otherwise
        }
        # Not `offline`: Lightning refuses it with `log_model`, but W&B records artifacts for a later upload.
        super().__init__(
            save_dir=folder,
            project=project,
            log_model=log_model,
            experiment=_start(folder, ckpt, timeout, options) if rank_zero_only.rank == 0 else None,
        )
        self._wandb_init.pop("anonymous", None)  # W&B warns of it, even if it is None
        self.results = "val"
        """Section of evaluation results: val, and best after training."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        named = in_section(metrics, self.results)
        if "epoch" in named:
            # Lightning counts from 0, history.csv and the screen from 1. The best checkpoint has no place among them.
            epoch = int(named.pop("epoch")) + 1
            named |= {"epoch": epoch} if self.results == "val" else {}
        super().log_metrics(named, step)


def _start(folder: Path, ckpt: str | Path | None, timeout: float, options: Mapping[str, Any]) -> wandb.Run:
    import wandb

    kept = folder / "wandb" / "run_id.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    goes_on = ckpt and (ckpt == "auto" or folder in (at := Path(ckpt).resolve(), at.parent)) and kept.is_file()
    try:
        wandb.setup(wandb.Settings(show_info=False))  # and never prompt for a key
        run = wandb.init(
            dir=folder,
            id=kept.read_text() if goes_on else None,
            resume="allow",
            reinit="finish_previous",
            config={"git": git_state()},
            settings=wandb.Settings(init_timeout=timeout, silent=True),
            **options,
        )
    except wandb.errors.Error as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        if "API key" in reason:
            raise InputError("W&B has no valid API key; run `wandb login`, or set logger.offline=true") from None
        raise InputError(
            f"W&B cannot be used ({reason}); check the network and `wandb login`, or set logger.offline=true"
        ) from None
    where = f"wandb sync {shlex.quote(str(Path(run.dir).parent))}" if run.offline else run.url
    log.info(f"W&B run: {'offline; upload it with ' if run.offline else ''}{where}")
    kept.write_text(run.id)
    run.define_metric("epoch", hidden=True)
    for names, axis in AXES.items():
        run.define_metric(names, step_metric=axis)
    return run


def git_state() -> dict[str, Any]:
    """Commit of the working directory's repository and whether tracked files differ from it; empty without one."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return {}


@contextmanager
def finished_run() -> Iterator[None]:
    """Finish W&B's run with the job, so that the next job of a sweep gets its own; exit code 1 if the job fails."""
    code = 1
    try:
        yield
        code = 0
    finally:
        if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
            wandb.finish(exit_code=code)


class Dashboard(Callback):
    """Shows results per class, precision over recall, the pictures of the run folder, and images with boxes to toggle
    in a ``WandbRun``; results per class and the pictures in TensorBoard. ``classes``: how many classes have curves."""

    def __init__(self, classes: int = 20) -> None:
        self.classes = classes
        self._has_inputs = False

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun) and trainer.is_global_zero:
                run = logger.experiment
                run.tags = tuple(dict.fromkeys([*(run.tags or ()), module.task.name, module.backbone["name"]]))

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._has_inputs = False

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._has_inputs or not trainer.is_global_zero:
            return
        self._has_inputs = True
        for callback in trainer.callbacks:
            if isinstance(callback, Pictures) and callback.inputs is not None:
                _show(trainer, "train/batches", callback.inputs)

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # From now on the best checkpoint is evaluated.
        for logger in trainer.loggers:
            if isinstance(logger, (WandbRun, TensorBoardRun)):
                logger.results = "best"

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if stage != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        for callback in trainer.callbacks:
            if isinstance(callback, History) and (path := callback.folder / CURVES).is_file():
                _show(trainer, "curves", read_image(path))

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        fitting = trainer.state.fn == TrainerFn.FITTING
        shown = [s for callback in trainer.callbacks if isinstance(callback, Pictures) for s in callback.shown]
        per_class = with_objects(module.per_class)
        lines = {
            f"per_class/{column}/{name}": value
            for name, values in list(per_class.items())[: self.classes]
            for column, value in values.items()
            if fitting and isinstance(value, float)
        }
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                content = {**lines, **self._table(per_class), **self._curves(module), **media_of(shown)}
                logger.log_metrics({**content, "epoch": trainer.current_epoch}, trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.log_metrics(lines, trainer.global_step)
                section = getattr(logger, "results", "val")
                for n, picture in enumerate(shown):
                    name = f"{section}/picture_{n:02d}"
                    logger.experiment.add_image(name, _reduced(picture.panel), trainer.global_step, dataformats="HWC")

    def _table(self, per_class: Mapping[str, Mapping[str, float]]) -> dict[str, wandb.Table]:
        import wandb

        if not per_class:
            return {}
        columns = ["class", *next(iter(per_class.values()))]
        rows = [[name, *(_defined(v) for v in values.values())] for name, values in per_class.items()]
        return {"val/per_class": wandb.Table(columns, rows)}

    def _curves(self, module: Any) -> dict[str, Any]:
        import wandb

        curves = {name: c for name, c in module.metric.precision_over_recall().items() if not np.isnan(c).all()}
        if not curves:
            return {}
        names = list(curves)[: self.classes]
        recalls = [np.linspace(0, 1, len(curves[name])).tolist() for name in names]
        chart = wandb.plot.line_series(
            recalls,
            [[_defined(value) for value in curves[name].tolist()] for name in names],
            keys=names,
            title="precision over recall",
            xname="recall",
        )
        return {"val/precision_over_recall": chart}


def _defined(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value


def _show(trainer: pl.Trainer, name: str, picture: np.ndarray) -> None:
    """A picture of the run folder in W&B and TensorBoard."""
    picture = _reduced(picture)
    for logger in trainer.loggers:
        if isinstance(logger, WandbRun):
            import wandb

            logger.log_metrics({name: wandb.Image(picture, file_type="png")}, trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")


def media_of(shown: Sequence[Shown]) -> dict[str, list[wandb.Image]]:
    """The panels of the run folder, and their images with boxes that can be toggled."""
    import wandb

    if not shown:
        return {}
    images, boxes = [], []
    for picture in shown:
        image, factor = resized(picture.image, most=LONGEST)
        images.append(image)
        sides = {"prediction": picture.found, "truth": picture.truth}
        boxes.append({side: _box_data(rows, picture.look.class_names, factor) for side, rows in sides.items()})
    panels = _padded([_reduced(picture.panel) for picture in shown])
    return {
        "val/pictures": [
            wandb.Image(image, file_type="jpg", caption=picture.name, boxes=sides)
            for image, picture, sides in zip(_padded(images), shown, boxes, strict=True)
        ],
        "val/panels": [
            wandb.Image(panel, file_type="jpg", caption=picture.name)
            for panel, picture in zip(panels, shown, strict=True)
        ],
    }


def _box_data(rows: Mapping[str, Any], class_names: Sequence[str], factor: float) -> dict[str, Any]:
    """Boxes in image pixels as W&B wants them, on an image that is ``factor`` as large."""
    data = []
    for n, (box, label) in enumerate(zip(rows["boxes"], rows["labels"], strict=True)):
        x1, y1, x2, y2 = (float(v) * factor for v in box)
        entry = {
            "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2},
            "domain": "pixel",
            "class_id": int(label),
            "box_caption": class_names[int(label)],
        }
        if "scores" in rows:
            score = float(rows["scores"][n])
            entry |= {"scores": {"score": score}, "box_caption": f"{class_names[int(label)]} {score:.2f}"}
        data.append(entry)
    return {"box_data": data, "class_labels": dict(enumerate(class_names))}


def _reduced(picture: np.ndarray) -> np.ndarray:
    return resized(picture, 1, LONGEST_PICTURE)[0]


def _padded(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Images of one size, as W&B wants them in a list: padded at the right and at the bottom."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    return [np.pad(i, ((0, height - i.shape[0]), (0, width - i.shape[1]), (0, 0))) for i in images]
