"""Inference modes: how a detector looks at an image besides one plain pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from centernet.errors import InputError, did_you_mean
from centernet.ops.nms import METHODS


class Modes(NamedTuple):
    """Options of inference; the defaults are one plain pass.

    ``flip``: average the maps with those of the mirror image. ``scales``: of the input; detections of all scales are
    put together. ``nms``: suppression of overlapping detections of a class, ``soft``, ``linear``, ``plain`` or
    ``none``; None: what the task needs, else ``soft`` with several scales, as in the original, else ``none``. ``tiles``
    (height, width): the network sees pieces of a larger input, which share at least the fraction ``overlap``; their
    maps are put together before peaks are sought. ``Modes.of`` checks plain data.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    nms: str | None = None
    tiles: tuple[int, int] | None = None
    overlap: float = 0.2

    @classmethod
    def of(cls, given: Modes | Mapping[str, Any] | None) -> Modes:
        """Modes from plain data. Raises ``InputError`` for an unknown option or value."""
        if given is None or isinstance(given, Modes):
            return given or cls()
        for name in given:
            if name not in cls._fields:
                raise InputError(f"inference.{name} is unknown; {did_you_mean(str(name), cls._fields)}")
        options = {name: value for name, value in given.items() if value is not None}
        flip, overlap = options.get("flip", False), options.get("overlap", cls._field_defaults["overlap"])
        if not isinstance(flip, bool):
            raise InputError(f"inference.flip={flip!r} is not possible; use true or false")
        nms = options.get("nms")
        if nms is not None and nms not in METHODS:
            raise InputError(f"inference.nms={nms!r} is unknown; choose one of {', '.join(METHODS)}")
        if not _is_number(overlap) or not 0 <= overlap < 1:
            raise InputError(f"inference.overlap={overlap!r} is not a fraction; choose a value from 0 to below 1")
        return cls(flip, _scales(options.get("scales", (1.0,))), nms, _tiles(options.get("tiles")), float(overlap))

    @property
    def suppression(self) -> str:
        """The method of suppression that applies."""
        return self.nms or ("soft" if len(self.scales) > 1 else "none")

    def describe(self) -> str:
        """What is done besides a plain pass, for people; empty for a plain pass."""
        parts = ["flip"] if self.flip else []
        if self.scales != (1.0,):
            parts.append(f"scales {', '.join(f'{scale:g}' for scale in self.scales)}")
        if self.tiles:
            parts.append(f"tiles of {self.tiles[0]}x{self.tiles[1]}")
        if self.suppression != "none":
            parts.append(f"{self.suppression} NMS")
        return ", ".join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _scales(given: Any) -> tuple[float, ...]:
    values = [given] if _is_number(given) else given
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or not values or not all(_is_number(value) and value > 0 for value in values):
        raise InputError(f"inference.scales={given!r} is not a list of numbers above 0, such as [0.5, 1, 2]; change it")
    if len(set(values)) < len(values):
        raise InputError(f"inference.scales={given!r} repeats a scale; give each once")
    return tuple(float(value) for value in values)


def _tiles(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    sides = [given, given] if isinstance(given, int) and not isinstance(given, bool) else given
    is_pair = isinstance(sides, Sequence) and not isinstance(sides, str) and len(sides) == 2
    if not is_pair or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"inference.tiles={given!r} is not a size; write [height, width] in pixels, or null")
    return int(sides[0]), int(sides[1])
