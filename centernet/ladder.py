"""The ablation ladder: which runs it has, and which one each is compared with. Plain data in and out.

One ingredient after the other is added to a starting point (the rungs). From the last rung, each ingredient alone is
then left out, and single variants are tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from centernet.errors import InputError, did_you_mean

START, ADD, WITHOUT, WITH = "start", "add_", "without_", "with_"
OPTION = "hydra.sweeper.ladder"
FORM = "{start: [KEY=VALUE, ...], steps: {NAME: [...]}, variants: {NAME: [...]}}"


def ladder_jobs(ladder: Mapping[str, Any], given: Sequence[str] = ()) -> dict[str, list[str]]:
    """The overrides of each run of a ladder, by its label: ``start``, ``add_STEP`` (this step and those before it),
    ``without_STEP`` (all others), ``with_VARIANT`` (all steps and the variant).

    ``ladder``: ``{start: [overrides], steps: {name: [overrides]}, variants: {name: [overrides]}}``. ``given``:
    overrides of all runs. Of several overrides of one key the last one counts: of ``start``, the steps, the variant,
    ``given``. A run that is then equal to an earlier one is left out, such as the one without the last step, which is
    the rung before.

    Raises ``InputError`` for another form of ``ladder``.
    """
    start, steps, variants = _parts(ladder)
    runs = {START: [start]}
    for number, name in enumerate(steps, 1):
        runs[ADD + name] = [start, *list(steps.values())[:number]]
    for name in steps:
        runs[WITHOUT + name] = [start, *(added for other, added in steps.items() if other != name)]
    for name, added in variants.items():
        runs[WITH + name] = [start, *steps.values(), added]
    jobs: dict[str, list[str]] = {}
    seen: set[frozenset[str]] = set()
    for label, parts in runs.items():
        job = {override.partition("=")[0].lstrip("+~"): override for part in [*parts, given] for override in part}
        job.pop("label", None)
        if (content := frozenset(job.values())) not in seen:
            seen.add(content)
            jobs[label] = [f"label={label}", *job.values()]
    return jobs


def _parts(ladder: Mapping[str, Any]) -> tuple[list[str], dict[str, list[str]], dict[str, list[str]]]:
    if not isinstance(ladder, Mapping):
        raise InputError(f"{OPTION}={ladder!r} is not a ladder; give {FORM}")
    known = ("start", "steps", "variants")
    if unknown := [key for key in ladder if key not in known]:
        raise InputError(f"unknown key {unknown[0]!r} in {OPTION}; {did_you_mean(str(unknown[0]), known)}")
    start, steps, variants = (ladder.get(key) for key in known)
    if not steps:
        raise InputError(f"{OPTION}.steps is empty, so there is nothing to compare; give {FORM}")
    for key, named in (("steps", steps), ("variants", variants or {})):
        if not isinstance(named, Mapping):
            raise InputError(f"{OPTION}.{key} gives no names; give {FORM}")
        for name, overrides in named.items():
            _check(f"{key}.{name}", overrides)
    if start:
        _check("start", start)
    return start or [], steps, variants or {}


def _check(key: str, overrides: Any) -> None:
    if not (isinstance(overrides, list) and overrides and all(isinstance(word, str) for word in overrides)):
        raise InputError(f"{OPTION}.{key}={overrides!r} is not a list of overrides, such as ['backbone=n']")


def compared_with(names: Iterable[str]) -> dict[str, str]:
    """Which other one each of these names is compared with. Labels of a ladder: a rung with the one before it, others
    with the last rung. Any other names: with the first one."""
    names = list(names)
    rungs = [START if START in names else names[0], *(name for name in names if name.startswith(ADD))]
    pairs = dict(zip(rungs[1:], rungs, strict=False))
    for name in names:
        if name not in rungs:
            pairs[name] = rungs[-1] if name.startswith((WITHOUT, WITH)) else rungs[0]
    return pairs
