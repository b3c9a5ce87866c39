"""Cases of the reference folder: found by the function they measure, never by their names.

The folder has a README on the fields. Any folder with other cases of the same kinds will do (CENTERNET_REFERENCE).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.places import REFERENCE


class Case(NamedTuple):
    """One measurement: its description, what went in, what came out."""

    about: dict[str, Any]
    params: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def tensors(self) -> dict[str, Tensor]:
        """The inputs as tensors."""
        return {name: torch.from_numpy(value) for name, value in self.inputs.items()}


@cache
def index(name: str) -> list[dict[str, Any]]:
    """The entries of NAME.json, empty where the file is missing."""
    path = REFERENCE / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else []


@cache
def arrays(name: str) -> Any:
    """The arrays of NAME.npz, read one at a time."""
    return np.load(REFERENCE / f"{name}.npz")


def read(name: str, entry: dict[str, Any]) -> Case:
    """The case that an entry of NAME.json describes."""
    stored = arrays(name)
    inputs, outputs = (
        {key: stored[f"{entry['name']}/{side}/{key}"] for key in entry[f"{side}puts"]} for side in ("in", "out")
    )
    return Case(entry, entry["params"], inputs, outputs)


def cases(name: str, wanted: Callable[[dict[str, Any]], bool]) -> list[Any]:
    """Parameters for the wanted entries of NAME.json; one that is skipped with a reason where there is none."""
    found = [pytest.param(entry, id=title(entry)) for entry in index(name) if wanted(entry)]
    if found:
        return found
    reason = f"{REFERENCE / name}.json has no such case" if index(name) else f"no {name}.json in {REFERENCE}"
    return [pytest.param(None, marks=pytest.mark.skip(reason=f"{reason} (set CENTERNET_REFERENCE)"))]


def title(entry: dict[str, Any]) -> str:
    """The name of an entry; samples have none but their configuration and image."""
    return entry.get("name") or f"{entry['config']}-{entry['image_id']}"


def measures(*functions: str) -> Callable[[dict[str, Any]], bool]:
    """Whether an entry measures one of these functions of the original."""
    return lambda entry: entry["function"].startswith(tuple(f"{function}(" for function in functions))
