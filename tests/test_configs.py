"""Every YAML composes, and what it names exists and takes what it is given."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from centernet import app, build
from centernet.data.combine import Shares
from centernet.data.transforms import ColorJitter, train_pipeline
from centernet.data.warps import WARPS
from centernet.errors import InputError
from centernet.models import build_network
from centernet.models.centernet import ARCHITECTURES
from centernet.module import CtdetModule
from centernet.schedule import Schedule
from centernet.tasks import build_task, task_names
from tests import formats, tiny
from tests.places import ROOT

CONFIGS = ROOT / "configs"
GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
# Files that begin with an underscore are only inherited from.
OPTIONS = {
    group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if path.stem[0] != "_") for group in GROUPS
}
OPTIONS["backbone"] += ARCHITECTURES


# What stands for `auto`, which the training's data and the machine decide.
SETTLED = {
    "backbone.name": "n",
    "pretrained": False,
    "schedule.backbone_lr_factor": 1.0,
    "resolution": [512, 512],
    "data.batch_size": 8,
    "trainer.accumulate_grad_batches": 1,
    "schedule.epochs": 24,
}


def compose_run(overrides: list[str], name: str = "train", settled: bool = True) -> DictConfig:
    """What the command line composes, with Hydra's own node, so that every interpolation can be resolved. ``settled``:
    with values in the place of ``auto``."""
    GlobalHydra.instance().clear()
    app.understand_groups(overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        cfg.paths.run = "somewhere"
        del cfg["hydra"]
    for key, value in SETTLED.items() if settled and name == "train" else ():
        if OmegaConf.select(cfg, key) == "auto":
            OmegaConf.update(cfg, key, value)
    return cfg


def targets_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a ``_target_`` in it, at any depth."""
    if isinstance(node, dict):
        if node.get("_target_"):
            yield node
        for value in node.values():
            yield from targets_in(value)


def locate(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def accepted(cls: Any) -> set[str]:
    """The keyword arguments of a function or a constructor; of the classes above it too where it passes them on. A
    trainer has options of ours as well."""
    if not isinstance(cls, type):
        parameters = inspect.signature(cls).parameters
        passed_on = [name for name, p in parameters.items() if p.kind == p.VAR_KEYWORD]  # to what it returns
        above = accepted(typing.get_type_hints(cls).get("return", object)) - {"self"} if passed_on else set()
        return (set(parameters) - set(passed_on)) | above
    names = set(build.TRAINER_EXTRAS) if cls is pl.Trainer else set()
    for part in cls.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = inspect.signature(part.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return names


def test_every_group_is_chosen_somewhere_and_every_choice_exists():
    for name in ("train", "eval"):
        defaults = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["defaults"]
        for entry in defaults:
            if isinstance(entry, dict):
                ((group, option),) = entry.items()
                assert group in ("experiment", "debug") or option in OPTIONS[group], f"{name}.yaml: {group}={option}"
    train = {group for entry in yaml.safe_load((CONFIGS / "train.yaml").read_text())["defaults"] for group in entry}
    assert set(GROUPS) <= train | {"experiment"}


def test_every_file_says_what_it_is_in_its_first_line():
    for path in CONFIGS.rglob("*.yaml"):
        lines = path.read_text().splitlines()
        first = lines[1] if lines[0].startswith("# @package") else lines[0]
        assert first.startswith("# "), path


CHOICES = [
    (group, option)
    for group in GROUPS
    if group not in ("paths", "hydra")
    for option in OPTIONS[group]
    if (group, option) != ("data", "checkpoint")
]


@pytest.mark.parametrize(("group", "option"), CHOICES, ids=lambda value: value)
def test_every_option_of_every_group_composes_resolves_and_names_what_exists(group, option):
    cfg = compose_run([f"{group}={option}"])
    plain = OmegaConf.to_container(cfg, resolve=True)
    for node in targets_in(plain):
        cls = locate(node["_target_"])
        unknown = set(node) - {"_target_"} - accepted(cls)
        assert not unknown, f"{group}={option}: {node['_target_']} does not take {', '.join(unknown)}"
    Schedule.of(plain["schedule"])


def test_the_evaluation_composes_and_asks_for_a_checkpoint():
    for trainer, logger in itertools.product(OPTIONS["trainer"], OPTIONS["logger"]):
        cfg = compose_run([f"trainer={trainer}", f"logger={logger}"], "eval")
        assert OmegaConf.is_missing(cfg, "ckpt")
        for node in targets_in(OmegaConf.to_container(cfg.trainer, resolve=True)):
            assert not set(node) - {"_target_", *build.TRAINER_EXTRAS} - accepted(locate(node["_target_"]))


# Options of terms that a task's file leaves to those who look into the code.
REGRESSION = {"supervise", "loss"}
UNLISTED = {
    "ctdet": {"heatmap": {"margin"}},
    "ctdet_dense": {"heatmap": {"margin"}},
    "ctdet_iou": {},
    "multi_pose_iou": {},
    "multi_pose": {"heatmap": {"margin"}, "size": {"per_class"}, "offset": {"supervise"}},
    "exdet": {},
    "ddd": {"size": {*REGRESSION, "per_class"}, "offset": REGRESSION},
    "ddd_dle": {"size": {*REGRESSION, "per_class"}, "offset": REGRESSION, "offset_3d": REGRESSION},
    "ddd_geo": {"size": {*REGRESSION, "per_class"}, "offset": REGRESSION, "offset_3d": REGRESSION},
}


@pytest.mark.parametrize("task", OPTIONS["task"])
def test_every_task_config_lists_the_options_of_its_terms_with_their_defaults(task):
    content = yaml.safe_load((CONFIGS / "task" / f"{task}.yaml").read_text())
    assert set(content) - {"recipe"} == {"task", "metric"}
    options = content["task"]
    assert options.pop("name") == task
    said, unsaid = build_task(task, 3, **options), build_task(task, 3)
    for name, make in type(said).TERMS.items():
        known = accepted(getattr(make, "func", make)) - {"self", "name", "about"}
        assert known - set(options[name]) == UNLISTED[task].get(name, set()), name
        mine, usual = (
            {key: v for key, v in vars(made.terms[name]).items() if key != "about"} for made in (said, unsaid)
        )
        assert mine == usual, name
    own = accepted(type(said)) - {"self", "num_classes", "stride", "facts"}
    # How losses are padded matters to no task but ddd, whose original did it.
    assert own - set(options) == (set() if task == "ddd" else {"pad_objects"})
    assert all(options[name] == getattr(said, name, None) for name in set(options) - set(said.TERMS))


@pytest.mark.parametrize("task", OPTIONS["task"])
def test_every_task_config_lists_the_options_of_its_metric_with_their_defaults(task):
    options = yaml.safe_load((CONFIGS / "task" / f"{task}.yaml").read_text())["metric"]
    made = build_task(task, 3).metric(["a", "b", "c"])
    parameters = inspect.signature(type(made).__init__).parameters
    assert options == {name: parameters[name].default for name in options}
    assert type(build_task(task, 3).metric(["a", "b", "c"], **options)) is type(made)


def test_every_schedule_has_all_options_and_the_base_has_their_defaults():
    fields = {name: field.default for name, field in Schedule.__dataclass_fields__.items()}
    base = compose_run(["schedule=adam_140"]).schedule
    assert {name: tuple(value) if name == "milestones" else value for name, value in base.items()} == fields
    for option in OPTIONS["schedule"]:
        assert set(compose_run([f"schedule={option}"]).schedule) == set(fields), option


def test_every_augmentation_has_the_options_that_do_not_depend_on_its_warp_with_the_same_comments():
    warps = {name for warp in WARPS.values() for name in inspect.signature(warp).parameters}
    options = set(inspect.signature(train_pipeline).parameters) | set(Shares._fields) | {"visible_boxes", "clean"}
    options -= {"size", "mode", "warp_options"}
    comments: dict[str, set[str]] = {}
    for option in OPTIONS["augment"]:
        text = (CONFIGS / "augment" / f"{option}.yaml").read_text()
        content = yaml.safe_load(text)
        assert set(content) - warps == options, option
        assert not content["color"] or set(content["color"]) == accepted(ColorJitter) - {"self", "p"}, option
        for name, comment in re.findall(r"^(\w+):.*# (.*)$", text, re.MULTILINE):
            comments.setdefault(name, set()).add(comment)
    for name in (*Shares._fields, "blur", "noise", "clean"):
        assert len(comments[name]) == 1, name
    assert options - {"warp"} <= set(comments)


def test_every_data_config_has_the_same_loader_options_and_recipe():
    loader = yaml.safe_load((CONFIGS / "data" / "_loader.yaml").read_text())
    for option in OPTIONS["data"]:
        if option == "checkpoint":
            continue
        content = yaml.safe_load((CONFIGS / "data" / f"{option}.yaml").read_text())
        cfg = compose_run([f"data={option}"])
        assert set(loader["data"]) < set(cfg.data), option
        assert set(cfg.recipe) == {
            "resolution", "normalization", "pretrained", "backbone", "epochs", "lr", "lr_batch_size"
        }, option  # fmt: skip
        for key, value in content["data"].items():
            assert value != loader["data"].get(key, "another"), f"{option}: {key} repeats what the loader has"


def test_every_task_has_a_config():
    assert set(task_names()) == set(OPTIONS["task"])


@pytest.mark.parametrize("task", OPTIONS["task"])
@pytest.mark.parametrize("backbone", ARCHITECTURES)
def test_every_backbone_takes_the_heads_of_every_task(backbone, task):
    cfg = compose_run([f"backbone={backbone}", f"task={task}"])
    options = OmegaConf.to_container(cfg.task, resolve=True)
    heads = build_task(options.pop("name"), num_classes=3, **options).heads
    with torch.device("meta"):
        network = build_network(OmegaConf.to_container(cfg.backbone, resolve=True), heads).eval()
        side = max(network.divisor, 64)
        stacks = network(torch.zeros(1, 3, side, side))
    for maps in stacks:
        assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == {
            name: (head.channels, side // 4, side // 4) for name, head in heads.items()
        }


@pytest.mark.parametrize("data", [option for option in OPTIONS["data"] if option != "checkpoint"])
@pytest.mark.parametrize("augment", OPTIONS["augment"])
def test_every_data_config_instantiates_with_every_augmentation(data, augment, request, tmp_path):
    # The json files of VOC have names of their own.
    files = [f"data.{split}_{kind}=null" for split in ("train", "val") for kind in ("annotations", "images")]
    written = {"voc": formats.write_voc, "yolo": formats.write_yolo, "auto": formats.write_createml}
    written["createml"] = formats.write_createml
    drawn = {"coco": "shapes", "voc_coco": "shapes", "coco_pose": "figures", "kitti": "cuboids"}
    root = written[data](tmp_path) if data in written else request.getfixturevalue(drawn.get(data, data))
    words = [f"data={data}", f"augment={augment}", f"data.root={root}", *(files if data == "voc_coco" else [])]
    cfg = compose_run(words)
    if "train_count" in cfg.data:
        cfg.data.train_count, cfg.data.val_count = 24, 8
    for name in ("train_annotations", "train_images", "val_annotations", "val_images"):
        if name in cfg.data:  # a data set's own file names; these files have others
            cfg.data[name] = None
    made = build.build_datamodule(cfg.data)
    made.num_workers = 0
    made.setup("fit")
    sample = made.datasets["train"][0]
    assert tuple(sample["image"].shape[1:]) == tuple(cfg.resolution)


def test_the_network_says_to_what_images_are_padded(shapes):
    cfg = compose_run([f"data.root={shapes}", "data=coco", "data.test_mode=keep", "backbone=hourglass104"])
    assert build.build_datamodule(cfg.data, cfg.backbone).divisor == 128
    assert build.build_datamodule(cfg.data).divisor == 32


@pytest.mark.parametrize("schedule", OPTIONS["schedule"])
@pytest.mark.parametrize("task", OPTIONS["task"])
def test_every_schedule_builds_a_module_and_its_optimizer(task, schedule):
    cfg = compose_run([f"task={task}", f"schedule={schedule}", *tiny.NETWORK_OVERRIDES, "pretrained=false"])
    module = build.build_module(cfg, ["a", "b"])
    optimizer = module.schedule.build_optimizer(module.detector.network, 8)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))
    assert module.backbone == {**tiny.NETWORK, **{k: v for k, v in module.backbone.items() if k not in tiny.NETWORK}}


@pytest.mark.parametrize("logger", OPTIONS["logger"])
@pytest.mark.parametrize("trainer", OPTIONS["trainer"])
def test_every_trainer_instantiates_with_every_logger(trainer, logger, tmp_path):
    cfg = compose_run([f"trainer={trainer}", f"logger={logger}"])
    cfg.paths.run = str(tmp_path)
    if "gpu" in str(cfg.trainer.accelerator) and not torch.cuda.is_available():
        from centernet.structures import InputError

        with pytest.raises(InputError, match=r"trainer.accelerator=gpu, but no CUDA device"):
            build.build_trainer(cfg)
        return
    made = build.build_trainer(cfg)
    assert bool(made.loggers) == (logger != "csv")
    assert made.num_devices == cfg.trainer.devices
    assert {type(c).__name__ for c in made.callbacks} >= {"BestAndLast", "History", "Pictures", "SaveOnInterrupt"}


def test_more_processes_than_the_machine_has_cores_are_said_to_take_turns(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    for devices, is_said in ((2, False), (5, True)):
        cfg = compose_run(["trainer=ddp_cpu", f"trainer.devices={devices}"])
        cfg.paths.run = str(tmp_path)
        caplog.clear()
        build.build_trainer(cfg)
        assert ("this machine has 2 cores: 5 processes take turns" in caplog.text) == is_said


def test_a_callback_can_be_left_out(tmp_path):
    cfg = compose_run(["~callbacks.pictures"])
    cfg.paths.run = str(tmp_path)
    assert "Pictures" not in {type(c).__name__ for c in build.build_trainer(cfg).callbacks}


def test_the_packages_that_are_installed_are_those_that_exist():
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("centernet", "hydra_plugins")
        for path in (ROOT / package).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert set(declared["packages"]) == folders | {"centernet.configs"}
    assert declared["package-dir"]["centernet.configs"] == "configs"


def test_the_console_commands_exist():
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"centernet-train", "centernet-eval"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_any_backbone_of_timm_is_a_choice_of_the_group():
    cfg = compose_run(["backbone=mobilenetv3_small_050"])
    assert cfg.backbone.name == "mobilenetv3_small_050"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("task=ctdt", r"unknown task 'ctdt'; did you mean ctdet"),
        ("data=shape", r"unknown data 'shape'; did you mean shapes"),
        ("augment=center", r"unknown augment 'center'; did you mean centernet"),
        ("logger=wandbb", r"unknown logger 'wandbb'; did you mean wandb"),
        ("trainer=ddb", r"unknown trainer 'ddb'; did you mean ddp"),
        ("schedule=adam", r"unknown schedule 'adam'; did you mean adam_"),
    ],
)
def test_an_unknown_option_of_a_group_proposes_close_ones(given, message):
    from centernet.structures import InputError

    with pytest.raises(InputError, match=message):
        app.understand_groups([given])


def test_what_is_no_group_choice_is_left_to_hydra():
    app.understand_groups(
        ["seed=1", "task.heatmap.max_detections=50", "~callbacks.pictures", "--help", "-m", "hydra=none", "paths=null"]
    )


def test_configuration_lies_beside_the_package():
    assert app.CONFIGS.resolve() == Path(CONFIGS).resolve()


# Facts of the publications: global batch, learning rate at that batch, epochs, input, normalization.
DLA_COCO, VOC = (128, 5e-4), (32, 1.25e-4)
PUBLISHED: dict[str, tuple[tuple[int, float], int, list[int], str]] = {
    "ctdet_resdcn18": ((114, 5e-4), 140, [512, 512], "coco"),
    "ctdet_resdcn101": ((96, 3.75e-4), 140, [512, 512], "coco"),
    "ctdet_dla34_1x": (DLA_COCO, 140, [512, 512], "coco"),
    "ctdet_dla34": (DLA_COCO, 230, [512, 512], "coco"),
    "ctdet_hourglass104": ((24, 2.5e-4), 50, [512, 512], "coco"),
    "ctdet_hardnet85": ((48, 1e-2), 300, [512, 512], "coco"),
    "ctdet_hardnet68": ((24, 5e-3), 150, [512, 512], "coco"),
    "ctdet_voc_resdcn18_384": (VOC, 70, [384, 384], "imagenet"),
    "ctdet_voc_resdcn18_512": (VOC, 70, [512, 512], "imagenet"),
    "ctdet_voc_resdcn101_384": (VOC, 70, [384, 384], "imagenet"),
    "ctdet_voc_resdcn101_512": (VOC, 70, [512, 512], "imagenet"),
    "ctdet_voc_dla34_384": (VOC, 70, [384, 384], "imagenet"),
    "ctdet_voc_dla34_512": (VOC, 70, [512, 512], "imagenet"),
    "multi_pose_dla34_1x": (DLA_COCO, 140, [512, 512], "coco"),
    "multi_pose_dla34": (DLA_COCO, 320, [512, 512], "coco"),
    "multi_pose_hourglass104_1x": ((24, 2.5e-4), 50, [512, 512], "coco"),
    "multi_pose_hourglass104_3x": ((24, 2.5e-4), 150, [512, 512], "coco"),
    "exdet_dla34": ((64, 2.5e-4), 140, [512, 512], "coco"),
    "exdet_hourglass104": ((24, 2.5e-4), 140, [512, 512], "coco"),
    "ddd_dla34_3dop": ((16, 1.25e-4), 70, [384, 1280], "imagenet_swapped"),
    "ddd_dla34_subcnn": ((16, 1.25e-4), 70, [384, 1280], "imagenet_swapped"),
}


@pytest.mark.parametrize("preset", OPTIONS["experiment"])
def test_a_preset_trains_as_published(preset):
    text = (CONFIGS / "experiment" / f"{preset}.yaml").read_text()
    if preset not in PUBLISHED:
        assert "\n# published: none" in text
        return
    (batch, lr), epochs, resolution, normalization = PUBLISHED[preset]
    cfg = compose_run([f"experiment={preset}"])
    assert Schedule.of(OmegaConf.to_container(cfg.schedule, resolve=True)).scaled_lr(batch) == pytest.approx(lr)
    assert (cfg.schedule.epochs, list(cfg.data.resolution), cfg.normalization) == (epochs, resolution, normalization)
    processes = re.search(r"trainer.devices=(\d+)", text.splitlines()[1])
    # Five processes cannot share 24 images evenly, nor four 114.
    assert cfg.data.batch_size * int(processes[1] if processes else 1) == pytest.approx(batch, rel=0.05)
    assert re.search(rf"^# hardware: .*\bbatch {batch}\b", text, re.MULTILINE)


def test_the_data_of_a_foreign_checkpoint_runs_nothing_of_its_own(tmp_path):
    """A nested node must stay what it is: data. (A prefix alone would let it open, and so empty, any file.)"""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    module = CtdetModule(num_classes=2, backbone=tiny.NETWORK)
    attack = {"_target_": "builtins.open", "file": str(victim), "mode": "w"}
    for place in ("root", "joints", "augment"):
        given = {"_target_": "centernet.data.coco.CocoDataModule", "root": str(tmp_path), place: attack}
        module.run_config = {"data": given}
        content = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(content)
        torch.save(content, tmp_path / "foreign.ckpt")
        cfg = compose_run([f"ckpt={tmp_path / 'foreign.ckpt'}"], "eval")
        with contextlib.suppress(Exception):  # whatever the data module says of it
            build.from_checkpoint(tmp_path / "foreign.ckpt", cfg)
        assert victim.read_text() == "precious"
    module.run_config = {"data": attack}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match=r"data\._target_='builtins.open' is not below centernet.data."):
        build.from_checkpoint(tmp_path / "foreign.ckpt", cfg)
    assert victim.read_text() == "precious"
