"""Real images as inputs of a graph: to compare an exported file with PyTorch, and to find the ranges of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from centernet.data.images import find_images, pixels_of
from centernet.data.transforms import eval_pipeline, warp_image
from centernet.export.graph import Shape


class Samples:
    """Images, by path or as RGB uint8 ``[H, W, 3]``, made into inputs as evaluation makes them.

    ``mode``, ``divisor``: of ``data.warps.EvalWarp``; ``bit_depth``: the bits that 16-bit images use. Images are
    read when they are needed.
    """

    def __init__(
        self,
        images: Sequence[Path | np.ndarray],
        shape: Shape,
        mode: str,
        divisor: int,
        bit_depth: int | None = None,
    ) -> None:
        self.images, self.shape, self.mode, self.divisor = list(images), shape, mode, divisor
        self.bit_depth = bit_depth

    def __len__(self) -> int:
        return len(self.images)

    def inputs(self) -> Iterator[np.ndarray]:
        """Each image as an input ``[1, 3, h, w]``, in the type of the graph."""
        pipeline = eval_pipeline(self.shape.size, self.mode, self.divisor)
        for image in self.images:
            yield warp_image(pipeline, pixels_of(image, self.bit_depth))[0][None].numpy().astype(self.shape.dtype)

    def batches(self, most: int | None = None) -> Iterator[np.ndarray]:
        """Inputs in batches that the graph takes: of its fixed batch, repeating images where they are too few; else
        all images of a size that follow each other (at most ``most``), the first one by itself."""
        size = None if self.shape.frees_batch else self.shape.batch
        waiting: list[np.ndarray] = []
        for n, image in enumerate(self.inputs()):
            if waiting and (waiting[0].shape != image.shape or (size is None and n == 1)):
                yield from _full(waiting, size)
                waiting = []
            waiting.append(image)
            if len(waiting) == (size or most):
                yield np.concatenate(waiting)
                waiting = []
        yield from _full(waiting, size)


def _full(images: list[np.ndarray], size: int | None) -> Iterator[np.ndarray]:
    if images:
        count = size or len(images)
        yield np.concatenate([images[n % len(images)] for n in range(count)])


def spread(folder: str | Path, most: int) -> list[Path]:
    """At most so many image files below a folder (or one file), evenly spread. Raises ``InputError`` if there are
    none."""
    files = find_images(folder)
    step = max(len(files) / most, 1)
    return [files[int(n * step)] for n in range(min(most, len(files)))]
