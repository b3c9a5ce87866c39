"""Packages that only exports need, imported when they are used."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from centernet.errors import InputError

EXTRAS = {"onnx": "export", "onnxscript": "export", "onnxruntime": "export", "openvino": "openvino", "nncf": "openvino"}
"""The extra of this package that brings each."""

TELEMETRY = "openvino_telemetry"
"""What OpenVINO and nncf report their use with, in a forked process, unless it is missing."""


def need(name: str, purpose: str) -> ModuleType:
    """The package (or a module of it) of this name, none of which may report its use. Raises ``InputError``
    with the command that installs it."""
    package = name.partition(".")[0]
    if EXTRAS[package] == "openvino":
        sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # as if it were not installed
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or package).partition(".")[0] != package:
            raise
        raise InputError(
            f'{purpose} needs the package {package}; pip install "centernet-lightning[{EXTRAS[package]}]"'
        ) from None
