"""The table of presets: `python scripts/list_experiments.py` (or `make list-experiments`), read from their YAML.

Nothing is composed and nothing heavy imported; what a preset does not say is the default of configs/train.yaml.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
COLUMNS = ("preset", "network", "task", "data", "schedule", "published")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    defaults = groups_of(CONFIGS / "train.yaml")
    rows = [describe(path, defaults) for path in sorted((CONFIGS / "experiment").glob("*.yaml"))]
    titles = dict(zip(COLUMNS, COLUMNS, strict=True))
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in COLUMNS]
    for row in [titles, *rows]:
        print("  ".join(row[column].ljust(width) for column, width in zip(COLUMNS, widths, strict=True)).rstrip())
    print("\npublished: as the authors report it, not measured here. python train.py experiment=PRESET data.root=DIR")


def groups_of(path: Path) -> dict[str, str]:
    """What the defaults list of a YAML chooses, by group."""
    entries = yaml.safe_load(path.read_text()).get("defaults", [])
    chosen = [next(iter(entry.items())) for entry in entries if isinstance(entry, Mapping)]
    return {str(group).removeprefix("override ").lstrip("/"): str(option) for group, option in chosen}


def describe(path: Path, defaults: Mapping[str, str]) -> dict[str, str]:
    """The row of one preset."""
    text = path.read_text()
    content, groups = yaml.safe_load(text), {**defaults, **groups_of(path)}
    published = re.search(r"^# published: (.*)$", text, re.MULTILINE)
    recipe = recipe_of(groups["data"])
    resolution = content.get("resolution") or recipe["resolution"]
    return {
        "preset": path.stem,
        "network": recipe["backbone"] if groups["backbone"] == "auto" else groups["backbone"],
        "task": groups["task"],
        "data": f"{groups['data']} {'x'.join(map(str, resolution))}",
        "schedule": describe_schedule(groups["schedule"], recipe, content.get("schedule") or {}),
        "published": published[1] if published else "",
    }


def recipe_of(data: str) -> dict[str, Any]:
    """What a data YAML recommends, with what it takes from others."""
    content = yaml.safe_load((CONFIGS / "data" / f"{data}.yaml").read_text())
    parents = [name for name in content.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    inherited = {key: value for parent in parents for key, value in recipe_of(parent).items()}
    return {**inherited, **content["recipe"]}


def describe_schedule(name: str, recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """Optimizer, epochs and milestones, learning rate and the batch that it belongs to."""
    plan = {**yaml.safe_load((CONFIGS / "schedule" / f"{name}.yaml").read_text()), **changes}
    for key, value in plan.items():
        if str(value).startswith("${recipe."):
            plan[key] = recipe[str(value)[len("${recipe.") : -1]]
    drops = ",".join(map(str, plan.get("milestones", ()))) or plan["decay"]
    return f"{plan['optimizer']} {plan['epochs']} ({drops}) lr {float(plan['lr']):g} / {plan['batch_size']}"


if __name__ == "__main__":
    main()
