"""Artifact: an exported file, ready to run, whatever its format."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from centernet.errors import InputError
from centernet.export.metadata import unpack
from centernet.export.openvino_file import INFO
from centernet.export.packages import need


class Artifact(ABC):
    """An exported detector: images in, detections out, in pixels of its input.

    ``metadata``: what the file says about itself (``centernet.export.metadata.describe``). ``Artifact.load(path)``
    takes ``.onnx`` (onnxruntime), ``.xml`` (OpenVINO) and ``.pt2`` (torch.export).
    """

    suffix: ClassVar[str]

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path, self.metadata = path, dict(metadata)
        self.outputs: list[str] = self.metadata["outputs"]

    @staticmethod
    def load(path: str | Path, threads: int | None = None) -> Artifact:
        """The artifact in a file. ``threads``: of a CPU (default: as many as the runtime takes).

        Raises ``InputError`` for a missing or foreign file, another format, or a missing package.
        """
        path = Path(path)
        if path.suffix not in LOADERS:
            raise InputError(f"{path} is not an exported file of a known format; give one of *{', *'.join(LOADERS)}")
        if not path.is_file():
            raise InputError(f"{path}: the file does not exist; make it with scripts/export.py CHECKPOINT")
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads} is too small; use at least 1")
        return LOADERS[path.suffix](path, threads)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Detections of images ``[N, 3, H, W]``, RGB, uint8 or float32 in 0 .. 255, made as ``metadata["transform"]``
        says: ``boxes [N, K, 4]`` (x1, y1, x2, y2), ``scores [N, K]`` (falling), ``labels [N, K]`` (int64), and what
        else the task finds (``metadata["outputs"]``).

        A file with a fixed batch runs as often as needed. Raises ``InputError`` for images of another shape or type.
        """
        images = self._checked(images)
        count, batch = len(images), self.metadata["input"]["shape"][0]
        if batch is None or batch == count:
            return self._named(self._run(images))
        parts = []
        for start in range(0, count, batch):
            some = images[start : start + batch]
            missing = batch - len(some)
            full = np.concatenate([some, np.zeros((missing, *some.shape[1:]), some.dtype)]) if missing else some
            parts.append([value[: len(some)] for value in self._run(full)])
        return self._named([np.concatenate(values) for values in zip(*parts, strict=True)])

    def _named(self, values: list[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, values, strict=True))

    @abstractmethod
    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        """The outputs in their order, for images of the right shape and type."""

    def _checked(self, images: np.ndarray) -> np.ndarray:
        """Images as the file takes them."""
        wanted = self.metadata["input"]
        shape, known = tuple(images.shape), wanted["shape"]
        divisor, least = self.metadata["divisor"], self.metadata["smallest_side"]
        is_right = len(shape) == 4 and shape[0] > 0 and shape[1] == known[1]
        if is_right:
            sides = zip(shape[2:], known[2:], strict=True)
            is_right = all(side == fixed if fixed else side >= least and side % divisor == 0 for side, fixed in sides)
        if not is_right:
            free = f"multiples of {divisor} from {least} on"
            size = "x".join(str(side) if side else free for side in known[2:]) if all(known[2:]) else free
            raise InputError(f"{self.path.name} takes images [N, 3, H, W] with H, W = {size}, not {list(shape)}")
        if images.dtype == np.uint8:
            return np.ascontiguousarray(images, dtype=wanted["dtype"])
        if images.dtype == np.float32 and wanted["dtype"] == "float32":
            return np.ascontiguousarray(images)
        raise InputError(
            f"{self.path.name} takes {'uint8' if wanted['dtype'] == 'uint8' else 'uint8 or float32'} in 0 .. 255, not "
            f"{images.dtype}; convert the images"
        )


class OnnxArtifact(Artifact):
    """An ONNX file in onnxruntime, on the CPU."""

    suffix = ".onnx"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = need("onnxruntime", f"running {path.name}")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no base class of its errors
            reason = " ".join(str(error).split())
            raise InputError(f"onnxruntime cannot load {path} ({reason[:200]}); export it again") from None
        super().__init__(path, unpack(self.session.get_modelmeta().custom_metadata_map, path))

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        return self.session.run(self.outputs, {self.metadata["input"]["name"]: images})


class OpenvinoArtifact(Artifact):
    """An OpenVINO model, on the CPU."""

    suffix = ".xml"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        openvino = need("openvino", f"running {path.name}")
        core = openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"OpenVINO cannot load {path} ({reason[:200]}); export it again") from None
        texts = {}
        if model.has_rt_info([INFO]):
            texts = {key: model.get_rt_info([INFO, key]).astype(str) for key in model.get_rt_info([INFO]).value}
        super().__init__(path, unpack(texts, path))
        # Else OpenVINO computes in 16 bits where a CPU can.
        options: dict[str, Any] = {} if self.metadata["precision"] == "fp16" else {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self.compiled = core.compile_model(model, "CPU", options)

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        found = self.compiled([images])
        return [np.array(found[name]) for name in self.outputs]


class TorchArtifact(Artifact):
    """A program of torch.export, on the CPU. ``threads`` holds for everything that PyTorch does in this process."""

    suffix = ".pt2"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import torch

        from centernet.export.torch_file import EXTRA

        extra = {EXTRA: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
        except Exception as error:  # a file can fail in any way
            reason = " ".join(str(error).split())
            raise InputError(f"torch.export cannot load {path} ({reason[:200]}); export it again") from None
        try:
            texts = json.loads(extra[EXTRA])
        except ValueError:
            texts = {}
        super().__init__(path, unpack(texts, path))
        if threads is not None:
            torch.set_num_threads(threads)
        self.program = program.module()

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        import torch

        with torch.inference_mode():
            return [value.numpy() for value in self.program(torch.from_numpy(images))]


LOADERS: dict[str, Callable[[Path, int | None], Artifact]] = {
    kind.suffix: kind for kind in (OnnxArtifact, OpenvinoArtifact, TorchArtifact)
}
"""By the ending of the file."""
