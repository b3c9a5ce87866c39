"""Measure speed and memory: `python scripts/benchmark.py PART ...`, `... compare A.json B.json`.

Parts: data, encode, model, detect, decode, metric, train, gpu, networks, startup, kitti (``centernet/benchmark``).
`python scripts/benchmark.py PART --help` lists the options of a part.
"""

from __future__ import annotations

from centernet.benchmark.command import main
from centernet.command import run_command

if __name__ == "__main__":
    run_command(main)
