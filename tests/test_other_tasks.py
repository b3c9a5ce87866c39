"""Pose and 3D from end to end: train, evaluate, draw, predict, with small networks on the built-in data."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from centernet.data.images import read_image
from centernet.data.kitti_format import read_calibration
from centernet.inference import Predictor
from centernet.module import DddModule, load_module
from centernet.structures import InputError
from tests import tiny
from tests.places import ROOT

SMALL = [
    "data.train_count=24",
    "data.val_count=8",
    "data.num_workers=0",
    *tiny.NETWORK_OVERRIDES,
    "callbacks.pictures.count=2",
]
RUNS = {
    "multi_pose": ["task=multi_pose", "data=figures", "resolution=[64,64]"],
    "multi_pose_iou": ["task=multi_pose_iou", "data=figures", "resolution=[64,64]"],
    "ddd": ["task=ddd", "data=cuboids", "augment=ddd", "resolution=[64,192]"],
    "ddd_dle": ["task=ddd_dle", "data=cuboids", "augment=ddd", "resolution=[64,192]"],
    "ddd_geo": ["task=ddd_geo", "data=cuboids", "augment=ddd", "resolution=[64,192]"],
}
POSE = ("multi_pose", "multi_pose_iou")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def train(command, task: str, root: Path, *more: str):
    options = [*RUNS[task], *SMALL, f"data.root={root}", "schedule.epochs=1", *more]
    result = command("train", *options)
    assert result.code == 0, result.output
    assert "Traceback" not in result.output
    return result


def root_of(task: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("figures" if task in POSE else "cuboids")


@pytest.mark.parametrize("task", RUNS)
def test_it_trains_evaluates_draws_and_evaluates_the_same_again(command, task, request):
    result = train(command, task, root_of(task, request))
    names = {path.name for path in result.run.iterdir()}
    assert {"best.ckpt", "last.ckpt", "metrics.json", "history.csv", "curves.png", "pictures"} <= names
    metrics = read_json(result.run / "metrics.json")["metrics"]
    wanted = {"AP", "AP50", "box_AP"} if task in POSE else {"AP", "AP_3d", "AOS", "car_3d_moderate_R40"}
    assert wanted <= set(metrics)
    picture = read_image(result.run / "pictures" / "val_00.png")
    height, width = picture.shape[:2]
    assert (width > 3 * height) if task in POSE else (height > width)  # panels side by side, or stacked
    best = result.run / "best.ckpt"
    again = command("eval", f"ckpt={best}", "paths.runs=again")
    assert again.code == 0, again.output
    (path,) = Path("again").rglob("metrics.json")
    assert read_json(path)["metrics"] == pytest.approx(metrics, nan_ok=True)


def test_keypoint_results_have_joints_of_every_detection(command, figures):
    result = train(command, "multi_pose", figures, "task.heatmap.max_detections=7")
    rows = read_json(result.run / "detections.json")
    assert len(rows) == 8 * 7
    assert all(len(row["keypoints"]) == 51 and row["category_id"] == 1 for row in rows)
    module, _ = load_module(result.run / "best.ckpt")
    joints = module.task.facts["joints"]
    assert joints["names"][0] == "nose"
    assert joints["skeleton"]


def test_3d_results_are_kitti_files_that_the_script_evaluates_alike(command, cuboids, monkeypatch):
    result = train(command, "ddd", cuboids, "task.heatmap.max_detections=9")
    files = sorted((result.run / "results" / "data").iterdir())
    assert [path.stem for path in files] == (cuboids / "ImageSets" / "val.txt").read_text().split()
    assert all(len(line.split()) == 16 for path in files for line in path.read_text().splitlines())
    output = Path("evaluated.json").absolute()
    labels = cuboids / "training" / "label_2"
    monkeypatch.setattr(
        sys, "argv", ["evaluate_kitti.py", str(labels), str(result.run / "results"), "--json", str(output)]
    )
    runpy.run_path(str(ROOT / "scripts" / "evaluate_kitti.py"), run_name="__main__")
    ours, theirs = read_json(result.run / "metrics.json")["metrics"], read_json(output)
    theirs = theirs["results"]
    for name in ("car_2d_hard_R40", "pedestrian_2d_hard_R11", "cyclist_2d_hard_R11"):
        # Two decimals in the files.
        assert ours[name] == pytest.approx(theirs[name], abs=0.02, nan_ok=True)


def test_frames_without_labels_are_predicted_and_not_judged(command, cuboids, tmp_path):
    best = train(command, "ddd", cuboids).run / "best.ckpt"
    root = tmp_path / "kitti"
    for name in ("image_2", "calib"):
        shutil.copytree(cuboids / "training" / name, root / "testing" / name)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "test.txt").write_text("000000\n000003\n")
    result = command("eval", f"ckpt={best}", f"data.root={root}", "data.val_split=test", "paths.runs=unjudged")
    assert result.code == 0, result.output
    assert "has no labels to evaluate against; detections are in" in result.output
    assert "Pedestrian  " not in result.output
    assert [path.name for path in sorted(Path("unjudged").rglob("results/data/*.txt"))] == ["000000.txt", "000003.txt"]


@pytest.mark.parametrize("task", [*POSE, "ddd"])
def test_the_demo_draws_and_lists_what_the_task_finds(command, task, request, monkeypatch):
    root = root_of(task, request)
    result = train(command, task, root)
    images = root / ("val" if task in POSE else "training/image_2")
    best = result.run / "best.ckpt"
    monkeypatch.setattr(
        sys, "argv", ["demo.py", str(best), str(images), "--threshold", "0.05", "--heatmap", "--out", "out"]
    )
    runpy.run_path(str(ROOT / "scripts" / "demo.py"), run_name="__main__")
    found = read_json(Path("out/detections.json"))
    first = next(name for name in sorted(found) if found[name])
    fields = {"joints", "joint_scores"} if task in POSE else {"location", "dimensions", "yaw", "corners", "depth"}
    assert fields <= set(found[first][0])
    stem = Path(first).stem
    assert read_image(f"out/{stem}.png").std() > 5
    maps = ["heatmap", "joint_heatmap"] if task in POSE else ["heatmap"]
    assert all(Path(f"out/{stem}_{name}.png").is_file() for name in maps)


def test_a_3d_model_takes_the_camera_from_a_file_a_folder_or_a_focal_length(command, cuboids, monkeypatch, capfd):
    best = train(command, "ddd", cuboids).run / "best.ckpt"
    image = sorted((cuboids / "training" / "image_2").iterdir())[0]
    shutil.copy(image, "alone.png")
    calib = cuboids / "training" / "calib" / f"{image.stem}.txt"

    def demo(*options: str) -> dict:
        monkeypatch.setattr(
            sys, "argv", ["demo.py", str(best), "alone.png", "--threshold", "0", "--out", "out", *options]
        )
        runpy.run_path(str(ROOT / "scripts" / "demo.py"), run_name="__main__")
        return json.loads(Path("out/detections.json").read_text())["alone.png"][0]

    def refusal(*options: str) -> str:
        with pytest.raises(SystemExit) as stop:
            demo(*options)
        assert stop.value.code == 2
        return capfd.readouterr().err

    with pytest.raises(SystemExit, match=r"1 of 1 images failed"):
        demo()
    assert "3D boxes need the camera, and calib does not exist; pass --calib FILE or --focal" in capfd.readouterr().err
    for focal in ("-3", "nan"):
        assert f"error: --focal {focal} is not a focal length" in refusal("--focal", focal)
    assert "error: --calib and --focal both define the camera" in refusal("--focal", "500", "--calib", str(calib))
    by_file = demo("--calib", str(calib))
    shutil.copy(calib, "alone.txt")
    assert demo("--calib", ".") == by_file
    by_focal = demo("--focal", "500")
    assert by_focal["depth"] == by_file["depth"]
    assert by_focal["location"] != by_file["location"]

    predictor = Predictor.from_checkpoint(best, device="cpu")
    result = predictor("alone.png", calibration=read_calibration(calib))
    assert result["corners"].shape[1:] == (8, 3)
    np.testing.assert_allclose(result["location"][0], by_file["location"], atol=1e-3)
    for camera in (np.eye(4), np.eye(3), np.full((3, 4), np.nan), "calib.txt"):
        with pytest.raises(InputError, match=r"give P2 \[3, 4\]"):
            predictor("alone.png", calibration=camera)
    with pytest.raises(InputError, match=r"focal=0 is not a focal length"):
        predictor("alone.png", focal=0)
    with pytest.raises(InputError, match=r"images and about differ in length"):
        predictor.predict(["alone.png"] * 2, about=[{"calibration": read_calibration(calib)}])
    bottom = result["corners"][:, :4].mean(1)
    torch.testing.assert_close(bottom, result["location"], atol=1e-3, rtol=1e-4)


def test_what_depth_costs_is_measured_on_a_checkpoint(command, cuboids, figures, monkeypatch, capfd):
    best = train(command, "ddd_dle", cuboids).run / "best.ckpt"

    def script(*arguments: str) -> str:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["depth_cost.py", *arguments])
        runpy.run_path(str(ROOT / "scripts" / "depth_cost.py"), run_name="__main__")
        return capfd.readouterr().out

    table = script(str(best))
    assert "ddd_dle, 8 images, official overlaps" in table
    rows = {
        line[:24].strip(): line[24:].split()
        for line in table.splitlines()
        if ", true depth" in line or line[:4] == "true"
    }
    assert set(rows) == {"true depth", "Pedestrian, true depth", "Car, true depth", "Cyclist, true depth"}
    assert all(len(cells) == 4 for cells in rows.values())
    boxes = train(command, "multi_pose", figures).run / "best.ckpt"
    with pytest.raises(SystemExit) as stop:
        script(str(boxes))
    assert stop.value.code == 2
    assert "is of task multi_pose, which has no depth; give a checkpoint of a 3D task" in capfd.readouterr().err


def test_a_pose_model_evaluates_other_files_with_the_same_joints_only(command, figures, shapes, tmp_path):
    best = train(command, "multi_pose", figures).run / "best.ckpt"
    other = tmp_path / "other"
    shutil.copytree(figures, other)
    (other / "drawn.json").unlink()
    result = command("eval", f"ckpt={best}", f"data.root={other}")
    assert result.code == 0, result.output
    path = other / "annotations" / "person_keypoints_val.json"
    content = json.loads(path.read_text())
    content["categories"][0].update(keypoints=["a", "b", "c"], skeleton=[])
    for row in content["annotations"]:
        row["keypoints"] = row["keypoints"][:9]
    path.write_text(json.dumps(content))
    result = command("eval", f"ckpt={best}", f"data.root={other}")
    assert result.code == 2
    assert "has 3 joints (a, b, c, ...), the model has 17 (nose, left_eye" in result.output
    for row in content["annotations"]:
        del row["keypoints"]
    del content["categories"][0]["keypoints"]
    path.write_text(json.dumps(content))
    result = command("eval", f"ckpt={best}", f"data.root={other}")
    assert result.code == 2
    assert "task multi_pose needs objects with joints, which the val data" in result.output
    assert "data=coco_pose" in result.output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=multi_pose", "data=shapes"], "task multi_pose needs objects with joints, which the train data"),
        (["task=ddd", "data=shapes"], "task ddd needs objects with location, dimensions, alpha, which the train data"),
        (["task=ddd", "data=figures"], "use data=cuboids (built in), or data=kitti"),
        (["task=multi_pose", "data=coco_pose", "data.joints={flip_pairs: [[nose, hat]]}"], "has unknown joint 'hat'"),
        (["task=ddd", "data=kitti"], "no data given; set data.root=DIR"),
        (
            ["task=ddd", "data=cuboids", "augment=ddd", "augment.mosaic=1"],
            "augment.mosaic=1.0 is not supported with 3D labels",
        ),
    ],
)
def test_data_that_does_not_fit_the_task_is_one_sentence_and_an_exit_code(command, overrides, message, figures):
    counts = ["data.train_count=3", "data.val_count=2"]
    if "data=kitti" in overrides:
        counts = []
    if "data=coco_pose" in overrides:
        counts = [f"data.root={figures}"]
    result = command("train", *overrides, *counts, "data.num_workers=0", *tiny.NETWORK_OVERRIDES, "resolution=[64,64]")
    assert result.code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_two_processes_evaluate_3d_like_one_and_write_every_frame(command, cuboids, tmp_path):
    from tests.test_train import run

    best = train(command, "ddd", cuboids).run / "best.ckpt"
    one = command("eval", f"ckpt={best}", "paths.runs=one")
    two = run(tmp_path, "eval.py", f"ckpt={best}", "paths.runs=two", "trainer=ddp_cpu")
    assert (one.code, two.code) == (0, 0), two.output
    first, second = (read_json(next(Path(name).rglob("metrics.json"))) for name in ("one", "two"))
    assert first["metrics"] == pytest.approx(second["metrics"], nan_ok=True)
    counts = [len(list(Path(name).rglob("results/data/*.txt"))) for name in ("one", "two")]
    assert counts == [8, 8]


def test_in_plain_lightning_a_3d_module_learns_dimensions_and_focal_length_from_its_data(cuboids, tmp_path):
    import pytorch_lightning as pl

    from centernet.data.kitti import KittiDataModule

    data = KittiDataModule(cuboids, resolution=(64, 192), batch_size=4, num_workers=0)
    module = DddModule.for_data(data, backbone=tiny.NETWORK, task="ddd_dle")
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    pl.Trainer(accelerator="cpu", max_steps=1, limit_val_batches=1, default_root_dir=tmp_path, **quiet).fit(
        module, data
    )
    assert module.class_names == data.class_names
    assert module.task.terms["depth"].focal == pytest.approx(data.facts["focal"])
    np.testing.assert_allclose(module.task.terms["dimensions"].means, data.facts["mean_dimensions"])
    assert module.description()["module"]["facts"] == data.facts


@pytest.mark.parametrize(("task", "box_task"), [("multi_pose", "ctdet"), ("multi_pose_iou", "ctdet_iou")])
def test_a_pose_training_starts_from_a_box_checkpoint(task, box_task, command, figures):
    """The published pose models start from the weights of ctdet."""
    options = [f"task={box_task}", "data=figures", "resolution=[64,64]", *SMALL, f"data.root={figures}"]
    boxes = command("train", *options, "schedule.epochs=1")
    assert boxes.code == 0, boxes.output
    result = train(command, task, figures, f"pretrained={boxes.run / 'best.ckpt'}")
    (line,) = [line for line in result.output.splitlines() if line.startswith("as initialized, because the checkpoint")]
    assert "joint" in line
    assert not any(f".{name}." in line for name in ("heatmap", "box", "size", "offset"))
    assert "copied" in result.output


def test_extreme_points_are_trained_written_evaluated_with_flip_and_predicted(command, shapes):
    anything = ["task.agnostic=true", "task.heatmap.min_score=0", "task.heatmap.min_center_score=0"]
    result = command(
        "train", "task=exdet", *anything, "resolution=[64,64]", *SMALL, f"data.root={shapes}", "schedule.epochs=1"
    )
    assert result.code == 0, result.output
    rows = read_json(result.run / "detections.json")
    assert rows
    assert all(np.array(row["extreme_points"]).shape == (4, 2) for row in rows)
    best = result.run / "best.ckpt"
    again = command("eval", f"ckpt={best}", "inference=flip", "paths.runs=again")
    assert again.code == 0, again.output
    assert "errors" in again.output
    (path,) = Path("again").rglob("metrics.json")
    assert {"AP", "AP50"} <= set(read_json(path)["metrics"])
    found = Predictor.from_checkpoint(best)(next((shapes / "val").iterdir()))
    assert len(found)
    points = found.extreme_points
    corners = torch.stack([points[:, 1, 0], points[:, 0, 1], points[:, 3, 0], points[:, 2, 1]], 1)
    assert torch.allclose(found.boxes, corners, atol=1e-3)
