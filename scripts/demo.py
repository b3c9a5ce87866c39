"""Detect and draw: `python scripts/demo.py CHECKPOINT IMAGE_OR_FOLDER [--out DIR] [--threshold 0.3]`.

Writes one picture per image and `detections.json`; prints what was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from centernet.data.images import find_images, read_image
from centernet.inference import Predictor
from centernet.structures import InputError
from centernet.visualize import draw_boxes, enlarge, overlay_heatmap, save_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="RUN/best.ckpt")
    parser.add_argument("images", help="an image or a folder of images")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="where the pictures go (default: runs/demo)"
    )
    parser.add_argument("--threshold", type=float, default=0.3, help="smallest score that is drawn (default: 0.3)")
    parser.add_argument(
        "--resolution", type=int, nargs=2, metavar=("H", "W"), help="input size; default: the training's"
    )
    parser.add_argument(
        "--mode", choices=("fit", "keep", "stretch"), help="how images become inputs; default: the training's"
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda where there is one")
    parser.add_argument("--heatmap", action="store_true", help="also write the heatmap over each image")
    args = parser.parse_args()
    try:
        run(args)
    except InputError as error:
        sys.exit(f"error: {error}")


def run(args: argparse.Namespace) -> None:
    """Load, detect, draw, write."""
    paths = find_images(args.images)
    predictor = Predictor.from_checkpoint(args.checkpoint, args.resolution, args.mode, args.device)
    root = Path(args.images) if Path(args.images).is_dir() else paths[0].parent
    found, failed, started = {}, 0, time.perf_counter()
    for path in paths:
        name = path.relative_to(root)
        try:
            image = read_image(path)
        except InputError as error:
            # One broken file must not cost the work on the others; the exit code still tells.
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        result = predictor(image, args.threshold)
        found[str(name)] = [
            {"name": label, "score": round(score, 4), "box": [round(v, 1) for v in box]}
            for label, score, box in zip(
                result["names"], result["scores"].tolist(), result["boxes"].tolist(), strict=True
            )
        ]
        big, factor = enlarge(image)
        picture = draw_boxes(
            big,
            result["boxes"].numpy() * factor,
            result["labels"].tolist(),
            predictor.class_names,
            result["scores"].tolist(),
        )
        target = (args.out / name).with_suffix(".png")
        save_image(target, picture)
        if args.heatmap:
            heatmap, matrix = predictor.heatmap(image)
            save_image(target.with_name(f"{target.stem}_heatmap.png"), overlay_heatmap(image, heatmap, matrix))
        counts = {label: result["names"].count(label) for label in dict.fromkeys(result["names"])}
        print(f"{name}: {', '.join(f'{n} {label}' for label, n in counts.items()) or 'nothing'}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "detections.json").write_text(json.dumps(found, indent=1))
    seconds = time.perf_counter() - started
    print(f"{len(found)} images in {seconds:.1f} s; pictures and detections.json in {args.out}/")
    if failed:
        sys.exit(f"error: {failed} of {len(paths)} files could not be read")


if __name__ == "__main__":
    main()
