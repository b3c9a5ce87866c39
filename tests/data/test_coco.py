"""COCO-format files as people have them: what is read, what is dropped with a word, what is refused with one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from centernet.data.coco import CocoDataModule, CocoDataset
from centernet.data.datamodule import collate
from centernet.data.images import read_image
from centernet.data.transforms import eval_pipeline, train_pipeline
from centernet.ops.affine import transform_boxes
from centernet.structures import InputError
from tests.data.test_images import deep, photograph, png_header
from tests.tiny import make_coco

BOX = {"image_id": 1, "bbox": [4, 4, 20, 10]}


def open_dataset(
    folder: Path, *annotations: dict[str, Any], size: tuple[int, int] = (32, 32), **options: Any
) -> CocoDataset:
    """A data set of the given annotations; further options of ``make_coco``."""
    path, images = make_coco(folder, annotations, **options)
    return CocoDataset(path, images, eval_pipeline(size))


def test_boxes_labels_crowds_and_areas_are_read(tmp_path):
    dataset = open_dataset(
        tmp_path,
        {**BOX, "category_id": 2, "area": 50},
        {"image_id": 2, "bbox": [1, 2, 3, 4]},
        {**BOX, "iscrowd": 1, "bbox": [0, 0, 60, 40]},
    )
    first, second = dataset.objects(0), dataset.objects(1)
    assert first["boxes"].tolist() == [[4, 4, 24, 14], [0, 0, 60, 40]]
    assert first["labels"].tolist() == [1, 0]
    assert first["crowd"].tolist() == [False, True]
    assert first["area"].tolist() == [50, 2400]
    assert second["boxes"].tolist() == [[1, 2, 4, 6]]
    assert dataset.class_names == ["cat", "dog"]
    assert not dataset.notes
    assert dataset.describe() == ["2 classes (objects: cat 1, dog 1)"]


def test_annotations_need_not_be_sorted_by_image(tmp_path):
    rows = [{"image_id": 1 + n % 2, "bbox": [n, 0, 5, 5]} for n in range(6)]
    dataset = open_dataset(tmp_path, *rows)
    assert [row[0] for row in dataset.objects(0)["boxes"].tolist()] == [0, 2, 4]
    assert [row[0] for row in dataset.objects(1)["boxes"].tolist()] == [1, 3, 5]


def test_category_ids_may_have_gaps_and_any_order(tmp_path):
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]
    dataset = open_dataset(tmp_path, {**BOX, "category_id": 17}, {**BOX, "category_id": 90}, categories=categories)
    assert dataset.class_names == ["car", "cat", "toothbrush"]
    assert dataset.category_ids == [3, 17, 90]
    assert dataset.objects(0)["labels"].tolist() == [1, 2]
    found = {"boxes": torch.tensor([[1.0, 2, 11, 22]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([2])}
    assert dataset.result_rows(1, found) == [{"image_id": 1, "category_id": 90, "bbox": [1, 2, 10, 20], "score": 0.5}]


def test_the_order_of_classes_can_be_given(tmp_path):
    path, images = make_coco(tmp_path, [{**BOX, "category_id": 1}])
    dataset = CocoDataset(path, images, eval_pipeline((32, 32)), class_names=["dog", "cat"])
    assert dataset.objects(0)["labels"].tolist() == [1]
    assert dataset.category_ids == [2, 1]
    with pytest.raises(
        InputError, match=r"has the classes cat, dog but cat, bird are required \(not in both: bird, dog\)"
    ):
        CocoDataset(path, images, eval_pipeline((32, 32)), class_names=["cat", "bird"])


def test_image_ids_may_be_text(tmp_path):
    images = [{"id": "kitchen-7"}, {"id": "garden-2"}]
    dataset = open_dataset(tmp_path, {"image_id": "garden-2", "bbox": [1, 1, 5, 5]}, images=images)
    assert dataset.ids.tolist() == [0, 1]
    assert len(dataset.objects(1)["labels"]) == 1
    assert dataset[1]["image_id"] == 1
    found = {"boxes": torch.zeros(1, 4), "scores": torch.zeros(1), "labels": torch.zeros(1, dtype=torch.long)}
    assert dataset.result_rows(1, found)[0]["image_id"] == "garden-2"


def test_large_image_ids_survive(tmp_path):
    dataset = open_dataset(tmp_path, images=[{"id": 2**40 + 1}, {"id": 2**40 + 2}])
    assert dataset.ids.tolist() == [2**40 + 1, 2**40 + 2]


def test_images_without_annotations_are_negatives(tmp_path):
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 2
    sample = dataset[0]
    assert sample["objects"]["boxes"].shape == (0, 4)
    batch = collate([dataset[0], dataset[1]])
    assert batch["truth"]["valid"].shape == (2, 0)


def test_a_box_that_cannot_be_used_is_told_with_its_id_and_the_true_reason(tmp_path):
    dataset = open_dataset(
        tmp_path,
        BOX,
        {"image_id": 1, "bbox": [5, 5, 0, 10], "id": 21},
        {"image_id": 1, "bbox": [5, 5, 10, -3], "id": 22},
        {"image_id": 1, "bbox": [5, 5, float("nan"), 3], "id": 23},
        {"image_id": 1, "bbox": [5, float("inf"), 2, 3], "id": 24},
        {"image_id": 2, "bbox": [64, 5, 10, 10], "id": 25},
        {"image_id": 2, "bbox": [-20, 5, 20, 10], "id": 26},
        {"image_id": 2, "bbox": [-10, 30, 20, 10]},  # only partly outside
    )
    assert [len(dataset.objects(n)["labels"]) for n in (0, 1)] == [1, 1]
    assert len(dataset.notes) == 1
    assert dataset.notes[0].endswith(
        "instances_train.json: dropped 6 of 8 boxes: 2 NaN or infinite (annotations 23, 24), 1 of negative width or "
        "height (annotation 22), 1 without width or height (annotation 21), 2 outside their image (annotations 25, 26)"
    )


def test_of_many_boxes_that_cannot_be_used_the_first_few_are_named(tmp_path):
    dataset = open_dataset(tmp_path, BOX, *({"image_id": 1, "bbox": [5, 5, 0, 0]} for _ in range(9)))
    assert dataset.notes[0].endswith("9 without width or height (annotations 2, 3, 4, 5, 6, ...)")


def test_areas_that_are_no_numbers_are_those_of_the_boxes(tmp_path):
    rows = [{**BOX, "area": float("nan")}, {**BOX, "area": -5}, {**BOX, "area": 7}]
    assert open_dataset(tmp_path, *rows).objects(0)["area"].tolist() == [200, 200, 7]


def test_corner_boxes_in_a_file_of_corner_and_size_are_suspected(tmp_path):
    dataset = open_dataset(tmp_path, *({"image_id": 1, "bbox": [30, 20, 60, 45]} for _ in range(3)))
    assert len(dataset.notes) == 1
    assert dataset.notes[0].endswith(
        "3 of 3 boxes extend beyond their image (annotations 1, 2, 3); COCO's bbox is [x, y, width, height], "
        "these look like [x1, y1, x2, y2]"
    )


def test_missing_sizes_and_areas_do_no_harm(tmp_path):
    path, images = make_coco(tmp_path, [{**BOX, "area": None}, {"image_id": 1, "bbox": [90, 2, 3, 4]}])
    content = json.loads(path.read_text())
    for image in content["images"]:
        del image["height"], image["width"]
    path.write_text(json.dumps(content))
    dataset = CocoDataset(path, images, eval_pipeline((32, 32)))
    assert dataset.objects(0)["area"].tolist() == [200, 12]
    assert not dataset.notes


def test_a_sample_is_the_warped_image_with_its_objects(tmp_path):
    dataset = open_dataset(tmp_path, BOX, size=(32, 64))
    sample = dataset[0]
    assert sample["image"].dtype == torch.uint8
    assert tuple(sample["image"].shape) == (3, 32, 64)
    assert sample["image_size"].tolist() == [48, 64]
    assert sample["input_from_image"].dtype == torch.float64
    moved = transform_boxes(sample["input_from_image"], sample["truth"]["boxes"])
    assert torch.allclose(sample["objects"]["boxes"].double(), moved, atol=1e-4)
    assert sample["truth"]["boxes"].tolist() == [[4, 4, 24, 14]]


def test_truth_is_left_out_while_training(tmp_path):
    path, images = make_coco(tmp_path, [BOX])
    sample = CocoDataset(path, images, train_pipeline((32, 32)), train=True)[0]
    assert len(sample["objects"]["labels"]) == 1
    assert len(sample["truth"]["labels"]) == 0


def test_images_may_lie_in_folders_below(tmp_path):
    dataset = open_dataset(tmp_path, images=[{"id": 1, "file_name": "a/x.png"}, {"id": 2, "file_name": "b/x.png"}])
    assert not torch.equal(dataset[0]["image"], dataset[1]["image"])


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_an_unreadable_image_stops_by_default_and_can_be_skipped_in_training(tmp_path):
    path, images = make_coco(tmp_path, [BOX])
    corrupt(images / "1.png")
    strict = CocoDataset(path, images, train_pipeline((32, 32)), train=True)
    with pytest.raises(InputError, match=r"image .*1\.png is truncated"):
        strict[0]
    lenient = CocoDataset(path, images, train_pipeline((32, 32)), train=True, on_bad_image="skip")
    assert lenient[0]["image_id"] == 2
    assert len(lenient[0]["objects"]["labels"]) == 0
    assert int(lenient.skipped) == 2
    corrupt(images / "2.png")
    with pytest.raises(
        InputError, match=r"none of the 2 images can be used, as with this one: image .*\.png is truncated"
    ):
        lenient[0]
    with pytest.raises(InputError, match=r"data.on_bad_image='ignore' is unknown; choose error or skip"):
        CocoDataset(path, images, train_pipeline((32, 32)), on_bad_image="ignore")


@pytest.mark.parametrize("spoil", ["another size", "too large"])
def test_an_image_of_another_size_and_a_huge_one_are_skipped_like_unreadable_ones(tmp_path, spoil):
    path = resize(tmp_path, width=30, height=20) if spoil == "another size" else make_coco(tmp_path, [BOX])[0]
    if spoil == "too large":
        (tmp_path / "train" / "1.png").write_bytes(png_header(60_000, 60_000))
    files = {"train_annotations": path, "val_annotations": make_coco(tmp_path, split="val")[0], "root": tmp_path}
    data = data_of(on_bad_image="skip", **files)
    data.setup("fit")
    dataset = data.datasets["train"]
    assert dataset[0]["image_id"] == 2
    assert int(dataset.skipped) == 1


def test_a_size_of_one_number_is_no_size(tmp_path):
    dataset = CocoDataset(resize(tmp_path, height=0, width=9), tmp_path / "train", eval_pipeline((32, 32)))
    assert dataset.sizes.tolist() == [[0, 0], [48, 64]]
    assert dataset[0]["image_size"].tolist() == [48, 64]
    assert len(dataset.objects(0)["labels"]) == 1


@pytest.mark.parametrize(
    ("size", "orientation"),
    [((20, 30), 1), ((20, 30), 6), ((80, 120), 6), ((40, 61), 6), ((60, 40), 1)],
    ids=["half as large", "half and turned", "twice as large", "a pixel wider", "turned without a tag"],
)
def test_a_photograph_of_another_size_than_its_annotations_is_named_before_training(tmp_path, size, orientation):
    entry = {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}
    for split in ("train", "val"):
        path, images = make_coco(tmp_path, [BOX], images=[entry], split=split)
        photograph(images / "a.jpg", orientation)
        content = json.loads(path.read_text())
        content["images"][0].update(height=size[0], width=size[1])
        path.write_text(json.dumps(content))
    message = (
        rf"image .*train/a\.jpg has \d+x\d+ pixels \(width x height\), but its annotations are for {size[1]}x{size[0]};"
    )
    with pytest.raises(InputError, match=message):
        data_of(root=tmp_path).setup("fit")


@pytest.mark.parametrize(("size", "shape"), [((40, 60), (40, 60)), ((60, 40), (60, 40)), ((0, 0), (60, 40))])
def test_samples_and_pictures_show_a_photograph_turned_as_its_annotations_are(tmp_path, size, shape):
    entry = {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}
    path, images = make_coco(tmp_path, [BOX], images=[entry])
    stored = photograph(images / "a.jpg", 6)
    content = json.loads(path.read_text())
    content["images"][0].update(height=size[0], width=size[1])
    path.write_text(json.dumps(content))
    dataset = CocoDataset(path, images, eval_pipeline((64, 64), "stretch"))
    sample = dataset[0]
    assert sample["image_size"].tolist() == list(shape)
    wanted = stored if shape == (40, 60) else np.rot90(stored, -1)
    assert np.abs(dataset.read(0).astype(int) - wanted).max() <= 2


def test_the_bits_of_16_bit_images_are_an_option_that_prediction_gets_too(tmp_path):
    for split in ("train", "val"):
        _, images = make_coco(tmp_path, [BOX], images=[{"id": 1}], split=split)
        deep(images / "1.png", 4095, 48, 64)
    data = data_of(root=tmp_path, bit_depth=12)
    data.setup("fit")
    assert [dataset.read(0).max() for dataset in data.datasets.values()] == [255, 255]
    assert int(data.datasets["val"][0]["image"].max()) > 200
    assert data.eval_spec["bit_depth"] == 12
    data = data_of(root=tmp_path)
    data.setup("fit")
    with pytest.raises(InputError, match=r"values up to 4095; set bit_depth .*data\.bit_depth=12"):
        data.datasets["train"][0]
    with pytest.raises(InputError, match="bit_depth=24 does not fit"):
        data_of(root=tmp_path, bit_depth=24)


def bad_json(text: str) -> Any:
    def write(folder: Path) -> None:
        path, _ = make_coco(folder)
        path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bad_json("{"), r"instances_train\.json is not valid JSON .*; check that the download is complete"),
        (bad_json("[]"), "holds a list, not COCO annotations"),
        (bad_json("\xff\xfe"), "is not valid JSON"),
        (lambda f: make_coco(f, categories=[]), "has an empty list of categories"),
        (lambda f: make_coco(f, images=[]), "has an empty list of images"),
        (lambda f: rewrite(f, categories=None), "has no 'categories'; COCO annotations need images, annotations and"),
        (lambda f: rewrite(f, annotations=None), "has no 'annotations'"),
        (lambda f: rewrite(f, images=None), "has no 'images'"),
        (
            lambda f: make_coco(f, [{**BOX, "image_id": 9}]),
            "annotation 1 refers to image 9, which is not in the json's",
        ),
        (lambda f: make_coco(f, [{**BOX, "category_id": 5}]), "annotation 1 refers to category 5, which is not in the"),
        (
            lambda f: make_coco(f, [{"image_id": 1}]),
            r"annotation 1 has bbox None; COCO requires \[x, y, width, height\]",
        ),
        (lambda f: make_coco(f, [{"image_id": 1, "bbox": [1, 2, 3]}]), r"annotation 1 has bbox \[1, 2, 3\]"),
        (lambda f: make_coco(f, [{"bbox": [1, 2, 3, 4]}]), "annotation 1 has no 'image_id'"),
        (lambda f: make_coco(f, [{**BOX, "area": "large"}]), "annotation 1 has area 'large'; COCO requires a number"),
        (lambda f: make_coco(f, images=[{"id": 1}, {"id": 1}]), "image id 1 appears twice"),
        (
            lambda f: make_coco(f, categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]),
            "two categories are called 'cat'; give every class its own name",
        ),
        (
            lambda f: make_coco(
                f, categories=[{"id": 4, "name": "cat"}, {"id": 5, "name": "cow"}, {"id": 4, "name": "dog"}]
            ),
            "categories 'cat' and 'dog' have the same id 4; give every class its own id",
        ),
        (
            lambda f: resize(f, width=48, height=64),
            r"1\.png has 64x48 pixels \(width x height\), but its annotations are for 48x64; use the image that was",
        ),
        (lambda f: remove(f, "1.png"), r"1 of 2 images of .* are not in .* \(first: 1\.png\); check the images folder"),
    ],
)
def test_what_is_wrong_with_the_files_is_said_in_one_sentence(tmp_path, make, message):
    make(tmp_path)
    path, images = tmp_path / "annotations" / "instances_train.json", tmp_path / "train"
    with pytest.raises(InputError, match=message) as raised:
        CocoDataset(path, images, eval_pipeline((32, 32)))
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def rewrite(folder: Path, **changes: Any) -> None:
    make_coco(folder, [BOX])
    path = folder / "annotations" / "instances_train.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def resize(folder: Path, **size: int) -> Path:
    """Change the size of the first image in the json only."""
    path, _ = make_coco(folder, [BOX])
    content = json.loads(path.read_text())
    content["images"][0].update(size)
    path.write_text(json.dumps(content))
    return path


def remove(folder: Path, name: str) -> None:
    make_coco(folder)
    (folder / "train" / name).unlink()


def data_of(**options: Any) -> CocoDataModule:
    """Most of these tests look at files, not at what can be learned from them."""
    return CocoDataModule(resolution=(32, 32), batch_size=2, num_workers=0, **{"allow_empty": True, **options})


def lay_out(folder: Path, json_name: str, images_name: str, names: tuple[str, str] = ("train", "val")) -> Path:
    """Two splits, their files as these names say: the json, and the folder of the images; {} is the split's name."""
    for n, split in enumerate(names):
        entries = [{"id": 10 * n + 1}, {"id": 10 * n + 2}]
        path, images = make_coco(folder / "made", [{**BOX, "image_id": 10 * n + 1}], images=entries, split=split)
        place = folder / "data" / images_name.format(split)
        place.mkdir(parents=True, exist_ok=True)
        for image in images.iterdir():
            shutil.copy(image, place / image.name)
        target = folder / "data" / json_name.format(split)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder / "data"


LAYOUTS = [
    ("annotations/instances_{}2017.json", "{}2017"),
    ("annotations/instances_{}2017.json", "images/{}2017"),
    ("annotations/instances_{}.json", "{}"),
    ("annotations/instances_{}.json", "images"),
    ("annotations/instances_{}.json", "{}2017"),
    ("annotations/{}.json", "images/{}"),
    ("{}/_annotations.coco.json", "{}"),
    ("{}/annotations/instances_default.json", "{}/images/default"),
    ("{}/labels.json", "{}/data"),
    ("{}/result.json", "{}/images"),
    ("{}/annotations.json", "{}/images"),
    ("instances_{}.json", "images/{}"),
    ("{}.json", "images"),
    ("{}.json", "."),
    ("annotations_{}.json", "data/{}"),
]


@pytest.mark.parametrize(("json_name", "images_name"), LAYOUTS)
def test_the_usual_layouts_are_found(tmp_path, json_name, images_name):
    data = data_of(root=lay_out(tmp_path, json_name, images_name))
    data.setup("fit")
    assert data.class_names == ["cat", "dog"]
    assert data.datasets["train"].ids.tolist() == [1, 2]
    assert data.datasets["val"].ids.tolist() == [11, 12]
    assert next(iter(data.val_dataloader()))["image"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid"),
        ("train", "validation"),
        ("training", "val"),
        ("Train", "Val"),
        ("TRAIN", "VALID"),
        ("train", "dev"),
    ],
)
@pytest.mark.parametrize(("json_name", "images_name"), [LAYOUTS[2], LAYOUTS[6], LAYOUTS[11]])
def test_every_usual_name_of_a_split_is_found_in_either_case(tmp_path, names, json_name, images_name):
    data = data_of(root=lay_out(tmp_path, json_name, images_name, names))
    data.setup("fit")
    assert [data.datasets[split].ids.tolist() for split in ("train", "val")] == [[1, 2], [11, 12]]
    assert not data.datasets["val"].notes


def test_an_export_of_roboflow_is_validated_on_its_valid_folder_not_on_test(tmp_path):
    root = lay_out(tmp_path, "{}/_annotations.coco.json", "{}", ("train", "valid"))
    (tmp_path / "other").mkdir()
    shutil.copytree(
        lay_out(tmp_path / "other", "{}/_annotations.coco.json", "{}", ("test", "train")) / "test", root / "test"
    )
    data = data_of(root=root)
    data.setup("fit")
    assert data.datasets["val"].ids.tolist() == [11, 12]
    assert data.datasets["val"].folder == root / "valid"
    assert not data.datasets["val"].notes


def test_a_test_split_validates_as_a_last_resort_with_a_warning(tmp_path, caplog):
    data = data_of(root=lay_out(tmp_path, "{}/_annotations.coco.json", "{}", ("train", "test")))
    with caplog.at_level("WARNING"):
        data.setup("fit")
    assert data.datasets["val"].ids.tolist() == [11, 12]
    assert "has a test split and none for validation" in caplog.text


def test_what_was_looked_for_and_what_is_there_is_said(tmp_path):
    root = tmp_path / "data"
    make_coco(root, [BOX], split="train")
    (root / "labels").mkdir()
    (root / "labels" / "mine.json").write_text("{}")
    with pytest.raises(InputError) as raised:
        data_of(root=root).setup("fit")
    said = str(raised.value)
    assert said.startswith(
        f"no val annotations in {root}: looked for annotations/instances_SPLIT.json, annotations/SPLIT.json, "
    )
    assert "SPLIT/_annotations.coco.json" in said
    assert "where SPLIT is val2017, val, valid, validation, val2014, dev or test" in said
    assert "found annotations/ with instances_train.json, labels/ with mine.json, train/; " in said
    assert said.endswith(
        "set data.val_annotations=FILE.json data.val_images=FOLDER, or hold out a fifth of the training images with "
        "data.val_share=0.2"
    )


def test_a_folder_too_high_and_other_formats_are_answered_with_what_to_do(tmp_path):
    lay_out(tmp_path / "zip", "{}/_annotations.coco.json", "{}", ("train", "valid"))
    with pytest.raises(InputError, match=r"set data\.root=.*zip/data, which has them$"):
        data_of(root=tmp_path / "zip").setup("fit")
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("names: [cat]")
    with pytest.raises(InputError, match=r"data\.yaml belongs to YOLO's format, which data=yolo reads$"):
        data_of(root=tmp_path / "yolo").setup("fit")


def test_of_several_image_folders_the_one_with_the_files_is_used(tmp_path):
    root = lay_out(tmp_path, "annotations/instances_{}.json", "images/{}")
    for split in ("train", "val"):
        (root / split).mkdir()
    data = data_of(root=root)
    data.setup("fit")
    assert data.datasets["train"].folder == root / "images" / "train"
    shutil.rmtree(root / "images")
    with pytest.raises(
        InputError, match=r"2 of 2 images of .* are not in .*data/train \(first: 1\.png\), nor in .*data; check"
    ):
        data_of(root=root).setup("fit")


def test_the_four_paths_can_be_named(tmp_path):
    train, train_images = make_coco(tmp_path / "somewhere", split="train")
    val, val_images = make_coco(tmp_path / "else", split="val", images=[{"id": 5}])
    data = data_of(train_annotations=train, train_images=train_images, val_annotations=val, val_images=val_images)
    data.setup("fit")
    assert [len(data.datasets[split]) for split in ("train", "val")] == [2, 1]


def test_evaluation_needs_no_training_split(tmp_path):
    val, images = make_coco(tmp_path, split="val")
    data = data_of(val_annotations=val, val_images=images)
    data.setup("validate")
    assert list(data.datasets) == ["val"]


def test_both_splits_must_have_the_same_classes(tmp_path):
    make_coco(tmp_path, split="train")
    make_coco(tmp_path, split="val", categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "cow"}])
    data = data_of(root=tmp_path)
    with pytest.raises(InputError, match=r"instances_val\.json has the classes cat, cow but cat, dog are required"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no data given; set data.root=DIR, or set data.train_annotations"),
        ({"root": "absent"}, "data.root=.*absent is not an existing folder; give the folder that holds the data"),
        (
            {"root": "empty"},
            r"no train annotations in empty: looked for annotations/instances_SPLIT\.json, .*; found nothing; set data",
        ),
        (
            {"train_annotations": "absent.json"},
            "train annotations .*absent.json do not exist; set data.train_annotations=",
        ),
        (
            {"train_annotations": "made/annotations/instances_train.json", "train_images": "absent"},
            "train image folder .*absent does not exist; set data.train_images=FOLDER",
        ),
        ({"root": "made", "validate_on": "test"}, "data.validate_on='test' is unknown; choose val or train"),
        ({"root": "made", "test_mode": "fill"}, "test_mode='fill' is unknown; choose one of fit, keep, stretch"),
        (
            {"root": "made", "augment": {"warp": "crops"}},
            r"augment.warp='crops' is unknown; choose one of crop, jitter",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    make_coco(tmp_path / "made", split="train")
    make_coco(tmp_path / "made", split="val")
    with pytest.raises(InputError, match=message) as raised:
        data_of(**options).setup("fit")
    assert "\n" not in str(raised.value)


def test_limit_keeps_the_first_images_and_training_images_can_be_validated_on(shapes):
    data = data_of(root=shapes, limit=3, validate_on="train")
    data.setup("fit")
    train, val = data.datasets["train"], data.datasets["val"]
    assert len(train) == len(val) == 3
    assert torch.equal(train.ids, val.ids)
    whole = data_of(root=shapes)
    whole.setup("fit")
    for n in range(3):
        for name, value in whole.datasets["train"].objects(n).items():
            assert torch.equal(value, train.objects(n)[name])
    assert train.most_objects <= whole.datasets["train"].most_objects


def test_training_images_without_annotations_can_be_left_out(tmp_path):
    images = [{"id": n} for n in range(1, 6)]
    rows = [{**BOX, "image_id": 2}, {**BOX, "image_id": 4, "bbox": [1, 2, 3, 4]}, {**BOX, "image_id": 4}]
    for split in ("train", "val"):
        make_coco(tmp_path, rows, images=images, split=split)
    for options, train, val in (
        ({"skip_empty": True}, [2, 4], [1, 2, 3, 4, 5]),
        ({"skip_empty": True, "limit": 1}, [2], [1]),
        ({"skip_empty": True, "validate_on": "train"}, [2, 4], [2, 4]),
        ({}, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
    ):
        data = data_of(root=tmp_path, **options)
        data.setup("fit")
        assert [data.datasets[role].ids.tolist() for role in ("train", "val")] == [train, val]
        dataset = data.datasets["train"]
        assert [int(file.split("/")[-1][0]) for file in dataset.files] == train
        counts = {2: 1, 4: 2}
        assert [len(dataset.objects(n)["labels"]) for n in range(len(dataset))] == [counts.get(i, 0) for i in train]
        if 4 in train:
            assert dataset.objects(train.index(4))["boxes"][0].tolist() == [1, 2, 4, 6]


def test_training_data_without_any_annotation_is_refused_unless_that_is_wanted(tmp_path):
    crowd = {**BOX, "iscrowd": 1}
    for rows in ([], [crowd], [{"image_id": 1, "bbox": [5, 5, 10, -3], "id": 7}]):
        for split in ("train", "val"):
            make_coco(tmp_path, rows, split=split)
        with pytest.raises(
            InputError, match=r"instances_train\.json has no annotations to learn from.*; data\.allow_empty=true"
        ) as raised:
            data_of(root=tmp_path, allow_empty=False).setup("fit")
        assert ("of negative width or height (annotation 7)" in str(raised.value)) == bool(
            rows and rows[0] is not crowd
        )
        data_of(root=tmp_path, allow_empty=False).setup("validate")
        data_of(root=tmp_path, allow_empty=True).setup("fit")
    with pytest.raises(InputError, match=r"the train data has no annotations"):
        data_of(root=tmp_path, skip_empty=True).setup("fit")


def test_validation_data_without_any_annotation_is_told(tmp_path, caplog):
    make_coco(tmp_path, [BOX], split="train")
    make_coco(tmp_path, [], split="val")
    with caplog.at_level("WARNING"):
        data_of(root=tmp_path).setup("fit")
    assert "instances_val.json) has no annotations, so there is no AP to choose the best checkpoint by" in caplog.text


def test_keep_evaluates_image_by_image_and_refuses_mixed_batches(tmp_path):
    make_coco(tmp_path, split="train")
    make_coco(tmp_path, split="val", images=[{"id": 1}, {"id": 2, "height": 90, "width": 30}])
    data = data_of(root=tmp_path, test_mode="keep")
    data.setup("fit")
    assert [tuple(batch["image"].shape[2:]) for batch in data.val_dataloader()] == [(64, 96), (96, 32)]
    data = data_of(root=tmp_path, test_mode="keep", eval_batch_size=2)
    data.setup("fit")
    with pytest.raises(
        InputError, match=r"images of different sizes; data.test_mode=keep requires data.eval_batch_size=1"
    ):
        next(iter(data.val_dataloader()))


def test_the_largest_number_of_objects_does_not_count_crowds(tmp_path):
    dataset = open_dataset(tmp_path, BOX, BOX, {**BOX, "iscrowd": 1}, {**BOX, "image_id": 2})
    assert dataset.most_objects == 2


@pytest.mark.parametrize("name", ["bccd", "coco-tiny"])
def test_real_files_are_read_as_pycocotools_reads_them(data_folder, name):
    if not (data_folder / name).is_dir():
        pytest.skip(f"no {name} in {data_folder}")
    data = data_of(root=data_folder / name)
    data.setup("fit")
    for dataset in data.datasets.values():
        theirs = COCO(str(dataset.source))
        kept = [a for a in theirs.dataset["annotations"] if a["bbox"][2] > 0 and a["bbox"][3] > 0]
        assert len(dataset.fields["labels"]) == len(kept)
        assert int(dataset.fields["crowd"].sum()) == sum(a["iscrowd"] for a in kept)
        assert len(dataset) == len(theirs.getImgIds())
        for index in (0, len(dataset) // 2):
            image_id = int(dataset.ids[index])
            rows = [a for a in theirs.imgToAnns[image_id] if a["bbox"][2] > 0 and a["bbox"][3] > 0]
            corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in rows)]).reshape(-1, 4)
            np.testing.assert_allclose(dataset.objects(index)["boxes"], corners)
            names = [theirs.loadCats(a["category_id"])[0]["name"] for a in rows]
            assert [dataset.class_names[label] for label in dataset.objects(index)["labels"]] == names
            image = theirs.loadImgs(image_id)[0]
            assert read_image(dataset.files[index]).shape == (image["height"], image["width"], 3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content["annotations"].append("box"),
        lambda content: content["annotations"][0].update(image_id=[1]),
        lambda content: content["images"][0].update(width="wide"),
        lambda content: content["categories"].append({"id": "seven", "name": "seven"}),
    ],
)
def test_json_of_another_kind_is_refused_in_one_sentence(shapes, tmp_path, spoil):
    content = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    spoil(content)
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"odd\.json is not in COCO format .*") as raised:
        CocoDataset(path, shapes / "val", eval_pipeline((32, 32)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 1), (6, 3), (64, 8)])
def test_workers_use_half_of_the_processors_that_the_process_may_run_on(cores, workers, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert CocoDataModule("anywhere", resolution=(32, 32)).num_workers == workers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0 is too small; use at least 1"),
        ({"limit": 0}, "data.limit=0 is too small; use at least 1"),
        ({"num_workers": -1}, "data.num_workers=-1 is too small; use at least 0"),
        ({"cache": "moon"}, "data.cache='moon' is unknown; choose one of "),
        ({"validate_on": "test"}, "data.validate_on='test' is unknown; choose val or train"),
        ({"bit_depth": 99}, "bit_depth=99 does not fit 16-bit images; use 8 to 16"),
        ({"augment": {"mosaic": 2}}, "augment.mosaic=2.0 is not a fraction; choose a value from 0 to 1"),
    ],
)
def test_a_data_module_refuses_bad_options_in_python_too(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        CocoDataModule("nowhere", **options)
