"""Made-up content for measurements: objects, images, and the data of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from centernet.errors import InputError


def some_objects(batch: int, side: int, classes: int, count: int = 8, generator: Any = None) -> dict[str, torch.Tensor]:
    """``count`` boxes in each of ``batch`` images, an eighth of ``side`` input pixels large."""
    from centernet.fields import stack_objects

    images = []
    for _ in range(batch):
        corner = torch.rand(count, 2, generator=generator).double() * side / 2
        images.append(
            {
                "boxes": torch.cat([corner, corner + side / 8], 1),
                "labels": torch.arange(count) % classes,
                "crowd": torch.zeros(count, dtype=torch.bool),
            }
        )
    return stack_objects(images)


@torch.no_grad()
def spread_out(network: Any, size: Sequence[int]) -> None:
    """Make a network of random weights say different things in different places, in place.

    Its norms know their input (two smooth random images of ``size``), and its heads are bold. Without that, all scores
    are nearly the same, and which cells are the strongest is decided by rounding.
    """
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(2, 3, 12, 12, generator=generator)
    images = torch.nn.functional.interpolate(rough, tuple(size), mode="bilinear")
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    for stack in network.head.stacks:
        for branch in stack.values():
            torch.nn.init.normal_(branch[-1].weight, std=0.1, generator=generator)
    network.eval()


def training_parts(overrides: Sequence[str]) -> tuple[Any, Any]:
    """The configuration of ``python train.py OVERRIDES`` with everything settled, and its data, set up."""
    from centernet.build import build_datamodule
    from centernet.cli import understand_groups
    from centernet.composition import training
    from centernet.sizing import settle

    words = list(overrides)
    understand_groups(words)
    cfg = training(words)
    settle(cfg)
    data = build_datamodule(cfg.data, cfg.backbone)
    data.prepare_data()
    data.setup("fit")
    return cfg, data


def draw_photos(folder: Path, count: int, height: int = 480, width: int = 640) -> list[Path]:
    """JPEG files of the size of COCO's photographs in pixels and, by some noise, about in bytes."""
    import cv2

    random = np.random.default_rng(0)
    files = []
    for n in range(count):
        rough = cv2.resize(
            random.integers(0, 256, (24, 32, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
        )
        noise = random.normal(0, 12, (height, width, 3))
        files.append(folder / f"{n:04d}.jpg")
        cv2.imwrite(str(files[-1]), np.clip(rough + noise, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return files


def counts(words: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """``name=N`` words as numbers. Raises ``InputError`` for other words."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known or not value.isdigit() or int(value) < 1:
            raise InputError(f"{word!r} is not an option here; use {' or '.join(f'{name}=N' for name in known)}")
        found[name] = int(value)
    return found
