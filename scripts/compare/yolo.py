"""Train another detector for the same time: `python scripts/compare/yolo.py DATA --model yolo11n --minutes 5`.

Trains a model of the package ultralytics from random weights, with its own defaults, on the training split of a COCO
data set, and evaluates its best weights on the validation split by the same metric as `eval.py`. The time includes
everything but the environment and the conversion: imports, training, its validations, and the evaluation. It computes
with as many threads as the machine has cores, as `train.py` does (``--threads``); by itself it would use one thread
less than that, and one only until a device is chosen.

The package is licensed under the AGPL, so it is no dependency of this project: this script installs it into an
environment of its own (``--environment``), and nothing of it is imported here.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import torch

from centernet.data.coco import CocoDataModule, CocoDataset
from centernet.errors import InputError
from centernet.machine import available_cores
from centernet.metrics.coco import CocoAP
from centernet.ops.boxes import xywh_from_xyxy
from centernet.runs import share_lost, slowed_note

# Run by the other environment's Python. Arguments: a JSON object.
THEIRS = """
import json, sys, time
started = time.time()
given = json.loads(sys.argv[1])
import torch
from ultralytics import YOLO
from ultralytics.utils import torch_utils
# Whenever it chooses a device, it sets torch's threads to this constant, whatever OMP_NUM_THREADS says.
torch_utils.NUM_THREADS = given["threads"]
model = YOLO(given["model"] + ".yaml")
spent = time.time() - started
left = given["seconds"] - spent - given["reserve"]
model.train(
    data=given["data"], imgsz=given["resolution"], time=left / 3600, pretrained=False, device="cpu", seed=given["seed"],
    workers=1, project=given["folder"], name="run", exist_ok=True, plots=False, verbose=False,
)
best = YOLO(given["folder"] + "/run/weights/best.pt")
rows = []
for path in given["images"]:
    (found,) = best.predict(path, imgsz=given["resolution"], conf=0.001, max_det=100, device="cpu", verbose=False)
    rows.append([found.boxes.xyxy.tolist(), found.boxes.conf.tolist(), [int(c) for c in found.boxes.cls.tolist()]])
with open(given["folder"] + "/found.json", "w") as file:
    json.dump({"rows": rows, "seconds": time.time() - started, "threads": torch.get_num_threads()}, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a folder with COCO annotations, as for data.root")
    parser.add_argument("--model", default="yolo11n", help="such as yolo11n, yolo26n (default: yolo11n)")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--resolution", type=int, default=320, help="of the square input (default: 320)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=available_cores(), help="that compute (default: one per core)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--environment", type=Path, default=Path("runs/compare/environment"))
    args = parser.parse_args()
    try:
        compare(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def compare(args: argparse.Namespace) -> None:
    """Train, evaluate, print and write ``metrics.json``."""
    data = CocoDataModule(args.data, resolution=(64, 64))
    data.setup("fit")
    folder = (args.out / f"{args.model}_{args.minutes:g}min_{args.seed}").resolve()
    described = write_yolo(data, folder / "data")
    val = data.datasets["val"]
    task = {
        "model": args.model,
        "data": str(described),
        "images": [str(Path(file).resolve()) for file in val.files],
        "folder": str(folder),
        "seconds": 60 * args.minutes,
        "reserve": 0.05 * 60 * args.minutes,
        "resolution": args.resolution,
        "seed": args.seed,
        "threads": args.threads,
    }
    python = environment(args.environment)
    started = time.perf_counter()
    done = subprocess.run([python, "-c", THEIRS, json.dumps(task)], cwd=folder, env=surroundings(args.threads))
    if done.returncode:
        raise InputError(f"{args.model} ended with status {done.returncode}; its messages are above")
    seconds = time.perf_counter() - started
    metric = CocoAP(data.class_names)
    theirs = json.loads((folder / "found.json").read_text())
    for n, (boxes, scores, labels) in enumerate(theirs["rows"]):
        found = {
            "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(1, -1, 4),
            "scores": torch.tensor(scores)[None],
            "labels": torch.tensor(labels, dtype=torch.long)[None],
        }
        truth = {name: value[None] for name, value in val.objects(n).items()}
        truth["valid"] = torch.ones(truth["labels"].shape, dtype=torch.bool)
        metric.update(found, truth, val.ids[n : n + 1])
    results = {name: float(value) for name, value in metric.compute().items()}
    lost = share_lost(epochs(folder / "run" / "results.csv"))
    written = {"metrics": results, "seconds": seconds, "threads": theirs["threads"], "share_lost": lost}
    (folder / "metrics.json").write_text(json.dumps(written, indent=2))
    print(
        f"{args.model}: {seconds:.0f} s, {theirs['threads']} threads, "
        + ", ".join(f"{name} {results[name]:.3f}" for name in ("AP", "AP50", "AP75"))
    )
    if note := slowed_note({args.model: lost}):
        print(note)


def epochs(history: Path) -> list[float]:
    """Seconds of each epoch, its validation included, from the other package's record of the time since its start."""
    if not history.is_file():
        return []
    with open(history, newline="") as file:
        since = [float(row["time"]) for row in csv.DictReader(file, skipinitialspace=True)]
    return [after - before for before, after in itertools.pairwise([0.0, *since])]


def surroundings(threads: int) -> dict[str, str]:
    """Environment variables for the other package, which sets OMP_NUM_THREADS to 1 on import unless it is set."""
    return {**os.environ, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "OMP_NUM_THREADS": str(threads)}


def environment(folder: Path, *others: str) -> str:
    """The Python of an environment with the package, set up if it is not there, and with these other packages."""
    python = folder.resolve() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if is_new := not python.is_file():
        print(f"setting up {folder}")
        venv.create(folder, with_pip=True)
    missing = ["ultralytics"] if is_new else []
    for name in others:
        look = [str(python), "-c", f"import sys, importlib.util as u; sys.exit(u.find_spec({name!r}) is None)"]
        missing += [name] if subprocess.run(look).returncode else []
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *missing]
    if missing and subprocess.run(install).returncode:
        raise InputError(f"{', '.join(missing)} cannot be installed into {folder}; the message of pip is above")
    return str(python)


def write_yolo(data: CocoDataModule, folder: Path) -> Path:
    """The data in the other package's format: links to the images, a text file for each, and a description."""
    for split, dataset in data.datasets.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for n, file in enumerate(dataset.files.tolist()):
            source = Path(file).resolve()
            link = folder / "images" / split / source.name
            if not link.exists():
                link.symlink_to(source)
            (folder / "labels" / split / f"{source.stem}.txt").write_text(label_lines(dataset, n))
    names = "".join(f"  {n}: {json.dumps(name)}\n" for n, name in enumerate(data.class_names))
    described = folder / "data.yaml"
    described.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return described


def label_lines(dataset: CocoDataset, n: int) -> str:
    """Class, center and size of the objects of an image, in fractions of its sides; crowds are left out."""
    objects = dataset.objects(n)
    height, width = dataset.sizes[n].tolist()
    boxes = xywh_from_xyxy(objects["boxes"])[~objects["crowd"]]
    boxes[:, :2] += boxes[:, 2:] / 2
    boxes /= torch.tensor([width, height] * 2)
    labels = objects["labels"][~objects["crowd"]].tolist()
    lines = (
        f"{label} {' '.join(f'{value:.6f}' for value in box)}"
        for label, box in zip(labels, boxes.tolist(), strict=True)
    )
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
