"""What a benchmark writes: rows of measurements with the machine and the settings, as one kind of json for all parts.

A file holds ``format`` and ``version`` of this layout, the ``part`` that was measured, the ``command``, its
``settings``, the ``machine``, the ``date`` (UTC), and ``rows``. A row is one quantity of one thing: ``labels`` say of
what, then ``quantity``, ``unit``, ``better`` (less, more, or neither), ``value``, and, if it was measured more than
once, ``rounds``, ``best``, ``p10``, ``p50`` (which is the value), ``p90``, ``mean``.
"""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from centernet.benchmark.machine import describe_machine
from centernet.benchmark.timing import NOTABLE, Spread
from centernet.errors import InputError

FORMAT, VERSION = "centernet-benchmark", 1
BETTER = ("less", "more", "neither")


@dataclass(frozen=True)
class Row:
    """One quantity of one thing."""

    labels: dict[str, str | int | float]
    quantity: str
    unit: str
    value: float
    better: str = "less"
    spread: Spread | None = None

    @property
    def name(self) -> str:
        """The labels in one line; numbers say what they count."""
        return " ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in self.labels.items())

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two rows of two files the same measurement."""
        return (*sorted((name, str(value)) for name, value in self.labels.items()), self.quantity, self.unit)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        told = {"labels": self.labels, "quantity": self.quantity, "unit": self.unit, "better": self.better}
        return {**told, "value": self.value, **(self.spread._asdict() if self.spread else {})}


@dataclass
class Record:
    """The measurements of one run of a part."""

    part: str
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=describe_machine)
    rows: list[Row] = field(default_factory=list)
    command: str = ""
    date: str = ""

    def add(self, labels: Mapping[str, Any], quantity: str, unit: str, value: float, better: str = "less") -> Row:
        """Add a quantity that was measured once."""
        self.rows.append(Row(dict(labels), quantity, unit, float(value), better))
        return self.rows[-1]

    def add_many(
        self, labels: Mapping[str, Any], quantity: str, unit: str, values: Sequence[float], better: str = "less"
    ) -> Row:
        """Add a quantity that was measured several times; its value is the median."""
        spread = Spread.of(values, better)
        self.rows.append(Row(dict(labels), quantity, unit, spread.p50, better, spread))
        return self.rows[-1]

    def write(self, path: str | Path) -> None:
        """Write the file. Raises ``InputError`` if that is not possible."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "part": self.part,
            "command": shlex.join(sys.argv),
            "settings": self.settings,
            "machine": self.machine,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "rows": [row.plain() for row in self.rows],
        }
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another file with --json") from None


def read_record(path: str | Path) -> Record:
    """Read a file that ``Record.write`` wrote. Raises ``InputError`` for any other file."""
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a file that --json wrote") from None
    except ValueError:
        raise InputError(f"{path} is not json; give a file that scripts/benchmark.py wrote with --json") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a benchmark; give a file that scripts/benchmark.py wrote with --json")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} has version {content.get('version')} of the layout, and this is version {VERSION}; measure again"
        )
    try:
        rows = [_row(row) for row in content["rows"]]
        return Record(
            content["part"], content["settings"], content["machine"], rows, content["command"], content["date"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); measure again") from None


def _row(told: Mapping[str, Any]) -> Row:
    spread = Spread(*(told[name] for name in Spread._fields)) if "p50" in told else None
    if told["better"] not in BETTER:
        raise ValueError(f"better={told['better']!r}")
    return Row(dict(told["labels"]), told["quantity"], told["unit"], float(told["value"]), told["better"], spread)


def table(rows: Sequence[Row]) -> str:
    """Rows as lines: what, the median or the only value, the 10th and 90th percentile, and their distance in percent of
    the median, marked if it is large."""
    width = max([4, *(len(_title(row)) for row in rows)])
    lines = [f"{'':<{width}}{'median':>12} {'unit':<9}{'p10':>10}{'p90':>10}{'spread':>8}"]
    for row in rows:
        line = f"{_title(row):<{width}}{row.value:12.2f} {row.unit:<9}"
        if row.spread is not None:
            mark = " !" if row.spread.share > NOTABLE else ""
            line += f"{row.spread.p10:10.2f}{row.spread.p90:10.2f}{row.spread.share:8.0%}{mark}"
        lines.append(line.rstrip())
    if any(row.spread is not None and row.spread.share > NOTABLE for row in rows):
        lines.append(f"!  spread above {NOTABLE:.0%}: other work on the machine, or too few rounds; raise --rounds")
    return "\n".join(lines)


def _title(row: Row) -> str:
    return row.name if row.quantity == "time" else f"{row.name} {row.quantity}".strip()
