"""Task: a heatmap of points, a list of terms, a metric, and at most one step that combines terms.

Everything that follows from the terms is implemented here, once: targets, losses, decoding, flip testing, and the
output of a perfect network. A task has no parameters and does not depend on data sets, networks or Lightning. A new
task is a file in this package with one subclass of ``Task`` (docs/adding.md).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from centernet.errors import InputError, did_you_mean
from centernet.fields import move, partners_of, sources
from centernet.metrics.rows import ImageMetric
from centernet.ops.affine import Size, flip_matrix
from centernet.structures import AtCells, Batch, Detections, Head, Objects, Outputs, Target, Targets
from centernet.tasks._spread import spread
from centernet.tasks.terms.base import About, Peaks, Placed, Term
from centernet.tasks.terms.points import Points

HEATMAP = "heatmap"


class Task:
    """Base of all tasks. A subclass sets ``name`` and ``TERMS`` and implements ``metric``.

    ``stride``: input pixels per grid cell. ``facts``: metadata of the data (``ImageDataset.facts``), as plain data.
    Options nest like the terms: ``size={"weight": 0.1}``; ``offset=None`` drops one of the ``OPTIONAL`` terms.
    ``pad_objects``: None to average losses at centers over objects, or the number of rows per image, full or empty, to
    average over (the original's ``max_objs`` in monocular 3D). Raises ``InputError`` for an unknown option or value.
    """

    name: ClassVar[str]
    TERMS: ClassVar[Mapping[str, Callable[..., Term]]]
    """The terms by name, ``heatmap`` (``Points``) first: classes, or partials of them with options of their own."""
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    IMAGE_FIELDS: ClassVar[tuple[str, ...]] = ()
    """Fields of images (``centernet.fields``) that ``lift`` needs."""
    any_scale: ClassVar[bool] = True
    """Whether results stay right when the input shows the image larger or smaller than in training."""
    merges_maps: ClassVar[bool] = True
    """Whether flip testing averages maps (``merge_flipped``) or puts the detections of both images together."""
    suppression: ClassVar[str | None] = None
    """The suppression of overlapping detections that one pass needs (``centernet.ops.nms``)."""
    clips_boxes: ClassVar[bool] = False
    """Whether detected boxes end at the image, as annotated ones do. The original's do not."""
    threshold: ClassVar[float] = 0.3
    """Default minimum score for drawing detections."""

    def __init__(
        self,
        num_classes: int,
        stride: int = 4,
        facts: Mapping[str, Any] | None = None,
        pad_objects: int | None = None,
        **options: Any,
    ) -> None:
        self.num_classes, self.stride = num_classes, stride
        if pad_objects is not None and not (isinstance(pad_objects, int) and pad_objects > 0):
            raise InputError(f"task {self.name}: pad_objects={pad_objects!r} must be a positive integer or null")
        about = About(self.name, num_classes, stride, dict(facts or {}), pad_objects)
        if unknown := [option for option in options if option not in self.TERMS]:
            names = dict.fromkeys((*_parameters(type(self)), *self.TERMS))  # a subclass may repeat forwarded arguments
            known = [name for name in names if name not in ("num_classes", "facts")]
            raise InputError(f"task {self.name} has no option {unknown[0]!r}; {did_you_mean(unknown[0], known)}")
        self.terms = {
            name: make_term(make, name, about, options.get(name, {}))
            for name, make in self.TERMS.items()
            if not self._is_left_out(name, options.get(name, {}))
        }
        self.facts = about.facts | {name: fact for term in self.terms.values() for name, fact in term.facts.items()}
        self.heatmap: Points = self.terms[HEATMAP]
        self.wanted = about.wanted  # facts that only the data has and that were not given
        self.heads  # noqa: B018  raises early for incompatible options

    def _is_left_out(self, name: str, options: Any) -> bool:
        if options is None and name not in self.OPTIONAL:
            known = ", ".join(self.OPTIONAL) or "none"
            raise InputError(f"task {self.name}: {name}=null is not possible; terms that can be null: {known}")
        return options is None

    # What differs between tasks.

    def metric(self, class_names: Sequence[str], **options: Any) -> ImageMetric:
        """A new metric: ``update(detections, truth, image_id)`` takes image space, ``compute()`` returns a flat
        dict."""
        raise NotImplementedError

    def supervised(self, placed: Placed, objects: Objects) -> Mapping[str, Tensor]:
        """Rules across terms: for terms trained on some objects only, a mask of them (bool ``[B, M]``)."""
        return {}

    def finish(self, found: Detections, peaks: Peaks, maps: Outputs) -> Detections:
        """The step that combines terms: adjusts detections in input pixels, which include ``center`` and ``size``
        besides the boxes made from them."""
        return found

    def lift(self, detections: Detections, batch: Batch) -> Detections:
        """Detections from input to image pixels, by the inverse of ``batch["input_from_image"]``. With ``clips_boxes``,
        boxes end at the image (``batch["image_size"]``)."""
        found = move(detections, torch.linalg.inv(batch["input_from_image"]), partners_of(self.facts))
        if self.clips_boxes:
            height, width = batch["image_size"].to(found["boxes"]).unbind(-1)
            ends = torch.stack([width, height, width, height], -1)[:, None]
            found["boxes"] = found["boxes"].clamp(min=0).minimum(ends)
        return found

    def settle(self, found: Detections) -> Detections:
        """The last step, on the detections of all passes together, in image pixels."""
        return found

    def image_fields(self, given: Mapping[str, Any], image_size: Size) -> dict[str, Tensor]:
        """Converts ``given``, known about an image of ``image_size`` (height, width), to the fields that ``lift``
        needs."""
        if given := [name for name, value in given.items() if value is not None]:
            raise InputError(f"task {self.name} needs only the image; remove {', '.join(given)}")
        return {}

    # What follows from the terms.

    @property
    def heads(self) -> dict[str, Head]:
        """The maps that the network must emit, by name."""
        return {name: term.head for name, term in self.terms.items()}

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields that the data's objects must carry."""
        return tuple(dict.fromkeys(field for term in self.terms.values() for field in term.needs))

    def check_data(self, fields: Mapping[str, Tensor], facts: Mapping[str, Any], where: str) -> None:
        """Raise ``InputError`` if data with these fields and facts cannot be used; ``where`` names the data."""
        if missing := [field for field in self.needs if field not in fields]:
            hint = f"; use {source}" if (source := sources(missing)) else ""
            raise InputError(
                f"task {self.name} needs objects with {', '.join(missing)}, which {where} does not have{hint}"
            )
        for term in self.terms.values():
            term.check_facts(facts, where)

    def encode(self, objects: Objects, grid_size: tuple[int, int]) -> Targets:
        """Targets of a batch, one per head. ``objects`` padded, in input pixels; ``grid_size`` (height, width) in
        cells."""
        placed = self.heatmap.place(objects, grid_size)
        targets: Targets = {HEATMAP: self.heatmap.encode(placed, objects)}
        placed, objects = self.heatmap.samples(placed, objects)
        rules = self.supervised(placed, objects)
        for name, term in self.terms.items():
            if name == HEATMAP:
                continue
            rows = placed._replace(is_object=placed.is_object & rules[name]) if name in rules else placed
            targets[name] = _padded(term.encode(rows, objects), term.about.pad_objects)
        return targets

    def losses(self, outputs: Sequence[Outputs], targets: Targets) -> dict[str, Tensor]:
        """Every part of the loss, averaged over the stacks and unweighted, and under ``loss`` their weighted sum."""
        parts: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for name, term in self.terms.items():
            weights |= term.weights
            for stack in outputs:
                for part, value in term.losses(stack[name], targets[name]).items():
                    parts[part] = parts.get(part, 0) + value / len(outputs)
        return {"loss": sum(weights[part] * value for part, value in parts.items()), **parts}

    def imitation(self, outputs: Sequence[Outputs], maps: Outputs) -> Tensor:
        """How far raw maps are from a teacher's activated ``maps``: the parts of all terms, averaged over the stacks
        and weighted as in ``losses``."""
        total = maps[HEATMAP].new_zeros(())
        for name, term in self.terms.items():
            target, weights = term.taught(maps), term.weights
            for stack in outputs:
                for part, value in term.imitation(stack[name], target).items():
                    total = total + weights[part] * value / len(outputs)
        return total

    def check_teacher(self, other: Task) -> None:
        """Raise ``InputError`` if the maps of a network for ``other`` do not say the same as those of this task, apart
        from the classes."""
        if other.name != self.name:
            raise InputError(f"the teacher's task is {other.name}, this run's is {self.name}; give one of this task")
        if other.stride != self.stride:
            raise InputError(
                f"the teacher's stride is {other.stride}, this run's is {self.stride}; give a teacher of this stride"
            )
        for name, term in self.terms.items():
            if name not in other.terms:
                raise InputError(f"the teacher has no head {name}; use the teacher's options of the task")
            term.check_teacher(other.terms[name])

    def activate(self, outputs: Outputs) -> Outputs:
        """Raw maps to maps that ``decode`` reads: probabilities for heatmaps, meters for depth, and so on."""
        return {name: self.terms[name].activate(raw) for name, raw in outputs.items()}

    def decode(self, maps: Outputs) -> Detections:
        """Detections ``[B, K, ...]`` in input pixels from activated maps (see ``activate``), by decreasing score.

        Without an offset, centers are the middles of cells; without a size, boxes have zero area.
        """
        peaks = self.heatmap.find(maps)
        found: Detections = {}
        for name, term in self.terms.items():
            if term.reads_peaks:
                found |= term.read(term.at_peaks(maps[name], peaks), peaks)
        found.setdefault("center", (peaks.corner + 0.5) * self.stride)
        half = found.setdefault("size", torch.zeros_like(found["center"])) / 2
        boxes = torch.cat([found["center"] - half, found["center"] + half], -1)
        found = self.finish({"boxes": boxes, "scores": peaks.scores, "labels": peaks.labels, **found}, peaks, maps)
        return {name: value for name, value in found.items() if name not in ("center", "size")}

    def detect(self, outputs: Outputs) -> Detections:
        """Raw maps of the last stack to detections in input pixels."""
        return self.decode(self.activate(outputs))

    def merge_flipped(self, maps: Outputs) -> Outputs:
        """Merge activated maps ``[2B, ...]`` of B images followed by their mirror images into ``[B, ...]``."""
        merged = {}
        for name, value in maps.items():
            term, plain = self.terms[name], value.chunk(2)[0]
            mirrored = maps[term.partner or name].chunk(2)[1]
            merged[name] = (plain + term.mirror(mirrored.flip(-1))) / 2 if term.is_merged else plain
        return merged

    def mirrored(self, maps: Outputs) -> Outputs:
        """Activated maps of the mirrored image from those of the plain one, or of terms that are not partners."""
        return {
            self.terms[name].partner or name: self.terms[name].mirror(value).flip(-1) for name, value in maps.items()
        }

    def unmirrored(self, found: Detections, width: int) -> Detections:
        """Detections in a mirrored input of this width (pixels) as they are in the plain one.

        As the original, this mirrors at the input's end, although its pixels are mirrored at the last one: a pixel too
        far to the right.
        """
        matrix = torch.from_numpy(flip_matrix(width + 1)).to(found["boxes"].device)
        return move(found, matrix.expand(len(found["boxes"]), 3, 3), partners_of(self.facts))

    def perfect(self, targets: Targets, grid_size: tuple[int, int]) -> Outputs:
        """The raw output of a perfect network for ``targets``; lets every task test itself."""
        return {name: term.perfect(targets[name], grid_size) for name, term in self.terms.items()}

    def oracle(self, targets: Targets, grid_size: tuple[int, int]) -> Outputs:
        """The activated maps of a perfect network in every cell: away from the cells where a target is, what the
        nearest one of them has (``spread``). Shows what each head's errors cost (the original's oracle evaluation)."""
        maps = {}
        for name, term in self.terms.items():
            target = targets[name]
            known = target if name == HEATMAP or term.head.is_heatmap else spread(target, term.positions, grid_size)
            maps[name] = term.oracle(known, grid_size)
        return maps


def by_score(found: Detections) -> Detections:
    """Detections ``[B, K, ...]`` by decreasing score, for tasks that change the scores of peaks."""
    order = found["scores"].topk(found["scores"].shape[1]).indices
    return {
        name: value.gather(1, order.view(*order.shape, *[1] * (value.ndim - 2)).expand_as(value))
        for name, value in found.items()
    }


def make_term(make: Callable[..., Term], name: str, about: About, options: Any) -> Term:
    """A term with these options. Raises ``InputError`` for unknown options."""
    if not isinstance(options, Mapping):
        raise InputError(
            f"task {about.task}: {name}={options!r} must be a mapping of options; for example {{weight: 1.0}}"
        )
    known = [option for option in _parameters(make) if option not in ("name", "about")]
    for option in options:
        if option not in known:
            raise InputError(f"task {about.task}: {name} has no option {option!r}; {did_you_mean(str(option), known)}")
    return make(name, about, **options)


def _parameters(make: Callable[..., Any]) -> list[str]:
    """Argument names of a constructor, including those of base classes that it forwards to."""
    cls, names = getattr(make, "func", make), []
    for part in cls.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = inspect.signature(part.__init__).parameters.values()
        names += [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def _padded(target: Target, rows: int | None) -> Target:
    """Targets at cells, padded with unsupervised rows to at least this many."""
    if rows is None or not isinstance(target, AtCells) or target.cell.shape[1] >= rows:
        return target
    more = rows - target.cell.shape[1]
    mask = F.pad(target.mask, (0, 0, 0, more) if target.mask.ndim == 3 else (0, more))
    return AtCells(F.pad(target.cell, (0, more)), F.pad(target.value, (0, 0, 0, more)), mask)


def task_names() -> list[str]:
    """Names of all tasks: the files of this package, except this one and those with an underscore."""
    import centernet.tasks

    files = (m.name for m in pkgutil.iter_modules(centernet.tasks.__path__) if not m.ispkg)
    return sorted(name for name in files if name != "base" and not name.startswith("_"))


def task_class(name: str) -> type[Task]:
    """The class of the task of this name. Raises ``InputError`` for an unknown name."""
    if name not in (names := task_names()):
        raise InputError(f"unknown task {name!r}; {did_you_mean(str(name), names)}")
    module = importlib.import_module(f"centernet.tasks.{name}")
    return next(
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Task) and getattr(value, "name", None) == name
    )


def build_task(name: str, num_classes: int, facts: Mapping[str, Any] | None = None, **options: Any) -> Task:
    """The task of this name (a file of this package). Raises ``InputError`` for an unknown name or option."""
    return task_class(name)(num_classes, facts=facts, **options)
