"""Holding images out: every class alike, copies together, the same images every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centernet.data.division import Part, held_out
from centernet.errors import InputError


def content_of(classes: list[set[int]], names: list[str] | None = None) -> dict[str, Any]:
    """COCO's lists of images with objects of these classes."""
    names = names or [f"{n:04d}.jpg" for n in range(len(classes))]
    rows = [{"image_id": n, "category_id": label} for n, labels in enumerate(classes) for label in sorted(labels)]
    return {"images": [{"id": n, "file_name": name} for n, name in enumerate(names)], "annotations": rows}


def held(content: dict[str, Any], share: float) -> set[int]:
    return {id_ for id_, is_held in zip(*held_out(content, share), strict=True) if is_held}


def test_rare_classes_are_held_out_as_often_as_common_ones():
    rng = np.random.default_rng(0)
    classes = [{0} | ({1} if rng.random() < 0.3 else set()) | ({2} if n % 50 == 0 else set()) for n in range(500)]
    chosen = held(content_of(classes), 0.2)
    for label in (0, 1, 2):
        members = {n for n, labels in enumerate(classes) if label in labels}
        assert len(members & chosen) == pytest.approx(0.2 * len(members), abs=1.01)


def test_images_without_objects_are_held_out_too():
    chosen = held(content_of([{0}] * 50 + [set()] * 50), 0.2)
    assert len({n for n in chosen if n >= 50}) == 10


def test_the_order_of_the_file_has_no_influence():
    content = content_of([{n % 3} for n in range(60)])
    turned = {key: rows[::-1] for key, rows in content.items()}
    assert held(content, 0.25) == held(turned, 0.25)


def test_augmented_copies_of_an_image_stay_together():
    names = [f"photo{n // 3}_jpg.rf.{n:032x}.jpg" for n in range(90)]
    chosen = held(content_of([{n // 3 % 2} for n in range(90)], names), 0.2)
    assert 15 <= len(chosen) <= 21
    for n in range(0, 90, 3):
        assert len({n, n + 1, n + 2} & chosen) in (0, 3)


def test_a_class_with_one_image_is_trained_on():
    chosen = held(content_of([{0}] * 20 + [{1}]), 0.2)
    assert 20 not in chosen


def test_both_parts_together_are_everything():
    content = content_of([{n % 3} for n in range(30)])
    parts = [Part(0.3, split).of(content, "the data") for split in ("train", "val")]
    for key in ("images", "annotations"):
        assert sorted(map(str, parts[0][key] + parts[1][key])) == sorted(map(str, content[key]))
    assert {row["image_id"] for row in parts[1]["annotations"]} <= {row["id"] for row in parts[1]["images"]}


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match=r"^data\.val_share=0\.2 of 1 images of it leaves none for validation; choose"):
        Part(0.2, "val").of(content_of([{0}]), "it")


@given(
    classes=st.lists(st.sets(st.integers(0, 5), max_size=4), min_size=1, max_size=60),
    share=st.floats(0.05, 0.95),
)
def test_about_the_share_of_all_images_is_held_out(classes, share):
    chosen = held(content_of(classes), share)
    labels = {label for labels in classes for label in labels} | {None}
    # Each class may be off by one image.
    assert abs(len(chosen) - share * len(classes)) <= len(labels) + 1
    assert chosen == held(content_of(classes), share)
