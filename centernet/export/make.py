"""From a detector to a file that is known to work: write it, run it, compare it with PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from centernet.checkpoint import USUAL_EVAL
from centernet.detector import Detector
from centernet.errors import InputError, did_you_mean
from centernet.export.agreement import Agreement, Found, compare
from centernet.export.elsewhere import next_steps
from centernet.export.graph import DTYPES, DYNAMIC, Graph, Shape, check_shape
from centernet.export.metadata import describe
from centernet.export.onnx_file import save_onnx, to_onnx
from centernet.export.openvino_file import save_openvino, to_openvino
from centernet.export.precision import halve_onnx, quantize_onnx, quantize_openvino
from centernet.export.runtime import Artifact
from centernet.export.samples import Samples
from centernet.export.torch_file import write_torch


class Format(NamedTuple):
    """A format: the ending of the file that is written here, and the precisions that it can have."""

    suffix: str
    precisions: tuple[str, ...]


FORMATS = {
    "onnx": Format(".onnx", ("fp32", "fp16", "int8")),
    "openvino": Format(".xml", ("fp32", "fp16", "int8")),
    "torch": Format(".pt2", ("fp32",)),
    "tensorrt": Format(".onnx", ("fp32", "fp16", "int8")),
    "coreml": Format(".pt2", ("fp32", "fp16")),
    "executorch": Format(".pt2", ("fp32",)),
}
CALIBRATED_AT_ONCE = 8
"""Images of a batch of calibration: all maps of the network are kept for it."""
HANDED_ON = ("tensorrt", "coreml", "executorch")
"""Formats of which only the first file is made here."""


class Made(NamedTuple):
    """An exported file, how it compares with PyTorch, and what is left to do, if anything."""

    path: Path
    agreement: Agreement
    rest: str | None


def check_request(target: str, precision: str, dynamic: str, dtype: str) -> None:
    """Raise ``InputError`` for an unknown word, or a precision that a format does not have."""
    for option, value, known in (
        ("format", target, FORMATS),
        ("dynamic", dynamic, DYNAMIC),
        ("input", dtype, DTYPES),
        ("precision", precision, ("fp32", "fp16", "int8")),
    ):
        if value not in known:
            raise InputError(f"--{option} {value} is unknown; {did_you_mean(value, known)}")
    if precision not in (known := FORMATS[target].precisions):
        raise InputError(f"--format {target} has no precision {precision}; choose one of {', '.join(known)}")


def export(
    detector: Detector,
    description: Mapping[str, Any],
    target: str,
    path: Path,
    shape: Shape,
    images: list[Path | np.ndarray],
    precision: str = "fp32",
    calibration: list[Path | np.ndarray] | None = None,
) -> Made:
    """Write a detector as a file and compare it with PyTorch.

    ``description``: of its checkpoint (``checkpoint.load_detector``); ``target``: a name of ``FORMATS``; ``images``:
    what to compare on; ``calibration``: images for the ranges of 8 bits. Raises ``InputError`` for what cannot be
    exported, ``MismatchError`` if the file does not find what PyTorch finds.
    """
    check_request(target, precision, shape.dynamic, shape.dtype)
    if precision == "int8" and not calibration:
        raise InputError(
            "--precision int8 needs images like those that will be seen; give a folder of a hundred or more with "
            "--calibrate"
        )
    evaluation = {**USUAL_EVAL, **(description["eval"] or {})}
    if evaluation["mode"] == "keep" and not shape.frees_size:
        evaluation["mode"] = "fit"  # images of any size in an input of one size
    detector = detector.cpu().eval()
    graph = Graph(detector)
    check_shape(graph, shape)
    told = describe(graph, {**description, "eval": evaluation}, shape, precision)
    sampled = [
        Samples(some, shape, evaluation["mode"], graph.divisor, evaluation.get("bit_depth"))
        for some in (images, calibration or [])
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(graph, target, path, shape, precision, told, sampled[1])
    artifact = Artifact.load(path)
    compared = "fp32" if target in HANDED_ON and precision == "fp16" else precision
    agreement = compare([_both(detector, artifact, batch) for batch in _checked_on(sampled[0], graph)], compared)
    rest = next_steps(target, path, shape, precision, graph.smallest_side) if target in HANDED_ON else None
    return Made(path, agreement, rest)


def _write(
    graph: Graph, target: str, path: Path, shape: Shape, precision: str, told: Mapping[str, Any], samples: Samples
) -> None:
    if target in ("onnx", "tensorrt"):
        model = to_onnx(graph, shape)
        if precision == "int8":
            model = quantize_onnx(model, lambda: samples.batches(CALIBRATED_AT_ONCE), symmetric=target == "tensorrt")
        elif precision == "fp16" and target == "onnx":  # TensorRT chooses itself what to halve
            model = halve_onnx(model)
        save_onnx(model, path, told)
    elif target == "openvino":
        model = to_openvino(graph, shape)
        if precision == "int8":
            model = quantize_openvino(model, lambda: samples.batches(1), len(samples))  # it averages over batches
        save_openvino(model, path, told, precision == "fp16")
    else:
        if target in HANDED_ON:  # XNNPACK, by which ExecuTorch computes, arranges weights itself
            graph.network.to(memory_format=torch.contiguous_format)
        write_torch(graph, shape, path, told, orders_ties=target == "torch")


def _checked_on(samples: Samples, graph: Graph) -> Iterator[np.ndarray]:
    """Batches to compare on: those of the samples, and where the size is free, one of them cut to another size."""
    batch = None
    for batch in samples.batches():
        yield batch
    if samples.shape.frees_size and batch is not None:
        height, width = (max(side - graph.divisor, graph.smallest_side) for side in batch.shape[2:])
        if (height, width) != batch.shape[2:]:
            yield np.ascontiguousarray(batch[:, :, :height, :width])


@torch.inference_mode()
def _both(detector: Detector, artifact: Artifact, images: np.ndarray) -> tuple[Found, Found]:
    """What PyTorch and the artifact find."""
    wanted = detector.task.decode(detector.task.activate(detector.outputs(torch.from_numpy(images))[-1]))
    return {name: value.numpy() for name, value in wanted.items()}, artifact.run(images)
