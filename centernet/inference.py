"""Predictor: from image files or arrays to detections in image pixels, without Lightning."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from centernet.checkpoint import USUAL_EVAL, load_detector
from centernet.data.images import pixels_of, require_bit_depth
from centernet.data.transforms import eval_pipeline, warp_image
from centernet.detector import Detector
from centernet.errors import InputError, did_you_mean
from centernet.export.exported import ExportedDetector, is_exported, load_exported
from centernet.fields import unbatch
from centernet.models.centernet import require_divisible
from centernet.modes import Modes
from centernet.results import Result
from centernet.tasks import Task

Image = str | Path | bytes | np.ndarray | Tensor | PIL.Image.Image

PRECISIONS = ("32-true", "bf16-mixed")
"""Of a prediction, as ``trainer.precision`` calls them."""


class Predictor:
    """A detector with its preprocessing, ready to use on images.

    ``Predictor("RUN/best.ckpt")`` and ``Predictor("model.onnx")`` take everything from the file: a checkpoint of this
    project, or what ``scripts/export.py`` makes of it (``.onnx``, ``.xml``, ``.pt2``), which is run by its own runtime,
    on the CPU. A checkpoint's network is brought into its inference form (``Detector.fuse``). Without a file: a
    ``Detector``, used as it is, with its ``class_names`` and ``resolution``.

    ``resolution`` (height, width), ``mode`` and ``divisor`` describe how an image becomes an input (``EvalWarp``;
    default: as in the training run); ``device``: default for a file ``cuda`` if available, else ``cpu``; ``inference``:
    options of ``centernet.modes.Modes``, such as ``{"flip": True, "scales": [0.5, 1, 2]}``; ``bit_depth``: the bits
    that 16-bit images use (``read_image``); ``batch_size``: number of images per batch; ``bgr``: arrays have the
    channels of OpenCV, blue first; ``precision``: ``32-true``, or ``bf16-mixed``, convolutions in 16 bits, faster on
    GPUs and on CPUs with AVX512-BF16 or AMX, with scores that differ in the third digit. Raises ``InputError`` for any
    other file, an unknown mode or precision, a batch size below 1, or what the network or the exported file cannot
    take: a resolution, a device, a mode of inference, a precision.
    """

    def __init__(
        self,
        detector: Detector | str | Path,
        class_names: Sequence[str] | None = None,
        resolution: Sequence[int] | None = None,
        mode: str | None = None,
        divisor: int | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 8,
        bit_depth: int | None = None,
        inference: Modes | Mapping[str, Any] | None = None,
        bgr: bool = False,
        precision: str = PRECISIONS[0],
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} is too small; use at least 1")
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision!r} is unknown; {did_you_mean(str(precision), PRECISIONS)}")
        given = {"resolution": resolution, "mode": mode, "divisor": divisor, "bit_depth": bit_depth}
        spec = {"mode": "fit", "divisor": 32, "bit_depth": None}
        if isinstance(detector, (str, Path)):
            detector, names, theirs = _load(detector)
            class_names = class_names or names
            spec |= theirs
            device = device or _usual_device(detector)
        elif class_names is None or resolution is None:
            raise InputError("a detector does not know its classes and its input; give class_names and resolution")
        spec |= {key: value for key, value in given.items() if value}
        if spec["mode"] != "keep":
            require_divisible(spec["resolution"], getattr(detector.network, "divisor", 1))
        device = torch.device(device or "cpu")
        if isinstance(detector, ExportedDetector):
            detector.require_size(spec["resolution"], spec["mode"])
            if device.type != "cpu":
                raise InputError(f"device={device}: exported files run on the CPU; leave it out")
            if precision != PRECISIONS[0]:
                raise InputError(
                    f"precision={precision}: an exported file has its own; leave it out, or export with --precision"
                )
        self.detector = detector.eval().to(device)
        if inference is not None:
            self.detector.use(inference)
        self.class_names = list(class_names)
        height, width = spec["resolution"]
        size = (int(height), int(width))
        self.pipeline = eval_pipeline(size, spec["mode"], spec["divisor"])
        others = [scale for scale in self.detector.modes.scales if scale != 1]
        self.views = [eval_pipeline(size, spec["mode"], spec["divisor"], scale) for scale in others]
        self.device, self.batch_size, self.precision = device, batch_size, precision
        self.bit_depth, self.bgr = require_bit_depth(spec["bit_depth"]), bgr

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        resolution: Sequence[int] | None = None,
        mode: str | None = None,
        device: str | None = None,
        batch_size: int = 8,
        bit_depth: int | None = None,
        inference: Modes | Mapping[str, Any] | None = None,
        bgr: bool = False,
        precision: str = PRECISIONS[0],
    ) -> Predictor:
        """Load a checkpoint of this project or an exported file: the same as ``Predictor(path, ...)``."""
        options = {"resolution": resolution, "mode": mode, "device": device, "bit_depth": bit_depth}
        return cls(path, **options, batch_size=batch_size, inference=inference, bgr=bgr, precision=precision)

    @property
    def task(self) -> Task:
        """The task of the detector: its ``threshold``, its ``facts``, its ``heads``."""
        return self.detector.task

    def __call__(self, image: Image, threshold: float = 0.0, **about: Any) -> Result:
        """Detections of one image (``Result``): ``boxes [N, 4]`` in image pixels, ``scores [N]``, ``labels [N]``,
        ``names``, and what else the task finds.

        ``image``: a path, the bytes of an image file, a PIL image, or an array or tensor in RGB (see
        ``centernet.data.images.pixels_of``; with ``bgr``, arrays are BGR). ``threshold``: minimum score. ``about``:
        what the task needs besides pixels (``Task.image_fields``; for 3D a ``calibration`` ``[3, 4]``, or a ``focal``
        length in image pixels). Raises ``InputError`` for what is no image or cannot be read, or a wrong ``about``.
        """
        return self.predict([image], threshold, [about])[0]

    def predict(
        self,
        images: Iterable[Image],
        threshold: float = 0.0,
        about: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = None,
    ) -> list[Result]:
        """Detections of several images; see ``stream``."""
        return list(self.stream(images, threshold, about))

    def stream(
        self,
        images: Iterable[Image],
        threshold: float = 0.0,
        about: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = None,
    ) -> Iterator[Result]:
        """Detections of any number of images, one at a time, in constant memory.

        Images are read on demand, ``batch_size`` at a time. ``about``: one mapping for all images, or one per image;
        see ``__call__``.
        """
        if isinstance(images, (str, Path, bytes, PIL.Image.Image)) or getattr(images, "ndim", 4) < 4:
            raise InputError("predict takes several images; give a list, or call the predictor itself for one image")
        pairs = _pairs(images, about)
        while True:
            chunk = list(itertools.islice(pairs, self.batch_size))
            if not chunk:
                return
            yield from self._detect(chunk, threshold)

    @torch.inference_mode()
    def _detect(self, chunk: Sequence[tuple[Image, Mapping[str, Any]]], threshold: float) -> list[Result]:
        """Detections of a few images, in batches of equal input size."""
        samples: list[dict[str, Any]] = []
        views: list[list[tuple[Tensor, Tensor]]] = []
        for image, about in chunk:
            pixels = self._pixels(image)
            warped, matrix = warp_image(self.pipeline, pixels)
            size = pixels.shape[:2]
            fields = {"image": warped, "input_from_image": matrix, "image_size": torch.tensor(size)}
            samples.append({**fields, **self.task.image_fields(about, size)})
            views.append([warp_image(pipeline, pixels) for pipeline in self.views])
        groups: dict[tuple[Any, ...], list[int]] = {}
        for n, sample in enumerate(samples):
            shapes = (sample["image"].shape, *(image.shape for image, _ in views[n]))
            groups.setdefault((*shapes, *sorted(sample)), []).append(n)
        results: dict[int, Result] = {}
        for members in groups.values():
            batch = {name: torch.stack([samples[n][name] for n in members]) for name in samples[members[0]]}
            batch["views"] = [
                dict(zip(("image", "input_from_image"), map(torch.stack, zip(*view, strict=True)), strict=True))
                for view in zip(*(views[n] for n in members), strict=True)
            ]
            with self._mixed():
                found = self.detector.find_in_images(batch).detections
            for n, detections in zip(members, unbatch(found, threshold), strict=True):
                known = {name: samples[n][name].numpy() for name in self.task.IMAGE_FIELDS}
                size = samples[n]["image_size"].tolist()
                results[n] = Result(detections, self.class_names, size, self.task.facts, known)
        return [results[n] for n in range(len(chunk))]

    def _mixed(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def _pixels(self, image: Image) -> np.ndarray:
        pixels = pixels_of(image, self.bit_depth)
        is_turned = self.bgr and isinstance(image, np.ndarray) and image.ndim == 3
        return np.ascontiguousarray(pixels[..., ::-1]) if is_turned else pixels

    @torch.inference_mode()
    def heatmap(self, image: Image, name: str = "heatmap") -> tuple[np.ndarray, np.ndarray]:
        """Peak probability over all classes ``[h, w]`` float32 in grid space, and the matrix input-from-image ``[3,
        3]``. ``name``: ``heatmap`` or another head with peaks. Raises ``InputError`` for an exported file."""
        if not self.detector.has_maps:
            raise InputError(
                "an exported file gives detections only; heatmaps need the checkpoint that it was made from"
            )
        pixels, matrix = warp_image(self.pipeline, self._pixels(image))
        with self._mixed():
            maps: dict[str, Tensor] = self.detector.find(pixels[None].to(self.device)).maps
        return maps[name][0].amax(0).cpu().numpy(), matrix.numpy()


def _load(path: str | Path) -> tuple[Detector, list[str], dict[str, Any]]:
    """The detector in a file, its classes, and how an image becomes its input."""
    if is_exported(path):
        exported = load_exported(path)
        return exported, exported.class_names, exported.spec
    detector, description = load_detector(path)
    detector = detector.eval().fuse().to(memory_format=torch.channels_last)
    return detector, description["module"]["class_names"], description["eval"] or USUAL_EVAL


def _usual_device(detector: Detector) -> str:
    return "cuda" if torch.cuda.is_available() and not isinstance(detector, ExportedDetector) else "cpu"


def _pairs(
    images: Iterable[Image], about: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None
) -> Iterator[tuple[Image, Mapping[str, Any]]]:
    """Each image with what is known of it."""
    if about is None or isinstance(about, Mapping):
        yield from zip(images, itertools.repeat(about or {}), strict=False)
        return
    absent = object()
    for image, known in itertools.zip_longest(images, about, fillvalue=absent):
        if image is absent or known is absent:
            raise InputError("images and about differ in length; give one mapping for all images, or one per image")
        yield image, known
