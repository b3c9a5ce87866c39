"""Sweeps that lose nothing: `python train.py -m a=1,2`. A separate file, so the commands start without importing Hydra.

Each job is the command of a single run in a process of its own, so a job that fails, hangs a device or is killed takes
no other with it. The same sweep command again skips what is finished and continues what is not.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from centernet.choices import is_sweep, options, read_choice
from centernet.cli import WITH_VALUE, understand_groups
from centernet.composition import check, reason_of
from centernet.errors import InputError
from centernet.ladder import compared_with, ladder_jobs
from centernet.runs import (
    SWEEP,
    Run,
    fail_status,
    grouped_table,
    metric_names,
    read_json,
    read_run,
    results_by,
    start_status,
    table,
    write_csv,
    write_json,
)

# Hydra's options that belong to a sweep and not to its jobs.
OF_SWEEP = ("hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher", "hydra.mode")


class Sweep(Sweeper):
    """All combinations of the given values, as with Hydra's own sweeper, in the folder of an earlier start of the same
    sweep if there is one. A job that cannot be composed fails alone; a table is printed however the sweep ends.

    ``max_batch_size``: how many jobs a launcher gets at once. ``params``: values to sweep over, by their keys.
    ``ladder``: runs of an ablation (``centernet.ladder``), for each of the combinations.
    """

    def __init__(
        self, max_batch_size: int | None = None, params: dict[str, str] | None = None, ladder: Any = None
    ) -> None:
        self.max_batch_size, self.params = max_batch_size, params or {}
        self.ladder = OmegaConf.to_container(ladder) if OmegaConf.is_config(ladder) else ladder

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.folder, self.continues = find_folder(config)
        # Among Hydra's overrides as well: each job is composed anew, perhaps in another process. A job has no part in
        # the sweeper's own options, and perhaps not the preset that they are about.
        kept = [o for o in config.hydra.overrides.hydra if not o.lstrip("+~").startswith("hydra.sweeper.")]
        with open_dict(config):
            config.hydra.sweep.dir = str(self.folder)
            # The mode too: where a preset has set it, a job without the preset would be taken for a single run, and
            # trained in this process.
            config.hydra.overrides.hydra = [*kept, f"hydra.sweep.dir={quote(self.folder)}", "hydra.mode=MULTIRUN"]
        plugins = Plugins.instance()
        self.launcher = plugins.instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        # Hydra loads this module a second time when it looks for plugins.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(words), None)
        jobs = [job_words(job) for job in jobs]
        if self.ladder is not None:
            try:
                if "label" not in self.config:
                    raise InputError("a ladder is a sweep of trainings; use it with python train.py")
                jobs = [rung for job in jobs for rung in ladder_jobs(self.ladder, job).values()]
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(2)
        numbered = self._number(jobs)
        runs = {number: read_run(self.folder / str(number)) for number in numbered}
        returns = [JobReturn(status=JobStatus.COMPLETED, _return_value=r.value) for r in runs.values() if r.finished]
        if self.continues:
            print(f"continuing sweep {self.folder}: {len(returns)} of {len(jobs)} jobs are finished; ", end="")
            print("hydra.sweep.dir=DIR starts another", flush=True)
        waiting = [
            [*job, f"hydra.sweep.subdir={number}"]
            for number, job in numbered.items()
            if not runs[number].finished and self._composes(number, job)
        ]
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            size = self.max_batch_size or len(waiting)
            for start in range(0, len(waiting), size or 1):
                returns += self.launcher.launch(waiting[start : start + size], initial_job_idx=len(returns))
        finally:
            signal.signal(signal.SIGTERM, previous)
            complete = self._report(numbered)
        if not complete:
            sys.exit(1)
        return returns

    def _number(self, jobs: Sequence[Sequence[str]]) -> dict[int, list[str]]:
        """Jobs by the numbers of their folders: those that they had in an earlier start, else the next ones."""
        earlier = read_json(self.folder / SWEEP)
        commands, known = earlier.get("commands", []), earlier.get("jobs", [])
        commands += [identity(self.config)] if identity(self.config) not in commands else []
        numbers = {frozenset(job): number for number, job in enumerate(known)}
        numbered = {numbers.setdefault(frozenset(job), len(numbers)): list(job) for job in jobs}
        known += [job for number, job in numbered.items() if number >= len(known)]
        write_json(self.folder / SWEEP, {"commands": commands, "jobs": known})
        return numbered

    def _composes(self, number: int, job: list[str]) -> bool:
        try:
            understand_groups(job)
            # Its paths are left to the job, which may run on another machine.
            check(self.config.hydra.job.name, self.hydra_context.config_loader.load_sweep_config(self.config, job))
        except (InputError, HydraException) as error:
            name = self.config.hydra.job.name
            words = (str(error) if isinstance(error, InputError) else reason_of(error, name, job)).split()
            folder = self.folder / str(number)
            start_status(folder)
            fail_status(folder, " ".join(words))
            return False
        return True

    def _report(self, numbered: dict[int, list[str]]) -> bool:
        """Print and write the table; whether all jobs are finished."""
        runs = [read_run(self.folder / str(n), job) for n, job in enumerate(read_json(self.folder / SWEEP)["jobs"])]
        write_csv(runs, self.folder / "sweep.csv")
        width = shutil.get_terminal_size((120, 24)).columns
        if self.ladder is None:
            print(f"\n{table(runs, width)}")
        else:
            self._report_ladder([runs[number] for number in numbered], width)
        print(f"table: {self.folder / 'sweep.csv'}", flush=True)
        return all(runs[number].finished for number in numbered)

    def _report_ladder(self, runs: Sequence[Run], width: int) -> None:
        print(f"\n{grouped_table(runs, 'label', width)}")
        if names := metric_names(runs):
            from centernet.visualize import plot_groups

            values = results_by(runs, "label", names[0])
            plot_groups(values, compared_with(values), names[0], self.folder / "ladder.png")
            print(f"plot: {self.folder / 'ladder.png'}")


def job_words(overrides: Sequence[str]) -> list[str]:
    """The overrides of a job. A preset that describes the sweep is none of them; what it chooses of groups is, before
    what the command line says."""
    chosen, others = [], []
    for override in overrides:
        group, _, option = override.partition("=")
        if group == "experiment" and option in options(group) and is_sweep(option):
            chosen += [f"{other}={name}" for other, name in read_choice(group, option).chooses.items()]
        else:
            others.append(override)
    return [*chosen, *others]


def identity(config: DictConfig) -> list[str]:
    """What makes two sweeps the same: the command and its overrides in any order, Hydra's own left out."""
    return [config.hydra.job.name, *config_words(), *sorted(config.hydra.overrides.task)]


def find_folder(config: DictConfig) -> tuple[Path, bool]:
    """The folder of a sweep, and whether it has been started there: the given one, else the newest of the same sweep,
    else a new one."""
    if any(override.startswith("hydra.sweep.dir=") for override in config.hydra.overrides.hydra):
        folder = Path(config.hydra.sweep.dir)
        return folder, (folder / SWEEP).is_file()
    for path in sorted(Path(config.paths.runs, "sweep").glob(f"*/{SWEEP}"), reverse=True):
        if identity(config) in read_json(path).get("commands", []):
            return path.parent, True
    return Path(config.hydra.sweep.dir), False  # which creates it


def config_words() -> list[str]:
    """Hydra's options of the command line that name other configuration files."""
    taken = []
    for word, after in itertools.pairwise([*sys.argv[1:], ""]):
        if word.partition("=")[0] in WITH_VALUE:
            taken += [word] if "=" in word else [word, after]
    return taken


def command_words() -> list[str]:
    """The beginning of the command that runs a single job."""
    return [sys.executable, os.path.abspath(sys.argv[0]), *config_words()]


def run_job(command: Sequence[str]) -> float | None:
    """Run a job of a sweep as a process and wait for it; returns the value of its metric, which a sweeper compares.

    ``command``: see ``command_words``. A job without an earlier end continues from its last checkpoint.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if (lock := take(folder)) is None:
        print(f"{folder} is in use by another process; it is left out here", flush=True)
        return None
    start_status(folder)
    options = [o for o in hydra.overrides.hydra if not o.lstrip("+~").startswith(OF_SWEEP)]
    # The mode, as a configuration file may choose another one for the whole sweep.
    own = [f"hydra.run.dir={quote(folder)}", "hydra.mode=RUN"]
    words = [*command, *continued(folder, hydra.overrides.task), *options, *own]
    devices, locks = share_devices(folder.parent, hydra)
    # A session of its own: Ctrl-C reaches it once, from here. Locks last as long as the job, even without this process.
    process = subprocess.Popen(words, start_new_session=True, env={**os.environ, **devices}, pass_fds=[lock, *locks])
    try:
        code = process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise
    finally:
        for file in (lock, *locks):
            os.close(file)
    if code not in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM):  # one that was told to stop is unfinished
        fail_status(folder, how_it_ended(code))
    return read_run(folder).value


def continued(folder: Path, overrides: Sequence[str]) -> list[str]:
    """Overrides that continue from the newest checkpoint in a run folder, if there is one."""
    if not any(folder.glob("*.ckpt")):
        return list(overrides)
    return [*(o for o in overrides if not o.startswith("ckpt=")), "ckpt=auto"]


def how_it_ended(code: int) -> str:
    """A reason for a process that left none, from its exit status."""
    if code > 0:
        return f"the process ended with exit status {code}; see its output"
    memory = "; perhaps memory ran out" if -code == signal.SIGKILL else ""
    return f"the process was ended by {signal.Signals(-code).name}{memory}"


def share_devices(sweep: Path, hydra: DictConfig) -> tuple[dict[str, str], list[int]]:
    """The environment that gives a job of joblib one of several CUDA devices, and the lock on it."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(devices) < 2 or "joblib" not in hydra.launcher._target_:
        return {}, []
    for device in devices:
        (place := sweep / f".device-{device}").mkdir(exist_ok=True)
        if (lock := take(place)) is not None:
            return {"CUDA_VISIBLE_DEVICES": device}, [lock]
    return {"CUDA_VISIBLE_DEVICES": devices[hydra.job.num % len(devices)]}, []  # more jobs at once than devices


def take(folder: Path) -> int | None:
    """Lock a folder; returns the open file that holds the lock, None if another process has it."""
    import fcntl

    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:  # a file system without locks
        pass
    return file


def quote(path: Path) -> str:
    """A path as a value of Hydra's grammar, whatever it contains."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
