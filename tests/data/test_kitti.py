"""KITTI's own files become samples; what is wrong with them is said by frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from centernet.data.kitti import KittiDataModule, KittiDataset
from centernet.data.kitti_format import read_labels, read_split, write_calibration
from centernet.data.kitti_splits import published_list
from centernet.data.transforms import eval_pipeline
from centernet.data.warps import EvalWarp
from centernet.ops.affine import flip_matrix
from centernet.structures import InputError
from tests import tiny
from tests.data.test_images import photograph, png_header

SIZE = (96, 320)
P2 = np.array([[180.0, 0, 160, 12], [0, 180, 48, -0.1], [0, 0, 1, 0.004]])
CAR = "Car 0.10 1 -1.20 100.00 40.00 160.00 80.00 1.50 1.60 4.00 -1.00 1.60 10.00 -1.30"
PEDESTRIAN = "Pedestrian 0.00 0 0.30 200.00 30.00 215.00 70.00 1.80 0.60 0.80 3.00 1.60 12.00 0.54"
VAN = CAR.replace("Car", "Van")
DONT_CARE = "DontCare -1 -1 -10 10.00 40.00 30.00 60.00 -1 -1 -1 -1000 -1000 -1000 -10"


def make_kitti(
    root: Path,
    labels: Mapping[str, Sequence[str]],
    part: str = "training",
    split: str = "train",
    size: tuple[int, int] = SIZE,
    end: str = ".png",
    projection: np.ndarray = P2,
) -> Path:
    """Write frames with these label lines as KITTI files and list them."""
    folders = {name: root / part / name for name in ("image_2", "label_2", "calib")}
    for folder in (*folders.values(), root / "ImageSets"):
        folder.mkdir(parents=True, exist_ok=True)
    for frame, lines in labels.items():
        cv2.imwrite(str(folders["image_2"] / f"{frame}{end}"), tiny.make_image(*size, seed=int(frame)))
        write_calibration(folders["calib"] / f"{frame}.txt", projection)
        if part == "training":
            (folders["label_2"] / f"{frame}.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "ImageSets" / f"{split}.txt").write_text("".join(f"{frame}\n" for frame in labels))
    return root


def read(root: Path, split: str = "train", **options: Any) -> KittiDataset:
    """The frames of a list, as evaluation sees them."""
    pipeline = options.pop("pipeline", None) or eval_pipeline((64, 224))
    return KittiDataset(root, root / "ImageSets" / f"{split}.txt", pipeline, EvalWarp((64, 224)), **options)


def set_up(root: Path | None, stage: str = "fit", **options: Any) -> KittiDataModule:
    data = KittiDataModule(root, **{"resolution": (64, 224), "num_workers": 0, "batch_size": 2, **options})
    data.setup(stage)
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_kitti(tmp_path, {"000003": [CAR, VAN, DONT_CARE], "000001": []})
    return make_kitti(tmp_path, {"000002": [PEDESTRIAN, CAR]}, split="val")


def test_a_sample_carries_objects_frame_number_and_calibration(root: Path) -> None:
    dataset = read(root)
    sample = dataset[0]
    assert dataset.class_names == ["Pedestrian", "Car", "Cyclist"]
    assert (sample["image_id"], sample["image_size"].tolist()) == (3, list(SIZE))
    assert sample["calibration"].dtype == torch.float64
    np.testing.assert_array_equal(sample["calibration"], P2)
    truth = sample["truth"]
    assert truth["labels"].tolist() == [1, 1, -1]
    assert truth["crowd"].tolist() == [False, True, True]
    assert truth["neutral"].tolist() == [False, True, False]
    assert truth["dimensions"][0].tolist() == [1.5, 1.6, 4.0]
    assert truth["location"][0].tolist() == [-1.0, 1.6, 10.0]
    assert (truth["alpha"][0], truth["yaw"][0], truth["truncation"][0], truth["occlusion"][0]) == (-1.2, -1.3, 0.1, 1)


def test_the_middle_of_the_3d_box_is_projected_with_the_whole_of_p2(root: Path) -> None:
    points = read(root).objects(0)["center_3d"]
    depth = 10 + 0.004
    assert points[0].tolist() == pytest.approx(
        [(180 * -1.0 + 160 * 10 + 12) / depth, (180 * (1.6 - 0.75) + 48 * 10 - 0.1) / depth]
    )
    # A region without a 3D box has its own middle.
    assert points[2].tolist() == [20, 50]


def test_frames_without_objects_have_every_field(root: Path) -> None:
    sample = read(root)[1]
    assert {name: len(value) for name, value in sample["truth"].items() if len(value)} == {}
    assert sample["truth"]["center_3d"].shape == (0, 2)
    batch = next(iter(set_up(root).train_dataloader()))
    assert batch["calibration"].shape == (2, 3, 4)
    assert batch["objects"]["dimensions"].shape == (2, 3, 3)


def test_jpeg_images_are_found_too(tmp_path: Path) -> None:
    dataset = read(make_kitti(tmp_path, {"000000": [CAR]}, end=".jpg"))
    assert dataset.sizes.tolist() == [list(SIZE)]
    assert dataset[0]["image"].shape == (3, 64, 224)


def test_facts_are_the_classes_mean_dimensions_and_the_focal_length_of_the_input(root: Path) -> None:
    make_kitti(root, {"000002": [PEDESTRIAN, CAR, VAN.replace("1.50 1.60 4.00", "3.00 3.00 9.00")]}, split="val")
    facts = read(root, "val").facts
    # No cyclist: the mean of all objects, to which the van does not belong.
    assert facts["mean_dimensions"] == [[1.8, 0.6, 0.8], [1.5, 1.6, 4.0], pytest.approx([1.65, 1.1, 2.4])]
    # The image is fitted into 64 rows of 96, because the input is relatively wider.
    assert facts["focal"] == pytest.approx(180 * 64 / 96)
    assert facts["ground"] == pytest.approx([1.6, 0.0])
    assert "joints" not in facts


def test_facts_without_any_object_keep_the_focal_length_only(tmp_path: Path) -> None:
    assert set(read(make_kitti(tmp_path, {"000000": [DONT_CARE]})).facts) == {"focal"}


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, False), (1.005, False), (1.02, True), (0.98, True), (0.6, True)]
)
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_only_a_change_of_the_images_scale_marks_objects_as_rescaled(
    root: Path, factor: float, expected: bool, is_mirrored: bool
) -> None:
    dataset = read(root)
    matrix = np.diag([factor, factor, 1.0]) @ dataset.evaluation.matrix(SIZE)
    matrix = matrix @ flip_matrix(SIZE[1]) if is_mirrored else matrix
    warped = dataset.warp(dataset.objects(0), torch.from_numpy(matrix), SIZE)
    assert warped["rescaled"].tolist() == [expected] * 3
    assert warped["focal"].tolist() == pytest.approx([180 * factor * 64 / 96] * 3)
    assert "rescaled" not in dataset.objects(0)


def test_random_scales_in_training_mark_objects_and_the_plain_image_does_not(root: Path) -> None:
    plain = set_up(root, augment={"warp": None})
    assert not next(iter(plain.train_dataloader()))["objects"]["rescaled"].any()
    zoomed = set_up(root, augment={"warp": "crop", "scales": [0.6]})
    objects = next(iter(zoomed.train_dataloader()))["objects"]
    assert objects["rescaled"][objects["valid"]].all()


def test_a_mirror_moves_the_projected_center_and_the_angles(root: Path) -> None:
    dataset = read(root)
    truth = dataset.objects(0)
    matrix = dataset.evaluation.matrix(SIZE)
    plain = dataset.warp(truth, torch.from_numpy(matrix), SIZE)
    mirrored = dataset.warp(truth, torch.from_numpy(flip_matrix(224) @ matrix), SIZE)
    torch.testing.assert_close(mirrored["center_3d"][:, 0], 223 - plain["center_3d"][:, 0])
    assert mirrored["alpha"][0] == pytest.approx(-np.pi + 1.2)


def test_results_are_one_file_per_frame_also_for_frames_without_detections(root: Path, tmp_path: Path) -> None:
    detections = {
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.98762]),
        "boxes": torch.tensor([[-3.0, 20.0, 400.0, 90.123]]),
        "alpha": torch.tensor([1.234]),
        "dimensions": torch.tensor([[1.5, 1.6, 4.0]]),
        "location": torch.tensor([[-1.0, 1.6, 10.0]]),
        "yaw": torch.tensor([-1.3]),
    }
    folder = read(root).write_results(tmp_path, {3: detections})
    assert sorted(path.name for path in folder.iterdir()) == ["000001.txt", "000003.txt"]
    assert (folder / "000001.txt").read_text() == ""
    expected = "Car -1 -1 1.23 0.00 20.00 319.00 90.12 1.50 1.60 4.00 -1.00 1.60 10.00 -1.30 0.9876\n"
    assert (folder / "000003.txt").read_text() == expected


def test_results_of_a_2d_task_say_that_the_rest_is_unknown(root: Path, tmp_path: Path) -> None:
    found = {"labels": torch.tensor([0]), "scores": torch.tensor([0.5]), "boxes": torch.tensor([[1.0, 2, 3, 4]])}
    labels = read_labels(read(root).write_results(tmp_path, {1: found}) / "000001.txt", with_scores=True)
    assert (labels.alpha[0], labels.yaw[0], labels.dimensions[0, 0], labels.location[0, 2]) == (-10, -10, -1, -1000)


def test_testing_frames_need_no_labels(root: Path) -> None:
    make_kitti(root, {"000000": [], "000005": []}, part="testing", split="test")
    data = set_up(root, "validate", val_split="test")
    assert data.datasets["val"].image_ids == [0, 5]
    assert data.datasets["val"].folder == root / "testing" / "image_2"
    assert next(iter(data.val_dataloader()))["truth"]["boxes"].shape == (2, 0, 4)
    with pytest.raises(InputError, match=r"data.train_split=test has no labels"):
        set_up(root, train_split="test")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All frames of KITTI as its archives unpack, without ImageSets; the files are links to those of one frame."""
    made = make_kitti(tmp_path_factory.mktemp("made"), {"000000": [CAR]}) / "training"
    root = tmp_path_factory.mktemp("KITTI")
    for part, count in (("training", 7481), ("testing", 7518)):
        for name, end in (("image_2", "png"), ("label_2", "txt"), ("calib", "txt")):
            if part == "training" or name != "label_2":
                (root / part / name).mkdir(parents=True)
                for n in range(count):
                    os.link(made / name / f"000000.{end}", root / part / name / f"{n:06d}.{end}")
    return root


@pytest.mark.parametrize(("splits", "counts"), [(None, (3712, 3769)), ("subcnn", (3682, 3799))])
def test_kitti_as_downloaded_has_the_published_lists(
    benchmark: Path, caplog: pytest.LogCaptureFixture, splits: str | None, counts: tuple[int, int]
) -> None:
    with caplog.at_level("INFO"):
        data = set_up(benchmark, splits=splits)
    train, val = (set(data.datasets[split].image_ids) for split in ("train", "val"))
    assert (len(train), len(val)) == counts
    assert not train & val
    assert train | val == set(range(7481))
    assert ("has no ImageSets, so the frames are divided as 3dop does" in caplog.text) == (splits is None)
    testing = set_up(benchmark, "validate", splits=splits, val_split="test").datasets["val"]
    assert testing.image_ids == list(range(7518))
    assert testing.folder == benchmark / "testing" / "image_2"


@pytest.mark.parametrize("name", ["train", "val", "trainval", "test"])
def test_the_built_in_lists_of_3dop_are_those_of_its_files(data_folder: Path, name: str) -> None:
    folder = data_folder / "kitti-splits"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    assert published_list("3dop", name).frames == read_split(folder / f"{name}.txt")


def test_the_built_in_lists_of_subcnn_begin_as_published() -> None:
    assert published_list("subcnn", "train").frames[:6] == ["000001", "000004", "000007", "000009", "000011", "000012"]
    assert published_list("subcnn", "val").frames[:6] == ["000000", "000002", "000003", "000005", "000006", "000008"]
    assert published_list("subcnn", "test").is_testing


def test_a_part_of_kitti_without_lists_is_answered_with_what_to_do(root: Path) -> None:
    for path in (root / "ImageSets").iterdir():
        path.unlink()
    (root / "ImageSets").rmdir()
    message = r"3711 of 3712 frames of 3dop's list train have no images in .*; complete the folder, or set data\.splits"
    with pytest.raises(InputError, match=message):
        set_up(root)


def test_lists_come_from_another_folder_or_are_files(root: Path, tmp_path: Path) -> None:
    lists = root / "lists"
    lists.mkdir()
    for name in ("train", "val"):
        (lists / f"{name}.txt").write_text("000002\n")
    assert set_up(root, splits=lists).datasets["train"].image_ids == [2]
    assert set_up(root, splits="lists").datasets["train"].image_ids == [2]
    assert set_up(root, train_split="lists/train.txt").datasets["train"].image_ids == [2]
    assert set_up(root, train_split=lists / "train.txt").datasets["train"].image_ids == [2]


def test_classes_and_their_order_can_be_chosen(root: Path) -> None:
    data = set_up(root, class_names=["Car", "Pedestrian"])
    assert data.class_names == ["Car", "Pedestrian"]
    assert data.datasets["val"].describe() == ["2 classes (objects: Car 1, Pedestrian 1)"]
    assert read(root, class_names=["Pedestrian"]).fields["labels"].tolist() == [-1]
    assert read(root, "val", class_names=["Pedestrian"]).fields["labels"].tolist() == [0]


def test_fewer_images_keep_their_own_facts_and_results(root: Path, tmp_path: Path) -> None:
    data = set_up(root, limit=1)
    dataset = data.datasets["train"]
    assert dataset.facts["mean_dimensions"][1] == [1.5, 1.6, 4.0]
    assert [path.name for path in dataset.write_results(tmp_path, {}).iterdir()] == ["000003.txt"]


def test_boxes_without_area_are_dropped_and_told(tmp_path: Path) -> None:
    flat = CAR.replace("160.00", "100.00")
    dataset = read(make_kitti(tmp_path, {"000000": [flat], "000001": [CAR]}))
    assert dataset.offsets.tolist() == [0, 0, 1]
    assert dataset.notes[0].endswith("dropped 1 boxes without width or height (frames 000000)")
    swapped = CAR.replace("100.00 40.00 160.00", "160.00 40.00 100.00")
    dataset = read(make_kitti(tmp_path, {"000000": [CAR], "000001": [swapped]}))
    assert dataset.notes[0].endswith("dropped 1 boxes of negative size (frames 000001)")


def test_an_object_behind_the_camera_is_ignored_and_told(tmp_path: Path) -> None:
    dataset = read(make_kitti(tmp_path, {"000000": [CAR.replace("10.00", "-0.50"), CAR]}))
    objects = dataset.objects(0)
    assert objects["crowd"].tolist() == objects["neutral"].tolist() == [True, False]
    assert objects["center_3d"][0].tolist() == [130, 60]
    assert dataset.notes[0].endswith("ignored 1 objects whose center is behind the camera")


@pytest.mark.parametrize("size", [(375, 1242), (370, 1224), (370, 1226), (374, 1238), (376, 1241)])
def test_the_sizes_of_the_real_images_go_together(tmp_path: Path, size: tuple[int, int]) -> None:
    make_kitti(tmp_path, {"000002": [CAR]}, split="other", size=size)
    make_kitti(tmp_path, {"000000": [CAR], "000001": [CAR]}, size=(375, 1242))
    (tmp_path / "ImageSets" / "train.txt").write_text("000000\n000001\n000002\n")
    assert read(tmp_path).sizes[2].tolist() == list(size)


def test_a_turned_photograph_has_the_size_that_is_read(tmp_path: Path) -> None:
    make_kitti(tmp_path, {"000000": [CAR]}, end=".jpg")
    photograph(tmp_path / "training" / "image_2" / "000000.jpg", 6, 320, 96)
    dataset = read(tmp_path)
    assert dataset.sizes.tolist() == [[96, 320]]
    assert dataset[0]["image_size"].tolist() == [96, 320]


def test_a_header_of_any_size_is_read_without_complaint(tmp_path: Path) -> None:
    make_kitti(tmp_path, {"000000": [CAR], "000001": [CAR], "000002": [CAR]})
    (tmp_path / "training" / "image_2" / "000001.png").write_bytes(png_header(60_000, 60_000))
    with pytest.raises(InputError, match=r"frame 000001 .* is 60000x60000 pixels, but the other images are about"):
        read(tmp_path)


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    make_kitti(tmp_path, {"000009": [CAR]}, split="other", size=(48, 160))
    make_kitti(tmp_path, {"000000": [CAR], "000001": [CAR]})
    (tmp_path / "ImageSets" / "train.txt").write_text("000000\n000009\n000001\n")
    with pytest.raises(
        InputError, match=r"frame 000009 .* is 160x48 pixels, but the other images are about 320x96; depth"
    ):
        read(tmp_path)


def test_a_broken_image_is_skipped_in_training_and_named_otherwise(root: Path) -> None:
    (root / "training" / "image_2" / "000003.png").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(InputError, match=r"000003.png is truncated|000003.png is not an image"):
        read(root)[0]
    dataset = read(root, on_bad_image="skip")
    assert dataset[0]["image_id"] == 1
    (root / "training" / "image_2" / "000001.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of the 2 files is an image"):
        read(root)


def remove(root: Path, name: str) -> None:
    (root / name).unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("training/image_2/000003.png", r"1 of 2 frames of .*train.txt have no images in .*image_2 \(000003\)"),
        ("training/label_2/000001.txt", r"1 of 2 frames .* have no label files in .*label_2 \(000001\); complete"),
        ("training/calib/000003.txt", r"1 of 2 frames .* have no calibration files in .*calib \(000003\)"),
        ("ImageSets/train.txt", r"data.train_split=train is not in .*ImageSets; use one of its lists: val"),
    ],
)
def test_what_is_missing_is_named(root: Path, name: str, message: str) -> None:
    remove(root, name)
    with pytest.raises(InputError, match=message):
        set_up(root)


def test_a_list_with_many_absent_frames_names_the_first_few(root: Path) -> None:
    (root / "ImageSets" / "train.txt").write_text("".join(f"{frame:06d}\n" for frame in range(100, 110)))
    message = r"10 of 10 frames .* \(000100, 000101, 000102, 000103, 000104, ...\); complete the folder or shorten"
    with pytest.raises(InputError, match=message):
        set_up(root)


def test_a_root_without_lists_or_data_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no data given; set data.root=DIR"):
        set_up(None)
    with pytest.raises(InputError, match=r"data.root=.*nowhere is not an existing folder"):
        set_up(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"data.val_split=a/b.txt does not exist, nor does it in"):
        set_up(root, val_split="a/b.txt")
    with pytest.raises(
        InputError, match=r"data\.splits=3dpo does not exist, .*; give a folder with train\.txt and val\.txt .*3dop"
    ):
        set_up(root, splits="3dpo")
    with pytest.raises(InputError, match=r"'trian' is no list of 3dop's division of KITTI; choose one of train, val"):
        set_up(root, splits="3dop", train_split="trian")
    (tmp_path / "empty" / "ImageSets").mkdir(parents=True)
    for name in ("train", "val"):
        (tmp_path / "empty" / "ImageSets" / f"{name}.txt").write_text("000000\n")
    with pytest.raises(
        InputError, match=r"images folder .*image_2 does not exist; arrange the data as training/image_2"
    ):
        set_up(tmp_path / "empty")


def test_an_object_without_3d_box_is_named(tmp_path: Path) -> None:
    make_kitti(tmp_path, {"000000": [], "000001": [CAR.replace("1.50 1.60 4.00", "-1 -1 -1")]})
    with pytest.raises(InputError, match=r"frame 000001 has a Car with dimensions \[-1.0, -1.0, -1.0\]; 3D labels"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["mosaic", "mixup", "copy_paste"])
def test_images_made_of_several_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match=rf"augment.{kind}=0.5 is not supported with 3D labels; set augment.{kind}=0"):
        KittiDataModule("somewhere", augment={"warp": "crop", kind: 0.5})


def test_real_frames_are_read_with_the_counts_of_their_readme(data_folder: Path) -> None:
    folder = data_folder / "kitti-tiny"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    counts = {}
    for line in (folder / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "split":
            head = cells
        elif cells[0] in ("train", "val"):
            counts[cells[0]] = dict(zip(head, cells, strict=True))
    assert set(counts) == {"train", "val"}
    data = set_up(folder, resolution=(384, 1280))
    for split, expected in counts.items():
        dataset = data.datasets[split]
        assert len(dataset) == int(expected["frames"])
        labels, neutral = dataset.fields["labels"], dataset.fields["neutral"]
        counts = labels[~dataset.fields["crowd"]].bincount().tolist()
        assert counts == [int(expected[name]) for name in data.class_names]
        assert (labels == -1).sum() == int(expected["DontCare"])
        assert neutral.sum() == int(expected["Van"])
        assert (dataset.fields["crowd"] & ~neutral & (labels >= 0)).sum() == int(expected["Truck"])
        assert dataset.notes == []
    assert data.facts["focal"] == pytest.approx(743, abs=3)
    # The projected middles lie inside the 2D boxes of objects that are not cut.
    train = data.datasets["train"].fields
    whole = ~train["crowd"] & (train["truncation"] == 0)
    points, boxes = train["center_3d"][whole], train["boxes"][whole]
    assert ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all()
    assert len(set_up(folder, "validate", val_split="test").datasets["val"]) == 2


def test_the_lists_of_the_whole_benchmark_miss_frames_in_a_part_of_it(data_folder: Path) -> None:
    folder, splits = data_folder / "kitti-tiny", data_folder / "kitti-splits"
    if not (folder.is_dir() and splits.is_dir()):
        pytest.skip(f"no {folder} or no {splits}")
    frames = read_split(splits / "train.txt")
    absent = [frame for frame in frames if not (folder / "training" / "image_2" / f"{frame}.png").is_file()]
    message = rf"{len(absent)} of {len(frames)} frames of .*train.txt have no images .* \({', '.join(absent[:5])}, ..."
    with pytest.raises(InputError, match=message):
        set_up(folder, splits=splits)


def test_types_are_known_whatever_their_case_and_unknown_ones_are_noted(tmp_path: Path) -> None:
    dataset = read(make_kitti(tmp_path, {"000000": [CAR.replace("Car", "car"), CAR.replace("Car", "Bus")]}))
    assert dataset.fields["labels"].tolist() == [1]
    assert any("dropped rows of types unknown to KITTI: 1 Bus" in note for note in dataset.notes)


def test_a_training_split_without_an_object_of_the_classes_is_refused(tmp_path: Path) -> None:
    root = make_kitti(tmp_path, {"000000": [VAN, DONT_CARE]})
    make_kitti(tmp_path, {"000001": [CAR]}, split="val")
    with pytest.raises(
        InputError, match=r"has no Pedestrian or Car or Cyclist to train on \(it has 1 Van, 1 DontCare\).*allow_empty"
    ):
        set_up(root)
    set_up(root, allow_empty=True)


@pytest.mark.parametrize(
    ("options", "is_noted"),
    [
        ({}, False),
        ({"augment": {"warp": "crop", "color": None}}, True),
        ({"augment": {"warp": None}, "test_mode": "fit"}, False),
        ({"augment": {"warp": None}, "test_mode": "stretch"}, False),
        ({"augment": {"warp": "jitter", "fill": "width", "p_jitter": 0.5}, "test_mode": "fit"}, True),
    ],
)
def test_augmentation_that_leaves_no_depth_to_learn_is_noted(root: Path, options: dict, is_noted: bool) -> None:
    data = KittiDataModule(root, resolution=(64, 224), num_workers=0, val_split="train", **options)
    data.setup("fit")
    notes = data.datasets["train"].notes
    assert any("keep the scale of evaluation" in note for note in notes) == is_noted
    taught = [not row["objects"]["rescaled"].any() for row in (data.datasets["train"][0] for _ in range(20))]
    assert (sum(taught) >= 5) != is_noted


def test_training_is_not_judged_by_frames_without_labels(root: Path) -> None:
    with pytest.raises(InputError, match=r"data.val_split=test has no labels to select the best checkpoint by"):
        KittiDataModule(root, splits=make_list(root, "test"), val_split="test", num_workers=0).setup("fit")


def make_list(root: Path, name: str) -> Path:
    folder = root / "ImageSets"
    (folder / f"{name}.txt").write_text((folder / "train.txt").read_text())
    return folder


def test_a_turned_image_has_no_3d_labels(root: Path) -> None:
    with pytest.raises(InputError, match=r"augment.rotation=10 is not supported with 3D labels"):
        KittiDataModule(root, augment={"warp": "stretch", "rotation": 10})
