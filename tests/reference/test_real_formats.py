"""Real data in COCO's format, written again as Pascal VOC and as YOLO: the same training samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
import torch
import yaml

from centernet.data.annotated import AnnotatedDataModule
from centernet.data.coco import CocoDataModule
from centernet.data.voc import VocDataModule
from centernet.data.yolo import YoloDataModule
from tests.places import DATA

SPLITS = ("train", "val")
OPTIONS: dict[str, Any] = {"resolution": (128, 160), "batch_size": 2, "num_workers": 0, "cache": "none"}


def usual_sets(folder: Path) -> list[Path]:
    """Data sets in COCO's format with whole-number boxes, which VOC's files can hold."""
    return sorted(path for path in folder.glob("*/") if all(whole(path, split) for split in SPLITS))


def whole(root: Path, split: str) -> bool:
    path = root / "annotations" / f"instances_{split}.json"
    return path.is_file() and all(
        float(side).is_integer() for row in json.loads(path.read_text())["annotations"] for side in row["bbox"]
    )


SETS = usual_sets(DATA)
every_set = pytest.mark.parametrize("root", SETS or [None], ids=lambda root: root.name if root else "none")


def scenes(root: Path, split: str) -> Iterator[tuple[Path, dict[str, Any], list[tuple[str, list[float]]]]]:
    """Every image with its row and its objects: class and box (x, y, width, height)."""
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    for image in content["images"]:
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        yield root / split / image["file_name"], image, [(names[row["category_id"]], row["bbox"]) for row in rows]


def write_voc(root: Path, out: Path) -> VocDataModule:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (out / folder).mkdir(parents=True)
    for split in SPLITS:
        stems = []
        for file, image, objects in scenes(root, split):
            (out / "JPEGImages" / file.name).symlink_to(file)
            # The first pixel has the number 1; the last one is part of the box.
            boxes = "".join(
                f"<object><name>{escape(name)}</name><bndbox><xmin>{x + 1:.0f}</xmin><ymin>{y + 1:.0f}</ymin>"
                f"<xmax>{x + w:.0f}</xmax><ymax>{y + h:.0f}</ymax></bndbox></object>"
                for name, (x, y, w, h) in objects
            )
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
            text = f"<annotation><filename>{file.name}</filename>{size}{boxes}</annotation>"
            (out / "Annotations" / f"{file.stem}.xml").write_text(text)
            stems.append(file.stem)
        (out / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
    return VocDataModule(out, **OPTIONS)


def write_yolo(root: Path, out: Path) -> YoloDataModule:
    names: list[str] = []
    for split in SPLITS:
        for kind in ("images", "labels"):
            (out / kind / split).mkdir(parents=True)
        for file, image, objects in scenes(root, split):
            (out / "images" / split / file.name).symlink_to(file)
            names += sorted({name for name, _ in objects} - set(names))
            lines = [
                f"{names.index(name)} {(x + w / 2) / image['width']!r} {(y + h / 2) / image['height']!r} "
                f"{w / image['width']!r} {h / image['height']!r}\n"
                for name, (x, y, w, h) in objects
            ]
            (out / "labels" / split / f"{file.stem}.txt").write_text("".join(lines))
    content = {**{split: f"images/{split}" for split in SPLITS}, "names": names}
    (out / "data.yaml").write_text(yaml.safe_dump(content))
    return YoloDataModule(out, **OPTIONS)


def sample_of(data: AnnotatedDataModule, split: str, name: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pixels and objects of the sample of this image file, drawn from the same random numbers every time."""
    dataset = data.datasets[split]
    place = [Path(file).name for file in dataset.files.tolist()].index(name)
    torch.manual_seed(1)
    sample = dataset[place]
    return sample["image"], dict(sample["objects"])


@every_set
@pytest.mark.parametrize("write", [write_voc, write_yolo])
def test_a_converted_set_gives_the_same_training_samples(root, write, tmp_path):
    if root is None:
        pytest.skip("no data set in COCO's format with whole-number boxes")
    wanted, found = CocoDataModule(root, **OPTIONS), write(root, tmp_path / "data")
    for data in (wanted, found):
        data.setup("fit")
    assert sorted(found.class_names) == sorted(wanted.class_names)
    classes = torch.tensor([wanted.class_names.index(name) for name in found.class_names])
    count = 0
    for split in SPLITS:
        files = [Path(file).name for file in wanted.datasets[split].files.tolist()]
        assert sorted(Path(file).name for file in found.datasets[split].files.tolist()) == sorted(files)
        for name in files:
            image, objects = sample_of(wanted, split, name)
            other, others = sample_of(found, split, name)
            assert torch.equal(image, other), name
            assert torch.equal(classes[others["labels"]], objects["labels"]), name
            assert torch.allclose(others["boxes"], objects["boxes"], atol=1e-3), name
            count += len(objects["labels"])
    assert count
