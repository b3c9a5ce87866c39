"""Data in each format from the command line: trained, evaluated, evaluated on other data of the same format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import formats, tiny

SHORT = [
    *tiny.NETWORK_OVERRIDES,
    *("resolution=[64,64]", "pretrained=false", "schedule.epochs=1", "data.batch_size=2", "data.num_workers=0"),
    *("callbacks.pictures.count=1", "trainer.accelerator=cpu"),
]
QUIET = ["pictures=0", "analysis=false", "data.num_workers=0"]


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def other_run(folder: Path) -> Path:
    """The folder of the last evaluation."""
    return max((folder / "runs" / "eval").iterdir(), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
def test_voc_is_found_trained_and_evaluated_by_its_own_numbers_and_files(command, tmp_path):
    root = formats.write_voc(tmp_path / "data")
    trained = command("train", "data=auto", f"data.root={root}", *SHORT)
    assert trained.code == 0, trained.output
    assert trained.output.count(f"{root} is taken for Pascal VOC data: it has Annotations/*.xml") == 1
    content = metrics_of(trained.run)
    assert {"AP", "AP50", "VOC07_AP", "VOC_AP"} <= content["metrics"].keys()
    assert {"VOC07_AP", "VOC_AP"} <= content["per_class"]["cat"].keys()
    assert sorted(path.name for path in (trained.run / "results").iterdir()) == [
        "comp4_det_val_cat.txt",
        "comp4_det_val_dog.txt",
    ]
    again = command("eval", f"ckpt={trained.run / 'best.ckpt'}", *QUIET)
    assert again.code == 0, again.output
    assert metrics_of(other_run(again.folder))["metrics"] == pytest.approx(content["metrics"], abs=1e-5, nan_ok=True)
    other = command("eval", f"ckpt={trained.run / 'best.ckpt'}", f"data.root={root}", *QUIET)
    assert other.code == 0, other.output
    assert "VOC07_AP" in other.output


@pytest.mark.slow
def test_yolo_is_divided_trained_and_evaluated_on_what_was_held_out_or_on_another_yaml(command, tmp_path):
    scenes = [scene._replace(name=f"{scene.name}{n}") for n in range(3) for scene in formats.SCENES["train"]]
    root = formats.write_yolo(tmp_path / "data", {"train": scenes})
    trained = command("train", "data=yolo", f"data.yaml={root / 'data.yaml'}", "data.val_share=0.25", *SHORT)
    assert trained.code == 0, trained.output
    assert "are held out for validation (data.val_share=0.25)" in trained.output
    again = command("eval", f"ckpt={trained.run / 'best.ckpt'}", *QUIET)
    assert again.code == 0, again.output
    assert metrics_of(other_run(again.folder))["images"] == metrics_of(trained.run)["images"] == 3
    (root / "other.yaml").write_text(yaml.safe_dump({"val": "images/train", "names": formats.CLASSES}))
    other = command("eval", f"ckpt={trained.run / 'best.ckpt'}", f"data.yaml={root / 'other.yaml'}", *QUIET)
    assert other.code == 0, other.output
    assert metrics_of(other_run(other.folder))["images"] == 12


@pytest.mark.slow
def test_a_published_preset_of_voc_reads_the_devkit_and_is_tested_with_flip(command, tmp_path):
    devkit, things = tmp_path / "VOCdevkit", formats.SCENES["train"][0].things
    named = {split: [formats.Scene(name, things)] for split, name in (("trainval", "000001"), ("test", "000002"))}
    formats.write_voc(devkit / "VOC2007", named)
    formats.write_voc(devkit / "VOC2012", {"trainval": [formats.Scene("2012_000001", things)]})
    preset = ["experiment=ctdet_voc_resdcn18_384", f"data.root={devkit}"]
    trained = command("train", *preset, *SHORT)
    assert trained.code == 0, trained.output
    assert f"Pascal VOC in {devkit}: 2007_trainval, 2012_trainval for training" in trained.output
    tested = command("eval", *preset, f"ckpt={trained.run / 'best.ckpt'}", "inference=published", *QUIET)
    assert tested.code == 0, tested.output
    assert ", 1 images of " in tested.output
    assert ", flip\n" in tested.output
    results = other_run(tested.folder) / "results"
    assert len(list(results.glob("comp4_det_test_*.txt"))) == 20


@pytest.mark.slow
def test_joints_of_yolo_are_trained(command, tmp_path):
    root = formats.write_yolo(tmp_path / "data", kpt_shape=[2, 3], flip_idx=[1, 0])
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("".join(f"{line} 0.4 0.4 2 0.6 0.4 2\n" for line in path.read_text().splitlines()))
    trained = command("train", "task=multi_pose_iou", "data=yolo", f"data.root={root}", *SHORT)
    assert trained.code == 0, trained.output
    assert "2 joints (0, 1), 1 left-right pairs" in trained.output
    assert "box_AP" in metrics_of(trained.run)["metrics"]


def test_a_folder_without_a_known_format_is_answered_with_a_sentence(command, tmp_path):
    (tmp_path / "data").mkdir()
    refused = command("train", "data=auto", f"data.root={tmp_path / 'data'}", *SHORT)
    assert refused.code == 2
    assert refused.output.startswith(f"error: no known format in {tmp_path / 'data'} (KITTI: training/image_2 and ")
    assert "found nothing; set data.root to the folder that holds it" in refused.output
