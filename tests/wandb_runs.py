"""Offline runs of Weights & Biases, read back from their files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import wandb
from wandb.proto.wandb_internal_pb2 import ArtifactRecord, Record, RunRecord


class OfflineRun(NamedTuple):
    """What ``wandb sync`` would send. ``history``: one mapping per call of log, keys of nested values joined by dots;
    ``axes``: what a metric is plotted over; ``code``: the exit code, None for a run that was not finished."""

    files: Path
    about: RunRecord
    config: dict[str, Any]
    history: list[dict[str, Any]]
    axes: dict[str, str]
    artifacts: list[ArtifactRecord]
    code: int | None

    def values(self, name: str) -> list[tuple[Any, Any]]:
        """The epochs and values under a name."""
        return [(row.get("epoch"), row[name]) for row in self.history if name in row]

    def names(self) -> set[str]:
        """Everything that was logged; of media and tables, their names."""
        return {name.partition(".")[0] for row in self.history for name in row}

    def content(self, path: str) -> Any:
        """A json file among the run's files."""
        return json.loads((self.files / path).read_text())


def read_runs(folder: Path) -> list[OfflineRun]:
    """The offline runs of a run folder, oldest first."""
    wandb.teardown()  # as the end of a process does: now their files are complete
    return [_read(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def _read(path: Path) -> OfflineRun:
    about, config, history, axes, artifacts, code = RunRecord(), {}, [], {}, [], None
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            update = record.run.config.update if kind == "run" else record.config.update
            config |= {item.key: json.loads(item.value_json) for item in update if item.key}
        if kind == "run":
            about = record.run
        elif kind == "history":
            items = record.history.item
            history.append({".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
        elif kind == "metric":
            axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            artifacts.append(record.artifact)
        elif kind == "exit":
            code = record.exit.exit_code
    return OfflineRun(path.parent / "files", about, config, history, axes, artifacts, code)


def _records(data: bytes) -> Iterator[Record]:
    """Records lie in a file as in LevelDB's log: behind seven bytes, in blocks of 32 KiB, in pieces (whole, first,
    middle, last) that have a checksum, a length and a kind before them."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""
