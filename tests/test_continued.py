"""A training that continues brings the settings of its run; what is said besides counts, and is said to differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from centernet import sizing
from centernet.continued import continued_words, differences, require_more_to_train, taken_words, value_of
from centernet.errors import InputError
from tests.test_folders import make_run


def test_the_words_of_the_run_come_before_those_that_are_said(tmp_path):
    run = make_run(tmp_path, "a", ["data=coco", "data.root=cats", "seed=1", "ckpt=auto", "paths.run=x"])
    for ckpt in (run, run / "last.ckpt"):
        words, note = continued_words(["-m", f"ckpt={ckpt}", "seed=2"])
        assert words == ["-m", "data=coco", "data.root=cats", f"ckpt={ckpt}", "seed=2"]
        assert note == f"{ckpt} brings its settings: data=coco data.root=cats"


@pytest.mark.parametrize("words", [["seed=1"], ["seed=1", "ckpt=auto"], ["ckpt=null"], [], ["-m", "ckpt=a,b"]])
def test_without_a_checkpoint_the_words_stay_as_they_are(words):
    assert continued_words(words) == (words, "")


def test_a_checkpoint_that_does_not_exist_is_named():
    with pytest.raises(InputError, match=r"nowhere/last.ckpt: the file does not exist; give a checkpoint"):
        continued_words(["ckpt=nowhere/last.ckpt"])


@pytest.mark.parametrize(
    ("recorded", "said", "taken"),
    [
        # A value that is said again replaces the recorded one, however it is written.
        (["schedule.lr=1", "+trainer.x=1"], ["schedule.lr=2", "++trainer.x=2"], []),
        (["~callbacks.bar", "seed=1"], ["seed=2"], ["~callbacks.bar"]),
        # How far a run went and where it lies are its own.
        (["trainer.max_epochs=1", "trainer.max_steps=9", "label=a", "paths.run=b", "seed=1"], [], ["seed=1"]),
        # The options of another choice do not fit this one.
        (["data=coco", "data.root=a", "recipe.lr=1"], ["data=kitti"], []),
        (["data=coco", "data.root=a"], ["data=coco"], ["data.root=a"]),
        (["data.train_count=4", "seed=1"], ["data=coco"], ["seed=1"]),
        (["data.train_count=4"], ["data=shapes"], ["data.train_count=4"]),
        (["experiment=ddd_quick", "data.limit=4"], ["data=cuboids"], ["experiment=ddd_quick", "data.limit=4"]),
        (["task.box.weight=4", "metric.backend=pycocotools"], ["task=ctdet"], []),
    ],
)  # fmt: skip
def test_recorded_words_that_no_longer_fit_are_left_out(recorded, said, taken):
    assert taken_words(recorded, said) == taken


def test_the_last_value_of_a_key_counts():
    assert value_of(["seed=1", "ckpt='a b'", "ckpt=null"], "ckpt") is None
    assert value_of(["ckpt='a b'"], "ckpt") == "a b"


def test_differences_are_listed_by_key_and_what_follows_from_others_is_not():
    theirs = {
        "seed": 0,
        "resolution": [64, 64],
        "data": {"resolution": [64, 64], "batch_size": 8, "root": "a"},
        "task": {"heatmap": {"weight": 1.0}, "offset": {"weight": 1.0}},
        "schedule": {"lr": 1},
        "paths": {"run": "a"},
        "ckpt": None,
    }
    mine = {
        "seed": 0,
        "resolution": [96, 64],
        "data": {"resolution": [96, 64], "batch_size": 4, "root": "b", "new": 1},
        "task": {"heatmap": {"weight": 2.0}, "offset": None},
        "schedule": {"lr": 2},
        "paths": {"run": "b"},
        "ckpt": "a",
    }
    assert differences(theirs, mine) == (
        "resolution [64,64] -> [96,64], data.batch_size 8 -> 4, data.root a -> b, task.heatmap.weight 1.0 -> 2.0, "
        "task.offset {'weight':1.0} -> null"
    )
    assert differences(theirs, theirs) == ""
    many = {f"key_{n}": n for n in range(12)}
    assert differences(many, dict.fromkeys(many, -1)).endswith("key_7 7 -> -1, and 4 more")


def content(epochs: int, steps: int = 0, progress: float | None = None) -> dict[str, Any]:
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": epochs}}}}
    callbacks = {} if progress is None else {"TimeBudget": {"progress": progress}}
    return {"loops": loops, "global_step": steps, "callbacks": callbacks}


def settings(epochs: int = 12, **trainer: Any) -> dict[str, Any]:
    return {"schedule": {"epochs": epochs}, "trainer": {"max_epochs": epochs, "max_steps": -1, **trainer}}


@pytest.mark.parametrize(
    ("done", "asked", "sentence"),
    [
        (content(12), settings(12), "already trained 12 epochs; raise schedule.epochs, which is 12"),
        (content(12), settings(3), "already trained 12 epochs; raise schedule.epochs, which is 3"),
        (content(1), settings(12, max_epochs=1), "already trained 1 epoch; raise trainer.max_epochs, which is 1"),
        (content(2, 40), settings(12, max_steps=40), "already trained 40 steps; raise trainer.max_steps, which is 40"),
        (content(9, progress=1.0), settings(12, max_time="00:00:00:09"), "already trained for all of its time; train "),
    ],
)  # fmt: skip
def test_a_run_that_is_trained_as_far_as_it_is_told_is_refused(done, asked, sentence):
    with pytest.raises(InputError) as error:
        require_more_to_train(Path("last.ckpt"), done, asked, is_auto=False)
    assert str(error.value).startswith(f"last.ckpt: {sentence}")


def test_a_command_that_is_repeated_until_it_ends_well_may_come_once_more():
    sentence = require_more_to_train(Path("last.ckpt"), content(12), settings(12), is_auto=True)
    assert sentence == "already trained 12 epochs; raise schedule.epochs, which is 12"
    with pytest.raises(InputError, match="already trained 12 epochs"):
        require_more_to_train(Path("last.ckpt"), content(12), settings(3), is_auto=True)


@pytest.mark.parametrize(
    ("done", "asked"),
    [
        (content(11), settings(12)),
        (content(99), settings(12, max_epochs=-1, max_steps=33)),
        (content(99), settings(12, max_time="00:01:00:00")),
        (content(99, progress=0.5), settings(12, max_time="00:01:00:00")),
    ],
)
def test_a_run_with_something_left_to_do_goes_on(done, asked):
    assert require_more_to_train(Path("last.ckpt"), done, asked, is_auto=False) == ""


def test_what_was_chosen_by_itself_is_not_chosen_again():
    cfg = OmegaConf.create(
        {
            "backbone": {"name": "auto"},
            "pretrained": "auto",
            "schedule": {"backbone_lr_factor": "auto", "epochs": 7},
            "resolution": "auto",
            "data": {"batch_size": "auto"},
            "trainer": {"accumulate_grad_batches": "auto"},
        }
    )
    theirs = {
        "backbone": {"name": "m"},
        "pretrained": True,
        "schedule": {"backbone_lr_factor": 0.3, "epochs": 40},
        "resolution": [480, 640],
        "data": {"batch_size": 16},
    }
    sizing.take_over(cfg, theirs)
    assert OmegaConf.to_container(cfg) == {
        "backbone": {"name": "m"},
        "pretrained": True,
        "schedule": {"backbone_lr_factor": 0.3, "epochs": 7},
        "resolution": [480, 640],
        "data": {"batch_size": 16},
        "trainer": {"accumulate_grad_batches": "auto"},
    }
    sizing.take_over(cfg, None)
    assert cfg.trainer.accumulate_grad_batches == "auto"
