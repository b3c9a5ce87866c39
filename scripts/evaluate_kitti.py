"""Evaluate KITTI result files: `python scripts/evaluate_kitti.py LABELS RESULTS [--overlap relaxed] [--json FILE]`.

Both are folders of files such as 000012.txt; RESULTS may also be the folder that holds `data/`. Frames with a result
file are evaluated, an empty one included. Prints AP and AOS as the benchmark's offline tool computes them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from centernet.command import run_command
from centernet.data.kitti_format import TYPES, Labels, objects_of, read_labels
from centernet.fields import stack_objects
from centernet.folders import require_writable_file
from centernet.metrics.kitti import PROTOCOLS, KittiAP
from centernet.metrics.rows import percent, with_objects
from centernet.structures import Detections, InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", type=Path, help="training/label_2")
    parser.add_argument("results", type=Path, help="the folder of result files, or the one that holds data/")
    parser.add_argument(
        "--overlap",
        choices=PROTOCOLS,
        default="official",
        help="IoU that counts as found in bird's-eye view and 3D: 0.7 (cars), 0.5 (others); relaxed: 0.5, 0.25",
    )
    parser.add_argument("--classes", nargs="+", default=["Car", "Pedestrian", "Cyclist"], metavar="CLASS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers (0 .. 1) to this file")
    args = parser.parse_args()
    run(args)


def run(args: argparse.Namespace) -> None:
    """Read, evaluate, print, write."""
    if args.json:
        require_writable_file(args.json, "--json")
    class_names = known_types(args.classes)
    frames = find_frames(args.labels, args.results)
    metric = KittiAP(class_names, args.overlap)
    for number, (label_file, result_file) in enumerate(frames.values()):
        found = detections_of(read_labels(result_file, with_scores=True), class_names)
        fields = objects_of(read_labels(label_file), class_names)
        truth = stack_objects([{name: torch.from_numpy(value) for name, value in fields.items()}])
        metric.update(found, truth, torch.tensor([number]))
    results = metric.compute()
    labeled = len(list(args.labels.glob("*.txt")))
    print(f"{len(frames)} of {labeled} labeled frames, those with a file in {args.results}; overlap {args.overlap}")
    if len(frames) < labeled:
        print("note: frames without detections need an empty file, otherwise their objects are not counted")
    print()
    print(metric.table(results))
    print(f"\n{'moderate, 40 points':<24}{'objects':>10}{'2D':>10}{'AOS':>10}{'BEV':>10}{'3D':>10}")
    for name, row in with_objects(metric.per_class).items():
        print(f"{name:<24}{row['objects']:>10}" + "".join(percent(row[m]) for m in ("2D", "AOS", "BEV", "3D")))
    summary = "".join(percent(float(results[name])) for name in ("AP_2d", "AOS", "AP_bev", "AP_3d"))
    print(f"{'mean':<34}{summary}")
    if args.json:
        numbers = {name: _plain(float(value)) for name, value in results.items()}
        classes = {name: {key: _plain(v) for key, v in row.items()} for name, row in metric.per_class.items()}
        content = {"frames": len(frames), "overlap": args.overlap, "results": numbers, "per_class": classes}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1))


def known_types(names: Sequence[str]) -> list[str]:
    """The names as KITTI writes them. Raises ``InputError`` for unknown or repeated names."""
    types = {name.lower(): name for name in TYPES}
    for name in names:
        if name.lower() not in types:
            raise InputError(f"--classes {name} is not a KITTI type; choose from {', '.join(TYPES)}")
        if [other.lower() for other in names].count(name.lower()) > 1:
            raise InputError(f"--classes {name} appears twice; give every class once")
    return [types[name.lower()] for name in names]


def find_frames(labels: Path, results: Path) -> dict[str, tuple[Path, Path]]:
    """Label and result file of every frame that has a result file. Raises ``InputError`` if there are none."""
    for folder, what in ((labels, "labels"), (results, "results")):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give the folder that holds the {what}, 000000.txt and so on")
    places = [place for place in (results, results / "data") if place.is_dir()]
    found = next((files for place in places if (files := _numbered(place))), {})
    if not found:
        raise InputError(f"{results} has no result files such as 000012.txt, directly or in data/; give their folder")
    known = _numbered(labels)
    if missing := sorted(found.keys() - known.keys()):
        names = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise InputError(f"{labels} has no label for {len(missing)} of {len(found)} frames with results: {names}")
    return {frame: (known[frame], path) for frame, path in found.items()}


def _numbered(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.txt")) if path.stem.isascii() and path.stem.isdigit()}


def detections_of(rows: Labels, class_names: Sequence[str]) -> Detections:
    """The rows of a result file as a batch of one image; types that are not classes get the label -1."""
    label_of = {name.lower(): label for label, name in enumerate(class_names)}
    fields = ("boxes", "scores", "alpha", "dimensions", "location", "yaw")
    labels = torch.tensor([label_of.get(name.lower(), -1) for name in rows.types], dtype=torch.long)
    return {"labels": labels[None], **{name: torch.from_numpy(getattr(rows, name))[None] for name in fields}}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


if __name__ == "__main__":
    run_command(main)
