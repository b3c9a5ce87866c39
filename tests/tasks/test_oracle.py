"""Oracle maps: the truth in every cell, so that any peak reads the values of the object nearest to it."""

from __future__ import annotations

import pytest
import torch

from centernet.callbacks.oracle import oracle_variants
from centernet.structures import AtCells, DenseMap, InputError
from centernet.tasks import build_task, task_names
from centernet.tasks._spread import spread
from centernet.tasks.ctdet import CtdetTask
from tests import tiny
from tests.tasks.test_base import truth

GRID = (6, 8)


def test_every_cell_takes_the_value_of_the_nearest_object_and_the_first_of_equally_near_ones():
    target = AtCells(
        torch.tensor([[0, 4, 9]]), torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[True, True, False]])
    )
    (row,) = spread(target, (), (2, 8)).value[0, :, :1]
    assert row[0].tolist() == [1, 1, 1, 2, 2, 2, 2, 2]  # the third cell is two steps from both


def test_an_image_without_objects_has_zeros():
    target = AtCells(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))
    assert not spread(target, (), GRID).value.any()
    empty = DenseMap(torch.ones(1, 2, *GRID), torch.zeros(1, 2, *GRID))
    assert torch.equal(spread(empty, (True,), GRID).value, empty.value)


def test_elements_that_are_known_alone_are_spread_alone():
    target = AtCells(
        torch.tensor([[0, 7]]), torch.tensor([[[1.0, 5.0], [2.0, 6.0]]]), torch.tensor([[[True, False], [True, True]]])
    )
    value = spread(target, (), (1, 8)).value[0, :, 0]
    assert value[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert value[1].tolist() == [6] * 8


def test_positions_in_a_dense_map_go_on_pointing_to_the_same_place():
    value, weight = torch.zeros(1, 4, 1, 5), torch.zeros(1, 4, 1, 5)
    value[0, :, 0, 1] = torch.tensor([0.5, 0.25, 3.0, 4.0])  # a position and a size, in the second cell
    weight[0, :, 0, 1] = 1
    found = spread(DenseMap(value, weight), (True, False), (1, 5)).value[0, :, 0]
    assert found[0].tolist() == [1.5, 0.5, -0.5, -1.5, -2.5]
    assert found[1].tolist() == [0.25] * 5
    assert found[2].tolist() == [3.0] * 5


@pytest.mark.parametrize("name", task_names())
def test_with_the_truth_for_all_heads_every_object_is_found(name):
    objects = tiny.make_batch(truth(2), truth(3))
    task, size = build_task(name, 3), (16, 16)
    maps = task.oracle(task.encode(objects, size), size)
    assert {key: tuple(value.shape[-2:]) for key, value in maps.items()} == dict.fromkeys(task.heads, size)
    found = task.decode(maps)
    for row, keep in enumerate(objects["valid"] & ~objects["crowd"]):
        sure = found["scores"][row] > 0.5
        assert sorted(found["labels"][row, sure].tolist()) == sorted(objects["labels"][row, keep].tolist())


@pytest.mark.parametrize("name", ["ctdet", "ctdet_dense", "ctdet_iou"])
def test_a_peak_beside_its_object_has_the_object_s_size(name):
    task, size = build_task(name, 3), (16, 16)
    objects = tiny.make_batch(tiny.make_objects([[8, 8, 20, 16]]))
    maps = task.oracle(task.encode(objects, size), size)
    moved = torch.zeros_like(maps["heatmap"])
    moved[0, 0, 12, 13] = 0.9  # far from the object, where a network trained on it alone says nothing
    x1, y1, x2, y2 = task.decode({**maps, "heatmap": moved})["boxes"][0, 0].tolist()
    assert [x2 - x1, y2 - y1] == pytest.approx([12, 8], abs=1e-3)


def test_variants_are_nothing_what_is_asked_or_a_ladder():
    task = CtdetTask(2)
    assert oracle_variants("ladder", task) == {
        "none": [], "heatmap": ["heatmap"], "size": ["size"], "offset": ["offset"], "all": ["heatmap", "size", "offset"]
    }  # fmt: skip
    assert oracle_variants(["heatmap", "size"], task) == {"none": [], "heatmap + size": ["heatmap", "size"]}
    assert oracle_variants("size", task) == {"none": [], "size": ["size"]}
    with pytest.raises(InputError, match="oracle=sizes is not a head of task ctdet; did you mean size"):
        oracle_variants(["sizes"], task)
