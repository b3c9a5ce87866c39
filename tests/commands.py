"""The commands `train` and `eval`, run inside the tests' process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from centernet import app
from centernet.folders import STAMP
from tests.places import ROOT


class Result(NamedTuple):
    """How a command ended."""

    code: int
    output: str
    folder: Path

    @property
    def run(self) -> Path:
        """The run folder that a training named."""
        (line,) = [line for line in self.output.splitlines() if line.startswith("run folder: ")]
        return Path(line.removeprefix("run folder: "))


@pytest.fixture
def command(tmp_path, monkeypatch, capfd) -> Iterator[Callable[..., Result]]:
    """Run ``train`` or ``eval`` in this process, as the console commands do, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    runs = 0

    def call(name: str, *overrides: str) -> Result:
        nonlocal runs
        runs += 1
        _spare_the_stream_of_absl()
        monkeypatch.setenv(STAMP, f"run-{runs}")
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"{name}.py"), *overrides])
        capfd.readouterr()
        code = 0
        try:
            {"train": app.train_main, "eval": app.eval_main}[name]()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return Result(code, out + err, tmp_path)

    yield call
    root.handlers[:], root.level = (
        handlers,
        level,
    )  # Hydra's handlers write into captured streams that are closed by now


def _spare_the_stream_of_absl() -> None:
    """absl's handler, there since OpenVINO was imported, closes its stream when Hydra sets up logging, unless that is
    stderr: it would be the stream of pytest itself, or of a test that has ended."""
    if (absl := sys.modules.get("absl.logging")) is not None:
        absl.get_absl_handler().python_handler.stream = sys.__stderr__
