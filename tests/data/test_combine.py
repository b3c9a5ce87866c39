"""Images made of several: mosaics, mixtures and pasted objects by hand, and everything repeats with the seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from centernet.data.coco import CocoDataModule, CocoDataset
from centernet.data.combine import LEFT_SHARE, Plan, Shares, choose, combine, draw_plan, join_quadrants, mix, paste
from centernet.data.datamodule import Draw, collate
from centernet.data.masks import Masks
from centernet.data.transforms import seed_pipeline, train_pipeline
from centernet.structures import InputError, Sample
from tests.tiny import make_coco, make_objects

HEIGHT, WIDTH = 40, 60
KINDS = Shares._fields


def sample(
    value: int, *boxes: list[float], outlines: Sequence[Any] | None = None, crowd: list[bool] | None = None, **plan: Any
) -> Sample:
    """A sample of 40 x 60 pixels of one gray value; ``outlines``: segmentations of its objects."""
    masks = None if outlines is None else Masks.of(outlines, [(HEIGHT, WIDTH)] * len(outlines))
    return {
        "image": torch.full((3, HEIGHT, WIDTH), value, dtype=torch.uint8),
        "input_from_image": torch.eye(3, dtype=torch.float64),
        "image_id": value,
        "image_size": torch.tensor([HEIGHT, WIDTH]),
        "objects": make_objects(list(boxes), [value] * len(boxes), crowd),
        "truth": make_objects([]),
        "plan": Plan(**plan, masks=masks, rows=range(len(boxes))),
    }


def found(made: Sample) -> list[tuple[int, list[float]]]:
    """Labels and boxes."""
    return list(zip(made["objects"]["labels"].tolist(), made["objects"]["boxes"].tolist(), strict=True))


def values(made: Sample) -> list[int]:
    return made["image"].unique().tolist()


# Mosaics -------------------------------------------------------------------------------------------------------------


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
    batch = [sample(n, cut=(30, 20) if n == 1 else None) for n in range(4)]
    made = combine(batch)
    assert [len(values(one)) for one in made] == [1, 4, 1, 1]
    assert values(made[1]) == [0, 1, 2, 3]
    assert (batch[1]["image"] == 1).all()  # partners see the plain sample


# Mixup ---------------------------------------------------------------------------------------------------------------


def test_a_mixture_is_the_weighted_mean_of_two_images_with_the_objects_of_both():
    one, other = sample(100, [0, 0, 10, 10]), sample(200, [5, 5, 30, 30], [0, 0, 9, 9])
    made = mix(one, other, 0.7)
    assert values(made) == [130]
    assert found(made) == [(100, [0, 0, 10, 10]), (200, [5, 5, 30, 30]), (200, [0, 0, 9, 9])]
    assert (values(one), values(other)) == ([100], [200])
    assert values(mix(sample(0), sample(255), 0.25)) == [191]  # of 191.25


def test_a_mixture_with_an_image_without_objects_keeps_those_of_the_other():
    assert found(mix(sample(1, [0, 0, 10, 10]), sample(2), 0.5)) == [(1, [0, 0, 10, 10])]
    assert found(mix(sample(1), sample(2), 0.5)) == []


def test_in_a_batch_of_eight_no_image_is_mixed_with_itself():
    batch = [sample(n, [0, 0, 60, 40], cut=(30, 20), weight=0.5) for n in range(8)]
    for made in combine(batch):
        assert sorted(made["objects"]["labels"].tolist()) == list(range(8))


# Copy-paste ----------------------------------------------------------------------------------------------------------


def test_without_masks_the_pixels_of_a_box_are_pasted_where_they_were():
    made = paste(sample(1), sample(2, [10, 5, 30, 20]), [0])
    wanted = torch.ones(HEIGHT, WIDTH, dtype=torch.uint8)
    wanted[5:20, 10:30] = 2
    assert torch.equal(made["image"], wanted.expand(3, -1, -1))
    assert found(made) == [(2, [10, 5, 30, 20])]


TRIANGLE = [[10, 10, 40, 10, 10, 40]]


def triangle_bitmap() -> np.ndarray:
    """The pixels whose centers lie in TRIANGLE."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((x > 10) & (y > 10) & (x + y <= 50)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["polygon", "run lengths"])
def test_with_masks_their_pixels_are_pasted_with_a_hard_edge(kind):
    bitmap = triangle_bitmap()
    encoded = rle.encode(np.asfortranarray(bitmap))
    outline = TRIANGLE if kind == "polygon" else {"size": encoded["size"], "counts": encoded["counts"]}
    made = paste(sample(1), sample(2, [10, 10, 40, 40], outlines=[outline]), [0])
    assert values(made) == [1, 2]
    pasted = made["image"][0].numpy() == 2
    # The edge of a drawn polygon belongs to it.
    grown = np.pad(bitmap, 1)
    near = np.max([np.roll(grown, step, (0, 1)) for step in itertools.product((-1, 0, 1), repeat=2)], 0)[1:-1, 1:-1]
    assert (pasted >= bitmap).all()
    assert (pasted <= (near if kind == "polygon" else bitmap)).all()
    assert found(made) == [(2, [10, 10, 40, 40])]


def test_only_the_hidden_sides_of_an_object_move():
    # The pasted box covers everything of the first object right of 20, a corner of the second, nothing of the third.
    one = sample(1, [4.25, 8.5, 26.5, 22], [35, 0.75, 50, 10], [4.25, 30.5, 20.125, 39])
    made = paste(one, sample(2, [20, 5, 40, 28]), [0])
    assert found(made)[:3] == [(1, [4.25, 8.5, 20, 22]), (1, [35, 0.75, 50, 10]), (1, [4.25, 30.5, 20.125, 39])]
    assert found(made)[3:] == [(2, [20, 5, 40, 28])]


def test_the_visible_part_follows_from_the_masks_of_both():
    # A triangle whose long side runs from the lower left to the upper right; the box covers its right tip.
    one = sample(1, [10, 10, 40, 40], outlines=[TRIANGLE])
    (_, box), _ = found(paste(one, sample(2, [24, 0, 60, 40]), [0]))
    assert box == [10, 10, 24, 40]
    # A box over the lower right half hides nothing of it.
    (_, box), _ = found(paste(one, sample(2, [30, 30, 60, 40]), [0]))
    assert box == [10, 10, 40, 40]
    # A pasted triangle over a box: its lower right half stays, and so its extent, but for the drawn edge.
    (_, box), _ = found(paste(sample(1, [10, 10, 40, 40]), sample(2, [10, 10, 40, 40], outlines=[TRIANGLE]), [0]))
    assert box == [12, 12, 40, 40]


def test_an_object_that_is_mostly_hidden_is_dropped_even_if_its_rim_is_visible():
    rim = sample(1, [10, 0, 50, 40])
    for x, stays in ((33, True), (49, False)):
        made = paste(rim, sample(2, [11, 1, x, 39]), [0])
        visible = 1 - (x - 11) * 38 / 1600
        assert (visible > LEFT_SHARE) == stays
        assert made["objects"]["labels"].tolist() == [1, 2] if stays else [2]


def test_what_overlaps_a_pasted_object_comes_along_as_far_as_it_does():
    other = sample(2, [10, 10, 30, 30], [20, 10, 34, 30], [28, 10, 60, 30], [50, 0, 60, 9])
    made = paste(sample(1), other, [0])
    assert found(made) == [(2, [10, 10, 30, 30]), (2, [20, 10, 30, 30])]


def test_nothing_chosen_and_no_objects_leave_a_sample_as_it_is():
    one = sample(1, [10, 10, 30, 30])
    for made in (paste(one, sample(2), []), paste(one, sample(2, [0, 0, 40, 40]), [])):
        assert values(made) == [1]
        assert found(made) == [(1, [10, 10, 30, 30])]


def test_an_object_outside_the_input_neither_pastes_nor_stays():
    made = paste(sample(1, [70, 0, 90, 20]), sample(2, [-30, -30, -5, -5], [50, 30, 90, 60]), [0, 1])
    assert found(made) == [(2, [50, 30, 90, 60])]  # a box is clipped by the task that places it
    assert (made["image"] == 2).sum() == 3 * 10 * 10


def test_half_of_the_objects_are_chosen_and_crowd_regions_never():
    objects = make_objects([[0, 0, 9, 9]] * 3, crowd=[False, True, False])
    chosen = [choose(objects, seed) for seed in range(400)]
    assert chosen == [choose(objects, seed) for seed in range(400)]
    assert {1} & set(itertools.chain(*chosen)) == set()
    assert 0.4 < sum(map(len, chosen)) / 800 < 0.6


def test_joints_under_pasted_pixels_are_not_labeled():
    one, other = sample(1, [0, 0, 60, 40]), sample(2, [20, 10, 40, 30], [0, 0, 5, 5])
    # Pixel 20 is the first of the box: its center is at 20, so it begins at 19.5.
    hidden, shown = [[19.4, 20, 2], [19.6, 20, 2], [30, 20, 1], [70, 20, 1], [30, 20, -1]], [[25, 20, 2], [39.4, 20, 1]]
    one["objects"]["joints"] = torch.tensor([hidden]).float()
    other["objects"]["joints"] = torch.tensor([[*shown, [39.6, 20, 2], [0, 0, 0], [9, 9, -1]]] * 2).float()
    joints = paste(one, other, [0])["objects"]["joints"]
    assert joints[..., 2].tolist() == [[2, 0, 0, 1, -1], [2, 1, 0, 0, -1]]


def test_a_mask_lies_where_the_warp_takes_its_pixels():
    bitmap = triangle_bitmap()
    encoded = rle.encode(np.asfortranarray(bitmap))
    masks = Masks.of([TRIANGLE, {"size": encoded["size"], "counts": encoded["counts"]}], [(HEIGHT, WIDTH)] * 2)
    pipeline = train_pipeline((90, 120), "zoom", scale=(1.2, 1.6), aspect=(0.8, 1.25), flip=0.5, rotation=30)
    image = np.repeat(bitmap[..., None] * 255, 3, -1)
    for seed in range(20):
        seed_pipeline(pipeline, seed)
        out = pipeline(image=image, input_from_image=np.eye(3))
        shown = (out["image"][..., 0] > 127).astype(np.uint8)
        # Run lengths are rounded to a pixel, as the image is; a polygon has a straight edge where that has steps, which
        # the warp enlarges to up to two pixels.
        for n, reach in ((1, 1), (0, 2)):
            pixels = (masks.pixels(n, out["input_from_image"], (90, 120)) > 0).astype(np.uint8)
            square = np.ones((2 * reach + 1,) * 2, np.uint8)
            assert (cv2.erode(shown, square) <= pixels).all()
            assert (pixels <= cv2.dilate(shown, square)).all()


def test_the_masks_are_those_of_the_objects_that_are_left(tmp_path):
    # The first object of the second image does not reach into the crop, so that the second one has its first row.
    square = [[20, 10, 40, 10, 40, 30, 20, 30]]
    rows = [
        {"image_id": 2, "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
        {"image_id": 2, "bbox": [20, 10, 20, 20], "segmentation": square},
    ]
    path, images = make_coco(tmp_path, rows, images=[{"id": 1}, {"id": 2}, {"id": 3}])
    pipeline = train_pipeline((48, 64), "zoom", scale=(1.5, 1.5), aspect=(1, 1), flip=0)
    dataset = CocoDataset(path, images, pipeline, train=True, masks=True)
    dataset.visible_boxes, dataset.shares = True, Shares(copy_paste=1e-9)
    made = next(sample for seed in range(100) if len((sample := dataset[Draw(1, (seed,))])["objects"]["labels"]) == 1)
    assert made["plan"].rows.tolist() == [1]
    plain = dataset[Draw(0, (0,))]
    x1, y1, x2, y2 = made["objects"]["boxes"][0].round().long().tolist()
    changed = (paste(plain, made, [0])["image"] != plain["image"]).any(0).nonzero()
    extent = [*changed.min(0).values.flip(0).tolist(), *(changed.max(0).values.flip(0) + 1).tolist()]
    assert extent == pytest.approx([x1, y1, x2, y2], abs=2)


# Plans and batches ---------------------------------------------------------------------------------------------------


def test_a_batch_of_one_stays_as_it_is():
    batch = [sample(7, [0, 0, 60, 40], cut=(30, 20), weight=0.5, paste=1)]
    assert combine(batch) is batch


def test_a_batch_of_two_combines_both():
    batch = [sample(n, [0, 0, 60, 40], cut=(30, 20), weight=0.5, paste=0) for n in (100, 200)]
    made = combine(batch)
    assert set(made[0]["objects"]["labels"].tolist()) == {100, 200}
    assert collate(batch)["image"].shape == (2, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_is_that_of_the_samples_and_does_not_change_what_others_do(kind):
    def plans(**shares: float) -> list[Plan]:
        return [draw_plan(Shares(**shares), (HEIGHT, WIDTH), 0, n) for n in range(500)]

    place = {"mosaic": "cut", "mixup": "weight", "copy_paste": "paste"}[kind]
    some, everything = plans(**{kind: 0.3}), plans(mosaic=1, mixup=1, copy_paste=1)
    assert some == plans(**{kind: 0.3})
    assert 0.23 < sum(getattr(plan, place) is not None for plan in some) / 500 < 0.37
    for plan, whole in zip(some, everything, strict=True):
        assert plan in (Plan(), Plan(**{place: getattr(whole, place)}))


def test_images_of_a_mosaic_meet_near_the_middle_and_those_of_a_mixture_weigh_about_the_same():
    plans = [draw_plan(Shares(1, 1, 1), (HEIGHT, WIDTH), 0, n) for n in range(500)]
    assert all(15 <= x <= 45 and 10 <= y <= 30 for x, y in (plan.cut for plan in plans))
    weights = np.array([plan.weight for plan in plans])
    # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / 68, rel=0.15)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_combined_images_repeat_with_the_seed_whatever_the_number_of_workers(shapes, workers, kind):
    def batches(count: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        augment = {"warp": "stretch", "visible_boxes": True, kind: share}
        data = CocoDataModule(shapes, resolution=(64, 64), batch_size=6, num_workers=count, augment=augment, limit=12)
        data.setup("fit")
        made = list(data.train_dataloader())
        boxes = [batch["objects"]["boxes"].flatten() for batch in made]
        return torch.cat([batch["image"] for batch in made]), torch.cat(boxes)

    once, again = batches(0, 0.7), batches(workers, 0.7)
    assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))
    assert not torch.equal(once[0], batches(0, 0.0)[0])


def test_validation_combines_nothing(shapes):
    augment = {"warp": "crop", "mosaic": 1.0, "mixup": 1.0, "copy_paste": 1.0}
    data = CocoDataModule(shapes, resolution=(64, 64), num_workers=0, augment=augment)
    data.setup("fit")
    assert "plan" in data.datasets["train"][0]
    assert "plan" not in data.datasets["val"][0]
    assert "plan" not in collate([data.datasets["train"][n] for n in (0, 1)])


def test_training_that_combines_nothing_plans_nothing(shapes):
    data = CocoDataModule(shapes, resolution=(64, 64), num_workers=0, augment={"warp": "crop"})
    data.setup("fit")
    assert "plan" not in data.datasets["train"][0]


@pytest.mark.parametrize(("kind", "workers"), [("mosaic", 0), ("mosaic", 2), ("mixup", 0), ("copy_paste", 0)])
def test_the_last_share_of_a_training_combines_nothing(shapes, kind, workers):
    augment = {"warp": None, kind: 1.0, "clean": 0.3}
    data, plain = (
        CocoDataModule(shapes, resolution=(64, 64), batch_size=2, num_workers=workers, augment=given, limit=8)
        for given in (augment, {"warp": None})
    )
    data.follow(lambda epoch: epoch / 4)  # of a training of four epochs
    made = []
    for each in (data, plain):
        each.setup("fit")
        loader, made_here = each.train_dataloader(), []
        for epoch in range(4):
            loader.sampler.set_epoch(epoch)
            made_here.append([batch["image"].clone() for batch in loader])
        made.append(made_here)
    same = [[torch.equal(one, other) for one, other in zip(*pair, strict=True)] for pair in zip(*made, strict=True)]
    # From 2.8 epochs on: the last batch of the third epoch starts at 2.75 with the image before. A paste may choose no
    # object, but not in all batches.
    assert same[3] == [True] * 4
    if kind == "copy_paste":
        assert sum(itertools.chain(*same[:3])) < 6
    else:
        assert same[:2] == [[False] * 4] * 2
        assert same[2][:3] == [False] * 3


@pytest.mark.parametrize("name", [*KINDS, "clean"])
def test_a_share_is_a_fraction(name):
    with pytest.raises(InputError, match=rf"augment.{name}=2.0 is not a fraction; choose a value from 0 to 1"):
        CocoDataModule("somewhere", augment={name: 2})
