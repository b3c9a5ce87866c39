"""The errors that are meant for the user. Imports nothing, so that a command can complain at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong. The message is one sentence: what, where, what to do."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the images of the batch."""


def did_you_mean(word: str, known: Iterable[str], most: int = 3) -> str:
    """What to do about an unknown word: the known ones that are spelled alike, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=most, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known)}"
