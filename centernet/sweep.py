"""The table at the end of a sweep. A separate file, so the commands start without importing Hydra."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


class SweepTable(Callback):
    """After a multirun: one table of all its runs, printed and written to ``sweep.csv`` in the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        rows = []
        for path in sorted(folder.glob("*/metrics.json"), key=lambda p: (len(p.parent.name), p.parent.name)):
            overrides = OmegaConf.load(path.parent / ".hydra" / "overrides.yaml")
            metrics = json.loads(path.read_text())["metrics"]
            rows.append({"run": path.parent.name, "overrides": " ".join(overrides), **metrics})
        if not rows:
            return
        with open(folder / "sweep.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        wide = max(len(row["overrides"]) for row in rows)
        names = [name for name in rows[0] if name not in ("run", "overrides")][:6]
        print(f"\n{'run':<5}{'':<{wide}}" + "".join(f"{name:>8}" for name in names))
        for row in rows:
            values = "".join(f"{row[n]:8.3f}" if row.get(n) is not None else f"{'-':>8}" for n in names)
            print(f"{row['run']:<5}{row['overrides']:<{wide}}{values}")
        print(f"table: {folder / 'sweep.csv'}")
