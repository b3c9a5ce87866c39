"""Runs on disk: how each ended, what it was given, what it reached; their table and csv."""

from __future__ import annotations

import csv
import json
import os
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from centernet.errors import InputError, NonFiniteLossError, did_you_mean
from centernet.folders import overrides_of
from centernet.ladder import compared_with

STATUS, METRICS, SWEEP, HISTORY = "status.json", "metrics.json", "sweep.json", "history.csv"

SLOW = 1.3  # times the median duration: an epoch that something else on the machine has probably slowed
DISTURBED = 0.03  # of the time lost to such epochs: results in equal time are no longer comparable


@dataclass(frozen=True)
class Run:
    """A run folder. ``state``: finished, failed, unfinished (running, stopped or killed) or not started."""

    folder: Path
    overrides: dict[str, str]
    state: str
    reason: str = ""
    value: float | None = None  # what the command returned: the first headline of the metric
    metrics: dict[str, float | None] = field(default_factory=dict)
    train_seconds: float | None = None
    parameters: int | None = None
    share_lost: float = 0.0  # of the time of its training epochs, as in `share_lost`

    @property
    def finished(self) -> bool:
        return self.state == "finished"


def write_json(path: Path, content: Any) -> None:
    """Write a file that is whole or absent, also if the process is killed meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=2))
    os.replace(part, path)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a json file; empty if it is absent or not whole."""
    with suppress(OSError, ValueError):
        if isinstance(content := json.loads(path.read_text()), dict):
            return content
    return {}


def start_status(folder: Path) -> None:
    """Forget how an earlier attempt at this run ended."""
    (folder / STATUS).unlink(missing_ok=True)


def finish_status(folder: Path, value: float | None) -> None:
    """Record that a run is finished, and what it returned."""
    write_json(folder / STATUS, {"state": "finished", "value": value})


def fail_status(folder: Path, reason: str) -> None:
    """Record why a run failed. The first reason is kept: other processes of the run fail because one did."""
    if not (folder / STATUS).exists():
        write_json(folder / STATUS, {"state": "failed", "reason": reason})


def in_one_line(error: BaseException) -> str:
    """An error on one line: the message of bad input as it is, others as bugs."""
    if isinstance(error, (InputError, NonFiniteLossError)):
        # Errors of data-loading workers arrive as traceback text; the message is its last line.
        text, mark = str(error), f"{type(error).__name__}: "
        if "Traceback (most recent call last)" in text and mark in text:
            text = text[text.rindex(mark) + len(mark) :]
    else:
        text = f"bug: {type(error).__name__}: {error}".partition("\n")[0]
    return " ".join(text.split())


def read_run(folder: Path, overrides: Sequence[str] | None = None) -> Run:
    """The run in a folder. ``overrides``: ``KEY=VALUE`` each; read from the folder if not given."""
    if overrides is None:
        overrides = [override for override in overrides_of(folder) or () if override != "ckpt=auto"]
    given = dict(override.partition("=")[::2] for override in overrides)
    status, content = read_json(folder / STATUS), read_json(folder / METRICS)
    metrics = content.get("metrics", {})
    state = status.get("state") or ("finished" if content else "unfinished" if folder.is_dir() else "not started")
    return Run(
        folder,
        given,
        state,
        status.get("reason", ""),
        status["value"] if "value" in status else next(iter(metrics.values()), None),
        metrics if state == "finished" else {},
        content.get("train_seconds"),
        content.get("parameters"),
        _share_lost_in(folder / HISTORY),
    )


def share_lost(durations: Sequence[float]) -> float:
    """The share of a training's time that its slow epochs took beyond the median duration of an epoch.

    ``durations``: of the epochs in their order, in any unit. The first one does not count, as it may compile and fill
    caches; of fewer than four epochs nothing can be said, and the share is 0.
    """
    if len(durations) < 4:
        return 0.0
    usual = statistics.median(durations)
    return sum(taken - usual for taken in durations[1:] if taken > SLOW * usual) / sum(durations)


def _share_lost_in(history: Path) -> float:
    """``share_lost`` of a run by the images per second of its ``history.csv``; 0 without one."""
    with suppress(OSError, KeyError, ValueError, TypeError), open(history, newline="") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
        return share_lost([1 / rate for rate in rates if rate > 0])
    return 0.0


def slowed_note(shares: Mapping[str, float]) -> str:
    """A sentence on trainings that lost time in slow epochs: ``share_lost`` by name. Empty if none lost much."""
    named = [f"{name} ({share:.0%})" for name, share in shares.items() if share >= DISTURBED]
    if not named:
        return ""
    return (
        f"slow epochs (over {SLOW} times the median) cost part of the training time of {', '.join(named)}; "
        "if something else was running, do not compare their results at equal time"
    )


def find_runs(folder: Path) -> list[Run]:
    """All runs in a folder and below, those of sweeps in the order of their jobs.

    Raises ``InputError`` if there are none.
    """
    if not (found := list(_runs_below(folder))):
        raise InputError(f"no runs in {folder}; give a run folder or a folder of them, such as runs")
    return found


def _runs_below(folder: Path) -> Iterable[Run]:
    if jobs := read_json(folder / SWEEP).get("jobs"):
        yield from (read_run(folder / str(number), job) for number, job in enumerate(jobs))
    elif any((folder / name).exists() for name in (".hydra", STATUS, METRICS)):
        yield read_run(folder)
    elif folder.is_dir():
        for child in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
            yield from _runs_below(child)


# Comparing them.


def varying(runs: Sequence[Run]) -> list[str]:
    """Keys of the overrides in which runs differ."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def metric_names(runs: Sequence[Run], first: str | None = None) -> list[str]:
    """Names of all results, the headline (or ``first``) first.

    Raises ``InputError`` if no run has a result of the name ``first``.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if first is not None and first not in names:
        raise InputError(f"unknown metric {first!r}; {did_you_mean(first, names)}")
    return names if first is None else [first, *(name for name in names if name != first)]


def best_first(runs: Sequence[Run], metric: str) -> list[Run]:
    """Runs by a result, highest first, then those without it."""
    return sorted(runs, key=lambda run: -float("inf") if (v := run.metrics.get(metric)) is None else v, reverse=True)


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its path below the folder that they share."""
    parent = Path(os.path.commonpath([run.folder.absolute().parent for run in runs]))
    return [str(run.folder.absolute().relative_to(parent)) for run in runs]


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """All that a table shows, and more: every result, training time in seconds, number of parameters, share of the
    training time lost in slow epochs."""
    keys, metrics = varying(runs), metric_names(runs)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *keys, *metrics, "train_seconds", "parameters", "share_lost", "state", "reason"])
        for name, run in zip(run_names(runs), runs, strict=True):
            given, reached = (run.overrides.get(key) for key in keys), (run.metrics.get(key) for key in metrics)
            cost = (run.train_seconds, run.parameters, round(run.share_lost, 4))
            writer.writerow([name, *given, *reached, *cost, run.state, run.reason])


def table(runs: Sequence[Run], width: int, metric: str | None = None) -> str:
    """Runs as rows of at most ``width`` characters: what differs, results (headline or ``metric`` first), time, size.

    A run that is not finished has its state and reason instead of results. Runs that slow epochs have set back are
    named below.
    """
    keys, metrics = varying(runs), metric_names(runs, metric)[:6]
    given = [["run", *_short(keys)]]
    given += [
        [name, *(run.overrides.get(k, "-") for k in keys)] for name, run in zip(run_names(runs), runs, strict=True)
    ]
    reached = [[*metrics, "time", "params"]]
    for run in runs:
        values = ["-" if (v := run.metrics.get(name)) is None else f"{v:.3f}" for name in metrics]
        reached.append([*values, *_costs([run])])

    while len(reached[0]) > 3 and sum(_widths(given) + _widths(reached)) > width:
        reached = [[*row[:-3], *row[-2:]] for row in reached]  # the last result
    left = max(width - sum(_widths(reached)), width // 3)
    if sum(_widths(given)) > left:
        most = max(left // len(given[0]) - 2, 4)
        given = [[cell if len(cell) <= most else f"{cell[: most - 1]}…" for cell in row] for row in given]
    widths, lines = _widths(given), []
    for run, first, last in zip([None, *runs], given, reached, strict=True):
        line = "".join(cell.ljust(n) for cell, n in zip(first, widths, strict=True))
        if run is None or run.finished:
            line += "".join(cell.rjust(n) for cell, n in zip(last, _widths(reached), strict=True))
            lines.append(line[:width].rstrip())
        else:
            reason = f"{run.state}: {run.reason}" if run.reason else run.state
            indent = min(sum(widths), width // 2)
            lines += textwrap.wrap(reason, width, initial_indent=line[:indent], subsequent_indent=" " * indent)
    return "\n".join(lines + _slowed_notes(runs, width))


def _slowed_notes(runs: Sequence[Run], width: int) -> list[str]:
    note = slowed_note({name: run.share_lost for name, run in zip(run_names(runs), runs, strict=True) if run.finished})
    return textwrap.wrap(note, width, subsequent_indent="  ")


def _costs(runs: Sequence[Run]) -> list[str]:
    """Training time and number of parameters; of several runs their means."""
    times = [run.train_seconds for run in runs if run.train_seconds is not None]
    sizes = [run.parameters for run in runs if run.parameters is not None]
    time = str(timedelta(seconds=round(statistics.mean(times)))) if times else "-"
    return [time, f"{statistics.mean(sizes) / 1e6:.1f} M" if sizes else "-"]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or the whole key where that is not unique."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for short, key in zip(last, keys, strict=True)]


# Groups of them, such as those that differ only in their seed.


def group_by(runs: Sequence[Run], key: str) -> dict[str, list[Run]]:
    """Runs by their values of an override, in the order of the first one of each; those without it under ``-``.

    Raises ``InputError`` if no run has this override.
    """
    if not any(key in run.overrides for run in runs):
        raise InputError(f"no run here has an override {key!r}; {did_you_mean(key, varying(runs))}")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.overrides.get(key, "-"), []).append(run)
    return groups


def results_by(runs: Sequence[Run], key: str, metric: str) -> dict[str, list[float]]:
    """The values of a result in each group of ``group_by``."""
    return {name: _values(group, metric) for name, group in group_by(runs, key).items()}


def _values(runs: Sequence[Run], metric: str) -> list[float]:
    return [value for run in runs if (value := run.metrics.get(metric)) is not None]


def grouped_table(runs: Sequence[Run], key: str, width: int, metric: str | None = None) -> str:
    """Groups of runs by an override as rows of at most ``width`` characters: how many are finished, mean and sample
    standard deviation of results (headline or ``metric`` first), the change of the first one's mean, mean time and
    size. Runs that failed, were stopped or set back by slow epochs are named below, and so is what the runs of a
    group differ in.

    Raises ``InputError`` if no run has this override or no run has a result of the name ``metric``.
    """
    groups, metrics = group_by(runs, key), metric_names(runs, metric)[:6]
    others = compared_with(groups)
    first = results_by(runs, key, metrics[0]) if metrics else {}
    rows = [[_short([key])[0], "runs", *metrics[:1], "change", "from", *metrics[1:], "time", "params"]]
    for name, group in groups.items():
        finished = [run for run in group if run.finished]
        count = str(len(group)) if len(finished) == len(group) else f"{len(finished)} of {len(group)}"
        reached = [_mean_and_deviation(_values(finished, metric)) for metric in metrics]
        change = ["", ""]
        if first.get(name) and first.get(other := others.get(name, "")):
            change = [f"{statistics.mean(first[name]) - statistics.mean(first[other]):+.3f}", other]
        rows.append([name, count, *reached[:1], *change, *reached[1:], *_costs(finished)])
    while len(rows[0]) > 5 and sum(_widths(rows)) > width:
        # The last result; then parameters and time.
        place = -3 if len(rows[0]) > 7 else -1
        rows = [[*row[:place], *row[len(row) + place + 1 :]] for row in rows]
    widths = _widths(rows)
    left = {0, rows[0].index("from")}
    lines = [
        "".join(
            f"  {cell}".ljust(n) if place in left else cell.rjust(n)
            for place, (cell, n) in enumerate(zip(row, widths, strict=True))
        )[2 : width + 2].rstrip()
        for row in rows
    ]
    differ = dict.fromkeys(k for group in groups.values() for k in varying([run for run in group if run.finished]))
    if differ:
        lines += textwrap.wrap(f"mean ± standard deviation of runs that differ in {', '.join(differ)}", width)
    for name, run in zip(run_names(runs), runs, strict=True):
        if run.state in ("failed", "unfinished"):
            reason = f"{run.state}: {run.reason}" if run.reason else run.state
            lines += textwrap.wrap(f"{name} ({run.overrides.get(key, '-')}): {reason}", width, subsequent_indent="  ")
    return "\n".join(lines + _slowed_notes(runs, width))


def _mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) > 1:
        return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
    return f"{values[0]:.3f}{' ' * len(' ± 0.000')}" if values else "-"
