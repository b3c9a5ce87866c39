"""Sweeps: jobs that fail are rows, finished jobs are skipped, broken ones continue; the table of runs.

Most jobs here train nothing: a stand-in for `train.py` has everything of the command but the training.
"""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from centernet import app, runs
from centernet.data.images import read_image
from centernet.errors import InputError
from centernet.folders import STAMP
from centernet.ladder import compared_with, ladder_jobs
from centernet.visualize import pareto_front
from tests.places import ROOT
from tests.test_train import SHORT, run

STAND_IN = '''
import json, os, signal, sys, time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

from centernet import app
from centernet.folders import STAMP
from centernet.errors import InputError, NonFiniteLossError


def train(cfg):
    """The seed says how a job ends."""
    folder = Path(cfg.paths.run)
    with open("attempts.txt", "a") as file:
        print(folder.name, cfg.seed, cfg.ckpt, os.environ.get("CUDA_VISIBLE_DEVICES"),
              os.environ.get("OMP_NUM_THREADS"), file=file)
    with open("processes.txt", "a") as file:
        print(os.getpid(), file=file)
    if cfg.seed == 2:
        raise InputError("data.root=nowhere is not an existing folder; give the folder that holds the data")
    if cfg.seed == 3:
        raise NonFiniteLossError("loss is nan in epoch 1")
    if cfg.seed == 4:
        raise TypeError("no such thing")
    if cfg.seed == 5 and cfg.ckpt is None:
        Path("whole.ckpt").rename(folder / "last.ckpt")
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.seed == 6:
        try:
            print("sleeping", os.getpid(), flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            (folder / "saved").touch()
            raise
    if cfg.seed == 7:
        time.sleep(1)
    value = cfg.schedule.lr
    if cfg.evaluate:
        content = {"metrics": {"AP": value, "AP50": 2 * value}, "train_seconds": 61.2, "parameters": 1_500_000}
        (folder / "metrics.json").write_text(json.dumps(content))
    return value


# Nothing heavy is imported.
sys.modules["centernet.callbacks"] = SimpleNamespace(finished_run=nullcontext)
app.train, app._quiet = train, lambda: None
app.train_main()
'''


class Sweeps:
    """Runs the stand-in in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.script = folder, folder / "stand_in.py"
        self.script.write_text(STAND_IN)
        kept = {name: value for name, value in os.environ.items() if name != STAMP}
        self.environment = {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        self.code, self.output = 0, ""

    def start(self, *overrides: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(self.script), *overrides],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __call__(self, *overrides: str, **environment: str) -> Sweeps:
        process = self.start(*overrides, **environment)
        self.output, _ = process.communicate(timeout=120)
        self.code = process.returncode
        return self

    @property
    def attempts(self) -> list[list[str]]:
        """Folder, seed, checkpoint, CUDA device and threads of every job since the last look."""
        path = self.folder / "attempts.txt"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    @property
    def folders(self) -> list[Path]:
        return sorted((self.folder / "runs" / "sweep").iterdir())

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.folders[-1] / "sweep.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def sweeps(tmp_path) -> Sweeps:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "whole.ckpt")
    return Sweeps(tmp_path)


# Jobs that fail.


@pytest.mark.slow
def test_every_kind_of_bad_job_is_a_row_and_the_others_run_and_the_same_command_repairs_what_it_can(sweeps):
    words = ["-m", "seed=1,2,3,4,5", "schedule.lr=0.25"]
    assert sweeps(*words).code == 1, sweeps.output
    assert [attempt[1] for attempt in sweeps.attempts] == list("12345")
    rows = sweeps.rows
    assert [row["state"] for row in rows] == ["finished", *["failed"] * 4]
    assert [row["reason"] for row in rows[1:]] == [
        "data.root=nowhere is not an existing folder; give the folder that holds the data",
        "loss is nan in epoch 1",
        "bug: TypeError: no such thing",
        "the process was ended by SIGKILL; perhaps memory ran out",
    ]
    assert rows[0]["AP"] == "0.25"
    assert not rows[1]["AP"]
    (folder,) = sweeps.folders
    assert 'raise TypeError("no such thing")' in (folder / "3" / "run.log").read_text()
    assert json.loads((folder / "2" / "status.json").read_text()) == {
        "state": "failed",
        "reason": "loss is nan in epoch 1",
    }
    table = sweeps.output[sweeps.output.index("\nrun ") :]
    assert "1    2     failed: data.root=nowhere is not an existing folder;" in table
    # Again: the finished one is not touched, the killed one continues, the others are tried again.
    assert sweeps(*words).code == 1, sweeps.output
    assert "continuing sweep runs/sweep/" in sweeps.output
    assert ": 1 of 5 jobs are finished; hydra.sweep.dir=DIR starts another\n" in sweeps.output
    attempts = sweeps.attempts
    assert [attempt[1] for attempt in attempts] == list("2345")
    assert [attempt[2] for attempt in attempts[:3]] == ["None"] * 3
    assert attempts[3][2] == "auto"
    assert [row["state"] for row in sweeps.rows] == ["finished", "failed", "failed", "failed", "finished"]


def test_a_job_that_cannot_be_composed_fails_alone(sweeps):
    # A choice that does not exist, and an option that only one of two tasks has.
    assert sweeps("-m", "task=ctdet,ddd,dddd", "task.rotation.weight=choice(2)").code == 1
    assert [attempt[0] for attempt in sweeps.attempts] == ["1"]
    ctdet, ddd, dddd = sweeps.rows
    assert ddd["state"] == "finished"
    assert ctdet["reason"].startswith("task.rotation.weight is unknown; ")
    assert dddd["reason"].startswith("unknown task 'dddd'; did you mean ddd")
    assert "Traceback" not in sweeps.output


def test_a_job_with_a_value_that_is_not_possible_fails_alone_with_its_sentence(sweeps):
    assert sweeps("-m", "schedule.epochs=ten,1").code == 1
    assert [attempt[0] for attempt in sweeps.attempts] == ["1"]
    assert [row["state"] for row in sweeps.rows] == ["failed", "finished"]
    sentence = "schedule.epochs=ten is not possible; give a whole number of at least 1, or auto"
    assert sweeps.rows[0]["reason"] == sentence
    assert sweeps("-m", "epochs=1,2", "lr=3").code == 2
    assert sweeps.output == "error: lr is unknown; did you mean schedule.lr?\n"


def test_a_sweep_without_any_known_choice_is_refused_before_it_starts(sweeps):
    assert sweeps("-m", "task=cttdet,ctdt").code == 2
    assert sweeps.output.startswith("error: unknown task 'cttdet'; did you mean ctdet")
    assert not (sweeps.folder / "runs").exists()


@pytest.mark.parametrize(("seed", "code"), [("seed=1", 0), ("seed=2", 2), ("seed=3", 2), ("seed=4", 1)])
def test_a_single_run_ends_as_before_and_says_so_in_its_folder(sweeps, seed, code):
    assert sweeps(seed).code == code
    ((folder,),) = [list((sweeps.folder / "runs" / "train").iterdir())]
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == ("failed" if code else "finished")
    if code == 2:
        assert sweeps.output == f"error: {status['reason']}\n"
    assert ("TypeError: no such thing" in sweeps.output) == (code == 1)


# The same command again.


@pytest.mark.slow
def test_a_finished_sweep_is_found_in_any_order_of_its_overrides_and_runs_nothing(sweeps):
    assert sweeps("-m", "seed=1,8", "schedule.lr=0.1", "evaluate=false").code == 0
    assert len(sweeps.attempts) == 2
    began = time.perf_counter()
    assert sweeps("-m", "evaluate=false", "schedule.lr=0.1", "seed=1,8").code == 0
    assert time.perf_counter() - began < 20  # about one second by itself
    assert not sweeps.attempts
    assert len(sweeps.folders) == 1
    assert [row["state"] for row in sweeps.rows] == ["finished"] * 2
    # Another sweep has a folder of its own; told to share one, it leaves out the jobs that are finished there.
    others = ["-m", "seed=8,9", "schedule.lr=0.1", "evaluate=false"]
    assert sweeps(*others, f"hydra.sweep.dir={sweeps.folders[0].relative_to(sweeps.folder)}").code == 0
    assert [attempt[:2] for attempt in sweeps.attempts] == [["2", "9"]]
    for both in (others, ["-m", "evaluate=false", "schedule.lr=0.1", "seed=1,8"]):
        assert sweeps(*both).code == 0
    assert len(sweeps.folders) == 1
    assert sweeps("-m", "seed=8", "evaluate=false").code == 0
    assert len(sweeps.folders) == 2


def test_jobs_that_are_skipped_return_what_they_returned(sweeps, monkeypatch, capfd):
    from centernet import sweep

    returned: list[Any] = []
    whole = sweep.Sweep.sweep
    monkeypatch.setattr(sweep.Sweep, "sweep", lambda self, arguments: returned.append(whole(self, arguments)))
    monkeypatch.chdir(sweeps.folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "argv", [str(sweeps.script), "-m", "schedule.lr=0.1,0.2", "evaluate=false"])
    for _ in range(2):
        app.train_main()
    assert [[job.return_value for job in jobs] for jobs in returned] == [[0.1, 0.2], [0.1, 0.2]]
    assert len(sweeps.attempts) == 2


# Interruption.


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_lets_its_job_save_and_prints_what_is_done(sweeps, sent, code):
    process = sweeps.start("-m", "seed=1,6,2")
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("sleeping"):
            process.send_signal(sent)
    output = "".join(seen)
    assert process.wait(timeout=60) == code, output
    assert (sweeps.folders[0] / "1" / "saved").exists()
    assert [row["state"] for row in sweeps.rows] == ["finished", "unfinished", "not started"]
    assert "2    2     not started" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_job_that_another_process_runs_is_left_to_it(sweeps):
    first = sweeps.start("-m", "seed=6,1")
    for line in first.stdout:
        if line.startswith("sleeping"):
            break
    first.kill()  # its job lives on
    assert sweeps("-m", "seed=6,1").code == 1
    assert "/0 is in use by another process; it is left out here" in sweeps.output
    assert [attempt[1] for attempt in sweeps.attempts] == ["6", "1"]
    assert [row["state"] for row in sweeps.rows] == ["unfinished", "finished"]
    os.kill(int(line.split()[1]), signal.SIGINT)


# Several jobs at once, with a launcher from the extras.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "launcher"),
    [
        ("joblib", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("submitit", ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"]),
    ],
)
def test_other_launchers_have_rows_for_failed_jobs_skip_finished_ones_and_share_devices(sweeps, package, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher")
    environment = {"CUDA_VISIBLE_DEVICES": "3,5"}
    del sweeps.environment["OMP_NUM_THREADS"]
    assert sweeps("-m", "seed=7,4,8,70", *launcher, **environment).code == 1, sweeps.output
    assert [row["state"] for row in sweeps.rows] == ["finished", "failed", "finished", "finished"], sweeps.output
    assert sweeps.rows[1]["reason"] == "bug: TypeError: no such thing"
    attempts = sweeps.attempts
    assert sorted(attempt[1] for attempt in attempts) == ["4", "7", "70", "8"]
    if package == "joblib":
        assert {attempt[3] for attempt in attempts} == {"3", "5"}
        assert {attempt[4] for attempt in attempts} == {str(max(os.cpu_count() // 2, 1))}
    # The same sweep, whatever launches it.
    assert sweeps("-m", "seed=7,4,8,70").code == 1
    assert ": 3 of 4 jobs are finished" in sweeps.output
    assert [attempt[:2] for attempt in sweeps.attempts] == [["1", "4"]]


# The ablation ladder.

SMALL_LADDER = {
    "start": ["task=ctdet", "schedule.lr=0.25", "augment=none"],
    "steps": {"boxes": ["task=ctdet_iou"], "rate": ["schedule.lr=0.5"], "color": ["augment=jitter"]},
    "variants": {"high": ["schedule.lr=0.75"]},
}


def of_ladder(part: Any) -> str:
    """A part of a ladder as Hydra's grammar has it."""
    if isinstance(part, dict):
        return "{" + ",".join(f"{key}:{of_ladder(value)}" for key, value in part.items()) + "}"
    return "[" + ",".join(f"'{word}'" for word in part) + "]"


def test_a_ladder_adds_one_step_after_the_other_then_leaves_out_each_one_alone():
    assert ladder_jobs(SMALL_LADDER, ["seed=3"]) == {
        label: [f"label={label}", f"task={task}", f"schedule.lr={lr}", f"augment={augment}", "seed=3"]
        for label, task, lr, augment in [
            ("start", "ctdet", 0.25, "none"),
            ("add_boxes", "ctdet_iou", 0.25, "none"),
            ("add_rate", "ctdet_iou", 0.5, "none"),
            ("add_color", "ctdet_iou", 0.5, "jitter"),
            ("without_boxes", "ctdet", 0.5, "jitter"),
            ("without_rate", "ctdet_iou", 0.25, "jitter"),
            # Without the last step it would be the rung before.
            ("with_high", "ctdet_iou", 0.75, "jitter"),
        ]
    }


def test_the_command_line_wins_over_a_ladder_and_no_run_is_there_twice():
    jobs = ladder_jobs(SMALL_LADDER, ["++schedule.lr=0.1", "label=mine"])
    # All have this rate, so the step and the variant of another rate change nothing.
    assert list(jobs) == ["start", "add_boxes", "add_color", "without_boxes"]
    assert jobs["start"] == ["label=start", "task=ctdet", "++schedule.lr=0.1", "augment=none"]


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ("light", r"hydra.sweeper.ladder='light' is not a ladder; give \{start: "),
        ({"step": {}}, r"unknown key 'step' in hydra.sweeper.ladder; did you mean steps"),
        (
            {"start": ["task=ctdet"], "steps": {}},
            r"hydra.sweeper.ladder.steps is empty, so there is nothing to compare",
        ),
        ({"steps": ["task=ctdet"]}, r"hydra.sweeper.ladder.steps gives no names"),
        (
            {"steps": {"light": "backbone=n"}},
            r"hydra.sweeper.ladder.steps.light='backbone=n' is not a list of overrides",
        ),
        ({"steps": {"light": []}}, r"hydra.sweeper.ladder.steps.light=\[\] is not a list of overrides"),
        ({"steps": {"a": ["b=1"]}, "variants": {"c": [1]}}, r"hydra.sweeper.ladder.variants.c=\[1\] is not a list"),
    ],
)
def test_a_wrong_ladder_is_refused_in_one_sentence(ladder, message):
    with pytest.raises(InputError, match=message):
        ladder_jobs(ladder)


def test_a_rung_is_compared_with_the_one_before_and_what_is_left_out_with_the_last_one():
    assert compared_with(ladder_jobs(SMALL_LADDER)) == {
        "add_boxes": "start",
        "add_rate": "add_boxes",
        "add_color": "add_rate",
        "without_boxes": "add_color",
        "without_rate": "add_color",
        "with_high": "add_color",
    }
    assert compared_with(["ctdet", "ddd", "ctdet_iou"]) == {"ddd": "ctdet", "ctdet_iou": "ctdet"}


def test_a_sweep_with_a_ladder_refuses_a_wrong_one_before_it_starts(sweeps):
    assert sweeps("experiment=ladder", "hydra.sweeper.ladder.steps=null").code == 2
    assert sweeps.output.startswith("error: hydra.sweeper.ladder.steps is empty, so there is nothing to compare")
    assert "Traceback" not in sweeps.output
    assert not sweeps.attempts


def test_an_evaluation_has_no_ladder(command):
    result = command("eval", "experiment=ladder", "ckpt=some.ckpt")
    assert result.code == 2
    assert result.output.splitlines()[-1] == "error: a ladder is a sweep of trainings; use it with python train.py"


@pytest.mark.slow
def test_a_ladder_climbs_once_for_every_seed_and_continues_and_ends_in_a_table_and_a_plot(sweeps):
    ladder = {"start": SMALL_LADDER["start"], "steps": {k: SMALL_LADDER["steps"][k] for k in ("rate", "boxes")}}
    words = ["-m", "data=figures", "seed=1,2", f"hydra.sweeper.ladder={of_ladder(ladder)}"]
    assert sweeps(*words).code == 1, sweeps.output
    assert [attempt[:2] for attempt in sweeps.attempts] == [[str(n), "1" if n < 4 else "2"] for n in range(8)]
    (folder,) = sweeps.folders
    written = [runs.overrides_of(folder / str(n)) for n in range(4)]
    assert written == list(ladder_jobs(ladder, ["data=figures", "seed=1"]).values())
    # The stand-in returns the learning rate, and fails for the second seed.
    table = [line.split() for line in sweeps.output[sweeps.output.index("\nlabel ") :].splitlines()[1:]]
    assert table[0] == ["label", "runs", "AP", "change", "from", "AP50", "time", "params"]
    assert table[1][:5] == ["start", "1", "of", "2", "0.250"]
    assert table[2][:7] == ["add_rate", "1", "of", "2", "0.500", "+0.250", "start"]
    assert table[3][:7] == ["add_boxes", "1", "of", "2", "0.500", "+0.000", "add_rate"]
    assert table[4][:7] == ["without_rate", "1", "of", "2", "0.250", "-0.250", "add_boxes"]
    assert table[5][:4] == ["4", "(start):", "failed:", "data.root=nowhere"]
    assert f"plot: {folder.relative_to(sweeps.folder)}/ladder.png" in sweeps.output
    assert read_image(folder / "ladder.png").std() > 5
    assert [row["label"] for row in sweeps.rows] == ["start", "add_rate", "add_boxes", "without_rate"] * 2
    # Again: the finished seed is not touched.
    assert sweeps(*words).code == 1
    assert [attempt[1] for attempt in sweeps.attempts] == ["2"] * 4


@pytest.mark.slow
def test_the_preset_of_the_ladder_needs_no_other_option_and_its_jobs_do_not_start_ladders(sweeps):
    steps = ("light", "bits", "schedule", "average", "augment")
    few = [f"~hydra.sweeper.ladder.steps.{name}" for name in steps] + ["hydra.sweeper.ladder.variants=null"]
    (sweeps.folder / "DIR").mkdir()
    for data in ([], ["data=shapes"]):
        assert sweeps("experiment=ladder", "data.root=DIR", *data, *few).code == 0, sweeps.output
        assert [attempt[0] for attempt in sweeps.attempts] == ["0", "1"]
        assert [row["label"] for row in sweeps.rows] == ["start", "add_overlap"]
        words = runs.overrides_of(sweeps.folders[-1] / "1")
        assert [word for word in words if word.startswith("data=")] == (data or ["data=coco"])
        assert not [word for word in words if word.startswith("experiment=")]
    assert len(sweeps.folders) == 2
    # The mode comes from the preset here, not from `-m`: still, each job has a process of its own.
    assert len(set((sweeps.folder / "processes.txt").read_text().split())) == 4


# Real trainings.


@pytest.mark.slow
def test_a_sweep_of_trainings_on_two_processes_each(tmp_path):
    words = [*SHORT, "trainer=ddp_cpu", "schedule.epochs=1", "data.batch_size=4", "logger=csv"]
    # The first one fails in both of its processes, after they have started.
    result = run(tmp_path, "train.py", "-m", *words, "schedule.lr=1e30,0.001", "schedule.lr_batch_size=null")
    assert result.code == 1, result.output
    assert result.output.count("batch 4 x 2") == 2
    (folder,) = (tmp_path / "runs" / "sweep").iterdir()
    found = runs.find_runs(folder)
    assert [job.state for job in found] == ["failed", "finished"], result.output
    assert found[0].reason.startswith("the loss is nan in epoch 1")
    assert found[1].train_seconds > 0
    assert found[1].parameters > 10_000


@pytest.mark.slow
def test_the_search_of_weights_and_biases_runs_as_its_agent_would_start_it(tmp_path):
    search = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())
    drawn = {
        name: {"value": given["values"][-1] if "values" in given else (given["min"] + given["max"]) / 2}
        for name, given in search["parameters"].items()
    }
    macros = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": ["python"],
        "${program}": [search["program"]],
        "${args_no_hyphens}": create_sweep_command_args({"args": drawn})["args_no_hyphens"],
    }
    words = [word for part in search["command"] for word in macros.get(part, [part])]
    assert words[:3] == ["/usr/bin/env", "python", "train.py"]
    offline = ["logger.offline=true", "schedule.epochs=1"]  # after the agent's own, so they count
    result = run(tmp_path, words[2], *words[3:], *SHORT, *offline)
    assert result.code == 0, result.output
    config = yaml.safe_load((result.run / ".hydra" / "config.yaml").read_text())
    assert config["schedule"]["lr"] == drawn["schedule.lr"]["value"]
    assert config["task"]["box"]["weight"] == drawn["task.box.weight"]["value"]
    # What the search maximizes is logged under this name.
    assert search["metric"]["name"] in (result.run / "history.csv").read_text().splitlines()[0].split(",")


# The table of runs.


def make_run(folder: Path, overrides: list[str], **content: Any) -> None:
    """A run folder; without ``content`` one that has not finished."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if content:
        (folder / "metrics.json").write_text(json.dumps(content))


@pytest.fixture
def some_runs(tmp_path) -> Path:
    """Two runs of a sweep, an earlier one without time and size, one that failed and one that was killed."""
    sweep, single = tmp_path / "runs" / "sweep" / "A", tmp_path / "runs" / "train"
    jobs = [["backbone=resnet18", "schedule.lr=0.1", "seed=0"], ["backbone=resnet34", "schedule.lr=0.1", "seed=0"]]
    make_run(
        sweep / "0", jobs[0], metrics={"AP": 0.25, "AP50": 0.5, "APl": None}, train_seconds=60, parameters=12_000_000
    )
    make_run(sweep / "1", jobs[1], metrics={"AP": 0.5, "AP50": 0.25}, train_seconds=3720, parameters=22_000_000)
    runs.write_json(sweep / "sweep.json", {"jobs": [*jobs, ["backbone=resnet50", "schedule.lr=0.1", "seed=0"]]})
    make_run(single / "old", ["backbone=dla34", "seed=0", "ckpt=auto"], metrics={"AP": 0.375, "AP50": 0.375})
    make_run(single / "bad", ["backbone=dla34", "schedule.lr=9", "seed=0"])
    runs.fail_status(single / "bad", "loss is nan in epoch 3; lower schedule.lr, or look at the images of this batch")
    make_run(single / "killed", ["seed=0"])
    (single / "killed" / "metrics.json").write_text('{"metrics": {"AP": 0.9')
    return tmp_path / "runs"


@pytest.fixture
def leaderboard(monkeypatch, capfd) -> Callable[..., tuple[int, str]]:
    """Run the script in this process; its exit status and output."""

    def call(*words: object, columns: int = 200) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["leaderboard.py", *map(str, words)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "leaderboard.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        return code, out + err

    return call


def test_the_leaderboard_compares_all_runs_best_first(some_runs, leaderboard, tmp_path):
    code, output = leaderboard(some_runs, "--csv", tmp_path / "all.csv")
    assert code == 0, output
    rows = [line.split() for line in output.splitlines()]
    assert rows[0] == ["run", "backbone", "lr", "AP", "AP50", "APl", "time", "params"]  # not the seed: all have one
    assert rows[1] == ["sweep/A/1", "resnet34", "0.1", "0.500", "0.250", "-", "1:02:00", "22.0", "M"]
    assert rows[2] == ["train/old", "dla34", "-", "0.375", "0.375", "-", "-", "-"]
    assert rows[3] == ["sweep/A/0", "resnet18", "0.1", "0.250", "0.500", "-", "0:01:00", "12.0", "M"]
    assert " ".join(rows[5]).startswith("train/bad dla34 9 failed: loss is nan in epoch 3; lower schedule.lr")
    assert [row[-1] for row in (rows[4], rows[6])] == ["started", "unfinished"]
    with open(tmp_path / "all.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["run"] for row in written[:2]] == ["sweep/A/1", "train/old"]
    assert written[0]["schedule.lr"] == "0.1"
    assert written[0]["train_seconds"] == "3720"
    assert {row["state"] for row in written} == {"finished", "failed", "unfinished", "not started"}
    code, output = leaderboard(some_runs, "--metric", "AP50")
    assert [line.split()[0] for line in output.splitlines()[1:4]] == ["sweep/A/0", "train/old", "sweep/A/1"]
    assert output.split()[3] == "AP50"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_fits_the_terminal_and_keeps_reasons_whole(some_runs, leaderboard, columns):
    _, output = leaderboard(some_runs, columns=columns)
    assert max(map(len, output.splitlines())) <= columns
    assert "look at the images of this batch" in " ".join(output.split())
    assert output.split()[3] == "AP"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs", "--metric", "AP5O"], "unknown metric 'AP5O'; did you mean AP50"),
        (["nowhere"], "no runs in nowhere; give a run folder or a folder of them, such as runs"),
        (["runs/train", "--plot", "x.png"], "no run here records both a result and its time; --over chooses"),
    ],
)
def test_the_leaderboard_refuses_in_one_sentence(some_runs, leaderboard, monkeypatch, words, message):
    monkeypatch.chdir(some_runs.parent)
    code, output = leaderboard(*words)
    assert code == 2
    assert f"error: {message}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("over", ["time", "parameters"])
def test_the_plot_shows_results_over_what_they_cost(some_runs, leaderboard, tmp_path, over):
    code, output = leaderboard(some_runs, "--plot", tmp_path / "plots" / "all.png", "--over", over)
    assert code == 0, output
    image = read_image(tmp_path / "plots" / "all.png")
    assert image.std() > 5


@pytest.fixture
def seeds(tmp_path) -> Path:
    """Two tasks; one of them with three seeds, of which one failed; the other with one run at another rate."""
    folder = tmp_path / "runs"
    for seed, value in enumerate((0.25, 0.5)):
        make_run(
            folder / f"a{seed}", ["task=ddd", f"seed={seed}"], metrics={"AP": value, "AP50": 0.5}, train_seconds=60
        )
    make_run(folder / "a2", ["task=ddd", "seed=2"])
    runs.fail_status(folder / "a2", "loss is nan in epoch 3")
    make_run(folder / "b0", ["task=ctdet", "schedule.lr=0.1", "seed=0"], metrics={"AP": 0.125}, train_seconds=3720)
    make_run(folder / "c0", ["seed=0"])
    return folder


def test_runs_are_grouped_by_an_override_with_mean_and_standard_deviation(seeds, leaderboard, tmp_path):
    code, output = leaderboard(seeds, "--by", "task", "--plot", tmp_path / "by.png")
    assert code == 0, output
    rows = [" ".join(line.split()) for line in output.splitlines()]
    assert rows == [
        "task runs AP change from AP50 time params",
        "ddd 2 of 3 0.375 ± 0.177 0.500 ± 0.000 0:01:00 -",  # of two runs: their distance over the root of two
        "ctdet 1 0.125 -0.250 ddd - 1:02:00 -",
        "- 0 of 1 - - - -",
        "mean ± standard deviation of runs that differ in seed",
        "a2 (ddd): failed: loss is nan in epoch 3",
        "c0 (-): unfinished",
        f"plot: {tmp_path / 'by.png'}",
    ]
    assert read_image(tmp_path / "by.png").std() > 5
    assert leaderboard(seeds, "--by", "task", "--metric", "AP50")[1].split()[2] == "AP50"
    _, output = leaderboard(seeds, "--by", "task", columns=44)
    assert max(map(len, output.splitlines())) <= 44


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs", "--by", "tusk"], "no run here has an override 'tusk'; did you mean task"),
        (["runs/c0", "--by", "seed", "--plot", "x.png"], "no run here has a result to plot"),
    ],
)
def test_runs_are_grouped_by_what_they_have(seeds, leaderboard, monkeypatch, words, message):
    monkeypatch.chdir(seeds.parent)
    code, output = leaderboard(*words)
    assert code == 2
    assert f"error: {message}" in output


def test_time_lost_in_slow_epochs_is_what_they_took_beyond_the_median():
    assert runs.share_lost([10, 10, 10, 10, 20, 10, 10]) == pytest.approx(10 / 80)
    assert runs.share_lost([10, 10, 13, 10, 10]) == 0  # a little slower is usual
    assert runs.share_lost([30, 10, 10, 10]) == 0  # the first one compiles and fills caches
    assert runs.share_lost([10, 10, 40]) == 0  # too few to say what is usual
    assert runs.share_lost([]) == 0


@pytest.mark.parametrize("more", [[], ["--by", "seed"]])
def test_the_leaderboard_names_runs_that_something_else_has_slowed(tmp_path, leaderboard, more):
    folder = tmp_path / "runs"
    rates = {"a0": [20, 20, 20, 20, 20, 10], "a1": [20, 20, 20, 20], "a2": [20, 10, 10, 20, 20, 20, 20]}
    for seed, (name, values) in enumerate(rates.items()):
        make_run(folder / name, [f"seed={seed}"], metrics={"AP": 0.5})
        rows = [f"{epoch},{rate}" for epoch, rate in enumerate(values, 1)]
        (folder / name / "history.csv").write_text("\n".join(["epoch,images_per_second", *rows, ""]))
    code, output = leaderboard(folder, "--csv", tmp_path / "all.csv", *more, columns=70)
    assert code == 0, output
    assert max(map(len, output.splitlines())) <= 70
    assert (
        "slow epochs (over 1.3 times the median) cost part of the training time of a0 (14%), a2 (22%); if something "
        "else was running, do not compare their results at equal time"
    ) in " ".join(output.split())
    with open(tmp_path / "all.csv", newline="") as file:
        assert [row["share_lost"] for row in csv.DictReader(file)] == ["0.1429", "0.0", "0.2222"]


def test_nobody_beats_a_point_of_the_pareto_front():
    # Cost and value: the cheapest, one that is worse and dearer, an equal one at the same cost, the best.
    points = [(1.0, 0.2), (2.0, 0.1), (3.0, 0.5), (3.0, 0.4), (9.0, 0.5), (8.0, 0.6)]
    assert pareto_front(points) == [0, 2, 5]
