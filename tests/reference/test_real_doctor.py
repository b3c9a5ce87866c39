"""Ten kinds of faults planted at once in a copy of real data are all found, and only there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from centernet.checks.doctor import examine
from centernet.checks.findings import Finding
from tests.places import DATA

Content = dict[str, Any]


def coco_sets(folder: Path) -> list[Path]:
    """Data sets in COCO's format with a training and a validation split, and with their images."""
    return sorted(
        root
        for root in folder.glob("*/")
        if len(list(root.glob("annotations/instances_train*.json"))) == 1 and list(root.glob("train*/*.jpg"))
    )


SETS = coco_sets(DATA)


class Copy:
    """A copy of a data set, to spoil."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = Path(shutil.copytree(root, folder / "data"))
        self.json, self.images, self.content = {}, {}, {}
        for split in ("train", "val"):
            (self.json[split],) = self.folder.glob(f"annotations/instances_{split}*.json")
            self.images[split] = self.folder / self.json[split].stem.removeprefix("instances_")
            self.content[split] = json.loads(self.json[split].read_text())

    def file(self, split: str, n: int) -> Path:
        return self.images[split] / self.content[split]["images"][n]["file_name"]

    def size(self, split: str, n: int) -> tuple[int, int]:
        row = self.content[split]["images"][n]
        return row["width"], row["height"]

    def examine(self) -> list[Finding]:
        for split, path in self.json.items():
            path.write_text(json.dumps(self.content[split]))
        return examine(["data=coco", f"data.root={self.folder}", "task=ctdet"], "all").findings


def plant(data: Copy) -> None:
    """Ten faults, each in images of its own."""
    train, val = data.content["train"], data.content["val"]
    sizes = {row["id"]: (row["width"], row["height"]) for row in val["images"] + train["images"]}
    of_image: dict[int, list[Content]] = {}
    for row in train["annotations"]:
        of_image.setdefault(row["image_id"], []).append(row)
    plain = [row for row in train["annotations"] if not row["iscrowd"]]
    for row, box in zip(plain[:3], ([5, 5, 0, 9], [5, 5, -3, 9], [5, 5, float("nan"), 9]), strict=True):
        row["bbox"] = box  # 1: no size
    outside = next(row for row in val["annotations"] if not row["iscrowd"])
    outside["bbox"] = [sizes[outside["image_id"]][0] + 5, 3, 10, 10]  # 2: outside its image
    for row in plain[3:6]:
        row["bbox"] = [*row["bbox"][:2], 2 * sizes[row["image_id"]][0], row["bbox"][3]]  # 3: reaches beyond it
    train["annotations"] += [{**row, "id": 10**9 + row["id"]} for row in plain[-2:]]  # 4: annotated twice
    shared = data.file("train", 10)
    val["images"][1] |= {  # 5: in both splits
        "file_name": f"../{shared.parent.name}/{shared.name}",
        **{name: train["images"][10][name] for name in ("width", "height")},
    }
    cut = data.file("train", 11)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])  # 6: truncated
    width, height = data.size("train", 12)
    train["images"][12] |= {"width": height, "height": width}  # 7: width and height exchanged
    width, height = data.size("val", 2)
    cv2.imwrite(str(data.file("val", 2)), np.full((height, width, 3), 90, np.uint8))  # 8: of one color
    again = cv2.imread(str(data.file("train", 13)))
    cv2.imwrite(str(data.images["train"] / "again.jpg"), again, [cv2.IMWRITE_JPEG_QUALITY, 60])
    train["images"][14] |= {  # 9: the same picture twice
        "file_name": "again.jpg",
        **{name: train["images"][13][name] for name in ("width", "height")},
    }
    leaked = cv2.imread(str(data.file("train", 15)))
    cv2.imwrite(str(data.file("val", 3)), cv2.resize(cv2.convertScaleAbs(leaked, alpha=0.98, beta=2), None, fx=2, fy=2))
    val["images"][3] |= {name: 2 * train["images"][15][name] for name in ("width", "height")}  # 10: in val, larger


FOUND = [
    # Some boxes of the image whose sides are exchanged extend beyond it as well, so their number is not asked for.
    *(("empty boxes", "train", "3 of "), ("outside", "val", "1 of "), ("outside", "train", "extend beyond")),
    *(("repeated boxes", "train", "2 of "), ("same files", "", "1 of "), ("unreadable", "train", "is truncated")),
    *(("sizes", "train", "width and height are exchanged"), ("blank", "val", "1 of ")),
    *(("near-duplicates", "train", "look like another one"), ("leak", "", "look like a training image")),
]


@pytest.mark.parametrize("root", SETS or [None], ids=lambda root: root.name if root else "none")
def test_ten_faults_at_once_are_all_found(root, tmp_path):
    if root is None:
        pytest.skip(f"no data set in COCO's format with images in {DATA} (set CENTERNET_DATA)")
    data = Copy(root, tmp_path)
    before = {(found.check, found.split): found.what for found in data.examine()}
    plant(data)
    after = {(found.check, found.split): found.what for found in data.examine()}
    for check, split, words in FOUND:
        assert words in after.get((check, split), "nothing"), (check, split)
        assert after[check, split] != before.get((check, split))
