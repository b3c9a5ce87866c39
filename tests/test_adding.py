"""The task of docs/adding.md works as it is printed."""

from __future__ import annotations

import re
import shutil
import sys

import pytest
import torch

import centernet.tasks
from centernet import app, choices
from centernet.fields import move, partners_of, stack_objects
from centernet.inference import Predictor
from centernet.joints import COCO_JOINTS
from centernet.ops.affine import flip_matrix
from centernet.tasks import build_task
from tests import tiny
from tests.places import ROOT


def printed(path: str) -> str:
    """The code block of docs/adding.md that stands under the name of a file."""
    text = (ROOT / "docs" / "adding.md").read_text()
    return re.search(rf"^`{re.escape(path)}`:\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def tilt(tmp_path_factory, monkeypatch):
    """The printed task and its YAML, where the package looks for them."""
    place = tmp_path_factory.mktemp("added")
    configs = shutil.copytree(choices.CONFIGS, place / "configs")
    (configs / "task" / "tilt.yaml").write_text(printed("configs/task/tilt.yaml"))
    (place / "tilt.py").write_text(printed("centernet/tasks/tilt.py"))
    monkeypatch.setattr(centernet.tasks, "__path__", [*centernet.tasks.__path__, str(place)])
    for module in (choices, app):
        monkeypatch.setattr(module, "CONFIGS", configs)
    yield
    sys.modules.pop("centernet.tasks.tilt", None)


def people() -> dict[str, torch.Tensor]:
    """Two people, one of them tilted."""
    objects = tiny.make_objects([[10, 10, 50, 60], [80, 20, 120, 90]])
    joints = torch.zeros(2, len(COCO_JOINTS), 3)
    left, right = COCO_JOINTS.index("left_shoulder"), COCO_JOINTS.index("right_shoulder")
    joints[:, left] = torch.tensor([[40.0, 20, 2], [110, 40, 2]])
    joints[:, right] = torch.tensor([[20.0, 20, 2], [90, 30, 1]])
    return {**objects, "joints": joints}


def test_the_printed_term_finds_what_it_was_taught_in_an_image_and_in_its_mirror(tilt):
    task = build_task("tilt", 1)
    size = (32, 32)
    wanted = torch.tensor([0.0, torch.atan2(torch.tensor(10.0), torch.tensor(20.0))])
    plain, mirrored = people(), move(people(), torch.from_numpy(flip_matrix(128)), partners_of({"joints": {}}))
    for objects, sign in ((plain, 1), (mirrored, -1)):
        found = task.detect(task.perfect(task.encode(stack_objects([objects]), size), size))
        best = found["scores"][0] > 0.9
        assert best.sum() == 2
        order = found["boxes"][0, best, 0].argsort(descending=sign < 0)
        torch.testing.assert_close(found["tilt"][0, best][order], sign * wanted)
    maps = [task.activate(task.perfect(task.encode(stack_objects([rows]), size), size)) for rows in (plain, mirrored)]
    cell = maps[0]["heatmap"][0, 0].flatten().argmax()
    back = task.terms["tilt"].mirror(maps[1]["tilt"].flip(-1))
    torch.testing.assert_close(back.flatten(2)[..., cell], maps[0]["tilt"].flatten(2)[..., cell])


@pytest.mark.slow
def test_the_printed_task_trains_and_predicts_by_its_command(tilt, command, figures):
    few = ["trainer.limit_train_batches=2", "schedule.epochs=1", "resolution=[64,64]", "data.num_workers=0"]
    drawn = [f"data.root={figures}", "data.train_count=24", "data.val_count=8"]
    result = command("train", "task=tilt", "data=figures", *drawn, *few, *tiny.NETWORK_OVERRIDES)
    assert result.code == 0, result.output
    found = Predictor.from_checkpoint(result.run / "best.ckpt")(next((figures / "val").iterdir()))
    assert found["tilt"].shape == found["scores"].shape == (50,)
    other = command("train", "task=tilt", "data=shapes", *few, *tiny.NETWORK_OVERRIDES)
    assert other.code == 2
    assert "task tilt needs objects with joints" in other.output
