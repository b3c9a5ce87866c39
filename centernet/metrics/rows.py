"""Base of the metrics: rows of numbers per image, gathered across processes; each image counts once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from centernet.structures import Detections, Objects

Columns = dict[str, np.ndarray]
PerClass = Mapping[str, Mapping[str, float]]


class ImageMetric(Metric):
    """Collects detections and truth of images; a subclass computes from what ``collected`` returns.

    ``detection_fields`` and ``truth_fields``: how many numbers a row has of each field (1 for a field without a last
    axis). Works across processes: images duplicated by distributed padding count once, and processes without images
    take part.
    """

    full_state_update = False
    headline: tuple[str, ...] = ()
    """Names of the main results; the first (higher is better) selects the best checkpoint."""
    plotted: tuple[str, ...] = ()
    """Names of results to plot over epochs, all in 0 .. 1."""
    detection_fields: Mapping[str, int]
    truth_fields: Mapping[str, int]

    def __init__(self, detection_fields: Mapping[str, int], truth_fields: Mapping[str, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.detection_fields, self.truth_fields = dict(detection_fields), dict(truth_fields)
        self.per_class: dict[str, dict[str, float]] = {}
        self.curves: Columns = {}  # after compute, by name: precision at evenly spaced recalls 0 .. 1; NaN if undefined
        # A visit is one update with one image; it links rows to images and distinguishes duplicates.
        self.add_state("images", [], dist_reduce_fx="cat")  # int64 [N, 2]: image id, visit
        self.add_state("detection_rows", [], dist_reduce_fx="cat")  # float [N, sum of detection_fields]
        self.add_state("detection_visits", [], dist_reduce_fx="cat")  # int64 [N]
        self.add_state("truth_rows", [], dist_reduce_fx="cat")  # float [N, sum of truth_fields]
        self.add_state("truth_visits", [], dist_reduce_fx="cat")  # int64 [N]
        self._visits = 0

    def update(self, detections: Detections, truth: Objects, image_id: Tensor) -> None:
        """Add a batch: ``detections [B, K, ..]`` and padded ``truth [B, M, ..]`` in image space, ``image_id`` int
        ``[B]``."""
        count, k = detections["scores"].shape
        device = detections["scores"].device
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        visit = torch.arange(count, device=device) + self._visits + (rank << 40)
        self._visits += count
        self.images.append(torch.stack([image_id.to(device).long(), visit], -1))
        self.detection_rows.append(_rows(detections, self.detection_fields).flatten(0, 1))
        self.detection_visits.append(visit.repeat_interleave(k))
        valid = truth["valid"]
        self.truth_rows.append(_rows(truth, self.truth_fields)[valid])
        self.truth_visits.append(visit[:, None].expand(valid.shape)[valid])

    def reset(self) -> None:
        super().reset()
        self._visits = 0

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank without images must still take part in gathering, with rows of the right shape.
        for name, width, dtype in (
            ("images", 2, torch.int64),
            ("detection_rows", sum(self.detection_fields.values()), _real(self.device)),
            ("detection_visits", None, torch.int64),
            ("truth_rows", sum(self.truth_fields.values()), _real(self.device)),
            ("truth_visits", None, torch.int64),
        ):
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                shape = (0,) if width is None else (0, width)
                getattr(self, name).append(torch.zeros(shape, dtype=dtype, device=self.device))
        super().sync(*args, **kwargs)

    def compute_once(self) -> dict[str, float]:
        """``compute``, for which only the first process of several does the work; all must call it."""
        if not torch.distributed.is_initialized():
            return self.compute()
        with self.sync_context():
            outcome: list[Any] = [None]
            if torch.distributed.get_rank() == 0:
                try:
                    outcome = [(type(self).compute(self), self.per_class)]  # not the instance's, which gathers
                except Exception as error:  # the others must not wait for it
                    outcome = [error]
            torch.distributed.broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        results, self.per_class = outcome[0]
        return results

    def table(self, results: Mapping[str, float]) -> str:
        """The numbers as text, three per line; a dash if undefined."""
        wide = max(6, *(len(name) + 1 for name in results))
        cells = [f"{name:<{wide}}{'     -' if v != v else f'{v:6.3f}'}" for name, v in results.items()]
        return "\n".join("    ".join(cells[start : start + 3]) for start in range(0, len(cells), 3))

    def class_table(self, most: int = 100) -> str:
        """``per_class`` as text: up to so many classes, those without objects left out; empty if there is none."""
        if not self.per_class:
            return ""
        shown = list(with_objects(self.per_class).items())
        width = max([5, *(len(name) for name, _ in shown[:most])])
        columns = list(next(iter(self.per_class.values())))
        lines = [f"{'class':<{width}}" + "".join(f"{column:>9}" for column in columns)]
        for name, values in shown[:most]:
            cells = (
                f"{v:9d}" if isinstance(v, int) else f"{'-':>9}" if v != v else f"{v:9.3f}" for v in values.values()
            )
            lines.append(f"{name:<{width}}" + "".join(cells))
        if len(shown) > most:
            lines.append(f"{len(shown) - most} more classes are in metrics.json")
        return "\n".join([*lines, *filter(None, [hidden_note(self.per_class)])])

    def precision_over_recall(self) -> Columns:
        """The curves to plot."""
        return self.curves

    def collected(self) -> tuple[np.ndarray, Columns, Columns]:
        """Image ids ``[N]`` (each once, rising), detections and truth: their fields as float64 ``[R]`` or ``[R, C]``,
        and under ``image`` the position ``[R]`` of each row's image in the ids. Rows keep their order."""
        images = _cat(self.images).reshape(-1, 2).astype(np.int64)
        ids, first = np.unique(images[:, 0], return_index=True)
        kept = images[first, 1]
        found = []
        for side, fields in (("detection", self.detection_fields), ("truth", self.truth_fields)):
            rows = _cat(getattr(self, f"{side}_rows")).reshape(-1, sum(fields.values())).astype(np.float64)
            visits = _cat(getattr(self, f"{side}_visits")).astype(np.int64)
            order = np.argsort(kept)
            place = np.searchsorted(kept, visits, sorter=order)
            image = order[np.minimum(place, len(kept) - 1)] if len(kept) else np.zeros(0, np.int64)
            is_kept = kept[image] == visits if len(kept) else np.zeros(len(visits), bool)
            ends = np.cumsum(list(fields.values()))[:-1]
            parts = dict(zip(fields, np.split(rows[is_kept], ends, axis=1), strict=True))
            columns = {name: part[:, 0] if fields[name] == 1 else part for name, part in parts.items()}
            found.append({**columns, "image": image[is_kept]})
        return ids, found[0], found[1]


def with_objects(per_class: PerClass) -> PerClass:
    """The classes that the truth has objects of: there is nothing to say about the others."""
    return {name: values for name, values in per_class.items() if values.get("objects", 1)}


def hidden_note(per_class: PerClass) -> str:
    """What to say of the classes that ``with_objects`` leaves out; empty if there are none."""
    count = len(per_class) - len(with_objects(per_class))
    return (
        f"{count} class{'es' * (count > 1)} without objects {'is' if count == 1 else 'are'} not shown" if count else ""
    )


def percent(value: float, width: int = 10) -> str:
    """A share as percent with two decimals, right-aligned; a dash where it is undefined."""
    return f"{'-':>{width}}" if value != value else f"{100 * value:{width}.2f}"


def _real(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _rows(source: Any, fields: Mapping[str, int]) -> Tensor:
    """The named fields ``[B, N, ...]`` side by side, ``[B, N, sum of widths]``."""
    columns = []
    for name, width in fields.items():
        value = source[name]
        flat = value[..., None] if width == 1 and value.ndim == 2 else value.flatten(2)
        columns.append(flat.to(_real(value.device)))
    return torch.cat(columns, -1)


def _cat(state: list[Tensor] | Tensor) -> np.ndarray:
    if isinstance(state, Tensor):
        return state.cpu().numpy()
    return torch.cat(state).cpu().numpy() if state else np.zeros((0,))
