"""Detect and draw: `python scripts/demo.py CHECKPOINT IMAGE_OR_FOLDER [--out DIR] [--threshold 0.3]`.

Writes one picture per image and `detections.json`; prints the detections. A 3D model needs the camera: `--calib FILE`
(or a folder of files named as the images) or `--focal PIXELS`; KITTI's own `calib` folder is found automatically.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from centernet.command import hidden, imports, run_command
from centernet.errors import InputError
from centernet.folders import require_file, require_writable

if TYPE_CHECKING:
    import numpy as np

MODES = ("fit", "keep", "stretch", "width")  # of centernet.data.transforms, which takes seconds to import


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="RUN/best.ckpt")
    parser.add_argument("images", help="an image or a folder of images")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (default: runs/demo)")
    parser.add_argument("--threshold", type=float, help="minimum score to draw (default: the task's, mostly 0.3)")
    parser.add_argument(
        "--resolution", type=int, nargs=2, metavar=("H", "W"), help="input size; default: the training's"
    )
    parser.add_argument("--mode", choices=MODES, help="how images become inputs; default: the training's")
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda if available")
    parser.add_argument("--bit-depth", type=int, help="bits that 16-bit images use; default: the training's")
    parser.add_argument("--heatmap", action="store_true", help="also write the heatmaps over each image")
    parser.add_argument("--calib", type=Path, help="3D: KITTI calibration file, or a folder with one per image")
    parser.add_argument("--focal", type=float, help="3D without calibration: focal length in image pixels")
    args = parser.parse_args()
    check(args)
    run(args)


def check(args: argparse.Namespace) -> None:
    """Raise ``InputError`` for arguments that cannot work, before the imports that take seconds."""
    if not Path(args.images).exists():
        raise InputError(f"{args.images} does not exist; give an image file or a folder of images")
    require_file(args.checkpoint, f"{args.checkpoint}: the file does not exist; give a checkpoint")
    require_writable(args.out, "--out")
    if args.focal is not None and args.calib is not None:
        raise InputError("--calib and --focal both define the camera; give one of them")
    if args.focal is not None and not 0 < args.focal < float("inf"):
        raise InputError(f"--focal {args.focal:g} is not a focal length; give it in pixels of the image (KITTI: 721)")
    if args.calib is not None and not args.calib.exists():
        raise InputError(f"--calib {args.calib} does not exist; give a KITTI calibration file or a folder of them")


def run(args: argparse.Namespace) -> None:
    """Load, detect, draw, write."""
    with imports(), hidden("wandb"):
        from centernet.data.images import find_images, read_image
        from centernet.inference import Predictor
        from centernet.visualize import (
            Look,
            draw_objects,
            enlarge,
            overlay_heatmap,
            panel,
            save_image,
            views_from_above,
        )
    paths = find_images(args.images)
    device = None if args.device is None else usable_device(args.device)
    predictor = Predictor.from_checkpoint(args.checkpoint, args.resolution, args.mode, device, bit_depth=args.bit_depth)
    task = predictor.task
    if not task.IMAGE_FIELDS and (args.focal is not None or args.calib is not None):
        raise InputError(f"{args.checkpoint} does not predict 3D boxes; remove --calib and --focal")
    threshold = task.threshold if args.threshold is None else args.threshold
    root = Path(args.images) if Path(args.images).is_dir() else paths[0].parent
    found, failed, started = {}, 0, time.perf_counter()
    try:
        for path in paths:
            name = path.relative_to(root)
            try:
                image = read_image(path, bit_depth=predictor.bit_depth)
                fields = image_fields(task, path, args, image.shape[:2])
            except InputError as error:
                # One broken file must not stop the others; the exit code reports it.
                print(f"error: {error}", file=sys.stderr)
                failed += 1
                continue
            result = predictor(image, threshold, **fields)
            found[str(name)] = describe(result)
            big, factor = enlarge(image)
            rows = {field: value.numpy() for field, value in result.items() if field != "names"}
            look = Look(predictor.class_names, task.facts, fields)
            picture = draw_objects(big, rows, look, factor)
            if views := views_from_above(rows, look):
                picture = panel({str(name): picture, **views}, below=True)
            target = (args.out / name).with_suffix(".png")
            save_image(target, picture)
            if args.heatmap:
                for head in [head for head, about in task.heads.items() if about.is_heatmap]:
                    heatmap, matrix = predictor.heatmap(image, head)
                    over = overlay_heatmap(image, heatmap, matrix, task.stride)
                    save_image(target.with_name(f"{target.stem}_{head}.png"), over)
            counts = {label: result["names"].count(label) for label in dict.fromkeys(result["names"])}
            print(f"{name}: {', '.join(f'{n} {label}' for label, n in counts.items()) or 'nothing'}")
    finally:  # also what was found before Ctrl-C
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "detections.json").write_text(json.dumps(found, indent=1))
    seconds = time.perf_counter() - started
    print(f"{len(found)} images in {seconds:.1f} s; pictures and detections.json in {args.out}/")
    if failed:
        sys.exit(f"error: {failed} of {len(paths)} images failed, see above")


def usable_device(name: str) -> str:
    """The name, if torch knows this device and the machine has it; raises ``InputError`` otherwise."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        known = "cpu or cuda" if torch.cuda.is_available() else "cpu; no CUDA device is available"
        raise InputError(f"--device {name} is not a device of this machine; use {known}") from None
    return name


def image_fields(task: Any, path: Path, args: argparse.Namespace, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What the task needs to know of an image of ``size`` (height, width) besides its pixels."""
    if args.focal is not None:
        return {name: value.numpy() for name, value in task.image_fields({"focal": args.focal}, size).items()}
    from centernet.data.readers import IMAGE_READERS

    return {name: IMAGE_READERS[name](path, args.calib) for name in task.IMAGE_FIELDS}


def describe(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Detections of one image as plain rows: name, score, box, and what else the task finds."""
    more = [field for field in result if field not in ("boxes", "scores", "labels", "names")]
    values = {field: result[field].double().numpy().round(3).tolist() for field in more}
    rows = zip(result["names"], result["scores"].tolist(), result["boxes"].tolist(), strict=True)
    return [
        {
            "name": name,
            "score": round(score, 4),
            "box": [round(v, 1) for v in box],
            **{field: values[field][n] for field in more},
        }
        for n, (name, score, box) in enumerate(rows)
    ]


if __name__ == "__main__":
    run_command(main)
