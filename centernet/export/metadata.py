"""What an exported file says about itself: plain data, stored inside the file, a JSON text for each key.

Whoever has the file needs nothing else: how an image becomes its input, what its outputs are called, what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from centernet import __version__
from centernet.checkpoint import USUAL_EVAL
from centernet.errors import InputError
from centernet.export.graph import INPUT, Graph, Shape

FORMAT = 1
PREFIX = "centernet_"
"""Before every key, as runtimes and converters add keys of their own."""


def describe(graph: Graph, description: Mapping[str, Any], shape: Shape, precision: str = "fp32") -> dict[str, Any]:
    """The metadata of a graph made from a checkpoint with this ``description`` (``checkpoint.load_detector``).

    - ``format``, ``version`` of this package, ``precision``
    - ``task``, ``task_options``, ``facts`` (of the data, such as the joints with their flip pairs), ``num_classes``,
      ``class_names``, ``threshold`` (the usual least score), ``backbone`` (the network), ``stride``, ``divisor``
    - ``metric_options``, with which it is evaluated
    - ``smallest_side`` of inputs of free size
    - ``input``: name, type, ``[N, 3, H, W]`` with None where any number goes, channel order, range
    - ``outputs``: names in their order; pixels are those of the input
    - ``resolution`` (height, width) and ``transform``: how an image becomes an input (``data.warps.EvalWarp``:
      mode, divisor; padding is black), and the normalization, which is part of the graph
    """
    module, evaluation = description["module"], description["eval"] or USUAL_EVAL
    return {
        "format": FORMAT,
        "version": __version__,
        "precision": precision,
        "task": module["task"],
        "task_options": module["task_options"] or {},
        "facts": graph.task.facts,
        "metric_options": module.get("metric_options") or {},
        "num_classes": graph.task.num_classes,
        "class_names": list(module["class_names"]),
        "threshold": graph.task.threshold,
        "backbone": module["backbone"],
        "stride": graph.stride,
        "divisor": graph.divisor,
        "smallest_side": graph.smallest_side,
        "input": {"name": INPUT, "dtype": shape.dtype, "shape": shape.plain, "channels": "RGB", "range": [0, 255]},
        "outputs": graph.names,
        "resolution": list(shape.size),
        "transform": {
            **{key: value for key, value in evaluation.items() if key != "resolution"},
            "padding": 0,
            "mean": graph.mean.flatten().tolist(),
            "std": graph.std.flatten().tolist(),
            "normalization": module["normalization"],
            "is_normalized_inside": True,
        },
    }


def pack(metadata: Mapping[str, Any]) -> dict[str, str]:
    """As texts, which all formats can hold."""
    return {PREFIX + key: json.dumps(value) for key, value in metadata.items()}


def unpack(texts: Mapping[str, str], where: object) -> dict[str, Any]:
    """The inverse of ``pack``; other keys are left out. Raises ``InputError`` for a file that was not exported here, or
    by a newer version."""
    try:
        found = {key.removeprefix(PREFIX): json.loads(text) for key, text in texts.items() if key.startswith(PREFIX)}
    except ValueError:
        found = {}
    if not found.get("task"):
        raise InputError(f"{where} was not exported by this project; make it with scripts/export.py CHECKPOINT")
    if found["format"] > FORMAT:
        raise InputError(f"{where} was exported by a newer version (format {found['format']}); update centernet")
    return found
