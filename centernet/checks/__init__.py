"""Checks of a data set before a training: what would spoil it, and what to do about it."""
