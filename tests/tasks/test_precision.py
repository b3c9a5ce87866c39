"""In 16 bits only the network computes: targets, losses and detections are float32 in any precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from centernet.detector import Detector, build_detector
from centernet.tasks import task_names
from tests import tiny
from tests.tasks.test_base import truth

every_task = pytest.mark.parametrize("name", task_names())


def detector_of(name: str) -> Detector:
    detector = build_detector(name, 3, tiny.NETWORK)
    tiny.enliven(detector.network)
    return detector


def step(detector: Detector, precision: torch.dtype | None) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Parts of the loss, and gradients."""
    detector.zero_grad()
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    # As in Lightning's mixed precision: the whole training step is inside.
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        parts = detector.task.losses(
            detector.outputs(images), detector.task.encode(tiny.make_batch(truth(2), truth(3)), (16, 16))
        )
    parts["loss"].backward()
    return parts, [parameter.grad for parameter in detector.parameters() if parameter.requires_grad]


@every_task
def test_a_step_in_bfloat16_has_the_losses_of_one_in_float32(name):
    detector = detector_of(name)
    exact, _ = step(detector, None)
    mixed, gradients = step(detector, torch.bfloat16)
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    assert {part: value.item() for part, value in mixed.items()} == pytest.approx(
        {part: value.item() for part, value in exact.items()}, rel=0.05, abs=0.02
    )
    assert all(gradient.dtype == torch.float32 and torch.isfinite(gradient).all() for gradient in gradients)


@every_task
def test_detections_of_the_same_maps_are_the_same_in_any_precision(name):
    task = detector_of(name).task
    torch.manual_seed(0)
    maps = {head: torch.randn(2, about.channels, 16, 20) for head, about in task.heads.items()}
    batch = {
        "input_from_image": torch.tensor([[[0.5, 0.1, 3], [-0.1, 0.5, 2], [0, 0, 1]]]).double().repeat(2, 1, 1),
        "image_size": torch.tensor([[60, 80], [40, 50]]),
        "calibration": torch.tensor([[[700.0, 0, 40, 0], [0, 700, 32, 0], [0, 0, 1, 0]]]).repeat(2, 1, 1),
    }
    exact = task.lift(task.detect(maps), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = task.lift(task.detect(maps), batch)
        rounded = task.detect({head: value.bfloat16() for head, value in maps.items()})
    assert all(torch.equal(mixed[field], value) for field, value in exact.items())
    assert not [field for field, value in rounded.items() if value.dtype == torch.bfloat16]
