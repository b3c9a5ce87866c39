"""The errors that are meant for the user, and what they propose. Light, so that a command can answer at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong. The message is one sentence: what, where, what to do."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the images of the batch."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """The end of a message about an unknown word: the closest known words, or all of them.

    ``otherwise`` replaces the list of all words, for when it would be too long to read.
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return otherwise or f"choose one of {', '.join(known)}"
