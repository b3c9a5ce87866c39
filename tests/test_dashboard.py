"""Dashboards: what a run shows in Weights & Biases, read back from the files of offline runs, and in TensorBoard."""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import wandb

from centernet import build
from centernet.callbacks import (
    BestAndLast,
    Dashboard,
    History,
    Pictures,
    TensorBoardRun,
    WandbRun,
    finished_run,
    tensorboard_if_installed,
)
from centernet.callbacks.dashboard import LONGEST, git_state, media_of
from centernet.callbacks.pictures import Shown
from centernet.data.coco import CocoDataModule
from centernet.data.images import read_image
from centernet.data.kitti import KittiDataModule
from centernet.errors import InputError
from centernet.module import CtdetModule, DddModule, MultiPoseModule
from centernet.visualize import Look
from tests import test_module, tiny
from tests.test_configs import compose_run
from tests.test_module import SHAPES, build_data, build_trainer
from tests.wandb_runs import OfflineRun, read_runs

pytestmark = [*test_module.pytestmark, pytest.mark.filterwarnings("ignore:Checkpoint directory.*")]
SHORT = [
    *("data.train_count=8", "data.val_count=4", "data.num_workers=0", "resolution=[64,64]", "schedule.epochs=1"),
    *tiny.NETWORK_OVERRIDES,
    *("callbacks.pictures.count=1", "logger=wandb"),
]


def build_module() -> CtdetModule:
    pl.seed_everything(0, verbose=False)
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK)
    tiny.enliven(module.detector.network)
    return module


@pytest.fixture(autouse=True)
def no_run_is_left() -> Iterator[None]:
    yield
    wandb.finish()


def train(folder: Path, shapes: Path, **options: Any) -> OfflineRun:
    """Train two epochs and evaluate the best, as the command does."""
    pictures = Pictures(folder / "pictures", count=3, every=1, threshold=0.0)
    with finished_run():
        callbacks = [BestAndLast(folder), History(folder), pictures, Dashboard(classes=2)]
        trainer = build_trainer(folder, max_epochs=2, callbacks=callbacks, logger=WandbRun(folder, **options))
        module, data = build_module(), build_data(shapes, batch_size=8)
        trainer.fit(module, data)
        trainer.validate(module, data, ckpt_path=folder / "best.ckpt", verbose=False, weights_only=True)
    (made,) = read_runs(folder)
    return made


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory) -> OfflineRun:
    return train(tmp_path_factory.mktemp("runs") / "2000-01-01", shapes, experiment="quick", tags=["mine", None])


def test_a_run_has_a_name_tags_the_command_and_the_commit(trained):
    assert trained.about.display_name == "quick 2000-01-01"
    assert list(trained.about.tags) == ["mine", "ctdet", tiny.NETWORK["name"]]
    assert trained.about.notes == "python train.py"
    assert (trained.about.project, trained.about.job_type, trained.about.run_group) == ("centernet", "train", "")
    assert trained.code == 0
    assert trained.config["git"] == git_state()
    assert trained.config["class_names"] == SHAPES


def test_numbers_are_those_of_the_history_and_have_their_axes(trained):
    with (trained.files.parents[2] / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for name in set(rows[0]) - {"epoch", "step"}:
        wanted = [(int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-5, nan_ok=True)) for row in rows]
        assert trained.values(name) == wanted, name
    assert {"train/loss/heatmap", "val/loss/size", "val/AP", "lr", "images_per_second"} <= set(rows[0])
    assert trained.axes["train/*"] == "trainer/global_step"
    assert {trained.axes[name] for name in ("val/*", "per_class/*", "lr", "images_per_second")} == {"epoch"}


def test_the_best_checkpoint_has_a_section_of_its_own(trained):
    best = max(value for _, value in trained.values("val/AP"))
    assert trained.values("best/AP") == [(None, pytest.approx(best))]
    ((_, loss),) = trained.values("best/loss")
    assert min(abs(loss - value) for _, value in trained.values("val/loss")) < 1e-4
    assert {"best/per_class", "best/pictures", "best/panels", "best/precision_over_recall_table"} <= trained.names()


def test_classes_have_a_table_and_the_first_of_them_curves(trained):
    paths = [row["val/per_class.path"] for row in trained.history if "val/per_class.path" in row]
    assert len(paths) == 2
    table = trained.content(paths[-1])
    assert table["columns"] == ["class", "AP", "AP50", "AR100", "objects"]
    assert [row[0] for row in table["data"]] == SHAPES
    for n, name in enumerate(SHAPES[:2]):
        epochs, values = zip(*trained.values(f"per_class/AP/{name}"), strict=True)
        assert epochs == (1, 2)
        assert values[-1] == pytest.approx(table["data"][n][1])
    shown = {name for name in trained.names() if name.startswith("per_class/AP/")}
    assert shown == {f"per_class/AP/{name}" for name in SHAPES[:2]}


def test_precision_is_drawn_over_recall(trained):
    paths = [path for row in trained.history if (path := row.get("val/precision_over_recall_table.path"))]
    assert len(paths) == 2
    points = trained.content(paths[-1])["data"]
    assert {name for _, name, _ in points} == {"mean of classes", SHAPES[0]}
    of_class = [(recall, precision) for recall, name, precision in points if name == SHAPES[0]]
    assert [recall for recall, _ in of_class] == pytest.approx([n / 100 for n in range(101)])
    # AP50 is the mean of this curve.
    at_50 = trained.values(f"per_class/AP50/{SHAPES[0]}")[-1][1]
    assert sum(precision for _, precision in of_class) / 101 == pytest.approx(at_50)


def test_the_pictures_of_the_run_folder_are_shown(trained):
    folder = trained.files.parents[2]
    for name, wanted in (
        ("train/batches", folder / "pictures" / "train_batches.png"),
        ("curves", folder / "curves.png"),
    ):
        ((_, path),) = trained.values(f"{name}.path")
        assert np.array_equal(read_image(trained.files / path), read_image(wanted)), name
    rows = [row for row in trained.history if "best/panels.filenames" in row]
    (paths,) = [row["best/panels.filenames"] for row in rows]
    for n, path in enumerate(paths):
        shown, wanted = read_image(trained.files / path), read_image(folder / "pictures" / f"val_{n:02d}.png")
        assert (np.array(shown.shape) >= wanted.shape).all()
        shown = shown[: wanted.shape[0], : wanted.shape[1]]
        assert np.abs(shown.astype(int) - wanted).mean() < 8  # saved as JPEG
    assert [len(row["val/panels.filenames"]) for row in trained.history if "val/panels.filenames" in row] == [3, 3]


def test_pictures_have_boxes_to_toggle(trained, shapes):
    rows = [row for row in trained.history if "val/pictures.filenames" in row]
    assert [row["epoch"] for row in rows] == [1, 2]
    data = build_data(shapes)
    data.setup("validate")
    dataset = data.datasets["val"]
    assert rows[0]["val/pictures.captions"] == [Path(dataset.files[n]).name for n in range(3)]
    sizes = {read_image(trained.files / path).shape for row in rows for path in row["val/pictures.filenames"]}
    assert len(sizes) == 1  # W&B shows lists of pictures of one size only
    for n, sides in enumerate(rows[-1]["val/pictures.all_boxes"]):
        truth, found = (trained.content(sides[side]["path"]) for side in ("truth", "prediction"))
        objects = dataset.objects(n)
        assert truth["class_labels"] == {str(label): name for label, name in enumerate(SHAPES)}
        assert len(found["box_data"]) == 100
        assert len(truth["box_data"]) == (~objects["crowd"]).sum() > 0
        for box in truth["box_data"]:
            assert box["box_caption"] == SHAPES[box["class_id"]]
            assert 0 <= box["position"]["minX"] < box["position"]["maxX"] <= LONGEST
        scores = [box["scores"]["score"] for box in found["box_data"]]
        assert scores == sorted(scores, reverse=True)
        assert found["box_data"][0]["box_caption"].endswith(f" {scores[0]:.2f}")


def test_the_best_checkpoint_is_an_artifact_only_where_that_is_wanted(trained, shapes, tmp_path):
    assert not [artifact for artifact in trained.artifacts if artifact.type == "model"]
    with_model = train(tmp_path / "run", shapes, log_model=True)
    (artifact,) = [artifact for artifact in with_model.artifacts if artifact.type == "model"]
    assert "best" in artifact.aliases
    assert [entry.path for entry in artifact.manifest.contents] == ["model.ckpt"]
    assert artifact.manifest.contents[0].size == (tmp_path / "run" / "best.ckpt").stat().st_size


def test_large_images_are_reduced_with_their_boxes_and_all_have_one_size(tmp_path):
    def shown(height: int, width: int) -> Shown:
        image = tiny.make_image(height, width)
        truth = {"boxes": np.array([[0.0, 0.0, width, height / 2]]), "labels": np.array([1])}
        look = Look(["cat", "dog"])
        return Shown("a.jpg", image, truth, {**truth, "scores": np.array([0.75])}, {}, np.eye(3), 4, look, image)

    with finished_run():
        WandbRun(tmp_path).log_metrics(media_of([shown(600, 4 * LONGEST), shown(2 * LONGEST, 40)]))
    (made,) = read_runs(tmp_path)
    assert {name for name in made.names() if name.startswith("val/")} == {"val/pictures", "val/panels"}
    (row,) = made.history
    paths = row["val/pictures.filenames"]
    assert {read_image(made.files / path).shape for path in paths} == {(LONGEST, LONGEST, 3)}
    for sides, wanted in zip(row["val/pictures.all_boxes"], [(LONGEST, 75), (20, LONGEST / 2)], strict=True):
        for side in ("truth", "prediction"):
            (box,) = made.content(sides[side]["path"])["box_data"]
            assert box["position"] == {"minX": 0, "minY": 0, "maxX": wanted[0], "maxY": wanted[1]}
            assert box["class_id"] == 1
            assert box.get("scores") == ({"score": 0.75} if side == "prediction" else None)


@pytest.mark.parametrize("kind", ["pose", "space"])
def test_joints_and_3d_boxes_are_shown_as_in_the_run_folder(kind, figures, cuboids, tmp_path):
    options = {"resolution": (64, 64), "batch_size": 4, "num_workers": 0}
    if kind == "pose":
        data, cls = CocoDataModule(root=figures, prefix="person_keypoints", **options), MultiPoseModule
    else:
        data, cls = KittiDataModule(root=cuboids, **options), DddModule
    module = cls.for_data(data, backbone=tiny.NETWORK)
    with finished_run():
        callbacks = [Pictures(tmp_path, count=2, threshold=0.0), Dashboard()]
        trainer = build_trainer(tmp_path, callbacks=callbacks, logger=WandbRun(tmp_path, job_type="eval"))
        trainer.validate(module, data, verbose=False)
    (made,) = read_runs(tmp_path)
    assert {"val/pictures", "val/panels", "val/AP", "val/per_class"} <= made.names()
    assert not [name for name in made.names() if name.startswith("per_class/")]
    (row,) = [row for row in made.history if "val/panels.filenames" in row]
    for n, path in enumerate(row["val/panels.filenames"]):
        shown, wanted = read_image(made.files / path), read_image(tmp_path / f"val_{n:02d}.png")
        assert np.abs(shown[: wanted.shape[0], : wanted.shape[1]].astype(int) - wanted).mean() < 12


def test_the_state_of_the_repository_is_known(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() == {}
    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "data").write_text("untracked")
    assert not git_state()["dirty"]
    (tmp_path / "code.py").write_text("2")
    assert git_state()["dirty"]


def test_a_run_that_goes_on_in_its_folder_keeps_its_id(tmp_path):
    def run_id(folder: Path, ckpt: Path | None = None) -> str:
        with finished_run():
            return WandbRun(folder, ckpt=ckpt and str(ckpt)).experiment.id

    first, last = tmp_path / "first", tmp_path / "first" / "last.ckpt"
    started = run_id(first)
    assert run_id(first, last) == run_id(first, first) == run_id(first, Path("auto")) == started
    assert run_id(tmp_path / "second", last) != started
    again = run_id(first)
    assert again != started
    assert run_id(first, last) == again
    assert [run.about.run_id for run in read_runs(first)].count(started) == 4


@pytest.mark.slow
def test_a_resumed_training_goes_on_in_its_run(command):
    first = command("train", *SHORT, "evaluate=false")
    assert first.code == 0, first.output
    folder = first.run
    resumed = command("train", *SHORT, "trainer.max_epochs=2", f"ckpt={folder}")
    assert resumed.code == 0, resumed.output
    one, two = read_runs(folder)
    assert one.about.run_id == two.about.run_id
    assert one.about.display_name == two.about.display_name
    assert [epoch for epoch, _ in [*one.values("train/loss"), *two.values("train/loss")]] == [1, 2]


@pytest.mark.slow
def test_every_job_of_a_sweep_has_its_own_run_in_one_group(command):
    swept = command("train", "-m", *SHORT, "evaluate=false", "task.heatmap.max_detections=10,20", "logger.tags=[mine]")
    assert swept.code == 0, swept.output
    folder = swept.folder / "runs" / "sweep" / "run-1"
    runs = [run for n in range(2) for run in read_runs(folder / str(n))]
    assert len({run.about.run_id for run in runs}) == 2
    assert {run.about.run_group for run in runs} == {"run-1"}
    for n, run in enumerate(runs):
        assert run.config["task"]["heatmap"]["max_detections"] == 10 * (n + 1)
        assert run.about.display_name == f"train run-1/{n}"
        assert list(run.about.tags) == ["mine", "ctdet_iou", tiny.NETWORK["name"]]
        assert f"task.heatmap.max_detections={10 * (n + 1)}" in run.about.notes
        assert run.code == 0
        assert len(run.values("train/loss")) == 1


def test_a_job_that_fails_finishes_its_run_as_failed(command, tmp_path):
    (tmp_path / "empty").mkdir()
    failed = command("train", "experiment=ctdet_dla34", "data.root=empty", "logger=wandb")
    assert failed.code == 2
    assert "error: no train annotations in empty" in failed.output
    (made,) = read_runs(failed.folder / "runs" / "train" / "run-1")
    assert made.code == 1
    assert wandb.run is None
    assert made.about.display_name == "ctdet_dla34 run-1"
    assert list(made.about.tags) == ["ctdet_dla34", "coco"]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(2), RuntimeError("tripped")], ids=repr)
def test_an_interrupted_run_is_finished_as_failed(end, tmp_path):
    def job() -> None:
        with finished_run():
            WandbRun(tmp_path)
            raise end

    with pytest.raises(type(end)):
        job()
    (made,) = read_runs(tmp_path)
    assert made.code == 1


def test_an_evaluation_has_results_pictures_and_its_configuration(command, shapes, tmp_path):
    trainer = build_trainer(tmp_path, callbacks=[BestAndLast(tmp_path)])
    trainer.fit(build_module(), build_data(shapes))
    evaluated = command(
        "eval", f"ckpt={tmp_path / 'best.ckpt'}", f"data.root={shapes}", "data.num_workers=0", "pictures=2", SHORT[-1]
    )
    assert evaluated.code == 0, evaluated.output
    (made,) = read_runs(evaluated.folder / "runs" / "eval" / "run-1")
    assert (made.about.job_type, made.about.display_name) == ("eval", "eval run-1")
    assert list(made.about.tags) == ["ctdet", tiny.NETWORK["name"]]
    assert f"ckpt={tmp_path / 'best.ckpt'}" in made.about.notes
    assert made.config["evaluation"]["data"]["root"] == str(shapes)
    assert {"val/AP", "val/loss", "val/per_class", "val/pictures", "val/precision_over_recall_table"} <= made.names()
    (row,) = [row for row in made.history if "val/pictures.filenames" in row]
    assert len(row["val/pictures.filenames"]) == 2


@pytest.fixture
def online(tmp_path, monkeypatch) -> Iterator[None]:
    """A machine without settings of W&B, whose server does not answer."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()  # settings are read once
    yield
    monkeypatch.undo()
    wandb.teardown()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "W&B has no valid API key; run `wandb login`, or set logger.offline=true"),
        ("short", "W&B has no valid API key; run `wandb login`, or set logger.offline=true"),
        ("0" * 40, "check the network and `wandb login`, or set logger.offline=true"),
    ],
)
def test_uploading_without_a_key_or_a_server_is_one_sentence_before_any_work(
    online, command, monkeypatch, key, message
):
    monkeypatch.setenv("WANDB_API_KEY", key)
    started = time.perf_counter()
    refused = command("train", *SHORT, "logger.offline=false", "logger.timeout=1")
    assert refused.code == 2
    assert time.perf_counter() - started < 60
    (line,) = refused.output.splitlines()
    assert line.startswith("error: W&B ")
    assert line.endswith(message)
    assert not (refused.folder / "data").exists()
    assert wandb.run is None


def test_other_problems_of_wandb_are_told_too(tmp_path):
    with pytest.raises(InputError, match=r"W&B cannot be used \(.*project"):
        WandbRun(tmp_path, project="a/b")


def test_wandb_starts_and_ends_without_a_warning(tmp_path, capfd):
    with finished_run():
        run = WandbRun(tmp_path)
        run.log_metrics({"train/loss": 1.0}, 0)
        # What Lightning would start a run with where it has lost this one; W&B warns of an option that it dropped.
        assert "anonymous" not in run._wandb_init
    assert read_runs(tmp_path)[0].values("train/loss") == [(None, 1.0)]
    said = "".join(capfd.readouterr())
    assert "anonymous" not in said
    assert "WARNING" not in said


def test_tensorboard_is_used_only_where_it_is_installed(tmp_path, monkeypatch):
    logger = tensorboard_if_installed(tmp_path)
    assert logger is not None
    assert logger.log_dir == str(tmp_path / "tensorboard")
    monkeypatch.setattr("centernet.callbacks.dashboard.find_spec", lambda name: None)
    assert tensorboard_if_installed(tmp_path) is None
    cfg = compose_run([])
    cfg.paths.run = str(tmp_path)
    assert build.build_trainer(cfg).loggers == []  # and not those that Lightning has for such a case


def test_tensorboards_curves_do_not_go_on_with_the_best_checkpoint(shapes, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    callbacks = [BestAndLast(tmp_path), Pictures(tmp_path, count=1), Dashboard(), History(tmp_path)]
    trainer = build_trainer(tmp_path, max_epochs=2, callbacks=callbacks, logger=TensorBoardRun(tmp_path))
    module, data = build_module(), build_data(shapes, batch_size=8)
    trainer.fit(module, data)
    trainer.validate(module, data, ckpt_path=tmp_path / "best.ckpt", verbose=False, weights_only=True)
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [len(found.Scalars(name)) for name in ("val/AP", "train/loss", "best/AP")] == [2, 2, 1]
    assert found.Scalars("best/AP")[0].value == pytest.approx(max(event.value for event in found.Scalars("val/AP")))
    assert {"val/picture_00", "best/picture_00"} <= set(found.Tags()["images"])


def test_tensorboard_shows_pictures_and_classes(shapes, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="", version="events")
    callbacks = [Dashboard(), Pictures(tmp_path, count=2), History(tmp_path)]  # in any order
    trainer = build_trainer(tmp_path, callbacks=callbacks, logger=logger, enable_checkpointing=False)
    trainer.fit(build_module(), build_data(shapes))
    found = events.EventAccumulator(str(tmp_path / "events")).Reload()
    assert {"val/picture_00", "val/picture_01", "train/batches", "curves"} == set(found.Tags()["images"])
    for tag, name in (("val/picture_01", "val_01"), ("train/batches", "train_batches"), ("curves", "curves")):
        (event,) = found.Images(tag)
        shown = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(shown, read_image(tmp_path / f"{name}.png")), tag
    assert {f"per_class/AP/{name}" for name in SHAPES} <= set(found.Tags()["scalars"])
    assert "val/AP" in found.Tags()["scalars"]
