"""Training steps and detection on a GPU: right, without waiting, and in the memory that they should take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from centernet.detector import Detector, build_detector
from centernet.models.layers import DeformConv2d
from centernet.schedule import Schedule
from centernet.structures import Objects
from centernet.tasks import task_names
from tests import tiny
from tests.tasks.test_without_waiting import CASES, objects_of_a_batch

DTYPES = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
GRID = (16, 16)
every_task = pytest.mark.parametrize("name", task_names())
every_precision = pytest.mark.parametrize("precision", DTYPES)


class Training:
    """A detector with its optimizer, as Lightning runs them."""

    def __init__(self, name: str, device: torch.device, precision: str = "32-true", backbone: object = None) -> None:
        torch.manual_seed(0)
        self.detector: Detector = build_detector(name, 3, backbone or tiny.NETWORK)
        tiny.enliven(self.detector.network)
        self.detector.to(device)
        self.device, self.dtype = device, DTYPES[precision]
        self.optimizer = Schedule().build_optimizer(self.detector.network, 2)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")

    def step(self, images: Tensor, objects: Objects) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            size = (images.shape[-2] // 4, images.shape[-1] // 4)
            targets = self.detector.task.encode(objects, size)
            parts = self.detector.task.losses(self.detector.outputs(images), targets)
        self.scaler.scale(parts["loss"]).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return parts


def batch(device: torch.device) -> tuple[Tensor, Objects]:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images.to(device), {name: value.to(device) for name, value in objects_of_a_batch().items()}


@every_task
@every_precision
def test_a_step_has_the_losses_of_float32_on_the_cpu(name, precision, device):
    if (device.type, precision) == ("cpu", "16-mixed"):
        pytest.skip("mixed precision in float16 needs a GPU")
    wanted = Training(name, torch.device("cpu")).step(*batch(torch.device("cpu")))
    training = Training(name, device, precision)
    found = training.step(*batch(device))
    assert {part: value.item() for part, value in found.items()} == pytest.approx(
        {part: value.item() for part, value in wanted.items()}, rel=1e-3 if precision == "32-true" else 0.05, abs=0.02
    )
    assert all(torch.isfinite(parameter).all() for parameter in training.detector.parameters())


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_targets_are_those_of_the_cpu(name, options, device):
    task = build_detector(name, 3, tiny.NETWORK, task_options=options).task
    wanted, found = task.encode(objects_of_a_batch(), GRID), task.encode(batch(device)[1], GRID)
    for head, target in wanted.items():
        for field, value in vars(target).items():
            other = getattr(found[head], field)
            if value is not None:
                assert torch.allclose(other.cpu().double(), value.double(), atol=1e-6), f"{head}.{field}"


def test_deformable_convolutions_are_those_of_the_cpu(device):
    torch.manual_seed(0)
    layer, image = DeformConv2d(4, 6), torch.randn(2, 4, 9, 11)
    torch.nn.init.normal_(layer.conv_offset_mask.weight)
    wanted = layer(image)
    on_device = layer.to(device)
    assert torch.allclose(on_device(image.to(device)).cpu(), wanted, atol=1e-4)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.allclose(on_device(image.to(device)).cpu(), wanted, atol=1e-4)


@every_task
def test_the_inference_form_detects_the_same(name, device):
    detector = Training(name, device).detector.eval()
    with torch.inference_mode():
        images = batch(device)[0]
        plain, fused = detector.find(images), detector.fuse().find(images)
    for head, value in plain.maps.items():
        assert torch.allclose(fused.maps[head], value, rtol=1e-3, atol=1e-3 * float(value.abs().max())), head


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """A GPU raises on anything that would make Python wait for it."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@every_task
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_never_waits_for_the_device(name, precision, device):
    training, (images, objects) = Training(name, device, precision), batch(device)
    training.step(images, objects)  # the first one allocates and chooses algorithms
    with no_waiting(device):
        parts = training.step(images, objects)
    assert torch.isfinite(parts["loss"])


@pytest.mark.gpu
def test_sixteen_bits_take_less_memory(gpu):
    peaks = {}
    for precision in ("32-true", "bf16-mixed"):
        training = Training("ctdet", gpu, precision, "resnet18")
        images = torch.zeros(8, 3, 256, 256, dtype=torch.uint8, device=gpu)
        objects = tiny.make_batch(*[tiny.make_objects([[20, 20, 90, 120]])] * 8)
        objects = {name: value.to(gpu) for name, value in objects.items()}
        training.step(images, objects)
        torch.cuda.reset_peak_memory_stats()
        training.step(images, objects)
        peaks[precision] = torch.cuda.max_memory_allocated()
        del training
    assert peaks["bf16-mixed"] < 0.8 * peaks["32-true"]


@pytest.mark.gpu
def test_a_compiled_network_has_the_losses_of_the_plain_one(gpu):
    plain = Training("ctdet", gpu).step(*batch(gpu))
    training = Training("ctdet", gpu)
    training.detector.network.compile()
    assert training.step(*batch(gpu))["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-2)
