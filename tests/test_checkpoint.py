"""Checkpoints of format 1, rewritten by hand from today's, are read, evaluated and continued as what they are."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from centernet.checkpoint import FORMAT, KEY, PREFIX, read_checkpoint
from centernet.data.coco import CocoDataModule
from centernet.data.datamodule import CenterNetDataModule
from centernet.data.kitti import KittiDataModule
from centernet.inference import Predictor
from centernet.module import CenterNetModule, load_module
from centernet.structures import InputError
from tests import tiny
from tests.test_module import build_trainer, pytestmark  # noqa: F401  the same warnings are quiet

SPACE = {"radius": "cornernet", "min_overlap": 0.6, "heatmap_weight": 1.0, "k": 7, "overlap": "relaxed"}
BOXES = {**{name: value for name, value in SPACE.items() if name != "overlap"}, "evaluator": "pycocotools"}
POINTS = {"radius": "cornernet", "min_overlap": 0.6, "max_detections": 7}
# Of every task: its options as they are now and as format 1 wrote them (configs/task/*.yaml of that time), each with
# something that a map, a loss or a detection depends on.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ctdet": (
        {
            "heatmap": {**POINTS, "crowds": "objects", "loss": "mse"},
            "size": {"weight": 0.2, "per_class": True, "loss": "smooth_l1"},
            "offset": None,
        },
        {
            **BOXES,
            "size_weight": 0.2,
            "offset_weight": 1.0,
            "heatmap_loss": "mse",
            "regression_loss": "smooth_l1",
            "size_target": "per_class",
            "offset": False,
            "crowds": "objects",
        },
    ),
    "ctdet_dense": (
        {"heatmap": POINTS, "box": {"size_weight": 0.2, "offset_weight": 0.7}},
        {**BOXES, "size_weight": 0.2, "offset_weight": 0.7, "heatmap_loss": "focal", "crowds": "ignore"},
    ),
    "multi_pose": (
        {
            "heatmap": POINTS,
            "unlabeled": "box",
            "size": {"loss": "smooth_l1"},
            "offset": {"loss": "smooth_l1"},
            "joints": {"weight": 0.5, "supervise": "dense"},
            "joint_heatmap": {"weight": 0.3, "loss": "mse"},
            "joint_offset": {"weight": 0.2, "loss": "smooth_l1"},
        },
        {
            **BOXES,
            "size_weight": 0.1,
            "offset_weight": 1.0,
            "joints_weight": 0.5,
            "joint_heatmap_weight": 0.3,
            "joint_offset_weight": 0.2,
            "heatmap_loss": "focal",
            "joint_heatmap_loss": "mse",
            "regression_loss": "smooth_l1",
            "joints_target": "dense",
            "offset": True,
            "joint_heatmap": True,
            "joint_offset": True,
            "jointless": "box",
            "crowds": "ignore",
        },
    ),
    "ddd": (
        {
            "pad_objects": 50,
            "heatmap": {**POINTS, "ignore": "region"},
            "depth": {"weight": 0.7, "focal": 300.0},
            "dimensions": {"weight": 0.6},
            "rotation": {"weight": 0.4},
            "size": None,
        },
        {
            **SPACE,
            "depth_weight": 0.7,
            "dimensions_weight": 0.6,
            "rotation_weight": 0.4,
            "size_weight": 0.1,
            "offset_weight": 1.0,
            "size": False,
            "offset": True,
            "slots": 50,
            "ignored": "region",
            "focal": 300.0,
        },
    ),
    "ddd_dle": (
        {"heatmap": {**POINTS, "max_depth": 20.0}, "depth": {"weight": 0.7}, "offset_3d": {"weight": 0.4}},
        {
            **SPACE,
            "depth_weight": 0.7,
            "dimensions_weight": 1.0,
            "rotation_weight": 1.0,
            "size_weight": 1.0,
            "offset_weight": 1.0,
            "offset_3d_weight": 0.4,
            "max_depth": 20.0,
            "ignored": "gaussian",
        },
    ),
}
METRIC = {"ddd": {"overlap": "relaxed"}, "ddd_dle": {"overlap": "relaxed"}}
# Where the data modules of those that the package draws were.
OLD_DATA = {
    "multi_pose": "centernet.data.figures.FiguresDataModule",
    "ddd": "centernet.data.cuboids.CuboidsDataModule",
    "ddd_dle": "centernet.data.cuboids.CuboidsDataModule",
}
NEW_DATA = {
    "multi_pose": "centernet.data.builtin.figures.FiguresDataModule",
    "ddd": "centernet.data.builtin.cuboids.CuboidsDataModule",
    "ddd_dle": "centernet.data.builtin.cuboids.CuboidsDataModule",
}
SHAPES = ("centernet.data.synthetic.ShapesDataModule", "centernet.data.builtin.shapes.ShapesDataModule")


def in_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as the version before would have written it."""
    content = deepcopy(content)
    description = content[KEY]
    description["format"] = 1
    module = description["module"]
    task, facts = module["task"], module.pop("facts")
    del module["metric_options"]
    module["task_options"] = deepcopy(OPTIONS[task][1])
    # What the data says of itself stood among the options.
    if task == "multi_pose":
        module["task_options"]["joints"] = facts["joints"]
    if task == "ddd_dle":
        module["task_options"] |= {"focal": facts["focal"], "mean_dimensions": facts["mean_dimensions"]}
    if task == "ctdet_dense":
        state = content["state_dict"]
        content["state_dict"] = {
            name.replace(".box.", ".size.") if name.startswith(f"{PREFIX}head.") else name: value
            for name, value in state.items()
        }
        assert content["state_dict"].keys() != state.keys()
    description["config"] = {"data": {"_target_": OLD_DATA.get(task, SHAPES[0]), "root": "somewhere"}}
    content["hyper_parameters"] = module
    return content


class Case(NamedTuple):
    """A module after one step, its checkpoint in both formats, and data to go on with."""

    task: str
    module: CenterNetModule
    new: Path
    old: Path
    data: CenterNetDataModule

    def resume(self, path: Path, folder: Path) -> dict[str, torch.Tensor]:
        """Two steps of training from a checkpoint on the same images, and the weights then."""
        pl.seed_everything(0, verbose=False)
        module = build_module(self.task, self.data)
        trainer = build_trainer(folder, max_epochs=3, limit_val_batches=0, enable_checkpointing=False)
        trainer.fit(module, self.data, ckpt_path=path, weights_only=True)
        assert trainer.global_step == 3
        return module.state_dict()


def build_module(task: str, data: CenterNetDataModule) -> CenterNetModule:
    options = {"task_options": OPTIONS[task][0], "metric_options": METRIC.get(task, {"backend": "pycocotools"})}
    return CenterNetModule.for_data(data, task=task, backbone=tiny.NETWORK, **options)


@pytest.fixture(scope="module", params=list(OPTIONS))
def case(request, tmp_path_factory) -> Case:
    task = request.param
    loading = {"batch_size": 4, "num_workers": 0, "limit": 4, "augment": {"warp": None}}
    if task == "multi_pose":
        root = request.getfixturevalue("figures")
        data: CenterNetDataModule = CocoDataModule(root, prefix="person_keypoints", resolution=(64, 64), **loading)
    elif task.startswith("ddd"):
        data = KittiDataModule(request.getfixturevalue("cuboids"), resolution=(64, 192), **loading)
    else:
        data = CocoDataModule(request.getfixturevalue("shapes"), resolution=(64, 64), **loading)
    pl.seed_everything(0, verbose=False)
    module = build_module(task, data)
    tiny.enliven(module.detector.network)
    folder = tmp_path_factory.mktemp(task)
    trainer = build_trainer(folder, limit_val_batches=0, enable_checkpointing=False)
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "new.ckpt")
    content = torch.load(folder / "new.ckpt", weights_only=True)
    assert content[KEY]["format"] == FORMAT
    torch.save(in_format_1(content), folder / "old.ckpt")
    return Case(task, module.eval(), folder / "new.ckpt", folder / "old.ckpt", data)


def test_an_old_description_becomes_todays(case):
    old, new = (read_checkpoint(path) for path in (case.old, case.new))
    assert old[KEY]["format"] == FORMAT
    assert old["state_dict"].keys() == new["state_dict"].keys()
    assert old[KEY]["module"].keys() == new[KEY]["module"].keys()
    assert old[KEY]["config"]["data"] == {"_target_": NEW_DATA.get(case.task, SHAPES[1]), "root": "somewhere"}
    assert old[KEY]["module"]["metric_options"].items() >= new[KEY]["module"]["metric_options"].items()


def test_a_predictor_of_an_old_checkpoint_detects_the_same(case):
    old, new = (Predictor.from_checkpoint(path, device="cpu") for path in (case.old, case.new))
    assert old.class_names == new.class_names
    about = {"focal": 200.0} if case.task.startswith("ddd") else {}
    for image in case.data.datasets["val"].files[:2]:
        found, wanted = old(image, **about), new(image, **about)
        assert found["scores"].shape == (7,)
        assert found.keys() == wanted.keys()
        for name in set(found.keys()) - {"names"}:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_a_module_of_an_old_checkpoint_has_the_same_outputs_and_losses(case):
    old, spec = load_module(case.old)
    assert spec == load_module(case.new)[1]
    assert old.task.heads == case.module.task.heads
    batch = next(iter(case.data.val_dataloader()))
    with torch.no_grad():
        found, wanted = (module.eval().detector.outputs(batch["image"]) for module in (old, case.module))
        assert all(torch.equal(found[-1][name], value) for name, value in wanted[-1].items())
        parts, wanted_parts = (module.task.losses(wanted, module._targets(batch)) for module in (old, case.module))
    assert parts["loss"] > 0
    assert parts == wanted_parts


def test_training_goes_on_from_an_old_checkpoint_as_from_a_new_one(case, tmp_path):
    found, wanted = case.resume(case.old, tmp_path), case.resume(case.new, tmp_path)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    before = case.module.state_dict()
    assert not all(torch.equal(found[name], value) for name, value in before.items())


def test_newer_formats_are_refused_wherever_they_are_read(case, tmp_path):
    content = torch.load(case.new, weights_only=True)
    content[KEY]["format"] = FORMAT + 1
    path = tmp_path / "newer.ckpt"
    torch.save(content, path)
    message = rf"was written by a newer version \(format {FORMAT + 1}\); update centernet$"
    for read in (read_checkpoint, load_module, Predictor.from_checkpoint):
        with pytest.raises(InputError, match=rf"newer\.ckpt {message}"):
            read(path)
    with pytest.raises(InputError, match=rf"the checkpoint {message}"):
        case.resume(path, tmp_path)
