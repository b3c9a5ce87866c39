"""Errors meant for users, and suggestions for misspelled words. Imports nothing heavy, so commands respond at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

BAD_INPUT = 2
"""Exit status of a command that was given bad input."""


class InputError(ValueError):
    """Invalid input. The message is one sentence: what is wrong, where, what to do."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the images of the batch."""


def some(names: Iterable[object], most: int = 5) -> str:
    """The first few of many names, for a message."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def did_you_mean(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """The end of a message about an unknown word: the closest known words, or all of them.

    ``otherwise`` replaces the list of all words, if that would be too long to read.
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return otherwise or f"choose one of {', '.join(known)}"


def propose(key: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown dotted key: keys of this name elsewhere, the closest ones, or its
    neighbors. ``known``: all dotted keys."""
    above, _, last = key.rpartition(".")
    ends: dict[str, list[str]] = {}
    for name in known:
        last_of = name.rpartition(".")[2]
        if name != key and not name.startswith(("recipe.", "tune.")) and last_of != "_target_":  # never what is meant
            ends.setdefault(last_of, []).append(name)
    if last in ends:
        return f"did you mean {', '.join(ends[last][:3])}?"
    beside = [name for names in ends.values() for name in names if above and name.rpartition(".")[0] == above]
    pool = {name.rpartition(".")[2]: [name] for name in beside} or ends
    if close := difflib.get_close_matches(last, pool, n=3, cutoff=0.6):
        return f"did you mean {', '.join(name for end in close for name in pool[end][:1])}?"
    if beside:
        return f"{above} has {', '.join(name.rpartition('.')[2] for name in beside)}"
    return "--help lists what can be set"
