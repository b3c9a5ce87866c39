"""The table of runs: `python scripts/leaderboard.py FOLDER ... [--metric AP50] [--by KEY] [--csv FILE] [--plot FILE]`.

All runs in these folders and below, single ones and those of sweeps, best first: overrides in which they differ,
results, training time, number of parameters. A run that failed or has not finished is a row with its reason.
``--by KEY``: a row for each value of an override instead, with mean and standard deviation of its runs.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from centernet.command import run_command
from centernet.errors import InputError
from centernet.folders import require_writable_file
from centernet.ladder import compared_with
from centernet.runs import (
    Run,
    best_first,
    find_runs,
    grouped_table,
    metric_names,
    results_by,
    run_names,
    table,
    varying,
    write_csv,
)

OVER = {"time": ("train_seconds", 60, "training time in minutes"), "parameters": ("parameters", 1e6, "parameters in M")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run folder or a folder of them")
    parser.add_argument("--metric", help="result to sort by and to plot (default: the first headline, such as AP)")
    parser.add_argument("--by", metavar="KEY", help="one row per value of this override, such as label or task")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table with all results")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the result over its cost, or by KEY")
    parser.add_argument("--over", choices=list(OVER), default="time", help="cost in the plot (default: time)")
    args = parser.parse_args()
    for option, path in (("--csv", args.csv), ("--plot", args.plot)):
        if path is not None:
            require_writable_file(path, option)
    runs = [run for folder in args.folders for run in find_runs(folder)]
    names = metric_names(runs, args.metric)
    width = shutil.get_terminal_size((120, 24)).columns
    if args.by:
        print(grouped_table(runs, args.by, width, args.metric))
    else:
        runs = best_first(runs, names[0]) if names else runs
        print(table(runs, width, args.metric))
    if args.csv:
        write_csv(runs, args.csv)
    if args.plot and args.by:
        draw_by(runs, names, args.by, args.plot)
    elif args.plot:
        draw(runs, names, args.over, args.plot)


def draw(runs: list[Run], names: list[str], over: str, path: Path) -> None:
    """Plot the first of these results over a cost, for the runs that have both."""
    field, unit, title = OVER[over]
    keys = varying(runs)
    points = {}
    for name, run in zip(run_names(runs), runs, strict=True):
        cost, value = getattr(run, field), run.metrics.get(names[0]) if names else None
        if cost is not None and value is not None:
            given = " ".join(run.overrides[key] for key in keys if key in run.overrides)
            points[f"{name}: {given}" if given else name] = (cost / unit, value)
    if not points:
        raise InputError(f"no run here records both a result and its {over}; --over chooses time or parameters")
    from centernet.visualize import plot_trade_off

    plot_trade_off(points, title, names[0], path)
    print(f"plot: {path}")


def draw_by(runs: list[Run], names: list[str], key: str, path: Path) -> None:
    """Plot the first of these results for each value of an override."""
    if not names:
        raise InputError("no run here has a result to plot")
    from centernet.visualize import plot_groups

    values = results_by(runs, key, names[0])
    plot_groups(values, compared_with(values), names[0], path)
    print(f"plot: {path}")


if __name__ == "__main__":
    run_command(main)
