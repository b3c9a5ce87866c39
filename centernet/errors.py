"""The errors that are meant for the user. Imports nothing, so that a command can complain at once."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is wrong. The message is one sentence: what, where, what to do."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the images of the batch."""
