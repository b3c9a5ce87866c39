"""The drawn street scenes are real KITTI files, and what they say is what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from centernet.data.builtin.cuboids import (
    CAMERA_HEIGHT,
    FARTHEST,
    HEIGHT,
    LIGHT,
    NEAREST,
    TYPES,
    WIDTH,
    CuboidsDataModule,
    write_cuboids,
)
from centernet.data.images import read_image
from centernet.data.kitti_format import CLASSES, Labels, read_calibration, read_labels, read_split
from centernet.ops.camera import box_corners, project
from tests.tiny import digest

TRAIN, VAL = 80, 4
DECIMALS = 0.006  # half of the last decimal of a label, and a little


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough scenes that the rare types are among them."""
    return write_cuboids(tmp_path_factory.mktemp("drawn") / "cuboids", train=TRAIN, val=VAL, seed=5)


@pytest.fixture(scope="module")
def frames(root: Path) -> list[tuple[Labels, torch.Tensor, np.ndarray]]:
    """Labels, P2 and pixels of the training frames."""
    folder = root / "training"
    return [
        (
            read_labels(folder / "label_2" / f"{name}.txt"),
            torch.from_numpy(read_calibration(folder / "calib" / f"{name}.txt")),
            read_image(folder / "image_2" / f"{name}.png"),
        )
        for name in read_split(root / "ImageSets" / "train.txt")
    ]


def rows_of(labels: Labels, wanted: np.ndarray) -> dict[str, torch.Tensor]:
    """The wanted rows as tensors."""
    names = ("boxes", "dimensions", "location", "yaw", "alpha", "truncation")
    return {name: torch.from_numpy(getattr(labels, name)[wanted]) for name in names}


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    one = digest(write_cuboids(tmp_path / "one", train=4, val=2, seed=1))
    assert digest(write_cuboids(tmp_path / "two", train=4, val=2, seed=1)) == one
    assert sorted(one) == sorted(
        ["drawn.json", "ImageSets/train.txt", "ImageSets/val.txt"]
        + [f"training/{kind}/{n:06d}.{end}" for n in range(6) for kind, end in
           (("image_2", "png"), ("label_2", "txt"), ("calib", "txt"))]
    )  # fmt: skip
    other = digest(write_cuboids(tmp_path / "other", train=4, val=2, seed=2))
    pictures = {name for name in one if name.endswith(".png")}
    assert not {one[name] for name in pictures} & {other[name] for name in pictures}
    assert len({one[name] for name in pictures}) == 6


def test_the_labels_boxes_are_the_projected_3d_boxes_clipped_to_the_image(frames: list) -> None:
    checked = 0
    for labels, camera, _ in frames:
        rows = rows_of(labels, labels.types != "DontCare")
        corners = box_corners(rows["dimensions"], rows["location"], rows["yaw"])
        points = project(camera.expand(len(corners), 3, 4), corners)
        whole = torch.cat([points.amin(1), points.amax(1)], 1)
        shown = whole.clamp(min=0).minimum(torch.tensor([WIDTH - 1, HEIGHT - 1] * 2))
        torch.testing.assert_close(rows["boxes"], shown, atol=DECIMALS, rtol=0)
        area, left = ((box[:, 2:] - box[:, :2]).prod(1) for box in (whole, shown))
        torch.testing.assert_close(rows["truncation"], 1 - left / area, atol=DECIMALS, rtol=0)
        checked += len(corners)
    assert checked > 2 * TRAIN


def test_angles_and_places_go_together(frames: list) -> None:
    for labels, _, _ in frames:
        rows = rows_of(labels, labels.types != "DontCare")
        x, y, z = rows["location"].unbind(1)
        turned = rows["alpha"] - (rows["yaw"] - torch.atan2(x, z))
        assert (torch.atan2(turned.sin(), turned.cos()).abs() < DECIMALS).all()
        assert (y == CAMERA_HEIGHT).all()
        assert ((z >= NEAREST) & (z <= FARTHEST)).all()
        assert (rows["yaw"].abs() <= 3.15).all()
        assert (rows["boxes"][:, 3] - rows["boxes"][:, 1] >= 24 - DECIMALS).all()


def test_depth_can_be_read_from_where_things_touch_the_ground(frames: list) -> None:
    for labels, camera, _ in frames:
        rows = rows_of(labels, labels.types != "DontCare")
        row = project(camera.expand(len(rows["yaw"]), 3, 4), rows["location"][:, None])[:, 0, 1]
        depth = camera[1, 1] * CAMERA_HEIGHT / (row - camera[1, 2])
        torch.testing.assert_close(depth, rows["location"][:, 2], atol=0.02, rtol=0)


def test_cars_that_come_show_lights_and_cars_that_go_do_not(frames: list) -> None:
    lit: dict[bool, list[float]] = {True: [], False: []}  # share of the box
    for labels, _, pixels in frames:
        is_plain = (labels.types == "Car") & (labels.occlusion == 0) & (labels.truncation == 0)
        for box, alpha in zip(labels.boxes[is_plain], labels.alpha[is_plain], strict=True):
            if abs(abs(alpha) - np.pi / 2) > 0.5 or box[3] - box[1] < 40:
                continue
            x1, y1, x2, y2 = box.round().astype(int)
            is_light = abs(pixels[y1:y2, x1:x2].astype(int) - LIGHT).max(-1) < 6
            lit[bool(alpha > 0)].append(is_light.mean())
    assert min(len(shares) for shares in lit.values()) > 5
    assert min(lit[True]) > 0.02 > max(lit[False])


def test_everything_the_benchmark_brings_is_met(frames: list) -> None:
    types = np.concatenate([labels.types for labels, _, _ in frames])
    assert set(types) == {*TYPES, "DontCare"}
    assert {int(n) for labels, _, _ in frames for n in labels.occlusion[labels.types != "DontCare"]} == {0, 1, 2}
    assert any(len(labels) == 0 for labels, _, _ in frames)
    assert any((labels.truncation > 0.2).any() for labels, _, _ in frames)
    cameras = torch.stack([camera for _, camera, _ in frames])
    assert (cameras[:, :, 3].abs() > 0).all()
    assert len(cameras[:, 0, 0].unique()) == len(cameras)


def test_classes_have_sizes_like_those_of_kitti(frames: list) -> None:
    for kind, (_, mean, deviation) in TYPES.items():
        found = np.concatenate([labels.dimensions[labels.types == kind] for labels, _, _ in frames])
        assert (abs(found - mean) <= 2 * np.array(deviation) + DECIMALS).all()


def test_the_data_module_draws_once_and_reads_it_as_kitti(tmp_path: Path) -> None:
    data = CuboidsDataModule(tmp_path / "cuboids", train_count=6, val_count=2, batch_size=3, num_workers=0)
    data.prepare_data()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cuboids").rglob("*")}
    data.setup("fit")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cuboids").rglob("*")} == stamps
    assert data.class_names == list(CLASSES)
    assert [data.datasets[split].image_ids for split in ("train", "val")] == [list(range(6)), [6, 7]]
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (3, 3, HEIGHT // 2, WIDTH // 2)
    assert batch["calibration"].shape == (3, 3, 4)
    assert data.facts["focal"] == pytest.approx(240, rel=0.03)  # input pixels


@pytest.mark.parametrize("mode", ["fit", "width"])
def test_the_whole_image_fills_the_input_at_half_its_scale(root: Path, mode: str) -> None:
    data = CuboidsDataModule(root, train_count=TRAIN, val_count=VAL, draw_seed=5, num_workers=0, test_mode=mode)
    data.setup("fit")
    sample = data.datasets["val"][0]
    np.testing.assert_allclose(sample["input_from_image"], np.diag([0.5, 0.5, 1.0]), atol=1e-12)
    assert not sample["objects"]["rescaled"].any()
    train = data.datasets["train"].fields
    assert train["labels"][~train["crowd"]].bincount(minlength=3).min() > 50
    assert [note for dataset in data.datasets.values() for note in dataset.notes] == []
