"""Kept pixels: the same as those of the files, shared by the workers, no more than there is room for."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from centernet.data import pixels
from centernet.data.coco import CocoDataModule
from centernet.data.pixels import PixelCache, pixel_cache
from centernet.structures import InputError

SIZES = np.array([[3, 5], [4, 2]])


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def data_of(root: Path, **options: object) -> CocoDataModule:
    data = CocoDataModule(root, resolution=(64, 64), batch_size=4, num_workers=0, limit=8, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("in_file", [False, True])
def test_an_image_is_there_once_it_was_kept(tmp_path, in_file):
    cache = PixelCache(SIZES, tmp_path / "pixels" if in_file else None)
    first, second = images()
    assert cache.get(0) is None
    cache.put(1, second)
    assert cache.get(0) is None
    assert np.array_equal(cache.get(1), second)
    cache.put(0, first)
    assert np.array_equal(cache.get(0), first)
    assert np.array_equal(cache.get(1), second)
    with pytest.raises(ValueError, match="read-only"):
        cache.get(0)[0, 0] = 0


def test_an_image_of_another_size_is_not_kept():
    cache = PixelCache(SIZES)
    cache.put(0, images()[1])
    assert cache.get(0) is None


@pytest.mark.parametrize("place", ["ram", "disk", "auto"])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_has_the_pixels_of_the_files(shapes, tmp_path, monkeypatch, place, workers):
    monkeypatch.setenv("CENTERNET_CACHE", str(tmp_path))

    def epochs(place: str) -> list[torch.Tensor]:
        data = CocoDataModule(shapes, resolution=(64, 64), batch_size=4, num_workers=workers, limit=8, cache=place)
        data.setup("fit")
        loader = data.train_dataloader()
        seen = []
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            seen += [batch["image"].clone() for batch in loader]
        if place != "none":
            assert all(data.datasets["train"].pixels.get(n) is not None for n in range(8))  # also those of the workers
        return seen

    assert all(torch.equal(one, other) for one, other in zip(epochs("none"), epochs(place), strict=True))


def test_a_second_epoch_reads_no_file(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "shapes")
    dataset = data_of(tmp_path / "shapes", cache="ram").datasets["train"]
    before = [dataset.read(n) for n in range(8)]
    for file in dataset.files:
        os.unlink(file)
    assert all(np.array_equal(one, dataset.read(n)) for n, one in enumerate(before))


def test_a_file_of_pixels_is_found_again_and_belongs_to_one_state_of_the_images(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "shapes"
    shutil.copytree(shapes, root)
    first = data_of(root, cache="disk").datasets["train"]
    first.read(3)
    again = data_of(root, cache="disk").datasets["train"]
    assert again.pixels.get(3) is not None
    assert again.pixels.get(2) is None
    changed = np.zeros_like(first.read(3))
    cv2.imwrite(str(first.files[3]), changed)
    os.utime(first.files[3], ns=(1, 1))
    assert np.array_equal(data_of(root, cache="disk").datasets["train"].read(3), changed)


def test_a_worker_that_is_spawned_opens_the_file_again_and_copies_no_memory(tmp_path):
    cache = PixelCache(SIZES, tmp_path / "pixels")
    cache.put(0, images()[0])
    assert np.array_equal(pickle.loads(pickle.dumps(cache)).get(0), images()[0])
    in_memory = PixelCache(SIZES)
    in_memory.put(0, images()[0])
    content = pickle.dumps(in_memory)
    assert len(content) < 2000
    assert pickle.loads(content).get(0) is None


def test_auto_uses_a_quarter_of_the_free_memory_at_most(monkeypatch):
    needed = int(SIZES.prod(1).sum() * 3)
    monkeypatch.setattr(pixels, "free_memory", lambda: 4 * needed)
    assert pixel_cache("auto", ["a", "b"], SIZES) is not None
    assert pixel_cache("auto", ["a", "b"], SIZES, processes=2) is None
    monkeypatch.setattr(pixels, "free_memory", lambda: 4 * needed - 1)
    assert pixel_cache("auto", ["a", "b"], SIZES) is None
    assert pixel_cache("ram", ["a", "b"], SIZES) is not None
    assert pixels.free_memory.__name__ == "<lambda>"


def test_free_memory_is_that_of_the_system():
    assert 2**20 < pixels.free_memory() < 2**50


def test_images_of_unknown_size_are_not_kept():
    assert pixel_cache("ram", ["a", "b"], np.array([[3, 5], [0, 0]])) is None
    assert pixel_cache("none", ["a", "b"], SIZES) is None


def test_a_full_disk_and_an_unknown_place_are_said_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"data.cache='fast' is unknown; choose one of auto, ram, disk, none"):
        CocoDataModule("somewhere", cache="fast")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        InputError, match=r"data.cache=disk needs 0.0 GiB in .* \(No space left on device\); set CENTERNET_"
    ):
        PixelCache(SIZES, tmp_path / "pixels")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv("CENTERNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"data.cache=disk cannot use .*file"):
        pixel_cache("disk", [str(tmp_path / "file")], SIZES[:1])
