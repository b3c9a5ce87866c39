"""Run folders: no two runs share one, a run that continues has its own, helper processes have none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from centernet.folders import STAMP, claim, is_first_process, run_folder, same_run

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)


# Processes of their own: a fork of the tests' process inherits the locks that its threads hold, and may wait forever.
CLAIM = """
import sys
from pathlib import Path
from centernet.folders import claim
for _ in range(20):
    print(claim(Path(sys.argv[1])).name)
"""


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv(STAMP, "now")
    assert [claim(tmp_path).name for _ in range(3)] == ["now", "now_2", "now_3"]
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    names = [name for process in started for name in process.communicate(timeout=60)[0].split()]
    assert len(set(names)) == len(names) == 80


@pytest.mark.parametrize("variable", RANKS)
def test_processes_beside_the_first_have_no_folder_among_the_runs(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "0")
    assert is_first_process()
    monkeypatch.setenv(variable, "1")
    assert not is_first_process()
    folder = Path(run_folder(str(tmp_path), None, None, []))
    assert folder.is_dir()
    assert not list(tmp_path.iterdir())


def make_run(parent: Path, name: str, overrides: list[str], checkpoint: bool = True) -> Path:
    folder = parent / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides) or "[]\n")
    if checkpoint:
        (folder / "last.ckpt").touch()
    return folder


def test_the_run_of_the_same_command_is_found(tmp_path):
    wanted = make_run(tmp_path, "a", ["task=ddd", "seed=1", "ckpt=auto"])
    make_run(tmp_path, "b", ["task=ddd", "seed=2"])
    make_run(tmp_path, "c", ["task=ddd", "seed=1"], checkpoint=False)
    (tmp_path / "d").mkdir()
    # In any order, whatever was continued.
    assert same_run(tmp_path, ["seed=1", "task=ddd", "ckpt=x"]) == wanted
    assert same_run(tmp_path, ["task=ddd"]) is None
    assert same_run(tmp_path / "nothing", []) is None
    newer = make_run(tmp_path, "e", ["task=ddd", "seed=1"])
    assert same_run(tmp_path, ["task=ddd", "seed=1"]) == newer
    plain = make_run(tmp_path, "f", [])
    assert same_run(tmp_path, ["ckpt=auto"]) == plain


def test_the_folder_is_the_chosen_one_or_that_of_the_checkpoint_or_new(tmp_path, monkeypatch):
    monkeypatch.setenv(STAMP, "now")
    run = make_run(tmp_path, "a", ["seed=1"])
    parent = str(tmp_path)
    assert run_folder(parent, "mine", None, []) == "mine"
    assert run_folder(parent, None, str(run), ["seed=2"]) == str(run)
    assert run_folder(parent, None, "auto", ["seed=1"]) == str(run)
    assert run_folder(parent, None, "auto", ["seed=2"]) == str(tmp_path / "now")
    assert run_folder(parent, None, str(run / "last.ckpt"), ["seed=1"]) == str(tmp_path / "now_2")
