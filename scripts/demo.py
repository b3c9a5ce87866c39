"""Detect and draw: `python scripts/demo.py CHECKPOINT IMAGE_OR_FOLDER [--out DIR] [--threshold 0.3]`.

Writes one picture per image and `detections.json`; prints what was found. A 3D model needs the camera: `--calib FILE`
(or a folder of files named as the images) or `--focal PIXELS`; KITTI's own `calib` folder is found by itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from centernet.data.images import find_images, read_image
from centernet.data.kitti_format import read_calibration
from centernet.data.transforms import EVAL_MODES
from centernet.inference import Predictor
from centernet.ops.camera import camera_matrix
from centernet.structures import InputError
from centernet.visualize import (
    birds_eye_reach,
    draw_birds_eye,
    draw_objects,
    enlarge,
    overlay_heatmap,
    panel,
    save_image,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="RUN/best.ckpt")
    parser.add_argument("images", help="an image or a folder of images")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="where the pictures go (default: runs/demo)"
    )
    parser.add_argument("--threshold", type=float, help="smallest score that is drawn (default: 0.3; ddd_dle 0.15)")
    parser.add_argument(
        "--resolution", type=int, nargs=2, metavar=("H", "W"), help="input size; default: the training's"
    )
    parser.add_argument("--mode", choices=EVAL_MODES, help="how images become inputs; default: the training's")
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda where there is one")
    parser.add_argument("--heatmap", action="store_true", help="also write the heatmaps over each image")
    parser.add_argument("--calib", type=Path, help="3D: KITTI calibration file, or a folder with one per image")
    parser.add_argument("--focal", type=float, help="3D without calibration: focal length in image pixels")
    args = parser.parse_args()
    try:
        run(args)
    except InputError as error:
        sys.exit(f"error: {error}")


def run(args: argparse.Namespace) -> None:
    """Load, detect, draw, write."""
    paths = find_images(args.images)
    predictor = Predictor.from_checkpoint(args.checkpoint, args.resolution, args.mode, args.device)
    is_3d = "location" in predictor.detector.task.requires
    if args.focal is not None and args.calib is not None:
        raise InputError("--calib and --focal both say what the camera is; give one of them")
    if not is_3d and (args.focal is not None or args.calib is not None):
        raise InputError(f"{args.checkpoint} finds no 3D boxes, which --calib and --focal are for; leave them out")
    if args.focal is not None and not 0 < args.focal < float("inf"):
        raise InputError(f"--focal {args.focal:g} is no focal length; give it in pixels of the image (KITTI: 721)")
    threshold = predictor.detector.task.threshold if args.threshold is None else args.threshold
    root = Path(args.images) if Path(args.images).is_dir() else paths[0].parent
    found, failed, started = {}, 0, time.perf_counter()
    for path in paths:
        name = path.relative_to(root)
        try:
            image = read_image(path)
            calibration = find_calibration(path, args.calib) if is_3d and args.focal is None else None
        except InputError as error:
            # One broken file must not cost the work on the others; the exit code still tells.
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        if is_3d and calibration is None:
            calibration = camera_matrix(args.focal, image.shape[:2]).numpy()
        result = predictor(image, threshold, calibration)
        found[str(name)] = describe(result)
        big, factor = enlarge(image)
        rows = {field: value.numpy() for field, value in result.items() if field != "names"}
        picture = draw_objects(big, rows, predictor.class_names, predictor.joints, calibration, factor)
        if is_3d:
            views = {str(name): picture, "from above": draw_birds_eye(rows, birds_eye_reach(rows))}
            picture = panel(views, below=True)
        target = (args.out / name).with_suffix(".png")
        save_image(target, picture)
        if args.heatmap:
            for head in [head for head, about in predictor.detector.task.heads.items() if about.is_heatmap]:
                heatmap, matrix = predictor.heatmap(image, head)
                over = overlay_heatmap(image, heatmap, matrix, predictor.detector.task.stride)
                save_image(target.with_name(f"{target.stem}_{head}.png"), over)
        counts = {label: result["names"].count(label) for label in dict.fromkeys(result["names"])}
        print(f"{name}: {', '.join(f'{n} {label}' for label, n in counts.items()) or 'nothing'}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "detections.json").write_text(json.dumps(found, indent=1))
    seconds = time.perf_counter() - started
    print(f"{len(found)} images in {seconds:.1f} s; pictures and detections.json in {args.out}/")
    if failed:
        sys.exit(f"error: {failed} of {len(paths)} images were left out, for the reasons above")


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


def find_calibration(image: Path, given: Path | None) -> np.ndarray:
    """The camera matrix ``[3, 4]`` of an image: the given file, one in the given folder, or KITTI's place."""
    path = given or image.parent.parent / "calib"
    if path.is_dir():
        path = path / f"{image.stem}.txt"
    if given is None and not path.is_file():
        raise InputError(
            f"{image}: 3D boxes need the camera, and {path} does not exist; say --calib FILE, or --focal PIXELS"
        )
    return read_calibration(path)


if __name__ == "__main__":
    main()
