"""A training that continues another one: it takes the settings of that run, and says what differs.

``python train.py ckpt=RUN`` is the whole command: the words of the run that wrote the checkpoint come before those that
are given now. They are recorded in the run folder, and in the checkpoint for one that was moved. Plain Python, as it
runs before anything heavy is imported (except for a checkpoint that was moved).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from centernet.choices import defaults, groups, options, read_choice
from centernet.errors import BAD_INPUT, InputError
from centernet.folders import RECORD, overrides_of, require_file
from centernet.runs import STATUS

# What belongs to one run only: where it is, what it is called, how far it goes, what it started from.
OF_A_RUN = ("ckpt", "label", "paths.run", "trainer.max_epochs", "trainer.max_steps")
# Nodes that repeat others or say nothing of the training; a changed schedule is told when it takes effect (`resume`).
UNTOLD = (
    "paths",
    "recipe",
    "schedule",
    "logger",
    "data.resolution",
    "data.augment",
    "data.seed",
    *OF_A_RUN,
    "evaluate",
)
# A group that sets more than its own node.
SETS_ALSO = {"task": ("metric",), "data": ("recipe",)}
TOLD = 8  # differences on a line
NO_CHECKPOINT = "no checkpoint given; set ckpt=RUN/best.ckpt"


def key_of(word: str) -> str:
    """The key of an override."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def value_of(words: Sequence[str], key: str) -> str | None:
    """The last value of a key among the words of a command, None without one."""
    found = [word.partition("=")[2].strip().strip("'\"") for word in words if key_of(word) == key and "=" in word]
    return found[-1] if found and found[-1] not in ("", "null") else None


def is_several(value: str) -> bool:
    """Whether a value is a list of a sweep, whose jobs look after themselves, and not a path with a comma."""
    return "," in value and not Path(value).exists()


def require_checkpoint(command: str, ckpt: Any) -> None:
    """Raise ``InputError`` unless ``ckpt=`` of a command (train, eval) names something that may be a checkpoint."""
    if command == "eval" and ckpt in (None, ""):
        raise InputError(NO_CHECKPOINT)
    if not isinstance(ckpt, str) or (command == "train" and (ckpt == "auto" or Path(ckpt).is_dir())):
        return
    if Path(ckpt).is_dir():
        raise InputError(f"ckpt={ckpt} is a folder; give a file in it, such as ckpt={Path(ckpt) / 'best.ckpt'}")
    require_file(ckpt, f"{ckpt}: the file does not exist; give a checkpoint")


def continued_words(words: Sequence[str]) -> tuple[list[str], str]:
    """The words of a training with those of the run that it continues (``ckpt=FILE`` or ``ckpt=FOLDER``), and a note
    on these."""
    ckpt = value_of(words, "ckpt")
    if ckpt in (None, "auto") or is_several(ckpt):
        return list(words), ""
    require_checkpoint("train", ckpt)
    taken = taken_words(recorded_words(Path(ckpt)), words)
    if not taken:
        return list(words), ""
    first = next(n for n, word in enumerate(words) if key_of(word) == "ckpt")
    shown = " ".join(taken)
    return [*words[:first], *taken, *words[first:]], f"{ckpt} brings its settings: {shown}"


_kept: dict[Path, bytes | None] = {}  # files that a refusal restores; None: there was none


@contextmanager
def kept_record(words: Sequence[str]) -> Iterator[None]:
    """A run folder (``ckpt=FOLDER``) keeps what it records of its run, the words and how it ended, if what is said now
    is refused before ``training_begins``: Hydra writes the words before anything is known to fit."""
    ckpt = value_of(words, "ckpt")
    if ckpt is not None and (folder := Path(ckpt)).is_dir():
        paths = (folder / RECORD, folder / STATUS)
        _kept.update({path: path.read_bytes() if path.is_file() else None for path in paths})
    try:
        yield
    except SystemExit as stop:
        for path, content in _kept.items() if stop.code == BAD_INPUT else ():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        raise
    finally:
        _kept.clear()


def training_begins() -> None:
    """What a run folder records is from now on about the run that continues there."""
    _kept.clear()


def recorded_words(ckpt: Path) -> list[str]:
    """The overrides of the run that wrote a checkpoint, none if they are not known."""
    if (found := overrides_of(ckpt if ckpt.is_dir() else ckpt.parent)) is not None or ckpt.is_dir():
        return found or []
    from centernet.checkpoint import KEY, read_checkpoint

    return read_checkpoint(ckpt)[KEY].get("overrides") or []


def taken_words(recorded: Sequence[str], said: Sequence[str]) -> list[str]:
    """Those of the recorded overrides that what is said now leaves as they are."""
    keys = {key_of(word) for word in said if "=" in word or word.startswith("~")}
    before = _choices(recorded)
    changed = [
        node
        for word in said
        if (group := key_of(word)) in groups() and before.get(group) != word.partition("=")[2]
        for node in (group, *SETS_ALSO.get(group, ()))
    ]
    return [
        word
        for word in recorded
        if (key := key_of(word)) not in keys and key not in OF_A_RUN and key.partition(".")[0] not in changed
    ]


def _choices(words: Sequence[str]) -> dict[str, str]:
    """The options of all groups that a training has chosen."""
    said = {group: word.partition("=")[2] for word in words if (group := key_of(word)) in groups()}
    preset = said.get("experiment")
    chosen = read_choice("experiment", preset).chooses if preset in options("experiment") else {}
    return {**{default.group: default.option for default in defaults("train")}, **chosen, **said}


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """What a run's plain configuration has other than that of the checkpoint, on one line; empty if nothing."""
    found = [f"{key} {_show(old)} -> {_show(new)}" for key, old, new in _changes(theirs, mine, "")]
    more = f", and {len(found) - TOLD} more" if len(found) > TOLD else ""
    return ", ".join(found[:TOLD]) + more


def _changes(theirs: Mapping[str, Any], mine: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key in mine:
        name = f"{prefix}{key}"
        if key not in theirs or name in UNTOLD or key in ("folder", "filename"):
            continue
        if isinstance(mine[key], Mapping) and isinstance(theirs[key], Mapping):
            yield from _changes(theirs[key], mine[key], f"{name}.")
        elif mine[key] != theirs[key]:
            yield name, theirs[key], mine[key]


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value).replace(" ", "")


def require_more_to_train(path: Path, content: Mapping[str, Any], cfg: Mapping[str, Any], is_auto: bool) -> str:
    """Raise ``InputError`` if a checkpoint is already trained as far as this run goes.

    ``content``: of the checkpoint; ``cfg``: the plain configuration. ``is_auto``: a command that is repeated until it
    ends well (``ckpt=auto``) may come again; then the sentence is returned, else an empty one.
    """
    limits, loops = cfg["trainer"], content["loops"]["fit_loop"]
    epochs, steps = loops["epoch_progress"]["current"]["processed"], content["global_step"]
    most_epochs, most_steps = limits.get("max_epochs"), limits.get("max_steps", -1)
    if limits.get("max_time") is not None:
        if (content.get("callbacks") or {}).get("TimeBudget", {}).get("progress", 0) < 1:
            return ""
        sentence = f"already trained for all of its time; train its weights on with pretrained={path} in place of ckpt"
        is_past = False
    elif isinstance(most_epochs, int) and 0 < most_epochs <= epochs:
        key = "schedule.epochs" if most_epochs == cfg["schedule"]["epochs"] else "trainer.max_epochs"
        sentence = f"already trained {epochs} epoch{'s' * (epochs > 1)}; raise {key}, which is {most_epochs}"
        is_past = epochs > most_epochs
    elif 0 < most_steps <= steps:
        sentence = f"already trained {steps} step{'s' * (steps > 1)}; raise trainer.max_steps, which is {most_steps}"
        is_past = False
    else:
        return ""
    if is_auto and not is_past:
        return sentence
    raise InputError(f"{path}: {sentence}")
