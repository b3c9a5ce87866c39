"""Mosaics: four images of a batch meet, their objects are cut at the seams, and everything repeats with the seed."""

from __future__ import annotations

import pytest
import torch

from centernet.data.coco import CocoDataModule
from centernet.data.datamodule import collate
from centernet.data.mosaic import draw_cut, join_quadrants, make_mosaics
from centernet.structures import InputError, Sample
from tests.tiny import make_objects


def sample(value: int, *boxes: list[float], mosaic: tuple[int, int] | None = None) -> Sample:
    """A sample of 40 x 60 pixels of one gray value."""
    return {
        "image": torch.full((3, 40, 60), value, dtype=torch.uint8),
        "input_from_image": torch.eye(3, dtype=torch.float64),
        "image_id": value,
        "image_size": torch.tensor([40, 60]),
        "objects": make_objects(list(boxes), [value] * len(boxes)),
        "truth": make_objects([]),
        "mosaic": mosaic,
    }


def test_every_quadrant_shows_its_image_in_place_and_its_objects_cut_at_the_seams():
    box = [10, 5, 50, 35]
    four = [sample(n, box) for n in range(4)]
    made = join_quadrants(four, (25, 20))
    assert [made["image"][0, y, x].item() for y, x in ((0, 0), (0, 59), (39, 0), (39, 59))] == [0, 1, 2, 3]
    assert (made["image"][:, :20, :25] == 0).all()
    assert (made["image"][:, 20:, 25:] == 3).all()
    assert made["objects"]["labels"].tolist() == [0, 1, 2, 3]
    assert made["objects"]["boxes"].tolist() == [[10, 5, 25, 20], [25, 5, 50, 20], [10, 20, 25, 35], [25, 20, 50, 35]]


def test_objects_of_which_too_little_is_left_are_dropped():
    four = [sample(0, [0, 0, 24, 19], [18, 0, 60, 3])] + [sample(n, [0, 0, 26, 21]) for n in (1, 2, 3)]
    made = join_quadrants(four, (25, 20))
    # Of the others a strip one pixel wide is left: long enough for the second and third, a speck for the fourth.
    assert made["objects"]["labels"].tolist() == [0, 0, 1, 2]


def test_only_the_samples_that_were_drawn_become_mosaics_and_the_others_stay_whole():
    batch = [sample(n, mosaic=(30, 20) if n == 1 else None) for n in range(4)]
    made = make_mosaics(batch)
    assert [len(one["image"].unique()) for one in made] == [1, 4, 1, 1]
    assert sorted(made[1]["image"].unique().tolist()) == [0, 1, 2, 3]
    assert (batch[1]["image"] == 1).all()  # partners see the plain sample


def test_a_batch_of_one_is_a_mosaic_of_itself():
    assert len(make_mosaics([sample(7, mosaic=(30, 20))])[0]["image"].unique()) == 1


def test_the_share_of_mosaics_is_the_probability_and_follows_from_the_numbers():
    cuts = [draw_cut(0.3, (40, 60), 0, n) for n in range(500)]
    assert cuts == [draw_cut(0.3, (40, 60), 0, n) for n in range(500)]
    assert 0.23 < sum(cut is not None for cut in cuts) / 500 < 0.37
    assert all(15 <= x <= 45 and 10 <= y <= 30 for x, y in filter(None, cuts))


@pytest.mark.parametrize("workers", [0, 2])
def test_mosaics_repeat_with_the_seed_whatever_the_number_of_workers(shapes, workers):
    def images(count: int) -> torch.Tensor:
        augment = {"warp": "stretch", "mosaic": 0.7, "visible_boxes": True}
        data = CocoDataModule(shapes, resolution=(64, 64), batch_size=6, num_workers=count, augment=augment, limit=12)
        data.setup("fit")
        return torch.cat([batch["image"] for batch in data.train_dataloader()])

    assert torch.equal(images(0), images(workers))


def test_validation_has_no_mosaics(shapes):
    data = CocoDataModule(shapes, resolution=(64, 64), num_workers=0, augment={"warp": "crop", "mosaic": 1.0})
    data.setup("fit")
    assert "mosaic" in data.datasets["train"][0]
    assert "mosaic" not in data.datasets["val"][0]
    assert "mosaic" not in collate([data.datasets["train"][0]])


def test_a_share_is_a_probability():
    with pytest.raises(InputError, match=r"augment.mosaic=2.0 is not a probability; choose a value from 0 to 1"):
        CocoDataModule("somewhere", augment={"mosaic": 2})
