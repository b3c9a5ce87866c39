"""Random streams: another draw for every image and epoch; the same for the same seed, whoever draws it."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from centernet.data.coco import CocoDataModule
from centernet.data.datamodule import Draw, SeededSampler


def epochs(
    root: Path, workers: int = 0, seed: int = 0, count: int = 2, rank: int = 0, ranks: int = 1, start: int = 0
) -> list[dict[int, tuple[Tensor, Tensor]]]:
    """Pixels and matrix of every image in each of ``count`` epochs, as the trainer would see them on one rank."""
    data = CocoDataModule(
        root=root,
        resolution=(32, 32),
        batch_size=4,
        num_workers=workers,
        seed=seed,
        augment={"warp": "crop", "color": {}},
    )
    data.setup("fit")
    if ranks > 1:
        data.trainer = SimpleNamespace(world_size=ranks, global_rank=rank)
    loader = data.train_dataloader()
    seen = []
    for epoch in range(start, start + count):
        loader.sampler.set_epoch(epoch)
        seen.append(
            {
                image_id: (image.clone(), matrix)
                for batch in loader
                for image_id, image, matrix in zip(
                    batch["image_id"].tolist(), batch["image"], batch["input_from_image"], strict=True
                )
            }
        )
    return seen


def same(a: dict[int, tuple[Tensor, Tensor]], b: dict[int, tuple[Tensor, Tensor]]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(x, y) for key in a for x, y in zip(a[key], b[key], strict=True))


def any_shared(a: dict[int, tuple[Tensor, Tensor]], b: dict[int, tuple[Tensor, Tensor]]) -> bool:
    """Whether an image was warped alike in both."""
    return any(torch.equal(a[key][1], b[key][1]) for key in a.keys() & b.keys())


@pytest.fixture(scope="module")
def plain(shapes) -> list[dict[int, tuple[Tensor, Tensor]]]:
    """Two epochs read in this process."""
    return epochs(shapes)


def test_every_image_of_an_epoch_is_warped_differently(plain):
    for epoch in plain:
        assert len(epoch) == 24
        matrices = torch.stack([matrix for _, matrix in epoch.values()])
        assert len({tuple(m.flatten().tolist()) for m in matrices}) == 24


def test_the_next_epoch_warps_every_image_anew_in_another_order(plain):
    assert not any_shared(*plain)
    assert list(plain[0]) != list(plain[1])


def test_the_same_seed_repeats_and_another_does_not(plain, shapes):
    again = epochs(shapes)
    assert all(same(a, b) for a, b in zip(plain, again, strict=True))
    other = epochs(shapes, seed=1, count=1)
    assert not any_shared(plain[0], other[0])


def test_the_second_epoch_does_not_depend_on_the_first(plain, shapes):
    # What a resumed run sees is what the uninterrupted one saw.
    assert same(plain[1], epochs(shapes, start=1, count=1)[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(plain, shapes, workers):
    seen = epochs(shapes, workers=workers)
    assert all(same(a, b) for a, b in zip(plain, seen, strict=True))
    assert [list(epoch) for epoch in seen] == [list(epoch) for epoch in plain]


def test_processes_share_the_images_and_warp_them_as_one_process_would(plain, shapes):
    first, second = (epochs(shapes, rank=rank, ranks=2) for rank in (0, 1))
    for a, b, whole in zip(first, second, plain, strict=True):
        assert not a.keys() & b.keys()
        assert same({**a, **b}, whole)


def draws(count: int, ranks: int, start: tuple[int, int] = (0, 0), epoch: int = 0) -> list[list[Draw]]:
    samplers = [SeededSampler(range(count), num_replicas=ranks, rank=rank, seed=3) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
        sampler.start = start
    return [list(sampler) for sampler in samplers]


def test_an_image_that_is_repeated_to_even_out_the_processes_is_another_draw():
    shares = draws(10, 4)
    assert [len(share) for share in shares] == [3] * 4
    everything = [draw for share in shares for draw in share]
    assert {draw.index for draw in everything} == set(range(10))
    assert len(set(everything)) == 12
    assert {draw.entropy for draw in everything} == {(3, 0, 0), (3, 0, 1)}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_epoch_that_is_continued_leaves_out_what_was_done_and_nothing_else(ranks):
    (whole,) = draws(10, 1, epoch=2)
    shares = draws(10, ranks, start=(2, 4), epoch=2)
    left = [draw for step in itertools.zip_longest(*shares) for draw in step if draw is not None]
    assert left[:6] == whole[4:]
    assert all(draw.entropy[2] == 1 for draw in left[6:])
    assert len({len(share) for share in shares}) == 1
    # The next epoch is whole again.
    assert sum(len(share) for share in draws(12, ranks, start=(2, 4), epoch=3)) == 12


def test_validation_draws_nothing(shapes):
    data = CocoDataModule(root=shapes, resolution=(32, 32), batch_size=4, num_workers=0)
    data.setup("validate")
    loader = data.val_dataloader()
    once, twice = (torch.cat([batch["image"] for batch in loader]) for _ in range(2))
    assert torch.equal(once, twice)
    ids = [image_id for batch in loader for image_id in batch["image_id"].tolist()]
    assert ids == data.datasets["val"].ids.tolist()
