"""Examine the data before a training: `python scripts/check_data.py data=coco data.root=DIR`.

Options are those of train.py: what is checked depends on the input size and on the task. Says what would spoil a
training, what costs something, and what to do about it, worst first: box formats, empty and outside boxes, classes
without objects, objects below a cell, more objects than are detected, centers in one cell, unreadable, turned and
resized images, near-duplicates, and validation images that are in the training data, too. Writes the same as
`check.json` and as one page with plots and sample pictures, `check.html`.

Exit status: 0 if nothing is serious, 1 if something would spoil a training, 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from centernet.command import hidden, imports, run_command
from centernet.folders import require_writable

IMAGES = ("none", "sample", "all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="*", help="as for train.py: data=coco data.root=DIR task=ctdet resolution=512"
    )
    parser.add_argument(
        "--images",
        choices=IMAGES,
        default="sample",
        help="which images to open: none (annotations only), a sample of 1000 of each split (default), all",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/check"), help="folder of the page (default: runs/check)")
    args = parser.parse_intermixed_args()
    require_writable(str(args.out), "--out")
    with imports(), hidden("wandb"):
        from centernet.checks.doctor import examine
        from centernet.checks.findings import told
        from centernet.checks.page import write_page
    report = examine(args.overrides, args.images)
    print(report.summary, told(report.findings, report.fine), sep="\n\n")
    print(f"\nthe page: {write_page(args.out, report)}")
    sys.exit(1 if report.is_serious else 0)


if __name__ == "__main__":
    run_command(main)
