"""Errors meant for users, and suggestions for misspelled words. Imports nothing heavy, so commands respond at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
