"""Faults from outside: killed processes, a full disk, a killed worker. Nothing is lost but the step that they hit.

The longer form: `python -m tests.faults.kill --kills 100`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from centernet.checkpoint import read_checkpoint
from tests.places import ROOT
from tests.test_distributed import children_of
from tests.test_train import SHORT, environment, rows_of, start

pytestmark = pytest.mark.slow


def test_runs_that_are_killed_at_random_moments_equal_one_that_is_not():
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", "--kills", "5"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == 5
    assert counts["runs"] >= 1
    faults = ("wrong results", "unreadable checkpoints", "failures", "hangs")
    assert {name: counts[name] for name in faults} == dict.fromkeys(faults, 0)
    # Every step is saved here: a kill costs the step that it hits, and those of the epoch if it hits the very first.
    assert counts["steps repeated"] <= counts["kills"] * 2


def limited(folder: Path, size: int, *words: str) -> subprocess.CompletedProcess:
    """The command in a process that cannot write files larger than ``size`` bytes, as on a full disk."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


def test_a_full_disk_ends_the_run_with_a_sentence_and_leaves_what_was_saved(tmp_path):
    words = [*SHORT, "schedule.epochs=3", "evaluate=false", "ckpt=auto"]
    first = start(tmp_path, "train.py", *words, "trainer.max_epochs=1")
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    before = (folder / "last.ckpt").read_bytes()
    full = limited(tmp_path, len(before) // 2, *words, "ckpt=" + str(folder))
    assert full.returncode != 0
    assert "error: checkpoint " in full.stderr
    assert "cannot be written (" in full.stderr
    assert "; free space, or choose another folder with paths.run=DIR" in full.stderr
    assert "Traceback" not in full.stderr
    assert (folder / "last.ckpt").read_bytes() == before
    assert all(read_checkpoint(path) for path in folder.glob("*.ckpt"))
    assert not list(folder.glob(".*.part"))
    # With space again, the same command continues.
    again = start(tmp_path, "train.py", *words, "ckpt=" + str(folder))
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert [row["epoch"] for row in rows_of(folder / "history.csv")] == ["1", "2", "3"]


def test_a_killed_worker_ends_the_run_with_a_sentence(tmp_path):
    words = [*SHORT, "data.num_workers=1", "schedule.epochs=500", "evaluate=false"]
    process = start(tmp_path, "train.py", *words)
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if line.startswith("epoch   3/500"):  # whose checkpoint is perhaps still being written
            os.kill(children_of(process.pid)[0], signal.SIGKILL)
            break
    began = time.monotonic()
    rest, _ = process.communicate(timeout=300)
    output += rest
    assert process.returncode == 2, output
    assert "error: a data-loading worker was ended from outside" in output
    assert "Traceback" not in output
    assert time.monotonic() - began < 120
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] >= 1
