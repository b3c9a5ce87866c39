"""ExportedDetector: an exported file in place of a network, on the same path from images to detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from centernet.detector import Detector, Found
from centernet.errors import InputError
from centernet.export.runtime import LOADERS, Artifact
from centernet.modes import Modes
from centernet.structures import Outputs
from centernet.tasks import build_task

# What the transform of a file says to the caller; the rest of it is done inside the graph.
TRANSFORM = ("mode", "divisor", "bit_depth")


def is_exported(path: Any) -> bool:
    """Whether this is, by its ending, the path of an exported file."""
    return isinstance(path, (str, Path)) and Path(path).suffix in LOADERS


class _Network(nn.Module):
    """Stands for the network that is inside the file: what others ask one for, and no weights."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.stride: int = about["stride"]
        self.divisor: int = about["divisor"]


class ExportedDetector(Detector):
    """A detector whose network and decoding are an exported file, run by its own runtime on the CPU.

    It finds detections and no maps: there are no losses, no heatmaps, and no modes of inference that put maps together.
    ``find`` takes images ``[B, 3, H, W]``, RGB, uint8 (or float in 0 .. 255, if the file does), and gives detections in
    input pixels. ``lift``, test-time scales (for a file of free size) and suppression are those of any detector. Raises
    ``InputError`` for modes that need maps, or inputs of several sizes from a file that has one.
    """

    has_maps = False

    def __init__(self, artifact: Artifact, modes: Modes | Mapping[str, Any] | None = None) -> None:
        about = artifact.metadata
        self.artifact = artifact
        task = build_task(about["task"], about["num_classes"], about["facts"], **about["task_options"])
        super().__init__(_Network(about), task, about["transform"]["normalization"], modes)

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of their labels."""
        return list(self.artifact.metadata["class_names"])

    @property
    def spec(self) -> dict[str, Any]:
        """How an image becomes an input, as in a checkpoint: resolution, mode, divisor, bit depth."""
        about = self.artifact.metadata
        known = {name: about["transform"][name] for name in TRANSFORM if name in about["transform"]}
        return {"resolution": list(about["resolution"]), **known}

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width of the only input that the file takes; None if it takes any."""
        height, width = self.artifact.metadata["input"]["shape"][2:]
        return (height, width) if height and width else None

    def use(self, modes: Modes | Mapping[str, Any] | None) -> None:
        super().use(modes)
        name = self.artifact.path.name
        if self.modes.tiles is not None or (self.modes.flip and self.task.merges_maps):
            mode = "tiles" if self.modes.tiles is not None else "flip"
            raise InputError(
                f"inference.{mode} puts maps together, and {name} gives detections only; remove it, or use the "
                "checkpoint that the file was made from"
            )
        if self.modes.scales != (1.0,) and self.fixed_size is not None:
            raise InputError(
                f"inference.scales needs inputs of several sizes, and {name} takes {self._size()} only; remove it, or "
                "export with --dynamic size"
            )

    def require_size(self, resolution: Sequence[int], mode: str) -> None:
        """Raise ``InputError`` unless the file takes inputs of this resolution (height, width), made in this mode."""
        if (fixed := self.fixed_size) is None:
            return
        name = self.artifact.path.name
        if mode == "keep":
            raise InputError(
                f"mode keep makes inputs of several sizes, and {name} takes {self._size()} only; choose fit, stretch "
                "or width, or export with --dynamic size"
            )
        if tuple(resolution) != fixed:
            height, width = resolution
            raise InputError(
                f"resolution={height}x{width} does not fit {name}, which takes {self._size()} only; leave it out, or "
                "export with --dynamic size"
            )

    def _size(self) -> str:
        return "x".join(map(str, self.fixed_size or ()))

    def outputs(self, images: Tensor) -> list[Outputs]:
        raise InputError(f"{self.artifact.path.name} gives detections only; use the checkpoint that it was made from")

    def find(self, images: Tensor, given: Outputs | None = None) -> Found:
        if given:
            return Found(self.outputs(images), {}, {})
        detections = self._run(images)
        if self.modes.flip:
            others = self.task.unmirrored(self._run(images.flip(-1)), images.shape[-1])
            detections = {name: torch.cat([value, others[name]], 1) for name, value in detections.items()}
        return Found([], {}, detections)

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        found = self.artifact.run(images.cpu().numpy())
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def fuse(self) -> Detector:
        return self


def load_exported(path: str | Path, threads: int | None = None) -> ExportedDetector:
    """The detector in an exported file. ``threads``: of the CPU. Raises ``InputError``."""
    return ExportedDetector(Artifact.load(path, threads))
