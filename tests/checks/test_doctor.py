"""The check of data: a clean set has no finding, and every planted fault is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from centernet.checks.doctor import Report, examine
from centernet.checks.findings import CHECKS, LEVELS, told
from centernet.checks.images import near_duplicates
from centernet.checks.page import SECTIONS, write_page
from centernet.errors import InputError
from tests import formats
from tests.places import ROOT
from tests.test_report import Page
from tests.test_scripts import script  # noqa: F401  a fixture

HEIGHT, WIDTH = 96, 128
IMAGES = {"train": 12, "val": 6}
# Of every image, two of each class: some reach the right and the lower border.
BOXES = ((4, 6, 40, 30), (84, 60, 44, 36), (10, 50, 50, 40), (70, 8, 30, 34))
OVERRIDES = ["data=coco", f"resolution=[{HEIGHT},{WIDTH}]", "task=ctdet"]

Content = dict[str, Any]


def pattern(seed: int) -> np.ndarray:
    """An image that is unlike those of other seeds at any scale."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(blocks, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def save(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """A small data set without faults."""
    folder = tmp_path_factory.mktemp("clean")
    (folder / "annotations").mkdir()
    for split, count in IMAGES.items():
        (folder / split).mkdir()
        images, annotations = [], []
        for n in range(count):
            save(folder / split / f"{n}.png", pattern(n + 100 * (split == "val")))
            images.append({"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH})
            for place, box in enumerate(BOXES):
                annotations.append({"image_id": n, "category_id": place % 2, "bbox": list(box), "iscrowd": 0})
        rows = [{"id": n, **row} for n, row in enumerate(annotations)]
        content = {"images": images, "annotations": rows, "categories": [{"id": n, "name": "ab"[n]} for n in (0, 1)]}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


class Planted:
    """A copy of the clean set to spoil: the content of its json files, written by ``examine``."""

    def __init__(self, clean: Path, folder: Path) -> None:
        self.folder = Path(shutil.copytree(clean, folder / "data"))
        self.train, self.val = (json.loads(self._json(split).read_text()) for split in IMAGES)

    def _json(self, split: str) -> Path:
        return self.folder / "annotations" / f"instances_{split}.json"

    def examine(self, *overrides: str, images: str = "sample") -> Report:
        for split in IMAGES:
            self._json(split).write_text(json.dumps(getattr(self, split)))
        return examine([*OVERRIDES, f"data.root={self.folder}", *overrides], images)

    def each_box(self, change: Callable[[float, float, float, float], list[float]]) -> None:
        for row in self.train["annotations"]:
            row["bbox"] = change(*row["bbox"])


@pytest.fixture
def planted(clean, tmp_path) -> Planted:
    return Planted(clean, tmp_path)


def test_a_clean_set_has_no_finding_and_passes_everything(planted):
    report = planted.examine(images="all")
    assert report.findings == []
    assert not report.is_serious
    assert report.fine == [CHECKS[name] for name in CHECKS if name != "reader"]


def test_without_opening_images_nothing_is_said_about_them(planted):
    (planted.folder / "train" / "0.png").write_bytes(b"not an image")
    report = planted.examine(images="none")
    assert report.findings == []
    assert CHECKS["unreadable"] not in report.fine
    assert CHECKS["format"] in report.fine


def corners(data: Planted) -> None:
    data.each_box(lambda x, y, w, h: [x, y, x + w, y + h])


def fractions(data: Planted) -> None:
    data.each_box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT])


def centers(data: Planted) -> None:
    data.each_box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h])


def empty_boxes(data: Planted) -> None:
    for n, box in enumerate(([5, 5, 0, 9], [5, 5, -3, 9], [5, 5, float("nan"), 9])):
        data.train["annotations"][n]["bbox"] = box


def outside(data: Planted) -> None:
    data.val["annotations"][0]["bbox"] = [WIDTH + 5, 3, 10, 10]


def beyond(data: Planted) -> None:
    for row in data.train["annotations"][:3]:
        row["bbox"][2] = WIDTH


def repeated(data: Planted) -> None:
    data.train["annotations"] += [{**row, "id": 900 + row["id"]} for row in data.train["annotations"][:2]]


def absent_from_val(data: Planted) -> None:
    data.val["annotations"] = [row for row in data.val["annotations"] if row["category_id"] == 0]


def few(data: Planted) -> None:
    rows = data.train["annotations"]
    rows[:] = [row for row in rows if row["category_id"] == 0] + [row for row in rows if row["category_id"] == 1][:4]


def no_objects(data: Planted) -> None:
    data.val["annotations"] = []


def small(data: Planted) -> None:
    for n, row in enumerate(data.train["annotations"]):
        row["bbox"] = row["bbox"] if n % 4 else [20 + n, 20 + n, 3, 3]


def collisions(data: Planted) -> None:
    for row in data.train["annotations"][:4]:
        x, y, w, h = row["bbox"]
        data.train["annotations"].append({**row, "id": 900 + row["id"], "bbox": [x + 4, y + 4, w - 8, h - 8]})


def mostly_empty(data: Planted) -> None:
    data.train["annotations"] = [row for row in data.train["annotations"] if row["image_id"] < 5]


def listed_twice(data: Planted) -> None:
    data.train["images"].append({**data.train["images"][0], "id": 77})


def in_both_splits(data: Planted) -> None:
    data.val["images"][1]["file_name"] = "../train/3.png"


def truncated(data: Planted) -> None:
    path = data.folder / "train" / "2.png"
    path.write_bytes(path.read_bytes()[:-30])


def exchanged(data: Planted) -> None:
    data.train["images"][4] |= {"height": WIDTH, "width": HEIGHT}


def turned(data: Planted) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pattern(1)).save(data.folder / "train" / "1.jpg", exif=exif, quality=95)
    data.train["images"][1] |= {"file_name": "1.jpg"}


def blank(data: Planted) -> None:
    save(data.folder / "val" / "1.png", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


def copied(data: Planted) -> None:
    Image.fromarray(pattern(0)).save(data.folder / "train" / "copy.jpg", quality=80)
    data.train["images"][5]["file_name"] = "copy.jpg"


def leaked(data: Planted) -> None:
    brighter = cv2.convertScaleAbs(pattern(7), alpha=0.98, beta=2)
    larger = cv2.resize(brighter, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_LINEAR)
    save(data.folder / "val" / "2.png", larger)
    data.val["images"][2] |= {"height": 2 * HEIGHT, "width": 2 * WIDTH}


def unknown_class(data: Planted) -> None:
    data.train["annotations"][3]["category_id"] = 9


FAULTS = [
    (corners, "format", "serious", "train", "corners [x1, y1, x2, y2]"),
    (fractions, "format", "serious", "train", "fractions of the image's size"),
    (centers, "format", "serious", "train", "centers and sizes"),
    (empty_boxes, "empty boxes", "warning", "train", "3 of 48 (6.2 %) boxes cannot be used (1 not finite, 1 of neg"),
    (outside, "outside", "warning", "val", "1 of 24 (4.2 %) boxes lie outside their images"),
    (beyond, "outside", "warning", "train", "3 of 48 (6.2 %) boxes extend beyond their images"),
    (repeated, "repeated boxes", "warning", "train", "2 of 50 (4 %) objects are annotated twice"),
    (absent_from_val, "classes", "warning", "val", "1 classes have no objects in the validation split"),
    (few, "few objects", "warning", "train", "1 classes have fewer than 10 training objects (b 4)"),
    (no_objects, "objects", "serious", "val", "no image has an object"),
    (small, "small objects", "warning", "train", "12 of 48 (25 %) objects are smaller than a cell of 4 pixels"),
    (collisions, "collisions", "warning", "train", "4 of 52 (7.7 %) objects have their center in the cell"),
    (mostly_empty, "empty images", "note", "train", "7 of 12 (58 %) images have no object"),
    (listed_twice, "same files", "warning", "train", "1 of 13 (7.7 %) entries name an image file"),
    (in_both_splits, "same files", "serious", "", "1 of 6 (17 %) validation images are training images"),
    (truncated, "unreadable", "serious", "train", "2.png is truncated"),
    (exchanged, "sizes", "serious", "train", "in 1 of them width and height are exchanged"),
    (turned, "turned", "note", "train", "and 1 of them are annotated as they are stored"),
    (blank, "blank", "warning", "val", "1 of 6 (17 %) images that were opened are of one color"),
    (copied, "near-duplicates", "warning", "train", "1 of 12 (8.3 %) images that were opened look like another one"),
    (leaked, "leak", "serious", "", "1 of 6 (17 %) validation images that were opened look like a training image"),
    (unknown_class, "refused", "serious", "train", "annotation 3 refers to category 9"),
]


@pytest.mark.parametrize(
    ("plant", "check", "level", "split", "words"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS]
)
def test_a_planted_fault_is_found(planted, plant, check, level, split, words):
    plant(planted)
    report = planted.examine()
    (found,) = [each for each in report.findings if (each.check, each.split) == (check, split)]
    assert found.level == level
    assert words in found.what
    assert found.do
    assert report.is_serious == (level == "serious")
    if check != "refused":
        assert CHECKS[check] not in report.fine


def test_every_check_has_a_fault_that_it_finds():
    elsewhere = {"task", "crowded images", "reader"}  # below
    assert {fault[1] for fault in FAULTS} | elsewhere == set(CHECKS)


def test_more_objects_than_are_detected_are_told_with_the_option_that_helps(planted):
    report = planted.examine("task.heatmap.max_detections=3")
    (train, val) = report.findings
    assert (train.check, val.check) == ("crowded images", "crowded images")
    assert "12 of 12 (100 %) images have more than the 3 objects" in train.what
    assert "12 of 48 (25 %) objects are missed" in train.what
    assert train.do == "set task.heatmap.max_detections=100"


def test_a_task_that_needs_other_data_is_a_finding(planted):
    report = planted.examine("task=multi_pose")
    assert {(each.check, each.level) for each in report.findings} == {("task", "serious")}
    assert "needs objects with joints" in report.findings[0].what


def test_what_the_reader_has_to_say_is_told(planted):
    for each in planted.train["annotations"]:
        each["keypoints"] = [1, 1, 2, 5, 5, 2]
    for content in (planted.train, planted.val):
        for each in content["categories"]:
            each["keypoints"] = ["head", "tail"]
    found = planted.examine().findings
    assert [(each.check, each.level, each.split) for each in found] == [("reader", "note", each) for each in IMAGES]
    assert found[0].what.startswith("none of the 2 joints has a left-right pair")


def test_the_worst_comes_first_and_everything_says_what_to_do(planted):
    for plant in (leaked, repeated, truncated, turned):
        plant(planted)
    report = planted.examine()
    levels = [LEVELS.index(each.level) for each in report.findings]
    assert levels == sorted(levels)
    assert len(levels) == 5  # copies of a box are in one cell, too
    text = told(report.findings, report.fine)
    assert text.startswith("SERIOUS: train: ")
    assert text.count("-> ") == 5
    assert "such as train/2.png" in text


def test_the_page_stands_alone_with_all_its_sections_and_the_json_says_the_same(planted, tmp_path):
    for plant in (leaked, repeated, truncated):
        plant(planted)
    report = planted.examine()
    path = write_page(tmp_path / "check", report)
    text, page = path.read_text(), Page()
    page.feed(text)
    assert page.open == []
    assert [text.index(f"<h2>{name}</h2>") for name in SECTIONS] == sorted(
        text.index(f"<h2>{n}</h2>") for n in SECTIONS
    )
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 9  # four plots, samples of two splits, examples of three findings
    content = json.loads((path.parent / "check.json").read_text())
    assert [each["check"] for each in content["findings"]] == [each.check for each in report.findings]
    assert content["serious"] is True
    assert content["splits"]["train"]["classes"] == {"a": 25, "b": 25}
    assert all(each.what in page.text for each in report.findings)


def test_a_page_of_data_that_cannot_be_read_says_so(planted, tmp_path):
    unknown_class(planted)
    planted.val["annotations"][0]["category_id"] = 9
    text = write_page(tmp_path, planted.examine()).read_text()
    assert text.count('class="finding serious"') == 2
    assert "Not everything could be checked." in text


def test_the_resolution_that_would_do_is_said(planted):
    small(planted)
    (found,) = [each for each in planted.examine().findings if each.check == "small objects"]
    assert found.do.startswith("set resolution=[192,256]")


def test_pictures_are_alike_after_scaling_and_compression_only():
    pictures = [cv2.resize(cv2.cvtColor(pattern(n), cv2.COLOR_RGB2GRAY), (32, 32)) for n in range(30)]
    noise = np.random.default_rng(0).integers(-2, 3, (32, 32))
    pictures.append(np.clip(pictures[4].astype(int) + noise, 0, 255).astype(np.uint8))
    assert near_duplicates(np.array(pictures)) == [(4, 30)]


@pytest.mark.parametrize(
    ("data", "fixture"),
    [("data=shapes", "shapes"), ("data=figures", "figures"), ("data=cuboids", "cuboids")],
)
def test_the_built_in_data_has_nothing_serious(data, fixture, request):
    root = request.getfixturevalue(fixture)
    task = {"figures": ["task=multi_pose_iou"], "cuboids": ["task=ddd_geo"]}.get(fixture, [])
    report = examine([data, f"data.root={root}", "data.train_count=24", "data.val_count=8", *task])
    assert set(report.splits) == {"train", "val"}
    assert not report.is_serious, told(report.findings, [])


def test_folders_in_kittis_layout_are_examined_too(cuboids):
    report = examine(["data=kitti", f"data.root={cuboids}", "task=ddd"], "none")
    assert len(report.splits["train"].files) == 24
    assert CHECKS["outside"] in report.fine
    assert CHECKS["empty boxes"] not in report.fine  # its reader drops them
    assert not report.is_serious, told(report.findings, [])


def test_data_that_is_not_divided_is_examined_in_its_parts(clean, tmp_path):
    shutil.copytree(clean / "train", tmp_path / "images")
    content = json.loads((clean / "annotations" / "instances_train.json").read_text())
    for row in content["annotations"]:
        if row["bbox"] == list(BOXES[0]):
            row["bbox"] = [*BOXES[0][:2], 0, BOXES[0][3]]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    report = examine([*OVERRIDES, f"data.root={tmp_path}", "data.val_share=0.3"], "none")
    found = {finding.split: finding.count for finding in report.findings if finding.check == "empty boxes"}
    assert found == {name: len(split.files) for name, split in report.splits.items()}
    assert sum(found.values()) == IMAGES["train"]


@pytest.mark.parametrize(
    "write",
    [formats.write_coco, formats.write_voc, formats.write_yolo, formats.write_createml],
    ids=lambda f: f.__name__,
)
def test_every_format_is_examined(write, tmp_path):
    report = examine(
        [*(word for word in OVERRIDES if not word.startswith("data=")), "data=auto", f"data.root={write(tmp_path)}"]
    )
    assert {name: len(split.boxes) for name, split in report.splits.items()} == {"train": 4, "val": 2}
    assert CHECKS["outside"] in report.fine


def test_the_command_ends_with_a_status_and_names_the_page(script, planted):  # noqa: F811
    planted.examine(images="none")
    fine = script("check_data.py", *OVERRIDES, f"data.root={planted.folder}")
    assert fine.code == 0, fine.output
    assert "the page: runs/check/check.html" in fine.output
    corners(planted)
    planted.examine(images="none")
    spoiled = script("check_data.py", *OVERRIDES, f"data.root={planted.folder}", "--images", "none", "--out", "there")
    assert spoiled.code == 1
    assert "SERIOUS: train: the 48 boxes are probably corners" in spoiled.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=coco", "data.root=nowhere"], "data.root=nowhere is not an existing folder"),
        (["data=coco", "data.rot=x"], "data.rot is unknown; did you mean data.root?"),
        (["data=coco"], "no data given"),
    ],
)
def test_bad_input_is_an_error(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        examine(words)
    assert message in str(error.value)


def test_the_choices_of_images_are_those_of_the_package():
    from centernet.checks.images import CHOICES

    assert str(CHOICES) in (ROOT / "scripts" / "check_data.py").read_text().replace("'", '"').replace('"', "'")
