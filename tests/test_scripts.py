"""The scripts: thin, but what they print and write is relied upon."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
from PIL import Image

from centernet.data.images import find_images, read_image
from centernet.data.outputs import VideoFile
from centernet.data.sources import open_source
from centernet.inference import PRECISIONS, Predictor
from centernet.module import CtdetModule
from centernet.visualize.colors import PAPER
from tests import tiny
from tests.data.test_images import deep
from tests.places import ROOT
from tests.test_module import SHAPES, build_data, build_trainer, pytestmark  # noqa: F401  the same warnings are quiet


class Result(NamedTuple):
    code: int | str
    output: str


@pytest.fixture
def script(monkeypatch, capfd, tmp_path) -> Callable[..., Result]:
    """Run a script in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capfd.readouterr()
        code: int | str = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return Result(err.strip() if code == 2 else code, out + err + (code if isinstance(code, str) else ""))

    return call


@pytest.fixture(scope="module")
def checkpoint(shapes, tmp_path_factory) -> Path:
    """A checkpoint of an untrained network that has seen the data module."""
    folder = tmp_path_factory.mktemp("run")
    pl.seed_everything(0, verbose=False)
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, task_options={"heatmap": {"max_detections": 5}})
    tiny.enliven(module.detector.network)
    trainer = build_trainer(folder)
    trainer.validate(module, build_data(shapes), verbose=False)
    trainer.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"


def test_the_demo_draws_and_lists_a_folder(script, checkpoint, shapes, tmp_path):
    result = script("demo.py", checkpoint, shapes / "val", "--out", "out", "--threshold", "0", "--heatmap")
    assert result.code == 0, result.output
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    images = find_images(shapes / "val")
    assert list(found) == [image.name for image in images]
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    for image in images[:2]:
        wanted = predictor(image)
        assert [row["name"] for row in found[image.name]] == wanted["names"]
        assert [row["score"] for row in found[image.name]] == pytest.approx(wanted["scores"].tolist(), abs=1e-4)
        np.testing.assert_allclose([row["box"] for row in found[image.name]], wanted["boxes"], atol=0.051)
        picture = read_image(tmp_path / "out" / f"{image.stem}.png")
        assert max(picture.shape) >= 320
        height, width, _ = read_image(tmp_path / "out" / f"{image.stem}_heatmap.png").shape
        assert width == picture.shape[1]
        assert height > picture.shape[0]  # below the file's name and a caption with the scale
    assert "8 images in" in result.output


def test_the_demo_takes_one_image_and_a_threshold(script, checkpoint, shapes, tmp_path):
    image = find_images(shapes / "val")[0]
    result = script("demo.py", checkpoint, image, "--threshold", "1.1")
    assert result.code == 0, result.output
    assert f"{image.name}: nothing" in result.output
    picture = read_image(tmp_path / "runs" / "demo" / f"{image.stem}.png")
    assert (picture == PAPER).all(-1).sum() > 1000  # the plate that says so


def test_the_demo_reads_16_bit_images_once_their_bits_are_known(script, checkpoint, tmp_path):
    deep(tmp_path / "deep.png", 4095, 48, 64)
    refused = script("demo.py", checkpoint, "deep.png")
    assert refused.code == "error: 1 of 1 images failed, see above"
    assert "values up to 4095; set bit_depth" in refused.output
    assert script("demo.py", checkpoint, "deep.png", "--bit-depth", "12", "--heatmap").code == 0


def test_one_broken_file_does_not_cost_the_others(script, checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(tiny.make_image()).save(tmp_path / "photos" / "good.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    result = script("demo.py", checkpoint, "photos", "--out", "out")
    assert result.code != 0
    assert "bad.png is not an image that OpenCV can read" in result.output
    assert "1 of 2 images failed" in result.output
    assert (tmp_path / "out" / "good.png").is_file()


def test_images_of_one_name_get_pictures_of_their_own(script, checkpoint, tmp_path):
    photos = tmp_path / "photos"
    (photos / "below").mkdir(parents=True)
    for n, name in enumerate(("a.jpg", "a.png", "A.bmp", "b.jpg", "b_heatmap.png", "c.png", "below/a.jpg")):
        Image.fromarray(tiny.make_image(seed=n)).save(photos / name)
    result = script("demo.py", checkpoint, "photos", "--out", "out", "--heatmap")
    assert result.code == 0, result.output
    pictures = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    named = ("a.jpg", "a.png", "A.bmp", "b.jpg", "b_heatmap.png", "c", "below/a")
    assert pictures == {f"{name}{end}" for name in named for end in (".png", "_heatmap.png")}
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 7
    shown = [read_image(tmp_path / "out" / name) for name in ("a.jpg.png", "a.png.png")]
    assert not np.array_equal(*shown)


def test_the_demo_does_not_draw_over_the_images(script, checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "a.png"
    Image.fromarray(tiny.make_image()).save(path)
    before = path.read_bytes()
    result = script("demo.py", checkpoint, "photos", "--out", "photos")
    assert result.code == (
        "error: --out photos holds the images, and photos/a.png would be overwritten; give another folder"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.ckpt", "photos"), "photos does not exist; give an image, a folder, a video, or - for standard input"),
        (("absent.ckpt", "."), "absent.ckpt: the file does not exist; give a checkpoint"),
        (("FILE", ".", "--out", "FILE"), "--out=FILE cannot be used: FILE is a file; choose a folder"),
        (
            ("FILE", ".", "--calib", "nowhere"),
            "--calib nowhere does not exist; give a KITTI calibration file or a folder",
        ),
        (("FILE", ".", "--calib", ".", "--focal", "9"), "--calib and --focal both define the camera; give one of them"),
        (("FILE", "."), "no image (.bmp, "),
        (("FILE", "FILE"), "FILE: the file is not a PyTorch checkpoint"),
        (("FILE", "FILE", "--device", "abacus"), "--device abacus is not a device of this machine; use cpu"),
    ],
)
def test_the_demo_says_what_is_missing(script, tmp_path, arguments, message):
    (tmp_path / "FILE").touch()
    result = script("demo.py", *arguments)
    assert str(result.code).startswith(f"error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_the_demos_precisions_are_those_of_the_package():
    assert runpy.run_path(str(ROOT / "scripts" / "demo.py"))["PRECISIONS"] == PRECISIONS


def test_the_demo_refuses_a_resolution_as_training_does(script, checkpoint, shapes):
    for given, message in {
        ("100", "100"): "input 100x100 is not divisible by 32; use 96x96, 128x128",
        ("0", "64"): "input 0x64 is not divisible by 32; use 32x64",
    }.items():
        assert script("demo.py", checkpoint, shapes / "val", "--resolution", *given).code == f"error: {message}"


@pytest.mark.parametrize("name", ["demo.py", "convert_checkpoint.py", "depth_cost.py"])
def test_a_wrong_path_is_answered_before_anything_heavy_is_imported(tmp_path, name):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{name!r}, 'nowhere', 'nowhere']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'scripts' / name)!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('loaded:', sorted({'torch', 'numpy', 'timm', 'cv2', 'pytorch_lightning'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (2, "loaded: []\n")
    assert shown.stderr.startswith("error: nowhere")
    assert shown.stderr.count("\n") == 1


def test_a_video_is_drawn_as_a_video_with_tracked_objects(script, checkpoint, shapes, tmp_path):
    video = VideoFile(tmp_path / "a.mp4", 10)
    for _ in range(3):
        video.write(read_image(find_images(shapes / "val")[0]))
    video.close()
    words = [
        "a.mp4",
        "--out",
        "out",
        "--threshold",
        "0",
        "--track",
        "--write",
        "csv",
        "coco",
        "mot",
        "kitti",
        "--crops",
    ]
    result = script("demo.py", checkpoint, *words)
    assert result.code == 0, result.output
    assert re.search(r"3 frames in [\d.]+ s \([\d.]+ frames/s, network [\d.]+ s\); ", result.output), result.output
    assert "; detections.mp4, detections.json, csv, coco, mot, kitti in out/" in result.output
    out = tmp_path / "out"
    assert len(list(open_source(out / "detections.mp4"))) == 3
    found = json.loads((out / "detections.json").read_text())
    assert list(found) == ["a_000000", "a_000001", "a_000002"]
    numbers = [[row["id"] for row in rows] for rows in found.values()]
    assert numbers[0] == numbers[2]  # of a picture that does not move
    tracks = (out / "tracks.txt").read_text().splitlines()
    assert len(tracks) == sum(number > 0 for row in numbers for number in row)
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 3
    assert len(list((out / "kitti").iterdir())) == 3
    assert {path.name for path in out.iterdir()} >= {"crops", "detections.csv"}
    assert not list(out.glob("*.png"))


def test_several_sources_follow_each_other_and_modes_apply(script, checkpoint, shapes, tmp_path):
    images = find_images(shapes / "val")[:3]
    (tmp_path / "list.txt").write_text(f"{images[1]}\n{images[2]}\n")
    plain = script("demo.py", checkpoint, images[0], "list.txt", "--out", "out", "--no-drawing", "--threshold", "0")
    assert plain.code == 0, plain.output
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert list(found) == [image.name for image in images]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.json"]
    modes = ["--flip", "--scales", "0.5", "1", "--tiles", "64", "32", "--nms", "plain", "--batch", "2"]
    script("demo.py", checkpoint, images[0], "list.txt", "--out", "out", "--no-drawing", "--threshold", "0", *modes)
    other = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert list(other) == list(found)
    assert other != found


def test_a_mode_that_is_not_possible_and_a_window_without_a_screen_are_said(script, checkpoint, shapes):
    image = find_images(shapes / "val")[0]
    assert "inference.nms='hard' is unknown" in script("demo.py", checkpoint, image, "--nms", "hard").code
    assert "--show needs a window" in script("demo.py", checkpoint, image, "--show").code


def test_what_was_found_before_ctrl_c_is_kept(script, checkpoint, shapes, tmp_path, monkeypatch):
    drawn = []

    def save(path: Path, image: np.ndarray) -> None:
        if drawn:
            raise KeyboardInterrupt
        drawn.append(path)

    monkeypatch.setattr("centernet.visualize.save_image", save)
    result = script("demo.py", checkpoint, shapes / "val", "--out", "out")
    assert result.code == 130
    assert "interrupted" in result.output
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 2


def test_the_demo_says_that_a_checkpoint_is_missing(script, shapes):
    result = script("demo.py", "absent.ckpt", shapes / "val")
    assert result.code == "error: absent.ckpt: the file does not exist; give a checkpoint"


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_every_script_explains_itself(script, name):
    result = script(name, "--help")
    assert result.code == 0
    assert "usage:" in result.output


@pytest.mark.parametrize(
    "words", [["data=shapes"], ["data=figures", "task=multi_pose"], ["data=cuboids", "task=ddd", "augment=ddd"]]
)
def test_a_batch_is_shown_with_its_targets(script, request, words, tmp_path):
    name = words[0].removeprefix("data=")
    root = request.getfixturevalue(name)
    few = [
        "data.train_count=24",
        "data.val_count=8",
        "data.num_workers=0",
        "resolution=[64,128]",
        *tiny.NETWORK_OVERRIDES,
    ]
    result = script("show_batch.py", *words, f"data.root={root}", *few, "--count", "2", "--out", "batch.png")
    assert result.code in (0, None), result.output
    assert "2 inputs of 128x64 pixels with their targets: batch.png" in result.output
    assert "pixels, median" in result.output
    picture = read_image(tmp_path / "batch.png")
    assert picture.shape[0] > 2 * 64
    assert picture.std() > 5


def test_a_batch_is_shown_beside_what_a_model_says(script, checkpoint, shapes, tmp_path):
    few = ["data=shapes", f"data.root={shapes}", "data.train_count=24", "data.val_count=8", "data.num_workers=0"]
    words = [*few, "resolution=[64,64]", "--count", "1", "--out"]
    assert script("show_batch.py", *words, "a.png", "task=ctdet").code in (0, None)
    assert script("show_batch.py", *words, "b.png", "task=ctdet", "--checkpoint", checkpoint).code in (0, None)
    alone, beside = (read_image(tmp_path / name) for name in ("a.png", "b.png"))
    assert beside.shape[1] > alone.shape[1]
    refused = script("show_batch.py", *words, "c.png", "task=ctdet_dense", "--checkpoint", checkpoint)
    assert "is a model for task ctdet with 4 classes, this is ctdet_dense" in str(refused.code)
    assert "--count 0 is too small" in str(script("show_batch.py", *few, "--count", "0").code)
