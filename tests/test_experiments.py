"""The presets: every one composes, fits its network, takes a step, is evaluated by its name, and is in the table."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from omegaconf import OmegaConf

from centernet import app, build
from centernet.choices import is_sweep, read_choice
from centernet.data.builtin.shapes import CLASSES
from centernet.ladder import ladder_jobs
from centernet.models import build_network
from centernet.module import CtdetDenseModule
from centernet.schedule import Schedule
from centernet.tasks import build_task
from tests import tiny
from tests.places import DATA, ROOT
from tests.test_configs import compose_run

EVERY_PRESET = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("[!_]*.yaml"))
# These describe a sweep: they say nothing of a single training but Hydra's mode and what the sweeper is to do.
SWEEPS = ["ladder"]
PRESETS = [name for name in EVERY_PRESET if name not in SWEEPS]
# Presets on data that the package draws itself; nobody published them.
QUICK = [name for name in PRESETS if name.endswith("_quick")]
# The original's recipe for any data: it has no data of its own, and its length depends on what it is given.
GENERAL = ["classic"]


def built_in(name: str, request: pytest.FixtureRequest) -> list[str]:
    """Small built-in data that a preset's task can use."""
    task = compose_run([f"experiment={name}"]).task.name
    poses, spaces = ("multi_pose", "multi_pose_iou"), ("ddd", "ddd_geo")
    data = {**dict.fromkeys(poses, "figures"), **dict.fromkeys(spaces, "cuboids")}.get(task, "shapes")
    root = request.getfixturevalue(data)
    return [
        f"data={data}",
        f"data.root={root}",
        "pretrained=false",
        "data.train_count=24",
        "data.val_count=8",
        "data.num_workers=0",
    ]


def lines(name: str) -> list[str]:
    return (ROOT / "configs" / "experiment" / f"{name}.yaml").read_text().splitlines()


@pytest.mark.parametrize("name", EVERY_PRESET)
def test_a_preset_begins_with_its_command_and_says_hardware_and_published_result(name):
    package, launch, *rest = lines(name)
    assert package == "# @package _global_"
    files = "" if name in QUICK else " data.root="
    assert launch.startswith(f"# python train.py experiment={name}{files}")
    compose_run([word for word in shlex.split(launch.removeprefix("# python train.py ")) if "," not in word])
    for word in ("hardware", "published"):
        assert [line for line in rest if line.startswith(f"# {word}: ")], word


def test_the_presets_that_describe_sweeps_are_told_from_those_of_single_trainings():
    assert [name for name in EVERY_PRESET if is_sweep(name)] == SWEEPS


LADDER = yaml.safe_load((ROOT / "configs" / "experiment" / "ladder.yaml").read_text())["hydra"]["sweeper"]["ladder"]
RUNGS = ladder_jobs(LADDER, ["data=coco"])


@pytest.mark.parametrize("label", RUNGS)
def test_every_training_of_the_ladder_composes_and_builds_its_network_and_its_schedule(label):
    cfg = compose_run(RUNGS[label])
    assert cfg.label == label
    task = OmegaConf.to_container(cfg.task, resolve=True)
    with torch.device("meta"):
        build_network(
            OmegaConf.to_container(cfg.backbone, resolve=True),
            build_task(task.pop("name"), num_classes=20, **task).heads,
        )
    assert Schedule.of(OmegaConf.to_container(cfg.schedule, resolve=True)).lr == 2e-3


def test_the_ladder_ends_at_the_recommended_recipe_and_says_every_choice_on_its_way():
    top = compose_run([*RUNGS["add_augment"], "trainer.max_time=null", "label=null"])
    recommended = compose_run(["data=coco"])
    assert OmegaConf.to_container(top, resolve=True) == OmegaConf.to_container(recommended, resolve=True)
    # What a step changes is said at the start as well, so that no default of a configuration takes part.
    start, *others = ({word.partition("=")[0] for word in job} for job in RUNGS.values())
    for label, keys in zip(list(RUNGS)[1:], others, strict=True):
        assert keys == start or label.startswith("with_"), label


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_only_what_differs(name):
    preset = read_choice("experiment", name)
    with_it = compose_run([f"experiment={name}"], settled=False)
    without = compose_run([f"{group}={option}" for group, option in preset.chooses.items()], settled=False)
    preset.nodes.pop("resolution", None)  # part of the name, and what the evaluation takes from a preset
    for key, node in preset.nodes.items():
        for inner in node.value if isinstance(node.value, dict) else [None]:
            path = key if inner is None else f"{key}.{inner}"
            assert OmegaConf.select(with_it, path) != OmegaConf.select(without, path), path
    if "schedule" in preset.nodes and with_it.schedule.lr_batch_size:
        rates = [cfg.schedule.lr / cfg.schedule.lr_batch_size for cfg in (with_it, without)]
        assert rates[0] != pytest.approx(rates[1]), "the schedule has this learning rate at this batch"


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in QUICK])
def test_a_published_training_keeps_to_what_the_original_did(name):
    cfg = compose_run([f"experiment={name}"])
    assert (cfg.trainer.precision, cfg.callbacks.average.decay) == ("32-true", None)
    assert cfg.trainer.accumulate_grad_batches == 1
    assert cfg.task.name in ("ctdet", "ctdet_dense", "multi_pose", "exdet", "ddd")
    assert cfg.augment.warp in ("crop", "stretch", "jitter")
    assert cfg.schedule.optimizer in ("adam", "sgd")


def test_the_defaults_are_what_is_recommended():
    for data in ("shapes", "coco"):
        cfg = compose_run([f"data={data}", "data.root=somewhere"])
        assert (cfg.task.name, cfg.backbone.name, cfg.augment.warp) == ("ctdet_iou", "n", "zoom")
        assert (cfg.schedule.optimizer, cfg.schedule.decay) == ("adamw", "flat_cosine")
        assert (cfg.trainer.precision, cfg.callbacks.average.decay) == ("auto", 0.9998)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_its_network_and_its_schedule(name):
    cfg = compose_run([f"experiment={name}"])
    task = OmegaConf.to_container(cfg.task, resolve=True)
    heads = build_task(task.pop("name"), num_classes=20, **task).heads
    with torch.device("meta"):
        network = build_network(OmegaConf.to_container(cfg.backbone, resolve=True), heads).eval()
        maps = network(torch.zeros(1, 3, *cfg.resolution))[-1]
    height, width = cfg.resolution
    assert {key: tuple(value.shape[1:]) for key, value in maps.items()} == {
        key: (head.channels, height // 4, width // 4) for key, head in heads.items()
    }
    schedule = Schedule.of(OmegaConf.to_container(cfg.schedule, resolve=True))
    assert schedule.factor(0) <= 1
    if name not in (*QUICK, *GENERAL):
        assert schedule.factor(schedule.epochs - 0.1) == pytest.approx(0.1 ** len(schedule.milestones))
    if schedule.lr_batch_size is not None:
        assert schedule.scaled_lr(2 * schedule.lr_batch_size) == pytest.approx(2 * schedule.lr)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_a_step_with_a_small_network_on_built_in_data(name, tmp_path, request):
    small = [*tiny.NETWORK_OVERRIDES, *built_in(name, request), "resolution=[64,64]", "data.batch_size=4"]
    few = ["trainer.max_steps=1", "trainer.limit_val_batches=0", "+trainer.enable_progress_bar=false", "logger=csv"]
    cfg = compose_run([f"experiment={name}", *small, *few, "+trainer.enable_checkpointing=false"])
    cfg.paths.run, cfg.callbacks = str(tmp_path), {}
    data = build.build_datamodule(cfg.data)
    data.setup("fit")
    module = build.build_module(cfg, data.class_names, data.facts)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = build.build_trainer(cfg)
    trainer.fit(module, data)
    assert trainer.global_step == 1
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert any(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


def test_what_the_command_line_says_wins_over_the_preset():
    command = "experiment=ctdet_hardnet85 data=shapes trainer.max_steps=2 resolution=[128,128]"
    cfg = compose_run(command.split())
    assert (cfg.task.name, cfg.backbone.name, cfg.schedule.optimizer) == ("ctdet_dense", "hardnet85", "sgd")
    assert cfg.data._target_.endswith("ShapesDataModule")
    assert (list(cfg.data.resolution), cfg.trainer.max_steps, cfg.pretrained) == ([128, 128], 2, False)
    assert compose_run(["experiment=ctdet_hardnet85", "augment.rotation=10"]).data.augment.rotation == 10


def test_pretrained_weights_are_asked_for_only_where_timm_has_them():
    import timm

    from centernet.models.centernet import network_spec

    for name in set(PRESETS) - {*QUICK, *GENERAL}:
        cfg = compose_run([f"experiment={name}"])
        config = timm.get_pretrained_cfg(network_spec(cfg.backbone.name)["body"])
        assert cfg.pretrained == bool(config and config.has_weights), name


def test_hardnets_warm_up_starts_at_5e_5_and_takes_the_first_epoch():
    schedule = Schedule.of(OmegaConf.to_container(compose_run(["experiment=ctdet_hardnet85"]).schedule, resolve=True))
    assert schedule.lr * schedule.factor(0) == pytest.approx(5e-5)
    assert [schedule.factor(epoch) for epoch in (1, 229.9, 230, 280)] == pytest.approx([1, 1, 0.1, 0.01])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as conversion writes it: it knows its classes and how to look at images, but no data."""
    module = CtdetDenseModule(class_names=CLASSES, backbone=tiny.NETWORK)
    module.eval_spec = {"resolution": [96, 96], "mode": "stretch", "divisor": 32}
    checkpoint = {"state_dict": module.state_dict(), "pytorch-lightning_version": pl.__version__}
    module.on_save_checkpoint(checkpoint)
    path = tmp_path_factory.mktemp("converted") / "converted.ckpt"
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("side", [None, 64, 128])
def test_a_converted_checkpoint_is_evaluated_with_its_preset_at_any_resolution(converted, shapes, side):
    given = [] if side is None else [f"resolution=[{side},{side}]"]
    command = ["experiment=ctdet_hardnet85", f"ckpt={converted}", f"data.root={shapes}", *given]
    module, data = build.from_checkpoint(converted, compose_run(command, "eval"))
    assert (type(data).__name__, data.test_mode) == ("CocoDataModule", "stretch")
    data.num_workers = 0
    data.setup("validate")
    assert data.class_names == list(CLASSES)
    batch = next(iter(data.val_dataloader()))
    assert tuple(batch["image"].shape[2:]) == ((side or 96),) * 2
    assert module.task.lift(module.detector(batch["image"]), batch)["boxes"].shape[1:] == (100, 4)


@pytest.mark.parametrize("name", PRESETS)
def test_the_evaluation_composes_with_every_preset(name):
    cfg = compose_run([f"experiment={name}", "ckpt=some.ckpt", "data.root=somewhere"], "eval")
    assert cfg.resolution is None or name.startswith("ctdet_voc")
    for node in ("data", "trainer"):
        assert OmegaConf.to_container(cfg[node], resolve=True)["_target_"]


def test_the_table_has_every_preset_with_its_published_result(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["list_experiments.py"])
    runpy.run_path(str(ROOT / "scripts" / "list_experiments.py"), run_name="__main__")
    table = capsys.readouterr().out.splitlines()
    for name in PRESETS:
        (row,) = [line for line in table if line.split()[:1] == [name]]
        published = next(line for line in lines(name) if line.startswith("# published: "))
        assert row.endswith(published.removeprefix("# published: "))
        cfg = compose_run([f"experiment={name}"], settled=False)
        assert row.split()[1:3] == [cfg.backbone.name, cfg.task.name]
        plan = cfg.schedule
        assert f"{plan.optimizer} {plan.epochs} " in row
        assert re.search(rf"lr {plan.lr:g} / {plan.lr_batch_size}\b", row)
        assert (cfg.resolution if cfg.resolution == "auto" else "{}x{}".format(*cfg.resolution)) in row


def test_an_unknown_preset_proposes_close_ones():
    from centernet.structures import InputError

    with pytest.raises(InputError, match=r"unknown experiment 'ctdet_hardnet_85'; did you mean ctdet_hardnet85"):
        app.understand_groups(["experiment=ctdet_hardnet_85"])


def test_masks_of_a_real_data_set_rebuild_its_boxes():
    if not (DATA / "coco-tiny").is_dir():
        pytest.skip(f"no coco-tiny in {DATA}")
    cfg = compose_run(["experiment=ctdet_hardnet85", f"data.root={DATA / 'coco-tiny'}", "resolution=[256,256]"])
    data = build.build_datamodule(cfg.data)
    data.num_workers = 0
    data.setup("fit")
    dataset = data.datasets["train"]
    assert all(dataset.masks.has_mask(n) for n in range(len(dataset.masks)))
    batch = next(iter(data.train_dataloader()))
    boxes = batch["objects"]["boxes"][batch["objects"]["valid"]]
    assert len(boxes) > 50
    assert ((boxes >= 0) & (boxes <= 256)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
