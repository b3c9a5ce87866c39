"""Training from Python: as quiet and as telling as the command line. The README's snippets run as they stand."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from centernet.data.images import find_images
from centernet.errors import InputError
from centernet.module import CtdetModule
from centernet.training import train
from tests import test_module, tiny
from tests.places import ROOT
from tests.test_module import SHAPES, build_data

pytestmark = test_module.pytestmark
# What Lightning and its libraries say to a new user.
NOISE = r"Tip|GPU|TPU|HPU|bar_|litlogger|seed|Trainer|LOCAL_RANK|num_workers|Warning|`"


def snippets() -> list[str]:
    """The Python code in the README."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def python(tmp_path, monkeypatch, capfd) -> Callable[[str], tuple[dict[str, Any], str]]:
    """Run code as in a fresh interpreter: in an empty folder, without handlers of logs; its names and its output."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    def run(code: str) -> tuple[dict[str, Any], str]:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(logging.getLogger(), "handlers", [])  # pytest's
            exec(code, names)
        return names, "".join(capfd.readouterr())

    return run


def smaller(code: str, **changes: str) -> str:
    """The same code with other words in it; each must be there."""
    for old, new in changes.items():
        assert old in code, old
        code = code.replace(old, new)
    return code


def build_module(**options: Any) -> CtdetModule:
    pl.seed_everything(0, verbose=False)
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, **{"schedule": {"epochs": 1}, **options})
    tiny.enliven(module.detector.network)
    return module


@pytest.mark.slow
def test_the_readmes_first_snippet_runs_and_tells_what_the_command_line_tells(python, shapes, tmp_path):
    image = find_images(shapes / "val")[0]
    code = smaller(
        snippets()[0],
        **{
            '"DIR"': repr(str(shapes)),
            "(512, 512)": "(64, 64)",
            "batch_size=16": "batch_size=8",
            "epochs=50": "epochs=2",
            '"image.jpg"': repr(str(image)),
        },
    )
    names, said = python(code)
    run, found = names["run"], names["found"]
    assert re.search(r"^data: 24 train images, 8 val images; 4 classes", said, re.MULTILINE)
    assert re.search(r"^network: s \+ ", said, re.MULTILINE)
    assert [line[:11] for line in said.splitlines() if line.startswith("epoch")] == ["epoch   1/2", "epoch   2/2"]
    assert re.search(r"^AP    +\d\.\d{3}", said, re.MULTILINE)
    assert not re.search(NOISE, said), said
    assert run.folder.parent == Path("runs/train")
    wanted = "best.ckpt last.ckpt history.csv hparams.yaml curves.png metrics.json detections.json run.log pictures"
    assert set(wanted.split()) <= {path.name for path in run.folder.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}  # no lightning_logs
    assert 0 <= run.metrics["AP"] <= 1
    assert run.metrics["AP"] == json.loads((run.folder / "metrics.json").read_text())["metrics"]["AP"]
    assert (run.folder / "run.log").read_text() in said.replace("\r", "")
    assert len(found["boxes"]) == len(found["scores"]) == len(found["names"])


@pytest.mark.slow
def test_the_readmes_second_snippet_runs(python, cuboids):
    code = smaller(
        snippets()[1],
        **{
            'root="KITTI"': f"root={str(cuboids)!r}, resolution=(64, 192), batch_size=4, num_workers=0",
            'task="ddd_dle"': f'task="ddd_dle", backbone={tiny.NETWORK!r}',
            '{"epochs": 70, "milestones": [45, 60]}': '{"epochs": 1}',
        },
    )
    _, said = python(f"from centernet.training import train\n{code}")
    assert "epoch   1/1" in said
    assert not re.search(NOISE, said), said


def test_it_writes_where_it_is_told_and_goes_on_from_there(shapes, tmp_path):
    data = build_data(shapes, limit=8, batch_size=4)
    first = train(build_module(), data, tmp_path / "mine", logger="csv")
    assert first.folder == tmp_path / "mine"
    assert not (first.folder / "tensorboard").exists()
    longer = build_module(schedule={"epochs": 2})
    again = train(longer, build_data(shapes, limit=8, batch_size=4), ckpt=first.folder, logger="csv")
    assert again.folder == first.folder
    rows = (first.folder / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert torch.load(first.folder / "last.ckpt", weights_only=True)["epoch"] == 1


def test_callbacks_can_be_set_left_out_and_added_and_the_trainer_has_options(shapes, tmp_path):
    class Note(pl.Callback):
        steps = 0

        def on_train_batch_end(self, *_: Any) -> None:
            Note.steps += 1

    made = train(
        build_module(),
        build_data(shapes, limit=8, batch_size=2),
        tmp_path / "run",
        logger=pl.loggers.CSVLogger(tmp_path, name="own"),
        callbacks={"average": {"decay": None}, "pictures": None},
        add=[Note()],
        limit_train_batches=3,
    )
    assert Note.steps == 3
    assert not (made.folder / "pictures").exists()
    assert "live_weights" not in torch.load(made.folder / "last.ckpt", weights_only=True)
    assert list((tmp_path / "own").rglob("metrics.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logger": "tensorbord"}, "there is no logger 'tensorbord'; did you mean tensorboard"),
        (
            {"logger": "wandb"},
            r"logger='wandb' is for the command line; give the logger itself, such as WandbRun\(folder\)",
        ),
        (
            {"callbacks": {"picture": None}},
            "there is no callback 'picture' among the usual ones; did you mean pictures",
        ),
        ({"max_epoch": 3}, "trainer: .*max_epoch"),
        ({"ckpt": "auto"}, "ckpt=auto is for the command line; give a checkpoint or a run folder"),
        ({"ckpt": "absent.ckpt"}, "absent.ckpt: the file does not exist"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(shapes, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        train(build_module(), build_data(shapes), tmp_path / "run", **options)
    assert "\n" not in str(raised.value)


def test_the_logs_of_the_program_around_it_are_as_before(shapes, tmp_path):
    ours = logging.getLogger("centernet")
    before = (ours.level, list(ours.handlers))
    train(build_module(), build_data(shapes, limit=4, batch_size=4), tmp_path / "run", logger="csv")
    assert (ours.level, list(ours.handlers)) == before
