"""Small stand-ins: a network of 0.1 M parameters, truth made by hand, COCO files made by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from centernet.fields import stack_objects
from centernet.ops.camera import ray_angle, wrap_angle
from centernet.structures import Objects

# Strides 4 to 32 and both kinds of parts, in milliseconds per batch.
NETWORK: dict[str, Any] = {
    "name": "test_efficientnet",
    "neck": {"name": "deconv", "channels": [16]},
    "head_channels": 16,
}
# The same for the command line.
NETWORK_OVERRIDES = [
    "backbone=test_efficientnet",
    "backbone.neck={name: deconv, channels: [16]}",
    "backbone.head_channels=16",
]


@torch.no_grad()
def enliven(network: nn.Module) -> nn.Module:
    """Make an untrained network say different things in different places: norms that know their input, bold heads."""
    torch.manual_seed(0)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(torch.randn(8, 3, 64, 64))
    for norm in norms:
        norm.momentum = 0.1
    for branch in network.head.stacks[0].values():
        nn.init.normal_(branch[-1].weight, std=0.5)
    return network


def make_objects(
    boxes: Sequence[Sequence[float]], labels: Sequence[int] | None = None, crowd: Sequence[bool] | None = None
) -> Objects:
    """Truth of one image; labels default to 0, crowd to False, areas to those of the boxes."""
    corners = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    count = len(corners)
    return {
        "boxes": corners,
        "labels": torch.tensor([0] * count if labels is None else labels, dtype=torch.long),
        "crowd": torch.tensor([False] * count if crowd is None else crowd, dtype=torch.bool),
        "area": (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]),
    }


def make_batch(*images: Objects) -> Objects:
    """Truth of several images, padded."""
    return stack_objects(images)


def make_image(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth RGB image without two equal corners."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)


def make_coco(
    folder: Path,
    annotations: Sequence[Mapping[str, Any]] = (),
    images: Sequence[Mapping[str, Any]] = ({"id": 1}, {"id": 2}),
    categories: Sequence[Mapping[str, Any]] = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}),
    split: str = "train",
    **changes: Any,
) -> tuple[Path, Path]:
    """Write one split as COCO files and return its json and its image folder.

    Images get a name, a size of 48x64 and a file, annotations an id, a category and ``iscrowd``, unless they bring one.
    ``changes`` replace or (with None) remove keys of the json.
    """
    pictures = folder / split
    pictures.mkdir(parents=True, exist_ok=True)
    entries = [{"file_name": f"{entry['id']}.png", "height": 48, "width": 64, **entry} for entry in images]
    for n, entry in enumerate(entries):
        path = pictures / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), make_image(entry["height"], entry["width"], seed=n)[..., ::-1])
    rows = [{"id": n + 1, "category_id": 1, "iscrowd": 0, **row} for n, row in enumerate(annotations)]
    content = {"images": entries, "annotations": rows, "categories": list(categories), **changes}
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path, pictures


def alpha_of_yaw(camera: Tensor, yaw: Tensor, x: Tensor) -> Tensor:
    """Observation angles ``[..., N]`` in -pi .. pi of objects with this yaw, seen at the columns ``x [..., N]``."""
    return wrap_angle(yaw - ray_angle(camera, x)).to(yaw.dtype)


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder with a checksum of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
