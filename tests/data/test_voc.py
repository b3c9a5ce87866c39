"""Pascal VOC's files as people have them: which images are read, what objects become, what is refused with a word."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given

from centernet.data.voc import VocDataModule, read_sets
from centernet.data.voc_format import CLASSES, read_xml
from centernet.errors import InputError
from centernet.models.originals import VOC_CLASSES
from tests import formats
from tests.data.mangled import mangled
from tests.formats import Scene, Thing


def data_of(root: Path, **options: Any) -> VocDataModule:
    return VocDataModule(root=root, resolution=(32, 32), batch_size=2, num_workers=0, **options)


def opened(root: Path, **options: Any) -> VocDataModule:
    data = data_of(root, **options)
    data.setup("fit")
    return data


def scenes(*names: str) -> list[Scene]:
    return [Scene(name, [Thing("cat", (4, 6, 24, 16))]) for name in names]


def devkit(root: Path) -> Path:
    """The devkit of both years; the lists of images that are tested name some of 2007."""
    formats.write_voc(root / "VOC2007", {"trainval": scenes("000001", "000002"), "test": scenes("000003")})
    formats.write_voc(root / "VOC2012", {"trainval": scenes("2012_000001")})
    for year in ("VOC2007", "VOC2012"):
        for name, listed in (("train", "1"), ("val", "2")):
            lists = root / year / "ImageSets" / "Main"
            (lists / f"cat_{name}.txt").write_text("")
            if year == "VOC2007":
                (lists / f"{name}.txt").write_text(f"00000{listed}\n")
    return root


def names_of(data: VocDataModule) -> list[list[str]]:
    return [data.datasets[split].image_ids for split in ("train", "val")]


@pytest.mark.parametrize("given", ["VOCdevkit", ""])
def test_the_devkit_trains_on_both_years_and_is_tested_on_2007(tmp_path, given, caplog):
    devkit(tmp_path / "VOCdevkit")
    with caplog.at_level("INFO"):
        data = opened(tmp_path / given)
    assert names_of(data) == [["000001", "000002", "2012_000001"], ["000003"]]
    assert data.class_names == list(CLASSES) == list(VOC_CLASSES)
    assert ": 2007_trainval, 2012_trainval for training" in caplog.text
    assert ": 2007_test for validation" in caplog.text
    assert data.datasets["train"][0]["image"].shape == (3, 32, 32)


def test_one_year_is_enough(tmp_path):
    devkit(tmp_path)
    data = opened(tmp_path / "VOC2007")
    assert names_of(data) == [["000001", "000002"], ["000003"]]
    assert "has no VOC2012, so that 2007_trainval is trained on, and less than" in data.datasets["train"].notes[0]
    assert not opened(tmp_path / "VOC2007", train_split="2007_trainval").datasets["train"].notes
    assert not opened(tmp_path).datasets["train"].notes


def test_years_and_lists_are_chosen(tmp_path):
    devkit(tmp_path)
    assert names_of(opened(tmp_path, train_split="2007_train", val_split=["2007_val"])) == [["000001"], ["000002"]]
    (tmp_path / "mine.txt").write_text("000002\n2012_000001\n")
    chosen = opened(tmp_path, train_split="mine.txt", val_split="test")
    assert names_of(chosen) == [["000002", "2012_000001"], ["000003"]]


def test_a_list_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    devkit(tmp_path)
    with pytest.raises(
        InputError, match=r"^data\.train_split: 2009_train is not in .*; use one of its lists: 2007_test, "
    ):
        opened(tmp_path, train_split="2009_train")
    (tmp_path / "mine.txt").write_text("000009\n")
    with pytest.raises(
        InputError, match=r"1 images of .*mine\.txt have no annotation in .* \(000009\); correct the list"
    ):
        opened(tmp_path, train_split="mine.txt")


def test_a_test_without_annotations_is_not_taken_for_validation(tmp_path):
    formats.write_voc(tmp_path / "VOC2012", {"train": scenes("a"), "val": scenes("b"), "trainval": scenes("a", "b")})
    (tmp_path / "VOC2012" / "ImageSets" / "Main" / "test.txt").write_text("kept_back\n")
    assert names_of(opened(tmp_path)) == [["a"], ["b"]]


def test_data_of_ones_own_has_its_own_classes_in_alphabetical_order(tmp_path):
    data = opened(formats.write_voc(tmp_path))
    assert data.class_names == formats.CLASSES


def test_each_split_may_have_a_folder_with_xml_beside_the_images(tmp_path):
    for split, name in (("train", "a"), ("valid", "b")):
        formats.write_images(tmp_path / split, scenes(name))
        (tmp_path / split / f"{name}.xml").write_text(formats.voc_xml(scenes(name)[0]))
    assert names_of(opened(tmp_path)) == [["a"], ["b"]]


def test_data_without_lists_is_divided_on_request(tmp_path):
    formats.write_voc(tmp_path, {"train": [scenes(f"i{n}")[0] for n in range(10)]})
    with pytest.raises(
        InputError, match=r"is not divided into training and validation; data\.val_share=0\.2 holds out"
    ):
        opened(tmp_path)
    assert [len(names) for names in names_of(opened(tmp_path, val_share=0.3))] == [7, 3]


# Objects.


HARD = Scene("hard", [Thing("cat", (4, 6, 24, 16), difficult=True), Thing("dog", (30, 10, 60, 40), truncated=True)])


def test_difficult_objects_are_trained_or_not_and_never_evaluated(tmp_path):
    root = formats.write_voc(tmp_path, {"train": [HARD], "val": [HARD._replace(name="other")]})
    for trained in (True, False):
        data = opened(root, train_difficult=trained)
        assert data.datasets["train"].objects(0)["crowd"].tolist() == [not trained, False]
        assert data.datasets["val"].objects(0)["crowd"].tolist() == [True, False]
        for dataset in data.datasets.values():
            assert dataset.objects(0)["difficult"].tolist() == [True, False]
            assert dataset.objects(0)["truncated"].tolist() == [False, True]
    assert opened(root).datasets["train"].describe() == ["2 classes (objects: cat 1, dog 1)"]


def test_convention_the_first_pixel_is_1_and_the_last_one_is_part_of_the_box(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(xml_of(box="<xmin>1</xmin><ymin>1</ymin><xmax>64</xmax><ymax>48</ymax>"))
    (thing,) = read_xml(path).objects
    assert thing.xywh == [0, 0, 64, 48]  # all of the image


def test_boxes_of_parts_are_not_those_of_the_object(tmp_path):
    path = tmp_path / "a.xml"
    part = "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    path.write_text(xml_of(extra=part))
    assert [(thing.name, thing.corners) for thing in read_xml(path).objects] == [("cat", (5, 7, 24, 16))]


def test_boxes_without_size_are_dropped_with_their_file_and_number(tmp_path):
    root = formats.write_voc(tmp_path)
    flat = "<xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax>"
    (root / "Annotations" / "a.xml").write_text(xml_of(box=flat))
    dataset = opened(root).datasets["train"]
    assert dataset.notes[0].endswith("dropped 1 of 3 boxes: 1 without width or height (annotation a.xml object 1)")


# What is refused.


def xml_of(
    name: str = "<name>cat</name>",
    box: str = "<xmin>5</xmin><ymin>7</ymin><xmax>24</xmax><ymax>16</ymax>",
    extra: str = "",
) -> str:
    return f"<annotation><object>{extra}{name}<bndbox>{box}</bndbox></object></annotation>"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not valid XML (no element found: line 1, column 0); replace or correct it"),
        ("<annotation>", "is not valid XML (no element found: line 1, column 12); replace or correct it"),
        ("<html></html>", "has the root <html>, and VOC's is <annotation>; give annotations of Pascal VOC"),
        (xml_of(name=""), "object 1 has no name; VOC requires <name>CLASS</name>"),
        (xml_of(box="<xmin>5</xmin>"), "object 1 (cat) has ymin ''; VOC requires a number of pixels, counted from 1"),
        (xml_of(box="<xmin>five</xmin>"), "object 1 (cat) has xmin 'five'; VOC requires a number of pixels, counted f"),
        ("<annotation><object><name>cat</name></object></annotation>", "object 1 (cat) has no bndbox; VOC requires xm"),
        (xml_of(extra="<difficult>very</difficult>"), "object 1 (cat) has difficult 'very'; VOC requires 0 or 1"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "is not valid XML (unknown encoding: klingon); re"),
    ],
)
def test_a_damaged_xml_is_refused_with_its_name_and_object(tmp_path, text, reason):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_xml(path)
    assert str(error.value).removeprefix(f"annotation {path}").lstrip(": ").startswith(reason)


def test_missing_files_are_counted(tmp_path):
    root = formats.write_voc(tmp_path)
    (root / "JPEGImages" / "a.png").unlink()
    with pytest.raises(
        InputError, match=r"1 of 4 images of .* are not in .*JPEGImages \(first: a\); complete the folder"
    ):
        opened(root)
    (root / "Annotations" / "b.xml").unlink()
    with pytest.raises(InputError, match=r"1 of 4 images of train have no xml in .*Annotations \(first: b\); complete"):
        opened(root)


def test_sets_with_common_images_and_classes_that_differ_are_refused(tmp_path):
    root = formats.write_voc(tmp_path)
    with pytest.raises(InputError, match=r"4 images are in .* more than once \(a, b, c, d\); use sets without common"):
        opened(root, train_split=["train", "train"])
    data = data_of(root)
    data.class_names = ["cat", "bird"]
    with pytest.raises(InputError, match=r"has objects of dog, and the classes are cat, bird; use the same classes"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("root", "reason"), [(None, "no data given; set data.root=DIR to VOCdevkit"), ("x", "not an e")]
)
def test_a_folder_is_needed(root, reason):
    with pytest.raises(InputError, match=reason):
        opened(root)


def test_a_folder_without_the_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no files of Pascal VOC in .*: looked for Annotations/\*\.xml in it"):
        opened(tmp_path)


XML = formats.voc_xml(formats.SCENES["train"][0]).encode()


@given(data=mangled(XML))
def test_whatever_an_xml_holds_it_is_read_or_refused_with_a_sentence(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mangled.xml"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        assert all(thing.name and len(thing.xywh) == 4 for thing in read_xml(path).objects)


@given(data=mangled(b"a\nb\nc\nd  1\n"))
def test_whatever_a_list_holds_its_images_are_read_or_it_is_refused_with_a_sentence(data, tmp_path_factory):
    root = tmp_path_factory.getbasetemp() / "mangled_list"
    if not root.is_dir():
        formats.write_voc(root)
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(data)
    with contextlib.suppress(InputError):
        (only,) = data_of(root).locate("train")
        read_sets([only], "the list")


def test_a_name_that_is_too_long_for_a_file_is_no_image(tmp_path):
    root = formats.write_voc(tmp_path)
    lists = root / "ImageSets" / "Main"
    for name in ("train", "test"):
        (lists / f"{name}.txt").write_text("a" * 5000)
    with pytest.raises(InputError, match=r"1 of 1 images of train have no xml in "):
        opened(root)


# Results.


def test_results_are_vocs_text_files_with_a_line_per_detection(tmp_path):
    devkit(tmp_path / "voc")
    dataset = opened(tmp_path / "voc").datasets["val"]
    found = {
        "boxes": torch.tensor([[0.0, 1.0, 10.0, 20.0], [3.0, 4.0, 5.0, 6.0]]),
        "scores": torch.tensor([0.9, 0.25]),
        "labels": torch.tensor([7, 14]),
    }
    dataset.write_results(tmp_path, {0: found})
    assert (tmp_path / "results" / "comp4_det_test_cat.txt").read_text() == "000003 0.900000 1.00 2.00 10.00 20.00\n"
    assert (tmp_path / "results" / "comp4_det_test_person.txt").read_text() == "000003 0.250000 4.00 5.00 5.00 6.00\n"
    assert len(list((tmp_path / "results").iterdir())) == 20
    assert (tmp_path / "detections.json").is_file()
