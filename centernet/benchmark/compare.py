"""Two files of the same benchmark: ratios, and which of them are more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from centernet.benchmark.record import Record, Row, read_record
from centernet.errors import InputError


class Change(NamedTuple):
    """A measurement in both files. ``ratio``: second by first; ``verdict``: better, worse, same, unknown, or, where
    neither direction is better, changed."""

    first: Row
    second: Row
    ratio: float
    verdict: str


def compare_rows(first: Sequence[Row], second: Sequence[Row]) -> list[Change]:
    """The measurements that both have, in the order of the first.

    Two of them differ beyond the spread if their ranges from the 10th to the 90th percentile have no value in common.
    A quantity that was measured only once in one of them says nothing about its spread (``unknown``), unless it is one
    that does not vary: ``neither`` direction is better, and any difference is a change.
    """
    others = {row.key: row for row in second}
    return [_change(row, others[row.key]) for row in first if row.key in others]


def _change(first: Row, second: Row) -> Change:
    ratio = second.value / first.value if first.value else float("nan")
    if first.value == second.value:
        return Change(first, second, 1.0, "same")
    if first.better == "neither":
        return Change(first, second, ratio, "changed")
    if not (first.spread and second.spread and min(first.spread.rounds, second.spread.rounds) > 1):
        return Change(first, second, ratio, "unknown")
    if first.spread.p10 <= second.spread.p90 and second.spread.p10 <= first.spread.p90:
        return Change(first, second, ratio, "same")
    is_less = second.value < first.value
    return Change(first, second, ratio, "better" if is_less == (first.better == "less") else "worse")


# How a verdict is shown behind the ratio.
MARKS = {"better": "better", "worse": "WORSE", "same": "", "unknown": "measured once", "changed": "changed"}


def compare_files(first: str, second: str) -> str:
    """The comparison as text. Raises ``InputError`` if the files are of different parts, or share no measurement."""
    left, right = read_record(first), read_record(second)
    if left.part != right.part:
        raise InputError(
            f"{first} measures {left.part} and {second} measures {right.part}; compare two files of the same part"
        )
    changes = compare_rows(left.rows, right.rows)
    if not changes:
        raise InputError(f"{first} and {second} have no measurement in common; compare runs of the same things")
    lines = [f"{left.part}: A = {first} ({left.date}), B = {second} ({right.date})", *_differences(left, right)]
    titles = [f"{change.first.name} {change.first.quantity}" for change in changes]
    width = max(len(title) for title in titles)
    lines.append(f"{'':<{width}}{'A':>12}{'B':>12} {'unit':<9}{'B / A':>7}")
    for title, (one, other, ratio, verdict) in zip(titles, changes, strict=True):
        line = f"{title:<{width}}{one.value:12.2f}{other.value:12.2f} {one.unit:<9}{ratio:7.3f}  {MARKS[verdict]}"
        lines.append(line.rstrip())
    for name, own, others in (("A", left, right), ("B", right, left)):
        known = {row.key for row in others.rows}
        if alone := [row for row in own.rows if row.key not in known]:
            lines.append(f"only in {name}: " + ", ".join(f"{row.name} {row.quantity}" for row in alone))
    lines.append("better, WORSE: the ranges from the 10th to the 90th percentile have no value in common")
    return "\n".join(lines)


def _differences(left: Record, right: Record) -> list[str]:
    """Lines about what else differs: the machine and the settings."""
    found = []
    for what, one, other in (("machine", left.machine, right.machine), ("settings", left.settings, right.settings)):
        flat = _flat(one), _flat(other)
        names = [name for name in {**flat[0], **flat[1]} if name not in ("load", "json", "plot")]
        found += [
            f"{what}: {name} is {flat[0].get(name)} in A and {flat[1].get(name)} in B"
            for name in names
            if flat[0].get(name) != flat[1].get(name)
        ]
    return found


def _flat(data: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat.update(_flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value})
    return flat
