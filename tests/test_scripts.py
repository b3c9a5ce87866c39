"""The scripts: thin, but what they print and write is relied upon."""

from __future__ import annotations

import json
import multiprocessing.dummy
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from centernet.data.images import find_images, read_image
from centernet.inference import Predictor
from centernet.module import CtdetModule
from centernet.tasks import task_names
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
        return Result(code, out + err + (code if isinstance(code, str) else ""))

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
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray(tiny.make_image()).save(tmp_path / "photos" / "good.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    result = script("demo.py", checkpoint, "photos", "--out", "out")
    assert result.code != 0
    assert "bad.png is not an image that OpenCV can read" in result.output
    assert "1 of 2 images failed" in result.output
    assert (tmp_path / "out" / "good.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.ckpt", "photos"), "photos does not exist; give an image file or a folder of images"),
        (("absent.ckpt", "."), "no image"),
    ],
)
def test_the_demo_says_what_is_missing(script, arguments, message):
    result = script("demo.py", *arguments)
    assert result.code != 0
    assert message in result.output


def test_the_demo_says_that_a_checkpoint_is_missing(script, shapes):
    result = script("demo.py", "absent.ckpt", shapes / "val")
    assert result.code == "error: absent.ckpt: the file does not exist; give a checkpoint"


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory of processes is read from /proc")
def test_the_startup_benchmark_times_two_starts_and_weighs_its_workers(script):
    result = script("benchmark.py", "startup", "images=300", "boxes=900")
    assert result.code == 0, result.output
    assert "300 images, 900 boxes" in result.output
    assert re.search(r"first start +\d+\.\d s .*\nsecond start +\d+\.\d s", result.output)
    weights = re.findall(r"^batch \d+ +(\d+\.\d), +(\d+\.\d) MiB$", result.output, re.MULTILINE)
    assert len(weights) >= 2
    assert all(float(weight) > 1 for pair in weights for weight in pair)


def test_the_data_benchmark_compares_with_bare_reading(script, shapes):
    options = [f"data.root={shapes}", "data.train_count=24", "data.val_count=8", "resolution=[64,64]"]
    result = script("benchmark.py", "data", "--rounds", "1", *options)
    assert result.code == 0, result.output
    assert "images/s" in result.output
    assert "imread" in result.output


def test_the_decode_benchmark_times_every_task(script):
    result = script("benchmark.py", "decode", "batch=1", "side=64", "k=5", "--rounds", "1")
    assert result.code == 0, result.output
    _, header, *rows = result.output.splitlines()
    assert header.split() == ["ms", "with", "1", "class", "3", "classes", "80", "classes"]
    assert [row.split()[0] for row in rows] == task_names()
    assert all(float(taken) > 0 for row in rows for taken in row.split()[1:])
    assert all(len(row.split()) == 4 for row in rows)


def test_the_kitti_benchmark_times_the_evaluation_of_made_up_frames(script):
    result = script("benchmark.py", "kitti", "frames=20", "detections=5")
    assert result.code == 0, result.output
    assert "20 frames" in result.output
    assert "compute" in result.output
    assert script("benchmark.py", "kitti", "frames=no").code == (
        "error: 'frames=no' is not an option here; use frames=N or detections=N"
    )


def test_the_gpu_benchmark_makes_its_table_on_a_cpu_too(script, tmp_path, monkeypatch):
    # In threads instead of processes, and without a compiler, which would take longer than all the rest.
    contexts = {None: multiprocessing.get_context(), "spawn": multiprocessing.dummy}
    monkeypatch.setattr("multiprocessing.get_context", lambda method=None: contexts[method])
    monkeypatch.setattr("torch.nn.Module.compile", lambda self: None)
    few = ["--device", "cpu", "--networks", "test_efficientnet", "--batch", "2", "--rounds", "1", "--resolution", "32"]
    with torch.backends.cudnn.flags(enabled=True):  # restores what a measurement sets
        result = script("benchmark.py", "gpu", *few, "--json", tmp_path / "cpu.json")
    assert result.code == 0, result.output
    rows = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert [(row["work"], row["setting"].removeprefix("+ ")) for row in rows] == [
        *(("train", setting) for setting in ("float32", "channels_last", "bf16", "fused", "compiled")),
        *(("detect", setting) for setting in ("float32", "channels_last", "fused", "bf16", "compiled")),
    ]
    assert all(row["ms"] > 0 and row["batch"] == 2 for row in rows)
    assert len(result.output.splitlines()) == len(rows) + 2


def test_the_gpu_benchmark_without_a_gpu_tells_how_to_use_the_cpu(script, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = script("benchmark.py", "gpu")
    assert result.code == (
        "error: gpu: no CUDA device is available; use --device cpu, with a small --resolution and --batch"
    )


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_every_script_explains_itself(script, name):
    result = script(name, "--help")
    assert result.code == 0
    assert "usage:" in result.output
