"""Where the time of a training step goes: a table, and a trace of a few steps."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import Profiler
from torch.profiler import ProfilerActivity, record_function

log = logging.getLogger(__name__)

PARTS = ("data", "transfer", "encode", "forward", "losses", "backward", "optimizer", "other")
# The parts that Lightning marks itself, by the end of their names.
MARKED = {".batch_to_device": "transfer", ".backward": "backward", ".optimizer_step": "step"}


class Profile(Callback):
    """Times the parts of ``steps`` training steps after ``warmup`` steps, then records a trace of ``traced`` more.

    Writes ``profile.txt`` (milliseconds per step and shares) and ``trace.json`` (for chrome://tracing or Perfetto) into
    ``folder``. A GPU is waited for after each part, so that its time counts where it belongs; the steps are a little
    slower for it.
    """

    def __init__(self, folder: str | Path, warmup: int = 10, steps: int = 20, traced: int = 3) -> None:
        self.folder, self.warmup, self.steps, self.traced = Path(folder), warmup, steps, traced
        self.spent: dict[str, float] = defaultdict(float)
        self.each: list[dict[str, float]] = []  # seconds of every timed step by part, see ``parts_of``
        self._before: dict[str, float] = {}
        self._done, self._timing, self._ended = 0, False, 0.0
        self._trace: torch.profiler.profile | None = None

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        trainer.profiler = _Marks(self)
        module.detector.outputs = self._timed("forward", module.detector.outputs)
        module.task.encode = self._timed("encode", module.task.encode)
        module.task.losses = self._timed("losses", module.task.losses)

    def teardown(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        del module.detector.outputs, module.task.encode, module.task.losses

    def _timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            started = self.now()
            with record_function(part):
                result = work(*args)
            self.add(part, started)
            return result

        return run

    def now(self) -> float:
        """Seconds, after the GPU has finished what it was given."""
        if self._timing and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def add(self, part: str, started: float) -> None:
        """Add the time since ``started`` to a part."""
        if self._timing:
            self.spent[part] += self.now() - started

    def before_transfer(self) -> None:
        """What passed since the last step was waiting for data, or what a run does between epochs."""
        self.add("data", self._ended)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self._done += 1
        ended = self.now()
        if self._timing:
            self.spent["all"] += ended - self._ended
            self.each.append(parts_of({name: value - self._before.get(name, 0) for name, value in self.spent.items()}))
            self._before = dict(self.spent)
        self._ended = ended
        self._timing = self.warmup <= self._done < self.warmup + self.steps
        if self._trace is not None and self._done == self.warmup + self.steps + self.traced:
            self._trace.stop()
        elif self._trace is None and self._done == self.warmup + self.steps:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._trace = torch.profiler.profile(activities=activities)
            self._trace.start()

    def on_fit_end(self, trainer: pl.Trainer, module: Any) -> None:
        wanted = self.warmup + self.steps + self.traced
        if self._done < wanted:
            log.warning(
                f"only {self._done} training steps were made, a profile needs {wanted}; raise trainer.max_steps"
            )
        elif trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "profile.txt").write_text(self.table() + "\n")
            self._trace.export_chrome_trace(str(self.folder / "trace.json"))
            log.info(f"{self.table()}\nprofile       {self.folder}/profile.txt\ntrace         {self.folder}/trace.json")

    def table(self) -> str:
        """Milliseconds per step and shares of the parts."""
        spent = parts_of(self.spent)
        lines = [
            f"{name:<12}{1000 * value / self.steps:10.2f}{value / spent['step']:10.1%}" for name, value in spent.items()
        ]
        return "\n".join([f"{'':<12}{'ms':>10}{'share':>10}", *lines])

    def largest_operators(self, count: int) -> list[tuple[str, float]]:
        """The operators that took longest by themselves in the traced steps, with milliseconds per step."""
        averages = self._trace.key_averages() if self._trace is not None else []
        on_gpu = torch.cuda.is_available()
        found = [
            (each.key, (each.self_device_time_total if on_gpu else each.self_cpu_time_total) / 1000 / self.traced)
            for each in averages
            if each.key not in PARTS and "#" not in each.key  # marks of ours and of torch's, not operators
        ]
        return sorted(found, key=lambda pair: -pair[1])[:count]


def parts_of(marked: Mapping[str, float]) -> dict[str, float]:
    """The whole ``step`` and its ``PARTS``, which add up to it, from what was marked: Lightning's optimizer step
    includes the closure, which does everything from the targets to the gradients."""
    spent = {name: marked.get(name, 0.0) for name in PARTS}
    inside = sum(spent[part] for part in ("encode", "forward", "losses", "backward"))
    spent["optimizer"] = marked.get("step", 0.0) - inside
    spent["other"] = marked["all"] - sum(value for name, value in spent.items() if name != "other")
    return {"step": marked["all"], **spent}


class _Marks(Profiler):
    """Lightning's own marks around the parts of a step, passed on to a ``Profile`` and into the trace."""

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self.profile_of, self.open = profile, {}

    def start(self, action_name: str) -> None:
        part = next((part for end, part in MARKED.items() if action_name.endswith(end)), None)
        if part is None or not action_name.startswith(("[Strategy]", "[LightningModule]")):
            return
        if part == "transfer":
            self.profile_of.before_transfer()
        mark = record_function(part)
        mark.__enter__()
        self.open[action_name] = part, mark, self.profile_of.now()

    def stop(self, action_name: str) -> None:
        if action_name in self.open:
            part, mark, started = self.open.pop(action_name)
            mark.__exit__(None, None, None)
            self.profile_of.add(part, started)
