"""The vocabulary: objects are padded and unpadded without loss, detections are split by image."""

from __future__ import annotations

import torch

from centernet.fields import empty_objects, index, stack_objects, unbatch, unstack_objects
from tests.tiny import make_objects


def test_padding_and_taking_it_away_gives_the_same_objects():
    images = [
        make_objects([[0, 0, 4, 4], [1, 1, 3, 9]], labels=[1, 0], crowd=[False, True]),
        make_objects([]),
        make_objects([[2, 2, 3, 3]]),
    ]
    batch = stack_objects(images)
    assert batch["valid"].tolist() == [[True, True], [False, False], [True, False]]
    for before, after in zip(images, unstack_objects(batch), strict=True):
        assert before.keys() == after.keys()
        for name in before:
            assert torch.equal(before[name], after[name])
            assert before[name].dtype == after[name].dtype


def test_a_batch_without_any_object_keeps_its_fields():
    batch = stack_objects([empty_objects(), empty_objects()])
    assert batch["boxes"].shape == (2, 0, 4)
    assert batch["valid"].shape == (2, 0)
    assert [len(objects["labels"]) for objects in unstack_objects(batch)] == [0, 0]


def test_unknown_fields_travel_along():
    image = {**make_objects([[0, 0, 1, 1]]), "joints": torch.ones(1, 17, 3)}
    batch = stack_objects([image, {**make_objects([]), "joints": torch.zeros(0, 17, 3)}])
    assert batch["joints"].shape == (2, 1, 17, 3)
    assert index(image, torch.tensor([False]))["joints"].shape == (0, 17, 3)


def test_detections_are_split_by_image_and_cut_at_the_threshold():
    detections = {
        "boxes": torch.arange(24.0).reshape(2, 3, 4),
        "scores": torch.tensor([[0.9, 0.5, 0.1], [0.4, 0.3, 0.2]]),
        "labels": torch.tensor([[0, 1, 2], [2, 1, 0]]),
    }
    first, second = unbatch(detections, 0.5)
    assert first["scores"].tolist() == detections["scores"][0, :2].tolist()
    assert first["boxes"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert second["labels"].tolist() == []
    assert second["boxes"].shape == (0, 4)
    assert [len(image["scores"]) for image in unbatch(detections)] == [3, 3]
