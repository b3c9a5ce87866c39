"""The parts of `scripts/benchmark.py` on tiny sizes: what they print, and the json that they write."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch

from centernet.benchmark import detect
from centernet.benchmark.command import PARTS, main
from centernet.benchmark.detect import PARTS as DETECT_PARTS
from centernet.benchmark.detect import Detected, export_files
from centernet.benchmark.gpu import DETECTION, TRAINING
from centernet.benchmark.metric import coco_batches
from centernet.benchmark.record import Record, read_record
from centernet.callbacks.profile import PARTS as STEP_PARTS
from centernet.checkpoint import load_detector
from centernet.data.images import read_image
from centernet.errors import InputError
from centernet.export.agreement import MismatchError
from centernet.export.graph import Shape
from centernet.export.make import export
from centernet.module import CtdetModule
from centernet.tasks import task_names
from tests import tiny
from tests.test_module import pytestmark  # noqa: F401  the same warnings are quiet


class Here:
    """In place of a pool of processes: works in this one, as new ones would import everything first."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def submit(self, work: Callable[..., Any], *given: Any) -> Future:
        future: Future = Future()
        future.set_result(work(*given))
        return future


class Measured(NamedTuple):
    output: str  # without the line about the machine
    record: Record

    def of(self, quantity: str, **labels: Any) -> list[float]:
        """The values of this quantity, of rows with these labels."""
        return [
            row.value for row in self.record.rows if row.quantity == quantity and labels.items() <= row.labels.items()
        ]


@pytest.fixture
def measure(monkeypatch, tmp_path, capsys) -> Callable[..., Measured]:
    """Run the command in an empty folder and read what it writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("centernet.benchmark.timing.ProcessPoolExecutor", Here)

    def run(*words: object) -> Measured:
        capsys.readouterr()
        main([*map(str, words), "--json", str(tmp_path / "measured.json")])
        machine, _, output = capsys.readouterr().out.partition("\n")
        assert machine.startswith("machine: ")
        return Measured(output, read_record(tmp_path / "measured.json"))

    return run


def refusal(*words: object) -> str:
    """The sentence with which the command refuses its input."""
    with pytest.raises(InputError) as refused:
        main([str(word) for word in words])
    return str(refused.value)


NETWORK = "test_efficientnet"
FEW = ("--rounds", "1", "--warmup", "0")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory of processes is read from /proc")
def test_startup_times_two_starts_and_weighs_its_workers(measure):
    measured = measure("startup", "images=300", "boxes=900")
    assert "300 images, 900 boxes" in measured.output
    assert re.search(r"first start +\d+\.\d s .*\nsecond start +\d+\.\d s", measured.output)
    weights = re.findall(r"^batch \d+ +(\d+\.\d), +(\d+\.\d) MiB$", measured.output, re.MULTILINE)
    assert len(weights) >= 2
    assert all(float(weight) > 1 for pair in weights for weight in pair)
    assert len(measured.of("private memory")) == 2 * len(weights)
    assert len(measured.of("time")) == 2


def test_data_compares_with_bare_reading(measure, shapes):
    options = [f"data.root={shapes}", "data.train_count=24", "data.val_count=8", "resolution=[64,64]"]
    measured = measure("data", "--rounds", 2, *options)
    assert "imread" in measured.output
    (path,), (bare,) = measured.of("rate", work="data path"), measured.of("rate", work="cv2.imread")
    (ratio,) = measured.of("ratio")
    assert path > 0
    assert bare > 0
    assert 0.2 < ratio / (path / bare) < 5  # the median of the ratios, beside the ratio of the medians
    assert measured.of("bytes to the device") == [64 * 64 * 3 / 1e6]


def test_encode_takes_the_batch_of_a_training(measure, shapes):
    options = [f"data.root={shapes}", "resolution=[64,64]", "data.batch_size=4", *tiny.NETWORK_OVERRIDES]
    measured = measure("encode", *FEW, "data=shapes", "task=ctdet", *options)
    assert "ctdet: 4 images of (64, 64)" in measured.output
    assert measured.of("time", task="ctdet")[0] > 0


def test_encode_makes_up_boxes_for_the_tasks_that_learn_from_them(measure):
    measured = measure("encode", *FEW, "batch=2", "objects=3", "classes=4", "side=64")
    assert measured.record.settings["objects"] == 3
    able = {row.labels["task"] for row in measured.record.rows}
    assert {"ctdet", "ctdet_iou"} <= able < set(task_names())
    assert all(name in measured.output for name in task_names())
    assert "multi_pose       needs joints" in measured.output


def test_decode_times_every_task_and_both_searches(measure):
    measured = measure("decode", "batch=1", "side=64", "k=5", *FEW)
    tasks, peaks = measured.output.split("\n\n")
    _, header, *rows = tasks.splitlines()
    assert header.split() == ["ms", "with", "1", "class", "3", "classes", "80", "classes"]
    assert [row.split()[0] for row in rows] == task_names()
    assert all(len(row.split()) == 4 for row in rows)
    header, *rows = peaks.splitlines()
    assert header.split() == ["ms", "for", "peaks", "of", "plain", "here"]
    assert len(rows) == 4
    assert len(measured.of("time")) == 3 * len(task_names()) + 8
    assert min(measured.of("time")) > 0


def test_model_times_every_form_batch_and_number_of_threads(measure):
    forms, peer = ("eager", "bf16"), f"timm:{NETWORK}"
    measured = measure(
        *("model", NETWORK, "--size", 64, 96, "--batch", 1, 2, "--threads", 1, 2, "--classes", 3, *FEW),
        *("--forms", *forms, "--peer", peer, "--memory"),
    )
    for name, form in (*((NETWORK, form) for form in forms), (peer, "eager")):
        assert len(measured.of("time", network=name, form=form, work="forward")) == 4
        assert len(measured.of("memory", network=name, form=form)) == 2
    assert min(measured.of("time")) > 0
    assert all(megabytes >= 0 for megabytes in measured.of("memory"))
    assert measured.of("parameters") == pytest.approx([1.07, 0.1], rel=0.1)
    assert measured.of("multiply-accumulates", network=NETWORK)[0] > 0
    assert torch.get_num_threads() == measured.record.machine["threads"]  # as before


def test_model_times_training_steps(measure):
    measured = measure(
        *("model", NETWORK, "--size", 64, 64, "--batch", 2, "--backward", *FEW),
        *("--peer", f"timm:{NETWORK}", "torchvision:ssdlite320_mobilenet_v3_large"),
    )
    assert len(measured.of("time", work="step")) == 4
    assert "fused" not in measured.output  # which has no gradients


def test_detect_splits_the_time_from_file_to_boxes(measure, shapes, tmp_path):
    measured = measure(
        *("detect", NETWORK, "--size", 64, 64, "--batch", 2, "--forms", "eager", "bf16", "--rounds", 3),
        *("--peer", "torchvision:ssdlite320_mobilenet_v3_large", "--images", shapes / "val", "--memory"),
    )
    for form in ("eager", "bf16"):
        parts = {part: measured.of("time", network=NETWORK, form=form, part=part)[0] for part in DETECT_PARTS}
        assert min(parts.values()) > 0
        (whole,), (rate,) = (
            measured.of(quantity, network=NETWORK, form=form, **labels)
            for quantity, labels in (("time", {"part": "whole"}), ("rate", {}))
        )
        assert rate == pytest.approx(2000 / whole)
        assert whole > parts["network"]
    peer = measured.of("time", network="torchvision:ssdlite320_mobilenet_v3_large")
    assert len(peer) == 5  # what a detector of another library decodes is in its network
    assert len(measured.of("memory")) == 3


@pytest.mark.slow
def test_detect_runs_exported_files_beside_the_network(measure):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    measured = measure(
        *("detect", NETWORK, "--size", 64, 64, "--classes", 3, "--batch", 2, *FEW),
        *("--forms", "fused", "onnx", "--memory"),
    )
    assert measured.of("time", form="fused", part="decode")[0] > 0
    parts = [row.labels["part"] for row in measured.record.rows if row.labels["form"] == "onnx" and row.unit == "ms"]
    assert parts == ["read", "pre", "network", "post", "whole"]  # what the file decodes is in its network
    assert len(measured.of("memory", form="onnx")) == 1


def test_random_weights_may_differ_and_trained_ones_may_not(monkeypatch, tmp_path, capsys):
    def differ(*given: Any) -> None:
        raise MismatchError("3 of 4 detections of the exported file differ from PyTorch's")

    monkeypatch.setattr("centernet.export.make.export", differ)
    given = Detected([NETWORK], (64, 64))
    for form, suffix in (("openvino_int8", ".xml"), ("onnx", ".onnx")):
        made = export_files(given, [(NETWORK, form)], [], tmp_path)
        assert made == {(NETWORK, form, 1): tmp_path / f"0{suffix}"}
        assert f"{NETWORK} as {form}: 3 of 4 detections of the exported file differ" in capsys.readouterr().out
    random = detect._detector(given, NETWORK)
    monkeypatch.setattr(detect, "_detector", lambda given, name: random)
    for form in ("openvino_int8", "onnx"):
        with pytest.raises(InputError, match=f"detect: best.ckpt as {form}: 3 of 4 .*; measure another form"):
            export_files(given, [("best.ckpt", form)], [], tmp_path)


def test_detect_takes_checkpoints_and_exported_files(measure, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = CtdetModule(class_names=["a", "b"], backbone=tiny.NETWORK)
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False, max_steps=0)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    detector, description = load_detector(tmp_path / "best.ckpt")
    description["eval"] = {"resolution": [64, 96], "mode": "fit", "divisor": 32}
    files = [tiny.make_image()]
    export(detector, description, "onnx", tmp_path / "model.onnx", Shape(1, (64, 96), "uint8", "batch"), files)
    measured = measure(
        *("detect", tmp_path / "best.ckpt", tmp_path / "model.onnx", "--forms", "fused", "--batch", 1, 3, *FEW)
    )
    assert len(measured.of("time", form="fused", part="whole")) == 2
    assert len(measured.of("time", form="onnx", part="whole")) == 2


def test_detect_draws_photographs_where_none_are_given(measure):
    from centernet.benchmark.made import draw_photos

    measured = measure("detect", NETWORK, "--size", 64, 64, "--forms", "fused", *FEW)
    assert measured.of("time", part="whole")[0] > 0
    files = draw_photos(Path.cwd(), 2)
    assert [read_image(file).shape for file in files] == [(480, 640, 3)] * 2
    assert all(50_000 < file.stat().st_size < 300_000 for file in files)  # COCO's have 160 kB on average


def test_metric_times_an_evaluation_whose_result_is_known(measure):
    sizes = ("images=20", "detections=10", "classes=3", "objects=4")
    ours = measure("metric", *sizes, "--rounds", 2)
    theirs = measure("metric", *sizes, "--rounds", 1, "--backend", "pycocotools")
    assert 0 < ours.of("AP")[0] < 1
    assert ours.of("AP") == pytest.approx(theirs.of("AP"), abs=1e-6)
    update, compute, together = (ours.of("time", step=step)[0] for step in ("update", "compute", "together"))
    assert together == pytest.approx(update + compute, rel=0.5)
    assert ours.of("memory")[0] >= 0


def test_made_up_detections_are_as_many_as_asked_for_and_inside_the_images():
    batches = list(coco_batches(images=5, detections=7, classes=3, objects=4, batch=2))
    assert torch.cat([ids for _, _, ids in batches]).tolist() == [0, 1, 2, 3, 4]
    for found, truth, _ in batches:
        assert found["boxes"].shape[1:] == (7, 4)
        assert (found["boxes"][..., 2:] > found["boxes"][..., :2]).all()
        assert (found["scores"].diff(dim=1) <= 0).all()
        assert (truth["boxes"] >= 0).all()
        assert (truth["boxes"] <= torch.tensor([640, 480, 640, 480])).all()
        assert truth["valid"].sum(1).max() <= 8


def test_train_splits_a_step_into_parts_that_add_up(measure, shapes):
    options = [f"data.root={shapes}", "data.train_count=24", "data.val_count=8", "resolution=[64,64]"]
    measured = measure(
        *("train", "data=shapes", *options, *tiny.NETWORK_OVERRIDES, "data.batch_size=4", "data.num_workers=0"),
        *("--rounds", 3, "--warmup", 1, "--operators", 5),
    )
    (row,) = [row for row in measured.record.rows if row.labels.get("part") == "step"]
    assert row.spread.rounds == 3
    means = {
        row.labels["part"]: row.spread.mean
        for row in measured.record.rows
        if row.quantity == "time" and row.labels["part"] in STEP_PARTS
    }
    assert tuple(means) == STEP_PARTS
    assert sum(means.values()) == pytest.approx(row.spread.mean)
    assert all(means[part] > 0 for part in ("encode", "forward", "losses", "backward", "optimizer"))
    (rate,) = measured.of("rate")
    assert rate == pytest.approx(4000 / row.value)
    operators = [row.labels["operator"] for row in measured.record.rows if "operator" in row.labels]
    assert len(operators) == 5
    assert any("convolution" in name for name in operators)


@pytest.mark.slow
def test_train_runs_in_a_process_that_has_workers(measure, shapes, monkeypatch):
    monkeypatch.setattr("centernet.benchmark.timing.ProcessPoolExecutor", ProcessPoolExecutor)
    options = [f"data.root={shapes}", "data.train_count=24", "data.val_count=8", "resolution=[64,64]"]
    measured = measure(
        *("train", "data=shapes", *options, *tiny.NETWORK_OVERRIDES, "data.batch_size=4", "data.num_workers=1"),
        *("--rounds", 2, "--warmup", 1, "--operators", 1),
    )
    assert measured.of("time", part="step")[0] > 0
    assert measured.of("memory")[0] > 1


def test_gpu_makes_its_table_on_a_cpu_too(measure, monkeypatch):
    # Without a compiler, which would take longer than all the rest.
    monkeypatch.setattr("torch.nn.Module.compile", lambda self: None)
    few = ["--device", "cpu", "--networks", NETWORK, "--batch", "2", "--rounds", "1", "--resolution", "32"]
    with torch.backends.cudnn.flags(enabled=True):  # restores what a measurement sets
        measured = measure("gpu", *few)
    rows = [row for row in measured.record.rows if row.quantity == "time"]
    assert [(row.labels["work"], row.labels["setting"]) for row in rows] == [
        *(("train", setting) for setting in ("float32", "channels_last", "bf16", "fused", "checkpointed", "compiled")),
        *(("detect", setting) for setting in ("float32", "channels_last", "fused", "bf16", "compiled")),
    ]
    assert all(row.value > 0 and row.labels["batch"] == 2 for row in rows)
    assert len(measured.of("speed", work="train")) == 6
    assert measured.of("speed", product="bfloat16 matrices")[0] > 0
    assert len(measured.output.splitlines()) == len(rows) + 2


def test_options_add_up_except_those_that_stand_aside():
    names = [setting.name for setting in DETECTION]
    assert names[-4:] == ["+ bf16", "+ replayed", "+ compiled", "+ graphs"]
    *_, bf16, replayed, compiled, graphs = DETECTION
    assert replayed._replace(replayed=False, name="", on_cpu=True) == bf16._replace(name="")
    assert compiled._replace(compiled=False, name="") == bf16._replace(name="")
    assert (graphs.compiled, graphs.graphs, graphs.replayed) == (True, True, False)
    assert [setting.checkpointed for setting in TRAINING].count(True) == 1


def test_a_setting_that_fails_becomes_a_line(measure, monkeypatch):
    def fail(self):
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr("torch.nn.Module.compile", fail)
    few = ["--networks", NETWORK, "--batch", "1", "--rounds", "1", "--resolution", "32", "--work", "detect"]
    with torch.backends.cudnn.flags(enabled=True):
        measured = measure("gpu", "--device", "cpu", *few, "--settings", "fused", "compiled")
    assert re.search(r"\+ compiled +1  failed: RuntimeError: no compiler here", measured.output)
    assert len(measured.of("time")) == 1


def test_networks_says_what_each_network_costs(measure):
    measured = measure("networks", "n", "resnet18_half:fpn", "--size", "64", "96", "--batch", "1", "--rounds", "1")
    top, titles, *rows, note = measured.output.splitlines()
    assert "64x96, batch 1, float32" in top
    assert titles.split() == [
        *("network", "parameters", "GMACs", "backbone", "neck", "head", "rest", "step", "detect", "1")
    ]
    assert [row.split()[0] for row in rows] == ["n", "resnet18_half:fpn"]
    # The named network is this body with this neck, so both are as large.
    assert rows[0].split()[1:4] == rows[1].split()[1:4] == ["2.92", "M", "0.10"]
    *parts, step, _ = map(float, rows[0].split()[4:])
    assert sum(parts) == pytest.approx(step, abs=0.3)
    assert "one image in the inference form" in note
    assert measured.of("parameters") == pytest.approx([2.92, 2.92], abs=0.01)


def test_kitti_times_the_evaluation_of_made_up_frames(measure):
    measured = measure("kitti", "frames=20", "detections=5")
    assert "20 frames" in measured.output
    assert [row.labels["step"] for row in measured.record.rows] == ["update", "compute", "together"]


def test_bad_input_is_refused_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert refusal("kitti", "frames=no") == "'frames=no' is not an option here; use frames=N or detections=N"
    assert refusal("networks", "n", "--size", 60, 96) == ("networks: n takes sizes in multiples of 32; change --size")
    assert refusal("model", "n", "--size", 60, 96) == "model: n takes sizes in multiples of 32; change --size"
    assert refusal("gpu") == (
        "gpu: no CUDA device is available; use --device cpu, with a small --resolution and --batch"
    )
    assert refusal("model", "--device", "cuda") == "model: no CUDA device is available; use --device cpu"
    assert (
        refusal("gpu", "--device", "cpu", "--batch", "few") == "gpu: --batch few is not a size; give numbers, or most"
    )
    assert refusal("model", "--forms", "fussed").startswith("model: --forms fussed is unknown; did you mean fused")
    assert refusal("model", "--forms", "onnx") == (
        "model: --forms onnx includes decoding; measure it with the part detect"
    )
    assert refusal("model", "--backward", "--forms", "fused") == (
        "model: --forms fused has no gradients; with --backward choose from eager, channels_last, channels_last_bf16"
    )
    assert refusal("model", NETWORK, "--peer", "yolo") == (
        "--peer yolo names no network; give timm:NAME or torchvision:NAME"
    )
    assert refusal("model", NETWORK, "--peer", "timm:resnet81").startswith(
        "--peer timm:resnet81: timm has no such model"
    )
    assert "choose one of" in refusal("model", NETWORK, "--peer", "torchvision:keypointrcnn_resnet50_fpn")
    assert refusal("detect", NETWORK, "--size", 64, 64, "--peer", f"timm:{NETWORK}") == (
        f"detect: --peer timm:{NETWORK} finds no boxes; measure it with the part model"
    )
    assert refusal("detect", "absent.onnx") == (
        "absent.onnx: the file does not exist; give a checkpoint, an exported file or a network"
    )
    assert "give a folder with images" in refusal("detect", NETWORK, "--size", 64, 64, "--images", tmp_path)
    assert refusal("detect", NETWORK, "--size", 64, 64, "--images", tmp_path / "absent") == (
        f"detect: --images {tmp_path / 'absent'} does not exist; give an image or a folder of images"
    )
    assert refusal("metric", "--backend", "coco") == (
        "metric: --backend coco is unknown; choose one of faster-coco-eval, pycocotools"
    )
    assert refusal("kitti", "--json", tmp_path) == f"--json={tmp_path} is a folder; give the name of a file"
    assert refusal("kitti", "--plot", tmp_path) == f"--plot={tmp_path} is a folder; give the name of a file"


def test_help_lists_the_parts_and_the_options_of_each(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in PARTS)
    for name in PARTS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "--json" in capsys.readouterr().out
    for option, value in (("--rounds", "0"), ("--rounds", "few"), ("--warmup", "-1")):
        with pytest.raises(SystemExit):
            main(["decode", option, value])
        assert "is not a whole number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "invalid choice: 'speed'" in capsys.readouterr().err
