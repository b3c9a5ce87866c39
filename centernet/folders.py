"""Run folders: a new one for every run, the old one for a run that continues, none for helper processes. Also whether
files and folders are there and can be written.

Plain Python, as it runs before anything heavy is imported.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from centernet.errors import InputError

STAMP = "CENTERNET_RUN_STAMP"
"""Environment variable with the name of the next run folder, in place of the time."""
RECORD = Path(".hydra", "overrides.yaml")
"""Where a run folder records the overrides of its run."""
# Of torchrun, Slurm's srun, and Lightning's own launcher on one node and on several.
_RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def is_first_process() -> bool:
    """False in a process that another launcher or Lightning started beside the first one of a run."""
    return not any(int(os.environ.get(name) or 0) for name in _RANKS)


def run_folder(parent: str, chosen: str | None, ckpt: str | None, overrides: Sequence[str]) -> str:
    """The folder of a run, created if it is new.

    ``chosen`` by the user; else the folder that ``ckpt`` names; else, for ``ckpt=auto``, the newest one below
    ``parent`` of a run with the same ``overrides`` that has a checkpoint; else a new one, named by the time. Processes
    beside the first one get a temporary folder, as they write nothing that is kept.
    """
    if not is_first_process():
        return _scratch()
    if chosen:
        return chosen
    if ckpt and Path(ckpt).is_dir():
        return ckpt
    return str((same_run(parent, overrides) if ckpt == "auto" else None) or claim(Path(parent)))


def is_on_other_node() -> bool:
    """True in the processes of Lightning's own launcher on another node than the first; they do not know the first's
    run folder."""
    return int(os.environ.get("NODE_RANK") or 0) > 0 and "RANK" not in os.environ


def continued_folder(parent: str, chosen: str | None, overrides: Sequence[str]) -> str | None:
    """The folder that ``run_folder`` gives to the first process for ``ckpt=auto``; None if it holds no checkpoint."""
    found = Path(chosen) if chosen else same_run(parent, overrides)
    return str(found) if found is not None and any(found.glob("*.ckpt")) else None


def claim(parent: Path) -> Path:
    """Create a new folder below ``parent``, named by the time; no two processes get the same one."""
    stamp = os.environ.get(STAMP) or time.strftime("%Y-%m-%d_%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    name, count = stamp, 1
    while True:
        try:
            (parent / name).mkdir()
        except FileExistsError:
            count += 1
            name = f"{stamp}_{count}"
        else:
            return parent / name


def same_run(parent: str | Path, overrides: Sequence[str]) -> Path | None:
    """The newest folder below ``parent`` with a checkpoint of a run with the same overrides, apart from ``ckpt``."""
    wanted = _settings(overrides)
    found = [
        folder
        for folder in Path(parent).glob("*")
        if any(folder.glob("*.ckpt")) and (theirs := overrides_of(folder)) is not None and _settings(theirs) == wanted
    ]
    return max(found, key=lambda folder: (folder.stat().st_mtime, folder.name), default=None)


def overrides_of(folder: Path) -> list[str] | None:
    """The overrides that a run was started with; None if they are not recorded."""
    try:
        return list(yaml.safe_load((folder / RECORD).read_text()))
    except (OSError, yaml.YAMLError, TypeError):
        return None


def _settings(overrides: Sequence[str]) -> list[str]:
    return sorted(override for override in overrides if override.partition("=")[0] not in ("ckpt", "paths.run"))


def _scratch() -> str:
    folder = tempfile.mkdtemp(prefix="centernet-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# Paths that a user gives.


def require_file(path: str | Path, message: str) -> None:
    """Raise ``InputError`` with this message unless the path is a file."""
    if not Path(path).is_file():
        raise InputError(message)


def require_folder(path: str | Path, message: str) -> None:
    """Raise ``InputError`` with this message unless the path is a folder."""
    if not Path(path).is_dir():
        raise InputError(message)


def require_writable(folder: str | Path, option: str) -> None:
    """Raise ``InputError`` unless files can be written into a folder, which need not exist yet. ``option`` chooses
    it. Leaves nothing behind."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{option}={folder} cannot be used: {existing} is a file; choose a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"{option}={folder} cannot be used: nothing can be written into {existing} ({error.strerror}); choose "
            "another folder"
        ) from None


def require_writable_file(path: str | Path, option: str) -> None:
    """Raise ``InputError`` unless this file can be written. ``option`` chooses it. Leaves nothing behind."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{option}={path} is a folder; give the name of a file")
    require_writable(path.parent, option)
