"""The rows of a benchmark as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from centernet.benchmark.record import Row
from centernet.errors import InputError

WHOLE = ("whole", "step")
"""Values of the label ``part`` that stand for the sum of the others."""


class Bar(NamedTuple):
    """A bar: its name, the row that it reaches to, and the parts that it is put together from, if any."""

    name: str
    row: Row
    parts: list[tuple[str, float]]


def bars_of(rows: Sequence[Row]) -> list[Bar]:
    """A bar for each row; rows that are parts of another one (label ``part``) are in the bar of their whole."""
    bars: dict[Any, Bar] = {}
    for row in rows:
        rest = Row({name: value for name, value in row.labels.items() if name != "part"}, row.quantity, row.unit, 0.0)
        part = row.labels.get("part")
        bar = bars.setdefault(rest.key, Bar(rest.name, row, []))
        if part is None or part in WHOLE:
            bars[rest.key] = bar._replace(row=row)
        else:
            bar.parts.append((str(part), row.value))
    return list(bars.values())


def plot_rows(rows: Sequence[Row], title: str, path: str | Path) -> Path:
    """One picture with a panel for each quantity: a bar up to the median, in the colors of its parts, and a whisker
    from the 10th to the 90th percentile. Raises ``InputError`` if there is nothing to show, or the file cannot be
    written."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.quantity, row.unit), []).append(row)
    if not panels:
        raise InputError(f"--plot {path}: nothing was measured, so there is nothing to plot")
    bars = {key: bars_of(shown) for key, shown in panels.items()}
    heights = [len(shown) + 2.0 for shown in bars.values()]
    figure = Figure(figsize=(9, 1.0 + 0.27 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axis, ((quantity, unit), shown) in zip(axes, bars.items(), strict=True):
        names = list(dict.fromkeys(name for bar in shown for name, _ in bar.parts))
        colors = {name: colormaps["tab10"](n % 10) for n, name in enumerate(names)}
        edges = [bar.row.spread.p90 if bar.row.spread else bar.row.value for bar in shown]
        for place, (bar, edge) in enumerate(zip(shown, edges, strict=True)):
            left = 0.0
            for name, value in bar.parts or [("", bar.row.value)]:
                axis.barh(place, value, left=left, height=0.7, color=colors.get(name, "tab:blue"), alpha=0.6)
                left += value
            if bar.row.spread:
                whisker = [[bar.row.value - bar.row.spread.p10], [bar.row.spread.p90 - bar.row.value]]
                axis.errorbar(bar.row.value, place, xerr=whisker, fmt="none", ecolor="black", capsize=3, lw=1)
            text = f"{bar.row.value:.4g}"
            axis.annotate(text, (max(edge, left), place), (5, 0), textcoords="offset points", va="center", size=8)
        for name, color in colors.items():
            axis.barh(0, 0, color=color, alpha=0.6, label=name)
        if colors:
            axis.legend(fontsize=8, ncols=len(colors), loc="lower center", bbox_to_anchor=(0.4, 1.0))
        axis.set_yticks(range(len(shown)), [bar.name for bar in shown], fontsize=8)
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(0, 1.15 * max(*edges, 1e-9))
        axis.set_xlabel(f"{quantity}, {unit}" if unit else quantity)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=9)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is not a picture's
        raise InputError(f"--plot {path} cannot be written ({error}); give a file such as plot.png") from None
    return Path(path)
