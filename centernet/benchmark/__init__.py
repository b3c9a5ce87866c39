"""Measuring speed and memory: the parts of `scripts/benchmark.py`, what they write, and its comparison."""
