"""The rows of a benchmark as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from centernet.benchmark.record import Row
from centernet.errors import InputError


def plot_rows(rows: Sequence[Row], title: str, path: str | Path) -> Path:
    """One picture with a panel for each quantity: a bar up to the median, a whisker from the 10th to the 90th
    percentile. Raises ``InputError`` if there is nothing to show, or the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.quantity, row.unit), []).append(row)
    if not panels:
        raise InputError(f"--plot {path}: nothing was measured, so there is nothing to plot")
    heights = [len(shown) + 1.5 for shown in panels.values()]
    figure = Figure(figsize=(9, 0.8 + 0.27 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axis, ((quantity, unit), shown) in zip(axes, panels.items(), strict=True):
        places, values = range(len(shown)), [row.value for row in shown]
        axis.barh(places, values, height=0.7, color="tab:blue", alpha=0.6)
        for place, row in enumerate(shown):
            if row.spread:
                whisker = [[row.value - row.spread.p10], [row.spread.p90 - row.value]]
                axis.errorbar(row.value, place, xerr=whisker, fmt="none", ecolor="black", capsize=3, lw=1)
        for place, row in enumerate(shown):
            edge = row.spread.p90 if row.spread else row.value
            axis.annotate(f"{row.value:.4g}", (edge, place), (5, 0), textcoords="offset points", va="center", size=8)
        axis.set_yticks(places, [row.name for row in shown], fontsize=8)
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(0, 1.15 * max([*(row.spread.p90 if row.spread else row.value for row in shown), 1e-9]))
        axis.set_xlabel(f"{quantity}, {unit}" if unit else quantity)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=9)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is not a picture's
        raise InputError(f"--plot {path} cannot be written ({error}); give a file such as plot.png") from None
    return Path(path)
