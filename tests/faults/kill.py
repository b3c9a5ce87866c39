"""Trains with the same command again and again, kills it at random moments, and compares with an undisturbed run.

`python -m tests.faults.kill --kills 100` prints the counts as JSON. Every attempt is a fork of this process, so that a
hundred of them take minutes: libraries are imported once.
"""

from __future__ import annotations

import argparse
import csv
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from centernet import app, plugins
from centernet.callbacks import BestAndLast, History, Pictures  # noqa: F401  what a fork would import anew
from centernet.checkpoint import read_checkpoint
from centernet.data.builtin.shapes import write_shapes
from centernet.errors import InputError
from centernet.module import CenterNetModule
from tests import tiny

PHASES = ("starting", "training", "validation", "checkpoint", "final evaluation", "between")
COMMAND = [
    "data.train_count=20",
    "data.val_count=6",
    "data.batch_size=4",
    "data.num_workers=0",
    "resolution=[64,64]",
    *tiny.NETWORK_OVERRIDES,
    "callbacks.pictures.count=1",
    "callbacks.average.decay=0.9",
    "callbacks.interrupt.minutes=1e-9",  # after every step
    "schedule.epochs=3",
    "schedule.lr=0.003",
    "ckpt=auto",
]
UNLIKE = {"images_per_second", "seconds"}  # columns that tell the time


class Board:
    """What a fork tells its parent until it is killed: the phase, and how many steps it has trained."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)

    def enter(self, phase: str) -> str:
        """Set the phase; returns the one before."""
        before = self.phase
        self._memory[:8] = struct.pack("q", PHASES.index(phase))
        return before

    @property
    def phase(self) -> str:
        return PHASES[struct.unpack("q", self._memory[:8])[0]]

    @property
    def steps(self) -> int:
        return struct.unpack("q", self._memory[8:])[0]

    def step(self) -> None:
        self._memory[8:] = struct.pack("q", self.steps + 1)


def watched(board: Board) -> None:
    """Let the training of this process say what it does."""

    def around(owner: Any, name: str, phase: str, count: bool = False) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def outer(*args: Any, **options: Any) -> Any:
            before = board.enter(phase)
            try:
                return inner(*args, **options)
            finally:
                if count:
                    board.step()
                board.enter(before if before != "starting" else "between")

        setattr(owner, name, outer)

    around(CenterNetModule, "training_step", "training", count=True)
    around(CenterNetModule, "validation_step", "validation")
    around(plugins.AtomicCheckpointIO, "save_checkpoint", "checkpoint")
    around(app, "_validate", "final evaluation")


def attempt(folder: Path, board: Board, command: list[str]) -> int:
    """Fork a process that runs the command in a folder; returns its number."""
    board.enter("starting")
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.chdir(folder)
        log = os.open("output.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        watched(board)
        sys.argv = ["train.py", *command]
        app.train_main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """The exit status of a process, or None if it does not end in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def results(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, str]], Any]:
    """What must not depend on kills: weights, history, metrics."""
    # A kill before the first step leaves an empty folder, and the next attempt takes a new one.
    (run,) = (path.parent for path in (folder / "runs" / "train").glob("*/metrics.json"))
    with (run / "history.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in UNLIKE} for row in csv.DictReader(file)]
    content = json.loads((run / "metrics.json").read_text())
    last, best = (torch.load(run / name, weights_only=True) for name in ("last.ckpt", "best.ckpt"))
    weights = {**last["live_weights"], **{f"average of {k}": v for k, v in best["state_dict"].items()}}
    return weights, rows, (content["metrics"], content["per_class"])


def is_same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    same = a[0].keys() == b[0].keys() and all(torch.equal(a[0][name], b[0][name]) for name in a[0])
    return same and str(a[1:]) == str(b[1:])


def unreadable(folder: Path) -> int:
    """Checkpoints below a folder that cannot be read."""
    count = 0
    for path in folder.rglob("*.ckpt"):
        try:
            read_checkpoint(path)
        except InputError:
            count += 1
    return count


def main(kills: int, seed: int, folder: Path, timeout: float = 300.0) -> dict[str, Any]:
    """Kill that many times; returns the counts."""
    torch.set_num_threads(1)
    chance, board = random.Random(seed), Board()
    shapes = write_shapes(folder / "shapes", train=20, val=6)

    def new(name: str) -> Path:
        place = folder / name
        (place / "data").mkdir(parents=True)
        (place / "data" / "shapes").symlink_to(shapes, target_is_directory=True)
        return place

    straight = new("straight")
    began = time.monotonic()
    if (code := wait(attempt(straight, board, COMMAND), timeout)) != 0:
        raise RuntimeError(f"the run that is not killed ended with {code}: {(straight / 'output.log').read_text()}")
    whole, wanted, needed = time.monotonic() - began, results(straight), board.steps
    counts: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    number = 0
    while counts["kills"] < kills:
        place, number = new(f"killed-{number}"), number + 1
        board._memory[8:] = struct.pack("q", 0)
        while True:
            pid = attempt(place, board, COMMAND)
            # Short enough for several kills per run, long enough to get on.
            patience = chance.uniform(0.1, 0.8) * whole if counts["kills"] < kills else timeout
            code = wait(pid, patience)
            if code is None:
                phase = board.phase
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                if patience == timeout:
                    counts["hangs"] += 1
                    break
                counts["kills"] += 1
                phases[phase] += 1
                counts["unreadable checkpoints"] += unreadable(place / "runs")
            elif code != 0:
                counts["failures"] += 1
                print((place / "output.log").read_text()[-3000:], file=sys.stderr)
                break
            else:
                counts["runs"] += 1
                counts["wrong results"] += not is_same(results(place), wanted)
                counts["steps repeated"] += board.steps - needed
                break
    names = ("kills", "runs", "steps repeated", "wrong results", "unreadable checkpoints", "failures", "hangs")
    return {**{name: counts[name] for name in names}, "killed in": dict(phases), "steps of a run": needed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(main(args.kills, args.seed, Path(directory)), indent=2))
