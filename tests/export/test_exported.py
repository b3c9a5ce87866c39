"""Exported files in Predictor, demo.py and eval.py: the same results as the detector that they were made from."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from centernet.build import exported_module
from centernet.data.coco import CocoDataModule
from centernet.errors import InputError
from centernet.export.exported import ExportedDetector, is_exported, load_exported
from centernet.inference import Predictor
from centernet.module import CenterNetModule
from tests import tiny
from tests.export.exported import CLASSES, artifact_of, detector_of, pictures
from tests.export.files import SIDE, color_detector, color_file, squares
from tests.places import ROOT
from tests.test_inference import NAMES
from tests.tiny import NETWORK

CHECKPOINT_ONLY = "use the checkpoint that the file was made from"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(color_file())


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert found.names == wanted.names
    for name, value in wanted.items():
        if name != "names":
            np.testing.assert_allclose(found[name], value, atol=1e-3, err_msg=name)


def test_a_predictor_takes_everything_from_the_file(predictor):
    assert predictor.class_names == NAMES
    assert predictor.task.name == "ctdet"
    assert predictor.detector.spec == {"resolution": [SIDE, SIDE], "mode": "fit", "divisor": 32}
    assert predictor.device == torch.device("cpu")


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_file_of_free_batch_finds_what_the_detector_finds(batch_size):
    file, network = (
        Predictor(source, *about, batch_size=batch_size)
        for source, *about in ((color_file(),), (color_detector(), NAMES, (SIDE, SIDE)))
    )
    for found, wanted in zip(file.predict(squares()), network.predict(squares()), strict=True):
        assert_same(found, wanted)
        assert found.image_size == wanted.image_size


def test_a_file_is_evaluated_with_the_options_that_its_training_had():
    module, _ = exported_module(artifact_of("cells").path)
    assert module.metric_options == {"backend": "pycocotools"}
    module, _ = exported_module(artifact_of("cells").path, {"backend": "faster-coco-eval"})
    assert module.metric_options == {"backend": "faster-coco-eval"}


def test_a_file_that_does_not_say_how_to_be_evaluated_is_as_usual(monkeypatch):
    exported = load_exported(artifact_of("cells").path)
    del exported.artifact.metadata["metric_options"]
    monkeypatch.setattr("centernet.build.load_exported", lambda path: exported)
    assert exported_module("old.onnx")[0].metric_options == {}


def test_the_square_is_found_in_the_pixels_of_the_picture(predictor):
    for n, image in enumerate(squares()[:3]):
        best = predictor(image, threshold=0.3)[0]
        assert best.names == [NAMES[n]]
        x1, y1, x2, y2 = best.boxes[0].tolist()
        assert (x1 + x2) / 2 == pytest.approx(20 + 8 * n + 14 + 2 * n, abs=8)
        assert (y1 + y2) / 2 == pytest.approx(40 + 14 + 2 * n, abs=8)


def test_a_file_of_fixed_batch_takes_any_number_of_pictures(predictor):
    fixed = Predictor(color_file("none"), batch_size=3)
    for found, wanted in zip(fixed.predict(squares()), predictor.predict(squares()), strict=True):
        assert_same(found, wanted)


def test_a_file_of_free_size_takes_other_resolutions_modes_and_scales():
    for options in (
        {"resolution": (96, 160)},
        {"mode": "keep"},
        {"mode": "stretch"},
        {"inference": {"scales": [0.5, 1, 1.5]}},
        {"inference": {"nms": "soft"}},
    ):
        file = Predictor(color_file("both"), **options)
        network = Predictor(color_detector(), NAMES, **{"resolution": (SIDE, SIDE), **options})
        for image in squares():
            assert_same(file(image), network(image))
    color_detector().use(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference": {"flip": True}}, f"inference.flip puts maps together, and NAME .*{CHECKPOINT_ONLY}"),
        ({"inference": {"tiles": [64, 64]}}, f"inference.tiles puts maps together, and NAME .*{CHECKPOINT_ONLY}"),
        ({"inference": {"scales": [1, 2]}}, "inference.scales needs inputs of several sizes, and NAME takes 128x128"),
        ({"resolution": (64, 96)}, "resolution=64x96 does not fit NAME, which takes 128x128 only; leave it out"),
        ({"mode": "keep"}, "mode keep makes inputs of several sizes, and NAME takes 128x128 only; choose fit"),
        ({"device": "cuda"}, "device=cuda: exported files run on the CPU; leave it out"),
        ({"precision": "bf16-mixed"}, "precision=bf16-mixed: an exported file has its own; leave it out, or export"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_what_a_file_cannot_do_is_told_in_a_sentence(options, message):
    with pytest.raises(InputError, match=message.replace("NAME", re.escape(color_file().name))):
        Predictor(color_file(), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "suffix", "about"),
    [
        ("ctdet_iou", ".xml", {}),
        ("ctdet_dense", ".pt2", {}),
        ("multi_pose", ".onnx", {}),
        ("ddd_dle", ".onnx", {"focal": 300.0}),
        ("exdet", ".onnx", {}),
    ],
)
def test_a_file_of_every_task_finds_what_the_detector_finds(task, suffix, about):
    file = Predictor(artifact_of(task, suffix).path)
    network = Predictor(detector_of(task), CLASSES, (SIDE, SIDE))
    size = (128, 128) if task == "exdet" else (100, 140)  # in which its network finds something
    for image in pictures(1, *size).transpose(0, 2, 3, 1):
        found, wanted = file(image, **about), network(image, **about)
        assert len(wanted)
        assert found.keys() == wanted.keys()
        # Equal scores may come in another order, so only the best are compared one by one.
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-3)
        for name, value in wanted[:5].items():
            if name != "names":
                np.testing.assert_allclose(found[:5][name], value, atol=2e-2, rtol=1e-3, err_msg=name)


@pytest.mark.slow
def test_a_file_of_a_task_that_merges_detections_looks_at_the_mirror_image_too():
    modes = {"flip": True}
    file = Predictor(artifact_of("exdet").path, inference=modes)
    network = Predictor(detector_of("exdet"), CLASSES, (SIDE, SIDE), inference=modes)
    image = pictures(1, 128, 128)[0].transpose(1, 2, 0)
    flipped, wanted = file(image), network(image)
    assert len(wanted)
    network.detector.use(None)
    np.testing.assert_allclose(flipped.scores, wanted.scores, atol=1e-3)
    assert len(flipped) > len(network(image))


def test_a_file_has_no_heatmaps(predictor):
    with pytest.raises(InputError, match="gives detections only; heatmaps need the checkpoint"):
        predictor.heatmap(squares()[0])
    with pytest.raises(InputError, match="gives detections only"):
        predictor.detector.outputs(torch.zeros(1, 3, SIDE, SIDE))


def test_a_detector_alone_does_not_know_its_classes():
    with pytest.raises(InputError, match=r"^a detector does not know its classes and its input; give class_names"):
        Predictor(color_detector())


def test_files_are_told_by_their_ending():
    assert [is_exported(name) for name in ("a.onnx", "a.xml", "a.pt2", "best.ckpt", "a.pth")] == [True] * 3 + [
        False
    ] * 2
    assert isinstance(load_exported(color_file()), ExportedDetector)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing.onnx: the file does not exist"):
        Predictor(tmp_path / "nothing.onnx")


@pytest.fixture(scope="module")
def colored(tmp_path_factory):
    """Data in COCO format: black pictures with a square each."""
    folder = tmp_path_factory.mktemp("colored")
    from PIL import Image

    rows, entries = [], []
    for n, image in enumerate(squares()):
        side = 28 + 4 * n
        rows.append(
            {"image_id": n, "category_id": n % 3 + 1, "bbox": [20 + 8 * n, 40, side, side], "area": side * side}
        )
        entries.append({"id": n, "height": image.shape[0], "width": image.shape[1]})
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)]
    path, pictures = tiny.make_coco(folder, rows, entries, categories, split="val")
    for n, image in enumerate(squares()):
        Image.fromarray(image).save(pictures / f"{n}.png")
    return [f"data.val_annotations={path}", f"data.val_images={pictures}", "data.num_workers=0"]


def test_eval_gives_the_accuracy_of_the_file_and_writes_what_it_writes_for_a_checkpoint(command, colored):
    ended = command("eval", f"ckpt={color_file()}", *colored, "pictures=2", "data.eval_batch_size=3")
    assert ended.code == 0, ended.output
    folder = ended.folder / "runs" / "eval" / "run-1"
    content = json.loads((folder / "metrics.json").read_text())
    assert content["metrics"]["AP50"] > 0.7
    paths = dict(word.removeprefix("data.").split("=") for word in colored[:2])
    data = CocoDataModule(**paths, resolution=(SIDE, SIDE), num_workers=0)
    network = CenterNetModule("ctdet", class_names=NAMES, backbone=NETWORK, detector=color_detector())
    options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    (wanted,) = pl.Trainer(**options).validate(network, data, verbose=False)
    assert content["metrics"]["AP"] == pytest.approx(wanted["val/AP"], abs=1e-4)
    assert content["task"] == "ctdet"
    assert content["images"] == 4
    assert f"AP50  {content['metrics']['AP50']:6.3f}" in ended.output
    assert len(list((folder / "pictures").glob("val_*.png"))) == 2
    assert (folder / "analysis" / "report.html").is_file()
    found = json.loads((folder / "detections.json").read_text())
    assert [sum(row["image_id"] == n for row in found) for n in range(4)] == [10] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "does not record its training data; set data.root=DIR, or data=NAME for built-in data"),
        (["COLORED", "resolution=64"], "resolution=64x64 does not fit"),
        (["COLORED", "inference=flip"], "inference.flip puts maps together"),
        (["COLORED", "oracle=ladder"], "oracle works on the maps of a network, which an exported file does not give"),
    ],
    ids=["no data", "resolution", "flip", "oracle"],
)
def test_eval_refuses_what_a_file_cannot_do(command, colored, words, message):
    words = [part for word in words for part in (colored if word == "COLORED" else [word])]
    ended = command("eval", f"ckpt={color_file()}", *words)
    assert ended.code == 2, ended.output
    (told,) = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert message in told


def test_the_demo_takes_a_file_and_refuses_heatmaps(tmp_path):
    from PIL import Image

    Image.fromarray(squares()[0]).save(tmp_path / "red.png")
    demo = [sys.executable, str(ROOT / "scripts" / "demo.py"), str(color_file()), str(tmp_path / "red.png")]
    done = subprocess.run([*demo, "--out", str(tmp_path / "out")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    count = len(Predictor(color_file())(squares()[0], threshold=0.3))
    assert done.stdout.startswith(f"red.png: {count} red\n")
    assert (tmp_path / "out" / "red.png").is_file()
    refused = subprocess.run([*demo, "--heatmap", "--out", str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "gives detections only; remove --heatmap" in refused.stderr
