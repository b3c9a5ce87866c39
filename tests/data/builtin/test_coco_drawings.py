"""shapes and figures alike: the same bytes from the same seed, other scenes for validation, nothing drawn twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from centernet.data.builtin.figures import write_figures
from centernet.data.builtin.shapes import write_shapes
from tests.tiny import digest


class Drawing(NamedTuple):
    """A kind of built-in data: what draws it, the prefix of its json, and a folder with so many training images."""

    write: Callable[..., Path]
    prefix: str
    folder: Path
    train: int


@pytest.fixture(params=["shapes", "figures"])
def drawing(request) -> Drawing:
    folder = request.getfixturevalue(f"drawn_{request.param}")
    write, prefix, train = {
        "shapes": (write_shapes, "instances", 90),
        "figures": (write_figures, "person_keypoints", 120),
    }[request.param]
    return Drawing(write, prefix, folder, train)


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(drawing, tmp_path):
    drawn = digest(drawing.folder)
    assert digest(drawing.write(tmp_path / "again", train=drawing.train, val=10, seed=3)) == drawn
    other = digest(drawing.write(tmp_path / "other", train=3, val=1, seed=4))
    assert not set(other.values()) & set(drawn.values())


def test_fewer_images_are_the_first_of_more(drawing, tmp_path):
    few = digest(drawing.write(tmp_path / "few", train=3, val=1, seed=3))
    many = digest(drawing.folder)
    assert all(few[name] == many[name] for name in few if name.endswith(".jpg"))


def test_validation_shows_other_scenes_than_training(drawing):
    files = digest(drawing.folder)
    train, val = ({files[name] for name in files if name.startswith(f"{split}/")} for split in ("train", "val"))
    assert (len(train), len(val)) == (drawing.train, 10)
    assert not train & val
    train, val = (
        {image["id"] for image in json.loads((drawing.folder / "annotations" / name).read_text())["images"]}
        for name in (f"{drawing.prefix}_{split}.json" for split in ("train", "val"))
    )
    assert not train & val


def test_nothing_is_drawn_twice_and_another_order_replaces_the_folder(drawing, tmp_path):
    folder = drawing.write(tmp_path / "drawn", train=3, val=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    drawing.write(folder, train=3, val=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    drawing.write(folder, train=2, val=1)
    assert len(list((folder / "train").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]  # no draft is left behind
