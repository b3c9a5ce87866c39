"""The report of an evaluation: one page that stands alone, its figures, and the numbers as JSON."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np

from centernet.data.images import read_image
from centernet.metrics.analysis import analyze, curves_of, kinds_of, worst
from centernet.metrics.matching import match
from centernet.report import CAPTION, COLUMNS, THUMB, contact_sheet, write_report
from tests.metrics.test_analysis import BOX, NAMES, found, truth


class Page(HTMLParser):
    """Tags that were opened and not closed, sources of images, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def written(folder, names=NAMES, detections=None):
    objects = truth((0, BOX), (1, (200, 0, 300, 100)))
    detections = detections or found((0.9, 0, BOX), (0.7, 0, (200, 0, 300, 100)), (0.4, 1, (20, 300, 60, 340)))
    matches = match(detections, objects)
    curves = {name: curves_of(detections, objects, matches, label) for label, name in enumerate(names)}
    pixels = np.full((400, 400, 3), 90, np.uint8)
    gallery = [
        {**row, "name": "picture.jpg", "class": names[row["label"]], "pixels": pixels}
        for row in worst(detections, objects, matches, kinds_of(detections, objects, matches))
    ]
    result = analyze(np.array([1]), detections, objects, names)
    return write_report(folder, "n, <ctdet>: best.ckpt", result, curves, gallery)


def test_the_page_stands_alone_and_says_what_was_found(tmp_path):
    page = Page()
    page.feed(written(tmp_path / "analysis").read_text())
    assert page.open == []
    assert len(page.sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for words in ("n, <ctdet>: best.ckpt", "right place, wrong class", "1 images", "dog", "crowded"):
        assert words in page.text


def test_every_figure_is_a_picture_with_something_on_it(tmp_path):
    folder = written(tmp_path).parent
    for name in ("precision_recall", "f1", "errors", "confusion", "reliability", "worst"):
        image = read_image(folder / f"{name}.png")
        assert image.shape[0] > 150
        assert image.std() > 5


def test_numbers_that_are_not_defined_are_null(tmp_path):
    folder = written(tmp_path, [*NAMES, "cow"]).parent
    content = json.loads((folder / "analysis.json").read_text())
    assert content["classes"]["cow"]["AP50"] is None
    assert content["classes"]["cat"]["objects"] == 1
    assert "1 classes without objects are not shown" in (folder / "report.html").read_text()


def test_without_errors_there_is_no_gallery(tmp_path):
    perfect = found((0.9, 0, BOX), (0.7, 1, (200, 0, 300, 100)))
    path = written(tmp_path, detections=perfect)
    assert not (path.parent / "worst.png").exists()
    assert "None." in path.read_text()


def test_a_thumbnail_shows_the_box_and_what_is_around_it():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[40:60, 40:60] = 255
    row = {"pixels": pixels, "box": [40, 40, 60, 60], "kind": "missed", "class": "cat", "score": None, "name": "ä.png"}
    sheet = contact_sheet([row] * (COLUMNS + 1))
    assert sheet.shape == (2 * (THUMB + 2 * CAPTION + 6), COLUMNS * (THUMB + 6), 3)
    middle = 3 + THUMB // 2
    assert (sheet[middle, middle] == 255).all()
    assert (sheet[3 + 8, middle] == 0).all()
