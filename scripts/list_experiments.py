"""The table of presets: `python scripts/list_experiments.py` (or `make list-experiments`), read from their YAML.

Composes nothing and imports nothing heavy; missing values are the defaults of configs/train.yaml.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import yaml

from centernet.choices import Node, defaults, is_sweep, options, read_choice

COLUMNS = ("preset", "network", "task", "data", "schedule", "published")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    rows = [describe(name) for name in options("experiment") if not is_sweep(name)]
    titles = dict(zip(COLUMNS, COLUMNS, strict=True))
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in COLUMNS]
    for row in [titles, *rows]:
        print("  ".join(row[column].ljust(width) for column, width in zip(COLUMNS, widths, strict=True)).rstrip())
    print("\npublished: as the authors report it, not measured here. python train.py experiment=PRESET data.root=DIR")


def describe(name: str) -> dict[str, str]:
    """The row of one preset."""
    preset = read_choice("experiment", name)
    chosen = {default.group: default.option for default in defaults("train")} | preset.chooses
    content = values(preset.nodes)
    recipe = values(read_choice("data", chosen["data"]).nodes)["recipe"] | content.get("recipe", {})
    plan = {**values(read_choice("schedule", chosen["schedule"]).nodes)["schedule"], **content.get("schedule", {})}
    published = [line.removeprefix("published: ") for line in preset.header if line.startswith("published: ")]
    resolution = content.get("resolution") or recipe["resolution"]
    return {
        "preset": name,
        "network": recipe["backbone"] if chosen["backbone"] == "auto" else chosen["backbone"],
        "task": chosen["task"],
        "data": f"{chosen['data']} {resolution if resolution == 'auto' else 'x'.join(map(str, resolution))}",
        "schedule": describe_schedule(plan, recipe),
        "published": published[0] if published else "",
    }


def values(nodes: Mapping[str, Node]) -> dict[str, Any]:
    """The plain values of the keys of a YAML."""
    return {
        key: values(node.value) if isinstance(node.value, dict) else yaml.safe_load(node.value)
        for key, node in nodes.items()
    }


def describe_schedule(plan: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """Optimizer, epochs and milestones, learning rate and the batch that it is for."""
    plan = {key: recipe[v[9:-1]] if str(v).startswith("${recipe.") else v for key, v in plan.items()}
    drops = ",".join(map(str, plan["milestones"])) if plan["decay"] == "step" else plan["decay"]
    return f"{plan['optimizer']} {plan['epochs']} ({drops}) lr {float(plan['lr']):g} / {plan['lr_batch_size']}"


if __name__ == "__main__":
    main()
