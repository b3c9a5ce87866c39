"""Detect beside another detector: `python scripts/compare/yolo_speed.py --models yolo11n yolo26n --ours n --size 640`.

From image file to boxes, on a CPU: models of the package ultralytics, in every form that it exports for CPUs, and our
networks, each at the same input size, with the same cores, on the same images. All take turns, image by image, so that
they meet the same other load of the machine. Weights are random unless files are given (``--models my.pt``, ``--ours
best.ckpt``): theirs then find nothing and have nothing to suppress, ours decode 100 detections as ever.

Their package runs in an environment of its own (see `yolo.py`), in a process that answers one image at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo import environment, surroundings

from centernet.benchmark.record import Record, table
from centernet.command import run_command
from centernet.errors import InputError
from centernet.folders import require_writable_file
from centernet.machine import available_cores

FORMS = ("torch", "onnx", "openvino")
PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxslim"), "openvino": ("openvino",)}
# Run by the other environment's Python. Argument: a JSON object. Then a line for each question, and for each answer.
THEIRS = """
import json, sys, time
given = json.loads(sys.argv[1])
answers, sys.stdout = sys.stdout, sys.stderr
import torch
from ultralytics import YOLO
from ultralytics.utils import torch_utils
# Whenever it chooses a device, it sets torch's threads to this constant, whatever OMP_NUM_THREADS says.
torch_utils.NUM_THREADS = given["threads"]
torch.set_num_threads(given["threads"])
models, about = {}, {}
for name in given["models"]:
    plain = YOLO(name if name.endswith(".pt") else name + ".yaml")
    about[name] = sum(parameter.numel() for parameter in plain.model.parameters()) / 1e6
    for form in given["forms"]:
        if form == "torch":
            models[name, form] = YOLO(name if name.endswith(".pt") else name + ".yaml")
        else:
            exported = plain.export(format=form, imgsz=given["size"], batch=1, device="cpu", verbose=False)
            models[name, form] = YOLO(exported, task="detect")
print(json.dumps(about), file=answers, flush=True)
for line in sys.stdin:
    name, form, image = json.loads(line)
    started = time.perf_counter()
    (found,) = models[name, form].predict(image, imgsz=given["size"], rect=False, device="cpu", verbose=False)
    boxes = found.boxes.xyxy.numpy()
    whole = 1000 * (time.perf_counter() - started)
    parts = {"pre": found.speed["preprocess"], "network": found.speed["inference"], "post": found.speed["postprocess"]}
    print(json.dumps({"read": whole - sum(parts.values()), **parts}), file=answers, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolo11n", "yolo26n"], help="names, or files of weights (.pt)")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="of their models (default: all)")
    parser.add_argument("--ours", nargs="+", default=["n"], help="networks, checkpoints or exported files (default: n)")
    parser.add_argument(
        "--our-forms",
        nargs="+",
        default=["fused", "bf16", "onnx", "openvino", "openvino_fp16"],
        help="as for `benchmark.py detect --forms`",
    )
    parser.add_argument("--size", type=int, default=640, help="of the square input (default: 640)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="cores for each (default: all)")
    parser.add_argument("--images", metavar="PATH", help="an image or a folder (default: drawn ones of COCO's size)")
    parser.add_argument("--rounds", type=int, default=10, help="images that are timed (default: 10)")
    parser.add_argument("--warmup", type=int, default=2, help="images before them (default: 2)")
    parser.add_argument("--environment", type=Path, default=Path("runs/compare/environment"))
    parser.add_argument("--json", metavar="FILE", help="write the measurements to this file")
    args = parser.parse_args()
    most = available_cores()
    if not 1 <= args.threads <= most:
        raise InputError(f"--threads {args.threads} is not possible; this process may use 1 to {most} cores")
    if args.rounds < 1 or args.warmup < 0:
        raise InputError("--rounds must be at least 1, --warmup at least 0; give other numbers")
    if args.json:
        require_writable_file(args.json, "--json")
    compare(args)


def compare(args: argparse.Namespace) -> Record:
    """Measure, print, and write the record."""
    if hasattr(os, "sched_setaffinity"):  # every runtime, here and there, has these cores and no others
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    python = environment(args.environment, *itertools.chain(*(PACKAGES.get(form, ()) for form in args.forms)))
    settings = {key: value for key, value in vars(args).items() if key not in ("environment", "json")}
    record = Record("compare with YOLO", settings)
    with tempfile.TemporaryDirectory() as folder:
        files, runs = our_runs(args, Path(folder))
        with other_process(python, args, Path(folder)) as ask:
            about = ask(None)
            for name, form in itertools.product(args.models, args.forms):
                runs[name, form] = lambda file, name=name, form=form: ask([name, form, str(file)])
            taken: dict[tuple[str, str], list[dict[str, float]]] = {subject: [] for subject in runs}
            for turn, file in zip(range(args.warmup + args.rounds), itertools.cycle(files), strict=False):
                for subject, run in runs.items():
                    parts = run(file)
                    if turn >= args.warmup:
                        taken[subject].append(parts)
    for name, parameters in about.items():
        record.add({"network": name}, "parameters", "M", parameters, "neither")
    tell(record, taken)
    if args.json:
        record.write(args.json)
    return record


def our_runs(
    args: argparse.Namespace, folder: Path
) -> tuple[Sequence[Path], dict[tuple[str, str], Callable[[Path], dict[str, float]]]]:
    """The images, and what detects in one of them and returns milliseconds by part, for each of our forms."""
    import torch

    from centernet.benchmark.detect import Detected, build_run, export_files, find_files, find_subjects

    torch.set_num_threads(args.threads)
    given = Detected(args.ours, (args.size, args.size), forms=args.our_forms, images=args.images)
    subjects, files = find_subjects(given), find_files(given, folder)
    exports = export_files(given, subjects, files, folder)
    runs = {}
    for subject in subjects:
        built = build_run(given, *subject, 1, args.threads, exports.get((*subject, 1)))
        runs[subject] = lambda file, built=built: {part: 1000 * each for part, each in built([file]).items()}
    return files, runs


class other_process:
    """Their package, in its own environment, as a function from a question to its answer."""

    def __init__(self, python: str, args: argparse.Namespace, folder: Path) -> None:
        models = [str(Path(name).resolve()) if name.endswith(".pt") else name for name in args.models]
        given = {"models": models, "forms": args.forms, "size": args.size, "threads": args.threads}
        self.names = dict(zip(models, args.models, strict=True))
        self.process = subprocess.Popen(
            [python, "-c", THEIRS, json.dumps(given)],
            cwd=folder,
            env=surroundings(args.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Callable[[Any], dict[str, float]]:
        return self.ask

    def __exit__(self, *_: Any) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, question: Any) -> dict[str, float]:
        """The answer to a question; to None, what it says first: the millions of parameters of its models."""
        if question is not None:
            name, *rest = question
            real = next(real for real, told in self.names.items() if told == name)
            print(json.dumps([real, *rest]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise InputError(f"ultralytics ended with status {self.process.wait()}; its messages are above")
        answer = json.loads(line)
        return answer if question is not None else {self.names[name]: value for name, value in answer.items()}


def tell(record: Record, taken: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> None:
    """Add and print what was measured, the fastest first."""
    columns = ("read", "pre", "network", "decode", "post", "whole")
    lines = []
    for (name, form), rounds in taken.items():
        labels = {"network": name, "form": form}
        rows = {
            part: record.add_many({**labels, "part": part}, "time", "ms", [each[part] for each in rounds])
            for part in rounds[0]
        }
        rows["whole"] = record.add_many(
            {**labels, "part": "whole"}, "time", "ms", [sum(each.values()) for each in rounds]
        )
        shown = "".join(f"{rows[part].value:9.2f}" if part in rows else f"{'':>9}" for part in columns)
        lines.append((rows["whole"].value, f"{name:<24}{form:<16}{shown}"))
    print(f"{'median ms an image':<40}" + "".join(f"{part:>9}" for part in columns))
    print("\n".join(line for _, line in sorted(lines)))
    print(table([row for row in record.rows if row.labels.get("part") == "whole" or row.quantity == "parameters"]))


if __name__ == "__main__":
    run_command(main)
