"""What was read of a large json is kept beside it: the same with and without, and never that of another json."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from centernet.data import cache, coco_format
from centernet.data.coco import CocoDataset
from centernet.data.transforms import eval_pipeline
from centernet.structures import InputError
from tests.tiny import make_coco

CATEGORIES = [{"id": 7, "name": "person", "keypoints": ["left_eye", "right_eye"]}, {"id": 3, "name": "dog"}]
ROWS = [
    {"image_id": "b", "bbox": [1, 2, 30, 20], "category_id": 7, "keypoints": [3, 4, 2, 0, 0, 0]},
    {"image_id": "a", "bbox": [1, 2, 3, 4], "category_id": 3, "segmentation": [[1, 2, 4, 2, 4, 6]]},
    {"image_id": "a", "bbox": [1, 2, 0, 4], "category_id": 3},
    {
        "image_id": "b",
        "bbox": [0, 0, 64, 48],
        "category_id": 3,
        "iscrowd": 1,
        "segmentation": {"size": [48, 64], "counts": [1000, 2072]},
    },
]
IMAGES = [{"id": "a"}, {"id": "b"}]


@pytest.fixture(autouse=True)
def every_json_is_large(monkeypatch):
    monkeypatch.setattr(cache, "LEAST_BYTES", 0)


@pytest.fixture
def parsed(monkeypatch) -> list[Path]:
    """The files that were parsed."""
    calls: list[Path] = []
    whole = coco_format.load_json

    def load_json(data: bytes, path: Path, masks: bool) -> dict[str, Any]:
        calls.append(path)
        return whole(data, path, masks)

    monkeypatch.setattr(coco_format, "load_json", load_json)
    return calls


def write(folder: Path) -> Path:
    return make_coco(folder, ROWS, images=IMAGES, categories=CATEGORIES)[0]


def read(path: Path, **options: Any) -> CocoDataset:
    return CocoDataset(path, path.parent.parent / "train", eval_pipeline((32, 32)), **options)


def caches(path: Path) -> list[Path]:
    return sorted(file for file in path.parent.iterdir() if file.name != path.name)


def assert_equal(one: CocoDataset, other: CocoDataset) -> None:
    for name in ("class_names", "category_ids", "image_ids", "notes", "facts", "_joint_places"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("files", "sizes", "ids", "offsets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.fields.keys() == other.fields.keys()
    for name, value in one.fields.items():
        assert value.dtype == other.fields[name].dtype
        assert torch.equal(value, other.fields[name])
    assert (one.masks is None) == (other.masks is None)
    for name, value in vars(one.masks).items() if one.masks else ():
        assert value.dtype == vars(other.masks)[name].dtype
        np.testing.assert_array_equal(value, vars(other.masks)[name])


@pytest.mark.parametrize("options", [{}, {"masks": True}, {"class_names": ["person", "dog"]}])
def test_the_second_start_reads_the_same_without_the_json(tmp_path, parsed, monkeypatch, options):
    path = write(tmp_path)
    first = read(path, **options)
    second = read(path, **options)
    assert len(parsed) == 1
    monkeypatch.setattr(cache, "LEAST_BYTES", 2**40)
    without = read(path, **options)
    assert len(parsed) == 2
    assert_equal(first, second)
    assert_equal(first, without)
    assert first.notes == [f"{path}: dropped 1 of 4 boxes: 1 without width or height (annotation 3)"]
    found = {"boxes": torch.zeros(1, 4), "scores": torch.ones(1), "labels": torch.zeros(1).long()}
    assert second.result_rows(1, found) == without.result_rows(1, found)


def test_options_have_a_cache_each(tmp_path, parsed):
    path = write(tmp_path)
    for options in ({}, {"masks": True}, {"class_names": ["person", "dog"]}, {"joints": {"flip_pairs": []}}) * 2:
        dataset = read(path, **options)
        assert (dataset.masks is not None) == ("masks" in options)
        assert dataset.class_names == options.get("class_names", ["dog", "person"])
        assert len(dataset.joints.flip_pairs) == ("joints" not in options)
    assert len(parsed) == len(caches(path)) == 4


def test_another_content_replaces_the_cache_though_size_and_time_are_the_same(tmp_path, parsed):
    path = write(tmp_path)
    assert read(path).objects(1)["boxes"][0].tolist() == [1, 2, 31, 22]
    before = path.stat()
    path.write_text(path.read_text().replace("[1, 2, 30, 20]", "[1, 2, 31, 20]"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    for _ in range(2):
        assert read(path).objects(1)["boxes"][0].tolist() == [1, 2, 32, 22]
    assert len(parsed) == 2
    assert len(caches(path)) == 1


def test_another_version_of_the_reader_reads_again(tmp_path, parsed, monkeypatch):
    path = write(tmp_path)
    read(path)
    monkeypatch.setattr(coco_format, "VERSION", coco_format.VERSION + 1)
    read(path)
    assert len(parsed) == 2


def test_images_are_looked_for_and_compared_at_every_start(tmp_path):
    path = write(tmp_path)
    read(path)
    (tmp_path / "train" / "a.png").unlink()
    with pytest.raises(InputError, match=r"1 of 2 images of .* are not in"):
        read(path)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no archive"])
def test_a_damaged_cache_is_replaced(tmp_path, parsed, damage):
    path = write(tmp_path)
    first = read(path)
    (kept,) = caches(path)
    kept.write_bytes(damage(kept.read_bytes()))
    assert_equal(read(path), first)
    assert_equal(read(path), first)
    assert len(parsed) == 2


def test_a_cache_cannot_run_code(tmp_path, parsed):
    path = write(tmp_path)
    first = read(path)
    (kept,) = caches(path)
    with np.load(kept) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(kept, **{**arrays, "fields.boxes": np.array([{"a": "pickle"}], object)})
    assert_equal(read(path), first)
    assert len(parsed) == 2


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, parsed, monkeypatch):
    path = write(tmp_path)

    whole = Path.open

    def refuse(file: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "w" in mode:
            raise PermissionError(13, "Permission denied")
        return whole(file, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", refuse)
    first, second = read(path), read(path)
    assert_equal(first, second)
    assert (len(parsed), caches(path)) == (2, [])


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write(tmp_path)

    def fail(file: Any, **_: object) -> None:
        file.write(b"the first part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    read(path)
    assert caches(path) == []


def test_a_faulty_json_is_refused_again_and_again(tmp_path):
    path = write(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = None
    path.write_text(json.dumps(content))
    for _ in range(2):
        with pytest.raises(InputError, match="annotation 1 has bbox None"):
            read(path)
    assert caches(path) == []


def test_small_files_are_not_littered(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LEAST_BYTES", 2**20)
    path = write(tmp_path)
    read(path)
    assert caches(path) == []


def test_several_may_start_at_once(tmp_path):
    path = write(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        datasets = list(pool.map(lambda _: read(path, masks=True), range(16)))
    for dataset in datasets:
        assert_equal(dataset, datasets[0])
    assert len(caches(path)) == 1
