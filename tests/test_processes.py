"""One batch in two processes is one batch: the mean of their losses and gradients is that of one process with all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from centernet.losses import LOSSES
from centernet.structures import AtCells, DenseMap, Objects, Target
from centernet.tasks import build_task, task_names
from tests.tasks.test_base import truth
from tests.tiny import make_batch

pytestmark = pytest.mark.slow
GRID = (16, 20)
# Objects per image: the processes get different numbers, and pad to different lengths.
COUNTS = (1, 0, 3, 2)
TASKS = [(name, {}) for name in task_names()] + [
    ("ddd", {"pad_objects": 2}),
    ("ctdet", {"heatmap": {"loss": "mse"}, "size": {"supervise": "dense"}, "offset": {"loss": "smooth_l1"}}),
]
CASES = [*LOSSES, *range(len(TASKS))]
Results = dict[Any, tuple[dict[str, Tensor], Tensor]]


def images_of(rank: int | None) -> slice:
    """The images of a process; all of them for one process."""
    return slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)


def target_of(loss: str, channels: int, rank: int | None) -> Target:
    generator = torch.Generator().manual_seed(1)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    mine = images_of(rank)
    if loss.startswith("box_"):
        low, weight = rand(4, 2, *GRID), rand(4, 1, *GRID)
        return DenseMap(torch.cat([low, low + 1], 1)[mine], weight[mine])
    if loss in ("focal", "mse", "dense_l1"):
        value, weight = rand(4, channels, *GRID), rand(4, channels, *GRID)
        value[0, 0, 3, 4] = value[2, 0, 5, 6] = value[3, 0, 7, 8] = value[3, 0, 1, 2] = 1
        return DenseMap(value[mine], weight[mine] if loss == "dense_l1" else None)
    counts = torch.tensor(COUNTS)
    most = int(counts[mine].max())
    cell = (rand(4, 3) * GRID[0] * GRID[1]).long()
    value = rand(4, 3, {"dimension_aware_l1": 6, "laplacian": 1}.get(loss, channels))
    if loss in ("multi_bin", "mean_multi_bin"):
        value = torch.cat([(rand(4, 3, 2) > 0.3).float(), rand(4, 3, 2)], -1)
    elif loss == "heading_bins":
        value = torch.cat([(rand(4, 3, 1) * channels / 2).floor(), rand(4, 3, 1)], -1)
    mask = torch.arange(3) < counts[:, None]
    return AtCells(cell[mine, :most], value[mine, :most], mask[mine, :most])


def batch_of(rank: int | None) -> Objects:
    images = [truth(count) for count in COUNTS]
    images[-1]["crowd"][-1] = True
    return make_batch(*images[images_of(rank)])


def results(rank: int | None) -> Results:
    """For every case: parts of the loss, and the gradient of weights that all images share."""
    made: Results = {}
    for case in CASES:
        if isinstance(case, str):
            channels = {"multi_bin": 8, "mean_multi_bin": 8, "laplacian": 2, "dimension_aware_l1": 3}.get(case, 4)
            weights, maps = shared_weights({"map": channels}, rank)
            parts = {"loss": LOSSES[case](maps["map"], target_of(case, channels, rank))}
        else:
            name, options = TASKS[case]
            task = build_task(name, 3, **options)
            weights, maps = shared_weights({head: about.channels for head, about in task.heads.items()}, rank)
            parts = task.losses([maps], task.encode(batch_of(rank), GRID))
            torch.manual_seed(1)
            raw = {head: torch.randn(4, about.channels, *GRID)[images_of(rank)] for head, about in task.heads.items()}
            parts["teacher"] = task.imitation([maps], task.activate(raw))
            parts["loss"] = parts["loss"] + parts["teacher"]
        parts["loss"].backward()
        made[case] = ({key: value.detach() for key, value in parts.items()}, weights.grad)
    return made


def shared_weights(heads: dict[str, int], rank: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    weights = torch.zeros(sum(heads.values()), *GRID, requires_grad=True)
    maps = (torch.randn(4, *weights.shape) + weights)[images_of(rank)]
    return weights, dict(zip(heads, maps.split(list(heads.values()), 1), strict=True))


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(results(rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], list[tuple[dict[str, Tensor], Tensor]]]]:
    """The results of two processes, by case."""
    folder: Path = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    made = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    return lambda case: [each[case] for each in made]


@pytest.fixture(scope="module")
def alone() -> Results:
    return results(None)


@pytest.mark.parametrize("case", CASES, ids=[*LOSSES, *(f"{name} {options}" for name, options in TASKS)])
def test_two_processes_with_half_a_batch_each_learn_what_one_with_all_does(case, both, alone):
    (first, first_gradient), (second, second_gradient) = both(case)
    parts, gradient = alone[case]
    assert parts.keys() == first.keys()
    for name, value in parts.items():
        assert ((first[name] + second[name]) / 2).item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7), name
    assert gradient.abs().max() > 0
    assert torch.allclose((first_gradient + second_gradient) / 2, gradient, rtol=1e-4, atol=1e-7)
