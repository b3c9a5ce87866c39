"""Plots of several runs: groups with their changes, and results over cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def plot_groups(
    groups: Mapping[str, Sequence[float]], compared_with: Mapping[str, str], value: str, path: str | Path
) -> Path:
    """One row per group as one PNG: single values, their mean and sample standard deviation, and a bar from the mean of
    the group that it is compared with. ``value``: title of the axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(8, 1.5 + 0.32 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.use_sticky_edges = False  # bars that begin at 0 leave a margin for the marks there
    means = {name: float(np.mean(values)) for name, values in groups.items() if values}
    better, worse, right = "tab:blue", "tab:orange", ("axes fraction", "data")
    for row, (name, values) in enumerate(groups.items()):
        if name not in means:
            axis.annotate("no result", (1.01, row), xycoords=right, va="center", fontsize=8)
            continue
        text = f"{means[name]:.3f}"
        if (other := compared_with.get(name)) in means:
            change = means[name] - means[other]
            axis.barh(row, change, left=means[other], height=0.6, color=better if change >= 0 else worse, alpha=0.4)
            text += f"  {change:+.3f}"
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")  # not drawn
        runs = axis.scatter(values, [row] * len(values), s=16, facecolors="none", edgecolors="0.4", zorder=4)
        mean = axis.errorbar(means[name], row, xerr=spread, fmt="|", markersize=11, capsize=3, color="black", zorder=3)
        axis.annotate(text, (1.01, row), xycoords=right, va="center", fontsize=8)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.set_xlabel(value)
    axis.grid(axis="x", alpha=0.3)
    if means:
        bars = {"better": Patch(color=better, alpha=0.4), "worse": Patch(color=worse, alpha=0.4)}
        marks = {"single runs": runs, "mean ± standard deviation": mean, **bars}
        figure.legend(marks.values(), marks.keys(), loc="outside upper center", ncols=4, fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points ``(cost, value)`` that no other one beats: no cheaper one is as good; cheapest first."""
    front, best = [], -np.inf
    for index in sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1])):
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def plot_trade_off(points: Mapping[str, tuple[float, float]], cost: str, value: str, path: str | Path) -> Path:
    """Labeled points ``(cost, value)`` as one PNG, those of the Pareto front joined. ``cost``, ``value``: titles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    places = list(points.values())
    front = pareto_front(places)
    axis.scatter(*zip(*places, strict=True), color="0.6")
    axis.plot(*zip(*(places[n] for n in front), strict=True), marker="o", label="Pareto front")
    middle = (min(x for x, _ in places) + max(x for x, _ in places)) / 2
    for label, (x, y) in points.items():
        # Labels point to the middle, so that they stay inside.
        side = ("left", 6) if x <= middle else ("right", -6)
        axis.annotate(label, (x, y), (side[1], 5), textcoords="offset points", fontsize=7, ha=side[0])
    axis.set_xlabel(cost)
    axis.set_ylabel(value)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
