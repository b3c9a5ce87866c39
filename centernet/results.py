"""Detections of one image, as a Python user handles them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from centernet.errors import InputError
from centernet.fields import index


class Result:
    """Detections of one image, in its pixels, by decreasing score.

    Fields are attributes or items: ``boxes [N, 4]`` (x1, y1, x2, y2), ``scores [N]``, ``labels [N]``, and those that
    the task finds besides (``centernet.fields``); ``names`` lists their classes.
    ``len`` is their number; indexing with a number, a slice, a mask or a list of numbers gives a ``Result`` of these.
    """

    def __init__(
        self,
        fields: Mapping[str, Tensor],
        class_names: Sequence[str],
        image_size: Sequence[int],
        facts: Mapping[str, Any] | None = None,
        image_fields: Mapping[str, Any] | None = None,
    ) -> None:
        self._fields = dict(fields)
        self.class_names = list(class_names)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        """Height and width of the image."""
        self._facts, self._image_fields = dict(facts or {}), dict(image_fields or {})

    @property
    def names(self) -> list[str]:
        """The class of each detection."""
        return [self.class_names[label] for label in self._fields["labels"].tolist()]

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["_fields"][name]
        except KeyError:
            known = ", ".join([*self.__dict__.get("_fields", {}), "names"])
            raise AttributeError(f"these detections have no {name!r}; they have {known}") from None

    def __len__(self) -> int:
        return len(self._fields["scores"])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.names if key == "names" else self._fields[key]
        if isinstance(key, int):
            if not -len(self) <= key < len(self):
                raise IndexError(f"detection {key} of {len(self)}")
            key = slice(key, None if key == -1 else key + 1)
        elif not isinstance(key, slice):
            key = torch.as_tensor(np.asarray(key) if not isinstance(key, Tensor) else key)
            if key.dtype != torch.bool:
                key = key.long()
        kept = index(self._fields, key)
        return Result(kept, self.class_names, self.image_size, self._facts, self._image_fields)

    def __iter__(self) -> Iterator[Result]:
        return (self[n] for n in range(len(self)))

    def keys(self) -> list[str]:
        """The names of the fields, with which ``dict(result)`` works."""
        return [*self._fields, "names"]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values of the fields."""
        return [(key, self[key]) for key in self.keys()]

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __repr__(self) -> str:
        counts = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        return f"Result({', '.join(f'{count} {name}' for name, count in counts.items()) or 'nothing'})"

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Rows of COCO's result format; categories are numbered from 1 in the order of ``class_names``."""
        from centernet.data.outputs import coco_rows

        return coco_rows(self._fields, image_id)

    def to_supervision(self) -> Any:
        """``supervision.Detections``, if that package is installed; class names are in ``data["class_name"]``."""
        try:
            import supervision
        except ImportError:
            raise InputError("to_supervision needs the package supervision; pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.names)},
        )

    def draw(self, image: Any, threshold: float = 0.0) -> np.ndarray:
        """A copy of the image (anything that ``Predictor`` takes) with what was found, RGB uint8 ``[H, W, 3]``."""
        from centernet.data.images import pixels_of
        from centernet.visualize import Look, draw_detections

        look = Look(self.class_names, self._facts, self._image_fields)
        rows = {name: value.numpy() for name, value in self._fields.items()}
        return draw_detections(pixels_of(image), rows, look, threshold)

    def save(self, path: str | Path, image: Any, threshold: float = 0.0) -> Path:
        """Write ``draw`` to a file; returns its path."""
        from centernet.visualize import save_image

        return save_image(path, self.draw(image, threshold))
