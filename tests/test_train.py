"""The commands from end to end: train, evaluate, resume, two processes, sweeps, interruption, and bad input.

Journeys that must cross a process are run as one (slow); the others call the command's main function in this one.
"""

from __future__ import annotations

import csv
import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants

from centernet.data.images import read_image
from centernet.folders import STAMP
from tests import tiny
from tests.commands import Result
from tests.places import ROOT
from tests.wandb_runs import read_runs

DATA = ["data.train_count=20", "data.val_count=5", "data.num_workers=0", "resolution=[64,64]"]
SHORT = [*DATA, *tiny.NETWORK_OVERRIDES, "callbacks.pictures.count=2"]
# A little larger and longer, until it has learned a dozen images so far that AP says something.
LEARNING = [
    *DATA,
    "backbone=test_resnet",
    "backbone.neck={name: dla_up, channels: 32}",
    "backbone.head_channels=16",
    "debug=overfit",
    "data.batch_size=4",
    "schedule.epochs=20",
    "schedule.lr=0.005",
]


def environment() -> dict[str, str]:
    """For a command of its own: nothing of the tests' process, one thread, no network."""
    kept = {name: value for name, value in os.environ.items() if name not in (STAMP, "PL_GLOBAL_SEED")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def start(folder: Path, script: str, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / script), *overrides]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(folder: Path, script: str, *overrides: str) -> Result:
    """Run a command as a process of its own."""
    process = start(folder, script, *overrides)
    output, _ = process.communicate(timeout=900)
    return Result(process.returncode, output, folder)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


# What cannot be as it is said.


def test_a_batch_that_the_data_cannot_fill_is_said_and_the_learning_rate_is_for_what_there_is(command):
    words = [*SHORT, "schedule.epochs=1", "schedule.lr=0.01", "schedule.lr_batch_size=10", "evaluate=false"]
    trained = command("train", *words, "data.batch_size=1000")
    assert trained.code == 0, trained.output
    assert (
        "data.batch_size=1000 is more than there is: 20 training images; a batch has 20, and the learning rate is for "
        "that"
    ) in trained.output
    assert "lr 0.01 is for a batch of 10; scaled to 0.02 for 20 (" in trained.output
    assert "is more than there is" not in command("train", *words, "data.batch_size=20").output


def test_ctrl_c_in_an_evaluation_says_so(command, monkeypatch):
    trained = command("train", *SHORT, "schedule.epochs=1", "evaluate=false")
    assert trained.code == 0, trained.output

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("centernet.callbacks.CollectDetections.on_validation_batch_end", interrupt)
    for name, words in (
        ("eval", [f"ckpt={trained.run / 'best.ckpt'}"]),
        ("train", [f"ckpt={trained.run}", "schedule.epochs=2", "evaluate=true"]),
    ):
        ended = command(name, *words)
        assert ended.code == 130, ended.output
        assert ended.output.endswith("\ninterrupted\n")
        assert "Traceback" not in ended.output
    # While data is read, before anything of Lightning's.
    monkeypatch.setattr("centernet.data.coco.CocoDataset.__init__", interrupt)
    for name, words in (("eval", [f"ckpt={trained.run / 'best.ckpt'}"]), ("train", SHORT)):
        ended = command(name, *words)
        assert (ended.code, ended.output.endswith("\ninterrupted\n")) == (130, True), ended.output


def test_an_evaluation_says_where_it_wrote_and_may_be_limited(command):
    trained = command("train", *SHORT, "schedule.epochs=1", "evaluate=false")
    assert trained.code == 0, trained.output
    evaluated = command("eval", f"ckpt={trained.run / 'best.ckpt'}", "data.limit=3", "resolution=96")
    assert evaluated.code == 0, evaluated.output
    assert (
        "\ndetections    runs/eval/run-2/detections.json (COCO results), runs/eval/run-2/metrics.json\n"
        "pictures      runs/eval/run-2/pictures/\n"
    ) in evaluated.output
    assert read_json(evaluated.folder / "runs" / "eval" / "run-2" / "metrics.json")["images"] == 3
    # On other data of the same classes, chosen as in a training.
    other = command("eval", f"ckpt={trained.run / 'best.ckpt'}", "data=coco", "data.root=data/shapes", "pictures=0")
    assert other.code == 0, other.output
    assert "pictures/" not in other.output
    assert read_json(other.folder / "runs" / "eval" / "run-3" / "metrics.json")["images"] == 5


def test_a_square_input_may_be_given_by_its_side(command):
    words = [word for word in SHORT if not word.startswith("resolution")]
    trained = command("train", *words, "resolution=64", "schedule.epochs=1", "evaluate=false")
    assert trained.code == 0, trained.output
    assert "input 64x64" in trained.output


# The first journey: train as the quickstart does, but on a dozen images; then evaluate the checkpoint.


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> Result:
    return run(tmp_path_factory.mktemp("journey"), "train.py", *LEARNING)


@pytest.mark.slow
def test_training_ends_well_and_leaves_everything_in_the_run_folder(journey):
    assert journey.code == 0, journey.output
    names = {path.name for path in journey.run.iterdir()}
    wanted = (
        "best.ckpt last.ckpt metrics.json detections.json curves.png history.csv hparams.yaml run.log pictures .hydra"
    )
    assert set(wanted.split()) <= names
    assert "metrics.csv" not in names  # history.csv has its numbers
    assert list((journey.run / "tensorboard").glob("events*"))  # installed with the tests
    assert read_image(journey.run / "curves.png").std() > 5
    pictures = sorted((journey.run / "pictures").iterdir())
    assert [path.name for path in pictures] == ["train_batches.png", *(f"val_{n:02d}.png" for n in range(8))]
    assert all(read_image(path).shape[0] >= 200 for path in pictures)
    rows = rows_of(journey.run / "history.csv")
    assert [int(float(row["epoch"])) for row in rows] == list(range(1, 21))
    for name in ("train/loss/heatmap", "val/loss/box", "val/AP50", "lr", "images_per_second"):
        assert name in rows[0]


@pytest.mark.slow
def test_a_dozen_images_are_learned_by_heart(journey):
    losses = [float(row["train/loss"]) for row in rows_of(journey.run / "history.csv")]
    assert losses[-1] < losses[0] / 2  # not less: the cross-entropy of a predicted overlap does not approach 0
    metrics = read_json(journey.run / "metrics.json")
    assert metrics["metrics"]["AP50"] > 0.3
    assert metrics["images"] == 12


@pytest.mark.slow
def test_what_was_reached_and_where_it_lies_is_said(journey):
    metrics = read_json(journey.run / "metrics.json")
    assert f"AP    {metrics['metrics']['AP']:6.3f}" in journey.output
    for name in ("disc", "box", "triangle", "star"):
        assert f"\n{name}" in journey.output
        assert set(metrics["per_class"][name]) == {"AP", "AP50", "AR100", "objects"}
    shown = journey.run.relative_to(journey.folder)
    for words in ("best.ckpt", "curves.png", "pictures/", "detections.json", f"next: python eval.py ckpt={shown}/best"):
        assert words in journey.output
    assert journey.output.count("\nepoch ") == 20
    assert "Traceback" not in journey.output
    assert "Warning" not in journey.output
    assert "run folder: " in (journey.run / "run.log").read_text()


@pytest.mark.slow
def test_the_best_and_not_the_last_weights_are_evaluated(journey):
    best = max(float(row["val/AP"]) for row in rows_of(journey.run / "history.csv"))
    assert read_json(journey.run / "metrics.json")["metrics"]["AP"] == pytest.approx(best, abs=1e-6)


@pytest.mark.slow
def test_detections_are_written_as_coco_results(journey):
    from pycocotools.coco import COCO

    truth = COCO(str(journey.folder / "data" / "shapes" / "annotations" / "instances_train.json"))
    found = truth.loadRes(str(journey.run / "detections.json"))
    ids = {row["image_id"] for row in found.dataset["annotations"]}
    assert ids == set(sorted(truth.getImgIds())[:12])
    assert {row["category_id"] for row in found.dataset["annotations"]} <= set(truth.getCatIds())


@pytest.mark.slow
def test_evaluating_the_checkpoint_needs_nothing_else_and_gives_the_same_again(journey):
    evaluated = run(journey.folder, "eval.py", f"ckpt={journey.run / 'best.ckpt'}")
    assert evaluated.code == 0, evaluated.output
    folder = max((journey.folder / "runs" / "eval").iterdir())
    first, second = (read_json(path / "metrics.json") for path in (journey.run, folder))
    assert second["metrics"] == pytest.approx(first["metrics"], abs=1e-6, nan_ok=True)
    assert second["per_class"].keys() == first["per_class"].keys()
    assert (folder / "detections.json").is_file()
    assert len(list((folder / "pictures").iterdir())) == 8
    assert f"AP    {first['metrics']['AP']:6.3f}" in evaluated.output


@pytest.mark.slow
def test_other_data_of_the_same_classes_is_evaluated_by_its_folder(journey, command, shapes):
    evaluated = command("eval", f"ckpt={journey.run / 'best.ckpt'}", f"data.root={shapes}", "pictures=0")
    assert evaluated.code == 0, evaluated.output
    metrics = read_json(evaluated.folder / "runs" / "eval" / "run-1" / "metrics.json")
    assert metrics["images"] == 8
    assert metrics["annotations"] == str(shapes / "annotations" / "instances_val.json")


@pytest.mark.slow
def test_other_modes_of_inference_are_evaluated_by_name(journey, command, shapes):
    words = [f"ckpt={journey.run / 'best.ckpt'}", f"data.root={shapes}", "pictures=1"]
    plain = command("eval", *words)
    found = command("eval", *words, "inference=multiscale", "inference.scales=[0.5,1]", "inference.tiles=[32,64]")
    assert found.code == 0, found.output
    assert "flip, scales 0.5, 1, tiles of 32x64, soft NMS" in found.output
    first, second = (
        read_json(found.folder / "runs" / "eval" / f"run-{number}" / "metrics.json")["metrics"] for number in (1, 2)
    )
    assert "flip" not in plain.output
    assert 0 < second["AP"] != first["AP"]
    refused = command("eval", *words, "inference=published")
    assert refused.code == 2
    assert "but no preset is given; add experiment=NAME" in refused.output
    files = [f"data.val_annotations={shapes}/annotations/instances_val.json", f"data.val_images={shapes}/val"]
    preset = ["experiment=ctdet_voc_dla34_512", "data=voc_coco", "inference=published", "resolution=[64,64]"]
    published = command("eval", *words[:1], *files, *preset, "pictures=0")
    assert published.code == 0, published.output
    assert "images of" in published.output
    assert ", flip\n" in published.output


@pytest.mark.slow
def test_an_evaluation_says_what_goes_wrong(journey, command, shapes):
    found = command("eval", f"ckpt={journey.run / 'best.ckpt'}", f"data.root={shapes}", "pictures=0")
    assert found.code == 0, found.output
    folder = found.folder / "runs" / "eval" / "run-1"
    content = read_json(folder / "analysis" / "analysis.json")
    assert content["AP50"] == pytest.approx(read_json(folder / "metrics.json")["metrics"]["AP50"], abs=1e-6)
    assert (folder / "analysis" / "report.html").read_text().count("<img") >= 5
    for kind, about in content["errors"].items():
        assert f"{kind:<12}{about['count']:>8}{about['cost']:>11.3f}" in found.output
    assert f"best threshold {content['best']['threshold']:.2f}" in found.output
    silent = command("eval", f"ckpt={journey.run / 'best.ckpt'}", f"data.root={shapes}", "pictures=0", "analysis=false")
    assert "best threshold" not in silent.output


@pytest.mark.slow
def test_an_oracle_says_what_each_head_costs(journey, command, shapes):
    words = [f"ckpt={journey.run / 'best.ckpt'}", f"data.root={shapes}", "pictures=0"]
    found = command("eval", *words, "oracle=ladder")
    assert found.code == 0, found.output
    folder = found.folder / "runs" / "eval" / "run-1"
    results = read_json(folder / "oracle.json")
    assert list(results) == ["none", "heatmap", "box", "all"]
    assert results["none"]["AP"] == pytest.approx(read_json(folder / "metrics.json")["metrics"]["AP"], abs=1e-6)
    assert results["none"]["AP"] < results["all"]["AP"]
    assert results["all"]["AP"] > 0.9
    assert read_image(folder / "oracle.png").std() > 5
    assert "truth for" in found.output
    assert f"{results['all']['AP'] - results['none']['AP']:+9.3f}" in found.output
    refused = command("eval", *words, "oracle=[boxes]")
    assert refused.code == 2
    assert "oracle=boxes is not a head of task ctdet_iou; did you mean box" in refused.output


@pytest.mark.slow
def test_data_of_other_classes_is_not_evaluated(journey, command, tmp_path):
    tiny.make_coco(tmp_path / "pets", split="val")
    refused = command("eval", f"ckpt={journey.run / 'best.ckpt'}", "data.root=pets")
    assert refused.code != 0
    assert "has the classes cat, dog but disc, box, triangle, star are required" in refused.output
    assert "Traceback" not in refused.output


@pytest.mark.slow
def test_another_training_starts_from_a_checkpoint_by_class_name(journey, command, tmp_path):
    for split in ("train", "val"):
        tiny.make_coco(
            tmp_path / "mine",
            [{"image_id": 1, "bbox": [4, 4, 20, 10]}],
            categories=[{"id": 1, "name": "star"}, {"id": 2, "name": "moon"}],
            split=split,
        )
    backbone = LEARNING[4:7]
    options = [
        "data=coco",
        "data.root=mine",
        "resolution=[64,64]",
        "data.num_workers=0",
        "schedule.epochs=1",
        *backbone,
    ]
    started = command("train", *options, f"pretrained={journey.run / 'best.ckpt'}")
    assert started.code == 0, started.output
    assert "star" in started.output
    assert "moon" in started.output


# Going on.


def test_a_checkpoint_brings_its_settings_and_what_is_said_besides_is_said_to_differ(command, monkeypatch):
    words = [*SHORT, "schedule.epochs=1", "schedule.lr=0.003", "evaluate=false", "data.batch_size=4"]
    first = command("train", *words)
    assert first.code == 0, first.output
    # Weights are never fetched: those of the checkpoint take their place.
    monkeypatch.setattr("centernet.models.centernet.check_hub", lambda name: pytest.fail("weights are fetched"))
    more = ["schedule.epochs=2", "data.batch_size=5", "pretrained=true"]
    again = command("train", f"ckpt={first.run / 'last.ckpt'}", *more)
    assert again.code == 0, again.output
    assert again.run != first.run
    assert f"last.ckpt brings its settings: {' '.join(SHORT[:4])}" in again.output
    assert "differs from the checkpoint, which counts from now on: " in again.output
    assert "pretrained false -> true, data.batch_size 4 -> 5" in again.output
    assert "this run's are used: schedule.epochs 1 -> 2" in again.output
    assert "epoch   2/2" in again.output
    config = torch.load(again.run / "last.ckpt", weights_only=True)["centernet"]["config"]
    assert config["schedule"]["lr"] == 0.003
    assert config["backbone"]["name"] == "test_efficientnet"
    # It records all of them, for a third one and for ckpt=auto.
    recorded = yaml.safe_load((again.run / ".hydra" / "overrides.yaml").read_text())
    assert set(recorded) == {*words, *more, f"ckpt={first.run / 'last.ckpt'}"} - {words[-4], words[-1]}
    # A checkpoint that was moved knows them too.
    moved = first.folder / "moved.ckpt"
    moved.write_bytes((again.run / "last.ckpt").read_bytes())
    third = command("train", f"ckpt={moved}", "schedule.epochs=3")
    assert third.code == 0, third.output
    assert "epoch   3/3" in third.output
    assert "differs from the checkpoint" not in third.output


def test_what_a_checkpoint_cannot_continue_with_is_refused_in_one_sentence(command):
    first = command("train", *SHORT, "schedule.epochs=2", "evaluate=false")
    assert first.code == 0, first.output
    last = first.run / "last.ckpt"
    for words, sentence in {
        (): "already trained 2 epochs; raise schedule.epochs, which is 2",
        ("schedule.epochs=1",): "already trained 2 epochs; raise schedule.epochs, which is 1",
        ("schedule.epochs=3", "backbone=test_resnet"): (
            "the checkpoint does not match this run: its network is test_efficientnet, this run's is test_resnet; add "
            "backbone=test_efficientnet, or start a new run from its weights with pretrained=CHECKPOINT"
        ),
        ("schedule.epochs=3", "backbone.head_channels=8"): (
            "the checkpoint does not match this run: backbone.head_channels is 16 there and 8 in this run; use the same"
        ),
        ("schedule.epochs=3", "task=ctdet"): "its task is ctdet_iou, this run's is ctdet; add task=ctdet_iou",
    }.items():
        for ckpt in (last, first.run):
            refused = command("train", f"ckpt={ckpt}", *words)
            assert refused.code == 2
            (line,) = [line for line in refused.output.splitlines() if line.startswith("error: ")]
            assert sentence in line
            assert "Traceback" not in refused.output
            assert "training took" not in refused.output
    # What was refused is not what the run was made from, so that its own words still bring it on and find it.
    assert yaml.safe_load((first.run / ".hydra" / "overrides.yaml").read_text())[: len(SHORT)] == SHORT
    assert read_json(first.run / "status.json")["state"] == "finished"
    # The same command again is not refused: a script repeats it until it ends well.
    same = command("train", *SHORT, "schedule.epochs=2", "evaluate=false", "ckpt=auto")
    assert same.code == 0, same.output
    assert "\nalready trained 2 epochs; raise schedule.epochs, which is 2\n" in same.output
    assert "training took" not in same.output


def test_the_next_commands_work_as_they_are_printed_for_data_of_ones_own(command, figures, monkeypatch):
    images = [f"data.{split}_images={figures / split}" for split in ("train", "val")]
    files = [f"data.{s}_annotations={figures}/annotations/person_keypoints_{s}.json" for s in ("train", "val")]
    few = ["pretrained=false", "data.num_workers=0", "data.limit=4", "data.batch_size=2", "schedule.epochs=1"]
    words = ["task=multi_pose_iou", "data=coco", *files, *images, *few, "resolution=[64,64]", *tiny.NETWORK_OVERRIDES]
    trained = command("train", *words, "paths.run=runs/my run")
    assert trained.code == 0, trained.output
    assert "YOUR_DATA" not in trained.output
    lines = trained.output.partition("\nnext: ")[2].splitlines()
    commands = [shlex.split(line) for line in lines if line.strip().startswith("python ")][:3]
    assert [line[:2] for line in commands] == [
        ["python", "eval.py"],
        ["python", "scripts/demo.py"],
        ["python", "train.py"],
    ]
    evaluated = command("eval", *commands[0][2:])
    assert evaluated.code == 0, evaluated.output
    monkeypatch.setattr(sys, "argv", commands[1][1:])
    runpy.run_path(str(ROOT / "scripts" / "demo.py"), run_name="__main__")
    went_on = command("train", *commands[2][2:])
    assert went_on.code == 0, went_on.output
    assert went_on.run == trained.run
    assert "epoch   2/2" in went_on.output


def test_for_built_in_data_a_command_for_data_of_ones_own_is_shown(journey):
    assert "\nyour own data: python train.py task=ctdet_iou data=auto data.root=YOUR_DATA\n" in journey.output


def test_one_epoch_and_another_after_a_resume_equal_two(command):
    straight = command("train", *SHORT, "schedule.epochs=2", "evaluate=false")
    assert straight.code == 0, straight.output
    first = command("train", *SHORT, "schedule.epochs=2", "evaluate=false", "trainer.max_epochs=1")
    last = first.run / "last.ckpt"
    resumed = command("train", *SHORT, "schedule.epochs=2", "evaluate=false", f"ckpt={last}")
    assert resumed.code == 0, resumed.output
    runs = [resumed.folder / "runs" / "train" / f"run-{n}" for n in (1, 2, 3)]
    wanted, halfway, found = (weights(path / "last.ckpt") for path in runs)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert not all(torch.equal(wanted[name], halfway[name]) for name in wanted)
    # The history goes on as well.
    histories = [rows_of(path / "history.csv") for path in (runs[0], runs[2])]
    assert [row["train/loss"] for row in histories[0]] == [row["train/loss"] for row in histories[1]]
    assert len(histories[1]) == 2
    # What does not concern the weights may change: the data's format, how many objects are found.
    found_less = command(
        "train",
        *(word for word in SHORT if not word.startswith(("data.train_count", "data.val_count"))),
        "data=coco",
        f"data.root={straight.folder}/data/shapes",
        "pretrained=false",
        "task.heatmap.max_detections=50",
        "schedule.epochs=2",
        "evaluate=false",
        f"ckpt={last}",
    )
    assert found_less.code == 0, found_less.output
    assert "epoch   2/2" in found_less.output


def test_a_network_learns_from_a_teacher_and_its_run_goes_on_by_the_same_command(command):
    large = [*SHORT, "backbone.head_channels=32", "schedule.epochs=1", "evaluate=false"]
    teacher = command("train", *large)
    assert teacher.code == 0, teacher.output
    words = [*SHORT, "schedule.epochs=2", f"teacher={teacher.run / 'last.ckpt'}"]
    first = command("train", *words, "trainer.max_epochs=1", "evaluate=false", "ckpt=auto")
    assert first.code == 0, first.output
    rest = command("train", *words, "trainer.max_epochs=2", f"ckpt={first.run}")
    assert rest.code == 0, rest.output
    rows = rows_of(first.run / "history.csv")
    assert len(rows) == 2
    assert all(float(row["train/loss/teacher"]) > 0 for row in rows)
    # The teacher is not needed any more.
    (teacher.run / "last.ckpt").unlink()
    evaluated = command("eval", f"ckpt={first.run / 'best.ckpt'}")
    assert evaluated.code == 0, evaluated.output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on_to_the_same_end(command, tmp_path, number):
    words = [*SHORT, "schedule.epochs=30", "evaluate=false", "data.batch_size=4"]
    process = start(tmp_path, "train.py", *words, "paths.run=stopped")
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if line.startswith("epoch   2/30"):
            process.send_signal(number)
            break
    rest, _ = process.communicate(timeout=300)
    output += rest
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    last = tmp_path / "stopped" / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert f"interrupted; checkpoint {last} saved after step {step}" in output
    (line,) = [line for line in output.splitlines() if line.startswith("resume with: ")]
    given = shlex.split(line.removeprefix("resume with: python train.py "))
    assert given == [*words, "paths.run=stopped", f"ckpt={last}"]
    # The printed command works, and ends where a run ends that nobody stops.
    went_on = command("train", *given)
    assert went_on.code == 0, went_on.output
    assert "epoch  30/30" in went_on.output
    assert "epoch   1/30" not in went_on.output
    straight = command("train", *words, "paths.run=straight")
    assert straight.code == 0, straight.output
    wanted, found = (weights(tmp_path / name / "last.ckpt") for name in ("straight", "stopped"))
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    wanted_rows, found_rows = (rows_of(tmp_path / name / "history.csv") for name in ("straight", "stopped"))
    assert [row["train/loss"] for row in wanted_rows] == [row["train/loss"] for row in found_rows]


@pytest.mark.slow
def test_ctrl_c_in_the_final_evaluation_leaves_the_last_checkpoint_as_it_is(tmp_path):
    process = start(tmp_path, "train.py", *SHORT, "schedule.epochs=2", "data.val_count=200", "paths.run=here")
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if line.startswith("training took"):
            before = (tmp_path / "here" / "last.ckpt").read_bytes()
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output + rest
    assert "interrupted" in rest
    assert "Traceback" not in output + rest
    assert (tmp_path / "here" / "last.ckpt").read_bytes() == before


def test_a_run_continues_in_its_own_folder_by_the_same_command_or_by_its_folder(command):
    words = [*SHORT, "evaluate=false", "schedule.epochs=3"]
    first = command("train", *words, "trainer.max_epochs=1", "ckpt=auto")
    assert "no run to continue; starting a new one" in first.output
    # Another command is another run.
    other = command("train", *words, "trainer.max_epochs=2", "ckpt=auto")
    assert other.run != first.run
    again = command("train", *words, "trainer.max_epochs=1", "schedule.epochs=3", "ckpt=auto")
    assert again.run.name == "run-3"  # a word more
    by_folder = command("train", *words, "trainer.max_epochs=2", f"ckpt={first.run}")
    assert by_folder.run == first.run
    assert f"continuing from {first.run / 'last.ckpt'}" in by_folder.output
    same = command("train", *words, "trainer.max_epochs=2", "ckpt=auto")
    assert same.run == first.run  # the newest of the two with these words
    assert [row["epoch"] for row in rows_of(first.run / "history.csv")] == ["1", "2"]
    damaged = first.run / "last.ckpt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    repaired = command("train", *words, "trainer.max_epochs=2", "ckpt=auto")
    assert repaired.code == 0, repaired.output
    assert "taking the one before" in repaired.output
    assert f"continuing from {first.run / 'previous.ckpt'}" in repaired.output
    refused = command("train", *words, "ckpt=data")
    assert refused.code == 2
    assert "error: ckpt=data holds no whole checkpoint; give a run folder or a checkpoint file" in refused.output


def test_a_finished_run_that_is_continued_is_evaluated_by_its_best_weights_again(command):
    words = [*SHORT, "schedule.epochs=2", "callbacks.average.decay=0.5", "schedule.lr=0.01", "ckpt=auto"]
    first = command("train", *words)
    found = read_json(first.run / "detections.json")
    again = command("train", *words)
    assert again.run == first.run
    assert len(found) > 100
    assert read_json(again.run / "detections.json") == found


def test_a_training_without_validation_ends_well(command):
    trained = command("train", *SHORT, "schedule.epochs=1", "trainer.limit_val_batches=0")
    assert trained.code == 0, trained.output
    assert "nothing was validated (trainer.limit_val_batches=0), so there is nothing to evaluate" in trained.output
    assert (trained.run / "last.ckpt").is_file()


def test_a_learning_rate_is_found_before_training_where_that_is_wanted(command):
    trained = command("train", *SHORT, "schedule.epochs=1", "evaluate=false", "tune.lr=true", "data.batch_size=2")
    assert trained.code == 0, trained.output
    (line,) = [line for line in trained.output.splitlines() if line.startswith("learning rate: ")]
    found = float(line.split()[2])
    schedule = torch.load(trained.run / "last.ckpt", weights_only=True)["centernet"]["module"]["schedule"]
    assert schedule["lr"] == pytest.approx(found, rel=0.05)
    assert schedule["lr_batch_size"] is None
    assert line.endswith(f"(schedule.lr={found:.2g} schedule.lr_batch_size=null)")
    assert [row["epoch"] for row in rows_of(trained.run / "history.csv")] == ["1"]
    refused = command("train", *SHORT, "tune.batch_size=true")
    assert refused.code == 2
    assert "error: tune.batch_size=true needs a GPU, whose memory it fills; set data.batch_size=N" in refused.output


# Several at once.


@pytest.mark.slow
def test_two_processes_share_the_images_one_folder_and_one_log(command, tmp_path):
    # Five validation images on two processes: the sampler pads with one that must not count twice.
    result = run(tmp_path, "train.py", *SHORT, "trainer=ddp_cpu", "schedule.epochs=1", "data.batch_size=4")
    assert result.code == 0, result.output
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    assert sorted(path.name for path in folder.glob("*.log")) == ["run.log"]
    assert "batch 4 x 2" in result.output
    assert result.output.count("epoch   1/1") == 1
    assert result.output.count("run folder:") == 1
    content = read_json(tmp_path / "data" / "shapes" / "annotations" / "instances_val.json")
    metrics = read_json(folder / "metrics.json")
    counted = sum(values["objects"] for values in metrics["per_class"].values())
    assert counted == sum(not row["iscrowd"] for row in content["annotations"])
    per_image: dict[int, int] = {}
    for row in read_json(folder / "detections.json"):
        per_image[row["image_id"]] = per_image.get(row["image_id"], 0) + 1
    assert sorted(per_image) == sorted(image["id"] for image in content["images"])
    assert set(per_image.values()) == {100}
    # One process gives the numbers of two.
    alone = command("eval", f"ckpt={folder / 'best.ckpt'}", "pictures=0")
    assert alone.code == 0, alone.output
    single = read_json(tmp_path / "runs" / "eval" / "run-1" / "metrics.json")
    assert single["metrics"] == pytest.approx(metrics["metrics"], abs=1e-6, nan_ok=True)


@pytest.mark.slow
def test_a_sweep_has_a_folder_per_run_and_a_table(command):
    swept = command("train", "-m", *SHORT, "schedule.epochs=1", "task.heatmap.max_detections=10,20", "logger=csv")
    assert swept.code == 0, swept.output
    folder = swept.folder / "runs" / "sweep" / "run-1"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["0", "1"]
    rows = rows_of(folder / "sweep.csv")
    assert [row["run"] for row in rows] == ["0", "1"]
    for n, row in enumerate(rows):
        assert row["task.heatmap.max_detections"] == str(10 * (n + 1))
        assert float(row["AP"]) == pytest.approx(read_json(folder / str(n) / "metrics.json")["metrics"]["AP"])
        assert (folder / str(n) / "run.log").is_file()
        assert (folder / str(n) / "best.ckpt").is_file()
    assert f"table: {folder.relative_to(swept.folder) / 'sweep.csv'}" in swept.output


# Loggers and help.


@pytest.mark.parametrize("logger", ["default", "csv", "tensorboard", "wandb"])
def test_every_logger_writes_into_the_run_folder_and_knows_the_whole_configuration(command, logger):
    # Offline: W&B sends nothing, and leaves a file that `wandb sync` would send.
    logged = command("train", *SHORT, "schedule.epochs=1", "schedule.lr=0.0123", "evaluate=false", f"logger={logger}")
    assert logged.code == 0, logged.output
    curves, hparams = {
        "default": ("tensorboard/events*", "hparams.yaml"),
        "csv": ("history.csv", "hparams.yaml"),
        "tensorboard": ("tensorboard/events*", "tensorboard/hparams.yaml"),
        "wandb": ("wandb/offline-run-*/*.wandb", "wandb/offline-run-*/*.wandb"),
    }[logger]
    assert len(list(logged.run.glob(curves))) == 1
    assert not (logged.run / "metrics.csv").exists()
    assert (logged.run / "tensorboard").exists() == (logger in ("default", "tensorboard"))
    (path,) = logged.run.glob(hparams)
    config = read_runs(logged.run)[0].config if logger == "wandb" else yaml.safe_load(path.read_text())
    assert config["schedule"]["lr"] == 0.0123
    assert config["task"]["name"] == "ctdet_iou"
    assert config["data"]["_target_"].endswith("ShapesDataModule")
    assert config["data"]["train_count"] == 20
    # Resolved, and the same that the checkpoint carries.
    wanted = torch.load(logged.run / "last.ckpt", weights_only=True)["centernet"]["config"]
    assert {name: config.get(name) for name in wanted} == wanted
    assert wanted["data"]["resolution"] == [64, 64]


def test_help_names_every_group_and_loads_nothing_heavy(tmp_path):
    spy = (
        "import atexit, runpy, sys\n"
        "heavy = {'torch', 'pytorch_lightning', 'timm', 'albumentations', 'wandb'}\n"
        "atexit.register(lambda: print('loaded:', sorted(heavy & set(sys.modules))))\n"
        f"sys.argv = ['train.py', '--help']; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    shown = subprocess.run([sys.executable, "-c", spy], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "loaded: []" in shown.stdout
    assert "python train.py data=coco data.root=DIR" in shown.stdout
    for folder in (ROOT / "configs").iterdir():
        if folder.is_dir() and folder.name != "hydra":
            assert f"\n{folder.name}: " in shown.stdout
    assert not list(tmp_path.iterdir())


# Bad input: one sentence, an exit code, no traceback.


def test_a_misspelt_choice_is_answered_before_anything_heavy_is_loaded(tmp_path):
    result = run(tmp_path, "train.py", "task=ctdt")
    assert result.code == 2
    assert result.output.startswith("error: unknown task 'ctdt'; did you mean ctdet")
    assert result.output.count("\n") == 1


@pytest.fixture
def pets(tmp_path) -> Path:
    """A small COCO folder of the user's own."""
    for split in ("train", "val"):
        tiny.make_coco(tmp_path / "pets", [{"image_id": 1, "bbox": [4, 4, 20, 10]}], split=split)
    return tmp_path / "pets"


OWN = [
    "data=coco",
    "data.root=pets",
    "pretrained=false",
    "data.num_workers=0",
    "resolution=[64,64]",
    *tiny.NETWORK_OVERRIDES,
]


def damage(pets: Path, how: str) -> None:
    """Make something about the user's files wrong."""
    path = pets / "annotations" / "instances_train.json"
    content = read_json(path)
    if how == "no json":
        path.unlink()
    elif how == "no categories":
        del content["categories"]
    elif how == "no annotations":
        del content["annotations"]
    elif how == "lost image":
        content["annotations"][0]["image_id"] = 77
    elif how == "lost category":
        content["annotations"][0]["category_id"] = 77
    elif how == "truncated image":
        for image in (pets / "train").iterdir():
            image.write_bytes(image.read_bytes()[:80])
    elif how == "missing image":
        (pets / "train" / "2.png").unlink()
    if path.exists():
        path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("overrides", "how", "message"),
    [
        (
            ["data.root=nowhere"],
            "",
            "data.root=nowhere is not an existing folder; give the folder that holds the data",
        ),
        (["data.root=null"], "", "no data given; set data.root=DIR"),
        ([], "no json", "no train annotations in pets: looked for annotations/instances_SPLIT.json, "),
        ([], "no categories", "pets/annotations/instances_train.json has no 'categories'"),
        ([], "no annotations", "pets/annotations/instances_train.json has no 'annotations'"),
        ([], "lost image", "annotation 1 refers to image 77, which is not in the json's images"),
        ([], "lost category", "annotation 1 refers to category 77, which is not in the json's categories"),
        (
            [],
            "missing image",
            "1 of 2 images of pets/annotations/instances_train.json are not in pets/train (first: 2.png)",
        ),
        ([], "truncated image", "image pets/train/1.png is truncated"),
        (["data.num_workers=1"], "truncated image", "is truncated (a PNG without its end); replace or remove it"),
        (["resolution=[100,100]"], "", "input 100x100 is not divisible by 32; use 96x96, 128x128"),
        (["resolution=[101,64]"], "", "input 101x64 is not divisible by"),
        (["backbone=resnet81"], "", "unknown backbone 'resnet81'; did you mean resnet18"),
        (["task=ctdt"], "", "unknown task 'ctdt'; did you mean ctdet"),
        (["data=cocoo"], "", "unknown data 'cocoo'; did you mean coco"),
        (["backbone=vit_tiny_patch16_224"], "", "vit_tiny_patch16_224"),
        (["backbone.neck={name: deconf}"], "", "unknown neck 'deconf'; choose one of "),
        (
            ["task=ctdet", "task.heatmap.radius=round"],
            "",
            "task.heatmap.radius=round is not possible; give centernet, cornernet or proportional",
        ),
        (["+augment.flipp=1"], "", "augment.flipp is unknown; did you mean augment.flip?"),
        (
            ["+augment.color.tint=1"],
            "",
            "augment.color.tint is unknown; augment.color has brightness, contrast, ",
        ),
        (["data.test_mode=fill"], "", "data.test_mode=fill is not possible; give fit, keep, stretch or width"),
        (["+task.box.los=giou"], "", "task ctdet_iou: box has no option 'los'; did you mean loss"),
        (
            ["pretrained=absent.pth"],
            "",
            "pretrained=absent.pth is not an existing file; give a weight file, true or false",
        ),
        (["teacher=absent.ckpt"], "", "absent.ckpt: the file does not exist; give a checkpoint"),
        (["ckpt=absent.ckpt"], "", "absent.ckpt: the file does not exist; give a checkpoint"),
        (["ckpt=pets/train/1.png"], "", "pets/train/1.png: the file is not a PyTorch checkpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence_and_an_exit_code(command, pets, overrides, how, message):
    damage(pets, how)
    given = {override.partition("=")[0]: override for override in [*OWN, *overrides]}
    if any(override.startswith("backbone=") for override in overrides):
        given = {name: override for name, override in given.items() if not name.startswith("backbone.")}
    result = command("train", *given.values())
    assert result.code != 0
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in result.output


def test_unreadable_images_are_skipped_and_counted_where_that_is_wanted(command, pets):
    (pets / "train" / "2.png").write_bytes(b"no image")
    result = command(
        "train", *OWN, "data.on_bad_image=skip", "schedule.epochs=1", "evaluate=false", "data.batch_size=2"
    )
    assert result.code == 0, result.output
    assert "skipped 1 unreadable images so far" in result.output


def test_weights_from_the_hub_are_refused_in_one_sentence_when_there_is_no_hub(command, pets, monkeypatch):
    started = time.perf_counter()
    # As HF_HUB_OFFLINE and HF_HUB_CACHE would set them: no hub, and nothing of it in an empty folder.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(pets.parent / "cache"))
    overrides = [o for o in OWN if "pretrained" not in o and not o.startswith("backbone")]
    result = command("train", *overrides, "pretrained=true", "backbone=resnet34")
    assert result.code != 0
    assert "error: pretrained weights of 'resnet34' cannot be downloaded from huggingface.co" in result.output
    assert "set pretrained=false for random weights, or pretrained=FILE for a local file" in result.output
    assert "Traceback" not in result.output
    assert time.perf_counter() - started < 60  # a second by itself


def test_a_checkpoint_of_other_classes_is_not_continued(command, pets):
    trained = command("train", *OWN, "schedule.epochs=1", "evaluate=false")
    assert trained.code == 0, trained.output
    content = json.loads((pets / "annotations" / "instances_train.json").read_text())
    for split in ("train", "val"):
        content["categories"].append({"id": 3, "name": "bird"})
        (pets / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        content["categories"].pop()
    refused = command("train", *OWN, f"ckpt={trained.run / 'last.ckpt'}", "schedule.epochs=2")
    assert refused.code != 0
    assert "error: the checkpoint does not match this run: it has 2 classes, this run has 3" in refused.output
    assert "Traceback" not in refused.output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "no checkpoint given; set ckpt=RUN/best.ckpt"),
        (["ckpt=absent.ckpt"], "absent.ckpt: the file does not exist; give a checkpoint"),
    ],
)
def test_evaluation_says_what_is_missing(command, overrides, message):
    result = command("eval", *overrides)
    assert result.code != 0
    assert f"error: {message}" in result.output
    assert "Traceback" not in result.output


def test_a_loss_that_is_no_number_ends_the_command_with_the_images(command, pets):
    result = command("train", *OWN, "schedule.epochs=3", "schedule.lr=1e30", "schedule.lr_batch_size=null")
    assert result.code != 0
    assert "loss is nan in epoch" in result.output
    assert "image ids [" in result.output
    assert "Traceback" not in result.output


def test_a_misspelt_key_is_named(command):
    result = command("train", "schedule.learning_rate=1")
    assert result.code != 0
    assert "error: schedule.learning_rate is unknown; schedule has optimizer, lr, " in result.output
    assert "Traceback" not in result.output
