"""The configuration is checked before anything heavy is imported: keys, values, paths, each with one sentence."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from centernet import app, build, cli, data_schema, schema
from centernet.callbacks import AverageWeights, Dashboard, Pictures, SaveOnInterrupt, StopEarly, TopCheckpoints
from centernet.callbacks.profile import Profile
from centernet.composition import check_command
from centernet.data.auto import data_module
from centernet.data.builtin.cuboids import CuboidsDataModule
from centernet.data.builtin.figures import FiguresDataModule
from centernet.data.builtin.shapes import ShapesDataModule
from centernet.data.coco import CocoDataModule
from centernet.data.combine import Shares
from centernet.data.createml import CreateMLDataModule
from centernet.data.kitti import KittiDataModule
from centernet.data.transforms import ColorJitter, train_pipeline
from centernet.data.voc import VocDataModule
from centernet.data.warps import WARPS
from centernet.data.yolo import YoloDataModule
from centernet.detector import NORMALIZATIONS
from centernet.errors import InputError, propose
from centernet.kinds import fields_of, words_of
from centernet.metrics.coco import CocoAP
from centernet.metrics.kitti import KittiAP
from centernet.schedule import DECAYS, OPTIMIZERS, Schedule
from centernet.tasks import task_names
from centernet.tasks.base import _parameters, task_class
from tests.places import ROOT
from tests.test_configs import CHOICES, accepted


@pytest.fixture
def check(tmp_path, monkeypatch) -> Callable[..., None]:
    """Check a command line in an empty folder, as the commands do."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *words: str) -> None:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        app.register_run_folder(name)
        cli.take_arguments(name)
        check_command(name, sys.argv[1:])

    return call


# Values.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("data.batch_size=big", "data.batch_size=big is not possible; give a whole number of at least 1, or auto"),
        ("data.batch_size=0", "data.batch_size=0 is not possible; give a whole number of at least 1, or auto"),
        ("data.num_workers=-1", "data.num_workers=-1 is not possible; give a whole number of at least 0, or null"),
        ("seed=-1", "seed=-1 is not possible; give a whole number from 0 to 4294967295"),
        ("schedule.lr=nan", "schedule.lr=nan is not possible; give a number above 0"),
        ("schedule.lr=0", "schedule.lr=0 is not possible; give a number above 0"),
        ("schedule.epochs=1.5", "schedule.epochs=1.5 is not possible; give a whole number of at least 1, or auto"),
        ("schedule.epochs=ten", "schedule.epochs=ten is not possible; give a whole number of at least 1, or auto"),
        ("schedule.epochs=true", "schedule.epochs=true is not possible; give a whole number of at least 1, or auto"),
        ("schedule.optimizer=lion", "schedule.optimizer=lion is not possible; give adam, adamw or sgd"),
        ("augment.color.brightness=-1", "augment.color.brightness=-1 is not possible; give a number from 0 to 1"),
        ("augment.warp=pan", "augment.warp=pan is not possible; give crop, jitter, stretch, zoom or null"),
        ("augment.scale=[2,1]", "augment.scale=[2,1] is not possible; give a range of numbers above 0, such as "),
        (
            "resolution=[64,wide]",
            "resolution=[64,wide] is not possible; give [height, width] in pixels, or a whole num",
        ),
        ("resolution=[64]", "resolution=[64] is not possible; give [height, width] in pixels, or a whole number"),
        ("trainer.max_time=20", "trainer.max_time=20 is not possible; give a time as days:hours:minutes:seconds"),
        ("trainer.max_time=00:00:00:00", "trainer.max_time=00:00:00:00 is not possible; give a time as days"),
        ("trainer.devices=[0,x]", "trainer.devices=[0,x] is not possible; give a number of devices, -1 or auto"),
        ("trainer.precision=64", "trainer.precision=64 is not possible; give 32-true, bf16-mixed, 16-mixed, auto or"),
        (
            "trainer.limit_val_batches=1.5",
            "trainer.limit_val_batches=1.5 is not possible; give a number of batches, or",
        ),
        ("task.heatmap.max_detections=0", "task.heatmap.max_detections=0 is not possible; give a whole number of at l"),
        ("task.box.loss=l3", "task.box.loss=l3 is not possible; give giou, iou, diou or ciou"),
        ("callbacks.average.decay=2", "callbacks.average.decay=2 is not possible; give a number above 0 and below 1"),
        ("callbacks.pictures.every=0", "callbacks.pictures.every=0 is not possible; give a whole number of at least 1"),
        ("backbone.head_channels=0", "backbone.head_channels=0 is not possible; give a whole number of at least 1"),
        ("logger=wandb logger.offline=maybe", "logger.offline=maybe is not possible; give true or false"),
        ("normalization=voc", "normalization=voc is not possible; give coco, imagenet, imagenet_swapped or null"),
        ("evaluate=maybe", "evaluate=maybe is not possible; give true or false"),
        ("data.root=2017", "data.root=2017 is not possible; give a path (a number as ./2017), or null"),
        ("data.batch_size=???", "data.batch_size has no value; set data.batch_size=VALUE"),
        ("data.cache=${nothing}", "data.cache refers to what does not exist (Interpolation key 'nothing' not found)"),
    ],
)
def test_a_value_that_is_not_possible_is_answered_with_its_key_and_what_is(check, words, sentence):
    with pytest.raises(InputError) as error:
        check("train", *words.split())
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    "words",
    [
        "resolution=512",
        "resolution=auto data.batch_size=auto schedule.epochs=auto",
        "trainer.devices=[0,1]",
        "trainer.limit_train_batches=0.5 trainer.limit_val_batches=3",
        "trainer.max_time=00:00:00:10",
        "schedule.lr=1 schedule.lr_batch_size=null",
        "callbacks.average=null ~callbacks.pictures",
        "augment.warp=null augment.color=null",
        "backbone.neck={bilinear:all} backbone.head_channels={at_least:128,per_channel:4}",
        "task=ddd_dle task.dimensions.means=[[1,2,3]] task.depth.focal=700",
        "label=3",
        "data=voc data.root=. data.train_split=[2007_trainval,2012_trainval] data.val_split=2007_test",
        "data=yolo data.root=. data.val_split=test data.val_share=0.2",
        # What somebody adds of their own is checked by what reads it.
        "+callbacks.mine._target_=my_package.Mine",
        "+trainer.detect_anomaly=true",
        "data._target_=my_package.Frames +data.frames=7 +data.speed=fast",
        "+paths.elsewhere=/x",
    ],
)
def test_what_is_possible_is_let_through(check, words):
    check("train", *words.split())


@pytest.mark.parametrize(("group", "option"), CHOICES, ids=lambda value: value)
def test_every_choice_of_the_configuration_fits_the_schema(check, tmp_path, group, option):
    # Data in files of the user's: any folder will do, if it has the files that are named.
    for name in ("annotations/pascal_trainval0712.json", "annotations/pascal_test2007.json", "images/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    is_drawn = option in ("shapes", "figures", "cuboids") or group not in ("data", "experiment")
    check("train", f"{group}={option}", *([] if is_drawn or option.endswith("_quick") else ["data.root=."]))


@pytest.mark.parametrize("data", [option for group, option in CHOICES if group == "data"])
def test_every_data_fits_the_schema_of_an_evaluation(check, tmp_path, data):
    for name in ("best.ckpt", "annotations/pascal_test2007.json", "images/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    check("eval", "ckpt=best.ckpt", f"data={data}", "data.root=.", "data.limit=16", "resolution=64")


def test_the_jobs_of_a_sweep_are_left_to_themselves(check):
    check("train", "-m", "schedule.epochs=ten,3")
    check("train", "experiment=ladder", "seed=0,1")
    check("eval", "-m", "ckpt=a/best.ckpt,b/best.ckpt")
    with pytest.raises(InputError, match=r"schedule.lr=1,2 is several values; add -m for a run with each of them"):
        check("train", "schedule.lr=1,2")


def test_nothing_heavy_is_imported_for_the_answer(tmp_path):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', 'data.batch_size=big']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('loaded:', sorted({'torch', 'numpy', 'timm', 'cv2', 'pytorch_lightning'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (2, "loaded: []\n")
    assert shown.stderr == ("error: data.batch_size=big is not possible; give a whole number of at least 1, or auto\n")
    assert not list(tmp_path.iterdir())


# Keys.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("epochs=3", "epochs is unknown; did you mean schedule.epochs?"),
        ("lr=0.1", "lr is unknown; did you mean schedule.lr?"),
        ("batch_size=4", "batch_size is unknown; did you mean data.batch_size?"),
        ("+epochs=3", "epochs is unknown; did you mean schedule.epochs?"),
        ("data.foo=1", "data.foo is unknown; data has resolution, "),
        ("data.num_worker=1", "data.num_worker is unknown; did you mean data.num_workers?"),
        ("data.train_annotations=x.json", "data.train_annotations is unknown; "),
        ("schedule.lr.x=1", "schedule.lr.x is unknown; "),
        ("+augment.flipp=1", "augment.flipp is unknown; did you mean augment.flip?"),
        ("+augment.color.tint=1", "augment.color.tint is unknown; augment.color has brightness, contrast, "),
        ("+data.speed=1", "data.speed is unknown; did you mean data.seed?"),
        ("++schedule.warmup=1", "schedule.warmup is unknown; did you mean schedule.warmup_factor, schedule.warmup_epo"),
        ("augment.warp=crop", "augment.scale is unknown; did you mean augment.scales"),
        ("~schedule.foo", "schedule.foo does not exist, so it cannot be left out by ~"),
        ("+seed=3", "seed exists already; leave out the + before it"),
        ("foo", "foo is not understood; write KEY=VALUE"),
        ("data.root=a=b", """data.root=a=b is not understood; put the value in quotes: 'data.root="a=b"'"""),
        ("hydra/launcher=zzz", "hydra/launcher/zzz does not exist; choose one of basic, "),
        ("--config-dir nowhere", "--config-dir nowhere is not an existing folder"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(check, words, sentence):
    with pytest.raises(InputError) as error:
        check("train", *words.split())
    assert str(error.value).startswith(sentence)


def test_proposals_are_keys_of_the_same_name_then_close_ones_then_neighbors():
    known = ["schedule", "schedule.lr", "recipe.lr", "data.root", "data.limit", "seed"]
    assert propose("lr", known) == "did you mean schedule.lr?"
    assert propose("data.lr", known) == "did you mean schedule.lr?"
    assert propose("data.limits", known) == "did you mean data.limit?"
    assert propose("data.zzz", known) == "data has root, limit"
    assert propose("zzz", known) == "--help lists what can be set"


# Paths.


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        ("train", "paths.run=FILE", "paths.run=FILE cannot be used: FILE is a file; choose a folder"),
        ("train", "paths.run=FILE/below", "paths.run=FILE/below cannot be used: "),
        ("train", "paths.runs=FILE", "paths.runs=FILE/train cannot be used: "),
        ("train", "hydra.run.dir=FILE", "hydra.run.dir=FILE cannot be used: FILE is a file; choose a folder"),
        ("train", "paths.data=FILE", "data.root=FILE/shapes cannot be used: "),
        ("train", "data=coco data.root=nowhere", "data.root=nowhere is not an existing folder; give the folder that"),
        ("train", "data=kitti data.root=nowhere", "data.root=nowhere is not an existing folder; give the folder that"),
        ("train", "ckpt=nowhere.ckpt", "nowhere.ckpt: the file does not exist; give a checkpoint"),
        ("train", "teacher=nowhere.ckpt", "nowhere.ckpt: the file does not exist; give a checkpoint"),
        ("train", "pretrained=nowhere.pth", "pretrained=nowhere.pth is not an existing file; give a weight file"),
        ("train", "data=coco", "no data given; set data.root=DIR, the folder that holds it (or the four paths of "),
        ("train", "data=kitti", "no data given; set data.root=DIR, the folder that holds it"),
        ("train", "data=coco data.train_annotations=a.json", "train annotations a.json do not exist; set data.train_"),
        ("train", "data=coco data.root=. data.val_images=b", "val image folder b does not exist; set data.val_images="),
        (
            "train",
            "data=voc_coco data.root=.",
            "train annotations annotations/pascal_trainval0712.json do not exist; set ",
        ),
        ("train", "data=voc", "no data given; set data.root=DIR, the folder that holds it"),
        ("train", "data=auto data.root=nowhere", "data.root=nowhere is not an existing folder; give the folder that"),
        ("train", "data=yolo data.yaml=a.yaml", "data.yaml=a.yaml does not exist; give the yaml that describes the d"),
        ("train", "-m paths.runs=FILE seed=1,2", "paths.runs=FILE/sweep cannot be used: "),
        ("train", "-m hydra.sweep.dir=FILE seed=1,2", "hydra.sweep.dir=FILE cannot be used: FILE is a file; choose a"),
        ("eval", "ckpt=FILE data.val_annotations=a.json", "val annotations a.json do not exist; set data.val_annotati"),
        ("eval", "", "no checkpoint given; set ckpt=RUN/best.ckpt"),
        ("eval", "ckpt=nowhere.ckpt", "nowhere.ckpt: the file does not exist; give a checkpoint"),
        ("eval", "ckpt=.", "ckpt=. is a folder; give a file in it, such as ckpt=best.ckpt"),
        ("eval", "ckpt=FILE data.root=nowhere", "data.root=nowhere is not an existing folder; give the folder that"),
        ("eval", "ckpt=FILE paths.run=FILE", "paths.run=FILE cannot be used: FILE is a file; choose a folder"),
    ],
)
def test_paths_are_checked_before_anything_is_done(check, tmp_path, name, words, sentence):
    (tmp_path / "FILE").touch()
    started = time.process_time()
    with pytest.raises(InputError) as error:
        check(name, *words.split())
    assert time.process_time() - started < 2  # half a second by itself
    assert str(error.value).startswith(sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc is a folder that nobody can write into, not even root")
def test_a_folder_that_nothing_can_be_written_into_is_refused(check):
    with pytest.raises(InputError, match=r"paths.run=/proc/run cannot be used: nothing can be written into /proc \("):
        check("train", "paths.run=/proc/run")


# What an evaluation takes from the checkpoint.


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("task=ddd", "task comes from the checkpoint in an evaluation; leave it out"),
        ("backbone=dla34", "backbone comes from the checkpoint in an evaluation; leave it out"),
        ("schedule.lr=1", "schedule.lr comes from the checkpoint in an evaluation; leave it out"),
        ("trainer.max_epochs=3", "trainer.max_epochs has no effect in an evaluation; leave it out"),
        ("data.augment.flip=0", "data.augment.flip has no effect in an evaluation; leave it out"),
        ("data.test_mode=keep", "data.test_mode has no effect in an evaluation; set test_mode"),
    ],
)
def test_an_evaluation_refuses_what_has_no_effect(check, tmp_path, word, sentence):
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(InputError) as error:
        check("eval", "ckpt=best.ckpt", word)
    assert str(error.value) == sentence


# The schema and the constructors that it describes.


def keys(model: type) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize(
    ("model", "made"),
    [
        (schema.Schedule, Schedule),
        (data_schema.Color, ColorJitter),
        (data_schema.DrawnCoco, ShapesDataModule),
        (data_schema.DrawnCoco, FiguresDataModule),
        (data_schema.DrawnKitti, CuboidsDataModule),
        (data_schema.Coco, CocoDataModule),
        (data_schema.Kitti, KittiDataModule),
        (data_schema.Voc, VocDataModule),
        (data_schema.Yolo, YoloDataModule),
        (data_schema.AnyFormat, data_module),
        (data_schema.CreateML, CreateMLDataModule),
    ],
    ids=lambda value: value.__name__,
)
def test_the_schema_has_the_options_of_a_constructor_and_no_others(model, made):
    assert keys(model) - {"_target_"} == accepted(made) - {"self"}
    assert model.model_config["extra"] == "forbid"


@pytest.mark.parametrize("warp", WARPS)
def test_the_schema_has_the_options_of_every_warp(warp):
    pipeline = set(inspect.signature(train_pipeline).parameters) - {"size", "mode", "warp_options"}
    own = {*pipeline, *Shares._fields, "visible_boxes", "clean"}
    options = set(inspect.signature(WARPS[warp]).parameters) - {"size"}
    assert keys(data_schema.WARPS[warp]) == own | options
    assert set(data_schema.WARPS) == set(WARPS)


@pytest.mark.parametrize(
    ("model", "made"),
    [
        (schema.Average, AverageWeights),
        (schema.Early, StopEarly),
        (schema.Top, TopCheckpoints),
        (schema.Pictures, Pictures),
        (schema.Dashboard, Dashboard),
        (schema.Interrupt, SaveOnInterrupt),
        (schema.Profile, Profile),
    ],
)
def test_the_schema_knows_every_option_of_a_callback(model, made):
    assert keys(model) == accepted(made) - {"self", "folder", "resume_command"}


@pytest.mark.parametrize("name", task_names())
def test_the_schema_knows_every_term_with_every_option(name):
    hints = fields_of(schema.Task)
    for term, make in task_class(name).TERMS.items():
        known = fields_of(hints[term])
        for option in set(_parameters(make)) - {"name", "about"}:
            assert option in known, f"{term}.{option}"
    assert set(_parameters(task_class(name))) - {"num_classes", "stride", "facts"} <= set(hints)


def test_the_schema_has_the_choices_of_the_code():
    for key, choices in {"optimizer": OPTIMIZERS, "decay": DECAYS}.items():
        assert words_of(fields_of(schema.Schedule)[key]) == list(choices)
    assert words_of(fields_of(schema.Train)["normalization"]) == [*NORMALIZATIONS, "null"]
    assert words_of(fields_of(schema.Trainer)["precision"]) == [*build.PRECISIONS, "null"]
    for made, key in ((CocoAP, "backend"), (KittiAP, "overlap")):
        assert key in accepted(made)
        assert key in keys(schema.Metric)


def test_the_schema_has_every_key_of_the_configuration():
    content: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "data" / "checkpoint.yaml").read_text())
    assert set(content) == keys(data_schema.CheckpointData)
    for name, model in schema.COMMANDS.items():
        own = set(yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())) - {"defaults", "hydra"}
        assert own <= keys(model)
    trainer = yaml.safe_load((ROOT / "configs" / "trainer" / "default.yaml").read_text())
    assert set(trainer) - {"_target_"} <= keys(schema.Trainer)
