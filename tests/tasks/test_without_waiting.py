"""Training never stops to wait for a GPU: proven without one, by tensors that have shapes but no numbers.

Whatever asks the device for a number or for a size that follows from numbers (``item``, ``nonzero``, a boolean index)
raises on such tensors; a copy from the CPU that waits is seen by the mode below.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from centernet.ops import heatmap
from centernet.structures import Objects
from centernet.tasks import Task, build_task, task_names
from centernet.tasks.terms import base
from tests.tasks.test_base import truth
from tests.tiny import make_batch

GRID = (16, 20)
# Every task, and options that encode or lose in another way.
CASES = [(name, {}) for name in task_names()] + [
    ("ctdet", {"size": {"supervise": "dense", "per_class": True}, "heatmap": {"loss": "mse"}}),
    ("ctdet_iou", {"heatmap": {"center": "block"}, "box": {"loss": "ciou"}}),
    ("multi_pose", {"joints": {"supervise": "dense"}, "unlabeled": "box"}),
    ("multi_pose_iou", {"heatmap": {"center": "block"}, "box": {"quality": 0}}),
    ("ddd", {"pad_objects": 5, "heatmap": {"ignore": "region"}}),
    ("ddd", {"heatmap": {"radius": "cornernet"}, "depth": {"focal": 700.0}}),
]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))


class NoWaiting(TorchDispatchMode):
    """Refuses copies between CPU and GPU that wait."""

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if op is torch.ops.aten.copy_.default else args[0]
            is_async = (kwargs or {}).get("non_blocking") or (
                op is torch.ops.aten.copy_.default and args[2:] == (True,)
            )
            if source.device != result.device and not is_async:
                raise RuntimeError(f"waits: {op} from {source.device} to {result.device}")
        return result


def objects_of_a_batch(crowd: bool = True) -> Objects:
    """Objects of two images, of both kinds: one is a crowd region."""
    images = [truth(3), truth(1)]
    if crowd:
        images[0]["crowd"][2] = True
        images[0]["labels"][2] = -1
    return make_batch(*({**image, "focal": torch.full((len(image["labels"]),), 500.0)} for image in images))


def step(task: Task, objects: Objects, device: str) -> Tensor:
    targets = task.encode({name: value.to(device, non_blocking=True) for name, value in objects.items()}, GRID)
    outputs = {
        name: torch.zeros(2, head.channels, *GRID, device=device, requires_grad=True)
        for name, head in task.heads.items()
    }
    loss = task.losses([outputs], targets)["loss"]
    return loss + task.imitation([outputs], task.activate(outputs))


@every_case
def test_targets_and_losses_need_no_number_from_the_device(name, options):
    task, objects = build_task(name, 3, **options), objects_of_a_batch()
    with FakeTensorMode(allow_non_fake_inputs=True), NoWaiting():
        loss = step(task, objects, "cuda")
    assert (loss.device.type, loss.shape) == ("cuda", ())


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: 1 if (x > 0).any() else 0,
        lambda x: torch.repeat_interleave(x, x.long()),
        lambda x: x + x.new_tensor([1.0, 2.0, 3.0]),
        lambda x: x.cpu(),
    ],
)
def test_what_waits_is_found(asks):
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.ones(3, device="cuda")
        with (
            NoWaiting(),
            pytest.raises((DataDependentOutputException, DynamicOutputShapeException, RuntimeError)),
        ):
            asks(x)


@every_case
@pytest.mark.parametrize("at_once", [2**24, GRID[0] * GRID[1] * 3])
def test_a_gpu_draws_what_the_cpu_draws(name, options, at_once, monkeypatch):
    task, objects = build_task(name, 3, **options), objects_of_a_batch()
    on_cpu = task.encode(objects, GRID)
    monkeypatch.setattr(heatmap, "CELLS_AT_ONCE", at_once)
    for module in (heatmap, base):
        monkeypatch.setattr(module, "on_host", lambda tensor: False)
    on_gpu = task.encode(objects, GRID)
    for key, target in on_cpu.items():
        for field, value in vars(target).items():
            other = getattr(on_gpu[key], field)
            assert (value is other is None) or torch.equal(value, other), f"{key}.{field}"
