"""Registration with timm, the only registry of backbones."""

from __future__ import annotations

from collections.abc import Callable

import timm
from timm.models import model_entrypoint, register_model
from torch import nn


def register_new(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Register a builder under its function's name, which must be new: timm itself would only warn and overwrite."""
    name = build.__name__
    if timm.is_model(name) and model_entrypoint(name).__module__ != build.__module__:
        raise RuntimeError(
            f"timm {timm.__version__} already has a model {name!r}; rename ours in {build.__module__} to keep both"
        )
    return register_model(build)
