"""The curves of a training: a panel for each loss, the results of the metric, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, float]]
WIDE = 10.0  # a loss that changes by more than this factor is drawn on a logarithmic axis
FEW = 40  # up to so many epochs, each one is marked
TRAIN, VAL, BEST = "-", "--", "0.45"  # styles of the lines, color of the best epoch


def plot_history(
    rows: Rows,
    path: str | Path,
    results: Sequence[str] = ("AP",),
    weights: Mapping[str, float] | None = None,
) -> Path:
    """Write ``history_figure`` as a PNG; creates folders as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    history_figure(rows, results, weights).savefig(path, dpi=110)
    return path


def history_figure(rows: Rows, results: Sequence[str] = ("AP",), weights: Mapping[str, float] | None = None) -> Figure:
    """Curves over the epochs. ``rows``: one mapping per epoch, with ``epoch``; ``results`` of the metric, the first of
    which says which epoch is the best; ``weights`` of the losses in their sum, which the titles say."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = dict.fromkeys(name for row in rows for name in row)
    losses = dict.fromkeys(n.split("/", 1)[1] for n in names if n.startswith(("train/loss", "val/loss")))
    losses = sorted(losses, key=lambda name: name != "loss")  # their sum first
    shown = [name for name in results if len(_points(rows, f"val/{name}")[0])]
    count = len(losses) + bool(shown) + ("lr" in names)
    columns = min(4, max(2, math.ceil(math.sqrt(count))))
    lines = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(4.2 * columns, 0.5 + 2.9 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[max(count, 1) :]:
        axis.remove()
    keys = {}
    if losses:
        keys |= {"training": Line2D([], [], color="black", linestyle=TRAIN)}
    if any(name.startswith("val/loss") for name in names):
        keys |= {"validation": Line2D([], [], color="black", linestyle=VAL)}
    used = axes[:count]
    if shown:
        # At the right edge, where its legend has room.
        axis = used.pop(min(columns, count - ("lr" in names)) - 1)
        for name in shown:
            axis.plot(*_points(rows, f"val/{name}"), marker=_marker(rows), markersize=4, label=name)
        axis.set_title("results on the validation data", fontsize=10)
        axis.set_ylim(0, 1)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    if "lr" in names:
        axis = used.pop()
        axis.plot(*_points(rows, "lr"), marker=_marker(rows), markersize=4, color="black")
        axis.set_title("learning rate", fontsize=10)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for n, (axis, name) in enumerate(zip(used, losses, strict=True)):
        _draw_loss(axis, rows, name, f"C{n % 10}", (weights or {}).get(name.removeprefix("loss/")))
    best = _best(rows, shown)
    for axis in axes[:count]:
        _finish(axis, rows)
        if best is not None:
            axis.axvline(best[0], color=BEST, linestyle=":", zorder=1)
    if best is not None:
        keys[f"best epoch: {best[0]:.0f} ({shown[0]} {best[1]:.3f})"] = Line2D([], [], color=BEST, linestyle=":")
    if keys:
        figure.legend(keys.values(), keys.keys(), loc="outside upper left", ncols=len(keys), fontsize=9, frameon=False)
    return figure


def _points(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values, where there is a finite one."""
    kept = [(row["epoch"], row[name]) for row in rows if name in row and np.isfinite(row[name])]
    epochs, values = np.array(kept, float).reshape(-1, 2).T
    return epochs, values


def _best(rows: Rows, results: Sequence[str]) -> tuple[float, float] | None:
    """The first of the best epochs and its result."""
    if not results:
        return None
    epochs, values = _points(rows, f"val/{results[0]}")
    return float(epochs[values.argmax()]), float(values.max())


def _marker(rows: Rows) -> str | None:
    return "o" if len(rows) < FEW else None


def _draw_loss(axis: Axes, rows: Rows, name: str, color: str, weight: float | None) -> None:
    """One loss, unweighted, in training and validation."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    seen = []
    for split, style in (("train", TRAIN), ("val", VAL)):
        epochs, values = _points(rows, f"{split}/{name}")
        if len(epochs):
            # Hollow marks, by which a single epoch of validation can be told from training.
            look = {"color": color, "linestyle": style, "markerfacecolor": "white" if style == VAL else color}
            axis.plot(epochs, values, marker=_marker(rows), markersize=4, label=split, **look)
            seen.append(values)
    title = "loss" if name == "loss" else name.removeprefix("loss/").replace("_", " ")
    if weight is not None:
        title += f" (weight {weight:g})"
    elif name == "loss":
        title = "loss, the weighted sum"
    axis.set_title(title, fontsize=10)
    values = np.concatenate(seen) if seen else np.ones(1)
    if values.min() > 0 and values.max() > WIDE * values.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())


def _finish(axis: Any, rows: Rows) -> None:
    """Whole epochs, a grid."""
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    axis.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axis.set_xlabel("epoch", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
