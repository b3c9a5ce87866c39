"""Export a checkpoint: `python scripts/export.py CHECKPOINT --format onnx|openvino|torch|tensorrt|coreml|executorch`.

The file holds everything from pixels to detections: normalization, network, decoding, top-k; and what it is about:
classes, joints, how images become inputs (docs/export.md). It is run on real images and compared with PyTorch; a
difference is an error. For tensorrt, coreml and executorch the first file is made, and the command for the rest is
printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from centernet.command import hidden, imports, run_command
from centernet.errors import InputError
from centernet.folders import require_file, require_writable_file

if TYPE_CHECKING:
    import numpy as np

# As in centernet.export, which takes seconds to import.
FORMATS = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch": ".pt2",
    "tensorrt": ".onnx",
    "coreml": ".pt2",
    "executorch": ".pt2",
}
MOST_COMPARED, MOST_CALIBRATED = 8, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="RUN/best.ckpt")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to make")
    parser.add_argument("--out", type=Path, help="the file to write; default: beside the checkpoint")
    parser.add_argument(
        "--dynamic",
        choices=("none", "batch", "size", "both"),
        help="what may differ from call to call; default: batch, or both where images keep their size (test_mode=keep)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once, where that is fixed (default: 1)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="input size; default: the training's")
    parser.add_argument("--input", choices=("uint8", "float32"), help="type of the pixels, 0 .. 255; default: uint8")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="default: fp32")
    parser.add_argument("--calibrate", metavar="FOLDER", help="int8: images like those that will be seen, 100 or more")
    parser.add_argument(
        "--images", nargs="+", metavar="IMAGE", help="images or folders to compare on; default: of the training's data"
    )
    args = parser.parse_args()
    check(args)
    run(args)


def check(args: argparse.Namespace) -> None:
    """Raise ``InputError`` for arguments that cannot work, before the imports that take seconds; fill in the rest."""
    require_file(args.checkpoint, f"{args.checkpoint}: the file does not exist; give a checkpoint")
    suffix = FORMATS[args.format]
    if args.out is None:
        parts = [args.checkpoint.stem, *([args.format] if args.format in ("tensorrt", "coreml", "executorch") else [])]
        parts += [args.precision] if args.precision != "fp32" else []
        args.out = args.checkpoint.with_name("-".join(parts) + suffix)
    if args.out.suffix != suffix:
        raise InputError(f"--out {args.out} does not end as files of {args.format} do; name it *{suffix}")
    require_writable_file(args.out, "--out")
    if args.calibrate is not None and args.precision != "int8":
        raise InputError("--calibrate is for --precision int8; add that or remove --calibrate")
    if args.calibrate is None and args.precision == "int8":
        raise InputError(
            "--precision int8 needs images like those that will be seen; give a folder of a hundred or more with "
            "--calibrate"
        )
    if args.input is None:
        args.input = "float32" if args.format == "coreml" else "uint8"  # Core ML has no inputs of bytes


def run(args: argparse.Namespace) -> None:
    """Load, export, compare, print."""
    with imports(), hidden("wandb"):
        from centernet.checkpoint import USUAL_EVAL, load_detector
        from centernet.export.agreement import MismatchError
        from centernet.export.graph import Shape
        from centernet.export.make import check_request, export
        from centernet.export.samples import spread
    check_request(args.format, args.precision, args.dynamic or "batch", args.input)
    calibration = spread(args.calibrate, MOST_CALIBRATED) if args.calibrate else None
    given = [path for word in args.images or () for path in spread(word, MOST_COMPARED)]
    detector, description = load_detector(args.checkpoint)
    spec = description["eval"] or USUAL_EVAL
    dynamic = args.dynamic or ("both" if spec["mode"] == "keep" else "batch")
    shape = Shape(args.batch, tuple(args.size or spec["resolution"]), args.input, dynamic)
    images, about = (given, "given") if given else images_of(description)
    try:
        made = export(detector, description, args.format, args.out, shape, images, args.precision, calibration)
    except MismatchError as error:
        print(f"error: {error}; {args.out} is wrong, do not use it", file=sys.stderr)
        sys.exit(1)
    inputs = "x".join("?" if side is None else str(side) for side in shape.plain)
    files = [made.path, *([made.path.with_suffix(".bin")] if made.path.suffix == ".xml" else [])]
    size = sum(path.stat().st_size for path in files)
    print(f"wrote {made.path} ({size / 1e6:.1f} MB), {args.precision}, images {inputs} {shape.dtype} ({about} images)")
    print("\n".join(made.agreement.lines()))
    if made.rest:
        print(f"\nNot run here: the rest, {made.rest}")


def images_of(description: dict[str, Any]) -> tuple[list[Path | np.ndarray], str]:
    """Images to compare on, and where they are from: the validation images of the training's data, if they are at hand,
    else shapes drawn here."""
    import numpy as np

    from centernet.build import build_datamodule
    from centernet.data.builtin.shapes import draw_scene

    options = (description["config"] or {}).get("data")
    if options:
        try:
            data = build_datamodule({**options, "num_workers": 0, "batch_size": 1})
            data.prepare_data()
            data.setup("validate")
            dataset = data.datasets["val"]
            step = max(len(dataset) // MOST_COMPARED, 1)
            return [dataset.read(n) for n in range(0, len(dataset), step)][:MOST_COMPARED], "validation"
        except (InputError, OSError):
            pass  # the data is elsewhere
    rng = np.random.default_rng(0)
    return [draw_scene(rng)[0] for _ in range(MOST_COMPARED)], "drawn"


if __name__ == "__main__":
    run_command(main)
